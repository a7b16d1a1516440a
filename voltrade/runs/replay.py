"""Runs a session again from its journal alone, and compares decision by decision.

The journal holds every event in the order in which the core took it, trades cut where the core stopped. The same core,
fed the same events, must close the same bars and make the same commands and notes, byte for byte. A rule file is the
run's own copy, of the hash that stands in the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from voltrade import journal
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.errors import JournalError
from voltrade.model import Event, Instrument
from voltrade.strategy.rule_file import load_rule
from voltrade.signal_engine import SignalEngine
from voltrade import journal_rows

INSTRUMENT = TypeAdapter(Instrument)
EVENTS = {kind.__name__ for kind in Event.__args__}
MOST_SHOWN = 20


@dataclass(slots=True)
class Replay:
    """What a replay found."""

    events: int = 0
    outputs: int = 0
    """Bars, commands and notes compared."""
    differences: int = 0
    shown: list[str] = field(default_factory=list)
    """The first differences, a line each."""
    core: TradingCore | None = None
    """The core as it was when the journal ended."""
    marks: int = 0
    """Mark prices that it had taken."""
    head: str = ""

    def differ(self, line: str) -> None:
        self.differences += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(line)


def start_row(config: Config, instrument: Instrument, epoch: str, **more: Any) -> dict[str, Any]:
    """Return the first row of a journal: all that a core is made from."""
    return {
        "config": config.model_dump(mode="json"),
        "instrument": INSTRUMENT.dump_python(instrument, mode="json"),
        "epoch": epoch,
        **more,
    }


def replay(path: Path) -> Replay:
    """Replay a journal.

    Raises:
        JournalError: the journal doesn't begin with a Start row, or can't be read.
        ConfigError: the copy of the rule beside it isn't the one that the Start row names.
    """
    rows = journal.read(path)
    begun = _begun(path, rows)
    core = TradingCore(begun.config, begun.instrument, begun.epoch, begun.engine())
    result = Replay(core=core)
    expected: deque[tuple[str, bytes]] = deque()
    for row in rows:
        if row.kind in EVENTS:
            _missing(result, expected)
            expected = _handle(core, row, result)
            result.marks += row.kind == "MarkPrice"
        elif row.kind != "End":
            _compare(result, expected, row)
        result.head = row.hash.hex()
    _missing(result, expected)
    return result


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run was begun with, as its journal's first row has it."""

    config: Config
    instrument: Instrument
    epoch: str
    rule: type[SignalEngine]

    def engine(self) -> SignalEngine:
        """Make the run's signal engine, which has seen no bar."""
        return self.rule(self.config.signals, self.instrument)


def begun(path: Path) -> Begun:
    """Read what a run was begun with, and load its copy of a rule file.

    Raises:
        JournalError: the journal doesn't begin with a Start row, or can't be read.
        ConfigError: the copy of the rule beside it isn't the one that the Start row names.
    """
    return _begun(path, journal.read(path))


def _begun(path: Path, rows: Iterator[journal_rows.Row]) -> Begun:
    first = next(rows, None)
    if first is None or first.kind != "Start":
        raise JournalError(f"{path}: must begin with a Start row, began with {first.kind if first else 'nothing'}")
    start: dict[str, Any] = first.fact
    rule_name = start["config"]["session"].get("rule", "")  # empty for the built-in rule
    rule = load_rule(rule_name, start.get("rule_sha256", ""), path.parent)
    config = Config.from_json(journal_rows.encode_json(start["config"]), rule.settings_type)
    return Begun(config, INSTRUMENT.validate_python(start["instrument"]), start["epoch"], rule)


def recover(path: Path) -> Replay:
    """Make again the core of a run that was killed.

    A journal is committed only where an event stands with all that followed from it, so its end is whole.

    Raises:
        JournalError: the journal doesn't lead to the decisions that stand in it.
    """
    again = replay(path)
    if again.differences:
        raise JournalError(f"{path}: can't be gone on from: {again.shown[0]}")
    return again


def _handle(core: TradingCore, row: journal_rows.Row, result: Replay) -> deque[tuple[str, bytes]]:
    """Let the core take an event; return the rows that must follow it."""
    result.events += 1
    event = row.fact
    (symbol_state,) = core.symbol_states.values()
    bars = symbol_state.pipeline.count
    consumed, outputs = core.handle(event)
    if row.kind == "Trades" and consumed != len(event):
        result.differ(f"row {row.seq}: the block of {len(event)} trades was consumed up to {consumed}")
    closed = [("Bar", journal_rows.encode_json(core.bar_row(symbol_state, number))) for number in range(bars, symbol_state.pipeline.count)]
    return deque([*closed, *map(journal_rows.encode, outputs)])


def _compare(result: Replay, expected: deque[tuple[str, bytes]], row: journal_rows.Row) -> None:
    result.outputs += 1
    if not expected:
        result.differ(f"row {row.seq}: the journal has a {row.kind} that the replay does not make")
        return
    kind, body = expected.popleft()
    if (kind, body) != (row.kind, row.body):
        result.differ(f"row {row.seq}: {row.kind} {row.body!r} was replayed as {kind} {body!r}")


def _missing(result: Replay, expected: deque[tuple[str, bytes]]) -> None:
    for kind, body in expected:
        result.differ(f"the replay makes a {kind} that the journal does not have: {body!r}")
