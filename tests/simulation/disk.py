"""The disk of the simulated machine: journals that fail when they are told to, and images of a moment."""

from __future__ import annotations

import contextvars
import errno
import os
import random
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simulation.evidence import plain_body
from voltrade.exchange.block_note import NAME as BLOCK_NOTE
from voltrade.exchange.block_note import BlockNote
from voltrade.journal import Journal
from voltrade.runs.run_file import Record

KEPT = ("runs", "state")
"""Folders below the session's root that survive a death."""
TORN_BYTES = 1_500
_LOG_HEAD, _FRAME_HEAD = 32, 24
_CLIENT_ID = re.compile(rb'"client_order_id":"([^"]*)"')


class Disk:
    """The disk of one session.

    Args:
        root: the session's folder.
        seed: of what a torn write leaves.

    Attributes:
        is_full: while any, nothing more can be written.
        on_write: called around each commit of a journal, with `before commit` or `after commit`.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.is_full: list[bool] = []
        self.on_write: Callable[[str], None] = lambda when: None
        self._root, self._seed = root, seed
        self._readers: dict[Path, Reader] = {}

    # --- who else looks -----------------------------------------------------------------------------------------------

    def has_intent(self, folder: Path, client_id: str) -> bool:
        """Ask the file of a run's journal, as another process would, for an order's intent."""
        path = folder / "journal.db"
        if path not in self._readers and path.exists():
            self._readers[path] = Reader(path)
        return path in self._readers and self._readers[path].has_intent(client_id)

    def forget(self) -> None:
        """Before somebody touches the files: what a reader of this process knows of a log outlives the file."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    # --- what happens to files ----------------------------------------------------------------------------------------

    def touched(self, what: str) -> Path:
        """Return the path of a file or folder below the root that somebody is about to change behind our back."""
        self.forget()
        for index in (self._root / "runs").rglob("*-shm"):
            index.unlink()
        return self._root / what

    def spoil(self, what: str, size: int) -> None:
        """Overwrite the last bytes of a file."""
        path = self.touched(what)
        path.write_bytes(path.read_bytes()[:-size] + random.Random(self._seed).randbytes(size))

    def keep_image(self, run: str, lost: int, torn: bool) -> None:
        """Copy what is on the disk now.

        Args:
            run: whose journal's log has lost its end: a run's name.
            lost: so many of its last commits are not on the disk: it had not written what it said it had.
            torn: behind the last commit stands half of a write.
        """
        image = self._root / "image"
        image.mkdir()
        for folder in KEPT:
            if (self._root / folder).exists():
                unflushed = ("*.reached", BLOCK_NOTE) if lost else ()  # these notes are never flushed
                ignored = shutil.ignore_patterns("*-shm", "*.lock", *unflushed)
                shutil.copytree(self._root / folder, image / folder, ignore=ignored)
        log = image / "runs" / run / "journal.db-wal"
        ends = commits(log.read_bytes()) if (lost or torn) and log.exists() else []
        if ends:
            half = random.Random(self._seed).randbytes(TORN_BYTES) if torn else b""
            log.write_bytes(log.read_bytes()[: ends[max(len(ends) - 1 - lost, 0)]] + half)

    def restore_image(self, grave: str) -> None:
        """Put the image in the place of what is there, which is kept under another name."""
        self.forget()
        image = self._root / "image"
        for folder in KEPT:
            if (self._root / folder).exists():
                (self._root / folder).rename(self._root / f"{grave}-{folder}")
            if (image / folder).exists():
                (image / folder).rename(self._root / folder)
        shutil.rmtree(image)


DISK: contextvars.ContextVar[Disk] = contextvars.ContextVar("disk")
"""The disk of the session that runs now."""


class Reader:
    """A second reader of a journal's file: it sees what is committed, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._seq = 0
        self._known: set[bytes] = set()

    def has_intent(self, client_id: str) -> bool:
        rows = self._connection.execute("SELECT seq, kind, body FROM journal WHERE seq > ?", (self._seq,))
        for seq, kind, body in rows:
            self._seq = seq
            if kind == "OrderIntent":
                self._known.update(_CLIENT_ID.findall(plain_body(self._sample(), body)))
        return client_id.encode() in self._known

    def _sample(self) -> bytes:
        found = self._connection.execute("SELECT body FROM sample WHERE kind = 'OrderIntent'").fetchone()
        return bytes(found[0]) if found else b""

    def close(self) -> None:
        self._connection.close()


class SimulatedJournal(Journal):
    """The journal, on a disk that fails when it is told to.

    Nothing is flushed to the real disk: a simulated death never takes what was written.
    """

    def __init__(self, connection: sqlite3.Connection, *args: Any) -> None:
        super().__init__(connection, *args)
        connection.execute("PRAGMA synchronous = OFF")

    def _store(self, rows: Sequence[tuple[int, int, str, bytes, bytes]]) -> None:
        if DISK.get().is_full:
            raise sqlite3.OperationalError("database or disk is full")
        super()._store(rows)

    def commit(self) -> None:
        if not self._waiting:
            return
        DISK.get().on_write("before commit")
        super().commit()
        DISK.get().on_write("after commit")


class SimulatedRecord(Record):
    """A run's record, on a disk that is full when it is told to be."""

    def _write(self) -> None:
        if DISK.get().is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._write()


class SimulatedBlockNote(BlockNote):
    """A run's note of a pause, on a disk that is full when it is told to be."""

    def _replace(self, text: str) -> None:
        if DISK.get().is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._replace(text)


def commits(log: bytes) -> list[int]:
    """Return where the commits of SQLite's write-ahead log end (its file format, 4.1), the newest last."""
    if len(log) < _LOG_HEAD:
        return []
    [page_size] = struct.unpack_from(">I", log, 8)
    salts, ends = log[16:24], []
    for begin in range(_LOG_HEAD, len(log) - _FRAME_HEAD - page_size + 1, _FRAME_HEAD + page_size):
        _, pages_after, frame_salts = struct.unpack_from(">II8s", log, begin)
        if frame_salts != salts:
            break  # left over from before the log was begun anew
        if pages_after:
            ends.append(begin + _FRAME_HEAD + page_size)
    return ends
