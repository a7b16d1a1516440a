"""Orders that end by themselves, neither filled nor triggered, nor cancelled by us; and those whose rows are freed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from support.by_hand import leave
from test_oms import ENTRY, STOP, TARGET, Harness, a_listing, a_snapshot, absent, intents

from voltrade.model import Alert, AlgoUpdate, LookupOrder, Outcome, Output, Purpose
from voltrade.orders.order_states import STOP_STOOD_MS


def _ends(harness: Harness, name: str, status: str, way: str, ended_at: int = 0) -> list[Output]:
    """What follows once an accepted stop is told to have ended with `status`, by the stream or by a look-up."""
    order = harness.sent[name].order
    time = ended_at or harness.time
    told = AlgoUpdate(
        time, "BTCUSDT", name, 7, order.side, order.order_type, status, order.quantity, order.trigger_price
    )
    if way == "look-up":
        return harness.reply(name, "lookup", Outcome.ACCEPTED, algo_order=told)
    return harness.note(harness.monitor.on_algo(told))


@pytest.mark.parametrize("way", ["stream", "look-up"])
@pytest.mark.parametrize("status", ["EXPIRED", "REJECTED", "CANCELED"])
def test_a_stop_that_ends_by_itself_is_sent_again_at_once_then_after_a_second_and_then_the_position_is_closed(
    status: str, way: str
) -> None:
    """Each new one counts as cover, so that neither the bound of cover nor a refusal would ever end this."""
    harness, waited, codes = Harness().in_position(), [], list[str]()
    for number in (1, 2, 3):
        harness.time += 20
        outputs = _ends(harness, f"vt-e-1s{number}", status, way)
        _ends(harness, f"vt-e-1s{number}", status, "stream")  # told twice, counted once
        codes += [out.code for out in outputs if isinstance(out, Alert)]
        ended_at = harness.time
        if not intents(outputs):
            harness.time = harness.monitor.next_due
            outputs = harness.note(harness.monitor.on_time(harness.time))
        waited.append(harness.time - ended_at)
        if number < 3:
            [again] = intents(outputs)
            assert again.order.client_order_id == f"vt-e-1s{number + 1}"
            harness.accept(again.order.client_order_id)
            harness.algo(again.order.client_order_id, "NEW")
    [out] = intents(outputs)
    assert (out.purpose, out.reason, out.order.quantity) == (Purpose.EXIT, "STOP_REFUSED", 10)
    assert waited == [0, 1_000, 0]
    assert codes == ["STOP_REPLACED"] * 3
    assert bool(harness.monitor.halt_reason) == (status == "CANCELED")  # only that may be somebody's doing


def test_refused_stops_and_those_that_ended_count_together() -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "FILLED", 10)
    for number in (1, 2):
        harness.reply(f"vt-e-1s{number}", "submit", Outcome.REFUSED, -1008)
        harness.time = harness.monitor.next_due
        harness.note(harness.monitor.on_time(harness.time))
    harness.accept("vt-e-1s3")
    harness.algo("vt-e-1s3", "NEW")
    [out] = intents(harness.algo("vt-e-1s3", "EXPIRED"))
    assert (out.purpose, out.reason) == (Purpose.EXIT, "STOP_REFUSED")


@pytest.mark.parametrize(("lives_ms", "closes"), [(STOP_STOOD_MS - 1, True), (STOP_STOOD_MS, False)])
def test_a_stop_that_stood_for_a_while_before_it_ended_counts_as_the_first(lives_ms: int, closes: bool) -> None:
    harness, sent = Harness().in_position(), [STOP]
    purposes = []
    for _ in range(5):
        harness.time = max(harness.time, harness.sent[sent[-1]].time) + lives_ms
        outputs = harness.algo(sent[-1], "CANCELED")
        if not intents(outputs):
            harness.time = harness.monitor.next_due
            outputs = harness.note(harness.monitor.on_time(harness.time))
        [follows] = intents(outputs)
        purposes.append(follows.purpose)
        if follows.purpose is Purpose.EXIT:
            break
        sent.append(follows.order.client_order_id)
        harness.accept(sent[-1])
        harness.algo(sent[-1], "NEW")
    assert (Purpose.EXIT in purposes) == closes
    assert len(purposes) == (3 if closes else 5)


@pytest.mark.parametrize("way", ["stream", "look-up"])
def test_a_stop_whose_end_is_told_late_stood_no_longer_for_that(way: str) -> None:
    """Each lives 20 ms, and its end is heard 6 s later; by our clock each would have stood for long enough."""
    harness, name, purposes = Harness().in_position(), STOP, []
    for _ in range(3):
        ended_at = harness.sent[name].time + 20
        harness.time = max(harness.time, ended_at + 6_000)
        harness.monitor.on_time(harness.time)
        outputs = _ends(harness, name, "EXPIRED", way, ended_at)
        if not intents(outputs):
            harness.time = harness.monitor.next_due
            outputs = harness.note(harness.monitor.on_time(harness.time))
        [follows] = intents(outputs)
        purposes.append(follows.purpose)
        name = follows.order.client_order_id
        harness.accept(name)
        if follows.purpose is Purpose.STOP:
            harness.algo(name, "NEW")
    assert purposes == [Purpose.STOP, Purpose.STOP, Purpose.EXIT]


def test_stops_that_are_gone_again_and_again_lead_to_an_exit() -> None:
    """How long one stood isn't known, however late it is missed."""
    harness, name, exits = Harness().in_position(), STOP, []
    for _ in range(3):
        absent(harness, name, position=10, at=harness.time + 20_000)
        sent = [order for order in harness.monitor.orders.values() if order.state == "PENDING_SUBMIT"]
        exits.append([order.id for order in sent if order.purpose is Purpose.EXIT])
        name = sent[-1].id
        harness.accept(name)
        harness.algo(name, "NEW")
    assert exits == [[], [], ["vt-e-1x1"]]


