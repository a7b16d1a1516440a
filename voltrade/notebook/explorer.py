"""The explorer: turn a setting, and see bars, signals, round trips and equity of a whole tape drawn anew.

What is drawn is what `backtest` would do with the same settings, by the same compiled loop. Controls are made from the
settings' own fields, a rule file's included; what the settings refuse stands beside the control that it is about, and
the figure stays at the last that was allowed. A `%%rule` cell changes the rule. Saved parameters are a file that the
live notebook takes as it is. This room and `session` are the only ones that know widgets.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from voltrade.compiled import Rows
from voltrade.config import RECORDED, BarSettings, Config, Settings, SignalSettings
from voltrade.data.tape import Tape
from voltrade.data.tape_profile import threshold_near, traded
from voltrade.errors import ConfigError, VoltradeError
from voltrade.notebook.rule_cell import RuleCell, how_to_save, is_draft
from voltrade.notebook.widgets import COMPONENTS, ROUNDING, Dial, dials_of
from voltrade.records import REFUSAL, SIGNAL
from voltrade.report.chart_style import MAX_BARS, title_of
from voltrade.report.figure_output import bundle, show
from voltrade.report.frames import Frames
from voltrade.report.html import frame_table, shortened
from voltrade.report.plot_widget import PlotWidget
from voltrade.report.research_chart import ResearchChart
from voltrade.report.statistics import CountedBars, Statistics, statistics
from voltrade.research import loop_records
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.compiled_session import Tables
from voltrade.research.loop_frames import frames_of_tables
from voltrade.research.prepared_tape import Research
from voltrade.runs.listing import project_root
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import RuleFile, load_rule, read_parameters

PAGES = (500, 1_000, 2_000, MAX_BARS)
"""Candles that can be drawn at once."""

FEWEST_BARS, MOST_BARS = 20, 200_000
"""Bars that the whole tape makes at the ends of the threshold's slider."""

THRESHOLD_STEP = 0.02
"""A step of that slider, as a logarithm: about a twentieth more."""

EPOCH = "explorer"
"""Stands in the client order ids."""

_WRONG = "color:#a4243b;line-height:1.3"
_SPINNER = "<i class='fa fa-spinner fa-spin'></i> drawing"


# --- controls --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """The places of a slider, whole numbers from 0, and the values that they stand for."""

    low: float
    high: float
    step: float

    @property
    def last(self) -> int:
        """The last place."""
        return max(0, math.ceil((self.high - self.low) / self.step - ROUNDING))

    def place_of(self, value: float) -> int:
        """The place nearest to a value."""
        return round((min(max(value, self.low), self.high) - self.low) / self.step)

    def value_at(self, place: int) -> float:
        return round(min(self.low + place * self.step, self.high), max(0, -math.floor(math.log10(self.step))))


@dataclass(frozen=True, slots=True)
class ThresholdScale(Scale):
    """Places whose thresholds grow by ratio; `low`, `high` and `step` are logarithms."""

    near: Callable[[float], float]

    def place_of(self, value: float) -> int:
        return Scale.place_of(self, math.log10(value) if value > 0 else self.low)

    def value_at(self, place: int) -> float:
        return self.near(10.0 ** min(self.low + place * self.step, self.high))


