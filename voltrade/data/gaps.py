"""Finds the ids that are missing between stored trades."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from voltrade.data.kinds import TRADES
from voltrade.data.readable_store import ReadableStore
from voltrade.data.row_checks import ids_missing_before
from voltrade.data.stored_day import StoredDay
from voltrade.errors import DataError
from voltrade.model import Int64s


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids that are missing between two stored trades."""

    after: StoredDay
    """The day of the trade before the gap; its `last` is the id of that trade."""
    until: int
    """Last id to request: the trade after the gap, so that a midnight between the two trades is noticed."""
    missing: int


def gaps_of(store: ReadableStore, days: Iterable[StoredDay]) -> list[Gap]:
    """Return the gaps within stored days, at their begin and end, and between consecutive days."""
    gaps: list[Gap] = []
    before: StoredDay | None = None
    for stored in days:
        if stored.metadata.made_of != "aggTrades":
            continue
        follows = before is not None and before.day + timedelta(1) == stored.day
        previous = before if before and follows else replace(stored, last=stored.first - 1)
        if stored.missing or stored.first > previous.last + 1:
            try:
                ids = store.rows(TRADES, stored.symbol, stored.day)[0]
            except DataError as error:
                store.skip(TRADES, stored.symbol, stored.day, error)
                continue
            gaps += _gaps_in(stored, previous, ids)
        before = stored
    return gaps


def grouped(gaps: Iterable[Gap], most_ids: int) -> list[list[Gap]]:
    """Group gaps in the order of their ids, each group as many as a request of `most_ids` reaches over."""
    groups: list[list[Gap]] = []
    for gap in gaps:
        if groups and 0 <= gap.until - groups[-1][0].after.last <= most_ids:
            groups[-1].append(gap)
        else:
            groups.append([gap])
    return groups


def _gaps_in(stored: StoredDay, previous: StoredDay, stored_ids: Int64s) -> list[Gap]:
    """Return the gaps of a day, from the last trade of the day before on."""
    ids = np.concatenate([[previous.last], stored_ids, [stored.last + 1]])
    missing = ids_missing_before(ids)
    gaps = []
    for row in np.flatnonzero(missing > 0):
        after = replace(previous if row == 1 else stored, last=int(ids[row - 1]))
        gaps.append(Gap(after, min(int(ids[row]), stored.last), int(missing[row])))
    return gaps
