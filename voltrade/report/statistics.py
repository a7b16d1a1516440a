"""Statistics of a run on calendar time, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from voltrade.report import performance
from voltrade.report.frames import (
    Frames,
    to_milliseconds,
)


@dataclass(frozen=True, slots=True)
class Held:
    """The open position at a run's end; it isn't in a round trip yet."""

    quantity: float = 0.0
    """Signed, in coins; 0 without a position."""
    unrealised: float = 0.0
    """Unrealised PnL at the last valuation, in the quote asset; part of the equity."""
    fees: float = 0.0
    """Fees of its fills in this run, negative as all costs; part of the equity."""
    base_asset: str = ""
    quote_asset: str = ""

    @staticmethod
    def of(run: Frames) -> Held:
        """Return the open position of a run."""
        if run.equity.empty or not run.equity["position"].iloc[-1]:
            return Held()
        last = run.equity.iloc[-1]
        fees = float(run.fills["fee"][~is_settled(run, run.fills)].sum())
        assets = run.instrument.base_asset, run.instrument.quote_asset
        return Held(float(last["position"]), float(last["unrealised"]), fees, *assets)

    def __str__(self) -> str:
        if not self.quantity:
            return "none"
        money = f"unrealised {self.unrealised:+,.2f}, fees {self.fees:+,.2f} {self.quote_asset}"
        return f"{self.quantity:+,.15g} {self.base_asset}, {money}"


@dataclass(frozen=True)
class Statistics(performance.Figures):
    """Figures of a run, and more that is computed from its frames."""

    started: pd.Timestamp
    ended: pd.Timestamp
    days: float
    slippage: float
    """Gain of the fills of closed round trips against their reference prices; negative where it cost. Part of
    `realised`."""
    without_reference: int
    """Filled orders whose slippage is unknown, since their reference price is."""
    sharpe_basis: str
    """The returns that the Sharpe ratio is computed from."""
    average_win: float
    average_loss: float
    average_minutes: float
    held: Held
    quote_asset: str
    warning: str = ""
    """What the result is marked with: that much of its tape is missing."""

    def table(self) -> pd.DataFrame:
        """Return one row for each measure, with its value as text."""
        rows = [(label, show(self, self.quote_asset)) for label, show in _STATISTICS_ROWS.items()]
        if self.warning:
            rows.insert(0, ("rests on", self.warning))
        return pd.DataFrame(rows, columns=["measure", "value"]).set_index("measure")


_MONEY, _PART = "{:+,.2f} {}", "{:.1%}"


def _cell(name: str, form: str = "{:,.2f}") -> Callable[[Statistics, str], str]:
    """Return a function that formats a figure, with the quote asset where the form has it; NaN as a dash."""
    return lambda s, quote: form.format(getattr(s, name), quote) if math.isfinite(getattr(s, name)) else "-"


def without_reference_text(orders: int, before: str) -> str:
    if not orders:
        return ""
    return f"{before}{orders:,} {'order' if orders == 1 else 'orders'} without a reference price"


_STATISTICS_ROWS: dict[str, Callable[[Statistics, str], str]] = {
    "from": lambda s, quote: f"{s.started:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "to": lambda s, quote: f"{s.ended:%Y-%m-%d %H:%M:%S} UTC" if s.bars else "-",
    "calendar days": _cell("days", "{:,.3f}"),
    "bars": _cell("bars", "{:,.0f}"),
    "signals": _cell("signals", "{:,.0f}"),
    "refused signals": _cell("refusals", "{:,.0f}"),
    "round trips (long / short)": lambda s, quote: f"{s.round_trips} ({s.long_trips} / {s.short_trips})",
    "win rate": _cell("win_rate", _PART),
    "profit factor": _cell("profit_factor"),
    "net PnL of round trips": _cell("net", _MONEY),
    "realised before costs": _cell("realised", _MONEY),
    "fees": _cell("fees", _MONEY),
    "funding": _cell("funding", _MONEY),
    "slippage (inside realised)": lambda s, quote: (
        _cell("slippage", _MONEY)(s, quote) + without_reference_text(s.without_reference, ", ")
    ),
    "position at the end": lambda s, quote: str(s.held),
    "change of equity": _cell("equity_change", _MONEY),
    "max drawdown": lambda s, quote: f"{s.max_drawdown:+,.2f} {quote} ({s.max_drawdown_part:.2%})",
    "time in a position": _cell("exposure", _PART),
    "turnover of all fills": lambda s, quote: f"{s.turnover:,.2f} {quote}",
    "Sharpe ratio": lambda s, quote: (
        f"{s.sharpe:.2f} ({s.sharpe_basis})" if math.isfinite(s.sharpe) else s.sharpe_basis
    ),
    "average win": _cell("average_win", _MONEY),
    "average loss": _cell("average_loss", _MONEY),
    "average holding, minutes": _cell("average_minutes", "{:,.1f}"),
}


@dataclass(frozen=True, slots=True)
class CountedBars:
    """Figures of a run's bars, for frames that have only some of the bars."""

    bars: int
    signals: int
    opened: Sequence[int]
    """When the first bar opened, ms UTC; empty without one."""
    closed: Sequence[int]
    """When the last bar closed, ms UTC; empty without one."""

    @staticmethod
    def of(run: Frames) -> CountedBars:
        """Count the bars of a run whose frames have all of them, without those of the loaded history."""
        bars, decisions = run.since_begin(run.bars), run.since_begin(run.decisions)
        signals = int((decisions["signal"] != "").sum())
        opened, closed = (to_milliseconds(times).tolist() for times in (bars["open_time"].iloc[:1], bars.index[-1:]))
        return CountedBars(len(bars), signals, opened, closed)


