"""The audit log: every event and every output of the core, in order; each row has a hash over all rows before it.

A journal is one SQLite file that is only appended to. The engine appends and commits (an intent before its request is
sent); the notebook, `replay`, `verify` and `review` read the same file, also while the engine writes. A row stores the
fact itself, in few bytes (`bodies`): `decode(*encode(fact))` is equal to `fact`. Text that UTF-8 can't encode
is stored as its escape (`as_stored`).
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from voltrade.errors import DamagedJournal, JournalError
from voltrade.folders import sync_folder
from voltrade.journal.bodies import TABLE, TRIGGERS, Bodies
from voltrade.journal.lock import refuse_unsafe, take_lock
from voltrade.journal.rows import ADAPTERS, Fact, Row, encode_json, encoded, first_hash, row_hash
from voltrade.model import storable

APPLICATION_ID = 0x766F6C74
"""`volt`, in the header of the SQLite file."""

SCHEMA_VERSION = 5

TAIL_ROWS = 1_000
"""Rows whose hashes are recomputed when a journal is opened for writing; `verify` recomputes all."""

_READ_ROWS = 500

_SCHEMA = (
    "CREATE TABLE header (id INTEGER PRIMARY KEY CHECK (id = 1), identity TEXT NOT NULL) STRICT",
    "CREATE TABLE journal (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind TEXT NOT NULL, "
    "body BLOB NOT NULL, hash BLOB NOT NULL) STRICT",
    TABLE,
    # An INSERT OR REPLACE fires no delete trigger, so every insert must be the next row.
    "CREATE TRIGGER journal_insert BEFORE INSERT ON journal "
    "WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM journal) "
    "BEGIN SELECT RAISE(ABORT, 'journal: only the next row can be added'); END",
    "CREATE TRIGGER journal_update BEFORE UPDATE ON journal "
    "BEGIN SELECT RAISE(ABORT, 'journal: rows are never changed'); END",
    "CREATE TRIGGER journal_delete BEFORE DELETE ON journal "
    "BEGIN SELECT RAISE(ABORT, 'journal: rows are never deleted'); END",
    "CREATE TRIGGER header_update BEFORE UPDATE ON header BEGIN SELECT RAISE(ABORT, 'header: is never changed'); END",
    "CREATE TRIGGER header_delete BEFORE DELETE ON header BEGIN SELECT RAISE(ABORT, 'header: is never deleted'); END",
    *TRIGGERS,
)


# --- writing ----------------------------------------------------------------------------------------------------------


class Journal:
    """A journal open for writing, by one process at a time; use `create` or `open`.

    Appended rows are on disk once `commit` has returned, and survive the death of the process and of the machine. Rows
    that can't be stored wait in memory, in order, and are tried again with the next `commit`. Calls may come from any
    thread, one at a time.
    """

    def __init__(self, connection: sqlite3.Connection, lock: int, seq: int, head: bytes) -> None:
        self._connection = connection
        self._bodies = Bodies(connection)
        self._bodies.load()
        self._lock = lock
        self._seq = seq
        self._head = head
        self._committed = seq, head
        self._waiting: list[tuple[int, int, str, bytes, bytes]] = []
        """Rows that are not on disk yet."""
        self._is_closed = False
        self.on_commit: Callable[[int, str], object] = lambda seq, head: None
        """Called with position and hash of the last row whenever rows have been stored."""

    @classmethod
    def create(cls, path: Path | str, identity: str = "") -> Journal:
        """Create an empty journal: a file of mode 0600 in a folder of mode 0700, which is created where it is missing.

        `identity` describes the owner (account, mode, ...); the hashes include it and `open` can require it.

        Raises:
            JournalError: the file exists, or its folder is open to others.
        """
        path, identity = Path(path), storable(identity)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_unsafe(path.parent, folder=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        except FileExistsError:
            raise JournalError(f"{path}: must be new, exists already") from None
        except OSError as error:
            raise JournalError(f"{path}: can't be created: {error}") from None
        with _opening(path) as (connection, lock):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO header VALUES (1, ?)", (identity,))
            connection.execute("COMMIT")
            sync_folder(path.parent)
            return cls(connection, lock, 0, first_hash(identity))

    @classmethod
    def open(cls, path: Path | str, identity: str | None = None) -> Journal:
        """Open a journal for appending, after a check of its header, its schema and its last rows.

        With `identity` it must be the journal of that identity. Nothing is repaired here: SQLite rolls back a
        transaction that a crash interrupted, and any other damage is refused.

        Raises:
            JournalError: the file isn't a journal, has another identity, is damaged, open to others, or in use.
        """
        path = Path(path)
        refuse_unsafe(path.parent, folder=True)
        refuse_unsafe(path, folder=False)
        with closing(_connect_to_read(path)) as reader:  # before anything could write to a file that isn't a journal
            owner = _check_header(reader, path)
        if identity is not None and owner != storable(identity):
            raise JournalError(f"{path}: must be the journal of {identity!r}, is that of {owner!r}")
        with _opening(path) as (connection, lock):
            result = _check_chain(connection, owner, tail=TAIL_ROWS)
            if not result.ok:
                raise DamagedJournal(f"{path}: row {result.bad_seq}: {result.rule}")
            return cls(connection, lock, result.seq, bytes.fromhex(result.head))

    @property
    def seq(self) -> int:
        """Position of the last row appended; 0 without rows."""
        return self._seq

    @property
    def head(self) -> str:
        """Hash of the last row appended, 64 hex digits; it depends on all rows before."""
        return self._head.hex()

    def append(self, kind: str, time: int, body: bytes | Mapping[str, Any]) -> int:
        """Append a row and return its position; it is durable after the next `commit`.

        A dict is for kinds that aren't in the model ("Start", "Bar", "End"); bytes are stored as they are.

        Raises:
            JournalError: the row can't be encoded, or the journal is closed.
        """
        if self._is_closed:
            raise JournalError("journal: can't be appended to: it is closed")
        if not isinstance(body, bytes):
            if kind in ADAPTERS or kind == "Trades":
                raise JournalError(f"kind: {kind} is a fact of the model, and can't be given as a dict")
            body = encode_json(body)
        seq = self._seq + 1
        try:
            head = row_hash(self._head, seq, time, kind.encode(), body)
        except (struct.error, TypeError) as error:
            raise JournalError(f"journal: row {seq} can't be encoded: {error}") from None
        self._waiting.append((seq, time, kind, self._bodies.stored(kind, body), head))
        self._seq, self._head = seq, head
        return seq

    def append_fact(self, fact: Fact, time: int) -> Fact:
        """Append a fact of the model, and return it as the row stores it; see `append` and `as_stored`."""
        kind, body, fact = encoded(fact)
        self.append(kind, time, body)
        return fact

    def commit(self) -> None:
        """Store all rows appended so far: on return they are on disk.

        Raises:
            JournalError: they can't be stored now; none of them is on disk, and all wait for the next `commit`.
        """
        if not self._waiting:
            return
        try:
            self._store(self._waiting)
        except (sqlite3.Error, OverflowError) as error:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise JournalError(f"journal: row {self._waiting[0][0]} could not be stored: {error}") from None
        self._waiting.clear()
        self._bodies.added.clear()
        self._committed = self._seq, self._head
        self.on_commit(*self.committed)

    def _store(self, rows: Sequence[tuple[int, int, str, bytes, bytes]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO sample VALUES (?, ?)", self._bodies.added)
        self._connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    @property
    def committed(self) -> tuple[int, str]:
        """Position and hash of the last row that is on disk; rows appended since could still be lost."""
        seq, head = self._committed
        return seq, head.hex()

    def close(self) -> None:
        """Commit, and close the file.

        Raises:
            JournalError: rows that were waiting could not be stored, and are lost.
        """
        if self._is_closed:
            return
        try:
            self.commit()
        finally:
            self._is_closed = True
            self._waiting.clear()
            self._connection.close()
            os.close(self._lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path | str, after: int = 0, kind: str = "") -> Iterator[Row]:
    """Yield the committed rows after row `after`, also while the engine writes; call again for newer rows.

    With `kind`, only rows of that kind. Hashes are not checked here; `verify` does that.

    Raises:
        JournalError: the file isn't a journal, or is damaged.
    """
    path = Path(path)
    with _reading(path) as connection:
        bodies = Bodies(connection)
        # In batches, because a long read would keep SQLite from checkpointing the engine's write-ahead log.
        while batch := _rows(connection, after, kind):
            yield from (_read(bodies, row) for row in batch)
            after = batch[-1][0]


def last(path: Path | str, kind: str) -> Row | None:
    """Return the last committed row of one kind; None without one.

    Raises:
        JournalError: the file isn't a journal, or is damaged.
    """
    with _reading(Path(path)) as connection:
        found = connection.execute(
            "SELECT seq, time, CAST(kind AS BLOB), body, hash FROM journal WHERE kind = ? ORDER BY seq DESC LIMIT 1",
            (kind,),
        ).fetchone()
        return _read(Bodies(connection), found) if found else None


def identity_of(path: Path | str) -> str:
    """Return a journal's identity: what `create` was given, or the hash of its first row where that was empty.

    Raises:
        JournalError: the file isn't a journal, has no row, is another user's, or open to others.
    """
    path = Path(path)
    refuse_unsafe(path.parent, folder=True)
    refuse_unsafe(path, folder=False)
    with closing(_connect_to_read(path)) as connection:
        identity = _check_header(connection, path)
    if identity:
        return identity
    for first in read(path):
        return first.hash.hex()
    raise DamagedJournal(f"{path}: must have a row, has none")


def last_row(path: Path | str) -> tuple[int, str]:
    """Return the position of a journal's last row and its hash; 0 and an empty text without rows.

    Raises:
        JournalError: the file isn't a journal, or is damaged.
    """
    path = Path(path)
    with _reading(path) as connection:
        last = connection.execute("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return (last[0], last[1].hex()) if last else (0, "")


def seq_of_head(path: Path | str, head: str) -> int:
    """Return the position of the row with a hash, 0 where there is none.

    Raises:
        JournalError: the file isn't a journal, or is damaged.
    """
    path = Path(path)
    try:
        sought = bytes.fromhex(head)
    except ValueError:
        return 0
    with _reading(path) as connection:
        found = connection.execute("SELECT seq FROM journal WHERE hash = ?", (sought,)).fetchone()
    return int(found[0]) if found else 0


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The result of `verify`: the valid rows, their head, and the first row that breaks a rule, with the rule."""

    seq: int
    """Last row up to which the chain is valid."""
    head: str
    """Hash of that row, hex."""
    bad_seq: int | None = None
    """First row that breaks a rule; None where all rows are valid, 0 where the file itself isn't."""
    rule: str = ""

    @property
    def ok(self) -> bool:
        """Whether all rows are valid."""
        return self.bad_seq is None


