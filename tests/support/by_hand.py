"""A position entered and left by hand: steps of `order_rules` over a monitor's records, without a rule's signal.

What the steps do follows as it does in trading: as outputs of the account's books.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from voltrade.compiled import BARE, Rows, compile_for
from voltrade.model import Output, Side
from voltrade.oms import OrderMonitor
from voltrade.orders import order_queries, order_rules, position_rules
from voltrade.orders.records import BOOKS_EVENT, SIGNAL, BooksEvent


def _enter(accounts: Rows, symbols: Rows, place: int, signals: Rows) -> None:
    """The quantity stands in `price`, since nothing limits that."""
    order_rules.enter(accounts[0], symbols[place], signals[0], signals[0].price, 0)


def _leave(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    position_rules.close_position(accounts[0], symbols[place], wishes[0].time, wishes[0].reason)


def _cancel_entry(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    position_rules.cancel_entry(accounts[0], symbols[place], wishes[0].time, wishes[0].reason)


def _note_protection(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    wishes[0].amount = order_queries.is_protected(symbols[place])


_ENTER, _LEAVE, _CANCEL_ENTRY, _PROTECTION = (
    compile_for(step, None, **BARE) for step in (_enter, _leave, _cancel_entry, _note_protection)
)


def enter(
    monitor: OrderMonitor,
    time: int,
    side: Side,
    quantity: int,
    *,
    stop_distance: int = 20,
    take_profit_distance: int = 0,
    bar: int = 0,
) -> list[Output]:
    """Open a round trip at market; distances are ticks."""
    assert not monitor.in_round_trip, "one round trip at a time"
    signals, monitor._books.account["now"] = np.zeros(1, SIGNAL), time
    row = signals[0]
    row.bar, row.side, row.price = bar, side, quantity
    row.stop_ticks, row.take_profit_ticks = stop_distance, take_profit_distance
    return _call(monitor, _ENTER, signals)


def leave(monitor: OrderMonitor, time: int, reason: str) -> list[Output]:
    """Leave the position at market."""
    return _take(monitor, _LEAVE, BooksEvent(0, time=time, reason=monitor._books.reason_number(reason)))[0]


def cancel_entry(monitor: OrderMonitor, time: int, reason: str) -> list[Output]:
    """Cancel what is left of the entry."""
    return _take(monitor, _CANCEL_ENTRY, BooksEvent(0, time=time, reason=monitor._books.reason_number(reason)))[0]


def is_protected(monitor: OrderMonitor) -> bool:
    """Whether the position in hand is whole, every fill told of is counted, and an acknowledged stop covers it."""
    return bool(_take(monitor, _PROTECTION, BooksEvent(0))[1]["amount"])


def _take(monitor: OrderMonitor, step: Callable[..., None], wish: BooksEvent) -> tuple[list[Output], Any]:
    wishes = np.zeros(1, BOOKS_EVENT)
    wishes[0] = wish
    return _call(monitor, step, wishes), wishes[0]


def _call(monitor: OrderMonitor, step: Callable[..., None], rows: Rows) -> list[Output]:
    step(monitor._books._accounts, monitor._books._symbols, monitor._index, rows)
    return monitor._books.drain()
