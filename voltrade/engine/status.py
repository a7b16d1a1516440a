"""What an engine answers when it is asked how it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from voltrade.compiled import IS_PLAIN
from voltrade.engine.warmup import Progress
from voltrade.journal import Journal
from voltrade.live import LiveTradingSystem
from voltrade.runs.run_file import ENDING


def engine_status(
    state: str,
    system: LiveTradingSystem | None,
    tape_trades: int,
    sounding: Iterable[str],
    loading: Progress | None,
    journal: Journal | None,
) -> dict[str, Any]:
    """Return state, form of the rules, what the session tells, alarms that sound, loading, and the journal's end.

    Args:
        state: of the run, by its record; a session that has finished is told as ending until the record says so.
        system: None before the session begins.
        tape_trades: trades of the tape, where one is played.
    """
    status: dict[str, Any] = {}
    if system is not None:
        status["rules"] = "plain Python" if IS_PLAIN or system.core.is_plain else "compiled"
        if state == "running" and system.core.finished:
            status["state"] = ENDING
        status |= system.status(tape_trades)
    if alarms := "; ".join(sounding):
        status["alarms"] = alarms
    if loading is not None:
        status |= {"loading": str(loading), "progress": loading.part}
    if journal is not None:
        status |= {"rows": journal.seq, "head": journal.head}
    return status
