"""What Binance refuses, and with which code: the checks of a request against filters, open orders, position and margin.

Each check raises `VenueRefusal` or returns nothing; none of them changes anything.
"""

from __future__ import annotations

import re
from decimal import Decimal

from voltrade.errors import DataError
from voltrade.exchange.clearing import ClearingHouse
from voltrade.exchange.execution import is_triggered
from voltrade.exchange.margin import divided_up, largest_notional
from voltrade.exchange.market import Market
from voltrade.exchange.orders import AlgoOrder, Order, Phase
from voltrade.model import DAY_MS, OrderRequest, OrderType, Side, TimeInForce

MAX_OPEN_ALGO_ORDERS = 200
"""Conditional orders that may wait at once, over all symbols."""

CALLBACK_BPS = range(10, 1_001)
"""Callback rates of trailing stops: 0.1% to 10%."""

FORGOTTEN_DAYS = 90
FORGOTTEN_UNFILLED_DAYS = 3
"""GET order knows an order so long after it was placed; the shorter time where it ended without a fill."""

_CLIENT_ID = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")


class VenueRefusal(Exception):
    """A request that Binance would refuse, with its code and text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


# --- numbers of the wire ----------------------------------------------------------------------------------------------


def read_ticks(market: Market, text: str | Decimal) -> int:
    """Read a price: -1111 too many decimals, -4014 no multiple of the tick."""
    _check_decimals(Decimal(text), market.rules.price_precision)
    try:
        return market.instrument.ticks(text)
    except DataError:
        raise VenueRefusal(-4014, "Price not increased by tick size.") from None


def read_lots(market: Market, text: str | Decimal) -> int:
    """Read a quantity: -1111 too many decimals, -4023 no multiple of the step."""
    _check_decimals(Decimal(text), market.rules.quantity_precision)
    try:
        return market.instrument.lots(text)
    except DataError:
        raise VenueRefusal(-4023, "Qty not increased by step size.") from None


def _check_decimals(number: Decimal, precision: int) -> None:
    exponent = number.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > precision:
        raise VenueRefusal(-1111, "Precision is over the maximum defined for this asset.")


# --- orders -----------------------------------------------------------------------------------------------------------


def check_order(house: ClearingHouse, market: Market, request: OrderRequest) -> None:
    """Refuse an ordinary order by the first rule that it breaks."""
    if request.order_type.is_conditional:
        raise VenueRefusal(
            -4120, "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead."
        )
    named = house.order_named.get((market.symbol, request.client_order_id))
    _check_client_id(request.client_order_id, taken=named is not None and named.phase is not Phase.ENDED)
    _check_status(house, market)
    _check_quantity(market, request)
    if request.order_type is OrderType.LIMIT:
        _check_price(market, request.price, "price")
        _check_limit_price(market, request)
        _check_time_in_force(market, request)
    elif request.price:
        raise VenueRefusal(-1106, "Parameter 'price' sent when not required.")
    if len(market.open_orders) >= market.rules.max_open_orders:
        raise VenueRefusal(-2025, "Reach max open order limit.")
    _check_counterparty(market, request)
    if request.reduce_only:
        check_reduces(market, request.side)
    else:
        _check_notional(market, request)
        check_margin(house, market, request)


def check_modification(
    house: ClearingHouse, market: Market, order: Order, modified: OrderRequest, side: int, *, reduces: bool
) -> None:
    """Refuse to modify an order that is not open, or in a way that breaks a rule; it is checked as if it were new."""
    if order.phase is Phase.ENDED:
        raise VenueRefusal(-2013, "Order does not exist.")
    if order.request.order_type is not OrderType.LIMIT:
        raise VenueRefusal(-5025, "Only limit order is supported.")
    if side != order.request.side:
        raise VenueRefusal(-1117, "Invalid side.")
    if reduces and not order.request.reduce_only:
        raise VenueRefusal(-5047, "The original order is not a reduce-only order.")
    if modified == order.request:
        raise VenueRefusal(-5027, "No need to modify the order.")
    _check_status(house, market)
    if 0 < modified.quantity <= order.filled:  # which cancels it
        return
    _check_quantity(market, modified)
    _check_price(market, modified.price, "price")
    _check_limit_price(market, modified)
    if modified.reduce_only:
        return
    _check_notional(market, modified)
    market.weigh(order, -order.remaining)  # it makes way for what it becomes
    try:
        check_margin(house, market, modified)
    finally:
        market.weigh(order, order.remaining)


def check_algo(house: ClearingHouse, market: Market, algo: AlgoOrder) -> None:
    """Refuse a conditional order by the first rule that it breaks."""
    request = algo.request
    if not request.order_type.is_conditional:
        raise VenueRefusal(-1116, "Invalid orderType.")
    named = house.algo_named.get(request.client_order_id)
    _check_client_id(
        request.client_order_id, taken=named is not None and named.id in house.markets[named.request.symbol].open_algos
    )
    _check_status(house, market)
    _check_close_position(market, request)
    if not request.close_position:
        _check_quantity(market, request)
    if request.order_type.is_limit:
        _check_price(market, request.price, "price")
    elif request.price:
        raise VenueRefusal(-1106, "Parameter 'price' sent when not required.")
    if algo.is_trailing_type:
        _check_trailing(market, request)
    else:
        _check_price(market, request.trigger_price, "triggerprice")
    if sum(len(market.open_algos) for market in house.markets.values()) >= MAX_OPEN_ALGO_ORDERS:
        raise VenueRefusal(-4045, "Reach max stop order limit.")
    if request.reduce_only:
        check_reduces(market, request.side)
    elif not request.close_position:
        _check_notional(market, request)
    _check_triggers_later(market, algo)


def _check_client_id(client_order_id: str, *, taken: bool) -> None:
    if client_order_id and not _CLIENT_ID.fullmatch(client_order_id):
        raise VenueRefusal(-4015, "Client order id is not valid.")
    if client_order_id and taken:
        raise VenueRefusal(-4116, "ClientOrderId is duplicated.")


def _check_status(house: ClearingHouse, market: Market) -> None:
    if house.hedge_mode:
        raise VenueRefusal(-4061, "Order's position side does not match user's setting.")
    if market.status != "TRADING":
        raise VenueRefusal(-4141, "Symbol is closed.")


def _check_quantity(market: Market, request: OrderRequest) -> None:
    """LOT_SIZE, and MARKET_LOT_SIZE for what is sent as, or becomes, a market order."""
    instrument = market.instrument
    largest = instrument.max_quantity if request.order_type.is_limit else instrument.market_max_quantity
    if request.quantity <= 0:
        raise VenueRefusal(-4003, "Quantity less than or equal to zero.")
    if request.quantity < instrument.min_quantity:
        raise VenueRefusal(-4004, "Quantity less than min quantity.")
    if request.quantity > largest:
        raise VenueRefusal(-4005, "Quantity greater than max quantity.")


def _check_price(market: Market, price: int, name: str) -> None:
    """PRICE_FILTER."""
    if price == 0:
        raise VenueRefusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    if price < 0:
        raise VenueRefusal(-4001, "Price less than 0.")
    if price < market.rules.min_price:
        raise VenueRefusal(-4013, "Price less than min price.")
    if price > market.instrument.max_price:
        raise VenueRefusal(-4002, "Price greater than max price.")


def _price_band(market: Market) -> tuple[Decimal | None, Decimal | None]:
    """Highest buy and lowest sell price by PERCENT_PRICE; None before the first price."""
    if not market.value_price_e8:
        return None, None
    mark = Decimal(market.value_price_e8).scaleb(-8)
    return mark * market.instrument.multiplier_up, mark * market.instrument.multiplier_down


def _check_limit_price(market: Market, request: OrderRequest) -> None:
    """PERCENT_PRICE around the mark."""
    highest, lowest = _price_band(market)
    price = market.instrument.price(request.price)
    if request.side is Side.BUY and highest is not None and price > highest:
        raise VenueRefusal(-4016, f"Limit price can't be higher than {highest}.")
    if request.side is Side.SELL and lowest is not None and price < lowest:
        raise VenueRefusal(-4024, f"Limit price can't be lower than {lowest}.")


def _check_time_in_force(market: Market, request: OrderRequest) -> None:
    takes = market.would_take(request)
    if request.time_in_force is TimeInForce.GTX and takes:
        raise VenueRefusal(
            -5022, "Due to the order could not be executed as maker, the Post Only order will be rejected."
        )
    if request.time_in_force is TimeInForce.FOK and not takes:
        raise VenueRefusal(-5021, "Due to the order could not be filled immediately, the FOK order has been rejected.")


def _check_counterparty(market: Market, request: OrderRequest) -> None:
    """A market order needs a price on the other side, within the PERCENT_PRICE band."""
    if request.order_type is not OrderType.MARKET:
        return
    best = market.instrument.price(market.best_price(request.side))
    highest, lowest = _price_band(market)
    if not best or highest is None or lowest is None:
        raise VenueRefusal(-2020, "Unable to fill.")
    if best > highest if request.side is Side.BUY else best < lowest:
        raise VenueRefusal(-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit.")


def _check_notional(market: Market, request: OrderRequest) -> None:
    """MIN_NOTIONAL: by the limit price, else by the trigger, else by the mark."""
    instrument = market.instrument
    price = request.price or request.trigger_price
    if price:
        notional = instrument.notional(price * request.quantity)
    else:
        notional = instrument.value_at_mark(request.quantity, market.value_price_e8)
    if notional < instrument.min_notional:
        least = Decimal(instrument.min_notional).scaleb(-8).normalize()
        raise VenueRefusal(
            -4164, f"Order's notional must be no smaller than {least:f} (unless you choose reduce only)."
        )


def check_reduces(market: Market, side: Side) -> None:
    """A reduce-only order needs a position on the other side."""
    if market.held.closable(side) == 0:
        raise VenueRefusal(-2022, "ReduceOnly Order is rejected.")


def check_margin(house: ClearingHouse, market: Market, request: OrderRequest) -> None:
    """Refuse an order that needs more margin than there is; what needs no further margin always passes."""
    notional = market.instrument.notional(request.quantity * assumed_price(market, request))
    buys, sells = (notional, 0) if request.side is Side.BUY else (0, notional)
    exposure = market.exposure(buys, sells)
    if exposure <= market.exposure():
        return
    if house.account.wallet <= 0:
        raise VenueRefusal(-2018, "Balance is insufficient.")
    if exposure > largest_notional(market.rules.brackets, market.leverage):
        raise VenueRefusal(-2027, "Exceeded the maximum allowable position at current leverage.")
    needed = divided_up(exposure, market.leverage) - market.margin_needed()
    if needed > 0 and needed > house.free_margin():
        raise VenueRefusal(-2019, "Margin is insufficient.")


def assumed_price(market: Market, request: OrderRequest) -> int:
    """The price that an order's margin is reckoned with, ticks."""
    return request.price or market.last_price


