"""Which requests Binance refuses, with which code: checks against filters, open orders, position and margin.

Each check raises `VenueRefusal` or returns nothing, and changes nothing. `refusals.json` has the codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from string import Formatter
from typing import NamedTuple

from voltrade.errors import DataError
from voltrade.model import DAY_MS, Instrument, OrderRequest, OrderType, Side, TimeInForce
from voltrade.simulated.fill_model import is_triggered
from voltrade.simulated.formatting import plain
from voltrade.simulated.margin import divided_up, largest_notional
from voltrade.simulated.margin_account import MarginAccount
from voltrade.simulated.market import Market
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.symbols import table

MAX_OPEN_ALGO_ORDERS = 200
"""Most conditional orders of an account, over all symbols."""

CALLBACK_BPS = range(10, 1_001)
"""Callback rates of trailing stops: 0.1% to 10%."""

FORGOTTEN_DAYS, FORGOTTEN_UNFILLED_DAYS = 90, 3
"""GET order returns an order for this long after it was placed; the shorter time if it ended without a fill."""

STATUS_CODES = {
    "CLOSE": -4141,
    **dict.fromkeys(("PRE_SETTLE", "SETTLING", "PRE_DELIVERING", "DELIVERING", "DELIVERED"), -4140),
}
"""Code by which a symbol's status refuses orders; of others -1122. With -4140 reduce-only orders are accepted."""

_CLIENT_ID = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")


class Code(NamedTuple):
    """An error code of Binance, and its cause."""

    code: int
    status: int
    """HTTP status."""
    text: str
    """With `{}` for each quoted value."""
    cause: str
    steps: Sequence[str]
    """Requests that cause it, the refused one last; tests/venue/test_requests.py sends them."""

    @property
    def quotes(self) -> int:
        """Number of values in the text."""
        return sum(field is not None for _, field, _, _ in Formatter().parse(self.text))


@cache
def codes() -> Mapping[int, Code]:
    """Return every code that the exchange or the venue may return."""
    return {row[0]: Code(*row) for row in table("simulated/refusals.json")}


class VenueRefusal(Exception):
    """A request that Binance would refuse, with its code and text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


def refused(code: int, *quoted: object) -> VenueRefusal:
    """Return the refusal of a code, with Binance's text and the quoted values in it."""
    return VenueRefusal(code, codes()[code].text.format(*quoted))


def refused_without_cause(code: int) -> VenueRefusal:
    """Return the refusal of a code, with question marks for the quoted values."""
    return refused(code, *["?"] * codes()[code].quotes)


def refuse_if(is_broken: object, code: int, *quoted: object) -> None:
    """Refuse if a rule is broken."""
    if is_broken:
        raise refused(code, *quoted)


# --- numbers in requests ----------------------------------------------------------------------------------------------


def counted(text: str | Decimal, precision: int, count: Callable[[Decimal], int], code: int) -> int:
    """Read a price or quantity of a request; refuse too many decimals with -1111, other faults with `code`."""
    number = Decimal(text)
    exponent = number.normalize().as_tuple().exponent
    refuse_if(not isinstance(exponent, int) or -exponent > precision, -1111)
    try:
        return count(number)
    except DataError:
        raise refused(code) from None


# --- orders -----------------------------------------------------------------------------------------------------------


def check_order(account: MarginAccount, store: OrderStore, market: Market, request: OrderRequest) -> None:
    """Refuse an ordinary order with the code of the first broken rule."""
    refuse_if(request.order_type.is_conditional, -4120)
    named = store.order_named.get((market.symbol, request.client_order_id))
    _check_client_id(request.client_order_id, taken=named is not None and named.phase is not Phase.ENDED)
    _check_status(account, market, request)
    _check_quantity(market, request)
    if request.order_type is OrderType.LIMIT:
        _check_price(market, request.price, "price")
        _check_limit_price(market, request)
        _check_time_in_force(market, request)
    else:
        refuse_if(request.price, -1106, "price")
    refuse_if(len(market.open_orders) >= market.rules.max_open_orders, -2025)
    if request.order_type is OrderType.MARKET:
        _check_counterparty(market, request.side)
    if request.reduce_only:
        check_reduces(market, request.side)
    else:
        _check_notional(market, request)
        check_margin(account, market, request)


