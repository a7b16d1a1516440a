"""The store keeps every trade once, by day, whatever brings it and whenever it is killed."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.history import some_trades

from voltrade.config import SessionSettings
from voltrade.data.coverage import Coverage
from voltrade.data.kinds import FUNDING, MARKS, TRADES, start_of
from voltrade.data.store import Store
from voltrade.data.store_files import encode_rows
from voltrade.data.stored_day import Contradiction, Metadata, StoredDay
from voltrade.data.tape import load_tape, stored_trades
from voltrade.data.trade_recorder import Recorder
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Instrument, Trades

MONDAY = date(2026, 1, 5)
TUESDAY = MONDAY + timedelta(1)
WEDNESDAY = MONDAY + timedelta(2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def same(one: Trades, other: Trades) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("id", "price", "quantity", "time", "buyer_is_maker")
    )


def a_metadata(instrument: Instrument, source: str = "made", begins: bool = False, ends: bool = False) -> Metadata:
    return Metadata.of(instrument, source, begins=begins, ends=ends)


# --- days -------------------------------------------------------------------------------------------------------------


def test_trades_are_kept_by_day_and_come_back_as_they_were(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=3, a_day=500)
    days = store.add_trades(trades, a_metadata(btcusdt))
    assert [(day.day, day.rows) for day in days] == [
        (day, int(np.count_nonzero(trades.time // DAY_MS == start_of(day) // DAY_MS)))
        for day in (MONDAY, TUESDAY, WEDNESDAY)
    ]
    assert same(store.trades(btcusdt, MONDAY, WEDNESDAY), trades)
    # Of the days at the edges it isn't known whether they are whole; the one between is.
    assert [(day.metadata.begins, day.metadata.ends) for day in days] == [(False, True), (True, True), (True, False)]
    assert store.symbols() == ["BTCUSDT"]
    assert store.days(TRADES, "BTCUSDT") == days


def test_any_parquet_reader_reads_the_store(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=300)
    store.add_trades(trades, a_metadata(btcusdt))
    assert store.folder is not None
    table = pyarrow.dataset.dataset(store.folder / "trades" / "BTCUSDT", format="parquet").to_table()
    assert table["id"].to_pylist() == trades.id.tolist()
    metadata = pyarrow.parquet.read_schema(store.folder / "trades" / "BTCUSDT" / f"{MONDAY}.parquet").metadata
    assert b'"tick": "0.1"' in metadata[b"voltrade"]
    assert b'"step": "0.001"' in metadata[b"voltrade"]


def test_the_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "elsewhere"))
    assert Store().folder == tmp_path / "elsewhere"
    monkeypatch.delenv("VOLTRADE_STORE")
    monkeypatch.chdir(tmp_path)
    assert Store().folder == tmp_path / "data"
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_an_address_of_a_file_system_is_a_root_too(tmp_path: Path, btcusdt: Instrument) -> None:
    """`file://` stands for what an object store does: the same paths, no lock, no rename of ours."""
    (tmp_path / "bucket").mkdir()
    store = Store(f"file://{tmp_path}/bucket")
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=50)
    store.add_trades(trades[:60], a_metadata(btcusdt))
    store.add_part(trades[60:], a_metadata(btcusdt))
    assert same(store.trades(btcusdt, MONDAY, TUESDAY), trades)
    store.compact("BTCUSDT")
    assert same(Store(tmp_path / "bucket").trades(btcusdt, MONDAY, TUESDAY), trades)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 199), st.integers(1, 80)), min_size=1, max_size=8), st.booleans())
def test_pieces_in_any_order_and_overlap_give_every_trade_once(
    tmp_path_factory: pytest.TempPathFactory, btcusdt: Instrument, pieces: list[tuple[int, int]], as_parts: bool
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=200)
    there = np.zeros(200, np.bool_)
    for start, length in pieces:
        there[start : start + length] = True
        add = store.add_part if as_parts else store.add_trades
        add(trades[start : start + length], a_metadata(btcusdt))
    expected = trades[there]
    assert same(store.trades(btcusdt, MONDAY, MONDAY), expected)
    store.compact("BTCUSDT")
    assert same(store.trades(btcusdt, MONDAY, MONDAY), expected)
    (day,) = store.days(TRADES, "BTCUSDT")
    assert day.rows == there.sum()
    assert day.missing == int(expected.id[-1] - expected.id[0]) + 1 - day.rows


def test_a_trade_that_differs_from_the_stored_one_is_refused(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=10, first_id=100)
    store.add_trades(trades, a_metadata(btcusdt))
    changed = replace(trades, price=trades.price + (trades.id == 104))
    with pytest.raises(
        DataError,
        match=r"2026-01-05.parquet: rows of one id must agree, the price of 104 must be 60000.0 as stored, "
        r"was 60000.1 from other; .* delete trades/BTCUSDT/2026-01-05.\* in the store and fetch it again",
    ):
        store.add_trades(changed, a_metadata(btcusdt, "other"))
    assert same(store.trades(btcusdt, MONDAY, MONDAY), trades)


def test_a_day_that_contradicts_keeps_no_other_day_away(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=3, a_day=100)
    tuesday = trades.time // DAY_MS == start_of(TUESDAY) // DAY_MS
    stored = trades[tuesday]
    store.add_trades(replace(stored, quantity=stored.quantity + 1), a_metadata(btcusdt))
    with pytest.raises(Contradiction, match="the quantity of") as error:
        store.add_trades(trades, a_metadata(btcusdt, "other"))
    assert list(error.value.days) == [TUESDAY]
    for day in (MONDAY, WEDNESDAY):
        assert same(store.trades(btcusdt, day, day), trades[trades.time // DAY_MS == start_of(day) // DAY_MS])
    assert (store.trades(btcusdt, TUESDAY, TUESDAY).quantity == stored.quantity + 1).all()


def test_a_day_is_whole_once_its_begin_and_its_end_are_there(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=10)

    def state() -> tuple[bool, bool, bool]:
        (day,) = store.days(TRADES, "BTCUSDT")
        return day.metadata.begins, day.metadata.ends, day.complete

    store.add_trades(trades[3:6], a_metadata(btcusdt, begins=True))
    assert state() == (True, False, False)
    store.add_trades(trades[:3], a_metadata(btcusdt, "earlier"))  # then the first claim was wrong
    assert state() == (False, False, False)
    store.add_trades(trades[6:], a_metadata(btcusdt, ends=True))
    assert state() == (False, True, False)
    store.add_trades(trades, a_metadata(btcusdt, "archive"), whole=(MONDAY, MONDAY))
    assert state() == (True, True, True)
    (day,) = store.days(TRADES, "BTCUSDT")
    assert list(day.metadata.sources) == ["made", "earlier", "archive"]


def test_a_hole_at_midnight_leaves_both_days_open(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=200)
    midnight = int(np.searchsorted(trades.time, start_of(TUESDAY)))
    there = np.arange(400) != midnight
    days = store.add_trades(trades[there], a_metadata(btcusdt, begins=True, ends=True))
    assert [(day.metadata.begins, day.metadata.ends) for day in days] == [(True, False), (False, True)]


def test_a_day_with_a_hole_is_whole_only_where_a_source_has_no_more(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=200)
    there = np.abs(np.arange(200) - 100) > 10

    def state() -> tuple[bool, int]:
        (day,) = store.days(TRADES, "BTCUSDT")
        return day.complete, day.missing

    store.add_trades(trades[there], a_metadata(btcusdt, "live", begins=True, ends=True))
    assert state() == (False, 21)
    store.add_trades(trades[np.arange(200) != 100], a_metadata(btcusdt, "archive"), whole=(MONDAY, MONDAY))
    assert state() == (True, 1)


def test_rows_that_were_left_out_at_the_edges_are_missing(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=200, first_id=0)
    had = replace(a_metadata(btcusdt), first=0, last=399)
    store.add_trades(trades[3:398], had, whole=(MONDAY, TUESDAY))
    assert [day.missing for day in recorded(store)] == [3, 2]
    assert (recorded(store)[0].first, recorded(store)[1].last) == (0, 399)
    store.add_trades(trades[:3], a_metadata(btcusdt, "REST"))
    assert [(day.missing, day.complete) for day in recorded(store)] == [(0, True), (2, True)]


# --- what can't be trusted --------------------------------------------------------------------------------------------


def test_a_missing_day_is_named_with_what_brings_it(store: Store, btcusdt: Instrument) -> None:
    store.add_trades(some_trades("BTCUSDT", MONDAY, days=1, a_day=10), a_metadata(btcusdt))
    with pytest.raises(
        DataError, match=r"must hold trades of BTCUSDT on 2026-01-06.*data fetch BTCUSDT --from 2026-01-06"
    ):
        store.trades(btcusdt, MONDAY, TUESDAY)


def test_changed_bytes_are_noticed(store: Store, btcusdt: Instrument) -> None:
    store.add_trades(some_trades("BTCUSDT", MONDAY, days=1, a_day=2_000), a_metadata(btcusdt))
    assert store.folder is not None
    path = store.folder / "trades" / "BTCUSDT" / f"{MONDAY}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"2026-01-05.parquet: can't be read"):
        store.trades(btcusdt, MONDAY, MONDAY)


def test_a_file_of_others_is_refused(store: Store, btcusdt: Instrument) -> None:
    assert store.folder is not None
    folder = store.folder / "trades" / "BTCUSDT"
    folder.mkdir(parents=True)
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=10)
    pyarrow.parquet.write_table(pyarrow.table({"id": trades.id}), folder / f"{MONDAY}.parquet")
    with pytest.raises(DataError, match="must be written by voltrade, has no tick and step"):
        store.trades(btcusdt, MONDAY, MONDAY)
    (folder / f"{MONDAY}.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="can't be read"):
        store.days(TRADES, "BTCUSDT")


def test_days_whose_ids_go_back_are_no_tape(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=200, first_id=5_000)
    midnight = int(np.searchsorted(trades.time, start_of(TUESDAY)))
    store.add_trades(trades[:midnight], a_metadata(btcusdt))
    store.add_trades(replace(trades[midnight:], id=trades.id[midnight:] - 1_500), a_metadata(btcusdt))
    last, first = trades.id[midnight - 1], trades.id[midnight] - 1_500
    with pytest.raises(DataError, match=rf"2026-01-06.parquet: ids must be above .* whose last is {last}, was {first}"):
        stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", btcusdt, store)
    assert len(stored_trades("store:BTCUSDT:2026-01-06", btcusdt, store).trades) == 400 - midnight


@pytest.mark.parametrize("symbol", ["../BTC", "btcusdt", "", "A/B"])
def test_a_symbol_that_is_a_path_is_refused(store: Store, symbol: str) -> None:
    with pytest.raises(DataError, match="symbol: must be capital letters and digits"):
        store.day(TRADES, symbol, MONDAY)


def test_units_are_converted_where_that_is_exact(store: Store) -> None:
    """Binance changed BTCUSDT's tick from 0.01 to 0.10: a coarse day can be read in fine ticks, not the reverse."""
    coarse, fine = an_instrument(tick="0.10", step="0.01"), an_instrument(tick="0.01", step="0.001")
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=10)
    store.add_trades(trades, a_metadata(coarse))
    read = store.trades(fine, MONDAY, MONDAY)
    assert (read.price == 10 * trades.price).all()
    assert (read.quantity == 10 * trades.quantity).all()
    with pytest.raises(DataError, match=r"tick must be a multiple of the instrument's 0.5, was stored as 0.1"):
        store.trades(an_instrument(tick="0.5"), MONDAY, MONDAY)
    with pytest.raises(DataError, match=r"tick must be 0.1 as stored, was 0.01"):
        store.add_trades(trades, a_metadata(fine))


