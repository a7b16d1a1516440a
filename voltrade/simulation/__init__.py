"""A whole lockstep session over a tape as one compiled loop: what `backtest` would do event by event, bit for bit.

The rules are the ones that trade: `order_rules` for the orders and the position, `core_rules` for the account, prices
and triggers from `exchange.execution`. Only the exchange has a compiled form beside its plain one
(`exchange.simulated`), for the orders that a session sends; a property test holds both paths to the same round trips,
fills, refusals, breaker changes and equity, over random settings and tapes.

Where something comes up that isn't modelled, the loop stops and says so in `unmodelled`; the caller then runs the
session event by event.
"""

from __future__ import annotations

from voltrade.simulation.lockstep import simulate
from voltrade.simulation.rows import MORE_ROOM, SETTINGS, SIMULATION, TABLES, UNMODELLED, Market, Written, begin

__all__ = ["MORE_ROOM", "SETTINGS", "SIMULATION", "TABLES", "UNMODELLED", "Market", "Written", "begin", "simulate"]
