"""Fetches history into the store: from the archive, then over REST what the archive doesn't have yet.

Days that are complete in the store are not fetched again, so an interrupted fetch continues where it stopped. Whole
months are fetched as one file where the archive has it, other days one by one, several at a time. Trades that are in
no file yet, and gaps within a day or between days, are requested over REST by id; so are mark prices and funding rates
that a file lacks. Rows are stored under the policies of their faults (see `faults`). A refused file leaves its days as
they were, but that REST is asked for mark prices and funding rates, and so does a day whose rows contradict the stored
ones; both are reported. A bad row of REST is dropped alone, a refused page of trades ends the fetch of trades.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from voltrade.data.archive_files import ArchiveFile, checksum_path
from voltrade.data.coverage import known_interval_ms
from voltrade.data.day_edges import first_due, open_edges, rows_of_next_day
from voltrade.data.faults import DEFAULT_POLICIES, Inspection, Policies
from voltrade.data.file_checks import LAYOUTS, inspect_file, store_file
from voltrade.data.gaps import Gap, gaps_of, grouped
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, day_of, days_between, runs_of, start_of
from voltrade.data.mark_basis import compared_with_trades
from voltrade.data.midnights import resolve_midnights
from voltrade.data.readable_store import ReadableStore
from voltrade.data.rest_pages import PageRefused, RestPages
from voltrade.data.series_checks import rows_missing
from voltrade.data.sources import TRADES_PER_PAGE, Archive, RestHistory
from voltrade.data.store import Store
from voltrade.data.stored_day import Contradiction, Metadata, StoredDay
from voltrade.data.trade_recorder import Recorder
from voltrade.errors import DataError
from voltrade.model import DAY_MS, MINUTE_MS, Instrument, Int64s
from voltrade.simulated.mark_columns import whole_minutes

DOWNLOADS = 4
"""Files that are fetched at a time."""

NO_FLUSH_MS = 1 << 62
"""Longer than any span of time: parts are written by their number of rows."""


class Fetcher:
    """Fetches the history of one symbol into a store.

    Attributes:
        found: files with faults, without their rows; also after a fetch that failed.
        contradicted: days for which a source gave other rows than are stored, with the difference.
        ids_missing, ids_filled: ids that were missing between stored trades, and how many of them came over REST.
        rows_missing: rows that are still missing in days that are over, by kind and day, but for trades.
        without_trades: days on which no trade was made, as the ids of the days around them join.
        unproven: why nothing says that the days of files are whole; empty where REST or other days say it.
        unasked: why REST wasn't asked for funding rates that files lack; empty where it was.
    """

    def __init__(
        self,
        store: ReadableStore,
        instrument: Instrument,
        archive: Archive,
        rest: RestHistory,
        now: Callable[[], int],
        policies: Policies = DEFAULT_POLICIES,
        downloads: int = DOWNLOADS,
    ) -> None:
        """Make a fetcher.

        Args:
            now: returns the time, ms UTC.
            downloads: files that are fetched at a time.
        """
        self._store = store
        self._instrument = instrument
        self._archive = archive
        self._pages = RestPages(rest, instrument, policies, self._compared)
        self._now = now
        self._policies = policies
        self.found = self._pages.found
        self.contradicted: dict[tuple[Kind, date], str] = {}
        self.ids_missing = self.ids_filled = 0
        self.rows_missing: dict[tuple[Kind, date], int] = {}
        self.without_trades: list[date] = []
        self.unproven = self.unasked = ""
        self._asked: set[tuple[int, int]] = set()
        """First and last ids of gaps that REST was asked for."""
        self._slots = asyncio.Semaphore(downloads)

    async def fetch(
        self, first: date, last: date, kinds: Iterable[Kind] = (TRADES, MARKS, FUNDING)
    ) -> list[tuple[Kind, date]]:
        """Fetch a range of days, both included, up to now.

        Returns:
            Days that are over and still incomplete.

        Raises:
            DataError: archive or REST can't be reached, or a page of trades is refused; then other kinds are fetched.
        """
        refused: list[PageRefused] = []
        incomplete: list[tuple[Kind, date]] = []
        last = min(last, day_of(self._now()))
        with self._keeping_contradictions(TRADES):
            await asyncio.to_thread(self._store.compact, self._instrument.symbol)
        for kind in kinds:
            try:
                await self._fetch_kind(kind, first, last)
            except PageRefused as error:
                refused.append(error)
            today = day_of(self._now())
            self.rows_missing |= {(kind, day): rows for day, rows in self._lacking(kind, first, last).items()}
            incomplete += [(kind, day) for day in self._incomplete(kind, first, last) if day < today]
        if refused:
            raise refused[0]
        return incomplete

    async def _fetch_kind(self, kind: Kind, first: date, last: date) -> None:
        refused = await self._from_archive(kind, self._fetchable(kind, first, last))
        lacking = {*self._fetchable(kind, first, last), *self._lacking(kind, first, last)}
        # What a file of trades is refused for may be that the symbol's units were others then: REST has the same.
        await self._from_rest(kind, sorted(lacking - refused if kind is TRADES else lacking))
        if kind is TRADES:
            await self._join_days(first, last)
            self._tell_days_without_trades(first, last)
        if kind is FUNDING:
            await self._ask_for_fundings(first, last)

    def _incomplete(self, kind: Kind, first: date, last: date) -> list[date]:
        symbol = self._instrument.symbol
        stored = {day.day for day in self._store.days(kind, symbol) if day.complete}
        quiet = self._store.days_without_trades(symbol, first, last) if kind is TRADES else []
        return [day for day in days_between(first, last) if day not in stored and day not in quiet]

    def _tell_days_without_trades(self, first: date, last: date) -> None:
        """Keep which days are without trades; their files are rightly empty."""
        symbol = self._instrument.symbol
        self.without_trades = self._store.days_without_trades(symbol, first, last)
        files = {ArchiveFile(TRADES, symbol, day, day) for day in self.without_trades}
        is_empty = [ArchiveFile.named(each.name) in files and [*each.counts] == ["empty"] for each in self.found]
        self.found[:] = [each for each, is_quiet in zip(self.found, is_empty, strict=True) if not is_quiet]

    def _lacking(self, kind: Kind, first: date, last: date) -> dict[date, int]:
        """Return the days that are over and lack mark prices or funding rates, and how many."""
        found: dict[date, int] = {}
        for day in days_between(first, min(last, day_of(self._now()) - timedelta(1))):
            stored = None if kind is TRADES else self._store.day(kind, self._instrument.symbol, day)
            if stored is not None and stored.complete:
                found[day] = _rows_lacking(self._store, kind, stored)
        return {day: rows for day, rows in found.items() if rows}

    def _fetchable(self, kind: Kind, first: date, last: date) -> list[date]:
        """Return incomplete days, without those whose stored rows can't be read or contradict a source."""
        days, symbol = self._incomplete(kind, first, last), self._instrument.symbol
        readable = [day for day in days if (kind, symbol, day) not in self._store.unreadable]
        return [day for day in readable if (kind, day) not in self.contradicted]

    @contextmanager
    def _keeping_contradictions(self, kind: Kind) -> Iterator[None]:
        """Add contradicted days to `contradicted` instead of raising, so that other days are still fetched."""
        try:
            yield
        except Contradiction as error:
            self.contradicted |= {(kind, day): text for day, text in error.days.items()}

    # --- the archive --------------------------------------------------------------------------------------------------

    async def _from_archive(self, kind: Kind, days: list[date]) -> set[date]:
        """Fetch days from the archive: whole months first, then the remaining days.

        Returns:
            Days whose file was refused.
        """
        symbol, today = self._instrument.symbol, day_of(self._now())
        over = [day for day in days if day < today]
        months = dict.fromkeys(ArchiveFile.of_month(kind, symbol, day) for day in over)
        if kind is FUNDING:  # the archive has files of whole months only
            return _refused_days(await self._fetch_files([month for month in months if month.last < today]))
        whole = [month for month in months if set(days_between(month.first, month.last)) <= set(over)]
        fetched = [month for month, is_accepted in (await self._fetch_files(whole)).items() if is_accepted]
        rest = [day for day in over if not any(month.first <= day <= month.last for month in fetched)]
        return _refused_days(await self._fetch_files([ArchiveFile(kind, symbol, day, day) for day in rest]))

    async def _fetch_files(self, files: list[ArchiveFile]) -> dict[ArchiveFile, bool]:
        """Fetch several files at a time; return those that the archive has, and whether they were accepted."""
        if not files:
            return {}
        accepted: dict[ArchiveFile, bool] = {}
        with tqdm(total=len(files), desc=f"archive {files[0].kind.name}", unit="file", disable=None) as bar:

            async def fetch(file: ArchiveFile) -> None:
                async with self._slots, self._archive.fetched(file) as path:
                    if path is not None:
                        accepted[file] = await self._store_file(file, path)
                    bar.update()

            try:
                async with asyncio.TaskGroup() as group:
                    for file in files:
                        group.create_task(fetch(file))
            except ExceptionGroup as errors:  # the first error cancelled the other tasks
                raise errors.exceptions[0] from None
        return accepted

    async def _store_file(self, file: ArchiveFile, path: Path) -> bool:
        """Inspect and store a file; return whether it was accepted."""
        inspection = await asyncio.to_thread(self._inspect_and_store, file, path)
        if inspection.findings:
            self.found.append(replace(inspection, accepted=None))
        # An empty file is rightly so where no trade was made: REST is asked.
        return inspection.accepted is not None or [*inspection.counts] == ["empty"]

    def _inspect_and_store(self, file: ArchiveFile, path: Path) -> Inspection[Any]:
        inspection = self._compared(inspect_file(path, self._instrument, self._policies))
        with self._keeping_contradictions(file.kind):
            store_file(self._store, inspection, file.kind, self._instrument, (file.first, file.last))
            if inspection.accepted is not None:  # a file that is refused, or contradicts, is kept for the user
                for done in (path, checksum_path(path)):
                    done.unlink(missing_ok=True)
        return inspection

    def _compared(self, inspection: Inspection[Any]) -> Inspection[Any]:
        """Add the fault of mark prices, of a file or a page, that are far from the stored trades."""
        return compared_with_trades(self._store, self._instrument.symbol, inspection, self._policies)

    # --- REST ---------------------------------------------------------------------------------------------------------

    async def _from_rest(self, kind: Kind, days: list[date]) -> None:
        if kind is TRADES:
            days = await self._fill_days(days)
        for first, last in runs_of(days):
            end = min(start_of(last) + DAY_MS, self._now())
            if kind is TRADES:
                with self._keeping_contradictions(kind):
                    await self._fetch_trades(first, last, end)
            else:
                await self._fetch_series(kind, first, end)

    async def _fill_days(self, days: list[date]) -> list[date]:
        """Fill the gaps within days; return the days whose first or last trades are missing."""
        # A day without its first trades is fetched as a whole, so its gaps need no filling.
        with_begin = [day for day in self._stored(days) if day.metadata.begins]
        await self._fill(await asyncio.to_thread(gaps_of, self._store, with_begin))
        have_edges = {day.day for day in self._stored(days) if day.metadata.begins and day.metadata.ends}
        return [day for day in days if day not in have_edges]

    def _stored(self, days: list[date]) -> list[StoredDay]:
        found = (self._store.day(TRADES, self._instrument.symbol, day) for day in days)
        return [stored for stored in found if stored]

    async def _fetch_trades(self, first: date, last: date, end: int) -> None:
        """Record the trades of consecutive days, from the last stored id up to `end`."""
        day_end = start_of(last) + DAY_MS
        after = self._stored_before(first)
        next_id = after.last + 1 if after else await self._pages.first_id(start_of(first), end)
        if next_id is None:
            await self._keep_quiet(first, last, end, None, None)
            return
        recorder = self._recorder(after)
        ended, joins, last_id = False, True, next_id - 1
        try:
            async for trades in self._pages.trades(next_id, start_of(first), end):
                inside = int(np.searchsorted(trades.time, end))
                recorder.record(trades[:inside])
                ended = end == day_end and inside < len(trades)
                last_id = int(trades.id[inside - 1]) if inside else last_id
                joins = inside == len(trades) or int(trades.id[inside]) == last_id + 1
            # Without a later trade, the day is known to be complete a while after midnight.
            ended |= end == day_end and self._now() >= day_end + MINUTE_MS
        finally:
            await asyncio.to_thread(recorder.close, ended=ended)
        await self._keep_quiet(first, last, end if ended and joins else 0, after, next_id)

    async def _keep_quiet(
        self, first: date, last: date, end: int, after: StoredDay | None, next_id: int | None
    ) -> None:
        """Keep that no trade was made on the first days of a range that REST was asked for, or on its last ones.

        Args:
            end: up to when REST has no more trades than are stored now.
            after: the stored day from which on REST was asked; None where it was asked for the first trade.
            next_id: its answer; None for no trade.
        """
        nearby = self._stored_trades(date.min, last + timedelta(1))
        inside = [each for each in nearby if each.day >= first]
        begins = inside and next_id in (None, inside[0].first) and inside[0].day > first
        if after is None and begins and (next_id is not None or inside[0].day > last):
            await self._prove_quiet(inside[0], quiet_from=start_of(first))
        before = [each for each in nearby if each.day <= last]
        if next_id is not None and before and start_of(before[-1].day) + DAY_MS < end:
            await self._prove_quiet(before[-1], quiet_until=end)

    async def _prove_quiet(self, stored: StoredDay, **known: int) -> None:
        with suppress(DataError):  # verify tells of rows that can't be read
            await asyncio.to_thread(partial(self._store.prove_quiet, stored.symbol, stored.day, **known))

    def _recorder(self, after: StoredDay | None, begins: bool = False) -> Recorder:
        limits = {"flush_ms": NO_FLUSH_MS, "flush_rows": 100 * TRADES_PER_PAGE}
        return Recorder(self._store, self._instrument, "REST", begins=begins or after is None, after=after, **limits)

    def _stored_before(self, first: date) -> StoredDay | None:
        """Return the stored day after whose last trade to continue: the day itself, or the day before if whole."""
        symbol = self._instrument.symbol
        stored = self._store.day(TRADES, symbol, first)
        if stored and stored.metadata.made_of != "aggTrades":
            raise DataError(
                f"{symbol} {first}: is made of raw trades, whose ids REST does not know: delete the day first"
            )
        if stored and stored.metadata.begins:
            return stored
        dates = [day for day in self._store.dates(TRADES, symbol) if day < first]
        before = self._store.day(TRADES, symbol, dates[-1]) if dates else None
        if before and before.day < first - timedelta(1) and (before.metadata.quiet_until or 0) < start_of(first):
            return None
        return before if before and before.metadata.ends and before.metadata.made_of == "aggTrades" else None

    async def _ask_for_fundings(self, first: date, last: date) -> None:
        """Ask REST for the funding rates of days of files: they lack special ones, and rows at a change of interval."""
        stored = [day for day in self._store.days(FUNDING, self._instrument.symbol) if first <= day.day <= last]
        days = [day.day for day in stored if day.complete and not day.metadata.asked]
        try:
            await self._from_rest(FUNDING, [day for day in days if (FUNDING, day) not in self.contradicted])
        except DataError as error:
            self.unasked = f"REST can't be asked: {error}"

    async def _fetch_series(self, kind: Kind, first: date, end: int) -> None:
        """Store mark prices or funding rates from a day on, up to `end`."""
        symbol, start = self._instrument.symbol, start_of(first)
        # Times of funding aren't known beforehand: days that are over are whole once they were requested.
        whole = (first, day_of(end) - timedelta(1)) if kind is FUNDING else None
        stored = self._store.day(kind, symbol, first)
        if kind is MARKS and stored and stored.first == start and not stored.missing:  # a file alone proves nothing
            start = stored.last + MINUTE_MS
        async for columns in self._pages.series(kind, start, end):
            if kind is MARKS:  # without the minute that isn't over
                columns = tuple(column[columns[0] <= end - MINUTE_MS] for column in columns)
            if len(columns[0]):
                metadata = replace(_metadata_of_series(columns[0]), asked=kind is FUNDING)
                with self._keeping_contradictions(kind):
                    await asyncio.to_thread(self._store.add, kind, symbol, columns, columns[0], metadata, whole=whole)

    # --- gaps ---------------------------------------------------------------------------------------------------------

    async def _join_days(self, first: date, last: date) -> None:
        """Fill the gaps in and between the days, and ask REST for trades around days that no stored day joins.

        A file of the archive may begin late or end early. Its first and last id prove that it is whole where they join
        those of the days around; else REST does.
        """
        nearby = self._stored_trades(first - timedelta(1), last + timedelta(1))
        with self._keeping_contradictions(TRADES):
            self.found += await asyncio.to_thread(resolve_midnights, self._store, nearby, self._policies)
        try:
            for day in self._stored_trades(first, last):
                await self._prove_edges(day)
            await self._prove_listing(first, last)
            gaps = await asyncio.to_thread(self._gaps_around, first, last)
            self.ids_missing += sum(gap.missing for gap in gaps)
            self.ids_filled += await self._fill(gaps)
        except DataError as error:
            self.unproven = f"REST can't be asked: {error}"

    def _gaps_around(self, first: date, last: date) -> list[Gap]:
        """Return the gaps of a range of days, and those to the days before and after it."""
        inside = self._stored_trades(first, last)
        if not inside:
            return []
        gaps = gaps_of(self._store, self._stored_trades(first - timedelta(1), last + timedelta(1)))
        return [gap for gap in gaps if gap.until >= inside[0].first and gap.after.last <= inside[-1].last]

    def _stored_trades(self, first: date, last: date) -> list[StoredDay]:
        return [day for day in self._store.days(TRADES, self._instrument.symbol) if first <= day.day <= last]

    async def _prove_edges(self, stored: StoredDay) -> None:
        """Ask REST for the first and last trade of a day that came in a file, where the days around aren't stored.

        What REST says is kept in the store, so that it is asked once.
        """
        day, end_ms = stored.day, start_of(stored.day) + DAY_MS
        has_edges = stored.metadata.begins and stored.metadata.ends and stored.metadata.made_of == "aggTrades"
        if not has_edges or end_ms > self._now():
            return
        edges = open_edges(None, stored, None)
        if "end" in edges and not self._stored([day + timedelta(1)]):
            with self._keeping_contradictions(TRADES):
                await self._fetch_trades(day, day, end_ms)
        if "begin" in edges and not self._stored([day - timedelta(1)]):
            await self._prove_begin(stored, await self._pages.first_id(start_of(day), end_ms))

    async def _prove_listing(self, first: date, last: date) -> None:
        """Ask REST whether the symbol's first stored trade is its first of all times, and keep that it is."""
        dates = self._store.dates(TRADES, self._instrument.symbol)
        stored = self._store.day(TRADES, self._instrument.symbol, dates[0]) if dates else None
        if stored is None or not first <= stored.day <= last or not stored.metadata.begin_proven:
            return
        if stored.metadata.is_listing is None and stored.metadata.made_of == "aggTrades":
            page = await self._pages.trade_page(0)
            is_listing = len(page.trades) > 0 and int(page.trades.id[0]) == stored.first
            prove = partial(self._store.prove_begin, is_listing=is_listing)
            with suppress(DataError):  # verify tells of rows that can't be read
                await asyncio.to_thread(prove, stored.symbol, stored.day, stored.first)

    async def _prove_begin(self, stored: StoredDay, first: int | None) -> None:
        """Keep that a day begins with its first trade, or fetch those before it; `first` is the one that REST names."""
        if first is None or first > stored.first:
            has = "none" if first is None else f"{first} as the first"
            self.unproven = f"REST has {has} of {stored.day}, stored is {stored.first}"
        elif first == stored.first:
            await asyncio.to_thread(self._store.prove_begin, stored.symbol, stored.day, first)
        else:
            self.ids_missing += stored.first - first
            gap = Gap(replace(stored, last=first - 1), stored.first, stored.first - first)
            self.ids_filled += await self._fill([gap], begins=True)

    async def fill(self, first: date, last: date) -> tuple[int, int]:
        """Request the ids that are missing between stored trades; return how many were missing, and how many came.

        Raises:
            DataError: REST can't be reached, or a page is refused.
        """
        gaps = await asyncio.to_thread(gaps_of, self._store, self._stored_trades(first, last))
        return sum(gap.missing for gap in gaps), await self._fill(gaps)

    async def _fill(self, gaps: list[Gap], begins: bool = False) -> int:
        """Record the trades of gaps; return how many ids were filled.

        Args:
            begins: whether the first one is the first of its day.
        """
        filled, new = 0, [gap for gap in gaps if (gap.after.last, gap.until) not in self._asked]
        self._asked |= {(gap.after.last, gap.until) for gap in new}
        for group in tqdm(grouped(new, TRADES_PER_PAGE), desc="fill gaps", unit="request", disable=None):
            recorder, next_id = self._recorder(group[0].after, begins), group[0].after.last + 1
            try:
                while next_id <= group[-1].until:
                    page = await self._pages.trade_page(next_id, group[-1].until + 1)
                    for gap in group:
                        recorder.record(page.trades[_ids_from(page.trades.id, gap.after.last + 1, gap.until)])
                        missing = _ids_from(page.trades.id, gap.after.last + 1, gap.after.last + gap.missing)
                        filled += missing.stop - missing.start
                    if page.is_last:
                        break
                    next_id = page.next_id
            finally:
                with self._keeping_contradictions(TRADES):
                    await asyncio.to_thread(recorder.close)
        return filled


