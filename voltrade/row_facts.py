"""Rows of records, told as the facts of `model`: for a live session one by one, for a backtest by the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from voltrade import risk
from voltrade.model import (
    BreakerChange,
    EquityPoint,
    OrderIntent,
    OrderRequest,
    OrderType,
    Purpose,
    Refusal,
    RoundTrip,
    Side,
    TimeInForce,
    WorkingType,
)
from voltrade.order_states import PURPOSES, STOP_MISSING_TEXT, TOO_MANY_ORDERS_TEXT, refused_text
from voltrade.records import (
    NEVER_PLACED,
    ORDER_IS_GONE,
    ROWS_ARE_FULL,
    STOP_IS_MISSING,
    STOP_IS_REPLACED,
    TRIGGER_IS_STUCK,
)

_CONDITIONAL = {Purpose.STOP: OrderType.STOP_MARKET, Purpose.TAKE_PROFIT: OrderType.TAKE_PROFIT_MARKET}


def is_conditional(purpose: Purpose) -> bool:
    """Whether an order for a purpose waits for a trigger."""
    return purpose in _CONDITIONAL


def order_type(purpose: Purpose, price: int) -> OrderType:
    """Return the type of an order for a purpose; one with a price is a limit order."""
    return _CONDITIONAL.get(purpose) or (OrderType.LIMIT if price else OrderType.MARKET)


def client_order_id(epoch: str, round_trip: int, purpose: Purpose, count: int) -> str:
    """Name an order: the round trip joins all that belongs to a position; `count` tells those of one purpose apart."""
    return f"vt-{epoch}-{round_trip}{purpose.value}{count}"


def purpose_of(name: str, epoch: str) -> Purpose | None:
    """Return what an order is for whose name is of this session, from whichever of its engine's lives; else None."""
    found = re.fullmatch(rf"vt-{re.escape(epoch)}(?:r[0-9a-z]+)?-[0-9]+([a-z])[0-9]+", name)
    return Purpose(found[1]) if found and found[1] in set(Purpose) else None


def request(order: Any, symbol: str, name: str, working_type: WorkingType) -> OrderRequest:
    """What is asked of the exchange for a row of ORDER."""
    purpose = PURPOSES[order.purpose]
    return OrderRequest(
        symbol=symbol,
        client_order_id=name,
        side=Side(order.side),
        order_type=order_type(purpose, order.price),
        quantity=order.quantity,
        price=order.price,
        trigger_price=order.trigger_price,
        time_in_force=TimeInForce.IOC if order.price else TimeInForce.GTC,
        reduce_only=purpose is not Purpose.ENTRY,
        working_type=working_type,
    )


def intent(order: Any, asked: OrderRequest, reason: str) -> OrderIntent:
    return OrderIntent(order.time, asked, PURPOSES[order.purpose], order.round_trip, reason, order.bar)


def round_trip(trip: Any, symbol: str, reason: str, entries: Sequence[int], exits: Sequence[int]) -> RoundTrip:
    """A row of TRIP, with why it was left and the trade ids of its fills."""
    told = {name: value for name, value in trip._asdict().items() if name != "fills"}
    told |= {"side": Side(trip.side), "net": trip.realised - trip.fees + trip.funding, "exit_reason": reason}
    return RoundTrip(**told, symbol=symbol, entry_trade_ids=tuple(entries), exit_trade_ids=tuple(exits))


def refusal(row: Any, symbol: str, gates: Sequence[risk.Gate], said: str = "") -> Refusal:
    """A row of REFUSAL; `said` is what the person said whose hold it may be."""
    gate = gates[row.gate]
    text = refusal_text(gate, row.measure, row.limit, said)
    return Refusal(row.time, symbol, row.bar, Side(row.side), gate.code, text)


def refusal_text(gate: risk.Gate, measure: int, limit: int, said: str = "") -> str:
    """Say for people why a gate refuses: how far the breaker's rule is that it stands for, or its own text."""
    if gate.code not in risk.RULES:
        return gate.text
    return said if gate.code == risk.RULES[-1] else risk.distance_text(gate.code, measure, limit)


def alert_words(kind: int, name: str, code: int, text: str) -> tuple[str, str]:
    """Return an alert's code, and what it says for people of the order of a name, its refusal's code and text."""
    if kind == STOP_IS_MISSING:
        return "STOP_MISSING", STOP_MISSING_TEXT
    if kind == ROWS_ARE_FULL:
        return "TOO_MANY_ORDERS", TOO_MANY_ORDERS_TEXT
    if kind == NEVER_PLACED:
        return "NOT_PLACED", f"{name} was never placed"
    if kind == ORDER_IS_GONE:
        return "ORDER_GONE", f"{name} is no more at the exchange, and nothing has told of its end"
    if kind == TRIGGER_IS_STUCK:
        return "TRIGGER_STUCK", f"{name} has triggered and fills nothing: leaving at market"
    if kind == STOP_IS_REPLACED:
        return "STOP_REPLACED", f"{name} was cancelled, not by us: another takes its place"
    return "ORDER_REFUSED", refused_text(name, code, text)


def change(row: Any) -> BreakerChange:
    action = "resume" if row.resumed else risk.ACTIONS[row.action]
    return BreakerChange(
        row.time, risk.RULES[row.rule], risk.MODES[row.mode], action, row.measure, row.limit, row.resume_at
    )


def equity_point(row: Any, symbol: str) -> EquityPoint:
    told = row.time, symbol, row.wallet, row.unrealised, row.wallet + row.unrealised, row.position
    return EquityPoint(*told, "mark" if row.at_mark else "last")
