"""The parameters that papermill is given are the parameters that are traded, or nothing starts (fault case I1)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from papermill.cli import papermill as papermill_command
from support.sessions import ROOT
from test_listing import Writer
from test_session import a_notebook

from voltrade.config import RUN_DIR, Config
from voltrade.engine.engine import Engine
from voltrade.errors import ConfigError, SessionError
from voltrade.notebook import session
from voltrade.runs import handover, run_file
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import read_parameters


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, in which nobody has given anything."""
    for name in (handover.GIVEN, RUN_DIR):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(monkeypatch: pytest.MonkeyPatch, **given: object) -> None:
    """Be the kernel of a notebook that papermill was given these for."""
    monkeypatch.setenv(handover.GIVEN, handover.environment(given)[handover.GIVEN])


# --- what is compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (25, 25.0, True),
        ("25", 25, True),
        ("0.0005", 0.0005, True),
        (0.1, 0.1, True),
        (25, 10, False),
        ("base", "quote", False),
        ("1e1", "10", False),  # texts are texts
        ("", 0, False),
        (True, 1, False),
        (True, True, True),
        (None, 0, False),
        ([1], [1], True),
    ],
)
def test_the_same_value_is_no_difference(one: object, other: object, same: bool) -> None:
    assert handover.is_same(one, other) is handover.is_same(other, one) is same


def test_every_difference_is_named_with_both_values() -> None:
    given = {"threshold": 25, "capital": 500, "symbol": "ETHUSDT", "trials": 9, "hours": 12}
    with pytest.raises(ConfigError) as refused:
        handover.refuse_other(given, Config.from_parameters(capital=500.0).parameters())
    assert str(refused.value).splitlines() == [
        "threshold: must be traded as given, 25, was 10",
        "symbol: must be traded as given, 'ETHUSDT', was 'BTCUSDT'",
    ]


@pytest.mark.parametrize(
    ("given", "traded"),
    [({"tape": "a" * 64}, Config().parameters()), ({"tape": "day.csv"}, {**Config().parameters(), "tape": "a" * 64})],
)
def test_what_looks_like_a_key_is_never_told(given: dict[str, object], traded: dict[str, object]) -> None:
    """Whether it was given, or bound to the name by a cell."""
    with pytest.raises(ConfigError, match=r"^tape: keys must come from") as refused:
        handover.refuse_other(given, traded)
    assert "aaa" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_what_was_given_must_be_readable(text: str, monkeypatch: pytest.MonkeyPatch, launched: list[Path]) -> None:
    monkeypatch.setenv(handover.GIVEN, text)
    with pytest.raises(ConfigError, match="VOLTRADE_GIVEN: must be"):
        session.start(Config())
    assert launched == []


# --- papermill to the kernel -----------------------------------------------------------------------------------------


def command_line(notebook: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL, env=dict(os.environ)
    )


YAML = "{threshold: 25, symbol: ETHUSDT}"


@pytest.mark.parametrize(
    ("options", "is_session"),
    [
        (["-y", YAML], False),
        (["-b", base64.b64encode(YAML.encode()).decode()], True),
        (["-f", "mine.json"], True),
        (["-p", "parameters_file", "mine.json"], True),
        (["-p", "threshold", "25", "-r", "symbol", "ETHUSDT", "--engine", "nbclient"], True),
    ],
    ids=["-y, any notebook", "-b", "-f", "parameters_file", "-p and -r, nbclient"],
)
def test_all_that_papermill_is_given_is_handed_to_the_kernel(
    folder: Path, options: list[str], is_session: bool
) -> None:
    parameter_file.write(folder / "mine.json", Config.from_parameters(threshold=25, symbol="ETHUSDT"))
    cell = "import os\nprint(os.environ['VOLTRADE_GIVEN'])"
    notebook = a_notebook(folder / "live.ipynb", "threshold = 10", cell, is_session=is_session)
    # As its command line reads it, in this process: the kernel is one of its own.
    papermill_command.main([str(notebook), "runs/today.ipynb", "--no-progress-bar", *options], standalone_mode=False)
    [output] = nbformat.read(folder / "runs/today.ipynb", 4).cells[-1].outputs
    given = json.loads(output.text)
    assert (given["threshold"], given["symbol"]) == (25, "ETHUSDT")
    assert handover.GIVEN not in os.environ


