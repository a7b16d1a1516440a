"""Each fault case of research, of rules and of their data has a test whose name begins with the case's id."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

CASES = {
    "h1": "a hole in the mark prices switches off breaker and valuation",
    "h2": "funding is lost or paid several times over a hole",
    "h3": "a daily file that stops in the afternoon counts as whole",
    "h4": "a result does not say that its tape has gaps",
    "h5": "missing funding rows are not noticed",
    "h6": "a file of spot is taken as USD-M",
    "h7": "verify overlooks a missing day",
    "h8": "an id is twice over midnight",
    "h9": "zips of a Mac, exponents, ids with a point",
    "h10": "a month with a third of its quantities zero is taken as complete",
    "h11": "a fetch without a network is silent",
    "i3": "a rule that keeps a list of its module is valid",
    "i5": "what a rule returns is not checked",
    "i9": "the number of a bar begins anew at midnight, and nothing says so",
}


def ids_of(name: str) -> set[str]:
    """Return the ids with which the name of a test begins: h1 and h2 of `test_h1_h2_a_hole`."""
    begin = re.match(r"test_((?:[a-z]\d+_)*)", name)
    return set(begin[1].split("_")) - {""} if begin else set()


@pytest.mark.parametrize("case", CASES)
def test_a_fault_case_has_a_test_that_is_named_by_its_id(case: str) -> None:
    folders = ("data", "report", "research", "strategy", "trading")
    texts = (path.read_text() for folder in folders for path in (TESTS / folder).rglob("test_*.py"))
    names = [name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)]
    assert any(case in ids_of(name) for name in names), CASES[case]
