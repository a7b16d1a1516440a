"""Corrupted, partial and foreign files, each through verify, import, a tape and fetch: told alike, and nothing is lost.

Beside each file is a sound one of the day after, which every command must take whatever the other is like.
"""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.history import HEADERS, History, HistoryServer, checksum, some_trades, zipped

from voltrade.data import commands
from voltrade.data.archive_files import ArchiveFile, checksum_path
from voltrade.data.kinds import TRADES, start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.tape import load_trades, stored_trades
from voltrade.errors import DataError
from voltrade.model import Trades
from voltrade.simulated.symbols import shipped_instrument

DAY = date(2026, 1, 5)
AFTER = DAY + timedelta(1)
BTCUSDT = shipped_instrument("BTCUSDT")
TRADED = some_trades("BTCUSDT", DAY, days=2, a_day=150)
HISTORY = History(TRADED, now=start_of(DAY + timedelta(3)))
FILE, NEXT = (ArchiveFile(TRADES, "BTCUSDT", day, day) for day in (DAY, AFTER))
HEADER = HEADERS[TRADES]
ROWS = HISTORY.lines(TRADES, DAY, DAY)
"""Row n of a file with a header is `ROWS[n - 2]`."""
COUNT = len(ROWS)
FIRST_OF_NEXT = HISTORY.lines(TRADES, AFTER, AFTER)[0]
MEMBER = FILE.name.replace(".zip", ".csv")


# --- how a file is spoiled --------------------------------------------------------------------------------------------


def text(rows: Iterable[str] = ROWS, header: str = HEADER) -> str:
    return "".join(f"{line}\n" for line in (header, *rows) if line)


