"""The order monitor: an order's life, fills that count once, and a position that is never left bare."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.by_hand import cancel_entry, enter, is_protected, leave

from voltrade.config import ExecutionSettings, ExitSettings
from voltrade.errors import DataError
from voltrade.model import (
    NEVER,
    AccountSummary,
    Alert,
    AlgoUpdate,
    CancelOrder,
    LookupOrder,
    OrderIntent,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    PositionReport,
    Purpose,
    Reply,
    RoundTrip,
    Side,
    Snapshot,
    TakeSnapshot,
)
from voltrade.oms import OrderMonitor
from voltrade.orders.order_queries import price_from_average
from voltrade.orders.order_states import (
    ALGO_MOVES,
    CONCLUDED,
    DONE,
    EXPECTED_REFUSALS,
    MOVES,
    PROTECT_WITHIN_MS,
    REACTIONS,
    RESEND_UNANSWERED_AFTER_MS,
    RESIZE_EVERY_MS,
    AlgoState,
    OrderState,
    Reaction,
    refused_text,
)
from voltrade.orders.snapshot_check import BEHIND_AT_MOST

ENTRY, STOP, TARGET = "vt-e-1e1", "vt-e-1s1", "vt-e-1t1"


class Harness:
    """A monitor with an entry of 10 lots at 1,000 ticks under way, and the news that an exchange might bring."""

    def __init__(self, side: Side = Side.BUY, **exits: Any) -> None:
        self.monitor = OrderMonitor(
            an_instrument(), ExitSettings(**exits), ExecutionSettings(order_stale_s=10.0, recv_window_ms=5000), "e"
        )
        self.time = 1_000
        self.trade_ids = itertools.count(1)
        self.filled: dict[str, int] = {}
        self.side = side
        self.sent: dict[str, OrderIntent] = {}
        self.note(enter(self.monitor, self.time, side, 10, take_profit_distance=30, bar=4))

    def note(self, outputs: list[Output]) -> list[Output]:
        self.sent |= {o.order.client_order_id: o for o in outputs if isinstance(o, OrderIntent)}
        return outputs

    def accept(self, client_id: str) -> list[Output]:
        return self.reply(client_id, "submit", Outcome.ACCEPTED)

    def reply(self, client_id: str, action: Any, outcome: Outcome, code: int = 0, **more: Any) -> list[Output]:
        algo = self.sent[client_id].order.order_type.is_conditional
        return self.note(
            self.monitor.on_reply(
                Reply(self.time, action, "BTCUSDT", client_id, algo, outcome, code, "because", **more)
            )
        )

    def update(self, client_id: str, status: str, lots: int = 0, price: int = 1_000, **more: Any) -> OrderUpdate:
        self.filled[client_id] = self.filled.get(client_id, 0) + lots
        order = self.sent[client_id].order
        values: dict[str, Any] = {
            "client_order_id": client_id,
            "order_id": 100 + list(self.sent).index(client_id),
            "filled": self.filled[client_id],
            "trade_id": next(self.trade_ids) if lots else 0,
            "last_quantity": lots,
            "last_price": price if lots else 0,
        }
        return OrderUpdate(
            time=self.time,
            symbol="BTCUSDT",
            side=order.side,
            order_type=OrderType.MARKET,
            status=status,
            execution="TRADE" if lots else status,
            quantity=order.quantity,
            **{**values, **more},
        )

    def order(self, client_id: str, status: str, lots: int = 0, price: int = 1_000, **more: Any) -> list[Output]:
        return self.note(self.monitor.on_order(self.update(client_id, status, lots, price, **more)))

    def algo(self, client_id: str, status: str, order_id: int = 0) -> list[Output]:
        order = self.sent[client_id].order
        update = AlgoUpdate(
            self.time,
            "BTCUSDT",
            client_id,
            7,
            order.side,
            order.order_type,
            status,
            order.quantity,
            order.trigger_price,
            order_id,
        )
        return self.note(self.monitor.on_algo(update))

    def in_position(self) -> Harness:
        """Fill the entry whole, and have stop and take-profit acknowledged."""
        self.accept(ENTRY)
        self.order(ENTRY, "FILLED", 10)
        for client_id in (STOP, TARGET):
            self.accept(client_id)
            self.algo(client_id, "NEW")
        return self

    def canceled(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, CancelOrder):
                self.reply(output.client_order_id, "cancel", Outcome.ACCEPTED)


def intents(outputs: list[Output]) -> list[OrderIntent]:
    return [output for output in outputs if isinstance(output, OrderIntent)]


def test_an_entry_that_fills_gets_a_stop_and_a_take_profit_from_its_average_price() -> None:
    harness = Harness()
    harness.accept(ENTRY)

    first = harness.order(ENTRY, "PARTIALLY_FILLED", 4, price=1_000)
    [stop] = intents(first)
    assert (stop.purpose, stop.order.quantity, stop.order.trigger_price) == (Purpose.STOP, 4, 1_000 - 20)
    assert stop.order.side is Side.SELL
    assert stop.order.reduce_only

    harness.accept(STOP)
    harness.algo(STOP, "NEW")
    rest = intents(harness.order(ENTRY, "FILLED", 6, price=1_010))
    # The average is (4 x 1000 + 6 x 1010) / 10 = 1006.
    assert [(i.purpose, i.order.quantity, i.order.trigger_price) for i in rest] == [
        (Purpose.STOP, 10, 1_006 - 20),
        (Purpose.TAKE_PROFIT, 10, 1_006 + 30),
    ]
    # The smaller stop goes only once the larger one is acknowledged.
    assert harness.accept("vt-e-1s2") == []
    [cancel] = harness.algo("vt-e-1s2", "NEW")
    assert isinstance(cancel, CancelOrder)
    assert (cancel.client_order_id, cancel.reason) == (STOP, "RESIZED")


def test_while_an_entry_fills_in_pieces_its_stop_grows_now_and_then() -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "PARTIALLY_FILLED", 1)
    harness.accept(STOP)
    harness.algo(STOP, "NEW")
    harness.time += 100
    assert intents(harness.order(ENTRY, "PARTIALLY_FILLED", 1)) == []
    assert harness.monitor.next_due == 1_000 + RESIZE_EVERY_MS
    harness.time = harness.monitor.next_due
    [larger] = intents(harness.note(harness.monitor.on_time(harness.time)))
    assert (larger.reason, larger.order.quantity) == ("RESIZE", 2)


def test_a_short_has_its_stop_above_and_its_take_profit_below() -> None:
    harness = Harness(Side.SELL)
    harness.accept(ENTRY)
    stop, target = intents(harness.order(ENTRY, "FILLED", 10, price=1_000))
    assert (stop.order.side, stop.order.trigger_price) == (Side.BUY, 1_020)
    assert (target.order.side, target.order.trigger_price) == (Side.BUY, 970)


def test_a_stop_that_fills_ends_the_round_trip_and_cancels_the_rest() -> None:
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    harness.order(STOP, "NEW", order_id=500)
    outputs = harness.order(STOP, "FILLED", 10, price=979, order_id=500, realised=-210, fee=3)

    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert (trip.exit_reason, trip.quantity, trip.entry_notional, trip.exit_notional) == ("STOP", 10, 10_000, 9_790)
    assert trip.net == -210 - 3
    assert [o.client_order_id for o in outputs if isinstance(o, CancelOrder)] == [TARGET]
    assert harness.monitor.open_position is not None  # not free for the next entry while an order of it is alive
    harness.canceled(outputs)
    assert harness.monitor.open_position is None
    assert harness.monitor.position == 0


def test_a_fill_that_is_told_twice_counts_once() -> None:
    harness = Harness()
    fill = harness.update(ENTRY, "FILLED", 10)
    harness.note(harness.monitor.on_order(fill))
    harness.note(harness.monitor.on_order(fill))
    assert harness.monitor.position == 10
    assert not harness.monitor.is_new_fill(fill)


def test_a_fill_before_the_answer_to_its_order_is_taken() -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    assert harness.accept(ENTRY) == []
    assert harness.monitor.orders[ENTRY].state == "FILLED"


@pytest.mark.parametrize("late", ["NEW", "PARTIALLY_FILLED"])
def test_late_news_never_turns_a_state_back(late: str) -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    harness.order(ENTRY, late)
    assert harness.monitor.orders[ENTRY].state == "FILLED"
    assert harness.monitor.ignored == 1


@pytest.mark.parametrize("late", ["NEW", "PARTIALLY_FILLED"])
def test_late_news_does_not_undo_a_cancel_that_is_under_way(late: str) -> None:
    harness = Harness()
    harness.order(ENTRY, "NEW")
    [cancel] = cancel_entry(harness.monitor, harness.time, "OPERATOR")
    assert isinstance(cancel, CancelOrder)
    harness.order(ENTRY, late)
    assert harness.monitor.orders[ENTRY].state == "PENDING_CANCEL"
    assert cancel_entry(harness.monitor, harness.time, "OPERATOR") == []


def test_a_cancel_that_is_sent_again_keeps_the_reason_of_the_first() -> None:
    harness = Harness()
    harness.order(ENTRY, "NEW")
    cancel_entry(harness.monitor, harness.time, "OPERATOR")
    harness.reply(ENTRY, "cancel", Outcome.REFUSED, -2011)
    harness.reply(ENTRY, "lookup", Outcome.ACCEPTED, order=harness.update(ENTRY, "NEW"))
    [again] = cancel_entry(harness.monitor, harness.time, "STALE")
    assert isinstance(again, CancelOrder)
    assert harness.monitor._books.reason_text(harness.monitor.orders[ENTRY].row.cancel_reason) == "OPERATOR"


@pytest.mark.parametrize(
    ("notional", "quantity", "level"),
    [(302, 3, 101), (301, 3, 100), (201, 2, 101), (100, 1, 100)],  # 100.67, 100.33, 100.5, 100
)
def test_stop_and_target_lie_from_the_average_price_to_the_nearest_tick(
    notional: int, quantity: int, level: int
) -> None:
    assert price_from_average(notional, quantity, 0) == level
    assert price_from_average(notional, quantity, -20) == level - 20


def test_every_state_has_its_moves_and_an_end_has_none() -> None:
    assert set(MOVES) == set(OrderState)
    assert set(ALGO_MOVES) == set(AlgoState)
    ends = {str(s) for s, after in [*MOVES.items(), *ALGO_MOVES.items()] if not after}
    assert ends == DONE - CONCLUDED  # a concluded absence may still turn out wrong


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_news_in_any_order_and_doubled_makes_the_same_position(order: list[int], doubled: list[int]) -> None:
    harness = Harness()
    news = [
        harness.update(ENTRY, "NEW"),
        harness.update(ENTRY, "PARTIALLY_FILLED", 2, 1_000),
        harness.update(ENTRY, "PARTIALLY_FILLED", 3, 1_001),
        harness.update(ENTRY, "PARTIALLY_FILLED", 1, 1_002),
        harness.update(ENTRY, "FILLED", 4, 1_003),
        harness.update(ENTRY, "NEW"),
    ]
    for index in [*order, *doubled]:
        harness.note(harness.monitor.on_order(news[index]))
    holding = harness.monitor.open_position
    assert holding is not None
    assert harness.monitor.position == 2 + 3 + 1 + 4
    assert holding.entry_notional == 2 * 1_000 + 3 * 1_001 + 1 * 1_002 + 4 * 1_003
    assert holding.entry.state == "FILLED"
    # Whatever the order, all that is held ends up under one stop of the whole size, once answers come.
    for _ in range(6):
        for client_id, intent in list(harness.sent.items()):
            if intent.purpose is Purpose.STOP and harness.monitor.orders[client_id].state in (
                "PENDING_SUBMIT",
                "UNKNOWN",
            ):
                harness.accept(client_id)
                harness.algo(client_id, "NEW")
    assert is_protected(harness.monitor)


def test_an_unknown_entry_is_looked_up_and_found() -> None:
    harness = Harness()
    [lookup] = harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    assert isinstance(lookup, LookupOrder)
    assert harness.monitor.has_unsettled_order
    found = harness.update(ENTRY, "NEW")
    harness.reply(ENTRY, "lookup", Outcome.ACCEPTED, order=found)
    assert not harness.monitor.has_unsettled_order
    assert harness.monitor.orders[ENTRY].state == "NEW"


def test_absence_counts_only_after_the_fence_and_three_agreeing_answers() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    sent_at, fence = 1_000, 1_000 + 5_000 + 5_000
    for harness.time in (sent_at + 1, fence - 1, fence, fence + 1_000, fence + 2_000):
        assert harness.reply(ENTRY, "lookup", Outcome.REFUSED, -2013) == []
    assert [type(output) for output in harness.monitor.on_time(harness.time)] == [TakeSnapshot]
    harness.monitor.on_snapshot(replace(a_snapshot(0), time=fence + 2_100))
    [alert] = harness.reply(ENTRY, "lookup", Outcome.REFUSED, -2013)
    assert isinstance(alert, Alert)
    assert harness.monitor.orders[ENTRY].state == "NOT_PLACED"
    assert harness.monitor.open_position is None


@pytest.mark.parametrize("at", [9_000, 15_000])
def test_one_kind_of_answer_is_no_evidence_of_absence(at: int) -> None:
    """Look-ups alone, or lists that were read before the order can have been refused for good."""
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    harness.monitor.on_snapshot(replace(a_snapshot(0 if at < 11_000 else 10), time=at))
    for harness.time in range(15_000, 60_000, 1_000):
        harness.reply(ENTRY, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.orders[ENTRY].state == "UNKNOWN"


def test_an_unnamed_trade_is_of_the_order_whose_outcome_is_unknown() -> None:
    """Its answer and events are lost and it can't be looked up: the account has its lots and its trade."""
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    fill = replace(harness.update(ENTRY, "FILLED", 10), client_order_id="", order_id=900)
    outputs = harness.note(harness.monitor.on_snapshot(a_snapshot(10, fills=(fill,))))
    assert [intent.purpose for intent in intents(outputs)] == [Purpose.STOP, Purpose.TAKE_PROFIT]
    assert (harness.monitor.position, harness.monitor.orders[ENTRY].state) == (10, "FILLED")


