"""Every order that the check sends, by its name: noted before it is sent, and again with whatever proves its end.

The notes are what the clean-up goes by, in this process or in the one that watches it. What an order has executed is
what the exchange says of that order, by its name or by the number of the order that a stop became; a trade or a
position proves nothing of it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from voltrade.errors import SessionError
from voltrade.exchange.client import Response
from voltrade.exchange.remedies import KEY_CODES
from voltrade.exchange.responses import ABSENT, EXISTS, IN_MOTION, classify
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Outcome

ORDER, STOP = "fapiPrivatePostOrder", "fapiPrivatePostAlgoOrder"
"""Requests that place an order, and a conditional order."""
CANCEL_STOP = "fapiPrivateDeleteAlgoOrder"
"""The request that cancels a conditional order; its answer has no state."""
RESTING = ("NEW", "PARTIALLY_FILLED")
FINAL = ("FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED")
"""States after which an order executes nothing more; FINISHED is none: it is that of the order that a stop became."""


@dataclass
class SentOrder:
    """One order of the check; quantities are in coins, below zero where it sells."""

    name: str
    is_stop: bool
    quantity: Decimal
    """What it may execute; zero for a stop that closes whatever there is."""
    is_market: bool
    sent: int
    """When it may have been sent last, ms of the clock."""
    outcome: Outcome = Outcome.UNKNOWN
    """Whether it was accepted or refused; unknown until an answer says so, or the exchange shows the order."""
    status: str = ""
    """As the exchange has last told it; empty until it has."""
    executed: Decimal = Decimal(0)
    """What it has provably executed."""
    child: int = 0
    """The exchange's number of the order that a stop became."""
    became: str = ""
    """State of that order."""
    is_lost: bool = False
    """Whether an earlier attempt to send it has no answer, so that a refusal of a later one says nothing of it."""
    may_be_two: bool = False
    """Whether a stop that was lost was sent again by its name, which may have rested and ended before."""
    is_absent: bool = False
    """Whether it never arrived: no query and no list shows it after the time in which they would."""
    first_sent: int = field(init=False)
    """When it was sent first, ms of the check's clock."""

    def __post_init__(self) -> None:
        self.first_sent = self.sent

    @property
    def can_act(self) -> bool:
        """Whether it may still execute something, or has executed what nobody has told yet."""
        if self.outcome is Outcome.REFUSED or self.is_absent:
            return False
        return self.may_be_two or (self.became if self.child else self.status) not in FINAL

    @property
    def is_seen(self) -> bool:
        """Whether the exchange has told of it."""
        return bool(self.status or self.became)

    @property
    def has_left(self) -> bool:
        """Whether it has left its place in the book: a stop that did protects nothing, and may have sold."""
        return self.is_seen and (bool(self.child) or self.status not in RESTING)

    @property
    def is_sale(self) -> bool:
        return self.quantity <= 0

    def send_again(self, now: int) -> None:
        """Note another attempt to send it."""
        self.sent, self.is_absent = now, False
        self.is_lost = self.is_lost or self.outcome is Outcome.UNKNOWN
        self.may_be_two = self.is_stop and self.is_lost
        self.outcome = self.outcome if self.outcome is Outcome.ACCEPTED else Outcome.UNKNOWN

    def answer(self, outcome: Outcome, now: int) -> None:
        """Note the outcome of the last attempt, which ended now."""
        self.sent = now
        is_known = self.outcome is Outcome.ACCEPTED or (outcome is Outcome.REFUSED and self.is_lost)
        self.outcome = self.outcome if is_known else outcome

    def see(
        self, status: str = "", executed: str = "0", child: int = 0, became: str = "", is_one: bool = False
    ) -> None:
        """Note what the exchange tells of it; after a final state only that more was executed, which always counts.

        Where the name may be of two stops, `is_one` says that a cancel has shown that none rests any more.
        """
        self.executed = max(self.executed, Decimal(executed), key=abs)
        if not self.can_act and not self.is_absent:
            return
        self.outcome, self.is_absent = Outcome.ACCEPTED, False
        self.may_be_two = self.may_be_two and not is_one
        is_behind = status in RESTING and self.has_left
        self.status = self.status if is_behind else status or self.status
        self.child, self.became = child or self.child, became or self.became

    def would_see(self, **facts: Any) -> bool:
        """Whether `see` would change anything."""
        changed = copy(self)
        changed.see(**facts)
        return changed != self


