"""What the store has of one day: its metadata, and how the rows of several files are merged into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from voltrade.data.kinds import FUNDING, KINDS, Column, Kind, start_of
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Instrument, Int64s


class Contradiction(DataError):
    """Two rows with the same key differ: a stored and a new one, or rows of two recorded parts.

    Or nothing can be added to what is stored of a day, since that can't be read, or counts in other units.
    """

    def __init__(self, days: Mapping[date, str]) -> None:
        """Take the message of each such day."""
        super().__init__("; ".join(days.values()))
        self.days = days


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of a stored file, written into it as JSON."""

    tick: str
    """Price of one tick, in the quote asset."""
    step: str
    """Quantity of one lot, in the base asset."""
    begins: bool
    """Whether its first row is the first that the exchange has of the day."""
    ends: bool
    """Whether its last row is the last of the day."""
    sources: Mapping[str, Mapping[str, int]]
    """Each source of rows, and how many rows had which fault there."""
    made_of: str = "aggTrades"
    """`trades` where raw trades were aggregated here: their ids are our own, so REST can't fill gaps of the day."""
    whole: bool = False
    """Whether one source gave all rows that it has: a missing row is missing there."""
    first: int | None = None
    """Key of the first row that the source has, even if it was dropped for a fault; None where that isn't known."""
    last: int | None = None
    """Key of the last row that the source has."""
    begin_proven: bool = False
    """Whether REST, or the trade before it, says that its first row is the day's first. A file alone proves nothing."""
    end_proven: bool = False
    """Whether REST, or the trade after it, says that its last row is the day's last."""
    quiet_from: int | None = None
    """REST says that no trade was made from here on up to its first one, ms UTC; None where it wasn't asked."""
    quiet_until: int | None = None
    """REST says that no trade was made after its last one and before here, ms UTC."""
    asked: bool = False
    """Whether REST was asked for all funding rates of the day, so that what lacks is missing there too."""
    symbol: str = ""
    """Written by the store; older files don't state it."""
    raw_first: int | None = None
    """The exchange's id of its first raw trade, where raw trades were aggregated here and a file begins with it."""
    raw_last: int | None = None
    """The exchange's id of its last raw trade, where a file ends with it."""
    is_listing: bool | None = None
    """Whether REST says that its first row is the symbol's first trade of all times; None where it wasn't asked."""

    @staticmethod
    def of(instrument: Instrument, source: str, *, begins: bool = False, ends: bool = False) -> Metadata:
        """Describe trades in an instrument's ticks and lots, without faults."""
        tick, step = (f"{unit.normalize():f}" for unit in (instrument.tick_size, instrument.step_size))
        return Metadata(tick, step, begins, ends, {source: {}}, begin_proven=begins, end_proven=ends)

    @staticmethod
    def of_values(sources: Mapping[str, Mapping[str, int]], *, begins: bool = False, ends: bool = False) -> Metadata:
        """Describe mark prices or funding rates, which are in 1e-8."""
        return Metadata("0.00000001", "1", begins, ends, sources)

    def beginning(self, begins: bool) -> Metadata:
        """Return it with or without the proof that its first row is the first of the day."""
        return replace(self, begins=begins, begin_proven=begins)


