"""Signals only ask a check for its end, however often they come: it then cleans up, and ends by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

ASK_FOR_THE_END = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP")
"""Signals of terminals and of systems that shut down; a check that was only stopped would leave its position open."""


def run_to_the_end(check: Coroutine[Any, Any, T]) -> T:
    """Run a check; the first of these signals cancels it, and all others do nothing.

    Raises:
        CancelledError: It was asked to end.
    """

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.create_task(check)
        for name in ASK_FOR_THE_END:
            number = getattr(signal, name)
            if name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves it
                loop.add_signal_handler(number, _ask, task)
        return await task

    return asyncio.run(watched())


def _ask(task: asyncio.Task[Any]) -> None:
    if not task.cancelling():
        task.cancel()
