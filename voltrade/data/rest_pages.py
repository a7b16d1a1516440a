"""Pages of Binance's REST, inspected like files: each fault is reported.

Bad rows are dropped where they are few. A page of mark prices or funding rates that is refused is left out; one of
trades ends the trades' fetch, as nothing says where the next page begins.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from voltrade.data.faults import DEFAULT_POLICIES, Inspection, Policies, Policy, few_of, unreadable, whole_file
from voltrade.data.file_checks import LAYOUTS
from voltrade.data.kinds import FUNDING, MARKS, NO_REGULAR, Kind
from voltrade.data.series_checks import MARK_KLINES, inspect_cells
from voltrade.data.sources import TRADES_PER_PAGE, RestHistory
from voltrade.data.trade_checks import inspect_columns
from voltrade.data.trade_files import Columns, multiples
from voltrade.errors import DataError
from voltrade.model import MINUTE_MS, Instrument, Int64s, Trades
from voltrade.simulated.mark_columns import whole_minutes

Rows = TypeVar("Rows")

Page = tuple[list[Any], Mapping[str, str | int]]
"""The rows of an answer, and where each of our columns is in them."""

ANY_ID = 1 << 62
"""Above all ids."""

PAGE: Policies = dict.fromkeys(("one_sided", "id_gap", "empty"), Policy.FLAG)
"""Faults that a page may have: it covers a moment only, and missing ids are noticed in the store."""

TRADE_KEYS = {"id": "a", "price": "p", "quantity": "q", "time": "T", "is_buyer_maker": "m"}
"""Our names of the columns of an aggTrade, and Binance's."""

_MARK_PLACES = {name: place for place, name in enumerate(MARK_KLINES.columns)}
_FUNDING_KEYS = {
    "calc_time": "fundingTime",
    "last_funding_rate": "fundingRate",
    "funding_interval_hours": "hours",
    "special_rate": "special",
}


class PageRefused(DataError):
    """A page of trades has a fault for which it isn't taken."""


@dataclass(frozen=True, slots=True)
class TradePage:
    """A page of trades."""

    trades: Trades
    """The accepted trades."""
    next_id: int
    """First id of the next page."""
    is_last: bool


class RestPages:
    """Reads and inspects pages of one symbol.

    Attributes:
        found: pages with faults, without their rows.
    """

    def __init__(
        self,
        rest: RestHistory,
        instrument: Instrument,
        policies: Policies,
        compare: Callable[[Inspection[Any]], Inspection[Any]],
    ) -> None:
        """Take the client of REST; `compare` adds the faults that a page of values has beside what is stored."""
        self._rest, self._compare = rest, compare
        self._instrument = instrument
        self._policies = {**policies, **PAGE}
        self.found: list[Inspection[Any]] = []

    async def first_id(self, start: int, end: int) -> int | None:
        """Return the id of the first aggTrade in a span of time; None where there is none."""
        return await self._rest.first_id(self._instrument.symbol, start, end)

    async def trades(self, next_id: int, start: int, end: int) -> AsyncIterator[Trades]:
        """Yield the trades of each page from an id on, until a trade is at or after `end` or there are no more."""
        with tqdm(total=round((end - start) / MINUTE_MS), desc="REST trades", unit="min", disable=None) as bar:
            while True:
                page = await self.trade_page(next_id)
                yield page.trades
                next_id, reached = page.next_id, int(page.trades.time[-1]) if len(page.trades) else start
                bar.update(max(round((min(reached, end) - start) / MINUTE_MS) - bar.n, 0))
                if reached >= end or page.is_last:
                    return

    async def trade_page(self, from_id: int, before: int = ANY_ID) -> TradePage:
        """Request a page of trades from an id on; drop trades whose id is `before` or above."""
        rows = await self._rest.trades(self._instrument.symbol, from_id)
        name = f"REST aggTrades from {from_id}"
        cells = _cells(name, rows, TRADE_KEYS)
        ids, wrong = multiples(cells["id"], Decimal(1))
        wanted = {ours: cells[ours].filter(pa.array(ids < before)) for ours in cells}
        columns = Columns(name, "aggTrades", tuple(TRADE_KEYS.values()), wanted, _line_numbers(wanted["id"]))
        inspection = inspect_columns([columns], self._instrument, self._policies, few=few_of(len(rows)))
        if (trades := self._accepted(inspection)) is None:
            raise PageRefused(f"{name}: {inspection.refused}")
        next_id = int(ids.max(where=~wrong, initial=from_id)) + 1
        return TradePage(trades, next_id, is_last=len(rows) < TRADES_PER_PAGE)

    async def series(self, kind: Kind, start: int, end: int) -> AsyncIterator[tuple[Int64s, ...]]:
        """Yield the columns of each page of mark prices or funding rates in a span of time."""
        layout, name = LAYOUTS[kind], f"REST {kind.name}"
        async for page in self._marks(start, end) if kind is MARKS else self._funding(start, end):
            try:
                cells = _cells(name, *page)
            except DataError as error:
                self.found.append(unreadable(name, kind.name, error))
                continue
            inspection = inspect_cells(name, cells, _line_numbers(cells[layout.time]), layout, self._policies)
            if (columns := self._accepted(await asyncio.to_thread(self._compare, inspection))) is not None:
                yield columns

    async def _marks(self, start: int, end: int) -> AsyncIterator[Page]:
        async for page in self._rest.marks(self._instrument.symbol, start, end):
            yield page, _MARK_PLACES

    async def _funding(self, start: int, end: int) -> AsyncIterator[Page]:
        async for page in self._rest.funding(self._instrument.symbol, start, end):
            rows, told = with_specials(page)
            if told:
                finding = whole_file("special_funding", DEFAULT_POLICIES, ", ".join(told))
                self.found.append(Inspection("REST fundingRate", FUNDING.name, len(page), (finding,), None))
            yield rows, _FUNDING_KEYS

    def _accepted(self, inspection: Inspection[Rows]) -> Rows | None:
        """Return the accepted rows of a page, None where it is refused; and keep its faults."""
        if findings := tuple(finding for finding in inspection.findings if finding.fault not in PAGE):
            self.found.append(replace(inspection, findings=findings, accepted=None))
        return inspection.accepted


