"""Stories of group A, orders and protection.

Not told here, and what is lacking:

- A12, each of ccxt's 93 codes: a table, not a story; three codes stand for their kinds here.
- A13, a settlement twice under one client id: after a settlement the symbol trades no more.
"""

from __future__ import annotations

from typing import Any

import pytest

from simulation.scenario import at
from simulation.stories.claims import (
    alerts,
    ended,
    entries,
    fills,
    halts,
    is_left_in_order,
    open_at_end,
    placed,
    position_at_end,
    premise,
    questions,
    refused,
    round_trips,
    uncovered,
    uncovered_s,
    when,
)
from simulation.stories.plots import (
    ALGO,
    EXIT,
    LOOK_UP,
    ORDER,
    SYMBOL,
    answers,
    by_hand,
    events,
    none_yet,
    rarely,
    refusal,
    replacing,
    story,
)
from voltrade.errors import ConfigError
from voltrade.strategy.rule_file import read_parameters

FALLS = ((0.0, 80_000.0), (10.0, 80_000.0), (30.0, 79_800.0))
"""Through the stop at 79,881 in the 22nd second."""
RISES = ((0.0, 80_000.0), (10.0, 80_000.0), (30.0, 80_200.0))
"""Through a target at 80,121 in the 22nd second."""


# --- A1: the entry is found FILLED before its fills arrive ------------------------------------------------------------


def test_a1_entry_filled_before_its_fills_is_not_forgotten() -> None:
    """Every order's answer is lost, and user data comes 1.5 s late: the look-up says FILLED before any fill is told."""
    lost, slow = at(0, "lose_answer", on=ORDER, times=0), at(0, "slow", 200, by_s=0.3)
    evidence = story(lost, slow, at(0, "user_late", 200, by_s=1.5), duration_s=20.0)
    assert len(entries(evidence)) == 1
    assert is_left_in_order(evidence)


def test_a1_entry_whose_fills_are_lost_is_found_by_the_account() -> None:
    """One fill event is lost, and for 3.5 s userTrades does not list the fill: the first snapshot can't explain it."""
    lag = answers(3.5, "userTrades", none_yet)
    evidence = story(at(0, "drop", on="user ORDER_TRADE_UPDATE FILLED vt-e0-1e"), lag)
    assert len(entries(evidence)) == 1
    assert is_left_in_order(evidence)


def test_a1_flatten_ends_only_when_the_exchange_says_0() -> None:
    """Half of the order events are lost, of exits and targets too, and the session ends with `flatten`."""
    lost = at(0, "drop", on="user ORDER_TRADE_UPDATE", times=0, chance=0.5)
    near = {"stop_atr": 10.0, "take_profit_atr": 5.0}
    evidence = story(lost, path=[(0.0, 80_000.0), (60.0, 80_200.0)], cooldown_bars=1, duration_s=60.0, **near)
    assert position_at_end(evidence) == 0
    assert is_left_in_order(evidence)


# --- A2: an order that was concluded absent is executed later ---------------------------------------------------------


@pytest.mark.parametrize("late_s", [20, rarely(40)])
def test_a2_entry_executed_after_it_was_concluded_absent_is_protected(late_s: float) -> None:
    """The entry is swallowed, concluded absent, and the next one is sent; then the exchange executes the first too."""
    evidence = story(at(0, "late", late_s, on=ORDER), cooldown_bars=1, duration_s=60.0)
    assert is_left_in_order(evidence)


def test_a2_late_entry_that_finds_us_flat_is_protected() -> None:
    """The same while an operator's pause keeps the next entry away: adopted and protected already."""
    untold = at(0, "drop", on="user ORDER_TRADE_UPDATE NEW vt-e0-1e1")  # else what rests of it is cancelled first
    evidence = story(at(0, "late", 20, on=ORDER), untold, at(5, "operator", action="pause"))
    assert [row["time"] > when(evidence, 20) for row in fills(evidence, "e")] == [True]
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("late_s", [20, rarely(50), 110])
def test_a2_late_entry_that_no_stream_reports_is_protected(late_s: float) -> None:
    """The same on a user stream that is silent from before the entry on: only a comparison can find the position."""
    silent, waits = at(-1, "deaf", 140, category="private"), at(5, "operator", action="pause")
    evidence = story(silent, waits, at(0, "late", late_s, on=ORDER), duration_s=140.0)
    assert [row["time"] > when(evidence, late_s) for row in fills(evidence, "e")] == [True]
    assert uncovered_s(evidence) <= 5
    assert is_left_in_order(evidence)