# --- recording --------------------------------------------------------------------------------------------------------


def recorded(store: Store) -> list[StoredDay]:
    return store.days(TRADES, "BTCUSDT")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 600), max_size=12), overlap=st.integers(0, 5))
def test_a_session_records_what_it_is_given_however_it_comes(
    tmp_path_factory: pytest.TempPathFactory, btcusdt: Instrument, cuts: list[int], overlap: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    trades = some_trades("BTCUSDT", MONDAY, days=3, a_day=200)
    recorder = Recorder(store, btcusdt, flush_ms=3_600_000)
    edges = sorted({0, *cuts, 600})
    for start, end in pairwise(edges):
        recorder.record(trades[max(0, start - overlap) : end])
    recorder.close()
    assert same(store.trades(btcusdt, MONDAY, WEDNESDAY), trades)
    assert [(day.metadata.begins, day.metadata.ends) for day in recorded(store)] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert store.folder is not None
    assert not list(store.folder.rglob("*.parts")), "parts are merged at the end"


def test_what_was_flushed_outlives_a_kill(store: Store, btcusdt: Instrument) -> None:
    """A killed recorder is one that is never closed: what it wrote is read at once, and merged by the next one."""
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=200)
    killed = Recorder(store, btcusdt, begins=True)
    killed.record(trades[:90])
    killed.flush()
    killed._writer.shutdown(wait=True)
    assert same(store.trades(btcusdt, MONDAY, MONDAY), trades[:90])
    next_one = Recorder(store, btcusdt)
    next_one.record(trades[80:])
    next_one.close()
    assert same(store.trades(btcusdt, MONDAY, TUESDAY), trades)
    assert [day.complete for day in recorded(store)] == [True, False]


