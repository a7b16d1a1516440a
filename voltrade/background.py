"""Work beside the session's loop: none of it ends silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


def background(work: Coroutine[Any, Any, T], on_failure: Callable[[Exception], None]) -> asyncio.Task[T]:
    """Run work in a task of its own, for which nobody waits.

    Args:
        work: ends, or goes on until the task is cancelled.
        on_failure: called with the exception that ends it, once that is in the log.
    """

    def on_end(task: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            log.error("%s failed", task.get_coro(), exc_info=error)
            on_failure(error)

    task = asyncio.create_task(work)
    task.add_done_callback(on_end)
    return task


def is_cancelled() -> bool:
    """Return whether somebody has cancelled the task that runs now.

    Where a future is cancelled, whoever awaits it gets a `CancelledError` too, though nobody wants that task to end.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
