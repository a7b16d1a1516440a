"""The compiled twin of `oms.OrderMonitor`: the orders of the one round trip in hand, tended from news and answers."""

from __future__ import annotations

from voltrade import oms, risk
from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.oms import level_from
from voltrade.simulation import exchange
from voltrade.simulation.rows import (
    BY_STOP,
    BY_TAKE_PROFIT,
    BY_TIME,
    CANCEL,
    ENTRY,
    EXIT,
    HALT,
    IS_DONE,
    LATE_FILL,
    LEAVE,
    LEGAL,
    LOOKUP,
    NEW,
    NONE,
    ORDER_REFUSED,
    PARTIALLY_FILLED,
    PENDING_CANCEL,
    PENDING_SUBMIT,
    POSITION_CLOSED,
    PROTECT,
    REACTIONS,
    RECONCILE,
    REFUSED,
    REFUSED_CODES,
    REJECTED,
    RESIZE,
    RESIZED,
    RETRY,
    SIGNALLED,
    SNAPSHOT,
    STALE,
    STOP,
    STOP_IS_MISSING,
    STOP_MISSING,
    STOP_REFUSED,
    STOP_REST,
    SUBMIT,
    TAKE_PROFIT,
    TARGET,
    UNKNOWN,
    free_row,
)

# --- orders -----------------------------------------------------------------------------------------------------------


@compiled_part
def is_done(order: Record) -> bool:
    return bool(IS_DONE[order.state] or order.child_done)


@compiled_part
def _is_resting(order: Record) -> bool:
    return not is_done(order) and order.state != PENDING_SUBMIT and order.state != UNKNOWN


@compiled_part
def move(order: Record, state: int) -> bool:
    """Go to a state if that is a legal move; say whether it was."""
    if not LEGAL[1 if exchange.is_algo(order) else 0, order.state, state]:
        return False
    order.state = state
    return True


@compiled_part
def _command(desk: Record, kind: int, at: int) -> None:
    number = free_row(desk, desk.command_count, len(desk.commands))
    command = desk.commands[number]
    command.kind, command.order = kind, at
    desk.command_count = number + 1


@compiled_part
def position(desk: Record) -> int:
    """Unsigned lots in hand, from our fills."""
    return desk.entered - desk.left if desk.in_hand else 0


@compiled_part
def _advance(settings: Record, order: Record, status: int, time: int) -> None:
    """Move an order to a status that the exchange told; late news changes nothing."""
    is_canceling = order.state == PENDING_CANCEL and status in (NEW, PARTIALLY_FILLED)
    if order.state != status and (is_canceling or not move(order, status)):
        return
    order.look_at = NEVER if exchange.is_algo(order) and order.state == NEW else time + settings.stale_ms


@compiled_part
def _cancel(desk: Record, at: int, reason: int) -> None:
    order = desk.orders[at]
    if not _is_resting(order) or not move(order, PENDING_CANCEL):
        return
    order.look_at = desk.now + desk.settings.stale_ms
    if order.text == NONE:
        order.text = reason
    _command(desk, CANCEL, at)


@compiled_part
def lookup(desk: Record, at: int) -> None:
    desk.orders[at].look_at = desk.now + desk.settings.stale_ms
    _command(desk, LOOKUP, at)


@compiled_part
def count_fill(desk: Record, news: Record) -> None:
    order = desk.orders[news.order]
    desk.counted = news.trade_id
    notional = news.quantity * news.price
    order.filled += news.quantity
    if order.round_trip != desk.round_trips:
        desk.unmodelled = LATE_FILL
    if not desk.in_hand:
        desk.in_hand = True
        desk.closed = False
    fill = desk.fills[news.trade_id - 1 - desk.fills_written]
    desk.fees += news.fee
    desk.realised += fill.realised
    if order.purpose == ENTRY:
        if desk.opened_at == 0:
            desk.opened_at = fill.time
        desk.entered += news.quantity
        desk.entry_notional += notional
        return
    desk.left += news.quantity
    desk.exit_notional += notional
    desk.exit_time = fill.time
    if order.purpose == STOP:
        desk.exit_reason = BY_STOP
    elif order.purpose == TAKE_PROFIT:
        desk.exit_reason = BY_TAKE_PROFIT
    else:
        desk.exit_reason = order.reason


# --- position in hand -------------------------------------------------------------------------------------------------


