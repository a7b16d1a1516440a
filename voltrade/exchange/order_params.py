"""The parameters of Binance's order requests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from voltrade.model import CancelOrder, Instrument, LookupOrder, OrderRequest, OrderType


def order_params(order: OrderRequest, instrument: Instrument) -> dict[str, Any]:
    """Return the parameters of POST /fapi/v1/order."""
    params = {
        "symbol": order.symbol,
        "side": order.side.name,
        "type": order.order_type.value,
        "quantity": _text(instrument.quantity(order.quantity)),
        "newClientOrderId": order.client_order_id,
        "newOrderRespType": "ACK",
    }
    if order.order_type is OrderType.LIMIT:
        params |= {"price": _text(instrument.price(order.price)), "timeInForce": order.time_in_force.value}
    return params | ({"reduceOnly": "true"} if order.reduce_only else {})


def algo_params(order: OrderRequest, instrument: Instrument) -> dict[str, Any]:
    """Return the parameters of POST /fapi/v1/algoOrder."""
    params = {
        "algoType": "CONDITIONAL",
        "symbol": order.symbol,
        "side": order.side.name,
        "type": order.order_type.value,
        "triggerPrice": _text(instrument.price(order.trigger_price)),
        "workingType": order.working_type.value,
        "clientAlgoId": order.client_order_id,
    }
    if order.close_position:
        return params | {"closePosition": "true"}  # allows neither quantity nor reduceOnly
    params["quantity"] = _text(instrument.quantity(order.quantity))
    return params | ({"reduceOnly": "true"} if order.reduce_only else {})


def id_params(command: CancelOrder | LookupOrder) -> dict[str, Any]:
    """Return the parameters that name the order of a command."""
    if command.algo:
        return {"clientAlgoId": command.client_order_id}
    return {"symbol": command.symbol, "origClientOrderId": command.client_order_id}


def _text(number: Decimal) -> str:
    """Return a number without trailing zeros: a symbol whose tick became coarser may have fewer decimals than a run."""
    return format(number.normalize(), "f")