def verify(path: Path | str, head: str = "") -> VerifyResult:
    """Recompute the whole chain and return the first row, if any, that was changed, added or removed.

    A journal whose last rows were removed is still a valid chain: only a `head` noted elsewhere can show that, and
    `runs.verify` compares a run with all such notes. Never raises, whatever is in the file.
    """
    path = Path(path)
    try:
        with closing(_connect_to_read(path)) as connection:
            identity = _check_header(connection, path)
            result = _check_chain(connection, identity)
    except JournalError as error:
        return VerifyResult(0, "", 0, str(error))
    if result.ok and head and result.head != head:
        return VerifyResult(result.seq, result.head, result.seq + 1, f"head must be {head}, is {result.head}")
    return result


def _check_chain(connection: sqlite3.Connection, identity: str, tail: int | None = None) -> VerifyResult:
    """Recompute the hashes of all rows, or of the last `tail`."""
    seq, head, bodies = 0, first_hash(identity), Bodies(connection)
    try:
        if tail is not None:
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()
            if last > tail:
                seq = last - tail
                (head,) = connection.execute("SELECT hash FROM journal WHERE seq = ?", (seq,)).fetchone() or (b"",)
        elif connection.execute("SELECT 1 FROM journal WHERE seq < 1").fetchone():
            return VerifyResult(0, head.hex(), 1, "seq must count from 1")
        while batch := _rows(connection, seq):
            for found in batch:
                if rule := _broken_rule(bodies, head, seq + 1, found):
                    return VerifyResult(seq, head.hex(), seq + 1, rule)
                seq, head = seq + 1, found[4]
    except (sqlite3.Error, OverflowError) as error:
        return VerifyResult(seq, head.hex(), seq + 1, f"the file is damaged: {error}")
    return VerifyResult(seq, head.hex())


