"""The threshold that a symbol gets where none is given, and what it follows from.

It is a day's volume divided by a number of bars: as many as keep the distance of the usual stop at `COSTS_PER_STOP`
times the costs of a round trip, rounded up to two digits. What happens in a day is known

- of the tape: of the synthetic market it trades on, or of the file's own trades;
- of the store: medians of its last `MOST_DAYS` whole days;
- of `volumes.json`, which is shipped, and says what it was measured on.

The synthetic BTCUSDT keeps the threshold that all examples are made with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cache
from hashlib import sha256
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voltrade.config import Config
from voltrade.data.kinds import TRADES
from voltrade.data.synthetic import TRADES_PER_HOUR, market_of
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, HOUR_MS, Instrument, Int64s, Trades
from voltrade.simulated.symbols import shipped_instrument

if TYPE_CHECKING:
    from voltrade.data.store import Store
    from voltrade.data.stored_day import StoredDay

COSTS_PER_STOP = 3
"""The usual stop is at least this many times the costs of a round trip, fees and slippage of both sides."""

MOST_DAYS = 28

MARGIN = 1.03
"""The stop is wider by this, since the range of bars is a median, and interpolated."""

FEWEST_BARS = 24
"""Fewest bars a day."""

TRADES_PER_BAR = 10
"""Fewest trades a bar, on average."""

BARS_MEASURED = (50, 100, 200, 400, 800, 1_600, 3_200)
"""Bars a day at which the range of a bar is measured; between them it is interpolated, and the last are the most."""

ATR_BARS = 14

SYNTHETIC_ATR_BPS = (120.0, 81.0, 58.0, 40.0, 27.0, 18.6, 12.7)
"""Of the synthetic market, by 48 hours of seeds 7 and 8."""

EXAMPLE = ("BTCUSDT", "base", Decimal(10))
"""Symbol, unit and threshold of the examples; there the median stop is 2.3 times the costs."""


@dataclass(frozen=True, slots=True)
class DayFigures:
    """What is traded in a day, and how far the price moves."""

    base: float
    """Coins."""
    quote: float
    """Price x quantity, in the quote asset."""
    trades: float
    """Number of aggTrades."""
    atr_bps: tuple[float, ...]
    """Median average true range of bars of equal volume, for each number of bars of `BARS_MEASURED`."""


@dataclass(frozen=True, slots=True)
class SymbolThreshold:
    """A threshold, and what it follows from."""

    threshold: Decimal
    source: str


RANGE_MEASURED = 0.02889
"""How far the price of BTCUSDT went on the day of which its `atr_bps` are, as a part of it."""
AGG_TRADES_PER_TRADE = 0.49
"""How many aggTrades a trade is, by the recordings of BTCUSDT."""


def day_by_range(base: float, quote: float, trades: int, went: float) -> DayFigures:
    """Return the figures of a day of which no trades are known.

    Bars of a symbol range as those of BTCUSDT, by how far the day went in each: of the one other symbol of which a day
    was recorded, LTCUSDT, that is right within 14 %.

    Args:
        base: Volume, coins.
        quote: Volume in the quote asset.
        trades: Number of single trades.
        went: Highest less lowest price, as a part of the price.
    """
    atr_bps = (float(atr) * went / RANGE_MEASURED for atr in shipped_volumes()["BTCUSDT"]["atr_bps"])
    return DayFigures(base, quote, AGG_TRADES_PER_TRADE * trades, tuple(atr_bps))


def bars_by_days(days: list[DayFigures], threshold: Decimal, step: Decimal, config: Config) -> str:
    """Return how many bars a threshold gives by the median of some days, and the usual stop in costs, as a text."""
    usual, unit = medians(days), config.bars.unit
    bars = float(getattr(usual, unit)) / float(threshold)
    in_costs = _stop_in_costs(usual, bars, config)
    told = f"about {bars:,.0f} at {threshold:f} by the median of {len(days)} days, with a usual stop of "
    told += f"{in_costs:.1f} x the costs"
    if in_costs >= COSTS_PER_STOP:
        return told
    try:
        wider = _chosen((usual, step, ""), config).threshold
    except ConfigError:
        return f"{told}, which no threshold makes {COSTS_PER_STOP}: it moves too little"
    return f"{told}: {wider:f} makes it {COSTS_PER_STOP}"


def bars_fault(days: list[DayFigures], threshold: Decimal, config: Config) -> str:
    """Return why a threshold can give no session, by the median of some days; empty where it can."""
    usual = medians(days)
    bars = float(getattr(usual, config.bars.unit)) / float(threshold)
    if bars < 1:
        return "less than one bar a day"
    return "more bars than trades" if bars > usual.trades else ""


def _stop_in_costs(usual: DayFigures, bars: float, config: Config) -> float:
    logs = np.log(np.asarray(BARS_MEASURED, dtype=np.float64)), np.log(np.asarray(usual.atr_bps))
    inner = np.exp(np.interp(np.log(bars), *logs))  # beyond the measured ones it falls as the root of their number
    beyond = np.sqrt(np.clip(bars, BARS_MEASURED[0], BARS_MEASURED[-1]) / bars)
    return float(inner * beyond * config.exits.stop_atr / _costs_bps(config))


def symbol_threshold(config: Config) -> SymbolThreshold:
    """Return the threshold of a session's symbol, in the session's unit.

    Raises:
        ConfigError: Nothing is known of the symbol's volume, or it moves too little for its costs.
    """
    session, unit = config.session, config.bars.unit
    if session.mode == "sim" and session.tape == "synthetic" and (session.symbol, unit) == EXAMPLE[:2]:
        return SymbolThreshold(EXAMPLE[2], "that of the examples on the synthetic market")
    return _chosen(_figures(config), config)


def _chosen(known: tuple[DayFigures, Decimal, str], config: Config) -> SymbolThreshold:
    (figures, step, source), unit = known, config.bars.unit
    bars = _bars_a_day(figures, config)
    smallest = {"base": step, "quote": Decimal("1e-8"), "trades": Decimal(1)}[unit]
    threshold = two_digits_up(getattr(figures, unit) / bars, smallest)
    return SymbolThreshold(threshold, f"for at most {bars:,.0f} bars a day, by {source}")


def threshold_of(trades: Trades, instrument: Instrument, config: Config) -> SymbolThreshold:
    """Return the threshold for the trades of a tape, which may be shorter or longer than a day.

    Raises:
        ConfigError: They are too few, or move too little for the costs.
    """
    try:
        return _chosen(_of_trades(trades, instrument), config)
    except DataError as error:
        raise ConfigError(f"threshold: must be given for {instrument.symbol}: {error}") from None


def with_symbol_threshold(config: Config) -> Config:
    """Return the settings with the threshold of the symbol; modes `demo` and `live` want one that is given.

    Raises:
        ConfigError: There is none, or the mode is `demo` or `live`; names the one that it would be.
    """
    own = symbol_threshold(config)
    mode, symbol = config.session.mode, config.session.symbol
    if mode in ("demo", "live"):
        raise ConfigError(
            f"threshold: must be given in mode {mode}, was none; {symbol}'s own would be {own.threshold:f}, "
            f"{own.source}; python -m voltrade doctor judges one by the exchange's own days"
        )
    return config.changed(threshold=own.threshold)


def _bars_a_day(figures: DayFigures, config: Config) -> float:
    """Return how many bars a day keep the usual stop at `COSTS_PER_STOP` times the costs.

    Raises:
        ConfigError: Not even `FEWEST_BARS` do.
    """
    costs_bps = _costs_bps(config)
    atr_bps = COSTS_PER_STOP * MARGIN * costs_bps / config.exits.stop_atr
    bars = min(bars_with(atr_bps, figures.atr_bps), figures.trades / TRADES_PER_BAR)
    if bars < FEWEST_BARS:
        raise ConfigError(
            f"threshold: must be given for {config.session.symbol}: a day of {figures.trades:,.0f} trades whose price "
            f"moves {figures.atr_bps[0]:.1f} bps a bar in {BARS_MEASURED[0]} bars can't have {FEWEST_BARS} bars with a "
            f"stop of {COSTS_PER_STOP} x the costs of {costs_bps:g} bps"
        )
    return bars


def _costs_bps(config: Config) -> float:
    """Return the costs of a round trip, fees and slippage of both sides, in bps."""
    execution = config.execution
    return 2 * (float(execution.taker_fee) * 10_000 + execution.slippage_bps)


def bars_with(wanted_bps: float, atr_bps: tuple[float, ...]) -> float:
    """Return how many bars a day have at least this average true range.

    Within the measured ones the logarithms are interpolated; beyond them the range falls as the root of their number.
    """
    if wanted_bps >= atr_bps[0]:
        return float(BARS_MEASURED[0] * (atr_bps[0] / wanted_bps) ** 2)
    logs = np.log(np.asarray(atr_bps[::-1])), np.log(np.asarray(BARS_MEASURED[::-1], dtype=np.float64))
    return float(np.exp(np.interp(np.log(max(wanted_bps, 1e-9)), *logs)))


def two_digits_up(amount: float, smallest: Decimal) -> Decimal:
    """Round an amount up to two digits, and to a multiple of the smallest."""
    exact = Decimal(amount)
    two_digits = Decimal(1).scaleb(exact.adjusted() - 1)
    quantum = smallest * max(Decimal(1), (two_digits / smallest).to_integral_value(ROUND_CEILING))
    rounded = (exact / quantum).to_integral_value(ROUND_CEILING) * quantum
    return Decimal(int(rounded)) if rounded == int(rounded) else rounded.normalize()


# --- what is known of a symbol's days ---------------------------------------------------------------------------------


def _figures(config: Config) -> tuple[DayFigures, Decimal, str]:
    """Return the figures of a day, the step, and where they come from.

    Raises:
        ConfigError: Nothing is known of the symbol.
    """
    session = config.session
    try:
        if session.mode == "sim" and session.tape == "synthetic":
            return _of_synthetic(session.symbol)
        if session.mode == "sim" and Path(session.tape).is_file():
            return _of_file(config)
        if found := _of_store(session.symbol) or _shipped(session.symbol):
            return found
    except DataError as error:
        raise ConfigError(f"threshold: must be given for {session.symbol}: {error}") from None
    raise ConfigError(
        f"threshold: must be given for {session.symbol}: nothing is known of its volume; python -m voltrade data fetch "
        f"{session.symbol} --days {MOST_DAYS} brings days to measure it by"
    )


def _instrument(symbol: str) -> Instrument:
    try:
        return shipped_instrument(symbol)
    except DataError as error:  # whatever its threshold, no tape of it can be played
        raise ConfigError(str(error)) from None


def _of_synthetic(symbol: str) -> tuple[DayFigures, Decimal, str]:
    instrument = _instrument(symbol)
    market, hours = market_of(instrument), DAY_MS / HOUR_MS
    coins = float(market.coins_per_hour) * hours
    figures = DayFigures(coins, coins * float(market.price), TRADES_PER_HOUR * hours, SYNTHETIC_ATR_BPS)
    return figures, instrument.step_size, "the synthetic market"


def _of_file(config: Config) -> tuple[DayFigures, Decimal, str]:
    from voltrade.data.tape import load_tape  # only here, since most starts need no tape

    instrument = _instrument(config.session.symbol)
    return _of_trades(load_tape(config.session, instrument).trades, instrument)


def _of_trades(trades: Trades, instrument: Instrument) -> tuple[DayFigures, Decimal, str]:
    """Return the figures of a tape's last whole days, or of all its trades where it has no whole day."""
    whole = list(_whole_days(trades))[-MOST_DAYS:]
    if not whole:
        days = max(int(trades.time[-1] - trades.time[0]), 1) / DAY_MS
        hours = f"{days * 24:.1f} h of the tape"
        return measured(trades, instrument.tick_size, instrument.step_size, days), instrument.step_size, hours
    figures = [measured(day, instrument.tick_size, instrument.step_size) for day in whole]
    return medians(figures), instrument.step_size, f"the tape's last {len(whole)} whole days"


