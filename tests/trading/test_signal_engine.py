"""Indicators held to `ta`, the entry rule as a table, rules of one's own, and the cache that must not run old ones."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from support.builders import an_instrument, volume_bar
from ta.momentum import RSIIndicator
from ta.trend import EMAIndicator
from ta.volatility import AverageTrueRange, BollingerBands
from test_bars import read_recording

from voltrade import indicators
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Record, Rows, bind, compiled, plain, source_key, sources_of
from voltrade.config import BarSettings, SignalSettings
from voltrade.errors import ConfigError, DataError
from voltrade.model import BAR, CloseReason, Side, Signal, Trades, VolumeBar
from voltrade.report import frames
from voltrade.signal_engine import (
    ATR,
    EMA,
    RULE_BAR,
    Indicator,
    SignalEngine,
    UncompiledRuleWarning,
    Window,
    _plain_program,
    _step_bars,
    _two_steps,
    bars_to_forget,
    ema_step,
    refuse_other_overrides,
)
from voltrade.strategy.rule_file import load_rule

LTC = an_instrument("LTCUSDT", tick="0.01")
PACKAGE = Path(__file__).resolve().parents[2]


def random_bars(count: int, seed: int = 1, start: int = 8_000, jump: int = 6) -> Rows:
    """Bars of a random walk in ticks; the highs and lows span open and close."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, BAR)
    close = np.maximum(start + np.cumsum(rng.integers(-jump, jump + 1, count)), 100)
    rows["close"] = close
    rows["open"] = np.concatenate([[start], close[:-1]]) + rng.integers(-2, 3, count)
    rows["high"] = np.maximum(rows["open"], close) + rng.integers(0, 5, count)
    rows["low"] = np.minimum(rows["open"], close) - rng.integers(0, 5, count)
    rows["volume"] = rng.integers(1, 300_000, count)
    rows["notional"] = rows["volume"] * (rows["high"] + rows["low"]) // 2
    rows["trade_count"] = 1
    rows["close_time"] = np.arange(count) * 1000
    rows["close_reason"] = int(CloseReason.THRESHOLD)
    return rows


def bars_of(closes: list[int], **columns: Any) -> Rows:
    """Bars with these closes in ticks, each without a range unless `high` and `low` are given."""
    rows = np.zeros(len(closes), BAR)
    for name in ("open", "high", "low", "close"):
        rows[name] = closes
    rows["volume"] = 1000
    rows["notional"] = rows["close"] * 1000
    for name, values in columns.items():
        rows[name] = values
    return rows


@pytest.fixture(scope="session")
def real_bars(recordings: Path) -> Rows:
    rows = read_recording(next((recordings / "spot_trades").glob("LTCUSDT-*.csv.gz")))
    return VolumeBarAggregator(BarSettings(threshold=Decimal(250)), LTC).process(Trades.from_rows("LTCUSDT", rows))


def decisions(rows: Rows, **settings: Any) -> Rows:
    return SignalEngine(SignalSettings(**settings), LTC).on_volume_bars(rows)


# --- indicators, by hand ------------------------------------------------------------------------------------------


def test_ema_by_hand() -> None:
    seen = decisions(bars_of([1000, 1600, 1000]), ema_fast=2, ema_slow=3)
    # alpha 2/3: 10, 10 + 2/3 x 6 = 14, 14 - 2/3 x 4; alpha 1/2: 10, 13, 11.5; NaN before bar n
    assert np.isnan(seen["ema_fast"][0])
    assert seen["ema_fast"][1:] == pytest.approx([14, 14 - 8 / 3], rel=1e-15)
    assert np.isnan(seen["ema_slow"][:2]).all()
    assert seen["ema_slow"][2] == 11.5


def test_atr_by_hand() -> None:
    rows = bars_of([1000, 1010, 1030, 1030], high=[1005, 1012, 1030, 1034], low=[995, 1008, 1026, 1026])
    seen = decisions(rows, atr_length=2)
    # true ranges 0.10 (no close before), max(0.04, 0.12, 0.08), max(0.04, 0.20, 0.16), max(0.08, 0.04, 0.04)
    assert np.isnan(seen["atr"][0])
    assert seen["atr"][1:] == pytest.approx([0.11, (0.11 + 0.20) / 2, (0.155 + 0.08) / 2], rel=1e-12)


def test_a_tainted_bar_has_the_true_range_of_itself_alone() -> None:
    rows = bars_of([1000, 5000, 5000], high=[1004, 5004, 5004], low=[1000, 5000, 5000], tainted=[False, True, False])
    assert decisions(rows, atr_length=1)["atr"] == pytest.approx([0.04, 0.04, 0.04], rel=1e-12)


def test_rsi_by_hand() -> None:
    seen = decisions(bars_of([1000, 1100, 1050]), rsi_length=2)
    # up: 0, 0.5, 0.25; down: 0, 0, 0.25
    assert np.isnan(seen["rsi"][0])
    assert list(seen["rsi"][1:]) == [100.0, 50.0]