def test_a_part_is_written_once_a_minute_is_held(store: Store, btcusdt: Instrument) -> None:
    recorder = Recorder(store, btcusdt, flush_ms=60_000)
    start = start_of(MONDAY)
    for number, second in enumerate((0, 30, 59)):
        recorder.record(Trades.from_rows("BTCUSDT", [(number, 600_000, 1, start + 1_000 * second, True)]))
    recorder._writer.submit(lambda: None).result()
    assert recorded(store) == []
    recorder.record(Trades.from_rows("BTCUSDT", [(3, 600_000, 1, start + 60_000, True)]))
    recorder._writer.submit(lambda: None).result()
    assert [day.rows for day in recorded(store)] == [4]
    recorder.close()


def test_a_day_with_a_hole_at_midnight_is_not_whole(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=2, a_day=200)
    midnight = int(np.searchsorted(trades.time, start_of(TUESDAY)))
    recorder = Recorder(store, btcusdt, begins=True)
    recorder.record(trades[: midnight - 2])
    recorder.record(trades[midnight:])
    recorder.close()
    assert [(day.metadata.begins, day.metadata.ends) for day in recorded(store)] == [(True, False), (False, False)]


def test_parts_that_contradict_keep_nothing_from_being_recorded(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=3, a_day=100)
    monday = trades[:20]
    store.add_part(monday, a_metadata(btcusdt))
    store.add_part(replace(monday, price=monday.price + 1), a_metadata(btcusdt, "other"))
    assert recorded(store)[0].rows == 20
    recorder = Recorder(store, btcusdt, flush_ms=0)
    for start in range(120, 300, 20):
        recorder.record(trades[start : start + 20])
    with pytest.raises(Contradiction, match=r"2026-01-05.parquet: rows of one id must agree"):
        recorder.close()
    assert same(store.trades(btcusdt, TUESDAY, WEDNESDAY), trades[120:])


