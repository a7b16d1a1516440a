"""Brings history into the store: from the archive what it has, over REST the rest up to now, and what is missing.

Days that the store has all of are left alone, so that a fetch that was cut short goes on where it stopped.
Whole months come as one file where the archive has it, other days one by one, several at a time; trades that no file
holds yet are asked for by id, page after page, gaps within a day too. A file is stored under the policy of each fault
found in it (see `quality`); one that is refused leaves its days as they were, and is told, as is a day whose rows
contradict those that are stored. Rows of REST are treated alike, page by page; one that is refused ends the fetch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from voltrade.data.quality import (
    FUNDING_RATES,
    LENIENT,
    MARK_KLINES,
    Inspection,
    Policies,
    Policy,
    SeriesLayout,
    inspect,
    inspect_cells,
    inspect_columns,
    inspect_series,
    jumps,
    unreadable,
    with_finding,
)
from voltrade.data.sources import TRADES_PER_PAGE, Archive, ArchiveFile, RestHistory, checksum_fault, checksum_path
from voltrade.data.store import (
    FUNDING,
    MARKS,
    MINUTE_MS,
    TRADES,
    About,
    Contradiction,
    Kind,
    Recorder,
    Store,
    StoredDay,
    day_of,
    days_between,
    start_of,
)
from voltrade.data.trade_files import Columns, multiples
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Instrument, Int64s, Trades

Rows = TypeVar("Rows")

DOWNLOADS = 4
"""Files that are fetched at a time."""

FOREVER = 1 << 62
"""Later than any time, above any id."""

PAGE: Policies = dict.fromkeys(("one_sided", "id_gap", "empty"), Policy.FLAG)
"""What a page of REST is not judged by: its trades are of a moment, and what it lacks is missing in the store."""

TRADE_KEYS = {"id": "a", "price": "p", "quantity": "q", "time": "T", "is_buyer_maker": "m"}

LAYOUTS: dict[Kind, SeriesLayout] = {MARKS: MARK_KLINES, FUNDING: FUNDING_RATES}


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
    first, last = inspection.edges or (None, None)
    if kind is TRADES:
        about = replace(About.of(instrument, ""), sources=sources, made_of=inspection.kind, first=first, last=last)
        return store.add_trades(inspection.taken, about, whole=whole)
    about = replace(About.of_values(sources), first=first, last=last)
    return store.add(kind, instrument.symbol, inspection.taken, inspection.taken[0], about, whole=whole)


class ReadableStore(Store):
    """What can be read of a store: a day that can't be is passed over as if it weren't there, and told.

    Attributes:
        unreadable: such days, as far as they were come by.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        super().__init__(root)
        self.unreadable: dict[tuple[Kind, str, date], Inspection[Any]] = {}

    def day(self, kind: Kind, symbol: str, day: date) -> StoredDay | None:
        try:
            return super().day(kind, symbol, day)
        except DataError as error:
            self.pass_over(kind, symbol, day, error)
            return None

    def pass_over(self, kind: Kind, symbol: str, day: date, error: DataError) -> None:
        """Tell of a day that it can't be read."""
        advice = DataError(f"{error}; it is passed over until its file is deleted")
        self.unreadable[kind, symbol, day] = unreadable(f"{kind.name}/{symbol}/{day}", kind.name, advice)


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of trades over REST."""

    trades: Trades
    """What the policies leave of it."""
    next_id: int
    """The id that the next page begins with."""
    is_last: bool


@dataclass(frozen=True, slots=True)
class _Gap:
    """Ids that are missing between stored trades."""

    after: StoredDay
    """The day of the trade before the gap, up to that trade."""
    until: int
    """Id to ask up to: the trade behind the gap too, so that a midnight between the two is seen."""
    missing: int


class Fetcher:
    """Fetches one symbol into a store.

    Attributes:
        found: files, and pages of REST, that anything is wrong with, without their rows; of a fetch that failed too.
        contradicted: days of which a source gave other rows than are stored, and what differs.
    """

    def __init__(
        self,
        store: ReadableStore,
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
        self.found: list[Inspection[Any]] = []
        self.contradicted: dict[tuple[Kind, date], str] = {}
        self._free = asyncio.Semaphore(downloads)

    async def fetch(
        self, first: date, last: date, kinds: Iterable[Kind] = (TRADES, MARKS, FUNDING)
    ) -> list[tuple[Kind, date]]:
        """Bring a range of days, both included, into the store, as far as they have come by now.

        Returns:
            Days that are over and that neither archive nor REST gave in full.

        Raises:
            DataError: archive or REST can't be reached, or give what can't be trusted.
        """
        lacking: list[tuple[Kind, date]] = []
        last = min(last, day_of(self._now()))
        with self._told(TRADES):
            await asyncio.to_thread(self._store.compact, self._instrument.symbol)
        for kind in kinds:
            refused = await self._from_archive(kind, self._wanted(kind, first, last))
            await self._from_rest(kind, [day for day in self._wanted(kind, first, last) if day not in refused])
            today = day_of(self._now())
            lacking += [(kind, day) for day in self._incomplete(kind, first, last) if day < today]
        return lacking

    def _incomplete(self, kind: Kind, first: date, last: date) -> list[date]:
        stored = {day.day for day in self._store.days(kind, self._instrument.symbol) if day.complete}
        return [day for day in days_between(first, last) if day not in stored]

    def _wanted(self, kind: Kind, first: date, last: date) -> list[date]:
        """Days that can be added to: rows can't be merged with a file that can't be read, or that says otherwise."""
        days, symbol = self._incomplete(kind, first, last), self._instrument.symbol
        readable = [day for day in days if (kind, symbol, day) not in self._store.unreadable]
        return [day for day in readable if (kind, day) not in self.contradicted]

    @contextmanager
    def _told(self, kind: Kind) -> Iterator[None]:
        """Note which days contradict what is stored, so that the others are fetched all the same."""
        try:
            yield
        except Contradiction as error:
            self.contradicted |= {(kind, day): words for day, words in error.days.items()}

    # --- the archive --------------------------------------------------------------------------------------------------

    async def _from_archive(self, kind: Kind, days: list[date]) -> set[date]:
        """Bring what the archive has of some days: whole months first, then the days that these left.

        Returns:
            Days whose file is there and refused.
        """
        symbol, today = self._instrument.symbol, day_of(self._now())
        over = [day for day in days if day < today]
        months = dict.fromkeys(ArchiveFile.of_month(kind, symbol, day) for day in over)
        if kind is FUNDING:  # comes by the month only; of a month that isn't over there is no file
            return _refused(await self._take_all([month for month in months if month.last < today]))
        whole = [month for month in months if set(days_between(month.first, month.last)) <= set(over)]
        taken = [month for month, is_taken in (await self._take_all(whole)).items() if is_taken]
        rest = [day for day in over if not any(month.first <= day <= month.last for month in taken)]
        return _refused(await self._take_all([ArchiveFile(kind, symbol, day, day) for day in rest]))

    async def _take_all(self, files: list[ArchiveFile]) -> dict[ArchiveFile, bool]:
        """Fetch files side by side; return those that the archive has, and whether they were taken."""
        if not files:
            return {}
        taken: dict[ArchiveFile, bool] = {}
        with tqdm(total=len(files), desc=f"archive {files[0].kind.name}", unit="file", disable=None) as bar:

            async def take(file: ArchiveFile) -> None:
                async with self._free, self._archive.fetched(file) as path:
                    if path is not None:
                        inspection = await asyncio.to_thread(self._take, file, path)
                        self._note(inspection)
                        taken[file] = inspection.taken is not None
                    bar.update()

            try:
                async with asyncio.TaskGroup() as group:
                    for file in files:
                        group.create_task(take(file))
            except ExceptionGroup as errors:  # the first one stopped the others
                raise errors.exceptions[0] from None
        return taken

    def _take(self, file: ArchiveFile, path: Path) -> Inspection[Any]:
        inspection = inspect_file(path, self._instrument, self._policies)
        with self._told(file.kind):
            store_file(self._store, inspection, file.kind, self._instrument, (file.first, file.last))
            if inspection.taken is not None:  # a file that is refused, or contradicts, is kept to be looked at
                for done in (path, checksum_path(path)):
                    done.unlink(missing_ok=True)
        return inspection

    def _note(self, inspection: Inspection[Any]) -> None:
        if inspection.findings:
            self.found.append(replace(inspection, taken=None))

    # --- REST ---------------------------------------------------------------------------------------------------------

    async def _from_rest(self, kind: Kind, days: list[date]) -> None:
        if kind is TRADES:
            days = await self._without_gaps(days)
        for first, last in _runs(days):
            end = min(start_of(last) + DAY_MS, self._now())
            if kind is TRADES:
                with self._told(kind):
                    await self._trades(first, last, end)
            else:
                await self._series(kind, first, end)

    async def _without_gaps(self, days: list[date]) -> list[date]:
        """Fill the gaps within days; return the days that lack their begin or end."""
        stored = self._stored(days)
        # A day without its begin comes as a whole: then there is no need to fill its gaps.
        await self._fill(await asyncio.to_thread(self._gaps, [day for day in stored if day.about.begins]))
        have_edges = {day.day for day in self._stored(days) if day.about.begins and day.about.ends}
        return [day for day in days if day not in have_edges]

    def _stored(self, days: list[date]) -> list[StoredDay]:
        found = (self._store.day(TRADES, self._instrument.symbol, day) for day in days)
        return [stored for stored in found if stored]

    async def _trades(self, first: date, last: date, end: int) -> None:
        """Record trades of a run of days by their ids, from the last one that is stored, up to the end or to now."""
        symbol, day_end = self._instrument.symbol, start_of(last) + DAY_MS
        after = self._trades_before(first)
        next_id = after.last + 1 if after else await self._rest.first_id(symbol, start_of(first), end)
        if next_id is None:
            return
        recorder = self._recorder(after)
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

    def _recorder(self, after: StoredDay | None) -> Recorder:
        seldom = {"flush_ms": FOREVER, "flush_rows": 100 * TRADES_PER_PAGE}
        return Recorder(self._store, self._instrument, "REST", begins=after is None, after=after, **seldom)

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
                page = await self._page(next_id)
                yield page.trades
                next_id, reached = page.next_id, int(page.trades.time[-1]) if len(page.trades) else start
                bar.update(max(round((min(reached, end) - start) / MINUTE_MS) - bar.n, 0))
                if reached >= end or page.is_last:
                    return

    async def _page(self, from_id: int, before: int = FOREVER) -> _Page:
        """Ask for trades from an id on; those of another one and later are left out."""
        rows = await self._rest.trades(self._instrument.symbol, from_id)
        name = f"REST aggTrades from {from_id}"
        cells = _cells(name, rows, TRADE_KEYS)
        ids, wrong = multiples(cells["id"], Decimal(1))
        wanted = {ours: cells[ours].filter(pa.array(ids < before)) for ours in cells}
        columns = Columns(name, "aggTrades", tuple(TRADE_KEYS.values()), wanted, _numbers(wanted["id"]))
        trades = self._page_taken(inspect_columns([columns], self._instrument, {**self._policies, **PAGE}))
        next_id = int(ids.max(where=~wrong, initial=from_id)) + 1
        return _Page(trades, next_id, is_last=len(rows) < TRADES_PER_PAGE)

    def _page_taken(self, inspection: Inspection[Rows]) -> Rows:
        """Return what the policies leave of a page.

        Raises:
            DataError: they refuse it.
        """
        if inspection.taken is None:
            raise DataError(f"{inspection.name}: {inspection.refused}")
        judged = tuple(finding for finding in inspection.findings if finding.fault not in PAGE)
        self._note(replace(inspection, findings=judged))
        return inspection.taken

    async def _series(self, kind: Kind, first: date, end: int) -> None:
        """Bring marks or funding rates of a run of days, up to the end or to now."""
        symbol, start = self._instrument.symbol, start_of(first)
        pages = self._marks if kind is MARKS else self._funding
        # Funding times are known only as they come: days that are over are whole once they were asked for.
        whole = (first, day_of(end) - timedelta(1)) if kind is FUNDING else None
        stored = self._store.day(kind, symbol, first)
        if kind is MARKS and stored and stored.about.begins and not stored.missing:
            start = stored.last + MINUTE_MS
        async for cells in pages(start, end):
            chosen = {**self._policies, **PAGE}
            numbers = _numbers(cells[LAYOUTS[kind].time])
            columns = self._page_taken(inspect_cells(f"REST {kind.name}", cells, numbers, LAYOUTS[kind], chosen))
            if kind is MARKS:  # a mark price belongs to a minute that is over
                columns = tuple(column[columns[0] <= end - MINUTE_MS] for column in columns)
            if len(columns[0]):
                with self._told(kind):
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
            DataError: REST can't be reached, or gives what can't be trusted.
        """
        stored = self._store.days(TRADES, self._instrument.symbol)
        gaps = await asyncio.to_thread(self._gaps, [day for day in stored if first <= day.day <= last])
        return sum(gap.missing for gap in gaps), await self._fill(gaps)

    async def _fill(self, gaps: list[_Gap]) -> int:
        """Record what REST has of some gaps; return how many ids that were."""
        filled = 0
        for gap in tqdm(gaps, desc="fill gaps", unit="gap", disable=None):
            recorder, next_id = self._recorder(gap.after), gap.after.last + 1
            try:
                while next_id <= gap.until:
                    page = await self._page(next_id, gap.until + 1)
                    recorder.record(page.trades)
                    filled += int(np.searchsorted(page.trades.id, gap.after.last + gap.missing, side="right"))
                    if page.is_last:
                        break
                    next_id = page.next_id
            finally:
                with self._told(TRADES):
                    await asyncio.to_thread(recorder.close)
        return filled

    def _gaps(self, days: list[StoredDay]) -> list[_Gap]:
        """Gaps within stored days, at their edges where rows were left out, and between days that follow each other."""
        gaps = []
        before: StoredDay | None = None
        for stored in days:
            if stored.about.made_of != "aggTrades":
                continue
            follows = before is not None and before.day + timedelta(1) == stored.day
            previous = before if before and follows else replace(stored, last=stored.first - 1)
            if stored.missing or stored.first > previous.last + 1:
                try:
                    ids = self._store.rows(TRADES, stored.symbol, stored.day)[0]
                except DataError as error:
                    self._store.pass_over(TRADES, stored.symbol, stored.day, error)
                    continue
                ids = np.concatenate([[previous.last], ids, [stored.last + 1]])
                missing = jumps(ids)
                for row in np.flatnonzero(missing > 0):
                    after = replace(previous if row == 1 else stored, last=int(ids[row - 1]))
                    gaps.append(_Gap(after, min(int(ids[row]), stored.last), int(missing[row])))
            before = stored
        return gaps


