"""The order monitor: every order of one symbol from its intent to its end, and the open position.

`OrderMonitor` registers an order before it is sent, follows it through answers, stream events and look-ups in whatever
order they arrive, and counts each fill once. What is sent for a position, and what a refusal leads to, is in
`order_rules`, which a backtest runs too. Only live trading needs what is here: orders by name (`order_register`),
unknown outcomes, snapshots of the account (`account_check`), foreign orders, and going on after a restart
(`saved_orders`).

The monitor decides and returns outputs; it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from voltrade import order_states as states
from voltrade import records, row_facts
from voltrade.account_check import AccountCheck, kind_of
from voltrade.books import Books
from voltrade.config import ExecutionSettings, ExitSettings
from voltrade.errors import DataError
from voltrade.model import (
    NEVER,
    Alert,
    AlgoUpdate,
    Filters,
    Instrument,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Purpose,
    Reply,
    Side,
    Snapshot,
    money_text,
)
from voltrade.order_outputs import OrderOutputs
from voltrade.order_register import OpenPosition, Order, OrderRegister
from voltrade.order_states import PURPOSES, STATES, AlgoState, OrderState
from voltrade.records import Event
from voltrade.risk import Gate
from voltrade.saved_orders import open_position_state, restore_open_position

__all__ = ["AlgoState", "OpenPosition", "Order", "OrderMonitor", "OrderState"]

VERSION = 3
"""Of the saved state."""

REALISED_TOLERANCE = 100
"""Money by which the exchange's PnL of a fill may differ from ours before an alert."""

_STATE_NUMBERS = {state: number for number, state in enumerate(STATES)}
_COMMANDS = {"submit": records.SUBMIT, "cancel": records.CANCEL, "lookup": records.LOOKUP}
_OUTCOMES = {Outcome.ACCEPTED: states.ACCEPTED, Outcome.REFUSED: states.REFUSED, Outcome.UNKNOWN: states.UNANSWERED}
_ABSENT_CODES = (-2013, -2011)


def _state_number(status: str) -> int:
    return _STATE_NUMBERS.get(status, states.OTHER)


def _pause(times: int) -> int:
    """Return the pause before the account is read again, ms, after this many snapshots in a row that fell short."""
    return states.RETRY_AFTER_MS << min(times, states.DOUBLINGS)


