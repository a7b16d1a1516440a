"""The simulated Binance USD-M server: REST and websockets on loopback around the simulated exchange.

It plays tapes of trades, accepts orders by Binance's protocol (signatures, timestamps, limits, codes), sends market and
user data, and writes the ground-truth log `truth.jsonl`, from which it is restored after a restart. At speed 1 the
tapes are shifted to start now and play in real time. At speed 0 they play in lockstep: each step waits until the engine
reports its progress over a side channel, so a session is reproducible and equals the backtest.

What the venue does not model is refused with one of Binance's codes, and never reported as done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from voltrade.config import Config
from voltrade.data.tape import Tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import Funding, MarkPrice, Marks, Segment, Trades
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.ground_truth import TruthLog, restored
from voltrade.simulated.tape_playback import TapePlayer, exchange_for, player_for, steps_until
from voltrade.venue.faults import Fault, check_lockstep, read_script
from voltrade.venue.finer import Fineness
from voltrade.venue.injection import Faults
from voltrade.venue.market_data import KLINES, MarketData, mark_message
from voltrade.venue.messages import OPEN, Json, user_events
from voltrade.venue.requests import Params, Response
from voltrade.venue.rest import RestApi
from voltrade.venue.streams import Streams

BATCH = 10_000
"""Most trades in one step of lockstep."""
WALL_STEP_S, SETTLE_S = 0.005, 1.0
"""At speed 1, the interval between steps, and the longest wait for the result of an order with RESULT."""

LOGGED = ("symbol", "newClientOrderId", "origClientOrderId", "clientAlgoId", "orderId", "algoId")
"""Parameters of a request that are logged."""

SOCKET = re.compile(r"(?:/(market|public|private))?/(ws|stream)(?:/(.*))?")
"""Paths of websockets: category, `stream` if events are wrapped, and the name of a stream."""

Columns = TypeVar("Columns", Trades, Marks, Funding)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def shifted(columns: Columns, by_ms: int) -> Columns:
    return replace(columns, time=columns.time + by_ms)


def json_response(result: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(result), status=status, content_type="application/json")


class Venue:
    """The server, started by `serve`. One event loop handles requests and steps of the tapes, one at a time.

    Args:
        config: execution and account settings, and the speed.
        tapes: one per symbol; in lockstep the client controls the first, and the others follow it.
        truth: the log; if it has rows, the venue is restored from them.
        begin_s: seconds of the tape played before the venue opens; None for the value in `config`.
        script: faults to inject.
        wall: the clock of the tapes at speed 1, ms UTC.
        instance: id of a new venue's account; empty for a random one.

    Attributes:
        instance: id of this venue's account, which a restart does not change.
        rest_url, ws_url: base addresses, such as `http://127.0.0.1:40123`.
        stopping: set when a client has requested a stop.
    """

    def __init__(
        self,
        config: Config,
        tapes: Sequence[Tape | Trades],
        truth: TruthLog,
        *,
        api_key: str = "sim-key",
        api_secret: str = "sim-secret",
        begin_s: float | None = None,
        script: Sequence[Fault] = (),
        wall: Callable[[], int] = wall_ms,
        instance: str = "",
    ) -> None:
        self.lockstep, self._wall, self.truth = config.session.speed == 0, wall, truth
        if self.lockstep:
            check_lockstep(script)
        begin_ms = int((config.session.begin_s if begin_s is None else begin_s) * 1000)
        trades = [tape.trades if isinstance(tape, Tape) else tape for tape in tapes]
        first, symbols = min(int(each.time[0]) for each in trades), [each.symbol for each in trades]
        if begin_ms > int(trades[0].time[-1]) - first:
            raise ConfigError(f"begin_s: must lie within the tape of {symbols[0]}, was {begin_ms / 1000:g}")
        new: Json = {"kind": "venue", "instance": instance or os.urandom(8).hex(), "symbols": symbols}
        new["shift"] = 0 if self.lockstep else wall() - first - begin_ms
        if (finer := Fineness.of(script)) != (1, 1):
            new["finer"] = [*finer]
        row: Json = next((row for row in truth.rows if row["kind"] == "venue"), {} if truth.rows else new)
        if row.get("symbols") != symbols:
            raise DataError(f"log: must be of a venue of {', '.join(symbols)}, was of {row.get('symbols')}")
        self.instance, shift, finer = str(row["instance"]), int(row["shift"]), Fineness(*row.get("finer", ()))
        trades = [finer.trades(shifted(each, shift)) for each in trades]
        if truth.rows:
            self.exchange = restored(truth.rows, truth.write, trades)
        else:
            truth.write(new)
            self.exchange = exchange_for(
                config,
                [finer.instrument(symbol) for symbol in symbols],
                clock=first + shift - 1,
                log=truth.write,
                rules={symbol: finer.rules(symbol) for symbol in symbols},
            )
        self.players: list[TapePlayer] = []
        for each, tape in zip(trades, tapes, strict=True):
            marks, funding = (tape.marks, tape.funding) if isinstance(tape, Tape) else (None, None)
            marks, funding = marks and shifted(marks, shift), funding and shifted(funding, shift)
            self.players.append(player_for(config, self.exchange, each, marks=marks, funding=funding, batch=BATCH))
        self.player = self.players[0]
        self.market_data = {player.trades.symbol: MarketData(player) for player in self.players}
        self.data = self.market_data[symbols[0]]
        owner = f"{api_key} {api_secret} {self.instance} {len(truth.rows)}"
        self.streams = Streams(symbols, owner, lambda: wall() / 1000)
        self.rest = RestApi(
            self.exchange,
            self.market_data,
            self.streams,
            lambda: self.now() + self.faults.ahead_ms,
            (api_key, api_secret),
        )
        if not truth.rows:
            self._play_until(first + shift + begin_ms - 1, self.players)
        self.faults = Faults(script, config.session.seed, self.rest, truth, self.now, self.lockstep)
        self.stopping = asyncio.Event()
        self.rest_url = self.ws_url = ""
        self._exit_stack = AsyncExitStack()
        self._in_use, self._used = 0, time.monotonic()

    def now(self) -> int:
        """The venue's time, ms UTC: of the tape in lockstep, else of the system clock."""
        return self.exchange.clock if self.lockstep else self._wall()

    async def start(self, host: str, port: int) -> None:
        """Listen, and at speed 1 start to play."""
        runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        self._exit_stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        self.rest_url, self.ws_url = f"http://{address[0]}:{address[1]}", f"ws://{address[0]}:{address[1]}"
        if not self.lockstep:
            clockwork = asyncio.create_task(self._play_in_real_time())
            clockwork.add_done_callback(lambda _: self.stopping.set())
            self._exit_stack.callback(clockwork.cancel)

    async def until_stopped(self, idle_s: float) -> None:
        """Wait until a client stops the venue, or until it was idle for `idle_s` seconds, if that is not 0."""
        while not self.stopping.is_set():
            left_s = idle_s if self._in_use else self._used + idle_s - time.monotonic()
            if idle_s and left_s <= 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), left_s if idle_s else None)

    async def close(self) -> None:
        """Stop playing and listening, disconnect all clients and close the log."""
        for socket in self.streams.sockets:
            socket.transport.close()
        await self._exit_stack.aclose()
        self.truth.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle a request, or serve a websocket until it is closed."""
        self._in_use += 1
        try:
            match request.method, request.path:
                case "GET", "/voltrade/status":
                    player, row = self.player, {"lockstep": self.lockstep, "instance": self.instance}
                    row |= {"time": self.now(), "last_time": player.last_time, "symbols": list(self.market_data)}
                    row |= {"trades": len(player.trades), "played": player.trades_played, "sent": self.data.sent}
                    row |= {"prices": {name: f"{market.price:f}" for name, market in self.exchange.markets.items()}}
                    return json_response({**row, "sockets": len(self.streams.sockets)})
                case "POST", "/voltrade/stop":
                    self.stopping.set()
                    return json_response({"stopping": True})
                case "POST", "/voltrade/fault":
                    return self._add_faults(await request.read())
                case "GET", "/voltrade/lockstep" if self.lockstep:
                    return await self._lockstep_socket(request)
            if socket := SOCKET.fullmatch(request.path):
                category, kind, name = socket.groups("")
                return await self.streams.serve(request, category, name, kind == "stream")
            return await self._rest(request)
        finally:
            self._in_use, self._used = self._in_use - 1, time.monotonic()

    def _add_faults(self, body: bytes) -> web.Response:
        """Add faults to the running script: JSON as in a script's file, with times that count from now."""
        try:
            faults = read_script(orjson.loads(body))
            self.faults.add_from_now(faults)
        except (ConfigError, orjson.JSONDecodeError) as error:
            return json_response({"error": str(error)}, 400)
        self._deliver()
        return json_response({"added": len(faults), "time": self.now()})

    # --- the tapes ---------------------------------------------------------------------------------------------------

    async def _lockstep_socket(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve the side channel: one JSON reply for each step that the engine requests."""
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(orjson.dumps(self._step(orjson.loads(message.data))).decode())
        return ws

    def _step(self, ask: Json) -> Json:
        """Do one step of the side channel; an invalid step returns an error and changes nothing."""
        try:
            match ask:
                case {"op": "hello", "trade_id": int(trade_id), "marks": int(marks)}:
                    return self._hello(trade_id, marks)
                case {"op": "go"}:
                    return self._go()
                case {"op": "at", "trade_id": int(trade_id), "marks": int(marks), "time": int(time)}:
                    return self._at(trade_id, marks, time)
                case {"op": "finish"}:
                    self.player.finish()
                    return self._report()
        except ValueError as error:
            return {"error": str(error)}
        return {"error": f"unknown step {ask}"}

    def _hello(self, trade_id: int, marks: int) -> Json:
        """Start with an engine: a new one (trade 0) continues at the tape's position, a restarted one at its own.

        After a restart the log may not have the tape's position, but the engine does. Trades that were sent but not
        played are sent again, since the earlier engine may not have received them.
        """
        if trade_id:
            self.player.go_to(self.data.rows_to(trade_id), marks)
        self.data.sync()
        last = int(self.data.trades.id[self.data.sent - 1]) if self.data.sent else 0
        return {**self._report(), "trade_id": last, "marks": self.player.marks_played}

    def _go(self) -> Json:
        """Send what comes before the horizon and was not sent before; return the horizon.

        The horizon may be before what was already sent, if an order came in between. The engine may go up to `trade_id`
        and `mark`, the number of mark prices, and to `arrival`, the time at which an order arrives after them.
        """
        player, segment = self.player, self.player.horizon()
        fault = int(np.searchsorted(segment.trades.time, self.faults.next_due()))
        if fault < len(segment.trades):  # the next fault comes after the first trade of its time
            segment = Segment(segment.trades[: max(1, fault)], None, False)
        horizon = player.trades_played + len(segment.trades)
        self._send(player, horizon, segment.mark)
        last, mark = int(player.trades.id[horizon - 1]) if horizon else 0, player.marks_played + bool(segment.mark)
        reply = {"trade_id": last, "trades": len(segment.trades), "mark": mark, "end": segment.end}
        return {**reply, "arrival": segment.arrival, "time": self.now()}

    def _at(self, trade_id: int, marks: int, time: int) -> Json:
        """Play up to the engine's position."""
        trades = self.data.rows_to(trade_id)
        if trades > self.data.sent or marks > len(self.data.marks):
            raise ValueError(f"trade {trade_id} and mark {marks} were not sent")
        self.player.go_to(trades, marks)
        self._play_until(time, self.players[1:])
        return self._report()

    def _report(self) -> Json:
        """Play the other tapes, send what happened, and return the number of user events sent on the connection."""
        self._play_until(self.now(), self.players[1:])
        self._deliver()
        return {"user": self.streams.user_frames, "time": self.now()}

    async def _play_in_real_time(self) -> None:
        """Play what is due, in a loop."""
        while True:
            self.step()
            await asyncio.sleep(WALL_STEP_S)

    def step(self) -> None:
        """Play the tapes up to now and send what happened."""
        now = self._wall()
        self._play_until(now, self.players)
        self._deliver()
        self.streams.check_connections(now / 1000)

    def next_due(self) -> int:
        """Return when `step` must be called next if there are no requests before, ms by the system clock."""
        return min([self.faults.next_due(), self.streams.next_due(), *(player.next_time for player in self.players)])

    def _play_until(self, now: int, players: Sequence[TapePlayer]) -> None:
        """Send and play what is due of tapes, in the order of time."""
        for player, trades, mark in steps_until(players, now):
            self._send(player, player.trades_played + len(trades), mark)
        self.exchange.advance(now)

    def _send(self, player: TapePlayer, end: int = 0, mark: MarkPrice | None = None) -> None:
        """Send the trades of a tape before row `end`, its next mark price, and the klines that have closed."""
        data = self.market_data[player.trades.symbol]
        before, then = data.sent, data.time
        data.show(end, self.now())
        if data.sent == before and data.time == then and mark is None:
            return
        wanted = self.streams.kinds(player.trades.symbol)
        if data.sent > before and "aggTrade" in wanted:
            self._push(data, "aggTrade", data.agg_trade_events(data.trades[before:end]))
        if data.sent > before and "bookTicker" in wanted:
            self._push(data, "bookTicker", [orjson.dumps(data.book("bookTicker", 0))])
        for kind, interval in KLINES.items() if data.time > then else ():
            if kind in wanted:
                self._push(data, kind, data.kline_events(interval, before, then))
        if mark is not None and len(data.marks) <= player.marks_played:
            data.marks.append(mark)
            for kind in wanted & {"markPrice", "markPrice@1s"}:
                self._push(data, kind, [orjson.dumps(mark_message("markPriceUpdate", mark))])

    def _push(self, data: MarketData, kind: str, events: list[bytes]) -> None:
        self.faults.on_event(f"market {kind}", events, partial(self.streams.push, data.symbol, kind))

    def _deliver(self) -> None:
        """Run what is due, and send the events of the exchange to the user data streams, in order."""
        self.faults.run_due()
        self.rest.run_countdowns(self.now())
        for player in self.players:
            self._send(player)
        for change in self.exchange.outbox:
            for event in user_events(self.exchange, change):
                facts = event.get("o", {})
                what = f"user {event['e']} {facts.get('X', '')} {facts.get('c') or facts.get('caid') or ''}"
                push = partial(self.streams.push_user, event["e"])
                self.faults.on_event(what, [orjson.dumps(event)], push)
        self.exchange.outbox.clear()
        self.streams.expire_listen_key(self.now())

    # --- REST --------------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle a REST request: carry it out, log it, send its events, and then respond."""
        params = Params(request.raw_path.partition("?")[2], await request.text())
        if not self.lockstep:
            self._play_until(self.now(), self.players)
        self.faults.run_due()
        result = await self.faults.handle(request, params, partial(self._carry_out, request, params))
        self._deliver()
        if isinstance(result, web.StreamResponse):
            return result
        # With RESULT, Binance responds with the final state of an order that does not rest in the book.
        is_order = request.method == "POST" and request.path == "/fapi/v1/order" and result.status == 200
        rests = params.get("type") == "LIMIT" and params.get("timeInForce") not in ("IOC", "FOK")
        if is_order and not self.lockstep and params.get("newOrderRespType") == "RESULT" and not rests:
            result = await self._settled(result)
        response = json_response(result.body, result.status)
        response.headers.update(result.headers)
        return response

    def _carry_out(
        self,
        request: web.BaseRequest,
        params: Params,
        received: int = 0,
        reached: int = 0,
        past: SimulatedExchange | None = None,
    ) -> Response:
        key, rest = request.headers.get("X-MBX-APIKEY", ""), replace(self.rest, exchange=past) if past else self.rest
        result = rest.handle(request.method, request.path, key, params, received, reached)
        row = {"kind": "request", "time": self.now(), "method": request.method, "path": request.path}
        row |= {name: params.get(name) for name in LOGGED if params.get(name)}
        self.truth.write({**row, "status": result.status, "code": result.body["code"] if result.status != 200 else 0})
        return result

    async def _settled(self, placed: Response) -> Response:
        """Wait until an order has ended, at most `SETTLE_S`."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            order = self.exchange.query_order(placed.body["symbol"], order_id=placed.body["orderId"])
            if order.status not in OPEN:
                return placed._replace(body=self.rest.order(order))
            await asyncio.sleep(WALL_STEP_S)
        return placed


async def serve(
    config: Config, *tapes: Tape | Trades, log_dir: Path, host: str = "127.0.0.1", port: int = 0, **options: Any
) -> Venue:
    """Start a venue over tapes, with its log in a folder, on a port (0 takes a free one); `options` are `Venue`'s.

    Raises:
        ConfigError: the address is not loopback, or `begin_s` or a fault is invalid.
        DataError: the log belongs to another venue.
    """
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(f"host: the simulated venue must listen on loopback, was {host}")
    truth = TruthLog(log_dir)
    try:
        venue = Venue(config, tapes, truth, **options)
        await venue.start(host, port)
    except BaseException:
        truth.close()
        raise
    return venue
