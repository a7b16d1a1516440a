"""What the README shows works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ta.trend import ADXIndicator

from voltrade.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def python_after(heading: str) -> list[str]:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_backtest_runs_as_shown(tmp_path: Path) -> None:
    shown = tmp_path / "shown.py"
    shown.write_text("".join(python_after("Backtest")))
    assert len(runpy.run_path(str(shown))["result"].round_trips) > 0


def test_the_rule_file_is_shown_and_its_adx_is_that_of_ta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, use = python_after("A rule of one's own")
    assert rule == (ROOT / "rules/adx.py").read_text()
    monkeypatch.chdir(ROOT)
    # The use goes on from the backtest's section, as a reader would.
    shown = tmp_path / "shown.py"
    shown.write_text("".join([*python_after("Backtest"), use]))
    done = runpy.run_path(str(shown))["result"]
    assert len(done.round_trips) > 0
    length = done.config.signals.adx_length
    assert length == 10
    prices = [pd.Series(done.bars[name] / 10) for name in ("high", "low", "close")]
    ours, theirs = done.verdicts["adx"], ADXIndicator(*prices, window=length).adx().to_numpy()
    is_warm = np.arange(len(ours)) >= 2 * length - 1
    np.testing.assert_allclose(ours[is_warm], theirs[is_warm], rtol=1e-9)
    assert is_warm.sum() > 300
    assert np.isnan(ours[~is_warm]).all()  # where ta says 0


def test_every_command_is_shown_and_every_shown_path_exists(capsys: Any) -> None:
    for command in ("replay", "verify", "review", "runs", "ctl", "run", "venue"):
        assert f"python -m voltrade {command}" in README
    for path in re.findall(r"`((?:voltrade|notebooks|docs|rules)/[\w/]+\.(?:py|ipynb|md))", README):
        assert (ROOT / path).exists(), path
    assert main(["replay", "runs/there-is-no-such-run"]) == 2
    assert "replay:" in capsys.readouterr().err