class SentOrders:
    """The orders of one check."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None] = lambda note: None) -> None:
        self.by_name: dict[str, SentOrder] = {}
        self.tell = tell
        """Takes each note; an order's first one before it is sent."""
        self.closed = Decimal(0)
        """What others have closed of what was bought; it stays so, whatever they buy later."""
        self.used: deque[tuple[int, int]] = deque()
        """When the requests of clean-ups were sent in the last minute, and their weight."""
        self.is_watched: Callable[[], bool] = lambda: True
        """Whether the process that cleans up after this one is there."""

    @property
    def bought(self) -> Decimal:
        """What was provably bought and not provably sold, in coins; below zero where more was sold."""
        return sum((order.executed for order in self.by_name.values()), Decimal(0))

    @property
    def net(self) -> Decimal:
        """The same without what others have closed."""
        return self.bought - self.closed

    @property
    def undecided(self) -> list[SentOrder]:
        """The orders that can still act."""
        return [order for order in self.by_name.values() if order.can_act]

    async def ask(
        self, rest: BinanceRestClient, call: str, params: Mapping[str, Any], clock: Callable[[], int]
    ) -> Response:
        """Do a request; note the order that it places, and what its answer tells of any.

        Args:
            rest: Does it.
            call: Name of the request.
            params: Its parameters.
            clock: Time in ms.

        Raises:
            SessionError: It could open a position while nobody would close it if this process were killed.
        """
        name = str(params.get("clientAlgoId" if call in (STOP, CANCEL_STOP) else "newClientOrderId", ""))
        if call not in (ORDER, STOP) or not name:
            response = await rest.ask(call, params)
            if call == CANCEL_STOP and response.status == 200 and name in self.by_name:
                has_left = self.by_name[name].has_left  # then its own order, or a query, tells how it ended
                self.note({"name": name, "status": "" if has_left else "CANCELED", "is_one": True})
        else:
            response = await self._place(rest, call, params, clock, name)
        if response.status == 200:
            self.learn(response.body)
        return response

    async def _place(
        self, rest: BinanceRestClient, call: str, params: Mapping[str, Any], clock: Callable[[], int], name: str
    ) -> Response:
        if params["side"] == "BUY" and not self.is_watched():
            raise SessionError("the process that cleans up after this one has died: nothing more is bought")
        sign = "-" if params["side"] == "SELL" else ""
        facts = {"is_stop": call == STOP, "is_market": params.get("type") == "MARKET", "sent": clock()}
        self.note({"name": name, "quantity": f"{sign}{params.get('quantity', '0')}", **facts})
        outcome = Outcome.UNKNOWN
        try:
            response = await rest.ask(call, params)
            exists = response.code in EXISTS  # an earlier attempt has succeeded
            outcome = classify(response.status, response.code, response.text, "POST")
            outcome = Outcome.ACCEPTED if exists else outcome
        finally:
            self.note({"name": name, "outcome": outcome.value, "sent": clock()})
        return response

    def learn(self, body: Any) -> None:
        """Note what an answer, a list or an event tells of orders of the check."""
        for row in body if isinstance(body, list) else [body]:
            with suppress(ValueError, TypeError, ArithmeticError, AttributeError):  # unreadable
                self._learn_row(row)

    def learn_event(self, order: Mapping[str, Any]) -> None:
        """Note what an event of the private stream tells of an order."""
        facts = {"clientOrderId": "c", "status": "X", "executedQty": "z", "side": "S", "orderId": "i"}
        algo = {"clientAlgoId": "caid", "algoStatus": "X", "actualOrderId": "ai"}
        names = algo if "caid" in order else facts
        self.learn({name: order.get(short) for name, short in names.items()})

    def _learn_row(self, row: Any) -> None:
        facts: dict[str, Any]
        if "algoStatus" in row:
            order = self.by_name.get(str(row.get("clientAlgoId")))
            facts = {"status": row["algoStatus"], "child": int(row.get("actualOrderId") or 0)}
        elif "executedQty" in row and "status" in row:
            number, side = int(row.get("orderId") or 0), 1 if row.get("side") == "BUY" else -1
            order = self._of(str(row.get("clientOrderId")), number)
            is_child = order is not None and order.is_stop
            facts = {"child": number, "became": row["status"]} if is_child else {"status": row["status"]}
            facts["executed"] = f"{Decimal(row['executedQty']) * side:f}"
        else:
            return
        if order is not None and order.would_see(**facts):
            self.note({"name": order.name, **facts})

    def _of(self, name: str, number: int) -> SentOrder | None:
        became = (order for order in self.by_name.values() if number and order.child == number)
        return self.by_name.get(name) or next(became, None)

    def note(self, note: Mapping[str, Any]) -> None:
        """Take a note, and pass it on."""
        self.tell(note)
        self.hear(note)

    def hear(self, note: Mapping[str, Any]) -> None:
        """Take a note.

        It is of an order that is sent now, the outcome of one, what the exchange tells of it, what others have
        closed, or the weight of a request.
        """
        facts = dict(note)
        if "name" not in facts:
            self.closed += Decimal(facts.get("closed", 0))
            self.used.extend([(facts["at"], facts["weight"])] if "weight" in facts else [])
            return
        order = self.by_name.get(facts.pop("name"))
        if order is None:
            self.by_name[note["name"]] = SentOrder(**{**note, "quantity": Decimal(note["quantity"])})
        elif "outcome" in facts:
            order.answer(Outcome(facts["outcome"]), facts["sent"])
        elif "sent" in facts:
            order.send_again(facts["sent"])
        else:
            order.see(**facts)


def is_not_found(response: Response) -> bool:
    """Return whether the answer to a query for one order says that there is none.

    The exchange has several codes for it, of which some aren't documented. Codes down to -1999 are of the request,
    such as a wrong time; those of the key and of an order in motion say nothing of it either.
    """
    is_of_order = response.code <= -2000 and response.code not in KEY_CODES | IN_MOTION
    return response.code in ABSENT or (response.status == 400 and is_of_order)


def encoded(note: Mapping[str, Any]) -> bytes:
    """Return a note as one line."""
    return json.dumps(note).encode() + b"\n"