def performance_data(run: Frames, counted: CountedBars | None = None) -> performance.PerformanceData:
    """Return the data that a run's figures are computed from; `counted` as in `statistics`."""
    counted = counted or CountedBars.of(run)
    trips, fills = run.round_trips, run.fills
    signed = np.where(fills["side"] == "BUY", fills["quantity"], -fills["quantity"])
    return performance.PerformanceData(
        bars=counted.bars,
        signals=counted.signals,
        refusals=len(run.refusals),
        opened=counted.opened,
        closed=counted.closed,
        nets=trips["net"].to_numpy(),
        largest_r=performance.largest_of(trips["at_risk"].to_numpy()),
        long_trips=int((trips["side"] == "LONG").sum()),
        realised=float(trips["realised"].sum()),
        fees=float(trips["fees"].sum()),
        funding=float(trips["funding"].sum()),
        turnover=float(fills["notional"].sum()),
        fill_times=to_milliseconds(fills.index),
        fill_lots=np.rint(signed / float(run.instrument.step_size)).astype(np.int64),
        equity_times=to_milliseconds(run.equity.index),
        equity=run.equity["equity"].to_numpy(),
    )


def statistics(run: Frames, counted: CountedBars | None = None) -> Statistics:
    """Compute a run's figures on calendar time.

    Args:
        counted: figures of the bars, for frames that have only some of the bars.
    """
    data = performance_data(run, counted)
    figures, returns = performance.figures_of(data)
    started, ended = (pd.Timestamp(time, unit="ms", tz="UTC") for time in data.span)
    nets, minutes = data.nets, run.round_trips["minutes"]
    return Statistics(
        **vars(figures),
        started=started,
        ended=ended,
        days=(ended - started).total_seconds() / 86_400,
        slippage=float(run.orders["slippage"][is_settled(run, run.orders)].sum(min_count=1)),
        without_reference=orders_without_reference(run),
        sharpe_basis=returns.basis,
        average_win=float(nets[nets > 0].mean()) if (nets > 0).any() else math.nan,
        average_loss=float(nets[nets < 0].mean()) if (nets < 0).any() else math.nan,
        average_minutes=float(minutes.mean()) if len(minutes) else math.nan,
        held=Held.of(run),
        quote_asset=run.instrument.quote_asset,
        warning=run.warning,
    )


def returns(run: Frames, period_ms: int | None = None) -> performance.Returns:
    """Return the returns of equity over periods of calendar time, see `performance.returns_of`."""
    return performance.returns_of(to_milliseconds(run.equity.index), run.equity["equity"].to_numpy(), period_ms)


def is_settled(run: Frames, rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which orders or fills don't belong to the open position."""
    return rows["round_trip"].isin(run.round_trips["id"]) | (rows["round_trip"] < 0)


def orders_without_reference(run: Frames) -> int:
    """Count the filled orders without a known slippage, except those of the open position."""
    is_unknown = run.orders["average_price"].notna() & run.orders["slippage"].isna()
    return int((is_unknown & is_settled(run, run.orders)).sum())
