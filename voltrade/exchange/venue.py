"""The simulated Binance USD-M server: REST and websockets on loopback around the simulated exchange.

It plays a tape of trades, takes orders over Binance's wire (signatures, time rule, codes), pushes market and user data,
and writes what really happened to `truth.jsonl`. At speed 1 the tape is shifted to begin now and plays by the wall
clock; at speed 0 it plays in lockstep: nothing moves until the engine says over a side channel how far it has come, so
a session is reproducible and equals the backtest.

Anything that the venue does not model is refused with Binance's own code, never answered with a made-up success.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from voltrade import data
from voltrade.config import Config, parameter_homes
from voltrade.data import Tape
from voltrade.errors import ConfigError, DataError
from voltrade.exchange.clearing import AccountChange, SettingsChange
from voltrade.exchange.shipped import shipped_instrument
from voltrade.exchange.tape import simulate
from voltrade.exchange.truth import TruthLog
from voltrade.exchange.venue_rest import BOOK_TRADES, Params, RestApi
from voltrade.exchange.venue_streams import MARKET_STREAMS, Streams
from voltrade.exchange.venue_wire import OPEN, Json, Wire
from voltrade.model import AlgoUpdate, MarkPrice, Trades
from voltrade.rule_file import read_parameters

SETTLE_S = 1.0
"""At speed 1, a market order with `newOrderRespType=RESULT` is answered when it is done, or after this long."""

BATCH = 10_000
"""Most trades sent in one step of lockstep."""

PING_S = 180.0
"""Websocket clients are pinged this often, at speed 1."""

WALL_STEP_S = 0.005
"""At speed 1 the tape is caught up this often."""

CLIENT_ID_NAMES = ("symbol", "newClientOrderId", "origClientOrderId", "clientAlgoId", "orderId", "algoId")
"""What the log keeps of a request's parameters."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def shifted(trades: Trades, by: int) -> Trades:
    """Return the same trades `by` milliseconds later."""
    return replace(trades, time=trades.time + by)