def test_vwap_by_hand() -> None:
    rows = bars_of([1000, 2000, 3000], volume=[1000, 3000, 1000], notional=[1_000_000, 6_000_000, 3_000_000])
    seen = decisions(rows, vwap_length=2)
    assert np.isnan(seen["vwap"][0])
    assert list(seen["vwap"][1:]) == [(10 + 60) / 4, (60 + 30) / 4]


def test_a_flat_window_has_bands_without_width_and_no_breakout() -> None:
    seen = decisions(bars_of([8337] * 9), bollinger_length=3)
    assert set(seen["bollinger_upper"][2:]) == {83.37}
    assert set(seen["bollinger_lower"][2:]) == {83.37}
    assert not seen["bollinger_breakout"].any()


def test_bollinger_keeps_its_digits_far_from_zero() -> None:
    closes = [8_000_000 + tick for tick in (0, 1, 2, 1)]
    seen = decisions(bars_of(closes), bollinger_length=4, bollinger_width=1.0)
    deviation = math.sqrt(2 / 4) * 0.01  # distances from the mean: -1, 0, 1, 0 ticks
    assert seen["bollinger_upper"][3] - seen["bollinger_middle"][3] == pytest.approx(deviation, rel=1e-8)


def test_prices_become_the_floats_nearest_to_their_decimals() -> None:
    seen: list[float] = []

    class Recorder(SignalEngine):
        @staticmethod
        def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
            seen.append(float(bar.close))
            return 0

    with pytest.warns(UncompiledRuleWarning):
        engine = Recorder(SignalSettings(), LTC)
    ticks = [1, 3, 8337, 12345, 7_999_999]
    engine.on_volume_bars(bars_of(ticks))
    assert seen == [float(LTC.price(tick)) for tick in ticks]


# --- indicators, held to ta ---------------------------------------------------------------------------------------


def assert_equal_ta(rows: Rows, n: int, fast: int) -> None:
    seen = decisions(rows, vwap_length=n, ema_fast=fast, ema_slow=n, bollinger_length=n, rsi_length=n, atr_length=n)
    high, low, close = (pd.Series(rows[name] / 100) for name in ("high", "low", "close"))
    bands = BollingerBands(close, n, 2.0)
    atr = AverageTrueRange(high, low, close, n).average_true_range()
    atr[: n - 1] = np.nan  # ta warms up with zeros
    expected = {
        "ema_fast": EMAIndicator(close, fast).ema_indicator(),
        "ema_slow": EMAIndicator(close, n).ema_indicator(),
        "bollinger_middle": bands.bollinger_mavg(),
        "bollinger_upper": bands.bollinger_hband(),
        "bollinger_lower": bands.bollinger_lband(),
        "rsi": RSIIndicator(close, n).rsi(),
        "atr": atr,
        # ta's VWAP takes the typical price; ours the notional itself
        "vwap": pd.Series(rows["notional"] / 1e5).rolling(n).sum() / pd.Series(rows["volume"] / 1e3).rolling(n).sum(),
    }
    for name, series in expected.items():
        np.testing.assert_allclose(seen[name], series.to_numpy(), rtol=1e-9, atol=0, err_msg=name)


@pytest.mark.parametrize(("n", "fast"), [(5, 1), (14, 8), (21, 5), (300, 100)])
def test_indicators_equal_ta_on_random_bars(n: int, fast: int) -> None:
    assert_equal_ta(random_bars(1_500, seed=n), n, fast)


@pytest.mark.recordings
@pytest.mark.parametrize(("n", "fast"), [(14, 8), (21, 9)])
def test_indicators_equal_ta_on_real_bars(real_bars: Rows, n: int, fast: int) -> None:
    untainted = real_bars.copy()
    untainted["tainted"] = False  # ta knows no tainted bars
    assert_equal_ta(untainted, n, fast)


# --- when is an indicator ready -----------------------------------------------------------------------------------

OUTPUT_SCALE = {"rsi": 100.0}


@pytest.mark.parametrize("indicator", SignalEngine.indicators, ids=lambda indicator: "-".join(indicator.outputs))
@pytest.mark.parametrize("n", [5, 14, 40])
def test_two_starts_agree_once_an_indicator_says_that_it_is_ready(indicator: Indicator, n: int) -> None:
    settings = {"vwap_length": n, "ema_fast": 3, "ema_slow": n, "bollinger_length": n, "rsi_length": n, "atr_length": n}
    ready = indicator.ready_after(SignalSettings(**settings))
    before = random_bars(100, seed=99, start=7_000, jump=60)  # one start sees a wilder market first
    rows = random_bars(ready + 200, seed=n, start=int(before["close"][-1]))
    first = decisions(np.concatenate([before, rows]), **settings)[len(before) + ready - 1 :]
    second = decisions(rows, **settings)[ready - 1 :]
    for name in indicator.outputs:
        scale = OUTPUT_SCALE.get(name, 70.0)
        assert np.abs(first[name] - second[name]).max() <= 1e-9 * scale, name


