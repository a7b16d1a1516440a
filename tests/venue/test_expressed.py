"""The docs' tables of what can go wrong: every row is there, and what it names is what the code has."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest
from simulation.strikes import Strikes

from voltrade.venue.faults import GARBLED, KINDS, LOST, TABLE

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"A": 13, "B": 17, "C": 8, "D": 8, "E": 14, "F": 10, "G": 6, "V": 41}
"""Sections of the fault catalogue, and the venue's gaps, with how many rows each has."""

FACTS = {"by", "recheck", "retry_after", "told", "without", "torn", "lost", "income", "reason", "every_s"}
FACTS |= {"min_notional", "tick_multiple", "step_multiple", "tick_finer", "step_finer", "position_control"}
"""Fields of a fault, and values of its `with`, that rows name."""
ON_THE_WIRE = {"e", "s", "p", "st", "ma", "S", "ia", "ap", "M"}
"""Keys of messages that rows name."""


def rows() -> dict[str, list[str]]:
    """The cells of the rows, by id."""
    text = (ROOT / "docs/venue.md").read_text()
    found = re.findall(r"^\| ([A-GV]\d+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert len({name for name, *_ in found}) == len(found), "each once"
    return {name: [*cells] for name, *cells in found}


ROWS = rows()
NAMED = {name: re.findall(r"`([^`]+)`", cells[1]) for name, cells in ROWS.items()}


def known_names() -> set[str]:
    """What a row may name: kinds, ways to lose an answer, scripts, the simulator's own strikes, files and tests."""
    strikes = {name.removeprefix("do_") for name in vars(Strikes) if name.startswith("do_")}
    files = {path.name for path in ROOT.glob("tests/*/test_*.py")}
    sources = chain(ROOT.glob("tests/venue/test_*.py"), ROOT.glob("tests/simulated/test_*.py"))
    tests = set(re.findall(r"def (test_\w+)", "".join(path.read_text() for path in sources)))
    return {*KINDS, *LOST, *TABLE["scripts"], *GARBLED, *strikes, *files, *tests, *FACTS, *ON_THE_WIRE}


def test_every_row_is_there_in_order() -> None:
    assert [*ROWS] == [f"{section}{number}" for section, last in SECTIONS.items() for number in range(1, last + 1)]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_row_names_only_what_there_is(section: str) -> None:
    known = known_names()
    paths = {name for names in NAMED.values() for name in names if (ROOT / name).is_file()}
    unknown = {
        row: name for row, names in NAMED.items() if row[0] == section for name in names if name not in known | paths
    }
    assert unknown == {}


def test_every_kind_has_a_row() -> None:
    assert KINDS.keys() - {*chain(*NAMED.values())} == set()


def test_a_row_without_a_kind_says_why() -> None:
    """Of the catalogue: either something that can be asked for, or whose it is."""
    silent = [
        row for row, names in NAMED.items() if row[0] != "V" and not names and "not the venue's" not in ROWS[row][1]
    ]
    assert silent == ["B13"], "the venue does that by itself"
