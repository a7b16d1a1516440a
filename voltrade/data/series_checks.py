"""Inspects mark prices and funding rates: rows of a time and values, which are read in units of 1e-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute

from voltrade.data.faults import DEFAULT_POLICIES, Findings, Inspection, Policies, Span, few_of, unreadable
from voltrade.data.row_checks import (
    MICROSECONDS_FROM,
    first_and_last,
    ids_missing_before,
    order_by_key,
    outside_span,
    utc_text,
)
from voltrade.data.trade_files import CUT, may_be_cut, multiples, read_cells
from voltrade.data.value_checks import values_wrong
from voltrade.errors import DataError
from voltrade.model import HOUR_MS, MINUTE_MS, Funding, Int64s
from voltrade.simulated.mark_columns import USUAL_FUNDING_MS, FundingHoles, funding_holes, whole_minutes


@dataclass(frozen=True, slots=True)
class SeriesLayout:
    """The columns of a file of mark prices or funding rates."""

    kind: str
    columns: tuple[str, ...]
    """Required columns, in the file's order."""
    time: str
    values: tuple[str, ...]
    step: int
    """Milliseconds between two rows where none is missing; 0 where that isn't known."""
    positive: bool
    hours: tuple[str, ...] = ()
    """Columns of whole hours, which not all sources have: 0 where they are missing."""
    special: tuple[str, ...] = ()
    """Columns of rates that are paid beside, which only REST has. It states no hours: 0, or `NO_REGULAR`."""
    zero: tuple[str, ...] = ()
    """Columns that must be 0 in every row; otherwise the file holds other data under the same name."""


MARK_KLINES = SeriesLayout(
    "marks",
    ("open_time", "open", "high", "low", "close", "volume"),
    "open_time",
    ("open", "high", "low", "close"),
    step=60_000,
    positive=True,
    zero=("volume",),  # mark prices have no volume; the archive has klines of last prices under the same file name
)

FUNDING_RATES = SeriesLayout(
    "funding",
    ("calc_time", "funding_interval_hours", "last_funding_rate"),
    "calc_time",
    ("last_funding_rate",),
    step=0,
    positive=False,
    hours=("funding_interval_hours",),
    special=("special_rate",),
)

E8 = Decimal("0.00000001")


def inspect_series(
    path: Path, layout: SeriesLayout, policies: Policies = DEFAULT_POLICIES, span: Span | None = None
) -> Inspection[tuple[Int64s, ...]]:
    """Read a file, report every fault, and return the accepted columns: times, then the values in 1e-8."""
    try:
        cells, numbers = read_cells(path, layout.columns)
    except DataError as error:
        return unreadable(path.name, layout.kind, error)
    return inspect_cells(path.name, cells, numbers, layout, policies, span, is_cut=may_be_cut(path))


