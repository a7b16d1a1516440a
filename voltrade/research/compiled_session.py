"""Runs the compiled loop over one session: its initial state, the memory for its tables, and the tables at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from voltrade import risk
from voltrade.compiled import Rows, compiled
from voltrade.config import Config, milliseconds
from voltrade.core import GATES
from voltrade.model import EQUITY_EVERY_MS, MONEY, Instrument
from voltrade.orders.core_rules import set_gates
from voltrade.orders.records import bare, new_account, new_symbol
from voltrade.research import loop, loop_records
from voltrade.risk import CircuitBreaker
from voltrade.simulated.margin import largest_notional
from voltrade.simulated.symbols import shipped_rules


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What happened in a session, as tables; see `loop_records.TABLES`."""

    bars: int
    """Bars closed at its end, with those of the warm-up."""
    first_bar: int
    """Number of the first bar that closed in the session."""
    wallet: int
    extrapolated: float
    """Part of the notional of all fills that no trade gave; see `fill_model`."""
    signals: Rows
    orders: Rows
    fills: Rows
    trips: Rows
    equity: Rows
    refusals: Rows
    changes: Rows
    alerts: Rows


_FILTERS = ("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "max_price", "money_per_ticklot")
"""Settings of the exchange that are fields of the instrument under the same names."""


def _settings(config: Config, instrument: Instrument, is_brief: bool) -> Rows:
    """Return one row of SETTINGS."""
    execution, exits, rules = config.execution, config.exits, shipped_rules(instrument.symbol)
    step_numerator, step_denominator = instrument.step_size.as_integer_ratio()
    brackets = np.zeros((), loop_records.SETTINGS["brackets"])
    for row, bracket in zip(brackets, rules.brackets, strict=False):
        row["cap"], row["maintenance_e8"], row["deducted"] = bracket.cap, bracket.maintenance_e8, bracket.deducted
    values = {
        "latency_ms": execution.latency_ms,
        "fill_horizon_ms": milliseconds(execution.fill_horizon_s),
        "slippage_e8": round(execution.slippage_bps * 10_000),
        "taker_fee_e8": int(execution.taker_fee * MONEY),
        "take_bound_e8": int(instrument.market_take_bound * MONEY),
        "leverage": config.risk.leverage,
        "largest_notional": largest_notional(rules.brackets, config.risk.leverage),
        "bracket_count": len(rules.brackets),
        "brackets": brackets,
        **{name: getattr(instrument, name) for name in _FILTERS},
        "min_price": rules.min_price,
        "multiplier_up_e8": int(instrument.multiplier_up * MONEY),
        "multiplier_down_e8": int(instrument.multiplier_down * MONEY),
        "tick_e8": int(instrument.tick_size * MONEY),
        "step_numerator": step_numerator,
        "step_denominator": step_denominator,
        "triggers_by_mark": exits.working_type == "MARK_PRICE",
        "isolated": config.risk.margin_type == "isolated",
        "is_brief": is_brief,
    }
    settings = np.zeros(1, loop_records.SETTINGS)
    settings[0] = tuple(values[name] for name in loop_records.SETTINGS.names or ())
    return settings


def initial_state(config: Config, instrument: Instrument, start: int, is_brief: bool) -> Rows:
    """Return the session's state before the first trade, with the account reconciled."""
    state, session, wallet = np.zeros(1, loop_records.SIMULATION), config.session, int(config.execution.wallet * MONEY)
    state["account"] = new_account()
    sim = bare(state)[0]
    account, symbol = bare(state["account"])[0], bare(state["symbols"][0])[0]
    loop_records.set_constants(sim)
    settings = state["settings"] = _settings(config, instrument, is_brief)
    new_symbol(symbol, 0, instrument, config.exits, config.execution)
    symbol["limits"] = risk.limits_from_settings(config, instrument, int(settings["taker_fee_e8"][0]))
    symbol["limits"]["bracket_notional"] = settings["largest_notional"]
    symbol["gate_inputs"]["market_stream_up"] = symbol["gate_inputs"]["user_stream_up"] = True
    symbol["reconciled"] = True
    CircuitBreaker(config.risk, start, wallet, (account["breaker"], account["holds"], account["breaker_rules"]))
    set_gates(account, GATES)
    account["now"], account["wallet"], account["is_open"] = start, wallet, True
    account["flatten_at_end"] = session.on_duration_end == "flatten"
    if session.duration_s and session.on_duration_end != "carry_on":
        account["end_at"] = start + milliseconds(session.duration_s)
    sim["wallet"] = wallet
    return state


ROWS_PER_SIGNAL = {"orders": 8, "fills": 16, "trips": 1, "equity": 16, "changes": 1, "alerts": 1}
"""Rows of each table to reserve for a signal; a table that is too short is enlarged."""


class _End(NamedTuple):
    """What is read of a session at its end."""

    unmodelled: int
    bars: int
    wallet: int
    taken: int
    extrapolated: int
    refusals: int
    written: tuple[int, ...]
    """Rows in each of the tables."""


@compiled
def _end_of(simulation: Rows) -> tuple[int, int, int, int, int, int, tuple[int, int, int, int, int, int]]:
    """Return the fields of `_End`: reading them from Python takes as long as a hundredth of a session."""
    sim = simulation[0]
    written = (
        *(sim.orders_written, sim.fills_written, sim.trips_written),
        *(sim.equity_written, sim.changes_written, sim.alerts_written),
    )
    of_session = sim.unmodelled, sim.symbols[0].bars, sim.account.wallet
    return (*of_session, sim.taken, sim.extrapolated, sim.refusals_written, written)


def run_session(
    market: loop_records.Market, simulation: Rows, first_bar: int, buffers: dict[str, Rows]
) -> tuple[Tables | None, str]:
    for name, dtype in loop_records.TABLES.items():
        rows = ROWS_PER_SIGNAL[name] * len(market.signals) + (len(market.marks) if name == "equity" else 0) + 1024
        if name not in buffers or len(buffers[name]) < rows:
            buffers[name] = np.empty(rows, dtype)
    simulate, names = loop.simulate(), loop_records.TableMemory._fields
    while (
        simulate(market, simulation, loop_records.TableMemory(*(buffers[name] for name in names)))
        == loop_records.NEEDS_ROOM
    ):
        buffers |= {name: _with_double_memory(buffers[name]) for name in names}
    end = _End(*_end_of(simulation))
    if end.unmodelled:
        return None, loop_records.UNMODELLED[end.unmodelled]
    cut = {name: buffers[name][:count] for name, count in zip(names, end.written, strict=True)}
    cut["equity"] = cut["equity"][: _keep_noted(cut["equity"])]
    refused = market.refusals[: end.refusals]
    extrapolated = end.extrapolated / max(1, end.taken)
    return Tables(end.bars, first_bar, end.wallet, extrapolated, market.signals, refusals=refused, **cut), ""


@compiled
def _keep_noted(equity: Rows) -> int:
    """Move the valuations that a session notes to the front, see `EQUITY_EVERY_MS`; return their number."""
    kept, minute = 0, -1
    for number in range(len(equity)):
        point, before = equity[number], equity[max(0, kept - 1)]
        minute_before, minute = minute, point.time // EQUITY_EVERY_MS
        is_same = minute == minute_before and point.wallet == before.wallet and point.position == before.position
        if not is_same:
            if kept < number:
                equity[kept] = point
            kept += 1
    return kept


def _with_double_memory(rows: Rows) -> Rows:
    return np.concatenate([rows.view(np.uint8), np.zeros(rows.nbytes, np.uint8)]).view(rows.dtype)
