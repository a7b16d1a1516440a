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


def test_sessions_with_midnight_in_them_are_played_first_where_a_bug_shows_then() -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5",), (MIDNIGHT,))
    seeds = in_order(bug, range(1, 21))
    assert seeds == [2, 6, 10, 14, 18, *(seed for seed in range(1, 21) if seed % 4 != 2)]
    assert in_order(Bug("a bug", "oms.py", "", "", ("O5",), ("kill",)), range(1, 21)) == list(range(1, 21))


def test_each_kind_of_fault_that_a_bug_names_is_drawn() -> None:
    assert {name for bug in BUGS for name in bug.struck_by} <= {MIDNIGHT, *NAMED}


def test_a_bug_has_settings_of_its_own() -> None:
    bug = Bug("a bug", "oms.py", "", "", ("O5",), (MIDNIGHT,), {"max_trades_per_day": 3})
    plan, drawn = plan_of(bug, 7), draw_plan(7)
    assert plan.settings == {**drawn.settings, "max_trades_per_day": 3}
    assert (plan.strikes, plan.kinds, plan.rows) == (drawn.strikes, drawn.kinds, drawn.rows)


def test_a_bug_has_the_faults_under_which_it_shows_and_no_others() -> None:
    """No more than two deaths: after a third the engine takes care of the position alone."""
    bug = Bug("a bug", "oms.py", "", "", ("O5",), ("lost writes", "disk full", MIDNIGHT))
    plan = plan_of(bug, 7)
    assert plan.kinds == ("lost writes", "disk full", "lost writes", *["disk full"] * 4)
    assert plan.rows == ("F1", "E4", "F1", *["E4"] * 4)
    assert [strike[1] for strike in plan.strikes] == ["kill", "disk_full", "kill", *["disk_full"] * 4]
    assert plan_of(bug, 7).strikes == plan.strikes != plan_of(bug, 8).strikes
    assert max(at + for_s for at, _, for_s, _ in plan.strikes) < plan.faults_s


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
        pytest.param("an order is written down after it was sent", 4, "O7", marks=pytest.mark.campaign),
    ],
)
def test_a_bug_is_caught_on_a_seed_that_is_clean_without_it(name: str, seed: int, oracle: str) -> None:
    bug = next(bug for bug in BUGS if bug.name == name)
    assert seed in known_clean()["seeds"]
    line = hunt(bug, [seed])
    assert oracle in {found[0] for found in line["violations"]}
    assert row(bug, line).startswith(f"{line['violations'][0][0]} ")
    assert line["sessions"] == 1
