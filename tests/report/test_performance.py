"""Figures on calendar time by hand arithmetic."""

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
    assert (found.equity, found.days) == (1_000, 40 * hours / 24)


def test_returns_that_are_all_the_same_have_no_sharpe_ratio() -> None:
    growing = performance.returns_of(at(*range(31), step_ms=DAY) - 12 * HOUR, 1_000 * 1.001 ** np.arange(31))
    assert growing.values == pytest.approx([0.001] * 30)
    for returns in (growing, performance.Returns(np.full(30, 0.1), DAY)):
        assert math.isnan(returns.sharpe)
        assert returns.basis == "all its returns are the same"


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
