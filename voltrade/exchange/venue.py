"""The simulated Binance USD-M server: REST and websockets on loopback around the simulated exchange.

It plays tapes of trades, takes orders over Binance's wire (signatures, time rule, limits, codes), pushes market and
user data, and writes what really happened to `truth.jsonl`, from which it comes back when it is started again. At speed
1 the tapes are shifted to begin now and play by the wall clock; at speed 0 they play in lockstep: nothing moves until
the engine says over a side channel how far it has come, so a session is reproducible and equals the backtest.

Anything that the venue does not model is refused with Binance's own code, never answered with a made-up success.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson
from aiohttp import WSMsgType, web

from voltrade.config import Config
from voltrade.data import Tape
from voltrade.errors import ConfigError, DataError
from voltrade.exchange.clearing import AccountChange, SettingsChange, UserEvent
from voltrade.exchange.fault_script import Fault, check_lockstep
from voltrade.exchange.faults import Faults
from voltrade.exchange.tape import TapePlayer, exchange_for, player_for
from voltrade.exchange.truth import TruthLog, restored
from voltrade.exchange.venue_requests import Answer, Params
from voltrade.exchange.venue_rest import BOOK_TRADES, RestApi
from voltrade.exchange.venue_streams import MARKET_STREAMS, Streams
from voltrade.exchange.venue_wire import INTERVALS_MS, OPEN, Board, Json, Wire, account_event, leverage_event
from voltrade.model import AlgoUpdate, Funding, MarkPrice, Marks, OrderType, OrderUpdate, Segment, TimeInForce, Trades

SETTLE_S = 1.0
"""At speed 1, a market order with `newOrderRespType=RESULT` is answered when it is done, or after this long."""

BATCH = 10_000
"""Most trades sent in one step of lockstep."""

WALL_STEP_S = 0.005
"""At speed 1 the tapes are caught up this often."""

LOGGED = ("symbol", "newClientOrderId", "origClientOrderId", "clientAlgoId", "orderId", "algoId")
"""What the log keeps of a request's parameters."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def wants_the_end(order: OrderUpdate) -> bool:
    """Whether an open order is filled or expires when its tape is over."""
    at_once = (TimeInForce.IOC, TimeInForce.FOK)
    return order.order_type is OrderType.MARKET or order.time_in_force in at_once


def answer(result: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(result), status=status, content_type="application/json")


