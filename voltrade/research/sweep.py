"""A sweep: many backtests over one tape, by grid or random search, with an assessment of luck.

Any parameter of a strategy can be swept, and the rule itself. Trials are grouped by what must be computed again: bars
once for each bar setting, decisions once for each signal setting; then each trial is one run of the compiled loop.
Trials run in a `concurrent.futures.Executor`: threads by default, processes, or a cluster by
`dask.distributed.Client.get_executor()`.

The best of many trials may only be the luckiest. So a result has the number of trials, together with those of other
searches on the same market (`searches`), and an assessment of whether the best one is better than luck
(`judgement.judge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from voltrade.config import Config
from voltrade.data.coverage import Coverage
from voltrade.data.tape import Tape
from voltrade.report.bootstrap import luck_of
from voltrade.report.chart_style import marked
from voltrade.report.html import warning_html
from voltrade.report.judgement import Judgement, columns_of, judge
from voltrade.report.marked import mark
from voltrade.report.overfitting import Overfitting, probability_of_overfitting
from voltrade.report.sweep_charts import heat_map, luck_chart
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.prepared_tape import Research
from voltrade.research.rests_on import extrapolated_text, made_from, rests_on
from voltrade.research.searches import CountingLater, Searches, TradedTime, keep, settings_hashes
from voltrade.research.trial_executor import trade_all
from voltrade.research.trial_worker import Job, TrialResult
from voltrade.research.trials import FIGURES, Choices, Trials, trials_of
from voltrade.signal_engine import SignalEngine
from voltrade.simulated.fill_model import MOST_EXTRAPOLATED

SHOWN = ("sharpe", "net", "round_trips", "win_rate", "profit_factor", "max_drawdown", "extrapolated", "halted")
"""Figures of each trial that a result shows in a notebook; its frame has all."""

HOW = ("path", "extrapolated", "halted")
"""Fields of a trial's result about how it was traded, beside its figures."""

MONEY_FIGURES = ("net", "realised", "fees", "funding", "equity_change", "max_drawdown", "turnover")
"""Figures in the quote asset."""

NUMBER_FORMAT = "{:,.4g}".format


