"""Performance figures on calendar time.

All functions take arrays, and state definition and source. `statistics` and `sweep` use the same functions. Times are
milliseconds UTC, a year has 365 days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from voltrade.compiled import Rows, compiled, plain
from voltrade.model import DAY_MS, HOUR_MS, MONEY, Floats, Int64s

YEAR_DAYS = 365
"""Calendar days that annualised numbers refer to."""

ROUNDING = 1e-9
"""Returns with a smaller relative deviation are equal: the difference is rounding of equity."""


# --- returns and their Sharpe ratio -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Returns:
    """Returns of equity over equal periods of calendar time."""

    values: Floats
    period_ms: int
    """0 where the span is too short."""
    equity: float = math.nan
    """Before the first return, in the quote asset."""

    @property
    def days(self) -> float:
        """Length in days."""
        return len(self.values) * self.period_ms / DAY_MS

    @property
    def a_year(self) -> float:
        """Periods per year."""
        return YEAR_DAYS * DAY_MS / self.period_ms if self.period_ms else math.nan

    @property
    def basis(self) -> str:
        """Description of the returns, or why there is no Sharpe ratio."""
        if not self.period_ms:
            return "too short to tell (under a day)"
        if not np.any(self.values):
            return "equity never moved"
        if math.isnan(self.sharpe):
            return "all its returns are the same"
        return f"{'daily' if self.period_ms == DAY_MS else 'hourly'} equity, {YEAR_DAYS} days a year"

    @property
    def sharpe(self) -> float:
        """Mean / standard deviation (n - 1) of the returns, not annualised; NaN where there is none."""
        return _sharpe(self.values)

    @property
    def annual_sharpe(self) -> float:
        return self.sharpe * math.sqrt(self.a_year)


@compiled
def _sharpe(values: Floats) -> float:
    if len(values) < 2:
        return math.nan
    mean, squares = values.mean(), 0.0
    for value in values:
        squares += (value - mean) ** 2
    deviation = math.sqrt(squares / (len(values) - 1))
    return mean / deviation if deviation > ROUNDING * abs(mean) else math.nan


def period_of(span_ms: int) -> int:
    """Return the period of returns for a span: a day from 30 days on, an hour from one day on, else 0."""
    return DAY_MS if span_ms >= 30 * DAY_MS else HOUR_MS if span_ms >= DAY_MS else 0


@compiled
def _changes(times: Int64s, equity: Floats, boundary: int, count: int, period: int) -> Floats:
    """Return the relative changes over `count` periods from a boundary on; each boundary has the last known equity."""
    changes, before = np.empty(count), equity[0]
    for number in range(count):
        boundary += period
        after = equity[np.searchsorted(times, boundary, side="right") - 1]
        changes[number] = (after - before) / before if before != 0.0 else math.nan
        before = after
    return changes


def returns_of(times: Int64s, equity: Floats, period_ms: int | None = None) -> Returns:
    """Return the relative changes of equity between the boundaries of periods, by default those of `period_of`.

    A boundary has the last equity known at its time; periods without a trade count too. The first boundary is the one
    at or before the first time and has the first equity, the last boundary is the one at or after the last time. So
    every change of equity is in one return.
    """
    period = period_of(int(times[-1] - times[0]) if len(times) else 0) if period_ms is None else period_ms
    if not period or not len(times):
        return Returns(np.empty(0), 0)
    first, last = int(times[0]) // period, -(-int(times[-1]) // period)
    return Returns(_changes(times, equity, first * period, last - first, period), period, float(equity[0]))


# --- the account ------------------------------------------------------------------------------------------------------


@compiled
def worth_of(points: Rows) -> Floats:
    """Return the equity, in the quote asset, of rows with `wallet` and `unrealised` money."""
    worth = np.empty(len(points))
    money, amount = 0, 0.0
    for number in range(len(points)):
        if points[number].wallet + points[number].unrealised != money:  # without a position it doesn't change
            money = points[number].wallet + points[number].unrealised
            amount = money / MONEY
        worth[number] = amount
    return worth


@compiled
def max_drawdown(equity: Floats) -> tuple[float, float]:
    """Return the largest fall of equity from its highest so far, as a positive amount and relative to that highest."""
    deepest, part, peak = 0.0, 0.0, -math.inf
    for value in equity:
        if value > peak:
            peak = value
        elif peak - value > deepest:  # a smaller fall from a peak that isn't lower has no larger part
            deepest = peak - value
            part = max(part, deepest / peak)
    return deepest, part


@compiled
def exposure(times: Int64s, lots: Int64s, started: int, ended: int) -> float:
    """Return the part of the time from `started` to `ended` with a position, from fills of signed lots."""
    if ended <= started:
        return math.nan
    held, position = 0, 0
    for fill in range(len(times)):
        position += lots[fill]
        if position != 0:
            held += (times[fill + 1] if fill + 1 < len(times) else ended) - times[fill]
    return held / (ended - started)


@compiled
def win_rate(nets: Floats) -> float:
    """Return the part of the round trips with net > 0; NaN without round trips."""
    won = 0
    for net in nets:
        won += net > 0
    return won / len(nets) if len(nets) else math.nan


@compiled
def profit_factor(nets: Floats) -> float:
    """Return the net of winners / the net loss of losers; NaN without losers."""
    won, lost = 0.0, 0.0
    for net in nets:
        if net > 0:
            won += net
        else:
            lost -= net
    return won / lost if lost else math.nan


@compiled
def money_at_risk(entry_notional: int, stop_price: int, quantity: int, fees: int, money_per_ticklot: int) -> int:
    """Return what a round trip loses from its average entry to its stop, with its fees, in money; 0 without a stop.

    It takes many at once where they are arrays, as plain Python.
    """
    lost = abs(entry_notional - stop_price * quantity) * money_per_ticklot + fees
    return lost * (stop_price != 0) * (lost > 0)


def at_risk(trips: Any, money_per_ticklot: int) -> Floats:
    """Return R of each round trip: what it loses from its average entry to its stop, with its fees; NaN without a stop.

    Args:
        trips: columns of `model.RoundTrip` by their names.
    """
    names, of_many = ("entry_notional", "stop_price", "quantity", "fees"), cast(Any, plain(money_at_risk))
    money = of_many(*(np.asarray(trips[name], np.int64) for name in names), money_per_ticklot)
    return np.where(money > 0, money / MONEY, np.nan)


def largest_of(values: Floats) -> float:
    """Return the largest number; NaN where there is none."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else math.nan


