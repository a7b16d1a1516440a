"""Brings history into the store: from the archive what it has, over REST the rest up to now, and what is missing.

Days that the store has from edge to edge are left alone, so that a fetch that was cut short goes on where it stopped.
Whole months come as one file where the archive has it, other days one by one, several at a time; trades that no file
holds yet are asked for by id, page after page. A file is stored under the policy of each fault found in it (see
`inspection`); one that is refused leaves its days as they were, and is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from voltrade.errors import DataError
from voltrade.inspection import (
    FUNDING_RATES,
    LENIENT,
    MARK_KLINES,
    STRICT,
    Inspection,
    Policies,
    Policy,
    SeriesLayout,
    inspect,
    inspect_cells,
    inspect_columns,
    inspect_series,
    jumps,
    with_finding,
)
from voltrade.model import DAY_MS, Instrument, Int64s, Trades
from voltrade.sources import TRADES_PER_PAGE, Archive, ArchiveFile, RestHistory, checksum_fault, checksum_path
from voltrade.store import (
    FUNDING,
    MARKS,
    MINUTE_MS,
    TRADES,
    About,
    Kind,
    Recorder,
    Store,
    StoredDay,
    day_of,
    days_between,
    start_of,
)
from voltrade.trade_files import Columns

Rows = TypeVar("Rows")

DOWNLOADS = 4
"""Files that are fetched at a time."""

FOREVER_MS = 1 << 62

PAGE: Policies = {**STRICT, "one_sided": Policy.FLAG}
"""What comes over REST is taken as a whole or not at all; the trades of a moment may well be on one side."""

TRADE_KEYS = {"id": "a", "price": "p", "quantity": "q", "time": "T", "is_buyer_maker": "m"}

LAYOUTS: dict[Kind, SeriesLayout] = {MARKS: MARK_KLINES, FUNDING: FUNDING_RATES}


@dataclass(slots=True)
class Fetched:
    """What a fetch did."""

    inspections: list[Inspection[Any]] = field(default_factory=list)
    """Of each file that was found."""
    lacking: list[tuple[Kind, date]] = field(default_factory=list)
    """Days that are over and that neither archive nor REST gave in full."""

    @property
    def refused(self) -> list[Inspection[Any]]:
        return [inspection for inspection in self.inspections if inspection.taken is None]

    @property
    def ok(self) -> bool:
        return not self.refused and not self.lacking


def inspect_file(
    path: Path, instrument: Instrument, policies: Policies = LENIENT, *, archived: bool = True
) -> Inspection[Any]:
    """Inspect a file of trades, mark prices or funding rates; one of the archive by its CHECKSUM and its name too."""
    file = ArchiveFile.named(path.name)
    span = file.span if file else None
    if file is None or file.kind is TRADES:
        inspection: Inspection[Any] = inspect(path, instrument, policies, span)
    else:
        inspection = inspect_series(path, LAYOUTS[file.kind], policies, span)
    fault = checksum_fault(path) if archived and path.is_file() else None
    return inspection if fault is None else with_finding(inspection, "checksum", policies, fault)


def store_file(
    store: Store, inspection: Inspection[Any], kind: Kind, instrument: Instrument, whole: tuple[date, date] | None
) -> list[StoredDay]:
    """Add what a file holds to the store; nothing where it is refused.

    Args:
        whole: the days that the file holds all of.

    Raises:
        DataError: it does not agree with what is stored.
    """
    if inspection.taken is None:
        return []
    sources = {inspection.name: inspection.counts}
    if kind is TRADES:
        about = replace(About.of(instrument, ""), sources=sources, made_of=inspection.kind)
        return store.add_trades(inspection.taken, about, whole=whole)
    times = inspection.taken[0]
    return store.add(kind, instrument.symbol, inspection.taken, times, About.of_values(sources), whole=whole)


class Fetcher:
    """Fetches one symbol into a store."""

    def __init__(
        self,
        store: Store,
        instrument: Instrument,
        archive: Archive,
        rest: RestHistory,
        now: Callable[[], int],
        policies: Policies = LENIENT,
        downloads: int = DOWNLOADS,
    ) -> None:
        """Make a fetcher.

        Args:
            now: gives the time, ms UTC.
            downloads: files that are fetched at a time.
        """
        self._store = store
        self._instrument = instrument
        self._archive = archive
        self._rest = rest
        self._now = now
        self._policies = policies
        self._free = asyncio.Semaphore(downloads)

    async def fetch(self, first: date, last: date, kinds: Iterable[Kind] = (TRADES, MARKS, FUNDING)) -> Fetched:
        """Bring a range of days, both included, into the store, as far as they have come by now.

        Raises:
            DataError: archive or REST can't be reached, or give what does not agree with what is stored.
        """
        fetched = Fetched()
        last = min(last, day_of(self._now()))
        await asyncio.to_thread(self._store.settle, self._instrument.symbol)
        for kind in kinds:
            days = self._incomplete(kind, first, last)
            await self._from_archive(kind, days, fetched)
            refused = {day for day in days if any(_covers(inspection, kind, day) for inspection in fetched.refused)}
            days = [day for day in self._incomplete(kind, first, last) if day not in refused]
            await self._from_rest(kind, days)
            today = day_of(self._now())
            fetched.lacking += [(kind, day) for day in self._incomplete(kind, first, last) if day < today]
        return fetched

    def _incomplete(self, kind: Kind, first: date, last: date) -> list[date]:
        stored = {day.day for day in self._store.days(kind, self._instrument.symbol) if day.complete}
        return [day for day in days_between(first, last) if day not in stored]

    # --- the archive --------------------------------------------------------------------------------------------------

    async def _from_archive(self, kind: Kind, days: list[date], fetched: Fetched) -> None:
        """Bring what the archive has of some days: whole months first, then the days that these left."""
        symbol, today = self._instrument.symbol, day_of(self._now())
        over = [day for day in days if day < today]
        months = dict.fromkeys(ArchiveFile.of_month(kind, symbol, day) for day in over)
        whole = [month for month in months if set(days_between(month.first, month.last)) <= set(over)]
        # Funding rates come by the month only; of a month that isn't over there is no file.
        files = [month for month in months if month.last < today] if kind is FUNDING else whole
        found = await self._take_all(files, fetched)
        if kind is not FUNDING:
            rest = [day for day in over if not any(file.first <= day <= file.last for file in found)]
            await self._take_all([ArchiveFile(kind, symbol, day, day) for day in rest], fetched)

    async def _take_all(self, files: list[ArchiveFile], fetched: Fetched) -> list[ArchiveFile]:
        """Fetch files side by side; return those that the archive has."""
        if not files:
            return []
        with tqdm(total=len(files), desc=f"archive {files[0].kind.name}", unit="file", disable=None) as bar:

            async def take(file: ArchiveFile) -> ArchiveFile | None:
                async with self._free:
                    path = await self._archive.fetch(file)
                    if path is not None:
                        fetched.inspections.append(await asyncio.to_thread(self._take, file, path))
                    bar.update()
                    return file if path is not None else None

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(take(file)) for file in files]
            except ExceptionGroup as errors:  # the first one stopped the others
                raise errors.exceptions[0] from None
        return [file for task in tasks if (file := task.result()) is not None]

    def _take(self, file: ArchiveFile, path: Path) -> Inspection[Any]:
        inspection = inspect_file(path, self._instrument, self._policies)
        store_file(self._store, inspection, file.kind, self._instrument, (file.first, file.last))
        if inspection.taken is not None:  # a refused file is kept to be looked at
            for done in (path, checksum_path(path)):
                done.unlink(missing_ok=True)
        return inspection

    # --- REST ---------------------------------------------------------------------------------------------------------

    async def _from_rest(self, kind: Kind, days: list[date]) -> None:
        for first, last in _runs(days):
            end = min(start_of(last) + DAY_MS, self._now())
            if kind is TRADES:
                await self._trades(first, last, end)
            else:
                await self._series(kind, first, end)

    async def _trades(self, first: date, last: date, end: int) -> None:
        """Record trades of a run of days by their ids, from the last one that is stored, up to the end or to now."""
        symbol, day_end = self._instrument.symbol, start_of(last) + DAY_MS
        after = self._trades_before(first)
        next_id = after.last + 1 if after else await self._rest.first_id(symbol, start_of(first), end)
        if next_id is None:
            return
        recorder = Recorder(
            self._store,
            self._instrument,
            "REST",
            begins=after is None,
            after=after,
            flush_ms=FOREVER_MS,
            flush_rows=100 * TRADES_PER_PAGE,
        )
        ended = False
        try:
            async for trades in self._pages(next_id, start_of(first), end):
                inside = int(np.searchsorted(trades.time, end))
                recorder.record(trades[:inside])
                ended = end == day_end and inside < len(trades)
            # Where no trade follows, that there will be none is known a while after midnight.
            ended |= end == day_end and self._now() >= day_end + MINUTE_MS
        finally:
            await asyncio.to_thread(recorder.close, ended=ended)

    def _trades_before(self, first: date) -> StoredDay | None:
        """The stored day after whose last trade to go on: the day itself, or the one before if it is whole."""
        symbol = self._instrument.symbol
        stored = self._store.day(TRADES, symbol, first)
        if stored and stored.about.made_of != "aggTrades":
            raise DataError(
                f"{symbol} {first}: is made of raw trades, whose ids REST does not know: delete the day first"
            )
        if stored and stored.about.begins:
            return stored
        before = self._store.day(TRADES, symbol, first - timedelta(1))
        return before if before and before.about.ends and before.about.made_of == "aggTrades" else None

    async def _pages(self, next_id: int, start: int, end: int) -> AsyncIterator[Trades]:
        """Give trades from an id on, page by page, until the end is passed or there are no more."""
        with tqdm(total=round((end - start) / MINUTE_MS), desc="REST trades", unit="min", disable=None) as bar:
            while True:
                trades = await self._page(next_id)
                if not len(trades):
                    return
                yield trades
                reached = int(trades.time[-1])
                bar.update(round((min(reached, end) - start) / MINUTE_MS) - bar.n)
                next_id = int(trades.id[-1]) + 1
                if reached >= end or len(trades) < TRADES_PER_PAGE:
                    return

    async def _page(self, from_id: int) -> Trades:
        page = await self._rest.trades(self._instrument.symbol, from_id)
        if not page:
            return Trades.from_rows(self._instrument.symbol, [])
        name = f"REST aggTrades from {from_id}"
        columns = Columns(name, "aggTrades", tuple(TRADE_KEYS.values()), _cells(name, page, TRADE_KEYS), 1)
        return _trusted(inspect_columns([columns], self._instrument, PAGE))

    async def _series(self, kind: Kind, first: date, end: int) -> None:
        """Bring marks or funding rates of a run of days, up to the end or to now."""
        symbol, start = self._instrument.symbol, start_of(first)
        pages = self._marks if kind is MARKS else self._funding
        # Funding times are known only as they come: days that are over are whole once they were asked for.
        whole = (first, day_of(end) - timedelta(1)) if kind is FUNDING else None
        stored = self._store.day(kind, symbol, first)
        if kind is MARKS and stored and stored.about.begins:
            start = stored.last + MINUTE_MS
        async for cells in pages(start, end):
            columns = _trusted(inspect_cells(f"REST {kind.name}", cells, 1, LAYOUTS[kind], PAGE))
            if kind is MARKS:  # a mark price belongs to a minute that is over
                columns = tuple(column[columns[0] <= end - MINUTE_MS] for column in columns)
            if len(columns[0]):
                await asyncio.to_thread(
                    self._store.add, kind, symbol, columns, columns[0], _about_series(columns[0]), whole=whole
                )

    async def _marks(self, start: int, end: int) -> AsyncIterator[dict[str, pa.Array]]:
        places = {name: place for place, name in enumerate(MARK_KLINES.columns)}
        async for page in self._rest.marks(self._instrument.symbol, start, end):
            yield _cells("REST markPriceKlines", page, places)

    async def _funding(self, start: int, end: int) -> AsyncIterator[dict[str, pa.Array]]:
        async for page in self._rest.funding(self._instrument.symbol, start, end):
            yield _cells("REST fundingRate", page, {"calc_time": "fundingTime", "last_funding_rate": "fundingRate"})

    # --- gaps ---------------------------------------------------------------------------------------------------------

    async def fill(self, first: date, last: date) -> tuple[int, int]:
        """Ask REST for the ids that are missing between stored trades; return how many were, and how many came.

        Raises:
            DataError: REST can't be reached, or gives what does not agree with what is stored.
        """
        gaps = await asyncio.to_thread(self._gaps, first, last)
        filled = 0
        for start, end in tqdm(gaps, desc="fill gaps", unit="gap", disable=None):
            next_id = start
            while next_id < end:
                page = await self._page(next_id)
                missing = page[: int(np.searchsorted(page.id, end))]
                if not len(missing):
                    break
                about = About.of(self._instrument, "REST")
                await asyncio.to_thread(self._store.add_trades, missing, about)
                filled += len(missing)
                next_id = int(missing.id[-1]) + 1
        return sum(end - start for start, end in gaps), filled

    def _gaps(self, first: date, last: date) -> list[tuple[int, int]]:
        """First missing id and the one after the last, of each gap within and between days that follow each other."""
        symbol, gaps = self._instrument.symbol, []
        before: StoredDay | None = None
        for stored in self._store.days(TRADES, symbol):
            if not first <= stored.day <= last or stored.about.made_of != "aggTrades":
                continue
            ids = self._store.rows(TRADES, symbol, stored.day)[0]
            if before and before.day + timedelta(1) == stored.day:
                ids = np.concatenate([[before.last], ids])
            missing = jumps(ids)
            gaps += [(int(ids[row] - missing[row]), int(ids[row])) for row in np.flatnonzero(missing)]
            before = stored
        return gaps


def _covers(inspection: Inspection[Any], kind: Kind, day: date) -> bool:
    file = ArchiveFile.named(inspection.name)
    return file is not None and file.kind is kind and file.first <= day <= file.last


def _cells(name: str, page: list[Any], keys: Mapping[str, str | int]) -> dict[str, pa.Array]:
    """Columns of a page as texts: our name to their key, or place in the row.

    Raises:
        DataError: a row has no such key.
    """
    try:
        return {ours: pa.array([str(row[their]) for row in page], pa.string()) for ours, their in keys.items()}
    except (KeyError, IndexError, TypeError):
        raise DataError(f"{name}: rows must have {', '.join(map(str, keys.values()))}, was {page[0]!r}") from None


def _runs(days: list[date]) -> list[tuple[date, date]]:
    """First and last day of each run of days that follow each other."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and runs[-1][1] + timedelta(1) == day:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def _trusted(inspection: Inspection[Rows]) -> Rows:
    """Return what a page of REST holds.

    Raises:
        DataError: anything is wrong with it.
    """
    if inspection.taken is None:
        raise DataError(f"{inspection.name}: {inspection.refused}")
    return inspection.taken


def _about_series(times: Int64s) -> About:
    """Describe values by the minute, which begin and end a day where the first and the last minute of it are there."""
    begins, ends = int(times[0]) % DAY_MS == 0, int(times[-1] + MINUTE_MS) % DAY_MS == 0
    return About.of_values({"REST": {}}, begins=begins, ends=ends)
