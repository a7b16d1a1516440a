"""Converts the tables of a compiled session to the facts of an event-by-event session.

Frames, statistics and charts are computed from facts, so both paths of a backtest use the same functions; a property
test checks that the facts of both paths are equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.core import GATES
from voltrade.model import (
    Alert,
    AlgoUpdate,
    CancelOrder,
    Event,
    Instrument,
    Int64s,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Reply,
    RoundTrip,
    WorkingType,
)
from voltrade.orders import row_facts
from voltrade.orders.order_states import ENTRY, PURPOSES, REASONS, STATES
from voltrade.orders.records import AlertRow, ChangeRow, EquityRow, OrderRow, RefusalRow, TripRow, row_type
from voltrade.research.compiled_session import Tables
from voltrade.research.loop_records import EXCHANGE_ORDER, FILL
from voltrade.simulated.refusals import codes, least_notional

FillRow, ExchangeOrderRow = row_type("FillRow", FILL), row_type("ExchangeOrderRow", EXCHANGE_ORDER)


class Placed(NamedTuple):
    """An order as the core had it, as the exchange had it, and its request."""

    order: Any
    at_exchange: Any
    request: OrderRequest


def refusal_text(code: int, instrument: Instrument) -> str:
    """Return the exchange's message for a code; empty for 0."""
    return codes()[code].text.format(least_notional(instrument)) if code else ""


def alert_text(kind: int, name: str, code: int, instrument: Instrument) -> tuple[str, str]:
    """Return the code and the text of an alert about the order of this client order id."""
    return row_facts.alert_code_and_text(kind, name, code, refusal_text(code, instrument))


def _rows(kind: Any, table: Rows) -> list[Any]:
    return [kind(*row) for row in table.tolist()]


def facts_of(tables: Tables, config: Config, instrument: Instrument, epoch: str) -> list[Event | Output]:
    """Return the facts of a session by time: intents, answers, the last state of each order, fills and notes."""
    maker = _FactMaker(tables, config, instrument, epoch)
    facts: list[Event | Output] = []
    for placed in maker.placed:
        facts += maker.order(placed)
    symbol = instrument.symbol
    facts += [maker.fill(number, row) for number, row in enumerate(_rows(FillRow, tables.fills), start=1)]
    facts += [maker.trip(row) for row in _rows(TripRow, tables.trips)]
    facts += [row_facts.refusal(row, symbol, GATES) for row in _rows(RefusalRow, tables.refusals)]
    facts += [row_facts.change(row) for row in _rows(ChangeRow, tables.changes)]
    facts += [maker.alert(row) for row in _rows(AlertRow, tables.alerts)]
    facts += [row_facts.equity_point(row, symbol) for row in _rows(EquityRow, tables.equity)]
    return sorted(facts, key=lambda fact: fact.closed_at if isinstance(fact, RoundTrip) else fact.time)


class _FactMaker:
    """Converts rows of the tables to facts."""

    def __init__(self, tables: Tables, config: Config, instrument: Instrument, epoch: str) -> None:
        self._instrument = instrument
        self._symbol = instrument.symbol
        self._epoch = epoch
        self._working_type = WorkingType(config.exits.working_type)
        self.placed = [
            self._place(OrderRow(*order), ExchangeOrderRow(*at_exchange))
            for order, at_exchange in tables.orders.tolist()
        ]
        orders = tables.orders["order"][tables.fills["order"]]
        self._trip_of_fill: Int64s = orders["round_trip"]
        self._is_entry = orders["purpose"] == ENTRY

    def _place(self, order: Any, at_exchange: Any) -> Placed:
        name = row_facts.client_order_id(self._epoch, order.round_trip, PURPOSES[order.purpose], order.count)
        return Placed(order, at_exchange, row_facts.request(order, self._symbol, name, self._working_type))

    def order(self, placed: Placed) -> list[Event | Output]:
        """Return an order's intent, the answer, the cancellation if there was one, and its last state."""
        order, at_exchange, request = placed
        name, algo = request.client_order_id, request.order_type.is_conditional
        intent = row_facts.intent(order, request, REASONS[order.reason])
        if not (at_exchange.order_id or at_exchange.algo_id):
            refused = Outcome.REFUSED if at_exchange.code else Outcome.UNKNOWN
            text = refusal_text(at_exchange.code, self._instrument)
            return [
                intent,
                Reply(at_exchange.answered, "submit", self._symbol, name, algo, refused, at_exchange.code, text),
            ]
        accepted = Reply(at_exchange.answered, "submit", self._symbol, name, algo, Outcome.ACCEPTED)
        facts: list[Event | Output] = [intent, accepted]
        if cancelled := REASONS[order.cancel_reason]:
            facts.append(CancelOrder(at_exchange.updated, self._symbol, name, algo, cancelled))
        last = (
            self._update(placed, at_exchange, at_exchange.updated) if at_exchange.order_id else self._last_algo(placed)
        )
        return [*facts, last]

    def _update(self, placed: Placed, state: Any, time: int, **fill: Any) -> OrderUpdate:
        """Return an order update; `state` is the row with status and executed quantity at that time."""
        request = placed.request
        return OrderUpdate(
            **{**request.common_fields, "order_type": OrderType.LIMIT if request.price else OrderType.MARKET},
            time=time,
            order_id=placed.at_exchange.order_id,
            status=STATES[state.status],
            execution="TRADE" if fill else "",
            filled=state.executed,
            filled_notional=state.executed_notional,
            price=request.price,
            time_in_force=request.time_in_force,
            **fill,
        )

    def _last_algo(self, placed: Placed) -> AlgoUpdate:
        _, at_exchange, request = placed
        return AlgoUpdate(
            **request.common_fields,
            time=at_exchange.updated,
            algo_id=at_exchange.algo_id,
            status=STATES[at_exchange.algo_status],
            trigger_price=request.trigger_price,
            working_type=request.working_type,
            reason=refusal_text(at_exchange.code, self._instrument),
        )

    def fill(self, trade_id: int, row: Any) -> OrderUpdate:
        return self._update(
            self.placed[row.order],
            row,
            row.time,
            trade_id=trade_id,
            last_quantity=row.quantity,
            last_price=row.price,
            fee=row.fee,
            fee_asset=self._instrument.quote_asset,
            realised=row.realised,
        )

    def trip(self, row: Any) -> RoundTrip:
        its, is_entry = self._trip_of_fill[: row.fills] == row.id, self._is_entry[: row.fills]
        entries, exits = _trade_ids(its & is_entry), _trade_ids(its & ~is_entry)
        return row_facts.round_trip(row, self._symbol, REASONS[row.exit_reason], entries, exits)

    def alert(self, row: Any) -> Alert:
        placed = self.placed[row.order]
        code, text = alert_text(row.kind, placed.request.client_order_id, placed.at_exchange.code, self._instrument)
        return Alert(row.time, code, text)


def _trade_ids(which: Any) -> tuple[int, ...]:
    return tuple((which.nonzero()[0] + 1).tolist())
