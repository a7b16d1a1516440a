"""Imports the ledgers that older versions kept inside the folders of runs."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from voltrade.errors import JournalError, SessionError
from voltrade.journal import identity_of, sync_folder
from voltrade.runs.account_lock import AccountLock
from voltrade.runs.ledger_file import VERSION, FinalState, LedgerRecord, read_record, write_record
from voltrade.runs.run_file import JOURNAL

IMPORTED = ".taken-over"
"""Suffix that an older ledger gets after its import."""


def import_older(found: list[Path], path: Path, account: str, mode: str) -> Path | None:
    """Import the older ledger of an account, and rename it so that this happens once.

    Args:
        found: Older ledgers of the account that exist.
        path: The ledger file of the account.
        account: As the ledger file has it.
        mode: Mode of the session.

    Returns:
        The older ledger that was imported; None where there was none.

    Raises:
        SessionError: There is more than one ledger, or the older one can't be read.
    """
    if not found:
        return None
    source = sha256(found[0].read_bytes()).hexdigest()
    known = read_record(path, account, mode)
    is_imported = known is not None and known.imported_sha256 == source
    if len(found) > 1 or (known is not None and not is_imported):
        several = [*found, *([path] if known else [])]
        raise SessionError(
            f"account {path.stem}: must have one ledger, has {', '.join(map(_with_time, several))}; "
            "move away all but the one that the next run is to resume from"
        )
    [old] = found
    with AccountLock(old.with_suffix(".lock"), old.stem):
        if not is_imported:
            write_record(path, _converted(old, source, account, mode))
        _import_folder(old.with_suffix(""), path.with_suffix(""))
        old.rename(old.with_name(old.name + IMPORTED))
        sync_folder(old.parent)
    return old


def _converted(old: Path, source: str, account: str, mode: str) -> LedgerRecord:
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
                f"{old}: its last run was interrupted, and must be found in {folder}: {error}; put it back, or give "
                f"up the limits and streaks that were in force by moving {old} away"
            ) from None
    state = _with_watermarks(stated.get("state"))
    final_state = FinalState(run, str(stated.get("head", "")), state) if has_ended else None
    return LedgerRecord(VERSION, account, mode, run, str(folder), final_state, imported_sha256=source)


def _import_folder(old: Path, new: Path) -> None:
    """Copy the other files of the account, and rename their old folder."""
    if not old.is_dir():
        return
    if not new.exists():  # it exists where an import was interrupted before the renaming
        fresh = new.with_name(new.name + ".tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(old, fresh)
        fresh.chmod(0o700)
        fresh.rename(new)
    old.rename(old.with_name(old.name + IMPORTED))


def _with_watermarks(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Add the position and trade id up to which an older state was reconciled; it had only the last trade id."""
    for symbol in (state or {}).get("symbol_states", {}).values():
        orders = symbol.get("orders", {})
        if "last_trade_id" in orders:
            held = orders.get("holding") or {"side": 0, "entered": 0, "left": 0}
            orders["agreed_trade_id"] = orders.pop("last_trade_id")
            orders["agreed_position"] = held["side"] * (held["entered"] - held["left"])
            orders["has_agreed"] = True
    return state


def _with_time(path: Path) -> str:
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return f"{path} (written {written:%Y-%m-%d %H:%M:%S} UTC)"
