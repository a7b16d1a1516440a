"""The tables of a compiled session, told as the facts that the core and the exchange would have told.

Frames, statistics and charts are made of facts, so both paths of a backtest go through the same functions; a property
test holds the facts of both to be the same.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from voltrade import risk, simulation
from voltrade.config import Config
from voltrade.core import GATES
from voltrade.model import (
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
    EquityPoint,
    Event,
    Instrument,
    Int64s,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Purpose,
    Refusal,
    Reply,
    RoundTrip,
    Side,
    TimeInForce,
    WorkingType,
)
from voltrade.oms import STOP_MISSING_TEXT, client_order_id, refused_text
from voltrade.research import Tables

TEXTS = {
    -2018: "Balance is insufficient.",
    -2019: "Margin is insufficient.",
    -2020: "Unable to fill.",
    -2021: "Order would immediately trigger.",
    -2022: "ReduceOnly Order is rejected.",
    -2027: "Exceeded the maximum allowable position at current leverage.",
    -4131: "The counterparty's best price does not meet the PERCENT_PRICE filter limit.",
    -4164: "Order's notional must be no smaller than {least:f} (unless you choose reduce only).",
}
"""What the exchange says with a code."""


def facts_of(tables: Tables, config: Config, instrument: Instrument, epoch: str) -> list[Event | Output]:
    """Return the facts of a session in order of time: intents, answers, how each order stood last, fills and notes."""
    teller = _Teller(tables, config, instrument, epoch)
    facts: list[Event | Output] = []
    for number in range(len(tables.orders)):
        facts += teller.order(number)
    facts += [teller.fill(number) for number in range(len(tables.fills))]
    facts += [teller.trip(row) for row in tables.trips]
    facts += [teller.refusal(row) for row in tables.refusals]
    facts += [teller.change(row) for row in tables.changes]
    facts += [teller.alert(row) for row in tables.alerts]
    facts += [teller.equity(row) for row in tables.equity]
    return sorted(facts, key=lambda fact: fact.closed_at if isinstance(fact, RoundTrip) else fact.time)


class _Teller:
    """Turns rows into facts."""

    def __init__(self, tables: Tables, config: Config, instrument: Instrument, epoch: str) -> None:
        self._tables = tables
        self._config = config
        self._instrument = instrument
        self._symbol = instrument.symbol
        self._requests = [self._request(row, epoch) for row in tables.orders]
        self._trip_of_fill: Int64s = tables.orders["round_trip"][tables.fills["order"]]
        self._is_entry = tables.orders["purpose"][tables.fills["order"]] == simulation.ENTRY

    def _request(self, row: Any, epoch: str) -> OrderRequest:
        purpose = simulation.PURPOSES[row["purpose"]]
        limit = int(row["price"])
        if purpose is Purpose.STOP:
            kind = OrderType.STOP_MARKET
        elif purpose is Purpose.TAKE_PROFIT:
            kind = OrderType.TAKE_PROFIT_MARKET
        else:
            kind = OrderType.LIMIT if limit else OrderType.MARKET
        return OrderRequest(
            symbol=self._symbol,
            client_order_id=client_order_id(epoch, int(row["round_trip"]), purpose, int(row["number"])),
            side=Side(int(row["side"])),
            order_type=kind,
            quantity=int(row["quantity"]),
            price=limit,
            trigger_price=int(row["trigger_price"]),
            time_in_force=TimeInForce.IOC if limit else TimeInForce.GTC,
            reduce_only=purpose is not Purpose.ENTRY,
            working_type=WorkingType(self._config.exits.working_type),
        )

    def _text(self, code: int) -> str:
        least = Decimal(self._instrument.min_notional).scaleb(-8).normalize()
        return TEXTS[code].format(least=least) if code else ""

    def order(self, number: int) -> list[Event | Output]:
        """An order's intent, the answer to it, why it was cancelled, and how it stood last."""
        row, request = self._tables.orders[number], self._requests[number]
        name, algo = request.client_order_id, request.order_type.is_conditional
        purpose, reason = simulation.PURPOSES[row["purpose"]], simulation.REASONS[row["reason"]]
        answered, updated, code = int(row["answered"]), int(row["updated"]), int(row["code"])
        intent = OrderIntent(int(row["time"]), request, purpose, int(row["round_trip"]), reason, int(row["bar"]))
        if not (row["order_id"] or row["algo_id"]):
            refused = Outcome.REFUSED if code else Outcome.UNKNOWN
            return [intent, Reply(answered, "submit", self._symbol, name, algo, refused, code, self._text(code))]
        facts: list[Event | Output] = [intent, Reply(answered, "submit", self._symbol, name, algo, Outcome.ACCEPTED)]
        if cancelled := simulation.REASONS[row["text"]]:
            facts.append(CancelOrder(updated, self._symbol, name, algo, cancelled))
        return [*facts, self._order_update(row, request, row) if row["order_id"] else self._last_algo(row, request)]

    def _order_update(self, order: Any, request: OrderRequest, told: Any, **fill: Any) -> OrderUpdate:
        """What the exchange said of an order; `told` is the row that says how far it was then."""
        return OrderUpdate(
            time=int(told["time"] if fill else told["updated"]),
            symbol=self._symbol,
            client_order_id=request.client_order_id,
            order_id=int(order["order_id"]),
            side=request.side,
            order_type=OrderType.LIMIT if request.price else OrderType.MARKET,
            status=simulation.STATES[told["status"]],
            execution="TRADE" if fill else "",
            quantity=request.quantity,
            filled=int(told["executed"]),
            filled_notional=int(told["executed_notional"]),
            price=request.price,
            time_in_force=request.time_in_force,
            reduce_only=request.reduce_only,
            **fill,
        )

    def _last_algo(self, row: Any, request: OrderRequest) -> AlgoUpdate:
        return AlgoUpdate(
            time=int(row["updated"]),
            symbol=self._symbol,
            client_order_id=request.client_order_id,
            algo_id=int(row["algo_id"]),
            side=request.side,
            order_type=request.order_type,
            status=simulation.STATES[row["algo_status"]],
            quantity=request.quantity,
            trigger_price=request.trigger_price,
            reduce_only=request.reduce_only,
            working_type=request.working_type,
            reason=self._text(int(row["code"])),
        )

    def fill(self, number: int) -> OrderUpdate:
        row = self._tables.fills[number]
        order, request = self._tables.orders[row["order"]], self._requests[row["order"]]
        return self._order_update(
            order,
            request,
            row,
            trade_id=number + 1,
            last_quantity=int(row["quantity"]),
            last_price=int(row["price"]),
            fee=int(row["fee"]),
            fee_asset=self._instrument.quote_asset,
            realised=int(row["realised"]),
        )

    def trip(self, row: Any) -> RoundTrip:
        told = int(row["fills"])
        its = self._trip_of_fill[:told] == row["id"]
        names = ("opened_at", "closed_at", "bar_number", "quantity", "entry_notional", "exit_notional", "realised")
        return RoundTrip(
            id=int(row["id"]),
            symbol=self._symbol,
            side=Side(int(row["side"])),
            **{name: int(row[name]) for name in (*names, "fees", "funding", "stop_price", "take_profit_price")},
            net=int(row["realised"] - row["fees"] + row["funding"]),
            exit_reason=simulation.REASONS[row["exit_reason"]],
            entry_trade_ids=_trade_ids(its & self._is_entry[:told]),
            exit_trade_ids=_trade_ids(its & ~self._is_entry[:told]),
        )

    def refusal(self, row: Any) -> Refusal:
        gate = GATES[row["gate"]]
        detail = gate.text
        if gate.code in risk.RULES:
            detail = risk.distance_text(gate.code, int(row["measure"]), int(row["limit"]))
        return Refusal(int(row["time"]), self._symbol, int(row["bar"]), Side(int(row["side"])), gate.code, detail)

    def change(self, row: Any) -> BreakerChange:
        return BreakerChange(
            time=int(row["time"]),
            rule=risk.RULES[row["rule"]],
            mode=risk.MODES[row["mode"]],
            action="resume" if row["resumed"] else risk.ACTIONS[row["action"]],
            measure=int(row["measure"]),
            limit=int(row["limit"]),
            resume_at=int(row["resume_at"]),
        )

    def alert(self, row: Any) -> Alert:
        if row["kind"] == simulation.STOP_IS_MISSING:
            return Alert(int(row["time"]), "STOP_MISSING", STOP_MISSING_TEXT)
        code = int(self._tables.orders[row["order"]]["code"])
        text = refused_text(self._requests[row["order"]].client_order_id, code, self._text(code))
        return Alert(int(row["time"]), "ORDER_REFUSED", text)

    def equity(self, row: Any) -> EquityPoint:
        wallet, unrealised = int(row["wallet"]), int(row["unrealised"])
        return EquityPoint(
            time=int(row["time"]),
            symbol=self._symbol,
            wallet=wallet,
            unrealised=unrealised,
            equity=wallet + unrealised,
            position=int(row["position"]),
            valued_at="mark" if row["at_mark"] else "last",
        )


def _trade_ids(which: Any) -> tuple[int, ...]:
    return tuple((which.nonzero()[0] + 1).tolist())
