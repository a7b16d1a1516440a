"""What is missing or repeated at the borders of days, by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from voltrade.data import coverage, fetch
from voltrade.data.day_checks import at_midnight, inspect_store
from voltrade.data.faults import DEFAULT_POLICIES
from voltrade.data.kinds import FUNDING
from voltrade.data.midnights import repeated_ids
from voltrade.data.readable_store import ReadableStore
from voltrade.data.series_checks import FUNDING_RATES, MARK_KLINES, rows_missing
from voltrade.data.stored_day import Metadata, StoredDay, ids_between
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS
from voltrade.simulated.symbols import shipped_instrument, shipped_rules

DAY = date(2026, 1, 5)
BEGIN = 20_458 * DAY_MS
SPAN = (BEGIN, BEGIN + DAY_MS)


@pytest.mark.parametrize(
    ("repeated", "fault"), [(-1, "id_gap"), (0, None), (1, "repeated_at_midnight"), (1_000, "repeated_at_midnight"),
                            (1_001, "unsorted")]
)  # fmt: skip
def test_up_to_a_thousand_ids_are_repeated_and_more_are_counted_anew(repeated: int, fault: str | None) -> None:
    last, first = 5_000, 5_001 - repeated
    assert [found for found, _ in at_midnight(DAY, last, first, 1, False)] == ([fault] if fault else [])
    metadata = Metadata.of(shipped_instrument("BTCUSDT"), "made")
    before = StoredDay("trades", "BTCUSDT", DAY, 5_000, 1, last, metadata, 1)
    after = StoredDay("trades", "BTCUSDT", DAY + timedelta(1), 5_000, first, 20_000, metadata, 1)
    assert repeated_ids(before, after) == (repeated if fault == "repeated_at_midnight" else 0)


@pytest.mark.parametrize(
    ("made_of", "files", "raw", "expected"),
    [
        (("aggTrades", "aggTrades"), ("a", "b"), (None, None), (40, 50)),
        (("trades", "trades"), ("a", "a"), (None, None), (40, 50)),  # counted on within one file
        (("trades", "trades"), ("a", "a"), (70, 90), (40, 50)),
        (("trades", "trades"), ("a", "b"), (None, None), None),
        (("trades", "trades"), ("a", "b"), (70, 90), (70, 90)),
        (("trades", "trades"), ("ab", "ab"), (None, None), None),  # each of the two files counted for itself
        (("trades", "trades"), ("ab", "ab"), (70, 90), (70, 90)),
        (("trades", "trades"), ("a", "ab"), (70, None), None),
        (("trades", "aggTrades"), ("a", "b"), (70, None), None),
    ],
)
def test_ids_of_two_days_are_compared_as_the_exchange_counts_them(
    made_of: tuple[str, str], files: tuple[str, str], raw: tuple[int | None, int | None],
    expected: tuple[int, int] | None
) -> None:  # fmt: skip
    """Ids of joined raw trades are our own, and begin anew in each file."""

    def stored(number: int) -> StoredDay:
        sources: dict[str, dict[str, int]] = {file: {} for file in files[number]}
        metadata = Metadata("0.1", "0.001", True, True, sources, made_of[number], raw_first=raw[number])
        metadata = replace(metadata, raw_last=raw[number])
        first, last = ((21, 40), (50, 69))[number]
        return StoredDay("trades", "BTCUSDT", DAY + timedelta(number), 20, first, last, metadata, 1)

    assert ids_between(stored(0), stored(1)) == expected


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0, 1_439, 0), (1, 1_439, 1), (0, 1_438, 1), (3, 1_436, 6), (-1, 1_440, 0), (-1, 1_000, 439)],
)
def test_minutes_without_mark_price_are_counted_at_both_ends_of_a_day(first: int, last: int, expected: int) -> None:
    times = BEGIN + MINUTE_MS * np.arange(first, last + 1)
    between, at_edges = rows_missing(MARK_KLINES, [times], SPAN)
    assert (int(between.sum()), at_edges) == (0, expected)
    assert rows_missing(MARK_KLINES, [times], None)[1] == 0, "nothing is due"


@pytest.mark.parametrize(
    ("hours", "between", "at_edges"),
    [((0, 8, 16), 0, 0), ((8, 16), 0, 1), ((0, 8), 0, 1), ((0, 16), 1, 0), ((8,), 0, 2), ((0, 4, 8, 12, 16), 0, 1)],
)
def test_funding_rows_are_counted_at_both_ends_of_a_day(hours: tuple[int, ...], between: int, at_edges: int) -> None:
    nothing = np.zeros(len(hours), np.int64)
    for late in (0, 7):  # milliseconds
        columns = [BEGIN + HOUR_MS * np.array(hours) + late, nothing, nothing]
        missing, edges = rows_missing(FUNDING_RATES, columns, SPAN)
        assert (int(missing.sum()), edges) == (between, at_edges)
        assert rows_missing(FUNDING_RATES, columns, None)[1] == 0, "nothing is due"


@pytest.mark.parametrize(
    ("stated", "following", "lost"),
    [
        ((8, 8, 8), (24, 8), 0),
        ((8, 8, 8), (24, 4), 0),  # which may be the interval that begins there
        ((8, 8, 8), (28, 4), 0),  # 24:00 is of the next day; of 20:00 nothing says whether it was due
        ((8, 8, 4), (24, 8), 1),  # 12:00, or 20:00 if it states the interval that begins at 16:00
        ((8, 8, 4), (24, 0), 1),  # 20:00
        ((8, 8, 4), None, 1),
    ],
)
def test_the_first_row_of_the_next_day_states_the_interval_that_begins_in_a_day(
    stated: tuple[int, ...], following: tuple[int, int] | None, lost: int
) -> None:
    nothing = np.zeros(3, np.int64)
    columns = [BEGIN + HOUR_MS * np.array((0, 8, 16)), nothing, np.array(stated)]
    after = [np.array([BEGIN + HOUR_MS * following[0]]), nothing[:1], np.array([following[1]])] if following else []
    missing, edges = rows_missing(FUNDING_RATES, columns, SPAN, following=after)
    assert int(missing.sum()) + edges == lost


@pytest.mark.parametrize(
    ("hours", "lost"),
    [
        ((0, 4, 8, 12, 16, 20), 0),
        ((0, 4, 8, 16, 20), 1),
        ((0, 8), 4),  # 4 and 12 to 20
        ((4, 12, 20), 3),
        ((0, 8, 16), 0),  # every 8 hours, as it may have been before the symbol's interval was shortened
        ((0, 12), 4),
    ],
)
def test_funding_rows_of_a_symbol_that_pays_every_four_hours_are_counted_by_its_own_interval(
    hours: tuple[int, ...], lost: int
) -> None:
    nothing = np.zeros(len(hours), np.int64)
    columns = [BEGIN + HOUR_MS * np.array(hours) + 7, nothing, nothing]
    missing, edges = rows_missing(FUNDING_RATES, columns, SPAN, 4 * HOUR_MS)
    assert int(missing.sum()) + edges == lost


@pytest.mark.parametrize(("hours", "lost"), [((0, 8), 4), ((0, 8, 16), 0)])
def test_verify_and_fetch_know_the_interval_of_the_symbol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: tuple[int, ...], lost: int
) -> None:
    rules = replace(shipped_rules("BTCUSDT"), funding_interval_ms=4 * HOUR_MS)
    monkeypatch.setattr(coverage, "shipped_rules", lambda symbol: rules)
    times, nothing = BEGIN + HOUR_MS * np.array(hours), np.zeros(len(hours), np.int64)
    metadata = Metadata.of_values({"REST": {}}, begins=True, ends=True)
    store = ReadableStore(tmp_path)
    store.add(FUNDING, "BTCUSDT", (times, nothing + 1, nothing), times, metadata, whole=(DAY, DAY))
    (stored,) = store.days(FUNDING, "BTCUSDT")
    assert fetch._rows_lacking(store, FUNDING, stored) == lost
    (found,) = inspect_store(store, DEFAULT_POLICIES, SPAN[1])
    assert found.missing == lost