@compiled_part
def tend(desk: Record) -> None:
    """Compare the position in hand with the orders it should have, and send what is missing or cancel what is left."""
    if not desk.in_hand:
        return
    if position(desk) <= 0:
        _tend_flat(desk)
        return
    _tend_stop(desk)
    if desk.leave_reason != NONE or _stop_spent(desk):
        _tend_exit(desk)
    else:
        _tend_take_profit(desk)


@compiled_part
def _tend_flat(desk: Record) -> None:
    desk.unprotected_since = NEVER
    if not is_done(desk.orders[0]):
        return
    if desk.entered > 0 and not desk.closed:
        desk.closed = True
        _round_trip(desk)
    all_done = True
    for purpose in range(4):
        for at in range(desk.order_count):
            if desk.orders[at].purpose == purpose:
                _cancel(desk, at, POSITION_CLOSED)
                all_done = all_done and is_done(desk.orders[at])
    if all_done:
        desk.in_hand = False


@compiled_part
def _tend_stop(desk: Record) -> None:
    if desk.stops and not is_done(desk.orders[desk.newest_stop]):
        if not _is_resting(desk.orders[desk.newest_stop]):
            _unprotected(desk)
            return
        desk.unprotected_since = NEVER
        for at in range(desk.newest_stop):
            if desk.orders[at].purpose == STOP:
                _cancel(desk, at, RESIZED)
        if desk.now >= _resize_at(desk):
            _send_stop(desk, RESIZE)
        return
    _unprotected(desk)
    if not (_stop_spent(desk) or desk.now < desk.retry_at or desk.leave_reason != NONE):
        _send_stop(desk, PROTECT)


@compiled_part
def _resize_at(desk: Record) -> int:
    if desk.stops == 0:
        return NEVER
    newest = desk.orders[desk.newest_stop]
    if newest.state != NEW or is_done(newest) or newest.quantity >= position(desk):
        return NEVER
    return 0 if is_done(desk.orders[0]) else newest.time + oms.RESIZE_EVERY_MS


@compiled_part
def _unprotected(desk: Record) -> None:
    for at in range(desk.order_count):
        if desk.orders[at].purpose == STOP and _is_resting(desk.orders[at]):
            desk.unprotected_since = NEVER
            return
    if desk.unprotected_since == NEVER:
        desk.unprotected_since = desk.now


@compiled_part
def _send(desk: Record, purpose: int, quantity: int, trigger_price: int, reason: int) -> int:
    """Register an order that leaves the position, and command it; return its place in the table."""
    at = free_row(desk, desk.order_count, len(desk.orders))
    order = desk.orders[at]
    order.round_trip, order.purpose, order.side = desk.round_trips, purpose, -desk.side
    order.quantity, order.price, order.trigger_price = quantity, 0, trigger_price
    order.time, order.reason, order.bar = desk.now, reason, -1
    order.algo_id, order.algo_status, order.arrived = 0, PENDING_SUBMIT, False
    order.order_id, order.phase, order.live_from, order.reference = 0, 0, 0, 0
    order.status, order.executed, order.executed_notional = PENDING_SUBMIT, 0, 0
    order.state, order.look_at = PENDING_SUBMIT, desk.now + desk.settings.stale_ms
    order.filled, order.reported, order.child_id, order.child_done = 0, 0, 0, False
    order.answered, order.updated, order.code, order.text = 0, 0, 0, NONE
    desk.order_count = at + 1
    _command(desk, SUBMIT, at)
    return at


@compiled_part
def _send_stop(desk: Record, reason: int) -> None:
    trigger = level_from(desk.entry_notional, desk.entered, -desk.side * desk.stop_distance)
    desk.newest_stop = _send(desk, STOP, position(desk), max(trigger, 1), reason)
    desk.stops += 1
    desk.orders[desk.newest_stop].number = desk.stops


@compiled_part
def _tend_take_profit(desk: Record) -> None:
    if desk.take_profit_distance == 0 or desk.take_profits or not is_done(desk.orders[0]):
        return
    trigger = level_from(desk.entry_notional, desk.entered, desk.side * desk.take_profit_distance)
    desk.newest_take_profit = _send(desk, TAKE_PROFIT, position(desk), max(trigger, 1), TARGET)
    desk.take_profits += 1
    desk.orders[desk.newest_take_profit].number = desk.take_profits


@compiled_part
def _stop_spent(desk: Record) -> bool:
    """Whether a stop or take-profit triggered and ended, and a part of the position is still there."""
    for at in range(desk.order_count):
        order = desk.orders[at]
        if exchange.is_algo(order) and order.child_id != 0 and is_done(order):
            return True
    return False


