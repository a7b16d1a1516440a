"""A session of days in virtual time, in the order in which an exchange and a network go on: what it uses up, and when.

Not for faults, which the campaign has: connections that are as old as the exchange lets them become, the maintenance
that is announced, and listen keys. The engine is the product's own, as in every simulated session.

    PYTHONPATH=.:tests python -m simulation.week --hours 168 --rate 2 --form paper
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import time
import types
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from simulation import clock
from simulation.clock import BEGIN_MS, VirtualLoop
from simulation.evidence import Json, Request
from simulation.network import Network
from simulation.plans import Plan
from simulation.scenario import at, workplace
from simulation.tapes import MIDDLE, SYMBOL
from simulation.world import World
from voltrade import journal
from voltrade.config import Config
from voltrade.engine.modes import Wiring
from voltrade.engine.paper import PaperExchange
from voltrade.folders import STATE_VARIABLE
from voltrade.model import FeedGap, Trades
from voltrade.venue.server import Venue

HOUR_S, MINUTE_MS = 3_600, 60_000
HISTORY_S = 1_800.0
MAINTENANCE_S = 600.0
SETTLED_S = 600.0
"""After the start, so that what is loaded and filled once is no growth; and after a maintenance, to be quiet again."""
SETTINGS: Json = {
    **{"ema_fast": 5, "ema_slow": 12, "rsi_length": 7, "atr_length": 7, "bollinger_length": 10, "vwap_length": 10},
    **{"capital": 10_000, "wallet": 10_000, "max_trades_per_day": 10_000, "max_consecutive_losses": 1_000},
    **{"speed": 1.0, "taker_fee": 0.0, "slippage_bps": 0.0, "unit": "trades", "mark_interval_s": 1},
}
"""The exchange tells the mark price each second; bars come about one a minute."""
OUTSIDE = (Venue, Network, World, VirtualLoop, types.ModuleType, type, types.CodeType, types.BuiltinFunctionType)
"""What is no part of the engine, or is code."""


def even_tape(hours: float, rate: float, seed: int = 1, burst: int = 1) -> Trades:
    """Draw a tape of days: `rate` trades a second in bursts of so many, which share their millisecond, and no hole."""
    draw = np.random.default_rng([seed, 7])
    count = int(hours * HOUR_S * rate / burst)
    moments = np.sort(draw.integers(0, int(hours * HOUR_S * 1000), count))
    time = np.repeat(moments, burst) + BEGIN_MS
    total = len(time)
    # Prices come back to the middle, so that a week of them stays among the exchange's.
    walk = np.cumsum(draw.normal(0, 25, total))
    price = (MIDDLE + 40_000 * np.sin(walk / 40_000)).astype(np.int64)
    lots = np.maximum(1, draw.lognormal(5.0, 1.2, total)).astype(np.int64)
    return Trades(SYMBOL, np.arange(1, total + 1), price, lots, time, draw.random(total) < 0.5)


def held(*roots: object) -> Counter[str]:
    """Return the bytes of all that can be reached from some objects, but for what is outside, by type."""
    seen, left, sizes = {id(root) for root in roots}, list(roots), Counter[str]()
    while left:
        one = left.pop()
        sizes[type(one).__name__] += sys.getsizeof(one)
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, OUTSIDE):
                seen.add(id(other))
                left.append(other)
    return sizes


@dataclass
class Used:
    """What a session of days has used.

    Attributes:
        memory: bytes that the engine holds, by hours since the opening.
        journal: bytes of the journal's file; `trades` and `rows` in it.
        requests: all of REST, and `dials` of websockets, with their times.
        links: streams that went down or up: (hours since the opening, stream, whether it is up).
        gaps: in the trades that the core took.
        orders: how many were sent.
        cpu_s: for all of it, venue and network too; `hours` that were played.
        restart_s: how long a recovery from its journal takes.
    """

    memory: dict[float, Counter[str]] = field(default_factory=dict)
    journal: int = 0
    trades: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    dials: list[tuple[int, str]] = field(default_factory=list)
    links: list[tuple[float, str, bool]] = field(default_factory=list)
    gaps: list[FeedGap] = field(default_factory=list)
    hours: float = 0.0
    cpu_s: float = 0.0
    opened: int = 0
    run: Path = Path()

    def growth_mb_per_hour(self) -> float:
        """How much more the engine holds each hour, between the first and the last time that it was looked at."""
        (first, before), *_, (last, after) = self.memory.items()
        return (after.total() - before.total()) / (last - first) / 1e6

    def weights(self, every_ms: int) -> dict[int, int]:
        """Return the request weight used in each minute or hour since the settled begin, of the venue's clock."""
        minutes: defaultdict[int, int] = defaultdict(int)
        for request in self.requests:
            if request.arrived >= self.opened + SETTLED_S * 1000:
                minute = request.arrived // MINUTE_MS
                minutes[minute] = max(minutes[minute], request.used_weight)
        spans: defaultdict[int, int] = defaultdict(int)
        for minute, weight in minutes.items():
            spans[minute * MINUTE_MS // every_ms] += weight
        return spans

    def most_dials(self, within_ms: int = 300_000) -> int:
        """Return the most dials within five minutes."""
        times = np.array([when for when, _ in self.dials])
        return int((np.searchsorted(times, times + within_ms) - np.arange(len(times))).max())


class Days(World):
    """Plays a plan of days; `form` is `paper`, or `demo`: orders by REST, events by the user stream."""

    def __init__(self, loop: VirtualLoop, plan: Plan, root: Path, form: str, looks: Iterable[float]) -> None:
        super().__init__(loop, plan, root, is_replayed=False)
        self.used, self._form = Used(opened=loop.now_ms), form
        for hours in looks:
            self.later(hours * HOUR_S, self._look, hours)

    def _look(self, hours: float) -> None:
        now = self.now
        assert now is not None
        gc.collect()
        self.used.memory[hours] = held(now.engine, now.exchange)

    async def _reach(self, config: Config) -> Wiring:
        wiring = await super()._reach(config)
        if self._form == "paper":
            wiring.gateway = PaperExchange(config, wiring.instrument, wiring.clock)
        return wiring

    async def _leave(self) -> Any:
        used, run = self.used, self.folder(0)
        now = self.now
        assert now is not None
        if now.is_alive:
            now.was_killed = True
            self._hang_up(now)
            self._cancel(now)
            await self._is_gone(now)
        self.disk.forget()
        self.network.close()
        self.venue.truth.close()
        used.requests, used.dials, used.run = self.network.requests, self.network.dials, run
        return used


def play(plan: Plan, form: str, looks: Iterable[float]) -> Used:
    """Play a plan of days in this process's folder."""
    root, began = workplace(), time.process_time()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o700, parents=True)
    with mock.patch.dict(os.environ, {STATE_VARIABLE: str(root / "state")}):
        used: Used = clock.run(lambda loop: Days(loop, plan, root, form, looks).play())
    used.hours, used.cpu_s = plan.duration_s / HOUR_S, time.process_time() - began
    read(used)
    return used