def test_forgetting_is_no_longer_than_it_must() -> None:
    bars = bars_to_forget(2 / 22)
    assert (1 - 2 / 22) ** bars <= 1e-9 < (1 - 2 / 22) ** (bars - 1)


def test_a_decision_is_ready_after_the_slowest_indicator() -> None:
    engine = SignalEngine(SignalSettings(), LTC)
    ready = engine.on_volume_bars(random_bars(engine.warmup_bars + 5))["ready"]
    assert engine.warmup_bars == max(indicator.ready_after(SignalSettings()) for indicator in SignalEngine.indicators)
    assert list(np.flatnonzero(ready)) == [engine.warmup_bars - 1 + i for i in range(6)]


# --- the rule -----------------------------------------------------------------------------------------------------


def decide(close: float = 101.0, **given: Any) -> tuple[int, SimpleNamespace]:
    """Ask the plain rule. By default: fast EMA just went above, close above VWAP, RSI in the middle."""
    state = SimpleNamespace(ema_side=1, ema_side_before=-1, bollinger_side=0, bollinger_side_before=0)
    decision = SimpleNamespace(rsi=50.0, vwap=100.0)
    settings = SignalSettings().model_dump()
    for name, value in given.items():
        home = next((part for part in (state, decision) if hasattr(part, name)), None)
        if home is None:
            assert name in settings
            settings[name] = value
        else:
            setattr(home, name, value)
    bar = SimpleNamespace(close=close)
    return SignalEngine._detect_signal(state, bar, SimpleNamespace(**settings), decision), decision


UP = {"ema_side": 1, "ema_side_before": -1}
DOWN = {"ema_side": -1, "ema_side_before": 1}
NO_CROSS = {"ema_side": 1, "ema_side_before": 1}
ABOVE = {"bollinger_side": 1, "bollinger_side_before": 0}
BELOW = {"bollinger_side": -1, "bollinger_side_before": 0}


@pytest.mark.parametrize(
    ("given", "signal"),
    [
        pytest.param(UP, 1, id="cross up"),
        pytest.param({**DOWN, "close": 99.0}, -1, id="cross down"),
        pytest.param(NO_CROSS, 0, id="no trigger"),
        pytest.param({**NO_CROSS, **ABOVE}, 1, id="breakout up"),
        pytest.param({**NO_CROSS, **BELOW, "close": 99.0}, -1, id="breakout down"),
        pytest.param(
            {**NO_CROSS, "bollinger_side": 1, "bollinger_side_before": 1}, 0, id="still outside is no breakout"
        ),
        pytest.param(
            {**NO_CROSS, "bollinger_side": 1, "bollinger_side_before": -1}, 1, id="from below to above is one"
        ),
        pytest.param({**NO_CROSS, "bollinger_side": 0, "bollinger_side_before": 1}, 0, id="coming back is none"),
        pytest.param({**UP, **ABOVE}, 1, id="both agree"),
        pytest.param({**UP, **BELOW}, 0, id="contradiction above VWAP"),
        pytest.param({**DOWN, **ABOVE, "close": 99.0}, 0, id="contradiction below VWAP"),
        pytest.param({"ema_side": 1, "ema_side_before": 0}, 0, id="the first side seen is no cross"),
        pytest.param({**UP, "use_ema_cross": False}, 0, id="cross switched off"),
        pytest.param(
            {**UP, **BELOW, "use_bollinger_breakout": False}, 1, id="breakout switched off contradicts nothing"
        ),
        pytest.param({"rsi": 75.0}, 0, id="at overbought"),
        pytest.param({"rsi": 74.9}, 1, id="below overbought"),
        pytest.param({"rsi": 75.0, "use_rsi_filter": False}, 1, id="RSI filter off"),
        pytest.param({**DOWN, "close": 99.0, "rsi": 25.0}, 0, id="at oversold"),
        pytest.param({**DOWN, "close": 99.0, "rsi": 80.0}, -1, id="overbought does not stop a short"),
        pytest.param({"close": 100.0}, 0, id="at VWAP"),
        pytest.param({"close": 99.0}, 0, id="long below VWAP"),
        pytest.param({"close": 99.0, "use_vwap_filter": False}, 1, id="VWAP filter off"),
        pytest.param({**DOWN, "close": 101.0}, 0, id="short above VWAP"),
        pytest.param({"allow_long": False}, 0, id="no longs"),
        pytest.param({**DOWN, "close": 99.0, "allow_short": False}, 0, id="no shorts"),
        pytest.param({"rsi": math.nan}, 0, id="RSI not there yet"),
        pytest.param({"vwap": math.nan}, 0, id="VWAP not there yet"),
    ],
)
def test_the_rule(given: dict[str, Any], signal: int) -> None:
    assert decide(**given)[0] == signal


