"""Runs as people look at them: one opened by its folder as pandas frames, and the list of all.

A run is read from its journal and its record alone, so that one that goes on, one that ended and one whose engine was
killed are looked at in the same way; nothing is changed, and no engine is asked for more than whether it is there.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voltrade import journal
from voltrade.runs import verify
from voltrade.runs import run_file as records
from voltrade.config import Config
from voltrade.errors import VoltradeError
from voltrade.report.framed import Framed
from voltrade.report.frames import Frames
from voltrade.model import MONEY, EquityPoint, RoundTrip
from voltrade.runs.replay import replay
from voltrade.report.run_reader import RunReader
from voltrade.strategy.rule_file import read_parameters

LOG_LINES = 15


class Run(Framed):
    """A run's folder: what was asked, what happened, whether it is whole. It may go on, have ended, or been killed.

    The frames are those of `frames.Frames`: pandas, UTC, prices as floats in the quote asset. While the run goes on,
    each access shows what has happened by then; only what is new is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = RunReader(path)
        self._frames: Frames | None = None
        self._framed_seq = -1

    # --- what was asked, and how it stands ---------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """The run's `run.json` as it stands now.

        Raises:
            SessionError: there is none.
        """
        return records.load(self.path)

    @property
    def state(self) -> str:
        """starting, running, ended, failed; killed where the engine is gone without a word."""
        return records.state_of(self.record)

    @property
    def config(self) -> Config:
        """The run's settings.

        Raises:
            ConfigError: the run's copy of its rule file isn't the one that it was begun with.
        """
        record = self.record
        return read_parameters(record["parameters"], run=self.path, sha256=record.get("rule_sha256", ""))

    @property
    def name(self) -> str:
        """The run's folder as the project knows it, such as `runs/today`."""
        try:
            return str(self.path.relative_to(project_root()))
        except ValueError:
            return self.path.name

    @property
    def head(self) -> str:
        """Hash of the journal's last row, 64 hex digits; it seals every row before it."""
        self._reader.poll()
        return self._reader.head

    # --- what happened -----------------------------------------------------------------------------------------------

    def frames(self) -> Frames:
        """Everything that happened so far, as pandas frames.

        Raises:
            JournalError: the journal isn't there yet, or is no journal of ours.
        """
        if not self._reader.end:
            self._reader.poll()
        if self._frames is None or self._framed_seq != self._reader.seq:
            self._frames, self._framed_seq = self._reader.frames(), self._reader.seq
        return self._frames

    def _frame(self, name: str) -> pd.DataFrame:
        # A copy that shares its data until one of the two is changed.
        frame: pd.DataFrame = getattr(self.frames(), name).copy(deep=False)
        return frame

    @property
    def bars(self) -> pd.DataFrame:
        """One row a closed bar."""
        return self._frame("bars")

    @property
    def alerts(self) -> pd.DataFrame:
        """One row a thing a person should know."""
        return self._frame("alerts")

    @property
    def gaps(self) -> pd.DataFrame:
        """One row a jump in the trade ids."""
        return self._frame("gaps")

    @property
    def operator(self) -> pd.DataFrame:
        """One row a command that a person or a stop policy gave."""
        return self._frame("operator")

    # --- whether it is whole -----------------------------------------------------------------------------------------

    def verify(self) -> verify.Verification:
        """Recompute the journal's whole chain, and hold it to every place that says how it ended and what it traded."""
        return verify.verify(self.path)

    def checks(self) -> pd.DataFrame:
        """Check the record as `verify` does, and that the journal alone decides alike.

        `ok` is missing where there was nothing to compare with; tables write `--` there.
        """
        rows = [(check.name, check.found, check.ok) for check in self.verify().checks]
        try:
            again = replay(self._reader.path)
            replayed = f"{again.events:,} events, {again.outputs:,} decisions, {again.differences} differences"
            is_same = not again.differences
        except Exception as error:  # an altered row can break anything that follows from it
            replayed, is_same = f"can't be replayed: {error!r}", False
        rows.append(("replay", replayed, is_same))
        return pd.DataFrame(rows, columns=["check", "found", "ok"]).set_index("check").astype({"ok": "boolean"})

    def files(self) -> pd.DataFrame:
        """What the run left in its folder, with sizes in kB."""
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
    """Open a run by its folder or its notebook; a relative path is one of the current folder or of the project.

    Raises:
        SessionError: there is no run.
    """
    given = Path(path)
    given = given.with_suffix("") if given.suffix == ".ipynb" else given
    folder = given if given.exists() else project_root() / given
    run = Run(folder.resolve())
    records.load(run.path)
    return run


def list_runs(folder: Path | None = None) -> pd.DataFrame:
    """List the runs in a folder, by default `runs` of the project, the newest first.

    `started` is UTC. `net` is that of the closed round trips; `unrealised`, the gain of the position that is open
    in the run's last valuation, is empty where none is; fees already paid on it are in neither. In the quote asset.
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
    with suppress(VoltradeError):  # begun by nobody, or broken: the state tells
        nets = [row.fact.net for row in journal.read(folder / records.JOURNAL, kind=RoundTrip.__name__)]
        last = journal.last(folder / records.JOURNAL, EquityPoint.__name__)
        if last is not None and last.fact.position:
            held = last.fact.unrealised / MONEY
    return {
        "mode": parameters.get("mode", ""),
        "symbol": parameters.get("symbol", ""),
        "state": records.state_of(record) or "unreadable",
        "end_reason": record.get("end_reason", ""),
        "started": record.get("started") or record.get("created"),
        "round_trips": len(nets),
        "net": sum(nets) / MONEY,
        "unrealised": held,
    }


def project_root() -> Path:
    """The folder that holds `runs`: the current one or the nearest above it that has one; else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "runs").is_dir()), here)
