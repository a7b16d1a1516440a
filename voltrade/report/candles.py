"""Traces of a price chart as plain data, from a run's frames.

`charts` makes a figure of them for a session or a review, `research_chart` new data for the explorer's figure. All data
are columns, since thousands of bars are redrawn while a slider moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from voltrade.model import Floats
from voltrade.report.decision_reasons import reasons
from voltrade.report.frames import WITHOUT_A_RULE, Frames, to_milliseconds

Trace = dict[str, Any]
"""A trace as plotly reads it."""

UP, DOWN = "#2a9d8f", "#d1495b"
WIN, LOSS = "#0b7a75", "#a4243b"
FAST, SLOW, MEAN = "#e09f3e", "#5b5f97", "#6c757d"
BAND = "rgba(91, 95, 151, 0.09)"
INK, FAINT = "#2b2d42", "#8d99ae"

_CLOCK = "%H:%M:%S"


def scatter(name: str, x: Any, y: Any, mode: str, **more: Any) -> Trace:
    """Return a trace of lines or markers."""
    return {"type": "scatter", "name": name, "x": x, "y": y, "mode": mode, **more}


def candlestick(name: str, x: Any, prices: Mapping[str, Any], **more: Any) -> Trace:
    """Return a trace of candles; `prices` has their open, high, low and close."""
    rising, falling = ({"line": {"color": color, "width": 1}, "fillcolor": color} for color in (UP, DOWN))
    style = {"increasing": rising, "decreasing": falling, "whiskerwidth": 0, "showlegend": False}
    return {"type": "candlestick", "name": name, "x": x, **prices, **style, **more}


# --- what is shown ---------------------------------------------------------------------------------------------------


class Window:
    """The bars of a run that a chart shows, and the position of times on its axis.

    Args:
        run: frames of the run.
        last_bars: number of bars, the last ones of the frames.
        until: what happened from then on isn't shown; None for no end.
    """

    def __init__(self, run: Frames, last_bars: int, until: pd.Timestamp | None = None) -> None:
        self.bars = run.bars.iloc[-last_bars:]
        self.decisions = run.decisions.iloc[-last_bars:]
        self.number = self.bars["bar"].to_numpy()
        self.columns = self.number.astype(np.int32)  # widgets send int32 without conversion
        begin = self.bars["open_time"].iloc[0] if len(self.bars) else pd.Timestamp.max.tz_localize("UTC")
        end = pd.Timestamp.max.tz_localize("UTC") if until is None else until
        self.fills = run.fills[(run.fills.index >= begin) & (run.fills.index < end)]
        trips = run.round_trips
        self.round_trips = trips[(trips["closed"] >= begin) & (trips["opened"] < end)]
        self.closed_trips = self.round_trips[self.round_trips["closed"] < end]
        self.signalled_trips = trips[trips["bar"].isin(self.number)]
        self.orders = run.orders
        self.refusals = run.refusals[run.refusals["bar"].isin(self.number)]
        self.is_last = until is None
        self.own_indicators = own_indicators(run)
        self._opened = to_milliseconds(self.bars["open_time"])
        self._closed = to_milliseconds(self.bars.index)

    def indicator(self, name: str) -> Floats:
        """Return an indicator's values; NaN where decisions don't have it."""
        if name not in self.decisions:
            return np.full(len(self.bars), np.nan)
        return np.asarray(self.decisions[name], dtype=np.float64)

    def column(self, times: Iterable[pd.Timestamp]) -> Floats:
        """Return positions of times on the axis of bars: within 0.4 of the bar that has the trades of that time."""
        moments = to_milliseconds(times)
        if not len(self.bars):
            return np.zeros(len(moments))
        position = np.searchsorted(self._closed, moments, side="left")
        inside = np.minimum(position, len(self.bars) - 1)
        length = np.maximum(self._closed[inside] - self._opened[inside], 1)
        part = np.clip((moments - self._opened[inside]) / length, 0, 1)
        # Times after the last bar belong to the open bar.
        part = np.where(position == len(self.bars), 0.0, part)
        return np.asarray(self.number[0] + position - 0.4 + 0.8 * part, dtype=np.float64)

    @property
    def margin(self) -> float:
        """Distance between a marker and its bar, in price."""
        if not len(self.bars):
            return 0.0
        return float(self.bars["high"].max() - self.bars["low"].min()) * 0.012

    def price_range(self) -> tuple[float, float]:
        """Return the lowest and highest price of the axis."""
        if not len(self.bars):
            return 0.0, 1.0
        return float(self.bars["low"].min()) - 4 * self.margin, float(self.bars["high"].max()) + 4 * self.margin

    def time_labels(self) -> tuple[list[int], list[str]]:
        """Return about ten bars and their closing times, with the day where it changes."""
        picked = self.bars.iloc[:: max(1, len(self.bars) // 10)]
        days = list(pd.DatetimeIndex(picked.index).strftime("%d %b"))
        is_new = [number == 0 or day != days[number - 1] for number, day in enumerate(days)]
        labels = [
            f"{time:%H:%M}<br>{day}" if new else f"{time:%H:%M}"
            for time, day, new in zip(picked.index, days, is_new, strict=True)
        ]
        return picked["bar"].to_list(), labels


def own_indicators(run: Frames) -> list[str]:
    """Return the names of indicators that the built-in rule doesn't have."""
    return [str(name) for name in run.decisions.select_dtypes("float").columns if name not in WITHOUT_A_RULE]


