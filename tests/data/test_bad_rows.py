"""One bad row of a file, or of a page of REST: it is refused alone and told, and all that is sound is stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, Run, some_trades

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, start_of
from voltrade.data.store import Store
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS

FIRST = date(2026, 1, 5)
BEGIN = start_of(FIRST)
END = BEGIN + 3 * DAY_MS
TRADED = some_trades("BTCUSDT", FIRST - timedelta(1), days=5, a_day=60)
HISTORY = History(TRADED, END + DAY_MS, np.arange(BEGIN, END, MINUTE_MS), np.arange(BEGIN, END, 8 * HOUR_MS))
NOW = HISTORY.now
AT = BEGIN + DAY_MS + 16 * HOUR_MS
"""The bad row is of 16:00 on the second of three days."""


@pytest.fixture
def server() -> Iterator[HistoryServer]:
    with HistoryServer(HISTORY).running() as server:
        server.takes_s = 0.0
        yield server


def fetched(run: Run, server: HistoryServer, *kinds: Kind) -> tuple[int, str]:
    days = ("--from", str(FIRST), "--to", str(FIRST + timedelta(2)))
    given = ("--kinds", *(kind.name for kind in kinds), "--archive", server.address, "--rest", server.address)
    return run("fetch", "BTCUSDT", *days, *given)


def rows(folder: Path, kind: Kind) -> int:
    return sum(day.rows for day in Store(folder / "store").days(kind, "BTCUSDT"))


def spoil(server: HistoryServer, monkeypatch: pytest.MonkeyPatch, kind: Kind, key: Any, value: Any, count: int) -> None:
    """Let REST's rows have another value from the bad row on."""
    name, time = {MARKS: ("_marks", 0), FUNDING: ("_funding", "fundingTime"), TRADES: ("_trades", "T")}[kind]
    sound = getattr(server, name)
    every = {MARKS: MINUTE_MS, FUNDING: 8 * HOUR_MS, TRADES: 2 * HOUR_MS}[kind]

    def answer(wanted: dict[str, str]) -> list[Any]:
        page = [row.copy() for row in sound(wanted)]
        for row in page:
            if AT <= int(row[time]) < AT + count * every:
                row[key] = value
        return page

    monkeypatch.setattr(server, name, answer)


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        (MARKS, 2, "1", "high must be at least open and close, was 1"),
        (MARKS, 3, "x", "low must be a multiple of 0.00000001, was x"),
        (MARKS, 1, None, "open must be a multiple of 0.00000001, was None"),
        (MARKS, 4, "-1", "prices must be positive"),
        (FUNDING, "fundingRate", "0.11", "last_funding_rate must be from -0.1 to 0.1, was 0.11"),
        (FUNDING, "fundingRate", "NaN", "last_funding_rate must be a multiple of 0.00000001, was NaN"),
    ],
)
def test_a_bad_row_of_a_page_keeps_no_other_away(
    tmp_path: Path, run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch, kind: Kind, key: Any, value: Any,
    said: str
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        spoil(server, patch, kind, key, value, 1)
        status, words = fetched(run, server, TRADES, MARKS, FUNDING)
    assert (status, said in words, "[refuse]" in words) == (1, True, False), words
    assert [rows(tmp_path, MARKS), rows(tmp_path, FUNDING)] == [3 * 1_440 - (kind is MARKS), 9 - (kind is FUNDING)]
    assert "2026-01-06" in words, "the day that lacks it"
    assert run("verify")[0] == 1
    assert fetched(run, server, TRADES, MARKS, FUNDING)[0] == 0, "REST has it now"
    assert run("verify")[0] == 0


@pytest.mark.parametrize(("bad", "taken"), [(10, True), (11, False)])
def test_many_bad_rows_of_a_file_or_page_are_no_accident(tmp_path: Path, run: Run, bad: int, taken: bool) -> None:
    """Of a hundred rows."""
    day = FIRST + timedelta(1)
    lines = HISTORY.lines(MARKS, day, day)
    lines[960 : 960 + bad] = [line.replace(",6", ",x", 1) for line in lines[960 : 960 + bad]]
    path = tmp_path / ArchiveFile(MARKS, "BTCUSDT", day, day).name.replace(".zip", ".csv")
    path.write_text("\n".join([HEADERS[MARKS], *lines[950:1_050]]) + "\n")
    status, words = run("import", "BTCUSDT", str(path))
    assert (status, rows(tmp_path, MARKS)) == (1, 100 - bad if taken else 0), words


def test_a_refused_page_is_left_out_and_the_next_one_is_taken(
    tmp_path: Path, run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil(server, patch, MARKS, 1, "x", 100)
        status, words = fetched(run, server, MARKS, FUNDING)
    assert (status, "bad_value in 100 rows" in words, rows(tmp_path, FUNDING)) == (1, True, 9), words
    assert rows(tmp_path, MARKS) == 3 * 1_440 - 1_500, (
        "all but the page of 01:00 on the second day to 01:59 on the third"
    )
    assert fetched(run, server, MARKS)[0] == 0


def test_a_refused_file_of_marks_is_replaced_by_rest(tmp_path: Path, run: Run, server: HistoryServer) -> None:
    day = FIRST + timedelta(1)
    server.put_days(MARKS, "BTCUSDT", FIRST, FIRST + timedelta(2))
    server.put(ArchiveFile(MARKS, "BTCUSDT", day, day), HISTORY.csv(ArchiveFile(MARKS, "BTCUSDT", day, day))[:-20_000])
    server.put(ArchiveFile(MARKS, "BTCUSDT", FIRST, FIRST), stated=b"other bytes")
    status, words = fetched(run, server, MARKS)
    assert (status, "checksum: " in words, rows(tmp_path, MARKS)) == (1, True, 3 * 1_440), "the file was refused"


def test_after_a_refused_page_of_trades_the_other_kinds_are_fetched(
    tmp_path: Path, run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil(server, patch, TRADES, "p", "x", 1_000)
        status, words = fetched(run, server, TRADES, MARKS, FUNDING)
    assert (status, "data fetch: REST aggTrades from " in words) == (2, True), words
    assert [rows(tmp_path, MARKS), rows(tmp_path, FUNDING)] == [3 * 1_440, 9]
    assert fetched(run, server, TRADES)[0] == 0


def test_a_bad_row_of_a_page_of_trades_is_missing_alone(
    tmp_path: Path, run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = int(np.count_nonzero((TRADED.time >= BEGIN) & (TRADED.time < END)))
    bad = int(np.count_nonzero((TRADED.time >= AT) & (TRADED.time < AT + 2 * HOUR_MS)))
    with monkeypatch.context() as patch:
        spoil(server, patch, TRADES, "p", "x", 1)
        status, words = fetched(run, server, TRADES)
    assert bad > 0
    assert (status, rows(tmp_path, TRADES), "price must be a multiple" in words) == (1, whole - bad, True), words
    assert fetched(run, server, TRADES)[0] == 0
    assert rows(tmp_path, TRADES) == whole


@pytest.mark.parametrize(("kind", "key"), [(MARKS, 0), (FUNDING, "fundingTime")])
def test_a_row_without_a_time_is_told(
    run: Run, server: HistoryServer, monkeypatch: pytest.MonkeyPatch, kind: Kind, key: Any
) -> None:
    sound = {MARKS: server._marks, FUNDING: server._funding}[kind]

    def answer(wanted: dict[str, str]) -> list[Any]:
        page: list[Any] = sound(wanted)
        page[-1][key] = "soon"
        return page

    monkeypatch.setattr(server, "_marks" if kind is MARKS else "_funding", answer)
    status, words = fetched(run, server, kind)
    assert (status, f"REST: rows must have a time at {key}, was " in words) == (2, True), words
