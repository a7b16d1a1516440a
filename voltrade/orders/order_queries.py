"""Queries about the orders and the position of a symbol: compiled functions of one row of SYMBOL (`records`)."""

from __future__ import annotations

from voltrade.account import value_at_mark
from voltrade.compiled import Record, compiled, compiled_part
from voltrade.model import NEVER
from voltrade.orders import order_states as states
from voltrade.orders import records

# --- one order --------------------------------------------------------------------------------------------------------


@compiled_part
def is_algo(order: Record) -> bool:
    """Return whether an order is conditional: a stop or a take-profit."""
    return bool(order.purpose == states.STOP or order.purpose == states.TAKE_PROFIT)


@compiled_part
def is_done(order: Record) -> bool:
    """Return whether an order can no longer fill or trigger, or is a foreign order that was adopted as an exit."""
    return bool(order.is_foreign or states.IS_DONE[order.state] or order.child_done)


@compiled_part
def is_live_at_exchange(order: Record) -> bool:
    """Return whether an order is known to be at the exchange and can still fill or trigger.

    That includes an order that has triggered, and one whose cancel is in flight.
    """
    return not is_done(order) and order.state != states.PENDING_SUBMIT and order.state != states.UNKNOWN


@compiled_part
def is_waiting(order: Record) -> bool:
    """Return whether an order is known to be at the exchange, unfilled, untriggered, and not being cancelled."""
    return bool(order.state == states.NEW and not is_done(order))


@compiled_part
def is_triggered(order: Record) -> bool:
    """Return whether a conditional order's trigger is reached; the order that it became may have ended since."""
    return bool(order.state == states.TRIGGERING or order.state == states.TRIGGERED)


@compiled_part
def is_unfilled(order: Record) -> bool:
    """Return whether no fill of an order is counted or reported."""
    return bool(order.filled == 0 and order.reported == 0)


@compiled_part
def awaits_fills(order: Record) -> bool:
    """Return whether the exchange has reported more filled lots of an order than its counted fills."""
    return bool(not order.is_foreign and order.reported > order.filled)


@compiled_part
def overdue_fills(order: Record, time: int) -> int:
    """Return the lots of an order that are reported as filled, for RETRY_AFTER_MS or longer, but not counted.

    They need cover too.
    """
    is_late = awaits_fills(order) and time >= order.updated_at + states.RETRY_AFTER_MS
    return int(order.reported - order.filled) if is_late else 0


@compiled_part
def is_of(symbol: Record, order: Record, purpose: int) -> bool:
    """Return whether an order belongs to the open position and has this purpose."""
    return bool(order.purpose == purpose and order.round_trip == symbol.position.id)


@compiled_part
def next_lookup_at(symbol: Record, order: Record, time: int) -> int:
    """Return when to look up an order if no update comes, in ms.

    A conditional order is looked up when it is stale. Any other order should end soon, so it is looked up
    LOOKUP_AFTER_MS from now at the latest.
    """
    at = stale_at(symbol, order)
    if at <= time:
        at = time + int(symbol.settings.stale_ms)
    return at if is_algo(order) else min(at, time + states.LOOKUP_AFTER_MS)


@compiled_part
def orders_looked_up_again(symbol: Record) -> int:
    """Return of how many orders the last look-up failed, at least 1: they share one look-up each RETRY_AFTER_MS."""
    count = 0
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        is_asked = order.lookup_at < NEVER and order.lookup_reason == states.LOOKUP_UNKNOWN
        count += is_asked and not is_done(order)
    return max(count, 1)


@compiled_part
def stale_at(symbol: Record, order: Record) -> int:
    """Return when an order becomes stale, in ms: `stale_ms` after it was sent or last updated."""
    return int(max(order.time, order.updated_at) + symbol.settings.stale_ms)


# --- rows -------------------------------------------------------------------------------------------------------------


