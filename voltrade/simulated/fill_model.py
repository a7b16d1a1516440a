"""The rules by which orders fill from a tape of trades.

There is no order book; the trades of others are the liquidity. Each rule exists once, compiled, for the simulated
exchange and for research.

- An order placed at time t is at the matching engine at t + latency, before any trade or mark price of that time.
- An order that takes liquidity is done when it arrives: all its fills, and its end, are told at once. A BUY is priced
  by the trades whose takers bought, from its arrival on (a SELL by those whose takers sold), none better than any
  before it in this row or than the last one before the arrival, until their quantity covers the order; they are looked
  for at most `fill_horizon_ms` ahead. What they don't cover is extrapolated: it fills at the worst of these prices.
- Each of these prices is moved against us by the slippage and rounded away from us to the tick, an extrapolated one
  twice; fills of one price are one fill. If a fill price is further than `marketTakeBound` from the last trade before
  arrival, the rest of the order expires.
- Where trades come live, nobody knows the next ones: all is extrapolated from the last trade.
- The best ask is assumed to be the last price at which a taker bought, and the best bid the last at which a taker sold.
  A limit order that reaches the other side on arrival takes within its limit; what its limit leaves over rests (GTC) or
  expires (IOC). FOK fills completely within its limit, or expires. GTX expires instead of taking. A resting order fills
  at its limit when a trade goes strictly through it, up to the quantity of the trade; trades that priced what it took
  don't fill its rest.
- A conditional order triggers at the first trade (or mark price) at or beyond its trigger price. It becomes an order
  that is at the matching engine at once: a market order takes from the triggering trade on and at no better price, so
  that after a price jump it fills at the new price; a limit order does so within its limit, or rests. Stops trigger
  before take-profits.
- A trailing stop follows the best price since it was placed (or since its activation price was reached), and triggers
  when a price is its callback rate away from the best price.
- With `priceProtect`, nothing triggers while mark and last price differ by more than `triggerProtect`.
- Reduce-only orders fill up to the position, and expire when there is none to reduce.
- Resting orders share the quantity of a trade in the order in which they were placed or last amended, whatever their
  limits. Orders that take don't: each is priced as if it were alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voltrade.compiled import compiled
from voltrade.model import MONEY, NEVER, Int64s

MOST_EXTRAPOLATED = 0.25
"""Results of which a larger part of the notional is extrapolated are marked: they are a guess rather than a test."""


@compiled
def slipped_price(price: int, side: int, slippage_e8: int) -> int:
    """Move a traded price against an order of `side` (1 BUY, -1 SELL), rounded away from us to the tick."""
    slip = -(-price * slippage_e8 // MONEY)
    return max(1, price + side * slip)


@compiled
def is_triggered(price: int, trigger_price: int, rising: bool) -> bool:
    """Whether a price has reached a trigger price from below (`rising`), or from above."""
    return price >= trigger_price if rising else price <= trigger_price


@compiled
def trailing_trigger(best: int, side: int, callback_bps: int) -> int:
    """Return the price that triggers a trailing stop whose best price is `best`, rounded towards that best.

    A SELL triggers below its highest price, a BUY above its lowest.
    """
    if side < 0:
        return best * (10_000 - callback_bps) // 10_000
    return -(-best * (10_000 + callback_bps) // 10_000)


@compiled
def is_beyond_take_bound(price: int, reference: int, side: int, bound_e8: int) -> bool:
    """Whether a fill price is worse for the order than the reference price by more than the fraction `bound_e8`."""
    return side * (price - reference) * MONEY > reference * bound_e8


@compiled
def is_within_limit(price: int, limit: int, side: int) -> bool:
    """Whether a price is at or better than an order's limit."""
    return side * (limit - price) >= 0


@compiled
def is_through_limit(price: int, limit: int, side: int) -> bool:
    """Whether a trade price is strictly beyond the limit of a resting order, which must have filled."""
    return side * (limit - price) > 0


@compiled
def worse_price(price: int, other: int, side: int) -> int:
    """Return the price that is worse for an order of `side`."""
    return max(price, other) if side > 0 else min(price, other)


@compiled
def next_level(
    price: Int64s,
    quantity: Int64s,
    time: Int64s,
    buyer_is_maker: npt.NDArray[np.bool_],
    row: int,
    until: int,
    side: int,
    worst: int,
    wanted: int,
    slippage_e8: int,
) -> tuple[int, int, int, int, int]:
    """Return the next fill of an order that takes `wanted` lots more: all that its taker's trades give at one price.

    Args:
        price, quantity, time, buyer_is_maker: the trades of the tape.
        row: the first trade that may price the order.
        until: the last time at which a trade may, ms.
        worst: the worst price so far, ticks.

    Returns:
        The row and the worst price to go on from, then of the fill: price, lots, and how many of the lots are
        extrapolated.
    """
    lots, level = 0, 0
    while lots < wanted and row < len(price) and time[row] <= until:
        if buyer_is_maker[row] == (side < 0):
            reached = worse_price(price[row], worst, side)
            slipped = slipped_price(reached, side, slippage_e8)
            if lots > 0 and slipped != level:
                return row, worst, level, lots, 0
            worst, level = reached, slipped
            lots += quantity[row]
        row += 1
    if lots >= wanted:
        return row, worst, level, wanted, 0
    beyond = slipped_price(slipped_price(worst, side, slippage_e8), side, slippage_e8)
    if lots > 0 and level != beyond:
        return row, worst, level, lots, 0
    return row, worst, beyond, wanted, wanted - lots


@compiled
def first_acting_trade(
    price: Int64s, time: Int64s, start: int, stop: int, arrival: int, rises_to: int, falls_to: int
) -> int:
    """Return the row of the first trade in [start, stop) to which an order reacts, else `stop`; see `Watch`."""
    for row in range(start, stop):
        if time[row] >= arrival or price[row] >= rises_to or price[row] <= falls_to:
            return row
    return stop


@compiled
def last_row_of_taker(buyer_is_maker: npt.NDArray[np.bool_], start: int, stop: int, taker_sold: bool) -> int:
    """Return the row of the last trade in [start, stop) whose taker sold (or bought), else -1."""
    for row in range(stop - 1, start - 1, -1):
        if buyer_is_maker[row] == taker_sold:
            return row
    return -1


class Watch(NamedTuple):
    """What the open orders of a symbol wait for: a time, and prices."""

    arrival: int = NEVER
    rises_to: int = NEVER
    falls_to: int = 0


class Level(NamedTuple):
    """A fill of an order that takes."""

    price: int
    """Ticks, with slippage."""
    lots: int
    extrapolated: int
    """Of the lots, those that no trade of the tape has given."""
    next_row: int
    """The first trade of the tape that may price the next fill."""
