"""When a session is abandoned: a second command ends it while nothing is heard of the exchange.

The stop policy can't be carried out then, nor can its result be checked. Whether the exchange is gone is decided when
the loop takes the command, not when it is given: the exchange may be back by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from voltrade.model import (
    NOTEBOOK_LOST,
    AccountSummary,
    AccountUpdate,
    AlgoUpdate,
    Event,
    Operator,
    OrderUpdate,
    Outcome,
    Reply,
    Snapshot,
)

GONE_MS = 10_000
"""An exchange that has sent nothing for this long counts as gone. The second command must also come at least this long
after the first."""

WORDS = (OrderUpdate, AlgoUpdate, AccountUpdate, Reply, Snapshot, AccountSummary)
"""Events of the exchange, and replies, some of which we make ourselves."""


class Abandonment:
    """Notes when the exchange was last heard, and decides which command to end the session abandons it.

    Args:
        clock: returns the time in ms.
        blocked_until: returns until when we ask nothing, since the exchange blocks requests, ms of the clock.
    """

    def __init__(self, clock: Callable[[], int], blocked_until: Callable[[], int]) -> None:
        self._clock, self._blocked_until = clock, blocked_until
        self._frames = 0
        self._heard_at = self._told_at = 0
        """When anything was last heard of the exchange, and when the session was first told to end."""

    def note_heard(self) -> None:
        """Note that the exchange has answered."""
        self._heard_at = self._clock()

    def note_frames(self, count: int) -> None:
        """Note how many frames the streams have brought in all."""
        if count != self._frames:
            self._frames = count
            self.note_heard()

    def on_event(self, event: Event) -> None:
        """Note an event that comes from the exchange; a reply to a request that it never answered doesn't."""
        if isinstance(event, WORDS) and not (isinstance(event, Reply) and _is_unanswered(event)):
            self.note_heard()

    def taken(self, event: Event) -> Event:
        """Return an event as the loop takes it.

        A command has the time at which it is taken, since the clock may have been corrected after it was given; and
        one that ends the session abandons it where it must.
        """
        if not isinstance(event, Operator):
            return event
        now, action = self._clock(), event.action
        if _is_stop(event):
            self._told_at = min(self._told_at or event.time, now)
            action = "abandon" if self._is_due(self._told_at, event.time) else action
        return replace(event, time=now, action=action)

    def is_wanted(self, waiting: Iterable[Event]) -> bool:
        """Return whether a command that waits to be taken would abandon the session."""
        told = [event.time for event in waiting if isinstance(event, Operator) and _is_stop(event)]
        return bool(told) and self._is_due(self._told_at or told[0], told[-1])

    def _is_due(self, first: int, last: int) -> bool:
        heard_at = max(self._heard_at, self._blocked_until())  # while we may not ask, silence says nothing
        return last - first >= GONE_MS and self._clock() - heard_at >= GONE_MS


def _is_stop(command: Operator) -> bool:
    """Return whether a command ends the session, unless it was given because the notebook is lost."""
    return command.final and command.reason != NOTEBOOK_LOST


def _is_unanswered(reply: Reply) -> bool:
    """Return whether a reply is without an answer of the exchange: its outcome is unknown, or nothing was sent."""
    return reply.outcome is Outcome.UNKNOWN or (reply.outcome is Outcome.REFUSED and reply.code >= 0)