@compiled_part
def has_room(symbol: Record, spare: int) -> bool:
    """Return whether a row is free for one more order, and `spare` more rows."""
    return bool(symbol.order_count + spare < records.ROWS)


@compiled_part
def is_leftover(symbol: Record, order: Record) -> bool:
    """Return whether an order can still act, though it isn't of the open position.

    It is an orphan, or of a round trip that has ended. An order that has triggered doesn't count: it can't be
    cancelled, and finds nothing to close.
    """
    is_past = not symbol.in_round_trip or order.round_trip != symbol.position.id
    return bool(is_past and not is_done(order) and not is_triggered(order))


@compiled_part
def has_leftover(symbol: Record) -> bool:
    """Return whether any order can still act though it isn't of the open position."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_leftover(symbol, order):
            return True
    return False


@compiled_part
def is_removable(symbol: Record, order: Record) -> bool:
    """Return whether an order's row can be freed: it can no longer act, and its fills are counted or its round trip has
    ended."""
    if not symbol.in_round_trip or order.round_trip != symbol.position.id:
        return not is_leftover(symbol, order)
    return is_done(order) and not awaits_fills(order)


@compiled_part
def count_removable(symbol: Record) -> int:
    """Mark the orders whose rows can be freed, and return how many there are."""
    count = 0
    for row in range(symbol.order_count):
        symbol.orders[row].is_removable = is_removable(symbol, symbol.orders[row])
        count += symbol.orders[row].is_removable
    return count


# --- the open position ------------------------------------------------------------------------------------------------


@compiled
def price_from_average(notional: int, quantity: int, distance: int) -> int:
    """Return the price at a distance from the average fill price, in ticks; the average is rounded to the nearest."""
    return (2 * notional + quantity) // (2 * quantity) + distance


@compiled
def to_step(amount: int, step: int, up: bool) -> int:
    """Return a price in ticks, or lots, as a multiple of `step`, rounded up or down."""
    rest = amount % step
    if rest == 0:
        return amount
    return amount + step - rest if up else amount - rest


@compiled_part
def sendable(symbol: Record, lots: int) -> int:
    """Return the quantity of a reduce-only order that closes this many lots: a multiple of the exchange's step.

    It is rounded up: a reduce-only order fills no more than the position has, and no rest smaller than a step is left.
    """
    return to_step(lots, int(symbol.quantity_step), True)


@compiled_part
def exit_quantity(symbol: Record, lots: int) -> int:
    """Return the quantity of an exit that closes this many lots: as `sendable`, but rounded down, to one step at least,
    after the exchange has refused an exit because there was nothing to close."""
    step = int(symbol.quantity_step)
    return to_step(lots, step, not (symbol.nothing_to_reduce and lots >= step))


@compiled_part
def largest_exit(symbol: Record) -> int:
    """Return the largest quantity of one exit, in lots; 0 without a limit.

    The limit is that of the exchange's filters or, if smaller, a guess after a refusal as too large; the guess is large
    enough to close the position by MAX_EXIT_PARTS exits.
    """
    if symbol.largest_guess == 0:
        return int(symbol.largest_order)
    least = (abs(open_quantity(symbol)) + states.MAX_EXIT_PARTS - 1) // states.MAX_EXIT_PARTS
    guess = to_step(max(int(symbol.largest_guess), least), int(symbol.quantity_step), True)
    return guess if symbol.largest_order == 0 else min(guess, int(symbol.largest_order))


@compiled_part
def rest_is_stuck(symbol: Record) -> bool:
    """Return whether less than a step is left of the position, and the exchange refuses every exit for it."""
    is_refused = symbol.nothing_to_reduce and symbol.position.exit_tries >= states.REST_TRIES
    return bool(is_refused and 0 < open_quantity(symbol) < symbol.quantity_step)


@compiled_part
def open_quantity(symbol: Record) -> int:
    """Return the open position in lots, from our fills; negative where more lots have exited than had entered."""
    return int(symbol.position.entered - symbol.position.exited) if symbol.in_round_trip else 0


@compiled_part
def has_mark(symbol: Record) -> bool:
    """Return whether the exchange's mark price is known; if not, the last trade's price is used instead."""
    return bool(symbol.mark_e8 != 0 and not symbol.mark_is_last_price)


@compiled_part
def exposed_lots(symbol: Record, time: int) -> int:
    """Return the lots that need cover.

    They are the open position, plus overdue fills of entries, less fills of exits that are reported but not counted.
    """
    if not symbol.in_round_trip:
        return 0
    lots = open_quantity(symbol)
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if order.round_trip == symbol.position.id and order.side == symbol.position.side:
            lots += overdue_fills(order, time)
        elif order.round_trip == symbol.position.id and awaits_fills(order):
            lots -= int(order.reported - order.filled)
    return lots


@compiled_part
def entry_is_done(symbol: Record) -> bool:
    """Return whether no entry of the open position can still fill."""
    for row in range(symbol.order_count):
        if is_of(symbol, symbol.orders[row], states.ENTRY) and not is_done(symbol.orders[row]):
            return False
    return True


@compiled_part
def newest_stop(symbol: Record) -> int:
    """Return the row of the stop that was sent last for the open position; -1 without one, or if its row is freed."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_of(symbol, order, states.STOP) and order.count == symbol.position.stops:
            return row
    return -1


