"""Describes the explorer's control of each setting: its kind, its slider's range, its step and its meaning.

All of it is read from the settings' fields, so the settings of a rule file get controls too. The range is a useful part
of the allowed values; a number outside of it can be typed, if the setting's own bounds allow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from voltrade.config import Config, Settings, SignalSettings

Kind = Literal["switch", "choice", "whole", "number"]

COMPONENTS = ("bars", "signals", "exits", "risk", "execution")
"""Groups of settings that have controls; those about where, when and how a session runs have none."""

MAX_TIMES = 5
"""A range without a near upper bound ends at this multiple of the default."""

NEAR_BOUND_TIMES = 20
"""An upper bound up to this multiple of the default is the end of the range."""

USUAL_SIZE = 20.0
"""Used in place of the default, where that is 0, to choose range and step."""

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """Describes the control of one setting."""

    name: str
    kind: Kind
    default: Any
    description: str = ""
    low: float = 0.0
    """Range and step of the slider; for numbers only."""
    high: float = 0.0
    step: float = 0.0
    choices: tuple[str, ...] = ()


def control_specs(signals: type[SignalSettings] = SignalSettings) -> dict[str, list[ControlSpec]]:
    """Return the control specs of each group; those of a rule's own settings are in a group `rule`.

    Args:
        signals: Type of the rule's settings.
    """
    parts = {name: cast(type[Settings], Config.model_fields[name].annotation) for name in COMPONENTS}
    specs = {name: _specs(part.model_fields) for name, part in parts.items()}
    own = {name: field for name, field in signals.model_fields.items() if name not in SignalSettings.model_fields}
    changed = {name: field for name, field in signals.model_fields.items() if name in SignalSettings.model_fields}
    return {**specs, "signals": _specs(changed), "rule": _specs(own)}


def _specs(fields: Mapping[str, FieldInfo]) -> list[ControlSpec]:
    return [_spec(name, field) for name, field in fields.items()]


def _spec(name: str, field: FieldInfo) -> ControlSpec:
    default, description = field.get_default(call_default_factory=True), field.description or ""
    if get_origin(field.annotation) is Literal:
        return ControlSpec(name, "choice", default, description, choices=get_args(field.annotation))
    if field.annotation is bool:
        return ControlSpec(name, "switch", default, description)
    is_integer = field.annotation is int or int in get_args(field.annotation)
    usual = float(default) if isinstance(default, Decimal) else default
    return ControlSpec(
        name,
        "whole" if is_integer else "number",
        usual,
        description,
        *_range(float(default), _bounds(field), is_integer),
    )


class _Bounds(NamedTuple):
    least: float = -math.inf
    most: float = math.inf
    without_least: bool = False
    without_most: bool = False


def _bounds(field: FieldInfo) -> _Bounds:
    """Return the bounds of a field, and whether they are excluded."""
    bounds = _Bounds()
    for rule in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            bound = getattr(rule, name, None)
            if bound is not None and name[0] == "g":
                bounds = bounds._replace(least=float(bound), without_least=name == "gt")
            elif bound is not None:
                bounds = bounds._replace(most=float(bound), without_most=name == "lt")
    return bounds


def _range(default: float, bounds: _Bounds, is_integer: bool) -> tuple[float, float, float]:
    """Return low, high and step; the step has one digit, and is a tenth of the default or less."""
    size = abs(default) or min(abs(bound) for bound in (bounds.least, bounds.most, USUAL_SIZE) if bound)
    step = 10.0 ** (math.floor(math.log10(size)) - 1)
    if is_integer:
        step = max(1.0, step)
    least = bounds.least if math.isfinite(bounds.least) else -MAX_TIMES * size if default < 0 else 0.0
    most = bounds.most if bounds.most <= NEAR_BOUND_TIMES * size else MAX_TIMES * size
    low, high = math.ceil(least / step - ROUNDING), math.floor(most / step + ROUNDING)  # in steps
    low += bounds.without_least and low * step <= bounds.least
    high -= bounds.without_most and high * step >= bounds.most
    digits = max(0, -math.floor(math.log10(step)))
    return min(round(low * step, digits), default), max(round(high * step, digits), default), step
