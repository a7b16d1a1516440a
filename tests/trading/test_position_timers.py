"""Account readings and look-ups that are due: each says why it was wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.by_hand import cancel_entry, leave
from test_core import a_core, a_position, a_snapshot, a_stop
from test_oms import ENTRY, STOP, TARGET, Harness, a_listing, intents
from test_oms import a_snapshot as what_is_held

from voltrade.model import (
    AlgoUpdate,
    CancelOrder,
    LookupOrder,
    OrderIntent,
    OrderType,
    Outcome,
    Output,
    Purpose,
    RoundTrip,
    Side,
    TakeSnapshot,
    Timer,
    money,
)
from voltrade.orders.order_states import PROTECT_WITHIN_MS


def next_of(kind: type[Output], harness: Harness) -> Any:
    """Do what is due until a command of this kind follows; return it."""
    for _ in range(20):
        harness.time = harness.monitor.next_due
        found = [each for each in harness.note(harness.monitor.on_time(harness.time)) if isinstance(each, kind)]
        if found:
            return found[0]
    raise AssertionError(f"no {kind} is due")


# --- why the account is read ------------------------------------------------------------------------------------------


def an_unknown_entry(harness: Harness) -> None:
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)


def a_failed_look_up(harness: Harness) -> None:
    harness.time += 20_000
    harness.in_position()
    harness.monitor.on_snapshot(replace(what_is_held(10), time=harness.time))  # stop and take-profit are not listed
    harness.reply(STOP, "lookup", Outcome.UNKNOWN)


def a_look_up_that_finds_nothing(harness: Harness) -> None:
    harness.time += 20_000
    harness.in_position()
    harness.monitor.on_snapshot(replace(what_is_held(10), time=harness.time))
    harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)


def a_missing_fill(harness: Harness) -> None:
    harness.order(ENTRY, "FILLED", filled=10)


def another_position(harness: Harness) -> None:
    harness.in_position()
    harness.monitor.on_snapshot(what_is_held(9, **a_listing(harness, STOP, TARGET)))


def a_foreign_order(harness: Harness) -> None:
    harness.in_position()
    harness.monitor.on_order(harness.update(ENTRY, "NEW", order_id=9_999, client_order_id="theirs"))


def a_foreign_conditional_order(harness: Harness) -> None:
    harness.in_position()
    theirs = AlgoUpdate(harness.time, "BTCUSDT", "theirs", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 3, 900, 0)
    harness.monitor.on_algo(theirs)


def a_late_fill(harness: Harness) -> None:
    harness.in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.canceled(harness.order("vt-e-1x1", "FILLED", 10))
    harness.note(harness.monitor.on_order(harness.update(ENTRY, "FILLED", 2, order_id=100)))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (an_unknown_entry, "OUTCOME_UNKNOWN"),
        (a_failed_look_up, "LOOKUP_UNKNOWN"),
        (a_look_up_that_finds_nothing, "LOOKUP_REFUSED"),
        (a_missing_fill, "FILL_MISSING"),
        (another_position, "NOT_AGREED"),
        (a_foreign_order, "FOREIGN_ORDER"),
        (a_foreign_conditional_order, "FOREIGN_ORDER"),
        (a_late_fill, "LATE_FILL"),
    ],
)
def test_a_reading_of_the_account_says_why_it_was_wanted(what: Callable[[Harness], None], reason: str) -> None:
    harness = Harness()
    what(harness)
    assert next_of(TakeSnapshot, harness).reason == reason


def test_a_reading_that_confirms_the_orders_of_a_session_that_ends_says_so() -> None:
    harness = Harness().in_position()
    harness.monitor._books.account["keep_position"] = True
    harness.monitor.on_snapshot(replace(what_is_held(10, **a_listing(harness, STOP)), time=harness.time))
    assert next_of(TakeSnapshot, harness).reason == "NOT_LISTED"


def test_the_reason_is_that_of_the_wish_that_comes_first() -> None:
    harness = Harness().in_position()
    for _ in range(3):
        harness.monitor.on_snapshot(what_is_held(9, **a_listing(harness, STOP, TARGET)))  # at last: at 9,000 again
    harness.time = 5_500
    harness.monitor.on_order(harness.update(ENTRY, "NEW", order_id=9_999, client_order_id="theirs"))
    assert next_of(TakeSnapshot, harness).reason == "FOREIGN_ORDER"
    assert harness.time == 6_500


def test_a_wallet_that_differs_is_the_reason_of_the_next_reading() -> None:
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    core.handle(replace(a_snapshot(6, 10), wallet=money(9_999), algo_orders=(resting,)))
    _, outputs = core.handle(Timer(core.next_due))
    assert [o.reason for o in outputs if isinstance(o, TakeSnapshot)] == ["WALLET_DIFFERS"]


# --- why an order is looked up ----------------------------------------------------------------------------------------


def an_exit(harness: Harness) -> None:
    harness.in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))


def a_stale_stop(harness: Harness) -> None:
    harness.order(ENTRY, "FILLED", 10)


def an_unanswered_cancel(harness: Harness) -> None:
    harness.order(ENTRY, "NEW")
    harness.note(cancel_entry(harness.monitor, harness.time, "OPERATOR"))


@pytest.mark.parametrize(
    ("what", "name", "reason", "after_ms"),
    [
        (lambda harness: None, ENTRY, "NO_UPDATE", 2_000),
        (an_exit, "vt-e-1x1", "NO_UPDATE", 2_000),
        (a_stale_stop, STOP, "STALE", 10_000),
        (an_unanswered_cancel, ENTRY, "STALE", 10_000),
        (a_failed_look_up, STOP, "LOOKUP_UNKNOWN", 2_000),
        (a_look_up_that_finds_nothing, STOP, "LOOKUP_REFUSED", 2_000),
    ],
    ids=["entry", "exit", "stop", "cancel", "failed look-up", "nothing found"],
)
def test_a_look_up_says_why_it_was_wanted(
    what: Callable[[Harness], None], name: str, reason: str, after_ms: int
) -> None:
    harness = Harness()
    what(harness)
    since, found = harness.time, None
    while found is None or found.client_order_id != name:
        found = next_of(LookupOrder, harness)
    assert found.reason == reason
    assert harness.time <= since + after_ms


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.REFUSED, -2013), (Outcome.UNKNOWN, -1001)], ids=["finds nothing", "fails"]
)
def test_a_stop_that_is_not_listed_is_looked_up_again_soon_however_old_it_is(outcome: Outcome, code: int) -> None:
    """It counts as cover until three answers say that it is gone; a take-profit covers nothing, and can wait."""
    harness = Harness().in_position()
    harness.time = 3_600_000
    harness.note(harness.monitor.on_snapshot(replace(what_is_held(10), time=harness.time)))
    for name, pause in ((STOP, 2_000), (TARGET, 3_600_000 // 8)):
        since = harness.time
        harness.reply(name, "lookup", outcome, code)
        due = harness.monitor.orders[name].row.lookup_at
        assert pause - 1_000 <= due - since <= pause


@pytest.mark.parametrize(
    ("outcome", "reason"), [(Outcome.REFUSED, "CANCEL_REFUSED"), (Outcome.UNKNOWN, "CANCEL_UNKNOWN")]
)
def test_a_cancel_that_fails_again_and_again_is_followed_by_look_ups_with_growing_pauses(
    outcome: Outcome, reason: str
) -> None:
    """Each look-up finds the order open, as one that is out of date does: without a pause both would never rest."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    sent = harness.order("vt-e-1x1", "FILLED", 10)
    harness.reply(STOP, "cancel", Outcome.ACCEPTED)
    pauses = []
    for _ in range(7):
        assert TARGET in {each.client_order_id for each in sent if isinstance(each, CancelOrder)}
        found = [each for each in harness.reply(TARGET, "cancel", outcome, -2011) if isinstance(each, LookupOrder)]
        since = harness.time
        asked = found[0] if found else next_of(LookupOrder, harness)
        assert (asked.client_order_id, asked.reason) == (TARGET, reason)
        pauses.append(harness.time - since)
        resting = a_listing(harness, TARGET)["algo_orders"][0]
        sent = harness.reply(TARGET, "lookup", Outcome.ACCEPTED, algo_order=resting)
    assert pauses == [0, 1_000, 1_000, 1_000, 2_000, 4_000, 4_000]


