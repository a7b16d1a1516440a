"""Whether volume bars still close as often as they did when their threshold was chosen.

A threshold is chosen for the market of some days (see `data.tape_profile`). Markets change: with a third of the volume,
bars of the same threshold take three times as long, and lengths, stops and limits that count bars mean something else.
A session counts the bars that closed in the last 24 hours, and raises an alert when the number is out of the
expected range.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from voltrade.model import DAY_MS, Int64s


@dataclass(frozen=True, slots=True)
class ExpectedRange:
    """The least and the most bars that are expected to close in 24 hours at a threshold."""

    threshold: Decimal
    """In the unit of the bar settings."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BarRateAlert:
    """Bars close too fast or too slowly for their threshold."""

    threshold: Decimal
    bars: int
    """Closed in the last 24 hours."""
    expected: ExpectedRange

    def __str__(self) -> str:
        speed = "fast" if self.bars > self.expected.high else "slowly"
        return (
            f"bars of {self.threshold.normalize():f} come too {speed}: {self.bars} in 24 hours, "
            f"{self.expected.low:.0f} to {self.expected.high:.0f} were expected; calibrate the threshold again"
        )


def bar_rate_alert(
    threshold: Decimal, expected: ExpectedRange, close_times: Int64s, watched_since: int, now: int
) -> BarRateAlert | None:
    """Return an alert if the number of bars in the last 24 hours is out of its expected range, else None.

    A whole 24 hours are counted, since a market's hours differ from each other by more than its days do. Too many bars
    give an alert as soon as they have closed; too few only after 24 hours were watched.

    Args:
        threshold: the threshold of the bars.
        expected: the range that was chosen for this threshold.
        close_times: of the last bars, ms UTC, ascending; at least those of the last 24 hours.
        watched_since: time, ms UTC, from which on no bar is missing from `close_times`.
        now: ms UTC.

    Raises:
        ValueError: the range is for another threshold.
    """
    if threshold != expected.threshold:
        raise ValueError(f"threshold: must be that of the expected range, {expected.threshold}, was {threshold}")
    begin = now - DAY_MS
    bars = len(close_times) - int(np.searchsorted(close_times, begin, side="right"))
    is_slow = bars < expected.low and watched_since <= begin
    return BarRateAlert(threshold, bars, expected) if bars > expected.high or is_slow else None