class Venue:
    """The server. Made by `serve`; everything happens in one event loop, a request or a step of a tape at a time.

    Attributes:
        rest_url: base of the REST paths, such as `http://127.0.0.1:40123`.
        ws_url: base of the websocket paths, such as `ws://127.0.0.1:40123`.
        player: of the first tape, the one that a client of lockstep follows; the others keep up with it.
        stopping: set when a client has asked the venue to stop.
    """

    def __init__(
        self,
        config: Config,
        tapes: Sequence[Trades],
        truth: TruthLog,
        *,
        valuations: Sequence[tuple[Marks | None, Funding | None]],
        keys: tuple[str, str],
        begin_s: float,
        script: Sequence[Fault],
        wall: Callable[[], int],
    ) -> None:
        if config.session.speed not in (0.0, 1.0):
            raise ConfigError(f"speed: must be 0 (lockstep) or 1 (wall clock), was {config.session.speed}")
        self.lockstep, self._wall, self.truth = config.session.speed == 0, wall, truth
        if self.lockstep:
            check_lockstep(script)
        first, begin_ms = min(int(tape.time[0]) for tape in tapes), int(begin_s * 1000)
        if begin_ms > int(tapes[0].time[-1]) - first:
            raise ConfigError(f"begin_s: must lie within the tape of {tapes[0].symbol}, was {begin_s:g}")
        before = next((row for row in truth.rows if row["kind"] == "venue"), {})
        self.instance: str = before.get("instance", os.urandom(8).hex())
        """Tells this venue's account from that of another."""
        shift: int = before.get("shift", 0 if self.lockstep else wall() - first - begin_ms)
        if shift:
            tapes = [replace(tape, time=tape.time + shift) for tape in tapes]
        symbols = [tape.symbol for tape in tapes]
        if truth.rows:
            if before.get("symbols") != symbols:
                raise DataError(f"log: must be of a venue of {', '.join(symbols)}, was of {before.get('symbols')}")
            self.exchange = restored(truth.rows, truth.write)
        else:
            truth.write({"kind": "venue", "instance": self.instance, "shift": shift, "symbols": symbols})
            self.exchange = exchange_for(config, symbols, clock=first + shift - 1, log=truth.write)
        self.players = [
            player_for(
                config, self.exchange, tape, marks=_shifted(marks, shift), funding=_shifted(funding, shift), batch=BATCH
            )
            for tape, (marks, funding) in zip(tapes, valuations, strict=True)
        ]
        self.player: TapePlayer = self.players[0]
        wires = [Wire(self.exchange.markets[symbol].instrument) for symbol in symbols]
        self.boards = {tape.symbol: Board(wire, tape) for wire, tape in zip(wires, tapes, strict=True)}
        for player, board in zip(self.players, self.boards.values(), strict=True):
            board.sent, board.marks = player.trades_played, [*map(player.mark, range(player.marks_played))]
        self.streams = Streams(symbols, f"{keys} {self.instance} {len(truth.rows)}")
        self.rest = RestApi(self.exchange, self.boards, self.streams, lambda: self.now() + self.faults.ahead_ms, keys)
        if not before:
            self._play_until(first + shift + begin_ms - 1)
        self.faults = Faults(script, config.session.seed, self)
        self.stopping = asyncio.Event()
        self.rest_url = self.ws_url = ""
        self._runner: web.AppRunner | None = None
        self._clockwork: asyncio.Task[None] | None = None

    def now(self) -> int:
        """The venue's clock, ms UTC: the tape's in lockstep, else the wall's."""
        return self.exchange.clock if self.lockstep else self._wall()

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
        board, player = self.boards[self.player.trades.symbol], self.player
        row = {"time": self.now(), "last_time": player.last_time, "lockstep": self.lockstep, "instance": self.instance}
        row |= {"symbols": list(self.boards), "trades": len(board.trades), "played": player.trades_played}
        return answer({**row, "sent": board.sent, "sockets": len(self.streams.sockets)})

    # --- the tapes ---------------------------------------------------------------------------------------------------

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
        board, player = self.boards[self.player.trades.symbol], self.player
        match ask:
            case {"op": "hello", "trade_id": int(trade_id), "marks": int(marks)}:
                return self._greet(board, trade_id, marks)
            case {"op": "go"}:
                return self._go(board)
            case {"op": "at", "trade_id": int(trade_id), "marks": int(marks), "time": int(time)}:
                trades = int(np.searchsorted(board.trades.id, trade_id, side="right")) - player.trades_played
                ahead = marks - player.marks_played
                if trades > board.sent - player.trades_played or ahead not in (0, 1):
                    return {"error": f"trade {trade_id} and mark {marks} were not sent, or are not next"}
                try:
                    player.play(trades, ahead == 1, time)
                except ValueError as error:
                    return {"error": str(error)}
                return self._news()
            case {"op": "finish"}:
                player.finish()
                return self._news()
        return {"error": f"unknown step {ask}"}

    def _greet(self, board: Board, trade_id: int, marks: int) -> Json:
        """Meet an engine: a new one (trade 0) goes on from where the tape is, one that comes back says where it is.

        What was sent and not yet played is sent once more: frames may have been lost with the engine before.
        """
        if trade_id:
            # After a restart the log may not say how far the tape was, and the engine does.
            board.sent = max(board.sent, int(np.searchsorted(board.trades.id, trade_id, side="right")))
            answer = self._step({"op": "at", "trade_id": trade_id, "marks": marks, "time": self.now()})
            if "error" in answer:
                return answer
        board.sent = self.player.trades_played
        del board.marks[self.player.marks_played :]
        last = int(board.trades.id[board.sent - 1]) if board.sent else 0
        return {"trade_id": last, "marks": self.player.marks_played, "time": self.now()}

    def _go(self, board: Board) -> Json:
        """Send what lies before the horizon and was not sent before; tell where the horizon is.

        The horizon may lie before what was sent already, when an order has come in between: `trade_id` and `mark`, the
        number of mark prices, say how far the engine may go.
        """
        segment = self.player.horizon()
        fault = int(np.searchsorted(segment.trades.time, self.faults.next_due()))
        if fault < len(segment.trades):  # what a fault does comes next, behind the first trade of its time
            segment = Segment(segment.trades[: max(1, fault)], None, False)
        horizon = self.player.trades_played + len(segment.trades)
        self._send(self.player, horizon, segment.mark)
        return {
            "trade_id": int(board.trades.id[horizon - 1]) if horizon else 0,
            "trades": len(segment.trades),
            "mark": self.player.marks_played + (segment.mark is not None),
            "end": segment.end,
            "time": self.now(),
        }

    def _news(self) -> Json:
        """Let the other tapes keep up, push what happened, tell how many user events the connection was sent in all."""
        for player in self.players[1:]:
            self._catch_up(player, self.now())
        self._deliver()
        return {"user": self.streams.user_frames, "time": self.now()}

    async def _play_by_the_wall(self) -> None:
        """Play what is due, again and again; after the last trade market orders fill at the last price."""
        while True:
            self._play_until(self._wall())
            for player in self.players:
                if player.is_over and any(map(wants_the_end, self.exchange.open_orders(player.trades.symbol))):
                    player.finish()
            self._deliver()
            self.streams.look_after(time.time())
            await asyncio.sleep(WALL_STEP_S)

    def _play_until(self, now: int) -> None:
        for player in self.players:
            self._catch_up(player, now)
        self.exchange.advance(now)

    def _catch_up(self, player: TapePlayer, now: int) -> None:
        """Send and play what of a tape is due."""
        while True:
            segment = player.horizon()
            due = int(np.searchsorted(segment.trades.time, now, side="right"))
            whole = due == len(segment.trades) and (segment.mark is None or segment.mark.time <= now)
            mark = segment.mark if whole else None
            self._send(player, player.trades_played + due, mark)
            player.play(due, mark is not None, 0)
            if segment.end or not whole:
                return

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send(self, player: TapePlayer, end: int, mark: MarkPrice | None) -> None:
        """Send the trades of a tape before position `end`, then its next mark price, as far as not sent before."""
        board, before = self.boards[player.trades.symbol], 0
        if end > board.sent:
            before, board.sent = board.sent, end
            self._push(board, "aggTrade", lambda: board.wire.agg_trade_events(board.trades[before:end]))
            self._push(board, "bookTicker", lambda: [orjson.dumps(board.wire.book_event(board.seen[-BOOK_TRADES:]))])
            for interval in INTERVALS_MS:
                self._push(board, f"kline_{interval}", partial(board.kline_events, before, interval, self.now()))
        if mark is not None and len(board.marks) <= player.marks_played:
            board.marks.append(mark)
            for kind in ("markPrice", "markPrice@1s"):
                self._push(board, kind, lambda: [orjson.dumps(board.wire.mark_event(mark))])

    def _push(self, board: Board, kind: str, write: Callable[[], list[bytes]]) -> None:
        """Send events of a market stream that somebody has subscribed to."""
        if self.streams.listeners(board.symbol, kind):
            self.faults.on_event(f"market {kind}", write(), partial(self.streams.push, board.symbol, kind))

    def _deliver(self) -> None:
        """Do what is due, and push what happened at the exchange to the user data streams, in its order."""
        self.faults.pass_time()
        self.rest.pass_time(self.now())
        for happened in self.exchange.outbox:
            for event in self._user_events(happened):
                facts = event.get("o", {})
                what = f"user {event['e']} {facts.get('X', '')} {facts.get('c') or facts.get('caid') or ''}"
                push = partial(self.streams.push_user, event["e"])
                self.faults.on_event(what, [orjson.dumps(event)], push)
        self.exchange.outbox.clear()
        self.streams.expire_listen_key(self.now())

    def _user_events(self, happened: UserEvent) -> Iterator[Json]:
        if isinstance(happened, OrderUpdate):
            wire = self.boards[happened.symbol].wire
            if happened.execution == "TRADE":
                yield wire.trade_lite(happened)
            yield wire.order_event(happened)
        elif isinstance(happened, AlgoUpdate):
            yield self.boards[happened.symbol].wire.algo_event(happened, self.exchange.algos[happened.algo_id])
        elif isinstance(happened, AccountChange):
            yield account_event(happened, {symbol: board.wire for symbol, board in self.boards.items()})
        elif isinstance(happened, SettingsChange):
            yield leverage_event(happened)

    # --- REST --------------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        """Answer a REST request: carry it out, log it, push what it caused, and only then answer."""
        params = Params(request.raw_path.partition("?")[2], await request.text())
        if not self.lockstep:
            self._play_until(self.now())
        self.faults.pass_time()
        result = await self.faults.carry(request, params, partial(self._carry_out, request, params))
        self._deliver()
        if isinstance(result, web.StreamResponse):
            return result
        if result.status == 200 and self._answers_late(request, params):
            result = await self._settled(result)
        response = answer(result.body, result.status)
        response.headers.update(result.headers)
        return response

    def _carry_out(self, request: web.Request, params: Params, received: int = 0) -> Answer:
        key = request.headers.get("X-MBX-APIKEY", "")
        result = self.rest.answer(request.method, request.path, key, params, received)
        row = {"kind": "request", "time": self.now(), "method": request.method, "path": request.path}
        row |= {name: params.get(name) for name in LOGGED if params.get(name)}
        self.truth.write({**row, "status": result.status, "code": result.body["code"] if result.status != 200 else 0})
        return result

    def _answers_late(self, request: web.Request, params: Params) -> bool:
        """Whether Binance would answer this order with its final state: RESULT, and nothing that rests in the book."""
        is_order = request.method == "POST" and request.path == "/fapi/v1/order"
        rests = params.get("type") == "LIMIT" and params.get("timeInForce") not in ("IOC", "FOK")
        return is_order and not self.lockstep and params.get("newOrderRespType") == "RESULT" and not rests

    async def _settled(self, placed: Answer) -> Answer:
        """Wait, not for long, until an order has ended."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            order = self.exchange.query_order(placed.body["symbol"], order_id=placed.body["orderId"])
            if order.status not in OPEN:
                return placed._replace(body=self.boards[order.symbol].wire.order(order))
            await asyncio.sleep(WALL_STEP_S)
        return placed


Columns = TypeVar("Columns", Marks, Funding)


def _shifted(columns: Columns | None, by_ms: int) -> Columns | None:
    return columns and replace(columns, time=columns.time + by_ms)


async def serve(
    config: Config,
    *tapes: Tape | Trades,
    log_dir: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    api_key: str = "sim-key",
    api_secret: str = "sim-secret",
    begin_s: float | None = None,
    script: Sequence[Fault] = (),
    wall: Callable[[], int] = wall_ms,
) -> Venue:
    """Start a venue over tapes, each of another symbol.

    Args:
        config: execution and account settings, and the speed.
        tapes: a client of lockstep follows the first.
        log_dir: folder of the ground-truth log; one that has a log is gone on with.
        port: 0 takes a free one.
        begin_s: so much of the tape is history when the venue opens; None for what `config` says.
        script: faults on purpose.
        wall: ms UTC, what the tapes play by at speed 1.

    Raises:
        ConfigError: an address, a speed, a `begin_s` or a fault that can't be had.
        DataError: the log is of another exchange.
    """
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(f"host: the simulated venue must listen on loopback, was {host}")
    trades = [tape.trades if isinstance(tape, Tape) else tape for tape in tapes]
    valuations = [(tape.marks, tape.funding) if isinstance(tape, Tape) else (None, None) for tape in tapes]
    begin_s = config.session.begin_s if begin_s is None else begin_s
    truth = TruthLog(log_dir)
    try:
        venue = Venue(
            config,
            trades,
            truth,
            valuations=valuations,
            keys=(api_key, api_secret),
            begin_s=begin_s,
            script=script,
            wall=wall,
        )
        await venue.start(host, port)
    except BaseException:
        truth.close()
        raise
    return venue
