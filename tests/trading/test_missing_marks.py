"""Mark prices that stay away while trades come: made of trades, told once, and gone with the exchange's first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from voltrade.model import MONEY, Event, MarkPrice, StreamStatus, Trouble
from voltrade.session.missing_marks import DIAL_AGAIN_MS, LONGEST_MS, MARK_LASTS_MS, MissingMarks
from voltrade.simulated.symbols import shipped_instrument

BEGIN = 1_767_600_000_000
MARK = MarkPrice("BTCUSDT", BEGIN, 80_000 * MONEY, 12, BEGIN + 20_000)


class Stream:
    """A stream whose connection is up; times are seconds after it."""

    def __init__(self, are_missing: bool = False) -> None:
        self.seen: list[int | Event] = []
        self.marks = MissingMarks(
            shipped_instrument("BTCUSDT"), lambda number, *_: self.seen.append(number), self.seen.append, are_missing
        )
        self.marks.on_event(StreamStatus(BEGIN, "market", True))

    def trade(self, at_s: float, price: int = 800_000) -> None:
        self.marks.on_agg_trade(int(at_s * 1_000), price, 1, BEGIN + int(at_s * 1_000), True)

    def mark(self, at_s: float) -> None:
        self.marks.on_event(replace(MARK, time=BEGIN + int(at_s * 1_000)))

    def usual(self, begin_s: int, end_s: int, every_s: int = 1) -> None:
        """Let trades and mark prices come, one each so many seconds."""
        for second in range(begin_s, end_s, every_s):
            self.mark(second)
            self.trade(second)

    def made(self) -> list[tuple[float, int]]:
        """When a mark price was made, s, and its price, USDT."""
        marks = [event for event in self.seen if isinstance(event, MarkPrice) and event.is_last_price]
        return [((mark.time - BEGIN) / 1_000, mark.price_e8 // MONEY) for mark in marks]

    def told(self) -> list[Trouble]:
        return [event for event in self.seen if isinstance(event, Trouble)]


def test_after_ten_seconds_each_second_has_a_mark_price_at_the_last_trade() -> None:
    stream = Stream()
    stream.usual(0, 10)
    for tenth in range(100, 210):
        stream.trade(tenth / 10, 790_000 + tenth)
    assert stream.made() == [(19.0, 79_019), (20.0, 79_020)]
    [told] = stream.told()
    text = "none for 10 s while trades come: a position is valued at the last trade's price until they are back"
    assert told == Trouble(BEGIN + 19_000, "MARK_PRICE", text)
    made = stream.seen.index(20_000) + 1
    assert isinstance(stream.seen[made], MarkPrice), "a trade, and then what is made of it"
    stream.mark(21.0)
    assert stream.seen[-2:] == [Trouble(BEGIN + 21_000, "MARK_PRICE", "mark prices come again"), stream.marks._last]
    stream.trade(21.1)
    assert len(stream.made()) == 2


@pytest.mark.parametrize("at_s", [19.9, 20.0])
def test_funding_is_told_until_it_is_due_and_not_again(at_s: float) -> None:
    stream = Stream()
    stream.usual(0, 10)
    stream.trade(at_s)
    made = stream.seen[-1]
    assert isinstance(made, MarkPrice)
    told = (12, MARK.next_funding_time) if at_s < 20 else (0, 0)
    assert (made.funding_rate_e8, made.next_funding_time) == told


@pytest.mark.parametrize(("every_s", "missing_s"), [(1, 10), (3, 30), (5, 50), (10, 60), (60, 60)])
def test_mark_prices_are_missing_after_ten_of_their_intervals_at_most_a_minute(every_s: int, missing_s: int) -> None:
    stream = Stream()
    stream.usual(0, 601, every_s)
    last = 600 // every_s * every_s
    stream.trade(last + missing_s - 0.001)
    assert stream.made() == []
    stream.trade(last + missing_s)
    assert len(stream.made()) == 1


def test_where_trades_are_silent_too_nothing_is_made() -> None:
    """A cut connection: its first trade is late, but no mark price was missing while it was down."""
    stream = Stream()
    stream.usual(0, 10)
    stream.marks.on_event(StreamStatus(BEGIN + 100_000, "market", True))
    stream.trade(100.1)
    stream.trade(109.9)
    assert (stream.made(), stream.told()) == ([], [])
    stream.trade(110.0)
    assert len(stream.made()) == 1
    stream.marks.on_event(StreamStatus(BEGIN + 115_000, "market", True))
    stream.trade(115.1)
    assert len(stream.made()) == 2, "they were missing before, and still are"


def test_a_clock_that_is_an_hour_ahead_does_not_hide_that_they_are_missing() -> None:
    stream = Stream()
    stream.marks.on_event(StreamStatus(BEGIN + 3_600_000, "market", True))
    stream.usual(0, 10)
    stream.trade(19.9)
    assert stream.made() == []
    stream.trade(20.0)
    assert len(stream.made()) == 1


def test_from_the_first_second_on_they_may_be_missing_for_a_minute() -> None:
    stream = Stream()
    stream.trade(59.9)
    assert stream.made() == []
    stream.trade(60.0, 810_000)
    assert stream.made() == [(60.0, 81_000)]


def test_an_engine_that_comes_back_goes_on_at_once_and_tells_only_that_they_are_back() -> None:
    stream = Stream(are_missing=True)
    stream.trade(0.1, 790_000)
    assert (stream.made(), stream.told()) == ([(0.1, 79_000)], [])
    stream.mark(1.0)
    assert [told.text for told in stream.told()] == ["mark prices come again"]


def test_one_early_mark_price_does_not_make_the_next_late() -> None:
    """A mark price a minute, and one more a millisecond before a funding time."""
    stream = Stream()
    stream.usual(0, 241, 60)
    stream.mark(240.001)
    stream.trade(299.9)
    assert stream.made() == []


def test_another_connection_is_due_at_once_and_then_ever_more_slowly() -> None:
    stream = Stream()
    stream.usual(0, 10)
    assert not stream.marks.is_dial_due(BEGIN)
    due: list[int] = []
    for second in range(19, 4_000):
        stream.trade(second)
        if stream.marks.is_dial_due(second * 1_000):
            due.append(second)
    assert due == [19, 39, 79, 159, 319, 639, 1239, 1839, 2439, 3039, 3639]
    stream.mark(4_000)
    assert not stream.marks.is_dial_due(4_000_000)
    stream.trade(4_000 + MARK_LASTS_MS / 1_000)
    assert stream.marks.is_dial_due(4_001_000), "after mark prices have come it begins anew"
    assert DIAL_AGAIN_MS < LONGEST_MS
