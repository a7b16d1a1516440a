"""What happens at the simulated exchange, in order: as user events for clients, and as rows of the ground-truth log.

The log is also the source from which an exchange is restored: a row of a kind in `INPUTS` is something done to the
exchange, and the rows that follow are its effects. Prices to which no order reacted have no rows of their own; a
`market` row has the latest prices before the next input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import TypeAdapter

from voltrade.model import Instrument, MarkPrice, OrderRequest, OrderUpdate, Side, money, money_text
from voltrade.simulated.events import (
    AccountChange,
    AssetsModeChange,
    MarginCall,
    PositionRisk,
    SettingsChange,
    UserEvent,
)
from voltrade.simulated.formatting import format_value, price_text, quantity_text
from voltrade.simulated.market import Market
from voltrade.simulated.orders import AlgoOrder, Order
from voltrade.simulated.symbols import SymbolRules

Log = Callable[[dict[str, Any]], None]
"""Takes one row."""

INPUTS = ("market", "accepted", "arrival", "trade", "mark", "finish")
"""Kinds of rows for what was done to the exchange or reached it, and for the prices before it."""

EFFECTS = ("start", "order", "algo", "fill", "account", "settings", "assets_mode", "margin_call")
"""Kinds of rows for what followed. A `refused` row is neither, since nothing was done."""

CODECS: Mapping[str, TypeAdapter[Any]] = {
    "asked": TypeAdapter(OrderRequest),
    "instrument": TypeAdapter(Instrument),
    "instruments": TypeAdapter(list[Instrument]),
    "rules": TypeAdapter(SymbolRules | None),
    "all_rules": TypeAdapter(dict[str, SymbolRules]),
}
"""How fields that are not plain values are written, by name: prices in ticks, quantities in lots."""

_ORDER = "symbol order_id client_order_id side type=order_type status quantity filled price time_in_force reduce_only"
_ORDER_ROW = f"{_ORDER} expiry_reason".split()
_ALGO = "symbol algo_id client_order_id side type=order_type status quantity trigger_price working_type reduce_only"
_ALGO_ROW = f"{_ALGO} close_position order_id filled reason".split()
_FILL = "symbol trade_id order_id client_order_id side price=last_price quantity=last_quantity"
_FILL_ROW = f"{_FILL} fee fee_asset realised maker=is_maker".split()
_POSITION_ROW = ["symbol", "position=quantity", "entry_price", "unrealised"]
"""Fields of the rows, each with the name of the attribute where that differs."""


class EventLog:
    """The clock of the exchange, the user events that were not sent yet, and the ground-truth log.

    Attributes:
        clock: milliseconds UTC; moved by trades, mark prices and `advance`.
        outbox: user events in order, until the owner clears it.
        markets: the symbols, by name.
        noted: number of rows so far, which tells whether anything has happened.
    """

    def __init__(self, clock: int, log: Log | None, markets: Mapping[str, Market]) -> None:
        self.clock = clock
        self.outbox: list[UserEvent] = []
        self.markets = markets
        self.noted = 0
        self._log = log
        self._noted_prices: dict[str, list[Any]] = {}

    def advance(self, time: int) -> None:
        """Set the clock forward; an earlier time changes nothing."""
        self.clock = max(self.clock, time)

    # --- events -------------------------------------------------------------------------------------------------------

    def add_order(self, market: Market, order: Order, execution: str) -> None:
        update = order.update(execution)
        self.outbox.append(update)
        if self.has_log:
            self.note("order", **_row(market, update, _ORDER_ROW), origin=order.origin)

    def add_algo(self, market: Market, algo: AlgoOrder, *, told: bool = True) -> None:
        update = algo.update()
        if told:
            self.outbox.append(update)
        if self.has_log:
            self.note("algo", **_row(market, update, _ALGO_ROW))

    def add_fill(
        self, market: Market, order: Order, fill: OrderUpdate, tape_id: int, extrapolated: int, wallet: int
    ) -> None:
        """Add a fill: by a trade of the tape where an order rested, else with the lots that are extrapolated."""
        self.outbox.append(fill)
        if self.has_log:
            position = quantity_text(market.instrument, market.position.quantity)
            source = {"tape_id": tape_id, "extrapolated": quantity_text(market.instrument, extrapolated)}
            after = {"position": position, "wallet": money_text(wallet)}
            self.note("fill", **_row(market, fill, _FILL_ROW), origin=order.origin, **source, **after)

    def add_account(self, change: AccountChange) -> None:
        self.outbox.append(change)
        if self.has_log:
            rows = [_row(self.markets[risk.symbol], risk, _POSITION_ROW) for risk in change.positions]
            position = rows[0] if rows else {}
            others = {each.asset: money_text(each.wallet) for each in change.others}
            assets = {"assets": others} if others else {}
            self.note("account", reason=change.reason, wallet=money_text(change.wallet), **position, **assets)

    def add_leverage(self, market: Market) -> None:
        self.outbox.append(SettingsChange(self.clock, market.symbol, market.leverage))
        self.note("settings", symbol=market.symbol, leverage=market.leverage, margin_type=market.margin_type)

    def add_assets_mode(self, multi: bool) -> None:
        self.outbox.append(AssetsModeChange(self.clock, multi))
        self.note("assets_mode", multi=multi)

    def add_margin_call(self, cross_wallet: int, risks: tuple[PositionRisk, ...]) -> None:
        self.outbox.append(MarginCall(self.clock, cross_wallet, risks))
        self.note("margin_call", symbols=[risk.symbol for risk in risks])

    # --- rows ---------------------------------------------------------------------------------------------------------

    @property
    def has_log(self) -> bool:
        return self._log is not None

    def write_to(self, log: Log | None) -> None:
        """Write the rows that follow to another log."""
        self._log = log

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Have no log meanwhile."""
        log, self._log = self._log, None
        try:
            yield
        finally:
            self._log = log

    def note(self, kind: str, **facts: Any) -> None:
        """Write a row."""
        self.noted += 1
        if self._log is not None:
            self._log({"time": self.clock, "kind": kind, **facts})

    def note_input(self, kind: str, **facts: Any) -> None:
        """Write what is done to the exchange, before it is done, and the prices before it."""
        self.note_markets()
        self.note(kind, **facts)

    def note_markets(self) -> None:
        """Write the prices that have changed since they were last written."""
        for market in self.markets.values() if self._log is not None else ():
            prices = _prices_of(market)
            if self._noted_prices.get(market.symbol) != prices:
                self._noted_prices[market.symbol] = prices
                self.note("market", symbol=market.symbol, stand=prices)

    def skip_prices(self, market: Market) -> None:
        """Do not write the current prices of a symbol; the last input has them."""
        if self._log is not None:
            self._noted_prices[market.symbol] = _prices_of(market)


