"""Ordinary orders of the check: one far from the market, and the smallest at the market."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from voltrade.engine.demo_check.context import CEILING, CheckContext, coded
from voltrade.engine.demo_check.frames import Frame
from voltrade.errors import DataError
from voltrade.exchange.account_facts import check_order, least_lots
from voltrade.exchange.messages import MessageReader

COUNTDOWN_MS = 3_000
PART = "orders"


async def check_sizes(context: CheckContext) -> None:
    """Let the exchange check, without placing them, the session's largest order and one far beyond the wallet."""
    instrument, rest = context.instrument, context.wiring.rest
    bid, _ = await context.touch()
    lots = min(int(context.largest_notional / bid / instrument.step_size), instrument.market_max_quantity)
    item, least = "order/test at session size", least_lots(instrument, bid, spare=Decimal(1))
    if lots < least:
        most = f"{context.largest_notional:,.2f} {instrument.quote_asset}"
        found = f"not sent: {most}, {CEILING}, is less than the smallest order"
        context.row(PART, item, f"{instrument.quantity(least):f} {instrument.base_asset} or more", found, ok=False)
    else:
        response = await check_order(rest, instrument, lots)
        found = f"{instrument.quantity(lots):f} {instrument.base_asset}: {coded(response)}"
        context.row(PART, item, "accepted", found, response.status == 200)
    beyond = await check_order(rest, instrument, instrument.market_max_quantity)
    context.answer("order/test", f"{instrument.quantity(instrument.market_max_quantity):f} beyond: {coded(beyond)}")


async def check_far_order(context: CheckContext) -> None:
    """Place a post-only order far below the market, follow it, name its faults, and cancel it."""
    price = await context.far_below()
    lots, name = least_lots(context.instrument, price), context.new_name("f")
    sent = context.now
    placed = await context.far_order(name, lots, price)
    found = f"{context.instrument.quantity(lots):f} at {price:f}: {coded(placed)}"
    if not context.row(PART, "far order", "accepted", found, placed.status == 200, context.now - sent):
        return
    event = await context.event("ORDER_TRADE_UPDATE", name, "NEW")
    _told(context, "event of the far order", event, sent)
    context.is_deaf = event is None
    query = await context.ask("fapiPrivateGetOrder", symbol=context.symbol, origClientOrderId=name)
    status = _field(query.body, "status")
    context.row(PART, "far order by query", "NEW", status or coded(query), status == "NEW")
    await _check_refusals(context, name, lots, price)
    await _check_visible(context, "an ordinary order")
    await _check_cancel(context, name)
    await _check_stop_while_flat(context, lots, price)


async def _check_refusals(context: CheckContext, name: str, lots: int, price: Decimal) -> None:
    again = await context.far_order(name, lots, price)
    context.row(PART, "duplicate order id", "-4116 or -20132", coded(again), again.code in (-4116, -20132))
    context.answer("duplicate ids", f"order {again.code}")
    off = await context.far_order(context.new_name("f"), lots, price + context.instrument.tick_size / 2)
    context.row(PART, "price off the tick", "-1111 or -4014", coded(off), off.code in (-1111, -4014))
    context.answer("wrong prices", f"order off the tick {off.code}")


async def _check_visible(context: CheckContext, what: str) -> None:
    """Note whether the account names a symbol that has orders, but no position."""
    account = await context.read("fapiPrivateV3GetAccount")
    risk = await context.read("fapiPrivateV3GetPositionRisk", symbol=context.symbol)
    names = {"account": account.get("positions", []), "positionRisk": risk}
    seen = [
        f"{place} {'shows' if any(row['symbol'] == context.symbol for row in rows) else 'hides'} it"
        for place, rows in names.items()
    ]
    context.answer("orders without position", f"{what}: {', '.join(seen)}")


async def _check_stop_while_flat(context: CheckContext, lots: int, trigger: Decimal) -> None:
    """Place a reduce-only stop without a position, which can open none, and take it back; trading never sends one."""
    name = context.new_name("s")
    placed = await context.stop("SELL", name, trigger, lots)
    context.row(PART, "stop while flat", "accepted, or a refusal", coded(placed))
    if placed.status == 200:
        await _check_visible(context, "a conditional order")
        await context.cancel_stop(name)


async def _check_cancel(context: CheckContext, name: str) -> None:
    sent = context.now
    gone = await context.cancel(name)
    status = _field(gone.body, "status")
    context.row(PART, "cancel", "CANCELED", status or coded(gone), status == "CANCELED", context.now - sent)
    _told(context, "event of the cancel", await context.event("ORDER_TRADE_UPDATE", name, "CANCELED"), sent)
    twice = await context.cancel(name)
    context.row(PART, "cancel twice", "-2011", coded(twice), twice.code == -2011)
    has = [field for field in ("avgPrice", "cumQuote") if _field(gone.body, field)]
    context.answer("query after ACK", f"DELETE has {', '.join(has) or 'neither'}")


