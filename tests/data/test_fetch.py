"""`data fetch` brings history from the archive and REST, goes on where it stopped, and takes nothing on trust."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from functools import partialmethod
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from support.history import HEADERS, History, HistoryServer, some_trades
from test_store import same

from voltrade.__main__ import main
from voltrade.data import commands
from voltrade.data.archive_files import ArchiveFile
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, day_of, start_of
from voltrade.data.sources import Http, RestHistory, WeightBudget
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.trade_recorder import Recorder
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Trades
from voltrade.simulated.symbols import shipped_instrument

BTCUSDT = shipped_instrument("BTCUSDT")
FIRST = date(2026, 1, 29)
DAYS = 4
"""29 to 31 January are over and in the archive; 1 February has come to half a minute past five."""
NOW = start_of(FIRST + timedelta(3)) + 5 * 3_600_000 + 30_000


def a_history() -> History:
    trades = some_trades("BTCUSDT", FIRST, days=DAYS, a_day=3_000)
    times = start_of(FIRST) + np.arange(0, DAYS * DAY_MS, 60_000)
    return History(trades, NOW, marks=times, funding=times[::480])


@pytest.fixture
def server() -> Iterator[HistoryServer]:
    server = HistoryServer(a_history())
    server.put_days(TRADES, "BTCUSDT", FIRST, FIRST + timedelta(2))
    server.put_days(MARKS, "BTCUSDT", FIRST, FIRST + timedelta(2))
    with server.running():
        yield server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HistoryServer) -> Store:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(commands, "_now", lambda: server.history.now)
    return Store()


def data(server: HistoryServer, command: str, *given: str) -> int:
    addresses = {"fetch": ("--archive", server.address, "--rest", server.address), "fill": ("--rest", server.address)}
    return commands.main([command, *given, *addresses.get(command, ())])


def fetch(server: HistoryServer, *given: str) -> int:
    return data(server, "fetch", "BTCUSDT", *(given or ("--days", "3")))


def what_there_is(server: HistoryServer) -> Trades:
    trades = server.history.trades
    return trades[: int(np.searchsorted(trades.time, server.history.now, side="right"))]


def stored(store: Store) -> Trades:
    days = store.days(TRADES, "BTCUSDT")
    return store.trades(BTCUSDT, days[0].day, days[-1].day)


# --- from the archive to now ------------------------------------------------------------------------------------------


def test_a_fetch_reaches_from_the_archive_to_now(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server) == 0
    assert same(stored(store), what_there_is(server))
    days = store.days(TRADES, "BTCUSDT")
    assert [day.complete for day in days] == [True, True, True, False], "today goes on"
    assert [list(day.metadata.sources) for day in days] == [
        *([f"BTCUSDT-aggTrades-2026-01-{number}.zip"] for number in (29, 30, 31)),
        ["REST"],
    ]
    marks = store.marks("BTCUSDT", FIRST, FIRST + timedelta(3))
    assert marks is not None
    assert marks.time.tolist() == list(range(start_of(FIRST), NOW - 60_000, 60_000)), "minutes that are over"
    assert marks.price_e8[5] == 6_000_000_000_000 + 100 * (int(marks.time[5]) // 60_000 % 1_000_000)
    funding = store.funding("BTCUSDT", FIRST, FIRST + timedelta(3))
    assert funding is not None
    assert funding.time.tolist() == list(range(start_of(FIRST), NOW, 8 * 3_600_000))
    assert set(funding.rate_e8.tolist()) == {10_000}
    assert "BTCUSDT trades: 4 days" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again(server: HistoryServer, store: Store) -> None:
    assert fetch(server) == 0
    server.requests.clear()
    server.history.now += 3_600_000
    assert fetch(server) == 0
    assert server.count("/data/futures/um/daily") == 0, "finished days are not asked for"
    trades = [wanted for endpoint, wanted in server.requests if endpoint == "aggTrades"]
    assert all("fromId" in wanted for wanted in trades), "today goes on by id"
    assert int(trades[0]["fromId"]) == 1_000 + int(np.count_nonzero(server.history.trades.time <= NOW))
    assert same(stored(store), what_there_is(server))


def test_days_that_rest_began_are_ended_by_it(server: HistoryServer, store: Store) -> None:
    """The archive lags by a day: yesterday comes over REST, and is known to be whole once a later trade was seen."""
    assert fetch(server) == 0
    server.history.now = start_of(FIRST + timedelta(4)) - 3_600_000
    assert fetch(server) == 0
    server.history = replace(server.history, now=start_of(FIRST + timedelta(4)) + 120_000)
    assert fetch(server, "--from", "2026-02-01", "--to", "2026-02-01") == 0
    assert store.days(TRADES, "BTCUSDT")[-1].complete
    assert same(stored(store), server.history.trades)
    server.requests.clear()
    assert fetch(server, "--from", "2026-02-01", "--to", "2026-02-01", "--kinds", "trades") == 0
    assert server.requests == []


def test_whole_months_come_as_one_file(server: HistoryServer, store: Store) -> None:
    month = date(2025, 12, 1)
    trades = some_trades("BTCUSDT", month, days=33, a_day=60)
    server.history = History(trades, start_of(date(2026, 1, 3)))
    server.put(ArchiveFile.of_month(TRADES, "BTCUSDT", month))
    server.put_days(TRADES, "BTCUSDT", date(2026, 1, 1), date(2026, 1, 2))
    assert fetch(server, "--from", "2025-12-01", "--to", "2026-01-02", "--kinds", "trades") == 0
    assert same(stored(store), trades)
    assert server.count("/monthly/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-12.zip") == 2  # with its CHECKSUM
    assert server.count("/daily/aggTrades") == 4
    assert all(day.complete for day in store.days(TRADES, "BTCUSDT"))


def test_a_month_that_the_archive_lacks_comes_by_days(server: HistoryServer, store: Store) -> None:
    month = date(2025, 12, 1)
    trades = some_trades("BTCUSDT", month, days=31, a_day=20)
    server.history = History(trades, start_of(date(2026, 1, 3)))
    server.put_days(TRADES, "BTCUSDT", month, date(2025, 12, 31))
    assert fetch(server, "--from", "2025-12-01", "--to", "2025-12-31", "--kinds", "trades") == 0
    assert same(stored(store), trades)


def test_a_month_that_is_refused_comes_by_days(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    month = date(2025, 12, 1)
    trades = some_trades("BTCUSDT", month, days=31, a_day=20)
    server.history = History(trades, start_of(date(2026, 1, 3)))
    server.put(ArchiveFile.of_month(TRADES, "BTCUSDT", month), stated=b"other bytes")
    server.put_days(TRADES, "BTCUSDT", month, date(2025, 12, 30))
    assert fetch(server, "--from", "2025-12-01", "--to", "2025-12-31", "--kinds", "trades") == 1
    assert "BTCUSDT-aggTrades-2025-12.zip: 620 rows: refused" in capsys.readouterr().out
    assert same(stored(store), trades), "the last day over REST"


def test_funding_of_past_months_comes_from_the_archive(server: HistoryServer, store: Store) -> None:
    server.history.now = start_of(date(2026, 2, 2))
    server.put(ArchiveFile.of_month(FUNDING, "BTCUSDT", FIRST))
    for _ in range(2):
        assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-31", "--kinds", "funding") == 0
        assert server.count("fundingRate") == 4, "file and CHECKSUM; and REST once, whose special rates no file has"
    assert len(store.days(FUNDING, "BTCUSDT")) == 3


def test_a_symbol_that_is_not_shipped_is_looked_up(server: HistoryServer, store: Store) -> None:
    server.history.trades = replace(server.history.trades, symbol="NEWUSDT")
    assert data(server, "fetch", "NEWUSDT", "--from", "2026-02-01", "--kinds", "trades") == 0
    assert server.count("exchangeInfo") == 1
    since = int(np.searchsorted(server.history.trades.time, start_of(date(2026, 2, 1))))
    assert store.days(TRADES, "NEWUSDT")[0].rows == len(what_there_is(server)) - since


def test_live_recording_and_fetch_make_one_day(server: HistoryServer, store: Store) -> None:
    """A session recorded from noon; the archive's file of the day then brings the rest, and nothing twice."""
    trades = server.history.trades
    recorder = Recorder(store, BTCUSDT)
    recorder.record(trades[1_500:2_500])
    recorder.close()
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades") == 0
    (day,) = store.days(TRADES, "BTCUSDT")
    assert (day.complete, list(day.metadata.sources)) == (True, ["live", "BTCUSDT-aggTrades-2026-01-29.zip"])
    assert same(stored(store), trades[: day.rows])


