"""Files of trades become tapes exactly, or are refused with the row and the rule."""

from __future__ import annotations

import gzip
import os
import time
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.config import SessionSettings
from voltrade.data import tape as data
from voltrade.data.tape import Tape, load_tape, load_trades, synthetic_trades
from voltrade.data.trade_checks import inspect
from voltrade.errors import DataError
from voltrade.model import Instrument, Trades

AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
AGG_ROWS = (
    "100,61800.30,0.006,900,901,1723161256322,false\n"
    "101,61800.20,1.5,902,904,1723161256344,true\n"
    "102,61801,120,905,905,1723161256344,false\n"
)  # fmt: skip
AGG_EXPECTED = [  # id, ticks of 0.1, lots of 0.001, ms, buyer is maker
    (100, 618003, 6, 1723161256322, False),
    (101, 618002, 1500, 1723161256344, True),
    (102, 618010, 120000, 1723161256344, False),
]

RAW_HEADER = "id,price,qty,quote_qty,time,is_buyer_maker\n"
RAW_ROWS = (
    "7,100.0,0.001,0.1,1723161256000,false\n"
    "8,100.0,0.002,0.2,1723161256000,false\n"  # same price, side and ms: joined with 7
    "9,100.0,0.004,0.4,1723161256000,true\n"  # other side
    "10,100.1,0.008,0.8,1723161256000,true\n"  # other price
    "11,100.1,0.016,1.6,1723161256001,true\n"  # other ms
    "15,100.1,0.032,3.2,1723161256001,true\n"  # 3 ids missing: not joined across
    "16,100.1,0.064,6.4,1723161256001,true\n"
)  # fmt: skip
RAW_EXPECTED = [
    (7, 1000, 3, 1723161256000, False),
    (8, 1000, 4, 1723161256000, True),
    (9, 1001, 8, 1723161256000, True),
    (10, 1001, 16, 1723161256001, True),
    (14, 1001, 96, 1723161256001, True),  # 11 would be next; 3 are missing
]


def rows(trades: Trades) -> list[tuple[int, int, int, int, bool]]:
    columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def load(folder: Path, text: str, name: str = "BTCUSDT-aggTrades-x.csv", instrument: Instrument | None = None) -> Tape:
    (folder / name).write_text(text)
    return load_trades(folder / name, instrument or an_instrument())


