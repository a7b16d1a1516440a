"""When to enter: indicators as one-step recurrences over volume bars, and the entry rule `_detect_signal`.

Each indicator is declared once, as an `Indicator`: the state it keeps, the values it gives, the function that takes one
step, and how many bars it needs. To change the rule, subclass `SignalEngine` (here, in a file of your own, or in a
notebook cell): add an `Indicator` to `indicators`, name what the rule decides in `conditions`, write `_detect_signal`.
Numba compiles the whole; a rule that it can't compile runs as plain Python, with one warning and the same results. So
does one that overrides `on_volume_bar`.

Every bar leaves a decision: one row with all indicator values, each condition, and the signal. Values before an
indicator has seen enough bars are NaN, and a comparison with NaN is false, so no rule fires on them. Prices and volumes
in rules are in natural units (quote asset, coins). Don't use `**` in a rule: compiled and plain differ in its last bit.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from voltrade.model import BAR, Instrument, Side, Signal, VolumeBar

Step = Callable[[Record, Record, Record, Record], None]
"""`step(state, bar, settings, decision)`: reads a closed bar and the settings, changes its own part of the state in
place, and writes its values into the decision."""

Rule = Callable[[Record, Record, Record, Record], int]
"""`rule(state, bar, settings, decision)` gives 1 for long, -1 for short, 0 for nothing."""

AGREEMENT = 1e-9
"""Two different starts agree to this, relative to the scale of prices, once an indicator is ready."""


class UncompiledRuleWarning(UserWarning):
    """Numba can't compile a rule: it runs as plain Python, with the same results, many times slower."""


_FLOATS = ("open", "high", "low", "close", "volume", "taker_buy_volume", "notional", "vwap")
RULE_BAR = record_dtype(
    [
        *((name, np.float64) for name in _FLOATS),
        *((name, np.int64) for name in ("trade_count", "number", "open_time", "close_time")),
        ("close_reason", np.int8),
        ("tainted", np.bool_),
    ]
)
"""A closed bar as rules see it: prices and notional in the quote asset, volumes in coins, times in ms UTC."""

SCALE = record_dtype(
    [(f"{unit}_{part}", np.float64) for unit in ("tick", "lot", "ticklot") for part in ("numerator", "denominator")]
)


@cache
def scale_of(instrument: Instrument) -> Rows:
    """A symbol's units as fractions of whole numbers, so that a price in ticks becomes a float with one rounding."""
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
def describe(row: Record, scale: Record, bar: Record) -> None:
    """Write a row of BAR into a row of RULE_BAR."""
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


