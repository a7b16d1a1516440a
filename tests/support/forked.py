"""Commands of voltrade and papermill, each in a process forked from one that has all that they import, and the rules.

A Python that starts anew imports and loads for two seconds of CPU, and tests start many engines and venues. All else is
as at `python -m`: a process, a session and signals of its own. That the command itself starts, tests in
`project/`, notebooks and guardians see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import cache
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.compiled_rules import compile_rules

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["support.forked_parent"])


@cache
def _serve() -> None:
    """Start the process that is forked; it has the path of this one."""
    compile_rules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class Forked:
    """A command that runs, as a `Popen` shows it.

    Args:
        words: the command and its arguments.
        log: file that its output is appended to.
        program: voltrade or papermill.
        environment: all variables of its environment; those of this process where it is None.
    """

    def __init__(
        self, *words: str, log: Path, program: str = "voltrade", environment: dict[str, str] | None = None
    ) -> None:
        _serve()
        self.words, self.log = words, log
        given = (program, words, str(log), dict(os.environ if environment is None else environment), os.getcwd())
        self._process = _CONTEXT.Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(program: str, words: tuple[str, ...], log: str, environment: dict[str, str], folder: str) -> None:
    from papermill.cli import papermill

    from voltrade.__main__ import main

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.exit(main(words) if program == "voltrade" else papermill(words))


class ForkedVenue(Forked):
    """A venue that listens."""

    def __init__(self, *words: str, folder: Path, within_s: float = 60.0) -> None:
        super().__init__("venue", *words, log=folder / f"venue-{uuid4().hex}.out")
        deadline = time.monotonic() + within_s
        while not self._lines:
            assert self.poll() is None, f"the venue has ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, "the venue does not listen"
            time.sleep(0.005)
        addresses: dict[str, Any] = json.loads(self._lines[0])
        self.rest = str(addresses["rest"])

    @property
    def _lines(self) -> list[str]:
        """Whole lines of JSON that it has printed, past what is said of compiling."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def close(self) -> None:
        self.terminate()
        self.wait(20)
