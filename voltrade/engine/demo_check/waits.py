"""What the check waits for, told to whoever watches once no row has come for 2 s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from voltrade.engine.demo_check.report import Row

FIRST_S, NEXT_S = 2.0, 10.0
"""Silence before the first line about a wait, and between two of them."""

UNTIL_FLAT = "what became of an order without an answer, 70 s (recv_window_ms + 65 s), and until nothing is open"

WAITS: Mapping[str, str] = {
    "start": "the exchange to answer; a simulated venue compiles its rules at first, about a minute",
    "second process": "the process that cleans up if this one is killed to start, at most a minute",
    "streams": "the first message of each stream, at most 10 s",
    "private stream": "the private streams to open, at most 10 s",
    "countdown": "a countdown of 3 s to cancel an order, at most 8 s",
    "stops": "a stop just below the price to trigger, at most a minute",
    "wallet": "the account to book the last fill, at most 5 s",
    "flat again": UNTIL_FLAT,
    "clean-up": UNTIL_FLAT,
}
"""What is waited for by the part of the check; elsewhere an answer or an event."""


class WaitNotice:
    """Tells what is waited for.

    Attributes:
        part: The part of the check in progress.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        show_row: Callable[[Row], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to wait for the exchange.

        Args:
            tell: Called with each line.
            show_row: Called with each row, after which the wait begins anew.
            clock: Time in seconds.
        """
        self.part = "start"
        self._tell, self._show_row, self._clock = tell, show_row, clock
        self._since = clock()
        self._next_s = FIRST_S

    def on_row(self, row: Row) -> None:
        """Show a row, and begin to wait anew."""
        self._show_row(row)
        self._since, self._next_s = self._clock(), FIRST_S

    def begin_part(self, name: str) -> None:
        """Note which part of the check begins."""
        self.part = name

    def look(self) -> None:
        """Tell what is waited for if that was silent for long enough."""
        if (silent_s := self._clock() - self._since) >= self._next_s:
            self._next_s += NEXT_S
            awaited = WAITS.get(self.part, "an answer or an event of the exchange")
            self._tell(f"..  {self.part}: waiting for {awaited}; {silent_s:.0f} s so far")

    async def run(self) -> None:
        """Look twice a second, until it is cancelled."""
        while True:
            await asyncio.sleep(0.5)
            self.look()
