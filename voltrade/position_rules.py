"""The upkeep of a position: which orders it should have, and what is sent where one is missing or due.

Compiled steps over one row of SYMBOL (`records`), as in `order_rules`; what they send and note is written to the row of
ACCOUNT, in order. Live trading calls a step for each event, a backtest the same step in its loop.
"""

from __future__ import annotations

from voltrade import order_states as states
from voltrade import records
from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.order_queries import (
    awaits_fills,
    covered,
    entry_is_done,
    exposed,
    has_room,
    is_algo,
    is_done,
    is_of,
    is_resting,
    is_waiting,
    level_from,
    newest_stop,
    open_quantity,
)
from voltrade.order_rules import advance, alert, cancel, leave_for, lookup, new_order, submit
from voltrade.records import add_output, note_row

# --- an update of an order --------------------------------------------------------------------------------------------


@compiled_part
def take_order(account: Record, symbol: Record, row: int, status: int, reported: int, order_id: int, time: int) -> None:
    """Take an ordinary order's update; its fill, if any, has been counted."""
    order = symbol.orders[row]
    if reported > order.reported:
        order.reported, order.told_at = reported, time
    order.order_id = order_id
    if is_algo(order):
        order.child_done = order.child_done or states.IS_DONE[status]
    else:
        is_filled = order.filled >= order.quantity and not states.IS_DONE[order.state]
        advance(symbol, order, states.FILLED if is_filled else status, time)
    if awaits_fills(order) and symbol.snapshot_at == NEVER:
        symbol.snapshot_at = time + states.RETRY_AFTER_MS
    _cancel_left_over(account, symbol, row, time)
    sync_orders(account, symbol, time)


@compiled_part
def take_algo(account: Record, symbol: Record, row: int, status: int, order_id: int, time: int) -> None:
    """Take a conditional order's update."""
    order = symbol.orders[row]
    if order_id:
        order.order_id = order_id
    advance(symbol, order, status, time)
    _cancel_left_over(account, symbol, row, time)
    sync_orders(account, symbol, time)


@compiled_part
def _cancel_left_over(account: Record, symbol: Record, row: int, time: int) -> None:
    """Cancel an order of a round trip that is over: it was taken for absent, and was accepted after all."""
    order = symbol.orders[row]
    if not symbol.has_position or order.round_trip != symbol.position.id:
        cancel(account, symbol, row, time, states.POSITION_CLOSED)


# --- what a position should have --------------------------------------------------------------------------------------


@compiled_part
def sync_orders(account: Record, symbol: Record, time: int) -> None:
    """Compare the position in hand with the orders that it should have; send what is missing, cancel what is left."""
    if not symbol.has_position:
        return
    _note_spent_stop(symbol)
    lots, position = exposed(symbol, time), symbol.position
    if lots == 0:
        _sync_flat(account, symbol, time)
        return
    _note_cover(symbol, time, lots)
    if lots > 0:
        _sync_stop(account, symbol, time, lots)
    if position.leave_reason != states.NONE or (position.stop_spent and lots > 0):
        _sync_exit(account, symbol, time, lots)
    elif lots > 0:
        _sync_take_profit(account, symbol, time, lots)


@compiled_part
def _note_spent_stop(symbol: Record) -> None:
    """Note where a stop or take-profit has triggered and ended: what is left of the position is left at market."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_algo(order) and order.order_id != 0 and is_done(order) and order.round_trip == symbol.position.id:
            symbol.position.stop_spent = True


@compiled_part
def _note_cover(symbol: Record, time: int, lots: int) -> None:
    """Note since when orders at the exchange don't cover the whole position."""
    position = symbol.position
    if lots > 0 and covered(symbol, time) >= lots:
        position.unprotected_since = NEVER
    elif position.unprotected_since == NEVER:
        position.unprotected_since = time


