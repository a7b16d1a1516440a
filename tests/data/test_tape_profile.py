"""A tape is described, thresholds are measured by the bars they give, and an alert says when bars leave their range."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.history import some_trades

from voltrade.bar_rate import ExpectedRange, bar_rate_alert
from voltrade.bars import VolumeBarAggregator
from voltrade.config import BarSettings, Config
from voltrade.data.kinds import start_of
from voltrade.data.tape import load_trades, synthetic_trades
from voltrade.data.tape_profile import BarFigures, bar_figures, calibrate, day_table, gap_table
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, Instrument, Trades
from voltrade.report.tape_charts import calibration_chart, clock_chart, tape_chart

MONDAY = date(2026, 1, 5)
START = start_of(MONDAY)


@cache
def synthetic() -> Trades:
    """Six hours, made when they are first asked for: nothing is compiled while tests are collected."""
    return synthetic_trades(an_instrument(), seed=8, hours=6).trades


def tape(*rows: tuple[int, int, int], first_id: int = 1) -> Trades:
    """Trades of (price in ticks, lots, seconds after Monday's midnight), taker sides in turn."""
    return Trades.from_rows(
        "BTCUSDT",
        [(first_id + i, price, lots, START + 1000 * at, bool(i % 2)) for i, (price, lots, at) in enumerate(rows)],
    )


# --- what a tape holds ------------------------------------------------------------------------------------------------


def test_the_parameters_for_live_carry_the_band_that_is_shown(btcusdt: Instrument) -> None:
    """The range was shown as watched, but what was to be typed did not carry it."""
    chosen = calibrate(synthetic(), btcusdt, thresholds=[]).for_bars_a_day(500)
    words = chosen.parameters().split()
    assert words[::3] == ["-p"] * 3
    bars = Config.from_parameters(dict(zip(words[1::3], map(float, words[2::3]), strict=True))).bars
    assert bars.threshold == chosen.threshold
    assert bars.least_bars_a_day == pytest.approx(chosen.expected_range.low, abs=1)
    assert bars.most_bars_a_day == pytest.approx(chosen.expected_range.high, abs=1)


def test_days_and_gaps_by_hand(btcusdt: Instrument) -> None:
    day = 86_400
    trades = tape((1000, 3000, 10), (1013, 1000, 40), (990, 2000, 100), (1001, 500, day + 7), (1003, 500, day + 7))
    trades = replace(trades, id=np.array([1, 2, 7, 8, 10]))
    table = day_table(trades, btcusdt)
    assert list(table.index) == ["2026-01-05", "2026-01-06"]
    assert table.iloc[0].to_dict() == {
        "trades": 3,
        "volume": 6.0,
        "notional": 100 * 3 + 101.3 * 1 + 99 * 2,
        "bought": 5 / 6,  # the first and the third: there the seller was the maker
        "first": 100.0,
        "low": 99.0,
        "high": 101.3,
        "last": 99.0,
        "hours": 90 / 3600,
        "longest_silence_s": 60.0,
        "gaps": 1,
        "ids_missing": 4,
    }
    assert table.iloc[1][["trades", "gaps", "ids_missing", "longest_silence_s"]].tolist() == [2, 1, 1, day - 93]
    gaps = gap_table(trades, btcusdt)
    assert gaps["first_id"].tolist() == [3, 9]
    assert gaps["ids_missing"].tolist() == [4, 1]
    assert gaps["seconds"].tolist() == [60.0, 0.0]
    assert gaps["move"].tolist() == [-2.3, 0.2]
    assert str(gaps.index[0]) == "2026-01-05 00:00:40+00:00"


def test_a_whole_tape_has_no_gaps(btcusdt: Instrument) -> None:
    assert gap_table(synthetic(), btcusdt).empty
    assert day_table(synthetic(), btcusdt)["trades"].sum() == len(synthetic())


# --- bars at a threshold ----------------------------------------------------------------------------------------------


def figures_of(trades: Trades, threshold: str, instrument: Instrument, **more: str) -> BarFigures:
    settings = BarSettings.model_validate({"threshold": Decimal(threshold), **more})
    return bar_figures(trades, instrument, settings)


def test_figures_by_hand(btcusdt: Instrument) -> None:
    """Bars of one coin, a trade each; they close at 0, 10, 30 and 60 s, at 100, 110, 99 and 108.9."""
    trades = tape((1000, 1000, 0), (1100, 1000, 10), (990, 1000, 30), (1089, 1000, 60))
    figures = figures_of(trades, "1", btcusdt)
    up, down = math.log(1.1), math.log(0.9)
    mean = (2 * up + down) / 3
    deviations = [up - mean, down - mean, up - mean]
    variance = sum(d * d for d in deviations) / 3
    assert (figures.bars, figures.returns) == (4, 3)
    assert figures.bars_a_day == 4 / (60 / 86_400)
    assert figures.trades_a_bar == 1
    assert figures.seconds == 20  # of 10, 20, 30
    assert (figures.seconds_5, figures.seconds_95) == (11, 29)
    assert figures.seconds_cv == pytest.approx(math.sqrt(200 / 3) / 20)
    assert figures.correlation == pytest.approx((deviations[0] * deviations[1] * 2) / (3 * variance))
    skewness = sum(d**3 for d in deviations) / 3 / variance**1.5
    kurtosis = sum(d**4 for d in deviations) / 3 / variance**2 - 3
    assert figures.skewness == pytest.approx(skewness)
    assert figures.kurtosis == pytest.approx(kurtosis)
    assert figures.non_normality == pytest.approx(skewness**2 / 6 + kurtosis**2 / 24)


def test_nothing_is_reckoned_over_a_gap_or_over_a_bar_cut_at_midnight(btcusdt: Instrument) -> None:
    """One coin a bar: full ones at 100, 101, 102, one cut at 200, full ones at 103, 104, then a gap, 300, 301."""
    day = 86_400
    prices = [(1000, 1000, 0), (1010, 1000, 1), (1020, 1000, 2), (2000, 500, 3)]
    prices += [(1030, 1000, day), (1040, 1000, day + 1), (3000, 1000, day + 2), (3010, 1000, day + 3)]
    trades = tape(*prices)
    trades = replace(trades, id=trades.id + np.where(trades.price >= 3000, 5, 0))
    figures = figures_of(trades, "1", btcusdt)
    assert figures.bars == 7
    assert (
        figures.returns == 3
    )  # 101/100, 102/101, 104/103; the bar after the gap is tainted, and 301/300 begins with it
    assert (figures.seconds_5, figures.seconds_95) == (1, 1), "the night between two bars is no duration"
    returns = np.log([1.01, 102 / 101, 104 / 103])
    deviations = returns - returns.mean()
    assert figures.skewness == pytest.approx(np.mean(deviations**3) / np.mean(deviations**2) ** 1.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 400), st.sampled_from(["base", "quote", "trades"]))
