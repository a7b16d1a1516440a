"""Backtests trials one after the other, and computes again only what a trial changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from voltrade.account import net_of
from voltrade.compiled import Rows, compiled
from voltrade.config import Config, SignalSettings
from voltrade.errors import VoltradeError
from voltrade.model import MONEY, NEVER, Floats, Int64s
from voltrade.report import performance
from voltrade.report.performance import Figures, PerformanceData, Returns, figures_of
from voltrade.report.statistics import performance_data
from voltrade.research.backtest import backtest
from voltrade.research.compiled_session import Tables
from voltrade.research.prepared_tape import Research, Span
from voltrade.risk import RULES
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.rule_file import RuleAsLoaded

RULES_AT_ONCE = 8
"""Most rules that process the bars together; the signals of each may need memory for every bar."""


class TrialResult(NamedTuple):
    """What a trial did in one time range of the tape."""

    figures: Figures
    returns: Returns
    path: str
    extrapolated: float
    """Part of the notional of its fills that no trade of the tape gave."""
    halted: str = ""
    """Rule of the circuit breaker that halted trading until an operator resumes it, and since when."""


TrialResults = list[TrialResult] | VoltradeError
"""A trial's result in each time range, or why it can't be traded."""

TimeRange = tuple[float, float | None]
"""Begin and end of trading, in seconds after the tape's first trade; None for the end of the tape."""


class Job(NamedTuple):
    """What all trials of a sweep share."""

    time_ranges: Sequence[TimeRange]
    """Each trial trades each of them as a session of its own."""
    rules: Mapping[str, type[SignalEngine] | RuleAsLoaded]
    """Rules by their names in the settings, as loaded when the sweep began: later edits of a file change nothing."""
    period_ms: int | None = None
    """Period of the returns; None for the one that suits each time range."""

    def for_other_processes(self) -> Job:
        """Return the job with the source of each rule file, from which another process can load the rule."""
        rules = {name: RuleAsLoaded.of(rule) or rule for name, rule in self.rules.items()}
        return self._replace(rules=rules)


class SentConfig(NamedTuple):
    """Settings as JSON, for another process: it may lack the settings class that a rule file defines."""

    rule: str
    settings: str

    @staticmethod
    def of(config: Config) -> SentConfig:
        return SentConfig(config.session.rule, config.model_dump_json())


class _Totals(NamedTuple):
    """Sums over a session's round trips and fills; money in 1e-8."""

    nets: Floats
    """Net of each round trip, in the quote asset."""
    lots: Int64s
    """Lots of each fill, signed."""
    largest_r: float
    """Largest R of a round trip, in the quote asset; NaN without one."""
    long_trips: int
    realised: int
    fees: int
    funding: int
    ticklots: int
    """Turnover of all fills, in ticks x lots."""
    signals: int
    """Signals of closed bars."""


@compiled
def _totals(trips: Rows, fills: Rows, signals: Rows, bars: int, unit: int) -> _Totals:
    nets, lots = np.empty(len(trips)), np.empty(len(fills), np.int64)
    most, longs, realised, fees, funding, ticklots = 0, 0, 0, 0, 0, 0
    for number in range(len(trips)):
        trip = trips[number]
        nets[number] = net_of(trip.realised, trip.fees, trip.funding) / MONEY
        paid, stop = trip.fees, trip.stop_price
        most = max(most, performance.money_at_risk(trip.entry_notional, stop, trip.quantity, paid, unit))
        longs += trip.side > 0
        realised, fees, funding = realised + trip.realised, fees + trip.fees, funding + trip.funding
    for number in range(len(fills)):
        fill = fills[number]
        lots[number] = fill.quantity * fill.side
        ticklots += fill.quantity * fill.price
    closed = len(signals)
    while closed > 0 and signals[closed - 1].bar >= bars:
        closed -= 1
    return _Totals(nets, lots, most / MONEY if most else np.nan, longs, realised, fees, funding, ticklots, closed)


def performance_data_of(tables: Tables, bars: Rows, money_per_ticklot: int) -> PerformanceData:
    """Return what a compiled session's figures are computed from."""
    counted = tables.trips, tables.fills, tables.signals
    totals = _totals(*counted, tables.bars, money_per_ticklot)
    shown = bars[tables.first_bar : tables.bars]
    return PerformanceData(
        bars=len(shown),
        signals=totals.signals,
        refusals=len(tables.refusals),
        opened=shown["open_time"][:1].tolist(),
        closed=shown["close_time"][-1:].tolist(),
        nets=totals.nets,
        largest_r=totals.largest_r,
        long_trips=totals.long_trips,
        realised=totals.realised / MONEY,
        fees=-totals.fees / MONEY,
        funding=totals.funding / MONEY,
        turnover=totals.ticklots * money_per_ticklot / MONEY,
        fill_times=tables.fills["time"],
        fill_lots=totals.lots,
        equity_times=tables.equity["time"],
        equity=performance.worth_of(tables.equity),
    )


