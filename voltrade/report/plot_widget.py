"""A widget that shows a plotly figure, in any number of cells, windows and pages.

Each view draws its own copy of the whole figure, which is sent as one text, so all views show the same, in whatever
order they are opened, closed and hidden. (plotly's own `FigureWidget` sends differences instead, and removes from the
shared state what its first view reports as a default: later views then lack it.)

anywidget gives a module two seconds to load, and ignores later changes of a widget whose module took longer. plotly is
too large for that on a busy machine, so the module here is small, and figure and plotly are sent as ipywidgets' texts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from anywidget import AnyWidget
from plotly.offline import get_plotlyjs
from traitlets import Instance

_VIEW = """
const textOf = (model, name) => model.widget_manager.get_model(model.get(name).slice("IPY_MODEL_".length));

const plotlyOf = async model => {
    const script = (await textOf(model, "_library")).get("value");
    globalThis.voltradePlotly ??= import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    return (await globalThis.voltradePlotly).default;
};

export default {
    render({ model, el }) {
        const place = document.createElement("div");
        place.style.cssText = "width: 100%; min-width: 0; overflow: hidden";
        el.style.minWidth = 0;
        el.append(place);
        let Plotly, figure, drawn = "", width = 0, isDrawing = false, isGone = false;

        const isBehind = () => !isGone && place.clientWidth > 0 && figure.get("value") !== ""
            && (figure.get("value") !== drawn || place.clientWidth !== width);

        const follow = async () => {
            if (isDrawing) return;  // that call goes on until the view is up to date
            isDrawing = true;
            try {
                while (isBehind()) {
                    [drawn, width] = [figure.get("value"), place.clientWidth];
                    const { data, layout } = JSON.parse(drawn);
                    await Plotly.react(place, data, { ...layout, width }, { displaylogo: false });
                    place.removeAllListeners("plotly_click");
                    place.on("plotly_click", tell);
                }
            } finally {
                isDrawing = false;
            }
        };
        const tell = ({ points }) => model.send({
            clicked: points.map(({ curveNumber, pointNumber, fullData }) => [curveNumber, fullData.x[pointNumber]]),
        });

        const observer = new ResizeObserver(follow);
        const begin = async () => {
            [figure, Plotly] = [await textOf(model, "_text"), await plotlyOf(model)];
            if (isGone) return;
            figure.on("change:value", follow);
            observer.observe(place);
        };
        begin();
        return () => {
            isGone = true;
            observer.disconnect();
            figure?.off("change:value", follow);
            Plotly?.purge(place);
        };
    },
};
"""


@cache
def _library() -> widgets.Text:
    """Return plotly as a JavaScript module, shared by all figures of a kernel."""
    return widgets.Text(f"const module = {{ exports: {{}} }};\n{get_plotlyjs()}\nexport default module.exports;")


class PlotWidget(AnyWidget):
    """Shows a figure in every cell that has it as output."""

    _esm = _VIEW
    _text = Instance(widgets.Text).tag(sync=True, **widgets.widget_serialization)
    _library = Instance(widgets.Text).tag(sync=True, **widgets.widget_serialization)

    def __init__(self) -> None:
        super().__init__(_text=widgets.Text(), _library=_library())

    @property
    def figure(self) -> str:
        """The figure as JSON; empty before the first drawing."""
        return str(self._text.value)

    def draw(self, figure: go.Figure) -> None:
        """Show a figure instead of the one before; the user's zoom is kept while `uirevision` is the same."""
        self._text.value = figure.to_json(validate=False)

    def on_click(self, handle: Callable[[int, float], None]) -> None:
        """Call `handle` at each click with the number of each trace and the x of its point there."""

        def on_message(widget: Any, content: Any, buffers: Any) -> None:
            for trace, x in content.get("clicked", ()):
                handle(trace, x)

        self.on_msg(on_message)
