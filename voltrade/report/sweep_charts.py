"""Charts of a sweep and of a walk-forward."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from voltrade.model import Floats
from voltrade.report.candles import (
    DOWN,
    FAINT,
    FAST,
    INK,
    SLOW,
    UP,
)  # fmt: skip
from voltrade.report.chart_style import apply_style


def heat_map(frame: pd.DataFrame, x: str, y: str, value: str, unit: str = "") -> go.Figure:
    """Draw a column of a sweep's frame over two swept parameters, the mean where several trials share both.

    Args:
        unit: of the value; empty for none.
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
        zmid=0,  # losses are red, even if there are only losses
        colorbar={"title": named},
        hovertemplate=f"{escape(x)} %{{x}}<br>{escape(y)} %{{y}}<br>{escape(named)} %{{z:.4g}}<extra></extra>",
    )
    apply_style(figure, f"{named} · {len(frame):,} settings", height=520)
    # The swept values are evenly spaced.
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text=y, type="category")
    return figure


def luck_chart(sharpes: Floats, luckiest: float) -> go.Figure:
    """Draw the sorted Sharpe ratios of trials, with the one that the luckiest trial would have by chance."""
    known = np.sort(sharpes[np.isfinite(sharpes)])
    marker = {"color": np.where(known > luckiest, UP, SLOW), "size": 6, "opacity": 0.75}
    figure, hover = go.Figure(), "Sharpe ratio %{y:.2f}<extra></extra>"
    figure.add_scatter(x=np.arange(1, len(known) + 1), y=known, mode="markers", marker=marker, hovertemplate=hover)
    apply_style(figure, f"Sharpe ratios of {len(sharpes):,} settings", height=420)
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
    """Draw the Sharpe ratios of each fold's chosen trial in training and in the test."""
    folds = [f"{number}: from {begin:%m-%d %H:%M}" for number, begin in enumerate(frame["begin"], 1)]
    figure = go.Figure()
    for name, column, color in (("in training", "sharpe, training", SLOW), ("in the test", "sharpe", FAST)):
        hover = f"{name}: %{{y:.2f}}<extra></extra>"
        figure.add_bar(x=folds, y=frame[column], name=name, marker={"color": color}, hovertemplate=hover)
    apply_style(figure, "What was best before, and what it did then", height=420)
    figure.update_xaxes(title_text="fold, begin of its test (UTC)", type="category")
    figure.update_yaxes(title_text="Sharpe ratio, annual", zeroline=True, zerolinecolor=INK)
    figure.update_layout(barmode="group", bargap=0.35)
    return figure
