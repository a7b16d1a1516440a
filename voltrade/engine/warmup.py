"""Loads the trades before a session that its bars and indicators need, while the streams are open already.

By default bars are anchored to the UTC day, so bar k must be the same bar whenever the engine starts. The volume since
midnight gives the number of closed bars and the progress of the open one. Minute klines have that volume exactly, in
two requests, so that only the trades of the last few hundred bars are loaded. Every whole minute is compared with its
kline; if they differ by more than a thousandth, or if klines don't have the unit of the bars, the trades of the whole
day are loaded. A smaller difference is told: klines may count trades that aggTrades leave out.

An engine that comes back loads the trades that it has missed. More than MAX_CATCH_UP are too many: it loads as a new
one does, and the bars between are never made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from voltrade.bar_spec import KLINE_UNITS, UNITS, bar_spec
from voltrade.config import Config
from voltrade.errors import ExchangeError
from voltrade.exchange.account_reader import PAGE
from voltrade.exchange.messages import TradeRow
from voltrade.exchange.rest import PAGE_WEIGHT, BinanceRestClient
from voltrade.model import DAY_MS, MINUTE_MS, BarResumePoint, History, Instrument, Trades

log = logging.getLogger(__name__)

MAX_DAYS = 3
"""Most days of klines that are read to find enough volume; a market with less warms up during the session.

Where no klines are used, trades are read as far back as the bars need, and with the anchor `utc_day` to the midnight
before, some 60,000 a minute."""

MAX_CATCH_UP = 50_000
"""Most trades that a restarted engine loads; if it has missed more, it starts its bars again."""

MOST_DIFFERENCE_E3 = 1
"""The most by which the klines of whole minutes may differ from their trades in all, in thousandths."""

PAGE_TRIES = 4
"""How often a page is requested before the loading fails."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the loading."""

    loaded: int
    total: int
    """Trades."""
    left_s: float

    @property
    def part(self) -> float:
        """The loaded part, from 0 to 1."""
        return self.loaded / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.loaded:,} of {self.total:,} earlier trades, about {self.left_s:.0f} s left"


Report = Callable[[Progress], None]


