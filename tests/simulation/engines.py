"""The engine's process: one of its lives, its clock, and the engine without what belongs to a real process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.clock import Process, VirtualLoop
from simulation.disk import SimulatedJournal, SimulatedRecord
from simulation.wire import SimulatedExchange
from voltrade.config import Config
from voltrade.engine.clocks import WallClock
from voltrade.engine.control import Control
from voltrade.engine.engine import Engine
from voltrade.journal.ballast import Ballast

MOST_READINGS = 1_000
"""So often nobody reads the clock at one instant: a loop that does never gives the event loop back."""


class Killed(BaseException):
    """The process was killed at this place."""


class Spinning(RuntimeError):
    """The engine runs in circles without giving the event loop back: time would stand still for ever."""


class EngineClock(WallClock):
    """The engine's clock, on a machine whose wall clock is the venue's unless somebody has set it.

    Args:
        ahead_ms: by how much, each time that it was set.
    """

    def __init__(self, loop: VirtualLoop, ahead_ms: list[int]) -> None:
        self._loop = loop
        self._instant, self._readings = 0.0, 0
        super().__init__(lambda: (loop.now_ms + sum(ahead_ms)) * 1_000_000, lambda: loop.now_ms * 1_000_000)

    def __call__(self) -> int:
        instant = self._loop._now
        if instant != self._instant:
            self._instant, self._readings = instant, 0
        self._readings += 1
        if self._readings > MOST_READINGS:
            raise Spinning(f"the clock was read {MOST_READINGS} times at {self._loop.now_ms}")
        return self._begin // 1_000_000 + self._loop.now_ms


class SimulatedEngine(Engine):
    """The engine, reached by the simulated network, without what belongs to a process: signals, a socket, frames."""

    journal_type = SimulatedJournal
    record_type = SimulatedRecord

    def __init__(self, run_dir: Path, reach: Callable[[Config], Any], caretaker: str = "") -> None:
        super().__init__(run_dir)
        self._reach, self.caretaker, self._ballast = reach, caretaker, Ballast()

    async def run(self) -> None:
        async with AsyncExitStack() as held:
            self._identify()
            wiring = await self._reach(self._config)
            held.push_async_callback(wiring.close)
            held.callback(self._close)
            self._lock_account(wiring)
            self._control = self._make_control()
            self._record.note(account=wiring.fingerprint)
            await self._trade(wiring, self._control)

    def _new_id(self) -> str:
        """The run's epoch: by chance no two sessions would be the same."""
        return f"run {self._record.facts['epoch']}"

    def _save_frames(self) -> None:
        """Nobody looks at them."""


@dataclass
class Incarnation:
    """One life of the engine's process.

    Attributes:
        begin: when it was started, ms of the venue's clock.
        run: which of the session's runs it is for.
        exchange: its end of the network, once it has one.
    """

    process: Process
    engine: SimulatedEngine
    begin: int
    run: int
    task: asyncio.Task[None] | None = None
    exchange: SimulatedExchange | None = None
    was_killed: bool = False

    @property
    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done() and not self.was_killed


class Answer:
    """Where the control socket writes its answer."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, text: bytes) -> None:
        self.text += text

    async def drain(self) -> None:
        """Nobody reads slowly."""

    def close(self) -> None:
        """Nothing to close."""


async def ask(control: Control, line: bytes) -> bytes:
    """Say a line to the engine's control socket, and return what it answers."""
    reader, answer = asyncio.StreamReader(), Answer()
    reader.feed_data(line)
    reader.feed_eof()
    await control._serve(reader, answer)  # type: ignore[arg-type]
    return answer.text
