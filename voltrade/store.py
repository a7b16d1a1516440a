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
    """Key of the first row: id of a trade, time of a mark or funding rate."""
    last: int
    about: About
    size: int
    """Bytes."""

    @property
    def complete(self) -> bool:
        """Whether the store has all of the day that its sources have."""
        return self.about.begins and self.about.ends

    @property
    def missing(self) -> int:
        """Rows that are missing between the first and the last."""
        step = KINDS[self.kind].step
        return (self.last - self.first) // step + 1 - self.rows if step else 0


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
        paths = self._paths(kind, symbol, day)
        if not paths:
            return None
        footers = [self._footer(path) for path in paths]
        keys = [_bounds(footer, kind) for footer in footers]
        about = _joined([_about(footer.metadata, path) for footer, path in zip(footers, paths, strict=True)], keys)
        rows = sum(footer.num_rows for footer in footers)
        if len(paths) > 1:  # parts may overlap
            rows = len(self._read(kind, paths)[0])
        size = sum(info.size for info in self._files.get_file_info(paths))
        first, last = min(first for first, _ in keys), max(last for _, last in keys)
        return StoredDay(kind.name, symbol, day, rows, first, last, about, size)

    # --- reading ------------------------------------------------------------------------------------------------------

    def trades(self, instrument: Instrument, first: date, last: date) -> Trades:
        """Return the trades of a range of days, both included, in the instrument's ticks and lots.

        Raises:
            DataError: a day is missing, or was stored in ticks or steps finer than the instrument's.
        """
        symbol = instrument.symbol
        blocks = []
        for day in days_between(first, last):
            paths = self._paths(TRADES, symbol, day)
            if not paths:
                raise DataError(
                    f"{self.root}: must hold trades of {symbol} on {day}, has none; python -m voltrade data fetch "
                    f"{symbol} --from {day} --to {day} brings them"
                )
            about = _about(self._footer(paths[0]).metadata, paths[0])
            ids, prices, quantities, times, makers = self._read(TRADES, paths)
            ticks = _ratio(about.tick, instrument.tick_size, f"{paths[0]}: tick")
            lots = _ratio(about.step, instrument.step_size, f"{paths[0]}: step")
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
        paths = self._paths(kind, symbol, day)
        if not paths:
            raise DataError(f"{self.root}: must hold {kind.name} of {symbol} on {day}, has none")
        return self._read(kind, paths)

    def _range(self, kind: Kind, symbol: str, first: date, last: date) -> list[Column] | None:
        wanted = [self._paths(kind, symbol, day) for day in days_between(first, last)]
        if not all(wanted):
            return None
        parts = [self._read(kind, paths) for paths in wanted]
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)]

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_trades(self, trades: Trades, about: About, *, whole: tuple[date, date] | None = None) -> list[StoredDay]:
        """Add trades to their days; return what is then stored of these.

        Args:
            whole: days of which `trades` hold all there is, however `about` says that it begins and ends.

        Raises:
            DataError: a stored trade of the same id differs, or is in other units.
        """
        columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
        return self.add(TRADES, trades.symbol, columns, trades.time, about, whole=whole)

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
        keys = columns[0]
        if not len(keys):
            return added

        def follows(row: int) -> bool:
            """Whether nothing is missing between the row before and this one, which begins a day."""
            return 0 < row < len(keys) and kind.step in (0, int(keys[row] - keys[row - 1]))

        for start, end in pairwise([0, *(np.flatnonzero(np.diff(times // DAY_MS)) + 1), len(times)]):
            day = day_of(int(times[start]))
            is_whole = whole is not None and whole[0] <= day <= whole[1]
            begins = is_whole or follows(start) or (start == 0 and about.begins)
            ends = is_whole or follows(end) or (end == len(times) and about.ends)
            part = [np.asarray(column[start:end]) for column in columns]
            added.append(self._merge(kind, symbol, day, part, replace(about, begins=begins, ends=ends)))
        return added

    def settle(self, symbol: str, before: date | None = None, ended: date | None = None) -> None:
        """Merge recorded parts, as a session that was killed leaves them, into the files of their days.

        Args:
            before: only of earlier days.
            ended: a day that is known to be there up to its last trade.
        """
        names = (_DAY_FILE.fullmatch(info.base_name) for info in self._list(f"{TRADES.name}/{symbol}"))
        days = {date.fromisoformat(name[1]) for name in names if name and name[2] == "parts"}
        if ended is not None:
            days.add(ended)
        for day in sorted(days):
            if before is None or day < before:
                self._merge(TRADES, symbol, day, ends=day == ended)

    def add_part(self, trades: Trades, about: About) -> None:
        """Add trades of one day as a part of its own: quick, and kept whatever happens next."""
        day = day_of(int(trades.time[0]))
        columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
        name = f"{trades.id[0]:020d}-{trades.id[-1]:020d}.parquet"
        with self._locked(TRADES, trades.symbol):
            self._write(f"{_path(TRADES, trades.symbol, day, 'parts')}/{name}", TRADES, columns, about)

    def _merge(
        self,
        kind: Kind,
        symbol: str,
        day: date,
        columns: Sequence[Column] | None = None,
        about: About | None = None,
        *,
        ends: bool = False,
    ) -> StoredDay:
        """Write a day's file anew from the stored one, recorded parts and added rows."""
        with self._locked(kind, symbol):
            parts = self._part_paths(kind, symbol, day)
            paths = self._paths(kind, symbol, day)
            if not paths and columns is None:
                raise DataError(f"{self.root}: must hold {kind.name} of {symbol} on {day}, has none")
            blocks = [self._read(kind, [path]) for path in paths]
            abouts = [_about(self._footer(path).metadata, path) for path in paths]
            if columns is not None and about is not None:
                blocks.append(list(columns))
                abouts.append(about)
            target = _path(kind, symbol, day, "parquet")
            if len(paths) == 1 and not parts and columns is None and abouts[0].ends >= ends:
                return self._stored(kind, symbol, day)
            for other in abouts[1:]:
                _check_alike(abouts[0], other, target)
            merged = _merged(blocks, f"{target}: {' and '.join(abouts[-1].sources)}")
            joined = _joined(abouts, [(int(block[0][0]), int(block[0][-1])) for block in blocks])
            self._write(target, kind, merged, replace(joined, ends=joined.ends or ends))
            for part in parts:
                self._files.delete_file(part)
            if parts and self.folder is not None:
                with suppress(OSError):  # there are newer parts
                    (self.folder / _path(kind, symbol, day, "parts")).rmdir()
        return self._stored(kind, symbol, day)

    def _stored(self, kind: Kind, symbol: str, day: date) -> StoredDay:
        stored = self.day(kind, symbol, day)
        assert stored is not None
        return stored

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
            symbol, note = json.loads(self._footer(path).metadata[_ABOUT])
            columns = self._read(TRADES, [path])
        except DataError:
            return None
        (self.folder / path).touch()  # see `_forget_unused`
        return Trades(symbol, *columns), note

    def keep(self, key: str, trades: Trades, note: str) -> None:
        """Keep trades and a note under a key, if the store is a folder that can be written to."""
        columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
        self._keep(f"{key}.parquet", _encoded(TRADES, columns, json.dumps([trades.symbol, note])))

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
        whole = _path(kind, symbol, day, "parquet")
        there = self._files.get_file_info(whole).type == pyarrow.fs.FileType.File
        return [*([whole] if there else []), *self._part_paths(kind, symbol, day)]

    def _part_paths(self, kind: Kind, symbol: str, day: date) -> list[str]:
        parts = self._list(_path(kind, symbol, day, "parts"))
        return sorted(info.path for info in parts)

    def _footer(self, path: str) -> pa.parquet.FileMetaData:
        with _named(path):
            return pa.parquet.read_metadata(path, filesystem=self._files)

    def _read(self, kind: Kind, paths: list[str]) -> list[Column]:
        blocks = []
        for path in paths:
            with _named(path):
                table = pa.parquet.read_table(
                    path, columns=list(kind.columns), filesystem=self._files, page_checksum_verification=True
                )
            blocks.append([table[name].to_numpy() for name in kind.columns])
        return _merged(blocks, paths[-1])


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: can't be read: {error}") from None


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


def _joined(abouts: Sequence[About], keys: Sequence[tuple[int, int]]) -> About:
    """What is true of several blocks together."""
    first = min(range(len(keys)), key=lambda number: keys[number][0])
    last = max(range(len(keys)), key=lambda number: keys[number][1])
    return replace(
        abouts[0],
        begins=any(about.begins for about, key in zip(abouts, keys, strict=True) if key[0] == keys[first][0]),
        ends=any(about.ends for about, key in zip(abouts, keys, strict=True) if key[1] == keys[last][1]),
        sources={source: found for about in abouts for source, found in about.sources.items()},
    )


def _merged(blocks: Sequence[Sequence[Column]], name: str) -> list[Column]:
    """Join blocks of rows, each in the order of its keys, to one with every key once.

    Raises:
        DataError: two rows of one key differ.
    """
    if len(blocks) == 1:
        return list(blocks[0])
    columns = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    if np.all(columns[0][1:] > columns[0][:-1]):
        return columns
    order = np.argsort(columns[0], kind="stable")
    columns = [column[order] for column in columns]
    again = np.append(False, columns[0][1:] == columns[0][:-1])
    for column in columns[1:]:
        differs = again[1:] & (column[1:] != column[:-1])
        if differs.any():
            key = columns[0][1:][differs][0]
            raise DataError(f"{name}: rows of one id must agree, {key} differs from what is stored")
    return [column[~again] for column in columns]


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
            DataError: a write failed.
        """
        self.flush()
        self._submit(self._store.settle, self._symbol, None, self._day if ended else None)
        self._writer.shutdown(wait=True)
        self._check()

    def _begin_day(self, new: Trades, day: date) -> None:
        before, self._day = self._day, day
        self.flush()
        follows = before is not None and int(new.id[0]) == self._last_id + 1
        self._submit(self._store.settle, self._symbol, day, before if follows else None)
        self._about = replace(self._about, begins=follows if before else self._about.begins)

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
            if error := future.exception():
                raise DataError(f"{self._store.root}: trades can't be recorded: {error}") from error
