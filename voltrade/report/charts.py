"""Charts of a run, drawn from its frames, and of a tape and its bars; the only place that makes figures.

Functions named `..._chart`, and `heat_map`, return a figure. `LiveChart` shows one that is drawn anew in a session:
as a widget for a person at the screen, as a plain bundle in the output where a notebook is being recorded, since a
widget leaves no picture in the record and a bundle doesn't redraw on a screen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from IPython.display import display as show_output
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.data.tape_profile import Calibration, Recommendation, gap_table, natural
from voltrade.errors import ConfigError
from voltrade.model import DAY_MS, Floats, Instrument, Int64s, Trades
from voltrade.report.candles import (
    BAND,
    DOWN,
    FAINT,
    FAST,
    INK,
    LOSS,
    SLOW,
    UP,
    Trace,
    Window,
    candlestick,
    duration_trace,
    own_indicators,
    own_traces,
    price_traces,
    rsi_trace,
    scatter,
)  # fmt: skip
from voltrade.report.frames import Frames
from voltrade.report.plot_widget import PlotWidget
from voltrade.report.summary import milliseconds, refusals_by_code

MAX_BARS = 5_000
"""Candles that a chart shows at most; from there on JupyterLab draws for more than a second."""

MAX_POINTS = 4_000
"""Points of a line over time, about: a longer line keeps the lowest and the highest of each stretch; the wallet as many
of its steps besides, and the position its last steps alone."""

GRID = "#edf0f4"

_MIMETYPE = "application/vnd.plotly.v1+json"


def title_of(run: Frames, config: Config, is_synthetic: bool | None = None) -> str:
    """What a chart's title says of a run: symbol, bars, mode and where the trades came from.

    Args:
        is_synthetic: whether the tape is; by default as the settings have it.
    """
    session, bars, instrument = config.session, config.bars, run.instrument
    unit = _unit_name(bars.unit, instrument)
    source = ""
    if session.mode == "sim":
        is_synthetic = session.tape == "synthetic" if is_synthetic is None else is_synthetic
        source = f" · synthetic tape, seed {session.seed}" if is_synthetic else " · recorded tape"
    return f"{session.symbol} · volume bars of {bars.threshold.normalize():f} {unit} · {session.mode}{source}"


def _rsi_marks(config: Config) -> list[float]:
    """What the axis of the RSI marks: its ends, and the bounds of the rule's own filter where it has one."""
    signals = config.signals
    return [0, *([signals.rsi_oversold, signals.rsi_overbought] if signals.use_rsi_filter else [50]), 100]


# --- prices ----------------------------------------------------------------------------------------------------------


def price_chart(run: Frames, config: Config, last_bars: int = MAX_BARS, around: int | None = None) -> go.Figure:
    """Draw the bars with indicators, entries and exits over RSI and the bars' durations, one column a bar.

    Bars stand evenly spaced, as their indicators see them; the upper axis tells the time. Every bar, entry, exit and
    refusal says why when pointed at. The indicators of a rule of one's own have a panel below the RSI.

    Args:
        last_bars: so many are shown, at most `MAX_BARS`.
        around: id of a round trip, around whose entry they are; by default they are the run's last.

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
    _style(figure, title, height=800 + 140 * (last - 3))
    figure.update_layout(xaxis_rangeslider_visible=False, hovermode="closest")
    figure.update_yaxes(title_text=f"price, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text="RSI", range=[0, 100], tickvals=_rsi_marks(config), row=2, col=1)
    if shown.own_indicators:
        figure.update_yaxes(title_text="of the rule", row=3, col=1)
    figure.update_yaxes(title_text="seconds<br>a bar", type="log", dtick=1, row=last, col=1)
    figure.update_xaxes(title_text="volume bar of the run", row=last, col=1)
    _add_time_axis(figure, shown)
    return figure


def _window(run: Frames, bars: int, around: int | None) -> Window:
    """The last bars of a run, or those around the entry of a round trip."""
    if around is None:
        return Window(run, bars)
    decided = run.round_trips.loc[run.round_trips["id"] == around, "bar"].to_numpy()
    if not len(decided):
        raise ConfigError(f"around: must be the id of a round trip of the run, was {around}")
    at = int(np.searchsorted(run.bars["bar"].to_numpy(), decided[0]))
    end = min(max(at + bars // 2, bars), len(run.bars))
    until = run.bars["open_time"].iloc[end] if end < len(run.bars) else None
    return Window(replace(run, bars=run.bars.iloc[:end], decisions=run.decisions.iloc[:end]), bars, until)


def _add_time_axis(figure: go.Figure, shown: Window) -> None:
    """Write the time along the upper edge of the prices at some ten bars; the hover text tells every bar's."""
    places, labels = shown.time_labels()
    figure.update_layout(
        xaxis9={
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "tickvals": places,
            "ticktext": labels,
            "showgrid": False,
            "tickfont": {"color": FAINT, "size": 11},
        }
    )
    # An axis without a trace isn't drawn.
    figure.add_scatter(x=shown.number[:1], y=[None], xaxis="x9", yaxis="y", hoverinfo="skip", showlegend=False)


