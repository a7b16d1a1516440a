"""The check's own view of the wire: raw websockets whose frames keep the time of arrival, and a scrubbed record."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from voltrade.exchange.client import Exchanged, UsdmExchange


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of a websocket, and when it arrived, ms of the clock."""

    at: int
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its event type, such as `ORDER_TRADE_UPDATE`; empty for answers."""
        return str(self.body.get("e", ""))

    @property
    def order(self) -> dict[str, Any]:
        """The order of a user event; empty for other events."""
        found = self.body.get("o")
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """Client order id of the order of a user event."""
        return str(self.order.get("c") or self.order.get("caid") or "")


class FrameRecord:
    """A file with every request, answer and frame, one JSON object a line, without keys, the account's name and IPs.

    Requests are those of every client that was made while `recorded_by(record.on_answer)` holds, from the first on.
    """

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file = handle
        self.is_complete = True
        """Whether every line could be written; a full disk must not keep the check from closing its position."""

    def write(self, exchange: UsdmExchange, kind: str, **facts: Any) -> None:
        """Write a line, without the client's secrets; after `close` do nothing."""
        if self._file < 0:
            return
        text = json.dumps({"at": exchange.clock(), "kind": kind, **facts}, default=str)
        line = exchange.redact(text).encode(errors="replace") + b"\n"
        try:
            self.is_complete = os.write(self._file, line) == len(line) and self.is_complete
        except OSError:
            self.is_complete = False

    def on_answer(self, exchange: UsdmExchange, exchanged: Exchanged) -> None:
        """Write a request and its answer."""
        response = exchanged.response
        facts = {"status": response.status, "code": response.code, "text": response.text, "body": response.body}
        sent = {"method": exchanged.method, "url": exchanged.url, "params": exchanged.body}
        self.write(exchange, "answer", **sent, **facts)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1


class Listener:
    """One websocket, read in the background."""

    def __init__(
        self,
        name: str,
        url: str,
        exchange: UsdmExchange,
        record: FrameRecord,
        hear: Callable[[Frame], None] = lambda frame: None,
    ) -> None:
        """Make a listener; `open` dials.

        Args:
            name: For the rows and the record.
            url: Address, with the listen key where it needs one.
            exchange: Gives clock and proxies.
            record: Takes each frame.
            hear: Called with each frame.
        """
        self.name, self._url, self._hear = name, url, hear
        self.frames: list[Frame] = []
        self.error = ""
        self._exchange, self._record = exchange, record
        self._web: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the websocket was opened and isn't closed."""
        return self._socket is not None and not self._socket.closed

    async def open(self, *streams: str) -> None:
        """Dial, and subscribe to streams; a failure is kept in `error`."""
        self._web = aiohttp.ClientSession(trace_configs=[self._exchange.guard()])
        self._write("dial", url=self._url, streams=streams)
        try:
            async with asyncio.timeout(10):
                proxy = self._exchange.proxy_to(self._url)
                self._socket = await self._web.ws_connect(
                    self._url, proxy=proxy, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=1.0)
                )
                if streams:
                    await self._socket.send_json({"method": "SUBSCRIBE", "params": list(streams), "id": 1})
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.error = self._exchange.redact(f"{type(error).__name__}: {error}")
            self._write("dial failed", text=self.error)
            return
        self._task = asyncio.create_task(self._read(self._socket))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            try:
                body = json.loads(message.data)  # of text, as Binance sends, or of bytes
            except (ValueError, TypeError):
                self._write("unreadable", type=message.type.name, text=str(message.data)[:500])
                continue
            frame = Frame(self._exchange.clock(), body if isinstance(body, dict) else {"value": body})
            self._write("frame", body=frame.body)
            self.frames.append(frame)
            self._hear(frame)
        self._write("closed", code=socket.close_code, error=socket.exception())

    def _write(self, kind: str, **facts: Any) -> None:
        self._record.write(self._exchange, kind, stream=self.name, **facts)

    async def first(self, matches: Callable[[Frame], bool], within_s: float, since: int = 0) -> Frame | None:
        """Wait for a frame; return None if none came in time.

        Args:
            matches: Says which.
            within_s: Longest wait.
            since: Number of frames to leave out.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            found = next((frame for frame in self.frames[since:] if matches(frame)), None)
            if found is not None or asyncio.get_running_loop().time() > deadline:
                return found
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close the websocket."""
        if self._task is not None:
            self._task.cancel()
        if self._socket is not None:
            await self._socket.close()
        if self._web is not None:
            await self._web.close()
