"""The upkeep of a position: what is sent, and what follows from what is told, in the order in which an order lives.

Compiled steps over one row of SYMBOL (`records`); what follows is noted in the row of ACCOUNT, in order. Live trading
calls a step for each event, a backtest the same step in its loop, so whoever changes a rule here changes both. Which
refusal leads to what is a table: `order_states.REACTIONS`.
"""

from __future__ import annotations

from voltrade import order_states as states
from voltrade import records
from voltrade.account import position_after
from voltrade.compiled import Record, compiled, compiled_part
from voltrade.model import NEVER
from voltrade.records import add_output, note_row

# --- an order ---------------------------------------------------------------------------------------------------------


@compiled_part
def is_algo(order: Record) -> bool:
    """Whether it waits at the algo endpoint for its trigger."""
    return bool(order.purpose == states.STOP or order.purpose == states.TAKE_PROFIT)


@compiled_part
def is_done(order: Record) -> bool:
    """Whether it can do nothing more."""
    return bool(order.is_foreign or states.IS_DONE[order.state] or order.child_done)


@compiled_part
def is_resting(order: Record) -> bool:
    """Whether it is known to be at the exchange and able to act."""
    return not is_done(order) and order.state != states.PENDING_SUBMIT and order.state != states.UNKNOWN


@compiled_part
def awaits_fills(order: Record) -> bool:
    """Whether the exchange has told of more of it than the fills that were counted."""
    return bool(not order.is_foreign and order.reported > order.filled)


@compiled_part
def is_over(symbol: Record, order: Record) -> bool:
    """Whether its row can be given to another: it is done and counted, or not of the position in hand."""
    if not symbol.in_hand or order.round_trip != symbol.position.id:
        return True
    return is_done(order) and not awaits_fills(order)


@compiled_part
def count_over(symbol: Record) -> int:
    """Mark the orders whose rows can be given to others; return how many there are."""
    count = 0
    for row in range(symbol.order_count):
        symbol.orders[row].is_over = is_over(symbol, symbol.orders[row])
        count += symbol.orders[row].is_over
    return count


@compiled_part
def move(order: Record, state: int) -> bool:
    """Go to a state if that is a legal move; say whether it was."""
    if not states.LEGAL[1 if is_algo(order) else 0, order.state, state]:
        return False
    order.state = state
    return True


@compiled_part
def advance(symbol: Record, order: Record, status: int, time: int) -> None:
    """Move to a status that the exchange told; late news is counted and changes nothing."""
    is_canceling = order.state == states.PENDING_CANCEL and status in (states.NEW, states.PARTIALLY_FILLED)
    if order.state != status and (is_canceling or not move(order, status)):
        symbol.ignored += 1
        return
    # A resting conditional order may wait for ever; anything else that is on its way is looked up when overdue.
    waits = is_algo(order) and order.state == states.NEW
    order.look_at = NEVER if waits else time + symbol.settings.stale_ms


# --- the position in hand ---------------------------------------------------------------------------------------------


@compiled
def level_from(notional: int, quantity: int, distance: int) -> int:
    """Return the price in ticks at a distance from the average of fills, which is rounded to the nearest tick."""
    return (2 * notional + quantity) // (2 * quantity) + distance


@compiled_part
def open_quantity(symbol: Record) -> int:
    """Lots in hand, unsigned."""
    return int(symbol.position.entered - symbol.position.exited) if symbol.in_hand else 0


@compiled_part
def is_of(symbol: Record, order: Record, purpose: int) -> bool:
    """Whether it belongs to the position in hand, and for this purpose."""
    return bool(order.purpose == purpose and order.round_trip == symbol.position.id)


@compiled_part
def entry_is_done(symbol: Record) -> bool:
    for row in range(symbol.order_count):
        if is_of(symbol, symbol.orders[row], states.ENTRY) and not is_done(symbol.orders[row]):
            return False
    return True


