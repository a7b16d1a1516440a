"""Alarms: what an operator must see is told again and again until `ctl ack`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from voltrade.core import TradingCore
from voltrade.engine.news import Message, Urgency
from voltrade.model import Alert, Event, Operator, Output
from voltrade.symbol_state import CARETAKER, RULE_FAILED

EVERY_S = 300.0
REPEATED = {CARETAKER, RULE_FAILED}
"""Codes of alerts that are repeated; each is told once by `News` too."""


class Alarms:
    """The alarms that nobody has acknowledged yet."""

    def __init__(self, post: Callable[[Message], None]) -> None:
        self._post = post
        self.sounding: list[str] = []

    def sound(self, text: str) -> None:
        """Repeat a message until it is acknowledged."""
        if text not in self.sounding:
            self.sounding.append(text)

    def go_on(self, core: TradingCore) -> None:
        """Sound the alarm of a rule that was off before this engine was started."""
        for symbol_state in core.symbol_states.values():
            if symbol_state.pipeline.rule_off:
                self.sound(f"no rule decides: {symbol_state.pipeline.rule_off}")

    def observe(self, fact: Event | Output) -> None:
        """Take a fact of the journal: an alert that must be repeated, or an operator who acknowledges all alarms."""
        if isinstance(fact, Alert) and fact.code in REPEATED:
            self.sound(f"{fact.code}: {fact.text}")
        elif isinstance(fact, Operator) and fact.action == "acknowledge":
            self.sounding.clear()

    async def repeat(self, every_s: float = EVERY_S) -> None:
        """Send each alarm again from time to time."""
        while True:
            await asyncio.sleep(every_s)
            for text in self.sounding:
                self._post(Message(f"{text}; repeated until `ctl ack`", Urgency.FAILURE))
