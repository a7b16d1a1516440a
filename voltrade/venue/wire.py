"""How the simulated venue tells of orders and accounts in Binance's JSON: user data events and REST objects.

Pure functions of facts: no socket, no clock. Types are Binance's: prices, quantities and money are texts, ids and times
are integers, flags are booleans. `venue_messages.json` has each message as it is sent, with `$` before what is a fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from voltrade.model import AlgoUpdate, Instrument, OrderUpdate, Side, money_text
from voltrade.simulated.clearing import AccountChange, MarginCall, PositionRisk, SettingsChange, UserEvent
from voltrade.simulated.exchange import Balances, SimulatedExchange
from voltrade.simulated.formatting import amounts_of, average_text, facts_of, notional_text, plain
from voltrade.simulated.market import Market
from voltrade.simulated.orders import AlgoOrder
from voltrade.simulated.symbols import table

Json = dict[str, Any]

OPEN = ("NEW", "PARTIALLY_FILLED")
"""States of an order that is still at work."""


def written(name: str, facts: Mapping[str, Any]) -> Json:
    """Write the message of a name, with facts in it."""
    message: Json = _filled(table("venue/messages.json")[name], facts)
    return message


def _filled(template: Any, facts: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        return facts[template[1:]] if template.startswith("$") else template
    if isinstance(template, dict):
        return {key: _filled(value, facts) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, facts) for value in template]
    return template


def order_message(name: str, market: Market, order: OrderUpdate) -> Json:
    """Write an ordinary order, or one of its fills, as an object of REST or an event."""
    instrument = market.instrument
    facts = facts_of(instrument, order) | {"buys": order.side > 0, "fee_asset": order.fee_asset or "USDT"}
    facts |= {"average_price": average_text(instrument, order.filled_notional, order.filled)}
    facts |= {"last_notional": notional_text(instrument, order.last_price * order.last_quantity)}
    facts |= {"bid_notional": money_text(market.open_notional(Side.BUY))}
    facts |= {"ask_notional": money_text(market.open_notional(Side.SELL))}
    return written(name, facts)


def algo_message(name: str, instrument: Instrument, algo: AlgoUpdate, source: AlgoOrder) -> Json:
    """Write a conditional order as an object of REST or an event.

    Args:
        algo: as it is told.
        source: the same as the exchange holds it, perhaps further on.
    """
    asked, child = source.request, source.child if algo.order_id else None
    facts = facts_of(instrument, asked) | facts_of(instrument, algo)
    facts |= {"actual_id": str(algo.order_id or ""), "actual_type": child.request.order_type if child else ""}
    facts |= {"actual_price": average_text(instrument, child.filled_notional, child.filled) if child else "0"}
    facts |= {"activate_price": facts["activation_price"] if asked.activation_price else ""}
    facts |= {"callback_rate": plain(Decimal(asked.callback_bps).scaleb(-2)) if asked.callback_bps else ""}
    facts |= {"created": source.created, "triggered": 0 if algo.status == "NEW" else source.triggered}
    return written(name, facts)


def position_message(name: str, instrument: Instrument, risk: PositionRisk, liquidation_price: str = "0") -> Json:
    """Write a position as a path or an event tells it."""
    isolated = risk.margin_type == "isolated"
    facts = facts_of(instrument, risk) | {"liquidation_price": liquidation_price, "is_isolated": isolated}
    facts |= {"leverage_text": str(risk.leverage), "margin_mode": "ISOLATED" if isolated else "CROSSED"}
    return written(name, facts)


def account_message(name: str, balances: Balances, updated: int, positions: Sequence[Json] = ()) -> Json:
    """Write the sums of an account, and its one asset."""
    return written(name, {**amounts_of(balances), "updated": updated, "positions": positions})


def user_events(exchange: SimulatedExchange, happened: UserEvent) -> Iterator[Json]:
    """Write what happened at the exchange as user data events."""
    markets = exchange.markets
    match happened:
        case OrderUpdate():
            if happened.execution == "TRADE":
                yield order_message("TRADE_LITE", markets[happened.symbol], happened)
            yield order_message("ORDER_TRADE_UPDATE", markets[happened.symbol], happened)
        case AlgoUpdate():
            source, instrument = exchange.algos[happened.algo_id], markets[happened.symbol].instrument
            yield algo_message("ALGO_UPDATE", instrument, happened, source)
        case AccountChange() | MarginCall() as told:
            name = "ACCOUNT_UPDATE" if isinstance(told, AccountChange) else "MARGIN_CALL"
            held = f"{name} position"
            rows = [position_message(held, markets[risk.symbol].instrument, risk) for risk in told.positions]
            event = written(name, amounts_of(told) | {"positions": rows})
            if rows and rows[0]["mt"] == "ISOLATED":
                del event["cw"]  # a margin call tells of the cross wallet only where the positions share it
            yield event
        case SettingsChange():
            yield written("ACCOUNT_CONFIG_UPDATE", asdict(happened))
