"""The compiled twin of `exchange.simulated`: answers to commands, matching, valuation at a mark price.

One symbol, one account, and only the orders that a session sends: market and IOC entries, stops and take-profits that
reduce, market exits.
"""

from __future__ import annotations

from voltrade import risk
from voltrade.account import fee, funding_payment, position_after, proportion, value_at_mark
from voltrade.compiled import Record, compiled_in_place, compiled_part
from voltrade.exchange.execution import (
    first_acting_trade,
    is_beyond_take_bound,
    is_triggered,
    is_within_limit,
    slipped_price,
)
from voltrade.model import NEVER
from voltrade.simulation.rows import (
    CANCELED,
    ENDED,
    ENTRY,
    EXPIRED,
    FILLED,
    FINISHED,
    LIQUIDATED,
    NEW,
    NOT_EXPLAINED,
    OF_ALGO,
    OF_FUNDING,
    OF_ORDER,
    PARTIALLY_FILLED,
    REJECTED,
    STOP,
    TAKE_PROFIT,
    TAKING,
    TRAVELLING,
    TRIGGERED,
    TRIGGERING,
    Market,
    free_row,
)

# --- answers ----------------------------------------------------------------------------------------------------------


@compiled_part
def is_algo(order: Record) -> bool:
    return bool(order.purpose in (STOP, TAKE_PROFIT))


@compiled_part
def _tell(desk: Record, kind: int, at: int, status: int) -> None:
    """Let the news be heard of an order, or of a conditional one."""
    number = free_row(desk, desk.news_count, len(desk.news))
    news, order = desk.news[number], desk.orders[at]
    news.kind, news.order, news.status, news.executed = kind, at, status, order.executed
    news.order_id, news.trade_id = order.order_id, 0
    order.updated = desk.now
    desk.watch_is_old = True
    desk.news_count = number + 1


@compiled_part
def _best_price(desk: Record, side: int) -> int:
    """Price that an order of this side would take at; 0 before the first trade."""
    best = desk.last_bought if side > 0 else desk.last_sold
    return int(best if best else desk.last_price)


@compiled_part
def _value_price_e8(desk: Record) -> int:
    return int(desk.exchange_mark_e8 if desk.exchange_mark_e8 else desk.last_price * desk.settings.tick_e8)


@compiled_part
def _closable(desk: Record, side: int) -> int:
    return int(max(0, -side * desk.exchange_quantity))


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
        return price_e8 > risk.share(mark_e8, settings.multiplier_up_e8)
    return price_e8 < risk.share_up(mark_e8, settings.multiplier_down_e8)


@compiled_part
def _check_order(desk: Record, at: int) -> int:
    order = desk.orders[at]
    is_limit = order.price > 0
    code = _check_quantity(desk.settings, order.quantity, is_limit)
    if code:
        return code
    mark_e8 = _value_price_e8(desk)
    if is_limit:
        code = _check_price(desk.settings, order.price)
        if code:
            return code
        if mark_e8 and _is_outside_band(desk.settings, order.price * desk.settings.tick_e8, mark_e8, order.side):
            return -4016 if order.side > 0 else -4024
    else:
        best_e8 = _best_price(desk, order.side) * desk.settings.tick_e8
        if best_e8 == 0 or mark_e8 == 0:
            return -2020
        if _is_outside_band(desk.settings, best_e8, mark_e8, order.side):
            return -4131
    if order.purpose != ENTRY:
        return -2022 if _closable(desk, order.side) == 0 else 0
    if is_limit:
        notional = order.price * order.quantity * desk.settings.money_per_ticklot
    else:
        notional = value_at_mark(order.quantity, desk.settings.step_numerator, desk.settings.step_denominator, mark_e8)
    if notional < desk.settings.min_notional:
        return -4164
    return _check_margin(desk, order.quantity * (order.price if is_limit else desk.last_price))


@compiled_part
def _check_margin(desk: Record, ticklots: int) -> int:
    """Whether there is margin for an entry of this notional; nothing else is open then."""
    if desk.exchange_quantity != 0:
        desk.unmodelled = NOT_EXPLAINED
    exposure = ticklots * desk.settings.money_per_ticklot
    if desk.exchange_wallet <= 0:
        return -2018
    if exposure > desk.settings.largest_notional:
        return -2027
    return -2019 if _divided_up(exposure, desk.settings.leverage) > desk.exchange_wallet else 0