def test_a2_exit_executed_after_it_was_concluded_absent_is_booked() -> None:
    """An exit is swallowed, the stop closes the position, and a new entry fills; then the old exit closes that one."""
    falls = [(0.0, 80_000.0), (11.0, 80_000.0), (12.0, 79_700.0)]
    leaves, goes_on = at(10, "operator", action="flatten"), at(11, "operator", action="resume")
    evidence = story(leaves, goes_on, at(10, "late", 20, on=ORDER), path=falls, cooldown_bars=1)
    assert len(refused(evidence, -2022)) <= 1
    assert is_left_in_order(evidence)


def test_a2_stop_accepted_after_it_was_concluded_absent_is_cancelled() -> None:
    """A stop is swallowed and accepted 20 s later, when its position is gone and the next one has a stop of its own."""
    evidence = story(at(0, "late", 20, on=ALGO), cooldown_bars=1)
    assert open_at_end(evidence) == []
    assert is_left_in_order(evidence)


def test_a2_stop_that_is_left_over_is_cancelled_though_its_first_cancel_and_look_ups_fail() -> None:
    """The same, and while the late stop appears nothing about it is answered for 9 s: its cancel is not carried out."""
    silent = at(19, "answer", 10, on="(DELETE|GET) /fapi/v1/algoOrder.*1s1", status=504, body="")
    evidence = story(at(0, "late", 20, on=ALGO), silent, cooldown_bars=1, duration_s=60.0)
    answers_to = [row.body for row in evidence.journals[0] if row.kind == "Reply" and row.body["action"] == "cancel"]
    failed = [body for body in answers_to if body["client_order_id"].endswith("-1s1") and body["outcome"] == "UNKNOWN"]
    premise(failed, "a cancel without an answer")
    assert open_at_end(evidence) == []
    assert is_left_in_order(evidence)


# --- A3: absence is concluded from one endpoint -----------------------------------------------------------------------


@pytest.mark.parametrize("lag_s", [25.0, 1000.0])
def test_a3_absence_needs_more_than_one_kind_of_question(lag_s: float) -> None:
    """The entry is executed, its answer and its events are lost, and GET order says -2013; all other reads are true.

    Today it is "never placed" after 13 s, the position is never asked for, and 0.250 BTC are left without a stop.
    """
    lies = at(0, "refuse", on=LOOK_UP, code=-2013, times=0, until_s=lag_s)
    evidence = story(lies, at(0, "lose_answer", on=ORDER), at(0, "drop", on="user ORDER_TRADE_UPDATE", times=2))
    assert questions(evidence, "positionRisk", when(evidence, 0.6), when(evidence, 6))
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("late", ["openAlgoOrders", "positionRisk", "userTrades"])
def test_a3_a_list_that_lags_is_no_evidence(late: str) -> None:
    """The account is read while one of its lists is still empty (F10): one reading moves nothing."""
    lag = answers(6, late, none_yet, at_s=4)
    evidence = story(lag, at(5, "abort", on="private"))
    assert len(placed(evidence, "STOP_MARKET")) == 1
    assert fills(evidence, "x")[0]["time"] > when(evidence, 45)
    assert is_left_in_order(evidence)


# --- A4, A5, A6: what counts as protection ----------------------------------------------------------------------------


