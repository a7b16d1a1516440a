"""How often worthless settings are called evidence that were searched on thirds of a tape, and how often a good one is.

Prints the second table of `docs/luck.md`: by the ledger of searches, and by what is shown alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.luck import EQUITY, STOP, Case, best_of, drawn, returns_of
from voltrade.model import DAY_MS, Floats
from voltrade.report.bootstrap import luck_of
from voltrade.report.judgement import judge
from voltrade.research.searches import Search, Searches, TradedTime


class Shown(NamedTuple):
    """What is shown of some searches as the best of one."""

    values: Floats
    """Returns of its trials: a row for each day."""
    first: int
    """Its first day."""
    setting: int
    """Number of its first setting."""
    others: list[Search]

    @property
    def sharpe(self) -> float:
        best = self.values[:, best_of(self.values)]
        return float(best.mean() / best.std(ddof=1))

    def is_evidence(self, others: Sequence[Search]) -> bool:
        found = Searches(search(self.values, self.first, self.setting), others)
        returns, best = returns_of(self.values), best_of(self.values)
        risk = STOP * EQUITY
        return judge(returns, 100, best, others=found.luckiest, in_all=found.trials, at_risk=risk).is_evidence


def search(values: Floats, first: int, setting: int = 0) -> Search:
    """Return what the ledger has of a search from a day on."""
    names = tuple(str(setting + number) for number in range(values.shape[1]))
    traded = TradedTime("BTCUSDT", first * DAY_MS, (first + len(values)) * DAY_MS)
    return Search("settings", traded, "", names, 0.0, luck_of(values).luckiest, "")


def thirds(values: Floats) -> list[Shown]:
    """Search each third."""
    parts = np.split(values, 3)
    found = [search(part, number * len(part)) for number, part in enumerate(parts)]
    return [Shown(part, number * len(part), 0, found) for number, part in enumerate(parts)]


def best_third(values: Floats) -> Shown:
    """Search each third, and show the best of the three."""
    return max(thirds(values), key=lambda shown: shown.sharpe)


def first_third_on_the_whole(values: Floats) -> Shown:
    """Search the first third, and show the best of it on the whole."""
    third = thirds(values)[0].values
    best = best_of(third)
    return Shown(values[:, best : best + 1], 0, best, [search(third, 0)])


def all_thirds_on_the_whole(values: Floats) -> Shown:
    """Search each third, and show what is best over all of them on the whole."""
    parts = thirds(values)
    sharpes = [part.values.mean(axis=0) / part.values.std(axis=0) for part in parts]
    best = int(np.argmax(np.sum(sharpes, axis=0)))
    return Shown(values[:, best : best + 1], 0, best, parts[0].others)


def first_third_on_the_others(values: Floats) -> Shown:
    """Search the first third, and show the best of it on the two others, which are new to it."""
    first = thirds(values)[0]
    best, days = best_of(first.values), len(first.values)
    return Shown(values[days:, best : best + 1], days, best, [search(first.values, 0)])


WAYS: tuple[Callable[[Floats], Shown], ...] = (
    best_third, first_third_on_the_whole, all_thirds_on_the_whole, first_third_on_the_others
)  # fmt: skip

WORTHLESS = [Case(days, trials) for days in (90, 270) for trials in (1, 20)] + [Case(270, 200)]
GOOD = [Case(270, trials, edge=6.0) for trials in (20, 200)]


class Rates(NamedTuple):
    """Parts of the searches in which what was shown was evidence."""

    evidence: float
    alone: float
    """Had nothing else been tried."""


def rates(way: Callable[[Floats], Shown], case: Case, searches: int, seed: int = 1) -> Rates:
    """Return how often what is shown is evidence; with an edge only where it is the good one."""
    chance, counts = np.random.default_rng([seed, case.days, case.trials]), np.zeros(2)
    for _ in range(searches):
        shown = way(drawn(case, chance))
        if not case.edge or shown.setting + best_of(shown.values) == 0:
            counts += shown.is_evidence(shown.others), shown.is_evidence([])
    return Rates(*(counts / searches).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1_000)
    given = parser.parse_args()
    print("| what is shown | days | trials | Sharpe ratio of the good one | called evidence | by itself |")
    print("|:--|" + 5 * "--:|")
    for way in WAYS:
        for case in (*WORTHLESS, *GOOD):
            found, name = rates(way, case, given.searches), way.__name__.replace("_", " ")
            case_text = f"{name} | {case.days} | {case.trials} | {case.edge or '-'}"
            print(f"| {case_text} | {found.evidence:.1%} | {found.alone:.1%} |", flush=True)


if __name__ == "__main__":
    main()
