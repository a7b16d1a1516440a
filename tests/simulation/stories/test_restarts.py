"""What an engine that comes back does first, told as sessions in virtual time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from simulation.clock import BEGIN_MS
from simulation.evidence import Evidence, Request
from simulation.scenario import at
from simulation.stories import claims
from simulation.stories.plots import ALGO, DOWN, rarely, story
from voltrade.journal.market import MARKET

SLOW_S = 1.1
KILLED = at(0, "kill_at", what=f"send {ALGO}")
"""Between the entry's fills and its stop."""


def asked_after_return(evidence: Evidence) -> list[Request]:
    """Requests of the second engine, in the order in which they were sent."""
    back = evidence.lives[1].begin
    return sorted((each for each in evidence.requests if each.sent >= back), key=lambda each: each.sent)


def test_a_restarted_engine_protects_as_soon_as_the_account_has_answered() -> None:
    """A packet takes 1.1 s: one question and its answer, then the stop, which waits for nothing else."""
    evidence = story(KILLED, at(1.0, "slow", 30.0, by_s=SLOW_S))
    asked = asked_after_return(evidence)
    [stop, *_] = [each for each in asked if each.method == "POST" and each.path.endswith("/algoOrder")]
    assert stop.sent - evidence.lives[1].begin <= 2 * SLOW_S * 1000 + 200
    before = {each.path.rsplit("/", 1)[1] for each in asked if each.sent < stop.sent}
    assert "positionRisk" in before
    assert "aggTrades" not in before
    assert claims.uncovered_s(evidence) <= 5.0
    assert claims.is_left_in_order(evidence)


def test_the_account_is_compared_often_after_a_restart() -> None:
    """The engine that was killed may have sent an order that its journal has lost."""
    evidence = story(at(5, "kill"), duration_s=60.0)
    begin = evidence.lives[1].begin
    asked = [each.sent for each in asked_after_return(evidence) if each.path == "/fapi/v3/account"]
    times = [time for time in asked if begin + 10_000 <= time <= begin + 40_000]
    assert len(times) >= 7
    assert max(later - earlier for earlier, later in pairwise(times)) <= 4_500


@pytest.mark.parametrize("path", ["/fapi/v1/time", rarely("/fapi/v1/exchangeInfo"), "/fapi/v1/aggTrades", "listenKey"])
def test_nothing_but_the_account_is_waited_for_before_the_stop(path: str) -> None:
    """The rest of the start gets no answer for half a minute."""
    evidence = story(KILLED, at(1.0, "answer", 30.0, on=path, **DOWN), duration_s=60.0)
    assert claims.uncovered_s(evidence) <= 3.0
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("hours", [rarely(-1), 1])
def test_a_machine_whose_clock_is_wrong_after_the_restart_protects_all_the_same(hours: int) -> None:
    evidence = story(KILLED, at(1.0, "clock", 200.0, ms=hours * 3_600_000), duration_s=40.0)
    assert claims.uncovered_s(evidence) <= 5.0
    assert claims.is_left_in_order(evidence)
    times = [row.time for row in evidence.journals[0]]
    assert max(times) - min(times) < 600_000


@pytest.mark.parametrize("hours", [rarely(-1), 1])
def test_a_command_that_came_before_the_clock_was_corrected_counts_from_when_it_is_carried_out(hours: int) -> None:
    """It is given while the engine that came back asks for its account; an hour ahead no timer would ever be due."""
    slow, wrong = at(1.0, "slow", 30.0, by_s=SLOW_S), at(1.0, "clock", 200.0, ms=hours * 3_600_000)
    evidence = story(KILLED, slow, wrong, at(2.6, "operator", action="pause"), duration_s=40.0)
    claims.premise([told.answer["taken"] for told in evidence.told] == [False], "a command before the first answer")
    [given] = [row for row in evidence.journals[0] if row.kind == "Operator"]
    assert abs(given.time - claims.when(evidence, 2.6)) < 10_000
    times = [row.time for row in evidence.journals[0]]
    assert max(times) - min(times) < 600_000
    assert claims.is_left_in_order(evidence, within_s=8.0)  # the account is asked for twice, 2.2 s each


def test_what_a_lost_journal_began_from_is_given_to_the_core_by_the_corrected_clock() -> None:
    """A second run on the account, whose journal is deleted, on a machine that is an hour ahead by then."""
    second = at(20, "run", name="second", duration_s=60.0, cooldown_bars=1)
    lost = at(30, "kill"), at(30.5, "remove", what="runs/second/journal.db")
    evidence = story(second, *lost, at(30.2, "clock", 300.0, ms=3_600_000), duration_s=10.0)
    resumed = [row for row in evidence.journals[-1] if row.kind == "ResumeState"]
    claims.premise(resumed, "a state that the lost journal began from")
    assert max(row.time for row in evidence.journals[-1] if row.kind != "Start") <= evidence.judged


