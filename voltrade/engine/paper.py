"""Paper trading: orders go to a simulated exchange in this process, which the real market's trades and marks move.

A trade goes to the simulated exchange first and then to the session, so that its fills come with it. What takes
liquidity fills when it arrives, extrapolated from the last price of its side, since the trades that follow are not
known. No order is sent to Binance. The account is kept in the exchange's log from session to session. Between two
sessions the simulated market does not move: a stop that the price has passed meanwhile triggers at the first trade of
the next session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from voltrade.config import Config
from voltrade.errors import ConfigError
from voltrade.model import (
    AccountSummary,
    CancelOrder,
    Command,
    Event,
    Income,
    Instrument,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    Reply,
    Snapshot,
    StreamStatus,
    Trades,
)
from voltrade.simulated.core_commands import drain_events, execute
from voltrade.simulated.ground_truth import TruthLog, restored
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.tape_playback import exchange_for
from voltrade.symbol_filters import filters_of

Clock = Callable[[], int]
ReadFilters = Callable[[str], Awaitable[Instrument]]
OnAggTrade = Callable[[int, int, int, int, bool], None]
OnEvent = Callable[[Event], None]


class PaperExchange:
    """An `OrderGateway` to a simulated exchange in this process.

    Args:
        config: Settings for a new account; an existing one keeps those of its first start (`ExecutionSettings.wallet`).
        instrument: Filters of the real market.
        clock: Returns the time, ms UTC.
        folder: Folder of the account's log; None for an account that isn't kept.
        read_filters: Reads the real market's filters of a symbol; by default they are those given.

    Attributes:
        units: Filters of the symbol, in the units of the account: those that its log began with.

    Raises:
        ConfigError: The real market's tick or step is finer than the account's.
    """

    def __init__(
        self,
        config: Config,
        instrument: Instrument,
        clock: Clock,
        folder: Path | None = None,
        read_filters: ReadFilters | None = None,
    ) -> None:
        self._log = TruthLog(folder) if folder is not None else None
        write = self._log.write if self._log else None
        if self._log is not None and self._log.rows:
            self._exchange = restored(self._log.rows, write)
        else:
            self._exchange = exchange_for(config, [instrument], clock=clock(), log=write)
        self.units = self._exchange.markets[instrument.symbol].instrument
        self._read_filters = read_filters
        self._clock = clock
        try:
            self._take_filters(instrument)
        except ConfigError:
            self.close()
            raise
        self._on_agg_trade: OnAggTrade = lambda *trade: None
        self._on_event: OnEvent = lambda event: None
        self._is_closed = False

    def _take_filters(self, now: Instrument) -> None:
        """Let the simulated exchange refuse what the real one would refuse now."""
        filters, market = filters_of(now, self.units), self._exchange.markets[now.symbol]
        if filters.is_finer:
            raise ConfigError(
                f"{now.symbol}: tick and step must be multiples of the paper account's {self.units.tick_size:f} and "
                f"{self.units.step_size:f}, were {now.tick_size:f} and {now.step_size:f}: begin with another "
                "VOLTRADE_STATE"
            )
        rules = replace(market.rules, tick_multiple=filters.price_step, step_multiple=filters.quantity_step)
        units = now.in_units(self.units.tick_size, self.units.step_size)
        if (rules, replace(units, source=self.units.source)) != (market.rules, self.units):
            self._exchange.change_filters(units, rules)
            self.units = units

    def close(self) -> None:
        """Close the account's log."""
        self._is_closed = True
        if self._log is not None:
            self._log.close()

    # --- between the feed and the session -----------------------------------------------------------------------------

    def between(self, on_agg_trade: OnAggTrade, on_event: OnEvent) -> tuple[OnAggTrade, OnEvent]:
        """Return callbacks for the feed; they move the simulated exchange and then call the session's."""
        self._on_agg_trade, self._on_event = on_agg_trade, on_event
        return self.on_agg_trade, self.on_event

    def on_agg_trade(self, trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool) -> None:
        """Take a trade of the real market."""
        row = (trade_id, price, quantity, time, buyer_is_maker)
        self._exchange.on_trades(Trades.from_rows(self.units.symbol, [row]))
        self._deliver()
        self._on_agg_trade(*row)

    def on_event(self, event: Event) -> None:
        """Take a mark price of the real market; other events go to the session only."""
        if isinstance(event, MarkPrice):
            self._exchange.on_mark(event)
            self._deliver()
        self._on_event(event)

    def open(self) -> None:
        """Tell the session that its account can be read."""
        self._on_event(StreamStatus(self._clock(), "user", True))

    def _deliver(self) -> None:
        for event in drain_events(self._exchange):
            self._on_event(event)

    # --- an OrderGateway ----------------------------------------------------------------------------------------------

    blocked_until = 0
    """It blocks nobody."""

    async def instrument(self, symbol: str) -> Instrument:
        return self.units

    async def filters(self, symbol: str) -> Instrument:
        """Return the real market's filters; the simulated exchange has them too, unless they are finer than its own."""
        now = await self._read_filters(symbol) if self._read_filters else self.units
        with suppress(ConfigError):  # nothing is entered then, and what closes is in multiples of the earlier filters
            self._take_filters(now)
        return now

    async def summary(self, symbol: str, settings: bool = True) -> AccountSummary:
        self._exchange.advance(self._clock())
        return self._exchange.summary(symbol)

    async def snapshot(self, symbol: str, since_trade_id: int, settings: bool = True) -> Snapshot:
        self._exchange.advance(self._clock())
        return self._exchange.snapshot(symbol, since_trade_id)

    async def income(self, symbol: str, since: int) -> tuple[Income, ...]:
        quote = self._exchange.markets[symbol].instrument.quote_asset
        rows = (row for row in self._exchange.income if row.time >= since and row.asset == quote)
        return tuple(Income(row.time, row.kind, row.amount, row.symbol) for row in rows)

    async def order_names(self, symbol: str, order_ids: Sequence[int]) -> dict[int, str]:
        orders = self._exchange.orders
        return {order_id: orders[order_id].request.client_order_id for order_id in order_ids if order_id in orders}

    async def submit(self, intent: OrderIntent) -> Reply:
        reply = self._execute(intent)
        asyncio.get_running_loop().call_later((self._exchange.terms.latency_ms + 1) / 1000, self._on_arrival)
        return reply

    async def cancel(self, command: CancelOrder) -> Reply:
        return self._execute(command)

    async def lookup(self, command: LookupOrder) -> Reply:
        return self._execute(command)

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        with suppress(VenueRefusal):  # it is set already
            self._exchange.set_margin_type(symbol, margin_type)
        self._exchange.set_leverage(symbol, leverage)

    def _on_arrival(self) -> None:
        """Let the order arrive that was sent a latency ago, though no trade comes."""
        if not self._is_closed:
            self._exchange.advance(self._clock())
            self._deliver()

    def _execute(self, command: Command) -> Reply:
        self._exchange.advance(self._clock())
        reply = execute(self._exchange, command)
        assert isinstance(reply, Reply)
        self._deliver()
        return reply
