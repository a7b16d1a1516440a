"""Converts the tables of a compiled session directly to frames: fast enough for the explorer's sliders.

The frames are those that `report.collector` makes from the facts of `loop_facts`; a property test checks that they are
equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voltrade import risk
from voltrade.account import net_of
from voltrade.compiled import Rows, uncompiled
from voltrade.core import GATES
from voltrade.model import BAR, Bools, Instrument, Int64s
from voltrade.orders.order_states import ENTRY, PURPOSES, REASONS, REJECTED, STATES, UNKNOWN
from voltrade.orders.row_facts import client_order_id, order_type
from voltrade.orders.row_facts import refusal_text as gate_text
from voltrade.report.frames import Columns, Frames, frames_of_columns, words
from voltrade.research.compiled_session import Tables
from voltrade.research.loop_facts import alert_text, refusal_text

NOTHING: Columns = dict.fromkeys(("time", "first_id", "last_id", "filled", "action", "reason", "final"), ())


def frames_of_tables(
    tables: Tables, instrument: Instrument, bars: Rows, decisions: Rows, epoch: str, shown: slice | None = None
) -> Frames:
    """Make the frames of a compiled session.

    Args:
        bars: closed bars of the tape, at least those of the session.
        decisions: of the same bars.
        epoch: part of the client order ids.
        shown: bars in the frames of bars and decisions; by default all bars of the session.
    """
    first, end, _ = (shown or slice(tables.first_bar, tables.bars)).indices(tables.bars)
    names = _names(tables.orders["order"], epoch)
    return frames_of_columns(
        instrument,
        bars={name: bars[name][first:end] for name in BAR.names or ()},
        decision={name: decisions[name][first:end] for name in decisions.dtype.names or ()},
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
    purposes = [PURPOSES[purpose] for purpose in orders["purpose"].tolist()]
    each = zip(orders["round_trip"].tolist(), purposes, orders["count"].tolist(), strict=True)
    return np.array([client_order_id(epoch, *what) for what in each], dtype=object)


def _orders(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    rows, at_exchange, fills = tables.orders["order"], tables.orders["at_exchange"], tables.fills
    traded, notional, fees = (
        _sums(fills["order"], amount, len(rows))
        for amount in (fills["quantity"], fills["quantity"] * fills["price"], fills["fee"])
    )
    was_triggered = at_exchange["order_id"] != 0
    is_waiting = (at_exchange["algo_id"] != 0) & ~was_triggered
    was_placed = was_triggered | is_waiting
    status = np.where(was_triggered, at_exchange["status"], at_exchange["algo_status"])
    status = np.where(was_placed, status, np.where(at_exchange["code"] != 0, REJECTED, UNKNOWN))
    return {
        **{name: rows[name] for name in ("time", "round_trip", "bar", "side", "quantity", "price", "trigger_price")},
        **{name: at_exchange[name] for name in ("order_id", "answered")},
        "client_order_id": names,
        "purpose": _purposes(rows["purpose"]),
        "type": words(_TYPES, np.where(rows["price"] != 0, len(PURPOSES), rows["purpose"])),
        "reduce_only": rows["purpose"] != ENTRY,
        "status": words(STATES, status),
        "filled": np.where(was_triggered, at_exchange["executed"], 0),
        "traded": traded,
        "traded_notional": notional,
        "fees": fees,
        "code": np.where(was_placed, 0, at_exchange["code"]),
        "text": _texts(rows["cancel_reason"], at_exchange["code"], was_placed, is_waiting, instrument),
        "reason": words(REASONS, rows["reason"]),
        "updated": np.where(was_placed, at_exchange["updated"], 0),
    }


_TYPES = [order_type(purpose, 0) for purpose in PURPOSES] + [order_type(PURPOSES[ENTRY], 1)]
"""Order types by purpose; the last is the type of an order with a price."""


def _sums(places: Int64s, amounts: Int64s, count: int) -> Int64s:
    """Sum amounts by place in integers; `bincount` would sum in floats."""
    sums = np.zeros(count, np.int64)
    np.add.at(sums, places, amounts)
    return sums


def _texts(reasons: Int64s, codes: Int64s, was_placed: Bools, is_waiting: Bools, instrument: Instrument) -> Any:
    """Return why each order was refused or cancelled, or why an algo order ended without triggering."""
    texts = np.array(REASONS, dtype=object)[reasons]
    has_text = ~was_placed | (is_waiting & (codes != 0))
    texts[has_text] = [refusal_text(code, instrument) for code in codes[has_text].tolist()]
    return texts


def _fills(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    fills, order, orders = tables.fills, tables.fills["order"], tables.orders["order"]
    return {
        **{name: fills[name] for name in ("time", "price", "quantity", "fee", "realised")},
        **{name: orders[name][order] for name in ("round_trip", "side")},
        "trade_id": np.arange(1, len(fills) + 1),
        "client_order_id": names[order],
        "purpose": _purposes(orders["purpose"][order]),
        "fee_asset": words([instrument.quote_asset], np.zeros(len(fills), np.int64)),
        "is_maker": np.zeros(len(fills), np.bool_),
    }


def _purposes(purposes: Int64s) -> Any:
    return words([purpose.name for purpose in PURPOSES], purposes)


def _trips(trips: Rows) -> Columns:
    return {
        **{name: trips[name] for name in trips.dtype.names or ()},
        "net": uncompiled(net_of)(trips["realised"], trips["fees"], trips["funding"]),
        "exit_reason": words(REASONS, trips["exit_reason"]),
    }


def _refusals(rows: Rows) -> Columns:
    asked = np.stack([rows[name] for name in ("gate", "measure", "limit")], axis=1)
    cases, case_of = np.unique(asked, axis=0, return_inverse=True)  # few: most refusals are alike
    return {
        **{name: rows[name] for name in ("time", "bar", "side")},
        "code": words([gate.code for gate in GATES], rows["gate"]),
        "detail": words([gate_text(GATES[gate], *numbers) for gate, *numbers in cases.tolist()], case_of),
    }


def _changes(rows: Rows) -> Columns:
    return {
        **{name: rows[name] for name in ("time", "measure", "limit", "release_at")},
        "rule": words(risk.RULES, rows["rule"]),
        "mode": words(risk.MODES, rows["mode"]),
        "action": words([*risk.ACTIONS, "resume"], np.where(rows["released"] != 0, len(risk.ACTIONS), rows["action"])),
    }


def _alerts(tables: Tables, names: Any, instrument: Instrument) -> Columns:
    rows, codes = tables.alerts, tables.orders["at_exchange"]["code"]
    texts = [alert_text(kind, names[order], codes[order], instrument) for _, kind, order in rows.tolist()]
    return {"time": rows["time"], "code": [code for code, _ in texts], "text": [text for _, text in texts]}
