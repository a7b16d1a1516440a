"""The upkeep of a position: what is sent, and what follows from what is told, in the order in which an order lives.

Compiled steps over one row of SYMBOL (`records`); what follows is noted in the row of ACCOUNT, in order. Live trading
calls a step for each event, a backtest the same step in its loop, so whoever changes a rule here changes both. Which
refusal leads to what is a table: `order_states.REACTIONS`.
"""

from __future__ import annotations

from voltrade import order_states as states
from voltrade import records
from voltrade.account import position_after
from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.order_queries import (
    has_room,
    is_algo,
    is_done,
    is_resting,
    next_look_at,
    stale_from,
)
from voltrade.records import add_output, note_row

# --- an order ---------------------------------------------------------------------------------------------------------


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


# --- the position in hand ---------------------------------------------------------------------------------------------


# --- sending ----------------------------------------------------------------------------------------------------------


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
