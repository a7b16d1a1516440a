"""Runs the lines of a venue's script that act on the exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

from voltrade.model import Instrument, OrderRequest, OrderType, Side, TimeInForce, WorkingType, money
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.symbols import brackets_of

Facts = Mapping[str, Any]
"""Values of a line: decimal texts or numbers for prices, quantities and amounts."""


def run_action(exchange: SimulatedExchange, action: str, facts: Facts) -> None:
    """Run one action: one of `ACTIONS`, else the method of the exchange, or of its interventions, with that name."""
    if action in ACTIONS:
        ACTIONS[action](exchange, facts)
        return
    owner = exchange if hasattr(exchange, action) else exchange.interventions
    getattr(owner, action)(**facts)


def _order(exchange: SimulatedExchange, facts: Facts) -> None:
    """Place an ordinary order by hand, a market order where no type is given."""
    exchange.place_order(_request(exchange, facts, "MARKET", "web_by_hand"))


def _algo(exchange: SimulatedExchange, facts: Facts) -> None:
    """Place a conditional order by hand."""
    exchange.place_algo(_request(exchange, facts, "STOP_MARKET", "app_stop"))


def _request(exchange: SimulatedExchange, facts: Facts, kind: str, name: str) -> OrderRequest:
    symbol = facts["symbol"]

    def ticks(field: str) -> int:
        return exchange.ticks(symbol, str(facts[field])) if field in facts else 0

    return OrderRequest(
        symbol=symbol,
        client_order_id=facts.get("clientOrderId", name),
        side=Side[facts["side"]],
        order_type=OrderType(facts.get("type", kind)),
        quantity=exchange.lots(symbol, str(facts["quantity"])) if "quantity" in facts else 0,
        price=ticks("price"),
        trigger_price=ticks("triggerPrice"),
        time_in_force=TimeInForce(facts.get("timeInForce", "GTC")),
        reduce_only=facts.get("reduceOnly", False),
        close_position=facts.get("closePosition", False),
        working_type=WorkingType(facts.get("workingType", "CONTRACT_PRICE")),
        activation_price=ticks("activatePrice"),
        callback_bps=int(Decimal(str(facts.get("callbackRate", 0))) * 100),
    )


def _twap(exchange: SimulatedExchange, facts: Facts) -> None:
    lots, name = exchange.lots(facts["symbol"], str(facts["quantity"])), facts.get("clientAlgoId", "app_twap")
    exchange.interventions.place_twap(facts["symbol"], facts["side"], lots, name)


def _thin_book(exchange: SimulatedExchange, facts: Facts) -> None:
    lots = exchange.lots(facts["symbol"], str(facts["quantity"])) if "quantity" in facts else -1
    exchange.interventions.thin_book(facts["symbol"], lots)


def _liquidate(exchange: SimulatedExchange, facts: Facts) -> None:
    """Liquidate a part of a position, of at least one lot, where no quantity is given."""
    held = abs(exchange.market(facts["symbol"]).position.quantity)
    lots = max(1, int(held * facts.get("part", 1))) if "quantity" not in facts else 0
    lots = lots or exchange.lots(facts["symbol"], str(facts["quantity"]))
    exchange.interventions.liquidate_part(facts["symbol"], min(lots, held))


def _filters(exchange: SimulatedExchange, facts: Facts) -> None:
    """Change fields of `Instrument` or of `SymbolRules`, such as `min_quantity` and `tick_multiple`."""
    market = exchange.market(facts["symbol"])
    changed = {name: value for name, value in facts.items() if name != "symbol"}
    of_instrument = {field.name for field in fields(Instrument)} & changed.keys()
    instrument = replace(market.instrument, **{name: changed.pop(name) for name in of_instrument})
    exchange.change_filters(instrument, replace(market.rules, **changed))


def _brackets(exchange: SimulatedExchange, facts: Facts) -> None:
    market = exchange.market(facts["symbol"])
    brackets = brackets_of([(leverage, cap, str(rate)) for leverage, cap, rate in facts["brackets"]])
    exchange.change_filters(market.instrument, replace(market.rules, brackets=brackets))


def _mark(exchange: SimulatedExchange, facts: Facts) -> None:
    """Set the mark price until the tape's next one."""
    price_e8 = money(str(facts["price"]))
    exchange.on_mark(replace(exchange.mark(facts["symbol"]), time=exchange.clock, price_e8=price_e8))


def _move_money(exchange: SimulatedExchange, facts: Facts) -> None:
    exchange.interventions.move_money(**{**facts, "amount": money(str(facts["amount"]))})


ACTIONS: Mapping[str, Callable[[SimulatedExchange, Facts], object]] = {
    "order": _order,
    "algo": _algo,
    "twap": _twap,
    "thin_book": _thin_book,
    "liquidate": _liquidate,
    "filters": _filters,
    "brackets": _brackets,
    "mark": _mark,
    "move_money": _move_money,
    "deposit": lambda exchange, facts: exchange.deposit(money(str(facts["amount"]))),
    "withdraw": lambda exchange, facts: exchange.withdraw(money(str(facts["amount"]))),
    "cancel_stops": lambda exchange, facts: exchange.cancel_all_algo(**facts),
    "expire_orders": lambda exchange, facts: exchange.interventions.end_orders(**facts),
    "leverage": lambda exchange, facts: exchange.set_leverage(**facts),
    "margin_type": lambda exchange, facts: exchange.set_margin_type(**facts),
    "status": lambda exchange, facts: exchange.interventions.set_status(**facts),
    "fees_in": lambda exchange, facts: exchange.interventions.pay_fees_in(
        facts["asset"], money(str(facts.get("price", 0)))
    ),
    "multi_assets": lambda exchange, facts: exchange.interventions.switch_assets_mode(facts.get("multi", True)),
    "hedge_mode": lambda exchange, facts: exchange.interventions.switch_position_mode(True),
}
"""Actions that are not called as they are named; the others take their values as they are."""