def test_a_disk_that_refuses_is_told(store: Store, btcusdt: Instrument) -> None:
    assert store.folder is not None
    store.folder.write_text("a file where the folder should be")
    recorder = Recorder(store, btcusdt)
    recorder.record(some_trades("BTCUSDT", MONDAY, days=1, a_day=10))
    with pytest.raises(DataError, match="trades can't be recorded"):
        recorder.close()


def test_writers_of_one_symbol_wait_for_each_other(tmp_path: Path, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=400)

    def write(number: int) -> None:
        store = Store(tmp_path)
        for start in range(number * 10, 400, 40):
            store.add_part(trades[start : start + 10], a_metadata(btcusdt))
            store.compact("BTCUSDT")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(Store(tmp_path).trades(btcusdt, MONDAY, MONDAY), trades)


def test_a_kill_before_the_first_part_is_there_blocks_nothing(store: Store, btcusdt: Instrument) -> None:
    """What such a kill leaves: a folder for parts of a day that nothing is stored of, with half a file."""
    assert store.folder is not None
    parts = store.folder / "trades" / "BTCUSDT" / f"{MONDAY}.parts"
    parts.mkdir(parents=True)
    (parts / ".0-9.parquet.123.tmp").write_bytes(b"half")
    assert store.days(TRADES, "BTCUSDT") == []
    recorder = Recorder(store, btcusdt)
    recorder.record(some_trades("BTCUSDT", TUESDAY, days=1, a_day=10))
    recorder.close()
    assert [day.day for day in recorded(store)] == [TUESDAY]
    assert not list(store.folder.rglob("*.parts")), "what was left is removed"