# --- indicators -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """State that holds the last values of something: as many as the setting of this name says."""

    setting: str


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator, declared once."""

    outputs: tuple[str, ...]
    """Names of its values in the decision, floats."""
    step: Step
    """Takes one bar. `state.bars` is the number of bars before this one."""
    ready_after: Callable[[Any], int]
    """Bars, by the settings, after which two different starts agree to 1e-9; a part of a bar counts as one."""
    state: Mapping[str, type[int] | type[float] | Window] = field(default_factory=dict)
    """Fields it keeps between bars; they begin at zero. Names are shared by all indicators of an engine."""

    def warmup_of(self, settings: SignalSettings) -> int:
        """Whole bars until it is ready.

        Raises:
            ConfigError: `ready_after` gives no finite number.
        """
        bars: Any = self.ready_after(settings)
        if not isinstance(bars, int | float | np.number) or not math.isfinite(bars):
            raise ConfigError(f"{', '.join(self.outputs)}: ready_after must be a number of bars, was {bars!r}")
        return math.ceil(bars)


def bars_to_forget(alpha: float, agreement: float = AGREEMENT) -> int:
    """Bars until the start of an exponential average weighs no more than `agreement`: (1 - alpha)^bars <= agreement."""
    return math.ceil(math.log(agreement) / math.log1p(-alpha)) if alpha < 1 else 1


@compiled
def ema_step(before: float, value: float, alpha: float) -> float:
    """One step of an exponential average."""
    return before + alpha * (value - before)


@compiled
def _step_vwap(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """Rolling VWAP: notional over volume of the last bars, summed anew at each bar so that no error piles up."""
    length = settings.vwap_length
    notionals, volumes = state.vwap_notionals, state.vwap_volumes
    notionals[state.bars % length] = bar.notional
    volumes[state.bars % length] = bar.volume
    decision.vwap = math.nan
    if state.bars + 1 >= length:
        notional, volume = 0.0, 0.0
        for row in range(length):
            notional += notionals[row]
            volume += volumes[row]
        decision.vwap = notional / volume


VWAP = Indicator(
    outputs=("vwap",),
    step=_step_vwap,
    ready_after=lambda settings: int(settings.vwap_length),
    state={"vwap_notionals": Window("vwap_length"), "vwap_volumes": Window("vwap_length")},
)


@compiled
def _step_ema(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """A fast and a slow EMA, alpha = 2 / (n + 1), both seeded with the first close.

    `ema_side` is the side of the slow average that the fast one was last seen on (1 above, -1 below); a cross is a
    change of side, so touching without crossing is none.
    """
    if state.bars == 0:
        state.ema_fast, state.ema_slow = bar.close, bar.close
    else:
        state.ema_fast = ema_step(state.ema_fast, bar.close, 2.0 / (settings.ema_fast + 1))
        state.ema_slow = ema_step(state.ema_slow, bar.close, 2.0 / (settings.ema_slow + 1))
    decision.ema_fast = state.ema_fast if state.bars + 1 >= settings.ema_fast else math.nan
    decision.ema_slow = state.ema_slow if state.bars + 1 >= settings.ema_slow else math.nan
    state.ema_side_before = state.ema_side
    if decision.ema_fast > decision.ema_slow:
        state.ema_side = 1
    elif decision.ema_fast < decision.ema_slow:
        state.ema_side = -1


EMA = Indicator(
    outputs=("ema_fast", "ema_slow"),
    step=_step_ema,
    ready_after=lambda settings: max(settings.ema_slow, 1 + bars_to_forget(2 / (settings.ema_slow + 1))),
    state={"ema_fast": float, "ema_slow": float, "ema_side": int, "ema_side_before": int},
)


@compiled
def _step_bollinger(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """Mean and population deviation of the last closes, in two passes over distances from the newest close.

    Distances keep the digits that sums of squared prices would lose, and are exactly zero in a flat window.
    `bollinger_side` is where the close lies: 1 above the bands, -1 below, 0 between.
    """
    length, close, closes = settings.bollinger_length, bar.close, state.bollinger_closes
    closes[state.bars % length] = close
    state.bollinger_side_before = state.bollinger_side
    state.bollinger_side = 0
    decision.bollinger_middle, decision.bollinger_upper, decision.bollinger_lower = math.nan, math.nan, math.nan
    if state.bars + 1 < length:
        return
    distance = 0.0
    for row in range(length):
        distance += closes[row] - close
    mean = distance / length
    squares = 0.0
    for row in range(length):
        deviation = closes[row] - close - mean
        squares += deviation * deviation
    width = settings.bollinger_width * math.sqrt(squares / length)
    decision.bollinger_middle = close + mean
    decision.bollinger_upper = close + mean + width
    decision.bollinger_lower = close + mean - width
    if close > decision.bollinger_upper:
        state.bollinger_side = 1
    elif close < decision.bollinger_lower:
        state.bollinger_side = -1


BOLLINGER = Indicator(
    outputs=("bollinger_middle", "bollinger_upper", "bollinger_lower"),
    step=_step_bollinger,
    ready_after=lambda settings: int(settings.bollinger_length) + 1,
    state={"bollinger_closes": Window("bollinger_length"), "bollinger_side": int, "bollinger_side_before": int},
)


@compiled
def _step_rsi(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """RSI with Wilder's smoothing, alpha = 1 / n, seeded with the first bar's change, 0; it is 100 without any fall."""
    change = bar.close - state.rsi_close if state.bars > 0 else 0.0
    state.rsi_close = bar.close
    alpha = 1.0 / settings.rsi_length
    state.rsi_up = ema_step(state.rsi_up, max(change, 0.0), alpha)
    state.rsi_down = ema_step(state.rsi_down, max(-change, 0.0), alpha)
    if state.bars + 1 < settings.rsi_length:
        decision.rsi = math.nan
    elif state.rsi_down == 0.0:
        decision.rsi = 100.0
    else:
        decision.rsi = 100.0 * state.rsi_up / (state.rsi_up + state.rsi_down)


RSI = Indicator(
    outputs=("rsi",),
    step=_step_rsi,
    # a ratio: ten times closer, so that it holds where changes were up to ten times as large at the start as now
    ready_after=lambda settings: 1 + bars_to_forget(1 / settings.rsi_length, AGREEMENT / 10),
    state={"rsi_close": float, "rsi_up": float, "rsi_down": float},
)


@compiled
def _step_atr(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """ATR with Wilder's smoothing, seeded with the mean of the first n true ranges, NaN before.

    The true range of the first bar, and of a tainted one, is high - low: the close before may be of another market.
    """
    length = settings.atr_length
    true_range = bar.high - bar.low
    if state.bars > 0 and not bar.tainted:
        true_range = max(true_range, abs(bar.high - state.atr_close), abs(bar.low - state.atr_close))
    state.atr_close = bar.close
    decision.atr = math.nan
    if state.bars < length:
        state.atr_sum += true_range
        state.atr = state.atr_sum / length
    else:
        state.atr = (state.atr * (length - 1) + true_range) / length
    if state.bars + 1 >= length:
        decision.atr = state.atr


ATR = Indicator(
    outputs=("atr",),
    step=_step_atr,
    ready_after=lambda settings: int(settings.atr_length) + bars_to_forget(1 / settings.atr_length),
    state={"atr_close": float, "atr_sum": float, "atr": float},
)


# --- the engine -------------------------------------------------------------------------------------------------------


def _both(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """Two steps as one; FIRST and SECOND are bound when an engine is built."""
    FIRST(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
    SECOND(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821


def _step_bars(rows: Rows, scale: Rows, bar: Rows, state: Rows, settings: Rows, decisions: Rows) -> None:
    """Closed bars through the engine; STEP is bound when an engine is built."""
    for at in range(len(rows)):
        describe(rows[at], scale[0], bar[0])
        STEP(state[0], bar[0], settings[0], decisions[at])  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True, slots=True)
class Program:
    """An engine class made ready to run for one layout of its state."""

    step: Callable[..., None]
    """The engine's `BarStep` with its indicators and rule."""
    step_bars: Callable[..., None]
    is_compiled: bool
    """Whether research may run the bars through `step`: not where a rule can't be compiled, nor where a subclass
    overrides `on_volume_bar`, which is then called with each bar."""


