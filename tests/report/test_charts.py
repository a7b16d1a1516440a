"""Charts show what the frames say, stay small, and change in place."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.builders import an_instrument
from support.made_run import made_run

from voltrade.config import Config
from voltrade.errors import ConfigError
from voltrade.model import BreakerChange, Refusal, Side
from voltrade.report import candles, charts, figure_output
from voltrade.report.chart_style import MAX_BARS, outline_points
from voltrade.report.collector import frames_of_facts
from voltrade.report.figure_output import LiveChart, bundle
from voltrade.report.frames import Frames
from voltrade.report.research_chart import ResearchChart
from voltrade.report.sweep_charts import heat_map

MADE = made_run(an_instrument(), bar_count=300)
RUN = frames_of_facts(MADE.instrument, MADE.bars, MADE.facts)
EMPTY = frames_of_facts(MADE.instrument, [], [])
CONFIG = Config()

CHARTS = (charts.price_chart, charts.equity_chart, charts.refusals_chart)


def trace(figure: Any, name: str) -> Any:
    return next(part for part in figure.data if part.name == name)


def test_the_price_chart_has_a_column_for_every_bar() -> None:
    figure = charts.price_chart(RUN, CONFIG)
    bars = trace(figure, "bars")
    assert list(bars.x) == list(range(300))
    assert list(bars.close) == RUN.bars["close"].to_list()
    assert list(trace(figure, "EMA fast").y[-5:]) == RUN.decisions["ema_fast"].to_list()[-5:]
    assert len(trace(figure, "RSI").x) == 300


def test_entries_and_exits_stand_where_and_at_what_they_filled() -> None:
    figure = charts.price_chart(RUN, CONFIG)
    longs = RUN.fills[(RUN.fills["purpose"] == "ENTRY") & (RUN.fills["side"] == "BUY")]
    assert list(trace(figure, "long entry").y) == longs["price"].to_list()
    # An entry's fill goes into the bar after the one that decided it.
    decided = RUN.orders.set_index("client_order_id").loc[longs["client_order_id"], "bar"].to_numpy()
    assert np.round(trace(figure, "long entry").x).tolist() == (decided + 1).tolist()
    won = RUN.round_trips[RUN.round_trips["net"] > 0]
    assert list(trace(figure, "exit, won").y) == won["exit_price"].to_list()
    assert all("net +" in text for text in trace(figure, "exit, won").text)


def test_stops_are_drawn_from_entry_to_exit_and_to_now_where_they_wait() -> None:
    figure = charts.price_chart(RUN, CONFIG)
    stops = [y for y in trace(figure, "stop").y if not np.isnan(y)]
    waiting = RUN.orders[(RUN.orders["purpose"] == "STOP") & (RUN.orders["status"] == "NEW")]
    expected = [*RUN.round_trips["stop_price"], *waiting["trigger_price"]]
    assert stops == [price for price in expected for _ in range(2)]


def test_a_refused_signal_says_which_gate_and_why() -> None:
    figure = charts.price_chart(RUN, CONFIG)
    refused = trace(figure, "refused signal")
    assert list(refused.x) == RUN.refusals["bar"].to_list()
    assert "COOLDOWN" in refused.text[0]
    assert "1 of 3 bars" in refused.text[0]
    bars = trace(figure, "bars")
    assert "refused: COOLDOWN" in bars.hovertext[refused.x[0]]
    assert "ema_cross" in bars.hovertext[refused.x[0]]


def test_bars_that_could_not_enter_are_marked() -> None:
    marked = trace(charts.price_chart(RUN, CONFIG), "day end, tainted")
    assert list(marked.x) == [100, 160]
    assert list(marked.text) == ["closed short at the end of the UTC day", "trades are missing"]


def test_a_long_run_is_cut_to_its_last_bars_and_says_so() -> None:
    figure = charts.price_chart(RUN, CONFIG, last_bars=40)
    assert list(trace(figure, "bars").x) == list(range(260, 300))
    assert "last 40 of 300 bars" in figure.layout.title.text
    assert min(x for x in trace(figure, "long entry").x) >= 259.5
    assert MAX_BARS <= 5_000


@pytest.mark.parametrize(
    ("settings", "marks"),
    [
        ({}, [0, 25, 75, 100]),
        ({"rsi_oversold": 40.0, "rsi_overbought": 60.0}, [0, 40, 60, 100]),
        ({"use_rsi_filter": False}, [0, 50, 100]),
    ],
)
def test_the_axis_of_the_rsi_marks_the_bounds_of_the_rule(settings: dict[str, Any], marks: list[float]) -> None:
    """It marked 30, 50 and 70, whatever the rule's bounds were."""
    config, run = Config.from_parameters(settings), first_bars(20)
    assert list(charts.price_chart(run, config).layout.yaxis2.tickvals) == marks
    page = ResearchChart(run)
    page.draw(run, "", "", None, "", config)
    assert list(page.figure.layout.yaxis2.tickvals) == marks