def test_a_part_replaces_no_other_of_the_same_ends(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=300)
    store.add_part(trades, a_metadata(btcusdt))
    store.add_part(trades[np.abs(np.arange(300) - 125) > 25], a_metadata(btcusdt, "with a hole"))
    assert same(store.trades(btcusdt, MONDAY, MONDAY), trades)


def test_a_reader_sees_every_trade_while_parts_are_merged(
    store: Store, btcusdt: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer merges the parts whenever a reader has just listed the files."""
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=400)
    pieces = [trades[start : start + 100] for start in (0, 100, 200, 300)]
    list_paths, writer = store._paths, Store(store.root)

    def merged_meanwhile(*of_day: Any) -> list[str]:
        paths = list_paths(*of_day)
        writer.compact("BTCUSDT")
        if pieces:
            writer.add_part(pieces.pop(0), a_metadata(btcusdt))
        return paths

    writer.add_part(pieces.pop(0), a_metadata(btcusdt))
    monkeypatch.setattr(store, "_paths", merged_meanwhile)
    day = store.day(TRADES, "BTCUSDT", MONDAY)
    assert day is not None
    assert day.rows % 100 == 0
    assert same(store.trades(btcusdt, MONDAY, MONDAY), trades)


def test_a_part_that_is_listed_and_gone_is_told(
    store: Store, btcusdt: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_paths", lambda *of_day: ["trades/BTCUSDT/gone.parquet"])
    with pytest.raises(DataError, match=r"gone.parquet: can't be read"):
        store.day(TRADES, "BTCUSDT", MONDAY)


# --- a tape of the store ----------------------------------------------------------------------------------------------


def minutes(day: date) -> tuple[np.ndarray, ...]:
    times = start_of(day) + 60_000 * np.arange(1_440)
    return (times, *(6_000_000_000_000 + step + times // 60_000 for step in (0, 3, -3, 1)))


def test_a_session_names_days_of_the_store(
    tmp_path: Path, btcusdt: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path))
    store = Store()
    trades = some_trades("BTCUSDT", MONDAY, days=3, a_day=200)
    store.add_trades(replace(trades, id=trades.id + (trades.id > 1_250)), a_metadata(btcusdt))
    made = load_tape(SessionSettings(tape="store:BTCUSDT:2026-01-05:2026-01-06"), btcusdt)
    assert same(made.trades, store.trades(btcusdt, MONDAY, TUESDAY))
    assert (made.source, made.synthetic) == ("store, BTCUSDT 2026-01-05 to 2026-01-06", False)
    assert (made.report.id_gaps, made.report.ids_missing) == (1, 1)
    assert (made.marks, made.funding) == (None, None)
    assert "mark = simulated; funding = simulated, or 0" in Coverage.of(made).text
    one = load_tape(SessionSettings(tape="store:BTCUSDT:2026-01-07"), btcusdt)
    assert same(one.trades, store.trades(btcusdt, WEDNESDAY, WEDNESDAY))


def test_a_tape_brings_the_marks_and_the_funding_that_there_are(store: Store, btcusdt: Instrument) -> None:
    store.add_trades(some_trades("BTCUSDT", MONDAY, days=2, a_day=200), a_metadata(btcusdt))
    e8 = Metadata.of_values({"made": {}}, begins=True, ends=True)
    for day in (MONDAY, TUESDAY):
        columns = minutes(day)
        store.add(MARKS, "BTCUSDT", columns, columns[0], e8)
    at = start_of(MONDAY) + np.array([0, 8, 16]) * 3_600_000
    store.add(FUNDING, "BTCUSDT", (at, np.array([10_000, -5_000, 0])), at, e8)
    monday = stored_trades("store:BTCUSDT:2026-01-05", btcusdt, store)
    assert monday.marks is not None
    assert monday.marks.time.tolist() == minutes(MONDAY)[0].tolist()
    assert monday.marks.price_e8.tolist() == minutes(MONDAY)[1].tolist(), "the mark at the begin of each minute"
    assert monday.funding is not None
    assert monday.funding.rate_e8.tolist() == [10_000, -5_000, 0]
    assert Coverage.of(monday).text.endswith("mark = the exchange's, one a minute; funding = the exchange's, 2 rows")
    both = stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", btcusdt, store)
    assert both.marks is not None
    assert both.funding is not None
    assert both.funding.time.tolist() == at.tolist(), "what there is"
    assert Coverage.of(both).warning == "INCOMPLETE TAPE: without 60.0% of the funding rates"
    assert "; 3 of 5 rows are missing and were not paid" in Coverage.of(both).text


def test_funding_of_two_sources_keeps_the_interval_that_one_states(store: Store) -> None:
    at = start_of(MONDAY) + np.array([0, 8, 16]) * 3_600_000
    e8 = Metadata.of_values({"made": {}})
    store.add(FUNDING, "BTCUSDT", (at[:2], np.array([1, 2])), at[:2], e8)
    store.add(FUNDING, "BTCUSDT", (at, np.array([1, 2, 3]), np.array([8, 8, 4])), at, e8)
    store.add(FUNDING, "BTCUSDT", (at[1:], np.array([2, 3])), at[1:], e8)
    found = store.funding("BTCUSDT", MONDAY, MONDAY)
    assert found is not None
    assert found.interval_ms is not None
    assert (found.interval_ms // 3_600_000).tolist() == [8, 8, 4]
    with pytest.raises(Contradiction):
        store.add(FUNDING, "BTCUSDT", (at, np.array([1, 2, 3]), np.array([8, 4, 4])), at, e8)


def test_a_stored_file_without_intervals_is_read(store: Store) -> None:
    at = start_of(MONDAY) + np.array([0, 8, 16]) * 3_600_000
    older = replace(FUNDING, columns=("time", "rate"), optional=())
    metadata = json.dumps(asdict(Metadata.of_values({"made": {}})))
    store._files.put(f"funding/BTCUSDT/{MONDAY}.parquet", encode_rows(older, (at, np.array([1, 2, 3])), metadata))
    found = store.funding("BTCUSDT", MONDAY, MONDAY)
    assert found is not None
    assert (found.rate_e8.tolist(), np.unique(found.interval_ms).tolist()) == ([1, 2, 3], [0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("store:BTCUSDT", "tape: must be store:SYMBOL:DAY or store:SYMBOL:DAY:DAY, was 'store:BTCUSDT'"),
        ("store:BTCUSDT:yesterday", "tape: must be store:SYMBOL:DAY"),
        ("store:BTCUSDT:2026-01-01:2026-01-02:2026-01-03", "tape: must be store:SYMBOL:DAY"),
        ("store:ETHUSDT:2026-01-01", "tape: must be of BTCUSDT"),
        ("store:BTCUSDT:2026-01-02:2026-01-01", "tape: the first day must not be after the last"),
    ],
)
def test_a_tape_that_is_no_range_is_refused(store: Store, btcusdt: Instrument, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stored_trades(name, btcusdt, store)


def test_units_are_compared_as_numbers(store: Store, btcusdt: Instrument) -> None:
    trades = some_trades("BTCUSDT", MONDAY, days=1, a_day=10)
    store.add_trades(trades[:5], a_metadata(an_instrument(tick="0.10")))
    store.add_trades(trades[5:], a_metadata(an_instrument(tick="0.1")))
    assert same(store.trades(btcusdt, MONDAY, MONDAY), trades)