class Control:
    """One setting: a slider with a box for exact numbers, a switch or a choice; and what is wrong with it.

    Attributes:
        wrong: what is shown to be wrong.
        slider: of a number; it stands on the place that is nearest to the value. Its bounds are places too and never
            move, so whatever place the page sends is a person's turn.

    Args:
        changed: is told the setting's name when its value has changed.
        scale: of the slider; by default the dial's own range.
    """

    def __init__(self, dial: Dial, value: Any, changed: Callable[[str], None], scale: Scale | None = None) -> None:
        self.dial = dial
        self._scale = scale or Scale(dial.low, dial.high, dial.step or 1)
        self._place = 0
        self._box = _box(dial, value)
        self.slider = _slider(self._scale.last) if dial.kind in ("whole", "number") else None
        self.wrong = ""
        self._note = widgets.HTML(layout={"display": "none"})
        label = (
            f"<span title='{escape(dial.description, quote=True)}' style='font-size:12px'>{escape(dial.name)}</span>"
        )
        parts = [widgets.HTML(label, layout={"width": "164px"}), *([self.slider] if self.slider else []), self._box]
        self.view = widgets.VBox([widgets.HBox(parts), self._note])
        self._follow()
        self._box.observe(lambda change: self._on_box(changed), "value")
        if self.slider is not None:
            self.slider.observe(lambda change: self._on_slider(change["new"]), "value")

    @property
    def value(self) -> Any:
        """The setting as it stands in the box; to set it is what a hand would do."""
        return self._box.value

    @value.setter
    def value(self, value: Any) -> None:
        self._box.value = value

    def tell(self, wrong: str) -> None:
        """Show what is wrong with the setting; an empty text takes it away."""
        self.wrong = wrong
        self._note.value = f"<div style='{_WRONG}'>{escape(wrong)}</div>" if wrong else ""
        self._note.layout.display = None if wrong else "none"

    def rescale(self, scale: Scale, value: float) -> None:
        """Let the slider's places, as many as before, stand for other values, and take one of them."""
        assert scale.last == self._scale.last, "a page whose slider's bounds move sends a place back that nobody turned"
        self._scale = scale
        self._box.value = value
        self._follow()

    def _on_box(self, changed: Callable[[str], None]) -> None:
        self._follow()
        changed(self.dial.name)

    def _on_slider(self, place: int) -> None:
        if place != self._place:
            self._place = place
            self._box.value = self._value_at(place)

    def _value_at(self, place: int) -> float:
        value = self._scale.value_at(place)
        return int(value) if self.dial.kind == "whole" else value

    def _follow(self) -> None:
        """Put the slider on the place nearest to what stands in the box."""
        if self.slider is None or not math.isfinite(self._box.value):
            return
        self._place = self._scale.place_of(self._box.value)
        self.slider.value = self._place


def _box(dial: Dial, value: Any) -> Any:
    if dial.kind == "switch":
        return widgets.Checkbox(value=value, indent=False, layout={"width": "40px"})
    if dial.kind == "choice":
        return widgets.Dropdown(options=dial.choices, value=value, layout={"width": "196px"})
    return (widgets.IntText if dial.kind == "whole" else widgets.FloatText)(
        value=value, step=dial.step, layout={"width": "84px"}
    )


def _slider(last: int) -> Any:
    return widgets.IntSlider(min=0, max=last, readout=False, layout={"width": "108px"})


# --- a tape traded with some settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Traded:
    """What some settings came to on the whole tape."""

    config: Config
    bars: Rows
    decisions: Rows
    tables: Tables
    why: str
    """Why there are no trades, where the compiled loop gave up; bars and signals are there all the same."""
    rule_sha256: str
    """Of the rule file as it was; empty for the built-in rule."""

    @property
    def counted(self) -> CountedBars:
        """What statistics tell of all bars, whatever page of them is shown."""
        bars = self.bars[self.tables.first_bar : self.tables.bars]
        signals = np.count_nonzero(self.decisions["signal"][self.tables.first_bar : self.tables.bars])
        return CountedBars(len(bars), int(signals), bars["open_time"][:1].tolist(), bars["close_time"][-1:].tolist())


def trade(research: Research, config: Config) -> Traded:
    """Trade a tape with some settings, in compiled code alone.

    Raises:
        ConfigError: the settings are impossible for the symbol, or the rule file is broken.
        DataError: the tape is of another symbol, or has no trade from `begin_s` on.
    """
    research.check(config)
    sha256 = _sha256_of(config.session.rule)
    bars, decisions = research.bars(config.bars).rows, research.decisions(config)
    tables, why = research.trade(config, research.signals(decisions), research.span(config.session.begin_s))
    return Traded(config, bars, decisions, tables or _without_trades(len(bars)), why, sha256)


