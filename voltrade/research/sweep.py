"""Many backtests over one tape: grids and random search, and walk-forward, with luck reckoned in.

Any parameter of a strategy can be swept, the rule itself too. Settings are grouped by what has to be made anew for
them: bars once for each bar setting, decisions once for each signal setting; then each is one run of the compiled loop.
Where they run is up to a `concurrent.futures.Executor`: threads by default, processes, or
`dask.distributed.Client.get_executor()` for a cluster.

A search finds the luckiest setting as readily as the best one. So every result keeps how much was tried, and says in
words whether the best is better than luck (`performance.judge`).
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path
from threading import local
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from voltrade.compiled import Rows, compiled
from voltrade.config import Config, SignalSettings, parameter_homes, refuse_unknown
from voltrade.data.tape import Tape, TapeReport
from voltrade.errors import ConfigError, VoltradeError
from voltrade.model import HOUR_MS, MONEY, NEVER, Floats, Funding, Int64s, Marks, Trades
from voltrade.report import performance
from voltrade.report import summary as report
from voltrade.report.charts import heat_map, luck_chart, walk_forward_chart
from voltrade.report.performance import Course, Figures, Judgement, Returns, figures_of, judge
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.prepared_tape import Research, Span, Tables
from voltrade.risk import RULES
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.rule_file import RuleAsLoaded, load_rule

Choices = Iterable[Any] | Callable[[np.random.Generator], Any]
"""What a parameter may be: values of which each is tried or one is drawn, or a function that draws one."""

FIGURES = tuple(figure.name for figure in fields(Figures))

TRAINING = ("sharpe, training", "halted, training")
"""What a fold's table says of the chosen setting's training."""

COLUMNS = (*FIGURES, "path", "halted", "begin", "end", *TRAINING)
"""Columns of the tables beside the swept parameters."""

SHOWN = ("sharpe", "net", "round_trips", "win_rate", "profit_factor", "max_drawdown", "halted")
"""Figures that a result shows of each setting; its frame has all."""

MONEY_FIGURES = ("net", "realised", "fees", "funding", "equity_change", "max_drawdown", "turnover")
"""Figures that are in the quote asset."""

_NUMBER = "{:,.4g}".format

TASKS = 16
"""At least about as many pieces are handed to an executor, so that the last end together and progress can be seen."""

LARGEST = 100
"""Settings in a piece at most: a search that is interrupted waits for the pieces that run."""

SWEPT_OF_SESSION = ("rule", "duration_s", "on_duration_end")
"""Parameters of the session that can be swept; the others choose the tape, or mean nothing to a backtest."""

SIDE_BY_SIDE = 8
"""At most so many rules look at the bars together; the signals of each take as much memory as it has bars."""


# --- one setting ------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """A setting's figures on one stretch of the tape."""

    figures: Figures
    returns: Returns
    path: str
    halted: str = ""
    """Rule of the circuit breaker that waits for a person, and since when: nothing was traded from there on."""


Result = list[Outcome] | VoltradeError
"""A setting's outcomes, one a stretch, or why it can't be traded."""

Stretch = tuple[float, float | None]
"""From and up to which second after the tape's first trade is traded."""


class Job(NamedTuple):
    """What all settings of a search share beside what they have in common."""

    stretches: Sequence[Stretch]
    """Each setting is traded on each of them, from nothing."""
    rules: Mapping[str, type[SignalEngine] | RuleAsLoaded]
    """By the names that settings have for them: what a search began with trades, whatever becomes of the file."""
    period_ms: int | None = None
    """Of the returns; None for what suits each stretch."""

    def for_other_processes(self) -> Job:
        """The same with each rule of a file as the file, which makes it anew where nobody has its class."""
        rules = {name: RuleAsLoaded.of(rule) or rule for name, rule in self.rules.items()}
        return self._replace(rules=rules)


class Sent(NamedTuple):
    """Settings on their way to another process, which may lack the class that a rule file makes for its own."""

    rule: str
    rest: str
    """All of them, as JSON."""

    @staticmethod
    def of(config: Config) -> Sent:
        return Sent(config.session.rule, config.model_dump_json())


class _Totals(NamedTuple):
    """What a session's trips and fills add up to; money in 1e-8."""

    nets: Floats
    """Of each round trip, in the quote asset."""
    lots: Int64s
    """Of each fill, signed."""
    long_trips: int
    realised: int
    fees: int
    funding: int
    ticklots: int
    """Of all fills."""