def test_bars_are_those_of_the_fold(btcusdt: Instrument, bars: int, unit: str) -> None:
    recommended = calibrate(synthetic(), btcusdt, unit=unit, thresholds=[]).for_bars_a_day(bars)
    bar_settings = BarSettings.model_validate({"threshold": recommended.threshold, "unit": unit})
    rows = VolumeBarAggregator(bar_settings, btcusdt).process(synthetic())
    assert recommended.figures.bars == np.count_nonzero(rows["close_reason"] == 1)


# --- choosing one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["base", "quote", "trades"])
@pytest.mark.parametrize("wanted", [60, 500, 2_000])
def test_a_wanted_number_of_bars_a_day_is_met(btcusdt: Instrument, unit: str, wanted: int) -> None:
    chosen = calibrate(synthetic(), btcusdt, unit=unit, thresholds=[]).for_bars_a_day(wanted)
    smallest = {"base": Decimal("0.001"), "quote": Decimal("0.0001"), "trades": Decimal(1)}[unit]
    assert chosen.threshold % smallest == 0
    assert len(f"{chosen.threshold.normalize():f}".replace(".", "").strip("0")) <= 3, "three digits are enough"
    # The day's end cuts a bar, three digits round by half a percent, and a part of a bar is left over.
    assert chosen.figures.bars_a_day == pytest.approx(wanted, rel=0.01, abs=2 * 4)
    assert chosen.expected_range.threshold == chosen.threshold
    assert chosen.expected_range.low == pytest.approx(chosen.figures.bars_a_day / 3)
    assert "0 whole days" in chosen.range_reason


def test_the_step_bounds_the_threshold(btcusdt: Instrument) -> None:
    trades = tape(*((1000, 1, at) for at in range(100)))
    assert calibrate(trades, btcusdt, thresholds=[]).for_bars_a_day(10_000_000).threshold == Decimal("0.001")
    odd = an_instrument(step="0.025", tick="0.1")
    coarse = calibrate(tape(*((1000, 40, at) for at in range(100))), odd, thresholds=[]).for_bars_a_day(7_000)
    assert coarse.threshold % Decimal("0.025") == 0


