"""Notebooks are committed without results, and those that papermill runs say which cell holds their parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from voltrade.config import Config, parameter_homes

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERISED = {"live.ipynb"}
"""Notebooks that papermill executes with parameters."""


def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return found


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
    assert {path.name for path in NOTEBOOKS} >= PARAMETERISED


def test_the_review_asks_for_nothing_but_a_run() -> None:
    assert parameters_of(ROOT / "notebooks/review.ipynb") == {"run": ""}


@pytest.mark.parametrize("name", sorted(PARAMETERISED))
def test_the_cell_of_parameters_holds_settings_and_their_defaults(name: str) -> None:
    given = parameters_of(ROOT / "notebooks" / name)
    assert set(given) <= set(parameter_homes())
    assert Config.from_parameters(given) == Config(), "a notebook's defaults are the program's"
    assert given["mode"] == "sim"
