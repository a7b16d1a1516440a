"""Orders from intent to end, and the position in hand: what live trading alone must know of them.

`OrderMonitor` registers an order before it is sent, follows it through replies, stream events and look-ups in whatever
order they arrive, and counts each fill once. What is sent for a position, and what a refusal leads to, is in
`order_rules`, which a backtest runs too; here stand the names of orders, outcomes that aren't known, snapshots of the
account, orders that aren't ours, and what outlives a run.

The monitor decides and returns outputs; it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from voltrade import order_states as states
from voltrade import records, row_facts, saved_orders
from voltrade.books import Books
from voltrade.config import ExecutionSettings, ExitSettings
from voltrade.errors import DataError
from voltrade.model import (
    NEVER,
    Alert,
    AlgoUpdate,
    CancelOrder,
    Filters,
    Instrument,
    LookupOrder,
    OrderIntent,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Purpose,
    Reply,
    Side,
    Snapshot,
    TakeSnapshot,
    WorkingType,
    money_text,
)
from voltrade.order_states import PURPOSES, STATES, AlgoState, OrderState
from voltrade.records import (
    ROWS,
    SPARE,
    AlertRow,
    ChangeRow,
    EquityRow,
    Event,
    OrderRow,
    PositionRow,
    RefusalRow,
    TripRow,
)
from voltrade.risk import Gate, whole

__all__ = ["AlgoState", "OpenPosition", "Order", "OrderMonitor", "OrderState"]

VERSION = 3
"""Of the saved state."""

_REASONS = frozenset({"reason", "cancel_reason", "exit_reason", "leave_reason"})
_OF_THIS_RUN = frozenset({"number", "is_over"})

ADJUSTED_AFTER = 3
"""So many readings in a row must say that the position is smaller than our fills make it, before that is believed."""

REALISED_TOLERANCE = 100
"""Money by which the exchange's PnL of a fill may differ from ours before a person is told."""

_STATE_NUMBERS = {state: number for number, state in enumerate(STATES)}
_COMMANDS = {"submit": records.SUBMIT, "cancel": records.CANCEL, "lookup": records.LOOKUP}
_OUTCOMES = {Outcome.ACCEPTED: states.ACCEPTED, Outcome.REFUSED: states.REFUSED, Outcome.UNKNOWN: states.UNANSWERED}
_ABSENT_CODES = (-2013, -2011)


def _state_number(status: str) -> int:
    return _STATE_NUMBERS.get(status, states.OTHER)


# --- for people and tests: copies of what the records say -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """One order as it is known now. The monitor's records go on; this stays as it is."""

    id: str
    row: Any
    """A row of ORDER."""
    text: str = ""

    @property
    def purpose(self) -> Purpose:
        return PURPOSES[int(self.row.purpose)]

    @property
    def algo(self) -> bool:
        return row_facts.is_conditional(self.purpose)

    @property
    def state(self) -> OrderState | AlgoState:
        word = STATES[self.row.state]
        return AlgoState(word) if self.algo else OrderState(word)

    @property
    def quantity(self) -> int:
        return int(self.row.quantity)

    @property
    def filled(self) -> int:
        return int(self.row.filled)

    @property
    def done(self) -> bool:
        return bool(self.row.is_foreign or self.row.child_done or self.state in states.DONE)


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """The round trip in hand as it is known now, and its orders by purpose in the order in which they were sent."""

    row: Any
    """A row of POSITION."""
    orders: tuple[Order, ...]

    @property
    def id(self) -> int:
        return int(self.row.id)

    @property
    def side(self) -> Side:
        return Side(self.row.side)

    @property
    def entry(self) -> Order:
        return self.orders[0]

    @property
    def position(self) -> int:
        """Lots in hand, unsigned."""
        return int(self.row.entered - self.row.exited)

    @property
    def entry_notional(self) -> int:
        return int(self.row.entry_notional)


# --- what a snapshot says ---------------------------------------------------------------------------------------------


def _kind(update: OrderUpdate) -> str:
    """What an order that isn't ours is: one of the exchange's own, or somebody's."""
    kinds = (kind for beginning, kind in states.FORCED.items() if update.client_order_id.startswith(beginning))
    return next(kinds, "CLOSED_ELSEWHERE")


def _listed(snapshot: Snapshot) -> set[str]:
    """Client ids of the orders of both kinds that the exchange has open."""
    listed = {order.client_order_id for order in snapshot.orders}
    return listed | {algo.client_order_id for algo in snapshot.algo_orders}


def _last_trade(snapshot: Snapshot) -> int:
    """The highest id among the account's trades that a snapshot lists; 0 where it lists none."""
    return max((fill.trade_id for fill in snapshot.fills), default=0)


def _pause(times: int) -> int:
    """Pause before the account is read again, ms, after so many readings in a row that did not do."""
    return states.RETRY_AFTER_MS << min(times, states.DOUBLINGS)


def _moved(snapshot: Snapshot, after: int) -> int:
    """Signed lots by which the account's trades after one moved its position."""
    return sum(fill.side * fill.last_quantity for fill in snapshot.fills if fill.trade_id > after)


