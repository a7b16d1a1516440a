"""A rule whose file reads what its hash does not cover, or ends the process, is refused wherever it is loaded."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

from voltrade import compiled
from voltrade.__main__ import main
from voltrade.errors import ConfigError
from voltrade.signal_engine import RULE_BAR, SignalEngine
from voltrade.strategy import rule_file
from voltrade.strategy.check import check
from voltrade.strategy.rule_file import RuleFile, load_rule, read_parameters

HEAD = """
import datetime, io, json, logging, math, os, random, sys, time, typing, uuid, zoneinfo
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
import numpy as np
from pydantic import Field
from voltrade.compiled import compiled
from voltrade.config import SignalSettings
from voltrade.signal_engine import Indicator, SignalEngine
{head}

class Mine(SignalEngine):
    {member}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        {body}
"""
LEVEL = "return 1 if bar.close > LEVEL else -1"

REFUSED = {
    "weights beside it": (
        'LEVEL = json.loads(Path("weights.json").read_text())[0]', "", LEVEL, "line 11 opens weights.json"),
    "weights that are opened": (
        'with open("weights.json") as file:\n    LEVEL = json.load(file)[0]', "", LEVEL, "opens weights.json when"),
    "weights of numpy": ('LEVEL = float(np.loadtxt("weights.csv"))', "", LEVEL, "opens weights.csv"),
    "weights of a parser": (
        'import configparser\nLEVEL = float(len(configparser.ConfigParser().read("weights.ini")))', "", LEVEL,
        "line 12 opens weights.ini"),
    "an error that is caught": (
        'try:\n    LEVEL = float(open("weights.csv").read())\nexcept Exception:\n    LEVEL = 1.0', "", LEVEL,
        "line 12 opens weights.csv"),
    "by another name": ('LEVEL = float(getattr(Path("weights.csv"), "read_text")())', "", LEVEL, "opens weights.csv"),
    "in a class": (
        'class Weights:\n    def __init__(self):\n        self.w = float(open("weights.csv").read())\n'
        "LEVEL = Weights().w", "", LEVEL, "line 13 opens weights.csv"),
    "in machine code": (
        'import pyarrow\nLEVEL = float(pyarrow.memory_map("weights.csv").read().decode())', "", LEVEL, "line 12 uses"),
    "whether a file is there": ('LEVEL = float(Path("weights.csv").exists())', "", LEVEL, "uses Path.exists"),
    "a folder": ('LEVEL = float(len(os.listdir(".")))', "", LEVEL, "lists ."),
    "a file that is written": ('open("seen", "a").close()\nLEVEL = 1.0', "", LEVEL, "opens seen"),
    "another program": ('os.system("true")\nLEVEL = 1.0', "", LEVEL, "uses os.system"),
    "its own place": ("LEVEL = float(len(__file__))", "", LEVEL, "LEVEL differs when it is loaded again"),
    "in a function": ("def read():\n    return random.random()\nLEVEL = read()", "", LEVEL, "LEVEL differs"),
    "all names of a module": ("from random import *\nLEVEL = random()", "", LEVEL, "LEVEL differs when it is loaded"),
    "one of two by chance": ("LEVEL = random.choice((1.0, 1.0))", "", LEVEL, "draws by chance when it is loaded"),
    "in the class of the rule": ("", "LEVEL = random.random()", "return 0", "LEVEL differs"),
    "a branch that runs": ('if __name__ != "__main__":\n    LEVEL = random.random()', "", LEVEL, "LEVEL differs"),
    "a validator": (
        "from pydantic import model_validator\nclass S(SignalSettings):\n    level: float = 1.0\n"
        "    def model_post_init(self, _):\n        object.__setattr__(self, 'level', random.random())",
        "settings_type = S", "return 1 if bar.close > settings.level else 0", "level differs"),
    "clock": ("LEVEL = time.time()", "", LEVEL, "line 11 uses time.time when it is loaded"),
    "clock of numpy": ('LEVEL = float(np.datetime64("now").astype(int))', "", LEVEL, "np.datetime64 of 'now'"),
    "date": ("LEVEL = float(datetime.date.today().day)", "", LEVEL, "uses datetime.date.today"),
    "time of no time": ("LEVEL = float(time.gmtime().tm_hour)", "", LEVEL, "uses time.gmtime"),
    "environment": ('LEVEL = float(os.environ.get("LEVEL", "1"))', "", LEVEL, "uses os.environ"),
    "environment's function": ('LEVEL = float(os.getenv("LEVEL", "1"))', "", LEVEL, "uses os.getenv"),
    "command line": ("LEVEL = float(len(sys.argv))", "", LEVEL, "uses sys.argv"),
    "chance of numpy": ("LEVEL = float(np.random.default_rng().random())", "", LEVEL, "default_rng without a seed"),
    "chance of its own": ("LEVEL = random.Random().choice((1.0, 1.0))", "", LEVEL, "uses random.Random without a seed"),
    "hash of a text": ('LEVEL = hash("level") % 100', "", LEVEL, "uses hash"),
    "hash by its method": ('LEVEL = "level".__hash__() % 100', "", LEVEL, "uses __hash__"),
    "number of an object": ("LEVEL = float(id(object()))", "", LEVEL, "uses id"),
    "default of a setting": (
        "class S(SignalSettings):\n    level: float = Field(default_factory=lambda: time.time())",
        "settings_type = S", "return 1 if bar.close > settings.level else 0", "line 12 uses time.time"),
    "default that is the clock": (
        "class S(SignalSettings):\n    level: float = Field(default_factory=time.time)",
        "settings_type = S", "return 1 if bar.close > settings.level else 0", "level of S is given by time"),
    "order of texts": ("", "", "return len(next(iter({'up', 'down', 'flat'}))) % 2", "goes through a set of texts"),
    "order of a loop": ("", "", "for each in ('a', 'b'):\n            pass\n        for each in {'a', 'b', 'c'}:\n"
                                "            return len(each)", "goes through a set of texts"),
    "order of two texts": (
        "", "", "for each in {'a', 'bb'}:\n            return len(each)", "goes through a set of texts"),
    "order of a set": ("", "", "return len(next(iter(set(('a', 'bb', 'ccc')))))", "makes a set and has texts"),
    "order of texts of the module": (
        'NAMES = ("a", "bb", "ccc")', "", "return len([each for each in frozenset(NAMES)][0])", "makes a set and has"),
    "order of a comprehension": (
        'NAMES = ("a", "bb", "ccc")', "", "return len(next(iter({each for each in NAMES})))", "makes a set and has"),
    "order of the module's set": (
        'NAMES = frozenset({"a", "bb", "ccc"})', "", "return len(next(iter(NAMES)))", "goes through a set of texts"),
    "default of an argument by name": (
        "def level(*, at=time.time()):\n    return at\nLEVEL = level()", "", LEVEL, "line 11 uses time.time"),
    "what a decorator runs": (
        "def drawn(function):\n    return random.random()\n@drawn\ndef LEVEL():\n    pass", "", LEVEL, "LEVEL differs"),
    "otherwise of a program": (
        'if __name__ == "__main__":\n    LEVEL = 1.0\nelse:\n    LEVEL = time.time()', "", LEVEL,
        "line 14 uses time.time"),
    "another name of a module": (
        "import numpy.random as npr\nLEVEL = float(npr.rand())", "", LEVEL, "LEVEL differs"),
    "another name of a function": (
        "from time import time as clock\nnow = clock\nLEVEL = now()", "", LEVEL, "line 13 uses now"),
    "address": ("", "", "return len(repr(object())) % 2", "uses object"),
    "end of the process": ("", "", "raise SystemExit", "uses SystemExit"),
    "interrupt": ("", "", "raise KeyboardInterrupt()", "uses KeyboardInterrupt"),
}  # fmt: skip

STEP = """
def step_x(state, bar, settings, decision):
    state.{state} = {value}
    decision.x = state.{state}