async def check_countdown(context: CheckContext) -> None:
    """Set a countdown over an order and a stop of the position that was bought, and see which of them it cancels.

    It would cancel every open order of the symbol, so that it is set only where all are the check's.
    What a check that is killed leaves of them is a post-only order far away and a stop that can only reduce.
    """
    rows = await context.read("fapiPrivateGetOpenOrders", symbol=context.symbol)
    if others := [name for row in rows if not (name := str(row["clientOrderId"])).startswith(context.prefix)]:
        found = f"not set: it would cancel {', '.join(others)}, which the check did not send"
        context.row(PART, "countdown", "no orders of others", found, "differs")
        return
    price = await context.far_below()
    lots, name, stop = least_lots(context.instrument, price), context.new_name("f"), context.new_name("s")
    if context.lots:
        await context.stop("SELL", stop, price, context.lots)
    await context.far_order(name, lots, price)
    response = await context.ask("fapiPrivatePostCountdownCancelAll", symbol=context.symbol, countdownTime=COUNTDOWN_MS)
    context.row(PART, "countdown", "accepted", coded(response), response.status == 200 or "differs")
    canceled = await context.event("ORDER_TRADE_UPDATE", name, "CANCELED", within_s=COUNTDOWN_MS / 1000 + 5)
    went = "cancels orders" if canceled else "does not cancel orders"
    gone = await context.cancel_stop(stop) if context.lots else None
    left = "not tried, without a position" if gone is None else coded(gone)
    kept = "and leaves conditional ones" if left == "accepted" else f"conditional ones: {left}"
    context.row(PART, "countdown ends", "orders are cancelled", f"{went} {kept}", bool(canceled) or "differs")
    context.answer("countdown", f"{went} {kept}")
    await context.ask("fapiPrivatePostCountdownCancelAll", symbol=context.symbol, countdownTime=0)
    if not canceled:
        await context.cancel(name)


async def buy_least(context: CheckContext) -> None:
    """Buy the smallest quantity at the market, with an ACK, and follow it.

    Nothing is bought where the private stream is silent: the position would wait for its events without a stop.
    """
    if context.is_deaf:
        context.row(PART, "market order", "a private stream that tells of orders", "not sent: it is silent", ok=False)
        return
    lots, name = await context.least(), context.new_name("e")
    sent = context.now
    placed = await context.order("BUY", lots, name, type="MARKET", newOrderRespType="ACK")
    quantity = f"{context.instrument.quantity(lots):f} {context.instrument.base_asset}"
    if not context.row(PART, "market order", "accepted", f"{quantity}: {coded(placed)}", placed.status == 200):
        return
    context.lots = lots
    query = await context.ask("fapiPrivateGetOrder", symbol=context.symbol, origClientOrderId=name)
    at_once = _field(query.body, "status") or coded(query)
    context.row(PART, "query right after", "FILLED", at_once, at_once == "FILLED" or "differs")
    has = [field for field in ("avgPrice", "cumQuote") if _field(placed.body, field)]
    context.answer("query after ACK", f"GET says {at_once}; POST has {', '.join(has) or 'neither'}")
    filled = await context.event("ORDER_TRADE_UPDATE", name, "FILLED", within_s=15)
    _told(context, "fill of the market order", filled, sent)
    await _check_fill(context, name, lots, sent)


async def _check_fill(context: CheckContext, name: str, lots: int, sent: int) -> None:
    """Compare the fill in the events, in the account's trades and in the position."""
    events = context.events_of(name)
    executed = sum((Decimal(frame.order["l"]) for frame in events if frame.order.get("x") == "TRADE"), Decimal(0))
    wanted = context.instrument.quantity(lots)
    context.row(PART, "filled by events", f"{wanted:f}", f"{executed:f}", executed == wanted)
    order_id = next((frame.order["i"] for frame in events), 0)
    trades = await context.read("fapiPrivateGetUserTrades", symbol=context.symbol, orderId=order_id)
    told = {frame.order["t"] for frame in events if frame.order.get("x") == "TRADE"}
    same = told == {trade["id"] for trade in trades}
    context.row(PART, "filled by userTrades", "the trades of the events", f"{len(trades)} of {len(told)}", same)
    held = await context.position()
    context.row(PART, "position by query", f"{wanted:f}", f"{held:f}", held == wanted)
    await context.event("ACCOUNT_UPDATE")
    _check_order_of_events(context, sent)
    check_readable(context, PART, "events are read", events)


def _check_order_of_events(context: CheckContext, sent: int) -> None:
    frames = [frame for frame in context.users[0].frames if frame.at >= sent]
    words = [f"{frame.kind}{' ' + str(frame.order['x']) if frame.order.get('x') else ''}" for frame in frames]
    lags = [frame.at - int(frame.body["T"]) for frame in frames if "T" in frame.body]
    assets = sorted({row["a"] for frame in frames for row in frame.body.get("a", {}).get("B", [])})
    fees = sorted({str(frame.order["N"]) for frame in frames if frame.order.get("N")})
    found = f"{', '.join(words[:8])}; lag {min(lags, default=0)} to {max(lags, default=0)} ms"
    has_account = any(frame.kind == "ACCOUNT_UPDATE" for frame in frames)
    context.row(PART, "events of the market order", "with an ACCOUNT_UPDATE", found, has_account)
    context.answer("fill events", f"{found}; B names {', '.join(assets) or 'nothing'}; fees in {', '.join(fees)}")


def check_readable(context: CheckContext, part: str, item: str, events: list[Frame]) -> None:
    """Read the events of an order, and of a stop, as trading does."""
    reader, wrong = MessageReader(context.instrument), []
    for frame in events:
        try:
            (reader.algo_update if frame.kind == "ALGO_UPDATE" else reader.order_update)(frame.body)
        except DataError as error:
            wrong.append(str(error))
    context.row(part, item, "no error", "; ".join(wrong[:2]) or f"{len(events)} read", not wrong)


def _told(context: CheckContext, item: str, event: Frame | None, sent: int) -> None:
    took = event.at - sent if event else 0
    found = f"after {took:,} ms" if event else "no event"
    context.row(PART, item, "its event within seconds", found, event is not None, took)


def _field(body: Any, name: str) -> str:
    return str(body.get(name, "")) if isinstance(body, dict) else ""