# --- equity, refusals ------------------------------------------------------------------------------------------------


def equity_chart(run: Frames, config: Config) -> go.Figure:
    """Draw equity over drawdown over the position held, on calendar time."""
    figure = make_subplots(rows=3, shared_xaxes=True, row_heights=[0.6, 0.22, 0.18], vertical_spacing=0.04)
    *worth, drawdown = _equity_traces(run)
    figure.add_traces([*worth, drawdown], rows=[1] * len(worth) + [2], cols=1)
    figure.add_trace(_position_trace(run), row=3, col=1)
    _style(figure, f"Equity, drawdown, position · {title_of(run, config)}", height=560)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text=f"equity, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text=f"drawdown,<br>{run.instrument.quote_asset}", tickformat=",", row=2, col=1)
    figure.update_yaxes(title_text=f"position,<br>{run.instrument.base_asset}", nticks=4, row=3, col=1)
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="time, UTC", row=3, col=1)
    return figure


def _equity_traces(run: Frames) -> list[Trace]:
    """Wallet, equity, changes of the breaker, and last the drawdown; of equal times the last valuation counts."""
    moments, worth, wallet, drawdown = (
        _clock(run.equity.index),
        *(run.equity[name].to_numpy() for name in ("equity", "wallet", "drawdown")),
    )
    is_last = np.append(moments[1:] != moments[:-1], True)[: len(moments)]
    (shown,) = np.nonzero(is_last)
    (steps,) = np.nonzero(np.diff(wallet[shown]))  # a line of steps needs each of them, whatever equity does there
    steps = steps[_outline(wallet[shown][steps])] + 1
    kept = shown[np.union1d(_outline(worth[shown]), steps)]
    lines = []
    styles = ("wallet", wallet, FAINT, 1.2, "hv"), ("equity", worth, SLOW, 1.8, "linear")
    for name, values, color, width, shape in styles:
        # simplified, a flat stretch would be drawn sloping to its end
        line = {"color": color, "width": width, "shape": shape, "simplify": False}
        lines.append(scatter(name, moments[kept], values[kept], "lines", line=line, hovertemplate="%{y:,.2f}"))
    style = {"line": {"color": LOSS, "width": 1}, "fillcolor": "rgba(164, 36, 59, 0.15)"}
    fall = scatter("drawdown", moments[kept], drawdown[kept], "lines", hovertemplate="%{y:,.2f}", **style, **_AREA)
    return [*lines, _breaker_trace(run, moments[is_last], worth[is_last]), fall]


_AREA = {"fill": "tozeroy", "showlegend": False}


def _breaker_trace(run: Frames, moments: Floats, worth: Floats) -> Trace:
    changes = run.breaker
    at = _clock(changes.index)
    level = worth[np.maximum(np.searchsorted(moments, at, side="right") - 1, 0)] if len(worth) else np.zeros(len(at))
    marker = {"symbol": "star", "size": 11, "color": FAST, "line": {"color": INK, "width": 0.7}}
    told = changes[["rule", "action", "measure", "limit", "mode"]].itertuples(index=False)
    texts = [
        f"{escape(rule)}: {escape(action)}, {measure:,.8g} of {limit:,.8g} → {escape(mode)}"
        for rule, action, measure, limit, mode in told
    ]
    more = {"text": texts, "hovertemplate": "%{text}", "showlegend": bool(len(changes))}
    return scatter("breaker", at, level, "markers", marker=marker, **more)


