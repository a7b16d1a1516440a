"""The indicators of the built-in rule, and what a rule file needs to declare its own.

An indicator is declared once, as an `Indicator`: the fields it keeps between bars, the values it writes into the
decision, the function that takes one bar, and how many bars it needs. A value is NaN until the indicator has seen
enough bars, and each comparison with NaN but `!=` is false, so that `x > y` doesn't fire on it, but `not x <= y` does.
Prices are in the quote asset, volumes in coins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voltrade.compiled import Record, compiled
from voltrade.config import SignalSettings
from voltrade.errors import ConfigError

Step = Callable[[Record, Record, Record, Record], None]
"""`step(state, bar, settings, decision)` reads a closed bar and the settings, changes the indicator's own fields of the
state in place, and writes the indicator's values into the decision."""

AGREEMENT = 1e-9
"""Tolerance of warm-up: an indicator is ready when its values no longer depend on the bar at which it started by more
than this, relative to the scale of prices."""


@dataclass(frozen=True, slots=True)
class Window:
    """A state field that is an array of the last values; its length is the value of the setting with this name."""

    setting: str


@dataclass(frozen=True, slots=True)
class Indicator:
    """Declaration of an indicator."""

    outputs: tuple[str, ...]
    """Names of the float fields that it writes into the decision."""
    step: Step
    """Processes one bar. `state.bars` is the number of bars before this bar."""
    ready_after: Callable[[Any], int]
    """Takes the settings and returns the number of bars until the indicator is ready (see `AGREEMENT`), rounded up."""
    state: Mapping[str, type[int] | type[float] | Window] = field(default_factory=dict)
    """Fields that it keeps between bars; they start at zero. Names must be unique among the indicators of an engine."""

    def warmup_of(self, settings: SignalSettings) -> int:
        """Return the number of whole bars until the indicator is ready.

        Raises:
            ConfigError: `ready_after` returns something other than a finite number.
        """
        bars: Any = self.ready_after(settings)
        if not isinstance(bars, int | float | np.number) or not math.isfinite(bars):
            raise ConfigError(f"{', '.join(self.outputs)}: ready_after must be a number of bars, was {bars!r}")
        return math.ceil(bars)


def bars_to_forget(alpha: float, agreement: float = AGREEMENT) -> int:
    """Return the bars until the start value of an exponential average weighs at most `agreement`.

    It is the smallest number with (1 - alpha)^bars <= agreement.
    """
    return math.ceil(math.log(agreement) / math.log1p(-alpha)) if alpha < 1 else 1


@compiled
def ema_step(before: float, value: float, alpha: float) -> float:
    """Return an exponential average after one more value."""
    return before + alpha * (value - before)


@compiled
def _step_vwap(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """Rolling VWAP: notional / volume of the last bars, summed anew at each bar, so that rounding errors don't add
    up."""
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

    `ema_side` is 1 while the fast average is above the slow average, -1 while it is below, and unchanged while they are
    equal. A cross is a change of `ema_side` from 1 to -1 or back, so averages that only touch don't cross.
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
    """Bollinger Bands: mean and population standard deviation of the last closes.

    Both are computed in two passes over distances from the newest close. Distances keep the digits that sums of squared
    prices would lose, and are exactly zero where all closes are equal. `bollinger_side` is 1 where the close is above
    the bands, -1 where it is below, 0 between.
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
    """RSI with Wilder's smoothing, alpha = 1 / n. The first change is 0; without any fall the RSI is 100."""
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
    # RSI is a ratio: with a tenth of the tolerance it holds even where changes at the start were ten times those of
    # now.
    ready_after=lambda settings: 1 + bars_to_forget(1 / settings.rsi_length, AGREEMENT / 10),
    state={"rsi_close": float, "rsi_up": float, "rsi_down": float},
)


@compiled
def _step_atr(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    """ATR with Wilder's smoothing, seeded with the mean of the first n true ranges, NaN before.

    The true range of the first bar, and of a tainted bar, is high - low: trades are missing between the previous close
    and a tainted bar.
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
