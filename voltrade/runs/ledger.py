"""What outlives a run: one ledger for each exchange, account and mode, held by one engine at a time.

Ledgers are kept in the platform's state folder (or `VOLTRADE_STATE`), outside of every run's, so that no choice of
output, working directory or store makes a second one. A ledger names a run by the identity in its journal; the run's
folder is only a hint where that journal was last.

A run that ends, or fails between two events, leaves the state of its core here: the breaker's peaks, baselines and
streaks, cooldowns, the position in hand and its orders. The next run of the account goes on from it and notes the head
hash of the run before. A run that was killed left no state; it is made again from that run's journal, which must have
the row that the ledger last heard of: an older copy of it, put back where it was, is refused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import platformdirs
from pydantic import ConfigDict, TypeAdapter, ValidationError

from voltrade.errors import JournalError, SessionError
from voltrade.journal import identity_of, is_open_for_writing, last_row, seq_of_head, refuse_unsafe, sync_folder
from voltrade.runs.run_file import JOURNAL

log = logging.getLogger(__name__)

STATE_VARIABLE = "VOLTRADE_STATE"
"""Environment: an absolute path in place of the platform's state folder."""

VERSION = 1
"""Of the ledger's file; another one is refused."""

TAKEN_OVER = ".taken-over"
"""Suffix of a ledger in a folder of runs, from before ledgers had a place of their own."""


def accounts_home(environment: Mapping[str, str]) -> Path:
    """Return the folder of all ledgers of this user.

    Raises:
        SessionError: it would depend on the working directory.
    """
    given = environment.get(STATE_VARIABLE)
    home = Path(given).expanduser() if given else platformdirs.user_state_path("voltrade", appauthor=False)
    if not home.is_absolute():
        raise SessionError(f"{STATE_VARIABLE}: must be an absolute path, was {home}")
    return home / "accounts"


