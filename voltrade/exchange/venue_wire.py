"""How the simulated venue writes facts in Binance's JSON: websocket events, REST objects, exchangeInfo.

Pure functions of facts: no socket, no clock. Types are Binance's: prices, quantities and money are texts, ids and times
are integers, flags are booleans. A user event has the facts of the REST object under short names: one table each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from voltrade.exchange.clearing import AccountChange, SettingsChange
from voltrade.exchange.market import Market
from voltrade.exchange.orders import AlgoOrder
from voltrade.exchange.shipped import E8, Bracket, shipped_exchange_info, shipped_instrument
from voltrade.exchange.simulated import QUOTE_ASSET, Balances, PositionRisk
from voltrade.model import (
    MONEY,
    NEVER,
    AlgoUpdate,
    Instrument,
    Int64s,
    MarkPrice,
    OrderUpdate,
    TimeInForce,
    Trades,
    WorkingType,
    money_text,
)

Json = dict[str, Any]

ACCOUNT_FLAGS: Mapping[str, Any] = {
    **{"feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True},
    **{"updateTime": 0, "multiAssetsMargin": False, "tradeGroupId": -1},
}

AVERAGE_DECIMALS = 5
"""Decimals of an average price beyond the tick's own."""

INTERVALS_MS: Mapping[str, int] = {
    **{f"{n}m": n * 60_000 for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 3_600_000 for n in (1, 2, 4, 6, 8, 12)},
    "1d": 86_400_000,
}
"""Kline intervals that the venue computes."""

OPEN = ("NEW", "PARTIALLY_FILLED")
"""States of an order that is still at work."""

ORDER_EVENT: Mapping[str, str] = {
    **{"s": "symbol", "c": "clientOrderId", "S": "side", "o": "type", "f": "timeInForce", "q": "origQty"},
    **{"p": "price", "ap": "avgPrice", "sp": "stopPrice", "X": "status", "i": "orderId", "z": "executedQty"},
    **{"R": "reduceOnly", "wt": "workingType", "ot": "origType", "ps": "positionSide", "cp": "closePosition"},
    **{"pP": "priceProtect", "V": "selfTradePreventionMode", "pm": "priceMatch", "gtd": "goodTillDate"},
}
ALGO_EVENT: Mapping[str, str] = {
    **{"caid": "clientAlgoId", "aid": "algoId", "at": "algoType", "o": "orderType", "s": "symbol", "S": "side"},
    **{"ps": "positionSide", "f": "timeInForce", "q": "quantity", "X": "algoStatus", "ai": "actualOrderId"},
    **{"ap": "actualPrice", "aq": "actualQty", "act": "actualType", "tp": "triggerPrice", "p": "price"},
    **{"V": "selfTradePreventionMode", "wt": "workingType", "pm": "priceMatch", "cp": "closePosition"},
    **{"pP": "priceProtect", "R": "reduceOnly", "tt": "triggerTime", "gtd": "goodTillDate"},
}
"""Short names in ORDER_TRADE_UPDATE and ALGO_UPDATE, by the names that REST has for the same facts."""

_MARGINS = ("initialMargin", "maintMargin", "positionInitialMargin", "openOrderInitialMargin")
_HELD = ("symbol", "positionSide", "positionAmt", "notional", "isolatedMargin", "isolatedWallet", "updateTime")
_PRICES = ("entryPrice", "breakEvenPrice", "markPrice", "unRealizedProfit", "liquidationPrice")
_BOOK = ("entryPrice", "breakEvenPrice", "bidNotional", "askNotional")
POSITION_FIELDS: Mapping[str, Sequence[str]] = {
    "v2/account": (*_HELD, *_MARGINS, *_BOOK, "unrealizedProfit", "leverage", "isolated", "maxNotional"),
    "v3/account": (*_HELD, "unrealizedProfit", "initialMargin", "maintMargin"),
    "v2/positionRisk": (*_HELD, *_PRICES, "leverage", "maxNotionalValue", "marginType", "isAutoAddMargin"),
    "v3/positionRisk": (*_HELD, *_PRICES, *_MARGINS, "marginAsset", "adl", "bidNotional", "askNotional"),
}
"""What each path tells of a position."""


