"""For how long the exchange blocks requests, kept in a run's folder for the process that is started next.

A killed engine's successor would otherwise ask into the block, which the exchange takes as a reason to make it longer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "blocked.json"

LONGEST_MS = 3 * 86_400_000
"""Binance's longest ban. What says more was not noted by us, and must not keep a position without its stop."""

NOTHING = (0, 0)


def machine_ms() -> int:
    """Return the machine's time, ms UTC: unlike a session's clock, the next process has it too."""
    return time.time_ns() // 1_000_000


class BlockNote:
    """The file with the newest pause that the exchange has asked for.

    It has when it was noted by the machine's clock, and for how long the pause lasts from then on. It is not flushed
    to the disk: it survives the process, and after a power failure may be lost.

    Args:
        folder: Of the run.
        wall: Returns the machine's time, ms UTC.
    """

    def __init__(self, folder: Path, wall: Callable[[], int] = machine_ms) -> None:
        self._path, self._wall = folder / NAME, wall

    def write(self, for_ms: int, unsaid: int) -> None:
        """Note a pause that begins now; where it can't be written, say so in the log.

        Args:
            for_ms: How long it lasts.
            unsaid: How many pauses there were before, without a good answer between them, for which the exchange
                didn't say how long they last.
        """
        try:
            self._replace(json.dumps({"noted": self._wall(), "for_ms": for_ms, "unsaid": unsaid}))
        except OSError as error:
            log.warning("%s: the pause can't be noted: %s", self._path, error)

    def read(self) -> tuple[int, int]:
        """Return for how many ms more no request may be sent, and `unsaid`; zeros without a note that holds now.

        A pause that is over counts for nothing, not for `unsaid` either: a good answer may have come since. One from
        the future, by a clock that was set back since, would last for longer than the exchange said.
        """
        try:
            found = json.loads(self._path.read_bytes())
            noted, for_ms, unsaid = (_count(found[name]) for name in ("noted", "for_ms", "unsaid"))
        except FileNotFoundError:
            return NOTHING
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: the pause can't be read: %s: %s", self._path, type(error).__name__, error)
            return NOTHING
        now, until = self._wall(), noted + for_ms
        return (until - now, unsaid) if noted <= now < until and for_ms <= LONGEST_MS else NOTHING

    def _replace(self, text: str) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._path)


def _count(value: object) -> int:
    """Return a value that must be a count.

    Raises:
        ValueError: It is none.
    """
    if type(value) is not int or value < 0:
        raise ValueError(f"must be a count, was {value!r}")
    return value
