"""Tapes for simulated sessions: drawn from a seed, or along a path of prices that a story states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulation.clock import BEGIN_MS
from voltrade.model import Trades

SYMBOL = "BTCUSDT"
MIDDLE = 800_000
"""Ticks: 80,000.0 USDT."""


HISTORY_A_S = 10
"""Trades a second of a tape's dense begin."""
STILL_S = 1.0
"""Nothing is traded so long after it, while an engine that starts then reads its account."""


def drawn_tape(seed: int, seconds: float, dense_s: float = 0.0) -> Trades:
    """Draw one to two trades a second with bursts, gaps and jumps of the price, and quantities over three decades.

    Args:
        seconds: length, from the loop's begin on; the venue shifts it so that its history lies before the opening.
        dense_s: begin of the tape with ten trades a second, as a history from which indicators become ready.
    """
    draw = np.random.default_rng([seed, 1])
    early = int(dense_s * HISTORY_A_S)
    count = early + int((seconds - dense_s) * draw.uniform(1.0, 1.25))
    gaps = draw.exponential(1.0, count)
    burst = draw.random(count) < 0.01
    for start in np.flatnonzero(burst):
        gaps[start : start + int(draw.integers(5, 40))] *= 0.02
    gaps[draw.random(count) < 0.002] += draw.uniform(5, 30)
    dense, rest = np.cumsum(gaps[:early]), np.cumsum(gaps[early:])
    begin_s = dense_s and dense_s + STILL_S
    time = np.concatenate([dense / dense[-1:] * dense_s, begin_s + rest / rest[-1] * (seconds - begin_s)])
    time = (time * 1000).astype(np.int64)
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
    ids = np.arange(1, len(time) + 1)
    return Trades(SYMBOL, ids, price.astype(np.int64), lots.astype(np.int64), time + BEGIN_MS, is_sell)
