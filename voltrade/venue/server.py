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
from voltrade.simulated.ground_truth import TruthLog, restored
from voltrade.simulated.tape_playback import TapePlayer, exchange_for, player_for, steps_until
from voltrade.venue.faults import Fault, Faults, check_lockstep
from voltrade.venue.market_data import INTERVALS_MS, Board, mark_message
from voltrade.venue.requests import Answer, Params
from voltrade.venue.rest import RestApi
from voltrade.venue.streams import Streams
from voltrade.venue.wire import OPEN, Json, user_events

BATCH = 10_000
"""Most trades sent in one step of lockstep."""
WALL_STEP_S, SETTLE_S = 0.005, 1.0
"""At speed 1 the tapes are caught up this often, and an order with RESULT is answered when done, or after this long."""

LOGGED = ("symbol", "newClientOrderId", "origClientOrderId", "clientAlgoId", "orderId", "algoId")
"""What the log keeps of a request's parameters."""

SOCKET = re.compile(r"(?:/(market|public|private))?/(ws|stream)(?:/(.*))?")
"""Paths of websockets: category, whether events come wrapped, and the name of a stream."""

Columns = TypeVar("Columns", Trades, Marks, Funding)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def shifted(columns: Columns, by_ms: int) -> Columns:
    return replace(columns, time=columns.time + by_ms)


def json_response(result: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(result), status=status, content_type="application/json")


