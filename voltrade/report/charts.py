"""Charts of a run, from its frames: prices, equity, refusals, and a comparison with a backtest."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from voltrade.config import Config
from voltrade.errors import ConfigError
from voltrade.report.candles import (
    FAINT,
    FAST,
    SLOW,
    Window,
    duration_trace,
    own_traces,
    price_traces,
    rsi_trace,
    scatter,
)  # fmt: skip
from voltrade.report.chart_style import (
    MAX_BARS,
    add_time_axis,
    apply_style,
    marked,
    outline_points,
    rsi_ticks,
    title_of,
)
from voltrade.report.equity_traces import HOLE, equity_traces, holes_of, position_trace
from voltrade.report.frames import Frames
from voltrade.report.summary import refusals_by_code


def price_chart(run: Frames, config: Config, last_bars: int = MAX_BARS, around: int | None = None) -> go.Figure:
    """Draw bars with indicators, entries and exits, and below them the RSI and the durations of the bars.

    Bars are evenly spaced; the upper axis shows the time. The hover text of bars, entries, exits and refusals gives the
    reasons. Indicators of a user's rule have a panel below the RSI.

    Args:
        last_bars: number of bars, at most `MAX_BARS`.
        around: id of a round trip whose entry is in the middle; by default the run's last bars are shown.

    Raises:
        ConfigError: the run has no such round trip.
    """
    shown = _window(run, min(last_bars, MAX_BARS), around)
    title = title_of(run, config)
    if len(shown.bars) < len(run.bars):
        which = f"last {len(shown.bars):,}" if shown.is_last else f"{shown.number[0]:,} to {shown.number[-1]:,}"
        title += f" · {which} of {len(run.bars):,} bars"
    panels = [price_traces(shown), [rsi_trace(shown)], list(own_traces(shown)), [duration_trace(shown)]]
    heights = [0.70, 0.17, *([0.17] if shown.own_indicators else []), 0.13]
    last = len(heights)
    figure = make_subplots(rows=last, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03)
    for row, traces in enumerate(filter(None, panels), 1):
        figure.add_traces(traces, rows=row, cols=1)
    apply_style(figure, title, height=800 + 140 * (last - 3))
    figure.update_layout(xaxis_rangeslider_visible=False, hovermode="closest")
    figure.update_yaxes(title_text=f"price, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text="RSI", range=[0, 100], tickvals=rsi_ticks(config), row=2, col=1)
    if shown.own_indicators:
        figure.update_yaxes(title_text="of the rule", row=3, col=1)
    figure.update_yaxes(title_text="seconds<br>a bar", type="log", dtick=1, row=last, col=1)
    figure.update_xaxes(title_text="volume bar of the run", row=last, col=1)
    add_time_axis(figure, shown)
    return marked(figure, run.warning)


def _window(run: Frames, bars: int, around: int | None) -> Window:
    """Return the last bars of a run, or those around the entry of a round trip."""
    if around is None:
        return Window(run, bars)
    decided = run.round_trips.loc[run.round_trips["id"] == around, "bar"].to_numpy()
    if not len(decided):
        raise ConfigError(f"around: must be the id of a round trip of the run, was {around}")
    at = int(np.searchsorted(run.bars["bar"].to_numpy(), decided[0]))
    end = min(max(at + bars // 2, bars), len(run.bars))
    until = run.bars["open_time"].iloc[end] if end < len(run.bars) else None
    return Window(replace(run, bars=run.bars.iloc[:end], decisions=run.decisions.iloc[:end]), bars, until)


def equity_chart(run: Frames, config: Config) -> go.Figure:
    """Draw equity, drawdown and position on calendar time; times without a mark price are shaded."""
    figure = make_subplots(rows=3, shared_xaxes=True, row_heights=[0.6, 0.22, 0.18], vertical_spacing=0.04)
    *worth, drawdown = equity_traces(run)
    figure.add_traces([*worth, drawdown], rows=[1] * len(worth) + [2], cols=1)
    figure.add_trace(position_trace(run), row=3, col=1)
    apply_style(figure, f"Equity, drawdown, position · {title_of(run, config)}", height=560)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text=f"equity, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text=f"drawdown,<br>{run.instrument.quote_asset}", tickformat=",", row=2, col=1)
    figure.update_yaxes(title_text=f"position,<br>{run.instrument.base_asset}", nticks=4, row=3, col=1)
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="time, UTC", row=3, col=1)
    shade = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}, "layer": "below"}
    figure.update_layout(shapes=[{**shade, "x0": x0, "x1": x1, "fillcolor": HOLE} for x0, x1 in holes_of(run)])
    return marked(figure, run.warning)


def refusals_chart(run: Frames, config: Config) -> go.Figure:
    """Draw the number of signals that each gate refused."""
    table = refusals_by_code(run).iloc[::-1]
    figure = go.Figure()
    figure.add_bar(
        x=table["count"],
        y=table.index,
        orientation="h",
        marker={"color": SLOW},
        text=table["count"],
        textposition="outside",
        cliponaxis=False,
        customdata=[escape(detail) for detail in table["for example"]],
        hovertemplate="<b>%{y}</b> refused %{x:,} signals<br>for example: %{customdata}<extra></extra>",
    )
    apply_style(figure, f"Refused signals by gate · {title_of(run, config)}", height=150 + 34 * max(1, len(table)))
    figure.update_xaxes(title_text="signals refused")
    figure.update_layout(bargap=0.35, margin_b=56)
    if table.empty:
        figure.add_annotation(text="no signal was refused", showarrow=False, font={"color": FAINT, "size": 15})
    return marked(figure, run.warning)


def comparison_chart(run: Frames, backtest: Frames, config: Config) -> go.Figure:
    """Draw the net PnL of a run's closed round trips, and that of a backtest over the same trades."""
    figure = go.Figure()
    for name, frames, color, dash in (("backtest", backtest, FAST, "dot"), ("run", run, SLOW, "solid")):
        trips = frames.round_trips
        earned = trips["net"].cumsum().to_numpy()
        kept = outline_points(earned) if len(earned) else np.array([], dtype=np.int64)
        place = [*frames.bars.index[:1], *trips.index[kept]], [*[0.0] * len(frames.bars[:1]), *earned[kept]]
        line = {"color": color, "width": 1.8, "dash": dash, "shape": "hv"}
        style = {"line": line, "marker": {"size": 5}, "hovertemplate": "%{y:+,.2f}"}
        figure.add_trace(scatter(name, *place, "lines+markers", **style))
    apply_style(figure, f"Net of closed round trips, run and backtest · {title_of(run, config)}", height=420)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text=f"net, {run.instrument.quote_asset}", tickformat="+,")
    figure.update_xaxes(title_text="time, UTC")
    return marked(figure, run.warning or backtest.warning)