@pytest.mark.parametrize("at_the_end", ["flatten", "protect"])
def test_a4_stop_that_stays_triggering_is_left_by_an_exit(at_the_end: str) -> None:
    """The price falls through the stop, which stays TRIGGERING and fills nothing."""
    evidence = story(at(0, "stick_triggers", with_=SYMBOL), path=FALLS, on_duration_end=at_the_end)
    assert uncovered_s(evidence) <= 5.0
    assert position_at_end(evidence) == 0
    assert alerts(evidence) != []
    assert ended(evidence)


@pytest.mark.parametrize("filled", ["0", "0.100"])
def test_a4_order_of_a_trigger_that_stands_still_is_left_by_an_exit(filled: str) -> None:
    """The stop has TRIGGERED; its market order fills so much and then stays where it is."""
    evidence = story(at(0, "thin_book", with_={**SYMBOL, "quantity": filled}), path=FALLS)
    assert uncovered_s(evidence) <= 5.0
    assert position_at_end(evidence) == 0
    assert alerts(evidence) != []
    assert ended(evidence)


def test_a5_stop_that_the_exchange_has_lost_without_a_word_is_put_back() -> None:
    """Neither query nor list has it any more: the comparison of the next minute must find that out."""
    evidence = story(at(10, "forget_stops", with_=SYMBOL), duration_s=100.0)
    assert [stop["time"] < when(evidence, 80) for stop in placed(evidence, "STOP_MARKET")] == [True, True]
    assert position_at_end(evidence) == 0


def test_a5_stop_that_the_exchange_has_lost_is_put_back_beside_lots_of_somebody_else() -> None:
    """A person has added to the position, so that the account never has the one of our books."""
    evidence = story(by_hand(5, "BUY", "0.1"), at(30, "forget_stops", with_=SYMBOL), duration_s=110.0)
    assert [stop["time"] < when(evidence, 100) for stop in placed(evidence, "STOP_MARKET")] == [True, True]
    assert ended(evidence)
    assert open_at_end(evidence) == []


def test_a4_target_that_stays_triggering_is_left_by_an_exit() -> None:
    """The same of a take-profit: the stop still covers, and the target must be had by an exit all the same."""
    evidence = story(at(0, "stick_triggers", with_=SYMBOL), path=RISES, take_profit_atr=60.0)
    [triggered] = [row["time"] for row in evidence.of_kind("algo") if row["status"] == "TRIGGERING"]
    assert fills(evidence, "x")[0]["time"] <= triggered + 5_000
    assert ended(evidence)


def test_a5_stop_that_the_exchange_has_no_more_is_replaced() -> None:
    """A stop is gone and no event has told of it; the next snapshot does not list it, and its look-ups say -2013."""
    untold = at(9, "drop", on="user ALGO_UPDATE CANCELED"), at(10, "cancel_stops", with_=SYMBOL)
    absent = at(9, "refuse", on="GET /fapi/v1/algoOrder", code=-2013, times=0)
    evidence = story(*untold, absent, at(12, "abort", on="private"), duration_s=40.0)
    assert len(questions(evidence, "GET /fapi/v1/algoOrder")) <= 10
    assert is_left_in_order(evidence, within_s=8.0)  # 2 s of it before anybody could know


def test_a5_order_whose_cancel_was_carried_out_unheard_ends() -> None:
    """The cancel of a smaller stop is carried out, its answer and event are lost, and look-ups say -2013."""
    unheard = at(0, "answer", 20, on="DELETE /fapi/v1/algoOrder", times=1, status=504, body="", is_carried_out=True)
    gone = at(0, "answer", 300, on="GET /fapi/v1/algoOrder.*1s1", **refusal(-2013))
    evidence = story(unheard, gone, at(0, "drop", on="user ALGO_UPDATE CANCELED"), lots=125, duration_s=30.0)
    assert ended(evidence)
    assert is_left_in_order(evidence)


