"""Funding rows that are lost where the interval changes: missing, not known, or whole, by hand."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, Run, some_trades

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.kinds import FUNDING, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import stored_trades
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS, Funding
from voltrade.simulated.mark_columns import funding_holes
from voltrade.simulated.symbols import shipped_instrument

MONTH = date(2025, 12, 1)
BEGIN = start_of(MONTH)
NOW = BEGIN + 40 * DAY_MS
EVERY = 31 * 24
BTCUSDT = shipped_instrument("BTCUSDT")


@pytest.mark.parametrize(
    ("at", "stated", "missing", "unknown"),
    [
        ("0 8 16 24 32 40", "8 8 8 8 8 8", "", ""),
        ("0 8 24 32 40", "8 8 8 8 8", "16", ""),
        # To a shorter interval at 16: by what ends there, by what begins there, and with the next rows lost.
        ("0 8 16 20 24 28 32 36 40 44", "8 8 8 4 4 4 4 4 4 4", "", ""),
        ("0 8 16 20 24 28 32 36 40 44", "8 8 4 4 4 4 4 4 4 4", "", "12"),
        ("0 8 16 24 28 32 36 40 44", "8 8 8 4 4 4 4 4 4", "", "20"),
        ("0 8 16 28 32 36 40 44", "8 8 8 4 4 4 4 4", "24", "20"),
        ("0 8 24 28 32 36 40 44", "8 8 4 4 4 4 4 4", "16", "12 20"),
        ("0 8 16 24 32 36 40 44", "8 8 8 4 4 4 4 4", "28", "20"),
        # To a longer one at 20 and 24: by what ends, by what begins, and with the last of the shorter one lost.
        ("0 4 8 12 16 20 24 32 40", "4 4 4 4 4 4 4 8 8", "", "28"),
        ("0 4 8 12 16 20 24 32 40", "4 4 4 4 4 4 8 8 8", "", ""),
        ("0 4 8 12 16 32 40", "4 4 4 4 4 8 8", "24", "20 28"),
        # A change and another one: the first doesn't say how the second is to be read.
        ("0 8 16 20 24 32 40 44", "8 8 8 4 4 8 8 4", "", "28"),
        ("0 8 16 24 28 32 40", "8 8 8 4 4 4 8", "", "20 36"),
        # One row that states another one: as many are missing before it as after it.
        ("0 8 16 24 32 40", "8 8 4 8 8 8", "12", ""),
        # What isn't stated is no change.
        ("0 8 16 24 28 32 36 40 44", "8 8 8 0 0 0 0 0 0", "", ""),
    ],
)
def test_each_change_of_the_interval_is_read_both_ways(at: str, stated: str, missing: str, unknown: str) -> None:
    times, hours = (np.array(text.split(), np.int64) for text in (at, stated))
    funding = Funding(BEGIN + times * HOUR_MS, np.ones(len(times), np.int64), hours * HOUR_MS)
    found = funding_holes(funding, BEGIN - MINUTE_MS, BEGIN + 47 * HOUR_MS)
    assert [((each - BEGIN) // HOUR_MS).tolist() for each in found] == [
        list(map(int, text.split())) for text in (missing, unknown)
    ]


@pytest.mark.parametrize("states_begin", [False, True])
@pytest.mark.parametrize(("before", "after"), [(8, 4), (8, 1), (4, 1), (8, 2)])
def test_no_row_that_is_lost_right_after_a_change_is_hidden(before: int, after: int, states_begin: bool) -> None:
    for change in range(5 * 24, 25 * 24, 8):
        at = np.array([*range(0, change, before), *range(change, EVERY, after)])
        ends = np.diff(at, prepend=-before)
        stated = np.append(ends[1:], after) if states_begin else ends
        kept = (at <= change - states_begin) | (at >= change + before)
        funding = Funding(BEGIN + at[kept] * HOUR_MS, np.ones(kept.sum(), np.int64), stated[kept] * HOUR_MS)
        found = funding_holes(funding, BEGIN - MINUTE_MS, BEGIN + 31 * DAY_MS - MINUTE_MS)
        lost = BEGIN + at[~kept] * HOUR_MS
        assert len(lost) > 0
        assert set(lost.tolist()) <= {*found.missing.tolist(), *found.unknown.tolist()}, change


CHANGE = 10 * 24 + 16
"""At 16:00 of the 11th, from 8 hours to one; the next seven rows are lost."""
AT = np.array([*range(0, CHANGE + 1, 8), *range(CHANGE + 1, EVERY)])
THERE = (AT <= CHANGE) | (AT >= CHANGE + 8)
MONTH_FILE = ArchiveFile.of_month(FUNDING, "BTCUSDT", MONTH)
OPEN = "open_interval in 1 row ({}): nothing says whether 7 rows are missing from 2025-12-11 17:00 on [flag]"


def month_text() -> str:
    rows = (f"{BEGIN + hour * HOUR_MS},{8 if hour <= CHANGE else 1},0.00010000" for hour in AT[THERE])
    return "\n".join([HEADERS[FUNDING], *rows]) + "\n"


def test_rows_lost_after_a_change_are_named_by_verify_import_and_results(tmp_path: Path, run: Run) -> None:
    path = tmp_path / MONTH_FILE.name.replace(".zip", ".csv")
    path.write_text(month_text())
    said = f"{path.name}: {THERE.sum()} rows: with faults\n    {OPEN.format(CHANGE // 8 + 3)}\n"
    status, words = run("verify", str(path))
    assert (status, words.startswith(f"{said}1 file: open_interval in 1\n")) == (1, True), words
    status, words = run("import", "BTCUSDT", str(path))
    assert (status, OPEN.format(CHANGE // 8 + 3) in words) == (0, True), words
    status, words = run("verify")
    assert (status, words.count("open_interval: nothing says whether 7 rows are missing")) == (1, 1), words
    store, day = Store(tmp_path / "store"), date(2025, 12, 11)
    store.add_trades(trades := some_trades("BTCUSDT", day, days=1, a_day=30), Metadata.of(BTCUSDT, "made"))
    tape = stored_trades(f"store:BTCUSDT:{day}", BTCUSDT, store)
    assert len(tape.trades) == len(trades)
    assert "2025-12-11 (7 funding rates)" in tape.open_days


@pytest.mark.parametrize("are_lost_at_rest", [False, True])
def test_fetch_asks_rest_for_what_a_file_may_lack_and_believes_it(
    tmp_path: Path, run: Run, are_lost_at_rest: bool
) -> None:
    times = BEGIN + AT * HOUR_MS
    rest = times[THERE] if are_lost_at_rest else times
    trades = some_trades("BTCUSDT", MONTH, days=1, a_day=9)
    server = HistoryServer(History(trades, BEGIN + 40 * DAY_MS, times[:0], rest))
    server.put(MONTH_FILE, month_text())
    with server.running():
        days = ("--from", "2025-12-01", "--to", "2025-12-31", "--kinds", "funding")
        given = ("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
        status, words = run(*given)
        asked = server.count("fundingRate")
        assert (status, OPEN.format(CHANGE // 8 + 3) in words) == (0, True), words
        assert run(*given)[0] == 0
        assert server.count("fundingRate") == asked, "REST is asked once"
    assert run("verify")[0] == 0
    day = Store(tmp_path / "store").rows(FUNDING, "BTCUSDT", date(2025, 12, 11))
    assert len(day[0]) == (3 if are_lost_at_rest else 10)


def test_a_fetch_that_can_not_ask_rest_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HistoryServer(History(some_trades("BTCUSDT", MONTH, days=1, a_day=9), BEGIN + 40 * DAY_MS))
    server.put(MONTH_FILE, month_text())
    monkeypatch.setattr("voltrade.data.sources._TRIES", 1)
    with server.running():
        days = ("--from", "2025-12-01", "--to", "2025-12-31", "--kinds", "funding")
        status, words = run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", "http://127.0.0.1:1")
    said = "funding: nothing says that the archive's days have all rows, since REST can't be asked: http://127.0.0.1:1"
    assert (status, said in words) == (1, True), words
    assert "31 days, " in words
