"""How much of a result may be luck: the best of some trials against the luckiest of as many worthless ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from statistics import NormalDist

import numpy as np

from voltrade.model import Floats
from voltrade.report.bootstrap import INTERVAL, Intervals, Luckiest, TrialLuck, intervals_of, joined, luck_of
from voltrade.report.performance import Returns

EULER_MASCHERONI = 0.5772156649015329

EVIDENCE = 0.05
"""Evidence is what luck alone does no more often than this."""

UNKNOWN_TRIALS = (
    "What was tried elsewhere isn't known: on another symbol or machine, with another VOLTRADE_STATE, or in backtests "
    "whose judgement nobody has read."
)
"""Shown with evidence, and with the searches that count."""

LEAST_DAYS, LEAST_TRIPS = 30, 20
"""With fewer days or round trips, there is no evidence."""

_NORMAL = NormalDist()


# --- deflated Sharpe ratio --------------------------------------------------------------------------------------------


def probabilistic_sharpe(sharpe: float, benchmark: float, count: int, skew: float, kurtosis: float) -> float:
    """Return the probability that the true Sharpe ratio is above a benchmark.

    PSR(b) = Phi[(SR - b) sqrt(T - 1) / sqrt(1 - g3 SR + (g4 - 1) / 4 SR^2)], with skew g3 and kurtosis g4 (3 for a
    normal distribution) of T returns; SR and b are not annualised. Bailey and Lopez de Prado, "The Sharpe Ratio
    Efficient Frontier", Journal of Risk 15(2), 2012.
    """
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe * sharpe
    if count < 2 or not variance > 0 or not math.isfinite(sharpe):
        return math.nan
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(count - 1) / math.sqrt(variance))


def luckiest_sharpe(trials: int, variance: float) -> float:
    """Return the expected highest Sharpe ratio of so many trials without skill.

    SR0 = sqrt(V) [(1 - g) Phi^-1(1 - 1/N) + g Phi^-1(1 - 1/(N e))], with the variance V of the trials' Sharpe ratios
    and the Euler-Mascheroni constant g; 0 for one trial. Bailey and Lopez de Prado, "The Deflated Sharpe Ratio",
    Journal of Portfolio Management 40(5), 2014.
    """
    if trials < 2 or not variance > 0:
        return 0.0
    usual = _NORMAL.inv_cdf(1 - 1 / trials)
    far = _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - EULER_MASCHERONI) * usual + EULER_MASCHERONI * far)


def moments(values: Floats) -> tuple[float, float]:
    """Return skew and kurtosis (3 for a normal distribution) of values, by their central moments."""
    deviations = values - values.mean() if len(values) else values
    variance = float(np.mean(deviations**2)) if len(values) else 0.0
    if not variance > 0:
        return 0.0, 3.0
    return float(np.mean(deviations**3)) / variance**1.5, float(np.mean(deviations**4)) / variance**2


def deflated_sharpe(best: Returns, sharpes: Floats, trials: int) -> float:
    """Return the deflated Sharpe ratio of the best of some trials.

    Args:
        sharpes: of the trials, not annualised; NaN where there is none.
        trials: how many were tried, others included.
    """
    if len(sharpes) == 1 and trials > 1:  # how much the others differ isn't known
        return math.nan
    known = sharpes[np.isfinite(sharpes)]
    variance = float(known.var(ddof=1)) if len(known) > 1 else 0.0
    benchmark = luckiest_sharpe(trials, variance)
    return probabilistic_sharpe(best.sharpe, benchmark, len(best.values), *moments(best.values))


# --- losses -----------------------------------------------------------------------------------------------------------


def added_losses(independent: float) -> float:
    """Return how many more losses at the stop evidence has to survive: 1, and 1 more for each tenfold number of trials.

    A rule that wins often and little and loses seldom and much shows fewer losses than it has on average, and the best
    of many trials is one that met few of them.
    """
    return 1 + math.log10(max(independent, 1.0))


def part_left(values: Floats, losses: float, size: float) -> float:
    """Return the part of the t statistic of returns that is left with more losses of a size."""
    count, total, squares = len(values), float(values.sum()), float(values @ values)

    def statistic(more: float) -> float:
        number, mean = count + more, (total - more * size) / (count + more)
        variance = (squares + more * size**2 - number * mean**2) / (number - 1)
        return math.sqrt(number) * mean / math.sqrt(variance) if variance > 0 else math.nan

    return statistic(losses) / statistic(0) if total else math.nan


# --- judgement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a result is better than luck. Sharpe ratios are annualised."""

    sharpe: float
    luckiest: float
    """Median of the highest Sharpe ratio of as many trials without skill; 0 for one trial."""
    chance: float
    """Probability that the luckiest of as many trials without skill does at least as well; NaN where unknown."""
    deflated: float
    """Deflated Sharpe ratio: the probability that the true one is above what Bailey and Lopez de Prado expect of the
    luckiest trial; NaN where unknown."""
    trials: int
    """All trials on the market, those of other searches too."""
    independent: float
    """Effective number of trials: how many independent ones would be as lucky."""
    days: float
    round_trips: int
    at_risk: float
    """The most that a round trip of the judged trial loses at its stop, in the quote asset."""
    added_losses: float
    """More losses of this size that evidence has to survive."""
    chance_with_losses: float
    """`chance`, had it had the added losses."""
    basis: str
    tried: str
    """What is judged, as text."""
    intervals: Intervals | None = None
    """Of the judged trial as if it were the only one; Sharpe ratio annualised. None where it is too short to say."""
    warning: str = ""
    """What the result is marked with: that much of its tape is missing."""

    @property
    def is_too_short(self) -> bool:
        """Whether there are fewer than `LEAST_DAYS` days."""
        return self.days < LEAST_DAYS

    @property
    def is_evidence(self) -> bool:
        enough = not self.is_too_short and self.round_trips >= LEAST_TRIPS
        return enough and self._is_unlikely_luck and self.chance_with_losses <= EVIDENCE

    @property
    def _is_unlikely_luck(self) -> bool:
        return self.sharpe > 0 and self.chance <= EVIDENCE

    @property
    def text(self) -> str:
        """The assessment as a sentence or two, with the warning."""
        return f"{self._assessment} {self.warning}." if self.warning else self._assessment

    @property
    def _assessment(self) -> str:
        if not math.isfinite(self.sharpe):
            return f"No evidence: {self.tried} has no Sharpe ratio, {self.basis}."
        found = f"{self.tried} has a Sharpe ratio of {self.sharpe:.2f}"
        if self.is_too_short:
            return f"Too short to say: {found} over {self.days:.3g} days; {LEAST_DAYS} are the least."
        if self.round_trips < LEAST_TRIPS:
            return f"No evidence: {found} from {self.round_trips} round trips; {LEAST_TRIPS} are the least."
        if self._is_unlikely_luck and not self.is_evidence:
            return (
                f"Too few losses to say: {found}, and with {self.added_losses:.1f} more losses at its stop, of "
                f"{self.at_risk:,.2f} each, luck would show as much in {self.chance_with_losses:.1%} of cases."
            )
        evidence = "Evidence" if self.is_evidence else f"No evidence, which would be {EVIDENCE:.0%} or less"
        deflated = f" Deflated Sharpe ratio {self.deflated:.1%}." if math.isfinite(self.deflated) else ""
        return f"{evidence}: {found}. {self._luck}{deflated}"

    @property
    def _luck(self) -> str:
        if self.trials == 1:
            return f"A worthless one shows as much in {self.chance:.1%} of cases."
        return (
            f"The luckiest of as many worthless ones would show {self.luckiest:.2f}, and as much as this in "
            f"{self.chance:.1%} of cases: they are as lucky as {self.independent:,.0f} independent ones."
        )

    @property
    def intervals_text(self) -> str:
        """The intervals as a sentence; empty where there are none."""
        if self.intervals is None:
            return ""
        net, sharpe, drawdown = self.intervals
        return (
            f"With a probability of {INTERVAL:.0%}, were it the only one: net {net[0]:+,.2f} to {net[1]:+,.2f}, Sharpe "
            f"ratio {sharpe[0]:.2f} to {sharpe[1]:.2f}, largest fall at any time {drawdown[0]:+,.2f} to "
            f"{drawdown[1]:+,.2f}."
        )

    def _repr_html_(self) -> str:
        intervals = f"<p>{escape(self.intervals_text)}</p>" if self.intervals else ""
        unknown = f"<p>{escape(UNKNOWN_TRIALS)}</p>" if self.is_evidence else ""
        return f"<p><b>{escape(self.text)}</b></p>{unknown}{intervals}"


