"""Orders from intent to end, and the position in hand.

`OrderMonitor` registers an order before it is sent, follows it through replies, stream events and look-ups in whatever
order they arrive, counts each fill once, and tends the position: a stop on the first fill, resized after, a
take-profit, exits, and the cancelling of what is left over. An order's life is a table of legal moves; news that is
late or doubled is no legal move and changes nothing. What to do when an order is refused is a table too.

The monitor decides and returns outputs; it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from voltrade.compiled import compiled
from voltrade.config import ExecutionSettings, ExitSettings, milliseconds
from voltrade.errors import DataError
from voltrade.model import (
    NEVER,
    Alert,
    AlgoUpdate,
    CancelOrder,
    Instrument,
    LookupOrder,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Purpose,
    Reply,
    RoundTrip,
    Side,
    Snapshot,
    TakeSnapshot,
    TimeInForce,
    WorkingType,
)

# --- the life of an order ------------------------------------------------------------------------------------------


class OrderState(StrEnum):
    """State of an ordinary order. UNKNOWN means that a request's outcome isn't known; NOT_PLACED, that it never was."""

    PENDING_SUBMIT = "PENDING_SUBMIT"
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    PENDING_CANCEL = "PENDING_CANCEL"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    NOT_PLACED = "NOT_PLACED"


class AlgoState(StrEnum):
    """State of a conditional order. A triggered order isn't a filled one: its child order fills or expires."""

    PENDING_SUBMIT = "PENDING_SUBMIT"
    NEW = "NEW"
    TRIGGERING = "TRIGGERING"
    TRIGGERED = "TRIGGERED"
    FINISHED = "FINISHED"
    PENDING_CANCEL = "PENDING_CANCEL"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    NOT_PLACED = "NOT_PLACED"


_O, _A = OrderState, AlgoState
_KNOWN = frozenset({_O.NEW, _O.PARTIALLY_FILLED, _O.FILLED, _O.CANCELED, _O.REJECTED, _O.EXPIRED})
_ALGO_KNOWN = frozenset({_A.NEW, _A.TRIGGERING, _A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED})
_ENDED: frozenset[OrderState] = frozenset()
_ALGO_ENDED: frozenset[AlgoState] = frozenset()

MOVES: dict[OrderState, frozenset[OrderState]] = {
    _O.PENDING_SUBMIT: _KNOWN | {_O.UNKNOWN, _O.NOT_PLACED, _O.PENDING_CANCEL},
    _O.NEW: frozenset({_O.PARTIALLY_FILLED, _O.FILLED, _O.PENDING_CANCEL, _O.CANCELED, _O.EXPIRED, _O.REJECTED}),
    _O.PARTIALLY_FILLED: frozenset({_O.FILLED, _O.PENDING_CANCEL, _O.CANCELED, _O.EXPIRED}),
    # A refused cancel puts the order back to what a look-up then says.
    _O.PENDING_CANCEL: _KNOWN | {_O.UNKNOWN},
    _O.UNKNOWN: _KNOWN | {_O.NOT_PLACED},
    # Concluded absent, yet the exchange speaks of it: the order is adopted.
    _O.NOT_PLACED: _KNOWN,
    _O.FILLED: _ENDED,
    _O.CANCELED: _ENDED,
    _O.REJECTED: _ENDED,
    _O.EXPIRED: _ENDED,
}

ALGO_MOVES: dict[AlgoState, frozenset[AlgoState]] = {
    _A.PENDING_SUBMIT: _ALGO_KNOWN | {_A.UNKNOWN, _A.NOT_PLACED, _A.PENDING_CANCEL},
    _A.NEW: (_ALGO_KNOWN - {_A.NEW}) | {_A.PENDING_CANCEL},
    _A.TRIGGERING: frozenset({_A.TRIGGERED, _A.FINISHED, _A.CANCELED, _A.REJECTED, _A.EXPIRED}),
    _A.TRIGGERED: frozenset({_A.FINISHED, _A.CANCELED, _A.EXPIRED}),
    _A.PENDING_CANCEL: _ALGO_KNOWN | {_A.UNKNOWN},
    _A.UNKNOWN: _ALGO_KNOWN | {_A.NOT_PLACED},
    _A.NOT_PLACED: _ALGO_KNOWN,
    _A.FINISHED: _ALGO_ENDED,
    _A.CANCELED: _ALGO_ENDED,
    _A.REJECTED: _ALGO_ENDED,
    _A.EXPIRED: _ALGO_ENDED,
}

DONE: frozenset[str] = frozenset({"FILLED", "FINISHED", "CANCELED", "REJECTED", "EXPIRED", "NOT_PLACED"})
"""States, of both kinds, in which an order can do nothing more."""

STATUS_ALIASES = {"EXPIRED_IN_MATCH": "EXPIRED"}

FORCED = {"autoclose-": "LIQUIDATION", "adl_autoclose": "ADL", "settlement_autoclose-": "SETTLEMENT"}
"""Beginnings of the client order ids of orders that the exchange itself sends, and what they are."""


class Reaction(StrEnum):
    """What a refused order leads to."""

    DROP = "DROP"  # the decision is dropped; a later bar decides anew
    RETRY = "RETRY"  # not executed for a passing reason: later, with a new id
    LEAVE = "LEAVE"  # the price is already beyond the trigger: leave at market
    LOOKUP = "LOOKUP"  # something under this id is alive: ask
    RECONCILE = "RECONCILE"  # the position isn't what we think: ask for the account
    HALT = "HALT"  # our request or our rights are wrong: no new risk until a person has looked


