"""The REST half of the simulated venue: what each path asks for, checks and answers.

`RestApi.answer` takes a request apart, checks key, signature and time as Binance does, and hands it to the method that
`route` has put on its path. What is refused carries Binance's code and text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np

from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.simulated import SimulatedExchange
from voltrade.exchange.venue_streams import Streams
from voltrade.exchange.venue_wire import ACCOUNT_FLAGS, INTERVALS_MS, MAX_NOTIONAL, OPEN, Json, Wire
from voltrade.model import (
    NEVER,
    AlgoUpdate,
    MarkPrice,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
    Trades,
    WorkingType,
    money_text,
)

AHEAD_MS = 1_000
"""A timestamp may be this far ahead of the venue's clock."""

RECV_WINDOW_MS = 5_000
RECV_WINDOW_MAX_MS = 60_000

BOOK_TRADES = 200
"""How many of the newest trades the synthetic best bid and ask are read from."""

WHOLE = re.compile(r"^-?[0-9]{1,18}$")
DECIMAL = re.compile(r"^[0-9]{1,20}(\.[0-9]{1,20})?$")

SIDES = {side.name: side for side in Side}
ORDER_TYPES = {kind.value: kind for kind in OrderType if not kind.is_conditional}
CONDITIONAL_TYPES = {kind.value: kind for kind in (OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET)}
ALGO_TYPES = frozenset({"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"})
"""All types that Binance takes at the algo endpoint only; the venue models the two of `OrderType`."""

TIMES_IN_FORCE = {kind.value: kind for kind in TimeInForce}
WORKING_TYPES = {kind.value: kind for kind in WorkingType}
UNMODELLED = {
    "priceMatch": ("none",),
    "priceProtect": ("false",),
    "goodTillDate": ("0",),
    "icebergQty": ("0",),
    "newOrderRespType": ("ack", "result"),
    "workingType": ("contract_price", "mark_price"),
}
"""Values, in lower case, that the venue takes for parameters whose other values it does not model."""


# --- refusals --------------------------------------------------------------------------------------------------------

TEXTS: Mapping[int, str] = {
    -1021: "Timestamp for this request is outside of the recvWindow.",
    -1022: "Signature for this request is not valid.",
    -1100: "Illegal characters found in parameter '{name}'; legal range is '^([0-9]{{1,20}})(\\.[0-9]{{1,20}})?$'.",
    -1102: "Mandatory parameter '{name}' was not sent, was empty/null, or malformed.",
    -1106: "Parameter '{name}' sent when not required.",
    -1115: "Invalid timeInForce.",
    -1116: "Invalid orderType.",
    -1117: "Invalid side.",
    -1120: "Invalid interval.",
    -1121: "Invalid symbol.",
    -1125: "This listenKey does not exist.",
    -1130: "Data sent for parameter '{name}' is not valid.",
    -1131: "recvWindow must be less than 60000.",
    -2013: "Order does not exist.",
    -2014: "API-key format invalid.",
    -2015: "Invalid API-key, IP, or permissions for action.",
    -4055: "Invalid margin type.",
    -4061: "Order's position side does not match user's setting.",
    -4120: "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
    -4137: "Quantity must be zero with closePosition equals true",
    -5000: "Path {name} is invalid",
}
"""Binance's texts for what is refused here; the simulated exchange has those of its own rules."""

STATUS: Mapping[int, int] = {-2014: 401, -2015: 401, -5000: 404}
"""HTTP status of a refusal, where it is not 400."""


def refused(code: int, name: str = "") -> VenueRefusal:
    return VenueRefusal(code, TEXTS[code].format(name=name))


# --- requests --------------------------------------------------------------------------------------------------------

Choice = TypeVar("Choice")