@compiled_part
def _tend_exit(desk: Record) -> None:
    if desk.now < desk.retry_at:
        return
    for at in range(desk.order_count):
        if desk.orders[at].purpose == EXIT and not is_done(desk.orders[at]):
            return
    reason = desk.leave_reason if desk.leave_reason != NONE else STOP_REST
    at = _send(desk, EXIT, position(desk), 0, reason)
    desk.exits += 1
    desk.orders[at].number = desk.exits


@compiled_part
def _round_trip(desk: Record) -> None:
    number = free_row(desk, desk.trip_count, len(desk.trips))
    trip = desk.trips[number]
    trip.id, trip.side, trip.bar_number = desk.round_trips, desk.side, desk.bar
    trip.opened_at, trip.closed_at, trip.quantity = desk.opened_at, desk.exit_time, desk.entered
    trip.entry_notional, trip.exit_notional = desk.entry_notional, desk.exit_notional
    trip.realised, trip.fees, trip.funding = desk.realised, desk.fees, desk.funding
    trip.exit_reason, trip.fills = desk.exit_reason, desk.counted
    trip.stop_price = desk.orders[desk.newest_stop].trigger_price if desk.stops else 0
    trip.take_profit_price = desk.orders[desk.newest_take_profit].trigger_price if desk.take_profits else 0
    desk.trip_count = number + 1
    desk.trip_closed = True


@compiled_part
def enter(desk: Record, signal: Record, quantity: int) -> None:
    """Open a round trip."""
    desk.round_trips += 1
    desk.in_hand, desk.closed = True, False
    desk.stops, desk.take_profits, desk.exits = 0, 0, 0
    desk.side, desk.bar = signal.side, signal.bar
    desk.stop_distance, desk.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    desk.opened_at, desk.entered, desk.entry_notional, desk.left, desk.exit_notional = 0, 0, 0, 0, 0
    desk.realised, desk.fees, desk.funding, desk.exit_reason, desk.exit_time = 0, 0, 0, NONE, 0
    desk.leave_reason, desk.retry_at, desk.unprotected_since = NONE, 0, NEVER
    desk.stop_tries, desk.exit_tries = 0, 0
    order = desk.orders[_send(desk, ENTRY, quantity, 0, SIGNALLED)]
    order.side, order.bar, order.number = signal.side, signal.bar, 1
    if desk.settings.limit_entry:
        order.price = signal.price + signal.side * risk.share(signal.price, desk.settings.max_slippage_e8)


@compiled_part
def leave(desk: Record, reason: int) -> None:
    """Leave the position at market, reduce-only; the stop stays until the position is gone."""
    if not desk.in_hand:
        return
    if desk.leave_reason == NONE:
        desk.leave_reason = reason
    cancel_entry(desk, reason)
    tend(desk)


@compiled_part
def cancel_entry(desk: Record, reason: int) -> None:
    if desk.in_hand:
        _cancel(desk, 0, reason)


# --- news and answers -------------------------------------------------------------------------------------------------


@compiled_part
def hear_order(desk: Record, at: int, status: int, executed: int, order_id: int) -> None:
    """Take an ordinary order's update; its fill, if any, has been counted."""
    order = desk.orders[at]
    order.reported = max(order.reported, executed)
    if exchange.is_algo(order):
        order.child_id = order_id
        order.child_done = order.child_done or IS_DONE[status]
    else:
        _advance(desk.settings, order, status, desk.now)
    if order.reported > order.filled and desk.snapshot_at == NEVER:
        desk.snapshot_at = desk.now + oms.RETRY_AFTER_MS
    tend(desk)


@compiled_part
def hear_algo(desk: Record, at: int, status: int, order_id: int) -> None:
    order = desk.orders[at]
    if order_id:
        order.child_id = order_id
    _advance(desk.settings, order, status, desk.now)
    tend(desk)


@compiled_part
def _reaction(code: int) -> int:
    for at in range(len(REFUSED_CODES)):
        if REFUSED_CODES[at] == code:
            return int(REACTIONS[at])
    return HALT


