"""The state that the core keeps of one symbol."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from voltrade import risk
from voltrade.bar_pipeline import BarPipeline
from voltrade.bar_rate import ExpectedRange, bar_rate_alert
from voltrade.compiled import Rows
from voltrade.config import BarSettings, Config, RiskSettings
from voltrade.model import MONEY, NEVER, Alert, Filters, Instrument, Operator, Output, Snapshot
from voltrade.oms import Order, OrderMonitor
from voltrade.signal_engine import SignalEngine
from voltrade.symbol_filters import blocks_entries, bracket_text, changes_text, filters_of, limit_by

RULE_FAILED, CARETAKER = "RULE_FAILED", "CARETAKER"
"""Codes of alerts: the rule raised an exception, or the engine is a caretaker; the rule is off until `resume`."""

ABANDONED = "ABANDONED"
"""Code of an alert: the session was ended although the exchange can't be reached."""
SYMBOL_CHANGED, BRACKET_CHANGED = "SYMBOL_CHANGED", "BRACKET_CHANGED"
"""Codes of alerts: the symbol's filters or status have changed, or the largest position at the account's leverage."""

HOLDS = {
    "resume": (risk.RESUME, 0),
    "reduce": (risk.HOLD, risk.ACTIONS.index("block")),
    "caretake": (risk.HOLD, risk.ACTIONS.index("block")),
    "halt": (risk.HOLD, risk.ACTION_CANCEL),
}
"""The breaker's fact and its amount for an operator's command."""


class SymbolState:
    """The bars, rule and orders of a symbol; what the compiled rules read and change is in the account's books.

    Attributes:
        index: the symbol's row in the books.
        expected_range: how many bars are expected in 24 hours; None where no range is set.
        is_bar_rate_alerted: whether the bars were outside that range when last checked.
        problems: settings of the account that let nothing be entered, as they were last alerted.
        problem_count: snapshots in a row that had problems, or a wallet that differed while an order had to be looked
            up first.
        filters: the symbol's filters as they were last told.
        max_notional: the leverage bracket's largest position, money; 0 where it isn't known.
    """

    def __init__(
        self, instrument: Instrument, pipeline: BarPipeline, engine: SignalEngine, monitor: OrderMonitor, index: int
    ) -> None:
        self.instrument = instrument
        self.pipeline = pipeline
        self.engine = engine
        self.monitor = monitor
        self.index = index
        self.expected_range: ExpectedRange | None = None
        self.is_bar_rate_alerted = False
        self.problems: list[str] = []
        self.problem_count = 0
        self.filters = filters_of(instrument, instrument)
        self.max_notional = 0

    @property
    def is_blocked(self) -> bool:
        """Whether the symbol's filters or status, as they were last told, let nothing be entered."""
        return blocks_entries(self.filters)

    def watch_bars(self, time: int) -> list[Output]:
        """Alert when bars come too fast or too slowly for their threshold; again only once they were in range between.

        Nothing else follows from it. It is called at mark prices.
        """
        times, expected = self.pipeline.bars["close_time"], self.expected_range
        if expected is None or not len(times):
            return []
        found = bar_rate_alert(expected.threshold, expected, times, int(times[0]), time)
        is_new, self.is_bar_rate_alerted = found is not None and not self.is_bar_rate_alerted, found is not None
        return [Alert(time, "BAR_RATE", str(found))] if is_new else []

    def write_bars(self, row: Any) -> None:
        """Write the number of bars and the last price into the books.

        An exit that was learnt before bars which closed earlier, as after a restart, is later than these bars: the
        cooldown begins behind them.
        """
        pipeline, exited = self.pipeline, int(row["last_exit_bar"])
        if pipeline.count != row["bars"] and 0 <= exited < pipeline.count:
            row["last_exit_bar"] += np.searchsorted(pipeline.bars["close_time"][exited:], row["last_exit_time"])
        row["bars"], row["last_price"], row["price_time"] = pipeline.count, pipeline.last_price, pipeline.last_time

    def current_limits(self, config: Config, taker_fee_e8: int) -> Rows:
        """Return the row of `risk.LIMITS` by settings, fee, filters and leverage bracket."""
        limits = risk.limits_from_settings(config, self.instrument, taker_fee_e8)
        limit_by(self.filters, limits[0])
        limits[0]["bracket_notional"] = self.max_notional or NEVER
        return limits

    def apply_filters(self, filters: Filters, row: Any) -> list[Output]:
        """Take the symbol's filters of now, say what has changed, and do at once what waited for them."""
        text = changes_text(self.filters, filters, self.instrument, self.monitor.position)
        self.filters = filters
        limit_by(filters, row["limits"][0])
        row["gate_inputs"]["symbol_changed"] = self.is_blocked
        return [Alert(filters.time, SYMBOL_CHANGED, text), *self.monitor.on_filters(filters)]

    def note_bracket(self, snapshot: Snapshot, settings: RiskSettings) -> list[Output]:
        """Take the leverage bracket's largest position; return an alert where it changes what may be entered.

        The bracket bounds entries alone: a position that is larger stays as it is.
        """
        before, self.max_notional = self.max_notional, snapshot.max_notional
        wanted = int(float(settings.capital) * settings.max_notional_multiple * MONEY)
        text = bracket_text(before, self.max_notional, wanted)
        return [Alert(snapshot.time, BRACKET_CHANGED, text)] if text else []


