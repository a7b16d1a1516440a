"""The stationary bootstrap: what the luckiest of many worthless trials would show, and how sure a figure is.

A resample puts blocks of random length in random order (Politis and Romano, "The Stationary Bootstrap", JASA 89, 1994),
so that it keeps what follows from one day to the next; the mean length is chosen by Politis and White. All trials are
resampled alike, so that it keeps how they depend on each other too. All functions draw with one fixed seed: the same
returns give the same result, and searches over the same periods are resampled alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from voltrade.compiled import compiled
from voltrade.model import Bools, Floats, Int64s
from voltrade.report.performance import ROUNDING

RESAMPLES = 1_000
AT_ONCE = 50
"""Resamples that are in memory together."""

SEED = 1_994

SAMPLED = 64
"""Trials from which the block length and the spread of a single worthless trial are estimated."""

SIGNIFICANT = 2.0
"""Autocorrelations beyond so many times sqrt(log10 T / T) count, as Politis and White recommend."""

STEADY = 0.1
"""Part of the variance of all returns in that of a resample, which scatters wildly where periods are few."""

LARGEST_AUTOCORRELATION = 0.9
"""Returns are taken to depend no more than this on those before."""

INTERVAL = 0.9
"""Probability of an interval."""

LEAST_RETURNS = 10
"""Fewer returns are not resampled."""


# --- blocks -----------------------------------------------------------------------------------------------------------


def block_length(values: Floats) -> float:
    """Return the mean length of blocks for the stationary bootstrap of the mean; of at most 1, blocks are single days.

    Politis and White, "Automatic Block-Length Selection for the Dependent Bootstrap", Econometric Reviews 23, 2004,
    with the correction of 2009: (2 G^2 / D)^(1/3) T^(1/3) with a flat-top kernel, of at most min(3 sqrt(T), T / 3).
    """
    count = len(values)
    run = max(5, int(math.log10(count)))
    lags = min(math.ceil(math.sqrt(count)) + run, count - 1)
    covariances = _autocovariances(values - values.mean(), lags)
    if not covariances[0] > 0:
        return 1.0
    reach = min(2 * _dependent_lags(covariances, run, count), lags)
    lag = np.arange(1, reach + 1)
    weighted = np.minimum(1.0, 2 * (1 - lag / reach)) * covariances[1 : reach + 1]
    slope, spread = 2 * float(lag @ weighted), covariances[0] + 2 * float(weighted.sum())
    if not spread:
        return 1.0
    longest = math.ceil(min(3 * math.sqrt(count), count / 3))
    return float(min(max((slope / spread) ** 2, 0.0) ** (1 / 3) * count ** (1 / 3), longest))


@compiled
def _autocovariances(deviations: Floats, lags: int) -> Floats:
    """Return the autocovariances for lags from 0 to `lags` of values with the mean 0."""
    found = np.zeros(lags + 1)
    for lag in range(lags + 1):
        for number in range(len(deviations) - lag):
            found[lag] += deviations[number] * deviations[number + lag]
    return found / len(deviations)


def _dependent_lags(covariances: Floats, run: int, count: int) -> int:
    """Return the first lag with which `run` insignificant ones begin; the number of lags where there is none."""
    is_large = np.abs(covariances[1:] / covariances[0]) >= SIGNIFICANT * math.sqrt(math.log10(count) / count)
    begins = (lag for lag in range(len(is_large) - run + 1) if not is_large[lag : lag + run].any())
    return next(begins, len(is_large) - 1) + 1


def resamples(count: int, length: float) -> Iterator[Int64s]:
    """Yield all resamples of `count` periods, some rows at once; blocks go on at the beginning after the end."""
    chance, periods = np.random.default_rng(SEED), np.arange(count)
    for _ in range(RESAMPLES // AT_ONCE):
        starts = chance.integers(count, size=(AT_ONCE, count))
        begins = chance.random((AT_ONCE, count)) * length < 1
        begins[:, 0] = True
        at = np.maximum.accumulate(np.where(begins, periods, 0), axis=1)
        yield (np.take_along_axis(starts, at, axis=1) + periods - at) % count


# --- the luckiest of many ---------------------------------------------------------------------------------------------


class Luckiest(NamedTuple):
    """How well the luckiest of some trials without skill does."""

    maxima: Floats
    """Its statistic in each resample."""
    independent: float
    """The number of independent trials whose luckiest does as well: the effective number of trials."""

    def chance(self, statistic: float) -> float:
        """Return the probability that the luckiest trial does at least as well by luck alone; NaN for NaN."""
        if not math.isfinite(statistic):
            return math.nan
        return float(1 + np.count_nonzero(self.maxima >= statistic)) / (1 + len(self.maxima))

    @property
    def median(self) -> float:
        return float(np.median(self.maxima))


NOTHING_TRIED = Luckiest(np.full(RESAMPLES, -math.inf), 0.0)


def joined(searches: Sequence[Luckiest]) -> Luckiest:
    """Return the luckiest of all trials of some searches.

    Resamples of searches over the same periods are the same, so trials that depend on each other, or are the same,
    count for less here too. Searches over other periods count as independent.
    """
    most = max(searches, key=lambda search: search.independent)
    maxima = np.max([search.maxima for search in searches], axis=0)
    at_most = sum(search.independent for search in searches)
    below = float(np.mean(most.maxima <= np.median(maxima)))
    times = math.log(0.5) / math.log(below) if 0.5 < below < 1 else 1.0 if below <= 0.5 else math.inf
    return Luckiest(maxima, min(most.independent * times, at_most))


def on_a_part(search: Luckiest, whole: Luckiest, share: float) -> Luckiest:
    """Return the luckiest trial of a search on a part of some time, as it does over the whole of it.

    The rest of the time, in which it was not chosen, is as new to it as to the trials that were tried on the whole.
    A mean over the whole is studentised: sqrt(share) of the part's statistic and sqrt(1 - share) of the rest's.
    """
    if share >= 1:
        return search
    rest = np.roll(whole.maxima, 1)  # of another resample
    maxima = math.sqrt(share) * search.maxima + math.sqrt(1 - share) * rest
    return Luckiest(maxima, max(search.independent, 1.0) ** share)


def of_some(search: Luckiest, share: float) -> Luckiest:
    """Return the luckiest of a part of the trials of a search, where none is known to be luckier than another.

    All stay below a value as often as each share of them does, multiplied: it is the quantile at p ** (1 / share).
    """
    if share >= 1 or not np.isfinite(search.maxima).all():
        return search
    rank = np.argsort(np.argsort(search.maxima)) + 0.5
    maxima = np.quantile(search.maxima, (rank / len(rank)) ** (1 / share))
    return Luckiest(maxima, max(search.independent * share, min(search.independent, 1.0)))


@dataclass(frozen=True, slots=True, eq=False)
class TrialLuck:
    """Trials, and the luckiest of as many without skill."""

    statistics: Floats
    """Studentised mean return of each trial; NaN where its returns don't vary."""
    unit: Floats
    """Sharpe ratio, not annualised, of each trial for a statistic of 1."""
    luckiest: Luckiest