def test_a_session_can_be_ended_while_its_first_question_gets_no_answer() -> None:
    """The exchange goes with the engine; the next one is told to end twice, and says what is left."""
    sigterm = [at(when_s, "operator", action="flatten", reason="SIGTERM", final=True) for when_s in (5, 20)]
    evidence = story(KILLED, at(1.0, "cut", 1e6), *sigterm, duration_s=60.0)
    assert [life.how for life in evidence.lives] == ["killed", "ended"]
    assert claims.when(evidence, 20) <= evidence.lives[-1].end <= claims.when(evidence, 26)
    [told] = [text for text in claims.alerts(evidence) if text.startswith("ABANDONED: SIGTERM")]
    assert "0.250 BTC" in told


@pytest.mark.parametrize(
    ("stops", "back_s"), [((5, 10), 31.0), ((20, 40), 36.0)], ids=["too soon", "the exchange is back"]
)
def test_a_session_is_not_given_up_at_an_exchange_that_answers(stops: tuple[int, int], back_s: float) -> None:
    sigterm = [at(when_s, "operator", action="flatten", reason="SIGTERM", final=True) for when_s in stops]
    evidence = story(KILLED, at(1.0, "cut", back_s - 1.0), *sigterm, duration_s=60.0)
    assert [text for text in claims.alerts(evidence) if text.startswith("ABANDONED")] == []
    assert claims.position_at_end(evidence) == 0
    assert claims.ended(evidence)


def test_an_account_that_can_not_be_read_is_asked_for_by_the_session_alone() -> None:
    """Half a minute of 503: the start-up table waits for the session's own reading, with its pauses."""
    evidence = story(KILLED, at(1.0, "answer", 30.0, on="/fapi/v./positionRisk", **DOWN), duration_s=60.0)
    until = claims.when(evidence, 31.0)
    asked = [each.sent for each in asked_after_return(evidence) if each.path.endswith("/positionRisk")]
    assert len([sent for sent in asked if sent < until]) <= 10
    assert claims.is_left_in_order(evidence)


def test_the_market_is_taken_though_the_user_stream_can_not_be_opened() -> None:
    """No listen key for half a minute, with a position that the circuit breaker values by the mark price."""
    evidence = story(KILLED, at(1.0, "answer", 30.0, on="listenKey", **DOWN), duration_s=60.0)
    begin, end = claims.when(evidence, 5.0), claims.when(evidence, 30.0)
    market = [row for row in evidence.journals[0] if row.kind in ("Trades", MARKET) and begin < row.time < end]
    assert len(market) >= 4
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("is_told", [True, rarely(False)], ids=["429 with Retry-After", "429 without"])
def test_engines_that_come_back_ask_nothing_until_the_end_of_a_pause(is_told: bool) -> None:
    """The stop is answered with 429, and the engine is killed twice meanwhile. No answer tells its successors of it.

    Others have used the minute's weight, of which 17 s are left; or the exchange is overloaded for 4 s and doesn't say.
    """
    spent = at(0.635, "spend_weight", with_={"weight": 2_500})
    unsaid = at(0.635, "ban", 4.0, with_={"retry_after": False})
    pause_s, minute_begun_s = (17.0, 43) if is_told else (5.0, 0)
    opens_ms = BEGIN_MS + minute_begun_s * 1_000
    evidence = story(
        *(spent if is_told else unsaid, at(1.0, "kill_twice", again_s=1.9)), opens_ms=opens_ms, duration_s=40.0
    )
    told = next(each for each in evidence.requests if each.status == 429)
    end = told.answered + int(pause_s * 1_000)
    claims.premise(told.path.endswith("/algoOrder"), "a stop that is answered with 429")
    claims.premise([life.how for life in evidence.lives[:2]] == ["killed"] * 2, "two engines that are killed")
    claims.premise(evidence.lives[2].begin < end - 200, "a third one that begins in the pause")
    assert [each for each in evidence.requests if told.answered < each.sent < end - 1_000] == []
    assert [each.status for each in evidence.requests if each.status in (418, 429)] == [429]
    [(bare, covered)] = claims.uncovered(evidence)
    assert bare < told.answered
    assert covered <= end + 5_000
    assert claims.is_left_in_order(evidence, within_s=pause_s + 5.5)