REACTIONS: dict[int, Reaction] = {
    0: Reaction.RETRY,  # never left this machine
    -1003: Reaction.RETRY,  # too many requests
    -1008: Reaction.RETRY,  # throttled
    -1015: Reaction.RETRY,  # too many orders
    -1021: Reaction.RETRY,  # outside recvWindow: the clock is measured anew
    -5028: Reaction.RETRY,  # outside the matching engine's recvWindow
    -1016: Reaction.RETRY,  # service shutting down
    -1022: Reaction.HALT,  # signature
    -2014: Reaction.HALT,  # key format
    -2015: Reaction.HALT,  # key, address or permission
    -1102: Reaction.HALT,  # parameter
    -1111: Reaction.HALT,  # precision
    -1121: Reaction.HALT,  # symbol
    -4001: Reaction.HALT,  # price below the minimum
    -4002: Reaction.HALT,  # price above the maximum
    -4003: Reaction.HALT,  # quantity too small
    -4005: Reaction.HALT,  # quantity too large
    -4014: Reaction.HALT,  # tick
    -4015: Reaction.HALT,  # client id
    -4061: Reaction.HALT,  # position mode
    -4120: Reaction.HALT,  # wrong endpoint
    -2010: Reaction.DROP,  # refused by the matching engine
    -2018: Reaction.DROP,  # balance
    -2019: Reaction.DROP,  # margin
    -2020: Reaction.DROP,  # unable to fill
    -2025: Reaction.DROP,  # too many open orders
    -2027: Reaction.DROP,  # position limit at this leverage
    -4016: Reaction.DROP,  # above the price band
    -4024: Reaction.DROP,  # below the price band
    -4131: Reaction.DROP,  # counterparty price outside the band
    -4164: Reaction.DROP,  # notional too small
    -5021: Reaction.DROP,  # FOK
    -5022: Reaction.DROP,  # post-only
    -2021: Reaction.LEAVE,  # would trigger at once
    -2022: Reaction.RECONCILE,  # reduce-only refused
    -4118: Reaction.RECONCILE,  # reduce-only margin check
    -4116: Reaction.LOOKUP,  # client id in use: the first attempt lives
}
"""Reaction to a refused order by Binance's code; a code that isn't here halts."""

RETRY_AFTER_MS = 1_000
DOUBLINGS = 6
"""What is refused, or disagrees, again and again is tried after twice as long each time, up to 2^6 seconds."""
STOP_TRIES = 3
RESIZE_EVERY_MS = 500
"""While an entry still fills, its stop is made larger this often, not at each of what may be fifty fills."""
PROTECT_WITHIN_MS = 5_000
"""Longest time that a position may be without an acknowledged stop before it is left at market."""
ABSENCE_MARGIN_MS = 5_000
ABSENCE_ANSWERS = 3


STOP_MISSING_TEXT = "no acknowledged stop: leaving at market"


EXPECTED: dict[int, str] = {
    -2021: "the price had passed the trigger before the order arrived; the position is closed at market",
    -2022: "this is expected where another order closed the position first; the account is asked to make sure",
}
"""What a refusal means that the course of things brings, for people who see its alert."""


def refused_text(client_order_id: str, code: int, text: str) -> str:
    """Say for people that the exchange refused an order, and what that means where nobody did wrong."""
    said = f"{client_order_id} refused with {code}: {text}"
    return f"{said} ({EXPECTED[code]})" if code in EXPECTED else said


def client_order_id(epoch: str, round_trip: int, purpose: Purpose, count: int) -> str:
    """Name an order: the round trip joins all that belongs to a position; `count` tells those of one purpose apart."""
    return f"vt-{epoch}-{round_trip}{purpose.value}{count}"


@dataclass(slots=True)
class Order:
    """One order as we know it. The monitor owns it; others read."""

    intent: OrderIntent
    state: OrderState | AlgoState
    order_id: int = 0
    """The exchange's id of an ordinary order."""
    child_id: int = 0
    """For a conditional order: the ordinary order that it became."""
    child_done: bool = False
    foreign: bool = False
    """Not sent by us, only found to have closed our position: counted, and never touched."""
    filled: int = 0
    """Lots, summed from fills."""
    filled_notional: int = 0
    reported: int = 0
    """Largest cumulative quantity that the exchange has told us."""
    code: int = 0
    text: str = ""
    look_at: int = NEVER
    absent: int = 0
    """Agreeing answers that the exchange has no such order."""
    holding: Annotated[Holding | None, Field(exclude=True)] = None

    @property
    def id(self) -> str:
        return self.intent.order.client_order_id

    @property
    def algo(self) -> bool:
        return self.intent.order.order_type.is_conditional

    @property
    def done(self) -> bool:
        return self.foreign or self.state in DONE or self.child_done

    @property
    def at_work(self) -> bool:
        """Whether it may act without another trade at its trigger: all but what has ended or waits for that."""
        return not self.done and not (self.algo and self.state == AlgoState.NEW)

    @property
    def awaits_fills(self) -> bool:
        """Whether the exchange has told of more of it than the fills that were counted."""
        return not self.foreign and self.reported > self.filled

    @property
    def resting(self) -> bool:
        """Known to be at the exchange and able to act."""
        return not self.done and self.state not in ("PENDING_SUBMIT", "UNKNOWN")

    def move(self, state: str) -> bool:
        """Go to a state if that is a legal move; say whether it was."""
        if isinstance(self.state, AlgoState):
            to = AlgoState(state)
            if to not in ALGO_MOVES[self.state]:
                return False
            self.state = to
        else:
            after = OrderState(state)
            if after not in MOVES[self.state]:
                return False
            self.state = after
        return True


