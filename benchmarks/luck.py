"""How often worthless settings are called evidence, and how often a good one is found, by what trials are like.

Prints the table of `docs/luck.md`. Returns are drawn, by Student's t with five degrees of freedom: daily, with a common
part for the correlation of trials, and depending on those of the day before. Some gain a little on most days and lose
much on a few, as a near target and a wide stop do. In the lower half one trial has an edge.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np

from voltrade.model import DAY_MS, Floats
from voltrade.report.judgement import EVIDENCE, Judgement, judge
from voltrade.report.performance import YEAR_DAYS, Returns

BURN_IN, FREEDOM = 50, 5


class Case(NamedTuple):
    """What the trials of a search are like."""

    days: int
    trials: int
    correlation: float = 0.0
    autocorrelation: float = 0.0
    edge: float = 0.0
    """True Sharpe ratio, annualised, of the first trial; the others have none."""
    losing: float = 0.0
    """Probability of a day with a large loss, which takes what all others gain; 0 for symmetric returns."""


class Rates(NamedTuple):
    """Parts of the searches in which the best trial was evidence, by our judgement and by the deflated ratio alone."""

    evidence: float
    deflated: float


WORTHLESS = [
    *(Case(days, trials) for days in (30, 60, 180, 365) for trials in (1, 10, 50, 200)),
    *(Case(90, trials, correlation) for trials in (10, 200) for correlation in (0.5, 0.9, 0.99)),
    *(Case(90, trials, 0.0, after) for trials in (1, 10, 200) for after in (-0.3, 0.2, 0.5)),
    *(Case(90, 200, correlation, after) for correlation in (0.5, 0.9, 0.99) for after in (-0.3, 0.5)),
]
SKEWED = [
    Case(days, trials, losing=part) for days in (31, 60, 180, 360) for trials in (1, 27) for part in (0.02, 0.05, 0.1)
]
GOOD = [Case(days, trials, 0.0, 0.0, edge) for days in (90, 365) for edge in (4.0, 6.0) for trials in (1, 20, 200)]


def drawn(case: Case, chance: np.random.Generator) -> Floats:
    """Draw the returns of a search: a row for each day, a column for each trial."""
    shape = case.days + BURN_IN, case.trials
    if case.losing:
        return _skewed(case, chance)
    common, own = chance.standard_t(FREEDOM, (shape[0], 1)), chance.standard_t(FREEDOM, shape)
    news = math.sqrt(case.correlation) * common + math.sqrt(1 - case.correlation) * own
    for day in range(1, len(news)):
        news[day] += case.autocorrelation * news[day - 1]
    values = news[BURN_IN:] * math.sqrt((FREEDOM - 2) / FREEDOM * (1 - case.autocorrelation**2))
    values[:, 0] += case.edge / math.sqrt(YEAR_DAYS)
    return 0.01 * values


def _skewed(case: Case, chance: np.random.Generator) -> Floats:
    """Draw returns of 0.1 % on most days, with a little noise, and on the others a loss that makes their mean 0."""
    shape = case.days, case.trials
    usual = np.where(chance.random(shape) < case.losing, 1 - 1 / case.losing, 1.0)
    return 0.001 * (usual + 0.3 * chance.standard_normal(shape))


def judged(values: Floats) -> tuple[int, Judgement]:
    """Judge the trial with the highest Sharpe ratio, as a sweep does; return its number too."""
    best = int(np.argmax(values.mean(axis=0) / values.std(axis=0, ddof=1)))
    trials = [Returns(np.ascontiguousarray(column), DAY_MS, 10_000.0) for column in values.T]
    return best, judge(trials, 100, best)


def rates(case: Case, searches: int, seed: int = 1) -> Rates:
    """Return how often the best is evidence; with an edge only where it is the good one."""
    chance, ours, deflated = np.random.default_rng([seed, case.days, case.trials]), 0, 0
    for _ in range(searches):
        best, found = judged(drawn(case, chance))
        if not case.edge or best == 0:
            ours += found.is_evidence
            deflated += found.sharpe > 0 and found.deflated >= 1 - EVIDENCE
    return Rates(ours / searches, deflated / searches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1_000)
    given = parser.parse_args()
    print("| days | trials | correlation | autocorrelation | days with a large loss | Sharpe ratio of the good one |"
          " called evidence | deflated ratio alone |\n|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for case in (*WORTHLESS, *SKEWED, *GOOD):
        found = rates(case, given.searches)
        losing = f"{case.losing:.0%}" if case.losing else "-"
        trials = f"{case.days} | {case.trials} | {case.correlation:g} | {case.autocorrelation:g}"
        shown = f"{trials} | {losing} | {case.edge or '-'}"
        print(f"| {shown} | {found.evidence:.1%} | {found.deflated:.1%} |", flush=True)


if __name__ == "__main__":
    main()
