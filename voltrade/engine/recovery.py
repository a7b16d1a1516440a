"""What an engine goes on from: the run's journal, and where that has lost rows, the exchange.

A journal that can't be read is kept beside a new one. Neither its orders nor its limits are known then, so that the
engine is a caretaker until an operator resumes: it takes position and orders from the exchange, and enters nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from voltrade import journal
from voltrade.config import Config
from voltrade.errors import DamagedJournal
from voltrade.folders import sync_folder
from voltrade.journal import Journal
from voltrade.journal.ballast import Ballast
from voltrade.journal.checkpoint import CHECKPOINT
from voltrade.journal.rows import Row
from voltrade.model import Instrument
from voltrade.runs.replay import Replay, recover, traded_instrument
from voltrade.runs.run_file import JOURNAL, refuse_missing
from voltrade.saved_account import STATE_UNREAD
from voltrade.strategy.rule_file import read_parameters

log = logging.getLogger(__name__)

WARM_UP_KINDS = frozenset({"Start", "BarResumePoint", "Trades", "Bar", CHECKPOINT})
"""Kinds of journal rows from before the first request about the account."""

LOST = "JOURNAL_LOST"
"""Begins the reason of a caretaker whose journal has lost rows."""

LOST_BEFORE = "lost"
"""Field of a journal's first row: why the run's journal before it can't be read."""


def reason_of(lost: str, unread: str) -> str:
    """Return the reason of the caretaker of a run whose ledger misses rows of its journal, or can't be read."""
    return f"{STATE_UNREAD if unread else LOST}: {lost}"


def settings_of(run_dir: Path, record: Mapping[str, Any]) -> Config:
    """Return a run's settings; the rule of one that has begun was tried out then, and isn't again.

    Raises:
        ConfigError: They are none, or the rule isn't the one that the run was begun with.
    """
    sha256, is_tried = record.get("rule_sha256", ""), bool(record.get("begun"))
    return read_parameters(record["parameters"], run=run_dir, sha256=sha256, tries_rule=not is_tried)


def identity_of(run_dir: Path, record: Mapping[str, Any], new_id: Callable[[], str]) -> tuple[str, bool]:
    """Return the id of a run, and whether it is new.

    A run that was killed while it loaded earlier trades has sent nothing, and starts from the beginning; but one that
    has lost its journal may have sent orders, and is never new again.

    Args:
        run_dir: Folder of the run.
        record: Its record.
        new_id: Makes the id of a run that has none.
    """
    path, known = run_dir / JOURNAL, record.get("id", "")
    if not record.get("begun"):
        return known or new_id(), True
    try:
        refuse_missing(path)
        found = journal.identity_of(path)
        return found, not lost_before(path) and all(row.kind in WARM_UP_KINDS for row in journal.read(path))
    except DamagedJournal as error:
        log.warning("%s", error)
        return known or new_id(), False


def lost_before(path: Path) -> str:
    """Return why a journal was begun in place of one that was lost; empty where it is the run's first.

    Raises:
        DamagedJournal: It has no row.
    """
    first = next(journal.read(path), None)
    if first is None:
        raise DamagedJournal(f"{path}: must have a row, since the run has begun")
    return str(first.fact.get(LOST_BEFORE, "")) if first.kind == "Start" else ""


def caretaker_of(path: Path) -> str:
    """Return the reason of the caretaker that goes on from a journal; empty where none must, or where its rows know."""
    why = lost_before(path)
    # By the bytes, since rows long before a checkpoint need not be readable.
    is_known = why and any(b'"action":"caretake"' in row.body for row in journal.read(path, kind="Operator"))
    return f"{LOST}: {why}" if why and not is_known else ""


def instrument_of(path: Path) -> Instrument | None:
    """Return the filters that a journal counts with; None where it can't be read."""
    try:
        refuse_missing(path)
        return traded_instrument(path)
    except DamagedJournal:
        return None


def began_at(path: Path, record: Mapping[str, Any]) -> int:
    """Return when a run began, ms UTC, by its first journal, else by its record; 0 where neither knows."""
    first = _first_start(path)
    return first.time if first is not None else int(record.get("began", 0))


def begun_by(path: Path) -> str | None:
    """Return the trading confirmation that a run began with, by its first journal, since its record can be edited.

    It is empty for a run that an authorisation file allowed, and None where the journal is lost.
    """
    first = _first_start(path)
    return None if first is None else str(first.fact.get("parameters", {}).get("confirmation", ""))


def _first_start(path: Path) -> Row | None:
    """Return the first row of a run's first journal; None where that is lost."""
    try:
        refuse_missing(path)
        first = next(journal.read(path, kind="Start"), None)
    except DamagedJournal:
        return None
    return first if first is not None and LOST_BEFORE not in first.fact else None


def recovered(
    run_dir: Path, kind: type[Journal], as_far_as_possible: bool, advance: Callable[[], None]
) -> tuple[Replay, Journal] | str:
    """Rebuild the core of a run from its journal, and open the journal for further rows.

    Returns:
        Both; or why the journal can't be read, after it was set aside.

    Raises:
        JournalError: The replay makes other decisions than the journal has, or another engine has it open.
    """
    path = run_dir / JOURNAL
    Ballast(run_dir).make_room()
    try:
        refuse_missing(path)
        opened = kind.open(path)  # first, so that no journal is set aside that somebody may still write
        try:
            return _recover(path, as_far_as_possible, advance), opened
        except BaseException:
            opened.close()
            raise
    except DamagedJournal as error:
        _set_aside(run_dir)
        return str(error)


def _recover(path: Path, as_far_as_possible: bool, advance: Callable[[], None]) -> Replay:
    """Rebuild the core; whatever prevents it is damage where the rows have other bytes than were written.

    Raises:
        DamagedJournal: They have, or can't be decoded.
    """
    try:
        return recover(path, as_far_as_possible, advance)
    except DamagedJournal:
        raise
    except Exception as error:
        if (found := journal.verify(path)).bad_seq:
            raise DamagedJournal(f"{path}: row {found.bad_seq}: {found.rule}") from error
        raise


def _set_aside(run_dir: Path) -> None:
    """Rename the files of a journal, so that a new one can be begun and nothing of the old one is lost.

    The database goes first: a machine that dies then leaves a log without one, which follows it under its number. The
    index of the log is deleted, since SQLite makes it anew.
    """
    log, taken = f"{JOURNAL}-wal", [int(file.name.split("-")[1]) for file in run_dir.glob(f"damaged-[0-9]*-{JOURNAL}*")]
    number = max(taken, default=0)
    is_rest = (run_dir / f"damaged-{number}-{JOURNAL}").exists() and not (run_dir / f"damaged-{number}-{log}").exists()
    if (run_dir / JOURNAL).exists() or not is_rest:
        number += 1
    for name in (JOURNAL, log):
        if (run_dir / name).exists():
            (run_dir / name).rename(run_dir / f"damaged-{number}-{name}")
            sync_folder(run_dir)
    (run_dir / f"{JOURNAL}-shm").unlink(missing_ok=True)