def test_a6_cover_is_measured_by_quantity() -> None:
    """Half of the entry has its stop; the larger one's POST is swallowed, and no look-up is answered.

    The entry's answer is lost, and its second fill is told late.
    """
    unknown = at(0, "refuse", on=LOOK_UP, code=-1001, times=0, until_s=45.0)
    half = at(0, "lose_answer", on=ORDER), at(0, "hold", on="user ORDER_TRADE_UPDATE FILLED vt-e0-1e", until_s=1.5)
    rises = [(0.4, 80_000.0), (1.4, 80_010.0)]  # the two fills are at two prices
    evidence = story(at(0, "swallow", on=ALGO, skip=1), unknown, *half, path=rises, lots=125)
    assert [stop["quantity"] for stop in placed(evidence, "STOP_MARKET")][:1] == ["0.125"]
    assert uncovered_s(evidence) <= 5.0
    assert alerts(evidence) != []


# --- A7: the loop -----------------------------------------------------------------------------------------------------


def test_a7_loop_returns_when_a_stop_triggers_while_its_entry_fills() -> None:
    """The stop of the first 0.040 BTC triggers and fills, then the entry's other 0.210 fill; no ALGO_UPDATE comes."""
    dips = [(0.8, 80_000.0), (0.9, 79_800.0)]
    untold = at(0, "drop", on="user ALGO_UPDATE (TRIGG|FINISH)", times=0)
    evidence = story(untold, path=dips, thin=(1.1, 40))
    assert [life.reason for life in evidence.lives] == ["DURATION_END"]
    assert is_left_in_order(evidence)


def test_a7_setting_that_would_never_let_the_loop_rest_is_refused() -> None:
    """Orders that are stale after less than a millisecond are due again as soon as they are asked about."""
    with pytest.raises(ConfigError, match="order_stale_s"):
        read_parameters(order_stale_s=0.0004)


# --- A8, A9, A10: exits that do not come through ----------------------------------------------------------------------


@pytest.mark.parametrize("code", [-4131, rarely(-2022)])
def test_a8_leaving_a_position_keeps_it_covered(code: int) -> None:
    """An operator's `flatten` meets the entry in flight; it fills, and each exit is refused for a minute."""
    too_late = at(0, "answer", 60, on="DELETE /fapi/v1/order", **refusal(-2011))
    evidence = story(at(0.7, "operator", action="flatten"), too_late, at(0, "answer", 60, on=EXIT, **refusal(code)))
    assert is_left_in_order(evidence)


def test_a9_exit_larger_than_a_market_order_may_be_is_split() -> None:
    """While 0.250 BTC are held the largest market order becomes 0.100; then the session ends with `flatten`."""
    smaller = at(10, "filters", with_={**SYMBOL, "market_max_quantity": 100})
    evidence = story(smaller, duration_s=30.0)
    assert len(refused(evidence, -4005)) <= 1
    assert is_left_in_order(evidence)


def test_a9_stop_has_the_tick_that_filters_have_now() -> None:
    """The tick becomes 7.0 while a position is held, and then its stop is cancelled by hand."""
    coarser = at(10, "filters", with_={**SYMBOL, "tick_multiple": 70})
    evidence = story(coarser, at(12, "cancel_stops", with_=SYMBOL))
    assert len(refused(evidence, -4014)) <= 1
    assert is_left_in_order(evidence)


def test_a9_engine_that_comes_back_reads_fills_of_an_earlier_step() -> None:
    """The step becomes 0.007 while 0.250 are held, and the engine is killed and started again."""
    coarser = at(10, "filters", with_={**SYMBOL, "step_multiple": 7})
    evidence = story(coarser, at(12, "kill"))
    assert [life.how for life in evidence.lives] == ["killed", "ended"]
    assert [trip["quantity"] for trip in round_trips(evidence)] == [250]
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("how", ["unknown", "gateway"])
def test_a10_swallowed_exit_does_not_block_the_next(how: str) -> None:
    """All stops are swallowed for half a minute, and so is the first exit."""
    stops = at(0, "swallow", on=ALGO, times=0, until_s=30.0, how=how)
    evidence = story(stops, at(0, "swallow", on=ORDER, skip=1, how=how))
    assert is_left_in_order(evidence)


