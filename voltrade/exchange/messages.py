"""Reads Binance's websocket messages and REST objects into the types of `model` (ticks, lots, money of 1e-8).

Pure functions of decoded JSON: no socket, no clock. An invalid field raises `DataError`, and nothing else is raised.
All of it is exact, unless the exchange has made tick or step finer: then prices and quantities are read to the nearest
unit, and `MessageReader.inexact` says so. Of orders that aren't ours only that they exist and how they fill matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

from voltrade.errors import DataError
from voltrade.exchange.fee_prices import FeePrices
from voltrade.exchange.fields import LARGEST, MONEY_TEXTS, Fields, Units, shown
from voltrade.model import (
    MONEY,
    NEVER,
    OUR_ORDERS,
    AccountUpdate,
    AlgoUpdate,
    Income,
    Instrument,
    MarkPrice,
    OrderType,
    OrderUpdate,
    PositionReport,
    Side,
    TimeInForce,
    WorkingType,
)

TradeRow = tuple[int, int, int, int, bool]
"""An aggTrade: id, price in ticks, quantity in lots, time in ms UTC, whether the buyer is the maker."""

ORDER_STATUSES = ("NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED")
ALGO_STATUSES = ("NEW", "TRIGGERING", "TRIGGERED", "FINISHED", "CANCELED", "EXPIRED", "REJECTED")
EXECUTIONS = ("NEW", "TRADE", "CANCELED", "EXPIRED", "CALCULATED", "AMENDMENT")

_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}

# Types that we never send, but that foreign orders may have, are read as the nearest of ours.
_FOREIGN_TYPES = {"LIQUIDATION": OrderType.MARKET}
_ORDER_TYPES: Mapping[str, OrderType] = {**_FOREIGN_TYPES, **{word.value: word for word in OrderType}}
_STATUSES: Mapping[str, str] = {
    **{"NEW_INSURANCE": "NEW", "NEW_ADL": "NEW"},  # liquidations taken over by the insurance fund or a counterparty
    **{word: word for word in ORDER_STATUSES},
}
_FOREIGN_TIMES = {"GTD": TimeInForce.GTC, "GTE_GTC": TimeInForce.GTC, "RPI": TimeInForce.GTX}
_TIMES_IN_FORCE: Mapping[str, TimeInForce] = {**_FOREIGN_TIMES, **{word.value: word for word in TimeInForce}}
_ALGO_STATUSES = {word: word for word in ALGO_STATUSES}
_WORKING_TYPES: Mapping[str, WorkingType] = {word.value: word for word in WorkingType}


Word = TypeVar("Word")


def _known(fields: Fields, order: str, name: str, words: Mapping[str, Word], nearest: Word) -> Word:
    """Read a word that must be known of our orders; of a foreign order an unknown one is read as `nearest`."""
    is_foreign = not order.startswith(OUR_ORDERS)
    return nearest if is_foreign and fields.text(name) not in words else fields.choice(name, words)


class MessageReader:
    """Reads Binance's messages about one instrument.

    Every method takes a decoded JSON object. Anything that differs from Binance's documentation raises `DataError` with
    the field, the rule and the value. Without `fee_prices` a fee in another asset than the quote asset is read as 0.
    """

    def __init__(self, instrument: Instrument, fee_prices: FeePrices | None = None) -> None:
        self.instrument = instrument
        self._fee_prices = fee_prices
        self._prices = Units(instrument.tick_size, instrument.max_price, nearest=True)
        self._lots = Units(instrument.step_size, nearest=True)

    @property
    def inexact(self) -> int:
        """How many prices and quantities were no multiples of tick or step, and were read to the nearest."""
        return self._prices.inexact + self._lots.inexact

    def lots(self, text: str) -> int:
        """Read a quantity.

        Raises:
            DataError: it is no decimal text.
        """
        return self._lots[text]

    # --- market data ------------------------------------------------------------------------------------------------

    def agg_trade(self, message: Mapping[str, Any]) -> TradeRow:
        """Read an aggTrade of the stream, or a row of GET aggTrades, in less than a microsecond."""
        try:
            trade_id, time, maker = message["a"], message["T"], message["m"]
            price, quantity = self._prices[message["p"]], self._lots[message["q"]]
        except (KeyError, TypeError, DataError):
            return self._agg_trade_by_field(message)
        if (
            type(trade_id) is int
            and type(time) is int
            and type(maker) is bool
            and 0 <= trade_id < LARGEST
            and 0 < time < LARGEST
            and price > 0
            and quantity > 0
        ):
            return trade_id, price, quantity, time, maker
        return self._agg_trade_by_field(message)

    def _agg_trade_by_field(self, message: object) -> TradeRow:
        """Read an unusual or invalid aggTrade field by field, so that the error names the field."""
        fields = Fields("aggTrade", message)
        row = (
            fields.integer("a"),
            fields.units("p", self._prices, 1),
            fields.units("q", self._lots, 1),
            fields.integer("T", 1),
            fields.flag("m"),
        )
        if max(row) >= LARGEST:
            raise DataError(f"aggTrade must hold numbers below {LARGEST}, was {shown(row)}")
        return row

    def mark_price(self, message: object) -> MarkPrice:
        """Read a markPriceUpdate with the time of the event; symbols without funding have an empty rate."""
        fields = Fields("markPriceUpdate", message)
        return MarkPrice(
            symbol=self._symbol(fields, "s"),
            time=fields.integer("E", 1),
            price_e8=fields.units("p", MONEY_TEXTS, 1),
            funding_rate_e8=fields.money("r") if fields.has("r") else 0,
            next_funding_time=fields.integer("T") if fields.has("T") else 0,
            is_last_price=fields.has("isLastPrice") and fields.flag("isLastPrice"),
        )

    # --- user data --------------------------------------------------------------------------------------------------

    def order_update(self, message: object) -> OrderUpdate:
        """Read an ORDER_TRADE_UPDATE. Liquidations (`x` = CALCULATED) have a fill, as trades do.

        A part that is no whole lot may have a fill of 0 lots, with its fee and profit; the next part has its lot.
        """
        event = Fields("ORDER_TRADE_UPDATE", message)
        order = event.part("o")
        quantity, filled = order.units("q", self._lots), order.units("z", self._lots)
        if filled > quantity:
            raise order.error("z", f"must be at most the order's {order.text('q')}")
        name, is_fill = order.text("c"), order.units("l", self._lots) > 0
        last = self._lots.between(order.decimal("z") - order.decimal("l"), order.text("l")) if is_fill else 0
        return OrderUpdate(
            time=event.integer("T", 1),
            symbol=self._symbol(order, "s"),
            client_order_id=name,
            order_id=order.integer("i", 1),
            side=order.choice("S", _SIDES),
            order_type=_known(order, name, "o", _ORDER_TYPES, OrderType.MARKET),
            status=order.choice("X", _STATUSES),
            execution=order.one_of("x", EXECUTIONS),
            quantity=quantity,
            filled=filled,
            price=order.units("p", self._prices),
            time_in_force=order.choice("f", _TIMES_IN_FORCE),
            reduce_only=order.flag("R"),
            close_position=order.flag("cp") if order.has("cp") else False,
            trade_id=order.integer("t") if is_fill else 0,
            last_quantity=last,
            last_price=order.units("L", self._prices) if is_fill else 0,
            fee=self._fee(order, "n", "N") if is_fill else 0,
            fee_asset=order.text("N") if is_fill and order.has("N") else "",
            realised=order.money("rp") if is_fill and order.has("rp") else 0,
            is_maker=order.flag("m"),
            expiry_reason=order.text("er") if order.has("er") else "0",
        )

    def algo_update(self, message: object) -> AlgoUpdate:
        """Read an ALGO_UPDATE."""
        event = Fields("ALGO_UPDATE", message)
        algo = event.part("o")
        name = algo.text("caid")
        return AlgoUpdate(
            time=event.integer("T", 1),
            symbol=self._symbol(algo, "s"),
            client_order_id=name,
            algo_id=algo.integer("aid", 1),
            side=algo.choice("S", _SIDES),
            order_type=_known(algo, name, "o", _ORDER_TYPES, OrderType.STOP_MARKET),
            status=_known(algo, name, "X", _ALGO_STATUSES, "NEW"),
            quantity=self._optional_lots(algo, "q"),
            trigger_price=self._optional_price(algo, "tp"),
            order_id=algo.identifier("ai"),
            filled=self._optional_lots(algo, "aq"),
            reduce_only=algo.flag("R"),
            close_position=algo.flag("cp"),
            working_type=algo.choice("wt", _WORKING_TYPES),
            reason=algo.text("rm") if algo.has("rm") else "",
        )

    def account_update(self, message: object, wallet: int) -> AccountUpdate:
        """Read an ACCOUNT_UPDATE: the quote asset's wallet and this symbol's one-way position.

        Args:
            message: the event, which has only what changed.
            wallet: the last known wallet, for an update without the quote asset; 0 if it is not known.
        """
        event = Fields("ACCOUNT_UPDATE", message)
        change = event.part("a")
        amount = 0
        for balance in change.parts("B") if change.has("B") else []:
            if balance.text("a") == self.instrument.quote_asset:
                wallet, amount = balance.money("wb"), balance.money("bc") if balance.has("bc") else 0
        positions = change.parts("P") if change.has("P") else []
        return AccountUpdate(
            time=event.integer("T", 1),
            reason=change.text("m"),
            wallet=wallet,
            change=amount,
            symbol=self._symbol_of(change, positions),
            positions=tuple(self._position(p) for p in positions if p.text("s") == self.instrument.symbol),
        )

    def _symbol_of(self, change: Fields, positions: list[Fields]) -> str:
        """Return the symbol of a change: its own field, else the symbol of its only position."""
        if change.has("S"):
            return change.text("S")
        named = {position.text("s") for position in positions}
        return named.pop() if len(named) == 1 else ""

    def _position(self, position: Fields) -> PositionReport:
        position.one_of("ps", ("BOTH",))  # LONG and SHORT: hedge mode, in which we don't trade
        return PositionReport(
            symbol=position.text("s"),
            quantity=position.units("pa", self._lots, None),
            entry_price=str(position.decimal("ep")),
            unrealised=position.money("up"),
            margin_type=position.one_of("mt", ("cross", "isolated")),
        )

    # --- REST objects -----------------------------------------------------------------------------------------------

    def order(self, row: object) -> OrderUpdate:
        """Read an order object of REST. It has no fee and no trades; `avgPrice` and `cumQuote` may be missing."""
        order = Fields("order", row)
        quantity, filled = order.units("origQty", self._lots), order.units("executedQty", self._lots)
        if filled > quantity:
            raise order.error("executedQty", f"must be at most the order's {order.text('origQty')}")
        name = order.text("clientOrderId")
        return OrderUpdate(
            time=order.integer("updateTime", 1),
            symbol=self._symbol(order, "symbol"),
            client_order_id=name,
            order_id=order.integer("orderId", 1),
            side=order.choice("side", _SIDES),
            order_type=_known(order, name, "type", _ORDER_TYPES, OrderType.MARKET),
            status=_known(order, name, "status", _STATUSES, "NEW"),
            execution="",
            quantity=quantity,
            filled=filled,
            filled_notional=self._notional(order, "cumQuote") if filled else 0,
            price=self._optional_price(order, "price"),
            time_in_force=_known(order, name, "timeInForce", _TIMES_IN_FORCE, TimeInForce.GTC),
            reduce_only=order.flag("reduceOnly"),
            close_position=order.flag("closePosition") if order.has("closePosition") else False,
        )

    def algo_order(self, row: object) -> AlgoUpdate:
        """Read an algo object of REST."""
        algo = Fields("algoOrder", row)
        kind = "orderType" if algo.has("orderType") else "type"
        name = algo.text("clientAlgoId")
        return AlgoUpdate(
            time=algo.integer("updateTime", 1),
            symbol=self._symbol(algo, "symbol"),
            client_order_id=name,
            algo_id=algo.integer("algoId", 1),
            side=algo.choice("side", _SIDES),
            order_type=_known(algo, name, kind, _ORDER_TYPES, OrderType.STOP_MARKET),
            status=_known(algo, name, "algoStatus", _ALGO_STATUSES, "NEW"),
            quantity=self._optional_lots(algo, "quantity"),
            trigger_price=self._optional_price(algo, "triggerPrice"),
            order_id=algo.identifier("actualOrderId"),
            filled=self._optional_lots(algo, "actualQty"),
            reduce_only=algo.flag("reduceOnly"),
            close_position=algo.flag("closePosition") if algo.has("closePosition") else False,
            working_type=_known(algo, name, "workingType", _WORKING_TYPES, WorkingType.CONTRACT_PRICE),
        )

    def user_trades(self, rows: Iterable[object]) -> list[OrderUpdate]:
        """Read our trades (rows of GET userTrades), by id; see `user_trade`."""
        filled: defaultdict[int, Decimal] = defaultdict(Decimal)
        fills: list[OrderUpdate] = []
        for trade in sorted((Fields("userTrade", row) for row in rows), key=lambda trade: trade.integer("id", 1)):
            order_id = trade.integer("orderId", 1)
            fills.append(self.user_trade(trade.row, filled[order_id]))
            filled[order_id] += trade.decimal("qty")
        return fills

    def user_trade(self, row: object, filled: Decimal = Decimal(0)) -> OrderUpdate:
        """Read one of our trades (a row of GET userTrades) as an update with its fill.

        The row has only the exchange's id of the order and no quantity of it, so `quantity` and `filled` are those of
        the trade.

        Args:
            row: the decoded object.
            filled: of the same order by trades before it, so that parts that are no whole lots add up to the order's.
        """
        trade = Fields("userTrade", row)
        trade.units("qty", self._lots, 1)
        lots = self._lots.between(filled, trade.text("qty"))
        price = trade.units("price", self._prices, 1)
        return OrderUpdate(
            time=trade.integer("time", 1),
            symbol=self._symbol(trade, "symbol"),
            client_order_id="",
            order_id=trade.integer("orderId", 1),
            side=trade.choice("side", _SIDES),
            order_type=OrderType.MARKET,
            status="PARTIALLY_FILLED",
            execution="TRADE",
            quantity=lots,
            filled=lots,
            filled_notional=lots * price,
            trade_id=trade.integer("id", 1),
            last_quantity=lots,
            last_price=price,
            fee=self._fee(trade, "commission", "commissionAsset"),
            fee_asset=trade.text("commissionAsset"),
            realised=trade.money("realizedPnl"),
            is_maker=trade.flag("maker"),
        )

    def income(self, rows: Iterable[object]) -> list[tuple[tuple[str, ...], str, Income]]:
        """Read rows of GET income: what tells one from all others, its asset, and the change."""
        found = list[tuple[tuple[str, ...], str, Income]]()
        for row in (Fields("income", row) for row in rows):
            kind, symbol = row.text("incomeType"), row.text("symbol")
            name = (str(row.row.get("tranId")), kind, symbol, str(row.row.get("tradeId")))
            change = Income(row.integer("time", 1), kind, row.money("income"), symbol)
            found.append((name, row.text("asset"), change))
        return found

    def wallet(self, account: object) -> tuple[int, int]:
        """Read wallet and available balance of the quote asset from an account object; money."""
        for asset in Fields("account", account).parts("assets"):
            if asset.text("asset") == self.instrument.quote_asset:
                return asset.money("walletBalance"), asset.money("availableBalance")
        return 0, 0

    def position(self, rows: object, leverage: int, margin_type: str) -> PositionReport:
        """Read this symbol's one-way position from the rows of positionRisk; without a row it is flat."""
        for row in Fields("positionRisk", {"rows": rows}).parts("rows"):
            if row.text("symbol") != self.instrument.symbol or row.text("positionSide") != "BOTH":
                continue
            return PositionReport(
                symbol=self.instrument.symbol,
                quantity=row.units("positionAmt", self._lots, None),
                entry_price=str(row.decimal("entryPrice")),
                unrealised=row.money("unRealizedProfit"),
                leverage=leverage,
                margin_type=margin_type,
            )
        return PositionReport(self.instrument.symbol, 0, "0", 0, leverage, margin_type)

    def position_lots(self, account: object) -> int:
        """Read the signed lots of this symbol's one-way position from an account object; without a row it is flat."""
        for row in Fields("account", account).parts("positions"):
            if row.text("symbol") == self.instrument.symbol and row.text("positionSide") == "BOTH":
                return row.units("positionAmt", self._lots, None)
        return 0

    def symbol_config(self, rows: object) -> tuple[int, str, int]:
        """Read leverage, margin type, `isolated` or `cross`, and the largest position (money) from symbolConfig."""
        for row in Fields("symbolConfig", {"rows": rows}).parts("rows"):
            if row.text("symbol") == self.instrument.symbol:
                words = {"ISOLATED": "isolated", "CROSSED": "cross"}
                return row.integer("leverage", 1), row.choice("marginType", words), self._largest_notional(row)
        raise DataError(f"symbolConfig must name {self.instrument.symbol}")

    def fee_rates(self, row: object) -> tuple[int, int]:
        """Read taker and maker commission, in 1e-8 of the notional."""
        rates = Fields("commissionRate", row)
        return rates.money("takerCommissionRate"), rates.money("makerCommissionRate")

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _symbol(self, fields: Fields, name: str) -> str:
        return fields.one_of(name, (self.instrument.symbol,))

    def _optional_price(self, fields: Fields, name: str) -> int:
        return fields.units(name, self._prices) if fields.has(name) else 0

    def _optional_lots(self, fields: Fields, name: str) -> int:
        return fields.units(name, self._lots) if fields.has(name) else 0

    def _fee(self, fields: Fields, amount: str, asset: str) -> int:
        """Read a fee as money of the quote asset; one that was paid in another asset at its price, 0 without that."""
        paid = fields.money(amount) if fields.has(amount) else 0
        if not fields.has(asset) or fields.text(asset) == self.instrument.quote_asset:
            return paid
        return self._fee_prices.value(fields.text(asset), paid) if self._fee_prices is not None else 0

    @staticmethod
    def _largest_notional(fields: Fields) -> int:
        """Read the largest position at the account's leverage; return 0 where it is absent, or said to be unlimited."""
        try:
            return min(int(fields.decimal("maxNotionalValue")) * MONEY, NEVER)
        except DataError:
            return 0

    def _notional(self, fields: Fields, name: str) -> int:
        """Read a notional as ticks x lots; return 0 if it is absent or was rounded."""
        if not fields.has(name):
            return 0
        ticklots, rest = divmod(fields.money(name), self.instrument.money_per_ticklot)
        return 0 if rest else ticklots