@compiled_part
def _divided_up(amount: int, by: int) -> int:
    return -(-amount // by)


@compiled_part
def place_order(desk: Record, at: int) -> int:
    """Accept a market or limit order; return 0, or the code of the first rule that it breaks."""
    code = _check_order(desk, at)
    if code:
        return code
    order = desk.orders[at]
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.live_from = desk.now + desk.settings.latency_ms
    order.phase, order.status, order.updated = TRAVELLING, NEW, desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def _would_trigger_now(desk: Record, at: int) -> bool:
    order = desk.orders[at]
    if desk.settings.triggers_by_mark and desk.exchange_mark_e8:
        return is_triggered(desk.exchange_mark_e8, order.trigger_price * desk.settings.tick_e8, _is_rising(order))
    last = desk.last_price
    return last > 0 and is_triggered(last, order.trigger_price, _is_rising(order))


@compiled_part
def _is_rising(order: Record) -> bool:
    return bool((order.purpose == STOP) == (order.side > 0))


@compiled_part
def place_algo(desk: Record, at: int) -> int:
    order = desk.orders[at]
    code = _check_quantity(desk.settings, order.quantity, False)
    if code == 0:
        code = _check_price(desk.settings, order.trigger_price)
    if code == 0 and _closable(desk, order.side) == 0:
        code = -2022
    if code == 0 and _would_trigger_now(desk, at):
        code = -2021
    if code:
        return code
    desk.algo_ids += 1
    order.algo_id = desk.algo_ids
    order.live_from = desk.now + desk.settings.latency_ms
    order.algo_status, order.updated = NEW, desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def cancel(desk: Record, at: int) -> int:
    """Cancel an order that is open; return 0, or -2011."""
    order = desk.orders[at]
    if is_algo(order):
        if order.algo_status != NEW:
            return -2011
        order.algo_status = CANCELED
    elif order.phase == TRAVELLING or order.phase == TAKING:
        order.phase, order.status = ENDED, CANCELED
    else:
        return -2011
    order.updated = desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def _end(desk: Record, at: int, status: int) -> None:
    desk.orders[at].status = status
    _tell(desk, OF_ORDER, at, desk.orders[at].status)
    _close_books(desk, at)


@compiled_part
def _close_books(desk: Record, at: int) -> None:
    order = desk.orders[at]
    order.phase = ENDED
    desk.watch_is_old = True
    if is_algo(order):
        _end_algo(desk, at, FINISHED)


@compiled_part
def _end_algo(desk: Record, at: int, status: int) -> None:
    desk.orders[at].algo_status = status
    _tell(desk, OF_ALGO, at, desk.orders[at].algo_status)


# --- matching ---------------------------------------------------------------------------------------------------------


@compiled_part
def gather_watch(desk: Record) -> None:
    """Gather what the open orders wait for; kept until an order changes."""
    desk.watch_is_old = False
    desk.arrival, desk.algo_arrival, desk.rises_to, desk.falls_to = NEVER, NEVER, NEVER, 0
    desk.taking_buys, desk.taking_sells = False, False
    for at in range(desk.order_count):
        order = desk.orders[at]
        if order.phase == TRAVELLING:
            desk.arrival = min(desk.arrival, order.live_from)
        elif order.phase == TAKING:
            if order.side > 0:
                desk.taking_buys = True
            else:
                desk.taking_sells = True
        if order.algo_status == NEW and not desk.settings.triggers_by_mark:
            if not order.arrived:
                desk.algo_arrival = min(desk.algo_arrival, order.live_from)
            elif _is_rising(order):
                desk.rises_to = min(desk.rises_to, order.trigger_price)
            else:
                desk.falls_to = max(desk.falls_to, order.trigger_price)
    desk.is_busy = desk.taking_buys or desk.taking_sells or desk.arrival < NEVER
    desk.searched_to = 0


@compiled_in_place
def first_acting(desk: Record, m: Market, stop: int) -> int:
    """Find the first trade before `stop` that any order reacts to; else `stop`.

    That a conditional order arrives has no effect by itself: from then on its level counts.
    """
    if desk.watch_is_old:
        gather_watch(desk)
    row = desk.row
    while desk.is_busy or desk.algo_arrival < NEVER:
        row = first_acting_trade(
            m.price,
            m.time,
            m.buyer_is_maker,
            row,
            stop,
            min(desk.arrival, desk.algo_arrival),
            desk.rises_to,
            desk.falls_to,
            desk.taking_buys,
            desk.taking_sells,
        )
        if row == stop or desk.is_busy or m.time[row] < desk.algo_arrival:
            return row
        for at in range(desk.order_count):
            order = desk.orders[at]
            order.arrived = order.arrived or m.time[row] >= order.live_from
        gather_watch(desk)
    if desk.rises_to == NEVER and desk.falls_to == 0:
        return stop
    return _first_reaching(desk, m, row, stop)


@compiled_in_place
def _first_reaching(desk: Record, m: Market, row: int, stop: int) -> int:
    """Find the first trade from `row` on at or beyond a level: bar by bar, then among the trades of a bar that reaches.

    What was searched once isn't searched again until the levels change.
    """
    if desk.searched_to < row:
        desk.searched_to = row
        desk.search_bar = desk.bars
    bars = len(m.closing_rows)
    while desk.searched_to < stop:
        while desk.search_bar < bars and m.closing_rows[desk.search_bar] < desk.searched_to:
            desk.search_bar += 1
        bar = desk.search_bar
        end = stop
        if bar < bars:
            end = m.closing_rows[bar] + 1
            if m.high[bar] < desk.rises_to and m.low[bar] > desk.falls_to:
                desk.searched_to = end
                continue
            end = min(end, stop)
        found = desk.searched_to
        while found < end and desk.falls_to < m.price[found] < desk.rises_to:
            found += 1
        desk.searched_to = found
        if found < end:
            return int(found)
    return stop


@compiled_part
def on_trade(desk: Record, price: int, quantity: int, time: int, side: int) -> None:
    """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
    for at in range(desk.order_count):
        order = desk.orders[at]
        if order.phase == TRAVELLING and time >= order.live_from:
            _arrive(desk, at, price)
        if order.algo_status == NEW and time >= order.live_from:
            order.arrived = True
    desk.watch_is_old = True
    desk.last_price = price
    if side > 0:
        desk.last_bought = price
    else:
        desk.last_sold = price
    newest = desk.order_ids
    if not desk.settings.triggers_by_mark:
        for purpose in (STOP, TAKE_PROFIT):
            for at in range(desk.order_count):
                order = desk.orders[at]
                is_waiting = order.purpose == purpose and order.algo_status == NEW and time >= order.live_from
                if is_waiting and is_triggered(price, order.trigger_price, _is_rising(order)):
                    _trigger(desk, at)
    last_id = 0
    while True:
        at = next_open(desk, last_id)
        if at < 0:
            return
        order = desk.orders[at]
        last_id = order.order_id
        if order.phase == TAKING and (order.order_id > newest or order.side == side):
            quantity -= _take(desk, at, price, quantity)


@compiled_part
def next_open(desk: Record, after_id: int) -> int:
    """The open order with the smallest id above `after_id`; -1 for none."""
    found = -1
    for at in range(desk.order_count):
        order = desk.orders[at]
        is_open = order.phase == TRAVELLING or order.phase == TAKING
        if is_open and order.order_id > after_id and (found < 0 or order.order_id < desk.orders[found].order_id):
            found = at
    return found


@compiled_part
def _arrive(desk: Record, at: int, price: int) -> None:
    """Let an order in before a trade, whose price serves on an empty tape."""
    order = desk.orders[at]
    order.reference = desk.last_price if desk.last_price else price
    best = _best_price(desk, order.side)
    if order.price == 0 or (best > 0 and is_within_limit(best, order.price, order.side)):
        order.phase = TAKING
    else:
        _end(desk, at, EXPIRED)


@compiled_part
def _trigger(desk: Record, at: int) -> None:
    """Turn a conditional order into its child, a market order that is at the matching engine already."""
    order = desk.orders[at]
    order.algo_status = TRIGGERING
    _tell(desk, OF_ALGO, at, desk.orders[at].algo_status)
    if _closable(desk, order.side) == 0:
        order.code = -2022
        _end_algo(desk, at, REJECTED)
        return
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.phase = TAKING
    order.reference = desk.last_price
    _end_algo(desk, at, TRIGGERED)
    order.status = NEW
    _tell(desk, OF_ORDER, at, desk.orders[at].status)


@compiled_part
def _take(desk: Record, at: int, price: int, available: int) -> int:
    """Fill an order from a trade; return the lots it took."""
    order = desk.orders[at]
    fill_price = slipped_price(price, order.side, desk.settings.slippage_e8)
    if order.price == 0:
        reference = order.reference if order.reference else price
        if is_beyond_take_bound(fill_price, reference, order.side, desk.settings.take_bound_e8):
            _end(desk, at, EXPIRED)
            return 0
    elif not is_within_limit(fill_price, order.price, order.side):
        _end(desk, at, EXPIRED)
        return 0
    return _fill(desk, at, fill_price, available)


@compiled_part
def _fill(desk: Record, at: int, price: int, available: int) -> int:
    """Fill an order by at most `available` lots and book it; return the lots."""
    order = desk.orders[at]
    quantity: int = min(available, order.quantity - order.executed)
    if order.purpose != ENTRY:
        quantity = min(quantity, _closable(desk, order.side))
    if quantity == 0:
        return 0
    cost = fee(price * quantity * desk.settings.money_per_ticklot, desk.settings.taker_fee_e8)
    closed = min(quantity, _closable(desk, order.side))
    if closed:
        desk.added_margin -= proportion(desk.added_margin, closed, abs(desk.exchange_quantity))
    desk.exchange_quantity, desk.exchange_cost, realised = position_after(
        desk.exchange_quantity, desk.exchange_cost, order.side, price, quantity, desk.settings.money_per_ticklot
    )
    desk.exchange_wallet += realised - cost
    order.executed += quantity
    order.executed_notional += price * quantity
    order.status = PARTIALLY_FILLED if order.executed < order.quantity else FILLED
    number = free_row(desk, desk.fill_count, len(desk.fills))
    fill = desk.fills[number]
    fill.time, fill.order, fill.quantity, fill.price, fill.fee = desk.now, at, quantity, price, cost
    fill.realised, fill.executed, fill.executed_notional = realised, order.executed, order.executed_notional
    fill.status = order.status
    desk.fill_count = number + 1
    _tell(desk, OF_ORDER, at, order.status)
    news = desk.news[desk.news_count - 1]
    news.trade_id, news.quantity, news.price, news.fee = desk.fills_written + number + 1, quantity, price, cost
    if order.status == FILLED:
        _close_books(desk, at)
    _expire_idle_reduce_only(desk)
    return quantity


@compiled_part
def _expire_idle_reduce_only(desk: Record) -> None:
    """Expire reduce-only orders that have nothing left to reduce."""
    at = next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        if order.purpose != ENTRY and _closable(desk, order.side) == 0:
            _end(desk, at, EXPIRED)
        at = next_open(desk, order.order_id)


@compiled_part
def play_mark(desk: Record, mark_e8: int, time: int, fundings: int, rate_e8: int) -> None:
    """Take a mark price: funding that is due, then triggers, then liquidation."""
    desk.exchange_mark_e8 = mark_e8
    if desk.exchange_quantity == 0:
        return
    for _ in range(fundings):
        _pay_funding(desk, rate_e8)
    if desk.settings.triggers_by_mark:
        _trigger_by_mark(desk, mark_e8, time)
    if is_liquidated(desk, _position_value(desk)):
        desk.unmodelled = LIQUIDATED


@compiled_part
def _position_value(desk: Record) -> int:
    """Signed money of the exchange's position at the mark."""
    settings = desk.settings
    return value_at_mark(
        desk.exchange_quantity, settings.step_numerator, settings.step_denominator, desk.exchange_mark_e8
    )


@compiled_part
def _pay_funding(desk: Record, rate_e8: int) -> None:
    """Book funding on the position's value at the mark: longs pay a positive rate to shorts."""
    amount = funding_payment(_position_value(desk), rate_e8)
    if amount == 0:
        return
    desk.exchange_wallet += amount
    if desk.settings.isolated:
        desk.added_margin += amount
    number = free_row(desk, desk.news_count, len(desk.news))
    news = desk.news[number]
    news.kind, news.order, news.trade_id, news.price = OF_FUNDING, -1, 0, desk.exchange_wallet
    desk.news_count = number + 1


@compiled_part
def is_liquidated(desk: Record, value: int) -> bool:
    """Whether the margin of a position of this value (signed money) is down to its maintenance margin."""
    margin = desk.exchange_wallet
    if desk.settings.isolated:
        margin = _divided_up(abs(desk.exchange_cost), desk.settings.leverage) + desk.added_margin
    number = 0
    while number < desk.settings.bracket_count - 1 and abs(value) > desk.settings.brackets[number].cap:
        number += 1
    bracket = desk.settings.brackets[number]
    maintenance = risk.share_up(abs(value), bracket.maintenance_e8) - bracket.deducted
    return bool(margin + value - desk.exchange_cost <= maintenance)


@compiled_part
def _trigger_by_mark(desk: Record, mark_e8: int, time: int) -> None:
    for purpose in (STOP, TAKE_PROFIT):
        for at in range(desk.order_count):
            order = desk.orders[at]
            is_waiting = order.purpose == purpose and order.algo_status == NEW and time >= order.live_from
            if is_waiting and is_triggered(mark_e8, order.trigger_price * desk.settings.tick_e8, _is_rising(order)):
                _trigger(desk, at)


@compiled_part
def finish(desk: Record) -> None:
    """End the tape: open market orders fill at the last price of the other side, IOC expire."""
    at = next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        price = _best_price(desk, order.side)
        if order.price == 0 and price > 0:
            _fill(desk, at, slipped_price(price, order.side, desk.settings.slippage_e8), order.quantity)
        else:
            _end(desk, at, EXPIRED)
        at = next_open(desk, order.order_id)
