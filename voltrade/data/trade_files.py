"""Files of trades: their containers and layouts, and their texts as exact whole numbers.

A file is read in batches of columns, under our names but still as texts; `trade_rows` converts them to ticks and lots,
and `trade_checks` reports faults of rows. A file that can't be read as trades is refused here.
"""

from __future__ import annotations

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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
from voltrade.errors import DataError
from voltrade.model import Bools, Int64s

Kind = Literal["aggTrades", "trades"]

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("agg_trade_id", "aggregate_trade_id", "id", "trade_id", "a"),
    "price": ("price", "p"),
    "quantity": ("quantity", "qty", "q", "amount", "size"),
    "time": ("transact_time", "time", "timestamp", "T", "trade_time", "ts"),
    "is_buyer_maker": ("is_buyer_maker", "m"),
    "side": ("side", "taker_side"),
    "order_type": ("order_type", "X"),
    "symbol": ("symbol",),
    "exchange": ("exchange",),
}
"""Names of our columns in files; the first name that a file has is used.

Longer names may be written in other ways too, such as `isBuyerMaker` or `Is Buyer Maker`. `side` is the taker's, `buy`
or `sell`; it is used where there is no `is_buyer_maker`. Tardis, ccxt and most dumps use names of this table.
"""

NEEDED = ("id", "price", "quantity", "time")
"""Required columns. A file without `is_buyer_maker` is read too, so that the missing side is reported as a fault."""

AGGREGATE_NAMES = frozenset({"agg_trade_id", "aggregate_trade_id", "a", "first_trade_id", "last_trade_id"})
"""A file with any of these columns has aggTrades."""

OTHER_MARKETS = {
    ("is_best_match", "best_match", "M"): "spot's: files of USD-M Futures have no is_best_match, their last column",
    ("base_qty", "base_quantity"): "COIN-M's: files of USD-M Futures have quote_qty",
}
"""Columns that files of USD-M Futures don't have, under all of their names; they are found as our columns are."""

_COIN_M = re.compile(r"(?<!B)USD_(PERP|\d{6})")
"""A symbol of COIN-M Futures in a file's name."""

RAW_NAMES = frozenset({"trade_id", "quote_qty", "order_type", "X"})
"""A file with any of these columns has raw trades."""

ARCHIVE_LAYOUTS: dict[Kind, tuple[str, ...]] = {
    "aggTrades": (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
        "is_best_match",
    ),
    "trades": ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
}  # fmt: skip
"""Columns of archive files without a header. Only files of the spot market have the last one."""

