"""What the README shows works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

from voltrade.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def python_after(heading: str) -> str:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(code)


def test_the_backtest_and_the_rule_run_as_shown(tmp_path: Path) -> None:
    # The rule's section goes on from the backtest's, as a reader would.
    shown = tmp_path / "shown.py"
    shown.write_text(python_after("Backtest") + python_after("A rule of one's own"))
    names = runpy.run_path(str(shown))
    assert len(names["result"].round_trips) > 0
    assert names["engine"].bars > 300


def test_every_command_is_shown_and_every_shown_path_exists(capsys: Any) -> None:
    for command in ("replay", "verify", "ctl", "run", "venue"):
        assert f"python -m voltrade {command}" in README
    for path in re.findall(r"`((?:voltrade|notebooks|docs)/[\w/]+\.(?:py|ipynb|md))", README):
        assert (ROOT / path).exists(), path
    assert main(["replay", "runs/there-is-no-such-run"]) == 2
    assert "replay:" in capsys.readouterr().err
