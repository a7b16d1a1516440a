"""Group C of the fault cases: streams that are silent, flap, lag or lie.

| case | not told here, since |
|---|---|
| C9 | hosts of streams are no settings yet; `doctor` is a command of its own |
| C3, close after the first frame | the network closes a socket at once or not at all |
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from simulation.evidence import Evidence
from simulation.plans import RULE
from simulation.scenario import at, scenario
from simulation.stories import claims
from simulation.stories.plots import PRICE, answers, story
from simulation.tapes import path_tape


def dials(evidence: Evidence, category: str, begin_s: float, end_s: float = 1e6) -> list[str]:
    """Where sockets of a category were opened to, between two moments of a story."""
    moments = claims.when(evidence, begin_s), claims.when(evidence, end_s)
    return [url for time, url in evidence.dials if f"/{category}/" in url and moments[0] <= time < moments[1]]


@pytest.mark.parametrize(
    "before",
    [(), (at(0.3, "abort", on="private"),), (at(0.3, "expire_listen_key"),)],
    ids=["first connect", "reconnect", "listen key renewed"],
)
def test_c1_a_user_stream_that_never_speaks_is_found_by_the_first_order(before: Any) -> None:
    """The private socket is accepted and brings no frame, from the first connect on or after another; then an order.

    Its fill is learnt when the order is overdue, after 10 s without a stop, and nobody dials anew.
    """
    evidence = story(*before, at(0.55, "deaf", 600, category="private"))
    assert dials(evidence, "private", 1.0, 17.0)
    assert claims.is_left_in_order(evidence)


def test_c1_a_user_stream_that_falls_silent_does_not_hide_the_stops_fill() -> None:
    """The stream falls silent in position; the price goes through the stop. The exit must be known within 15 s."""
    path = [(40.0, PRICE), (45.0, PRICE - 300)]
    evidence = story(at(20, "deaf", 600, category="private"), path=path, duration_s=90.0)
    [filled] = claims.fills(evidence, "s")
    [known] = [row for row in evidence.journals[0] if row.kind == "RoundTrip"]
    assert known.time - filled["time"] <= 15_000


def test_c1_a_user_stream_that_falls_silent_while_flat_lets_nothing_be_entered_bare() -> None:
    """The stream falls silent before the first signal, half a minute into the session; then an entry fills."""
    evidence = story(at(20, "deaf", 600, category="private"), first_bar=60, duration_s=90.0)
    assert claims.entries(evidence, claims.when(evidence, 30))
    assert claims.is_left_in_order(evidence)


@pytest.mark.parametrize("silent_s", [0.2, 20.0], ids=["from the first", "later"])
def test_c2_silent_trades_are_found_though_marks_go_on(silent_s: float) -> None:
    """Subscribed, and then only mark prices come, one each 5 s. REST is asked or the stream dialled within 20 s."""
    evidence = story(at(silent_s, "drop", on="market aggTrade", times=0), mark_interval_s=5, duration_s=60.0)
    begin, end = claims.when(evidence, silent_s + 0.5), claims.when(evidence, silent_s + 20)
    asked = claims.questions(evidence, "GET /fapi/v1/aggTrades", begin, end)
    assert asked or dials(evidence, "market", silent_s + 0.5, silent_s + 20)


@pytest.mark.parametrize("category", ["private", "market"])
def test_c3_a_flapping_socket_is_dialled_ever_more_slowly(category: str) -> None:
    """A socket is lost, and each new one is closed with 1001 as soon as it is open, for half a minute.

    Binance allows 300 connections in 5 minutes. The market's counts as up only when its subscription is answered, so
    that its pauses grow today already.
    """
    evidence = story(at(20, "flap", 30, category=category), at(20, "abort", on=category), duration_s=70.0)
    assert 3 <= len(dials(evidence, category, 20.0, 50.0)) <= 30
    assert claims.refused(evidence, -1003) == []
    assert len(claims.questions(evidence, "/positionRisk", claims.when(evidence, 20), claims.when(evidence, 50))) <= 30
    assert claims.is_left_in_order(evidence)


OUTAGES = (10.0, 60.0), (100.0, 30.0), (210.0, 10.0)
"""When a stream is lost and can't be dialled, in seconds: from when on, and for how long."""


def pauses(evidence: Evidence, category: str, begin_s: float, for_s: float) -> list[float]:
    """Return the seconds from the loss of a stream to the first dial that nobody took, and from each to the next."""
    begin, end = claims.when(evidence, begin_s), claims.when(evidence, begin_s + for_s)
    tried = [time for time, url in evidence.undialled if f"/{category}/" in url and begin <= time < end]
    return [(time - before) / 1000 for before, time in pairwise([begin, *tried])]