@compiled_part
def _sync_stop(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Keep a stop over the whole position: the first at once, a larger one when it has grown, then cancel the older.

    A position that is left needs none while its exit works; one whose exits fail has its stop again.
    """
    position, row = symbol.position, newest_stop(symbol)
    if row >= 0 and not is_done(symbol.orders[row]):
        if is_resting(symbol.orders[row]):
            for older in range(symbol.order_count):
                if older != row and is_of(symbol, symbol.orders[older], states.STOP):
                    cancel(account, symbol, older, time, states.RESIZED)
            if time >= resize_at(symbol, time):
                _resize_stop(account, symbol, time, lots)
            return
        if time < stop_again_at(symbol):
            return
    if time < position.stop_at or position.stop_spent or not (_is_kept(position) or _is_stuck(symbol, time)):
        return
    if row >= 0 and symbol.orders[row].state == states.CANCELED and symbol.orders[row].cancel_reason == states.NONE:
        alert(account, symbol, records.STOP_IS_REPLACED, symbol.orders[row].number, time)
        symbol.halts = records.HALTED_BY_HAND
    _send_stop(account, symbol, time, lots, states.PROTECT)


@compiled_part
def stop_again_at(symbol: Record) -> int:
    """When to send another stop, ms, where nobody knows of the newest: what is too much is cancelled once it is known.

    Later after each; NEVER where the newest is known to rest, or to be over.
    """
    row = newest_stop(symbol)
    if row < 0 or is_done(symbol.orders[row]) or is_resting(symbol.orders[row]):
        return NEVER
    return int(symbol.orders[row].time + _patience(symbol.position.stops))


@compiled_part
def _patience(tries: int) -> int:
    """How long an order that protects may go without an answer, ms: the longer, the more of them were sent."""
    return int(states.EXIT_WITHIN_MS << min(max(tries - states.QUICK_TRIES, 0), states.PROTECT_DOUBLINGS))


@compiled_part
def _is_kept(position: Record) -> bool:
    return bool(position.leave_reason == states.NONE)


@compiled_part
def _is_stuck(symbol: Record, time: int) -> bool:
    """Whether a position that is left needs its stop again: its exits are refused, or nobody knows of them."""
    position = symbol.position
    if position.leave_reason == states.BY_STOP or position.stop_distance == 0:
        return False  # the price has passed it
    if 0 < symbol.largest_order < open_quantity(symbol):
        return False  # the exchange takes none so large
    return bool(position.exit_tries > 0 or time >= position.unprotected_since + states.RETRY_AFTER_MS)


@compiled_part
def resize_at(symbol: Record, time: int) -> int:
    """When the stop is to be made larger, ms. One that has triggered is on its way out and stays as it is."""
    row = newest_stop(symbol)
    if row < 0:
        return NEVER
    stop = symbol.orders[row]
    if not is_waiting(stop) or stop.quantity >= exposed(symbol, time):
        return NEVER
    return 0 if entry_is_done(symbol) else int(stop.time + states.RESIZE_EVERY_MS)


@compiled_part
def _resize_stop(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Send a larger stop; where too many orders are open for one more, the position is left instead."""
    if has_room(symbol, records.SPARE):
        _send_stop(account, symbol, time, lots, states.RESIZE)
    elif symbol.position.leave_reason == states.NONE:
        symbol.position.leave_reason = states.TOO_MANY_ORDERS
        alert(account, symbol, records.ROWS_ARE_FULL, -1, time)


@compiled_part
def _new_conditional(symbol: Record, time: int, purpose: int, lots: int, profit: int, reason: int) -> int:
    """Make a stop or take-profit, `profit` ticks from the average fill price; return its row.

    Where no fill is counted yet of what the exchange has told, the last trade's price stands for the average.
    """
    position = symbol.position
    row = new_order(symbol, time, purpose, -position.side, lots, reason)
    if position.entered > 0:
        level = level_from(position.entry_notional, position.entered, position.side * profit)
    else:
        level = symbol.last_price + position.side * profit
    symbol.orders[row].trigger_price = max(level, 1)
    return row


@compiled_part
def _send_stop(account: Record, symbol: Record, time: int, lots: int, reason: int) -> None:
    position = symbol.position
    if not has_room(symbol, 1):
        return  # the clock of an unprotected position runs; an exit has the last row
    row = _new_conditional(symbol, time, states.STOP, lots, -position.stop_distance, reason)
    order = symbol.orders[row]
    position.stops += 1
    order.count, position.stop_price = position.stops, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def _sync_take_profit(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Send the take-profit when the entry is over; again where it was refused, a larger one where more was filled."""
    position = symbol.position
    if position.take_profit_distance == 0 or not entry_is_done(symbol):
        return
    row = _working_target(symbol)
    if row >= 0 and time >= stuck_at(symbol.orders[row]):
        alert(account, symbol, records.TRIGGER_IS_STUCK, symbol.orders[row].number, time)
        leave_for(position, states.BY_TAKE_PROFIT)
        _sync_exit(account, symbol, time, lots)
        return
    if row >= 0 and not (is_waiting(symbol.orders[row]) and symbol.orders[row].quantity < lots):
        return
    is_wanted = row >= 0 or position.take_profits == 0 or time >= position.target_at
    if not is_wanted or not has_room(symbol, records.SPARE):
        return
    if row >= 0:
        cancel(account, symbol, row, time, states.RESIZED)
    position.target_at = NEVER
    row = _new_conditional(symbol, time, states.TAKE_PROFIT, lots, position.take_profit_distance, states.TARGET)
    order = symbol.orders[row]
    position.take_profits += 1
    order.count, position.take_profit_price = position.take_profits, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def stuck_at(order: Record) -> int:
    """When a conditional order that has triggered counts as stuck, ms: so long after its last news; else NEVER."""
    is_triggered = order.state == states.TRIGGERING or order.state == states.TRIGGERED
    return int(order.told_at + states.PROTECT_WITHIN_MS) if is_triggered and not is_done(order) else NEVER


@compiled_part
def _working_target(symbol: Record) -> int:
    """Row of the newest take-profit that isn't over, -1 where there is none."""
    found = -1
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.TAKE_PROFIT) and not is_done(order) and order.state != states.PENDING_CANCEL:
            found = row
    return found


@compiled_part
def _sync_exit(account: Record, symbol: Record, time: int, exposure: int) -> None:
    """Leave at market, reduce-only, what no exit takes: a position may grow while it is left.

    In parts where the exchange has refused a larger one. Lots that were left too often are bought, or sold, back.
    """
    position, side = symbol.position, -symbol.position.side if exposure > 0 else symbol.position.side
    lots = _without_exit(symbol, time, side, abs(exposure))
    parts = 0
    while lots > 0 and time >= max(position.exit_at, next_exit_at(symbol, time)):
        parts += 1
        if parts == states.MOST_PARTS:
            position.exit_at = time + states.RETRY_AFTER_MS
        spare = 0 if lots == abs(exposure) else 1  # the last row is for an exit where none works
        if not has_room(symbol, spare):
            return
        part = lots if symbol.largest_order == 0 else min(lots, symbol.largest_order)
        reason = position.leave_reason if position.leave_reason != states.NONE else states.STOP_REST
        row = new_order(symbol, time, states.EXIT, side, part, reason)
        position.exits += 1
        symbol.orders[row].count = position.exits
        submit(account, symbol, row)
        lots -= part
        if not entry_is_done(symbol):
            return


@compiled_part
def _without_exit(symbol: Record, time: int, side: int, lots: int) -> int:
    """Lots in hand that no exit takes. One whose answer is overdue counts for nothing: reduce-only can't turn them."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        works = is_of(symbol, order, states.EXIT) and not is_done(order) and time < _counts_until(symbol, order)
        if works and order.side == side:
            lots -= int(order.quantity - max(order.filled, order.reported))
    return lots


@compiled_part
def _counts_until(symbol: Record, order: Record) -> int:
    """Until when an exit counts: for ever once it is known to work; else for a while, longer after each that failed."""
    if is_resting(order):
        return NEVER
    return int(order.time + _patience(symbol.position.exits))


@compiled_part
def next_exit_at(symbol: Record, time: int) -> int:
    """When to send an exit for what none takes, ms: at once, but while the entry fills not at each of its fills."""
    lots = exposed(symbol, time)
    side = -symbol.position.side if lots > 0 else symbol.position.side
    is_taken = _without_exit(symbol, time, side, abs(lots)) <= 0
    newest, ends = 0, NEVER
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.EXIT) and not is_done(order):
            newest = max(newest, order.time)
            if time < _counts_until(symbol, order):
                ends = min(ends, _counts_until(symbol, order))
    if is_taken:
        return ends
    return 0 if newest == 0 or entry_is_done(symbol) else newest + states.RESIZE_EVERY_MS


@compiled_part
def _sync_flat(account: Record, symbol: Record, time: int) -> None:
    """End the round trip once nothing is held: cancel what is left of its orders, and wait until none can act."""
    position = symbol.position
    position.unprotected_since = NEVER
    if not entry_is_done(symbol) or _awaits_any(symbol) or (position.entered > 0 and position.side * symbol.shown > 0):
        return  # what the exchange still shows, or has told of, keeps its stop; the account is asked again
    if position.entered > 0 and not position.is_closed:
        position.is_closed = True
        _note_round_trip(account, symbol)
    all_done = True
    for purpose in range(states.OF_EACH_PURPOSE):
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], purpose):
                cancel(account, symbol, row, time, states.POSITION_CLOSED)
                is_over = is_done(symbol.orders[row]) or time >= stuck_at(symbol.orders[row])
                all_done = all_done and is_over  # what has triggered can't be cancelled, and finds nothing to close
    if all_done:
        symbol.has_position = False


@compiled_part
def _awaits_any(symbol: Record) -> bool:
    """Whether fills of the position in hand are told of that aren't counted."""
    for row in range(symbol.order_count):
        if symbol.orders[row].round_trip == symbol.position.id and awaits_fills(symbol.orders[row]):
            return True
    return False


@compiled_part
def _note_round_trip(account: Record, symbol: Record) -> None:
    position = symbol.position
    at = note_row(account, account.trips_count, len(account.trips))
    trip = account.trips[at]
    trip.id, trip.side, trip.bar_number = position.id, position.side, position.bar
    trip.opened_at, trip.closed_at, trip.quantity = position.opened_at, position.last_exit_time, position.entered
    trip.entry_notional, trip.exit_notional = position.entry_notional, position.exit_notional
    trip.realised, trip.fees, trip.funding = position.realised, position.fees, position.funding
    trip.exit_reason, trip.fills = position.exit_reason, symbol.counted
    trip.stop_price, trip.take_profit_price = position.stop_price, position.take_profit_price
    account.trips_count = at + 1
    add_output(account, records.CLOSED, symbol.place, at, states.NONE, trip.closed_at)
    last = note_row(account, symbol.closing_count, len(symbol.closings))
    closing = symbol.closings[last]
    closing.time, closing.net = trip.closed_at, trip.realised - trip.fees + trip.funding
    symbol.closing_count = last + 1


# --- leaving, and what is due -----------------------------------------------------------------------------------------


@compiled_part
def close_position(account: Record, symbol: Record, time: int, reason: int) -> None:
    """Leave the position at market, reduce-only; the stop stays until the position is gone."""
    if not symbol.has_position:
        return
    leave_for(symbol.position, reason)
    cancel_entry(account, symbol, time, reason)
    sync_orders(account, symbol, time)


@compiled_part
def cancel_entry(account: Record, symbol: Record, time: int, reason: int) -> None:
    """Cancel what is left of the entry, where it rests at the exchange."""
    if symbol.has_position:
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], states.ENTRY):
                cancel(account, symbol, row, time, reason)


