"""Statistics of a tape: its days, its gaps, and how large a volume bar should be.

`calibrate` makes bars at a range of thresholds, by the aggregator of live trading, and measures how many bars there are
a day, how regular they are, and the distribution of their returns. A threshold is then chosen by the wanted number of
bars a day, or as the one whose bar returns are nearest to a normal distribution. Returns are usually nearer to normal
for volume bars than for time bars (Clark 1973; Ané and Geman 2000; Easley, López de Prado and O'Hara, "The Volume
Clock", 2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pandas as pd

from voltrade.bar_rate import ExpectedRange
from voltrade.bar_spec import UNITS, smallest_threshold
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Rows
from voltrade.config import BarSettings
from voltrade.data.row_checks import ids_missing_before
from voltrade.errors import DataError
from voltrade.model import DAY_MS, CloseReason, Floats, Instrument, Int64s, Trades

THRESHOLDS = 24
"""Number of thresholds."""

FEWEST_RETURNS = 200
"""A threshold with fewer bar returns isn't judged by their distribution: kurtosis of fewer is mostly chance."""

CLUSTERING_LAGS = 10

RANGE_DEVIATIONS = 3.0
RANGE_FACTOR = 3.0
"""Expected range of bars a day, as a factor, where a tape has too few days to measure how days differ."""
NARROWEST_FACTOR = 1.5
DAYS_FOR_RANGE = 5


def natural(counts: Int64s, unit: Decimal) -> Floats:
    """Return whole numbers of a unit as floats, rounded once: 3 ticks of 0.1 are 0.3."""
    numerator, denominator = unit.as_integer_ratio()
    return np.asarray(counts * float(numerator) / denominator, dtype=np.float64)


# --- what a tape holds ------------------------------------------------------------------------------------------------