def test_an_entry_without_an_update_becomes_stale() -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "NEW")
    asked = [next_of(LookupOrder, harness) for _ in range(6)]
    assert [each.reason for each in asked] == [*["NO_UPDATE"] * 4, "STALE", "STALE"]


def test_the_next_run_looks_up_what_it_takes_over_because_of_its_start() -> None:
    from test_position_rules import restored

    next_run = restored(Harness().in_position())
    asked = [each for each in next_run.on_time(60_000) if isinstance(each, LookupOrder)]
    assert {each.reason for each in asked} == {"RESTART"}


# --- why the rest of a position is closed -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "reason"), [(STOP, "STOP_REST"), (TARGET, "TAKE_PROFIT_REST")])
def test_the_rest_of_a_triggered_order_is_closed_by_that_orders_name(name: str, reason: str) -> None:
    harness = Harness().in_position()
    harness.algo(name, "TRIGGERED", order_id=500)
    harness.order(name, "PARTIALLY_FILLED", 4, order_id=500)
    [out] = intents(harness.order(name, "EXPIRED", order_id=500))
    assert (out.purpose, out.order.quantity, out.reason) == (Purpose.EXIT, 6, reason)
    [trip] = [o for o in harness.order(out.order.client_order_id, "FILLED", 6) if isinstance(o, RoundTrip)]
    assert trip.exit_reason == reason


