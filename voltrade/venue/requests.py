"""REST requests to the simulated venue: paths, parameters and limits.

`tables.json` has the paths with their weights and handlers.
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

MAX_SPAN_MS = 7 * DAY_MS
"""Longest time range of lists of orders and trades."""

REQUESTS_BEFORE_BAN = 20
"""Requests within the minute of a 429 after which the address is banned."""
BAN_MS, MAX_BAN_MS = 120_000, 3 * DAY_MS
"""Duration of the first ban, and of the longest; each is twice the last."""

WHOLE = re.compile(r"^-?[0-9]{1,18}$")
DECIMAL = re.compile(r"^[0-9]{1,20}(\.[0-9]{1,20})?$")

Choice = TypeVar("Choice")
Row = TypeVar("Row")


class Response(NamedTuple):
    """HTTP status, decoded JSON body, and headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = {}


def refusal_response(refusal: VenueRefusal, headers: Mapping[str, str] = {}) -> Response:
    """Return the response for a refusal."""
    status = codes()[refusal.code].status if refusal.code in codes() else 400
    return Response(status, {"code": refusal.code, "msg": refusal.message}, headers)


SUCCESS = {"code": 200, "msg": "success"}


class Route(NamedTuple):
    """A path that the venue serves."""

    method: str
    path: str
    clients: str
    """Clients that use it: c for ccxt, s for the official SDK, p for python-binance."""
    security: str
    """`none`, `key` (the API key alone) or `signed`."""
    weight: Sequence[int]
    """Request weight with a symbol, and without."""
    handler: str
    """A name in `rest.HANDLERS`, or a method of `RestApi`; empty for none."""
    orders: Sequence[int] = ()
    """How many orders it counts in 10 seconds, and in a minute; empty for none."""
    default: Any = SUCCESS
    """The response if the handler returns None."""


@cache
def served() -> Mapping[tuple[str, str], Route]:
    """Return the paths that are served, by method and path."""
    return {(row[0], row[1]): Route(*row) for row in table("venue/tables.json")["served"]}


