"""The REST half of the simulated venue: what each path checks and answers.

`RestApi.answer` counts a request against the limits, checks key, signature and time as Binance does, and calls the
answer that `venue_tables.json` names for the path. What is refused carries Binance's code and text.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.simulated import QUOTE_ASSET, PositionRisk, SimulatedExchange
from voltrade.exchange.venue_requests import Answer, Limits, Params, Throttled, refusal_answer, refused, tables
from voltrade.exchange.venue_streams import Streams
from voltrade.exchange.venue_wire import (
    ACCOUNT_FLAGS,
    INTERVALS_MS,
    OPEN,
    Board,
    Json,
    account,
    balance,
    between,
    exchange_info,
    leverage_bracket,
)
from voltrade.model import (
    DAY_MS,
    MONEY,
    NEVER,
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

AHEAD_MS = 1_000
"""A timestamp may be this far ahead of the venue's clock."""
RECV_WINDOW_MS, RECV_WINDOW_MAX_MS = 5_000, 60_000

BOOK_TRADES = 200
"""How many of the newest trades the synthetic best bid and ask are read from."""

BATCH_MOST = 5
"""Most orders of one request to `batchOrders`; ten may be cancelled."""

SIDES = {side.name: side for side in Side}
ORDER_TYPES = {kind.value: kind for kind in OrderType if not kind.is_conditional}
CONDITIONAL_TYPES = {kind.value: kind for kind in OrderType if kind.is_conditional}
TIMES_IN_FORCE = {kind.value: kind for kind in TimeInForce}
WORKING_TYPES = {kind.value: kind for kind in WorkingType}
UNMODELLED = {
    "priceMatch": ("none",),
    "goodTillDate": ("0",),
    "icebergQty": ("0",),
    "newOrderRespType": ("ack", "result"),
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

SUCCESS: Json = {"code": 200, "msg": "success"}
CANCELLED: Json = {"code": 200, "msg": "The operation of cancel all open order is done."}


class RestApi:
    """Answers REST requests from the exchange and from what clients may know of the tapes.

    Args:
        exchange: carries out orders and holds the account.
        boards: by symbol, what clients were shown.
        streams: holds the listen key.
        now: the venue's clock, ms UTC.
        keys: the one API key that is known, and the secret that signs its requests.
    """

    def __init__(
        self,
        exchange: SimulatedExchange,
        boards: Mapping[str, Board],
        streams: Streams,
        now: Callable[[], int],
        keys: tuple[str, str],
    ) -> None:
        self.exchange, self.boards, self.streams, self.now = exchange, boards, streams, now
        self.limits = Limits()
        self._api_key, self._api_secret = (text.encode() for text in keys)
        self._countdowns: dict[str, int] = {}
        self._received = 0

    def answer(self, method: str, path: str, key: str, params: Params, received: int = 0) -> Answer:
        """Carry out a request, now or as one that came at a time; return HTTP status, JSON and headers."""
        self._received = received or self.now()
        route = tables().served.get((method, path))
        headers: Mapping[str, str] = {}
        try:
            weight = route.weight[0 if params.get("symbol") else -1] if route else 1
            headers = self.limits.count(weight, route.orders if route else (), self.now())
            if route is None:
                raise refused(-5000, f"{path}, Method {method}")
            self._authorise(route.security, key, params)
            return Answer(200, self.body(route.answer, params), headers)
        except Throttled as refusal:
            return Answer(refusal.status, {"code": refusal.code, "msg": refusal.message}, refusal.headers)
        except VenueRefusal as refusal:
            return refusal_answer(refusal, headers)

    def body(self, answer: Any, params: Params) -> Any:
        """Carry out what the table of paths names: a line of `ANSWERS`, a method, or the answer itself."""
        if not isinstance(answer, str):
            return answer
        return ANSWERS[answer](self, params) if answer in ANSWERS else getattr(self, answer)(params)

    def _authorise(self, security: str, key: str, params: Params) -> None:
        """Check key, signature and time as Binance does."""
        if security == "none":
            return
        if not key:
            raise refused(-2014)
        if not hmac.compare_digest(key.encode(), self._api_key):
            raise refused(-2015)
        if security == "key":
            return
        timestamp, window = params.whole("timestamp"), params.whole("recvWindow", RECV_WINDOW_MS)
        expected = hmac.new(self._api_secret, params.signed_text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(params.text("signature").encode(), expected.encode()):
            raise refused(-1022)
        if window > RECV_WINDOW_MAX_MS:
            raise refused(-1131)
        if timestamp > self._received + AHEAD_MS:
            raise VenueRefusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if self._received - timestamp > window:
            raise refused(-1021)

    def pass_time(self, now: int) -> None:
        """Cancel the open orders of symbols whose countdown is over. Conditional orders stay."""
        for symbol in [symbol for symbol, end in self._countdowns.items() if end <= now]:
            del self._countdowns[symbol]
            self.exchange.cancel_all(symbol)

    # --- reading requests --------------------------------------------------------------------------------------------

    def board(self, params: Params) -> Board:
        """Return the board of the symbol, which is mandatory."""
        board = self.boards.get(params.text("symbol"))
        if board is None:
            raise refused(-1121)
        return board

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
        return {"symbol": symbol, "client_order_id": params.text("origClientOrderId")}

    def algo_ids(self, params: Params) -> dict[str, Any]:
        if params.get("algoId"):
            return {"algo_id": params.whole("algoId")}
        return {"client_order_id": params.text("clientAlgoId")}

    def side(self, params: Params) -> Side:
        side = params.choice("side", SIDES, -1117)
        if params.get("positionSide", "BOTH") != "BOTH":
            raise refused(-4061)
        return side

    def order_request(self, params: Params) -> OrderRequest:
        """Read an order for `/order`; conditional types belong to the algo endpoint."""
        symbol = self.board(params).symbol
        params.refuse_unless(UNMODELLED)
        side = self.side(params)
        if params.get("type") in CONDITIONAL_TYPES or params.get("stopPrice") or params.flag("closePosition"):
            raise refused(-4120)
        order_type = params.choice("type", ORDER_TYPES, -1116)
        price, time_in_force = 0, TimeInForce.GTC
        if order_type is OrderType.LIMIT:
            time_in_force = params.choice("timeInForce", TIMES_IN_FORCE, -1115)
            price = self.exchange.ticks(symbol, params.number("price"))
        else:
            params.refuse("price", "timeInForce")
        arrives, window = self._received + self.exchange.matching.latency_ms, params.whole("recvWindow", RECV_WINDOW_MS)
        if arrives > params.whole("timestamp", arrives) + window:
            raise refused(-5028)
        return OrderRequest(
            symbol=symbol,
            client_order_id=params.get("newClientOrderId"),
            side=side,
            order_type=order_type,
            quantity=self.exchange.lots(symbol, params.number("quantity")),
            price=price,
            time_in_force=time_in_force,
            reduce_only=params.flag("reduceOnly"),
        )

    def algo_request(self, params: Params) -> OrderRequest:
        """Read a conditional order for `/algoOrder`."""
        symbol = self.board(params).symbol
        params.refuse_unless(UNMODELLED)
        params.choice("algoType", {"CONDITIONAL": True}, -1130)
        order_type, close_position = params.choice("type", CONDITIONAL_TYPES, -1116), params.flag("closePosition")
        if close_position and params.get("quantity"):
            raise refused(-4137)
        trails = order_type is OrderType.TRAILING_STOP_MARKET
        prices = {"price": order_type.is_limit, "triggerPrice": not trails, "activatePrice": False}
        ticks = {
            name: self.exchange.ticks(symbol, params.number(name)) if is_needed or params.get(name) else 0
            for name, is_needed in prices.items()
        }
        callback = params.number("callbackRate") * 100 if trails else Decimal(0)
        return OrderRequest(
            symbol=symbol,
            client_order_id=params.get("clientAlgoId"),
            side=self.side(params),
            order_type=order_type,
            quantity=0 if close_position else self.exchange.lots(symbol, params.number("quantity")),
            price=ticks["price"],
            time_in_force=params.choice("timeInForce", TIMES_IN_FORCE, -1115, TimeInForce.GTC),
            trigger_price=ticks["triggerPrice"],
            reduce_only=params.flag("reduceOnly"),
            close_position=close_position,
            working_type=params.choice("workingType", WORKING_TYPES, -1130, WorkingType.CONTRACT_PRICE),
            price_protect=params.flag("priceProtect"),
            activation_price=ticks["activatePrice"],
            callback_bps=int(callback) if callback == int(callback) else 0,
        )

    # --- writing answers ---------------------------------------------------------------------------------------------

    def by_symbol(self, params: Params, write: Callable[[Board], Json]) -> Json | list[Json]:
        """Answer one object where a symbol is named, else a list."""
        return write(self.board(params)) if params.get("symbol") else list(map(write, self.boards.values()))

    def order(self, order: OrderUpdate, *, asked: bool = False) -> Json:
        """Write an order; one that was asked for also tells when it was made."""
        return self.boards[order.symbol].wire.order(order, self._created(order) if asked else None)

    def orders(self, orders: Iterable[OrderUpdate]) -> list[Json]:
        return [self.order(order, asked=True) for order in orders]

    def _created(self, order: OrderUpdate) -> int:
        return self.exchange.orders[order.order_id].created

    def algo(self, algo: AlgoUpdate) -> Json:
        return self.boards[algo.symbol].wire.algo_order(algo, self.exchange.algos[algo.algo_id])

    def account(self) -> Json:
        return account(self.exchange.balances(), self.now())

    def risks(self, params: Params) -> list[PositionRisk]:
        return [self.exchange.position_risk(symbol) for symbol in self.symbols(params)]

    def positions(self, path: str, params: Params) -> list[Json]:
        """Write positions; v3 tells only of symbols with a position or an open order."""
        return [
            self.boards[risk.report.symbol].wire.position(path, risk, self.now())
            for risk in self.risks(params)
            if path.startswith("v2") or risk.report.quantity or self.exchange.open_orders(risk.report.symbol)
        ]

    # --- market data -------------------------------------------------------------------------------------------------

    def day(self, board: Board) -> Json:
        day = between(board.seen, self.now() - DAY_MS, NEVER)
        return board.wire.ticker_day(day if len(day) else board.trades[:1])

    def agg_trades(self, params: Params) -> list[Json]:
        """Trades by id or time, oldest first; without either the newest. Nothing that was not sent yet is shown."""
        board, limit = self.board(params), params.limit(500, 1000)
        seen = board.seen
        if params.get("fromId"):
            first = int(np.searchsorted(seen.id, params.whole("fromId")))
        else:
            seen = between(seen, params.whole("startTime", 0), params.whole("endTime", NEVER))
            first = 0 if params.get("startTime") else max(0, len(seen) - limit)
        return board.wire.agg_trade_rows(seen[first : first + limit])

    def klines(self, params: Params) -> list[list[Any]]:
        board, limit = self.board(params), params.limit(500, 1500)
        step = params.choice("interval", INTERVALS_MS, -1120)
        first = -(-params.whole("startTime", 0) // step) * step
        last = min(params.whole("endTime", NEVER), NEVER // 2) // step * step + step - 1
        if params.get("startTime"):
            return board.wire.klines(between(board.seen, first, last), step)[:limit]
        first = max(0, min(last, self.now()) // step - limit + 1) * step
        return board.wire.klines(between(board.seen, first, last), step)[-limit:]

    def continuous_klines(self, params: Params) -> list[list[Any]]:
        params.choice("contractType", {"PERPETUAL": True}, -1130)
        return self.klines(params.but(symbol=params.text("pair")))

    def funding_rates(self, params: Params) -> list[Json]:
        """What was paid at each funding time: the rate of the last mark before it."""
        rows = [
            {"symbol": last.symbol, "fundingTime": last.next_funding_time, "markPrice": money_text(last.price_e8)}
            | {"fundingRate": money_text(last.funding_rate_e8)}
            for symbol in self.symbols(params)
            for last, first in pairwise(self.boards[symbol].marks)
            if first.next_funding_time > last.next_funding_time
        ]
        return params.page(rows, 100, 1000, lambda row: int(row["fundingTime"]))

    # --- orders ------------------------------------------------------------------------------------------------------

    def test_order(self, params: Params) -> Json:
        """Check an order in every way and place nothing."""
        self.exchange.check_order(self.order_request(params))
        return {}

    def modify_order(self, params: Params) -> Json:
        """Give an open limit order another price and quantity."""
        side, ids, reduces = self.side(params), self.order_ids(params), params.flag("reduceOnly")
        price = self.exchange.ticks(ids["symbol"], params.number("price"))
        quantity = self.exchange.lots(ids["symbol"], params.number("quantity"))
        return self.order(self.exchange.modify_order(**ids, side=side, quantity=quantity, price=price, reduces=reduces))

    def batch(self, params: Params, answer: str) -> list[Json]:
        return self._one_by_one(params.rows("batchOrders", BATCH_MOST), answer)

    def cancel_orders(self, params: Params) -> list[Json]:
        """Cancel several orders of a symbol."""
        symbol = self.board(params).symbol
        for name, key in LISTS_OF_IDS.items():
            if params.get(name):
                rows = [{"symbol": symbol, key: each} for each in params.rows(name, 2 * BATCH_MOST)]
                return self._one_by_one(rows, "cancel_order")
        raise refused(-1102, "orderIdList")

    def _one_by_one(self, rows: Iterable[Any], answer: str) -> list[Json]:
        """Carry out the orders of a batch; each is answered for itself."""
        answers = []
        for row in rows:
            try:
                answers.append(self.body(answer, Params.of(row)))
            except VenueRefusal as refusal:
                answers.append({"code": refusal.code, "msg": refusal.message})
        return answers

    def open_order(self, params: Params) -> Json:
        order = self.exchange.query_order(**self.order_ids(params))
        if order.status not in OPEN:
            raise refused(-2013)
        return self.order(order, asked=True)

    def all_orders(self, params: Params) -> list[Json]:
        """Orders of a symbol, open or ended, from an id or a time on, else the newest."""
        known = self.exchange.all_orders(self.board(params).symbol)
        wanted = [order for order in known if order.order_id >= params.whole("orderId", 0)]
        return self.orders(params.page(wanted, 500, 1000, self._created, "orderId"))

    def forced_orders(self, params: Params) -> list[Json]:
        """Orders by which the exchange closed a position of ours."""
        begins, orders = FORCED.get(params.get("autoCloseType")), self.exchange.orders.values()
        if begins is None:
            raise refused(-1130, "autoCloseType")
        ours = [order.update() for order in orders if order.request.symbol in self.symbols(params)]
        wanted = [order for order in ours if order.client_order_id.startswith(begins)]
        return self.orders(params.page(wanted, 50, 100, self._created))

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

    # --- account -----------------------------------------------------------------------------------------------------

    def commission_rate(self, params: Params) -> Json:
        rates = {"maker": self.exchange.maker_fee_e8, "taker": self.exchange.taker_fee_e8}
        texts = {f"{who}CommissionRate": money_text(rate) for who, rate in rates.items()}
        return {"symbol": self.board(params).symbol, **texts}

    def set_leverage(self, params: Params) -> Json:
        symbol = self.board(params).symbol
        leverage = self.exchange.set_leverage(symbol, params.whole("leverage"))
        largest = self.exchange.position_risk(symbol).largest_notional // MONEY
        return {"symbol": symbol, "leverage": leverage, "maxNotionalValue": str(largest)}

    def set_margin_type(self, params: Params) -> Json:
        kind = params.choice("marginType", {"ISOLATED": "isolated", "CROSSED": "cross"}, -1130)
        self.exchange.set_margin_type(self.board(params).symbol, kind)
        return SUCCESS

    def set_mode(self, params: Params, name: str, change: Callable[[bool], None]) -> Json:
        """Change the position or assets mode of the account."""
        params.text(name)
        change(params.flag(name))
        return SUCCESS

    def change_margin(self, params: Params) -> Json:
        """Add margin to an isolated position (type 1), or take some off (2)."""
        kind, amount = params.choice("type", {"1": 1, "2": 2}, -1130), params.number("amount")
        self.exchange.change_position_margin(self.board(params).symbol, money(f"{amount:.8f}"), adding=kind == 1)
        return {"amount": float(amount), "code": 200, "msg": "Successfully modify position margin.", "type": kind}

    def user_trades(self, params: Params) -> list[Json]:
        """Our trades, oldest first: from an id on, of an order, or of a span of time; without any the newest."""
        board, first, order = self.board(params), params.whole("fromId", 0), params.whole("orderId", 0)
        if params.get("fromId") and (params.get("startTime") or params.get("endTime")):
            raise refused(-1128)
        fills = self.exchange.user_trades(board.symbol, after_id=max(0, first - 1))
        ours = [fill for fill in fills if order in (0, fill.order_id)]
        return [board.wire.user_trade(fill) for fill in params.page(ours, 500, 1000, lambda fill: fill.time, "fromId")]

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

    # --- user data stream --------------------------------------------------------------------------------------------

    def listen_key(self, params: Params) -> Json:
        return {"listenKey": self.streams.renew_listen_key(self.now())}

    def keep_listen_key(self, params: Params) -> Json:
        if not self.streams.listen_key:
            raise refused(-1125)
        return self.listen_key(params)

    def end_listen_key(self, params: Params) -> Json:
        self.streams.forget_listen_key()
        return {}


def done(answer: Json, *_: object) -> Json:
    """Answer so, now that the rest is done."""
    return answer


ANSWERS: Mapping[str, Callable[[RestApi, Params], Any]] = {
    "time": lambda api, params: {"serverTime": api.now()},
    "exchange_info": lambda api, params: exchange_info(api.exchange.markets.values(), api.now()),
    "premium_index": lambda api, params: api.by_symbol(
        params, lambda board: board.wire.premium_index(api.exchange.position_risk(board.symbol).mark)
    ),
    "ticker_price": lambda api, params: api.by_symbol(
        params, lambda board: board.wire.ticker_price(board.seen[-1:], api.now())
    ),
    "book_ticker": lambda api, params: api.by_symbol(
        params, lambda board: board.wire.book_ticker(board.seen[-BOOK_TRADES:], api.now())
    ),
    "ticker_day": lambda api, params: api.by_symbol(params, api.day),
    "place_order": lambda api, params: api.order(api.exchange.place_order(api.order_request(params))),
    "query_order": lambda api, params: api.order(api.exchange.query_order(**api.order_ids(params)), asked=True),
    "cancel_order": lambda api, params: api.order(api.exchange.cancel_order(**api.order_ids(params))),
    "place_orders": lambda api, params: api.batch(params, "place_order"),
    "modify_orders": lambda api, params: api.batch(params, "modify_order"),
    "open_orders": lambda api, params: api.orders(api.exchange.open_orders(api.symbol(params))),
    "cancel_all": lambda api, params: done(CANCELLED, api.exchange.cancel_all(api.board(params).symbol)),
    "place_algo": lambda api, params: api.algo(api.exchange.place_algo(api.algo_request(params))),
    "query_algo": lambda api, params: api.algo(api.exchange.query_algo(**api.algo_ids(params))),
    "open_algos": lambda api, params: list(map(api.algo, api.exchange.open_algo_orders(api.symbol(params)))),
    "cancel_all_algos": lambda api, params: done(CANCELLED, api.exchange.cancel_all_algo(api.board(params).symbol)),
    "account_v2": lambda api, params: (
        {**ACCOUNT_FLAGS, **ANSWERS["account_v3"](api, params)} | {"positions": api.positions("v2/account", params)}
    ),
    "account_v3": lambda api, params: {**api.account(), "positions": api.positions("v3/account", params)},
    "balance": lambda api, params: list(map(balance, api.account()["assets"])),
    "position_risk": lambda api, params: api.positions("v2/positionRisk", params),
    "position_risk_v3": lambda api, params: api.positions("v3/positionRisk", params),
    "leverage_bracket": lambda api, params: [
        leverage_bracket(symbol, api.exchange.markets[symbol].rules.brackets) for symbol in api.symbols(params)
    ],
    "symbol_config": lambda api, params: [
        api.boards[risk.report.symbol].wire.symbol_config(risk) for risk in api.risks(params)
    ],
    "account_config": lambda api, params: {**ACCOUNT_FLAGS, "dualSidePosition": api.exchange.hedge_mode},
    "position_mode": lambda api, params: {"dualSidePosition": api.exchange.hedge_mode},
    "set_position_mode": lambda api, params: api.set_mode(params, "dualSidePosition", api.exchange.set_position_mode),
    "set_assets_mode": lambda api, params: api.set_mode(
        params, "multiAssetsMargin", api.exchange.set_multi_assets_mode
    ),
}
"""What answers a path in one line, by the name that the table of paths gives it; other names are methods."""
