"""Operator commands on the disk: `run.json` keeps each one until the journal has it."""

from __future__ import annotations

from contextlib import suppress

from voltrade.model import Operator
from voltrade.runs.run_file import Record

PENDING = "ordered"
"""Name of the pending commands in `run.json`."""


class OperatorCommands:
    """Keeps operator commands in `run.json` from the moment they are accepted until a commit of the journal."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._journaled: list[tuple[str, str, bool]] = []
        """Commands in the journal since its last commit."""

    @property
    def pending(self) -> list[tuple[str, str, bool]]:
        """Commands that the journal may not have: action, reason, whether the session ends with it."""
        return [(action, reason, final) for action, reason, final in self._record.facts.get(PENDING, [])]

    def add(self, action: str, reason: str, final: bool) -> None:
        """Write a command to `run.json`; a full disk must not prevent the command itself."""
        self._save([*self.pending, (action, reason, final)])

    def on_operator(self, command: Operator) -> None:
        """Note that the journal has a command, though not committed yet."""
        self._journaled.append((command.action, command.reason, command.final))

    def on_commit(self) -> None:
        """Remove the commands that the journal now has on the disk."""
        if not self._journaled:
            return
        pending = self.pending
        for command in self._journaled:
            with suppress(ValueError):
                pending.remove(command)
        self._journaled.clear()
        self._save(pending)

    def _save(self, pending: list[tuple[str, str, bool]]) -> None:
        with suppress(OSError):
            self._record.update(**{PENDING: pending})
