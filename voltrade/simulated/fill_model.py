"""The rules by which orders fill from a tape of trades.

There is no order book; the trades of others are the liquidity. Each rule exists once, compiled, for the simulated
exchange and for research.

- An order placed at time t is at the matching engine from the first trade with time >= t + latency.
- A market order fills from trades on the other side (a BUY from trades whose taker bought), each up to the quantity of
  the trade, at its price moved against us by the slippage and rounded away from us to the tick. If a fill price is
  further than `marketTakeBound` from the last trade before arrival, the rest of the order expires.
- The best ask is assumed to be the last price at which a taker bought, and the best bid the last at which a taker sold.
  A limit order that reaches the other side on arrival takes, like a market order, within its limit, until the first
  trade on the other side beyond the limit: then GTC rests and IOC expires. FOK fills from the first trade on the other
  side completely, or expires. GTX expires instead of taking. A resting order fills at its limit when a trade goes
  strictly through it.
- A conditional order triggers at the first trade (or mark price) at or beyond its trigger price. It becomes an order
  that is at the matching engine at once: a market order fills from the triggering trade on, whatever its side, so that
  after a price jump it fills at the new price; a limit order does so within its limit, or rests. Stops trigger before
  take-profits.
- A trailing stop follows the best price since it was placed (or since its activation price was reached), and triggers
  when a price is its callback rate away from the best price.
- With `priceProtect`, nothing triggers while mark and last price differ by more than `triggerProtect`.
- Reduce-only orders fill up to the position, and expire when there is none to reduce.
- Orders share the quantity of a trade in the order of their ids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voltrade.compiled import compiled
from voltrade.model import MONEY, NEVER, Int64s


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
def first_acting_trade(
    price: Int64s,
    time: Int64s,
    buyer_is_maker: npt.NDArray[np.bool_],
    start: int,
    stop: int,
    arrival: int,
    rises_to: int,
    falls_to: int,
    taking_buys: bool,
    taking_sells: bool,
) -> int:
    """Return the row of the first trade in [start, stop) to which an order reacts, else `stop`; see `Watch`."""
    for row in range(start, stop):
        if time[row] >= arrival or price[row] >= rises_to or price[row] <= falls_to:
            return row
        if buyer_is_maker[row]:
            if taking_sells:
                return row
        elif taking_buys:
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
    """What the open orders of a symbol wait for: a time, prices, and trades of a taker."""

    arrival: int = NEVER
    rises_to: int = NEVER
    falls_to: int = 0
    taking_buys: bool = False
    taking_sells: bool = False
