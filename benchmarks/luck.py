"""How often worthless settings are called evidence, and how often a good one is found, by what trials are like.

Prints the table of `docs/luck.md`. Returns are drawn, by Student's t with five degrees of freedom: daily, with a common
part for the correlation of trials, and depending on those of the day before. Some gain a little on most days and lose
much on a few, as a near target and a wide stop do. In the last lines one trial has an edge.
"""

from __future__ import annotations

import argparse
import itertools
import math
from typing import NamedTuple

import numpy as np

from voltrade.model import DAY_MS, Floats
from voltrade.report.judgement import EVIDENCE, judge
from voltrade.report.performance import YEAR_DAYS, Returns

GAIN = 0.001
"""Return of a usual day of a rule that seldom loses much."""

BURN_IN, FREEDOM, EQUITY = 50, 5, 10_000.0

STOP = 0.005
"""Loss at a stop, as a part of the equity: the default `risk_fraction`, half of a usual day's change here."""


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
    noise: float = 0.3
    """Deviation of the usual days around such losses, as a multiple of their gain."""

    @property
    def stop(self) -> float:
        """Loss at a stop, as a part of the equity."""
        return GAIN * (1 / self.losing - 1) if self.losing else STOP


class Rates(NamedTuple):
    """Parts of the searches in which the best trial was evidence, by our judgement and by less than that."""

    evidence: float
    unweakened: float
    """Without the losses that evidence has to survive."""
    deflated: float


WORTHLESS = [
    *(Case(days, trials) for days in (30, 60, 180, 365) for trials in (1, 10, 50, 200)),
    *(Case(90, trials, correlation) for trials in (10, 200) for correlation in (0.5, 0.9, 0.99)),
    *(Case(90, trials, 0.0, after) for trials in (1, 10, 200) for after in (-0.3, 0.2, 0.5)),
    *(Case(90, 200, correlation, after) for correlation in (0.5, 0.9, 0.99) for after in (-0.3, 0.5)),
]
SKEWED = [
    Case(days, trials, losing=part, noise=noise)
    for noise in (0.3, 2.0)
    for days in (31, 60, 180, 360)
    for trials in (1, 27)
    for part in (0.02, 0.05, 0.1)
]
GOOD = [Case(days, trials, 0.0, 0.0, edge) for days in (90, 365) for edge in (4.0, 6.0) for trials in (1, 20, 200)]

PARTS = {"worthless": WORTHLESS, "skewed": SKEWED, "good": GOOD}


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
    """Draw returns of 0.1 % on most days, with noise, and on the others a loss that makes their mean 0."""
    shape = case.days, case.trials
    usual = np.where(chance.random(shape) < case.losing, 1 - 1 / case.losing, 1.0)
    return GAIN * (usual + case.noise * chance.standard_normal(shape))


def best_of(values: Floats) -> int:
    """Return the trial with the highest Sharpe ratio, which a sweep judges."""
    return int(np.argmax(values.mean(axis=0) / values.std(axis=0, ddof=1)))


def returns_of(values: Floats) -> list[Returns]:
    return [Returns(np.ascontiguousarray(column), DAY_MS, EQUITY) for column in values.T]


def rates(case: Case, searches: int, seed: int = 1) -> Rates:
    """Return how often the best is evidence; with an edge only where it is the good one."""
    chance, counts = np.random.default_rng([seed, case.days, case.trials]), np.zeros(3)
    for _ in range(searches):
        values = drawn(case, chance)
        best = best_of(values)
        found = judge(returns_of(values), 100, best, at_risk=case.stop * EQUITY)
        if not case.edge or best == 0:
            unlikely = found.sharpe > 0 and found.chance <= EVIDENCE
            counts += found.is_evidence, unlikely, found.sharpe > 0 and found.deflated >= 1 - EVIDENCE
    return Rates(*(counts / searches).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1_000)
    parser.add_argument("--part", choices=sorted(PARTS), help="a part of the table; all of it by default")
    given = parser.parse_args()
    print("| days | trials | correlation | autocorrelation | days with a large loss | Sharpe ratio of the good one |"
          " called evidence | without added losses | deflated ratio alone |\n|" + 9 * "--:|")  # fmt: skip
    for case in PARTS[given.part] if given.part else itertools.chain(*PARTS.values()):
        found = rates(case, given.searches)
        losing = f"{case.losing:.0%}, noise {case.noise:g}" if case.losing else "-"
        trials = f"{case.days} | {case.trials} | {case.correlation:g} | {case.autocorrelation:g}"
        rated = " | ".join(f"{rate:.1%}" for rate in found)
        print(f"| {trials} | {losing} | {case.edge or '-'} | {rated} |", flush=True)


if __name__ == "__main__":
    main()