def _ids_from(ids: Int64s, first: int, last: int) -> slice:
    """Return the rows of ascending ids from one to another."""
    return slice(int(np.searchsorted(ids, first)), int(np.searchsorted(ids, last, side="right")))


def _rows_lacking(store: Store, kind: Kind, stored: StoredDay) -> int:
    """Count the mark prices or funding rates that a day lacks, its begin and end included."""
    columns, begin = store.rows(kind, stored.symbol, stored.day), start_of(stored.day)
    once = np.unique(columns[0] if kind.step else whole_minutes(columns[0]), return_index=True)[1]
    columns = [column[once] for column in columns]
    due = first_due(store, stored, int(columns[0][0]))
    span, interval_ms = (due, begin + DAY_MS), known_interval_ms(stored.symbol)
    following = rows_of_next_day(store, kind, stored)
    missing, at_edges = rows_missing(LAYOUTS[kind], columns, span, interval_ms, following)
    return int(missing.sum()) + at_edges


def _refused_days(files: Mapping[ArchiveFile, bool]) -> set[date]:
    """Return the days of files that were not accepted."""
    refused = [file for file, is_accepted in files.items() if not is_accepted]
    return {day for file in refused for day in days_between(file.first, file.last)}


def _metadata_of_series(times: Int64s) -> Metadata:
    """Describe values of each minute: they are whole at a day's begin or end where that minute is there."""
    begins, ends = int(times[0]) % DAY_MS == 0, int(times[-1] + MINUTE_MS) % DAY_MS == 0
    return Metadata.of_values({"REST": {}}, begins=begins, ends=ends)
