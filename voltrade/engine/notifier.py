"""Sends messages about a session to a phone or chat, through apprise.

A separate thread sends the messages, so that trading never waits for it and never fails by it: the queue is limited,
messages that don't fit are dropped and counted, and an address that fails is only logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from voltrade.engine.notification_addresses import addresses, deliver, service_of
from voltrade.engine.session_messages import Message, SessionMessages
from voltrade.errors import ConfigError
from voltrade.model import Event, Output, printable

MAX_WAITING = 200
"""Most messages in the queue; more are dropped and counted."""
INTERVAL_S = 5.0
"""Time between two notifications; messages that come meanwhile are sent together."""
MAX_DOUBLINGS = 4
"""How often this time is doubled while no address accepts a notification."""
MAX_LINES = 20
"""Most lines of one notification; the others are counted."""
CLOSE_WITHIN_S = 6.0
"""Longest wait for the last notification at a session's end."""

log = logging.getLogger(__name__)


class Notifier:
    """Sends messages to the addresses in the environment; without any it does nothing.

    Args:
        environment: Such as `os.environ`.
        title: Title of every notification; names the session.
        every_s: Time between two notifications, see `INTERVAL_S`.

    Attributes:
        dropped: Count of messages that the queue had no room for.
        problems: What is wrong with the addresses; the text has no address.
    """

    def __init__(self, environment: Mapping[str, str], title: str, every_s: float = INTERVAL_S) -> None:
        self._title = printable(title)
        self._every_s = every_s
        self._services: list[tuple[str, Any]] = []
        self.problems: list[str] = []
        self.dropped = 0
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._reported_dropped = 0
        self._failing: set[int] = set()
        self._thread: threading.Thread | None = None
        try:
            for number, address in enumerate(addresses(environment), start=1):
                self._add(number, address)
        except ConfigError as error:
            self.problems.append(str(error))
        for problem in self.problems:
            log.warning("notifications: %s", problem)

    def _add(self, number: int, address: str) -> None:
        if (service := service_of(address)) is not None:
            self._services.append(service)
        else:
            self.problems.append(f"address {number} is none that apprise knows")

    @property
    def kinds(self) -> list[str]:
        """The services of the addresses, such as `tgram`."""
        return [kind for kind, _ in self._services]

    def observer(self, messages: SessionMessages) -> Callable[[Event | Output], None]:
        """Return a function to call with every journaled fact; it never raises and never waits."""
        if not self._services:
            return lambda fact: None

        def observe(fact: Event | Output) -> None:
            try:
                for message in messages.of(fact):
                    self.post(message)
            except Exception:  # a failed message must not stop trading
                log.exception("no text could be made of a %s", type(fact).__name__)

        return observe

    def post(self, message: Message) -> None:
        """Put a message into the queue; if the queue is full, drop and count it."""
        if not self._services:
            return
        with self._changed:
            if self._closed or len(self._waiting) >= MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(message)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
                self._thread.start()

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Send the queued messages and stop; give up after this time."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within_s)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                messages = list(self._waiting)
                self._waiting.clear()
            if not messages:
                return
            failures = 0 if self._send(messages) else failures + 1
            if failures:
                self._put_back(messages)
            self._pause(self._every_s * 2 ** min(failures, MAX_DOUBLINGS))

    def _put_back(self, messages: list[Message]) -> None:
        """Put messages that no address accepted back into the queue; drop them at the session's end."""
        with self._changed:
            room = 0 if self._closed else MAX_WAITING - len(self._waiting)
            self._waiting.extendleft(reversed(messages[:room]))
            self.dropped += len(messages[room:])

    def _pause(self, seconds: float) -> None:
        """Wait, so that more messages are sent together; a session's end interrupts the wait."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _send(self, messages: list[Message]) -> bool:
        """Send messages as one notification; return whether any address accepted it."""
        lines = [printable(message.text) for message in messages]
        if len(lines) > MAX_LINES:
            # The last line is kept, because it may be the session's end.
            lines = [*lines[: MAX_LINES - 2], f"… {len(lines) - MAX_LINES + 1} more …", lines[-1]]
        dropped = self.dropped
        if dropped > self._reported_dropped:
            lines.append(f"{dropped - self._reported_dropped} messages were dropped")
        urgency = max(message.urgency for message in messages)
        options = {"title": self._title, "notify_type": urgency.name.lower()}
        accepted = [self._deliver(number, "\n".join(lines), options) for number in range(len(self._services))]
        if any(accepted):
            self._reported_dropped = dropped
        return any(accepted)

    def _deliver(self, number: int, body: str, options: Mapping[str, str]) -> bool:
        kind, service = self._services[number]
        accepted = deliver(service, body, **options)
        self._log_change(number, kind, accepted)
        return accepted

    def _log_change(self, number: int, kind: str, accepted: bool) -> None:
        """Log when an address starts to fail, and when it works again; the address itself is never logged."""
        if accepted == (number in self._failing):
            (self._failing.discard if accepted else self._failing.add)(number)
            log.warning("notifications to address %d (%s) %s", number + 1, kind, "arrive again" if accepted else "fail")
