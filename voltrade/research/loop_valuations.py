"""Valuations at mark prices at which nothing else happens, as at nearly all of them.

In a sweep, where only the figures of a session are wanted, a block of mark prices without a new peak of equity is told
by its lowest valuation and its last: the largest fall of equity, and the equity at the end of each hour, are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from voltrade import risk
from voltrade.account import value_at_mark
from voltrade.compiled import Record, Rows, compiled, compiled_in_place
from voltrade.model import EQUITY_EVERY_MS, MINUTE_MS, NEVER, Int64s
from voltrade.orders import core_rules
from voltrade.research import loop_matching
from voltrade.research.loop_records import Market, first_at_least

BLOCK_MS = 15 * MINUTE_MS
"""Length of a block of mark prices; an hour has a whole number of them."""


class MarkBlocks(NamedTuple):
    """Consecutive mark prices, of a quarter of an hour each, as numbers of mark prices."""

    bounds: Int64s
    """The first of each block, then the number of all: one more than there are blocks."""
    lowest: Int64s
    highest: Int64s


def mark_blocks(time: Int64s, price_e8: Int64s) -> MarkBlocks:
    """Return the blocks of mark prices; each begins after the end of a quarter of an hour.

    There are none where two mark prices share a minute, since a session may leave out one of them (`EQUITY_EVERY_MS`).
    """
    if len(time) == 0 or (np.diff(time // EQUITY_EVERY_MS) == 0).any():
        return MarkBlocks(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    begins = np.flatnonzero(np.diff((time - 1) // BLOCK_MS)) + 1
    bounds = np.concatenate([[0], begins, [len(time)]]).astype(np.int64)
    return MarkBlocks(bounds, *_extremes(price_e8, bounds))


@compiled
def _extremes(price_e8: Int64s, bounds: Int64s) -> tuple[Int64s, Int64s]:
    lowest, highest = bounds[:-1].copy(), bounds[:-1].copy()
    for block in range(len(lowest)):
        for number in range(bounds[block], bounds[block + 1]):
            if price_e8[number] < price_e8[lowest[block]]:
                lowest[block] = number
            if price_e8[number] > price_e8[highest[block]]:
                highest[block] = number
    return lowest, highest


@compiled_in_place
def count_bars(sim: Record, m: Market, end: int) -> None:
    """Count the bars that trades before `end` have closed."""
    sim.symbols[0].bars = first_at_least(m.closing_rows, sim.symbols[0].bars, len(m.closing_rows), end)


@compiled_in_place
def skip_marks(sim: Record, m: Market, equity: Rows) -> None:
    """Process mark prices at which nothing happens but a valuation.

    The result is that of the loop's steps, only faster; mark prices at which more may happen are left to them.
    """
    if sim.watch_is_stale:
        loop_matching.update_watch(sim)
    if sim.is_busy or (sim.symbols[0].in_round_trip and sim.settings.triggers_by_mark):
        return
    is_flat = sim.symbols[0].quantity == 0
    end = min(len(m.marks), sim.mark + len(equity) - len(sim.account.equity) - sim.equity_written)
    if not is_flat:
        end = min(end, loop_matching.next_funding(sim, m), _next_at_last(sim, m))
    last = _first_mark_with_effect(sim, m, end)
    passed = _write_marks(sim, m, last, equity) if is_flat else _value_at_marks(sim, m, last, equity)
    if passed == sim.mark:
        return
    mark, sim.mark = m.marks[passed - 1], passed
    sim.symbols[0].mark_e8, sim.symbols[0].mark_is_last_price = mark.price_e8, mark.is_last_price
    sim.mark_e8, sim.account.now, sim.row = mark.price_e8, mark.time, mark.row
    count_bars(sim, m, sim.row)


@compiled_in_place
def _next_at_last(sim: Record, m: Market) -> int:
    """Return the next mark price that is the last trade's, where the breaker must note since when a limit is passed."""
    at = first_at_least(m.marks_at_last, 0, len(m.marks_at_last), sim.mark)
    return int(m.marks_at_last[at]) if at < len(m.marks_at_last) else len(m.marks)


@compiled_in_place
def _first_mark_with_effect(sim: Record, m: Market, end: int) -> int:
    """Return the first mark price before which a signal, a trade or a timer may have an effect; `end` for none."""
    last, stop, wake_at_bar = end, len(m.trades.price), core_rules.wake_at_bar(sim.symbols[0])
    if sim.signal < len(m.signals):
        signal = m.signals[sim.signal]
        last, stop = min(end, m.marks_at_bars[signal.bar]), signal.row
    closing = max(wake_at_bar, sim.symbols[0].bars + 1) - 1
    wakes = wake_at_bar < NEVER and closing < len(m.closing_rows)
    acting = loop_matching.next_acting_trade(sim, m, min(stop, m.closing_rows[closing]) if wakes else stop)
    if acting < stop:
        last = first_at_least(m.marks["row"], sim.mark, last, acting + 1)
    due = min(
        core_rules.next_due(sim.account, sim.symbols),
        risk.next_possible_trip_time(sim.account.breaker, sim.account.holds),
    )
    if last > sim.mark and m.marks[last - 1].time >= due:
        last = first_at_least(m.marks["time"], sim.mark, last, due)
    return max(last, int(sim.mark))


