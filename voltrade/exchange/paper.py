"""Paper trading: the real market's trades and marks move the simulated exchange, which takes our orders in process.

It stands between the feed and the session: a trade is played at the simulated exchange first, then handed on, so that
what it filled is told with it. Nothing is sent anywhere. Between two sessions the simulated market stands still: a
stop that the price has passed meanwhile triggers at the first trade that is seen.
"""

from __future__ import annotations

from collections.abc import Callable

from voltrade.exchange.simulated import SimulatedExchange
from voltrade.model import (
    CancelOrder,
    Command,
    Event,
    Instrument,
    Link,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    Reply,
    Snapshot,
    Trades,
)

Clock = Callable[[], int]
OnAggTrade = Callable[[int, int, int, int, bool], None]
OnEvent = Callable[[Event], None]


class PaperExchange:
    """An `exchange.OrderGateway` in process.

    Args:
        exchange: holds the account, with one symbol.
        clock: ms UTC.
    """

    def __init__(self, exchange: SimulatedExchange, clock: Clock) -> None:
        self._exchange = exchange
        (self._market,) = exchange.markets.values()
        self._clock = clock
        self._on_agg_trade: OnAggTrade = lambda *trade: None
        self._on_event: OnEvent = lambda event: None

    def between(self, on_agg_trade: OnAggTrade, on_event: OnEvent) -> tuple[OnAggTrade, OnEvent]:
        """Return what a feed is to be given in place of the session's own callbacks."""
        self._on_agg_trade, self._on_event = on_agg_trade, on_event
        return self.on_agg_trade, self.on_event

    def on_agg_trade(self, trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool) -> None:
        """Play a trade of the real market."""
        row = (trade_id, price, quantity, time, buyer_is_maker)
        self._exchange.on_trades(Trades.from_rows(self._market.symbol, [row]))
        self._tell()
        self._on_agg_trade(*row)

    def on_event(self, event: Event) -> None:
        """Play a mark price of the real market; pass on whatever else a feed tells."""
        if isinstance(event, MarkPrice):
            self._exchange.on_mark(event)
            self._tell()
        self._on_event(event)

    def open(self) -> None:
        """Tell the session that its account can be reached."""
        self._on_event(Link(self._clock(), "user", True))

    # --- an OrderGateway ----------------------------------------------------------------------------------------------

    async def instrument(self, symbol: str) -> Instrument:
        return self._market.instrument

    async def snapshot(self, symbol: str, since_trade_id: int) -> Snapshot:
        self._exchange.advance(self._clock())
        return self._exchange.snapshot(symbol, since_trade_id)

    async def submit(self, intent: OrderIntent) -> Reply:
        return self._execute(intent)

    async def cancel(self, command: CancelOrder) -> Reply:
        return self._execute(command)

    async def lookup(self, command: LookupOrder) -> Reply:
        return self._execute(command)

    def _execute(self, command: Command) -> Reply:
        self._exchange.advance(self._clock())
        reply = self._exchange.execute(command)
        assert isinstance(reply, Reply)
        self._tell()
        return reply

    def _tell(self) -> None:
        for news in self._exchange.collect():
            self._on_event(news)
