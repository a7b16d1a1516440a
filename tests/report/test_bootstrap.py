"""The stationary bootstrap against other implementations, formulas and its own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.model import Floats
from voltrade.report import bootstrap
from voltrade.report.bootstrap import (
    NOTHING_TRIED,
    RESAMPLES,
    Luckiest,
    autocorrelations,
    block_length,
    intervals_of,
    joined,
    luck_of,
    of_some,
    on_a_part,
    resamples,
)


def depending(autocorrelation: float, count: int, chance: np.random.Generator) -> Floats:
    values = chance.standard_normal(count)
    for at in range(1, count):
        values[at] += autocorrelation * values[at - 1]
    return values


BY_ARCH = {
    (-0.3, 50): 4.33145930920667, (-0.3, 365): 3.5247035588485467, (-0.3, 1000): 7.0923838053009565,
    (0.0, 50): 0.9178180427269738, (0.0, 365): 1.3384145285900284, (0.0, 1000): 1.4171835098144878,
    (0.3, 50): 1.9204813037375272, (0.3, 365): 4.744883336496943, (0.3, 1000): 7.180447855535795,
    (0.6, 50): 3.639387463775528, (0.6, 365): 7.1709735827380605, (0.6, 1000): 17.56023020739625,
}  # fmt: skip
"""`arch.bootstrap.optimal_block_length(...)["stationary"]` of arch 8.0.0 for the same series."""


def test_the_block_length_is_that_of_arch() -> None:
    chance = np.random.default_rng(5)
    for (autocorrelation, count), expected in BY_ARCH.items():
        assert block_length(depending(autocorrelation, count, chance)) == pytest.approx(expected, rel=1e-9)


def test_series_without_variation_have_blocks_of_a_day() -> None:
    assert block_length(np.zeros(30)) == 1


@pytest.mark.parametrize(("length", "follow"), [(1.0, 0.0), (4.0, 0.75), (10.0, 0.9)])
def test_a_day_is_followed_by_the_next_one_within_a_block(length: float, follow: float) -> None:
    rows = np.concatenate(list(resamples(40, length)))
    assert rows.shape == (bootstrap.RESAMPLES, 40)
    assert np.bincount(rows.ravel(), minlength=40) == pytest.approx(np.full(40, len(rows)), rel=0.15), "each as often"
    is_next = rows[:, 1:] == (rows[:, :-1] + 1) % 40
    assert is_next.mean() == pytest.approx(follow + (1 - follow) / 40, abs=0.01)
    assert (np.concatenate(list(resamples(40, length))) == rows).all(), "the same again"


def test_the_luckiest_of_independent_trials_is_the_highest_of_as_many_normal_numbers() -> None:
    values = np.random.default_rng(1).standard_normal((500, 100))
    found = luck_of(values).luckiest
    highest = np.random.default_rng(2).standard_normal((20_000, 100)).max(axis=1)
    for part in (0.1, 0.5, 0.9, 0.95):
        assert np.quantile(found.maxima, part) == pytest.approx(np.quantile(highest, part), abs=0.2)
    assert found.independent == pytest.approx(100, rel=0.3)
    assert found.chance(float(np.quantile(highest, 0.95))) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize(("correlation", "fewest", "most"), [(1.0, 1, 1.2), (0.9, 2, 25), (0.0, 60, 100)])
def test_trials_that_depend_on_each_other_count_for_less(correlation: float, fewest: float, most: float) -> None:
    chance = np.random.default_rng(4)
    common, own = chance.standard_normal((200, 1)), chance.standard_normal((200, 100))
    values = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    assert fewest <= luck_of(values).luckiest.independent <= most


def test_a_statistic_is_the_mean_in_standard_errors_also_where_days_depend_on_each_other() -> None:
    for autocorrelation in (0.0, 0.5):
        statistics = []
        for seed in range(120):
            values = depending(autocorrelation, 120, np.random.default_rng(seed))
            statistics.append(luck_of(values[:, None]).statistics[0])
        assert np.std(statistics) == pytest.approx(1.0, abs=0.2)
        assert np.mean(statistics) == pytest.approx(0.0, abs=0.25)


def test_the_unit_turns_a_statistic_into_a_sharpe_ratio() -> None:
    values = depending(0.3, 2_000, np.random.default_rng(8))[:, None] + 0.1
    found, sharpe = luck_of(values), float(values.mean() / values.std(ddof=1))
    assert found.statistics[0] * found.unit[0] == pytest.approx(sharpe, rel=0.02)


def test_a_statistic_by_hand_knows_that_the_dependence_is_itself_unsure() -> None:
    values = np.array([0.0, 1.0, 1.0, 3.0, -1.0, -2.0, 2.0, 2.0, -1.0, 0.0])
    assert autocorrelations(values[:, None]) == pytest.approx(0.0), "it scatters by chance"
    # Of the last nine: mean 5 / 9, variance (25 - 25 / 9) / 8 = 25 / 9; of all ten: variance 5 / 2.
    found = luck_of(values[:, None])
    assert found.statistics[0] == pytest.approx(3 * (5 / 9) / (5 / 3) / math.sqrt(10 / 9))
    assert found.unit[0] == pytest.approx((5 / 3) / math.sqrt(5 / 2) * math.sqrt(10 / 9) / 3)


def test_a_resample_without_variation_is_measured_by_a_part_of_the_whole_variance() -> None:
    values = np.zeros((12, 1))
    values[5] = -1.0
    # Without the loss: mean 0 against -1 / 12, variance 0 against 1 / 12, a tenth of which is left; no other is higher.
    assert bootstrap._luckiest_of(values).maxima.max() == pytest.approx(
        math.sqrt(12) * (1 / 12) / math.sqrt(0.1 / 12), rel=1e-6
    )


def test_trials_without_variation_have_no_statistic() -> None:
    values = np.random.default_rng(1).standard_normal((50, 4))
    values[:, 1], values[:, 2], values[3, 3] = 0.0, 0.1, math.nan
    found = luck_of(values)
    assert np.isfinite(found.statistics).tolist() == [True, False, False, False]
    assert (found.luckiest.maxima == luck_of(values[:, :1]).luckiest.maxima).all()
    nothing = luck_of(np.zeros((50, 2))).luckiest
    assert nothing.independent == 0
    assert (joined([nothing, found.luckiest]).maxima == found.luckiest.maxima).all()
    assert not np.isfinite(luck_of(values[:5]).statistics).any(), "too few periods to resample"


def test_trials_that_scatter_by_chance_are_taken_to_depend_alike() -> None:
    values = np.random.default_rng(3).standard_normal((60, 300))
    assert np.ptp(autocorrelations(values)) < 0.15
    chance = np.random.default_rng(6)
    differing = np.column_stack([depending(size, 2_000, chance) for size in (-0.3, 0.0, 0.6)])
    assert autocorrelations(differing) == pytest.approx([-0.3, 0.0, 0.6], abs=0.06)
    alone = [float(autocorrelations(depending(size, 500, chance)[:, None])[0]) for size in (0.5, -0.03)]
    assert alone[0] == pytest.approx(0.5, abs=0.1)
    assert -0.03 < alone[1] <= 0.1, "a single trial that seems to revert is not taken at its word"


def test_searches_join_to_what_one_search_of_all_would_be() -> None:
    values = np.random.default_rng(9).standard_normal((200, 80))
    whole, parts = luck_of(values).luckiest, [luck_of(part).luckiest for part in (values[:, :60], values[:, 60:])]
    both = joined(parts)
    assert float(np.mean(np.abs(both.maxima - whole.maxima))) < 0.15
    assert np.corrcoef(both.maxima, whole.maxima)[0, 1] > 0.8
    assert both.independent == pytest.approx(whole.independent, rel=0.35)
    again = joined([whole, whole, parts[0]])
    assert again.independent == pytest.approx(whole.independent, rel=0.25), "the same trials count once"
    far = Luckiest(whole.maxima + 10, 200.0)
    assert joined([whole, far]).independent == 200


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_best_of_a_part_is_over_the_whole_as_lucky_as_said(share: float) -> None:
    """Of 50 worthless settings, the best of a part of 200 days, and what it shows over all of them."""
    values = np.random.default_rng(12).standard_normal((60, 200, 50))
    part = round(200 * share)
    best = [int(np.argmax(each[:part].sum(axis=0))) if part else 0 for each in values]
    shows = [float(each[:, at].sum() / math.sqrt(200)) for each, at in zip(values, best, strict=True)]
    searches = [luck_of(values[0, : part or 200]).luckiest, luck_of(values[0, :, :1]).luckiest]
    found = on_a_part(*searches, share)
    assert float(found.maxima.mean()) == pytest.approx(np.mean(shows), abs=0.4)
    assert found.independent == pytest.approx(searches[0].independent ** share)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    chance, inside = np.random.default_rng(11), 0
    for _ in range(150):
        low, high = intervals_of(0.02 + 0.1 * chance.standard_normal(120), 1_000.0).sharpe
        inside += low <= 0.2 <= high
    assert 0.8 <= inside / 150 <= 0.97


def test_intervals_by_hand() -> None:
    falling = intervals_of(np.full(20, -0.1), 1_000.0)
    lost = 1_000 * 0.9**20 - 1_000
    assert falling.net == pytest.approx((lost, lost))
    assert falling.drawdown == pytest.approx((lost, lost))
    seen = intervals_of(np.full(20, -0.1), 1_000.0, fall=1.1 * lost)
    assert seen.drawdown == pytest.approx((1.1 * lost, 1.1 * lost)), "falls within periods deepen all alike"
    rising = intervals_of(np.tile([0.1, 0.2], 20), 1_000.0)
    assert rising.drawdown == (0, 0)
    assert intervals_of(np.tile([0.1, 0.2], 20), 1_000.0, fall=-30.0).drawdown == (-30, 0), "it was within a period"
    assert 1_000 * (1.1**40 - 1) < rising.net[0] < rising.net[1] < 1_000 * (1.2**40 - 1)


@given(seed=st.integers(0, 99), fall=st.floats(-900, 0))
@settings(max_examples=20, deadline=None)
def test_the_interval_of_the_fall_holds_the_one_that_was_seen(seed: int, fall: float) -> None:
    low, high = intervals_of(0.01 * np.random.default_rng(seed).standard_normal(31), 1_000.0, fall).drawdown
    assert low <= fall
    assert low <= high <= 0


def test_the_luckiest_of_a_part_of_a_search_is_as_of_so_many() -> None:
    """Maxima of 10 out of 40 normal values, against those of 10."""
    draws = np.random.default_rng(3).standard_normal((RESAMPLES, 40))
    whole, of_ten = Luckiest(draws.max(axis=1), 40.0), draws[:, :10].max(axis=1)
    part = of_some(whole, 0.25)
    assert np.quantile(part.maxima, [0.3, 0.5, 0.9]) == pytest.approx(np.quantile(of_ten, [0.3, 0.5, 0.9]), abs=0.12)
    assert part.independent == 10
    assert np.argsort(part.maxima).tolist() == np.argsort(whole.maxima).tolist(), "resample by resample"
    assert of_some(whole, 1.0) is whole
    assert of_some(NOTHING_TRIED, 0.5) is NOTHING_TRIED
