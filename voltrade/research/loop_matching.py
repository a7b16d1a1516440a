"""Compiled form of the simulated exchange's matching: triggers, fills, funding and liquidation."""

from __future__ import annotations

from voltrade import risk
from voltrade.account import fee, funding_payment, position_after, proportion, value_at_mark
from voltrade.compiled import Record, compiled_in_place, compiled_part
from voltrade.model import NEVER
from voltrade.orders import order_states as states
from voltrade.orders.records import ALGO_UPDATED, FUNDED, ORDER_UPDATED
from voltrade.research.loop_exchange import (
    add_event,
    add_order_event,
    best_price,
    divided_up,
    end_algo,
    end_order,
    mark_ended,
    reducible_quantity,
    triggers_on_rise,
)
from voltrade.research.loop_records import (
    IN_TRANSIT,
    LIQUIDATED,
    TAKING,
    Market,
    TradeColumns,
    first_at_least,
    free_row,
)
from voltrade.simulated.fill_model import (
    first_acting_trade,
    is_beyond_take_bound,
    is_triggered,
    is_within_limit,
    next_level,
    worse_price,
)


@compiled_part
def update_watch(sim: Record) -> None:
    """Collect the times and prices that open orders wait for; they stay valid until an order changes."""
    sim.watch_is_stale = False
    sim.arrival, sim.algo_arrival, sim.rises_to, sim.falls_to = NEVER, NEVER, NEVER, 0
    for at in range(sim.symbols[0].order_count):
        order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
        if at_exchange.phase == IN_TRANSIT:
            sim.arrival = min(sim.arrival, at_exchange.live_from)
        if at_exchange.algo_status == states.NEW and not sim.settings.triggers_by_mark:
            if not at_exchange.arrived:
                sim.algo_arrival = min(sim.algo_arrival, at_exchange.live_from)
            elif triggers_on_rise(order):
                sim.rises_to = min(sim.rises_to, order.trigger_price)
            else:
                sim.falls_to = max(sim.falls_to, order.trigger_price)
    sim.is_busy = sim.arrival < NEVER
    sim.searched_to = 0


@compiled_in_place
def next_end(sim: Record, m: Market) -> tuple[int, int, bool, bool, bool]:
    """Find where the next segment ends.

    Returns:
        The row after its last trade, the time of its end, and whether it ends with a trade that an order reacts to,
        with the arrival of an order, or with a mark price.
    """
    if sim.watch_is_stale:
        update_watch(sim)
    has_mark, arrives = sim.mark < len(m.marks), False
    end = m.marks[sim.mark].row if has_mark else len(m.trades.price)
    if sim.arrival < NEVER:
        before = first_at_least(m.trades.time, sim.row, end, sim.arrival)
        arrives = before < end or not has_mark or m.marks[sim.mark].time >= sim.arrival
        end = before
    acting = next_acting_trade(sim, m, end)
    if acting < end:
        return acting + 1, m.trades.time[acting], True, False, False
    if arrives:
        return end, sim.arrival, False, True, False
    return end, m.marks[sim.mark].time if has_mark else m.trades.time[end - 1], False, False, has_mark


@compiled_in_place
def next_acting_trade(sim: Record, m: Market, stop: int) -> int:
    """Return the first trade before `stop` that an order reacts to; `stop` where there is none.

    The arrival of an algo order has no effect by itself; its trigger price counts from then on.
    """
    if sim.watch_is_stale:
        update_watch(sim)
    row = sim.row
    while sim.algo_arrival < NEVER:
        row = first_acting_trade(m.trades.price, m.trades.time, row, stop, sim.algo_arrival, sim.rises_to, sim.falls_to)
        if row == stop or m.trades.time[row] < sim.algo_arrival:
            return row
        for at in range(sim.symbols[0].order_count):
            at_exchange = sim.at_exchange[at]
            at_exchange.arrived = at_exchange.arrived or m.trades.time[row] >= at_exchange.live_from
        update_watch(sim)
    if sim.rises_to == NEVER and sim.falls_to == 0:
        return stop
    return _first_trade_at_level(sim, m, row, stop)


@compiled_in_place
def _first_trade_at_level(sim: Record, m: Market, row: int, stop: int) -> int:
    """Return the first trade from `row` on at or beyond a trigger price; `stop` where there is none before.

    Bars are compared by high and low first, then the trades of a bar that reaches a trigger price. Trades that were
    searched once are not searched again until the trigger prices change.
    """
    if sim.searched_to < row:
        sim.searched_to = row
        sim.search_bar = sim.symbols[0].bars
    bars = len(m.closing_rows)
    while sim.searched_to < stop:
        while sim.search_bar < bars and m.closing_rows[sim.search_bar] < sim.searched_to:
            sim.search_bar += 1
        bar = sim.search_bar
        end = stop
        if bar < bars:
            end = m.closing_rows[bar] + 1
            if m.high[bar] < sim.rises_to and m.low[bar] > sim.falls_to:
                sim.searched_to = end
                continue
            end = min(end, stop)
        found = sim.searched_to
        while found < end and sim.falls_to < m.trades.price[found] < sim.rises_to:
            found += 1
        sim.searched_to = found
        if found < end:
            return int(found)
    return stop