# --- A11, A12: refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [-1003, rarely(-1008)])
def test_a11_refused_target_is_sent_again(code: int) -> None:
    """The take-profit is refused once for a passing reason."""
    once = at(0, "answer", 60, on=f"{ALGO} .*TAKE_PROFIT", times=1, **refusal(code))
    evidence = story(once, take_profit_atr=60.0)
    assert [row["quantity"] for row in placed(evidence, "TAKE_PROFIT_MARKET")] == ["0.250"]
    assert is_left_in_order(evidence)


def test_a11_target_has_the_size_of_the_position() -> None:
    """Two of three fill events are lost, and a snapshot tells of them."""
    lost = at(0, "drop", on="user ORDER_TRADE_UPDATE PARTIALLY_FILLED", times=2)
    evidence = story(lost, take_profit_atr=60.0, lots=100)
    assert placed(evidence, "TAKE_PROFIT_MARKET")[-1]["quantity"] == "0.250"
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("code", [rarely(-4411), -9999])
def test_a12_refusal_that_no_table_has_is_told_and_halts(code: int) -> None:
    """Each entry is refused with a code that every later one will get as well (-9999: one that nobody has seen)."""
    evidence = story(at(0, "answer", 300, on=ORDER, **refusal(code, "Please sign the agreement")), cooldown_bars=1)
    assert len(questions(evidence, ORDER)) == 1
    assert any("Please sign the agreement" in text for text in alerts(evidence))
    assert halts(evidence) != []


def test_a12_stop_beyond_the_largest_number_of_stops_is_answered_at_once() -> None:
    """A stop is refused with -4045."""
    evidence = story(at(0, "answer", 300, on=ALGO, **refusal(-4045, "Reach max stop order limit.")))
    assert uncovered_s(evidence) <= 2.0
    assert any("Reach max stop order limit." in text for text in alerts(evidence))


def test_a12_forbidden_again_and_again_halts() -> None:
    """Each order is answered with 403 and a page of HTML."""
    evidence = story(
        at(0, "answer", 300, on=ORDER, status=403, body="<html>403 Forbidden</html>"), cooldown_bars=1, duration_s=60.0
    )
    assert len(questions(evidence, ORDER)) <= 3
    assert halts(evidence) != []


# --- A13 to A16 -------------------------------------------------------------------------------------------------------


def test_a13_second_deleveraging_is_booked_to_the_position_in_hand() -> None:
    """Two positions are deleveraged one after the other, both by an order with the client id `adl_autoclose`."""
    deleveraged = at(10, "deleverage", with_=SYMBOL), at(25, "deleverage", with_=SYMBOL)
    one_id = replacing(r"adl_autoclose\d+", "adl_autoclose")
    told = events(300, "^user", one_id), answers(300, "Order|/order|userTrades", one_id)
    evidence = story(*deleveraged, *told, at(12, "operator", action="resume"), cooldown_bars=1)
    assert refused(evidence, -2022) == []
    assert is_left_in_order(evidence)


def test_a13_liquidation_in_two_parts_is_booked_to_the_position_in_hand() -> None:
    """Half of the position is liquidated, and then half of the rest; what is left keeps its stop."""
    halves = at(10, "liquidate", every_s=3, times=2, with_={**SYMBOL, "part": 0.5})
    evidence = story(halves)
    forced = [row["quantity"] for row in evidence.of_kind("fill") if row["client_order_id"].startswith("autoclose-")]
    assert forced == ["0.125", "0.062"]
    assert halts(evidence) != []
    assert is_left_in_order(evidence)


def test_a14_stop_that_is_cancelled_again_and_again_is_told() -> None:
    """Each 10 s the exchange cancels the stop. It is replaced at once each time, and told."""
    evidence = story(at(5, "cancel_stops", every_s=10, times=4, with_=SYMBOL))
    assert len(placed(evidence, "STOP_MARKET")) == 5
    assert is_left_in_order(evidence)
    assert alerts(evidence, when(evidence, 15)) != []