def _rule_of(config: Config) -> tuple[str, SignalSettings]:
    """Return the settings on which decisions over the same bars depend."""
    return config.session.rule, config.signals


class TrialWorker:
    """Backtests trials one after the other, and computes again only what a trial changes."""

    def __init__(self, research: Research, job: Job) -> None:
        self._research = research.fork()
        self._job = job
        self._spans = [research.span(begin_s, end_s) for begin_s, end_s in job.time_ranges]
        self._rules = {name: rule if isinstance(rule, type) else rule.load() for name, rule in job.rules.items()}
        self._unit = research.instrument.money_per_ticklot
        self._buffers: dict[str, Rows] = {}

    def read(self, sent: SentConfig) -> Config:
        """Return the settings that another process sent."""
        return Config.from_json(sent.settings, self._rules[sent.rule].settings_type)

    def trade(self, configs: Sequence[Config]) -> list[TrialResults]:
        """Backtest trials that share their bars; return the results of each."""
        try:
            self._research.bars(configs[0].bars)
        except VoltradeError as error:  # it would be the same for each
            return [error] * len(configs)
        try:
            return self._trade_together(configs)
        except VoltradeError as error:
            return [error] if len(configs) == 1 else [self.trade([config])[0] for config in configs]

    def _trade_together(self, configs: Sequence[Config]) -> list[TrialResults]:
        results: list[TrialResults] = []
        alike = [list(group) for _, group in itertools.groupby(configs, key=_rule_of)]
        for start in range(0, len(alike), RULES_AT_ONCE):
            groups = alike[start : start + RULES_AT_ONCE]
            engines = [self._engine(group[0]) for group in groups]
            all_found = self._research.find_signals(configs[0].bars, engines, self._buffers)
            for group, found in zip(groups, all_found, strict=True):
                results += [self._trade(config, found) for config in group]
        return results

    def _engine(self, config: Config) -> SignalEngine:
        return self._rules[config.session.rule](config.signals, self._research.instrument)

    def _trade(self, config: Config, found: Rows) -> list[TrialResult]:
        time_ranges = zip(self._job.time_ranges, self._spans, strict=True)
        return [self._trade_time_range(config, found, *time_range) for time_range in time_ranges]

    def _trade_time_range(self, config: Config, found: Rows, time_range: TimeRange, span: Span) -> TrialResult:
        research, (begin_s, end_s) = self._research, time_range
        tables, _ = research.trade(config, found, span, self._buffers, is_brief=True)
        if tables is not None:
            bars = research.bars(config.bars).rows
            figures = figures_of(performance_data_of(tables, bars, self._unit), self._job.period_ms)
            return TrialResult(*figures, "compiled", tables.extrapolated, _halted_in(tables.changes))
        done = backtest(research, config, self._engine(config), begin_s=begin_s, end_s=end_s, path="events")
        run = done.frames()
        changes = run.breaker.reset_index()
        times = changes["time"].astype("datetime64[ms, UTC]").astype("int64")
        halted = _halted(times, changes["rule"], (changes["action"] != "resume") & changes["release_at"].isna())
        figures = figures_of(performance_data(run), self._job.period_ms)
        return TrialResult(*figures, "events", done.extrapolated, halted)


def _halted_in(changes: Rows) -> str:
    """Return `_halted` of a compiled session's changes of the circuit breaker."""
    waits = (changes["released"] == 0) & (changes["release_at"] >= NEVER)
    if not waits.any():
        return ""
    rules = [RULES[number] for number in changes["rule"].tolist()]
    return _halted(changes["time"].tolist(), rules, waits.tolist())


def _halted(times: Iterable[int], rules: Iterable[str], waits: Iterable[bool]) -> str:
    """Return the rules that wait for an operator at the end, and since when, as text.

    Args:
        times: time of each change of the circuit breaker, ms UTC.
        rules: the rule that tripped, or was released.
        waits: whether the rule waits for an operator from then on.
    """
    held: dict[str, int] = {}
    for time, rule, is_waiting in zip(times, rules, waits, strict=True):
        held.pop(rule, None)
        if is_waiting:
            held[rule] = time
    return ", ".join(f"{rule} {pd.Timestamp(time, unit='ms'):%Y-%m-%d %H:%M} UTC" for rule, time in held.items())
