"""The tables of a compiled session, told as the facts that the core and the exchange would have told.

Frames, statistics and charts are made of facts, so both paths of a backtest go through the same functions; a property
test holds the facts of both to be the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from voltrade import row_facts
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
from voltrade.order_states import ENTRY, PURPOSES, REASONS, STATES
from voltrade.records import AlertRow, ChangeRow, EquityRow, OrderRow, RefusalRow, TripRow, row_type
from voltrade.research.loop_records import FILL, TRUTH
from voltrade.research.prepared_tape import Tables
from voltrade.simulated.refusals import codes, least_notional

FillRow, TruthRow = row_type("FillRow", FILL), row_type("TruthRow", TRUTH)


class Placed(NamedTuple):
    """An order: as it was believed to stand, as the exchange had it, and what was asked for it."""

    order: Any
    truth: Any
    request: OrderRequest


def refusal_text(code: int, instrument: Instrument) -> str:
    """What the exchange says with a code; 0 for none."""
    return codes()[code].text.format(least_notional(instrument)) if code else ""


def alert_text(kind: int, name: str, code: int, instrument: Instrument) -> tuple[str, str]:
    """Return an alert's code, and what it says of the order of a name."""
    return row_facts.alert_code_and_text(kind, name, code, refusal_text(code, instrument))


def _rows(kind: Any, table: Rows) -> list[Any]:
    return [kind(*row) for row in table.tolist()]


def facts_of(tables: Tables, config: Config, instrument: Instrument, epoch: str) -> list[Event | Output]:
    """Return the facts of a session in order of time: intents, answers, how each order stood last, fills and notes."""
    teller = _Teller(tables, config, instrument, epoch)
    facts: list[Event | Output] = []
    for placed in teller.placed:
        facts += teller.order(placed)
    symbol = instrument.symbol
    facts += [teller.fill(number, row) for number, row in enumerate(_rows(FillRow, tables.fills), start=1)]
    facts += [teller.trip(row) for row in _rows(TripRow, tables.trips)]
    facts += [row_facts.refusal(row, symbol, GATES) for row in _rows(RefusalRow, tables.refusals)]
    facts += [row_facts.change(row) for row in _rows(ChangeRow, tables.changes)]
    facts += [teller.alert(row) for row in _rows(AlertRow, tables.alerts)]
    facts += [row_facts.equity_point(row, symbol) for row in _rows(EquityRow, tables.equity)]
    return sorted(facts, key=lambda fact: fact.closed_at if isinstance(fact, RoundTrip) else fact.time)


class _Teller:
    """Turns rows of the tables into facts."""

    def __init__(self, tables: Tables, config: Config, instrument: Instrument, epoch: str) -> None:
        self._instrument = instrument
        self._symbol = instrument.symbol
        self._epoch = epoch
        self._working_type = WorkingType(config.exits.working_type)
        self.placed = [self._place(OrderRow(*order), TruthRow(*truth)) for order, truth in tables.orders.tolist()]
        orders = tables.orders["order"][tables.fills["order"]]
        self._trip_of_fill: Int64s = orders["round_trip"]
        self._is_entry = orders["purpose"] == ENTRY

    def _place(self, order: Any, truth: Any) -> Placed:
        name = row_facts.client_order_id(self._epoch, order.round_trip, PURPOSES[order.purpose], order.count)
        return Placed(order, truth, row_facts.request(order, self._symbol, name, self._working_type))

    def order(self, placed: Placed) -> list[Event | Output]:
        """An order's intent, the answer to it, why it was cancelled, and how it stood last."""
        order, truth, request = placed
        name, algo = request.client_order_id, request.order_type.is_conditional
        intent = row_facts.intent(order, request, REASONS[order.reason])
        if not (truth.order_id or truth.algo_id):
            refused = Outcome.REFUSED if truth.code else Outcome.UNKNOWN
            text = refusal_text(truth.code, self._instrument)
            return [intent, Reply(truth.answered, "submit", self._symbol, name, algo, refused, truth.code, text)]
        accepted = Reply(truth.answered, "submit", self._symbol, name, algo, Outcome.ACCEPTED)
        facts: list[Event | Output] = [intent, accepted]
        if cancelled := REASONS[order.cancel_reason]:
            facts.append(CancelOrder(truth.updated, self._symbol, name, algo, cancelled))
        last = self._update(placed, truth, truth.updated) if truth.order_id else self._last_algo(placed)
        return [*facts, last]

    def _update(self, placed: Placed, told: Any, time: int, **fill: Any) -> OrderUpdate:
        """What the exchange said of an order; `told` is the row that says how far it was then."""
        request = placed.request
        return OrderUpdate(
            **{**request.stated, "order_type": OrderType.LIMIT if request.price else OrderType.MARKET},
            time=time,
            order_id=placed.truth.order_id,
            status=STATES[told.status],
            execution="TRADE" if fill else "",
            filled=told.executed,
            filled_notional=told.executed_notional,
            price=request.price,
            time_in_force=request.time_in_force,
            **fill,
        )

    def _last_algo(self, placed: Placed) -> AlgoUpdate:
        _, truth, request = placed
        return AlgoUpdate(
            **request.stated,
            time=truth.updated,
            algo_id=truth.algo_id,
            status=STATES[truth.algo_status],
            trigger_price=request.trigger_price,
            working_type=request.working_type,
            reason=refusal_text(truth.code, self._instrument),
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
        code, text = alert_text(row.kind, placed.request.client_order_id, placed.truth.code, self._instrument)
        return Alert(row.time, code, text)


def _trade_ids(which: Any) -> tuple[int, ...]:
    return tuple((which.nonzero()[0] + 1).tolist())
