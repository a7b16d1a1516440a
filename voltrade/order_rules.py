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
def overdue_fills(order: Record, time: int) -> int:
    """Lots that the exchange has told of, and whose fills are late: to be protected though they aren't counted."""
    is_late = awaits_fills(order) and time >= order.told_at + states.RETRY_AFTER_MS
    return int(order.reported - order.filled) if is_late else 0


@compiled_part
def is_over(symbol: Record, order: Record) -> bool:
    """Whether its row can be given to another: it is done and counted, or not of the position in hand."""
    if not symbol.has_position or order.round_trip != symbol.position.id:
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
    is_news = order.state != status
    if is_news and (is_canceling or not move(order, status)):
        symbol.ignored += 1
        return
    if is_news:
        order.told_at = time
    # A resting conditional order may wait for ever; anything else that is on its way is looked up when overdue.
    if is_algo(order) and order.state == states.NEW:
        order.look_at = NEVER
    else:
        order.look_at = next_look_at(symbol, order, time)


@compiled_part
def next_look_at(symbol: Record, order: Record, time: int) -> int:
    """When an order is looked up if nothing is told of it, ms; one that waits for no trigger is done when it arrives.

    At the moment when it counts as stale in any case.
    """
    stale_at = stale_from(symbol, order)
    if stale_at <= time:
        stale_at = time + int(symbol.settings.stale_ms)
    return stale_at if is_algo(order) else min(stale_at, time + states.LOOK_WITHIN_MS)


@compiled_part
def stale_from(symbol: Record, order: Record) -> int:
    """From when on an order is stale, ms: so long after it was sent, or after its last news."""
    return int(max(order.time, order.told_at) + symbol.settings.stale_ms)


# --- the position in hand ---------------------------------------------------------------------------------------------


@compiled
def level_from(notional: int, quantity: int, distance: int) -> int:
    """Return the price in ticks at a distance from the average of fills, which is rounded to the nearest tick."""
    return (2 * notional + quantity) // (2 * quantity) + distance


@compiled_part
def open_quantity(symbol: Record) -> int:
    """Lots in hand by our fills; below zero where more has left than had entered."""
    return int(symbol.position.entered - symbol.position.exited) if symbol.has_position else 0


@compiled_part
def exposed(symbol: Record, time: int) -> int:
    """Lots in hand by our fills, less what the exchange has told of exits, and with what is overdue of entries."""
    lots = open_quantity(symbol)
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if order.round_trip == symbol.position.id and order.side == symbol.position.side:
            lots += overdue_fills(order, time)
        elif order.round_trip == symbol.position.id and awaits_fills(order):
            lots -= int(order.reported - order.filled)
    return lots


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
    if symbol.has_position:
        for row in range(symbol.order_count):
            order = symbol.orders[row]
            if not is_done(order) and (order.state == states.UNKNOWN or order.state == states.PENDING_CANCEL):
                return True
    return False


@compiled_part
def is_protected(symbol: Record) -> bool:
    """Whether the position in hand is whole, every fill told of is counted, and an acknowledged stop covers it."""
    if not symbol.has_position or not entry_is_done(symbol):
        return False
    for row in range(symbol.order_count):
        if awaits_fills(symbol.orders[row]):
            return False
    row = newest_stop(symbol)
    return row >= 0 and is_waiting(symbol.orders[row]) and symbol.orders[row].quantity >= open_quantity(symbol)


@compiled_part
def is_waiting(order: Record) -> bool:
    """Whether it is known to rest at the exchange, its trigger not reached."""
    return bool(order.state == states.NEW and not is_done(order))


@compiled_part
def covered(symbol: Record, time: int) -> int:
    """Lots of the position in hand that orders at the exchange close: stops that wait, and exits that work.

    A stop that has triggered works while its order fills: it covers for as long as it may rest between two fills.
    """
    lots = 0
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_done(order) or order.round_trip != symbol.position.id or order.side == symbol.position.side:
            continue
        rest = int(order.quantity - max(order.filled, order.reported))
        if order.purpose == states.STOP and order.state == states.NEW:
            lots += int(order.quantity)
        elif is_algo(order):
            fills = max(order.filled, order.reported) > 0 and time < order.told_at + states.PROTECT_WITHIN_MS
            lots += rest if fills else 0
        elif order.state == states.NEW or order.state == states.PARTIALLY_FILLED:
            lots += rest
    return lots


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
    order.look_at = next_look_at(symbol, order, time)
    symbol.order_numbers += 1
    symbol.order_count = row + 1
    return int(row)


@compiled_part
def submit(account: Record, symbol: Record, row: int) -> None:
    add_output(account, records.SUBMIT, symbol.place, row, symbol.orders[row].reason, symbol.orders[row].time)


@compiled_part
def _begin_round_trip(symbol: Record, side: int) -> None:
    symbol.round_trips += 1
    symbol.has_position = True
    symbol.position = symbol.no_position
    symbol.position.id, symbol.position.side = symbol.round_trips, side


@compiled_part
def enter(account: Record, symbol: Record, signal: Record, quantity: int, limit: int) -> None:
    """Open a round trip as a signal wants it; a `limit` of 0 bounds no price."""
    if not has_room(symbol, records.SPARE):
        return
    _begin_round_trip(symbol, signal.side)
    position = symbol.position
    position.bar = signal.bar
    position.stop_distance, position.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    row = new_order(symbol, account.now, states.ENTRY, signal.side, quantity, states.SIGNALLED)
    order = symbol.orders[row]
    order.count, order.price, order.bar = 1, limit, signal.bar
    submit(account, symbol, row)