def _check_close_position(market: Market, request: OrderRequest) -> None:
    if not request.close_position:
        return
    if request.order_type not in (OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET):
        raise VenueRefusal(-4136, f"Target strategy invalid for orderType {request.order_type},closePosition true")
    if request.reduce_only:
        raise VenueRefusal(-1106, "Parameter 'reduceonly' sent when not required.")
    if request.quantity:
        raise VenueRefusal(-4137, "Quantity must be zero with closePosition equals true")
    twins = (other.request for other in market.open_algos.values())
    if any(t.close_position and t.side is request.side and t.order_type is request.order_type for t in twins):
        raise VenueRefusal(
            -4130, "An open stop or take profit order with GTE and closePosition in the direction is existing."
        )


def _check_trailing(market: Market, request: OrderRequest) -> None:
    if request.callback_bps not in CALLBACK_BPS:
        raise VenueRefusal(-2007, "Invalid callBack rate.")
    if request.trigger_price:
        raise VenueRefusal(-1106, "Parameter 'triggerprice' sent when not required.")
    if request.activation_price:
        _check_price(market, request.activation_price, "activateprice")


def _check_triggers_later(market: Market, algo: AlgoOrder) -> None:
    """Refuse what the price has reached already; a trailing stop waits for its activation price on the other side."""
    price = market.working_price(algo)
    if algo.is_trailing_type:
        reached = algo.activation > 0 and is_triggered(price, algo.activation, not algo.rising)
    else:
        reached = algo.is_triggered(price)
    if price > 0 and reached:
        raise VenueRefusal(-2021, "Order would immediately trigger.")