def test_the_nearest_to_normal_is_the_least_non_normal_of_the_band(btcusdt: Instrument) -> None:
    calibration = calibrate(synthetic(), btcusdt, most=5_000)
    chosen = calibration.nearest_to_normal(800, 4_000)
    judged = [f for f in calibration.figures if 800 <= f.bars_a_day <= 4_000 and f.returns >= 200]
    assert len(judged) > 4
    assert chosen.figures.non_normality == min(f.non_normality for f in judged)
    assert chosen.figures in judged
    with pytest.raises(DataError, match="has no threshold of 1 to 5 bars a day with 200 returns"):
        calibration.nearest_to_normal(1, 5)


def test_volume_time_is_more_normal_than_trades_at_random() -> None:
    """The measure tells: of normal returns it is next to 0, of fat tails far from it."""
    draw = np.random.default_rng(1)

    def non_normality(steps: np.ndarray) -> float:
        prices = np.round(600_000 * np.exp(np.cumsum(steps))).astype(np.int64)
        trades = tape(*((int(price), 1000, at) for at, price in enumerate(prices)))
        return figures_of(trades, "1", an_instrument()).non_normality

    assert non_normality(0.001 * draw.standard_normal(5_000)) < 0.01
    assert non_normality(0.001 * draw.standard_t(3, 5_000)) > 1


def test_calibration_has_a_row_for_each_threshold(btcusdt: Instrument) -> None:
    table = calibrate(synthetic(), btcusdt).table()
    assert len(table) == 24
    assert table["threshold"].is_monotonic_increasing
    assert table["bars"].is_monotonic_decreasing
    given_ones = calibrate(synthetic(), btcusdt, thresholds=[Decimal(30), Decimal(10)])
    assert given_ones.table()["threshold"].tolist() == [10.0, 30.0]
    with pytest.raises(ConfigError, match="threshold: must be a multiple of BTCUSDT's step"):
        calibrate(synthetic(), btcusdt, thresholds=[Decimal("0.0005")])


# --- bar rate ---------------------------------------------------------------------------------------------------------


