"""A run's `run.json`: what the run was asked to do, where it is, and how it ended.

The engine writes it; everybody else reads it, to see whether the run goes on, was cut short, or is over, and so whether
its folder is to be left alone, gone on with, or moved from the way.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.errors import SessionError
from voltrade.strategy.rule_file import was_edited

RECORD, JOURNAL = "run.json", "journal.db"
PAGE = "review.html"
"""The review of a run, where one was written."""
NOTED = "run"
"""Where the metadata of a session's executed notebook, under `voltrade`, note how the run ended."""
UNFINISHED = ("starting", "running")
OVER = ("ended", "failed")
ENDING = "ending"
"""What an engine says of a session that trades no more, and whose record does not say so yet."""
TOO_LATE = (ENDING, *OVER)
"""States in which no order of a person is carried out any more."""


def load(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder.

    Raises:
        SessionError: there is none that can be read.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise SessionError(f"run: must be the folder of a run with its {RECORD}, was {folder}: {error}") from None
    if not isinstance(record, dict) or "state" not in record:
        raise SessionError(f"{folder / RECORD}: must be a run's record with a state")
    return record


def read(folder: Path) -> dict[str, Any]:
    """Return the record in a run's folder; empty where there is none that can be read."""
    try:
        return load(folder)
    except SessionError:
        return {}


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole: a reader meets the one before or this one, never half of it."""
    fresh = folder / "run.new"
    fresh.write_text(json.dumps(record, indent=2))
    fresh.replace(folder / RECORD)


class Record:
    """The engine's hand on its record: every update is written at once."""

    def __init__(self, folder: Path) -> None:
        """Read the record.

        Raises:
            SessionError: there is none that can be read.
        """
        self._folder = folder
        self.facts = load(folder)

    def update(self, **facts: Any) -> None:
        self.facts.update(facts)
        write(self._folder, self.facts)


def state_of(record: Mapping[str, Any]) -> str:
    """starting, running, ended, failed; killed where the engine had begun and is gone; empty without a record."""
    state = str(record.get("state", ""))
    was_seen = state == "running" or (state == "starting" and "pid" in record)
    return "killed" if was_seen and not is_running(record) else state


def is_running(record: Mapping[str, Any]) -> bool:
    """Whether a run's engine still answers; before it listens, whether its process is there."""
    if record.get("state") not in UNFINISHED:
        return False
    if address := record.get("socket"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(address))
            except OSError:
                return False
            return True
    pid = record.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def was_cut_short(folder: Path) -> bool:
    """Whether the run's engine was killed after it had begun its journal, so that an engine can go on in it."""
    record = read(folder)
    began = bool(record.get("begun")) and (folder / JOURNAL).exists()
    return record.get("state") in UNFINISHED and began and not is_running(record)


def changed(record: Mapping[str, Any], config: Config, but: Collection[str] = ()) -> list[str]:
    """Return a line for each parameter that is not as the run was begun with.

    Args:
        record: The run's.
        config: The settings that it would be gone on with.
        but: Names that are not compared.
    """
    begun = record.get("parameters") or {}
    given = json.loads(json.dumps(config.parameters()))
    lines = [
        f"{name}: must be as the run that was cut short was begun with, {begun.get(name)!r}, was {value!r}"
        for name, value in given.items()
        if name not in but and begun.get(name) != value
    ]
    if not lines and was_edited(config.session.rule, record.get("rule_sha256", "")):
        lines.append(f"rule: {config.session.rule} must be as the run that was cut short was begun with, was edited")
    return lines
