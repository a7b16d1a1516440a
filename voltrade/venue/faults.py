"""Fault injection: a seeded script between the simulated exchange and its sockets.

A script is a list of faults, each a JSON object. `faults.json` describes each kind, its required values and its fields,
and has some named scripts, such as `storm`. A fault applies to requests, to events for a client, or at a time of the
venue's clock. The same script and seed with the same requests gives the same faults, and each fault is written to the
ground-truth log before it takes effect.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from voltrade.errors import ConfigError, DataError
from voltrade.model import NEVER
from voltrade.simulated.ground_truth import TruthLog
from voltrade.simulated.refusals import VenueRefusal, codes, refused
from voltrade.simulated.scripted import run_action
from voltrade.simulated.symbols import table
from voltrade.venue.requests import Params, Response, refusal_response
from voltrade.venue.rest import RestApi

TABLE = table("venue/faults.json")
REQUESTS, EVENTS, TIMES = TABLE["requests"], TABLE["events"], TABLE["times"]
"""Kinds of faults with their descriptions, by what they apply to."""
KINDS: Mapping[str, str] = {**REQUESTS, **EVENTS, **TIMES}
LOST: Mapping[str, Sequence[Any]] = TABLE["lost"]
"""Ways to lose a response: status, body and content type. `timeout` keeps the connection open, `abort` resets it."""

MARKET_EVENTS = ("aggTrade", "markPrice", "bookTicker", "kline")
ON_SOCKETS = ("abort", "close", "black_hole", "maintenance")

HOLD_S = 120.0
"""Longest wait of a request that must time out."""

More = Mapping[str, Any]

# --- scripts ----------------------------------------------------------------------------------------------------------


def _one_of(known: Collection[Any], words: str = "") -> AfterValidator:
    def check(word: Any) -> Any:
        if word not in known:
            raise ValueError(f"must be one of {words or ', '.join(known)}")
        return word

    return AfterValidator(check)


class Fault(BaseModel):
    """One line of a script; `faults.json` describes its fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    do: Annotated[str, _one_of(KINDS)]
    on: re.Pattern[str] = re.compile("")
    at_s: Annotated[float, Field(ge=0)] = 0.0
    until_s: Annotated[float, Field(gt=0)] = 1e9
    every_s: Annotated[float, Field(ge=0)] = 0.0
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=0)] = 1
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    how: Annotated[str, _one_of(LOST)] = "unknown"
    code: Annotated[int, _one_of((0, 418, 429, *codes()), "`python -m voltrade venue --tables`")] = 0
    for_s: Annotated[float, Field(ge=0)] = 0.0
    more: More = Field(default_factory=dict, alias="with")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if missing := [name for name in TABLE["needs"].get(self.do, ()) if name not in self.more]:
            raise ValueError(f"with: must have {', '.join(missing)}")
        if self.do == "ban":
            if self.code not in (0, 418, 429):
                raise ValueError(f"code: a ban has 418 or 429, was {self.code}")
        elif self.code not in codes() and (self.code or self.do == "refuse"):
            raise ValueError(f"code: {self.do} must have a code of the exchange, was {self.code}")
        return self


