"""The explorer: controls for all settings, and a chart of bars, signals, round trips and equity of a whole tape.

It shows what `backtest` would do with the same settings, by the same compiled loop. Controls are made from the
fields of the settings, a rule file's included. An error is shown beside its control, and the chart keeps
the last valid settings. A `%%rule` cell changes the rule. Saved parameters are a file that the live notebook can use.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML

from voltrade.bar_spec import UNITS
from voltrade.config import RECORDED, BarSettings, Config, Settings, SignalSettings
from voltrade.data.symbol_threshold import symbol_threshold, threshold_of
from voltrade.data.tape import Tape
from voltrade.data.tape_profile import threshold_near, traded
from voltrade.errors import ConfigError, VoltradeError
from voltrade.notebook.control_specs import COMPONENTS, control_specs
from voltrade.notebook.controls import ERROR_STYLE, Control, ThresholdScale
from voltrade.notebook.explorer_result import ExplorerResult, rule_sha256, trade_tape
from voltrade.notebook.explorer_widgets import PAGES, Pager, ParameterSaver, small_table
from voltrade.notebook.rule_cell import RuleCell, how_to_save, is_draft
from voltrade.notebook.session_view import StartupLine
from voltrade.notebook.waiting import Waiting
from voltrade.report.chart_style import title_of
from voltrade.report.figure_output import bundle, show
from voltrade.report.frames import Frames
from voltrade.report.html import frame_table, shortened, warning_html
from voltrade.report.plot_widget import PlotWidget
from voltrade.report.research_chart import ResearchChart
from voltrade.report.statistics import Statistics, statistics
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.loop_frames import frames_of_tables
from voltrade.research.prepared_tape import Research
from voltrade.research.rests_on import extrapolated_text
from voltrade.runs.listing import project_root
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import load_rule, read_parameters

MIN_BARS, MAX_BARS = 20, 200_000
"""Bars of the whole tape at the ends of the threshold's slider."""

THRESHOLD_STEP = 0.02
"""Step of that slider, as a decimal logarithm: about 5 %."""

EPOCH = "explorer"
"""Part of the client order ids."""

_SPINNER = "<i class='fa fa-spinner fa-spin'></i> drawing"


# --- the explorer ----------------------------------------------------------------------------------------------------