@compiled_part
def orders_due(symbol: Record) -> int:
    """When `on_time` has something to do, ms; NEVER where it hasn't."""
    due: int = symbol.snapshot_at
    if not symbol.has_position:
        return due
    now = symbol.time
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if not is_done(order):
            due = min(due, order.look_at)
        if awaits_fills(order) and order.told_at + states.RETRY_AFTER_MS > now:
            due = min(due, order.told_at + states.RETRY_AFTER_MS)
    if exposed(symbol, now) != 0:
        due = min(due, _upkeep_due(symbol, now))
    return due


@compiled_part
def _upkeep_due(symbol: Record, now: int) -> int:
    """When a position wants something, ms: a larger stop, another try, its exit, an end to being bare or held."""
    position, due = symbol.position, later(resize_at(symbol, now), now)
    is_left = position.leave_reason != states.NONE
    due = min(due, later(position.stop_at, now), later(stop_again_at(symbol), now))
    if is_left or position.stop_spent:
        due = min(due, later(position.exit_at, now))
        due = min(due, later(next_exit_at(symbol, now), now))
    else:
        due = min(due, later(position.target_at, now))
        row = _working_target(symbol)
        if row >= 0:
            due = min(due, later(stuck_at(symbol.orders[row]), now))
    if position.unprotected_since != NEVER:
        if is_left:
            due = min(due, later(position.unprotected_since + states.RETRY_AFTER_MS, now))
        else:
            due = min(due, position.unprotected_since + states.PROTECT_WITHIN_MS)
    return due if is_left else min(due, _held_long_enough_at(symbol))