class Sweep:
    """The result of a sweep; it is displayed as a table in a notebook.

    Attributes:
        frame: one row for each trial: the swept parameters, the fields of `Figures`, the `path` of its backtest, and
            `extrapolated`, the part of its notional that no trade of the tape gave; and `halted`, the rule of the
            circuit breaker that halted it; and `missing`, the largest missing part of the tape's trades, mark prices
            and funding rates (0 of what it has nothing of; the notes say that).
        refused: one row for each combination that isn't allowed or can't be traded, with the reason; not trials.
        parameters: names of the swept parameters.
        trials: number of trials. The best of many trials is worth less than the best of few.
        returns: the returns of each trial.
    """

    def __init__(
        self,
        research: Research,
        job: Job,
        settings: Trials,
        parameters: Sequence[str],
        frame: pd.DataFrame,
        refused: pd.DataFrame,
        outcomes: Sequence[TrialResult],
    ) -> None:
        self.frame = frame
        self.refused = refused
        self.trials = len(frame)
        self.parameters = list(parameters)
        self._research = research
        self._job = job
        self._configs = settings.configs
        self._rules = settings.rules
        self.returns = [outcome.returns for outcome in outcomes]
        self._luck = luck_of(columns_of(self.returns, self.returns[self.best]))
        self._counting = CountingLater(self._kept(), self._judged)

    @cached_property
    def coverage(self) -> Coverage:
        """What the traded part of the tape has and lacks."""
        (time_range,) = self._job.time_ranges
        return self._research.coverage(*time_range)

    @property
    def best(self) -> int:
        """The row of the trial with the highest Sharpe ratio; 0 where no trial has one."""
        sharpes = self.frame["sharpe"].to_numpy()
        return int(np.nanargmax(sharpes)) if np.isfinite(sharpes).any() else 0

    def config(self, number: int | None = None) -> Config:
        """Return the settings of a row, by default of the best trial."""
        return self._configs[self.best if number is None else number]

    def backtest(self, number: int | None = None) -> Backtest:
        """Backtest a row again, by default the best trial, for its round trips and charts.

        The rule is the one of the sweep, even if its file was edited since.
        """
        config, ((begin_s, end_s),) = self.config(number), self._job.time_ranges
        engine = self._rules[config.session.rule](config.signals, self._research.instrument)
        return backtest(self._research, config, engine, begin_s=begin_s, end_s=end_s)

    def _kept(self) -> Searches:
        """Write this search to the search log; return it with those that count for it."""
        (time_range,) = self._job.time_ranges
        traded = TradedTime.of(self._research.tape, *self._research.times(*time_range))
        tried = settings_hashes(self._configs, self._rules)
        sharpe = self.returns[self.best].annual_sharpe
        missing = self.coverage.missing
        return keep("settings", traded, self.parameters, tried, sharpe, self._luck.luckiest, missing=missing)

    @property
    def searches(self) -> Searches:
        """This search and the others on the same market whose trials count too, those made since then included."""
        return self._counting.searches

    @property
    def judgement(self) -> Judgement:
        """Whether the best trial is better than the luckiest of as many, and of all that count too, without skill."""
        return self._counting.judgement

    def _judged(self, searches: Searches) -> Judgement:
        others, count = searches.luckiest, searches.trials
        round_trips = int(self.frame["round_trips"][self.best])
        known = {"fall": self.frame["max_drawdown"][self.best], "at_risk": self.frame["largest_r"][self.best]}
        judged = judge(self.returns, round_trips, self.best, luck=self._luck, others=others, in_all=count, **known)
        return replace(judged, warning=self.coverage.warning)

    @cached_property
    def overfitting(self) -> Overfitting:
        """How often the best of one half of the time would have been a poor one in the other."""
        found = probability_of_overfitting(columns_of(self.returns, self.returns[self.best]))
        return found._replace(warning=self.coverage.warning)

    @property
    def assessment(self) -> str:
        """The judgement in words, how many trials the circuit breaker halted, and how many are mostly a guess."""
        return f"{self.judgement.text}{self._warnings}"

    @property
    def _warnings(self) -> str:
        count = int((self.frame["extrapolated"] > MOST_EXTRAPOLATED).sum())
        words = f" Of {count:,} settings more than {MOST_EXTRAPOLATED:.0%} of the notional is extrapolated, not traded."
        return f"{self._halted_words}{words if count else ''}"

    @property
    def _halted_words(self) -> str:
        count, best = int((self.frame["halted"] != "").sum()), self.frame["halted"].iloc[self.best]
        if not count:
            return ""
        words = f" The circuit breaker halted {count:,} of the settings before the end: they are judged with it"
        return f"{words}; the best was halted by {best}." if best else f"{words}; the best was not."

    def heat_map(self, x: str, y: str, value: str = "sharpe") -> Any:
        """Return a plotly heat map of a figure over two swept parameters, the mean where several trials share both."""
        unit = self._research.instrument.quote_asset if value in MONEY_FIGURES else ""
        return marked(heat_map(self.frame, x, y, value, unit), self.coverage.warning)

    def luck_chart(self) -> Any:
        """Return a plotly figure of all Sharpe ratios, with the one that the luckiest trial would have by chance."""
        return marked(luck_chart(self.frame["sharpe"].to_numpy(), self.judgement.luckiest), self.coverage.warning)

    def notes(self) -> list[str]:
        """Return what must be known to read the figures, of the best trial where trials differ in it."""
        config, research = self.config(), self._research
        tainted = int(np.count_nonzero(research.bars(config.bars).rows["tainted"]))
        return [
            *rests_on(config, research.tape, research.instrument, self.coverage, tainted),
            extrapolated_text(float(self.frame["extrapolated"].max()), "at most "),
            self._made_from,
        ]

    @cached_property
    def _made_from(self) -> str:
        return made_from(self._research.tape, self._rules)

    def __repr__(self) -> str:
        return f"<Sweep of {self.trials} settings. {self.assessment} The tape: {self.coverage.text}>"

    def _repr_html_(self) -> str:
        shown = [*self.parameters, *SHOWN]
        table = self.frame.sort_values("sharpe", ascending=False)[shown].head(10).to_html(float_format=NUMBER_FORMAT)
        skipped = f", {len(self.refused):,} combinations are not allowed" if len(self.refused) else ""
        head = f"{self.trials:,} settings of {', '.join(self.parameters)} on {self._research.tape.source}{skipped}"
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.notes())
        judged = f"{self.judgement._repr_html_()}<p>{escape(self.overfitting.text)}{escape(self._warnings)}</p>"
        return f"<h4>{escape(head)}</h4>{warning_html(self.coverage.warning)}{judged}{table}<ul>{lines}</ul>"


def sweep(
    tape: Tape | Research,
    config: Config,
    grid: Mapping[str, Choices],
    *,
    trials: int | None = None,
    seed: int = 0,
    begin_s: float | None = None,
    end_s: float | None = None,
    rule: type[SignalEngine] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Sweep:
    """Backtest many trials over a tape.

    Args:
        config: the settings that all trials share.
        grid: parameters to vary: all of `Config.from_parameters` but those that choose the tape. Without `trials` every
            combination is a trial. Parameters that only some of the swept rules have are NaN for the others.
        trials: number of random draws instead: each value is equally likely, a function draws the value itself. Equal
            draws are one trial.
        seed: of the random draws.
        begin_s, end_s: as in `backtest`.
        rule: a rule class; by default the one of `config.session.rule`.
        executor: where trials run; by default threads on all cores. Any other executor than a `ThreadPoolExecutor` is
            assumed to run other processes: they read the tape from a temporary folder, below `$TMPDIR` if set.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a parameter is unknown, can't vary or has no values, `trials`, `seed`, `begin_s` or `end_s` is
            impossible, or no combination is allowed.
        DataError: the tape is empty, goes back in time, is of another symbol, or has no trade to trade on.
    """
    research = tape if isinstance(tape, Research) else Research(tape)
    settings = trials_of(research, config, grid, trials, seed, rule)
    job = Job([(config.session.begin_s if begin_s is None else begin_s, end_s)], settings.rules)
    settings, outcomes = trade_all(research, job, settings, executor, progress)
    rows = [
        {**parameters, **vars(outcome.figures), **{name: getattr(outcome, name) for name in HOW}}
        for parameters, (outcome,) in zip(settings.chosen, outcomes, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=[*grid, *FIGURES, *HOW])
    coverage = research.coverage(*job.time_ranges[0])
    frame["missing"] = coverage.missing
    frame = mark(frame, coverage.warning)
    skipped = pd.DataFrame([{**parameters, "reason": reason} for parameters, reason in settings.refused])
    return Sweep(research, job, settings, list(grid), frame, skipped, [outcome for (outcome,) in outcomes])