@compiled_in_place
def _write_marks(sim: Record, m: Market, last: int, equity: Rows) -> int:
    """Write valuations without a position before mark `last`, if the circuit breaker doesn't trip; return the next."""
    mark, written, account = sim.mark, sim.equity_written, sim.account
    wallet = account.wallet
    if mark == last or wallet <= risk.equity_floor(account.breaker, account.holds, account.breaker_rules):
        return int(mark)
    risk.update_measures(account.breaker, account.holds, risk.EQUITY, m.marks[last - 1].time, wallet)
    step = last - 1 - mark if sim.settings.is_brief and last - mark > 2 else 1
    for number in range(mark, last, step):
        _write_point(sim, m, equity[written], number, 0)
        written += 1
    if last - mark > 1:  # the first may share its minute with a valuation before
        sim.highest = max(sim.highest, wallet)
    sim.equity_written = written
    return last


@compiled_in_place
def _write_point(sim: Record, m: Market, point: Record, number: int, unrealised: int) -> None:
    """Write the valuation at a mark price."""
    point.time, point.wallet, point.unrealised = m.marks[number].time, sim.account.wallet, unrealised
    point.position, point.at_mark = sim.symbols[0].quantity, not m.marks[number].is_last_price


@compiled_in_place
def _unrealised(symbol: Record, mark_e8: int) -> int:
    value = value_at_mark(symbol.quantity, symbol.step_numerator, symbol.step_denominator, mark_e8)
    return int(value - symbol.cost)


@compiled_in_place
def _stretch(sim: Record, m: Market, number: int, last: int) -> tuple[int, int]:
    """Return the end of the block that begins with a mark price, and its worst mark price for the position.

    Where no block begins, or it ends after `last` or may hold a new peak of equity, the mark price stands for itself.
    """
    sim.block = first_at_least(m.block_bounds, sim.block, len(m.block_lowest), number)
    block, symbol = sim.block, sim.symbols[0]
    if block == len(m.block_lowest) or m.block_bounds[block] != number or m.block_bounds[block + 1] > last:
        return number + 1, number
    lowest, highest = m.block_lowest[block], m.block_highest[block]
    best, worst = (highest, lowest) if symbol.quantity > 0 else (lowest, highest)
    most = sim.account.wallet + _unrealised(symbol, m.marks[best].price_e8)
    if most > min(sim.account.breaker[0]["peak"], sim.highest):
        return number + 1, number
    return m.block_bounds[block + 1], worst


@compiled_in_place
def _value_at_marks(sim: Record, m: Market, last: int, equity: Rows) -> int:
    """Value the position at the marks before `last`, up to the first that trips the circuit breaker or liquidates it.

    Margin falls faster than the maintenance margin: a position that isn't liquidated at one value isn't at better ones.
    A better mark price never has a worse value, so a block's extremes bound all of its valuations.
    """
    account, symbol, number, one_by_one = sim.account, sim.symbols[0], sim.mark, sim.mark + 1
    wallet, worth, safe, written = account.wallet, account.wallet, NEVER, sim.equity_written
    floor = risk.equity_floor(account.breaker, account.holds, account.breaker_rules)
    while number < last:
        end, worst = number + 1, number
        if sim.settings.is_brief and number >= one_by_one:
            end, worst = _stretch(sim, m, number, last)
        unrealised = _unrealised(symbol, m.marks[worst].price_e8)
        if wallet + unrealised <= floor or (
            unrealised < safe and loop_matching.is_liquidated(sim, unrealised + symbol.cost)
        ):
            if end == number + 1:
                break
            one_by_one = end
            continue
        safe = min(safe, unrealised)
        _write_point(sim, m, equity[written], worst, unrealised)
        written += 1
        if worst < end - 1:
            unrealised = _unrealised(symbol, m.marks[end - 1].price_e8)
            _write_point(sim, m, equity[written], end - 1, unrealised)
            written += 1
        worth = wallet + unrealised
        if worth > account.breaker[0]["peak"]:
            risk.update_measures(account.breaker, account.holds, risk.EQUITY, m.marks[end - 1].time, worth)
            floor = risk.equity_floor(account.breaker, account.holds, account.breaker_rules)
        if number > sim.mark:  # the first may share its minute with a valuation before
            sim.highest = max(sim.highest, worth)
        number = end
    if number > sim.mark:
        risk.update_measures(account.breaker, account.holds, risk.EQUITY, m.marks[number - 1].time, worth)
    sim.equity_written = written
    return int(number)
