"""The rules of an open position: which orders it should have, and when one is sent, replaced or cancelled.

As in `order_rules`, each rule is a compiled function over one row of SYMBOL and the row of ACCOUNT (`records`); live
trading and a backtest call the same functions.
"""

from __future__ import annotations

from voltrade.account import net_of
from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.orders import order_states as states
from voltrade.orders import records
from voltrade.orders.order_queries import (
    awaits_fills,
    covered_lots,
    entry_is_done,
    exit_quantity,
    exposed_lots,
    has_room,
    is_algo,
    is_done,
    is_live_at_exchange,
    is_of,
    is_triggered,
    is_unfilled,
    is_waiting,
    largest_exit,
    newest_stop,
    open_quantity,
    price_from_average,
    rest_is_stuck,
    sendable,
    to_step,
)
from voltrade.orders.order_rules import (
    alert,
    apply_status,
    cancel,
    new_order,
    on_ended,
    protect_doublings,
    schedule_account_read,
    start_closing,
    submit,
)
from voltrade.orders.records import add_output, note_row

# --- an update of an order --------------------------------------------------------------------------------------------


@compiled_part
def apply_order_update(
    account: Record, symbol: Record, row: int, status: int, reported: int, order_id: int, time: int
) -> None:
    """Apply an update of an ordinary order, or of what a conditional one became; its fill must be counted already."""
    order = symbol.orders[row]
    was_done = is_done(order)
    if reported > order.reported:
        order.reported, order.updated_at = reported, time
    order.order_id = order_id
    if is_algo(order):
        order.child_done = order.child_done or states.IS_DONE[status]
    else:
        is_filled = order.filled >= order.quantity and not states.IS_DONE[order.state]
        apply_status(symbol, order, states.FILLED if is_filled else status, time)
        if is_done(order) and not was_done:
            on_ended(account, symbol, order, time, time)
    if awaits_fills(order) and symbol.snapshot_at == NEVER:
        schedule_account_read(symbol, time + states.RETRY_AFTER_MS, states.FILL_MISSING)
    _cancel_leftover(account, symbol, row, time)
    sync_orders(account, symbol, time)


@compiled_part
def apply_algo_update(
    account: Record, symbol: Record, row: int, status: int, order_id: int, time: int, told_at: int
) -> None:
    """Apply an update of a conditional order; `told_at` is the time in it, which is before `time` if it comes late."""
    order = symbol.orders[row]
    was_done = is_done(order)
    if order_id:
        order.order_id = order_id
    apply_status(symbol, order, status, time)
    if is_done(order) and not was_done:
        on_ended(account, symbol, order, time, told_at)
    if is_triggered(order):
        order.updated_at = min(order.updated_at, told_at)
    _cancel_leftover(account, symbol, row, time)
    sync_orders(account, symbol, time)


@compiled_part
def _cancel_leftover(account: Record, symbol: Record, row: int, time: int) -> None:
    """Cancel an order that isn't of the open position: an orphan, or one that was concluded absent but is there."""
    order = symbol.orders[row]
    if not symbol.in_round_trip or order.round_trip != symbol.position.id:
        cancel(account, symbol, row, time, states.POSITION_CLOSED)


# --- which orders a position should have ------------------------------------------------------------------------------


@compiled_part
def sync_orders(account: Record, symbol: Record, time: int) -> None:
    """Bring the orders at the exchange in line with what the open position needs: send and cancel the difference.

    A position that stays open has a stop and, once its entry is done, a take-profit. A position that is to be closed,
    or whose stop or take-profit has triggered and ended, has an exit. A position without lots has no orders but an
    entry under way.
    """
    if not symbol.in_round_trip:
        return
    _note_finished_trigger(symbol)
    lots, position = exposed_lots(symbol, time), symbol.position
    if lots == 0:
        _sync_flat(account, symbol, time)
        return
    _note_cover(symbol, time, lots)
    if lots > 0:
        _sync_stop(account, symbol, time, lots)
    if is_closing(position) or (has_finished_trigger(position) and lots > 0):
        _sync_exit(account, symbol, time, lots)
    elif lots > 0:
        _sync_take_profit(account, symbol, time, lots)


@compiled_part
def is_closing(position: Record) -> bool:
    """Return whether the position is to be closed at market."""
    return bool(position.closing_reason != states.NONE)


@compiled_part
def has_finished_trigger(position: Record) -> bool:
    """Return whether a stop or take-profit has triggered and ended; the lots that are left then need an exit."""
    return bool(position.rest_reason != states.NONE)


