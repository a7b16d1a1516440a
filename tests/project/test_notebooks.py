"""Notebooks are committed without results, and those that papermill runs say which cell holds their parameters."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import papermill
import pytest
from support.notebooks import cells, executed_here

from voltrade.config import Config, parameter_homes
from voltrade.data import tape as data
from voltrade.report import figure_output
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import without_zero

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERISED = {
    "live.ipynb": {"parameters_file"},
    "01_data.ipynb": {"bars_a_day"},
    "02_explore.ipynb": {"parameters_file"},
    "03_backtest.ipynb": set(),
    "04_sweep.ipynb": {"trials", "folds"},
    "demo_check.ipynb": {"record"},
}
"""Notebooks that papermill executes with parameters, and those of their parameters that are no settings."""

DIFFERENT = {"03_backtest.ipynb": {"hours": 48.0}, "04_sweep.ipynb": {"hours": 168.0}}
"""Where a notebook's default is not the program's: what research has to say takes days of trades."""


PLAIN = ast.Constant | ast.Dict | ast.List | ast.Tuple | ast.Set


def plain_names(code: str) -> set[str]:
    """Names to which a cell gives a plain value at its top level."""
    assigned = [node for node in ast.parse(code).body if isinstance(node, ast.Assign) and isinstance(node.value, PLAIN)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("name", sorted(PARAMETERISED))
def test_all_cells_can_be_run_again_in_one_kernel(name: str) -> None:
    """A plain value of a cell further down is taken for a parameter when all cells are run again, so it is `own`."""
    code = ["".join(cell["source"]) for cell in cells(ROOT / "notebooks" / name) if cell["cell_type"] == "code"]
    given = re.findall(r"own=\[([^\]]*)\]", "\n".join(code))
    own = set(re.findall(r'"([a-z_]+)"', " ".join(given)))
    settings = set(parameter_homes()) | PARAMETERISED[name]
    named = set().union(*(plain_names(each) for each in code if not each.lstrip().startswith("%")))
    assert {each for each in named if not each.startswith("_")} <= own | settings


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Run the cell of parameters, which is nothing but assignments."""
    (cell,) = (cell for cell in cells(notebook) if "parameters" in cell["metadata"].get("tags", []))
    names: dict[str, Any] = {}
    exec("".join(cell["source"]), names)  # our own file
    return {name: value for name, value in names.items() if not name.startswith("__")}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_results(notebook: Path) -> None:
    for number, cell in enumerate(cells(notebook)):
        assert not cell.get("outputs"), f"{notebook.name}: cell {number} has outputs: clear them before you commit"
        assert cell.get("execution_count") is None, f"{notebook.name}: cell {number} has an execution count"
        assert "execution" not in cell["metadata"], f"{notebook.name}: cell {number} has execution times"
    assert "widgets" not in json.loads(notebook.read_text())["metadata"], f"{notebook.name}: has widget state"


def test_parameterised_notebooks_exist() -> None:
    assert {path.name for path in NOTEBOOKS} >= set(PARAMETERISED)


def test_the_review_asks_for_nothing_but_a_run() -> None:
    assert parameters_of(ROOT / "notebooks/review.ipynb") == {"run": ""}


@pytest.mark.parametrize("notebook_name", sorted(PARAMETERISED))
def test_the_cell_of_parameters_holds_settings_and_their_defaults(notebook_name: str) -> None:
    given = parameters_of(ROOT / "notebooks" / notebook_name)
    assert set(given) >= PARAMETERISED[notebook_name]
    settings = {name: value for name, value in given.items() if name not in PARAMETERISED[notebook_name]}
    assert set(settings) <= set(parameter_homes())
    wanted = Config.from_parameters(DIFFERENT.get(notebook_name, {}))
    assert Config.from_parameters(without_zero(settings)) == wanted, "a notebook's defaults are the program's"
    assert settings.get("mode", "sim") == "sim"


def test_the_data_notebook_goes_on_where_a_tape_is_too_short_to_judge_normality(tmp_path: Path) -> None:
    path = tmp_path / "01_data.ipynb"
    given = {"hours": 6.0, "bars_a_day": 120}
    papermill.execute_notebook(ROOT / "notebooks" / path.name, path, given, progress_bar=False, cwd=tmp_path)
    executed = {cell["id"]: cell for cell in cells(path)}
    assert "a tape of 0.25 days has no threshold of 40 to 360 bars a day with 200 returns" in shown(executed["normal"])
    assert "-p threshold" in shown(executed["next"])


def test_the_data_notebook_shows_the_threshold_that_is_nearest_to_normal(tmp_path: Path) -> None:
    """Fault case I16: a table that is made inside `try` is no output of its cell."""
    executed = executed_here("01_data.ipynb", tmp_path)
    assert "threshold" in shown(executed["normal"])
    assert "<table" in shown(executed["normal"])
    outputs = [output for cell in executed.values() for output in cell["outputs"]]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []


