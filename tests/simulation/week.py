"""A session of days in virtual time, in the order in which an exchange and a network go on: what it uses up, and when.

Not for faults, which the campaign has: connections that become as old as the exchange lets them, a maintenance, and
listen keys. The engine is the product's own, as in every simulated session.

    PYTHONPATH=.:tests python -m simulation.week --hours 168 --rate 2 --form paper
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import sqlite3
import sys
import time
import types
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
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
from voltrade.runs.replay import recover
from voltrade.venue.server import Venue

HOUR_S, MINUTE_MS = 3_600, 60_000
HISTORY_S = 1_800.0
MAINTENANCE_S = 600.0
SETTLED_S = 600.0
"""The begin, in which trades are loaded; and how long after a maintenance a session is back."""
WEIGHT = 2_400
MOST = {
    "memory": 1.0,
    "journal": 20.0,
    "minute": 0.3 * WEIGHT,
    "hour": 0.05 * WEIGHT * 60,
    "dials": 300,
    "restart": 8.0,
}
"""What a session may use: MB an hour, bytes a trade, request weight in a minute and in an hour, dials in five minutes;
and seconds that a recovery from its journal may take."""
SETTINGS: Json = {
    **{"ema_fast": 5, "ema_slow": 12, "rsi_length": 7, "atr_length": 7, "bollinger_length": 10, "vwap_length": 10},
    **{"capital": 10_000, "wallet": 10_000, "max_trades_per_day": 10_000, "max_consecutive_losses": 1_000},
    **{"speed": 1.0, "taker_fee": 0.0, "slippage_bps": 0.0, "unit": "trades", "mark_interval_s": 1},
}
"""The exchange tells the mark price each second; bars come about one a minute."""
OUTSIDE = (
    Venue,
    Network,
    World,
    VirtualLoop,
    logging.Logger,
    types.ModuleType,
    type,
    types.CodeType,
    types.BuiltinFunctionType,
)
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
        # Of a function only what it has closed over: its module's names lead everywhere.
        for other in (one.__closure__ or ()) if isinstance(one, types.FunctionType) else gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, OUTSIDE):
                seen.add(id(other))
                left.append(other)
    return sizes


@dataclass
class Used:
    """What a session of days has used.

    Attributes:
        memory: bytes that the engine holds, by hours since the opening.
        journal: bytes of the journal's pages; `trades` and `rows` in it.
        requests: all of REST, and `dials` of websockets, with their times.
        maintenance: hours at which one began.
        links: streams that went down or up: (hours since the opening, stream, whether it is up).
        gaps: in the trades that the core took.
        cpu_s: for all of it, venue and network too; `hours` that were played.
        restart_s: for a recovery from its journal, CPU.
        differences: found by a replay; -1 where none was made.
    """

    memory: dict[float, Counter[str]] = field(default_factory=dict)
    journal: int = 0
    trades: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    dials: list[tuple[int, str]] = field(default_factory=list)
    links: list[tuple[float, str, bool]] = field(default_factory=list)
    gaps: list[FeedGap] = field(default_factory=list)
    maintenance: tuple[float, ...] = ()
    hours: float = 0.0
    cpu_s: float = 0.0
    restart_s: float = 0.0
    differences: int = -1
    opened: int = 0
    run: Path = Path()

    def growth_mb_per_hour(self) -> float:
        """How much more the engine holds each hour, between the first and the last time that it was looked at."""
        if len(self.memory) < 2:
            return 0.0
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

    def is_planned(self, hours: float) -> bool:
        """Whether the exchange is in maintenance then, or has just been."""
        return any(-0.001 < hours - begin <= (MAINTENANCE_S + SETTLED_S) / HOUR_S for begin in self.maintenance)

    def broken(self) -> list[str]:
        """Return what does not hold, in words; empty where all does."""
        downs = (at for at, stream, up in self.links if stream == "market" and not up)
        lost = [f"{at:.3f} h: market stream down" for at in downs if not self.is_planned(at)]
        for gap in self.gaps:
            at, missing = (gap.time - self.opened) / 3.6e6, gap.last_id - gap.first_id + 1 - gap.filled
            # In a maintenance REST is away too, so that a trade that was missed then can't be loaded.
            lost += [] if self.is_planned(at) else [f"{at:.3f} h: a gap, {missing} trades are missing"]
        used = {
            **{"memory": self.growth_mb_per_hour(), "journal": self.journal / self.trades},
            **{
                "minute": max(self.weights(MINUTE_MS).values(), default=0),
                "hour": max(self.weights(60 * MINUTE_MS).values(), default=0),
            },
            **{"dials": self.most_dials(), "restart": self.restart_s},
        }
        lost += [f"{name}: {value:.2f}, may be {MOST[name]:g}" for name, value in used.items() if value > MOST[name]]
        if used["memory"] > MOST["memory"]:
            grown = [*self.memory.values()][-1] - next(iter(self.memory.values()))
            lost.append(f"memory has grown by {dict(grown.most_common(6))} bytes")
        return lost + ([f"replay: {self.differences} differences"] if self.differences > 0 else [])

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


def play(hours: float, rate: float, form: str, *, burst: int = 1, looks: Iterable[float] = (), **how: Any) -> Used:
    """Play a session of days in this process's folder; see `days`, `even_tape` and `Days`."""
    root, began = workplace(), time.process_time()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o700, parents=True)
    plan = days(hours, rate, burst=burst, **how)
    with mock.patch.dict(os.environ, {STATE_VARIABLE: str(root / "state")}):
        used: Used = clock.run(lambda loop: Days(loop, plan, root, form, looks).play())
    used.hours, used.cpu_s = hours, time.process_time() - began
    used.maintenance = tuple(at_s / HOUR_S for at_s, kind, *_ in plan.strikes if kind == "maintenance")
    read(used)
    return used


