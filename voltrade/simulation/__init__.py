"""A whole lockstep session over a tape as one compiled loop: what `backtest` would do event by event, bit for bit.

The rules are the ones that trade: sizes, gates and breaker from `risk`, prices and triggers from `exchange.execution`,
fees and positions from `account`, an order's legal moves and the reaction to a refusal from `oms`. What stands here
once more is only how they follow each other: a room for each room that it stands for, where a function has the name
that it has there; read them side by side. A property test holds both to the same round trips, fills, refusals, breaker
changes and equity, over random settings and tapes.

Where something comes up that isn't modelled, the loop stops and says so in `desk.unmodelled`; the caller then runs the
session event by event.
"""

from __future__ import annotations

from voltrade.simulation.lockstep import simulate
from voltrade.simulation.rows import (
    BRACKET,
    DESK,
    ENTRY,
    MORE_ROOM,
    NONE,
    PURPOSES,
    REASONS,
    REFUSAL,
    REJECTED,
    SETTINGS,
    SIGNAL,
    STATES,
    STOP_IS_MISSING,
    TABLES,
    UNKNOWN,
    UNMODELLED,
)

__all__ = [
    "BRACKET",
    "DESK",
    "ENTRY",
    "MORE_ROOM",
    "NONE",
    "PURPOSES",
    "REASONS",
    "REFUSAL",
    "REJECTED",
    "SETTINGS",
    "SIGNAL",
    "STATES",
    "STOP_IS_MISSING",
    "TABLES",
    "UNKNOWN",
    "UNMODELLED",
    "simulate",
]
