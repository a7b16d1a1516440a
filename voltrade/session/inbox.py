"""What has arrived and the core has not taken yet: of the streams, answers to requests, operators' commands."""

from __future__ import annotations

import asyncio
from collections import deque

from voltrade.model import Event, MarkPrice, Trades

TradeRow = tuple[int, int, int, int, bool]
"""A trade as `Trades.from_rows` takes it."""


class Inbox:
    """Two queues, market data and all other events, each in the order of arrival but for what is put in front.

    Attributes:
        market: trades and mark prices.
        events: all other events.
        arrived: set whenever something is added.
        last_trade_id: id of the newest trade that was added.
        mark_count: how many mark prices were added in all.
    """

    def __init__(self) -> None:
        self.market: deque[TradeRow | MarkPrice] = deque()
        self.events: deque[Event] = deque()
        self.arrived = asyncio.Event()
        self.last_trade_id = 0
        self.mark_count = 0

    def add_trade(self, row: TradeRow) -> None:
        """Add a trade."""
        self.market.append(row)
        self.last_trade_id = row[0]
        self.arrived.set()

    def add_mark(self, mark: MarkPrice) -> None:
        """Add a mark price."""
        self.market.append(mark)
        self.mark_count += 1
        self.arrived.set()

    def add(self, event: Event, *, first: bool = False) -> None:
        """Add any other event, in front of the others with `first`."""
        (self.events.appendleft if first else self.events.append)(event)
        self.arrived.set()

    def prepend_trades(self, trades: Trades) -> None:
        """Add trades in front of the market data that has arrived."""
        self.market.extendleft(reversed(list(trades.rows())))
        self.arrived.set()

    def next_trades(self, most: int) -> list[TradeRow]:
        """Return the trades before the next mark price, at most this many, without removing them."""
        rows: list[TradeRow] = []
        for item in self.market:
            if isinstance(item, MarkPrice) or len(rows) == most:
                break
            rows.append(item)
        return rows

    def remove_market(self, count: int) -> None:
        """Remove the oldest trades and mark prices."""
        for _ in range(count):
            self.market.popleft()

    def take_events(self) -> list[Event]:
        """Remove and return all events other than market data."""
        events = list(self.events)
        self.events.clear()
        return events
