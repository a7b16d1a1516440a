"""Operator commands on the disk: `run.json` keeps each one until the journal has it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from voltrade.model import Operator, storable
from voltrade.runs.run_file import Record

PENDING = "ordered"
"""Name of the pending commands in `run.json`."""

TAKEN_WITHIN_S = 1.0
"""How long the answer to a command waits until the core has taken it; the exits that follow take longer."""


class OperatorCommands:
    """Keeps operator commands in `run.json` from the moment they are accepted until a commit of the journal."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._journaled: list[tuple[str, str, bool]] = []
        """Commands in the journal since its last commit."""
        self._waiting = 0
        """How many commands this engine has accepted and the core has not handled."""
        self._none_waits = asyncio.Event()

    @property
    def pending(self) -> list[tuple[str, str, bool]]:
        """Commands that the journal may not have: action, reason, whether the session ends with it."""
        return [(action, reason, final) for action, reason, final in self._record.facts.get(PENDING, [])]

    def add(self, action: str, reason: str, final: bool) -> None:
        """Write a command to `run.json` as the journal will have it; a full disk must not prevent the command."""
        self._waiting += 1
        self._none_waits.clear()
        self._save([*self.pending, (action, storable(reason), final)])

    async def wait(self) -> bool:
        """Wait until the core has taken every command, at most TAKEN_WITHIN_S; return whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await self._none_waits.wait()
        return not self._waiting

    def on_operator(self, command: Operator) -> None:
        """Note that the journal has a command, though not committed yet; the core handles it at once."""
        self._waiting = max(self._waiting - 1, 0)
        if not self._waiting:
            self._none_waits.set()
        self._journaled.append((command.action, command.reason, command.final))

    def on_commit(self) -> None:
        """Remove the commands that the journal now has on the disk."""
        if not self._journaled:
            return
        pending = self.pending
        for command in self._journaled:
            pending = _without(pending, command)
        self._journaled.clear()
        self._save(pending)

    def _save(self, pending: list[tuple[str, str, bool]]) -> None:
        with suppress(OSError):
            self._record.update(**{PENDING: pending})


def _without(pending: list[tuple[str, str, bool]], journaled: tuple[str, str, bool]) -> list[tuple[str, str, bool]]:
    """Return the commands without the first that is the journaled one; the loop may have made `abandon` of it."""
    action, *rest = journaled
    for number, command in enumerate(pending):
        if list(command[1:]) == rest and action in (command[0], "abandon"):
            return pending[:number] + pending[number + 1 :]
    return pending
