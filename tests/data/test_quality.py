"""Every fault of a file is named, with its rows, and treated by its policy; `data verify` tells them all."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.history import HEADERS, History, checksum, some_trades, zipped

from voltrade.bars import VolumeBarAggregator
from voltrade.config import BarSettings
from voltrade.data import commands, trade_checks, trade_files
from voltrade.data.archive_files import ArchiveFile, checksum_path
from voltrade.data.coverage import Coverage
from voltrade.data.faults import DEFAULT_POLICIES, FAULTS, TAPE_POLICIES, Policy, policies
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import load_trades, stored_trades
from voltrade.data.trade_checks import inspect, inspect_trades
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, Trades
from voltrade.simulated.symbols import shipped_instrument

DAY = date(2026, 1, 5)
INSTRUMENT = an_instrument()
TRADED = some_trades("BTCUSDT", DAY, days=1, a_day=1_200)
HISTORY = History(
    TRADED,
    now=start_of(DAY + timedelta(2)),
    marks=start_of(DAY) + 60_000 * np.arange(1_440),
    funding=start_of(DAY) + 28_800_000 * np.arange(3),
)
Lines = list[str]
"""A file's lines; line n stands at index n - 1, the header first."""


def edited(line: int, **cells: str) -> Callable[[Lines], None]:
    """Change cells of a line, by the names of its columns."""

    def edit(lines: Lines) -> None:
        values = dict(zip(lines[0].split(","), lines[line - 1].split(","), strict=True))
        lines[line - 1] = ",".join({**values, **cells}.values())

    return edit


def of_all(
    column: str, change: Callable[[str], str], first: int = 2, last: int | None = None
) -> Callable[[Lines], None]:
    """Change a column from a line to another."""

    def edit(lines: Lines) -> None:
        place = lines[0].split(",").index(column)
        for number in range(first - 1, last or len(lines)):
            cells = lines[number].split(",")
            cells[place] = change(cells[place])
            lines[number] = ",".join(cells)

    return edit