@dataclass(frozen=True, slots=True)
class StoredDay:
    """A day of one symbol in the store."""

    kind: str
    symbol: str
    day: date
    rows: int
    first: int
    """Key of the first row, even if it was dropped for a fault: id of a trade, time of a mark price or funding rate."""
    last: int
    """Key of the last row."""
    metadata: Metadata
    size: int
    """Bytes."""

    @property
    def complete(self) -> bool:
        """Whether the store has all of the day that its sources have."""
        return self.metadata.begins and self.metadata.ends and (self.metadata.whole or not self.missing)

    @property
    def missing(self) -> int:
        """Rows that are missing between the first and the last."""
        step = KINDS[self.kind].step
        return max(0, (self.last - self.first) // step + 1 - self.rows) if step else 0


@dataclass(frozen=True, slots=True)
class FileContent:
    """Rows of one file, or rows that are to be added."""

    metadata: Metadata
    rows: int
    first: int
    """Key of the first row, even if it was dropped for a fault."""
    last: int
    size: int
    columns: list[Column]
    """The columns that were requested."""

    @staticmethod
    def of(metadata: Metadata, rows: int, keys: tuple[int, int], size: int, columns: list[Column]) -> FileContent:
        """Describe rows by their first and last key."""
        first = keys[0] if metadata.first is None else min(keys[0], metadata.first)
        last = keys[1] if metadata.last is None else max(keys[1], metadata.last)
        return FileContent(metadata, rows, first, last, size, columns)


def keys_of(contents: Sequence[FileContent]) -> Int64s:
    """Return the distinct keys of several files."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(each.columns[0] for each in contents)]))


def check_same_units(stored: Metadata, added: Metadata, path: str) -> None:
    """Refuse rows in other units than the stored ones."""
    for name in ("tick", "step", "made_of"):
        if getattr(stored, name) != getattr(added, name):
            raise DataError(f"{path}: {name} must be {getattr(stored, name)} as stored, was {getattr(added, name)}")


def merged_metadata(contents: Sequence[FileContent]) -> Metadata:
    """Return the metadata of several files together."""
    first, last = min(each.first for each in contents), max(each.last for each in contents)
    # A file that is imported again says what it says now: older versions didn't keep the ids of its raw trades.
    said = [each.metadata for at, each in enumerate(contents) if not _is_said_again(each, contents[at + 1 :])]
    raw_firsts: list[Any] = [each.raw_first for each in said]
    raw_lasts: list[Any] = [each.raw_last for each in said]
    return replace(
        contents[0].metadata,
        begins=any(each.metadata.begins for each in contents if each.first == first),
        begin_proven=any(each.metadata.begin_proven for each in contents if each.first == first),
        ends=any(each.metadata.ends for each in contents if each.last == last),
        end_proven=any(each.metadata.end_proven for each in contents if each.last == last),
        is_listing=_known(each.metadata.is_listing for each in contents if each.first == first),
        sources={source: found for each in contents for source, found in each.metadata.sources.items()},
        whole=any(each.metadata.whole for each in contents),
        asked=any(each.metadata.asked for each in contents),
        quiet_from=_known(each.metadata.quiet_from for each in contents if each.first == first),
        quiet_until=_known(each.metadata.quiet_until for each in contents if each.last == last),
        first=first,
        last=last,
        raw_first=min(raw_firsts) if None not in raw_firsts else None,
        raw_last=max(raw_lasts) if None not in raw_lasts else None,
    )


def _is_said_again(content: FileContent, later: Sequence[FileContent]) -> bool:
    sources = content.metadata.sources.keys()
    return any(each.metadata.whole and sources <= each.metadata.sources.keys() for each in later)


def _known(values: Iterable[Any]) -> Any:
    """Return the first value that is known; None where none is."""
    return next((value for value in values if value is not None), None)


def merged_rows(contents: Sequence[FileContent], kind: Kind, path: str, day: date) -> list[Column]:
    """Merge rows of a day, each file's sorted by key, into columns with every key once.

    Raises:
        Contradiction: two rows with the same key differ.
    """
    if len(contents) == 1:
        return contents[0].columns
    columns = [np.concatenate(parts) for parts in zip(*(each.columns for each in contents), strict=True)]
    if np.all(columns[0][1:] > columns[0][:-1]):
        return columns
    order = np.argsort(columns[0], kind="stable")
    columns = [column[order] for column in columns]
    repeated = np.append(False, columns[0][1:] == columns[0][:-1])
    for name, column in zip(kind.columns[1:], columns[1:], strict=True):
        differs = repeated[1:] & (column[1:] != column[:-1])
        if name in kind.optional:
            differs &= (column[1:] != 0) & (column[:-1] != 0)
        if differs.any():
            at = int(np.argmax(differs))
            key, newer = (kind.columns[0], int(columns[0][at])), contents[-1].metadata
            text = _contradiction_text(path, key, name, column[at : at + 2], newer)
            raise Contradiction({day: _added_special_text(path, day, [each[at : at + 2] for each in columns]) or text})
    kept = [column[~repeated] for column in columns]
    for number, name in enumerate(kind.columns):
        if name in kind.optional:  # what one source states and the other doesn't is known
            stated = columns[number] != 0
            kept[number][(np.cumsum(~repeated) - 1)[stated]] = columns[number][stated]
    return kept


def _contradiction_text(path: str, key: tuple[str, int], name: str, values: Column, newer: Metadata) -> str:
    stored, added = (_as_decimal(name, value, newer) for value in values)
    files = path.replace(".parquet", ".*")
    return (
        f"{path}: rows of one {key[0]} must agree, the {name} of {key[1]} must be {stored} as stored, was {added} "
        f"from {' and '.join(newer.sources)}; "
        f"to have the day from one source, delete {files} in the store and fetch it again"
    )


def _added_special_text(path: str, day: date, rows: Sequence[Column]) -> str:
    """Say of two rows of a funding time that the stored rate has the special one in it, as older versions had it; empty
    where it hasn't."""
    if not path.startswith(f"{FUNDING.name}/"):
        return ""
    (time, _), (stored, regular), _, (_, special) = (column.tolist() for column in rows)
    if not special or stored != regular + special:
        return ""
    rates = [f"{rate * Decimal('0.00000001'):f}" for rate in (stored, regular, special)]
    files, symbol = path.replace(".parquet", ".*"), path.split("/")[1]
    return (
        f"{path}: the rate of {time} is stored as {rates[0]}, the regular {rates[1]} and the special {rates[2]} in "
        f"one, as older versions stored it; delete {files} in the store, and python -m voltrade data fetch {symbol} "
        f"--from {day} --to {day} --kinds funding has them apart"
    )


def _as_decimal(name: str, value: Any, metadata: Metadata) -> str:
    """Write a stored value as the exchange does."""
    if name in ("time", "is_buyer_maker"):
        return str(value)
    return f"{int(value) * Decimal(metadata.step if name == 'quantity' else metadata.tick):f}"


def counts_alike(before: Metadata, after: Metadata) -> bool:
    """Whether ids of two days can be compared: those of joined raw trades are our own, and begin anew in each file."""
    if before.made_of == after.made_of == "trades":
        return list(before.sources) == list(after.sources) and len(before.sources) == 1
    return before.made_of == after.made_of == "aggTrades"


def raw_ids_missing(before: Metadata, after: Metadata) -> int | None:
    """Return how many raw trades are missing between two days of them, below 0 where some are in both; None where the
    exchange's ids of one aren't known."""
    if before.raw_last is None or after.raw_first is None:
        return None
    return after.raw_first - before.raw_last - 1


def ids_between(before: StoredDay, after: StoredDay) -> tuple[int, int] | None:
    """Return the last id of a day and the first of a later one, as the exchange counts them; None where that isn't
    known."""
    if counts_alike(before.metadata, after.metadata):
        return before.last, after.first
    last, first = before.metadata.raw_last, after.metadata.raw_first
    return None if last is None or first is None else (last, first)


_LATER = 1 << 62


def is_between(before: StoredDay | None, begin: int, after: StoredDay | None) -> bool:
    """Whether no trade was made on the day from `begin` on, which lies between two days of trades or beside one."""
    ids = ids_between(before, after) if before and after else None
    until = 0 if before is None else max(start_of(before.day) + DAY_MS, before.metadata.quiet_until or 0)
    since = _LATER if after is None else min(start_of(after.day), after.metadata.quiet_from or _LATER)
    if ids is not None and (until >= since or ids[0] + 1 == ids[1]):  # ids tell whether REST lost what was made
        return ids[0] + 1 == ids[1]
    return until >= begin + DAY_MS or since <= begin


@contextmanager
def collect_contradictions(found: dict[date, str], day: date) -> Iterator[None]:
    """Add to `found` why nothing could be added to a day, instead of raising it: other days are still stored."""
    try:
        yield
    except DataError as error:
        found |= error.days if isinstance(error, Contradiction) else {day: str(error)}
