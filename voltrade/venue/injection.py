"""Fault injection: a seeded script between the simulated exchange and its sockets.

The same script and seed with the same requests gives the same faults. Each fault is written to the ground-truth log
before it takes effect, and so is the script, so that a venue that is started again goes on with it.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from voltrade.errors import DataError
from voltrade.model import NEVER
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.ground_truth import TruthLog
from voltrade.simulated.refusals import VenueRefusal, refused_without_cause
from voltrade.simulated.scripted import run_action
from voltrade.venue.altering import altered
from voltrade.venue.faults import EVENTS, LOST, REQUESTS, TIMES, Fault, check_lockstep, read_script, written
from voltrade.venue.finer import FINER, divided
from voltrade.venue.requests import Params, Response, refusal_response
from voltrade.venue.rest import RestApi
from voltrade.venue.streams import Binary

HOLD_S = 120.0
"""Longest wait of a request that must time out."""
HUGE_BYTES = 16 << 20

LASTING = ("skew_clock", "ban", "maintenance", "unreachable")
"""Timed faults that last, and go on when a venue is started again."""

UNDONE_BY: Mapping[str, Mapping[str, Any]] = {
    "restrict": {"code": 0},
    "status": {"status": "TRADING"},
    "stick_triggers": {"sticking": False},
    "thin_book": {"quantity": None},
}
"""What ends an action after its `for_s`, if it has one: these values in the place of its own, None for without."""

Send = Callable[[list[bytes]], object]


class Past(NamedTuple):
    """The exchange as it was."""

    since: int
    """When it was so first, ms of the venue's clock."""
    noted: int
    """How much had happened then, see `EventLog`."""
    exchange: SimulatedExchange