def as_plain(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def as_gzip(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


def as_zip(path: Path, text: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.csv", text)
    return path


# --- layouts and containers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [as_plain, as_gzip, as_zip])
@pytest.mark.parametrize("header", [AGG_HEADER, ""], ids=["header", "no header"])
def test_an_archive_of_aggtrades_reads_the_same_in_every_container(
    tmp_path: Path, write: Callable[[Path, str], Path], header: str
) -> None:
    loaded = load_trades(write(tmp_path / "BTCUSDT-aggTrades-2024-08-08.csv", header + AGG_ROWS), an_instrument())
    assert rows(loaded.trades) == AGG_EXPECTED
    assert (loaded.report.rows_read, loaded.report.trades, loaded.report.id_gaps) == (3, 3, 0)
    assert (loaded.source, loaded.synthetic) == ("BTCUSDT-aggTrades-2024-08-08.csv", False)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("BTCUSDT-trades-2024.csv", RAW_HEADER + RAW_ROWS, RAW_EXPECTED),
        ("BTCUSDT-trades-2024.csv", RAW_ROWS, RAW_EXPECTED),
        ("BTCUSDT-trades-2024.csv", RAW_ROWS.replace("true", "True").replace("false", "False"), RAW_EXPECTED),
        ("BTCUSDT-aggTrades-2025.csv", AGG_ROWS.replace("\n", "\r\n"), AGG_EXPECTED),
        ("a tape.csv", AGG_HEADER + AGG_ROWS, AGG_EXPECTED),  # the header tells
        ("a tape.csv", RAW_HEADER + RAW_ROWS, RAW_EXPECTED),
        ("BTCUSDT-trades.csv", AGG_HEADER + AGG_ROWS, AGG_EXPECTED),  # the header knows better than the name
    ],
)  # fmt: skip
def test_layouts(tmp_path: Path, name: str, text: str, expected: list[tuple[int, int, int, int, bool]]) -> None:
    assert rows(load(tmp_path, text, name).trades) == expected


def test_microseconds_become_milliseconds(tmp_path: Path) -> None:
    in_microseconds = AGG_ROWS.replace("1723161256322", "1723161256322999").replace("1723161256344", "1723161256344000")
    assert rows(load(tmp_path, in_microseconds).trades) == AGG_EXPECTED


def test_raw_trades_in_microseconds_are_joined_by_the_millisecond(tmp_path: Path) -> None:
    text = "7,100.0,0.001,0.1,1723161256000100,false\n8,100.0,0.002,0.2,1723161256000900,false\n"
    assert rows(load(tmp_path, text, "trades.csv").trades) == [(7, 1000, 3, 1723161256000, False)]


@pytest.mark.parametrize("exact", [float, str, Decimal], ids=["double", "string", "decimal"])
def test_parquet_of_every_number_type(tmp_path: Path, exact: Callable[[str], object]) -> None:
    frame = pd.DataFrame(
        {
            "agg_trade_id": [100, 101, 102],
            "price": [exact(p) for p in ("61800.3", "61800.2", "61801.0")],
            "quantity": [exact(q) for q in ("0.006", "1.500", "120.000")],
            "transact_time": pd.to_datetime([1723161256322, 1723161256344, 1723161256344], unit="ms"),
            "is_buyer_maker": [False, True, False],
        }
    )
    frame.to_parquet(tmp_path / "tape.parquet")
    assert rows(load_trades(tmp_path / "tape.parquet", an_instrument()).trades) == AGG_EXPECTED


@pytest.mark.parametrize(("unit", "finer"), [("s", 0), ("ms", 0), ("us", 999), ("ns", 999_999)])
def test_parquet_times_of_every_unit(tmp_path: Path, unit: str, finer: int) -> None:
    """What type a column of times has is no fault of the file."""
    frame = pd.DataFrame(
        {
            "agg_trade_id": [100],
            "price": [61800.3],
            "quantity": [0.006],
            "transact_time": (np.array([1723161256000], "datetime64[ms]").astype(f"datetime64[{unit}]") + finer),
            "is_buyer_maker": [False],
        }
    )
    frame.to_parquet(tmp_path / "tape.parquet")
    found = inspect(tmp_path / "tape.parquet", an_instrument())
    assert found.findings == ()
    assert found.accepted is not None
    assert rows(found.accepted) == [(100, 618003, 6, 1723161256000, False)]


# --- numbers are exact ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ticks=st.lists(st.integers(1, 8_000_000), min_size=1, max_size=30),
    lots=st.integers(1, 10**9),
    zeros=st.integers(0, 6),
    tick=st.sampled_from(["0.10", "0.01", "0.5", "1", "0.00000001", "0.025"]),
)
def test_every_multiple_of_the_tick_is_read_exactly(
    tmp_path: Path, ticks: list[int], lots: int, zeros: int, tick: str
) -> None:
    instrument = an_instrument(tick=tick, step="1")
    more = "0" * zeros if "." in tick else ""
    lines = [f"{i},{t * Decimal(tick):f}{more},{lots},1,1,{1_700_000_000_000 + i},true" for i, t in enumerate(ticks)]
    loaded = load(tmp_path, "\n".join(lines) + "\n", instrument=instrument)
    assert loaded.trades.price.tolist() == ticks
    assert loaded.trades.quantity.tolist() == [lots] * len(ticks)


def test_a_tick_that_is_no_power_of_ten_is_held_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2: price must be a multiple of 0.5, was 61801.2"):
        load(tmp_path, AGG_HEADER + AGG_ROWS.replace("61800.30", "61801.2"), instrument=an_instrument(tick="0.5"))


def test_parquet_doubles_are_taken_back_to_their_multiple(tmp_path: Path) -> None:
    """0.1 has no double; the nearest one, and sums that miss it by a bit, are meant as 0.1; 0.10001 is not."""
    lots = np.array([300, 100, 123_456_789])
    frame = pd.DataFrame(
        {
            "agg_trade_id": [1, 2, 3],
            "price": [100.0, 100.0, 100.0],
            "quantity": [0.1 + 0.2, 0.1, 123_456.789],
            "transact_time": 1_700_000_000_000,
            "is_buyer_maker": True,
        }
    )
    frame.to_parquet(tmp_path / "tape.parquet")
    assert load_trades(tmp_path / "tape.parquet", an_instrument()).trades.quantity.tolist() == lots.tolist()
    frame.loc[1, "quantity"] = 0.10001
    frame.to_parquet(tmp_path / "tape.parquet")
    with pytest.raises(DataError, match=r"row 2: quantity must be a multiple of 0.001, was 0.10001"):
        load_trades(tmp_path / "tape.parquet", an_instrument())


# --- what is dropped, counted, visible --------------------------------------------------------------------------------


