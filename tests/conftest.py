"""What all tests share: instruments, the real recordings, and a wall around the network."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import an_instrument

from voltrade.model import Instrument, money

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def btcusdt() -> Instrument:
    return an_instrument()


@pytest.fixture(scope="session")
def ltcusdt() -> Instrument:
    return an_instrument("LTCUSDT", tick="0.01", min_notional=money(20))


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the real recordings, which are not part of the project."""
    shared = Path(os.environ.get("VOLTRADE_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no recordings in {shared / 'data'}; VOLTRADE_SHARED names their place")
    return shared / "data"


@pytest.fixture(autouse=True, scope="session")
def _only_loopback() -> Iterator[None]:
    """Refuse every connection of this process that leaves the machine: no test may ever reach an exchange."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        yield


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise PermissionError(f"tests must stay on this machine, was {address[0]}")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
