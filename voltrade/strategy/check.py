"""`python -m voltrade check`: checks a rule for look-ahead, hidden state and a wrong warm-up length.

A rule is a step from a state and a bar to a decision. It must make the same decisions when it runs again, on every
prefix of a synthetic tape, bar by bar, on trades in blocks of any size, and from other starting points. Running a rule
can't find data in its code, such as a table of future prices; so its code is read too, by `code_reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from voltrade.bar_pipeline import BarPipeline
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Rows
from voltrade.config import BarSettings, SignalSettings
from voltrade.data.synthetic import TRADES_PER_HOUR, synthetic_market
from voltrade.errors import ConfigError
from voltrade.model import DAY_MS, NEVER, Floats, Instrument, Int64s, Trades
from voltrade.signal_engine import AGREEMENT, RULE_BAR, SignalEngine, fill_rule_bar
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.code_reader import REQUIREMENT, CodeReader, refuse_other_data

TRADES_A_BAR = 20
BARS_AFTER_WARMUP = 300
BARS_TO_TRY = 300
FIXTURE_SEED = 9
FIXTURE_START_MS = 20_458 * DAY_MS - 1_800_000
"""Half an hour before a UTC midnight, so that the end of a day cuts a bar of the fixture."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class RuleReport:
    """The results of all checks of a rule."""

    rule: str
    compiled: bool
    bars: int
    signals: int
    """Count on the whole fixture."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check has passed."""
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "plain Python"
        lines = [f"{self.rule}, {how}: {self.signals} signals on {self.bars} bars of a synthetic tape"]
        lines += [
            f"  {'ok  ' if finding.ok else 'FAIL'}  {finding.name:21} {finding.detail}" for finding in self.findings
        ]
        return "\n".join([*lines, "no fault was found" if self.ok else "not to be trusted"])


@dataclass(frozen=True, slots=True, eq=False)
class Fixture:
    """Trades and the bars made from them: some are tainted, and one is cut by the end of a day."""

    trades: Trades
    settings: BarSettings
    rows: Rows


def fixture(instrument: Instrument, bars: int) -> Fixture:
    """Make a synthetic tape of at least `bars` bars, with a few trades missing."""
    trades = _tape(instrument, hours=1 + 1.5 * bars * TRADES_A_BAR / TRADES_PER_HOUR)
    settings = BarSettings(unit="trades", threshold=Decimal(TRADES_A_BAR))
    rows = VolumeBarAggregator(settings, instrument).process(trades)[:bars]
    last = int(np.searchsorted(trades.id, rows["last_trade_id"][-1], side="right"))
    return Fixture(trades[:last], settings, rows)


