"""Inspects trades: reports every fault with its rows, and returns the trades that the policies accept.

The accepted trades are whole ticks and whole lots, with ascending ids and times that never decrease. Raw trades are
aggregated to aggTrades. Where rows are not sorted, the smallest set of rows that breaks the order is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from voltrade.data.faults import DEFAULT_POLICIES, Findings, Inspection, Policies, Span, unreadable
from voltrade.data.row_checks import (
    first_and_last,
    ids_missing_before,
    order_by_key,
    out_of_place,
    outside_span,
    utc_text,
)
from voltrade.data.trade_files import CUT, Columns, Kind, may_be_cut, other_market, read_columns
from voltrade.data.trade_rows import MAKER, NO_SIDE, ORDER_TYPES, TradeRows, convert_columns
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Bools, Instrument, Int64s, Trades

ONE_SIDED_FROM = 1_000
"""A day with at least so many trades has a fault if all takers are on one side; with fewer it could be chance."""


def inspect(
    path: Path,
    instrument: Instrument,
    policies: Policies = DEFAULT_POLICIES,
    span: Span | None = None,
    columns: Mapping[str, str] | None = None,
) -> Inspection[Trades]:
    """Read a file of trades of one symbol, report every fault, and return the trades that the policies accept.

    Raw trades are aggregated, see `aggregate`.

    Args:
        span: the day or month of the file's name; None where the name has none.
        columns: the file's names of our columns, see `read_columns`.
    """
    try:
        batches = read_columns(path, columns)
        return inspect_columns(batches, instrument, policies, span, is_cut=may_be_cut(path))
    except DataError as error:
        return unreadable(path.name, "aggTrades", error)


def inspect_columns(
    batches: Iterable[Columns],
    instrument: Instrument,
    policies: Policies = DEFAULT_POLICIES,
    span: Span | None = None,
    is_cut: bool = False,
    few: int = 0,
) -> Inspection[Trades]:
    """Inspect trades that are read as columns, in at least one batch.

    Args:
        is_cut: as in `series_checks.inspect_cells`.
        few: how many rows `Policy.FEW` drops.
    """
    found = Findings(policies, few)
    parts: list[TradeRows] = []
    read = 0
    for columns in batches:
        parts.append(convert_columns(columns, instrument, found))
        read += len(columns.numbers)
    last_row = max((row.number for row in columns.malformed), default=0)
    last_row = max(last_row, int(columns.numbers.max(initial=0)))
    if market := other_market(columns.name, columns.header):
        found.add("other_market", np.empty(0, np.int64), market)
    if columns.malformed:
        first = columns.malformed[0]
        numbers = np.array([row.number for row in columns.malformed], np.int64)
        found.add("unreadable", numbers, f"must have {first.expected_columns} columns, has {first.actual_columns}")
    rows = TradeRows.join(parts)
    rows = replace(rows, bad=rows.bad | found.where("cut_line", is_cut & (rows.number == last_row), rows.number, CUT))
    return _examined(columns.name, columns.kind, instrument.symbol, rows, read, found, span)


def inspect_trades(
    name: str, trades: Trades, policies: Policies = DEFAULT_POLICIES, span: Span | None = None
) -> Inspection[Trades]:
    """Inspect trades that are numbers already; rows are counted from 1."""
    number = np.arange(1, len(trades) + 1, dtype=np.int64)
    side = trades.buyer_is_maker.astype(np.int8)
    rows = TradeRows(number, trades.id, trades.price, trades.quantity, trades.time, side, np.zeros_like(side), side > 1)
    return _examined(name, "aggTrades", trades.symbol, rows, len(trades), Findings(policies), span)


def _examined(
    name: str, kind: Kind, symbol: str, rows: TradeRows, read: int, found: Findings, span: Span | None
) -> Inspection[Trades]:
    rows = _in_order(rows, found)
    missing = _gaps(rows, found)
    is_trade = rows.order_type == 0
    keep = is_trade & ~_broken(rows, is_trade, span, found)
    dropped = {kind: int(np.count_nonzero(rows.order_type == code)) for code, kind in enumerate(ORDER_TYPES) if code}
    if not keep.any() and not found.refused:
        found.add("empty", np.empty(0, np.int64), "must hold at least one trade, has none")
    return Inspection(
        name,
        kind,
        read,
        found.all(),
        None if found.refused else _trades(symbol, kind, rows, keep, is_trade),
        {kind: count for kind, count in dropped.items() if count},
        gaps=int(np.count_nonzero(missing)),
        missing=int(missing.sum()),
        # Ids of aggregated raw trades are our own, so they say nothing of the exchange's.
        edges=first_and_last(rows.id[is_trade & _inside(rows, span)]) if kind == "aggTrades" else None,
        raw_edges=first_and_last(rows.id[(keep | ~is_trade) & _inside(rows, span)]) if kind == "trades" else None,
    )


def _in_order(rows: TradeRows, found: Findings) -> TradeRows:
    """Sort rows by id, and drop repeated ids."""
    order = order_by_key("id", rows.id, (rows.price, rows.quantity, rows.time, rows.side), rows.number, found)
    return rows if order is None else rows[order]


def _gaps(rows: TradeRows, found: Findings) -> Int64s:
    """Return how many ids are missing before each row, and add the fault."""
    missing = ids_missing_before(rows.id)
    if missing.any():
        at = int(np.argmax(missing > 0))
        ids = f"{rows.id[at] - missing[at]} to {rows.id[at] - 1}"
        detail = f"ids must follow each other, {missing.sum()} are missing, the first from {ids}"
        found.add("id_gap", rows.number[missing > 0], detail)
    return missing


def _broken(rows: TradeRows, is_trade: Bools, span: Span | None, found: Findings) -> Bools:
    """Return which rows can't be accepted, of rows that are sorted by id."""
    positive = (rows.price > 0) & (rows.quantity > 0)
    not_positive = is_trade & ~rows.bad & ~positive
    broken = rows.bad | (is_trade & (rows.side == NO_SIDE))
    broken |= found.where("not_positive", not_positive, rows.number, "price and quantity must be positive")
    broken |= outside_span(rows.time, span, rows.number, found, broken)
    # The time of a row that is dropped anyway must not make later rows look as if time went back.
    back = np.zeros(len(broken), np.bool_)
    back[~broken] = out_of_place(rows.time[~broken])
    broken |= found.where("time_back", back, rows.number, "time must be in the order of the ids", rows.time)
    _one_sided(rows[is_trade & ~broken], found)
    return np.asarray(broken)


