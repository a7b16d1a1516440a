"""The money of the check: flat again, and a wallet that changed by exactly what the fills and other bookings say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, NamedTuple

from voltrade.engine.demo_check.context import CheckContext, coded
from voltrade.exchange.client import Response

PART = "money"
BOOKED_WITHIN_S = 5
"""How long the account may take to book the last fill."""


async def _exit(context: CheckContext, held: Decimal, answer: str) -> Response:
    """Close a position at market, reduce-only."""
    lots = min(int(abs(held) / context.instrument.step_size), context.instrument.market_max_quantity)
    side, name = "SELL" if held > 0 else "BUY", context.new_name("x")
    return await context.order(side, lots, name, type="MARKET", reduceOnly="true", newOrderRespType=answer)


async def check_flat(context: CheckContext) -> None:
    """Close whatever the check still has, and check that nothing of it is left."""
    if (quantity := await context.clean_up.to_sell()) > 0:
        closed = await _exit(context, quantity, "RESULT")
        context.row(PART, "reduce-only exit", "accepted", f"{quantity:f}: {coded(closed)}", closed.status == 200)
        await context.within_position(Decimal(0), 5.0)
    await context.clean_up.run()
    left = await what_is_left(context)
    context.row(PART, "flat, without orders", "nothing is left", left or "nothing is left", not left)
    if left:  # somebody else's, which the next order might reduce
        return
    again = await context.order(
        "SELL", context.instrument.min_quantity, context.new_name("x"), type="MARKET", reduceOnly="true"
    )
    context.row(PART, "reduce-only while flat", "-2022", coded(again), again.code == -2022)


async def what_is_left(context: CheckContext) -> str:
    """Return what the symbol still has, position and orders, or that it can't be read; empty for nothing."""

    async def listed(call: str, what: str) -> str:
        count = len(await context.read(call, symbol=context.symbol))
        return f"{count} {what}" if count else ""

    async def position() -> str:
        held = await context.position()
        return f"a position of {held:f}" if held else ""

    parts = {
        "position": position(),
        "orders": listed("fapiPrivateGetOpenOrders", "orders"),
        "conditional orders": listed("fapiPrivateGetOpenAlgoOrders", "conditional orders"),
    }
    return ", ".join(filter(None, [await _told(what, part) for what, part in parts.items()]))


async def _told(what: str, part: Awaitable[str]) -> str:
    try:
        return await part
    except Exception as error:
        return f"{what} unknown ({type(error).__name__}: {error})"


class Booked(NamedTuple):
    """What the account booked since the check began, in the quote asset, and how its wallet changed."""

    realised: Decimal
    fees: Decimal
    """In the quote asset; positive where they were paid."""
    other_fees: list[str]
    """Further assets in which fees were paid."""
    funding: Decimal
    change: Decimal

    @property
    def expected(self) -> Decimal:
        return self.realised - self.fees + self.funding


async def check_wallet(context: CheckContext) -> None:
    """Compare the wallet's change with realised profit, fees and funding, to 1e-8.

    Trades, income and wallet may be behind the last fill: they are read again while they differ, for some seconds.
    """
    booked = await _booked(context)
    for _ in range(BOOKED_WITHIN_S):
        if booked.change == booked.expected:
            break
        await asyncio.sleep(1)
        booked = await _booked(context)
    realised, fees, others, funding, change = booked
    found = f"{change:f}: realised {realised:f}, fees {-fees:f}, funding {funding:f}"
    found += f"; further fees in {', '.join(others)}" if others else ""
    context.row(PART, "wallet to 1e-8", f"{booked.expected:f}", found, change == booked.expected)
    _check_events(context, booked)


def _check_events(context: CheckContext, booked: Booked) -> None:
    """Compare what the private stream told of the fills with what the account booked."""
    for frame in context.users[0].frames:
        if frame.body.get("a", {}).get("m") == "FUNDING_FEE":
            context.answer("funding event", f"S is {frame.body['a'].get('S')}, B {frame.body['a'].get('B')}")
    quote, fills = context.instrument.quote_asset, _fills(context)
    told = sum((Decimal(str(frame.order.get("rp") or 0)) for frame in fills), Decimal(0))
    context.row(PART, "realised by events", f"{booked.realised:f}", f"{told:f}", told == booked.realised)
    paid = sum((Decimal(str(f.order.get("n") or 0)) for f in fills if f.order.get("N") == quote), Decimal(0))
    context.row(PART, "fees by events", f"{booked.fees:f}", f"{paid:f}", paid == booked.fees)


async def _booked(context: CheckContext) -> Booked:
    trades, quote = await _trades(context), context.instrument.quote_asset
    return Booked(
        realised=sum((Decimal(row["realizedPnl"]) for row in trades), Decimal(0)),
        fees=sum((Decimal(row["commission"]) for row in trades if row["commissionAsset"] == quote), Decimal(0)),
        other_fees=sorted({str(row["commissionAsset"]) for row in trades} - {quote}),
        funding=await _funding(context),
        change=await context.wallet() - context.wallet_before,
    )


def _fills(context: CheckContext) -> list[Any]:
    """Return the fills that the private stream told of, each once."""
    fills = {
        frame.order["t"]: frame
        for frame in context.users[0].frames
        if frame.kind == "ORDER_TRADE_UPDATE" and frame.order.get("x") == "TRADE"
    }
    return list(fills.values())


async def _trades(context: CheckContext) -> list[Any]:
    """Return the symbol's trades since the check began.

    They are asked for by time: of an account that has not traded for a week no last trade is known to count from.
    """
    rows = await context.read("fapiPrivateGetUserTrades", symbol=context.symbol, startTime=context.report.begun)
    return [row for row in rows if row["id"] > context.last_trade_id]


async def _funding(context: CheckContext) -> Decimal:
    """Return the funding of the symbol since the check began."""
    rows = await context.read("fapiPrivateGetIncome", symbol=context.symbol, startTime=context.report.begun)
    paid = (Decimal(row["income"]) for row in rows if row["incomeType"] == "FUNDING_FEE")
    return sum(paid, Decimal(0))
