"""docs/cases.md: each proven fault has a story or a test of processes and tables, and what is named there exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "tests/simulation/stories"
MOST = {"A": 16, "B": 10, "C": 10, "D": 5, "E": 11, "F": 9, "H": 11}
OF_RULES = ["I3", "I5", "I9"]
CASES = [*(f"{group}{number}" for group, most in MOST.items() for number in range(1, most + 1)), *OF_RULES]
ROW = re.compile(r"\| ([A-I]\d+) \| ([^|]+) \| (yes|no) \| ([^|]*) \|")


@cache
def functions_in(file: Path) -> list[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(file.read_text())
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def stories() -> Iterator[tuple[str, str]]:
    """Yield the case and the name of each story about one."""
    for file in sorted(STORIES.glob("test_*.py")):
        for name in functions_in(file):
            if found := re.match(r"test_([a-f]\d+)_", name):
                yield found[1].upper(), name


def rows() -> dict[str, re.Match[str]]:
    found = [row for line in (ROOT / "docs/cases.md").read_text().splitlines() if (row := ROW.fullmatch(line))]
    assert len({row[1] for row in found}) == len(found), "no case twice"
    return {row[1]: row for row in found}


def test_the_table_has_every_case_once_and_in_order() -> None:
    assert list(rows()) == CASES


def test_every_story_is_about_a_case_of_the_table() -> None:
    assert {case for case, _ in stories()} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_held_by_a_story_or_by_tests_that_exist(case: str) -> None:
    row = rows()[case]
    told = [name for about, name in stories() if about == case]
    assert row[3] == ("yes" if told else "no")
    named = re.findall(r"`([^`]+)`", row[4])
    assert told or named
    for path, _, name in (each.partition("::") for each in named):
        tests = functions_in(ROOT / path)
        assert name in tests if name else tests


def test_no_story_is_expected_to_fail() -> None:
    """But for the one marked here, whose mend is under way: take it out with its mark."""
    marked = [
        f"{file.name}: {found[0]}"
        for file in sorted(STORIES.glob("test_*.py"))
        for line in file.read_text().splitlines()
        if (found := re.search(r"fails\(\"\w+\"\)|xfail\(", line))
    ]
    assert marked == EXPECTED_TO_FAIL


EXPECTED_TO_FAIL: list[str] = []
