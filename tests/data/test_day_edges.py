"""What proves that a stored day is whole is kept: REST is asked once, and later it is known without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.history import History, HistoryServer, some_trades

from voltrade.data import commands
from voltrade.data.archive_files import ArchiveFile
from voltrade.data.day_edges import open_days
from voltrade.data.kinds import TRADES, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import stored_trades
from voltrade.data.trade_recorder import Recorder
from voltrade.simulated.symbols import shipped_instrument

BTCUSDT = shipped_instrument("BTCUSDT")
FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(number) for number in range(4)]
ALL = some_trades("BTCUSDT", FIRST - timedelta(1), days=6, a_day=100)
"""The day before, four days, and the day after."""


@pytest.fixture
def server() -> Iterator[HistoryServer]:
    server = HistoryServer(History(ALL, start_of(FIRST + timedelta(9))))
    server.put_days(TRADES, "BTCUSDT", DAYS[0], DAYS[-1])
    with server.running():
        yield server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HistoryServer) -> Store:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(commands, "_now", lambda: server.history.now)
    return Store()


def fetch(server: HistoryServer, first: date = FIRST, last: date = DAYS[-1]) -> int:
    days = ("--from", str(first), "--to", str(last), "--kinds", "trades")
    return commands.main(["fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address])


def opened(store: Store, first: date = FIRST, last: date = DAYS[-1]) -> tuple[str, ...]:
    return open_days(store, "BTCUSDT", first, last)


def imported(tmp_path: Path, server: HistoryServer, *days: date) -> None:
    """Import files of the archive, which prove nothing by themselves."""
    for day in days:
        file = ArchiveFile(TRADES, "BTCUSDT", day, day)
        path = tmp_path / file.name
        path.write_bytes(server.files[f"/{file.path}"])
        assert commands.main(["import", "BTCUSDT", str(path)]) == 0


def test_what_rest_says_of_the_edges_of_a_range_is_kept(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(server) == 0
    assert server.count("aggTrades") > len(DAYS)
    assert opened(Store()) == (), "in another process too"
    server.requests.clear()
    assert commands.main(["verify"]) == 0, capsys.readouterr().out
    assert fetch(server) == 0
    assert server.requests == [], "nothing is asked again"
    assert stored_trades(f"store:BTCUSDT:{FIRST}", BTCUSDT, store).open_days == ()


def test_a_file_proves_nothing_until_rest_or_the_days_around_do(
    tmp_path: Path, server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, server, *DAYS[:3])
    assert opened(store) == (f"{DAYS[0]} (begin)", f"{DAYS[2]} (end)"), "ids join in between"
    assert opened(store, DAYS[1], DAYS[1]) == (), "the days around are not in the range, and prove it"
    assert commands.main(["verify"]) == 1
    said = capsys.readouterr().out
    assert said.count("open_day: nothing says that all of the day's begin is stored: REST was not asked [flag]") == 1
    assert said.count("open_day: nothing says that all of the day's end is stored: REST was not asked [flag]") == 1
    tape = stored_trades(f"store:BTCUSDT:{DAYS[0]}:{DAYS[2]}", BTCUSDT, store)
    assert tape.open_days == (f"{DAYS[0]} (begin)", f"{DAYS[2]} (end)")
    assert fetch(server, DAYS[0], DAYS[2]) == 0
    assert opened(store) == ()
    assert commands.main(["verify"]) == 0


def test_a_fetch_asks_rest_again_for_what_it_could_not_prove(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        server.answers["aggTrades"] = [451]
        assert fetch(server) == 1
        assert "nothing says that the archive's days are whole, since REST can't be asked: " in capsys.readouterr().out
        assert opened(store) == (f"{DAYS[0]} (begin)", f"{DAYS[-1]} (end)")
    assert fetch(server) == 0
    assert opened(store) == ()


@pytest.mark.parametrize("has", ["none", "later ones"])
def test_rest_that_knows_less_than_the_file_proves_nothing(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str], has: str
) -> None:
    after = start_of(FIRST + timedelta(1)) if has == "none" else start_of(FIRST) + 43_200_000
    server.history.trades = ALL[int(np.searchsorted(ALL.time, after)) :]
    server.put_days(TRADES, "BTCUSDT", DAYS[1], DAYS[-1])
    assert fetch(server) == 1
    first = int(ALL.id[np.searchsorted(ALL.time, start_of(FIRST))])
    named = "none" if has == "none" else f"{int(server.history.trades.id[0])} as the first"
    assert f"whole, since REST has {named} of {FIRST}, stored is {first}" in capsys.readouterr().out
    assert opened(store) == (f"{FIRST} (begin)",)


def test_a_day_of_rest_and_a_day_that_a_session_recorded_are_proven_by_what_brought_them(
    server: HistoryServer, store: Store
) -> None:
    server.files.clear()
    assert fetch(server, DAYS[1], DAYS[1]) == 0
    assert opened(store, DAYS[1], DAYS[1]) == ()
    midnight, end = (int(np.searchsorted(ALL.time, start_of(day))) for day in (DAYS[2], DAYS[3]))
    recorder = Recorder(store, BTCUSDT)
    recorder.record(ALL[midnight - 3 : end + 2])
    recorder.close()
    assert opened(store, DAYS[2], DAYS[2]) == (), "it recorded through both midnights"
    assert opened(store, DAYS[3], DAYS[3]) == (f"{DAYS[3]} (end)",)


def test_a_trade_before_the_first_or_after_the_last_takes_the_proof_away(store: Store) -> None:
    midnight, end = (int(np.searchsorted(ALL.time, start_of(day))) for day in DAYS[:2])
    day = ALL[midnight:end]
    store.add_trades(day[2:-2], Metadata.of(BTCUSDT, "REST", begins=True, ends=True))
    assert opened(store, FIRST, FIRST) == ()
    store.add_trades(day[:4], Metadata.of(BTCUSDT, "live"))
    assert opened(store, FIRST, FIRST) == (f"{FIRST} (begin)",)
    store.add_trades(day[-4:], Metadata.of(BTCUSDT, "live"))
    assert opened(store, FIRST, FIRST) == (f"{FIRST} (begin and end)",)


def test_days_that_count_ids_differently_prove_nothing_of_each_other(store: Store) -> None:
    midnight, end = (int(np.searchsorted(ALL.time, start_of(day))) for day in DAYS[:2])
    store.add_trades(ALL[midnight:end], Metadata.of(BTCUSDT, "file"), whole=(FIRST, FIRST))
    other = replace(Metadata.of(BTCUSDT, "file"), made_of="trades")
    store.add_trades(ALL[end : end + 50], other)
    assert opened(store, FIRST, FIRST) == (f"{FIRST} (begin and end)",)


def test_today_has_no_end_yet_and_verify_asks_for_none(
    server: HistoryServer, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    server.history.now = start_of(DAYS[-1]) + 50_000_000
    del server.files[f"/{ArchiveFile(TRADES, 'BTCUSDT', DAYS[-1], DAYS[-1]).path}"]
    assert fetch(server) == 0
    assert commands.main(["verify"]) == 0, capsys.readouterr().out
    assert opened(store) == (f"{DAYS[-1]} (end)",), "a result says so"


def test_rows_that_were_dropped_at_the_edges_of_a_tape_are_told(
    tmp_path: Path, server: HistoryServer, store: Store
) -> None:
    """They are in no gap between two trades."""
    file = ArchiveFile(TRADES, "BTCUSDT", FIRST, FIRST)
    lines = server.history.csv(file).splitlines()
    for row in (1, 2, -1):
        lines[row] = lines[row].replace(lines[row].split(",")[2], "0.000", 1)
    path = tmp_path / file.name
    path.write_text("\n".join(lines) + "\n")
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    tape = stored_trades(f"store:BTCUSDT:{FIRST}", BTCUSDT, store)
    assert tape.report.ids_missing == 0
    assert tape.open_days[1:] == (f"{FIRST} (2 ids lack at its begin)", f"{FIRST} (1 ids lack at its end)")