class Loader:
    """Loads the trades before a session.

    Args:
        rest: Reads klines and trades, with at most half of the request weight.
        clock: Returns the exchange's time, ms UTC.
        report: Called after every page.
    """

    def __init__(
        self, rest: BinanceRestClient, config: Config, instrument: Instrument, clock: Callable[[], int], report: Report
    ) -> None:
        self._rest, self._config, self._instrument = rest, config, instrument
        self._clock, self._report = clock, report
        self._spec = bar_spec(config.bars, instrument)[0]

    async def load(self, last_id: int, known_id: int, bars_needed: int) -> History:
        """Return the trades up to `last_id`.

        Args:
            last_id: Id of the last trade to load.
            known_id: Id of the last trade that the core has seen; 0 if it has seen none.
            bars_needed: Whole bars that the core must see before it may enter.

        Raises:
            ExchangeError: The exchange can't be read.
        """
        if known_id and last_id - known_id <= MAX_CATCH_UP:
            return History(await self._trades(known_id + 1, last_id))
        if self._spec["daily"] and self._config.bars.unit in KLINE_UNITS:
            history = await self._since_a_minute(last_id, bars_needed)
            if history is not None:
                return history
        return History(await self._since_a_day(last_id, bars_needed))

    # --- by klines ---------------------------------------------------------------------------------------------------

    async def _since_a_minute(self, last_id: int, bars_needed: int) -> History | None:
        """Load from the minute after which enough bars have closed; return None if klines can't be used."""
        minutes = await self._minutes(bars_needed)
        if not minutes:
            return None
        times, weights = np.array([(at, weight) for at, weight in minutes], dtype=np.int64).T
        # Two bars more: the first is cut, and the end of a day may cut another.
        wanted = (bars_needed + 2) * int(self._spec["threshold"])
        behind = np.cumsum(weights[::-1])[::-1]
        enough = int(np.searchsorted(-behind, -wanted, side="right")) - 1
        first = max(min(enough, len(times) - 2), 0)  # at least one whole minute is compared with its kline
        day = int(times[first]) // DAY_MS
        before = int(weights[(times // DAY_MS == day) & (times < times[first])].sum())
        trades = await self._trades_from(int(times[first]), last_id)
        differ, total = self._difference(trades, dict(minutes))
        if differ * 1_000 > total * MOST_DIFFERENCE_E3:
            log.warning("klines differ from the trades: loading the whole day")
            return None
        number, progress = divmod(before, int(self._spec["threshold"]))
        if not before:
            return History(trades)
        first_id = int(trades.id[0]) if len(trades) else last_id + 1
        phase = BarResumePoint(int(times[first]), self._instrument.symbol, day, number, progress, first_id)
        return History(trades, phase, self._doubt(differ * before, total * int(self._spec["threshold"])))

    @staticmethod
    def _doubt(differ: int, whole: int) -> str:
        """Return what must be told of klines that differ from their trades by these parts of a bar until now."""
        if not differ:
            return ""
        return (
            f"klines differ from their trades: today's bars may have closed {differ / whole:.2g} bars earlier or later"
        )

    async def _minutes(self, bars_needed: int) -> list[tuple[int, int]]:
        """Return time and volume of each minute, for as many whole days as enough bars need."""
        minutes: list[tuple[int, int]] = []
        wanted = (bars_needed + 2) * int(self._spec["threshold"])
        today = self._clock() // DAY_MS
        column = KLINE_UNITS[self._config.bars.unit]
        for day in range(today, today - MAX_DAYS, -1):
            rows = await self._rest.minute_volumes(self._instrument.symbol, day * DAY_MS, DAY_MS // MINUTE_MS)
            of_day = [(at, amounts[column]) for at, *amounts in rows if at // DAY_MS == day]
            minutes = of_day + minutes
            if not of_day or sum(weight for _, weight in minutes) >= wanted:
                break
        return minutes

    async def _trades_from(self, start: int, last_id: int) -> Trades:
        first = await self._page(start=start)
        if not first or first[0][0] > last_id:
            return Trades.from_rows(self._instrument.symbol, [])
        return await self._trades(first[0][0], last_id)

    def _difference(self, trades: Trades, minutes: dict[int, int]) -> tuple[int, int]:
        """Return by how much klines and trades differ in the whole minutes of the trades, and these trades' volume."""
        if not len(trades):
            return 0, 0
        weight = UNITS[self._config.bars.unit](trades.price, trades.quantity)
        opened = trades.time // MINUTE_MS * MINUTE_MS
        starts = np.flatnonzero(np.diff(opened, prepend=-1))
        sums = np.add.reduceat(weight, starts)
        # The last minute was not over when its kline was read.
        whole = zip(opened[starts][:-1].tolist(), sums[:-1].tolist(), strict=True)
        return sum(abs(minutes.get(at, 0) - total) for at, total in whole), int(sums[:-1].sum())

    # --- by whole days -----------------------------------------------------------------------------------------------

    async def _since_a_day(self, last_id: int, bars_needed: int) -> Trades:
        """Load backwards page by page until there are enough bars; for anchored bars, then to the start of the day."""
        rows: list[TradeRow] = []
        first_id, first_day = last_id + 1, None
        while first_id > 1:
            page = [row for row in await self._page(from_id=max(first_id - PAGE, 1)) if row[0] < first_id]
            if not page:
                break
            rows[:0] = page
            first_id = page[0][0]
            if first_day is None and self._bars_in(rows) >= bars_needed:
                if not self._spec["daily"]:
                    break
                first_day = rows[0][3] // DAY_MS
            if first_day is not None and rows[0][3] // DAY_MS < first_day:
                rows = [row for row in rows if row[3] // DAY_MS >= first_day]
                break
            self._report(Progress(len(rows), max(last_id, len(rows)), 0.0))
        return Trades.from_rows(self._instrument.symbol, rows)

    def _bars_in(self, rows: list[TradeRow]) -> int:
        """Return about how many bars the trades make."""
        amount = UNITS[self._config.bars.unit]
        total = sum(int(amount(price, lots)) for _, price, lots, *_ in rows)
        return total // int(self._spec["threshold"])

    # --- pages -------------------------------------------------------------------------------------------------------

    async def _trades(self, first_id: int, last_id: int) -> Trades:
        rows: list[TradeRow] = []
        began, next_id = time.monotonic(), first_id
        while next_id <= last_id:
            page = [row for row in await self._page(from_id=next_id) if row[0] <= last_id]
            if not page:
                break
            rows += page
            next_id = page[-1][0] + 1
            done = (next_id - first_id) / (last_id + 1 - first_id)
            left_s = (time.monotonic() - began) * (1 - done) / done
            self._report(Progress(len(rows), last_id + 1 - first_id, left_s))
        return Trades.from_rows(self._instrument.symbol, rows)

    async def _page(self, from_id: int | None = None, start: int | None = None) -> list[TradeRow]:
        """Read a page of trades, within half of the request weight; after a failure, try again after a longer pause."""
        for count in range(1, PAGE_TRIES + 1):
            await self._rest.wait_for_weight(PAGE_WEIGHT)
            try:
                return await self._rest.agg_trades(self._instrument.symbol, from_id, start=start)
            except ExchangeError as error:
                if count == PAGE_TRIES:
                    raise
                log.warning("earlier trades: %s", error)
                await asyncio.sleep(0.5 * 2**count)
        raise AssertionError("the last try returns or raises")