def test_rows_that_are_no_trades_are_dropped_and_counted(tmp_path: Path) -> None:
    text = (
        "id,price,qty,time,is_buyer_maker,order_type\n"
        "1,100.0,0.001,1723161256000,false,MARKET\n"
        "2,100.5,9.000,1723161256000,true,INSURANCE_FUND\n"
        "3,100.5,9.000,1723161256000,true,ADL\n"
        "4,0,0,1723161256000,true,NA\n"
        "5,100.0,0.002,1723161256000,false,MARKET\n"
    )
    loaded = load(tmp_path, text, "tape.csv")
    assert rows(loaded.trades) == [(1, 1000, 3, 1723161256000, False)]
    assert loaded.report.dropped == {"INSURANCE_FUND": 1, "ADL": 1, "NA": 1}
    assert (loaded.report.rows_read, loaded.report.id_gaps) == (5, 0)  # what was dropped is not missing
    assert str(loaded.report) == (
        "5 rows, 1 aggTrades, 1 INSURANCE_FUND rows dropped, 1 ADL rows dropped, 1 NA rows dropped"
    )


def test_a_row_of_zeros_in_a_raw_archive_is_an_na_record(tmp_path: Path) -> None:
    loaded = load(tmp_path, RAW_ROWS + "17,0,0,0,1723161256002,true\n", "trades.csv")
    assert rows(loaded.trades) == RAW_EXPECTED
    assert loaded.report.dropped == {"NA": 1}


def test_a_gap_after_a_dropped_row_stays_where_it_was(tmp_path: Path) -> None:
    text = (
        "id,price,qty,time,is_buyer_maker,order_type\n"
        "1,100.0,0.001,1723161256000,false,MARKET\n"
        "2,100.5,9.000,1723161256000,true,ADL\n"
        "3,100.1,0.002,1723161256000,false,MARKET\n"
        "10,100.1,0.004,1723161256000,false,MARKET\n"  # 6 missing before: apart from 3, and 6 ids further on
    )
    assert [(row[0], row[2]) for row in rows(load(tmp_path, text, "tape.csv").trades)] == [(1, 1), (2, 2), (9, 4)]


def test_missing_ids_stay_visible(tmp_path: Path) -> None:
    report = load(tmp_path, RAW_ROWS, "trades.csv").report
    assert (report.id_gaps, report.ids_missing) == (1, 3)
    report = load(tmp_path, AGG_ROWS.replace("102,", "107,")).report
    assert (report.id_gaps, report.ids_missing) == (1, 5)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 50), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_aggregation_conserves_volume_and_gaps(tmp_path: Path, raw: list[tuple[int, int, int, int, bool]]) -> None:
    """Any raw trades: quantity of each price and side is kept, ids ascend, and as many ids are missing as before."""
    lines, raw_id, now = [], 0, 1_700_000_000_000
    for id_step, price, lots, wait, maker in raw:
        raw_id, now = raw_id + id_step, now + wait
        lines.append(f"{raw_id},{price},{Decimal(lots) / 1000},0,{now},{maker}")
    loaded = load(tmp_path, "\n".join(lines) + "\n", "trades.csv")
    trades = loaded.trades
    for price in (1, 2):
        for maker in (False, True):
            kept = (trades.price == 10 * price) & (trades.buyer_is_maker == maker)
            assert trades.quantity[kept].sum() == sum(r[2] for r in raw if (r[1], r[4]) == (price, maker))
    missing = sum(r[0] - 1 for r in raw[1:])
    assert loaded.report.ids_missing == missing
    assert trades.id[-1] - trades.id[0] + 1 == len(trades) + missing


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("61800.20", "61800.25", "row 3: price must be a multiple of 0.10, was 61800.25"),
        ("1.5,", "1.5001,", "row 3: quantity must be a multiple of 0.001, was 1.5001"),
        ("1.5,", "abc,", "row 3: quantity must be a multiple of 0.001, was abc"),
        ("1.5,", "1e-4,", "row 3: quantity must be a multiple of 0.001, was 1e-4"),
        ("1.5,", "nan,", "row 3: quantity must be a multiple of 0.001, was nan"),
        ("1.5,", ",", "row 3: quantity must be a multiple of 0.001, was "),
        ("1.5,", "9999999999999999999,", "row 3: quantity must be a multiple of 0.001"),
        ("1.5,", "999999999999.5,", "row 3: quantity must be at most"),
        ("1.5,", "0.000,", "row 3: price and quantity must be positive"),
        ("61800.20", "-61800.20", "row 3: price and quantity must be positive"),
        ("61800.20", "900000.0", "row 3: price must be at most 8094840 ticks"),
        ("101,", "100,", "row 3: rows of one id must agree, the id, was 100"),
        ("101,", "99,", "row 3: id must ascend from row to row, was 99"),
        ("101,", "101.5,", "row 3: id must be a whole number, was 101.5"),
        ("1723161256322", "1723161256345", "row 2: time must be in the order of the ids, was 1723161256345"),
        ("1723161256322", "1723161256", "row 2: time must be in milliseconds or microseconds"),
        ("1723161256322", "1723161256322000000", "row 2: time must be in milliseconds or microseconds"),
        (",true", ",buy", "row 3: is_buyer_maker must be true or false, was buy"),
        ("is_buyer_maker", "taker", "must have the columns is_buyer_maker, has agg_trade_id"),
        ("905,905,", "905,", "row 4: must have 7 columns, has 6"),
        ("\n102", "\n\n\r\n102.5", "row 6: id must be a whole number, was 102.5"),
    ],
)
def test_a_row_that_breaks_a_rule_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (AGG_HEADER + AGG_ROWS).replace(old, new, 1)
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tape.csv", "id,price,qty,time,is_buyer_maker\n1,1.0,1,1723161256000,true\n", "put `aggTrades` or `trades`"),
        ("tape.csv", AGG_ROWS, "put `aggTrades` or `trades`"),
        ("aggTrades.csv", RAW_ROWS, "without a header there must be 7 columns, has 6"),
        ("aggTrades.csv", "", "must have a first line, has none"),
        ("aggTrades.csv", AGG_HEADER, "must hold at least one trade, has none"),
        ("trades.csv", "1,0,0,0,1723161256000,true\n", "must hold at least one trade, has none"),
        ("trades.csv", RAW_ROWS.replace("0.004", "0"), "row 3: price and quantity must be positive"),
        ("t.csv", "id,price,qty,time,is_buyer_maker,order_type\n1,1.0,1,1723161256000,true,ODD\n", "row 2: order_type"),
    ],
)
def test_a_file_that_can_not_be_trusted_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, text, name)


