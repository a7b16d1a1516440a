"""When to read account, settings and filters although nothing asks for it; when the user stream counts as silent."""

from __future__ import annotations

from collections.abc import Iterable

from voltrade.model import (
    AccountSummary,
    AlgoUpdate,
    Event,
    MarkPrice,
    OrderUpdate,
    Outcome,
    Reply,
    Snapshot,
    StreamStatus,
)
from voltrade.orders.order_states import FILTER_CODES, SETTING_CODES

COMPARE = "COMPARE"
"""Reason for reading the account: it is time to compare it with our books."""
REPORT_WITHIN_MS = 2_000
"""The user stream reports an accepted order within this time, else it counts as silent; a trigger that the price has
passed without a report has the account read after it."""
PASSED_AGAIN_MS = 10_000
"""A trigger that was passed, and the account read since, is noted again this long after it was passed, not before."""
PAID_WITHIN_MS = 10_000
"""The user stream tells funding within this time; then the account is compared once."""
COMPARE_MS = 60_000
"""Longest time between comparisons of the account with our books; reading the settings counts as one."""
LATE_ORDER_MS, COMPARE_LATE_MS = 120_000, 3_000
"""The exchange may still execute an order for this long after it was concluded absent, or an order of an earlier engine
that this one doesn't know; the user stream may not report it, so until then the account is compared so often."""
SETTINGS_MS = 60_000
"""How often leverage, its bracket, margin type and modes are read, although no event says that they have changed."""
FILTERS_MS, INEXACT_MS, REFUSED_MS = 60_000, 10_000, 1_000
"""How often a symbol's filters and status are read: where nothing asks for it, and at most while prices or quantities
come that are no multiples of tick and step, or while orders are refused because of them."""


def _is_over(since: int, now: int, ms: int) -> bool:
    """Return whether `ms` have passed since a time; a time in the future, noted by a wrong clock, counts as passed."""
    return not since <= now < since + ms


