"""The probability of backtest overfitting, by hand and by trials that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voltrade.report.overfitting import probability_of_overfitting


def test_the_best_that_stays_the_best_is_not_overfit() -> None:
    values = np.random.default_rng(1).standard_normal((120, 10))
    values[:, 3] += 2.0
    found = probability_of_overfitting(values)
    assert (found.probability, found.blocks) == (0, 12)
    assert "overfitting: 0% (how often the best of half of 12 blocks of time was below" in found.text


def test_the_best_of_one_half_that_is_the_worst_of_the_other_is_overfit() -> None:
    """Two trials, of which each gains in one half of the blocks what it loses in the other."""
    noise = 0.01 * np.random.default_rng(1).standard_normal((60, 2))
    half = np.repeat([1.0, 1, 1, -1, -1, -1], 10)
    assert probability_of_overfitting(noise + np.column_stack([half, -half])).probability == 1


def test_by_hand_for_six_blocks() -> None:
    """Trial A gains 3 in the first block and loses 1 in each of the others but one; B is 0 on average everywhere.

    A is the best of the ten trainings with the first block, and then loses in the test: overfit. B is the best of the
    ten without it, and A then gains: overfit too.
    """
    wiggle = np.tile([0.1, -0.1], 30)
    first = np.repeat([3.0, -1, -1, -1, -1, -1], 10)
    assert probability_of_overfitting(np.column_stack([first + wiggle, wiggle])).probability == 1
    even = np.repeat([3.0, -1, -1, 3, 3, 3], 10)
    found = probability_of_overfitting(np.column_stack([even + wiggle, wiggle]))
    assert found.blocks == 6
    # Any three of these blocks have at least one 3, which makes up for both losses: A is the best of every half.
    assert found.probability == 0


def test_worthless_trials_are_overfit_half_of_the_time() -> None:
    chance = np.random.default_rng(2)
    found = [probability_of_overfitting(chance.standard_normal((240, 20))).probability for _ in range(30)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("days", "blocks"), [(59, 0), (60, 6), (79, 6), (80, 8), (119, 10), (500, 12)])
def test_a_block_has_at_least_ten_returns(days: int, blocks: int) -> None:
    found = probability_of_overfitting(np.random.default_rng(1).standard_normal((days, 3)))
    assert found.blocks == blocks
    assert math.isnan(found.probability) == (blocks == 0)
    assert ("unknown; 60 returns and two settings are the least" in found.text) == (blocks == 0)


def test_one_trial_that_varies_is_not_enough() -> None:
    values = np.zeros((100, 3))
    values[:, 0] = np.random.default_rng(1).standard_normal(100)
    assert probability_of_overfitting(values).blocks == 0
