"""A scripted session in a few lines.

>>> evidence = scenario(at(60, "user_late", 30, by_s=5.0), at(70, "kill"), duration_s=120)
>>> assert violations(evidence) == []

`at(seconds after the opening, kind, seconds that it lasts, facts)`; kinds are those of `venue/faults.json`, whose
facts are `Fault`'s fields (`on`, `how`, `code`, `chance`, `times`, `with` ...), and the `do_` methods of `Strikes`.

A session of several runs on one account: each is `at(120, "run", name="second", ...)`, with settings of its own, and
`at(90, "kill", again=False)` leaves a run dead until `at(150, "resume", run=0)`.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from simulation import clock
from simulation.evidence import Evidence, Json
from simulation.kinds import Strike
from simulation.plans import BEGIN_S, Plan, lasts_s
from simulation.tapes import drawn_tape
from simulation.world import World
from voltrade.folders import STATE_VARIABLE
from voltrade.model import Trades

WORKPLACES = "VOLTRADE_SIMULATIONS"
"""Environment variable that names the folder of all sessions' folders."""

QUICK: Json = {
    **{"unit": "trades", "threshold": 8, "ema_fast": 2, "ema_slow": 3, "rsi_length": 2, "atr_length": 2},
    **{"bollinger_length": 2, "vwap_length": 2, "min_stop_bps": 0.0, "stop_atr": 8.0, "take_profit_atr": 10.0},
    **{"cooldown_bars": 1, "capital": 10_000, "wallet": 10_000, "max_consecutive_losses": 1_000, "slippage_bps": 0.0},
    **{"speed": 1.0, "taker_fee": 0.0, "maker_fee": 0.0, "max_trades_per_day": 10_000},
}
"""Bars of eight trades, indicators that are ready at once, and limits out of the way."""


def at(seconds: float, kind: str, for_s: float = 0.0, /, **facts: Any) -> Strike:
    """One fault; `with_` stands for `with`. A `for_s` by name is a fact of the fault."""
    if "with_" in facts:
        facts["with"] = facts.pop("with_")
    return (seconds, kind, for_s, facts)


def scenario(
    *strikes: Strike,
    tape: Trades | None = None,
    seed: int = 1,
    begin_s: float = BEGIN_S,
    restart_s: float = 1.5,
    faults_s: float | None = None,
    opens_ms: int = clock.BEGIN_MS,
    looks_s: tuple[float, ...] = (),
    **settings: Any,
) -> Evidence:
    """Play a session under these faults.

    Args:
        faults_s: when faults have ended; without it with the last of them.
        opens_ms: what the venue's clock says when it opens.
        looks_s: when an operator looks, and resumes what is halted.
        settings: parameters over `QUICK`, such as `duration_s` or `rule`.
    """
    given = {**QUICK, "duration_s": 300.0, "seed": seed, **settings}
    end_s = begin_s + lasts_s(given, strikes) + 120
    last_s = max([at_s + for_s for at_s, _, for_s, _ in strikes], default=0.0)
    played = tape if tape is not None else drawn_tape(seed, end_s)
    ends_s = last_s if faults_s is None else faults_s
    return play(Plan(seed, given, played, begin_s, strikes, ends_s, restart_s, opens_ms=opens_ms, looks_s=looks_s))


def play(plan: Plan, is_replayed: bool = True) -> Evidence:
    """Play a plan in a folder that every session of this process uses anew; its journals are replayed at the end."""
    root = workplace()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o700, parents=True)
    with _garbage_left(), mock.patch.dict(os.environ, {STATE_VARIABLE: str(root / "state")}):
        evidence: Evidence = clock.run(lambda loop: World(loop, plan, root, is_replayed).play(), plan.opens_ms)
    return evidence


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Collect no garbage meanwhile: a session is short, and keeps most of what it makes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def workplace() -> Path:
    """Return a folder of this process, which is removed when it ends; in memory, unless WORKPLACES names another."""
    place = Path(os.environ.get(WORKPLACES, memory())) / f"voltrade-simulation-{os.getuid()}-{os.getpid()}"
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def memory() -> Path:
    """Return a folder that lies in memory, where there is one."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