def _position_trace(run: Frames) -> Trace:
    held = run.equity["position"].to_numpy()
    is_step = np.append(True, held[1:] != held[:-1])[: len(held)]
    is_step[-1:] = True
    steps = np.flatnonzero(is_step)[-MAX_POINTS:]
    style = {"line": {"color": UP, "width": 1, "shape": "hv"}, "fillcolor": "rgba(42, 157, 143, 0.18)"}
    moments = _clock(run.equity.index)[steps]
    return scatter("position", moments, held[steps], "lines", hovertemplate="%{y:,.8g}", **style, **_AREA)


def _clock(times: pd.Index) -> Floats:
    """Times for an axis of type `date`: ms UTC as floats, which widgets can send as they are."""
    return milliseconds(times).astype(np.float64)


def _outline(values: npt.NDArray[Any], most: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Positions of at most about `most` points that keep a line's lowest, highest, first and last."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    length = -(-count // (most // 2))
    padded = np.append(values, np.full(-count % length, values[-1])).reshape(-1, length)
    begins = np.arange(len(padded)) * length
    kept = np.concatenate([[0, count - 1], begins + padded.argmin(axis=1), begins + padded.argmax(axis=1)])
    return np.unique(np.minimum(kept, count - 1))


def refusals_chart(run: Frames, config: Config) -> go.Figure:
    """Draw how many signals each gate refused."""
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
    _style(figure, f"Refused signals by gate · {title_of(run, config)}", height=150 + 34 * max(1, len(table)))
    figure.update_xaxes(title_text="signals refused")
    figure.update_layout(bargap=0.35, margin_b=56)
    if table.empty:
        figure.add_annotation(text="no signal was refused", showarrow=False, font={"color": FAINT, "size": 15})
    return figure


def comparison_chart(run: Frames, backtest: Frames, config: Config) -> go.Figure:
    """Draw what a run earned over what a backtest of the same trades would have: net of the closed round trips."""
    figure = go.Figure()
    for name, frames, color, dash in (("backtest", backtest, FAST, "dot"), ("run", run, SLOW, "solid")):
        trips = frames.round_trips
        earned = trips["net"].cumsum().to_numpy()
        kept = _outline(earned) if len(earned) else np.array([], dtype=np.int64)
        place = [*frames.bars.index[:1], *trips.index[kept]], [*[0.0] * len(frames.bars[:1]), *earned[kept]]
        line = {"color": color, "width": 1.8, "dash": dash, "shape": "hv"}
        style = {"line": line, "marker": {"size": 5}, "hovertemplate": "%{y:+,.2f}"}
        figure.add_trace(scatter(name, *place, "lines+markers", **style))
    _style(figure, f"Net of closed round trips, run and backtest · {title_of(run, config)}", height=420)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text=f"net, {run.instrument.quote_asset}", tickformat="+,")
    figure.update_xaxes(title_text="time, UTC")
    return figure


# --- a tape and its bars ---------------------------------------------------------------------------------------------


def tape_chart(trades: Trades, instrument: Instrument) -> go.Figure:
    """Draw a tape's price with its gaps over the volume of each stretch of time."""
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.04)
    kept = _outline(trades.price)
    price = natural(trades.price, instrument.tick_size)
    style = {"line": {"color": SLOW, "width": 1.2, "simplify": False}, "showlegend": False}
    prices = scatter("price", _moments(trades.time[kept]), price[kept], "lines", **style)
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
    middles = _moments((edges[:-1] + edges[1:]) // 2)
    figure.add_bar(name="volume", x=middles, y=volumes, **style, showlegend=False, row=2, col=1)
    _style(figure, f"{instrument.symbol} · {len(trades):,} trades", height=480)
    figure.update_layout(bargap=0)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in<br>{minutes:,.0f} min", row=2, col=1)
    figure.update_xaxes(title_text="time, UTC", row=2, col=1)
    return figure


_ROUND_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480)