X = Indicator(outputs=("x",), step=step_x, ready_after=lambda settings: 1, state={{"{state}": float}})"""
WITH_X = "indicators = (*SignalEngine.indicators, X)"
ALL_FIELDS = " + ".join(f"bar.{name}" for name in RULE_BAR.names or ())

HONEST = {
    "every field of a bar": ("", "", f"return 1 if {ALL_FIELDS} > 0 else -1"),
    "every field in an indicator": (STEP.format(state="sum", value=ALL_FIELDS), WITH_X, "return 0"),
    "the body of a candle": (
        "def body(bar):\n    return bar.close - bar.open", "", "return 1 if body(bar) > 0 else -1"),
    "a compiled helper": (
        "@compiled\ndef body(bar):\n    return bar.close - bar.open", "", "return 1 if body(bar) > 0 else -1"),
    "state that is called now": (STEP.format(state="now", value="bar.open"), WITH_X, "return 0"),
    "state that is called load": (STEP.format(state="load", value="bar.open"), WITH_X, "return 0"),
    "state that is called stat": (STEP.format(state="stat", value="bar.open"), WITH_X, "return 0"),
    "arguments with names of functions": (
        "def first(input, id, hash, open):\n    return input + id + hash + open\nLEVEL = first(1.0, 2.0, 3.0, 4.0)",
        "", LEVEL),
    "a variable that is called time": ("time = np.array([1.0])\nLEVEL = float(time.sum())", "", LEVEL),
    "an enumeration's now": ("class When(Enum):\n    today = 1\n    now = 2\nLEVEL = float(When.now.value)", "", LEVEL),
    "a setting that is called today": (
        "class S(SignalSettings):\n    today: float = 1.0", "settings_type = S", "return int(settings.today > 0.5)"),
    "paths as texts": ('LEVEL = float(len(os.path.join("a", Path("b").name)))', "", LEVEL),
    "its own folder, for no step": ("HERE = Path(__file__).parent\nLEVEL = 1.0", "", LEVEL),
    "chance with a seed": ("LEVEL = random.Random(7).random()", "", LEVEL),
    "chance of numpy with a seed": ("LEVEL = float(np.random.default_rng(seed=7).random())", "", LEVEL),
    "shared chance with a seed": ("random.seed(7)\nLEVEL = random.random()", "", LEVEL),
    "a text as a file": ('LEVEL = float(np.loadtxt(io.StringIO("1.5")))', "", LEVEL),
    "json": ('LEVEL = json.loads("[1.5]")[0]', "", LEVEL),
    "a given time": ("LEVEL = float(time.gmtime(0).tm_year + datetime.datetime(2024, 1, 1).day)", "", LEVEL),
    "a time zone": ('NEW_YORK = zoneinfo.ZoneInfo("America/New_York")\nLEVEL = 1.0', "", LEVEL),
    "a given uuid": ('NAME = uuid.UUID("12345678123456781234567812345678")\nLEVEL = 1.0', "", LEVEL),
    "a function that is only named": ("def plot(clock=time.time):\n    return open(clock())\nLEVEL = 1.0", "", LEVEL),
    "what is for a program": (
        'def main():\n    print(sys.argv, time.time())\nif __name__ == "__main__":\n    main()\nLEVEL = 1.0', "",
        LEVEL),
    "what is for types": ("if typing.TYPE_CHECKING:\n    import not_installed\nLEVEL = 1.0", "", LEVEL),
    "a log": ('logging.getLogger(__name__).debug("loaded")\nLEVEL = 1.0', "", LEVEL),
    "a module that is imported now": ("import colorsys\nLEVEL = colorsys.rgb_to_hsv(1.0, 1.0, 1.0)[2]", "", LEVEL),
    "numbers in a set": ("", "", "return len({each for each in (1, 2, 3)} | set((4, 5)))"),
    "texts in a set": ('NAMES = {"a", "b", "c"}\nLEVEL = float("a" in NAMES)', "", LEVEL),
    "a hash of its own": (
        "class Key:\n    def __hash__(self):\n        return hash((1, 2))\nLEVEL = float(len({Key(): 1}))", "", LEVEL),
    "a data class": ("@dataclass(frozen=True)\nclass Weights:\n    w: float = 1.5\nLEVEL = Weights().w", "", LEVEL),
}  # fmt: skip


def written(folder: Path, head: str, member: str, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(HEAD.format(head=head, member=member or "pass", body=body))
    return f"{path}:Mine"


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_that_its_hash_does_not_decide_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.json").write_text("[60000.0]")
    Path("weights.csv").write_text("60000.0")
    head, member, body, says = REFUSED[name]
    rule = written(tmp_path, head, member, body)
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_parameters({"rule": rule})
    assert main(["check", "--rule", rule]) != 0
    assert not Path("seen").exists()
    assert says in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", HONEST)
def test_a_rule_that_its_source_decides_is_loaded(tmp_path: Path, name: str) -> None:
    head, member, body = HONEST[name]
    assert load_rule(written(tmp_path, head, member, body)).__name__ == "Mine"


def test_what_helpers_beside_a_rule_read_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "levels_of_mine.py").write_text("import time\n\ndef level():\n    return time.time()\n")
    (tmp_path / "others_of_mine.py").write_text("def level():\n    return 1.0\n")
    head = "import levels_of_mine, others_of_mine\nLEVEL = levels_of_mine.level() + others_of_mine.level()"
    with pytest.raises(ConfigError, match=r"levels_of_mine.py line 4 uses time.time when it is loaded"):
        load_rule(written(tmp_path, head, "", LEVEL))


def test_a_rule_beside_the_package_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own files, which read the environment when they are loaded, are no part of a rule beside them."""
    monkeypatch.setattr(rule_file, "_PACKAGE", tmp_path / "voltrade")
    monkeypatch.setattr(compiled, "sources_of", lambda path: {path, tmp_path / "voltrade/compiled.py"})
    (tmp_path / "voltrade").mkdir()
    (tmp_path / "voltrade/compiled.py").write_text("import os\nPLAIN = os.environ.get('VOLTRADE_PLAIN')\n")
    rule = written(tmp_path, "LEVEL = 1.0", "", LEVEL)
    assert RuleFile.named(rule).sources.keys() == {"mine.py"}
    assert load_rule(rule).__name__ == "Mine"