def test_the_backtest_notebook_draws_bars_in_which_a_trade_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case I17: the last bars of the default tape have none."""
    drawn: list[Any] = []
    monkeypatch.setattr(figure_output, "show", drawn.append)
    names: dict[str, Any] = {}
    for cell in cells(ROOT / "notebooks/03_backtest.ipynb"):
        if cell["id"] in ("parameters", "imports", "run", "price"):
            exec("".join(cell["source"]), names)  # our own file
    (figure,) = drawn
    shown = {trace.name: len(trace.x) for trace in figure.data}
    assert shown["bars"] == 600
    assert shown["long entry"] + shown["short entry"] >= 1
    assert shown["exit, won"] + shown["exit, lost"] >= 1


@pytest.mark.recordings
def test_the_data_notebook_over_a_real_recording(recordings: Path, tmp_path: Path) -> None:
    executed = over_the_recording("01_data.ipynb", recordings, tmp_path, bars_a_day=1300)
    assert "88619 rows, 88619 aggTrades, 197 ids missing in 19 gaps" in shown(executed["load"])
    assert (
        "197 ids are missing in 19 gaps (0.22%); not known to be whole: 2025-06-21 (begin), 2025-06-22 (end)"
        in shown(executed["load"])
    )
    assert "mark = simulated; funding = simulated, or 0" in shown(executed["load"])
    assert shown(executed["gaps"]).count("<tr>") == 1 + 19
    assert "-p threshold 280" in shown(executed["next"])


@pytest.mark.recordings
def test_the_explorers_notebook_over_a_real_recording(recordings: Path, tmp_path: Path) -> None:
    executed = over_the_recording("02_explore.ipynb", recordings, tmp_path)
    assert "197 ids missing in 19 gaps" in shown(executed["validate"])
    (tape,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    config = Config.from_parameters(symbol="LTCUSDT", tape=str(tape), threshold=280)
    done = backtest(data.load_tape(config.session, shipped_instrument("LTCUSDT")), config)
    (figure,) = figures_in(executed["explorer"])
    assert "volume bars of 280 LTC · sim · recorded tape" in figure["layout"]["title"]["text"]
    assert f">{len(done.round_trips)} (" in shown(executed["figures"])
    assert "Pressure: compiled and drawn" in shown(executed["rule"])
    assert "least_pressure" in shown(executed["difference"]).replace("<wbr>", "")


@pytest.mark.recordings
def test_the_backtest_notebook_over_a_real_recording(recordings: Path, tmp_path: Path) -> None:
    executed = over_the_recording("03_backtest.ipynb", recordings, tmp_path)
    assert "88619 rows, 88619 aggTrades, 197 ids missing in 19 gaps" in shown(executed["imports"])
    (trips,) = re.findall(r"(\d+) round trips, the same in every column", shown(executed["same"]))
    assert int(trips) >= 10
    assert shown(executed["trips"]).count("<tr>") == 1 + int(trips)
    assert "too short to" in shown(executed["luck"]).lower()
    for name in ("price", "equity", "refusals", "what-if"):
        assert figures_in(executed[name]), name


@pytest.mark.recordings
def test_the_sweep_notebook_over_a_real_recording(recordings: Path, tmp_path: Path) -> None:
    executed = over_the_recording("04_sweep.ipynb", recordings, tmp_path, trials=40, folds=3)
    assert "30 settings of ema_fast, ema_slow" in shown(executed["grid"])
    for name in ("grid", "random", "walk"):
        assert "too short to" in shown(executed[name]).lower(), name
    assert shown(executed["luck-add"]).count("<tr") == 1 + 2, "the grid and the random search"
    assert "No evidence" in shown(executed["luck-how"])
    for name in ("heat", "best", "luck", "walk-chart"):
        assert figures_in(executed[name]), name


def figures_in(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """The charts that a cell shows, beside what it prints; where rules are compiled first, it says so."""
    kind = "application/vnd.plotly.v1+json"
    return [output["data"][kind] for output in cell["outputs"] if kind in output.get("data", ())]


def over_the_recording(name: str, recordings: Path, folder: Path, **given: object) -> dict[str, dict[str, Any]]:
    """Execute a notebook over 23 hours of LTCUSDT; return its cells by id."""
    (tape,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    return executed_here(name, folder, **{"symbol": "LTCUSDT", "tape": str(tape), "threshold": 280, **given})


def shown(cell: dict[str, Any]) -> str:
    """All that a cell shows, as text or HTML."""
    outputs = [output.get("data", {"text/html": output.get("text", "")}) for output in cell["outputs"]]
    return "".join("".join(data.get("text/html", data.get("text/plain", ""))) for data in outputs)