def archive(*members: tuple[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return buffer.getvalue()


def a_zip(content: str | bytes) -> bytes:
    return archive((MEMBER, content))


def with_cell(column: str, change: Callable[[str], str], *lines: int) -> list[str]:
    """Change a column in some lines of the file, or in all."""
    place = HEADER.split(",").index(column)
    found = []
    for number, row in enumerate(ROWS, 2):
        cells = row.split(",")
        cells[place] = change(cells[place]) if not lines or number in lines else cells[place]
        found.append(",".join(cells))
    return found


def with_flipped_byte() -> bytes:
    content = bytearray(archive((MEMBER, text()), compression=zipfile.ZIP_STORED))
    content[content.index(ROWS[70].encode()) + 3] ^= 1
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(a_zip(text()))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    return bytes(content)


def reordered(line: str) -> str:
    cells = line.split(",")
    return ",".join([cells[5], cells[2], cells[1], cells[0], *cells[3:5], cells[6]])


def foreign(header: str, symbol: str = "BTCUSDT", exchange: str = "binance-futures", micro: bool = False) -> str:
    """Write the day under the names that others use."""
    lines = []
    for row in ROWS:
        number, price, quantity, _, _, time, is_maker = row.split(",")
        known = {
            **dict.fromkeys(("id", "aggregate_trade_id", "aggTradeId", "Agg Trade Id"), number),
            **dict.fromkeys(("price", "Price"), price),
            **dict.fromkeys(("amount", "Quantity", "quantity"), quantity),
            **dict.fromkeys(("timestamp", "transactTime", "Time"), time + "000" * micro),
            **dict.fromkeys(("is_buyer_maker", "isBuyerMaker", "Is Buyer Maker"), is_maker),
            "side": "sell" if is_maker == "true" else "buy",
            "symbol": symbol,
            "exchange": exchange,
        }
        lines.append(",".join(known.get(name, "") for name in header.split(",")))
    return text(lines, header)


TARDIS = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
CCXT = "timestamp,datetime,symbol,id,order,type,side,takerOrMaker,price,amount,cost,fee,fees"


# --- what must be said of it ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A file of the day, and what is said of it.

    Attributes:
        content: its bytes.
        said: the fault with its rows and rule; empty where there is nothing to say.
        kept: rows of the day that are taken; None where the file is refused.
        tape: whether it may be played as it is: a tape is refused where a row would have to be dropped or moved.
        stated: bytes that the CHECKSUM is of.
        alone: name of a file that isn't named as the archive's are.
        after: what is said of the day after.
    """

    content: bytes
    said: str = ""
    kept: slice | None = None
    tape: bool = True
    stated: bytes | None = None
    alone: str = ""
    after: str = ""


ALL = slice(None)
AT = 100
"""A line in the middle of the file."""


def refused(content: bytes, said: str, **more: str | bytes) -> Case:
    return Case(content, said, **more)  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "sound": Case(a_zip(text()), kept=ALL),
    "truncated zip": refused(a_zip(text())[:900], "unreadable: can't be read: File is not a zip file"),
    "wrong CHECKSUM": refused(a_zip(text()), "checksum: SHA-256 must be ", stated=b"other bytes"),
    "CRC error": refused(with_flipped_byte(), "unreadable: can't be read: Bad CRC-32"),
    "no byte": refused(b"", "unreadable: must have a first line, has none"),
    "empty file in a zip": refused(a_zip(""), "unreadable: must have a first line, has none"),
    "header alone": refused(a_zip(text([])), "empty: must hold at least one trade, has none"),
    "no header": Case(a_zip(text(header="")), kept=ALL),
    "header twice": refused(a_zip(text([HEADER, *ROWS])), "bad_value in 1 row (2): id must be a whole number"),
    "header in the middle": refused(
        a_zip(text([*ROWS[: AT - 2], HEADER, *ROWS[AT - 2 :]])), f"bad_value in 1 row ({AT}): id must be a whole number"
    ),
    "columns in another order": Case(a_zip(text(map(reordered, ROWS), reordered(HEADER))), kept=ALL),
    "columns in another order, no header": refused(
        a_zip(text(map(reordered, ROWS), "")), f"bad_value in {COUNT} rows (1-{COUNT}): price must be a multiple of"
    ),
    "tardis": Case(
        gzip.compress(foreign(TARDIS, micro=True).encode()),
        f"microseconds in {COUNT} rows (2-{COUNT + 1}): time must be in milliseconds",
        ALL,
        alone="binance-futures_aggTrades_2026-01-05_BTCUSDT.csv.gz",
    ),
    "tardis of spot": refused(
        gzip.compress(foreign(TARDIS, exchange="binance").encode()),
        f"other_market in {COUNT} rows (2-{COUNT + 1}): exchange must be binance-futures or binanceusdm, was binance",
        alone="binance_aggTrades_2026-01-05_BTCUSDT.csv.gz",
    ),
    "ccxt": Case(foreign(CCXT, "BTC/USDT:USDT").encode(), kept=ALL, alone="ccxt aggTrades.csv"),
    "ccxt of spot": refused(
        foreign(CCXT, "BTC/USDT").encode(),
        f"other_symbol in {COUNT} rows (2-{COUNT + 1}): symbol must be BTCUSDT, was BTC/USDT",
        alone="ccxt aggTrades.csv",
    ),
    "Kaggle": Case(foreign("Agg Trade Id,Price,Quantity,Time,Is Buyer Maker").encode(), kept=ALL, alone="dump.csv"),
    "Kaggle with an index": Case(
        foreign(",aggregate_trade_id,price,quantity,timestamp,is_buyer_maker").encode(), kept=ALL, alone="dump.csv"
    ),
    "names of nobody": refused(
        foreign("no,px,sz,at").encode(), "unreadable: must have the columns id, price, quantity", alone="d-trades.csv"
    ),
    "zip of a Mac": Case(
        archive((MEMBER, text()), (f"__MACOSX/._{MEMBER}", b"\x00\x05\x16\x07"), (".DS_Store", b"\x00")), kept=ALL
    ),
    "zip with two files": refused(
        archive((MEMBER, text()), ("other.csv", text())), "unreadable: must hold one file, holds 2"
    ),
    "zip in a zip": refused(archive((FILE.name, a_zip(text()))), "unreadable: must be a CSV in UTF-8, is a zip"),
    "encrypted zip": refused(encrypted(), "is encrypted, password required"),
    "gz": Case(gzip.compress(text().encode()), kept=ALL, alone=f"{MEMBER}.gz"),
    "gz under a zip's name": Case(gzip.compress(text().encode()), kept=ALL),
    "truncated gz": refused(
        gzip.compress(text().encode())[:900], "unreadable: can't be read: Compressed file ended", alone=f"{MEMBER}.gz"
    ),
    "page of the web": refused(b"<!DOCTYPE html><html>Log in, please", "unreadable: must be a CSV in UTF-8, is a page"),
    "spot's": refused(
        a_zip(text([f"{row},True" for row in ROWS], f"{HEADER},is_best_match")),
        "other_market: must be of USD-M Futures, is spot's",
    ),
    "spot's, no header": refused(
        a_zip(text([f"{row},True" for row in ROWS], "")), "other_market: must be of USD-M Futures, is spot's"
    ),
    "coin-margined": refused(
        archive(("BTCUSD_PERP-aggTrades-2026-01-05.csv", text())), "other_symbol: must be of BTCUSDT, is BTCUSD_PERP"
    ),
    "another symbol's": refused(
        archive(("ETHUSDT-aggTrades-2026-01-05.csv", text())), "other_symbol: must be of BTCUSDT, is ETHUSDT-aggTrades"
    ),
    "another day's": refused(
        a_zip(text(HISTORY.lines(TRADES, AFTER, AFTER))), f"wrong_day in {300 - COUNT} rows (2-{301 - COUNT}): time"
    ),
    "stopped in the afternoon": Case(
        a_zip(text(ROWS[:AT])),
        kept=slice(0, AT),
        after=f"id_gap: {COUNT - AT} rows are missing after the day before",
    ),
    "hole in the ids": Case(
        a_zip(text([*ROWS[: AT - 2], *ROWS[AT + 8 :]])),
        f"id_gap in 1 row ({AT}): ids must follow each other, 10 are missing, the first from 1098 to 1107",
        slice(AT - 2, AT + 8),
    ),
    "ids twice": Case(
        a_zip(text([*ROWS[:AT], *ROWS[AT - 10 :]])),
        f"duplicate_id in 10 rows ({AT + 2}-{AT + 11}): id must not be there twice, was 1090",
        ALL,
        tape=False,
    ),
    "ids twice, of other trades": refused(
        a_zip(text([*ROWS[:AT], ROWS[AT - 1].replace(",6", ",7", 1), *ROWS[AT:]])),
        f"conflicting_id in 1 row ({AT + 2}): rows of one id must agree, the id, was 1099",
    ),
    "an id twice over midnight": Case(
        a_zip(text([*ROWS, FIRST_OF_NEXT.replace(FIRST_OF_NEXT.split(",")[5], str(start_of(AFTER) - 1))])),
        kept=ALL,
        after="repeated_at_midnight: ",
    ),
    "ids backwards": Case(
        a_zip(text(ROWS[::-1])),
        f"unsorted in {COUNT - 1} rows (3-{COUNT + 1}): id must ascend from row to row",
        ALL,
        tape=False,
    ),
    "ids against the times": refused(
        a_zip(text(with_cell("agg_trade_id", lambda number: str(3_000 - int(number))))),
        "time must be in the order of the ids, was ",
    ),
    "times out of order": refused(
        a_zip(text(with_cell("transact_time", lambda _: str(start_of(DAY) + 5), AT))),
        f"time_back in 1 row ({AT}): time must be in the order of the ids, was 1767571200005",
    ),
    "microseconds": Case(
        a_zip(text(with_cell("transact_time", lambda time: f"{time}123"))),
        f"microseconds in {COUNT} rows (2-{COUNT + 1}): time must be in milliseconds",
        ALL,
    ),
    "seconds": refused(
        a_zip(text(with_cell("transact_time", lambda time: time[:-3]))),
        f"bad_value in {COUNT} rows (2-{COUNT + 1}): time must be in milliseconds or microseconds",
    ),
    "price 0": Case(
        a_zip(text(with_cell("price", lambda _: "0.0", AT, AT + 1))),
        f"not_positive in 2 rows ({AT}-{AT + 1}): price and quantity must be positive",
        slice(AT - 2, AT),
        tape=False,
    ),
    "negative price": Case(
        a_zip(text(with_cell("price", lambda price: f"-{price}", AT))),
        f"not_positive in 1 row ({AT}): price and quantity must be positive",
        slice(AT - 2, AT - 1),
        tape=False,
    ),
    "price NaN": refused(
        a_zip(text(with_cell("price", lambda _: "NaN", AT))), f"bad_value in 1 row ({AT}): price must be a multiple"
    ),
    "prices as 6E4": Case(a_zip(text(with_cell("price", lambda price: f"{Decimal(price):E}"))), kept=ALL),
    "ids as 1.00E+03": refused(
        a_zip(text(with_cell("agg_trade_id", lambda number: f"{int(number):.2E}"))), "id must be a whole number, was 1."
    ),
    "quantity below the step": refused(
        a_zip(text(with_cell("quantity", lambda _: "0.0005", AT))),
        f"bad_value in 1 row ({AT}): quantity must be a multiple of 0.001, was 0.0005",
    ),
    "thousands' separators": refused(
        a_zip(text(with_cell("price", lambda price: f'"{float(price):,.1f}"'))), "price must be a multiple of 0.1, was "
    ),
    "commas for points": refused(
        a_zip(text().replace(",", ";").replace(".", ",")), "unreadable: must have commas between its columns"
    ),
    "BOM": Case(a_zip(text().encode("utf-8-sig")), kept=ALL),
    "BOM, no header": Case(a_zip(text(header="").encode("utf-8-sig")), kept=ALL),
    "UTF-16": refused(a_zip(text().encode("utf-16")), "unreadable: must be a CSV in UTF-8, is in UTF-16"),
    "lines of Windows": Case(a_zip(text().replace("\n", "\r\n")), kept=ALL),
    "last row cut": refused(
        a_zip(text([*ROWS[:-1], ROWS[-1].rpartition(",")[0][:-3]])),
        f"unreadable in 1 row ({COUNT + 1}): must have 7 columns, has 6"
    ),
    "zeros of a disk": refused(a_zip(text()[:4_000] + "\0" * 300 + text()[4_300:]), "unreadable in 1 row ("),
}  # fmt: skip


def kept_of(case: Case) -> Trades | None:
    """Return the trades of the day that are taken; None where the file is refused."""
    of_day = TRADED[:COUNT]
    if case.kept is None:
        return None
    if case.kept == ALL:
        return of_day
    inside = np.zeros(COUNT, np.bool_)
    inside[case.kept] = True
    return of_day[inside if case.kept.start == 0 else ~inside]


def same(found: Trades, expected: Trades) -> bool:
    return all(one.tolist() == other.tolist() for one, other in zip(found.columns, expected.columns, strict=True))


# --- the four commands ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[HistoryServer]:
    with HistoryServer(HISTORY).running() as server:
        server.takes_s = 0.0
        yield server


@dataclass
class Files:
    """The two files of a case in a folder, and a store."""

    folder: Path
    case: Case
    capsys: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        (self.folder / "files").mkdir()
        self.path = self.write(self.case.alone or FILE.name, self.case.content, self.case.stated)
        sound = zipped(NEXT.name, HISTORY.csv(NEXT))
        self.next = self.write(NEXT.name, sound)

    def write(self, name: str, content: bytes, stated: bytes | None = None) -> Path:
        path = self.folder / "files" / name
        path.write_bytes(content)
        if name.endswith(".zip"):
            checksum_path(path).write_bytes(checksum(name, stated or content))
        return path

    def command(self, *given: str) -> tuple[int, str]:
        """Run a command; return its exit status and what it said."""
        status = commands.main([*given, "--store", str(self.folder / given[0])])
        return status, self.capsys.readouterr().out

    def stored(self, command: str, day: date) -> Trades | None:
        store = Store(self.folder / command)
        return store.trades(BTCUSDT, day, day) if store.day(TRADES, "BTCUSDT", day) else None


NEXT_DAY = TRADED[COUNT:]


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_told_alike_by_every_command_and_nothing_is_lost(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: HistoryServer,
    name: str,
) -> None:
    monkeypatch.setattr(commands, "_now", lambda: HISTORY.now)
    case = CASES[name]
    files, kept = Files(tmp_path, case, capsys), kept_of(case)
    check_verify(files)
    check_import(files, kept)
    check_tape(files, kept)
    check_fetch(files, kept, server)
    assert files.path.read_bytes() == case.content, "the file is as it was"


def check_verify(files: Files) -> None:
    """Of both files: each is named; the status is 0 only where there is no fault."""
    case = files.case
    status, said = files.command("verify", str(files.path), str(files.next), "--symbol", "BTCUSDT")
    assert status == (1 if case.said or (case.after and not case.alone) else 0)
    assert f"{files.path.name}: " in said
    assert (case.said or f"{files.path.name}: ") in said
    assert (": refused" in said) == (case.kept is None)
    of_next = said[said.index(NEXT.name) :]
    assert f"{len(NEXT_DAY)} rows: {'with faults' if case.after else 'ok'}" in of_next
    assert case.after in of_next


def check_import(files: Files, kept: Trades | None) -> None:
    """The sound file is stored whatever the other is like; the status is 0 only where all rows were taken."""
    case = files.case
    status, said = files.command("import", "BTCUSDT", str(files.path), str(files.next))
    assert case.said in said
    is_repeated = case.after.startswith("repeated")
    lacks = kept is None or "not_positive" in case.said or is_repeated
    assert status == (1 if lacks else 0)
    found = files.stored("import", DAY)
    assert (found is None) == (kept is None)
    assert found is None or kept is None or same(found, kept)
    of_next = files.stored("import", AFTER)
    assert of_next is not None
    assert same(of_next, NEXT_DAY[1:] if is_repeated else NEXT_DAY)
    if kept is None:
        return
    verified, told = commands.main(["verify", "--store", str(files.folder / "import")]), files.capsys.readouterr().out
    assert verified == 1
    assert "open_day: nothing says" in told, "no file proves that it is the whole day"
    if case.after.startswith("id_gap"):
        assert case.after in told


def check_tape(files: Files, kept: Trades | None) -> None:
    case = files.case
    if kept is None or not case.tape:
        with pytest.raises(DataError) as refusal:
            load_trades(files.path, BTCUSDT)
        assert files.path.name in str(refusal.value)
        rule = case.said.partition(": ")[2]
        assert rule in str(refusal.value)
        if "(" in case.said.partition(":")[0]:
            first = case.said.partition("(")[2].split(")")[0].split("-")[0]
            assert f"row {first}" in str(refusal.value)
        return
    tape = load_trades(files.path, BTCUSDT)
    assert same(tape.trades[: len(kept)], kept)
    assert tape.open_days == (f"{DAY} (begin and end)",), "no file proves that it is the whole day"
    assert tape.report.ids_missing == (COUNT - len(kept) if case.said.startswith("id_gap") else 0)


def check_fetch(files: Files, kept: Trades | None, server: HistoryServer) -> None:
    """From an archive that has this file, and REST that has all: what is refused is kept, what is missing comes."""
    case = files.case
    server.files.clear()
    server.put(NEXT)
    server.files[f"/{FILE.path}"] = case.content
    server.files[f"/{FILE.path}.CHECKSUM"] = checksum(FILE.name, case.stated or case.content)
    days = ("--from", str(DAY), "--to", str(AFTER), "--kinds", "trades")
    given = ("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    status, said = files.command(*given)
    assert case.said in said
    assert status == (1 if kept is None else 0)
    of_next = files.stored("fetch", AFTER)
    assert of_next is not None
    assert same(of_next, NEXT_DAY)
    of_day = files.stored("fetch", DAY)
    kept_file = files.folder / "fetch" / ".downloads" / FILE.name
    if kept is None:
        is_empty = case.said.startswith("empty")  # REST is asked whether none was made
        assert (of_day is not None, f"trades: not all of {DAY}" in said) == (is_empty, not is_empty)
        assert kept_file.read_bytes() == case.content
        return
    assert of_day is not None
    assert same(of_day, TRADED[:COUNT])
    assert not kept_file.exists()
    if not (case.said or case.after):
        return  # what had to be mended is known to be whole, without a network
    assert files.command(*given)[0] == 0
    verified = commands.main(["verify", "--store", str(files.folder / "fetch")])
    assert verified == 0, files.capsys.readouterr().out


def test_rows_of_other_symbols_can_be_dropped_from_a_dump_of_many_or_taken_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = foreign(CCXT, "BTC/USDT:USDT").splitlines()
    others = [line.replace("BTC/USDT:USDT", "ETH/USDT:USDT").replace(",6", ",7") for line in lines[1:]]
    path = tmp_path / "many aggTrades.csv"
    path.write_text("\n".join([*lines, *others]) + "\n")
    given = ("import", "BTCUSDT", str(path), "--store", str(tmp_path / "store"))
    assert commands.main([*given]) == 1
    rows = f"({COUNT + 2}-{2 * COUNT + 1})"
    assert f"other_symbol in {COUNT} rows {rows}: symbol must be BTCUSDT, was ETH/USDT:USDT" in capsys.readouterr().out
    assert commands.main([*given, "--policy", "other_symbol=drop"]) == 0
    store = Store(tmp_path / "store")
    assert same(store.trades(BTCUSDT, DAY, DAY), TRADED[:COUNT])
    path.write_text(foreign(CCXT, "BTC-PERP"))
    assert commands.main([*given, "--policy", "other_symbol=flag"]) == 0
    assert f"other_symbol in {COUNT} rows" in capsys.readouterr().out


# --- a store that is broken -------------------------------------------------------------------------------------------


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / f"{DAY}.parquet"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def without_metadata(folder: Path) -> None:
    path = folder / f"{DAY}.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def altered(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[200] ^= 1
    return bytes(changed)


def half_a_part(folder: Path) -> None:
    content = (folder / f"{DAY}.parquet").read_bytes()
    (folder / f"{DAY}.parts").mkdir()
    (folder / f"{DAY}.parts" / f"{1:020d}-{9:020d}-x.parquet").write_bytes(content[: len(content) // 2])


def parts_alone(folder: Path) -> None:
    half_a_part(folder)
    (folder / f"{DAY}.parquet").unlink()


def of_another_day(folder: Path) -> None:
    other = DAY + timedelta(9)
    trades = some_trades("BTCUSDT", other, days=1, a_day=50)
    Store(folder.parents[1]).add_trades(trades, Metadata.of(BTCUSDT, "made"))
    (folder / f"{other}.parquet").replace(folder / f"{DAY}.parquet")


def of_another_symbol(folder: Path) -> None:
    trades = some_trades("ETHUSDT", DAY, days=1, a_day=50)
    Store(folder.parents[1]).add_trades(trades, Metadata.of(BTCUSDT, "made"))
    (folder.parent / "ETHUSDT" / f"{DAY}.parquet").replace(folder / f"{DAY}.parquet")


STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "half a file": (rewritten(lambda content: content[: len(content) // 2]), "can't be read: "),
    "no byte": (rewritten(lambda _: b""), "can't be read: "),
    "altered bytes": (rewritten(altered), "can't be read: "),
    "no Parquet": (rewritten(lambda _: text().encode()), "can't be read: "),
    "a file of others": (without_metadata, "must be written by voltrade, has no tick and step"),
    "half a part": (half_a_part, "can't be read: "),
    "half a part alone": (parts_alone, "can't be read: "),
    "another day's": (of_another_day, f"must be of {DAY}, is of {DAY + timedelta(9)}"),
    "another symbol's": (of_another_symbol, "must be of BTCUSDT, is of ETHUSDT"),
}


@pytest.mark.parametrize("name", STORES)
def test_a_broken_day_of_the_store_is_named_by_every_command_and_hides_no_other(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    server: HistoryServer,
    name: str,
) -> None:
    monkeypatch.setattr(commands, "_now", lambda: HISTORY.now)
    spoil, said = STORES[name]
    root = tmp_path / "store"
    store, at = Store(root), ("--store", str(root))
    store.add_trades(TRADED, Metadata.of(BTCUSDT, "made", begins=True, ends=True))
    spoil(root / "trades" / "BTCUSDT")
    broken = {path: path.read_bytes() for path in (root / "trades" / "BTCUSDT").rglob(f"*{DAY}*") if path.is_file()}

    def told(*given: str) -> tuple[int, str]:
        status = commands.main([*given, *at])
        return status, "".join(capsys.readouterr())

    def check(status: int, words: str) -> None:
        assert status == 1
        assert f"trades/BTCUSDT/{DAY}." in words
        assert said in words
        assert same(store.trades(BTCUSDT, AFTER, AFTER), NEXT_DAY)
        assert all(path.read_bytes() == content for path, content in broken.items())

    check(*told("verify"))
    paths = []
    for file in (FILE, NEXT):
        paths.append(tmp_path / file.name)
        paths[-1].write_bytes(zipped(file.name, HISTORY.csv(file)))
    check(*told("import", "BTCUSDT", *map(str, paths)))
    server.files.clear()
    server.put(FILE)
    days = ("--from", str(DAY), "--to", str(AFTER), "--kinds", "trades")
    fetch = ("fetch", "BTCUSDT", *days, "--archive", server.address, "--rest", server.address)
    if name == "altered bytes":  # a fetch reads no row of a day that is whole
        assert told(*fetch)[0] == 0
    else:
        check(*told(*fetch))
    with pytest.raises(DataError, match=f"trades/BTCUSDT/{DAY}") as refusal:
        stored_trades(f"store:BTCUSDT:{DAY}:{AFTER}", BTCUSDT, store)
    assert said in str(refusal.value)
    shutil.rmtree(root / "trades" / "BTCUSDT" / f"{DAY}.parts", ignore_errors=True)
    (root / "trades" / "BTCUSDT" / f"{DAY}.parquet").unlink(missing_ok=True)
    assert told(*fetch)[0] == 0
    assert same(store.trades(BTCUSDT, DAY, AFTER), TRADED)


@pytest.mark.parametrize("name", [f"{DAY}.parts", f".{DAY}.parquet.77.tmp", "notes.txt", ".lock"])
def test_what_a_killed_writer_left_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A folder of parts without one, half a file under another name, a lock that nobody holds."""
    store = Store(tmp_path)
    store.add_trades(TRADED, Metadata.of(BTCUSDT, "made", begins=True, ends=True))
    place = tmp_path / "trades" / "BTCUSDT" / name
    if name.endswith(".parts"):
        place.mkdir()
    else:
        place.write_bytes(b"PAR1")
    assert commands.main(["verify", "--store", str(tmp_path)]) == 0, capsys.readouterr().out
    assert same(stored_trades(f"store:BTCUSDT:{DAY}:{AFTER}", BTCUSDT, store).trades, TRADED)
