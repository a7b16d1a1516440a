"""A rule whose file reads what its hash does not cover, or ends the process, is refused wherever it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from voltrade.__main__ import main
from voltrade.errors import ConfigError
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.check import check
from voltrade.strategy.rule_file import load_rule, read_parameters

HEAD = """
import datetime, json, math, os, random, time
from pathlib import Path
import numpy as np
from pydantic import Field
from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine
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
        'LEVEL = json.loads(Path("weights.json").read_text())[0]', "", LEVEL, "line 8 uses .read_text"),
    "weights that are opened": (
        'with open("weights.json") as file:\n    LEVEL = json.load(file)[0]', "", LEVEL, "uses open"),
    "weights of numpy": ('LEVEL = float(np.loadtxt("weights.csv"))', "", LEVEL, "uses numpy.loadtxt when it is loaded"),
    "in a function": ("def read():\n    return random.random()\nLEVEL = read()", "", LEVEL, "uses random.random"),
    "in the class": ("", "LEVEL = random.random()", "return 0", "uses random.random"),
    "clock": ("LEVEL = time.time()", "", LEVEL, "uses time.time"),
    "date": ("LEVEL = float(datetime.date.today().day)", "", LEVEL, "uses datetime.date.today"),
    "environment": ('LEVEL = float(os.environ.get("LEVEL", "1"))', "", LEVEL, "uses os.environ"),
    "chance of numpy": ("LEVEL = float(np.random.default_rng().random())", "", LEVEL, "numpy.random.default_rng"),
    "hash of a text": ('LEVEL = hash("level") % 100', "", LEVEL, "uses hash"),
    "default of a setting": (
        "class S(SignalSettings):\n    level: float = Field(default_factory=lambda: time.time())",
        "settings_type = S", "return 1 if bar.close > settings.level else 0", "uses time.time"),
    "order of texts": ("", "", "return len(next(iter({'up', 'down', 'flat'}))) % 2", "goes through a set of texts"),
    "order of a loop": ("", "", "for each in ('a', 'b'):\n            pass\n        for each in {'a', 'b', 'c'}:\n"
                                "            return len(each)", "goes through a set of texts"),
    "address": ("", "", "return len(repr(object())) % 2", "uses object"),
    "end of the process": ("", "", "raise SystemExit", "uses SystemExit"),
    "interrupt": ("", "", "raise KeyboardInterrupt()", "uses KeyboardInterrupt"),
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
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        read_parameters({"rule": rule})
    assert main(["check", "--rule", rule]) != 0
    assert says in "".join(capsys.readouterr())


def test_what_a_helper_beside_a_rule_reads_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "levels_of_mine.py").write_text("import random\n\ndef level():\n    return random.random()\n")
    with pytest.raises(ConfigError, match=r"levels_of_mine.py line 4 uses random.random when it is loaded"):
        load_rule(written(tmp_path, "from levels_of_mine import level\nLEVEL = level()", "", LEVEL))


def test_what_is_only_for_a_program_or_not_run_is_no_fault(tmp_path: Path) -> None:
    head = (
        'FILE = Path("notes.txt")\n'
        "LEVEL = math.sqrt(2.0) * float(np.quantile((1.0, 2.0), 0.5))\n"
        "SPAN: datetime.timedelta = datetime.timedelta(hours=1)\n"
        "def plot():\n    return open(FILE)\n"
        'if __name__ == "__main__":\n    print(time.time(), plot())'
    )
    in_set = "return 1 if bar.close > LEVEL and 'a' in {'a', 'b'} else -1"
    assert load_rule(written(tmp_path, head, "", in_set)).__name__ == "Mine"


@pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning")
def test_check_names_the_bar_of_a_rule_that_ends_the_process() -> None:
    class Ending(SignalEngine):
        @staticmethod
        def _detect_signal(state: object, bar: object, settings: object, decision: object) -> int:
            raise SystemExit

    with pytest.raises(ConfigError, match="must take every bar, at bar 0 was SystemExit"):
        check(Ending)
