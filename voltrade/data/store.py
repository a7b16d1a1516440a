"""The store: trades, mark prices and funding rates as Parquet, one file for each symbol and UTC day.

    <store>/trades/BTCUSDT/2026-01-05.parquet          a day
    <store>/trades/BTCUSDT/2026-01-05.parts/*.parquet  what a running session has recorded of a day so far
    <store>/marks/BTCUSDT/...    <store>/funding/BTCUSDT/...

Whatever brings rows (the archive, REST, a file, a live session) adds them here; a day's rows are merged by id, and a
file is replaced at once or not at all. Rows are whole ticks and lots; tick, step and where they came from stand in the
file. All paths are relative to the root: a folder, or the address of an object store that pyarrow knows (`s3://...`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet

from voltrade.errors import DataError
from voltrade.model import DAY_MS, Funding, Instrument, Int64s, Marks, Trades

STORE = "VOLTRADE_STORE"
"""Environment: the root of the store; `data` where it is not set."""

MINUTE_MS = 60_000

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the things that are stored: its columns, the first of which tells rows apart and puts them in order."""

    name: str
    columns: tuple[str, ...]
    step: int
    """Distance between the keys of two rows where nothing is missing; 0 where that is not known."""


TRADES = Kind("trades", ("id", "price", "quantity", "time", "is_buyer_maker"), 1)
"""AggTrades: ticks, lots, ms UTC."""
MARKS = Kind("marks", ("time", "open", "high", "low", "close"), MINUTE_MS)
"""Mark prices of one minute each: begin in ms UTC, prices in 1e-8 of the quote asset."""
FUNDING = Kind("funding", ("time", "rate"), 0)
"""Funding rates: ms UTC, 1e-8."""
KINDS = {kind.name: kind for kind in (TRADES, MARKS, FUNDING)}


class Contradiction(DataError):
    """Rows of one key differ: what is stored of a day and what was to be added, or two recorded parts."""

    def __init__(self, days: Mapping[date, str]) -> None:
        """Say of each day what differs."""
        super().__init__("; ".join(days.values()))
        self.days = days


_SYMBOL = re.compile(r"[A-Z0-9_]{2,30}")
_ABOUT = b"voltrade"
_DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.(parquet|parts)")


@dataclass(frozen=True, slots=True)
class About:
    """What a stored file says of its rows."""

    tick: str
    """What a price of 1 stands for, and below a quantity of 1."""
    step: str
    begins: bool
    """Whether its first row is the first that the exchange has of the day."""
    ends: bool
    """Whether its last row is the last of the day."""
    sources: Mapping[str, Mapping[str, int]]
    """Where rows come from, and the rows of each fault that was found there."""
    made_of: str = "aggTrades"
    """`trades` where ids count raw trades that were aggregated here: such days can't be filled from REST."""
    whole: bool = False
    """Whether a source gave all rows that there are: what is then missing is missing there, or was left out."""
    first: int | None = None
    """Key of the first row that a source has of the day, be it left out for a fault; None where that isn't told."""
    last: int | None = None
    """And of the last one."""

    @staticmethod
    def of(instrument: Instrument, source: str, *, begins: bool = False, ends: bool = False) -> About:
        """Describe rows in an instrument's ticks and lots, without faults."""
        tick, step = (f"{unit.normalize():f}" for unit in (instrument.tick_size, instrument.step_size))
        return About(tick, step, begins, ends, {source: {}})

    @staticmethod
    def of_values(sources: Mapping[str, Mapping[str, int]], *, begins: bool = False, ends: bool = False) -> About:
        """Describe marks or funding rates, which are in 1e-8."""
        return About("0.00000001", "1", begins, ends, sources)