class Venue:
    """The server. Made by `serve`; everything happens in one event loop, a request or a step of a tape at a time.

    Args:
        config: execution and account settings, and the speed.
        tapes: each of another symbol; a client of lockstep follows the first, the others keep up with it.
        truth: the log; one that has rows is gone on with.
        begin_s: so much of the tape is history when the venue opens; None for what `config` says.
        script: faults on purpose.
        wall: ms UTC, what the tapes play by at speed 1.
        instance: names a new venue's account; empty for a name by chance.

    Attributes:
        instance: tells this venue's account from that of another, also after a restart.
        rest_url, ws_url: bases of the paths, such as `http://127.0.0.1:40123`.
        stopping: set when a client has asked the venue to stop.
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
        row: Json = next((row for row in truth.rows if row["kind"] == "venue"), {} if truth.rows else new)
        if row.get("symbols") != symbols:
            raise DataError(f"log: must be of a venue of {', '.join(symbols)}, was of {row.get('symbols')}")
        self.instance, shift = str(row["instance"]), int(row["shift"])
        if truth.rows:
            self.exchange = restored(truth.rows, truth.write)
        else:
            truth.write(new)
            self.exchange = exchange_for(config, symbols, clock=first + shift - 1, log=truth.write)
        self.players: list[TapePlayer] = []
        for each, tape in zip(trades, tapes, strict=True):
            marks, funding = (tape.marks, tape.funding) if isinstance(tape, Tape) else (None, None)
            marks, funding = marks and shifted(marks, shift), funding and shifted(funding, shift)
            given = (config, self.exchange, shifted(each, shift))
            self.players.append(player_for(*given, marks=marks, funding=funding, batch=BATCH))
        self.player = self.players[0]
        self.boards = {player.trades.symbol: Board(player) for player in self.players}
        self.board = self.boards[symbols[0]]
        owner = f"{api_key} {api_secret} {self.instance} {len(truth.rows)}"
        self.streams = Streams(symbols, owner, lambda: wall() / 1000)
        self.rest = RestApi(
            self.exchange, self.boards, self.streams, lambda: self.now() + self.faults.ahead_ms, (api_key, api_secret)
        )
        if not truth.rows:
            self._play_until(first + shift + begin_ms - 1, self.players)
        self.faults = Faults(script, config.session.seed, self.rest, truth, self.now, self.lockstep)
        self.stopping = asyncio.Event()
        self.rest_url = self.ws_url = ""
        self._held = AsyncExitStack()
        self._in_use, self._used = 0, time.monotonic()

    def now(self) -> int:
        """The venue's clock, ms UTC: the tape's in lockstep, else the wall's."""
        return self.exchange.clock if self.lockstep else self._wall()

    async def start(self, host: str, port: int) -> None:
        """Listen; at speed 1 also begin to play."""
        runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        self._held.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        self.rest_url, self.ws_url = f"http://{address[0]}:{address[1]}", f"ws://{address[0]}:{address[1]}"
        if not self.lockstep:
            clockwork = asyncio.create_task(self._play_by_the_wall())
            clockwork.add_done_callback(lambda _: self.stopping.set())
            self._held.callback(clockwork.cancel)

    async def until_stopped(self, idle_s: float) -> None:
        """Wait until a client stops the venue, or until nobody has used it for so long by the wall clock; 0: never."""
        while not self.stopping.is_set():
            left_s = idle_s if self._in_use else self._used + idle_s - time.monotonic()
            if idle_s and left_s <= 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), left_s if idle_s else None)

    async def close(self) -> None:
        """Stop playing and listening, cut all clients and close the log."""
        for socket in self.streams.sockets:
            socket.transport.close()
        await self._held.aclose()
        self.truth.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, or serve a websocket until it ends."""
        self._in_use += 1
        try:
            match request.method, request.path:
                case "GET", "/voltrade/status":
                    player, row = self.player, {"lockstep": self.lockstep, "instance": self.instance}
                    row |= {"time": self.now(), "last_time": player.last_time, "symbols": list(self.boards)}
                    row |= {"trades": len(player.trades), "played": player.trades_played, "sent": self.board.sent}
                    return json_response({**row, "sockets": len(self.streams.sockets)})
                case "POST", "/voltrade/stop":
                    self.stopping.set()
                    return json_response({"stopping": True})
                case "GET", "/voltrade/lockstep" if self.lockstep:
                    return await self._lockstep_socket(request)
            if socket := SOCKET.fullmatch(request.path):
                category, kind, name = socket.groups("")
                return await self.streams.serve(request, category, name, kind == "stream")
            return await self._rest(request)
        finally:
            self._in_use, self._used = self._in_use - 1, time.monotonic()

    # --- the tapes ---------------------------------------------------------------------------------------------------

    async def _lockstep_socket(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve the side channel: one JSON answer for each step that the engine asks for."""
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(orjson.dumps(self._step(orjson.loads(message.data))).decode())
        return ws

    def _step(self, ask: Json) -> Json:
        """Do one step of the side channel; a step that can't be done is answered with an error and changes nothing."""
        try:
            match ask:
                case {"op": "hello", "trade_id": int(trade_id), "marks": int(marks)}:
                    return self._greet(trade_id, marks)
                case {"op": "go"}:
                    return self._go()
                case {"op": "at", "trade_id": int(trade_id), "marks": int(marks), "time": int(time)}:
                    return self._at(trade_id, marks, time)
                case {"op": "finish"}:
                    self.player.finish()
                    return self._news()
        except ValueError as error:
            return {"error": str(error)}
        return {"error": f"unknown step {ask}"}

    def _greet(self, trade_id: int, marks: int) -> Json:
        """Meet an engine: a new one (trade 0) goes on from where the tape is, one that comes back says where it is.

        After a restart the log may not say how far the tape was, and the engine does. What was sent and not yet played
        is sent once more: frames may have been lost with the engine before.
        """
        if trade_id:
            self.player.go_to(self.board.rows_to(trade_id), marks)
        self.board.sync()
        last = int(self.board.trades.id[self.board.sent - 1]) if self.board.sent else 0
        return {**self._news(), "trade_id": last, "marks": self.player.marks_played}

    def _go(self) -> Json:
        """Send what lies before the horizon and was not sent before; tell where the horizon is.

        The horizon may lie before what was sent already, when an order has come in between: `trade_id` and `mark`, the
        number of mark prices, say how far the engine may go.
        """
        player, segment = self.player, self.player.horizon()
        fault = int(np.searchsorted(segment.trades.time, self.faults.next_due()))
        if fault < len(segment.trades):  # what a fault does comes next, behind the first trade of its time
            segment = Segment(segment.trades[: max(1, fault)], None, False)
        horizon = player.trades_played + len(segment.trades)
        self._show(player, horizon, segment.mark)
        last, mark = int(player.trades.id[horizon - 1]) if horizon else 0, player.marks_played + bool(segment.mark)
        return {"trade_id": last, "trades": len(segment.trades), "mark": mark, "end": segment.end, "time": self.now()}

    def _at(self, trade_id: int, marks: int, time: int) -> Json:
        """Play as far as the engine has come."""
        trades = self.board.rows_to(trade_id)
        if trades > self.board.sent or marks > len(self.board.marks):
            raise ValueError(f"trade {trade_id} and mark {marks} were not sent")
        self.player.go_to(trades, marks)
        self.exchange.advance(time)
        return self._news()

    def _news(self) -> Json:
        """Let the other tapes keep up, push what happened, tell how many user events the connection was sent in all."""
        self._play_until(self.now(), self.players[1:])
        self._deliver()
        return {"user": self.streams.user_frames, "time": self.now()}

    async def _play_by_the_wall(self) -> None:
        """Play what is due, again and again; after the last trade market orders fill at the last price."""
        while True:
            self.step()
            await asyncio.sleep(WALL_STEP_S)

    def step(self) -> None:
        """Play the tapes up to now by the wall, and tell what happened."""
        now = self._wall()
        self._play_until(now, self.players)
        for player in self.players:
            if player.is_over and any(order.is_immediate for order in player.market.open_orders.values()):
                player.finish()
        self._deliver()
        self.streams.look_after(now / 1000)

    def next_due(self) -> int:
        """Return when `step` has something to do at the latest, ms by the wall, if nobody asks for anything before."""
        return min([self.faults.next_due(), self.streams.next_due(), *(player.next_time for player in self.players)])

    def _play_until(self, now: int, players: Sequence[TapePlayer]) -> None:
        """Send and play what of tapes is due, in the order of time."""
        for player, trades, mark in steps_until(players, now):
            self._show(player, player.trades_played + len(trades), mark)
        self.exchange.advance(now)

    def _show(self, player: TapePlayer, end: int = 0, mark: MarkPrice | None = None) -> None:
        """Send the trades of a tape before position `end`, its next mark price, and the klines that time has closed."""
        board, wanted = self.boards[player.trades.symbol], self.streams.kinds(player.trades.symbol)
        before, then = board.sent, board.time
        board.show(end, self.now())
        if board.sent > before and "aggTrade" in wanted:
            self._push(board, "aggTrade", board.agg_trade_events(board.trades[before:end]))
        if board.sent > before and "bookTicker" in wanted:
            self._push(board, "bookTicker", [orjson.dumps(board.book("bookTicker", 0))])
        for interval in INTERVALS_MS if board.time > then else ():
            if f"kline_{interval}" in wanted:
                self._push(board, f"kline_{interval}", board.kline_events(interval, before, then))
        if mark is not None and len(board.marks) <= player.marks_played:
            board.marks.append(mark)
            for kind in wanted & {"markPrice", "markPrice@1s"}:
                self._push(board, kind, [orjson.dumps(mark_message("markPriceUpdate", mark))])

    def _push(self, board: Board, kind: str, events: list[bytes]) -> None:
        self.faults.on_event(f"market {kind}", events, partial(self.streams.push, board.symbol, kind))

    def _deliver(self) -> None:
        """Do what is due, and push what happened at the exchange to the user data streams, in its order."""
        self.faults.pass_time()
        self.rest.pass_time(self.now())
        for player in self.players:
            self._show(player)
        for happened in self.exchange.outbox:
            for event in user_events(self.exchange, happened):
                facts = event.get("o", {})
                what = f"user {event['e']} {facts.get('X', '')} {facts.get('c') or facts.get('caid') or ''}"
                push = partial(self.streams.push_user, event["e"])
                self.faults.on_event(what, [orjson.dumps(event)], push)
        self.exchange.outbox.clear()
        self.streams.expire_listen_key(self.now())

    # --- REST --------------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a REST request: carry it out, log it, push what it caused, and only then answer."""
        params = Params(request.raw_path.partition("?")[2], await request.text())
        if not self.lockstep:
            self._play_until(self.now(), self.players)
        self.faults.pass_time()
        result = await self.faults.carry(request, params, partial(self._carry_out, request, params))
        self._deliver()
        if isinstance(result, web.StreamResponse):
            return result
        # Binance answers an order with its final state where RESULT is asked for and it does not rest in the book.
        is_order = request.method == "POST" and request.path == "/fapi/v1/order" and result.status == 200
        rests = params.get("type") == "LIMIT" and params.get("timeInForce") not in ("IOC", "FOK")
        if is_order and not self.lockstep and params.get("newOrderRespType") == "RESULT" and not rests:
            result = await self._settled(result)
        response = json_response(result.body, result.status)
        response.headers.update(result.headers)
        return response

    def _carry_out(self, request: web.BaseRequest, params: Params, received: int = 0) -> Answer:
        key = request.headers.get("X-MBX-APIKEY", "")
        result = self.rest.answer(request.method, request.path, key, params, received)
        row = {"kind": "request", "time": self.now(), "method": request.method, "path": request.path}
        row |= {name: params.get(name) for name in LOGGED if params.get(name)}
        self.truth.write({**row, "status": result.status, "code": result.body["code"] if result.status != 200 else 0})
        return result

    async def _settled(self, placed: Answer) -> Answer:
        """Wait, not for long, until an order has ended."""
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
        ConfigError: an address that is not on loopback, a `begin_s` or a fault that can't be had.
        DataError: the log is of another venue.
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
