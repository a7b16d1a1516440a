"""What a REST request to the simulated venue is made of: its path, its parameters, what it costs, how it is refused.

`venue_tables.json` says which paths there are, what they cost and who answers, and has the codes of Binance's refusals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.shipped import shipped_exchange_info
from voltrade.model import DAY_MS, NEVER

SPAN_MS = 7 * DAY_MS
"""Longest span of time that lists of orders and trades may be asked for."""

PATIENCE = 20
"""Requests that may follow a 429 within its minute before the address is banned."""
BAN_MS, BAN_MOST_MS = 120_000, 3 * DAY_MS
"""The first ban, and the longest; each doubles the last."""

WHOLE = re.compile(r"^-?[0-9]{1,18}$")
DECIMAL = re.compile(r"^[0-9]{1,20}(\.[0-9]{1,20})?$")

# --- tables ----------------------------------------------------------------------------------------------------------


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
    answer: Any
    """A name of `venue_rest.ANSWERS`; or the answer itself, where it is always the same."""
    orders: Sequence[int] = (0, 0)
    """What it counts as of the orders of 10 seconds, and of a minute."""


class Code(NamedTuple):
    """A refusal of Binance's, and what the venue gives it for."""

    code: int
    status: int
    text: str
    cause: str
    steps: Sequence[str]
    """What provokes it, the request last; tests/test_venue_tables.py sends it."""


class Tables(NamedTuple):
    """`venue_tables.json`."""

    served: Mapping[tuple[str, str], Route]
    """By method and path."""
    refused: Mapping[tuple[str, str], str]
    """Paths that clients call and the venue refuses, with the clients."""
    codes: Mapping[int, Code]


@cache
def tables() -> Tables:
    """Return the tables of paths and codes."""
    table = json.loads(resources.files("voltrade.exchange").joinpath("venue_tables.json").read_text("utf-8"))
    return Tables(
        {(row[0], row[1]): Route(*row) for row in table["served"]},
        {(row[0], row[1]): row[2] for row in table["refused"]},
        {row[0]: Code(*row) for row in table["codes"]},
    )


def tables_text() -> str:
    """Write the tables of paths and codes as docs/venue.md has them."""
    marks = ["| path | ccxt | SDK | python-binance | verdict |", "|---|---|---|---|---|"]
    rows = [(key, route.clients, "served") for key, route in tables().served.items()]
    rows += [(key, clients, "refused, -5000") for key, clients in tables().refused.items()]
    for (method, path), clients, verdict in rows:
        ticks = " | ".join("yes" if letter in clients else "" for letter in "csp")
        marks.append(f"| {method} {path} | {ticks} | {verdict} |")
    marks += ["", "| code | HTTP | given for | provoked by |", "|---|---|---|---|"]
    for code in tables().codes.values():
        steps = "; ".join(f"`{step}`" for step in code.steps)
        marks.append(f"| {code.code} | {code.status} | {code.cause} | {steps} |")
    return "\n".join(marks) + "\n"


class Answer(NamedTuple):
    """HTTP status, what the JSON body says, and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


def refused(code: int, name: str = "") -> VenueRefusal:
    """Make the refusal of a code, with Binance's text; `name` is the parameter or path that it quotes."""
    return VenueRefusal(code, tables().codes[code].text.format(name=name))


def refusal_answer(refusal: VenueRefusal, headers: Mapping[str, str] = {}) -> Answer:
    known = tables().codes.get(refusal.code)
    return Answer(known.status if known else 400, {"code": refusal.code, "msg": refusal.message}, headers)


# --- limits ----------------------------------------------------------------------------------------------------------