# --- bars and indicators ---------------------------------------------------------------------------------------------


def price_traces(shown: Window) -> list[Trace]:
    """Return the traces of the price panel, from back to front."""
    return [
        *_bands(shown),
        _candles(shown),
        *_averages(shown),
        _marked_bars(shown),
        *_levels(shown),
        *_paths(shown),
        _refused(shown),
        *_entries(shown),
        *_exits(shown),
    ]


def _candles(shown: Window) -> Trace:
    bars = shown.bars
    volume = bars["volume"].to_numpy()
    share = np.divide(bars["taker_buy_volume"].to_numpy(), volume, out=np.zeros(len(volume)), where=volume > 0)
    values = [volume, share, bars["trade_count"], shown.indicator("rsi")]
    own = "".join(
        f" · {escape(name)} %{{customdata[{at}]:.6g}}" for at, name in enumerate(shown.own_indicators, len(values))
    )
    hover = (
        "<b>bar %{x}</b> · %{text}<br>"
        "open %{open:,} · high %{high:,} · low %{low:,} · close %{close:,}<br>"
        "volume %{customdata[0]:,.8~g} · %{customdata[1]:.0%} bought · %{customdata[2]:,} trades"
        f" · RSI %{{customdata[3]:.1f}}{own}<br>%{{hovertext}}<extra></extra>"
    )
    return candlestick(
        "bars",
        shown.columns,
        {name: bars[name].to_numpy() for name in ("open", "high", "low", "close")},
        customdata=np.column_stack([*values, *(shown.indicator(name) for name in shown.own_indicators)]),
        text=_spans(bars),
        hovertext=decisions(shown),
        hovertemplate=hover,
        opacity=0.85,
    )


