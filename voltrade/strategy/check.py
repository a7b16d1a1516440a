"""Whether a rule knows only what it could have known: `python -m voltrade check`.

A backtest of a rule that sees one bar ahead is worth nothing, and it never looks that way. A rule here is a step from
state and bar to a decision, so what it may know is known, and can be tried out: run anew, over every prefix of a
fixture, bar by bar, from trades in any blocks, and from other starts, it must say the same. Data that a rule brings
along can't be found by running it (a table of tomorrow's prices says the same every time), so its code is read too.
Reading finds what a person would write, by mistake or for speed; it is no proof against code that hides what it does.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from functools import partial
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from voltrade.bar_pipeline import BarPipeline
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Rows, plain
from voltrade.config import BarSettings, SignalSettings
from voltrade.data.synthetic import TRADES_PER_HOUR, synthetic_market
from voltrade.errors import ConfigError
from voltrade.model import DAY_MS, NEVER, Floats, Instrument, Int64s, Trades
from voltrade.signal_engine import (
    AGREEMENT,
    RULE_BAR,
    SignalEngine,
    ema_step,
    fill_rule_bar,
    other_overrides,
    overrides_of,
)
from voltrade.simulated.symbols import shipped_instrument

TRADES_A_BAR = 20
BARS_AFTER_WARMUP = 300
FIXTURE_SEED = 9
FIXTURE_START_MS = 20_458 * DAY_MS - 1_800_000
"""Half an hour before a UTC midnight, so that a fixture has a bar that the day's end cut short."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one of the checks found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found about a rule."""

    rule: str
    compiled: bool
    bars: int
    signals: int
    """Of the whole fixture."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
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
    """Trades, and the bars that they fold to: some tainted, one cut by the end of a day."""

    trades: Trades
    settings: BarSettings
    rows: Rows


def fixture(instrument: Instrument, bars: int) -> Fixture:
    """Make a synthetic tape of at least so many bars, with a few trades missing."""
    trades = _tape(instrument, hours=1 + 1.5 * bars * TRADES_A_BAR / TRADES_PER_HOUR)
    settings = BarSettings(unit="trades", threshold=Decimal(TRADES_A_BAR))
    rows = VolumeBarAggregator(settings, instrument).process(trades)[:bars]
    last = int(np.searchsorted(trades.id, rows["last_trade_id"][-1], side="right"))
    return Fixture(trades[:last], settings, rows)


def whole_days(instrument: Instrument, bars: int) -> Rows:
    """Bars of half an hour and the two UTC days after it, each of at least so many, if it has as many trades."""
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
) -> Checked:
    """Check a rule for looking ahead, for keeping what it must not, and for warming up as long as it says.

    Raises:
        ConfigError: the rule's declarations clash, or it fails on a bar.
    """
    instrument = instrument or shipped_instrument("BTCUSDT")
    new = partial(rule, settings or rule.settings_type(), instrument)
    engine = new()
    made = fixture(instrument, engine.warmup_bars + BARS_AFTER_WARMUP)
    whole = _decisions(new(), made.rows)
    runs = (
        _is_the_same_again(new, made, whole),
        _is_the_same_on_prefixes(new, made, whole),
        _is_the_same_bar_by_bar(new, made, whole),
        _is_the_same_in_blocks(new, made, whole),
        _is_warm_when_it_says(new),
    )
    return Checked(
        rule.__name__,
        engine.program.is_compiled,
        len(made.rows),
        int(np.count_nonzero(whole["signal"])),
        (_is_given_only(rule), *runs),  # read last, so that what the runs left in it is seen
    )


# --- runs that must agree ---------------------------------------------------------------------------------------------

New = Callable[[], SignalEngine]


def _decisions(engine: SignalEngine, rows: Rows) -> Rows:
    """The decisions of an engine on bars; where it fails, which bar it was at."""
    try:
        return engine.on_volume_bars(rows)
    except Exception as error:  # whatever a rule may raise
        at = np.flatnonzero((rows["number"] == engine.bar["number"]) & (rows["close_time"] == engine.bar["close_time"]))
        where = f"bar {at[0]}" if len(at) else "its bars"
        name = type(engine).__name__
        raise ConfigError(f"{name}: must take every bar, at {where} was {type(error).__name__}: {error}") from error


def _difference(decisions: Rows, whole: Rows) -> str | None:
    """The first bar and field in which decisions are not those of the whole; None where they agree."""
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


def _is_the_same_again(new: New, made: Fixture, whole: Rows) -> Finding:
    rows, engine = made.rows.copy(), new()
    before = engine.settings_row.tobytes()
    found = _difference(_decisions(engine, rows), whole)
    if found is None and engine.settings_row.tobytes() != before:
        found = "the rule changed its own settings"
    if found is None and _difference(rows, made.rows):
        found = "the rule changed the bars it was given"
    return Finding("the same again", found is None, found or "a second run gives the same decisions")


def _is_the_same_on_prefixes(new: New, made: Fixture, whole: Rows) -> Finding:
    for count in tqdm(range(1, len(whole) + 1), desc="prefixes", unit="prefix", leave=False, disable=None):
        if found := _difference(_decisions(new(), made.rows[:count]), whole[:count]):
            return Finding("prefixes", False, f"of {count} bars alone, {found}")
    return Finding("prefixes", True, f"each of {len(whole)} prefixes gives the first decisions of the whole")


def _is_the_same_bar_by_bar(new: New, made: Fixture, whole: Rows) -> Finding:
    engine = new()
    decisions = np.zeros(len(whole), whole.dtype)
    as_given = np.zeros_like(engine.bar)
    for bar, row in enumerate(made.rows):
        decisions[bar] = engine.decide(row)
        fill_rule_bar(row, engine.scale[0], as_given[0])
        for name in RULE_BAR.names or ():
            if engine.bar[name][0] != as_given[name][0]:
                written = f"the rule wrote {engine.bar[name][0]} over {name} of bar {bar}, {as_given[name][0]}"
                return Finding("bar by bar", False, f"{written}: steps that follow read what was written")
    found = _difference(decisions, whole)
    return Finding("bar by bar", found is None, found or "one bar at a time gives the same decisions")


def _is_the_same_in_blocks(new: New, made: Fixture, whole: Rows) -> Finding:
    """From trades, as live and backtest fold them: cut into blocks at random, and ended anywhere."""
    draw = np.random.default_rng(FIXTURE_SEED)
    count = len(made.trades)
    for cuts in (1, 10, 100, 1_000):
        end = count if cuts == 1 else int(draw.integers(count // 2, count))
        edges = np.unique(np.append(draw.integers(0, end, cuts - 1), [0, end]))
        fold = BarPipeline(new().instrument, made.settings, new())
        for start, stop in pairwise(edges):
            block, at = made.trades[start:stop], 0
            while at < len(block):
                at = fold.process(block, at, NEVER, NEVER)
        if found := _difference(fold.decisions, whole[: fold.count]):
            return Finding("blocks of trades", False, f"in {cuts} blocks, {found}")
    return Finding("blocks of trades", True, "however trades are cut, the decisions are the same")


def _is_warm_when_it_says(new: New) -> Finding:
    """Whether runs from later starts agree with the whole: each indicator once it is ready, the rule once all are.

    A day has room for more than two warm-ups, so that some runs are compared before they have seen a midnight.
    """
    engine = new()
    rows = whole_days(engine.instrument, 2 * engine.warmup_bars + BARS_AFTER_WARMUP)
    whole = _decisions(new(), rows)
    stated = dict.fromkeys(whole.dtype.names or (), engine.warmup_bars)
    for indicator in engine.indicators:
        stated |= dict.fromkeys(indicator.outputs, indicator.warmup_of(engine.settings))
    runs = {start: _decisions(new(), rows[start:]) for start in _later_starts(rows)}
    worst = 0.0
    for name, bars in stated.items():  # indicators come first: they are why conditions and signals differ
        apart = {start: _apart(run[name], whole[name][start:], bars) for start, run in runs.items()}
        allowed = AGREEMENT if whole[name].dtype.kind == "f" else 0.0
        wrong = {start: start + np.flatnonzero(~(values <= allowed)) for start, values in apart.items()}
        wrong = {start: wrong_bars for start, wrong_bars in wrong.items() if len(wrong_bars)}
        if wrong:
            start, bar = min(wrong), int(wrong[min(wrong)][0])
            one, other = runs[start][name][bar - start], whole[name][bar]
            detail = f"started {start} bars later, {name} at bar {bar} is {one}, of the whole {other}, "
            detail += f"though {bars} bars were said to be enough: {_why_it_is_cold(wrong, rows)}"
            return Finding("warm-up", False, detail)
        worst = max(worst, *(float(np.max(values)) for values in apart.values()))
    detail = f"each indicator after its own bars, the rule after {engine.warmup_bars} bars: {len(runs)} later starts "
    detail += f"within two days agree to {worst:.0e}; {AGREEMENT:.0e} is asked for"
    return Finding("warm-up", True, detail)


def _midnights(rows: Rows) -> list[int]:
    """Bars that are the first of a UTC day."""
    return [int(bar) for bar in np.flatnonzero(np.diff(rows["day"])) + 1]


def _later_starts(rows: Rows) -> list[int]:
    """Bars to start at: soon after the first, around midnights and midday, and after the first half's extremes."""
    days = _midnights(rows)
    half = rows[: len(rows) // 2]
    starts = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233]
    starts += [int(half["high"].argmax()) + 1, int(half["low"].argmin()) + 1]
    for first, after in pairwise([*days, len(rows)]):
        starts += [first - 1, first, first + 1, (first + after) // 2]
    return sorted({start for start in starts if start < len(rows)})


def _apart(one: Rows, other: Rows, bars: int) -> Floats:
    """How far values of two runs are apart once they have seen so many bars: numbers on the scale of the largest."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    is_same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):  # infinite in both
        apart = np.where(is_same, 0.0, np.abs(first - second))  # NaN in one is NaN
    ready = max(0, bars - 1)
    apart[:ready] = 0.0
    if other.dtype.kind == "f":
        apart /= float(np.max(np.abs(second[ready:]), initial=0.0, where=np.isfinite(second[ready:]))) or 1.0
    return apart


def _why_it_is_cold(found: Mapping[int, Int64s], rows: Rows) -> str:
    """Why a value differs from that of the whole at these bars, by the start."""
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


# --- what the code reads ----------------------------------------------------------------------------------------------

TRUSTED_MODULES = frozenset(
    {"builtins", "math", "cmath", "_operator", "decimal", "fractions"}
    | {"numpy", "numpy.linalg", "numpy.fft", "numpy.lib.stride_tricks"}
    | {"numba", "numba.core.decorators", "numba.misc.special"}
)
"""Homes of functions and classes that a rule may use: they give what their arguments say."""

READS_ELSEWHERE = frozenset(
    {"open", "input", "eval", "exec", "compile", "globals", "locals", "vars", "id", "hash", "__import__", "breakpoint"}
    | {"getattr", "setattr", "delattr", "type", "super", "attrgetter", "methodcaller"}
    | {"load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap"}
)
"""Those of them that bring in, or keep, what is neither state, bar nor settings, or could do so unread."""

LONGEST_CONSTANT = 64
"""Numbers or characters that one constant of a rule may hold, such as a tuple of weights."""

MOST_CONSTANTS = 512
"""Numbers or characters in all constants of a rule: one that asks for the bar by its number needs as many as bars."""

RULE = f"a rule may know its arguments, and constants of up to {LONGEST_CONSTANT} values, nothing else"


def _is_given_only(rule: type[SignalEngine]) -> Finding:
    reading = _Reading()
    for found in reading.rule(rule):
        return Finding("only what it is given", False, f"{found}: {RULE}")
    detail = f"{len(reading.seen)} functions name arguments and {reading.constants} values of constants, no other data"
    return Finding("only what it is given", True, detail)


@dataclass(slots=True)
class _Reading:
    """Reads functions, and those that they name, for what they know besides their arguments; tells it in words."""

    seen: set[CodeType] = field(default_factory=set)
    constants: int = 0
    """Numbers and characters in the constants that were read so far."""

    def rule(self, rule: type[SignalEngine]) -> Iterator[str]:
        for name in other_overrides(rule):
            yield f"{rule.__name__} overrides {name}"
        methods = overrides_of("on_volume_bar", rule)
        for function in (*(indicator.step for indicator in rule.indicators), rule._detect_signal, *methods):
            if isinstance(plain(function), FunctionType):
                yield from self.function(function)
            else:
                yield f"{rule.__name__} steps through a {type(function).__name__}, which can't be read like a function"
        for method in methods:
            yield from self.shared(method, rule)
        if self.constants > MOST_CONSTANTS:
            yield f"{rule.__name__} has constants of {self.constants} values, more than {MOST_CONSTANTS}"

    def shared(self, method: Any, rule: type[SignalEngine]) -> Iterator[str]:
        """Read what a method takes of its engine that all engines of the rule share."""
        instructions = list(dis.get_instructions(method))
        for number, instruction in enumerate(instructions):
            if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and number:
                name = str(instruction.argval)
                is_of_engine = _owner(instructions, number) == method.__code__.co_varnames[0]
                if is_of_engine and hasattr(rule, name) and not hasattr(SignalEngine, name):
                    yield from self.value(f"{rule.__name__}.{name}", getattr(rule, name), method.__qualname__)

    def function(self, given: Any) -> Iterator[str]:
        function: Any = plain(given)
        if function.__code__ in self.seen:
            return
        self.seen.add(function.__code__)
        where = function.__qualname__
        for name in _attributes_of_its_own(given):
            yield f"{where} keeps an attribute, {name}"
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield from self.value("a default argument", value, where)
        yield from self.code(function.__code__, function, where)

    def code(self, code: CodeType, function: FunctionType, where: str) -> Iterator[str]:
        instructions = list(dis.get_instructions(code))
        is_method = "__class__" in code.co_freevars
        outside = function.__code__.co_freevars  # other shared variables live as long as the call
        for number, instruction in enumerate(instructions):
            operation, name = instruction.opname, str(instruction.argval)
            if is_method and _is_of_super(instructions, number):
                continue
            if operation in ("STORE_GLOBAL", "DELETE_GLOBAL") or (operation == "STORE_DEREF" and name in outside):
                yield f"{where} changes {name}"
            elif operation in ("STORE_ATTR", "DELETE_ATTR"):
                owner = _owner(instructions, number)
                if owner not in code.co_varnames[: code.co_argcount]:
                    yield f"{where} changes {owner}.{name}, and {owner} is none of its arguments"
            elif operation == "IMPORT_NAME":
                yield f"{where} imports {name}"
            elif operation == "LOAD_BUILD_CLASS":
                yield f"{where} makes a class"
            elif operation in ("LOAD_ATTR", "LOAD_METHOD") and name.startswith("__"):
                yield f"{where} uses {name}"
            elif operation == "LOAD_GLOBAL" or (operation == "LOAD_DEREF" and name in outside):
                yield from self.name(name, _attributes(instructions[number + 1 :]), function, where)
        loads = (each for each in instructions if each.opname in ("LOAD_CONST", "RETURN_CONST"))
        for constant in {load.arg: load.argval for load in loads}.values():
            if isinstance(constant, CodeType):  # comprehensions and functions within
                yield from self.code(constant, function, where)
            else:
                yield from self.value("a literal", constant, where)

    def name(self, name: str, attributes: list[str], function: FunctionType, where: str) -> Iterator[str]:
        known = _known_to(function)
        if name not in known:
            yield f"{where} uses {name}"
            return
        value, path = known[name], name
        for attribute in attributes:
            is_open = isinstance(value, ModuleType | type) or hasattr(plain(value), "__code__") or _is_harmless(value)
            if not is_open or not hasattr(value, attribute):
                break
            value, path = getattr(value, attribute), f"{path}.{attribute}"
        yield from self.value(path, value, where)

    def value(self, path: str, value: Any, where: str) -> Iterator[str]:
        size = _size(value)
        if size is not None:
            self.constants += size
            if size > LONGEST_CONSTANT:
                yield f"{where} reads {path}, a {type(value).__name__} of {size} values"
        elif _is_trusted(value):
            return
        elif isinstance(plain(value), FunctionType) and not _is_of_a_trusted_library(value):
            yield from self.function(value)
        elif callable(value) or isinstance(value, ModuleType):
            yield f"{where} uses {path}"
        else:
            holding = f" of {len(value)} values" if hasattr(value, "__len__") else ""
            yield f"{where} reads {path}, a {type(value).__name__}{holding}"


def _attributes_of_its_own(given: Any) -> list[str]:
    """Attributes that were given to a function; a compiled one has some by nature."""
    by_nature = vars(ema_step).keys() | {"__wrapped__"}
    return sorted((vars(given).keys() | vars(plain(given)).keys()) - by_nature)


def _known_to(function: FunctionType) -> dict[str, Any]:
    """All that a function can name besides its own variables."""
    builtins: Any = function.__globals__["__builtins__"]
    known = {**(builtins if isinstance(builtins, dict) else vars(builtins)), **function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        known[name] = cell.cell_contents
    return known


def _attributes(instructions: Sequence[dis.Instruction]) -> list[str]:
    """Names of attributes that are read one from the other: `a.b.c` gives b and c."""
    names = []
    for instruction in instructions:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        names.append(str(instruction.argval))
    return names


def _is_of_super(instructions: Sequence[dis.Instruction], number: int) -> bool:
    """Whether an instruction loads `super`, or for it the class that it stands in, as some Pythons do."""
    name, before = instructions[number].argval, instructions[max(number - 1, 0)].argval
    return bool(name == "super" or (name == "__class__" and before == "super"))


def _owner(instructions: Sequence[dis.Instruction], number: int) -> str:
    """The variable whose attribute an instruction changes: that which was loaded just before."""
    at = number - 1
    if instructions[at].opname == "SWAP":  # `a.b += c` loads a before it reads a.b
        read = instructions[number].argval
        while at > 0 and not (instructions[at].opname == "COPY" and instructions[at + 1].argval == read):
            at -= 1
        at -= 1
    loaded = instructions[at].argval
    return str(loaded[-1] if isinstance(loaded, tuple) else loaded)  # some Pythons load two at once


def _is_trusted(value: Any) -> bool:
    """Whether a value is a function or class of a trusted module, or a method of one or of a constant."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        return callable(value) and _is_harmless(owner)
    home, name = str(getattr(value, "__module__", None)), str(getattr(value, "__name__", None))
    is_itself = home in TRUSTED_MODULES and getattr(sys.modules[home], name, None) is value
    return is_itself and name not in READS_ELSEWHERE


def _is_harmless(value: Any) -> bool:
    return _is_trusted(value) or _size(value) is not None


def _is_of_a_trusted_library(value: Any) -> bool:
    """Whether a function comes with Python or numpy: it is trusted, or refused, by its name and not read."""
    return str(getattr(value, "__module__", None)).partition(".")[0] in TRUSTED_MODULES


def _size(value: Any) -> int | None:
    """Numbers and characters that a constant holds; None for what may hold anything, or remember."""
    if isinstance(value, Enum):
        return _size(value.value)
    kind = type(value)
    if kind in (tuple, frozenset) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        sizes = [_size(each) for each in value]
        return None if None in sizes else max(1, sum(size or 0 for size in sizes))
    if kind in (str, bytes):
        return max(1, len(value))
    if kind is int:
        return 1 + int.bit_length(value) // 64
    if kind is Decimal:
        return 1 + len(value.as_tuple().digits) // 32
    if isinstance(value, np.generic) and kind.__module__ == "numpy" and not value.dtype.hasobject:
        return max(1, value.dtype.itemsize // 8)
    return 1 if value is None or value is Ellipsis or kind in (bool, float, complex, range) else None
