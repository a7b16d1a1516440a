"""Every order that the check sends, by its name: noted before it is sent, and again with what became of it.

The notes are what the clean-up goes by, in this process or in the one that watches it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from voltrade.errors import SessionError
from voltrade.exchange.client import Response
from voltrade.exchange.responses import classify
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Outcome

ORDER, STOP = "fapiPrivatePostOrder", "fapiPrivatePostAlgoOrder"
"""Requests that place an order, and a conditional order."""


@dataclass
class SentOrder:
    """One order of the check; quantities are in coins, below zero where it sells."""

    name: str
    is_stop: bool
    quantity: Decimal
    """What it may execute; zero for a stop that closes whatever there is."""
    is_market: bool
    sent: int
    """When it was sent last, ms of the clock."""
    outcome: Outcome = Outcome.UNKNOWN
    """Whether it was accepted or refused; unknown until an answer says so."""
    status: str = ""
    """As a query has last told it; `absent` where there is no such order."""
    executed: Decimal | None = None
    """As a query has told it; None if none has."""
    ids: set[int] = field(default_factory=set)
    """The exchange's numbers of the order, and of the one that a stop became."""
    is_final: bool = False
    """Whether it can't change any more."""
    first_sent: int = field(init=False)
    """When it was sent first, ms of the check's clock: it has no trades from before."""

    def __post_init__(self) -> None:
        self.first_sent = self.sent


class SentOrders:
    """The orders of one check."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None] = lambda note: None) -> None:
        self.by_name: dict[str, SentOrder] = {}
        self.tell = tell
        """Takes each note, before the order is sent."""
        self.is_watched: Callable[[], bool] = lambda: True
        """Whether the process that cleans up after this one is there."""

    async def ask(self, rest: BinanceRestClient, call: str, params: Mapping[str, Any], now: int) -> Response:
        """Do a request; note an order that it places.

        Raises:
            SessionError: It could open a position while nobody would close it if this process were killed.
        """
        name = str(params.get("clientAlgoId" if call == STOP else "newClientOrderId", ""))
        if call not in (ORDER, STOP) or not name:
            return await rest.ask(call, params)
        if params["side"] == "BUY" and not self.is_watched():
            raise SessionError("the process that cleans up after this one has died: nothing more is bought")
        self._note(self._noted(name, call, params, now))
        response = await rest.ask(call, params)
        self._note({"name": name, "outcome": classify(response.status, response.code, response.text, "POST").value})
        return response

    @staticmethod
    def _noted(name: str, call: str, params: Mapping[str, Any], now: int) -> dict[str, Any]:
        sign = "-" if params["side"] == "SELL" else ""
        facts = {"is_stop": call == STOP, "is_market": params.get("type") == "MARKET", "sent": now}
        return {"name": name, "quantity": f"{sign}{params.get('quantity', '0')}", **facts}

    def _note(self, note: Mapping[str, Any]) -> None:
        self.tell(note)
        self.hear(note)

    def hear(self, note: Mapping[str, Any]) -> None:
        """Take a note: an order that is sent now, or the outcome of one."""
        order = self.by_name.get(note["name"])
        if "outcome" in note:
            if order is not None and order.outcome is not Outcome.ACCEPTED:  # an earlier attempt may have succeeded
                order.outcome = Outcome(note["outcome"])
        elif order is not None:
            order.sent = note["sent"]
            order.outcome = order.outcome if order.outcome is Outcome.ACCEPTED else Outcome.UNKNOWN
        else:
            self.by_name[note["name"]] = SentOrder(**{**note, "quantity": Decimal(note["quantity"])})


def encoded(note: Mapping[str, Any]) -> bytes:
    """Return a note as one line."""
    return json.dumps(note).encode() + b"\n"
