"""A synthetic market from a seed: trades with the statistics of Binance's that matter to a volume-bar strategy.

It has four layers, each on top of the one before: two volatility regimes (minutes and hours), orders that trigger more
orders, taker sides that depend on past sides, and an efficient price that moves only by the unexpected part of orders
(so the price has no predictable trend), seen through sticky quotes one tick apart. Large orders sweep several prices
within one millisecond.

Calibrated on aggTrades of Binance: three BTCUSDT perpetual clips of 6 to 9 minutes (2023, 2024) and 23 hours of LTCUSDT
spot (2025). `tests/data/test_synthetic.py` checks that tapes are in ranges around these figures:

    statistic of aggTrades            BTCUSDT clips     LTCUSDT   synthetic, seed 7
    share in the millisecond before   0.25 - 0.50        0.12     0.28
    most in one millisecond             40 - 182           51       48
    count a second: variance/mean       14 - 183           15      8.6
    taker side, autocorrelation at 1  0.41 - 0.58        0.40     0.39
                                at 10 0.23 - 0.41        0.09     0.13
                                at 50 0.04 - 0.26        0.05     0.06
    size / mean: median               0.10 - 0.13        0.14     0.09
                 99 %                   14 - 16            14       15
                 99.9 %                 44 - 74            43       82
    share at the price before         0.27 - 0.43        0.51     0.34
    1 s returns, kurtosis               13 - 21            98       43
    10 s returns, kurtosis           too short             33      8.7
    10 s |returns|, autocorrelation  too short           0.28     0.28
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from voltrade.compiled import compiled
from voltrade.errors import DataError
from voltrade.model import HOUR_MS, Floats, Instrument, Int64s, Trades


@dataclass(frozen=True, slots=True)
class Market:
    """Start price of a synthetic market, and the coins traded in an hour."""

    price: Decimal
    coins_per_hour: Decimal


MARKETS = {
    "BTCUSDT": Market(Decimal(80_000), Decimal(1_250)),  # at 20 BTC a bar: 500 bars in 8 hours
    "ETHUSDT": Market(Decimal(3_000), Decimal(20_000)),
    "SOLUSDT": Market(Decimal(150), Decimal(150_000)),
    "LTCUSDT": Market(Decimal(85), Decimal(15_000)),
}

# Arrivals.
TRADES_PER_HOUR = 10_500
OFFSPRING = 0.75
"""Orders that one order triggers, on average; below 1, otherwise bursts never end."""
OFFSPRING_DELAY_MS = (0.2, 30_000.0)
"""Delays are log-uniform between these: as many within a millisecond as within tens of seconds."""

# Volatility.
HOURLY_VOLATILITY = 0.0105
"""Standard deviation of an hour's return, averaged over regimes: about 98 % a year, a volatile day."""
REGIME_HALF_LIVES_S = (240.0, 5_400.0)
REGIME_STRENGTHS = (0.5, 0.35)
"""Standard deviation of the log volatility that each regime adds."""
ACTIVITY_EXPONENT = 1.3
"""Orders per second grow as volatility to this power; the rest of volatility makes bars differ."""
FLOW_WEIGHT = 0.75
NEWS_WEIGHT = 0.75
"""How far unexpected orders and news move the price; given how predictable sides are, the squares sum to about 1."""
NEWS_TAIL = 3.0
"""Degrees of freedom of news: with fewer, jumps are rarer and larger."""
STICKINESS = 1.2
"""Quotes move when the efficient price is this many typical moves away from them."""

# Sides: averages of past sides, by their length in orders, and their weights.
MEMORIES = (2.0, 10.0, 60.0, 400.0)
MEMORY_WEIGHTS = (0.22, 0.22, 0.26, 0.2)

# Sizes.
SIZE_SPREAD = 2.05
"""Standard deviation of the log size: one order in a hundred is 14 times the mean."""
LARGEST_SIZE = 400.0
"""Largest order, as a multiple of the mean."""
SWEEP_SHARE = 0.06
"""Share of orders that sweep several prices."""
SWEEP_LENGTH = 5.0
"""Prices that a sweep takes beyond the first, on average."""
SWEEP_STEP = 0.15
"""Distance between the prices of a sweep, in typical moves."""
LOWEST_PRICE = 100.0
"""Ticks; only a tape of years could reach it."""