def day_table(trades: Trades, instrument: Instrument) -> pd.DataFrame:
    """Return one row for each UTC day of a tape: prices and notional in the quote asset, volume in coins."""
    cuts = np.flatnonzero(np.diff(trades.time // DAY_MS, prepend=-1))
    last = np.append(cuts[1:], len(trades)) - 1
    tick, step = instrument.tick_size, instrument.step_size
    bought = np.where(trades.buyer_is_maker, 0, trades.quantity)
    volume = np.add.reduceat(trades.quantity, cuts)
    waits = np.diff(trades.time, prepend=trades.time[0])
    missing = ids_missing_before(trades.id)
    table = {
        "trades": last - cuts + 1,
        "volume": natural(volume, step),
        "notional": natural(np.add.reduceat(trades.price * trades.quantity, cuts), tick * step),
        "bought": np.add.reduceat(bought, cuts) / volume,
        "first": natural(trades.price[cuts], tick),
        "low": natural(np.minimum.reduceat(trades.price, cuts), tick),
        "high": natural(np.maximum.reduceat(trades.price, cuts), tick),
        "last": natural(trades.price[last], tick),
        "hours": (trades.time[last] - trades.time[cuts]) / 3_600_000,
        "longest_silence_s": np.maximum.reduceat(waits, cuts) / 1000,
        "gaps": np.add.reduceat(missing > 0, cuts, dtype=np.int64),
        "ids_missing": np.add.reduceat(missing, cuts),
    }
    days = pd.DatetimeIndex((trades.time[cuts] // DAY_MS * DAY_MS).view("datetime64[ms]"), name="day")
    return pd.DataFrame(table, index=days.strftime("%Y-%m-%d"))


def gap_table(trades: Trades, instrument: Instrument) -> pd.DataFrame:
    """Return one row for each gap in the ids, by the time of the last trade before it."""
    missing = ids_missing_before(trades.id)
    after = np.flatnonzero(missing)
    table = {
        "first_id": trades.id[after - 1] + 1,
        "ids_missing": missing[after],
        "seconds": (trades.time[after] - trades.time[after - 1]) / 1000,
        "move": natural(trades.price[after] - trades.price[after - 1], instrument.tick_size),
    }
    return pd.DataFrame(table, index=_times(trades.time[after - 1]))


def _times(milliseconds: Int64s) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(milliseconds.view("datetime64[ms]"), name="time").tz_localize("UTC")


# --- bars at a threshold ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BarFigures:
    """Figures of the bars of one threshold."""

    threshold: Decimal
    bars: int
    """Bars that reached the threshold."""
    bars_a_day: float
    trades_a_bar: float
    seconds: float
    """Median duration, from the close of one bar to the close of the next."""
    seconds_5: float
    seconds_95: float
    seconds_cv: float
    """Coefficient of variation, standard deviation / mean: about 1 for random arrivals, 0 for equal durations."""
    returns: int
    correlation: float
    """Autocorrelation of returns at lag 1. Far from 0, there is bid-ask bounce or a trend in the tape."""
    clustering: float
    """Mean autocorrelation of absolute returns over lags 1 to 10: 0 without volatility clustering."""
    skewness: float
    kurtosis: float
    """In excess of the normal distribution's 3."""
    non_normality: float
    """Jarque and Bera's statistic (1987) per return, skewness^2 / 6 + kurtosis^2 / 24: 0 for a normal distribution."""


def bar_figures(trades: Trades, instrument: Instrument, settings: BarSettings) -> BarFigures:
    """Make the bars of a tape at a threshold and measure them.

    Raises:
        ConfigError: the threshold is impossible for the symbol.
    """
    rows = VolumeBarAggregator(settings, instrument).process(trades)
    full = rows[rows["close_reason"] == CloseReason.THRESHOLD]
    seconds = _durations(full)
    returns = _returns(rows)
    skewness, kurtosis = _moment(returns, 3), _moment(returns, 4) - 3
    some = len(seconds) > 0
    low, middle, high = np.quantile(seconds, [0.05, 0.5, 0.95]) if some else (np.nan,) * 3
    return BarFigures(
        threshold=settings.threshold,
        bars=len(full),
        bars_a_day=len(full) / days_covered(trades),
        trades_a_bar=float(full["trade_count"].mean()) if len(full) else np.nan,
        seconds=float(middle),
        seconds_5=float(low),
        seconds_95=float(high),
        seconds_cv=float(seconds.std() / seconds.mean()) if some and seconds.mean() else np.nan,
        returns=len(returns),
        correlation=_autocorrelation(returns, 1),
        clustering=float(np.mean([_autocorrelation(np.abs(returns), lag) for lag in range(1, CLUSTERING_LAGS + 1)])),
        skewness=skewness,
        kurtosis=kurtosis,
        non_normality=skewness**2 / 6 + kurtosis**2 / 24,
    )


def days_covered(trades: Trades) -> float:
    """Return the length of a tape in days."""
    return max(int(trades.time[-1] - trades.time[0]), 1) / DAY_MS


def _durations(full: Rows) -> Floats:
    """Return the seconds from close to close of consecutive bars of one day."""
    follows = (np.diff(full["number"]) == 1) & (np.diff(full["day"]) == 0)
    return np.asarray(np.diff(full["close_time"])[follows] / 1000, dtype=np.float64)


def _returns(rows: Rows) -> Floats:
    """Return log returns from close to close of full bars, without those over a gap or over the day's end."""
    full = (rows["close_reason"] == CloseReason.THRESHOLD) & ~rows["tainted"]
    steps = np.diff(np.log(rows["close"].astype(np.float64)))
    return np.asarray(steps[full[1:] & full[:-1]], dtype=np.float64)


def _moment(values: Floats, power: int) -> float:
    """Return the standardised central moment."""
    deviation = values.std() if len(values) > 1 else 0.0
    if deviation == 0:
        return float("nan")
    return float(np.mean(((values - values.mean()) / deviation) ** power))


def _autocorrelation(values: Floats, lag: int) -> float:
    if len(values) <= lag + 1:
        return float("nan")
    deviations = values - values.mean()
    variance = float(deviations @ deviations)
    return float(deviations[lag:] @ deviations[:-lag]) / variance if variance else float("nan")


# --- choosing one -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A threshold, why it was chosen, and the expected range of bars a day."""

    figures: BarFigures
    reason: str
    expected_range: ExpectedRange
    range_reason: str

    @property
    def threshold(self) -> Decimal:
        return self.figures.threshold

    def parameters(self) -> str:
        """Return threshold and expected range as parameters for papermill."""
        low, high = math.floor(self.expected_range.low), math.ceil(self.expected_range.high)
        threshold = f"{self.threshold.normalize():f}"
        return f"-p threshold {threshold} -p least_bars_a_day {low} -p most_bars_a_day {high}"

    def table(self) -> pd.DataFrame:
        """Return names and values as texts."""
        figures = self.figures
        rows = {
            "threshold": f"{self.threshold.normalize():f}",
            "chosen": self.reason,
            "bars a day": f"{figures.bars_a_day:,.0f}",
            "expected range": f"{self.expected_range.low:,.0f} to {self.expected_range.high:,.0f} bars in 24 hours",
            "the range follows from": self.range_reason,
            "trades a bar": f"{figures.trades_a_bar:,.0f}",
            "seconds a bar": f"{figures.seconds:,.0f}; 90 % last {figures.seconds_5:,.0f} to {figures.seconds_95:,.0f}",
            "correlation of returns": f"{figures.correlation:+.3f}",
            "excess kurtosis of returns": f"{figures.kurtosis:,.2f}",
        }
        return pd.DataFrame({"": rows}).rename_axis("figure")


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Figures of a tape's bars at a range of thresholds."""

    trades: Trades
    instrument: Instrument
    unit: str
    anchor: str
    figures: tuple[BarFigures, ...]
    """By ascending threshold."""

    def table(self) -> pd.DataFrame:
        """Return a row for each threshold."""
        rows = [{name: getattr(figures, name) for name in BarFigures.__slots__} for figures in self.figures]
        return pd.DataFrame(rows).assign(threshold=[float(figures.threshold) for figures in self.figures])

    def for_bars_a_day(self, wanted: float) -> Recommendation:
        """Choose the threshold for so many bars a day: the volume of a day divided by them.

        Raises:
            ConfigError: no such threshold is possible for the symbol.
        """
        threshold = _threshold(self.trades, self.instrument, self.unit, wanted)
        return self._recommend(self._at(threshold), f"for {wanted:,.0f} bars a day")

    def nearest_to_normal(self, fewest: float, most: float) -> Recommendation:
        """Choose the threshold in a range of bars a day whose bar returns are nearest to normal, by `non_normality`.

        Larger bars are mostly nearer to normal, so `fewest` often decides.

        Raises:
            DataError: the tape has too few bars to judge any threshold in the range.
        """
        judged = [
            figures
            for figures in self.figures
            if fewest <= figures.bars_a_day <= most and figures.returns >= FEWEST_RETURNS
        ]
        if not judged:
            raise DataError(
                f"a tape of {days_covered(self.trades):.2f} days has no threshold of {fewest:,.0f} to {most:,.0f} bars "
                f"a day with {FEWEST_RETURNS} returns to judge it by"
            )
        best = min(judged, key=lambda figures: figures.non_normality)
        return self._recommend(best, f"nearest to normal of {fewest:,.0f} to {most:,.0f} bars a day")

    def _at(self, threshold: Decimal) -> BarFigures:
        settings = BarSettings.model_validate({"unit": self.unit, "threshold": threshold, "anchor": self.anchor})
        return bar_figures(self.trades, self.instrument, settings)

    def _recommend(self, figures: BarFigures, reason: str) -> Recommendation:
        factor, why = _range_factor(self.trades, self.instrument, self.unit)
        expected = ExpectedRange(figures.threshold, figures.bars_a_day / factor, figures.bars_a_day * factor)
        return Recommendation(figures, reason, expected, why)


def calibrate(
    trades: Trades,
    instrument: Instrument,
    *,
    unit: str = "base",
    anchor: str = "utc_day",
    fewest: float = 24.0,
    most: float = 5_000.0,
    thresholds: Sequence[Decimal] | None = None,
) -> Calibration:
    """Make bars at thresholds for many to few bars a day, evenly spaced by ratio, and measure them.

    Args:
        fewest: bars a day at the largest threshold.
        most: bars a day at the smallest threshold, at most a tenth of the trades a day.
        thresholds: use these instead.

    Raises:
        ConfigError: a given threshold is impossible for the symbol.
    """
    if thresholds is None:
        most = max(min(most, len(trades) / days_covered(trades) / 10), 2 * fewest)
        wanted = np.geomspace(most, fewest, THRESHOLDS)
        thresholds = [_threshold(trades, instrument, unit, float(bars)) for bars in wanted]
    empty = Calibration(trades, instrument, unit, anchor, ())
    figures = tuple(empty._at(threshold) for threshold in sorted(set(thresholds)))
    return Calibration(trades, instrument, unit, anchor, figures)


def _amounts(trades: Trades, unit: str) -> Int64s:
    """Return what each trade adds to a bar: lots, ticks x lots, or one."""
    return np.asarray(UNITS[unit](trades.price, trades.quantity))


def _smallest(instrument: Instrument, unit: str) -> Decimal:
    return smallest_threshold(unit, instrument)[0]


def traded(trades: Trades, instrument: Instrument, unit: str) -> float:
    """Return the total of a tape in a unit of thresholds."""
    return float(_amounts(trades, unit).sum()) * float(_smallest(instrument, unit))


def threshold_near(amount: float, instrument: Instrument, unit: str) -> Decimal:
    """Round to a threshold that the symbol allows: three digits, and a multiple of the step."""
    exact, smallest = Decimal(amount), _smallest(instrument, unit)
    three_digits = Decimal(1).scaleb(exact.adjusted() - 2)
    quantum = smallest * max(Decimal(1), (three_digits / smallest).to_integral_value(ROUND_HALF_EVEN))
    return max((exact / quantum).to_integral_value(ROUND_HALF_EVEN), Decimal(1)) * quantum


def _threshold(trades: Trades, instrument: Instrument, unit: str, bars_a_day: float) -> Decimal:
    """Return the threshold for so many bars a day."""
    a_day = traded(trades, instrument, unit) / days_covered(trades)
    return threshold_near(a_day / bars_a_day, instrument, unit)


def _range_factor(trades: Trades, instrument: Instrument, unit: str) -> tuple[float, str]:
    """Return the expected range of bars a day as a factor, and why."""
    cuts = np.flatnonzero(np.diff(trades.time // DAY_MS, prepend=-1))
    whole = np.add.reduceat(_amounts(trades, unit), cuts)[1:-1]  # the days at the edges may have begun or ended early
    if len(whole) < DAYS_FOR_RANGE:
        return RANGE_FACTOR, f"a third to three times, since {len(whole)} whole days can't tell how days differ"
    spread = float(np.log(whole.astype(np.float64)).std(ddof=1))
    factor = max(float(np.exp(RANGE_DEVIATIONS * spread)), NARROWEST_FACTOR)
    return (
        factor,
        f"{RANGE_DEVIATIONS:.0f} standard deviations of the log volume of {len(whole)} whole days, {spread:.2f}",
    )
