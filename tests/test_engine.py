"""The engine's process: what its surroundings do slowly holds up no order."""

from __future__ import annotations

import io
import logging
import sys
import threading

import pytest

from voltrade.engine import _logging_beside


class SlowDisk(io.StringIO):
    """Takes a line only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        assert self.let.wait(20)
        return super().write(text)


def test_nobody_waits_for_a_log_that_is_slow_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case C4, sibling. The lines are all there in the end, in their order, and the traceback with them."""
    disk = SlowDisk()
    monkeypatch.setattr(sys, "stderr", disk)
    log = logging.getLogger("voltrade.slow")
    with _logging_beside():
        log.warning("first")
        assert disk.asked.wait(20)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("second")
        assert not disk.getvalue()
        disk.let.set()
    lines = disk.getvalue().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("first", "second", "ValueError: why")
