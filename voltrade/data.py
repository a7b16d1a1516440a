"""Tapes of trades: read from any file of trades, or made from a seed.

A tape is what backtest and `sim` play. Everything that reaches the rest of the program is an aggTrade with whole ticks,
whole lots and ascending ids, whatever the file held; what a file can't be trusted on is refused with its row.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from voltrade.compiled import compiled
from voltrade.config import SessionSettings
from voltrade.errors import DataError
from voltrade.model import Bools, Instrument, Int64s, Trades
from voltrade.synthetic import synthetic_market

Kind = Literal["aggTrades", "trades"]

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("agg_trade_id", "id", "trade_id", "a"),
    "price": ("price", "p"),
    "quantity": ("quantity", "qty", "q"),
    "time": ("transact_time", "time", "timestamp", "T"),
    "is_buyer_maker": ("is_buyer_maker", "m"),
    "order_type": ("order_type", "X"),
}
"""What files call the columns that we read; the first name that a file has is taken."""

AGGREGATE_NAMES = frozenset({"agg_trade_id", "a", "first_trade_id", "last_trade_id"})
"""Any of these in a header makes the file one of aggTrades."""

RAW_NAMES = frozenset({"trade_id", "quote_qty", "order_type", "X"})
"""Any of these in a header makes the file one of raw trades."""

ARCHIVE_LAYOUTS: dict[Kind, tuple[str, ...]] = {
    "aggTrades": (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
        "is_best_match",
    ),
    "trades": ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
}  # fmt: skip
"""Columns of archive files without a header. The last one is written by the spot market only."""

NO_TRADES = ("INSURANCE_FUND", "ADL", "NA")
"""Order types of raw rows that moved no price: the exchange leaves them out of its aggTrades, so they are dropped."""

MICROSECONDS_FROM = 100_000_000_000_000
"""A time from here on is in microseconds: as milliseconds it would lie beyond the year 5000."""

EARLIEST_MS = 1_000_000_000_000
"""Sep 2001: a smaller time is not in milliseconds."""

LARGEST_TICKLOTS = 2**62


# --- what a tape is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TapeReport:
    """What reading a tape found. Times are milliseconds UTC."""

    rows_read: int
    trades: int
    """AggTrades that the tape holds."""
    first_time: int
    last_time: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by order type."""
    id_gaps: int = 0
    """Places at which ids of the file jump."""
    ids_missing: int = 0
    """Ids that the jumps skip."""

    def __str__(self) -> str:
        parts = [f"{self.rows_read} rows, {self.trades} aggTrades"]
        parts += [f"{count} {kind} rows dropped" for kind, count in self.dropped.items()]
        if self.id_gaps:
            parts.append(f"{self.ids_missing} ids missing in {self.id_gaps} gaps")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """AggTrades of one symbol, and where they come from."""

    trades: Trades
    report: TapeReport
    source: str
    """Name of the file, or the seed and length of a synthetic tape; shown wherever results are."""
    synthetic: bool = False


def tape(session: SessionSettings, instrument: Instrument) -> Tape:
    """Return the tape that a session names: a file of trades, or the synthetic one of its seed and hours.

    Raises:
        DataError: the file can't be read as trades of this instrument.
    """
    if session.tape == "synthetic":
        return synthetic_trades(instrument, session.seed, session.hours)
    return load_trades(session.tape, instrument)


# --- a tape from a seed -----------------------------------------------------------------------------------------------

SYNTHETIC_START_MS = int(datetime(2026, 1, 5, 20, tzinfo=UTC).timestamp()) * 1000
"""Four hours before a UTC midnight, so that a tape of the default length sees bars end with the day."""


def synthetic_trades(instrument: Instrument, seed: int, hours: float, start_ms: int = SYNTHETIC_START_MS) -> Tape:
    """Make a tape from a seed: `synthetic_market`, labelled as what it is."""
    trades = synthetic_market(instrument, seed, hours, start_ms)
    report = _report(trades, rows_read=len(trades))
    return Tape(trades, report, source=f"synthetic, seed {seed}, {hours:g} h", synthetic=True)


# --- reading a file of trades -----------------------------------------------------------------------------------------