def file_name(account: str, mode: str) -> str:
    """Name of a ledger's file."""
    return f"{sha256(account.encode()).hexdigest()[:12]}-{mode}.json"


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left for the account's next one."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    run: str
    head: str
    """Head hash of its journal."""
    state: dict[str, Any] | None
    """As `TradingCore.state` returned it; None where the run learnt nothing of the account."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The ledger's file: the run that owns the account, and what the next one needs."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    version: int
    account: str
    mode: str
    run: str
    """Identity of the run that owns the account."""
    folder: str
    """Where it was when it last began or went on."""
    left: Left | None = None
    """None while the run goes on, and where it was killed: its journal is what the next run starts from."""
    adopted: Left | None = None
    """What the run itself went on from."""
    after: str = ""
    """Identity of the run whose journal was noted last when this one began."""
    taken_from: str = ""
    """SHA-256 of the file that this one was made from, in a folder of runs."""


_ENTRY = TypeAdapter(Entry)


class Ledger:
    """One account's ledger; holds its lock until closed or the process dies.

    Attributes:
        last: the run that owns the account; None before the first.
        on_trouble: called once, with the reason, when the account's files can't be kept any more.
        taken_over: the file in a folder of runs that this ledger was made from, when it was opened; else None.
    """

    def __init__(self, path: Path, lock: int, account: str, mode: str) -> None:
        self._path = path
        self._lock, self._lock_path = lock, path.with_suffix(".lock")
        self._reached, self._reached_path = -1, path.with_suffix(".reached")
        self._account, self._mode = account, mode
        self.last: Entry | None = None
        self.taken_over: Path | None = None
        self.on_trouble: Callable[[str], object] = lambda reason: None
        self._is_in_trouble = False

    @staticmethod
    def open(root: Path, account: str, mode: str, run: Path, older: Iterable[Path] = ()) -> Ledger:
        """Open the ledger of an account, named by whatever is its own and no other's, and take its lock.

        Args:
            root: from `accounts_home`.
            account: what names the account at its exchange.
            mode: of the session.
            run: folder of the run that takes it; told to whoever is refused meanwhile.
            older: where ledgers of this account may be that folders of runs had of their own; one is taken over.

        Raises:
            SessionError: another engine trades this account, the ledger can't be read, or there is more than one.
            JournalError: the ledger is another user's, or open to others.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SessionError(f"{root}: can't be made, for the accounts' ledgers: {error.strerror}") from None
        root = root.resolve()
        refuse_unsafe(root, folder=True)
        path = root / file_name(account, mode)
        ledger = Ledger(path, _lock(path.with_suffix(".lock"), path.stem, str(run.resolve())), account, mode)
        try:
            ledger._take_over([found for found in dict.fromkeys(older) if found.exists()])
            ledger.last = ledger._read()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def folder(self) -> Path:
        """What else is kept for the account goes here."""
        return self._path.with_suffix("")

    def begin(self, run: str, folder: Path, adopted: Left | None) -> None:
        """Note that a run owns the account; from now on its journal is what the next run starts from.

        Args:
            run: its identity.
            folder: of the run.
            adopted: what it goes on from.
        """
        where, after = str(folder.resolve()), self._noted()[0]
        self._write(Entry(VERSION, self._account, self._mode, run, where, adopted=adopted, after=after))

    def leave(self, head: str, state: dict[str, Any] | None) -> None:
        """Leave the owner's last state for the next run; where it has none, what it went on from itself.

        Args:
            head: of the owner's journal, which is on disk up to there.
            state: of its core.
        """
        assert self.last is not None
        if state is None and self.last.adopted is not None:
            state = self.last.adopted.state
        self._write(replace(self.last, left=Left(self.last.run, head, state)))

    def reach(self, rows: int, head: str) -> None:
        """Note how far the owner's journal has come, and make sure that the account is still held.

        Not flushed to the disk: it survives the process, and a machine that dies may leave an earlier note. Files that
        can't be reached or written are told to `on_trouble` and tried again: whoever trades has a position to tend.

        Args:
            rows: that are on the disk.
            head: hash of the last of them.

        Raises:
            AccountInUse: the lock was deleted, and another engine has taken the account since.
        """
        assert self.last is not None
        try:
            self._keep_lock()
            self._note({"run": self.last.run, "rows": rows, "head": head})
        except OSError as error:
            if not self._is_in_trouble:
                self._is_in_trouble = True
                log.warning("ledger: %s can't be kept: %s", self._path, error)
                self.on_trouble(f"LEDGER: {error.strerror}")
        else:
            self._is_in_trouble = False

    def _note(self, reached: dict[str, Any]) -> None:
        if self._reached < 0 or not _is_at(self._reached, self._reached_path):
            fresh = _open(self._reached_path)
            if self._reached >= 0:
                os.close(self._reached)
            self._reached = fresh
        note = orjson.dumps(reached) + b"\n"
        os.pwrite(self._reached, note, 0)
        os.ftruncate(self._reached, len(note))

    def _noted(self) -> tuple[str, int, str]:
        """The run whose journal was noted last, its rows and its head; empty where none was, or the note is lost."""
        try:
            note = json.loads(self._reached_path.read_bytes())
            return str(note["run"]), int(note["rows"]), str(note["head"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0, ""

    def close(self) -> None:
        """Let go of the account."""
        os.close(self._lock)
        if self._reached >= 0:
            os.close(self._reached)
            self._reached = -1

    def _keep_lock(self) -> None:
        """Take the lock once more where its file was deleted; a second engine could take a new one otherwise."""
        if _is_at(self._lock, self._lock_path):
            return
        holder = os.fsdecode(os.pread(self._lock, 4096, 0))
        fresh = _take(self._lock_path, self._path.stem, holder)
        os.close(self._lock)
        self._lock = fresh

    # --- which run may go on, and from what ---------------------------------------------------------------------------

    def admit(self, run: str, folder: Path, is_new: bool) -> None:
        """Refuse a run that would go on though another one owns the account now, or from an older copy of itself.

        Args:
            run: its identity.
            folder: of the run.
            is_new: whether it has done nothing yet.

        Raises:
            SessionError: names the run that owns the account, or the copy that is further on.
        """
        last = self.last
        if last is None:
            return
        self._refuse_older_ledger()
        if last.run != run and is_new:
            return
        if last.run != run:
            raise SessionError(
                f"account {self._path.stem}: the ledger names run {last.run} ({last.folder}) as the one that owns the "
                "account now; this one can't go on"
            )
        rows, head = last_row(folder / JOURNAL)
        self._refuse_older(folder / JOURNAL)
        if last.left is not None and last.left.head != head:
            raise SessionError(
                f"account {self._path.stem}: the journal in {folder} must end with {last.left.head}, ends with {head}: "
                "it is an older copy, or rows were lost"
            )
        if Path(last.folder) != folder.resolve():
            for other in _journals(run, Path(last.folder), folder):
                if last_row(other)[0] > rows:
                    raise SessionError(
                        f"account {self._path.stem}: another copy of this run is further on: {other.parent}"
                    )

    def journal_of_last(self, near: Path) -> Path:
        """Find the journal of the run that owns the account, wherever its folder was moved to nearby.

        Args:
            near: folder of a run, among whose neighbours it may be now.

        Raises:
            SessionError: it isn't found; says what to do.
        """
        assert self.last is not None
        found = _journals(self.last.run, Path(self.last.folder), near)
        if not found:
            raise SessionError(
                f"account {self._path.stem}: its last run {self.last.run} was cut short in {self.last.folder}, and its "
                f"journal is neither there nor nearby; put that folder back (mode 0700), or {self._give_up}"
            )
        furthest = max(found, key=lambda path: last_row(path)[0])
        self._refuse_older(furthest)
        if is_open_for_writing(furthest):  # that engine's lock was deleted
            raise SessionError(f"account {self._path.stem}: another engine trades it, that of {furthest.parent}")
        return furthest

    def _refuse_older_ledger(self) -> None:
        """Refuse a ledger from before a run that has traded the account since.

        Raises:
            SessionError: names both runs; says what to do.
        """
        assert self.last is not None
        noted, *_ = self._noted()
        if noted and noted not in (self.last.run, self.last.after):
            raise SessionError(
                f"{self._path}: must be the account's newest ledger, names run {self.last.run}, though run {noted} has "
                f"traded it since: it is an older copy; put the newer one back, or {self._give_up}"
            )

    def _refuse_older(self, journal: Path) -> None:
        """Refuse a journal of the owner that lacks the row that the ledger last heard of.

        Raises:
            SessionError: names the row; says what to do.
        """
        assert self.last is not None
        run, rows, head = self._noted()
        if run == self.last.run and seq_of_head(journal, head) != rows:
            raise SessionError(
                f"account {self._path.stem}: the journal in {journal.parent} must have row {rows:,} with the hash "
                f"{head}, ends with row {last_row(journal)[0]:,}: it is an older copy, or rows were lost; put the "
                f"newer one back, or {self._give_up}"
            )

    def refuse_broken(self, error: Exception) -> SessionError:
        """Return what to raise where the owner's state can't be made again from its journal."""
        assert self.last is not None
        return SessionError(
            f"account {self._path.stem}: what run {self.last.run} ({self.last.folder}) left can't be made again: "
            f"{error}; {self._give_up}"
        )

    @property
    def _give_up(self) -> str:
        return (
            "look at the account's position and orders, and give up the limits and streaks that were in force by "
            f"moving {self._path} away"
        )

    # --- the file -----------------------------------------------------------------------------------------------------

    def _read(self) -> Entry | None:
        if not self._path.exists():
            return None
        refuse_unsafe(self._path, folder=False)
        try:
            entry = _ENTRY.validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SessionError(f"{self._path}: must be an account's ledger: {error}") from None
        for name, wanted in (("version", VERSION), ("account", self._account), ("mode", self._mode)):
            if (found := getattr(entry, name)) != wanted:
                raise SessionError(f"{self._path}: {name} must be {wanted!r}, was {found!r}")
        return entry

    def _write(self, entry: Entry) -> None:
        """Replace the file whole and durably: a reader meets the one before or this one."""
        self._keep_lock()
        fresh = self._path.with_suffix(".tmp")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(asdict(entry), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        sync_folder(self._path.parent)
        self.last = entry

    # --- ledgers in folders of runs, as they were before --------------------------------------------------------------

    def _take_over(self, found: list[Path]) -> None:
        """Take over the ledger that a folder of runs had of its own; it is renamed, so that this happens once."""
        if not found:
            return
        source = sha256(found[0].read_bytes()).hexdigest()
        known = self._read()
        is_known = known is not None and known.taken_from == source
        if len(found) > 1 or (known is not None and not is_known):
            several = [*found, *([self._path] if known else [])]
            raise SessionError(
                f"account {self._path.stem}: must have one ledger, has {', '.join(map(_with_time, several))}; "
                "move away all but the one that the next run is to go on from"
            )
        [old] = found
        with _locked(old.with_suffix(".lock"), old.stem):
            if not is_known:
                self._write(self._converted(old, source))
            kept = old.with_suffix("")  # what else was kept for the account
            if kept.is_dir():
                self._copy_folder(kept)
                kept.rename(kept.with_name(kept.name + TAKEN_OVER))
            old.rename(old.with_name(old.name + TAKEN_OVER))
            sync_folder(old.parent)
        self.taken_over = old

    def _converted(self, old: Path, source: str) -> Entry:
        try:
            stated = json.loads(old.read_bytes())
            folder, has_ended = Path(stated["run"]), bool(stated["ended"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SessionError(f"{old}: must be an account's ledger: {error!r}") from None
        run = ""
        try:
            run = identity_of(folder / JOURNAL)
        except JournalError as error:
            if not has_ended:
                raise SessionError(
                    f"{old}: its last run was cut short, and must be found in {folder}: {error}; put it back, or give "
                    f"up the limits and streaks that were in force by moving {old} away"
                ) from None
        state = _with_watermarks(stated.get("state"))
        left = Left(run, str(stated.get("head", "")), state) if has_ended else None
        return Entry(VERSION, self._account, self._mode, run, str(folder), left, taken_from=source)

    def _copy_folder(self, kept: Path) -> None:
        if self.folder.exists():  # cut short before the old one was renamed
            return
        fresh = self.folder.with_name(self.folder.name + ".tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(kept, fresh)
        fresh.chmod(0o700)
        fresh.rename(self.folder)


def _with_watermarks(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a core's state with its watermark; before, a symbol stated only the last trade that was counted."""
    for symbol in (state or {}).get("symbol_states", {}).values():
        orders = symbol.get("orders", {})
        if "last_trade_id" in orders:
            held = orders.get("holding") or {"side": 0, "entered": 0, "left": 0}
            orders["agreed_trade_id"] = orders.pop("last_trade_id")
            orders["agreed_position"] = held["side"] * (held["entered"] - held["left"])
            orders["has_agreed"] = True
    return state


def _journals(run: str, folder: Path, near: Path) -> list[Path]:
    """Return the journals of a run: in the folder where it was, beside it, above it, and beside another run.

    Journals of other users, and those that are open to others, are passed over.
    """
    near = near.resolve()
    places = dict.fromkeys((folder.parent, folder.parent.parent, near.parent))
    candidates = [folder / JOURNAL]
    for place in places:
        for pattern in (f"*/{JOURNAL}", f"*/*/{JOURNAL}"):
            with suppress(OSError):
                candidates += place.glob(pattern)
    found = []
    for path in dict.fromkeys(candidates):
        with suppress(JournalError):
            if identity_of(path) == run:
                found.append(path)
    return found


def _with_time(path: Path) -> str:
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return f"{path} (written {written:%Y-%m-%d %H:%M:%S} UTC)"


class AccountInUse(SessionError):
    """Another engine trades the account."""


def _lock(path: Path, account: str, holder: str) -> int:
    """Take a lock that the system lets go of when the process ends, however it ends.

    Raises:
        SessionError: another engine has it, or its file can't be opened.
    """
    try:
        return _take(path, account, holder)
    except OSError as error:
        raise SessionError(f"{path}: can't be opened: {error.strerror}") from None


def _take(path: Path, account: str, holder: str) -> int:
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(lock, path):  # deleted between the two, and perhaps taken anew
            raise AccountInUse(f"account {account}: its lock was deleted while it was taken; try again")
        os.ftruncate(lock, 0)
        os.pwrite(lock, os.fsencode(holder), 0)
    except BlockingIOError:
        other = os.fsdecode(os.pread(lock, 4096, 0))
        os.close(lock)
        where = f", that of {other}" if other else ""
        raise AccountInUse(f"account {account}: another engine trades it{where}") from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def _locked(path: Path, account: str) -> Iterator[None]:
    lock = _lock(path, account, "")
    try:
        yield
    finally:
        os.close(lock)