@pytest.mark.parametrize(("lots", "side", "position"), [(11, Side.BUY, 11), (10, Side.SELL, -10), (10, Side.BUY, 9)])
def test_an_unnamed_trade_that_can_not_be_ours_is_not_taken(lots: int, side: Side, position: int) -> None:
    """More than we ordered, the other side, or a position that it does not lead to."""
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    fill = replace(harness.update(ENTRY, "FILLED", lots), client_order_id="", order_id=900, side=side)
    harness.monitor.on_snapshot(a_snapshot(position, fills=(fill,)))
    assert harness.monitor.position == 0


@pytest.mark.parametrize(("before", "is_ours"), [(900, True), (5_000, False)])
def test_an_unnamed_trade_from_before_an_order_was_sent_is_not_its_own(before: int, is_ours: bool) -> None:
    """An exit that the journal has lost, and another whose outcome is unknown, would both explain it. Clocks differ by
    less than a second."""
    harness = Harness().in_position()
    harness.time = 30_000
    [sent] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    harness.reply(sent.order.client_order_id, "submit", Outcome.UNKNOWN)
    fill = harness.update(sent.order.client_order_id, "FILLED", 10, order_id=900)
    fill = replace(fill, client_order_id="", time=harness.time - before)
    shown = replace(a_snapshot(0, fills=(fill,), **a_listing(harness, STOP, TARGET)), time=harness.time)
    harness.note(harness.monitor.on_snapshot(shown))
    state = harness.monitor.orders[sent.order.client_order_id].state
    assert (harness.monitor.position, state) == ((0, "FILLED") if is_ours else (10, "UNKNOWN"))


def absent(harness: Harness, client_id: str, position: int = 0, at: int = 20_000) -> list[Output]:
    """Let every kind of answer agree that the exchange has no such order; return what follows from the last."""
    harness.monitor.on_snapshot(replace(a_snapshot(position), time=at))
    answers = []
    for harness.time in range(at + 1_000, at + 5_000, 1_000):
        answers.append(harness.reply(client_id, "lookup", Outcome.REFUSED, -2013))
    return next(filter(None, answers), [])


def test_a_stop_that_the_exchange_has_no_more_is_replaced() -> None:
    """Fault case A5: believed to rest, not listed, and not to be looked up."""
    harness = Harness().in_position()
    outputs = absent(harness, STOP, position=10)
    assert next(output.code for output in outputs if isinstance(output, Alert)) == "ORDER_GONE"
    [stop] = intents(outputs)
    assert (stop.order.client_order_id, stop.order.quantity) == ("vt-e-1s2", 10)


@pytest.mark.parametrize("is_closed", [True, False])
def test_an_order_that_was_concluded_gone_is_cancelled_where_it_is_listed_after_its_position(is_closed: bool) -> None:
    """The lists and look-ups that did not have it were from before it was placed; in position it stays what it was."""
    harness = Harness().in_position()
    absent(harness, TARGET, position=10)
    assert harness.monitor.orders[TARGET].state == "GONE"
    if is_closed:
        harness.note(leave(harness.monitor, harness.time, "TIME"))
        harness.canceled(harness.order("vt-e-1x1", "FILLED", 10))
        assert not harness.monitor.in_round_trip
    kept = [TARGET] if is_closed else [STOP, TARGET]
    shown = replace(a_snapshot(harness.monitor.position, **a_listing(harness, *kept)), time=harness.time + 1_000)
    outputs = harness.monitor.on_snapshot(shown)
    assert [o.client_order_id for o in outputs if isinstance(o, CancelOrder)] == [TARGET] * is_closed
    assert harness.monitor.orders[TARGET].state == ("PENDING_CANCEL" if is_closed else "NEW")