@compiled_part
def _note_finished_trigger(symbol: Record) -> None:
    """Note that a stop or take-profit has triggered and ended; lots that are left are closed for that reason."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        is_finished = is_algo(order) and order.order_id != 0 and is_done(order)
        if is_finished and order.round_trip == symbol.position.id and not has_finished_trigger(symbol.position):
            symbol.position.rest_reason = states.STOP_REST if order.purpose == states.STOP else states.TAKE_PROFIT_REST


@compiled_part
def _note_cover(symbol: Record, time: int, lots: int) -> None:
    """Note since when orders at the exchange don't cover the whole position.

    A stop that has triggered and filled nothing covered it until it triggered, even if that is reported later.
    """
    position = symbol.position
    if lots > 0 and covered_lots(symbol, time) >= lots:
        position.unprotected_since = NEVER
    elif position.unprotected_since == NEVER:
        row = newest_stop(symbol)
        is_stuck = row >= 0 and is_triggered(symbol.orders[row]) and is_unfilled(symbol.orders[row])
        position.unprotected_since = min(time, symbol.orders[row].updated_at) if is_stuck else time


# --- the stop ---------------------------------------------------------------------------------------------------------


@compiled_part
def _sync_stop(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Keep a stop at the exchange that closes the whole position.

    The first stop is sent at once, another when the position has grown, or when the first's price was that of the last
    trade because a fill's own had not arrived yet; then the older one is cancelled. One that was never placed, or has
    ended by itself (see `on_ended`), is sent again. A position that is closing needs a stop only if its exits fail.
    """
    position, row = symbol.position, newest_stop(symbol)
    if row >= 0 and not is_done(symbol.orders[row]):
        if is_live_at_exchange(symbol.orders[row]):
            for older in range(symbol.order_count):
                if older != row and is_of(symbol, symbol.orders[older], states.STOP):
                    cancel(account, symbol, older, time, states.RESIZED)
            if time >= resize_at(symbol, time):
                _resize_stop(account, symbol, time, lots)
            return
        if time < resend_stop_at(symbol):
            return
    is_needed = not is_closing(position) or _exits_fail(symbol, time)
    if time < position.stop_retry_at or has_finished_trigger(position) or not is_needed:
        return
    _send_stop(account, symbol, time, lots, states.PROTECT)


@compiled_part
def resend_stop_at(symbol: Record) -> int:
    """Return when to send another stop because the newest has no answer, in ms; NEVER where its state is known.

    If both turn out to be at the exchange, the older one is cancelled.
    """
    row = newest_stop(symbol)
    if row < 0 or is_done(symbol.orders[row]) or is_live_at_exchange(symbol.orders[row]):
        return NEVER
    return int(symbol.orders[row].time + _answer_timeout(symbol.position.stops))


@compiled_part
def _answer_timeout(count: int) -> int:
    """Return how long a stop or exit may have no answer before another is sent, in ms.

    `count` is how many were sent for the position, for whatever reason; after QUICK_TRIES the time doubles, at most
    twice.
    """
    return int(states.RESEND_UNANSWERED_AFTER_MS << protect_doublings(count))


@compiled_part
def _exits_fail(symbol: Record, time: int) -> bool:
    """Return whether a closing position needs its stop again: its exits are refused, or have no answer."""
    position = symbol.position
    if position.closing_reason == states.BY_STOP or position.stop_distance == 0:
        return False  # the price has passed the stop, or its distance isn't known
    if position.unprotected_since == NEVER:
        return False  # a working exit covers the position
    if 0 < largest_exit(symbol) < open_quantity(symbol):
        return False  # the exchange takes no order of this size
    return bool(position.exit_tries > 0 or time >= position.unprotected_since + states.RETRY_AFTER_MS)


@compiled_part
def is_guessed(symbol: Record, order: Record) -> bool:
    """Return whether the price of a stop or take-profit was guessed from the last trade, and a fill gives it now."""
    return bool(order.reason == states.BY_LAST_PRICE and symbol.position.entered > 0)


@compiled_part
def resize_at(symbol: Record, time: int) -> int:
    """Return when to replace the stop by one that is larger, or whose price follows from the fills, in ms.

    NEVER if neither is needed, or if the stop isn't known to be waiting at the exchange.
    """
    row = newest_stop(symbol)
    if row < 0:
        return NEVER
    stop = symbol.orders[row]
    if not is_waiting(stop) or (stop.quantity >= exposed_lots(symbol, time) and not is_guessed(symbol, stop)):
        return NEVER
    return 0 if entry_is_done(symbol) else int(stop.time + states.RESIZE_EVERY_MS)