class Throttled(VenueRefusal):
    """One request or order too many; the headers say when to come again."""

    def __init__(self, status: int, code: int, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(code, message)
        self.status, self.headers = status, headers


class Limits:
    """What was used of the limits of exchangeInfo, in windows of the venue's clock.

    More weight than a minute has is refused with 429; whoever goes on regardless is banned, with 418.
    """

    def __init__(self) -> None:
        rows = shipped_exchange_info()["rateLimits"]
        spans = {"SECOND": 1_000, "MINUTE": 60_000}
        self._most = {(row["rateLimitType"], row["intervalNum"] * spans[row["interval"]]): row["limit"] for row in rows}
        self._used: dict[tuple[str, int], tuple[int, int]] = {}
        self._in_vain = 0
        self._ban_ms = BAN_MS
        self._silent_until, self._silence = 0, 429

    def silence(self, status: int, until: int) -> None:
        """Refuse everything until a time, with 429, or with 418 as a ban."""
        self._silent_until, self._silence = until, status

    def count(self, weight: int, orders: Sequence[int], now: int) -> dict[str, str]:
        """Count a request and return Binance's headers of what is used.

        Raises:
            Throttled: it is one too many.
        """
        if now < self._silent_until:
            raise self._too_many(self._silence, now, self._silent_until, {})
        used, most, end = self._add(("REQUEST_WEIGHT", 60_000), weight, now)
        headers = {"X-MBX-USED-WEIGHT-1M": str(used)}
        self._in_vain = self._in_vain + 1 if used > most else 0
        if self._in_vain > PATIENCE:
            self._in_vain = 0
            self.silence(418, now + self._ban_ms)
            self._ban_ms = min(2 * self._ban_ms, BAN_MOST_MS)
            raise self._too_many(418, now, self._silent_until, headers)
        if self._in_vain:
            raise self._too_many(429, now, end, headers)
        for name, span, amount in zip(("10S", "1M"), (10_000, 60_000), orders if any(orders) else (), strict=False):
            used, most, end = self._add(("ORDERS", span), amount, now)
            headers[f"X-MBX-ORDER-COUNT-{name}"] = str(used)
            if used > most:
                text = f"Too many new orders; current limit is {most} orders per {span // 1000} SECONDS."
                raise Throttled(429, -1015, text, headers)
        return headers

    def _add(self, limit: tuple[str, int], amount: int, now: int) -> tuple[int, int, int]:
        """Add to what was used in the window that is now; return that, the most allowed, and the window's end."""
        window = now // limit[1]
        last, used = self._used.get(limit, (window, 0))
        used = (used if last == window else 0) + amount
        self._used[limit] = window, used
        return used, self._most[limit], (window + 1) * limit[1]

    def _too_many(self, status: int, now: int, until: int, headers: Mapping[str, str]) -> Throttled:
        text = {
            429: f"Too many requests; current limit of IP(127.0.0.1) is {self._most['REQUEST_WEIGHT', 60_000]} "
            "requests per minute. Please use the websocket for live updates to avoid polling the API.",
            418: f"Way too many requests; IP(127.0.0.1) banned until {until}. Please use the websocket for live "
            "updates to avoid bans.",
        }[status]
        return Throttled(status, -1003, text, {**headers, "Retry-After": str(-(-(until - now) // 1000))})


# --- requests --------------------------------------------------------------------------------------------------------

Choice = TypeVar("Choice")
Row = TypeVar("Row")


class Params:
    """Parameters of a request, from query and body; the query wins on duplicates, as at Binance."""

    def __init__(self, query: str, body: str) -> None:
        self._query, self._body = query, body
        pairs = (*parse_qsl(body, keep_blank_values=True), *parse_qsl(query, keep_blank_values=True))
        self._values: dict[str, str] = dict(pairs)

    @staticmethod
    def of(values: Any) -> Params:
        """Take parameters from a JSON object of texts, numbers and booleans."""
        if not isinstance(values, dict):
            raise refused(-1130, "batchOrders")
        params = Params("", "")
        params._values = {name: str(value) for name, value in values.items()}
        return params

    @property
    def signed_text(self) -> str:
        """The text that a signature covers: raw query then raw body, both without the signature."""
        return "".join(
            "&".join(part for part in raw.split("&") if not part.startswith("signature="))
            for raw in (self._query, self._body)
        )

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def but(self, **values: str) -> Params:
        """Return the same parameters with some others."""
        return Params.of({**self._values, **values})

    def text(self, name: str) -> str:
        """Return a mandatory parameter."""
        value = self.get(name)
        if not value:
            raise refused(-1102, name)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number, mandatory where there is no default."""
        if default is not None and not self.get(name):
            return default
        value = self.text(name)
        if not WHOLE.match(value):
            raise refused(-1102, name)
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a boolean, false where it is not sent; clients write true, True and TRUE."""
        value = self.get(name, "false").lower()
        if value not in ("true", "false"):
            raise refused(-1130, name)
        return value == "true"

    def number(self, name: str) -> Decimal:
        """Return a mandatory plain decimal."""
        value = self.text(name)
        if not DECIMAL.match(value):
            raise refused(-1100, name)
        return Decimal(value)

    def choice(self, name: str, choices: Mapping[str, Choice], code: int, default: Choice | None = None) -> Choice:
        """Return what a word stands for, mandatory where there is no default, or refuse it with the code."""
        if default is not None and not self.get(name):
            return default
        word = self.text(name)
        if word not in choices:
            raise refused(code, name)
        return choices[word]

    def limit(self, default: int, most: int) -> int:
        """Return `limit`, how many rows are wanted."""
        limit = self.whole("limit", default)
        if not 0 < limit <= most:
            raise refused(-1130, "limit")
        return limit

    def rows(self, name: str, most: int) -> list[Any]:
        """Return a mandatory JSON list."""
        try:
            rows = json.loads(self.text(name))
        except json.JSONDecodeError:
            raise refused(-1130, name) from None
        if not isinstance(rows, list) or not 0 < len(rows) <= most:
            raise refused(-4082, name)
        return rows

    def span(self) -> tuple[int, int]:
        """Return the first and last time that is wanted, ms."""
        first, last = self.whole("startTime", 0), self.whole("endTime", NEVER)
        if self.get("startTime") and self.get("endTime") and last - first > SPAN_MS:
            raise refused(-4165, "7")
        return first, last

    def page(self, rows: Iterable[Row], default: int, most: int, time: Callable[[Row], int], *first: str) -> list[Row]:
        """Take the rows of the span; from its start, or from an id in one of `first`, else the newest."""
        limit, (begin, end) = self.limit(default, most), self.span()
        within = [row for row in rows if begin <= time(row) <= end]
        from_start = any(self.get(name) for name in ("startTime", *first))
        return within[:limit] if from_start else within[-limit:]

    def refuse(self, *names: str) -> None:
        """Refuse parameters that do not belong here."""
        for name in names:
            if self.get(name):
                raise refused(-1106, name)

    def refuse_unless(self, allowed: Mapping[str, Sequence[str]]) -> None:
        """Refuse values of parameters that the venue does not model; not sent is always allowed."""
        for name, values in allowed.items():
            if self.get(name).lower() not in ("", *values):
                raise refused(-1130, name)
