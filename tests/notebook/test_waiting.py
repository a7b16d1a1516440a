"""What is waited for is told, with the seconds, once a wait has lasted 2 s."""

from __future__ import annotations

from threading import Event

import pytest

from voltrade.engine.demo_check.report import Row
from voltrade.engine.demo_check.waits import WaitNotice
from voltrade.notebook import waiting
from voltrade.notebook.waiting import Waiting, starting_text


class Shown(list[str]):
    """Texts that were shown; `first` is set with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Event()

    def __call__(self, text: str) -> None:
        self.append(text)
        self.first.set()


def test_a_long_computation_shows_a_line_and_a_short_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown()
    with Waiting("drawing", shown):
        pass
    assert shown == []
    monkeypatch.setattr(waiting, "AFTER_S", 0.001)
    monkeypatch.setattr(waiting, "is_compiling", lambda: True)
    with Waiting("drawing", shown):
        assert shown.first.wait(10)
    assert shown == [
        "compiling the rules, once, usually about a minute: 0 s",
        "compiled the rules: 0 s, done",
    ]
    with pytest.raises(ArithmeticError), Waiting("drawing", Shown()):
        raise ArithmeticError


def test_a_start_says_after_two_seconds_that_it_may_compile() -> None:
    assert starting_text(1.9) == ""
    assert starting_text(7.2).startswith("starting the engine, 7 s; the first start after an update compiles the rules")


def test_a_check_tells_what_it_waits_for_after_two_seconds_and_then_every_ten() -> None:
    time, rows = [100.0], list[Row]()
    shown = Shown()
    notice = WaitNotice(shown, rows.append, lambda: time[0])
    notice.begin_part("stops")
    for time[0] in (101.9, 102.0, 103.0, 111.9, 112.0):
        notice.look()
    assert shown == [
        f"..  stops: waiting for a stop just below the price to trigger, at most a minute; {seconds} s so far"
        for seconds in (2, 12)
    ]
    notice.on_row(row := Row("stops", "a stop triggers", "", "", "ok"))
    assert rows == [row]
    notice.begin_part("filters")
    for time[0] in (113.9, 114.0):
        notice.look()
    assert shown[2:] == ["..  filters: waiting for an answer or an event of the exchange; 2 s so far"]