FIRST_DAY = ("--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades")


def a_day_with_a_hole(server: HistoryServer, store: Store, until_hour: int) -> None:
    """Fetch up to five in the morning of the first day, and record from ten on."""
    server.history.now = start_of(FIRST) + 5 * 3_600_000
    assert fetch(server, *FIRST_DAY) == 0
    trades = server.history.trades
    hours = start_of(FIRST) + np.array([10, until_hour]) * 3_600_000
    recorder = Recorder(store, BTCUSDT, after=store.day(TRADES, "BTCUSDT", FIRST))
    recorder.record(trades[slice(*np.searchsorted(trades.time, hours))])
    recorder.close()
    server.requests.clear()


@pytest.mark.parametrize("is_in_the_archive", [True, False])
@pytest.mark.parametrize("until_hour", [11, 26])
def test_a_hole_in_a_day_is_closed(
    server: HistoryServer, store: Store, is_in_the_archive: bool, until_hour: int
) -> None:
    """A session that recorded over midnight knows begin and end of the day; that says nothing of its middle."""
    a_day_with_a_hole(server, store, until_hour)
    server.history.now = start_of(FIRST + timedelta(1)) + 2 * 3_600_000
    if not is_in_the_archive:
        server.files.clear()
    assert fetch(server, *FIRST_DAY) == 0
    assert store.days(TRADES, "BTCUSDT")[0].complete
    first_day = server.history.trades[: store.days(TRADES, "BTCUSDT")[0].rows]
    assert same(store.trades(BTCUSDT, FIRST, FIRST), first_day)
    assert day_of(int(server.history.trades.time[len(first_day)])) > FIRST, "all of the day"
    pages = [int(wanted["fromId"]) for endpoint, wanted in server.requests if endpoint == "aggTrades"]
    if is_in_the_archive:
        assert pages == [1_000 + len(first_day)][: until_hour == 11], "whether the file ends with the day"
    else:
        begin_of_hole = int(np.searchsorted(server.history.trades.time, start_of(FIRST) + 5 * 3_600_000, side="right"))
        assert pages[0] == 1_000 + begin_of_hole, "what is there is not asked for"
    server.requests.clear()
    assert fetch(server, *FIRST_DAY) == 0
    assert server.requests == []


def test_a_hole_of_today_is_closed_too(server: HistoryServer, store: Store) -> None:
    a_day_with_a_hole(server, store, 11)
    server.history.now = start_of(FIRST) + 12 * 3_600_000
    assert fetch(server, *FIRST_DAY) == 0
    assert same(stored(store), what_there_is(server))


