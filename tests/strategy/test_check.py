"""A rule that looks ahead, remembers what it must not, or warms up too shortly is caught; a sound one passes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from math import sqrt
from pathlib import Path
from time import time as now
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy import loadtxt as fetch
from numpy import mean
from support.builders import an_instrument

from voltrade.__main__ import main
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Record, Rows, compiled
from voltrade.config import SignalSettings
from voltrade.errors import ConfigError
from voltrade.model import CloseReason, Signal, VolumeBar
from voltrade.signal_engine import ATR, EMA, VWAP, Indicator, SignalEngine, UncompiledRuleWarning, Window
from voltrade.strategy import check as check_module
from voltrade.strategy import code_reader
from voltrade.strategy.check import RuleReport, check, fixture

pytestmark = pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")

BTCUSDT = an_instrument()


class Rule(SignalEngine):
    """A small rule to spoil: ATR alone, and no conditions."""

    indicators = (ATR,)
    conditions: ClassVar[dict[str, type]] = {}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if bar.close > bar.open else 0


@pytest.fixture(autouse=True)
def _small_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough bars for all that is tried here."""
    monkeypatch.setattr(check_module, "BARS_AFTER_WARMUP", AFTER_WARMUP)


AFTER_WARMUP = 60


def failed(checked: RuleReport) -> set[str]:
    return {finding.name for finding in checked.findings if not finding.ok}


def detail(checked: RuleReport, name: str) -> str:
    return next(finding.detail for finding in checked.findings if finding.name == name)


# --- sound rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [SignalSettings(), SignalSettings(ema_fast=3, ema_slow=5, rsi_length=3, atr_length=2), SignalSettings(ema_slow=60)],
    ids=["defaults", "short", "long"],
)
def test_the_built_in_rule_is_sound(settings: SignalSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "BARS_AFTER_WARMUP", 300)
    checked = check(SignalEngine, settings, BTCUSDT)
    assert checked.ok, str(checked)
    assert checked.compiled
    assert checked.signals > 10


