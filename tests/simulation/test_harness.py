"""What the simulator is made of does what it says: a fault that is weakened would only make sessions greener."""

from __future__ import annotations

import asyncio
import contextvars
import random
import re
import shutil
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulation import campaign as campaign_module
from simulation import clock, remains
from simulation import shrink as shrink_module
from simulation.altering import Answering, Conditions
from simulation.clock import Process, VirtualLoop
from simulation.disk import TORN_BYTES, Disk, commits
from simulation.engines import EngineClock
from simulation.evidence import Json
from simulation.kinds import NAMED
from simulation.network import Network, Pipe
from simulation.plans import RULE, Plan, draw_plan, draw_settings, lasts_s
from simulation.reading import reading_of
from simulation.scenario import at, scenario
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import read_parameters, signal_engine_of

# --- clock and process ------------------------------------------------------------------------------------------------


def test_a_timer_of_the_past_does_not_move_the_clock_back() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(5)
        future = loop.create_future()
        loop.call_at(2.0, future.set_result, None)
        await future
        return loop.time()

    assert clock.run(main) == 5


def test_a_process_that_is_stopped_twice_goes_on_after_the_second() -> None:
    process = Process()
    process.stop()
    process.stop()
    loop = SimpleNamespace(_ready=[])
    process.keep("waiting")  # type: ignore[arg-type]
    process.go_on(loop)  # type: ignore[arg-type]
    assert (process.stops, loop._ready) == (1, [])
    process.go_on(loop)  # type: ignore[arg-type]
    assert (process.stops, loop._ready) == (0, ["waiting"])


def test_a_clock_begins_with_the_machines_and_no_step_moves_it() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, int]:
        ahead = [1_000, 2_000]  # steps that overlap add up
        engine_clock = EngineClock(loop, ahead)
        began = engine_clock() - loop.now_ms
        ahead.append(3_600_000)
        await asyncio.sleep(5.0)
        return began, engine_clock() - loop.now_ms

    assert clock.run(main) == (3_000, 3_000)


# --- kills ------------------------------------------------------------------------------------------------------------


def how(*strikes: Any, duration_s: float = 30.0) -> list[tuple[str, int, int]]:
    """How the engines of a session ended, and when they began and ended, ms after the opening."""
    evidence = scenario(*strikes, duration_s=duration_s, rule=RULE)
    return [(life.how, life.begin - evidence.opened, life.end - evidence.opened) for life in evidence.lives]


def test_a_double_kill_strikes_twice() -> None:
    assert [each[0] for each in how(at(10, "kill_twice", again_s=2.0))] == ["killed", "killed", "ended"]


def test_a_stopped_process_dies_at_once() -> None:
    (first, _, died), (second, began, _) = how(at(5, "stop", 60), at(8, "kill"))
    assert (first, second) == ("killed", "ended")
    assert began - died < 2_000


def test_the_guardian_kills_an_engine_that_hangs_and_starts_another() -> None:
    (first, _, died), (second, began, _) = how(at(5, "hang"))
    assert (first, died, second) == ("killed", 10_000, "ended")
    assert began - died == pytest.approx(1_500, abs=2)


def test_the_guardian_starts_a_dead_engine_at_once_and_waits_longer_after_many_deaths() -> None:
    lives = how(*(at(5 + 7 * number, "kill") for number in range(5)), duration_s=60.0)
    assert [each[0] for each in lives] == [*["killed"] * 5, "ended"]
    pauses = [after[1] - before[2] for before, after in pairwise(lives)]
    assert pauses == pytest.approx([1_500, 1_500, 1_500, 3_500, 5_500], abs=2)


def test_an_engine_that_crashed_twice_by_one_exception_is_a_caretaker_until_somebody_resumes() -> None:
    """Its journal holds the event that no engine can take; the position has its stop, and the rule decides nothing."""
    crashes = at(20, "crash"), at(25, "crash")
    often: Json = {"rule": RULE, "max_holding_s": 8.0, "cooldown_bars": 1, "threshold": 1, "duration_s": 60.0}
    cared = scenario(*crashes, **often)
    resumed = scenario(*crashes, at(35, "operator", action="resume"), **often)
    began = max(life.begin for life in cared.lives)

    def entries(evidence: Any) -> list[int]:
        intents = journal_rows(evidence, "OrderIntent")
        return [row["time"] for row in intents if row["purpose"] == "e" and row["time"] > began]

    assert [life.how for life in cared.lives] == ["failed", "failed", "ended"]
    assert [row["code"] for row in journal_rows(cared, "Alert") if row["code"] == "CARETAKER"] == ["CARETAKER"]
    assert not entries(cared)
    assert entries(resumed)


