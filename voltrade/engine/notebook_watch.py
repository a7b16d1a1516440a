"""Until the notebook that started a session takes the lease: watches that its process still exists."""

from __future__ import annotations

import asyncio
import os

from voltrade.config import NOTEBOOK
from voltrade.engine.control import Control
from voltrade.runs.run_file import Record

FIRST_LEASE_S = 15
"""How long the engine waits for the lease of the notebook that started it. A notebook takes the lease while the engine
starts, or some seconds later on a busy machine."""


async def await_notebook(control: Control, record: Record, is_restarted: bool = False) -> None:
    """Treat the notebook as lost if it doesn't take the lease in time, or if its process ends before.

    Only seconds in which this process runs are counted: a suspended engine can't receive a lease. After a restart the
    notebook may be busy, or wait for its user, and then only the end of its process counts.

    Args:
        control: Has the lease.
        record: Says whether a notebook has started the session, and whether it has released the lease on purpose.
        is_restarted: Whether another engine ran the session before.
    """
    notebook, waited_s = os.environ.get(NOTEBOOK, ""), 0
    while not (control.was_leased or _is_gone(notebook)):
        if waited_s >= FIRST_LEASE_S and not (is_restarted and notebook):
            break
        await asyncio.sleep(1.0)
        waited_s += 1
    if record.facts.get("attended") and not (control.was_leased or record.facts.get("released")):
        control.check_lease()


def _is_gone(pid: str) -> bool:
    """Whether a process is given and has ended."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OSError) as error:
        return isinstance(error, ProcessLookupError)
    return False
