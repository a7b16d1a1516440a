"""A rule that knows, keeps or returns what it must not is refused wherever a rule is given, before anything is traded.

Each is given to `%%rule`, to `check`, to a session and to a sweep; each says what is wrong in plain words.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from voltrade.__main__ import main
from voltrade.compiled import cache_home
from voltrade.config import Config
from voltrade.data.tape import Tape, load_tape
from voltrade.errors import ConfigError
from voltrade.notebook import session
from voltrade.notebook.rule_cell import RuleCell
from voltrade.research.backtest import backtest
from voltrade.research.sweep import sweep
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import read_parameters

pytestmark = pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")

CELL = """
import functools
import itertools
import math
import random
import time
from decimal import getcontext
from pathlib import Path

import numpy as np

from voltrade.signal_engine import ATR, Indicator, SignalEngine

SEEN = []
COUNTS = {{}}
TABLE = np.arange(500.0)
FILE = Path("levels.txt")
total = 0

def counter():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step

count = counter()
STEPS = itertools.count()
FLIPS = (at % 3 - 1 for at in range(10**9))
REMEMBER = SEEN.append

@functools.cache
def levels(close):
    return len(SEEN)

class Watch:
    seen = 0

    def __call__(self, close):
        self.seen += 1
        return self.seen % 2

WATCH = Watch()

def helper(close, known=[]):
    known.append(close)
    return len(known)

def keep(state, bar, settings, decision):
    SEEN.append(bar.close)

class Mine(SignalEngine):
    indicators = (ATR,)
    conditions = {{}}
    closes = []

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        {body}
"""

KNOWS = {
    "list of the module": ("SEEN.append(bar.close)\n        return 0", "reads SEEN, a list of 0 values"),
    "dict of the module": ("COUNTS[bar.number] = 1\n        return 0", "reads COUNTS, a dict of 0 values"),
    "array of the module": ("return 1 if TABLE[state.bars + 1] > bar.close else 0", "reads TABLE, a ndarray of 500"),
    "global that is written": ("global total\n        total += 1\n        return total % 2", "changes total"),
    "clock": ("return int(time.time()) % 2", "uses time.time"),
    "clock of numpy": ('return int(np.datetime64("now").astype(int)) % 2', "uses np.datetime64"),
    "clock of numpy in a text": (
        'return int(np.array("now", "datetime64[ms]").astype(int)) % 2', "uses the text 'now', which numpy reads as"
    ),
    "clock of numpy in a type": ('return int(np.array(["Today"]).astype("M8[D]")[0].astype(int)) % 2', "text 'Today'"),
    "chance": ("return random.choice((0, 1))", "uses random.choice"),
    "chance of numpy": ("return 1 if np.random.rand() > 0.5 else 0", "uses np.random.rand"),
    "memory that is not written": ("return 1 if np.empty(1)[0] > 0 else 0", "uses np.empty"),
    "file": ("return 1 if float(FILE.read_text()) > bar.close else 0", "reads FILE, a PosixPath"),
    "file that is opened": ('return len(open("levels.txt").read()) % 2', "uses open"),
    "file of numpy": ('return int(np.loadtxt("levels.txt")[state.bars])', "uses np.loadtxt"),
    "import in the rule": ("import os\n        return len(os.environ) % 2", "imports os"),
    "list as a default argument": ("return helper(bar.close) % 2", "helper reads a default argument, a list"),
    "counter in a closure": ("return count() % 2", "step changes count"),
    "attribute of the class": ("Mine.closes.append(bar.close)\n        return 0", "reads Mine.closes, a list"),
    "attribute of the class, written": ("Mine.last = bar.close\n        return 0", "uses Mine"),
    "attribute of a function": ("counter.last = bar.close\n        return 0", "changes counter.last, and counter"),
    "context of decimals": ("getcontext().prec += 1\n        return 0", "uses getcontext"),
    "settings that are written": ("settings.ema_fast += 1\n        return 0", "changes settings.ema_fast, which it"),
    "bar that is written": ("bar.close = 0.0\n        return 0", "changes bar.close, which it may only read"),
    "rows around the decision": ("return int(decision.base[0].signal)", "uses decision.base"),
    "memory beyond the row": (
        "return int(np.lib.stride_tricks.as_strided(np.ones(1), (9,))[8])", "uses np.lib.stride_tricks.as_strided"
    ),
    "bar of the future": ("return 1 if bar.next_close > bar.close else 0", "uses bar.next_close, and bar has open"),
    "state that nobody declares": ("state.cuont += 1\n        return 0", "uses state.cuont, and state has .*, bars: a"),
    "output that nobody has": ("return 1 if decision.adx > 1 else 0", "uses decision.adx, and decision has atr, sign"),
    "setting that nobody has": ("return 1 if settings.adx > 1 else 0", "uses settings.adx, and settings has .*, warm"),
}  # fmt: skip
"""What is found by reading the rule."""

WARM_UP = """
    @classmethod
    def warmup_of(cls, settings):
        return super().warmup_of(settings) + len(SEEN)
