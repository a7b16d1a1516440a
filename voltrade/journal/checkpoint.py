"""Checkpoints: the whole state of a core as a row of the journal, from which a recovery starts.

After the block with which 50,000 trades have come since the last one, the journal gets a row with everything that the
core keeps, but the closed bars, which have rows of their own. Once the core has something that a row can't keep, there
are no more. A replay makes the same rows and compares them; a recovery restores the last one and replays what follows,
or replays all where the code that wrote it kept other attributes or fields, or had another `VERSION`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from hashlib import sha256
from typing import Any

import numpy as np

from voltrade.compiled import Rows
from voltrade.core import TradingCore
from voltrade.errors import DataError, JournalError
from voltrade.journal.rows import encode_json
from voltrade.model import Event, Filters, MarkPrice, Operator, Trades
from voltrade.orders.records import OrderRow, PositionRow
from voltrade.risk import CircuitBreaker
from voltrade.symbol_state import SymbolState

VERSION = 7
"""Raised by hand where an attribute or a field means something else; that one came or went is seen without it."""
EVERY_TRADES = 50_000
CHECKPOINT = "Checkpoint"
"""Kind of the journal's rows."""

OMITTED_ATTRIBUTES = {
    "TradingCore": {"config", "symbol_states", "_books", "_answers", "_signal", "_wallet"},
    "WalletCheck": set(),
    "AccountBooks": {
        "_accounts",
        "_symbols",
        "_events",
        "_questions",
        "account",
        "symbols",
        "breaker",
        "monitors",
        "_step",
        "_signal_step",
        "_decide",
    },
    "CircuitBreaker": {"_state", "_holds", "_rules"},
    "SymbolState": {"instrument", "pipeline", "engine", "monitor", "expected_range"},
    "BarPipeline": {"aggregator", "engine", "rule_error", "_bars", "_decisions", "_again_from"},
    "OrderMonitor": {
        *("instrument", "_books", "_row", "_register", "_check", "_outputs", "_execution"),
        *("_position_row", "_order_rows"),
    },
    "OrderRegister": {"_books", "symbol_row", "position_row", "order_rows", "_earlier_row"},
    "SnapshotCheck": {"_register"},
    "OrderOutputs": {"_register", "_books", "_gates", "_symbol", "_working_type"},
}
"""Attributes that a checkpoint omits, by class: made from settings, arrays (stored apart), references to other objects
(stored under a name of their own), or needed within one event. All others are stored."""

_CLASSES: dict[str, Any] = {kind.__name__: kind for kind in (OrderRow, PositionRow, Operator, Filters)}


