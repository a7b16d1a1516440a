"""Walk-forward: the trial that is best in training, tested on another part of the tape, fold by fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from voltrade.config import Config
from voltrade.data.coverage import Coverage
from voltrade.data.tape import Tape
from voltrade.model import HOUR_MS, Int64s
from voltrade.report import performance
from voltrade.report.bootstrap import Luckiest, luck_of
from voltrade.report.chart_style import marked
from voltrade.report.html import warning_html
from voltrade.report.judgement import Judgement, columns_of, judge
from voltrade.report.marked import mark
from voltrade.report.performance import Returns, largest_of
from voltrade.report.sweep_charts import walk_forward_chart
from voltrade.research.prepared_tape import Research
from voltrade.research.rests_on import extrapolated_text, made_from, rests_on
from voltrade.research.searches import CountingLater, Searches, TradedTime, keep, settings_hashes
from voltrade.research.splits import Scheme, Split, splits_by
from voltrade.research.sweep import NUMBER_FORMAT, SHOWN
from voltrade.research.trial_executor import trade_all
from voltrade.research.trial_worker import Job, TimeRange, TrialResult
from voltrade.research.trials import FIGURES, TRAINING, Choices, Trials, trials_of
from voltrade.signal_engine import SignalEngine


class WalkForward:
    """The result of a walk-forward; it is displayed as a table in a notebook.

    Attributes:
        frame: one row for each fold: begin and end of the test (UTC), the parameters chosen in training, Sharpe ratio
            and halts in training, and the figures of the test. Where no trial has a Sharpe ratio in training, nothing
            is tested, and these are NaN. Each training and each test is a session of its own that starts with the
            whole capital and all limits, so losses of several tests together can exceed a limit.
        trials: number of trials in each fold.
        coverage: what the tape has and lacks; `missing` in the frame is the largest missing part of each test.

    All tests together are judged as one trial, since no test was used to choose. What else was tried in the time of the
    tests adds to it, unless it was only settings that each training chose from again. For all other judgements on the
    market, each setting that was tried is a trial, as in a sweep of the tape.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        trials: int,
        counting: CountingLater,
        source: str,
        coverage: Coverage,
        notes: Callable[[], list[str]],
    ) -> None:
        self.frame = frame
        self.trials = trials
        self._counting = counting
        self.coverage = coverage
        self._source = source
        self._notes = notes

    @property
    def judgement(self) -> Judgement:
        """The judgement of all tests together, with what counts of the searches made until now."""
        return self._counting.judgement

    @property
    def searches(self) -> Searches:
        """This walk-forward and those that add to it, those made since then included."""
        return self._counting.searches

    @property
    def assessment(self) -> str:
        """The judgement in words."""
        return self.judgement.text

    def chart(self) -> Any:
        """Return a plotly figure of each fold's Sharpe ratios in training and in the test."""
        return marked(walk_forward_chart(self.frame), self.coverage.warning)

    def notes(self) -> list[str]:
        """Return what must be known to read the figures."""
        return self._notes()

    def __repr__(self) -> str:
        return f"<WalkForward of {len(self.frame)} folds. {self.assessment} The tape: {self.coverage.text}>"

    def _repr_html_(self) -> str:
        head = f"{len(self.frame)} folds on {self._source}, each the best of {self.trials:,} settings in training"
        hidden = ("end", "path", *(name for name in FIGURES if name not in SHOWN))
        shown = self.frame.drop(columns=[name for name in hidden if name in self.frame])
        shown = shown.set_axis(pd.RangeIndex(1, len(shown) + 1, name="fold"))  # as the chart counts them
        table = shown.assign(begin=shown["begin"].dt.strftime("%Y-%m-%d %H:%M UTC")).to_html(float_format=NUMBER_FORMAT)
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.notes())
        judged = f"{warning_html(self.coverage.warning)}{self.judgement._repr_html_()}"
        return f"<h4>{escape(head)}</h4>{judged}{table}<ul>{lines}</ul>"


