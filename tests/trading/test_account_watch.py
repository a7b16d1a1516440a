"""When the account is read though nothing asks for it, and when its stream counts as silent."""

from __future__ import annotations

import pytest

from voltrade.account_watch import COMPARE_FLAT_MS, COMPARE_MS, GONE_MS, REPORT_WITHIN_MS, SETTINGS_MS, AccountWatch
from voltrade.model import (
    AccountSummary,
    Event,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Reply,
    Side,
    Snapshot,
    StreamStatus,
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


@pytest.mark.parametrize(("has_position", "every_ms"), [(True, COMPARE_MS), (False, COMPARE_FLAT_MS)])
def test_the_account_is_compared_from_its_last_reading_on(has_position: bool, every_ms: int) -> None:
    watch = AccountWatch()
    assert not watch.is_due(10**9, has_position)  # it is read at the start by whoever starts
    watch.on_event(READ, 5_000)
    assert not watch.is_due(5_000 + every_ms - 1, has_position)
    assert watch.is_due(5_000 + every_ms, has_position)


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
    watch.on_event(READ, 5_000)
    watch.on_event(AccountSummary(0, "BTCUSDT", 0, 0, 5, "isolated", False), 6_000)
    assert not watch.is_due(5_000 + COMPARE_MS, True)
    assert watch.is_due(6_000 + COMPARE_MS, True)


def test_a_trigger_that_is_passed_and_of_which_nothing_is_told_has_the_account_read_once() -> None:
    watch = AccountWatch()
    watch.on_event(READ, 5_000)
    due = []
    for now, is_passed in [(6_000, True), (7_000, False), (8_000, True), (8_000 + REPORT_WITHIN_MS, True)]:
        watch.note_trigger(now, is_passed)  # in between it is back on its side
        due.append((watch.is_due(now, True), watch.is_due(now, True)))
    assert due == [(False, False)] * 3 + [(True, True)]  # who asks changes nothing
    watch.on_event(READ, 10_500)
    watch.note_trigger(11_000, True)
    assert not watch.is_due(11_000, True)


NOT_SENT = Reply(0, "submit", "BTCUSDT", NAME, False, Outcome.REFUSED, 0, "not sent")


@pytest.mark.parametrize(
    ("heard", "after_ms", "action"),
    [
        ([], GONE_MS, "abandon"),
        ([], GONE_MS - 1, "flatten"),
        ([accepted(outcome=Outcome.UNKNOWN), NOT_SENT, StreamStatus(0, "user", False)], GONE_MS, "abandon"),
        ([READ], GONE_MS, "flatten"),
        ([TOLD], GONE_MS, "flatten"),
        ([Reply(0, "submit", "BTCUSDT", NAME, False, Outcome.REFUSED, -4131)], GONE_MS, "flatten"),
    ],
    ids=["nothing", "too soon", "no answers", "account", "event", "refusal"],
)
def test_a_session_is_abandoned_by_the_second_command_to_end_if_nothing_was_heard_since_the_first(
    heard: list[Event], after_ms: int, action: str
) -> None:
    """Fault case F9. What was heard before the first command says nothing of the exchange now."""
    watch = AccountWatch()
    watch.on_event(READ, 500)
    assert watch.final_action("flatten", 1_000) == "flatten"
    for event in heard:
        watch.on_event(event, 1_000 + after_ms // 2)
    assert watch.final_action("flatten", 1_000 + after_ms) == action
