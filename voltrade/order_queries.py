"""Questions about the orders and the position of a symbol, as compiled functions over one row of SYMBOL (`records`)."""

from __future__ import annotations

from voltrade import order_states as states
from voltrade import records
from voltrade.compiled import Record, compiled, compiled_part


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


@compiled_part
def has_room(symbol: Record, spare: int) -> bool:
    """Whether there is a row for one more order, and as many as `spare` beside it."""
    return bool(symbol.order_count + spare < records.ROWS)