@compiled_part
def on_trade(sim: Record, trades: TradeColumns, row: int) -> None:
    """Process a trade that an algo order reacts to."""
    price, time = trades.price[row], trades.time[row]
    for at in range(sim.symbols[0].order_count):
        at_exchange = sim.at_exchange[at]
        if at_exchange.algo_status == states.NEW and time >= at_exchange.live_from:
            at_exchange.arrived = True
    sim.watch_is_stale = True
    sim.last_price = price
    if trades.buyer_is_maker[row]:
        sim.last_sold = price
    else:
        sim.last_bought = price
    if not sim.settings.triggers_by_mark:
        _trigger_at(sim, trades, row, price, 1, time)


@compiled_part
def _trigger_at(sim: Record, trades: TradeColumns, row: int, price: int, unit: int, time: int) -> None:
    """Trigger the algo orders that a price reaches, stops first.

    Args:
        row: the first trade that may fill them.
        unit: converts ticks to the unit of `price`: 1 where a trade triggers.
    """
    for purpose in (states.STOP, states.TAKE_PROFIT):
        for at in range(sim.symbols[0].order_count):
            order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
            is_waiting = (
                order.purpose == purpose and at_exchange.algo_status == states.NEW and time >= at_exchange.live_from
            )
            if is_waiting and is_triggered(price, order.trigger_price * unit, triggers_on_rise(order)):
                _trigger(sim, trades, at, row, price if unit == 1 else 0)


@compiled_part
def next_open(sim: Record, after_id: int) -> int:
    """Return the open order with the smallest id above `after_id`; -1 where there is none."""
    found = -1
    for at in range(sim.symbols[0].order_count):
        at_exchange = sim.at_exchange[at]
        is_open = at_exchange.phase == IN_TRANSIT or at_exchange.phase == TAKING
        if (
            is_open
            and at_exchange.order_id > after_id
            and (found < 0 or at_exchange.order_id < sim.at_exchange[found].order_id)
        ):
            found = at
    return found


@compiled_part
def arrive_due(sim: Record, trades: TradeColumns, time: int) -> None:
    """Handle the orders that reach the matching engine up to a time: they take at once, or expire."""
    at = next_open(sim, 0)
    while at >= 0:
        at_exchange = sim.at_exchange[at]
        order_id = at_exchange.order_id
        if at_exchange.phase == IN_TRANSIT and at_exchange.live_from <= time:
            _arrive(sim, trades, at)
        at = next_open(sim, order_id)


@compiled_part
def _arrive(sim: Record, trades: TradeColumns, at: int) -> None:
    order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
    at_exchange.reference = sim.last_price
    best = best_price(sim, order.side)
    sim.watch_is_stale = True
    if order.price == 0 or (best > 0 and is_within_limit(best, order.price, order.side)):
        _take(sim, trades, at, sim.row, best)
    else:
        end_order(sim, at, states.EXPIRED)


@compiled_part
def _trigger(sim: Record, trades: TradeColumns, at: int, row: int, worst: int) -> None:
    """Trigger an algo order: it becomes a market order that is in the matching engine at once.

    Args:
        row: the first trade that may fill it.
        worst: price of the trade that triggers it, ticks; 0 for a mark price.
    """
    order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
    at_exchange.algo_status = states.TRIGGERING
    add_order_event(sim, ALGO_UPDATED, at, states.TRIGGERING)
    if reducible_quantity(sim, order.side) == 0:
        at_exchange.code = -2022
        end_algo(sim, at, states.REJECTED)
        return
    sim.order_ids += 1
    at_exchange.order_id = sim.order_ids
    at_exchange.reference = sim.last_price
    end_algo(sim, at, states.TRIGGERED)
    at_exchange.status = states.NEW
    add_order_event(sim, ORDER_UPDATED, at, states.NEW)
    best = best_price(sim, order.side)
    _take(sim, trades, at, row, worse_price(best, worst, order.side) if worst else best)


@compiled_part
def _take(sim: Record, trades: TradeColumns, at: int, row: int, worst: int) -> None:
    """Fill an order from the trades ahead until it is done or its limit is reached.

    Args:
        row: the first trade that may fill it.
        worst: no fill is better than this price, before slippage.
    """
    order, at_exchange, settings = sim.symbols[0].orders[at], sim.at_exchange[at], sim.settings
    at_exchange.phase = TAKING
    until, wanted = sim.account.now + settings.fill_horizon_ms, order.quantity
    while at_exchange.phase == TAKING and wanted > 0:
        row, worst, price, lots, extrapolated = next_level(
            *(trades.price, trades.quantity, trades.time, trades.buyer_is_maker, row, until),
            *(order.side, worst, wanted, settings.slippage_e8),
        )
        if order.price == 0:
            is_beyond = is_beyond_take_bound(price, at_exchange.reference, order.side, settings.take_bound_e8)
        else:
            is_beyond = not is_within_limit(price, order.price, order.side)
        if is_beyond:
            end_order(sim, at, states.EXPIRED)
            return
        _fill(sim, at, price, lots, extrapolated)
        wanted -= lots


