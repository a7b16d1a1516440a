"""The rules of a single order: sending it, its updates, its refusal, its cancel and its look-ups, and its fills.

Each rule is a compiled function over one row of SYMBOL and the row of ACCOUNT (`records`); commands and notes are
appended to the account's outputs. Sessions and backtests call the same functions, so a change here changes both.
Which refusal leads to which reaction, and when a retry follows, are tables in `order_states`.
"""

from __future__ import annotations

from voltrade.account import position_after
from voltrade.compiled import Record, compiled_part
from voltrade.model import NEVER
from voltrade.orders import order_states as states
from voltrade.orders import records
from voltrade.orders.order_queries import (
    exposed_lots,
    has_room,
    is_algo,
    is_done,
    is_live_at_exchange,
    is_of,
    is_unfilled,
    is_waiting,
    next_lookup_at,
    orders_looked_up_again,
    rest_is_stuck,
    stale_at,
)
from voltrade.orders.records import add_output, note_row

# --- the state of an order --------------------------------------------------------------------------------------------


@compiled_part
def move_to(order: Record, state: int) -> bool:
    """Change the state of an order if the transition is legal; return whether it was."""
    if not states.LEGAL[1 if is_algo(order) else 0, order.state, state]:
        return False
    order.state = state
    return True


@compiled_part
def apply_status(symbol: Record, order: Record, status: int, time: int) -> None:
    """Set an order to a status that the exchange reported; one that is out of date only adds to `ignored`."""
    is_canceling = order.state == states.PENDING_CANCEL and status in (states.NEW, states.PARTIALLY_FILLED)
    is_new = order.state != status
    if is_new and (is_canceling or not move_to(order, status)):
        symbol.ignored += 1
        return
    if is_new:
        order.updated_at = time
    # An untriggered conditional order may wait without limit; any other order should end soon.
    if is_algo(order) and order.state == states.NEW:
        order.lookup_at = NEVER
    else:
        await_update(symbol, order, time)


@compiled_part
def await_update(symbol: Record, order: Record, time: int) -> None:
    """Schedule the look-up of an order if no update of it comes; its reason is STALE if the order is stale by then."""
    order.lookup_at = next_lookup_at(symbol, order, time)
    order.lookup_reason = states.STALE if order.lookup_at >= stale_at(symbol, order) else states.NO_UPDATE


@compiled_part
def schedule_account_read(symbol: Record, at: int, reason: int) -> None:
    """Schedule a read of the account no later than `at`, in ms."""
    if at < symbol.snapshot_at:
        symbol.snapshot_at, symbol.snapshot_reason = at, reason


# --- commands and alerts ----------------------------------------------------------------------------------------------


@compiled_part
def new_order(symbol: Record, time: int, purpose: int, side: int, quantity: int, reason: int) -> int:
    """Add an order of the open position and return its row; the caller has checked `has_room`."""
    row = symbol.order_count
    symbol.orders[row] = symbol.no_order
    order = symbol.orders[row]
    order.number, order.round_trip, order.purpose = symbol.order_numbers, symbol.position.id, purpose
    order.side, order.quantity, order.time, order.reason = side, quantity, time, reason
    await_update(symbol, order, time)
    symbol.order_numbers += 1
    symbol.order_count = row + 1
    return int(row)


@compiled_part
def submit(account: Record, symbol: Record, row: int) -> None:
    """Send a new order."""
    add_output(account, records.SUBMIT, symbol.index, row, symbol.orders[row].reason, symbol.orders[row].time)


@compiled_part
def lookup(account: Record, symbol: Record, row: int, time: int, reason: int) -> None:
    """Request the state of an order, and schedule its next look-up."""
    await_update(symbol, symbol.orders[row], time)
    add_output(account, records.LOOKUP, symbol.index, row, reason, time)


@compiled_part
def cancel(account: Record, symbol: Record, row: int, time: int, reason: int) -> None:
    """Cancel an order, if it is known to be at the exchange, untriggered, and not being cancelled.

    An entry whose outcome isn't known isn't cancelled: it fills at once or expires, and its fills are closed with the
    position, or get a stop.
    """
    order = symbol.orders[row]
    if not is_live_at_exchange(order) or not move_to(order, states.PENDING_CANCEL):
        return
    order.lookup_at, order.lookup_reason = time + symbol.settings.stale_ms, states.STALE
    order.cancels += 1
    if order.cancel_reason == states.NONE:
        order.cancel_reason = reason
    add_output(account, records.CANCEL, symbol.index, row, reason, time)