@compiled_part
def on_refused(desk: Record, at: int, code: int) -> None:
    order = desk.orders[at]
    order.code = code
    if not move(order, REJECTED):
        return
    _alert(desk, ORDER_REFUSED, at)
    reaction = _reaction(code)
    if reaction == HALT:
        desk.unmodelled = REFUSED
    if reaction == RECONCILE:
        _command(desk, SNAPSHOT, at)
    if order.purpose == EXIT:
        desk.retry_at = desk.now + (oms.RETRY_AFTER_MS << min(desk.exit_tries, oms.DOUBLINGS))
        desk.exit_tries += 1
    elif order.purpose == STOP:
        desk.stop_tries += 1
        if reaction in (RETRY, RECONCILE) and desk.stop_tries < oms.STOP_TRIES:
            desk.retry_at = desk.now + oms.RETRY_AFTER_MS
        elif desk.leave_reason == NONE:
            desk.leave_reason = BY_STOP if reaction == LEAVE else STOP_REFUSED
    elif order.purpose == TAKE_PROFIT and reaction == LEAVE and desk.leave_reason == NONE:
        desk.leave_reason = BY_TAKE_PROFIT


@compiled_part
def on_looked_up(desk: Record, at: int) -> None:
    order = desk.orders[at]
    if is_done(order):
        return
    told = order.algo_status if exchange.is_algo(order) else order.status
    is_open = told in (NEW, PARTIALLY_FILLED)
    if order.state in (PENDING_CANCEL, UNKNOWN) and is_open:
        move(order, told)
    if order.purpose == ENTRY and is_open and desk.now - order.time >= desk.settings.stale_ms:
        move(order, told)
        _cancel(desk, at, STALE)


@compiled_part
def hear_as_it_is(desk: Record, at: int) -> None:
    """Take an order's state from an answer."""
    order = desk.orders[at]
    if exchange.is_algo(order):
        hear_algo(desk, at, order.algo_status, order.order_id)
    else:
        hear_order(desk, at, order.status, order.executed, order.order_id)


@compiled_part
def _alert(desk: Record, kind: int, at: int) -> None:
    number = free_row(desk, desk.alert_count, len(desk.alerts))
    alert = desk.alerts[number]
    alert.time, alert.kind, alert.order = desk.now, kind, at
    desk.alert_count = number + 1


@compiled_part
def has_unknown(desk: Record) -> bool:
    if desk.in_hand:
        for at in range(desk.order_count):
            order = desk.orders[at]
            if not is_done(order) and (order.state == UNKNOWN or order.state == PENDING_CANCEL):
                return True
    return False


@compiled_part
def is_protected(desk: Record) -> bool:
    if not desk.in_hand or not is_done(desk.orders[0]) or desk.stops == 0:
        return False
    for at in range(desk.order_count):
        if desk.orders[at].reported > desk.orders[at].filled:
            return False
    newest = desk.orders[desk.newest_stop]
    return _is_resting(newest) and newest.quantity >= position(desk)


@compiled_part
def is_at_work(desk: Record) -> bool:
    for at in range(desk.order_count):
        order = desk.orders[at]
        if not is_done(order) and not (exchange.is_algo(order) and order.state == NEW):
            return True
    return False


@compiled_part
def monitor_due(desk: Record) -> int:
    due: int = desk.snapshot_at
    if not desk.in_hand:
        return due
    for at in range(desk.order_count):
        if not is_done(desk.orders[at]):
            due = min(due, desk.orders[at].look_at)
    if position(desk) != 0:
        due = min(due, _resize_at(desk))
        if desk.retry_at > desk.monitor_time:
            due = min(due, desk.retry_at)
        if desk.leave_reason == NONE:
            if desk.unprotected_since != NEVER:
                due = min(due, desk.unprotected_since + oms.PROTECT_WITHIN_MS)
            if desk.settings.max_holding_ms:
                due = min(due, desk.opened_at + desk.settings.max_holding_ms)
    return due


@compiled_part
def on_time(desk: Record) -> None:
    """Do what is due: look up overdue orders, retry, protect, leave a position that is held too long."""
    desk.monitor_time = desk.now
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.order_count):
                order = desk.orders[at]
                if order.purpose == purpose and not is_done(order) and order.look_at <= desk.now:
                    lookup(desk, at)
    if desk.snapshot_at <= desk.now:
        desk.snapshot_at = NEVER
        _command(desk, SNAPSHOT, -1)
    if position(desk) != 0 and desk.leave_reason == NONE:
        if desk.settings.max_holding_ms and desk.now - desk.opened_at >= desk.settings.max_holding_ms:
            desk.leave_reason = BY_TIME
        if desk.now - desk.unprotected_since >= oms.PROTECT_WITHIN_MS:
            desk.leave_reason = STOP_MISSING
            _alert(desk, STOP_IS_MISSING, -1)
    tend(desk)
