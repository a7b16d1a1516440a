"""Filters of now in the units of a run, and saved states in the units of the next one: reckoned by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.compiled import plain
from voltrade.errors import DataError
from voltrade.model import Filters, money
from voltrade.orders import saved_orders
from voltrade.orders.order_queries import exit_quantity, sendable, to_step
from voltrade.orders.records import ORDER, POSITION
from voltrade.orders.saved_orders import Scale, scaled_orders
from voltrade.symbol_filters import bracket_text, changes_text, common_units, filters_of, is_same

UNITS = an_instrument(tick="0.1", step="0.001", min_quantity=1, max_quantity=1_000, market_max_quantity=500)
STEPS = st.sampled_from(["0.0001", "0.0005", "0.001", "0.002", "0.0025", "0.007", "0.01", "1"]).map(Decimal)


@pytest.mark.parametrize(
    ("tick", "step", "price_step", "quantity_step", "is_finer"),
    [
        ("0.1", "0.001", 1, 1, False),
        ("7", "0.007", 70, 7, False),
        ("0.01", "0.001", 1, 1, True),
        ("0.1", "0.0001", 1, 1, True),
        ("0.25", "0.001", 5, 1, True),  # multiples of both are multiples of 0.5
    ],
)
def test_a_tick_and_a_step_of_now_are_counted_in_those_of_the_run(
    tick: str, step: str, price_step: int, quantity_step: int, is_finer: bool
) -> None:
    now = replace(UNITS, tick_size=Decimal(tick), step_size=Decimal(step))
    found = filters_of(now, UNITS)
    assert (found.price_step, found.quantity_step, found.is_finer) == (price_step, quantity_step, is_finer)


def test_a_step_that_no_decimal_divides_is_counted_exactly() -> None:
    """0.007 in lots of 0.003 are seven thirds: 7 lots, 0.021, are three of its steps."""
    units = replace(UNITS, step_size=Decimal("0.003"))
    found = filters_of(replace(UNITS, step_size=Decimal("0.007")), units)
    assert (found.quantity_step, found.is_finer) == (7, True)


def test_bounds_of_now_are_rounded_inwards_to_lots_of_the_run() -> None:
    now = replace(UNITS, step_size=Decimal("0.0003"), min_quantity=5, max_quantity=10, market_max_quantity=8)
    found = filters_of(now, UNITS)  # 0.0015, 0.0030 and 0.0024
    assert (found.least_quantity, found.largest_order, found.largest_market_order) == (2, 3, 2)


@given(STEPS, STEPS, STEPS, STEPS)
def test_common_units_measure_both_and_keep_what_may_be_sent(
    tick: Decimal, step: Decimal, a: Decimal, b: Decimal
) -> None:
    now = replace(UNITS, tick_size=tick * 10, step_size=step)
    units = common_units(now, a * 10, b)
    for whole, unit in (
        (tick * 10, units.tick_size),
        (a * 10, units.tick_size),
        (step, units.step_size),
        (b, units.step_size),
    ):
        assert whole % unit == 0
    assert units.quantity(units.max_quantity) == now.quantity(now.max_quantity)
    assert units.price(units.max_price) == now.price(now.max_price)
    told = filters_of(now, units)
    assert not told.is_finer
    assert (units.price(told.price_step), units.quantity(told.quantity_step)) == (now.tick_size, now.step_size)


def test_what_has_changed_is_said_with_a_rest_that_is_no_multiple_of_the_step() -> None:
    before = filters_of(UNITS, UNITS)
    after = filters_of(replace(UNITS, step_size=Decimal("0.007"), min_notional=money(50)), UNITS)
    text = changes_text(before, after, UNITS, -250)
    assert "step 0.001 -> 0.007" in text
    assert "least notional 100.00000000 -> 50.00000000" in text
    assert "0.250 BTC held are no multiple of the step" in text
    assert "tick" not in text
    assert is_same(before, replace(before, time=7))
    finer = filters_of(replace(UNITS, tick_size=Decimal("0.01")), UNITS)
    assert changes_text(before, finer, UNITS, 0).startswith("tick or step are finer than 0.1 and 0.001")
    halted = replace(before, status="TRADING_HALT")
    assert changes_text(before, halted, UNITS, 0) == (
        "status TRADING -> TRADING_HALT; nothing is entered until it trades again"
    )


@pytest.mark.parametrize(
    ("before", "now", "is_told"), [(0, 5, False), (15, 15, False), (40, 30, False), (40, 15, True), (15, 40, True)]
)
def test_a_bracket_is_told_where_it_changes_what_the_settings_allow(before: int, now: int, is_told: bool) -> None:
    assert bool(bracket_text(money(before), money(now), money(20))) == is_told


@pytest.mark.parametrize(
    ("price", "step", "up", "rounded"),
    [(798_810, 70, True, 798_840), (798_810, 70, False, 798_770), (798_770, 70, True, 798_770), (5, 1, False, 5)],
)
def test_a_price_is_rounded_to_the_tick(price: int, step: int, up: bool, rounded: int) -> None:
    assert to_step(price, step, up) == rounded


class Symbol:
    """The fields that `sendable` and `exit_quantity` read."""

    def __init__(self, quantity_step: int, nothing_to_reduce: bool) -> None:
        self.quantity_step, self.nothing_to_reduce = quantity_step, nothing_to_reduce


@pytest.mark.parametrize(
    ("lots", "step", "is_refused", "sent"),
    [
        (250, 1, False, 250),
        (250, 7, False, 252),
        (250, 7, True, 245),
        (5, 7, False, 7),
        (5, 7, True, 7),  # nothing smaller can be sent
        (-2, 7, False, 0),
        (0, 7, False, 0),
    ],
)
def test_an_exit_covers_the_rest_unless_that_was_refused(lots: int, step: int, is_refused: bool, sent: int) -> None:
    symbol: Any = Symbol(step, is_refused)
    assert plain(exit_quantity)(symbol, lots) == sent
    assert plain(sendable)(symbol, lots) == sent + (7 if sent == 245 else 0)  # a stop always covers it


IN_OTHER_UNITS = {
    "bar", "child_done", "code", "count", "exit_retry_at", "exit_tries", "exits", "fees", "funding", "id", "is_closed",
    "is_foreign", "last_exit_time", "lookup_at", "opened_at", "order_id", "purpose", "realised", "round_trip", "side",
    "state", "stop_retry_at", "stop_tries", "stops", "take_profit_retry_at", "take_profit_tries", "take_profits",
    "time", "unprotected_since", "updated_at",
}  # fmt: skip
"""Fields of an order and a position that are neither in ticks nor in lots, nor a reason."""


def test_each_field_that_is_saved_is_known_to_be_in_ticks_or_lots_or_in_neither() -> None:
    """A new one in ticks or lots has to stand in `saved_orders`, else a finer step makes it too small unnoticed."""
    fields = {*(ORDER.names or ()), *(POSITION.names or ())} - saved_orders._REASONS - saved_orders._OF_THIS_RUN
    scaled = {name for name in fields if Scale(10, 7).of(name) != 1}
    assert fields - scaled == IN_OTHER_UNITS


def test_a_saved_state_is_counted_in_the_finer_units_of_the_next_run() -> None:
    saved = {"tick_size": "7", "step_size": "0.007"}
    scale = Scale.between(saved, UNITS)
    assert scale == (70, 7)
    orders = {
        "agreed_position": 3,
        "agreed_trade_id": 3,
        "has_agreed": True,
        "open_position": {
            "position": {"entered": 3, "entry_notional": 2, "stop_price": 5, "id": 9},
            "orders": [{"id": "vt-e-1s1", "quantity": 3, "trigger_price": 5, "state": "NEW"}],
        },
    }
    assert scaled_orders(orders, scale) == {
        "agreed_position": 21,
        "agreed_trade_id": 3,
        "has_agreed": True,
        "open_position": {
            "position": {"entered": 21, "entry_notional": 980, "stop_price": 350, "id": 9},
            "orders": [{"id": "vt-e-1s1", "quantity": 21, "trigger_price": 350, "state": "NEW"}],
        },
    }
    with pytest.raises(KeyError, match="tick_size"):
        Scale.between({}, UNITS)
    with pytest.raises(DataError, match="must be in multiples of tick and step"):
        Scale.between({"tick_size": "0.01", "step_size": "0.001"}, UNITS)


def test_filters_of_an_earlier_journal_have_only_their_largest_order() -> None:
    assert Filters(1, "BTCUSDT", 4).quantity_step == 1