@compiled_part
def alert(account: Record, symbol: Record, kind: int, number: int, time: int) -> None:
    """Alert the operator; `number` is that of the order that it is about, -1 for none."""
    at = note_row(account, account.alerts_count, len(account.alerts))
    note = account.alerts[at]
    note.time, note.kind, note.order = time, kind, number
    account.alerts_count = at + 1
    add_output(account, records.ALERTED, symbol.index, at, states.NONE, time)


# --- the entry --------------------------------------------------------------------------------------------------------


@compiled_part
def enter(account: Record, symbol: Record, signal: Record, quantity: int, limit: int) -> None:
    """Begin a round trip with an entry of `quantity` lots; `limit` is its limit price in ticks, 0 for market.

    A limit entry is immediate-or-cancel, so no entry rests in the book. Nothing is sent where too few rows are free.
    """
    if not has_room(symbol, records.SPARE):
        return
    _begin_round_trip(symbol, signal.side)
    symbol.last_entry_time = account.now
    position = symbol.position
    position.bar = signal.bar
    position.stop_distance, position.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    row = new_order(symbol, account.now, states.ENTRY, signal.side, quantity, states.SIGNALLED)
    order = symbol.orders[row]
    order.count, order.price, order.bar = 1, limit, signal.bar
    submit(account, symbol, row)


@compiled_part
def _begin_round_trip(symbol: Record, side: int) -> None:
    symbol.round_trips += 1
    symbol.in_round_trip = True
    symbol.position = symbol.no_position
    symbol.position.id, symbol.position.side = symbol.round_trips, side
    symbol.largest_guess = 0  # a refusal as too large counts for one position only


# --- the answer to a new order ----------------------------------------------------------------------------------------


@compiled_part
def on_submitted(account: Record, symbol: Record, row: int, time: int, outcome: int, code: int) -> None:
    """Apply the answer to a new order.

    Accepted: nothing to do. Unknown outcome, or the client order id is in use: look the order up. Refused: apply the
    reaction to the code.
    """
    if outcome == states.ACCEPTED:
        return
    order = symbol.orders[row]
    order.code = code
    if outcome == states.UNKNOWN_OUTCOME or reaction_to(code) == states.LOOKUP:
        move_to(order, states.UNKNOWN)
        if not is_done(order):
            lookup(account, symbol, row, time, states.OUTCOME_UNKNOWN)
            if order.purpose == states.ENTRY:  # any order counts as absent only if a snapshot lacks it; this one soon
                schedule_account_read(symbol, time + states.RETRY_AFTER_MS, states.OUTCOME_UNKNOWN)
    elif move_to(order, states.REJECTED):
        _on_refused(account, symbol, row, time, reaction_to(code))


@compiled_part
def reaction_to(code: int) -> int:
    """Return the reaction to a refusal's code; a code that isn't in the table halts."""
    for number in range(len(states.REFUSED_CODES)):
        if states.REFUSED_CODES[number] == code:
            return int(states.REACTIONS_TO[number])
    return states.HALT