def test_what_neither_archive_nor_rest_has_is_told_and_asked_for_by_itself(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = server.history.trades
    server.history.trades = trades[(trades.id < 2_000) | (trades.id >= 2_050)]
    server.files.clear()
    assert fetch(server, *FIRST_DAY) == 1
    assert "trades: not all of 2026-01-29" in capsys.readouterr().out
    server.requests.clear()
    assert fetch(server, *FIRST_DAY) == 1
    pages = [wanted["fromId"] for endpoint, wanted in server.requests if endpoint == "aggTrades"]
    assert pages == ["2000"], "the day is not paged through again"
    server.put_days(TRADES, "BTCUSDT", FIRST, FIRST)
    assert fetch(server, *FIRST_DAY) == 1, "the archive has no more either"
    assert "50 ids were missing, 0 came over REST, 50 are still missing" in capsys.readouterr().out
    assert store.days(TRADES, "BTCUSDT")[0].missing == 50


def test_missing_minutes_of_marks_are_asked_for(server: HistoryServer, store: Store) -> None:
    day = ("--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "marks")
    marks = server.history.marks
    server.files.clear()
    server.history.marks = np.delete(marks, [700, 701])
    assert fetch(server, *day) == 1
    server.history.marks = marks
    assert fetch(server, *day) == 0
    (stored_day,) = store.days(MARKS, "BTCUSDT")
    assert (stored_day.rows, stored_day.complete) == (1_440, True)


@pytest.mark.parametrize("there", [slice(720, None), slice(0, 720), slice(300, 900)])
def test_a_file_of_marks_that_begins_late_or_ends_early_is_completed(
    server: HistoryServer, store: Store, there: slice
) -> None:
    file = ArchiveFile(MARKS, "BTCUSDT", FIRST, FIRST)
    server.put(file, "\n".join([HEADERS[MARKS], *server.history.lines(MARKS, FIRST, FIRST)[there]]) + "\n")
    assert fetch(server, "--from", str(FIRST), "--to", str(FIRST), "--kinds", "marks") == 0
    (stored_day,) = store.days(MARKS, "BTCUSDT")
    assert (stored_day.rows, stored_day.first) == (1_440, start_of(FIRST))


def test_mark_prices_of_rest_are_compared_with_the_trades_as_those_of_files_are(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trades at half the price; what is refused is not stored."""
    trades = server.history.trades
    server.history.trades = replace(trades, price=trades.price // 2)
    server.files.clear()
    day = ("--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades", "marks")
    assert fetch(server, *day) == 1
    said = "other_prices: mark prices must be near the last trades, in the median they are off on 2026-01-29"
    assert f"REST marks: 1,440 rows: refused\n    {said}" in capsys.readouterr().out
    assert store.days(MARKS, "BTCUSDT") == []
    assert fetch(server, *day, "--policy", "other_prices=flag") == 0
    assert store.days(MARKS, "BTCUSDT")[0].complete


@pytest.mark.parametrize("downloads", [1, 3])
def test_files_are_fetched_side_by_side(server: HistoryServer, store: Store, downloads: int) -> None:
    assert fetch(server, "--to", "2026-01-31", "--days", "2", "--kinds", "trades", "--downloads", str(downloads)) == 0
    assert server.most_at_once == downloads
    assert len(store.days(TRADES, "BTCUSDT")) == 3


# --- cut short, and broken --------------------------------------------------------------------------------------------


def test_a_download_that_was_cut_goes_on_where_it_stopped(
    server: HistoryServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(seconds: float) -> None:
        pass

    with_sleep = partialmethod(Http.__init__, sleep=at_once)
    monkeypatch.setattr(Http, "__init__", with_sleep)
    name = "BTCUSDT-aggTrades-2026-01-30.zip"
    server.cut[name] = 20_000
    assert fetch(server, "--from", "2026-01-30", "--to", "2026-01-30", "--kinds", "trades") == 0
    assert server.ranges == ["bytes=20000-"]
    assert store.days(TRADES, "BTCUSDT")[0].complete


def test_a_download_that_another_process_began_goes_on(server: HistoryServer, store: Store) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST)
    content = server.files[f"/{file.path}"]
    assert store.folder is not None
    part = store.folder / ".downloads" / f"{file.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:1_000])
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades") == 0
    assert server.ranges == ["bytes=1000-"]
    part.write_bytes(b"x" * len(content))  # not the file's beginning at all: then all of it, anew
    store.folder.joinpath("trades", "BTCUSDT", "2026-01-29.parquet").unlink()
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades") == 0
    assert same(stored(store), server.history.trades[: store.days(TRADES, "BTCUSDT")[0].rows])
    assert [path for path in part.parent.iterdir() if path.suffix != ".lock"] == [], "nothing is left behind"


def test_two_fetches_at_a_time_do_not_disturb_each_other(server: HistoryServer, store: Store) -> None:
    wanted = ("--from", "2026-01-29", "--to", "2026-01-31", "--kinds", "trades", "marks")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: fetch(server, *wanted), range(2))) == [0, 0]
    assert same(stored(store), server.history.trades[: len(stored(store))])
    assert all(day.complete for kind in (TRADES, MARKS) for day in store.days(kind, "BTCUSDT"))


def test_a_fetch_that_is_killed_over_rest_goes_on(
    server: HistoryServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Yesterday isn't in the archive; REST breaks down in its middle, and comes back."""
    real = RestHistory.trades
    asked: list[int] = []

    async def breaking(self: RestHistory, symbol: str, from_id: int) -> list[dict[str, object]]:
        asked.append(from_id)
        if len(asked) == 3:
            raise DataError("the line is dead")
        return await real(self, symbol, from_id)

    server.files.clear()
    monkeypatch.setattr(RestHistory, "trades", breaking)
    assert fetch(server, "--from", "2026-01-31", "--kinds", "trades") == 2
    assert len(stored(store)) == 2_000
    assert fetch(server, "--from", "2026-01-31", "--kinds", "trades") == 0
    assert asked[3] == asked[0] + 2_000, "what came before is not asked for again"
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [True, False]
    from_31 = what_there_is(server)[int(np.searchsorted(server.history.trades.time, start_of(date(2026, 1, 31)))) :]
    assert same(stored(store), from_31)


def test_a_file_that_is_not_what_its_checksum_says_is_refused(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST), stated=b"other bytes")
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-30", "--kinds", "trades") == 1
    assert [day.day.day for day in store.days(TRADES, "BTCUSDT")] == [30]
    assert server.count("BTCUSDT-aggTrades-2026-01-29.zip") == 4, "tried twice, each time with the CHECKSUM"
    said = capsys.readouterr().out
    assert "BTCUSDT-aggTrades-2026-01-29.zip: 2,954 rows: refused" in said
    assert "checksum: SHA-256 must be" in said
    assert "trades: not all of 2026-01-29" in said


def test_a_refused_file_is_kept_to_be_looked_at(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST)
    server.put(file, server.history.csv(file).replace("60000.", "60000.0"))
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-30", "--kinds", "trades") == 1
    assert store.folder is not None
    assert data(server, "verify", str(store.folder / ".downloads" / file.name)) == 1
    assert "bad_value in " in capsys.readouterr().out


def test_a_refused_file_of_trades_keeps_no_marks_away(server: HistoryServer, store: Store) -> None:
    server.put(ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST), stated=b"other bytes")
    del server.files[f"/{ArchiveFile(MARKS, 'BTCUSDT', FIRST, FIRST).path}"]
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-29") == 1
    assert store.days(TRADES, "BTCUSDT") == []
    assert [day.complete for day in store.days(MARKS, "BTCUSDT")] == [True], "over REST"


def test_rest_that_gives_something_else_is_told(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    today = ("--from", "2026-02-01", "--kinds", "trades")
    with monkeypatch.context() as patch:
        patch.setattr(server, "_trades", lambda wanted: [{"a": 1_000, "p": "60000.0"}])
        assert fetch(server, *today) == 2
    assert "REST aggTrades from 1000: rows must have a, p, q, T, m, was {'a': 1000" in capsys.readouterr().err
    trades = server.history.trades
    server.history.trades = replace(trades, price=np.where(trades.time > NOW - 1_000_000, 0, trades.price))
    assert fetch(server, *today, "--policy", "not_positive=refuse") == 2
    assert "price and quantity must be positive" in capsys.readouterr().err
    assert store.days(TRADES, "BTCUSDT") == []


def worthless(server: HistoryServer, trade_id: int) -> None:
    """Let the exchange have traded nothing under an id."""
    trades = server.history.trades
    server.history.trades = replace(trades, quantity=np.where(trades.id == trade_id, 0, trades.quantity))


@pytest.mark.parametrize("row", [1, 90, 999, 1_000])
def test_rows_of_rest_are_treated_by_their_policy(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], row: int
) -> None:
    """Row 1,000 is the last of its page: the next page begins behind it all the same."""
    trades = what_there_is(server)
    first = int(np.searchsorted(trades.time, start_of(FIRST + timedelta(2))))
    worthless(server, int(trades.id[first + row - 1]))
    server.files.clear()
    two_days = ("--from", "2026-01-31", "--to", "2026-02-01")
    assert fetch(server, *two_days, "--policy", "not_positive=refuse") == 2
    is_lacking = row > 1  # of the first one of a day nobody knows that it is missing
    assert fetch(server, *two_days) == is_lacking
    said = capsys.readouterr().out
    assert ("trades: not all of 2026-01-31" in said) == is_lacking
    assert f"not_positive in 1 row ({row}): price and quantity must be positive [drop]" in said
    assert same(stored(store), trades[first:][np.arange(len(trades) - first) != row - 1])
    assert len(store.days(MARKS, "BTCUSDT")) == len(store.days(FUNDING, "BTCUSDT")) == 2
    assert fetch(server, *two_days) == is_lacking, "there is nothing new"


@pytest.mark.parametrize(
    "spoil", [lambda content: content[: len(content) // 2], lambda _: b""], ids=["halved", "empty"]
)
def test_a_stored_day_that_can_not_be_read_stops_no_other(
    server: HistoryServer,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[bytes], bytes],
) -> None:
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-30", "--kinds", "trades") == 0
    assert store.folder is not None
    path = store.folder / "trades" / "BTCUSDT" / "2026-01-30.parquet"
    path.write_bytes(spoil(path.read_bytes()))
    capsys.readouterr()
    assert fetch(server, "--from", "2026-01-29", "--kinds", "trades") == 1
    said = capsys.readouterr().out
    assert "trades/BTCUSDT/2026-01-30: 0 rows: refused\n    unreadable: trades/BTCUSDT/2026-01-30.parquet: " in said
    assert "trades: not all of 2026-01-30" in said
    path.unlink()
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [True, True, False]
    assert fetch(server, "--from", "2026-01-29", "--kinds", "trades") == 0
    assert same(stored(store), what_there_is(server))


def test_a_stored_day_of_altered_bytes_keeps_no_gap_open(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gaps(store, server)
    assert store.folder is not None
    path = store.folder / "trades" / "BTCUSDT" / "2026-01-30.parquet"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert data(server, "fill", "BTCUSDT") == 1
    assert "unreadable: trades/BTCUSDT/2026-01-30.parquet: can't be read" in capsys.readouterr().out
    assert store.days(TRADES, "BTCUSDT")[0].missing == 0


def test_what_was_found_is_told_although_the_fetch_fails(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST), stated=b"other bytes")
    server.answers["aggTrades"] = [403]
    assert fetch(server, "--from", "2026-01-29", "--kinds", "trades") == 2
    said = capsys.readouterr()
    assert "checksum: SHA-256 must be" in said.out
    assert "HTTP 403" in said.err


def test_an_archive_that_contradicts_the_store_is_told_and_the_rest_is_fetched(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = server.history.trades[:10]
    store.add_trades(replace(trades, price=trades.price + 1), Metadata.of(BTCUSDT, "live"))
    until = ("--from", "2026-01-29", "--to", "2026-01-31")
    assert fetch(server, *until) == 1
    said = capsys.readouterr().out
    (price, stored_price) = (f"{ticks / 10:.1f}" for ticks in (trades.price[0], trades.price[0] + 1))
    assert f"the price of 1000 must be {stored_price} as stored, was {price} from BTCUSDT-aggTrades-2026-01-29" in said
    assert said.count("delete trades/BTCUSDT/2026-01-29.* in the store and fetch it again") == 1
    assert "trades: not all of 2026-01-29\n" in said
    assert server.count("aggTrades/BTCUSDT") == 6
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [False, True, True]
    assert [len(store.days(kind, "BTCUSDT")) for kind in (MARKS, FUNDING)] == [3, 3]
    assert store.folder is not None
    store.folder.joinpath("trades", "BTCUSDT", "2026-01-29.parquet").unlink()
    assert fetch(server, *until) == 0


@pytest.mark.parametrize(("kind", "column"), [(MARKS, "close"), (FUNDING, "rate")])
def test_values_that_contradict_the_store_keep_no_other_day_away(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], kind: Kind, column: str
) -> None:
    times, other = start_of(FIRST) + np.array([0]), np.array([10**8])
    price = 6_000_000_000_000 + 100 * (times // 60_000 % 1_000_000)
    columns = (times, price, price, price, other) if kind is MARKS else (times, other)
    store.add(kind, "BTCUSDT", columns, times, Metadata.of_values({"live": {}}))
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-31", "--kinds", kind.name) == 1
    said = capsys.readouterr().out
    assert f"rows of one time must agree, the {column} of {times[0]} must be 1.00000000 as stored, was " in said
    assert [day.rows for day in store.days(kind, "BTCUSDT")][1:] == [1_440 if kind is MARKS else 3] * 2


def test_rest_that_contradicts_the_store_is_told_once(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = server.history.trades
    today = trades[int(np.searchsorted(trades.time, start_of(FIRST + timedelta(3)))) :][100:110]
    store.add_trades(replace(today, price=today.price + 1), Metadata.of(BTCUSDT, "live"))
    for _ in range(2):  # what REST brought stays beside it, and stops no later fetch
        assert fetch(server) == 1
        said = capsys.readouterr().out
        assert said.count(f"the price of {today.id[0]} must be ") == 1
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [True, True, True, False]
    assert len(store.days(MARKS, "BTCUSDT")) == 4


def test_an_archive_that_is_closed_is_told(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["BTCUSDT-aggTrades-2026-01-30.zip"] = [403]
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-31", "--kinds", "trades") == 2
    assert "BTCUSDT-aggTrades-2026-01-30.zip: HTTP 403" in capsys.readouterr().err
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-31", "--kinds", "trades") == 0


def test_faults_are_treated_by_their_policy(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST)
    lines = server.history.csv(file).splitlines()
    lines[10], lines[11] = lines[11], lines[10]  # row 12 goes back
    lines.insert(20, lines[19])  # row 21 repeats row 20
    server.put(file, "\n".join(lines) + "\n")
    one_day = ("--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades")
    assert fetch(server, *one_day, "--policy", "unsorted=refuse") == 1
    assert store.days(TRADES, "BTCUSDT") == []
    assert fetch(server, *one_day) == 0
    said = capsys.readouterr().out
    assert "unsorted in 1 row (12): id must ascend from row to row, was 1009 [flag]" in said
    assert "duplicate_id in 1 row (21): id must not be there twice, was 1018 [drop]" in said
    (day,) = store.days(TRADES, "BTCUSDT")
    assert day.metadata.sources[file.name] == {"duplicate_id": 1, "unsorted": 1}
    assert same(stored(store), server.history.trades[: day.rows])


def test_rows_that_are_dropped_come_over_rest_at_once(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST)
    lines = server.history.csv(file).splitlines()
    for row in (1, 2, 3, -1, -2):
        lines[row] = lines[row].rpartition(",")[0] + ","
    server.put(file, "\n".join(lines) + "\n")
    assert fetch(server, *FIRST_DAY, "--policy", "missing_side=drop") == 0
    assert "missing_side in 5 rows" in capsys.readouterr().out
    assert same(stored(store), server.history.trades[: len(lines) - 1]), "REST has them"
    assert data(server, "verify") == 0
    server.requests.clear()
    assert fetch(server, *FIRST_DAY) == 0
    assert server.requests == []


def test_rows_of_another_day_are_not_missing_where_they_are_dropped(server: HistoryServer, store: Store) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST + timedelta(1), FIRST + timedelta(1))
    of_the_day_before = server.history.lines(TRADES, FIRST, FIRST)[-2:]
    header, *lines = server.history.csv(file).splitlines()
    server.put(file, "\n".join([header, *of_the_day_before, *lines]) + "\n")
    day = ("--from", "2026-01-30", "--to", "2026-01-30", "--kinds", "trades")
    assert fetch(server, *day, "--policy", "wrong_day=drop") == 0
    (stored_day,) = store.days(TRADES, "BTCUSDT")
    assert (stored_day.rows, stored_day.missing) == (len(lines), 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--policy", "unsorted=ignore"), "policy: unsorted must be one of refuse, drop, flag, was 'ignore'"),
        (("--policy", "odd=drop"), "policy: the fault must be one of checksum"),
        (("--from", "2026-01-30", "--to", "2026-01-29"), "from: must not be after 2026-01-29, was 2026-01-30"),
        (("--from", "2026-01-30", "--days", "3"), "days: must not be given with --from"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    assert fetch(server, *given) == 2
    assert message in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize("option", ["--archive", "--rest"])
def test_an_address_says_how_to_speak_to_it(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit):
        fetch(server, option, "127.0.0.1:9")
    assert f"argument {option}: must begin with http:// or https://, was '127.0.0.1:9'" in capsys.readouterr().err


def test_a_symbol_that_the_exchange_does_not_know_is_refused_in_its_words(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data(server, "fetch", "ETHUSDT", "--from", "2026-02-01", "--kinds", "trades") == 2
    assert "HTTP 400" in (said := capsys.readouterr().err)
    assert "Invalid symbol." in said


# --- gaps -------------------------------------------------------------------------------------------------------------


def with_gaps(store: Store, server: HistoryServer) -> Trades:
    """Store three days of trades without some: within a day, and on both sides of a midnight."""
    trades = server.history.trades
    midnight = int(np.searchsorted(trades.time, start_of(FIRST + timedelta(1))))
    for start, end in ((0, 100), (103, midnight - 2), (midnight + 4, 4_000), (5_500, 6_000)):
        store.add_trades(trades[start:end], Metadata.of(BTCUSDT, "live", begins=start == 0))
    return trades[:6_000]


def test_gaps_are_filled_by_id(server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    whole = with_gaps(store, server)
    assert data(server, "fill", "BTCUSDT") == 0
    assert capsys.readouterr().out == "1,509 ids were missing, 1,509 came over REST\n"
    assert same(stored(store), whole)
    assert [day.missing for day in store.days(TRADES, "BTCUSDT")] == [0, 0, 0]
    assert store.days(TRADES, "BTCUSDT")[0].complete
    server.requests.clear()
    assert data(server, "fill", "BTCUSDT") == 0
    assert server.requests == []


def test_what_rest_does_not_have_stays_missing(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gaps(store, server)
    trades = server.history.trades
    kept = (trades.id < 1_101) | (trades.id > 1_102)
    server.history.trades = trades[kept]
    assert data(server, "fill", "BTCUSDT", "--to", "2026-01-29") == 1
    assert capsys.readouterr().out == "3 ids were missing, 1 came over REST, 2 are still missing\n"
    assert store.days(TRADES, "BTCUSDT")[0].missing == 2
    server.files.clear()
    assert fetch(server, "--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "trades") == 1
    assert "6 ids were missing, 4 came over REST, 2 are still missing" in capsys.readouterr().out


def test_a_gap_that_rest_has_only_a_fault_for_keeps_no_other_open(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = with_gaps(store, server)
    worthless(server, 1_101)
    assert data(server, "fill", "BTCUSDT") == 1
    said = capsys.readouterr().out
    assert "REST aggTrades from 1100: 4 rows: with faults" in said
    assert "not_positive in 1 row (2): price and quantity must be positive [drop]" in said
    assert "1,509 ids were missing, 1,508 came over REST, 1 are still missing" in said
    assert same(stored(store), whole[whole.id != 1_101])
    assert data(server, "fill", "BTCUSDT", "--policy", "not_positive=refuse") == 2
    assert "REST aggTrades from 1101: not_positive in 1 row (1)" in capsys.readouterr().err


def test_a_gap_over_a_midnight_leaves_both_days_whole(server: HistoryServer, store: Store) -> None:
    trades = server.history.trades
    first, second = (int(np.searchsorted(trades.time, start_of(FIRST + timedelta(days)))) for days in (1, 2))
    store.add_trades(trades[: first - 2], Metadata.of(BTCUSDT, "live", begins=True))
    store.add_trades(trades[first : second - 1], Metadata.of(BTCUSDT, "live"))
    store.add_trades(trades[second:], Metadata.of(BTCUSDT, "live"))
    assert data(server, "fill", "BTCUSDT") == 0
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [True, True, True, False]


def test_ids_that_go_back_from_day_to_day_are_no_gap(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = server.history.trades
    midnight = int(np.searchsorted(trades.time, start_of(FIRST + timedelta(1))))
    store.add_trades(trades[:midnight], Metadata.of(BTCUSDT, "live"))
    renumbered = trades[midnight:4_000]
    store.add_trades(replace(renumbered, id=renumbered.id - 1_500), Metadata.of(BTCUSDT, "live"))
    assert data(server, "fill", "BTCUSDT") == 0
    assert capsys.readouterr().out == "0 ids were missing, 0 came over REST\n"
    assert data(server, "verify") == 1
    said = capsys.readouterr().out
    last = trades.id[midnight - 1]
    assert f"unsorted: ids must be above {last}, the last of the day before, was {last - 1_499}" in said


# --- a file that isn't whole ------------------------------------------------------------------------------------------

THREE_DAYS = ("--from", "2026-01-29", "--to", "2026-01-31", "--kinds", "trades")
SECOND = FIRST + timedelta(1)


def cut(server: HistoryServer, day: date, first: int = 0, last: int | None = None) -> None:
    """Have a day's file with some of its rows only, and a right CHECKSUM."""
    file = ArchiveFile(TRADES, "BTCUSDT", day, day)
    header, *rows = server.history.csv(file).splitlines()
    server.put(file, "\n".join([header, *rows[first:last]]) + "\n")


@pytest.mark.parametrize("day", [FIRST, SECOND, FIRST + timedelta(2)])
@pytest.mark.parametrize("rows", [(0, 2_000), (700, None)], ids=["ends early", "begins late"])
def test_h3_a_file_that_is_not_the_whole_day_is_completed(
    server: HistoryServer, store: Store, day: date, rows: tuple[int, int | None]
) -> None:
    """Between two other days, and at the edge of the range, where no other day proves anything."""
    cut(server, day, *rows)
    assert fetch(server, *THREE_DAYS) == 0
    whole = server.history.trades
    assert same(stored(store), whole[: int(np.searchsorted(whole.time, start_of(FIRST + timedelta(3))))])
    assert all(each.complete for each in store.days(TRADES, "BTCUSDT"))
    server.requests.clear()
    assert fetch(server, *THREE_DAYS) == 0
    assert server.requests == [], "and it is known"


def test_what_is_missing_between_two_days_is_told_where_rest_lacks_it_too(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(server, SECOND, 0, 2_000)
    trades = server.history.trades
    last = int(np.searchsorted(trades.time, start_of(SECOND))) + 2_000
    end = int(np.searchsorted(trades.time, start_of(FIRST + timedelta(2))))
    server.history.trades = trades[np.r_[:last, end : len(trades)]]
    assert fetch(server, *THREE_DAYS) == 1
    said = capsys.readouterr().out
    assert f"{end - last:,} ids were missing, 0 came over REST, {end - last:,} are still missing" in said
    assert data(server, "verify") == 1
    assert f"id_gap: {end - last} rows are missing after the day before" in capsys.readouterr().out


def test_days_of_files_are_stored_and_told_unproven_where_rest_refuses(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["aggTrades"] = [451]
    assert fetch(server, *THREE_DAYS) == 1
    said = capsys.readouterr().out
    assert "trades: nothing says that the archive's days are whole, since REST can't be asked: " in said
    assert "HTTP 451" in said
    assert [day.complete for day in store.days(TRADES, "BTCUSDT")] == [True] * 3


def test_h10_a_file_with_a_third_of_its_quantities_zero_is_not_complete(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a month; REST has the rows, or has the fault too."""
    month = date(2025, 12, 1)
    trades = some_trades("BTCUSDT", month, days=31, a_day=60)
    server.history = History(trades, start_of(date(2026, 1, 3)))
    file = ArchiveFile.of_month(TRADES, "BTCUSDT", month)
    header, *rows = server.history.csv(file).splitlines()
    zero = [row if number % 3 else row.replace(row.split(",")[2], "0.000", 1) for number, row in enumerate(rows)]
    server.put(file, "\n".join([header, *zero]) + "\n")
    given = ("--from", "2025-12-01", "--to", "2025-12-31", "--kinds", "trades")
    assert fetch(server, *given) == 0
    assert "not_positive in 620 rows" in capsys.readouterr().out
    assert same(stored(store), trades)
    assert server.count("aggTrades") < 50, "a request fills many gaps"
    server.history.trades = replace(trades, quantity=np.where(np.arange(len(trades)) % 3 == 0, 0, trades.quantity))
    assert commands.main(["fetch", "BTCUSDT", *given, "--archive", server.address, "--rest", server.address,
                          "--store", str(store.root) + "2"]) == 1  # fmt: skip
    said = capsys.readouterr().out
    assert "620 are still missing" in said
    assert "trades: not all of 2025-12-01" in said


def renumbered_second_day(server: HistoryServer) -> int:
    """Give the second day's first trade the id of the first day's last; return that id."""
    file = ArchiveFile(TRADES, "BTCUSDT", SECOND, SECOND)
    header, first, *rows = server.history.csv(file).splitlines()
    last = int(first.split(",")[0]) - 1
    server.put(file, "\n".join([header, first.replace(str(last + 1), str(last), 1), *rows]) + "\n")
    return last


def test_h8_an_id_in_two_days_is_asked_of_rest(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    last = renumbered_second_day(server)
    assert fetch(server, *THREE_DAYS) == 0
    said = capsys.readouterr().out
    assert f"an id must be in one day only, {last} to {last} are in 2026-01-29 too [drop]" in said
    whole = server.history.trades
    assert same(stored(store), whole[: int(np.searchsorted(whole.time, start_of(FIRST + timedelta(3))))])


def test_an_id_in_two_days_is_missing_where_rest_lacks_it(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    last = renumbered_second_day(server)
    whole = server.history.trades
    server.history.trades = whole[(whole.id < last) | (whole.id > last + 1)]
    assert fetch(server, *THREE_DAYS) == 1
    ids = stored(store).id
    at = int(np.searchsorted(ids, last))
    assert ids[at - 1 : at + 1].tolist() == [last - 1, last + 2], "a gap, which taints its bar"


def test_an_id_in_two_days_can_be_refused(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    last = renumbered_second_day(server)
    assert fetch(server, *THREE_DAYS, "--policy", "repeated_at_midnight=refuse") == 1
    assert f"{last} to {last} are in 2026-01-29 too [refuse]" in capsys.readouterr().out
    assert data(server, "verify") == 1
    assert f"1 ids are in 2026-01-29 too, the first is {last}" in capsys.readouterr().out


def test_marks_and_funding_that_a_file_lacks_come_over_rest(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ArchiveFile(MARKS, "BTCUSDT", FIRST, FIRST)
    lines = server.history.csv(file).splitlines()
    server.put(file, "\n".join(lines[:900]) + "\n")
    given = ("--from", "2026-01-29", "--to", "2026-01-29", "--kinds", "marks", "funding")
    assert fetch(server, *given) == 0
    assert store.days(MARKS, "BTCUSDT")[0].rows == 1_440
    server.history.marks = np.delete(server.history.marks, np.arange(1_440 + 600, 1_440 + 624))
    server.history.funding = np.delete(server.history.funding, 4)
    server.put_days(MARKS, "BTCUSDT", SECOND, SECOND)
    capsys.readouterr()
    assert fetch(server, "--from", "2026-01-30", "--to", "2026-01-30", "--kinds", "marks", "funding") == 1
    said = capsys.readouterr().out
    assert "marks: 24 rows are missing on 2026-01-30, at REST too" in said
    assert "funding: 1 rows are missing on 2026-01-30, at REST too" in said


def test_h7_verify_names_the_days_that_lack(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server, *THREE_DAYS) == 0
    assert store.folder is not None
    (store.folder / "trades" / "BTCUSDT" / f"{SECOND}.parquet").unlink()
    count = len(server.history.lines(TRADES, SECOND, SECOND))
    capsys.readouterr()
    assert data(server, "verify") == 1
    said = capsys.readouterr().out
    assert f"missing_day: 2026-01-30: nothing is stored, and {count:,} ids are missing" in said


# --- politeness -------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_no_minute_sees_more_than_half_of_the_weight() -> None:
    clock = Clock()
    budget = WeightBudget(1_200, clock, clock.sleep)
    spent: list[tuple[float, int]] = []

    async def spend() -> None:
        for number in range(400):
            weight = 20 if number % 3 else 10
            await budget.spend(weight)
            spent.append((clock.now, weight))
            clock.now += 0.05  # the request takes its time

    asyncio.run(spend())
    for begin, _ in spent:
        assert sum(weight for at, weight in spent if begin <= at < begin + 60) <= 1_200
    total = sum(weight for _, weight in spent)
    assert spent[-1][0] - spent[0][0] <= 60 * (total / 1_200), "and no slower than that"


def test_a_server_that_says_slow_down_is_given_its_time(server: HistoryServer) -> None:
    clock = Clock()
    server.answers["aggTrades"] = [429, 418, 503]

    async def ask() -> list[dict[str, object]]:
        async with aiohttp.ClientSession() as session:
            rest = RestHistory(Http(session, clock.sleep), server.address, WeightBudget(1_200, clock, clock.sleep))
            return await rest.trades("BTCUSDT", 1_000)

    assert len(asyncio.run(ask())) == 1_000
    assert clock.slept == [7.0, 7.0, 4.0]


def test_a_server_that_is_gone_is_told(server: HistoryServer) -> None:
    clock = Clock()
    server.answers["aggTrades"] = [500] * 20

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await RestHistory(Http(session, clock.sleep), server.address).trades("BTCUSDT", 1_000)

    with pytest.raises(DataError, match="aggTrades: HTTP 500"):
        asyncio.run(ask())
    assert server.count("aggTrades") == 6


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("command", ["fetch", "fill"])
def test_h11_without_a_network_it_says_at_once_what_it_waits_for_and_soon_ends(
    store: Store, unreachable: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault case H11: a fetch was silent for 67 s, then ended with the name of a class."""
    given = {"fetch": ("BTCUSDT", "--days", "2", "--archive", unreachable), "fill": ("UNKNOWNUSDT",)}[command]
    assert main(["data", command, *given, "--rest", unreachable]) == 2
    first, *waits, last = capsys.readouterr().err.splitlines()
    assert unreachable in first
    assert len(waits) == 2
    for number, (seconds, said) in enumerate(zip((1, 2), waits, strict=True), start=2):
        assert said.startswith("127.0.0.1: can't be reached: "), said
        assert said.endswith(f"; trying again in {seconds} s, for try {number} of 3"), said
    assert last.startswith(f"data {command}: {unreachable}/")
    assert "can't be reached" in last


def test_a_line_that_breaks_later_is_given_more_time(server: HistoryServer, unreachable: str) -> None:
    clock, told = Clock(), list[str]()

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            http = Http(session, clock.sleep, told.append)
            await RestHistory(http, server.address).trades("BTCUSDT", 1_000)
            await RestHistory(http, unreachable).trades("BTCUSDT", 1_000)

    with pytest.raises(DataError, match="can't be reached"):
        asyncio.run(ask())
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert told[-1].endswith("trying again in 16 s, for try 6 of 6")


def test_several_that_wait_for_the_same_are_told_of_once(unreachable: str, tmp_path: Path) -> None:
    clock, told = Clock(), list[str]()

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            http = Http(session, clock.sleep, told.append)
            some = [http.download(f"{unreachable}/{name}", tmp_path / name) for name in "abcd"]
            assert all(isinstance(each, DataError) for each in await asyncio.gather(*some, return_exceptions=True))

    asyncio.run(ask())
    assert len(told) == 2