@pytest.mark.parametrize("category", ["market", "private"])
def test_c3_a_stream_that_cannot_be_dialled_waits_ever_longer_and_not_once_it_was_healthy(category: str) -> None:
    """It can't be dialled for 60 s; is up for 25 s, can't be dialled for 30 s; is up for 75 s, and once more.

    A connection of a minute ends the pauses of before, a shorter one doesn't. None is longer than 5 s: ccxt's own,
    which double up to 30 s, don't come on top.
    """
    lost = [at(begin_s, "undialable", for_s, category=category, lost=True) for begin_s, for_s in OUTAGES]
    evidence = story(*lost, duration_s=240.0, first_bar=10**6)
    first, again, anew = (pauses(evidence, category, *outage) for outage in OUTAGES)
    growing = [0.05, 0.2, 0.5, 1.0, 2.0]
    assert first == pytest.approx(growing[1:] + [5.0] * 11, abs=0.15)
    assert again == pytest.approx([5.0] * 5, abs=0.15)
    assert anew == pytest.approx([*growing, 5.0], abs=0.15)
    assert all(dials(evidence, category, sum(outage), sum(outage) + 5.3) for outage in OUTAGES)


def test_c4_a_stop_does_not_wait_for_the_listen_keys_renewal() -> None:
    """The renewal, half an hour after the dial, is answered after 4.9 s; 0.3 s after it was sent an entry fills."""
    slow = at(1790, "delay_answer", 4.9, on="PUT /fapi/v1/listenKey")
    dialled = at(16.2, "abort", on="private")  # so that the renewal is due just before the signal and its fill
    evidence = story(dialled, slow, every_s=2.5, first_bar=93, duration_s=1_840.0)
    [renewal] = [row for row in evidence.requests if (row.method, row.path) == ("PUT", "/fapi/v1/listenKey")]
    [filled] = claims.fills(evidence, "e")
    claims.premise(renewal.sent < filled["time"] < renewal.sent + 2_000, "a fill during the renewal")
    assert claims.is_left_in_order(evidence, within_s=2.0)


def test_c5_a_renewal_that_answers_with_another_key_leads_to_that_key() -> None:
    """PUT listenKey answers 200 with a key that is not ours. The private stream is dialled anew with it."""
    other = at(1790, "alter_answer", on="PUT /fapi/v1/listenKey", with_={"listenKey": "other"})
    evidence = story(other, every_s=5.0, duration_s=1_830.0)
    assert any(url.endswith("=other") for url in dials(evidence, "private", 1_800.0, 1_815.0))


def test_c6_a_trade_that_comes_one_place_late_is_no_gap() -> None:
    """While REST answers 418 for a minute, a fifth of the trades come one place late. None of them is missing."""
    late = at(30, "reorder", on="market aggTrade", chance=0.2, times=0, until_s=90.0)
    evidence = story(at(29, "ban", 62, code=418), late, duration_s=100.0)
    claims.premise(len(evidence.of_kind("fault")) > 50, "many trades that are late")
    assert [text for text in claims.alerts(evidence) if text.startswith("FEED_GAP")] == []
    assert not any(row.body["tainted"] for row in evidence.journals[0] if row.kind == "Bar")


def test_c7_a_tenfold_price_in_one_trade_is_told() -> None:
    """One trade at 799,999.0 in a market at 80,000. A person is warned, and no order leaves on its account."""
    evidence = story(at(30, "alter", on="market aggTrade", with_={"p": "799999.0"}))
    assert claims.alerts(evidence, claims.when(evidence, 30))
    assert claims.is_left_in_order(evidence)


def test_c7_prices_that_stay_far_from_the_mark_are_told_once_a_minute() -> None:
    """From the third second on each trade is at nine times the mark price, for 80 s."""
    wrong = at(3, "alter", on="market aggTrade", with_={"p": "719999.0"}, times=0, until_s=83.0)
    evidence = story(wrong, mark_interval_s=5, first_bar=60, duration_s=90.0)
    told = [text for text in claims.alerts(evidence) if text.startswith("PRICE_OFF: a trade at 719999.0 is more than")]
    assert len(told) == 2


def one_lot_more(klines: list[Any]) -> list[Any]:
    return [[*row[:5], f"{float(row[5]) + 0.001:.3f}", *row[6:]] for row in klines]


def test_c8_one_lot_between_klines_and_trades_does_not_load_the_day() -> None:
    """Each minute's kline says one lot more than its trades; without that, 4 pages of trades are loaded."""
    tape = path_tape([(0, PRICE), (9_000, PRICE)], every_s=1.0)
    settings = {"rule": RULE, "unit": "base", "threshold": 10, "duration_s": 10.0}
    reworded = answers(60, "GET /fapi/v1/klines", one_lot_more)
    clean, evidence = (scenario(*strikes, tape=tape, begin_s=8_000.0, **settings) for strikes in ((), (reworded,)))
    path = "GET /fapi/v1/aggTrades"
    assert len(claims.questions(evidence, path)) <= len(claims.questions(clean, path)) + 2
    assert any(text.startswith("BAR_PHASE: klines differ") for text in claims.alerts(evidence))
    assert [text for text in claims.alerts(clean) if text.startswith("BAR_PHASE")] == []