def walk_forward(
    tape: Tape | Research,
    config: Config,
    grid: Mapping[str, Choices],
    *,
    folds: int = 5,
    scheme: Scheme = "expanding",
    purge_s: float | None = None,
    embargo_s: float = 3_600.0,
    trials: int | None = None,
    seed: int = 0,
    rule: type[SignalEngine] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> WalkForward:
    """Choose the trial with the highest Sharpe ratio on one part of a tape and test it on another, fold by fold.

    Both parts begin at `config.session.begin_s` or later; trades before are for warm-up.

    Args:
        scheme: `expanding` and `rolling` train before each test, see `walk_forward_splits`; `k_fold` trains before and
            after it, see `k_fold_splits`.
        purge_s: gap between training and test; by default `max_holding_s`, or an hour where that is 0.
        embargo_s: additional gap after a test, for `k_fold`.
        config, grid, trials, seed, rule, executor, progress: as in `sweep`.

    Raises:
        ConfigError: a parameter is unknown or can't vary, no combination is allowed, `scheme`, `folds`, `purge_s`,
            `embargo_s`, `trials` or `seed` is impossible, or a fold has nothing to train on.
        DataError: the tape is empty, goes back in time, is of another symbol, or a time range has no trade.
    """
    research = tape if isinstance(tape, Research) else Research(tape)
    settings = trials_of(research, config, grid, trials, seed, rule)
    times = research.tape.trades.time
    length_s = (int(times[-1]) - int(times[0])) / 1000
    purge_s = (config.exits.max_holding_s or 3_600.0) if purge_s is None else purge_s
    splits = splits_by(scheme, length_s, folds, config.session.begin_s, purge_s, embargo_s)
    time_ranges, period_ms = _time_ranges(splits, length_s)
    job = Job(time_ranges, settings.rules, period_ms)
    settings, results = trade_all(research, job, settings, executor, progress)
    by_range = [dict(zip(time_ranges, of_trial, strict=True)) for of_trial in results]
    rows: list[dict[str, Any]] = []
    tested: list[TrialResult] = []
    for split in splits:
        rows.append({**_test_times(split, times), "missing": research.coverage(*split.test).missing})
        sharpes = [_training_sharpe(of_trial, split, period_ms) for of_trial in by_range]
        if not np.isfinite(sharpes).any():  # there is nothing to choose by
            continue
        best = int(np.nanargmax(sharpes))
        tested.append(by_range[best][split.test])
        rows[-1] |= settings.chosen[best] | _fold_figures(by_range[best], split, sharpes[best])
    columns = ["begin", "end", *grid, *TRAINING, *FIGURES, "extrapolated", "halted", "missing"]
    frame = pd.DataFrame(rows, columns=columns)
    traded = TradedTime.of(research.tape, *research.times(splits[0].test[0]))
    hashes, coverage = settings_hashes(settings.configs, settings.rules), research.coverage(config.session.begin_s)
    whole = TradedTime.of(research.tape, *research.times(config.session.begin_s))
    _keep_trials(_apart(splits), by_range, partial(keep, "settings", whole, grid, hashes, missing=coverage.missing))
    how = f"{scheme} {folds} {purge_s} {embargo_s} {hashes}"
    known: dict[str, Any] = {"chosen_from": hashes, "missing": coverage.missing}
    searches = partial(keep, "walk-forward", traded, grid, [sha256(how.encode()).hexdigest()[:16]], **known)
    counting = _judged(tested, folds, period_ms, searches, coverage.warning)
    frame = mark(frame, coverage.warning)
    most = float(frame["extrapolated"].fillna(0.0).max())
    notes = partial(_notes, research, settings, coverage, most)
    return WalkForward(frame, len(settings.configs), counting, research.tape.source, coverage, notes)


def _apart(splits: Sequence[Split]) -> list[TimeRange]:
    """Return all tests, and what the first training has before them: parts of the tape that don't overlap."""
    begin = min(split.test[0] for split in splits)
    before = [part for part in splits[0].train if part[1] is not None and part[1] <= begin]
    return [*before, *(split.test for split in splits)]


def _keep_trials(
    parts: Sequence[TimeRange],
    by_range: Sequence[Mapping[TimeRange, TrialResult]],
    keep_search: Callable[[float, Luckiest], Searches],
) -> None:
    """Keep all trials in the search log, by their returns in some parts of the tape, as a sweep of the tape does.

    Training chose among them by what they made of the tape, so one of them that is shown on it is the best of all.
    """
    of_parts = [[of_trial[part].returns for of_trial in by_range] for part in parts]
    returns = np.concatenate([columns_of(of_part, of_part[0]) for of_part in of_parts])
    usual = of_parts[0][0]
    sharpes = [Returns(column, usual.period_ms, usual.equity).annual_sharpe for column in returns.T]
    best = max((sharpe for sharpe in sharpes if math.isfinite(sharpe)), default=math.nan)
    keep_search(best, luck_of(returns).luckiest)


def _notes(research: Research, settings: Trials, coverage: Coverage, extrapolated: float) -> list[str]:
    """Return what the figures rest on, of the first trial where trials differ in it."""
    config = settings.configs[0]
    tainted = int(np.count_nonzero(research.bars(config.bars).rows["tainted"]))
    return [
        *rests_on(config, research.tape, research.instrument, coverage, tainted),
        extrapolated_text(extrapolated, "at most "),
        made_from(research.tape, settings.rules),
    ]


def _time_ranges(splits: Sequence[Split], length_s: float) -> tuple[list[TimeRange], int]:
    """Return the distinct time ranges of all folds, and a period of returns that suits the shortest of them."""
    time_ranges = list(dict.fromkeys(each for split in splits for each in (*split.train, split.test)))
    shortest = min((length_s if end is None else end) - begin for begin, end in time_ranges)
    return time_ranges, performance.period_of(int(1000 * shortest)) or HOUR_MS


def _test_times(split: Split, times: Int64s) -> dict[str, Any]:
    """Return begin and end of a fold's test."""
    begin, end = (int(times[-1] if at is None else times[0] + int(1000 * at)) for at in split.test)
    return {name: pd.Timestamp(time, unit="ms", tz="UTC") for name, time in (("begin", begin), ("end", end))}


def _training_sharpe(results: Mapping[TimeRange, TrialResult], split: Split, period_ms: int) -> float:
    return _joined([results[part].returns for part in split.train], period_ms).annual_sharpe


def _fold_figures(results: Mapping[TimeRange, TrialResult], split: Split, sharpe: float) -> dict[str, Any]:
    """Return a fold's figures of the chosen trial, by column."""
    halted = [results[part].halted for part in split.train if results[part].halted]
    tested = results[split.test]
    return {
        "sharpe, training": sharpe,
        "halted, training": ", ".join(halted),
        "extrapolated": tested.extrapolated,
        "halted": tested.halted,
        **vars(tested.figures),
    }


def _judged(
    tested: Sequence[TrialResult],
    folds: int,
    period_ms: int,
    keep_search: Callable[[float, Luckiest], Searches],
    warning: str,
) -> CountingLater:
    """Judge the tests of all folds together, and keep them in the search log as one trial."""
    returns = _joined([result.returns for result in tested], period_ms)
    trips = sum(result.figures.round_trips for result in tested)
    chosen_in = f"{folds} folds" if len(tested) == folds else f"{len(tested)} of {folds} folds"
    luck = luck_of(columns_of([returns], returns))
    searches = keep_search(returns.annual_sharpe, luck.luckiest)
    named = f"what was chosen in {chosen_in}"
    fall = min((result.figures.max_drawdown for result in tested), default=0.0)
    risk = largest_of(np.array([result.figures.largest_r for result in tested]))
    known: dict[str, Any] = {"tried": named, "luck": luck, "fall": fall, "at_risk": risk}

    def judged(searches: Searches) -> Judgement:
        of_all = judge([returns], trips, others=searches.luckiest, in_all=searches.trials, **known)
        return replace(of_all, warning=warning)

    return CountingLater(searches, judged)


def _joined(parts: Sequence[Returns], period_ms: int) -> Returns:
    """Join the returns of several time ranges, all of the same period."""
    equity = parts[0].equity if parts else math.nan
    return Returns(np.concatenate([np.empty(0), *(part.values for part in parts)]), period_ms, equity)