def synthetic_market(instrument: Instrument, seed: int, hours: float, start_ms: int) -> Trades:
    """Return the aggTrades of a synthetic market from `start_ms` on, in ticks and lots, with ids from 1.

    The same seed gives the same trades on every machine: results that may differ in the last bit between math libraries
    (exponentials) are rounded to 9 decimals at once.

    Raises:
        DataError: the hours are too few for a trade.
    """
    market = market_of(instrument)
    draw = np.random.Generator(np.random.PCG64(seed))
    seconds = max(1, round(hours * 3600))
    volatility = _volatility_path(draw, seconds)
    times = _arrivals(draw, volatility, hours)
    if not len(times):
        raise DataError(f"hours: a synthetic tape must be long enough for a trade, was {hours}")

    lengths = _sweep_lengths(draw, len(times))
    order = np.repeat(np.arange(len(times)), lengths)
    lots = _sizes(draw, len(times), market, instrument)
    prices = np.empty(len(order), np.int64)  # numpy uses large pages for large arrays, compiled code doesn't
    sides = _walk(
        float(market.price / instrument.tick_size),
        _move_sizes(volatility, times, hours),
        np.sqrt(lots * lengths / np.mean(lots * lengths)),  # square-root law of impact; a sweep has more impact
        lengths,
        draw.random(len(times)),
        _settled(draw.standard_t(NEWS_TAIL, len(times)) / np.sqrt(NEWS_TAIL / (NEWS_TAIL - 2))),
        draw.standard_exponential(len(order)),
        prices,
    )
    return Trades(
        instrument.symbol,
        id=np.arange(1, len(order) + 1, dtype=np.int64),
        price=prices,
        quantity=_split(draw, lots, lengths, order),
        time=start_ms + times[order],
        buyer_is_maker=(sides < 0)[order],
    )


def market_of(instrument: Instrument) -> Market:
    """Return a symbol's market; without one of its own 10,000 ticks, and 10 million of the quote asset an hour."""
    price = 10_000 * instrument.tick_size
    return MARKETS.get(instrument.symbol) or Market(price, 10_000_000 / price)


def _volatility_path(draw: np.random.Generator, seconds: int) -> Floats:
    """Return the volatility of each second relative to the usual one; its mean square is 1."""
    log_volatility = np.zeros(seconds)
    for half_life, strength in zip(REGIME_HALF_LIVES_S, REGIME_STRENGTHS, strict=True):
        log_volatility += strength * _autoregression(round(0.5 ** (1 / half_life), 9), draw.standard_normal(seconds))
    volatility = _settled(np.exp(log_volatility))
    return _settled(volatility / np.sqrt(np.mean(volatility**2)))


def _arrivals(draw: np.random.Generator, volatility: Floats, hours: float) -> Int64s:
    """Return sorted times of orders in ms after the start: each order triggers others, which trigger others."""
    activity = _settled(volatility**ACTIVITY_EXPONENT)
    orders_per_hour = TRADES_PER_HOUR / (1 + SWEEP_SHARE * SWEEP_LENGTH)
    rate = _settled(orders_per_hour / 3600 * (1 - OFFSPRING) * activity / activity.mean())
    second = np.repeat(np.arange(len(rate)), draw.poisson(rate))
    generation = (second + draw.random(len(second))) * 1000
    shortest, longest = OFFSPRING_DELAY_MS
    generations = [generation]
    while len(generation):
        parents = np.repeat(generation, draw.poisson(OFFSPRING, len(generation)))
        generation = parents + _settled(shortest * (longest / shortest) ** draw.random(len(parents)))
        generations.append(generation)
    times = np.sort(np.floor(np.concatenate(generations)).astype(np.int64))
    return times[times < round(hours * HOUR_MS)]