def check_modification(
    account: MarginAccount, market: Market, order: Order, modified: OrderRequest, side: int, *, reduces: bool
) -> None:
    """Refuse to modify an order that is not open, or that would break a rule if it were new."""
    refuse_if(order.phase is Phase.ENDED, -2013)
    refuse_if(order.request.order_type is not OrderType.LIMIT, -5025)
    refuse_if(side != order.request.side, -1117)
    refuse_if(reduces and not order.request.reduce_only, -5047)
    refuse_if(modified == order.request, -5027)
    _check_status(account, market, modified)
    if 0 < modified.quantity <= order.filled:  # a cancel
        return
    _check_quantity(market, modified)
    _check_price(market, modified.price, "price")
    _check_limit_price(market, modified)
    if modified.reduce_only:
        return
    _check_notional(market, modified)
    market.reserve_notional(order, -order.remaining)  # without the order itself
    try:
        check_margin(account, market, modified)
    finally:
        market.reserve_notional(order, order.remaining)


def check_algo(account: MarginAccount, store: OrderStore, market: Market, algo: AlgoOrder) -> None:
    """Refuse a conditional order with the code of the first broken rule."""
    request = algo.request
    refuse_if(not request.order_type.is_conditional, -1116)
    named = store.algo_named.get(request.client_order_id)
    _check_client_id(request.client_order_id, taken=named is not None and store.is_waiting(named))
    _check_status(account, market, request)
    _check_close_position(market, request)
    if not request.close_position:
        _check_quantity(market, request)
    if request.order_type.is_limit:
        _check_price(market, request.price, "price")
    else:
        refuse_if(request.price, -1106, "price")
    if algo.is_trailing_type:
        _check_trailing(market, request)
    else:
        _check_price(market, request.trigger_price, "triggerprice")
    refuse_if(sum(len(market.open_algos) for market in account.markets.values()) >= MAX_OPEN_ALGO_ORDERS, -4045)
    if request.reduce_only:
        check_reduces(market, request.side)
    elif not request.close_position:
        _check_notional(market, request)
    _check_triggers_later(market, algo)


def _check_client_id(client_order_id: str, *, taken: bool) -> None:
    refuse_if(client_order_id and not _CLIENT_ID.fullmatch(client_order_id), -4015)
    refuse_if(client_order_id and taken, -4116)


def _check_status(account: MarginAccount, market: Market, request: OrderRequest) -> None:
    """Check the position mode, the symbol's status, and what a script has restricted."""
    refuse_if(account.hedge_mode, -4061)
    reduces = request.reduce_only or request.close_position
    if market.status != "TRADING":
        code = STATUS_CODES.get(market.status, -1122)
        refuse_if(code != -4140 or not reduces, code)
    controlled = {"LONG": Side.BUY, "SHORT": Side.SELL}.get(market.rules.position_control)
    refuse_if(request.side == controlled and not reduces, -4105)
    for symbol in ("", market.symbol):
        restriction = account.restrictions.get(symbol)
        if restriction and not (restriction.spares_reducing and reduces):
            raise refused_without_cause(restriction.code)


def _check_quantity(market: Market, request: OrderRequest) -> None:
    """Check LOT_SIZE, or MARKET_LOT_SIZE for an order that is or becomes a market order."""
    instrument = market.instrument
    largest = instrument.max_quantity if request.order_type.is_limit else instrument.market_max_quantity
    refuse_if(request.quantity <= 0, -4003)
    refuse_if(request.quantity < instrument.min_quantity, -4004)
    refuse_if(request.quantity > largest, -4005)
    refuse_if(request.quantity % market.rules.step_multiple, -4023)


