"""A failing session is made small, always the same way, and what is printed and kept fails as it did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulation.oracles import judge
from simulation.plans import HISTORY_S, TAPE_S, Plan, draw_plan
from simulation.scenario import at, scenario
from simulation.shrink import Rules, as_story, breaks, fewer, keep, kept, read, shorter, shrink, shrunk
from simulation.tapes import drawn_tape
from voltrade.exchange.client import UsdmExchange

SEED = 205
"""Has a ban within the first minutes, under which the planted bug shows: it is cheap to try."""


def needs(*names: str) -> Any:
    """A plan fails where all of these strike."""
    return lambda plan: set(names) <= set(plan.kinds)


@pytest.mark.parametrize("wanted", [(0,), (3, 4), (0, 5, 9)])
def test_no_fault_is_left_that_is_not_needed(wanted: tuple[int, ...]) -> None:
    plan = draw_plan(1)
    names = tuple(plan.kinds[number] for number in wanted)
    tried: list[tuple[str, ...]] = []

    def fails(each: Plan) -> bool:
        tried.append(each.kinds)
        return bool(needs(*names)(each))

    small = fewer(plan, fails)
    assert small.kinds == names
    assert small.strikes == tuple(plan.strikes[number] for number in wanted)
    assert small.rows == tuple(plan.rows[number] for number in wanted)
    again, tried = tried, []
    assert fewer(plan, fails).kinds == names
    assert tried == again


def test_what_fails_without_faults_keeps_none() -> None:
    assert fewer(draw_plan(1), lambda plan: True).strikes == ()


def test_a_session_ends_as_soon_as_it_still_fails() -> None:
    plan = fewer(draw_plan(1), needs(draw_plan(1).kinds[0]))
    [(begin, _, for_s, _)] = plan.strikes
    short = shorter(plan, lambda tried: tried.faults_s >= begin + for_s + 60)
    assert short.faults_s == begin + for_s + 60
    assert short.settings["duration_s"] == pytest.approx(short.faults_s + 60, abs=0.1)
    assert shorter(plan, lambda tried: False) is plan


AS_IT_IS = UsdmExchange._end_of_block


@pytest.fixture(scope="module")
def planted() -> Iterator[None]:
    """A bug: how long the exchange blocks is read in milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UsdmExchange, "_end_of_block", lambda self, status, retry_after, body: self.clock() + 30)
        yield


@pytest.fixture(scope="module")
def small(planted: None) -> tuple[Plan, Rules]:
    return shrunk(SEED)


def test_a_failing_seed_fails_with_fewer_faults(small: tuple[Plan, Rules]) -> None:
    plan, rules = small
    assert 1 <= len(plan.strikes) <= 2 < len(draw_plan(SEED).strikes)
    assert plan.duration_s < draw_plan(SEED).duration_s
    assert rules
    assert breaks(plan) >= rules
    assert shrink(plan, lambda tried: bool(rules & breaks(tried))).strikes == plan.strikes


def test_what_fails_breaks_no_rule_without_the_bug(small: tuple[Plan, Rules], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsdmExchange, "_end_of_block", AS_IT_IS)
    assert breaks(small[0]) == set()


def test_what_is_printed_fails_in_the_same_way(small: tuple[Plan, Rules]) -> None:
    plan, rules = small
    text = as_story(plan, rules)
    names = {"at": at, "scenario": scenario, "drawn_tape": drawn_tape, "TAPE_S": TAPE_S, "HISTORY_S": HISTORY_S}
    exec(text, names)
    assert {(found.oracle, found.kind) for found in judge(names["evidence"])} >= rules  # type: ignore[arg-type]


def test_what_is_kept_comes_back(small: tuple[Plan, Rules], tmp_path: Path) -> None:
    plan, rules = small
    path = keep(plan, rules, tmp_path / "seeds")
    assert kept(tmp_path / "seeds") == [path]
    found = json.loads(path.read_text())
    assert str(Path(__file__).parent) not in path.read_text(), "where a checkout lies is nobody's business"
    back = read(found)
    assert {tuple(rule) for rule in found["breaks"]} == rules
    assert (back.settings, back.strikes, back.kinds, back.rows) == (plan.settings, plan.strikes, plan.kinds, plan.rows)
    assert list(back.tape.rows()) == list(plan.tape.rows())


def one_of_each_oracle() -> Iterator[Any]:
    """The kept sessions; after the first of an oracle, `make campaign-process` plays the others."""
    known: set[str] = set()
    for path in kept():
        oracle = path.stem.partition("-")[2]
        yield pytest.param(path, id=path.stem, marks=[pytest.mark.campaign] if oracle in known else [])
        known.add(oracle)


@pytest.mark.parametrize("path", [*one_of_each_oracle()])
def test_a_kept_session_breaks_what_it_is_known_to_break(path: Path) -> None:
    found = json.loads(path.read_text())
    assert breaks(read(found)) == {tuple(rule) for rule in found["breaks"]}
