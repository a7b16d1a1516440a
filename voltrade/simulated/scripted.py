"""Runs the lines of a venue's script that act on the exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from voltrade.model import OrderRequest, OrderType, Side, money
from voltrade.simulated.exchange import SimulatedExchange


def run_action(exchange: SimulatedExchange, action: str, facts: Mapping[str, Any]) -> None:
    """Run one action; most are methods of the exchange, with decimal texts for amounts.

    `order` places a foreign market order, `mark` sets the mark price until the tape's next one, and `filters` changes
    fields of `Instrument`.
    """
    symbol = facts.get("symbol", "")
    match action:
        case "order":
            lots, name = exchange.lots(symbol, str(facts["quantity"])), facts.get("clientOrderId", "web_by_hand")
            order = OrderRequest(symbol, name, Side[facts["side"]], OrderType.MARKET, lots)
            exchange.place_order(replace(order, reduce_only=facts.get("reduceOnly", False)))
        case "filters":
            changed = {name: value for name, value in facts.items() if name != "symbol"}
            exchange.change_filters(replace(exchange.market(symbol).instrument, **changed))
        case "mark":
            price_e8 = money(str(facts["price"]))
            exchange.on_mark(replace(exchange.mark(symbol), time=exchange.clock, price_e8=price_e8))
        case "deposit" | "withdraw":
            getattr(exchange, action)(money(str(facts["amount"])))
        case "hedge_mode":
            exchange.switch_position_mode(True)
        case _:
            getattr(exchange, {"cancel_stops": "cancel_all_algo", "leverage": "set_leverage"}.get(action, action))(
                **facts
            )
