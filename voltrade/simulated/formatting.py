"""Writes numbers as decimal texts without an exponent, for clients and for the ground-truth log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from voltrade.model import MONEY, Instrument, Int64s, money_text

AVERAGE_DECIMALS = 5
"""Decimals of an average price beyond the tick's own."""


def plain(value: Decimal) -> str:
    """Write a Decimal without an exponent."""
    return format(value, "f")


def price_text(instrument: Instrument, ticks: int) -> str:
    """Write a price; 0, which means no price, is written as `0`."""
    return plain(instrument.price(ticks)) if ticks else "0"


def quantity_text(instrument: Instrument, lots: int) -> str:
    return plain(instrument.quantity(lots)) if lots else "0"


def notional_text(instrument: Instrument, ticklots: int) -> str:
    """Write an exact product of ticks and lots in the quote asset."""
    return plain(ticklots * instrument.tick_size * instrument.step_size) if ticklots else "0"


def average_text(instrument: Instrument, ticklots: int, lots: int) -> str:
    """Write an average price with five decimals more than the tick, rounded half to even; zero if nothing filled."""
    places = Decimal(1).scaleb(-decimals(instrument.tick_size) - AVERAGE_DECIMALS)
    exact = Decimal(ticklots) * instrument.tick_size / lots if lots else Decimal(0)
    return plain(exact.quantize(places, rounding=ROUND_HALF_EVEN))


def decimals(unit: Decimal) -> int:
    """Return the number of decimals of multiples of a tick or step."""
    return max(0, -int(unit.as_tuple().exponent))


FEW = 8
"""So many counts are written faster one by one than as arrays."""


def column(counts: Int64s, unit: Decimal) -> list[str]:
    """Write counts of a tick or step as decimal texts with all decimals of the unit.

    Args:
        counts: non-negative ticks or lots, shape (n,).
        unit: the tick or step.
    """
    digits = decimals(unit)
    factor = int(unit.scaleb(digits))
    if digits == 0:
        return [str(count * factor) for count in counts.tolist()]
    if len(counts) <= FEW:
        pairs = [divmod(count * factor, 10**digits) for count in counts.tolist()]
        return [f"{whole}.{part:0{digits}d}" for whole, part in pairs]
    whole, part = np.divmod(counts * factor, 10**digits)
    return [f"{w}.{p:0{digits}d}" for w, p in zip(whole.tolist(), part.tolist(), strict=True)]


PRICES = ("price", "last_price", "trigger_price", "activation_price")
QUANTITIES = ("quantity", "filled", "last_quantity")
AMOUNTS = (
    *("fee", "realised", "unrealised", "wallet", "cross_wallet", "cross_unrealised", "equity", "available"),
    *("notional", "bid_notional", "ask_notional", "isolated_wallet", "isolated_margin", "balance_change"),
    *("initial_margin", "position_margin", "order_margin", "maintenance_margin", "mark_price"),
)
"""Names of fields by their unit: ticks, lots, and 1e-8 of the quote asset."""

_WRITERS: Mapping[str, Callable[[Instrument, Any], str]] = {
    **dict.fromkeys(PRICES, price_text),
    **dict.fromkeys(QUANTITIES, quantity_text),
    **dict.fromkeys(AMOUNTS, lambda _, units: money_text(units)),
    "filled_notional": notional_text,
    "largest_notional": lambda _, units: str(units // MONEY),
    "side": lambda _, side: str(side.name),
}


def format_value(instrument: Instrument, name: str, value: Any) -> Any:
    """Return the value of a field as it is written: a number with a unit as text, a side as its name."""
    write = _WRITERS.get(name)
    return write(instrument, value) if write else value


def facts_of(instrument: Instrument, fact: Any) -> dict[str, Any]:
    """Return the fields of an event by name, as they are written."""
    return {name: format_value(instrument, name, getattr(fact, name)) for name in fact.__slots__}


def amounts_of(fact: Any) -> dict[str, Any]:
    """Return the fields of an event without a symbol, as they are written."""
    return {
        name: money_text(getattr(fact, name)) if name in AMOUNTS else getattr(fact, name) for name in fact.__slots__
    }
