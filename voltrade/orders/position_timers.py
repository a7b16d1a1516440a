"""What becomes due with time for an open position and its orders, and when.

Each rule is a compiled function over one row of SYMBOL and the row of ACCOUNT (`records`), as in `position_rules`.
"""

from __future__ import annotations

from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.orders import order_states as states
from voltrade.orders import records
from voltrade.orders.order_queries import awaits_fills, exposed_lots, is_algo, is_done, rest_covers_until
from voltrade.orders.order_rules import alert, lookup, start_closing
from voltrade.orders.position_rules import (
    has_finished_trigger,
    is_closing,
    next_exit_at,
    resend_stop_at,
    resize_at,
    stuck_at,
    sync_orders,
    working_take_profit,
)
from voltrade.orders.records import add_output


@compiled_part
def on_time(account: Record, symbol: Record, time: int) -> None:
    """Do what is due: look up orders, read the account, close a position held too long or unprotected, sync orders."""
    for purpose in range(states.PURPOSE_COUNT):
        for row in range(symbol.order_count):
            order = symbol.orders[row]
            if order.purpose == purpose and not is_done(order) and order.lookup_at <= time:
                lookup(account, symbol, row, time, order.lookup_reason)
    if symbol.snapshot_at <= time:
        symbol.snapshot_at = NEVER
        add_output(account, records.SNAPSHOT, symbol.index, -1, symbol.snapshot_reason, time)
    position = symbol.position
    if exposed_lots(symbol, time) != 0 and not is_closing(position):
        if time >= _max_holding_at(symbol):
            start_closing(position, states.BY_TIME)
        if time - position.unprotected_since >= states.PROTECT_WITHIN_MS:
            start_closing(position, states.STOP_MISSING)
            alert(account, symbol, records.STOP_IS_MISSING, -1, time)
    sync_orders(account, symbol, time)


@compiled_part
def orders_due(symbol: Record) -> int:
    """Return when `on_time` has something to do, in ms, or NEVER."""
    due: int = symbol.snapshot_at
    now = symbol.time
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if not is_done(order):
            due = min(due, order.lookup_at)
        if awaits_fills(order) and order.updated_at + states.RETRY_AFTER_MS > now:
            due = min(due, order.updated_at + states.RETRY_AFTER_MS)
        if is_algo(order) and not is_done(order):
            due = min(due, _if_later(rest_covers_until(order), now))
    if exposed_lots(symbol, now) != 0:
        due = min(due, _position_due(symbol, now))
    return due


@compiled_part
def _position_due(symbol: Record, now: int) -> int:
    """Return when a position needs its next order or must be closed, in ms."""
    position, due = symbol.position, _if_later(resize_at(symbol, now), now)
    due = min(due, _if_later(position.stop_retry_at, now), _if_later(resend_stop_at(symbol), now))
    if is_closing(position) or has_finished_trigger(position):
        due = min(due, _if_later(position.exit_retry_at, now))
        due = min(due, _if_later(next_exit_at(symbol, now), now))
    else:
        due = min(due, _if_later(position.take_profit_retry_at, now))
        row = working_take_profit(symbol)
        if row >= 0:
            due = min(due, _if_later(stuck_at(symbol.orders[row]), now))
    if position.unprotected_since != NEVER:
        if is_closing(position):
            due = min(due, _if_later(position.unprotected_since + states.RETRY_AFTER_MS, now))
        else:
            due = min(due, position.unprotected_since + states.PROTECT_WITHIN_MS)
    return due if is_closing(position) else min(due, _max_holding_at(symbol))


@compiled_part
def _max_holding_at(symbol: Record) -> int:
    """Return when `max_holding_s` is over, in ms; NEVER without that setting, or before a fill is counted."""
    if symbol.settings.max_holding_ms == 0 or symbol.position.opened_at == 0:
        return NEVER
    return int(symbol.position.opened_at + symbol.settings.max_holding_ms)


@compiled_part
def _if_later(time: int, now: int) -> int:
    """Return a time that is after `now`, else NEVER."""
    return int(time) if time > now else NEVER
