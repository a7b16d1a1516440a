"""After an edit of a rule between two processes, backtest and session both run the new one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = {
    **{"seed": 7, "hours": 3.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}

BACKTEST = """
import json, sys
import voltrade
from voltrade.data import tape
from voltrade.exchange.shipped import shipped_instrument
from voltrade.model import OrderIntent, Purpose
config = voltrade.Config.from_parameters(json.loads(sys.argv[1]))
done = voltrade.backtest(tape(config.session, shipped_instrument("BTCUSDT")), config, path="events")
entries = [f for f in done.facts if isinstance(f, OrderIntent) and f.purpose is Purpose.ENTRY]
print(json.dumps([[f.time, f.order.side.name] for f in entries]))
"""

ENTRIES = """
import json, sys
from voltrade import journal
from voltrade.model import OrderIntent, Purpose
facts = [row.fact for row in journal.read(sys.argv[1]) if row.kind == "OrderIntent"]
print(json.dumps([[f.time, f.order.side.name] for f in facts if f.purpose is Purpose.ENTRY]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that can be edited."""
    shutil.copytree(ROOT / "voltrade", tmp_path / "copy/voltrade", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def python(package: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package), "VOLTRADE_CACHE": str(package / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=package, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def entries_of_both(package: Path, run: Path) -> list[list[object]]:
    """Entries of a backtest and of a session, each in a process of its own; they agree."""
    run.mkdir(mode=0o700)
    (run / "run.json").write_text(json.dumps({"parameters": PARAMETERS, "epoch": "t", "state": "starting"}))
    python(package, "-m", "voltrade", "run", str(run))
    researched = json.loads(python(package, "-c", BACKTEST, json.dumps(PARAMETERS)))
    assert json.loads(python(package, "-c", ENTRIES, str(run / "journal.db"))) == researched
    return list(researched)


def test_both_run_the_rule_as_it_stands(package: Path, tmp_path: Path) -> None:
    before = entries_of_both(package, tmp_path / "before")
    assert {side for _, side in before} == {"BUY", "SELL"}

    rule = package / "voltrade/signal_engine.py"
    text = rule.read_text()
    assert text.count("            return 1\n") == 1
    rule.write_text(text.replace("            return 1\n", "            return 0\n"))
    after = entries_of_both(package, tmp_path / "after")
    assert {side for _, side in after} == {"SELL"}
