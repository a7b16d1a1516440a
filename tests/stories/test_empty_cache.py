"""A killed engine's successor whose compile cache is empty looks after its position first, as plain Python.

The engine is killed before its first stop is sent; the next one finds an empty cache, one that can't be written, or
loses the process that compiles.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from simulation.evidence import Evidence, Json
from simulation.scenario import QUICK
from simulation.tapes import path_tape
from support.real_sessions import RealSession, check_sealed, longest_bare_ms, real_venue, tell, wrong

from voltrade import journal
from voltrade.engine import ctl, rule_compiler
from voltrade.model import OrderIntent, Purpose
from voltrade.runs.run_file import JOURNAL

TAPE_S, UP_S, DOWN_S, SWING = 700.0, 5.0, 3.0, 240.0
SETTINGS: Json = {
    **QUICK,
    **{"stop_atr": 60.0, "take_profit_atr": 0.0, "cooldown_bars": 100_000, "exit_on_opposite_signal": False},
    **{"use_rsi_filter": False, "use_vwap_filter": False, "taker_fee": 0.0002, "latency_ms": 50},
    **{"mark_interval_s": 1, "duration_s": 600.0, "on_interrupt": "flatten", "begin_s": 60.0},
}
"""The built-in rule enters at the first turn of the price, and never again after it has left."""
KILL: Json = {"do": "kill", "phase": "filled", "what": "before send", "nth": 1}
COVERED_WITHIN_MS = 8_000
COMPILED_WITHIN_S = 400.0


@contextmanager
def session_without_cache(folder: Path, cache: Path, **more: Any) -> Iterator[RealSession]:
    """A session whose engine was killed before its stop was sent; its successor has that cache."""
    points, at = [(0.0, 80_000.0)], 0.0
    while at < TAPE_S:
        points += [(at + UP_S, 80_000.0 + SWING), (at + UP_S + DOWN_S, 80_000.0)]
        at += UP_S + DOWN_S
    tape = path_tape(points, every_s=0.1, lots=200)
    with real_venue(folder, SETTINGS, tape, ()) as address:
        session = RealSession(folder, address, SETTINGS | more, (KILL,), later={"VOLTRADE_CACHE": str(cache)})
        try:
            session.until_struck()
            session.until(lambda: is_covered(session), "a position with its stop")
            yield session
            session.end()
        finally:
            session.clean_up()


def is_covered(session: RealSession) -> bool:
    last = {row["algo_id"]: row for row in session.truth if row["kind"] == "algo"}
    return bool(session.position) and any(row["status"] == "NEW" for row in last.values())


def check(session: RealSession) -> Evidence:
    """Nothing was lost or doubled, and the position was bare no longer than a kill allows."""
    evidence = session.evidence
    check_sealed(session)
    assert wrong(evidence) == []
    assert longest_bare_ms(evidence) <= COVERED_WITHIN_MS
    return evidence


def moments(session: RealSession) -> dict[str, int]:
    """When the successor was begun, had asked for the account, and sent the stop: ms after the kill."""
    killed = next(mark["time"] for mark in session.struck if mark["mark"] == "kill")
    began = [mark["time"] for mark in session.marks if mark["mark"] == "life"][1]
    rows = list(journal.read(session.run / JOURNAL))
    back = next(row for row in rows if row.kind == "EngineRestarted")
    after = [row for row in rows if row.seq > back.seq]
    stop = next(row for row in after if isinstance(row.fact, OrderIntent) and row.fact.purpose is Purpose.STOP)
    read = next(row for row in after if row.kind == "Snapshot")
    times: dict[str, Any] = {"imported": began, "runs": back.fact.time, "account read": read.fact.time}
    return {name: at - killed for name, at in (times | {"stop": stop.fact.time}).items()}


def rules(session: RealSession) -> str:
    return str(ctl.ask(session.run, {"op": "status"}).get("rules"))


def compilers(cache: Path) -> list[int]:
    """The processes that compile for a cache."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                is_one = rule_compiler.__name__.encode() in (process / "cmdline").read_bytes()
                if is_one and str(cache).encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
    return found


def alerts(session: RealSession) -> list[str]:
    facts = [row.fact for row in journal.read(session.run / JOURNAL) if row.kind == "Alert"]
    return [fact.text for fact in facts if fact.code == rule_compiler.FAILED]


@pytest.mark.campaign
def test_an_engine_comes_back_to_an_empty_cache(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its position has its stop before anything is compiled; the process that compiles dies with the engine."""
    cache = tmp_path / "cache"
    with session_without_cache(tmp_path, cache) as session:
        assert rules(session) == "plain Python"
        assert not list(cache.rglob("*react*.nbc"))
        session.until(lambda: compilers(cache), "a process that compiles")
        os.kill(session.record["pid"], signal.SIGKILL)
        [first] = compilers(cache) or [0]
        session.until(lambda: first not in compilers(cache), "the end of that process")
        session.until(lambda: compilers(cache), "the next one's")
    check(session)
    assert not compilers(cache)
    assert alerts(session) == []
    tell(request.config, f"{moments(session)}")


@pytest.mark.campaign
def test_compiled_rules_take_the_place_of_plain_ones_while_a_session_runs(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """An engine whose loop stands for 5 s would be killed by its guardian."""
    cache = tmp_path / "cache"
    with session_without_cache(tmp_path, cache) as session:
        began = time.monotonic()
        session.until(lambda: rules(session) == "compiled", "compiled rules", COMPILED_WITHIN_S)
        took_s = time.monotonic() - began
        assert not compilers(cache)
    assert len(check(session).lives) == 2
    tell(request.config, f"compiled after {took_s:.0f} s")


@pytest.mark.campaign
def test_a_rule_files_rule_is_compiled_while_its_position_is_looked_after(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its stop is sent first. The rule decides on no bar until it is compiled, then on those of meanwhile too."""
    rule = tmp_path / "own.py"
    rule.write_text(
        "from voltrade.signal_engine import SignalEngine\n\n\n"
        "class Own(SignalEngine):\n"
        "    @staticmethod\n"
        "    def _detect_signal(state, bar, settings, decision):\n"
        "        return 1 if decision.ready and state.bars > 0 else 0\n"
    )
    cache = tmp_path / "cache"
    with session_without_cache(tmp_path, cache, rule=f"{rule}:Own") as session:
        at_stop = [path.name for path in cache.rglob("*step_bars*.nbc")]
        session.until(lambda: rules(session) == "compiled", "compiled rules", COMPILED_WITHIN_S)
    check(session)
    assert at_stop == []
    restarted = next(row.seq for row in journal.read(session.run / JOURNAL) if row.kind == "EngineRestarted")
    assert [row for row in journal.read(session.run / JOURNAL, kind="Bar") if row.seq > restarted]
    tell(request.config, f"{moments(session)}")


@pytest.mark.campaign
@pytest.mark.parametrize("is_writable", [False, True], ids=["can't be written", "its process is killed"])
def test_an_engine_whose_rules_are_not_compiled_goes_on(is_writable: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / ("cache" if is_writable else "file/cache")
    with session_without_cache(tmp_path, cache) as session:
        if is_writable:
            session.until(lambda: compilers(cache), "a process that compiles")
            os.kill(compilers(cache)[0], signal.SIGKILL)
        time.sleep(3.0)
        assert rules(session) == "plain Python"
    assert len(check(session).lives) == 2
    [told] = alerts(session)
    assert told.startswith("its process ended with -9" if is_writable else f"{cache}: must be a folder")