def _volume_by_time(trades: Trades, instrument: Instrument, most: int = 300) -> tuple[Int64s, Floats]:
    """Edges of stretches of equal length, by the clock and a day at most, and the coins traded in each."""
    start, end = int(trades.time[0]), int(trades.time[-1])
    lengths = (60_000 * minutes for minutes in _ROUND_MINUTES)
    length = next((length for length in lengths if (end - start) / length <= most), DAY_MS)
    edges = np.arange(start // length * length, end + length + 1, length)
    sums = np.append(0, np.cumsum(trades.quantity))[np.searchsorted(trades.time, edges)]
    return edges, natural(np.diff(sums), instrument.step_size)


def clock_chart(trades: Trades, rows: Rows, instrument: Instrument, most_bars: int = 600) -> go.Figure:
    """Draw a tape's last volume bars beside as many bars of equal time: what the ones keep equal, the others let vary.

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
    _style(figure, f"{instrument.symbol} · {len(rows):,} bars by the clock, and by volume", height=560)
    figure.update_layout(bargap=0, margin={"t": 88, "b": 56})
    figure.update_xaxes(rangeslider_visible=False)
    figure.update_yaxes(tickformat=",", matches="y", row=1)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in a bar", row=2, col=1)
    figure.update_yaxes(title_text="seconds a bar lasts", row=2, col=2)
    figure.update_xaxes(title_text="bar", row=2)
    return figure


def calibration_chart(calibration: Calibration, chosen: Recommendation) -> go.Figure:
    """Draw what a threshold does to bars: how many, how long, how they follow each other, how normal their returns."""
    table, at = calibration.table(), float(chosen.threshold)
    threshold = table["threshold"]
    figure = make_subplots(
        rows=2,
        cols=3,
        shared_xaxes=True,
        vertical_spacing=0.13,
        horizontal_spacing=0.07,
        subplot_titles=[
            "bars a day",
            "seconds a bar: median, 5 to 95 %",
            "spread of seconds a bar",
            "correlation with the next return",
            "clustering of large returns",
            "distance of returns from normal",
        ],
    )

    def line(name: str, values: Any, row: int, col: int, color: str = SLOW, **more: Any) -> None:
        style = {"line": {"color": color, "width": 1.8}, "showlegend": False, **more}
        figure.add_trace(scatter(name, threshold, values, "lines", **style), row=row, col=col)

    line("bars a day", table["bars_a_day"], 1, 1)
    marker = {"size": 11, "color": FAST, "line": {"color": INK, "width": 1}}
    style = {"marker": marker, "hovertemplate": "%{x:,.6g}: %{y:,.0f} bars a day<extra></extra>", "showlegend": False}
    figure.add_trace(scatter("chosen", [at], [chosen.figures.bars_a_day], "markers", **style), row=1, col=1)
    shortest = 0.1  # what is drawn of bars that close within a moment, on a scale that has no zero
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
    for row, col in ((row, col) for row in (1, 2) for col in (1, 2, 3)):
        figure.add_vline(x=at, line={"color": FAST, "width": 1.2, "dash": "dot"}, row=row, col=col)
    unit = _unit_name(calibration.unit, calibration.instrument)
    _style(figure, f"{calibration.instrument.symbol} · thresholds · {at:,.10g} {unit} {chosen.reason}", height=560)
    figure.update_layout(margin={"t": 92, "b": 56})
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text=f"threshold, {unit}", row=2)
    for row, col in ((1, 1), (1, 2), (2, 3)):
        figure.update_yaxes(type="log", dtick=1, row=row, col=col)
    figure.update_yaxes(rangemode="tozero", row=1, col=3)
    return figure


def heat_map(frame: pd.DataFrame, x: str, y: str, value: str, unit: str = "") -> go.Figure:
    """Draw a column of a sweep's frame over two swept parameters; of settings that share both, the mean.

    Args:
        unit: of the value, where it has one.
    """
    named = f"{value}, {unit}" if unit else value
    table = frame.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    across, down = [str(name) for name in table.columns], [str(name) for name in table.index]
    figure = go.Figure()
    figure.add_heatmap(
        x=across,
        y=down,
        z=table.to_numpy(),
        colorscale=[(0.0, DOWN), (0.5, "white"), (1.0, UP)],
        zmid=0,  # losses are red, whether there are gains beside them or not
        colorbar={"title": named},
        hovertemplate=f"{escape(x)} %{{x}}<br>{escape(y)} %{{y}}<br>{escape(named)} %{{z:.4g}}<extra></extra>",
    )
    _style(figure, f"{named} · {len(frame):,} settings", height=520)
    # The values that were tried stand side by side, evenly.
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text=y, type="category")
    return figure


def luck_chart(sharpes: Floats, luckiest: float) -> go.Figure:
    """Draw the Sharpe ratios of trials, in order of their size, and what the luckiest of as many worthless ones has."""
    known = np.sort(sharpes[np.isfinite(sharpes)])
    marker = {"color": np.where(known > luckiest, UP, SLOW), "size": 6, "opacity": 0.75}
    figure, hover = go.Figure(), "Sharpe ratio %{y:.2f}<extra></extra>"
    figure.add_scatter(x=np.arange(1, len(known) + 1), y=known, mode="markers", marker=marker, hovertemplate=hover)
    _style(figure, f"Sharpe ratios of {len(sharpes):,} settings", height=420)
    figure.add_hline(
        y=luckiest,
        line={"color": INK, "dash": "dash", "width": 1.5},
        annotation_text=f"the luckiest of {len(sharpes):,} worthless settings: {luckiest:.2f}",
        annotation_position="top left",
    )
    if not len(known):
        figure.add_annotation(text="no setting has a Sharpe ratio", showarrow=False, font={"color": FAINT, "size": 15})
    figure.update_xaxes(title_text="settings, the worst first")
    figure.update_yaxes(title_text="Sharpe ratio, annual")
    figure.update_layout(margin_b=56)
    return figure


def walk_forward_chart(frame: pd.DataFrame) -> go.Figure:
    """Draw the Sharpe ratio of each fold's choice in training and in the test."""
    folds = [f"{number}: from {begin:%m-%d %H:%M}" for number, begin in enumerate(frame["begin"], 1)]
    figure = go.Figure()
    for name, column, color in (("in training", "sharpe, training", SLOW), ("in the test", "sharpe", FAST)):
        hover = f"{name}: %{{y:.2f}}<extra></extra>"
        figure.add_bar(x=folds, y=frame[column], name=name, marker={"color": color}, hovertemplate=hover)
    _style(figure, "What was best before, and what it did then", height=420)
    figure.update_xaxes(title_text="fold, begin of its test (UTC)", type="category")
    figure.update_yaxes(title_text="Sharpe ratio, annual", zeroline=True, zerolinecolor=INK)
    figure.update_layout(barmode="group", bargap=0.35)
    return figure


def _moments(milliseconds: Int64s) -> npt.NDArray[np.datetime64]:
    return np.asarray(milliseconds.astype("datetime64[ms]"))


def _unit_name(unit: str, instrument: Instrument) -> str:
    return {"base": instrument.base_asset, "quote": instrument.quote_asset, "trades": "trades"}[unit]


# --- the explorer's figure -------------------------------------------------------------------------------------------


class ResearchChart:
    """A page of bars as `price_chart` draws them, but without durations, over equity and drawdown of the whole tape.

    It is drawn anew in place.

    Args:
        run: has the indicators of the rule that is to be drawn; `draw` gives the data.

    Attributes:
        figure: what was drawn last.
    """

    def __init__(self, run: Frames) -> None:
        shown = Window(run, MAX_BARS)
        self._own_indicators = shown.own_indicators
        panels = self._panels(run, shown)
        self.figure = make_subplots(rows=len(panels))
        for row, traces in enumerate(panels, 1):
            self.figure.add_traces(traces, rows=row, cols=1)
        self._equity_row = len(panels) - 1
        self._lay_out(self.figure, run.instrument)
        _add_time_axis(self.figure, shown)

    def fits(self, run: Frames) -> bool:
        """Whether a run can be drawn here: its rule has the same indicators of its own."""
        return self._own_indicators == own_indicators(run)

    def is_equity(self, trace: int) -> bool:
        """Whether the trace of this number is the account's equity, and no indicator that a rule calls so."""
        rows = {f"y{row}" for row in (self._equity_row, self._equity_row + 1)}
        return self.figure.data[trace].yaxis in rows

    def draw(
        self, run: Frames, title: str, subtitle: str, until: pd.Timestamp | None, bars: str, config: Config
    ) -> None:
        """Give the figure new data.

        Args:
            run: its bars and decisions are the page, its other frames of the whole tape.
            subtitle: stands below the title.
            until: when the next page begins; None on the last one.
            bars: says which bars the page has; while that stays, a person's zoom means what it did, and is kept.
            config: whose bounds the axis of the RSI marks.
        """
        shown, layout = Window(run, MAX_BARS, until), self.figure.layout
        # The figure's last trace only holds the axis of times.
        for trace, new in zip(self.figure.data[:-1], chain.from_iterable(self._panels(run, shown)), strict=True):
            _give_data(trace, new)
        layout.title.text = f"{escape(title)}<br><span style='font-size:12px'>{escape(subtitle)}</span>"
        layout.xaxis9.tickvals, layout.xaxis9.ticktext = shown.time_labels()
        layout.xaxis9.uirevision = bars
        layout.shapes = self._page_mark(shown)
        self.figure.update_yaxes(tickvals=_rsi_marks(config), row=2)
        for row in range(1, self._equity_row):
            self.figure.update_xaxes(uirevision=bars, row=row)
            self.figure.update_yaxes(uirevision=bars, row=row)
        # Plotly finds no range by itself for the second of two groups of axes that move together.
        layout.xaxis.range = shown.columns[:1].sum() - 1, shown.columns[-1:].sum() + 1
        layout.yaxis.range = shown.price_range()
        span = _clock(run.equity.index)[[0, -1]].tolist() if len(run.equity) else None
        layout[f"xaxis{self._equity_row}"].range = span

    def _panels(self, run: Frames, shown: Window) -> list[list[Trace]]:
        """The traces of each panel, from top to bottom."""
        own = [list(own_traces(shown))] if self._own_indicators else []
        *worth, drawdown = _equity_traces(run)
        return [price_traces(shown), [rsi_trace(shown)], *own, worth, [drawdown]]

    def _page_mark(self, shown: Window) -> list[dict[str, Any]]:
        """The stretch of time that the page shows, in the panel of equity."""
        if not len(shown.bars):
            return []
        begin, end = _clock(pd.DatetimeIndex([shown.bars["open_time"].iloc[0], shown.bars.index[-1]]))
        axes = {"xref": f"x{self._equity_row}", "yref": f"y{self._equity_row} domain"}
        return [{**axes, "type": "rect", "x0": begin, "x1": end, "y0": 0, "y1": 1, "fillcolor": BAND, "line_width": 0}]

    def _lay_out(self, figure: go.Figure, instrument: Instrument) -> None:
        equity, drawdown = self._equity_row, self._equity_row + 1
        own = [0.11] if self._own_indicators else []
        _stack(figure, heights=[0.5, 0.11, *own, 0.2, 0.1], gaps=[0.02, *([0.02] * len(own)), 0.08, 0.02])
        _style(figure, "", height=900 + 110 * len(own))
        figure.update_layout(xaxis_rangeslider_visible=False, margin={"t": 84, "b": 84})
        # A bar is so small that the mouse need only be above or below it; its text says what these marks would.
        figure.update_layout(hovermode="x", hoverdistance=3)
        for name in ("stop", "take-profit", "refused signal"):
            figure.update_traces(hoverinfo="skip", hovertemplate=None, selector={"name": name})
        for row in range(1, equity):
            figure.update_xaxes(matches=None if row == 1 else "x", showticklabels=row == equity - 1, row=row)
            figure.update_xaxes(hoverformat=",.0f", row=row)
        figure.update_xaxes(title_text="volume bar of the tape", row=equity - 1)
        figure.update_xaxes(type="date", row=equity, showticklabels=False)
        figure.update_xaxes(type="date", matches=f"x{equity}", row=drawdown, title_text="time, UTC")
        figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", tickformat=",", row=1)
        figure.update_yaxes(title_text="RSI", range=[0, 100], row=2)
        if own:
            figure.update_yaxes(title_text="of the rule", row=3)
        figure.update_yaxes(title_text=f"equity, {instrument.quote_asset}", tickformat=",", row=equity)
        figure.update_yaxes(title_text=f"drawdown,<br>{instrument.quote_asset}", tickformat=",", nticks=4, row=drawdown)


def _stack(figure: go.Figure, heights: Sequence[float], gaps: Sequence[float]) -> None:
    """Share the height of a figure of one column among its panels, from top to bottom."""
    unit, top = 1 / (sum(heights) + sum(gaps)), 1.0
    for row, (height, gap) in enumerate(zip(heights, [*gaps, 0.0], strict=True), 1):
        figure.update_yaxes(domain=(max(0.0, top - height * unit), top), row=row)
        top -= (height + gap) * unit


_DATA = ("x", "y", "open", "high", "low", "close", "customdata", "text", "hovertext", "showlegend")
"""What of a trace changes with what is shown; the rest is style."""


def _give_data(trace: Any, new: Trace) -> None:
    for name in _DATA:
        if name in new:
            trace[name] = new[name]
    if isinstance(symbols := new.get("marker", {}).get("symbol"), list):
        trace.marker.symbol = symbols


# --- style and showing -----------------------------------------------------------------------------------------------


def _style(figure: go.Figure, title: str, height: int) -> None:
    figure.update_layout(
        template="plotly_white",
        title={
            "text": escape(title),
            "x": 0.012,
            "xanchor": "left",
            "y": 0.985,
            "yanchor": "top",
            "font": {"size": 16},
        },
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 12, "color": INK},
        height=height,
        autosize=True,  # as wide as the page, as a widget too
        margin={"l": 74, "r": 24, "t": 64, "b": 96},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"},
        hoverlabel={"bgcolor": "white", "bordercolor": FAINT, "align": "left", "font": {"size": 12, "color": INK}},
        paper_bgcolor="white",
        plot_bgcolor="white",
        uirevision="kept",  # a redraw keeps the zoom that a person chose
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT, ticks="outside", tickcolor=FAINT)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT)


