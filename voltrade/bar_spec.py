"""The settings of volume bars, converted to the integers of a symbol."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from voltrade.compiled import Rows, record_dtype
from voltrade.config import BarSettings
from voltrade.errors import ConfigError
from voltrade.model import Instrument

BASE, QUOTE, COUNT = 0, 1, 2
_NUMBERS = {"base": BASE, "quote": QUOTE, "trades": COUNT}

UNITS: dict[str, Callable[[Any, Any], Any]] = {
    "base": lambda price, quantity: quantity,
    "quote": lambda price, quantity: price * quantity,
    "trades": lambda price, quantity: quantity * 0 + 1,
}
"""Every unit of the threshold, and what trades of a price in ticks and a quantity in lots add in it, for one trade or
arrays. All code that counts in a unit reads it here, so that an unknown unit is a KeyError; `bars` has the same
compiled, by number."""

KLINE_UNITS = {"base": 0, "quote": 1}
"""Units that klines state, and where: they have volume in lots, then notional in ticks x lots."""

STRIDE = 16
"""Number of trades that `bars` adds to the open bar at once, if all are ordinary."""

_LARGEST = 2**61
"""Twice this many ticklots still fit 64 bits."""

BAR_SPEC = record_dtype(
    [
        ("unit", np.int64),
        ("threshold", np.int64),  # lots, ticklots or trades
        ("daily", np.bool_),
        ("max_price", np.int64),
        ("max_notional", np.int64),  # a trade above it is invalid and could overflow 64 bits
        ("usual_quantity", np.int64),  # lots; a stride of trades up to this quantity can't overflow
    ]
)


def bar_spec(settings: BarSettings, instrument: Instrument) -> Rows:
    """Return the settings as one row of BAR_SPEC.

    Raises:
        ConfigError: the threshold is not a whole number of lots, ticklots or trades, or a bar could overflow 64 bits.
    """
    threshold = _whole_threshold(settings, instrument)
    max_notional = _LARGEST
    if settings.unit == "base" and threshold * instrument.max_price >= 2**62:
        raise ConfigError(f"threshold: a bar's notional must stay below 2^62 ticklots, was {settings.threshold}")
    if settings.unit == "trades":
        max_notional = 2 * _LARGEST // threshold
    spec = np.zeros(1, BAR_SPEC)
    spec["unit"] = _NUMBERS[settings.unit]
    spec["threshold"] = threshold
    spec["daily"] = settings.anchor == "utc_day"
    spec["max_price"] = instrument.max_price
    spec["max_notional"] = max_notional
    spec["usual_quantity"] = max_notional // STRIDE // instrument.max_price
    return spec


def smallest_threshold(unit: str, instrument: Instrument) -> tuple[Decimal, str]:
    """Return the smallest threshold of a unit, of which all others are multiples, and its name."""
    return {
        "base": (instrument.step_size, f"{instrument.symbol}'s step"),
        "quote": (instrument.tick_size * instrument.step_size, f"{instrument.symbol}'s tick x step"),
        "trades": (Decimal(1), "one trade"),
    }[unit]


def _whole_threshold(settings: BarSettings, instrument: Instrument) -> int:
    unit, name = smallest_threshold(settings.unit, instrument)
    threshold = settings.threshold / unit
    if threshold != int(threshold) or not 1 <= threshold <= _LARGEST:
        raise ConfigError(f"threshold: must be a multiple of {name} {unit} below 2^61 of it, was {settings.threshold}")
    return int(threshold)
