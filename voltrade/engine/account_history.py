"""The account's ledger as the engine uses it: opened at the start, checked, and given the final state at the end."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.engine.checks import Check
from voltrade.engine.modes import Wiring
from voltrade.engine.preflight import used_limits
from voltrade.errors import JournalError, SessionError, VoltradeError
from voltrade.journal import Journal
from voltrade.live import LiveTradingSystem
from voltrade.model import Alert, Instrument, ResumeState
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import NOT_READ, FinalState, accounts_home, file_name, read_record
from voltrade.runs.replay import Replay, recover
from voltrade.saved_account import BROKEN
from voltrade.signal_engine import SignalEngine
from voltrade.symbol_filters import common_units
from voltrade.symbol_state import CARETAKER

log = logging.getLogger(__name__)


def open_ledger(wiring: Wiring, run_dir: Path) -> Ledger | None:
    """Open the ledger of the account; None where the account exists only during the session.

    Raises:
        SessionError: Another engine trades the account, or the ledger can't be read.
    """
    if not wiring.account:
        return None
    home, mode = accounts_home(os.environ), wiring.config.session.mode
    return Ledger.open(home, wiring.account, mode, run_dir)


def units_of(now: Instrument, replayed: Replay | None, last: FinalState | None) -> Instrument:
    """Return the filters whose tick and step are a run's units, to its end.

    A run that goes on keeps those that it began with. A new one takes those of now; where it goes on from an earlier
    run's position and these were made coarser, they are counted in the finer units, so that the position is a whole
    number of them.

    Args:
        now: Filters as the exchange states them.
        replayed: The run's own core; None for a new run.
        last: What a new run starts from.
    """
    if replayed is not None and replayed.core is not None:
        return replayed.core.symbol_states[now.symbol].instrument
    if last is None or last.state is None:
        return now
    try:
        saved = last.state["symbol_states"][now.symbol]
        return common_units(now, Decimal(saved["tick_size"]), Decimal(saved["step_size"]))
    except BROKEN:  # the symbol is new, or the start-up table says that the state can't be read
        return now


def last_final_state(ledger: Ledger | None, run: str, run_dir: Path) -> FinalState | None:
    """Return the state that the account's last run ended in; that of a killed run is rebuilt from its journal.

    Args:
        ledger: Ledger of the account; None where it needs none.
        run: Id of the run that starts.
        run_dir: Its folder.

    Raises:
        SessionError: The state can't be found or rebuilt; a session must not start with unused limits instead.
    """
    if ledger is None or ledger.record is None:
        return NOT_READ if ledger is not None and ledger.unread else None
    last = ledger.record
    if last.final_state is not None or last.run == run:  # this run itself, killed while it began
        return last.final_state or last.resumed_from
    path = ledger.find_last_journal(near=run_dir)
    try:
        replayed = recover(path)
    except VoltradeError as error:
        raise ledger.unrecoverable(error) from None
    assert replayed.core is not None
    state = replayed.core.state()
    return FinalState(last.run, replayed.head, state) if state is not None else last.resumed_from


def started_from(ledger: Ledger | None) -> FinalState | None:
    """Return the state that a resumed run started from, by the account's ledger."""
    return ledger.record.resumed_from if ledger is not None and ledger.record is not None else None


def ledger_checks(ledger: Ledger | None, last: FinalState | None, is_new: bool, wiring: Wiring) -> list[Check]:
    """Return the rows of the start-up table about the account's last run.

    Args:
        ledger: Ledger of the account; None where it needs none.
        last: The state that the account's last run ended in.
        is_new: Whether the run is new.
        wiring: Exchange and settings of the session.
    """
    if ledger is None:
        return []
    found = "nothing: the first run of this account" if is_new else "its own journal"
    if last is not None:
        found = f"run {last.run or 'unknown'}, head {last.head}"
    rows = [Check("resumes from", found)]
    if last is None or last.state is None:
        return rows
    time, units = wiring.clock(), wiring.instrument
    if why := ledger.unread or unread(wiring.config, units, last.state, time):
        wanted = f"readable: start with the version that wrote it; or {ledger.how_to_give_up}"
        return [*rows, Check("saved state", why, wanted, ok=False)]
    return [*rows, used_limits(wiring.config, last.state, time, units.quote_asset)]


def unread(config: Config, instrument: Instrument, state: Mapping[str, Any], time: int) -> str:
    """Return what of a saved state can't be read, by a core that goes on from it; empty where it can."""
    core = TradingCore(config, instrument, "", SignalEngine(config.signals, instrument))
    _, outputs = core.handle(ResumeState(time, json.dumps(state), ""))
    return next((output.text for output in outputs if isinstance(output, Alert) and output.code == CARETAKER), "")


def known_final_state(wiring: Wiring, environment: Mapping[str, str]) -> FinalState | None:
    """Return the state that the account's last run ended in, without taking the account's lock; None if not known.

    That of a run that was killed is not known here, since it must be rebuilt from its journal.
    """
    if not wiring.account:
        return None
    mode = wiring.config.session.mode
    try:
        record = read_record(accounts_home(environment) / file_name(wiring.account, mode), wiring.account, mode)
    except VoltradeError as error:
        log.warning("ledger: %s", error)
        return None
    return record.final_state if record is not None else None


def save_final_state(ledger: Ledger, run: str, journal: Journal, system: LiveTradingSystem) -> None:
    """Save the core's state for the account's next run, once, if the core and its journal agree.

    If they don't, nothing is saved, and the next run rebuilds the state from the journal.
    """
    record = ledger.record
    if not system.is_journaled or record is None or record.run != run or record.final_state is not None:
        return
    try:
        journal.commit()
        ledger.save_final_state(journal.head, system.core.state())
    except (JournalError, SessionError, OSError) as error:
        log.warning("ledger: the state could not be saved, the next run needs the journal: %s", error)