def _refused(files: Mapping[ArchiveFile, bool]) -> set[date]:
    """Days of files that were not taken."""
    return {day for file, is_taken in files.items() if not is_taken for day in days_between(file.first, file.last)}


def _cells(name: str, page: list[Any], keys: Mapping[str, str | int]) -> dict[str, pa.Array]:
    """Columns of a page as texts: our name to their key, or place in the row.

    Raises:
        DataError: a row has no such key.
    """
    try:
        return {ours: pa.array([str(row[their]) for row in page], pa.string()) for ours, their in keys.items()}
    except (KeyError, IndexError, TypeError):
        raise DataError(f"{name}: rows must have {', '.join(map(str, keys.values()))}, was {page[0]!r}") from None


def _numbers(column: pa.Array) -> Int64s:
    """Number the rows of a page from 1."""
    return np.arange(1, len(column) + 1, dtype=np.int64)


def _runs(days: list[date]) -> list[tuple[date, date]]:
    """First and last day of each run of days that follow each other."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and runs[-1][1] + timedelta(1) == day:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def _about_series(times: Int64s) -> About:
    """Describe values by the minute, which begin and end a day where the first and the last minute of it are there."""
    begins, ends = int(times[0]) % DAY_MS == 0, int(times[-1] + MINUTE_MS) % DAY_MS == 0
    return About.of_values({"REST": {}}, begins=begins, ends=ends)