def test_while_exits_fail_a_stop_that_ends_each_time_is_sent_with_growing_pauses() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    ends, sent_at, name, exit_name = 0, list[int](), STOP, "vt-e-1x1"
    while ends < 6:
        outputs = harness.reply(exit_name, "submit", Outcome.REFUSED, -1008) if exit_name else []
        exit_name = ""
        outputs += harness.algo(name, "EXPIRED") if name else []
        ends, name = ends + bool(name), ""
        for _ in range(50):
            for out in intents(outputs):
                if out.purpose is Purpose.EXIT:
                    exit_name = out.order.client_order_id
                else:
                    name = out.order.client_order_id
                    harness.accept(name)
                    harness.algo(name, "NEW")
                    sent_at.append(harness.time)
            if name or exit_name:
                break
            harness.time = harness.monitor.next_due
            outputs = harness.note(harness.monitor.on_time(harness.time))
    pauses = [after - before for before, after in itertools.pairwise(sent_at)]
    assert min(pauses[1:]) >= 1_000
    assert pauses[-1] >= 2_000


@pytest.mark.parametrize("ended", ["stop", "older stop", "triggered stop", "take-profit"])
def test_only_the_newest_stop_that_has_not_triggered_counts_as_a_try(ended: str) -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "PARTIALLY_FILLED", 4)
    harness.accept(STOP)
    harness.algo(STOP, "NEW")
    harness.time += 500
    harness.order(ENTRY, "FILLED", 6)  # a larger stop is sent, and the older one is cancelled once that rests
    if ended == "older stop":
        outputs = harness.algo(STOP, "EXPIRED")
    harness.accept("vt-e-1s2")
    harness.algo("vt-e-1s2", "NEW")
    harness.accept(TARGET)
    harness.algo(TARGET, "NEW")
    if ended == "stop":
        outputs = harness.algo("vt-e-1s2", "EXPIRED")
    elif ended == "triggered stop":
        harness.algo("vt-e-1s2", "TRIGGERED", order_id=77)
        outputs = harness.algo("vt-e-1s2", "EXPIRED", order_id=77)
    elif ended == "take-profit":
        outputs = harness.algo(TARGET, "EXPIRED")
    told = [out.code for out in outputs if isinstance(out, Alert)]
    assert told == (["STOP_REPLACED"] if ended == "stop" else [])


def test_a_stop_that_is_gone_counts_as_one_that_ended() -> None:
    harness = Harness().in_position()
    outputs = absent(harness, STOP, position=10)
    assert [out.code for out in outputs if isinstance(out, Alert)] == ["ORDER_GONE", "STOP_REPLACED"]
    assert harness.monitor.halt_reason
    harness.accept("vt-e-1s2")
    harness.algo("vt-e-1s2", "NEW")
    assert intents(harness.algo("vt-e-1s2", "EXPIRED")) == []  # the second try: after a pause


