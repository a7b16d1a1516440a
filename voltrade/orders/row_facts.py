"""Conversions of rows of records to the facts of `model`: one by one for a live session, by table for a backtest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from voltrade import risk
from voltrade.account import net_of
from voltrade.compiled import uncompiled
from voltrade.model import (
    OUR_ORDERS,
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
from voltrade.orders.order_states import (
    PURPOSES,
    REST_STUCK_TEXT,
    STOP_ENDED_TEXT,
    STOP_MISSING_TEXT,
    TOO_MANY_ORDERS_TEXT,
    refused_text,
)
from voltrade.orders.records import (
    NEVER_PLACED,
    ORDER_IS_GONE,
    REST_IS_STUCK,
    ROWS_ARE_FULL,
    STOP_HAS_ENDED,
    STOP_IS_MISSING,
    TRIGGER_IS_STUCK,
)

_CONDITIONAL = {Purpose.STOP: OrderType.STOP_MARKET, Purpose.TAKE_PROFIT: OrderType.TAKE_PROFIT_MARKET}
_NET_OF = uncompiled(net_of)


def is_conditional(purpose: Purpose) -> bool:
    """Return whether an order for a purpose is conditional."""
    return purpose in _CONDITIONAL


def order_type(purpose: Purpose, price: int) -> OrderType:
    """Return the order type for a purpose; an order with a price is a limit order."""
    return _CONDITIONAL.get(purpose) or (OrderType.LIMIT if price else OrderType.MARKET)


def client_order_id(epoch: str, round_trip: int, purpose: Purpose, count: int) -> str:
    """Return a client order id: unique within the session by round trip, purpose and `count`."""
    return f"{OUR_ORDERS}{epoch}-{round_trip}{purpose.value}{count}"


def purpose_of(name: str, epoch: str) -> Purpose | None:
    """Return the purpose of an order by its client order id, or None where the id isn't of this session.

    The ids of a session differ between starts of its engine; all are recognised.
    """
    found = re.fullmatch(rf"{OUR_ORDERS}{re.escape(epoch)}(?:r[0-9a-z]+)?-[0-9]+([a-z])[0-9]+", name)
    return Purpose(found[1]) if found and found[1] in set(Purpose) else None


def request(order: Any, symbol: str, name: str, working_type: WorkingType) -> OrderRequest:
    """Return the request for a row of ORDER."""
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


def intent(order: Any, request: OrderRequest, reason: str) -> OrderIntent:
    """Return the intent for a row of ORDER and its request."""
    return OrderIntent(order.time, request, PURPOSES[order.purpose], order.round_trip, reason, order.bar)


def round_trip(trip: Any, symbol: str, reason: str, entries: Sequence[int], exits: Sequence[int]) -> RoundTrip:
    """Return a row of TRIP as a `RoundTrip`, with its exit reason and the trade ids of its fills."""
    fields = {name: value for name, value in trip._asdict().items() if name != "fills"}
    fields |= {"side": Side(trip.side), "net": _NET_OF(trip.realised, trip.fees, trip.funding), "exit_reason": reason}
    return RoundTrip(**fields, symbol=symbol, entry_trade_ids=tuple(entries), exit_trade_ids=tuple(exits))


def refusal(row: Any, symbol: str, gates: Sequence[risk.Gate], halt_reason: str = "") -> Refusal:
    """Return a row of REFUSAL as a `Refusal`; `halt_reason` says why trading is halted."""
    gate = gates[row.gate]
    text = refusal_text(gate, row.measure, row.limit, halt_reason)
    return Refusal(row.time, symbol, row.bar, Side(row.side), gate.code, text)


def refusal_text(gate: risk.Gate, measure: int, limit: int, halt_reason: str = "") -> str:
    """Return the text of a refusal: that of its breaker rule, the reason of a halt, or the gate's own."""
    if gate.code not in risk.RULES:
        return gate.text
    return halt_reason if gate.code == risk.ON_HOLD.code else risk.distance_text(gate.code, measure, limit)


def alert_code_and_text(kind: int, name: str, code: int, text: str) -> tuple[str, str]:
    """Return the code and text of an alert about an order: its client order id, and its refusal's code and text."""
    if kind == STOP_IS_MISSING:
        return "STOP_MISSING", STOP_MISSING_TEXT
    if kind == ROWS_ARE_FULL:
        return "TOO_MANY_ORDERS", TOO_MANY_ORDERS_TEXT
    if kind == NEVER_PLACED:
        return "NOT_PLACED", f"{name} was never placed"
    if kind == ORDER_IS_GONE:
        return "ORDER_GONE", f"{name} no longer exists at the exchange, and no update reported its end"
    if kind == TRIGGER_IS_STUCK:
        return "TRIGGER_STUCK", f"{name} has triggered but does not fill: closing the position at market"
    if kind == REST_IS_STUCK:
        return "REST_STUCK", f"{name} was refused: {REST_STUCK_TEXT}"
    if kind == STOP_HAS_ENDED:
        return "STOP_REPLACED", f"{name} {STOP_ENDED_TEXT}"
    return "ORDER_REFUSED", refused_text(name, code, text)


def change(row: Any, halt_reason: str = "") -> BreakerChange:
    """Return a row of CHANGE as a `BreakerChange`; `halt_reason` says why trading is halted, or goes on."""
    action, rule = "resume" if row.released else risk.ACTIONS[row.action], risk.RULES[row.rule]
    measured = row.measure, row.limit, row.release_at
    reason = halt_reason if rule == risk.ON_HOLD.code else ""
    return BreakerChange(row.time, rule, risk.MODES[row.mode], action, *measured, reason)


def equity_point(row: Any, symbol: str) -> EquityPoint:
    """Return a row of EQUITY_POINT as an `EquityPoint`."""
    values = row.time, symbol, row.wallet, row.unrealised, row.wallet + row.unrealised, row.position
    return EquityPoint(*values, "mark" if row.at_mark else "last")
