"""Collects the facts of a run as they happen, and makes its frames at any time.

Facts come from a backtest in memory or from a journal on disk, of a run that is going on, ended or was killed. Trading
never reads anything from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from voltrade.compiled import Rows
from voltrade.model import (
    BAR,
    EQUITY_POINT,
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
    EquityPoint,
    FeedGap,
    Instrument,
    Operator,
    OrderIntent,
    OrderUpdate,
    Outcome,
    Refusal,
    Reply,
    ResumeState,
    RoundTrip,
    Side,
    Snapshot,
)
from voltrade.orders.order_states import CONCLUDED, DONE, STATUS_ALIASES
from voltrade.report.frames import FOREIGN, Beginning, Columns, Frames, frames_of_columns

# An order that was assumed not placed may turn out to exist; an ended order stays ended.
_ENDED = DONE - CONCLUDED


def frames_of_facts(instrument: Instrument, bar_rows: Iterable[Mapping[str, Any]], facts: Iterable[object]) -> Frames:
    """Make the frames of a run.

    Args:
        instrument: the symbol's tick, step and names.
        bar_rows: the bars in order, each with the fields of `model.VolumeBar` as integers and a `decision` mapping.
        facts: the facts of the model in order; kinds that are in no frame are ignored.
    """
    collector = Collector(instrument)
    for row in bar_rows:
        collector.add_bar(row)
    for fact in facts:
        collector.add(fact)
    return collector.frames()


def frames_of_arrays(
    instrument: Instrument, bars: Rows, decisions: Rows, first_bar: int, facts: Iterable[object]
) -> Frames:
    """Make the frames of a session that ran in memory, from its arrays of bars and its facts.

    Args:
        bars: rows of `model.BAR`; those before `first_bar` are the warm-up.
        decisions: the decision of each bar, rows of the engine's `decision_dtype`.
        facts: intents, answers, fills and notes.
    """
    collector = Collector(instrument)
    for fact in facts:
        collector.add(fact)
    rows, said = bars[first_bar:], decisions[first_bar:]
    columns = {name: rows[name] for name in BAR.names or ()}
    decision = {name: said[name] for name in decisions.dtype.names or ()}
    return collector.frames_of(columns, decision, first_bar, {name: bars[name] for name in ("close", "close_time")})


def _equity_rows(points: Sequence[EquityPoint]) -> Rows:
    """Convert valuations to rows of EQUITY_POINT."""
    rows = [(point.time, point.wallet, point.unrealised, point.position, point.valued_at == "mark") for point in points]
    return np.array(rows, EQUITY_POINT)


@dataclass(slots=True)
class _Order:
    """The state of one order so far; integers as in the facts."""

    client_order_id: str
    time: int
    side: Side
    type: str
    quantity: int
    intent: OrderIntent | None = None
    price: int = 0
    trigger_price: int = 0
    reduce_only: bool = False
    order_id: int = 0
    status: str = "PENDING_SUBMIT"
    filled: int = 0
    code: int = 0
    text: str = ""
    answered: int = 0
    updated: int = 0

    @property
    def purpose(self) -> str:
        return self.intent.purpose.name if self.intent else FOREIGN

    @property
    def round_trip(self) -> int:
        return self.intent.round_trip if self.intent else -1

    @property
    def bar(self) -> int:
        return self.intent.bar_number if self.intent else -1

    @property
    def reason(self) -> str:
        return self.intent.reason if self.intent else ""


_Note = TypeVar("_Note")


class Collector:
    """Collects the facts of a run, and makes frames of them at any time."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._bars: list[Mapping[str, Any]] = []
        self._orders: dict[str, _Order] = {}
        self._by_order_id: dict[int, str] = {}
        self._fills: dict[int, tuple[_Order, OrderUpdate]] = {}
        self._beginning = Beginning()
        self._notes: dict[type, list[Any]] = {
            kind: [] for kind in (RoundTrip, EquityPoint, Refusal, BreakerChange, Alert, FeedGap, Operator)
        }

    @property
    def bar_count(self) -> int:
        return len(self._bars)

    def notes(self, kind: type[_Note]) -> list[_Note]:
        """Return the facts of one kind so far: round trips, valuations, refusals, alerts and the like."""
        return self._notes[kind]

    def add_bar(self, row: Mapping[str, Any]) -> None:
        """Add a closed bar: the fields of `model.VolumeBar` as integers, and its `decision`."""
        self._bars.append(row)

    def add(self, fact: object) -> None:
        """Add a fact of the model; kinds that are in no frame are ignored."""
        match fact:
            case OrderIntent():
                self._add_intent(fact)
            case OrderUpdate():
                self._add_order_update(fact)
            case AlgoUpdate():
                self._add_algo_update(fact)
            case Reply():
                self._add_reply(fact)
            case CancelOrder():
                self._add_cancel(fact)
            case Snapshot():
                self._add_snapshot(fact)
            case ResumeState():
                breaker = json.loads(fact.state).get("breaker")
                self._beginning = replace(self._beginning, breaker=breaker)
            case _:
                notes = self._notes.get(type(fact))
                if notes is not None:
                    notes.append(fact)

    def _add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the open orders of an account, and its fills since the run began: a snapshot may list earlier ones."""
        if not self._beginning.time:
            self._begin(snapshot)
        for order in snapshot.orders:
            self._add_order_update(order)
        for fill in snapshot.fills:
            if fill.time >= self._beginning.time or self._is_known(fill):
                self._add_order_update(fill)
        for algo_order in snapshot.algo_orders:
            self._add_algo_update(algo_order)

    def _begin(self, snapshot: Snapshot) -> None:
        self._beginning = replace(self._beginning, time=snapshot.time)
        if self._beginning.breaker is not None:  # without this, its equity begins with the first fill or mark
            held = snapshot.position
            money = snapshot.wallet, held.unrealised, snapshot.wallet + held.unrealised
            self._notes[EquityPoint].append(EquityPoint(snapshot.time, snapshot.symbol, *money, held.quantity, "mark"))

    def _is_known(self, update: OrderUpdate) -> bool:
        return update.order_id in self._by_order_id or update.client_order_id in self._orders

    def _add_intent(self, intent: OrderIntent) -> None:
        request = intent.order
        self._orders[request.client_order_id] = _Order(
            client_order_id=request.client_order_id,
            time=intent.time,
            side=request.side,
            type=str(request.order_type),
            quantity=request.quantity,
            intent=intent,
            price=request.price,
            trigger_price=request.trigger_price,
            reduce_only=request.reduce_only or request.close_position,
        )

    def _add_order_update(self, update: OrderUpdate) -> None:
        # A triggered algo order becomes an ordinary order, usually with the same client order id.
        self._name_order(update.order_id, update.client_order_id)
        name = self._by_order_id.get(update.order_id) or update.client_order_id or f"#{update.order_id}"
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name, update.time, update.side, str(update.order_type), update.quantity, price=update.price
            )
        order.filled = max(order.filled, update.filled)
        order.updated = max(order.updated, update.time)
        if update.order_id:
            order.order_id = update.order_id
            self._by_order_id[update.order_id] = name
        if update.status and (order.status == "FINISHED" or order.status not in _ENDED):
            order.status = STATUS_ALIASES.get(update.status, update.status)
        if update.trade_id:
            self._fills.setdefault(update.trade_id, (order, update))

    def _name_order(self, order_id: int, name: str) -> None:
        """Merge fills that were known by order id alone into the order, now that its client order id is known.

        The account's list of trades has no client order ids, so a fill may be known before its order.
        """
        unnamed = f"#{order_id}"
        if not name or self._by_order_id.get(order_id) != unnamed or name == unnamed:
            return
        known = self._orders.pop(unnamed)
        self._by_order_id[order_id] = name
        order = self._orders.setdefault(name, replace(known, client_order_id=name))
        order.filled, order.updated = max(order.filled, known.filled), max(order.updated, known.updated)
        order.order_id = order_id
        for trade_id, (of, update) in self._fills.items():
            if of is known:
                self._fills[trade_id] = (order, update)

    def _add_algo_update(self, update: AlgoUpdate) -> None:
        name = update.client_order_id
        self._name_order(update.order_id, name)
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = _Order(
                name,
                update.time,
                update.side,
                str(update.order_type),
                update.quantity,
                trigger_price=update.trigger_price,
                reduce_only=update.reduce_only or update.close_position,
            )
        order.updated = max(order.updated, update.time)
        order.filled = max(order.filled, update.filled)
        if update.order_id:
            self._by_order_id[update.order_id] = name
        if order.status not in _ENDED and not order.order_id:
            order.status = update.status
            order.text = update.reason or order.text

    def _add_reply(self, reply: Reply) -> None:
        order = self._orders.get(reply.client_order_id)
        if order is not None and reply.action == "lookup" and reply.code == -2013 and order.status == "UNKNOWN":
            order.status, order.code, order.text = "NOT_PLACED", reply.code, reply.text
        if order is not None and reply.action == "submit":
            order.answered = reply.time
            if reply.outcome is Outcome.REFUSED:
                order.status, order.code, order.text = "REJECTED", reply.code, reply.text
            elif reply.outcome is Outcome.UNKNOWN and order.status == "PENDING_SUBMIT":
                order.status, order.text = "UNKNOWN", reply.text
        if reply.order is not None:
            self._add_order_update(reply.order)
        if reply.algo_order is not None:
            self._add_algo_update(reply.algo_order)

    def _add_cancel(self, command: CancelOrder) -> None:
        order = self._orders.get(command.client_order_id)
        if order is not None and not order.text:
            order.text = command.reason

    def frames(self, last_bars: int | None = None) -> Frames:
        """Make the frames of all facts so far; with `last_bars` only of so many bars and decisions."""
        first = 0 if last_bars is None else max(0, len(self._bars) - last_bars)
        rows = self._bars[first:]
        columns = {name: [row[name] for row in rows] for name in BAR.names or ()}
        all_bars = {name: [row[name] for row in self._bars] for name in ("close", "close_time")}
        return self.frames_of(columns, _decision_columns(rows), first, all_bars)

    def frames_of(self, bars: Columns, decision: Columns, first: int, all_bars: Columns) -> Frames:
        """Make the frames of all facts so far, and of these bars.

        Args:
            bars: columns of the bars, by the fields of BAR.
            decision: columns of their decisions.
            first: number of the first of these bars.
            all_bars: `close` and `close_time` of all bars of the run.
        """
        refusals = [(n.time, n.bar_number, n.side, n.code, n.detail) for n in self._notes[Refusal]]
        return frames_of_columns(
            self.instrument,
            bars=bars,
            decision=decision,
            first=first,
            all_bars=all_bars,
            orders=self._order_columns(),
            fills=self._fill_columns(),
            trips=_fields(self._notes[RoundTrip], _TRIP),
            equity=_equity_rows(self._notes[EquityPoint]),
            refusals=_columns(("time", "bar", "side", "code", "detail"), refusals),
            breaker=_fields(self._notes[BreakerChange], _CHANGE),
            alerts=_fields(self._notes[Alert], ("time", "code", "text")),
            gaps=_fields(self._notes[FeedGap], ("time", "first_id", "last_id", "filled")),
            operator=_fields(self._notes[Operator], ("time", "action", "reason", "final")),
            beginning=self._beginning,
        )

    def _order_columns(self) -> Columns:
        traded = {name: [0, 0, 0] for name in self._orders}
        for order, fill in self._fills.values():
            sums = traded[order.client_order_id]
            sums[0] += fill.last_quantity
            sums[1] += fill.last_quantity * fill.last_price
            sums[2] += fill.fee
        sums_of_fills = _columns(("traded", "traded_notional", "fees"), list(traded.values()))
        return {**_fields(self._orders.values(), _ORDER), **sums_of_fills}

    def _fill_columns(self) -> Columns:
        orders, fills = ([each[at] for each in self._fills.values()] for at in (0, 1))
        renamed = {"price": "last_price", "quantity": "last_quantity"}
        return {
            **_fields(fills, ("time", "trade_id", "side", "fee", "fee_asset", "realised", "is_maker")),
            **_fields(orders, ("client_order_id", "round_trip", "purpose")),
            **{name: [getattr(fill, field) for fill in fills] for name, field in renamed.items()},
        }


_ORDER = (
    *("time", "client_order_id", "order_id", "round_trip", "bar", "purpose", "side", "type", "quantity", "price"),
    *("trigger_price", "reduce_only", "status", "filled", "code", "text", "reason", "answered", "updated"),
)

_TRIP = (
    *("id", "side", "opened_at", "closed_at", "bar_number", "quantity", "entry_notional", "exit_notional"),
    *("stop_price", "take_profit_price", "realised", "fees", "funding", "net", "exit_reason"),
)

_CHANGE = ("time", "rule", "mode", "action", "measure", "limit", "release_at")


def _fields(facts: Collection[Any], names: Sequence[str]) -> Columns:
    return {name: [getattr(fact, name) for fact in facts] for name in names}


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Columns:
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def _decision_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the decisions of rows as columns; NaN where a row lacks a value that others have."""
    decisions = [_flat(row.get("decision") or {}) for row in rows]
    names = {name for decision in decisions for name in decision}
    usual = {"ready": False, "signal": 0}
    return {name: [decision.get(name, usual.get(name, math.nan)) for decision in decisions] for name in names}


def _flat(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the groups of a decision (`conditions`, `indicators`) into one mapping."""
    flat: dict[str, Any] = {}
    for name, value in decision.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value))
        else:
            flat[name] = math.nan if value is None else value
    return flat