@pytest.mark.parametrize("because", ["closing", "take-profit ended", "flat"])
@pytest.mark.parametrize("status", ["EXPIRED", "CANCELED"])
def test_the_end_of_a_stop_that_is_not_needed_any_more_is_not_told(because: str, status: str) -> None:
    """The exchange may clear away reduce-only orders itself, before it tells of the fills."""
    harness = Harness().in_position()
    if because == "closing":
        harness.note(leave(harness.monitor, harness.time, "TIME"))
    else:
        harness.algo(TARGET, "TRIGGERED", order_id=55)
        harness.order(TARGET, "PARTIALLY_FILLED", 4, price=1_030, order_id=55)
    if because == "flat":
        harness.order(TARGET, "FILLED", 6, price=1_030, order_id=55)
    elif because == "take-profit ended":
        harness.order(TARGET, "EXPIRED", order_id=55)
    outputs = harness.algo(STOP, status)
    assert [out for out in outputs if isinstance(out, Alert)] == []
    assert not harness.monitor.halt_reason
    assert [out.purpose for out in intents(outputs) if out.purpose is Purpose.STOP] == []


def test_the_end_of_a_stop_is_not_told_once_the_position_was_closed_by_hand() -> None:
    harness = Harness().in_position()
    told = harness.update(STOP, "FILLED", 10, price=960, order_id=9_999, client_order_id="")
    harness.monitor.on_snapshot(a_snapshot(0, fills=(told,), **a_listing(harness, STOP, TARGET)))
    assert harness.monitor.position == 0
    assert [out for out in harness.algo(STOP, "CANCELED") if isinstance(out, Alert)] == []


@pytest.mark.parametrize("status", ["EXPIRED", "REJECTED", "CANCELED"])
def test_an_exit_that_ends_unfilled_waits_however_it_ended(status: str) -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    for number in (1, 2, 3):
        harness.accept(f"vt-e-1x{number}")
        assert len(intents(harness.order(f"vt-e-1x{number}", status))) == 1
    harness.accept("vt-e-1x4")
    assert intents(harness.order("vt-e-1x4", status)) == []
    due = harness.monitor.next_due
    assert due - harness.time == 1_000
    harness.time += 300
    harness.order("vt-e-1x4", status)  # told twice
    assert harness.monitor.next_due == due


# --- rows that are freed, and move, while something is applied --------------------------------------------------------


def nothing_answered(until: int) -> Harness:
    """A position whose stops and exits have had no answer until then, so that few rows are free."""
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "FILLED", 10)
    while harness.monitor.next_due < until:
        harness.time = harness.monitor.next_due
        harness.note(harness.monitor.on_time(harness.time))
    return harness


@pytest.mark.parametrize("until", range(140_000, 158_000, 3_000))
@pytest.mark.parametrize("how", ["restart", "reading"])
def test_exits_whose_rows_are_freed_meanwhile_are_not_looked_up(how: str, until: int) -> None:
    """The first events after an outage free the rows of spent exits, while the engine goes through all orders."""
    harness = nothing_answered(until)
    harness.time += 12_000
    if how == "restart":
        outputs = harness.monitor.on_restart(harness.time)
    else:
        outputs = harness.monitor.on_snapshot(replace(a_snapshot(10), time=harness.time))
    asked = [out.client_order_id for out in outputs if isinstance(out, LookupOrder)]
    assert len(set(asked)) == len(asked)
    harness.time = max(harness.time, harness.monitor.next_due)
    outputs = harness.note(outputs + harness.monitor.on_time(harness.time))
    assert Purpose.EXIT in [out.purpose for out in intents(outputs)]


@pytest.mark.parametrize("fee", [{}, {"fee": 5, "fee_asset": "BNB"}], ids=["no fee", "a fee in BNB"])
def test_a_late_fill_is_of_its_own_order_whatever_its_fee_is_paid_in(fee: dict[str, Any]) -> None:
    """Booking a fee in another asset is an event of its own, which frees and moves rows."""
    harness = Harness()
    harness.monitor._books.account["is_open"] = True
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    absent(harness, ENTRY)
    assert harness.monitor.orders[ENTRY].state == "NOT_PLACED"
    outputs = harness.order(ENTRY, "PARTIALLY_FILLED", 4, order_id=900, **fee)
    outputs += harness.order(ENTRY, "FILLED", 6, order_id=900, **fee)
    assert harness.monitor.position == 10
    assert [out.purpose for out in intents(outputs)] == [Purpose.STOP, Purpose.TAKE_PROFIT]
    assert harness.monitor.orders[ENTRY].filled == 10
    assert not harness.monitor.halt_reason


def test_an_entry_whose_lots_the_account_has_is_not_given_up_though_its_trades_are_not_listed() -> None:
    """Look-ups and the list of trades are out of date; lots that no listed trade explains may be its own."""
    harness = Harness()
    harness.monitor._check.has_agreed = True
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    for harness.time in range(12_000, 40_000, 2_000):
        harness.monitor.on_snapshot(replace(a_snapshot(10), time=harness.time))
        harness.reply(ENTRY, "lookup", Outcome.REFUSED, -2013)
    assert harness.monitor.orders[ENTRY].state == "UNKNOWN"
