"""The market in the check: clock, filters, hosts and streams, ids without gaps, klines that equal the trades."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from decimal import Decimal
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from voltrade.engine.demo_check.context import CheckContext, coded
from voltrade.engine.demo_check.frames import Frame, Listener
from voltrade.errors import DataError, VoltradeError
from voltrade.exchange.account_reader import PAGE
from voltrade.exchange.binance import connect
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.messages import MessageReader
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Instrument
from voltrade.simulated.symbols import shipped_instrument

FIRST_WITHIN_S = 10.0
"""Longest wait for the first message of a stream."""
PAGES = 10
"""Most pages of trades that are read for one minute."""
MINUTE_MS = 60_000
MADE_UP_KEY = "A" * 64


async def check_address(context: CheckContext) -> None:
    """Show a made-up key: how it is refused. The address from which we come, if the refusal tells it, is only shown."""
    wiring = context.wiring
    stranger = connect(wiring.endpoint, Credentials(MADE_UP_KEY, MADE_UP_KEY), wiring.clock, 5_000)
    try:
        response = await BinanceRestClient(stranger).ask("fapiPrivateGetAccountConfig")
    finally:
        await stranger.close()
    refused = response.code in (-2014, -2015)
    context.row("market", "made-up API key", "refused with -2015 or -2014", coded(response), refused)
    if stranger.own_address:
        context.on_address(stranger.own_address)


def check_filters(context: CheckContext) -> None:
    """Compare the filters with those that voltrade ships for research."""
    found, expected = context.instrument, "as shipped; backtests use the shipped ones"
    try:
        shipped = shipped_instrument(found.symbol)
    except VoltradeError:
        context.row("market", "shipped filters", expected, "none are shipped for this symbol", "differs")
        return
    differing = [
        f"{part.name} {_plain(getattr(found, part.name))} not {_plain(getattr(shipped, part.name))}"
        for part in fields(Instrument)
        if part.name != "source" and getattr(found, part.name) != getattr(shipped, part.name)
    ]
    context.row(
        "market", "shipped filters", expected, "; ".join(differing) or "as shipped", "differs" if differing else "ok"
    )


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


async def check_streams(context: CheckContext, host: str, is_own: bool) -> None:
    """Open the market streams of a host and wait for the first message of each.

    Args:
        context: The check.
        host: Base address of the websockets.
        is_own: Whether trading uses it; another host's silence is no failure.
    """
    name = context.symbol.lower()
    market = Listener("market", f"{host}/market/ws", context.wiring.exchange, context.record)
    public = Listener("public", f"{host}/public/ws", context.wiring.exchange, context.record)
    begun = context.now
    await asyncio.gather(market.open(f"{name}@aggTrade", f"{name}@markPrice@1s"), public.open(f"{name}@bookTicker"))
    waits = [(market, "aggTrade"), (market, "markPriceUpdate"), (public, "bookTicker")]
    firsts = await asyncio.gather(*(each.first(_of_kind(kind), FIRST_WITHIN_S) for each, kind in waits))
    is_quiet = is_own and None in firsts and await _is_quiet(context, begun)
    for (listener, kind), first in zip(waits, firsts, strict=True):
        took = first.at - begun if first else 0
        found = f"after {took:,} ms" if first else f"silent for {FIRST_WITHIN_S:.0f} s {listener.error}".strip()
        if first is None and listener.is_open and is_quiet and kind != "markPriceUpdate":
            context.row("market", kind, "its first message", f"no trade in {FIRST_WITHIN_S:.0f} s", "differs")
            continue
        item = kind if is_own else f"{kind}, {urlsplit(host).hostname}"
        ok = first is not None and (not is_own or _is_readable(context, first))
        context.row("market", item, "its first message, and one that trading reads", found, _judged(ok, is_own), took)
    await public.close()
    if is_own:
        context.market = market
    else:
        await market.close()


async def _is_quiet(context: CheckContext, since: int) -> bool:
    """Whether nothing was traded since a time, ms, so that streams that tell of trades have nothing to tell."""
    return not await context.wiring.rest.agg_trades(context.symbol, start=since, limit=1)


def _of_kind(kind: str) -> Any:
    return lambda frame: frame.kind == kind


def _judged(ok: bool, is_own: bool) -> Any:
    return "ok" if ok else "failed" if is_own else "differs"


def _is_readable(context: CheckContext, frame: Frame) -> bool:
    reader = MessageReader(context.instrument)
    try:
        if frame.kind == "aggTrade":
            reader.agg_trade(frame.body)
        elif frame.kind == "markPriceUpdate":
            reader.mark_price(frame.body)
    except DataError as error:
        context.row("market", f"reading {frame.kind}", "no error", str(error), ok=False)
        return False
    return True


async def check_ids(context: CheckContext) -> None:
    """Look for gaps and for messages that can't be read in the trades that came during the check."""
    assert context.market is not None
    frames = [frame for frame in context.market.frames if frame.kind == "aggTrade"]
    ids, unread = [], 0
    reader = MessageReader(context.instrument)
    for frame in frames:
        try:
            ids.append(reader.agg_trade(frame.body)[0])
        except DataError:
            unread += 1
    gaps = [f"{a + 1} to {b - 1}" for a, b in pairwise(ids) if b != a + 1]
    found = f"{len(ids)} trades without a gap" if not gaps else f"missing or out of order: {', '.join(gaps[:3])}"
    found += f"; {unread} could not be read" if unread else ""
    is_right = bool(ids) and not gaps and not unread
    is_quiet = not frames and await _is_quiet(context, context.report.begun)
    context.row("market", "trade ids", "contiguous, and all read", found, "differs" if is_quiet else is_right)