_BATCH_ROWS = 1_000_000
_BLOCK_BYTES = 1 << 24
_LONGEST_LINE = 1 << 16
_OTHER_FORMS = {
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
    b"<": "a page of the web, or an error of a server",
    b"{": "JSON",
    b"[": "JSON",
    b"PK": "a zip inside of it",
}
"""First bytes of what isn't a CSV, and what it is."""
_UNREADABLE = (pa.ArrowInvalid, EOFError, OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Columns:
    """Consecutive rows of a file as columns under our names, not yet converted."""

    name: str
    """Name of the file."""
    kind: Kind
    header: tuple[str, ...]
    """Names of the file's columns."""
    columns: dict[str, pa.Array]
    numbers: Int64s
    """Line numbers of the rows: 2 for the first row after a header."""
    malformed: Sequence[pa.csv.InvalidRow] = ()
    """Rows read so far that are left out, since they have more or fewer columns than the file."""


def other_market(name: str, header: Sequence[str]) -> str:
    """Return of which other market a file of trades is, by its name and columns; empty for USD-M Futures."""
    if found := _COIN_M.search(name):
        return f"must be of USD-M Futures, {found[0]} is of COIN-M"
    plain = _plain_names(header)
    found_words = (words for names, words in OTHER_MARKETS.items() if _find(names, header, plain))
    return next((f"must be of USD-M Futures, is {words}" for words in found_words), "")


def read_columns(path: Path, given: Mapping[str, str] | None = None) -> Iterator[Columns]:
    """Read a file of trades in batches, of which there is at least one, maybe empty.

    Reads Binance's archive files (aggTrades or trades, with or without header) and recordings with a header, as CSV,
    gzip, zip or Parquet.

    Args:
        given: the file's names of our columns, where they aren't found in `COLUMN_NAMES`.

    Raises:
        DataError: the file doesn't exist, can't be unpacked, or has an unknown layout.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be a file of trades, there is none")
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        yield from _read_parquet(path, given or {}) if is_parquet else _read_csv(path, given or {})
    except _UNREADABLE as error:
        raise DataError(f"{path.name}: can't be read: {error}") from None


def read_cells(path: Path, layout: tuple[str, ...]) -> tuple[dict[str, pa.Array], Int64s]:
    """Read a CSV with at least these columns as texts, by order or by header; return them and the line numbers.

    Raises:
        DataError: the file can't be read, or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"{path}: must be a file, there is none")
    try:
        first = _first_line(path)
        has_header = not first[0].isdigit()
        names = first if has_header else [*layout, *map(str, range(len(layout), len(first)))]
        if missing := [name for name in layout if name not in names]:
            raise DataError(f"{path.name}: must have the columns {', '.join(missing)}, has {', '.join(names)}")
        with opened(path) as file:
            table = pa.csv.read_csv(file, **_as_texts(names, layout, has_header))
    except _UNREADABLE as error:
        raise DataError(f"{path.name}: can't be read: {error}") from None
    cells = {name: table[name].combine_chunks() for name in layout}
    return _without_blank_lines(cells, np.arange(table.num_rows) + (2 if has_header else 1))


CUT = "the last line must end with a line break, since its number may be cut"


def may_be_cut(path: Path) -> bool:
    """Whether a CSV, plain or gzipped, ends within a number, without a line break: a copy or recording has stopped.

    The last word of another line shows whether it is whole. A zip is one of the archive, whose CHECKSUM is compared.
    False for a file that can't be read, such as a gzip that is cut itself.
    """
    with suppress(*_UNREADABLE), path.open("rb") as file:
        if file.read(4).startswith((b"PAR1", b"PK")):
            return False
        with opened(path) as content:
            content.seek(-1, os.SEEK_END)
            return content.read() in b"0123456789.+-"
    return False


def _first_line(path: Path) -> list[str]:
    """Return the cells of a CSV's first line.

    Raises:
        DataError: it isn't the first line of a CSV: the file is empty, a page of the web, or in another form.
    """
    with opened(path) as file:
        line = file.readline(_LONGEST_LINE)
    if not line.strip():
        raise DataError(f"{path.name}: must have a first line, has none" if not line else f"{path.name}: begins blank")
    for begin, form in _OTHER_FORMS.items():
        if line.startswith(begin):
            raise DataError(f"{path.name}: must be a CSV in UTF-8, is {form}")
    text = line.decode("utf-8-sig")
    if other := next((mark for mark in ";\t|" if mark in text), None):
        raise DataError(f"{path.name}: must have commas between its columns and points in its numbers, has {other!r}")
    return [cell.strip().strip('"') for cell in text.split(",")]


def _as_texts(
    names: Sequence[str],
    wanted: Iterable[str],
    has_header: bool,
    leave_out: Callable[[pa.csv.InvalidRow], str] | None = None,
    block_size: int | None = None,
) -> dict[str, Any]:
    """Return options to read columns of a CSV as texts, in one thread, since only then rows have line numbers."""
    reading = {"use_threads": False, "column_names": names, "skip_rows": int(has_header), "block_size": block_size}
    texts = dict.fromkeys(names, pa.string())
    return {
        "read_options": pa.csv.ReadOptions(**reading),
        "parse_options": pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=leave_out),
        "convert_options": pa.csv.ConvertOptions(column_types=texts, include_columns=list(wanted)),
    }


def _read_parquet(path: Path, given: Mapping[str, str]) -> Iterator[Columns]:
    file = pa.parquet.ParquetFile(path)
    names = file.schema_arrow.names
    ours, kind = _our_columns(path.name, names, given), _kind(path.name, names)
    batches = file.iter_batches(_BATCH_ROWS, columns=list(ours.values()))
    yield from _batches(path.name, kind, names, ours, file.schema_arrow, batches, first_row=1)