def test_a_snapshot_that_lists_an_order_takes_back_that_one_did_not() -> None:
    """One list was out of date; later only the look-ups are."""
    harness = Harness().in_position()
    for at, listing in ((20_000, {}), (21_000, a_listing(harness, STOP, TARGET))):
        harness.monitor.on_snapshot(replace(a_snapshot(10, **listing), time=at))
    for harness.time in range(22_000, 27_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.orders[STOP].state == "NEW"


@pytest.mark.parametrize("is_concluded", [True, False])
def test_an_order_that_is_told_of_needs_the_whole_evidence_of_its_absence_again(is_concluded: bool) -> None:
    """All that spoke against it was from before: concluded absent and revoked, or not concluded yet."""
    harness = Harness().in_position()
    answers = 3 if is_concluded else 2
    harness.monitor.on_snapshot(replace(a_snapshot(10, **a_listing(harness, TARGET)), time=20_000))
    for harness.time in range(21_000, 21_000 + answers * 1_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.orders[STOP].state == ("GONE" if is_concluded else "NEW")
    harness.algo(STOP, "NEW")
    for harness.time in range(30_000, 35_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
        assert harness.monitor.orders[STOP].state == "NEW", "no list has been without it since"
    harness.algo(STOP, "NEW")
    harness.monitor.on_snapshot(replace(a_snapshot(10, **a_listing(harness, TARGET)), time=40_000))
    states = []
    for harness.time in range(41_000, 44_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
        states.append(harness.monitor.orders[STOP].state)
    assert states == ["NEW", "NEW", "GONE"]


@pytest.mark.parametrize(
    ("held", "readings", "is_gone"),
    [(14, 5, True), (14, 4, False), (6, 5, True), (-14, 5, True)],
    ids=["lots beside ours", "not sure yet", "fewer than ours", "the other side"],
)
def test_a_stop_that_is_gone_is_missed_beside_lots_of_somebody_else(held: int, readings: int, is_gone: bool) -> None:
    """The account never has our position then: lots that five readings don't explain speak no more for the stop."""
    harness = Harness().in_position()
    for number in range(readings - 1):
        listing = a_listing(harness, STOP, TARGET)
        harness.monitor.on_snapshot(replace(a_snapshot(held, **listing), time=11_000 + number * 1_000))
    sent = intents(absent(harness, STOP, position=held))
    assert [stop.order.client_order_id for stop in sent] == ["vt-e-1s2"] * is_gone
    assert harness.monitor.orders[STOP].state == ("GONE" if is_gone else "NEW")


@pytest.mark.parametrize("held", [10, -10])
def test_an_entry_that_was_never_placed_is_given_up_beside_lots_of_somebody_else(held: int) -> None:
    """Else a session with it would never end."""
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    for number in range(4):
        harness.monitor.on_snapshot(replace(a_snapshot(held), time=2_000 + number * 1_000))
    absent(harness, ENTRY, position=held)
    assert (harness.monitor.orders[ENTRY].state, harness.monitor.in_round_trip) == ("NOT_PLACED", False)


def test_an_error_while_asking_is_no_evidence() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    for harness.time in range(100_000, 110_000, 1_000):
        harness.reply(ENTRY, "lookup", Outcome.UNKNOWN)
    assert harness.monitor.orders[ENTRY].state == "UNKNOWN"


def test_an_order_that_was_concluded_absent_and_fills_after_all_is_adopted_and_protected() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    absent(harness, ENTRY)
    assert harness.monitor.open_position is None
    [stop, target] = intents(harness.order(ENTRY, "FILLED", 10))
    assert (stop.purpose, target.purpose) == (Purpose.STOP, Purpose.TAKE_PROFIT)
    assert harness.monitor.position == 10


@pytest.mark.parametrize(("code", "reaction"), REACTIONS.items())
def test_a_refused_entry_is_over_and_halts_where_the_table_says_so(code: int, reaction: Reaction) -> None:
    harness = Harness()
    outputs = harness.reply(ENTRY, "submit", Outcome.REFUSED, code)
    if reaction is Reaction.LOOKUP:
        assert isinstance(outputs[0], LookupOrder)
        assert harness.monitor.orders[ENTRY].state == "UNKNOWN"
        return
    assert harness.monitor.orders[ENTRY].state == "REJECTED"
    assert harness.monitor.open_position is None
    assert bool(harness.monitor.halt_reason) == (reaction is Reaction.HALT)
    assert any(isinstance(o, TakeSnapshot) for o in outputs) == (reaction is Reaction.RECONCILE)
    assert not intents(outputs)


def test_a_code_that_nobody_has_seen_halts() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.REFUSED, -99_999)
    assert "-99999" in harness.monitor.halt_reason


def test_a_stop_that_would_trigger_at_once_means_leave_at_market() -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    [out] = intents(harness.reply(STOP, "submit", Outcome.REFUSED, -2021))
    assert (out.purpose, out.order.order_type, out.order.quantity) == (Purpose.EXIT, OrderType.MARKET, 10)
    assert out.order.reduce_only


def test_a_fill_of_a_round_trip_that_had_ended_halts() -> None:
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    harness.canceled(harness.order(STOP, "FILLED", 10, order_id=500))
    harness.note(enter(harness.monitor, harness.time, Side.BUY, 10))
    harness.order(TARGET, "PARTIALLY_FILLED", 2, order_id=501)
    assert harness.monitor.halt_reason == f"{TARGET} filled after round trip 1 had ended and the next had begun"
    assert not harness.monitor.reconciled
    assert harness.monitor.position == -2  # as the account has it
    outputs = (
        harness.order("vt-e-2e1", "FILLED", 10)
        if "vt-e-2e1" in harness.sent
        else harness.order("vt-e-2e", "FILLED", 10)
    )
    [out] = intents(outputs)
    assert (out.purpose, out.order.quantity, out.reason) == (Purpose.EXIT, 8, "LATE_FILL")


def test_what_grows_while_it_is_left_gets_an_exit_for_what_none_takes() -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 6)
    harness.note(leave(harness.monitor, harness.time, "OPERATOR"))
    harness.order("vt-e-1x1", "PARTIALLY_FILLED", 2)
    harness.order(ENTRY, "PARTIALLY_FILLED", 3)  # 7 are held, of which the exit takes 4
    harness.time += RESIZE_EVERY_MS
    [more] = [o for o in intents(harness.monitor.on_time(harness.time)) if o.purpose is Purpose.EXIT]
    assert more.order.quantity == 3


def test_a_stop_refused_for_a_passing_reason_is_sent_again_with_a_new_id_then_given_up() -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    for attempt in (1, 2):
        assert intents(harness.reply(f"vt-e-1s{attempt}", "submit", Outcome.REFUSED, -1008)) == []
        harness.time = harness.monitor.next_due
        [again] = intents(harness.note(harness.monitor.on_time(harness.time)))
        assert again.order.client_order_id == f"vt-e-1s{attempt + 1}"
    [out] = intents(harness.reply("vt-e-1s3", "submit", Outcome.REFUSED, -1008))
    assert (out.purpose, out.reason) == (Purpose.EXIT, "STOP_REFUSED")


def test_a_position_whose_stop_stays_unknown_is_left_at_market_in_time() -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    harness.reply(STOP, "submit", Outcome.UNKNOWN)
    assert harness.monitor.next_due == 1_000 + RESEND_UNANSWERED_AFTER_MS
    harness.time = harness.monitor.next_due
    [second] = intents(harness.note(harness.monitor.on_time(harness.time)))
    assert (second.purpose, second.order.quantity) == (Purpose.STOP, 10)  # covered first, whatever became of the other
    harness.time = harness.monitor.next_due
    assert harness.time == 1_000 + PROTECT_WITHIN_MS
    outputs = harness.note(harness.monitor.on_time(harness.time))
    assert [o.code for o in outputs if isinstance(o, Alert)] == ["STOP_MISSING"]
    assert [(o.purpose, o.order.quantity) for o in intents(outputs)] == [(Purpose.STOP, 10), (Purpose.EXIT, 10)]


def test_leaving_keeps_the_stop_until_the_position_is_gone() -> None:
    harness = Harness().in_position()
    outputs = harness.note(leave(harness.monitor, harness.time, "OPPOSITE_SIGNAL"))
    assert [type(o) for o in outputs] == [OrderIntent]
    assert harness.note(leave(harness.monitor, harness.time, "AGAIN")) == []
    done = harness.order("vt-e-1x1", "FILLED", 10, price=1_005)
    [trip] = [o for o in done if isinstance(o, RoundTrip)]
    assert trip.exit_reason == "OPPOSITE_SIGNAL"
    assert {o.client_order_id for o in done if isinstance(o, CancelOrder)} == {STOP, TARGET}


def test_a_stop_that_is_lost_is_not_sent_again_while_an_exit_covers_the_position() -> None:
    """The moment from which cover is missing is NEVER then, to which nothing may be added: the sum is negative."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.accept("vt-e-1x1")
    harness.order("vt-e-1x1", "NEW")
    assert intents(harness.algo(STOP, "CANCELED")) == []
    harness.time += 10
    assert [o for o in intents(harness.monitor.on_time(harness.time)) if o.purpose is Purpose.STOP] == []
    [again] = intents(harness.order("vt-e-1x1", "EXPIRED"))
    assert (again.purpose, again.order.quantity) == (Purpose.EXIT, 10)


def test_an_exit_whose_rest_expires_is_followed_by_another() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.order("vt-e-1x1", "PARTIALLY_FILLED", 4)
    [again] = intents(harness.order("vt-e-1x1", "EXPIRED"))
    assert (again.order.client_order_id, again.order.quantity) == ("vt-e-1x2", 6)


def test_a_triggered_stop_whose_rest_expires_is_followed_by_a_market_exit() -> None:
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    harness.order(STOP, "PARTIALLY_FILLED", 4, order_id=500)
    [out] = intents(harness.order(STOP, "EXPIRED", order_id=500))
    assert (out.order.quantity, out.reason) == (6, "STOP_REST")


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.REFUSED, -2011), (Outcome.UNKNOWN, -4117), (Outcome.REFUSED, -9999)]
)
def test_a_cancel_that_is_refused_is_looked_up_since_the_order_may_have_filled(outcome: Outcome, code: int) -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.order("vt-e-1x1", "FILLED", 10)
    [lookup] = harness.reply(TARGET, "cancel", outcome, code)
    assert isinstance(lookup, LookupOrder)


@pytest.mark.parametrize(("code", "pause"), [(-1003, 1_000), (-1000, 6_000)])
def test_a_look_up_that_a_limit_held_back_goes_out_soon_after_it(code: int, pause: int) -> None:
    """After 48 s, other errors have it wait an eighth of that."""
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    harness.time = begun = 1_000 + 48_000
    harness.reply(ENTRY, "lookup", Outcome.UNKNOWN, code)
    asked: list[Output] = []
    while not any(isinstance(out, LookupOrder) for out in asked):
        harness.time = harness.monitor.next_due
        asked = harness.note(harness.monitor.on_time(harness.time))
    assert harness.time - begun == pause


def test_orders_of_which_nothing_can_be_learnt_share_one_look_up_a_second() -> None:
    """While nobody answers an exit goes out again and again; each of them was asked for once a second."""
    harness = Harness().in_position()
    outputs, asked, sent = leave(harness.monitor, harness.time, "TIME"), [], 0
    end = harness.time + 30_000
    while outputs or (harness.monitor.next_due or end) < end:
        if not outputs:
            harness.time = max(harness.time, harness.monitor.next_due)
            outputs = harness.monitor.on_time(harness.time)
        replies = []
        for out in harness.note(outputs):
            if isinstance(out, LookupOrder):
                asked.append(harness.time)
                replies += harness.reply(out.client_order_id, "lookup", Outcome.UNKNOWN)
            elif isinstance(out, OrderIntent):
                sent += 1
                replies += harness.reply(out.order.client_order_id, "submit", Outcome.UNKNOWN)
        outputs = replies
    assert sent > 5
    assert len(asked) <= 50  # 30, and a few before it is known of how many nothing can be learnt


def test_a_stale_entry_is_looked_up_and_then_cancelled() -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "NEW")
    asked = []
    while harness.time < 1_000 + 10_000:
        harness.time = harness.monitor.next_due
        asked += harness.note(harness.monitor.on_time(harness.time))
    assert {type(output) for output in asked} == {LookupOrder}  # one that takes liquidity should be over by now
    assert (len(asked), harness.time) == (5, 1_000 + 10_000)
    [cancel] = harness.reply(ENTRY, "lookup", Outcome.ACCEPTED, order=harness.update(ENTRY, "NEW"))
    assert isinstance(cancel, CancelOrder)


def test_a_position_held_too_long_is_left() -> None:
    harness = Harness(max_holding_s=60.0).in_position()
    assert harness.monitor.next_due == 1_000 + 60_000
    harness.time = harness.monitor.next_due
    [out] = intents(harness.note(harness.monitor.on_time(harness.time)))
    assert out.reason == "TIME"


def test_what_outlives_a_run_comes_back_whole() -> None:
    harness = Harness().in_position()
    saved = json.loads(json.dumps(harness.monitor.state()))
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(saved, 60_000)
    assert next_run.position == 10
    assert is_protected(next_run)
    assert {order.id: order.state for order in next_run.open_position.orders} == {  # type: ignore[union-attr]
        ENTRY: OrderState.FILLED,
        STOP: AlgoState.NEW,
        TARGET: AlgoState.NEW,
    }
    # The orders are looked up at once; the stop that then fills ends the round trip of the run before.
    assert next_run.next_due == 60_000
    assert {o.client_order_id for o in next_run.on_time(60_000) if isinstance(o, LookupOrder)} == {STOP, TARGET}
    fill = harness.update(STOP, "FILLED", 10, price=979, order_id=500, realised=-210)
    [trip] = [o for o in next_run.on_order(fill) if isinstance(o, RoundTrip)]
    assert (trip.id, trip.net) == (1, -210)


def test_a_broken_state_is_refused() -> None:
    monitor = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    with pytest.raises(DataError, match="saved state"):
        monitor.restore({"round_trips": 1}, 0)


def test_after_a_restart_what_was_in_flight_is_looked_up() -> None:
    harness = Harness()
    [lookup] = harness.monitor.on_restart(2_000)
    assert isinstance(lookup, LookupOrder)
    assert harness.monitor.orders[ENTRY].state == "UNKNOWN"


def a_snapshot(position: int, **more: Any) -> Snapshot:
    report = PositionReport("BTCUSDT", position, "0")
    return Snapshot(5_000, "BTCUSDT", 0, 0, 0, 0, 5, "isolated", False, report, **more)


def a_summary(position: int = 10, **more: Any) -> AccountSummary:
    return AccountSummary(5_000, "BTCUSDT", 0, position, 5, "isolated", False, **more)


@pytest.mark.parametrize(
    ("summary", "agrees"),
    [
        ({}, True),
        ({"position": 9}, False),
        ({"orders": ()}, False),
        ({"orders": (STOP, TARGET, "android_x1")}, False),
        ({"orders": (STOP,)}, False),
    ],
    ids=["as in our books", "fewer lots", "no stop", "foreign order", "no take-profit"],
)
def test_a_summary_agrees_where_position_and_orders_are_ours(summary: dict[str, Any], agrees: bool) -> None:
    harness = Harness().in_position()
    told = a_summary(**{"orders": (TARGET, STOP)} | summary)
    assert not harness.monitor.agrees(told), "entries wait for a whole reading"
    harness.monitor.on_snapshot(a_snapshot(10, **a_listing(harness, STOP, TARGET)))
    assert harness.monitor.agrees(told) == agrees
    assert harness.monitor.reconciled


def test_a_summary_does_not_agree_while_an_order_is_in_flight() -> None:
    harness = Harness().in_position()
    harness.monitor.on_snapshot(a_snapshot(10, **a_listing(harness, STOP, TARGET)))
    leave(harness.monitor, harness.time, "OPPOSITE_SIGNAL")
    assert not harness.monitor.agrees(a_summary(orders=(STOP, TARGET)))


def test_trading_waits_until_the_exchange_agrees_on_the_position() -> None:
    harness = Harness().in_position()
    told: list[str] = []
    asked: list[int] = []
    for _ in range(3):
        outputs = harness.monitor.on_snapshot(a_snapshot(9))
        told += [o.code for o in outputs if isinstance(o, Alert)]
        asked.append(harness.monitor.next_due - 5_000)
        assert not harness.monitor.reconciled
    # One reading may fall between two fills; of the second a person is told, once. It is asked more and more seldom.
    assert told == ["POSITION_MISMATCH"]
    assert asked == [1_000, 2_000, 4_000]
    [again] = [o for o in harness.monitor.on_time(9_000) if isinstance(o, TakeSnapshot)]
    assert again.reason == "NOT_AGREED"
    harness.monitor.on_snapshot(a_snapshot(10))
    assert harness.monitor.reconciled
    assert not [o for o in harness.monitor.on_time(90_000) if isinstance(o, TakeSnapshot)]


FORCED_CLOSES = [
    ("autoclose-1795", "LIQUIDATION", "FORCED_ORDER"),
    ("adl_autoclose", "ADL", "FORCED_ORDER"),
    ("settlement_autoclose-17", "SETTLEMENT", "FORCED_ORDER"),
    ("autoclose-", "LIQUIDATION", "FORCED_ORDER"),
]


@pytest.mark.parametrize(("name", "reason", "code"), FORCED_CLOSES)
def test_an_exchange_that_closes_the_position_ends_the_round_trip_and_a_person_must_look(
    name: str, reason: str, code: str
) -> None:
    harness = Harness().in_position()
    fill = harness.update(STOP, "FILLED", 10, price=960, order_id=9_999, client_order_id=name, realised=-400)
    outputs = harness.monitor.on_order(fill)
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert (trip.exit_reason, trip.realised, trip.quantity) == (reason, -400, 10)
    assert [o.code for o in outputs if isinstance(o, Alert)] == [code]
    assert {o.client_order_id for o in outputs if isinstance(o, CancelOrder)} == {STOP, TARGET}  # ours, nobody else's
    assert harness.monitor.position == 0
    assert name in harness.monitor.halt_reason
    assert harness.monitor.on_order(fill) == []  # counted once


def test_a_forced_close_of_more_than_ours_closes_what_is_ours() -> None:
    """Somebody else had added five lots; the exchange closes fifteen in one fill, and books one profit for them."""
    harness = Harness().in_position()
    fill = harness.update(STOP, "FILLED", 15, price=960, order_id=9_999, client_order_id="adl_autoclose", realised=-600)
    [trip] = [o for o in harness.monitor.on_order(fill) if isinstance(o, RoundTrip)]
    assert (trip.exit_reason, trip.quantity, trip.realised) == ("ADL", 10, -600)
    assert harness.monitor.position == 0


@pytest.mark.parametrize("position", [0, -1, -10], ids=["flat", "beyond", "reversed in the app"])
def test_a_listed_close_of_more_than_ours_closes_what_is_ours(position: int) -> None:
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    added, closed = by_hand((1_001, BUY, 5), (1_002, SELL, 15 - position))
    outputs = harness.monitor.on_snapshot(a_snapshot(position, fills=(*own, added, closed), **listing))
    assert [o.quantity for o in outputs if isinstance(o, RoundTrip)] == [10]
    assert harness.monitor.position == 0


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.integers(-15, 15).filter(bool), min_size=1, max_size=6),
    are_read=st.lists(st.booleans(), min_size=6, max_size=6),
    side=st.sampled_from(Side),
)
def test_what_others_trade_closes_theirs_first_then_ours(moves: list[int], are_read: list[bool], side: Side) -> None:
    """Each reading leaves us what we had, or what the account has on our side where that is less."""
    harness = Harness(side)
    harness.trade_ids = itertools.count(1_000)
    harness.monitor.on_snapshot(a_snapshot(0))
    harness.in_position()
    trades, ours, held = list(by_hand((1_000, side, 10))), 10, 10
    harness.monitor.on_snapshot(a_snapshot(side * 10, fills=tuple(trades), **a_listing(harness, STOP, TARGET)))
    for number, (move, is_read) in enumerate(zip(moves, are_read, strict=False)):
        trades += by_hand((1_001 + number, Side(side if move > 0 else -side), abs(move)))
        held += move
        if is_read or number + 1 == len(moves):
            listing = a_listing(harness, STOP, TARGET) if ours else {}
            ours = max(min(ours, held), 0)
            harness.monitor.on_snapshot(a_snapshot(side * held, fills=tuple(trades), **listing))
            assert harness.monitor.position == side * ours


def test_what_an_order_of_somebody_else_fills_beyond_our_position_is_not_ours() -> None:
    """It has closed a part of ours, and goes on: it ends our position and opens one of its owner."""
    harness, earlier = in_hand_after()
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    theirs = [replace(fill, order_id=77) for fill in by_hand(*((1_001 + number, SELL, 4) for number in range(4)))]
    harness.monitor.on_snapshot(a_snapshot(6, fills=(*own, theirs[0]), **listing))
    assert harness.monitor.position == 6
    for fill in theirs[1:]:
        assert intents(harness.note(harness.monitor.on_order(replace(fill, client_order_id="web_abc")))) == []
    outputs = harness.monitor.on_snapshot(a_snapshot(-6, fills=(*own, *theirs), **listing))
    assert [trip.quantity for trip in outputs if isinstance(trip, RoundTrip)] == [10]
    harness.canceled(outputs)
    assert (harness.monitor.position, harness.monitor.in_round_trip, intents(outputs)) == (0, False, [])


@pytest.mark.parametrize(("sold", "left"), [(1_001, 8), (900, 10)], ids=["after our entry", "before it"])
def test_a_trade_that_adds_lots_closes_none_of_ours(sold: int, left: int) -> None:
    """Whatever stands before it; a trade from before our entry, told late, is none of ours."""
    harness, earlier = in_hand_after()
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    trades = by_hand((sold, SELL, 4), (1_002, BUY, 2))
    harness.monitor.on_snapshot(a_snapshot(8, fills=(*earlier, *own, *trades), **listing))
    assert harness.monitor.position == left


def test_a_deleveraging_beside_lots_of_somebody_else_closes_theirs_first() -> None:
    """What of it was ours only the account tells."""
    harness, earlier = in_hand_after()
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    added, forced = by_hand((1_001, BUY, 5), (1_002, SELL, 7))
    harness.monitor.on_snapshot(a_snapshot(15, fills=(*own, added), **listing))
    harness.monitor.on_order(replace(forced, client_order_id="adl_autoclose", status="FILLED"))
    assert harness.monitor.position == 10
    harness.monitor.on_snapshot(a_snapshot(8, fills=(*own, added, forced), **listing))
    assert harness.monitor.position == 8


@pytest.mark.parametrize(("name", "is_gone"), [("web_abc", True), ("", False)])
def test_lots_that_an_order_of_somebody_else_explains_speak_no_more_for_a_stop(name: str, is_gone: bool) -> None:
    """One reading with the name of their order is enough; without it the lots may be ours."""
    harness, earlier = in_hand_after()
    own = by_hand((1_000, BUY, 10))
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **a_listing(harness, STOP, TARGET)))
    [added] = by_hand((1_001, BUY, 4))
    shown = a_snapshot(14, fills=(*own, replace(added, client_order_id=name)), **a_listing(harness, TARGET))
    harness.monitor.on_snapshot(replace(shown, time=20_000))
    for harness.time in range(21_000, 25_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.orders[STOP].state == ("GONE" if is_gone else "NEW")


def a_listing(harness: Harness, *names: str) -> dict[str, Any]:
    """The conditional orders of a snapshot that lists these."""
    rows = [
        AlgoUpdate(
            5_000, "BTCUSDT", name, 7, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, harness.sent[name].order.price
        )
        for name in names
    ]
    return {"algo_orders": tuple(rows)}


def test_a_position_that_a_person_closed_is_explained_by_its_trade() -> None:
    harness = Harness().in_position()
    fill = harness.update(STOP, "FILLED", 10, price=960, order_id=9_999, client_order_id="web_abc", realised=-400)
    [alert] = harness.monitor.on_order(fill)  # nothing is known yet of whose it is: the account is asked
    assert isinstance(alert, Alert)
    assert harness.monitor.next_due == 2_000
    told = replace(fill, client_order_id="")
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=(told,), **a_listing(harness, STOP, TARGET)))
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert (trip.exit_reason, trip.realised) == ("CLOSED_ELSEWHERE", -400)
    assert {o.client_order_id for o in outputs if isinstance(o, CancelOrder)} == {STOP, TARGET}
    assert harness.monitor.reconciled
    assert "9999" in harness.monitor.halt_reason


STRANGER = 9_000
"""Number of the first order of somebody else's."""


def by_hand(*trades: tuple[int, Side, int], time: int = 5_000) -> tuple[OrderUpdate, ...]:
    """What a person traded on the account, as a snapshot lists it: trade id, side, lots."""
    rows = [
        OrderUpdate(
            *(
                time,
                "BTCUSDT",
                "",
                STRANGER + trade_id,
                side,
                OrderType.MARKET,
                "PARTIALLY_FILLED",
                "TRADE",
                lots,
                lots,
            ),
            trade_id=trade_id,
            last_quantity=lots,
            last_price=1_000,
        )
        for trade_id, side, lots in trades
    ]
    return tuple(rows)


def in_hand_after(*trades: tuple[int, Side, int]) -> tuple[Harness, tuple[OrderUpdate, ...]]:
    """A protected position of 10 lots, opened by trades 1000 and later, on an account that had traded by hand before.

    The first snapshot found it flat, with the trades that are given.
    """
    harness, earlier = Harness(), by_hand(*trades)
    harness.trade_ids = itertools.count(1_000)
    harness.monitor.on_snapshot(a_snapshot(0, fills=earlier))
    harness.in_position()
    return harness, earlier


def assert_in_hand_and_protected(
    harness: Harness, outputs: list[Output], monitor: OrderMonitor | None = None, *, reconciled: bool = True
) -> None:
    monitor = monitor or harness.monitor
    assert not [o for o in outputs if isinstance(o, CancelOrder | RoundTrip | OrderIntent)]
    assert (monitor.position, monitor.reconciled, is_protected(monitor)) == (10, reconciled, True)


BUY, SELL = Side.BUY, Side.SELL
ROUND_TRIP = ((11, BUY, 10), (12, SELL, 10))


def test_trades_by_hand_before_the_entry_are_no_exits_of_it() -> None:
    """Fault case B1, the monitor's sequence: the answers list them all again."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    fills = (*earlier, *by_hand((1_000, BUY, 10)))
    outputs = harness.monitor.on_snapshot(a_snapshot(10, fills=fills, **a_listing(harness, STOP, TARGET)))
    assert_in_hand_and_protected(harness, outputs)
    assert not harness.monitor.halt_reason


def test_an_agreeing_snapshot_sets_the_watermark_flat_or_not() -> None:
    """Fault case B1: the highest trade id that it lists, its own and those of others."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    assert harness.monitor.agreed_trade_id == 0  # an entry was on its way: not every fill of ours could be known
    fills = (*earlier, *by_hand((1_000, BUY, 10), (1_001, BUY, 3), (1_002, SELL, 3)))
    harness.monitor.on_snapshot(a_snapshot(10, fills=fills, **a_listing(harness, STOP, TARGET)))
    assert harness.monitor.agreed_trade_id == 1_002
    idle = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "e")
    idle.on_snapshot(a_snapshot(0, fills=earlier))
    assert idle.agreed_trade_id == 12
    idle.on_snapshot(a_snapshot(4, fills=by_hand((13, BUY, 4))))
    assert idle.agreed_trade_id == 12  # does not agree


def test_a_round_trip_by_hand_inside_the_position_leaves_it_in_hand() -> None:
    """Fault case B1: the position that the exchange shows has the last word on whose trades closed it."""
    harness, _ = in_hand_after(*ROUND_TRIP)
    outputs = harness.monitor.on_snapshot(
        a_snapshot(10, fills=by_hand((1_001, SELL, 10), (1_002, BUY, 10)), **a_listing(harness, STOP, TARGET))
    )
    assert_in_hand_and_protected(harness, outputs)
    later = by_hand((1_001, SELL, 10), (1_002, BUY, 10))
    outputs = harness.monitor.on_snapshot(a_snapshot(10, fills=later, **a_listing(harness, STOP, TARGET)))
    assert_in_hand_and_protected(harness, outputs)


def test_trades_between_two_runs_are_no_exits_of_the_position_that_was_kept() -> None:
    """Fault case B1: the watermark, and what was counted, outlive the run."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own = by_hand((1_000, BUY, 10))
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **a_listing(harness, STOP, TARGET)))
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(json.loads(json.dumps(harness.monitor.state())), 60_000)
    assert next_run.agreed_trade_id == 1_000
    between = by_hand((1_001, SELL, 10), (1_002, BUY, 10), time=60_000)
    listing = a_listing(harness, STOP, TARGET)
    outputs = next_run.on_snapshot(a_snapshot(10, fills=between, **listing))
    assert_in_hand_and_protected(harness, outputs, next_run)
    assert next_run.agreed_trade_id == 1_002
    # What a person closes after that is told by its own trade, and no earlier one.
    closed = by_hand((1_003, SELL, 10), time=61_000)
    outputs = next_run.on_snapshot(a_snapshot(0, fills=(*between, *closed), **listing))
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert trip.exit_trade_ids == (1_003,)


def test_trades_of_a_killed_run_before_its_position_are_no_exits_of_it() -> None:
    """Fault case B1: it had closed a trade and opened the next, and no snapshot came between."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    killed = json.loads(json.dumps(harness.monitor.state()))
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(killed, 60_000)
    before = (*earlier, *by_hand((998, BUY, 10), (999, SELL, 10), (1_000, BUY, 10)))
    outputs = next_run.on_snapshot(a_snapshot(10, fills=before, **a_listing(harness, STOP, TARGET)))
    assert_in_hand_and_protected(harness, outputs, next_run)
    assert next_run.agreed_trade_id == 1_000


def test_trades_of_one_millisecond_are_told_apart_by_their_ids() -> None:
    """Fault case B1: a sale just before the entry's first fill, and one just after it."""
    harness, _ = in_hand_after(*ROUND_TRIP)
    harness.trade_ids = itertools.count(1_002)
    listing = a_listing(harness, STOP, TARGET)
    before, after = by_hand((999, SELL, 4), time=1_000), by_hand((1_001, SELL, 4), time=1_000)
    outputs = harness.monitor.on_snapshot(a_snapshot(6, fills=before, **listing))
    assert not [o for o in outputs if isinstance(o, CancelOrder)]
    assert harness.monitor.position == 10
    harness.note(harness.monitor.on_snapshot(a_snapshot(6, fills=(*before, *after), **listing)))
    assert harness.monitor.position == 6


def test_a_late_fill_of_ours_below_the_watermark_is_counted() -> None:
    """Fault case B1, the other way round: the watermark is for the trades of others."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    harness.monitor.on_snapshot(
        a_snapshot(
            10,
            fills=(*earlier, *by_hand((1_000, BUY, 10), (1_050, BUY, 2), (1_051, SELL, 2))),
            **a_listing(harness, STOP, TARGET),
        )
    )
    assert harness.monitor.agreed_trade_id == 1_051
    [trip] = [
        o for o in harness.order(STOP, "FILLED", 10, 979, trade_id=1_040, order_id=500) if isinstance(o, RoundTrip)
    ]
    assert trip.exit_trade_ids == (1_040,)


def test_the_watermark_waits_for_a_fill_of_ours_that_was_only_told_of() -> None:
    """Fault case B1: the next answer must still list it."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    harness.order(STOP, "PARTIALLY_FILLED", order_id=500, filled=4)
    bought = by_hand((1_005, BUY, 4))  # by hand, so that the position looks as it should
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *bought), **a_listing(harness, STOP, TARGET)))
    assert harness.monitor.agreed_trade_id == 0