@compiled_part
def newest_stop(symbol: Record) -> int:
    """Row of the stop that was sent last, -1 where it is over."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.STOP) and order.count == symbol.position.stops:
            return row
    return -1


@compiled_part
def has_unknown(symbol: Record) -> bool:
    """Whether an order's outcome isn't known, or a cancel is under way."""
    if symbol.in_hand:
        for row in range(symbol.order_count):
            order = symbol.orders[row]
            if not is_done(order) and (order.state == states.UNKNOWN or order.state == states.PENDING_CANCEL):
                return True
    return False


@compiled_part
def is_protected(symbol: Record) -> bool:
    """Whether the position in hand is whole, every fill told of is counted, and an acknowledged stop covers it."""
    if not symbol.in_hand or not entry_is_done(symbol):
        return False
    for row in range(symbol.order_count):
        if awaits_fills(symbol.orders[row]):
            return False
    row = newest_stop(symbol)
    return row >= 0 and is_resting(symbol.orders[row]) and symbol.orders[row].quantity >= open_quantity(symbol)


@compiled_part
def is_at_work(symbol: Record) -> bool:
    """Whether an order may act without another trade at its trigger: an exit that fills, or a cancel on its way."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if not is_done(order) and not (is_algo(order) and order.state == states.NEW):
            return True
    return False


# --- sending ----------------------------------------------------------------------------------------------------------


@compiled_part
def has_room(symbol: Record, spare: int) -> bool:
    """Whether there is a row for one more order, and as many as `spare` beside it."""
    return bool(symbol.order_count + spare < records.ROWS)


@compiled_part
def new_order(symbol: Record, time: int, purpose: int, side: int, quantity: int, reason: int) -> int:
    """Give an order of the position in hand a row; return it. Only where there is room."""
    row = symbol.order_count
    symbol.orders[row] = symbol.no_order
    order = symbol.orders[row]
    order.number, order.round_trip, order.purpose = symbol.order_numbers, symbol.position.id, purpose
    order.side, order.quantity, order.time, order.reason = side, quantity, time, reason
    order.look_at = time + symbol.settings.stale_ms
    symbol.order_numbers += 1
    symbol.order_count = row + 1
    return int(row)


@compiled_part
def submit(account: Record, symbol: Record, row: int) -> None:
    add_output(account, records.SUBMIT, symbol.place, row, symbol.orders[row].reason, symbol.orders[row].time)


@compiled_part
def enter(account: Record, symbol: Record, signal: Record, quantity: int, limit: int) -> None:
    """Open a round trip as a signal wants it; a `limit` of 0 bounds no price."""
    if not has_room(symbol, records.SPARE):
        return
    symbol.round_trips += 1
    symbol.in_hand = True
    symbol.position = symbol.no_position
    position = symbol.position
    position.id, position.side, position.bar = symbol.round_trips, signal.side, signal.bar
    position.stop_distance, position.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    row = new_order(symbol, account.now, states.ENTRY, signal.side, quantity, states.SIGNALLED)
    order = symbol.orders[row]
    order.count, order.price, order.bar = 1, limit, signal.bar
    submit(account, symbol, row)


@compiled_part
def lookup(account: Record, symbol: Record, row: int, time: int, reason: int) -> None:
    """Ask what became of an order."""
    symbol.orders[row].look_at = time + symbol.settings.stale_ms
    add_output(account, records.LOOKUP, symbol.place, row, reason, time)


@compiled_part
def cancel(account: Record, symbol: Record, row: int, time: int, reason: int) -> None:
    """Cancel an order that rests at the exchange."""
    order = symbol.orders[row]
    if not is_resting(order) or not move(order, states.PENDING_CANCEL):
        return
    order.look_at = time + symbol.settings.stale_ms
    if order.cancel_reason == states.NONE:
        order.cancel_reason = reason
    add_output(account, records.CANCEL, symbol.place, row, reason, time)


@compiled_part
def alert(account: Record, symbol: Record, kind: int, number: int, time: int) -> None:
    """Tell a person."""
    at = note_row(account, account.alerts_count, len(account.alerts))
    note = account.alerts[at]
    note.time, note.kind, note.order = time, kind, number
    account.alerts_count = at + 1
    add_output(account, records.ALERTED, symbol.place, at, states.NONE, time)


