"""Output that a thread writes, so that a held terminal (Ctrl-S) does not hold who has a position."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TextIO


class Terminal:
    """Standard output and the log while a check runs; as a context manager it writes all before it ends.

    A held terminal delays only that end, when nothing is open any more.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[TextIO | None, str] | None] = SimpleQueue()
        self._thread = Thread(target=self._write, name="terminal", daemon=True)
        self._log = _Lines(self)

    def __enter__(self) -> Terminal:
        self._thread.start()
        logging.getLogger().addHandler(self._log)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self._log)
        self._queue.put(None)
        self._thread.join()

    def print(self, text: str, file: TextIO | None = None) -> None:
        """Print a line soon."""
        self._queue.put((file or sys.stdout, text))

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            file, text = line
            with suppress(OSError, ValueError):  # a terminal that was closed
                print(text, file=file, flush=True)


class _Lines(logging.Handler):
    """Passes warnings on to the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.print(record.getMessage(), sys.stderr)