def test_a_position_read_before_a_trade_that_is_listed_does_not_hide_that_trade() -> None:
    """Fault case B1: one account, read by several requests. The sale is seen, the position is from before it."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    sold = by_hand((1_001, SELL, 10))
    outputs = harness.monitor.on_snapshot(a_snapshot(10, fills=sold, **listing))
    assert_in_hand_and_protected(harness, outputs, reconciled=False)
    assert harness.monitor.agreed_trade_id == 1_000
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=sold, **listing))
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert trip.exit_trade_ids == (1_001,)


def after_agreement() -> tuple[Harness, dict[str, Any]]:
    """A protected position of 10 lots that a snapshot has agreed with, and what snapshots list of it."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    listing = a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *by_hand((1_000, BUY, 10))), **listing))
    assert harness.monitor.reconciled
    return harness, listing


def test_a_foreign_fill_that_the_account_does_not_show_yet_lets_nothing_agree() -> None:
    """Seed 138: a fill by hand was told by the stream; lists and position were read from two seconds before it."""
    harness, listing = after_agreement()
    [bought] = by_hand((1_001, BUY, 3))
    harness.monitor.on_order(replace(bought, client_order_id="web_1"))
    for lots, fills in ((10, ()), (10, (bought,)), (13, (bought,))):
        harness.monitor.on_snapshot(a_snapshot(lots, fills=fills, **listing))
        assert not harness.monitor.reconciled
        assert harness.monitor.next_due < NEVER  # it is asked again
    harness.monitor.on_snapshot(a_snapshot(10, fills=by_hand((1_001, BUY, 3), (1_002, SELL, 3)), **listing))
    assert harness.monitor.reconciled


