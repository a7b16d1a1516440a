"""A run's `run.json`: its parameters, its state, and how it ended.

`notebook.session.start` creates it with what was asked for (`parameters`, `epoch`, `created`, `rule_sha256`, and
`threshold`: the volume of a bar, and whether it was given or is the symbol's own); the engine adds who trades (`pid`,
`socket`, `venue`, `account`), the rows of the start-up table (`checks`), and how it ended (`state`, `end_reason`,
`ended`, `head`). Notebooks and commands read it, to see whether the run is running, can
be resumed, or is over. A file that is lost or damaged is made again from the journal, so that a position is never left
to nobody for it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voltrade import journal
from voltrade.config import Config
from voltrade.errors import DamagedJournal, JournalError, SessionError
from voltrade.folders import sync_folder
from voltrade.strategy.rule_file import was_edited

log = logging.getLogger(__name__)

RECORD, JOURNAL = "run.json", "journal.db"
"""Files in a run's folder."""
PAGE = "review.html"
"""The review of a run, if one was written."""
NOTED = "run"
"""Key under `voltrade` in an executed notebook's metadata, for how the run ended."""
STARTING = "starting"
UNFINISHED = (STARTING, "running")
OVER = ("ended", "failed")
ENDING = "ending"
"""State of a session that has stopped trading, while its record still says that it runs."""
TOO_LATE = (ENDING, *OVER)
"""States in which operator commands are refused."""


def utc_now() -> str:
    """Return the time as `run.json` has it: UTC, in ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def load(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder.

    Raises:
        SessionError: The record is missing or damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        was = f"{folder}, {_fault(folder, error)}"
        raise SessionError(f"run: must be the folder of a run with its {RECORD}, was {was}") from None
    if not isinstance(record, dict) or "state" not in record:
        raise SessionError(f"{folder / RECORD}: must be a run's record with a state")
    return record


def _fault(folder: Path, error: Exception) -> str:
    """Return why a folder's record can't be read, as a clause after the folder's name."""
    if not folder.is_dir():
        return "which is not there" if not folder.exists() else "which is a file"
    if isinstance(error, FileNotFoundError):
        return "which has none"
    why = error.strerror if isinstance(error, OSError) else f"it is damaged: {error}"
    return f"of which it can't be read: {why}"


