"""What an engine that comes back does first, told as sessions in virtual time."""

from __future__ import annotations

import pytest

from simulation.evidence import Evidence, Request
from simulation.scenario import at
from simulation.stories import claims
from simulation.stories.plots import ALGO, DOWN, story

SLOW_S = 1.1
KILLED = at(0, "kill_at", what=f"send {ALGO}")
"""Between the entry's fills and its stop."""


def asked_after_return(evidence: Evidence) -> list[Request]:
    """Requests of the second engine, in the order in which they were sent."""
    back = evidence.lives[1].begin
    return sorted((each for each in evidence.requests if each.sent >= back), key=lambda each: each.sent)


def test_a_restarted_engine_protects_as_soon_as_the_account_has_answered() -> None:
    """A packet takes 1.1 s: one question and its answer, then the stop, which waits neither for streams nor for filters."""
    evidence = story(KILLED, at(1.0, "slow", 30.0, by_s=SLOW_S))
    asked = asked_after_return(evidence)
    [stop, *_] = [each for each in asked if each.method == "POST" and each.path.endswith("/algoOrder")]
    assert stop.sent - evidence.lives[1].begin <= 2 * SLOW_S * 1000 + 200
    before = {each.path.rsplit("/", 1)[1] for each in asked if each.sent < stop.sent}
    assert "positionRisk" in before
    assert "aggTrades" not in before
    assert claims.uncovered_s(evidence) <= 5.0
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("path", ["/fapi/v1/time", "/fapi/v1/exchangeInfo", "/fapi/v1/aggTrades", "listenKey"])
def test_nothing_but_the_account_is_waited_for_before_the_stop(path: str) -> None:
    """The rest of the start gets no answer for half a minute."""
    evidence = story(KILLED, at(1.0, "answer", 30.0, on=path, **DOWN), duration_s=60.0)
    assert claims.uncovered_s(evidence) <= 3.0
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_machine_whose_clock_is_wrong_after_the_restart_protects_all_the_same(hours: int) -> None:
    evidence = story(KILLED, at(1.0, "clock", 200.0, ms=hours * 3_600_000), duration_s=40.0)
    assert claims.uncovered_s(evidence) <= 5.0
    assert claims.is_left_in_order(evidence)
    times = [row.time for row in evidence.journals[0]]
    assert max(times) - min(times) < 600_000
