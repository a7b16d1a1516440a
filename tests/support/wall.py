"""The wall around the network that all tests stand behind, and the processes that they start where it is asked for."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def guarded_connect(self: socket.socket, address: Any) -> None:
    _refuse_outside(self.family, address)
    connect(self, address)


def guarded_connect_ex(self: socket.socket, address: Any) -> int:
    _refuse_outside(self.family, address)
    return connect_ex(self, address)


def guarded_look_up(host: Any, *rest: Any, **options: Any) -> Any:
    _refuse_outside(socket.AF_INET, (host or "localhost",))
    return look_up(host, *rest, **options)


GUARDS = (
    (socket.socket, "connect", guarded_connect),
    (socket.socket, "connect_ex", guarded_connect_ex),
    (socket, "getaddrinfo", guarded_look_up),
)
"""Where, the name, and what refuses every connection and look-up that leaves the machine."""


def _refuse_outside(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise PermissionError(f"tests must stay on this machine, was {address[0]}")


def _is_local(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified
