"""A symbol's filters as they are now, in the units of a run that may have begun with others.

The tick and the step that a run begins with are its units, to its end and over every restart. Where the exchange makes
them coarser, all that it tells still is a whole number of units, and what is sent is rounded to its new tick and step.
Where it makes them finer, prices and quantities are read to the nearest unit, and nothing is entered; a tick or step
that is coarser, but no multiple of the run's, counts as finer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

from voltrade.model import MONEY, Filters, Instrument, money_text

TRADING = "TRADING"
"""Status of a symbol that can be traded."""


def filters_of(now: Instrument, units: Instrument, time: int = 0) -> Filters:
    """Return the filters of an instrument in the units of another; bounds are rounded inwards."""
    ticks, lots = (Fraction(getattr(now, unit)) / Fraction(getattr(units, unit)) for unit in ("tick_size", "step_size"))

    def in_lots(count: int, rounding: str) -> int:
        return int((now.quantity(count) / units.step_size).to_integral_value(rounding))

    return Filters(
        time=time,
        symbol=units.symbol,
        largest_market_order=in_lots(now.market_max_quantity, ROUND_FLOOR),
        largest_order=in_lots(now.max_quantity, ROUND_FLOOR),
        least_quantity=in_lots(now.min_quantity, ROUND_CEILING),
        least_notional=now.min_notional,
        price_step=ticks.numerator,
        quantity_step=lots.numerator,
        is_finer=ticks.denominator != 1 or lots.denominator != 1,
        status=now.status,
    )


def is_same(one: Filters, other: Filters) -> bool:
    """Return whether two filters differ in nothing but their time."""
    return replace(one, time=0) == replace(other, time=0)


def common_units(now: Instrument, tick_size: Decimal, step_size: Decimal) -> Instrument:
    """Return an instrument in the largest units of which its tick and step and those given are multiples."""
    return now.in_units(_common(now.tick_size, tick_size), _common(now.step_size, step_size))


def _common(one: Decimal, other: Decimal) -> Decimal:
    a, b = Fraction(one), Fraction(other)
    unit = Fraction(math.gcd(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)
    return Decimal(unit.numerator) / unit.denominator


def blocks_entries(filters: Filters) -> bool:
    """Return whether nothing may be entered: the symbol doesn't trade, or the run's units are too coarse for it."""
    return filters.is_finer or filters.status != TRADING


def limit_by(filters: Filters, limits: Any) -> None:
    """Write filters into a row of `risk.LIMITS`."""
    limits["price_step"], limits["quantity_step"] = filters.price_step, filters.quantity_step
    limits["min_quantity"], limits["min_notional"] = filters.least_quantity, filters.least_notional
    limits["max_quantity"] = min(filters.largest_market_order, filters.largest_order)


def changes_text(before: Filters, after: Filters, units: Instrument, lots: int) -> str:
    """Return what has changed, and what follows from it for a position of so many lots."""
    said = [f"{name} {old} -> {new}" for name, old, new in _told(before, after, units) if old != new]
    if after.is_finer:
        said.append(
            f"tick or step are finer than {units.tick_size:f} and {units.step_size:f}, in which this run counts: "
            "prices and quantities are read to the nearest, and nothing is entered until a new run"
        )
    elif blocks_entries(after):
        said.append("nothing is entered until it trades again")
    if lots % after.quantity_step:
        said.append(
            f"{units.quantity(abs(lots)):f} {units.base_asset} held are no multiple of the step: "
            "reduce-only orders are rounded up to it, and fill no more than there is"
        )
    return "; ".join(said)


def _told(before: Filters, after: Filters, units: Instrument) -> Iterator[tuple[str, str, str]]:
    def text(filters: Filters, name: str) -> str:
        value = getattr(filters, name)
        if name == "price_step":
            return f"{units.price(value):f}"
        if name == "least_notional":
            return money_text(value)
        return str(value) if name == "status" else f"{units.quantity(value):f}"

    for field, name in _NAMES.items():
        yield name, text(before, field), text(after, field)


_NAMES = {
    "largest_market_order": "largest market order",
    "largest_order": "largest limit order",
    "least_quantity": "smallest quantity",
    "least_notional": "least notional",
    "price_step": "tick",
    "quantity_step": "step",
    "status": "status",
}


def bracket_text(before: int, now: int, wanted: int) -> str:
    """Return what to tell of a leverage bracket that has changed, all in money; empty where it does not matter.

    Args:
        before: the largest position at this leverage, 0 where it was not known.
        now: what it is.
        wanted: the largest position that the settings allow.
    """
    if before in (0, now) or not 0 < min(before, now) < wanted:
        return ""
    return f"the largest position at this leverage is {now / MONEY:,.2f}, was {before / MONEY:,.2f}"
