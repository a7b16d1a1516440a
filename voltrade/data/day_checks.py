"""Inspects days of a store, or files of days, each for itself and between it and the days around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.day_edges import open_edges
from voltrade.data.faults import Inspection, Policies, unreadable, with_finding
from voltrade.data.file_checks import LAYOUTS
from voltrade.data.kinds import KINDS, TRADES, Kind, days_between, start_of
from voltrade.data.midnights import FAULT as MIDNIGHT
from voltrade.data.midnights import MOST_REPEATED
from voltrade.data.readable_store import ReadableStore
from voltrade.data.series_checks import inspect_values
from voltrade.data.stored_day import StoredDay
from voltrade.data.trade_checks import inspect_trades
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Trades


def inspect_days(
    inspections: Iterable[tuple[ArchiveFile | None, Inspection[Any]]], policies: Policies
) -> Iterator[Inspection[Any]]:
    """Add to inspections of files what is missing or repeated between one day of trades and the next, in that order."""
    before: tuple[ArchiveFile, int] | None = None
    for file, inspection in inspections:
        ids = inspection.edges if inspection.accepted is not None else None
        if file is None or file.kind is not TRADES or file.is_raw or ids is None:
            yield inspection
            continue
        if before and before[0].symbol == file.symbol and before[0].last + timedelta(1) == file.first:
            for fault, detail in at_midnight(before[0].last, before[1], ids[0], TRADES.step, False):
                inspection = with_finding(inspection, fault, policies, detail)
        before = file, ids[1]
        yield inspection


def at_midnight(before: date, last: int, first: int, step: int, is_joined: bool) -> Iterator[tuple[str, str]]:
    """Yield the fault between two days, and its detail.

    Args:
        before: the day before.
        last: key of the last row of a day.
        first: key of the first row of the day after.
        step: difference of neighbouring keys.
        is_joined: whether ids are of raw trades that were joined here.
    """
    missing = (first - last) // step - 1
    if missing > 0:
        why = ", or fewer: ids of joined raw trades begin anew with each file" if is_joined else ""
        yield "id_gap", f"{missing} rows are missing after the day before{why}"
    elif missing < 0 and not is_joined and -missing <= MOST_REPEATED:
        yield MIDNIGHT, f"{-missing} ids are in {before} too, the first is {first}"
    elif missing < 0:
        yield "unsorted", f"ids must be above {last}, the last of the day before, was {first}"


def inspect_store(store: ReadableStore, policies: Policies, now: int) -> Iterator[Inspection[Any]]:
    """Inspect all that is stored; what can't be read comes last.

    Args:
        now: ms UTC. A day that isn't over has no end yet.
    """
    for kind in KINDS.values():
        for symbol in store.symbols(kind):
            days = [None, *store.days(kind, symbol), None]
            for before, day, after in zip(days, days[1:], days[2:], strict=False):
                if day is not None:
                    yield _Neighbours(store, kind, before, day, after, now).inspection(policies)
    yield from store.unreadable.values()


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """A stored day, and the stored ones before and after it."""

    store: ReadableStore
    kind: Kind
    before: StoredDay | None
    day: StoredDay
    after: StoredDay | None
    now: int

    def inspection(self, policies: Policies) -> Inspection[Any]:
        """Inspect the rows of the day, then what is between it and the days around it."""
        name = f"{self.kind.name}/{self.day.symbol}/{self.day.day}"
        try:
            inspection = self._of_rows(name, policies)
        except DataError as error:
            return unreadable(name, self.kind.name, error)
        if at_edges := max(0, self.day.missing - inspection.missing):
            detail = f"{at_edges} rows are missing at the day's begin or end"
            inspection = with_finding(inspection, "id_gap", policies, detail)
        for fault, detail in self._at_edges():
            inspection = with_finding(inspection, fault, policies, detail)
        return inspection

    def _of_rows(self, name: str, policies: Policies) -> Inspection[Any]:
        columns = self.store.rows(self.kind, self.day.symbol, self.day.day)
        span = (start_of(self.day.day), start_of(self.day.day) + DAY_MS)
        if self.kind is TRADES:
            return inspect_trades(name, Trades(self.day.symbol, *columns), policies, span)
        edges = self.day.metadata.begins and self.day.metadata.ends
        return inspect_values(name, columns, LAYOUTS[self.kind], policies, span, edges)

    def _at_edges(self) -> Iterator[tuple[str, str]]:
        """Yield faults between the day and those around it, and their details."""
        if edges := self._open_edges():
            is_raw = self.day.metadata.made_of == "trades"
            why = "REST doesn't know the ids of joined raw trades" if is_raw else "REST was not asked"
            yield "open_day", f"nothing says that all of the day's {' and '.join(edges)} is stored: {why}"
        before, day = self.before, self.day
        if before and (lacking := self._days_lacking(before)):
            ids = f", and {day.first - before.last - 1:,} ids are missing" if self.kind is TRADES else ""
            yield "missing_day", f"{lacking[0]} to {lacking[-1]}: nothing is stored{ids}"
        if before is None or before.day + timedelta(1) != day.day or not self.kind.step:
            return
        is_joined = "trades" in (before.metadata.made_of, day.metadata.made_of)
        yield from at_midnight(before.day, before.last, day.first, self.kind.step, is_joined)

    def _open_edges(self) -> list[str]:
        """Return which edges of a day of trades nothing proves, but for those where the day around it is stored."""
        if self.kind is not TRADES:
            return []
        one = timedelta(1)
        is_stored = {
            "begin": self.before is not None and self.before.day + one == self.day.day,
            "end": self.after is not None and self.after.day - one == self.day.day,
        }
        is_stored["end"] |= start_of(self.day.day + one) > self.now
        return [edge for edge in open_edges(self.before, self.day, self.after) if not is_stored[edge]]

    def _days_lacking(self, before: StoredDay) -> list[date]:
        """Return the days after `before` that aren't stored, but for unreadable ones."""
        between = days_between(before.day + timedelta(1), self.day.day - timedelta(1))
        return [day for day in between if (self.kind, self.day.symbol, day) not in self.store.unreadable]