def whole_days(instrument: Instrument, bars: int) -> Rows:
    """Make bars of half an hour and the two UTC days after it, each day with at least `bars` bars if possible."""
    trades = _tape(instrument, hours=48.5)
    shortest = int(np.bincount(trades.time // DAY_MS - FIXTURE_START_MS // DAY_MS)[1:3].min())
    settings = BarSettings(unit="trades", threshold=Decimal(max(1, shortest // bars)))
    return VolumeBarAggregator(settings, instrument).process(trades)


def _tape(instrument: Instrument, hours: float) -> Trades:
    trades = synthetic_market(instrument, FIXTURE_SEED, hours, FIXTURE_START_MS)
    return trades[trades.id % (97 * TRADES_A_BAR) > 3]


def check(
    rule: type[SignalEngine] = SignalEngine,
    settings: SignalSettings | None = None,
    instrument: Instrument | None = None,
) -> RuleReport:
    """Check a rule for look-ahead, for hidden state, and for the length of its warm-up.

    Raises:
        ConfigError: The rule's declarations contradict each other, or it fails on a bar.
    """
    instrument = instrument or shipped_instrument("BTCUSDT")
    new = partial(rule, settings or rule.settings_type(), instrument)
    engine = new()
    made = fixture(instrument, engine.warmup_bars + BARS_AFTER_WARMUP)
    whole = _decisions(new(), made.rows)
    runs = (
        _check_repeat(new, made, whole),
        _check_prefixes(new, made, whole),
        _check_bar_by_bar(new, made, whole),
        _check_blocks(new, made, whole),
        _check_warmup(new),
    )
    return RuleReport(
        rule.__name__,
        engine.program.is_compiled,
        len(made.rows),
        int(np.count_nonzero(whole["signal"])),
        (_check_code(rule), *runs),  # read after the runs, so that data that they added to it is found
    )


def try_rule(rule: type[SignalEngine], settings: SignalSettings) -> None:
    """Run a rule over some bars of a synthetic tape, and refuse what can be told in a moment.

    What else it may do wrong, such as raise an error, is told where it happens.

    Raises:
        ConfigError: The rule returned something other than -1, 0 or 1, decides otherwise when it runs again or bar by
            bar, or changes the bars or its settings.
    """
    new = partial(rule, settings, shipped_instrument("BTCUSDT"))
    made = _some_bars(shipped_instrument("BTCUSDT"))
    try:
        whole = new().on_volume_bars(made.rows)
        findings = [_check_repeat(new, made, whole), _check_bar_by_bar(new, made, whole)]
    except ConfigError:
        raise
    except (Exception, SystemExit):  # whatever a rule may raise
        return
    for finding in findings:
        if not finding.ok:
            raise ConfigError(f"rule: {rule.__name__}: {finding.detail}: {REQUIREMENT}")


def refuse_impure(rule: type[SignalEngine], settings: SignalSettings) -> None:
    """Refuse a rule whose results could not be had again: it knows or keeps more than it declares, see `try_rule`.

    Raises:
        ConfigError: Names the function and what it uses, or the bar that was decided otherwise.
    """
    given: Any = rule  # a class is hashable, which its type doesn't say
    if rule is not SignalEngine:
        _refuse_once(given, settings)


@lru_cache(maxsize=256)
def _refuse_once(rule: type[SignalEngine], settings: SignalSettings) -> None:
    refuse_other_data(rule)
    try_rule(rule, settings)


@cache
def _some_bars(instrument: Instrument) -> Fixture:
    return fixture(instrument, BARS_TO_TRY)


# --- runs that must agree ---------------------------------------------------------------------------------------------

MakeEngine = Callable[[], SignalEngine]
"""Makes an engine that has seen no bar."""


def _decisions(engine: SignalEngine, rows: Rows) -> Rows:
    """Return the decisions of an engine on bars.

    Raises:
        ConfigError: The rule fails; names the bar.
    """
    try:
        return engine.on_volume_bars(rows)
    except (Exception, SystemExit) as error:  # whatever a rule may raise
        at = np.flatnonzero((rows["number"] == engine.bar["number"]) & (rows["close_time"] == engine.bar["close_time"]))
        where = f"bar {at[0]}" if len(at) else "its bars"
        name = type(engine).__name__
        raise ConfigError(f"{name}: must take every bar, at {where} was {type(error).__name__}: {error}") from error


def _difference(decisions: Rows, whole: Rows) -> str | None:
    """Return the first bar and field in which decisions differ from those on the whole fixture; None if they agree."""
    first: tuple[int, str] | None = None
    for name in whole.dtype.names or ():
        unequal = decisions[name] != whole[name]
        if whole[name].dtype.kind == "f":
            unequal &= ~(np.isnan(decisions[name]) & np.isnan(whole[name]))
        if unequal.any():
            first = min(first or (len(whole), ""), (int(np.argmax(unequal)), name))
    if first is None:
        return None
    bar, name = first
    return f"bar {bar}: {name} was {decisions[name][bar]}, of the whole {whole[name][bar]}"


def _check_repeat(new: MakeEngine, made: Fixture, whole: Rows) -> Finding:
    rows, engine = made.rows.copy(), new()
    found = _difference(_decisions(engine, rows), whole)
    if found is None and _difference(rows, made.rows):
        found = "the rule changed the bars it was given"
    return Finding("the same again", found is None, found or "a second run gives the same decisions")


def _check_prefixes(new: MakeEngine, made: Fixture, whole: Rows) -> Finding:
    for count in tqdm(range(1, len(whole) + 1), desc="prefixes", unit="prefix", leave=False, disable=None):
        if found := _difference(_decisions(new(), made.rows[:count]), whole[:count]):
            return Finding("prefixes", False, f"of {count} bars alone, {found}")
    return Finding("prefixes", True, f"each of {len(whole)} prefixes gives the first decisions of the whole")


def _check_bar_by_bar(new: MakeEngine, made: Fixture, whole: Rows) -> Finding:
    engine = new()
    decisions = np.zeros(len(whole), whole.dtype)
    as_given = np.zeros_like(engine.bar)
    for bar, row in enumerate(made.rows):
        decisions[bar] = engine.decide(row)
        fill_rule_bar(row, engine.scale[0], as_given[0])
        for name in RULE_BAR.names or () if engine.bar.tobytes() != as_given.tobytes() else ():
            if engine.bar[name][0] != as_given[name][0]:
                written = f"the rule wrote {engine.bar[name][0]} over {name} of bar {bar}, {as_given[name][0]}"
                return Finding("bar by bar", False, f"{written}: steps that follow read what was written")
    found = _difference(decisions, whole)
    return Finding("bar by bar", found is None, found or "one bar at a time gives the same decisions")


def _check_blocks(new: MakeEngine, made: Fixture, whole: Rows) -> Finding:
    """Check the decisions on trades in random blocks, as live trading and backtests get them."""
    draw = np.random.default_rng(FIXTURE_SEED)
    count = len(made.trades)
    for cuts in (1, 10, 100, 1_000):
        end = count if cuts == 1 else int(draw.integers(count // 2, count))
        edges = np.unique(np.append(draw.integers(0, end, cuts - 1), [0, end]))
        pipeline = BarPipeline(new().instrument, made.settings, new())
        for start, stop in pairwise(edges):
            block, at = made.trades[start:stop], 0
            while at < len(block):
                at = pipeline.process(block, at, NEVER, NEVER)
        if found := _difference(pipeline.decisions, whole[: pipeline.count]):
            return Finding("blocks of trades", False, f"in {cuts} blocks, {found}")
    return Finding("blocks of trades", True, "however trades are cut, the decisions are the same")


def _check_warmup(new: MakeEngine) -> Finding:
    """Check that runs from later starts agree with the whole: each indicator after its own warm-up, the rule after all.

    A day is longer than two warm-ups, so that some runs are compared before their first midnight.
    """
    engine = new()
    rows = whole_days(engine.instrument, 2 * engine.warmup_bars + BARS_AFTER_WARMUP)
    whole = _decisions(new(), rows)
    stated = dict.fromkeys(whole.dtype.names or (), engine.warmup_bars)
    for indicator in engine.indicators:
        stated |= dict.fromkeys(indicator.outputs, indicator.warmup_of(engine.settings))
    runs = {start: _decisions(new(), rows[start:]) for start in _later_starts(rows)}
    worst = 0.0
    for name, bars in stated.items():  # indicators come first, since conditions and signals depend on them
        apart = {start: _apart(run[name], whole[name][start:], bars) for start, run in runs.items()}
        allowed = AGREEMENT if whole[name].dtype.kind == "f" else 0.0
        wrong = {start: start + np.flatnonzero(~(values <= allowed)) for start, values in apart.items()}
        wrong = {start: wrong_bars for start, wrong_bars in wrong.items() if len(wrong_bars)}
        if wrong:
            start, bar = min(wrong), int(wrong[min(wrong)][0])
            one, other = runs[start][name][bar - start], whole[name][bar]
            detail = f"started {start} bars later, {name} at bar {bar} is {one}, of the whole {other}, "
            detail += f"though {bars} bars were said to be enough: {_why_it_differs(wrong, rows)}"
            return Finding("warm-up", False, detail)
        worst = max(worst, *(float(np.max(values)) for values in apart.values()))
    detail = f"each indicator after its own bars, the rule after {engine.warmup_bars} bars: {len(runs)} later starts "
    detail += f"within two days agree to {worst:.0e}; {AGREEMENT:.0e} is asked for"
    return Finding("warm-up", True, detail)


def _midnights(rows: Rows) -> list[int]:
    """Return the numbers of the bars that are the first of a UTC day."""
    return [int(bar) for bar in np.flatnonzero(np.diff(rows["day"])) + 1]


def _later_starts(rows: Rows) -> list[int]:
    """Return bars to start at: the first ones, near midnights and middays, and after the first half's extremes."""
    days = _midnights(rows)
    half = rows[: len(rows) // 2]
    starts = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233]
    starts += [int(half["high"].argmax()) + 1, int(half["low"].argmin()) + 1]
    for first, after in pairwise([*days, len(rows)]):
        starts += [first - 1, first, first + 1, (first + after) // 2]
    return sorted({start for start in starts if start < len(rows)})


def _apart(one: Rows, other: Rows, bars: int) -> Floats:
    """Return the differences between two runs after their warm-up of `bars` bars, relative to the largest value."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    is_same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):  # both infinite
        apart = np.where(is_same, 0.0, np.abs(first - second))  # a NaN in only one of them stays NaN
    ready = max(0, bars - 1)
    apart[:ready] = 0.0
    if other.dtype.kind == "f":
        apart /= float(np.max(np.abs(second[ready:]), initial=0.0, where=np.isfinite(second[ready:]))) or 1.0
    return apart


def _why_it_differs(found: Mapping[int, Int64s], rows: Rows) -> str:
    """Return why a value differs from the whole run; `found` has the bars that differ, by the start of the run."""
    midnights = _midnights(rows)
    is_right_from_midnight = not found.keys() & set(midnights)
    is_right_next_day = all(rows["day"][bars[-1]] == rows["day"][start] for start, bars in found.items())
    is_wrong_each_day = set(rows["day"][midnights]) <= {rows["day"][start] for start in found}
    if is_right_from_midnight and is_right_next_day and is_wrong_each_day:
        return (
            "it is right only from a UTC midnight on. A day may have any number of bars, so no number of bars is "
            "enough: a run that starts within a day has it wrong for the rest of that day. Let it look back over a "
            "number of bars instead"
        )
    if any(bars[-1] == len(rows) - 1 for bars in found.values()):
        return "it still differs at the end of the tape, and may never forget where it began"
    return f"{max(int(bars[-1]) + 2 - start for start, bars in found.items())} were needed here"


def _check_code(rule: type[SignalEngine]) -> Finding:
    reader = CodeReader()
    for found in reader.read_rule(rule):
        return Finding("only what it is given", False, f"{found}: {REQUIREMENT}")
    detail = f"{len(reader.seen)} functions name arguments and {reader.constants} values of constants, no other data"
    return Finding("only what it is given", True, detail)
