"""News of a session on a phone, through apprise: what filled, what a stop or a stream lacks, what the breaker does.

`News` turns the facts that the journal gets into texts; `Notifier` sends them from a thread of its own. Trading never
waits for it and never fails by it: its queue is bounded, what doesn't fit is dropped and counted, and an address that
doesn't take messages is only told of in the log. Addresses hold tokens. They come from the environment or from a file
that nobody else can read, are never parameters, and appear in no file that a session writes.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from voltrade.errors import ConfigError
from voltrade.exchange.credentials import read_private
from voltrade.model import (
    MONEY,
    NEVER,
    Alert,
    BreakerChange,
    EngineRestarted,
    Event,
    Instrument,
    Operator,
    OrderIntent,
    OrderUpdate,
    Output,
    Purpose,
    RoundTrip,
    Side,
    Snapshot,
    StreamStatus,
    printable,
)
from voltrade.order_states import DONE, STATUS_ALIASES
from voltrade.risk import COUNTED

ADDRESSES, ADDRESS_FILE = "VOLTRADE_NOTIFY", "VOLTRADE_NOTIFY_FILE"
"""Environment: apprise's addresses, apart by blanks; or the path of a 0600 file with one a line."""

WAITING = 200
"""Messages that wait at most; more are dropped and counted."""
EVERY_S = 5.0
"""Between two notifications; what comes meanwhile goes into one."""
MOST_DOUBLINGS = 4
"""Of that time, while no address takes anything."""
LINES = 20
"""Of one notification; the rest is counted."""
CLOSES_WITHIN_S = 6.0
"""Longest wait for the last message at a session's end."""
REPEATS_AFTER_MS = 600_000
"""The same alert isn't told again before."""

log = logging.getLogger(__name__)


