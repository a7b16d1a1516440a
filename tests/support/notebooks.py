"""Notebooks that are executed in an IPython of the test's own process: a kernel costs seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from voltrade.config import RECORDED

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NO_HISTORY = Config({"HistoryManager": {"enabled": False}})


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook as they stand in its file."""
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return found


def executed_here(name: str, folder: Path, **given: object) -> dict[str, dict[str, Any]]:
    """Run a notebook's cells in an IPython of this process, as papermill gives them; return its code cells by id.

    A kernel of its own costs seconds; `nbval` runs each notebook in one.
    """
    code = [cell for cell in cells(NOTEBOOKS / name) if cell["cell_type"] == "code"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RECORDED, "1")
        patch.chdir(folder)
        InteractiveShell.clear_instance()
        shell = InteractiveShell.instance(colors="nocolor", config=NO_HISTORY)
        shell.display_formatter.active_types = shell.display_formatter.format_types
        try:
            for cell in code:
                cell["outputs"] = outputs_of(shell, "".join(cell["source"]))
                if "parameters" in cell["metadata"].get("tags", []):
                    shell.push({name: value for name, value in given.items() if name in shell.user_ns})
        finally:
            shell.restore_sys_module_state()
            InteractiveShell.clear_instance()
    return {cell["id"]: cell for cell in code}


def outputs_of(shell: InteractiveShell, source: str) -> list[dict[str, Any]]:
    """What a cell shows, as it stands in a notebook."""
    with capture_output() as captured:
        shell.display_trap.hook = sys.displayhook  # a cell's last value is shown where what it displays is
        done = shell.run_cell(source)
    done.raise_error()
    texts = [("stdout", captured.stdout), ("stderr", captured.stderr)]
    streams = [{"name": name, "text": text} for name, text in texts if text]
    return [*streams, *({"data": output.data} for output in captured.outputs)]
