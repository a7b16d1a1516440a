"""Days without trades, days before a symbol was listed, and funding files that are cut at their begin or end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, some_trades

from voltrade.data import commands
from voltrade.data.archive_files import ArchiveFile
from voltrade.data.coverage import Coverage
from voltrade.data.kinds import FUNDING, MARKS, TRADES, start_of
from voltrade.data.store import Store
from voltrade.data.tape import stored_trades
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS, Int64s, Trades
from voltrade.simulated.symbols import shipped_instrument

FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(number) for number in range(4)]
BEGIN, END = start_of(FIRST), start_of(FIRST) + 4 * DAY_MS
NOW = END + 5 * DAY_MS
AROUND = some_trades("BTCUSDT", FIRST - timedelta(1), days=6, a_day=60)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(commands, "_now", lambda: NOW)

    def run(*given: str) -> tuple[int, str]:
        status = commands.main([*given, "--store", str(tmp_path / "store")])
        return status, "".join(capsys.readouterr())

    return run


def fetched(run: Run, trades: Trades, marks: Int64s, funding: Int64s, *kinds: str) -> tuple[int, str]:
    """Fetch four days of a history, in files where the archive has them."""
    server = HistoryServer(History(trades, NOW, marks, funding))
    for kind in (TRADES, MARKS):
        server.put_days(kind, "BTCUSDT", DAYS[0], DAYS[-1])
    with server.running():
        days = ("--from", str(DAYS[0]), "--to", str(DAYS[-1]), "--kinds", *kinds)
        return run("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)


def without(begin: int, end: int, renumber: bool = True) -> Trades:
    """The trades but for a time; with ids that go on, as nothing was traded then."""
    kept = (AROUND.time < begin) | (AROUND.time >= end)
    ids, *others = (column[kept] for column in AROUND.columns)
    return Trades("BTCUSDT", np.arange(1_000, 1_000 + len(ids)) if renumber else ids, *others)


NOTHING = np.empty(0, np.int64)


@pytest.mark.parametrize("days", [1, 2])
def test_a_day_without_a_trade_between_ids_that_join_is_whole(tmp_path: Path, run: Run, days: int) -> None:
    trades = without(BEGIN + DAY_MS, BEGIN + (1 + days) * DAY_MS)
    quiet = str(DAYS[1]) if days == 1 else f"{DAYS[1]} to {DAYS[2]}"
    for _ in range(2):
        status, words = fetched(run, trades, NOTHING, NOTHING, "trades")
        assert (status, f"trades: none was made on {quiet}, as the ids around join" in words) == (0, True), words
        assert run("verify")[0] == 0
    store = Store(tmp_path / "store")
    tape = stored_trades(f"store:BTCUSDT:{DAYS[0]}:{DAYS[-1]}", shipped_instrument("BTCUSDT"), store)
    assert len(tape.trades) == np.count_nonzero((trades.time >= BEGIN) & (trades.time < END))
    assert Coverage.of(tape).ids_missing == 0


def test_a_day_whose_ids_are_lost_is_still_missing(run: Run) -> None:
    trades = without(BEGIN + DAY_MS, BEGIN + 2 * DAY_MS, renumber=False)
    status, words = fetched(run, trades, NOTHING, NOTHING, "trades")
    assert (status, "none was made" in words) == (1, False), words
    status, words = run("verify")
    assert (status, f"missing_day: {DAYS[1]}: nothing is stored" in words) == (1, True)


@pytest.mark.parametrize(("begin", "status"), [(8 * HOUR_MS + 30 * MINUTE_MS, 0), (9 * HOUR_MS + 30 * MINUTE_MS, 1)])
def test_before_the_first_trade_of_a_symbol_nothing_is_missing(run: Run, begin: int, status: int) -> None:
    """It is listed at 08:30; mark prices of an hour after that are missing in the second case."""
    listed = BEGIN + 8 * HOUR_MS + 30 * MINUTE_MS
    trades = AROUND[int(np.searchsorted(AROUND.time, listed)) :]
    trades = Trades("BTCUSDT", *trades.columns[:3], np.maximum(trades.time - (trades.time[0] - listed), 0),
                    trades.columns[-1])  # fmt: skip
    marks = np.arange(BEGIN + begin, END + DAY_MS, MINUTE_MS)
    found, words = fetched(run, trades, marks, np.arange(BEGIN + 16 * HOUR_MS, END + DAY_MS, 8 * HOUR_MS),
                           "trades", "marks", "funding")  # fmt: skip
    assert found == status, words
    assert ("marks: 60 rows are missing on 2026-01-05" in words) == bool(status)
    assert run("verify")[0] == status


@pytest.mark.parametrize(
    ("cut", "lacking"), [(slice(2, None), 2), (slice(-2), 2), (slice(1, None), 1), (slice(-1), 1), (slice(None), 0)]
)
def test_a_funding_file_that_is_cut_is_named_by_import_and_by_verify(
    tmp_path: Path, run: Run, cut: slice, lacking: int
) -> None:
    month = ArchiveFile.of_month(FUNDING, "BTCUSDT", date(2025, 12, 1))
    times = start_of(month.first) + np.arange(0, 31 * DAY_MS, 8 * HOUR_MS)
    rows = [f"{time},8,0.00010000" for time in times][cut]
    path = tmp_path / month.name.replace(".zip", ".csv")
    path.write_text("\n".join([HEADERS[FUNDING], *rows]) + "\n")
    _, words = run("import", "BTCUSDT", str(path))
    assert (f"{lacking} rows are missing, at the begin or end" in words) == bool(lacking), words
    status, words = run("verify")
    assert (status, words.count("id_gap: ")) == (int(lacking > 0), int(lacking > 0)), words


def test_a_hole_over_midnight_is_named_once(run: Run) -> None:
    marks = np.arange(BEGIN, END, MINUTE_MS)
    midnight = BEGIN + DAY_MS
    marks = marks[(marks < midnight - 12 * MINUTE_MS) | (marks >= midnight + 12 * MINUTE_MS)]
    status, words = fetched(run, AROUND, marks, NOTHING, "marks")
    assert (status, words.count("marks: 12 rows are missing on")) == (1, 2), "by day"
    status, words = run("verify")
    assert (status, words.count("rows are missing"), words.count("24 rows are missing after")) == (1, 1, 1), words
