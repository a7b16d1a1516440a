"""The clock of the simulator: it jumps exactly, keeps the order of what is due together, and can hold a process."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from simulation import clock
from simulation.clock import BEGIN_MS, PROCESS, Process, Stuck, VirtualLoop


def test_it_jumps_exactly_to_the_next_timer() -> None:
    """Three tenths of a second are no sum of floats; a day passes at once."""

    async def main(loop: VirtualLoop) -> list[float]:
        times = []
        for when in (0.1, 0.1 + 0.2, 0.3000000000000001, 86_400.0):
            future = loop.create_future()
            loop.call_at(when, future.set_result, None)
            await future
            times.append(loop.time())
        return times

    assert clock.run(main) == [0.1, 0.1 + 0.2, 0.3000000000000001, 86_400.0]


def test_the_venues_clock_counts_whole_milliseconds_from_the_begin() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        seen = []
        for time in range(BEGIN_MS + 1, BEGIN_MS + 1_000, 7):
            await loop.until(time)
            seen.append(loop.now_ms - time)
        return seen

    assert set(clock.run(main)) == {0}


def test_timers_of_one_moment_run_in_the_order_in_which_they_were_set() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        ran: list[int] = []
        for number in range(100):
            loop.call_at(1.0 + (number % 2), ran.append, number)
        await asyncio.sleep(3)
        return ran

    assert clock.run(main) == [*range(0, 100, 2), *range(1, 100, 2)]


def test_a_timer_that_was_cancelled_moves_no_clock() -> None:
    async def main(loop: VirtualLoop) -> float:
        loop.call_later(5, print, "never").cancel()
        await asyncio.sleep(10)
        loop.call_later(50, print, "never").cancel()
        await asyncio.sleep(0)
        return loop.time()

    assert clock.run(main) == 10


def within(process: Process, loop: VirtualLoop, task: Any) -> asyncio.Task[None]:
    """Begin a task in a process."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, process)
    return loop.create_task(task, context=context)


async def counts(loop: VirtualLoop, told: list[tuple[str, float]], name: str) -> None:
    for _ in range(4):
        await asyncio.sleep(1)
        told.append((name, loop.time()))


def test_a_stopped_process_runs_nothing_and_then_all_in_its_order() -> None:
    """Two tasks of a process and one of none: stopped from 1.5 s to 3.5 s, it is 2 s late and the other never."""

    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        told: list[tuple[str, float]] = []
        process = Process()
        tasks = [within(process, loop, counts(loop, told, name)) for name in "ab"]
        other = loop.create_task(counts(loop, told, "other"))
        loop.call_at(1.5, process.stop)
        loop.call_at(3.5, process.go_on, loop)
        await asyncio.gather(other, *tasks)
        return told

    told = clock.run(main)
    assert [time for name, time in told if name == "other"] == [1, 2, 3, 4]
    assert [each for each in told if each[0] != "other"] == [
        *[("a", 1.0), ("b", 1.0), ("a", 3.5), ("b", 3.5)],
        *[("a", 4.5), ("b", 4.5), ("a", 5.5), ("b", 5.5)],
    ]


def test_a_process_knows_its_tasks_and_those_that_they_begin() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, int]:
        process = Process()

        async def parent() -> None:
            await asyncio.create_task(asyncio.sleep(1))

        task = within(process, loop, parent())
        await asyncio.sleep(0.5)
        running = len(process.tasks)
        await task
        await asyncio.sleep(0)
        return running, len(process.tasks)

    assert clock.run(main) == (2, 0)


def test_waiting_for_nothing_is_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck, match="no timer is set"):
        clock.run(main)


@pytest.mark.parametrize(
    "outside",
    [
        lambda loop: asyncio.to_thread(print),
        lambda loop: asyncio.open_connection("127.0.0.1", 9),
        lambda loop: asyncio.start_server(print, "127.0.0.1", 0),
        lambda loop: asyncio.create_subprocess_exec("true"),
        lambda loop: loop.getaddrinfo("localhost", 80),
    ],
    ids=["thread", "connection", "server", "subprocess", "name"],
)
def test_a_real_thread_or_socket_is_refused(outside: Callable[[VirtualLoop], Any]) -> None:
    async def main(loop: VirtualLoop) -> None:
        await outside(loop)

    with pytest.raises(RuntimeError, match="nothing outside of the loop"):
        clock.run(main)


def test_what_is_left_running_is_cancelled() -> None:
    ended = []

    async def left() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("left")

    async def main(loop: VirtualLoop) -> asyncio.Task[None]:
        task = loop.create_task(left())
        await asyncio.sleep(1)
        return task

    assert clock.run(main).cancelled()
    assert ended == ["left"]
