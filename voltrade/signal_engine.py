"""When to enter: `SignalEngine` runs the indicators over each closed volume bar and asks the rule `_detect_signal`.

To change the rule, subclass `SignalEngine` (here, in a rule file, or in a notebook cell): add an `Indicator` to
`indicators`, list the rule's own outputs in `conditions`, and write `_detect_signal`. Numba compiles all of it. A rule
that numba can't compile, or that overrides `on_volume_bar`, runs as plain Python with one warning and the same results.

Each bar gets a decision: one row with all indicator values, each condition, and the signal. An indicator's value is NaN
until it has seen enough bars, and comparisons with NaN are false but `!=`: `x > y` is false, but `not x <= y` is true.
In rules, prices are in the quote asset and volumes in coins. Don't use `**` in a rule: compiled code and plain Python
may differ in the last bit of its result.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, reduce, update_wrapper
from types import MethodType
from typing import Any, ClassVar, overload

import numba
import numpy as np
from numba import types

from voltrade.compiled import (
    Record,
    Rows,
    bind,
    compile_for,
    compiled,
    compiled_in_place,
    plain,
    record_dtype,
    restored,
    rows_of,
)
from voltrade.config import SignalSettings
from voltrade.errors import ConfigError, DataError
from voltrade.indicators import (
    AGREEMENT,
    ATR,
    BOLLINGER,
    EMA,
    RSI,
    VWAP,
    Indicator,
    Step,
    Window,
    bars_to_forget,
    ema_step,
)
from voltrade.model import BAR, Instrument, Int64s, Side, Signal, VolumeBar
from voltrade.plain_start import entry, has_begun_plain, is_plain

__all__ = [
    "AGREEMENT",
    "ATR",
    "BAR_COLUMNS",
    "BOLLINGER",
    "EMA",
    "OVERRIDABLE",
    "RSI",
    "RULE_BAR",
    "SCALE",
    "VWAP",
    "BarStep",
    "Indicator",
    "Program",
    "SignalEngine",
    "Step",
    "UncompiledRuleWarning",
    "Window",
    "bars_to_forget",
    "ema_step",
    "fill_rule_bar",
    "other_overrides",
    "overrides_of",
    "refuse_other_overrides",
    "scale_of",
]


class UncompiledRuleWarning(UserWarning):
    """A rule runs as plain Python instead of compiled: the results are the same, but it is many times slower."""


_FLOATS = ("open", "high", "low", "close", "volume", "taker_buy_volume", "notional", "vwap")
RULE_BAR = record_dtype(
    [
        *((name, np.float64) for name in _FLOATS),
        *((name, np.int64) for name in ("trade_count", "number", "open_time", "close_time")),
        ("close_reason", np.int8),
        ("tainted", np.bool_),
    ]
)
"""A closed bar as rules read it; the docstring of `SignalEngine._detect_signal` says what each field means."""

SCALE = record_dtype(
    [(f"{unit}_{part}", np.float64) for unit in ("tick", "lot", "ticklot") for part in ("numerator", "denominator")]
)


@cache
def scale_of(instrument: Instrument) -> Rows:
    """Return a symbol's tick, lot and ticklot as fractions of integers, so that converting to float rounds once."""
    scale = np.zeros(1, SCALE)
    sizes = {
        "tick": instrument.tick_size,
        "lot": instrument.step_size,
        "ticklot": instrument.tick_size * instrument.step_size,
    }
    for unit, size in sizes.items():
        scale[f"{unit}_numerator"], scale[f"{unit}_denominator"] = Fraction(size).as_integer_ratio()
    return scale