def restored(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder; one that is missing or damaged is made from the run's journal.

    A run whose journal has a row has begun, whatever its record says: that may be an older one.

    Raises:
        SessionError: It is missing or damaged, and so is the journal.
    """
    try:
        record = load(folder)
    except SessionError:
        if not (record := of_journal(folder / JOURNAL)):
            raise
    is_known = record.get("begun") or record["state"] in OVER
    return record if is_known or not _has_rows(folder / JOURNAL) else record | {"begun": True}


def _has_rows(path: Path) -> bool:
    try:
        return path.exists() and journal.last_row(path)[0] > 0
    except JournalError:
        return False


def of_journal(path: Path) -> dict[str, Any]:
    """Return the record that a run's journal makes: that of a run that was cut short, unless it has its last row.

    Processes, addresses and the notebook are not in a journal; the account's name is in its start-up table. Without a
    journal that can be read it is empty.
    """
    try:
        start, end = next(journal.read(path, kind="Start"), None), journal.last(path, "End")
        identity, (rows, head) = journal.identity_of(path), journal.last_row(path)
        facts: dict[str, Any] = start.fact if start is not None else {}
    except JournalError:
        return {}
    if not facts:
        return {}
    account = (check["found"] for check in facts.get("checks", []) if check["item"] == "account")
    record: dict[str, Any] = {
        name: facts[name] for name in ("parameters", "epoch", "rule_sha256", "checks") if name in facts
    }
    record |= {"id": identity, "account": next(account, ""), "begun": True, "state": "running"}
    if end is None:
        return record
    return record | {"state": "ended", "end_reason": end.fact["reason"], "rows": rows, "head": head}


def release(folder: Path) -> None:
    """Note that no notebook attends a run which is gone on with from elsewhere, so that no engine waits for one."""
    write(folder, restored(folder) | {"released": True})


def refuse_missing(path: Path) -> None:
    """Refuse the journal of a run that has begun where it is not there.

    Raises:
        DamagedJournal: Names the file.
    """
    if not path.exists():
        raise DamagedJournal(f"{path}: must be there, since the run has begun")


def read(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder; empty if it is missing or damaged."""
    try:
        return load(folder)
    except SessionError:
        return {}


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace the record: a reader finds the old one or the new one, never a part, also after a loss of power."""
    fresh = folder / "run.new"
    with fresh.open("w") as file:
        file.write(json.dumps(record, indent=2))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / RECORD)
    sync_folder(folder)


class Record:
    """The record of a running engine; each update is written immediately."""

    def __init__(self, folder: Path) -> None:
        """Read the record; one that is lost is made from the journal.

        Raises:
            SessionError: The record is missing or damaged, and so is the journal.
        """
        self._folder = folder
        self.facts = restored(folder)

    def update(self, **facts: Any) -> None:
        """Change values and write the record.

        Raises:
            OSError: It can't be written; the next update writes these values too.
        """
        self.facts.update(facts)
        self._write()

    def note(self, **facts: Any) -> None:
        """Do as `update`, but only log what prevents it: a full disk ends no engine that has a position."""
        try:
            self.update(**facts)
        except OSError as error:
            log.warning("%s: %s can't be noted: %s", self._folder / RECORD, ", ".join(facts), error)

    def _write(self) -> None:
        write(self._folder, self.facts)


def state_of(record: Mapping[str, Any]) -> str:
    """Return the state: starting, running, ended, failed, killed if the engine is gone; empty without a record."""
    state = str(record.get("state", ""))
    was_seen = state == "running" or (state == "starting" and "pid" in record)
    return "killed" if was_seen and not is_running(record) else state


def is_running(record: Mapping[str, Any]) -> bool:
    """Whether a run has a guardian, which starts its engine again, or an engine.

    An engine accepts connections; before its socket is open, its process exists.
    """
    if record.get("state") not in UNFINISHED:
        return False
    if is_guarded(record):
        return True
    if address := record.get("socket"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(address))
            except OSError:
                return False
            return True
    pid = record.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def is_guarded(record: Mapping[str, Any]) -> bool:
    """Whether a guardian holds the lock of an unfinished run, and starts its engine again if that dies."""
    lock = record.get("guardian")
    if not lock or record.get("state") not in UNFINISHED:
        return False
    with suppress(OSError), open(str(lock), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def can_be_resumed(folder: Path) -> bool:
    """Whether the run's engine was killed after it had created its journal, so that the run can be resumed.

    Also where the journal is damaged or gone since: an engine then looks after the position, and enters nothing.
    """
    try:
        record = restored(folder)
    except SessionError:
        return False
    return record.get("state") in UNFINISHED and bool(record.get("begun")) and not is_running(record)


def with_begun_threshold(given: Mapping[str, object], folder: Path | None) -> dict[str, object]:
    """Return parameters with the threshold that a run began with, where they leave it to the symbol.

    Args:
        given: Parameters to resume the run with.
        folder: Folder of the run; None for a new one.
    """
    begun = read(folder).get("parameters", {}) if folder is not None else {}
    added = {"threshold": begun["threshold"]} if "threshold" in begun and not given.get("threshold") else {}
    return {**given, **added}


def changed(record: Mapping[str, Any], config: Config, but: Collection[str] = ()) -> list[str]:
    """Return a line for each parameter that differs from those that the run began with.

    Args:
        record: Record of the run.
        config: Settings to resume it with.
        but: Names that are not compared.
    """
    begun = record.get("parameters") or {}
    given = json.loads(json.dumps(config.parameters()))
    lines = [
        f"{name}: must be as at the start of the run that is resumed, {begun.get(name)!r}, was {value!r}"
        for name, value in given.items()
        if name not in but and begun.get(name) != value
    ]
    if not lines and was_edited(config.session.rule, record.get("rule_sha256", "")):
        lines.append(f"rule: {config.session.rule} must be as at the start of the run that is resumed, was edited")
    return lines