@compiled
def _totals(trips: Rows, fills: Rows, orders: Rows) -> _Totals:
    nets, lots = np.empty(len(trips)), np.empty(len(fills), np.int64)
    longs, realised, fees, funding, ticklots = 0, 0, 0, 0, 0
    for number in range(len(trips)):
        trip = trips[number]
        nets[number] = (trip.realised - trip.fees + trip.funding) / MONEY
        longs += trip.side > 0
        realised, fees, funding = realised + trip.realised, fees + trip.fees, funding + trip.funding
    for number in range(len(fills)):
        fill = fills[number]
        lots[number] = fill.quantity * orders[fill.order].order.side
        ticklots += fill.quantity * fill.price
    return _Totals(nets, lots, longs, realised, fees, funding, ticklots)


def course_of(tables: Tables, bars: Rows, money_per_ticklot: int) -> Course:
    """Take from a session's tables what its figures are made from."""
    totals = _totals(tables.trips, tables.fills, tables.orders)
    shown = bars[tables.first_bar : tables.bars]
    return Course(
        bars=len(shown),
        signals=int(np.count_nonzero(tables.signals["bar"] < tables.bars)),
        refusals=len(tables.refusals),
        opened=shown["open_time"][:1].tolist(),
        closed=shown["close_time"][-1:].tolist(),
        nets=totals.nets,
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
    """What decisions on the same bars hang on."""
    return config.session.rule, config.signals


class _Worker:
    """Trades settings one after the other, and makes anew only what a setting changes."""

    def __init__(self, research: Research, job: Job) -> None:
        self._research = research.fork()
        self._job = job
        self._spans = [research.span(begin_s, end_s) for begin_s, end_s in job.stretches]
        self._rules = {name: rule if isinstance(rule, type) else rule.load() for name, rule in job.rules.items()}
        self._unit = research.instrument.money_per_ticklot
        self._space: dict[str, Rows] = {}

    def read(self, sent: Sent) -> Config:
        """Make settings anew that were sent from another process."""
        return Config.from_json(sent.rest, self._rules[sent.rule].settings_type)

    def trade(self, configs: Sequence[Config]) -> list[Result]:
        """Return the outcomes of settings that share their bars, each on each stretch, or why it can't be traded."""
        try:
            self._research.bars(configs[0].bars)
        except VoltradeError as error:  # folding again for each would fail alike
            return [error] * len(configs)
        try:
            return self._trade_together(configs)
        except VoltradeError as error:
            return [error] if len(configs) == 1 else [self.trade([config])[0] for config in configs]

    def _trade_together(self, configs: Sequence[Config]) -> list[Result]:
        results: list[Result] = []
        alike = [list(group) for _, group in itertools.groupby(configs, key=_rule_of)]
        for start in range(0, len(alike), SIDE_BY_SIDE):
            groups = alike[start : start + SIDE_BY_SIDE]
            engines = [self._engine(group[0]) for group in groups]
            all_found = self._research.find(configs[0].bars, engines, self._space)
            for group, found in zip(groups, all_found, strict=True):
                results += [self._trade(config, found) for config in group]
        return results

    def _engine(self, config: Config) -> SignalEngine:
        return self._rules[config.session.rule](config.signals, self._research.instrument)

    def _trade(self, config: Config, found: Rows) -> list[Outcome]:
        stretches = zip(self._job.stretches, self._spans, strict=True)
        return [self._trade_stretch(config, found, *stretch) for stretch in stretches]

    def _trade_stretch(self, config: Config, found: Rows, stretch: Stretch, span: Span) -> Outcome:
        research, (begin_s, end_s) = self._research, stretch
        tables, _ = research.trade(config, found, span, self._space, is_brief=True)
        if tables is not None:
            bars = research.bars(config.bars).rows
            halted = _halted_in(tables.changes)
            return Outcome(*figures_of(course_of(tables, bars, self._unit), self._job.period_ms), "compiled", halted)
        done = backtest(research, config, self._engine(config), begin_s=begin_s, end_s=end_s, path="events")
        run = done.frames()
        changes = run.breaker.reset_index()
        halted = _halted(changes["time"], changes["rule"], changes["action"] == "resume", changes["resume_at"].isna())
        return Outcome(*figures_of(report.course(run), self._job.period_ms), "events", halted)


def _halted_in(changes: Rows) -> str:
    """As `_halted`, of a compiled session's changes of the breaker."""
    times = pd.to_datetime(changes["time"], unit="ms", utc=True)
    rules = [RULES[number] for number in changes["rule"]]
    return _halted(times, rules, changes["resumed"] != 0, changes["resume_at"] >= NEVER)


def _halted(times: Iterable[Any], rules: Iterable[str], resumed: Iterable[Any], by_person: Iterable[Any]) -> str:
    """Say which rules wait for a person at the end, and since when."""
    held: dict[str, str] = {}
    for time, rule, is_resumed, waits in zip(times, rules, resumed, by_person, strict=True):
        held.pop(rule, None)
        if waits and not is_resumed:
            held[rule] = f"{rule} {time:%Y-%m-%d %H:%M} UTC"
    return ", ".join(held.values())


# --- many settings, wherever they run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tape in a folder, for processes that don't share our memory: each maps it instead of being sent it."""

    folder: Path
    symbol: str
    source: str
    synthetic: bool
    report: TapeReport = field(compare=False)

    @staticmethod
    def write(tape: Tape, folder: Path) -> _Stored:
        for part in (tape.trades, tape.marks, tape.funding):
            if part is not None:
                for name in _columns_of(type(part)):
                    np.save(folder / f"{type(part).__name__}.{name}.npy", getattr(part, name))
        return _Stored(folder.resolve(), tape.trades.symbol, tape.source, tape.synthetic, tape.report)

    def read(self) -> Tape:
        trades, marks, funding = (self._mapped(kind) for kind in (Trades, Marks, Funding))
        of_exchange = Marks(**marks) if marks else None, Funding(**funding) if funding else None
        return Tape(Trades(self.symbol, **trades), self.report, self.source, self.synthetic, *of_exchange)

    def _mapped(self, kind: type[Any]) -> dict[str, Any]:
        """The columns of a part of the tape; none where the tape lacks it."""
        files = {name: self.folder / f"{kind.__name__}.{name}.npy" for name in _columns_of(kind)}
        return {name: np.load(file, mmap_mode="r") for name, file in files.items() if file.exists()}


def _columns_of(kind: type[Any]) -> list[str]:
    return [column.name for column in fields(kind) if column.name != "symbol"]


@lru_cache(maxsize=1)
def _opened(stored: _Stored) -> Research:
    return Research(stored.read())


def _trade_piece(source: Research | _Stored, job: Job, settings: Sequence[Config | Sent]) -> list[Result]:
    """What is handed to an executor: some settings, and where their tape is."""
    if getattr(_OF_THREAD, "serves", None) != (source, job):
        _OF_THREAD.worker = _Worker(source if isinstance(source, Research) else _opened(source), job)
        _OF_THREAD.serves = source, job
    worker: _Worker = _OF_THREAD.worker
    return worker.trade([one if isinstance(one, Config) else worker.read(one) for one in settings])


_OF_THREAD = local()
"""The last worker of a thread: what it made, and the memory for its tables, serve the next piece."""


def _trade_all(
    research: Research, job: Job, settings: Trials, executor: Executor | None, progress: bool
) -> tuple[Trials, list[list[Outcome]]]:
    """Trade all settings; return those that could be, with the outcomes of each."""
    configs = settings.configs
    results: list[Result] = [[] for _ in configs]
    with ExitStack() as stack:
        source: Research | _Stored = research
        handed: Sequence[Config | Sent] = configs
        if executor is None:
            executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        elif not isinstance(executor, ThreadPoolExecutor):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="voltrade-sweep-")))
            source = _Stored.write(research.tape, folder)
            job = job.for_other_processes()
            handed = [Sent.of(config) for config in configs]
        bar: Any = tqdm(total=len(configs), unit="setting", disable=not progress)
        stack.enter_context(bar)
        futures = {
            executor.submit(_trade_piece, source, job, [handed[number] for number in piece]): piece
            for piece in _pieces(configs)
        }
        try:
            for future in as_completed(futures):
                for number, result in zip(futures[future], future.result(), strict=True):
                    results[number] = result
                bar.update(len(futures[future]))
        finally:
            for future in futures:
                future.cancel()
    return settings.split(results)


