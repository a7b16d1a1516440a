"""What stories begin from: a quiet market, a rule that buys, stop and target far away."""

from __future__ import annotations

from typing import Any

from simulation.evidence import Evidence
from simulation.scenario import RULE, scenario
from simulation.tapes import path_tape
from simulation.world import lasts_s

BEFORE_S = 60.0
"""History before the opening of a story."""
HOLDS: dict[str, Any] = {"rule": RULE, "stop_atr": 60.0, "take_profit_atr": 0.0, "latency_ms": 0, "duration_s": 60.0}
HOLDS |= {"cooldown_bars": 100_000}
"""Buys a quarter of a coin 0.6 s after the opening, and never again once it has left; the stop is 0.15 % away."""
PRICE = 80_000.0


def story(*strikes: Any, path: Any = (), every_s: float = 0.2, lots: Any = 1_000, **settings: Any) -> Evidence:
    """Play a session on a tape that leads along `path`, (seconds after the opening, USDT); without one it stands still.

    Each trade could fill all that we order, unless `lots` says less.
    """
    given = {**HOLDS, **settings}
    end_s = lasts_s(given, strikes) + 65
    points = [(0.0, PRICE), *((BEFORE_S + at_s, price) for at_s, price in path)]
    points.append((BEFORE_S + end_s, points[-1][1]))
    return scenario(*strikes, tape=path_tape(points, every_s, lots), begin_s=BEFORE_S, **given)
