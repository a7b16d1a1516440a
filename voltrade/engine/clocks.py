"""The clocks of a session: the tape's time in lockstep, else the time of the machine or of the exchange."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from voltrade.errors import ExchangeError
from voltrade.exchange.binance import BinanceRestClient

log = logging.getLogger(__name__)

MAX_OFFSET_MS = 10_000
"""A larger difference from the exchange's time means that the machine's clock is wrong, and the exchange's is used.
A smaller one only changes the timestamps of signed requests."""


def offset_text(ahead_ms: int) -> str:
    """Return how far the machine's clock is from the exchange's, in words."""
    return f"{abs(ahead_ms):,} ms {'behind' if ahead_ms < 0 else 'ahead of'} the exchange's"


class TapeClock:
    """The time of a tape, ms UTC; the lockstep loop moves it."""

    corrected_ms = 0
    """No machine's clock is behind it, so there is nothing to correct."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def set(self, now: int) -> None:
        """Move the clock."""
        self.now = now


def _monotonic_ns() -> int:
    """Return nanoseconds that never jump; they include the machine's sleep where the system counts it."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class WallClock:
    """Milliseconds UTC: the machine's time when the clock was made, plus the time elapsed since.

    Changes of the machine's clock during a session move no timer, no age and no end of the session.

    Args:
        wall: Returns the machine's time, ns UTC.
        elapsed: Returns monotonic time, ns.
    """

    corrected_ms = 0
    """By how much the machine's clock was found to be ahead of the exchange's, whose time has counted since."""

    def __init__(self, wall: Callable[[], int] = time.time_ns, elapsed: Callable[[], int] = _monotonic_ns) -> None:
        self._elapsed = elapsed
        self._begin = wall() - elapsed()

    def __call__(self) -> int:
        return (self._begin + self._elapsed()) // 1_000_000

    def set(self, now: int) -> None:
        """Do nothing: only a tape's clock is moved."""

    async def sync(self, rest: BinanceRestClient) -> None:
        """Use the exchange's time where the machine's clock is wrong; keep the machine's if it can't be read."""
        with suppress(ExchangeError):
            self.correct(await rest.clock_offset())

    def correct(self, ahead_ms: int) -> bool:
        """Use the exchange's time where the machine's clock is wrong; return whether it was.

        Args:
            ahead_ms: By how much this clock is ahead of the exchange's.
        """
        if abs(ahead_ms) <= MAX_OFFSET_MS:
            return False
        log.warning("the machine's clock is %s, which counts", offset_text(ahead_ms))
        self._begin -= ahead_ms * 1_000_000
        self.corrected_ms += ahead_ms
        return True
