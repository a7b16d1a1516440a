"""Checks that trades, mark prices and funding rates share: the order of rows, missing ids, and the span of a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from voltrade.compiled import compiled
from voltrade.data.faults import Findings, Policy, Span
from voltrade.model import Bools, Int64s

Column = npt.NDArray[Any]

MICROSECONDS_FROM = 100_000_000_000_000
"""A larger time is in microseconds: in milliseconds it would be after the year 5000."""


def order_by_key(name: str, keys: Int64s, values: Iterable[Column], number: Int64s, found: Findings) -> Int64s | None:
    """Return the positions that sort rows by key, with every key once; None where they are sorted already.

    Args:
        name: of the key, for messages.
        values: the other columns, in which rows of the same key must agree.
        number: line numbers.
    """
    if np.all(keys[1:] > keys[:-1]):
        return None
    order = np.argsort(keys, kind="stable")
    repeated = np.zeros(len(keys), np.bool_)
    repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    # After sorting, repeated rows come after the first row of their key.
    first = order[np.maximum.accumulate(np.where(repeated[order], 0, np.arange(len(order))))]
    differs = np.zeros(len(keys), np.bool_)
    for column in values:
        differs[order] |= column[order] != column[first]
    conflicting = repeated & differs
    unsorted = np.zeros(len(keys), np.bool_)
    unsorted[~repeated] = out_of_place(keys[~repeated])
    found.where("duplicate_id", repeated & ~conflicting, number, f"{name} must not be there twice", keys)
    found.where("conflicting_id", conflicting, number, f"rows of one {name} must agree, the {name}", keys)
    found.where("unsorted", unsorted, number, f"{name} must ascend from row to row", keys)
    dropped = repeated | unsorted if found.policies["unsorted"] is Policy.DROP else repeated
    return np.asarray(order[~dropped[order]])


def out_of_place(values: Int64s) -> Bools:
    """Return which values break an ascending order: the smallest set whose removal leaves an ascending order."""
    if np.all(values[1:] >= values[:-1]):
        return np.zeros(len(values), np.bool_)
    return ~_longest_ascent(values)


@compiled
def _longest_ascent(values: Int64s) -> Bools:
    """Return which values belong to the longest subsequence that never descends.

    The loop goes backwards. `heads` holds the first row of the best subsequence of each length: the one with the
    highest value, since it allows the most rows before it (Fredman 1975). Whether a value extends the longest
    subsequence is tested first, so that mostly sorted rows take linear time.
    """
    heads = np.empty(len(values), np.int64)
    following = np.empty(len(values), np.int64)
    longest = 0
    for row in range(len(values) - 1, -1, -1):
        length, above = longest, longest
        if longest > 0 and values[heads[longest - 1]] < values[row]:
            length = 0
            while length < above:  # binary search for the longest subsequence that can follow this value
                middle = (length + above) // 2
                if values[heads[middle]] >= values[row]:
                    length = middle + 1
                else:
                    above = middle
        following[row] = heads[length - 1] if length > 0 else -1
        heads[length] = row
        longest = max(longest, length + 1)
    chosen = np.zeros(len(values), np.bool_)
    row = heads[longest - 1] if longest > 0 else -1
    while row >= 0:
        chosen[row] = True
        row = following[row]
    return chosen


def ids_missing_before(ids: Int64s) -> Int64s:
    """Return how many ids are missing before each of the ascending ids."""
    return np.diff(ids, prepend=ids[:1] - 1) - 1


def outside_span(
    times: Int64s, span: Span | None, number: Int64s, found: Findings, besides: Bools | np.bool_ = np.False_
) -> Bools:
    """Add a fault for times outside of the span, except in the rows `besides`; return which times."""
    if span is None:
        return np.zeros(len(times), np.bool_)
    rule = f"time must lie within {utc_text(span[0])} and {utc_text(span[1])}"
    return found.where("wrong_day", ((times < span[0]) | (times >= span[1])) & ~besides, number, rule, times)


def first_and_last(keys: Int64s) -> tuple[int, int] | None:
    """Return the first and last of ascending keys; None where there are none."""
    return (int(keys[0]), int(keys[-1])) if len(keys) else None


def utc_text(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