def tables_text() -> str:
    """Return the tables of paths and codes in docs/venue.md."""
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
    """The rate limits of exchangeInfo, in windows of the venue's clock.

    A request over the weight of a minute is refused with 429; a client that continues is banned with 418, and one that
    continues into a ban is banned for longer.

    Attributes:
        rows: the limits as exchangeInfo tells them: weight, orders of a minute, orders of 10 seconds.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [dict(row) for row in shipped_exchange_info()["rateLimits"]]
        self._used: dict[str, tuple[int, int]] = {}
        self._over_limit = 0
        self._ban_ms = BAN_MS
        self._blocked_until, self._block_status, self._is_end_told = 0, 429, True

    def block(self, status: int, until: int, *, told: bool = True) -> None:
        """Refuse every request until a time, with 429 or (as a ban) 418; `told`: with a Retry-After header."""
        self._blocked_until, self._block_status, self._is_end_told = until, status, told

    def set_weight(self, limit: int) -> None:
        """Change the request weight of a minute."""
        self.rows[0]["limit"] = limit

    def spend(self, weight: int, now: int) -> None:
        """Use request weight of this minute, as another client at the same address does."""
        self._use(self.rows[0], weight, now, {})

    def _lengthen_ban(self) -> None:
        """Count a request into a ban; too many of them make it longer."""
        self._over_limit += 1
        if self._over_limit > REQUESTS_BEFORE_BAN:
            self._over_limit = 0
            self._blocked_until += self._ban_ms
            self._ban_ms = min(2 * self._ban_ms, MAX_BAN_MS)

    def count(self, weight: int, orders: Sequence[int], now: int) -> tuple[dict[str, str], Response | None]:
        """Count a request; return Binance's headers with the usage, and the refusal if it exceeds a limit."""
        headers: dict[str, str] = {}
        if now < self._blocked_until:
            if self._block_status == 418:
                self._lengthen_ban()
            return headers, self._too_many(self._block_status, now, self._blocked_until, headers)
        of_weight, of_minute, of_seconds = self.rows
        is_over, end = self._use(of_weight, weight, now, headers)
        self._over_limit = self._over_limit + 1 if is_over else 0
        if self._over_limit > REQUESTS_BEFORE_BAN:
            self._over_limit = 0
            self.block(418, now + self._ban_ms)
            self._ban_ms = min(2 * self._ban_ms, MAX_BAN_MS)
            return headers, self._too_many(418, now, self._blocked_until, headers)
        if self._over_limit:
            return headers, self._too_many(429, now, end, headers)
        for limit, amount in zip((of_seconds, of_minute), orders, strict=False):
            if self._use(limit, amount, now, headers)[0]:
                span = f"{limit['intervalNum']} {limit['interval']}S"
                return headers, refusal_response(refused(-1015, limit["limit"], span), headers)
        return headers, None

    def _use(self, limit: Mapping[str, Any], amount: int, now: int, headers: dict[str, str]) -> tuple[bool, int]:
        """Add to the usage in a limit's window; return whether it exceeds the limit, and the end of the window."""
        kind = "USED-WEIGHT" if limit["rateLimitType"] == "REQUEST_WEIGHT" else "ORDER-COUNT"
        name = f"X-MBX-{kind}-{limit['intervalNum']}{limit['interval'][0]}"
        span = limit["intervalNum"] * {"SECOND": 1_000, "MINUTE": 60_000}[limit["interval"]]
        last, used = self._used.get(name, (0, 0))
        used = (used if last == now // span else 0) + amount
        self._used[name], headers[name] = (now // span, used), str(used)
        return used > limit["limit"], (now // span + 1) * span

    def _too_many(self, status: int, now: int, until: int, headers: Mapping[str, str]) -> Response:
        message = refused(-1003, self.rows[0]["limit"]).message
        if status == 418:
            message = f"Way too many requests; IP(127.0.0.1) banned until {until}. Please use the websocket for live "
            message += "updates to avoid bans."
        is_told = self._is_end_told or now >= self._blocked_until
        retry_after = {"Retry-After": str(-(-(until - now) // 1000))} if is_told else {}
        return Response(status, {"code": -1003, "msg": message}, {**headers, **retry_after})


class Params:
    """Parameters of a request from query and body; the query has priority, as at Binance."""

    def __init__(self, query: str, body: str = "") -> None:
        self._raw = (query, body)
        self._values = {
            name: value for raw in (body, query) if raw for name, value in parse_qsl(raw, keep_blank_values=True)
        }

    @staticmethod
    def of(values: Any) -> Params:
        """Return the parameters in a JSON object of texts, numbers and booleans."""
        refuse_if(not isinstance(values, dict), -1130, "batchOrders")
        params = Params("")
        params._values = {name: str(value) for name, value in values.items()}
        return params

    @property
    def signed_text(self) -> str:
        """The signed text: raw query, then raw body, both without the signature."""
        parts = ([part for part in raw.split("&") if not part.startswith("signature=")] for raw in self._raw)
        return "".join("&".join(each) for each in parts)

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def text(self, name: str) -> str:
        """Return a required parameter."""
        value = self.get(name)
        refuse_if(not value, -1102, name.lower())
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number, required without a default."""
        if default is not None and not self.get(name):
            return default
        value = self.text(name)
        refuse_if(not WHOLE.match(value), -1102, name.lower())
        return int(value)

    def flag(self, name: str, default: str = "false") -> bool:
        """Return a boolean in any case (true, True, TRUE), required if the default is empty."""
        value = (self.get(name, default) or self.text(name)).lower()
        refuse_if(value not in ("true", "false"), -1130, name)
        return value == "true"

    def number(self, name: str) -> Decimal:
        """Return a required decimal without an exponent."""
        value = self.text(name)
        refuse_if(not DECIMAL.match(value), -1100, name)
        return Decimal(value)

    def choice(self, name: str, choices: Mapping[str, Choice], code: int, default: Choice | None = None) -> Choice:
        """Return the value of a choice, required without a default; refuse others with the code."""
        if default is not None and not self.get(name):
            return default
        word = self.text(name)
        refuse_if(word not in choices, code, name)
        return choices[word]

    def limit(self, default: int, most: int) -> int:
        """Return `limit`, the number of rows."""
        limit = self.whole("limit", default)
        refuse_if(not 0 < limit <= most, -1130, "limit")
        return limit

    def rows(self, name: str, most: int) -> list[Any]:
        """Return a required JSON list."""
        try:
            rows = json.loads(self.text(name))
        except json.JSONDecodeError:
            raise refused(-1130, name) from None
        refuse_if(not isinstance(rows, list) or not 0 < len(rows) <= most, -4082)
        return list(rows)

    def span(self, longest: int = NEVER, code: int = 0, quoted: int = 0) -> tuple[int, int]:
        """Return start and end time, ms; refuse a longer range than `longest`."""
        begin, end = self.whole("startTime", 0), self.whole("endTime", NEVER)
        refuse_if(self.get("startTime") and self.get("endTime") and end - begin > longest, code, quoted)
        return begin, end

    def page(self, rows: Iterable[Row], default: int, most: int, time: Callable[[Row], int], *first: str) -> list[Row]:
        """Return the rows of a time range: the first after a start time or id (names in `first`), else the newest."""
        limit, (begin, end) = self.limit(default, most), self.span(MAX_SPAN_MS, -4165, 7)
        within = [row for row in rows if begin <= time(row) <= end]
        from_start = any(self.get(name) for name in ("startTime", *first))
        return within[:limit] if from_start else within[-limit:]

    def refuse_unless(self, allowed: Mapping[str, Sequence[str]]) -> None:
        """Refuse values of parameters that the venue does not support; a missing parameter is allowed."""
        for name, values in allowed.items():
            refuse_if(self.get(name).lower() not in ("", *values), -1130, name)