def test_the_expected_range_follows_from_how_days_differ(btcusdt: Instrument) -> None:
    """Nine days, seven whole: volumes of 1 and e^0.2 in turn; their log has a deviation of 0.107."""
    trades = some_trades("BTCUSDT", MONDAY, days=9, a_day=400)
    day = (trades.time - START) // DAY_MS
    lots = np.where(day % 2 == 0, 100_000, round(100_000 * math.exp(0.2)))
    share = np.bincount(day)[day]
    chosen = calibrate(replace(trades, quantity=lots * 400 // share), btcusdt, thresholds=[]).for_bars_a_day(300)
    logs = [0.2 * (number % 2) for number in range(1, 8)]
    factor = math.exp(3 * np.std(logs, ddof=1))
    assert factor < 1.5
    assert chosen.expected_range.high / chosen.figures.bars_a_day == pytest.approx(1.5)  # never narrower
    wilder = np.where(day % 2 == 0, 100_000, round(100_000 * math.exp(0.6)))
    chosen = calibrate(replace(trades, quantity=wilder * 400 // share), btcusdt, thresholds=[]).for_bars_a_day(300)
    factor = math.exp(3 * np.std([0.6 * (number % 2) for number in range(1, 8)], ddof=1))
    assert chosen.expected_range.high / chosen.figures.bars_a_day == pytest.approx(factor, rel=0.01)
    assert "7 whole days" in chosen.range_reason


EXPECTED = ExpectedRange(Decimal(20), low=100, high=300)
NOW = START + 5 * DAY_MS


def closes(count: int, since: int = NOW - DAY_MS + 1, until: int = NOW) -> np.ndarray:
    return np.linspace(since, until, count).astype(np.int64)


@pytest.mark.parametrize(
    ("bars", "hours_watched", "said"),
    [
        (200, 48, None),
        (100, 48, None),
        (300, 48, None),
        (99, 48, "bars of 20 come too slowly: 99 in 24 hours, 100 to 300 were expected"),
        (301, 48, "bars of 20 come too fast: 301 in 24 hours, 100 to 300 were expected"),
        (99, 24, "too slowly"),
        (99, 23.9, None),  # the rest may still come
        (301, 3, "too fast"),  # too many are too many
        (0, 0, None),
        (0, 24, "too slowly: 0 in 24 hours"),
    ],
)
def test_drift_is_told_when_it_can_be_known(bars: int, hours_watched: float, said: str | None) -> None:
    found = bar_rate_alert(Decimal(20), EXPECTED, closes(bars), NOW - round(hours_watched * 3_600_000), NOW)
    assert (found is None) == (said is None)
    if said is not None:
        assert said in str(found)


def test_bars_before_the_last_24_hours_do_not_count() -> None:
    older = closes(1_000, NOW - 3 * DAY_MS, NOW - DAY_MS)
    assert bar_rate_alert(Decimal(20), EXPECTED, np.concatenate([older, closes(200)]), 0, NOW) is None


def test_a_bar_that_closed_24_hours_ago_has_gone() -> None:
    assert bar_rate_alert(Decimal(20), EXPECTED, closes(301, since=NOW - DAY_MS), 0, NOW) is None
    assert bar_rate_alert(Decimal(20), EXPECTED, closes(301, since=NOW - DAY_MS + 1), 0, NOW) is not None


def test_a_range_of_another_threshold_says_nothing() -> None:
    with pytest.raises(ValueError, match="threshold: must be that of the expected range, 20, was 21"):
        bar_rate_alert(Decimal(21), EXPECTED, closes(200), 0, NOW)


# --- charts and a real tape -------------------------------------------------------------------------------------------


def trace(figure: object, name: str) -> object:
    return next(part for part in figure.data if part.name == name)  # type: ignore[attr-defined]


def test_the_calibration_chart_shows_the_table_and_the_choice(btcusdt: Instrument) -> None:
    calibration = calibrate(synthetic(), btcusdt)
    chosen = calibration.for_bars_a_day(500)
    figure = calibration_chart(calibration, chosen)
    table = calibration.table()
    bars = trace(figure, "bars a day")
    assert list(bars.x) == table["threshold"].tolist()  # type: ignore[attr-defined]
    assert list(bars.y) == table["bars_a_day"].tolist()  # type: ignore[attr-defined]
    assert list(trace(figure, "chosen").x) == [float(chosen.threshold)]  # type: ignore[attr-defined]
    for panel in ("median duration", "spread of durations", "correlation", "clustering", "distance from normal"):
        assert len(trace(figure, panel).x) == len(table)  # type: ignore[attr-defined]


def test_the_tape_chart_shows_prices_and_gaps(btcusdt: Instrument) -> None:
    keep = (synthetic().id < 20_000) | (synthetic().id > 21_000)
    trades = synthetic()[keep]
    figure = tape_chart(trades, btcusdt)
    assert len(trace(figure, "price").x) < 5_000  # type: ignore[attr-defined]
    assert max(trace(figure, "price").y) == trades.price.max() / 10  # type: ignore[attr-defined]
    assert list(trace(figure, "ids missing").text) == ["1,001 ids missing"]  # type: ignore[attr-defined]
    volume = trace(figure, "volume")
    assert sum(volume.y) == pytest.approx(trades.quantity.sum() / 1000)  # type: ignore[attr-defined]


def test_the_bars_chart_sets_volume_bars_beside_bars_of_time(btcusdt: Instrument) -> None:
    rows = VolumeBarAggregator(BarSettings(threshold=Decimal(60)), btcusdt).process(synthetic())
    figure = clock_chart(synthetic(), rows, btcusdt)
    by_volume, by_time = (trace(figure, name) for name in ("volume bars", "bars of time"))
    assert len(by_volume.open) == len(rows)  # type: ignore[attr-defined]
    assert abs(len(by_time.open) - len(rows)) <= 2, "as many bars of time"  # type: ignore[attr-defined]
    assert list(by_volume.close) == (rows["close"] / 10).tolist()  # type: ignore[attr-defined]
    assert by_time.close[-1] == synthetic().price[-1] / 10  # type: ignore[attr-defined]


@pytest.mark.recordings
def test_a_real_tape_is_described_and_calibrated(recordings: Path, ltcusdt: Instrument) -> None:
    (path,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    trades = load_trades(path, ltcusdt).trades
    gaps = gap_table(trades, ltcusdt)
    assert (len(gaps), gaps["ids_missing"].sum(), gaps["ids_missing"].max()) == (19, 197, 117)
    assert day_table(trades, ltcusdt)["volume"].sum() == pytest.approx(347_892.569)
    chosen = calibrate(trades, ltcusdt).for_bars_a_day(1_300)
    assert chosen.figures.bars_a_day == pytest.approx(1_300, rel=0.01)
    assert chosen.threshold == pytest.approx(Decimal(280), rel=Decimal("0.01"))