def _pieces(configs: Sequence[Config]) -> Iterator[list[int]]:
    """Numbers of settings, cut into pieces that share their bars; those that share their decisions stand together."""
    most = min(LARGEST, -(-len(configs) // TASKS))
    keys = [
        (config.bars.model_dump_json(), config.session.rule, config.signals.model_dump_json()) for config in configs
    ]
    order = sorted(range(len(configs)), key=keys.__getitem__)
    for _, group in itertools.groupby(order, lambda number: keys[number][0]):
        numbers = list(group)
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]


# --- what is tried ----------------------------------------------------------------------------------------------------


class Trials(NamedTuple):
    """What a search tries."""

    chosen: list[dict[str, Any]]
    """The swept parameters of each setting."""
    configs: list[Config]
    """The settings; no two are the same."""
    refused: list[tuple[dict[str, Any], str]]
    """The swept parameters of what can't be tried, with the reason."""
    rules: dict[str, type[SignalEngine]]
    """The rules, by the names that the settings have for them."""

    def split(self, results: Sequence[Result]) -> tuple[Trials, list[list[Outcome]]]:
        """Put those that couldn't be traded among the refused; return what is left, with the outcomes of each.

        Raises:
            ConfigError: nothing is left.
        """
        left = Trials([], [], list(self.refused), self.rules)
        outcomes: list[list[Outcome]] = []
        for parameters, config, result in zip(self.chosen, self.configs, results, strict=True):
            if isinstance(result, VoltradeError):
                left.refused.append((parameters, str(result)))
            else:
                left.chosen.append(parameters)
                left.configs.append(config)
                outcomes.append(result)
        return left.checked(), outcomes

    def checked(self) -> Trials:
        """Return these if there are any.

        Raises:
            ConfigError: there are none.
        """
        if not self.configs:
            reason = f": {self.refused[0][1]}" if self.refused else ""
            raise ConfigError(f"sweep: must have at least one setting that is allowed, had none{reason}")
        return self


def settings_of(
    research: Research,
    config: Config,
    grid: Mapping[str, Choices],
    trials: int | None,
    seed: int,
    rule: type[SignalEngine] | None = None,
) -> Trials:
    """Make the settings of a grid, or draw `trials` of them; what comes a second time is left out.

    Each rule is given the parameters that it has; those that only another rule of the search has are not among its own.

    Raises:
        ConfigError: a parameter is unknown, can't vary or has no choices, `trials` or `seed` is impossible, or nothing
            is left to try.
        DataError: the tape is of another symbol than `config`.
    """
    for name, number, least in (("trials", 1 if trials is None else trials, 1), ("seed", seed, 0)):
        if not _is_integer_from(number, least):
            raise ConfigError(f"{name}: must be a whole number from {least} on, was {number!r}")
    if rule and "rule" in grid:
        raise ConfigError(f"rule: can't vary where {rule.__name__} is given, was {grid['rule']!r}")
    choices = {name: _choices_of(name, given) for name, given in grid.items()}
    tried = list(_grid(choices) if trials is None else _drawn(choices, trials, seed))
    names = dict.fromkeys(parameters.get("rule", config.session.rule) for parameters in tried)
    rules, bases, broken = _rules_of(names, config, rule)
    known = [parameter_homes(type(base.signals)) for base in (config, *bases.values())]
    _check_names(grid, {name: home for homes in known for name, home in homes.items()})
    found: dict[Config, dict[str, Any]] = {}
    refused: list[tuple[dict[str, Any], str]] = []
    for parameters in tried:
        name = parameters.get("rule", config.session.rule)
        if name in broken:
            refused.append((parameters, broken[name]))
            continue
        homes = parameter_homes(rules[name].settings_type)
        its_own = {name: value for name, value in parameters.items() if name in homes}
        try:
            changed = bases[name].changed(**its_own)
            research.check(changed)
        except ConfigError as error:
            refused.append((parameters, str(error)))
        else:
            found.setdefault(changed, its_own)
    return Trials(list(found.values()), list(found), refused, rules).checked()


def _rules_of(
    names: Iterable[str], config: Config, rule: type[SignalEngine] | None
) -> tuple[dict[str, type[SignalEngine]], dict[str, Config], dict[str, str]]:
    """Load rules; return them, the settings fitted to each, and why others can't be had."""
    rules: dict[str, type[SignalEngine]] = {}
    bases: dict[str, Config] = {}
    broken: dict[str, str] = {}
    for name in names:
        try:
            loaded = rule or load_rule(name)
            signals = config.signals.converted_to(loaded.settings_type)
            bases[name] = config.model_copy(update={"signals": signals})
            rules[name] = loaded
        except ConfigError as error:
            broken[name] = str(error)
    return rules, bases, broken


def _check_names(grid: Mapping[str, Choices], homes: Mapping[str, str]) -> None:
    refuse_unknown(grid, homes)
    for name in grid:
        if homes[name] == "session" and name not in SWEPT_OF_SESSION:
            raise ConfigError(f"{name}: can't vary in a search, which trades one tape, was {grid[name]!r}")
        if name in COLUMNS:
            raise ConfigError(f"{name}: can't vary in a search, whose table has a column of this name already")


def _choices_of(name: str, given: Choices) -> list[Any] | Callable[[np.random.Generator], Any]:
    """The values of a parameter as a list, in which they are drawn by their place, or the function that draws one."""
    if callable(given):
        return given
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"{name}: must be values, as in [{given!r}], or a function that draws one, was {given!r}")
    values = [_plain(value) for value in given]
    if not values:
        raise ConfigError(f"{name}: must have at least one value to try, was {given!r}")
    return values