# --- the answer -------------------------------------------------------------------------------------------------------


@compiled_part
def reaction_to(code: int) -> int:
    """What a refusal leads to; a code that isn't in the table halts."""
    for number in range(len(states.REFUSED_CODES)):
        if states.REFUSED_CODES[number] == code:
            return int(states.REACTIONS_TO[number])
    return states.HALT


@compiled_part
def on_submitted(account: Record, symbol: Record, row: int, time: int, outcome: int, code: int) -> None:
    """Take the answer to an order that was sent."""
    if outcome == states.ACCEPTED:
        return
    order = symbol.orders[row]
    order.code = code
    if outcome == states.UNANSWERED or reaction_to(code) == states.ASK:
        move(order, states.UNKNOWN)
        if not is_done(order):
            lookup(account, symbol, row, time, states.OUTCOME_UNKNOWN)
    elif move(order, states.REJECTED):
        _on_refused(account, symbol, row, time, reaction_to(code))


@compiled_part
def _on_refused(account: Record, symbol: Record, row: int, time: int, reaction: int) -> None:
    """Do what the refusal of an order leads to: try again later, leave, ask, halt, or nothing."""
    order = symbol.orders[row]
    position = symbol.position if order.round_trip == symbol.position.id else symbol.earlier
    alert(account, symbol, records.ORDER_REFUSED, order.number, time)
    if reaction == states.HALT:
        symbol.halts = records.HALTED_BY_REFUSAL
    if reaction == states.RECONCILE:
        add_output(account, records.SNAPSHOT, symbol.place, row, states.REDUCE_ONLY_REFUSED, time)
    if order.purpose == states.EXIT:
        position.retry_at = time + (states.RETRY_AFTER_MS << min(position.exit_tries, states.DOUBLINGS))
        position.exit_tries += 1
    elif order.purpose == states.STOP:
        position.stop_tries += 1
        if reaction in (states.RETRY, states.RECONCILE) and position.stop_tries < states.STOP_TRIES:
            position.retry_at = time + states.RETRY_AFTER_MS
        else:
            leave_for(position, states.BY_STOP if reaction == states.LEAVE else states.STOP_REFUSED)
    elif order.purpose == states.TAKE_PROFIT and reaction == states.LEAVE:
        leave_for(position, states.BY_TAKE_PROFIT)


@compiled_part
def leave_for(position: Record, reason: int) -> None:
    """Let the position be left at market; the first reason is the one that is kept."""
    if position.leave_reason == states.NONE:
        position.leave_reason = reason


@compiled_part
def on_canceled(account: Record, symbol: Record, row: int, time: int, outcome: int) -> None:
    """Take the answer to a cancel. Refused, it may have filled or triggered; unknown is unknown: both are looked up."""
    order = symbol.orders[row]
    if outcome == states.ACCEPTED:
        move(order, states.CANCELED)
    elif not is_done(order):
        reason = states.CANCEL_REFUSED if outcome == states.REFUSED else states.CANCEL_UNKNOWN
        lookup(account, symbol, row, time, reason)


@compiled_part
def on_looked_up(account: Record, symbol: Record, row: int, time: int, outcome: int, status: int) -> None:
    """Take the answer to a look-up: how the order stands, that it never was, or an error, which is no evidence."""
    order = symbol.orders[row]
    if is_done(order):
        return
    if outcome != states.ACCEPTED:
        order.look_at = time + states.RETRY_AFTER_MS
        if outcome == states.ABSENT and move(order, states.NOT_PLACED):
            alert(account, symbol, records.NEVER_PLACED, order.number, time)
        return
    is_open = status in (states.NEW, states.PARTIALLY_FILLED)
    if order.state in (states.PENDING_CANCEL, states.UNKNOWN) and is_open:
        move(order, status)
    if order.purpose == states.ENTRY and is_open and time - order.time >= symbol.settings.stale_ms:
        move(order, status)
        cancel(account, symbol, row, time, states.STALE)


# --- news of it -------------------------------------------------------------------------------------------------------