class Urgency(IntEnum):
    INFO = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One line of news."""

    text: str
    urgency: Urgency = Urgency.INFO


# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Filling:
    """What is known of an order that fills: lots and ticklots so far, and how much there will be once it has ended."""

    intent: OrderIntent
    trade_ids: set[int] = field(default_factory=set)
    quantity: int = 0
    notional: int = 0
    realised: int = 0
    fees: int = 0
    final: int | None = None


class News:
    """Turns facts into messages, in the order in which the journal gets them.

    An order is told of once, when it has ended and all its fills are known; one that closes a position is told of by
    its round trip.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._orders: dict[str, _Filling] = {}
        self._exits: list[Message] = []
        """Of orders that may have closed the position: the round trip follows at once, or they didn't."""
        self._down: set[str] = set()
        self._alerts: dict[str, int] = {}
        self._greeting = "started"
        self._trips = self._net = 0

    def of(self, fact: Event | Output) -> list[Message]:
        """Return what is to be told of a fact; most facts are none of a trader's business."""
        tell = _TELLERS.get(type(fact))
        told: list[Message] = []
        if self._exits and isinstance(fact, Event):
            told, self._exits = self._exits, []
        return [*told, *tell(self, fact)] if tell else told

    def ended(self, reason: str, head: str) -> Message:
        """Tell of a session's end."""
        return Message(f"ended: {reason}; {self._trips} round trips, net {self._money(self._net)}; head {head}")

    def _on_intent(self, intent: OrderIntent) -> Iterator[Message]:
        self._orders[intent.order.client_order_id] = _Filling(intent)
        yield from ()

    def _on_order(self, update: OrderUpdate) -> Iterator[Message]:
        order = self._orders.get(update.client_order_id)
        if order is None:
            return
        if update.trade_id and update.trade_id not in order.trade_ids:
            order.trade_ids.add(update.trade_id)
            order.quantity += update.last_quantity
            order.notional += update.last_price * update.last_quantity
            order.realised += update.realised
            order.fees += update.fee
        if STATUS_ALIASES.get(update.status, update.status) in DONE:
            order.final = update.filled
        if order.final is not None and order.quantity >= order.final:
            del self._orders[update.client_order_id]
            if order.quantity:
                yield from self._filled(order)

    def _filled(self, order: _Filling) -> Iterator[Message]:
        request, purpose = order.intent.order, order.intent.purpose
        at = f"{request.side.name} {self._coins(order.quantity)} at {self._price(order.notional, order.quantity)}"
        if purpose is Purpose.ENTRY:
            yield Message(f"{at} · entry, {self._money(self._instrument.notional(order.notional), signed=False)}")
        else:
            why = purpose.name.lower().replace("_", "-")
            self._exits.append(Message(f"{at} · {why}, PnL {self._money(order.realised - order.fees)}"))

    def _on_round_trip(self, trip: RoundTrip) -> Iterator[Message]:
        self._exits.clear()
        self._orders = {name: order for name, order in self._orders.items() if order.intent.round_trip != trip.id}
        self._trips += 1
        self._net += trip.net
        side = "LONG" if trip.side is Side.BUY else "SHORT"
        entry, leaving = (self._price(part, trip.quantity) for part in (trip.entry_notional, trip.exit_notional))
        what = f"closed {side} {self._coins(trip.quantity)} {entry} → {leaving}"
        yield Message(f"{what} · {trip.exit_reason} · net {self._money(trip.net)}")

    def _on_snapshot(self, snapshot: Snapshot) -> Iterator[Message]:
        for fill in snapshot.fills:
            yield from self._on_order(fill)
        if self._greeting:
            held = snapshot.position
            position = f"{self._coins(held.quantity)} from {held.entry_price}" if held.quantity else "flat"
            yield Message(f"{self._greeting}: wallet {self._money(snapshot.wallet, signed=False)}, {position}")
            self._greeting = ""

    def _on_restart(self, restart: EngineRestarted) -> Iterator[Message]:
        self._greeting = "engine was killed and started again"
        yield from ()

    def _on_breaker(self, change: BreakerChange) -> Iterator[Message]:
        if change.action == "resume":
            yield Message(f"breaker: {change.rule} let go, {change.mode}")
            return
        until = "until a person resumes" if change.resume_at == NEVER else f"until {_clock(change.resume_at)}"
        write = str if change.rule in COUNTED else self._money
        measured = f", {write(change.measure)} of {write(change.limit)}" if change.limit else ""
        urgency = Urgency.FAILURE if change.mode == "HALTED" else Urgency.WARNING
        yield Message(f"{change.mode}: {change.rule}{measured}; {change.action} {until}", urgency)

    def _on_alert(self, alert: Alert) -> Iterator[Message]:
        text = f"{alert.code}: {alert.text}"
        if alert.time - self._alerts.get(text, -REPEATS_AFTER_MS) >= REPEATS_AFTER_MS:
            self._alerts[text] = alert.time
            yield Message(text, Urgency.FAILURE if alert.code in GRAVE else Urgency.WARNING)

    def _on_stream_status(self, link: StreamStatus) -> Iterator[Message]:
        what = {"market": "market data", "user": "account news"}[link.stream]
        if not link.up and link.stream not in self._down:
            self._down.add(link.stream)
            yield Message(f"{what}: silent since {_clock(link.time)}", Urgency.WARNING)
        elif link.up and link.stream in self._down:
            self._down.remove(link.stream)
            yield Message(f"{what}: back at {_clock(link.time)}")

    def _on_operator(self, command: Operator) -> Iterator[Message]:
        if command.reason != "TAPE_END":
            then = ", then the end" if command.final else ""
            yield Message(f"ordered: {command.action}{then}; {command.reason or 'no reason given'}", Urgency.WARNING)

    # --- numbers ---------------------------------------------------------------------------------------------------

    def _price(self, ticklots: int, lots: int) -> str:
        decimals = max(-int(self._instrument.tick_size.normalize().as_tuple().exponent), 0)
        return f"{float(Fraction(ticklots, lots) * Fraction(self._instrument.tick_size)):,.{decimals}f}"

    def _coins(self, lots: int) -> str:
        return f"{self._instrument.quantity(lots):f} {self._instrument.base_asset}"

    def _money(self, units: int, signed: bool = True) -> str:
        return f"{units / MONEY:{'+,.2f' if signed else ',.2f'}} {self._instrument.quote_asset}"


GRAVE = {"STOP_MISSING", "POSITION_MISMATCH", "ACCOUNT_MISMATCH"}
"""Alerts that a person should look at now."""

_TELLERS: dict[type, Callable[[News, Any], Iterator[Message]]] = {
    OrderIntent: News._on_intent,
    OrderUpdate: News._on_order,
    RoundTrip: News._on_round_trip,
    Snapshot: News._on_snapshot,
    EngineRestarted: News._on_restart,
    BreakerChange: News._on_breaker,
    Alert: News._on_alert,
    StreamStatus: News._on_stream_status,
    Operator: News._on_operator,
}


def _clock(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1000, UTC):%H:%M:%S} UTC"


# --- how it is told --------------------------------------------------------------------------------------------------