def test_a_position_that_no_trade_leads_to_is_believed_in_the_end() -> None:
    harness, listing = after_agreement()
    believed = []
    for _ in range(BEHIND_AT_MOST + 1):
        harness.monitor.on_snapshot(a_snapshot(10, fills=by_hand((1_001, BUY, 3)), **listing))
        believed.append(harness.monitor.reconciled)
    assert believed == [False] * (BEHIND_AT_MOST - 1) + [True, True]


def test_an_answer_that_never_adds_up_still_raises_the_watermark_the_next_time() -> None:
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    for agreed in (*[1_000] * (BEHIND_AT_MOST - 1), 1_001):
        harness.monitor.on_snapshot(a_snapshot(10, fills=by_hand((1_001, SELL, 3)), **listing))
        assert harness.monitor.agreed_trade_id == agreed


def test_stop_and_target_stay_while_the_exchange_shows_the_position() -> None:
    """Fault case B1: the stop has filled, and somebody has bought again."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    harness.algo(STOP, "TRIGGERED", order_id=500)
    filled = replace(by_hand((1_001, SELL, 10))[0], order_id=500)
    fills = (*earlier, *by_hand((1_000, BUY, 10)), filled, *by_hand((1_002, BUY, 10)))
    outputs = harness.monitor.on_snapshot(a_snapshot(10, fills=fills, **a_listing(harness, TARGET)))
    assert not [o for o in outputs if isinstance(o, CancelOrder | RoundTrip)]
    assert harness.monitor.next_due < NEVER  # it is asked again
    assert not [o for o in harness.monitor.on_time(6_000) if isinstance(o, CancelOrder | RoundTrip)]
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=fills, **a_listing(harness, TARGET)))
    assert [o.client_order_id for o in outputs if isinstance(o, CancelOrder)] == [TARGET]
    assert [o.exit_reason for o in outputs if isinstance(o, RoundTrip)] == ["STOP"]


@pytest.mark.parametrize("side", [BUY, SELL])
def test_the_target_stays_while_the_exchange_shows_the_position_long_or_short(side: Side) -> None:
    """Fault case B1: the stop has filled, somebody has opened again, and the fill is told twice."""
    harness = Harness(side)
    harness.in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    filled = replace(by_hand((2, side.opposite, 10))[0], order_id=500, status="FILLED")
    shown = side * 10
    outputs = harness.monitor.on_snapshot(
        a_snapshot(shown, fills=(filled, *by_hand((3, side, 10))), **a_listing(harness, TARGET))
    )
    outputs += harness.monitor.on_order(filled)
    outputs += harness.monitor.on_time(6_000)
    assert not [o for o in outputs if isinstance(o, CancelOrder | RoundTrip)]
    assert harness.monitor.position == 0


def test_a_flat_account_ends_the_round_trip_though_no_order_is_listed() -> None:
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    filled = replace(by_hand((2, SELL, 10))[0], order_id=500)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(filled, *by_hand((3, BUY, 10))), **a_listing(harness, TARGET)))
    outputs = harness.monitor.on_snapshot(a_snapshot(0))
    assert [o.exit_reason for o in outputs if isinstance(o, RoundTrip)] == ["STOP"]


def test_an_exit_that_the_run_before_has_counted_is_not_counted_again() -> None:
    """Fault case B1: a snapshot after a restart lists once more the trades that closed a part of the position."""
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    sold = replace(by_hand((2, SELL, 4))[0], order_id=500)
    harness.monitor.on_order(sold)
    assert harness.monitor.position == 6
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(json.loads(json.dumps(harness.monitor.state())), 60_000)
    next_run.on_snapshot(a_snapshot(6, fills=(*by_hand((1, BUY, 10)), sold), **a_listing(harness, TARGET)))
    assert (next_run.position, next_run.reconciled) == (6, True)


def test_a_snapshot_may_bring_the_fill_of_the_entry_and_a_strangers_close_together() -> None:
    """Fault case B1: what opened the position is known by the same answer."""
    harness = Harness()
    harness.order(ENTRY, "NEW")
    own, closed = harness.update(ENTRY, "PARTIALLY_FILLED", 4, client_order_id=""), by_hand((2, SELL, 4))
    rest = harness.update(ENTRY, "PARTIALLY_FILLED")
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=(own, *closed), orders=(rest,)))
    assert [o.code for o in outputs if isinstance(o, Alert)] == ["FOREIGN_ORDER"]
    assert (harness.monitor.position, harness.monitor.reconciled) == (0, True)


def test_an_answer_that_lags_behind_an_earlier_one_takes_nothing_from_the_watermark() -> None:
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    sold = ((1_001, SELL, 3), (1_002, SELL, 2))
    for trades in (*[sold[:1]] * BEHIND_AT_MOST, (), sold):
        harness.monitor.on_snapshot(a_snapshot(10, fills=by_hand(*trades), **listing))
    assert harness.monitor.agreed_trade_id == 1_001


def test_an_exit_that_only_a_snapshot_has_ends_the_round_trip_though_others_hold_more() -> None:
    """Its fill explains the lots that are left: they are somebody else's, and our stop would sell them."""
    harness, earlier = in_hand_after(*ROUND_TRIP)
    own, listing = by_hand((1_000, BUY, 10)), a_listing(harness, STOP, TARGET)
    harness.monitor.on_snapshot(a_snapshot(10, fills=(*earlier, *own), **listing))
    [out] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    name = out.order.client_order_id
    harness.order(name, "NEW")
    added, sold = by_hand((1_001, BUY, 5), (1_002, SELL, 10))
    outputs = harness.monitor.on_snapshot(
        a_snapshot(5, fills=(*own, added, replace(sold, client_order_id=name)), **listing)
    )
    assert {o.client_order_id for o in outputs if isinstance(o, CancelOrder)} == {STOP, TARGET}