@compiled
def fill_rule_bar(row: Record, scale: Record, bar: Record) -> None:
    """Convert a row of BAR (ticks, lots) to a row of RULE_BAR (quote asset, coins)."""
    bar.open = row.open * scale.tick_numerator / scale.tick_denominator
    bar.high = row.high * scale.tick_numerator / scale.tick_denominator
    bar.low = row.low * scale.tick_numerator / scale.tick_denominator
    bar.close = row.close * scale.tick_numerator / scale.tick_denominator
    bar.volume = row.volume * scale.lot_numerator / scale.lot_denominator
    bar.taker_buy_volume = row.taker_buy_volume * scale.lot_numerator / scale.lot_denominator
    bar.notional = row.notional * scale.ticklot_numerator / scale.ticklot_denominator
    bar.vwap = bar.notional / bar.volume
    bar.trade_count = row.trade_count
    bar.number = row.number
    bar.open_time = row.open_time
    bar.close_time = row.close_time
    bar.close_reason = row.close_reason
    bar.tainted = row.tainted


RETURNED_BOOLEAN, RETURNED_NONSENSE = 2, 3
"""What the step writes for a signal where the rule returned a boolean, or anything else but -1, 0 or 1."""


# --- SignalEngine -----------------------------------------------------------------------------------------------------