def _check_price(market: Market, price: int, name: str) -> None:
    """Check PRICE_FILTER."""
    refuse_if(price == 0, -1102, name)
    refuse_if(price < 0, -4001)
    refuse_if(price < market.rules.min_price, -4013)
    refuse_if(price > market.instrument.max_price, -4002)
    refuse_if(price % market.rules.tick_multiple, -4014)


def _price_bound(market: Market, side: Side) -> Decimal | None:
    """Return the limit of PERCENT_PRICE: highest price of a buy, lowest of a sell; None before the first price."""
    if not market.value_price_e8:
        return None
    multiplier = market.instrument.multiplier_up if side is Side.BUY else market.instrument.multiplier_down
    return Decimal(market.value_price_e8).scaleb(-8) * multiplier


def _check_limit_price(market: Market, request: OrderRequest) -> None:
    bound = _price_bound(market, request.side)
    if bound is not None:
        is_beyond = request.side * (market.instrument.price(request.price) - bound) > 0
        refuse_if(is_beyond, -4016 if request.side is Side.BUY else -4024, plain(bound.normalize()))


def _check_counterparty(market: Market, side: Side) -> None:
    """Refuse a market order without a price on the other side within PERCENT_PRICE."""
    bound, best = _price_bound(market, side), market.instrument.price(market.best_price(side))
    if bound is None or not best:
        raise refused(-2020)
    refuse_if(side * (best - bound) > 0, -4131)


def _check_time_in_force(market: Market, request: OrderRequest) -> None:
    takes = market.would_take(request)
    refuse_if(request.time_in_force is TimeInForce.GTX and takes, -5022)
    refuse_if(request.time_in_force is TimeInForce.FOK and not takes, -5021)


def least_notional(instrument: Instrument) -> str:
    """Return MIN_NOTIONAL as its refusal quotes it."""
    return plain(Decimal(instrument.min_notional).scaleb(-8).normalize())


def _check_notional(market: Market, request: OrderRequest) -> None:
    """Check MIN_NOTIONAL at the limit price, else at the trigger price, else at the mark price."""
    instrument = market.instrument
    price = request.price or request.trigger_price
    if price:
        notional = instrument.notional(price * request.quantity)
    else:
        notional = instrument.value_at_mark(request.quantity, market.value_price_e8)
    refuse_if(notional < instrument.min_notional, -4164, least_notional(instrument))


def check_reduces(market: Market, side: Side) -> None:
    """Refuse a reduce-only order without a position on the other side."""
    refuse_if(market.position.closable(side) == 0, -2022)


def check_margin(account: MarginAccount, market: Market, request: OrderRequest) -> None:
    """Refuse an order that needs more margin than is free; one that needs none is always accepted."""
    notional = market.instrument.notional(request.quantity * assumed_price(market, request))
    buys, sells = (notional, 0) if request.side is Side.BUY else (0, notional)
    exposure = market.exposure(buys, sells)
    if exposure <= market.exposure():
        return
    refuse_if(account.books.wallet <= 0, -2018)
    refuse_if(exposure > largest_notional(market.rules.brackets, market.leverage), -2027)
    needed = divided_up(exposure, market.leverage) - market.margin_needed()
    refuse_if(needed > 0 and needed > account.free_margin(), -2019)


def assumed_price(market: Market, request: OrderRequest) -> int:
    """Return the price for the margin of an order, ticks."""
    return request.price or market.last_price


def _check_close_position(market: Market, request: OrderRequest) -> None:
    if not request.close_position:
        return
    closes_all = (OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET)
    refuse_if(request.order_type not in closes_all, -4136, request.order_type)
    refuse_if(request.reduce_only, -1106, "reduceonly")
    refuse_if(request.quantity, -4137)
    others = (other.request for other in market.open_algos.values() if other.request.close_position)
    refuse_if((request.side, request.order_type) in ((twin.side, twin.order_type) for twin in others), -4130)