def test_a_forced_order_that_is_older_than_the_position_is_none_of_its_exits() -> None:
    """Fault case B1: its event is told once more after a redial."""
    harness, _ = in_hand_after(*ROUND_TRIP)
    old = replace(by_hand((900, SELL, 10))[0], client_order_id="adl_autoclose", status="FILLED")
    outputs = harness.monitor.on_order(old)
    assert [type(o) for o in outputs] == [Alert]
    assert harness.monitor.position == 10


def test_a_trade_of_what_our_stop_became_is_not_taken_for_a_strangers() -> None:
    """Its news was lost: the snapshot has the trade, of a number never seen, and the stop is not listed."""
    harness = Harness().in_position()
    fill = harness.update(STOP, "FILLED", 10, price=978, order_id=500, client_order_id="", realised=-220)
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=(fill,), **a_listing(harness, TARGET)))
    assert [o.client_order_id for o in outputs if isinstance(o, LookupOrder)] == [STOP]
    assert harness.monitor.position == 10
    assert not harness.monitor.halt_reason
    found = AlgoUpdate(5_000, "BTCUSDT", STOP, 7, Side.SELL, OrderType.STOP_MARKET, "TRIGGERED", 10, 980, order_id=500)
    harness.reply(STOP, "lookup", Outcome.ACCEPTED, algo_order=found)
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=(fill,), **a_listing(harness, TARGET)))
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert (trip.exit_reason, trip.realised) == ("STOP", -220)


