"""The notebook of the check: what it passes on, and that it fails where the check has failed."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voltrade.__main__ import _config, _parser, main
from voltrade.config import Config
from voltrade.engine.demo_check.check import REPORT, VERDICTS
from voltrade.engine.demo_check.report import Report, Row
from voltrade.errors import SessionError
from voltrade.notebook.demo_check import DemoCheck, _follow, _given, run


def a_record(folder: Path, *rows: Row) -> DemoCheck:
    """Write a check's record, as the check does, and read it."""
    report = Report("https://demo-fapi.binance.com", "BTCUSDT", "0.1.0-abc", rows=list(rows), has_traded=True)
    report.answers["countdown"] = "cancels orders | and leaves conditional ones"
    (folder / REPORT).write_text(json.dumps(report.plain()))
    (folder / VERDICTS).write_text(report.verdicts())
    return DemoCheck(folder)


RIGHT = Row("orders", "far order", "accepted", "0.002 at 77645.6: accepted", "ok", 12)
KNOWN = Row("market", "filters", "as shipped", "step_size 0.0001 not 0.001", "differs")
WRONG = Row("stops", "stop", "accepted", "-4045 Reach max stop order limit.", "failed")


def test_a_check_whose_rows_are_right_or_differ_as_known_has_passed(tmp_path: Path) -> None:
    check = a_record(tmp_path, RIGHT, KNOWN)
    check.require_passed()
    assert check.outcome == "passed: 2 rows, 1 of them different in a way that trading copes with"
    assert list(check.rows["item"]) == ["far order", "filters"]
    assert "| cancels orders \\| and leaves conditional ones |" in check.verdicts
    assert check.verdicts.count("open: not seen in this check") == 15


def test_a_failed_row_fails_the_notebook_by_its_name(tmp_path: Path) -> None:
    check = a_record(tmp_path, RIGHT, WRONG)
    assert not check.passed
    with pytest.raises(SessionError, match=r"NOT passed: stop$"):
        check.require_passed()


def test_the_tables_show_what_failed_first_and_advice_only_there(tmp_path: Path) -> None:
    check = a_record(tmp_path, RIGHT, KNOWN, WRONG)
    text = re.sub(r"<[^>]+>", "|", check.table.data.replace("<wbr>", ""))
    shown = " ".join(word for word in re.split(r"\|+", text) if word.strip())
    assert shown.index("-4045") < shown.index(KNOWN.found) < shown.index("0.002 at 77645.6")
    assert shown.count("accepted") == 2  # what the failed row expected, and what the right one found
    assert "NOT passed: stop. Next: trade no real money" in shown
    assert check.table.data.count("background:#fbe9ea") == 1
    answers = check.answers.data
    assert "cancels orders | and leaves conditional ones" in answers
    assert answers.index("countdownCancelAll") < answers.index("Not seen in this check: Which host and path")


def test_what_is_printed_last_is_what_failed_and_what_to_do(tmp_path: Path) -> None:
    account = Row("account", "leverage", "5 (-p apply_account_settings True sets it)", "20", "failed")
    report = Report("", "BTCUSDT", "", rows=[account, RIGHT])
    assert report.summary("runs/x/verdicts.md") == [
        "",
        "!!  leverage                      20   expected 5 (-p apply_account_settings True sets it)",
        "0 of 16 questions that only an exchange can answer were answered: runs/x/verdicts.md is a table for an issue",
        "next: mend what the rows marked !! say, then run the check again",
        "NOT passed: leverage",
    ]
    left = Row("money", "clean-up", "nothing is left", "a position of 0.002: close it at Binance, in the app", "failed")
    assert Report("", "", "", rows=[account, left], has_traded=True).next_step == left.found


def test_a_folder_without_a_record_is_no_check(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="must hold the record of a check"):
        DemoCheck(tmp_path)


def test_the_command_is_given_the_notebooks_settings() -> None:
    config = Config.from_parameters(
        mode="demo", capital=1_000.5, leverage=3, margin_type="cross", apply_account_settings=True, venue=""
    )
    arguments = _parser().parse_args(["doctor", "--trade", *_given(config)])
    assert _config(arguments) == config


class Lines:
    """What a check prints; somebody interrupts the cell twice meanwhile."""

    def __init__(self) -> None:
        self.rest: list[str | type[BaseException]] = [
            *("ok  far order\n", KeyboardInterrupt, "ok  market order\n", KeyboardInterrupt, "ok  clean-up\n")
        ]

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        if not self.rest:
            raise StopIteration
        line = self.rest.pop(0)
        if isinstance(line, str):
            return line
        raise line

    def close(self) -> None:
        """Nothing is kept open."""


class Interrupted:
    """The process of such a check."""

    def __init__(self) -> None:
        self.stdout, self.was_told = Lines(), list[object]()

    def send_signal(self, number: int) -> None:
        self.was_told.append(number)

    def wait(self) -> None:
        self.was_told.append("the end")


def test_an_interrupted_cell_ends_the_check_and_waits_until_it_has_cleaned_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else it would trade on, with nobody looking."""
    process: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _follow(process)
    assert process.was_told == [signal.SIGINT, signal.SIGINT, "the end"]
    assert capsys.readouterr().out.endswith("ok  clean-up\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_our_address_is_shown_in_a_terminal_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook keeps what the command prints to it."""

    async def checked(
        config: Config, environment: object, folder: Path, on_row: object, on_address: Callable[[str], None], *_: object
    ) -> Report:
        on_address("203.0.113.7")
        return Report("https://demo-fapi.binance.com", "BTCUSDT", "0.1.0-abc")

    monkeypatch.setattr("voltrade.engine.demo_check.check.check_exchange", checked)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert main(["doctor", "--trade", "-p", "mode", "demo"]) == 1
    assert ("we come from 203.0.113.7" in capsys.readouterr().out) is is_terminal


def test_the_command_refuses_a_check_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("VOLTRADE_API_KEY", "VOLTRADE_API_SECRET", "VOLTRADE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor", "--trade", "--record", str(tmp_path / "record"), "-p", "mode", "demo"]) == 2
    assert "mode demo: VOLTRADE_API_KEY: must be set in the environment" in capsys.readouterr().err
    assert not (tmp_path / "record").exists()


def test_a_refusal_is_the_errors_text_and_is_not_printed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """papermill shows a traceback and no output, a notebook shows both."""
    for name in ("VOLTRADE_API_KEY", "VOLTRADE_API_SECRET", "VOLTRADE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SessionError, match="the check could not begin: mode demo: VOLTRADE_API_KEY: must be set"):
        run(Config.from_parameters(mode="demo", threshold=100), str(tmp_path / "record"))
    assert "must be set" not in "".join(capfd.readouterr())