def _check_trailing(market: Market, request: OrderRequest) -> None:
    refuse_if(request.callback_bps not in CALLBACK_BPS, -2007)
    refuse_if(request.trigger_price, -1106, "triggerprice")
    if request.activation_price:
        _check_price(market, request.activation_price, "activateprice")


def _check_triggers_later(market: Market, algo: AlgoOrder) -> None:
    """Refuse an order whose trigger price, or activation price for a trailing stop, is reached already."""
    price = market.working_price(algo)
    if algo.is_trailing_type:
        reached = algo.activation > 0 and is_triggered(price, algo.activation, not algo.rising)
    else:
        reached = algo.is_triggered(price)
    refuse_if(price > 0 and reached, -2021)


# --- finding orders ---------------------------------------------------------------------------------------------------


def find_order(store: OrderStore, symbol: str, client_order_id: str, order_id: int, code: int = -2013) -> Order:
    """Return an order by either id; of several with the same client id the latest.

    With code -2013 refuse an order that GET order does not return (any more), with -2011 one that is not open.
    """
    found = store.orders.get(order_id) if order_id else store.order_named.get((symbol, client_order_id))
    if found is None or found.request.symbol != symbol:
        raise refused(code)
    refuse_if(is_forgotten(store, found) if code == -2013 else found.phase is Phase.ENDED, code)
    return found


def is_forgotten(store: OrderStore, order: Order) -> bool:
    """Whether GET order does not return an order any more."""
    unfilled = order.status in ("CANCELED", "EXPIRED") and order.filled == 0
    days = FORGOTTEN_UNFILLED_DAYS if unfilled else FORGOTTEN_DAYS
    return order.phase is Phase.ENDED and store.now > order.created + days * DAY_MS


def find_algo(store: OrderStore, client_order_id: str, algo_id: int, code: int = -2013) -> AlgoOrder:
    """Return a conditional order by either id; of several with the same client id the latest. See `find_order`."""
    found = store.algos.get(algo_id) if algo_id else store.algo_named.get(client_order_id)
    if found is None or found.is_forgotten:
        raise refused(code)
    refuse_if(code != -2013 and not store.is_waiting(found), code)
    return found


# --- account settings -------------------------------------------------------------------------------------------------


def check_leverage(account: MarginAccount, market: Market, leverage: int) -> None:
    """Refuse a leverage that the brackets, an isolated position or the margin do not allow."""
    refuse_if(not 1 <= leverage <= market.rules.brackets[0].leverage, -4028, leverage)
    refuse_if(leverage < market.leverage and market.position.quantity and market.is_isolated, -4161)
    exposure = market.exposure()
    refuse_if(exposure > largest_notional(market.rules.brackets, leverage), -2027)
    more = divided_up(exposure, leverage) - divided_up(exposure, market.leverage)
    refuse_if(more > 0 and more > account.free_margin(), -2028)


def check_position_margin(account: MarginAccount, market: Market, amount: int, *, adding: bool) -> None:
    """Refuse to add or remove margin without an isolated position, or more than is free."""
    refuse_if(amount <= 0, -4055)
    refuse_if(not market.is_isolated, -4049)
    refuse_if(not market.position.quantity, -4054)
    refuse_if(adding and amount > account.free_margin(), -4050)
    spare = market.isolated_wallet + min(0, market.unrealised) - market.position_margin
    refuse_if(not adding and amount > spare, -4051)


def check_position_mode(account: MarginAccount, hedge: bool) -> None:
    """Refuse to set the present position mode, or to change it with orders or positions."""
    refuse_if(hedge == account.hedge_mode, -4059)
    refuse_if(any(market.open_orders or market.open_algos for market in account.markets.values()), -4067)
    refuse_if(any(market.position.quantity for market in account.markets.values()), -4068)