def load_trades(path: str | Path, instrument: Instrument) -> Tape:
    """Read a file of trades of one symbol.

    Takes Binance's archive files (aggTrades or trades, with and without header, times in milliseconds or microseconds)
    and recordings with a header, as CSV, gzip, zip or Parquet. Raw trades are aggregated: neighbours of the same price,
    side and millisecond become one aggTrade, whose ids count on from the first raw id and jump where the raw ids jump.

    Raises:
        DataError: the file can't be read as trades of this instrument; names the row, the rule and the value.
    """
    path = Path(path)
    table = _read_table(path)
    if table.kind == "trades":
        return _tape_of_raw_trades(table, instrument)
    rows = table.rows(instrument)
    table.refuse_where(~_positive(rows), "price and quantity must be positive")
    return _tape(table, rows, _jumps(rows.id), {})


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of a file under our names, not yet converted."""

    name: str
    kind: Kind
    columns: dict[str, pa.Array]
    first_row: int
    """Number of the first row as an editor shows it: 2 below a header."""

    def rows(self, instrument: Instrument) -> Trades:
        """Convert the columns to whole ticks, lots and milliseconds and check what every tape must keep."""
        rows = Trades(
            instrument.symbol,
            id=self._whole("id", Decimal(1)),
            price=self._whole("price", instrument.tick_size),
            quantity=self._whole("quantity", instrument.step_size),
            time=self._times(),
            buyer_is_maker=self._sides(),
        )
        if not len(rows):
            raise DataError(f"{self.name}: must hold at least one trade, has none")
        self.refuse_where(np.append(False, np.diff(rows.id) <= 0), "id must be above the row before", rows.id)
        self.refuse_where(np.append(False, np.diff(rows.time) < 0), "time must not go back", rows.time)
        self.refuse_where(rows.price > instrument.max_price, f"price must be at most {instrument.max_price} ticks")
        largest = LARGEST_TICKLOTS // instrument.max_price
        self.refuse_where(rows.quantity > largest, f"quantity must be at most {largest} lots")
        return rows

    def refuse_where(self, wrong: Bools, rule: str, values: Int64s | pa.Array | None = None) -> None:
        """Raise for the first row that is wrong."""
        if wrong.any():
            row = int(np.argmax(wrong))
            was = "" if values is None else f", was {values[row]}"
            raise DataError(f"{self.name}: row {row + self.first_row}: {rule}{was}")

    def _whole(self, name: str, unit: Decimal) -> Int64s:
        """Convert a column to whole multiples of a unit, exactly."""
        column = self.columns[name]
        rule = f"{name} must be a whole number" if unit == 1 else f"{name} must be a multiple of {unit}"
        counts, wrong = _multiples(column, unit)
        self.refuse_where(wrong, rule, column)
        return counts

    def _times(self) -> Int64s:
        times = self._whole("time", Decimal(1))
        times = np.where(times >= MICROSECONDS_FROM, times // 1000, times)
        outside = (times < EARLIEST_MS) | (times >= MICROSECONDS_FROM)
        self.refuse_where(outside, "time must be in milliseconds or microseconds since 1970", self.columns["time"])
        return times

    def _sides(self) -> Bools:
        column = self.columns["is_buyer_maker"]
        texts = pa.compute.utf8_lower(column.cast(pa.string()))
        maker, taker = (_is_in(texts, words) for words in (("true", "1"), ("false", "0")))
        self.refuse_where(~(maker | taker), "is_buyer_maker must be true or false", column)
        return maker


def _tape_of_raw_trades(table: _Table, instrument: Instrument) -> Tape:
    """Drop the rows that are no trades, then aggregate."""
    rows = table.rows(instrument)
    order_types = _order_types(table, rows)
    dropped = {kind: int(np.count_nonzero(_is_in(order_types, (kind,)))) for kind in NO_TRADES}
    keep = _is_in(order_types, ("MARKET",))
    known = keep | _is_in(order_types, NO_TRADES)
    table.refuse_where(~known, f"order_type must be MARKET, {', '.join(NO_TRADES)}", order_types)
    table.refuse_where(keep & ~_positive(rows), "price and quantity must be positive")
    missing = _jumps(rows.id)
    kept = Trades(
        rows.symbol, rows.id[keep], rows.price[keep], rows.quantity[keep], rows.time[keep], rows.buyer_is_maker[keep]
    )
    missing_before = np.cumsum(missing)[keep]
    if not len(kept):
        raise DataError(f"{table.name}: must hold at least one trade, has none")
    trades = aggregate(kept, first_id=int(rows.id[0]), missing_before=missing_before)
    return _tape(table, trades, missing, {kind: count for kind, count in dropped.items() if count})


def _order_types(table: _Table, rows: Trades) -> pa.Array:
    """Order type of each raw row. Archive files have no such column: there a row of zeros is an `NA` record."""
    if "order_type" in table.columns:
        return table.columns["order_type"].cast(pa.string())
    return pa.compute.if_else(pa.array((rows.price == 0) & (rows.quantity == 0)), "NA", "MARKET")


def aggregate(raw: Trades, first_id: int, missing_before: Int64s) -> Trades:
    """Join neighbouring raw trades of the same price, side and millisecond into aggTrades.

    `missing_before` is, for each raw trade, how many ids are missing before it. AggTrade ids count on from `first_id`
    and skip as many ids as the raw trades do, so that what is missing stays visible; nothing is joined across a gap.
    """
    begins = np.append(True, np.zeros(len(raw) - 1, dtype=np.bool_))
    for column in (raw.price, raw.time, raw.buyer_is_maker, missing_before):
        begins[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(begins)
    return Trades(
        raw.symbol,
        id=first_id + np.arange(len(first), dtype=np.int64) + missing_before[first],
        price=raw.price[first],
        quantity=np.add.reduceat(raw.quantity, first),
        time=raw.time[first],
        buyer_is_maker=raw.buyer_is_maker[first],
    )


def _tape(table: _Table, trades: Trades, missing: Int64s, dropped: Mapping[str, int]) -> Tape:
    gaps = int(np.count_nonzero(missing))
    report = _report(trades, len(missing), dropped=dropped, id_gaps=gaps, ids_missing=int(missing.sum()))
    return Tape(trades, report, source=table.name)


def _report(trades: Trades, rows_read: int, **found: Any) -> TapeReport:
    return TapeReport(rows_read, len(trades), int(trades.time[0]), int(trades.time[-1]), **found)


def _jumps(ids: Int64s) -> Int64s:
    """How many ids are missing before each row."""
    return np.diff(ids, prepend=ids[0] - 1) - 1


def _positive(rows: Trades) -> Bools:
    return (rows.price > 0) & (rows.quantity > 0)


def _is_in(texts: pa.Array, words: tuple[str, ...]) -> Bools:
    found: Bools = pa.compute.is_in(texts, pa.array(words)).to_numpy(zero_copy_only=False)
    return found


# --- files and their columns ------------------------------------------------------------------------------------------


def _read_table(path: Path) -> _Table:
    if not path.is_file():
        raise DataError(f"{path}: must be a file of trades, there is none")
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        return _read_parquet(path) if is_parquet else _read_csv(path)
    except (pa.ArrowInvalid, EOFError, OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name}: can't be read: {error}") from None


def _read_parquet(path: Path) -> _Table:
    names = pa.parquet.read_schema(path).names
    ours = _our_columns(path.name, names)
    table = pa.parquet.read_table(path, columns=list(ours.values()))
    return _Table(path.name, _kind(path.name, names), _under_our_names(table, ours), first_row=1)


def _read_csv(path: Path) -> _Table:
    """Read the columns of a CSV as texts."""
    with _opened(path) as file:
        cells = [cell.strip().strip('"') for cell in file.readline().decode("utf-8-sig").split(",")]
    has_header = not cells[0].isdigit()
    names = cells if has_header else _layout(path.name, len(cells))
    ours = _our_columns(path.name, names)
    with _opened(path) as file:
        table = pa.csv.read_csv(
            file,
            # One thread, since only then do errors name the row.
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=int(has_header)),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), include_columns=list(ours.values())
            ),
        )
    columns = _under_our_names(table, ours)
    return _Table(path.name, _kind(path.name, names), columns, first_row=2 if has_header else 1)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, gzipped or zipped file, told by its first bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with gzip.open(file) as content:
                yield BytesIO(content.read())
        elif magic.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise DataError(f"{path.name}: must hold one file, holds {len(members)}")
                with archive.open(members[0]) as member:
                    yield member
        else:
            yield file


def _layout(name: str, width: int) -> list[str]:
    """Return the column names of an archive file without a header."""
    layout = ARCHIVE_LAYOUTS[_kind(name, [])]
    if width not in (len(layout) - 1, len(layout)):
        raise DataError(f"{name}: without a header there must be {len(layout) - 1} columns, has {width}")
    return list(layout[:width])


def _kind(name: str, header: list[str]) -> Kind:
    """Tell aggTrades from raw trades: by the header, else by the file's name."""
    lowered = name.lower()
    if AGGREGATE_NAMES & set(header) or (not RAW_NAMES & set(header) and "aggtrades" in lowered):
        return "aggTrades"
    if RAW_NAMES & set(header) or "trades" in lowered:
        return "trades"
    raise DataError(
        f"{name}: must say whether it holds aggTrades or raw trades: put `aggTrades` or `trades` into the file's name, "
        "or name the id column `agg_trade_id` or `trade_id`"
    )


