"""Controls know a setting's bounds and meaning from the setting itself."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, create_model

from voltrade.config import Config, SignalSettings
from voltrade.notebook.control_specs import COMPONENTS, ControlSpec, control_specs

SPECS = {spec.name: spec for specs in control_specs().values() for spec in specs}


def test_every_setting_of_research_has_a_dial_and_none_of_the_session_has() -> None:
    settings = [name for part in COMPONENTS for name in type(getattr(Config(), part)).model_fields]
    assert list(SPECS) == settings
    assert not {"mode", "seed", "venue", "confirmation"} & set(SPECS)


def test_a_dial_says_what_the_setting_means() -> None:
    assert SPECS["stop_atr"].description.startswith("Distance of the stop from the average fill price, in ATR")
    assert SPECS["unit"].choices == ("base", "quote", "trades")
    assert [SPECS[name].kind for name in ("unit", "use_rsi_filter", "ema_fast", "stop_atr", "threshold")] == [
        *("choice", "switch", "whole", "number", "number")
    ]


@pytest.mark.parametrize(
    ("name", "low", "high", "step"),
    [
        ("ema_fast", 1, 40, 1),  # ge=1, default 8
        ("bollinger_length", 2, 100, 1),  # ge=2
        ("bollinger_width", 0.1, 10, 0.1),  # gt=0: the bound itself is no place to turn to
        ("rsi_overbought", 1, 100, 1),  # gt=0, le=100
        ("rsi_oversold", 0, 99, 1),  # ge=0, lt=100
        ("leverage", 1, 25, 1),  # le=125 is far away
        ("max_drawdown_fraction", 0.01, 1, 0.01),  # le=1 is near
        ("risk_fraction", 0.0001, 0.025, 0.0001),
        ("cooldown_s", 0, 100, 1),  # default 0
        ("funding_rate", -0.029, 0.029, 0.001),  # both bounds excluded, default 0
    ],
)
def test_a_range_is_where_a_hand_would_look(name: str, low: float, high: float, step: float) -> None:
    spec = SPECS[name]
    assert (spec.low, spec.high, spec.step) == pytest.approx((low, high, step))


def test_a_rules_own_settings_stand_apart_with_theirs() -> None:
    class Own(SignalSettings):
        ema_fast: int = 5
        depth: int = 3
        """How many bars back."""
        share: Annotated[float, Field(gt=0, lt=1)] = 0.25
        below: float = -2.0

    specs = control_specs(Own)
    own = {spec.name: spec for spec in specs["rule"]}
    assert list(own) == ["depth", "share", "below"]
    assert own["depth"] == ControlSpec("depth", "whole", 3, "How many bars back.", 0, 15, 1)
    assert (own["share"].low, own["share"].high) == (0.01, 0.99)
    assert (own["below"].low, own["below"].high) == (-10, 10)
    assert {spec.name: spec.default for spec in specs["signals"]}["ema_fast"] == 5


THREE_DIGITS = st.builds(lambda whole, digits: whole / 10**digits, st.integers(-999, 999), st.integers(0, 4))


@settings(deadline=None)
@given(THREE_DIGITS, st.none() | THREE_DIGITS, st.none() | THREE_DIGITS, st.booleans())
def test_every_place_of_a_dial_is_allowed(default: float, least: Any, most: Any, is_excluded: bool) -> None:
    rules = {("gt" if is_excluded else "ge"): least, ("lt" if is_excluded else "le"): most}
    rules = {name: bound for name, bound in rules.items() if bound is not None}
    model = create_model("Made", __base__=SignalSettings, made=(Annotated[float, Field(**rules)], default))
    try:
        model(made=default)
    except ValidationError:
        return
    (spec,) = control_specs(model)["rule"]
    assert spec.low <= spec.default <= spec.high
    assert spec.step > 0
    for place in (spec.low, spec.high):
        model(made=place)
