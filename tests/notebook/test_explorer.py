"""The explorer draws what a backtest would do, whatever is turned, and says what is wrong where it is."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import papermill
import pytest
from ipywidgets import Widget
from support.sessions import run_engine

from voltrade import open_run
from voltrade.config import RECORDED, Config
from voltrade.core import GATES
from voltrade.data.tape import Tape, TapeReport, synthetic_trades
from voltrade.errors import ConfigError
from voltrade.notebook.explorer import Explorer
from voltrade.notebook.explorer_result import trade_tape
from voltrade.notebook.explorer_widgets import PAGES
from voltrade.notebook.papermill_engine import Refused
from voltrade.report.chart_style import MAX_BARS
from voltrade.report.html import frame_table, shortened
from voltrade.report.plot_widget import PlotWidget
from voltrade.report.research_chart import ResearchChart
from voltrade.research.backtest import backtest
from voltrade.research.prepared_tape import Research
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import read_parameters

ROOT = Path(__file__).resolve().parents[2]
BTCUSDT = shipped_instrument("BTCUSDT")


@pytest.fixture(scope="module")
def research() -> Research:
    return Research(synthetic_trades(BTCUSDT, seed=8, hours=26))


@pytest.fixture(autouse=True, scope="module")
def _no_page_listens() -> Iterator[None]:
    """Tell no page of the 1,400 widgets of an explorer: that they reach one, browser, notebooks and widgets test."""
    PlotWidget()  # makes what is shared with the plots of other tests, which a page is told of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Widget, "open", lambda widget: None)
        yield


@pytest.fixture
def explorer(research: Research, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explorer:
    """An explorer in a project of its own, of some 3,000 bars."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/adx.py").write_bytes((ROOT / "rules/adx.py").read_bytes())
    monkeypatch.chdir(tmp_path)
    return Explorer(research.fork(), page_bars=500)


def trace(explorer: Explorer, name: str) -> Any:
    return next(part for part in explorer.chart.figure.data if part.name == name)


def turn(explorer: Explorer, **settings: Any) -> None:
    """Turn controls as a hand does, one after the other."""
    for name, value in settings.items():
        explorer.controls[name].value = value


def check_drawn(explorer: Explorer) -> None:
    """What is drawn on the newest page is what a backtest with these settings did."""
    done = backtest(explorer.research, explorer.config)
    first = done.frames().bars["bar"].iloc[-explorer.page_bars]
    bars = done.frames().bars.set_index("bar").loc[first:]
    assert list(trace(explorer, "bars").x) == bars.index.to_list()
    assert list(trace(explorer, "bars").close) == bars["close"].to_list()
    since = done.round_trips[done.round_trips["closed"] >= bars["open_time"].iloc[0]]
    exits = [*trace(explorer, "exit, won").y, *trace(explorer, "exit, lost").y]
    assert sorted(exits) == sorted(since["exit_price"])
    assert trace(explorer, "equity").y[-1] == done.equity["equity"].iloc[-1]
    assert str(explorer.statistics) == str(done.statistics)  # nan is nan
    assert f"{len(done.round_trips):,} round trips" in explorer.status


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"threshold": 25.0, "stop_atr": 1.5},
        {"unit": "trades", "threshold": 90.0, "use_rsi_filter": False, "cooldown_bars": 0},
        {"ema_fast": 3, "take_profit_atr": 0.0, "max_holding_bars": 7, "risk_fraction": 0.001, "taker_fee": 0.0002},
    ],
)
def test_it_draws_what_a_backtest_does(explorer: Explorer, settings: dict[str, Any]) -> None:
    turn(explorer, **settings)
    assert explorer.config == Config.from_parameters(settings)
    check_drawn(explorer)


def test_one_figure_changes_in_place(explorer: Explorer) -> None:
    figure, before = explorer.chart.figure, list(trace(explorer, "bars").close)
    turn(explorer, threshold=20.0)
    assert explorer.chart.figure is figure
    assert list(trace(explorer, "bars").close) != before
    assert "volume bars of 20 BTC" in figure.layout.title.text


