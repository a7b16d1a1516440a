"""The compiled twin of `simulated.exchange`: answers to commands, matching, valuation at a mark price.

One symbol, one account, and only the orders that a session sends: market and IOC entries, stops and take-profits that
reduce, market exits.
"""

from __future__ import annotations

from voltrade import order_states as states
from voltrade import risk
from voltrade.account import fee, funding_payment, position_after, proportion, value_at_mark
from voltrade.compiled import Record, compiled_in_place, compiled_part
from voltrade.model import NEVER
from voltrade.order_queries import is_algo
from voltrade.records import ALGO_UPDATED, FUNDED, ORDER_UPDATED
from voltrade.research.loop_records import ENDED, LIQUIDATED, NOT_EXPLAINED, TAKING, TRAVELLING, Market, free_row
from voltrade.simulated.fill_model import (
    first_acting_trade,
    is_beyond_take_bound,
    is_triggered,
    is_within_limit,
    slipped_price,
)

# --- answers ----------------------------------------------------------------------------------------------------------


@compiled_part
def _tell(sim: Record, kind: int, at: int, status: int) -> Record:
    """Let the news be heard of an order, or of a conditional one; return it."""
    news, truth = _add_news(sim, kind), sim.truth[at]
    news.order, news.status, news.reported = at, status, truth.executed
    news.order_id, news.time = truth.order_id, sim.account.now
    truth.updated = sim.account.now
    sim.watch_is_old = True
    return news


@compiled_part
def _add_news(sim: Record, kind: int) -> Record:
    """Return a row of news that says nothing yet but its kind."""
    number = free_row(sim, sim.news_count, len(sim.news))
    sim.news[number] = sim.no_event
    sim.news[number].kind = kind
    sim.news_count = number + 1
    return sim.news[number]


@compiled_part
def _best_price(sim: Record, side: int) -> int:
    """Price that an order of this side would take at; 0 before the first trade."""
    best = sim.last_bought if side > 0 else sim.last_sold
    return int(best if best else sim.last_price)


@compiled_part
def _value_price_e8(sim: Record) -> int:
    return int(sim.mark_e8 if sim.mark_e8 else sim.last_price * sim.settings.tick_e8)


@compiled_part
def _closable(sim: Record, side: int) -> int:
    return int(max(0, -side * sim.quantity))


@compiled_part
def _check_quantity(settings: Record, quantity: int, limit: bool) -> int:
    if quantity <= 0:
        return -4003
    if quantity < settings.min_quantity:
        return -4004
    return -4005 if quantity > (settings.max_quantity if limit else settings.market_max_quantity) else 0


@compiled_part
def _check_price(settings: Record, price: int) -> int:
    if price < settings.min_price:
        return -4013
    return -4002 if price > settings.max_price else 0


@compiled_part
def _is_outside_band(settings: Record, price_e8: int, mark_e8: int, side: int) -> bool:
    """Whether a price is beyond PERCENT_PRICE: a buy too high, a sell too low."""
    if side > 0:
        return price_e8 > risk.mul_e8_floor(mark_e8, settings.multiplier_up_e8)
    return price_e8 < risk.mul_e8_ceil(mark_e8, settings.multiplier_down_e8)


@compiled_part
def _check_order(sim: Record, at: int) -> int:
    order = sim.symbols[0].orders[at]
    is_limit = order.price > 0
    code = _check_quantity(sim.settings, order.quantity, is_limit)
    if code:
        return code
    mark_e8 = _value_price_e8(sim)
    if is_limit:
        code = _check_price(sim.settings, order.price)
        if code:
            return code
        if mark_e8 and _is_outside_band(sim.settings, order.price * sim.settings.tick_e8, mark_e8, order.side):
            return -4016 if order.side > 0 else -4024
    else:
        best_e8 = _best_price(sim, order.side) * sim.settings.tick_e8
        if best_e8 == 0 or mark_e8 == 0:
            return -2020
        if _is_outside_band(sim.settings, best_e8, mark_e8, order.side):
            return -4131
    if order.purpose != states.ENTRY:
        return -2022 if _closable(sim, order.side) == 0 else 0
    if is_limit:
        notional = order.price * order.quantity * sim.settings.money_per_ticklot
    else:
        notional = value_at_mark(order.quantity, sim.settings.step_numerator, sim.settings.step_denominator, mark_e8)
    if notional < sim.settings.min_notional:
        return -4164
    return _check_margin(sim, order.quantity * (order.price if is_limit else sim.last_price))


