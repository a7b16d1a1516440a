"""EMA crosses and Bollinger breakouts, filtered by Wilder's ADX: no entry without a trend."""

import math

from voltrade.compiled import compiled
from voltrade.config import Count, SignalSettings
from voltrade.signal_engine import AGREEMENT, Indicator, SignalEngine, bars_to_forget


class AdxSettings(SignalSettings):
    adx_length: Count = 14
    adx_least: float = 25.0


@compiled
def step_adx(state, bar, settings, decision):
    length, number = settings.adx_length, state.bars
    if number > 0:
        up, down = bar.high - state.adx_high, state.adx_low - bar.low
        kept = 1.0 - 1.0 / length if number > length else 1.0  # the first n are summed, later ones smoothed
        state.adx_up = kept * state.adx_up + (up if up > max(down, 0.0) else 0.0)
        state.adx_down = kept * state.adx_down + (down if down > max(up, 0.0) else 0.0)
    state.adx_high, state.adx_low = bar.high, bar.low
    if number >= length:
        both = state.adx_up + state.adx_down
        strength = 100.0 * abs(state.adx_up - state.adx_down) / both if both > 0.0 else 0.0
        state.adx += (strength - state.adx) / min(number - length + 1, length)  # first a mean, then smoothed
    decision.adx = state.adx if number >= 2 * length - 1 else math.nan


ADX = Indicator(
    outputs=("adx",),
    step=step_adx,
    ready_after=lambda settings: 2 * settings.adx_length + bars_to_forget(1 / settings.adx_length, AGREEMENT / 1000),
    state={"adx_high": float, "adx_low": float, "adx_up": float, "adx_down": float, "adx": float},
)

built_in = compiled(SignalEngine._detect_signal)


class Adx(SignalEngine):
    settings_type = AdxSettings
    indicators = (*SignalEngine.indicators, ADX)
    conditions = {**SignalEngine.conditions, "trending": bool}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        decision.trending = decision.adx >= settings.adx_least
        signal = built_in(state, bar, settings, decision)
        return signal if decision.trending else 0
