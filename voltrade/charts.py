"""Charts of a run, drawn from its frames, and of a tape and its bars; the only place that knows plotly.

Each function returns a figure. `LiveChart` shows a figure that is drawn anew while a session runs: as a widget for a
person at the screen, as a plain bundle in the output where a notebook is being recorded, since a widget leaves no
picture in the record and a bundle doesn't redraw on a screen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from IPython.display import display as show_output
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from voltrade.calibrate import Calibration, Recommendation, gap_table, natural
from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.model import DAY_MS, Instrument, Int64s, Trades
from voltrade.report import WITHOUT_A_RULE, Frames, reasons, refusals_by_code

Floats = npt.NDArray[np.float64]

MAX_BARS = 5_000
"""Candles that a chart shows at most; from there on JupyterLab draws for more than a second."""

MAX_POINTS = 4_000
"""Points of a line over time; a longer one keeps the lowest and the highest of each stretch."""

UP, DOWN = "#2a9d8f", "#d1495b"
WIN, LOSS = "#0b7a75", "#a4243b"
FAST, SLOW, MEAN = "#e09f3e", "#5b5f97", "#6c757d"
BAND = "rgba(91, 95, 151, 0.09)"
INK, FAINT, GRID = "#2b2d42", "#8d99ae", "#edf0f4"

_MIMETYPE = "application/vnd.plotly.v1+json"
_CLOCK = "%H:%M:%S"


def title_of(run: Frames, config: Config) -> str:
    """What a chart's title says of a run: symbol, bars, mode and where the trades came from."""
    session, bars, instrument = config.session, config.bars, run.instrument
    unit = _unit_name(bars.unit, instrument)
    source = ""
    if session.mode == "sim":
        is_synthetic = session.tape == "synthetic"
        source = f" · synthetic tape, seed {session.seed}" if is_synthetic else " · recorded tape"
    return f"{session.symbol} · volume bars of {bars.threshold.normalize():f} {unit} · {session.mode}{source}"


# --- prices ----------------------------------------------------------------------------------------------------------


