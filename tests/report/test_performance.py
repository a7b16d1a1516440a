"""Figures on calendar time by hand arithmetic, and luck by the numbers of the papers that define it."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltrade.report import performance

NOON = int(datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()) * 1000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def at(*steps: int, step_ms: int = HOUR) -> performance.Int64s:
    return NOON + np.array(steps, dtype=np.int64) * step_ms


# --- returns ----------------------------------------------------------------------------------------------------------


def test_a_short_or_unmoved_run_has_no_sharpe_ratio() -> None:
    short = performance.returns_of(at(0, 1, 2, step_ms=MINUTE), np.array([1_000.0, 1_010, 1_005]))
    assert math.isnan(short.annual_sharpe)
    assert short.basis == "too short to tell (under a day)"
    flat = performance.returns_of(at(*range(49)), np.full(49, 1_000.0))
    assert math.isnan(flat.annual_sharpe)
    assert flat.basis == "equity never moved"
    nothing = performance.returns_of(at(), np.empty(0))
    assert math.isnan(nothing.annual_sharpe)


@pytest.mark.parametrize(("hours", "periods", "word"), [(1, 365 * 24, "hourly"), (24, 365, "daily")])
def test_the_sharpe_ratio_is_on_calendar_time(hours: int, periods: int, word: str) -> None:
    amounts = [1_000.0]
    for number in range(40):
        amounts.append(amounts[-1] * (1.02 if number % 2 else 0.99))
    # One valuation at each boundary; noon is one for hours, and a day's end is midnight.
    start = NOON if hours == 1 else NOON - 12 * HOUR
    found = performance.returns_of(start + np.arange(41) * hours * HOUR, np.array(amounts))
    returns = np.diff(amounts) / np.array(amounts[:-1])
    assert found.annual_sharpe == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(periods), rel=1e-9)
    assert found.basis.startswith(word)


def test_returns_that_are_all_the_same_have_no_sharpe_ratio() -> None:
    growing = performance.returns_of(at(*range(31), step_ms=DAY) - 12 * HOUR, 1_000 * 1.001 ** np.arange(31))
    assert growing.values == pytest.approx([0.001] * 30)
    for returns in (growing, performance.Returns(np.full(30, 0.1), DAY)):
        assert math.isnan(returns.sharpe)
        found = performance.judge(returns, 30)
        assert not found.is_evidence
        assert found.text == "No evidence: the one setting has no Sharpe ratio, all its returns are the same."


def test_hours_without_a_trade_count_as_hours() -> None:
    found = performance.returns_of(at(0, 1, 2, 3, 27), np.array([1_000.0, 1_010, 1_005, 1_020, 1_020]))
    assert found.values == pytest.approx([0.01, 1_005 / 1_010 - 1, 1_020 / 1_005 - 1] + [0] * 24)


def test_what_moved_between_two_boundaries_counts_at_the_second() -> None:
    times = at(0, 30, 59, 61, 24 * 60 + 5, step_ms=MINUTE)
    found = performance.returns_of(times, np.array([100.0, 150.0, 110.0, 120.0, 90.0]))
    # At 13:00 the last word is 110, from 14:00 to 12:00 it is 120, and the end counts at 13:00.
    assert found.values == pytest.approx([0.1, 120 / 110 - 1, *[0.0] * 22, 90 / 120 - 1])


def test_what_is_lost_in_the_first_minutes_is_lost() -> None:
    """The first valuation comes up to a minute after the start, and its hour, or day, counts whole all the same."""
    minutes = np.arange(1, 31 * 24 * 60, dtype=np.int64)
    equity = np.where(minutes < 6, 1_000.0, 900.0)
    by_days = performance.returns_of(NOON - 12 * HOUR + minutes * MINUTE, equity)
    assert by_days.values == pytest.approx([-0.1, *[0.0] * 30])
    by_hours = performance.returns_of(NOON + minutes * MINUTE, equity, HOUR)
    assert by_hours.values == pytest.approx([-0.1, *[0.0] * (31 * 24 - 1)])


@given(
    steps=st.lists(st.integers(0, 40 * 60), min_size=1, max_size=50),
    begin=st.integers(0, 120),
    period_ms=st.sampled_from([HOUR, DAY]),
    seed=st.integers(0, 99),
)
def test_every_change_of_equity_is_in_one_return(steps: list[int], begin: int, period_ms: int, seed: int) -> None:
    times = NOON + (begin + 1 + np.cumsum(steps, dtype=np.int64)) * MINUTE
    equity = np.random.default_rng(seed).uniform(900, 1_100, len(times))
    found = performance.returns_of(times, equity, period_ms)
    if times[0] < times[-1]:
        assert np.prod(1 + found.values) == pytest.approx(equity[-1] / equity[0])


# --- the account ------------------------------------------------------------------------------------------------------


def test_a_position_that_is_open_is_exposure_to_the_end() -> None:
    assert performance.exposure(at(1), np.array([5]), int(at(0)[0]), int(at(3)[0])) == 2 / 3
    assert performance.exposure(at(1, 2), np.array([5, -5]), int(at(0)[0]), int(at(4)[0])) == 1 / 4
    assert performance.exposure(at(1, 2), np.array([-5, 5]), int(at(0)[0]), int(at(4)[0])) == 1 / 4
    assert performance.exposure(at(), np.array([], dtype=np.int64), 0, 10) == 0
    assert math.isnan(performance.exposure(at(), np.array([], dtype=np.int64), 10, 10))


def test_drawdown_rates_and_factors() -> None:
    assert performance.max_drawdown(np.array([1_000.0, 1_010, 990, 1_005])) == (20, 20 / 1_010)
    assert performance.max_drawdown(np.empty(0)) == (0, 0)
    nets = np.array([10.0, -5, 0, 20])
    assert performance.win_rate(nets) == 1 / 2
    assert performance.profit_factor(nets) == 6
    assert math.isnan(performance.win_rate(np.empty(0)))
    assert math.isnan(performance.profit_factor(np.array([1.0])))


# --- luck -------------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_paper_on_the_deflated_sharpe_ratio() -> None:
    """Bailey and Lopez de Prado 2014, numerical example: 5 years of daily returns, annual SR 2.5, V 1/2, N 100."""
    days = 250
    luckiest = performance.luckiest_sharpe(100, 0.5 / days)
    assert luckiest == pytest.approx(0.1132, abs=5e-5)
    deflated = performance.probabilistic_sharpe(2.5 / math.sqrt(days), luckiest, 1_250, skew=-3, kurtosis=10)
    assert deflated == pytest.approx(0.9004, abs=5e-5)
    # The paper goes on: after 46 trials instead of 88 it would have passed 95 %, with normal returns after 88.
    at_46 = performance.luckiest_sharpe(46, 0.5 / days)
    assert performance.probabilistic_sharpe(2.5 / math.sqrt(days), at_46, 1_250, -3, 10) == pytest.approx(
        0.9505, abs=5e-5
    )
    at_88 = performance.luckiest_sharpe(88, 0.5 / days)
    assert performance.probabilistic_sharpe(2.5 / math.sqrt(days), at_88, 1_250, 0, 3) == pytest.approx(
        0.9505, abs=5e-5
    )


def test_one_trial_is_held_against_zero() -> None:
    assert performance.luckiest_sharpe(1, 1.0) == 0
    assert performance.probabilistic_sharpe(0.0, 0.0, 100, 0.0, 3.0) == 0.5


@given(trials=st.integers(2, 10_000), variance=st.floats(1e-6, 1))
def test_the_luckiest_of_more_trials_is_luckier(trials: int, variance: float) -> None:
    assert performance.luckiest_sharpe(2 * trials, variance) > performance.luckiest_sharpe(trials, variance) > 0


def test_the_luckiest_of_worthless_trials_is_about_as_lucky_as_said() -> None:
    chance = np.random.default_rng(7)
    best = chance.standard_normal((4_000, 100)).max(axis=1).mean()
    assert performance.luckiest_sharpe(100, 1.0) == pytest.approx(best, rel=0.02)


def test_moments_of_a_lopsided_series() -> None:
    assert performance.moments(np.array([0.0, 0, 0, 4])) == pytest.approx((1.1547, 7 / 3), abs=1e-4)
    assert performance.moments(np.zeros(5)) == (0, 3)


def hourly(mean: float, count: int = 400, seed: int = 3) -> performance.Returns:
    return performance.Returns(0.01 * (mean + np.random.default_rng(seed).standard_normal(count)), HOUR)


def test_the_assessment_in_words() -> None:
    good, none = hourly(0.3), hourly(-0.3)
    assert performance.judge(good, 50).text.startswith("Evidence: the one setting has a Sharpe ratio of")
    assert performance.judge(none, 50).text.startswith("No evidence: the one setting has a Sharpe ratio of -")
    few = performance.judge(good, 3)
    assert few.text == "No evidence: the one setting rests on 400 returns and 3 round trips; 20 of each are the least."
    assert not few.is_evidence
    still = performance.judge(performance.Returns(np.zeros(30), HOUR), 30, np.full(5, math.nan))
    assert still.text == "No evidence: the best of 5 settings has no Sharpe ratio, equity never moved."


def test_the_same_result_is_less_evidence_the_more_was_tried() -> None:
    good = hourly(0.12)
    trials = 0.1 * np.random.default_rng(1).standard_normal(1_000)
    alone, best_of_many = performance.judge(good, 50), performance.judge(good, 50, trials)
    assert alone.is_evidence
    assert not best_of_many.is_evidence
    assert best_of_many.sharpe == alone.sharpe
    assert best_of_many.trials == 1_000
    assert "the luckiest of as many worthless ones would show" in best_of_many.text
