"""Whether a rule knows only what it could have known: `python -m voltrade check`.

A backtest of a rule that sees one bar ahead is worth nothing, and it never looks that way. A rule here is a step from
state and bar to a verdict, so what it may know is known, and can be tried out: run anew, over every prefix of a
fixture, bar by bar, from trades in any blocks, and from other starts, it must say the same. Data that a rule brings
along can't be found by running it (a table of tomorrow's prices says the same every time), so its code is read too.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Rows, plain
from voltrade.config import BarSettings, SignalSettings
from voltrade.exchange.shipped import shipped_instrument
from voltrade.fold import Fold
from voltrade.model import DAY_MS, NEVER, Instrument, Trades
from voltrade.signal_engine import AGREEMENT, SignalEngine
from voltrade.synthetic import TRADES_PER_HOUR, synthetic_market

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
        return "\n".join([*lines, "sound" if self.ok else "not to be trusted"])


@dataclass(frozen=True, slots=True, eq=False)
class Fixture:
    """Trades, and the bars that they fold to: some tainted, one cut by the end of a day."""

    trades: Trades
    settings: BarSettings
    rows: Rows


def fixture(instrument: Instrument, bars: int) -> Fixture:
    """Make a synthetic tape of at least so many bars, with a few trades missing."""
    hours = 1 + 1.5 * bars * TRADES_A_BAR / TRADES_PER_HOUR
    trades = synthetic_market(instrument, FIXTURE_SEED, hours, FIXTURE_START_MS)
    keep = trades.id % (97 * TRADES_A_BAR) > 3
    trades = trades[keep]
    settings = BarSettings(unit="trades", threshold=Decimal(TRADES_A_BAR))
    rows = VolumeBarAggregator(settings, instrument).fold(trades)[:bars]
    last = int(np.searchsorted(trades.id, rows["last_trade_id"][-1], side="right"))
    return Fixture(trades[:last], settings, rows)


def check(
    rule: type[SignalEngine] = SignalEngine,
    settings: SignalSettings | None = None,
    instrument: Instrument | None = None,
) -> Checked:
    """Check a rule for looking ahead, for keeping what it must not, and for warming up as long as it says.

    Raises:
        ConfigError: the rule's declarations clash.
    """
    instrument = instrument or shipped_instrument("BTCUSDT")
    new = partial(rule, settings or rule.settings_type(), instrument)
    engine = new()
    made = fixture(instrument, engine.warmup_bars + BARS_AFTER_WARMUP)
    whole = new().on_volume_bars(made.rows)
    return Checked(
        rule.__name__,
        engine.program.is_compiled,
        len(made.rows),
        int(np.count_nonzero(whole["signal"])),
        (
            _is_given_only(rule),
            _is_the_same_again(new, made, whole),
            _is_the_same_on_prefixes(new, made, whole),
            _is_the_same_bar_by_bar(new, made, whole),
            _is_the_same_in_blocks(new, made, whole),
            _is_warm_when_it_says(new, made, whole),
        ),
    )


# --- runs that must agree ---------------------------------------------------------------------------------------------

New = Callable[[], SignalEngine]


def _difference(verdicts: Rows, whole: Rows) -> str | None:
    """The first bar and field in which verdicts are not those of the whole; None where they agree."""
    first: tuple[int, str] | None = None
    for name in whole.dtype.names or ():
        unequal = verdicts[name] != whole[name]
        if whole[name].dtype.kind == "f":
            unequal &= ~(np.isnan(verdicts[name]) & np.isnan(whole[name]))
        if unequal.any():
            first = min(first or (len(whole), ""), (int(np.argmax(unequal)), name))
    if first is None:
        return None
    bar, name = first
    return f"bar {bar}: {name} was {verdicts[name][bar]}, of the whole {whole[name][bar]}"


def _is_the_same_again(new: New, made: Fixture, whole: Rows) -> Finding:
    rows, engine = made.rows.copy(), new()
    before = engine.settings_row.tobytes()
    found = _difference(engine.on_volume_bars(rows), whole)
    if found is None and engine.settings_row.tobytes() != before:
        found = "the rule changed its own settings"
    if found is None and _difference(rows, made.rows):
        found = "the rule changed the bars it was given"
    return Finding("the same again", found is None, found or "a second run gives the same verdicts")


def _is_the_same_on_prefixes(new: New, made: Fixture, whole: Rows) -> Finding:
    for count in tqdm(range(1, len(whole) + 1), desc="prefixes", unit="prefix", leave=False, disable=None):
        if found := _difference(new().on_volume_bars(made.rows[:count]), whole[:count]):
            return Finding("prefixes", False, f"of {count} bars alone, {found}")
    return Finding("prefixes", True, f"each of {len(whole)} prefixes gives the first verdicts of the whole")


def _is_the_same_bar_by_bar(new: New, made: Fixture, whole: Rows) -> Finding:
    engine = new()
    verdicts = np.zeros(len(whole), whole.dtype)
    for bar, row in enumerate(made.rows):
        engine.on_volume_bar(row)
        verdicts[bar] = engine.last_verdict
    found = _difference(verdicts, whole)
    return Finding("bar by bar", found is None, found or "one bar at a time gives the same verdicts")


def _is_the_same_in_blocks(new: New, made: Fixture, whole: Rows) -> Finding:
    """From trades, as live and backtest fold them: cut into blocks at random, and ended anywhere."""
    draw = np.random.default_rng(FIXTURE_SEED)
    count = len(made.trades)
    for cuts in (1, 10, 100, 1_000):
        end = count if cuts == 1 else int(draw.integers(count // 2, count))
        edges = np.unique(np.append(draw.integers(0, end, cuts - 1), [0, end]))
        fold = Fold(new().instrument, made.settings, new())
        for start, stop in pairwise(edges):
            block, at = made.trades[start:stop], 0
            while at < len(block):
                at = fold.fold(block, at, NEVER, NEVER)
        if found := _difference(fold.verdicts, whole[: fold.count]):
            return Finding("blocks of trades", False, f"in {cuts} blocks, {found}")
    return Finding("blocks of trades", True, "however trades are cut, the verdicts are the same")


def _is_warm_when_it_says(new: New, made: Fixture, whole: Rows) -> Finding:
    """Whether runs from later starts agree with the whole once they call themselves ready."""
    warmup = new().warmup_bars
    latest = len(whole) - warmup
    starts = sorted({start for start in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233) if start < latest})
    worst = 0.0
    for start in starts:
        verdicts = new().on_volume_bars(made.rows[start:])
        ready = np.flatnonzero(verdicts["ready"])
        for name in whole.dtype.names or ():
            one, other = verdicts[name][ready].astype(np.float64), whole[name][start:][ready].astype(np.float64)
            is_exact = whole[name].dtype.kind != "f"
            scale = 1.0 if is_exact else float(np.nanmax(np.abs(other), initial=0.0)) or 1.0
            apart = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other) / scale)
            wrong = ~(apart <= (0.0 if is_exact else AGREEMENT))  # NaN on one side only is wrong too
            if wrong.any():
                bar = int(ready[int(np.argmax(wrong))])
                detail = f"started {start} bars later, {name} at bar {start + bar} is {verdicts[name][bar]}, "
                detail += f"of the whole {whole[name][start + bar]}, though {warmup} bars were said to be enough"
                return Finding("warm-up", False, detail)
            worst = max(worst, float(np.max(apart, initial=0.0)))
    detail = f"after {warmup} bars, {len(starts)} later starts agree to {worst:.0e}; {AGREEMENT:.0e} is asked for"
    return Finding("warm-up", True, detail)


# --- what the code reads ----------------------------------------------------------------------------------------------

TRUSTED_MODULES = frozenset({"math", "cmath", "numpy", "numba", "operator", "decimal", "fractions"})
"""Modules that a rule may use: they give what their arguments say."""

READS_ELSEWHERE = frozenset(
    {"open", "input", "eval", "exec", "compile", "globals", "locals", "vars", "id", "hash", "__import__", "breakpoint"}
    | {"load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "random", "DataSource"}
)
"""Builtins, and names of numpy, that bring in what is neither state, bar nor settings."""

LONGEST_CONSTANT = 64
"""Numbers that a rule may keep in a tuple, for weights and the like."""

RULE = "a rule may know its arguments and constants, nothing else"


def _is_given_only(rule: type[SignalEngine]) -> Finding:
    functions = [*(indicator.step for indicator in rule.indicators), rule._detect_signal]
    seen: set[CodeType] = set()
    for function in functions:
        for found in _foreign(plain(function), seen):
            return Finding("only what it is given", False, f"{found}: {RULE}")
    return Finding("only what it is given", True, f"{len(seen)} functions read arguments and constants, nothing else")


def _foreign(function: Any, seen: set[CodeType]) -> Iterator[str]:
    """What a function, and every function that it calls by name, reads besides its arguments."""
    if not isinstance(function, FunctionType) or function.__code__ in seen:
        return
    seen.add(function.__code__)
    where = function.__qualname__
    kept = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for value in kept:
        yield from _foreign_value("a default argument", value, where, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _foreign_value(name, cell.cell_contents, where, seen)
    yield from _foreign_code(function.__code__, function, where, seen)


def _foreign_code(code: CodeType, function: FunctionType, where: str, seen: set[CodeType]) -> Iterator[str]:
    instructions = list(dis.get_instructions(code))
    for number, instruction in enumerate(instructions):
        name = str(instruction.argval)
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield f"{where} changes {name}"
        elif instruction.opname == "IMPORT_NAME" and name.partition(".")[0] not in TRUSTED_MODULES:
            yield f"{where} imports {name}"
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            attributes = _attributes(instructions[number + 1 :])
            yield from _foreign_name(name, attributes, function, where, seen)
    for constant in code.co_consts:  # comprehensions and functions within
        if isinstance(constant, CodeType):
            yield from _foreign_code(constant, function, where, seen)


def _attributes(instructions: Sequence[dis.Instruction]) -> list[str]:
    """Names of attributes that are read one from the other: `a.b.c` gives b and c."""
    names = []
    for instruction in instructions:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        names.append(str(instruction.argval))
    return names


def _foreign_name(
    name: str, attributes: list[str], function: FunctionType, where: str, seen: set[CodeType]
) -> Iterator[str]:
    builtins = function.__globals__["__builtins__"]
    known = builtins if isinstance(builtins, dict) else vars(builtins)
    if name not in function.__globals__:
        if name in READS_ELSEWHERE or name not in known:
            yield f"{where} uses {name}"
        return
    value, path = function.__globals__[name], name
    for attribute in attributes:
        if _is_trusted(value) and attribute in READS_ELSEWHERE:
            yield f"{where} uses {path}.{attribute}"
            return
        if not isinstance(value, ModuleType | type) or not hasattr(value, attribute):
            break
        value, path = getattr(value, attribute), f"{path}.{attribute}"
    yield from _foreign_value(path, value, where, seen)


def _foreign_value(name: str, value: Any, where: str, seen: set[CodeType]) -> Iterator[str]:
    value = plain(value)
    if _is_trusted(value) or _is_constant(value):
        return
    if isinstance(value, FunctionType):
        yield from _foreign(value, seen)
    else:
        size = f" of {len(value)} values" if hasattr(value, "__len__") else ""
        yield f"{where} reads {name}, a {type(value).__name__}{size}"


def _is_trusted(value: Any) -> bool:
    """Whether a value is one of the modules that a rule may use, or comes from it."""
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    is_code = isinstance(value, ModuleType | type) or callable(value)
    return is_code and str(home).partition(".")[0] in TRUSTED_MODULES | {"builtins"}


def _is_constant(value: Any) -> bool:
    """Whether a value can hold nothing of the future and remember nothing of the past."""
    if isinstance(value, tuple):
        return len(value) <= LONGEST_CONSTANT and all(map(_is_constant, value))
    return value is None or isinstance(value, int | float | complex | str | bytes | Decimal | np.generic | type)
