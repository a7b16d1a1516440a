"""The REST half of the simulated venue: what each path checks and answers.

`RestApi.answer` counts a request against the limits, checks key, signature and time as Binance does, and calls the
answer that `venue_tables.json` names for the path. What is refused carries Binance's code and text.
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
from voltrade.simulated.exchange import QUOTE_ASSET, SimulatedExchange
from voltrade.simulated.refusals import VenueRefusal, refuse_if, refused
from voltrade.simulated.symbols import bracket_rows, shipped_exchange_info, symbol_info, table
from voltrade.venue import wire
from voltrade.venue.market_data import INTERVALS_MS, Board, mark_message
from voltrade.venue.requests import Answer, Limits, Params, refusal_answer, served
from voltrade.venue.streams import Streams
from voltrade.venue.wire import Json

AHEAD_MS = 1_000
"""A timestamp may be this far ahead of the venue's clock."""
RECV_WINDOW_MS, RECV_WINDOW_MAX_MS = 5_000, 60_000

BATCH_MOST = 5
"""Most orders of one request to `batchOrders`; ten may be cancelled."""

ORDINARY = {kind.value: kind for kind in OrderType if not kind.is_conditional}
CONDITIONAL = {kind.value: kind for kind in OrderType if kind.is_conditional}
MARGIN_TYPES = {"ISOLATED": "isolated", "CROSSED": "cross"}
UNMODELLED = {
    **{"priceMatch": ("none",), "goodTillDate": ("0",), "icebergQty": ("0",), "newOrderRespType": ("ack", "result")},
    "selfTradePreventionMode": ("none", "expire_maker", "expire_taker", "expire_both"),
}
"""Values, in lower case, that the venue takes for parameters whose other values it does not model."""

LISTS_OF_IDS = {
    **dict.fromkeys(("orderIdList", "orderidlist"), "orderId"),
    **dict.fromkeys(("origClientOrderIdList", "origclientorderidlist"), "origClientOrderId"),
}
"""How clients write the lists of orders to cancel, with what one of them is called."""

FORCED = {"": ("autoclose-", "adl_autoclose"), "LIQUIDATION": ("autoclose-",), "ADL": ("adl_autoclose",)}
"""How the client ids begin of orders by which the exchange closes a position, by `autoCloseType`."""