def test_the_decision_says_what_each_condition_was() -> None:
    _, decision = decide(**DOWN, **ABOVE, close=99.0, rsi=80.0)
    assert (decision.ema_cross, decision.bollinger_breakout) == (-1, 1)
    assert (decision.rsi_long, decision.rsi_short) == (False, True)
    assert (decision.vwap_long, decision.vwap_short) == (False, True)


def test_touching_averages_do_not_cross() -> None:
    # fast alpha 1, slow alpha 2/3: the averages meet whenever the close repeats for long, and part again
    touch = bars_of([1000, 1100, *[1100] * 40, 1200])
    cross = bars_of([1000, 1100, *[1100] * 40, 1000])
    settings = {"ema_fast": 1, "ema_slow": 2}
    assert list(np.flatnonzero(decisions(touch, **settings)["ema_cross"])) == []
    assert list(decisions(cross, **settings)["ema_cross"][-2:]) == [0, -1]


def test_a_volume_bar_gives_its_signal() -> None:
    rows = bars_of([1000, 1000, 1000, 900, 1100], high=1100, low=900)
    engine = SignalEngine(
        SignalSettings(
            ema_fast=1, ema_slow=2, vwap_length=2, use_rsi_filter=False, atr_length=2, use_bollinger_breakout=False
        ),
        LTC,
    )
    given = [engine.on_volume_bar(volume_bar(row, "LTCUSDT")) for row in rows]
    assert given[:4] == [None] * 4
    signal = given[4]
    assert signal is not None
    # every true range is 2.00 until the fall to 9.00; then 11.00 - 9.00 again
    assert (signal.side, signal.bar_number, signal.price, signal.symbol) == (Side.BUY, 4, 1100, "LTCUSDT")
    assert signal.atr == engine.last_decision["atr"] == 2.0
    assert engine.last_decision["ema_cross"] == 1


# --- compiled and plain -------------------------------------------------------------------------------------------


def plain_decisions(engine: SignalEngine, rows: Rows) -> Rows:
    """The same engine, every part of it as plain Python."""
    indicators = plain(engine.indicators[0].step)
    for indicator in engine.indicators[1:]:
        indicators = bind(_two_steps, FIRST=indicators, SECOND=plain(indicator.step))
    step = bind(SignalEngine.on_volume_bar.step, INDICATORS=indicators, RULE=engine._detect_signal)
    out = np.zeros(len(rows), engine.decision_dtype)
    bind(_step_bars, STEP=step)(rows, engine.scale, engine.bar, engine.state, engine.settings_row, out)
    return out


def test_compiled_and_plain_agree_in_every_bit() -> None:
    rows = random_bars(400, seed=5)
    expected = plain_decisions(SignalEngine(SignalSettings(), LTC), rows)
    assert decisions(rows).tobytes() == expected.tobytes()
    assert np.count_nonzero(expected["signal"]) > 10


@pytest.mark.recordings
def test_a_restart_from_any_bar_gives_the_same_decisions(real_bars: Rows) -> None:
    whole = decisions(real_bars)
    engine = SignalEngine(SignalSettings(), LTC)
    pieces = []
    for start in range(0, len(real_bars), 97):
        again = SignalEngine(SignalSettings(), LTC)
        again.restore(engine.state_bytes())
        pieces.append(again.on_volume_bars(real_bars[start : start + 97]))
        engine = again
    assert b"".join(piece.tobytes() for piece in pieces) == whole.tobytes()
    assert np.count_nonzero(whole["signal"] == 1) > 5
    assert np.count_nonzero(whole["signal"] == -1) > 5


def test_a_state_of_other_settings_is_refused() -> None:
    saved = SignalEngine(SignalSettings(), LTC).state_bytes()
    with pytest.raises(DataError, match="a saved state must be of the same rule and settings"):
        SignalEngine(SignalSettings(rsi_length=15), LTC).restore(saved)


def test_moving_a_slider_compiles_nothing() -> None:
    programs = {id(SignalEngine(SignalSettings(bollinger_length=n, vwap_length=n), LTC).program) for n in (2, 20, 256)}
    assert len(programs) == 1
    assert SignalEngine(SignalSettings(bollinger_length=257), LTC).state["bollinger_closes"].shape == (1, 1024)


# --- a rule of one's own ------------------------------------------------------------------------------------------


class MomentumSettings(SignalSettings):
    momentum_length: int = 3