@compiled_part
def _check_margin(sim: Record, ticklots: int) -> int:
    """Whether there is margin for an entry of this notional; nothing else is open then."""
    if sim.quantity != 0:
        sim.unmodelled = NOT_EXPLAINED
    exposure = ticklots * sim.settings.money_per_ticklot
    if sim.wallet <= 0:
        return -2018
    if exposure > sim.settings.largest_notional:
        return -2027
    return -2019 if _divided_up(exposure, sim.settings.leverage) > sim.wallet else 0


@compiled_part
def _divided_up(amount: int, by: int) -> int:
    return -(-amount // by)


@compiled_part
def place_order(sim: Record, at: int) -> int:
    """Accept a market or limit order; return 0, or the code of the first rule that it breaks."""
    code = _check_order(sim, at)
    if code:
        return code
    truth = sim.truth[at]
    sim.order_ids += 1
    truth.order_id = sim.order_ids
    truth.live_from = sim.account.now + sim.settings.latency_ms
    truth.phase, truth.status, truth.updated = TRAVELLING, states.NEW, sim.account.now
    sim.watch_is_old = True
    return 0


@compiled_part
def _would_trigger_now(sim: Record, order: Record) -> bool:
    if sim.settings.triggers_by_mark and sim.mark_e8:
        return is_triggered(sim.mark_e8, order.trigger_price * sim.settings.tick_e8, _is_rising(order))
    last = sim.last_price
    return last > 0 and is_triggered(last, order.trigger_price, _is_rising(order))


@compiled_part
def _is_rising(order: Record) -> bool:
    return bool((order.purpose == states.STOP) == (order.side > 0))


@compiled_part
def place_algo(sim: Record, at: int) -> int:
    order, truth = sim.symbols[0].orders[at], sim.truth[at]
    code = _check_quantity(sim.settings, order.quantity, False)
    if code == 0:
        code = _check_price(sim.settings, order.trigger_price)
    if code == 0 and _closable(sim, order.side) == 0:
        code = -2022
    if code == 0 and _would_trigger_now(sim, order):
        code = -2021
    if code:
        return code
    sim.algo_ids += 1
    truth.algo_id = sim.algo_ids
    truth.live_from = sim.account.now + sim.settings.latency_ms
    truth.algo_status, truth.updated = states.NEW, sim.account.now
    sim.watch_is_old = True
    return 0


@compiled_part
def cancel(sim: Record, at: int) -> int:
    """Cancel an order that is open; return 0, or -2011."""
    truth = sim.truth[at]
    if is_algo(sim.symbols[0].orders[at]):
        if truth.algo_status != states.NEW:
            return -2011
        truth.algo_status = states.CANCELED
    elif truth.phase == TRAVELLING or truth.phase == TAKING:
        truth.phase, truth.status = ENDED, states.CANCELED
    else:
        return -2011
    truth.updated = sim.account.now
    sim.watch_is_old = True
    return 0


@compiled_part
def _end(sim: Record, at: int, status: int) -> None:
    sim.truth[at].status = status
    _tell(sim, ORDER_UPDATED, at, status)
    _close_books(sim, at)


@compiled_part
def _close_books(sim: Record, at: int) -> None:
    sim.truth[at].phase = ENDED
    sim.watch_is_old = True
    if is_algo(sim.symbols[0].orders[at]):
        _end_algo(sim, at, states.FINISHED)


@compiled_part
def _end_algo(sim: Record, at: int, status: int) -> None:
    sim.truth[at].algo_status = status
    _tell(sim, ALGO_UPDATED, at, status)


# --- matching ---------------------------------------------------------------------------------------------------------


@compiled_part
def gather_watch(sim: Record) -> None:
    """Gather what the open orders wait for; kept until an order changes."""
    sim.watch_is_old = False
    sim.arrival, sim.algo_arrival, sim.rises_to, sim.falls_to = NEVER, NEVER, NEVER, 0
    sim.taking_buys, sim.taking_sells = False, False
    for at in range(sim.symbols[0].order_count):
        order, truth = sim.symbols[0].orders[at], sim.truth[at]
        if truth.phase == TRAVELLING:
            sim.arrival = min(sim.arrival, truth.live_from)
        elif truth.phase == TAKING:
            if order.side > 0:
                sim.taking_buys = True
            else:
                sim.taking_sells = True
        if truth.algo_status == states.NEW and not sim.settings.triggers_by_mark:
            if not truth.arrived:
                sim.algo_arrival = min(sim.algo_arrival, truth.live_from)
            elif _is_rising(order):
                sim.rises_to = min(sim.rises_to, order.trigger_price)
            else:
                sim.falls_to = max(sim.falls_to, order.trigger_price)
    sim.is_busy = sim.taking_buys or sim.taking_sells or sim.arrival < NEVER
    sim.searched_to = 0


@compiled_in_place
def first_acting(sim: Record, m: Market, stop: int) -> int:
    """Find the first trade before `stop` that any order reacts to; else `stop`.

    That a conditional order arrives has no effect by itself: from then on its level counts.
    """
    if sim.watch_is_old:
        gather_watch(sim)
    row = sim.row
    while sim.is_busy or sim.algo_arrival < NEVER:
        row = first_acting_trade(
            m.price,
            m.time,
            m.buyer_is_maker,
            row,
            stop,
            min(sim.arrival, sim.algo_arrival),
            sim.rises_to,
            sim.falls_to,
            sim.taking_buys,
            sim.taking_sells,
        )
        if row == stop or sim.is_busy or m.time[row] < sim.algo_arrival:
            return row
        for at in range(sim.symbols[0].order_count):
            truth = sim.truth[at]
            truth.arrived = truth.arrived or m.time[row] >= truth.live_from
        gather_watch(sim)
    if sim.rises_to == NEVER and sim.falls_to == 0:
        return stop
    return _first_reaching(sim, m, row, stop)


@compiled_in_place
def _first_reaching(sim: Record, m: Market, row: int, stop: int) -> int:
    """Find the first trade from `row` on at or beyond a level: bar by bar, then among the trades of a bar that reaches.

    What was searched once isn't searched again until the levels change.
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
        while found < end and sim.falls_to < m.price[found] < sim.rises_to:
            found += 1
        sim.searched_to = found
        if found < end:
            return int(found)
    return stop


@compiled_part
def on_trade(sim: Record, price: int, quantity: int, time: int, side: int) -> None:
    """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
    for at in range(sim.symbols[0].order_count):
        truth = sim.truth[at]
        if truth.phase == TRAVELLING and time >= truth.live_from:
            _arrive(sim, at, price)
        if truth.algo_status == states.NEW and time >= truth.live_from:
            truth.arrived = True
    sim.watch_is_old = True
    sim.last_price = price
    if side > 0:
        sim.last_bought = price
    else:
        sim.last_sold = price
    newest = sim.order_ids
    if not sim.settings.triggers_by_mark:
        _trigger_at(sim, price, 1, time)
    last_id = 0
    while True:
        at = next_open(sim, last_id)
        if at < 0:
            return
        truth = sim.truth[at]
        last_id = truth.order_id
        if truth.phase == TAKING and (truth.order_id > newest or sim.symbols[0].orders[at].side == side):
            quantity -= _take(sim, at, price, quantity)


@compiled_part
def _trigger_at(sim: Record, price: int, unit: int, time: int) -> None:
    """Trigger what waits for a price, stops first; triggers are ticks of `unit`."""
    for purpose in (states.STOP, states.TAKE_PROFIT):
        for at in range(sim.symbols[0].order_count):
            order, truth = sim.symbols[0].orders[at], sim.truth[at]
            is_waiting = order.purpose == purpose and truth.algo_status == states.NEW and time >= truth.live_from
            if is_waiting and is_triggered(price, order.trigger_price * unit, _is_rising(order)):
                _trigger(sim, at)


@compiled_part
def next_open(sim: Record, after_id: int) -> int:
    """The open order with the smallest id above `after_id`; -1 for none."""
    found = -1
    for at in range(sim.symbols[0].order_count):
        truth = sim.truth[at]
        is_open = truth.phase == TRAVELLING or truth.phase == TAKING
        if is_open and truth.order_id > after_id and (found < 0 or truth.order_id < sim.truth[found].order_id):
            found = at
    return found


@compiled_part
def _arrive(sim: Record, at: int, price: int) -> None:
    """Let an order in before a trade, whose price serves on an empty tape."""
    order, truth = sim.symbols[0].orders[at], sim.truth[at]
    truth.reference = sim.last_price if sim.last_price else price
    best = _best_price(sim, order.side)
    if order.price == 0 or (best > 0 and is_within_limit(best, order.price, order.side)):
        truth.phase = TAKING
    else:
        _end(sim, at, states.EXPIRED)


@compiled_part
def _trigger(sim: Record, at: int) -> None:
    """Turn a conditional order into its child, a market order that is at the matching engine already."""
    truth = sim.truth[at]
    truth.algo_status = states.TRIGGERING
    _tell(sim, ALGO_UPDATED, at, states.TRIGGERING)
    if _closable(sim, sim.symbols[0].orders[at].side) == 0:
        truth.code = -2022
        _end_algo(sim, at, states.REJECTED)
        return
    sim.order_ids += 1
    truth.order_id = sim.order_ids
    truth.phase = TAKING
    truth.reference = sim.last_price
    _end_algo(sim, at, states.TRIGGERED)
    truth.status = states.NEW
    _tell(sim, ORDER_UPDATED, at, states.NEW)


@compiled_part
def _take(sim: Record, at: int, price: int, available: int) -> int:
    """Fill an order from a trade; return the lots it took."""
    order, reference = sim.symbols[0].orders[at], sim.truth[at].reference
    fill_price = slipped_price(price, order.side, sim.settings.slippage_e8)
    if order.price == 0:
        if is_beyond_take_bound(fill_price, reference or price, order.side, sim.settings.take_bound_e8):
            _end(sim, at, states.EXPIRED)
            return 0
    elif not is_within_limit(fill_price, order.price, order.side):
        _end(sim, at, states.EXPIRED)
        return 0
    return _fill(sim, at, fill_price, available)


@compiled_part
def _fill(sim: Record, at: int, price: int, available: int) -> int:
    """Fill an order by at most `available` lots and book it; return the lots."""
    order, truth = sim.symbols[0].orders[at], sim.truth[at]
    closable = _closable(sim, order.side)
    quantity: int = min(available, order.quantity - truth.executed)
    if order.purpose != states.ENTRY:
        quantity = min(quantity, closable)
    if quantity == 0:
        return 0
    cost = fee(price * quantity * sim.settings.money_per_ticklot, sim.settings.taker_fee_e8)
    closed = min(quantity, closable)
    if closed:
        sim.added_margin -= proportion(sim.added_margin, closed, abs(sim.quantity))
    sim.quantity, sim.cost, realised = position_after(
        sim.quantity, sim.cost, order.side, price, quantity, sim.settings.money_per_ticklot
    )
    sim.wallet += realised - cost
    truth.executed += quantity
    truth.executed_notional += price * quantity
    truth.status = states.PARTIALLY_FILLED if truth.executed < order.quantity else states.FILLED
    number = free_row(sim, sim.fill_count, len(sim.fills))
    fill = sim.fills[number]
    fill.time, fill.order, fill.quantity, fill.price, fill.fee = sim.account.now, order.number, quantity, price, cost
    fill.realised, fill.executed, fill.executed_notional = realised, truth.executed, truth.executed_notional
    fill.status = truth.status
    sim.fill_count = number + 1
    news = _tell(sim, ORDER_UPDATED, at, truth.status)
    news.trade_id, news.quantity, news.price, news.fee = sim.fills_written + number + 1, quantity, price, cost
    news.realised = realised
    if truth.status == states.FILLED:
        _close_books(sim, at)
    _expire_idle_reduce_only(sim)
    return quantity


@compiled_part
def _expire_idle_reduce_only(sim: Record) -> None:
    """Expire reduce-only orders that have nothing left to reduce."""
    at = next_open(sim, 0)
    while at >= 0:
        order = sim.symbols[0].orders[at]
        if order.purpose != states.ENTRY and _closable(sim, order.side) == 0:
            _end(sim, at, states.EXPIRED)
        at = next_open(sim, sim.truth[at].order_id)


@compiled_part
def play_mark(sim: Record, mark_e8: int, time: int, fundings: int, rate_e8: int) -> None:
    """Take a mark price: funding that is due, then triggers, then liquidation."""
    sim.mark_e8 = mark_e8
    if sim.quantity == 0:
        return
    for _ in range(fundings):
        _pay_funding(sim, rate_e8)
    if sim.settings.triggers_by_mark:
        _trigger_at(sim, mark_e8, sim.settings.tick_e8, time)
    if is_liquidated(sim, _position_value(sim)):
        sim.unmodelled = LIQUIDATED


@compiled_part
def _position_value(sim: Record) -> int:
    """Signed money of the exchange's position at the mark."""
    settings = sim.settings
    return value_at_mark(sim.quantity, settings.step_numerator, settings.step_denominator, sim.mark_e8)


@compiled_part
def _pay_funding(sim: Record, rate_e8: int) -> None:
    """Book funding on the position's value at the mark: longs pay a positive rate to shorts."""
    amount = funding_payment(_position_value(sim), rate_e8)
    if amount == 0:
        return
    sim.wallet += amount
    if sim.settings.isolated:
        sim.added_margin += amount
    _add_news(sim, FUNDED).amount = amount


@compiled_part
def is_liquidated(sim: Record, value: int) -> bool:
    """Whether the margin of a position of this value (signed money) is down to its maintenance margin."""
    margin = sim.wallet
    if sim.settings.isolated:
        margin = _divided_up(abs(sim.cost), sim.settings.leverage) + sim.added_margin
    number = 0
    while number < sim.settings.bracket_count - 1 and abs(value) > sim.settings.brackets[number].cap:
        number += 1
    bracket = sim.settings.brackets[number]
    maintenance = risk.mul_e8_ceil(abs(value), bracket.maintenance_e8) - bracket.deducted
    return bool(margin + value - sim.cost <= maintenance)


@compiled_part
def finish(sim: Record) -> None:
    """End the tape: open market orders fill at the last price of the other side, IOC expire."""
    at = next_open(sim, 0)
    while at >= 0:
        order = sim.symbols[0].orders[at]
        price = _best_price(sim, order.side)
        if order.price == 0 and price > 0:
            _fill(sim, at, slipped_price(price, order.side, sim.settings.slippage_e8), order.quantity)
        else:
            _end(sim, at, states.EXPIRED)
        at = next_open(sim, sim.truth[at].order_id)