@compiled_part
def lookup(account: Record, symbol: Record, row: int, time: int, reason: int) -> None:
    """Ask what became of an order."""
    symbol.orders[row].look_at = next_look_at(symbol, symbol.orders[row], time)
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
            if order.purpose == states.ENTRY:  # the account is read too: one kind of answer is no evidence
                symbol.snapshot_at = min(symbol.snapshot_at, time + states.RETRY_AFTER_MS)
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
    if order.purpose == states.ENTRY and reaction != states.RETRY:
        _count_failure(symbol)
    if reaction == states.RECONCILE:
        add_output(account, records.SNAPSHOT, symbol.place, row, states.REDUCE_ONLY_REFUSED, time)
        symbol.nothing_to_reduce = symbol.nothing_to_reduce or order.purpose == states.EXIT
    is_try = order.code not in (states.NEVER_SENT, states.SILENCE)
    if order.code == states.TOO_LARGE:  # until the exchange's filters are read
        symbol.largest_order = max(1, order.quantity // states.PARTS_OF_TOO_LARGE)
        position.exit_at = time + states.RETRY_AFTER_MS
    if order.purpose == states.EXIT:
        doublings = min(max(position.exit_tries - states.QUICK_TRIES, 0), states.PROTECT_DOUBLINGS)
        position.exit_at = time + (states.RETRY_AFTER_MS << doublings)
        position.exit_tries += is_try
    elif order.purpose == states.STOP:
        position.stop_tries += is_try
        doublings = min(max(position.stop_tries - states.QUICK_TRIES, 0), states.PROTECT_DOUBLINGS)
        position.stop_at = time + (states.RETRY_AFTER_MS << doublings)
        if reaction not in (states.RETRY, states.RECONCILE) or position.stop_tries >= states.STOP_TRIES:
            leave_for(position, states.BY_STOP if reaction == states.LEAVE else states.STOP_REFUSED)
    elif reaction == states.LEAVE and order.purpose == states.TAKE_PROFIT:
        leave_for(position, states.BY_TAKE_PROFIT)
    elif reaction == states.RETRY and order.purpose == states.TAKE_PROFIT:
        position.target_at = time + (states.RETRY_AFTER_MS << min(position.target_tries, states.DOUBLINGS))
        position.target_tries += is_try


@compiled_part
def _count_failure(symbol: Record) -> None:
    """Count an entry that was refused or never placed; after so many in a row a person must look."""
    symbol.entry_failures += 1
    if symbol.entry_failures == states.MOST_ENTRY_FAILURES and symbol.halts == 0:
        symbol.halts = records.HALTED_BY_FAILURES


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
        order.look_at = time + max(states.RETRY_AFTER_MS, (time - order.time) // states.PARTS_OF_AGE)
        if outcome == states.ABSENT:
            _on_absent(account, symbol, row, time)
        elif time >= symbol.read_at + max(states.READ_EVERY_MS, (time - order.time) // 2):
            symbol.read_at = time
            symbol.snapshot_at = min(symbol.snapshot_at, time)  # what can't be looked up shows in the account
        return
    is_open = status in (states.NEW, states.PARTIALLY_FILLED)
    if order.state in (states.PENDING_CANCEL, states.UNKNOWN) and is_open:
        move(order, status)
    if order.purpose == states.ENTRY and is_open and time >= stale_from(symbol, order):
        move(order, status)
        cancel(account, symbol, row, time, states.STALE)


@compiled_part
def _on_absent(account: Record, symbol: Record, row: int, time: int) -> None:
    """Take it as agreed that the exchange has no such order: it never was, or it is no more."""
    order = symbol.orders[row]
    if order.filled == 0 and move(order, states.NOT_PLACED):
        if order.purpose == states.ENTRY:
            _count_failure(symbol)
        alert(account, symbol, records.NEVER_PLACED, order.number, time)
    elif move(order, states.CANCELED):
        alert(account, symbol, records.ORDER_IS_GONE, order.number, time)


# --- news of it -------------------------------------------------------------------------------------------------------


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
    symbol.entry_failures, symbol.nothing_to_reduce = 0, False
    order.filled += quantity
    order.told_at = symbol.time
    if order.round_trip != symbol.position.id or not symbol.has_position:
        _take_late_order(account, symbol, order)
    _count(symbol.position, order, event)


@compiled_part
def _take_late_order(account: Record, symbol: Record, order: Record) -> None:
    """Let an order that fills after its round trip has ended belong to what is in hand: the account holds its lots.

    Where nothing is, a new round trip begins with it. One that was to close leaves lots on the other side, or fewer
    than our plan had: that is left at market, and so is a position that grows by an entry of an earlier one.
    """
    if symbol.has_position:
        symbol.halts = records.HALTED_BY_LATE_FILL
        leave_for(symbol.position, states.LATE_FILL)
    else:
        distance, target = symbol.position.stop_distance, symbol.position.take_profit_distance
        _begin_round_trip(symbol, order.side)
        symbol.position.stop_distance, symbol.position.take_profit_distance = distance, target
        symbol.position.bar = order.bar
        if order.purpose != states.ENTRY or distance == 0:
            symbol.halts = records.HALTED_BY_LATE_FILL
            leave_for(symbol.position, states.LATE_FILL)
    order.round_trip = symbol.position.id


@compiled_part
def _count(position: Record, order: Record, fill: Record) -> None:
    """Count a fill in the position in hand, by its side; the profit is the exchange's own figure."""
    position.fees += fill.fee
    position.realised += fill.realised
    if order.side == position.side:
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


@compiled_part
def adopt_orphan(symbol: Record, time: int, purpose: int, side: int, quantity: int) -> int:
    """Take an order of ours that nobody knows of any more; it belongs to no position. Return its row, -1 for none."""
    if not has_room(symbol, 0):
        return -1
    row = new_order(symbol, time, purpose, side, quantity, states.RESTART)
    symbol.orders[row].round_trip = 0
    return row


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