_RawRow = tuple[int, int, bytes, bytes, bytes]


def _read(bodies: Bodies, row: _RawRow) -> Row:
    seq, time, kind, stored, sealed = row
    return Row(seq, time, kind.decode(errors="replace"), bodies.plain(kind, stored), sealed)


def _broken_rule(bodies: Bodies, previous: bytes, expected: int, row: _RawRow) -> str:
    """Return the rule that a row breaks, empty where it breaks none."""
    seq, time, kind, body, sealed = row
    if seq != expected:
        return f"seq must be {expected}, was {seq}"
    if not (isinstance(time, int) and all(isinstance(part, bytes) for part in (kind, body, sealed))):
        return "time must be a whole number, kind a text, body and hash bytes"
    wrong = "hash must be that of the previous hash, seq, time, kind and body"
    try:
        is_right = len(kind) <= 0xFFFF and row_hash(previous, seq, time, kind, bodies.plain(kind, body)) == sealed
    except DamagedJournal as error:
        return f"{wrong}: {error}"
    return "" if is_right else wrong


def _rows(connection: sqlite3.Connection, after: int, kind: str = "") -> list[_RawRow]:
    """Return the next rows, or those of one kind; kind as bytes, since a damaged one may not be text."""
    return connection.execute(
        "SELECT seq, time, CAST(kind AS BLOB), body, hash FROM journal "
        "WHERE seq > ? AND (? = '' OR kind = ?) ORDER BY seq LIMIT ?",
        (after, kind, kind, _READ_ROWS),
    ).fetchall()