@compiled_part
def _on_refused(account: Record, symbol: Record, row: int, time: int, reaction: int) -> None:
    """Apply the rules for a refused order: those for any order, then those for its purpose."""
    order = symbol.orders[row]
    position = symbol.position if order.round_trip == symbol.position.id else symbol.earlier
    alert(account, symbol, records.ORDER_REFUSED, order.number, time)
    if reaction == states.HALT:
        symbol.halt_wanted = records.HALTED_BY_REFUSAL
    if reaction == states.RECONCILE:
        add_output(account, records.SNAPSHOT, symbol.index, row, states.REDUCE_ONLY_REFUSED, time)
    if order.code == states.CODE_TOO_LARGE:  # a first estimate of the limit, until the exchange's filters are read
        guess = max(1, order.quantity // states.TOO_LARGE_DIVISOR)
        symbol.largest_guess = guess if symbol.largest_guess == 0 else min(guess, symbol.largest_guess)
        position.exit_retry_at = time + states.RETRY_AFTER_MS
    if order.purpose == states.ENTRY:
        _on_entry_refused(symbol, reaction)
    elif order.purpose == states.EXIT:
        was_stuck = rest_is_stuck(symbol)
        _on_exit_refused(symbol, position, order, time, reaction)
        if rest_is_stuck(symbol) and not was_stuck:
            alert(account, symbol, records.REST_IS_STUCK, order.number, time)
    elif order.purpose == states.STOP:
        _on_stop_refused(position, order.code, time, reaction)
    else:
        _on_take_profit_refused(position, order.code, time, reaction)


@compiled_part
def _on_entry_refused(symbol: Record, reaction: int) -> None:
    """Count a refusal towards MAX_ENTRY_FAILURES, but for RETRY; these rules never send an entry again."""
    if reaction != states.RETRY:
        _count_entry_failure(symbol)


@compiled_part
def _on_exit_refused(symbol: Record, position: Record, order: Record, time: int, reaction: int) -> None:
    """Schedule the next exit after a pause, whatever the reaction; `rest_is_stuck` may prevent it.

    Exits that were sent together as parts count as one try: only the refusal of the last of them is counted.
    """
    if reaction == states.RECONCILE:
        symbol.nothing_to_reduce = True
    position.exit_retry_at = time + (states.RETRY_AFTER_MS << protect_doublings(position.exit_tries))
    position.exit_tries += order.count == position.exits and _counts_as_try(order.code)


@compiled_part
def _on_stop_refused(position: Record, code: int, time: int, reaction: int) -> None:
    """Schedule the stop again after a pause; after a lasting refusal or STOP_TRIES tries, start closing instead."""
    position.stop_tries += _counts_as_try(code)
    position.stop_retry_at = time + (states.RETRY_AFTER_MS << protect_doublings(position.stop_tries))
    is_again = reaction in (states.RETRY, states.RECONCILE, states.FILTERS) and code != states.CODE_TOO_LARGE
    if not is_again or position.stop_tries >= states.STOP_TRIES:
        start_closing(position, states.BY_STOP if reaction == states.CLOSE else states.STOP_REFUSED)


@compiled_part
def _on_take_profit_refused(position: Record, code: int, time: int, reaction: int) -> None:
    """Start closing a position whose price has passed its take-profit; schedule it again after a temporary refusal."""
    if reaction == states.CLOSE:
        start_closing(position, states.BY_TAKE_PROFIT)
    elif reaction in (states.RETRY, states.FILTERS):
        doublings = min(position.take_profit_tries, states.MAX_DOUBLINGS)
        position.take_profit_retry_at = time + (states.RETRY_AFTER_MS << doublings)
        position.take_profit_tries += _counts_as_try(code)


@compiled_part
def _counts_as_try(code: int) -> bool:
    """Return whether a refusal counts as a try: it doesn't if the request wasn't sent, or if there were too many."""
    return code != states.CODE_NEVER_SENT and code != states.CODE_TOO_MANY_REQUESTS


@compiled_part
def protect_doublings(tries: int) -> int:
    """Return how often the pause is doubled after this many tries of a stop or exit."""
    return min(max(tries - states.QUICK_TRIES, 0), states.MAX_PROTECT_DOUBLINGS)


@compiled_part
def _count_entry_failure(symbol: Record) -> None:
    """Count an entry that was refused or never placed; from MAX_ENTRY_FAILURES in a row on, trading halts."""
    symbol.entry_failures += 1
    if symbol.entry_failures >= states.MAX_ENTRY_FAILURES and symbol.halt_wanted == 0:
        symbol.halt_wanted = records.HALTED_BY_FAILURES


@compiled_part
def start_closing(position: Record, reason: int) -> None:
    """Note that the position is to be closed, and why; `sync_orders` sends the exits. The first reason is kept."""
    if position.closing_reason == states.NONE:
        position.closing_reason = reason


# --- the answer to a cancel or a look-up ------------------------------------------------------------------------------


@compiled_part
def on_canceled(account: Record, symbol: Record, row: int, time: int, outcome: int) -> None:
    """Apply the answer to a cancel; where it was refused or its outcome is unknown, look the order up.

    An order whose cancel is refused may have filled or triggered. After its first cancel it is looked up at once; after
    a further one a pause comes first, since the look-up that led to it may have been out of date.
    """
    order = symbol.orders[row]
    if outcome == states.ACCEPTED:
        move_to(order, states.CANCELED)
    elif not is_done(order):
        reason = states.CANCEL_REFUSED if outcome == states.REFUSED else states.CANCEL_UNKNOWN
        if order.cancels <= 1:
            lookup(account, symbol, row, time, reason)
        else:
            order.lookup_at = time + (states.RETRY_AFTER_MS << protect_doublings(order.cancels))
            order.lookup_reason = reason


@compiled_part
def on_looked_up(account: Record, symbol: Record, row: int, time: int, outcome: int, code: int, status: int) -> None:
    """Apply the answer to a look-up: the order's state, its absence, or an error.

    After an error, or an absence that isn't concluded yet, the look-up is repeated later and the account is read; one
    that was held back by a limit of requests goes out soon after that ends. An entry that is open and stale is
    cancelled.
    """
    order = symbol.orders[row]
    if is_done(order):
        return
    if outcome != states.ACCEPTED:
        reason = states.LOOKUP_UNKNOWN if outcome == states.UNKNOWN_OUTCOME else states.LOOKUP_REFUSED
        pause = 0 if code == states.CODE_TOO_MANY_REQUESTS else (time - order.time) // states.LOOKUP_AGE_DIVISOR
        if is_of(symbol, order, states.STOP) and is_waiting(order):  # it counts as cover until it is known to be gone
            pause = min(pause, states.LOOKUP_STOP_MS)
        order.lookup_at = time + max(states.RETRY_AFTER_MS * orders_looked_up_again(symbol), pause)
        order.lookup_reason = reason
        if outcome == states.ABSENT:
            _on_absent(account, symbol, row, time)
        elif time >= symbol.account_read_at + max(states.READ_ACCOUNT_EVERY_MS, (time - order.time) // 2):
            symbol.account_read_at = time
            schedule_account_read(symbol, time, reason)
        return
    is_open = status in (states.NEW, states.PARTIALLY_FILLED)
    if order.state in (states.PENDING_CANCEL, states.UNKNOWN) and is_open:
        move_to(order, status)
    if order.purpose == states.ENTRY and is_open and time >= stale_at(symbol, order):
        move_to(order, status)
        cancel(account, symbol, row, time, states.STALE)


@compiled_part
def on_ended(account: Record, symbol: Record, order: Record, time: int, ended_at: int) -> None:
    """Apply the end of an order at `ended_at`; an exit or stop of the open position may have ended by itself, unfilled.

    The exchange, or whoever ended it, may end the next one too. The next exit waits once QUICK_TRIES were sent. The
    newest stop of a position with lots counts as a try, see `_on_stop_ended`; we never cancel that one.
    """
    position = symbol.position
    if not is_unfilled(order):
        return
    if is_of(symbol, order, states.EXIT) and position.exits >= states.QUICK_TRIES:
        pause = states.RETRY_AFTER_MS << protect_doublings(position.exits)
        position.exit_retry_at = max(position.exit_retry_at, time + pause)
    is_newest_stop = is_of(symbol, order, states.STOP) and order.count == position.stops and order.order_id == 0
    if is_newest_stop and position.rest_reason == states.NONE and exposed_lots(symbol, time) > 0:
        _on_stop_ended(account, symbol, order, time, ended_at)


@compiled_part
def _on_stop_ended(account: Record, symbol: Record, order: Record, time: int, ended_at: int) -> None:
    """Count a stop that has ended by itself as a try, or as the first if it stood for STOP_STOOD_MS.

    A new one follows at once after the first, else after a pause; after STOP_TRIES the position is closed. Where
    somebody may have cancelled it, trading halts.
    """
    position = symbol.position
    position.stop_tries = 1 if ended_at - order.time >= states.STOP_STOOD_MS else position.stop_tries + 1
    if position.stop_tries > 1:
        position.stop_retry_at = time + (states.RETRY_AFTER_MS << protect_doublings(position.stop_tries))
    if position.closing_reason != states.NONE:
        return  # it needs a stop only if its exits fail
    alert(account, symbol, records.STOP_HAS_ENDED, order.number, time)
    if order.state == states.CANCELED or order.state == states.GONE:
        symbol.halt_wanted = records.HALTED_BY_FOREIGN_ORDER
    if position.stop_tries >= states.STOP_TRIES:
        start_closing(position, states.STOP_REFUSED)


@compiled_part
def _on_absent(account: Record, symbol: Record, row: int, time: int) -> None:
    """Conclude that the exchange has no such order: one without a fill that was never known there was never placed; any
    other is GONE."""
    order = symbol.orders[row]
    if order.filled == 0 and move_to(order, states.NOT_PLACED):
        if order.purpose == states.ENTRY:
            _count_entry_failure(symbol)
        alert(account, symbol, records.NEVER_PLACED, order.number, time)
    elif move_to(order, states.GONE):
        alert(account, symbol, records.ORDER_IS_GONE, order.number, time)
        on_ended(account, symbol, order, time, order.time)  # how long it stood isn't known


# --- a fill -----------------------------------------------------------------------------------------------------------


@compiled_part
def apply_fill(account: Record, symbol: Record, event: Record) -> None:
    """Count a new fill in the account's books, in its order, and in the position that it belongs to.

    Its profit is the exchange's own figure: ours differs where somebody else has added to the position.
    """
    order = symbol.orders[event.order]
    quantity, price, fee = event.quantity, event.price, event.fee
    symbol.quantity, symbol.cost, realised = position_after(
        symbol.quantity, symbol.cost, order.side, price, quantity, symbol.money_per_ticklot
    )
    symbol.realised_last = realised
    account.realised += event.realised
    account.fees += fee
    account.wallet += event.realised - fee
    symbol.counted += 1
    symbol.entry_failures, symbol.nothing_to_reduce = 0, False
    order.filled += quantity
    order.updated_at = symbol.time
    if order.round_trip != symbol.position.id or not takes_fills(symbol):
        _adopt_late_order(account, symbol, order)
    _count_fill(symbol.position, order, event)


@compiled_part
def takes_fills(symbol: Record) -> bool:
    """Return whether a fill counts in the round trip in progress: not once it is noted as closed, though cancels of its
    orders are still under way."""
    return bool(symbol.in_round_trip and not symbol.position.is_closed)


@compiled_part
def _adopt_late_order(account: Record, symbol: Record, order: Record) -> None:
    """Assign an order that fills after its round trip was closed to a round trip in progress, or to a new one.

    The position of a round trip in progress is closed at market, and trading halts. Otherwise a new round trip begins.
    An entry whose stop distance is known gets its stop in it, unless its own round trip was being closed: then the fill
    is closed too. What any other order has filled is closed at market, and trading halts.
    """
    if takes_fills(symbol):
        symbol.halt_wanted = records.HALTED_BY_LATE_FILL
        start_closing(symbol.position, states.LATE_FILL)
    else:
        if order.round_trip != symbol.position.id:  # an orphan, whose round trip isn't known
            symbol.position = symbol.no_position
        distance, take_profit = symbol.position.stop_distance, symbol.position.take_profit_distance
        closing_reason = symbol.position.closing_reason
        _begin_round_trip(symbol, order.side)
        symbol.position.stop_distance, symbol.position.take_profit_distance = distance, take_profit
        symbol.position.bar = order.bar
        if order.purpose != states.ENTRY or distance == 0:
            symbol.halt_wanted = records.HALTED_BY_LATE_FILL
            start_closing(symbol.position, states.LATE_FILL)
        elif closing_reason != states.NONE:
            start_closing(symbol.position, closing_reason)
    order.round_trip = symbol.position.id


@compiled_part
def _count_fill(position: Record, order: Record, fill: Record) -> None:
    """Count a fill in the open position, by its side as entry or exit; its profit is the exchange's figure."""
    position.fees += fill.fee
    position.realised += fill.realised
    if order.side == position.side:
        if position.opened_at == 0:
            position.opened_at = fill.time
        position.entered += fill.quantity
        position.entry_notional += fill.quantity * fill.price
        return
    position.exited += fill.quantity
    position.exit_tries = 0  # exits fill again: the pauses between further ones begin anew
    position.exit_notional += fill.quantity * fill.price
    position.last_exit_time = fill.time
    if order.purpose == states.STOP:
        position.exit_reason = states.BY_STOP
    elif order.purpose == states.TAKE_PROFIT:
        position.exit_reason = states.BY_TAKE_PROFIT
    else:
        position.exit_reason = order.reason


# --- orders that our books don't have yet -----------------------------------------------------------------------------


@compiled_part
def adopt_exit(symbol: Record, time: int, side: int, quantity: int, reason: int) -> int:
    """Add a foreign order that closes the open position as an exit; return its row, -1 where no row is free."""
    if not has_room(symbol, 0):
        return -1
    row = new_order(symbol, time, states.EXIT, side, quantity, reason)
    symbol.position.exits += 1
    symbol.orders[row].count, symbol.orders[row].is_foreign = symbol.position.exits, True
    return row


@compiled_part
def adopt_orphan(symbol: Record, time: int, purpose: int, side: int, quantity: int) -> int:
    """Add an orphan, with 0 as its round trip; return its row, -1 where no row is free."""
    if not has_room(symbol, 0):
        return -1
    row = new_order(symbol, time, purpose, side, quantity, states.RESTART)
    symbol.orders[row].round_trip = 0
    return row
