"""The check of an exchange by real orders, started and shown by `notebooks/demo_check.ipynb`.

The check is a process of its own, `python -m voltrade doctor --trade`, so that it cleans up even if the kernel is
killed. An interrupted cell asks it to end, and waits until nothing is left open.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from voltrade.config import Config
from voltrade.engine.demo_check.check import REPORT, VERDICTS
from voltrade.engine.demo_check.report import QUESTIONS, record_name
from voltrade.errors import SessionError
from voltrade.report.html import frame_table, judged_table
from voltrade.runs.listing import project_root

REFUSED = "doctor: "
"""How the command's refusal begins, which is its last line; here it is the error's text, not printed too."""


class DemoCheck:
    """A finished check, as its folder has it."""

    def __init__(self, folder: Path) -> None:
        """Read a check's record.

        Raises:
            SessionError: The folder has none: the check has ended before it could tell what it saw.
        """
        self.folder = folder
        try:
            self._facts: dict[str, Any] = json.loads((folder / REPORT).read_text())
        except (OSError, ValueError) as error:
            raise SessionError(f"{folder}: must hold the record of a check, {REPORT}: {error}") from None

    @property
    def passed(self) -> bool:
        """Whether it came to its end and no row failed."""
        return bool(self._facts["passed"])

    @property
    def outcome(self) -> str:
        """Passed, or which rows failed."""
        return str(self._facts["outcome"])

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each thing that was tried: what was expected, what was found, and the milliseconds it took."""
        return pd.DataFrame(self._facts["rows"])

    @property
    def table(self) -> HTML:
        """The rows for a notebook: what failed above all others, with what was expected, and what to do next."""
        rows = [
            (
                row["verdict"],
                [row["part"], row["item"], row["found"], row["expected"] * (row["verdict"] != "ok"), _took(row)],
            )
            for row in self._facts["rows"]
        ]
        words = escape(f"{self.outcome}. Next: {self._facts['next_step']}.")
        page = judged_table(["part", "item", "found", "expected", "ms"], rows)
        return HTML(f"<p><b>{words}</b></p>{page}")  # type: ignore[no-untyped-call]

    @property
    def answers(self) -> HTML:
        """What was seen for each open question, for a notebook: the answered ones first."""
        answered: dict[str, str] = self._facts["answers"]
        asked = {name: question.replace("`", "") for name, question in QUESTIONS.items()}  # in Markdown they are code
        rows = [[asked[name], seen] for name, seen in answered.items()]
        left = [question for name, question in asked.items() if name not in answered]
        still = f"<p>Not seen in this check: {escape(' '.join(left))}</p>" if left else ""
        table = frame_table(pd.DataFrame(rows, columns=["question", "seen"]).set_index("question"))
        paste = f"<p>{escape(str(self.folder / VERDICTS))} is this table as Markdown, to paste into an issue.</p>"
        return HTML(f"{table if rows else ''}{still}{paste}")  # type: ignore[no-untyped-call]

    @property
    def verdicts(self) -> str:
        """What was seen for each open question, as a Markdown table to paste into an issue."""
        return (self.folder / VERDICTS).read_text()

    def require_passed(self) -> None:
        """Let the notebook fail if the check has.

        Raises:
            SessionError: A row failed.
        """
        if not self.passed:
            raise SessionError(f"{self.folder.name}: {self.outcome}")


def _took(row: Mapping[str, Any]) -> str:
    return f"{row['took_ms']:,}" if row["took_ms"] else ""


def run(config: Config, record: str = "") -> DemoCheck:
    """Run the check with these settings, print its rows as they come, and return it.

    Args:
        config: Settings of the sessions that are to trade there.
        record: New or empty folder for the record; empty for one under `runs/`.

    Raises:
        SessionError: The check could not begin, or was killed; says why.
    """
    folder = Path(record) if record else project_root() / "runs" / record_name(datetime.now(UTC))
    command = [sys.executable, "-m", "voltrade", "doctor", "--trade", "--record", str(folder), *_given(config)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    refusal = _follow(process)
    if not (folder / REPORT).exists():
        raise SessionError(f"the check could not begin: {refusal or 'what it printed last says why'}")
    return DemoCheck(folder)


def _follow(process: subprocess.Popen[str]) -> str:
    """Print what a process prints, but return its refusal. An interrupt is passed on, and its end waited for."""
    assert process.stdout is not None
    is_interrupted, refusal = False, ""
    while True:
        try:
            for line in process.stdout:
                if line.startswith(REFUSED):
                    refusal = line.removeprefix(REFUSED).strip()
                else:
                    print(line, end="")
            process.wait()
            break
        except KeyboardInterrupt:
            is_interrupted = True
            process.send_signal(signal.SIGINT)
    process.stdout.close()
    if is_interrupted:
        raise KeyboardInterrupt
    return refusal


def _given(config: Config) -> list[str]:
    """Return the parameters that differ from the defaults, as options of the command."""
    defaults = Config().parameters()
    differing = {name: value for name, value in config.parameters().items() if defaults.get(name, ...) != value}
    return [part for name, value in differing.items() for part in ("-p", name, str(value))]
