"""Charts of a tape, its volume bars, and thresholds for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from voltrade.compiled import Rows
from voltrade.data.tape_profile import Calibration, Recommendation, gap_table, natural
from voltrade.model import DAY_MS, Floats, Instrument, Int64s, Trades
from voltrade.report.candles import (
    BAND,
    FAINT,
    FAST,
    INK,
    LOSS,
    SLOW,
    candlestick,
    scatter,
)  # fmt: skip
from voltrade.report.chart_style import apply_style, datetimes, outline_points, unit_name


def tape_chart(trades: Trades, instrument: Instrument) -> go.Figure:
    """Draw a tape's price with its gaps, and below it the volume by time."""
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.04)
    kept = outline_points(trades.price)
    price = natural(trades.price, instrument.tick_size)
    style = {"line": {"color": SLOW, "width": 1.2, "simplify": False}, "showlegend": False}
    prices = scatter("price", datetimes(trades.time[kept]), price[kept], "lines", **style)
    gaps = gap_table(trades, instrument)
    before = np.searchsorted(trades.id, gaps["first_id"].to_numpy()) - 1
    marker = {"symbol": "x-thin", "size": 10, "line": {"width": 2, "color": LOSS}}
    holes = scatter("ids missing", gaps.index, price[before], "markers", marker=marker, showlegend=bool(len(gaps)))
    holes["text"] = [f"{count:,} ids missing" for count in gaps["ids_missing"]]
    holes |= {"customdata": gaps["seconds"], "hovertemplate": "%{text}, %{customdata:,.1f} s<extra></extra>"}
    figure.add_traces([prices, holes], rows=1, cols=1)
    edges, volumes = _volume_by_time(trades, instrument)
    minutes = (edges[1] - edges[0]) / 60_000
    style = {"marker": {"color": FAINT, "line": {"width": 0}}, "hovertemplate": "%{y:,.6g}<extra></extra>"}
    middles = datetimes((edges[:-1] + edges[1:]) // 2)
    figure.add_bar(name="volume", x=middles, y=volumes, **style, showlegend=False, row=2, col=1)
    apply_style(figure, f"{instrument.symbol} · {len(trades):,} trades", height=480)
    figure.update_layout(bargap=0)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in<br>{minutes:,.0f} min", row=2, col=1)
    figure.update_xaxes(title_text="time, UTC", row=2, col=1)
    return figure


_ROUND_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480)


