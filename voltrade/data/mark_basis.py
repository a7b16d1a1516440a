"""Compares mark prices with the trades of their days: klines of something else under the same file name are told.

Klines of a premium index, or of another symbol, have the form of mark prices, and no volume either.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from voltrade.data.faults import Inspection, Policies, with_finding
from voltrade.data.kinds import MARKS, TRADES, day_of
from voltrade.data.store import Store
from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, MONEY, Marks, Trades

MOST_BASIS = 0.05
"""A day's mark prices aren't the symbol's where, in the median, they are further from the last trades, as a part."""

FAULT = "other_prices"


def days_off(marks: Marks, trades: Trades, tick: Decimal) -> dict[date, float]:
    """Return the days whose mark prices can't be those of the trades, and their median distance as a part.

    A mark price is compared with the last trade before it, where that isn't older than an hour.

    Args:
        tick: of the trades, in the quote asset.
    """
    before = np.searchsorted(trades.time, marks.time, side="right") - 1
    known = before >= 0
    known[known] = marks.time[known] - trades.time[before[known]] <= HOUR_MS
    last_e8 = trades.price[before[known]] * float(tick * MONEY)
    distance = np.abs(marks.price_e8[known] / last_e8 - 1)
    days = marks.time[known] // DAY_MS
    medians = {day_of(int(day) * DAY_MS): float(np.median(distance[days == day])) for day in np.unique(days)}
    return {day: median for day, median in medians.items() if median > MOST_BASIS}


def days_off_text(days: Mapping[date, float]) -> str:
    """Write days and their distances: `2026-01-05 (100.0%)`."""
    return ", ".join(f"{day} ({median:.1%})" for day, median in days.items())


def compared_with_trades(store: Store, symbol: str, inspection: Inspection[Any], policies: Policies) -> Inspection[Any]:
    """Add the fault of mark prices that are far from the stored trades of their days, where there are any."""
    if inspection.kind != MARKS.name or inspection.accepted is None:
        return inspection
    times, opens = inspection.accepted[:2]
    found: dict[date, float] = {}
    for day in np.unique(times // DAY_MS):
        of_day = times // DAY_MS == day
        with suppress(DataError):  # nothing can be said by trades that can't be read
            found |= _off_in_store(store, symbol, Marks(times[of_day], opens[of_day]))
    if not found:
        return inspection
    detail = f"mark prices must be near the last trades, in the median they are off on {days_off_text(found)}"
    return with_finding(inspection, FAULT, policies, detail)


def _off_in_store(store: Store, symbol: str, marks: Marks) -> dict[date, float]:
    day = day_of(int(marks.time[0]))
    stored = store.day(TRADES, symbol, day)
    if stored is None:
        return {}
    return days_off(marks, Trades(symbol, *store.rows(TRADES, symbol, day)), Decimal(stored.metadata.tick))