def test_the_bars_around_a_round_trip_are_shown_with_what_was_known_then() -> None:
    trip = RUN.round_trips.iloc[1]
    figure = charts.price_chart(RUN, CONFIG, last_bars=40, around=int(trip["id"]))
    numbers = list(trace(figure, "bars").x)
    assert numbers == list(range(trip["bar"] - 20, trip["bar"] + 20))
    assert f"{numbers[0]} to {numbers[-1]} of 300 bars" in figure.layout.title.text
    assert trip["entry_price"] in [*trace(figure, "long entry").y, *trace(figure, "short entry").y]
    for name in ("long entry", "short entry", "exit, won", "exit, lost", "refused signal"):
        assert all(numbers[0] - 0.5 <= x <= numbers[-1] + 0.5 for x in trace(figure, name).x)
    first = charts.price_chart(RUN, CONFIG, last_bars=290, around=int(RUN.round_trips["id"].iloc[0]))
    assert list(trace(first, "bars").x) == list(range(290))
    with pytest.raises(ConfigError, match="around: must be the id of a round trip of the run, was 999"):
        charts.price_chart(RUN, CONFIG, around=999)


@pytest.mark.parametrize("draw", CHARTS)
def test_a_synthetic_tape_is_labelled_where_it_is_shown(draw: Any) -> None:
    assert "synthetic tape, seed 5" in draw(RUN, Config.from_parameters(seed=5)).layout.title.text
    recorded = draw(RUN, Config.from_parameters(tape="trades.csv")).layout.title.text
    assert "synthetic" not in recorded
    assert "recorded tape" in recorded


@pytest.mark.parametrize("draw", CHARTS)
def test_axes_have_titles(draw: Any) -> None:
    layout = draw(RUN, CONFIG).to_plotly_json()["layout"]
    titles = [axis.get("title", {}).get("text") for name, axis in layout.items() if name.startswith("yaxis")]
    assert draw is charts.refusals_chart or all(titles)
    assert any(axis.get("title", {}).get("text") for name, axis in layout.items() if name.startswith("xaxis"))


@pytest.mark.parametrize("draw", CHARTS)
def test_an_empty_run_draws_the_same_traces(draw: Any) -> None:
    """What a live chart that changes in place relies on."""
    empty, full = draw(EMPTY, CONFIG), draw(RUN, CONFIG)
    assert [(part.type, part.name) for part in empty.data] == [(part.type, part.name) for part in full.data]


def test_what_the_exchange_says_is_shown_as_text_never_as_markup() -> None:
    hostile = "<script>alert(1)</script>"
    refusal = Refusal(MADE.bars[50]["close_time"], "BTCUSDT", 50, Side.BUY, hostile, hostile)
    change = BreakerChange(MADE.bars[50]["close_time"], hostile, hostile, hostile, 1, 1, 1)
    run = frames_of_facts(MADE.instrument, MADE.bars, [*MADE.facts, refusal, change])
    for draw in CHARTS:
        traces = [part.to_plotly_json() for part in draw(run, CONFIG).data]
        hovers = [list(part.get(key, ())) for part in traces for key in ("text", "hovertext", "customdata")]
        assert "&lt;script&gt;" in str(hovers)
        assert "<script>" not in str(hovers)