def _whole_days(trades: Trades) -> Iterable[Trades]:
    """Yield the trades of each day between the tape's first and last."""
    cuts: Int64s = np.flatnonzero(np.diff(trades.time // DAY_MS)) + 1
    for begin, end in pairwise(cuts):
        yield trades[begin:end]


def _of_store(symbol: str) -> tuple[DayFigures, Decimal, str] | None:
    from voltrade.data.store import Store  # imports pyarrow, which would slow each start down

    store = Store()
    whole = [day for day in store.days(TRADES, symbol) if day.complete][-MOST_DAYS:]
    if not whole:
        return None
    figures = [_of_stored_day(store, day) for day in whole]
    first, last = whole[0].day, whole[-1].day
    source = f"the median of {len(whole)} whole days of the store, {first} to {last}"
    return medians(figures), Decimal(whole[-1].metadata.step), source


def _of_stored_day(store: Store, day: StoredDay) -> DayFigures:
    """Return the figures of a stored day; they are kept beside the store."""
    known = (
        f"{DayFigures.__slots__} {BARS_MEASURED} {day.symbol} {day.day} {day.rows} {day.first} {day.last} {day.size}"
    )
    key = sha256(known.encode()).hexdigest()
    if text := store.cache.text(key):
        return _read(json.loads(text))
    columns = store.rows(TRADES, day.symbol, day.day)
    trades = Trades(day.symbol, *columns)
    figures = measured(trades, Decimal(day.metadata.tick), Decimal(day.metadata.step))
    store.cache.add_text(key, json.dumps(asdict(figures)))
    return figures


def _read(row: Mapping[str, Any]) -> DayFigures:
    return DayFigures(row["base"], row["quote"], row["trades"], tuple(row["atr_bps"]))


@cache
def shipped_volumes() -> Mapping[str, Any]:
    """Return the shipped table: for each symbol the figures of a day, its step, and what they were measured on."""
    text = resources.files("voltrade").joinpath("data/volumes.json").read_text("utf-8")
    table: Mapping[str, Any] = json.loads(text)["symbols"]
    return table


def _shipped(symbol: str) -> tuple[DayFigures, Decimal, str] | None:
    row = shipped_volumes().get(symbol)
    if row is None:
        return None
    return _read(row), Decimal(row["step"]), row["measured_on"]


# --- measuring --------------------------------------------------------------------------------------------------------


def measured(trades: Trades, tick: Decimal, step: Decimal, days: float = 1.0) -> DayFigures:
    """Return the figures of a day by the trades of so many days, in ticks and lots.

    Raises:
        DataError: They are too few to measure how far the price moves.
    """
    lots = trades.quantity
    return DayFigures(
        base=float(lots.sum() * float(step) / days),
        quote=float((trades.price.astype(np.float64) * lots).sum() * float(tick * step) / days),
        trades=float(len(trades) / days),
        atr_bps=_ranges(trades.price, lots, days),
    )


def _ranges(prices: Int64s, lots: Int64s, days: float) -> tuple[float, ...]:
    """Return the median average true range for each number of bars a day, in bps.

    A tape that is too short for a number has what follows from the next larger one by the root of their ratio.
    """
    volume, found = np.cumsum(lots), [0.0] * len(BARS_MEASURED)
    for place in reversed(range(len(BARS_MEASURED))):
        bars = BARS_MEASURED[place]
        atr = _median_atr_bps(prices, volume, round(bars * days))
        later = found[place + 1] * np.sqrt(BARS_MEASURED[place + 1] / bars) if place + 1 < len(BARS_MEASURED) else 0.0
        found[place] = float(atr or later)
    if not all(found):
        raise DataError(f"a tape of {len(prices)} trades is too short to measure how far the price moves")
    return tuple(found)


def _median_atr_bps(prices: Int64s, volume: Int64s, bars: int) -> float:
    """Return the median average true range of so many bars of equal volume, in bps; 0 if they are too few."""
    ends = np.searchsorted(volume, volume[-1] * np.arange(1, bars + 1) / max(bars, 1))
    closes = np.unique(np.minimum(ends, len(volume) - 1))
    if len(closes) < 2 * ATR_BARS:
        return 0.0
    begins: Int64s = np.append(0, closes[:-1] + 1)
    high, low = np.maximum.reduceat(prices, begins), np.minimum.reduceat(prices, begins)
    before, close = prices[closes[:-1]], prices[closes[1:]]
    total = np.cumsum(np.append(0.0, (np.maximum(high[1:], before) - np.minimum(low[1:], before)) / close))
    return float(np.median(total[ATR_BARS:] - total[:-ATR_BARS]) / ATR_BARS * 10_000)


def medians(figures: list[DayFigures]) -> DayFigures:
    """Return the median of each figure."""
    columns = ([getattr(day, name) for day in figures] for name in DayFigures.__slots__)
    base, quote, trades, ranges = (np.median(np.asarray(column), axis=0) for column in columns)
    return DayFigures(float(base), float(quote), float(trades), tuple(map(float, ranges)))
