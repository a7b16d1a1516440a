"""The judge of `make conformance` lets a faultless trip pass, and names each kind of fault."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from conformance.session import report
from conformance.verdict import Row, Trip, problems

STOP = {"kind": "algo", "algo_id": 1001, "side": "SELL", "quantity": "0.050", "reduce_only": True}
STOP |= {"close_position": False, "order_id": 0, "status": "NEW"}
ENTRY = {"kind": "order", "order_id": 1, "side": "BUY", "quantity": "0.050", "origin": ""}
EXIT = {"kind": "order", "order_id": 2, "side": "SELL", "quantity": "0.050", "origin": "STOP_MARKET"}
BOUGHT = {"kind": "fill", "order_id": 1, "side": "BUY", "quantity": "0.050", "price": "80000.0", "position": "0.050"}
SOLD = [
    {"kind": "fill", "order_id": 2, "side": "SELL", "quantity": "0.020", "price": "79000.0", "position": "0.030"},
    {"kind": "fill", "order_id": 2, "side": "SELL", "quantity": "0.030", "price": "78990.0", "position": "0"},
]
ASKED = {"kind": "request", "method": "POST", "path": "/fapi/v1/order", "code": 0}
HELD = {"position": "0.05", "entry_price": "80000.0", "stops": ["1001"], "exit_price": ""}
FLAT = {
    "position": "0",
    "entry_price": "",
    "stops": [],
    "exit_price": "78994.0",
}  # (0.02 x 79,000 + 0.03 x 78,990) / 0.05
ROWS: list[Row] = [ASKED, ENTRY, BOUGHT, STOP, {**STOP, "status": "FINISHED", "order_id": 2}, EXIT, *SOLD]
TRIP = Trip("a trip", ROWS, [HELD, HELD], FLAT)
LEFT_ROWS = [ASKED, ENTRY, BOUGHT, STOP, {**STOP, "status": "CANCELED"}, {**EXIT, "origin": ""}, *SOLD]


def with_rows(*more: Row, **changes: Any) -> Trip:
    """The faultless trip with more rows, and with changes of its rows by number: `_3={"quantity": "0.040"}`."""
    rows = deepcopy(ROWS)
    for number, change in changes.items():
        rows[int(number[1:])] |= change
    return replace(TRIP, rows=[*rows, *more])


def test_a_faultless_trip_passes() -> None:
    assert problems(TRIP) == []
    assert problems(replace(TRIP, rows=LEFT_ROWS, by_stop=False)) == []
    closes_all = {"reduce_only": False, "close_position": True, "quantity": "0"}
    assert problems(with_rows(_3=closes_all, _4=closes_all)) == []


@pytest.mark.parametrize(
    ("trip", "words"),
    [
        (with_rows({**ENTRY, "order_id": 7}), "one entry expected, the log has 2"),
        (with_rows({**STOP, "algo_id": 1002}), "one stop expected, the log has 2"),
        (with_rows({**EXIT, "order_id": 7}), "one exit expected, the log has 2"),
        (replace(TRIP, rows=[ASKED]), "one entry expected, the log has 0"),
        (with_rows(_1={"origin": "STOP_MARKET"}), "the entry came from a STOP_MARKET"),
        (with_rows(_4={"reduce_only": False}), "the stop is a SELL that may open a position"),
        (with_rows(_4={"side": "BUY"}), "the stop is a BUY that may open a position"),
        (with_rows(_4={"quantity": "0.040"}), "the stop is of 0.040, the entry of 0.050"),
        (with_rows(_4={"status": "CANCELED"}), "the stop ended CANCELED"),
        (replace(TRIP, by_stop=False), "the stop ended FINISHED"),
        (with_rows(_4={"order_id": 9}), "the exit is order 2, the stop became 9"),
        (with_rows(_5={"origin": ""}), "the exit is order 2, the stop became 2"),
        (with_rows(_7={"quantity": "0.010"}), "0.050 bought and 0.030 sold of 0.050"),
        (with_rows(_7={"position": "0.001"}), "0.050 bought and 0.050 sold of 0.050"),
        (replace(TRIP, held=[HELD, {**HELD, "stops": []}]), "the client's stops are [], the venue's ['1001']"),
        (replace(TRIP, held=[{**HELD, "position": "0.1"}]), "the client's position is 0.1, the venue's 0.050"),
        (replace(TRIP, held=[{**HELD, "entry_price": "80000.1"}]), "the client's entry price is 80000.1"),
        (replace(TRIP, flat={**FLAT, "position": "0.05"}), "the client's position at the end is 0.05"),
        (replace(TRIP, flat={**FLAT, "stops": ["1001"]}), "the client's stops at the end are ['1001']"),
        (replace(TRIP, flat={**FLAT, "exit_price": ""}), "the client's exit price is unknown, the venue's 78994"),
        (replace(TRIP, flat={**FLAT, "exit_price": "1"}, is_exit_known=False), "the client's exit price is 1"),
        (with_rows(_0={"code": -2019}), "POST /fapi/v1/order was refused with -2019"),
    ],
)
def test_each_fault_is_named(trip: Trip, words: str) -> None:
    assert [line for line in problems(trip) if line.startswith(f"a trip: {words}")], problems(trip)


def test_what_a_client_may_not_know_or_is_refused_is_excused() -> None:
    assert problems(replace(TRIP, flat={**FLAT, "exit_price": ""}, is_exit_known=False)) == []
    assert problems(with_rows(_0={"code": -4046}), excused=[-4046]) == []


def test_the_report_has_fills_requests_complaints_and_the_verdict() -> None:
    refused = {**ASKED, "code": -4046}
    assert report([ASKED, ASKED, refused], [TRIP], ["[ERROR] odd"], ["a trip: wrong"]) == [
        "  a trip: BUY 0.050 at 80000.0, SELL 0.020 at 79000.0, SELL 0.030 at 78990.0",
        "      2 POST /fapi/v1/order",
        "      1 POST /fapi/v1/order -4046",
        "  the client complains: [ERROR] odd",
        "  WRONG: a trip: wrong",
        "  failed",
    ]
    assert report([], [], [], [])[-1] == "  passed"
