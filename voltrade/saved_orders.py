"""Saving an open position and its orders as JSON, and restoring them in the next run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voltrade.books import Books
from voltrade.model import Purpose
from voltrade.order_register import Order, OrderRegister
from voltrade.order_states import PURPOSES, RESTART, STATES
from voltrade.records import OrderRow, PositionRow
from voltrade.risk import whole

_REASONS = frozenset({"reason", "lookup_reason", "cancel_reason", "exit_reason", "closing_reason", "rest_reason"})
_OF_THIS_RUN = frozenset({"number", "is_removable", "cancels"})


def open_position_state(register: OrderRegister, books: Books) -> dict[str, Any] | None:
    """Return the open position and its orders by field name; None where there is no position."""
    position = register.open_position
    if position is None:
        return None
    entries, exits = register.trade_ids_of(position.id)
    return {
        "position": _by_name(position.row, books),
        "orders": [{"id": o.id, "text": o.text, **_by_name(o.row, books)} for o in position.orders],
        "entry_trade_ids": list(entries),
        "exit_trade_ids": list(exits),
    }


def restore_open_position(register: OrderRegister, books: Books, index: int, saved: Mapping[str, Any], at: int) -> None:
    """Restore a saved position; each of its live orders is looked up at once.

    Args:
        register: of the symbol, empty.
        books: the account's records.
        index: the symbol's row in them.
        saved: what `open_position_state` returned.
        at: now, ms.

    Raises:
        KeyError, TypeError, ValueError: `saved` lacks a field, or a field has the wrong type.
    """
    trip = _row(PositionRow, saved["position"], books)
    orders = [_row(OrderRow, each, books, number=n) for n, each in enumerate(saved["orders"])]
    books.column("position")[index] = tuple(trip)
    register.symbol_row["has_position"], register.symbol_row["order_numbers"] = True, len(orders)
    for ids, name in zip(register.trade_ids_of(trip.id), ("entry_trade_ids", "exit_trade_ids"), strict=True):
        ids += [whole(trade) for trade in saved[name]]
        register.fills.update(ids)
    for number, (order, each) in enumerate(zip(orders, saved["orders"], strict=True)):
        register.names[number], register.numbers[str(each["id"])] = str(each["id"]), number
        register.texts[number] = str(each["text"])
        if order.order_id:
            register.by_exchange_id[order.order_id] = number
        register.archive(order._replace(lookup_at=at, lookup_reason=RESTART))
        if not Order("", order).done or number in register.awaiting:
            register.row_of(number)


def _by_name(row: Any, books: Books) -> dict[str, Any]:
    """Return the fields of a row by name, with texts instead of numbers, so that a saved state outlives new tables."""
    return {name: _text(name, value, books) for name, value in row._asdict().items() if name not in _OF_THIS_RUN}


def _text(name: str, value: int, books: Books) -> int | str:
    if name in _REASONS:
        return books.reason_text(value)
    return str({"state": STATES, "purpose": PURPOSES}[name][value]) if name in ("state", "purpose") else value


def _row(kind: Any, saved: Mapping[str, Any], books: Books, **of_this_run: Any) -> Any:
    """Read the fields of a row by name; each must be there and have the right type."""
    given = {**dict.fromkeys(_OF_THIS_RUN, 0), **of_this_run}
    return kind(*(given[name] if name in given else _number(name, saved[name], books) for name in kind._fields))


def _number(name: str, saved: Any, books: Books) -> int:
    if name in _REASONS:
        return books.reason_number(str(saved))
    if name == "state":
        return STATES.index(saved)
    return PURPOSES.index(Purpose(saved)) if name == "purpose" else whole(saved)
