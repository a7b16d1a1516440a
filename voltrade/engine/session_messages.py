"""Messages about a session, made from the facts in the journal: fills, closed positions, alerts, limits and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from voltrade import journal
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
)
from voltrade.orders.order_states import DONE, STATUS_ALIASES
from voltrade.risk import COUNTED

REPEAT_AFTER_MS = 600_000
"""An alert that is raised again within this time is not sent again; nothing here repeats an alert by itself."""


class Urgency(IntEnum):
    INFO = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One line of a notification."""

    text: str
    urgency: Urgency = Urgency.INFO


@dataclass(slots=True)
class _OpenOrder:
    """The fills of an order so far.

    `quantity` is in lots, `notional` in ticks x lots. `final` is the total quantity once the order has ended.
    """

    intent: OrderIntent
    trade_ids: set[int] = field(default_factory=set)
    quantity: int = 0
    notional: int = 0
    realised: int = 0
    fees: int = 0
    final: int | None = None


def nets_of(path: Path) -> list[int]:
    """Return the nets of all round trips of a run's journal, those of its earlier engines too."""
    return [row.fact.net for row in journal.read(path, kind=RoundTrip.__name__)]


class SessionMessages:
    """Turns facts into messages, in the order of the journal.

    An order gets one message, when it has ended and all its fills are known. An order that closes a position gets none:
    the message of the round trip replaces it.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._orders: dict[str, _OpenOrder] = {}
        self._exits: list[Message] = []
        """Messages of orders that may have closed the position; dropped if a round trip follows at once."""
        self._down: set[str] = set()
        self._alerts: dict[str, int] = {}
        self._greeting = "started"

    def of(self, fact: Event | Output) -> list[Message]:
        """Return the messages of a fact; most facts have none."""
        handler = _HANDLERS.get(type(fact))
        messages: list[Message] = []
        if self._exits and isinstance(fact, Event):
            messages, self._exits = self._exits, []
        return [*messages, *handler(self, fact)] if handler else messages

    def ended(self, reason: str, head: str, nets: Sequence[int], left: str = "") -> Message:
        """Return the message of a session's end, with the nets of all its round trips, in money, and what is `left` at
        the exchange."""
        untended = f"; nobody looks after what is left at the exchange: {left}" if left else ""
        return Message(f"ended: {reason}; {len(nets)} round trips, net {self._money(sum(nets))}{untended}; head {head}")

    def _on_intent(self, intent: OrderIntent) -> Iterator[Message]:
        self._orders[intent.order.client_order_id] = _OpenOrder(intent)
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

    def _filled(self, order: _OpenOrder) -> Iterator[Message]:
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
        side = "LONG" if trip.side is Side.BUY else "SHORT"
        entry, exit_ = (self._price(part, trip.quantity) for part in (trip.entry_notional, trip.exit_notional))
        what = f"closed {side} {self._coins(trip.quantity)} {entry} → {exit_}"
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
            yield Message(f"breaker: {change.rule} released, {change.mode}")
            return
        until = "until an operator resumes" if change.release_at == NEVER else f"until {_clock(change.release_at)}"
        write = str if change.rule in COUNTED else self._money
        measured = f", {write(change.measure)} of {write(change.limit)}" if change.limit else ""
        urgency = Urgency.FAILURE if change.mode == "HALTED" else Urgency.WARNING
        yield Message(f"{change.mode}: {change.reason or change.rule}{measured}; {change.action} {until}", urgency)

    def _on_alert(self, alert: Alert) -> Iterator[Message]:
        text = f"{alert.code}: {alert.text}"
        if alert.time - self._alerts.get(text, -REPEAT_AFTER_MS) >= REPEAT_AFTER_MS:
            self._alerts[text] = alert.time
            yield Message(text, Urgency.FAILURE if alert.code in URGENT else Urgency.WARNING)

    def _on_stream_status(self, status: StreamStatus) -> Iterator[Message]:
        what = {"market": "market data", "user": "account updates"}[status.stream]
        if not status.up and status.stream not in self._down:
            self._down.add(status.stream)
            yield Message(f"{what}: silent since {_clock(status.time)}", Urgency.WARNING)
        elif status.up and status.stream in self._down:
            self._down.remove(status.stream)
            yield Message(f"{what}: back at {_clock(status.time)}")

    def _on_operator(self, command: Operator) -> Iterator[Message]:
        if command.reason != "TAPE_END":
            then = ", then the end" if command.final else ""
            yield Message(f"command: {command.action}{then}; {command.reason or 'no reason given'}", Urgency.WARNING)

    # --- numbers ---------------------------------------------------------------------------------------------------

    def _price(self, ticklots: int, lots: int) -> str:
        decimals = max(-int(self._instrument.tick_size.normalize().as_tuple().exponent), 0)
        return f"{float(Fraction(ticklots, lots) * Fraction(self._instrument.tick_size)):,.{decimals}f}"

    def _coins(self, lots: int) -> str:
        return f"{self._instrument.quantity(lots):f} {self._instrument.base_asset}"

    def _money(self, units: int, signed: bool = True) -> str:
        return f"{units / MONEY:{'+,.2f' if signed else ',.2f'}} {self._instrument.quote_asset}"


URGENT = {"STOP_MISSING", "POSITION_MISMATCH", "ACCOUNT_MISMATCH", "ABANDONED"}
"""Alerts that need the trader's attention now."""

_HANDLERS: dict[type, Callable[[SessionMessages, Any], Iterator[Message]]] = {
    OrderIntent: SessionMessages._on_intent,
    OrderUpdate: SessionMessages._on_order,
    RoundTrip: SessionMessages._on_round_trip,
    Snapshot: SessionMessages._on_snapshot,
    EngineRestarted: SessionMessages._on_restart,
    BreakerChange: SessionMessages._on_breaker,
    Alert: SessionMessages._on_alert,
    StreamStatus: SessionMessages._on_stream_status,
    Operator: SessionMessages._on_operator,
}


def _clock(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1000, UTC):%H:%M:%S} UTC"
