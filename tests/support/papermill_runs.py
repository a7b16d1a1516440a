"""A session that papermill runs in a process of its own, and the processes behind it."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from support.sessions import ROOT, run_papermill

from voltrade import journal

LOST_WITHIN_S = 5.0
"""Longest from the kill of a notebook to the end of its session, by the wall clock."""


class Started:
    """A session that papermill runs, and the processes behind it."""

    def __init__(
        self,
        output: Path,
        notebook: Path = ROOT / "notebooks/live.ipynb",
        environment: dict[str, str] | None = None,
        **parameters: object,
    ) -> None:
        self.output, self.run = output, output.with_suffix("")
        self.environment = {**os.environ, **(environment or {})}
        self._log = output.parent / f"papermill-{time.monotonic_ns()}.log"
        self.papermill = run_papermill(notebook, output, self._log, self.environment, **parameters)

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def record(self) -> dict[str, Any]:
        path = self.run / "run.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def kernel(self) -> int:
        children = Path(f"/proc/{self.papermill.pid}/task/{self.papermill.pid}/children").read_text().split()
        (kernel,) = [int(pid) for pid in children if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return kernel

    @property
    def guardian(self) -> int:
        status = Path(f"/proc/{self.record['pid']}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])

    def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"waited for too long: {self.record}\n{self.said[-3000:]}"
            time.sleep(0.05)

    def until_it_follows(self) -> None:
        """Until the notebook follows the session."""
        self.until(lambda: self.record.get("state") == "running")
        self.until(lambda: "await live.follow()" in self.running_cell())

    def until_it_trades(self) -> Started:
        """Until the notebook follows the session, and the session has entered."""
        self.until_it_follows()
        self.until(lambda: any(row.kind == "OrderIntent" for row in journal.read(self.run / "journal.db")))
        return self

    def running_cell(self) -> str:
        try:
            cells = nbformat.read(self.output, 4).cells
        except (OSError, nbformat.reader.NotJSONError):  # papermill writes it in place: this is between two bytes
            return ""
        return "".join(
            c.source for c in cells if c.cell_type == "code" and c.metadata.papermill.get("status") == "running"
        )

    def check_whole(self) -> None:
        """An interrupt ended the session: every cell has run, and what they say of it is what its record says."""
        assert self.record["end_reason"] == "INTERRUPTED"
        assert self.papermill.wait(60) == 0, self.said
        nb = nbformat.read(self.output, 4)
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        assert {cell.metadata.papermill.status for cell in code} == {"completed"}
        assert all(cell.execution_count for cell in code)
        assert not nb.metadata.papermill.exception
        assert "ended: INTERRUPTED" in json.dumps(nb.cells)
        assert self.record["head"] in json.dumps(nb.cells)

    def clean_up(self) -> None:
        self.papermill.kill()
        self.papermill.wait()
        self.until(lambda: not is_alive(self.record.get("pid", 0)), 10 + LOST_WITHIN_S)
        if venue := self.record.get("venue"):  # the one of an engine that was killed, and not gone on with
            with suppress(OSError):
                urllib.request.urlopen(f"{venue}/voltrade/stop", data=b"", timeout=10).close()


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text() if pid else ""
    except OSError:
        return False
    return bool(status) and "State:\tZ" not in status
