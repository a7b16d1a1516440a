"""What is drawn above a frame of figures on an incomplete tape, and above all that pandas takes from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from voltrade.report.html import frame_table
from voltrade.report.marked import LOST, MarkedFrame, MarkedSeries, mark

WARNING = "INCOMPLETE TAPE: without <5%>"
PLAIN = pd.DataFrame(
    {"net": [1.0, 2.0, 3.0], "fees": [0.1, 0.2, 0.3], "why": ["stop", "stop", "target"]},
    index=pd.date_range("2026-01-05", periods=3, tz="UTC", name="time"),
)
MARKED = mark(PLAIN, WARNING)
SUMS = MARKED[["net", "fees"]]

TAKEN: dict[str, Callable[[], Any]] = {
    "itself": lambda: MARKED,
    "first rows": lambda: MARKED.head(1),
    "some rows": lambda: MARKED[MARKED["net"] > 1],
    "some columns": lambda: SUMS,
    "column": lambda: MARKED["net"],
    "row": lambda: MARKED.iloc[0],
    "sum": lambda: SUMS.sum(),
    "mean and more": lambda: SUMS.agg(["mean", "max"]),
    "described": lambda: SUMS.describe(),
    "column described": lambda: MARKED["net"].describe(),
    "running sum": lambda: MARKED["net"].cumsum(),
    "sum of columns": lambda: MARKED["net"] + MARKED["fees"],
    "function of a column": lambda: np.log(MARKED["net"]),
    "by group": lambda: MARKED.groupby("why")["net"].sum(),
    "by group, several": lambda: MARKED.groupby("why").agg(count=("net", "size"), net=("net", "sum")),
    "by day": lambda: SUMS.resample("D").sum(),
    "pivot": lambda: MARKED.pivot_table(index="why", values="net"),
    "transposed": lambda: SUMS.T,
    "correlation": lambda: SUMS.corr(),
    "column as a frame": lambda: MARKED["net"].to_frame(),
    "with another column": lambda: MARKED.assign(gross=MARKED["net"] - MARKED["fees"]),
    "merged": lambda: MARKED.merge(PLAIN, on="why"),
    "joined": lambda: MARKED.join(PLAIN[["why"]].set_axis(["reason"], axis=1)),
    "concatenated": lambda: pd.concat([MARKED, PLAIN]),
    "copied": lambda: MARKED.copy(),
    "of another process": lambda: pickle.loads(pickle.dumps(MARKED)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_from_a_marked_frame_shows_its_mark(name: str) -> None:
    shown = TAKEN[name]()
    assert isinstance(shown, MarkedFrame | MarkedSeries)
    plain = pd.DataFrame(shown) if isinstance(shown, pd.DataFrame) else pd.Series(shown)
    texts, _ = DisplayFormatter().format(shown)  # type: ignore[no-untyped-call]
    assert texts["text/plain"] == str(shown) == f"{WARNING}\n{plain!r}"
    if isinstance(shown, pd.DataFrame):
        assert "INCOMPLETE TAPE: without &lt;5%&gt;" in texts["text/html"]
        assert texts["text/html"].endswith(plain.to_html(notebook=True))
        assert "INCOMPLETE TAPE: without &lt;5%&gt;" in frame_table(shown)


def test_what_pandas_takes_without_the_words_of_a_mark_is_marked_all_the_same() -> None:
    assert repr(SUMS.rolling(2).mean()).startswith(f"{LOST}\n")


def test_merged_frames_have_the_mark_of_the_first() -> None:
    other = mark(PLAIN, "WRONG MARK PRICES")
    assert repr(MARKED.merge(other, on="why")).startswith(WARNING)
    assert repr(other.merge(MARKED, on="why")).startswith("WRONG MARK PRICES")


def test_a_frame_of_a_whole_tape_and_a_frame_of_one_s_own_are_as_they_were() -> None:
    assert mark(PLAIN, "") is PLAIN
    assert (type(MARKED.merge(PLAIN, on="why")), type(PLAIN)) == (MarkedFrame, pd.DataFrame)
    texts, _ = DisplayFormatter().format(PLAIN)  # type: ignore[no-untyped-call]
    assert texts == {"text/plain": repr(PLAIN), "text/html": PLAIN.to_html(notebook=True)}
    assert PLAIN.attrs == {}


def test_what_can_not_be_marked_is_a_number_or_a_frame_of_one_s_own() -> None:
    """As `marked` and the README say."""
    assert isinstance(MARKED["net"].sum(), float)
    for made in (pd.DataFrame(MARKED), PLAIN.merge(MARKED, on="why"), pd.concat([PLAIN, MARKED])):
        assert type(made) is pd.DataFrame