async def check_minute(context: CheckContext) -> None:
    """Compare the trades of the last whole minute with its kline."""
    end = context.now // MINUTE_MS * MINUTE_MS
    start = end - MINUTE_MS
    trades = await _trades_between(context, start, end)
    rows = await context.wiring.rest.minute_volumes(context.symbol, start, 1)
    if trades is None or not rows or rows[0][0] != start:
        context.row("market", "kline of a minute", "the trades' sums", "too many trades, or no kline", "differs")
        return
    volume, notional = sum(lots for lots, _ in trades), sum(lots * price for lots, price in trades)
    step = context.instrument.step_size
    found = f"{len(trades)} trades, {volume * step:f}; kline {rows[0][1] * step:f}"
    same = (volume, notional) == rows[0][1:]
    context.row("market", "kline of a minute", "volume and notional of its trades", found, same or "differs")


async def _trades_between(context: CheckContext, start: int, end: int) -> list[tuple[int, int]] | None:
    """Return lots and price of the trades of a span; None if they are more than the pages allowed."""
    rest = context.wiring.rest
    page = await rest.agg_trades(context.symbol, start=start, limit=PAGE)
    found: list[tuple[int, int]] = []
    for _ in range(PAGES):
        found += [(lots, price) for _, price, lots, time, _ in page if start <= time < end]
        if len(page) < PAGE or page[-1][3] >= end:
            return found
        page = await rest.agg_trades(context.symbol, from_id=page[-1][0] + 1, limit=PAGE)
    return None


async def check_symbol_lookup(context: CheckContext) -> None:
    """Ask for what does not exist: an order, a conditional order, and the cancel of one."""
    name = context.new_name("u")
    asked = {
        "unknown order": ("fapiPrivateGetOrder", {"symbol": context.symbol, "origClientOrderId": name}, (-2013,)),
        "unknown stop": ("fapiPrivateGetAlgoOrder", {"clientAlgoId": name}, (-2013, -20124)),
        "cancel of an unknown order": (
            "fapiPrivateDeleteOrder", {"symbol": context.symbol, "origClientOrderId": name}, (-2011,)),
        "cancel of an unknown stop": ("fapiPrivateDeleteAlgoOrder", {"clientAlgoId": name}, (-2011, -20124)),
    }  # fmt: skip
    for item, (call, params, codes) in asked.items():
        response = await context.ask(call, **params)
        context.row("orders", item, f"code {' or '.join(map(str, codes))}", coded(response), response.code in codes)
        context.answer("unknown orders", f"{item} {response.code}")
