"""The mark prices and the funding of a tape, as columns that both paths of a backtest and the venue play.

What the exchange's records have is used as it is. A minute without a recorded mark price gets a mark at the last
trade's price, and says so. Every funding row has a mark price at its own time, stated by the mark price before it, so
that each row is paid once, at its own rate, by whoever holds the position then.
"""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import numpy as np

from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS, MONEY, Bools, Funding, Instrument, Int64s, Marks, Trades
from voltrade.session.missing_marks import MARK_LASTS_MS

MAX_BASIS_E8 = 30_000
"""Largest distance of the simulated mark price from the last trade: 3 bps."""

USUAL_FUNDING_MS = 8 * HOUR_MS
"""The longest interval between two funding times."""

MOST_FUNDING_E8 = 10_000_000
"""The highest funding rate that is believed, 10 %. Binance caps rates at a few percent; more is in another unit."""


MOST_SPECIAL_E8 = 100_000_000
"""The highest special rate that is believed: a dividend of the whole price."""


class MarkColumns(NamedTuple):
    """The mark prices of a tape, as columns of equal length."""

    time: Int64s
    """Milliseconds UTC."""
    row: Int64s
    """The first trade at or after it."""
    price_e8: Int64s
    funding_rate_e8: Int64s
    """Rate at the next funding time."""
    next_funding_time: Int64s
    """Milliseconds UTC; 0 if not known."""
    is_last_price: Bools
    """Whether the price is the last trade's, since the exchange's isn't known."""


def mark_columns(
    trades: Trades,
    instrument: Instrument,
    funding_interval_ms: int,
    *,
    interval_ms: int,
    seed: int,
    funding_rate_e8: int = 0,
    marks: Marks | None = None,
    funding: Funding | None = None,
) -> MarkColumns:
    """Return the mark prices after the first and up to the last trade, with funding.

    Args:
        interval_ms, seed: of simulated marks, which are at multiples of the interval; see `simulated_prices`.
        funding_rate_e8: of simulated funding, which is due at multiples of the symbol's funding interval.
        marks: recorded mark prices, instead of simulated ones; see `recorded_times`.
        funding: recorded funding, instead of the one rate.

    Raises:
        DataError: there is no trade, times decrease, two recorded rows of one time differ, or a recorded rate is
            beyond `MOST_FUNDING_E8`.
    """
    if len(trades) == 0:
        raise DataError("tape: must have at least one trade, had none")
    if np.any(np.diff(trades.time) < 0):
        raise DataError(f"tape: times must not go back, did after row {int(np.argmax(np.diff(trades.time) < 0))}")
    first, last = int(trades.time[0]), int(trades.time[-1])
    rows = _believed(funding) if funding else _simulated_funding(first, last, funding_interval_ms, funding_rate_e8)
    recorded = each_once(marks) if marks else None
    times = recorded_times(recorded, first, last) if recorded else _multiples(first, last, interval_ms)
    times = _with_funding_times(times, rows.time[rows.rate_e8 != 0], first, last)
    following = np.searchsorted(trades.time, times, side="left").astype(np.int64)
    if recorded:
        prices, is_last_price = _recorded_prices(recorded, times, trades.price[following - 1] * tick_e8(instrument))
    else:
        prices = simulated_prices(times, trades.price[following - 1] * tick_e8(instrument), interval_ms, seed)
        is_last_price = np.zeros(len(times), np.bool_)
    next_row = np.searchsorted(rows.time, times, side="right")
    rates, due = np.append(rows.rate_e8, 0)[next_row], np.append(rows.time, 0)[next_row]
    return MarkColumns(times, following, prices, rates, due, is_last_price)


def rates_beyond(rates_e8: Int64s, most_e8: int = MOST_FUNDING_E8) -> Bools:
    """Return which funding rates are too high or too low to be believed."""
    return np.asarray((rates_e8 > most_e8) | (rates_e8 < -most_e8))


def e8_text(value: int) -> str:
    """Write a number of 1e-8 as a decimal: `0.8`."""
    return f"{Decimal(int(value)).scaleb(-8).normalize():f}"


def tick_e8(instrument: Instrument) -> int:
    """Return the price of a tick in 1e-8."""
    return int(instrument.tick_size * MONEY)


# --- recorded rows ----------------------------------------------------------------------------------------------------

Rows = TypeVar("Rows", Marks, Funding)