# --- all together -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Performance figures on calendar time. Money in the quote asset; NaN where there is no figure."""

    bars: int
    signals: int
    refusals: int
    round_trips: int
    long_trips: int
    short_trips: int
    win_rate: float
    """Part of the round trips with net > 0."""
    profit_factor: float
    """Net of winners / net loss of losers."""
    net: float
    """Of closed round trips: realised + fees + funding."""
    realised: float
    fees: float
    """Negative, as all costs."""
    funding: float
    equity_change: float
    """Last equity - first equity; differs from `net` by the open position and by transfers."""
    largest_r: float
    """Largest R of a round trip: what it loses at its stop, fees included; NaN without round trips."""
    max_drawdown: float
    """Largest fall of equity from its highest so far, negative as all losses."""
    max_drawdown_part: float
    """Relative to that highest."""
    exposure: float
    """Part of the calendar time with a position."""
    turnover: float
    """Notional of all fills."""
    sharpe: float
    """Annualised mean / standard deviation of equity returns."""


class PerformanceData(NamedTuple):
    """The data that figures are computed from. Money in the quote asset, times in ms UTC."""

    bars: int
    signals: int
    refusals: int
    opened: Sequence[int]
    """Open time of the first bar; empty without bars."""
    closed: Sequence[int]
    """Close time of the last bar; empty without bars."""
    nets: Floats
    """Net of each closed round trip."""
    largest_r: float
    """Largest R of a closed round trip; NaN without one."""
    long_trips: int
    realised: float
    fees: float
    funding: float
    turnover: float
    fill_times: Int64s
    fill_lots: Int64s
    """Signed."""
    equity_times: Int64s
    equity: Floats

    @property
    def span(self) -> tuple[int, int]:
        """First and last time: from the first bar or valuation to the last bar, valuation or fill."""
        starts = [*self.opened, *self.equity_times[:1].tolist()]
        ends = [*self.closed, *self.equity_times[-1:].tolist(), *self.fill_times[-1:].tolist()]
        return min(starts, default=0), max(ends, default=0)


_SAME_NAMES = ("bars", "signals", "refusals", "long_trips", "realised", "fees", "funding", "turnover")
"""Figures that `PerformanceData` has under the same names."""


def figures_of(data: PerformanceData, period_ms: int | None = None) -> tuple[Figures, Returns]:
    """Compute all figures, and the returns of the Sharpe ratio; `period_ms` as in `returns_of`."""
    nets, equity = data.nets, data.equity
    returns = returns_of(data.equity_times, equity, period_ms)
    deepest, deepest_part = max_drawdown(equity)
    same = {name: getattr(data, name) for name in _SAME_NAMES}
    figures = Figures(
        **same,
        round_trips=len(nets),
        short_trips=len(nets) - data.long_trips,
        win_rate=win_rate(nets),
        profit_factor=profit_factor(nets),
        net=float(nets.sum()),
        largest_r=data.largest_r,
        equity_change=float(equity[-1] - equity[0]) if len(equity) else math.nan,
        max_drawdown=0.0 - deepest,
        max_drawdown_part=0.0 - deepest_part,
        exposure=exposure(data.fill_times, data.fill_lots, *data.span),
        sharpe=returns.annual_sharpe,
    )
    return figures, returns
