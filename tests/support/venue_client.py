"""A venue for tests, in the test's own event loop, and a plain client of it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from voltrade.config import Config
from voltrade.model import Trades
from voltrade.venue.server import Venue, serve

START = 1_767_643_200_000
"""Time of the first trade, ms."""
TIMEOUT = 30.0

Row = tuple[int, int, int, int, bool]


def trade(number: int, price: int, quantity: int = 1_000, *, sold: bool = False, every_ms: int = 1_000) -> Row:
    """The trade with id 100 + number, one each second: price in tenths of a dollar, quantity in 0.001 BTC."""
    return 100 + number, price, quantity, START + number * every_ms, sold


def flat_tape(count: int = 40, price: int = 800_000, every_ms: int = 1_000) -> Trades:
    """Trades at 80,000.0, taker buys and sells in turn."""
    return Trades.from_rows("BTCUSDT", [trade(n, price, sold=n % 2 == 1, every_ms=every_ms) for n in range(count)])


class Client:
    """A plain client with one key: signed REST and websockets, and the side channel of lockstep."""

    def __init__(self, venue: Venue, http: aiohttp.ClientSession) -> None:
        self.venue, self.http = venue, http
        self.steps: aiohttp.ClientWebSocketResponse | None = None

    def sign(self, text: str, secret: str = "sim-secret") -> str:
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    async def raw(self, method: str, path: str, query: str = "", body: str = "", key: str = "sim-key") -> Any:
        """Send texts as they are; return HTTP status, JSON and headers."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"X-MBX-APIKEY": key} if key else {})
        url = f"{self.venue.rest_url}{path}" + (f"?{query}" if query else "")
        async with self.http.request(method, URL(url, encoded=True), data=body, headers=headers) as response:
            return response.status, await response.json(), response.headers

    async def signed(self, method: str, path: str, **params: Any) -> Any:
        """Send a signed request with everything in the query; return its JSON."""
        text = urlencode({**params, "timestamp": self.venue.now()})
        return (await self.raw(method, path, f"{text}&signature={self.sign(text)}"))[1]

    async def order(self, **params: Any) -> Any:
        given = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010", "newOrderRespType": "ACK"}
        return await self.signed("POST", "/fapi/v1/order", **{**given, **params})

    async def algo(self, **params: Any) -> Any:
        given = {"algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET"}
        given |= {"quantity": "0.010", "triggerPrice": "79000.0"}
        return await self.signed("POST", "/fapi/v1/algoOrder", **{**given, **params})

    async def socket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(self.venue.ws_url + path)

    async def ask(self, **step: Any) -> Any:
        """Take a step of lockstep."""
        if self.steps is None:
            self.steps = await self.socket("/voltrade/lockstep")
        await self.steps.send_json(step)
        return await self.steps.receive_json(timeout=TIMEOUT)

    async def play_to(self, trade_id: int) -> Any:
        """Go on, as an engine does, until a trade has been played."""
        while True:
            horizon = await self.ask(op="go")
            reached = min(horizon["trade_id"], trade_id)
            marks = horizon["mark"] if horizon["trade_id"] <= trade_id else self.venue.player.marks_played
            now = int(self.venue.player.trades.time[self.venue.player.trades.id == reached][0])
            if reached < trade_id and horizon["arrival"]:
                now = horizon["arrival"]
            played = await self.ask(op="at", trade_id=reached, marks=marks, time=now)
            if reached == trade_id or horizon["end"]:
                return played

    async def user_stream(self) -> aiohttp.ClientWebSocketResponse:
        key = (await self.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        return await self.socket(f"/private/ws?listenKey={key}")


async def frames(ws: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    return [await ws.receive_json(timeout=TIMEOUT) for _ in range(count)]


async def is_silent(ws: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether nothing more was sent: a ping is answered after whatever came before it."""
    with suppress(TimeoutError):
        await ws.receive_json(timeout=0.05)
        return False
    return True


Story = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def a_client(*tapes: Trades, folder: Path, options: Any = (), **parameters: Any) -> AsyncIterator[Client]:
    """Open a venue, and a client of it; `options` go to `serve`."""
    settings = {"latency_ms": 0, "slippage_bps": 0.0, "leverage": 5, **parameters}
    venue = await serve(Config.from_parameters(settings), *tapes, log_dir=folder, **dict(options))
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(venue, http)
    finally:
        await venue.close()


def run(story: Story, folder: Path, *tapes: Trades, options: Any = (), **parameters: Any) -> None:
    """Run a story against a venue over tapes, else over a flat one."""

    async def with_venue() -> None:
        async with a_client(*(tapes or [flat_tape()]), folder=folder, options=options, **parameters) as client:
            await story(client)

    asyncio.run(with_venue())


async def until(condition: Callable[[], Any], within_s: float = TIMEOUT) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.005)