def each_once(rows: Rows) -> Rows:
    """Return mark prices or funding rates in the order of time, each row once.

    Funding rows of one minute are one row, see `whole_minutes`.

    Raises:
        DataError: two rows of one time differ.
    """
    is_funding = isinstance(rows, Funding)
    values = rows.rate_e8 if isinstance(rows, Funding) else rows.price_e8
    key = whole_minutes(rows.time) if is_funding else rows.time
    if np.all(key[1:] > key[:-1]):
        return rows
    order = np.argsort(rows.time, kind="stable")
    repeated = np.append(False, np.diff(key[order]) == 0)[: len(order)]
    differs = repeated[1:] & (np.diff(values[order]) != 0)
    if differs.any():
        at = int(np.argmax(differs))
        name, pair = "funding" if is_funding else "marks", values[order][at : at + 2].tolist()
        raise DataError(f"{name}: rows of one time must agree, was {pair} in 1e-8 at {rows.time[order][at]}")
    return _taken(rows, order[~repeated])


def whole_minutes(times: Int64s) -> Int64s:
    """Round times of funding: sources state the same one with different milliseconds."""
    return (times + MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS


def _believed(funding: Funding) -> Funding:
    """Return recorded funding rates, each once and special ones added, if all are in bounds."""
    beyond = rates_beyond(funding.rate_e8)
    if beyond.any():
        at = int(np.argmax(beyond))
        most, rate = e8_text(MOST_FUNDING_E8), e8_text(funding.rate_e8[at])
        raise DataError(f"funding: rate must be from -{most} to {most}, was {rate} at {funding.time[at]}")
    rows = each_once(funding)
    return rows if rows.special_e8 is None else replace(rows, rate_e8=rows.rate_e8 + rows.special_e8, special_e8=None)


def _taken(rows: Rows, kept: Int64s) -> Rows:
    """Return some rows."""
    columns: dict[str, Any] = {each.name: getattr(rows, each.name) for each in fields(rows)}
    columns = {name: None if column is None else column[kept] for name, column in columns.items()}
    return replace(rows, **columns)


def recorded_times(marks: Marks, first: int, last: int) -> Int64s:
    """Return the times of recorded marks after `first` and up to `last`, and the begin of each minute without one."""
    begin, end = np.searchsorted(marks.time, [first, last], side="right")
    times = marks.time[begin:end]
    return np.union1d(times, minutes_without_mark(marks, first, last))


def minutes_without_mark(marks: Marks, first: int, last: int) -> Int64s:
    """Return the begin of each minute after `first` and up to `last` that has no recorded mark price, ms UTC."""
    minutes = np.arange(first // MINUTE_MS + 1, last // MINUTE_MS + 1, dtype=np.int64)
    return minutes[~np.isin(minutes, marks.time // MINUTE_MS)] * MINUTE_MS


def _recorded_prices(marks: Marks, times: Int64s, last_prices: Int64s) -> tuple[Int64s, Bools]:
    """Return the recorded price at each time where there is one younger than MARK_LASTS_MS, else the last trade's.

    Returns:
        Prices, and which of them are the last trade's.
    """
    if not len(marks.time):
        return last_prices, np.ones(len(times), np.bool_)
    newest = np.maximum(np.searchsorted(marks.time, times, side="right") - 1, 0)
    age = times - marks.time[newest]
    # The begin of a minute without a mark is a time of its own here: a young mark of the minute before isn't its mark.
    is_stale = (age < 0) | (age >= MARK_LASTS_MS) | ((age > 0) & ~np.isin(times // MINUTE_MS, marks.time // MINUTE_MS))
    return np.where(is_stale, last_prices, marks.price_e8[newest]), is_stale


def fundings_missing(funding: Funding, first: int, last: int, known_ms: int = USUAL_FUNDING_MS) -> int:
    """Count the funding rows that are missing after `first` and up to `last`; see `funding_holes`."""
    return len(funding_holes(funding, first, last, known_ms).missing)


class FundingHoles(NamedTuple):
    """The times of funding rows that aren't there, ms UTC."""

    missing: Int64s
    unknown: Int64s
    """Rows where the interval changes that are due by one of two readings of the others, and not by the other."""


def funding_holes(funding: Funding, first: int, last: int, known_ms: int = USUAL_FUNDING_MS) -> FundingHoles:
    """Return the times of funding rows that aren't there after `first` and up to `last`, by the others' intervals.

    A row states the interval that ends at it, or the one that begins at it: no source says which. So where two rows in
    turn state different ones, the gap between them is read both ways. By as many as the two readings agree in, rows
    are missing; whether the others of the reading that misses more are, isn't known. Gaps in turn are read together.

    Args:
        known_ms: the symbol's interval today, where it is known; see `known_intervals`.
    """
    rows = each_once(funding)
    if rows.interval_ms is not None:
        rows = _taken(rows, np.flatnonzero(rows.interval_ms >= 0))
    if not len(rows.time):
        due = first + known_ms * np.arange(1, (last - first) // known_ms + 1, dtype=np.int64)
        return FundingHoles(due, due[:0])
    ending = funding_intervals(rows, known_intervals(rows.time, known_ms, first, last))
    inside, unknown = _between(rows.time, ending, _beginning(rows.interval_ms, ending))
    before = np.arange(rows.time[0] - ending[0], first, -ending[0])
    after = np.arange(rows.time[-1] + ending[-1], last + 1, ending[-1])
    missing = np.sort(np.concatenate([before, inside, after]))
    return FundingHoles(*(each[(each > first) & (each <= last)] for each in (missing, unknown)))


def _beginning(stated: Int64s | None, ending: Int64s) -> Int64s:
    """Return the intervals that end at rows if each row states the one that begins at it, where that is known."""
    if stated is None:
        return ending
    both = (stated[1:] > 0) & (stated[:-1] > 0)
    return np.asarray(np.append(ending[:1], np.where(both, stated[:-1], ending[1:])))


def _between(times: Int64s, ending: Int64s, beginning: Int64s) -> tuple[Int64s, Int64s]:
    """Return the times of rows that are missing between others, and of those of which that isn't known."""
    counts = np.stack([_rows_between(np.diff(times), intervals[1:]) for intervals in (ending, beginning)])
    differs = counts[0] != counts[1]
    turn = np.cumsum(np.diff(differs, prepend=np.False_) & differs) * differs  # gaps in turn that differ; 0 for others
    of_turn = np.stack([np.bincount(turn, each, 1) for each in counts])[:, turn]
    gap, number = zip(*(_numbered(each) for each in counts), strict=True)
    by_end = times[1:][gap[0]] - number[0] * ending[1:][gap[0]]
    by_begin = times[:-1][gap[1]] + number[1] * beginning[1:][gap[1]]
    is_end = ~differs | (of_turn[0] <= of_turn[1])  # the reading that misses fewer
    told = np.append(by_end[is_end[gap[0]]], by_begin[~is_end[gap[1]]])
    open_gap = differs & (of_turn[0] != of_turn[1])
    other = np.append(by_end[~is_end[gap[0]]], by_begin[(is_end & open_gap)[gap[1]]])
    return told, np.setdiff1d(other, told)


def _rows_between(gaps: Int64s, intervals: Int64s) -> Int64s:
    """Return how many rows of an interval are due within each gap; up to half an hour is none."""
    return np.asarray(np.maximum(-((HOUR_MS // 2 - gaps) // intervals) - 1, 0))


def _numbered(counts: Int64s) -> tuple[Int64s, Int64s]:
    """Return, for each of the rows that are due in gaps, the gap and the row's number from 1."""
    gap = np.repeat(np.arange(len(counts)), counts)
    return gap, np.arange(1, len(gap) + 1) - np.repeat(np.cumsum(counts) - counts, counts)


def known_intervals(times: Int64s, known_ms: int, first: int, last: int) -> Int64s:
    """Return the longest interval that the symbol may have had at each funding row, ms.

    That is its interval today; but on a UTC day with a row at each of the usual times after `first` and up to `last`,
    and at no other, it was the usual one then: such a day lacks none, and no source would ever have more.
    """
    at = np.rint(times / MINUTE_MS).astype(np.int64) * MINUTE_MS
    days, number = np.unique(at // DAY_MS, return_inverse=True)
    begin, end = np.maximum(days * DAY_MS, first + 1), np.minimum((days + 1) * DAY_MS, last + 1)
    due = -(-end // USUAL_FUNDING_MS) + -begin // USUAL_FUNDING_MS
    inside, is_usual = (at > first) & (at <= last), at % USUAL_FUNDING_MS == 0
    there = np.bincount(number, inside, len(days))
    usual = days[(there == due) & (np.bincount(number, ~is_usual, len(days)) == 0)]
    # The interval that ends at midnight is the day before's.
    return np.where(np.isin(at // DAY_MS, usual) | np.isin((at - 1) // DAY_MS, usual), USUAL_FUNDING_MS, known_ms)


_ROWS_AROUND = 3
"""A shorter distance among so many before a row, and so many after it, is the interval there."""


def funding_intervals(funding: Funding, known_ms: int | Int64s = USUAL_FUNDING_MS) -> Int64s:
    """Return the interval that ends at each funding row, ms.

    Where the source doesn't state it, it is the longer one of the shortest distances of the rows before and of the rows
    after, or the next distance where there are none on one side: rows that are missing don't look like a longer
    interval, and an interval that changes not like missing rows.
    It is at most the one that the nearest row states, and at most the symbol's.

    Args:
        known_ms: the symbol's interval, where it is known; for each row, or for all.
    """
    width = _ROWS_AROUND
    distances = np.rint(np.diff(funding.time) / HOUR_MS).astype(np.int64) * HOUR_MS
    padded = np.pad(distances, (width + 1, width), constant_values=2**62)
    shortest = np.lib.stride_tricks.sliding_window_view(padded, width).min(axis=1)
    before, after = shortest[: len(funding.time)], shortest[width + 1 :]  # without the distance that ends at the row
    nearest = np.minimum(padded[width - 1 : -width - 1], padded[width + 1 : 1 - width])
    around = np.where(np.maximum(before, after) == 2**62, nearest, np.maximum(before, after))
    around = np.clip(around, HOUR_MS, known_ms)
    stated = funding.interval_ms
    if stated is None or not (stated > 0).any():
        return np.asarray(around)
    return np.where(stated > 0, stated, np.minimum(around, _nearest_stated(stated)))


def _nearest_stated(stated: Int64s) -> Int64s:
    """Return, for each row, what the last row before it states, or the first one that states anything."""
    known = np.flatnonzero(stated > 0)
    last = np.searchsorted(known, np.arange(len(stated)), side="right") - 1
    return stated[known[np.maximum(last, 0)]]


# --- simulated rows ---------------------------------------------------------------------------------------------------


def _multiples(first: int, last: int, interval_ms: int) -> Int64s:
    """Return the multiples of an interval after `first` and up to `last`."""
    return np.arange(first // interval_ms + 1, last // interval_ms + 1, dtype=np.int64) * interval_ms


def _simulated_funding(first: int, last: int, interval_ms: int, rate_e8: int) -> Funding:
    """Return funding of one rate at multiples of an interval, up to the first after `last`."""
    times = _multiples(first, last + interval_ms, interval_ms)
    return Funding(times, np.full(len(times), rate_e8, np.int64))


def _with_funding_times(times: Int64s, funding: Int64s, first: int, last: int) -> Int64s:
    """Add the times of funding; and, where nothing is before the first of them, a time at which it is stated."""
    due = funding[(funding > first) & (funding <= last)]
    if len(due) and not (len(times) and times[0] < due[0]):
        due = np.append(max(first + 1, due[0] - 1), due)
    return np.union1d(times, due)


def simulated_prices(times: Int64s, last_prices_e8: Int64s, interval_ms: int, seed: int) -> Int64s:
    """Make mark prices from the prices of the last trades, in 1e-8 and rounded down.

    A mark price is the price of the last trade before it plus a basis: the mean of eight numbers, one for each of the
    last eight interval ends, each uniform between -3 and +3 bps, by a hash of seed and time. So the basis reverts to
    zero over eight marks, is at most 3 bps, and depends on seed and time only.
    """
    numbers = times // interval_ms
    basis_e8 = sum(_drawn_basis(numbers - back, seed) for back in range(8)) // 8
    # price x basis / 1e8 in two parts, since the product may overflow 64 bits
    return np.asarray(last_prices_e8 + last_prices_e8 // MONEY * basis_e8 + last_prices_e8 % MONEY * basis_e8 // MONEY)


def _drawn_basis(numbers: Int64s, seed: int) -> Int64s:
    """Return uniform numbers from -MAX_BASIS_E8 to MAX_BASIS_E8: SplitMix64 of the seed at each position."""
    mixed = numbers.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(2 * MAX_BASIS_E8 + 1)).astype(np.int64) - MAX_BASIS_E8