# --- finding orders ---------------------------------------------------------------------------------------------------


def find_order(house: ClearingHouse, symbol: str, client_order_id: str, order_id: int) -> Order:
    """Return an order by either id, of several with one client id the latest; -2013 where there is none (any more)."""
    found = house.orders.get(order_id) if order_id else house.order_named.get((symbol, client_order_id))
    if found is None or found.request.symbol != symbol or is_forgotten(house, found):
        raise VenueRefusal(-2013, "Order does not exist.")
    return found


def is_forgotten(house: ClearingHouse, order: Order) -> bool:
    """Whether GET order has forgotten an order."""
    unfilled = order.status in ("CANCELED", "EXPIRED") and order.filled == 0
    days = FORGOTTEN_UNFILLED_DAYS if unfilled else FORGOTTEN_DAYS
    return order.phase is Phase.ENDED and house.clock > order.created + days * DAY_MS


def find_algo(house: ClearingHouse, client_order_id: str, algo_id: int) -> AlgoOrder:
    """Return a conditional order by either id, of several with one client id the latest; -2013 where there is none."""
    found = house.algos.get(algo_id) if algo_id else house.algo_named.get(client_order_id)
    if found is None:
        raise VenueRefusal(-2013, "Order does not exist.")
    return found


def find_open_order(house: ClearingHouse, symbol: str, client_order_id: str, order_id: int) -> Order:
    """Return an order to cancel; -2011 where no such order is open."""
    try:
        order = find_order(house, symbol, client_order_id, order_id)
    except VenueRefusal:
        raise VenueRefusal(-2011, "Unknown order sent.") from None
    if order.phase is Phase.ENDED:
        raise VenueRefusal(-2011, "Unknown order sent.")
    return order


