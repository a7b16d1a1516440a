"""Runs scripts with copies of the package, each in a fork of one process that has imported what they need of others.

`python forks.py` reads a line of JSON for each script: its arguments, the folder of the package, and the file for what
it says. It answers with the exit code. Importing pandas, numba and the like anew costs a second for each script.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

OF_OTHERS = (
    *("numpy", "numba", "pandas", "pyarrow.csv", "pyarrow.parquet", "pydantic", "pydantic.dataclasses"),
    *("pydantic.type_adapter", "plotly.graph_objects", "plotly.subplots", "anywidget", "ipywidgets", "tqdm.auto"),
    *("aiohttp", "ccxt.pro"),
)
"""What the package imports that takes long; of the package itself there is nothing before the fork."""

UNCOMPILED = {"NUMBA_DISABLE_JIT": "1"}
"""So that an edited package costs no compiling, here and in processes that a script starts."""

WITHIN_S = 300


class Forks:
    """The process that is forked."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said.log"
        environment = {**os.environ, **UNCOMPILED}
        command = [sys.executable, "-W", "ignore", __file__]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, package: Path, *arguments: str) -> str:
        """Run a script with a copy of the package; return what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = {**os.environ, **UNCOMPILED, "PYTHONPATH": str(package)}
        ask = {"package": str(package), "arguments": arguments, "said": str(self._said), "environment": environment}
        print(json.dumps(ask), file=self._process.stdin, flush=True)
        code = self._process.stdout.readline().strip()
        said = self._said.read_text()
        assert code == "0", f"ended with {code or 'the process that is forked'}\n{said[-3000:]}"
        return said

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _run(ask: dict[str, Any]) -> None:
    said = os.open(ask["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(WITHIN_S)
    os.chdir(ask["package"])
    os.environ.update(ask["environment"])
    script, *_ = sys.argv = ask["arguments"]
    sys.path[0] = str(Path(script).parents[1])
    sys.path.insert(0, ask["package"])
    runpy.run_path(script, run_name="__main__")


def read_fields_quickly() -> None:
    """Let C look a record's fields up: numpy does it in Python, which is half of the time of what isn't compiled."""
    record: Any = importlib.import_module("numpy").record
    field = record.__mro__[1].__getitem__

    def __getattr__(row: Any, name: str) -> Any:
        try:
            return field(row, name)
        except ValueError:
            raise AttributeError(name) from None

    del record.__getattribute__
    record.__getattr__ = __getattr__


def main() -> None:
    for name in OF_OTHERS:
        importlib.import_module(name)
    read_fields_quickly()
    assert "voltrade" not in sys.modules
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _run(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