def price_chart(run: Frames, config: Config, last_bars: int = MAX_BARS) -> go.Figure:
    """Draw the bars with indicators, entries and exits over RSI and the bars' durations, one column a bar.

    Bars stand evenly spaced, as their indicators see them; the upper axis tells the time. Every bar, entry, exit and
    refusal says why when pointed at. The indicators of a rule of one's own have a panel below the RSI.
    """
    shown = _Window(run, min(last_bars, MAX_BARS))
    title = title_of(run, config)
    if len(shown.bars) < len(run.bars):
        title += f" · last {len(shown.bars):,} of {len(run.bars):,} bars"
    heights = [0.70, 0.17, *([0.17] if shown.own_indicators else []), 0.13]
    last = len(heights)
    figure = make_subplots(rows=last, shared_xaxes=True, row_heights=heights, vertical_spacing=0.03)
    prices = (
        *_bands(shown),
        _candles(shown),
        *_averages(shown),
        _marked_bars(shown),
        *_levels(shown),
        *_paths(shown),
        _refused(shown),
        *_entries(shown),
        *_exits(shown),
    )
    for trace in prices:
        figure.add_trace(trace, row=1, col=1)
    figure.add_trace(_rsi(shown), row=2, col=1)
    for trace in _own(shown):
        figure.add_trace(trace, row=3, col=1)
    figure.add_trace(_durations(shown), row=last, col=1)
    _style(figure, title, height=800 + 140 * (last - 3))
    figure.update_layout(xaxis_rangeslider_visible=False, hovermode="closest")
    figure.update_yaxes(title_text=f"price, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text="RSI", range=[0, 100], tickvals=[0, 30, 50, 70, 100], row=2, col=1)
    if shown.own_indicators:
        figure.update_yaxes(title_text="of the rule", row=3, col=1)
    figure.update_yaxes(title_text="seconds<br>a bar", type="log", dtick=1, row=last, col=1)
    figure.update_xaxes(title_text="volume bar of the run", row=last, col=1)
    _add_time_axis(figure, shown)
    return figure


class _Window:
    """The last bars of a run, with where in the chart a time falls."""

    def __init__(self, run: Frames, last_bars: int) -> None:
        self.bars = run.bars.iloc[-last_bars:]
        self.decisions = run.decisions.iloc[-last_bars:]
        self.number = self.bars["bar"].to_numpy()
        self.begin = self.bars["open_time"].iloc[0] if len(self.bars) else pd.Timestamp.max.tz_localize("UTC")
        self.fills = run.fills[run.fills.index >= self.begin]
        self.round_trips = run.round_trips[run.round_trips["closed"] >= self.begin]
        self.orders = run.orders
        is_shown = run.refusals["bar"].isin(self.number)
        self.refusals = run.refusals[is_shown]
        values = self.decisions.select_dtypes("float").columns
        self.own_indicators = [str(name) for name in values if name not in WITHOUT_A_RULE]
        self._opened = _milliseconds(self.bars["open_time"])
        self._closed = _milliseconds(self.bars.index)

    def indicator(self, name: str) -> npt.NDArray[np.float64]:
        """An indicator's values, NaN where the verdict has none."""
        if name not in self.decisions:
            return np.full(len(self.bars), np.nan)
        return np.asarray(self.decisions[name], dtype=np.float64)

    def column(self, times: Iterable[pd.Timestamp]) -> npt.NDArray[np.float64]:
        """Where times fall on the axis of bars: within 0.4 of the bar in which trades of that time went."""
        moments = _milliseconds(times)
        if not len(self.bars):
            return np.zeros(len(moments))
        position = np.searchsorted(self._closed, moments, side="left")
        inside = np.minimum(position, len(self.bars) - 1)
        length = np.maximum(self._closed[inside] - self._opened[inside], 1)
        part = np.clip((moments - self._opened[inside]) / length, 0, 1)
        # What comes after the last bar belongs to the one that is still open.
        part = np.where(position == len(self.bars), 0.0, part)
        return np.asarray(self.number[0] + position - 0.4 + 0.8 * part, dtype=np.float64)


def _milliseconds(times: Iterable[Any]) -> npt.NDArray[np.int64]:
    index = pd.DatetimeIndex(list(times)) if not isinstance(times, pd.DatetimeIndex | pd.Series) else times
    return np.asarray(pd.DatetimeIndex(index).as_unit("ms").asi8)


def _texts(times: Any, pattern: str) -> list[str]:
    return list(pd.DatetimeIndex(times).strftime(pattern))


def _candles(shown: _Window) -> go.Candlestick:
    bars, decisions = shown.bars, shown.decisions
    share = (bars["taker_buy_volume"] / bars["volume"]).fillna(0.0)
    verdict = _verdicts(decisions)
    customdata = list(
        zip(
            _texts(bars["open_time"], _CLOCK),
            _texts(bars.index, _CLOCK),
            bars["volume"].round(8),
            share.round(3),
            bars["trade_count"],
            shown.indicator("rsi").round(1),
            verdict,
            _values(shown),
            strict=True,
        )
    )
    return go.Candlestick(
        name="bars",
        x=shown.number,
        open=bars["open"],
        high=bars["high"],
        low=bars["low"],
        close=bars["close"],
        customdata=customdata,
        hovertemplate=(
            "<b>bar %{x}</b> · %{customdata[0]} to %{customdata[1]}<br>"
            "open %{open:,} · high %{high:,} · low %{low:,} · close %{close:,}<br>"
            "volume %{customdata[2]:,} · %{customdata[3]:.0%} bought · %{customdata[4]:,} trades · RSI %{customdata[5]}"
            "%{customdata[7]}%{customdata[6]}<extra></extra>"
        ),
        increasing={"line": {"color": UP, "width": 1}, "fillcolor": UP},
        decreasing={"line": {"color": DOWN, "width": 1}, "fillcolor": DOWN},
        whiskerwidth=0,
        opacity=0.85,
        showlegend=False,
    )


def _values(shown: _Window) -> list[str]:
    """What the indicators of a rule of one's own were on each bar."""
    columns = [(escape(name), shown.indicator(name)) for name in shown.own_indicators]
    return ["".join(f" · {name} {values[row]:.6g}" for name, values in columns) for row in range(len(shown.bars))]


def _own(shown: _Window) -> Iterator[go.Scatter]:
    for name, color in zip(shown.own_indicators, cycle((FAST, SLOW, UP, DOWN)), strict=False):
        yield go.Scatter(
            name=escape(name),
            x=shown.number,
            y=shown.indicator(name),
            mode="lines",
            line={"color": color, "width": 1.2},
            hovertemplate=f"{escape(name)} %{{y:.6g}} · bar %{{x}}<extra></extra>",
        )


def _verdicts(decisions: pd.DataFrame) -> list[str]:
    """Why each bar did what it did, for those where a trigger fired, and what followed."""
    texts = []
    for why, signal, outcome in zip(reasons(decisions), decisions["signal"], decisions["outcome"], strict=True):
        follows = f"<br><b>{signal}</b> → {escape(outcome) or 'no order'}" if signal else ""
        texts.append(f"<br>{escape(why)}{follows}" if why or signal else "")
    return texts


def _bands(shown: _Window) -> tuple[go.Scatter, go.Scatter]:
    edge = {"color": SLOW, "width": 0.7, "dash": "dot"}
    common = {"x": shown.number, "mode": "lines", "line": edge, "hoverinfo": "skip", "legendgroup": "bands"}
    upper = go.Scatter(name="Bollinger", y=shown.indicator("bollinger_upper"), showlegend=False, **common)
    lower = go.Scatter(name="Bollinger", y=shown.indicator("bollinger_lower"), fill="tonexty", fillcolor=BAND, **common)
    return upper, lower


def _averages(shown: _Window) -> Iterator[go.Scatter]:
    lines = (
        ("EMA fast", "ema_fast", FAST, "solid"),
        ("EMA slow", "ema_slow", SLOW, "solid"),
        ("VWAP", "vwap", MEAN, "dash"),
    )
    for name, indicator, color, dash in lines:
        yield go.Scatter(
            name=name,
            x=shown.number,
            y=shown.indicator(indicator),
            mode="lines",
            line={"color": color, "width": 1.4, "dash": dash},
            hoverinfo="skip",
        )


def _marked_bars(shown: _Window) -> go.Scatter:
    """Bars that could not enter: closed short at the day's end, or with trades missing."""
    bars = shown.bars
    is_marked = bars["tainted"] | (bars["close_reason"] == "DAY_END")
    marked = bars[is_marked]
    why = [
        " and ".join(
            ["trades are missing"] * tainted + ["closed short at the end of the UTC day"] * (reason == "DAY_END")
        )
        for tainted, reason in zip(marked["tainted"], marked["close_reason"], strict=True)
    ]
    return go.Scatter(
        name="day end, tainted",
        x=shown.number[is_marked.to_numpy()],
        y=marked["low"] - _margin(shown) * 2,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 8, "color": FAST, "line": {"width": 1.5}},
        text=why,
        hovertemplate="<b>bar %{x}</b> can't enter<br>%{text}<extra></extra>",
    )