@compiled
def _step_momentum(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    slot = state.bars % settings.momentum_length
    decision.momentum = bar.close - state.momentum_closes[slot] if state.bars >= settings.momentum_length else math.nan
    state.momentum_closes[slot] = bar.close


class Momentum(SignalEngine):
    """Long when the price rose over the last bars."""

    settings_type = MomentumSettings
    indicators = (
        *SignalEngine.indicators,
        Indicator(
            outputs=("momentum",),
            step=_step_momentum,
            ready_after=lambda settings: int(settings.momentum_length) + 1,
            state={"momentum_closes": Window("momentum_length")},
        ),
    )
    conditions: ClassVar = {"rising": bool}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        decision.rising = decision.momentum > 0
        return 1 if decision.rising else 0


def test_an_indicator_and_a_rule_are_added_in_one_declaration() -> None:
    engine = Momentum(MomentumSettings(momentum_length=2), LTC)
    seen = engine.on_volume_bars(bars_of([1000, 1000, 1100, 1000, 1000]))
    assert engine.program.is_compiled
    assert seen["momentum"][2:].tolist() == pytest.approx([1.0, 0.0, -1.0])
    assert seen["signal"].tolist() == [0, 0, 1, 0, 0]
    assert seen["rising"].tolist() == [False, False, True, False, False]


def test_no_layout_is_the_beginning_of_another() -> None:
    base, longer = SignalEngine(SignalSettings(), LTC), Momentum(SignalSettings(), LTC)
    for one, other in (
        (base.state.dtype, longer.state.dtype),
        (base.decision_dtype, longer.decision_dtype),
        (base.settings_row.dtype, longer.settings_row.dtype),
    ):
        assert one.names is not None
        assert other.names is not None
        assert other.names[: len(one.names)] != one.names


def test_settings_of_the_base_class_are_completed() -> None:
    engine = Momentum(SignalSettings(rsi_length=9), LTC)
    assert (engine.settings.rsi_length, engine.settings.momentum_length) == (9, 3)  # type: ignore[attr-defined]


def test_of_another_rules_settings_a_rule_takes_those_that_it_has() -> None:
    class OtherSettings(SignalSettings):
        other_length: int = 5

    engine = Momentum(OtherSettings(other_length=2, rsi_length=9), LTC)
    assert engine.settings == MomentumSettings(rsi_length=9)


def test_a_rule_that_numba_cannot_compile_runs_plain_with_one_warning() -> None:
    class Plain(SignalEngine):
        @staticmethod
        def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
            sides = {name: getattr(decision, name) for name in ("ema_cross",)}  # no such thing in compiled code
            sides["ema_cross"] = SignalEngine._detect_signal(state, bar, settings, decision)
            return int(sides["ema_cross"])

    rows = random_bars(300, seed=5)
    with pytest.warns(UncompiledRuleWarning, match="Plain runs uncompiled, many times slower") as warned:
        engine = Plain(SignalSettings(), LTC)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Plain(SignalSettings(), LTC).program.is_compiled
    assert engine.on_volume_bars(rows).tobytes() == decisions(rows).tobytes()


def test_an_indicator_that_numba_cannot_compile_runs_plain_too() -> None:
    def step(state: Record, bar: Record, settings: Record, decision: Record) -> None:
        decision.range = float(str(bar.high - bar.low))

    class WithText(SignalEngine):
        indicators = (*SignalEngine.indicators, Indicator(("range",), step, lambda settings: 1))

    with pytest.warns(UncompiledRuleWarning):
        engine = WithText(SignalSettings(), LTC)
    rows = random_bars(30)
    seen = engine.on_volume_bars(rows)
    assert seen["range"] == pytest.approx((rows["high"] - rows["low"]) / 100)
    assert seen["atr"].tobytes() == decisions(rows)["atr"].tobytes()


# --- what a rule returns ----------------------------------------------------------------------------------------------


class GivenSettings(SignalSettings):
    given: float = 0.0


class Given(SignalEngine):
    """Returns the setting at its second bar, and NaN for 1,000."""

    settings_type = GivenSettings
    indicators = (ATR,)
    conditions: ClassVar[dict[str, type]] = {}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        if state.bars != 2:
            return 0.0  # type: ignore[return-value]
        return math.nan if settings.given == 1_000 else settings.given  # type: ignore[no-any-return]


class TrueOrFalse(Given):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return bool(settings.given == state.bars)


def engines_of(rule: type[SignalEngine], given: float) -> Iterator[SignalEngine]:
    """An engine that runs compiled, and one that runs as plain Python."""
    for is_compiled in (True, False):
        engine = rule(GivenSettings(given=given), LTC)
        assert engine.program.is_compiled
        if not is_compiled:
            step = SignalEngine.on_volume_bar.step  # type: ignore[attr-defined]
            engine.program = _plain_program(rule, step, engine.state.dtype, engine.settings_row.dtype)
        yield engine


@pytest.mark.parametrize(
    ("rule", "given", "said"),
    [
        (Given, 1_000.0, "bar 1, .* it returned something else"),
        (Given, 0.3, "bar 1, .* it returned something else"),
        (Given, -1.5, "bar 1, .* it returned something else"),
        (Given, 2.0, "bar 1, .* it returned something else"),
        (TrueOrFalse, 3.0, "bar 0, closed 1970-01-01T00:00:00.000 UTC, it returned True or False"),
    ],
)
def test_what_is_no_signal_is_refused_with_its_bar(rule: type[SignalEngine], given: float, said: str) -> None:
    for engine in engines_of(rule, given):
        with pytest.raises(ConfigError, match=rf"^{rule.__name__}._detect_signal: must return -1, 0 or 1, at {said}"):
            engine.on_volume_bars(bars_of([1000, 1100, 1200]))


@pytest.mark.parametrize("given", [1.0, -1.0, 0.0])
def test_a_whole_number_is_a_signal_though_it_is_a_float(given: float) -> None:
    for engine in engines_of(Given, given):
        assert engine.on_volume_bars(bars_of([1000, 1100, 1200]))["signal"].tolist() == [0, given, 0]


@pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")
def test_a_path_without_a_return_is_refused() -> None:
    class Silent(Given):
        @staticmethod
        def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
            if bar.close > 105:
                return 1
            return None  # type: ignore[return-value]

    with pytest.raises(ConfigError, match=r"at bar 0, .* it returned something else, such as None"):
        Silent(GivenSettings(), LTC).on_volume_bars(bars_of([1000, 1100]))


# --- a rule that overrides on_volume_bar ------------------------------------------------------------------------------

overridden = pytest.mark.filterwarnings("ignore:.*overrides on_volume_bar:voltrade.signal_engine.UncompiledRuleWarning")


class Turned(SignalEngine):
    """What the built-in rule says, the other way round, and with a wider stop."""

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        return signal and replace(signal, side=signal.side.opposite, atr=2 * signal.atr)


def test_an_override_of_on_volume_bar_runs_bar_by_bar_with_one_warning() -> None:
    class Counting(SignalEngine):
        seen: ClassVar[list[int]] = []

        def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
            self.seen.append(int(bar.close))
            return super().on_volume_bar(bar)

    rows = random_bars(300, seed=5)
    with pytest.warns(
        UncompiledRuleWarning, match="Counting runs uncompiled, many .* overrides on_volume_bar$"
    ) as warned:
        engine = Counting(SignalSettings(), LTC)
    assert len(warned) == 1
    assert not engine.program.is_compiled
    assert engine.on_volume_bars(rows).tobytes() == decisions(rows).tobytes()
    assert Counting.seen == rows["close"].tolist()


@overridden
def test_what_an_override_answers_stands_in_the_decision() -> None:
    rows = random_bars(300, seed=5)
    seen, expected = Turned(SignalSettings(), LTC).on_volume_bars(rows), decisions(rows)
    has_signal = expected["signal"] != 0
    assert np.count_nonzero(has_signal) > 10
    assert seen["signal"].tolist() == (-expected["signal"]).tolist()
    assert seen["atr"].tolist() == pytest.approx((expected["atr"] * np.where(has_signal, 2, 1)).tolist(), nan_ok=True)
    assert seen["ema_fast"].tobytes() == expected["ema_fast"].tobytes()


class Untaken(SignalEngine):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        return None


class Twice(SignalEngine):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        super().on_volume_bar(bar)
        return super().on_volume_bar(bar)


class Number(SignalEngine):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        super().on_volume_bar(bar)
        return 1  # type: ignore[return-value]


class Elsewhere(SignalEngine):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        super().on_volume_bar(bar)
        return Signal(int(bar.close_time), "LTCUSDT", Side.BUY, self.bars - 1, int(bar.close) + 1, 1.0)


@overridden
@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Untaken, r"Untaken.on_volume_bar: must call super\(\).on_volume_bar once a bar, did 0 times"),
        (Twice, r"Twice.on_volume_bar: must call super\(\).on_volume_bar once a bar, did 2 times"),
        (Number, "Number.on_volume_bar: must return a Signal or None, returned 1"),
        (Elsewhere, "Elsewhere.on_volume_bar: price of a signal must be its bar's, 1000, was 1001"),
    ],
)
def test_an_answer_that_is_no_signal_of_the_bar_is_refused(rule: type[SignalEngine], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        rule(SignalSettings(), LTC).on_volume_bars(bars_of([1000]))


@overridden
def test_an_override_that_writes_to_its_bar_changes_no_other() -> None:
    class Writing(SignalEngine):
        def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
            signal = super().on_volume_bar(bar)
            bar["close"] = 1
            return signal

    rows = bars_of([1000, 1100])
    Writing(SignalSettings(), LTC).on_volume_bars(rows)
    assert rows["close"].tolist() == [1000, 1100]


def test_a_seam_is_overridden_in_a_subclass_alone() -> None:
    engine = SignalEngine(SignalSettings(), LTC)
    with pytest.raises(AttributeError, match=r"SignalEngine.on_volume_bar: must be overridden in a subclass"):
        engine.on_volume_bar = lambda bar: None  # type: ignore[method-assign]


def test_what_no_mode_would_call_is_refused_by_name() -> None:
    class Batch(SignalEngine):
        def on_volume_bars(self, rows: Rows) -> Rows:
            return super().on_volume_bars(rows)

        def helper(self) -> int:
            return 1

    class Further(Batch):
        def signal(self, decision: Record, row: Record, bar_number: int) -> Signal | None:
            return None

    refuse_other_overrides(Momentum)
    refuse_other_overrides(Turned)
    with pytest.raises(ConfigError, match=r"Batch: must override only _detect_signal, .*; overrides on_volume_bars$"):
        refuse_other_overrides(Batch)
    with pytest.raises(ConfigError, match=r"overrides on_volume_bars, signal$"):
        refuse_other_overrides(Further)


# --- settings of a rule -----------------------------------------------------------------------------------------------


class TextSettings(SignalSettings):
    flavour: str = "sweet"


class TakenSettings(SignalSettings):
    warmup_bars: int = 3


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"indicators": (EMA,)}, "an indicator must have the output atr"),
        ({"indicators": (ATR, ATR)}, "names must be unique, was twice: atr"),
        ({"conditions": {"rsi": bool}}, "names must be unique, was twice: rsi"),
        ({"settings_type": TextSettings}, "flavour: a setting of a rule must be a number or a boolean, was 'sweet'"),
        ({"settings_type": TakenSettings}, "warmup_bars: a setting of a rule must have another name"),
        (
            {"conditions": {"outcome": int, "bar": int}},
            "Clash: outputs and conditions must have other.*was bar, outcome$",
        ),
    ],
)
def test_declarations_that_clash_are_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        type("Clash", (SignalEngine,), attributes)(SignalSettings(), LTC)


