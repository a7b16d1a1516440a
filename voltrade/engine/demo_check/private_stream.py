"""The private stream in the check: which path carries events, and what becomes of a listen key that is deleted."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from voltrade.engine.demo_check.context import EVENT_WITHIN_S, CheckContext, coded
from voltrade.engine.demo_check.frames import Frame, Listener
from voltrade.exchange.account_facts import least_lots
from voltrade.exchange.binance import STREAM_HOSTS, Endpoint

EXPIRY_WITHIN_S = 3.0
"""Longest wait for the event of a listen key that was deleted."""
EVENTS = "ORDER_TRADE_UPDATE/ACCOUNT_UPDATE/ALGO_UPDATE/TRADE_LITE/ACCOUNT_CONFIG_UPDATE/listenKeyExpired"
KINDS = ("ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "ALGO_UPDATE", "ACCOUNT_CONFIG_UPDATE")


def stream_hosts(endpoint: Endpoint) -> list[str]:
    """Return the websocket addresses that are tried: the one that trading uses, then others of the same kind."""
    others = [f"wss://{host}" for host in STREAM_HOSTS.get(endpoint.name, ())]
    return [endpoint.stream, *(host for host in others if host != endpoint.stream)]


async def open_private(context: CheckContext) -> None:
    """Open the private stream in each way that clients use, and with a key that nobody has."""
    key = await context.wiring.rest.listen_key()
    own, *others = stream_hosts(context.wiring.endpoint)
    made_up = f"{'0' * len(key)}"
    urls = {
        "?listenKey": f"{own}/private/ws?listenKey={key}",
        "?listenKey and events": f"{own}/private/ws?listenKey={key}&events={EVENTS}",
        "/ws/KEY": f"{own}/private/ws/{key}",
        **{urlsplit(host).netloc: f"{host}/private/ws?listenKey={key}" for host in others},
        "made-up listen key": f"{own}/private/ws?listenKey={made_up}",
    }
    exchange = context.wiring.exchange
    context.users = [Listener(name, url, exchange, context.record, context.hear) for name, url in urls.items()]
    await asyncio.gather(*(user.open() for user in context.users))
    first = context.users[0]
    context.row("private", "private stream opens", "connected", first.error or "connected", first.is_open)


async def check_paths(context: CheckContext) -> None:
    """Tell which of the open private streams brought events; the first must."""
    for user in context.users:
        kinds = sorted({frame.kind for frame in user.frames} & set(KINDS))
        found = ", ".join(kinds) or f"silent {user.error}".strip()
        context.answer("private stream", f"{user.name}: {found}")
        if user.name == "made-up listen key":
            silence = "events of somebody" if kinds else user.error or "connected and silent"
            context.row("private", user.name, "silent or refused", silence, not kinds)
            context.answer("listen key", f"made-up key: {silence}")
        elif user is context.users[0]:
            has_all = {"ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "ALGO_UPDATE"} <= set(kinds)
            context.row("private", f"events by {user.name}", "orders, account, conditional orders", found, has_all)
        else:
            context.row("private", f"events by {user.name}", "the same, or none", found, bool(kinds) or "differs")


async def check_listen_key(context: CheckContext) -> None:
    """Delete the listen key, wait for its event, and recover as trading does: a new key, a new connection, an event."""
    old = context.users[0]
    seen = len(old.frames)
    deleted = await context.ask("fapiPrivateDeleteListenKey")
    context.row("private", "delete the listen key", "accepted", coded(deleted), deleted.status == 200)
    expired = await old.first(_is_expiry, EXPIRY_WITHIN_S, since=seen)
    said = "listenKeyExpired" if expired else f"nothing within {EXPIRY_WITHIN_S:.0f} s"
    context.row("private", "its expiry is told", "listenKeyExpired", said, "ok" if expired else "differs")
    put = await context.ask("fapiPrivatePutListenKey")
    context.row("private", "PUT after the delete", "-1125", coded(put), put.code == -1125 or "differs")
    context.answer("listen key", f"DELETE: {said}; PUT afterwards: {coded(put)}")
    await _recover(context)


def _is_expiry(frame: Frame) -> bool:
    return frame.kind == "listenKeyExpired"


async def _recover(context: CheckContext) -> None:
    """Dial with a new key, and let something happen that is told while flat."""
    key = await context.wiring.rest.listen_key()
    url = f"{context.wiring.endpoint.stream}/private/ws?listenKey={key}"
    again = Listener("after the delete", url, context.wiring.exchange, context.record)
    await again.open()
    begun = context.now
    try:
        kind = await cause_event(context)
        event = await again.first(lambda frame: frame.kind == kind, EVENT_WITHIN_S)
    finally:
        await again.close()
    took = event.at - begun if event else 0
    found = f"{kind} after {took:,} ms" if event else f"no event {again.error}".strip()
    context.row("private", "recovery of the stream", "an event on a new key", found, event is not None, took)


async def cause_event(context: CheckContext) -> str:
    """Do what the private stream tells of a flat account; return the kind of the event.

    The leverage goes one down and back, never above what an authorisation may allow. From 1 it can't: then an order is
    placed far from the market, and cancelled.
    """
    leverage = context.wiring.config.risk.leverage
    if leverage == 1:
        price, name = await context.far_below(), context.new_name("f")
        await context.far_order(name, least_lots(context.instrument, price), price)
        await context.cancel(name)
        return "ORDER_TRADE_UPDATE"
    try:
        await context.read("fapiPrivatePostLeverage", symbol=context.symbol, leverage=leverage - 1)
    finally:
        await context.ask("fapiPrivatePostLeverage", symbol=context.symbol, leverage=leverage)
    return "ACCOUNT_CONFIG_UPDATE"
