"""Entries and their parts: what is called by compiled code alone is no machine code, and fails as plain Python does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voltrade.compiled import bind, compiled, compiled_part


def _checked(number: int) -> int:
    if number > 3:
        raise ValueError("number: must be at most 3")
    return number + 1


def _doubled(number: int) -> int:
    return 2 * checked(number)  # type: ignore[name-defined,no-any-return]  # noqa: F821


def _sum(number: int) -> int:
    return doubled(number) + checked(number)  # type: ignore[name-defined,no-any-return]  # noqa: F821


def compiled_sum() -> tuple[Any, Any, Any]:
    """Return the sum, an entry that it calls, and a part that both call."""
    checked: Any = compiled_part(_checked)
    doubled: Any = compiled(bind(_doubled, checked=checked))
    return compiled(bind(_sum, doubled=doubled, checked=checked)), doubled, checked


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOLTRADE_CACHE", str(tmp_path))
    return tmp_path


def test_only_what_python_calls_becomes_machine_code_and_is_kept(cache: Path) -> None:
    total, doubled, checked = compiled_sum()
    assert total(2) == 9
    assert [file.name.split("-")[0].split("._")[1][:3] for file in cache.rglob("*.nbc")] == ["sum"]
    [translated] = checked.overloads.values()
    assert translated.library.get_pointer_to_function(translated.fndesc.llvm_func_name) == 0
    assert not doubled.overloads  # compiled for Python where Python calls it
    assert doubled(2) == 6
    assert len(list(cache.rglob("*.nbc"))) == 2


def test_an_error_in_a_part_is_raised_by_its_entry_whether_compiled_or_loaded(cache: Path) -> None:
    for hits in (0, 1):
        total, _, _ = compiled_sum()
        with pytest.raises(ValueError, match="number: must be at most 3"):
            total(4)
        assert sum(total.stats.cache_hits.values()) == hits