def _our_columns(name: str, header: list[str]) -> dict[str, str]:
    """Find the columns that we read: our name to the file's name."""
    found = {ours: next((their for their in theirs if their in header), None) for ours, theirs in COLUMN_NAMES.items()}
    missing = [ours for ours, their in found.items() if their is None and ours != "order_type"]
    if missing:
        raise DataError(f"{name}: must have the columns {', '.join(missing)}, has {', '.join(header)}")
    return {ours: their for ours, their in found.items() if their is not None}


def _under_our_names(table: pa.Table, names: dict[str, str]) -> dict[str, pa.Array]:
    return {ours: table[their].combine_chunks() for ours, their in names.items()}


# --- texts and floats to whole numbers --------------------------------------------------------------------------------


def _multiples(column: pa.Array, unit: Decimal) -> tuple[Int64s, Bools]:
    """Return each value as a whole number of units, and which values are none."""
    if pa.types.is_floating(column.type):
        return _multiples_of_floats(np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64), unit)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    texts = column.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    digits = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    numerator, decimals = _unit_parts(unit)
    counts, wrong = _parse_decimals(digits, starts, decimals)
    wrong |= counts % numerator != 0
    return counts // numerator, wrong


def _unit_parts(unit: Decimal) -> tuple[int, int]:
    """Write a unit as numerator x 10^-decimals with no more decimals than it needs: 0.10 is (1, 1)."""
    _, digits, exponent = unit.normalize().as_tuple()
    numerator = int("".join(map(str, digits)))
    return (numerator, -int(exponent)) if int(exponent) <= 0 else (numerator * 10 ** int(exponent), 0)


