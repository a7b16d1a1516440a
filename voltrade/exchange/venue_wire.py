"""How the simulated venue writes facts in Binance's JSON: websocket events, REST objects, exchangeInfo.

Pure functions of facts: no socket, no clock. Types are Binance's: prices, quantities and money are texts, ids and times
are integers, flags are booleans. `venue` sends what is written here. TRADE_LITE is not sent: it repeats what
ORDER_TRADE_UPDATE says, without fee and status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from voltrade.exchange.shipped import Bracket, shipped_exchange_info
from voltrade.exchange.simulated import Balances
from voltrade.model import (
    MONEY,
    AccountUpdate,
    AlgoUpdate,
    Instrument,
    Int64s,
    MarkPrice,
    OrderType,
    OrderUpdate,
    PositionReport,
    TimeInForce,
    Trades,
    WorkingType,
    money_text,
)

Json = dict[str, Any]

MAX_NOTIONAL = 1_000_000_000
"""Largest position that the venue's one leverage bracket states, in the quote asset."""

ACCOUNT_FLAGS: Mapping[str, Any] = {
    "feeTier": 0,
    "canTrade": True,
    "canDeposit": True,
    "canWithdraw": True,
    "updateTime": 0,
    "multiAssetsMargin": False,
    "tradeGroupId": -1,
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


class Wire:
    """Writes the facts of one symbol."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.stream_prefix = instrument.symbol.lower()

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
        if lots == 0:
            return plain(Decimal(0).quantize(places))
        exact = Decimal(ticklots) * self.instrument.tick_size / lots
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
        price = money_text(mark.price_e8)
        return {
            "e": "markPriceUpdate",
            "E": mark.time,
            "s": mark.symbol,
            "p": price,
            "i": price,
            "P": price,
            "r": money_text(mark.funding_rate_e8),
            "T": mark.next_funding_time,
        }

    def premium_index(self, mark: MarkPrice) -> Json:
        price = money_text(mark.price_e8)
        return {
            "symbol": mark.symbol,
            "markPrice": price,
            "indexPrice": price,
            "estimatedSettlePrice": price,
            "lastFundingRate": money_text(mark.funding_rate_e8),
            "interestRate": "0.00000000",
            "nextFundingTime": mark.next_funding_time,
            "time": mark.time,
        }

    def klines(self, trades: Trades, interval_ms: int) -> list[list[Any]]:
        """Fold trades into the rows of GET klines; intervals without a trade have no row."""
        tick, step = self.instrument.tick_size, self.instrument.step_size
        opens = trades.time // interval_ms * interval_ms
        starts = np.flatnonzero(np.diff(opens, prepend=opens[:1] - 1)) if len(trades) else np.array([], dtype=np.int64)
        rows: list[list[Any]] = []
        for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(trades)], strict=False):
            price, quantity = trades.price[first:end], trades.quantity[first:end]
            taker_buy = ~trades.buyer_is_maker[first:end]
            rows.append(
                [
                    int(opens[first]),
                    *texts(np.array([price[0], price.max(), price.min(), price[-1]]), tick),
                    texts(quantity.sum(keepdims=True), step)[0],
                    int(opens[first]) + interval_ms - 1,
                    self.notional(int(price @ quantity)),
                    end - first,
                    texts(quantity[taker_buy].sum(keepdims=True), step)[0],
                    self.notional(int(price[taker_buy] @ quantity[taker_buy])),
                    "0",
                ]
            )
        return rows

    def ticker_price(self, last: Trades, now: int) -> Json:
        """Write the last price; `last` is a block of one trade, or empty before the first."""
        price = self.price(int(last.price[0])) if len(last) else "0"
        return {"symbol": self.instrument.symbol, "price": price, "time": int(last.time[0]) if len(last) else now}

    def book_ticker(self, recent: Trades, now: int) -> Json:
        """Write a synthetic best bid and ask: the last price that a taker sold at, and the last that one bought at.

        A tape has no order book. Where the two would cross, the older one gives way by a tick.
        """
        bid, bid_quantity, ask, ask_quantity = self._best(recent)
        return {
            "lastUpdateId": int(recent.id[-1]) if len(recent) else 0,
            "symbol": self.instrument.symbol,
            "bidPrice": self.price(bid),
            "bidQty": self.quantity(bid_quantity),
            "askPrice": self.price(ask),
            "askQty": self.quantity(ask_quantity),
            "time": int(recent.time[-1]) if len(recent) else now,
        }

    def book_event(self, recent: Trades) -> Json:
        """Write `bookTicker`, synthetic as `book_ticker` is."""
        row = self.book_ticker(recent, 0)
        return {
            "e": "bookTicker",
            "u": row["lastUpdateId"],
            "s": row["symbol"],
            "b": row["bidPrice"],
            "B": row["bidQty"],
            "a": row["askPrice"],
            "A": row["askQty"],
            "T": row["time"],
            "E": row["time"],
        }

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

    # --- user data ---------------------------------------------------------------------------------------------------

    def user_event(self, update: OrderUpdate | AlgoUpdate | AccountUpdate, child: OrderUpdate | None = None) -> Json:
        """Write what happened to the account as its user data event.

        Args:
            update: what happened.
            child: the ordinary order that a conditional order has become.
        """
        if isinstance(update, OrderUpdate):
            return self._order_trade_update(update)
        if isinstance(update, AlgoUpdate):
            return self._algo_update(update, child)
        return self._account_update(update)

    def _order_trade_update(self, order: OrderUpdate) -> Json:
        resting = self.notional((order.quantity - order.filled) * order.price) if order.status in OPEN else "0"
        return {
            "e": "ORDER_TRADE_UPDATE",
            "T": order.time,
            "E": order.time,
            "o": {
                "s": order.symbol,
                "c": order.client_order_id,
                "S": order.side.name,
                "o": order.order_type,
                "f": order.time_in_force,
                "q": self.quantity(order.quantity),
                "p": self.price(order.price),
                "ap": self.average(order.filled_notional, order.filled),
                "sp": "0",
                "x": order.execution,
                "X": order.status,
                "i": order.order_id,
                "l": self.quantity(order.last_quantity),
                "z": self.quantity(order.filled),
                "L": self.price(order.last_price),
                "n": money_text(order.fee),
                "N": order.fee_asset or self.instrument.quote_asset,
                "T": order.time,
                "t": order.trade_id,
                "b": resting if order.side > 0 else "0",
                "a": resting if order.side < 0 else "0",
                "m": order.is_maker,
                "R": order.reduce_only,
                "wt": WorkingType.CONTRACT_PRICE,
                "ot": order.order_type,
                "ps": "BOTH",
                "cp": order.close_position,
                "rp": money_text(order.realised),
                "pP": False,
                "si": 0,
                "ss": 0,
                "V": "EXPIRE_MAKER",
                "pm": "NONE",
                "gtd": 0,
                "er": order.expiry_reason,
            },
        }

    def _algo_update(self, algo: AlgoUpdate, child: OrderUpdate | None) -> Json:
        return {
            "e": "ALGO_UPDATE",
            "T": algo.time,
            "E": algo.time,
            "o": {
                "caid": algo.client_order_id,
                "aid": algo.algo_id,
                "at": "CONDITIONAL",
                "o": algo.order_type,
                "s": algo.symbol,
                "S": algo.side.name,
                "ps": "BOTH",
                "f": "GTC",
                "q": self.quantity(algo.quantity),
                "X": algo.status,
                "ai": str(algo.order_id or ""),
                "ap": self.average(child.filled_notional, child.filled) if child and algo.filled else "0",
                "aq": self.quantity(algo.filled),
                "act": OrderType.MARKET if algo.order_id else "0",
                "tp": self.price(algo.trigger_price),
                "p": "0",
                "V": "EXPIRE_MAKER",
                "wt": algo.working_type,
                "pm": "NONE",
                "cp": algo.close_position,
                "pP": False,
                "R": algo.reduce_only,
                "tt": algo.time if algo.order_id else 0,
                "gtd": 0,
                "rm": algo.reason,
            },
        }

    def _account_update(self, account: AccountUpdate) -> Json:
        return {
            "e": "ACCOUNT_UPDATE",
            "T": account.time,
            "E": account.time,
            "a": {
                "m": account.reason,
                "B": [
                    {
                        "a": self.instrument.quote_asset,
                        "wb": money_text(account.wallet),
                        "cw": money_text(account.wallet - sum(map(self.isolated_wallet, account.positions))),
                        "bc": "0",
                    }
                ],
                "P": [self._position_change(position) for position in account.positions],
            },
        }

    def _position_change(self, position: PositionReport) -> Json:
        return {
            "s": position.symbol,
            "pa": self.quantity(position.quantity),
            "ep": position.entry_price,
            "bep": position.entry_price,
            "cr": "0",
            "up": money_text(position.unrealised),
            "mt": position.margin_type,
            "iw": money_text(self.isolated_wallet(position)),
            "ps": "BOTH",
        }

    def leverage_event(self, leverage: int, now: int) -> Json:
        """Write ACCOUNT_CONFIG_UPDATE."""
        change = {"s": self.instrument.symbol, "l": leverage}
        return {"e": "ACCOUNT_CONFIG_UPDATE", "E": now, "T": now, "ac": change}

    def isolated_wallet(self, position: PositionReport) -> int:
        """Money set aside for an isolated position: its entry cost over the leverage."""
        if position.margin_type != "isolated" or not position.quantity:
            return 0
        cost = abs(position.quantity) * self.instrument.step_size * Decimal(position.entry_price) / position.leverage
        return int(cost.scaleb(8).to_integral_value(rounding=ROUND_CEILING))

    # --- REST objects ------------------------------------------------------------------------------------------------

    def order(self, order: OrderUpdate, created: int | None = None) -> Json:
        """Write an order object; the GETs also tell when it was created."""
        written: Json = {
            "orderId": order.order_id,
            "symbol": order.symbol,
            "status": order.status,
            "clientOrderId": order.client_order_id,
            "price": self.price(order.price),
            "avgPrice": self.average(order.filled_notional, order.filled),
            "origQty": self.quantity(order.quantity),
            "executedQty": self.quantity(order.filled),
            "cumQty": self.quantity(order.filled),
            "cumQuote": self.notional(order.filled_notional),
            "timeInForce": order.time_in_force,
            "type": order.order_type,
            "reduceOnly": order.reduce_only,
            "closePosition": order.close_position,
            "side": order.side.name,
            "positionSide": "BOTH",
            "stopPrice": "0",
            "workingType": WorkingType.CONTRACT_PRICE,
            "priceProtect": False,
            "origType": order.order_type,
            "priceMatch": "NONE",
            "selfTradePreventionMode": "EXPIRE_MAKER",
            "goodTillDate": 0,
            "updateTime": order.time,
        }
        return written if created is None else {**written, "time": created}

    def algo_order(self, algo: AlgoUpdate, created: int, triggered: int, child: OrderUpdate | None) -> Json:
        """Write an algo object as its GETs do.

        Args:
            algo: the conditional order.
            created: when it was placed, ms UTC.
            triggered: when it triggered, 0 before.
            child: the ordinary order that it has become.
        """
        return {
            "algoId": algo.algo_id,
            "clientAlgoId": algo.client_order_id,
            "algoType": "CONDITIONAL",
            "orderType": algo.order_type,
            "symbol": algo.symbol,
            "side": algo.side.name,
            "positionSide": "BOTH",
            "timeInForce": "GTC",
            "quantity": self.quantity(algo.quantity),
            "algoStatus": algo.status,
            "actualOrderId": str(algo.order_id or ""),
            "actualPrice": self.average(child.filled_notional, child.filled) if child else "0",
            "actualQty": self.quantity(algo.filled),
            "actualType": OrderType.MARKET if algo.order_id else "",
            "triggerPrice": self.price(algo.trigger_price),
            "price": "0",
            "icebergQuantity": None,
            "selfTradePreventionMode": "EXPIRE_MAKER",
            "workingType": algo.working_type,
            "priceMatch": "NONE",
            "closePosition": algo.close_position,
            "priceProtect": False,
            "reduceOnly": algo.reduce_only,
            "activatePrice": "",
            "callbackRate": "",
            "createTime": created,
            "updateTime": algo.time,
            "triggerTime": triggered,
            "goodTillDate": 0,
        }

    def user_trade(self, fill: OrderUpdate) -> Json:
        """Write one of our trades as GET userTrades does."""
        return {
            "symbol": fill.symbol,
            "id": fill.trade_id,
            "orderId": fill.order_id,
            "side": fill.side.name,
            "price": self.price(fill.last_price),
            "qty": self.quantity(fill.last_quantity),
            "realizedPnl": money_text(fill.realised),
            "quoteQty": self.notional(fill.last_price * fill.last_quantity),
            "commission": money_text(fill.fee),
            "commissionAsset": fill.fee_asset or self.instrument.quote_asset,
            "time": fill.time,
            "positionSide": "BOTH",
            "buyer": fill.side > 0,
            "maker": fill.is_maker,
        }

    def account(self, balances: Balances, position: PositionReport, mark: MarkPrice, now: int) -> Json:
        """Write the account object: the fields of v2, which v3 has a part of."""
        asset = self._asset(balances, position, now)
        sums = (
            *("initialMargin", "maintMargin", "walletBalance", "unrealizedProfit", "marginBalance"),
            *("positionInitialMargin", "openOrderInitialMargin", "crossWalletBalance", "crossUnPnl"),
        )
        return {
            **ACCOUNT_FLAGS,
            **{f"total{name[0].upper()}{name[1:]}": asset[name] for name in sums},
            "availableBalance": asset["availableBalance"],
            "maxWithdrawAmount": asset["maxWithdrawAmount"],
            "assets": [asset],
            "positions": [self._account_position(balances, position, mark, now)],
        }

    def _asset(self, balances: Balances, position: PositionReport, now: int) -> Json:
        isolated = self.isolated_wallet(position)
        return {
            "asset": self.instrument.quote_asset,
            "walletBalance": money_text(balances.wallet),
            "unrealizedProfit": money_text(balances.unrealised),
            "marginBalance": money_text(balances.equity),
            "maintMargin": money_text(balances.maintenance_margin),
            "initialMargin": money_text(balances.initial_margin),
            "positionInitialMargin": money_text(balances.position_margin),
            "openOrderInitialMargin": money_text(balances.order_margin),
            "crossWalletBalance": money_text(balances.wallet - isolated),
            "crossUnPnl": money_text(0 if isolated else balances.unrealised),
            "availableBalance": money_text(balances.available),
            "maxWithdrawAmount": money_text(balances.available),
            "marginAvailable": True,
            "updateTime": now,
        }

    def _account_position(self, balances: Balances, position: PositionReport, mark: MarkPrice, now: int) -> Json:
        isolated = self.isolated_wallet(position)
        return {
            "symbol": position.symbol,
            "positionSide": "BOTH",
            "positionAmt": self.quantity(position.quantity),
            "entryPrice": position.entry_price,
            "breakEvenPrice": position.entry_price,
            "unrealizedProfit": money_text(position.unrealised),
            "leverage": str(position.leverage),
            "isolated": position.margin_type == "isolated",
            "isolatedMargin": money_text(isolated + position.unrealised if isolated else 0),
            "isolatedWallet": money_text(isolated),
            "notional": money_text(self.instrument.value_at_mark(position.quantity, mark.price_e8)),
            "initialMargin": money_text(balances.initial_margin),
            "maintMargin": money_text(balances.maintenance_margin),
            "positionInitialMargin": money_text(balances.position_margin),
            "openOrderInitialMargin": money_text(balances.order_margin),
            "maxNotional": str(MAX_NOTIONAL),
            "bidNotional": "0",
            "askNotional": "0",
            "updateTime": now if position.quantity else 0,
        }

    def balance(self, balances: Balances, position: PositionReport, now: int) -> Json:
        """Write a row of GET balance."""
        asset = self._asset(balances, position, now)
        elsewhere = ("walletBalance", "unrealizedProfit", "marginBalance", "maintMargin")
        row = {name: value for name, value in asset.items() if name not in elsewhere and "nitialMargin" not in name}
        return {"accountAlias": "voltrade", "balance": asset["walletBalance"], **row}

    def position_risk(self, balances: Balances, position: PositionReport, mark: MarkPrice) -> Json:
        """Write a row of positionRisk: the fields of v2 and v3. Liquidation is not modelled: its price is 0."""
        isolated = self.isolated_wallet(position)
        return {
            "symbol": position.symbol,
            "positionSide": "BOTH",
            "positionAmt": self.quantity(position.quantity),
            "entryPrice": position.entry_price,
            "breakEvenPrice": position.entry_price,
            "markPrice": money_text(mark.price_e8),
            "unRealizedProfit": money_text(position.unrealised),
            "liquidationPrice": "0",
            "leverage": str(position.leverage),
            "maxNotionalValue": str(MAX_NOTIONAL),
            "marginType": position.margin_type,
            "isolatedMargin": money_text(isolated + position.unrealised if isolated else 0),
            "isAutoAddMargin": "false",
            "notional": money_text(self.instrument.value_at_mark(position.quantity, mark.price_e8)),
            "isolatedWallet": money_text(isolated),
            "marginAsset": self.instrument.quote_asset,
            "initialMargin": money_text(balances.initial_margin),
            "maintMargin": money_text(balances.maintenance_margin),
            "positionInitialMargin": money_text(balances.position_margin),
            "openOrderInitialMargin": money_text(balances.order_margin),
            "adl": 0,
            "bidNotional": "0",
            "askNotional": "0",
            "updateTime": mark.time,
        }

    def leverage_bracket(self, brackets: Sequence[Bracket]) -> Json:
        """Write a row of GET leverageBracket."""
        rows = [
            {
                "bracket": number,
                "initialLeverage": bracket.leverage,
                "notionalCap": bracket.cap // MONEY,
                "notionalFloor": bracket.floor // MONEY,
                "maintMarginRatio": bracket.maintenance_e8 / MONEY,
                "cum": bracket.deducted / MONEY,
            }
            for number, bracket in enumerate(brackets, 1)
        ]
        return {"symbol": self.instrument.symbol, "notionalCoef": 1.0, "brackets": rows}

    def symbol_config(self, position: PositionReport) -> Json:
        return {
            "symbol": position.symbol,
            "marginType": "ISOLATED" if position.margin_type == "isolated" else "CROSSED",
            "isAutoAddMargin": False,
            "leverage": position.leverage,
            "maxNotionalValue": str(MAX_NOTIONAL),
        }

    def income(self, fill: OrderUpdate) -> list[Json]:
        """Write what one of our trades brought and cost, as rows of GET income."""
        amounts = {"REALIZED_PNL": fill.realised, "COMMISSION": -fill.fee}
        return [
            {
                "symbol": fill.symbol,
                "incomeType": kind,
                "income": money_text(amount),
                "asset": self.instrument.quote_asset,
                "info": kind,
                "time": fill.time,
                "tranId": 2 * fill.trade_id + number,
                "tradeId": str(fill.trade_id),
            }
            for number, (kind, amount) in enumerate(amounts.items())
            if amount
        ]

    def exchange_info(self, now: int) -> Json:
        """Write exchangeInfo of an exchange with this one symbol, offering only the order types that it models."""
        table = shipped_exchange_info()
        symbol = next(row for row in table["symbols"] if row["symbol"] == self.instrument.symbol)
        return {
            "timezone": "UTC",
            "serverTime": now,
            "futuresType": "U_MARGINED",
            "rateLimits": table["rateLimits"],
            "exchangeFilters": [],
            "assets": table["assets"],
            "symbols": [{**symbol, "orderTypes": list(OrderType), "timeInForce": list(TimeInForce)}],
        }