@compiled_part
def _resize_stop(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Send another stop; where too few rows are free, start closing the position at market instead, with an alert."""
    if has_room(symbol, records.SPARE):
        _send_stop(account, symbol, time, lots, states.RESIZE)
    elif not is_closing(symbol.position):
        start_closing(symbol.position, states.TOO_MANY_ORDERS)
        alert(account, symbol, records.ROWS_ARE_FULL, -1, time)


@compiled_part
def _send_stop(account: Record, symbol: Record, time: int, lots: int, reason: int) -> None:
    position = symbol.position
    if not has_room(symbol, 1):
        return  # the last row is for an exit, which follows after PROTECT_WITHIN_MS
    row = _new_conditional(symbol, time, states.STOP, lots, -position.stop_distance, reason)
    order = symbol.orders[row]
    position.stops += 1
    order.count, position.stop_price = position.stops, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def _new_conditional(symbol: Record, time: int, purpose: int, lots: int, profit: int, reason: int) -> int:
    """Add a stop or take-profit; return its row. At its trigger the profit is `profit` ticks, negative for a stop.

    It is measured from the average fill price or, while fills are only reported, from the last trade's price; see
    `is_guessed`. The trigger is rounded to the exchange's price step towards the average, so that a stop-out costs no
    more than planned.
    """
    position = symbol.position
    row = new_order(symbol, time, purpose, -position.side, sendable(symbol, lots), reason)
    if position.entered > 0:
        level = price_from_average(position.entry_notional, position.entered, position.side * profit)
    else:
        level = symbol.last_price + position.side * profit
        symbol.orders[row].reason = states.BY_LAST_PRICE
    level = to_step(level, symbol.price_step, position.side * profit < 0)
    symbol.orders[row].trigger_price = max(level, symbol.price_step)
    return row


# --- the take-profit --------------------------------------------------------------------------------------------------


@compiled_part
def _sync_take_profit(account: Record, symbol: Record, time: int, lots: int) -> None:
    """Send the take-profit once the entry is done.

    It is sent again after a temporary refusal, and replaced when the position has grown, or when a fill gives a price
    that was guessed. One that was never placed, has vanished, was cancelled by hand, or expired before it triggered is
    not sent again: the stop stays. If it has triggered and doesn't fill, the position is closed at market.
    """
    position = symbol.position
    if position.take_profit_distance == 0 or not entry_is_done(symbol):
        return
    row = working_take_profit(symbol)
    if row >= 0 and time >= stuck_at(symbol.orders[row]):
        alert(account, symbol, records.TRIGGER_IS_STUCK, symbol.orders[row].number, time)
        start_closing(position, states.BY_TAKE_PROFIT)
        _sync_exit(account, symbol, time, lots)
        return
    if row >= 0 and not is_waiting(symbol.orders[row]):
        return
    if row >= 0 and symbol.orders[row].quantity >= lots and not is_guessed(symbol, symbol.orders[row]):
        return
    is_wanted = row >= 0 or position.take_profits == 0 or time >= position.take_profit_retry_at
    if not is_wanted or not has_room(symbol, records.SPARE):
        return
    if row >= 0:
        cancel(account, symbol, row, time, states.RESIZED)
    position.take_profit_retry_at = NEVER
    row = _new_conditional(symbol, time, states.TAKE_PROFIT, lots, position.take_profit_distance, states.TARGET)
    order = symbol.orders[row]
    position.take_profits += 1
    order.count, position.take_profit_price = position.take_profits, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def stuck_at(order: Record) -> int:
    """Return when a triggered order counts as stuck, in ms: PROTECT_WITHIN_MS after its last update; else NEVER."""
    return int(order.updated_at + states.PROTECT_WITHIN_MS) if is_triggered(order) and not is_done(order) else NEVER


@compiled_part
def working_take_profit(symbol: Record) -> int:
    """Return the row of the newest take-profit that is neither done nor being cancelled, -1 where there is none."""
    found = -1
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.TAKE_PROFIT) and not is_done(order) and order.state != states.PENDING_CANCEL:
            found = row
    return found


# --- the exit ---------------------------------------------------------------------------------------------------------


@compiled_part
def _sync_exit(account: Record, symbol: Record, time: int, exposure: int) -> None:
    """Send reduce-only market orders for the lots that no exit closes yet.

    An exit larger than the exchange takes is sent in parts. Where `exposure` is negative, more lots have exited than
    had entered, and the exit is on the side of the entry. A rest that is stuck gets no exit: see `rest_is_stuck`.
    """
    if rest_is_stuck(symbol):
        return
    position, side = symbol.position, -symbol.position.side if exposure > 0 else symbol.position.side
    lots = exit_quantity(symbol, _lots_without_exit(symbol, time, side, abs(exposure)))
    parts = 0
    while lots > 0 and time >= max(position.exit_retry_at, next_exit_at(symbol, time)):
        parts += 1
        if parts == states.MAX_EXIT_PARTS_PER_SECOND:
            position.exit_retry_at = time + states.RETRY_AFTER_MS
        spare = 0 if lots >= abs(exposure) else 1  # while none is working, an exit may use the last row
        if not has_room(symbol, spare):
            return
        part = lots if largest_exit(symbol) == 0 else min(lots, largest_exit(symbol))
        reason = position.closing_reason if is_closing(position) else position.rest_reason
        row = new_order(symbol, time, states.EXIT, side, part, reason)
        position.exits += 1
        symbol.orders[row].count = position.exits
        submit(account, symbol, row)
        lots -= part
        if not entry_is_done(symbol):
            return


@compiled_part
def _lots_without_exit(symbol: Record, time: int, side: int, lots: int) -> int:
    """Return how many of `lots` no exit on this side closes.

    An exit whose answer is overdue doesn't count. It may still fill: exits are reduce-only, so together they can't turn
    the position around.
    """
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        works = is_of(symbol, order, states.EXIT) and not is_done(order) and time < _counts_until(symbol, order)
        if works and order.side == side:
            lots -= int(order.quantity - max(order.filled, order.reported))
    return lots


@compiled_part
def _counts_until(symbol: Record, order: Record) -> int:
    """Return until when an exit counts, in ms: until its answer is overdue; NEVER if it is known to be at the
    exchange."""
    if is_live_at_exchange(order):
        return NEVER
    return int(order.time + _answer_timeout(symbol.position.exits))


@compiled_part
def next_exit_at(symbol: Record, time: int) -> int:
    """Return when to send the next exit, in ms.

    For lots that no exit closes it is at once, but at least RESIZE_EVERY_MS after the newest exit while the entry may
    still fill. If exits close all lots, it is when the first of them stops counting.
    """
    lots = exposed_lots(symbol, time)
    side = -symbol.position.side if lots > 0 else symbol.position.side
    has_exits = _lots_without_exit(symbol, time, side, abs(lots)) <= 0
    newest, ends = 0, NEVER
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.EXIT) and not is_done(order):
            newest = max(newest, order.time)
            if time < _counts_until(symbol, order):
                ends = min(ends, _counts_until(symbol, order))
    if has_exits:
        return ends
    return 0 if newest == 0 or entry_is_done(symbol) else newest + states.RESIZE_EVERY_MS


# --- the end of a round trip ------------------------------------------------------------------------------------------


@compiled_part
def _sync_flat(account: Record, symbol: Record, time: int) -> None:
    """End the round trip once its position is closed: cancel its remaining orders and wait until none can fill.

    The stop stays while the exchange still shows a position or has reported fills that aren't counted.
    """
    position = symbol.position
    position.unprotected_since = NEVER
    is_shown = position.entered > 0 and position.side * symbol.unexplained_lots > 0
    if not entry_is_done(symbol) or _awaits_any(symbol) or is_shown:
        return
    if position.entered > 0 and not position.is_closed:
        position.is_closed = True
        _note_round_trip(account, symbol)
    all_done = True
    for purpose in range(states.PURPOSE_COUNT):
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], purpose):
                cancel(account, symbol, row, time, states.POSITION_CLOSED)
                # A triggered order can't be cancelled; one that is stuck finds nothing to close.
                all_done = all_done and (is_done(symbol.orders[row]) or time >= stuck_at(symbol.orders[row]))
    if all_done:
        symbol.in_round_trip = False


@compiled_part
def _awaits_any(symbol: Record) -> bool:
    """Return whether fills of the open position are reported but not counted."""
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
    add_output(account, records.TRIP_CLOSED, symbol.index, at, states.NONE, trip.closed_at)
    last = note_row(account, symbol.closed_trip_count, len(symbol.closed_trips))
    closed = symbol.closed_trips[last]
    closed.time, closed.net = trip.closed_at, net_of(trip.realised, trip.fees, trip.funding)
    symbol.closed_trip_count = last + 1


# --- closing a position -----------------------------------------------------------------------------------------------


@compiled_part
def close_position(account: Record, symbol: Record, time: int, reason: int) -> None:
    """Cancel the entry and close the position with reduce-only market orders; its stop stays until it is closed."""
    if not symbol.in_round_trip:
        return
    start_closing(symbol.position, reason)
    cancel_entry(account, symbol, time, reason)
    sync_orders(account, symbol, time)


@compiled_part
def cancel_entry(account: Record, symbol: Record, time: int, reason: int) -> None:
    """Cancel the entry, if it is known to be at the exchange."""
    if symbol.in_round_trip:
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], states.ENTRY):
                cancel(account, symbol, row, time, reason)