def _multiples_of_floats(values: npt.NDArray[np.float64], unit: Decimal) -> tuple[Int64s, Bools]:
    """Take a float only where it is the double nearest to a multiple of the unit, give or take its last two bits."""
    numerator, decimals = _unit_parts(unit)
    scale = float(10**decimals)
    known = np.isfinite(values) & (np.abs(values) < 2**50 * numerator / scale)
    counts = np.rint(np.where(known, values, 0.0) * scale / numerator).astype(np.int64)
    nearest = counts * float(numerator) / scale
    wrong = ~known | (np.abs(values - nearest) > 4 * np.spacing(np.abs(nearest)))
    return counts, wrong


@compiled
def _parse_decimals(text: npt.NDArray[np.uint8], starts: Int64s, decimals: int) -> tuple[Int64s, Bools]:
    """Parse plain decimal texts (`61800.30`) as whole numbers of 10^-decimals.

    Returns the numbers, and which texts are no such number: not plain digits, finer than the decimals, or too large.
    """
    count = len(starts) - 1
    numbers = np.zeros(count, dtype=np.int64)
    wrong = np.zeros(count, dtype=np.bool_)
    limit = np.int64((2**63 - 10) // 10)  # ten times this and a digit still fit 64 bits
    for row in range(count):
        number = np.int64(0)
        point = -1
        digits = 0
        ok = True
        begin = starts[row]
        if begin < starts[row + 1] and text[begin] == 45:  # a minus sign
            begin += 1
        for position in range(begin, starts[row + 1]):
            char = text[position]
            if char == 46 and point < 0:
                point = 0
            elif 48 <= char <= 57:
                digits += 1
                if point >= decimals:  # finer than the unit: only zeros may follow
                    ok = ok and char == 48
                elif number > limit:
                    ok = False
                    break
                else:
                    number = number * 10 + (char - 48)
                    if point >= 0:
                        point += 1
            else:
                ok = False
        for _ in range(max(point, 0), decimals):
            if number > limit:
                ok = False
                break
            number *= 10
        numbers[row] = -number if begin > starts[row] else number
        wrong[row] = not ok or digits == 0
    return numbers, wrong
