"""The order of a week within half an hour: connections live 12 minutes, not 24 hours, and are replaced after 11."""

from __future__ import annotations

from unittest import mock

from simulation import week
from simulation.week import Used, play
from voltrade.exchange import streams
from voltrade.runs.replay import replay
from voltrade.venue import streams as venue_streams

MINUTE_MS = 60_000


def a_while(form: str, minutes: float, planned_ms: int = 11 * MINUTE_MS, **how: object) -> Used:
    life = mock.patch.object(venue_streams, "LIFE_S", 12 * 60.0)
    renewal = mock.patch.object(streams, "LISTEN_KEY_RENEWAL_MS", 5 * MINUTE_MS)
    with life, renewal, mock.patch.object(streams, "PLANNED_LIFE_MS", planned_ms):
        return play(minutes / 60, 1.0, form, **how)


def without_the_start(used: Used) -> list[str]:
    """Return what does not hold: of half an hour the first rows, with all settings, are much of the journal.

    And what is made once, at its first use, is much of the memory: 1.6 MB in one run of several. A week allows 1 MB an
    hour (`make week`).
    """
    used.journal -= 20_000
    with mock.patch.dict(week.MOST, {"memory": 8.0}):
        return used.broken()


def test_half_an_hour_in_the_order_of_a_week() -> None:
    """Each connection is replaced twice, the key is renewed, and a maintenance of ten minutes is lived through."""
    begin = 23 / 60
    used = a_while("demo", 36, maintenance=[begin], looks=[0.2, 0.58])
    assert without_the_start(used) == []
    assert replay(used.run / "journal.db").differences == 0
    keys = [row.sent - used.opened for row in used.requests if (row.method, row.status) == ("PUT", 200)]
    assert [round(at / MINUTE_MS) for at in keys if at < 23 * MINUTE_MS] == [5, 10, 16, 21]
    dials = [(time - used.opened) / MINUTE_MS for time, _ in used.dials]
    assert [round(at) for at in dials if at < 23] == [0, 0, 11, 11, 22, 22]
    read_again = [("user", False), ("user", True)]
    known = [(stream, up) for at, stream, up in used.links if at < begin]
    assert sorted(known[:2]) == [("market", True), ("user", True)]
    assert known[2:] == [*read_again, *read_again]
    assert [used.is_planned((gap.time - used.opened) / 3.6e6) for gap in used.gaps] == [True]


def test_paper_in_the_order_of_a_week() -> None:
    used = a_while("paper", 14)
    assert without_the_start(used) == []
    assert sorted((stream, up) for _, stream, up in used.links) == [("market", True), ("user", True)]
    assert [round((time - used.opened) / MINUTE_MS) for time, _ in used.dials] == [0, 11]


def test_a_connection_that_is_cut_for_its_age_is_dialled_again() -> None:
    """Where no plan replaces it. What breaks is told, so that the other tests can fail."""
    used = a_while("demo", 14, planned_ms=10**12)
    assert [round(at * 60) for at, stream, up in used.links if stream == "market" and not up] == [12]
    assert {gap.last_id - gap.first_id + 1 - gap.filled for gap in used.gaps} <= {0}
    assert "market stream down" in used.broken()[0]
