"""The explorer's chart: a page of bars above the equity of the whole tape, redrawn in place."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import chain
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from voltrade.config import Config
from voltrade.model import Instrument
from voltrade.report.candles import (
    BAND,
    Trace,
    Window,
    own_indicators,
    own_traces,
    price_traces,
    rsi_trace,
)  # fmt: skip
from voltrade.report.chart_style import MAX_BARS, add_time_axis, apply_style, axis_milliseconds, rsi_ticks
from voltrade.report.equity_traces import equity_traces
from voltrade.report.frames import Frames


class ResearchChart:
    """A page of bars as in `price_chart`, without durations, above equity and drawdown of the whole tape.

    Args:
        run: a run with the indicators of the rule; `draw` sets the data.

    Attributes:
        figure: the figure that was drawn last.
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
        add_time_axis(self.figure, shown)

    def fits(self, run: Frames) -> bool:
        """Whether this chart can draw a run: its rule has the same indicators."""
        return self._own_indicators == own_indicators(run)

    def is_equity(self, trace: int) -> bool:
        """Whether the trace of this number is in the panels of equity and drawdown."""
        rows = {f"y{row}" for row in (self._equity_row, self._equity_row + 1)}
        return self.figure.data[trace].yaxis in rows

    def draw(
        self, run: Frames, title: str, subtitle: str, until: pd.Timestamp | None, bars: str, config: Config
    ) -> None:
        """Set the data of the figure.

        Args:
            run: bars and decisions of the page, other frames of the whole tape.
            subtitle: shown below the title.
            until: begin of the next page; None for the last page.
            bars: identifies the bars of the page; while it is the same, the user's zoom is kept.
            config: settings with the bounds of the RSI filter.
        """
        shown, layout = Window(run, MAX_BARS, until), self.figure.layout
        # The figure's last trace only belongs to the axis of times.
        for trace, new in zip(self.figure.data[:-1], chain.from_iterable(self._panels(run, shown)), strict=True):
            _give_data(trace, new)
        layout.title.text = f"{escape(title)}<br><span style='font-size:12px'>{escape(subtitle)}</span>"
        layout.xaxis9.tickvals, layout.xaxis9.ticktext = shown.time_labels()
        layout.xaxis9.uirevision = bars
        layout.shapes = self._page_mark(shown)
        self.figure.update_yaxes(tickvals=rsi_ticks(config), row=2)
        for row in range(1, self._equity_row):
            self.figure.update_xaxes(uirevision=bars, row=row)
            self.figure.update_yaxes(uirevision=bars, row=row)
        # plotly finds no range by itself for the second of two groups of matching axes.
        layout.xaxis.range = shown.columns[:1].sum() - 1, shown.columns[-1:].sum() + 1
        layout.yaxis.range = shown.price_range()
        span = axis_milliseconds(run.equity.index)[[0, -1]].tolist() if len(run.equity) else None
        layout[f"xaxis{self._equity_row}"].range = span

    def _panels(self, run: Frames, shown: Window) -> list[list[Trace]]:
        """Return the traces of each panel, from top to bottom."""
        own = [list(own_traces(shown))] if self._own_indicators else []
        *worth, drawdown = equity_traces(run)
        return [price_traces(shown), [rsi_trace(shown)], *own, worth, [drawdown]]

    def _page_mark(self, shown: Window) -> list[dict[str, Any]]:
        """Return a shape that marks the time of the page in the panel of equity."""
        if not len(shown.bars):
            return []
        begin, end = axis_milliseconds(pd.DatetimeIndex([shown.bars["open_time"].iloc[0], shown.bars.index[-1]]))
        axes = {"xref": f"x{self._equity_row}", "yref": f"y{self._equity_row} domain"}
        return [{**axes, "type": "rect", "x0": begin, "x1": end, "y0": 0, "y1": 1, "fillcolor": BAND, "line_width": 0}]

    def _lay_out(self, figure: go.Figure, instrument: Instrument) -> None:
        equity, drawdown = self._equity_row, self._equity_row + 1
        own = [0.11] if self._own_indicators else []
        _stack(figure, heights=[0.5, 0.11, *own, 0.2, 0.1], gaps=[0.02, *([0.02] * len(own)), 0.11, 0.02])
        apply_style(figure, "", height=900 + 110 * len(own))
        figure.update_layout(xaxis_rangeslider_visible=False, margin={"t": 84, "b": 84})
        # Bars are small, so the mouse only has to be above or below one; the bar's text includes these markers'.
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
    """Divide the height of a figure among its panels, from top to bottom."""
    unit, top = 1 / (sum(heights) + sum(gaps)), 1.0
    for row, (height, gap) in enumerate(zip(heights, [*gaps, 0.0], strict=True), 1):
        figure.update_yaxes(domain=(max(0.0, top - height * unit), top), row=row)
        top -= (height + gap) * unit


_DATA = ("x", "y", "open", "high", "low", "close", "customdata", "text", "hovertext", "showlegend")
"""Fields of a trace that are data; the others are style."""


def _give_data(trace: Any, new: Trace) -> None:
    for name in _DATA:
        if name in new:
            trace[name] = new[name]
    if isinstance(symbols := new.get("marker", {}).get("symbol"), list):
        trace.marker.symbol = symbols
