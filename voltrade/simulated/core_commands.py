"""Carries out commands of the core at the simulated exchange, in process."""

from __future__ import annotations

from typing import Literal

from voltrade.model import (
    AlgoUpdate,
    CancelOrder,
    Command,
    LookupOrder,
    OrderIntent,
    OrderUpdate,
    Outcome,
    Reply,
    Snapshot,
    TakeSnapshot,
    UserDataEvent,
)
from voltrade.simulated.events import AccountChange
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.refusals import VenueRefusal


def execute(exchange: SimulatedExchange, command: Command) -> Reply | Snapshot:
    """Carry out a command and return the reply, or the snapshot."""
    if isinstance(command, TakeSnapshot):
        return exchange.snapshot(command.symbol)
    action: Literal["submit", "cancel", "lookup"]
    if isinstance(command, OrderIntent):
        order = command.order
        action, symbol = "submit", order.symbol
        client_order_id, algo = order.client_order_id, order.order_type.is_conditional
    else:
        action, symbol = "cancel" if isinstance(command, CancelOrder) else "lookup", command.symbol
        client_order_id, algo = command.client_order_id, command.algo
    outcome, code, text = Outcome.ACCEPTED, 0, ""
    update: OrderUpdate | AlgoUpdate | None = None
    try:
        update = _carry_out(exchange, command)
    except VenueRefusal as refusal:
        outcome, code, text = Outcome.REFUSED, refusal.code, refusal.message
    ordinary = update if isinstance(update, OrderUpdate) else None
    conditional = update if isinstance(update, AlgoUpdate) else None
    return Reply(exchange.clock, action, symbol, client_order_id, algo, outcome, code, text, ordinary, conditional)


def _carry_out(
    exchange: SimulatedExchange, command: OrderIntent | CancelOrder | LookupOrder
) -> OrderUpdate | AlgoUpdate:
    if isinstance(command, OrderIntent):
        order = command.order
        return exchange.place_algo(order) if order.order_type.is_conditional else exchange.place_order(order)
    is_cancel, client_order_id = isinstance(command, CancelOrder), command.client_order_id
    if command.algo:
        call_algo = exchange.cancel_algo if is_cancel else exchange.query_algo
        return call_algo(client_order_id=client_order_id)
    call = exchange.cancel_order if is_cancel else exchange.query_order
    return call(command.symbol, client_order_id=client_order_id)


def drain_events(exchange: SimulatedExchange) -> list[UserDataEvent]:
    """Empty the outbox and return the events that the core uses."""
    events: list[UserDataEvent] = []
    for event in exchange.outbox:
        if isinstance(event, AccountChange):
            events.append(event.update())
        elif isinstance(event, OrderUpdate | AlgoUpdate):
            events.append(event)
    exchange.outbox.clear()
    return events
