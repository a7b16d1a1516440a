"""Recorded streams of the real exchange, served over a socket as they came, byte for byte, with the REST beside them.

What a session asks differs from what was recorded, and this is all that is done about it:

- It subscribes to two streams of one symbol; the recordings are combined streams of up to ten, of which all is sent:
  quotes, depth and other symbols, as a session would get them from an address that many share.
- Recordings of 2023 and 2024 have single trades (`@trade`), and no aggTrades, which are all that a session reads.
  `with_agg_trades` makes those: consecutive trades of one price, side and millisecond, as the exchange joins them.
  The frames of the single trades are sent too.
- Of REST only the filters were recorded (`exchangeInfo`, other days). `time` and `aggTrades` are answered from the
  frames so far; there are no klines, so that a session loads its earlier trades by id.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]

CHUNK_MS = 100
"""Frames of so much recorded time are sent at once; the next follow when the client has read them."""
TIME_UNITS_MS = {10: Decimal(1000), 16: Decimal("0.001"), 19: Decimal("0.000001")}
"""Ms in a unit of the recorder's clock, by the digits before its decimal point: seconds, microseconds, nanoseconds."""
_LINE = re.compile(rb"(\d{10,19})(\.\d+)?:? (\{.*)")
ROW = ("a", "p", "q", "f", "l", "T", "m")
"""Fields of a row of GET aggTrades."""
MARKET_TYPES = ("MARKET",)
"""`X` of trades that count; insurance fund and deleveraging have others."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message as it came: when, by the recorder's clock in ms, and its bytes."""

    time: int
    text: bytes

    def event(self) -> Json:
        """Return the event in a combined stream's frame."""
        event: Json = json.loads(self.text)["data"]
        return event


def recorded_frames(*paths: Path) -> Iterator[Frame]:
    """Yield the websocket frames of recordings in their order, without lines of other kinds, such as REST answers."""
    for path in paths:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                found = _LINE.fullmatch(line.rstrip(b"\n"))
                if found is not None and found[3].startswith(b'{"stream":'):
                    count = Decimal((found[1] + (found[2] or b"")).decode())
                    yield Frame(int(count * TIME_UNITS_MS[len(found[1])]), found[3])


def with_agg_trades(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Add an aggTrade behind the last of the single trades that make it; trades of other kinds than the market's make
    none. Their ids count on from the id of the first single trade, since the exchange's own are not known."""
    trades: list[Json] = []
    next_id, time = 0, 0

    def joined() -> Iterator[Frame]:
        nonlocal next_id
        if trades:
            next_id = next_id or trades[0]["t"]
            yield Frame(time, _agg_trade(next_id, trades))
            next_id += 1
            trades.clear()

    for frame in frames:
        is_trade = b'"e":"trade"' in frame.text
        if is_trade and (event := frame.event())["X"] in MARKET_TYPES:
            if trades and any(event[name] != trades[-1][name] for name in ("p", "m", "T")):
                yield from joined()
            trades.append(event)
            time = frame.time
        yield frame
    yield from joined()


def _agg_trade(number: int, trades: Sequence[Json]) -> bytes:
    """Write the aggTrade of some trades as the exchange did in 2023."""
    first, last = trades[0], trades[-1]
    quantity = sum(Decimal(trade["q"]) for trade in trades)
    event = {"e": "aggTrade", "E": last["E"], "a": number, "s": first["s"], "p": first["p"], "q": f"{quantity:f}"}
    event |= {"f": first["t"], "l": last["t"], "T": first["T"], "m": first["m"]}
    name = f"{first['s'].lower()}@aggTrade"
    return json.dumps({"stream": name, "data": event}, separators=(",", ":")).encode()


@dataclass
class RecordedExchange:
    """The server; an async context manager.

    The recording goes on as fast as the client reads it: after each chunk a ping is sent, whose pong comes when all
    before it has been read. `now_ns` is the time in the recording, which a client may take for its clock.

    Args:
        frames: what is sent, in order.
        symbol: whose trades REST has.
        exchange_info: the recorded answer, compressed.
        history_ms: trades of the recording's begin that are over when a client connects.

    Attributes:
        address: base address of REST.
        asked: REST requests: path and parameters.
        subscribed: parameters of SUBSCRIBE messages.
        sent: number of frames that have been sent, and `is_over` set after the last.
    """

    frames: Sequence[Frame] = field(repr=False)
    symbol: str
    exchange_info: Path
    history_ms: int = 0
    address: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    subscribed: list[list[str]] = field(default_factory=list)
    sent: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> RecordedExchange:
        begin = self.frames[0].time + self.history_ms
        self._rows: list[Json] = []
        self._history = sum(frame.time < begin for frame in self.frames)
        self._note(self.frames[: self._history])
        self._now = begin
        self._pong = asyncio.Event()
        app = web.Application()
        app.router.add_get("/market/ws/{name}", self._socket)
        app.router.add_get("/fapi/v1/{call}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def now_ns(self) -> int:
        """Return the time in the recording, ns."""
        return self._now * 1_000_000

    def _note(self, frames: Iterable[Frame]) -> None:
        """Let REST know the trades in these frames."""
        ours = f'{{"stream":"{self.symbol.lower()}@aggTrade"'.encode()
        for frame in frames:
            if frame.text.startswith(ours):
                self._rows.append({name: frame.event()[name] for name in ROW})

    # --- REST -------------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.Response:
        call, params = request.match_info["call"], dict(request.query)
        self.asked.append((call, params))
        if call == "exchangeInfo":
            return web.Response(body=gzip.decompress(self.exchange_info.read_bytes()), content_type="application/json")
        if call == "time":
            return web.json_response({"serverTime": self._now})
        if call == "klines":
            return web.json_response([])
        if call == "premiumIndex":  # of which the recordings' begin says nothing
            return web.json_response({"symbol": params["symbol"], "markPrice": self._rows[0]["p"]})
        assert call == "aggTrades", request.path
        limit = int(params["limit"])
        if "fromId" in params:
            return web.json_response([row for row in self._rows if row["a"] >= int(params["fromId"])][:limit])
        return web.json_response(self._rows[-limit:])

    # --- the stream -------------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        playing: asyncio.Task[None] | None = None
        async for message in socket:
            if message.type is WSMsgType.PONG:
                self._pong.set()
            elif message.type is WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                asked = json.loads(message.data)
                self.subscribed.append(asked["params"])
                await socket.send_json({"result": None, "id": asked["id"]})
                playing = playing or asyncio.create_task(self._play(socket))
        if playing is not None:
            playing.cancel()
        return socket

    async def _play(self, socket: web.WebSocketResponse) -> None:
        """Send all frames, as fast as they are read."""
        at = self._history
        while at < len(self.frames):
            end, until = at, self.frames[at].time + CHUNK_MS
            while end < len(self.frames) and self.frames[end].time < until:
                end += 1
            chunk, at = self.frames[at:end], end
            self._note(chunk)
            self._now = max(self._now, chunk[-1].time)
            for frame in chunk:
                await socket.send_frame(frame.text, WSMsgType.TEXT)
            self.sent += len(chunk)
            self._pong.clear()
            await socket.ping()
            await self._pong.wait()
        self.is_over.set()