def _inside(rows: TradeRows, span: Span | None) -> Bools:
    """Return which rows are in the span, or have an invalid time."""
    if span is None:
        return np.ones(len(rows.id), np.bool_)
    return np.asarray(rows.bad | ((rows.time >= span[0]) & (rows.time < span[1])))


def _one_sided(rows: TradeRows, found: Findings) -> None:
    days = rows.time // DAY_MS
    begins = np.flatnonzero(np.diff(days, prepend=-1))
    for first, last in pairwise((*begins, len(days))):
        sides = rows.side[first:last]
        if len(sides) >= ONE_SIDED_FROM and sides.min() == sides.max():
            side = "true" if sides[0] == MAKER else "false"
            detail = (
                f"a day must have takers on both sides, is_buyer_maker is {side} all {utc_text(rows.time[first])[:10]}"
            )
            found.add("one_sided", rows.number[first:last], detail)


def _trades(symbol: str, kind: Kind, rows: TradeRows, keep: Bools, is_trade: Bools) -> Trades:
    kept = rows if keep.all() else rows[keep]
    trades = Trades(symbol, kept.id, kept.price, kept.quantity, kept.time, kept.side == MAKER)
    if kind == "aggTrades" or not len(trades):
        return trades
    there = keep | ~is_trade  # the id of a row that isn't a trade is not missing
    missing_before = np.cumsum(ids_missing_before(rows.id[there]))[keep[there]]
    return aggregate(trades, first_id=int(rows.id[0]), missing_before=missing_before)


def aggregate(raw: Trades, first_id: int, missing_before: Int64s) -> Trades:
    """Aggregate neighbouring raw trades of the same price, side and millisecond to aggTrades.

    Ids of the aggTrades are counted from `first_id`, and skip as many ids as are missing between the raw trades, so
    that gaps stay visible. Trades before and after a gap are never aggregated.

    Args:
        missing_before: how many ids are missing before each raw trade.
    """
    begins = np.append(True, np.zeros(len(raw) - 1, dtype=np.bool_))
    for column in (raw.price, raw.time, raw.buyer_is_maker, missing_before):
        begins[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(begins)
    return Trades(
        raw.symbol,
        id=first_id + np.arange(len(first), dtype=np.int64) + missing_before[first],
        price=raw.price[first],
        quantity=np.add.reduceat(raw.quantity, first),
        time=raw.time[first],
        buyer_is_maker=raw.buyer_is_maker[first],
    )