def read(used: Used) -> None:
    """Read what the journal says."""
    path = used.run / "journal.db"
    used.journal = sum(file.stat().st_size for file in used.run.glob("journal.db*") if not file.name.endswith("-shm"))
    for row in journal.read(path):
        used.rows[row.kind] += 1
        if row.kind == "Trades":
            used.trades += len(row.fact)
        elif row.kind == "Market":
            used.trades += sum(len(fact) for fact in row.fact if isinstance(fact, Trades))
        elif row.kind == "FeedGap":
            used.gaps.append(row.fact)
        elif row.kind == "StreamStatus":
            used.links.append(((row.fact.time - used.opened) / 3.6e6, row.fact.stream, row.fact.up))


def days(hours: float, rate: float, *, burst: int = 1, maintenance: Iterable[float] = (), **settings: Any) -> Plan:
    """Return the plan of a session of days; `maintenance` are hours at which one begins."""
    given = {**SETTINGS, "threshold": max(int(60 * rate), 2), "duration_s": hours * HOUR_S, "seed": 1, **settings}
    tape = even_tape(hours + (HISTORY_S + 300) / HOUR_S, rate, burst=burst)
    strikes = tuple(at(when * HOUR_S, "maintenance", MAINTENANCE_S, for_s=MAINTENANCE_S) for when in maintenance)
    return Plan(1, given, tape, HISTORY_S, strikes, hours * HOUR_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=168.0)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--form", choices=("paper", "demo"), default="demo")
    given = parser.parse_args()
    looks: list[float] = np.arange(1.0, given.hours, max(given.hours / 8, 1.0)).tolist()
    plan = days(given.hours, given.rate, burst=given.burst, maintenance=[30.0] if given.hours > 31 else [])
    tell(play(plan, given.form, looks or [given.hours / 4, given.hours / 2]))


def tell(used: Used) -> None:
    print(f"{used.hours:g} h in {used.cpu_s:.1f} s of CPU, {used.trades:,} trades")
    print(f"journal {used.journal / 1e6:.1f} MB, {used.journal / used.trades:.1f} bytes a trade")
    print(f"rows {dict(used.rows)}")
    for hours, sizes in used.memory.items():
        print(f"  {hours:6.1f} h: {sizes.total() / 1e6:.2f} MB {dict(sizes.most_common(8))}")
    print(f"memory {used.growth_mb_per_hour():+.3f} MB/h")
    print(f"weight: worst minute {max(used.weights(MINUTE_MS).values())}, hour {max(used.weights(3_600_000).values())}")
    print(f"requests {len(used.requests)}, dials {len(used.dials)}, most in 5 minutes {used.most_dials()}")
    print(f"links {used.links[:40]}, gaps {len(used.gaps)}: {used.gaps[:4]}")


if __name__ == "__main__":
    main()