def _margin(shown: _Window) -> float:
    """A small distance between a marker and its bar, in price."""
    if not len(shown.bars):
        return 0.0
    return float(shown.bars["high"].max() - shown.bars["low"].min()) * 0.012


def _levels(shown: _Window) -> tuple[go.Scatter, go.Scatter]:
    """Stop and take-profit of every round trip from its entry to its end; of the open one to now."""
    trips = shown.round_trips
    spans = {
        "stop": [*zip(trips["opened"], trips["closed"], trips["stop_price"], strict=True)],
        "take-profit": [*zip(trips["opened"], trips["closed"], trips["take_profit_price"], strict=True)],
    }
    if len(shown.bars):
        now = max([shown.bars.index[-1], *shown.fills.index[-1:]])
        waiting = shown.orders[shown.orders["status"] == "NEW"]
        for name, purpose in (("stop", "STOP"), ("take-profit", "TAKE_PROFIT")):
            orders = waiting[waiting["purpose"] == purpose]
            spans[name] += [(time, now, price) for time, price in orders["trigger_price"].items()]
    return (
        _segments("stop", shown, spans["stop"], LOSS),
        _segments("take-profit", shown, spans["take-profit"], WIN),
    )


def _segments(name: str, shown: _Window, spans: list[tuple[Any, Any, float]], color: str) -> go.Scatter:
    begin, end = shown.column(span[0] for span in spans), shown.column(span[1] for span in spans)
    price = [span[2] for span in spans]
    return go.Scatter(
        name=name,
        x=_broken(begin, end),
        y=_broken(price, price),
        mode="lines",
        line={"color": color, "width": 1.6, "dash": "dot"},
        hovertemplate=name + " %{y:,}<extra></extra>",
    )


