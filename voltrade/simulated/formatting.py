"""How the exchange writes its numbers, on the wire and in the ground-truth log: decimal texts, without an exponent."""

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
    """Write a price; where there is none it is 0 inside and `0` outside."""
    return plain(instrument.price(ticks)) if ticks else "0"


def quantity_text(instrument: Instrument, lots: int) -> str:
    return plain(instrument.quantity(lots)) if lots else "0"


def notional_text(instrument: Instrument, ticklots: int) -> str:
    """Write an exact product of ticks and lots in the quote asset."""
    return plain(ticklots * instrument.tick_size * instrument.step_size) if ticklots else "0"


def average_text(instrument: Instrument, ticklots: int, lots: int) -> str:
    """Write an average price with five digits more than the tick has, rounded half to even; zero where none filled."""
    places = Decimal(1).scaleb(-decimals(instrument.tick_size) - AVERAGE_DECIMALS)
    exact = Decimal(ticklots) * instrument.tick_size / lots if lots else Decimal(0)
    return plain(exact.quantize(places, rounding=ROUND_HALF_EVEN))


def decimals(unit: Decimal) -> int:
    """Digits after the point that multiples of a tick or step are written with."""
    return max(0, -int(unit.as_tuple().exponent))


def column(counts: Int64s, unit: Decimal) -> list[str]:
    """Write counts of a tick or step as decimal texts, all with the unit's digits.

    Args:
        counts: non-negative ticks or lots, shape (n,).
        unit: the tick or step.
    """
    digits = decimals(unit)
    scaled = counts * int(unit.scaleb(digits))
    if digits == 0:
        return [str(count) for count in scaled.tolist()]
    whole, part = np.divmod(scaled, 10**digits)
    return [f"{w}.{p:0{digits}d}" for w, p in zip(whole.tolist(), part.tolist(), strict=True)]


PRICES = ("price", "last_price", "trigger_price", "activation_price")
QUANTITIES = ("quantity", "filled", "last_quantity")
AMOUNTS = (
    *("fee", "realised", "unrealised", "wallet", "cross_wallet", "cross_unrealised", "equity", "available"),
    *("notional", "bid_notional", "ask_notional", "isolated_wallet", "isolated_margin", "balance_change"),
    *("initial_margin", "position_margin", "order_margin", "maintenance_margin", "mark_price"),
)
"""Fields of the exchange's facts by their unit: ticks, lots, and 1e-8 of the quote asset."""

_WRITERS: Mapping[str, Callable[[Instrument, Any], str]] = {
    **dict.fromkeys(PRICES, price_text),
    **dict.fromkeys(QUANTITIES, quantity_text),
    **dict.fromkeys(AMOUNTS, lambda _, units: money_text(units)),
    "filled_notional": notional_text,
    "largest_notional": lambda _, units: str(units // MONEY),
    "side": lambda _, side: str(side.name),
}


def told(instrument: Instrument, name: str, value: Any) -> Any:
    """Return a field's value as it is told: a number with a unit as text, a side by its name."""
    write = _WRITERS.get(name)
    return write(instrument, value) if write else value


def facts_of(instrument: Instrument, fact: Any) -> dict[str, Any]:
    """Return the fields of a fact by name, as they are told."""
    return {name: told(instrument, name, getattr(fact, name)) for name in fact.__slots__}


def amounts_of(fact: Any) -> dict[str, Any]:
    """Return the fields of a fact that is of no single symbol, as they are told."""
    return {
        name: money_text(getattr(fact, name)) if name in AMOUNTS else getattr(fact, name) for name in fact.__slots__
    }