def with_specials(page: list[Any]) -> tuple[list[Any], list[str]]:
    """Return a page of funding rates with special ones beside the regular one of their minute, and what was found.

    The exchange pays both, as rows of one time whose `rateType` is Regular and Special. A special rate without a
    regular one of its time is a row of its own; so is one that can't be read, which is dropped as a bad value later.
    """
    told = []
    try:
        rows = [{**row, **_REGULAR} for row in page if row.get("rateType") != "Special"]
        place = {_minute_of(row): row for row in rows}
        for row in (row for row in page if row.get("rateType") == "Special"):
            if not _NUMBER.fullmatch(str(row["fundingRate"])):
                rows.append({**row, **_REGULAR})
                continue
            if _minute_of(row) not in place:
                rows.append({**row, **_REGULAR, "fundingRate": "0", "hours": str(NO_REGULAR)})
                place[_minute_of(row)] = rows[-1]
            beside = place[_minute_of(row)]
            beside["special"] = f"{Decimal(beside['special']) + Decimal(row['fundingRate']):f}"
            told.append(f"at {row['fundingTime']} {row['fundingRate']} {_BESIDE[beside['hours']]}")
    except (AttributeError, KeyError, TypeError, ValueError):  # a row without a time
        return [{**row, **_REGULAR} if isinstance(row, dict) else row for row in page], []
    return sorted(rows, key=_minute_of), told


_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_REGULAR = {"special": "0", "hours": "0"}
_BESIDE = {"0": "beside the regular rate", str(NO_REGULAR): "alone"}


def _minute_of(row: Any) -> int:
    return int(whole_minutes(np.array([int(row["fundingTime"])], np.int64))[0])


def _cells(name: str, page: list[Any], keys: Mapping[str, str | int]) -> dict[str, pa.Array]:
    """Return columns of a page as texts, under our names; `keys` maps them to keys or places in a row.

    Raises:
        DataError: a row lacks a key.
    """
    try:
        return {ours: pa.array([str(row[their]) for row in page], pa.string()) for ours, their in keys.items()}
    except (KeyError, IndexError, TypeError):
        raise DataError(f"{name}: rows must have {', '.join(map(str, keys.values()))}, was {page[0]!r}") from None


def _line_numbers(column: pa.Array) -> Int64s:
    """Number the rows of a page from 1."""
    return np.arange(1, len(column) + 1, dtype=np.int64)
