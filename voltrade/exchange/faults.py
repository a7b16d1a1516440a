"""Faults on purpose: a seeded script between the simulated exchange and its sockets.

A fault strikes requests, events on their way to a client, or at a time of the venue's clock. The same script and seed
over the same requests strike alike, and every strike stands in the ground-truth log before anybody feels it.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple, Protocol

import orjson
from aiohttp import web

from voltrade.errors import DataError
from voltrade.exchange.fault_script import EVENTS, LOST, REQUESTS, SCRIPTED, TIMES, Fault, check_lockstep
from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.simulated import SimulatedExchange
from voltrade.exchange.truth import TruthLog
from voltrade.exchange.venue_requests import Answer, Params, refusal_answer, refused
from voltrade.exchange.venue_rest import RestApi
from voltrade.exchange.venue_streams import Streams
from voltrade.model import NEVER

HOLD_S = 120.0
"""A request that is to time out is held for at most this long."""


class Venue(Protocol):
    """What faults strike."""

    exchange: SimulatedExchange
    streams: Streams
    rest: RestApi
    truth: TruthLog
    lockstep: bool

    def now(self) -> int: ...


class _Later(NamedTuple):
    due: int
    number: int
    act: Callable[[], object]


class Faults:
    """A script at work.

    Args:
        script: its faults.
        seed: of every chance in it.
        venue: what it strikes; `at_s` counts from its clock as it is now.

    Attributes:
        ahead_ms: how far the clock that clients see is ahead of the venue's.
    """

    def __init__(self, script: Sequence[Fault], seed: int, venue: Venue) -> None:
        self.ahead_ms = 0
        self._script: list[Fault] = []
        self._seen: list[int] = []
        self._hits: list[int] = []
        self._random, self._venue, self._begin = random.Random(seed), venue, venue.now()
        self._later: list[_Later] = []
        self._numbers = count()
        self._held_back: dict[str, list[bytes]] = defaultdict(list)
        self._down_until = 0
        for fault in script:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Add a fault to the script.

        Raises:
            ConfigError: it can't be had in lockstep.
        """
        if self._venue.lockstep:
            check_lockstep([fault])
        self._script.append(fault)
        self._seen.append(0)
        self._hits.append(0)

    # --- whom it strikes ---------------------------------------------------------------------------------------------

    def _struck(self, kinds: Mapping[str, str], what: str) -> Fault | None:
        """Return the first fault of these kinds that strikes, noted in the log."""
        now = self._venue.now() - self._begin
        for number, fault in enumerate(self._script):
            in_time = fault.at_s * 1000 <= now < fault.until_s * 1000
            if fault.do not in kinds or not in_time or not re.search(fault.on, what):
                continue
            self._seen[number] += 1
            is_due = self._seen[number] > fault.skip and (not fault.times or self._hits[number] < fault.times)
            if is_due and self._random.random() < fault.chance:
                self._hits[number] += 1
                self._note(fault, what)
                return fault
        return None

    def _note(self, fault: Fault, what: str) -> None:
        facts = fault.model_dump(exclude_defaults=True, by_alias=True, exclude={"do", "on"})
        self._venue.truth.write({"kind": "fault", "time": self._venue.now(), "do": fault.do, "struck": what, **facts})

    # --- requests ----------------------------------------------------------------------------------------------------

    async def carry(
        self, request: web.Request, params: Params, carry_out: Callable[..., Answer]
    ) -> Answer | web.StreamResponse:
        """Let a request be carried out, and its answer go back, as far as no fault strikes.

        `carry_out` takes the time at which the request came, where that is not now.
        """
        now = self._venue.now()
        if now < self._down_until:
            return _lost("down")
        fault = self._struck(REQUESTS, f"{request.method} {request.path}")
        # In an overload what reduces risk is let through.
        claims = (params.get(name).lower() for name in ("reduceOnly", "closePosition"))
        reduces = request.method == "DELETE" or "true" in claims
        if fault is None or (fault.code == -1008 and reduces):
            return carry_out()
        if fault.do == "refuse":
            return refusal_answer(refused(fault.code))
        if fault.do == "late":
            self._at(now + int(fault.for_s * 1000), partial(carry_out, now))
        elif fault.do != "swallow":
            answer = carry_out()
            if fault.do == "delay_answer":
                await asyncio.sleep(fault.for_s)
                return answer
            if fault.do == "alter_answer":
                return answer._replace(body={**answer.body, **fault.more})
            if fault.code:
                return refusal_answer(refused(fault.code))
        if fault.how == "timeout":
            await asyncio.sleep(HOLD_S)
        if fault.how in ("timeout", "abort"):
            assert request.transport is not None
            request.transport.abort()
        return _lost(fault.how)

    # --- events ------------------------------------------------------------------------------------------------------

    def on_event(self, what: str, events: list[bytes], send: Callable[[list[bytes]], object]) -> None:
        """Send events, all of one kind, as far and as often as no fault strikes.

        Args:
            what: such as `market aggTrade` or `user ORDER_TRADE_UPDATE FILLED vt-1e`.
            events: their JSON.
            send: takes what is to go out now.
        """
        if not self._script:
            send(events)
            return
        held_back, now = self._held_back[what.split(" ")[0]], self._venue.now()
        for event in events:
            fault = self._struck(EVENTS, what)
            match fault.do if fault else "":
                case "drop":
                    pass
                case "reorder":
                    held_back.append(event)
                case "delay" | "hold":
                    assert fault is not None
                    due = now + fault.for_s * 1000 if fault.do == "delay" else self._begin + fault.until_s * 1000
                    self._at(int(due), partial(send, [event]))
                case "alter":
                    assert fault is not None
                    send([orjson.dumps({**orjson.loads(event), **fault.more})])
                case kind:
                    first = {"duplicate": [event, event], "garble": [event[: len(event) // 2]]}.get(kind, [event])
                    send([*first, *held_back])
                    held_back.clear()

    # --- times -------------------------------------------------------------------------------------------------------

    def _at(self, due: int, act: Callable[[], object]) -> None:
        heapq.heappush(self._later, _Later(due, next(self._numbers), act))

    def next_due(self) -> int:
        """Return when something comes next, ms of the venue's clock."""
        return min([*(each.due for each in self._later[:1]), *self._dues()], default=NEVER)

    def _dues(self) -> Iterator[int]:
        """When each fault of the script that has a time comes next; NEVER for the others."""
        for fault, hits in zip(self._script, self._hits, strict=True):
            due_s = fault.at_s + hits * fault.every_s
            is_over = fault.do not in TIMES or (fault.times and hits >= fault.times) or due_s >= fault.until_s
            yield NEVER if is_over else self._begin + int(due_s * 1000)

    def pass_time(self) -> None:
        """Do what the script, or an earlier fault, has for the time up to now."""
        now = self._venue.now()
        while self.next_due() <= now:
            if self._later and self._later[0].due <= now:
                heapq.heappop(self._later).act()
                continue
            due, number = min((due, number) for number, due in enumerate(self._dues()))
            self._hits[number] += 1
            self._note(self._script[number], self._script[number].on)
            self._happen(self._script[number], due)

    def _happen(self, fault: Fault, due: int) -> None:
        venue, end = self._venue, due + int(fault.for_s * 1000)
        match fault.do:
            case "abort" | "close" | "black_hole":
                self._cut(fault, end)
            case "expire_listen_key":
                venue.streams.expire_listen_key(venue.now(), early=True)
            case "skew_clock":
                self.ahead_ms = fault.more["ms"]
                self._at(end, partial(setattr, self, "ahead_ms", 0))
            case "ban":
                venue.rest.limits.silence(fault.code or 429, end)
            case "maintenance":
                self._down_until = end
                self._cut(fault, end)
            case at_the_exchange:
                try:
                    SCRIPTED[at_the_exchange](venue.exchange, fault.more)
                except (VenueRefusal, DataError, LookupError, ValueError, TypeError) as error:
                    row = {"kind": "fault", "time": venue.now(), "do": fault.do}
                    venue.truth.write({**row, "failed": f"{type(error).__name__}: {error}"})

    def _cut(self, fault: Fault, end: int) -> None:
        for socket in [each for each in self._venue.streams.sockets if re.search(fault.on, each.category or "legacy")]:
            if fault.do == "close":
                socket.close(1001)
            elif fault.do == "black_hole":
                socket.is_dead = True
                self._at(end, socket.transport.abort)
            else:
                socket.transport.abort()


def _lost(how: str) -> web.Response:
    status, body, kind = LOST[how]
    return web.Response(status=status or 503, text=body, content_type=kind or None)
