"""Alarms: sent again each five minutes until `ctl ack`, also by an engine started later.

They are about a rule that failed, a caretaker, a lost guardian and a failed task. Other alerts, urgent ones too, are
sent when they arise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from voltrade.core import TradingCore
from voltrade.engine.session_messages import Message, Urgency
from voltrade.model import Alert, Event, Operator, Output
from voltrade.runs.run_file import Record
from voltrade.symbol_state import CARETAKER, RULE_FAILED

log = logging.getLogger(__name__)

EVERY_S = 300.0
KEPT = "alarms"
"""Key of the alarms in `run.json`."""
REPEATED = {CARETAKER, RULE_FAILED}
"""Codes of alerts that are repeated; `SessionMessages` sends each once too. `engine.engine` has two more alarms."""


class Alarms:
    """The alarms that nobody has acknowledged yet; `run.json` keeps them for the next engine."""

    def __init__(self, post: Callable[[Message], None], record: Record) -> None:
        self._post, self._record = post, record
        self.sounding: list[str] = list(record.facts.get(KEPT, []))

    def sound(self, text: str) -> None:
        """Repeat a message until it is acknowledged."""
        if text not in self.sounding:
            self.sounding.append(text)
            self._keep()

    def tell(self, text: str) -> None:
        """Log and send a message, and repeat it until it is acknowledged."""
        log.warning("%s", text)
        self.sound(text)
        self._post(Message(text, Urgency.FAILURE))

    def go_on(self, core: TradingCore) -> None:
        """Sound the alarm of a rule that was off before this engine was started, unless it still sounds."""
        for symbol_state in core.symbol_states.values():
            why = symbol_state.pipeline.rule_off
            if why and not any(why in text for text in self.sounding):
                self.sound(f"no rule decides: {why}")

    def observe(self, fact: Event | Output) -> None:
        """Take a fact of the journal: an alert that must be repeated, or an operator who acknowledges all alarms."""
        if isinstance(fact, Alert) and fact.code in REPEATED:
            self.sound(f"{fact.code}: {fact.text}")
        elif isinstance(fact, Operator) and fact.action == "acknowledge":
            self.sounding.clear()
            self._keep()

    def _keep(self) -> None:
        """Write the alarms to `run.json`; a full disk must not keep them from sounding."""
        with suppress(OSError):
            self._record.update(**{KEPT: self.sounding})

    async def repeat(self, every_s: float = EVERY_S) -> None:
        """Send each alarm again from time to time."""
        while True:
            await asyncio.sleep(every_s)
            for text in self.sounding:
                self._post(Message(f"{text}; repeated until `ctl ack`", Urgency.FAILURE))