class Params:
    """Parameters of a request, from query and body; the query wins on duplicates, as at Binance."""

    def __init__(self, query: str, body: str) -> None:
        self._query, self._body = query, body
        self._values = {
            **dict(parse_qsl(body, keep_blank_values=True)),
            **dict(parse_qsl(query, keep_blank_values=True)),
        }

    @property
    def signed_text(self) -> str:
        """The text that a signature covers: raw query then raw body, both without the signature."""
        return "".join(
            "&".join(part for part in raw.split("&") if not part.startswith("signature="))
            for raw in (self._query, self._body)
        )

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name, default)

    def text(self, name: str) -> str:
        """Return a mandatory parameter."""
        value = self.get(name)
        if not value:
            raise refused(-1102, name)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number, mandatory where there is no default."""
        if default is not None and not self.get(name):
            return default
        value = self.text(name)
        if not WHOLE.match(value):
            raise refused(-1102, name)
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a boolean, false where it is not sent; clients write true, True and TRUE."""
        value = self.get(name, "false").lower()
        if value not in ("true", "false"):
            raise refused(-1130, name)
        return value == "true"

    def number(self, name: str) -> Decimal:
        """Return a mandatory plain decimal."""
        value = self.text(name)
        if not DECIMAL.match(value):
            raise refused(-1100, name)
        return Decimal(value)

    def choice(self, name: str, choices: Mapping[str, Choice], code: int) -> Choice:
        """Return what a mandatory word stands for, or refuse it with the code."""
        word = self.text(name)
        if word not in choices:
            raise refused(code, name)
        return choices[word]

    def refuse_unless(self, allowed: Mapping[str, Sequence[str]]) -> None:
        """Refuse values of parameters that the venue does not model; not sent is always allowed."""
        for name, values in allowed.items():
            if self.get(name).lower() not in ("", *values):
                raise refused(-1130, name)


class Security(IntEnum):
    """What a path asks for."""

    NONE = 0
    KEY = 1
    SIGNED = 2


Handler = Callable[["RestApi", Params], Any]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Route:
    handler: Handler
    security: Security
    weight: int


ROUTES: dict[tuple[str, str], Route] = {}
"""All that the venue answers, by method and path; filled by `route`."""


def route(method: str, *paths: str, security: Security = Security.SIGNED, weight: int = 1) -> Callable[[H], H]:
    """Make a method of the venue answer paths below `/fapi`."""

    def register(handler: H) -> H:
        for path in paths:
            ROUTES[method, f"/fapi/{path}"] = Route(handler, security, weight)
        return handler

    return register


def between(trades: Trades, first: int, last: int) -> Trades:
    """Return the trades of a span of time, both ends included."""
    rows = np.searchsorted(trades.time, np.array([first, last + 1], dtype=np.int64))
    return trades[int(rows[0]) : int(rows[1])]


# --- the paths -------------------------------------------------------------------------------------------------------


