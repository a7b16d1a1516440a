"""The kinds of rows that are stored, each by UTC day: trades, mark prices and funding rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy.typing as npt

from voltrade.model import DAY_MS, MINUTE_MS

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rows and its columns. The first column is the key: it identifies a row, and rows are sorted by it."""

    name: str
    columns: tuple[str, ...]
    step: int
    """Difference between the keys of two neighbouring rows where none is missing; 0 where that isn't known."""
    optional: tuple[str, ...] = ()
    """Columns that are 0 where a source doesn't state them; older files of the store lack them."""


TRADES = Kind("trades", ("id", "price", "quantity", "time", "is_buyer_maker"), 1)
"""AggTrades: ticks, lots, ms UTC."""
MARKS = Kind("marks", ("time", "open", "high", "low", "close"), MINUTE_MS)
"""Mark price klines of one minute: open time in ms UTC, prices in 1e-8 of the quote asset."""
FUNDING = Kind("funding", ("time", "rate", "interval_hours", "special"), 0, optional=("interval_hours", "special"))
"""Funding rates: ms UTC, 1e-8, the interval of the row, and a special rate in 1e-8 that is paid beside."""
NO_REGULAR = -1
"""The interval at a special rate, as of a dividend, that has no regular one of its time."""
KINDS = {kind.name: kind for kind in (TRADES, MARKS, FUNDING)}


def day_of(milliseconds: int) -> date:
    """Return the UTC day of a time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()


def start_of(day: date) -> int:
    """Return the first millisecond of a UTC day."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def days_between(first: date, last: date) -> list[date]:
    """Return all days from the first to the last, both included."""
    return [first + timedelta(number) for number in range((last - first).days + 1)]


def runs_of(days: Sequence[date]) -> list[tuple[date, date]]:
    """Return the first and last day of each run of consecutive days."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and runs[-1][1] + timedelta(1) == day:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def days_text(days: Sequence[date]) -> str:
    """Write days as ranges: `2026-01-01 to 2026-01-04, 2026-01-06`."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs_of(days))