def timed(line: int, milliseconds: int) -> Callable[[Lines], None]:
    """Move a row to another time of its day."""
    return of_all("transact_time", lambda at: str(int(at) // DAY_MS * DAY_MS + milliseconds), line, line)


def swapped(lines: Lines) -> None:
    lines[99:102] = [lines[101], lines[99], lines[100]]


def repeated(lines: Lines) -> None:
    lines[200:200] = [lines[199], lines[10]]


def repeated_otherwise(lines: Lines) -> None:
    lines.insert(300, lines[299])
    edited(301, quantity="9.999")(lines)


def worthless_and_late(lines: Lines) -> None:
    edited(51, price="0")(lines)
    timed(51, DAY_MS - 1)(lines)


def worthless_behind_a_blank_line(lines: Lines) -> None:
    lines.insert(3, "")
    edited(8, high="0")(lines)


def gaps(lines: Lines) -> None:
    del lines[600:603], lines[399]


def without_side(lines: Lines) -> None:
    for number, line in enumerate(lines):
        lines[number] = line.rpartition(",")[0]


CASES: list[tuple[str, Callable[[Lines], None], str, str]] = [
    ("unsorted", swapped, "100", "id must ascend from row to row, was 1100"),
    ("duplicate_id", repeated, "201-202", "id must not be there twice, was 1198"),
    ("conflicting_id", repeated_otherwise, "301", "rows of one id must agree, the id, was 1298"),
    ("id_gap", gaps, "400, 600", "ids must follow each other, 4 are missing, the first from 1398 to 1398"),
    ("not_positive", edited(50, quantity="0.000"), "50", "price and quantity must be positive"),
    ("not_positive", edited(50, quantity="-1.000"), "50", "price and quantity must be positive"),
    ("not_positive", edited(51, price="0"), "51", "price and quantity must be positive"),
    ("not_positive", worthless_and_late, "51", "must be positive"),
    ("bad_value", edited(52, price="60000.05"), "52", "price must be a multiple of 0.10, was 60000.05"),
    ("bad_value", edited(53, quantity="1e-4"), "53", "quantity must be a multiple of 0.001, was 1e-4"),
    ("bad_value", edited(54, is_buyer_maker="buy"), "54", "is_buyer_maker must be true or false, was buy"),
    ("missing_side", edited(55, is_buyer_maker=""), "55", "is_buyer_maker must be true or false, was empty"),
    ("missing_side", without_side, "2-1201", "must have the columns is_buyer_maker, has agg_trade_id, price"),
    ("one_sided", of_all("is_buyer_maker", lambda _: "true"), "2-1201", "is_buyer_maker is true all 2026-01-05"),
    ("microseconds", of_all("transact_time", lambda at: at + "000"), "2-1201", "must be in milliseconds, was 1767"),
    ("microseconds", of_all("transact_time", lambda at: at + "123", 700, 800), "700-800", "must be in milliseconds"),
    ("time_back", timed(61, 0), "61", "the order of the ids, was 1767571200000"),
    ("time_back", timed(61, DAY_MS - 1), "61", "the order of the ids, was 1767657"),
    ("time_back", timed(2, DAY_MS - 1), "2", "the order of the ids, was 1767657"),
    ("wrong_day", timed(62, 100_000_000), "62", "must lie within 2026-01-05"),
    ("wrong_day", of_all("transact_time", lambda at: str(int(at) + 3_600_000)), None, "must lie within 2026-01-05"),
    ("empty", lambda lines: lines.__delitem__(slice(1, None)), "", "must hold at least one trade, has none"),
]  # fmt: skip


def written(folder: Path, name: str, lines: Lines, stated: bytes | None = None) -> Path:
    """Write an archive file and its CHECKSUM."""
    content = zipped(name, "\n".join(lines) + "\n")
    path = folder / name
    path.write_bytes(content)
    checksum_path(path).write_bytes(checksum(name, stated or content))
    return path


def lines_of(kind: Kind = TRADES) -> Lines:
    return [HEADERS[kind], *HISTORY.lines(kind, DAY, DAY)]


# --- each fault -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "spoil", "rows", "detail"), CASES, ids=[f"{case[0]} {case[2]}" for case in CASES])
def test_a_fault_is_named_with_its_rows_and_no_other_is(
    tmp_path: Path, fault: str, spoil: Callable[[Lines], None], rows: str | None, detail: str
) -> None:
    lines = lines_of()
    spoil(lines)
    file = ArchiveFile(TRADES, "BTCUSDT", DAY, DAY)
    found = inspect(written(tmp_path, file.name, lines), INSTRUMENT, DEFAULT_POLICIES, file.span)
    (finding,) = found.findings
    assert finding.fault == fault
    policy = FAULTS[fault].policy
    assert finding.policy == (Policy.REFUSE if policy is Policy.FEW else policy), "none is dropped of a file of trades"
    assert detail in finding.detail
    if rows is not None:
        assert (f"({rows})" if rows else ": ") in str(finding)
    assert (found.accepted is None) == (finding.policy is Policy.REFUSE)


@pytest.mark.parametrize("block", [1 << 24, 4_000])
def test_rows_have_the_numbers_that_an_editor_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Blank lines count, and so do rows that are cut or have too much; they hide no other fault."""
    monkeypatch.setattr(trade_files, "_BLOCK_BYTES", block)
    lines = lines_of()
    for number in (900, 400, 20, 20):
        lines.insert(number, "")
    lines[10] = lines[10].rpartition(",")[0]
    lines[500] += ",true"
    for number in (19, 100, 501, 1_000):
        edited(number + 1, quantity="0")(lines)
    lines[-1] = lines[-1][:30]
    (tmp_path / "aggTrades.csv").write_text("\n".join(lines))
    found = inspect(tmp_path / "aggTrades.csv", INSTRUMENT)
    told = {finding.fault: str(finding) for finding in found.findings}
    assert "in 3 rows (11, 501, 1205): must have 7 columns, has 6 [refuse]" in told["unreadable"]
    assert "in 4 rows (20, 101, 502, 1001)" in told["not_positive"]
    assert found.accepted is None


def test_a_file_without_fault_has_none(tmp_path: Path) -> None:
    file = ArchiveFile(TRADES, "BTCUSDT", DAY, DAY)
    found = inspect(written(tmp_path, file.name, lines_of()), INSTRUMENT, TAPE_POLICIES, file.span)
    assert found.findings == ()
    assert found.accepted is not None
    assert np.array_equal(found.accepted.id, TRADED.id)


@pytest.mark.parametrize(
    ("fault", "spoil", "policy", "ids"),
    [
        ("unsorted", swapped, "flag", {}),
        ("unsorted", swapped, "drop", {1100}),
        ("unsorted", edited(50, agg_trade_id="9000000"), "drop", {1048}),
        ("duplicate_id", repeated, "drop", {}),
        ("conflicting_id", repeated_otherwise, "drop", {}),
        ("not_positive", edited(50, quantity="0"), "drop", {1048}),
        ("bad_value", edited(50, price="x"), "drop", {1048}),
        ("missing_side", edited(50, is_buyer_maker=""), "drop", {1048}),
        ("time_back", timed(50, 0), "drop", {1048}),
        ("time_back", timed(50, DAY_MS - 1), "drop", {1048}),
        ("wrong_day", timed(50, 100_000_000), "drop", {1048}),
        ("microseconds", of_all("transact_time", lambda at: at + "999"), "flag", {}),
    ],
)
def test_what_is_left_is_the_trades_without_the_dropped_ones(
    tmp_path: Path, fault: str, spoil: Callable[[Lines], None], policy: str, ids: set[int]
) -> None:
    lines = lines_of()
    spoil(lines)
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines)
    span = ArchiveFile(TRADES, "BTCUSDT", DAY, DAY).span
    left = inspect(path, INSTRUMENT, policies({fault: policy}), span).accepted
    assert left is not None
    keep = ~np.isin(TRADED.id, list(ids))
    for name in ("id", "price", "quantity", "time", "buyer_is_maker"):
        assert np.array_equal(getattr(left, name), getattr(TRADED, name)[keep]), name
    strictly = policies({fault: "refuse"} if Policy.REFUSE in FAULTS[fault].allowed else {})
    refused = inspect(path, INSTRUMENT, strictly, span)
    assert refused.accepted is None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(40)), st.lists(st.integers(0, 39), max_size=10))
def test_any_order_with_any_repeats_is_put_right(order: list[int], repeats: list[int]) -> None:
    """However rows are shuffled and repeated: all are there once, and each row is named at most once."""
    rows = [*order, *repeats]
    trades = TRADED[:40]
    columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
    found = inspect_trades("shuffled", Trades("BTCUSDT", *(column[rows] for column in columns)))
    assert found.accepted is not None
    assert found.accepted.id.tolist() == trades.id.tolist()
    named = {finding.fault: set(finding.rows.tolist()) for finding in found.findings}
    assert named.get("duplicate_id", set()) == set(range(41, 41 + len(repeats)))
    out_of_place = named.get("unsorted", set())
    others = [row for number, row in enumerate(order, 1) if number not in out_of_place]
    assert others == sorted(others)
    ascents = [1] * len(order)  # the longest one that ends at each row
    for place, row in enumerate(order):
        ascents[place] += max((ascents[at] for at in range(place) if order[at] < row), default=0)
    assert len(others) == max(ascents), "no row is named that could have stayed"


def test_policies_are_named_by_fault() -> None:
    assert policies({"id_gap": "refuse"})["id_gap"] is Policy.REFUSE
    assert policies({}) == DEFAULT_POLICIES
    with pytest.raises(ConfigError, match="not_positive must be one of refuse, drop, was 'flag'"):
        policies({"not_positive": "flag"})
    for name, fault in FAULTS.items():
        assert fault.policy in fault.allowed, name


@pytest.mark.parametrize("column", ["price", "quantity", "time", "buyer_is_maker"])
def test_rows_of_one_id_conflict_whatever_differs(column: str) -> None:
    """Two takers' sides, or two times, of one id are no repetition."""
    rows = TRADED[np.array([0, 1, 1, 2])]
    values = getattr(rows, column).copy()
    values[2] = ~values[2] if column == "buyer_is_maker" else values[2] + 1
    found = inspect_trades("twice", replace(rows, **{column: values}))
    assert [(each.fault, each.rows.tolist()) for each in found.findings] == [("conflicting_id", [3])]


# --- data verify ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    return Store()


def verify(*given: str) -> int:
    return commands.main(["verify", *given])


def test_an_import_that_drops_one_of_two_rows_of_an_id_says_so(tmp_path: Path, store: Store) -> None:
    lines = lines_of()
    repeated_otherwise(lines)
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines)
    assert commands.main(["import", "BTCUSDT", str(path), "--policy", "conflicting_id=drop"]) == 1


@pytest.mark.parametrize("line", [2, -1])
def test_verify_names_ids_that_were_dropped_at_the_begin_or_end_of_a_stored_day(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], line: int
) -> None:
    lines = lines_of()
    edited(line % (len(lines) + 1), quantity="0")(lines)
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines)
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    capsys.readouterr()
    assert verify() == 1
    assert "id_gap: 1 rows are missing at the day's begin or end" in capsys.readouterr().out


