"""An asyncio loop whose clock jumps: when nothing is ready, it is at once as late as the next timer.

A small loop of our own rather than `looptime`: that one keeps the selector's system calls and can't stop a part of
what it runs. This loop has no sockets and no threads: whatever would wait for something outside is a mistake and is
told as one. And what belongs to one simulated process (`Process`) can be stopped and go on later, as by SIGSTOP and
SIGCONT, while all else goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

BEGIN_MS = 1_767_610_800_000
"""What the venue's clock says when a loop begins: 2026-01-05 11:00 UTC."""


@dataclass(eq=False)
class Process:
    """What runs in the loop as one process: every task, timer and callback that was begun within it.

    Attributes:
        tasks: all of its tasks that have not ended.
        is_stopped: whether it stands still (`stop`).
    """

    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    is_stopped: bool = False
    _waiting: list[asyncio.Handle] = field(default_factory=list)

    def stop(self) -> None:
        """Run nothing of it until `go_on`."""
        self.is_stopped = True

    def go_on(self, loop: VirtualLoop) -> None:
        """Run what has waited meanwhile, in its order."""
        self.is_stopped = False
        for handle in self._waiting:
            loop._ready.append(handle)  # type: ignore[attr-defined]
        self._waiting.clear()


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def _is_held(handle: asyncio.Handle) -> bool:
    """Keep a callback for later where its process is stopped."""
    process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
    if process is None or not process.is_stopped:
        return False
    process._waiting.append(handle)
    return True


class _Handle(asyncio.Handle):
    def _run(self) -> None:
        if not _is_held(self):
            super()._run()  # type: ignore[misc]


class _TimerHandle(asyncio.TimerHandle):
    """Timers of one moment run in the order in which they were set, so that what travels together stays in order."""

    number = 0

    def __lt__(self, other: Any) -> bool:
        mine, others = self.when(), other.when()
        return bool(mine < others or (mine == others and self.number < other.number))

    def _run(self) -> None:
        if not _is_held(self):
            super()._run()  # type: ignore[misc]


class Stuck(RuntimeError):
    """Everybody waits, and nothing will ever happen."""


class _NoSelector(selectors.BaseSelector):
    """Waits for no file: to wait is to move the loop's clock."""

    def __init__(self) -> None:
        self.jump: Callable[[float | None], None] = lambda timeout: None
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time, which begins at 0 s."""

    def __init__(self) -> None:
        selector = _NoSelector()
        super().__init__(selector)
        selector.jump = self._jump
        self._now = 0.0
        self._timers = 0
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now

    @property
    def now_ms(self) -> int:
        """The venue's clock, ms UTC."""
        return BEGIN_MS + int(self._now * 1000 + 1e-6)

    def at_ms(self, time: int) -> float:
        """Return the loop's time, s, at a time of the venue's clock."""
        return (time - BEGIN_MS) / 1000

    async def until(self, time: int) -> None:
        """Wait until the venue's clock says so."""
        future = self.create_future()
        handle = self.call_at(self.at_ms(time), lambda: future.done() or future.set_result(None))
        try:
            await future
        finally:
            handle.cancel()

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        self._timers += 1
        timer.number = self._timers
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            raise Stuck("every task waits, and no timer is set")
        if timeout > 0:
            # Exactly the timer's time: now + timeout may fall short of it by a rounding.
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, context=context)
    process = (context or contextvars.copy_context()).get(PROCESS)
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


def run(main: Callable[[VirtualLoop], Any]) -> Any:
    """Run `main(loop)`, a coroutine function, to its end in a loop of its own; what it left running is cancelled."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        _end(loop)
        asyncio.set_event_loop(None)
        loop.close()


def _end(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