def _sweep_lengths(draw: np.random.Generator, orders: int) -> Int64s:
    """Return how many prices each order sweeps, mostly one."""
    more = draw.geometric(1 / SWEEP_LENGTH, orders)
    return np.where(draw.random(orders) < SWEEP_SHARE, 1 + more, 1).astype(np.int64)


def _sizes(draw: np.random.Generator, orders: int, market: Market, instrument: Instrument) -> Int64s:
    """Return the lots of each order: log-normal, with an upper limit, at least one lot."""
    mean_lots = float(market.coins_per_hour / instrument.step_size) * (1 + SWEEP_SHARE * SWEEP_LENGTH) / TRADES_PER_HOUR
    sizes = np.exp(SIZE_SPREAD * draw.standard_normal(orders) - SIZE_SPREAD**2 / 2)
    return np.maximum(np.rint(mean_lots * _settled(np.minimum(sizes, LARGEST_SIZE))), 1).astype(np.int64)


def _move_sizes(volatility: Floats, times: Int64s, hours: float) -> Floats:
    """Return the typical return of the efficient price at each order."""
    at_orders = volatility[np.minimum(times // 1000, len(volatility) - 1)]
    per_order = at_orders / np.sqrt(len(times) / hours)  # variance per hour is shared by an hour's orders
    # In seconds with more orders, each order moves the price less.
    return _settled(per_order * at_orders ** (-ACTIVITY_EXPONENT / 2) * HOURLY_VOLATILITY)


def _split(draw: np.random.Generator, lots: Int64s, lengths: Int64s, order: Int64s) -> Int64s:
    """Divide each order's lots among the prices that it sweeps, at least one lot each."""
    weights = 0.1 + draw.random(len(order))
    shares = weights / np.bincount(order, weights)[order]
    return np.maximum(np.floor(lots[order] * shares), 1).astype(np.int64)


def _settled(values: Floats) -> Floats:
    """Round away the last bits, in which math libraries differ."""
    return np.asarray(np.round(values, 9), dtype=np.float64)


@compiled
def _autoregression(persistence: float, shocks: Floats) -> Floats:
    """Return a stationary first-order autoregression of unit variance."""
    path = np.empty_like(shocks)
    fresh = np.sqrt(1 - persistence * persistence)
    level = shocks[0]
    for i in range(len(shocks)):
        level = persistence * level + fresh * shocks[i]
        path[i] = level
    return path


@compiled
def _walk(
    start: float,
    move_sizes: Floats,
    impacts: Floats,
    lengths: Int64s,
    chances: Floats,
    news: Floats,
    steps: Floats,
    prices: Int64s,
) -> Int64s:
    """Draw each order's side from past sides, trade it at the quotes, and move price and quotes.

    Writes the price of each trade in ticks, one for each price that an order sweeps; returns the side of each order.
    """
    sides = np.empty(len(move_sizes), dtype=np.int64)
    memory = np.zeros(len(MEMORIES))
    efficient = start
    bid = np.int64(np.floor(start))
    trade = 0
    for order in range(len(move_sizes)):
        expected = 0.0
        for k in range(len(MEMORIES)):
            expected += MEMORY_WEIGHTS[k] * memory[k]
        side = 1 if chances[order] < 0.5 + 0.5 * expected else -1
        for k in range(len(MEMORIES)):
            memory[k] += (side - memory[k]) / MEMORIES[k]
        sides[order] = side

        typical_move = move_sizes[order] * efficient
        prices[trade] = bid + 1 if side > 0 else bid
        trade += 1
        for _ in range(1, lengths[order]):
            away = 1 + np.int64(SWEEP_STEP * typical_move * steps[trade])
            prices[trade] = max(prices[trade - 1] + side * away, 1)
            trade += 1

        flow = impacts[order] * (side - expected)
        efficient += typical_move * (FLOW_WEIGHT * flow + NEWS_WEIGHT * news[order])
        efficient = max(efficient, LOWEST_PRICE)
        reach = STICKINESS * typical_move
        if efficient < bid - reach or efficient > bid + 1 + reach:
            bid = np.int64(np.floor(efficient))
    return sides