@compiled_part
def _held_long_enough_at(symbol: Record) -> int:
    """When the position is to be left for its age, ms; NEVER where it may be held for ever, or no fill is counted."""
    if symbol.settings.max_holding_ms == 0 or symbol.position.opened_at == 0:
        return NEVER
    return int(symbol.position.opened_at + symbol.settings.max_holding_ms)


@compiled_part
def later(time: int, now: int) -> int:
    """A time that is still to come, NEVER where it isn't."""
    return int(time) if time > now else NEVER


@compiled_part
def on_time(account: Record, symbol: Record, time: int) -> None:
    """Do what is due: look up overdue orders, ask for the account, protect, leave a position that is held too long."""
    if symbol.has_position:
        for purpose in range(states.OF_EACH_PURPOSE):
            for row in range(symbol.order_count):
                order = symbol.orders[row]
                if is_of(symbol, order, purpose) and not is_done(order) and order.look_at <= time:
                    lookup(account, symbol, row, time, states.STALE)
    if symbol.snapshot_at <= time:
        symbol.snapshot_at = NEVER
        reason = states.NOT_AGREED if symbol.disagreements else states.FILL_MISSING
        add_output(account, records.SNAPSHOT, symbol.place, -1, reason, time)
    position = symbol.position
    if exposed(symbol, time) != 0 and position.leave_reason == states.NONE:
        if time >= _held_long_enough_at(symbol):
            position.leave_reason = states.BY_TIME
        if time - position.unprotected_since >= states.PROTECT_WITHIN_MS:
            position.leave_reason = states.STOP_MISSING
            alert(account, symbol, records.STOP_IS_MISSING, -1, time)
    sync_orders(account, symbol, time)
