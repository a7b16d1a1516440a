"""A session is given up by the second command to end where nothing was heard of the exchange; fault case F9."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from voltrade.model import (
    NOTEBOOK_LOST,
    Event,
    Operator,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Reply,
    Side,
    Snapshot,
    StreamStatus,
)
from voltrade.session.abandonment import GONE_MS, Abandonment

HOUR_MS = 3_600_000


def reply(outcome: Outcome, code: int = 0) -> Reply:
    return Reply(0, "submit", "BTCUSDT", "vt-e-1x1", False, outcome, code)


READ = Snapshot(0, "BTCUSDT", 0, 0, 0, 0, 5, "isolated", False, PositionReport("BTCUSDT", 0, "0"))
TOLD = OrderUpdate(0, "BTCUSDT", "vt-e-1e1", 1, Side.BUY, OrderType.MARKET, "NEW", "NEW", 1, 0)


class Told:
    """A session that is told to end, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now = self.blocked_until = 0
        self.abandonment = Abandonment(lambda: self.now, lambda: self.blocked_until)

    def stop(self, at: int, given: int | None = None, reason: str = "SIGTERM") -> str:
        """Return what the loop does when it takes a stop; `given` is when that was given, if not just then."""
        self.now = at
        taken = self.abandonment.taken(Operator(at if given is None else given, "flatten", reason, True))
        assert isinstance(taken, Operator)
        assert (taken.time, taken.reason, taken.final) == (at, reason, True)
        return taken.action

    def hear(self, at: int, events: list[Event]) -> None:
        self.now = at
        for event in events:
            self.abandonment.on_event(event)


@pytest.mark.parametrize(
    ("heard", "after_ms", "action"),
    [
        ([], GONE_MS, "abandon"),
        ([], GONE_MS - 1, "flatten"),
        ([reply(Outcome.UNKNOWN, -1007), reply(Outcome.REFUSED), StreamStatus(0, "user", False)], GONE_MS, "abandon"),
        ([READ], GONE_MS, "flatten"),
        ([TOLD], GONE_MS, "flatten"),
        ([reply(Outcome.REFUSED, -4131)], GONE_MS, "flatten"),
    ],
    ids=["nothing", "too soon", "no answers", "account", "event", "refusal"],
)
def test_the_second_stop_abandons_if_nothing_was_heard_since_the_first(
    heard: list[Event], after_ms: int, action: str
) -> None:
    told = Told()
    told.hear(500, [READ])
    assert told.stop(1_000) == "flatten"
    told.hear(1_000 + after_ms // 2, heard)
    assert told.stop(1_000 + after_ms) == action


def test_an_exchange_that_goes_after_the_first_stop_is_gone_as_well() -> None:
    told = Told()
    assert told.stop(1_000) == "flatten"
    told.hear(3_000, [READ])
    assert told.stop(3_000 + GONE_MS - 1) == "flatten"
    assert told.stop(3_000 + GONE_MS) == "abandon"


@pytest.mark.parametrize(("frames", "action"), [(8, "flatten"), (7, "abandon")])
def test_a_stream_that_brings_frames_is_a_word_of_the_exchange(frames: int, action: str) -> None:
    told = Told()
    told.abandonment.note_frames(7)
    assert told.stop(1_000) == "flatten"
    told.now = 5_000
    told.abandonment.note_frames(frames)
    assert told.stop(1_000 + GONE_MS) == action


def test_while_we_may_not_ask_silence_says_nothing() -> None:
    """After a 429 of a minute nothing is sent, and nothing answered."""
    told = Told()
    told.blocked_until = 60_000
    assert [told.stop(at) for at in (1_000, 30_000, 60_000 + GONE_MS - 1)] == ["flatten"] * 3
    assert told.stop(60_000 + GONE_MS) == "abandon"


def test_an_exchange_that_is_back_when_a_stop_is_taken_is_not_abandoned() -> None:
    """Both stops wait while a resumed engine asks for its account in vain; then there is an answer."""
    told = Told()
    told.now = 20_000
    waiting = [Operator(at, "flatten", "SIGTERM", True) for at in (1_000, 1_000 + GONE_MS)]
    assert not told.abandonment.is_wanted([])
    assert not told.abandonment.is_wanted(waiting[:1])
    assert told.abandonment.is_wanted(waiting)
    told.abandonment.note_heard()
    assert not told.abandonment.is_wanted(waiting)
    assert [told.stop(20_000, stop.time) for stop in waiting] == ["flatten", "flatten"]


def test_a_lost_notebook_gives_up_nothing() -> None:
    told = Told()
    assert told.stop(1_000) == "flatten"
    assert told.stop(30_000, reason=NOTEBOOK_LOST) == "flatten"


@pytest.mark.parametrize("wrong_ms", [HOUR_MS, -HOUR_MS])
def test_a_command_counts_from_when_it_is_taken_by_the_clock_as_it_is_then(wrong_ms: int) -> None:
    """Given by a clock that was wrong and is corrected before the loop runs; the exchange was heard by then."""
    told, begin = Told(), 2 * HOUR_MS
    told.now = begin
    told.abandonment.note_heard()
    assert told.stop(begin + 5, given=begin + wrong_ms) == "flatten"
    assert told.stop(begin + GONE_MS - 1) == "flatten"
    assert told.stop(begin + 5 + GONE_MS) == "abandon"


@pytest.mark.parametrize("event", [READ, StreamStatus(7, "user", True)])
def test_what_is_no_command_is_taken_as_it_is(event: Event) -> None:
    same: Callable[[Event], Event] = Told().abandonment.taken
    assert same(event) is event
