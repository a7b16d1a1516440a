"""A tick and a step that become finer while a venue runs.

A tape is in whole ticks and steps. So a venue whose script makes them finer counts in the finer units from the
beginning: its filters are multiples of these until the fault strikes, and from then on prices and quantities are off
the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from voltrade.model import Instrument, Trades
from voltrade.simulated.formatting import decimals
from voltrade.simulated.symbols import SymbolRules, shipped_instrument, shipped_rules
from voltrade.venue.faults import Fault


class Fineness(NamedTuple):
    """How many of a venue's ticks and lots one tick and lot of its tapes are."""

    ticks: int = 1
    lots: int = 1

    @staticmethod
    def of(script: Iterable[Fault]) -> Fineness:
        """Return the fineness that a script needs."""
        wanted = [fault.more for fault in script if fault.do == "filters"]
        return Fineness(*(math.lcm(*(int(more.get(name, 1)) for more in wanted)) for name in FINER))

    def instrument(self, symbol: str) -> Instrument:
        """Return a shipped symbol in these units."""
        shipped = shipped_instrument(symbol)
        if self == (1, 1):
            return shipped
        return shipped.in_units(shipped.tick_size / self.ticks, shipped.step_size / self.lots)

    def rules(self, symbol: str) -> SymbolRules:
        """Return a shipped symbol's other rules in these units: its tick and step are what they were."""
        rules, units = shipped_rules(symbol), self.instrument(symbol)
        return replace(
            rules,
            min_price=rules.min_price * self.ticks,
            price_precision=max(rules.price_precision, decimals(units.tick_size)),
            quantity_precision=max(rules.quantity_precision, decimals(units.step_size)),
            tick_multiple=self.ticks,
            step_multiple=self.lots,
        )

    def trades(self, trades: Trades) -> Trades:
        """Return a tape in these units."""
        return replace(trades, price=trades.price * self.ticks, quantity=trades.quantity * self.lots)


FINER: Mapping[str, str] = {"tick_finer": "tick_multiple", "step_finer": "step_multiple"}
"""Facts of the fault `filters` that divide a rule."""


def divided(rules: SymbolRules, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a fault `filters` with the new rules in the place of by how much they become finer.

    Raises:
        ValueError: the venue did not begin with a script that says so.
    """
    given = dict(facts)
    for name, rule in FINER.items():
        if by := given.pop(name, 0):
            whole, rest = divmod(getattr(rules, rule), by)
            if rest or not whole:
                raise ValueError(f"with.{name}: the venue must begin with a script that has it, was {by}")
            given[rule] = whole
    return given
