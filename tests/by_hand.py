"""A position entered and left by hand: steps of `order_rules` over a monitor's records, without a rule's signal.

What the steps do follows as it does in trading: as outputs of the account's books.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from voltrade import order_rules
from voltrade.compiled import BARE, Rows, compile_for
from voltrade.model import Output, Side
from voltrade.oms import OrderMonitor
from voltrade.records import EVENT, Event


def _enter(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    """The distances of stop and take-profit stand in `code` and `amount`, the number of the bar in `told`."""
    wish = wishes[0]
    order_rules.enter(
        accounts[0],
        symbols[place],
        wish.time,
        wish.side,
        wish.quantity,
        wish.code,
        wish.amount,
        0,
        wish.told,
    )


def _leave(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    order_rules.close_position(accounts[0], symbols[place], wishes[0].time, wishes[0].reason)


def _cancel_entry(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    order_rules.cancel_entry(accounts[0], symbols[place], wishes[0].time, wishes[0].reason)


def _note_protection(accounts: Rows, symbols: Rows, place: int, wishes: Rows) -> None:
    wishes[0].amount = order_rules.is_protected(symbols[place])


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
    assert not monitor.in_hand, "one round trip at a time"
    wish = Event(0, time=time, side=side, quantity=quantity, code=stop_distance, amount=take_profit_distance, told=bar)
    return _take(monitor, _ENTER, wish)[0]


def leave(monitor: OrderMonitor, time: int, reason: str) -> list[Output]:
    """Leave the position at market."""
    return _take(monitor, _LEAVE, Event(0, time=time, reason=monitor._books.number(reason)))[0]


def cancel_entry(monitor: OrderMonitor, time: int, reason: str) -> list[Output]:
    """Cancel what is left of the entry."""
    return _take(monitor, _CANCEL_ENTRY, Event(0, time=time, reason=monitor._books.number(reason)))[0]


def is_protected(monitor: OrderMonitor) -> bool:
    """Whether the position in hand is whole, every fill told of is counted, and an acknowledged stop covers it."""
    return bool(_take(monitor, _PROTECTION, Event(0))[1]["amount"])


def _take(monitor: OrderMonitor, step: Callable[..., None], wish: Event) -> tuple[list[Output], Any]:
    wishes = np.zeros(1, EVENT)
    wishes[0] = wish
    return monitor._books.decide(step, monitor._place, wishes), wishes[0]