def columns_of(trials: Sequence[Returns], best: Returns) -> Floats:
    """Return the returns of trials as columns, with a row for each period.

    A trial that ended sooner has returns of 0 from then on; one whose returns are of another period than the best's has
    none but NaN.
    """
    alike = [trial for trial in trials if trial.period_ms == best.period_ms]
    columns = np.zeros((max(len(trial.values) for trial in alike), len(trials)))
    for number, trial in enumerate(trials):
        if trial.period_ms == best.period_ms:
            columns[: len(trial.values), number] = trial.values
        else:
            columns[:, number] = math.nan
    return columns


def judge(
    trials: Sequence[Returns],
    round_trips: int,
    best: int = 0,
    *,
    tried: str = "",
    luck: TrialLuck | None = None,
    others: Sequence[Luckiest] = (),
    in_all: int | None = None,
    fall: float = 0.0,
    at_risk: float = 0.0,
) -> Judgement:
    """Judge the best of some trials by the returns of all.

    Args:
        trials: the returns of each.
        round_trips: of the best trial.
        best: its number.
        tried: what is judged, as text.
        luck: of the trials, where it is known already.
        others: of other searches on the same market.
        in_all: number of all trials on the market, those of other searches included.
        fall: largest fall of the best trial's equity at any time, negative, in the quote asset.
        at_risk: the most that a round trip of the best trial loses at its stop, in the quote asset.
    """
    returns, count = trials[best], max(len(trials), in_all or 0)
    luck, a_year = luck or luck_of(columns_of(trials, returns)), math.sqrt(returns.a_year)
    luckiest, statistic = joined([luck.luckiest, *others]), float(luck.statistics[best])
    named = tried or (f"the best of {len(trials):,} settings" if len(trials) > 1 else "the one setting")
    found = Judgement(
        sharpe=returns.annual_sharpe,
        luckiest=float(luckiest.median * luck.unit[best] * a_year) if count > 1 else 0.0,
        chance=luckiest.chance(statistic),
        deflated=deflated_sharpe(returns, np.array([trial.sharpe for trial in trials]), count),
        trials=count,
        independent=luckiest.independent,
        days=returns.days,
        round_trips=round_trips,
        at_risk=at_risk,
        added_losses=added_losses(luckiest.independent),
        chance_with_losses=_chance_with_losses(returns, luckiest, statistic, at_risk),
        basis=returns.basis,
        tried=f"{named}, {count:,} with the others tried on this market," if count > len(trials) else named,
    )
    return found if found.is_too_short or math.isnan(found.sharpe) else _with_intervals(found, returns, fall)


def _chance_with_losses(returns: Returns, luckiest: Luckiest, statistic: float, at_risk: float) -> float:
    """Return the probability that the luckiest does as well as the judged trial would with the added losses."""
    if not at_risk > 0:
        return luckiest.chance(statistic)
    left = part_left(returns.values, added_losses(luckiest.independent), at_risk / returns.equity)
    return luckiest.chance(min(left, 1.0) * statistic)


def _with_intervals(found: Judgement, returns: Returns, fall: float) -> Judgement:
    net, sharpe, drawdown = intervals_of(returns.values, returns.equity, fall)
    a_year = math.sqrt(returns.a_year)
    return replace(found, intervals=Intervals(net, (sharpe[0] * a_year, sharpe[1] * a_year), drawdown))