def read(used: Used) -> None:
    """Read what the journal says, and recover from it."""
    path = used.run / "journal.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    used.journal = pages * size
    for row in journal.read(path):
        used.rows[row.kind] += 1
        if row.kind in ("Trades", "Market"):
            facts = row.fact if row.kind == "Market" else (row.fact,)
            used.trades += sum(len(fact) for fact in facts if isinstance(fact, Trades))
        elif row.kind == "FeedGap":
            used.gaps.append(row.fact)
        elif row.kind == "StreamStatus":
            used.links.append(((row.fact.time - used.opened) / 3.6e6, row.fact.stream, row.fact.up))
    began = time.process_time()
    recover(path)
    used.restart_s = time.process_time() - began


def days(hours: float, rate: float, *, burst: int = 1, maintenance: Iterable[float] = (), **settings: Any) -> Plan:
    """Return the plan of a session of days; `maintenance` are hours at which one begins."""
    given = {**SETTINGS, "threshold": max(int(60 * rate), 2), "duration_s": hours * HOUR_S, "seed": 1, **settings}
    tape = even_tape(hours + (HISTORY_S + 300) / HOUR_S, rate, burst=burst)
    strikes = tuple(at(when * HOUR_S, "maintenance", MAINTENANCE_S) for when in maintenance)
    return Plan(1, given, tape, HISTORY_S, strikes, hours * HOUR_S)


def main() -> None:
    parser = argparse.ArgumentParser(description="A session of days in virtual time, and what it uses.")
    parser.add_argument("--hours", type=float, default=168.0)
    parser.add_argument("--rate", type=float, default=2.0, help="trades a second")
    parser.add_argument("--burst", type=int, default=1, help="trades that share their millisecond")
    parser.add_argument("--form", choices=("paper", "demo"), default="demo")
    given = parser.parse_args()
    looks = np.linspace(min(1.0, given.hours / 4), given.hours - 0.05, 6).tolist()
    maintenance = [30.0] if given.hours > 31 else []
    used = play(given.hours, given.rate, given.form, burst=given.burst, looks=looks, maintenance=maintenance)
    tell(used)
    sys.exit(bool(used.broken()))


def tell(used: Used) -> None:
    print(f"{used.hours:g} h in {used.cpu_s:.0f} s of CPU, {used.trades:,} trades, recovered in {used.restart_s:.1f} s")
    print(
        f"journal {used.journal / 1e6:.1f} MB, {used.journal / used.trades:.1f} bytes a trade, rows {dict(used.rows)}"
    )
    for hours, sizes in used.memory.items():
        print(f"  {hours:6.1f} h: {sizes.total() / 1e6:.2f} MB {dict(sizes.most_common(5))}")
    print(f"memory {used.growth_mb_per_hour():+.3f} MB/h")
    minute, hour = (max(used.weights(span).values(), default=0) for span in (MINUTE_MS, 60 * MINUTE_MS))
    print(f"weight: {minute} in the worst minute, {hour} in the worst hour; {len(used.requests)} requests")
    print(f"{len(used.dials)} dials, at most {used.most_dials()} in 5 minutes; {len(used.gaps)} gaps")
    for line in used.broken() or ["all holds"]:
        print(line)


if __name__ == "__main__":
    main()