def luck_of(returns: Floats) -> TrialLuck:
    """Return how lucky trials can be; `returns` has a row for each period and a column for each trial.

    White, "A Reality Check for Data Snooping", Econometrica 68, 2000, with the studentised statistic of Hansen, "A Test
    for Superior Predictive Ability", JBES 23, 2005. Each return is first freed of its dependence on the one before, as
    blocks alone understate it where periods are few, and the mean is studentised in each resample anew. The mean of
    each trial is set to zero, which is no trial's disadvantage.
    """
    unit = np.full(returns.shape[1], math.nan)
    statistics = unit.copy()
    (varying,) = np.nonzero(is_varying(returns))
    if not len(varying):
        return TrialLuck(statistics, unit, NOTHING_TRIED)
    known = returns[:, varying] / returns[:, varying].std(axis=0, ddof=1)
    depends = autocorrelations(known)
    freed = known[1:] - depends * known[:-1]
    count, deviation = len(freed), freed.std(axis=0, ddof=1)
    unsure = np.sqrt(1 + (1 + depends) / (1 - depends) / count)  # of the autocorrelation itself
    statistics[varying] = math.sqrt(count) * freed.mean(axis=0) / deviation / unsure
    unit[varying] = deviation * unsure / (1 - depends) / math.sqrt(count)
    return TrialLuck(statistics, unit, _luckiest_of(freed))


def is_varying(returns: Floats) -> Bools:
    """Return which columns of returns can be judged: those that vary by more than rounding."""
    if len(returns) < LEAST_RETURNS:
        return np.zeros(returns.shape[1], np.bool_)
    is_known = np.isfinite(returns).all(axis=0)
    known = np.where(is_known, returns, 0.0)
    return np.asarray(is_known & (known.std(axis=0) > ROUNDING * np.abs(known.mean(axis=0))))