@pytest.mark.parametrize("name", sorted({*frames._BARS, *frames.DECISIONS, "time", "why"}))
def test_no_output_takes_the_place_of_a_column_of_the_frames(name: str) -> None:
    engine = type("Clash", (SignalEngine,), {"indicators": (ATR, Indicator((name,), EMA.step, lambda settings: 1))})
    with pytest.raises(ConfigError, match=name):
        engine(SignalSettings(), LTC)


def test_what_a_rule_may_read_of_a_bar() -> None:
    assert {"open", "high", "low", "close", "volume", "notional", "vwap", "taker_buy_volume"} <= set(
        RULE_BAR.names or ()
    )
    assert {"trade_count", "open_time", "close_time", "close_reason", "tainted"} <= set(RULE_BAR.names or ())


# --- rule files, and edits between two processes ------------------------------------------------------------------

RULE = """
from levels import least
from voltrade.indicators import ATR, RSI
from voltrade.signal_engine import SignalEngine

class Above(SignalEngine):
    indicators = (RSI, ATR)
    conditions = {}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 1 if bar.close > least() else 0
"""
LEVELS = """
from voltrade.compiled import compiled

LEAST = 10.0

@compiled
def least():
    return LEAST
"""


@pytest.fixture
def rule_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "levels", raising=False)
    (tmp_path / "levels.py").write_text(LEVELS)
    (tmp_path / "my_rule.py").write_text(RULE)
    return tmp_path / "my_rule.py"