class BarStep:
    """A method that takes one bar, written as the step that compiled loops run.

    `engine.on_volume_bar(bar)` runs that step on one bar, as live trading, replay and `check` do; backtest, sweep and
    explorer compile the same body into their loops. A subclass overrides it with an ordinary method.
    """

    def __init__(self, step: Any) -> None:
        self.step: Step = step.__func__  # of a static method: an engine is no part of it
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
    """Turns closed volume bars into signals, and keeps each bar's decision.

    A rule of one's own is a subclass that overrides some of the four class attributes and `_detect_signal`, or
    `on_volume_bar`; it may override nothing else (see `SEAMS`).

    Attributes:
        state: one row; all that outlives a bar.
        warmup_bars: bars after which the decision says `ready`.
        decision_dtype: `signal`, `ready`, every output of every indicator, every condition.
        is_overridden: whether a subclass overrides `on_volume_bar`, so that it must be called with every bar.
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
    """What the rule writes into the decision besides its answer: 1, -1 or 0 for triggers, passed or not for filters."""

    def __init__(self, settings: SignalSettings, instrument: Instrument) -> None:
        """Make an engine that has seen no bar.

        Args:
            settings: of `settings_type`; those of another are taken as far as it has them, and completed with defaults.

        Raises:
            ConfigError: the declarations of the class clash, or no indicator gives `atr`, which sizes need.
        """
        if not isinstance(settings, self.settings_type):
            settings = settings.fitted_to(self.settings_type)
        self.settings = settings
        self.instrument = instrument
        self.warmup_bars = self.warmup_of(settings)
        self.decision_dtype = _decision_dtype(type(self))
        self.state = np.zeros(1, _state_dtype(type(self), settings))
        self.settings_row = _settings_row(settings, self.warmup_bars)
        self.scale = scale_of(instrument)
        self.bar = np.zeros(1, RULE_BAR)
        self.program = _program(type(self), self.state.dtype, self.settings_row.dtype)
        self.is_overridden = not isinstance(type(self).on_volume_bar, BarStep)

    @classmethod
    def warmup_of(cls, settings: SignalSettings) -> int:
        """Bars after which every indicator is ready."""
        return max(indicator.warmup_of(settings) for indicator in cls.indicators)

    @classmethod
    def program_for(cls, settings: SignalSettings) -> Program:
        """Compile the rule for these settings, once; with a warning, leave plain what numba can't compile.

        Raises:
            ConfigError: the declarations of the class clash, or no indicator gives `atr`, which sizes need.
        """
        row = _settings_row(settings, cls.warmup_of(settings))
        return _program(cls, _state_dtype(cls, settings), row.dtype)

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        """Decide on an entry: 1 long, -1 short, 0 none.

        Triggers (EMA cross, Bollinger breakout) ask for a side; filters (RSI, VWAP) can refuse it. Triggers that
        contradict each other give none. A trigger that is switched off is 0, a filter that is switched off passes.
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
        """Take one closed bar: all indicators, then the rule. INDICATORS and RULE are those of the engine.

        Called as `engine.on_volume_bar(bar)`, with a `VolumeBar` or a row of BAR, it returns the `Signal` that the bar
        gives, or None, and `last_decision` says why. A signal is what the rule says; whether it may become an order
        (warm-up, a tainted or short bar, a position in hand) is for the gates that follow.

        A subclass may override it as `on_volume_bar(self, bar)`. It hands each bar to `super().on_volume_bar(bar)`
        once, and what it returns is what trades, in every mode, bar by bar in plain Python: None, or a `Signal` of the
        bar, whose `side` and `atr` may be other ones.
        """
        INDICATORS(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
        state.bars += 1
        decision.ready = state.bars >= settings.warmup_bars
        signal = RULE(state, bar, settings, decision)  # type: ignore[name-defined]  # noqa: F821
        decision.signal = 1 if signal > 0 else -1 if signal < 0 else 0

    last_decision: Record = None
    """BarDecision of the last bar given to `on_volume_bar`."""

    def decide(self, row: Record) -> Record:
        """Give a closed bar, a row of BAR, to `on_volume_bar`; return the decision, with what that answered.

        Raises:
            ConfigError: a subclass keeps the bar from the indicators, or answers with what is no signal of it.
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
        """Take closed bars (rows of BAR) and return a decision for each."""
        decisions = np.zeros(len(rows), self.decision_dtype)
        if self.is_overridden:
            for number, row in enumerate(rows):
                decisions[number] = self.decide(row)
        else:
            self.step_bars(rows, decisions)
        return decisions

    def step_bars(self, rows: Rows, decisions: Rows) -> None:
        """Take closed bars and write a decision for each, as if nothing overrode `on_volume_bar`."""
        self.program.step_bars(rows, self.scale, self.bar, self.state, self.settings_row, decisions)

    def signal(self, decision: Record, row: Record, bar_number: int) -> Signal | None:
        """Return a decision's signal. `bar_number` counts the bars of the run."""
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
        """Number of bars taken."""
        return int(self.state["bars"][0])

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that two engines share whose saved states may be exchanged."""
        layout = f"{type(self).__qualname__} {self.state.dtype.descr} {self.settings_row.dtype.descr}"
        return hashlib.sha256(layout.encode() + self.settings_row.tobytes()).digest()[:16]

    def state_bytes(self) -> bytes:
        """Return the whole state; `restore` goes on from it with the same decisions."""
        return self.fingerprint + self.state.tobytes()

    def restore(self, saved: bytes) -> None:
        """Go on from `state_bytes` of an engine of the same class and settings.

        Raises:
            DataError: the state is of another engine or other settings.
        """
        if saved[:16] != self.fingerprint or len(saved) != 16 + self.state.nbytes:
            raise DataError(f"{type(self).__name__}: a saved state must be of the same rule and settings")
        self.state = restored(self.state.dtype, saved[16:])


_NUMBERS: dict[type, type] = {int: np.int64, float: np.float64, bool: np.bool_}


@cache
def _unique(fields: tuple[tuple[Any, ...], ...], owner: str) -> np.dtype[Any]:
    """A layout of fields with unique names.

    Each kind of layout ends with a field of its own (`bars`, `ready`, `warmup_bars`), so that none is the beginning of
    another: numba would take the longer one for a subtype and run code compiled for the shorter.
    """
    names = [name for name, *_ in fields]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{owner}: names must be unique, was twice: {name}")
    return record_dtype(list(fields))


def _state_dtype(engine: type[SignalEngine], settings: SignalSettings) -> np.dtype[Any]:
    """The layout of an engine's state. Windows have room for 256 values, or 4 times that, and so on.

    The layout is part of what is compiled: with a few sizes, moving a slider compiles nothing anew.
    """
    fields: list[tuple[Any, ...]] = []
    for indicator in engine.indicators:
        for name, kind in indicator.state.items():
            if isinstance(kind, Window):
                fields.append((name, np.float64, (_room(getattr(settings, kind.setting)),)))
            else:
                fields.append((name, _NUMBERS[kind]))
    return _unique((*fields, ("bars", np.int64)), f"{engine.__name__} state")


def _room(length: int) -> int:
    room = 256
    while room < length:
        room *= 4
    return room


OF_BARS = frozenset({*(BAR.names or ()), "bar", "time", "duration_s", "bar_vwap", "outcome", "why"})
"""Names that tables have for a bar and what became of it: a decision of the same name would take their place there."""


def _decision_dtype(engine: type[SignalEngine]) -> np.dtype[Any]:
    fields: list[tuple[Any, ...]] = [
        (name, np.float64) for indicator in engine.indicators for name in indicator.outputs
    ]
    fields += [(name, _NUMBERS[kind]) for name, kind in engine.conditions.items()]
    if "atr" not in {name for name, *_ in fields}:
        raise ConfigError(f"{engine.__name__}: an indicator must give atr, which stops and sizes need")
    if taken := sorted(OF_BARS & {name for name, *_ in fields}):
        raise ConfigError(
            f"{engine.__name__}: outputs and conditions must have other names than the columns of bars "
            f"({', '.join(sorted(OF_BARS))}), was {', '.join(taken)}"
        )
    return _unique((*fields, ("signal", np.int8), ("ready", np.bool_)), f"{engine.__name__} decision")


def _settings_row(settings: SignalSettings, warmup_bars: int) -> Rows:
    """The settings as one row, by their names, with `warmup_bars` added."""
    if "warmup_bars" in type(settings).model_fields:
        raise ConfigError("warmup_bars: a setting of a rule must have another name, this is the longest ready_after")
    values = {**{name: getattr(settings, name) for name in type(settings).model_fields}, "warmup_bars": warmup_bars}
    for name, value in values.items():
        if type(value) not in _NUMBERS:
            raise ConfigError(f"{name}: a setting of a rule must be a number or a boolean, was {value!r}")
    row = np.zeros(1, record_dtype([(name, _NUMBERS[type(value)]) for name, value in values.items()]))
    row[0] = tuple(values.values())
    return row


def _indicators_of(engine: type[SignalEngine], form: Callable[[Any], Any], joint: Callable[[Any], Any]) -> Any:
    """All indicators of an engine as one step: each in a form, `compiled` or `plain`, and what joins them in another.

    Joined in place they can only be called by compiled code.
    """
    steps = [form(indicator.step) for indicator in engine.indicators]
    return reduce(lambda first, second: joint(bind(_both, FIRST=first, SECOND=second)), steps)


SEAMS = frozenset({"settings_type", "indicators", "conditions", "warmup_of", "_detect_signal", "on_volume_bar"})
"""What a rule may override of `SignalEngine`: the rest is the machinery around it, which compiled loops don't call."""


def other_overrides(rule: type[SignalEngine]) -> list[str]:
    """Return the methods of `SignalEngine` that a rule overrides though they are no seams."""
    names = vars(SignalEngine).keys() - SEAMS
    return sorted(name for name in names if any(callable(value) for value in overrides_of(name, rule)))


def overrides_of(name: str, rule: type[SignalEngine]) -> list[Any]:
    """Return what a rule, or a class between it and `SignalEngine`, has under a name instead."""
    owners = rule.__mro__[: rule.__mro__.index(SignalEngine)]
    return [getattr(owner, name) for owner in owners if name in vars(owner)]


def refuse_other_overrides(rule: type[SignalEngine]) -> None:
    """Refuse a rule that overrides what trading would not call.

    Raises:
        ConfigError: it does.
    """
    if others := other_overrides(rule):
        raise ConfigError(
            f"{rule.__name__}: must override only {', '.join(sorted(SEAMS))}, which every mode calls; "
            f"overrides {', '.join(others)}"
        )


_BUILT_IN: BarStep = vars(SignalEngine)["on_volume_bar"]


def _bar_step_of(engine: type[SignalEngine]) -> BarStep:
    """The nearest `BarStep` of an engine class: its own, or the one that an override calls."""
    steps = (vars(owner).get("on_volume_bar") for owner in engine.__mro__)
    return next((step for step in steps if isinstance(step, BarStep)), _BUILT_IN)


_programs: dict[tuple[Any, ...], Program] = {}


def _program(engine: type[SignalEngine], state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    """The program of an engine class for a layout of its state, made once for what its seams are."""
    key = (engine, engine.on_volume_bar, engine._detect_signal, state, settings)
    if key not in _programs:
        _programs[key] = _make_program(engine, state, settings)
    return _programs[key]


def _make_program(engine: type[SignalEngine], state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    """Compile an engine class; with one warning, leave plain what numba can't compile or `BarStep` doesn't hold."""
    step, why = _bar_step_of(engine).step, ""
    if not isinstance(engine.on_volume_bar, BarStep):
        why = "it overrides on_volume_bar"
    try:
        program = _compiled_program(engine, step, state, settings)
    except Exception as error:  # whatever numba says, here no rule runs: it is only compiled
        why = why or f"numba can't compile it: {str(error).strip().splitlines()[0]}"
        program = _plain_program(engine, step, state, settings)
    if not why:
        return program
    warnings.warn(
        f"{engine.__name__} runs uncompiled, many times slower, since {why}",
        UncompiledRuleWarning,
        stacklevel=5,  # who makes the engine
    )
    return replace(program, is_compiled=False)


def _compiled_program(engine: type[SignalEngine], step: Step, state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    indicators = _indicators_of(engine, compiled, compiled_in_place)
    bound = compiled_in_place(bind(step, INDICATORS=indicators, RULE=compiled(engine._detect_signal)))
    records = [rows_of(dtype) for dtype in (SCALE, RULE_BAR, state, settings, _decision_dtype(engine))]
    signature = types.void(rows_of(BAR), *records)
    return Program(bound, compile_for(bind(_step_bars, STEP=bound), signature), is_compiled=True)


def _plain_program(engine: type[SignalEngine], step: Step, state: np.dtype[Any], settings: np.dtype[Any]) -> Program:
    indicators = _indicators_of(engine, compiled, compiled)
    records = (state, RULE_BAR, settings, _decision_dtype(engine))
    try:
        indicators.compile(tuple(numba.from_dtype(dtype) for dtype in records))
    except Exception:
        indicators = _indicators_of(engine, plain, plain)
    bound = bind(step, INDICATORS=indicators, RULE=plain(engine._detect_signal))
    return Program(bound, bind(_step_bars, STEP=bound), is_compiled=False)
