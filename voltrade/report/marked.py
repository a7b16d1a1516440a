"""Frames that say above their rows what is wrong with the tape that they rest on.

What pandas takes from such a frame, or joins to it, says so too: rows, columns, sums, groups, merges. It can't be said
of a single number, an array or a file that is made of it, of `value_counts()`, of what is described by group, nor of
somebody's own plain frame or column that it is joined or added to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd

from voltrade.report.html import warning_html

Rows = TypeVar("Rows", "MarkedFrame", "MarkedSeries")

LOST = "taken from figures that are marked INCOMPLETE TAPE or WRONG MARK PRICES"
"""The mark of what pandas took from a marked frame without its attributes, as a moving average."""


class MarkedSeries(pd.Series):
    """A column, row or sum of a marked frame, with the same mark above it."""

    @property
    def _constructor(self) -> Any:
        return _maker(MarkedSeries, self)

    @property
    def _constructor_expanddim(self) -> Any:
        return _maker(MarkedFrame, self)

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> MarkedSeries:
        return _with_mark_of(other, super().__finalize__(other, method, **kwargs))  # type: ignore[misc, no-any-return]

    def describe(self, *args: Any, **kwargs: Any) -> MarkedSeries:  # type: ignore[misc]
        """Describe the values as pandas does, with the mark."""
        return _maker(MarkedSeries, self)(super().describe(*args, **kwargs))

    def __repr__(self) -> str:
        return f"{_mark_of(self)}\n{super().__repr__()}"


class MarkedFrame(pd.DataFrame):
    """A frame that shows its mark in every notebook and print-out, as does what pandas takes from it or joins to it."""

    @property
    def _constructor(self) -> Any:
        return _maker(MarkedFrame, self)

    @property
    def _constructor_sliced(self) -> Any:
        return _maker(MarkedSeries, self)

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> MarkedFrame:
        return _with_mark_of(other, super().__finalize__(other, method, **kwargs))  # type: ignore[misc, no-any-return]

    def describe(self, *args: Any, **kwargs: Any) -> MarkedFrame:  # type: ignore[misc]
        """Describe the columns as pandas does, with the mark."""
        return _maker(MarkedFrame, self)(super().describe(*args, **kwargs))

    def __repr__(self) -> str:
        return f"{_mark_of(self)}\n{super().__repr__()}"

    def _repr_html_(self) -> str | None:
        shown: str | None = super()._repr_html_()  # type: ignore[misc]
        return None if shown is None else f"{warning_html(_mark_of(self))}{shown}"


def mark(frame: pd.DataFrame, warning: str) -> pd.DataFrame:
    """Return a frame that is marked with what is wrong with the tape that it rests on; itself where nothing is."""
    if not warning:
        return frame
    marked = MarkedFrame(frame)
    marked.attrs["warning"] = warning
    return marked


def _mark_of(rows: pd.DataFrame | pd.Series[Any]) -> str:
    return str(rows.attrs.get("warning", LOST))


def _maker(of: Callable[..., Rows], rows: pd.DataFrame | pd.Series[Any]) -> Callable[..., Rows]:
    """Return what makes rows with the mark of others."""
    warning = _mark_of(rows)

    def made(*args: Any, **kwargs: Any) -> Rows:
        rows = of(*args, **kwargs)
        rows.attrs["warning"] = warning
        return rows

    return made


def _with_mark_of(other: Any, rows: Rows) -> Rows:
    """Give rows the mark of the first of those that they were joined of; pandas keeps what all have in common."""
    joined = [each for each in getattr(other, "input_objs", ()) if isinstance(each, MarkedFrame | MarkedSeries)]
    if joined:
        rows.attrs["warning"] = _mark_of(joined[0])
    return rows
