"""Replays a session from its journal, and compares every decision.

The journal has all events in the order in which the core took them; blocks of trades are cut where the core stopped. A
new core with the same events must close the same bars and make the same commands and notes, byte for byte. A rule file
is loaded from the run's own copy, whose hash is in the journal.
"""

from __future__ import annotations

import logging
import platform
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from voltrade import journal
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.errors import DamagedJournal, DataError, JournalError
from voltrade.journal import rows as journal_rows
from voltrade.journal.checkpoint import CHECKPOINT, Checkpoints
from voltrade.journal.market import MARKET
from voltrade.model import Event, Instrument, Trades
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.rule_file import compile_own, load_rule

log = logging.getLogger(__name__)

INSTRUMENT = TypeAdapter(Instrument)
EVENTS = {kind.__name__ for kind in Event.__args__} | {MARKET}
LIBRARIES = ("voltrade", "ccxt", "numba", "numpy", "pandas", "papermill")
"""Packages whose versions a journal's first row has."""
MAX_SHOWN = 20
"""Most differences that are kept as text."""


@dataclass(slots=True)
class Replay:
    """The result of a replay."""

    events: int = 0
    outputs: int = 0
    """Count of bars, commands, notes and checkpoints that were compared."""
    differences: int = 0
    shown: list[str] = field(default_factory=list)
    """The first differences, one line each."""
    core: TradingCore | None = None
    """The core at the end of the journal."""
    checkpoints: Checkpoints | None = None
    """Counts of the trades and mark prices that the core has taken, and when the next checkpoint is due."""
    head: str = ""
    """Hash of the journal's last row."""

    @property
    def marks(self) -> int:
        """Count of mark prices in the journal."""
        return self.checkpoints.marks if self.checkpoints is not None else 0

    def add_difference(self, line: str) -> None:
        """Count a difference; keep its text if it is one of the first."""
        self.differences += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(line)


def start_row(config: Config, instrument: Instrument, epoch: str, **more: Any) -> dict[str, Any]:
    """Return the first row of a journal, which has everything that a core is made from."""
    return {
        "config": config.model_dump(mode="json"),
        "instrument": INSTRUMENT.dump_python(instrument, mode="json"),
        "epoch": epoch,
        **more,
    }


def session_facts(config: Config, rule_sha256: str) -> dict[str, Any]:
    """Return what the first row of a session's journal has besides: mode, parameters, rule and versions."""
    session = {"mode": config.session.mode, "parameters": config.parameters(), "rule_sha256": rule_sha256}
    return {**session, **versions()}


def versions() -> dict[str, Any]:
    """Return the versions of Python and of the packages that a session depends on, for the first row."""
    return {"python": platform.python_version(), "versions": {name: version(name) for name in LIBRARIES}}


def replay(path: Path, advance: Callable[[], None] = lambda: None) -> Replay:
    """Replay a journal.

    Args:
        path: The journal.
        advance: Called with each row.

    Raises:
        JournalError: The journal doesn't begin with a Start row, or can't be read.
        ConfigError: The copy of the rule beside it has another hash than the Start row.
    """
    rows = journal.read(path)
    core = _read_start(path, rows).core()
    return _replay(core, Checkpoints(core), rows, advance)


def _replay(
    core: TradingCore, checkpoints: Checkpoints, rows: Iterator[journal_rows.Row], advance: Callable[[], None]
) -> Replay:
    result = Replay(core=core, checkpoints=checkpoints)
    expected: deque[tuple[str, bytes]] = deque()
    for row in rows:
        advance()
        if row.kind in EVENTS:
            _add_missing(result, expected)
            expected = _handle(core, row, result, checkpoints)
        elif row.kind == CHECKPOINT:
            _compare_checkpoint(result, expected, row, checkpoints)
        elif row.kind != "End":
            _compare(result, expected, row)
        result.head = row.hash.hex()
    _add_missing(result, expected)
    return result


@dataclass(frozen=True, slots=True)
class RunStart:
    """Settings, instrument and rule of a run, from its journal's first row."""

    config: Config
    instrument: Instrument
    epoch: str
    rule: type[SignalEngine]

    def engine(self) -> SignalEngine:
        """Make a new signal engine with the run's rule and settings."""
        return self.rule(self.config.signals, self.instrument)

    def core(self) -> TradingCore:
        """Make a new core as the run's was at its start."""
        return TradingCore(self.config, self.instrument, self.epoch, self.engine())


def read_start(path: Path) -> RunStart:
    """Read settings, instrument and rule of a run, from its journal and its copy of the rule file.

    Raises:
        JournalError: The journal doesn't begin with a Start row, or can't be read.
        ConfigError: The copy of the rule beside it has another hash than the Start row.
    """
    return _read_start(path, journal.read(path))


def _first_row(path: Path, rows: Iterator[journal_rows.Row]) -> journal_rows.Row:
    first = next(rows, None)
    if first is None:
        raise DamagedJournal(f"{path}: must begin with a Start row, has no row")
    if first.kind != "Start":
        raise JournalError(f"{path}: must begin with a Start row, began with {first.kind}")
    return first