def answer(result: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(result)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


# --- the venue -------------------------------------------------------------------------------------------------------


class Venue:
    """The server. Made by `serve`; everything happens in one event loop, a request or a step of the tape at a time.

    Attributes:
        rest_url: base of the REST paths, such as `http://127.0.0.1:40123`.
        ws_url: base of the websocket paths, such as `ws://127.0.0.1:40123`.
        stopping: set when a client has asked the venue to stop.
    """

    def __init__(self, config: Config, trades: Trades, log_dir: Path, api_key: str, api_secret: str) -> None:
        if config.session.speed not in (0.0, 1.0):
            raise ConfigError(f"speed: must be 0 (lockstep) or 1 (wall clock), was {config.session.speed}")
        self.lockstep = config.session.speed == 0
        self.trades = trades if self.lockstep else shifted(trades, wall_ms() - int(trades.time[0]))
        self.truth = TruthLog(log_dir)
        self.exchange, self.player = simulate(config, self.trades, batch=BATCH, log=self.truth.write)
        self.wire = Wire(self.player.market.instrument)
        self.streams = Streams(trades.symbol, api_key, None if self.lockstep else PING_S)
        self.rest = RestApi(
            self.exchange,
            self.wire,
            self.streams,
            seen=self._seen,
            now=self.now,
            api_key=api_key,
            api_secret=api_secret,
        )
        self.stopping = asyncio.Event()
        self.rest_url = self.ws_url = ""
        self._sent = self._marks_sent = 0
        self.instance = os.urandom(8).hex()
        """Tells this venue's account from that of another."""
        """Trades and marks that clients were sent: in lockstep they see them before the exchange plays them."""
        self._runner: web.AppRunner | None = None
        self._clockwork: asyncio.Task[None] | None = None

    def now(self) -> int:
        """The venue's clock, ms UTC: the tape's in lockstep, else the wall's."""
        return self.exchange.clock if self.lockstep else wall_ms()

    async def start(self, host: str, port: int) -> None:
        """Listen; at speed 1 also begin to play."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/voltrade/stop", self._stop)
        app.router.add_get("/voltrade/status", self._status)
        app.router.add_get("/voltrade/lockstep", self._lockstep_socket)
        for category, kind in product(MARKET_STREAMS, ("ws", "stream")):
            handler = partial(self.streams.serve, category=category, combined=kind == "stream")
            base = f"/{category}/{kind}" if category else f"/{kind}"
            app.router.add_get(base, handler)
            app.router.add_get(base + "/{name}", handler)
        app.router.add_route("*", "/{path:.*}", self._rest)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        address = self._runner.addresses[0]
        self.rest_url, self.ws_url = f"http://{address[0]}:{address[1]}", f"ws://{address[0]}:{address[1]}"
        if not self.lockstep:
            self._clockwork = asyncio.create_task(self._play_by_the_wall())
            self._clockwork.add_done_callback(lambda _: self.stopping.set())

    async def close(self) -> None:
        """Stop listening, cut all clients and close the log."""
        if self._clockwork is not None:
            self._clockwork.cancel()
            with suppress(asyncio.CancelledError):
                await self._clockwork
        if self._runner is not None:
            for socket in self.streams.sockets:
                socket.transport.close()
            await self._runner.cleanup()
        self.truth.close()

    async def _stop(self, _: web.Request) -> web.Response:
        self.stopping.set()
        return answer({"stopping": True})

    async def _status(self, _: web.Request) -> web.Response:
        return answer(
            {
                "time": self.now(),
                "last_time": int(self.trades.time[-1]),
                "lockstep": self.lockstep,
                "instance": self.instance,
                "trades": len(self.trades),
                "played": self.player.trades_played,
                "sent": self._sent,
                "sockets": len(self.streams.sockets),
            }
        )

    # --- the tape ----------------------------------------------------------------------------------------------------

    async def _lockstep_socket(self, request: web.Request) -> web.WebSocketResponse:
        """Serve the side channel: one JSON answer for each step that the engine asks for."""
        if not self.lockstep:
            raise web.HTTPNotFound(text="this venue plays by the wall clock")
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(orjson.dumps(self._step(orjson.loads(message.data))).decode())
        return ws

    def _step(self, ask: Json) -> Json:
        """Do one step of the side channel; a step that can't be done is answered with an error and changes nothing."""
        match ask:
            case {"op": "hello", "trade_id": int(trade_id), "marks": int(marks)}:
                return self._greet(trade_id, marks)
            case {"op": "go"}:
                return self._go()
            case {"op": "at", "trade_id": int(trade_id), "marks": int(marks), "time": int(time)}:
                trades = int(np.searchsorted(self.trades.id, trade_id, side="right")) - self.player.trades_played
                ahead = marks - self.player.marks_played
                if trades > self._sent - self.player.trades_played or ahead not in (0, 1):
                    return {"error": f"trade {trade_id} and mark {marks} were not sent, or are not next"}
                try:
                    self.player.play(trades, ahead == 1, time)
                except ValueError as error:
                    return {"error": str(error)}
                return self._news()
            case {"op": "finish"}:
                self.player.finish()
                return self._news()
        return {"error": f"unknown step {ask}"}

    def _greet(self, trade_id: int, marks: int) -> Json:
        """Meet an engine: a new one (trade 0) goes on from where the tape is, one that comes back says where it is.

        What was sent and not yet played is sent once more: frames may have been lost with the engine before.
        """
        if trade_id:
            answer = self._step({"op": "at", "trade_id": trade_id, "marks": marks, "time": self.now()})
            if "error" in answer:
                return answer
        played = self.player.trades_played
        self._sent, self._marks_sent = played, self.player.marks_played
        last = int(self.trades.id[played - 1]) if played else 0
        return {"trade_id": last, "marks": self.player.marks_played, "time": self.now()}

    def _go(self) -> Json:
        """Send what lies before the horizon and was not sent before; tell where the horizon is.

        The horizon may lie before what was sent already, when an order has come in between: `trade_id` and `mark`, the
        number of mark prices, say how far the engine may go.
        """
        segment = self.player.horizon()
        horizon = self.player.trades_played + len(segment.trades)
        self._send_trades(horizon)
        self._send_mark(segment.mark)
        return {
            "trade_id": int(self.trades.id[horizon - 1]) if horizon else 0,
            "trades": len(segment.trades),
            "mark": self.player.marks_played + (segment.mark is not None),
            "end": segment.end,
            "time": self.now(),
        }

    def _news(self) -> Json:
        """Push what happened to the account and tell how many user events its connection has been sent in all."""
        self._deliver()
        return {"user": self.streams.user_frames, "time": self.now()}

    async def _play_by_the_wall(self) -> None:
        """Play what is due, again and again; after the last trade market orders fill at the last price."""
        while True:
            if not self._catch_up():
                self.player.finish()
                self._deliver()
            await asyncio.sleep(WALL_STEP_S)

    def _catch_up(self) -> bool:
        """Play the tape up to the wall clock; return whether anything is left."""
        now = wall_ms()
        while True:
            segment = self.player.horizon()
            due = int(np.searchsorted(segment.trades.time, now, side="right"))
            whole = due == len(segment.trades) and (segment.mark is None or segment.mark.time <= now)
            mark = segment.mark if whole else None
            self._send_trades(self.player.trades_played + due)
            self._send_mark(mark)
            self.player.play(due, mark is not None, 0)
            self._deliver()
            if segment.end or not whole:
                self.exchange.advance(now)
                return not (segment.end and whole)

    # --- sending -----------------------------------------------------------------------------------------------------

    def _seen(self) -> Trades:
        """The trades that clients may know of."""
        return self.trades[: self._sent]

    def _send_trades(self, end: int) -> None:
        """Send the trades before position `end` that were not sent before."""
        if end <= self._sent:
            return
        block = self.trades[self._sent : end]
        self._sent = end
        if self.streams.listeners("aggTrade"):
            self.streams.push("aggTrade", self.wire.agg_trade_events(block))
        if self.streams.listeners("bookTicker"):
            self.streams.push("bookTicker", [orjson.dumps(self.wire.book_event(self._seen()[-BOOK_TRADES:]))])

    def _send_mark(self, mark: MarkPrice | None) -> None:
        """Send the mark price that comes next, if one does and it was not sent before."""
        if mark is None or self._marks_sent > self.player.marks_played:
            return
        self._marks_sent += 1
        event = orjson.dumps(self.wire.mark_event(mark))
        for kind in ("markPrice", "markPrice@1s"):
            self.streams.push(kind, [event])

    def _deliver(self) -> None:
        """Push what happened at the exchange to the user data streams, in its order; end a listen key that is due."""
        for update in self.exchange.outbox:
            child = None
            if isinstance(update, SettingsChange):
                self.streams.push_user(self.wire.leverage_event(update.leverage, update.time))
                continue
            if isinstance(update, AccountChange):
                self.streams.push_user(self.wire.user_event(update.update()))
                continue
            if isinstance(update, AlgoUpdate) and update.order_id:
                child = self.exchange.query_order(update.symbol, order_id=update.order_id)
            self.streams.push_user(self.wire.user_event(update, child))
        self.exchange.outbox.clear()
        self.streams.expire_listen_key(self.now())

    # --- REST --------------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.Request) -> web.Response:
        """Answer a REST request: carry it out, log it, push what it caused, and only then answer."""
        params = Params(request.raw_path.partition("?")[2], await request.text())
        if not self.lockstep:
            self._catch_up()
        key = request.headers.get("X-MBX-APIKEY", "")
        status, result = self.rest.answer(request.method, request.path, key, params)
        self._log_request(request, params, status, result)
        self._deliver()
        headers = self.rest.usage_headers(request.method, request.path)
        if status == 200 and self._answers_late(request, params):
            result = await self._settled(result)
        return answer(result, status, headers)

    def _log_request(self, request: web.Request, params: Params, status: int, result: Any) -> None:
        ids = {name: params.get(name) for name in CLIENT_ID_NAMES if params.get(name)}
        code = result.get("code", 0) if status != 200 else 0
        self.truth.write(
            {
                "kind": "request",
                "time": self.now(),
                "method": request.method,
                "path": request.path,
                **ids,
                "status": status,
                "code": code,
            }
        )

    def _answers_late(self, request: web.Request, params: Params) -> bool:
        """Whether Binance would answer this order with its final state: RESULT, and nothing that rests in the book."""
        is_order = request.method == "POST" and request.path == "/fapi/v1/order"
        rests = params.get("type") == "LIMIT" and params.get("timeInForce") not in ("IOC", "FOK")
        return is_order and not self.lockstep and params.get("newOrderRespType") == "RESULT" and not rests

    async def _settled(self, placed: Json) -> Json:
        """Wait, not for long, until an order has ended."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            order = self.exchange.query_order(placed["symbol"], order_id=placed["orderId"])
            if order.status not in OPEN:
                return self.wire.order(order)
            await asyncio.sleep(WALL_STEP_S)
        return placed


# --- running it ------------------------------------------------------------------------------------------------------


async def serve(
    config: Config,
    tape: Tape | Trades,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log_dir: Path,
    api_key: str = "sim-key",
    api_secret: str = "sim-secret",
) -> Venue:
    """Start a venue over a tape; port 0 takes a free one.

    Raises:
        ConfigError: the address is not loopback, or the speed is neither 0 nor 1.
    """
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(f"host: the simulated venue must listen on loopback, was {host}")
    trades = tape.trades if isinstance(tape, Tape) else tape
    venue = Venue(config, trades, log_dir, api_key, api_secret)
    await venue.start(host, port)
    return venue


async def run_venue(config: Config, tape: Tape | Trades, *, port: int = 0, log_dir: Path) -> None:
    """Serve until SIGTERM, Ctrl-C or `POST /voltrade/stop`; print one JSON line of addresses when ready."""
    venue = await serve(config, tape, port=port, log_dir=log_dir)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, venue.stopping.set)
    print(json.dumps({"rest": venue.rest_url, "ws": venue.ws_url, "pid": os.getpid()}), flush=True)
    try:
        await venue.stopping.wait()
    finally:
        await venue.close()


FLAGS = (
    *("symbol", "tape", "seed", "hours", "speed", "latency_ms", "slippage_bps"),
    *("wallet", "taker_fee", "maker_fee", "mark_interval_s", "leverage", "margin_type"),
)
"""Settings that have a flag of their own."""

DESCRIPTION = """
Run a simulated Binance USD-M Futures server on loopback.

It plays a tape of trades and takes orders over Binance's REST and websocket wire. Point any client at the addresses
that it prints as one JSON line when it is ready: REST paths start with /fapi, websockets with /market, /public,
/private, /ws or /stream. The API key is sim-key, the secret sim-secret. LOG/truth.jsonl holds what really happened.
"""

EPILOG = """
speed 1 shifts the tape to begin now and plays it by the wall clock. speed 0 (lockstep) waits at every step for a client
of the side channel /voltrade/lockstep, which is no part of Binance's wire: it sends {"op": "go"} to have the next
trades sent, and {"op": "at", "trade_id", "marks", "time"} when it has dealt with them.
POST /voltrade/stop or SIGTERM ends it; GET /voltrade/status tells how far the tape is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m voltrade venue`; return its exit status."""
    given = _parser().parse_args(argv)
    try:
        config = _config(given)
        tape = data.tape(config.session, shipped_instrument(config.session.symbol))
        asyncio.run(run_venue(config, tape, port=given.port, log_dir=given.log))
    except (ConfigError, DataError, OSError) as error:
        print(f"venue: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m voltrade venue",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--log", type=Path, required=True, metavar="DIR", help="folder of the ground-truth log")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0, the default, takes a free one")
    parser.add_argument("--parameters", type=Path, metavar="FILE", help="JSON object of parameters; flags win over it")
    homes = parameter_homes()
    for name in FLAGS:
        component = getattr(Config(), homes[name])
        default = getattr(component, name)
        words = (type(component).model_fields[name].description or "").replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, type=type(default), help=f"{words} (default {default})".strip())
    return parser


def _config(given: argparse.Namespace) -> Config:
    parameters = {}
    if given.parameters is not None:
        try:
            parameters = json.loads(given.parameters.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(f"parameters: must be a JSON object, {given.parameters} is not: {error}") from None
    flags = {name: getattr(given, name) for name in FLAGS if getattr(given, name) is not None}
    return read_parameters({**parameters, **flags})
