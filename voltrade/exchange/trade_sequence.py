"""Puts the trades of a stream in the order of their ids and fills gaps through REST."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from voltrade.errors import ExchangeError
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.messages import TradeRow
from voltrade.exchange.rest import PAGE_WEIGHT, BinanceRestClient
from voltrade.model import Event, FeedGap, MarkPrice

log = logging.getLogger(__name__)

MAX_HELD = 200_000
"""Market events that may wait while a gap is filled; those after them are dropped, which makes another gap."""
BACKFILL_TRIES = 3
BACKFILL_SECONDS = 10.0


@dataclass(slots=True)
class StreamCounts:
    """What the streams have brought since the start."""

    trades: int = 0
    marks: int = 0
    user_events: int = 0
    duplicates: int = 0
    """Trades with the id of an earlier trade, or with a smaller one."""
    gaps: int = 0
    backfilled: int = 0
    """Missing trades that REST returned."""
    missing: int = 0
    """Missing trades that REST did not return."""
    refused: int = 0
    """Messages with an invalid field."""
    other_symbols: int = 0
    """Messages of symbols that are not traded."""
    ignored: int = 0
    """Messages of kinds that are not used."""
    overflowed: int = 0
    """Trades and marks dropped because too many waited for a gap to be filled."""
    reconnects: int = 0


class TradeSequence:
    """Passes trades on in the order of their ids, and mark prices in order with them.

    After a jump in the ids everything is held while REST is asked for the missing trades. Those that REST does not
    return stay missing, and a `FeedGap` reports them.

    Args:
        exchange: where a failure of the backfill is noted.
        rest: for missing trades.
        symbol: of the trades.
        on_agg_trade: takes (id, price in ticks, lots, time in ms, whether the buyer is the maker).
        on_event: takes marks and gaps.
        counts: is kept up to date.
        lockstep: a page of REST without missing trades is final, since the tape does not move on.
        after_trade_id: the last trade that is known; 0 to begin with the first of the stream.

    Attributes:
        last_trade_id: of the last trade that was passed on.
        is_held_back: whether trades are held until `release`.
        task: fills a gap, or has filled the last one.
    """

    def __init__(
        self,
        exchange: UsdmExchange,
        rest: BinanceRestClient,
        symbol: str,
        on_agg_trade: Callable[[int, int, int, int, bool], None],
        on_event: Callable[[Event], None],
        counts: StreamCounts,
        *,
        lockstep: bool,
        after_trade_id: int,
    ) -> None:
        self.last_trade_id = after_trade_id
        self.is_held_back = False
        self._exchange = exchange
        self._rest = rest
        self._symbol = symbol
        self._on_agg_trade = on_agg_trade
        self._on_event = on_event
        self._counts = counts
        self._lockstep = lockstep
        self._held: deque[TradeRow | MarkPrice] = deque()
        self.task: asyncio.Task[None] | None = None

    @property
    def received(self) -> int:
        """Trades received so far, and marks that are held."""
        return self._counts.trades + self._counts.duplicates + len(self._held)

    def release(self, last_id: int) -> None:
        """Pass on what was held, from the trade after `last_id`, and from now on everything at once."""
        self.last_trade_id = last_id
        self.is_held_back = False
        if self._held:
            self._start_release()

    def add_trade(self, trade: TradeRow) -> None:
        """Pass a trade on, or hold it while trades before it are missing."""
        if self._held or self.is_held_back:
            self._hold(trade)
        elif trade[0] == self.last_trade_id + 1 or not self.last_trade_id:
            self._pass_trade(trade)
        elif trade[0] <= self.last_trade_id:
            self._counts.duplicates += 1
        else:
            self._hold(trade)
            self._start_release()

    def add_mark(self, mark: MarkPrice) -> None:
        """Pass a mark price on, or hold it behind the trades that came before it while a gap is filled.

        None is held while earlier trades are loaded, which may take minutes: a position is valued by them, for the
        limits on losses.
        """
        if self._held and not self.is_held_back:
            self._hold(mark)
        else:
            self._pass_mark(mark)

    def _pass_trade(self, trade: TradeRow) -> None:
        self._counts.trades += 1
        self.last_trade_id = trade[0]
        self._on_agg_trade(*trade)

    def _pass_mark(self, mark: MarkPrice) -> None:
        self._counts.marks += 1
        self._on_event(mark)

    def _hold(self, item: TradeRow | MarkPrice) -> None:
        """Hold an item; a late trade goes before the held trades with greater ids."""
        if len(self._held) >= MAX_HELD:
            self._counts.overflowed += 1
            return
        place = len(self._held)
        if not isinstance(item, MarkPrice):
            while place and not isinstance(other := self._held[place - 1], MarkPrice) and other[0] > item[0]:
                place -= 1
        self._held.insert(place, item)

    def _pass_held(self, last_id: int) -> None:
        """Pass on held trades that continue the sequence, up to `last_id`."""
        while self._held and not isinstance(item := self._held[0], MarkPrice) and item[0] <= last_id:
            if item[0] > self.last_trade_id + 1:
                return
            self._held.popleft()
            if item[0] == self.last_trade_id + 1:
                self._pass_trade(item)

    def _start_release(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._release_held())

    async def _release_held(self) -> None:
        """Pass on everything that is held, and fill each gap on the way."""
        given_up = 0
        try:
            while self._held:
                item = self._held[0]
                if isinstance(item, MarkPrice):
                    self._pass_mark(item)
                elif item[0] <= self.last_trade_id:
                    self._counts.duplicates += 1
                elif 0 < self.last_trade_id < item[0] - 1 and item[0] != given_up:
                    given_up = item[0]
                    await self._backfill(self.last_trade_id + 1, item[0] - 1, item[3])
                    continue  # meanwhile another item may have become the first
                else:
                    self._pass_trade(item)
                self._held.popleft()
        except Exception as error:
            log.exception("a gap could not be filled")
            self._exchange.frame_handler_failure = self._exchange.frame_handler_failure or error

    async def _backfill(self, first_id: int, last_id: int, time: int) -> None:
        """Pass on the missing trades that REST returns, then report the gap."""
        before = self._counts.trades
        try:
            async with asyncio.timeout(BACKFILL_SECONDS):
                await self._fetch_missing(last_id)
        except TimeoutError:
            log.warning("gap %d to %d: gave up after %.0f s", first_id, last_id, BACKFILL_SECONDS)
        self._pass_held(last_id)
        backfilled = self._counts.trades - before
        self._counts.gaps += 1
        self._counts.backfilled += backfilled
        self._counts.missing += last_id - first_id + 1 - backfilled
        self._on_event(FeedGap(self._symbol, time, first_id, last_id, backfilled))

    async def _fetch_missing(self, last_id: int) -> None:
        """Read pages until the gap is filled, REST shows that the trades do not exist, or all tries have failed."""
        failures = 0
        while self.last_trade_id < last_id and failures < BACKFILL_TRIES:
            if failures:
                await asyncio.sleep(0.1 * 2**failures)
                self._pass_held(last_id)
            if not self._rest.has_weight(PAGE_WEIGHT):
                failures += 1
                continue
            try:
                page = await self._rest.agg_trades(self._symbol, self.last_trade_id + 1)
            except ExchangeError as error:
                log.warning("missing trades: %s", error)
                failures += 1
                continue
            wanted = [trade for trade in page if self.last_trade_id < trade[0] <= last_id]
            for trade in wanted:
                if trade[0] > self.last_trade_id:
                    self._pass_trade(trade)
            if page and page[-1][0] > last_id:
                return  # REST has later trades, so the missing ones do not exist
            if not wanted:
                if self._lockstep:
                    return
                failures += 1