def test_broken_containers_are_refused(tmp_path: Path) -> None:
    broken = {
        "aggTrades.gz": gzip.compress(AGG_ROWS.encode())[:-12],
        "aggTrades.zip": b"PK\x03\x04 not a zip",
        "aggTrades.parquet": b"PAR1 not parquet",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="can't be read"):
            load_trades(tmp_path / name, an_instrument())
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(DataError, match="must hold one file, holds 2"):
        load_trades(tmp_path / "two.zip", an_instrument())
    content = bytearray(as_zip(tmp_path / "aggTrades.zip", AGG_ROWS).read_bytes())
    content[6] |= 1  # the flags say that it is encrypted, here and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "aggTrades.zip").write_bytes(content)
    with pytest.raises(DataError, match="is encrypted, password required"):
        load_trades(tmp_path / "aggTrades.zip", an_instrument())
    with pytest.raises(DataError, match="must be a file of trades, there is none"):
        load_trades(tmp_path / "absent.csv", an_instrument())


# --- the tape of a session --------------------------------------------------------------------------------------------


def test_a_session_names_its_tape(tmp_path: Path, btcusdt: Instrument) -> None:
    made = load_tape(SessionSettings(seed=3, hours=0.5), btcusdt)
    assert (made.source, made.synthetic) == ("synthetic, seed 3, 0.5 h", True)
    assert rows(made.trades) == rows(synthetic_trades(btcusdt, seed=3, hours=0.5).trades)
    path = as_plain(tmp_path / "aggTrades.csv", AGG_ROWS)
    assert rows(load_tape(SessionSettings(tape=str(path)), btcusdt).trades) == AGG_EXPECTED


# --- a file is parsed once --------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this test's own, and files of any size worth a cache."""
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    return tmp_path / "store" / ".cache"


def test_a_file_that_was_read_is_not_parsed_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path, RAW_ROWS, "trades.csv")
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(data, "inspect_file", None)
    again = load(tmp_path, RAW_ROWS, "trades.csv")
    assert rows(again.trades) == rows(first.trades) == RAW_EXPECTED
    assert (again.report, again.source, again.trades.symbol) == (first.report, "trades.csv", "BTCUSDT")
    assert again.report.id_gaps == 1


@pytest.mark.parametrize(
    ("text", "name", "instrument"),
    [
        (RAW_ROWS.replace("0.064", "0.065"), "trades.csv", an_instrument()),
        (RAW_ROWS, "trades.csv", an_instrument(step="0.0001")),
        (RAW_ROWS, "other trades.csv", an_instrument()),
    ],
    ids=["other bytes", "other units", "other name"],
)
def test_anything_else_is_read_anew(tmp_path: Path, cache: Path, text: str, name: str, instrument: Instrument) -> None:
    load(tmp_path, RAW_ROWS, "trades.csv")
    fresh = load(tmp_path, text, name, instrument)
    assert len(list(cache.iterdir())) == 2
    assert fresh.trades.quantity[-1] == sum(
        int(Decimal(line.split(",")[2]) / instrument.step_size) for line in text.splitlines()[-2:]
    )


