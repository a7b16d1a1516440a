"""The tables of a compiled session as frames, without a fact made of any row: what a slider can wait for.

The columns say what `simulation_facts` tells and `report` collects of it; a property test holds both ways to the same
frames. `frames` makes frames of columns, whoever tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from voltrade import risk, simulation
from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.core import GATES
from voltrade.frames import Columns, Frames, frames_of_columns, words
from voltrade.model import BAR, Bools, Instrument, Int64s, OrderType, Purpose
from voltrade.oms import STOP_MISSING_TEXT, client_order_id, refused_text
from voltrade.research import Tables
from voltrade.simulation_facts import TEXTS

NOTHING: Columns = dict.fromkeys(("time", "first_id", "last_id", "filled", "action", "reason", "final"), ())


def frames_of_tables(
    tables: Tables,
    config: Config,
    instrument: Instrument,
    bars: Rows,
    verdicts: Rows,
    epoch: str,
    shown: slice | None = None,
) -> Frames:
    """Make the frames of a compiled session.

    Args:
        bars: closed bars of the tape, at least those of the session.
        verdicts: of the same bars.
        epoch: stands in the client order ids.
        shown: numbers of the bars that the frames of bars and decisions hold; by default all of the session.
    """
    first, end, _ = (shown or slice(tables.first_bar, tables.bars)).indices(tables.bars)
    names = _names(tables.orders, epoch)
    return frames_of_columns(
        instrument,
        bars={name: bars[name][first:end] for name in BAR.names or ()},
        verdict={name: verdicts[name][first:end] for name in verdicts.dtype.names or ()},
        first=first,
        all_bars={name: bars[name][: tables.bars] for name in ("close", "close_time")},
        orders=_orders(tables, names, instrument),
        fills=_fills(tables, names, instrument),
        trips=_trips(tables.trips),
        equity=tables.equity,
        refusals=_refusals(tables.refusals),
        breaker=_changes(tables.changes),
        alerts=_alerts(tables, names, instrument),
        gaps=NOTHING,
        operator=NOTHING,
    )


def _names(orders: Rows, epoch: str) -> Any:
    purposes = [simulation.PURPOSES[purpose] for purpose in orders["purpose"].tolist()]
    each = zip(orders["round_trip"].tolist(), purposes, orders["number"].tolist(), strict=True)
    return np.array([client_order_id(epoch, *what) for what in each], dtype=object)


def _orders(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    rows, fills = tables.orders, tables.fills
    traded, notional, fees = (
        _sums(fills["order"], amount, len(rows))
        for amount in (fills["quantity"], fills["quantity"] * fills["price"], fills["fee"])
    )
    was_triggered = rows["order_id"] != 0
    is_waiting = (rows["algo_id"] != 0) & ~was_triggered
    was_placed = was_triggered | is_waiting
    status = np.where(was_triggered, rows["status"], rows["algo_status"])
    status = np.where(was_placed, status, np.where(rows["code"] != 0, simulation.REJECTED, simulation.UNKNOWN))
    return {
        **{name: rows[name] for name in ("time", "order_id", "round_trip", "bar", "side", "quantity", "price")},
        **{name: rows[name] for name in ("trigger_price", "answered")},
        "client_order_id": names,
        "purpose": _purposes(rows["purpose"]),
        "type": words(_TYPES, np.where(rows["price"] != 0, len(Purpose), rows["purpose"])),
        "reduce_only": rows["purpose"] != simulation.ENTRY,
        "status": words(simulation.STATES, status),
        "filled": np.where(was_triggered, rows["executed"], 0),
        "traded": traded,
        "traded_notional": notional,
        "fees": fees,
        "code": np.where(was_placed, 0, rows["code"]),
        "text": _texts(rows, was_placed, is_waiting, instrument),
        "reason": words(simulation.REASONS, rows["reason"]),
        "updated": np.where(was_placed, rows["updated"], 0),
    }


_TYPES = [
    {Purpose.STOP: OrderType.STOP_MARKET, Purpose.TAKE_PROFIT: OrderType.TAKE_PROFIT_MARKET}.get(
        purpose, OrderType.MARKET
    )
    for purpose in simulation.PURPOSES
] + [OrderType.LIMIT]
"""Types of orders by their purpose; the last is that of an order with a price."""


def _sums(places: Int64s, amounts: Int64s, count: int) -> Int64s:
    """Sum amounts by place; exactly, which `bincount` with its floats would not."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, places, amounts)
    return sums


