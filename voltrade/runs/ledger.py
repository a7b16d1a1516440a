"""What an account's next run must know: one ledger for each exchange, account and mode, used by one engine at a time.

Ledgers are kept in the platform's state folder (or in `VOLTRADE_STATE`), outside of all folders of runs, so that
another output, working directory or store can't make a second ledger. A ledger names a run by the id in its journal;
the folder of the run is only where that journal was last.

A run that ends, or fails between two events, saves the state of its core here: the peaks, baselines and streaks of the
circuit breaker, cooldowns, the open position and its orders. The account's next run starts from this state and notes
the head hash of the run before. A run that was killed saved no state; it is rebuilt from that run's journal, which must
contain the last row that the ledger has noted, so that an older copy of the journal is refused.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from voltrade.errors import DamagedJournal, JournalError, SessionError
from voltrade.journal import identity_of, last_row, seq_of_head
from voltrade.journal.lock import is_open_for_writing, refuse_unsafe
from voltrade.runs.account_lock import AccountLock
from voltrade.runs.ledger_file import (
    VERSION,
    FinalState,
    JournalPosition,
    LedgerRecord,
    LedgerUnread,
    PositionFile,
    file_name,
    read_record,
    write_record,
)
from voltrade.runs.run_file import JOURNAL, refuse_missing

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one account; it keeps the account's lock until it is closed or the process ends.

    Attributes:
        record: The content of its file; None before the account's first run, and where it can't be read.
        unread: Why its file can't be read; empty where it can, or there is none.
        on_write_failure: Called with the reason when the account's files can't be written any more; once until they
            can be written again.
    """

    def __init__(self, path: Path, lock: AccountLock, account: str, mode: str) -> None:
        self._path, self._lock = path, lock
        self._position = PositionFile(path.with_suffix(".reached"))
        self._account, self._mode = account, mode
        self.record: LedgerRecord | None = None
        self.unread = ""
        self.on_write_failure: Callable[[str], object] = lambda reason: None
        self._has_failed = False

    @staticmethod
    def open(root: Path, account: str, mode: str, run: Path) -> Ledger:
        """Open the ledger of an account and take its lock.

        Args:
            root: The folder of all ledgers, see `accounts_home`.
            account: A name that only this account has.
            mode: Mode of the session.
            run: Folder of the run; it is shown to an engine that is refused meanwhile.

        Raises:
            SessionError: Another engine trades this account, or the ledger is another account's.
            JournalError: The ledger belongs to another user, or others can write it.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SessionError(f"{root}: can't be made, for the accounts' ledgers: {error.strerror}") from None
        root = root.resolve()
        refuse_unsafe(root, folder=True)
        path = root / file_name(account, mode)
        lock = AccountLock(path.with_suffix(".lock"), path.stem, str(run.resolve()))
        ledger = Ledger(path, lock, account, mode)
        try:
            ledger.record = read_record(path, account, mode)
        except LedgerUnread as error:
            ledger.unread = str(error)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def folder(self) -> Path:
        """Folder for other files of the account."""
        return self._path.with_suffix("")

    def begin(self, run: str, folder: Path, resumed_from: FinalState | None) -> None:
        """Note that a run owns the account from now on; the next run continues from its journal.

        A ledger that can't be read is kept beside the new one, with the ending `.unread`.

        For the run that owns it already, nothing is written, so that a full disk does not keep it from its position.

        Args:
            run: Id of the run.
            folder: Folder of the run.
            resumed_from: The state that it starts from.
        """
        self._lock.keep()
        where, previous = str(folder.resolve()), self._position.read().run
        fresh = LedgerRecord(
            *(VERSION, self._account, self._mode, run, where), resumed_from=resumed_from, previous_run=previous
        )
        if self.record is None or replace(self.record, previous_run=previous) != fresh:
            self._write(fresh)

    def save_final_state(self, head: str, state: dict[str, Any] | None) -> None:
        """Save the owner's last state for the next run; without a state, keep the one that the owner started from.

        Args:
            head: Hash of the last row of the owner's journal, which is on the disk.
            state: State of its core.
        """
        assert self.record is not None
        if state is None and self.record.resumed_from is not None:
            state = self.record.resumed_from.state
        self._write(replace(self.record, final_state=FinalState(self.record.run, head, state)))

    def note_position(self, rows: int, head: str) -> None:
        """Note how far the owner's journal was written, and check that this engine still has the account's lock.

        A failure to write is reported by `on_write_failure` and tried again at the next call: an engine with an open
        position must not stop for it.

        Args:
            rows: Count of rows on the disk.
            head: Hash of the last of them.

        Raises:
            AccountInUse: The lock was deleted, and another engine has taken the account since.
        """
        assert self.record is not None
        try:
            self._lock.keep()
            self._position.write(JournalPosition(self.record.run, rows, head))
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("ledger: %s can't be kept: %s", self._path, error)
                self.on_write_failure(f"LEDGER: {error.strerror}")
        else:
            self._has_failed = False

    def close(self) -> None:
        """Release the account."""
        self._lock.close()
        self._position.close()

    def _write(self, record: LedgerRecord) -> None:
        self._lock.keep()
        if self.unread:
            shutil.copy2(self._path, self._path.with_suffix(".unread"))  # which stays if the new one can't be written
        write_record(self._path, record)
        self.record, self.unread = record, ""

    # --- which run may continue, and from what ------------------------------------------------------------------------

    def check_run(self, run: str, folder: Path, is_new: bool) -> str:
        """Refuse to resume a run if another run owns the account now, or if another copy of its journal is further on.

        Return which rows its journal has lost, empty where none is known to be: an order of ours may have been in them,
        so that such a run may only look after the account. It is not refused, since nobody else does.

        Args:
            run: Id of the run.
            folder: Folder of the run.
            is_new: Whether it has not traded yet.

        Raises:
            SessionError: Names the run that owns the account, or the copy that has more rows.
        """
        record = self.record
        if record is None:
            return "" if is_new else self._refuse_unread(run)
        self._refuse_older_ledger(record)
        if record.run != run and is_new:
            return ""
        if record.run != run:
            raise SessionError(
                f"account {self._path.stem}: the ledger names run {record.run} ({record.folder}) as the one that owns "
                "the account now; this run can't be resumed"
            )
        try:
            refuse_missing(folder / JOURNAL)
            rows, head = last_row(folder / JOURNAL)
            lost = self._lost_rows(record, folder / JOURNAL)
        except DamagedJournal as error:
            rows, head, lost = 0, "", str(error)
        if record.final_state is not None and record.final_state.head != head:
            raise SessionError(
                f"account {self._path.stem}: the journal in {folder} must end with {record.final_state.head}, ends "
                f"with {head}: it is an older copy, or rows were lost"
            )
        if Path(record.folder) != folder.resolve():
            self._refuse_shorter_copy(run, record, folder, rows)
        return lost

    def _refuse_unread(self, run: str) -> str:
        """Return why a run that goes on may only look after the account: its ledger can't be read.

        Raises:
            SessionError: The ledger noted another run's rows last.
        """
        if self.unread and self._position.read().run != run:
            raise SessionError(f"{self.unread}; {self.how_to_give_up}")
        return self.unread

    def _refuse_shorter_copy(self, run: str, record: LedgerRecord, folder: Path, rows: int) -> None:
        for other in _journals_of(run, Path(record.folder), folder):
            if last_row(other)[0] > rows:
                raise SessionError(f"account {self._path.stem}: another copy of this run is further on: {other.parent}")

    def find_last_journal(self, near: Path) -> Path:
        """Find the journal of the run that owns the account, also where its folder was moved nearby.

        Args:
            near: Folder of a run; the folders beside it are searched too.

        Raises:
            SessionError: It isn't found; says what to do.
        """
        assert self.record is not None
        record = self.record
        found = _journals_of(record.run, Path(record.folder), near)
        if not found:
            raise SessionError(
                f"account {self._path.stem}: its last run {record.run} was interrupted in {record.folder}, and its "
                f"journal is neither there nor nearby, or of a version that this one can't read; put that folder back "
                f"(mode 0700), or start with the version that wrote it, or {self.how_to_give_up}"
            )
        longest = max(found, key=lambda path: last_row(path)[0])
        self._refuse_older_journal(record, longest)
        if is_open_for_writing(longest):  # by an engine whose lock was deleted
            raise SessionError(f"account {self._path.stem}: another session or check uses it, that of {longest.parent}")
        return longest

    def _refuse_older_ledger(self, record: LedgerRecord) -> None:
        """Refuse a copy of the ledger that is older than the account's last run.

        Raises:
            SessionError: Names both runs; says what to do.
        """
        noted = self._position.read().run
        if noted and noted not in (record.run, record.previous_run):
            raise SessionError(
                f"{self._path}: must be the account's newest ledger, names run {record.run}, though run {noted} has "
                f"traded it since: it is an older copy; put the newer one back, or {self.how_to_give_up}"
            )

    def _lost_rows(self, record: LedgerRecord, journal: Path) -> str:
        """Return what a journal of the owner must have and lacks, the last row that was noted; else an empty text."""
        noted = self._position.read()
        if noted.run != record.run or seq_of_head(journal, noted.head) == noted.rows:
            return ""
        return (
            f"the journal in {journal.parent} must have row {noted.rows:,} with the hash {noted.head}, ends with row "
            f"{last_row(journal)[0]:,}: it is an older copy, or rows were lost"
        )

    def _refuse_older_journal(self, record: LedgerRecord, journal: Path) -> None:
        """Refuse a journal of the owner that lacks the last noted row.

        Raises:
            SessionError: Names the row; says what to do.
        """
        if lost := self._lost_rows(record, journal):
            raise SessionError(
                f"account {self._path.stem}: {lost}; put the newer one back, or resume that run, which then looks "
                f"after its position, or {self.how_to_give_up}"
            )

    def unrecoverable(self, error: Exception) -> SessionError:
        """Return the error to raise where the owner's state can't be rebuilt from its journal."""
        assert self.record is not None
        return SessionError(
            f"account {self._path.stem}: what run {self.record.run} ({self.record.folder}) left can't be rebuilt: "
            f"{error}; start with the version and the rule that wrote it, or {self.how_to_give_up}"
        )

    @property
    def how_to_give_up(self) -> str:
        """What to do where a session can't go on from the account's ledger, in words that follow "or"."""
        return (
            "look at the account's position and orders, and give up the limits and streaks that were in force by "
            f"moving {self._path} away"
        )


def _journals_of(run: str, folder: Path, near: Path) -> list[Path]:
    """Return the journals of a run: in its last folder, beside it, above it, and beside another run.

    Journals of other users, and those that others can write, are left out.
    """
    near = near.resolve()
    candidates = [folder / JOURNAL]
    for place in dict.fromkeys((folder.parent, folder.parent.parent, near.parent)):
        for pattern in (f"*/{JOURNAL}", f"*/*/{JOURNAL}"):
            with suppress(OSError):
                candidates += place.glob(pattern)
    return [path for path in dict.fromkeys(candidates) if _is_journal_of(run, path)]


def _is_journal_of(run: str, path: Path) -> bool:
    try:
        return identity_of(path) == run
    except JournalError:
        return False