def test_a_stranger_that_adds_to_the_position_is_not_taken_for_ours() -> None:
    harness = Harness().in_position()
    more = harness.update(ENTRY, "FILLED", 3, order_id=9_999, client_order_id="web_abc")
    beyond = harness.update(STOP, "FILLED", 11, order_id=9_998, client_order_id="web_abd")
    for update in (more, beyond):
        assert [type(o) for o in harness.monitor.on_order(update)] == [Alert]
        harness.monitor.on_snapshot(a_snapshot(13, fills=(update,), **a_listing(harness, STOP, TARGET)))
    assert harness.monitor.position == 10
    assert not harness.monitor.reconciled


def test_a_stop_by_the_last_price_is_replaced_once_the_fills_are_counted() -> None:
    """Bought at 1,000 with a stop 50 away; 940 was traded when a look-up told of the fill: 890 lost twice as much."""
    harness = Harness()
    harness.monitor._row["last_price"] = 940
    harness.order(ENTRY, "FILLED", filled=10)
    [guessed] = [out for out in intents(harness.note(harness.monitor.on_time(3_000))) if out.purpose is Purpose.STOP]
    distance = int(harness.monitor._position_row["stop_distance"])
    assert (guessed.order.trigger_price, guessed.reason) == (940 - distance, "LAST_PRICE")
    harness.algo(guessed.order.client_order_id, "NEW")
    fill = harness.update(ENTRY, "FILLED", 10, filled=10)
    sent = intents(harness.note(harness.monitor.on_snapshot(a_snapshot(10, fills=(fill,)))))
    [stop] = [out for out in sent if out.purpose is Purpose.STOP]
    assert (stop.order.trigger_price, stop.order.quantity, stop.reason) == (1_000 - distance, 10, "RESIZE")
    outputs = harness.note(harness.algo(stop.order.client_order_id, "NEW"))
    assert [out.client_order_id for out in outputs if isinstance(out, CancelOrder)] == [guessed.order.client_order_id]


@pytest.mark.parametrize("lots", [1, 4])
def test_a_position_is_not_protected_while_a_fill_of_it_is_only_told_of(lots: int) -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 10 - lots)
    harness.algo(STOP, "NEW")
    harness.order(ENTRY, "CANCELED", filled=10)  # these lots more, whose trades are still to come
    harness.order(ENTRY, "PARTIALLY_FILLED", filled=10 - lots)  # older news takes nothing of that back
    assert harness.monitor.position == 10 - lots
    assert not is_protected(harness.monitor)
    outputs = harness.note(harness.monitor.on_time(3_000))
    [ask] = [o for o in outputs if isinstance(o, TakeSnapshot)]
    assert ask.reason == "FILL_MISSING"
    assert [stop.order.quantity for stop in intents(outputs)] == [10]  # what is told of is covered, counted or not
    harness.algo("vt-e-1s2", "NEW")
    assert not is_protected(harness.monitor)
    harness.note(
        harness.monitor.on_snapshot(a_snapshot(10, fills=(harness.update(ENTRY, "CANCELED", lots, filled=10),)))
    )
    assert is_protected(harness.monitor)


def test_orders_that_the_exchange_does_not_list_are_looked_up() -> None:
    harness = Harness().in_position()
    outputs = harness.monitor.on_snapshot(a_snapshot(10))
    assert {o.client_order_id for o in outputs if isinstance(o, LookupOrder)} == {STOP, TARGET}


def test_an_order_that_is_still_being_sent_is_not_looked_up() -> None:
    harness = Harness()
    outputs = harness.monitor.on_snapshot(a_snapshot(0))
    assert not [o for o in outputs if isinstance(o, LookupOrder)]