def test_a_file_that_did_not_change_is_not_even_hashed_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(data, "_SETTLED_S", -1.0)  # as if the file had been there for a while
    load(tmp_path, RAW_ROWS, "trades.csv")
    with monkeypatch.context() as patch:
        patch.setattr(data.hashlib, "file_digest", hashed)
        path = tmp_path / "trades.csv"
        assert rows(load_trades(path, an_instrument()).trades) == RAW_EXPECTED
        before = path.stat()
        path.write_text(RAW_ROWS.replace("0.064", "0.065"))  # as long as before, and made to look as old
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(AssertionError, match="hashed"):
            load_trades(path, an_instrument())
    assert load_trades(path, an_instrument()).trades.quantity[-1] == RAW_EXPECTED[-1][2] + 1


def test_a_file_that_was_just_written_is_hashed_each_time(tmp_path: Path, cache: Path) -> None:
    load(tmp_path, RAW_ROWS, "trades.csv")
    assert [path.suffix for path in cache.iterdir()] == [".parquet"]


def test_a_cache_that_broke_is_no_tape(tmp_path: Path, cache: Path) -> None:
    load(tmp_path, RAW_ROWS, "trades.csv")
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    assert rows(load(tmp_path, RAW_ROWS, "trades.csv").trades) == RAW_EXPECTED


def test_what_is_refused_is_not_kept(tmp_path: Path, cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="row 3: price and quantity must be positive"):
            load(tmp_path, RAW_ROWS.replace("0.004", "0"), "trades.csv")
    assert not cache.exists()


def test_a_store_that_can_not_be_written_to_is_no_obstacle(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert rows(load(tmp_path, RAW_ROWS, "trades.csv").trades) == RAW_EXPECTED


# --- real recordings and speed ----------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("start", "raw", "dropped", "volume"),
    [
        ("20230404T2358", 12_935, {"INSURANCE_FUND": 1}, None),
        ("20240718T2357", 10_701, {}, "1122.459"),
        ("20240808T2354", 21_313, {}, "2429.366"),
    ],
)
def test_the_perpetual_recordings(
    recordings: Path, btcusdt: Instrument, start: str, raw: int, dropped: dict[str, int], volume: str | None
) -> None:
    (path,) = (recordings / "usdm_trades").glob(f"*{start}*.csv.gz")
    loaded = load_trades(path, btcusdt)
    assert (loaded.report.rows_read, loaded.report.dropped, loaded.report.id_gaps) == (raw, dropped, 0)
    assert rows(loaded.trades) == plainly_aggregated(path)
    if volume is not None:
        assert btcusdt.quantity(int(loaded.trades.quantity.sum())) == Decimal(volume)


def plainly_aggregated(path: Path) -> list[tuple[int, int, int, int, bool]]:
    """The same aggregation, row by row and in Decimal."""
    out: list[tuple[int, int, int, int, bool]] = []
    with gzip.open(path, "rt") as file:
        next(file)
        for line in file:
            raw_id, price, quantity, at, maker, _, _, order_type = line.strip().split(",")
            if order_type != "MARKET":
                continue
            ticks, lots, taker_sold = int(Decimal(price) * 10), int(Decimal(quantity) * 1000), maker == "true"
            if out and (out[-1][1], out[-1][3], out[-1][4]) == (ticks, int(at), taker_sold):
                out[-1] = (out[-1][0], ticks, out[-1][2] + lots, int(at), taker_sold)
            else:
                out.append((out[-1][0] + 1 if out else int(raw_id), ticks, lots, int(at), taker_sold))
    return out


@pytest.mark.recordings
def test_the_spot_recordings(recordings: Path, btcusdt: Instrument, ltcusdt: Instrument) -> None:
    (path,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    load_trades(path, ltcusdt)  # the first call compiles
    began = time.perf_counter()
    report = load_trades(path, ltcusdt).report
    assert time.perf_counter() - began < 1
    assert (report.rows_read, report.trades, report.id_gaps, report.ids_missing) == (88_619, 88_619, 19, 197)
    (without_side,) = (recordings / "spot_trades").glob("*.parquet")
    with pytest.raises(DataError, match="must have the columns id, is_buyer_maker, has timestamp, quantity, price"):
        load_trades(without_side, btcusdt)