class Notifier:
    """Sends messages to the addresses that the environment names; without any it does nothing.

    Args:
        environment: such as `os.environ`.
        title: of every notification: which session it is.
        every_s: see EVERY_S.

    Attributes:
        dropped: messages that found no room.
        problems: what is wrong with the addresses, without what they say.
    """

    def __init__(self, environment: Mapping[str, str], title: str, every_s: float = EVERY_S) -> None:
        self._title = printable(title)
        self._every_s = every_s
        self._services: list[tuple[str, Any]] = []
        self.problems: list[str] = []
        self.dropped = 0
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._told_dropped = 0
        self._failing: set[int] = set()
        self._thread: threading.Thread | None = None
        try:
            for number, address in enumerate(_addresses(environment), start=1):
                self._add(number, address)
        except ConfigError as error:
            self.problems.append(str(error))
        for problem in self.problems:
            log.warning("notifications: %s", problem)

    def _add(self, number: int, address: str) -> None:
        # Imported by those alone who have addresses.
        import apprise

        # Apprise's own words may quote an address; ours never do.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        asset = apprise.AppriseAsset(app_id="voltrade", async_mode=False, storage_mode="memory")
        service = apprise.Apprise(asset=asset)
        kind = _KIND.match(address)
        if kind and service.add(address):
            self._services.append((kind[1], service))
        else:
            self.problems.append(f"address {number} is none that apprise knows")

    @property
    def kinds(self) -> list[str]:
        """What kinds of addresses there are, such as `tgram`."""
        return [kind for kind, _ in self._services]

    def observer(self, news: News) -> Callable[[Event | Output], None]:
        """Return what is to be called with every fact that is journaled; it never raises and never waits."""
        if not self._services:
            return lambda fact: None

        def observe(fact: Event | Output) -> None:
            try:
                for message in news.of(fact):
                    self.post(message)
            except Exception:  # a text that can't be made must not cost a trade
                log.exception("no text could be made of a %s", type(fact).__name__)

        return observe

    def post(self, message: Message) -> None:
        """Let a message be sent soon; without room for it, drop and count it."""
        if not self._services:
            return
        with self._changed:
            if self._closed or len(self._waiting) >= WAITING:
                self.dropped += 1
                return
            self._waiting.append(message)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
                self._thread.start()

    def close(self, within_s: float = CLOSES_WITHIN_S) -> None:
        """Send what waits, and stop; give up on it after so long."""
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
                self._keep(messages)
            self._pause(self._every_s * 2 ** min(failures, MOST_DOUBLINGS))

    def _keep(self, messages: list[Message]) -> None:
        """Put back what nobody took, to be tried again; at the end there is no again."""
        with self._changed:
            room = 0 if self._closed else WAITING - len(self._waiting)
            self._waiting.extendleft(reversed(messages[:room]))
            self.dropped += len(messages[room:])

    def _pause(self, seconds: float) -> None:
        """Let more messages come together; an end is told at once."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _send(self, messages: list[Message]) -> bool:
        """Send messages as one notification; return whether any address took it."""
        lines = [printable(message.text) for message in messages]
        if len(lines) > LINES:
            # The last one is kept: an end is told last.
            lines = [*lines[: LINES - 2], f"… {len(lines) - LINES + 1} more …", lines[-1]]
        dropped = self.dropped
        if dropped > self._told_dropped:
            lines.append(f"{dropped - self._told_dropped} messages were dropped")
        urgency = max(message.urgency for message in messages)
        told = {"title": self._title, "notify_type": urgency.name.lower(), "body_format": "text"}
        taken = [self._deliver(number, "\n".join(lines), told) for number in range(len(self._services))]
        if any(taken):
            self._told_dropped = dropped
        return any(taken)

    def _deliver(self, number: int, body: str, told: Mapping[str, str]) -> bool:
        kind, service = self._services[number]
        try:
            taken = bool(service.notify(body, **told))
        except Exception:  # whatever a service's code does: here no order depends on it
            taken = False
        self._note(number, kind, taken)
        return taken

    def _note(self, number: int, kind: str, taken: bool) -> None:
        """Log when an address stops taking messages, and when it takes them again; never what it says."""
        if taken == (number in self._failing):
            (self._failing.discard if taken else self._failing.add)(number)
            log.warning("notifications to address %d (%s) %s", number + 1, kind, "arrive again" if taken else "fail")


def _addresses(environment: Mapping[str, str]) -> list[str]:
    """The addresses that the environment names.

    Raises:
        ConfigError: the file that it names can't be read, or is open to others.
    """
    text = environment.get(ADDRESSES, "")
    if file := environment.get(ADDRESS_FILE, ""):
        lines = read_private(Path(file)).splitlines()
        text = " ".join([text, *(line for line in lines if not line.lstrip().startswith("#"))])
    return text.split()


_KIND = re.compile(r"([a-z0-9]{1,20})://")
"""What is told of an address: the part before its secrets."""