class OrderMonitor:
    """Every order of one symbol, and its open position.

    Args:
        epoch: text that makes client order ids of this session its own.
        books: the account's records, by default its own.
        place: the symbol's place among them.
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
        self._register = OrderRegister(self._books, place)
        self._check = AccountCheck(self._register)
        self._outputs = OrderOutputs(self._register, self._books, instrument, exits, epoch, gates)
        self._position_row, self._order_rows = self._register.position_row, self._register.order_rows
        self._books.tellers.append(self)
        self._execution = execution
        self._absent: dict[int, int] = {}
        """How often the exchange has answered that it has no such order, by number."""
        self._unconfirmed = 0
        """Snapshots in a row that did not confirm what the session leaves."""
        self._incomplete = 0
        """Snapshots in a row that lacked fills that are reported."""
        self._unlisted: set[int] = set()
        """Orders that a snapshot did not list, taken so late that it would have had them."""
        self._late = self._by_hand = ""
        """Texts for a halt after a late fill, and after a foreign one."""
        self._answered = 0
        """The order that was answered last."""

    # --- questions -------------------------------------------------------------------------------------------------

    @property
    def has_position(self) -> bool:
        """Whether a round trip is in progress, from its intent until none of its orders can act."""
        return self._register.has_position

    @property
    def position(self) -> int:
        """Signed lots of the open position, from our fills."""
        return self._register.position

    @property
    def reconciled(self) -> bool:
        """Whether the exchange's account agrees with our books."""
        return bool(self._row["reconciled"])

    @reconciled.setter
    def reconciled(self, agrees: bool) -> None:
        self._row["reconciled"] = agrees

    @property
    def ignored(self) -> int:
        """Number of updates that changed nothing: late, doubled, or impossible."""
        return int(self._row["ignored"])

    @property
    def has_unknown(self) -> bool:
        """Whether the outcome of an order is unknown."""
        return bool(self._books.ask(records.HAS_UNKNOWN, self._place))

    @property
    def agreed_trade_id(self) -> int:
        """The watermark; see `AccountCheck`."""
        return self._check.agreed_trade_id

    @property
    def next_due(self) -> int:
        """When `on_time` has something to do, in ms, or NEVER."""
        return self._books.ask(records.ORDERS_DUE, self._place)

    @property
    def orders(self) -> dict[str, Order]:
        """A copy of every order, by client order id."""
        return self._register.orders

    @property
    def open_position(self) -> OpenPosition | None:
        """A copy of the open position and its orders."""
        return self._register.open_position

    def is_new_fill(self, update: OrderUpdate) -> bool:
        """Whether an update carries a fill that is not counted yet."""
        return self._register.is_new_fill(update)

    def explained(self, snapshot: Snapshot) -> list[OrderUpdate]:
        """Return the fills of a snapshot that weren't counted: of our orders, or closing the open position."""
        return self._check.explained(snapshot)

    def is_passed(self, price: int) -> bool:
        """Whether a price is beyond the trigger of a stop or take-profit that is believed to wait."""
        beyond = {states.STOP: -1, states.TAKE_PROFIT: 1}
        side = int(self._position_row["side"])
        waiting = (order for order in self._register.live() if order.algo and order.state == "NEW")
        return any(side * beyond[int(order.row.purpose)] * (price - order.row.trigger_price) > 0 for order in waiting)

    def put_away(self) -> None:
        """Take orders that are over out of their rows."""
        self._register.put_away()

    def output(self, kind: int, at: int, reason: str, time: int) -> Output:
        """Return a command or note of this symbol; see `OrderOutputs`."""
        return self._outputs.output(kind, at, reason, time)

    def _react(self, kind: int, **facts: Any) -> list[Output]:
        return self._books.react(Event(kind, self._place, **facts))

    # --- updates ---------------------------------------------------------------------------------------------------

    def on_order(self, update: OrderUpdate) -> list[Output]:
        """Take an ordinary order's update, its fill included."""
        held = self._register.lots
        number, is_new = self._register.find(update), self._register.is_new_fill(update)
        is_forced = number is None and is_new and self._check.is_forced_exit(update)
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
        row = self._register.row_of(number)
        if row is None:
            return before or []
        self._register.by_exchange_id[update.order_id] = number
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
        self._register.fills.add(update.trade_id)
        order = self._order_rows[self._register.rows[number]]
        trip, has_position = int(order["round_trip"]), self.has_position
        is_late = not has_position or trip != self._position_row["id"]
        if is_late:  # it belongs to what is in hand, or to a new round trip
            self.reconciled = False
            self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), self._at(update.time))
            name = self._register.names[number]
            self._late = f"{name} filled after round trip {trip} had ended" + " and the next had begun" * has_position
            trip = int(self._position_row["id"]) if has_position else int(self._row["round_trips"]) + 1
        is_exit = order["side"] != self._position_row["side"] if has_position else False
        self._register.trade_ids_of(trip)[bool(is_exit)].append(update.trade_id)

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
        number = self._register.find_algo(update)
        row = None if number is None else self._register.row_of(number)
        if number is None or row is None:
            self._doubt_account(self._at(update.time))
            alert = Alert(update.time, "FOREIGN_ORDER", f"conditional order {update.client_order_id} isn't ours")
            if alone:
                return [alert]
            held = self._register.lots
            synced = self._react(records.SYNC_TOLD)  # the time has moved
            return [alert, *synced, *self._react(records.ORDERS_CHANGED, amount=held)]
        if update.order_id:
            self._register.by_exchange_id[update.order_id] = number
        if update.status == "REJECTED":
            self._register.texts[number] = update.reason
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
        number = self._register.numbers[reply.client_order_id]
        row = self._register.row_of(number)
        if row is None:
            return []
        self._answered, order, algo = number, reply.order, reply.algo_order
        told = order or algo
        if told is not None and told.order_id:
            self._register.by_exchange_id[told.order_id] = number
        if reply.action == "submit" and reply.outcome is not Outcome.ACCEPTED:
            self._register.texts[number] = reply.text
        if algo is not None and algo.status == "REJECTED":
            self._register.texts[number] = algo.reason
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
        order = self._register.order(number)
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
        held = self._register.lots
        self._at(snapshot.time)
        for update in snapshot.orders:  # trades name their orders by these numbers alone
            if (named := self._register.find(update)) is not None:
                self._register.by_exchange_id[update.order_id] = named
        self._row["snapshot_at"] = NEVER
        self._row["shown"] = 0 if self._check.is_explained(snapshot) else snapshot.position.quantity
        doubts: list[Output] = []
        outputs: list[Output] = []
        for fill in self._check.explained(snapshot):
            outputs += self._take_listed_fill(fill, snapshot.time, doubts)
        for update in snapshot.orders:
            number = self._register.find(update)
            outputs += self._foreign(update) if number is None else self._take_order(number, update, False, alone=True)
        for algo in snapshot.algo_orders:
            outputs += self._take_algo(algo, alone=True)
        unlisted = self._check.unlisted(snapshot)
        for order in unlisted:
            row = self._register.rows[order.row.number]
            outputs += self._react(records.LOOK_UP_TOLD, order=row, reason=states.NOT_LISTED)
        outputs += self._react(records.SYNC_TOLD)
        outputs += self._compare(snapshot)
        if self.position == snapshot.position.quantity:
            self._unlisted |= {order.row.number for order in unlisted if snapshot.time >= self._fence(order)}
            outputs += self._cancel_orphans(snapshot)
        if self._register.awaits_fills():
            self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), snapshot.time + _pause(self._incomplete))
            self._incomplete += 1
        else:
            self._incomplete = 0
        return doubts + outputs + self._react(records.ORDERS_CHANGED, amount=held)

    def _take_listed_fill(self, fill: OrderUpdate, time: int, doubts: list[Output]) -> list[Output]:
        """Take a fill of a snapshot, which names its order by the exchange's id only; one of others may have closed."""
        number, outputs = self._register.find(fill), list[Output]()
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
        self.reconciled = ours == theirs and not self._check.foreign_ids(snapshot)
        if self.reconciled:
            self._row["disagreements"] = 0
            self._check.note_agreement(snapshot)
            if self._check.accounts_for_all(snapshot):
                self._row["agreed_at"], self._unconfirmed = snapshot.time, 0
            elif self._books.account["keep"]:  # the session ends when all that is left behind was seen
                self._row["snapshot_at"] = snapshot.time + _pause(self._unconfirmed)
                self._unconfirmed += 1
        self._check.note_listed(snapshot)
        if self.reconciled:
            return []
        # One reading may fall between two fills, so a person is told of the second.
        self.disagree(snapshot.time)
        if self._check.are_gone(ours, theirs):
            return self._adjust(snapshot, abs(ours) - max(theirs * (1 if ours > 0 else -1), 0))
        if ours != theirs and self._row["disagreements"] == 2:
            text = f"the exchange has {theirs} lots, our fills make {ours}"
            return [Alert(snapshot.time, "POSITION_MISMATCH", text)]
        return []

    def _adjust(self, snapshot: Snapshot, lots: int) -> list[Output]:
        """Take it that lots of ours are gone, as the exchange has said again and again, though no trade tells of it.

        They are booked at the last price; the wallet is set right by what the exchange says of it.
        """
        if not self._check.accounts_for_all(snapshot, but=Purpose.EXIT):  # exits are refused again and again
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
        self._outputs.life = f"r{np.base_repr(time // 1000, 36).lower()}"
        if self._position_row["unprotected_since"] != NEVER:
            self._position_row["unprotected_since"] = time
        outputs: list[Output] = []
        for order in self._register.live():
            if order.state in ("PENDING_SUBMIT", "PENDING_CANCEL"):
                row = self._register.rows[order.row.number]
                outputs += self._react(records.LOOK_UP_TOLD, order=row, reason=states.RESTART)
        return outputs

    # --- orders that aren't ours -----------------------------------------------------------------------------------

    def _foreign(self, update: OrderUpdate) -> list[Output]:
        """An order that isn't ours: a person's, or a liquidation. Stop trading until the account is understood."""
        self._doubt_account(self._at(update.time))
        if self._register.is_new_fill(update):
            self._row["halts"] = records.HALTED_BY_HAND
            self._by_hand = f"order {update.client_order_id} moved the position, and isn't ours"
        code = "FOREIGN_ORDER" if kind_of(update) == "CLOSED_ELSEWHERE" else "FORCED_ORDER"
        return [Alert(update.time, code, f"order {update.client_order_id} ({update.status}) isn't ours")]

    def _doubt_account(self, now: int) -> None:
        """Let nothing enter until the account was read, which is soon."""
        self.reconciled = False
        self.ask_again(now)

    def ask_again(self, now: int) -> None:
        """Let the account be read soon."""
        self._row["snapshot_at"] = min(int(self._row["snapshot_at"]), now + states.RETRY_AFTER_MS)

    def _adopt_exit(self, update: OrderUpdate) -> int | None:
        """Take an order that closes what is in hand for an exit of the round trip; a person must look before more."""
        reason = kind_of(update)
        name = update.client_order_id or f"#{update.order_id}"
        asked = Event(records.EXIT_ADOPTED, self._place, time=update.time, side=update.side, quantity=update.quantity)
        row = self._books.answer(asked._replace(reason=self._books.number(reason)))
        if row < 0:
            return None
        number = self._register.add(row, name)
        self._register.by_exchange_id[update.order_id] = number
        self.halt_reason = f"{name} closed the position: {reason}"
        return number

    def _cancel_orphans(self, snapshot: Snapshot) -> list[Output]:
        """Cancel what waits at the exchange under a name of this session's, and is in no journal.

        It was sent before the journal lost its end. What it covers must be covered by a stop of ours, or be nothing.
        """
        stops = [o for o in self._register.live() if o.purpose is Purpose.STOP and o.state == "NEW"]
        if self._register.lots and not any(stop.quantity >= abs(self._register.lots) for stop in stops):
            return []
        outputs: list[Output] = []
        for algo in snapshot.algo_orders:
            if algo.client_order_id not in self._register.numbers and self._adopt_orphan(algo) is not None:
                outputs += self._take_algo(algo, alone=True)
        return outputs

    def _adopt_orphan(self, update: AlgoUpdate) -> int | None:
        """Give an order of ours that no journal knows a row."""
        purpose = row_facts.purpose_of(update.client_order_id, self._outputs.epoch)
        if purpose is None:
            return None
        asked = Event(records.ORPHAN_ADOPTED, self._place, time=self._at(update.time), side=update.side)
        row = self._books.answer(asked._replace(code=PURPOSES.index(purpose), quantity=update.quantity))
        return None if row < 0 else self._register.add(row, update.client_order_id)

    def on_halt(self, why: int) -> None:
        """Take note of why a person must look, as people read it."""
        if why == records.HALTED_BY_REFUSAL:
            self.halt_reason = self._outputs.refused_text(self._answered)
        elif why == records.HALTED_BY_LATE_FILL:
            self.halt_reason = self._late
        elif why == records.HALTED_BY_HAND:
            self.halt_reason, self._by_hand = self._by_hand or "a stop was cancelled, not by us", ""
        elif why == records.HALTED_BY_FAILURES:
            self.halt_reason = f"{states.MOST_ENTRY_FAILURES} entries in a row were refused or never placed"

    # --- going on after a restart ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the next run must know, as plain JSON values, for `restore`."""
        return {
            "version": VERSION,
            "round_trips": int(self._row["round_trips"]),
            "agreed_trade_id": self._check.agreed_trade_id,
            "agreed_position": self._check.agreed_position,
            "has_agreed": self._check.has_agreed,
            "halt_reason": self.halt_reason,
            "open_position": open_position_state(self._register, self._books),
        }

    def restore(self, state: Mapping[str, Any], time: int) -> None:
        """Go on from a saved state: the position stays open, and every live order of it is looked up.

        Raises:
            DataError: the state isn't one that `state` returned.
        """
        try:
            if state["version"] != VERSION:
                raise DataError(f"orders: version of the saved state must be {VERSION}, was {state['version']!r}")
            self._row["round_trips"] = int(state["round_trips"])
            self.halt_reason = str(state["halt_reason"])
            self._check.agreed_trade_id = self._check.listed_trade_id = int(state["agreed_trade_id"])
            self._check.agreed_position = int(state["agreed_position"])
            self._check.has_agreed = bool(state["has_agreed"])
            if saved := state["open_position"]:
                restore_open_position(self._register, self._books, self._place, saved, time)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"orders: the saved state is broken: {error!r}") from None
