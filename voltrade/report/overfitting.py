"""The probability of backtest overfitting: how often the best of one half of the time is a poor one in the other."""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np

from voltrade.model import Floats
from voltrade.report.bootstrap import is_varying

MOST_BLOCKS, FEWEST_BLOCKS = 12, 6
"""Bounds of the number of blocks, which have 924 and 20 halves: fewer are too coarse, more only take time."""

RETURNS_A_BLOCK = 10
"""Least returns of a block: the Sharpe ratio of fewer is noise."""

AT_ONCE = 2_000_000
"""Sharpe ratios that are in memory together."""


class Overfitting(NamedTuple):
    """The probability of backtest overfitting."""

    probability: float
    """NaN where there are fewer than 60 returns or two trials."""
    blocks: int
    """0 where it is NaN."""
    warning: str = ""
    """What the result is marked with: that much of its tape is missing."""

    @property
    def text(self) -> str:
        """The probability as a sentence, with the warning."""
        return f"{self._sentence} {self.warning}." if self.warning else self._sentence

    @property
    def _sentence(self) -> str:
        least = FEWEST_BLOCKS * RETURNS_A_BLOCK
        if not self.blocks:
            return f"Probability of backtest overfitting: unknown; {least} returns and two settings are the least."
        return (
            f"Probability of backtest overfitting: {self.probability:.0%} (how often the best of half of "
            f"{self.blocks} blocks of time was below the median in the other half)."
        )


def probability_of_overfitting(returns: Floats) -> Overfitting:
    """Return the probability of backtest overfitting; `returns` has a row for each period, a column for each trial.

    By combinatorially symmetric cross-validation: Bailey, Borwein, Lopez de Prado and Zhu, "The Probability of Backtest
    Overfitting", Journal of Computational Finance 20(4), 2017. Time is cut into an even number of blocks; each choice
    of half of them is a training, the rest its test. Trials whose returns don't vary don't take part.
    """
    known = returns[:, is_varying(returns)]
    count, trials = known.shape
    blocks = min(MOST_BLOCKS, count // RETURNS_A_BLOCK // 2 * 2)
    if blocks < FEWEST_BLOCKS or trials < 2:
        return Overfitting(math.nan, 0)
    length = count // blocks
    cut = known[count - blocks * length :].reshape(blocks, length, trials)
    sums, squares = cut.sum(axis=1), (cut**2).sum(axis=1)
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    is_training = np.zeros((len(chosen), blocks))
    np.put_along_axis(is_training, chosen, 1, axis=1)
    poor = 0.0
    for part in np.array_split(is_training, -(-len(chosen) * trials // AT_ONCE)):
        trained, tested = (_sharpes(half @ sums, half @ squares) for half in (part, 1 - part))
        best = np.take_along_axis(tested, trained.argmax(axis=1)[:, None], axis=1)
        below, equal = (tested < best).sum(axis=1), (tested == best).sum(axis=1)
        poor += np.count_nonzero(below + (equal + 1) / 2 <= (trials + 1) / 2)
    return Overfitting(float(poor / len(chosen)), blocks)


def _sharpes(sums: Floats, squares: Floats) -> Floats:
    """Return what orders trials as their Sharpe ratios do: mean / root mean square, of equally many returns."""
    return sums / np.sqrt(np.where(squares > 0, squares, 1.0))