@compiled_part
def _fill(sim: Record, at: int, price: int, available: int, extrapolated: int) -> None:
    """Fill at most `available` lots of an order, of which no trade gave the last `extrapolated`."""
    order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
    reducible = reducible_quantity(sim, order.side)
    quantity: int = min(available, order.quantity - at_exchange.executed)
    if order.purpose != states.ENTRY:
        quantity = min(quantity, reducible)
    sim.taken += price * quantity
    sim.extrapolated += price * max(0, extrapolated - available + quantity)
    fee_amount = fee(price * quantity * sim.settings.money_per_ticklot, sim.settings.taker_fee_e8)
    closed = min(quantity, reducible)
    if closed:
        sim.added_margin -= proportion(sim.added_margin, closed, abs(sim.quantity))
    sim.quantity, sim.cost, realised = position_after(
        sim.quantity, sim.cost, order.side, price, quantity, sim.settings.money_per_ticklot
    )
    sim.wallet += realised - fee_amount
    at_exchange.executed += quantity
    at_exchange.executed_notional += price * quantity
    at_exchange.status = states.PARTIALLY_FILLED if at_exchange.executed < order.quantity else states.FILLED
    number = free_row(sim, sim.fill_count, len(sim.fills))
    fill = sim.fills[number]
    fill.time, fill.order, fill.side = sim.account.now, order.number, order.side
    fill.quantity, fill.price = quantity, price
    fill.fee, fill.realised = fee_amount, realised
    fill.executed, fill.executed_notional = at_exchange.executed, at_exchange.executed_notional
    fill.status = at_exchange.status
    sim.fill_count = number + 1
    event = add_order_event(sim, ORDER_UPDATED, at, at_exchange.status)
    event.trade_id, event.quantity, event.price, event.fee = sim.fills_written + number + 1, quantity, price, fee_amount
    event.realised = realised
    if at_exchange.status == states.FILLED:
        mark_ended(sim, at)
    _expire_idle_reduce_only(sim)


@compiled_part
def _expire_idle_reduce_only(sim: Record) -> None:
    """Expire reduce-only orders without a position to reduce."""
    at = next_open(sim, 0)
    while at >= 0:
        order = sim.symbols[0].orders[at]
        if order.purpose != states.ENTRY and reducible_quantity(sim, order.side) == 0:
            end_order(sim, at, states.EXPIRED)
        at = next_open(sim, sim.at_exchange[at].order_id)


@compiled_in_place
def next_funding(sim: Record, m: Market) -> int:
    """Return the number of the next mark price at which funding is due; the count of all where there is none."""
    while sim.fundings < len(m.funding_marks) and m.funding_marks[sim.fundings] < sim.mark:
        sim.fundings += 1
    return int(m.funding_marks[sim.fundings]) if sim.fundings < len(m.funding_marks) else len(m.marks)


@compiled_part
def on_mark_price(sim: Record, trades: TradeColumns, mark_e8: int, time: int, rate_e8: int) -> None:
    """Process a mark price: funding of a rate, 0 where none is due, then triggers, then liquidation."""
    sim.mark_e8 = mark_e8
    if sim.quantity == 0:
        return
    if rate_e8 != 0:
        _pay_funding(sim, rate_e8)
    if sim.settings.triggers_by_mark:
        _trigger_at(sim, trades, sim.row, mark_e8, sim.settings.tick_e8, time)
    if sim.quantity != 0 and is_liquidated(sim, _position_value(sim)):
        sim.unmodelled = LIQUIDATED


@compiled_part
def _position_value(sim: Record) -> int:
    """Return the position's value at the mark price, signed."""
    settings = sim.settings
    return value_at_mark(sim.quantity, settings.step_numerator, settings.step_denominator, sim.mark_e8)


@compiled_part
def _pay_funding(sim: Record, rate_e8: int) -> None:
    """Pay funding on the position's value at the mark price: longs pay a positive rate to shorts."""
    amount = funding_payment(_position_value(sim), rate_e8)
    if amount == 0:
        return
    sim.wallet += amount
    if sim.settings.isolated:
        sim.added_margin += amount
    add_event(sim, FUNDED).amount = amount


@compiled_part
def is_liquidated(sim: Record, value: int) -> bool:
    """Whether the margin of a position of this value (signed money) has fallen to its maintenance margin."""
    margin = sim.wallet
    if sim.settings.isolated:
        margin = divided_up(abs(sim.cost), sim.settings.leverage) + sim.added_margin
    number = 0
    while number < sim.settings.bracket_count - 1 and abs(value) > sim.settings.brackets[number].cap:
        number += 1
    bracket = sim.settings.brackets[number]
    maintenance = risk.mul_e8_ceil(abs(value), bracket.maintenance_e8) - bracket.deducted
    return bool(margin + value - sim.cost <= maintenance)