@compiled
def level_from(notional: int, quantity: int, distance: int) -> int:
    """Return the price in ticks at a distance from the average of fills, which is rounded to the nearest tick."""
    return (2 * notional + quantity) // (2 * quantity) + distance


@dataclass(slots=True)
class Holding:
    """A round trip in progress: its orders, fills and costs."""

    id: int
    side: Side
    bar_number: int
    stop_distance: int
    take_profit_distance: int
    entry: Order
    stops: list[Order] = field(default_factory=list)
    take_profits: list[Order] = field(default_factory=list)
    exits: list[Order] = field(default_factory=list)
    opened_at: int = 0
    entered: int = 0
    entry_notional: int = 0
    left: int = 0
    exit_notional: int = 0
    realised: int = 0
    fees: int = 0
    funding: int = 0
    exit_reason: str = ""
    left_at: int = 0
    leave_reason: str = ""
    """Not empty: the position is to be left at market, for this reason."""
    retry_at: int = 0
    stop_tries: int = 0
    exit_tries: int = 0
    unprotected_since: int = NEVER
    closed: bool = False
    entry_trade_ids: list[int] = field(default_factory=list)
    exit_trade_ids: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Lots in hand, unsigned."""
        return self.entered - self.left

    @property
    def orders(self) -> Iterator[Order]:
        yield self.entry
        yield from self.stops
        yield from self.take_profits
        yield from self.exits

    def level(self, distance: int) -> int:
        """Price in ticks at a distance from the average fill price."""
        return level_from(self.entry_notional, self.entered, distance)


def _kind(update: OrderUpdate) -> str:
    """What an order that isn't ours is: one of the exchange's own, or somebody's."""
    kinds = (kind for beginning, kind in FORCED.items() if update.client_order_id.startswith(beginning))
    return next(kinds, "CLOSED_ELSEWHERE")


def _listed(snapshot: Snapshot) -> set[str]:
    """Client ids of the orders of both kinds that the exchange has open."""
    listed = {order.client_order_id for order in snapshot.orders}
    return listed | {algo.client_order_id for algo in snapshot.algo_orders}


def _last_trade(snapshot: Snapshot) -> int:
    """The highest id among the account's trades that a snapshot lists; 0 where it lists none."""
    return max((fill.trade_id for fill in snapshot.fills), default=0)


def _moved(snapshot: Snapshot, after: int) -> int:
    """Signed lots by which the account's trades after one moved its position."""
    return sum(fill.side * fill.last_quantity for fill in snapshot.fills if fill.trade_id > after)


HOLDING = TypeAdapter(Holding)
"""Writes a round trip in progress down, and reads it back."""