def test_the_table_in_a_cell_is_of_the_settings_that_are_drawn(
    explorer: Explorer, research: Research, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A widget, which changes with the explorer; in a record, what it was when its cell was run."""
    table = explorer.table
    before = table.value
    turn(explorer, threshold=20.0)
    assert explorer.table is table
    assert table.value != before
    assert table.value.endswith(frame_table(explorer.statistics.table()))
    assert "rule: <span title='built in'>" in table.value
    monkeypatch.setenv(RECORDED, "1")
    recorded = Explorer(research.fork(), page_bars=500)
    shown = recorded.table.data
    turn(recorded, threshold=20.0)
    assert shown == before
    assert recorded.table.data == table.value


def test_levels_and_paths_belong_to_the_page(explorer: Explorer) -> None:
    explorer.page_bars = max(PAGES)
    trips = explorer.backtest().round_trips
    stops = trace(explorer, "stop").y.reshape(-1, 3)
    assert stops[:, 0].tolist() == trips["stop_price"].to_list()
    assert np.isnan(stops[:, 2]).all()
    shown = len(trace(explorer, "exit, won").x) + len(trace(explorer, "exit, lost").x)
    assert shown == len(trips) > 10


def test_a_long_wallet_is_drawn_with_all_its_steps(explorer: Explorer) -> None:
    turn(explorer, mark_interval_s=1)
    equity, drawn = explorer.backtest().equity, trace(explorer, "wallet")
    moments = equity.index.as_unit("ms").asi8
    at = np.searchsorted(drawn.x, moments, side="right") - 1
    is_last = np.append(moments[1:] != moments[:-1], True)
    assert (drawn.y[at] == equity["wallet"])[is_last].all()


def test_the_result_of_a_round_trip_that_ends_on_a_later_page_is_told(explorer: Explorer) -> None:
    trip = explorer.backtest().round_trips.iloc[-3]
    explorer._show_until(int(trip["bar"]) + 1)
    bars = trace(explorer, "bars")
    assert bars.x[-1] == trip["bar"]
    assert f"net {trip['net']:+,.2f}" in html.unescape(bars.hovertext[-1])


def test_every_bar_says_why_it_had_a_trade_or_none(explorer: Explorer) -> None:
    explorer.page_bars = max(PAGES)
    done, bars = explorer.backtest(), trace(explorer, "bars")
    said = dict(zip(bars.x.tolist(), map(html.unescape, bars.hovertext), strict=True))
    refused = done.refusals.set_index("bar")
    for bar in refused.index[::20]:
        assert f"refused: {refused.loc[bar, 'code']}, {refused.loc[bar, 'detail']}" in said[bar]
    for _, trip in done.round_trips.iterrows():
        assert "→ entry FILLED" in said[trip["bar"]]
        assert f"{trip['exit_reason']}</b>" in said[trip["bar"]]
        assert f"net {trip['net']:+,.2f}" in said[trip["bar"]]
    decisions = done.frames().decisions.set_index("bar")
    quiet = decisions[(decisions["signal"] == "") & decisions["ready"]]
    stopped = quiet[(quiet["ema_cross"] > 0) & ~quiet["vwap_long"]].index[0]
    assert said[stopped].startswith("no signal: ema_cross +1")
    assert "vwap_long no" in said[stopped]
    assert said[0] == "no signal, warming up"
    assert "no signal" in set(said.values())


def test_at_most_so_many_candles_are_drawn_and_it_says_which(explorer: Explorer) -> None:
    count = explorer.result.tables.bars
    assert max(PAGES) == MAX_BARS == 5_000
    assert f"bars {count - 500:,} to {count - 1:,} of {count:,}" in explorer.chart.figure.layout.title.text
    explorer.turn_pages(-1)
    assert list(trace(explorer, "bars").x) == list(range(count - 1_000, count - 500))
    explorer.turn_pages(1)
    explorer.turn_pages(1)
    assert trace(explorer, "bars").x[-1] == count - 1
    for _ in range(20):
        explorer.turn_pages(-1)
    assert list(trace(explorer, "bars").x) == list(range(500))
    with pytest.raises(ConfigError, match=r"page_bars: must be one of \(500, .*5000\), was 6000"):
        Explorer(explorer.research, page_bars=6_000)


def test_nothing_of_a_later_page_is_drawn(explorer: Explorer) -> None:
    for _ in range(20):
        explorer.turn_pages(-1)
    for name in ("long entry", "short entry", "exit, won", "exit, lost", "refused signal"):
        assert all(x <= 499.5 for x in trace(explorer, name).x)
    done = explorer.backtest()
    end = done.frames().bars["open_time"].iloc[500]
    entered = done.fills[(done.fills["purpose"] == "ENTRY") & (done.fills.index < end)]
    shown = len(trace(explorer, "long entry").x) + len(trace(explorer, "short entry").x)
    assert shown == entered["round_trip"].nunique()


def test_the_page_stays_at_its_time_when_bars_change(explorer: Explorer) -> None:
    explorer.turn_pages(-2)
    before = explorer.result.bars["close_time"][trace(explorer, "bars").x[-1]]
    turn(explorer, threshold=17.0)
    after = explorer.result.bars["close_time"][trace(explorer, "bars").x[-1]]
    assert after <= before < explorer.result.bars["close_time"][trace(explorer, "bars").x[-1] + 1]


def test_every_bar_can_be_paged_to_where_one_trade_closes_many(explorer: Explorer) -> None:
    turn(explorer, threshold=1.0)
    pages = -(-explorer.result.tables.bars // max(PAGES))
    assert (np.diff(explorer.result.bars["close_time"]) == 0).any()
    explorer.page_bars = max(PAGES)
    for _ in range(pages):
        explorer.turn_pages(-1)
    assert trace(explorer, "bars").x[0] == 0
    for _ in range(pages):
        explorer.turn_pages(1)
    assert trace(explorer, "bars").x[-1] == explorer.result.tables.bars - 1


def test_a_click_at_equity_leads_to_the_bars_of_that_time(explorer: Explorer) -> None:
    equity = trace(explorer, "equity")
    click(explorer, equity, len(equity.x) // 2)
    closed = explorer.result.bars["close_time"][trace(explorer, "bars").x]
    assert closed[0] < equity.x[len(equity.x) // 2] < closed[-1]


def click(explorer: Explorer, part: Any, at: int) -> None:
    """What a page sends when a point of a trace is clicked at, among others that stand there."""
    number = next(number for number, trace in enumerate(explorer.chart.figure.data) if trace is part)
    clicked = [[0, 3.0], [number, float(part.x[at])]]
    explorer.plot._handle_custom_msg({"clicked": clicked}, [])


def drawn(explorer: Explorer) -> dict[str, Any]:
    """What every view of the explorer shows."""
    shown: dict[str, Any] = json.loads(explorer.plot.figure)
    return shown


def test_whatever_is_turned_the_views_are_given_the_whole_figure(explorer: Explorer) -> None:
    """Fault case I2: a view that is opened later has nothing but this."""
    turns: list[Callable[[], None]] = [
        lambda: None,
        lambda: turn(explorer, threshold=20.0),
        lambda: explorer.turn_pages(-1),
        lambda: explorer.use_rule("rules/adx.py:Adx"),
        lambda: explorer.use_rule(""),
    ]
    for act in turns:
        act()
        assert drawn(explorer) == json.loads(explorer.chart.figure.to_json())


def test_a_zoom_is_kept_while_the_page_has_the_same_bars(explorer: Explorer) -> None:
    def zooms() -> list[str]:
        return [drawn(explorer)["layout"][f"{axis}axis"]["uirevision"] for axis in "xy"]

    before = zooms()
    turn(explorer, stop_atr=1.5)
    assert zooms() == before
    changes: list[Callable[[], None]] = [
        lambda: turn(explorer, threshold=20.0),
        lambda: explorer.turn_pages(-1),
        lambda: setattr(explorer, "page_bars", 1_000),
    ]
    seen = [before]
    for change in changes:
        change()
        assert zooms() not in seen
        seen.append(zooms())


def test_a_rules_own_equity_is_not_taken_for_the_accounts(explorer: Explorer) -> None:
    source = (ROOT / "rules/adx.py").read_text()
    renamed = source.replace('outputs=("adx",)', 'outputs=("equity",)').replace("decision.adx", "decision.equity")
    Path("rules/equity.py").write_text(renamed)
    explorer.use_rule("rules/equity.py:Adx")
    of_the_rule, of_the_account = (part for part in explorer.chart.figure.data if part.name == "equity")
    click(explorer, of_the_rule, 10)
    assert trace(explorer, "bars").x[-1] == explorer.result.tables.bars - 1
    click(explorer, of_the_account, len(of_the_account.x) // 2)
    assert trace(explorer, "bars").x[-1] < explorer.result.tables.bars - 1


def test_the_title_says_whether_the_tape_was_recorded(research: Research) -> None:
    recorded = Explorer(Research(replace(research.tape, synthetic=False)))
    assert "recorded tape" in recorded.chart.figure.layout.title.text
    assert "synthetic tape" in Explorer(research.fork()).chart.figure.layout.title.text


def test_another_unit_keeps_about_as_many_bars(explorer: Explorer) -> None:
    count = explorer.result.tables.bars
    for unit in ("quote", "trades", "base"):
        turn(explorer, unit=unit)
        assert explorer.config.bars.unit == unit
        assert explorer.result.tables.bars == pytest.approx(count, rel=0.05)


def test_a_threshold_that_no_bar_reaches_draws_nothing_and_says_so(explorer: Explorer) -> None:
    turn(explorer, anchor="continuous", threshold=1e6)
    assert "no bar was closed" in explorer.chart.figure.layout.title.text
    assert len(trace(explorer, "bars").x) == 0
    turn(explorer, threshold=10.0)
    assert len(trace(explorer, "bars").x) == 500


def test_a_band_of_bars_keeps_no_trade_away(explorer: Explorer) -> None:
    turn(explorer, least_bars_a_day=100.0, most_bars_a_day=200.0)
    assert explorer.config.bars.least_bars_a_day == 100
    check_drawn(explorer)
    assert explorer.statistics.round_trips > 0


def test_what_lies_before_begin_s_warms_up_as_in_a_backtest(research: Research) -> None:
    explorer = Explorer(research.fork(), Config.from_parameters(begin_s=40_000.0), page_bars=500)
    check_drawn(explorer)
    assert explorer.statistics.bars < Explorer(research.fork()).statistics.bars


def test_bars_and_signals_are_drawn_where_the_compiled_loop_gives_up(
    research: Research, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Research, "trade", lambda *given: (None, "a position was liquidated"))
    explorer = Explorer(research.fork(), page_bars=500)
    assert "not traded: a position was liquidated" in explorer.status
    assert len(trace(explorer, "bars").x) == 500
    assert len(trace(explorer, "exit, won").x) == 0
    assert explorer.statistics.signals > 0


# --- what can't be set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "rule", "beside"),
    [
        ("threshold", 0.0001, "must be a multiple of BTCUSDT's step 0.001, was 0.0001", {"threshold"}),
        ("threshold", -5.0, "should be greater than 0, was -5.0", {"threshold"}),
        ("ema_fast", 40, "ema_fast must be below ema_slow, were 40 and 21", {"ema_fast", "ema_slow"}),
        ("leverage", 900, "should be less than or equal to 125, was 900", {"leverage"}),
        ("stop_atr", 0.0, "should be greater than 0, was 0.0", {"stop_atr"}),
        ("stop_atr", float("nan"), "must be a finite number", {"stop_atr"}),
    ],
)
def test_what_is_wrong_stands_beside_its_control_and_the_figure_stays(
    explorer: Explorer, name: str, value: Any, rule: str, beside: set[str]
) -> None:
    before, drawn = explorer.config, list(trace(explorer, "bars").close)
    usual = explorer.controls[name].value
    turn(explorer, **{name: value})
    told = {setting: control.error for setting, control in explorer.controls.items() if control.error}
    assert set(told) == beside
    assert all(rule in wrong for wrong in told.values())
    assert "not drawn" in explorer.status
    assert explorer.config == before
    assert list(trace(explorer, "bars").close) == drawn
    turn(explorer, **{name: usual})
    assert not any(control.error for control in explorer.controls.values())
    check_drawn(explorer)


def test_what_a_rule_of_ones_own_fails_with_is_told_too(explorer: Explorer) -> None:
    failing = (ROOT / "rules/adx.py").read_text().replace("both > 0.0 else 0.0", "settings.adx_length != 9 else 1 / 0")
    Path("rules/failing.py").write_text(failing)
    explorer.use_rule("rules/failing.py:Adx")
    turn(explorer, adx_length=9)
    assert "ZeroDivisionError" in explorer.controls["adx_length"].error
    assert explorer.config.parameters()["adx_length"] == 14
    turn(explorer, adx_length=10)
    assert explorer.config.parameters()["adx_length"] == 10


def test_a_slider_stands_on_whole_places_and_the_box_keeps_its_exact_number(explorer: Explorer) -> None:
    control = explorer.controls["resume_after_s"]
    place = control.slider.value
    assert control.value == 14_400  # between the places of 14,000 and 15,000
    control.slider.value = place
    assert control.value == 14_400
    control.slider.value = place + 1
    assert control.value == explorer.config.risk.resume_after_s == 15_000


def test_the_threshold_turns_by_ratio_to_what_the_symbol_allows(explorer: Explorer) -> None:
    control = explorer.controls["threshold"]
    for _ in range(12):
        control.slider.value += 1
        assert not control.error
    assert control.value == pytest.approx(10 * 10 ** (12 * 0.02), rel=0.05)


def test_no_bound_of_a_slider_moves_so_that_a_page_has_nothing_to_clamp(explorer: Explorer) -> None:
    """A page that clamped a place to new bounds sent it back, and it was taken for a person's turn."""
    sliders = [control.slider for control in explorer.controls.values() if control.slider is not None]
    bounds = [(slider.min, slider.max, slider.step) for slider in sliders]
    for settings in ({"unit": "quote"}, {"unit": "trades"}, {"threshold": 1e9}, {"unit": "base"}, {"stop_atr": 1e3}):
        turn(explorer, **settings)
        assert [(slider.min, slider.max, slider.step) for slider in sliders] == bounds


def test_a_unit_keeps_its_own_threshold_until_another_number_of_bars_is_asked_for(explorer: Explorer) -> None:
    threshold = explorer.controls["threshold"]
    turn(explorer, threshold=10.0)
    place = threshold.slider.value
    turn(explorer, unit="quote")
    in_quote = threshold.value
    assert in_quote == pytest.approx(10 * explorer._totals["quote"] / explorer._totals["base"], rel=0.01)
    assert abs(threshold.slider.value - place) <= 1
    turn(explorer, unit="trades")
    turn(explorer, unit="base")
    assert threshold.value == explorer.config.bars.threshold == 10
    turn(explorer, unit="quote")
    assert threshold.value == in_quote
    turn(explorer, threshold=2 * in_quote)
    turn(explorer, unit="base")
    assert threshold.value == pytest.approx(20, rel=0.01)


def test_a_tape_of_another_symbol_is_refused(research: Research) -> None:
    with pytest.raises(ConfigError, match="symbol: must be that of the tape, BTCUSDT, was LTCUSDT"):
        Explorer(research, Config.from_parameters(symbol="LTCUSDT"))


# --- rules of one's own ----------------------------------------------------------------------------------------------


def test_a_rule_file_brings_its_controls_and_its_panel(explorer: Explorer) -> None:
    turn(explorer, threshold=17.0, stop_atr=3.0)
    explorer.use_rule("rules/adx.py:Adx")
    assert explorer.config == read_parameters(rule="rules/adx.py:Adx", threshold=17, stop_atr=3)
    assert (explorer.controls["adx_length"].value, explorer.controls["adx_least"].value) == (14, 25.0)
    assert trace(explorer, "adx").y[-1] == explorer.result.decisions["adx"][-1]
    turn(explorer, adx_length=7)
    check_drawn(explorer)
    explorer.use_rule("")
    assert explorer.config == Config.from_parameters(threshold=17, stop_atr=3)
    assert "adx_length" not in explorer.controls
    assert not [part for part in explorer.chart.figure.data if part.name == "adx"]


def test_a_rule_that_is_broken_leaves_all_as_it_was(explorer: Explorer) -> None:
    Path("rules/broken.py").write_text("import nothing_like_that")
    before = explorer.result
    with pytest.raises(ConfigError, match=r"rule: broken.py can't be run: ModuleNotFoundError"):
        explorer.use_rule("rules/broken.py:Broken")
    assert explorer.result is before
    turn(explorer, threshold=20.0)
    check_drawn(explorer)


def test_what_can_not_be_drawn_leaves_rule_and_controls_as_they_were(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*given: Any, **more: Any) -> None:
        raise RuntimeError("no picture")

    before = explorer.result
    with monkeypatch.context() as broken:
        broken.setattr(ResearchChart, "draw", draw)
        with pytest.raises(RuntimeError, match="no picture"):
            explorer.use_rule("rules/adx.py:Adx")
    assert explorer.result is before
    assert "adx_length" not in explorer.controls
    turn(explorer, threshold=20.0)
    check_drawn(explorer)


def test_settings_of_a_rules_own_stay_over_an_edit_if_they_were_turned_and_keep_their_kind(explorer: Explorer) -> None:
    def edit(**defaults: str) -> None:
        own = "".join(f"    {name}: {default}\n" for name, default in defaults.items())
        source = "from voltrade.config import SignalSettings\nfrom voltrade.signal_engine import SignalEngine\n"
        settings = f"class Settings(SignalSettings):\n{own}"
        Path("rules/own.py").write_text(f"{source}{settings}class Own(SignalEngine):\n    settings_type = Settings\n")
        explorer.use_rule("rules/own.py:Own")

    edit(turned="int = 3", changing="int = 3", left="int = 3", perhaps="int | None = 5")
    turn(explorer, turned=4, changing=4, perhaps=6)
    edit(turned="int = 8", changing="float = 0.5", left="int = 7", perhaps="int | None = 5")
    own = ("turned", "changing", "left", "perhaps")
    assert [explorer.config.parameters()[name] for name in own] == [4, 0.5, 7, 6]
    edit(turned="int = 8", changing="int = 2", left="int = 7", perhaps="int | None = 5")
    assert [explorer.controls[name].value for name in own] == [4, 2, 7, 6]
    turn(explorer, threshold=20.0)
    assert "round trips" in explorer.status


def test_a_rule_file_that_is_edited_meanwhile_is_drawn_as_it_stands(explorer: Explorer) -> None:
    explorer.use_rule("rules/adx.py:Adx")
    source = Path("rules/adx.py").read_text()
    Path("rules/adx.py").write_text(source.replace("adx_least", "adx_minimum"))
    turn(explorer, ema_fast=6)
    assert "adx_minimum" in explorer.controls
    assert "adx_least" not in explorer.controls
    check_drawn(explorer)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_are_saved_after_their_difference_was_shown(explorer: Explorer) -> None:
    turn(explorer, threshold=25.0, use_rsi_filter=False)
    assert explorer.difference().to_dict("index") == {
        "threshold": {"default": 10, "explorer": 25},
        "use_rsi_filter": {"default": True, "explorer": False},
    }
    assert explorer.save() == Path.cwd() / "parameters/btcusdt.json"
    assert read_parameters(parameters_file="parameters/btcusdt.json") == explorer.config
    turn(explorer, stop_atr=3.5)
    changes = explorer.difference()
    assert changes.to_dict("index") == {"stop_atr": {"parameters/btcusdt.json": 2.0, "explorer": 3.5}}
    explorer.save("parameters/other.json")
    assert read_parameters(parameters_file="parameters/other.json") == explorer.config


def test_the_buttons_do_the_same(explorer: Explorer) -> None:
    turn(explorer, stop_atr=3.5)
    saver = explorer.saver
    assert saver.write.layout.display == "none"  # nothing is written before the difference was seen
    saver.ask.click()
    assert "stop_atr" in saver.message.value.replace("<wbr>", "")
    assert not Path("parameters").exists()
    saver.write.click()
    assert read_parameters(parameters_file="parameters/btcusdt.json") == explorer.config
    assert "-p parameters_file parameters/btcusdt.json" in saver.message.value
    assert saver.write.layout.display == "none"


def test_a_difference_that_was_shown_is_taken_back_when_something_is_turned(explorer: Explorer) -> None:
    explorer.saver.ask.click()
    assert explorer.saver.write.layout.display is None
    turn(explorer, leverage=7)
    assert explorer.saver.write.layout.display == "none"
    assert explorer.saver.message.value == ""
    explorer.saver.ask.click()
    assert "leverage" in explorer.saver.message.value


def test_a_file_that_more_was_written_into_is_refused(explorer: Explorer) -> None:
    content = json.loads(explorer.save().read_text())
    Path("parameters/btcusdt.json").write_text(json.dumps({**content, "mode": "live", "on_interrupt": "carry_on"}))
    with pytest.raises(ConfigError, match=r"parameters_file: .* must be as it was saved, .* it was edited"):
        read_parameters(parameters_file="parameters/btcusdt.json")


def test_a_file_that_was_edited_is_neither_compared_with_nor_overwritten(explorer: Explorer) -> None:
    path = explorer.save()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stop_atr": 9.0}))
    edited = path.read_text()
    for refused in (explorer.difference, explorer.save):
        with pytest.raises(ConfigError, match=r"parameters_file: parameters/btcusdt.json: must be as it was saved"):
            refused()
    explorer.saver.ask.click()
    assert "must be as it was saved" in explorer.saver.message.value
    assert path.read_text() == edited


def test_a_session_trades_what_was_saved_and_nothing_that_was_edited(explorer: Explorer, tmp_path: Path) -> None:
    explorer.use_rule("rules/adx.py:Adx")
    turn(explorer, threshold=10.0, adx_least=15.0)
    saved = explorer.save()
    run_engine(tmp_path / "runs/today", parameters_file=str(saved), hours=6)
    run = open_run(tmp_path / "runs/today")
    assert parameter_file.saved_values(run.config) == parameter_file.saved_values(explorer.config)
    done = backtest(synthetic_trades(BTCUSDT, seed=8, hours=6), explorer.config)
    assert run.round_trips["net"].to_list() == done.round_trips["net"].to_list() != []
    saved.write_text(saved.read_text().replace('"adx_least": 15.0', '"adx_least": 16.0'))
    given, edited = {"parameters_file": str(saved)}, tmp_path / "runs/edited.ipynb"
    with pytest.raises(Refused, match=re.escape(f"{saved}: must be as it was saved")):
        papermill.execute_notebook(ROOT / "notebooks/live.ipynb", edited, given, progress_bar=False)
    assert not edited.with_suffix("").exists()


def test_a_rule_is_saved_with_its_hash(explorer: Explorer) -> None:
    explorer.use_rule("rules/adx.py:Adx")
    content = json.loads(explorer.save().read_text())
    assert content["rule"] == "rules/adx.py:Adx"
    assert len(content["rule_sha256"]) == 64
    assert parameter_file.read("parameters/btcusdt.json")["rule_sha256"] == content["rule_sha256"]


def test_only_the_rule_that_was_drawn_is_saved(explorer: Explorer) -> None:
    explorer.use_rule("rules/adx.py:Adx")
    before = json.loads(explorer.save().read_text())["rule_sha256"]
    source = Path("rules/adx.py").read_text()
    Path("rules/adx.py").write_text(source.replace("adx_least: float = 25.0", "adx_least: float = 25.5"))
    with pytest.raises(ConfigError, match=r"rule: must be as it was drawn, rules/adx.py:Adx was edited since"):
        explorer.save()
    turn(explorer, ema_fast=6)
    changes = explorer.difference().to_dict("index")
    assert changes["rule_sha256"]["parameters/btcusdt.json"] == before
    assert json.loads(explorer.save().read_text())["rule_sha256"] == changes["rule_sha256"]["explorer"] != before


# --- cells -----------------------------------------------------------------------------------------------------------

CELL = '''
from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine

class PressureSettings(SignalSettings):
    least_pressure: float = 0.6
    """Part of a bar's volume that takers must have bought, or sold."""

class Pressure(SignalEngine):
    """Enters with the takers."""

    settings_type = PressureSettings
    conditions = {"pressure": int}

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        bought = bar.taker_buy_volume / bar.volume
        decision.pressure = (bought >= settings.least_pressure) - (bought <= 1 - settings.least_pressure)
        return decision.pressure
'''


def test_a_cell_is_tried_out_and_drawn(explorer: Explorer, capsys: pytest.CaptureFixture[str]) -> None:
    explorer.rule_cell.run("Pressure", CELL)
    said = capsys.readouterr().out
    assert "Pressure: compiled and drawn in" in said
    assert "not saved: %%rule Pressure --save rules/pressure.py" in said
    control = explorer.controls["least_pressure"]
    assert control.spec.description == "Part of a bar's volume that takers must have bought, or sold."
    turn(explorer, least_pressure=0.7)
    check_drawn(explorer)
    assert list(Path("rules").iterdir()) == [Path("rules/adx.py")]
    with pytest.raises(
        ConfigError, match=r"rule: must be saved before parameters .*%%rule Pressure --save rules/pressure"
    ):
        explorer.save()


def test_a_cell_is_saved_when_it_works(explorer: Explorer, capsys: pytest.CaptureFixture[str]) -> None:
    explorer.rule_cell.run("Pressure --save rules/pressure.py", CELL)
    assert "saved: -p rule rules/pressure.py:Pressure" in capsys.readouterr().out
    assert Path("rules/pressure.py").read_text() == CELL
    assert explorer.config == read_parameters(rule="rules/pressure.py:Pressure")
    explorer.save()
    assert read_parameters(parameters_file="parameters/btcusdt.json") == explorer.config
    edited = CELL.replace("0.6", "0.65")
    explorer.rule_cell.run("Pressure --save rules/pressure.py", edited)
    assert Path("rules/pressure.py").read_text() == edited
    with pytest.raises(ConfigError, match="must be the one that the parameters were saved with"):
        read_parameters(parameters_file="parameters/btcusdt.json")


def test_a_rule_that_imports_a_neighbour_is_edited_in_a_cell_too(explorer: Explorer) -> None:
    Path("rules/limits.py").write_text("LEAST = 0.7\n")
    cell = CELL.replace("least_pressure: float = 0.6", "least_pressure: float = LEAST")
    cell = f"from limits import LEAST\n{cell}"
    Path("rules/pressure.py").write_text(cell)
    explorer.rule_cell.run("rules/pressure.py:Pressure")
    edited = cell.replace("bar.taker_buy_volume / bar.volume", "1 - bar.taker_buy_volume / bar.volume")
    explorer.rule_cell.run("Pressure --save rules/pressure.py --replace", edited)
    assert explorer.config.parameters()["least_pressure"] == 0.7
    assert Path("rules/pressure.py").read_text() == edited


@pytest.mark.parametrize(
    ("line", "cell", "rule"),
    [
        ("Pressure --save rules/pressure.py", CELL.replace("bar.volume", "bar.volume)"), "must be Python"),
        ("Pressure --save rules/pressure.py", CELL.replace("import SignalEngine", "import Nothing"), "can't be run"),
        ("Presure --save rules/pressure.py", CELL, "'Presure' must be a SignalEngine of pressure.py"),
        ("Pressure --save rules/pressure", CELL, "must be the path of a Python file"),
        ("Pressure --sav", CELL, "expected one argument"),
        ("Pressure --save 'rules", CELL, 'must close the quotes that it opens, was "Pressure --save \'rules"'),
        ("--save rules/pressure.py", CELL, "must name the class in the cell"),
    ],
)
def test_a_cell_that_does_not_work_saves_nothing_and_changes_nothing(
    explorer: Explorer, line: str, cell: str, rule: str
) -> None:
    before = explorer.config
    with pytest.raises(ConfigError, match=rule):
        explorer.rule_cell.run(line, cell)
    assert not Path("rules/pressure.py").exists()
    if "path of a Python file" not in rule:
        assert explorer.config == before


def test_a_file_that_someone_else_wrote_is_not_overwritten(explorer: Explorer) -> None:
    Path("rules/pressure.py").write_text("# an evening's work\n")
    with pytest.raises(ConfigError, match=r"rules/pressure.py holds what this notebook neither read nor wrote"):
        explorer.rule_cell.run("Pressure --save rules/pressure.py", CELL)
    assert Path("rules/pressure.py").read_text() == "# an evening's work\n"
    explorer.rule_cell.run("Pressure --save rules/pressure.py --replace", CELL)
    assert Path("rules/pressure.py").read_text() == CELL
    Path("rules/pressure.py").write_text(CELL + "\n# edited elsewhere\n")
    with pytest.raises(ConfigError, match="--replace overwrites it"):
        explorer.rule_cell.run("Pressure --save rules/pressure.py", CELL.replace("0.6", "0.7"))


class Shell:
    """What a notebook's kernel has for magics."""

    def __init__(self) -> None:
        self.magics: dict[str, Any] = {}
        self.next_input = ""

    def register_magic_function(self, function: Any, kind: str, name: str) -> None:
        assert kind == "line_cell"
        self.magics[name] = function

    def set_next_input(self, text: str) -> None:
        self.next_input = text


def test_a_notebook_has_the_magic_of_its_newest_explorer(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, research: Research
) -> None:
    shell = Shell()
    monkeypatch.setattr("voltrade.notebook.rule_cell.get_ipython", lambda: shell)
    newest = Explorer(research.fork(), page_bars=500)
    shell.magics["rule"]("rules/adx.py:Adx")
    assert newest.config.session.rule == "rules/adx.py:Adx"
    assert explorer.config.session.rule == ""
    source = Path("rules/adx.py").read_text()
    assert shell.next_input == f"%%rule Adx --save rules/adx.py\n{source}"
    line, _, cell = shell.next_input.removeprefix("%%rule ").partition("\n")
    shell.magics["rule"](line, cell.replace("adx_least: float = 25.0", "adx_least: float = 30.0"))
    assert "adx_least: float = 30.0" in Path("rules/adx.py").read_text()  # it was read here, so it may be written
    shell.magics["rule"]("")
    assert newest.config.session.rule == ""


# --- in a record -----------------------------------------------------------------------------------------------------


def test_a_recorded_explorer_is_a_picture(research: Research, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECORDED, "1")
    explorer = Explorer(research.fork(), page_bars=500)
    shown = explorer._repr_mimebundle_()
    assert set(shown) == {"application/vnd.plotly.v1+json", "text/plain"}
    turn(explorer, threshold=20.0)
    assert "volume bars of 20 BTC" in json.dumps(explorer._repr_mimebundle_())


def test_a_refusing_gate_that_was_never_seen_is_told_as_well(research: Research) -> None:
    """Whatever gates there are, their words come from the gate."""
    tape = Tape(research.tape.trades[:50_000], TapeReport(50_000, 50_000, 0, 1), "a part")
    done = trade_tape(
        Research(tape), Config.from_parameters(threshold=5, ema_fast=2, ema_slow=3, use_vwap_filter=False)
    )
    assert {GATES[gate].code for gate in done.tables.refusals["gate"]} >= {"WARMING_UP"}


@pytest.mark.parametrize("length", [20, 48, 49, 300])
def test_a_long_path_is_shortened_in_its_middle_and_shown_whole_when_pointed_at(length: int) -> None:
    """The heading's path of a rule was cut off at the edge of its column, with the class that it ended with."""
    path = f"a<b/{'x' * (length - 15)}.py:MyRule!"
    shown = shortened(path)
    assert f"title='{escape(path)}'" in shown
    text = unescape(shown.partition(">")[2].removesuffix("</span>"))
    assert len(text) == min(length, 48)
    assert text.endswith(".py:MyRule!"[-6:])
    assert text.startswith("a<b/")


def test_h4_what_the_tape_lacks_stands_in_the_heading_the_figures_and_the_chart(research: Research) -> None:
    """The chart is what a recorded explorer shows alone, in a page without widgets."""
    trades = research.tape.trades
    there = np.ones(len(trades), np.bool_)
    there[5_000 : 5_000 + len(trades) // 33] = False
    holed = replace(research.tape, trades=trades[there], source="with a hole", open_days=("2026-01-05 (begin)",))
    explorer = Explorer(Research(holed), page_bars=500)
    warning = "INCOMPLETE TAPE: without 3.0% of the trades"
    assert explorer.chart.figure.layout.title.text.startswith(f"{warning} · ")
    heading = unescape(explorer._heading.value)
    assert warning in heading
    part = len(trades) // 33 / len(trades)
    assert f"in 1 gaps ({part:.2%}); not known to be whole: 2026-01-05 (begin); mark = simulated" in heading
    assert "extrapolated: " in heading
    assert warning in explorer._statistics.value
    turn(explorer, threshold=80.0)
    assert explorer.chart.figure.layout.title.text.startswith(f"{warning} · ")


def test_the_heading_shows_the_end_of_a_long_rule_path(explorer: Explorer) -> None:
    assert "rule: <span title='built in'>built in</span>" in explorer._heading.value


def test_nothing_is_saved_while_a_control_shows_what_is_refused(explorer: Explorer) -> None:
    turn(explorer, leverage=500)
    assert explorer.controls["leverage"].error
    for refused in (explorer.difference, explorer.save):
        with pytest.raises(ConfigError, match="nothing is saved while a control shows what is refused:\nleverage: "):
            refused()
    explorer.saver.ask.click()
    assert "leverage" in explorer.saver.message.value
    assert not Path("parameters/btcusdt.json").exists()