def inspect_cells(
    name: str,
    cells: Mapping[str, pa.Array],
    number: Int64s,
    layout: SeriesLayout,
    policies: Policies = DEFAULT_POLICIES,
    span: Span | None = None,
    is_cut: bool = False,
) -> Inspection[tuple[Int64s, ...]]:
    """Inspect columns of texts or whole numbers; `number` are the line numbers of the rows.

    Args:
        is_cut: whether the last row may be cut, see `trade_files.may_be_cut`.
    """
    found = Findings(policies, few_of(len(number)))
    columns = []
    bad = found.where("cut_line", is_cut & (number == number.max(initial=0)), number, CUT)
    for column, unit in ((layout.time, Decimal(1)), *((value, E8) for value in layout.values)):
        counts, wrong = multiples(cells[column], unit)
        bad |= found.where("bad_value", wrong, number, f"{column} must be a multiple of {unit:f}", cells[column])
        columns.append(counts)
    for column in layout.hours:
        if column in cells:
            hours, wrong = multiples(cells[column], Decimal(1))
            is_stated = "special_rate" not in cells  # REST says nothing of hours
            rule = f"{column} must be a number of hours"
            bad |= found.where("bad_value", wrong, number, rule, cells[column])
            bad |= found.where("impossible_value", ~wrong & (hours == 0) & is_stated, number, rule, cells[column])
        columns.append(hours if column in cells else np.zeros(len(number), np.int64))
    for column in layout.special:
        rates = np.zeros(len(number), np.int64)
        if column in cells:
            rates, wrong = multiples(cells[column], E8)
            bad |= found.where("bad_value", wrong, number, f"{column} must be a multiple of {E8:f}", cells[column])
        columns.append(rates)
    for column in layout.zero:
        counts, _ = multiples(cells[column], E8)
        bad |= found.where("bad_value", counts != 0, number, f"{column} must be 0", cells[column])
    in_microseconds = columns[0] >= MICROSECONDS_FROM
    found.where("microseconds", in_microseconds & ~bad, number, "time must be in milliseconds", columns[0])
    columns[0] = np.where(in_microseconds, columns[0] // 1000, columns[0])
    rows = (number[~bad], *(column[~bad] for column in columns))
    return _examined_series(name, layout, rows, len(number), found, span, span)


def inspect_values(
    name: str,
    columns: Sequence[Int64s],
    layout: SeriesLayout,
    policies: Policies = DEFAULT_POLICIES,
    span: Span | None = None,
    due: Span | None = None,
    interval_ms: int = USUAL_FUNDING_MS,
    following: Sequence[Int64s] = (),
) -> Inspection[tuple[Int64s, ...]]:
    """Inspect times and values that are numbers already; rows are counted from 1.

    Args:
        due: from when to when rows are due, so that missing ones can be counted at begin and end too.
        interval_ms, following: see `rows_missing`.
    """
    number = np.arange(1, len(columns[0]) + 1, dtype=np.int64)
    rows = (number, *columns)
    return _examined_series(name, layout, rows, len(number), Findings(policies), span, due, interval_ms, following)


def rows_missing(
    layout: SeriesLayout,
    columns: Sequence[Int64s],
    span: Span | None,
    interval_ms: int = USUAL_FUNDING_MS,
    following: Sequence[Int64s] = (),
) -> tuple[Int64s, int]:
    """Return how many rows are missing before each row, and how many before the first and after the last of a span.

    Args:
        interval_ms: the symbol's interval between two funding times today; see `known_intervals`.
        following: columns of the day after the span, where it is known; see `day_edges.rows_of_next_day`. Its first
            row may state the interval that begins in the span.
    """
    times = columns[0]
    if layout.step:
        return np.maximum(ids_missing_before(times // layout.step), 0), _missing_at_edges(times, layout.step, span)
    missing = holes_of(columns, span, interval_ms, following).missing
    before = np.diff(np.searchsorted(missing, times), prepend=np.searchsorted(missing, times[:1]))
    return before, len(missing) - int(before.sum())


def holes_of(
    columns: Sequence[Int64s], span: Span | None, interval_ms: int, following: Sequence[Int64s]
) -> FundingHoles:
    """Return which funding rows aren't there in a span, or between the first and the last row; see `rows_missing`."""
    times = columns[0]
    if not len(times):
        return FundingHoles(times, times)
    # A day's first row is due at its first moment, give or take a minute.
    due = (span[0] - MINUTE_MS, span[1] - MINUTE_MS) if span else (int(times[0]), int(times[-1]))
    until, known = due[1], columns
    if span and following and columns[2][-1] and following[2][0]:  # both state their interval
        known = [np.append(column, later) for column, later in zip(columns, following, strict=True)]
        until = max(until, int(known[0][-1]))
    holes = funding_holes(Funding(known[0], known[1], known[2] * HOUR_MS), due[0], until, interval_ms)
    return FundingHoles(*(each[each <= due[1]] for each in holes))


def _missing_at_edges(times: Int64s, step: int, span: Span | None) -> int:
    """Return how many steps of a span lie before the first and after the last row in it."""
    inside = times[(times >= span[0]) & (times < span[1])] if span else times[:0]
    if span is None or not len(inside):
        return 0
    return int((inside[0] - span[0]) // step + (span[1] - 1 - inside[-1]) // step)


def _examined_series(
    name: str,
    layout: SeriesLayout,
    rows: tuple[Int64s, ...],
    read: int,
    found: Findings,
    span: Span | None,
    due: Span | None,
    interval_ms: int = USUAL_FUNDING_MS,
    following: Sequence[Int64s] = (),
) -> Inspection[tuple[Int64s, ...]]:
    """Inspect rows of line number, time and values."""
    number, *columns = _in_order(layout, _in_bounds(layout, rows, found), found)
    times, values = columns[0], columns[1:]
    missing, at_edges = rows_missing(layout, columns, due, interval_ms, following)
    lost = f"{missing.sum() + at_edges} rows are missing"
    found.where("id_gap", missing > 0, number, f"{lost}; the row after the first gap", times)
    if at_edges:
        found.add("id_gap", np.empty(0, np.int64), f"{lost}, at the begin or end")
    if not layout.step and len(unknown := holes_of(columns, due, interval_ms, following).unknown):
        detail = f"nothing says whether {len(unknown)} rows are missing from {utc_text(unknown[0])} on"
        found.add("open_interval", number[times > unknown[0]][:1], detail)
    keep = np.ones(len(number), np.bool_)
    if layout.positive:
        is_positive = np.all([column > 0 for column in values], axis=0)
        keep &= ~found.where("not_positive", ~is_positive, number, "prices must be positive")
    # A funding row some milliseconds before a month's end is in its file, and is the next day's first.
    begin, end = span or (0, 0)
    is_inside = np.isin(number, rows[0][(rows[1] >= begin) & (rows[1] < end)])
    outside = outside_span(times, span, number, found, is_inside)
    keep &= ~outside
    if not keep.any() and not found.refused:
        found.add("empty", np.empty(0, np.int64), "must hold at least one row, has none")
    return Inspection(
        name,
        layout.kind,
        read,
        found.all(),
        None if found.refused else tuple(column[keep] for column in columns),
        gaps=int(np.count_nonzero(missing)),
        missing=int(missing.sum()) + at_edges,
        edges=first_and_last(times[~outside]),
    )


def _in_order(layout: SeriesLayout, rows: tuple[Int64s, ...], found: Findings) -> tuple[Int64s, ...]:
    """Sort rows by time, and drop repeated ones; times of funding are whole minutes."""
    number, times, *values = rows
    times = times if layout.step else whole_minutes(times)
    compared = values if layout.step or values[1].all() else [values[0], *values[2:]]  # not all sources state hours
    order = order_by_key("time", times, compared, number, found)
    columns = (number, times, *values)
    return columns if order is None else tuple(column[order] for column in columns)


def _in_bounds(layout: SeriesLayout, rows: tuple[Int64s, ...], found: Findings) -> tuple[Int64s, ...]:
    """Return the rows whose values are in bounds; add the fault of the others."""
    number, *columns = rows
    bad = np.zeros(len(number), np.bool_)
    for wrong, rule, values in values_wrong(layout.kind, columns):
        bad |= found.where("impossible_value", wrong, number, rule, values)
    return tuple(column[~bad] for column in rows) if bad.any() else rows