def test_verify_names_every_fault_and_row_of_a_set_of_archives(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """One archive for each fault, a day each, and three that can't be what they should."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for number, (_, spoil, _, _) in enumerate(CASES):
        day = DAY + timedelta(number)
        moved = some_trades("BTCUSDT", day, days=1, a_day=1_200)
        lines = [HEADERS[TRADES], *History(moved, now=0).lines(TRADES, day, day)]
        spoil(lines)
        written(folder, f"BTCUSDT-aggTrades-{day}.zip", lines)
    written(folder, "BTCUSDT-aggTrades-2026-02-01.zip", lines_of(), stated=b"others")
    written(folder, "BTCUSDT-aggTrades-2026-02-02.zip", lines_of())
    (folder / "BTCUSDT-aggTrades-2026-02-02.zip.CHECKSUM").unlink()
    written(folder, "BTCUSDT-aggTrades-2026-02-03.zip", lines_of())
    (folder / "BTCUSDT-aggTrades-2026-02-03.zip").write_bytes(b"PK\x03\x04 cut")
    assert verify(str(folder)) == 1
    said = capsys.readouterr().out
    for fault, _, rows, _ in CASES:
        assert (f"{fault} in " if rows != "" else f"{fault}: ") in said
        assert not rows or f"({rows})" in said, f"{fault} {rows}"
    assert "BTCUSDT-aggTrades-2026-02-01.zip: 1,200 rows: refused" in said
    assert "checksum: SHA-256 must be" in said
    assert "checksum: there must be a BTCUSDT-aggTrades-2026-02-02.zip.CHECKSUM, there is none" in said
    assert "unreadable: can't be read" in said
    assert f"{len(CASES) + 3} files: " in said


def hourly(lines: Lines) -> None:
    """Of 24 rows, those of 00:00, 08:00 and 16:00."""
    lines[1:] = [line.replace(",8,", ",1,") for line in lines[1:]]


def test_verify_of_sound_files_says_so(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in ((TRADES, "aggTrades-2026-01-05"), (MARKS, "1m-2026-01-05"), (FUNDING, "fundingRate-2026-01-05")):
        written(tmp_path, f"BTCUSDT-{name}.zip", lines_of(kind))
    assert verify(str(tmp_path)) == 0
    assert capsys.readouterr().out.endswith("3 files: no fault\n")


@pytest.mark.parametrize(
    ("kind", "name", "spoil", "said"),
    [
        (MARKS, "1m-2026-01-05", lambda lines: lines.__delitem__(slice(100, 103)), "id_gap in 1 row (101): 3 rows"),
        (MARKS, "1m-2026-01-05", edited(7, high="0"), "not_positive in 1 row (7): prices must be positive"),
        (MARKS, "1m-2026-01-05", worthless_behind_a_blank_line, "not_positive in 1 row (8): prices must be positive"),
        (MARKS, "1m-2026-01-05", edited(7, open="x"), "bad_value in 1 row (7): open must be a multiple of 0.00000001"),
        (MARKS, "1m-2026-01-05", edited(7, volume="123.456"), "bad_value in 1 row (7): volume must be 0, was 123.456"),
        (MARKS, "1m-2026-01-05", swapped, "unsorted in 1 row (100): time must ascend from row to row"),
        (MARKS, "1m-2026-01-05", lambda lines: lines.__delitem__(slice(2, None)), "id_gap: 1439 rows are missing, at"),
        (MARKS, "1m-2026-01-05", lambda lines: lines.__delitem__(slice(1, 301)), "id_gap: 300 rows are missing, at"),
        (MARKS, "1m-2026-01", lambda _: None, "id_gap: 43200 rows are missing, at the begin or end"),
        (MARKS, "1m-2026-01-06", lambda _: None, "wrong_day in 1440 rows (2-1441)"),
        (FUNDING, "fundingRate-2026-01-05", hourly, "id_gap in 2 rows (3-4): 21 rows are missing"),
        (FUNDING, "fundingRate-2026-01-05", lambda lines: lines.pop(2), "id_gap in 1 row (3): 1 rows are missing"),
        (FUNDING, "fundingRate-2026-01-05", lambda lines: lines.pop(3), "id_gap: 1 rows are missing, at the"),
        (FUNDING, "fundingRate-2026-01", lambda lines: lines.insert(3, lines[2]), "duplicate_id in 1 row (4)"),
        (FUNDING, "fundingRate-2026-01", edited(3, last_funding_rate="0.000000001"), "bad_value in 1 row (3)"),
        (FUNDING, "fundingRate-2026-01", lambda lines: lines.__setitem__(0, "a,b,c"), "the columns calc_time"),
    ],
)  # fmt: skip
def test_marks_and_funding_are_verified_too(
    tmp_path: Path,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    kind: Kind,
    name: str,
    spoil: Callable[[Lines], None],
    said: str,
) -> None:
    lines = lines_of(kind)
    spoil(lines)
    assert verify(str(written(tmp_path, f"BTCUSDT-{name}.zip", lines))) == 1
    assert said in capsys.readouterr().out


def test_verify_looks_at_all_that_is_stored(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    trades = some_trades("BTCUSDT", DAY, days=2, a_day=1_500)
    midnight = int(np.searchsorted(trades.time, start_of(DAY + timedelta(1))))
    store.add_trades(trades, Metadata.of(INSTRUMENT, "made", begins=True, ends=True))
    assert verify() == 0
    assert capsys.readouterr().out.endswith("2 files: no fault\n")
    assert store.folder is not None
    days = [store.folder / "trades" / "BTCUSDT" / f"{DAY + timedelta(number)}.parquet" for number in (0, 1)]
    days[0].unlink()
    store.add_trades(
        trades[: midnight - 5], Metadata.of(INSTRUMENT, "made", begins=True)
    )  # five are missing before midnight
    content = bytearray(days[1].read_bytes())
    assert verify() == 1
    assert "trades/BTCUSDT/2026-01-06: 1" in (said := capsys.readouterr().out)
    assert "id_gap: 5 rows are missing after the day before [flag]" in said
    content[len(content) // 2] ^= 255
    days[1].write_bytes(content)
    assert verify() == 1
    assert "unreadable: trades/BTCUSDT/2026-01-06.parquet: can't be read" in capsys.readouterr().out


def test_a_fragment_of_a_day_of_marks_is_told_by_import_and_of_the_store_too(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "BTCUSDT-1m-2026-01-05.zip", lines_of(MARKS)[:601])
    commands.main(["import", "BTCUSDT", str(path)])
    assert "id_gap: 840 rows are missing, at the begin or end [flag]" in capsys.readouterr().out
    assert verify() == 1
    assert "id_gap: 840 rows are missing, at the begin or end [flag]" in capsys.readouterr().out
    monkeypatch.setattr(commands, "_now", lambda: start_of(DAY) + 601 * 60_000)
    assert verify() == 0, "the day isn't over"


@pytest.mark.parametrize(("factor", "distance"), [(Decimal("0.000000005"), "100.0%"), (Decimal(10), "899.8%")])
def test_mark_prices_far_from_the_day_s_trades_are_refused(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], factor: Decimal, distance: str
) -> None:
    """Klines of a premium index, or of another symbol, where trades of the day are stored."""
    lines = lines_of(MARKS)
    for column in ("open", "high", "low", "close"):
        of_all(column, lambda price: f"{Decimal(price) * factor:.8f}")(lines)
    path = written(tmp_path, "BTCUSDT-1m-2026-01-05.zip", lines)
    assert commands.main(["import", "BTCUSDT", str(path), "--store", str(tmp_path / "without trades")]) == 0
    store.add_trades(TRADED, Metadata.of(INSTRUMENT, "made", begins=True, ends=True))
    capsys.readouterr()
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    said = f"other_prices: mark prices must be near the last trades, in the median they are off on {DAY} ({distance})"
    assert said in capsys.readouterr().out
    assert store.days(MARKS, "BTCUSDT") == []
    assert commands.main(["import", "BTCUSDT", str(path), "--policy", "other_prices=flag"]) == 0
    capsys.readouterr()
    assert verify() == 1
    assert said in capsys.readouterr().out


def test_days_without_a_file_are_named_in_any_order_of_the_files(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = some_trades("BTCUSDT", DAY, days=5, a_day=50)
    paths = []
    for number in (4, 0, 2):
        day = DAY + timedelta(number)
        lines = [HEADERS[TRADES], *History(trades, now=0).lines(TRADES, day, day)]
        paths.append(str(written(tmp_path, f"BTCUSDT-aggTrades-{day}.zip", lines)))
    written(tmp_path, "BTCUSDT-1m-2026-01-05.zip", lines_of(MARKS))
    assert verify(*paths) == 1
    said = capsys.readouterr().out
    lost = int(np.searchsorted(trades.time, start_of(DAY + timedelta(2)))) - int(
        np.searchsorted(trades.time, start_of(DAY + timedelta(1)))
    )
    assert f"missing_day: 2026-01-06: there is no file, and {lost:,} ids are missing" in said
    assert "missing_day: 2026-01-08: there is no file, and" in said
    assert verify(paths[1], str(tmp_path / "BTCUSDT-1m-2026-01-05.zip")) == 0


def test_days_that_a_month_s_file_lacks_are_named(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = some_trades("BTCUSDT", DAY, days=3, a_day=50)
    lines = [line for day in (DAY, DAY + timedelta(2)) for line in History(trades, now=0).lines(TRADES, day, day)]
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01.zip", [HEADERS[TRADES], *lines])
    assert verify(str(path)) == 1
    said = "missing_day: 2026-01-01 to 2026-01-04, 2026-01-06, 2026-01-08 to 2026-01-31: the file has no row"
    assert said in capsys.readouterr().out
    commands.main(["import", "BTCUSDT", str(path)])
    assert said in capsys.readouterr().out
    assert load_trades(path, INSTRUMENT).trades.id.tolist(), "it is a tape all the same"


RAW_HEADER = "id,price,qty,quote_qty,time,is_buyer_maker"


def raw_rows(first: int, count: int, begin: int) -> Lines:
    """Two raw trades of one taker each, a second apart."""
    return [f"{first + n},100,1,100,{begin + n // 2 * 1_000},{n // 2 % 2 == 0}" for n in range(count)]


def raw_file(folder: Path, name: str, rows: Lines) -> str:
    path = folder / f"BTCUSDT-trades-{name}.csv"
    path.write_text("\n".join([RAW_HEADER, *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("second", "said", "missing"),
    [
        (401, "", 0),
        (404, "id_gap: 3 rows are missing after the day before", 3),
        (399, "repeated_at_midnight: 2 ids are in 2026-01-05 too, the first is 399", 0),
    ],
)
def test_days_of_raw_trades_are_joined_by_the_exchange_s_own_ids(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], second: int, said: str, missing: int
) -> None:
    """Joined, the ids are half as many; the raw ones say whether anything is missing between two days."""
    begin = start_of(DAY)
    paths = [raw_file(tmp_path, f"2026-01-0{5 + day}", raw_rows(first, 400, begin + day * 86_400_000))
             for day, first in enumerate((1, second))]  # fmt: skip
    assert commands.main(["import", "BTCUSDT", *paths]) == (second < 401)
    words = capsys.readouterr().out
    assert "400 rows, raw trades joined to 200 aggTrades: ok" in words
    assert ("399 to 400 are in 2026-01-05 too [refuse]" in words) == (second < 401)
    for asked in (paths, []):
        assert verify(*asked) == (1 if said or not asked else 0)
        words = capsys.readouterr().out
        assert said in words
        assert ("id_gap" in words, "repeated" in words) == ("id_gap" in said, "repeated" in said)
    if second < 401:
        with pytest.raises(DataError, match="a raw trade must be in one day only, 2 are in the day before too"):
            stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", shipped_instrument("BTCUSDT"), store)
        return
    tape = stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", shipped_instrument("BTCUSDT"), store)
    assert tape.trades.id.tolist() == [*range(1, 201), *range(201 + missing, 401 + missing)]
    assert (tape.report.ids_missing, Coverage.of(tape).ids_missing) == (missing, missing)
    edges = "2026-01-05 (begin), 2026-01-06 (end)" if second == 401 else "2026-01-05 (begin and end), 2026"
    assert f"not known to be whole: {edges}" in Coverage.of(tape).gaps_text


def test_days_of_one_file_of_raw_trades_are_joined_as_they_were_in_it(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file lacks four raw trades at midnight."""
    begin = start_of(DAY)
    rows = [*raw_rows(1, 400, begin), *raw_rows(405, 400, begin + 86_400_000)]
    assert commands.main(["import", "BTCUSDT", raw_file(tmp_path, "2026-01", rows)]) == 0
    capsys.readouterr()
    verify()
    assert "id_gap: 4 rows are missing after the day before" in capsys.readouterr().out
    tape = stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", shipped_instrument("BTCUSDT"), store)
    assert tape.trades.id.tolist() == [*range(1, 201), *range(205, 405)]


def test_a_file_of_raw_trades_between_two_days_of_another_repeats_none(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first file ends on the third day, so it says nothing of the last raw trade of the first day."""
    begin = start_of(DAY)
    around = [*raw_rows(1, 400, begin), *raw_rows(801, 400, begin + 2 * DAY_MS)]
    paths = [
        raw_file(tmp_path, "2026-01", around),
        raw_file(tmp_path, "2026-01-06", raw_rows(401, 400, begin + DAY_MS)),
    ]
    assert commands.main(["import", "BTCUSDT", *paths]) == 0
    first, between, last = store.days(TRADES, "BTCUSDT")
    assert (first.metadata.raw_first, first.metadata.raw_last) == (1, None)
    assert (between.metadata.raw_first, between.metadata.raw_last) == (401, 800)
    assert (last.metadata.raw_first, last.metadata.raw_last) == (None, 1_200)
    verify()
    words = capsys.readouterr().out
    assert "repeated_at_midnight" not in words
    assert words.count("nothing says how many rows are missing after the day before: 200 at most") == 1, (
        "the second day"
    )


def test_rows_that_are_no_trades_count_as_the_first_and_last_of_a_day_of_raw_trades(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two days whose ids join over rows of the insurance fund, at the end of one and the begin of the other."""
    paths = []
    for day, kinds in enumerate(((*["MARKET"] * 4, "ADL"), ("INSURANCE_FUND", "NA", *["MARKET"] * 3))):
        path, begin = tmp_path / f"BTCUSDT-trades-2026-01-0{5 + day}.csv", start_of(DAY + timedelta(day))
        rows = [f"{1 + 5 * day + n},100,1,{begin + n * 1_000},true,{kind}" for n, kind in enumerate(kinds)]
        path.write_text("\n".join(["trade_id,price,quantity,time,is_buyer_maker,order_type", *rows]) + "\n")
        paths.append(str(path))
    assert commands.main(["import", "BTCUSDT", *paths]) == 0
    first, second = store.days(TRADES, "BTCUSDT")
    assert (first.metadata.raw_first, first.metadata.raw_last, first.rows) == (1, 5, 4)
    assert (second.metadata.raw_first, second.metadata.raw_last, second.rows) == (6, 10, 3)
    assert verify(*paths) == 0
    verify()
    assert "id_gap" not in capsys.readouterr().out


def test_days_of_raw_trades_whose_ids_nobody_kept_are_not_said_to_lack_what_was_joined(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions stored them."""
    begin = start_of(DAY)
    with monkeypatch.context() as patch:
        patch.setattr(trade_checks, "first_and_last", lambda ids: None)
        paths = [raw_file(tmp_path, f"2026-01-0{5 + day}", raw_rows(1 + 400 * day, 400, begin + day * 86_400_000))
                 for day in range(2)]  # fmt: skip
        assert commands.main(["import", "BTCUSDT", *paths]) == 0
    verify()
    said = capsys.readouterr().out
    assert "nothing says how many rows are missing after the day before: 200 at most; ids of joined raw trades" in said
    tape = stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", shipped_instrument("BTCUSDT"), store)
    assert tape.trades.id.tolist() == list(range(1, 401))
    assert (tape.report.ids_missing, Coverage.of(tape).ids_missing, Coverage.of(tape).warning) == (0, 0, "")
    assert "not known to be whole: 2026-01-05 (begin and end)" in Coverage.of(tape).gaps_text
    settings = BarSettings(threshold=Decimal(1))
    assert not VolumeBarAggregator(settings, shipped_instrument("BTCUSDT")).process(tape.trades)["tainted"].any()


def test_a_gap_within_a_day_of_raw_trades_stays_a_gap(tmp_path: Path, store: Store) -> None:
    """Three ids lack in each day, and eleven between the days."""
    for day in range(2):
        path, begin = tmp_path / f"BTCUSDT-trades-2026-01-0{5 + day}.csv", start_of(DAY + timedelta(day))
        rows = [f"{1 + 20 * day + n + 3 * (n > 3)},100,1,100,{begin + n * 1_000},true" for n in range(6)]
        path.write_text("\n".join(["id,price,qty,quote_qty,time,is_buyer_maker", *rows]) + "\n")
        assert commands.main(["import", "BTCUSDT", str(path)]) == 0
    tape = stored_trades("store:BTCUSDT:2026-01-05:2026-01-06", shipped_instrument("BTCUSDT"), store)
    assert tape.trades.id.tolist() == [1, 2, 3, 4, 8, 9, 21, 22, 23, 24, 28, 29]
    assert (Coverage.of(tape).ids_missing, Coverage.of(tape).id_gaps) == (17, 3)


def test_a_day_of_aggtrades_after_one_of_raw_trades_can_be_played(tmp_path: Path, store: Store) -> None:
    """Raw ids are above those of aggTrades; between them nothing is counted."""
    raw = tmp_path / "BTCUSDT-trades-2026-01-04.csv"
    raw.write_text(f"id,price,qty,quote_qty,time,is_buyer_maker\n9000,100,1,100,{start_of(DAY) - 5},true\n")
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines_of())
    assert commands.main(["import", "BTCUSDT", str(raw), str(path)]) == 0
    tape = stored_trades("store:BTCUSDT:2026-01-04:2026-01-05", shipped_instrument("BTCUSDT"), store)
    assert tape.trades.id.tolist() == list(range(9_000, 9_001 + len(TRADED)))
    assert Coverage.of(tape).ids_missing == 0


def spot(lines: Lines) -> None:
    lines[:] = [f"{line},{'is_best_match' if number == 0 else 'True'}" for number, line in enumerate(lines)]


def spot_without_header(lines: Lines) -> None:
    spot(lines)
    del lines[0]


def coin_m(lines: Lines) -> None:
    lines[0] = lines[0].replace("agg_trade_id", "id").replace("first_trade_id", "base_qty")


def headed(header: str) -> Callable[[Lines], None]:
    """Name the columns otherwise; a last one of spot's is added where the header has one more."""

    def spoil(lines: Lines) -> None:
        more = ",True" * (header.count(",") - lines[0].count(","))
        lines[:] = [header, *(f"{line}{more}" for line in lines[1:])]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [
        (spot, "BTCUSDT-aggTrades-2026-01-05", "is spot's: files of USD-M Futures have no is_best_match"),
        (spot_without_header, "BTCUSDT-aggTrades-2026-01-05", "is spot's"),
        (headed("aggTradeId,price,qty,first,last,time,isBuyerMaker,isBestMatch"), "d-aggTrades", "is spot's"),
        (headed("a,p,q,f,l,T,m,M"), "d-aggTrades", "is spot's"),
        (headed("id,price,qty,baseQty,quoteQty,time,isBuyerMaker"), "d-trades", "is COIN-M's"),
        (headed("id,Price,Qty,Base Qty,x,Time,Is Buyer Maker"), "d-trades", "is COIN-M's"),
        (coin_m, "BTCUSDT-trades-2026-01-05", "is COIN-M's: files of USD-M Futures have quote_qty"),
        (lambda _: None, "aggTrades of BTCUSD_PERP", "USD_PERP is of COIN-M"),
        (lambda _: None, "aggTrades of BTCUSD_260327", "USD_260327 is of COIN-M"),
    ],
)
def test_h6_trades_of_another_market_are_refused(
    tmp_path: Path,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Lines], None],
    name: str,
    said: str,
) -> None:
    """By verify, import and as a tape; nothing is stored."""
    lines = lines_of()
    spoil(lines)
    path = tmp_path / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    for command in (["verify", str(path), "--symbol", "BTCUSDT"], ["import", "BTCUSDT", str(path)]):
        assert commands.main(command) == 1
        assert f"other_market: must be of USD-M Futures, {said}" in capsys.readouterr().out
    assert store.days(TRADES, "BTCUSDT") == []
    with pytest.raises(DataError, match="must be of USD-M Futures"):
        load_trades(path, INSTRUMENT)


