"""The REST paths of the simulated venue.

`RestApi.handle` counts a request against the rate limits, checks key, signature and time as Binance does, and calls the
handler of the path in `tables.json`. A refusal has Binance's code and text.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from voltrade.model import (
    DAY_MS,
    AlgoUpdate,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
    WorkingType,
    money,
    money_text,
)
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.orders import Order
from voltrade.simulated.refusals import VenueRefusal, refuse_if, refused
from voltrade.simulated.symbols import bracket_rows, shipped_exchange_info, symbol_info, table
from voltrade.venue import messages
from voltrade.venue.market_data import INTERVALS_MS, MarketData, mark_message
from voltrade.venue.messages import OF_THE_CHILD, ONLY_ASKED, TRAILING_ONLY, Json, lacking
from voltrade.venue.requests import MAX_SPAN_MS, Limits, Params, Response, refusal_response, served
from voltrade.venue.streams import Streams

AHEAD_MS = 1_000
"""The most that a timestamp may be ahead of the venue's clock."""
RECV_WINDOW_MS, RECV_WINDOW_MAX_MS = 5_000, 60_000

TRADES_KEPT_MS = 90 * DAY_MS
"""Age of the oldest trade of ours that GET userTrades returns."""

MAX_BATCH = 5
"""Most orders in one request to `batchOrders`; twice as many can be cancelled."""

ORDINARY = {kind.value: kind for kind in OrderType if not kind.is_conditional}
CONDITIONAL = {kind.value: kind for kind in OrderType if kind.is_conditional}
MARGIN_TYPES = {"ISOLATED": "isolated", "CROSSED": "cross"}
SUPPORTED = {
    **{"priceMatch": ("none",), "goodTillDate": ("0",), "icebergQty": ("0",), "newOrderRespType": ("ack", "result")},
    "selfTradePreventionMode": ("none", "expire_maker", "expire_taker", "expire_both"),
}
"""Supported values, in lower case, of parameters whose other values are refused."""

LISTS_OF_IDS = {
    **dict.fromkeys(("orderIdList", "orderidlist"), "orderId"),
    **dict.fromkeys(("origClientOrderIdList", "origclientorderidlist"), "origClientOrderId"),
}
"""Parameters with a list of orders to cancel, and the parameter for a single one."""

FORCED = {"": ("autoclose-", "adl_autoclose"), "LIQUIDATION": ("autoclose-",), "ADL": ("adl_autoclose",)}
"""Prefixes of the client ids of forced orders, by `autoCloseType`."""