class OrderMonitor:
    """Every order of one symbol, and the position in hand.

    Args:
        epoch: text that makes client order ids of this session its own.
        books: the account's records, by default its own, and `place` the symbol's among them.
        gates: what a refusal's number means.
    """

    def __init__(
        self,
        instrument: Instrument,
        exits: ExitSettings,
        execution: ExecutionSettings,
        epoch: str,
        books: Books | None = None,
        place: int = 0,
        gates: tuple[Gate, ...] = (),
    ) -> None:
        self.instrument = instrument
        self.halt_reason = ""
        self._books = books or Books()
        self._place = place
        self._row = self._books.symbols[place]
        records.new_symbol(self._row, place, instrument, exits, execution)
        self._position_row = self._books.rows("position", place)
        self._earlier_row = self._books.rows("earlier", place)
        self._order_rows = self._books.rows("orders", place)
        self._books.tellers.append(self)
        self._execution = execution
        self._working_type = WorkingType(exits.working_type)
        self._epoch, self._life = epoch, ""
        """The second, after a restart, keeps names apart from those that the end of a lost journal had given."""
        self._gates = gates
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._by_exchange_id: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        """Rows of the orders that can still act, by their number."""
        self._over: dict[int, Any] = {}
        """Orders that are over as they stood then, by their number: a late fill brings one back."""
        self._ended: dict[int, Any] = {}
        """Round trips that ended, by their number, for the same."""
        self._trade_ids: dict[int, tuple[list[int], list[int]]] = {}
        """Trades that entered and left, by the number of the round trip."""
        self._texts: dict[int, str] = {}
        self._absent: dict[int, int] = {}
        """Agreeing answers that the exchange has no such order."""
        self._less = 0, 0
        """What the exchange has of a position that it says is smaller than ours, and in how many readings in a row."""
        self._unconfirmed = self._incomplete = 0
        """Readings in a row that did not confirm what a session leaves, or lacked fills that are told of."""
        self._unlisted: set[int] = set()
        """Orders that the exchange did not list when the account was read so late that it would have had them."""
        self._awaiting: set[int] = set()
        """Orders that are over though not all their fills are counted."""
        self._late, self._by_hand, self._asked = "", "", 0
        """What is said of a late fill and of somebody's, and the order that was answered last: why a person may have to
        look."""
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

    # --- what others ask -------------------------------------------------------------------------------------------

    @property
    def has_position(self) -> bool:
        """Whether a round trip is in progress, from its intent until none of its orders can act."""
        return bool(self._row["has_position"])

    @property
    def position(self) -> int:
        """Signed lots in hand, from our fills."""
        return int(self._position_row["side"]) * self._lots

    @property
    def _lots(self) -> int:
        held = self._position_row
        return int(held["entered"]) - int(held["exited"]) if self._row["has_position"] else 0

    @property
    def reconciled(self) -> bool:
        """Whether the exchange's account agrees with our books."""
        return bool(self._row["reconciled"])

    @reconciled.setter
    def reconciled(self, agrees: bool) -> None:
        self._row["reconciled"] = agrees

    @property
    def ignored(self) -> int:
        """Updates that changed nothing: late, doubled, or impossible."""
        return int(self._row["ignored"])

    @property
    def has_unknown(self) -> bool:
        return bool(self._books.ask(records.HAS_UNKNOWN, self._place))

    def is_passed(self, price: int) -> bool:
        """Whether a price is beyond the trigger of a stop or take-profit that is believed to wait."""
        beyond = {states.STOP: -1, states.TAKE_PROFIT: 1}
        side = int(self._position_row["side"])
        waiting = (order for order in self._live() if order.algo and order.state == "NEW")
        return any(side * beyond[int(order.row.purpose)] * (price - order.row.trigger_price) > 0 for order in waiting)

    @property
    def next_due(self) -> int:
        """When `on_time` has something to do, in ms, or NEVER."""
        return self._books.ask(records.ORDERS_DUE, self._place)

    @property
    def orders(self) -> dict[str, Order]:
        """Every order by its client order id, as it is now."""
        return {name: self._order(number) for name, number in self._numbers.items()}

    @property
    def open_position(self) -> OpenPosition | None:
        """The round trip in hand as it is now."""
        if not self.has_position:
            return None
        trip = int(self._position_row["id"])
        mine = [order for order in self.orders.values() if order.row.round_trip == trip]
        ordered = sorted(mine, key=lambda order: (order.row.purpose, order.row.number))
        return OpenPosition(PositionRow(*self._position_row.item()), tuple(ordered))

    def _order(self, number: int) -> Order:
        row = self._rows.get(number)
        facts = self._over[number] if row is None else OrderRow(*self._order_rows[row].item())
        return Order(self._names[number], facts, self._texts.get(number, ""))

    def explained(self, snapshot: Snapshot) -> list[OrderUpdate]:
        """Return the fills of a snapshot that weren't counted: of our orders, or closing what is in hand.

        A trade names its order by the exchange's number alone. One that we don't know may be what a conditional order
        of ours became, so it is taken for somebody else's only when every order of ours is accounted for; and only
        where such trades, all together, lead to the position that the exchange shows, and that was read after them.
        """
        is_held, side = self.has_position, int(self._position_row["side"])
        may_close = self._accounts_for_all(snapshot) and self._trades_lead_to_position(snapshot)
        position, fills, ours = self._lots, [], []
        opened, guessed = self._first_fill, self._guessed(snapshot)
        for fill in sorted(filter(self.is_new_fill, snapshot.fills), key=lambda fill: fill.trade_id):
            closes = is_held and fill.side == -side
            if self._find(fill) is not None:
                ours.append(fill)
                opened = opened if closes else min(opened, fill.trade_id)
            elif fill.order_id in guessed:
                opened = opened if closes else min(opened, fill.trade_id)
            elif not (may_close and closes and self._is_later(fill, opened) and fill.last_quantity <= position):
                continue
            fills.append(fill)
            position += -fill.last_quantity if closes else fill.last_quantity
        if not (is_held and side * position == snapshot.position.quantity):
            return ours
        self._by_exchange_id.update(guessed)
        return fills

    def _guessed(self, snapshot: Snapshot) -> dict[int, int]:
        """Return which orders of ours trades are of whose order nobody has named: the exchange's number, and ours.

        An order of unknown outcome may have been executed: trades of its side, after it, of at most its quantity.
        """
        waiting = [order for order in self._live() if order.state in ("PENDING_SUBMIT", "UNKNOWN") and not order.algo]
        unnamed: dict[int, list[OrderUpdate]] = {}
        for fill in filter(self.is_new_fill, snapshot.fills):
            if self._find(fill) is None and fill.trade_id > self.agreed_trade_id:
                unnamed.setdefault(fill.order_id, []).append(fill)
        guessed: dict[int, int] = {}
        for order_id, fills in unnamed.items():
            lots = sum(fill.last_quantity for fill in fills)
            fit = [order for order in waiting if order.row.side == fills[0].side and lots <= order.quantity]
            if len(fit) == 1 and fit[0].row.number not in guessed.values():
                guessed[order_id] = fit[0].row.number
        return guessed

    def is_new_fill(self, update: OrderUpdate) -> bool:
        """Whether the update carries a fill that hasn't been counted."""
        return update.trade_id > 0 and update.trade_id not in self._fills

    @property
    def _first_fill(self) -> int:
        """The trade that opened the position in hand, NEVER where there is none: no earlier one belongs to it."""
        return min(self._trade_ids_of(int(self._position_row["id"]))[0], default=NEVER) if self.has_position else NEVER

    def _trade_ids_of(self, trip: int) -> tuple[list[int], list[int]]:
        return self._trade_ids.setdefault(trip, ([], []))

    def _is_later(self, fill: OrderUpdate, opened: int) -> bool:
        """Whether a trade of others can belong to the position in hand. The exchange's trade ids rise with time."""
        return fill.trade_id > max(self.agreed_trade_id, opened)

    def _accounts_for_all(self, snapshot: Snapshot, but: Purpose | None = None) -> bool:
        """Whether it is known of every order of ours by which number the exchange names it, or that it still waits."""
        listed, live = _listed(snapshot), (order for order in self._live() if order.purpose is not but)
        return all(order.id in listed or (order.algo and order.row.order_id) for order in live)

    def _react(self, kind: int, **told: Any) -> list[Output]:
        return self._books.react(Event(kind, self._place, **told))

    # --- news ------------------------------------------------------------------------------------------------------

    def on_order(self, update: OrderUpdate) -> list[Output]:
        """Take an ordinary order's update, its fill included."""
        held = self._lots
        number, is_new = self._find(update), self.is_new_fill(update)
        is_forced = number is None and is_new and self._is_forced(update)
        if is_new and (number is not None or is_forced):
            self._row["shown"] = 0  # was read before this fill, or shows it already
        if number is not None:
            return self._take_order(number, update, is_new)
        outputs = self._foreign(update)
        number = self._adopt_exit(update) if is_forced else None
        if number is None:
            outputs += self._react(records.SYNC_TOLD)  # the time has moved
            return outputs + self._react(records.ORDERS_CHANGED, amount=held)
        return self._take_order(number, update, is_new, outputs)

    def _take_order(
        self, number: int, update: OrderUpdate, is_new: bool, before: list[Output] | None = None, alone: bool = False
    ) -> list[Output]:
        """Let the rules take an update of an order that we know; `before` follows what is said of its fill."""
        row = self._row_of(number)
        if row is None:
            return before or []
        self._by_exchange_id[update.order_id] = number
        if is_new:
            self._note_fill(number, update)
        outputs = self._react(
            records.ORDER_TOLD,
            order=row,
            time=update.time,
            status=_state_number(states.STATUS_ALIASES.get(update.status, update.status)),
            reported=update.filled,
            order_id=update.order_id,
            trade_id=update.trade_id if is_new else 0,
            quantity=update.last_quantity,
            price=update.last_price,
            fee=update.fee,
            realised=update.realised,
            is_alone=alone,
        )
        return (self._doubts(update) if is_new and not alone else []) + (before or []) + outputs

    def _note_fill(self, number: int, update: OrderUpdate) -> None:
        """Note a fill's trade id for good; the rules count its money and lots."""
        self._fills.add(update.trade_id)
        order = self._order_rows[self._rows[number]]
        trip, has_position = int(order["round_trip"]), self.has_position
        is_late = not has_position or trip != self._position_row["id"]
        if is_late:  # it belongs to what is in hand, or to a new round trip
            self.reconciled = False
            self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), self._at(update.time))
            name = self._names[number]
            self._late = f"{name} filled after round trip {trip} had ended" + " and the next had begun" * has_position
            trip = int(self._position_row["id"]) if has_position else int(self._row["round_trips"]) + 1
        is_exit = order["side"] != self._position_row["side"] if has_position else False
        self._trade_ids_of(trip)[bool(is_exit)].append(update.trade_id)

    def _doubts(self, fill: OrderUpdate) -> list[Output]:
        """Say where a fill's fee is missing from the costs, or the exchange's PnL isn't ours, within its rounding."""
        if self._books.breaker is None:
            return []
        now, doubts = int(self._books.account["now"]), []
        if fill.fee_asset not in ("", self.instrument.quote_asset):
            text = f"fill {fill.trade_id}: its fee was paid in {fill.fee_asset} and is missing from the costs"
            doubts.append(("FEE_ASSET", text))
        realised = int(self._row["realised_last"])
        if abs(realised - fill.realised) > REALISED_TOLERANCE:
            text = f"fill {fill.trade_id}: {money_text(fill.realised)}, ours is {money_text(realised)}"
            doubts.append(("REALISED_DIFFERS", text))
        return [Alert(now, code, text) for code, text in doubts]

    def on_algo(self, update: AlgoUpdate) -> list[Output]:
        """Take a conditional order's update."""
        return self._take_algo(update, alone=False)

    def _take_algo(self, update: AlgoUpdate, alone: bool) -> list[Output]:
        number = self._numbers.get(update.client_order_id)
        row = None if number is None else self._row_of(number)
        if number is None or row is None or not self._order(number).algo:
            self._doubt_account(self._at(update.time))
            alert = Alert(update.time, "FOREIGN_ORDER", f"conditional order {update.client_order_id} isn't ours")
            if alone:
                return [alert]
            held = self._lots
            synced = self._react(records.SYNC_TOLD)  # the time has moved
            return [alert, *synced, *self._react(records.ORDERS_CHANGED, amount=held)]
        if update.order_id:
            self._by_exchange_id[update.order_id] = number
        if update.status == "REJECTED":
            self._texts[number] = update.reason
        return self._react(
            records.ALGO_TOLD,
            order=row,
            time=update.time,
            status=_state_number(update.status),
            order_id=update.order_id,
            is_alone=alone,
        )

    def on_reply(self, reply: Reply) -> list[Output]:
        """Take the answer to a command of ours."""
        number = self._numbers[reply.client_order_id]
        row = self._row_of(number)
        if row is None:
            return []
        self._asked, order, algo = number, reply.order, reply.algo_order
        told = order or algo
        if told is not None and told.order_id:
            self._by_exchange_id[told.order_id] = number
        if reply.action == "submit" and reply.outcome is not Outcome.ACCEPTED:
            self._texts[number] = reply.text
        if algo is not None and algo.status == "REJECTED":
            self._texts[number] = algo.reason
        return self._react(
            records.REPLIED,
            order=row,
            time=reply.time,
            command=_COMMANDS[reply.action],
            outcome=self._outcome(number, reply),
            code=reply.code,
            told=(records.OF_ORDER if order else 0) | (records.OF_ALGO if algo else 0),
            told_at=order.time if order else 0,
            status=_state_number(states.STATUS_ALIASES.get(told.status, told.status)) if told else 0,
            reported=order.filled if order else 0,
            order_id=told.order_id if told else 0,
            algo_status=_state_number(algo.status) if algo else 0,
            algo_told_at=algo.time if algo else 0,
        )

    def _outcome(self, number: int, reply: Reply) -> int:
        """Absence counts only once the request can't be accepted any more, and when the answers agree."""
        order = self._order(number)
        if reply.action != "lookup" or order.done:
            return _OUTCOMES[reply.outcome]
        if reply.outcome is Outcome.ACCEPTED:
            self._absent.pop(number, None)
            self._unlisted.discard(number)
            return states.ACCEPTED
        is_absent = reply.outcome is Outcome.REFUSED and reply.code in _ABSENT_CODES
        if is_absent and reply.time >= self._fence(order):
            self._absent[number] = self._absent.get(number, 0) + 1
            if self._absent[number] >= states.ABSENCE_ANSWERS and number in self._unlisted:
                return states.ABSENT
        return _OUTCOMES[reply.outcome]

    def _fence(self, order: Order) -> int:
        """From when on an answer that there is no such order means that there never will be."""
        return int(order.row.time) + self._execution.recv_window_ms + states.ABSENCE_MARGIN_MS

    def on_filters(self, filters: Filters) -> list[Output]:
        """Send what is left of exits in parts that the exchange takes, at once."""
        self._at(filters.time)
        guess = int(self._row["largest_order"])
        if filters.largest_market_order >= guess * states.PARTS_OF_TOO_LARGE:
            return []  # the exchange has just refused as much
        self._row["largest_order"] = max(filters.largest_market_order, 1)
        self._position_row["exit_at"] = 0
        return self._react(records.SYNC_TOLD)

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Hold the exchange's account against ours; trade only when they agree.

        Fills are taken first (each counts once), then open orders; orders of ours that the exchange doesn't list as
        open are looked up. A position that our fills don't explain leaves `reconciled` false.
        """
        held = self._lots
        self._at(snapshot.time)
        for update in snapshot.orders:  # trades name their orders by these numbers alone
            if (named := self._find(update)) is not None:
                self._by_exchange_id[update.order_id] = named
        self._row["snapshot_at"] = NEVER
        is_explained = self._has_agreed and self._trades_lead_to_position(snapshot) and self._accounts_for_all(snapshot)
        self._row["shown"] = 0 if is_explained else snapshot.position.quantity
        doubts: list[Output] = []
        outputs: list[Output] = []
        for fill in self.explained(snapshot):
            outputs += self._take_listed_fill(fill, snapshot.time, doubts)
        for update in snapshot.orders:
            number = self._find(update)
            outputs += self._foreign(update) if number is None else self._take_order(number, update, False, alone=True)
        for algo in snapshot.algo_orders:
            outputs += self._take_algo(algo, alone=True)
        listed = _listed(snapshot)
        live = [order for order in self._live() if order.id not in listed and order.state != "PENDING_SUBMIT"]
        for order in live:
            row = self._rows[order.row.number]
            outputs += self._react(records.LOOK_UP_TOLD, order=row, reason=states.NOT_LISTED)
        outputs += self._react(records.SYNC_TOLD)
        outputs += self._compare(snapshot)
        if self.position == snapshot.position.quantity:
            self._unlisted |= {order.row.number for order in live if snapshot.time >= self._fence(order)}
            outputs += self._cancel_orphans(snapshot)
        if self._awaits_fills():
            self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), snapshot.time + _pause(self._incomplete))
            self._incomplete += 1
        else:
            self._incomplete = 0
        return doubts + outputs + self._react(records.ORDERS_CHANGED, amount=held)

    def _take_listed_fill(self, fill: OrderUpdate, time: int, doubts: list[Output]) -> list[Output]:
        """Take a fill of a snapshot, which names its order by the exchange's id only; one of others may have closed."""
        number, outputs = self._find(fill), list[Output]()
        if number is None:
            outputs.append(Alert(time, "FOREIGN_ORDER", f"order #{fill.order_id} isn't ours, and closed"))
            number = self._adopt_exit(fill)
        if number is not None:
            outputs += self._take_order(number, fill, True, alone=True)
            doubts += self._doubts(fill)
        return outputs

    def _compare(self, snapshot: Snapshot) -> list[Output]:
        """Say whether the account agrees with our books, now that all that the snapshot told is taken."""
        ours, theirs = self.position, snapshot.position.quantity
        foreign = [u.client_order_id for u in snapshot.orders if self._find(u) is None]
        foreign += [u.client_order_id for u in snapshot.algo_orders if u.client_order_id not in self._numbers]
        self.reconciled = ours == theirs and not foreign
        if self.reconciled:
            self._row["disagreements"] = 0
            self._note_agreement(snapshot)
            if self._accounts_for_all(snapshot):
                self._row["agreed_at"], self._unconfirmed = snapshot.time, 0
            elif self._books.account["keep"]:  # the session ends when all that is left behind was seen
                self._row["snapshot_at"] = snapshot.time + _pause(self._unconfirmed)
                self._unconfirmed += 1
        self._listed_trade_id = max(self._listed_trade_id, _last_trade(snapshot))
        if self.reconciled:
            return []
        # One reading may fall between two fills, so a person is told of the second.
        self.disagree(snapshot.time)
        if self._are_gone(ours, theirs):
            return self._adjust(snapshot, abs(ours) - max(theirs * (1 if ours > 0 else -1), 0))
        if ours != theirs and self._row["disagreements"] == 2:
            text = f"the exchange has {theirs} lots, our fills make {ours}"
            return [Alert(snapshot.time, "POSITION_MISMATCH", text)]
        return []

    def _are_gone(self, ours: int, theirs: int) -> bool:
        """Whether lots of ours are gone: readings in a row agree on it, and so does the matching engine.

        A list may lag for long; but a reduce-only order is refused only where there is nothing to reduce.
        """
        is_less = ours != 0 and theirs * (1 if ours > 0 else -1) < abs(ours)
        self._less = (theirs, self._less[1] + 1 if self._less[0] == theirs else 1) if is_less else (0, 0)
        return self._less[1] >= ADJUSTED_AFTER and bool(self._row["nothing_to_reduce"])

    def _adjust(self, snapshot: Snapshot, lots: int) -> list[Output]:
        """Take it that lots of ours are gone, as the exchange has said again and again, though no trade tells of it.

        They are booked at the last price; the wallet is set right by what the exchange says of it.
        """
        if not self._accounts_for_all(snapshot, but=Purpose.EXIT):  # exits are refused again and again
            return []
        side, now = Side(-int(self._position_row["side"])), self._at(snapshot.time)
        gone = OrderUpdate(
            *(now, snapshot.symbol, f"adjusted-{now}", -now, side, OrderType.MARKET, "FILLED", "TRADE", lots, lots),
            trade_id=-now,
            last_quantity=lots,
            last_price=int(self._row["last_price"]),
        )
        number = self._adopt_exit(gone)
        if number is None:
            return []
        said = Alert(now, "POSITION_ADJUSTED", f"{lots} lots are gone, says the exchange, and no trade tells of it")
        return [said, *self._take_order(number, gone, True, alone=True)]

    def _note_agreement(self, snapshot: Snapshot) -> None:
        """Raise the watermark, unless a fill of ours may be missing.

        Behind a snapshot that isn't whole lies for certain only what an earlier one listed.
        """
        if not self._accounts_for_all(snapshot) or self._awaits_fills():
            return
        held = snapshot.position.quantity
        agreed = _last_trade(snapshot) if self._trades_lead_to_position(snapshot) else self._listed_trade_id
        if agreed > self.agreed_trade_id or not self._has_agreed:
            self.agreed_trade_id, self._agreed_position = agreed, held - _moved(snapshot, agreed)
            self._has_agreed = True

    def _awaits_fills(self) -> bool:
        """Whether the exchange has told of more of an order of ours than the fills that were counted."""
        count = int(self._row["order_count"])
        told = self._order_rows[:count]
        return bool(self._awaiting) or bool(np.any((told["reported"] > told["filled"]) & ~told["is_foreign"]))

    def _trades_lead_to_position(self, snapshot: Snapshot) -> bool:
        """Whether the account's trades since the last agreement lead to the position that a snapshot shows.

        The account is read by several requests; where they don't, the position was read before the last of the trades.
        """
        moved = snapshot.position.quantity - _moved(snapshot, self.agreed_trade_id)
        return not self._has_agreed or moved == self._agreed_position

    def disagree(self, time: int, before: int = 0) -> None:
        """Take note that the account isn't as it must be: no entry until it is; it is asked ever more seldom.

        Args:
            time: now, ms.
            before: snapshots in a row before this one that agreed with our books, but not with the settings.
        """
        disagreements = int(self._row["disagreements"])
        self.reconciled = False
        self._row["snapshot_at"] = time + (states.RETRY_AFTER_MS << min(max(disagreements, before), states.DOUBLINGS))
        self._row["disagreements"] = disagreements + 1

    def on_time(self, time: int) -> list[Output]:
        """Do what is due: look up overdue orders, retry, protect, leave a position that is held too long."""
        self._books.account["now"] = max(time, int(self._books.account["now"]))
        return self._react(records.TIMER_DUE, time=time)

    def _at(self, time: int) -> int:
        """Return the time now. A look-up tells when an order last changed, which is no time to count from."""
        now = max(int(self._row["time"]), time)
        self._row["time"] = now
        return now

    def on_restart(self, time: int) -> list[Output]:
        """Look up what was in flight when the engine ended; its answer is lost. Nobody could protect meanwhile."""
        self._at(time)
        self.reconciled = False
        self._life = f"r{np.base_repr(time // 1000, 36).lower()}"
        if self._position_row["unprotected_since"] != NEVER:
            self._position_row["unprotected_since"] = time
        outputs: list[Output] = []
        for order in self._live():
            if order.state in ("PENDING_SUBMIT", "PENDING_CANCEL"):
                row = self._rows[order.row.number]
                outputs += self._react(records.LOOK_UP_TOLD, order=row, reason=states.RESTART)
        return outputs

    # --- orders that aren't ours -----------------------------------------------------------------------------------

    def _foreign(self, update: OrderUpdate) -> list[Output]:
        """An order that isn't ours: a person's, or a liquidation. Stop trading until the account is understood."""
        self._doubt_account(self._at(update.time))
        if self.is_new_fill(update):
            self._row["halts"] = records.HALTED_BY_HAND
            self._by_hand = f"order {update.client_order_id} moved the position, and isn't ours"
        code = "FOREIGN_ORDER" if _kind(update) == "CLOSED_ELSEWHERE" else "FORCED_ORDER"
        return [Alert(update.time, code, f"order {update.client_order_id} ({update.status}) isn't ours")]

    def _doubt_account(self, now: int) -> None:
        """Let nothing enter until the account was read, which is soon."""
        self.reconciled = False
        self.ask_again(now)

    def ask_again(self, now: int) -> None:
        """Let the account be read soon."""
        self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), now + states.RETRY_AFTER_MS)

    def _is_forced(self, update: OrderUpdate) -> bool:
        """Whether a fill is of an order by which the exchange itself takes from the position in hand."""
        if not self.has_position or not update.trade_id or _kind(update) == "CLOSED_ELSEWHERE":
            return False
        closes = update.side == -int(self._position_row["side"]) and update.last_quantity <= self._lots
        return closes and self._is_later(update, self._first_fill)

    def _adopt_exit(self, update: OrderUpdate) -> int | None:
        """Take an order that closes what is in hand for an exit of the round trip; a person must look before more."""
        reason = _kind(update)
        name = update.client_order_id or f"#{update.order_id}"
        asked = Event(records.EXIT_ADOPTED, self._place, time=update.time, side=update.side, quantity=update.quantity)
        row = self._books.answer(asked._replace(reason=self._books.number(reason)))
        if row < 0:
            return None
        number = self._name(row, name)
        self._by_exchange_id[update.order_id] = number
        self.halt_reason = f"{name} closed the position: {reason}"
        return number

    def _cancel_orphans(self, snapshot: Snapshot) -> list[Output]:
        """Cancel what waits at the exchange under a name of this session's, and is in no journal.

        It was sent before the journal lost its end. What it covers must be covered by a stop of ours, or be nothing.
        """
        stops = [o for o in self._live() if o.purpose is Purpose.STOP and o.state == "NEW"]
        if self._lots and not any(stop.quantity >= abs(self._lots) for stop in stops):
            return []
        outputs: list[Output] = []
        for algo in snapshot.algo_orders:
            if algo.client_order_id not in self._numbers and self._adopt_orphan(algo) is not None:
                outputs += self._take_algo(algo, alone=True)
        return outputs

    def _adopt_orphan(self, update: AlgoUpdate) -> int | None:
        """Give an order of ours that no journal knows a row."""
        purpose = row_facts.purpose_of(update.client_order_id, self._epoch)
        if purpose is None:
            return None
        asked = Event(records.ORPHAN_ADOPTED, self._place, time=self._at(update.time), side=update.side)
        row = self._books.answer(asked._replace(code=PURPOSES.index(purpose), quantity=update.quantity))
        return None if row < 0 else self._name(row, update.client_order_id)

    # --- names and rows --------------------------------------------------------------------------------------------

    def _find(self, update: OrderUpdate) -> int | None:
        """Return which order of ours it is of, by the exchange's number, else by the name.

        The exchange's own orders may have one name again and again: a name stands for the number it came with first.
        """
        number = self._by_exchange_id.get(update.order_id)
        if number is None and (number := self._numbers.get(update.client_order_id)) is not None:
            row = self._order(number).row
            return None if row.is_foreign and row.order_id != update.order_id else number
        return number

    def _name(self, row: int, name: str) -> int:
        """Give the order in a row its name; return its number."""
        number = int(self._order_rows[row]["number"])
        self._names[number], self._numbers[name], self._rows[number] = name, number, row
        return number

    def _live(self) -> list[Order]:
        """Orders of the position in hand that can still act, by purpose."""
        trip = int(self._position_row["id"]) if self.has_position else 0
        orders = [self._order(number) for number in self._rows]
        live = [order for order in orders if order.row.round_trip == trip and not order.done]
        return sorted(live, key=lambda order: order.row.purpose)

    def _row_of(self, number: int) -> int | None:
        """Return an order's row. One that was over is given a row again, and its round trip is brought back with it."""
        if number in self._rows:
            return self._rows[number]
        row, order = int(self._row["order_count"]), self._over[number]
        if row == ROWS:
            return None
        self._order_rows[row], self._rows[number] = tuple(order), row
        self._row["order_count"] = row + 1
        trip = order.round_trip
        if trip != self._position_row["id"] and trip in self._ended:
            self._books.column("earlier" if self.has_position else "position")[self._place] = tuple(self._ended[trip])
        return row

    def put_away(self) -> None:
        """Take orders that are over out of their rows, and keep how they and their round trips stood.

        A round trip may end when none of its orders has a row any more: it is kept all the same.
        """
        is_kept = self.has_position or int(self._position_row["id"]) in self._ended
        if is_kept and not self._row["over_count"]:
            return
        count, kept = int(self._row["order_count"]), 0
        is_crowded = count - int(self._row["over_count"]) > ROWS - SPARE
        for row in range(count):
            order = OrderRow(*self._order_rows[row].item())
            if order.is_over or (is_crowded and Order("", order).done):
                self._put_away(order)
            else:
                if kept != row:
                    self._order_rows[kept] = self._order_rows[row]
                self._rows[order.number] = kept
                kept += 1
        self._row["order_count"], self._row["over_count"] = kept, 0
        earlier = self._earlier_row
        if earlier["id"]:
            self._ended[int(earlier["id"])] = PositionRow(*earlier.item())
            earlier["id"] = 0
        if not self.has_position:
            self._ended[int(self._position_row["id"])] = PositionRow(*self._position_row.item())

    def _put_away(self, order: Any) -> None:
        number = order.number
        self._over[number] = order
        self._rows.pop(number, None)
        is_short = order.reported > order.filled and not order.is_foreign
        (self._awaiting.add if is_short else self._awaiting.discard)(number)

    # --- what follows, as facts ------------------------------------------------------------------------------------

    def output(self, kind: int, at: int, reason: str, time: int) -> Output:
        """Return a command or note of this symbol; `at` is the row of its order, or of the note in its table."""
        symbol, books = self.instrument.symbol, self._books
        if kind == records.SUBMIT:
            return self._intent(at, reason)
        if kind in (records.CANCEL, records.LOOKUP):
            number = int(self._order_rows[at]["number"])
            is_algo = row_facts.is_conditional(PURPOSES[self._order_rows[at]["purpose"]])
            command = CancelOrder if kind == records.CANCEL else LookupOrder
            return command(time, symbol, self._names[number], is_algo, reason)
        if kind == records.SNAPSHOT:
            return TakeSnapshot(time, symbol, reason)
        if kind == records.CLOSED:
            trip = TripRow(*books.note("trips", at))
            return row_facts.round_trip(trip, symbol, books.word(trip.exit_reason), *self._trade_ids_of(trip.id))
        if kind == records.VALUED:
            return row_facts.equity_point(EquityRow(*books.note("equity", at)), symbol)
        if kind == records.CHANGED:
            return row_facts.change(ChangeRow(*books.note("changes", at)))
        if kind == records.ALERTED:
            return self._alert(AlertRow(*books.note("alerts", at)))
        said = books.breaker.reason if books.breaker else ""
        return row_facts.refusal(RefusalRow(*books.note("refusals", at)), symbol, self._gates, said)

    def _intent(self, row: int, reason: str) -> OrderIntent:
        """Name a new order, and say what is to be asked for it."""
        order = OrderRow(*self._order_rows[row].item())
        name = row_facts.client_order_id(
            self._epoch + self._life, order.round_trip, PURPOSES[order.purpose], order.count
        )
        self._name(row, name)
        return row_facts.intent(
            order, row_facts.request(order, self.instrument.symbol, name, self._working_type), reason
        )

    def _alert(self, alert: Any) -> Alert:
        order = self._order(alert.order) if alert.order >= 0 else None
        about = (order.id, order.row.code, order.text) if order else ("", 0, "")
        return Alert(alert.time, *row_facts.alert_words(alert.kind, *about))

    def _refused_text(self, number: int) -> str:
        order = self._order(number)
        return states.refused_text(order.id, order.row.code, order.text)

    def on_halt(self, why: int) -> None:
        """Take note of why a person must look, as people read it."""
        if why == records.HALTED_BY_REFUSAL:
            self.halt_reason = self._refused_text(self._asked)
        elif why == records.HALTED_BY_LATE_FILL:
            self.halt_reason = self._late
        elif why == records.HALTED_BY_HAND:
            self.halt_reason, self._by_hand = self._by_hand or "a stop was cancelled, not by us", ""
        elif why == records.HALTED_BY_FAILURES:
            self.halt_reason = f"{states.MOST_ENTRY_FAILURES} entries in a row were refused or never placed"

    # --- what outlives a run ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the next run must know, as plain JSON values, for `restore`."""
        return {
            "version": VERSION,
            "round_trips": int(self._row["round_trips"]),
            "agreed_trade_id": self.agreed_trade_id,
            "agreed_position": self._agreed_position,
            "has_agreed": self._has_agreed,
            "halt_reason": self.halt_reason,
            "holding": self._open_position_state() if self.has_position else None,
        }

    def _open_position_state(self) -> dict[str, Any]:
        holding = self.open_position
        assert holding is not None
        entries, exits = self._trade_ids_of(holding.id)
        return {
            "position": self._in_words(holding.row),
            "orders": [{"id": order.id, "text": order.text, **self._in_words(order.row)} for order in holding.orders],
            "entry_trade_ids": list(entries),
            "exit_trade_ids": list(exits),
        }

    def _in_words(self, row: Any) -> dict[str, Any]:
        """Fields of a row by name; what is a word is written as one, so that no number outlives its table."""
        return {name: self._word(name, value) for name, value in row._asdict().items() if name not in _OF_THIS_RUN}

    def _word(self, name: str, value: int) -> int | str:
        if name in _REASONS:
            return self._books.word(value)
        return str({"state": STATES, "purpose": PURPOSES}[name][value]) if name in ("state", "purpose") else value

    def restore(self, state: Mapping[str, Any], time: int) -> None:
        """Go on from a saved state: what is in hand stays in hand, and every live order of it is looked up.

        Raises:
            DataError: the state isn't one that `state` returned, today or in an earlier version.
        """
        try:
            version = state.get("version", 1)
            if version not in (1, 2, VERSION):
                raise DataError(f"orders: version of the saved state must be 1 to {VERSION}, was {version!r}")
            held = state["holding"]
            self._row["round_trips"] = int(state["round_trips"])
            self.halt_reason = str(state["halt_reason"])
            self.agreed_trade_id = self._listed_trade_id = int(state["agreed_trade_id"])
            self._agreed_position = int(state["agreed_position"])
            self._has_agreed = bool(state["has_agreed"])
            if held:
                self._restore(saved_orders.as_of_today(held, version), time)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"orders: the saved state is broken: {error!r}") from None

    def _restore(self, held: Mapping[str, Any], time: int) -> None:
        trip = self._from_words(PositionRow, held["position"])
        orders = [self._from_words(OrderRow, saved, number=n) for n, saved in enumerate(held["orders"])]
        self._books.column("position")[self._place] = tuple(trip)
        self._row["has_position"], self._row["order_numbers"] = True, len(orders)
        trades = self._trade_ids_of(trip.id)
        for mine, name in zip(trades, ("entry_trade_ids", "exit_trade_ids"), strict=True):
            mine += [whole(trade) for trade in held[name]]
            self._fills.update(mine)
        for number, (order, saved) in enumerate(zip(orders, held["orders"], strict=True)):
            self._names[number], self._numbers[str(saved["id"])] = str(saved["id"]), number
            self._texts[number] = str(saved["text"])
            if order.order_id:
                self._by_exchange_id[order.order_id] = number
            self._put_away(order._replace(look_at=time))
            if not Order("", order).done or number in self._awaiting:
                self._row_of(number)

    def _from_words(self, kind: Any, saved: Mapping[str, Any], **of_this_run: Any) -> Any:
        """Read fields by name; every one must be there, and of its kind."""
        known = {**dict.fromkeys(_OF_THIS_RUN, 0), **of_this_run}
        return kind(*(known[name] if name in known else self._number(name, saved[name]) for name in kind._fields))

    def _number(self, name: str, saved: Any) -> int:
        if name in _REASONS:
            return self._books.number(str(saved))
        if name == "state":
            return STATES.index(saved)
        return PURPOSES.index(Purpose(saved)) if name == "purpose" else whole(saved)