def test_answers_of_absence_count_only_without_one_of_presence_between_them() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    harness.time = 60_000
    for is_there in (False, True, False):
        if is_there:
            harness.reply(ENTRY, "lookup", Outcome.ACCEPTED, order=harness.update(ENTRY, "NEW"))
        else:
            harness.reply(ENTRY, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.in_round_trip
    assert harness.monitor.orders[ENTRY].state != "NOT_PLACED"


def test_a_fill_that_only_the_snapshot_knows_is_counted() -> None:
    harness = Harness()
    harness.order(ENTRY, "NEW")
    fill = harness.update(ENTRY, "FILLED", 10, client_order_id="")
    harness.note(harness.monitor.on_snapshot(a_snapshot(10, fills=(fill,))))
    assert harness.monitor.position == 10
    assert STOP in harness.sent


def test_somebody_elses_order_stops_trading() -> None:
    harness = Harness()
    harness.monitor.reconciled = True
    foreign = harness.update(ENTRY, "FILLED", 1, order_id=9_999, client_order_id="web_abc")
    [alert] = harness.monitor.on_order(foreign)
    assert isinstance(alert, Alert)
    assert alert.code == "FOREIGN_ORDER"
    assert not harness.monitor.reconciled
    assert harness.monitor.position == 0


def assert_the_time_moves_on(harness: Harness, times: int = 12) -> None:
    """What is due is done, or is due later: a timer that brings nothing is never due again at its own time."""
    for _ in range(times):
        due = harness.monitor.next_due
        if due == NEVER:
            return
        harness.time = max(harness.time, due)
        outputs = harness.note(harness.monitor.on_time(harness.time))
        assert outputs or harness.monitor.next_due > harness.time


def test_lots_that_fill_after_their_stop_has_are_left_at_once() -> None:
    """Fault case A7: the stop's order fills, then the entry fills more; the stop's own news never comes."""
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "PARTIALLY_FILLED", 4)
    harness.accept(STOP)
    harness.algo(STOP, "NEW")
    harness.order(STOP, "FILLED", 4, price=979, order_id=500)
    [out] = [o for o in intents(harness.order(ENTRY, "FILLED", 6)) if o.purpose is Purpose.EXIT]
    assert (out.order.quantity, out.order.reduce_only) == (6, True)
    assert harness.monitor.next_due > harness.time
    assert_the_time_moves_on(harness)


FACTS_OF_ENTRY = [("NEW", 0), ("PARTIALLY_FILLED", 4), ("FILLED", 6), ("CANCELED", 0), ("EXPIRED", 0), ("REJECTED", 0)]
FACTS_OF_STOP = [
    *[("algo", status) for status in ("NEW", "TRIGGERING", "TRIGGERED", "FINISHED", "CANCELED", "EXPIRED", "REJECTED")],
    *[("child", status) for status in ("NEW", "PARTIALLY_FILLED", "FILLED", "EXPIRED", "CANCELED")],
    *[("submit", outcome) for outcome in Outcome],
    *[("lookup", outcome) for outcome in Outcome if outcome is not Outcome.ACCEPTED],
]


@pytest.mark.parametrize("max_holding_s", [0.0, 3.0004])
@pytest.mark.parametrize("resting", [False, True])
def test_after_any_two_facts_of_an_order_in_both_orders_time_moves_on(resting: bool, max_holding_s: float) -> None:
    """Fault case A7: whatever is told of the entry and of its stop, in whatever order, no timer stands still."""
    told = [("entry", *fact) for fact in FACTS_OF_ENTRY] + [("stop", *fact) for fact in FACTS_OF_STOP]
    for facts in itertools.permutations(told, 2):
        harness = Harness(max_holding_s=max_holding_s)
        harness.order(ENTRY, "PARTIALLY_FILLED", 4)
        if resting:
            harness.algo(STOP, "NEW")
        for whose, kind, what in facts:
            harness.time += 1
            if whose == "entry":
                harness.order(ENTRY, kind, what)
            elif kind == "algo":
                harness.algo(STOP, what, order_id=0 if what in ("NEW", "REJECTED") else 500)
            elif kind == "child":
                lots = {"PARTIALLY_FILLED": 2, "FILLED": 4}.get(what, 0)
                harness.order(STOP, what, lots, 979, order_id=500)
            else:
                harness.reply(STOP, kind, what, -2013 if kind == "lookup" else -1008)
            assert_the_time_moves_on(harness, times=1)
        assert_the_time_moves_on(harness)


def test_an_idle_monitor_waits_for_nothing() -> None:
    monitor = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "e")
    assert monitor.next_due == NEVER
    assert monitor.on_time(1) == []


def entered_after(*trades: tuple[int, Side, int]) -> Harness:
    """A protected position of 10 lots, opened by trade 1000, after a snapshot of a flat account with these trades."""
    harness = Harness()
    harness.monitor = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "e")
    harness.monitor.on_snapshot(a_snapshot(0, fills=by_hand(*trades)))
    harness.sent.clear()
    harness.note(enter(harness.monitor, 1000, BUY, 10, take_profit_distance=30, bar=4))
    harness.trade_ids = itertools.count(1000)
    harness.in_position()
    return harness


def test_a_round_trip_by_hand_that_the_reading_straddles_closes_nothing() -> None:
    """Fault case B1, sibling: the position was read between a person's two trades, and the trades after both."""
    harness, _ = in_hand_after()
    harness.monitor.on_snapshot(a_snapshot(10, fills=by_hand((1000, BUY, 10)), **a_listing(harness, STOP, TARGET)))
    trades = by_hand((1001, SELL, 10), (1002, BUY, 10))
    outputs = harness.monitor.on_snapshot(a_snapshot(0, fills=trades, **a_listing(harness, STOP, TARGET)))
    assert not [each for each in outputs if isinstance(each, CancelOrder | RoundTrip)]
    assert (harness.monitor.position, is_protected(harness.monitor), harness.monitor.reconciled) == (10, True, False)
    harness.monitor.on_snapshot(a_snapshot(10, fills=trades, **a_listing(harness, STOP, TARGET)))
    assert (harness.monitor.position, harness.monitor.reconciled) == (10, True)


def test_a_position_that_was_read_before_the_entry_filled_closes_nothing() -> None:
    """Fault case B1, sibling: 0 lots are shown, and behind the entry a person's round trip is listed."""
    harness = entered_after((11, BUY, 1), (12, SELL, 1))
    trades = by_hand((1000, BUY, 10), (1001, SELL, 10), (1002, BUY, 10))
    harness.monitor.on_snapshot(a_snapshot(0, fills=trades, **a_listing(harness, STOP, TARGET)))
    assert (harness.monitor.position, is_protected(harness.monitor)) == (10, True)


@pytest.mark.parametrize("told_by", ["snapshot", "stream"])
def test_an_exit_that_is_listed_with_a_position_read_before_it_is_counted_later(told_by: str) -> None:
    """An account without any trade before agrees too: its watermark is 0, and what comes after counts."""
    harness = entered_after()
    monitor = harness.monitor
    trades = by_hand((1000, BUY, 10), (1001, SELL, 10))
    monitor.on_snapshot(a_snapshot(10, fills=trades, **a_listing(harness, STOP, TARGET)))
    assert monitor.position == 10
    if told_by == "snapshot":
        monitor.on_snapshot(a_snapshot(0, fills=trades, **a_listing(harness, STOP, TARGET)))
    else:
        forced = replace(trades[1], client_order_id="autoclose-1", order_id=900, status="FILLED")
        monitor.on_order(forced)
    assert monitor.position == 0


def test_lots_that_a_person_added_do_not_keep_our_round_trip_open() -> None:
    """The stop sold our 10; the 3 that the exchange still shows are explained by the person's trade."""
    harness, _ = in_hand_after()
    monitor = harness.monitor
    monitor.on_snapshot(a_snapshot(10, fills=by_hand((1000, BUY, 10)), **a_listing(harness, STOP, TARGET)))
    harness.algo(STOP, "TRIGGERED", order_id=500)
    child = replace(by_hand((1002, SELL, 10))[0], order_id=500)
    trades = (*by_hand((1001, BUY, 3)), child)
    outputs = monitor.on_snapshot(a_snapshot(3, fills=trades, **a_listing(harness, TARGET)))
    assert [each.net for each in outputs if isinstance(each, RoundTrip)]
    assert TARGET in [each.client_order_id for each in outputs if isinstance(each, CancelOrder)]
    assert not monitor.reconciled


def test_a_refusal_that_the_course_of_things_brings_is_explained() -> None:
    """The last alert of the demo was a bare -2022, though nothing was wrong."""
    said = refused_text("vt-1x1", -2022, "ReduceOnly Order is rejected.")
    assert said.startswith("vt-1x1 refused with -2022: ReduceOnly Order is rejected. (")
    assert "another order closed the position first" in said
    assert (
        refused_text("vt-1e1", -2019, "Margin is insufficient.") == "vt-1e1 refused with -2019: Margin is insufficient."
    )
    assert all(REACTIONS[code] in (Reaction.CLOSE, Reaction.RECONCILE) for code in EXPECTED_REFUSALS), (
        "the others are news"
    )
