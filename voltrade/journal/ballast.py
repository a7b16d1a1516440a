"""Space on the disk that is kept free for the rows of orders that protect a position.

A file of 16 MB beside the journal is deleted once a disk is full and such a row must be written. Entries wait until the
disk has room for it again.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

BALLAST = "ballast"
"""File in a run's folder."""
SIZE, PART = 16 << 20, 1 << 20
"""Bytes of the file; it is written in parts."""
NOT_STORED_TEXT = "not sent: the journal can't be written, or its disk is nearly full"
"""Text of the reply to an entry that was not sent."""
LEAST_FREE = 4 << 20
"""Bytes that a disk must have free for an engine that starts."""


class Ballast:
    """The file of one run.

    Args:
        folder: Of the run; None where no space is kept, as in lockstep and in simulations.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = folder / BALLAST if folder is not None else None
        self._is_laid = False

    def lay(self) -> bool:
        """Take the space unless it is taken; return whether it is. A disk without room for all of it keeps none."""
        if self._path is None or self._is_laid:
            return True
        try:
            self._is_laid = self._path.exists() and self._path.stat().st_size == SIZE
            if not self._is_laid:
                self._write(self._path)
        except OSError:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        return self._is_laid

    def _write(self, path: Path) -> None:
        """Write bytes that no file system makes smaller."""
        with path.open("wb", buffering=0) as file:
            for _ in range(SIZE // PART):
                if file.write(os.urandom(PART)) != PART:
                    raise OSError("the disk is full")
        self._is_laid = True

    def free(self) -> bool:
        """Give the space back; return whether there was any."""
        self._is_laid = False
        if self._path is None or not self._path.exists():
            return False
        log.warning("the disk is full: the %d MB that were kept free are used; no entry until it has room", SIZE >> 20)
        with suppress(OSError):
            self._path.unlink()
        return True

    def remove(self) -> None:
        """Give the space back after the session's end."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Before an engine opens its journal: give the space back where the disk has next to nothing left."""
        if self._path is not None and self._path.exists():
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < LEAST_FREE:
                self.free()
