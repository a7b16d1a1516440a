"""Conversion of output rows of the compiled rules to the commands and notes of one symbol."""

from __future__ import annotations

from typing import Any

from voltrade.config import ExitSettings
from voltrade.model import (
    EQUITY_EVERY_MS,
    Alert,
    CancelOrder,
    Instrument,
    LookupOrder,
    OrderIntent,
    Output,
    TakeSnapshot,
    WorkingType,
)
from voltrade.orders import order_states as states
from voltrade.orders import records, row_facts
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_register import OrderRegister
from voltrade.orders.order_states import PURPOSES
from voltrade.orders.records import AlertRow, ChangeRow, EquityRow, OrderRow, RefusalRow, TripRow
from voltrade.risk import Gate


class OrderOutputs:
    """Converts output rows to commands and notes, and gives each new order its client order id.

    Args:
        register: the symbol's orders.
        books: the account's records.
        epoch: text that makes client order ids of this session unique.
        gates: the gates by number.

    Attributes:
        restart_suffix: text after the epoch in ids given after a restart: no id is used twice, even if the journal has
            lost its end.
    """

    def __init__(
        self,
        register: OrderRegister,
        books: AccountBooks,
        instrument: Instrument,
        exits: ExitSettings,
        epoch: str,
        gates: tuple[Gate, ...],
    ) -> None:
        self._register, self._books, self._gates = register, books, gates
        self._symbol = instrument.symbol
        self._working_type = WorkingType(exits.working_type)
        self.epoch, self.restart_suffix = epoch, ""
        self._valued = (0, 0, 0)
        """Minute, wallet and position of the last valuation."""

    def output(self, kind: int, at: int, reason: str, time: int) -> Output | None:
        """Return a command or note; None for a valuation with the minute, wallet and position of the one before.

        Args:
            kind: one of the kinds of outputs of `records`.
            at: the row of its order, or of the note in its table.
            reason: why a command is sent.
            time: of the output, ms.
        """
        if kind == records.SUBMIT:
            return self._intent(at, reason)
        if kind in (records.CANCEL, records.LOOKUP):
            order = self._register.order_rows[at]
            command = CancelOrder if kind == records.CANCEL else LookupOrder
            is_algo = row_facts.is_conditional(PURPOSES[order["purpose"]])
            return command(time, self._symbol, self._register.names[int(order["number"])], is_algo, reason)
        if kind == records.SNAPSHOT:
            return TakeSnapshot(time, self._symbol, reason)
        return self._note(kind, at)

    def _note(self, kind: int, at: int) -> Output | None:
        books = self._books
        halt_reason = books.breaker.reason if books.breaker else ""
        if kind == records.TRIP_CLOSED:
            trip = TripRow(*books.note("trips", at))
            ids = self._register.trade_ids_of(trip.id)
            return row_facts.round_trip(trip, self._symbol, books.reason_text(trip.exit_reason), *ids)
        if kind == records.VALUED:
            return self._valuation(EquityRow(*books.note("equity", at)))
        if kind == records.CHANGED:
            return row_facts.change(ChangeRow(*books.note("changes", at)), halt_reason)
        if kind == records.ALERTED:
            return self._alert(AlertRow(*books.note("alerts", at)))
        return row_facts.refusal(RefusalRow(*books.note("refusals", at)), self._symbol, self._gates, halt_reason)

    def _valuation(self, row: Any) -> Output | None:
        before, self._valued = self._valued, (row.time // EQUITY_EVERY_MS, row.wallet, row.position)
        return None if self._valued == before else row_facts.equity_point(row, self._symbol)

    def _intent(self, row: int, reason: str) -> OrderIntent:
        """Give a new order its client order id, and return its intent."""
        order = OrderRow(*self._register.order_rows[row].item())
        epoch, purpose = self.epoch + self.restart_suffix, PURPOSES[order.purpose]
        name = row_facts.client_order_id(epoch, order.round_trip, purpose, order.count)
        self._register.add(row, name)
        request = row_facts.request(order, self._symbol, name, self._working_type)
        return row_facts.intent(order, request, reason)

    def _alert(self, alert: Any) -> Alert:
        order = self._register.order(alert.order) if alert.order >= 0 else None
        about = (order.id, order.row.code, order.text) if order else ("", 0, "")
        return Alert(alert.time, *row_facts.alert_code_and_text(alert.kind, *about))

    def refused_text(self, number: int) -> str:
        """Return the text of an alert about a refused order, given by its number."""
        order = self._register.order(number)
        return states.refused_text(order.id, order.row.code, order.text)