def _read_csv(path: Path, given: Mapping[str, str]) -> Iterator[Columns]:
    """Read a CSV of trades as texts."""
    cells = _first_line(path)
    has_header = not cells[0].isdigit()
    names = cells if has_header else _layout(path.name, len(cells))
    ours, kind = _our_columns(path.name, names, given), _kind(path.name, names)
    malformed: list[pa.csv.InvalidRow] = []

    def leave_out(row: pa.csv.InvalidRow) -> str:
        malformed.append(row)
        return "skip"

    with opened(path) as file:
        options = _as_texts(names, ours.values(), has_header, leave_out, _BLOCK_BYTES)
        batches = pa.csv.open_csv(file, **options)
        for read in _batches(path.name, kind, names, ours, batches.schema, batches, 2 if has_header else 1):
            numbers = read.numbers
            if malformed:  # each moves the rows after it by one
                behind = np.array([row.number for row in malformed]) - np.arange(len(malformed))
                numbers = numbers + np.searchsorted(behind, numbers, side="right")
            columns, numbers = _without_blank_lines(read.columns, numbers)
            yield replace(read, columns=columns, numbers=numbers, malformed=malformed)


def _without_blank_lines(columns: dict[str, pa.Array], numbers: Int64s) -> tuple[dict[str, pa.Array], Int64s]:
    """Drop empty rows, which are a CSV's blank lines."""
    there = np.zeros(len(numbers), np.bool_)
    for column in columns.values():
        there |= pa.compute.not_equal(column, "").to_numpy(zero_copy_only=False)
        if there.all():
            return columns, numbers
    return {name: column.filter(pa.array(there)) for name, column in columns.items()}, numbers[there]


def _batches(
    name: str,
    kind: Kind,
    header: list[str],
    ours: dict[str, str],
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    first_row: int,
) -> Iterator[Columns]:
    """Yield batches under our names, an empty one first."""
    empty = {their: pa.array([], schema.field(their).type) for their in ours.values()}
    yield Columns(name, kind, tuple(header), {our: empty[their] for our, their in ours.items()}, np.empty(0, np.int64))
    for batch in batches:
        columns = {our: batch.column(batch.schema.get_field_index(their)) for our, their in ours.items()}
        yield Columns(name, kind, tuple(header), columns, first_row + np.arange(batch.num_rows, dtype=np.int64))
        first_row += batch.num_rows


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, gzipped or zipped file, according to its first bytes.

    Raises:
        DataError: a zip doesn't have exactly one file, or can't be unpacked.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with gzip.open(file) as content:
                yield BytesIO(content.read())
        elif magic.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                members = _members(archive)
                if len(members) != 1:
                    raise DataError(f"{path.name}: must hold one file, holds {len(members)}")
                try:
                    member = archive.open(members[0])
                except RuntimeError as error:  # encrypted, or with an unknown compression
                    raise DataError(f"{path.name}: can't be read: {error}") from None
                with member:
                    yield member
        else:
            yield file


def name_inside(path: Path) -> str:
    """Return the name of the one file in a zip; empty for other files, and for a zip that can't be read."""
    if path.is_file() and zipfile.is_zipfile(path):
        with suppress(*_UNREADABLE), zipfile.ZipFile(path) as archive:
            members = _members(archive)
            return members[0].rpartition("/")[2] if len(members) == 1 else ""
    return ""