class AccountWatch:
    """Follows the events of streams and answers, in the order in which they arrive."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        """Client order ids of orders whose reply has been seen."""
        self._reported: set[str] = set()
        """Client order ids of orders that the stream has reported."""
        self._awaited: dict[str, int] = {}
        """Orders that the exchange has accepted and the stream has not reported, with the time of acceptance, ms."""
        self._is_user_up = True
        """Whether the user stream can report: it isn't known to be down."""
        self._read_at = 0
        self._passed: dict[str, int] = {}
        """Orders whose trigger the price has passed, of which nothing was reported since; and when it did, ms."""
        self._late_from = -LATE_ORDER_MS
        """From when on an order may execute that our books don't have, or had concluded absent, ms."""
        self._funding_due = self._funded_at = 0
        """The next funding time, and the last one that is over, ms."""
        self._settings_read_at = self._settings_asked_at = 0
        """When the newest settings in use were requested; and when settings were last requested, answered or not."""
        self._filters_read_at, self._filters_after_ms = 0, FILTERS_MS
        self._inexact = 0
        """How many values the streams have read that were no multiples of tick or step."""

    def on_event(self, event: Event, now: int) -> None:
        """Note an event; `now` is in ms."""
        if isinstance(event, Reply) and event.outcome is Outcome.REFUSED:
            self._on_refused(event.code)
        match event:
            case OrderUpdate(client_order_id=name) | AlgoUpdate(client_order_id=name):
                self._reported.add(name)
                self._awaited.pop(name, None)
                self._passed.pop(name, None)
            case Reply(action="submit", client_order_id=name):
                self._sent.add(name)
                self._await(event, now)
            case Reply(action="lookup", client_order_id=name) if name in self._sent:
                self._await(event, now)
            case StreamStatus(stream="user", up=is_up):
                self._is_user_up = is_up
                self._awaited.clear()  # missing reports are replaced by reading the account
                self._settings_read_at = 0
            case Snapshot() | AccountSummary():
                self._read_at = now

    def _on_refused(self, code: int) -> None:
        """Note the code of a refusal: the settings that it concerns are read again at the next check, the filters once
        REFUSED_MS have passed since they were last read."""
        if code in FILTER_CODES:
            self._filters_after_ms = REFUSED_MS
        if code in SETTING_CODES:
            self._settings_read_at = self._settings_asked_at = 0

    def note_inexact(self, count: int) -> None:
        """Note how many values the streams have read that were no multiples of tick or step."""
        if count != self._inexact:
            self._inexact, self._filters_after_ms = count, min(INEXACT_MS, self._filters_after_ms)

    def are_filters_due(self, now: int) -> bool:
        """Return whether to read the symbol's filters and status."""
        return _is_over(self._filters_read_at, now, self._filters_after_ms)

    def on_filters(self, now: int) -> None:
        """Note that the filters are read now."""
        self._filters_read_at, self._filters_after_ms = now, FILTERS_MS

    def on_settings(self, asked: int) -> None:
        """Note that the account's settings are read, and when they were asked for; 0 where that failed.

        It is noted as they are asked for: they are older than any event that comes before the answer.
        """
        self._settings_read_at = asked
        self._settings_asked_at = asked or self._settings_asked_at

    def are_settings_due(self, now: int) -> bool:
        """Return whether to read the account's settings.

        They were read long ago, the user stream was down since, or an order was refused because of them.
        """
        return _is_over(self._settings_read_at, now, SETTINGS_MS)

    def _await(self, reply: Reply, now: int) -> None:
        if self._is_user_up and reply.outcome is Outcome.ACCEPTED and reply.client_order_id not in self._reported:
            self._awaited.setdefault(reply.client_order_id, now)

    def is_stream_silent(self, now: int) -> bool:
        """Return whether the user stream has failed to report an accepted order."""
        return any(now - since >= REPORT_WITHIN_MS for since in self._awaited.values())

    def note_mark(self, mark: MarkPrice) -> None:
        """Note from a mark price when funding is due, and when it was."""
        if 0 < self._funding_due <= mark.time:
            self._funded_at = self._funding_due
        self._funding_due = mark.next_funding_time

    def note_passed(self, now: int, passed: Iterable[str]) -> None:
        """Note the orders that we believe untriggered although the price is beyond their triggers now.

        Such an order may have triggered also if the price comes back. Once the account was read, it counts again when
        the price passes it again, PASSED_AGAIN_MS later at the earliest.
        """
        beyond = set(passed)
        self._passed = {
            name: since
            for name, since in self._passed.items()
            if name in beyond or since >= self._read_at or now - since < PASSED_AGAIN_MS
        }
        for name in beyond:
            self._passed.setdefault(name, now)

    def expect_late_orders(self, since: int) -> None:
        """Note that an order may execute that our books don't have, or had concluded absent at `since`, ms."""
        self._late_from = max(self._late_from, since)

    def _compare_after_ms(self, now: int) -> int:
        return COMPARE_MS if _is_over(self._late_from, now, LATE_ORDER_MS) else COMPARE_LATE_MS

    def is_due(self, now: int) -> bool:
        """Return whether to read the account: its last reading or that of its settings is old, an order was refused
        because of its settings, an order may execute late, a passed trigger was not reported, or funding was paid, of
        which the position must know before it ends.

        Never before the account was read for the first time.
        """
        is_unreported = any(
            now - since >= REPORT_WITHIN_MS and self._read_at < since for since in self._passed.values()
        )
        told_by = self._funded_at and self._funded_at + PAID_WITHIN_MS
        return self._read_at > 0 and (
            is_unreported
            or self._read_at < told_by <= now
            or _is_over(self._settings_asked_at, now, SETTINGS_MS)
            or _is_over(self._read_at, now, self._compare_after_ms(now))
        )
