"""The engine's socket: whatever bytes a person's words have, the command is carried out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from voltrade.config import Config
from voltrade.control import Control
from voltrade.ctl import ask


def told(tmp_path: Path, *lines: bytes) -> tuple[list[tuple[str, str, bool]], list[dict[str, Any]]]:
    """Send lines to a control; return what it ordered and what it answered."""
    orders: list[tuple[str, str, bool]] = []

    async def tell() -> list[dict[str, Any]]:
        control = Control(Config(), lambda: {"state": "running"}, lambda *order: orders.append(order))
        path = await control.listen(tmp_path)
        reader, writer = await asyncio.open_unix_connection(path)
        answers = []
        for line in lines:
            writer.write(line + b"\n")
            answers.append(json.loads(await reader.readline()))
        writer.close()
        await writer.wait_closed()
        control.close()
        return answers

    return orders, asyncio.run(tell())


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        (b'"M\xfcller"', "M\\udcfcller"),  # Latin-1, as it is
        (b'"\xa1\xd2\xc3"', "\\udca1\\udcd2\\udcc3"),  # TIS-620
        (b'"M\\udcfcller"', "M\\udcfcller"),  # as `ctl` writes what it was given
        ('"พัก"'.encode(), "พัก"),
        (b"12", "12"),
    ],
)
@pytest.mark.parametrize("action", ["flatten", "halt", "pause", "reduce", "resume"])
def test_a_reason_may_have_any_bytes(tmp_path: Path, action: str, reason: bytes, kept: str) -> None:
    """Fault case F4: the command is what counts; of the reason is kept what can be."""
    orders, answers = told(tmp_path, b'{"op": "%s", "reason": %s}' % (action.encode(), reason))
    assert orders == [(action, kept, False)]
    assert answers == [{"state": "running"}]
    kept.encode()


def test_a_stop_may_have_any_bytes_too(tmp_path: Path) -> None:
    """Fault case F4, sibling: the command that ends the session."""
    orders, _ = told(tmp_path, b'{"op": "stop", "reason": "M\xfcller"}')
    assert orders == [("protect", "M\\udcfcller", True)]


def test_ctl_sends_what_it_was_given(tmp_path: Path) -> None:
    """Fault case F4: Python hands over bytes that are no UTF-8 as lone surrogates."""
    orders: list[tuple[str, str, bool]] = []

    async def tell() -> None:
        control = Control(Config(), lambda: {"state": "running"}, lambda *order: orders.append(order))
        path = await control.listen(tmp_path)
        (tmp_path / "run.json").write_text(json.dumps({"state": "running", "socket": str(path)}))
        await asyncio.to_thread(
            ask, tmp_path, {"op": "flatten", "reason": b"M\xfcller".decode(errors="surrogateescape")}
        )
        control.close()

    asyncio.run(tell())
    assert orders == [("flatten", "M\\udcfcller", False)]


@pytest.mark.parametrize("reason", ["x" * 70_000, "พัก" * 20_000])
def test_a_reason_may_have_any_length(tmp_path: Path, reason: str) -> None:
    """A line of more than 64 kB ended the connection, and nothing was carried out."""
    orders, _ = told(tmp_path, json.dumps({"op": "flatten", "reason": reason}).encode())
    assert orders == [("flatten", reason[:500], False)]
