"""The files of an account's ledger: where they are, what they contain, and how they are written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from voltrade.errors import SessionError
from voltrade.folders import state_home, sync_folder
from voltrade.journal.lock import refuse_unsafe
from voltrade.runs.account_lock import is_same_file, open_private

VERSION = 5
"""Version of the ledger's file; one of an earlier version is read by its names, one of a later version is refused."""


def accounts_home(environment: Mapping[str, str]) -> Path:
    """Return the folder with all ledgers of this user.

    Raises:
        SessionError: The path is relative, so it would change with the working directory.
    """
    return state_home(environment) / "accounts"


def file_name(account: str, mode: str) -> str:
    """Return the name of an account's ledger file."""
    return f"{sha256(account.encode()).hexdigest()[:12]}-{mode}.json"


@dataclass(frozen=True, slots=True)
class FinalState:
    """The state in which a run ended; the account's next run starts from it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    run: str
    """Id of the run."""
    head: str
    """Hash of the last row of its journal."""
    state: dict[str, Any] | None
    """As returned by `TradingCore.state`; None where the run ended before it had read the account."""


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """The content of a ledger file: the run that owns the account, and what the next run needs."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    version: int
    account: str
    mode: str
    run: str
    """Id of the run that owns the account."""
    folder: str
    """Folder of the run when it last started."""
    final_state: FinalState | None = None
    """None while the run is not over, and after a kill: the next run then rebuilds the state from the journal."""
    resumed_from: FinalState | None = None
    """The state that the run itself started from."""
    previous_run: str = ""
    """Id of the run whose journal position was noted last when this run began."""


_RECORD = TypeAdapter(LedgerRecord)

NOT_READ = FinalState("", "", {})
"""What an account's next run goes on from where its ledger can't be read: a state of which nothing is known."""


class LedgerUnread(SessionError):
    """The content of an account's ledger can't be read."""


def read_record(path: Path, account: str, mode: str) -> LedgerRecord | None:
    """Read a ledger file; return None where there is none.

    Raises:
        LedgerUnread: It can't be read, or is of a later version.
        SessionError: It isn't a ledger of this account and mode.
        JournalError: It belongs to another user, or others can write it.
    """
    if not path.exists():
        return None
    refuse_unsafe(path, folder=False)
    try:
        content = path.read_bytes()
        stated = orjson.loads(content)
    except (OSError, orjson.JSONDecodeError) as error:
        raise LedgerUnread(f"{path}: must be an account's ledger: {error}") from None
    stated = stated if isinstance(stated, dict) else {}
    for name, wanted in (("account", account), ("mode", mode)):
        if name in stated and stated[name] != wanted:
            raise SessionError(f"{path}: {name} must be {wanted!r}, was {stated[name]!r}")
    version = stated.get("version")
    if version is not None and (not isinstance(version, int) or version > VERSION):
        raise LedgerUnread(f"{path}: version must be {VERSION} or less, was {version!r}")
    try:
        return _RECORD.validate_json(orjson.dumps(_as_of_now(stated)))
    except ValidationError as error:
        raise LedgerUnread(f"{path}: must be an account's ledger: {error}") from None


def _as_of_now(stated: dict[str, Any]) -> dict[str, Any]:
    """Return what a file states, of an earlier version without the names that aren't known any more.

    A file that doesn't name `final_state` is refused: it may have that under an earlier name, with limits that are
    used.
    """
    if stated.get("version") == VERSION:
        return stated
    known = {field.name: stated[field.name] for field in fields(LedgerRecord) if field.name in stated}
    return known | {"version": VERSION} if "final_state" in known else {}


def write_record(path: Path, record: LedgerRecord) -> None:
    """Replace a ledger file; a reader finds either the old content or the new one, also after a power failure."""
    fresh = path.with_suffix(".tmp")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(_RECORD.dump_python(record), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class JournalPosition:
    """How far a run's journal was written: its row count, and the hash of its last row."""

    run: str = ""
    """Id of the run; empty where no position is known."""
    rows: int = 0
    head: str = ""


class PositionFile:
    """A small file with the last journal position of an account.

    It is not flushed to the disk: it survives the process, but after a power failure it can be older.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def write(self, position: JournalPosition) -> None:
        """Replace the position.

        Raises:
            OSError: The file can't be written.
        """
        if self._file < 0 or not is_same_file(self._file, self._path):
            fresh = open_private(self._path)
            self.close()
            self._file = fresh
        text = orjson.dumps({"run": position.run, "rows": position.rows, "head": position.head}) + b"\n"
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def read(self) -> JournalPosition:
        """Return the last position; an empty one where the file is missing or damaged."""
        try:
            found = json.loads(self._path.read_bytes())
            return JournalPosition(str(found["run"]), int(found["rows"]), str(found["head"]))
        except (OSError, ValueError, KeyError, TypeError):
            return JournalPosition()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