def decimals(unit: Decimal) -> int:
    """Digits after the point that multiples of a tick or step are written with."""
    return max(0, -int(unit.as_tuple().exponent))


def texts(counts: Int64s, unit: Decimal) -> list[str]:
    """Write counts of a tick or step as decimal texts, all with the unit's digits.

    Args:
        counts: non-negative ticks or lots, shape (n,).
        unit: the tick or step.
    """
    digits = decimals(unit)
    scaled = counts * int(unit.scaleb(digits))
    if digits == 0:
        return [str(count) for count in scaled.tolist()]
    whole, part = np.divmod(scaled, 10**digits)
    return [f"{w}.{p:0{digits}d}" for w, p in zip(whole.tolist(), part.tolist(), strict=True)]


def plain(value: Decimal) -> str:
    """Write a Decimal without an exponent."""
    return format(value, "f")


def between(trades: Trades, first: int, last: int) -> Trades:
    """Return the trades of a span of time, both ends included."""
    rows = np.searchsorted(trades.time, np.array([first, min(last, NEVER - 1) + 1], dtype=np.int64))
    return trades[int(rows[0]) : int(rows[1])]


@dataclass(slots=True)
class Board:
    """What clients have been shown of a symbol: so many trades of its tape, and these mark prices."""

    wire: Wire
    trades: Trades
    sent: int = 0
    marks: list[MarkPrice] = field(default_factory=list)

    @property
    def symbol(self) -> str:
        return self.trades.symbol

    @property
    def seen(self) -> Trades:
        return self.trades[: self.sent]

    def kline_events(self, before: int, interval: str, now: int) -> list[bytes]:
        """Write `kline` events of what was sent from position `before` on: klines that closed, and the newest."""
        step = INTERVALS_MS[interval]
        recent = between(self.seen, int(self.trades.time[max(0, before - 1)]) // step * step, NEVER)
        events = []
        for row in (rows := self.wire.klines(recent, step)):
            ids = between(recent, row[0], row[0] + step - 1).id
            ends = (int(ids[0]), int(ids[-1])) if len(ids) else (-1, -1)
            events.append(orjson.dumps(self.wire.kline_event(row, interval, ends, row is not rows[-1], now)))
        return events


class Wire:
    """Writes the facts of one symbol."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument

    # --- texts of numbers --------------------------------------------------------------------------------------------

    def price(self, ticks: int) -> str:
        """Write a price; absent prices are 0 inside and `0` on the wire."""
        return plain(self.instrument.price(ticks)) if ticks else "0"

    def quantity(self, lots: int) -> str:
        return plain(self.instrument.quantity(lots)) if lots else "0"

    def notional(self, ticklots: int) -> str:
        """Write an exact product of ticks and lots in the quote asset."""
        return plain(ticklots * self.instrument.tick_size * self.instrument.step_size) if ticklots else "0"

    def average(self, ticklots: int, lots: int) -> str:
        """Write an average price with five digits more than the tick has, rounded half to even."""
        places = Decimal(1).scaleb(-decimals(self.instrument.tick_size) - AVERAGE_DECIMALS)
        exact = Decimal(ticklots) * self.instrument.tick_size / lots if lots else Decimal(0)
        return plain(exact.quantize(places, rounding=ROUND_HALF_EVEN))

    # --- market data -------------------------------------------------------------------------------------------------

    def agg_trade_events(self, trades: Trades) -> list[bytes]:
        """Write `aggTrade` events, one a trade. A tape has no single trades: `f` and `l` repeat the aggregate's id."""
        # By hand, since this is the one place where a microsecond counts.
        head, maker = f'{{"e":"aggTrade","s":"{self.instrument.symbol}","E":', ("false", "true")
        return [
            f'{head}{t},"a":{a},"p":"{p}","q":"{q}","nq":"{q}","f":{a},"l":{a},"T":{t},"m":{maker[m]}}}'.encode()
            for a, p, q, t, m in self._columns(trades)
        ]

    def agg_trade_rows(self, trades: Trades) -> list[Json]:
        """Write the rows of GET aggTrades."""
        return [
            {"a": a, "p": p, "q": q, "nq": q, "f": a, "l": a, "T": t, "m": m} for a, p, q, t, m in self._columns(trades)
        ]

    def _columns(self, trades: Trades) -> zip[tuple[int, str, str, int, bool]]:
        return zip(
            trades.id.tolist(),
            texts(trades.price, self.instrument.tick_size),
            texts(trades.quantity, self.instrument.step_size),
            trades.time.tolist(),
            trades.buyer_is_maker.tolist(),
            strict=True,
        )

    def mark_event(self, mark: MarkPrice) -> Json:
        """Write `markPriceUpdate`. The venue has one mark price; index and settle price repeat it."""
        price, rate = money_text(mark.price_e8), money_text(mark.funding_rate_e8)
        event = {"e": "markPriceUpdate", "E": mark.time, "s": mark.symbol, "p": price, "i": price, "P": price}
        return {**event, "r": rate, "T": mark.next_funding_time}

    def premium_index(self, mark: MarkPrice) -> Json:
        price = money_text(mark.price_e8)
        row = {"symbol": mark.symbol, "markPrice": price, "indexPrice": price, "estimatedSettlePrice": price}
        row |= {"lastFundingRate": money_text(mark.funding_rate_e8), "interestRate": "0.00000000"}
        return {**row, "nextFundingTime": mark.next_funding_time, "time": mark.time}

    def klines(self, trades: Trades, interval_ms: int) -> list[list[Any]]:
        """Fold trades into the rows of GET klines; an interval without a trade repeats the close before it."""
        if not len(trades):
            return []
        tick, step = self.instrument.tick_size, self.instrument.step_size
        numbers = trades.time // interval_ms
        edges = np.searchsorted(numbers, np.arange(numbers[0], numbers[-1] + 2)).tolist()
        rows: list[list[Any]] = []
        for number, (first, end) in enumerate(pairwise(edges), int(numbers[0])):
            # Of an empty interval: the trade before it, with no quantity.
            price, quantity = trades.price[min(first, end - 1) : end], trades.quantity[first:end]
            buys = ~trades.buyer_is_maker[first:end]
            ohlc = texts(np.array([price[0], price.max(), price.min(), price[-1]]), tick)
            volumes = texts(np.array([quantity.sum(), quantity[buys].sum()]), step)
            turnover = int(price[-len(quantity) :] @ quantity) if len(quantity) else 0
            bought = int(price[buys] @ quantity[buys]) if len(quantity) else 0
            row = [number * interval_ms, *ohlc, volumes[0], (number + 1) * interval_ms - 1, self.notional(turnover)]
            rows.append([*row, end - first, volumes[1], self.notional(bought), "0"])
        return rows

    def kline_event(self, row: Sequence[Any], interval: str, ids: tuple[int, int], is_closed: bool, now: int) -> Json:
        """Write `kline` from a row of `klines`; `ids` are of its first and last trade, -1 without one."""
        names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
        facts = {**dict(zip(names, row, strict=True)), "i": interval, "x": is_closed, "f": ids[0], "L": ids[1]}
        symbol = self.instrument.symbol
        return {"e": "kline", "E": now, "s": symbol, "k": {"s": symbol, **facts}}

    def ticker_price(self, last: Trades, now: int) -> Json:
        """Write the last price; `last` is a block of one trade, or empty before the first."""
        price = self.price(int(last.price[0])) if len(last) else "0"
        return {"symbol": self.instrument.symbol, "price": price, "time": int(last.time[0]) if len(last) else now}

    def ticker_day(self, trades: Trades) -> Json:
        """Write the statistics of the trades of a day; there is at least one."""
        volume, turnover = int(trades.quantity.sum()), int(trades.price @ trades.quantity)
        first, last = int(trades.price[0]), int(trades.price[-1])
        percent = Decimal(100 * (last - first)) / first
        row = {"symbol": self.instrument.symbol, "priceChange": plain(self.instrument.price(last - first))}
        row |= {"priceChangePercent": f"{percent:.3f}", "weightedAvgPrice": self.average(turnover, volume)}
        row |= {"lastPrice": self.price(last), "lastQty": self.quantity(int(trades.quantity[-1]))}
        row |= {"openPrice": self.price(first), "highPrice": self.price(int(trades.price.max()))}
        row |= {"lowPrice": self.price(int(trades.price.min())), "volume": self.quantity(volume)}
        row |= {"quoteVolume": self.notional(turnover)}
        times = {"openTime": int(trades.time[0]), "closeTime": int(trades.time[-1])}
        return {**row, **times, "firstId": int(trades.id[0]), "lastId": int(trades.id[-1]), "count": len(trades)}

    def book_ticker(self, recent: Trades, now: int) -> Json:
        """Write a synthetic best bid and ask: the last price that a taker sold at, and the last that one bought at.

        A tape has no order book. Where the two would cross, the older one gives way by a tick.
        """
        bid, bid_quantity, ask, ask_quantity = self._best(recent)
        row = {"lastUpdateId": int(recent.id[-1]) if len(recent) else 0, "symbol": self.instrument.symbol}
        row |= {"bidPrice": self.price(bid), "bidQty": self.quantity(bid_quantity)}
        row |= {"askPrice": self.price(ask), "askQty": self.quantity(ask_quantity)}
        return {**row, "time": int(recent.time[-1]) if len(recent) else now}

    def book_event(self, recent: Trades) -> Json:
        """Write `bookTicker`, synthetic as `book_ticker` is."""
        row, symbol = self.book_ticker(recent, 0), self.instrument.symbol
        names = {"u": "lastUpdateId", "s": "symbol", "b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty"}
        facts = {short: row[name] for short, name in names.items()}
        return {"e": "bookTicker", **facts, "ps": symbol, "T": row["time"], "E": row["time"]}

    def _best(self, recent: Trades) -> tuple[int, int, int, int]:
        if not len(recent):
            return 0, 0, 0, 0
        last = {bool(side): row for row, side in enumerate(recent.buyer_is_maker.tolist())}
        newest_sold = bool(recent.buyer_is_maker[-1])
        newest = int(recent.price[-1])
        older_row = last.get(not newest_sold, len(recent) - 1)
        older = int(recent.price[older_row])
        newest_quantity, older_quantity = int(recent.quantity[-1]), int(recent.quantity[older_row])
        if newest_sold:
            return newest, newest_quantity, max(older, newest + 1), older_quantity
        return min(older, newest - 1), older_quantity, newest, newest_quantity

    # --- orders ------------------------------------------------------------------------------------------------------

    def order(self, order: OrderUpdate, created: int | None = None) -> Json:
        """Write an order object; the GETs also tell when it was created."""
        filled = self.quantity(order.filled)
        row: Json = {"orderId": order.order_id, "symbol": order.symbol, "status": order.status}
        row |= {"clientOrderId": order.client_order_id, "price": self.price(order.price)}
        row |= {"avgPrice": self.average(order.filled_notional, order.filled), "origQty": self.quantity(order.quantity)}
        row |= {"executedQty": filled, "cumQty": filled, "cumQuote": self.notional(order.filled_notional)}
        row |= {"timeInForce": order.time_in_force, "type": order.order_type, "reduceOnly": order.reduce_only}
        row |= {"closePosition": order.close_position, "side": order.side.name, "positionSide": "BOTH"}
        row |= {"stopPrice": "0", "workingType": WorkingType.CONTRACT_PRICE, "priceProtect": False}
        row |= {"origType": order.order_type, "priceMatch": "NONE", "selfTradePreventionMode": "EXPIRE_MAKER"}
        row |= {"goodTillDate": 0, "updateTime": order.time}
        return row if created is None else {**row, "time": created}

    def order_event(self, order: OrderUpdate) -> Json:
        """Write ORDER_TRADE_UPDATE."""
        row = self.order(order)
        resting = self.notional((order.quantity - order.filled) * order.price) if order.status in OPEN else "0"
        facts = {short: row[name] for short, name in ORDER_EVENT.items()}
        facts |= {"x": order.execution, "l": self.quantity(order.last_quantity), "L": self.price(order.last_price)}
        facts |= {"n": money_text(order.fee), "N": order.fee_asset or self.instrument.quote_asset, "T": order.time}
        facts |= {"t": order.trade_id, "m": order.is_maker, "rp": money_text(order.realised), "er": order.expiry_reason}
        facts |= {"b": resting if order.side > 0 else "0", "a": resting if order.side < 0 else "0", "si": 0, "ss": 0}
        return {"e": "ORDER_TRADE_UPDATE", "T": order.time, "E": order.time, "o": facts}

    def trade_lite(self, fill: OrderUpdate) -> Json:
        """Write TRADE_LITE, which repeats a fill without fee and status."""
        facts = self.order_event(fill)["o"]
        names = ("s", "q", "p", "m", "c", "S", "L", "l", "t", "i")
        return {"e": "TRADE_LITE", "E": fill.time, "T": fill.time, **{name: facts[name] for name in names}}

    def algo_order(self, algo: AlgoUpdate, source: AlgoOrder) -> Json:
        """Write an algo object as its GETs do.

        Args:
            algo: the conditional order as it is told.
            source: the same as the exchange holds it, perhaps further on.
        """
        asked, child = source.request, source.child if algo.order_id else None
        row: Json = {"algoId": algo.algo_id, "clientAlgoId": algo.client_order_id, "algoType": "CONDITIONAL"}
        row |= {"orderType": algo.order_type, "symbol": algo.symbol, "side": algo.side.name, "positionSide": "BOTH"}
        row |= {"timeInForce": asked.time_in_force, "quantity": self.quantity(algo.quantity), "algoStatus": algo.status}
        row |= {"actualOrderId": str(algo.order_id or ""), "actualQty": self.quantity(algo.filled)}
        row |= {"actualPrice": self.average(child.filled_notional, child.filled) if child else "0"}
        row |= {"actualType": child.request.order_type if child else "", "triggerPrice": self.price(algo.trigger_price)}
        row |= {"price": self.price(asked.price), "icebergQuantity": None, "selfTradePreventionMode": "EXPIRE_MAKER"}
        row |= {"workingType": algo.working_type, "priceMatch": "NONE", "closePosition": algo.close_position}
        row |= {"priceProtect": asked.price_protect, "reduceOnly": algo.reduce_only}
        row |= {"activatePrice": self.price(asked.activation_price) if asked.activation_price else ""}
        row |= {"callbackRate": plain(Decimal(asked.callback_bps).scaleb(-2)) if asked.callback_bps else ""}
        row |= {"triggerTime": source.triggered if algo.status != "NEW" else 0}
        return {**row, "createTime": source.created, "updateTime": algo.time, "goodTillDate": 0}

    def algo_event(self, algo: AlgoUpdate, source: AlgoOrder) -> Json:
        """Write ALGO_UPDATE."""
        row = self.algo_order(algo, source)
        facts = {short: row[name] for short, name in ALGO_EVENT.items()}
        trails = {"AP": row["activatePrice"], "cr": row["callbackRate"]} if row["callbackRate"] else {}
        facts |= {"act": row["actualType"] or "0", **trails, "rm": algo.reason}
        return {"e": "ALGO_UPDATE", "T": algo.time, "E": algo.time, "o": facts}

    def user_trade(self, fill: OrderUpdate) -> Json:
        """Write one of our trades as GET userTrades does."""
        row = {"symbol": fill.symbol, "id": fill.trade_id, "orderId": fill.order_id, "side": fill.side.name}
        row |= {"price": self.price(fill.last_price), "qty": self.quantity(fill.last_quantity)}
        row |= {"quoteQty": self.notional(fill.last_price * fill.last_quantity)}
        row |= {"realizedPnl": money_text(fill.realised), "commission": money_text(fill.fee)}
        row |= {"commissionAsset": fill.fee_asset, "time": fill.time, "positionSide": "BOTH"}
        return {**row, "buyer": fill.side > 0, "maker": fill.is_maker}

    # --- the account -------------------------------------------------------------------------------------------------

    def position(self, path: str, risk: PositionRisk, now: int) -> Json:
        """Write a position as a path tells it; see `POSITION_FIELDS`."""
        report, isolated = risk.report, risk.report.margin_type == "isolated"
        largest, unrealised = str(risk.largest_notional // MONEY), money_text(report.unrealised)
        row: Json = {"symbol": report.symbol, "positionSide": "BOTH", "positionAmt": self.quantity(report.quantity)}
        row |= {"entryPrice": report.entry_price, "breakEvenPrice": report.entry_price, "adl": 0}
        row |= {"unRealizedProfit": unrealised, "unrealizedProfit": unrealised, "notional": money_text(risk.notional)}
        row |= {"liquidationPrice": risk.liquidation_price, "leverage": str(report.leverage), "isolated": isolated}
        row |= {"maxNotional": largest, "maxNotionalValue": largest, "marginType": report.margin_type}
        row |= {"isolatedMargin": money_text(risk.isolated_margin), "isolatedWallet": money_text(risk.isolated_wallet)}
        row |= {"isAutoAddMargin": "false", "marginAsset": self.instrument.quote_asset}
        row |= {"initialMargin": money_text(risk.position_margin + risk.order_margin)}
        row |= {"maintMargin": money_text(risk.maintenance_margin), "markPrice": money_text(risk.mark.price_e8)}
        row |= {"positionInitialMargin": money_text(risk.position_margin)}
        row |= {"openOrderInitialMargin": money_text(risk.order_margin), "bidNotional": money_text(risk.bid_notional)}
        row |= {"askNotional": money_text(risk.ask_notional), "updateTime": now if report.quantity else 0}
        return {name: row[name] for name in POSITION_FIELDS[path]}

    def symbol_config(self, risk: PositionRisk) -> Json:
        report, largest = risk.report, str(risk.largest_notional // MONEY)
        kind = "ISOLATED" if report.margin_type == "isolated" else "CROSSED"
        row = {"symbol": report.symbol, "marginType": kind, "isAutoAddMargin": False, "leverage": report.leverage}
        return {**row, "maxNotionalValue": largest}


def leverage_bracket(symbol: str, brackets: Sequence[Bracket]) -> Json:
    """Write a row of GET leverageBracket."""
    rows = [
        {"bracket": number, "initialLeverage": each.leverage, "notionalCap": each.cap // MONEY}
        | {"notionalFloor": each.floor // MONEY, "cum": each.deducted / MONEY}
        | {"maintMarginRatio": each.maintenance_e8 / E8}
        for number, each in enumerate(brackets, 1)
    ]
    return {"symbol": symbol, "notionalCoef": 1.0, "brackets": rows}


def account(balances: Balances, now: int) -> Json:
    """Write the sums of an account and its one asset, as GET account tells them."""
    sums = {"walletBalance": balances.wallet, "unrealizedProfit": balances.unrealised, "marginBalance": balances.equity}
    sums |= {"maintMargin": balances.maintenance_margin, "initialMargin": balances.initial_margin}
    sums |= {"positionInitialMargin": balances.position_margin, "openOrderInitialMargin": balances.order_margin}
    sums |= {"crossWalletBalance": balances.cross_wallet, "crossUnPnl": balances.cross_unrealised}
    totals = {f"total{name[0].upper()}{name[1:]}": money_text(amount) for name, amount in sums.items()}
    free = dict.fromkeys(("availableBalance", "maxWithdrawAmount"), money_text(balances.available))
    asset = {"asset": QUOTE_ASSET, **{name: money_text(amount) for name, amount in sums.items()}, **free}
    return {**totals, **free, "assets": [{**asset, "marginAvailable": True, "updateTime": now}]}


def balance(asset: Json) -> Json:
    """Write a row of GET balance from an asset of the account."""
    names = ("asset", "crossWalletBalance", "crossUnPnl", "availableBalance", "maxWithdrawAmount", "marginAvailable")
    row = {name: asset[name] for name in (*names, "updateTime")}
    return {"accountAlias": "voltrade", "balance": asset["walletBalance"], **row}


def account_event(change: AccountChange, wires: Mapping[str, Wire]) -> Json:
    """Write ACCOUNT_UPDATE."""
    money = {"wb": change.wallet, "cw": change.cross_wallet, "bc": change.balance_change}
    rows = []
    for each in change.positions:
        report, row = each.report, {"s": each.report.symbol, "ps": "BOTH", "mt": each.report.margin_type}
        row |= {"pa": wires[report.symbol].quantity(report.quantity), "ep": report.entry_price}
        row |= {"bep": report.entry_price, "cr": money_text(each.realised), "up": money_text(report.unrealised)}
        rows.append({**row, "iw": money_text(each.isolated_wallet)})
    balance = {"a": QUOTE_ASSET, **{name: money_text(units) for name, units in money.items()}}
    facts = {"m": change.reason, "B": [balance]}
    return {"e": "ACCOUNT_UPDATE", "T": change.time, "E": change.time, "a": {**facts, "P": rows}}


def leverage_event(change: SettingsChange) -> Json:
    """Write ACCOUNT_CONFIG_UPDATE."""
    what = {"s": change.symbol, "l": change.leverage}
    return {"e": "ACCOUNT_CONFIG_UPDATE", "E": change.time, "T": change.time, "ac": what}


def exchange_info(markets: Iterable[Market], now: int) -> Json:
    """Write exchangeInfo of an exchange with these symbols, and their filters as they are now."""
    table = shipped_exchange_info()
    shipped = {row["symbol"]: row for row in table["symbols"]}
    info = {"timezone": "UTC", "serverTime": now, "futuresType": "U_MARGINED", "rateLimits": table["rateLimits"]}
    rows = [_symbol_info(shipped[market.symbol], market) for market in markets]
    return {**info, "exchangeFilters": [], "assets": table["assets"], "symbols": rows}


def _symbol_info(row: Json, market: Market) -> Json:
    row = {**row, "status": market.status, "timeInForce": list(TimeInForce)}
    now = market.instrument
    if now == shipped_instrument(market.symbol):
        return row
    lots = {"minQty": plain(now.quantity(now.min_quantity)), "maxQty": plain(now.quantity(now.max_quantity))}
    changed = {"LOT_SIZE": lots, "MIN_NOTIONAL": {"notional": plain(Decimal(now.min_notional).scaleb(-8))}}
    changed["MARKET_LOT_SIZE"] = {"maxQty": plain(now.quantity(now.market_max_quantity))}
    changed["PRICE_FILTER"] = {"maxPrice": plain(now.price(now.max_price))}
    changed["PERCENT_PRICE"] = {"multiplierUp": plain(now.multiplier_up), "multiplierDown": plain(now.multiplier_down)}
    filters = [{**rule, **changed.get(rule["filterType"], {})} for rule in row["filters"]]
    return {**row, "filters": filters, "marketTakeBound": plain(now.market_take_bound)}