def _read_start(path: Path, rows: Iterator[journal_rows.Row]) -> RunStart:
    start: dict[str, Any] = _first_row(path, rows).fact
    rule_name = start["config"]["session"].get("rule", "")  # empty for the built-in rule
    rule = load_rule(rule_name, start.get("rule_sha256", ""), path.parent)
    config = Config.from_json(journal_rows.encode_json(start["config"]), rule.settings_type)
    return RunStart(config, INSTRUMENT.validate_python(start["instrument"]), start["epoch"], rule)


def traded_instrument(path: Path) -> Instrument:
    """Return the instrument with whose filters a run counts, from its journal's first row; its rule is not loaded.

    Raises:
        JournalError: The journal doesn't begin with a Start row, or can't be read.
    """
    start = _first_row(path, journal.read(path)).fact
    try:
        return INSTRUMENT.validate_python(start["instrument"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedJournal(f"{path}: row 1 must have the instrument: {error}") from None


def recover(path: Path, as_far_as_possible: bool = False, advance: Callable[[], None] = lambda: None) -> Replay:
    """Rebuild the core of a run that was killed: from the last checkpoint on, else from the beginning.

    A commit of a journal always has an event together with all its outputs, so the last event is complete.

    Args:
        path: The run's journal.
        as_far_as_possible: Whether to go on with a core that differs from the journal, or that raised an exception at
            an event. A caretaker does: it compares the account with the exchange, and enters nothing.
        advance: Called with each row.

    Raises:
        JournalError: The replay makes other decisions than the journal has.
    """
    result = _from_checkpoint(path, advance) or replay(path, advance)
    if result.differences and _compile_own_rules(result.core):
        result = _from_checkpoint(path, advance) or replay(path, advance)
    if result.differences and not as_far_as_possible:
        raise JournalError(f"{path}: can't be resumed from: {result.shown[0]}")
    return result


def _compile_own_rules(core: TradingCore | None) -> bool:
    """Compile the rule of a rule file that was plain Python; return whether it was, and so may have decided so."""
    plain = [each.engine for each in (core.symbol_states.values() if core else ()) if each.pipeline.has_plain_own_rule]
    for engine in plain:
        compile_own(engine)
    return bool(plain)


def _from_checkpoint(path: Path, advance: Callable[[], None]) -> Replay | None:
    """Replay what follows the last checkpoint; None without one that this version can read."""
    found = journal.last(path, CHECKPOINT)
    if found is None:
        return None
    core = read_start(path).core()
    checkpoints = Checkpoints(core)
    bars = (row.fact for row in journal.read(path, kind="Bar") if row.seq < found.seq)
    try:
        checkpoints.restore(found.fact, bars)
    except DataError as error:
        log.warning("%s: it is replayed from its beginning: %s", path, error)
        return None
    return _replay(core, checkpoints, journal.read(path, after=found.seq), advance)


def _handle(
    core: TradingCore, row: journal_rows.Row, result: Replay, checkpoints: Checkpoints
) -> deque[tuple[str, bytes]]:
    """Give the core an event; return the rows that the journal must have next."""
    events = row.fact if row.kind == MARKET else (row.fact,)
    expected: deque[tuple[str, bytes]] = deque()
    for event in events:
        expected += _handle_event(core, event, row, result, checkpoints)
    return expected


def _handle_event(
    core: TradingCore, event: Event, row: journal_rows.Row, result: Replay, checkpoints: Checkpoints
) -> deque[tuple[str, bytes]]:
    result.events += 1
    (symbol_state,) = core.symbol_states.values()
    bars = symbol_state.pipeline.count
    try:
        consumed, outputs = core.handle(event)
    except Exception as error:  # the engine died of it; no later row may keep the next one from its work
        result.add_difference(f"row {row.seq}: {row.kind} can't be handled: {type(error).__name__}: {error}")
        return deque()
    if isinstance(event, Trades) and consumed != len(event):
        result.add_difference(f"row {row.seq}: the block of {len(event)} trades was consumed up to {consumed}")
    closed = [
        ("Bar", journal_rows.encode_json(core.bar_row(symbol_state, number)))
        for number in range(bars, symbol_state.pipeline.count)
    ]
    checkpoints.count(event, consumed)
    return deque([*closed, *map(journal_rows.encode, outputs)])


def _compare(result: Replay, expected: deque[tuple[str, bytes]], row: journal_rows.Row) -> None:
    result.outputs += 1
    if not expected:
        result.add_difference(f"row {row.seq}: the journal has a {row.kind} that the replay does not make")
        return
    kind, body = expected.popleft()
    if (kind, body) != (row.kind, row.body):
        result.add_difference(f"row {row.seq}: {row.kind} {row.body!r} was replayed as {kind} {body!r}")


def _compare_checkpoint(
    result: Replay, expected: deque[tuple[str, bytes]], row: journal_rows.Row, checkpoints: Checkpoints
) -> None:
    """Compare a checkpoint with the core's state; one of other code says nothing about this core."""
    if checkpoints.is_of_this_code(row.fact):
        expected.append((CHECKPOINT, journal_rows.encode_json(checkpoints.take())))
        _compare(result, expected, row)


def _add_missing(result: Replay, expected: deque[tuple[str, bytes]]) -> None:
    for kind, body in expected:
        result.add_difference(f"the replay makes a {kind} that the journal does not have: {body!r}")
