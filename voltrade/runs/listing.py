"""Opens a run as pandas frames, and lists all runs.

A run is read from its journal and its record only, so that running, ended and killed runs are read in the same way.
Nothing is changed, and an engine is only asked whether it is running.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd

from voltrade import journal
from voltrade.config import Config
from voltrade.errors import VoltradeError
from voltrade.model import MONEY, EquityPoint, RoundTrip
from voltrade.report.framed import Framed
from voltrade.report.frames import Frames
from voltrade.report.run_reader import RunReader
from voltrade.runs import run_file as records
from voltrade.runs import verify
from voltrade.runs.replay import replay
from voltrade.strategy.rule_file import read_parameters

LOG_LINES = 15
"""How many of the last lines of the engine's log are shown."""


class Run(Framed):
    """A run: its settings, what happened, and whether its record is complete. It may be running, ended or killed.

    The frames are those of `Frames`: pandas, UTC, prices as floats in the quote asset. While the run is running, each
    access shows all that has happened so far; only new rows are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = RunReader(path)
        self._frames: Frames | None = None
        self._framed_seq = -1

    # --- settings and state -----------------------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """The current content of the run's `run.json`.

        Raises:
            SessionError: It is missing or damaged.
        """
        return records.load(self.path)

    @property
    def state(self) -> str:
        """starting, running, ended, failed, or killed if the engine is gone without an end."""
        return records.state_of(self.record)

    @property
    def config(self) -> Config:
        """The run's settings.

        Raises:
            ConfigError: The run's copy of its rule file was changed.
        """
        record = self.record
        return read_parameters(record["parameters"], run=self.path, sha256=record.get("rule_sha256", ""))

    @property
    def name(self) -> str:
        """The run's folder relative to the project, such as `runs/today`."""
        try:
            return str(self.path.relative_to(project_root()))
        except ValueError:
            return self.path.name

    @property
    def head(self) -> str:
        """Hash of the journal's last row, 64 hex digits; it covers every row before it."""
        self._reader.poll()
        return self._reader.head

    # --- what happened -----------------------------------------------------------------------------------------------

    def frames(self) -> Frames:
        """Everything that happened so far, as pandas frames.

        Raises:
            JournalError: The journal is missing, or isn't one of voltrade.
        """
        if not self._reader.end:
            self._reader.poll()
        if self._frames is None or self._framed_seq != self._reader.seq:
            self._frames, self._framed_seq = self._reader.frames(), self._reader.seq
        return self._frames

    def _frame(self, name: str) -> pd.DataFrame:
        # A shallow copy, so that changes of it don't change the original.
        frame: pd.DataFrame = getattr(self.frames(), name).copy(deep=False)
        return frame

    @property
    def bars(self) -> pd.DataFrame:
        """One row per closed bar."""
        return self._frame("bars")

    @property
    def alerts(self) -> pd.DataFrame:
        """One row per alert."""
        return self._frame("alerts")

    @property
    def gaps(self) -> pd.DataFrame:
        """One row per gap in the trade ids."""
        return self._frame("gaps")

    @property
    def operator(self) -> pd.DataFrame:
        """One row per operator command, also those of stop policies."""
        return self._frame("operator")

    # --- verification ------------------------------------------------------------------------------------------------

    def verify(self) -> verify.Verification:
        """Check all hashes of the journal, and compare it with the other records of the run; see `verify`."""
        return verify.verify(self.path)

    def checks(self) -> pd.DataFrame:
        """Return the checks of `verify` as a table, and whether a replay of the journal makes the same decisions.

        `ok` is missing where there was nothing to compare with; tables show `--` there.
        """
        rows = [(check.name, check.found, check.ok) for check in self.verify().checks]
        try:
            replayed = replay(self._reader.path)
            found = f"{replayed.events:,} events, {replayed.outputs:,} decisions, {replayed.differences} differences"
            is_same = not replayed.differences
        except Exception as error:  # a changed row can cause any error in a replay
            found, is_same = f"can't be replayed: {error!r}", False
        rows.append(("replay", found, is_same))
        return pd.DataFrame(rows, columns=["check", "found", "ok"]).set_index("check").astype({"ok": "boolean"})

    def files(self) -> pd.DataFrame:
        """The files in the run's folder, with sizes in kB."""
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        sizes = {f"{self.name}/{path.relative_to(self.path)}": path.stat().st_size / 1000 for path in found}
        return pd.DataFrame({"kB": sizes}).round(1).rename_axis("file")

    def log(self, lines: int = LOG_LINES) -> str:
        """The last lines of the engine's log."""
        try:
            text = (self.path / "engine.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


# --- finding runs ----------------------------------------------------------------------------------------------------


def open_run(path: Path | str) -> Run:
    """Open a run by its folder or notebook; a path is relative to the current folder or to the project.

    Raises:
        SessionError: There is no run.
    """
    given = Path(path)
    given = given.with_suffix("") if given.suffix == ".ipynb" else given
    folder = given if given.exists() else project_root() / given
    run = Run(folder.resolve())
    records.load(run.path)
    return run


def list_runs(folder: Path | None = None) -> pd.DataFrame:
    """List the runs in a folder, by default in `runs` of the project, the newest first.

    `started` is UTC. `net` is the result of closed round trips. `unrealised` is the gain of the open position at the
    last valuation, and empty without a position; the fees paid for it so far are in neither. Both in the quote asset.
    """
    folder = folder or project_root() / "runs"
    rows = {path.parent.name: _listed(path.parent) for path in folder.glob(f"*/{records.RECORD}")}
    columns = ["mode", "symbol", "state", "end_reason", "started", "round_trips", "net", "unrealised"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("run")
    table["started"] = pd.to_datetime(table["started"], utc=True, format="ISO8601", errors="coerce")
    return table.sort_values("started", ascending=False)


def _listed(folder: Path) -> dict[str, Any]:
    record = records.read(folder)
    parameters = record.get("parameters") or {}
    nets: list[int] = []
    held = np.nan
    with suppress(VoltradeError):  # not started, or damaged; the state shows it
        nets = [row.fact.net for row in journal.read(folder / records.JOURNAL, kind=RoundTrip.__name__)]
        last = journal.last(folder / records.JOURNAL, EquityPoint.__name__)
        if last is not None and last.fact.position:
            held = last.fact.unrealised / MONEY
    return {
        "mode": parameters.get("mode", ""),
        "symbol": parameters.get("symbol", ""),
        "state": records.state_of(record) or "unreadable",
        "end_reason": _end_reason(record),
        "started": record.get("started") or record.get("created"),
        "round_trips": len(nets),
        "net": sum(nets) / MONEY,
        "unrealised": held,
    }


def _end_reason(record: Mapping[str, Any]) -> str:
    """Return why a run ended; of a start that failed, the rows of the start-up table that refused it, or the error."""
    if record.get("state") != "failed" or record.get("begun"):
        return str(record.get("end_reason", ""))
    if rows := [row["item"] for row in record.get("checks") or () if not row["ok"]]:
        return f"refused: {', '.join(rows)}"
    return f"not started: {shorten(record['error'], 80)}" if record.get("error") else str(record.get("end_reason", ""))


def project_root() -> Path:
    """Return the nearest folder with a `runs` folder, from the current one upwards; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "runs").is_dir()), here)
