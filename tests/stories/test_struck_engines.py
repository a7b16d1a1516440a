"""Real engines that die, stop, lose their disk, their journal or their clock, at moments that are counted.

Each case is a session at a venue of its own by the wall clock: a rule that enters whenever it may, in at once and out
after some seconds. A strike comes at the nth write of the journal, or the nth request for an order, since its entry,
its first part that fills, its exit, or since the engine came back. The guardian starts the next engine; a few seconds
later the session is told to end. Then the venue's own log is judged: no position uncovered for more than 8 s from a
kill, no order twice, no fill lost, nothing left, and books that are equal to the last unit.

`make campaign-process ARGS="-k struck"` plays them all, `-k "kill-01"` those of such numbers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from simulation.evidence import Json
from simulation.plans import RULE
from simulation.scenario import QUICK
from simulation.tapes import path_tape
from support.real_sessions import (
    BY_THE_VENUE,
    JUDGED,
    RealSession,
    check_sealed,
    longest_bare_ms,
    real_venue,
    tell,
    wrong,
)

from voltrade.model import Trades

AT_ONCE = 3
"""Sessions that go on at the same time: most of one's time is waiting."""
SETTLED_S = 4.0
"""How long a session goes on after its last strike."""
TRADED_WITHIN_S = 40.0
"""An entry that may have been sent keeps the next one back for a while; one whose journal is lost for good."""
BEGIN_S, TAPE_S = 60.0, 700.0
DISK_MB = 40
UP_S, DOWN_S, SWING = 5.0, 3.0, 240.0
"""The price rises and falls by so much, in so many seconds."""
SETTINGS: Json = {
    **QUICK,
    **{"rule": RULE, "stop_atr": 3.0, "take_profit_atr": 0.0, "max_holding_s": 3.0, "cooldown_bars": 1},
    **{"capital": 100_000, "wallet": 100_000, "risk_fraction": 0.003, "max_daily_loss_fraction": 0.5},
    **{"max_drawdown_fraction": 0.5, "taker_fee": 0.0002, "maker_fee": 0.0001, "order_stale_s": 5.0},
    **{"latency_ms": 50, "mark_interval_s": 1, "duration_s": 600.0, "on_interrupt": "flatten", "begin_s": BEGIN_S},
}
IN_PARTS = [
    {"do": "delay", "on": "user ORDER_TRADE_UPDATE PARTIALLY_FILLED", "skip": part, "for_s": 0.15 * part}
    for part in range(1, 9)
]
"""The parts of the first entry, which fill at once, are told one after the other."""


@cache
def tape() -> Trades:
    points, at, price = [(0.0, 80_000.0)], 0.0, 80_000.0
    while at < TAPE_S:
        points += [(at + UP_S, price + SWING), (at + UP_S + DOWN_S, price)]
        at += UP_S + DOWN_S
    return path_tape(points, every_s=0.1, lots=200)


@dataclass(frozen=True)
class Case:
    """A session and its strikes.

    Attributes:
        name: its class and number, and what strikes.
        script: faults of the venue.
        judged: the oracles that hold.
    """

    name: str
    strikes: tuple[Json, ...]
    script: tuple[Json, ...] = ()
    judged: tuple[str, ...] = JUDGED
    disk_mb: int = 0


def struck(do: str, phase: str, what: str, nth: int, life: int = 0, **more: Any) -> Json:
    return {"do": do, "phase": phase, "what": what, "nth": nth, "life": life, **more}


IN_POSITION = struck("kill", "filled", "after commit", 3)


# --- what strikes -----------------------------------------------------------------------------------------------------


def kills() -> Iterator[Case]:
    """200 points: the first 16 writes of each phase, before and after; and 9 requests, before and after."""
    points = [(f"{when} commit", nth) for nth in range(1, 17) for when in ("before", "after")]
    points += [(f"{when} send", nth) for nth in range(1, 10) for when in ("before", "after")]
    number = 0
    for phase in ("entry", "partial", "exit", "recovery"):
        for what, nth in points:
            number += 1
            name = f"kill-{number:03} {phase}, {what} {nth}"
            if phase == "recovery":  # of an engine that comes back to a position of which more or less is known
                first = struck("kill", "filled", "after commit", 1 + nth % 4)
                yield Case(name, (first, struck("kill", "start", what, nth, life=1)))
            else:
                yield Case(name, (struck("kill", phase, what, nth),), tuple(IN_PARTS) if phase == "partial" else ())


def double_kills() -> Iterator[Case]:
    """The second one comes at any moment while the next engine starts, recovers and trades."""
    for number in range(1, 51):
        draw = random.Random(number)
        phase, nth = draw.choice(["entry", "filled", "exit"]), draw.randint(1, 6)
        what, after_s = draw.choice(["before commit", "after commit"]), round(draw.uniform(0.05, 4.0), 2)
        again = {"do": "kill", "what": "time", "after_s": after_s, "life": 1}
        name = f"double-{number:02} {phase}, {what} {nth}, again after {after_s} s"
        yield Case(name, (struck("kill", phase, what, nth), again))


