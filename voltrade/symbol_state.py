"""The state that the core keeps of one symbol."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from voltrade import risk
from voltrade.bar_pipeline import BarPipeline
from voltrade.bar_rate import ExpectedRange
from voltrade.config import BarSettings
from voltrade.model import Alert, Instrument, Operator, Output
from voltrade.oms import OrderMonitor
from voltrade.signal_engine import SignalEngine

RULE_FAILED, CARETAKER = "RULE_FAILED", "CARETAKER"
"""Codes of alerts: the rule raised an exception, or the engine is a caretaker; the rule is off until `resume`."""

HOLDS = {
    "resume": (risk.RESUME, 0),
    "reduce": (risk.HOLD, risk.ACTIONS.index("block")),
    "caretake": (risk.HOLD, risk.ACTIONS.index("block")),
    "halt": (risk.HOLD, risk.CANCEL),
}
"""The breaker's fact and its amount for an operator's command."""


class SymbolState:
    """The bars, rule and orders of a symbol; what the compiled rules read and change is in the account's books.

    Attributes:
        index: the symbol's row in the books.
        expected_range: how many bars are expected in 24 hours; None where no range is set.
        is_bar_rate_alerted: whether the bars were outside that range when last checked.
        problems: settings of the account that forbid trading the symbol, as they were last alerted.
        problem_count: snapshots in a row that had problems, or a wallet that could not be explained yet.
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

    def write_bars(self, row: Any) -> None:
        """Write the number of bars and the last price into the books."""
        pipeline = self.pipeline
        row["bars"], row["last_price"], row["price_time"] = pipeline.count, pipeline.last_price, pipeline.last_time


def expected_range(settings: BarSettings) -> ExpectedRange | None:
    """Return the range of bars a day that the settings expect; None where they set none."""
    if not (settings.least_bars_a_day or settings.most_bars_a_day):
        return None
    return ExpectedRange(settings.threshold, settings.least_bars_a_day, settings.most_bars_a_day or math.inf)


def rule_alerts(symbol_state: SymbolState, was_off: str, time: int) -> list[Output]:
    """Return an alert where the rule has failed since it was off for another reason, or not at all."""
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
