"""What says that the stored trades of a day begin with the day's first one and end with its last.

A daily file of the archive may begin late or stop in the afternoon, and looks like any other. So a day's begin is
proven where its first id follows the last one of the day before, or where REST named it; and its end likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta

import numpy as np

from voltrade.data.kinds import FUNDING, TRADES, Column, Kind, day_of, days_between, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import StoredDay, ids_between
from voltrade.errors import DataError
from voltrade.model import DAY_MS, MINUTE_MS, Funding
from voltrade.simulated.mark_columns import funding_holes, whole_minutes


def open_edges(before: StoredDay | None, day: StoredDay, after: StoredDay | None) -> tuple[str, ...]:
    """Return which of a day's `begin` and `end` nothing proves, where `before` and `after` are the days around it."""
    proven = {
        "begin": day.metadata.begin_proven or _joins(before, day),
        "end": day.metadata.end_proven or _joins(day, after),
    }
    return tuple(edge for edge, is_proven in proven.items() if not is_proven)


def _joins(before: StoredDay | None, after: StoredDay | None) -> bool:
    """Whether the ids of a day follow those of the stored day before; days between them are without trades then."""
    if before is None or after is None:
        return False
    ids = ids_between(before, after)
    return ids is not None and ids[0] + 1 == ids[1]


def open_days(store: Store, symbol: str, first: date, last: date) -> tuple[str, ...]:
    """Return the stored days of a range whose begin or end nothing proves, such as `2026-01-05 (begin and end)`."""
    around = days_between(first - timedelta(1), last + timedelta(1))
    stored = [day for day in (_readable(store, symbol, each) for each in around) if day is not None]
    found = []
    for before, day, after in zip([None, *stored], stored, [*stored[1:], None], strict=False):
        if first <= day.day <= last and (edges := open_edges(before, day, after)):
            found.append(f"{day.day} ({' and '.join(edges)})")
    return tuple(found)


def open_fundings(
    store: Store, symbol: str, funding: Funding | None, first: date, last: date
) -> Iterator[tuple[date, int]]:
    """Yield days of a range on which the interval of funding changes, and of how many rows nothing says whether they
    are missing."""
    end, one = start_of(last) + DAY_MS, timedelta(1)
    known = [rows for rows in (funding, store.funding(symbol, last + one, last + one)) if rows is not None]
    if funding is None:
        return
    columns = (np.concatenate(each) for each in zip(*((r.time, r.rate_e8, r.interval_ms) for r in known), strict=True))
    unknown = funding_holes(Funding(*columns), start_of(first) - 1, end + DAY_MS).unknown
    for day, count in Counter(map(day_of, unknown[unknown < end].tolist())).items():
        stored = store.day(FUNDING, symbol, day)
        if stored is None or not stored.metadata.asked:
            yield day, count


def due_from(store: Store, symbol: str, day: date) -> int:
    """Return from when on mark prices and funding rates of a day are due, ms UTC.

    That is its begin, but on the day that the symbol was listed the minute of the first trade: REST says that it has
    none before, of all times.
    """
    begin = start_of(day)
    if store.dates(TRADES, symbol)[:1] != [day]:
        return begin
    with suppress(DataError):
        stored = store.day(TRADES, symbol, day)
        if stored is None or not stored.metadata.is_listing:
            return begin
        return int(store.rows(TRADES, symbol, day)[TRADES.columns.index("time")][0]) // MINUTE_MS * MINUTE_MS
    return begin


def rows_of_next_day(store: Store, kind: Kind, stored: StoredDay) -> list[Column]:
    """Return the columns of funding rates of the day after a stored one; none where there is no such day to read.

    Of two rows of a minute the first is taken: that they contradict each other is a fault of their own day.
    """
    day = stored.day + timedelta(1)
    with suppress(DataError):
        if not kind.step and store.day(kind, stored.symbol, day) is not None:
            columns = store.rows(kind, stored.symbol, day)
            once = np.unique(whole_minutes(columns[0]), return_index=True)[1]
            return [column[once] for column in columns]
    return []


def first_due(store: Store, stored: StoredDay, first: int) -> int:
    """Return from when on rows of a day are due, ms UTC, where `first` is the time of its first row."""
    return min(first, due_from(store, stored.symbol, stored.day))


def _readable(store: Store, symbol: str, day: date) -> StoredDay | None:
    with suppress(DataError):
        return store.day(TRADES, symbol, day)
    return None
