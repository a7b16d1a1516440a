"""The store: trades, mark prices and funding rates as Parquet, one file for each symbol and UTC day.

    <store>/trades/BTCUSDT/2026-01-05.parquet          a day
    <store>/trades/BTCUSDT/2026-01-05.parts/*.parquet  what a running session has recorded of a day so far
    <store>/marks/BTCUSDT/...    <store>/funding/BTCUSDT/...

All sources of rows (archive, REST, a file, a live session) add them here. The rows of a day are merged by id, and a
file is replaced atomically. Rows are whole ticks and lots; the metadata of a file states tick, step and sources.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs

from voltrade.data.kinds import FUNDING, MARKS, TRADES, Column, Kind, day_of, days_between, runs_of, start_of
from voltrade.data.store_files import StoreFiles, columns_of, encode_rows, key_bounds, metadata_of
from voltrade.data.stored_day import (
    Contradiction,
    FileContent,
    Metadata,
    StoredDay,
    check_same_units,
    collect_contradictions,
    counts_alike,
    is_between,
    keys_of,
    merged_metadata,
    merged_rows,
    raw_ids_missing,
)
from voltrade.data.tape_cache import TapeCache
from voltrade.data.value_checks import refuse_wrong_values
from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, Funding, Instrument, Int64s, Marks, Trades
from voltrade.simulated.mark_columns import whole_minutes

STORE = "VOLTRADE_STORE"
"""Environment variable with the root of the store; `data` where it isn't set."""

_SYMBOL = re.compile(r"[A-Z0-9_]{2,30}")
_DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.(parquet|parts)")