def test_equity_shows_the_deepest_drawdown_and_every_change_of_the_breaker() -> None:
    figure = charts.equity_chart(RUN, CONFIG)
    assert min(trace(figure, "drawdown").y) == RUN.equity["drawdown"].min()
    assert len(trace(figure, "breaker").x) == len(RUN.breaker) == 2
    assert "LOSING_STREAK" in trace(figure, "breaker").text[0]


def test_refusals_are_counted_by_gate() -> None:
    (bars,) = charts.refusals_chart(RUN, CONFIG).data
    assert dict(zip(bars.y, bars.x, strict=True)) == RUN.refusals["code"].value_counts().to_dict()
    (note,) = charts.refusals_chart(EMPTY, CONFIG).layout.annotations
    assert note.text == "no signal was refused"


@settings(max_examples=50, deadline=None)
@given(npst.arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6)), st.integers(4, 60))
def test_a_thinned_line_keeps_its_extremes_and_ends(values: Any, most: int) -> None:
    kept = outline_points(values, most)
    assert len(kept) <= max(most, 0) + 2
    assert {kept[0], kept[-1]} == {0, len(values) - 1}
    assert (values[kept].min(), values[kept].max()) == (values.min(), values.max())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 299), st.floats(0, 1))
def test_a_time_falls_into_the_column_of_its_bar(number: int, part: float) -> None:
    bar = RUN.bars.iloc[number]
    moment = bar["open_time"] + (RUN.bars.index[number] - bar["open_time"]) * part
    (column,) = candles.Window(RUN, 300).column([moment])
    assert abs(column - number) <= 0.4 + 1e-9


def test_a_finished_chart_is_json_that_a_notebook_can_keep() -> None:
    kept = bundle(charts.price_chart(RUN, CONFIG))
    assert set(kept) == {"application/vnd.plotly.v1+json", "text/plain"}
    assert len(json.dumps(kept)) < 300_000


# --- live charts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    outputs: list[tuple[str, Any]] = []

    class Handle:
        def update(self, output: Any, raw: bool) -> None:
            assert raw
            outputs.append(("update", output))

    def display(output: Any, **options: Any) -> Handle:
        outputs.append(("new", output))
        return Handle()

    monkeypatch.setattr(figure_output, "show_output", display)
    return outputs


def first_bars(count: int) -> Frames:
    until = RUN.bars.index[count - 1]
    parts = {part.name: getattr(RUN, part.name) for part in fields(RUN) if part.name not in ("instrument", "beginning")}
    return replace(RUN, **{name: frame[frame.index <= until] for name, frame in parts.items()})


def test_a_recorded_chart_is_one_output_with_its_last_state(shown: list[tuple[str, Any]]) -> None:
    chart = LiveChart(is_recorded=True)
    for count in (50, 100, 150):
        chart.draw(charts.price_chart(first_bars(count), CONFIG))
    assert [kind for kind, _ in shown] == ["new", "update", "update"]
    (bars,) = (part for part in shown[-1][1]["application/vnd.plotly.v1+json"]["data"] if part.get("name") == "bars")
    assert len(bars["hovertext"]) == 150


def test_a_chart_at_the_screen_is_one_widget_whose_figure_changes(shown: list[tuple[str, Any]]) -> None:
    for draw in (charts.price_chart, charts.equity_chart):
        shown.clear()
        chart = LiveChart(is_recorded=False)
        for count in (1, 50, 300):
            expected = draw(first_bars(count), CONFIG)
            chart.draw(expected)
            ((kind, widget),) = shown
            assert kind == "new"
            assert json.loads(widget.figure) == json.loads(expected.to_json())


def test_the_axes_of_money_name_their_unit() -> None:
    """Drawdown had none, nor had the net of a heat map."""
    assert "USDT" in charts.equity_chart(RUN, CONFIG).layout.yaxis2.title.text
    frame = pd.DataFrame({"x": [1, 2], "y": [3, 4], "net": [5.0, 6.0]})
    assert heat_map(frame, "x", "y", "net", "USDT").data[0].colorbar.title.text == "net, USDT"
