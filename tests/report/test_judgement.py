"""What is evidence and what is not, by the numbers of the papers that define it, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import luck_parts
from benchmarks.luck import GOOD, SKEWED, WORTHLESS, Case, rates
from benchmarks.luck_parts import WAYS, Shown
from voltrade.model import DAY_MS, HOUR_MS, Floats
from voltrade.report.bootstrap import Luckiest, luck_of
from voltrade.report.judgement import (
    UNKNOWN_TRIALS,
    Judgement,
    added_losses,
    columns_of,
    judge,
    luckiest_sharpe,
    moments,
    part_left,
    probabilistic_sharpe,
)
from voltrade.report.performance import Returns

# --- luck -------------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_paper_on_the_deflated_sharpe_ratio() -> None:
    """Bailey and Lopez de Prado 2014, numerical example: 5 years of daily returns, annual SR 2.5, V 1/2, N 100."""
    days = 250
    luckiest = luckiest_sharpe(100, 0.5 / days)
    assert luckiest == pytest.approx(0.1132, abs=5e-5)
    deflated = probabilistic_sharpe(2.5 / math.sqrt(days), luckiest, 1_250, skew=-3, kurtosis=10)
    assert deflated == pytest.approx(0.9004, abs=5e-5)
    # The paper goes on: after 46 trials instead of 88 it would have passed 95 %, with normal returns after 88.
    at_46 = luckiest_sharpe(46, 0.5 / days)
    assert probabilistic_sharpe(2.5 / math.sqrt(days), at_46, 1_250, -3, 10) == pytest.approx(0.9505, abs=5e-5)
    at_88 = luckiest_sharpe(88, 0.5 / days)
    assert probabilistic_sharpe(2.5 / math.sqrt(days), at_88, 1_250, 0, 3) == pytest.approx(0.9505, abs=5e-5)


def test_one_trial_is_held_against_zero() -> None:
    assert luckiest_sharpe(1, 1.0) == 0
    assert probabilistic_sharpe(0.0, 0.0, 100, 0.0, 3.0) == 0.5


@given(trials=st.integers(2, 10_000), variance=st.floats(1e-6, 1))
def test_the_luckiest_of_more_trials_is_luckier(trials: int, variance: float) -> None:
    assert luckiest_sharpe(2 * trials, variance) > luckiest_sharpe(trials, variance) > 0


def test_the_luckiest_of_worthless_trials_is_about_as_lucky_as_said() -> None:
    chance = np.random.default_rng(7)
    best = chance.standard_normal((4_000, 100)).max(axis=1).mean()
    assert luckiest_sharpe(100, 1.0) == pytest.approx(best, rel=0.02)


def test_moments_of_a_lopsided_series() -> None:
    assert moments(np.array([0.0, 0, 0, 4])) == pytest.approx((1.1547, 7 / 3), abs=1e-4)
    assert moments(np.zeros(5)) == (0, 3)


# --- judgement --------------------------------------------------------------------------------------------------------


def daily(mean: float, days: int = 100, seed: int = 3, period_ms: int = DAY_MS) -> Returns:
    return Returns(0.01 * (mean + np.random.default_rng(seed).standard_normal(days)), period_ms, 10_000.0)


def worthless(trials: int, days: int = 100) -> list[Returns]:
    return [daily(0.0, days, 100 + seed) for seed in range(trials)]


def test_the_assessment_in_words() -> None:
    good = judge([daily(0.4)], 50)
    assert good.text.startswith("Evidence: the one setting has a Sharpe ratio of 6.")
    assert "A worthless one shows as much in 0.1% of cases. Deflated Sharpe ratio 99.9%." in good.text
    assert judge([daily(-0.3)], 50).text.startswith(
        "No evidence, which would be 5% or less: the one setting has a Sharpe ratio of -"
    )
    assert judge([daily(0.4)], 3).text.startswith("No evidence: the one setting has a Sharpe ratio of")
    assert judge([daily(0.4)], 3).text.endswith("from 3 round trips; 20 are the least.")
    still = judge([Returns(np.zeros(40), DAY_MS)] * 5, 30)
    assert still.text == "No evidence: the best of 5 settings has no Sharpe ratio, equity never moved."
    same = judge([Returns(np.full(30, 0.1), DAY_MS)], 30)
    assert same.text == "No evidence: the one setting has no Sharpe ratio, all its returns are the same."
    assert not still.is_evidence
    assert not same.is_evidence


@pytest.mark.parametrize(("returns", "days"), [(daily(2.0, 29), "29"), (daily(2.0, 29 * 24, period_ms=HOUR_MS), "29")])
def test_under_thirty_days_nothing_is_said(returns: Returns, days: str) -> None:
    found = judge([returns], 500)
    assert found.text.startswith("Too short to say: the one setting has a Sharpe ratio of ")
    assert found.text.endswith(f"over {days} days; 30 are the least.")
    assert not found.is_evidence
    assert found.intervals is None
    assert judge([daily(0.5, 30, seed=8)], 500).is_evidence
    assert escape(UNKNOWN_TRIALS) in judge([daily(0.5, 30, seed=8)], 500)._repr_html_()
    assert escape(UNKNOWN_TRIALS) not in found._repr_html_()
    assert judge([daily(2.0, 30 * 24, period_ms=HOUR_MS)], 500).is_evidence


def test_the_same_result_is_less_evidence_the_more_was_tried() -> None:
    good = daily(0.35)
    alone, best_of_many = judge([good], 50), judge([good, *worthless(200)], 50)
    assert alone.is_evidence
    assert not best_of_many.is_evidence
    assert best_of_many.sharpe == alone.sharpe
    assert best_of_many.trials == 201
    assert best_of_many.chance > 5 * alone.chance
    assert "The luckiest of as many worthless ones would show" in best_of_many.text
    assert f"as lucky as {best_of_many.independent:,.0f} independent ones" in best_of_many.text
    assert alone.luckiest == 0 < best_of_many.luckiest


def test_trials_of_other_searches_count_as_if_they_were_of_this_one() -> None:
    good, others = daily(0.35), worthless(200)
    all_at_once = judge([good, *others], 50)
    luck = luck_of(columns_of(others, others[0])).luckiest
    apart = judge([good], 50, others=[luck], in_all=201)
    assert apart.trials == 201
    assert not apart.is_evidence
    assert min(apart.chance, all_at_once.chance) > 10 * judge([good], 50).chance
    assert apart.independent == pytest.approx(all_at_once.independent, rel=0.2)
    assert "the one setting, 201 with the others tried on this market, has" in apart.text
    assert math.isnan(apart.deflated), "how much the others differ isn't known"
    assert "Deflated" not in apart.text


def test_a_trial_that_never_traded_counts_as_a_trial_but_is_no_luckier() -> None:
    trials = [daily(0.2), *worthless(9)]
    idle = [*trials, *[Returns(np.zeros(100), DAY_MS)] * 90]
    assert judge(idle, 50).chance == judge(trials, 50).chance
    assert (judge(idle, 50).trials, judge(idle, 50).independent) == (100, judge(trials, 50).independent)


def test_a_trial_that_ended_sooner_has_no_returns_from_then_on() -> None:
    short, other = daily(0.1, 40), Returns(np.ones(50), HOUR_MS)
    columns = columns_of([daily(0.0), short, other], daily(0.0))
    assert columns.shape == (100, 3)
    assert columns[:40, 1].tolist() == short.values.tolist()
    assert not columns[40:, 1].any()
    assert np.isnan(columns[:, 2]).all()


def test_the_intervals_of_the_judged_trial_are_told() -> None:
    found = judge([daily(0.4)], 50)
    assert found.intervals is not None
    net, sharpe, drawdown = found.intervals
    assert net[0] < 10_000 * (np.prod(1 + daily(0.4).values) - 1) < net[1]
    assert sharpe[0] < found.sharpe < sharpe[1]
    assert drawdown[0] < drawdown[1] <= 0
    assert f"net {net[0]:+,.2f} to {net[1]:+,.2f}, Sharpe ratio {sharpe[0]:.2f} to" in found.intervals_text
    assert found.text in found._repr_html_().replace("&#x27;", "'")
    assert "With a probability of 90%" in found._repr_html_()


@pytest.mark.parametrize(("independent", "losses"), [(0.0, 1.0), (1.0, 1.0), (10.0, 2.0), (1_000.0, 4.0)])
def test_more_trials_want_more_losses(independent: float, losses: float) -> None:
    assert added_losses(independent) == losses


def test_what_is_left_with_more_losses_is_the_t_statistic_of_returns_with_them() -> None:
    values = daily(0.3).values
    with_two = np.append(values, [-0.02, -0.02])

    def statistic(of: Floats) -> float:
        return float(math.sqrt(len(of)) * of.mean() / of.std(ddof=1))

    assert part_left(values, 2, 0.02) == pytest.approx(statistic(with_two) / statistic(values))
    assert part_left(values, 0, 0.02) == pytest.approx(1)
    assert part_left(values, 1.5, 0.02) == pytest.approx(
        0.5 * (part_left(values, 1, 0.02) + part_left(values, 2, 0.02)), rel=0.01
    )
    assert part_left(values, 100, 0.02) < 0
    assert math.isnan(part_left(np.zeros(40), 1, 0.02))


def test_a_rule_whose_losses_were_hardly_seen_is_not_called_evidence() -> None:
    """A day in 50 would lose what all others gain, and none of 40 was such a day; later enough of them were seen."""
    gains = 0.001 + 0.0003 * np.random.default_rng(1).standard_normal(40)
    unseen = judge([Returns(gains, DAY_MS, 10_000.0)], 40, at_risk=490.0)
    assert unseen.chance < 0.01
    assert not unseen.is_evidence
    assert unseen.text.startswith("Too few losses to say: the one setting has a Sharpe ratio of ")
    assert ", and with 1.0 more losses at its stop, of 490.00 each, luck would show as much in " in unseen.text
    assert judge([Returns(gains, DAY_MS, 10_000.0)], 40, at_risk=5.0).is_evidence, "its stop is near"
    assert judge([Returns(gains, DAY_MS, 10_000.0)], 40).is_evidence, "nothing is said of its stop"
    often = judge([Returns(np.tile(np.append(gains, -0.005), 5), DAY_MS, 10_000.0)], 40, at_risk=50.0)
    assert often.is_evidence
    poor = judge([Returns(np.append(gains, -0.06), DAY_MS, 10_000.0)], 40, at_risk=600.0)
    assert poor.text.startswith("No evidence, which would be 5% or less: "), "more losses would not make it better"


def test_the_added_losses_are_held_against_the_luckiest_of_all_trials() -> None:
    good, others = daily(0.45), worthless(200)
    found = judge([good, *others], 50, at_risk=50.0)
    assert found.added_losses == pytest.approx(1 + math.log10(found.independent))
    assert found.chance <= found.chance_with_losses
    assert judge([good, *others], 50, at_risk=1_000.0).chance_with_losses > found.chance_with_losses


def test_evidence_needs_all_of_its_conditions() -> None:
    found: Judgement = judge([daily(0.4)], 50)
    assert found.is_evidence
    lacking: list[dict[str, float]] = [
        {"days": 29.9},
        {"round_trips": 19},
        {"sharpe": -1.0},
        {"chance_with_losses": 0.0501},
    ]
    for change in (*lacking, {"chance": 0.0501}, {"chance": math.nan}):
        assert not replace(found, **change).is_evidence  # type: ignore[arg-type]


# --- how often it is right --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        Case(40, 1),
        Case(60, 20, 0.9),
        Case(60, 20, 0.0, 0.5),
        Case(31, 27, losing=0.05),
        Case(60, 1, losing=0.02, noise=2.0),
    ],
)
def test_worthless_settings_are_seldom_called_evidence(case: Case) -> None:
    """A short check of the table: at a rate of 5 %, more than 9 of 60 come about once in a thousand."""
    found = rates(case, 60)
    assert found.evidence <= 0.15
    assert found.unweakened >= 0.1 or not case.losing, "it is the added losses that tell it"


@pytest.mark.parametrize("way", WAYS[:3])
def test_a_worthless_grid_on_thirds_of_a_tape_is_seldom_called_evidence(way: Callable[[Floats], Shown]) -> None:
    assert luck_parts.rates(way, Case(90, 20), 60).evidence <= 0.15


def test_a_good_setting_among_many_is_found() -> None:
    assert rates(Case(180, 20, edge=8.0), 10).evidence > 0.6


SEARCHES = 400


@pytest.mark.campaign
@pytest.mark.parametrize("case", WORTHLESS, ids=str)
def test_worthless_settings_are_evidence_in_at_most_8_percent(case: Case) -> None:
    """Within two standard errors of so many searches; `docs/luck.md` has the rates themselves."""
    rated = rates(case, SEARCHES, seed=2)
    found = rated.unweakened
    assert rated.evidence <= found <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / SEARCHES)
    if not case.correlation and not case.autocorrelation:
        assert found >= 0.02 - 2 * math.sqrt(0.02 * 0.98 / SEARCHES)


@pytest.mark.campaign
@pytest.mark.parametrize("case", SKEWED, ids=str)
def test_settings_that_seldom_lose_much_are_evidence_in_at_most_8_percent(case: Case) -> None:
    assert rates(case, SEARCHES, seed=2).evidence <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / SEARCHES)


@pytest.mark.campaign
@pytest.mark.parametrize("case", luck_parts.WORTHLESS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_worthless_settings_on_thirds_are_evidence_in_at_most_8_percent(
    way: Callable[[Floats], Shown], case: Case
) -> None:
    assert luck_parts.rates(way, case, SEARCHES, seed=2).evidence <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / SEARCHES)


@pytest.mark.campaign
@pytest.mark.parametrize("case", GOOD, ids=str)
def test_a_good_setting_is_found_at_least_as_often_as_by_the_deflated_ratio_alone(case: Case) -> None:
    found = rates(case, SEARCHES // 2, seed=2)
    assert found.unweakened >= found.deflated - 0.04
    assert found.evidence >= found.unweakened - 0.12


def test_the_luckiest_of_nothing_is_never_lucky() -> None:
    assert math.isnan(Luckiest(np.zeros(9), 1.0).chance(math.nan))
