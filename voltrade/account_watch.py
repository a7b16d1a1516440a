"""When the account is to be read though nothing asks for it, and whether its stream has fallen silent."""

from __future__ import annotations

from voltrade.model import AlgoUpdate, Event, OrderUpdate, Outcome, Reply, Snapshot, StreamStatus

HEARD_WITHIN_MS = 2_000
"""The user stream tells so soon of an order that the exchange has accepted."""
COMPARE_MS, COMPARE_FLAT_MS = 60_000, 300_000
"""How often the account is compared with our books: while a position or an order is in hand, and while flat."""


class AccountWatch:
    """Sees what streams and answers bring, in the order in which the core gets it."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        """Client ids of orders that were sent since this began to see."""
        self._heard: set[str] = set()
        """Client ids of orders of which the stream has told anything."""
        self._awaited: dict[str, int] = {}
        """Orders that the exchange has accepted and of which the stream has told nothing, since when, ms."""
        self._read_at = self._passed_at = 0

    def see(self, event: Event, now: int) -> None:
        match event:
            case OrderUpdate(client_order_id=name) | AlgoUpdate(client_order_id=name):
                self._heard.add(name)
                self._awaited.pop(name, None)
            case Reply(action="submit", client_order_id=name):
                self._sent.add(name)
                self._await(event, now)
            case Reply(action="lookup", client_order_id=name) if name in self._sent:
                self._await(event, now)
            case StreamStatus(stream="user"):
                self._awaited.clear()  # what it has not told is read from the account
            case Snapshot():
                self._read_at = now

    def _await(self, reply: Reply, now: int) -> None:
        if reply.outcome is Outcome.ACCEPTED and reply.client_order_id not in self._heard:
            self._awaited.setdefault(reply.client_order_id, now)

    def is_deaf(self, now: int) -> bool:
        """Whether the user stream has not told of an order that was accepted."""
        return any(now - since >= HEARD_WITHIN_MS for since in self._awaited.values())

    def is_due(self, now: int, has_position: bool, is_passed: bool) -> bool:
        """Whether the account is to be compared: it was not read for long, or a trigger is passed and nothing is told.

        Not before it was read at all.
        """
        self._passed_at = (self._passed_at or now) if is_passed else 0
        is_untold = is_passed and now - self._passed_at >= HEARD_WITHIN_MS and self._read_at < self._passed_at
        return self._read_at > 0 and (
            is_untold or now - self._read_at >= (COMPARE_MS if has_position else COMPARE_FLAT_MS)
        )
