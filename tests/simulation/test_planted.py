"""The bugs that are planted fit the code as it is, and the runner catches them where they show."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from simulation.evidence import Json
from simulation.kinds import NAMED
from simulation.oracles import ORACLES
from simulation.plans import draw_plan
from simulation.planted import (
    CLEAN_SEEDS,
    MIDNIGHT,
    PACKAGE,
    hunt,
    in_order,
    is_seen,
    known_clean,
    plan_of,
    plant,
    row,
)
from simulation.planted_bugs import BUGS, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_one_change_of_one_file(bug: Bug) -> None:
    source = (PACKAGE / bug.file).read_text()
    assert source.count(bug.old) == 1
    changed = source.replace(bug.old, bug.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    assert set(bug.seen_by) <= set(ORACLES)


def test_each_bug_has_a_name_of_its_own_and_there_are_forty() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 40


def test_sessions_with_the_faults_that_show_a_bug_are_played_first() -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5",), ("kill", "ban", MIDNIGHT))
    seeds = in_order(bug, range(1, 60))
    assert sorted(seeds) == list(range(1, 60))
    counts = [
        len({*draw_plan(seed).kinds, *([MIDNIGHT] if seed % 4 == 2 else [])} & {*bug.struck_by}) for seed in seeds
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_each_kind_of_fault_that_a_bug_names_is_drawn() -> None:
    assert {name for bug in BUGS for name in bug.struck_by} <= {MIDNIGHT, *NAMED}


def test_a_bug_has_settings_of_its_own() -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5",), settings={"max_trades_per_day": 3})
    assert plan_of(bug, 7).settings == {**draw_plan(7).settings, "max_trades_per_day": 3}


def test_a_bug_has_faults_of_its_own_in_the_order_of_time() -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5",), more=(("lost writes", (300.0, "kill", 0.0, {"lost": 8})),))
    drawn, plan = draw_plan(7), plan_of(bug, 7)
    assert len(plan.strikes) == len(plan.kinds) == len(plan.rows) == len(drawn.strikes) + 1
    assert [strike[0] for strike in plan.strikes] == sorted(strike[0] for strike in plan.strikes)
    at = plan.strikes.index((300.0, "kill", 0.0, {"lost": 8}))
    assert (plan.kinds[at], plan.rows[at]) == ("lost writes", "F1")
    assert (*plan.strikes[:at], *plan.strikes[at + 1 :]) == drawn.strikes


def test_a_bug_whose_text_is_gone_is_refused(tmp_path: Path) -> None:
    gone = Bug("gone", "oms.py", "no such line", "", ("O1",))
    with pytest.raises(ValueError, match="must have its text once, has it 0 times"):
        plant(gone, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("found", [{"violations": [["O1", "a", 0, "b"]]}, {"broken": "KeyError"}, {"violations": []}])
def test_a_bug_is_caught_by_an_oracle_that_should_see_it_alone(found: Json) -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5", "O6"))
    line = {"seed": 1, "sessions": 3, **found}
    assert not is_seen(bug, line)
    assert row(bug, line).startswith(("NOT CAUGHT", "the session broke"))
    assert is_seen(bug, {**line, "violations": [["O1", "a", 0, "b"], ["O6", "c", 0, "d"]]})


def test_a_hundred_clean_seeds_are_kept() -> None:
    kept = known_clean()
    assert len(set(kept["seeds"])) == CLEAN_SEEDS
    assert kept["code"]


@pytest.mark.parametrize(
    ("name", "seed", "oracle"),
    [
        ("the stop is not made larger while the entry fills", 12, "O5"),
        ("an order is written down after it was sent", 4, "O7"),
    ],
)
def test_a_bug_is_caught_on_a_seed_that_is_clean_without_it(name: str, seed: int, oracle: str) -> None:
    bug = next(bug for bug in BUGS if bug.name == name)
    assert seed in known_clean()["seeds"]
    line = hunt(bug, [seed])
    assert oracle in {found[0] for found in line["violations"]}
    assert row(bug, line).startswith(f"{line['violations'][0][0]} ")
    assert line["sessions"] == 1