def live_notebook(folder: Path, after_parameters: str = "", config: str = "") -> Path:
    """The notebook of a session with one more cell below its parameters, or another cell that makes the settings."""
    nb = nbformat.read(ROOT / "notebooks/live.ipynb", 4)
    tagged = next(number for number, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
    if config:
        nb.cells[
            tagged + 1
        ].source = f"from voltrade import Config\nfrom voltrade.notebook import session\nconfig = {config}"
    if after_parameters:
        nb.cells.insert(tagged + 1, new_code_cell(after_parameters))
    nbformat.write(nb, folder / "live.ipynb")
    return folder / "live.ipynb"


@pytest.mark.parametrize(
    ("options", "cell", "config", "told"),
    [
        (["-p", "threshold", "25"], "threshold = 10", "", "threshold: must be traded as given, 25, was 10"),
        (
            ["-p", "threshold", "25", "-p", "capital", "500"],
            "",
            "Config.from_parameters(symbol=symbol, threshold=threshold)",
            "capital: must be traded as given, 500, was 10000",
        ),
    ],
)
def test_a_session_that_would_trade_something_else_does_not_start(
    folder: Path, options: list[str], cell: str, config: str, told: str
) -> None:
    """Fault case I1: the notebook traded its own value, with status 0 and no word."""
    notebook = live_notebook(folder, cell, config)
    done = command_line(notebook, folder / "runs/today.ipynb", "-p", "hours", "0.2", *options)
    assert done.returncode == 1, done.stderr[-3000:]
    assert told in done.stderr
    assert not (folder / "runs/today").exists()


# --- in the kernel ---------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that an engine was started in; none is."""
    folders: list[Path] = []

    def launch(folder: Path, config: Config) -> None:
        folders.append(folder)
        raise SessionError("no engine")

    monkeypatch.setattr(session, "_launch", launch)
    return folders


MINE = {"threshold": 25, "symbol": "ETHUSDT"}


@pytest.mark.parametrize(
    ("given", "namespace", "told"),
    [
        ({"capital": 500}, {"capital": 10_000}, "capital: must be traded as given, 500, was 10000"),
        ({"mode": "paper"}, {"mode": "sim"}, "mode: must be traded as given, 'paper', was 'sim'"),
        ({"symbol": "ETHUSDT"}, {"symbol": "BTCUSDT"}, "symbol: must be traded as given, 'ETHUSDT', was 'BTCUSDT'"),
        ({"threshold": 25}, {}, "threshold: must be traded as given, 25, was 10"),  # deleted
        (MINE | {"parameters_sha256": "ab"}, MINE | {"threshold": 10, "parameters_sha256": "ab"}, "threshold: must be"),
        (
            MINE | {"parameters_file": "mine.json"},
            {"parameters_file": ""},
            "parameters_file: must be traded as given, 'mine.json', was ''",
        ),
        (
            MINE | {"parameters_file": "mine.json"},
            {"parameters_file": "other.json"},
            "threshold: must be traded as giv",
        ),
    ],
)
def test_a_namespace_that_says_something_else_is_refused_by_name(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    launched: list[Path],
    given: dict[str, Any],
    namespace: dict[str, Any],
    told: str,
) -> None:
    parameter_file.write(folder / "mine.json", Config.from_parameters(MINE))
    parameter_file.write(folder / "other.json", Config.from_parameters(MINE, threshold=30))
    give(monkeypatch, **given)
    with pytest.raises(ConfigError) as refused:
        session.start(session.parameters(namespace))
    assert str(refused.value).startswith(told)
    assert launched == []


def test_a_parameters_file_is_laid_over_the_notebooks_defaults(
    folder: Path, monkeypatch: pytest.MonkeyPatch, launched: list[Path]
) -> None:
    parameter_file.write(folder / "mine.json", Config.from_parameters(MINE))
    give(monkeypatch, parameters_file="mine.json", **MINE)
    start(session.parameters({"parameters_file": "mine.json", "threshold": 10, "symbol": "BTCUSDT"}))
    assert len(launched) == 1


def start(config: Config) -> None:
    with pytest.raises(SessionError, match="no engine"):
        session.start(config)


def test_given_values_start_however_they_are_written(monkeypatch: pytest.MonkeyPatch, launched: list[Path]) -> None:
    give(monkeypatch, threshold=25, hours=12, taker_fee="0.0004", note="mine")
    start(session.parameters({"threshold": 25.0, "taker_fee": 0.0004}))
    assert len(launched) == 1


def test_settings_changed_by_code_are_held_to_what_was_given(
    monkeypatch: pytest.MonkeyPatch, launched: list[Path]
) -> None:
    give(monkeypatch, capital=500)
    config = session.parameters({"capital": 500})
    with pytest.raises(ConfigError, match=r"^capital: must be traded as given, 500, was 9000$"):
        session.start(config.changed(capital=9000))
    start(config.changed(threshold=20))  # which nobody gave
    assert len(launched) == 1


def test_a_rules_own_settings_are_held_to_what_was_given(monkeypatch: pytest.MonkeyPatch, launched: list[Path]) -> None:
    rule = f"{ROOT}/rules/adx.py:Adx"
    give(monkeypatch, rule=rule, adx_length=7)
    with pytest.raises(ConfigError, match=r"^adx_length: must be traded as given, 7, was 14$"):
        session.start(read_parameters(rule=rule))
    with pytest.raises(ConfigError, match=r"^rule: must be traded as given, '.*adx\.py:Adx', was ''$"):
        session.start(Config())
    start(read_parameters(rule=rule, adx_length=7))
    assert len(launched) == 1


def test_settings_that_the_notebook_has_left_behind_are_refused(launched: list[Path]) -> None:
    """In JupyterLab: a parameter is changed, and only the cell that starts is run again."""
    namespace: dict[str, Any] = {"threshold": 10, "capital": 500}
    config = session.parameters(namespace)
    namespace |= {"threshold": 20, "max_trades_per_day": 3, "count": 7}
    del namespace["capital"]
    with pytest.raises(ConfigError) as refused:
        session.start(config)
    assert str(refused.value).splitlines() == [
        "threshold: must be traded as the notebook says, 20, was 10: make the settings anew",
        "max_trades_per_day: must be traded as the notebook says, 3, was 50: make the settings anew",
    ]
    namespace |= {"threshold": 10.0, "max_trades_per_day": 50}
    start(config)
    assert len(launched) == 1


def test_without_papermill_there_is_nothing_to_compare(launched: list[Path]) -> None:
    namespace = {"threshold": 10}
    start(session.parameters(namespace).changed(threshold=20))
    start(Config.from_parameters(seed=3))
    assert len(launched) == 2


def test_a_name_that_is_bound_again_after_the_start_is_harmless(launched: list[Path]) -> None:
    namespace = {"hours": 3.0}
    start(session.parameters(namespace))
    namespace["hours"] = 9.0
    assert json.loads((launched[0] / "run.json").read_text())["parameters"]["hours"] == 3.0


# --- the kernel to the engine ----------------------------------------------------------------------------------------


def test_an_engine_trades_what_the_session_was_started_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is edited between the session's write and the engine's read."""
    launch = session._launch

    def edited(run: Path, config: Config) -> subprocess.Popen[bytes]:
        facts = run_file.read(run)
        run_file.write(run, facts | {"parameters": facts["parameters"] | {"threshold": 25, "capital": 9_000}})
        return launch(run, config)

    monkeypatch.setattr(session, "_launch", edited)
    with pytest.raises(SessionError, match="did not start") as refused:
        session.start(Config.from_parameters(hours=0.2), folder / "runs/today")
    assert "threshold: must be traded as given, 10, was 25" in str(refused.value)
    assert "capital: must be traded as given, 10000, was 9000" in str(refused.value)
    assert not (folder / "runs/today/journal.db").exists()


def test_an_engine_goes_on_with_what_its_journal_was_begun_with(folder: Path) -> None:
    """The record is edited between the kill of one engine and the start of the next."""
    writer = Writer(folder / "runs/today", threshold=25)
    writer.journal.close()
    writer.update(begun=True, state="running")
    Engine(folder / "runs/today")
    begun = run_file.read(folder / "runs/today")["parameters"]
    writer.update(parameters=begun | {"mode": "live", "confirmation": "of another day"})
    with pytest.raises(ConfigError, match=r"^mode: must be traded as given, 'sim', was 'live'$"):
        Engine(folder / "runs/today")
    writer.update(parameters=begun | {"leverage": 20})
    with pytest.raises(ConfigError, match=r"^leverage: must be traded as given, 5, was 20$"):
        Engine(folder / "runs/today")


def test_an_engine_that_is_started_by_hand_was_given_nothing(folder: Path) -> None:
    writer = Writer(folder / "runs/today", threshold=25)
    writer.journal.close()
    Engine(folder / "runs/today")
