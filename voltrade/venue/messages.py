"""Orders and accounts in Binance's JSON: user data events and REST objects of the simulated venue.

Pure functions: no socket, no clock. Types are Binance's: prices, quantities and money are texts, ids and times are
integers, flags are booleans. `messages.json` has a template of each message, with `$` before the name of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from voltrade.model import AlgoUpdate, Instrument, OrderUpdate, Side, money_text
from voltrade.simulated.events import (
    AccountChange,
    AssetsModeChange,
    MarginCall,
    PositionRisk,
    SettingsChange,
    UserEvent,
)
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.formatting import amounts_of, average_text, facts_of, notional_text, plain
from voltrade.simulated.margin_account import Balances
from voltrade.simulated.market import QUOTE_ASSET, Market
from voltrade.simulated.orders import AlgoOrder
from voltrade.simulated.symbols import table

Json = dict[str, Any]

OPEN = ("NEW", "PARTIALLY_FILLED")
"""Statuses of an open order."""

ONLY_ASKED = ("avgPrice", "cumQuote")
"""Fields of an order that only the answer to a query has."""
TRAILING_ONLY = ("activatePrice", "callbackRate")
OF_THE_CHILD = ("actualOrderId", "actualPrice", "actualQty", "actualType")
"""Fields of a conditional order: the answer to its placement has the first two, queries have the others."""


def lacking(message: Json, names: Iterable[str]) -> Json:
    """Return a message without some fields."""
    return {name: value for name, value in message.items() if name not in names}


def render(name: str, facts: Mapping[str, Any]) -> Json:
    """Return the message with a name, with values in it."""
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
    """Return an ordinary order, or one of its fills, as a REST object or an event."""
    instrument = market.instrument
    facts = facts_of(instrument, order) | {"buys": order.side > 0, "fee_asset": order.fee_asset or "USDT"}
    facts |= {"average_price": average_text(instrument, order.filled_notional, order.filled)}
    facts |= {"last_notional": notional_text(instrument, order.last_price * order.last_quantity)}
    facts |= {"bid_notional": money_text(market.open_notional(Side.BUY))}
    facts |= {"ask_notional": money_text(market.open_notional(Side.SELL))}
    return render(name, facts)


def algo_message(name: str, instrument: Instrument, algo: AlgoUpdate, source: AlgoOrder) -> Json:
    """Return a conditional order as a REST object or an event.

    Args:
        algo: its state in the message.
        source: the order at the exchange, which may have a later state.
    """
    asked, child = source.request, source.child if algo.order_id else None
    facts = facts_of(instrument, asked) | facts_of(instrument, algo)
    facts |= {"actual_id": str(algo.order_id or ""), "actual_type": child.request.order_type if child else ""}
    facts |= {"actual_price": average_text(instrument, child.filled_notional, child.filled) if child else "0"}
    facts |= {"activate_price": facts["activation_price"] if asked.activation_price else ""}
    facts |= {"callback_rate": plain(Decimal(asked.callback_bps).scaleb(-2)) if asked.callback_bps else ""}
    facts |= {
        "algo_type": source.kind,
        "created": source.created,
        "triggered": 0 if algo.status == "NEW" else source.triggered,
    }
    message = render(name, facts)
    if name == "ALGO_UPDATE" and source.is_trailing_type:
        message["o"]["ia"] = source.trailing
    return message


def position_message(name: str, instrument: Instrument, risk: PositionRisk, liquidation_price: str = "0") -> Json:
    """Return a position as a REST object or an event."""
    isolated = risk.margin_type == "isolated"
    facts = facts_of(instrument, risk) | {"liquidation_price": liquidation_price, "is_isolated": isolated}
    facts |= {"leverage_text": str(risk.leverage), "margin_mode": "ISOLATED" if isolated else "CROSSED"}
    return render(name, facts)


def account_message(name: str, balances: Balances, updated: int, positions: Sequence[Json] = ()) -> Json:
    """Return the balances of an account, and its only asset."""
    return render(name, {**amounts_of(balances), "updated": updated, "positions": positions})


def user_events(exchange: SimulatedExchange, event: UserEvent) -> Iterator[Json]:
    """Yield the user data events of an event of the exchange."""
    markets = exchange.markets
    match event:
        case OrderUpdate():
            if event.execution == "TRADE":
                yield order_message("TRADE_LITE", markets[event.symbol], event)
            message = order_message("ORDER_TRADE_UPDATE", markets[event.symbol], event)
            if event.execution == "AMENDMENT" and (named := exchange.orders[event.order_id].modify_id):
                message["o"]["M"] = named
            yield message
        case AlgoUpdate():
            source, instrument = exchange.algos[event.algo_id], markets[event.symbol].instrument
            yield algo_message("ALGO_UPDATE", instrument, event, source)
        case AccountChange() as change:
            rows = _positions(exchange, "ACCOUNT_UPDATE position", change.positions)
            message = render(
                "ACCOUNT_UPDATE", amounts_of(change) | {"positions": rows, "balances": [*_balances(change)]}
            )
            if not change.symbol:
                del message["a"]["S"]
            yield message
        case MarginCall() as call:
            rows = _positions(exchange, "MARGIN_CALL position", call.positions)
            message = render("MARGIN_CALL", amounts_of(call) | {"positions": rows})
            if rows and rows[0]["mt"] == "ISOLATED":
                del message["cw"]  # a margin call has the cross wallet only for cross positions
            yield message
        case SettingsChange():
            yield render("ACCOUNT_CONFIG_UPDATE", asdict(event))
        case AssetsModeChange():
            yield render("ACCOUNT_CONFIG_UPDATE mode", asdict(event))


def _positions(exchange: SimulatedExchange, name: str, positions: Sequence[PositionRisk]) -> list[Json]:
    return [position_message(name, exchange.markets[risk.symbol].instrument, risk) for risk in positions]


def _balances(change: AccountChange) -> Iterator[Json]:
    """Yield the rows of the assets that have changed."""
    if change.quote_changed:
        amounts = {"wallet": change.wallet, "cross_wallet": change.cross_wallet, "change": change.balance_change}
        yield _balance(QUOTE_ASSET, amounts)
    for other in change.others:
        yield _balance(other.asset, {"wallet": other.wallet, "cross_wallet": other.wallet, "change": other.change})


def _balance(asset: str, amounts: Mapping[str, int]) -> Json:
    texts = {name: money_text(amount) for name, amount in amounts.items()}
    return render("ACCOUNT_UPDATE balance", {"asset": asset, **texts})


def asset_message(name: str, asset: str, amount: int, updated: int) -> Json:
    """Return what the wallet has of an asset other than the quote asset."""
    return render(name, {"asset": asset, "amount": money_text(amount), "updated": updated})