class Store:
    """Trades, mark prices and funding rates by symbol and day. Any number may read it; writers wait for each other.

    Attributes:
        root: a folder or an address.
        folder: the folder; None for an object store.
        cache: trades of files that were read before.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        """Open the store at a folder or an address, by default `$VOLTRADE_STORE`, else `data`; create nothing yet."""
        self._files = StoreFiles(str(root or os.environ.get(STORE) or "data"))
        self.root, self.folder = self._files.root, self._files.folder
        self.cache = TapeCache(self._files)

    # --- what is stored -----------------------------------------------------------------------------------------------

    def symbols(self, kind: Kind = TRADES) -> list[str]:
        """Return the symbols that have stored rows."""
        found = self._files.list(kind.name)
        return sorted(info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory)

    def dates(self, kind: Kind, symbol: str) -> list[date]:
        """Return the days of which there are files of a symbol, without opening one."""
        return sorted({day for day, _ in self._day_names(kind, symbol)})

    def days(self, kind: Kind, symbol: str) -> list[StoredDay]:
        """Return the stored days of a symbol."""
        return [stored for day in self.dates(kind, symbol) if (stored := self.day(kind, symbol, day))]

    def day(self, kind: Kind, symbol: str, day: date) -> StoredDay | None:
        """Return what is stored of a day, with recorded parts; None where nothing is.

        Raises:
            DataError: a file can't be read.
        """
        found = self._contents(kind, symbol, day, ())
        if len(found) > 1:  # they may overlap, so rows can be counted only by their keys
            found = self._contents(kind, symbol, day, kind.columns[:1])
        if not found:
            return None
        return StoredDay(
            kind.name,
            symbol,
            day,
            rows=found[0].rows if len(found) == 1 else len(keys_of(found)),
            first=min(each.first for each in found),
            last=max(each.last for each in found),
            metadata=merged_metadata(found),
            size=sum(each.size for each in found),
        )

    def _day_names(self, kind: Kind, symbol: str) -> Iterator[tuple[date, str]]:
        """Yield the day and the ending (`parquet` or `parts`) of a symbol's files."""
        for info in self._files.list(f"{kind.name}/{symbol}"):
            if name := _DAY_FILE.fullmatch(info.base_name):
                yield date.fromisoformat(name[1]), name[2]

    # --- reading ------------------------------------------------------------------------------------------------------

    def trades(self, instrument: Instrument, first: date, last: date) -> Trades:
        """Return the trades of a range of days, both included, in the instrument's ticks and lots.

        Ids of joined raw trades go on from those of the day before, and skip as many as raw trades are missing between
        the days, none where that isn't known; a gap within a day stays.

        Raises:
            DataError: a day is missing, was stored in ticks or lots finer than the instrument's, or has ids, or raw
                trades, that are not above those of the day before.
        """
        blocks: list[Trades] = []
        before: Metadata | None = None
        quiet = self.days_without_trades(instrument.symbol, first, last)
        for day in days_between(first, last):
            if day in quiet and (blocks or day < last):
                continue
            block, metadata = self._trades_of_day(instrument, day)
            if before is not None:
                missing = None if counts_alike(before, metadata) else raw_ids_missing(before, metadata) or 0
                block = self._following(blocks[-1], block, day, missing)
            blocks.append(block)
            before = metadata
        return Trades.join(blocks)

    def days_without_trades(self, symbol: str, first: date, last: date) -> list[date]:
        """Return the days of a range of which nothing is stored because no trade was made.

        The ids of the stored days around join, or REST says so.
        """
        dates, quiet = self.dates(TRADES, symbol), []
        for begin, end in runs_of(sorted({*days_between(first, last)} - {*dates})):
            at = bisect(dates, begin)
            before = self.day(TRADES, symbol, dates[at - 1]) if at else None
            after = self.day(TRADES, symbol, dates[at]) if at < len(dates) else None
            quiet += [day for day in days_between(begin, end) if is_between(before, start_of(day), after)]
        return quiet

    def _following(self, before: Trades, block: Trades, day: date, missing: int | None) -> Trades:
        """Return a day's trades with ids above those of the day before.

        Args:
            missing: how many ids to leave out between days that count ids differently; None where they count alike.
        """
        last, first = int(before.id[-1]), int(block.id[0])
        if missing is not None and missing < 0:
            path = _path(TRADES, block.symbol, day, "parquet")
            raise DataError(f"{path}: a raw trade must be in one day only, {-missing} are in the day before too")
        if missing is not None:
            return replace(block, id=block.id + (last + 1 + missing - first))
        if first <= last:
            raise DataError(
                f"{_path(TRADES, block.symbol, day, 'parquet')}: ids must be above those of the day before, whose "
                f"last is {last}, was {first}: the two days count ids differently"
            )
        return block

    def _trades_of_day(self, instrument: Instrument, day: date) -> tuple[Trades, Metadata]:
        symbol = instrument.symbol
        found = self._stored_rows(TRADES, symbol, day)
        if found is None and self.days_without_trades(symbol, day, day):
            raise DataError(f"{self.root}: must hold trades of {symbol} on {day}, has none: no trade was made")
        if found is None:
            raise DataError(
                f"{self.root}: must hold trades of {symbol} on {day}, has none; python -m voltrade data fetch "
                f"{symbol} --from {day} --to {day} brings them"
            )
        (ids, prices, quantities, times, makers), metadata = found
        path = _path(TRADES, symbol, day, "parquet")
        ticks = _ratio(metadata.tick, instrument.tick_size, f"{path}: tick")
        lots = _ratio(metadata.step, instrument.step_size, f"{path}: step")
        trades = Trades(symbol, ids, _multiplied(prices, ticks), _multiplied(quantities, lots), times, makers)
        return trades, metadata

    def marks(self, symbol: str, first: date, last: date) -> Marks | None:
        """Return the mark price at the start of each stored minute; None where the range has none.

        Raises:
            DataError: a stored value is out of bounds, see `value_checks`.
        """
        columns = self._range(MARKS, symbol, first, last)
        return None if columns is None else Marks(time=columns[0], price_e8=columns[1])

    def funding(self, symbol: str, first: date, last: date) -> Funding | None:
        """Return the stored funding rates of a range of days; None where it has none.

        Raises:
            DataError: a stored value is out of bounds, see `value_checks`.
        """
        columns = self._range(FUNDING, symbol, first, last)
        return None if columns is None else Funding(columns[0], columns[1], columns[2] * HOUR_MS, columns[3])

    def rows(self, kind: Kind, symbol: str, day: date) -> list[Column]:
        """Return the columns of a day, with recorded parts.

        Raises:
            DataError: the day isn't stored, or a page of the file doesn't match its checksum.
        """
        found = self._stored_rows(kind, symbol, day)
        if found is None:
            raise DataError(f"{self.root}: must hold {kind.name} of {symbol} on {day}, has none")
        return found[0]

    def _stored_rows(self, kind: Kind, symbol: str, day: date) -> tuple[list[Column], Metadata] | None:
        """Return the columns of a day and the metadata of its first file; None where nothing is stored."""
        found = self._contents(kind, symbol, day)
        if not found:
            return None
        return merged_rows(found, kind, _path(kind, symbol, day, "parquet"), day), found[0].metadata

    def _range(self, kind: Kind, symbol: str, first: date, last: date) -> list[Column] | None:
        blocks = []
        for day in days_between(first, last):
            found = self._stored_rows(kind, symbol, day)
            if found is not None:
                refuse_wrong_values(kind.name, found[0], _path(kind, symbol, day, "parquet"))
                blocks.append(found[0])
        return [np.concatenate(columns) for columns in zip(*blocks, strict=True)] or None

    def _paths(self, kind: Kind, symbol: str, day: date) -> list[str]:
        """Return the files of a day: the day's own file first, then its parts by their ids."""
        # Parts are listed first: those that a writer merges before the second look are then in the day's own file.
        parts = self._part_paths(kind, symbol, day)
        whole = _path(kind, symbol, day, "parquet")
        return [*([whole] if self._files.exists(whole) else []), *parts]

    def _part_paths(self, kind: Kind, symbol: str, day: date) -> list[str]:
        return sorted(info.path for info in self._files.list(_path(kind, symbol, day, "parts")))

    def _contents(self, kind: Kind, symbol: str, day: date, columns: Sequence[str] | None = None) -> list[FileContent]:
        """Read the files of a day; none where nothing is stored.

        A writer may merge and delete parts after they were listed here and before they are opened: then list again.
        """
        wanted = kind.columns if columns is None else columns
        paths = self._paths(kind, symbol, day)
        while True:
            try:
                return [self._content(path, wanted) for path in paths]
            except FileNotFoundError as error:
                before, paths = paths, self._paths(kind, symbol, day)
                if paths == before:
                    raise DataError(f"{paths[0]}: can't be read: {error}") from None

    def _content(self, path: str, columns: Sequence[str]) -> FileContent:
        with self._files.opened(path) as (file, size):
            metadata, rows = metadata_of(file.metadata.metadata, path), file.metadata.num_rows
            if metadata.symbol not in ("", _symbol_of(path)):
                raise DataError(f"{path}: must be of {_symbol_of(path)}, is of {metadata.symbol}")
            found = columns_of(file, columns)
        if "time" in columns and rows:
            times, name = found[columns.index("time")], path.split("/")[2]
            if not name.startswith((f"{day_of(int(times[0]))}.", f"{day_of(int(times[-1]))}.")):
                raise DataError(f"{path}: must be of {name[:10]}, is of {day_of(int(times[0]))}")
            if path.startswith(f"{FUNDING.name}/"):  # older versions stored the sources' milliseconds
                found[columns.index("time")] = whole_minutes(times)
        return FileContent.of(metadata, rows, key_bounds(file.metadata), size, found)

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_trades(
        self, trades: Trades, metadata: Metadata, *, whole: tuple[date, date] | None = None
    ) -> list[StoredDay]:
        """Add trades to their days; return what is then stored of these days.

        Args:
            whole: first and last day of which `trades` hold everything, whatever `metadata` says of begin and end.

        Raises:
            Contradiction: a stored trade of the same id differs, or what is stored of a day can't be read, or is in
                other units; other days are still added.
        """
        return self.add(TRADES, trades.symbol, trades.columns, trades.time, metadata, whole=whole)

    def add(
        self,
        kind: Kind,
        symbol: str,
        columns: Sequence[Column],
        times: Int64s,
        metadata: Metadata,
        *,
        whole: tuple[date, date] | None = None,
        lossless: bool = True,
    ) -> list[StoredDay]:
        """Add rows to the days of their times, optional columns or not; see `add_trades`.

        Args:
            lossless: whether no row was dropped for a fault that another source may not have.
        """
        columns = [*columns, *(np.zeros(len(times), np.int64) for _ in kind.columns[len(columns) :])]
        added: list[StoredDay] = []
        contradicted: dict[date, str] = {}
        cuts = [0, *(np.flatnonzero(np.diff(times // DAY_MS)) + 1), len(times)] if len(times) else []
        for start, end in pairwise(cuts):
            day = day_of(int(times[start]))
            is_whole = whole is not None and whole[0] <= day <= whole[1]
            of_day = _metadata_of_day(metadata, kind, columns[0], (start, end), is_whole)
            of_day = replace(of_day, whole=is_whole and lossless, asked=is_whole and metadata.asked)
            part = [np.asarray(column[start:end]) for column in columns]
            with collect_contradictions(contradicted, day):
                edges = (int(part[0][0]), int(part[0][-1]))
                self._merge(kind, symbol, day, [FileContent.of(of_day, end - start, edges, 0, part)])
                stored = self.day(kind, symbol, day)
                assert stored is not None
                added.append(stored)
        if contradicted:
            raise Contradiction(contradicted)
        return added

    def compact(self, symbol: str, before: date | None = None, ended: date | None = None) -> None:
        """Merge recorded parts, such as those of a killed session, into the files of their days.

        Args:
            before: only parts of earlier days.
            ended: a day whose last trade is known to be stored.

        Raises:
            Contradiction: parts of a day differ, or can't be read; they stay as they are, those of other days are
                merged.
        """
        contradicted: dict[date, str] = {}
        days = {day for day, ending in self._day_names(TRADES, symbol) if ending == "parts"}
        if ended is not None:
            days.add(ended)
        for day in sorted(days):
            if before is None or day < before:
                with collect_contradictions(contradicted, day):
                    self._merge(TRADES, symbol, day, ends=day == ended)
        if contradicted:
            raise Contradiction(contradicted)

    def add_part(self, trades: Trades, metadata: Metadata) -> None:
        """Add trades of one day as a part: fast, and kept even if the process is killed afterwards."""
        day = day_of(int(trades.time[0]))
        # Parts with the same first and last id may differ between them, so each gets a name of its own.
        name = f"{trades.id[0]:020d}-{trades.id[-1]:020d}-{uuid.uuid4().hex}.parquet"
        with self._files.locked(f"{TRADES.name}/{trades.symbol}"):
            path = f"{_path(TRADES, trades.symbol, day, 'parts')}/{name}"
            self._write(path, TRADES, trades.columns, metadata)

    def remove_trades(self, symbol: str, day: date, first: int, last: int) -> None:
        """Remove the trades from one id to another from a day, if others are left; the removed ids are then missing."""
        target = _path(TRADES, symbol, day, "parquet")
        with self._files.locked(f"{TRADES.name}/{symbol}"):
            parts, found = self._part_paths(TRADES, symbol, day), self._contents(TRADES, symbol, day)
            columns = merged_rows(found, TRADES, target, day)
            kept = (columns[0] < first) | (columns[0] > last)
            if kept.any() and not kept.all():
                metadata = replace(merged_metadata(found), first=None, last=None, whole=False)
                metadata = replace(metadata, begin_proven=False, end_proven=False, is_listing=None)
                metadata = replace(metadata, quiet_from=None, quiet_until=None)
                self._write(target, TRADES, [column[kept] for column in columns], metadata)
                self._files.delete_parts(_path(TRADES, symbol, day, "parts"), parts)

    def prove_begin(self, symbol: str, day: date, first: int, *, is_listing: bool | None = None) -> None:
        """Keep that a day's trades begin with an id, as REST says, if they do; `is_listing`: the first of all times."""
        known = {} if is_listing is None else {"is_listing": is_listing}
        self._keep(symbol, day, only_from=first, begins=True, begin_proven=True, **known)

    def prove_quiet(self, symbol: str, day: date, **known: int) -> None:
        """Keep what REST says of the time before a day's trades, or after; see `Metadata.quiet_from`."""
        self._keep(symbol, day, **known)

    def _keep(self, symbol: str, day: date, only_from: int | None = None, **known: Any) -> None:
        """Change the metadata of a day of trades, where its first id is as given."""
        target = _path(TRADES, symbol, day, "parquet")
        with self._files.locked(f"{TRADES.name}/{symbol}"):
            parts, found = self._part_paths(TRADES, symbol, day), self._contents(TRADES, symbol, day)
            if found and only_from in (None, min(each.first for each in found)):
                metadata = replace(merged_metadata(found), **known)
                self._write(target, TRADES, merged_rows(found, TRADES, target, day), metadata)
                self._files.delete_parts(_path(TRADES, symbol, day, "parts"), parts)

    def _merge(
        self, kind: Kind, symbol: str, day: date, added: Sequence[FileContent] = (), *, ends: bool = False
    ) -> None:
        """Write a day's file again with recorded parts and added rows; do nothing where there are none."""
        target = _path(kind, symbol, day, "parquet")
        with self._files.locked(f"{kind.name}/{symbol}"):
            parts = self._part_paths(kind, symbol, day)
            found = [*self._contents(kind, symbol, day), *added]
            if parts or added or (found and ends > found[0].metadata.end_proven):
                for other in found[1:]:
                    check_same_units(found[0].metadata, other.metadata, target)
                merged, metadata = merged_rows(found, kind, target, day), merged_metadata(found)
                metadata = replace(metadata, ends=True, end_proven=True) if ends else metadata
                self._write(target, kind, merged, metadata)
            self._files.delete_parts(_path(kind, symbol, day, "parts"), parts)

    def _write(self, path: str, kind: Kind, columns: Sequence[Column], metadata: Metadata) -> None:
        metadata = replace(metadata, symbol=_symbol_of(path))
        self._files.put(path, encode_rows(kind, columns, json.dumps(asdict(metadata))))


def _metadata_of_day(metadata: Metadata, kind: Kind, keys: Int64s, part: tuple[int, int], is_whole: bool) -> Metadata:
    """Return the metadata of the rows from `part[0]` up to `part[1]`, which are all added rows of one day."""
    start, end = part

    def follows(row: int) -> bool:
        """Whether no row is missing before this one, which is the first of a day."""
        return 0 < row < len(keys) and kind.step in (0, int(keys[row] - keys[row - 1]))

    return replace(
        metadata,
        begins=is_whole or follows(start) or (start == 0 and metadata.begins),
        ends=is_whole or follows(end) or (end == len(keys) and metadata.ends),
        begin_proven=follows(start) or (start == 0 and metadata.begin_proven),
        end_proven=follows(end) or (end == len(keys) and metadata.end_proven),
        first=metadata.first if start == 0 else None,
        last=metadata.last if end == len(keys) else None,
        raw_first=metadata.raw_first if start == 0 else None,
        raw_last=metadata.raw_last if end == len(keys) else None,
    )


def _path(kind: Kind, symbol: str, day: date, ending: str) -> str:
    if not _SYMBOL.fullmatch(symbol):
        raise DataError(f"symbol: must be capital letters and digits, was {symbol!r}")
    return f"{kind.name}/{symbol}/{day}.{ending}"


def _symbol_of(path: str) -> str:
    return path.split("/")[1]


def _ratio(stored: str, wanted: Decimal, name: str) -> int:
    """Return how many of the instrument's units a stored unit is."""
    ratio = Decimal(stored) / wanted
    if ratio != int(ratio):
        raise DataError(f"{name} must be a multiple of the instrument's {wanted}, was stored as {stored}")
    return int(ratio)


def _multiplied(counts: Int64s, ratio: int) -> Int64s:
    return counts if ratio == 1 else counts * ratio