@dataclass
class RestApi:
    """Answers REST requests from the exchange and from what clients may know of the tapes."""

    exchange: SimulatedExchange
    boards: Mapping[str, Board]
    """By symbol, what clients were shown."""
    streams: Streams
    now: Callable[[], int]
    """The venue's clock, ms UTC."""
    keys: tuple[str, str]
    """The one API key that is known, and the secret that signs its requests."""
    limits: Limits = field(default_factory=Limits)
    _countdowns: dict[str, int] = field(default_factory=dict)
    _received: int = 0

    def answer(self, method: str, path: str, key: str, params: Params, received: int = 0) -> Answer:
        """Carry out a request, now or as one that came at a time; return HTTP status, JSON and headers."""
        self._received = received or self.now()
        route = served().get((method, path))
        weight = route.weight[0 if params.get("symbol") else -1] if route else 1
        headers, throttled = self.limits.count(weight, route.orders if route else (), self.now())
        if throttled:
            return throttled
        try:
            if route is None:
                raise refused(-5000, f"{path}, Method {method}")
            self._authorise(route.security, key, params)
            told = self.body(route.answer, params) if route.answer else None
            return Answer(200, route.told if told is None else told, headers)
        except VenueRefusal as refusal:
            return refusal_answer(refusal, headers)

    def body(self, name: str, params: Params) -> Any:
        """Carry out what the table of paths names, a line of `ANSWERS` or a method; None: there is nothing to tell."""
        return ANSWERS[name](self, params) if name in ANSWERS else getattr(self, name)(params)

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

    def pass_time(self, now: int) -> None:
        """Cancel the open orders of symbols whose countdown is over. Conditional orders stay."""
        for symbol in [symbol for symbol, end in self._countdowns.items() if end <= now]:
            del self._countdowns[symbol]
            self.exchange.cancel_all(symbol)

    # --- reading requests --------------------------------------------------------------------------------------------

    def board(self, params: Params, name: str = "symbol") -> Board:
        """Return the board of the symbol, which is mandatory."""
        symbol = params.text(name)
        refuse_if(symbol not in self.boards, -1121)
        return self.boards[symbol]

    def symbol(self, params: Params) -> str:
        """Return the symbol that is asked for; empty for all."""
        return self.board(params).symbol if params.get("symbol") else ""

    def symbols(self, params: Params) -> list[str]:
        return [self.symbol(params)] if params.get("symbol") else list(self.boards)

    def order_ids(self, params: Params) -> dict[str, Any]:
        """Read which order is meant: the exchange's id where both are sent, as at Binance."""
        symbol = self.board(params).symbol
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
        """Read a price; 0 where one that is not needed is not sent."""
        return self.exchange.ticks(params.text("symbol"), params.number(name)) if is_needed or params.get(name) else 0

    def lots(self, params: Params) -> int:
        return self.exchange.lots(params.text("symbol"), params.number("quantity"))

    def side(self, params: Params) -> Side:
        refuse_if(params.get("positionSide", "BOTH") != "BOTH", -4061)
        return params.choice("side", Side.__members__, -1117)

    def order_request(self, params: Params) -> OrderRequest:
        """Read an order for `/order`; conditional ones belong to the algo endpoint."""
        is_conditional = params.get("type") in CONDITIONAL or params.get("stopPrice")
        refuse_if(is_conditional or params.flag("closePosition"), -4120)
        request = self._request(params, ORDINARY, "newClientOrderId")
        refuse_if(request.order_type is OrderType.MARKET and params.get("timeInForce"), -1106, "timeinforce")
        arrives, window = self._received + self.exchange.terms.latency_ms, params.whole("recvWindow", RECV_WINDOW_MS)
        refuse_if(arrives > params.whole("timestamp", arrives) + window, -5028)
        return request

    def algo_request(self, params: Params) -> OrderRequest:
        """Read a conditional order for `/algoOrder`."""
        params.choice("algoType", {"CONDITIONAL": True}, -1130)
        refuse_if(params.flag("closePosition") and params.get("quantity"), -4137)
        return self._request(params, CONDITIONAL, "clientAlgoId")

    def _request(self, params: Params, kinds: Mapping[str, OrderType], name_of_id: str) -> OrderRequest:
        symbol = self.board(params).symbol
        params.refuse_unless(UNMODELLED)
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

    def by_symbol(self, params: Params, write: Callable[[Board], Json]) -> Json | list[Json]:
        """Answer one object where a symbol is named, else a list."""
        return write(self.board(params)) if params.get("symbol") else list(map(write, self.boards.values()))

    def order(self, order: OrderUpdate, *, asked: bool = False) -> Json:
        """Write an order; one that was asked for also tells when it was made."""
        message = wire.order_message("order", self.exchange.markets[order.symbol], order)
        return {**message, "time": self.created(order)} if asked else message

    def created(self, order: OrderUpdate) -> int:
        return self.exchange.orders[order.order_id].created

    def orders(self, orders: Iterable[OrderUpdate]) -> list[Json]:
        return [self.order(order, asked=True) for order in orders]

    def algo(self, algo: AlgoUpdate) -> Json:
        source, market = self.exchange.algos[algo.algo_id], self.exchange.markets[algo.symbol]
        return wire.algo_message("algo_order", market.instrument, algo, source)

    def account(self, name: str, positions: Sequence[Json] = ()) -> Json:
        return wire.account_message(name, self.exchange.balances(), self.exchange.updated, positions)

    def positions(self, name: str, params: Params, every: bool = False) -> list[Json]:
        """Write positions: of `every` symbol, or of those with a position or an open order."""
        rows = []
        for symbol in self.symbols(params):
            market, risk = self.exchange.markets[symbol], self.exchange.position_risk(symbol)
            if every or risk.quantity or market.open_orders:
                rows.append(
                    wire.position_message(name, market.instrument, risk, self.exchange.liquidation_price(symbol))
                )
        return rows

    # --- market data -------------------------------------------------------------------------------------------------

    def agg_trades(self, params: Params) -> list[Json]:
        """Trades by id or time, oldest first; without either the newest. Nothing that was not sent yet is shown."""
        board, limit = self.board(params), params.limit(500, 1000)
        if params.get("fromId"):
            first = int(np.searchsorted(board.seen.id, params.whole("fromId")))
            return board.agg_trade_rows(board.seen[first : first + limit])
        trades = board.between(*params.span(3_600_000, -1127, 1))
        return board.agg_trade_rows(trades[:limit] if params.get("startTime") else trades[-limit:])

    def klines(self, params: Params, name: str = "symbol") -> list[list[Any]]:
        board, limit = self.board(params, name), params.limit(500, 1500)
        step = params.choice("interval", INTERVALS_MS, -1120)
        begin, end = params.span()
        last = min(end, max(board.time, self.now())) // step
        first = max(-(-begin // step), int(board.trades.time[0]) // step)
        if params.get("startTime"):
            last = min(last, first + limit - 1)
        klines = board.klines(step, max(first, last - limit + 1), last)
        return [[*map(facts.get, table("venue/messages.json")["kline row"]), "0"] for facts in klines]

    def continuous_klines(self, params: Params) -> list[list[Any]]:
        params.choice("contractType", {"PERPETUAL": True}, -1130)
        return self.klines(params, "pair")

    def funding_rates(self, params: Params) -> list[Json]:
        """What was paid at each funding time: the rate of the last mark before it."""
        rows = [
            mark_message("funding_rate", last)
            for symbol in self.symbols(params)
            for last, first in pairwise(self.boards[symbol].marks)
            if first.next_funding_time > last.next_funding_time
        ]
        return params.page(rows, 100, 1000, lambda row: int(row["fundingTime"]))

    # --- orders ------------------------------------------------------------------------------------------------------

    def modify_order(self, params: Params) -> Json:
        """Give an open limit order another price and quantity."""
        side, ids, reduces = self.side(params), self.order_ids(params), params.flag("reduceOnly")
        price, quantity = self.ticks(params, "price"), self.lots(params)
        return self.order(self.exchange.modify_order(**ids, side=side, quantity=quantity, price=price, reduces=reduces))

    def cancel_orders(self, params: Params) -> list[Json]:
        """Cancel several orders of a symbol."""
        symbol = self.board(params).symbol
        for name, key in LISTS_OF_IDS.items():
            if params.get(name):
                rows = [{"symbol": symbol, key: each} for each in params.rows(name, 2 * BATCH_MOST)]
                return self.one_by_one(rows, "cancel_order")
        raise refused(-1102, "orderIdList")

    def one_by_one(self, rows: Iterable[Any], answer: str) -> list[Json]:
        """Carry out the orders of a batch; each is answered for itself."""
        answers = []
        for row in rows:
            try:
                answers.append(self.body(answer, Params.of(row)))
            except VenueRefusal as refusal:
                answers.append(refusal_answer(refusal).body)
        return answers

    def open_order(self, params: Params) -> Json:
        order = self.exchange.query_order(**self.order_ids(params))
        refuse_if(order.status not in wire.OPEN, -2013)
        return self.order(order, asked=True)

    def all_orders(self, params: Params) -> list[Json]:
        """Orders of a symbol, open or ended, from an id or a time on, else the newest."""
        known = self.exchange.all_orders(self.board(params).symbol)
        wanted = [order for order in known if order.order_id >= params.whole("orderId", 0)]
        return self.orders(params.page(wanted, 500, 1000, self.created, "orderId"))

    def forced_orders(self, params: Params) -> list[Json]:
        """Orders by which the exchange closed a position of ours."""
        begins = params.choice("autoCloseType", FORCED, -1130, FORCED[""])
        known = (order for symbol in self.symbols(params) for order in self.exchange.all_orders(symbol))
        wanted = [order for order in known if order.client_order_id.startswith(begins)]
        return self.orders(params.page(wanted, 50, 100, self.created))

    def countdown(self, params: Params) -> Json:
        """Cancel all open orders of a symbol after so many ms, unless asked again before; 0 ends the countdown."""
        symbol, wait = self.board(params).symbol, params.whole("countdownTime")
        self._countdowns.pop(symbol, None)
        if wait > 0:
            self._countdowns[symbol] = self.now() + wait
        return {"symbol": symbol, "countdownTime": str(wait)}

    def cancel_algo(self, params: Params) -> Json:
        algo = self.exchange.cancel_algo(**self.algo_ids(params))
        return {"algoId": algo.algo_id, "clientAlgoId": algo.client_order_id, "code": "200", "msg": "success"}

    def all_algos(self, params: Params) -> list[Json]:
        known = self.exchange.all_algo_orders(self.board(params).symbol)
        wanted = [algo for algo in known if algo.algo_id >= params.whole("algoId", 0)]
        page = params.page(wanted, 500, 1000, lambda algo: self.exchange.algos[algo.algo_id].created, "algoId")
        return [self.algo(algo) for algo in page]

    def set_leverage(self, params: Params) -> Json:
        self.exchange.set_leverage(self.board(params).symbol, params.whole("leverage"))
        return self.positions("leverage", params, every=True)[0]

    def change_margin(self, params: Params) -> Json:
        """Add margin to an isolated position (type 1), or take some off (2)."""
        kind, amount = params.choice("type", {"1": 1, "2": 2}, -1130), params.number("amount")
        self.exchange.change_position_margin(self.board(params).symbol, money(f"{amount:.8f}"), adding=kind == 1)
        return {"amount": float(amount), "code": 200, "msg": "Successfully modify position margin.", "type": kind}

    def user_trades(self, params: Params) -> list[Json]:
        """Our trades, oldest first: from an id on, of an order, or of a span of time; without any the newest."""
        symbol, first, order = self.board(params).symbol, params.whole("fromId", 0), params.whole("orderId", 0)
        refuse_if(params.get("fromId") and (params.get("startTime") or params.get("endTime")), -1128)
        fills = self.exchange.user_trades(symbol, after_id=max(0, first - 1))
        ours = [fill for fill in fills if order in (0, fill.order_id)]
        page, market = params.page(ours, 500, 1000, lambda fill: fill.time, "fromId"), self.exchange.markets[symbol]
        return [wire.order_message("user_trade", market, fill) for fill in page]

    def income(self, params: Params) -> list[Json]:
        """Every movement of the wallet."""
        symbol, kind = self.symbol(params), params.get("incomeType")
        rows = [
            {"symbol": each.symbol, "incomeType": each.kind, "income": money_text(each.amount), "asset": QUOTE_ASSET}
            | {"info": each.kind, "time": each.time, "tranId": number, "tradeId": str(each.trade_id or "")}
            for number, each in enumerate(self.exchange.income, 1)
            if symbol in ("", each.symbol) and kind in ("", each.kind)
        ]
        return params.page(rows, 100, 1000, lambda row: int(row["time"]))


ANSWERS: Mapping[str, Callable[[RestApi, Params], Any]] = {
    "time": lambda api, _: {"serverTime": api.now()},
    "exchange_info": lambda api, _: {
        **{"timezone": "UTC", "serverTime": api.now(), "futuresType": "U_MARGINED", "exchangeFilters": []},
        **{name: shipped_exchange_info()[name] for name in ("rateLimits", "assets")},
        "symbols": [symbol_info(market.instrument, market.status) for market in api.exchange.markets.values()],
    },
    "premium_index": lambda api, params: api.by_symbol(
        params, lambda board: mark_message("premium_index", api.exchange.mark(board.symbol))
    ),
    "ticker_price": lambda api, params: api.by_symbol(params, lambda board: board.ticker_price(api.now())),
    "book_ticker": lambda api, params: api.by_symbol(params, lambda board: board.book("book_ticker", api.now())),
    "ticker_day": lambda api, params: api.by_symbol(params, lambda board: board.day(api.now())),
    "place_order": lambda api, params: api.order(api.exchange.place_order(api.order_request(params))),
    "query_order": lambda api, params: api.order(api.exchange.query_order(**api.order_ids(params)), asked=True),
    "cancel_order": lambda api, params: api.order(api.exchange.cancel_order(**api.order_ids(params))),
    "place_orders": lambda api, params: api.one_by_one(params.rows("batchOrders", BATCH_MOST), "place_order"),
    "modify_orders": lambda api, params: api.one_by_one(params.rows("batchOrders", BATCH_MOST), "modify_order"),
    "open_orders": lambda api, params: api.orders(api.exchange.open_orders(api.symbol(params))),
    "order_limits": lambda api, _: shipped_exchange_info()["rateLimits"][1:],
    "test_order": lambda api, params: api.exchange.check_order(api.order_request(params)),
    "cancel_all": lambda api, params: api.exchange.cancel_all(api.board(params).symbol),
    "cancel_all_algos": lambda api, params: api.exchange.cancel_all_algo(api.board(params).symbol),
    "place_algo": lambda api, params: api.algo(api.exchange.place_algo(api.algo_request(params))),
    "query_algo": lambda api, params: api.algo(api.exchange.query_algo(**api.algo_ids(params))),
    "open_algos": lambda api, params: list(map(api.algo, api.exchange.open_algo_orders(api.symbol(params)))),
    "account_v2": lambda api, params: (
        wire.written("account flags", {})
        | api.account("account", api.positions("v2/account position", params, every=True))
    ),
    "account_v3": lambda api, params: api.account("account", api.positions("v3/account position", params)),
    "balance": lambda api, _: [api.account("balance")],
    "position_risk": lambda api, params: api.positions("v2/positionRisk position", params, every=True),
    "position_risk_v3": lambda api, params: api.positions("v3/positionRisk position", params),
    "leverage_bracket": lambda api, params: [
        {"symbol": symbol, "notionalCoef": 1.0, "brackets": bracket_rows(api.exchange.markets[symbol].rules.brackets)}
        for symbol in api.symbols(params)
    ],
    "symbol_config": lambda api, params: api.positions("symbol_config", params, every=True),
    "account_config": lambda api, _: wire.written("account flags", {}) | {"dualSidePosition": api.exchange.hedge_mode},
    "position_mode": lambda api, _: {"dualSidePosition": api.exchange.hedge_mode},
    "set_position_mode": lambda api, params: api.exchange.set_position_mode(params.flag("dualSidePosition", "")),
    "set_assets_mode": lambda api, params: api.exchange.set_multi_assets_mode(params.flag("multiAssetsMargin", "")),
    "listen_key": lambda api, _: {"listenKey": api.streams.renew_listen_key(api.now())},
    "keep_listen_key": lambda api, _: {"listenKey": api.streams.renew_listen_key(api.now(), only_active=True)},
    "end_listen_key": lambda api, _: api.streams.forget_listen_key(),
    "commission_rate": lambda api, params: {
        **{"symbol": api.board(params).symbol, "makerCommissionRate": money_text(api.exchange.terms.maker_fee_e8)},
        "takerCommissionRate": money_text(api.exchange.terms.taker_fee_e8),
    },
    "set_margin_type": lambda api, params: api.exchange.set_margin_type(
        api.board(params).symbol, params.choice("marginType", MARGIN_TYPES, -1130)
    ),
}
"""What answers a path in one line, by the name that the table of paths gives it; other names are methods."""