def test_a_loaded_rule_and_its_helpers_stay_those_of_the_first_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept_of_mine.py").write_text("def level():\n    return 1.0\n")
    random.seed(5)
    before, folders = random.getstate(), list(sys.path)
    rule = load_rule(written(tmp_path, 'import kept_of_mine\nprint("loaded")\nLEVEL = 1.0', "", LEVEL))
    assert capsys.readouterr().out == "loaded\n"
    module = sys.modules[rule.__module__]
    assert vars(module)["Mine"] is rule
    assert vars(module)["kept_of_mine"] is sys.modules["kept_of_mine"]
    assert str(module.__file__) == str(tmp_path / "mine.py")
    assert (random.getstate(), sys.path) == (before, folders)
    assert open(tmp_path / "mine.py").close() is None  # nothing is watched any more


def test_the_copy_of_a_run_is_loaded_even_if_a_new_run_would_be_refused(tmp_path: Path) -> None:
    """A session of an older version may have begun with it, and must be able to go on with its position."""
    (tmp_path / "rule").mkdir()
    written(tmp_path / "rule", "LEVEL = time.time()", "", LEVEL)
    assert load_rule("mine.py:Mine", run=tmp_path).__name__ == "Mine"


@pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")
def test_check_names_the_bar_of_a_rule_that_ends_the_process() -> None:
    class Ending(SignalEngine):
        @staticmethod
        def _detect_signal(state: object, bar: object, settings: object, decision: object) -> int:
            raise SystemExit

    with pytest.raises(ConfigError, match="must take every bar, at bar 0 was SystemExit"):
        check(Ending)