@compiled
def step_momentum(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    slot = state.bars % settings.rsi_length
    decision.momentum = bar.close - state.closes[slot] if state.bars >= settings.rsi_length else np.nan
    state.closes[slot] = bar.close


MOMENTUM = Indicator(
    ("momentum",), step_momentum, lambda settings: settings.rsi_length + 1, {"closes": Window("rsi_length")}
)


class Momentum(Rule):
    """Buys what rose, in words that numba compiles."""

    indicators = (ATR, MOMENTUM)

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if decision.momentum > 0 else 0


class PlainWords(Rule):
    """A sound rule that numba can't compile."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if Decimal(float(bar.close)) > Decimal(float(bar.open)) else 0


WEIGHTS = (0.5, 0.3, 0.2)


class WithConstants(Rule):
    """Numbers in a tuple, numpy's functions and a function of one's own are no data."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if np.log(bar.close / bar.open) > WEIGHTS[0] * half(0.001) else 0


@compiled
def half(value: float) -> float:
    return value / 2


@pytest.mark.parametrize("rule", [Momentum, WithConstants])
def test_sound_rules_of_ones_own_pass(rule: type[SignalEngine]) -> None:
    checked = check(rule, instrument=BTCUSDT)
    assert checked.ok, str(checked)
    assert checked.signals > 10


def test_a_sound_rule_in_plain_python_passes_and_says_so() -> None:
    with pytest.warns(UncompiledRuleWarning):
        checked = check(PlainWords, instrument=BTCUSDT)
    assert checked.ok, str(checked)
    assert str(checked).startswith("PlainWords, plain Python: ")


# --- leaks that running the rule finds --------------------------------------------------------------------------------


class WholeBatch(Rule):
    """Reckons over all bars at once, with the next close in hand: the leak of vectorised research."""

    def on_volume_bars(self, rows: Rows) -> Rows:
        decisions = super().on_volume_bars(rows)
        decisions["signal"][:-1] = np.sign(np.diff(rows["close"]))
        return decisions


def test_one_bar_ahead_over_a_whole_batch_is_caught() -> None:
    checked = check(WholeBatch, instrument=BTCUSDT)
    assert {"prefixes", "bar by bar", "blocks of trades"} <= failed(checked)
    assert "of 1 bars alone, bar 0: signal was 1, of the whole -1" in detail(checked, "prefixes")


class Centred(Rule):
    """Smooths each decision with its neighbours, so that only the last bar of a batch differs."""

    def on_volume_bars(self, rows: Rows) -> Rows:
        decisions = super().on_volume_bars(rows)
        atr = decisions["atr"].copy()
        decisions["atr"][1:-1] = (atr[:-2] + atr[1:-1] + atr[2:]) / 3
        return decisions


def test_a_rule_that_overrides_how_bars_are_given_is_named() -> None:
    finding = check_module._check_code(Centred)
    assert "Centred overrides on_volume_bars" in finding.detail


class LongOnly(Rule):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        return signal if signal and self.allows(bar.number) else None

    def allows(self, number: int) -> bool:
        return number % 3 == 0


class Hoards(Rule):
    closes: ClassVar[list[int]] = []

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        self.closes.append(int(bar.close))
        return super().on_volume_bar(bar)


def test_an_override_of_on_volume_bar_is_what_is_checked() -> None:
    every, third = check(Rule, instrument=BTCUSDT), check(LongOnly, instrument=BTCUSDT)
    assert third.ok, str(third)
    assert str(third).startswith("LongOnly, plain Python: ")
    assert 10 < third.signals < every.signals / 2


class Overhears(Rule):
    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        return signal if signal and SEEN.get(signal.bar_number + 1, 0.0) > 0.0 else None


@pytest.mark.parametrize(
    ("rule", "kept"),
    [(Hoards, "reads Hoards.closes, a list"), (Overhears, "Overhears.on_volume_bar reads SEEN, a dict")],
)
def test_what_an_override_keeps_for_all_engines_is_named(rule: type[SignalEngine], kept: str) -> None:
    assert kept in check_module._check_code(rule).detail


def test_a_centred_average_is_caught() -> None:
    assert "prefixes" in failed(check(Centred, instrument=BTCUSDT))


SEEN: dict[int, float] = {}


class Remembers(Rule):
    """Keeps the closes of an earlier run: the second run knows the future of the first."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        SEEN[int(state.bars)] = float(bar.close)
        return 1 if SEEN.get(int(state.bars) + 1, 0.0) > bar.close else 0


def test_state_shared_between_runs_is_caught_by_running_and_by_reading() -> None:
    SEEN.clear()
    checked = check(Remembers, instrument=BTCUSDT)
    assert {"the same again", "prefixes", "only what it is given"} <= failed(checked)
    assert "reads SEEN, a dict" in detail(checked, "only what it is given")


class ByChance(Rule):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return random.choice((-1, 0, 1))


def test_chance_is_caught() -> None:
    checked = check(ByChance, instrument=BTCUSDT)
    assert {"the same again", "only what it is given"} <= failed(checked)
    assert "uses random.choice" in detail(checked, "only what it is given")


class ChangesSettings(Rule):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        settings.rsi_length = 3
        return 0


def test_a_rule_that_changes_its_settings_is_caught() -> None:
    with pytest.raises(ConfigError, match="did within the bars up to 354: rsi_length from 14 to 3"):
        check(ChangesSettings, instrument=BTCUSDT)


class LooksBack(Rule):
    """Reads the decisions before its own from the buffer: a batch has them, live trading with one row has not."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        buffer = decision.base
        while buffer.base is not None and isinstance(buffer.base, np.ndarray):
            buffer = buffer.base
        return int(len(np.atleast_1d(buffer)) > 1)


def test_a_rule_that_reads_beyond_its_row_is_caught() -> None:
    assert "bar by bar" in failed(check(LooksBack, instrument=BTCUSDT))


@compiled
def step_smooth(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    bar.close = (bar.open + bar.close) / 2


class WritesIntoTheBar(Rule):
    """Smooths the close for itself, and so for every indicator that comes after it."""

    indicators = (Indicator((), step_smooth, lambda settings: 1), ATR)


def test_a_rule_that_writes_into_the_bar_is_caught() -> None:
    said = detail(check(WritesIntoTheBar, instrument=BTCUSDT), "bar by bar")
    assert re.search(r"the rule wrote [\d.]+ over close of bar \d+, [\d.]+: steps that follow read", said)


class Fails(Rule):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 // (state.bars - 100)


def test_a_rule_that_fails_is_named_with_its_bar() -> None:
    with pytest.raises(ConfigError, match=r"^Fails: must take every bar, at bar 99 was ZeroDivisionError: "):
        check(Fails, instrument=BTCUSDT)


# --- leaks that only the code tells -----------------------------------------------------------------------------------

FIXTURE = fixture(BTCUSDT, Rule.warmup_of(SignalSettings()) + AFTER_WARMUP)
"""The very fixture that the check runs on."""
TIMES = FIXTURE.rows["close_time"].copy()
TOMORROW = FIXTURE.rows["close"] / 10.0


class Table(Rule):
    """One bar ahead, from a table made before: compiled, and the same in every run, wherever it begins."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        after = np.searchsorted(TIMES, bar.close_time, side="right")
        return 1 if TOMORROW[min(after, len(TOMORROW) - 1)] > bar.close else -1


def test_one_bar_ahead_from_a_table_is_caught() -> None:
    """The leak is real: the signal is the sign of the next bar's move. And no run of it differs from another."""
    checked = check(Table, instrument=BTCUSDT)
    assert checked.compiled
    signals = Table(SignalSettings(), BTCUSDT).on_volume_bars(FIXTURE.rows)["signal"]
    next_one = TOMORROW[np.minimum(np.searchsorted(TIMES, TIMES, side="right"), len(TIMES) - 1)]
    assert np.array_equal(signals, np.where(next_one > TOMORROW, 1, -1))
    assert failed(checked) == {"only what it is given"}
    assert f"reads TIMES, a ndarray of {len(TIMES)} values" in detail(checked, "only what it is given")


def through_a_function(state: Record) -> float:
    return float(TOMORROW[state.bars])


class Holder:
    closes = [1.0, 2.0]  # noqa: RUF012
    fine = 3.0


def kept_in_default(state: Any, bar: Any, settings: Any, decision: Any, memory: list[float] = []) -> int:  # noqa: B006
    return len(memory)


def kept_in_closure() -> Callable[..., int]:
    closes = np.zeros(3)

    def rule(state: Any, bar: Any, settings: Any, decision: Any) -> int:
        return int(closes[0])

    return rule


def counts(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    global COUNT
    COUNT = 1
    return 0


def imports(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    import time

    return int(time.time())


def stores_in_its_class(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    before, Holder.fine = Holder.fine, bar.close
    return int(bar.close > before)


def stores_in_a_local(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    kept: Any = half
    kept.closes = bar.close
    return 0


def adds_to_a_local(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    kept: Any = half
    kept.count += bar.close
    return 0


def counts_in_closure() -> Callable[..., int]:
    count = 0

    def rule(state: Any, bar: Any, settings: Any, decision: Any) -> int:
        nonlocal count
        count += 1
        return count % 2

    return rule


def makes_a_class(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    class Local:
        pass

    return 0


def with_a_table(state: Any) -> int:
    return 0


with_a_table.table = TOMORROW  # type: ignore[attr-defined]


@compiled
def compiled_with_a_table(state: Any) -> int:
    return 0


compiled_with_a_table.table = TOMORROW  # type: ignore[attr-defined]


class Looks:
    def __init__(self) -> None:
        self.closes = TOMORROW

    def look(self, bar: int) -> float:
        return float(self.closes[bar])


LOOKS = Looks()
LONG_TEXT = "+-" * 100
NESTED = ((1.0,) * 40, (2.0,) * 40)
LONG_NUMBER = 3**5_000
VECTORISED = np.vectorize(lambda bar: TOMORROW[bar])


class Number(float):
    """A number that carries a table."""

    closes = TOMORROW


NUMBER = Number(1.0)


def written(expression: str) -> Callable[..., int]:
    """A rule in code of its own, with the names of this file."""
    made: Callable[..., int] = eval(f"lambda state, bar, settings, decision: {expression}", globals())
    return made


LITERAL = written(f"{tuple(range(3_000))}[bar.number]")
BY_NUMBER = written(" or ".join(f"bar.number == {number}" for number in range(1_000, 1_600)))


def kept_in_keyword(state: Any, bar: Any, settings: Any, decision: Any, *, memory: list[float] = [0.0]) -> int:  # noqa: B006
    return int(memory[0] > bar.close)


SPOILT: list[tuple[Callable[..., int], str]] = [
    (lambda state, bar, settings, decision: through_a_function(state), "through_a_function reads TOMORROW"),
    (lambda state, bar, settings, decision: next(at for at in range(9) if TOMORROW[at] > 0), "reads TOMORROW"),
    (lambda state, bar, settings, decision: np.load("closes.npy")[0], "uses np.load"),
    (lambda state, bar, settings, decision: np.random.random() > 0.5, "uses np.random.random"),
    (lambda state, bar, settings, decision: int(open("signal").read()), "uses open"),  # noqa: SIM115
    (lambda state, bar, settings, decision: Holder.closes[0], "reads Holder.closes, a list of 2 values"),
    (lambda state, bar, settings, decision: code_reader.FORBIDDEN_NAMES, "reads code_reader.FORBIDDEN_NAMES"),
    (lambda state, bar, settings, decision: UNKNOWN_NAME, "uses UNKNOWN_NAME"),  # type: ignore[name-defined]  # noqa: F821
    (kept_in_default, "reads a default argument, a list"),
    (kept_in_keyword, "reads a default argument, a list of 1 values"),
    (kept_in_closure(), "reads closes, a ndarray of 3 values"),
    (counts, "counts changes COUNT"),
    (imports, "imports imports time"),
    (lambda state, bar, settings, decision: int(now()), "uses now"),
    (LITERAL, "reads a literal, a tuple of 3000 values"),
    (written("1 if bar.number in {" + str(list(range(3_000)))[1:-1] + "} else 0"), "a frozenset of 3000 values"),
    (BY_NUMBER, "Spoilt has constants of "),
    (lambda state, bar, settings, decision: ord(LONG_TEXT[bar.number]), "reads LONG_TEXT, a str of 200 values"),
    (lambda state, bar, settings, decision: NESTED[0][bar.number], "reads NESTED, a tuple of 80 values"),
    (lambda state, bar, settings, decision: LONG_NUMBER >> bar.number & 1, "reads LONG_NUMBER, a int of"),
    (lambda state, bar, settings, decision: NUMBER.closes[0], "reads NUMBER, a Number"),
    (lambda state, bar, settings, decision: int(Looks().look(bar.number)), "uses Looks"),
    (lambda state, bar, settings, decision: int(LOOKS.look(bar.number)), "reads LOOKS, a Looks"),
    (lambda state, bar, settings, decision: int(VECTORISED(bar.number)), "uses VECTORISED"),
    (lambda state, bar, settings, decision: fetch("closes.txt")[bar.number], "uses fetch"),
    (lambda state, bar, settings, decision: np.lib.format.read_array(bar), "uses np.lib.format.read_array"),
    (lambda state, bar, settings, decision: np.random.default_rng().integers(2), "uses np.random.default_rng"),
    (lambda state, bar, settings, decision: (lambda library: library.load("closes.npy"))(np), "uses np"),
    (lambda state, bar, settings, decision: int(len(state.__class__.__mro__) > bar.number), "uses __class__"),
    (lambda state, bar, settings, decision: getattr(Holder, "closes").append(bar.close), "uses getattr"),  # noqa: B009
    (lambda state, bar, settings, decision: with_a_table.table[0], "with_a_table.table, a ndarray"),  # type: ignore[attr-defined]
    (lambda state, bar, settings, decision: with_a_table(state), "with_a_table keeps an attribute, table"),
    (lambda state, bar, settings, decision: compiled_with_a_table(state), "compiled_with_a_table keeps an attribute"),
    (
        lambda state, bar, settings, decision: half.__wrapped__.__globals__["TOMORROW"][0],
        "half.__wrapped__.__globals__",
    ),  # type: ignore[attr-defined]
    (stores_in_its_class, "stores_in_its_class uses Holder"),
    (stores_in_a_local, "changes kept.closes, and kept is none of its arguments"),
    (adds_to_a_local, "changes kept.count, and kept is none of its arguments"),
    (counts_in_closure(), "changes count"),
    (makes_a_class, "makes a class"),
    (partial(kept_in_default, memory=[1.0]), "Spoilt steps through a partial"),
    (lambda state, bar, settings, decision: random.random(), "uses random.random"),
]


@pytest.mark.parametrize(("function", "said"), SPOILT, ids=[said for _, said in SPOILT])
def test_what_a_rule_brings_along_is_named(function: Callable[..., int], said: str) -> None:
    rule = type("Spoilt", (Rule,), {"_detect_signal": staticmethod(function)})
    finding = check_module._check_code(rule)
    assert not finding.ok
    assert said in finding.detail


def changes_its_arguments(state: Any, bar: Any, settings: Any, decision: Any) -> int:
    """A docstring is no constant that a rule reads, however long it is: it tells people what the rule is for."""
    state.count += 1 if bar.close > bar.open else -1
    state.high, decision.low = bar.high, bar.low
    state.closes[state.bars % 5] = bar.close
    return 0


def shares_a_variable(close: float) -> list[float]:
    return [each * close for each in WEIGHTS if (lambda other: other < close)(each)]


@pytest.mark.parametrize(
    "function",
    [
        lambda state, bar, settings, decision: Holder.fine,
        changes_its_arguments,
        lambda state, bar, settings, decision: shares_a_variable(bar.close)[0] > WEIGHTS.index(0.5),
        lambda state, bar, settings, decision: bar.close_reason == CloseReason.DAY_END,
        lambda state, bar, settings, decision: max(abs(bar.close), np.float64(3), *WEIGHTS),
        lambda state, bar, settings, decision: sqrt(bar.close) > mean([bar.open, bar.high]) or np.linalg.norm([1.0]),
    ],
    ids=[
        "a number of a class",
        "its arguments",
        "a variable of the call",
        "an enum",
        "builtins",
        "functions of numpy and math",
    ],
)
def test_constants_are_no_data(function: Callable[..., int]) -> None:
    fields = {"count": int, "high": float, "closes": Window("atr_length")}
    keeps = Indicator(("low",), changes_its_arguments, lambda settings: 1, fields)
    members = {"_detect_signal": staticmethod(function), "indicators": (*Rule.indicators, keeps)}
    assert check_module._check_code(type("Sound", (Rule,), members)).ok


# --- warm-up ----------------------------------------------------------------------------------------------------------


class TooSoon(Rule):
    """Says that an EMA of 21 forgets its seed within its length."""

    indicators = (ATR, Indicator(EMA.outputs, EMA.step, lambda settings: settings.ema_slow, EMA.state))


def test_a_warm_up_that_is_too_short_is_caught() -> None:
    class ShortAtr(TooSoon):
        indicators = (Indicator(ATR.outputs, ATR.step, lambda settings: 30, ATR.state), TooSoon.indicators[1])

    checked = check(ShortAtr, instrument=BTCUSDT)
    assert failed(checked) == {"warm-up"}
    assert "though 30 bars were said to be enough" in detail(checked, "warm-up")


class Alternates(Rule):
    """Counts bars for ever, so that what it says depends on where it began."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if state.bars % 2 == 0 else -1


def test_a_rule_that_never_forgets_its_start_is_caught() -> None:
    checked = check(Alternates, instrument=BTCUSDT)
    assert failed(checked) == {"warm-up"}
    assert "started 1 bars later, signal at bar" in detail(checked, "warm-up")


@compiled
def step_day_vwap(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    day = bar.close_time // 86_400_000
    if state.bars == 0 or day != state.day:
        state.day, state.day_notional, state.day_volume = day, 0.0, 0.0
    state.day_notional += bar.notional
    state.day_volume += bar.volume
    decision.day_vwap = state.day_notional / state.day_volume


@compiled
def step_highest(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    state.highest = max(state.highest, bar.high)
    decision.highest = state.highest


DAY_VWAP_STATE: dict[str, Any] = {"day": int, "day_notional": float, "day_volume": float}


@pytest.mark.parametrize("stated", [1, 1_500])
def test_memory_since_midnight_is_caught_whatever_warm_up_is_stated(stated: int) -> None:
    class DayVwap(Rule):
        indicators = (ATR, Indicator(("day_vwap",), step_day_vwap, lambda settings: stated, DAY_VWAP_STATE))

    finding = check_module._check_warmup(partial(DayVwap, SignalSettings(), BTCUSDT))
    assert not finding.ok
    assert f", though {stated} bars were said to be enough: it is right only from a UTC midnight on" in finding.detail
    assert "no number of bars is enough" in finding.detail


def test_memory_since_the_first_bar_is_caught() -> None:
    class Highest(Rule):
        indicators = (ATR, Indicator(("highest",), step_highest, lambda settings: 1, {"highest": float}))

    checked = check(Highest, instrument=BTCUSDT)
    assert failed(checked) == {"warm-up"}
    assert "later, highest at bar" in detail(checked, "warm-up")
    assert "midnight" not in detail(checked, "warm-up")


@compiled
def step_infinite_at_times(state: Record, bar: Record, settings: Record, decision: Record) -> None:
    step_highest(state, bar, settings, decision)
    decision.spread = bar.high - bar.low
    if bar.number % 5 == 0:
        decision.spread, decision.highest = np.inf, np.inf


def test_infinite_values_are_no_fault_and_hide_none() -> None:
    class InfiniteAtTimes(Rule):
        indicators = (
            ATR,
            Indicator(("spread", "highest"), step_infinite_at_times, lambda settings: 1, {"highest": float}),
        )

    assert "later, highest at bar" in detail(check(InfiniteAtTimes, instrument=BTCUSDT), "warm-up")


def test_an_indicator_is_held_to_its_own_warm_up_and_not_to_that_of_the_slowest() -> None:
    class OneIsShort(TooSoon):
        indicators = (*TooSoon.indicators, VWAP)

    longest = OneIsShort(SignalSettings(), BTCUSDT).warmup_bars
    assert longest > SignalSettings().ema_slow
    said = detail(check(OneIsShort, instrument=BTCUSDT), "warm-up")
    assert "ema_fast at bar" in said
    assert f"though {SignalSettings().ema_slow} bars were said to be enough: " in said
    assert said.endswith(" were needed here")


def test_a_part_of_a_bar_counts_as_one_and_what_is_no_number_is_refused() -> None:
    def momentum_after(bars: Any) -> type[SignalEngine]:
        momentum = Indicator(MOMENTUM.outputs, MOMENTUM.step, lambda settings: bars, MOMENTUM.state)
        return type("Fractional", (Rule,), {"indicators": (ATR, momentum)})

    assert momentum_after(400.25)(SignalSettings(), BTCUSDT).warmup_bars == 401
    assert check(momentum_after(400.25), instrument=BTCUSDT).ok
    for bars in (float("inf"), float("nan"), None, "20"):
        with pytest.raises(ConfigError, match=f"momentum: ready_after must be a number of bars, was {bars!r}"):
            check(momentum_after(bars), instrument=BTCUSDT)


def test_the_warm_up_is_tried_over_two_whole_days() -> None:
    rows = check_module.whole_days(BTCUSDT, 700)
    _, bars = np.unique(rows["day"], return_counts=True)
    assert len(bars) == 3
    assert all(bars[1:] >= 700)
    first, second = check_module._midnights(rows)
    starts = check_module._later_starts(rows)
    assert {first, second, (first + second) // 2, (second + len(rows)) // 2} <= set(starts)


def test_the_fixture_has_what_rules_stumble_over() -> None:
    made = fixture(BTCUSDT, 600)
    assert len(made.rows) == 600
    assert np.count_nonzero(made.rows["tainted"]) >= 5
    assert np.count_nonzero(made.rows["close_reason"] == CloseReason.DAY_END) == 1
    assert np.array_equal(VolumeBarAggregator(made.settings, BTCUSDT).process(made.trades), made.rows)


# --- refused before anything is traded --------------------------------------------------------------------------------


class KeepsCount(Rule):
    count = 0

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        self.count += 1
        return super().on_volume_bar(bar)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Remembers, "Remembers._detect_signal reads SEEN, a dict"),
        (ByChance, "ByChance._detect_signal uses random.choice"),
        (Hoards, "Hoards.on_volume_bar reads Hoards.closes, a list"),
        (KeepsCount, "KeepsCount.on_volume_bar keeps self.count, which is not in the declared state"),
    ],
)
def test_a_rule_that_knows_or_keeps_more_than_it_declares_is_refused(rule: type[SignalEngine], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule: {re.escape(said)}"):
        code_reader.refuse_other_data(rule)


@pytest.mark.parametrize("rule", [SignalEngine, Momentum, PlainWords, WithConstants, LongOnly])
def test_a_sound_rule_is_not_refused(rule: type[SignalEngine]) -> None:
    code_reader.refuse_other_data(rule)
    check_module.try_rule(rule, rule.settings_type())


def test_what_a_rule_returns_is_tried_before_anything_is_traded() -> None:
    class Truth(Rule):
        @staticmethod
        def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
            return bar.close > bar.open  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"Truth._detect_signal: must return -1, 0 or 1, at bar 0, .*True or False"):
        check_module.try_rule(Truth, SignalSettings())
    check_module.try_rule(Fails, SignalSettings())  # the bar that raises is named where it is traded


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (LooksBack, "bar 0: signal was 0, of the whole 1"),
        (WholeBatch, "bar [0-9]+: signal was "),
        (WritesIntoTheBar, "the rule wrote .* over close of bar 0"),
    ],
)
def test_a_rule_that_decides_otherwise_bar_by_bar_is_refused(rule: type[SignalEngine], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule: {rule.__name__}: {said}"):
        check_module.try_rule(rule, rule.settings_type())


# --- python -m voltrade check -----------------------------------------------------------------------------------------

RULE_FILE = """
import numpy as np
from voltrade.signal_engine import SignalEngine

NEXT = np.arange(10_000.0)

class Sound(SignalEngine):
    pass

class Leaks(SignalEngine):
    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 1 if NEXT[state.bars] > bar.close else 0

class Fails(SignalEngine):
    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 1 // (state.bars - 7)
"""


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines(keepends=True)[-1]


def test_a_rule_file_is_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my_rule.py"
    path.write_text(RULE_FILE)
    assert main(["check", "--rule", f"{path}:Leaks"]) == 2
    assert "check: rule: Leaks._detect_signal reads NEXT, a ndarray of 10000 values: a rule may" in last_line(capsys)
    assert main(["check", "-p", "rule", f"{path}:Sound", "-p", "ema_slow", "60", "-p", "use_rsi_filter", "False"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Sound, compiled: ")
    assert f"after {SignalEngine(SignalSettings(ema_slow=60), BTCUSDT).warmup_bars} bars" in said
    assert said.endswith("\nno fault was found\n")
    assert main(["check", "--rule", f"{path}:Fails"]) == 2
    assert re.fullmatch("check: Fails: must take every bar, at bar 6 was ZeroDivisionError.*\n", last_line(capsys))
    assert main(["check", "--rule", f"{path}:Absent"]) == 2
    assert "Absent" in capsys.readouterr().err
    assert main(["check", "-p", "ema_slow", "2"]) == 2
    assert "ema_fast must be below ema_slow" in capsys.readouterr().err