def encoded(**facts: Any) -> dict[str, Any]:
    """Return the fields of a row as plain values, by `CODECS`."""
    return {
        name: CODECS[name].dump_python(fact, mode="json") if name in CODECS else fact for name, fact in facts.items()
    }


def restore_prices(market: Market, prices: Sequence[Any]) -> None:
    """Set the prices of a symbol as in a `market` row."""
    trade_id, last, bought, sold, *marked = prices
    market.last_trade_id = trade_id
    market.find_place()
    market.last_price, market.taker_price[Side.BUY], market.taker_price[Side.SELL] = (
        market.instrument.ticks(price) for price in (last, bought, sold)
    )
    if marked:
        time, price, rate_e8, next_funding_time = marked
        market.mark = MarkPrice(market.symbol, time, money(price), rate_e8, next_funding_time)


def _prices_of(market: Market) -> list[Any]:
    """Return last trade id, last price, last prices of a taker's buy and sell, and the mark price."""
    prices = (market.last_price, market.taker_price[Side.BUY], market.taker_price[Side.SELL])
    mark = market.mark
    marked = [mark.time, money_text(mark.price_e8), mark.funding_rate_e8, mark.next_funding_time] if mark else []
    return [market.last_trade_id, *(price_text(market.instrument, price) for price in prices), *marked]


def _row(market: Market, fact: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return fields of an event, with prices, quantities and money as decimal texts."""
    row = {}
    for name in names:
        key, _, field = name.partition("=")
        row[key] = format_value(market.instrument, field or key, getattr(fact, field or key))
    return row