@dataclass(frozen=True, slots=True)
class StoredDay:
    """A day of one symbol, as its files' footers tell it."""

    kind: str
    symbol: str
    day: date
    rows: int
    first: int
    """Key of the first row, be it left out for a fault: id of a trade, time of a mark or funding rate."""
    last: int
    """And of the last one."""
    about: About
    size: int
    """Bytes."""

    @property
    def complete(self) -> bool:
        """Whether the store has all of the day that its sources have."""
        return self.about.begins and self.about.ends and (self.about.whole or not self.missing)

    @property
    def missing(self) -> int:
        """Rows that are missing between the first and the last."""
        step = KINDS[self.kind].step
        return max(0, (self.last - self.first) // step + 1 - self.rows) if step else 0


@dataclass(frozen=True, slots=True)
class _Content:
    """What one file holds, all of it read from the file as it was when it was opened."""

    about: About
    rows: int
    first: int
    """Key of the first row, be it left out for a fault."""
    last: int
    size: int
    columns: list[Column]
    """Those that were asked for."""

    @staticmethod
    def of(about: About, rows: int, keys: tuple[int, int], size: int, columns: list[Column]) -> _Content:
        """Describe rows whose first and last keys are given."""
        first = keys[0] if about.first is None else min(keys[0], about.first)
        last = keys[1] if about.last is None else max(keys[1], about.last)
        return _Content(about, rows, first, last, size, columns)


class Store:
    """Trades, marks and funding rates by symbol and day. Many may read; of writers one waits for the other."""

    def __init__(self, root: Path | str | None = None) -> None:
        """Open the store at a folder or an address; by default `$VOLTRADE_STORE`, else `data`. Nothing is made yet."""
        self.root = str(root or os.environ.get(STORE) or "data")
        if "://" in self.root:
            files, base = pyarrow.fs.FileSystem.from_uri(self.root)
            self.folder = None
        else:
            self.folder = Path(self.root).resolve()
            files, base = pyarrow.fs.LocalFileSystem(), str(self.folder)
        self._files = pyarrow.fs.SubTreeFileSystem(base, files)

    # --- what there is ------------------------------------------------------------------------------------------------

    def symbols(self, kind: Kind = TRADES) -> list[str]:
        """Return the symbols that anything is stored of."""
        return sorted(info.base_name for info in self._list(kind.name) if info.type == pyarrow.fs.FileType.Directory)

    def days(self, kind: Kind, symbol: str) -> list[StoredDay]:
        """Return what is stored of a symbol, by day."""
        names = (_DAY_FILE.fullmatch(info.base_name) for info in self._list(f"{kind.name}/{symbol}"))
        found = sorted({date.fromisoformat(name[1]) for name in names if name})
        return [stored for day in found if (stored := self.day(kind, symbol, day))]

    def day(self, kind: Kind, symbol: str, day: date) -> StoredDay | None:
        """Return what is stored of a day, recorded parts included; None where nothing is.

        Raises:
            DataError: a file is no stored day.
        """
        found = self._contents(kind, symbol, day, ())
        if len(found) > 1:  # they may overlap: only their keys tell how many rows there are
            found = self._contents(kind, symbol, day, kind.columns[:1])
        if not found:
            return None
        rows = found[0].rows if len(found) == 1 else len(_keys(found))
        return StoredDay(
            kind.name,
            symbol,
            day,
            rows,
            first=min(each.first for each in found),
            last=max(each.last for each in found),
            about=_joined(found),
            size=sum(each.size for each in found),
        )

    # --- reading ------------------------------------------------------------------------------------------------------

    def trades(self, instrument: Instrument, first: date, last: date) -> Trades:
        """Return the trades of a range of days, both included, in the instrument's ticks and lots.

        Raises:
            DataError: a day is missing, or was stored in ticks or steps finer than the instrument's, or its ids are not
                above those of the day before.
        """
        symbol = instrument.symbol
        blocks: list[Trades] = []
        for day in days_between(first, last):
            found = self._stored_rows(TRADES, symbol, day)
            if found is None:
                raise DataError(
                    f"{self.root}: must hold trades of {symbol} on {day}, has none; python -m voltrade data fetch "
                    f"{symbol} --from {day} --to {day} brings them"
                )
            (ids, prices, quantities, times, makers), about = found
            path = _path(TRADES, symbol, day, "parquet")
            if blocks and ids[0] <= blocks[-1].id[-1]:
                raise DataError(
                    f"{path}: ids must be above those of the day before, whose last is {blocks[-1].id[-1]}, "
                    f"was {ids[0]}: one of the days is of another numbering"
                )
            ticks = _ratio(about.tick, instrument.tick_size, f"{path}: tick")
            lots = _ratio(about.step, instrument.step_size, f"{path}: step")
            blocks.append(Trades(symbol, ids, _times(prices, ticks), _times(quantities, lots), times, makers))
        return Trades.join(blocks)

    def marks(self, symbol: str, first: date, last: date) -> Marks | None:
        """Return the mark price at each begin of a minute; None where a day of the range has none."""
        columns = self._range(MARKS, symbol, first, last)
        return None if columns is None else Marks(time=columns[0], price_e8=columns[1])

    def funding(self, symbol: str, first: date, last: date) -> Funding | None:
        """Return the funding rates of a range of days; None where a day of the range has none."""
        columns = self._range(FUNDING, symbol, first, last)
        return None if columns is None else Funding(time=columns[0], rate_e8=columns[1])

    def rows(self, kind: Kind, symbol: str, day: date) -> list[Column]:
        """Return the columns of a day, recorded parts included, checked against the pages' checksums.

        Raises:
            DataError: the day isn't stored, or its bytes are not those that were written.
        """
        found = self._stored_rows(kind, symbol, day)
        if found is None:
            raise DataError(f"{self.root}: must hold {kind.name} of {symbol} on {day}, has none")
        return found[0]

    def _stored_rows(self, kind: Kind, symbol: str, day: date) -> tuple[list[Column], About] | None:
        """The columns of a day, and what its first file says of them; None where nothing is stored."""
        found = self._contents(kind, symbol, day)
        return (_merged(found, kind, _path(kind, symbol, day, "parquet"), day), found[0].about) if found else None

    def _range(self, kind: Kind, symbol: str, first: date, last: date) -> list[Column] | None:
        blocks = []
        for day in days_between(first, last):
            found = self._stored_rows(kind, symbol, day)
            if found is None:
                return None
            blocks.append(found[0])
        return [np.concatenate(columns) for columns in zip(*blocks, strict=True)]

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_trades(self, trades: Trades, about: About, *, whole: tuple[date, date] | None = None) -> list[StoredDay]:
        """Add trades to their days; return what is then stored of these.

        Args:
            whole: days of which `trades` hold all there is, however `about` says that it begins and ends.

        Raises:
            Contradiction: a stored trade of the same id differs; days without such a one are added all the same.
            DataError: the stored trades are in other units.
        """
        return self.add(TRADES, trades.symbol, trades.columns, trades.time, about, whole=whole)

    def add(
        self,
        kind: Kind,
        symbol: str,
        columns: Sequence[Column],
        times: Int64s,
        about: About,
        *,
        whole: tuple[date, date] | None = None,
    ) -> list[StoredDay]:
        """Add rows to the days that their times lie in; see `add_trades`."""
        added: list[StoredDay] = []
        contradicted: dict[date, str] = {}
        keys = columns[0]
        if not len(keys):
            return added

        def follows(row: int) -> bool:
            """Whether nothing is missing between the row before and this one, which begins a day."""
            return 0 < row < len(keys) and kind.step in (0, int(keys[row] - keys[row - 1]))

        for start, end in pairwise([0, *(np.flatnonzero(np.diff(times // DAY_MS)) + 1), len(times)]):
            day = day_of(int(times[start]))
            is_given_whole = whole is not None and whole[0] <= day <= whole[1]
            begins = is_given_whole or follows(start) or (start == 0 and about.begins)
            ends = is_given_whole or follows(end) or (end == len(times) and about.ends)
            part = [np.asarray(column[start:end]) for column in columns]
            of_day = replace(
                about,
                begins=begins,
                ends=ends,
                whole=is_given_whole,
                first=about.first if start == 0 else None,
                last=about.last if end == len(times) else None,
            )
            edges = (int(part[0][0]), int(part[0][-1]))
            with _collected(contradicted):
                self._merge(kind, symbol, day, [_Content.of(of_day, end - start, edges, 0, part)])
                stored = self.day(kind, symbol, day)
                assert stored is not None
                added.append(stored)
        if contradicted:
            raise Contradiction(contradicted)
        return added

    def compact(self, symbol: str, before: date | None = None, ended: date | None = None) -> None:
        """Merge recorded parts, as a session that was killed leaves them, into the files of their days.

        Args:
            before: only of earlier days.
            ended: a day that is known to be there up to its last trade.

        Raises:
            Contradiction: parts of a day differ; they stay as they are, and those of other days are merged.
        """
        contradicted: dict[date, str] = {}
        names = (_DAY_FILE.fullmatch(info.base_name) for info in self._list(f"{TRADES.name}/{symbol}"))
        days = {date.fromisoformat(name[1]) for name in names if name and name[2] == "parts"}
        if ended is not None:
            days.add(ended)
        for day in sorted(days):
            if before is None or day < before:
                with _collected(contradicted):
                    self._merge(TRADES, symbol, day, ends=day == ended)
        if contradicted:
            raise Contradiction(contradicted)

    def add_part(self, trades: Trades, about: About) -> None:
        """Add trades of one day as a part of its own: quick, and kept whatever happens next."""
        day = day_of(int(trades.time[0]))
        # Parts of the same ends may differ by a hole between: no name may stand for two of them.
        name = f"{trades.id[0]:020d}-{trades.id[-1]:020d}-{uuid.uuid4().hex}.parquet"
        with self._locked(TRADES, trades.symbol):
            self._write(f"{_path(TRADES, trades.symbol, day, 'parts')}/{name}", TRADES, trades.columns, about)

    def _merge(self, kind: Kind, symbol: str, day: date, added: Sequence[_Content] = (), *, ends: bool = False) -> None:
        """Write a day's file anew from the stored one, recorded parts and added rows; nothing where there are none."""
        target = _path(kind, symbol, day, "parquet")
        with self._locked(kind, symbol):
            parts = self._part_paths(kind, symbol, day)
            found = [*self._contents(kind, symbol, day), *added]
            if parts or added or (found and ends > found[0].about.ends):
                for other in found[1:]:
                    _check_alike(found[0].about, other.about, target)
                merged = _merged(found, kind, target, day)
                about = _joined(found)
                self._write(target, kind, merged, replace(about, ends=about.ends or ends))
            self._drop_parts(kind, symbol, day, parts)

    def _drop_parts(self, kind: Kind, symbol: str, day: date, merged: list[str]) -> None:
        """Delete parts that were merged, and what a writer left that was killed: none is at work while we lock."""
        folder = _path(kind, symbol, day, "parts")
        if self.folder is None:  # there are no locks: parts that came meanwhile stay
            for part in merged:
                self._files.delete_file(part)
        elif (self.folder / folder).exists():
            self._files.delete_dir(folder)

    def _write(self, path: str, kind: Kind, columns: Sequence[Column], about: About) -> None:
        self._put(path, _encoded(kind, columns, json.dumps(asdict(about))))

    def _put(self, path: str, content: pa.Buffer) -> None:
        """Put a file in its place at once or not at all."""
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        if self.folder is None:  # an object store shows nothing before all is there
            with self._files.open_output_stream(path) as stream:
                stream.write(content)
            return
        target = self.folder / path
        fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)

    @contextmanager
    def _locked(self, kind: Kind, symbol: str) -> Iterator[None]:
        """Let one writer at a time merge days of a symbol. An object store has no locks: write to it from one place."""
        if self.folder is None:
            yield
            return
        folder = self.folder / kind.name / symbol
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- a cache of files that were read ------------------------------------------------------------------------------

    def cached(self, key: str) -> tuple[Trades, str] | None:
        """Return the trades and the note kept under a key; None where there are none, or not all that was written."""
        path = f".cache/{key}.parquet"
        if self.folder is None or not (self.folder / path).is_file():
            return None
        try:
            with self._opened(path) as (file, _):
                symbol, note = json.loads(file.metadata.metadata[_ABOUT])
                columns = _columns(file, TRADES.columns)
        except (DataError, FileNotFoundError):
            return None
        (self.folder / path).touch()  # see `_forget_unused`
        return Trades(symbol, *columns), note

    def keep(self, key: str, trades: Trades, note: str) -> None:
        """Keep trades and a note under a key, if the store is a folder that can be written to."""
        self._keep(f"{key}.parquet", _encoded(TRADES, trades.columns, json.dumps([trades.symbol, note])))

    def recall(self, key: str) -> str | None:
        """Return what was remembered under a key; None where nothing was."""
        try:
            return (self.folder / ".cache" / f"{key}.txt").read_text() if self.folder else None
        except OSError:
            return None

    def remember(self, key: str, text: str) -> None:
        """Remember a short text, if the store is a folder that can be written to."""
        self._keep(f"{key}.txt", pa.py_buffer(text.encode()))

    def _keep(self, name: str, content: pa.Buffer) -> None:
        if self.folder is None:
            return
        with suppress(OSError):
            self._put(f".cache/{name}", content)
            _forget_unused(self.folder / ".cache")

    # --- files --------------------------------------------------------------------------------------------------------

    def _list(self, folder: str) -> list[pyarrow.fs.FileInfo]:
        infos = self._files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        return [info for info in infos if not info.base_name.startswith(".")]

    def _paths(self, kind: Kind, symbol: str, day: date) -> list[str]:
        """The files that hold rows of a day: its own first, then its parts in the order of their ids."""
        # In this order: parts that a writer merges between the two looks are then found in the day's own file.
        parts = self._part_paths(kind, symbol, day)
        whole = _path(kind, symbol, day, "parquet")
        there = self._files.get_file_info(whole).type == pyarrow.fs.FileType.File
        return [*([whole] if there else []), *parts]

    def _part_paths(self, kind: Kind, symbol: str, day: date) -> list[str]:
        parts = self._list(_path(kind, symbol, day, "parts"))
        return sorted(info.path for info in parts)

    def _contents(self, kind: Kind, symbol: str, day: date, columns: Sequence[str] | None = None) -> list[_Content]:
        """Read the files of a day, the same moment of all of them; none where nothing is stored.

        A writer may merge parts, and delete them, between our listing them and our opening them: then we list again.
        """
        wanted = kind.columns if columns is None else columns
        paths = self._paths(kind, symbol, day)
        while True:
            try:
                return [self._content(path, kind, wanted) for path in paths]
            except FileNotFoundError as error:
                before, paths = paths, self._paths(kind, symbol, day)
                if paths == before:
                    raise DataError(f"{paths[0]}: can't be read: {error}") from None

    def _content(self, path: str, kind: Kind, columns: Sequence[str]) -> _Content:
        with self._opened(path) as (file, size):
            about, rows = _about(file.metadata.metadata, path), file.metadata.num_rows
            return _Content.of(about, rows, _bounds(file.metadata, kind), size, _columns(file, columns))

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[pa.parquet.ParquetFile, int]]:
        """Open a file, once for all that is read of it, as it may be replaced at any time; also gives its bytes.

        Raises:
            FileNotFoundError: there is none (any more).
            DataError: it can't be read.
        """
        try:
            with self._files.open_input_file(path) as file:
                yield pa.parquet.ParquetFile(file, page_checksum_verification=True), file.size()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(f"{path}: can't be read: {error}") from None


def _columns(file: pa.parquet.ParquetFile, names: Sequence[str]) -> list[Column]:
    table = file.read(columns=list(names))
    return [table[name].to_numpy() for name in names]


def _path(kind: Kind, symbol: str, day: date, ending: str) -> str:
    if not _SYMBOL.fullmatch(symbol):
        raise DataError(f"symbol: must be capital letters and digits, was {symbol!r}")
    return f"{kind.name}/{symbol}/{day}.{ending}"


def _encoded(kind: Kind, columns: Sequence[Column], about: str) -> pa.Buffer:
    """Write rows as the bytes of a Parquet file, whose pages have checksums."""
    table = pa.table(dict(zip(kind.columns, columns, strict=True))).replace_schema_metadata({_ABOUT: about.encode()})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=False,
        # Ids and times climb, prices walk: their differences need a byte or two. Measured: 4 bytes a trade, not 32.
        column_encoding={name: "DELTA_BINARY_PACKED" for name in kind.columns if name != "is_buyer_maker"},
        write_page_checksum=True,
    )
    return sink.getvalue()


def _forget_unused(folder: Path) -> None:
    """Delete what nobody has read for a month."""
    newest = max(path.stat().st_mtime for path in folder.iterdir())
    for path in folder.iterdir():
        if path.stat().st_mtime < newest - 30 * 86_400:
            path.unlink(missing_ok=True)


def _bounds(footer: pa.parquet.FileMetaData, kind: Kind) -> tuple[int, int]:
    """First and last key, from the statistics of the row groups."""
    groups = [footer.row_group(number).column(0).statistics for number in range(footer.num_row_groups)]
    return min(group.min for group in groups), max(group.max for group in groups)


def _about(metadata: Mapping[bytes, bytes] | None, path: str) -> About:
    try:
        said = json.loads((metadata or {})[_ABOUT])
        return About(**said)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: must be written by voltrade, says nothing of tick and step") from None


def _check_alike(one: About, other: About, path: str) -> None:
    for name in ("tick", "step", "made_of"):
        if getattr(one, name) != getattr(other, name):
            raise DataError(f"{path}: {name} must be {getattr(one, name)} as stored, was {getattr(other, name)}")


def _ratio(stored: str, wanted: Decimal, name: str) -> int:
    """How many of an instrument's units a stored unit is."""
    ratio = Decimal(stored) / wanted
    if ratio != int(ratio):
        raise DataError(f"{name} must be a multiple of the instrument's {wanted}, was stored as {stored}")
    return int(ratio)


def _times(counts: Int64s, ratio: int) -> Int64s:
    return counts if ratio == 1 else counts * ratio


def _joined(contents: Sequence[_Content]) -> About:
    """What is true of several blocks of rows together."""
    first, last = min(each.first for each in contents), max(each.last for each in contents)
    return replace(
        contents[0].about,
        begins=any(each.about.begins for each in contents if each.first == first),
        ends=any(each.about.ends for each in contents if each.last == last),
        sources={source: found for each in contents for source, found in each.about.sources.items()},
        whole=any(each.about.whole for each in contents),
        first=first,
        last=last,
    )


def _keys(contents: Sequence[_Content]) -> Int64s:
    return np.unique(np.concatenate([np.empty(0, np.int64), *(each.columns[0] for each in contents)]))


@contextmanager
def _collected(contradicted: dict[date, str]) -> Iterator[None]:
    """Let one day that contradicts keep no other one away."""
    try:
        yield
    except Contradiction as error:
        contradicted |= error.days


def _merged(contents: Sequence[_Content], kind: Kind, path: str, day: date) -> list[Column]:
    """Join blocks of rows of a day, each in the order of its keys, to one with every key once.

    Raises:
        Contradiction: two rows of one key differ.
    """
    if len(contents) == 1:
        return contents[0].columns
    columns = [np.concatenate(parts) for parts in zip(*(each.columns for each in contents), strict=True)]
    if np.all(columns[0][1:] > columns[0][:-1]):
        return columns
    order = np.argsort(columns[0], kind="stable")
    columns = [column[order] for column in columns]
    again = np.append(False, columns[0][1:] == columns[0][:-1])
    for name, column in zip(kind.columns[1:], columns[1:], strict=True):
        differs = again[1:] & (column[1:] != column[:-1])
        if differs.any():
            at, newer = int(np.argmax(differs)), contents[-1].about
            stored, came = (_as_written(name, value, newer) for value in column[at : at + 2])
            files = path.replace(".parquet", ".*")
            raise Contradiction(
                {
                    day: f"{path}: rows of one {kind.columns[0]} must agree, the {name} of {columns[0][at]} must be "
                    f"{stored} as stored, was {came} from {' and '.join(newer.sources)}; "
                    f"to have the day from one source, delete {files} in the store and fetch it again"
                }
            )
    return [column[~again] for column in columns]


def _as_written(name: str, value: Any, about: About) -> str:
    """A stored value as the exchange writes it."""
    if name in ("time", "is_buyer_maker"):
        return str(value)
    return f"{int(value) * Decimal(about.step if name == 'quantity' else about.tick):f}"


def day_of(milliseconds: int) -> date:
    """Return the UTC day of a time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()


def start_of(day: date) -> int:
    """Return the first millisecond of a UTC day."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def days_between(first: date, last: date) -> list[date]:
    """Return all days from the first to the last, both included."""
    return [first + timedelta(number) for number in range((last - first).days + 1)]


# --- recording --------------------------------------------------------------------------------------------------------


class Recorder:
    """Writes trades into the store while they come: parts while a day goes on, one file when it has ended.

    What has been written as a part outlives a kill; what hasn't (at most `flush_ms` of trades) is lost to the store.
    Files are written by a thread of the recorder's own, so `record` costs the caller next to nothing.
    """

    def __init__(
        self,
        store: Store,
        instrument: Instrument,
        source: str = "live",
        *,
        begins: bool = False,
        after: StoredDay | None = None,
        flush_ms: int = MINUTE_MS,
        flush_rows: int = 100_000,
    ) -> None:
        """Make a recorder that has seen no trade.

        Args:
            source: stands in the files.
            begins: whether the first trade to come is the first of its day.
            after: the stored day whose last trade the first one to come may follow.
            flush_ms: a part is written when it holds trades of so long.
            flush_rows: or when it holds so many.
        """
        self._store = store
        self._about = About.of(instrument, source, begins=begins)
        self._symbol = instrument.symbol
        self._flush_ms, self._flush_rows = flush_ms, flush_rows
        self._pending: list[Trades] = []
        self._pending_rows = 0
        self._day = after.day if after else None
        self._last_id = after.last if after else -1
        self._writer = ThreadPoolExecutor(1, "recorder")
        self._written: list[Future[Any]] = []

    def record(self, trades: Trades) -> None:
        """Take trades that follow the last ones; those that were taken before are passed over.

        Raises:
            DataError: an earlier write failed, a full disk for one.
        """
        self._check()
        new = trades[int(np.searchsorted(trades.id, self._last_id, side="right")) :]
        while len(new):
            day = day_of(int(new.time[0]))
            if day != self._day:
                self._begin_day(new, day)
            # A time that goes back behind midnight belongs to the day that its neighbours are in.
            end = int(np.searchsorted(np.maximum.accumulate(new.time), start_of(day) + DAY_MS))
            self._pending.append(new[:end])
            self._pending_rows += end
            self._last_id = int(new.id[end - 1])
            new = new[end:]
            if self._is_due():
                self.flush()

    def flush(self) -> None:
        """Have what is held written as a part."""
        if self._pending:
            trades = Trades.join(self._pending)
            self._pending, self._pending_rows = [], 0
            self._submit(self._store.add_part, trades, self._about)
            self._about = replace(self._about, begins=False)

    def close(self, *, ended: bool = False) -> None:
        """Write what is left, and merge all parts into the files of their days.

        Args:
            ended: whether the last trade was the last of its day.

        Raises:
            Contradiction: parts of a day differ from each other or from the day's file; they are kept.
            DataError: a write failed.
        """
        self.flush()
        self._submit(self._store.compact, self._symbol, None, self._day if ended else None)
        self._writer.shutdown(wait=True)
        self._check()

    def _begin_day(self, new: Trades, day: date) -> None:
        before, self._day = self._day, day
        self.flush()
        follows = before is not None and int(new.id[0]) == self._last_id + 1
        self._submit(self._compact_earlier, day, before if follows else None)
        self._about = replace(self._about, begins=follows if before else self._about.begins)

    def _compact_earlier(self, day: date, ended: date | None) -> None:
        with suppress(Contradiction):  # it keeps no trade from being recorded, and is told at the end
            self._store.compact(self._symbol, day, ended)

    def _is_due(self) -> bool:
        held_ms = int(self._pending[-1].time[-1] - self._pending[0].time[0])
        return held_ms >= self._flush_ms or self._pending_rows >= self._flush_rows

    def _submit(self, write: Callable[..., None], *arguments: Any) -> None:
        self._written.append(self._writer.submit(write, *arguments))

    def _check(self) -> None:
        """Raise what a write that is over failed of."""
        over = [future for future in self._written if future.done()]
        self._written = [future for future in self._written if future not in over]
        for future in over:
            error = future.exception()
            if isinstance(error, Contradiction):
                raise error
            if error:
                raise DataError(f"{self._store.root}: trades can't be recorded: {error}") from error
