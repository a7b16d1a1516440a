"""The compiled twin of `lockstep.Lockstep`: time passes along the tape, and commands and news are settled between.

Trades that nothing reacts to are passed over without being read: the exchange says which trade some order waits for,
and the core what it waits for. Bars come in finished; a level is tested against a bar's high and low first, then found
among the bar's own trades.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import types

from voltrade import risk
from voltrade.account import value_at_mark
from voltrade.compiled import BARE, Record, Rows, compile_for, compiled_in_place, compiled_part, prefetch, rows_of
from voltrade.exchange.execution import last_row_of_taker
from voltrade.model import NEVER, Bools, Int64s
from voltrade.simulation import core, exchange, monitor
from voltrade.simulation.rows import (
    BY_TIME,
    CANCEL,
    CANCELED,
    DESK,
    DONE,
    GIVEN_UP,
    MORE_ROOM,
    OF_ALGO,
    OF_ORDER,
    REFUSAL,
    SIGNAL,
    SNAPSHOT,
    SUBMIT,
    TABLES,
    TAPE_END,
    Market,
)

LEAP = 32
"""Bars or marks that are passed at once where the last of them may be: they lie in order of time."""


@compiled_part
def _execute(desk: Record, command: Record) -> None:
    """Carry out a command, and let the core hear the answer. The stream would say the same, which changes nothing."""
    at, kind = command.order, command.kind
    held = monitor.position(desk)
    desk.monitor_time = desk.now
    if kind == SNAPSHOT:
        core.on_snapshot(desk)
        return
    code = 0
    if kind == SUBMIT:
        desk.orders[at].answered = desk.now
        code = exchange.place_algo(desk, at) if exchange.is_algo(desk.orders[at]) else exchange.place_order(desk, at)
        if code:
            monitor.on_refused(desk, at, code)
    elif kind == CANCEL:
        code = exchange.cancel(desk, at)
        if code == 0:
            monitor.move(desk.orders[at], CANCELED)
        elif not monitor.is_done(desk.orders[at]):
            monitor.lookup(desk, at)
    else:
        monitor.on_looked_up(desk, at)
    if code == 0:
        monitor.hear_as_it_is(desk, at)
    else:
        monitor.tend(desk)
    core.after_orders(desk, held)


@compiled_part
def _settle(desk: Record) -> None:
    """Execute commands, then hear the news, until neither brings anything."""
    while desk.unmodelled == 0:
        while desk.next_command < desk.command_count:
            desk.next_command += 1
            _execute(desk, desk.commands[desk.next_command - 1])
        desk.next_command = desk.command_count = 0
        if desk.news_count == 0:
            return
        for number in range(desk.news_count):
            news = desk.news[number]
            if news.kind == OF_ALGO:
                core.on_algo(desk, news)
            elif news.kind == OF_ORDER:
                core.on_order(desk, news)
            else:
                core.on_funding(desk, news.price)
        desk.news_count = 0


@compiled_in_place
def _look_back(desk: Record, m: Market, row: int) -> None:
    """Note the last prices before the trade at `row`."""
    if row > 0:
        desk.last_price = m.price[row - 1]
    bought = last_row_of_taker(m.buyer_is_maker, 0, row, False)
    if bought >= 0:
        desk.last_bought = m.price[bought]
    sold = last_row_of_taker(m.buyer_is_maker, 0, row, True)
    if sold >= 0:
        desk.last_sold = m.price[sold]


@compiled_in_place
def _play_and_settle(desk: Record, m: Market, is_acting: bool) -> None:
    """Let the exchange play what the core has seen, then settle; `is_acting` says whether orders react to the last."""
    if is_acting:
        row = desk.row - 1
        _look_back(desk, m, row)
        exchange.on_trade(desk, m.price[row], m.quantity[row], m.time[row], -1 if m.buyer_is_maker[row] else 1)
        _settle(desk)
    elif desk.command_count or desk.news_count:
        _look_back(desk, m, desk.row)
        _settle(desk)


@compiled_in_place
def _fire_due(desk: Record, m: Market, before: int) -> bool:
    """Fire the timers due at or before a time; say whether one of them made a command, or ended the session."""
    due = core.next_due(desk)
    while due <= before and desk.unmodelled == 0:
        desk.now = max(desk.now, due)
        core.on_timer(desk)
        if desk.command_count or core.is_finished(desk):
            _play_and_settle(desk, m, False)
            return True
        due = core.next_due(desk)
    return False


@compiled_in_place
def _count_bars(desk: Record, m: Market, end: int) -> None:
    """Count the bars that trades before `end` have closed."""
    bars, count = desk.bars, len(m.closing_rows)
    while bars + LEAP < count and m.closing_rows[bars + LEAP] < end:
        bars += LEAP
    while bars < count and m.closing_rows[bars] < end:
        bars += 1
    desk.bars = bars


@compiled_in_place
def _expect_next(desk: Record, m: Market) -> None:
    """Wish for the trades that an entry on the next signal will meet: they are far from those of this one."""
    if desk.signal < len(m.signals):
        row = m.signals[desk.signal].row
        prefetch(m.buyer_is_maker, row)
        for column in (m.price, m.quantity, m.time):
            prefetch(column, row)
            prefetch(column, row + 8)


@compiled_in_place
def _see_trades(desk: Record, m: Market, end: int, due: int) -> None:
    """Let the core see trades before `end` and `due`, up to the first that closes a bar that something follows from."""
    if due < NEVER:
        end = desk.row + np.searchsorted(m.time[desk.row : end], due)
    closing = max(core.wake_at_bar(desk), desk.bars + 1) - 1
    if closing < len(m.closing_rows):
        end = min(end, m.closing_rows[closing] + 1)
    if desk.signal < len(m.signals):
        end = min(end, m.signals[desk.signal].row + 1)
    desk.row = end
    before = desk.bars
    _count_bars(desk, m, end)
    while desk.signal < len(m.signals) and m.signals[desk.signal].row < end:
        desk.now = max(desk.now, m.time[end - 1])
        desk.signal += 1
        _expect_next(desk, m)
        core.on_signal(desk, m, m.signals[desk.signal - 1])
    if desk.bars > before and desk.bars >= core.wake_at_bar(desk):
        desk.now = max(desk.now, m.time[end - 1])
        monitor.leave(desk, BY_TIME)


@compiled_in_place
def _run_segment(desk: Record, m: Market) -> bool:
    """Run to the next trade that an order reacts to, or mark price; say whether the tape has nothing more.

    What the trades before it are is read only where something is due or happens: there are too many to touch them all.
    """
    has_mark = desk.mark < len(m.mark_rows)
    end = m.mark_rows[desk.mark] if has_mark else len(m.price)
    acting = exchange.first_acting(desk, m, end)
    is_acting = acting < end
    if is_acting:
        end, has_mark = acting + 1, False
    is_last = end == len(m.price) and desk.mark + has_mark == len(m.mark_rows)
    last_time = m.mark_times[desk.mark] if has_mark else m.time[end - 1]
    while desk.row < end:
        due = core.next_due(desk)
        if due > last_time:
            due = NEVER
        elif _fire_due(desk, m, m.time[desk.row]):
            return False
        else:
            due = core.next_due(desk)
        _see_trades(desk, m, end, due)
        if desk.command_count:
            _play_and_settle(desk, m, is_acting and desk.row == end)
            return is_last and desk.row == end and not has_mark
    if has_mark and _fire_due(desk, m, last_time):
        return False
    desk.now = max(desk.now, last_time)
    if has_mark:
        _on_mark(desk, m)
    _play_and_settle(desk, m, is_acting)
    return is_last


@compiled_in_place
def _pass_marks(desk: Record, m: Market, equity: Rows) -> None:
    """Let the mark prices pass at which nothing happens but a valuation, as nearly all are.

    Only a faster way to do what `_run_segment` does; a mark at which anything else may happen is left to that.
    """
    if desk.watch_is_old:
        exchange.gather_watch(desk)
    if desk.is_busy or (desk.in_hand and desk.settings.triggers_by_mark):
        return
    stop = len(m.price)
    if desk.signal < len(m.signals):
        stop = min(stop, m.signals[desk.signal].row)
    closing = max(core.wake_at_bar(desk), desk.bars + 1) - 1
    if closing < len(m.closing_rows) and core.wake_at_bar(desk) < NEVER:
        stop = min(stop, m.closing_rows[closing])
    stop = exchange.first_acting(desk, m, stop)
    due = min(core.next_due(desk), risk.calm_until(desk.breaker, desk.holds))
    last, end = desk.mark, min(len(m.mark_rows), desk.mark + len(equity) - len(desk.equity) - desk.equity_written)
    is_flat = desk.quantity == 0  # then funding changes nothing
    while is_flat and last + LEAP < end and m.mark_rows[last + LEAP] <= stop and m.mark_times[last + LEAP] < due:
        last += LEAP
    while last < end and m.mark_rows[last] <= stop and m.mark_times[last] < due and (is_flat or m.fundings[last] == 0):
        last += 1
    passed = _note_marks(desk, m, last, equity) if is_flat else _value_at_marks(desk, m, last, equity)
    if passed == desk.mark:
        return
    desk.mark = passed
    desk.mark_e8 = desk.exchange_mark_e8 = m.mark_prices[passed - 1]
    desk.now, desk.row = m.mark_times[passed - 1], m.mark_rows[passed - 1]
    _count_bars(desk, m, desk.row)


@compiled_in_place
def _note_marks(desk: Record, m: Market, last: int, equity: Rows) -> int:
    """Write down the marks before `last` with no position to value, if the breaker stays calm; return the next mark."""
    mark, written, wallet = desk.mark, desk.equity_written, desk.wallet
    if mark == last or wallet <= risk.calm_above(desk.breaker, desk.holds, desk.breaker_rules):
        return int(mark)
    risk.take_in(desk.breaker, desk.holds, risk.EQUITY, wallet)
    step = last - 1 - mark if desk.settings.is_brief and last - mark > 2 else 1
    for number in range(mark, last, step):
        point = equity[written]
        point.time, point.wallet, point.unrealised = m.mark_times[number], wallet, 0
        point.position, point.at_mark = 0, True
        written += 1
    desk.equity_written = written
    return last


@compiled_in_place
def _value_at_marks(desk: Record, m: Market, last: int, equity: Rows) -> int:
    """Value the position at the marks before `last`, up to the first that trips the breaker or liquidates it.

    Margin shrinks faster than the maintenance margin does: what holds at one value holds at every better one.
    """
    quantity, cost, wallet, written, mark = desk.quantity, desk.cost, desk.wallet, desk.equity_written, desk.mark
    numerator, denominator = desk.settings.step_numerator, desk.settings.step_denominator
    floor, peak = risk.calm_above(desk.breaker, desk.holds, desk.breaker_rules), desk.breaker[0]["peak"]
    worth, safe, number = wallet, NEVER, mark
    while number < last:
        value = value_at_mark(quantity, numerator, denominator, m.mark_prices[number])
        unrealised = value - cost
        if unrealised < safe:
            if exchange.is_liquidated(desk, value):
                break
            safe = unrealised
        if wallet + unrealised <= floor:
            break
        worth = wallet + unrealised
        if worth > peak:
            peak = worth
            risk.take_in(desk.breaker, desk.holds, risk.EQUITY, worth)
            floor = risk.calm_above(desk.breaker, desk.holds, desk.breaker_rules)
        point = equity[written + number - mark]
        point.time, point.wallet, point.unrealised = m.mark_times[number], wallet, unrealised
        point.position, point.at_mark = quantity, True
        number += 1
    if number > mark:
        risk.take_in(desk.breaker, desk.holds, risk.EQUITY, worth)
    desk.equity_written = written + number - mark
    return int(number)


@compiled_in_place
def _on_mark(desk: Record, m: Market) -> None:
    """Let the core and then the exchange take the next mark price."""
    number = desk.mark
    desk.mark_e8 = m.mark_prices[number]
    desk.mark += 1
    core.value(desk)
    if desk.settings.triggers_by_mark and desk.in_hand:
        _look_back(desk, m, desk.row)
    exchange.play_mark(desk, m.mark_prices[number], m.mark_times[number], m.fundings[number], m.funding_rates[number])


@compiled_part
def _write_down(
    desk: Record, is_over: bool, orders: Rows, fills: Rows, trips: Rows, equity: Rows, changes: Rows, alerts: Rows
) -> None:
    """Move what was noted to the tables, and the orders once their round trip, or the session, is over."""
    for number in range(desk.fill_count):
        fills[desk.fills_written + number] = desk.fills[number]
        fills[desk.fills_written + number].order += desk.orders_written
    for number in range(desk.trip_count):
        trips[desk.trips_written + number] = desk.trips[number]
    for number in range(desk.equity_count):
        equity[desk.equity_written + number] = desk.equity[number]
    for number in range(desk.change_count):
        changes[desk.changes_written + number] = desk.changes[number]
    for number in range(desk.alert_count):
        alerts[desk.alerts_written + number] = desk.alerts[number]
        alerts[desk.alerts_written + number].order += desk.orders_written
    desk.fills_written += desk.fill_count
    desk.trips_written += desk.trip_count
    desk.equity_written += desk.equity_count
    desk.changes_written += desk.change_count
    desk.alerts_written += desk.alert_count
    desk.fill_count = desk.trip_count = desk.equity_count = desk.change_count = desk.alert_count = 0
    if not desk.in_hand or is_over:
        for number in range(desk.order_count):
            orders[desk.orders_written + number] = desk.orders[number]
        desk.orders_written += desk.order_count
        desk.order_count = 0


def _simulate(
    price: Int64s,
    quantity: Int64s,
    time: Int64s,
    buyer_is_maker: Bools,
    closing_rows: Int64s,
    high: Int64s,
    low: Int64s,
    mark_times: Int64s,
    mark_rows: Int64s,
    mark_prices: Int64s,
    fundings: Int64s,
    funding_rates: Int64s,
    signals: Rows,
    refusals: Rows,
    desks: Rows,
    orders: Rows,
    fills: Rows,
    trips: Rows,
    equity: Rows,
    changes: Rows,
    alerts: Rows,
) -> int:
    """Run on from where the desk stands; return DONE, MORE_ROOM or GIVEN_UP."""
    desk = desks[0]
    m = Market(
        price, quantity, time, buyer_is_maker, closing_rows, high, low, mark_times, mark_rows, mark_prices, fundings,
        funding_rates, signals, refusals,
    )  # fmt: skip
    is_over = False
    while desk.unmodelled == 0:
        _write_down(desk, is_over, orders, fills, trips, equity, changes, alerts)
        if is_over:
            return DONE
        if not (
            desk.orders_written + len(desk.orders) <= len(orders)
            and desk.fills_written + len(desk.fills) <= len(fills)
            and desk.trips_written + len(desk.trips) <= len(trips)
            and desk.equity_written + len(desk.equity) <= len(equity)
            and desk.changes_written + len(desk.changes) <= len(changes)
            and desk.alerts_written + len(desk.alerts) <= len(alerts)
        ):
            return MORE_ROOM
        if desk.has_ended or core.is_finished(desk):
            _end_session(desk, m)
            is_over = True
        else:
            _pass_marks(desk, m, equity)
            desk.has_ended = _run_segment(desk, m)
    return GIVEN_UP


@compiled_in_place
def _end_session(desk: Record, m: Market) -> None:
    """Where the tape ends before the session does, end by the policy; then nothing more is played."""
    _look_back(desk, m, desk.row)
    if not core.is_finished(desk):
        core.stop(desk, TAPE_END)
        _settle(desk)
    exchange.finish(desk)
    _settle(desk)


@cache
def simulate() -> Callable[..., int]:
    """`_simulate`, compiled when it is first needed."""
    whole, flag = (types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.bool_))
    columns = (whole, whole, whole, flag, *(whole,) * 8)
    rows = [rows_of(dtype) for dtype in (SIGNAL, REFUSAL, DESK, *TABLES.values())]
    return compile_for(_simulate, types.int64(*columns, *rows), nogil=True, **BARE)  # type: ignore[no-any-return]