def journal_rows(evidence: Any, kind: str) -> list[Json]:
    return [row.body for _, row in reading_of(evidence).of_kind(kind)]


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_torn_write_leaves_a_part_of_it_behind_the_last_commit(tmp_path: Path) -> None:
    run = tmp_path / "runs/run"
    run.mkdir(parents=True)
    with closing(sqlite3.connect(run / "journal.db", isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE t (a)")
        base.execute("INSERT INTO t VALUES (1)")
        end = commits((run / "journal.db-wal").read_bytes())[-1]
        Disk(tmp_path, 1).keep_image("run", 0, True)
        assert len((tmp_path / "image/runs/run/journal.db-wal").read_bytes()) == end + TORN_BYTES


def test_notes_that_were_not_flushed_are_lost_with_the_writes(tmp_path: Path) -> None:
    disk, image = Disk(tmp_path, 1), tmp_path / "image"
    (tmp_path / "state").mkdir()
    (tmp_path / "state/run.reached").write_text("7")
    for lost in (0, 1):
        disk.keep_image("run", lost, False)
        assert (image / "state/run.reached").exists() == (lost == 0)
        shutil.rmtree(image)


# --- the network ------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_in_a_cut() -> None:
    """Requests are under way when each begins, since every packet takes a second longer."""
    cuts = [20 + 7 * number for number in range(5)]
    slow = at(0, "slow", 60, by_s=1.0)
    evidence = scenario(slow, *(at(begin, "cut", 2) for begin in cuts), duration_s=60.0, rule=RULE)
    begins = [evidence.opened + 1000 * begin for begin in cuts]
    asked = evidence.requests
    assert [each for each in asked for begin in begins if 0 <= each.arrived < begin <= each.arrived + 1_000]
    assert not [each for each in asked for begin in begins if begin < each.answered < begin + 2_000]


def test_a_request_in_a_cut_hangs_until_the_client_gives_up() -> None:
    evidence = scenario(at(20, "cut", 30), duration_s=70.0, rule=RULE)
    begin = evidence.opened + 20_000
    lost = [each for each in evidence.requests if begin <= each.sent < begin + 30_000]
    assert lost
    assert {each.answered for each in lost} == {-1}


def test_frames_of_a_socket_keep_their_order() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        draw, got = random.Random(1), list[int]()
        facts: dict[str, Any] = {"_loop": loop, "conditions": Conditions(), "latency": lambda: draw.uniform(0.0, 1.0)}
        facts |= {"_outside": contextvars.copy_context(), "on_packet": lambda what: None}
        client = SimpleNamespace(
            wire=SimpleNamespace(is_dead=False), handle_message=lambda each: got.append(int(each.data))
        )
        network: Network = SimpleNamespace(**facts)  # type: ignore[assignment]
        pipe = Pipe(network, client, "market")  # type: ignore[arg-type]
        for number in range(50):
            pipe.tell(str(number))
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        return got

    assert clock.run(main) == list(range(50))


def test_the_end_of_a_socket_is_noted_when_the_engine_learns_of_it() -> None:
    """One that is stopped learns of it as it goes on."""
    ends = (
        at(20, "abort", on="private"),
        at(30, "close", on="market"),
        at(40, "stop", 10),
        at(45, "abort", on="private"),
    )
    evidence = scenario(*ends, duration_s=70.0, rule=RULE)
    noted = [(time - evidence.opened, url.split("/")[3]) for time, url in evidence.hung_up]
    assert [(ms // 1_000, category) for ms, category in noted[:3]] == [(20, "private"), (30, "market"), (50, "private")]


def test_an_answer_is_altered_after_those_to_skip_and_so_many_times() -> None:
    answering = Answering(re.compile("x"), skip=2, times=1)
    assert [answering.is_for("x") for _ in range(4)] == [False, False, True, False]


@pytest.mark.parametrize(("until_s", "strikes"), [(90.0, 1), (30.01, 0)])
def test_what_waits_for_an_order_meets_the_next_of_ours_while_it_works(until_s: float, strikes: int) -> None:
    """Or nothing, where it has waited for so long; it strikes once though further orders come."""
    waiting = at(30, "when_ordered", do="cancel_all", until_s=until_s, with_={"symbol": "BTCUSDT"})
    evidence = scenario(waiting, duration_s=100.0, rule=RULE, every=1, both_sides=True, max_holding_s=10.0)
    faults = [number for number, row in enumerate(evidence.truth) if row["kind"] == "fault"]
    assert (evidence.struck, len(faults)) == ({0: strikes}, strikes)
    orders = [row for row in evidence.of_kind("order") if row["time"] > evidence.opened + 30_000]
    assert len({row["client_order_id"] for row in orders}) > 2
    for number in faults:
        taken = next(row for row in orders if row["status"] == "NEW")
        ended = next(row for row in evidence.truth[number:] if row["kind"] == "order")
        names = (taken["client_order_id"], taken["time"], "CANCELED")
        assert (ended["client_order_id"], ended["time"], ended["status"]) == names


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_fault_of_a_stretch_strikes_as_often_as_it_can() -> None:
    assert NAMED["swallowed"].draw(np.random.default_rng(1), 10.0)[3]["times"] == 0


def test_a_run_that_is_gone_on_with_has_its_whole_time() -> None:
    assert lasts_s({"duration_s": 10.0}, [(50.0, "resume", 0.0, {})]) == 60.0


def test_a_drawn_session_may_enter_from_its_opening_on() -> None:
    """Its history has the bars that indicators need, whatever the settings."""
    instrument = shipped_instrument("BTCUSDT")
    for seed in range(1, 60):
        plan = draw_plan(seed)
        config = read_parameters(plan.settings)
        needed = signal_engine_of(config, instrument).warmup_bars
        before = plan.tape.time < plan.tape.time[0] + plan.begin_s * 1000
        weights = {"trades": 1, "base": plan.tape.quantity, "quote": plan.tape.quantity * plan.tape.price}
        has = float(np.sum(np.broadcast_to(weights[config.bars.unit], len(plan.tape))[before]))
        units = {"trades": 1.0, "base": 1000.0, "quote": 10_000.0}
        assert has / (float(config.bars.threshold) * units[config.bars.unit]) > needed, seed


def test_few_sessions_of_a_campaign_have_only_the_rule_that_comes_with_voltrade() -> None:
    assert sum("rule" not in draw_settings(seed) for seed in range(100)) == 10


# --- what came of it --------------------------------------------------------------------------------------------------

MEASURES: Json = {
    **{
        "seed": 1,
        "recoverable": True,
        "halted": False,
        "held_back": False,
        "ended": True,
        "orders": 30,
        "strikes": 2,
        "met": 1,
    },
    **{"entries": 10, "entries_clean": 10, "entries_expected": 10, "entries_sent": 10},
}
FOUND = [["O5", "uncovered", 0, "for a minute"]]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"violations": [], "measures": MEASURES}, 0),
        ({"violations": FOUND, "measures": MEASURES}, 1),
        ({"broken": "RuntimeError"}, 1),
        ({"violations": [], "measures": MEASURES, "differences": ["session 1 | backtest 2"]}, 1),
        ({"violations": [], "measures": {**MEASURES, "halted": True}}, 1),
        ({"violations": [], "measures": {**MEASURES, "halted": True, "held_back": True}}, 0),
        ({"violations": [], "measures": MEASURES, "compared": 4, "cut_s": 3.0}, 1),
        ({"violations": [], "measures": MEASURES, "compared": 5, "cut_s": 3.0}, 0),
    ],
)
def test_the_exit_status_tells_of_each_kind_of_finding(
    line: Json, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        campaign_module, "session", lambda seed, clean: {"seed": seed, "kinds": [], "cpu_s": 0.1, **line}
    )
    given = ["--sessions", "1", "--workers", "1", "--results", str(tmp_path / "results.jsonl")]
    assert campaign_module.main(given) == status