class OrderMonitor:
    """Every order of one symbol, and the position in hand.

    Args:
        epoch: text that makes client order ids of this session its own.
    """

    def __init__(self, instrument: Instrument, exits: ExitSettings, execution: ExecutionSettings, epoch: str) -> None:
        self.instrument = instrument
        self.holding: Holding | None = None
        self.reconciled = False
        self.halt_reason = ""
        self.orders: dict[str, Order] = {}
        self.ignored = 0
        """Updates that changed nothing: late, doubled, or impossible."""
        self._exits = exits
        self._execution = execution
        self._epoch = epoch
        self._round_trips = 0
        self._fills: set[int] = set()
        """Ids of the trades that are counted."""
        self.agreed_trade_id = 0
        """The watermark: the highest trade id of the account that a snapshot has listed whose position was that of
        our fills. Up to it no fill of ours is missing, and no trade of others is ever counted."""
        self._agreed_position = 0
        """Signed lots that the trades up to the watermark left."""
        self._has_agreed = False
        """Whether a snapshot has ever agreed; one of a flat account without a trade leaves the watermark at 0."""
        self._listed_trade_id = 0
        """The highest trade id that any snapshot has listed."""
        self._by_exchange_id: dict[int, Order] = {}
        self._snapshot_at = NEVER
        self._disagreements = 0
        """Snapshots in a row that did not agree with our books."""
        self._shown = 0
        """Signed lots that the exchange last showed and its trades don't explain, until a fill tells more."""
        self._time = 0

    # --- what others ask -------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Signed lots, from our fills."""
        return self.holding.side * self.holding.position if self.holding else 0

    @property
    def has_unknown(self) -> bool:
        return any(order.state in ("UNKNOWN", "PENDING_CANCEL") for order in self._live())

    @property
    def next_due(self) -> int:
        """When `on_time` has something to do, in ms, or NEVER."""
        due = min((order.look_at for order in self._live()), default=NEVER)
        due = min(due, self._snapshot_at)
        holding = self.holding
        if holding and holding.position:
            due = min(due, self._resize_at(holding))
            if holding.retry_at > self._time:
                due = min(due, holding.retry_at)
            if holding.unprotected_since != NEVER and not holding.leave_reason:
                due = min(due, holding.unprotected_since + PROTECT_WITHIN_MS)
            if self._exits.max_holding_s and not holding.leave_reason:
                due = min(due, holding.opened_at + milliseconds(self._exits.max_holding_s))
        return due

    @property
    def protected(self) -> bool:
        """Whether the position in hand is whole, every fill told of is counted, and an acknowledged stop covers it."""
        holding = self.holding
        if holding is None or not holding.entry.done or not holding.stops:
            return False
        if any(order.awaits_fills for order in holding.orders):
            return False
        newest = holding.stops[-1]
        return newest.resting and newest.intent.order.quantity >= holding.position

    @property
    def at_work(self) -> bool:
        """Whether an order of the position in hand may still act, be it an exit that fills or a cancel on its way."""
        return self.holding is not None and any(order.at_work for order in self.holding.orders)

    def explains(self, update: OrderUpdate) -> bool:
        """Whether the update is of an order of ours, or of one by which the exchange closes what is in hand."""
        return self._find(update) is not None or self._is_forced(update)

    def explained(self, snapshot: Snapshot) -> list[OrderUpdate]:
        """Return the fills of a snapshot that weren't counted: of our orders, or closing what is in hand.

        A trade names its order by the exchange's number alone. One that we don't know may be what a conditional order
        of ours became, so it is taken for somebody else's only when every order of ours is accounted for; and only
        where such trades, all together, lead to the position that the exchange shows, and that was read after them.
        """
        holding, may_close = self.holding, self._accounts_for_all(snapshot) and self._trades_lead_to_position(snapshot)
        position, fills, ours = holding.position if holding else 0, [], []
        opened = self._first_fill
        for fill in sorted(filter(self.is_new_fill, snapshot.fills), key=lambda fill: fill.trade_id):
            closes = holding is not None and fill.side is holding.side.opposite
            if self._find(fill) is not None:
                ours.append(fill)
                opened = opened if closes else min(opened, fill.trade_id)
            elif not (may_close and closes and self._is_later(fill, opened) and fill.last_quantity <= position):
                continue
            fills.append(fill)
            position += -fill.last_quantity if closes else fill.last_quantity
        return fills if holding and holding.side * position == snapshot.position.quantity else ours

    def is_new_fill(self, update: OrderUpdate) -> bool:
        """Whether the update carries a fill that hasn't been counted."""
        return update.trade_id > 0 and update.trade_id not in self._fills

    @property
    def _first_fill(self) -> int:
        """The trade that opened the position in hand, NEVER where there is none: no earlier one belongs to it."""
        return min(self.holding.entry_trade_ids, default=NEVER) if self.holding else NEVER

    def _is_later(self, fill: OrderUpdate, opened: int) -> bool:
        """Whether a trade of others can belong to the position in hand. The exchange's trade ids rise with time."""
        return fill.trade_id > max(self.agreed_trade_id, opened)

    def _accounts_for_all(self, snapshot: Snapshot) -> bool:
        """Whether it is known of every order of ours by which number the exchange names it, or that it still waits."""
        listed = _listed(snapshot)
        return all(order.id in listed or order.child_id for order in self._live())

    # --- decisions that come from outside --------------------------------------------------------------------------

    def enter(
        self,
        time: int,
        side: Side,
        quantity: int,
        *,
        stop_distance: int,
        take_profit_distance: int,
        collar: int,
        bar_number: int,
    ) -> list[Output]:
        """Open a round trip. Distances in ticks, `take_profit_distance` 0 for none; `collar` limits an `ioc_limit`."""
        assert self.holding is None, "one round trip at a time"
        self._round_trips += 1
        limit = self._execution.entry == "ioc_limit"
        intent = self._intent(
            time,
            Purpose.ENTRY,
            1,
            OrderType.LIMIT if limit else OrderType.MARKET,
            side,
            quantity,
            reason="SIGNAL",
            round_trip=self._round_trips,
            price=collar if limit else 0,
            bar_number=bar_number,
        )
        entry = self._register(intent)
        self.holding = entry.holding = Holding(
            self._round_trips, side, bar_number, stop_distance, take_profit_distance, entry
        )
        return [intent]

    def leave(self, time: int, reason: str) -> list[Output]:
        """Leave the position at market, reduce-only; the stop stays until the position is gone."""
        if self.holding is None:
            return []
        self.holding.leave_reason = self.holding.leave_reason or reason
        return self.cancel_entry(time, reason) + self._tend(time)

    def cancel_entry(self, time: int, reason: str) -> list[Output]:
        """Cancel what is left of the entry, where it rests at the exchange."""
        if self.holding is None or not self.holding.entry.resting:
            return []
        return self._cancel(time, self.holding.entry, reason)

    # --- news ------------------------------------------------------------------------------------------------------

    def on_order(self, update: OrderUpdate) -> list[Output]:
        """Take an ordinary order's update, its fill included."""
        if self.explains(update) and self.is_new_fill(update):
            self._shown = 0  # was read before this fill, or shows it already
        return self._take_order(update)

    def _take_order(self, update: OrderUpdate) -> list[Output]:
        now = self._at(update.time)
        order, outputs = self._find(update), []
        if order is None:
            outputs = self._foreign(update)
            if not (self.is_new_fill(update) and self._is_forced(update)):
                return outputs
            order = self._adopt_exit(update)
        if self.is_new_fill(update):
            self._count_fill(order, update)
        order.reported = max(order.reported, update.filled)
        self._by_exchange_id[update.order_id] = order
        status = STATUS_ALIASES.get(update.status, update.status)
        if order.algo:
            order.child_id = update.order_id
            order.child_done = order.child_done or status in DONE
        else:
            order.order_id = update.order_id
            self._advance(order, status, now)
        if order.reported > order.filled and self._snapshot_at == NEVER:
            self._snapshot_at = now + RETRY_AFTER_MS
        return outputs + self._tend(now)

    def on_algo(self, update: AlgoUpdate) -> list[Output]:
        """Take a conditional order's update."""
        now = self._at(update.time)
        order = self.orders.get(update.client_order_id)
        if order is None or not order.algo:
            self.reconciled = False
            return [Alert(update.time, "FOREIGN_ORDER", f"conditional order {update.client_order_id} isn't ours")]
        if update.order_id:
            order.child_id = update.order_id
            self._by_exchange_id[update.order_id] = order
        self._advance(order, update.status, now)
        if update.status == "REJECTED":
            order.text = update.reason
        return self._tend(now)

    def on_reply(self, reply: Reply) -> list[Output]:
        """Take the answer to a command of ours."""
        now = self._at(reply.time)
        order = self.orders[reply.client_order_id]
        handlers = {"submit": self._on_submitted, "cancel": self._on_canceled, "lookup": self._on_looked_up}
        outputs = handlers[reply.action](order, reply)
        if reply.order is not None:
            outputs += self.on_order(reply.order)
        if reply.algo_order is not None:
            outputs += self.on_algo(reply.algo_order)
        return outputs + self._tend(now)

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Hold the exchange's account against ours; trade only when they agree.

        Fills are taken first (each counts once), then open orders; orders of ours that the exchange doesn't list as
        open are looked up. A position that our fills don't explain leaves `reconciled` false.
        """
        now = self._at(snapshot.time)
        self._snapshot_at = NEVER
        is_explained = self._has_agreed and self._trades_lead_to_position(snapshot) and self._accounts_for_all(snapshot)
        self._shown = 0 if is_explained else snapshot.position.quantity
        outputs: list[Output] = []
        # A trade names its order by the exchange's id only; trades of orders that aren't ours are history.
        for fill in self.explained(snapshot):
            if self._find(fill) is None:
                outputs.append(Alert(snapshot.time, "FOREIGN_ORDER", f"order #{fill.order_id} isn't ours, and closed"))
                self._adopt_exit(fill)
            outputs += self._take_order(fill)
        for update in snapshot.orders:
            outputs += self.on_order(update)
        for algo in snapshot.algo_orders:
            outputs += self.on_algo(algo)
        for order in self._live():
            if order.id not in _listed(snapshot) and order.state != "PENDING_SUBMIT":
                outputs.append(self._lookup(now, order, "NOT_LISTED"))
        outputs += self._tend(now)
        ours, theirs = self.position, snapshot.position.quantity
        foreign = [u.client_order_id for u in snapshot.orders if self._find(u) is None]
        foreign += [u.client_order_id for u in snapshot.algo_orders if u.client_order_id not in self.orders]
        self.reconciled = ours == theirs and not foreign
        if self.reconciled:
            self._disagreements = 0
            self._note_agreement(snapshot)
        self._listed_trade_id = max(self._listed_trade_id, _last_trade(snapshot))
        if self.reconciled:
            return outputs
        # One reading may fall between two fills, so a person is told of the second.
        self.disagree(snapshot.time)
        if ours != theirs and self._disagreements == 2:
            text = f"the exchange has {theirs} lots, our fills make {ours}"
            outputs.append(Alert(snapshot.time, "POSITION_MISMATCH", text))
        return outputs

    def _note_agreement(self, snapshot: Snapshot) -> None:
        """Raise the watermark, unless a fill of ours may be missing.

        Behind a snapshot that isn't whole lies for certain only what an earlier one listed.
        """
        if not self._accounts_for_all(snapshot) or any(order.awaits_fills for order in self.orders.values()):
            return
        held = snapshot.position.quantity
        agreed = _last_trade(snapshot) if self._trades_lead_to_position(snapshot) else self._listed_trade_id
        if agreed > self.agreed_trade_id or not self._has_agreed:
            self.agreed_trade_id, self._agreed_position = agreed, held - _moved(snapshot, agreed)
            self._has_agreed = True

    def _trades_lead_to_position(self, snapshot: Snapshot) -> bool:
        """Whether the account's trades since the last agreement lead to the position that a snapshot shows.

        The account is read by several requests; where they don't, the position was read before the last of the trades.
        """
        moved = snapshot.position.quantity - _moved(snapshot, self.agreed_trade_id)
        return not self._has_agreed or moved == self._agreed_position

    def disagree(self, time: int) -> None:
        """Take note that the account isn't as it must be: no entry until it is; it is asked ever more seldom."""
        self.reconciled = False
        self._snapshot_at = time + (RETRY_AFTER_MS << min(self._disagreements, DOUBLINGS))
        self._disagreements += 1

    def on_time(self, time: int) -> list[Output]:
        """Do what is due: look up overdue orders, retry, protect, leave a position that is held too long."""
        time = self._at(time)
        outputs: list[Output] = []
        for order in self._live():
            if order.look_at <= time:
                outputs.append(self._lookup(time, order, "STALE"))
        if self._snapshot_at <= time:
            self._snapshot_at = NEVER
            reason = "NOT_AGREED" if self._disagreements else "FILL_MISSING"
            outputs.append(TakeSnapshot(time, self.instrument.symbol, reason))
        holding = self.holding
        if holding and holding.position and not holding.leave_reason:
            held_ms = time - holding.opened_at
            if self._exits.max_holding_s and held_ms >= milliseconds(self._exits.max_holding_s):
                holding.leave_reason = "TIME"
            if time - holding.unprotected_since >= PROTECT_WITHIN_MS:
                holding.leave_reason = "STOP_MISSING"
                outputs.append(Alert(time, "STOP_MISSING", STOP_MISSING_TEXT))
        return outputs + self._tend(time)

    def add_funding(self, amount: int) -> None:
        """Book funding to the round trip in hand."""
        if self.holding:
            self.holding.funding += amount

    def _at(self, time: int) -> int:
        """Return the time now. A look-up tells when an order last changed, which is no time to count from."""
        self._time = max(self._time, time)
        return self._time

    def on_restart(self, time: int) -> list[Output]:
        """Look up what was in flight when the engine ended; its answer is lost."""
        now = self._at(time)
        self.reconciled = False
        outputs: list[Output] = []
        for order in self._live():
            if order.state in ("PENDING_SUBMIT", "PENDING_CANCEL") and order.move("UNKNOWN"):
                outputs.append(self._lookup(now, order, "RESTART"))
        return outputs

    # --- what outlives a run ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the next run must know, as plain JSON values, for `restore`."""
        holding = self.holding
        return {
            "round_trips": self._round_trips,
            "agreed_trade_id": self.agreed_trade_id,
            "agreed_position": self._agreed_position,
            "has_agreed": self._has_agreed,
            "halt_reason": self.halt_reason,
            "holding": HOLDING.dump_python(holding, mode="json") if holding else None,
        }

    def restore(self, state: Mapping[str, Any], time: int) -> None:
        """Go on from a saved state: what is in hand stays in hand, and every live order of it is looked up.

        Raises:
            DataError: the state isn't one that `state` returned.
        """
        try:
            self._round_trips = int(state["round_trips"])
            self.halt_reason = str(state["halt_reason"])
            self.agreed_trade_id = self._listed_trade_id = int(state["agreed_trade_id"])
            self._agreed_position = int(state["agreed_position"])
            self._has_agreed = bool(state["has_agreed"])
            self.holding = HOLDING.validate_python(state["holding"]) if state["holding"] else None
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"orders: the saved state is broken: {error}") from None
        if self.holding is None:
            return
        self._fills.update(self.holding.entry_trade_ids, self.holding.exit_trade_ids)
        for order in self.holding.orders:
            order.holding = self.holding
            order.state = AlgoState(order.state) if order.algo else OrderState(order.state)
            order.look_at = time
            self.orders[order.id] = order
            for exchange_id in (order.order_id, order.child_id):
                if exchange_id:
                    self._by_exchange_id[exchange_id] = order

    # --- orders: making, finding, moving ---------------------------------------------------------------------------

    def _intent(
        self,
        time: int,
        purpose: Purpose,
        count: int,
        order_type: OrderType,
        side: Side,
        quantity: int,
        *,
        reason: str,
        round_trip: int,
        price: int = 0,
        trigger_price: int = 0,
        bar_number: int = -1,
    ) -> OrderIntent:
        request = OrderRequest(
            symbol=self.instrument.symbol,
            client_order_id=client_order_id(self._epoch, round_trip, purpose, count),
            side=side,
            order_type=order_type,
            quantity=quantity,
            price=price,
            trigger_price=trigger_price,
            time_in_force=TimeInForce.IOC if order_type is OrderType.LIMIT else TimeInForce.GTC,
            reduce_only=purpose is not Purpose.ENTRY,
            working_type=WorkingType(self._exits.working_type),
        )
        return OrderIntent(time, request, purpose, round_trip, reason, bar_number)

    def _register(self, intent: OrderIntent) -> Order:
        state = AlgoState.PENDING_SUBMIT if intent.order.order_type.is_conditional else OrderState.PENDING_SUBMIT
        order = Order(intent, state, look_at=intent.time + self._stale_ms, holding=self.holding)
        self.orders[order.id] = order
        return order

    @property
    def _stale_ms(self) -> int:
        return milliseconds(self._execution.order_stale_s)

    def _live(self) -> Iterator[Order]:
        return (order for order in self.holding.orders if not order.done) if self.holding else iter(())

    def _find(self, update: OrderUpdate) -> Order | None:
        return self._by_exchange_id.get(update.order_id) or self.orders.get(update.client_order_id)

    def _advance(self, order: Order, status: str, time: int) -> None:
        """Move an order to a status that the exchange told; late news is counted and changes nothing."""
        canceling = order.state == "PENDING_CANCEL" and status in ("NEW", "PARTIALLY_FILLED")
        if order.state == status:
            pass
        elif canceling or not order.move(status):
            self.ignored += 1
            return
        # A resting conditional order may wait for ever; anything else that is on its way is looked up when overdue.
        waits = order.algo and order.state == "NEW"
        order.look_at = NEVER if waits else time + self._stale_ms

    def _cancel(self, time: int, order: Order, reason: str) -> list[Output]:
        if not order.resting or not order.move("PENDING_CANCEL"):
            return []
        order.look_at = time + self._stale_ms
        return [CancelOrder(time, self.instrument.symbol, order.id, order.algo, reason)]

    def _lookup(self, time: int, order: Order, reason: str) -> LookupOrder:
        order.look_at = time + self._stale_ms
        return LookupOrder(time, self.instrument.symbol, order.id, order.algo, reason)

    def _count_fill(self, order: Order, update: OrderUpdate) -> None:
        self._fills.add(update.trade_id)
        notional = update.last_quantity * update.last_price
        order.filled += update.last_quantity
        order.filled_notional += notional
        holding = self._home_of(order)
        holding.fees += update.fee
        holding.realised += update.realised
        if order.intent.purpose is Purpose.ENTRY:
            holding.opened_at = holding.opened_at or update.time
            holding.entered += update.last_quantity
            holding.entry_notional += notional
            holding.entry_trade_ids.append(update.trade_id)
        else:
            holding.left += update.last_quantity
            holding.exit_notional += notional
            holding.exit_trade_ids.append(update.trade_id)
            holding.left_at = update.time
            names = {Purpose.STOP: "STOP", Purpose.TAKE_PROFIT: "TAKE_PROFIT"}
            holding.exit_reason = names.get(order.intent.purpose, order.intent.reason)

    def _home_of(self, order: Order) -> Holding:
        """The round trip that a fill of this order belongs to; one that had ended is taken in hand again."""
        holding = order.holding
        assert holding is not None
        if self.holding is None:
            self.holding = holding
            holding.closed = False
        elif self.holding is not holding:
            self.reconciled = False
            self.halt_reason = f"{order.id} filled after round trip {holding.id} had ended and the next had begun"
        return holding

    def _foreign(self, update: OrderUpdate) -> list[Output]:
        """An order that isn't ours: a person's, or a liquidation. Stop trading until the account is understood."""
        self.reconciled = False
        if self._snapshot_at == NEVER:
            self._snapshot_at = self._time + RETRY_AFTER_MS
        code = "FOREIGN_ORDER" if _kind(update) == "CLOSED_ELSEWHERE" else "FORCED_ORDER"
        return [Alert(update.time, code, f"order {update.client_order_id} ({update.status}) isn't ours")]

    def _is_forced(self, update: OrderUpdate) -> bool:
        """Whether a fill is of an order by which the exchange itself takes from the position in hand."""
        holding = self.holding
        if holding is None or not update.trade_id or _kind(update) == "CLOSED_ELSEWHERE":
            return False
        closes = update.side is holding.side.opposite and update.last_quantity <= holding.position
        return closes and self._is_later(update, self._first_fill)

    def _adopt_exit(self, update: OrderUpdate) -> Order:
        """Take an order that closes what is in hand for an exit of the round trip; a person must look before more."""
        holding = self.holding
        assert holding is not None
        reason = _kind(update)
        name = update.client_order_id or f"#{update.order_id}"
        request = OrderRequest(
            update.symbol, name, update.side, OrderType.MARKET, update.quantity, reduce_only=update.reduce_only
        )
        order = self._register(OrderIntent(update.time, request, Purpose.EXIT, holding.id, reason))
        order.foreign = True
        holding.exits.append(order)
        self._by_exchange_id[update.order_id] = order
        self.halt_reason = f"{name} closed the position: {reason}"
        return order

    # --- answers ---------------------------------------------------------------------------------------------------

    def _on_submitted(self, order: Order, reply: Reply) -> list[Output]:
        if reply.outcome is Outcome.ACCEPTED:
            return []
        order.code, order.text = reply.code, reply.text
        reaction = REACTIONS.get(reply.code, Reaction.HALT)
        if reply.outcome is Outcome.UNKNOWN or reaction is Reaction.LOOKUP:
            order.move("UNKNOWN")
            return [self._lookup(reply.time, order, "OUTCOME_UNKNOWN")] if not order.done else []
        if not order.move("REJECTED"):
            return []
        return self._on_refused(order, reaction, reply)

    def _on_refused(self, order: Order, reaction: Reaction, reply: Reply) -> list[Output]:
        text = refused_text(order.id, reply.code, reply.text)
        outputs: list[Output] = [Alert(reply.time, "ORDER_REFUSED", text)]
        holding = order.holding
        assert holding is not None
        if reaction is Reaction.HALT:
            self.halt_reason = text
        if reaction is Reaction.RECONCILE:
            outputs.append(TakeSnapshot(reply.time, self.instrument.symbol, "REDUCE_ONLY_REFUSED"))
        if order.intent.purpose is Purpose.EXIT:
            holding.retry_at = reply.time + (RETRY_AFTER_MS << min(holding.exit_tries, DOUBLINGS))
            holding.exit_tries += 1
        elif order.intent.purpose is Purpose.STOP:
            holding.stop_tries += 1
            if reaction in (Reaction.RETRY, Reaction.RECONCILE) and holding.stop_tries < STOP_TRIES:
                holding.retry_at = reply.time + RETRY_AFTER_MS
            else:
                holding.leave_reason = holding.leave_reason or (
                    "STOP" if reaction is Reaction.LEAVE else "STOP_REFUSED"
                )
        elif order.intent.purpose is Purpose.TAKE_PROFIT and reaction is Reaction.LEAVE:
            holding.leave_reason = holding.leave_reason or "TAKE_PROFIT"
        return outputs

    def _on_canceled(self, order: Order, reply: Reply) -> list[Output]:
        if reply.outcome is Outcome.ACCEPTED:
            order.move("CANCELED")
            return []
        # Refused means that it may have filled or triggered; unknown means unknown. Both are looked up.
        return [self._lookup(reply.time, order, "CANCEL_" + reply.outcome)] if not order.done else []

    def _on_looked_up(self, order: Order, reply: Reply) -> list[Output]:
        if order.done:
            return []
        if reply.outcome is Outcome.ACCEPTED:
            return self._found(order, reply)
        order.look_at = reply.time + RETRY_AFTER_MS
        if reply.outcome is Outcome.REFUSED and reply.code in (-2013, -2011):
            return self._not_found(order, reply)
        return []  # an error while asking is no evidence

    def _found(self, order: Order, reply: Reply) -> list[Output]:
        order.absent = 0
        told = reply.order or reply.algo_order
        assert told is not None
        if order.state in ("PENDING_CANCEL", "UNKNOWN") and told.status in ("NEW", "PARTIALLY_FILLED"):
            order.move(told.status)
        overdue = reply.time - order.intent.time >= self._stale_ms
        if order.intent.purpose is Purpose.ENTRY and overdue and told.status in ("NEW", "PARTIALLY_FILLED"):
            order.move(told.status)
            return self._cancel(reply.time, order, "STALE")
        return []

    def _not_found(self, order: Order, reply: Reply) -> list[Output]:
        """Absence counts only once the request can't be accepted any more, and when the answers agree."""
        fence = order.intent.time + self._execution.recv_window_ms + ABSENCE_MARGIN_MS
        if reply.time < fence:
            return []
        order.absent += 1
        if order.absent < ABSENCE_ANSWERS or not order.move("NOT_PLACED"):
            return []
        return [Alert(reply.time, "NOT_PLACED", f"{order.id} was never placed")]

    # --- the position in hand --------------------------------------------------------------------------------------

    def _tend(self, time: int) -> list[Output]:
        """Compare the position in hand with the orders it should have, and say what is missing or too much."""
        holding = self.holding
        if holding is None:
            return []
        if holding.position <= 0:
            return self._tend_flat(time, holding)
        outputs = self._tend_stop(time, holding)
        if holding.leave_reason or self._stop_spent(holding):
            return outputs + self._tend_exit(time, holding)
        return outputs + self._tend_take_profit(time, holding)

    def _tend_flat(self, time: int, holding: Holding) -> list[Output]:
        holding.unprotected_since = NEVER
        if not holding.entry.done or (holding.entered and holding.side * self._shown > 0):
            return []  # what the exchange still shows keeps its stop; the account is asked again
        outputs: list[Output] = []
        if holding.entered and not holding.closed:
            holding.closed = True
            outputs.append(self._round_trip(holding))
        for order in list(holding.orders):
            outputs += self._cancel(time, order, "POSITION_CLOSED")
        if all(order.done for order in holding.orders):
            self.holding = None
        return outputs

    def _tend_stop(self, time: int, holding: Holding) -> list[Output]:
        newest = holding.stops[-1] if holding.stops else None
        if newest is not None and not newest.done:
            if not newest.resting:
                return self._unprotected(time, holding)
            holding.unprotected_since = NEVER
            outputs: list[Output] = []
            for older in holding.stops[:-1]:
                outputs += self._cancel(time, older, "RESIZED")
            if time >= self._resize_at(holding):
                outputs += self._send_stop(time, holding, "RESIZE")
            return outputs
        if self._stop_spent(holding) or time < holding.retry_at or holding.leave_reason:
            return self._unprotected(time, holding)
        return self._unprotected(time, holding) + self._send_stop(time, holding, "PROTECT")

    @staticmethod
    def _resize_at(holding: Holding) -> int:
        """When the stop is to be made larger, ms. One that has triggered is on its way out and stays as it is."""
        newest = holding.stops[-1] if holding.stops else None
        if newest is None or newest.state != "NEW" or newest.done or newest.intent.order.quantity >= holding.position:
            return NEVER
        return 0 if holding.entry.done else newest.intent.time + RESIZE_EVERY_MS

    def _unprotected(self, time: int, holding: Holding) -> list[Output]:
        covered = any(stop.resting for stop in holding.stops)
        if covered:
            holding.unprotected_since = NEVER
        elif holding.unprotected_since == NEVER:
            holding.unprotected_since = time
        return []

    def _send_stop(self, time: int, holding: Holding, reason: str) -> list[Output]:
        trigger = holding.level(-holding.side * holding.stop_distance)
        return self._send_conditional(time, holding, Purpose.STOP, holding.stops, max(trigger, 1), reason)

    def _tend_take_profit(self, time: int, holding: Holding) -> list[Output]:
        if not holding.take_profit_distance or not holding.entry.done or holding.take_profits:
            return []
        trigger = holding.level(holding.side * holding.take_profit_distance)
        return self._send_conditional(
            time, holding, Purpose.TAKE_PROFIT, holding.take_profits, max(trigger, 1), "TARGET"
        )

    def _send_conditional(
        self, time: int, holding: Holding, purpose: Purpose, orders: list[Order], trigger: int, reason: str
    ) -> list[Output]:
        kind = OrderType.STOP_MARKET if purpose is Purpose.STOP else OrderType.TAKE_PROFIT_MARKET
        intent = self._intent(
            time,
            purpose,
            len(orders) + 1,
            kind,
            holding.side.opposite,
            holding.position,
            reason=reason,
            round_trip=holding.id,
            trigger_price=trigger,
        )
        orders.append(self._register(intent))
        return [intent]

    @staticmethod
    def _stop_spent(holding: Holding) -> bool:
        """Whether a stop or take-profit triggered and ended, and a part of the position is still there."""
        triggered: Iterable[Order] = (*holding.stops, *holding.take_profits)
        return any(order.child_id and order.done for order in triggered)

    def _tend_exit(self, time: int, holding: Holding) -> list[Output]:
        if any(not order.done for order in holding.exits) or time < holding.retry_at:
            return []
        intent = self._intent(
            time,
            Purpose.EXIT,
            len(holding.exits) + 1,
            OrderType.MARKET,
            holding.side.opposite,
            holding.position,
            reason=holding.leave_reason or "STOP_REST",
            round_trip=holding.id,
        )
        holding.exits.append(self._register(intent))
        return [intent]

    def _round_trip(self, holding: Holding) -> RoundTrip:
        stop = holding.stops[-1].intent.order.trigger_price if holding.stops else 0
        target = holding.take_profits[-1].intent.order.trigger_price if holding.take_profits else 0
        return RoundTrip(
            id=holding.id,
            symbol=self.instrument.symbol,
            side=holding.side,
            opened_at=holding.opened_at,
            closed_at=holding.left_at,
            bar_number=holding.bar_number,
            quantity=holding.entered,
            entry_notional=holding.entry_notional,
            exit_notional=holding.exit_notional,
            realised=holding.realised,
            fees=holding.fees,
            funding=holding.funding,
            net=holding.realised - holding.fees + holding.funding,
            exit_reason=holding.exit_reason,
            stop_price=stop,
            take_profit_price=target,
            entry_trade_ids=tuple(holding.entry_trade_ids),
            exit_trade_ids=tuple(holding.exit_trade_ids),
        )