@compiled_part
def has_unsettled_order(symbol: Record) -> bool:
    """Return whether the outcome of an order is unknown, or a cancel is in flight."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if not is_done(order) and (order.state == states.UNKNOWN or order.state == states.PENDING_CANCEL):
            return True
    return False


@compiled_part
def is_protected(symbol: Record) -> bool:
    """Return whether the entry is done, every reported fill is counted, and an untriggered stop covers the position."""
    if not symbol.in_round_trip or not entry_is_done(symbol):
        return False
    for row in range(symbol.order_count):
        if awaits_fills(symbol.orders[row]):
            return False
    row = newest_stop(symbol)
    return row >= 0 and is_waiting(symbol.orders[row]) and symbol.orders[row].quantity >= open_quantity(symbol)


@compiled_part
def rest_covers_until(order: Record) -> int:
    """Return until when the unfilled rest of a triggered stop or take-profit counts as cover; 0 before its first fill.

    That is until PROTECT_WITHIN_MS after its last update.
    """
    return int(order.updated_at + states.PROTECT_WITHIN_MS) if max(order.filled, order.reported) > 0 else 0


@compiled_part
def covered_lots(symbol: Record, time: int) -> int:
    """Return the lots that untriggered stops and working exits of the open position, all at the exchange, would close.

    The unfilled rest of a triggered stop or take-profit counts for a while, see `rest_covers_until`.
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
            lots += rest if time < rest_covers_until(order) else 0
        elif order.state == states.NEW or order.state == states.PARTIALLY_FILLED:
            lots += rest
    return lots


@compiled_part
def is_working(symbol: Record) -> bool:
    """Return whether any order is working or in flight, other than untriggered stops and take-profits."""
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if not is_done(order) and not (is_algo(order) and order.state == states.NEW):
            return True
    return False


@compiled_part
def is_stop_confirmed(symbol: Record, since: int) -> bool:
    """Return whether the exchange has confirmed the stop since a time, and no order works: conditional ones wait."""
    return bool(symbol.agreed_at >= since and is_protected(symbol) and not is_working(symbol))


@compiled_part
def unrealised_profit(symbol: Record) -> int:
    """Return the profit of the position at the last mark price, or at the last trade's before the first.

    A mark price that is missing comes as one at the last trade's price, on a tape and in a session.
    """
    if symbol.quantity == 0:
        return 0
    if symbol.mark_e8:
        value = value_at_mark(symbol.quantity, symbol.step_numerator, symbol.step_denominator, symbol.mark_e8)
    else:
        value = symbol.last_price * symbol.quantity * symbol.money_per_ticklot
    return int(value - symbol.cost)
