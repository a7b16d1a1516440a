"""Inspects days of a store, or files of days, each for itself and between it and the days around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from voltrade.data.archive_files import ArchiveFile
from voltrade.data.coverage import known_interval_ms
from voltrade.data.day_edges import first_due, open_edges, rows_of_next_day
from voltrade.data.faults import Inspection, Policies, Span, unreadable, with_finding
from voltrade.data.file_checks import LAYOUTS
from voltrade.data.kinds import KINDS, TRADES, Kind, days_between, days_text, start_of
from voltrade.data.mark_basis import compared_with_trades
from voltrade.data.midnights import FAULT as MIDNIGHT
from voltrade.data.midnights import MOST_REPEATED
from voltrade.data.readable_store import ReadableStore
from voltrade.data.series_checks import inspect_values
from voltrade.data.stored_day import StoredDay, ids_between
from voltrade.data.trade_checks import inspect_trades
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Trades


def inspect_days(
    inspections: Iterable[tuple[ArchiveFile | None, Inspection[Any]]], policies: Policies
) -> Iterator[Inspection[Any]]:
    """Add to inspections of files, in the order of days, which days are in no file, and what is missing or repeated
    between one day of trades and the next."""
    seen: dict[tuple[Kind, str, bool], tuple[date, int | None]] = {}  # the last day, and its last id where it is known
    for file, inspection in inspections:
        if file is None:
            yield inspection
            continue
        counts_on = file.kind is TRADES and inspection.accepted is not None
        ids = ((inspection.edges or inspection.raw_edges) if counts_on else None) or (None, None)
        series = file.kind, file.symbol, file.is_raw
        if before := seen.get(series):
            for fault, detail in _before_file(*before, file.first, ids[0]):
                inspection = with_finding(inspection, fault, policies, detail)
        if before is None or file.last > before[0]:
            seen[series] = file.last, ids[1]
        yield inspection


def _before_file(before: date, last: int | None, day: date, first: int | None) -> Iterator[tuple[str, str]]:
    """Yield faults between two files, and their details; `last` and `first` are their ids, where they are known."""
    if lacking := days_between(before + timedelta(1), day - timedelta(1)):
        if last is not None and first == last + 1:
            return  # no trade was made on them
        yield "missing_day", _lacking_text(lacking, "there is no file", last, first)
    elif before + timedelta(1) == day and last is not None and first is not None:
        yield from at_midnight(before, last, first, TRADES.step, False)


def _lacking_text(days: list[date], words: str, last: int | None, first: int | None) -> str:
    """Name days without rows, and how many ids are missing from the last one before them to the first one after."""
    ids = "" if last is None or first is None or first <= last else f", and {first - last - 1:,} ids are missing"
    return f"{days_text(days)}: {words}{ids}"


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
    if is_joined:
        if missing:
            most = f": {missing} at most" if missing > 0 else ""
            why = "ids of joined raw trades begin anew with each file"
            yield "id_gap", f"nothing says how many rows are missing after the day before{most}; {why}"
    elif missing > 0:
        yield "id_gap", f"{missing} rows are missing after the day before"
    elif missing < 0 and -missing <= MOST_REPEATED:
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
        due, interval_ms = self._due(span), known_interval_ms(self.day.symbol)
        following = rows_of_next_day(self.store, self.kind, self.day)
        inspection = inspect_values(name, columns, LAYOUTS[self.kind], policies, span, due, interval_ms, following)
        if self.day.metadata.asked:
            findings = tuple(each for each in inspection.findings if each.fault != "open_interval")
            inspection = replace(inspection, findings=findings)
        return compared_with_trades(self.store, self.day.symbol, inspection, policies)

    def _due(self, span: Span) -> Span | None:
        """Return from when to when rows of the day are due; None where that isn't known."""
        if span[1] > self.now:  # times of funding aren't known beforehand
            return (span[0], self.day.last + self.kind.step) if self.kind.step else None
        begin = first_due(self.store, self.day, self.day.first)
        if not self.kind.step:
            return begin, span[1]
        # A hole over midnight is named once, between the two days.
        one, day = timedelta(1), self.day.day
        is_after_day = self.before is not None and self.before.day + one == day
        is_before_day = self.after is not None and self.after.day - one == day
        return self.day.first if is_after_day else begin, self.day.last + self.kind.step if is_before_day else span[1]

    def _at_edges(self) -> Iterator[tuple[str, str]]:
        """Yield faults between the day and those around it, and their details."""
        if edges := self._open_edges():
            is_raw = self.day.metadata.made_of == "trades"
            why = "REST doesn't know the ids of joined raw trades" if is_raw else "REST was not asked"
            yield "open_day", f"nothing says that all of the day's {' and '.join(edges)} is stored: {why}"
        before, day = self.before, self.day
        ids = ((self.kind is TRADES and ids_between(before, day)) or (None, None)) if before else (None, None)
        is_joined = ids[0] is not None and ids[1] == ids[0] + 1  # no trade was made on the days between
        if before and (lacking := self._days_lacking(before)) and not is_joined:
            yield "missing_day", _lacking_text(lacking, "nothing is stored", *ids)
        if before is None or before.day + timedelta(1) != day.day or not self.kind.step:
            return
        known = ids_between(before, day)
        last, first = known or (before.last, day.first)
        yield from at_midnight(before.day, last, first, self.kind.step, is_joined=known is None)

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
