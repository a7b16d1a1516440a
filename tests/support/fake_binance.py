"""A small Binance on loopback that does what a test tells it to: answer wrongly, late or never, cut and garble."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import WSMsgType, web

KEY, SECRET = "the-api-key-of-tests", "the-secret-of-tests"

EXCHANGE_INFO = {
    "serverTime": 1_000,
    "symbols": [
        {
            **{"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"},
            "marketTakeBound": "0.05",
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "556.80", "maxPrice": "809484.0", "tickSize": "0.10"},
                {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
                {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "maxQty": "120", "stepSize": "0.001"},
                {"filterType": "MIN_NOTIONAL", "notional": "100"},
                {"filterType": "PERCENT_PRICE", "multiplierUp": "1.05", "multiplierDown": "0.95"},
            ],
        }
    ],
}


@dataclass(frozen=True)
class Say:
    """An answer: status, a JSON body (or a raw text), headers; or no answer at all."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    abort: bool = False
    """Cut the connection instead."""
    hang: bool = False
    """Never answer."""


def error(code: int, text: str = "no", status: int = 400, **headers: str) -> Say:
    return Say(status, {"code": code, "msg": text}, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    params: dict[str, str]


Answer = Say | Callable[[Asked], Say]


class FakeBinance:
    """The server; an async context manager.

    Attributes:
        asked: every REST request, in order.
        script: answers to give once each, by (method, path); then come the standing answers of `always`.
        trades: aggTrades that REST knows, by id.
        sockets: open websockets by category, `market` and `private`, the newest last.
        dials: how often each category was dialled.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: dict[tuple[str, str], deque[Answer]] = defaultdict(deque)
        self.always: dict[tuple[str, str], Answer] = {
            ("GET", "/fapi/v1/exchangeInfo"): Say(body=EXCHANGE_INFO),
            ("GET", "/fapi/v1/time"): Say(body={"serverTime": 1_000}),
            ("GET", "/fapi/v1/aggTrades"): self._agg_trades,
            ("POST", "/fapi/v1/listenKey"): lambda _: Say(body={"listenKey": f"listen{self.keys}"}),
            ("PUT", "/fapi/v1/listenKey"): Say(body={}),
        }
        self.trades: dict[int, dict[str, Any]] = {}
        self.keys = 1
        self.sockets: dict[str, list[web.WebSocketResponse]] = {"market": [], "private": []}
        self.dials = {"market": 0, "private": 0}
        self.subscribed: list[list[str]] = []
        self.refuse_subscription = self.ignore_subscription = False
        self._runner: web.AppRunner | None = None
        self.rest = self.stream = ""

    async def __aenter__(self) -> FakeBinance:
        app = web.Application()
        app.router.add_get("/{category}/ws", self._socket)
        app.router.add_get("/{category}/ws/{name}", self._socket)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        self.rest, self.stream = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        for sockets in self.sockets.values():
            for socket in sockets:
                self._cut(socket)
        await self._runner.cleanup()

    # --- REST --------------------------------------------------------------------------------------------------------

    def will(self, method: str, path: str, *answers: Answer) -> None:
        """Answer the next requests of this kind so."""
        self.script[method, path].extend(answers)

    def orders(self, path: str = "/fapi/v1/order", method: str = "POST") -> list[dict[str, str]]:
        return [asked.params for asked in self.asked if (asked.method, asked.path) == (method, path)]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = request.query_string + (await request.text())
        params = dict(parse_qsl(raw))
        if "signature" in params:
            text = raw.replace(f"&signature={params['signature']}", "")
            assert params["signature"] == hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
            assert request.headers["X-MBX-APIKEY"] == KEY
        asked = Asked(request.method, request.path, params)
        self.asked.append(asked)
        kind = (request.method, request.path)
        said = self.script[kind].popleft() if self.script[kind] else self.always.get(kind, error(-9999, "not scripted"))
        said = said if isinstance(said, Say) else said(asked)
        if said.hang:
            await asyncio.sleep(60)
        if said.abort:
            assert request.transport is not None
            request.transport.abort()
        text = said.body if isinstance(said.body, str) else json.dumps(said.body)
        return web.Response(status=said.status, text=text, content_type="application/json", headers=said.headers)

    def _agg_trades(self, asked: Asked) -> Say:
        ids = sorted(i for i in self.trades if i >= int(asked.params.get("fromId", 0)))
        return Say(body=[self.trades[i] for i in ids[: int(asked.params["limit"])]])

    # --- websockets --------------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        category = request.match_info["category"]
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.dials[category] += 1
        self.sockets[category].append(socket)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            ask = json.loads(message.data)
            self.subscribed.append(ask["params"])
            if self.ignore_subscription:
                continue
            refusal = {"error": {"code": 2, "msg": "Invalid request"}, "id": ask["id"]}
            await socket.send_json(refusal if self.refuse_subscription else {"result": None, "id": ask["id"]})
        self.sockets[category].remove(socket)
        return socket

    async def send(self, category: str, *messages: dict[str, Any] | str | bytes) -> None:
        """Send frames on the newest socket: JSON for objects, raw text or bytes as they are."""
        socket = self.sockets[category][-1]
        for message in messages:
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def trade(self, *ids: int) -> None:
        """Make trades with these ids: REST knows them, and the market socket brings them."""
        for i in ids:
            self.trades[i] = a_trade(i)
        await self.send("market", *({"e": "aggTrade", "E": 1, "s": "BTCUSDT", **a_trade(i)} for i in ids))

    async def close(self, category: str, code: int = 1001) -> None:
        """Close the newest socket gracefully."""
        await self.sockets[category][-1].close(code=code)

    def cut(self, category: str) -> None:
        """Cut the newest socket."""
        self._cut(self.sockets[category][-1])

    def _cut(self, socket: web.WebSocketResponse) -> None:
        request = socket._req
        if request is not None and request.transport is not None:
            request.transport.abort()


def a_trade(trade_id: int) -> dict[str, Any]:
    """Trade n: n lots at 60,000.0 + n ticks, at n ms."""
    ticks = 600_000 + trade_id
    price, quantity = f"{ticks // 10}.{ticks % 10}0", f"{trade_id // 1000}.{trade_id % 1000:03d}"
    return {"a": trade_id, "p": price, "q": quantity, "f": 1, "l": 1, "T": trade_id, "m": trade_id % 2 == 0}