def test_a_quarterly_of_usd_m_is_no_coin_m(tmp_path: Path) -> None:
    path = tmp_path / "aggTrades of BTCUSDT_260327 and BTCBUSD_210129.csv"
    path.write_text("\n".join(lines_of()) + "\n")
    assert inspect(path, INSTRUMENT).refused is None


def test_h9_a_zip_of_a_mac_is_read(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2026-01-05.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTCUSDT-aggTrades-2026-01-05.csv", "\n".join(lines_of()) + "\n")
        for name in ("__MACOSX/._BTCUSDT-aggTrades-2026-01-05.csv", ".DS_Store", "folder/._x", "folder/"):
            archive.writestr(name, b"\x00\x05\x16\x07")
    assert_same(load_trades(path, INSTRUMENT).trades, TRADED)


@pytest.mark.parametrize("form", ["{:E}", "{:.12E}", "+{}", "{}000", "0{}", "{:e}"])
def test_numbers_of_other_forms_are_read_exactly(tmp_path: Path, form: str) -> None:
    lines = lines_of()
    for column in ("price", "quantity"):
        of_all(column, lambda text: form.format(Decimal(text)))(lines)
    path = tmp_path / "BTCUSDT-aggTrades-2026-01-05.csv"
    path.write_text("\n".join(lines) + "\n")
    assert_same(load_trades(path, INSTRUMENT).trades, TRADED)


def test_h9_a_zero_with_an_exponent_is_a_zero(tmp_path: Path) -> None:
    lines = lines_of()
    edited(50, quantity="0E-8")(lines)
    path = tmp_path / "BTCUSDT-aggTrades-2026-01-05.csv"
    path.write_text("\n".join(lines) + "\n")
    assert inspect(path, INSTRUMENT).counts == {"not_positive": 1}


def test_h9_an_id_with_a_point_is_no_id(tmp_path: Path) -> None:
    lines = lines_of()
    of_all("agg_trade_id", lambda text: f"{text}.0", 25, 25)(lines)
    path = tmp_path / "BTCUSDT-aggTrades-2026-01-05.csv"
    path.write_text("\n".join(lines) + "\n")
    (finding, *_) = inspect(path, INSTRUMENT).findings
    assert str(finding).startswith("bad_value in 1 row (25): id must be a whole number, was 1023.0")


HEADER_FORMS = {
    "ccxt": "id,timestamp,datetime,symbol,side,price,amount",
    "tardis": "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
    "dump": "aggTradeId,Price,Quantity,transactTime,isBuyerMaker",
    "own": "no,px,sz,at,taker",
}


@pytest.mark.parametrize("form", HEADER_FORMS)
def test_files_of_other_sources_are_read(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    header = HEADER_FORMS[form].split(",")
    micro = 1_000 if form == "tardis" else 1
    rows = []
    for i, p, q, t, m in zip(*(column.tolist() for column in TRADED.columns), strict=True):
        price, quantity, side = Decimal(p) / 10, Decimal(q) / 1_000, "sell" if m else "buy"
        cells: dict[str, object] = {"datetime": "x", "symbol": "BTCUSDT", "exchange": "binance-futures"}
        cells |= dict.fromkeys(("id", "aggTradeId", "no"), i) | dict.fromkeys(("price", "Price", "px"), price)
        cells |= dict.fromkeys(("amount", "Quantity", "sz"), quantity) | dict.fromkeys(("side", "taker"), side)
        cells |= dict.fromkeys(("timestamp", "transactTime", "at"), t * micro) | {
            "local_timestamp": t,
            "isBuyerMaker": m,
        }
        rows.append(",".join(str(cells[name]) for name in header))
    path = tmp_path / f"{form} aggTrades.csv"
    path.write_text("\n".join([",".join(header), *rows]) + "\n")
    given = ["--columns", "id=no,price=px,quantity=sz,time=at,side=taker"] if form == "own" else []
    assert commands.main(["import", "BTCUSDT", str(path), *given]) == 0
    assert_same(store.trades(shipped_instrument("BTCUSDT"), DAY, DAY), TRADED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("price=px", "columns: must be in the file's header"),
        ("cost=price", "must be NAME=THEIRS"),
        ("price", "NAME=THEIRS"),
    ],
)
def test_a_mapping_of_columns_must_fit(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    path = tmp_path / "aggTrades.csv"
    path.write_text("\n".join(lines_of()) + "\n")
    with suppress(SystemExit):
        assert commands.main(["import", "BTCUSDT", str(path), "--columns", given]) == 1
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert store.days(TRADES, "BTCUSDT") == []


def assert_same(found: Trades, expected: Trades) -> None:
    for one, other in zip(found.columns, expected.columns, strict=True):
        assert one.tolist() == other.tolist()


def test_an_unzipped_file_is_held_to_its_name_too(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in (DAY, DAY + timedelta(1)):
        (tmp_path / f"BTCUSDT-aggTrades-{day}.csv").write_text("\n".join(lines_of()) + "\n")
    assert verify(str(tmp_path)) == 1
    assert capsys.readouterr().out.startswith(
        "BTCUSDT-aggTrades-2026-01-05.csv: 1,200 rows: ok\n"
        "BTCUSDT-aggTrades-2026-01-06.csv: 1,200 rows: refused\n    wrong_day in 1200 rows (2-1201)"
    )
    assert commands.main(["import", "BTCUSDT", str(tmp_path / "BTCUSDT-aggTrades-2026-01-05.csv")]) == 0
    assert not store.days(TRADES, "BTCUSDT")[0].complete, "nothing vouches for its being whole"


def test_a_stored_day_that_can_not_be_read_hides_no_other(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    trades = some_trades("BTCUSDT", DAY, days=3, a_day=1_500)
    store.add_trades(trades, Metadata.of(INSTRUMENT, "made", begins=True, ends=True))
    assert store.folder is not None
    path = store.folder / "trades" / "BTCUSDT" / f"{DAY + timedelta(1)}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert verify() == 1
    said = capsys.readouterr().out
    assert "trades/BTCUSDT/2026-01-05: 1" in said
    assert "trades/BTCUSDT/2026-01-07: 1" in said
    assert "unreadable: trades/BTCUSDT/2026-01-06.parquet: can't be read" in said
    assert said.endswith("3 files: unreadable in 1\n")
    assert commands.main(["list"]) == 1
    said = capsys.readouterr().out
    assert [f"2026-01-0{number} " in said for number in (5, 6, 7)] == [True, False, True]
    assert "unreadable: trades/BTCUSDT/2026-01-06.parquet: can't be read" in said


def test_files_whose_name_says_no_symbol_need_one(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my tape.csv"
    path.write_text("\n".join(lines_of()) + "\n")
    assert verify(str(path)) == 2
    assert "symbol: must be given for my tape.csv" in capsys.readouterr().err
    assert verify(str(path), "--symbol", "BTCUSDT") == 0
    assert verify(str(path), "--symbol", "ODDUSDT") == 2
    assert "symbol: ODDUSDT's tick and step are not shipped" in capsys.readouterr().err
    assert verify(str(path), "--symbol", "ODDUSDT", "--tick", "0.1", "--step", "0.001") == 0


@pytest.mark.parametrize("name", ["a.csv", "b.csv.gz", "inner/c.parquet", "d.zip"])
def test_verify_looks_at_every_file_of_trades_in_a_folder(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "folder" / "notes.txt").touch()
    text = "\n".join(lines_of()) + "\n"
    if name.endswith("parquet"):
        pd.read_csv(io.StringIO(text)).to_parquet(path)
    else:
        write = {"csv": str.encode, "gz": lambda text: gzip.compress(text.encode()), "zip": partial(zipped, name)}
        path.write_bytes(write[name.rpartition(".")[2]](text))
    assert verify(str(tmp_path / "folder"), "--symbol", "BTCUSDT") == 0
    assert capsys.readouterr().out == f"{path.name}: 1,200 rows: ok\n1 file: no fault\n"


@pytest.mark.parametrize("given", [["{}"], ["--store", "{}/no such"]])
def test_verify_of_nothing_is_not_sound(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    assert verify(*(text.format(tmp_path) for text in given)) == 2
    assert f"data verify: nothing to verify in {tmp_path}" in capsys.readouterr().err


# --- data import and list ---------------------------------------------------------------------------------------------


def test_files_of_trades_are_imported(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recorded-aggTrades.csv"
    path.write_text("\n".join(lines_of()[:601]) + "\n")
    zip_path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines_of())
    assert commands.main(["import", "BTCUSDT", str(path)]) == 0
    assert "without its begin and end" in capsys.readouterr().out
    assert commands.main(["import", "BTCUSDT", str(path), str(zip_path)]) == 0
    (day,) = store.days(TRADES, "BTCUSDT")
    assert (day.rows, day.complete) == (1_200, True)
    assert np.array_equal(store.trades(INSTRUMENT, DAY, DAY).quantity, TRADED.quantity)
    capsys.readouterr()
    assert commands.main(["list"]) == 0
    said = capsys.readouterr().out
    assert "trades   BTCUSDT      2026-01-05        1,200 rows" in said
    assert "from recorded-aggTrades.csv, BTCUSDT-aggTrades-2026-01-05.zip" in said


def test_a_refused_file_is_not_imported(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of()
    edited(52, price="60000.05")(lines)
    path = tmp_path / "aggTrades.csv"
    path.write_text("\n".join(lines) + "\n")
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    assert store.days(TRADES, "BTCUSDT") == []
    assert commands.main(["import", "BTCUSDT", str(path), "--policy", "bad_value=drop"]) == 1, "a row is lost"
    assert "1 missing  bad_value 1" in capsys.readouterr().out
    assert commands.main(["list", "--store", str(tmp_path / "empty")]) == 0
    assert "nothing is stored" in capsys.readouterr().out


def test_rows_of_another_day_that_are_dropped_are_not_taken(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    after = DAY + timedelta(1)
    later = some_trades("BTCUSDT", after, days=1, a_day=5, first_id=2_200)
    lines = [*lines_of(), *History(later, now=0).lines(TRADES, after, after)]
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines)
    assert commands.main(["import", "BTCUSDT", str(path), "--policy", "wrong_day=drop"]) == 1
    assert "wrong_day in 5 rows (1202-1206)" in capsys.readouterr().out
    assert store.days(TRADES, "BTCUSDT")[0].complete, "the day itself lacks none"


def test_an_empty_day_may_be_let_pass(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "BTCUSDT-aggTrades-2026-01-05.zip", lines_of()[:1])
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    assert commands.main(["import", "BTCUSDT", str(path), "--policy", "empty=flag"]) == 0
    assert store.days(TRADES, "BTCUSDT") == []


def test_every_fault_is_explained_where_policies_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["verify", "--help"])
    said = capsys.readouterr().out
    for name, fault in FAULTS.items():
        assert f"  {name:15} {fault.policy}" in said
        assert fault.rule in said


def test_raw_trades_are_not_mixed_with_aggtrades(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their ids are ours, counted from raw ids; REST knows nothing of them."""
    raw = tmp_path / "BTCUSDT-trades-x.csv"
    raw.write_text(f"id,price,qty,quote_qty,time,is_buyer_maker\n5000,60000.0,1.000,60000.0,{start_of(DAY)},true\n")
    assert commands.main(["import", "BTCUSDT", str(raw)]) == 0
    path = tmp_path / "aggTrades.csv"
    path.write_text("\n".join(lines_of()) + "\n")
    assert commands.main(["import", "BTCUSDT", str(path)]) == 1
    assert "made_of must be trades as stored, was aggTrades" in capsys.readouterr().out


@pytest.mark.recordings
def test_the_gaps_of_a_real_recording_are_all_named(
    recordings: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    assert verify(str(path), "--symbol", "LTCUSDT") == 1
    said = capsys.readouterr().out
    assert "id_gap in 19 rows" in said
    assert "197 are missing" in said
    (path,) = (recordings / "spot_trades").glob("BTCUSDT*noside*.parquet")
    assert verify(str(path), "--symbol", "BTCUSDT") == 1
    assert "unreadable: must have the columns id, is_buyer_maker" in capsys.readouterr().out
