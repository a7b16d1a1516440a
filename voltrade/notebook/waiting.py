"""A line that says what a cell waits for, and for how many seconds, once the wait has lasted 2 s."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from voltrade.compiled import is_compiling

AFTER_S = 2.0
"""A shorter wait needs no line."""
EVERY_S = 1.0


def starting_text(waited_s: float) -> str:
    """Return what a starting engine is doing; empty for a short wait."""
    if waited_s < AFTER_S:
        return ""
    return f"starting the engine, {waited_s:.0f} s; the first start after an update compiles the rules, about a minute"


class Waiting:
    """Shows a line each second while its block computes, from a thread, as the block keeps the notebook's own busy."""

    def __init__(self, doing: str, show: Callable[[str], object]) -> None:
        """Prepare the line.

        Args:
            doing: What the block does, where no rule is being compiled.
            show: Shows a text in place of the one before.
        """
        self._doing, self._show, self._ended = doing, show, Event()
        self._compiled = False
        self._thread = Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Waiting:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        wait_s = AFTER_S
        while not self._ended.wait(wait_s):
            wait_s = EVERY_S
            self._compiled = self._compiled or is_compiling()
            doing = "compiling the rules, once, usually about a minute" if is_compiling() else self._doing
            self._show(f"{doing}: {time.monotonic() - self._began:.0f} s")
        if wait_s == EVERY_S:  # a line is shown
            what = "compiled the rules" if self._compiled else self._doing
            self._show(f"{what}: {time.monotonic() - self._began:.0f} s, done")