def _grid(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, choices in grid.items():
        if callable(choices):
            raise ConfigError(f"{name}: must be values in a grid; a function is drawn from, with trials=")
    for combination in itertools.product(*grid.values()):
        yield dict(zip(grid, combination, strict=True))


def _drawn(grid: Mapping[str, Any], trials: int, seed: int) -> Iterator[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    for _ in range(trials):
        yield {
            name: _plain(choices(chance)) if callable(choices) else choices[int(chance.integers(len(choices)))]
            for name, choices in grid.items()
        }


def _plain(value: Any) -> Any:
    """Numpy's numbers as Python's, which settings want."""
    return value.item() if isinstance(value, np.generic) else value


# --- the result -------------------------------------------------------------------------------------------------------


class Sweep:
    """What a sweep found; it shows itself in a notebook.

    Attributes:
        frame: one row a setting: the swept parameters, then the fields of `Figures` and the `path` that it ran by.
        refused: one row a setting that is not allowed or can't be traded, with the reason; these are no trials.
        parameters: names of the swept parameters.
        trials: settings that were tried. Kept with the result: the best of many is worth less than the best of few.
    """

    def __init__(
        self,
        research: Research,
        job: Job,
        settings: Trials,
        parameters: Sequence[str],
        frame: pd.DataFrame,
        refused: pd.DataFrame,
    ) -> None:
        self.frame = frame
        self.refused = refused
        self.trials = len(frame)
        self.parameters = list(parameters)
        self._research = research
        self._job = job
        self._configs = settings.configs
        self._rules = settings.rules

    @property
    def best(self) -> int:
        """Number of the setting with the highest Sharpe ratio; the first where none has any."""
        sharpes = self.frame["sharpe"].to_numpy()
        return int(np.nanargmax(sharpes)) if np.isfinite(sharpes).any() else 0

    def config(self, number: int | None = None) -> Config:
        """The settings of a row, by default of the best."""
        return self._configs[self.best if number is None else number]

    def backtest(self, number: int | None = None) -> Backtest:
        """Run the setting of a row again, by default the best, for its round trips and charts.

        The rule is the one that the row is of, even where its file was edited since.
        """
        config, ((begin_s, end_s),) = self.config(number), self._job.stretches
        engine = self._rules[config.session.rule](config.signals, self._research.instrument)
        return backtest(self._research, config, engine, begin_s=begin_s, end_s=end_s)

    @cached_property
    def judgement(self) -> Judgement:
        """Whether the best setting is better than the luckiest of as many worthless ones."""
        (result,) = _Worker(self._research, self._job).trade([self.config()])
        assert not isinstance(result, VoltradeError), "what is in the table was traded"
        (best,) = result
        sharpes = self.frame["sharpe"].to_numpy() / math.sqrt(best.returns.a_year)
        return judge(best.returns, best.figures.round_trips, sharpes)

    @property
    def assessment(self) -> str:
        """The judgement in words, and how many settings the circuit breaker switched off before the end."""
        return f"{self.judgement.text}{self._halted_words}"

    @property
    def _halted_words(self) -> str:
        count, best = int((self.frame["halted"] != "").sum()), self.frame["halted"].iloc[self.best]
        if not count:
            return ""
        words = f" The circuit breaker halted {count:,} of the settings before the end: they are judged with it"
        return f"{words}; the best was halted by {best}." if best else f"{words}; the best was not."

    def heat_map(self, x: str, y: str, value: str = "sharpe") -> Any:
        """Draw a figure over two swept parameters as a plotly figure; of settings that share both, the mean."""
        unit = self._research.instrument.quote_asset if value in MONEY_FIGURES else ""
        return heat_map(self.frame, x, y, value, unit)

    def luck_chart(self) -> Any:
        """Draw the Sharpe ratios of all settings against the luckiest of as many worthless ones as a plotly figure."""
        return luck_chart(self.frame["sharpe"].to_numpy(), self.judgement.luckiest)

    def __repr__(self) -> str:
        return f"<Sweep of {self.trials} settings. {self.assessment}>"

    def _repr_html_(self) -> str:
        shown = [*self.parameters, *SHOWN]
        table = self.frame.sort_values("sharpe", ascending=False)[shown].head(10).to_html(float_format=_NUMBER)
        skipped = f", {len(self.refused):,} combinations are not allowed" if len(self.refused) else ""
        head = f"{self.trials:,} settings of {', '.join(self.parameters)} on {self._research.tape.source}{skipped}"
        return f"<h4>{escape(head)}</h4>{self.judgement._repr_html_()}<p>{escape(self._halted_words)}</p>{table}"


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
    """Backtest many settings over a tape.

    Args:
        config: what all settings share.
        grid: parameters to vary, any that `Config.from_parameters` takes but those that choose the tape. Without
            `trials` every combination is tried. A rule's own settings vary where the rule does, and are NaN elsewhere.
        trials: so many settings are drawn instead: of values evenly, of a function by what it draws. What is drawn
            again, or stands in the grid twice, is tried once.
        seed: of the draw.
        begin_s, end_s: as in `backtest`.
        rule: a rule of one's own; by default the one of `config.session.rule`, or the built-in one.
        executor: where the settings run; by default threads on all cores. One that isn't a `ThreadPoolExecutor` is
            taken to run other processes: they read the tape from a temporary folder, in `$TMPDIR` where that is set.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a parameter is unknown, can't vary or has no values, `trials`, `seed`, `begin_s` or `end_s` is
            impossible, or no combination is allowed.
        DataError: the tape is empty, goes back in time, is of another symbol, or has no trade to trade on.
    """
    research = tape if isinstance(tape, Research) else Research(tape)
    settings = settings_of(research, config, grid, trials, seed, rule)
    job = Job([(config.session.begin_s if begin_s is None else begin_s, end_s)], settings.rules)
    settings, outcomes = _trade_all(research, job, settings, executor, progress)
    rows = [
        {**parameters, **vars(outcome.figures), "path": outcome.path, "halted": outcome.halted}
        for parameters, (outcome,) in zip(settings.chosen, outcomes, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=[*grid, *FIGURES, "path", "halted"])
    skipped = pd.DataFrame([{**parameters, "reason": reason} for parameters, reason in settings.refused])
    return Sweep(research, job, settings, list(grid), frame, skipped)


# --- walk-forward -----------------------------------------------------------------------------------------------------


Scheme = Literal["expanding", "rolling", "k_fold"]


class Split(NamedTuple):
    """Stretches to choose a setting on, and one that it is tried on; in seconds after the tape's first trade."""

    train: tuple[Stretch, ...]
    test: Stretch


def walk_forward_splits(
    length_s: float, folds: int, *, begin_s: float = 0.0, rolling: bool = False, purge_s: float = 0.0
) -> list[Split]:
    """Cut a tape from `begin_s` on into `folds` + 1 equal parts, of which each but the first is tried on.

    Training is on what lies before, and ends `purge_s` before the test begins, so that no round trip of the one lasts
    into the other. It begins with the first part, or, `rolling`, one part before its end. Nothing that comes after a
    test is trained on, so there is nothing to put under an embargo. The last test ends with the tape.

    Raises:
        ConfigError: `folds` or `purge_s` is impossible, or a fold has nothing to train on.
    """
    _check_splitting(folds, 1, purge_s=purge_s)
    part = (length_s - begin_s) / (folds + 1)
    bounds = [begin_s + number * part for number in range(folds + 1)]
    splits = []
    for begin, end in zip(bounds[1:], [*bounds[2:], None], strict=True):
        trained = begin - purge_s
        splits.append(Split(((max(begin_s, trained - part) if rolling else begin_s, trained),), (begin, end)))
    return _checked(splits, purge_s)


def k_fold_splits(
    length_s: float, folds: int, *, begin_s: float = 0.0, purge_s: float = 0.0, embargo_s: float = 0.0
) -> list[Split]:
    """Cut a tape from `begin_s` on into equal parts; each is tried on, after training on all the others.

    Purging leaves out of the training what may share its outcome with the test: `purge_s`, the longest that a round
    trip lasts, on both sides of it. The embargo leaves out `embargo_s` more behind the test, where what the market then
    remembers of it would leak into the training. Lopez de Prado, "Advances in Financial Machine Learning", 2018, 7.4.

    Raises:
        ConfigError: `folds`, `purge_s` or `embargo_s` is impossible, or a fold has nothing to train on.
    """
    _check_splitting(folds, 2, purge_s=purge_s, embargo_s=embargo_s)
    part = (length_s - begin_s) / folds
    bounds = [begin_s + number * part for number in range(folds)]
    splits = []
    for begin, end in zip(bounds, [*bounds[1:], None], strict=True):
        train: list[Stretch] = []
        if begin - purge_s > begin_s:
            train.append((begin_s, begin - purge_s))
        if end is not None and end + purge_s + embargo_s < length_s:
            train.append((end + purge_s + embargo_s, None))
        splits.append(Split(tuple(train), (begin, end)))
    return _checked(splits, purge_s)


def _splits_by(
    scheme: str, length_s: float, folds: int, begin_s: float, purge_s: float, embargo_s: float
) -> list[Split]:
    if scheme not in get_args(Scheme):
        raise ConfigError(f"scheme: must be one of {', '.join(get_args(Scheme))}, was {scheme!r}")
    if scheme == "k_fold":
        return k_fold_splits(length_s, folds, begin_s=begin_s, purge_s=purge_s, embargo_s=embargo_s)
    return walk_forward_splits(length_s, folds, begin_s=begin_s, rolling=scheme == "rolling", purge_s=purge_s)


def _check_splitting(folds: int, fewest: int, **times_s: float) -> None:
    if not _is_integer_from(folds, fewest):
        raise ConfigError(f"folds: must be a whole number from {fewest} on, was {folds!r}")
    for name, time_s in times_s.items():
        if not 0 <= time_s < math.inf:
            raise ConfigError(f"{name}: must be a number of seconds from 0 on, was {time_s!r}")


def _is_integer_from(number: object, least: int) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool) and int(number) >= least


def _checked(splits: list[Split], purge_s: float) -> list[Split]:
    for split in splits:
        if not split.train or any(begin >= end for begin, end in split.train if end is not None):
            raise ConfigError(
                f"folds: purging {purge_s:g} s must leave something to train on before {split.test[0]:g} s"
            )
    return splits


class WalkForward:
    """What settings did on stretches that they were not chosen on; it shows itself in a notebook.

    Attributes:
        frame: one row a fold: the test's begin and end (UTC), the setting chosen in training, its Sharpe ratio there
            and what halted it there until a person came, and its figures in the test. Where no setting had any in
            training, none was tried, and all of these are NaN. Each training and each test is a session of its own
            with the whole capital and all limits anew: losses of several tests can exceed a limit of one.
        trials: settings that were tried in each fold.
        judgement: of all tests together. What was chosen had not seen them, so it is held against zero.
    """

    def __init__(self, frame: pd.DataFrame, trials: int, judgement: Judgement, source: str) -> None:
        self.frame = frame
        self.trials = trials
        self.judgement = judgement
        self._source = source

    @property
    def assessment(self) -> str:
        """The judgement in words."""
        return self.judgement.text

    def chart(self) -> Any:
        """Draw the Sharpe ratio of each fold's choice in training and in the test as a plotly figure."""
        return walk_forward_chart(self.frame)

    def __repr__(self) -> str:
        return f"<WalkForward of {len(self.frame)} folds. {self.assessment}>"

    def _repr_html_(self) -> str:
        head = f"{len(self.frame)} folds on {self._source}, each the best of {self.trials:,} settings in training"
        hidden = ("end", "path", *(name for name in FIGURES if name not in SHOWN))
        shown = self.frame.drop(columns=[name for name in hidden if name in self.frame])
        shown = shown.set_axis(pd.RangeIndex(1, len(shown) + 1, name="fold"))  # as the chart counts them
        table = shown.assign(begin=shown["begin"].dt.strftime("%Y-%m-%d %H:%M UTC")).to_html(float_format=_NUMBER)
        return f"<h4>{escape(head)}</h4>{self.judgement._repr_html_()}{table}"


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
    """Choose the setting with the highest Sharpe ratio on one part of a tape and try it on another, fold by fold.

    Both lie from `config.session.begin_s` on; what lies before is warm-up.

    Args:
        scheme: `expanding` and `rolling` train on what lies before each test, see `walk_forward_splits`; `k_fold` on
            what lies around it, see `k_fold_splits`.
        purge_s: between training and test; by default `max_holding_s`, or an hour where that is 0.
        embargo_s: for `k_fold`: more of it behind a test.
        config, grid, trials, seed, rule, executor, progress: as in `sweep`.

    Raises:
        ConfigError: a parameter is unknown or can't vary, no combination is allowed, `scheme`, `folds`, `purge_s`,
            `embargo_s`, `trials` or `seed` is impossible, or a fold has nothing to train on.
        DataError: the tape is empty, goes back in time, is of another symbol, or a stretch has no trade.
    """
    research = tape if isinstance(tape, Research) else Research(tape)
    settings = settings_of(research, config, grid, trials, seed, rule)
    times = research.tape.trades.time
    length_s = (int(times[-1]) - int(times[0])) / 1000
    purge_s = (config.exits.max_holding_s or 3_600.0) if purge_s is None else purge_s
    splits = _splits_by(scheme, length_s, folds, config.session.begin_s, purge_s, embargo_s)
    stretches = list(dict.fromkeys(stretch for split in splits for stretch in (*split.train, split.test)))
    shortest = min((length_s if end is None else end) - begin for begin, end in stretches)
    period_ms = performance.period_of(int(1000 * shortest)) or HOUR_MS
    job = Job(stretches, settings.rules, period_ms)
    settings, outcomes = _trade_all(research, job, settings, executor, progress)
    by_stretch = [dict(zip(stretches, of_setting, strict=True)) for of_setting in outcomes]
    rows: list[dict[str, Any]] = []
    tested: list[Outcome] = []
    for split in splits:
        begin, end = (
            pd.Timestamp(int(times[-1] if at is None else times[0] + int(1000 * at)), unit="ms", tz="UTC")
            for at in split.test
        )
        rows.append({"begin": begin, "end": end})
        trained = [_joined([of[stretch].returns for stretch in split.train], period_ms) for of in by_stretch]
        sharpes = [returns.annual_sharpe for returns in trained]
        if not np.isfinite(sharpes).any():  # nothing speaks for any of them, so none is tried
            continue
        best = int(np.nanargmax(sharpes))
        tested.append(by_stretch[best][split.test])
        rows[-1] |= {
            **settings.chosen[best],
            "sharpe, training": sharpes[best],
            "halted, training": ", ".join(of for part in split.train if (of := by_stretch[best][part].halted)),
            "halted": tested[-1].halted,
            **vars(tested[-1].figures),
        }
    frame = pd.DataFrame(rows, columns=["begin", "end", *grid, *TRAINING, *FIGURES, "halted"])
    returns = _joined([outcome.returns for outcome in tested], period_ms)
    trips = sum(outcome.figures.round_trips for outcome in tested)
    chosen_in = f"{folds} folds" if len(tested) == folds else f"{len(tested)} of {folds} folds"
    judgement = judge(returns, trips, tried=f"what was chosen in {chosen_in}")
    return WalkForward(frame, len(settings.configs), judgement, research.tape.source)


def _joined(parts: Sequence[Returns], period_ms: int) -> Returns:
    """Returns of several stretches, all of the same period, as one series."""
    return Returns(np.concatenate([np.empty(0), *(part.values for part in parts)]), period_ms)
