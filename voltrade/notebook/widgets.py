"""What a control must know of a setting: its kind, its bounds, a range worth turning through, and what it means.

All of it is read from the settings' fields, so a rule file's own settings get their controls as all others do. The
range is where a hand would look first; a number may lie outside of it as long as the setting's own bounds allow.
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
"""Settings that research turns; where, when and how a session runs is not among them."""

MOST_TIMES = 5
"""A range without a bound of its own ends at so many times the default."""

NEAR_BOUND_TIMES = 20
"""An upper bound within so many times the default is the range's end."""

USUAL_SIZE = 20.0
"""What a setting whose default is 0 is taken to be about."""

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Dial:
    """One setting as a control shows it."""

    name: str
    kind: Kind
    default: Any
    description: str = ""
    low: float = 0.0
    """Lowest and highest value worth turning to, and the step between; for numbers alone."""
    high: float = 0.0
    step: float = 0.0
    choices: tuple[str, ...] = ()


def dials_of(signals: type[SignalSettings] = SignalSettings) -> dict[str, list[Dial]]:
    """Return the dials of each component; those of a rule's own settings stand apart as `rule`.

    Args:
        signals: the rule's settings.
    """
    parts = {name: cast(type[Settings], Config.model_fields[name].annotation) for name in COMPONENTS}
    dials = {name: _dials(part.model_fields) for name, part in parts.items()}
    own = {name: field for name, field in signals.model_fields.items() if name not in SignalSettings.model_fields}
    changed = {name: field for name, field in signals.model_fields.items() if name in SignalSettings.model_fields}
    return {**dials, "signals": _dials(changed), "rule": _dials(own)}


def _dials(fields: Mapping[str, FieldInfo]) -> list[Dial]:
    return [_dial(name, field) for name, field in fields.items()]


def _dial(name: str, field: FieldInfo) -> Dial:
    default, description = field.get_default(call_default_factory=True), field.description or ""
    if get_origin(field.annotation) is Literal:
        return Dial(name, "choice", default, description, choices=get_args(field.annotation))
    if field.annotation is bool:
        return Dial(name, "switch", default, description)
    is_integer = field.annotation is int or int in get_args(field.annotation)
    usual = float(default) if isinstance(default, Decimal) else default
    return Dial(
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
    """The bounds that the field's own rules set, and whether they are excluded themselves."""
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
    """Low and high around a default within the bounds, and a step of one digit, a tenth of the default or less."""
    size = abs(default) or min(abs(bound) for bound in (bounds.least, bounds.most, USUAL_SIZE) if bound)
    step = 10.0 ** (math.floor(math.log10(size)) - 1)
    if is_integer:
        step = max(1.0, step)
    least = bounds.least if math.isfinite(bounds.least) else -MOST_TIMES * size if default < 0 else 0.0
    most = bounds.most if bounds.most <= NEAR_BOUND_TIMES * size else MOST_TIMES * size
    low, high = math.ceil(least / step - ROUNDING), math.floor(most / step + ROUNDING)  # in steps
    low += bounds.without_least and low * step <= bounds.least
    high -= bounds.without_most and high * step >= bounds.most
    digits = max(0, -math.floor(math.log10(step)))
    return min(round(low * step, digits), default), max(round(high * step, digits), default), step