def load_script(name: str) -> list[Fault]:
    """Read a script by its name or the path of a JSON file.

    Raises:
        ConfigError: the script is invalid; names the line, the field and the rule.
    """
    named = TABLE["scripts"]
    try:
        lines = named[name] if name in named else json.loads(Path(name).read_text("utf-8"))
        return TypeAdapter(list[Fault]).validate_python(lines)
    except ValidationError as error:
        row = error.errors()[0]
        where = f"line {int(row['loc'][0]) + 1}: {'.'.join(map(str, row['loc'][1:]))}: " if row["loc"] else ""
        raise ConfigError(f"faults: {where}{row['msg']}, was {row['input']!r}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"faults: must be one of {', '.join(named)} or a JSON file, was {name}: {error}") from None


def check_lockstep(script: Iterable[Fault]) -> None:
    """Refuse faults that are impossible in lockstep, since the client would wait for market data forever.

    Raises:
        ConfigError: there is such a fault.
    """
    for fault in script:
        on_market = fault.do in EVENTS and any(fault.on.search(f"market {kind}") for kind in MARKET_EVENTS)
        on_socket = fault.do in ON_SOCKETS and fault.on.search("market")
        if fault.do == "delay_answer" or on_market or on_socket:
            where = fault.on.pattern or "everything"
            raise ConfigError(f"faults: {fault.do} on {where} needs speed 1, was in lockstep")


def script_help() -> str:
    """Return the description of scripts for `--help`."""
    example = '[{"do": "lose_answer", "on": "POST /fapi/v1/order", "how": "abort", "chance": 0.1, "times": 0}]'
    lines = [f"faults: a script with a name ({', '.join(TABLE['scripts'])}),"]
    lines += ["or a JSON file: a list of objects, such as", f"{example}.", "Kinds (do):"]
    lines += [*(f"  {name:14} {text}" for name, text in KINDS.items()), "Fields:"]
    return "\n".join([*lines, *(f"  {name:14} {text}" for name, text in TABLE["fields"].items())]) + "\n"


# --- a running script -------------------------------------------------------------------------------------------------


class Faults:
    """A running script. Chances come from the seed, and `at_s` counts from the creation of this object.

    Attributes:
        ahead_ms: how much the clock that clients see is ahead of the venue's.
    """

    def __init__(
        self, script: Sequence[Fault], seed: int, rest: RestApi, truth: TruthLog, now: Callable[[], int], lockstep: bool
    ) -> None:
        self.ahead_ms = self._down_until = 0
        self._script: list[Fault] = []
        self._timed: list[int] = []
        """Numbers of the faults with a time."""
        self._seen, self._hits = Counter[int](), Counter[int]()
        self._random, self._begin = random.Random(seed), now()
        self._rest, self._truth, self._now, self._lockstep = rest, truth, now, lockstep
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()
        self._held_back: dict[str, list[bytes]] = defaultdict(list)
        for fault in script:
            self._append(fault)

    def add(self, fault: Fault) -> None:
        """Add a fault to the script; `ConfigError` if it is impossible in lockstep."""
        if self._lockstep:
            check_lockstep([fault])
        self._append(fault)

    def _append(self, fault: Fault) -> None:
        if fault.do in TIMES:
            self._timed.append(len(self._script))
        self._script.append(fault)

    def _strike(self, kinds: Mapping[str, str], what: str) -> Fault | None:
        """Return the first fault of these kinds that applies, after logging it."""
        now = self._now() - self._begin
        for number, fault in enumerate(self._script):
            in_time = fault.at_s * 1000 <= now < fault.until_s * 1000
            if fault.do in kinds and in_time and fault.on.search(what):
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
        fault = self._script[number]
        facts = fault.model_dump(exclude_defaults=True, by_alias=True, exclude={"do", "on"})
        self._write(do=fault.do, struck=what, **facts)

    def _write(self, **facts: Any) -> None:
        self._truth.write({"kind": "fault", "time": self._now(), **facts})

    async def handle(
        self, request: web.BaseRequest, params: Params, respond: Callable[..., Response]
    ) -> Response | web.StreamResponse:
        """Carry out a request and return its response, unless a fault applies.

        `respond` carries the request out; it takes the time when the request was received if that is not now.
        """
        now = self._now()
        if now < self._down_until:
            return _lost("down")
        fault = self._strike(REQUESTS, f"{request.method} {request.path}")
        if fault is None:
            return respond()
        claims = (params.get(name).lower() for name in ("reduceOnly", "closePosition"))
        if fault.code == -1008 and (request.method == "DELETE" or "true" in claims):
            return respond()  # requests that reduce risk are accepted in an overload
        if fault.do == "refuse":
            return _refusal(fault.code)
        if fault.do == "late":
            self._at(now + int(fault.for_s * 1000), partial(respond, now))
        elif fault.do != "swallow":
            response = respond()
            if fault.do == "delay_answer":
                await asyncio.sleep(fault.for_s)
                return response
            if fault.do == "alter_answer":
                return response._replace(body={**response.body, **fault.more})
            if fault.code:
                return _refusal(fault.code)
        if fault.how == "timeout":
            await asyncio.sleep(HOLD_S)
        if fault.how in ("timeout", "abort"):
            assert request.transport is not None
            request.transport.abort()
        return _lost(fault.how)

    def on_event(self, what: str, events: list[bytes], send: Callable[[list[bytes]], object]) -> None:
        """Send events (JSON) of one kind with `send`, unless a fault applies.

        `what` describes them, such as `market aggTrade` or `user ORDER_TRADE_UPDATE FILLED vt-1e`.
        """
        if not self._script:
            send(events)
            return
        held_back, now = self._held_back[what.split(" ")[0]], self._now()
        for event in events:
            match self._strike(EVENTS, what):
                case Fault(do="drop"):
                    pass
                case Fault(do="reorder"):
                    held_back.append(event)
                case Fault(do="delay", for_s=for_s):
                    self._at(now + int(for_s * 1000), partial(send, [event]))
                case Fault(do="hold", until_s=until_s):
                    self._at(self._begin + int(until_s * 1000), partial(send, [event]))
                case Fault(do="alter", more=more):
                    send([orjson.dumps({**orjson.loads(event), **more})])
                case fault:
                    kind = fault.do if fault else ""
                    first = {"duplicate": [event, event], "garble": [event[: len(event) // 2]]}.get(kind, [event])
                    send([*first, *held_back])
                    held_back.clear()

    def _at(self, due: int, act: Callable[[], object]) -> None:
        heapq.heappush(self._later, (due, next(self._numbers), act))

    def next_due(self) -> int:
        """Return the time of the next action, ms of the venue's clock."""
        return min([*(due for due, _, _ in self._later[:1]), *map(self._due, self._timed)], default=NEVER)

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

    def _run(self, fault: Fault, due: int) -> None:
        end = due + int(fault.for_s * 1000)
        match fault.do:
            case "abort" | "close" | "black_hole":
                self._cut(fault, end)
            case "expire_listen_key":
                self._rest.streams.expire_listen_key(self._now(), early=True)
            case "skew_clock":
                self.ahead_ms = fault.more["ms"]
                self._at(end, partial(setattr, self, "ahead_ms", 0))
            case "ban":
                self._rest.limits.block(fault.code or 429, end)
            case "maintenance":
                self._down_until = end
                self._cut(fault, end)
            case action:
                try:
                    run_action(self._rest.exchange, action, fault.more)
                except (VenueRefusal, DataError, LookupError, ValueError, TypeError) as error:
                    self._write(do=fault.do, failed=f"{type(error).__name__}: {error}")

    def _cut(self, fault: Fault, end: int) -> None:
        for socket in [each for each in self._rest.streams.sockets if fault.on.search(each.category or "legacy")]:
            if fault.do == "close":
                socket.close(1001)
            elif fault.do == "black_hole":
                socket.is_dead = True
                self._at(end, socket.transport.abort)
            else:
                socket.transport.abort()


def _refusal(code: int) -> Response:
    """Return a refusal without a cause; quoted values in its text are question marks."""
    return refusal_response(refused(code, *["?"] * codes()[code].quotes))


def _lost(how: str) -> web.Response:
    status, body, kind = LOST[how]
    return web.Response(status=status, text=body, content_type=kind)
