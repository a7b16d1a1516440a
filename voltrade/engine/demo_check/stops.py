"""Conditional orders of the check: stops beside a position, their refusals, and one that triggers."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from typing import Any

from voltrade.engine.demo_check.context import CheckContext, coded
from voltrade.engine.demo_check.orders import check_readable

PART = "stops"
TRIGGER_TRIES, TRIGGER_WITHIN_S = 6, 10.0
"""How often a stop is placed just below the market, and how long each may wait for its trigger."""
DONE = ("FINISHED", "CANCELED", "EXPIRED", "REJECTED")


async def check_stops(context: CheckContext) -> None:
    """Try stops beside the position that was bought, then let one trigger and see what becomes of the others."""
    far, lots = await context.far_below(), context.lots
    first = await _place(context, "stop", far, lots) if lots else ""
    if not first:
        return
    await _check_refusals(context, first, far, lots)
    await _check_large(context, far, lots)
    tick = context.instrument.tick_size
    closing = await _place(context, "stop that closes all", far - 20 * tick)
    if closing:
        second = await context.stop("SELL", context.new_name("s"), far - 30 * tick)
        context.row(PART, "second that closes all", "-4130", coded(second), second.code == -4130)
    await _check_cancel(context, first)
    full = await _place(context, "second full-size stop", far, lots)
    await _check_trigger(context, lots, {"reduce-only": full, "closePosition": closing})


async def _place(context: CheckContext, item: str, trigger: Decimal, lots: int = 0) -> str:
    """Place a stop; return its name, or an empty text if it was refused."""
    name, sent = context.new_name("s"), context.now
    placed = await context.stop("SELL", name, trigger, lots)
    if not context.row(PART, item, "accepted", coded(placed), placed.status == 200, context.now - sent):
        return ""
    event = await context.event("ALGO_UPDATE", name, "NEW")
    took = event.at - sent if event else 0
    found = f"after {took:,} ms" if event else "no event"
    context.row(PART, f"event of the {item}", "ALGO_UPDATE NEW", found, event is not None, took)
    query = await context.ask("fapiPrivateGetAlgoOrder", clientAlgoId=name)
    status = query.body.get("algoStatus", "") if isinstance(query.body, dict) else ""
    context.row(PART, f"{item} by query", "NEW", status or coded(query), status == "NEW")
    return name


async def _check_refusals(context: CheckContext, name: str, far: Decimal, lots: int) -> None:
    again = await context.stop("SELL", name, far, lots)
    context.row(PART, "duplicate stop id", "-4116 or -20132", coded(again), again.code in (-4116, -20132))
    context.answer("duplicate ids", f"stop {again.code}")
    _, ask = await context.touch()
    beyond = context.on_tick(ask * Decimal("1.01"))
    crossed = await context.stop("SELL", context.new_name("s"), beyond, lots)
    context.row(PART, "trigger beyond the price", "-2021 or -4142", coded(crossed), crossed.code in (-2021, -4142))
    off = await context.stop("SELL", context.new_name("s"), far + context.instrument.tick_size / 2, lots)
    context.row(PART, "trigger off the tick", "-1111 or -4014", coded(off), off.code in (-1111, -4014))
    context.answer("wrong prices", f"crossed trigger {crossed.code}, trigger off the tick {off.code}")


async def _check_large(context: CheckContext, far: Decimal, lots: int) -> None:
    """Try a stop of twice the position; trading never sends one, so that both answers are right."""
    name = context.new_name("s")
    large = await context.stop("SELL", name, far, 2 * lots)
    context.row(PART, "larger than the position", "accepted, or a refusal", coded(large))
    context.answer("large stops", f"twice the position: {coded(large)}")
    if large.status == 200:
        await context.cancel_stop(name)


async def _check_cancel(context: CheckContext, name: str) -> None:
    sent = context.now
    gone = await context.cancel_stop(name)
    context.row(PART, "cancel of a stop", "accepted", coded(gone), gone.status == 200, context.now - sent)
    event = await context.event("ALGO_UPDATE", name, "CANCELED")
    found = f"after {event.at - sent:,} ms" if event else "no event"
    context.row(PART, "event of its cancel", "ALGO_UPDATE CANCELED", found, event is not None)


# --- one that triggers ------------------------------------------------------------------------------------------------


async def _check_trigger(context: CheckContext, lots: int, others: dict[str, str]) -> None:
    """Place stops just below the market until one triggers, follow it, and look at the other stops."""
    name = await _trigger(context, lots)
    if not name:
        found = f"none in {TRIGGER_TRIES} tries of {TRIGGER_WITHIN_S:.0f} s"
        context.row(PART, "a stop triggers", "within a minute", found, ok=False)
        return
    end = await context.event("ALGO_UPDATE", name, "FINISHED", within_s=10)
    frames = [frame for frame in context.events_of(name) if frame.kind == "ALGO_UPDATE"]
    words = [f"{frame.order['X']} after {frame.at - frames[0].at:,} ms" for frame in frames]
    context.row(PART, "a stop triggers", "to FINISHED", ", ".join(words), end is not None)
    check_readable(context, PART, "its events are read", context.events_of(name))
    await _check_child(context, name)
    flat = await context.within_position(Decimal(0), 5.0)
    context.row(PART, "its fill closes the position", "flat", "flat" if flat else "a position is left", flat)
    await _check_others(context, others)


async def _trigger(context: CheckContext, lots: int) -> str:
    """Place a stop a tick below the bid, later at the bid, until one triggers; return its name, or an empty text."""
    for attempt in range(TRIGGER_TRIES):
        bid, _ = await context.touch()
        name, below = context.new_name("s"), context.instrument.tick_size * (attempt < TRIGGER_TRIES // 2)
        placed = await context.stop("SELL", name, bid - below, lots)
        if placed.status != 200:  # the price has passed it meanwhile
            await asyncio.sleep(0.5)
            continue
        left = await context.within(partial(_has_left, context, name), TRIGGER_WITHIN_S)
        if left or (await context.cancel_stop(name)).status != 200:
            return name
    return ""


def _has_left(context: CheckContext, name: str) -> bool:
    """Whether a stop is no longer NEW, by its events."""
    return any(frame.kind == "ALGO_UPDATE" and frame.order.get("X") != "NEW" for frame in context.events_of(name))


async def _check_child(context: CheckContext, name: str) -> None:
    """Follow the order that the stop became, by its id and by the stop's name."""
    algo = await context.ask("fapiPrivateGetAlgoOrder", clientAlgoId=name)
    body: dict[str, Any] = algo.body if isinstance(algo.body, dict) else {}
    order_id = str(body.get("actualOrderId") or "")
    context.row(PART, "its order's id by query", "actualOrderId", order_id or coded(algo), bool(order_id))
    by_name = await context.ask("fapiPrivateGetOrder", symbol=context.symbol, origClientOrderId=name)
    fills = [
        frame.at
        for frame in context.users[0].frames
        if frame.kind == "ORDER_TRADE_UPDATE" and str(frame.order.get("i")) == order_id and frame.order["x"] == "TRADE"
    ]
    found = f"{len(fills)} of order {order_id}" if fills else "none"
    context.row(PART, "fills of its order", "by the private stream", found, bool(fills))
    states = {str(frame.order["X"]): frame.at for frame in context.events_of(name) if frame.kind == "ALGO_UPDATE"}
    named = "has the stop's client id" if by_name.status == 200 else f"is not found by it ({coded(by_name)})"
    begun = min(states.values(), default=0)
    since = ", ".join([*(f"{state} after {at - begun:,} ms" for state, at in states.items())])
    filled = ", ".join(f"{at - begun:,} ms" for at in fills) or "none"
    context.answer("triggered child", f"its order {named}; {since or 'no event of it'}; fills after {filled}")


async def _check_others(context: CheckContext, others: dict[str, str]) -> None:
    """Look at the stops that were there when another closed the position, and cancel what is left."""
    await context.within(lambda: all(_has_left(context, name) for name in others.values() if name), 2.0)
    rows = await context.read("fapiPrivateGetOpenAlgoOrders", symbol=context.symbol)
    still = {str(row["clientAlgoId"]) for row in rows}
    for kind, name in others.items():
        if not name:
            continue
        states = [str(frame.order["X"]) for frame in context.events_of(name) if frame.kind == "ALGO_UPDATE"]
        found = "still open" if name in still else f"gone, {states[-1] if states else 'without an event'}"
        agrees = (name in still) == (not states or states[-1] not in DONE)
        context.row(PART, f"the {kind} stop afterwards", "its events say the same", found, agrees)
        context.answer("stops after the close", f"{kind}: {found}")
        if kind == "reduce-only":
            context.answer("large stops", f"of two full-size ones the other is {found}")
        if name in still:
            await context.cancel_stop(name)
