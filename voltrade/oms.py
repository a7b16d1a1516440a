"""The order monitor: every order of one symbol from its intent to its end, and the open position.

`OrderMonitor` registers an order before it is sent, follows it through answers, stream events and look-ups in whatever
order they arrive, and counts each fill once. What is sent for a position, and what a refusal leads to, is in
`order_rules` and `position_rules`, which a backtest runs too. A compiled backtest does without what is here: orders by
client order id (`order_register`), unknown outcomes, snapshots of the account (`snapshot_check`), foreign orders,
restarts, and the state for the next run (`saved_orders`).

The monitor decides and returns outputs; it sends nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from voltrade.account import position_after
from voltrade.compiled import uncompiled
from voltrade.config import ExecutionSettings, ExitSettings
from voltrade.errors import DataError
from voltrade.model import (
    NEVER,
    AccountSummary,
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
from voltrade.orders import order_rules, records, row_facts
from voltrade.orders import order_states as states
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_outputs import OrderOutputs
from voltrade.orders.order_register import OpenPosition, Order, OrderRegister
from voltrade.orders.order_states import PURPOSES, STATES, AlgoState, OrderState
from voltrade.orders.records import BooksEvent
from voltrade.orders.saved_orders import open_position_state, restore_open_position
from voltrade.orders.snapshot_check import SnapshotCheck, foreign_kind, listed_ids, share
from voltrade.risk import Gate, whole

__all__ = ["AlgoState", "OpenPosition", "Order", "OrderMonitor", "OrderState"]

VERSION = 5
"""Version of the saved state. One of an earlier version is read by its names: what means something else has another."""

REALISED_TOLERANCE = 100
"""Largest difference between the exchange's profit of a fill and ours without an alert, money."""

_STATE_NUMBERS = {state: number for number, state in enumerate(STATES)}
_COMMANDS = {"submit": records.SUBMIT, "cancel": records.CANCEL, "lookup": records.LOOKUP}
_OUTCOMES = {
    Outcome.ACCEPTED: states.ACCEPTED,
    Outcome.REFUSED: states.REFUSED,
    Outcome.UNKNOWN: states.UNKNOWN_OUTCOME,
}
_ABSENT_CODES = (-2013, -20124)


def _state_number(status: str) -> int:
    return _STATE_NUMBERS.get(status, states.OTHER)


def _pause(times: int) -> int:
    """Return the pause before the account is read again, ms; it doubles with each incomplete snapshot in a row."""
    return states.RETRY_AFTER_MS << min(times, states.MAX_DOUBLINGS)