def find_open_algo(house: ClearingHouse, symbol: str, client_order_id: str, algo_id: int) -> AlgoOrder:
    """Return a conditional order to cancel; -2011 where no such order waits. The wire may send no symbol."""
    found = house.algos.get(algo_id) if algo_id else house.algo_named.get(client_order_id)
    if found is None or symbol not in ("", found.request.symbol):
        raise VenueRefusal(-2011, "Unknown order sent.")
    if found.id not in house.markets[found.request.symbol].open_algos:
        raise VenueRefusal(-2011, "Unknown order sent.")
    return found


# --- account settings -------------------------------------------------------------------------------------------------


def check_leverage(house: ClearingHouse, market: Market, leverage: int) -> None:
    """Refuse a leverage that the brackets, an isolated position, or the margin do not allow."""
    if not 1 <= leverage <= market.rules.brackets[0].leverage:
        raise VenueRefusal(-4028, f"Leverage {leverage} is not valid")
    if leverage < market.leverage and market.held.quantity and market.is_isolated:
        raise VenueRefusal(-4161, "Leverage reduction is not supported in Isolated Margin Mode with open positions.")
    exposure = market.exposure()
    if exposure > largest_notional(market.rules.brackets, leverage):
        raise VenueRefusal(-2027, "Exceeded the maximum allowable position at current leverage.")
    more = divided_up(exposure, leverage) - divided_up(exposure, market.leverage)
    if more > 0 and more > house.free_margin():
        raise VenueRefusal(-2028, "Leverage is smaller than permitted: insufficient margin balance.")


def check_margin_type(market: Market, margin_type: str) -> None:
    if margin_type not in ("isolated", "cross"):
        raise VenueRefusal(-1130, "Data sent for parameter 'marginType' is not valid.")
    if margin_type == market.margin_type:
        raise VenueRefusal(-4046, "No need to change margin type.")
    if market.open_orders or market.open_algos:
        raise VenueRefusal(-4047, "Margin type cannot be changed if there exists open orders.")
    if market.held.quantity:
        raise VenueRefusal(-4048, "Margin type cannot be changed if there exists position.")


def check_position_margin(house: ClearingHouse, market: Market, amount: int, *, adding: bool) -> None:
    """Refuse to move margin to or from an isolated position where there is none, or too little."""
    if amount <= 0:
        raise VenueRefusal(-4055, "Amount must be positive.")
    if not market.is_isolated:
        raise VenueRefusal(-4049, "Add margin only support for isolated position.")
    if not market.held.quantity:
        raise VenueRefusal(-4054, "Cannot add position margin: position is 0.")
    if adding and amount > house.free_margin():
        raise VenueRefusal(-4050, "Cross balance insufficient.")
    spare = market.isolated_wallet + min(0, market.unrealised) - market.position_margin
    if not adding and amount > spare:
        raise VenueRefusal(-4051, "Isolated balance insufficient.")


def check_position_mode(house: ClearingHouse, hedge: bool, now: bool) -> None:
    """Refuse a change of the position mode that is none, or that orders or positions forbid."""
    if hedge == now:
        raise VenueRefusal(-4059, "No need to change position side.")
    if any(market.open_orders or market.open_algos for market in house.markets.values()):
        raise VenueRefusal(-4067, "Position side cannot be changed if there exists open orders.")
    if any(market.held.quantity for market in house.markets.values()):
        raise VenueRefusal(-4068, "Position side cannot be changed if there exists position.")