def _two_steps(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """Call two steps in turn; FIRST and SECOND are bound when a program is made."""
    FIRST(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
    SECOND(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821


def _step_bars(rows: Rows, scale: Rows, bar: Rows, state: Rows, settings: Rows, decisions: Rows) -> None:
    """Process closed bars one by one; STEP is bound when a program is made."""
    for at in range(len(rows)):
        fill_rule_bar(rows[at], scale[0], bar[0])
        STEP(state[0], bar[0], settings[0], decisions[at])  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True, slots=True)
class Program:
    """The functions of a subclass of `SignalEngine`, made for one record layout of its state and settings."""

    step: Callable[..., None]
    """Processes one bar: the function of the class's `BarStep`, with its indicators and its rule."""
    step_bars: Callable[..., None]
    """Processes an array of bars, one by one."""
    is_compiled: bool
    """Whether research may call `step` in its compiled loop. False where numba can't compile the rule, and where a
    subclass overrides `on_volume_bar`, which must then be called with each bar."""


class BarStep:
    """Decorator that turns the step of compiled loops into the method `on_volume_bar`.

    Sessions, replay and `check` call `engine.on_volume_bar(bar)`, which runs the step on one bar; backtest, sweep
    and explorer compile the same function into their loops. A subclass overrides the method with an ordinary method.
    """

    def __init__(self, step: Any) -> None:
        self.step: Step = step.__func__  # the function under the static method
        update_wrapper(self, self.step)

    @overload
    def __get__(self, engine: None, owner: type) -> BarStep: ...
    @overload
    def __get__(self, engine: SignalEngine, owner: type) -> Callable[[VolumeBar | Record], Signal | None]: ...
    def __get__(self, engine: SignalEngine | None, owner: type) -> Any:
        return self if engine is None else MethodType(self, engine)

    def __set__(self, engine: SignalEngine, value: object) -> None:
        raise AttributeError(f"{type(engine).__name__}.{self.step.__name__}: must be overridden in a subclass")

    def __call__(self, engine: SignalEngine, bar: VolumeBar | Record) -> Signal | None:
        rows = np.zeros(1, BAR)
        rows[0] = tuple(getattr(bar, name) for name in BAR.names or ()) if isinstance(bar, VolumeBar) else bar
        decisions = np.zeros(1, engine.decision_dtype)
        engine.step_bars(rows, decisions)
        engine.last_decision = decisions[0]
        return engine.signal(decisions[0], rows[0], engine.bars - 1) if decisions["signal"][0] else None


class SignalEngine:
    """Turns closed volume bars into decisions and signals.

    A custom rule is a subclass that overrides `settings_type`, `indicators`, `conditions`, `warmup_of`,
    `_detect_signal` or `on_volume_bar`, and nothing else (see `OVERRIDABLE`).

    Attributes:
        state: one row with everything that is kept between bars.
        warmup_bars: number of bars from which on decisions are `ready`.
        decision_dtype: fields of a decision: every output of every indicator, every condition, `signal` and `ready`.
        is_overridden: whether a subclass overrides `on_volume_bar`, which must then be called with every bar.
    """

    settings_type: ClassVar[type[SignalSettings]] = SignalSettings
    indicators: ClassVar[tuple[Indicator, ...]] = (VWAP, EMA, BOLLINGER, RSI, ATR)
    conditions: ClassVar[Mapping[str, type[int] | type[float] | type[bool]]] = {
        "ema_cross": int,
        "bollinger_breakout": int,
        "rsi_long": bool,
        "rsi_short": bool,
        "vwap_long": bool,
        "vwap_short": bool,
    }
    """Fields that the rule writes into a decision; here 1, -1 or 0 for triggers, and booleans for filters."""

    def __init__(self, settings: SignalSettings, instrument: Instrument) -> None:
        """Create a signal engine that has no bar yet.

        Args:
            settings: of `settings_type`. Of settings of another type, the values with the same names are used, and
                defaults for the rest.

        Raises:
            ConfigError: names that the class declares clash, or no indicator has the output `atr`, which sizing needs.
        """
        if not isinstance(settings, self.settings_type):
            settings = settings.converted_to(self.settings_type)
        self.settings = settings
        self.instrument = instrument
        self.warmup_bars = self.warmup_of(settings)
        self.decision_dtype = _decision_dtype(type(self))
        self.state = np.zeros(1, _state_dtype(type(self), settings))
        self.settings_row = _settings_row(settings, self.warmup_bars)
        self._settings_as_given = self.settings_row.tobytes()
        self.scale = scale_of(instrument)
        self.bar = np.zeros(1, RULE_BAR)
        self.take_program()
        self.is_overridden = not isinstance(type(self).on_volume_bar, BarStep)

    def take_program(self) -> None:
        """Take the rule's program: where it was plain until it is compiled, the compiled one if there is one by now."""
        self.program = _program(type(self), self.state.dtype, self.settings_row.dtype)

    @property
    def is_plain(self) -> bool:
        """Whether the rule is plain Python until it is compiled; one that numba can't compile is so for good."""
        return is_plain(self.program.step_bars)

    @classmethod
    def warmup_of(cls, settings: SignalSettings) -> int:
        """Return the number of bars until every indicator is ready."""
        return max(indicator.warmup_of(settings) for indicator in cls.indicators)

    @classmethod
    def program_for(cls, settings: SignalSettings) -> Program:
        """Return the rule's program for these settings, compiled at the first call.

        Warns with `UncompiledRuleWarning` where numba can't compile the rule.

        Raises:
            ConfigError: names that the class declares clash, or no indicator has the output `atr`, which sizing needs.
        """
        row = _settings_row(settings, cls.warmup_of(settings))
        return _program(cls, _state_dtype(cls, settings), row.dtype)

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        """Decide on an entry: 1 long, -1 short, 0 none; anything else is refused, with the bar.

        Args:
            state: what is kept between bars: the fields that the indicators declare, and `bars`, the number of bars up
                to this one, which goes on over midnight (after the rule was off, from the bars that warm it up on).
            bar: the closed bar. `open`, `high`, `low`, `close` and `vwap` in the quote asset; `volume` and
                `taker_buy_volume` (bought by takers) in coins; `notional` in the quote asset; `trade_count` in
                aggTrades; `open_time` and `close_time` of its first and last trade in ms UTC; `number` of the bar
                within its UTC day, from 0: **it begins anew at midnight** (with the anchor `continuous` never; on a
                tape that begins within a day it counts from its first trade; use `state.bars` to count bars);
                `close_reason`, a `model.CloseReason`; `tainted`, whether it misses trades.
            settings: the fields of `settings_type`, and `warmup_bars`.
            decision: the outputs of the indicators, and `conditions` for the rule to write.

        Triggers (EMA cross, Bollinger breakout) propose a side; filters (RSI, VWAP) can refuse it. Triggers that
        contradict each other give no signal. A trigger that is switched off is 0; a filter that is switched off passes.
        """
        decision.ema_cross = 0
        if settings.use_ema_cross and state.ema_side * state.ema_side_before < 0:
            decision.ema_cross = state.ema_side
        decision.bollinger_breakout = 0
        if settings.use_bollinger_breakout and state.bollinger_side != state.bollinger_side_before:
            decision.bollinger_breakout = state.bollinger_side

        decision.rsi_long = not settings.use_rsi_filter or decision.rsi < settings.rsi_overbought
        decision.rsi_short = not settings.use_rsi_filter or decision.rsi > settings.rsi_oversold
        decision.vwap_long = not settings.use_vwap_filter or bar.close > decision.vwap
        decision.vwap_short = not settings.use_vwap_filter or bar.close < decision.vwap

        wants_long = decision.ema_cross > 0 or decision.bollinger_breakout > 0
        wants_short = decision.ema_cross < 0 or decision.bollinger_breakout < 0
        if wants_long and not wants_short and settings.allow_long and decision.rsi_long and decision.vwap_long:
            return 1
        if wants_short and not wants_long and settings.allow_short and decision.rsi_short and decision.vwap_short:
            return -1
        return 0

    @BarStep
    @staticmethod
    def on_volume_bar(state: Record, bar: Record, settings: Record, decision: Record) -> None:
        """Process one closed bar: update all indicators, then ask the rule.

        Call it as `engine.on_volume_bar(bar)` with a `VolumeBar` or a row of BAR. It returns the bar's `Signal`, or
        None; `last_decision` has the details. The gates check later whether a signal may become an entry (warm-up, a
        tainted bar, a bar that the end of its day closed, an open position). A signal against the open position closes
        it where `exit_on_opposite_signal` is set; no gate is asked.

        A subclass may override it as `on_volume_bar(self, bar)`. The override must call `super().on_volume_bar(bar)`
        once for each bar, and must return None or a `Signal` of that bar, of which it may change `side` and `atr`. What
        it returns is traded in every mode. It runs bar by bar in plain Python.
        """
        INDICATORS(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
        state.bars += 1
        decision.ready = state.bars >= settings.warmup_bars
        signal = RULE(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
        if isinstance(signal, (bool, np.bool_)):
            decision.signal = RETURNED_BOOLEAN
        else:
            decision.signal = 1 if signal == 1 else -1 if signal == -1 else 0 if signal == 0 else RETURNED_NONSENSE

    last_decision: Record = None
    """Decision of the last bar given to `on_volume_bar`; None before the first."""

    def decide(self, row: Record) -> Record:
        """Call `on_volume_bar` with a closed bar (a row of BAR) and return the decision, with the signal in it.

        Raises:
            ConfigError: an override doesn't call `super().on_volume_bar` exactly once, or returns something other than
                None or a signal of this bar.
        """
        if not self.is_overridden:
            self.on_volume_bar(row)
            return self.last_decision
        before = self.bars
        signal: object = self.on_volume_bar(row.copy())
        name = f"{type(self).__name__}.on_volume_bar"
        if self.bars != before + 1:
            raise ConfigError(f"{name}: must call super().on_volume_bar once a bar, did {self.bars - before} times")
        if not isinstance(signal, Signal | None):
            raise ConfigError(f"{name}: must return a Signal or None, returned {signal!r}")
        decision = self.last_decision
        decision["signal"] = signal.side if signal else 0
        if signal:
            decision["atr"] = signal.atr
            expected = self.signal(decision, row, before)
            for field_name in ("time", "symbol", "bar_number", "price"):
                given, wanted = getattr(signal, field_name), getattr(expected, field_name)
                if given != wanted:
                    raise ConfigError(f"{name}: {field_name} of a signal must be its bar's, {wanted!r}, was {given!r}")
        return decision

    def on_volume_bars(self, rows: Rows) -> Rows:
        """Process closed bars (rows of BAR) and return a decision for each."""
        decisions = np.zeros(len(rows), self.decision_dtype)
        if self.is_overridden:
            for number, row in enumerate(rows):
                decisions[number] = self.decide(row)
        else:
            self.step_bars(rows, decisions)
        return decisions

    def step_bars(self, rows: Rows, decisions: Rows) -> None:
        """Process closed bars and write a decision for each; an override of `on_volume_bar` isn't called.

        Raises:
            ConfigError: the rule returned something other than -1, 0 or 1, or changed its settings; names the bar.
        """
        before = self.bars
        self.program.step_bars(rows, self.scale, self.bar, self.state, self.settings_row, decisions)
        self.refuse_other_settings(self.settings_row[0])
        self.refuse_other_signals(decisions["signal"], rows, range(before, before + len(rows)))

    def refuse_other_settings(self, row: Record) -> None:
        """Restore the settings and raise an error where the rule has changed them: no saved state has such changes.

        Args:
            row: the settings as the rule left them.

        Raises:
            ConfigError: names the settings.
        """
        if row.tobytes() == self._settings_as_given:
            return
        given = np.frombuffer(self._settings_as_given, row.dtype)[0]
        changed = [
            f"{name} from {given[name]} to {row[name]}" for name in given.dtype.names if row[name] != given[name]
        ]
        self.settings_row[0] = given
        raise ConfigError(
            f"{type(self).__name__}: a rule must not change its settings, did within the bars up to {self.bars}: "
            f"{', '.join(changed)}"
        )

    def refuse_other_signals(self, signals: Int64s, rows: Rows, numbers: Sequence[int] | Int64s) -> None:
        """Raise an error that names the first return value other than -1, 0 or 1.

        Args:
            signals: of some bars, as the compiled step wrote them.
            rows: those bars.
            numbers: of those bars in the run, from 0.

        Raises:
            ConfigError: the rule returned something other than -1, 0 or 1.
        """
        wrong = np.flatnonzero(signals > 1)
        if not len(wrong):
            return
        first = int(wrong[0])
        is_boolean = signals[first] == RETURNED_BOOLEAN
        returned = "True or False" if is_boolean else "something else, such as None, NaN or a fraction"
        closed = np.datetime64(int(rows["close_time"][first]), "ms")
        raise ConfigError(
            f"{type(self).__name__}._detect_signal: must return -1, 0 or 1, at bar {int(numbers[first])}, closed "
            f"{closed} UTC, it returned {returned}"
        )

    def signal(self, decision: Record, row: Record, bar_number: int) -> Signal | None:
        """Return the signal of a decision, or None. `bar_number` counts the bars of the run from 0."""
        if decision["signal"] == 0:
            return None
        return Signal(
            time=int(row["close_time"]),
            symbol=self.instrument.symbol,
            side=Side(int(decision["signal"])),
            bar_number=bar_number,
            price=int(row["close"]),
            atr=float(decision["atr"]),
        )

    @property
    def bars(self) -> int:
        """Number of bars processed so far."""
        return int(self.state["bars"][0])

    @property
    def fingerprint(self) -> bytes:
        """16 bytes, equal for signal engines of the same rule and settings: they can restore each other's state."""
        layout = f"{type(self).__qualname__} {self.state.dtype.descr} {self.settings_row.dtype.descr}"
        return hashlib.sha256(layout.encode() + self.settings_row.tobytes()).digest()[:16]

    def state_bytes(self) -> bytes:
        """Return the whole state; a signal engine that restores it makes the same decisions on the same bars."""
        return self.fingerprint + self.state.tobytes()

    def restore(self, saved: bytes) -> None:
        """Set the state to what `state_bytes` of a signal engine of the same class and settings returned.

        Raises:
            DataError: the state is from another class or other settings.
        """
        if saved[:16] != self.fingerprint or len(saved) != 16 + self.state.nbytes:
            raise DataError(f"{type(self).__name__}: a saved state must be of the same rule and settings")
        self.state = restored(self.state.dtype, saved[16:])


_NUMBERS: dict[type, type] = {int: np.int64, float: np.float64, bool: np.bool_}


@cache
def _unique(fields: tuple[tuple[Any, ...], ...], owner: str) -> np.dtype[Any]:
    """Return a record dtype of fields that must have unique names.

    Each kind of record ends with a field of its own (`bars`, `ready`, `warmup_bars`), so that no record dtype begins
    with all fields of another: numba would treat the longer as a subtype and run code compiled for the shorter.

    Raises:
        ConfigError: two fields have the same name.
    """
    names = [name for name, *_ in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{owner}: names must be unique, was twice: {name}")
    return record_dtype(list(fields))


def _state_dtype(engine: type[SignalEngine], settings: SignalSettings) -> np.dtype[Any]:
    """Return the record dtype of a signal engine's state. A window has room for 256 values, or 1,024, and so on.

    Compiled code depends on the dtype: with few window sizes, most changes of a length need no compilation.
    """
    fields: list[tuple[Any, ...]] = []
    for indicator in engine.indicators:
        for name, kind in indicator.state.items():
            if isinstance(kind, Window):
                fields.append((name, np.float64, (_window_size(getattr(settings, kind.setting)),)))
            else:
                fields.append((name, _NUMBERS[kind]))
    return _unique((*fields, ("bars", np.int64)), f"{engine.__name__} state")


def _window_size(length: int) -> int:
    size = 256
    while size < length:
        size *= 4
    return size


BAR_COLUMNS = frozenset({*(BAR.names or ()), "bar", "time", "duration_s", "bar_vwap", "outcome", "why"})
"""Column names of a bar and its outcome in tables; a decision field of the same name would replace the column there."""


def _decision_dtype(engine: type[SignalEngine]) -> np.dtype[Any]:
    fields: list[tuple[Any, ...]] = [
        (name, np.float64) for indicator in engine.indicators for name in indicator.outputs
    ]
    fields += [(name, _NUMBERS[kind]) for name, kind in engine.conditions.items()]
    if "atr" not in {name for name, *_ in fields}:
        raise ConfigError(f"{engine.__name__}: an indicator must have the output atr, which stops and sizing need")
    if taken := sorted(BAR_COLUMNS & {name for name, *_ in fields}):
        raise ConfigError(
            f"{engine.__name__}: outputs and conditions must have other names than the columns of bars "
            f"({', '.join(sorted(BAR_COLUMNS))}), was {', '.join(taken)}"
        )
    return _unique((*fields, ("signal", np.int8), ("ready", np.bool_)), f"{engine.__name__} decision")


def _settings_row(settings: SignalSettings, warmup_bars: int) -> Rows:
    """Return the settings as a row with a field for each setting, and `warmup_bars`.

    Raises:
        ConfigError: a setting has the name `warmup_bars`, or is neither a number nor a boolean.
    """
    if "warmup_bars" in type(settings).model_fields:
        raise ConfigError(
            "warmup_bars: a setting of a rule must have another name; this name is for the longest ready_after"
        )
    values = {**{name: getattr(settings, name) for name in type(settings).model_fields}, "warmup_bars": warmup_bars}
    for name, value in values.items():
        if type(value) not in _NUMBERS:
            raise ConfigError(f"{name}: a setting of a rule must be a number or a boolean, was {value!r}")
    row = np.zeros(1, record_dtype([(name, _NUMBERS[type(value)]) for name, value in values.items()]))
    row[0] = tuple(values.values())
    return row


def indicators_of(engine: type[SignalEngine], form: Callable[[Any], Any], joint: Callable[[Any], Any]) -> Any:
    """Return the indicators of a signal engine as one step that updates all of them.

    Args:
        form: applied to the step of each indicator: `compiled` or `plain`.
        joint: applied to the function that calls two steps: `compiled_in_place`, `compiled` or `plain`. With
            `compiled_in_place` only compiled code can call the result.
    """
    steps = [form(indicator.step) for indicator in engine.indicators]
    return reduce(lambda first, second: joint(bind(_two_steps, FIRST=first, SECOND=second)), steps)


OVERRIDABLE = frozenset({"settings_type", "indicators", "conditions", "warmup_of", "_detect_signal", "on_volume_bar"})
"""Members of `SignalEngine` that a rule may override; compiled loops wouldn't call an override of another."""


def other_overrides(rule: type[SignalEngine]) -> list[str]:
    """Return the names of the methods of `SignalEngine` that a rule overrides but must not, sorted."""
    names = vars(SignalEngine).keys() - OVERRIDABLE
    return sorted(name for name in names if any(callable(value) for value in overrides_of(name, rule)))


def overrides_of(name: str, rule: type[SignalEngine]) -> list[Any]:
    """Return the definitions of a member in a rule and in its base classes up to `SignalEngine`, which is excluded."""
    owners = rule.__mro__[: rule.__mro__.index(SignalEngine)]
    return [getattr(owner, name) for owner in owners if name in vars(owner)]


def refuse_other_overrides(rule: type[SignalEngine]) -> None:
    """Refuse a rule that overrides a method that trading would not call.

    Raises:
        ConfigError: the rule overrides such a method.
    """
    if others := other_overrides(rule):
        raise ConfigError(
            f"{rule.__name__}: must override only {', '.join(sorted(OVERRIDABLE))}, which every mode calls; "
            f"overrides {', '.join(others)}"
        )


_BUILT_IN: BarStep = vars(SignalEngine)["on_volume_bar"]


def bar_step_of(engine: type[SignalEngine]) -> BarStep:
    """Return the `BarStep` of a class: its own, or that of the nearest base class that has one."""
    steps = (vars(owner).get("on_volume_bar") for owner in engine.__mro__)
    return next((step for step in steps if isinstance(step, BarStep)), _BUILT_IN)


_programs: dict[tuple[Any, ...], Program] = {}


def _program(engine: type[SignalEngine], state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    """Return the program of a class for the dtypes of its state and settings; made once and kept, unless it is plain
    until it is compiled."""
    key = (engine, engine.on_volume_bar, engine._detect_signal, state, settings)
    program = _programs.get(key) or _make_program(engine, state, settings)
    if not is_plain(program.step_bars):
        _programs[key] = program
    return program


def _make_program(engine: type[SignalEngine], state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    """Compile a class; warn if it has to run as plain Python or overrides `on_volume_bar`."""
    step, why = bar_step_of(engine).step, ""
    if not isinstance(engine.on_volume_bar, BarStep):
        why = "it overrides on_volume_bar"
    try:
        program = _compiled_program(engine, step, state, settings)
    except Exception as error:  # any error of numba; the rule itself isn't called here
        why = why or f"numba can't compile it: {str(error).strip().splitlines()[0]}"
        program = _plain_program(engine, step, state, settings)
    if not why:
        return program
    warnings.warn(
        f"{engine.__name__} runs uncompiled, many times slower, since {why}",
        UncompiledRuleWarning,
        stacklevel=5,  # the caller of the code that creates the engine
    )
    return replace(program, is_compiled=False)


def _compiled_program(engine: type[SignalEngine], step: Step, state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    indicators = indicators_of(engine, compiled, compiled_in_place)
    bound = compiled_in_place(bind(step, INDICATORS=indicators, RULE=compiled(engine._detect_signal)))
    records = [rows_of(dtype) for dtype in (SCALE, RULE_BAR, state, settings, _decision_dtype(engine))]
    signature = types.void(rows_of(BAR), *records)
    # Of another rule than the built-in one nobody knows that it gives the same bits as plain Python, such as by `exp`,
    # and raises the same: its decisions are only compared so (`BarPipeline.take_rules`). One that isn't in a file has
    # no name of its own.
    may_begin_plain = has_begun_plain() and isinstance(engine.on_volume_bar, BarStep)
    make = entry if engine is SignalEngine or may_begin_plain else compile_for
    return Program(bound, make(bind(_step_bars, STEP=bound), signature), is_compiled=True)


def _plain_program(engine: type[SignalEngine], step: Step, state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    indicators = indicators_of(engine, compiled, compiled)
    records = (state, RULE_BAR, settings, _decision_dtype(engine))
    try:
        indicators.compile(tuple(numba.from_dtype(dtype) for dtype in records))
    except Exception:
        indicators = indicators_of(engine, plain, plain)
    bound = bind(step, INDICATORS=indicators, RULE=plain(engine._detect_signal))
    return Program(bound, bind(_step_bars, STEP=bound), is_compiled=False)
