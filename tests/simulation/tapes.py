"""Tapes for simulated sessions: drawn from a seed, or along a path of prices that a story states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulation.clock import BEGIN_MS
from voltrade.model import Trades

SYMBOL = "BTCUSDT"
MIDDLE = 800_000
"""Ticks: 80,000.0 USDT."""


def drawn_tape(seed: int, seconds: float) -> Trades:
    """Draw one to two trades a second with bursts, gaps and jumps of the price, and quantities over three decades.

    The tape begins at the loop's begin less nothing: the venue shifts it so that its history lies before the opening.
    """
    draw = np.random.default_rng([seed, 1])
    count = int(seconds * draw.uniform(1.0, 1.25))
    gaps = draw.exponential(1.0, count)
    burst = draw.random(count) < 0.01
    for start in np.flatnonzero(burst):
        gaps[start : start + int(draw.integers(5, 40))] *= 0.02
    gaps[draw.random(count) < 0.002] += draw.uniform(5, 30)
    time = np.cumsum(gaps)
    time = (time / time[-1] * seconds * 1000).astype(np.int64)
    step = draw.normal(0, draw.uniform(20, 120), count)
    jumps = draw.random(count) < 0.002
    step[jumps] += draw.normal(0, 2_500, int(jumps.sum()))
    price = (MIDDLE + np.cumsum(step)).astype(np.int64)
    lots = np.maximum(1, draw.lognormal(5.5, 1.4, count)).astype(np.int64)
    return columns(time, price, lots, draw.random(count) < 0.5)


def path_tape(points: Sequence[tuple[float, float]], every_s: float = 0.5, lots: int = 200, wiggle: int = 10) -> Trades:
    """Lead the price along straight lines between points (seconds, USDT), with a trade each `every_s`.

    Takers buy and sell in turn; the price of each moves `wiggle` ticks to its side, so that bars have a range.
    """
    seconds, prices = zip(*points, strict=True)
    time = np.arange(seconds[0], seconds[-1] + every_s / 2, every_s)
    is_sell = np.arange(len(time)) % 2 == 1
    price = np.rint(np.interp(time, seconds, prices) * 10).astype(np.int64) + np.where(is_sell, -wiggle, wiggle)
    return columns((time * 1000).astype(np.int64), price, np.full(len(time), lots), is_sell)


def columns(time: np.ndarray, price: np.ndarray, lots: np.ndarray, is_sell: np.ndarray) -> Trades:
    """Make a tape of columns: milliseconds from its begin, ticks, lots, and whether the taker sold."""
    rows = zip(
        range(1, len(time) + 1),
        price.tolist(),
        lots.tolist(),
        (time + BEGIN_MS).tolist(),
        is_sell.tolist(),
        strict=True,
    )
    return Trades.from_rows(SYMBOL, list(rows))