def test_a_rule_is_loaded_from_a_file(rule_file: Path) -> None:
    engine = load_rule(f"{rule_file}:Above")(SignalSettings(), LTC)
    assert engine.program.is_compiled
    assert engine.on_volume_bars(bars_of([900, 1100]))["signal"].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["no_such_file.py:Rule", "Rule", "{file}:Missing", "{file}:least", "{file}"])
def test_a_rule_that_is_not_there_is_refused(rule_file: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="rule: "):
        load_rule(name.format(file=rule_file))


SIGNALS = """
import sys
from decimal import Decimal
import numpy as np
from voltrade.config import BarSettings, SignalSettings
from voltrade.bar_pipeline import BarPipeline
from voltrade.model import NEVER, Instrument, Trades
from voltrade.strategy.rule_file import load_rule
from voltrade.signal_engine import SignalEngine

rule = load_rule(sys.argv[1]) if len(sys.argv) > 1 else SignalEngine
one, settings = Decimal("0.01"), SignalSettings(rsi_length=2)
instrument = Instrument("LTCUSDT", "LTC", "USDT", one, one, 1, 1, 1, 1, one, one, one, 10**6)
pipeline = BarPipeline(instrument, BarSettings(unit="trades", threshold=Decimal(1)), rule(settings, instrument))
trades = Trades.from_rows("LTCUSDT", [(i, price, 10, i, False) for i, price in enumerate([900, 1100, 1300])])
at = 0
while at < 3:
    at = pipeline.process(trades, at, NEVER, NEVER)
hits = len(pipeline.engine.program.step_bars.stats.cache_hits)
print(pipeline.decisions["signal"].tolist(), pipeline.decisions["rsi"].tolist()[1:], hits)
"""