def _broken(begin: Iterable[float], end: Iterable[float]) -> list[float | None]:
    """Coordinates of separate line segments in one trace."""
    return [value for pair in zip(begin, end, strict=True) for value in (*pair, None)]


def _paths(shown: _Window) -> Iterator[go.Scatter]:
    """A line from each entry to its exit, in the colour of the result."""
    trips = shown.round_trips
    for is_win, color in ((trips["net"] > 0, WIN), (trips["net"] <= 0, LOSS)):
        part = trips[is_win]
        yield go.Scatter(
            x=_broken(shown.column(part["opened"]), shown.column(part["closed"])),
            y=_broken(part["entry_price"], part["exit_price"]),
            mode="lines",
            line={"color": color, "width": 1.6},
            hoverinfo="skip",
            showlegend=False,
        )


def _refused(shown: _Window) -> go.Scatter:
    refusals = shown.refusals
    position = refusals["bar"].to_numpy() - (shown.number[0] if len(shown.number) else 0)
    is_buy = (refusals["side"] == "BUY").to_numpy()
    low, high = shown.bars["low"].to_numpy()[position], shown.bars["high"].to_numpy()[position]
    return go.Scatter(
        name="refused signal",
        x=refusals["bar"],
        y=np.where(is_buy, low - _margin(shown), high + _margin(shown)),
        mode="markers",
        marker={
            "symbol": np.where(is_buy, "triangle-up-open", "triangle-down-open").tolist(),
            "size": 7,
            "color": FAINT,
        },
        text=[
            f"<b>{side} refused: {escape(code)}</b><br>{escape(detail)}"
            for side, code, detail in zip(refusals["side"], refusals["code"], refusals["detail"], strict=True)
        ],
        hovertemplate="%{text}<br>bar %{x}<extra></extra>",
    )


def _entries(shown: _Window) -> Iterator[go.Scatter]:
    fills = shown.fills[shown.fills["purpose"] == "ENTRY"]
    orders = shown.orders.set_index("client_order_id")
    for name, side, symbol, color in (
        ("long entry", "BUY", "triangle-up", INK),
        ("short entry", "SELL", "triangle-down", INK),
    ):
        rows = []
        for round_trip, part in fills[fills["side"] == side].groupby("round_trip"):
            quantity = part["quantity"].sum()
            price = part["notional"].sum() / quantity
            order = orders.loc[part["client_order_id"].iloc[0]]
            text = (
                f"<b>{name}</b> · round trip {round_trip}<br>{quantity:,.8g} at {price:,.8g}, decided at "
                f"{order['reference_price']:,.8g} on bar {order['bar']}<br>{escape(order['reason'])}"
            )
            rows.append((part.index[0], price, text))
        yield _markers(name, shown, rows, symbol, color)


def _exits(shown: _Window) -> Iterator[go.Scatter]:
    trips = shown.round_trips
    for name, is_win, color in (("exit, won", trips["net"] > 0, WIN), ("exit, lost", trips["net"] <= 0, LOSS)):
        rows = []
        for time, trip in trips[is_win].iterrows():
            text = (
                f"<b>{escape(trip['exit_reason'])}</b> · {trip['side'].lower()} round trip {trip['id']}<br>"
                f"{trip['entry_price']:,.8g} → {trip['exit_price']:,.8g} in {trip['minutes']:,.1f} min<br>"
                f"net {trip['net']:+,.2f} ({trip['r_multiple']:+.2f} R), fees {trip['fees']:,.2f}"
            )
            rows.append((time, trip["exit_price"], text))
        yield _markers(name, shown, rows, "x", color, size=8)


def _markers(
    name: str, shown: _Window, rows: list[tuple[Any, float, str]], symbol: str, color: str, size: int = 12
) -> go.Scatter:
    return go.Scatter(
        name=name,
        x=shown.column(row[0] for row in rows),
        y=[row[1] for row in rows],
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": color, "line": {"color": "white", "width": 1}},
        text=[f"{row[2]}<br>{row[0]:{_CLOCK}.%f}"[:-3] for row in rows],
        hovertemplate="%{text}<extra></extra>",
    )


def _rsi(shown: _Window) -> go.Scatter:
    return go.Scatter(
        name="RSI",
        x=shown.number,
        y=shown.indicator("rsi"),
        mode="lines",
        line={"color": SLOW, "width": 1.2},
        hovertemplate="RSI %{y:.1f} · bar %{x}<extra></extra>",
        showlegend=False,
    )


