"""The language of fault scripts: what may go wrong on purpose, whom it strikes, and when.

A script is a list of faults, each a JSON object; `faults.json` has some with names, such as `storm`, and says in words
what each kind does. `faults` lets them happen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from voltrade.errors import ConfigError
from voltrade.exchange.simulated import SimulatedExchange
from voltrade.exchange.venue_requests import tables
from voltrade.model import OrderRequest, OrderType, Side, money


@cache
def _table() -> dict[str, dict[str, Any]]:
    """Return `faults.json`."""
    text = resources.files("voltrade.exchange").joinpath("faults.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


REQUESTS, EVENTS, TIMES = _table()["requests"], _table()["events"], _table()["times"]
"""Kinds of faults, by what they strike, with what they do."""
KINDS: Mapping[str, str] = {**REQUESTS, **EVENTS, **TIMES}

MARKET_EVENTS = ("aggTrade", "markPrice", "bookTicker", "kline")
ON_SOCKETS = ("abort", "close", "black_hole", "maintenance")

LOST: Mapping[str, tuple[int, str, str]] = {
    "unknown": (503, '{"msg":"Unknown error, please check your request or try again later."}', "application/json"),
    "down": (503, '{"msg":"Service Unavailable."}', "application/json"),
    "empty": (200, "", "application/json"),
    "truncated": (200, '{"orderId":1,"symbol":"BTC', "application/json"),
    "html": (502, "<html><body><h1>502 Bad Gateway</h1></body></html>", "text/html"),
    "gateway": (504, "<html><body><h1>504 Gateway Time-out</h1></body></html>", "text/html"),
    "forbidden": (403, "<html><body><h1>403 Forbidden</h1></body></html>", "text/html"),
    "timeout": (0, "", ""),
    "abort": (0, "", ""),
}
"""Ways to lose an answer: status, body and its type. `timeout` holds the connection, `abort` resets it."""


# --- what may happen at the exchange ----------------------------------------------------------------------------------


def _order(exchange: SimulatedExchange, more: Mapping[str, Any]) -> None:
    """Place a market order by hand, with a client id that is none of a program's."""
    order = OrderRequest(
        symbol=more["symbol"],
        client_order_id=more.get("clientOrderId", "web_by_hand"),
        side=Side[more["side"]],
        order_type=OrderType.MARKET,
        quantity=exchange.lots(more["symbol"], str(more["quantity"])),
        reduce_only=more.get("reduceOnly", False),
    )
    exchange.place_order(order)


def _filters(exchange: SimulatedExchange, more: Mapping[str, Any]) -> None:
    """Change a symbol's filters: fields of `Instrument` but tick and step, in its units."""
    instrument = exchange.markets[more["symbol"]].instrument
    exchange.change_filters(replace(instrument, **{name: more[name] for name in more if name != "symbol"}))


def _mark(exchange: SimulatedExchange, more: Mapping[str, Any]) -> None:
    """Let the mark price jump, as far as the exchange is concerned; the next one of the tape comes as it was."""
    before = exchange.position_risk(more["symbol"]).mark
    exchange.on_mark(replace(before, time=exchange.clock, price_e8=money(str(more["price"]))))


SCRIPTED: Mapping[str, Callable[[SimulatedExchange, Mapping[str, Any]], object]] = {
    "order": _order,
    "cancel_all": lambda exchange, more: exchange.cancel_all(more["symbol"]),
    "cancel_stops": lambda exchange, more: exchange.cancel_all_algo(more["symbol"]),
    "stick_triggers": lambda exchange, more: exchange.stick_triggers(more["symbol"], more.get("sticking", True)),
    "leverage": lambda exchange, more: exchange.set_leverage(more["symbol"], more["leverage"]),
    "deleverage": lambda exchange, more: exchange.deleverage(more["symbol"]),
    "mark": _mark,
    "settle": lambda exchange, more: exchange.settle(more["symbol"]),
    "filters": _filters,
    "deposit": lambda exchange, more: exchange.deposit(money(str(more["amount"]))),
    "withdraw": lambda exchange, more: exchange.withdraw(money(str(more["amount"]))),
    "hedge_mode": lambda exchange, more: exchange.switch_position_mode(True),
}
"""How the kinds that happen at the exchange are carried out."""

NEEDS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("cancel_all", "cancel_stops", "stick_triggers", "deleverage", "settle", "filters"), ("symbol",)),
    **{"order": ("symbol", "side", "quantity"), "leverage": ("symbol", "leverage"), "mark": ("symbol", "price")},
    **{"deposit": ("amount",), "withdraw": ("amount",), "skew_clock": ("ms",)},
}
"""What a fault of a kind must have in its `with`."""


