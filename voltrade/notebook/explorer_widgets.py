"""The explorer's page buttons and its form for saving parameters."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from voltrade.errors import VoltradeError
from voltrade.notebook.controls import ERROR_STYLE
from voltrade.report.chart_style import MAX_BARS
from voltrade.report.html import frame_table

PAGES = (500, 1_000, 2_000, MAX_BARS)
"""Page sizes: candles that are drawn at once."""

_BUTTON = {"flex": "0 0 auto", "width": "84px"}


class Pager:
    """Buttons for older and newer pages, and a choice of the page size."""

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
        """Candles on a page."""
        return int(self._size.value)

    @page_bars.setter
    def page_bars(self, bars: int) -> None:
        self._size.value = bars

    def show(self, shown: str, is_oldest: bool, is_newest: bool) -> None:
        """Show which bars are drawn, and disable the buttons at the ends."""
        self._text.value = escape(shown)
        self._older.disabled, self._newer.disabled = is_oldest, is_newest


class ParameterSaver:
    """Saves parameters to a file, after it has shown the changes."""

    def __init__(self, path: str, difference: Callable[[str], pd.DataFrame], save: Callable[[str], Path]) -> None:
        self._path = widgets.Text(value=path, layout={"width": "214px"})
        self.ask = widgets.Button(description="Save parameters", icon="save", layout={"width": "160px"})
        self.write = widgets.Button(button_style="primary", layout={"width": "auto", "display": "none"})
        self.message = widgets.HTML()
        self._difference, self._save = difference, save
        self._path.observe(lambda change: self._show("", False), "value")
        self.ask.on_click(lambda button: self._on_ask())
        self.write.on_click(lambda button: self._on_write())
        self.view = widgets.VBox([widgets.HBox([self._path, self.ask]), self.message, self.write])

    @property
    def path(self) -> str:
        """Path of the file."""
        return str(self._path.value)

    def _on_ask(self) -> None:
        try:
            changes = self._difference(self.path)
        except VoltradeError as error:
            self._show(f"<span style='{ERROR_STYLE}'>{escape(str(error))}</span>", False)
            return
        against = changes.columns[0]
        text = small_table(frame_table(changes.astype(str))) if len(changes) else f"the same as {escape(against)}"
        self.write.description = f"write {self.path}"
        self._show(text, True)

    def _on_write(self) -> None:
        try:
            place = self._save(self.path)
        except (VoltradeError, OSError) as error:
            self._show(f"<span style='{ERROR_STYLE}'>{escape(str(error))}</span>", False)
            return
        use = f"papermill notebooks/live.ipynb runs/today.ipynb -p parameters_file {self.path}"
        self._show(f"saved {escape(str(place))}<br><code>{escape(use)}</code>", False)

    def reset(self) -> None:
        """Hide the changes that are shown, because the parameters are others now."""
        if self.write.layout.display is None:
            self._show("", False)

    def _show(self, message: str, can_write: bool) -> None:
        self.message.value = message
        self.write.layout.display = None if can_write else "none"


def small_table(table: str) -> str:
    """Return an HTML table with small rows."""
    style = ".voltrade-small td, .voltrade-small th {padding: 1px 8px 1px 0 !important; white-space: normal !important}"
    return f"<style>{style}</style><div class='voltrade-small' style='font-size:12px;line-height:1.3'>{table}</div>"