def expected_range(settings: BarSettings) -> ExpectedRange | None:
    """Return the range of bars a day that the settings expect; None where they set none."""
    if not (settings.least_bars_a_day or settings.most_bars_a_day):
        return None
    return ExpectedRange(settings.threshold, settings.least_bars_a_day, settings.most_bars_a_day or math.inf)


def rule_alerts(symbol_state: SymbolState, was_off: str, time: int) -> list[Output]:
    """Return an alert where the rule has failed; `was_off` is why it was off before, empty where it was on."""
    why = symbol_state.pipeline.rule_off
    return [Alert(time, RULE_FAILED, why)] if why != was_off else []


def switch_rules(symbol_states: Iterable[SymbolState], command: Operator) -> list[Output]:
    """Switch the rules off for a caretaker, or on where an operator resumes; return an alert where one is off then."""
    outputs: list[Output] = []
    for symbol_state in symbol_states:
        pipeline, why = symbol_state.pipeline, f"{CARETAKER}: {command.reason}"
        if command.action == "resume":
            pipeline.switch_rule_on()
            outputs += rule_alerts(symbol_state, "", command.time)
        elif command.action == "caretake" and pipeline.rule_off != why:
            pipeline.switch_rule_off(why)
            outputs.append(Alert(command.time, CARETAKER, command.reason))
    return outputs


def abandoned(symbol_states: Iterable[SymbolState], reason: str, time: int) -> list[Output]:
    """Return an alert with what our books have at an exchange that is gone."""
    left = left_at_exchange(symbol_states) or "nothing that we know of"
    return [
        Alert(time, ABANDONED, f"{reason}: the exchange is gone, and nobody looks after what is left there: {left}")
    ]


def left_at_exchange(symbol_states: Iterable[SymbolState]) -> str:
    """Return what is at the exchange as far as we know: positions, orders of ours that can act, and orders of others
    that the last snapshot has listed; empty where nothing is."""
    return ", ".join(part for each in symbol_states for part in _left_of(each))


def _left_of(symbol_state: SymbolState) -> list[str]:
    monitor, instrument = symbol_state.monitor, symbol_state.instrument
    held = [f"{instrument.quantity(monitor.position):f} {instrument.base_asset}"] if monitor.position else []
    ours = [_order_text(order, instrument) for order in monitor.orders.values() if not order.done]
    return held + ours + [f"order {name}, which isn't ours" for name in monitor.foreign_orders]


def _order_text(order: Order, instrument: Instrument) -> str:
    at = f" at {instrument.price(order.row.trigger_price):f}" if order.row.trigger_price else ""
    what = order.purpose.name.lower().replace("_", "-")
    return f"{what} {order.id} of {instrument.quantity(order.quantity):f}{at} ({order.state})"


def status_of(
    symbol_state: SymbolState, wallet: int | None, paused: str, breaker: risk.CircuitBreaker | None
) -> dict[str, Any]:
    """Return what is shown of a symbol and its account; wallet and breaker are None before the first reading."""
    instrument, quote = symbol_state.instrument, symbol_state.instrument.quote_asset
    distances = breaker.distances() if breaker is not None else {}
    return {
        "bars": f"{symbol_state.pipeline.count:,}",
        "position": f"{instrument.quantity(symbol_state.monitor.position):f} {instrument.base_asset}",
        "wallet": f"{wallet / MONEY:,.2f} {quote}" if wallet is not None else "",
        "paused": paused,
        "rule": symbol_state.pipeline.rule_off and f"off: {symbol_state.pipeline.rule_off}",
        "breaker": breaker.mode if breaker is not None else "",
        "holds": ", ".join(breaker.codes) if breaker is not None else "",
        "distances": {code: risk.distance_label(code, *far, quote) for code, far in distances.items()},
    }