class RestApi:
    """Answers REST requests from the exchange and from what clients may know of the tape.

    Args:
        exchange: carries out orders and holds the account.
        wire: writes the answers.
        streams: holds the listen key.
        seen: the trades that were sent to clients.
        now: the venue's clock, ms UTC.
        api_key: the one key that is known.
        api_secret: signs requests of that key.
    """

    def __init__(
        self,
        exchange: SimulatedExchange,
        wire: Wire,
        streams: Streams,
        *,
        seen: Callable[[], Trades],
        now: Callable[[], int],
        api_key: str,
        api_secret: str,
    ) -> None:
        self._exchange, self._wire, self._streams = exchange, wire, streams
        self._symbol = wire.instrument.symbol
        self._seen, self._now = seen, now
        self._api_key, self._api_secret = api_key, api_secret.encode()
        self._usage: dict[str, tuple[int, int]] = {}

    def answer(self, method: str, path: str, key: str, params: Params) -> tuple[int, Any]:
        """Carry out a request; return HTTP status and JSON."""
        route = ROUTES.get((method, path))
        try:
            if route is None:
                raise refused(-5000, f"{path}, Method {method}")
            self._authorise(route.security, key, params)
            return 200, route.handler(self, params)
        except VenueRefusal as refusal:
            return STATUS.get(refusal.code, 400), {"code": refusal.code, "msg": refusal.message}

    def _authorise(self, security: Security, key: str, params: Params) -> None:
        """Check key, signature and time as Binance does."""
        if security is Security.NONE:
            return
        if not key:
            raise refused(-2014)
        if not hmac.compare_digest(key, self._api_key):
            raise refused(-2015)
        if security is Security.KEY:
            return
        timestamp, window = params.whole("timestamp"), params.whole("recvWindow", RECV_WINDOW_MS)
        expected = hmac.new(self._api_secret, params.signed_text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(params.text("signature").encode(), expected.encode()):
            raise refused(-1022)
        if window > RECV_WINDOW_MAX_MS:
            raise refused(-1131)
        now = self._now()
        if timestamp > now + AHEAD_MS:
            raise VenueRefusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now - timestamp > window:
            raise refused(-1021)

    def usage_headers(self, method: str, path: str) -> dict[str, str]:
        """Count the request and tell the used weight, as Binance's headers do. Limits are told, not enforced."""
        known = ROUTES.get((method, path))
        headers = {"X-MBX-USED-WEIGHT-1M": self._count("weight", 60_000, known.weight if known else 1)}
        if known is not None and known.weight == 0:
            headers["X-MBX-ORDER-COUNT-10S"] = self._count("orders 10s", 10_000, 1)
            headers["X-MBX-ORDER-COUNT-1M"] = self._count("orders 1m", 60_000, 1)
        return headers

    def _count(self, name: str, window_ms: int, amount: int) -> str:
        """Add to what was used in the window of the venue's clock that is now."""
        window = self._now() // window_ms
        last, used = self._usage.get(name, (window, 0))
        used = (used if last == window else 0) + amount
        self._usage[name] = (window, used)
        return str(used)

    # --- market data -------------------------------------------------------------------------------------------------

    @route("GET", "v1/ping", security=Security.NONE)
    def _ping(self, params: Params) -> Json:
        return {}

    @route("GET", "v1/time", security=Security.NONE)
    def _time(self, params: Params) -> Json:
        return {"serverTime": self._now()}

    @route("GET", "v1/exchangeInfo", security=Security.NONE)
    def _exchange_info(self, params: Params) -> Json:
        return self._wire.exchange_info(self._now())

    @route("GET", "v1/premiumIndex", security=Security.NONE)
    def _premium_index(self, params: Params) -> Json | list[Json]:
        return self._of_symbol(params, self._wire.premium_index(self._mark()))

    @route("GET", "v1/ticker/price", "v2/ticker/price", security=Security.NONE)
    def _ticker_price(self, params: Params) -> Json | list[Json]:
        return self._of_symbol(params, self._wire.ticker_price(self._seen()[-1:], self._now()))

    @route("GET", "v1/ticker/bookTicker", security=Security.NONE, weight=2)
    def _book_ticker(self, params: Params) -> Json | list[Json]:
        return self._of_symbol(params, self._wire.book_ticker(self._seen()[-BOOK_TRADES:], self._now()))

    @route("GET", "v1/aggTrades", security=Security.NONE, weight=20)
    def _agg_trades(self, params: Params) -> list[Json]:
        """Trades by id or time, oldest first; without either the newest. Nothing that was not sent yet is shown."""
        self._check_symbol(params)
        limit = params.whole("limit", 500)
        seen = self._seen()
        if params.get("fromId"):
            first = int(np.searchsorted(seen.id, params.whole("fromId")))
        elif params.get("startTime") or params.get("endTime"):
            seen = between(seen, params.whole("startTime", 0), params.whole("endTime", NEVER - 1))
            first = 0 if params.get("startTime") else max(0, len(seen) - limit)
        else:
            first = max(0, len(seen) - limit)
        return self._wire.agg_trade_rows(seen[first : first + self._limit(limit)])

    @route("GET", "v1/klines", security=Security.NONE, weight=5)
    def _klines(self, params: Params) -> list[list[Any]]:
        self._check_symbol(params)
        step = params.choice("interval", INTERVALS_MS, -1120)
        limit = self._limit(params.whole("limit", 500), 1500)
        first = -(-params.whole("startTime", 0) // step) * step
        last = params.whole("endTime", NEVER // 2) // step * step + step - 1
        rows = self._wire.klines(between(self._seen(), first, last), step)
        return rows[:limit] if params.get("startTime") else rows[-limit:]

    @staticmethod
    def _limit(limit: int, most: int = 1000) -> int:
        if not 0 < limit <= most:
            raise refused(-1130, "limit")
        return limit

    def _check_symbol(self, params: Params) -> None:
        if params.text("symbol") != self._wire.instrument.symbol:
            raise refused(-1121)

    def _of_symbol(self, params: Params, row: Json) -> Json | list[Json]:
        """Answer one object where a symbol is named, else a list."""
        if not params.get("symbol"):
            return [row]
        self._check_symbol(params)
        return row

    # --- orders ------------------------------------------------------------------------------------------------------

    @route("POST", "v1/order", weight=0)
    def _place_order(self, params: Params) -> Json:
        return self._order(self._exchange.place_order(self._order_request(params)), created=False)

    @route("POST", "v1/order/test")
    def _test_order(self, params: Params) -> Json:
        """Check an order in every way and place nothing."""
        self._exchange.check_order(self._order_request(params))
        return {}

    @route("GET", "v1/order")
    def _query_order(self, params: Params) -> Json:
        symbol, ids = self._order_ids(params)
        return self._order(self._exchange.query_order(symbol, **ids))

    @route("DELETE", "v1/order")
    def _cancel_order(self, params: Params) -> Json:
        symbol, ids = self._order_ids(params)
        return self._order(self._exchange.cancel_order(symbol, **ids), created=False)

    @route("GET", "v1/openOrder")
    def _open_order(self, params: Params) -> Json:
        symbol, ids = self._order_ids(params)
        order = self._exchange.query_order(symbol, **ids)
        if order.status not in OPEN:
            raise refused(-2013)
        return self._order(order)

    @route("GET", "v1/openOrders")
    def _open_orders(self, params: Params) -> list[Json]:
        return [self._order(order) for order in self._exchange.open_orders(self._optional_symbol(params))]

    @route("DELETE", "v1/allOpenOrders")
    def _cancel_all(self, params: Params) -> Json:
        self._exchange.cancel_all(params.text("symbol"))
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    @route("POST", "v1/algoOrder", weight=0)
    def _place_algo(self, params: Params) -> Json:
        return self._algo(self._exchange.place_algo(self._algo_request(params)))

    @route("GET", "v1/algoOrder")
    def _query_algo(self, params: Params) -> Json:
        return self._algo(self._exchange.query_algo(**self._ids(params, "clientAlgoId", "algoId", "algo_id")))

    @route("DELETE", "v1/algoOrder")
    def _cancel_algo(self, params: Params) -> Json:
        algo = self._exchange.cancel_algo(**self._ids(params, "clientAlgoId", "algoId", "algo_id"))
        return {"algoId": algo.algo_id, "clientAlgoId": algo.client_order_id, "code": "200", "msg": "success"}

    @route("GET", "v1/openAlgoOrders")
    def _open_algos(self, params: Params) -> list[Json]:
        return [self._algo(algo) for algo in self._exchange.open_algo_orders(self._optional_symbol(params))]

    @route("DELETE", "v1/algoOpenOrders")
    def _cancel_all_algos(self, params: Params) -> Json:
        self._exchange.cancel_all_algo(params.text("symbol"))
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def _order(self, order: OrderUpdate, created: bool = True) -> Json:
        return self._wire.order(order, self._exchange.orders[order.order_id].created if created else None)

    def _algo(self, algo: AlgoUpdate) -> Json:
        held = self._exchange.algos[algo.algo_id]
        return self._wire.algo_order(algo, held.created, held.triggered, self._child(algo))

    def _child(self, algo: AlgoUpdate) -> OrderUpdate | None:
        """Return the ordinary order that a conditional order has become."""
        return self._exchange.query_order(algo.symbol, order_id=algo.order_id) if algo.order_id else None

    def _order_request(self, params: Params) -> OrderRequest:
        """Read an order for `/order`; conditional types belong to the algo endpoint."""
        self._check_symbol(params)
        params.refuse_unless(UNMODELLED)
        side = self._side(params)
        if params.get("type") in ALGO_TYPES:
            raise refused(-4120)
        order_type = params.choice("type", ORDER_TYPES, -1116)
        price, time_in_force = 0, TimeInForce.GTC
        if order_type is OrderType.LIMIT:
            time_in_force = params.choice("timeInForce", TIMES_IN_FORCE, -1115)
            price = self._exchange.ticks(params.text("symbol"), params.number("price"))
        for name in () if order_type is OrderType.LIMIT else ("price", "timeInForce"):
            if params.get(name):
                raise refused(-1106, name)
        return OrderRequest(
            symbol=params.text("symbol"),
            client_order_id=params.get("newClientOrderId"),
            side=side,
            order_type=order_type,
            quantity=self._exchange.lots(params.text("symbol"), params.number("quantity")),
            price=price,
            time_in_force=time_in_force,
            reduce_only=params.flag("reduceOnly"),
        )

    def _algo_request(self, params: Params) -> OrderRequest:
        """Read a conditional order for `/algoOrder`."""
        self._check_symbol(params)
        params.refuse_unless(UNMODELLED)
        params.choice("algoType", {"CONDITIONAL": True}, -1130)
        close_position = params.flag("closePosition")
        if close_position and params.get("quantity"):
            raise refused(-4137)
        return OrderRequest(
            symbol=params.text("symbol"),
            client_order_id=params.get("clientAlgoId"),
            side=self._side(params),
            order_type=params.choice("type", CONDITIONAL_TYPES, -1116),
            quantity=0 if close_position else self._exchange.lots(params.text("symbol"), params.number("quantity")),
            trigger_price=self._exchange.ticks(params.text("symbol"), params.number("triggerPrice")),
            reduce_only=params.flag("reduceOnly"),
            close_position=close_position,
            working_type=WorkingType(params.get("workingType", WorkingType.CONTRACT_PRICE)),
        )

    @staticmethod
    def _side(params: Params) -> Side:
        side = params.choice("side", SIDES, -1117)
        if params.get("positionSide", "BOTH") != "BOTH":
            raise refused(-4061)
        return side

    def _order_ids(self, params: Params) -> tuple[str, dict[str, Any]]:
        self._check_symbol(params)
        return params.text("symbol"), self._ids(params, "origClientOrderId", "orderId", "order_id")

    @staticmethod
    def _ids(params: Params, client: str, number: str, name: str) -> dict[str, Any]:
        """Read the id of an order: the exchange's where both are sent, as at Binance."""
        if params.get(number):
            return {name: params.whole(number)}
        return {"client_order_id": params.text(client)}

    def _optional_symbol(self, params: Params) -> str:
        if params.get("symbol"):
            self._check_symbol(params)
        return params.get("symbol")

    # --- account -----------------------------------------------------------------------------------------------------

    @route("GET", "v2/account", "v3/account", weight=5)
    def _account(self, params: Params) -> Json:
        return self._wire.account(
            self._exchange.balances(), self._exchange.position(self._symbol), self._mark(), self._now()
        )

    @route("GET", "v2/balance", "v3/balance", weight=5)
    def _balance(self, params: Params) -> list[Json]:
        return [self._wire.balance(self._exchange.balances(), self._exchange.position(self._symbol), self._now())]

    @route("GET", "v2/positionRisk", weight=5)
    def _position_risk(self, params: Params) -> list[Json]:
        self._optional_symbol(params)
        return [
            self._wire.position_risk(self._exchange.balances(), self._exchange.position(self._symbol), self._mark())
        ]

    @route("GET", "v3/positionRisk", weight=5)
    def _position_risk_v3(self, params: Params) -> list[Json]:
        """Unlike v2, tell only of symbols with a position or an open order."""
        return (
            self._position_risk(params)
            if self._exchange.position(self._symbol).quantity or self._exchange.open_orders()
            else []
        )

    @route("GET", "v1/leverageBracket")
    def _leverage_bracket(self, params: Params) -> list[Json]:
        self._optional_symbol(params)
        return [self._wire.leverage_bracket(self._exchange.markets[self._symbol].rules.brackets)]

    @route("GET", "v1/symbolConfig", weight=5)
    def _symbol_config(self, params: Params) -> list[Json]:
        self._optional_symbol(params)
        return [self._wire.symbol_config(self._exchange.position(self._symbol))]

    @route("GET", "v1/accountConfig", weight=5)
    def _account_config(self, params: Params) -> Json:
        return {**ACCOUNT_FLAGS, "dualSidePosition": False}

    @route("GET", "v1/commissionRate", weight=20)
    def _commission_rate(self, params: Params) -> Json:
        self._check_symbol(params)
        return {
            "symbol": params.text("symbol"),
            "makerCommissionRate": money_text(self._exchange.maker_fee_e8),
            "takerCommissionRate": money_text(self._exchange.taker_fee_e8),
        }

    @route("GET", "v1/positionSide/dual", weight=30)
    def _position_mode(self, params: Params) -> Json:
        return {"dualSidePosition": False}

    @route("POST", "v1/positionSide/dual")
    def _set_position_mode(self, params: Params) -> Json:
        params.text("dualSidePosition")
        self._exchange.set_position_mode(params.flag("dualSidePosition"))
        return {"code": 200, "msg": "success"}

    @route("GET", "v1/multiAssetsMargin", weight=30)
    def _multi_assets_mode(self, params: Params) -> Json:
        return {"multiAssetsMargin": False}

    @route("POST", "v1/leverage")
    def _set_leverage(self, params: Params) -> Json:
        leverage = self._exchange.set_leverage(params.text("symbol"), params.whole("leverage"))
        return {"symbol": params.text("symbol"), "leverage": leverage, "maxNotionalValue": str(MAX_NOTIONAL)}

    @route("POST", "v1/marginType")
    def _set_margin_type(self, params: Params) -> Json:
        words = {"ISOLATED": "isolated", "CROSSED": "cross"}
        self._exchange.set_margin_type(params.text("symbol"), params.choice("marginType", words, -4055))
        return {"code": 200, "msg": "success"}

    @route("GET", "v1/userTrades", weight=5)
    def _user_trades(self, params: Params) -> list[Json]:
        """Our trades, oldest first: from an id on, of an order, or of a span of time; without any the newest."""
        self._check_symbol(params)
        limit = self._limit(params.whole("limit", 500))
        fills = self._in_span(self._exchange.user_trades(after_id=max(0, params.whole("fromId", 1) - 1)), params)
        if params.get("orderId"):
            fills = [fill for fill in fills if fill.order_id == params.whole("orderId")]
        from_start = params.get("fromId") or params.get("startTime")
        return [self._wire.user_trade(fill) for fill in (fills[:limit] if from_start else fills[-limit:])]

    @route("GET", "v1/income", weight=30)
    def _income(self, params: Params) -> list[Json]:
        """Realised profit and commission of our trades; the venue moves no other money."""
        self._optional_symbol(params)
        rows = [row for fill in self._in_span(self._exchange.user_trades(), params) for row in self._wire.income(fill)]
        kind = params.get("incomeType")
        return [row for row in rows if kind in ("", row["incomeType"])][: self._limit(params.whole("limit", 100))]

    @staticmethod
    def _in_span(fills: list[OrderUpdate], params: Params) -> list[OrderUpdate]:
        first, last = params.whole("startTime", 0), params.whole("endTime", NEVER)
        return [fill for fill in fills if first <= fill.time <= last]

    def _mark(self) -> MarkPrice:
        """The mark price; before the first one the last trade's price."""
        return self._exchange.position_risk(self._symbol).mark

    # --- user data stream --------------------------------------------------------------------------------------------

    @route("POST", "v1/listenKey", security=Security.KEY)
    def _start_user_stream(self, params: Params) -> Json:
        return {"listenKey": self._streams.renew_listen_key(self._now())}

    @route("PUT", "v1/listenKey", security=Security.KEY)
    def _keep_user_stream(self, params: Params) -> Json:
        if not self._streams.listen_key:
            raise refused(-1125)
        return self._start_user_stream(params)

    @route("DELETE", "v1/listenKey", security=Security.KEY)
    def _close_user_stream(self, params: Params) -> Json:
        self._streams.forget_listen_key()
        return {}
