"""The bugs that are planted fit the code as it is, and the runner catches them where they show."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from simulation.evidence import Json
from simulation.oracles import ORACLES
from simulation.planted import BUGS, CLEAN_SEEDS, PACKAGE, Bug, hunt, is_seen, known_clean, plant, row


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_one_change_of_one_file(bug: Bug) -> None:
    source = (PACKAGE / bug.file).read_text()
    assert source.count(bug.old) == 1
    changed = source.replace(bug.old, bug.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    assert set(bug.seen_by) <= set(ORACLES)


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