def test_a_position_that_is_both_old_and_uncovered_is_closed_for_the_first_of_both() -> None:
    harness = Harness(max_holding_s=3.0)
    harness.order(ENTRY, "FILLED", 10)
    harness.time += PROTECT_WITHIN_MS
    outputs = harness.note(harness.monitor.on_time(harness.time))
    [out] = [each for each in intents(outputs) if each.purpose is Purpose.EXIT]
    assert out.reason == "TIME"


def test_a_stop_of_which_is_told_late_that_it_triggered_is_missed_since_it_did() -> None:
    """By a reading 2.5 s later: the exit is not sent 3 s after that, but 3 s after the trigger."""
    harness = Harness().in_position()
    stop, target = a_listing(harness, STOP, TARGET)["algo_orders"]
    begun, harness.time = harness.time, harness.time + 2_500
    listed = replace(stop, status="TRIGGERING", time=begun), target
    harness.note(harness.monitor.on_snapshot(replace(what_is_held(10, algo_orders=listed), time=harness.time)))
    assert next_of(OrderIntent, harness).purpose is Purpose.EXIT
    assert harness.time == begun + PROTECT_WITHIN_MS


@pytest.mark.parametrize("filled", [0, 3])
def test_a_stop_that_hangs_is_closed_at_market_with_or_without_a_part(filled: int) -> None:
    """Uncovered from its trigger on, or from 3 s after the part; closed 3 s later, without waiting for a look-up."""
    harness = Harness().in_position()
    triggered = harness.time
    harness.algo(STOP, "TRIGGERED", order_id=500)
    harness.order(STOP, "NEW", order_id=500)
    if filled:
        harness.order(STOP, "PARTIALLY_FILLED", filled, price=979, order_id=500)
    updated = harness.time
    out = next_of(OrderIntent, harness)
    assert (out.purpose, out.order.quantity) == (Purpose.EXIT, 10 - filled)
    assert harness.time == (updated + 2 * PROTECT_WITHIN_MS if filled else triggered + PROTECT_WITHIN_MS)
