"""The explorer's controls: for each setting a slider with a box, a switch or a choice, and an error text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets

from voltrade.notebook.control_specs import ROUNDING, ControlSpec

ERROR_STYLE = "color:#a4243b;line-height:1.3"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the positions of a slider, whole numbers from 0, to values."""

    low: float
    high: float
    step: float

    @property
    def last(self) -> int:
        """The last position."""
        return max(0, math.ceil((self.high - self.low) / self.step - ROUNDING))

    def position_of(self, value: float) -> int:
        """Return the position nearest to a value."""
        return round((min(max(value, self.low), self.high) - self.low) / self.step)

    def value_at(self, position: int) -> float:
        """Return the value at a position."""
        return round(min(self.low + position * self.step, self.high), max(0, -math.floor(math.log10(self.step))))


@dataclass(frozen=True, slots=True)
class ThresholdScale(Scale):
    """Maps positions to bar thresholds by ratio; `low`, `high` and `step` are logarithms, `near` rounds a threshold."""

    near: Callable[[float], float]

    def position_of(self, value: float) -> int:
        return Scale.position_of(self, math.log10(value) if value > 0 else self.low)

    def value_at(self, position: int) -> float:
        return self.near(10.0 ** min(self.low + position * self.step, self.high))


class Control:
    """The control of one setting: a slider with a box for exact numbers, a switch or a choice; and an error text.

    Attributes:
        error: The error that is shown.
        slider: The slider of a number, at the position nearest to the value. Its bounds never change, so that every
            position that the page sends comes from the user.

    Args:
        spec: Describes the control.
        value: The current value.
        changed: Called with the setting's name after a change of its value.
        scale: Scale of the slider; by default the range of the spec.
    """

    def __init__(
        self, spec: ControlSpec, value: Any, changed: Callable[[str], None], scale: Scale | None = None
    ) -> None:
        self.spec = spec
        self._scale = scale or Scale(spec.low, spec.high, spec.step or 1)
        self._position = 0
        self._box = _box(spec, value)
        self.slider = _slider(self._scale.last) if spec.kind in ("whole", "number") else None
        self.error = ""
        self._note = widgets.HTML(layout={"display": "none"})
        label = (
            f"<span title='{escape(spec.description, quote=True)}' style='font-size:12px'>{escape(spec.name)}</span>"
        )
        parts = [widgets.HTML(label, layout={"width": "164px"}), *([self.slider] if self.slider else []), self._box]
        self.view = widgets.VBox([widgets.HBox(parts), self._note])
        self._move_slider()
        self._box.observe(lambda change: self._on_box(changed), "value")
        if self.slider is not None:
            self.slider.observe(lambda change: self._on_slider(change["new"]), "value")

    @property
    def value(self) -> Any:
        """The value in the box; setting it has the same effect as a change by the user."""
        return self._box.value

    @value.setter
    def value(self, value: Any) -> None:
        self._box.value = value

    def show_error(self, error: str) -> None:
        """Show an error text; an empty one removes it."""
        self.error = error
        self._note.value = f"<div style='{ERROR_STYLE}'>{escape(error)}</div>" if error else ""
        self._note.layout.display = None if error else "none"

    def rescale(self, scale: Scale, value: float) -> None:
        """Give the slider another scale with the same number of positions, and set a value."""
        assert scale.last == self._scale.last, "a slider whose bounds change sends positions by itself"
        self._scale = scale
        self._box.value = value
        self._move_slider()

    def _on_box(self, changed: Callable[[str], None]) -> None:
        self._move_slider()
        changed(self.spec.name)

    def _on_slider(self, position: int) -> None:
        if position != self._position:
            self._position = position
            self._box.value = self._value_at(position)

    def _value_at(self, position: int) -> float:
        value = self._scale.value_at(position)
        return int(value) if self.spec.kind == "whole" else value

    def _move_slider(self) -> None:
        """Move the slider to the position nearest to the value in the box."""
        if self.slider is None or not math.isfinite(self._box.value):
            return
        self._position = self._scale.position_of(self._box.value)
        self.slider.value = self._position


def _box(spec: ControlSpec, value: Any) -> Any:
    if spec.kind == "switch":
        return widgets.Checkbox(value=value, indent=False, layout={"width": "40px"})
    if spec.kind == "choice":
        return widgets.Dropdown(options=spec.choices, value=value, layout={"width": "196px"})
    return (widgets.IntText if spec.kind == "whole" else widgets.FloatText)(
        value=value, step=spec.step, layout={"width": "84px"}
    )


def _slider(last: int) -> Any:
    return widgets.IntSlider(min=0, max=last, readout=False, layout={"width": "108px"})