def test_a_journal_that_can_not_be_replayed_is_no_difference_of_0(tmp_path: Path) -> None:
    assert remains._differences(tmp_path / "none.db") == -1


def test_a_seed_is_made_small_for_the_oracle_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(plan: Plan) -> set[tuple[str, str]]:
        return {("O5", "a"), ("O1", "b")} if len(plan.strikes) > 5 else {("O1", "b")}

    monkeypatch.setattr(shrink_module, "breaks", breaks)
    plan, rules = shrink_module.shrunk(1, "O5")
    assert ("O5", "a") in rules
    assert len(plan.strikes) == 6


@pytest.mark.parametrize(
    ("action", "looks_s", "resumed"),
    [("pause", (90.0,), 1), ("halt", (90.0,), 1), ("pause", (30.0,), 0), ("pause", (), 0)],
)
def test_an_operator_who_looks_resumes_what_is_halted(action: str, looks_s: tuple[float, ...], resumed: int) -> None:
    """Paused or halted after a minute: seen half a minute later, or looked at before and never again."""
    evidence = scenario(at(60.0, "operator", action=action), looks_s=looks_s, duration_s=120.0)
    actions = [row.body["action"] for _, row in reading_of(evidence).of_kind("Operator")]
    assert actions.count("resume") == resumed