def _texts(rows: Rows, was_placed: Bools, is_waiting: Bools, instrument: Instrument) -> Any:
    """Why an order was refused or cancelled, or what became of a conditional one that never triggered."""
    texts = np.array(simulation.REASONS, dtype=object)[rows["text"]]
    is_told = ~was_placed | (is_waiting & (rows["code"] != 0))
    texts[is_told] = [_text(code, instrument) for code in rows["code"][is_told].tolist()]
    return texts


def _text(code: int, instrument: Instrument) -> str:
    least = Decimal(instrument.min_notional).scaleb(-8).normalize()
    return TEXTS[code].format(least=least) if code else ""


def _fills(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    fills, order = tables.fills, tables.fills["order"]
    return {
        **{name: fills[name] for name in ("time", "price", "quantity", "fee", "realised")},
        **{name: tables.orders[name][order] for name in ("round_trip", "side")},
        "trade_id": np.arange(1, len(fills) + 1),
        "client_order_id": names[order],
        "purpose": _purposes(tables.orders["purpose"][order]),
        "fee_asset": words([instrument.quote_asset], np.zeros(len(fills), np.int64)),
        "is_maker": np.zeros(len(fills), np.bool_),
    }


def _purposes(purposes: Int64s) -> Any:
    return words([purpose.name for purpose in simulation.PURPOSES], purposes)


def _trips(trips: Rows) -> Columns:
    return {
        **{name: trips[name] for name in trips.dtype.names or ()},
        "net": trips["realised"] - trips["fees"] + trips["funding"],
        "exit_reason": words(simulation.REASONS, trips["exit_reason"]),
    }


def _refusals(rows: Rows) -> Columns:
    asked = np.stack([rows[name] for name in ("gate", "measure", "limit")], axis=1)
    cases, case_of = np.unique(asked, axis=0, return_inverse=True)  # few: most refusals are alike
    return {
        **{name: rows[name] for name in ("time", "bar", "side")},
        "code": words([gate.code for gate in GATES], rows["gate"]),
        "detail": words([_detail(case.tolist()) for case in cases], case_of),
    }


def _detail(case: Sequence[int]) -> str:
    gate = GATES[case[0]]
    return risk.distance_text(gate.code, *case[1:]) if gate.code in risk.RULES else gate.text


def _changes(rows: Rows) -> Columns:
    return {
        **{name: rows[name] for name in ("time", "measure", "limit", "resume_at")},
        "rule": words(risk.RULES, rows["rule"]),
        "mode": words(risk.MODES, rows["mode"]),
        "action": words([*risk.ACTIONS, "resume"], np.where(rows["resumed"] != 0, len(risk.ACTIONS), rows["action"])),
    }


def _alerts(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    rows = tables.alerts
    is_missing = rows["kind"] == simulation.STOP_IS_MISSING
    texts = np.full(len(rows), STOP_MISSING_TEXT, dtype=object)
    refused = rows["order"][~is_missing]
    codes = tables.orders["code"][refused].tolist()
    texts[~is_missing] = [
        refused_text(name, code, _text(code, instrument)) for name, code in zip(names[refused], codes, strict=True)
    ]
    return {
        "time": rows["time"],
        "code": words(("ORDER_REFUSED", "STOP_MISSING"), is_missing),
        "text": texts,
    }
