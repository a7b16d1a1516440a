"""What all charts share: titles, axes, style, and lines reduced to the points that can be seen."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from voltrade.config import Config
from voltrade.model import Floats, Instrument, Int64s
from voltrade.report.candles import (
    FAINT,
    INK,
    Window,
)  # fmt: skip
from voltrade.report.frames import Frames, to_milliseconds

MAX_BARS = 5_000
"""Most candles in a chart; with more, JupyterLab draws for more than a second."""

MAX_POINTS = 4_000
"""About the most points of a line. A longer line keeps the lowest and highest point of each part; the wallet keeps as
many of its steps besides, the position only its last steps."""

GRID = "#edf0f4"


def title_of(run: Frames, config: Config, is_synthetic: bool | None = None) -> str:
    """Return a chart's title: symbol, bars, mode and the source of the trades.

    Args:
        is_synthetic: whether the tape is synthetic; by default as in the settings.
    """
    session, bars, instrument = config.session, config.bars, run.instrument
    unit = unit_name(bars.unit, instrument)
    source = ""
    if session.mode == "sim":
        is_synthetic = session.tape == "synthetic" if is_synthetic is None else is_synthetic
        source = f" · synthetic tape, seed {session.seed}" if is_synthetic else " · recorded tape"
    return f"{session.symbol} · volume bars of {bars.threshold.normalize():f} {unit} · {session.mode}{source}"


def marked(figure: Any, warning: str) -> Any:
    """Put a warning before the title of a plotly figure, where there is one."""
    if warning:
        figure.update_layout(title_text=f"{warning}<br>{figure.layout.title.text}")
    return figure


def rsi_ticks(config: Config) -> list[float]:
    """Return the ticks of the RSI axis: its ends, and the bounds of the rule's RSI filter where it has one."""
    signals = config.signals
    return [0, *([signals.rsi_oversold, signals.rsi_overbought] if signals.use_rsi_filter else [50]), 100]


def add_time_axis(figure: go.Figure, shown: Window) -> None:
    """Add an axis with the times of about ten bars above the prices; the hover text has the time of every bar."""
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
    # plotly doesn't draw an axis without a trace.
    figure.add_scatter(x=shown.number[:1], y=[None], xaxis="x9", yaxis="y", hoverinfo="skip", showlegend=False)


def axis_milliseconds(times: pd.Index) -> Floats:
    """Return times for an axis of type `date`: ms UTC as floats, which widgets send without conversion."""
    return to_milliseconds(times).astype(np.float64)


def outline_points(values: npt.NDArray[Any], most: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Return the positions of at most about `most` points, with the lowest and highest of each part, first and last."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    length = -(-count // (most // 2))
    padded = np.append(values, np.full(-count % length, values[-1])).reshape(-1, length)
    begins = np.arange(len(padded)) * length
    kept = np.concatenate([[0, count - 1], begins + padded.argmin(axis=1), begins + padded.argmax(axis=1)])
    return np.unique(np.minimum(kept, count - 1))


def datetimes(milliseconds: Int64s) -> npt.NDArray[np.datetime64]:
    return np.asarray(milliseconds.astype("datetime64[ms]"))


def unit_name(unit: str, instrument: Instrument) -> str:
    return {"base": instrument.base_asset, "quote": instrument.quote_asset, "trades": "trades"}[unit]


def apply_style(figure: go.Figure, title: str, height: int) -> None:
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
        autosize=True,  # as wide as the page, also in a widget
        margin={"l": 74, "r": 24, "t": 64, "b": 96},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"},
        hoverlabel={"bgcolor": "white", "bordercolor": FAINT, "align": "left", "font": {"size": 12, "color": INK}},
        paper_bgcolor="white",
        plot_bgcolor="white",
        uirevision="kept",  # a redraw keeps the user's zoom
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT, ticks="outside", tickcolor=FAINT)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=FAINT)
