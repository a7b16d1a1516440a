"""The exchange holds back its mark prices alone: the limits on losses go on working, by the prices of trades."""

from __future__ import annotations

from itertools import pairwise

from simulation.evidence import Evidence
from simulation.oracles import judge
from simulation.scenario import at
from simulation.stories import claims
from simulation.stories.plots import PRICE, story
from simulation.stories.test_c_streams import dials
from simulation.stories.test_d_money import FAR

FALL = [(25.0, PRICE), (26.0, PRICE - 500)]
"""A quarter of a coin loses 125 USDT, where 100 below the peak trading is halted; its stop is far away."""


def session(until_s: float, duration_s: float, **limits: float) -> Evidence:
    """Play a fall of the price while the exchange tells no mark price, from second 20 on."""
    silent = at(20, "drop", on="market markPrice", times=0, until_s=until_s)
    settings = {**FAR, "mark_interval_s": 1, "duration_s": duration_s, "cooldown_bars": 1, **limits}
    return story(silent, path=FALL, **settings)


def test_a_limit_on_losses_trips_by_last_prices_while_mark_prices_are_missing() -> None:
    """Ten seconds after the last mark price, and three more, since last prices must hold; nothing is done twice."""
    evidence = session(60.0, 90.0)
    [tripped] = [row for row in evidence.journals[0] if row.kind == "BreakerChange"]
    assert (tripped.body["rule"], tripped.body["action"]) == ("DRAWDOWN", "flatten")
    assert claims.when(evidence, 32) <= tripped.time <= claims.when(evidence, 34.5)
    [closed] = claims.round_trips(evidence)
    assert closed["closed_at"] <= tripped.time + 1_000
    assert [len(claims.fills(evidence, purpose)) for purpose in "exs"] == [1, 1, 0]
    assert (judge(evidence), evidence.replay) == ([], [0])


def test_an_engine_that_is_killed_meanwhile_goes_on_by_last_prices() -> None:
    """The price falls only 10 s after the kill; what was missing before it isn't waited for once more."""
    silent = at(20, "drop", on="market markPrice", times=0, until_s=1_000.0)
    path = [(45.0, PRICE), (46.0, PRICE - 500)]
    settings = {**FAR, "mark_interval_s": 1, "duration_s": 80.0, "cooldown_bars": 1}
    evidence = story(silent, at(35, "kill"), path=path, **settings)
    [tripped] = [row for row in evidence.journals[0] if row.kind == "BreakerChange"]
    assert tripped.body["rule"] == "DRAWDOWN"
    assert claims.when(evidence, 48) <= tripped.time <= claims.when(evidence, 51)
    assert len([text for text in claims.alerts(evidence) if text.startswith("MARK_PRICE")]) == 1
    assert (judge(evidence), evidence.replay) == ([], [0])


def test_what_is_missing_is_told_once_and_dialled_for_ever_more_slowly() -> None:
    """Connections are opened beside the present one at once, after 20 s and after 40 s more, and none is cut."""
    evidence = session(100.0, 165.0, max_drawdown_fraction=0.5)
    told = [text for text in claims.alerts(evidence) if text.startswith("MARK_PRICE")]
    assert [text.partition(":")[2][:20] for text in told] == [" none for 10 s while", " mark prices come ag"]
    dialled = [time for time, url in evidence.dials if "/market/" in url][1:]
    assert [round((later - time) / 1_000) for time, later in pairwise(dialled)] == [20, 40]
    assert len(dials(evidence, "market", 28, 33)) == 1
    assert [row.body for row in evidence.journals[0] if row.kind == "StreamStatus" and not row.body["up"]] == []
    points = [row for row in evidence.journals[0] if row.kind == "EquityPoint" and row.time > claims.when(evidence, 31)]
    back = claims.when(evidence, 101.5)
    assert {row.body["valued_at"] for row in points if row.time < back} == {"last"}
    assert {row.body["valued_at"] for row in points if row.time > back} == {"mark"}
    assert (judge(evidence), evidence.replay) == ([], [0])
