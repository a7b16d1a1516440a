"""Paths into JSON messages: what they name is changed or left out, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltrade.venue.altering import altered

UPDATE = {"e": "ACCOUNT_UPDATE", "a": {"B": [{"a": "USDT", "wb": "1"}, {"a": "BNB", "wb": "2"}], "P": []}}

CASES: list[tuple[Any, dict[str, Any], list[str], Any]] = [
    ({"a": 1}, {"a": 2}, [], {"a": 2}),
    ({"a": 1}, {"b": 2}, [], {"a": 1, "b": 2}),
    ({"o": {"c": "x", "z": "1"}}, {"o.c": "y"}, [], {"o": {"c": "y", "z": "1"}}),
    ({"o": {"c": "x", "z": "1"}}, {}, ["o.z"], {"o": {"c": "x"}}),
    ([{"p": 1}, {"p": 2}], {"*.p": 0}, [], [{"p": 0}, {"p": 0}]),
    ([{"p": 1}, {"p": 2}], {"1.p": 0}, [], [{"p": 1}, {"p": 0}]),
    ([{"p": 1}, {"p": 2}], {}, ["0"], [{"p": 2}]),
    ([{"p": 1}, {"p": 2}], {}, ["*"], []),
    ([{"p": 1}], {"7.p": 0, "x.p": 0}, ["9", "0.q"], [{"p": 1}]),
    ([{"p": 1}], {"": []}, [], []),
    ({"a": 1}, {"x.y": 2}, ["b", "a.b.c"], {"a": 1}),
    (UPDATE, {}, ["a.B.*.wb"], {"e": "ACCOUNT_UPDATE", "a": {"B": [{"a": "USDT"}, {"a": "BNB"}], "P": []}}),
]


@pytest.mark.parametrize(("message", "values", "without", "expected"), CASES, ids=str)
def test_a_path_names_what_is_changed(message: Any, values: dict[str, Any], without: list[str], expected: Any) -> None:
    before = json.dumps(message)
    assert altered(message, values, without) == expected
    assert json.dumps(message) == before, "the message itself stays"


rows = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1), max_size=4)
paths = st.lists(st.sampled_from(["", "*", "0", "3", "a", "b"]), max_size=4).map(".".join)


@given(rows, st.dictionaries(paths.filter(bool), st.integers()), st.lists(paths.filter(bool)))
def test_any_path_is_taken_and_rows_stay_in_number_unless_one_is_left_out(
    message: list[Any], values: dict[str, int], without: list[str]
) -> None:
    changed = altered(message, values, without)
    assert len(changed) <= len(message)
    assert without or len(changed) == len(message)
