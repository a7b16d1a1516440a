"""What a REST request to the simulated venue is made of: its path, its parameters, and what it costs.

`venue_tables.json` says which paths there are, what they cost and who answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from voltrade.model import DAY_MS, NEVER
from voltrade.simulated.refusals import VenueRefusal, codes, refuse_if, refused
from voltrade.simulated.symbols import shipped_exchange_info, table

SPAN_MS = 7 * DAY_MS
"""Longest span of time that lists of orders and trades may be asked for."""

PATIENCE = 20
"""Requests that may follow a 429 within its minute before the address is banned."""
BAN_MS, BAN_MOST_MS = 120_000, 3 * DAY_MS
"""The first ban, and the longest; each doubles the last."""

WHOLE = re.compile(r"^-?[0-9]{1,18}$")
DECIMAL = re.compile(r"^[0-9]{1,20}(\.[0-9]{1,20})?$")

Choice = TypeVar("Choice")
Row = TypeVar("Row")


class Answer(NamedTuple):
    """HTTP status, what the JSON body says, and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


def refusal_answer(refusal: VenueRefusal, headers: Mapping[str, str] = {}) -> Answer:
    status = codes()[refusal.code].status if refusal.code in codes() else 400
    return Answer(status, {"code": refusal.code, "msg": refusal.message}, headers)


SUCCESS = {"code": 200, "msg": "success"}


class Route(NamedTuple):
    """A path that is served."""

    method: str
    path: str
    clients: str
    """Who calls it: c for ccxt, s for the official SDK, p for python-binance."""
    security: str
    """`none`, `key` (the API key alone) or `signed`."""
    weight: Sequence[int]
    """Request weight with a symbol, and without."""
    answer: str
    """What carries it out: a name of `venue_rest.ANSWERS` or a method; empty for nothing."""
    orders: Sequence[int] = ()
    """What it counts as of the orders of 10 seconds, and of a minute; empty for none."""
    told: Any = SUCCESS
    """What is told where that tells nothing."""


@cache
def served() -> Mapping[tuple[str, str], Route]:
    """Return the paths that are served, by method and path."""
    return {(row[0], row[1]): Route(*row) for row in table("venue/tables.json")["served"]}


def tables_text() -> str:
    """Write the tables of paths and codes as docs/venue.md has them."""
    lines = ["| path | ccxt | SDK | python-binance | verdict |", "|---|---|---|---|---|"]
    for kind, verdict in (("served", "served"), ("refused", "refused, -5000")):
        for method, path, clients, *_ in table("venue/tables.json")[kind]:
            ticks = " | ".join("yes" if letter in clients else "" for letter in "csp")
            lines.append(f"| {method} {path} | {ticks} | {verdict} |")
    lines += ["", "| code | HTTP | given for | provoked by |", "|---|---|---|---|"]
    for code in codes().values():
        steps = "; ".join(f"`{step}`" for step in code.steps)
        lines.append(f"| {code.code} | {code.status} | {code.cause} | {steps} |")
    return "\n".join(lines) + "\n"


