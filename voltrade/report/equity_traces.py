"""Traces of the account: wallet, equity, drawdown, circuit breaker and position."""

from __future__ import annotations

from html import escape

import numpy as np

from voltrade.model import Floats
from voltrade.report.candles import (
    FAINT,
    FAST,
    INK,
    LOSS,
    SLOW,
    UP,
    Trace,
    scatter,
)  # fmt: skip
from voltrade.report.chart_style import MAX_POINTS, axis_milliseconds, outline_points
from voltrade.report.frames import Frames


def equity_traces(run: Frames) -> list[Trace]:
    """Return wallet, equity, circuit breaker and last the drawdown; of valuations at one time the last counts."""
    moments, worth, wallet, drawdown = (
        axis_milliseconds(run.equity.index),
        *(run.equity[name].to_numpy() for name in ("equity", "wallet", "drawdown")),
    )
    is_last = np.append(moments[1:] != moments[:-1], True)[: len(moments)]
    (shown,) = np.nonzero(is_last)
    (steps,) = np.nonzero(np.diff(wallet[shown]))  # the wallet's line needs all of its steps
    steps = steps[outline_points(wallet[shown][steps])] + 1
    kept = shown[np.union1d(outline_points(worth[shown]), steps)]
    lines = []
    styles = ("wallet", wallet, FAINT, 1.2, "hv"), ("equity", worth, SLOW, 1.8, "linear")
    for name, values, color, width, shape in styles:
        # plotly's simplification would draw a flat part as a slope
        line = {"color": color, "width": width, "shape": shape, "simplify": False}
        lines.append(scatter(name, moments[kept], values[kept], "lines", line=line, hovertemplate="%{y:,.2f}"))
    style = {"line": {"color": LOSS, "width": 1}, "fillcolor": "rgba(164, 36, 59, 0.15)"}
    fall = scatter("drawdown", moments[kept], drawdown[kept], "lines", hovertemplate="%{y:,.2f}", **style, **AREA)
    return [*lines, breaker_trace(run, moments[is_last], worth[is_last]), fall]


AREA = {"fill": "tozeroy", "showlegend": False}


def breaker_trace(run: Frames, moments: Floats, worth: Floats) -> Trace:
    changes = run.breaker
    at = axis_milliseconds(changes.index)
    level = worth[np.maximum(np.searchsorted(moments, at, side="right") - 1, 0)] if len(worth) else np.zeros(len(at))
    marker = {"symbol": "star", "size": 11, "color": FAST, "line": {"color": INK, "width": 0.7}}
    rows = changes[["rule", "action", "measure", "limit", "mode"]].itertuples(index=False)
    texts = [
        f"{escape(rule)}: {escape(action)}, {measure:,.8g} of {limit:,.8g} → {escape(mode)}"
        for rule, action, measure, limit, mode in rows
    ]
    more = {"text": texts, "hovertemplate": "%{text}", "showlegend": bool(len(changes))}
    return scatter("breaker", at, level, "markers", marker=marker, **more)


HOLE = "rgba(120, 120, 120, 0.15)"
"""Colour of a time without a mark price."""

MOST_HOLES = 200
"""Holes that a chart draws: the longest ones."""


def holes_of(run: Frames) -> list[tuple[float, float]]:
    """Return begin and end, in axis milliseconds, of each time valued at the last trade for lack of a mark price.

    There is none in a run that had no mark prices at all, which isn't a hole.
    """
    is_last = (run.equity["valued_at"] == "last").to_numpy()
    if is_last.all() or not is_last.any():
        return []
    moments = axis_milliseconds(run.equity.index)
    edges = np.flatnonzero(np.diff(is_last.astype(np.int8), prepend=0, append=0))
    begins, ends = moments[edges[::2]], moments[np.minimum(edges[1::2], len(moments) - 1)]
    longest = np.sort(np.argsort(begins - ends, kind="stable")[:MOST_HOLES])
    return list(zip(begins[longest].tolist(), ends[longest].tolist(), strict=True))


def position_trace(run: Frames) -> Trace:
    held = run.equity["position"].to_numpy()
    is_step = np.append(True, held[1:] != held[:-1])[: len(held)]
    is_step[-1:] = True
    steps = np.flatnonzero(is_step)[-MAX_POINTS:]
    style = {"line": {"color": UP, "width": 1, "shape": "hv"}, "fillcolor": "rgba(42, 157, 143, 0.18)"}
    moments = axis_milliseconds(run.equity.index)[steps]
    return scatter("position", moments, held[steps], "lines", hovertemplate="%{y:,.8g}", **style, **AREA)