def _sha256_of(rule: str) -> str:
    return RuleFile.named(rule).sha256 if rule else ""


def _without_trades(bars: int) -> Tables:
    rows = {name: np.empty(0, dtype) for name, dtype in loop_records.TABLES.items()}
    signals, refusals = np.empty(0, SIGNAL), np.empty(0, REFUSAL)
    return Tables(bars, first_bar=0, wallet=0, signals=signals, refusals=refusals, **rows)


# --- the explorer ----------------------------------------------------------------------------------------------------


class Explorer:
    """Controls, a figure and statistics over one tape; it shows itself in a notebook.

    Attributes:
        controls: by the settings' names.
        traded: what is drawn.
        chart: how it is drawn.
        plot: shows the chart in every view; None where the notebook is being recorded.
        rule_cell: what `%%rule` does.
        view: all of it as a widget.

    Args:
        tape: trades of one symbol, or a research of them.
        config: where to begin; by default the defaults.
        parameters_file: where parameters are saved, and the file in use that they are compared with.
        page_bars: candles drawn at once, one of `PAGES`.

    Raises:
        ConfigError: the settings are impossible for the tape's symbol, or their rule is broken.
        DataError: the tape is empty or goes back in time.
    """

    def __init__(
        self, tape: Tape | Research, config: Config | None = None, *, parameters_file: str = "", page_bars: int = 1_000
    ) -> None:
        self.research = tape if isinstance(tape, Research) else Research(tape)
        self.instrument, symbol = self.research.instrument, self.research.instrument.symbol
        config = config or Config.from_parameters(symbol=symbol)
        if config.session.symbol != symbol:
            raise ConfigError(f"symbol: must be that of the tape, {symbol}, was {config.session.symbol}")
        if page_bars not in PAGES:
            raise ConfigError(f"page_bars: must be one of {PAGES}, was {page_bars}")
        trades = self.research.tape.trades
        self._totals = {unit: traded(trades, self.instrument, unit) for unit in ("base", "quote", "trades")}
        self._most_bars = max(min(MOST_BARS, len(trades) / 5), 2 * FEWEST_BARS)
        self._threshold_steps = math.ceil(math.log10(self._most_bars / FEWEST_BARS) / THRESHOLD_STEP)
        self._alike: dict[str, Decimal] = {}  # by unit, thresholds that make about as many bars
        self._is_recorded = bool(os.environ.get(RECORDED))
        self._is_set_by_us = False
        self._settings_type: type[Settings] | None = None
        self._edge: tuple[BarSettings, int, int] | None = None  # of which bars, the page's end, when its last closed
        self.rule_cell = RuleCell(self.use_rule)
        self.controls: dict[str, Control] = {}
        self._heading, self._status, self._statistics = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._settings = widgets.VBox()
        self.plot = None if self._is_recorded else PlotWidget()
        if self.plot is not None:
            self.plot.on_click(self._on_click)
        self._pager = _Pager(page_bars, self.turn_pages)
        self.saver = _Saver(parameters_file or f"parameters/{symbol.lower()}.json", self.difference, self.save)
        self.view = self._lay_out()
        self.traded = trade(self.research, config)
        self.chart = ResearchChart(self._frames())
        with self._timed():
            self._adopt(self.traded)
        self.rule_cell.register()

    @property
    def config(self) -> Config:
        """The settings that are drawn."""
        return self.traded.config

    @property
    def statistics(self) -> Statistics:
        """Figures of the whole tape on calendar time, as those of a backtest."""
        return statistics(self._frames(), self.traded.counted)

    @property
    def status(self) -> str:
        """What the status line says, as HTML."""
        return str(self._status.value)

    @property
    def page_bars(self) -> int:
        """Candles drawn at once, one of `PAGES`."""
        return self._pager.page_bars

    @page_bars.setter
    def page_bars(self, bars: int) -> None:
        self._pager.page_bars = bars

    def backtest(self) -> Backtest:
        """The same settings as a backtest, with all its tables."""
        return backtest(self.research, self.config)

    def picture(self) -> None:
        """Show the figure as it is now in a form that stays in the notebook's record."""
        show(self.chart.figure)

    def use_rule(self, name: str) -> None:
        """Draw with another rule, such as `rules/adx.py:Adx`, or with the built-in one; what both can be set to stays.

        Raises:
            ConfigError: the rule file isn't there, or is broken. What was drawn stays.
        """
        with self._timed():
            self._adopt(trade(self.research, read_parameters(self._parameters_for(name), rule=name)))
            self._tell("", "")

    # --- parameters --------------------------------------------------------------------------------------------------

    def difference(self, path: str = "") -> pd.DataFrame:
        """What these settings change in a parameters file that is there; without one, in the defaults.

        Raises:
            ConfigError: a control shows what is refused, or the file was edited since it was saved.
        """
        self._refuse_what_is_refused()
        name = path or self.saver.path
        saved = parameter_file.read(name) if _place(name).exists() else None
        columns = ["parameter", "default" if saved is None else name, "explorer"]
        rows = parameter_file.difference(self.config, saved, self.traded.rule_sha256)
        return pd.DataFrame(rows, columns=columns, dtype=object).set_index("parameter")

    def save(self, path: str = "") -> Path:
        """Write the settings to a parameters file and return where it is.

        Raises:
            ConfigError: a control shows what is refused; or the rule is a cell's that was never saved, or was edited
                since it was drawn; or the file was edited since it was saved.
        """
        self._refuse_what_is_refused()
        name, rule = path or self.saver.path, self.config.session.rule
        if is_draft(rule):
            raise ConfigError(f"rule: must be saved before parameters can name it: {how_to_save(rule)}")
        if _sha256_of(rule) != self.traded.rule_sha256:
            raise ConfigError(f"rule: must be as it was drawn, {rule} was edited since: turn something to draw it anew")
        if _place(name).exists():
            parameter_file.read(name)
        parameter_file.write(_place(name), self.config, self.traded.rule_sha256)
        return _place(name)

    def _refuse_what_is_refused(self) -> None:
        """Refuse to save while a control shows other than what was traded.

        Raises:
            ConfigError: names every such control.
        """
        wrong = [f"{name}: {control.wrong}" for name, control in self.controls.items() if control.wrong]
        if wrong:
            raise ConfigError("\n".join(["nothing is saved while a control shows what is refused:", *wrong]))

    # --- when something is turned ------------------------------------------------------------------------------------

    def _on_setting(self, name: str) -> None:
        """Trade and draw with the controls as they stand; where that can't be, keep the figure and say why."""
        if self._is_set_by_us:
            return
        try:
            with self._timed():
                if name == "unit":
                    self._keep_number_of_bars()
                self._adopt(trade(self.research, self._read()))
                self._tell("", name)
        except Exception as error:  # a rule of one's own may fail in any way
            said = str(error) if isinstance(error, VoltradeError) else f"{type(error).__name__}: {error}"
            self._tell(said, name)
            self._status.value = f"<span style='{_WRONG}'>not drawn: {escape(said)}</span>"

    def _read(self) -> Config:
        """The settings as the controls stand; those of a rule file that was edited meanwhile are its new ones."""
        rule = self.config.session.rule
        if load_rule(rule).settings_type is type(self.config.signals):
            return self.config.changed(**{name: control.value for name, control in self.controls.items()})
        return read_parameters(self._parameters_for(rule))

    def _parameters_for(self, rule: str) -> dict[str, Any]:
        """The parameters as the controls stand, but a rule's own settings only where another rule takes them.

        That is where it has a setting of this name and kind, and it was turned: else it has the rule's own default.
        """
        fields, wanted = type(self.config.signals).model_fields, load_rule(rule).settings_type.model_fields
        turned = {name: control.value for name, control in self.controls.items()}
        values = {**self.config.parameters(), **turned}
        for name in set(fields) - set(SignalSettings.model_fields):
            is_same = name in wanted and wanted[name].annotation == fields[name].annotation
            if not is_same or values[name] == fields[name].get_default(call_default_factory=True):
                del values[name]
        return values

    def _tell(self, wrong: str, name: str) -> None:
        """Show what is wrong beside every control that it names, or beside the one that was turned."""
        lines: dict[str, list[str]] = {}
        for line in filter(None, wrong.replace("settings: ", "").split("; ")):
            for named in set(re.findall(r"\w+", line)) & set(self.controls) or {name}:
                lines.setdefault(named, []).append(line)
        for setting, control in self.controls.items():
            control.tell(" ".join(lines.get(setting, [])))

    def _keep_number_of_bars(self) -> None:
        """Take, in another unit, the threshold that makes about as many bars: that unit's own, where it had one."""
        unit, bars = self.controls["unit"].value, self.config.bars
        if self._alike.get(bars.unit) != bars.threshold:  # it was turned since
            self._alike = {bars.unit: bars.threshold}
        if unit not in self._alike:
            amount = float(bars.threshold) / self._totals[bars.unit] * self._totals[unit]
            self._alike[unit] = threshold_near(amount, self.instrument, unit)
        with self._by_us():
            self.controls["threshold"].rescale(self._thresholds(unit), float(self._alike[unit]))

    def _thresholds(self, unit: str) -> ThresholdScale:
        low = math.log10(self._totals[unit] / self._most_bars)
        high = low + self._threshold_steps * THRESHOLD_STEP
        near = lambda amount: float(threshold_near(amount, self.instrument, unit))  # noqa: E731
        return ThresholdScale(low, high, THRESHOLD_STEP, near)

    def turn_pages(self, pages: int) -> None:
        """Show the page so many pages newer, or older for a negative number."""
        end, count = self._page().stop + pages * self.page_bars, self.traded.tables.bars
        self._show_until(min(max(end, self.page_bars), count))

    def _show_until(self, end: int) -> None:
        """Show the page whose last bar is the one before this number."""
        is_newest = end >= self.traded.tables.bars
        self._edge = None if is_newest else (self.config.bars, end, int(self.traded.bars["close_time"][end - 1]))
        with self._timed():
            self._draw()

    def _on_click(self, trace: int, time: float) -> None:
        """Show the bars around the time at which the equity was clicked at."""
        if self.chart.is_equity(trace):
            closed = self.traded.bars["close_time"][: self.traded.tables.bars]
            at = int(np.searchsorted(closed, time))
            self._show_until(max(at + self.page_bars // 2, self.page_bars))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _adopt(self, new: Traded) -> None:
        """Draw what was traded; a rule with other settings or indicators gets other controls, or another figure.

        Where that fails, what was drawn before stands, with its controls.
        """
        before, self.traded = self.traded, new
        try:
            self._follow_rule()
            self._draw()
        except BaseException:
            self.traded = before
            self._follow_rule()
            raise
        self.saver.forget()

    def _follow_rule(self) -> None:
        """Make the controls anew where the rule has other settings than they are for."""
        if type(self.config.signals) is not self._settings_type:
            self._make_controls()

    def _draw(self) -> None:
        run, page, count = self._frames(), self._page(), self.traded.tables.bars
        opens = self.traded.bars["open_time"][page.stop : page.stop + 1]
        until = pd.Timestamp(int(opens[0]), unit="ms", tz="UTC") if page.stop < count else None
        shown = f"bars {page.start:,} to {page.stop - 1:,} of {count:,}" if count else "no bar was closed"
        if not self.chart.fits(run):
            self.chart = ResearchChart(run)
        title = title_of(run, self.config, self.research.tape.synthetic)
        bars = self.config.bars
        zoomed = f"{bars.unit} {bars.threshold.normalize()} {bars.anchor}: {page.start} to {page.stop}"
        self.chart.draw(run, title, shown, until, bars=zoomed, config=self.config)
        if self.plot is not None:
            self.plot.draw(self.chart.figure)
        self._pager.tell(shown, is_oldest=page.start == 0, is_newest=until is None)
        self._statistics.value = _small(frame_table(statistics(run, self.traded.counted).table()))
        tape, rule = shortened(self.research.tape.source), shortened(self.config.session.rule or "built in")
        self._heading.value = f"<b>{tape}</b><br>rule: {rule}"

    def _frames(self) -> Frames:
        """The frames of the whole session, with the bars of the page."""
        done = self.traded
        return frames_of_tables(done.tables, self.instrument, done.bars, done.decisions, EPOCH, self._page())

    def _page(self) -> slice:
        """Numbers of the bars that are shown: up to the edge, or, of other bars, up to the one that closed then."""
        count, size, end = self.traded.tables.bars, self.page_bars, self.traded.tables.bars
        if self._edge:
            settings, end, closed = self._edge
            if settings != self.config.bars:
                end = int(np.searchsorted(self.traded.bars["close_time"][:count], closed, side="right"))
        end = min(max(end, size), count)
        return slice(max(0, end - size), end)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Turn the spinner meanwhile, then tell what was drawn and how long it took."""
        self._status.value = _SPINNER
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._status.value = f"<span style='{_WRONG}'>not drawn</span>"
            raise
        took, tables = time.perf_counter() - began, self.traded.tables
        counted = f"{tables.bars:,} bars · {self.traded.counted.signals:,} signals · {len(tables.trips):,} round trips"
        why = f" · <span style='{_WRONG}'>not traded: {escape(self.traded.why)}</span>" if self.traded.why else ""
        self._status.value = f"{counted} · {took:.2f} s{why}"

    @contextmanager
    def _by_us(self) -> Iterator[None]:
        """Change controls without drawing for each."""
        self._is_set_by_us = True
        try:
            yield
        finally:
            self._is_set_by_us = False

    # --- widgets -----------------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        """Make a control for every setting, with the values of now."""
        parts: list[Settings] = [getattr(self.config, name) for name in COMPONENTS]
        values = {name: getattr(part, name) for part in parts for name in type(part).model_fields}
        sections = dials_of(type(self.config.signals))
        thresholds = self._thresholds(self.config.bars.unit)
        self.controls = {
            dial.name: Control(
                dial,
                float(values[dial.name]) if dial.kind == "number" else values[dial.name],
                self._on_setting,
                thresholds if dial.name == "threshold" else None,
            )
            for dials in sections.values()
            for dial in dials
        }
        views = {name: [self.controls[dial.name].view for dial in dials] for name, dials in sections.items() if dials}
        bars = views.pop("bars")
        folded = widgets.Accordion([widgets.VBox(part) for part in views.values()])
        for number, name in enumerate(views):
            folded.set_title(number, "the rule's own" if name == "rule" else name)
        self._settings.children = [*bars, folded]
        self._settings_type = type(self.config.signals)

    def _lay_out(self) -> Any:
        left = widgets.VBox(
            [self._heading, self._settings, self.saver.view, self._statistics],
            layout={"flex": "0 0 384px", "margin": "0 12px 0 0"},
        )
        drawing = [self.plot] if self.plot is not None else []
        right = widgets.VBox([self._pager.view, self._status, *drawing], layout={"flex": "1 1 0", "min_width": "0"})
        return widgets.HBox([left, right], layout={"width": "100%"})

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self._is_recorded:
            return bundle(self.chart.figure)
        return self.view._repr_mimebundle_(**options)


_BUTTON = {"flex": "0 0 auto", "width": "84px"}


class _Pager:
    """Older and newer pages, and how large a page is."""

    def __init__(self, page_bars: int, turn: Callable[[int], None]) -> None:
        self._older = widgets.Button(description="older", icon="chevron-left", layout=_BUTTON)
        self._newer = widgets.Button(description="newer", icon="chevron-right", layout=_BUTTON)
        self._text = widgets.HTML()
        self._size = widgets.Dropdown(
            options=[(f"{bars:,} bars", bars) for bars in PAGES], value=page_bars, layout={"width": "110px"}
        )
        self._older.on_click(lambda button: turn(-1))
        self._newer.on_click(lambda button: turn(1))
        self._size.observe(lambda change: turn(0), "value")
        self.view = widgets.HBox([self._older, self._newer, self._size, self._text])

    @property
    def page_bars(self) -> int:
        return int(self._size.value)

    @page_bars.setter
    def page_bars(self, bars: int) -> None:
        self._size.value = bars

    def tell(self, shown: str, is_oldest: bool, is_newest: bool) -> None:
        """Say which bars are shown, and whether there are older or newer ones."""
        self._text.value = escape(shown)
        self._older.disabled, self._newer.disabled = is_oldest, is_newest


class _Saver:
    """Saves parameters to a file, after what that changes has been shown."""

    def __init__(self, path: str, difference: Callable[[str], pd.DataFrame], save: Callable[[str], Path]) -> None:
        self._path = widgets.Text(value=path, layout={"width": "214px"})
        self.ask = widgets.Button(description="Save parameters", icon="save", layout={"width": "160px"})
        self.write = widgets.Button(button_style="primary", layout={"width": "auto", "display": "none"})
        self.told = widgets.HTML()
        self._difference, self._save = difference, save
        self._path.observe(lambda change: self._show("", False), "value")
        self.ask.on_click(lambda button: self._on_ask())
        self.write.on_click(lambda button: self._on_write())
        self.view = widgets.VBox([widgets.HBox([self._path, self.ask]), self.told, self.write])

    @property
    def path(self) -> str:
        return str(self._path.value)

    def _on_ask(self) -> None:
        try:
            changes = self._difference(self.path)
        except VoltradeError as error:
            self._show(f"<span style='{_WRONG}'>{escape(str(error))}</span>", False)
            return
        against = changes.columns[0]
        said = _small(frame_table(changes.astype(str))) if len(changes) else f"the same as {escape(against)}"
        self.write.description = f"write {self.path}"
        self._show(said, True)

    def _on_write(self) -> None:
        try:
            place = self._save(self.path)
        except (VoltradeError, OSError) as error:
            self._show(f"<span style='{_WRONG}'>{escape(str(error))}</span>", False)
            return
        use = f"papermill notebooks/live.ipynb runs/today.ipynb -p parameters_file {self.path}"
        self._show(f"saved {escape(str(place))}<br><code>{escape(use)}</code>", False)

    def forget(self) -> None:
        """Take back a difference that was shown: what would be written is another now."""
        if self.write.layout.display is None:
            self._show("", False)

    def _show(self, told: str, can_write: bool) -> None:
        self.told.value = told
        self.write.layout.display = None if can_write else "none"


def _small(table: str) -> str:
    """A table whose rows stand close together."""
    style = ".voltrade-small td, .voltrade-small th {padding: 1px 8px 1px 0 !important; white-space: normal !important}"
    return f"<style>{style}</style><div class='voltrade-small' style='font-size:12px;line-height:1.3'>{table}</div>"


def _place(name: str) -> Path:
    """Where a parameters file is, or will be: as found from here upwards, else in the project's folder."""
    try:
        return parameter_file.found(name)
    except ConfigError:
        return project_root() / name