class Explorer:
    """Controls, a chart and statistics of one tape; a notebook displays it as a widget.

    Attributes:
        controls: The controls by the settings' names.
        result: The bars, decisions and trades that are drawn.
        chart: The chart.
        plot: The widget of the chart; None while papermill executes the notebook.
        rule_cell: The `%%rule` magic.
        view: The whole explorer as a widget.

    Args:
        tape: Trades of one symbol, or a prepared tape.
        config: The first settings; by default the defaults.
        parameters_file: File to save parameters to; they are compared with it before.
        page_bars: Candles drawn at once, one of `PAGES`.

    Raises:
        ConfigError: The settings are impossible for the tape's symbol, or their rule is broken.
        DataError: The tape is empty or not in order of time.
    """

    def __init__(
        self, tape: Tape | Research, config: Config | None = None, *, parameters_file: str = "", page_bars: int = 1_000
    ) -> None:
        self.research = tape if isinstance(tape, Research) else Research(tape)
        self.instrument, symbol = self.research.instrument, self.research.instrument.symbol
        config = config or self._first_settings()
        if config.session.symbol != symbol:
            raise ConfigError(f"symbol: must be that of the tape, {symbol}, was {config.session.symbol}")
        if page_bars not in PAGES:
            raise ConfigError(f"page_bars: must be one of {PAGES}, was {page_bars}")
        trades, self._coverage = self.research.tape.trades, self.research.coverage()
        self._totals = {unit: traded(trades, self.instrument, unit) for unit in UNITS}
        self._most_bars = max(min(MAX_BARS, len(trades) / 5), 2 * MIN_BARS)
        self._threshold_steps = math.ceil(math.log10(self._most_bars / MIN_BARS) / THRESHOLD_STEP)
        self._equivalent: dict[str, Decimal] = {}  # by unit, thresholds that make about as many bars
        self._is_recorded = bool(os.environ.get(RECORDED))
        self._is_updating = False
        self._settings_type: type[Settings] | None = None
        self._edge: tuple[BarSettings, int, int] | None = None
        """Of an older page: bar settings, the number of the bar after it, and when its last bar closed."""
        self.rule_cell = RuleCell(self.use_rule)
        self.controls: dict[str, Control] = {}
        self._heading, self._status = widgets.HTML(), widgets.HTML()
        self._statistics, self._table = widgets.HTML(), widgets.HTML()
        self._settings = widgets.VBox()
        self.plot = None if self._is_recorded else PlotWidget()
        if self.plot is not None:
            self.plot.on_click(self._on_click)
        self._pager = Pager(page_bars, self.turn_pages)
        self.saver = ParameterSaver(parameters_file or f"parameters/{symbol.lower()}.json", self.difference, self.save)
        self.view = self._lay_out()
        with self._timed(StartupLine().update):
            self.result = trade_tape(self.research, config)
            self.chart = ResearchChart(self._frames())
            self._draw_result(self.result)
        self.rule_cell.register()

    def _first_settings(self) -> Config:
        """Return the default settings, with a threshold for the volume of this tape."""
        trades, defaults = self.research.tape.trades, Config.from_parameters(symbol=self.instrument.symbol)
        if self.research.tape.synthetic:
            return defaults.changed(threshold=symbol_threshold(defaults).threshold)
        return defaults.changed(threshold=threshold_of(trades, self.instrument, defaults).threshold)

    @property
    def config(self) -> Config:
        """The settings of the result."""
        return self.result.config

    @property
    def statistics(self) -> Statistics:
        """Statistics of the whole tape, as of a backtest."""
        return self._statistics_of(self._frames())

    @property
    def table(self) -> Any:
        """The statistics for a notebook's cell: they follow the explorer, so that both are always of the same settings.

        While papermill executes the notebook, they are those of now, as the pictures are.
        """
        if self._is_recorded:
            return HTML(self._table.value)  # type: ignore[no-untyped-call]
        return self._table

    def _statistics_of(self, run: Frames) -> Statistics:
        return replace(statistics(run, self.result.counted), warning=self._coverage.warning)

    @property
    def status(self) -> str:
        """The status line, as HTML."""
        return str(self._status.value)

    @property
    def page_bars(self) -> int:
        """Candles drawn at once, one of `PAGES`."""
        return self._pager.page_bars

    @page_bars.setter
    def page_bars(self, bars: int) -> None:
        self._pager.page_bars = bars

    def backtest(self) -> Backtest:
        """Run a backtest with the same settings, with all its tables."""
        return backtest(self.research, self.config)

    def picture(self) -> None:
        """Display the current chart as an output that is saved with the notebook."""
        show(self.chart.figure)

    def use_rule(self, name: str) -> None:
        """Use another rule, such as `rules/adx.py:Adx`, or the built-in one with an empty name; common settings stay.

        Raises:
            ConfigError: The rule file is missing or broken. The chart doesn't change then.
        """
        with self._timed(StartupLine().update):
            self._draw_result(trade_tape(self.research, read_parameters(self._parameters_for(name), rule=name)))
            self._show_errors("", "")

    # --- parameters --------------------------------------------------------------------------------------------------

    def difference(self, path: str = "") -> pd.DataFrame:
        """Return the differences from an existing parameter file; without one, from the defaults.

        Raises:
            ConfigError: A control shows an error, or the file was edited after it was saved.
        """
        self._refuse_errors()
        name = path or self.saver.path
        saved = parameter_file.read(name) if _path_of(name).exists() else None
        columns = ["parameter", "default" if saved is None else name, "explorer"]
        rows = parameter_file.difference(self.config, saved, self.result.rule_sha256)
        return pd.DataFrame(rows, columns=columns, dtype=object).set_index("parameter")

    def save(self, path: str = "") -> Path:
        """Write the settings to a parameter file and return its path.

        Raises:
            ConfigError: A control shows an error; the rule is from a cell and not saved, or was edited after it was
                drawn; or the file was edited after it was saved.
        """
        self._refuse_errors()
        name, rule = path or self.saver.path, self.config.session.rule
        if is_draft(rule):
            raise ConfigError(f"rule: must be saved before parameters can name it: {how_to_save(rule)}")
        if rule_sha256(rule) != self.result.rule_sha256:
            raise ConfigError(f"rule: must be as it was drawn, {rule} was edited since: turn something to draw it anew")
        if _path_of(name).exists():
            parameter_file.read(name)
        parameter_file.write(_path_of(name), self.config, self.result.rule_sha256)
        return _path_of(name)

    def _refuse_errors(self) -> None:
        """Refuse to save while a control shows an error, since its value was not traded.

        Raises:
            ConfigError: Names every such control.
        """
        errors = [f"{name}: {control.error}" for name, control in self.controls.items() if control.error]
        if errors:
            raise ConfigError("\n".join(["nothing is saved while a control shows what is refused:", *errors]))

    # --- changes by the user -----------------------------------------------------------------------------------------

    def _on_setting(self, name: str) -> None:
        """Trade and draw with the values of the controls; after an error, keep the chart and show the error."""
        if self._is_updating:
            return
        try:
            with self._timed():
                if name == "unit":
                    self._keep_number_of_bars()
                self._draw_result(trade_tape(self.research, self._read()))
                self._show_errors("", name)
        except Exception as error:  # a user's rule may fail in any way
            text = str(error) if isinstance(error, VoltradeError) else f"{type(error).__name__}: {error}"
            self._show_errors(text, name)
            self._status.value = f"<span style='{ERROR_STYLE}'>not drawn: {escape(text)}</span>"

    def _read(self) -> Config:
        """Return the settings of the controls; for a rule file that was edited meanwhile, with its new settings."""
        rule = self.config.session.rule
        if load_rule(rule).settings_type is type(self.config.signals):
            return self.config.changed(**{name: control.value for name, control in self.controls.items()})
        return read_parameters(self._parameters_for(rule))

    def _parameters_for(self, rule: str) -> dict[str, Any]:
        """Return the parameters of the controls for a rule, without settings that the rule doesn't have.

        A setting of the current rule is kept only if the other rule has one of the same name and type, and if its
        value was changed; otherwise the other rule uses its own default.
        """
        fields, wanted = type(self.config.signals).model_fields, load_rule(rule).settings_type.model_fields
        changed = {name: control.value for name, control in self.controls.items()}
        values = {**self.config.parameters(), **changed}
        for name in set(fields) - set(SignalSettings.model_fields):
            is_same = name in wanted and wanted[name].annotation == fields[name].annotation
            if not is_same or values[name] == fields[name].get_default(call_default_factory=True):
                del values[name]
        return values

    def _show_errors(self, text: str, name: str) -> None:
        """Show an error beside every control that it names, or beside the one that was changed."""
        lines: dict[str, list[str]] = {}
        for line in filter(None, text.replace("settings: ", "").split("; ")):
            for named in set(re.findall(r"\w+", line)) & set(self.controls) or {name}:
                lines.setdefault(named, []).append(line)
        for setting, control in self.controls.items():
            control.show_error(" ".join(lines.get(setting, [])))

    def _keep_number_of_bars(self) -> None:
        """After a change of the unit, set the threshold that makes about as many bars, or the earlier one."""
        unit, bars = self.controls["unit"].value, self.config.bars
        if self._equivalent.get(bars.unit) != bars.threshold:  # the threshold was changed
            self._equivalent = {bars.unit: bars.threshold}
        if unit not in self._equivalent:
            amount = float(bars.threshold) / self._totals[bars.unit] * self._totals[unit]
            self._equivalent[unit] = threshold_near(amount, self.instrument, unit)
        with self._updating():
            self.controls["threshold"].rescale(self._thresholds(unit), float(self._equivalent[unit]))

    def _thresholds(self, unit: str) -> ThresholdScale:
        low = math.log10(self._totals[unit] / self._most_bars)
        high = low + self._threshold_steps * THRESHOLD_STEP
        near = lambda amount: float(threshold_near(amount, self.instrument, unit))  # noqa: E731
        return ThresholdScale(low, high, THRESHOLD_STEP, near)

    def turn_pages(self, pages: int) -> None:
        """Show a newer page, or an older one for a negative number."""
        end, count = self._page().stop + pages * self.page_bars, self.result.tables.bars
        self._show_until(min(max(end, self.page_bars), count))

    def _show_until(self, end: int) -> None:
        """Show the page that ends before the bar with this number."""
        is_newest = end >= self.result.tables.bars
        self._edge = None if is_newest else (self.config.bars, end, int(self.result.bars["close_time"][end - 1]))
        with self._timed():
            self._draw()

    def _on_click(self, trace: int, time: float) -> None:
        """Show the bars around the time of a click on the equity."""
        if self.chart.is_equity(trace):
            closed = self.result.bars["close_time"][: self.result.tables.bars]
            at = int(np.searchsorted(closed, time))
            self._show_until(max(at + self.page_bars // 2, self.page_bars))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _draw_result(self, new: ExplorerResult) -> None:
        """Draw a result; for a rule with other settings or indicators, with new controls or a new figure.

        If that fails, the result before and its controls are kept.
        """
        before, self.result = self.result, new
        try:
            self._update_controls()
            self._draw()
        except BaseException:
            self.result = before
            self._update_controls()
            raise
        self.saver.reset()

    def _update_controls(self) -> None:
        """Make new controls if the rule has other settings."""
        if type(self.config.signals) is not self._settings_type:
            self._make_controls()

    def _draw(self) -> None:
        run, page, count = self._frames(), self._page(), self.result.tables.bars
        opens = self.result.bars["open_time"][page.stop : page.stop + 1]
        until = pd.Timestamp(int(opens[0]), unit="ms", tz="UTC") if page.stop < count else None
        shown = f"bars {page.start:,} to {page.stop - 1:,} of {count:,}" if count else "no bar was closed"
        if not self.chart.fits(run):
            self.chart = ResearchChart(run)
        warning = self._coverage.warning  # in the chart too, which is shown alone in a page
        title = f"{warning} · " * bool(warning) + title_of(run, self.config, self.research.tape.synthetic)
        bars = self.config.bars
        zoomed = f"{bars.unit} {bars.threshold.normalize()} {bars.anchor}: {page.start} to {page.stop}"
        self.chart.draw(run, title, shown, until, bars=zoomed, config=self.config)
        if self.plot is not None:
            self.plot.draw(self.chart.figure)
        self._pager.show(shown, is_oldest=page.start == 0, is_newest=until is None)
        table = frame_table(self._statistics_of(run).table())
        self._statistics.value = small_table(table)
        self._table.value = f"{self._what_is_drawn}{table}"
        self._show_heading()

    @property
    def _what_is_drawn(self) -> str:
        """The tape and the rule, as HTML."""
        tape, rule = shortened(self.research.tape.source), shortened(self.config.session.rule or "built in")
        return f"<b>{tape}</b><br>rule: {rule}"

    def _show_heading(self) -> None:
        """Show the tape, the rule, and what the figures rest on."""
        rests_on = f"{self._coverage.text}; {extrapolated_text(self.result.tables.extrapolated)}"
        lines = f"{self._what_is_drawn}{warning_html(self._coverage.warning)}"
        self._heading.value = f"{lines}<div style='font-size:85%;line-height:1.3'>{escape(rests_on)}</div>"

    def _frames(self) -> Frames:
        """Return the frames of the whole tape, with the bars of the page."""
        result = self.result
        return frames_of_tables(result.tables, self.instrument, result.bars, result.decisions, EPOCH, self._page())

    def _page(self) -> slice:
        """Return the numbers of the bars on the page; after a change of the bars, those of about the same time."""
        count, size, end = self.result.tables.bars, self.page_bars, self.result.tables.bars
        if self._edge:
            settings, end, closed = self._edge
            if settings != self.config.bars:
                end = int(np.searchsorted(self.result.bars["close_time"][:count], closed, side="right"))
        end = min(max(end, size), count)
        return slice(max(0, end - size), end)

    @contextmanager
    def _timed(self, show_line: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Show a spinner meanwhile, with the seconds of a long wait, then the counts and the time that it took.

        Args:
            show_line: Shows the line of a long wait in the output of the cell that waits.
        """
        self._status.value = _SPINNER
        began = time.perf_counter()

        def show_wait(text: str) -> None:
            self._status.value = f"{_SPINNER}: {escape(text)}"
            show_line(text)

        try:
            with Waiting("drawing", show_wait):
                yield
        except BaseException:
            self._status.value = f"<span style='{ERROR_STYLE}'>not drawn</span>"
            raise
        took, tables = time.perf_counter() - began, self.result.tables
        counted = f"{tables.bars:,} bars · {self.result.counted.signals:,} signals · {len(tables.trips):,} round trips"
        why = self.result.why_not_traded
        why = f" · <span style='{ERROR_STYLE}'>not traded: {escape(why)}</span>" if why else ""
        self._status.value = f"{counted} · {took:.2f} s{why}"

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """Change several controls without drawing after each."""
        self._is_updating = True
        try:
            yield
        finally:
            self._is_updating = False

    # --- widgets -----------------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        """Make a control for every setting, with its current value."""
        parts: list[Settings] = [getattr(self.config, name) for name in COMPONENTS]
        values = {name: getattr(part, name) for part in parts for name in type(part).model_fields}
        sections = control_specs(type(self.config.signals))
        thresholds = self._thresholds(self.config.bars.unit)
        self.controls = {
            spec.name: Control(
                spec,
                float(values[spec.name]) if spec.kind == "number" else values[spec.name],
                self._on_setting,
                thresholds if spec.name == "threshold" else None,
            )
            for specs in sections.values()
            for spec in specs
        }
        views = {name: [self.controls[spec.name].view for spec in specs] for name, specs in sections.items() if specs}
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


def _path_of(name: str) -> Path:
    """Return the path of a parameter file: an existing one in this folder or above, else in the project's folder."""
    try:
        return parameter_file.found(name)
    except ConfigError:
        return project_root() / name
