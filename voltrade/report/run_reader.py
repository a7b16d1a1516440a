"""Reads the frames of a run from its journal, also while the run is going on."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from voltrade import journal
from voltrade.errors import JournalError
from voltrade.journal.rows import Row, decode
from voltrade.model import (
    Instrument,
)
from voltrade.report.collector import Collector
from voltrade.report.frames import Frames

_UNSHOWN = frozenset(
    {
        *(
            "Trades",
            "Market",
            "MarkPrice",
            "Timer",
            "AccountUpdate",
            "AccountSummary",
            "StreamStatus",
            "BarResumePoint",
        ),
        *("LookupOrder", "TakeSnapshot"),
    }
)
"""Kinds of journal rows that are in no frame; they aren't decoded."""


class RunReader:
    """Reads a run's journal up to its last row, and later rows with every `poll`.

    Args:
        run_dir: the run's folder; its `journal.db` may not exist yet, still grow, be ended, or be cut off by a kill.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.path = Path(run_dir) / "journal.db"
        self.start: dict[str, Any] = {}
        """Body of the journal's first row: settings, instrument, versions."""
        self.end: dict[str, Any] = {}
        """Body of its last row; empty while the run is going on, and after a kill."""
        self.seq = 0
        """Number of rows read."""
        self.head = ""
        """Hash of the last row read, hex."""
        self.time = 0
        """Time of the last row read, ms UTC."""
        self._collector: Collector | None = None

    @property
    def collector(self) -> Collector:
        """The facts of the rows read so far.

        Raises:
            JournalError: the journal's first row doesn't exist yet.
        """
        if self._collector is None:
            raise JournalError(f"{self.path}: must begin with a Start row, has {self.seq} rows")
        return self._collector

    def poll(self, until: int | None = None) -> int:
        """Read the rows that were committed since the last call, up to row `until` if given; return how many.

        Raises:
            JournalError: the file isn't a journal of voltrade, or its first row isn't a Start.
        """
        if not self.path.exists():
            return 0
        before = self.seq
        for row in journal.read(self.path, after=self.seq):
            if until is not None and row.seq > until:
                break
            self._take(row)
            self.seq, self.head, self.time = row.seq, row.hash.hex(), row.time
        return self.seq - before

    def _take(self, row: Row) -> None:
        if row.kind == "Start":
            self.start = decode(row.kind, row.body)
            instrument = TypeAdapter(Instrument).validate_python(self.start["instrument"])
            self._collector = Collector(instrument)
        elif row.kind == "Bar":
            self.collector.add_bar(decode(row.kind, row.body))
        elif row.kind == "End":
            self.end = decode(row.kind, row.body)
        elif row.kind not in _UNSHOWN:
            self.collector.add(decode(row.kind, row.body))

    def frames(self, last_bars: int | None = None) -> Frames:
        """Make the frames of the rows read so far; with `last_bars` only of so many bars and decisions."""
        return self.collector.frames(last_bars)


def read_run(run_dir: Path | str) -> Frames:
    """Read the frames of a run that is going on, ended or was killed.

    Raises:
        JournalError: the folder has no journal of voltrade.
    """
    reader = RunReader(run_dir)
    reader.poll()
    return reader.frames()


def save_frames(run_dir: Path | str) -> list[Path]:
    """Write each frame of a run as `frames/NAME.parquet` in its folder, for other tools; return the files.

    Raises:
        JournalError: the folder has no journal of voltrade.
    """
    run, folder = read_run(run_dir), Path(run_dir) / "frames"
    folder.mkdir(mode=0o700, exist_ok=True)
    files = []
    for part in fields(run):
        frame = getattr(run, part.name)
        if isinstance(frame, pd.DataFrame):
            files.append(folder / f"{part.name}.parquet")
            frame.to_parquet(files[-1])
    return files