"""
KNOWS |= {
    "warm-up that knows more": (f"return 0\n{WARM_UP}", "warmup_of reads SEEN, a list"),
    "clock of the process": ("return int(time.process_time_ns()) % 2", "uses time.process_time_ns"),
    "iterator of the module": ("return next(STEPS) % 2", "reads STEPS, a count"),
    "generator of the module": ("return next(FLIPS)", "reads FLIPS, a generator"),
    "cached function": ("return levels(bar.close) % 2", "uses levels"),
    "bound method": ("return 1 if REMEMBER(bar.close) else 0", "uses REMEMBER"),
    "object that can be called": ("return 1 if WATCH(bar.close) else 0", "uses WATCH"),
    "name of the class": ("return -len(__class__.closes)", "reads __class__.closes, a list"),
}  # fmt: skip

DOES = {
    "settings that are written by name": ('settings["ema_fast"] += 1\n        return 0', "not change its settings"),
    "nan": ("return math.nan", "must return -1, 0 or 1, at bar 0, .* it returned something else"),
    "0.3": ("return 0.3", "must return -1, 0 or 1, at bar 0, .* it returned something else"),
    "True": ("return bar.close > bar.open", "must return -1, 0 or 1, at bar 0, .* it returned True or False"),
    "None": ("return None", "must return -1, 0 or 1, at bar 0, .* it returned something else"),
    "long": ('return "long"', "must return -1, 0 or 1, at bar 0, .* it returned something else"),
    "nothing on some bars": (
        "if bar.close > bar.open:\n            return 1", "must return -1, 0 or 1, at bar .* it returned something else"
    ),
}  # fmt: skip
"""What is found by running the rule over some bars."""


@pytest.fixture(scope="module")
def tape() -> Tape:
    return load_tape(Config.from_parameters(hours=1.0).session, shipped_instrument("BTCUSDT"))


@pytest.mark.parametrize("what", [*KNOWS, *DOES])
def test_i3_i5_an_impure_rule_is_refused_by_the_cell_check_session_and_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tape: Tape, what: str
) -> None:
    body, said = {**KNOWS, **DOES}[what]
    names: list[str] = []

    def use(name: str) -> None:
        names.append(name)
        read_parameters(rule=name)

    with pytest.raises(ConfigError, match=said) as refusal:
        RuleCell(use).run("Mine", CELL.format(body=body))
    (name,) = names
    assert Path(name.rpartition(":")[0]).is_relative_to(cache_home()), (
        "the cell's own file, and nothing else is written"
    )
    reason = re.escape(str(refusal.value)[:60])
    assert main(["check", "--rule", name]) == 2
    assert re.search(reason, capsys.readouterr().err)
    with pytest.raises(ConfigError, match=reason):
        session.parameters({"rule": name})
    config = Config.from_parameters(hours=1.0).changed(rule=name)
    with pytest.raises(ConfigError, match=reason):
        sweep(tape, config, {"stop_atr": [2.0, 3.0]}, progress=False)


@pytest.mark.parametrize("late", ['settings["ema_fast"] += 1', "spoil(settings)"])
@pytest.mark.parametrize("in_numba", [True, False])
def test_settings_that_are_changed_late_are_refused_where_it_happens(tape: Tape, late: str, in_numba: bool) -> None:
    """After more bars than the rule is tried over; the search's loop and an engine of its own both see it."""
    names: list[str] = []
    slow = "" if in_numba else "        str(bar.close).upper()\n"
    body = f"if state.bars > 400:\n            {late}\n{slow}        return 0"
    cell = CELL.format(body=body).replace("def keep(", "def spoil(given):\n    given.ema_fast += 1\n\ndef keep(")
    RuleCell(names.append).run("Mine", cell)
    config = Config.from_parameters(hours=1.0, threshold=0.5).changed(rule=names[0])
    said = "Mine: a rule must not change its settings, did within the bars up to .*: ema_fast from 8 to "
    with pytest.raises(ConfigError, match=said):
        sweep(tape, config, {"stop_atr": [2.0, 3.0]}, progress=False)
    for path in ("auto", "events"):
        with pytest.raises(ConfigError, match=said):
            backtest(tape, config, path=path)  # type: ignore[arg-type]