def _members(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the files in a zip, but for those that the Finder adds."""
    return [name for name in archive.namelist() if not _is_of_a_mac(name) and not name.endswith("/")]


def _is_of_a_mac(name: str) -> bool:
    """Whether a member of a zip is what the Finder adds to it."""
    base = name.rpartition("/")[2]
    return name.startswith("__MACOSX/") or base.startswith("._") or base == ".DS_Store"


def _layout(name: str, width: int) -> list[str]:
    """Return the column names of an archive file without a header."""
    layout = ARCHIVE_LAYOUTS[_kind(name, [])]
    if width not in (len(layout) - 1, len(layout)):
        raise DataError(f"{name}: without a header there must be {len(layout) - 1} columns, has {width}")
    return list(layout[:width])


def _kind(name: str, header: list[str]) -> Kind:
    """Return whether a file has aggTrades or raw trades, by its header, else by its name."""
    lowered, known = name.lower(), [*AGGREGATE_NAMES, *RAW_NAMES]
    plain = _plain_names(header)
    there = {each for each in known if _find((each,), header, plain)}
    if AGGREGATE_NAMES & there or (not RAW_NAMES & there and "aggtrades" in lowered):
        return "aggTrades"
    if RAW_NAMES & there or "trades" in lowered:
        return "trades"
    raise DataError(
        f"{name}: must say whether it holds aggTrades or raw trades: put `aggTrades` or `trades` into the file's name, "
        "or name the id column `agg_trade_id` or `trade_id`"
    )


def _our_columns(name: str, header: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the file's name of each of our columns."""
    if unknown := [f"{ours}={their}" for ours, their in given.items() if their not in header]:
        raise DataError(f"{name}: columns: must be in the file's header {', '.join(header)}, was {', '.join(unknown)}")
    plain = _plain_names(header)
    found = {ours: given.get(ours) or _find(theirs, header, plain) for ours, theirs in COLUMN_NAMES.items()}
    missing = [ours for ours in (*NEEDED, "is_buyer_maker") if found[ours] is None]
    if set(missing) & set(NEEDED):
        raise DataError(f"{name}: must have the columns {', '.join(missing)}, has {', '.join(header)}")
    return {ours: their for ours, their in found.items() if their is not None}


def _plain_names(header: Sequence[str]) -> dict[str, str]:
    """Return the longer names of a header, by the same in small letters without spaces and underscores."""
    return {re.sub("[ _]", "", their).lower(): their for their in reversed(header) if len(their) > 2}


def _find(names: Sequence[str], header: Sequence[str], plain: Mapping[str, str]) -> str | None:
    """Return the first name that a header has, else one that it has without underscores or in other letters.

    Args:
        plain: see `_plain_names`.
    """
    exact = next((name for name in names if name in header), None)
    return exact or next((plain[key] for name in names if (key := name.replace("_", "")) in plain), None)


# --- texts and floats to whole numbers --------------------------------------------------------------------------------


def multiples(column: pa.Array, unit: Decimal) -> tuple[Int64s, Bools]:
    """Return each text or number of a column as an exact whole number of units, and which values aren't one."""
    if pa.types.is_floating(column.type):
        return _multiples_of_floats(np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64), unit)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())  # finer times are rounded down
    texts = column.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    digits = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    numerator, decimals = _unit_parts(unit)
    counts, wrong = _parse_decimals(digits, starts, decimals)
    wrong |= counts % numerator != 0
    counts //= numerator
    _parse_exponents(texts, unit, counts, wrong)
    return counts, wrong


_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,3})?")


def _parse_exponents(texts: pa.Array, unit: Decimal, counts: Int64s, wrong: Bools) -> None:
    """Replace the counts of texts such as `1E-2`, `0E-8` and `+5`, which the fast parser doesn't read."""
    if not wrong.any():
        return
    has_form = pa.compute.match_substring_regex(texts, "[eE+]").fill_null(False).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(wrong & has_form):
        text = texts[int(row)].as_py()
        if _EXPONENT.fullmatch(text):
            ratio = Decimal(text) / unit
            if ratio == ratio.to_integral_value() and abs(ratio) < 2**62:
                counts[row], wrong[row] = int(ratio), False


def _unit_parts(unit: Decimal) -> tuple[int, int]:
    """Return a unit as numerator and decimals, numerator x 10^-decimals, with the fewest decimals: 0.10 is (1, 1)."""
    _, digits, exponent = unit.normalize().as_tuple()
    numerator = int("".join(map(str, digits)))
    return (numerator, -int(exponent)) if int(exponent) <= 0 else (numerator * 10 ** int(exponent), 0)


def _multiples_of_floats(values: npt.NDArray[np.float64], unit: Decimal) -> tuple[Int64s, Bools]:
    """Accept a float only if it is the nearest double to a multiple of the unit, except for its last two bits."""
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

    Returns the numbers, and which texts aren't one: not plain digits, finer than the decimals, or too large.
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