class OrderMonitor:
    """Every order of one symbol, and its open position.

    Args:
        epoch: text that makes client order ids of this session unique.
        books: the account's records, by default its own.
        index: the symbol's row in them.
        gates: the gates by number.
    """

    def __init__(
        self,
        instrument: Instrument,
        exits: ExitSettings,
        execution: ExecutionSettings,
        epoch: str,
        books: AccountBooks | None = None,
        index: int = 0,
        gates: tuple[Gate, ...] = (),
    ) -> None:
        self.instrument = instrument
        self.halt_reason = ""
        self.orders_confirmed = True
        """Whether the last snapshot showed no orphan, and a position of which it is known whose it is, ours or somebody
        else's. False from a restart until then."""
        self._books = books or AccountBooks()
        self._index = index
        self._row = self._books.symbols[index]
        records.new_symbol(self._row, index, instrument, exits, execution)
        self.books_agree = False
        """Whether the last snapshot had the position of our books, from after each trade known, and nothing has cast
        doubt on that since: `reconciled`, but for orders of somebody else that only rest."""
        self.foreign_orders: tuple[str, ...] = ()
        """Client order ids of the open orders of the last snapshot that aren't ours."""
        self._register = OrderRegister(self._books, index)
        self._check = SnapshotCheck(self._register)
        self._outputs = OrderOutputs(self._register, self._books, instrument, exits, epoch, gates)
        self._position_row, self._order_rows = self._register.position_row, self._register.order_rows
        self._books.monitors.append(self)
        self._execution = execution
        self._absences: dict[int, int] = {}
        """How many answers that an order doesn't exist have counted since we last heard of it, by its number."""
        self._disagreement_count = 0
        """Snapshots in a row that did not agree with our books."""
        self._unconfirmed_count = 0
        """Snapshots in a row that did not confirm the orders that stay when the session ends."""
        self._incomplete_count = 0
        """Snapshots in a row that lacked fills that are reported."""
        self._unlisted: set[int] = set()
        """Orders that a snapshot did not list although it was taken late enough to have them, nor any since."""
        self._late_fill_text = self._foreign_fill_text = ""
        """Halt reasons after a late fill, and after a foreign one."""
        self._reported_fees: set[str] = set()
        """Texts of the alerts about fees in other assets; each is given once."""
        self._last_answered = 0
        """Number of the order that the last reply was about."""
        self.absent_at = 0
        """When an order was last concluded absent, ms; the exchange may still execute it."""

    # --- queries ---------------------------------------------------------------------------------------------------

    @property
    def is_mark_missing(self) -> bool:
        """Whether the last mark price was the last trade's, since the exchange's were missing."""
        return bool(self._row["mark_is_last_price"])

    @property
    def in_round_trip(self) -> bool:
        """Whether a round trip is in progress: from the intent of its entry until none of its orders can act."""
        return self._register.in_round_trip

    @property
    def position(self) -> int:
        """Signed lots of the open position, from our fills."""
        return self._register.position

    @property
    def reconciled(self) -> bool:
        """Whether the account is ours as far as we know: entries need it.

        The last snapshot had the position of our books, no order of somebody else's and our settings, and nothing has
        cast doubt on that since: a lost user stream, a foreign order, a late fill or a restart. A wallet that differs
        counts only while an order must be looked up first.
        """
        return bool(self._row["reconciled"])

    @reconciled.setter
    def reconciled(self, is_ours: bool) -> None:
        self._row["reconciled"] = self.books_agree = is_ours

    @property
    def ignored(self) -> int:
        """Number of statuses that were not applied, since they were out of date or no legal transition led to them."""
        return int(self._row["ignored"])

    @property
    def has_unsettled_order(self) -> bool:
        """Whether the outcome of an order is unknown, or a cancel is in flight."""
        return bool(self._books.ask(records.HAS_UNSETTLED_ORDER, self._index))

    @property
    def agreed_trade_id(self) -> int:
        """Trade id up to which no fill of ours is missing; see `SnapshotCheck`."""
        return self._check.agreed_trade_id

    @property
    def next_due(self) -> int:
        """When `on_time` has something to do, ms; NEVER where it hasn't. A core asks `core_rules.next_due`."""
        return self._books.ask(records.ORDERS_DUE, self._index)

    @property
    def orders(self) -> dict[str, Order]:
        """A copy of every order, by client order id."""
        return self._register.orders

    @property
    def open_position(self) -> OpenPosition | None:
        """A copy of the open position and its orders."""
        return self._register.open_position

    def is_new_fill(self, update: OrderUpdate) -> bool:
        """Return whether an update has a fill that is not counted yet."""
        return self._register.is_new_fill(update)

    def unknown_orders(self, snapshot: Snapshot) -> list[int]:
        """Return the exchange's ids of the orders whose client order ids must be read before a snapshot is handled."""
        return self._check.unknown_orders(snapshot)

    def new_fills(self, snapshot: Snapshot) -> list[OrderUpdate]:
        """Return the fills of a snapshot that weren't counted: of our orders, or closing the open position."""
        return self._check.new_fills(snapshot)

    def passed_triggers(self, price: int) -> list[str]:
        """Return the stops and take-profits that we believe untriggered, and whose triggers a price has passed."""
        beyond = {states.STOP: -1, states.TAKE_PROFIT: 1}
        side = int(self._position_row["side"])
        waiting = (order for order in self._register.live_of_position() if order.algo and order.state == "NEW")
        return [
            order.id
            for order in waiting
            if side * beyond[int(order.row.purpose)] * (price - order.row.trigger_price) > 0
        ]

    def archive_finished(self) -> None:
        """Free the rows of finished orders; where few are left, also those of exits that can't be at the exchange."""
        self._register.archive_finished(self._is_spent)

    def _is_spent(self, order: Order) -> bool:
        """Return whether an exit of unknown outcome no longer rests at the exchange, if it ever came there.

        Its request has expired by now, and it has filled at once or not at all. What it has filled is told by its name.
        """
        is_unknown = order.purpose is Purpose.EXIT and order.state in ("PENDING_SUBMIT", "UNKNOWN")
        return is_unknown and int(self._row["time"]) >= self._absent_from(order)

    def output(self, kind: int, at: int, reason: str, time: int) -> Output | None:
        """Return a command or note of this symbol; see `OrderOutputs`."""
        return self._outputs.output(kind, at, reason, time)

    def _react(self, kind: int, **facts: Any) -> list[Output]:
        return self._books.react(BooksEvent(kind, self._index, **facts))

    # --- updates ---------------------------------------------------------------------------------------------------

    def on_order(self, update: OrderUpdate) -> list[Output]:
        """Apply an update of an ordinary order, with its fill."""
        lots_before = self._register.lots
        is_new = self._register.is_new_fill(update)
        number = self._find_or_adopt(update)
        is_theirs = number is None or (is_new and not self._register.is_ours(update))
        is_forced = is_theirs and is_new and self._check.is_forced_exit(update)
        if is_new and (not is_theirs or is_forced):
            self._row["unexplained_lots"] = 0  # they may be the lots of this fill
        if number is not None and not is_theirs:
            return self._apply_order_update(number, update, is_new)
        outputs = self._foreign(update)
        update = share(update, self._register.lots) if is_forced else update
        number = self._exit_of(update) if is_forced else None
        if number is None:
            outputs += self._react(records.SYNC_WANTED)  # the time is later, so that something may be due
            return outputs + self._react(records.ORDERS_CHANGED, amount=lots_before)
        return self._apply_order_update(number, update, is_new, outputs)

    def _apply_order_update(
        self,
        number: int,
        update: OrderUpdate,
        is_new: bool,
        before: list[Output] | None = None,
        orders_only: bool = False,
    ) -> list[Output]:
        """Apply an update of an order that we know; the outputs `before` come after the alerts about its fill."""
        if self._register.row_of(number) is None:
            return [self._no_row_alert(number, update.time), *(before or [])]
        self._register.by_exchange_id[update.order_id] = number
        self._forget_absence(number)
        paid: list[Output] = []
        if is_new:
            self._note_fill(number, update)
            paid = self._offset_fee_in_other_asset(update)
        row = self._register.row_of(number)  # rows move, and are freed, with each event that is applied
        outputs = paid + self._react(
            records.ORDER_UPDATED,
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
            orders_only=orders_only,
        )
        return (self._fill_alerts(update) if is_new and not orders_only else []) + (before or []) + outputs

    def _offset_fee_in_other_asset(self, fill: OrderUpdate) -> list[Output]:
        """Book the worth of a fee in another asset as a transfer into the quote asset's wallet, which did not pay it.

        The fee is then a cost of the round trip and of the day, and the wallet agrees with the exchange's.
        """
        is_quote = fill.fee_asset in ("", self.instrument.quote_asset)
        if is_quote or not fill.fee or not self._books.account["is_open"]:
            return []
        return self._books.react(BooksEvent(records.TRANSFERRED, amount=fill.fee))

    def _note_fill(self, number: int, update: OrderUpdate) -> None:
        """Register the trade id of a fill; the compiled rules count its money and lots."""
        self._register.fills.add(update.trade_id)
        order = self._order_rows[self._register.rows[number]]
        trip, is_open = int(order["round_trip"]), self._register.takes_fills
        is_late = not is_open or trip != self._position_row["id"]
        if is_late:  # it counts for the open position, or for a new round trip
            self.reconciled = False
            self.schedule_account_read(self._advance_time(update.time), states.LATE_FILL)
            name = self._register.names[number]
            self._late_fill_text = (
                f"{name} filled after round trip {trip} had ended" + " and the next had begun" * is_open
                if trip
                else f"{name} filled, and the journal has lost that it was sent"
            )
            trip = int(self._position_row["id"]) if is_open else int(self._row["round_trips"]) + 1
        is_exit = order["side"] != self._position_row["side"] if is_open else False
        self._register.trade_ids_of(trip)[bool(is_exit)].append(update.trade_id)

    def _fill_alerts(self, fill: OrderUpdate) -> list[Output]:
        """Return alerts where a fill's fee is in another asset, or the exchange's profit differs from ours."""
        if self._books.breaker is None:
            return []
        now, alerts = int(self._books.account["now"]), []
        if (text := self._fee_text(fill)) and text not in self._reported_fees:
            self._reported_fees.add(text)
            alerts.append(("FEE_ASSET", text))
        realised = int(self._row["realised_last"])
        if abs(realised - fill.realised) > REALISED_TOLERANCE:
            text = f"fill {fill.trade_id}: {money_text(fill.realised)}, ours is {money_text(realised)}"
            alerts.append(("REALISED_DIFFERS", text))
        return [Alert(now, code, text) for code, text in alerts]

    def _fee_text(self, fill: OrderUpdate) -> str:
        """Return the text of an alert about a fee in another asset than the quote asset; empty if it is in that."""
        asset, quote = fill.fee_asset, self.instrument.quote_asset
        if asset in ("", quote):
            return ""
        if fill.fee:
            return f"fees are paid in {asset}: they are booked at its price in {quote}"
        return f"fees are paid in {asset}, whose price in {quote} isn't known: they are missing from the costs"

    def on_algo(self, update: AlgoUpdate) -> list[Output]:
        """Apply an update of a conditional order."""
        return self._apply_algo_update(update, orders_only=False)

    def _apply_algo_update(self, update: AlgoUpdate, orders_only: bool) -> list[Output]:
        number = self._register.find_algo(update)
        if number is None:
            self._recheck_account(self._advance_time(update.time), states.FOREIGN_ORDER)
            alert = Alert(update.time, "FOREIGN_ORDER", f"conditional order {update.client_order_id} isn't ours")
            if orders_only:
                return [alert]
            lots_before = self._register.lots
            synced = self._react(records.SYNC_WANTED)  # the time is later, so that something may be due
            return [alert, *synced, *self._react(records.ORDERS_CHANGED, amount=lots_before)]
        row = self._register.row_of(number)
        if row is None:
            return [self._no_row_alert(number, update.time)]
        self._forget_absence(number)
        if update.order_id:
            self._register.by_exchange_id[update.order_id] = number
        if update.status == "REJECTED":
            self._register.texts[number] = update.reason
        return self._react(
            records.ALGO_UPDATED,
            order=row,
            time=update.time,
            status=_state_number(update.status),
            order_id=update.order_id,
            orders_only=orders_only,
        )

    def _no_row_alert(self, number: int, time: int) -> Alert:
        """Return an alert that an update can't be applied because no row is free, and schedule a reading of the
        account, which has the same facts."""
        self._recheck_account(self._advance_time(time), states.TOO_MANY_ORDERS)
        name = self._register.names[number]
        return Alert(time, "TOO_MANY_ORDERS", f"{name}: too many orders are open to apply its update")

    def on_reply(self, reply: Reply) -> list[Output]:
        """Apply the answer to a command."""
        number = self._register.numbers[reply.client_order_id]
        row = self._register.row_of(number)
        if row is None:
            return [self._no_row_alert(number, reply.time)]
        self._last_answered, order, algo = number, reply.order, reply.algo_order
        update = order or algo
        if update is not None and update.order_id:
            self._register.by_exchange_id[update.order_id] = number
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
            updates=(records.HAS_ORDER if order else 0) | (records.HAS_ALGO if algo else 0),
            order_time=order.time if order else 0,
            status=_state_number(states.STATUS_ALIASES.get(update.status, update.status)) if update else 0,
            reported=order.filled if order else 0,
            order_id=update.order_id if update else 0,
            algo_status=_state_number(algo.status) if algo else 0,
            algo_time=algo.time if algo else 0,
        )

    def _outcome(self, number: int, reply: Reply) -> int:
        """Return the outcome of a reply. An order counts as absent only if its request has expired, several answers say
        so, and a snapshot doesn't list it."""
        order = self._register.order(number)
        if reply.action != "lookup" or order.done:
            return _OUTCOMES[reply.outcome]
        if reply.outcome is Outcome.ACCEPTED:
            self._forget_absence(number)
            return states.ACCEPTED
        is_absent = reply.outcome is Outcome.REFUSED and reply.code in _ABSENT_CODES
        if is_absent and reply.time >= self._absent_from(order):
            self._absences[number] = self._absences.get(number, 0) + 1
            if self._absences[number] >= states.ABSENT_ANSWERS_NEEDED and number in self._unlisted:
                self._forget_absence(number)  # if this turns out wrong, all of it is needed again
                self.absent_at = reply.time
                return states.ABSENT
        return _OUTCOMES[reply.outcome]

    def _forget_absence(self, number: int) -> None:
        """Drop what speaks against an order that is told of: only what comes later may end it."""
        self._absences.pop(number, None)
        self._unlisted.discard(number)

    def _absent_from(self, order: Order) -> int:
        """Return from when on an answer that an order doesn't exist counts, in ms: its request has expired by then."""
        return int(order.row.time) + self._execution.recv_window_ms + states.ABSENCE_MARGIN_MS

    def on_filters(self, filters: Filters) -> list[Output]:
        """Apply the symbol's filters to later orders; the stops and exits that wait after a refusal are sent now."""
        self._advance_time(filters.time)
        step = filters.quantity_step
        self._row["price_step"], self._row["quantity_step"] = filters.price_step, step
        self._row["largest_order"] = max(filters.largest_market_order // step * step, step)
        self._row["largest_guess"] = 0
        self._position_row["exit_retry_at"] = self._position_row["stop_retry_at"] = 0
        return self._react(records.SYNC_WANTED)

    def on_snapshot(self, snapshot: Snapshot) -> list[Output]:
        """Compare the exchange's account with our books; entries need them to agree.

        Fills are applied first, then open orders; orders of ours that the snapshot doesn't list are looked up. A
        position that differs from our fills, or a foreign open order, leaves `reconciled` false.
        """
        lots_before = self._register.lots
        self._advance_time(snapshot.time)
        for update in snapshot.orders:  # trades have only the exchange's ids of their orders
            if (named := self._find_or_adopt(update)) is not None:
                self._register.by_exchange_id[update.order_id] = named
        self._adopt_traded(snapshot)
        self._row["snapshot_at"] = NEVER
        self._note_unexplained(snapshot)
        alerts: list[Output] = []
        outputs: list[Output] = []
        for fill in self._check.new_fills(snapshot):
            outputs += self._apply_listed_fill(fill, snapshot.time, alerts)
        for update in snapshot.orders:
            number = self._register.find(update)
            if number is None:
                outputs += self._foreign(update)
            else:
                outputs += self._apply_order_update(number, update, False, orders_only=True)
        for algo in snapshot.algo_orders:
            outputs += self._apply_algo_update(algo, orders_only=True)
        self._note_unexplained(snapshot)  # its fills may have ended the order that was missing in its list
        unlisted = self._check.unlisted(snapshot)
        for order in unlisted:
            outputs += self._look_up(order.row.number, states.NOT_LISTED)
        outputs += self._react(records.SYNC_WANTED)
        outputs += self._compare(snapshot)
        self._unlisted &= {order.row.number for order in unlisted}
        is_known = self._check.is_known(snapshot)
        if is_known:
            self._unlisted |= {order.row.number for order in unlisted if snapshot.time >= self._absent_from(order)}
            outputs += self._cancel_orphans(snapshot)
        self.orders_confirmed = self._check.is_settled(snapshot) and not self._orphans(snapshot)
        if self._register.awaits_fills():
            self.schedule_account_read(snapshot.time + _pause(self._incomplete_count), states.FILL_MISSING)
            self._incomplete_count += 1
        else:
            self._incomplete_count = 0
        return alerts + outputs + self._react(records.ORDERS_CHANGED, amount=lots_before)

    def _note_unexplained(self, snapshot: Snapshot) -> None:
        """Note the lots of a snapshot's position if its trades and orders don't account for it."""
        self._row["unexplained_lots"] = 0 if self._check.is_explained(snapshot) else snapshot.position.quantity

    def has_shown(self, summary: AccountSummary) -> bool:
        """Return whether a summary shows what the last snapshot has shown, and another snapshot is scheduled."""
        return bool(self._row["snapshot_at"] < NEVER) and self._check.has_shown(summary)

    def agrees(self, summary: AccountSummary) -> bool:
        """Return whether a summary of the account shows what our books have; it changes nothing."""
        return self.reconciled and self.position == summary.position and self._check.lists_ours_alone(summary)

    def _apply_listed_fill(self, fill: OrderUpdate, time: int, alerts: list[Output]) -> list[Output]:
        """Apply a fill of a snapshot; one of a foreign order, which has closed lots of the position, with an alert."""
        number, outputs = self._register.find(fill), list[Output]()
        if number is None:
            outputs.append(Alert(time, "FOREIGN_ORDER", f"order #{fill.order_id} isn't ours, and closed the position"))
        if not self._register.is_ours(fill):
            number = self._exit_of(fill)
        if number is not None:
            outputs += self._apply_order_update(number, fill, True, orders_only=True)
            alerts += self._fill_alerts(fill)
        return outputs

    def _compare(self, snapshot: Snapshot) -> list[Output]:
        """Set `reconciled` and `books_agree` after a snapshot has been applied; alert when positions differ the second
        time in a row.

        A position that is older than a known trade agrees with nothing, even if our books show the same.
        """
        ours, theirs = self.position, snapshot.position.quantity
        self._check.note_trades(snapshot)
        self._check.note_positions(ours, theirs)
        agrees = self._check.has_our_position
        self.foreign_orders = tuple(self._check.foreign_ids(snapshot))
        self.reconciled = agrees and not self.foreign_orders
        self.books_agree = agrees
        if agrees:
            self._check.note_agreement(snapshot)
        self._check.note_shown(snapshot)
        if self.reconciled:
            self._disagreement_count = 0
        else:
            self._row["snapshot_at"] = NEVER  # the growing pause replaces earlier requests of single orders
            is_unnamed = bool(self._check.unknown_orders(snapshot))  # the lots may be ours, and without a stop
            spared = states.QUICK_TRIES if is_unnamed else 0
            pause = _pause(max(self._disagreement_count - spared, 0))
            self.schedule_account_read(snapshot.time + pause, states.NOT_AGREED)
            self._disagreement_count += 1
        if agrees or self._check.has_foreign_lots(snapshot):
            self._confirm_orders(snapshot)  # a kept position's stop needs to cover our own lots alone
        if agrees:
            return []
        if self._check.has_lost_lots():
            return self._book_lost_lots(snapshot, abs(ours) - max(theirs * (1 if ours > 0 else -1), 0))
        # One snapshot may be taken between two fills, so only the second alerts the operator.
        if self._check.mismatches == 2:
            text = f"the exchange has {theirs} lots, our fills make {ours}"
            return [Alert(snapshot.time, "POSITION_MISMATCH", text)]
        return []

    def _confirm_orders(self, snapshot: Snapshot) -> None:
        """Note that a snapshot accounts for all orders; else read the account again where a session that keeps its
        position waits for that to end."""
        if self._check.accounts_for_all(snapshot):
            self._row["agreed_at"], self._unconfirmed_count = snapshot.time, 0
        elif self._books.account["keep_position"]:
            self.schedule_account_read(snapshot.time + _pause(self._unconfirmed_count), states.NOT_LISTED)
            self._unconfirmed_count += 1

    def _book_lost_lots(self, snapshot: Snapshot, lots: int) -> list[Output]:
        """Adjust our books where the exchange has repeatedly shown fewer lots than ours, and no trade explains it.

        The lots are booked as an exit at the last price, with the profit by our own cost, since the exchange has no
        trade that would give one; later the wallet is corrected by the exchange's balance.
        """
        if not self._check.accounts_for_all(snapshot, but=Purpose.EXIT):  # exits are refused repeatedly
            return []
        side, now = Side(-1 if self.position > 0 else 1), self._advance_time(snapshot.time)
        row, price = self._row, int(self._row["last_price"])
        books = int(row["quantity"]), int(row["cost"])
        *_, realised = uncompiled(position_after)(*books, side, price, lots, int(row["money_per_ticklot"]))
        gone = OrderUpdate(
            *(now, snapshot.symbol, f"adjusted-{now}", -now, side, OrderType.MARKET, "FILLED", "TRADE", lots, lots),
            trade_id=-now,
            last_quantity=lots,
            last_price=price,
            realised=realised,
        )
        number = self._adopt_exit(gone)
        if number is None:
            return []
        alert = Alert(
            now, "POSITION_ADJUSTED", f"the exchange has {lots} lots fewer than our books, and no trade explains it"
        )
        return [alert, *self._apply_order_update(number, gone, True, orders_only=True)]

    def on_disagreement(self, time: int, before: int, reason: int) -> None:
        """Allow no entry until the account agrees with our books, and read it again after a growing pause.

        Args:
            time: now, ms.
            before: earlier snapshots in a row that differed for the same reason.
            reason: why the account is read again.
        """
        self.reconciled = False
        self.schedule_account_read(time + _pause(before), reason)

    def on_time(self, time: int) -> list[Output]:
        """Do what is due by `position_timers`, for a monitor without a core; a core calls `core_rules.on_timer`."""
        self._books.account["now"] = max(time, int(self._books.account["now"]))
        return self._react(records.TIMER_DUE, time=time)

    def _advance_time(self, time: int) -> int:
        """Advance the time to `time` if that is later; return it. The time in an update may be long past."""
        now = max(int(self._row["time"]), time)
        self._row["time"] = now
        return now

    def on_restart(self, time: int) -> list[Output]:
        """Look up orders that were in flight when the engine ended; the time without cover starts again."""
        self._advance_time(time)
        self.reconciled = self.orders_confirmed = False
        self._outputs.restart_suffix = f"r{np.base_repr(time // 1000, 36).lower()}"
        if self._position_row["unprotected_since"] != NEVER:
            self._position_row["unprotected_since"] = time
        outputs: list[Output] = []
        for order in self._register.live():
            if order.state in ("PENDING_SUBMIT", "PENDING_CANCEL"):
                outputs += self._look_up(order.row.number, states.RESTART)
        return outputs

    def _look_up(self, number: int, reason: int) -> list[Output]:
        """Request the state of an order; not of one whose row has been freed meanwhile: it can't act any more."""
        row = self._register.rows.get(number)
        return [] if row is None else self._react(records.LOOKUP_WANTED, order=row, reason=reason)

    # --- orders that aren't ours -----------------------------------------------------------------------------------

    def _foreign(self, update: OrderUpdate) -> list[Output]:
        """Alert about an order that isn't ours (placed by hand, another program or the exchange), and stop entries."""
        self._recheck_account(self._advance_time(update.time), states.FOREIGN_ORDER)
        if self._register.is_new_fill(update):
            self._row["halt_wanted"] = records.HALTED_BY_FOREIGN_ORDER
            self._check.told_trade_id = max(self._check.told_trade_id, update.trade_id)
            self._foreign_fill_text = f"order {update.client_order_id} changed the position, and isn't ours"
        code = "FOREIGN_ORDER" if foreign_kind(update) == "CLOSED_ELSEWHERE" else "FORCED_ORDER"
        return [Alert(update.time, code, f"order {update.client_order_id} ({update.status}) isn't ours")]

    def _recheck_account(self, now: int, reason: int) -> None:
        """Let no entry be sent until the account has been read, after RETRY_AFTER_MS."""
        self.reconciled = False
        self.schedule_account_read(now + states.RETRY_AFTER_MS, reason)

    def schedule_account_read(self, at: int, reason: int) -> None:
        """Schedule a snapshot no later than `at`, in ms."""
        uncompiled(order_rules.schedule_account_read)(self._books.record(self._index), at, reason)

    def _exit_of(self, fill: OrderUpdate) -> int | None:
        """Return the number of somebody else's order as an exit of the open position; adopt it unless it is one."""
        number = self._register.find(fill)
        is_exit = number is not None and self._register.order(number).row.round_trip == self._position_row["id"]
        return number if is_exit else self._adopt_exit(fill)

    def _adopt_exit(self, update: OrderUpdate) -> int | None:
        """Count a foreign order that closes the open position as an exit; return its number. Trading halts."""
        reason = foreign_kind(update)
        name = update.client_order_id or f"#{update.order_id}"
        event = BooksEvent(
            records.EXIT_ADOPTED, self._index, time=update.time, side=update.side, quantity=update.quantity
        )
        row = self._books.answer(event._replace(reason=self._books.reason_number(reason)))
        if row < 0:
            return None
        number = self._register.add(row, name, update.order_id)
        self._register.by_exchange_id[update.order_id] = number
        self.halt_reason = f"{name} closed the position: {reason}"
        return number

    def _cancel_orphans(self, snapshot: Snapshot) -> list[Output]:
        """Cancel the orphans of a snapshot.

        They were sent before the journal lost its end. They are kept while no stop of ours that is listed covers the
        position: the journal may have lost the end of one too.
        """
        listed, lots = listed_ids(snapshot), self._register.lots
        stops = [o for o in self._register.live_of_position() if o.purpose is Purpose.STOP and o.state == "NEW"]
        if lots and not any(stop.quantity >= abs(lots) and stop.id in listed for stop in stops):
            return []
        outputs: list[Output] = []
        for algo in self._orphans(snapshot):
            if self._adopt_orphan(algo) is not None:
                outputs += self._apply_algo_update(algo, orders_only=True)
        return outputs

    def _orphans(self, snapshot: Snapshot) -> list[AlgoUpdate]:
        """Return the open conditional orders whose client order ids are of this session, but not in our books."""
        unknown = (algo for algo in snapshot.algo_orders if algo.client_order_id not in self._register.numbers)
        return [algo for algo in unknown if row_facts.purpose_of(algo.client_order_id, self._outputs.epoch) is not None]

    def _adopt_traded(self, snapshot: Snapshot) -> None:
        """Adopt the orphans that a snapshot has fills of, so that these fills are counted as ours."""
        traded: dict[int, OrderUpdate] = {}
        for fill in snapshot.fills:
            if self._register.is_new_fill(fill) and fill.trade_id > self.agreed_trade_id and fill.client_order_id:
                before = traded.get(fill.order_id)
                lots = fill.last_quantity + (before.quantity if before else 0)
                traded[fill.order_id] = replace(fill, quantity=lots)
        for order_id, update in traded.items():
            if (number := self._find_or_adopt(update)) is not None:
                self._register.by_exchange_id[order_id] = number

    def _find_or_adopt(self, update: OrderUpdate) -> int | None:
        """Return the number of our order that an update is about; adopt an orphan. None for a foreign order."""
        number = self._register.find(update)
        return self._adopt_orphan(update) if number is None else number

    def _adopt_orphan(self, update: OrderUpdate | AlgoUpdate) -> int | None:
        """Add an orphan to our books; return its number. None if it isn't of this session, or no row is free."""
        purpose = row_facts.purpose_of(update.client_order_id, self._outputs.epoch)
        if purpose is None:
            return None
        event = BooksEvent(records.ORPHAN_ADOPTED, self._index, time=self._advance_time(update.time), side=update.side)
        row = self._books.answer(event._replace(code=PURPOSES.index(purpose), quantity=update.quantity))
        return None if row < 0 else self._register.add(row, update.client_order_id)

    def on_halt(self, cause: int) -> None:
        """Set the halt reason; `cause` is one of the HALTED_ constants of `records`."""
        if cause == records.HALTED_BY_REFUSAL:
            self.halt_reason = self._outputs.refused_text(self._last_answered)
        elif cause == records.HALTED_BY_LATE_FILL:
            self.halt_reason = self._late_fill_text
        elif cause == records.HALTED_BY_FOREIGN_ORDER:
            self.halt_reason = self._foreign_fill_text or "a stop was cancelled, but not by us"
            self._foreign_fill_text = ""
        elif cause == records.HALTED_BY_FAILURES:
            self.halt_reason = f"{states.MAX_ENTRY_FAILURES} entries in a row were refused or never placed"

    # --- the saved state -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what the next run needs to go on, as plain JSON values, for `restore`."""
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
        """Restore a saved state: the open position with its orders, each of which is looked up if it can still act.

        A state of an earlier version is read by its names; it is refused where it lacks one.

        Raises:
            DataError: the state isn't one that `state` returned, or is of a later version; nothing is changed then.
        """
        try:
            if not 0 < whole(state["version"]) <= VERSION:
                raise DataError(f"orders: version of the saved state must be {VERSION} or less, was {state['version']}")
            trips, halt_reason = int(state["round_trips"]), str(state["halt_reason"])
            trade_id, position = int(state["agreed_trade_id"]), int(state["agreed_position"])
            has_agreed, saved = bool(state["has_agreed"]), state["open_position"]
            if saved:
                restore_open_position(self._register, self._books, self._index, saved, time)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"orders: the saved state is broken: {error!r}") from None
        self._row["round_trips"], self.halt_reason = trips, halt_reason
        self._check.agreed_trade_id = self._check.listed_trade_id = trade_id
        self._check.agreed_position, self._check.has_agreed = position, has_agreed