# --- scripts ----------------------------------------------------------------------------------------------------------


def _one_of(known: Iterable[str]) -> AfterValidator:
    def check(word: str) -> str:
        if word not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return word

    return AfterValidator(check)


def _listed(code: int) -> int:
    if code not in (0, 418, 429, *tables().codes):
        raise ValueError("must be a code that `python -m voltrade venue --tables` lists")
    return code


def _pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return pattern


class Fault(BaseModel):
    """One line of a script."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    do: Annotated[str, _one_of(KINDS)]
    """What happens: one of the kinds above."""
    on: Annotated[str, AfterValidator(_pattern)] = ""
    """Whom it strikes: a regular expression, searched in `POST /fapi/v1/order`, `user ORDER_TRADE_UPDATE FILLED`,
    `market aggTrade`, or a socket's category (market, public, private, legacy). Empty strikes all."""
    at_s: Annotated[float, Field(ge=0)] = 0.0
    """From when on, by the venue's clock, in seconds since it opened."""
    until_s: Annotated[float, Field(gt=0)] = 1e9
    """And until when."""
    every_s: Annotated[float, Field(ge=0)] = 0.0
    """Of kinds that have a time: happens again after so long."""
    skip: Annotated[int, Field(ge=0)] = 0
    """How many that match are spared first."""
    times: Annotated[int, Field(ge=0)] = 1
    """How often it strikes; 0 for always."""
    chance: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of each that matches."""
    how: Annotated[str, _one_of(LOST)] = "unknown"
    """How an answer is lost: unknown or down (503), empty or truncated (200), html (502), gateway (504), forbidden
    (403), timeout or abort."""
    code: Annotated[int, AfterValidator(_listed)] = 0
    """Of a refusal."""
    for_s: Annotated[float, Field(ge=0)] = 0.0
    """How long it lasts, or delays."""
    more: Mapping[str, Any] = Field(default_factory=dict, alias="with")
    """What else it needs."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if missing := [name for name in NEEDS.get(self.do, ()) if name not in self.more]:
            raise ValueError(f"with: must have {', '.join(missing)}")
        return self


def named_scripts() -> dict[str, Any]:
    """Return the scripts that have names."""
    return _table()["scripts"]


def load_script(name: str) -> list[Fault]:
    """Read a script: one that has a name, or the path of a JSON file.

    Raises:
        ConfigError: names the line, the field and the rule that it breaks.
    """
    try:
        lines = named_scripts()[name] if name in named_scripts() else json.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(named_scripts())
        raise ConfigError(f"faults: must be one of {known} or a JSON file, was {name}: {error}") from None
    try:
        return TypeAdapter(list[Fault]).validate_python(lines)
    except ValidationError as error:
        (row, *_), where = error.errors(), ""
        if row["loc"]:
            where = f"line {int(row['loc'][0]) + 1}: {'.'.join(map(str, row['loc'][1:]))}: "
        raise ConfigError(f"faults: {where}{row['msg']}, was {row['input']!r}") from None


def check_lockstep(script: Iterable[Fault]) -> None:
    """Refuse faults that can't be had in lockstep, whose client would wait for ever for market data.

    Raises:
        ConfigError: there is one.
    """
    for fault in script:
        on_market = fault.do in EVENTS and any(re.search(fault.on, f"market {kind}") for kind in MARKET_EVENTS)
        on_socket = fault.do in ON_SOCKETS and re.search(fault.on, "market")
        if fault.do == "delay_answer" or on_market or on_socket:
            raise ConfigError(f"faults: {fault.do} on {fault.on or 'everything'} needs speed 1, was in lockstep")


def script_help() -> str:
    """Describe scripts, for `--help`."""
    kinds = "\n".join(f"  {name:18} {text}" for name, text in KINDS.items())
    words = {each.alias or name: each.description or "" for name, each in Fault.model_fields.items()}
    fields = "\n".join(f"  {name:18} {text}".replace("\n", "\n" + 21 * " ") for name, text in words.items())
    return (
        f"faults: a script with a name ({', '.join(named_scripts())}),\nor a JSON file: a list of objects, such as\n"
        '[{"do": "lose_answer", "on": "POST /fapi/v1/order", "how": "abort", "chance": 0.1, "times": 0}].\n'
        f"Kinds (do):\n{kinds}\nFields:\n{fields}\n"
    )
