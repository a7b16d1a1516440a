"""What the Thai guide says of the code is so: places, parameters, the order of the gates, modes and commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from voltrade.__main__ import main
from voltrade.config import Config, parameter_homes
from voltrade.core import GATES
from voltrade.errors import ConfigError
from voltrade.risk import RULES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guide.th.md").read_text(encoding="utf-8")

PLACE, PARAMETER, FIRST_NAME, VERSION, CODE, RULE = "อยู่ที่", "พารามิเตอร์", "ชื่อเดิม", "รุ่นนี้", "รหัส", "กฎ"
"""Headings of the columns that are held to the code."""

FIRST_NAMES = """
live_engine/main.py live_engine/signal_engine.py live_engine/oms.py live_engine/risk.py
BinanceWSManager VolumeBarAggregator SignalEngine LiveTradingSystem OrderMonitor OrderState CircuitBreaker
BinanceRestClient on_volume_bar _detect_signal _on_agg_trade _last_trade_ts
VWAP EMA BB RSI ATR PENDING_SUBMIT NEW FILLED Rejection Retry Orphan Halted Cooldown Execution
Aggregation Position Risk Drawdown Consecutive Daily In-position Crossover Breakout Orchestrator
"""
"""Every file, class, function, state and stage that the first guide names, or the word of it that is its own."""


def tables() -> Iterator[list[dict[str, str]]]:
    """Yield each table as its rows, by heading."""
    text = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)  # a diagram may look like a table
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        yield [dict(zip(head, row, strict=True)) for row in rows]


def column(heading: str) -> list[str]:
    cells = [row[heading] for table in tables() for row in table if heading in row]
    assert cells, f"no table has a column {heading}"
    return cells


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def places(cell: str) -> Iterator[tuple[str, str]]:
    """Yield (file, name) of a cell such as "`voltrade/a.py`: `B.c()`, `D`"; the name is empty for the file itself."""
    file = ""
    for text in quoted(cell):
        if text.startswith("voltrade/"):
            file = text
            yield file, ""
        else:
            assert file, f"{text}: no file stands before it in {cell}"
            yield file, text.removesuffix("()")


@cache
def names_in(file: str) -> frozenset[str]:
    """Every `name` and `Class.member` that a file defines, attributes set on `self` included."""
    return frozenset(_names(ast.parse((ROOT / file).read_text())))


def _names(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.ClassDef():
                yield node.name
                yield from (f"{node.name}.{member}" for member in _names(node))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
                if isinstance(tree, ast.ClassDef):
                    yield from _set_on_self(node)
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def _set_on_self(method: ast.AST) -> Iterator[str]:
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


@pytest.mark.parametrize("cell", column(PLACE))
def test_every_place_is_there(cell: str) -> None:
    found = list(places(cell))
    assert found, f"names no file: {cell}"
    for file, name in found:
        assert (ROOT / file).is_file(), file
        assert not name or name in names_in(file), f"{file} has no {name}"


def test_a_place_that_is_not_there_is_noticed() -> None:
    assert {"TradingCore._on_bars", "TradingCore.handle", "TradingCore.account", "GATES"} <= names_in(
        "voltrade/core.py"
    )
    assert not {"handle", "expected_range", "TradingCore.gone", "TradingCore.goes"} & names_in("voltrade/core.py")
    assert list(places("`voltrade/core.py`: `TradingCore.left_at`, `f()`; `voltrade/oms.py`")) == [
        ("voltrade/core.py", ""),
        ("voltrade/core.py", "TradingCore.left_at"),
        ("voltrade/core.py", "f"),
        ("voltrade/oms.py", ""),
    ]


def test_every_path_in_the_text_exists() -> None:
    for path in re.findall(r"\b(?:voltrade|notebooks|tests|docs)/[\w/]+\.(?:py|ipynb|md)\b", GUIDE):
        assert (ROOT / path).is_file(), path


def test_every_name_of_the_first_guide_has_a_row() -> None:
    rows = " ".join(column(FIRST_NAME))
    assert [name for name in FIRST_NAMES.split() if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rows)] == []


def test_every_parameter_is_one() -> None:
    named = {name for cell in column(PARAMETER) for name in quoted(cell)}
    assert len(named) > 40
    assert named - set(parameter_homes()) == set()


def test_gates_stand_in_their_order_and_the_breaker_has_all_its_rules() -> None:
    assert [code for cell in column(CODE) for code in quoted(cell)] == [gate.code for gate in GATES]
    assert {code for cell in column(RULE) for code in quoted(cell)} == set(RULES) - {"ON_HOLD"}


def test_modes_run_or_are_refused_as_said() -> None:
    rows = [row for table in tables() for row in table if VERSION in row]
    assert [row["mode"] for row in rows] == ["`sim`", "`paper`", "`demo`", "`live`"]
    for row in rows:
        (mode,) = quoted(row["mode"])
        if row[VERSION].startswith("ใช้ได้"):
            Config.from_parameters(mode=mode)
        else:
            with pytest.raises(ConfigError, match="mode"):
                Config.from_parameters(mode=mode)


def test_every_command_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"python -m voltrade (\w+)", GUIDE))
    assert {"verify", "replay"} <= commands
    for command in sorted(commands):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command
    capsys.readouterr()


def test_the_readme_leads_to_it_and_its_own_link_leads_somewhere() -> None:
    assert "(docs/guide.th.md)" in (ROOT / "README.md").read_text()
    # An anchor is the heading in lower case, blanks as hyphens, without dots and backquotes.
    headings = {
        re.sub(r"[.`:,()]", "", text.lower()).replace(" ", "-") for text in re.findall(r"^#+ (.+)$", GUIDE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= headings
