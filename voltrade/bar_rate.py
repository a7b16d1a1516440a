"""Whether volume bars still come as often as they did when their threshold was chosen.

A threshold is chosen for the market of some days (see `tape_profile`). Markets change: with a third of the volume,
bars of the same threshold take three times as long, and lengths, stops and limits that count bars mean something else.
Live trading watches how many bars closed in the last 24 hours, and tells a person when they leave the band.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from voltrade.model import DAY_MS, Int64s


@dataclass(frozen=True, slots=True)
class Band:
    """Bars that 24 hours should bring at a threshold."""

    threshold: Decimal
    """In the unit that bars count."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Bars come too fast or too slowly for their threshold."""

    threshold: Decimal
    bars: int
    """Closed in the last 24 hours."""
    band: Band

    def __str__(self) -> str:
        speed = "fast" if self.bars > self.band.high else "slowly"
        return (
            f"bars of {self.threshold.normalize():f} come too {speed}: {self.bars} in 24 hours, "
            f"{self.band.low:.0f} to {self.band.high:.0f} were expected; calibrate the threshold anew"
        )


def drift(threshold: Decimal, band: Band, close_times: Int64s, watched_since: int, now: int) -> Drift | None:
    """Say whether bars have drifted from their band; None where they haven't, or it can't be known yet.

    A whole 24 hours are counted, since a market's hours differ from each other by more than its days do. Too many bars
    are known as soon as they are there; too few only once 24 hours were watched.

    Args:
        threshold: that the bars were closed by; a band of another threshold says nothing of them.
        close_times: of bars that closed lately, ms UTC, ascending; at least those of the last 24 hours.
        watched_since: from when on no bar is missing from `close_times`.

    Raises:
        ValueError: the band is of another threshold.
    """
    if threshold != band.threshold:
        raise ValueError(f"threshold: must be the band's {band.threshold}, was {threshold}")
    begin = now - DAY_MS
    bars = len(close_times) - int(np.searchsorted(close_times, begin, side="right"))
    is_slow = bars < band.low and watched_since <= begin
    return Drift(threshold, bars, band) if bars > band.high or is_slow else None
