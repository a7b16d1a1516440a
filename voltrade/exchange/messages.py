"""Reads Binance's messages and REST objects into facts, strictly: a field that breaks its rule is named and refused.

Pure functions of decoded JSON: no socket, no clock. `binance` hands every frame and answer through here; what comes out
is exact (ticks, lots, money of 1e-8), and garbage comes out as `DataError` and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, TypeVar

from voltrade.errors import DataError
from voltrade.model import (
    MONEY,
    AccountUpdate,
    AlgoUpdate,
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

_decimal_text = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII).fullmatch
_MOST_CHARACTERS = 24
"""Of a decimal text: below the 28 digits that `Decimal` calculates with, so that every step is exact."""
_MOST_REMEMBERED = 1 << 16
_LARGEST = 2**53
_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}

# Orders that we never send but may find on the account are read as the nearest of ours: what counts of a stranger's
# order is that it is there, and its fills.
_FOREIGN_TYPES = {"LIQUIDATION": OrderType.MARKET}
_ORDER_TYPES: Mapping[str, OrderType] = {**_FOREIGN_TYPES, **{word.value: word for word in OrderType}}
_STATUSES: Mapping[str, str] = {
    **{"NEW_INSURANCE": "NEW", "NEW_ADL": "NEW"},  # liquidations taken over by the insurance fund or a counterparty
    **{word: word for word in ORDER_STATUSES},
}
_FOREIGN_TIMES = {"GTD": TimeInForce.GTC, "GTE_GTC": TimeInForce.GTC, "RPI": TimeInForce.GTX}
_TIMES_IN_FORCE: Mapping[str, TimeInForce] = {**_FOREIGN_TIMES, **{word.value: word for word in TimeInForce}}
_WORKING_TYPES: Mapping[str, WorkingType] = {word.value: word for word in WorkingType}

Word = TypeVar("Word")


class Units(dict[str, int]):
    """Decimal texts to whole multiples of a unit, exactly. Remembers what it has read: prices and sizes repeat.

    Args:
        unit: the tick, the step, or 1e-8 for money.
        largest: greatest size of a result.
    """

    def __init__(self, unit: Decimal, largest: int = _LARGEST) -> None:
        super().__init__()
        self._unit = unit
        self._largest = largest

    def __missing__(self, text: object) -> int:
        if not isinstance(text, str) or len(text) > _MOST_CHARACTERS or not _decimal_text(text):
            raise DataError("must be a plain decimal text")
        ratio = Decimal(text) / self._unit
        count = int(ratio)
        if count != ratio:
            raise DataError(f"must be a multiple of {self._unit}")
        if abs(count) > self._largest:
            raise DataError(f"must be at most {self._largest * self._unit}")
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        self[text] = count
        return count


MONEY_TEXTS = Units(Decimal(1) / MONEY)
"""Amounts of the quote asset, mark prices and rates to units of 1e-8."""


class Fields:
    """One JSON object whose fields are read by name and rule.

    Args:
        kind: what it is, for the errors.
        row: the decoded object.
    """

    def __init__(self, kind: str, row: object) -> None:
        if not isinstance(row, dict):
            raise DataError(f"{kind} must be an object, was {_shown(row)}")
        self.kind = kind
        self.row: dict[str, Any] = row

    def error(self, name: str, rule: str) -> DataError:
        return DataError(f"{self.kind}.{name} {rule}, was {_shown(self.row.get(name))}")

    def has(self, name: str) -> bool:
        """Whether the field says anything: absent, null and empty don't."""
        return self.row.get(name) not in (None, "")

    def part(self, name: str) -> Fields:
        return Fields(f"{self.kind}.{name}", self.row.get(name))

    def parts(self, name: str) -> list[Fields]:
        rows = self.row.get(name)
        if not isinstance(rows, list):
            raise self.error(name, "must be a list")
        return [Fields(f"{self.kind}.{name}[{i}]", row) for i, row in enumerate(rows)]

    def text(self, name: str) -> str:
        value = self.row.get(name)
        if not isinstance(value, str):
            raise self.error(name, "must be a text")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        value = self.row.get(name)
        if type(value) is not int or not least <= value <= 2**63 - 1:
            raise self.error(name, f"must be a whole number from {least}")
        return value

    def identifier(self, name: str) -> int:
        """Read an id that Binance writes as a text, as a number, or leaves empty: 0."""
        value = self.row.get(name)
        if value in (None, ""):
            return 0
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        return self.integer(name)

    def flag(self, name: str) -> bool:
        value = self.row.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def word(self, name: str, words: Mapping[str, Word]) -> Word:
        value = self.row.get(name)
        if not isinstance(value, str) or value not in words:
            raise self.error(name, f"must be one of {', '.join(words)}")
        return words[value]

    def one_of(self, name: str, words: Iterable[str]) -> str:
        return self.word(name, {word: word for word in words})

    def units(self, name: str, units: Units, least: int | None = 0) -> int:
        """Read a decimal text as whole units; `least` of None allows negative ones."""
        try:
            count = units[self.row.get(name)]  # type: ignore[index]  # what isn't a text is refused by Units
        except TypeError:
            raise self.error(name, "must be a plain decimal text") from None
        except DataError as error:
            raise self.error(name, str(error)) from None
        if least is not None and count < least:
            raise self.error(name, "must be positive" if least == 1 else "must not be negative")
        return count

    def money(self, name: str) -> int:
        """Read an amount, of either sign, in units of 1e-8."""
        return self.units(name, MONEY_TEXTS, None)

    def decimal(self, name: str) -> Decimal:
        """Read a decimal text of any precision."""
        text = self.text(name)
        if len(text) > _MOST_CHARACTERS or not _decimal_text(text):
            raise self.error(name, "must be a plain decimal text")
        return Decimal(text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class MessageReader:
    """Reads what Binance says about one instrument.

    Every method takes a decoded JSON object and raises `DataError`, naming the field, the rule and the value, for
    anything that isn't what Binance documents.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._prices = Units(instrument.tick_size, instrument.max_price)
        self._lots = Units(instrument.step_size)

    # --- market data ------------------------------------------------------------------------------------------------

    def agg_trade(self, message: Mapping[str, Any]) -> TradeRow:
        """Read an aggTrade, of the stream or a row of GET aggTrades. The hot path: under a microsecond."""
        try:
            trade_id, time, maker = message["a"], message["T"], message["m"]
            price, quantity = self._prices[message["p"]], self._lots[message["q"]]
        except (KeyError, TypeError, DataError):
            return self._agg_trade_by_field(message)
        if (
            type(trade_id) is int
            and type(time) is int
            and type(maker) is bool
            and 0 <= trade_id < _LARGEST
            and 0 < time < _LARGEST
            and price > 0
            and quantity > 0
        ):
            return trade_id, price, quantity, time, maker
        return self._agg_trade_by_field(message)

    def _agg_trade_by_field(self, message: object) -> TradeRow:
        """Read a trade that the fast way stumbled over, field by field, so that the error names the one at fault."""
        fields = Fields("aggTrade", message)
        row = (
            fields.integer("a"),
            fields.units("p", self._prices, 1),
            fields.units("q", self._lots, 1),
            fields.integer("T", 1),
            fields.flag("m"),
        )
        if max(row) >= _LARGEST:
            raise DataError(f"aggTrade must hold numbers below {_LARGEST}, was {_shown(row)}")
        return row

    def mark_price(self, message: object) -> MarkPrice:
        """Read a markPriceUpdate. The time is the event's; symbols without funding have an empty rate."""
        fields = Fields("markPriceUpdate", message)
        return MarkPrice(
            symbol=self._symbol(fields, "s"),
            time=fields.integer("E", 1),
            price_e8=fields.units("p", MONEY_TEXTS, 1),
            funding_rate_e8=fields.money("r") if fields.has("r") else 0,
            next_funding_time=fields.integer("T") if fields.has("T") else 0,
        )

    # --- user data --------------------------------------------------------------------------------------------------

    def order_update(self, message: object) -> OrderUpdate:
        """Read an ORDER_TRADE_UPDATE. Liquidations (`x` = CALCULATED) carry a fill as trades do."""
        event = Fields("ORDER_TRADE_UPDATE", message)
        order = event.part("o")
        quantity, filled = order.units("q", self._lots), order.units("z", self._lots)
        if filled > quantity:
            raise order.error("z", f"must be at most the order's {order.text('q')}")
        last = order.units("l", self._lots)
        return OrderUpdate(
            time=event.integer("T", 1),
            symbol=self._symbol(order, "s"),
            client_order_id=order.text("c"),
            order_id=order.integer("i", 1),
            side=order.word("S", _SIDES),
            order_type=order.word("o", _ORDER_TYPES),
            status=order.word("X", _STATUSES),
            execution=order.one_of("x", EXECUTIONS),
            quantity=quantity,
            filled=filled,
            price=order.units("p", self._prices),
            time_in_force=order.word("f", _TIMES_IN_FORCE),
            reduce_only=order.flag("R"),
            close_position=order.flag("cp") if order.has("cp") else False,
            trade_id=order.integer("t") if last else 0,
            last_quantity=last,
            last_price=order.units("L", self._prices) if last else 0,
            fee=self._fee(order, "n", "N") if last else 0,
            fee_asset=order.text("N") if last and order.has("N") else "",
            realised=order.money("rp") if last and order.has("rp") else 0,
            is_maker=order.flag("m"),
            expiry_reason=order.text("er") if order.has("er") else "0",
        )

    def algo_update(self, message: object) -> AlgoUpdate:
        """Read an ALGO_UPDATE."""
        event = Fields("ALGO_UPDATE", message)
        algo = event.part("o")
        return AlgoUpdate(
            time=event.integer("T", 1),
            symbol=self._symbol(algo, "s"),
            client_order_id=algo.text("caid"),
            algo_id=algo.integer("aid", 1),
            side=algo.word("S", _SIDES),
            order_type=algo.word("o", _ORDER_TYPES),
            status=algo.one_of("X", ALGO_STATUSES),
            quantity=self._optional_lots(algo, "q"),
            trigger_price=self._optional_price(algo, "tp"),
            order_id=algo.identifier("ai"),
            filled=self._optional_lots(algo, "aq"),
            reduce_only=algo.flag("R"),
            close_position=algo.flag("cp"),
            working_type=algo.word("wt", _WORKING_TYPES),
            reason=algo.text("rm") if algo.has("rm") else "",
        )

    def account_update(self, message: object, wallet: int) -> AccountUpdate:
        """Read an ACCOUNT_UPDATE: the quote asset's wallet and this symbol's one-way position.

        Args:
            message: the event. It names only what changed.
            wallet: the last known wallet, for an update that does not name the quote asset; 0 where none is known.
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
        """Return whose funding a change is: as it says, else that of the one position it names."""
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
        """Read an order object of REST. It tells no fee and no trades; `avgPrice` and `cumQuote` may be missing."""
        order = Fields("order", row)
        quantity, filled = order.units("origQty", self._lots), order.units("executedQty", self._lots)
        if filled > quantity:
            raise order.error("executedQty", f"must be at most the order's {order.text('origQty')}")
        return OrderUpdate(
            time=order.integer("updateTime", 1),
            symbol=self._symbol(order, "symbol"),
            client_order_id=order.text("clientOrderId"),
            order_id=order.integer("orderId", 1),
            side=order.word("side", _SIDES),
            order_type=order.word("type", _ORDER_TYPES),
            status=order.word("status", _STATUSES),
            execution="",
            quantity=quantity,
            filled=filled,
            filled_notional=self._notional(order, "cumQuote") if filled else 0,
            price=self._optional_price(order, "price"),
            time_in_force=order.word("timeInForce", _TIMES_IN_FORCE),
            reduce_only=order.flag("reduceOnly"),
            close_position=order.flag("closePosition") if order.has("closePosition") else False,
        )

    def algo_order(self, row: object) -> AlgoUpdate:
        """Read an algo object of REST."""
        algo = Fields("algoOrder", row)
        kind = "orderType" if algo.has("orderType") else "type"
        return AlgoUpdate(
            time=algo.integer("updateTime", 1),
            symbol=self._symbol(algo, "symbol"),
            client_order_id=algo.text("clientAlgoId"),
            algo_id=algo.integer("algoId", 1),
            side=algo.word("side", _SIDES),
            order_type=algo.word(kind, _ORDER_TYPES),
            status=algo.one_of("algoStatus", ALGO_STATUSES),
            quantity=self._optional_lots(algo, "quantity"),
            trigger_price=self._optional_price(algo, "triggerPrice"),
            order_id=algo.identifier("actualOrderId"),
            filled=self._optional_lots(algo, "actualQty"),
            reduce_only=algo.flag("reduceOnly"),
            close_position=algo.flag("closePosition") if algo.has("closePosition") else False,
            working_type=algo.word("workingType", _WORKING_TYPES),
        )

    def user_trade(self, row: object) -> OrderUpdate:
        """Read one of our trades (a row of GET userTrades) as an update with its fill.

        The row knows its order by the exchange's id only, and nothing of the order's size: `quantity` and `filled` are
        this trade's, the least that the order has.
        """
        trade = Fields("userTrade", row)
        lots = trade.units("qty", self._lots, 1)
        price = trade.units("price", self._prices, 1)
        return OrderUpdate(
            time=trade.integer("time", 1),
            symbol=self._symbol(trade, "symbol"),
            client_order_id="",
            order_id=trade.integer("orderId", 1),
            side=trade.word("side", _SIDES),
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

    def wallet(self, account: object) -> tuple[int, int]:
        """Read wallet and available balance of the quote asset from an account object; money."""
        for asset in Fields("account", account).parts("assets"):
            if asset.text("asset") == self.instrument.quote_asset:
                return asset.money("walletBalance"), asset.money("availableBalance")
        return 0, 0

    def position(self, rows: object, leverage: int, margin_type: str) -> PositionReport:
        """Read this symbol's one-way position from the rows of positionRisk; no row is a flat position."""
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

    def symbol_config(self, rows: object) -> tuple[int, str]:
        """Read leverage and margin type, `isolated` or `cross`, from the rows of symbolConfig."""
        for row in Fields("symbolConfig", {"rows": rows}).parts("rows"):
            if row.text("symbol") == self.instrument.symbol:
                words = {"ISOLATED": "isolated", "CROSSED": "cross"}
                return row.integer("leverage", 1), row.word("marginType", words)
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
        """Read what a fill's fee took out of the quote asset: nothing where it was paid in another."""
        paid = fields.money(amount) if fields.has(amount) else 0
        return paid if not fields.has(asset) or fields.text(asset) == self.instrument.quote_asset else 0

    def _notional(self, fields: Fields, name: str) -> int:
        """Read a notional as exact ticklots; 0 where it isn't told or was rounded."""
        if not fields.has(name):
            return 0
        ticklots, rest = divmod(fields.money(name), self.instrument.money_per_ticklot)
        return 0 if rest else ticklots


def instrument_of(exchange_info: object, symbol: str, source: str, *, any_status: bool = False) -> Instrument:
    """Read a symbol's filters from exchangeInfo, exactly.

    Bounds that are no multiple of the tick or step are moved inwards to the next one, which allows the same orders.

    Args:
        exchange_info: the decoded answer.
        symbol: such as `BTCUSDT`.
        source: where it comes from, for the results that must name it.
        any_status: also where the symbol does not trade: a position in it is tended all the same.

    Raises:
        DataError: the symbol isn't listed, does not trade, or a filter breaks its rule.
    """
    info = Fields("exchangeInfo", exchange_info)
    row = next((row for row in info.parts("symbols") if row.text("symbol") == symbol), None)
    if row is None:
        raise DataError(f"symbol must be listed at the exchange, was {symbol}")
    if row.text("status") != "TRADING" and not any_status:
        raise DataError(f"symbol must be trading, was {symbol}, which is {row.text('status')}")
    filters = {part.text("filterType"): part for part in row.parts("filters")}
    price, lot, market, notional, percent = (
        _filter(filters, symbol, kind)
        for kind in ("PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE", "MIN_NOTIONAL", "PERCENT_PRICE")
    )
    tick, step = _positive(price, "tickSize"), _positive(lot, "stepSize")
    if _positive(market, "stepSize") % step:
        raise market.error("stepSize", f"must be a multiple of LOT_SIZE's {step}")
    return Instrument(
        symbol=symbol,
        base_asset=row.text("baseAsset"),
        quote_asset=row.text("quoteAsset"),
        tick_size=tick,
        step_size=step,
        min_quantity=_inwards(lot, "minQty", step, ROUND_CEILING),
        max_quantity=_inwards(lot, "maxQty", step, ROUND_FLOOR),
        market_max_quantity=_inwards(market, "maxQty", step, ROUND_FLOOR),
        min_notional=notional.units("notional", MONEY_TEXTS),
        multiplier_up=percent.decimal("multiplierUp"),
        multiplier_down=percent.decimal("multiplierDown"),
        market_take_bound=row.decimal("marketTakeBound"),
        max_price=_inwards(price, "maxPrice", tick, ROUND_FLOOR),
        source=source,
    )


def _filter(filters: Mapping[str, Fields], symbol: str, kind: str) -> Fields:
    if kind not in filters:
        raise DataError(f"exchangeInfo of {symbol} must have the filter {kind}")
    return Fields(f"{symbol}.{kind}", filters[kind].row)


def _positive(fields: Fields, name: str) -> Decimal:
    value = fields.decimal(name)
    if value <= 0:
        raise fields.error(name, "must be positive")
    return value.normalize() if value != value.to_integral_value() else value.to_integral_value()


def _inwards(fields: Fields, name: str, unit: Decimal, rounding: str) -> int:
    return int((fields.decimal(name) / unit).to_integral_value(rounding=rounding))