class Checkpoints:
    """Counts what a core has taken, and says when a checkpoint is due: in live trading, in a replay, in a recovery.

    Attributes:
        trades, marks: How many trades and mark prices the core has taken.
    """

    def __init__(self, core: TradingCore) -> None:
        self._core = core
        self.trades = self.marks = 0
        self._written = 0
        self._is_possible = True

    def count(self, event: Event, consumed: int) -> None:
        """Count an event that the core has handled."""
        if isinstance(event, Trades):
            self.trades += consumed
        elif isinstance(event, MarkPrice):
            self.marks += 1

    def after(self, event: Event, consumed: int) -> bytes | None:
        """Count an event that the core has handled; return the body of the checkpoint that is due after it, if any.

        After a block of trades only: where it ends is in the journal, so that a replay is in the same state.
        """
        self.count(event, consumed)
        is_due = isinstance(event, Trades) and self.trades - self._written >= EVERY_TRADES
        if not is_due or not self._is_possible:
            return None
        try:
            return encode_json(self.take())
        except (KeyError, TypeError, JournalError):  # without one a recovery takes longer; no session must end for it
            self._is_possible = False
            return None

    def take(self) -> dict[str, Any]:
        """Return a checkpoint of the core as it is now.

        Raises:
            KeyError, TypeError: The core keeps something that a checkpoint can't, or whose class isn't known here.
        """
        self._written = self.trades
        counts = {"trades": self.trades, "marks": self.marks}
        return {"version": VERSION, "fields": fields_of(self._core), **counts, **state_of(self._core)}

    def is_of_this_code(self, saved: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint was written by code of this VERSION that kept the same attributes and fields."""
        return bool(saved.get("version") == VERSION and saved.get("fields") == fields_of(self._core))

    def restore(self, saved: Mapping[str, Any], bars: Iterable[Mapping[str, Any]]) -> None:
        """Set the core and the counts to a checkpoint; the core must be new.

        Args:
            saved: The row's body.
            bars: The bodies of all rows of bars before it.

        Raises:
            DataError: It is of another version, or can't be read.
        """
        if saved.get("version") != VERSION:
            raise DataError(f"checkpoint: version must be {VERSION}, was {saved.get('version')!r}")
        try:
            restore_state(self._core, saved, bars)
            self.trades = self._written = int(saved["trades"])
            self.marks = int(saved["marks"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"checkpoint: it can't be read: {error!r}") from None


# --- the state of a core ----------------------------------------------------------------------------------------------


def state_of(core: TradingCore) -> dict[str, Any]:
    """Return everything that a core keeps but its closed bars, as plain JSON values."""
    return {
        "objects": {name: _attributes(part) for name, part in _parts(core)},
        "arrays": {name: _listed(rows) for name, rows in _arrays(core)},
    }


def fields_of(core: TradingCore) -> str:
    """Return a hash of the names of all that a checkpoint of the core has: attributes, and fields with their types."""
    names = {name: sorted(_kept(part)) for name, part in _parts(core)}
    types = {name: str(rows.dtype) for name, rows in _arrays(core)}
    return sha256(encode_json({"attributes": names, "types": types})).hexdigest()[:16]


def restore_state(core: TradingCore, saved: Mapping[str, Any], bars: Iterable[Mapping[str, Any]]) -> None:
    """Set a new core to a state that `state_of` returned, and to its closed bars.

    Raises:
        KeyError, TypeError, ValueError: The state lacks something, or something has the wrong type.
    """
    if "breaker" in saved["objects"]:
        core._books.breaker = CircuitBreaker(core.config.risk, 0, 0, core._books.breaker_rows)
    if saved["fields"] != fields_of(core):
        raise ValueError("attributes and fields must be those of this code, were others")
    for name, part in _parts(core):
        vars(part).update({key: _restored(value) for key, value in saved["objects"][name].items()})
    for name, rows in _arrays(core):
        rows[:] = [_row(rows.dtype, row) for row in saved["arrays"][name]]
    (symbol_state,) = core.symbol_states.values()
    _restore_bars(symbol_state, bars)
    symbol_state.pipeline.note_rule_state()


def _restore_bars(symbol_state: SymbolState, bars: Iterable[Mapping[str, Any]]) -> None:
    pipeline = symbol_state.pipeline
    closed = [(row, row["decision"]) for row in bars]
    if len(closed) != pipeline.count:
        raise ValueError(f"there must be {pipeline.count} bars, were {len(closed)}")
    for number, column in enumerate(("_bars", "_decisions")):
        rows = getattr(pipeline, column)
        rows = np.zeros(max(len(rows), len(closed)), rows.dtype)
        for at, both in enumerate(closed):
            rows[at] = tuple(both[number][name] for name in rows.dtype.names)
        setattr(pipeline, column, rows)


def _parts(core: TradingCore) -> Iterator[tuple[str, Any]]:
    """Yield every object of a core that keeps anything, with a name."""
    yield "core", core
    yield "wallet", core._wallet
    yield "books", core._books
    if core.breaker is not None:
        yield "breaker", core.breaker
    for symbol, symbol_state in core.symbol_states.items():
        monitor = symbol_state.monitor
        parts = (symbol_state, symbol_state.pipeline, monitor, monitor._register, monitor._check, monitor._outputs)
        for part in parts:
            yield f"{symbol} {type(part).__name__}", part


def _arrays(core: TradingCore) -> Iterator[tuple[str, Rows]]:
    yield "accounts", core._books._accounts
    yield "symbols", core._books._symbols
    for symbol, symbol_state in core.symbol_states.items():
        yield f"{symbol} bar", symbol_state.pipeline.aggregator.state
        yield f"{symbol} rule", symbol_state.engine.state


# --- plain values -----------------------------------------------------------------------------------------------------


def _attributes(part: object) -> dict[str, Any]:
    return {name: _plain(value) for name, value in _kept(part).items()}


def _kept(part: object) -> dict[str, Any]:
    left_out = OMITTED_ATTRIBUTES[type(part).__name__]
    return {name: value for name, value in vars(part).items() if name not in left_out}


def _plain(value: Any) -> Any:
    """Return a value in a form that JSON keeps, with its type.

    Raises:
        TypeError: It is of a type that no checkpoint has.
    """
    if type(value).__name__ in _CLASSES:
        return {"class": type(value).__name__, "items": list(value if isinstance(value, tuple) else astuple(value))}
    if isinstance(value, dict):
        return {"class": "dict", "items": [[_plain(key), _plain(part)] for key, part in value.items()]}
    if isinstance(value, set):
        return {"class": "set", "items": sorted(value)}
    if isinstance(value, tuple):
        return {"class": "tuple", "items": [_plain(part) for part in value]}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"checkpoint: {type(value).__name__} {value!r} is of a type that can't be kept")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind, items = value["class"], value["items"]
    if kind in _CLASSES:
        return _CLASSES[kind](*items)
    if kind == "dict":
        return {_restored(key): _restored(part) for key, part in items}
    return {"set": set, "tuple": tuple}[kind](_restored(part) for part in items)


def _listed(rows: Any) -> Any:
    """Return rows, with the rows in their fields, as nested lists."""
    if isinstance(rows, np.ndarray):
        return [_listed(row) for row in rows.tolist()]
    return [_listed(value) for value in rows] if isinstance(rows, tuple) else rows


def _row(dtype: np.dtype[Any], value: Any) -> Any:
    """Return nested lists as what numpy assigns to a row: tuples for records, lists for rows of them."""
    if dtype.subdtype is not None:
        return [_row(dtype.subdtype[0], part) for part in value]
    if dtype.names is None:
        return value
    return tuple(_row(dtype[name], part) for name, part in zip(dtype.names, value, strict=True))