def run(script: str, *arguments: str, cache: Path, package: Path) -> str:
    """Run a script in a process of its own, with voltrade from `package` and an own cache."""
    environment = {**os.environ, "VOLTRADE_CACHE": str(cache), "PYTHONPATH": str(package)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # which would go by length and time
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=package,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package whose files can be edited."""
    copy = tmp_path / "copy" / "voltrade"
    shutil.copytree(PACKAGE / "voltrade", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text("")
    return copy.parent


def edit(file: Path, old: str, new: str) -> None:
    """Edit a file so that neither its length nor its time tells."""
    text, stamp = file.read_text(), file.stat()
    assert old in text
    assert len(old) == len(new)
    file.write_text(text.replace(old, new))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_after_an_edit_the_new_rule_runs(package: Path, rule_file: Path, tmp_path: Path) -> None:
    """The next test holds each file to the key by itself."""
    cache, rule = tmp_path / "cache", f"{rule_file}:Above"
    assert run(SIGNALS, rule, cache=cache, package=package) == "[0, 1, 1] [100.0, 100.0] 0"
    assert run(SIGNALS, rule, cache=cache, package=package) == "[0, 1, 1] [100.0, 100.0] 1"  # now from the cache

    edit(rule_file.parent / "levels.py", "10.0", "12.0")  # a constant of a callee in another file
    edit(package / "voltrade" / "indicators.py", "decision.rsi = 100.0\n", "decision.rsi = 200.0\n")
    edit(rule_file, "bar.close > least()", "bar.close < least()")
    assert run(SIGNALS, rule, cache=cache, package=package) == "[1, 1, 0] [200.0, 200.0] 0"


def test_the_key_of_compiled_code_follows_every_source(rule_file: Path) -> None:
    load_rule(f"{rule_file}:Above")
    keys = [source_key(rule_file)]
    for name, old, new in (("my_rule.py", ">", "<"), ("levels.py", "10.0", "12.0")):
        edit(rule_file.parent / name, old, new)
        keys.append(source_key(rule_file))
    assert len(set(keys)) == 3
    sources = {path.name for path in sources_of(rule_file)}
    assert {"my_rule.py", "levels.py", "signal_engine.py", "indicators.py", "config.py", "model.py"} <= sources
    assert "compiled.py" in sources


def test_the_first_run_says_that_it_compiles_and_later_runs_do_not_compile(tmp_path: Path) -> None:
    script = "from voltrade.account import fee; print(fee(10**8, 50_000))"
    code = {**os.environ, "VOLTRADE_CACHE": str(tmp_path), "PYTHONPATH": str(PACKAGE)}
    first, second = (
        subprocess.run([sys.executable, "-c", script], env=code, capture_output=True, text=True) for _ in range(2)
    )
    assert (first.stdout, second.stdout) == ("50000\n", "50000\n")
    assert first.stderr == f"compiling rules; later runs find them in {tmp_path}\n"
    assert second.stderr == ""


def test_in_a_notebook_it_says_so_without_the_red_of_errors(tmp_path: Path) -> None:
    """Fault case I17."""
    script = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell\n"
        "done = Shell(colors='NoColor').run_cell('from voltrade.account import fee; print(fee(10**8, 50_000))')"
    )
    code = {**os.environ, "VOLTRADE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(PACKAGE)}
    code["IPYTHONDIR"] = str(tmp_path / "ipython")
    done = subprocess.run([sys.executable, "-c", script], env=code, capture_output=True, text=True)
    assert done.stdout == f"compiling rules; later runs find them in {tmp_path / 'cache'}\n50000\n"
    assert done.stderr == ""


def test_without_a_place_for_the_cache_rules_run_all_the_same(rule_file: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file, not a folder")
    script = "from levels import least; print(least(), least.stats.cache_path)"
    code = {"VOLTRADE_CACHE": str(in_the_way), "PYTHONPATH": os.pathsep.join([str(rule_file.parent), str(PACKAGE)])}
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **code}, capture_output=True, text=True)
    assert done.stdout == "10.0 None\n", done.stderr


def test_code_of_sources_long_gone_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_CACHE", str(tmp_path))
    for name, days in (("0123456789abcdef", 31), ("fedcba9876543210", 29), ("not-ours", 99)):
        (tmp_path / name).mkdir()
        before = time.time() - days * 86_400
        os.utime(tmp_path / name, (before, before))
    compiled(plain(ema_step))
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {"fedcba9876543210", "not-ours", source_key(Path(indicators.__file__))}
