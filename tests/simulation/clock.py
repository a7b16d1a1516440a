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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

BEGIN_MS = 1_767_610_800_000
"""What the venue's clock says when a loop begins, unless another time is given: 2026-01-05 11:00 UTC."""


@dataclass(eq=False)
class Process:
    """What runs in the loop as one process: every task, timer and callback that was begun within it.

    Attributes:
        tasks: all of its tasks that have not ended, in the order of their begin: in this order a kill ends them.
        stops: how many hold it still just now (`stop`).
    """

    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    stops: int = 0
    _waiting: list[asyncio.Handle] = field(default_factory=list)

    def stop(self) -> None:
        """Run nothing of it until as many `go_on` have come."""
        self.stops += 1
        STOPPED.add(self)

    def go_on(self, loop: VirtualLoop) -> None:
        """Take one stop away; after the last, run what has waited meanwhile, in its order."""
        self.stops = max(self.stops - 1, 0)
        if not self.stops:
            STOPPED.discard(self)
            loop._ready.extend(self._waiting)
            self._waiting.clear()

    def keep(self, handle: asyncio.Handle) -> None:
        """Keep a callback until it goes on."""
        self._waiting.append(handle)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
STOPPED: set[Process] = set()
"""Processes that are held still, of any loop: while there are none, no callback's process is looked up."""


class Callback(asyncio.TimerHandle):
    """What the loop calls, at once or at a time: without what asyncio keeps of each for a debugger."""

    __slots__ = ()
    _repr = _source_traceback = None

    def __init__(
        self, when: float, callback: Any, args: Any, loop: VirtualLoop, context: contextvars.Context | None
    ) -> None:
        self._when, self._callback, self._args, self._loop = when, callback, args, loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        """Do nothing when its time comes."""
        self._cancelled = True
        self._callback = self._args = None


class Stuck(RuntimeError):
    """Everybody waits, and nothing will ever happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop in virtual time, which begins at 0 s.

    Args:
        begin_ms: what the venue's clock says then, ms UTC.

    Attributes:
        now_ms: the venue's clock, ms UTC.
    """

    def __init__(self, begin_ms: int = BEGIN_MS) -> None:
        super().__init__()
        self._begin_ms = begin_ms
        self._now = 0.0
        self.now_ms = begin_ms
        self._timers: list[tuple[float, int, Callback]] = []
        """By time, and those of one moment in the order in which they were set: what travels together stays so."""
        self._set = 0
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now

    def at_ms(self, time: int) -> float:
        """Return the loop's time, s, at a time of the venue's clock."""
        return (time - self._begin_ms) / 1000

    async def until(self, time: int) -> None:
        """Wait until the venue's clock says so."""
        future = self.create_future()
        handle = self.call_at(self.at_ms(time), lambda: future.done() or future.set_result(None))
        try:
            await future
        finally:
            handle.cancel()

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Callback:
        ready = Callback(self._now, callback, args, self, context)
        self._ready.append(ready)
        return ready

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Callback:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Callback:
        timer = Callback(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, timer))
        return timer

    def _run_once(self) -> None:
        """Run what is ready, after a jump to the next timer where nothing is."""
        ready, timers = self._ready, self._timers
        if not ready and not self._stopping:
            self._jump()
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if STOPPED and (process := handle._context.get(PROCESS)) in STOPPED:
                process.keep(handle)
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "exception in a callback", "exception": error})

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck("every task waits, and no timer is set")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self.now_ms = self._begin_ms + int(self._now * 1000 + 1e-6)

    def _refuse(self, *args: Any, **named: Any) -> NoReturn:
        raise RuntimeError("nothing outside of the loop can be waited for: its time would stand still")

    run_in_executor = call_soon_threadsafe = _refuse
    sock_connect = sock_recv = sock_sendall = add_reader = add_writer = _refuse
    getaddrinfo = create_connection = create_server = create_datagram_endpoint = _refuse
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _refuse


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, context: Any = None) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, context=context)
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda ended: process.tasks.pop(ended, None))
    return task


def run(main: Callable[[VirtualLoop], Any], begin_ms: int = BEGIN_MS) -> Any:
    """Run `main(loop)`, a coroutine function, to its end in a loop of its own; what it left running is cancelled."""
    loop = VirtualLoop(begin_ms)
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