@compiled_part
def take_order(account: Record, symbol: Record, row: int, status: int, reported: int, order_id: int, time: int) -> None:
    """Take an ordinary order's update; its fill, if any, has been counted."""
    order = symbol.orders[row]
    order.reported = max(order.reported, reported)
    order.order_id = order_id
    if is_algo(order):
        order.child_done = order.child_done or states.IS_DONE[status]
    else:
        advance(symbol, order, status, time)
    if awaits_fills(order) and symbol.snapshot_at == NEVER:
        symbol.snapshot_at = time + states.RETRY_AFTER_MS
    sync_orders(account, symbol, time)


@compiled_part
def take_algo(account: Record, symbol: Record, row: int, status: int, order_id: int, time: int) -> None:
    """Take a conditional order's update."""
    order = symbol.orders[row]
    if order_id:
        order.order_id = order_id
    advance(symbol, order, status, time)
    sync_orders(account, symbol, time)


@compiled_part
def take_fill(account: Record, symbol: Record, event: Record) -> None:
    """Count a fill, once and for all: in the account's books, in its order, and in the position that it belongs to."""
    order = symbol.orders[event.order]
    quantity, price, fee = event.quantity, event.price, event.fee
    symbol.quantity, symbol.cost, realised = position_after(
        symbol.quantity, symbol.cost, order.side, price, quantity, symbol.money_per_ticklot
    )
    symbol.realised_last = realised
    account.realised += realised
    account.fees += fee
    account.wallet += realised - fee
    symbol.counted += 1
    order.filled += quantity
    if order.round_trip != symbol.position.id:
        symbol.halts = records.HALTED_BY_LATE_FILL  # of a round trip that had ended, and the next has begun
        _count(symbol.earlier, order, event)
        return
    if not symbol.in_hand:
        symbol.in_hand, symbol.position.is_closed = True, False
    _count(symbol.position, order, event)


@compiled_part
def _count(position: Record, order: Record, fill: Record) -> None:
    """Count a fill in its round trip, whose profit is the exchange's own figure."""
    position.fees += fill.fee
    position.realised += fill.realised
    if order.purpose == states.ENTRY:
        if position.opened_at == 0:
            position.opened_at = fill.time
        position.entered += fill.quantity
        position.entry_notional += fill.quantity * fill.price
        return
    position.exited += fill.quantity
    position.exit_notional += fill.quantity * fill.price
    position.last_exit_time = fill.time
    if order.purpose == states.STOP:
        position.exit_reason = states.BY_STOP
    elif order.purpose == states.TAKE_PROFIT:
        position.exit_reason = states.BY_TAKE_PROFIT
    else:
        position.exit_reason = order.reason


@compiled_part
def adopt_exit(symbol: Record, time: int, side: int, quantity: int, reason: int) -> int:
    """Take an order of somebody's that closes what is in hand for an exit; return its row, -1 where there is none."""
    if not has_room(symbol, 0):
        return -1
    row = new_order(symbol, time, states.EXIT, side, quantity, reason)
    symbol.position.exits += 1
    symbol.orders[row].count, symbol.orders[row].is_foreign = symbol.position.exits, True
    return row


# --- what a position should have --------------------------------------------------------------------------------------


@compiled_part
def sync_orders(account: Record, symbol: Record, time: int) -> None:
    """Compare the position in hand with the orders that it should have; send what is missing, cancel what is left."""
    if not symbol.in_hand:
        return
    _note_spent_stop(symbol)
    if open_quantity(symbol) <= 0:
        _sync_flat(account, symbol, time)
        return
    _sync_stop(account, symbol, time)
    if symbol.position.leave_reason != states.NONE or symbol.position.stop_spent:
        _sync_exit(account, symbol, time)
    else:
        _sync_take_profit(account, symbol, time)