def autocorrelations(returns: Floats) -> Floats:
    """Return the dependence of each trial's returns on those before, from -0.9 to 0.9.

    Estimates are too low by (1 + 3 r) / T (Kendall, Biometrika 41, 1954), and scatter by sqrt((1 - r^2) / T): trials
    that scatter no more are taken to have the same (Efron and Morris, JASA 70, 1975). A single trial that seems to
    revert is not taken at its word.
    """
    count, trials = returns.shape
    deviations = returns - returns.mean(axis=0)
    raw = (deviations[1:] * deviations[:-1]).sum(axis=0) / (deviations**2).sum(axis=0)
    found = raw + (1 + 3 * raw) / count
    usual, scatter = (float(found.mean()), float(found.var(ddof=1))) if trials > 1 else (0.0, float(found[0] ** 2))
    if trials > 1 or usual > found[0]:
        by_chance = (1 - usual**2) / count
        found = usual + max(0.0, 1 - by_chance / scatter if scatter else 0.0) * (found - usual)
    return np.asarray(np.clip(found, -LARGEST_AUTOCORRELATION, LARGEST_AUTOCORRELATION))


def _sampled(trials: int) -> Int64s:
    return np.unique(np.linspace(0, trials - 1, min(trials, SAMPLED)).astype(np.int64))


def _luckiest_of(returns: Floats) -> Luckiest:
    """Return the luckiest of trials with these returns, none of which depends on the one before."""
    (count, trials), sample = returns.shape, _sampled(returns.shape[1])
    length = float(np.median([block_length(column) for column in returns[:, sample].T.copy()]))
    values = returns.astype(np.float32)  # half the time
    squares, mean, whole = values**2, values.mean(axis=0), values.var(axis=0, ddof=1)
    maxima, single = [], []
    for rows in resamples(count, length):
        cells = (rows + count * np.arange(len(rows))[:, None]).ravel()
        drawn = np.bincount(cells, minlength=rows.size).reshape(rows.shape).astype(np.float32)  # how often each period
        means = drawn @ values / count
        variances = np.maximum(drawn @ squares - count * means**2, 0) / (count - 1)
        deviations = np.sqrt(STEADY * whole + (1 - STEADY) * variances)
        studentised = math.sqrt(count) * (means - mean) / deviations
        maxima.append(studentised.max(axis=1))
        single.append(studentised[:, sample])
    of_all = np.concatenate(maxima).astype(np.float64)
    better = float(np.mean(np.concatenate(single) > np.median(of_all)))
    return Luckiest(of_all, min(max(math.log(0.5) / math.log1p(-better), 1.0), trials) if better else float(trials))


# --- intervals --------------------------------------------------------------------------------------------------------

Interval = tuple[float, float]


class Intervals(NamedTuple):
    """Where figures lie with a probability of `INTERVAL`, had the same days come in another order and number."""

    net: Interval
    """Change of equity, in the quote asset."""
    sharpe: Interval
    """Not annualised."""
    drawdown: Interval
    """Largest fall of equity at any time, negative as all losses, in the quote asset."""


def intervals_of(returns: Floats, equity: float, fall: float = 0.0) -> Intervals:
    """Return the intervals of a trial.

    Args:
        returns: of its periods.
        equity: before the first, in the quote asset.
        fall: its largest fall at any time, negative, in the quote asset. Returns know equity at the end of each period
            only, so the falls of resamples are made larger by as much as this is larger than what returns show. It is
            itself part of the interval.
    """
    nets, sharpes, falls = [], [], []
    for rows in resamples(len(returns), block_length(returns)):
        drawn = returns[rows]
        worth = _worth(drawn, equity)
        nets.append(worth[:, -1] - equity)
        deviation = drawn.std(axis=1, ddof=1)
        sharpes.append(drawn.mean(axis=1)[deviation > 0] / deviation[deviation > 0])
        falls.append(_falls(worth))
    tails = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    found = [np.quantile(np.concatenate(parts), tails) for parts in (nets, sharpes, falls)]
    net, sharpe, (deepest, mildest) = ((float(low), float(high)) for low, high in found)
    shown = float(_falls(_worth(returns[None], equity))[0])
    seen = min(fall, shown)
    larger = seen / shown if shown else 1.0
    return Intervals(net, sharpe, (min(larger * deepest, seen), max(larger * mildest, seen)))


def _worth(returns: Floats, equity: float) -> Floats:
    """Return the equity before the first and after each return of each row."""
    return np.asarray(equity * np.cumprod(np.insert(1 + returns, 0, 1.0, axis=1), axis=1), np.float64)


def _falls(worth: Floats) -> Floats:
    """Return the largest fall of each row from its highest so far, negative."""
    return np.asarray((worth - np.maximum.accumulate(worth, axis=1)).min(axis=1))