def _spans(bars: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Return begin and end of each bar as text."""
    opened, closed = (
        np.datetime_as_string(to_milliseconds(times).view("datetime64[ms]"), unit="s")
        for times in (bars["open_time"], bars.index)
    )
    spans: npt.NDArray[np.str_] = np.strings.slice(opened, 0, 10)
    for words in (" ", np.strings.slice(opened, 11, 19), " to ", np.strings.slice(closed, 11, 19)):
        spans = np.strings.add(spans, words)
    return spans


def decisions(shown: Window) -> list[str]:
    """Return the decision of each bar as text: what the rule decided, and what followed."""
    decisions = shown.decisions
    why = reasons(decisions)
    ready = decisions["ready"].to_numpy().tolist()
    texts = [
        f"no signal: {escape(reason)}" if reason else "no signal" if is_ready else "no signal, warming up"
        for reason, is_ready in zip(why, ready, strict=True)
    ]
    details = dict(zip(shown.refusals["bar"].tolist(), shown.refusals["detail"].tolist(), strict=True))
    trips = dict(zip(shown.signalled_trips["bar"].tolist(), _results(shown.signalled_trips), strict=True))
    signals = np.flatnonzero((decisions["signal"] != "").to_numpy()).tolist()
    rows = decisions.iloc[signals]
    for at, bar, signal, outcome in zip(
        signals, rows["bar"].tolist(), rows["signal"].tolist(), rows["outcome"].tolist(), strict=True
    ):
        detail = f", {escape(details[bar])}" if bar in details and outcome.startswith("refused") else ""
        ended = f"<br>{trips[bar]}" if bar in trips else ""
        texts[at] = f"<b>{signal}</b>: {escape(why[at])}<br>→ {escape(outcome) or 'no order'}{detail}{ended}"
    return texts


def _bands(shown: Window) -> Iterator[Trace]:
    edge = {"color": SLOW, "width": 0.7, "dash": "dot"}
    common = {"line": edge, "hoverinfo": "skip", "legendgroup": "bands"}
    upper, lower = shown.indicator("bollinger_upper"), shown.indicator("bollinger_lower")
    yield scatter("Bollinger", shown.columns, upper, "lines", **common, showlegend=False)
    yield scatter("Bollinger", shown.columns, lower, "lines", **common, fill="tonexty", fillcolor=BAND)


def _averages(shown: Window) -> Iterator[Trace]:
    lines = (
        ("EMA fast", "ema_fast", FAST, "solid"),
        ("EMA slow", "ema_slow", SLOW, "solid"),
        ("VWAP", "vwap", MEAN, "dash"),
    )
    for name, indicator, color, dash in lines:
        line = {"color": color, "width": 1.4, "dash": dash}
        yield scatter(name, shown.columns, shown.indicator(indicator), "lines", line=line, hoverinfo="skip")


def rsi_trace(shown: Window) -> Trace:
    """Return the trace of the RSI panel."""
    style = {"line": {"color": SLOW, "width": 1.2}, "hovertemplate": "RSI %{y:.1f} · bar %{x}<extra></extra>"}
    return scatter("RSI", shown.columns, shown.indicator("rsi"), "lines", **style, showlegend=False)


def own_traces(shown: Window) -> Iterator[Trace]:
    """Yield the traces of the panel for indicators of a user's rule."""
    for name, color in zip(shown.own_indicators, cycle((FAST, SLOW, UP, DOWN)), strict=False):
        hover, line = f"{escape(name)} %{{y:.6g}} · bar %{{x}}<extra></extra>", {"color": color, "width": 1.2}
        yield scatter(escape(name), shown.columns, shown.indicator(name), "lines", line=line, hovertemplate=hover)


def duration_trace(shown: Window) -> Trace:
    """Return the trace of the bars' durations; 0 is drawn as 0.1 s, since the axis is logarithmic."""
    seconds = shown.bars["duration_s"].to_numpy()
    hover, line = "bar %{x} took %{customdata:,.1f} s<extra></extra>", {"color": FAINT, "width": 1, "shape": "hvh"}
    more = {"customdata": seconds, "line": line, "hovertemplate": hover, "showlegend": False}
    return scatter("duration", shown.columns, np.maximum(seconds, 0.1), "lines", **more)


def _marked_bars(shown: Window) -> Trace:
    """Return markers at bars that can't enter: closed at the day's end, or with missing trades."""
    bars = shown.bars
    is_marked = bars["tainted"] | (bars["close_reason"] == "DAY_END")
    marked = bars[is_marked]
    why = [
        " and ".join(
            ["trades are missing"] * tainted + ["closed short at the end of the UTC day"] * (reason == "DAY_END")
        )
        for tainted, reason in zip(marked["tainted"], marked["close_reason"], strict=True)
    ]
    place = shown.columns[is_marked.to_numpy()], marked["low"].to_numpy() - shown.margin * 2
    marker = {"symbol": "diamond-open", "size": 8, "color": FAST, "line": {"width": 1.5}}
    hover = "<b>bar %{x}</b> can't enter<br>%{text}<extra></extra>"
    return scatter("day end, tainted", *place, "markers", marker=marker, text=why, hovertemplate=hover)


# --- round trips and refusals ----------------------------------------------------------------------------------------


def _levels(shown: Window) -> Iterator[Trace]:
    """Yield stop and take-profit of each round trip from its entry to its end; of the open position to now."""
    trips = shown.round_trips
    waiting = shown.orders[shown.orders["status"] == "NEW"] if shown.is_last else shown.orders[:0]
    for name, purpose, color in (("stop", "STOP", LOSS), ("take-profit", "TAKE_PROFIT", WIN)):
        orders = waiting[waiting["purpose"] == purpose]
        now: Any = max([*shown.bars.index[-1:], *shown.fills.index[-1:], *orders.index], default=None)
        begin = shown.column([*trips["opened"], *orders.index])
        end = shown.column([*trips["closed"], *([now] * len(orders))])
        price = np.append(trips[f"{purpose.lower()}_price"], orders["trigger_price"])
        hover, line = name + " %{y:,}<extra></extra>", {"color": color, "width": 1.6, "dash": "dot"}
        yield scatter(name, _broken(begin, end), _broken(price, price), "lines", line=line, hovertemplate=hover)


def _broken(begin: Any, end: Any) -> Floats:
    """Return coordinates of separate line segments in one trace: a NaN after each."""
    begin, end = np.asarray(begin, dtype=np.float64), np.asarray(end, dtype=np.float64)
    return np.stack([begin, end, np.full(len(begin), np.nan)], axis=1).ravel()


def _paths(shown: Window) -> Iterator[Trace]:
    """Yield lines from each entry to its exit, in the colour of the result."""
    trips = shown.round_trips
    for is_win, color in ((trips["net"] > 0, WIN), (trips["net"] <= 0, LOSS)):
        part = trips[is_win]
        yield {
            "type": "scatter",
            "x": _broken(shown.column(part["opened"]), shown.column(part["closed"])),
            "y": _broken(part["entry_price"], part["exit_price"]),
            "mode": "lines",
            "line": {"color": color, "width": 1.6},
            "hoverinfo": "skip",
            "showlegend": False,
        }


def _refused(shown: Window) -> Trace:
    refusals = shown.refusals
    position = refusals["bar"].to_numpy() - (shown.number[0] if len(shown.number) else 0)
    is_buy = (refusals["side"] == "BUY").to_numpy()
    low, high = shown.bars["low"].to_numpy()[position], shown.bars["high"].to_numpy()[position]
    place = refusals["bar"].to_numpy(np.int32), np.where(is_buy, low - shown.margin, high + shown.margin)
    symbols = np.where(is_buy, "triangle-up-open", "triangle-down-open").tolist()
    texts = [
        f"<b>{side} refused: {escape(code)}</b><br>{escape(detail)}"
        for side, code, detail in zip(refusals["side"], refusals["code"], refusals["detail"], strict=True)
    ]
    marker = {"symbol": symbols, "size": 8, "color": MEAN, "line": {"width": 1.2}}
    hover = "%{text}<br>bar %{x}<extra></extra>"
    return scatter("refused signal", *place, "markers", marker=marker, text=texts, hovertemplate=hover)


def _entries(shown: Window) -> Iterator[Trace]:
    fills = shown.fills[shown.fills["purpose"] == "ENTRY"]
    orders = shown.orders.set_index("client_order_id")
    for name, side, symbol in (("long entry", "BUY", "triangle-up"), ("short entry", "SELL", "triangle-down")):
        part = fills[fills["side"] == side]
        sums = part.groupby("round_trip", sort=False)[["quantity", "notional"]].sum()
        quantity = sums["quantity"].to_numpy()
        price = sums["notional"].to_numpy() / quantity
        first = part[~part["round_trip"].duplicated()]
        asked = orders.loc[first["client_order_id"], ["reference_price", "bar", "reason"]]
        texts = [
            f"<b>{name}</b> · round trip {trip}<br>{coins:,.8g} at {paid:,.8g}, decided at {decided:,.8g} on bar {bar}"
            f"<br>{escape(reason)}"
            for trip, coins, paid, (decided, bar, reason) in zip(
                sums.index, quantity, price, asked.itertuples(index=False), strict=True
            )
        ]
        yield _markers(name, shown, first.index, price, texts, symbol, INK)


def _exits(shown: Window) -> Iterator[Trace]:
    trips = shown.closed_trips
    for name, is_win, color in (("exit, won", trips["net"] > 0, WIN), ("exit, lost", trips["net"] <= 0, LOSS)):
        part = trips[is_win]
        yield _markers(name, shown, part["closed"], part["exit_price"].to_numpy(), _results(part), "x", color, size=8)


def _results(trips: pd.DataFrame) -> list[str]:
    """How each round trip ended and what it came to."""
    names = ("exit_reason", "side", "id", "entry_price", "exit_price", "minutes", "net", "r_multiple", "fees")
    return [
        f"<b>{escape(reason)}</b> · {side.lower()} round trip {number}<br>"
        f"{entry:,.8g} → {left:,.8g} in {minutes:,.1f} min<br>net {net:+,.2f} ({times:+.2f} R), fees {fees:+,.2f}"
        for reason, side, number, entry, left, minutes, net, times, fees in trips[list(names)].itertuples(index=False)
    ]


def _markers(
    name: str, shown: Window, times: Any, price: Floats, texts: list[str], symbol: str, color: str, size: int = 12
) -> Trace:
    clocks = pd.DatetimeIndex(times).strftime(f"{_CLOCK}.%f")
    marker = {"symbol": symbol, "size": size, "color": color, "line": {"color": "white", "width": 1}}
    texts = [f"{text}<br>{clock[:-3]}" for text, clock in zip(texts, clocks, strict=True)]
    hover = "%{text}<extra></extra>"
    return scatter(name, shown.column(times), price, "markers", marker=marker, text=texts, hovertemplate=hover)