@compiled_part
def _note_spent_stop(symbol: Record) -> None:
    """Note where a stop or take-profit has triggered and ended: what is left of the position is left at market."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_algo(order) and order.order_id != 0 and is_done(order) and order.round_trip == symbol.position.id:
            symbol.position.stop_spent = True


@compiled_part
def _sync_stop(account: Record, symbol: Record, time: int) -> None:
    """Keep a stop over the whole position: the first at once, a larger one when it has grown, then cancel the older."""
    position, row = symbol.position, newest_stop(symbol)
    if row >= 0 and not is_done(symbol.orders[row]):
        if not is_resting(symbol.orders[row]):
            _note_cover(symbol, time)
            return
        position.unprotected_since = NEVER
        for older in range(symbol.order_count):
            if older != row and is_of(symbol, symbol.orders[older], states.STOP):
                cancel(account, symbol, older, time, states.RESIZED)
        if time >= resize_at(symbol):
            _resize_stop(account, symbol, time)
        return
    _note_cover(symbol, time)
    if not position.stop_spent and time >= position.retry_at and position.leave_reason == states.NONE:
        _send_stop(account, symbol, time, states.PROTECT)


@compiled_part
def resize_at(symbol: Record) -> int:
    """When the stop is to be made larger, ms. One that has triggered is on its way out and stays as it is."""
    row = newest_stop(symbol)
    if row < 0:
        return NEVER
    stop = symbol.orders[row]
    if stop.state != states.NEW or is_done(stop) or stop.quantity >= open_quantity(symbol):
        return NEVER
    return 0 if entry_is_done(symbol) else int(stop.time + states.RESIZE_EVERY_MS)


@compiled_part
def _resize_stop(account: Record, symbol: Record, time: int) -> None:
    """Send a larger stop; where too many orders are open for one more, the position is left instead."""
    if has_room(symbol, records.SPARE):
        _send_stop(account, symbol, time, states.RESIZE)
    elif symbol.position.leave_reason == states.NONE:
        symbol.position.leave_reason = states.TOO_MANY_ORDERS
        alert(account, symbol, records.ROWS_ARE_FULL, -1, time)


@compiled_part
def _note_cover(symbol: Record, time: int) -> None:
    """Note since when no stop is known to rest at the exchange."""
    position = symbol.position
    for row in range(symbol.order_count):
        if is_of(symbol, symbol.orders[row], states.STOP) and is_resting(symbol.orders[row]):
            position.unprotected_since = NEVER
            return
    if position.unprotected_since == NEVER:
        position.unprotected_since = time


@compiled_part
def _new_conditional(symbol: Record, time: int, purpose: int, profit: int, reason: int) -> int:
    """Make a stop or take-profit for what is in hand, `profit` ticks from the average fill price; return its row."""
    position = symbol.position
    row = new_order(symbol, time, purpose, -position.side, open_quantity(symbol), reason)
    level = level_from(position.entry_notional, position.entered, position.side * profit)
    symbol.orders[row].trigger_price = max(level, 1)
    return row


@compiled_part
def _send_stop(account: Record, symbol: Record, time: int, reason: int) -> None:
    position = symbol.position
    if not has_room(symbol, 1):
        return  # the clock of an unprotected position runs; an exit has the last row
    row = _new_conditional(symbol, time, states.STOP, -position.stop_distance, reason)
    order = symbol.orders[row]
    position.stops += 1
    order.count, position.stop_price = position.stops, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def _sync_take_profit(account: Record, symbol: Record, time: int) -> None:
    """Send the take-profit, once, when the entry is over."""
    position = symbol.position
    if position.take_profit_distance == 0 or position.take_profits > 0 or not entry_is_done(symbol):
        return
    if not has_room(symbol, records.SPARE):
        return
    row = _new_conditional(symbol, time, states.TAKE_PROFIT, position.take_profit_distance, states.TARGET)
    order = symbol.orders[row]
    position.take_profits += 1
    order.count, position.take_profit_price = position.take_profits, order.trigger_price
    submit(account, symbol, row)


@compiled_part
def _sync_exit(account: Record, symbol: Record, time: int) -> None:
    """Leave at market, reduce-only, what no working exit takes: a position may grow while it is left."""
    position = symbol.position
    lots = _without_exit(symbol)
    spare = 0 if lots == open_quantity(symbol) else 1  # the last row is for an exit where none works
    if time < max(position.retry_at, exit_at(symbol)) or not has_room(symbol, spare):
        return
    reason = position.leave_reason if position.leave_reason != states.NONE else states.STOP_REST
    row = new_order(symbol, time, states.EXIT, -position.side, lots, reason)
    position.exits += 1
    symbol.orders[row].count = position.exits
    submit(account, symbol, row)


@compiled_part
def _without_exit(symbol: Record) -> int:
    """Lots in hand that no working exit takes."""
    lots = int(open_quantity(symbol))
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.EXIT) and not is_done(order):
            lots -= order.quantity - order.filled
    return lots


@compiled_part
def exit_at(symbol: Record) -> int:
    """When to send an exit for what none takes, ms: at once, but while the entry fills not at each of its fills."""
    if _without_exit(symbol) <= 0:
        return NEVER
    newest = 0
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.EXIT) and not is_done(order):
            newest = max(newest, order.time)
    return 0 if newest == 0 or entry_is_done(symbol) else newest + states.RESIZE_EVERY_MS


@compiled_part
def _sync_flat(account: Record, symbol: Record, time: int) -> None:
    """End the round trip once nothing is held: cancel what is left of its orders, and wait until none can act."""
    position = symbol.position
    position.unprotected_since = NEVER
    if not entry_is_done(symbol) or (position.entered > 0 and position.side * symbol.shown > 0):
        return  # what the exchange still shows keeps its stop; the account is asked again
    if position.entered > 0 and not position.is_closed:
        position.is_closed = True
        _note_round_trip(account, symbol)
    all_done = True
    for purpose in range(states.OF_EACH_PURPOSE):
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], purpose):
                cancel(account, symbol, row, time, states.POSITION_CLOSED)
                all_done = all_done and is_done(symbol.orders[row])
    if all_done:
        symbol.in_hand = False


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
    if not symbol.in_hand:
        return
    leave_for(symbol.position, reason)
    cancel_entry(account, symbol, time, reason)
    sync_orders(account, symbol, time)


@compiled_part
def cancel_entry(account: Record, symbol: Record, time: int, reason: int) -> None:
    """Cancel what is left of the entry, where it rests at the exchange."""
    if symbol.in_hand:
        for row in range(symbol.order_count):
            if is_of(symbol, symbol.orders[row], states.ENTRY):
                cancel(account, symbol, row, time, reason)


@compiled_part
def orders_due(symbol: Record) -> int:
    """When `on_time` has something to do, ms; NEVER where it hasn't."""
    due: int = symbol.snapshot_at
    if not symbol.in_hand:
        return due
    position = symbol.position
    for row in range(symbol.order_count):
        if not is_done(symbol.orders[row]):
            due = min(due, symbol.orders[row].look_at)
    if open_quantity(symbol) != 0:
        due = min(due, resize_at(symbol))
        if position.retry_at > symbol.time:
            due = min(due, position.retry_at)
        if position.leave_reason != states.NONE or position.stop_spent:
            more_at = exit_at(symbol)
            if more_at > symbol.time:
                due = min(due, more_at)
        if position.leave_reason == states.NONE:
            if position.unprotected_since != NEVER:
                due = min(due, position.unprotected_since + states.PROTECT_WITHIN_MS)
            if symbol.settings.max_holding_ms:
                due = min(due, position.opened_at + symbol.settings.max_holding_ms)
    return due


@compiled_part
def on_time(account: Record, symbol: Record, time: int) -> None:
    """Do what is due: look up overdue orders, ask for the account, protect, leave a position that is held too long."""
    if symbol.in_hand:
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
    if open_quantity(symbol) != 0 and position.leave_reason == states.NONE:
        if symbol.settings.max_holding_ms and time - position.opened_at >= symbol.settings.max_holding_ms:
            position.leave_reason = states.BY_TIME
        if time - position.unprotected_since >= states.PROTECT_WITHIN_MS:
            position.leave_reason = states.STOP_MISSING
            alert(account, symbol, records.STOP_IS_MISSING, -1, time)
    sync_orders(account, symbol, time)