class Faults:
    """A running script. Chances come from the seed, and `at_s` counts from the first opening of the venue.

    Attributes:
        ahead_ms: how much the clock that clients see is ahead of the venue's.
    """

    def __init__(
        self, script: Sequence[Fault], seed: int, rest: RestApi, truth: TruthLog, now: Callable[[], int], lockstep: bool
    ) -> None:
        self.ahead_ms = self._down_until = self._unreachable_until = 0
        self._script: list[Fault] = []
        self._stale: list[int] = []
        """Numbers of the faults that answer from the past."""
        self._timed: list[int] = []
        """Numbers of the faults with a time."""
        self._next_timed: int | None = None
        """When the first of them is due; None where one has struck since that was found."""
        self._seen, self._hits = Counter[int](), Counter[int]()
        self._rest, self._truth, self._now, self._lockstep = rest, truth, now, lockstep
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()
        self._held_back: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        self._lags_until: Counter[str] = Counter()
        """By channel, when the last event that is late in order is sent, ms."""
        self._past: deque[Past] = deque()
        earlier = [row for row in truth.rows if row["kind"] == "script"]
        self._begin = int(earlier[0]["time"]) if earlier else now()
        self._random = random.Random(seed + sum(row["kind"] == "fault" for row in truth.rows))
        if not earlier:
            self._write_script(script)
            self._append(script)
        else:
            self._go_on(truth.rows)
            if written(script) != earlier[0]["faults"]:
                self.add(*script)

    # --- the script ---------------------------------------------------------------------------------------------------

    def add(self, *faults: Fault) -> None:
        """Add faults to the script; `ConfigError` if one is impossible in lockstep."""
        if self._lockstep:
            check_lockstep(faults)
        self._write_script(faults)
        self._append(faults)

    def add_from_now(self, faults: Iterable[Fault]) -> None:
        """Add faults whose times count from now."""
        now_s = (self._now() - self._begin) / 1000
        later = [{"at_s": fault.at_s + now_s, "until_s": fault.until_s + now_s} for fault in faults]
        self.add(*(fault.model_copy(update=times) for fault, times in zip(faults, later, strict=True)))

    def _append(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.do in TIMES:
                self._timed.append(len(self._script))
                self._next_timed = None
            elif fault.do == "stale":
                self._stale.append(len(self._script))
            self._script.append(fault)

    def _write_script(self, faults: Iterable[Fault]) -> None:
        self._truth.write({"kind": "script", "time": self._now(), "faults": written(faults)})

    def _go_on(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Continue with the script of a log where it was: what struck is counted, and what lasts goes on."""
        lasting: dict[str, tuple[int, int]] = {}
        for row in rows:
            if row["kind"] == "script":
                self._append(read_script(row["faults"]))
            elif row["kind"] == "fault" and "number" in row:
                number = row["number"]
                self._hits[number], self._seen[number] = self._hits[number] + 1, row["seen"]
                self._next_timed = None
                if row["do"] in LASTING:
                    lasting[row["do"]] = (number, row["time"])
                self._undo_at(self._script[number], row["time"] + int(self._script[number].for_s * 1000))
            elif row["kind"] == "jumped":
                moved = {name: row[name] for name in ("trade_id", "count", "ticks", "marks")}
                self._rest.market_data[row["symbol"]].jump_again(**moved)
            elif row["kind"] == "spread":
                self._rest.market_data[row["symbol"]].spread_again(row["trade_id"], row["ticks"], row["lots"])
        for number, since in lasting.values():
            if since + self._script[number].for_s * 1000 > self._now():
                self._run(self._script[number], since)

    def _strike(self, kinds: Mapping[str, str], what: str) -> Fault | None:
        """Return the first fault of these kinds that applies, after logging it."""
        now = self._now() - self._begin
        for number, fault in enumerate(self._script):
            is_now = fault.do in kinds and fault.at_s * 1000 <= now < fault.until_s * 1000
            if is_now and fault.on.search(what):
                self._seen[number] += 1
                is_due = self._seen[number] > fault.skip and not self._is_used_up(number)
                if is_due and self._random.random() < fault.chance:
                    self._log(number, what)
                    return fault
        return None

    def _is_used_up(self, number: int) -> bool:
        return 0 < self._script[number].times <= self._hits[number]

    def _log(self, number: int, what: str) -> None:
        self._hits[number] += 1
        self._next_timed = None
        fault = self._script[number]
        facts = fault.model_dump(exclude_defaults=True, by_alias=True, exclude={"do", "on"})
        self._write(do=fault.do, struck=what, number=number, seen=self._seen[number], **facts)

    def _write(self, **facts: Any) -> None:
        self._truth.write({"kind": "fault", "time": self._now(), **facts})

    # --- requests -----------------------------------------------------------------------------------------------------

    async def handle(
        self, request: web.BaseRequest, params: Params, respond: Callable[..., Response]
    ) -> Response | web.StreamResponse:
        """Carry out a request and return its response, unless a fault applies.

        `respond` carries the request out. It takes the time when the request was received, the time when it reached the
        matching engine, and the exchange to read from, each if it is not the present one.
        """
        now = self._now()
        if now < self._unreachable_until:
            return await self._lose("abort", request)
        if now < self._down_until:
            return await self._lose("down", request)
        fault = self._strike(REQUESTS, f"{request.method} {request.path}")
        if fault is None or _is_spared(fault, request, params):
            return respond()
        return await self._struck(fault, request, respond)

    async def _struck(
        self, fault: Fault, request: web.BaseRequest, respond: Callable[..., Response]
    ) -> Response | web.StreamResponse:
        """Respond to a request that a fault strikes."""
        now = self._now()
        match fault.do:
            case "refuse":
                return refusal_response(refused_without_cause(fault.code))
            case "alter_answer":
                return _altered(respond(), fault)
            case "stale":
                return respond(past=self._past_of(fault, now)) if request.method == "GET" else respond()
            case "delay_request":
                await asyncio.sleep(fault.for_s)
                return respond(now, self._now())
            case "delay_answer":
                response = respond()
                await asyncio.sleep(fault.for_s)
                return response
            case "late":
                self._at(now + int(fault.for_s * 1000), partial(self._carry_out_late, fault, now, respond))
            case "lose_answer":
                respond()
                if fault.code:
                    return refusal_response(refused_without_cause(fault.code))
        return await self._lose(fault.how, request)

    def _carry_out_late(self, fault: Fault, received: int, respond: Callable[..., Response]) -> None:
        respond(received, self._now() if fault.more.get("recheck") else received)

    @staticmethod
    async def _lose(how: str, request: web.BaseRequest) -> web.Response:
        if how == "timeout":
            await asyncio.sleep(HOLD_S)
        if how in ("timeout", "abort"):
            assert request.transport is not None
            request.transport.abort()
        status, body, kind = LOST[how]
        headers = {"Location": request.path} if how == "redirect" else {}
        return web.Response(status=status, text=body, content_type=kind, headers=headers)

    # --- the past -----------------------------------------------------------------------------------------------------

    def _past_of(self, fault: Fault, now: int) -> SimulatedExchange:
        """Return the exchange as it was so long ago, or as long ago as is known."""
        old_enough = [past for past in self._past if past.since <= now - fault.for_s * 1000]
        kept = old_enough[-1:] or [*self._past][:1]
        return kept[0].exchange if kept else self._rest.exchange

    def _keep_past(self, now: int) -> None:
        """Keep the exchange as it is now, where a fault may answer from it later."""
        at_s = (now - self._begin) / 1000
        faults = [self._script[number] for number in self._stale if not self._is_used_up(number)]
        lags = [fault.for_s for fault in faults if fault.at_s - fault.for_s <= at_s < fault.until_s]
        if not lags:
            self._past.clear()
            return
        exchange = self._rest.exchange
        if not self._past or self._past[-1].noted != exchange.events.noted:
            self._past.append(Past(now, exchange.events.noted, exchange.copy()))
        while len(self._past) > 1 and self._past[1].since <= now - max(lags) * 1000:
            self._past.popleft()

    # --- events -------------------------------------------------------------------------------------------------------

    def on_event(self, what: str, events: list[bytes], send: Send) -> None:
        """Send events (JSON) of one kind with `send`, unless a fault applies.

        `what` describes them, such as `market aggTrade` or `user ORDER_TRADE_UPDATE FILLED vt-1e`.
        """
        if not self._script:
            send(events)
            return
        channel, now = what.split(" ")[0], self._now()
        for event in events:
            fault = self._strike(EVENTS, what)
            if fault is not None and fault.do == "lag":
                self._lags_until[channel] = max(self._lags_until[channel], now + int(fault.for_s * 1000))
            self._send(fault, channel, event, self._in_turn(channel, send))

    def _in_turn(self, channel: str, send: Send) -> Send:
        """Return how to send events of a channel after those that are late in order."""
        due = self._lags_until[channel]
        return (lambda events: self._at(due, partial(send, events))) if due > self._now() else send

    def _send(self, fault: Fault | None, channel: str, event: bytes, send: Send) -> None:
        now, held_back = self._now(), self._held_back[channel]
        match fault:
            case Fault(do="drop"):
                return
            case Fault(do="reorder", more=more):
                held_back.append((int(more.get("by", 1)), event))
                return
            case Fault(do="delay", for_s=for_s):
                self._at(now + int(for_s * 1000), partial(send, [event]))
                return
            case Fault(do="hold", until_s=until_s):
                self._at(self._begin + int(until_s * 1000), partial(send, [event]))
                return
        overtaken = [(left - 1, held) for left, held in held_back]
        held_back[:] = [row for row in overtaken if row[0] > 0]
        send([*_changed(fault, event), *(held for left, held in overtaken if left <= 0)])

    # --- times --------------------------------------------------------------------------------------------------------

    def _at(self, due: int, act: Callable[[], object]) -> None:
        heapq.heappush(self._later, (due, next(self._numbers), act))

    def next_due(self) -> int:
        """Return the time of the next action, ms of the venue's clock."""
        if self._next_timed is None:
            self._next_timed = min(map(self._due, self._timed), default=NEVER)
        return min(self._later[0][0], self._next_timed) if self._later else self._next_timed

    def _due(self, number: int) -> int:
        """Return when a fault with a time is due next."""
        fault = self._script[number]
        due_s = fault.at_s + self._hits[number] * fault.every_s
        is_over = self._is_used_up(number) or due_s >= fault.until_s
        return NEVER if is_over else self._begin + int(due_s * 1000)

    def run_due(self) -> None:
        """Run the timed faults, and what earlier faults delayed, up to now."""
        now = self._now()
        while self.next_due() <= now:
            if self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[-1]()
                continue
            number = min(self._timed, key=self._due)
            due, fault = self._due(number), self._script[number]
            self._log(number, fault.on.pattern)
            self._run(fault, due)
        self._keep_past(now)

    def _run(self, fault: Fault, due: int) -> None:
        end, streams = due + int(fault.for_s * 1000), self._rest.streams
        match fault.do:
            case "abort" | "close" | "black_hole":
                self._cut(fault, end)
            case "expire_listen_key":
                streams.expire_listen_key(self._now(), early=True, told=fault.more.get("told", True))
            case "new_listen_key":
                streams.replace_listen_key(self._now())
            case "skew_clock":
                self.ahead_ms = fault.more["ms"]
                self._at(end, partial(setattr, self, "ahead_ms", 0))
            case "ban":
                self._rest.limits.block(fault.code or 429, end, told=fault.more.get("retry_after", True))
            case "spend_weight":
                self._rest.limits.spend(fault.more["weight"], self._now())
            case "weight_limit":
                self._rest.limits.set_weight(fault.more["weight"])
            case "jump":
                self._jump(**fault.more)
            case "filters":
                self._change_filters(fault.more)
            case "maintenance":
                self._down_until = end
                self._cut(fault, end)
            case "unreachable":
                self._unreachable_until, streams.is_unreachable = end, True
                self._at(end, partial(setattr, streams, "is_unreachable", False))
                self._cut(fault, end)
            case action:
                self._act(action, fault.more)
                self._undo_at(fault, end)

    def _act(self, action: str, facts: Mapping[str, Any]) -> None:
        """Run an action on the exchange; what can't be done is logged."""
        try:
            if action == "filters":
                facts = divided(self._rest.exchange.market(facts["symbol"]).rules, facts)
            run_action(self._rest.exchange, action, facts)
        except (VenueRefusal, DataError, LookupError, ValueError, TypeError) as error:
            self._write(do=action, failed=f"{type(error).__name__}: {error}")

    def _change_filters(self, facts: Mapping[str, Any]) -> None:
        """Change filters; where tick or step become finer, let the trades to come be off the earlier ones."""
        symbol = facts["symbol"]
        before = self._rest.exchange.markets[symbol].rules if symbol in self._rest.exchange.markets else None
        self._act("filters", facts)
        if before is not None and FINER.keys() & facts.keys():
            after = self._rest.exchange.markets[symbol].rules
            ticks, lots = before.tick_multiple // after.tick_multiple, before.step_multiple // after.step_multiple
            trade_id = self._rest.market_data[symbol].spread(ticks, lots)
            row = {"symbol": symbol, "trade_id": trade_id, "ticks": ticks, "lots": lots}
            self._truth.write({"kind": "spread", "time": self._now(), **row})

    def _undo_at(self, fault: Fault, end: int) -> None:
        if fault.for_s and fault.do in UNDONE_BY:
            facts = {name: fact for name, fact in {**fault.more, **UNDONE_BY[fault.do]}.items() if fact is not None}
            self._at(end, partial(self._act, fault.do, facts))

    def _jump(self, symbol: str, by: float, trades: int = 0, marks: bool = True) -> None:
        """Let the tape's prices jump by a fraction, for so many trades or for good, and mark prices with them."""
        trade_id, count, ticks = self._rest.market_data[symbol].jump(by, trades, marks=marks)
        moved = {"symbol": symbol, "trade_id": trade_id, "count": count, "ticks": ticks, "marks": marks}
        self._truth.write({"kind": "jumped", "time": self._now(), **moved})

    def _cut(self, fault: Fault, end: int) -> None:
        for socket in [each for each in self._rest.streams.sockets if fault.on.search(each.category or "legacy")]:
            if fault.do == "close":
                socket.close(1001)
            elif fault.do == "black_hole":
                socket.is_dead = True
                self._at(end, socket.transport.abort)
            else:
                socket.transport.abort()


def _is_spared(fault: Fault, request: web.BaseRequest, params: Params) -> bool:
    """Whether a request reduces risk, and so is accepted in an overload."""
    claims = (params.get(name).lower() for name in ("reduceOnly", "closePosition"))
    return fault.code == -1008 and (request.method == "DELETE" or "true" in claims)


def _altered(response: Response, fault: Fault) -> Response:
    """Return a response with other values; a refusal stays what it is."""
    if response.status != 200:
        return response
    return response._replace(body=altered(response.body, fault.more, fault.without))


def _changed(fault: Fault | None, event: bytes) -> list[bytes]:
    """Return what is sent in the place of an event."""
    match fault:
        case Fault(do="duplicate"):
            return [event, event]
        case Fault(do="alter", more=more, without=without):
            return [orjson.dumps(altered(orjson.loads(event), more, without))]
        case Fault(do="garble", more=more):
            return [_garbled(event, more.get("as", "cut"))]
    return [event]


def _garbled(event: bytes, how: str) -> bytes:
    match how:
        case "binary":
            return Binary(event)
        case "huge":
            return event[:-1] + b',"pad":"' + b"0" * HUGE_BYTES + b'"}'
        case "text":
            return b"service unavailable"
    return event[: len(event) // 2]
