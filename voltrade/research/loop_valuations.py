"""Valuations at mark prices at which nothing else happens, as at nearly all of them.

In a sweep, where only the figures of a session are wanted, a block of mark prices without a new peak of equity is told
by its lowest valuation, and by its last at the end of an hour or where more happens: the largest fall of equity, and
the equity at the end of each hour, are the same.
"""

from __future__ import annotations

import numpy as np

from voltrade import risk
from voltrade.account import value_at_mark
from voltrade.compiled import Record, Rows, compiled, compiled_in_place
from voltrade.model import EQUITY_EVERY_MS, HOUR_MS, MINUTE_MS, NEVER, Int64s
from voltrade.orders import core_rules
from voltrade.research import loop_matching
from voltrade.research.loop_records import BLOCK, Market, first_at_least

BLOCK_MS = 15 * MINUTE_MS
"""Length of a block of mark prices; an hour has a whole number of them."""


def mark_blocks(time: Int64s, price_e8: Int64s) -> Rows:
    """Return the blocks of mark prices, rows of BLOCK; each begins after the end of a quarter of an hour.

    There are none where two mark prices share a minute, since a session may leave out one of them (`EQUITY_EVERY_MS`).
    """
    if len(time) == 0 or (np.diff(time // EQUITY_EVERY_MS) == 0).any():
        return np.zeros(1, BLOCK)
    begins = np.flatnonzero(np.diff((time - 1) // BLOCK_MS)) + 1
    blocks = np.zeros(len(begins) + 2, BLOCK)
    blocks["first"][1:-1], blocks["first"][-1] = begins, len(time)
    hours = (time - 1) // HOUR_MS
    blocks["ends_hour"][:-2] = hours[begins - 1] < hours[begins]
    blocks["ends_hour"][-2] = True
    _find_extremes(price_e8, blocks)
    return blocks


@compiled
def _find_extremes(price_e8: Int64s, blocks: Rows) -> None:
    for number in range(len(blocks) - 1):
        block, first = blocks[number], blocks[number].first
        lowest, highest = first, first
        for mark in range(first, blocks[number + 1].first):
            if price_e8[mark] < price_e8[lowest]:
                lowest = mark
            if price_e8[mark] > price_e8[highest]:
                highest = mark
        block.lowest, block.lowest_e8 = lowest, price_e8[lowest]
        block.highest, block.highest_e8 = highest, price_e8[highest]


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
    sim.symbols[0].bars = mark.bars


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
        last = first_at_least(m.marks["row"], min(last, _mark_before(sim, m, acting)), last, acting + 1)
    due = min(
        core_rules.next_due(sim.account, sim.symbols),
        risk.next_possible_trip_time(sim.account.breaker, sim.account.holds),
    )
    if last > sim.mark and m.marks[last - 1].time >= due:
        last = first_at_least(m.marks["time"], sim.mark, last, due)
    return max(last, int(sim.mark))


@compiled_in_place
def _mark_before(sim: Record, m: Market, row: int) -> int:
    """Return from which mark price on to search for the first after the trade at `row`: the next one or, where the bars
    up to the trade were just searched, the first after the bar before."""
    bar = sim.search_bar - 1
    if bar < 0 or m.closing_rows[bar] > row:
        return int(sim.mark)
    return max(int(sim.mark), int(m.marks_at_bars[bar]))


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
def _block_at(sim: Record, m: Market, number: int, last: int) -> int:
    """Return the block that begins with a mark price; -1 where none does, or it ends after `last` or may hold a new
    peak of equity."""
    sim.block = first_at_least(m.blocks["first"], sim.block, len(m.blocks) - 1, number)
    block, symbol = sim.block, sim.symbols[0]
    if block == len(m.blocks) - 1 or m.blocks[block].first != number or m.blocks[block + 1].first > last:
        return -1
    best_e8 = m.blocks[block].highest_e8 if symbol.quantity > 0 else m.blocks[block].lowest_e8
    most = sim.account.wallet + _unrealised(symbol, best_e8)
    return int(block) if most <= min(sim.account.breaker[0]["peak"], sim.highest) else -1


@compiled_in_place
def _worst_of(sim: Record, m: Market, number: int, block: int) -> tuple[int, int]:
    """Return the worst mark price for the position, its number and price: of a block, or of one mark price for -1."""
    if block < 0:
        return number, m.marks[number].price_e8
    if sim.symbols[0].quantity > 0:
        return m.blocks[block].lowest, m.blocks[block].lowest_e8
    return m.blocks[block].highest, m.blocks[block].highest_e8


@compiled_in_place
def _value_at_marks(sim: Record, m: Market, last: int, equity: Rows) -> int:
    """Value the position at the marks before `last`, up to the first that trips the circuit breaker or liquidates it.

    Margin falls faster than the maintenance margin: a position that isn't liquidated at one value isn't at better ones.
    A better mark price never has a worse value, so a block's extremes bound all of its valuations.
    """
    account, symbol, number, one_by_one = sim.account, sim.symbols[0], sim.mark, sim.mark + 1
    wallet, safe, written = account.wallet, NEVER, sim.equity_written
    floor = risk.equity_floor(account.breaker, account.holds, account.breaker_rules)
    while number < last:
        is_brief = sim.settings.is_brief and number >= one_by_one
        block = _block_at(sim, m, number, last) if is_brief else -1
        end = number + 1 if block < 0 else m.blocks[block + 1].first
        worst, worst_e8 = _worst_of(sim, m, number, block)
        unrealised = _unrealised(symbol, worst_e8)
        if wallet + unrealised <= floor or (
            unrealised < safe and loop_matching.is_liquidated(sim, unrealised + symbol.cost)
        ):
            if block < 0:
                break
            one_by_one = end
            continue
        safe = min(safe, unrealised)
        _write_point(sim, m, equity[written], worst, unrealised)
        written += 1
        if block < 0:
            worth = wallet + unrealised
            if worth > account.breaker[0]["peak"]:
                risk.update_measures(account.breaker, account.holds, risk.EQUITY, m.marks[number].time, worth)
                floor = risk.equity_floor(account.breaker, account.holds, account.breaker_rules)
            if number > sim.mark:  # the first may share its minute with a valuation before
                sim.highest = max(sim.highest, worth)
        elif worst < end - 1 and (end == last or m.blocks[block].ends_hour):
            _write_point(sim, m, equity[written], end - 1, _unrealised(symbol, m.marks[end - 1].price_e8))
            written += 1
        number = end
    if number > sim.mark:
        worth = wallet + _unrealised(symbol, m.marks[number - 1].price_e8)
        risk.update_measures(account.breaker, account.holds, risk.EQUITY, m.marks[number - 1].time, worth)
    sim.equity_written = written
    return int(number)
