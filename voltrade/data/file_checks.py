"""Inspects one file of trades, mark prices or funding rates, and adds its accepted rows to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from voltrade.data.archive_files import ArchiveFile, checksum_fault
from voltrade.data.faults import DEFAULT_POLICIES, Inspection, Policies, Policy, with_finding
from voltrade.data.kinds import FUNDING, MARKS, TRADES, Kind, day_of, days_between, days_text
from voltrade.data.series_checks import FUNDING_RATES, MARK_KLINES, SeriesLayout, inspect_series
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata, StoredDay
from voltrade.data.trade_checks import inspect
from voltrade.data.trade_files import name_inside
from voltrade.model import DAY_MS, Instrument

LAYOUTS: dict[Kind, SeriesLayout] = {MARKS: MARK_KLINES, FUNDING: FUNDING_RATES}
"""Columns of the files of each kind but trades."""


def inspect_file(
    path: Path,
    instrument: Instrument,
    policies: Policies = DEFAULT_POLICIES,
    *,
    archived: bool = True,
    columns: Mapping[str, str] | None = None,
) -> Inspection[Any]:
    """Inspect a file; its name may state kind and days.

    Args:
        archived: whether the file must have a CHECKSUM beside it, as in the archive.
        columns: a file of trades' names of our columns, see `trade_files.read_columns`.
    """
    file = ArchiveFile.named(path.name)
    span = file.span if file else None
    if file is None or file.kind is TRADES:
        inspection: Inspection[Any] = inspect(path, instrument, policies, span, columns)
    else:
        inspection = inspect_series(path, LAYOUTS[file.kind], policies, span)
    faults = {
        "missing_day": _days_without_rows(file, inspection) if file else None,
        "other_symbol": _other_symbol(path, instrument.symbol),
        "checksum": checksum_fault(path) if archived and path.is_file() else None,
    }
    for name, fault in faults.items():
        inspection = inspection if fault is None else with_finding(inspection, name, policies, fault)
    return inspection


def _days_without_rows(file: ArchiveFile, inspection: Inspection[Any]) -> str | None:
    """Return the days of a month's file that have no accepted row; None where each has one."""
    if file.first == file.last or inspection.accepted is None:
        return None
    times = inspection.accepted.time if file.kind is TRADES else inspection.accepted[0]
    there = {day_of(int(day) * DAY_MS) for day in np.unique(times // DAY_MS)}
    lacking = [day for day in days_between(file.first, file.last) if day not in there]
    return f"{days_text(lacking)}: the file has no row" if lacking else None


def _other_symbol(path: Path, symbol: str) -> str | None:
    """Return which other symbol a file's name states, or the name of the file inside a zip; None where none does."""
    for name in (path.name, name_inside(path)):
        file = ArchiveFile.named(name)
        if file is not None and file.symbol != symbol:
            return f"must be of {symbol}, is {name}"
    return None


def rows_not_taken(inspection: Inspection[Any]) -> set[str]:
    """Return the faults for which rows of the symbol were dropped that are nowhere else in the file."""
    dropped = {finding.fault for finding in inspection.findings if finding.policy is Policy.DROP}
    return dropped - {"duplicate_id", "other_symbol"}


def lost_rows(inspection: Inspection[Any]) -> set[str]:
    """Return the faults for which rows were dropped that another source may have without the fault."""
    return rows_not_taken(inspection) - {"wrong_day"}


def store_file(
    store: Store, inspection: Inspection[Any], kind: Kind, instrument: Instrument, whole: tuple[date, date] | None
) -> list[StoredDay]:
    """Add the accepted rows of a file to the store; return the days that they were added to.

    Args:
        whole: first and last day of which the file holds everything.

    Raises:
        DataError: the rows contradict the stored ones.
    """
    if inspection.accepted is None:
        return []
    sources = {inspection.name: inspection.counts}
    lossless = not lost_rows(inspection)
    first, last = inspection.edges or (None, None)
    if kind is TRADES:
        metadata = replace(Metadata.of(instrument, ""), sources=sources, made_of=inspection.kind)
        raw_first, raw_last = inspection.raw_edges or (None, None)
        metadata = replace(metadata, first=first, last=last, raw_first=raw_first, raw_last=raw_last)
        trades = inspection.accepted
        return store.add(TRADES, trades.symbol, trades.columns, trades.time, metadata, whole=whole, lossless=lossless)
    metadata = replace(Metadata.of_values(sources), first=first, last=last)
    columns = inspection.accepted
    return store.add(kind, instrument.symbol, columns, columns[0], metadata, whole=whole, lossless=lossless)