def _volume_by_time(trades: Trades, instrument: Instrument, most: int = 300) -> tuple[Int64s, Floats]:
    """Return the edges of equal time intervals, at most a day long, and the coins traded in each."""
    start, end = int(trades.time[0]), int(trades.time[-1])
    lengths = (60_000 * minutes for minutes in _ROUND_MINUTES)
    length = next((length for length in lengths if (end - start) / length <= most), DAY_MS)
    edges = np.arange(start // length * length, end + length + 1, length)
    sums = np.append(0, np.cumsum(trades.quantity))[np.searchsorted(trades.time, edges)]
    return edges, natural(np.diff(sums), instrument.step_size)


def clock_chart(trades: Trades, rows: Rows, instrument: Instrument, most_bars: int = 600) -> go.Figure:
    """Draw a tape's last volume bars beside equally many time bars, with volume and duration of each.

    Args:
        rows: closed bars of the tape, rows of BAR.
    """
    rows = rows[-most_bars:]
    trades = trades[int(np.searchsorted(trades.id, rows["first_trade_id"][0])) :] if len(rows) else trades
    prices = natural(trades.price, instrument.tick_size)
    edges = np.linspace(trades.time[0], trades.time[-1] + 1, len(rows) + 1).astype(np.int64)
    first = np.searchsorted(trades.time, edges)
    first, end = first[:-1][np.diff(first) > 0], first[1:][np.diff(first) > 0]
    figure = make_subplots(
        rows=2,
        cols=2,
        row_heights=[0.66, 0.34],
        vertical_spacing=0.07,
        horizontal_spacing=0.08,
        column_titles=["bars of equal time", "bars of equal volume"],
    )
    highest, lowest = np.maximum.reduceat(prices, first), np.minimum.reduceat(prices, first)
    by_time = {"open": prices[first], "high": highest, "low": lowest, "close": prices[end - 1]}
    by_volume = {name: natural(rows[name], instrument.tick_size) for name in ("open", "high", "low", "close")}
    volume = natural(np.add.reduceat(trades.quantity, first), instrument.step_size)
    seconds = (rows["close_time"] - rows["open_time"]) / 1000
    columns = (("bars of time", by_time, volume), ("volume bars", by_volume, seconds))
    for column, (name, candles, varies) in enumerate(columns, 1):
        number = np.arange(len(varies))
        figure.add_trace(candlestick(name, number, candles), row=1, col=column)
        marker = {"color": FAINT, "line": {"width": 0}}
        figure.add_bar(x=number, y=varies, marker=marker, showlegend=False, row=2, col=column)
    apply_style(figure, f"{instrument.symbol} · {len(rows):,} bars by the clock, and by volume", height=560)
    figure.update_layout(bargap=0, margin={"t": 88, "b": 56})
    figure.update_xaxes(rangeslider_visible=False)
    figure.update_yaxes(tickformat=",", matches="y", row=1)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in a bar", row=2, col=1)
    figure.update_yaxes(title_text="seconds a bar lasts", row=2, col=2)
    figure.update_xaxes(title_text="bar", row=2)
    return figure


CALIBRATION_PANELS = (
    "bars a day",
    "seconds a bar: median, 5 to 95 %",
    "spread of seconds a bar",
    "correlation with the next return",
    "clustering of large returns",
    "distance of returns from normal",
)


def calibration_chart(calibration: Calibration, chosen: Recommendation) -> go.Figure:
    """Draw figures of bars by threshold: number, duration, autocorrelation, and how normal their returns are."""
    at = float(chosen.threshold)
    space = {"vertical_spacing": 0.13, "horizontal_spacing": 0.07}
    figure = make_subplots(rows=2, cols=3, shared_xaxes=True, subplot_titles=CALIBRATION_PANELS, **space)
    _add_calibration_lines(figure, calibration.table())
    marker = {"size": 11, "color": FAST, "line": {"color": INK, "width": 1}}
    style = {"marker": marker, "hovertemplate": "%{x:,.6g}: %{y:,.0f} bars a day<extra></extra>", "showlegend": False}
    figure.add_trace(scatter("chosen", [at], [chosen.figures.bars_a_day], "markers", **style), row=1, col=1)
    for row, col in ((row, col) for row in (1, 2) for col in (1, 2, 3)):
        figure.add_vline(x=at, line={"color": FAST, "width": 1.2, "dash": "dot"}, row=row, col=col)
    unit = unit_name(calibration.unit, calibration.instrument)
    apply_style(figure, f"{calibration.instrument.symbol} · thresholds · {at:,.10g} {unit} {chosen.reason}", height=560)
    figure.update_layout(margin={"t": 92, "b": 56})
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text=f"threshold, {unit}", row=2)
    for row, col in ((1, 1), (1, 2), (2, 3)):
        figure.update_yaxes(type="log", dtick=1, row=row, col=col)
    figure.update_yaxes(rangemode="tozero", row=1, col=3)
    return figure


def _add_calibration_lines(figure: go.Figure, table: pd.DataFrame) -> None:
    """Draw a line of each figure over the thresholds."""

    def line(name: str, values: Any, row: int, col: int, color: str = SLOW, **more: Any) -> None:
        style = {"line": {"color": color, "width": 1.8}, "showlegend": False, **more}
        figure.add_trace(scatter(name, table["threshold"], values, "lines", **style), row=row, col=col)

    line("bars a day", table["bars_a_day"], 1, 1)
    shortest = 0.1  # the log axis has no 0, the duration of bars that one trade closed
    line("5 %", table["seconds_5"].clip(lower=shortest), 1, 2, FAINT)
    line("95 %", table["seconds_95"].clip(lower=shortest), 1, 2, FAINT, fill="tonexty", fillcolor=BAND)
    line("median duration", table["seconds"].clip(lower=shortest), 1, 2)
    line("spread of durations", table["seconds_cv"], 1, 3)
    chance = 1.96 / np.sqrt(table["returns"].clip(lower=1))
    line("chance", -chance, 2, 1, BAND, hoverinfo="skip")
    line("chance", chance, 2, 1, BAND, fill="tonexty", fillcolor=BAND, hoverinfo="skip")
    line("correlation", table["correlation"], 2, 1)
    line("clustering", table["clustering"], 2, 2)
    line("distance from normal", table["non_normality"], 2, 3)