class Limits:
    """What was used of the limits of exchangeInfo, in windows of the venue's clock.

    More weight than a minute has is refused with 429; whoever goes on regardless is banned, with 418.
    """

    def __init__(self) -> None:
        self._used: dict[str, tuple[int, int]] = {}
        self._in_vain = 0
        self._ban_ms = BAN_MS
        self._silent_until, self._silence = 0, 429

    def silence(self, status: int, until: int) -> None:
        """Refuse everything until a time, with 429, or with 418 as a ban."""
        self._silent_until, self._silence = until, status

    def count(self, weight: int, orders: Sequence[int], now: int) -> tuple[dict[str, str], Answer | None]:
        """Count a request; return Binance's headers of what is used, and the refusal where it is one too many."""
        headers: dict[str, str] = {}
        if now < self._silent_until:
            return headers, self._too_many(self._silence, now, self._silent_until, headers)
        of_weight, of_minute, of_seconds = shipped_exchange_info()["rateLimits"]
        is_over, end = self._use(of_weight, weight, now, headers)
        self._in_vain = self._in_vain + 1 if is_over else 0
        if self._in_vain > PATIENCE:
            self._in_vain = 0
            self.silence(418, now + self._ban_ms)
            self._ban_ms = min(2 * self._ban_ms, BAN_MOST_MS)
            return headers, self._too_many(418, now, self._silent_until, headers)
        if self._in_vain:
            return headers, self._too_many(429, now, end, headers)
        for limit, amount in zip((of_seconds, of_minute), orders, strict=False):
            if self._use(limit, amount, now, headers)[0]:
                span = f"{limit['intervalNum']} {limit['interval']}S"
                return headers, refusal_answer(refused(-1015, limit["limit"], span), headers)
        return headers, None

    def _use(self, limit: Mapping[str, Any], amount: int, now: int, headers: dict[str, str]) -> tuple[bool, int]:
        """Add to what was used in a limit's window; tell whether that is too much, and when the window ends."""
        kind = "USED-WEIGHT" if limit["rateLimitType"] == "REQUEST_WEIGHT" else "ORDER-COUNT"
        name = f"X-MBX-{kind}-{limit['intervalNum']}{limit['interval'][0]}"
        span = limit["intervalNum"] * {"SECOND": 1_000, "MINUTE": 60_000}[limit["interval"]]
        last, used = self._used.get(name, (0, 0))
        used = (used if last == now // span else 0) + amount
        self._used[name], headers[name] = (now // span, used), str(used)
        return used > limit["limit"], (now // span + 1) * span

    @staticmethod
    def _too_many(status: int, now: int, until: int, headers: Mapping[str, str]) -> Answer:
        message = refused(-1003, shipped_exchange_info()["rateLimits"][0]["limit"]).message
        if status == 418:
            message = f"Way too many requests; IP(127.0.0.1) banned until {until}. Please use the websocket for live "
            message += "updates to avoid bans."
        retry_after = {"Retry-After": str(-(-(until - now) // 1000))}
        return Answer(status, {"code": -1003, "msg": message}, {**headers, **retry_after})


class Params:
    """Parameters of a request, from query and body; the query wins on duplicates, as at Binance."""

    def __init__(self, query: str, body: str = "") -> None:
        self._raw = (query, body)
        self._values = {
            name: value for raw in (body, query) if raw for name, value in parse_qsl(raw, keep_blank_values=True)
        }

    @staticmethod
    def of(values: Any) -> Params:
        """Take parameters from a JSON object of texts, numbers and booleans."""
        refuse_if(not isinstance(values, dict), -1130, "batchOrders")
        params = Params("")
        params._values = {name: str(value) for name, value in values.items()}
        return params

    @property
    def signed_text(self) -> str:
        """The text that a signature covers: raw query then raw body, both without the signature."""
        parts = ([part for part in raw.split("&") if not part.startswith("signature=")] for raw in self._raw)
        return "".join("&".join(each) for each in parts)

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def text(self, name: str) -> str:
        """Return a mandatory parameter."""
        value = self.get(name)
        refuse_if(not value, -1102, name.lower())
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number, mandatory where there is no default."""
        if default is not None and not self.get(name):
            return default
        value = self.text(name)
        refuse_if(not WHOLE.match(value), -1102, name.lower())
        return int(value)

    def flag(self, name: str, default: str = "false") -> bool:
        """Return a boolean, mandatory where the default is empty; clients write true, True and TRUE."""
        value = (self.get(name, default) or self.text(name)).lower()
        refuse_if(value not in ("true", "false"), -1130, name)
        return value == "true"

    def number(self, name: str) -> Decimal:
        """Return a mandatory plain decimal."""
        value = self.text(name)
        refuse_if(not DECIMAL.match(value), -1100, name)
        return Decimal(value)

    def choice(self, name: str, choices: Mapping[str, Choice], code: int, default: Choice | None = None) -> Choice:
        """Return what a word stands for, mandatory where there is no default, or refuse it with the code."""
        if default is not None and not self.get(name):
            return default
        word = self.text(name)
        refuse_if(word not in choices, code, name)
        return choices[word]

    def limit(self, default: int, most: int) -> int:
        """Return `limit`, how many rows are wanted."""
        limit = self.whole("limit", default)
        refuse_if(not 0 < limit <= most, -1130, "limit")
        return limit

    def rows(self, name: str, most: int) -> list[Any]:
        """Return a mandatory JSON list."""
        try:
            rows = json.loads(self.text(name))
        except json.JSONDecodeError:
            raise refused(-1130, name) from None
        refuse_if(not isinstance(rows, list) or not 0 < len(rows) <= most, -4082)
        return list(rows)

    def span(self, longest: int = NEVER, code: int = 0, quoted: int = 0) -> tuple[int, int]:
        """Return the first and last time that is wanted, ms; a span longer than the longest is refused."""
        begin, end = self.whole("startTime", 0), self.whole("endTime", NEVER)
        refuse_if(self.get("startTime") and self.get("endTime") and end - begin > longest, code, quoted)
        return begin, end

    def page(self, rows: Iterable[Row], default: int, most: int, time: Callable[[Row], int], *first: str) -> list[Row]:
        """Take the rows of a span of time; from its start, or from an id in one of `first`, else the newest."""
        limit, (begin, end) = self.limit(default, most), self.span(SPAN_MS, -4165, 7)
        within = [row for row in rows if begin <= time(row) <= end]
        from_start = any(self.get(name) for name in ("startTime", *first))
        return within[:limit] if from_start else within[-limit:]

    def refuse_unless(self, allowed: Mapping[str, Sequence[str]]) -> None:
        """Refuse values of parameters that the venue does not model; not sent is always allowed."""
        for name, values in allowed.items():
            refuse_if(self.get(name).lower() not in ("", *values), -1130, name)