@pytest.mark.parametrize("kind", ["cancel_stops", "expire_stops"])
def test_a14_stop_that_ends_as_soon_as_it_rests_leads_to_an_exit(kind: str) -> None:
    """Each stop lives 20 ms. Each counts as cover, but a position can't be left to stops that end."""
    evidence = story(at(5, kind, every_s=0.02, times=0, with_=SYMBOL))
    assert len(placed(evidence, "STOP_MARKET")) == 3
    assert uncovered_s(evidence) <= 2.0
    assert [trip["exit_reason"] for trip in round_trips(evidence)] == ["STOP_REFUSED"]
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("sold", ["0.1", "0.25", "0.6"], ids=["a part", "all", "more than all"])
def test_a14_stop_that_vanishes_as_somebody_sells_from_the_position_is_missed_too(sold: str) -> None:
    """A sale by hand counts once every conditional order is accounted for, and a stop was gone only where positions
    agree: each waited for the other. What remains of ours gets a stop, and the session ends."""
    evidence = story(by_hand(5, "SELL", sold), at(5.1, "forget_stops", with_=SYMBOL), duration_s=90.0)
    assert is_left_in_order(evidence, within_s=10.0) if sold == "0.1" else ended(evidence)
    assert len(refused(evidence, -2022)) <= 1
    assert [trip["quantity"] for trip in round_trips(evidence)] == [250]


@pytest.mark.parametrize("silence", [("ban", {"code": 418}), ("maintenance", {"on": "private"})], ids=["418", "503"])
def test_a15_end_of_a_silence_brings_the_stop_or_the_exit(silence: tuple[str, dict[str, Any]]) -> None:
    """The stop's POST meets a 503, and then the exchange wants silence for 40 s."""
    kind, facts = silence
    evidence = story(at(0, "swallow", on=ALGO, how="down"), at(0.85, kind, 40, **facts))
    assert is_left_in_order(evidence)
    asked = [*questions(evidence, ALGO, when(evidence, 40.85)), *questions(evidence, ORDER, when(evidence, 40.85))]
    after_s = (min(request.sent for request in asked) - when(evidence, 40.85)) / 1000
    assert after_s <= (1.1 if kind == "ban" else 5.0)  # Retry-After is in whole seconds; a maintenance says nothing


LOST: dict[str, Any] = {"status": 504, "body": ""}
READS = "GET /fapi/v./(order|algoOrder|account|positionRisk|openOrders|openAlgoOrders|userTrades|symbolConfig)"


@pytest.mark.parametrize("executed", [False, True], ids=["lost", "executed"])
def test_a15_an_account_that_cannot_be_read_keeps_no_exit_from_being_sent(executed: bool) -> None:
    """Stops and exits have no answer for 78 s, by when no row is free, and the account can't be read for 160 s.

    What is sent after 78 s arrives: it must not wait until the others are looked up. Where the first exit was executed,
    its fill is told after 100 s, and counts although its row is another's by then.
    """
    lost = at(0, "answer", 78, on=ALGO, **LOST), at(0, "answer", 78, on=EXIT, is_carried_out=executed, **LOST)
    late = [at(0.7, "user_late", 80, by_s=100.0)] if executed else []
    evidence = story(*lost, at(0.75, "answer", 160, on=READS, **LOST), *late, duration_s=190.0)
    premise(len(questions(evidence, ORDER, 0, when(evidence, 78))) > 12, "many exits without an answer")
    if executed:
        assert max(end for _, end in uncovered(evidence)) <= when(evidence, 4)
    else:
        assert max(end for _, end in uncovered(evidence)) <= when(evidence, 78 + 6)
    assert (len(round_trips(evidence)), position_at_end(evidence)) == (1, 0)
    assert open_at_end(evidence) == []
    assert ended(evidence)


def test_a16_restart_puts_the_stop_back_before_it_leaves() -> None:
    """The engine is killed before the stop's POST leaves, and is back 5.9 s later."""
    evidence = story(at(0, "kill_at", what=f"send {ALGO}"), restart_s=5.9)
    back = evidence.lives[1].begin
    assert [stop["time"] <= back + 1_000 for stop in placed(evidence, "STOP_MARKET")] == [True]
    assert fills(evidence, "x")[0]["time"] > when(evidence, 45)