@dataclass
class RestApi:
    """Handles REST requests with the exchange and the market data that was sent."""

    exchange: SimulatedExchange
    market_data: Mapping[str, MarketData]
    """By symbol."""
    streams: Streams
    now: Callable[[], int]
    """The venue's clock, ms UTC."""
    keys: tuple[str, str]
    """The only valid API key, and its secret."""
    limits: Limits = field(default_factory=Limits)
    _countdowns: dict[str, int] = field(default_factory=dict)
    _received: int = 0
    _reached: int = 0

    def handle(self, method: str, path: str, key: str, params: Params, received: int = 0, reached: int = 0) -> Response:
        """Handle a request that was received, and on its way to the matching engine, now or at the times given."""
        self._received = received or self.now()
        self._reached = reached or self._received
        route = served().get((method, path))
        weight = route.weight[0 if params.get("symbol") else -1] if route else 1
        headers, throttled = self.limits.count(weight, route.orders if route else (), self.now())
        if throttled:
            return throttled
        try:
            if route is None:
                raise refused(-5000, f"{path}, Method {method}")
            self._authorise(route.security, key, params)
            body = self.body(route.handler, params) if route.handler else None
            return Response(200, route.default if body is None else body, headers)
        except VenueRefusal as refusal:
            return refusal_response(refusal, headers)

    def body(self, name: str, params: Params) -> Any:
        """Call the handler with a name, in `HANDLERS` or a method; None means the default response."""
        return HANDLERS[name](self, params) if name in HANDLERS else getattr(self, name)(params)

    def _authorise(self, security: str, key: str, params: Params) -> None:
        """Check key, signature and time as Binance does."""
        if security == "none":
            return
        refuse_if(not key, -2014)
        known_key, secret = (text.encode() for text in self.keys)
        refuse_if(not hmac.compare_digest(key.encode(), known_key), -2015)
        if security == "key":
            return
        timestamp, window = params.whole("timestamp"), params.whole("recvWindow", RECV_WINDOW_MS)
        expected = hmac.digest(secret, params.signed_text.encode(), hashlib.sha256).hex()
        refuse_if(not hmac.compare_digest(params.text("signature").encode(), expected.encode()), -1022)
        refuse_if(window > RECV_WINDOW_MAX_MS, -1131)
        if timestamp > self._received + AHEAD_MS:
            raise VenueRefusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        refuse_if(self._received - timestamp > window, -1021)

    def run_countdowns(self, now: int) -> None:
        """Cancel the open ordinary orders of symbols whose countdown is over."""
        for symbol in [symbol for symbol, end in self._countdowns.items() if end <= now]:
            del self._countdowns[symbol]
            self.exchange.cancel_all(symbol)

    # --- reading requests --------------------------------------------------------------------------------------------

    def data(self, params: Params, name: str = "symbol") -> MarketData:
        """Return the market data of the symbol, which is required."""
        symbol = params.text(name)
        refuse_if(symbol not in self.market_data, -1121)
        return self.market_data[symbol]

    def symbol(self, params: Params) -> str:
        """Return the symbol of a request; empty for all."""
        return self.data(params).symbol if params.get("symbol") else ""

    def symbols(self, params: Params) -> list[str]:
        return [self.symbol(params)] if params.get("symbol") else list(self.market_data)

    def order_ids(self, params: Params) -> dict[str, Any]:
        """Return the id of an order: the exchange's id if both are sent, as at Binance."""
        symbol = self.data(params).symbol
        if params.get("orderId"):
            return {"symbol": symbol, "order_id": params.whole("orderId")}
        if not params.get("origClientOrderId"):
            raise VenueRefusal(-1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        return {"symbol": symbol, "client_order_id": params.text("origClientOrderId")}

    def algo_ids(self, params: Params) -> dict[str, Any]:
        if params.get("algoId"):
            return {"algo_id": params.whole("algoId")}
        return {"client_order_id": params.text("clientAlgoId")}

    def ticks(self, params: Params, name: str, is_needed: bool = True) -> int:
        """Return a price in ticks; 0 if it is not needed and not sent."""
        return self.exchange.ticks(params.text("symbol"), params.number(name)) if is_needed or params.get(name) else 0

    def lots(self, params: Params) -> int:
        return self.exchange.lots(params.text("symbol"), params.number("quantity"))

    def side(self, params: Params) -> Side:
        refuse_if(params.get("positionSide", "BOTH") != "BOTH", -4061)
        return params.choice("side", Side.__members__, -1117)

    def order_request(self, params: Params) -> OrderRequest:
        """Return the order of a request to `/order`; conditional orders are refused there."""
        is_conditional = params.get("type") in CONDITIONAL or params.get("stopPrice")
        refuse_if(is_conditional or params.flag("closePosition"), -4120)
        request = self._request(params, ORDINARY, "newClientOrderId")
        refuse_if(request.order_type is OrderType.MARKET and params.get("timeInForce"), -1106, "timeinforce")
        arrives, window = self._reached + self.exchange.terms.latency_ms, params.whole("recvWindow", RECV_WINDOW_MS)
        refuse_if(arrives > params.whole("timestamp", arrives) + window, -5028)
        return request

    def algo_request(self, params: Params) -> OrderRequest:
        """Return the conditional order of a request to `/algoOrder`."""
        params.choice("algoType", {"CONDITIONAL": True}, -1130)
        refuse_if(params.flag("closePosition") and params.get("quantity"), -4137)
        return self._request(params, CONDITIONAL, "clientAlgoId")

    def _request(self, params: Params, kinds: Mapping[str, OrderType], name_of_id: str) -> OrderRequest:
        symbol = self.data(params).symbol
        params.refuse_unless(SUPPORTED)
        side, kind = self.side(params), params.choice("type", kinds, -1116)
        trails, closes_all = kind is OrderType.TRAILING_STOP_MARKET, params.flag("closePosition")
        callback = params.number("callbackRate") * 100 if trails else Decimal(0)
        usual = None if kind is OrderType.LIMIT else TimeInForce.GTC
        return OrderRequest(
            symbol=symbol,
            client_order_id=params.get(name_of_id),
            side=side,
            order_type=kind,
            quantity=0 if closes_all else self.lots(params),
            price=self.ticks(params, "price", kind.is_limit),
            time_in_force=params.choice("timeInForce", TimeInForce.__members__, -1115, usual),
            trigger_price=self.ticks(params, "triggerPrice", kind.is_conditional and not trails),
            reduce_only=params.flag("reduceOnly"),
            close_position=closes_all,
            working_type=params.choice("workingType", WorkingType.__members__, -1130, WorkingType.CONTRACT_PRICE),
            price_protect=params.flag("priceProtect"),
            activation_price=self.ticks(params, "activatePrice", False),
            callback_bps=int(callback) if callback == int(callback) else 0,
        )

    def by_symbol(self, params: Params, write: Callable[[MarketData], Json]) -> Json | list[Json]:
        """Return one object for a symbol, or a list without a symbol."""
        return write(self.data(params)) if params.get("symbol") else list(map(write, self.market_data.values()))

    def order(self, order: OrderUpdate, *, asked: bool = False) -> Json:
        """Return an order; the response to a query (`asked`) has its creation time, average price and notional."""
        message = messages.order_message("order", self.exchange.markets[order.symbol], order)
        return {**message, "time": self.created(order)} if asked else lacking(message, ONLY_ASKED)

    def created(self, order: OrderUpdate) -> int:
        return self.exchange.orders[order.order_id].created

    def orders(self, orders: Iterable[OrderUpdate]) -> list[Json]:
        return [self.order(order, asked=True) for order in orders]

    def algo(self, algo: AlgoUpdate) -> Json:
        """Return a conditional order as the response to a query; one that trails has the rate by which it does."""
        source, market = self.exchange.algos[algo.algo_id], self.exchange.markets[algo.symbol]
        message = messages.algo_message("algo_order", market.instrument, algo, source)
        return message if source.is_trailing_type else lacking(message, TRAILING_ONLY)

    def place_algo(self, params: Params) -> Json:
        algo = self.exchange.place_algo(self.algo_request(params))
        source, market = self.exchange.algos[algo.algo_id], self.exchange.markets[algo.symbol]
        return lacking(messages.algo_message("algo_order", market.instrument, algo, source), OF_THE_CHILD)

    def open_algos(self, params: Params) -> list[Json]:
        listed = map(self.algo, self.exchange.open_algo_orders(self.symbol(params)))
        return [lacking(row, ("actualQty", "actualType")) for row in listed]

    def test_order(self, params: Params) -> Json:
        """Check an order without placing it; the answer is that of an order without an id."""
        request = self.order_request(params)
        self.exchange.check_order(request)
        return self.order(Order(request, 0, self.now(), self.now(), 0, updated=self.now()).update())

    def account(self, positions: Sequence[Json]) -> Json:
        message = messages.account_message("account", self.exchange.balances(), self.exchange.updated, positions)
        return {**message, "assets": [*message["assets"], *self.assets("account asset")]}

    def balance(self, params: Params) -> list[Json]:
        first = messages.account_message("balance", self.exchange.balances(), self.exchange.updated)
        return [first, *self.assets("balance asset")]

    def assets(self, name: str) -> list[Json]:
        """Return a row for each asset other than the quote asset."""
        exchange = self.exchange
        return [messages.asset_message(name, *row, exchange.updated) for row in exchange.assets.items()]

    def flags(self) -> Json:
        return messages.render("account flags", {"multi_assets": self.exchange.multi_assets})

    def positions(self, name: str, params: Params, every: bool = False) -> list[Json]:
        """Return positions: of `every` symbol, or of symbols with a position or an open order."""
        rows = []
        for symbol in self.symbols(params):
            market, risk = self.exchange.markets[symbol], self.exchange.position_risk(symbol)
            if every or risk.quantity or market.open_orders:
                rows.append(
                    messages.position_message(name, market.instrument, risk, self.exchange.liquidation_price(symbol))
                )
        return rows

    def ticker_price(self, params: Params) -> Json | list[Json]:
        """Return last prices; the asset in which fees are paid has one too, though nobody trades it here."""
        (asset, price), symbol = self.exchange.fee_asset, params.get("symbol")
        if asset and symbol == f"{asset}USDT":
            return {"symbol": symbol, "price": money_text(price), "time": self.now()}
        return self.by_symbol(params, lambda data: data.ticker_price(self.now()))

    # --- market data -------------------------------------------------------------------------------------------------

    def agg_trades(self, params: Params) -> list[Json]:
        """Return trades that were sent, by id or time, oldest first; without either the newest."""
        data, limit = self.data(params), params.limit(500, 1000)
        if params.get("fromId"):
            first = int(np.searchsorted(data.seen.id, params.whole("fromId")))
            return data.agg_trade_rows(data.seen[first : first + limit])
        trades = data.between(*params.span(3_600_000, -1127, 1))
        return data.agg_trade_rows(trades[:limit] if params.get("startTime") else trades[-limit:])

    def klines(self, params: Params, name: str = "symbol") -> list[list[Any]]:
        data, limit = self.data(params, name), params.limit(500, 1500)
        step = params.choice("interval", INTERVALS_MS, -1120)
        begin, end = params.span()
        last = min(end, max(data.time, self.now())) // step
        first = max(-(-begin // step), int(data.trades.time[0]) // step)
        if params.get("startTime"):
            last = min(last, first + limit - 1)
        klines = data.klines(step, max(first, last - limit + 1), last)
        return [[*map(facts.get, table("venue/messages.json")["kline row"]), "0"] for facts in klines]

    def continuous_klines(self, params: Params) -> list[list[Any]]:
        params.choice("contractType", {"PERPETUAL": True}, -1130)
        return self.klines(params, "pair")

    def funding_rates(self, params: Params) -> list[Json]:
        """Return the rate at each funding time, which is that of the last mark price before it."""
        rows = [
            mark_message("funding_rate", last)
            for symbol in self.symbols(params)
            for last, first in pairwise(self.market_data[symbol].marks)
            if first.next_funding_time > last.next_funding_time
        ]
        return params.page(rows, 100, 1000, lambda row: int(row["fundingTime"]))

    # --- orders ------------------------------------------------------------------------------------------------------

    def modify_order(self, params: Params) -> Json:
        """Change price and quantity of an open limit order."""
        side, ids, reduces = self.side(params), self.order_ids(params), params.flag("reduceOnly")
        price, quantity, named = self.ticks(params, "price"), self.lots(params), params.whole("modifyId", 0)
        order = self.exchange.modify_order(
            **ids, side=side, quantity=quantity, price=price, reduces=reduces, modify_id=named
        )
        return self.order(order) | ({"modifyId": named} if named else {})

    def cancel_orders(self, params: Params) -> list[Json]:
        """Cancel several orders of a symbol."""
        symbol = self.data(params).symbol
        for name, key in LISTS_OF_IDS.items():
            if params.get(name):
                rows = [{"symbol": symbol, key: each} for each in params.rows(name, 2 * MAX_BATCH)]
                return self.one_by_one(rows, "cancel_order")
        raise refused(-1102, "orderIdList")

    def one_by_one(self, rows: Iterable[Any], handler: str) -> list[Json]:
        """Handle each request of a batch; return a response for each."""
        responses = []
        for row in rows:
            try:
                responses.append(self.body(handler, Params.of(row)))
            except VenueRefusal as refusal:
                responses.append(refusal_response(refusal).body)
        return responses

    def open_order(self, params: Params) -> Json:
        order = self.exchange.query_order(**self.order_ids(params))
        refuse_if(order.status not in messages.OPEN, -2013)
        return self.order(order, asked=True)

    def all_orders(self, params: Params) -> list[Json]:
        """Return orders of a symbol, open or ended, from an id or a time on, else the newest."""
        known = self.exchange.all_orders(self.data(params).symbol)
        wanted = [order for order in known if order.order_id >= params.whole("orderId", 0)]
        return self.orders(params.page(wanted, 500, 1000, self.created, "orderId"))

    def forced_orders(self, params: Params) -> list[Json]:
        """Return the orders by which the exchange closed our positions."""
        begins = params.choice("autoCloseType", FORCED, -1130, FORCED[""])
        known = (order for symbol in self.symbols(params) for order in self.exchange.all_orders(symbol))
        wanted = [order for order in known if order.client_order_id.startswith(begins)]
        return self.orders(params.page(wanted, 50, 100, self.created))

    def countdown(self, params: Params) -> Json:
        """Cancel all open orders of a symbol after a countdown (ms), unless it is set again before; 0 ends it."""
        symbol, wait = self.data(params).symbol, params.whole("countdownTime")
        self._countdowns.pop(symbol, None)
        if wait > 0:
            self._countdowns[symbol] = self.now() + wait
        return {"symbol": symbol, "countdownTime": str(wait)}

    def cancel_algo(self, params: Params) -> Json:
        algo = self.exchange.cancel_algo(**self.algo_ids(params))
        return {"algoId": algo.algo_id, "clientAlgoId": algo.client_order_id, "code": "200", "msg": "success"}

    def all_algos(self, params: Params) -> list[Json]:
        known = self.exchange.all_algo_orders(self.data(params).symbol)
        wanted = [algo for algo in known if algo.algo_id >= params.whole("algoId", 0)]
        page = params.page(wanted, 500, 1000, lambda algo: self.exchange.algos[algo.algo_id].created, "algoId")
        return [self.algo(algo) for algo in page]

    def set_leverage(self, params: Params) -> Json:
        self.exchange.set_leverage(self.data(params).symbol, params.whole("leverage"))
        return self.positions("leverage", params, every=True)[0]

    def change_margin(self, params: Params) -> Json:
        """Add margin to an isolated position (type 1), or remove it (2)."""
        kind, amount = params.choice("type", {"1": 1, "2": 2}, -1130), params.number("amount")
        self.exchange.change_position_margin(self.data(params).symbol, money(f"{amount:.8f}"), adding=kind == 1)
        return {"amount": float(amount), "code": 200, "msg": "Successfully modify position margin.", "type": kind}

    def sign_contract(self, params: Params) -> None:
        """Sign the agreement for which a symbol's orders are refused with -4411."""
        self.exchange.interventions.lift(-4411)

    def user_trades(self, params: Params) -> list[Json]:
        """Return our trades, oldest first: from an id on, of an order, or of a time range; without any the newest.

        They are kept for three months, and those of the last week are returned where nothing says since when.
        """
        symbol, first, order = self.data(params).symbol, params.whole("fromId", 0), params.whole("orderId", 0)
        refuse_if(params.get("fromId") and (params.get("startTime") or params.get("endTime")), -1128)
        fills = self.exchange.user_trades(symbol, after_id=max(0, first - 1))
        begins = any(params.get(name) for name in ("fromId", "startTime", "endTime", "orderId"))
        since = self.now() - (TRADES_KEPT_MS if begins else MAX_SPAN_MS)
        ours = [fill for fill in fills if order in (0, fill.order_id) and fill.time >= since]
        page, market = params.page(ours, 500, 1000, lambda fill: fill.time, "fromId"), self.exchange.markets[symbol]
        return [messages.order_message("user_trade", market, fill) for fill in page]

    def income(self, params: Params) -> list[Json]:
        """Return every change of the wallet."""
        symbol, kind = self.symbol(params), params.get("incomeType")
        rows = [
            {"symbol": each.symbol, "incomeType": each.kind, "income": money_text(each.amount), "asset": each.asset}
            | {"info": each.kind, "time": each.time, "tranId": number, "tradeId": str(each.trade_id or "")}
            for number, each in enumerate(self.exchange.income, 1)
            if symbol in ("", each.symbol) and kind in ("", each.kind)
        ]
        return params.page(rows, 100, 1000, lambda row: int(row["time"]))


HANDLERS: Mapping[str, Callable[[RestApi, Params], Any]] = {
    "time": lambda api, _: {"serverTime": api.now()},
    "exchange_info": lambda api, _: {
        **{"timezone": "UTC", "serverTime": api.now(), "futuresType": "U_MARGINED", "exchangeFilters": []},
        **{"rateLimits": api.limits.rows, "assets": shipped_exchange_info()["assets"]},
        "symbols": [
            symbol_info(market.instrument, market.rules, market.status, market.delivery_time)
            for market in api.exchange.markets.values()
        ],
    },
    "premium_index": lambda api, params: api.by_symbol(
        params, lambda data: mark_message("premium_index", api.exchange.mark(data.symbol))
    ),
    "book_ticker": lambda api, params: api.by_symbol(params, lambda data: data.book("book_ticker", api.now())),
    "depth": lambda api, params: api.data(params).book("depth", api.now()),
    "trading_schedule": lambda api, _: {"updateTime": api.now(), "marketSchedules": {}},
    "ticker_day": lambda api, params: api.by_symbol(params, lambda data: data.day(api.now())),
    "place_order": lambda api, params: api.order(api.exchange.place_order(api.order_request(params))),
    "query_order": lambda api, params: api.order(api.exchange.query_order(**api.order_ids(params)), asked=True),
    "cancel_order": lambda api, params: api.order(api.exchange.cancel_order(**api.order_ids(params))),
    "place_orders": lambda api, params: api.one_by_one(params.rows("batchOrders", MAX_BATCH), "place_order"),
    "modify_orders": lambda api, params: api.one_by_one(params.rows("batchOrders", MAX_BATCH), "modify_order"),
    "open_orders": lambda api, params: api.orders(api.exchange.open_orders(api.symbol(params))),
    "order_limits": lambda api, _: api.limits.rows[1:],
    "cancel_all": lambda api, params: api.exchange.cancel_all(api.data(params).symbol),
    "cancel_all_algos": lambda api, params: api.exchange.cancel_all_algo(api.data(params).symbol),
    "query_algo": lambda api, params: api.algo(api.exchange.query_algo(**api.algo_ids(params))),
    "account_v2": lambda api, params: (
        api.flags() | api.account(api.positions("v2/account position", params, every=True))
    ),
    "account_v3": lambda api, params: api.account(api.positions("v3/account position", params)),
    "position_risk": lambda api, params: api.positions("v2/positionRisk position", params, every=True),
    "position_risk_v3": lambda api, params: api.positions("v3/positionRisk position", params),
    "leverage_bracket": lambda api, params: [
        {"symbol": symbol, "notionalCoef": 1.0, "brackets": bracket_rows(api.exchange.markets[symbol].rules.brackets)}
        for symbol in api.symbols(params)
    ],
    "symbol_config": lambda api, params: api.positions("symbol_config", params, every=True),
    "account_config": lambda api, _: api.flags() | {"dualSidePosition": api.exchange.hedge_mode},
    "fee_burn": lambda api, _: {"feeBurn": bool(api.exchange.fee_asset[0])},
    "assets_mode": lambda api, _: {"multiAssetsMargin": api.exchange.multi_assets},
    "position_mode": lambda api, _: {"dualSidePosition": api.exchange.hedge_mode},
    "set_position_mode": lambda api, params: api.exchange.set_position_mode(params.flag("dualSidePosition", "")),
    "set_assets_mode": lambda api, params: api.exchange.set_multi_assets_mode(params.flag("multiAssetsMargin", "")),
    "listen_key": lambda api, _: {"listenKey": api.streams.renew_listen_key(api.now())},
    "keep_listen_key": lambda api, _: {"listenKey": api.streams.renew_listen_key(api.now(), only_active=True)},
    "end_listen_key": lambda api, _: api.streams.forget_listen_key(),
    "commission_rate": lambda api, params: {
        **{"symbol": api.data(params).symbol, "makerCommissionRate": money_text(api.exchange.terms.maker_fee_e8)},
        "takerCommissionRate": money_text(api.exchange.terms.taker_fee_e8),
    },
    "set_margin_type": lambda api, params: api.exchange.set_margin_type(
        api.data(params).symbol, params.choice("marginType", MARGIN_TYPES, -1130)
    ),
}
"""Handlers of one line by their name in the table of paths; other names are methods."""