def bundle(figure: go.Figure) -> dict[str, Any]:
    """A figure as the output that a notebook keeps and JupyterLab draws without a kernel."""
    title = figure.layout.title.text or "chart"
    return {_MIMETYPE: json.loads(figure.to_json()), "text/plain": f"<chart: {title}>"}


def page_script() -> str:
    """The program that draws figures on a page; once for all of them, and without a network."""
    return f"<script>{get_plotlyjs()}</script>"


def page_figure(figure: go.Figure, name: str) -> str:
    """A figure as a part of a page that has the script; names are the page's own."""
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True}
    )
    return text


def show(figure: go.Figure) -> None:
    """Show a finished figure in the notebook, in a form that stays in its record."""
    show_output(bundle(figure), raw=True)  # type: ignore[no-untyped-call]


class LiveChart:
    """A chart in one output that is drawn anew while a session runs.

    Args:
        is_recorded: The notebook is being executed into a record, with nobody at the screen.
    """

    def __init__(self, is_recorded: bool) -> None:
        self._is_recorded = is_recorded
        self._handle: Any = None
        self._widget: PlotWidget | None = None

    def draw(self, figure: go.Figure) -> None:
        """Show a figure, or change the one shown into it."""
        if self._is_recorded:
            self._draw_bundle(figure)
            return
        is_new, self._widget = self._widget is None, self._widget or PlotWidget()
        self._widget.draw(figure)
        if is_new:
            show_output(self._widget)  # type: ignore[no-untyped-call]

    def _draw_bundle(self, figure: go.Figure) -> None:
        if self._handle is None:
            self._handle = show_output(bundle(figure), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle(figure), raw=True)