# --- the file ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opening(path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """Connect for writing and take the lock; both are released where the opening fails."""
    lock = take_lock(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection, lock
    except BaseException as error:
        if connection is not None:
            connection.close()
        os.close(lock)
        if isinstance(error, sqlite3.Error):
            raise _failure(error)(f"{path}: can't be opened: {error}") from None
        raise


def _failure(error: Exception) -> type[JournalError]:
    """Return the error for one of reading: a busy or unreadable disk damages nothing."""
    return JournalError if isinstance(error, sqlite3.OperationalError) else DamagedJournal


def _connect_to_read(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5.0)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: can't be opened: {error}") from None


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect to read a journal; a damaged file is reported as a `JournalError`."""
    with closing(_connect_to_read(path)) as connection:
        _check_header(connection, path)
        try:
            yield connection
        except sqlite3.Error as error:
            raise _failure(error)(f"{path}: the file is damaged: {error}") from None


def _check_header(connection: sqlite3.Connection, path: Path) -> str:
    """Refuse a file that isn't a journal of this version, exactly as `create` makes it; return its identity."""
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        schema = tuple(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY rowid"))
        identity = connection.execute("SELECT identity FROM header").fetchall() if schema == _SCHEMA else []
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _failure(error)(f"{path}: can't be read as a journal: {error}") from None
    if application != APPLICATION_ID:
        raise DamagedJournal(f"{path}: application id must be {APPLICATION_ID:#x}, was {application:#x}: not a journal")
    if version != SCHEMA_VERSION:
        kind = JournalError if version else DamagedJournal  # not even its begin has reached the disk
        raise kind(f"{path}: version of the journal must be {SCHEMA_VERSION}, was {version}")
    if schema != _SCHEMA or len(identity) != 1:
        raise DamagedJournal(f"{path}: tables and triggers must be those that a journal is created with")
    return str(identity[0][0])