def _durations(shown: _Window) -> go.Scatter:
    """How long each bar took; several bars closed by one trade took no time, which a log axis has no place for."""
    return go.Scatter(
        name="duration",
        x=shown.number,
        y=shown.bars["duration_s"].clip(lower=0.1),
        customdata=shown.bars["duration_s"],
        mode="lines",
        line={"color": FAINT, "width": 1, "shape": "hvh"},
        hovertemplate="bar %{x} took %{customdata:,.1f} s<extra></extra>",
        showlegend=False,
    )


def _add_time_axis(figure: go.Figure, shown: _Window) -> None:
    """Write the time along the upper edge of the prices at some ten bars; the hover text tells every bar's."""
    bars, step = shown.bars, max(1, len(shown.bars) // 10)
    picked = bars.iloc[::step]
    days = _texts(picked.index, "%d %b")
    is_new = [number == 0 or day != days[number - 1] for number, day in enumerate(days)]
    labels = [
        f"{time:%H:%M}<br>{day}" if new else f"{time:%H:%M}"
        for time, day, new in zip(picked.index, days, is_new, strict=True)
    ]
    figure.update_layout(
        xaxis9={
            "overlaying": "x",
            "matches": "x",
            "side": "top",
            "tickvals": picked["bar"].to_list(),
            "ticktext": labels,
            "showgrid": False,
            "tickfont": {"color": FAINT, "size": 11},
        }
    )
    # An axis without a trace isn't drawn.
    figure.add_trace(
        go.Scatter(x=shown.number[:1], y=[None], xaxis="x9", yaxis="y", hoverinfo="skip", showlegend=False)
    )


# --- equity, refusals ------------------------------------------------------------------------------------------------


def equity_chart(run: Frames, config: Config) -> go.Figure:
    """Draw equity over drawdown over the position held, on calendar time."""
    figure = make_subplots(rows=3, shared_xaxes=True, row_heights=[0.6, 0.22, 0.18], vertical_spacing=0.04)
    equity = run.equity[~run.equity.index.duplicated(keep="last")]
    kept = _outline(equity["equity"].to_numpy())
    points = equity.iloc[kept]
    for name, color, width in (("wallet", FAINT, 1.2), ("equity", SLOW, 1.8)):
        figure.add_trace(
            go.Scatter(
                name=name,
                x=points.index,
                y=points[name],
                mode="lines",
                line={
                    "color": color,
                    "width": width,
                    "shape": "hv" if name == "wallet" else "linear",
                    "simplify": False,  # else a flat stretch is drawn sloping to its end
                },
                hovertemplate="%{y:,.2f}",
            ),
            row=1,
            col=1,
        )
    figure.add_trace(_breaker_changes(run, equity), row=1, col=1)
    figure.add_trace(
        go.Scatter(
            name="drawdown",
            x=points.index,
            y=points["drawdown"],
            mode="lines",
            line={"color": LOSS, "width": 1},
            fill="tozeroy",
            fillcolor="rgba(164, 36, 59, 0.15)",
            hovertemplate="%{y:,.2f}",
            showlegend=False,
        ),
        row=2,
        col=1,
    )
    held = equity["position"].ne(equity["position"].shift())
    held.iloc[-1:] = True
    steps = equity[held].iloc[-MAX_POINTS:]
    figure.add_trace(
        go.Scatter(
            name="position",
            x=steps.index,
            y=steps["position"],
            mode="lines",
            line={"color": UP, "width": 1, "shape": "hv"},
            fill="tozeroy",
            fillcolor="rgba(42, 157, 143, 0.18)",
            hovertemplate="%{y:,.8g}",
            showlegend=False,
        ),
        row=3,
        col=1,
    )
    _style(figure, f"Equity, drawdown, position · {title_of(run, config)}", height=560)
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title_text=f"equity, {run.instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text="drawdown", tickformat=",", row=2, col=1)
    figure.update_yaxes(title_text=f"position,<br>{run.instrument.base_asset}", nticks=4, row=3, col=1)
    figure.update_xaxes(title_text="time, UTC", row=3, col=1)
    return figure


def _breaker_changes(run: Frames, equity: pd.DataFrame) -> go.Scatter:
    changes = run.breaker
    level = equity["equity"].reindex(changes.index.union(equity.index)).ffill().bfill()
    return go.Scatter(
        name="breaker",
        x=changes.index,
        y=[level.loc[time] for time in changes.index],
        mode="markers",
        marker={"symbol": "star", "size": 11, "color": FAST, "line": {"color": INK, "width": 0.7}},
        text=[
            f"{escape(rule)}: {escape(action)}, {measure:,.8g} of {limit:,.8g} → {escape(mode)}"
            for rule, action, measure, limit, mode in zip(
                changes["rule"], changes["action"], changes["measure"], changes["limit"], changes["mode"], strict=True
            )
        ],
        hovertemplate="%{text}",
        showlegend=bool(len(changes)),
    )


def _outline(values: npt.NDArray[Any], most: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Positions of at most about `most` points that keep a line's lowest, highest, first and last."""
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most // 2 + 1, dtype=np.int64)
    kept = {0, count - 1}
    for begin, end in pairwise(edges):
        part = values[begin:end]
        kept |= {int(begin + part.argmin()), int(begin + part.argmax())}
    return np.array(sorted(kept))


def refusals_chart(run: Frames, config: Config) -> go.Figure:
    """Draw how many signals each gate refused."""
    table = refusals_by_code(run).iloc[::-1]
    figure = go.Figure(
        go.Bar(
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
        figure.add_trace(
            go.Scatter(
                name=name,
                x=[*frames.bars.index[:1], *trips.index[kept]],
                y=[*[0.0] * len(frames.bars[:1]), *earned[kept]],
                mode="lines+markers",
                line={"color": color, "width": 1.8, "dash": dash, "shape": "hv"},
                marker={"size": 5},
                hovertemplate="%{y:+,.2f}",
            )
        )
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
    line = {"color": SLOW, "width": 1.2, "simplify": False}
    figure.add_trace(
        go.Scatter(
            name="price", x=_moments(trades.time[kept]), y=price[kept], mode="lines", line=line, showlegend=False
        ),
        row=1,
        col=1,
    )
    gaps = gap_table(trades, instrument)
    before = np.searchsorted(trades.id, gaps["first_id"].to_numpy()) - 1
    figure.add_trace(
        go.Scatter(
            name="ids missing",
            x=gaps.index,
            y=price[before],
            mode="markers",
            marker={"symbol": "x-thin", "size": 10, "line": {"width": 2, "color": LOSS}},
            text=[f"{count:,} ids missing" for count in gaps["ids_missing"]],
            customdata=gaps["seconds"],
            hovertemplate="%{text}, %{customdata:,.1f} s<extra></extra>",
            showlegend=bool(len(gaps)),
        ),
        row=1,
        col=1,
    )
    edges, volumes = _volume_by_time(trades, instrument)
    minutes = (edges[1] - edges[0]) / 60_000
    figure.add_trace(
        go.Bar(
            name="volume",
            x=_moments((edges[:-1] + edges[1:]) // 2),
            y=volumes,
            marker={"color": FAINT, "line": {"width": 0}},
            hovertemplate="%{y:,.6g}<extra></extra>",
            showlegend=False,
        ),
        row=2,
        col=1,
    )
    _style(figure, f"{instrument.symbol} · {len(trades):,} trades", height=480)
    figure.update_layout(bargap=0)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in<br>{minutes:,.0f} min", row=2, col=1)
    figure.update_xaxes(title_text="time, UTC", row=2, col=1)
    return figure


_ROUND_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480)


def _volume_by_time(trades: Trades, instrument: Instrument, most: int = 300) -> tuple[Int64s, Floats]:
    """Edges of stretches of so many minutes, by the clock, and the coins traded in each."""
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
    by_time = {
        "open": prices[first],
        "high": np.maximum.reduceat(prices, first),
        "low": np.minimum.reduceat(prices, first),
        "close": prices[end - 1],
    }
    by_volume = {name: natural(rows[name], instrument.tick_size) for name in ("open", "high", "low", "close")}
    volume = natural(np.add.reduceat(trades.quantity, first), instrument.step_size)
    seconds = (rows["close_time"] - rows["open_time"]) / 1000
    columns = (("bars of time", by_time, volume), ("volume bars", by_volume, seconds))
    for column, (name, candles, varies) in enumerate(columns, 1):
        number = np.arange(len(varies))
        figure.add_trace(_plain_candles(name, number, candles), row=1, col=column)
        figure.add_trace(
            go.Bar(x=number, y=varies, marker={"color": FAINT, "line": {"width": 0}}, showlegend=False),
            row=2,
            col=column,
        )
    _style(figure, f"{instrument.symbol} · {len(rows):,} bars by the clock, and by volume", height=560)
    figure.update_layout(bargap=0, margin={"t": 88, "b": 56})
    figure.update_xaxes(rangeslider_visible=False)
    figure.update_yaxes(tickformat=",", matches="y", row=1)
    figure.update_yaxes(title_text=f"price, {instrument.quote_asset}", row=1, col=1)
    figure.update_yaxes(title_text=f"{instrument.base_asset} in a bar", row=2, col=1)
    figure.update_yaxes(title_text="seconds a bar lasts", row=2, col=2)
    figure.update_xaxes(title_text="bar", row=2)
    return figure


def _plain_candles(name: str, number: npt.NDArray[np.int64], prices: dict[str, Floats]) -> go.Candlestick:
    return go.Candlestick(
        name=name,
        x=number,
        **prices,
        increasing={"line": {"color": UP, "width": 1}, "fillcolor": UP},
        decreasing={"line": {"color": DOWN, "width": 1}, "fillcolor": DOWN},
        whiskerwidth=0,
        showlegend=False,
    )


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
        style = {"color": color, "width": 1.8}
        trace = go.Scatter(name=name, x=threshold, y=values, mode="lines", line=style, showlegend=False, **more)
        figure.add_trace(trace, row=row, col=col)

    line("bars a day", table["bars_a_day"], 1, 1)
    figure.add_trace(
        go.Scatter(
            name="chosen",
            x=[at],
            y=[chosen.figures.bars_a_day],
            mode="markers",
            marker={"size": 11, "color": FAST, "line": {"color": INK, "width": 1}},
            hovertemplate="%{x:,.6g}: %{y:,.0f} bars a day<extra></extra>",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
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


def heat_map(frame: pd.DataFrame, x: str, y: str, value: str) -> go.Figure:
    """Draw a column of a sweep's frame over two swept parameters; of settings that share both, the mean."""
    table = frame.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    across, down = [str(name) for name in table.columns], [str(name) for name in table.index]
    figure = go.Figure(
        go.Heatmap(
            x=across,
            y=down,
            z=table.to_numpy(),
            colorscale=[(0.0, DOWN), (0.5, "white"), (1.0, UP)],
            zmid=0,  # losses are red, whether there are gains beside them or not
            colorbar={"title": value},
            hovertemplate=f"{escape(x)} %{{x}}<br>{escape(y)} %{{y}}<br>{escape(value)} %{{z:.4g}}<extra></extra>",
        )
    )
    _style(figure, f"{value} of {len(frame):,} settings", height=520)
    # The values that were tried stand side by side, evenly.
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text=y, type="category")
    return figure


def luck_chart(sharpes: Floats, luckiest: float) -> go.Figure:
    """Draw the Sharpe ratios of trials, in order of their size, below or above what the luckiest would show."""
    known = np.sort(sharpes[np.isfinite(sharpes)])
    colors = np.where(known > luckiest, UP, SLOW)
    figure = go.Figure(
        go.Scatter(
            x=np.arange(1, len(known) + 1),
            y=known,
            mode="markers",
            marker={"color": colors, "size": 6, "opacity": 0.75},
            hovertemplate="Sharpe ratio %{y:.2f}<extra></extra>",
        )
    )
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
        hoverlabel={"bgcolor": "white", "bordercolor": FAINT, "align": "left", "font": {"size": 12}},
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
        self._widget: Any = None

    def draw(self, figure: go.Figure) -> None:
        """Show a figure, or change the one shown into it; all figures of a chart have the same traces, in order."""
        if self._is_recorded:
            self._draw_bundle(figure)
        elif self._widget is None:
            self._widget = go.FigureWidget(figure)
            show_output(self._widget)  # type: ignore[no-untyped-call]
        else:
            self._redraw_widget(figure)

    def _draw_bundle(self, figure: go.Figure) -> None:
        if self._handle is None:
            self._handle = show_output(bundle(figure), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle(figure), raw=True)

    def _redraw_widget(self, figure: go.Figure) -> None:
        with self._widget.batch_update():
            for shown, new in zip(self._widget.data, figure.data, strict=True):
                shown.update(new.to_plotly_json(), overwrite=True)
            self._widget.layout.update(figure.layout.to_plotly_json())
