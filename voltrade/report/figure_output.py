"""Shows figures: in a notebook, in a running session, and as part of an HTML page."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
from IPython.display import display as show_output
from plotly.offline import get_plotlyjs

from voltrade.report.plot_widget import PlotWidget

_MIMETYPE = "application/vnd.plotly.v1+json"


def bundle(figure: go.Figure) -> dict[str, Any]:
    """Return a figure as a notebook output that JupyterLab draws without a kernel."""
    title = figure.layout.title.text or "chart"
    return {_MIMETYPE: json.loads(figure.to_json()), "text/plain": f"<chart: {title}>"}


def page_script() -> str:
    """Return the script element with plotly, which an HTML page needs once; it works without a network."""
    return f"<script>{get_plotlyjs()}</script>"


def page_figure(figure: go.Figure, name: str) -> str:
    """Return a figure as HTML for a page with `page_script`; `name` is the id of the element."""
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True}
    )
    return text


def show(figure: go.Figure) -> None:
    """Show a figure in the notebook, in a form that is saved with it."""
    show_output(bundle(figure), raw=True)  # type: ignore[no-untyped-call]


class LiveChart:
    """A chart in one notebook output that is redrawn while a session runs.

    It is a widget for a user at the screen. In a notebook that papermill executes, it is a plain output: a widget would
    not be saved, while a plain output doesn't redraw on a screen.

    Args:
        is_recorded: whether papermill executes the notebook.
    """

    def __init__(self, is_recorded: bool) -> None:
        self._is_recorded = is_recorded
        self._handle: Any = None
        self._widget: PlotWidget | None = None

    def draw(self, figure: go.Figure) -> None:
        """Show a figure instead of the one before."""
        if self._is_recorded:
            self._draw_bundle(figure)
            return
        is_new, self._widget = self._widget is None, self._widget or PlotWidget()
        self._widget.draw(figure)
        if is_new:
            show_output(self._widget)  # type: ignore[no-untyped-call]

    def _draw_bundle(self, figure: go.Figure) -> None:
        if self._handle is None:
            self._handle = show_output(bundle(figure), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle(figure), raw=True)