def full_disks() -> Iterator[Case]:
    """30 moments: from the nth write on; nine engines die meanwhile and come back to a full disk, three of them without
    their journal.
    """
    for number in range(1, 31):
        phase, nth = ("entry", "filled", "exit")[number % 3], 1 + (number - 1) // 3
        for_s = (1.0, 3.0, 6.0)[number // 3 % 3]
        strikes = [struck("full", phase, "before commit", nth, for_s=for_s)]
        judged, how = JUDGED, ""
        if number % 10 in (0, 3, 7):
            how = ", killed"
            death = struck("kill", phase, "before commit", nth + 1)
            if number % 10 == 0:
                how, judged = ", killed, journal gone", BY_THE_VENUE
                death = struck("tear", phase, "before commit", nth + 1, how="gone", lost=1)
            strikes += [death, struck("full", "start", "begin", 1, life=1, for_s=for_s)]
        name = f"disk-{number:02} full for {for_s} s from {phase} {nth} on{how}"
        yield Case(name, tuple(strikes), judged=judged, disk_mb=DISK_MB)


TEARS: tuple[tuple[str, int], ...] = (
    *(("lost", much) for much in (1, 2, 3, 8)),
    *(("half", 0), ("spoilt", 2_900), ("log gone", 0), ("cut", 5_000), ("zeroed", 8_192), ("gone", 0)),
)


def torn_journals() -> Iterator[Case]:
    moments = (("entry", "after commit", 1), ("filled", "after commit", 2), ("exit", "after commit", 1))
    for number, ((how, much), (phase, what, nth)) in enumerate(((t, m) for t in TEARS for m in moments), start=1):
        strike = struck("tear", phase, what, nth, how=how, much=much, lost=1)
        judged = JUDGED if how == "half" else BY_THE_VENUE
        yield Case(f"torn-{number:02} {how} {much}, {phase}", (strike,), judged=judged)


def clock_steps() -> Iterator[Case]:
    """While it trades; or while nobody does, so that the next engine begins with the wrong time."""
    for number, ms in enumerate((3_600_000, -3_600_000, 20_000, -20_000, 1_000), start=1):
        yield Case(f"clock-{number:02} {ms} ms in position", (struck("clock", "filled", "before commit", 1, ms=ms),))
        wrong_from_begin = {"do": "clock", "phase": "start", "what": "begin", "nth": 1, "life": 1, "ms": ms}
        yield Case(f"clock-{number + 5:02} {ms} ms, and killed", (IN_POSITION, wrong_from_begin))


def stalls() -> Iterator[Case]:
    """SIGSTOP: of the engine alone, which its guardian kills after 5 s, or of all, as when a machine sleeps."""
    points = [("entry", "before send", 1), ("entry", "after send", 1), ("filled", "before send", 1)]
    points += [("filled", "after commit", 2), ("exit", "before send", 1)]
    for number, point in enumerate(points, start=1):
        alone_s, all_s = (3.0, 9.0)[number % 2], (20.0, 60.0)[number % 2]
        alone = struck("stop", *point, for_s=alone_s, machine=False)
        yield Case(f"stall-{number:02} {alone_s} s, {' '.join(map(str, point))}", (alone,))
        both = struck("stop", *point, for_s=all_s, machine=True)
        yield Case(f"stall-{number + 5:02} {all_s} s of all, {' '.join(map(str, point))}", (both,))


CASES = [*kills(), *double_kills(), *full_disks(), *torn_journals(), *clock_steps(), *stalls()]
EVERY_COMMIT = ("kill-181", "disk-02", "torn-05")


# --- the sessions -----------------------------------------------------------------------------------------------------


Played = dict[str, Future[str]]


def play(case: Case, folder: Path) -> str:
    """Play a case and judge it; return what was measured."""
    folder.mkdir()
    with real_venue(folder, SETTINGS, tape(), case.script) as address:
        session = RealSession(folder, address, SETTINGS, case.strikes, case.disk_mb)
        try:
            session.until_struck()
            session.until_traded(TRADED_WITHIN_S)
            time.sleep(SETTLED_S)
            session.end()
            evidence = session.evidence
        finally:
            session.clean_up()
    check_sealed(session)
    found = wrong(evidence, case.judged)
    assert found == [], f"{folder}\n" + "\n".join(map(str, found))
    assert case.judged != JUDGED or evidence.of_kind("fill"), "nothing was traded"
    return f"{longest_bare_ms(evidence) / 1000:.1f} s uncovered, {len(evidence.lives)} engines"


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The cases that are asked for, as they are played, some at once."""
    items = (item for item in request.session.items if item.path == request.path and hasattr(item, "callspec"))
    cases: list[Case] = [item.callspec.params["case"] for item in items]
    root = tmp_path_factory.mktemp("struck")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case.name: pool.submit(play, case, root / case.name.split()[0]) for case in cases}
        pool.shutdown(cancel_futures=True)


def as_param(case: Case) -> Any:
    is_sample = case.name.split()[0] in EVERY_COMMIT
    return pytest.param(case, marks=() if is_sample else pytest.mark.campaign, id=case.name)


@pytest.mark.parametrize("case", [as_param(case) for case in CASES])
def test_whatever_strikes_an_engine_its_position_is_protected_and_counted_once(
    case: Case, played: Played, request: pytest.FixtureRequest
) -> None:
    measured = played[case.name].result()
    over = sum(one.done() for one in played.values())
    if len(played) > len(EVERY_COMMIT):
        tell(request.config, f"{over} of {len(played)}  {case.name}: {measured}")


def test_there_are_as_many_cases_as_are_promised() -> None:
    counts = {kind: sum(case.name.startswith(kind) for case in CASES) for kind in KINDS}
    assert counts == KINDS


KINDS = {"kill": 200, "double": 50, "disk": 30, "torn": 30, "clock": 10, "stall": 10}
