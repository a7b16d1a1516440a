"""Whole sessions of the simulator: the same again from a seed, clean ones without a fault, known faults in the others.

`KNOWN` says which rules today's code breaks under some fixed plans. Whoever mends a fault takes it out there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.backtested import compared
from simulation.evidence import Evidence, JournalRow
from simulation.oracles import judge
from simulation.plans import RULE, Plan, clean_plan, draw_plan
from simulation.remains import trace_hash
from simulation.scenario import at, play, scenario

SHORT_S = 80.0
KNOWN: dict[int, set[tuple[str, str]]] = {
    1: set(),
    2: set(),
    3: set(),
    4: set(),
    7: set(),
    8: set(),
    10: set(),
    12: set(),
}
"""Seeds of plans, and what oracles find of them: (oracle, kind)."""


def in_campaigns(*seeds: int) -> list[Any]:
    """Mark seeds that are played by `make campaign-process` alone, or with many others by `make campaign`."""
    return [pytest.param(seed, marks=pytest.mark.campaign) for seed in seeds]


# --- the same again ---------------------------------------------------------------------------------------------------


def short_plan(seed: int) -> Plan:
    """Draw a plan, and play it with its first faults and to its fifth minute alone."""
    plan = draw_plan(seed)
    first = sum(strike[0] < SHORT_S for strike in plan.strikes)
    cut = {name: getattr(plan, name)[:first] for name in ("strikes", "kinds", "rows")}
    return replace(plan, **cut, faults_s=SHORT_S, settings={**plan.settings, "duration_s": 2 * SHORT_S})


def traces(seeds: Iterable[int]) -> list[str]:
    return [trace_hash(play(short_plan(seed))) for seed in seeds]


def traces_elsewhere(seeds: Iterable[int]) -> list[str]:
    """The same in another process, whose sets have another order."""
    code = f"import json; from simulation.test_sessions import traces; print(json.dumps(traces({list(seeds)})))"
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests.parent), str(tests)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_a_seed_plays_the_same_session_again_and_in_another_process() -> None:
    seeds = range(1, 3)
    first = traces(seeds)
    assert len(set(first)) == 2
    assert traces(seeds) == first
    assert traces_elsewhere(seeds) == first


def test_a_trace_shows_one_answer_that_is_another() -> None:
    """One millisecond of one packet is another session."""
    plan = short_plan(1)
    assert trace_hash(play(replace(plan, latency_s=(0.005, 0.020)))) != trace_hash(play(plan))


# --- clean ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3, *in_campaigns(4, 7, 8, 9, 10, 12)])
def test_a_clean_session_without_latency_is_the_backtest(seed: int) -> None:
    """Decision by decision, fill by fill."""
    plan = clean_plan(seed, latency_s=(0.0, 0.0))
    evidence = play(plan)
    assert sum(row.kind == "OrderIntent" for row in evidence.journals[0]) >= 5
    found = compared(plan, evidence)
    assert found.differences == []
    assert found.decisions >= 5
    assert judge(evidence) == []


@pytest.mark.parametrize("seed", [2, *in_campaigns(3, 4)])
def test_a_clean_session_breaks_no_rule(seed: int) -> None:
    evidence = play(clean_plan(seed))
    assert judge(evidence) == []
    assert [(life.how, life.reason) for life in evidence.lives] == [("ended", "DURATION_END")]


# --- under faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*list(KNOWN)[:3], *in_campaigns(*list(KNOWN)[3:])])
def test_a_session_under_faults_breaks_the_rules_that_are_known(seed: int) -> None:
    plan = draw_plan(seed)
    evidence = play(plan)
    assert {(found.oracle, found.kind) for found in judge(evidence)} == KNOWN[seed]
    assert len(evidence.strikes) >= 10
    assert evidence.of_kind("fault")
    assert set(evidence.replay) == {0}


# --- the disk ---------------------------------------------------------------------------------------------------------


def quick(*strikes: tuple[float, str, float, dict[str, object]]) -> list[JournalRow]:
    """The journal of a short session that trades."""
    return scenario(*strikes, duration_s=20.0, rule=RULE).journals[0]


@pytest.fixture(scope="module")
def whole() -> list[JournalRow]:
    """That of one without a strike."""
    return quick()


def kept(whole: list[JournalRow], *strikes: tuple[float, str, float, dict[str, object]]) -> int:
    """How many rows of the session without a kill are in the journal of one that was killed."""
    rows = quick(*strikes)
    return next(number for number, (a, b) in enumerate(zip(whole, rows, strict=False)) if a != b)


def test_a_kill_at_a_write_leaves_what_was_committed(whole: list[JournalRow]) -> None:
    """Before a commit stands what the one before has left; after it, all of it."""
    before = [kept(whole, at(0, "kill_at", what="write before commit", skip=skip)) for skip in (10, 11)]
    after = [kept(whole, at(0, "kill_at", what="write after commit", skip=skip)) for skip in (9, 10)]
    assert before == after
    assert before[0] < before[1]


def test_a_disk_that_lied_has_lost_its_last_commits_and_no_other(whole: list[JournalRow]) -> None:
    lost = [kept(whole, at(10, "kill", lost=lost)) for lost in (0, 1, 5)]
    assert lost[0] > lost[1] > lost[2] > 10
    assert kept(whole, at(10, "kill", torn=True)) == lost[0]


# --- several runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs() -> Evidence:
    second = at(45, "run", name="second", duration_s=40.0)
    return scenario(second, duration_s=40.0, rule=RULE)


def test_runs_of_one_account_leave_a_journal_each(two_runs: Evidence) -> None:
    epochs = [next(row.body["epoch"] for row in rows if row.kind == "Start") for rows in two_runs.journals]
    assert epochs == ["e0", "e1"]
    assert two_runs.replay == [0, 0]
    assert [(life.run, life.how) for life in two_runs.lives] == [(0, "ended"), (1, "ended")]
    assert two_runs.lives[0].end < two_runs.lives[1].begin


@pytest.mark.parametrize("run", [0, 1])
def test_each_run_has_its_own_orders_in_its_journal(two_runs: Evidence, run: int) -> None:
    intents = [row.body["order"]["client_order_id"] for row in two_runs.journals[run] if row.kind == "OrderIntent"]
    posts = [each.client_id for each in two_runs.requests if each.method == "POST" and each.client_id]
    assert intents
    assert sorted(intents) == sorted(name for name in posts if name.startswith(f"vt-e{run}-"))
    assert judge(two_runs) == []
