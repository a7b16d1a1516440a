"""When the account is read though nothing asks for it, and when its stream counts as silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from voltrade.model import (
    AccountSummary,
    AlgoUpdate,
    Event,
    MarkPrice,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Reply,
    Side,
    Snapshot,
    StreamStatus,
)
from voltrade.session.account_watch import (
    COMPARE_LATE_MS,
    COMPARE_MS,
    FILTERS_MS,
    INEXACT_MS,
    LATE_ORDER_MS,
    PAID_WITHIN_MS,
    PASSED_AGAIN_MS,
    REFUSED_MS,
    REPORT_WITHIN_MS,
    SETTINGS_MS,
    AccountWatch,
)

NAME = "vt-e-1e1"


def accepted(action: str = "submit", outcome: Outcome = Outcome.ACCEPTED) -> Reply:
    return Reply(0, action, "BTCUSDT", NAME, False, outcome)  # type: ignore[arg-type]


READ = Snapshot(0, "BTCUSDT", 0, 0, 0, 0, 5, "isolated", False, PositionReport("BTCUSDT", 0, "0"))
TOLD = OrderUpdate(0, "BTCUSDT", NAME, 1, Side.BUY, OrderType.MARKET, "NEW", "NEW", 1, 0)


@pytest.mark.parametrize(
    ("events", "is_stream_silent"),
    [
        ([accepted()], True),
        ([accepted("lookup")], False),
        ([accepted(outcome=Outcome.UNKNOWN), accepted("lookup")], True),
        ([accepted(), TOLD], False),
        ([TOLD, accepted()], False),
        ([accepted(), StreamStatus(0, "user", False)], False),
        ([StreamStatus(0, "user", False), accepted()], False),
        ([StreamStatus(0, "user", False), StreamStatus(0, "user", True), accepted()], True),
        ([accepted(), StreamStatus(0, "market", False)], True),
        ([accepted(outcome=Outcome.REFUSED)], False),
        ([accepted(outcome=Outcome.UNKNOWN)], False),
        ([accepted("cancel")], False),
    ],
    ids=str,
)
def test_a_stream_is_deaf_that_does_not_tell_of_what_was_accepted(events: list[Event], is_stream_silent: bool) -> None:
    watch = AccountWatch()
    for event in events:
        watch.on_event(event, 1_000)
    assert not watch.is_stream_silent(1_000 + REPORT_WITHIN_MS - 1)
    assert watch.is_stream_silent(1_000 + REPORT_WITHIN_MS) == is_stream_silent


def test_the_account_is_compared_from_its_last_reading_on() -> None:
    watch = AccountWatch()
    assert not watch.is_due(10**9)  # it is read at the start by whoever starts
    watch.on_settings(5_001)
    watch.on_event(READ, 5_000)
    assert not watch.is_due(5_000 + COMPARE_MS - 1)
    assert watch.is_due(5_000 + COMPARE_MS)


def test_the_account_is_compared_more_often_while_an_order_may_execute_late() -> None:
    watch, begin = AccountWatch(), 10**9
    watch.expect_late_orders(begin)
    watch.expect_late_orders(begin - 1_000)  # an earlier one doesn't end the watch over a later one sooner
    for read_at in (begin, begin + LATE_ORDER_MS - COMPARE_LATE_MS - 1):
        watch.on_settings(read_at)
        watch.on_event(READ, read_at)
        assert not watch.is_due(read_at + COMPARE_LATE_MS - 1)
        assert watch.is_due(read_at + COMPARE_LATE_MS)
    watch.on_event(READ, begin + LATE_ORDER_MS - COMPARE_LATE_MS)
    assert not watch.is_due(begin + LATE_ORDER_MS)


def test_settings_that_a_reading_left_out_are_read_a_minute_after_they_were() -> None:
    watch = AccountWatch()
    watch.on_settings(5_000)
    watch.on_event(READ, 35_000)
    assert not watch.is_due(5_000 + SETTINGS_MS - 1)
    assert watch.is_due(5_000 + SETTINGS_MS)
    watch.on_settings(0)  # they could not be read: whoever reads tries on
    assert watch.is_due(5_000 + SETTINGS_MS)


@pytest.mark.parametrize(
    ("code", "settings", "filters"), [(-4061, True, False), (-4014, False, True), (-2019, False, False)]
)
def test_what_an_order_was_refused_for_is_read_again(code: int, settings: bool, filters: bool) -> None:
    watch, begin = AccountWatch(), 10**9
    watch.on_settings(begin)
    watch.on_filters(begin)
    watch.on_event(READ, begin)
    watch.on_event(replace(accepted(outcome=Outcome.REFUSED), code=code), begin + 500)
    assert (watch.is_due(begin + 500), watch.are_settings_due(begin + 500)) == (settings, settings)
    assert not watch.are_filters_due(begin + REFUSED_MS - 1)
    assert watch.are_filters_due(begin + REFUSED_MS) == filters


def test_filters_are_read_every_minute_and_sooner_where_values_are_off_them() -> None:
    watch = AccountWatch()
    assert watch.are_filters_due(10**9)
    watch.on_filters(10**9)
    assert not watch.are_filters_due(10**9 + FILTERS_MS - 1)
    assert watch.are_filters_due(10**9 + FILTERS_MS)
    watch.note_inexact(0)
    assert not watch.are_filters_due(10**9 + INEXACT_MS)
    watch.note_inexact(3)
    assert watch.are_filters_due(10**9 + INEXACT_MS)
    watch.on_filters(10**9 + INEXACT_MS)
    watch.note_inexact(3)  # no more of them
    assert not watch.are_filters_due(10**9 + 2 * INEXACT_MS)


def test_settings_are_read_every_minute_and_after_the_user_stream_was_down() -> None:
    watch = AccountWatch()
    assert watch.are_settings_due(10**9)
    watch.on_settings(10**9)
    assert not watch.are_settings_due(10**9 + SETTINGS_MS - 1)
    assert watch.are_settings_due(10**9 + SETTINGS_MS)
    watch.on_event(StreamStatus(10**9, "market", False), 10**9)
    assert not watch.are_settings_due(10**9)
    watch.on_event(StreamStatus(10**9, "user", False), 10**9)
    assert watch.are_settings_due(10**9)


def test_a_comparison_is_a_reading() -> None:
    watch = AccountWatch()
    watch.on_settings(6_001)
    watch.on_event(READ, 5_000)
    watch.on_event(AccountSummary(0, "BTCUSDT", 0, 0, 5, "isolated", False), 6_000)
    assert not watch.is_due(5_000 + COMPARE_MS)
    assert watch.is_due(6_000 + COMPARE_MS)


def test_a_trigger_that_is_passed_and_of_which_nothing_is_told_has_the_account_read_once() -> None:
    watch = AccountWatch()
    watch.on_settings(5_000)
    watch.on_event(READ, 5_000)
    due = []
    for now, passed in [(6_000, ["s"]), (7_000, []), (6_000 + REPORT_WITHIN_MS, [])]:
        watch.note_passed(now, passed)  # the price comes back, but the order may have triggered
        due.append((watch.is_due(now), watch.is_due(now)))
    assert due == [(False, False)] * 2 + [(True, True)]  # who asks changes nothing
    watch.on_event(READ, 8_500)
    for now in (9_000, 15_000, 6_000 + PASSED_AGAIN_MS - 1, 6_000 + PASSED_AGAIN_MS + REPORT_WITHIN_MS):
        watch.note_passed(now, ["s"])  # beyond it all the time: it was read since
        assert not watch.is_due(now)
    watch.note_passed(20_000, [])
    watch.note_passed(20_100, ["s"])
    assert watch.is_due(20_100 + REPORT_WITHIN_MS)
    watch.on_event(READ, 22_200)
    watch.note_passed(22_300, [])
    watch.note_passed(22_400, ["s"])  # a price that comes and goes asks for no reading each time
    assert not watch.is_due(22_400 + REPORT_WITHIN_MS)


def test_a_trigger_that_is_passed_and_reported_needs_no_reading() -> None:
    watch = AccountWatch()
    watch.on_settings(5_000)
    watch.on_event(READ, 5_000)
    watch.note_passed(6_000, ["s", "t"])
    for name in ("s", "t"):
        assert watch.is_due(6_000 + REPORT_WITHIN_MS)
        told = AlgoUpdate(7_000, "BTCUSDT", name, 1, Side.SELL, OrderType.STOP_MARKET, "TRIGGERED", 1, 1)
        watch.on_event(told, 7_000)
    watch.note_passed(7_500, [])
    assert not watch.is_due(6_000 + REPORT_WITHIN_MS)


def test_the_account_is_compared_once_when_the_stream_must_have_told_the_funding() -> None:
    watch, hour = AccountWatch(), 3_600_000
    watch.on_settings(hour)
    watch.on_event(READ, hour - 1)
    for time, due in ((hour - 1_000, hour), (hour, 9 * hour)):
        watch.note_mark(MarkPrice("BTCUSDT", time, 1, next_funding_time=due))
    assert not watch.is_due(hour + PAID_WITHIN_MS - 1)
    assert watch.is_due(hour + PAID_WITHIN_MS)
    watch.on_event(READ, hour + PAID_WITHIN_MS)
    assert not watch.is_due(hour + PAID_WITHIN_MS)


def test_what_a_clock_that_was_wrong_has_noted_is_read_again() -> None:
    """An hour ahead as the engine came back: nothing may wait until that hour has passed."""
    watch, now = AccountWatch(), 10**9
    watch.on_settings(now + 3_600_000)
    watch.on_filters(now + 3_600_000)
    watch.on_event(READ, now + 3_600_000)
    assert (watch.is_due(now), watch.are_settings_due(now), watch.are_filters_due(now)) == (True, True, True)
