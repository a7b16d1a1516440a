"""Stories of group B, the account's picture.

Not told here, and what is lacking:

- B1, trades between two runs, and more than 1,000 since the anchor: needs a plan of two runs on one account.
- B3, lost news of hedge mode or of the margin type while a position is held: as at Binance, both are refused then.
- B5, orders on the new tick: in `test_changes.py`, at a venue whose tick changes; here frames and answers are altered
  on their way, and the venue keeps the old one.
- B7, a stranger's conditional order that rests, triggers or is a TWAP: needs foreign ones at the venue (V33); here the
  event alone is told.
- B9 (a), a start with another symbol, and a symbol in SETTLING: needs a plan of two runs, and a venue with that status
  (V23); here the symbol is closed at once, and the run is gone on with.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from simulation.scenario import at
from simulation.stories.claims import (
    alerts,
    ended,
    entries,
    fills,
    heaviest_minute,
    is_left_in_order,
    money,
    open_at_end,
    position_at_end,
    premise,
    questions,
    refused,
    round_trips,
    uncovered_s,
    wallet_change,
    when,
)
from simulation.stories.plots import DOWN, SYMBOL, answers, by_hand, events, rarely, replacing, story

MOST_WEIGHT = 1_920
"""80 % of what a minute may cost."""
LATER = {"first_bar": 45}
"""Enters 11.8 s after the opening."""
OTHER_SYMBOL = '{"e":"ACCOUNT_CONFIG_UPDATE","E":$now,"T":$now,"ac":{"s":"LTCUSDT","l":7}}'
UNREADABLE = '{"e":"ORDER_TRADE_UPDATE","E":$now,"T":$now,"o":{}}'
FOREIGN_STOP = (
    '{"e":"ALGO_UPDATE","T":$now,"E":$now,"o":{"caid":"android_x1","aid":900,"at":"CONDITIONAL","o":"STOP_MARKET",'
    '"s":"BTCUSDT","S":"SELL","ps":"BOTH","f":"GTC","q":"0.010","X":"STATUS","ai":"","ap":"0","aq":"0","act":"",'
    '"tp":"70000.0","p":"0","V":"EXPIRE_MAKER","wt":"CONTRACT_PRICE","pm":"NONE","cp":false,"pP":false,"R":true,'
    '"tt":0,"gtd":0,"rm":""}}'
)
OLD_TRADE = (
    '[{"symbol":"BTCUSDT","id":900,"orderId":900,"side":"BUY","price":"78000.05","qty":"0.010","quoteQty":"780.0005",'
    '"realizedPnl":"0","commission":"0","commissionAsset":"USDT","time":1767000000000,"positionSide":"BOTH",'
    '"buyer":true,"maker":false}]'
)
FOREIGN_ORDER = (
    '[{"orderId":900,"symbol":"BTCUSDT","status":"NEW","clientOrderId":"android_x1","price":"70000.05","avgPrice":"0",'
    '"origQty":"0.010","executedQty":"0","cumQty":"0","cumQuote":"0","timeInForce":"GTC","type":"LIMIT",'
    '"reduceOnly":false,"closePosition":false,"side":"BUY","positionSide":"BOTH","stopPrice":"0",'
    '"workingType":"CONTRACT_PRICE","priceProtect":false,"origType":"LIMIT","priceMatch":"NONE",'
    '"selfTradePreventionMode":"EXPIRE_MAKER","goodTillDate":0,"time":1767000000000,"updateTime":1767000000000}]'
)
FOREIGN_TWAP = (
    '[{"algoId":900,"clientAlgoId":"android_x2","algoType":"TWAP","orderType":"TWAP","symbol":"BTCUSDT","side":"BUY",'
    '"positionSide":"BOTH","timeInForce":"GTC","quantity":"1.000","algoStatus":"WORKING","actualOrderId":"",'
    '"actualPrice":"0","price":"0","workingType":"CONTRACT_PRICE","priceProtect":false,"reduceOnly":false,'
    '"createTime":1767000000000,"updateTime":1767000000000,"triggerTime":0,"goodTillDate":0}]'
)
"""As far as is known: what a TWAP looks like in openAlgoOrders must be checked on demo."""


# --- B1: whose trades these are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["abort", "kill"])
def test_b1_trades_from_before_the_entry_are_no_exits(again: str) -> None:
    """A person buys and sells 0.1 BTC and lets us go on; then a cut or a restart has the account read in position."""
    strike = at(20, "abort", on="private") if again == "abort" else at(20, "kill")
    by_a_person = by_hand(2, "BUY", "0.1"), by_hand(4, "SELL", "0.1"), at(5, "operator", action="resume")
    evidence = story(*by_a_person, strike, take_profit_atr=60.0, **LATER)
    assert len(fills(evidence, "e")) == 1
    assert position_at_end(evidence) == 0
    assert is_left_in_order(evidence)


def test_b1_old_trades_of_the_whole_quantity_do_not_close_the_position() -> None:
    """The same of as much as we hold."""
    by_a_person = by_hand(2, "BUY", "0.225"), by_hand(4, "SELL", "0.225"), at(5, "operator", action="resume")
    evidence = story(*by_a_person, at(20, "abort", on="private"), capital=9_000, **LATER)
    premise(fills(evidence, "e")[0]["quantity"] == "0.225", "as much as a person traded")
    cancelled = [row["time"] for row in evidence.of_kind("algo") if row["status"] == "CANCELED"]
    assert min(cancelled) > when(evidence, 45)
    assert is_left_in_order(evidence)


@pytest.mark.parametrize(
    ("trades", "closed"),
    [
        ((by_hand(5, "SELL", "0.5"),), [250]),
        rarely((by_hand(5, "BUY", "0.1"), by_hand(10, "SELL", "0.2")), []),
        rarely((by_hand(5, "BUY", "0.1"), by_hand(10, "SELL", "0.6")), [250]),
    ],
    ids=["reversed in the app", "more than was added", "added and reversed"],
)
def test_b1_trades_by_hand_of_more_than_theirs_close_ours(trades: Any, closed: list[int]) -> None:
    """A person sells more than they have: the rest was ours. Our books kept it, and the session never ended."""
    evidence = story(*trades, duration_s=30.0, on_duration_end="protect")
    assert [trip["quantity"] for trip in round_trips(evidence)] == closed
    assert len(open_at_end(evidence)) == (0 if closed else 1)
    assert ended(evidence)


def test_b1_order_by_hand_that_closes_ours_and_goes_on_is_left_alone() -> None:
    """A person's limit order fills bit by bit: it closes our 0.25, and opens 0.15 of theirs, which we closed once."""
    rises = [(10, 80_000.0), (12, 80_040.0), (30, 80_040.0)]
    theirs = at(5, "order", with_={**SYMBOL, "side": "SELL", "quantity": "0.4", "type": "LIMIT", "price": "80020"})
    evidence = story(theirs, path=rises, lots=20, duration_s=40.0, on_duration_end="protect")
    premise(sum(row["client_order_id"] == "web_by_hand" for row in evidence.of_kind("fill")) == 20, "many fills")
    assert fills(evidence, "x") == []
    assert [trip["quantity"] for trip in round_trips(evidence)] == [250]
    assert open_at_end(evidence) == []
    assert ended(evidence)


# --- B2: what questions cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [OTHER_SYMBOL, UNREADABLE], ids=["other symbol", "unreadable"])
def test_b2_requests_for_the_account_merge(event: str) -> None:
    """The account can't be read for 10 s, and five events, 20 ms apart, each ask for it."""
    asking = [at(6 + 0.02 * number, "tell", category="private", text=event) for number in range(5)]
    evidence = story(at(5, "answer", 10, on="GET /fapi/v3/account", **DOWN), *asking, duration_s=20.0)
    assert len(questions(evidence, "/fapi/v3/account", when(evidence, 6), when(evidence, 15))) <= 10
    assert refused(evidence, -1003) == []
    assert heaviest_minute(evidence) <= MOST_WEIGHT
    assert is_left_in_order(evidence)


def test_b2_a_flood_of_events_that_ask_for_the_account_leaves_the_weight_to_orders() -> None:
    """Ten a second for 20 s: read as fast as answers come, they used up the weight of the minute within ten seconds."""
    asking = [at(6 + 0.1 * number, "tell", category="private", text=UNREADABLE) for number in range(200)]
    evidence = story(*asking, duration_s=40.0)
    assert refused(evidence, -1003) == []
    assert heaviest_minute(evidence) <= MOST_WEIGHT / 2
    assert is_left_in_order(evidence)


def test_b2_account_update_without_the_quote_asset_is_no_fault() -> None:
    """Fees are paid in BNB, so that ACCOUNT_UPDATE lists BNB alone while an entry fills in 23 parts."""
    only_bnb = '"B":[{"a":"BNB","wb":"1","cw":"1","bc":"0"}]'
    told = events(300, "^user", replacing(r'"B":\[[^]]*\]', only_bnb))
    fees = events(300, "^user", replacing('"N":"USDT"', '"N":"BNB"'))
    evidence = story(told, fees, lots=11, duration_s=20.0)
    assert refused(evidence, -1003) == []
    assert len(questions(evidence, "/fapi/v3/account")) <= 10
    assert is_left_in_order(evidence)


# --- B3: what nobody tells --------------------------------------------------------------------------------------------


def test_b3_stop_cancelled_by_hand_is_found_though_no_event_tells() -> None:
    """The stop is cancelled by hand and its event is lost."""
    untold = at(9, "drop", on="user ALGO_UPDATE CANCELED"), at(10, "cancel_stops", with_=SYMBOL)
    evidence = story(*untold, duration_s=90.0)
    assert questions(evidence, "openAlgoOrders", when(evidence, 10), when(evidence, 70))
    assert is_left_in_order(evidence, within_s=65.0)


def test_b3_leverage_changed_by_hand_is_found_though_no_event_tells() -> None:
    """Leverage is set to 9 by hand and its event is lost."""
    untold = at(9, "drop", on="user ACCOUNT_CONFIG_UPDATE"), at(10, "leverage", with_={**SYMBOL, "leverage": 9})
    evidence = story(*untold, duration_s=150.0, cooldown_bars=1, max_holding_s=20.0)
    assert any("leverage" in text for text in alerts(evidence))
    assert entries(evidence, when(evidence, 70)) == []
    assert is_left_in_order(evidence)


def test_b3_stop_that_the_price_has_passed_is_asked_about() -> None:
    """The price falls through the stop while the user stream is silent."""
    falls = [(0.0, 80_000.0), (10.0, 80_000.0), (12.0, 79_000.0)]
    evidence = story(at(9, "deaf", 200, category="private"), path=falls)
    passed = next(row["time"] for row in evidence.of_kind("algo") if row["status"] == "TRIGGERING")
    asked = ("GET /fapi/v1/algoOrder", "openAlgoOrders", "positionRisk", "/fapi/v3/account")
    assert any(questions(evidence, path, passed, passed + 5_000) for path in asked)
    assert is_left_in_order(evidence)


# --- B4: only the socket says up --------------------------------------------------------------------------------------


def test_b4_failed_reading_does_not_raise_a_link_that_is_down() -> None:
    """The user stream comes back, the account can't be read once, and the stream goes down for good."""
    once = at(10, "answer", 20, on="GET /fapi/v3/account", times=1, **DOWN)
    for_good = at(10.5, "undialable", 300, category="private"), at(10.5, "abort", on="private")
    evidence = story(at(10, "abort", on="private"), once, *for_good, first_bar=50)
    assert entries(evidence) == []
    assert is_left_in_order(evidence)


def test_b4_reading_from_before_a_drop_lets_nothing_enter_after_it() -> None:
    """A reading that began while the user stream was up is answered when it is down for good."""
    for_good = at(10.5, "undialable", 300, category="private"), at(10.5, "abort", on="private")
    late = at(10, "delay_answer", 2, on="GET /fapi/v3/account")
    evidence = story(at(10, "abort", on="private"), late, *for_good, first_bar=50)
    assert entries(evidence) == []
    assert is_left_in_order(evidence)


# --- B5, B6: prices off the tick --------------------------------------------------------------------------------------


def test_b5_trades_off_the_tick_have_the_filters_read_again() -> None:
    """While a session runs the tick becomes 0.01: trades come at prices off the old one.

    Each was dropped once: no bars, no question, no alert.
    """
    prices = replacing(r'"p":"(\d+\.\d)\d*"', r'"p":"\g<1>3"')
    filters = answers(300, "exchangeInfo", replacing('"tickSize":"0.10"', '"tickSize":"0.01"'), at_s=10)
    told = events(300, "^market", prices, at_s=10), answers(300, "aggTrades", prices, at_s=10)
    evidence = story(*told, filters, duration_s=75.0)
    assert questions(evidence, "exchangeInfo", when(evidence, 10), when(evidence, 70))
    assert alerts(evidence) != []
    assert is_left_in_order(evidence)


def test_b5_fill_off_the_tick_is_a_position_all_the_same() -> None:
    """Our fills come at prices off the tick that we know, in events, answers and userTrades.

    None was counted once: 0.250 BTC without a stop, and the session never ended.
    """
    fills_told = events(300, "^user", replacing(r'"(L|ap)":"(\d\d+\.\d)\d*"', r'"\1":"\g<2>5"'))
    orders = answers(300, "/order", replacing(r'"avgPrice":"(\d\d+\.\d)\d*"', r'"avgPrice":"\g<1>5"'))
    trades = answers(300, "userTrades", replacing(r'"price":"(\d+\.\d)\d*"', r'"price":"\g<1>5"'))
    evidence = story(fills_told, orders, trades, duration_s=20.0)
    assert is_left_in_order(evidence)


@pytest.mark.parametrize(
    ("path", "rows"),
    [("userTrades", OLD_TRADE), ("openOrders", FOREIGN_ORDER), ("openAlgoOrders", FOREIGN_TWAP)],
    ids=["old trade", "foreign order", "TWAP"],
)
def test_b6_history_and_strangers_off_the_tick_refuse_no_start(path: str, rows: str) -> None:
    """For its first 3 s the account lists something that our filters can't read."""
    evidence = story(answers(3, path, lambda listed: listed or json.loads(rows)))
    assert [life.how for life in evidence.lives] == ["ended"], evidence.lives
    assert len(entries(evidence)) == 1
    assert is_left_in_order(evidence)


# --- B7 to B10 --------------------------------------------------------------------------------------------------------


def test_b7_strangers_conditional_order_blocks_entries_only_while_it_is_there() -> None:
    """A stranger's stop is placed, and cancelled 1 s later."""
    told = [
        at(2 + number, "tell", category="private", text=FOREIGN_STOP.replace("STATUS", status))
        for number, status in enumerate(["NEW", "CANCELED"])
    ]
    evidence = story(*told, duration_s=90.0, **LATER)
    assert questions(evidence, "openAlgoOrders", when(evidence, 2.1), when(evidence, 63))
    assert len(entries(evidence)) == 1
    assert is_left_in_order(evidence)


def test_b8_round_trip_is_booked_once() -> None:
    """A part of the entry is told 20 s late, and userTrades can't be read meanwhile; then `flatten`."""
    unread = at(0.9, "answer", 14, on="GET /fapi/v1/userTrades", **DOWN)
    late = at(0, "delay", 20, on="user ORDER_TRADE_UPDATE PARTIALLY_FILLED vt-e0-1e")
    evidence = story(late, unread, at(5, "operator", action="flatten"), lots=150)
    assert [trip["id"] for trip in round_trips(evidence)] == [1]
    assert sum(money(trip["net"]) for trip in round_trips(evidence)) == wallet_change(evidence)


def test_b9_position_that_a_delisting_settled_is_booked_at_the_next_start() -> None:
    """While the engine is away the symbol is delisted and the position is settled."""
    evidence = story(at(10, "kill"), at(10.5, "settle", with_=SYMBOL))
    assert all(life.how != "failed" for life in evidence.lives), evidence.lives
    assert len(round_trips(evidence)) == 1
    assert is_left_in_order(evidence)


@pytest.mark.parametrize("by", ["hand", "deleveraging"])
def test_b9_position_that_was_closed_while_away_is_booked(by: str) -> None:
    """The same of a close by hand and of a deleveraging. Holds today where the run is gone on with."""
    closed = by_hand(10.2, "SELL", "0.25") if by == "hand" else at(10.5, "deleverage", with_=SYMBOL)
    evidence = story(at(10, "kill"), closed)
    assert len(round_trips(evidence)) == 1
    assert fills(evidence, "x") == []
    assert is_left_in_order(evidence)


def test_b10_leverage_changed_by_hand_leaves_weight_for_what_protects() -> None:
    """In a position leverage is set to 10 by hand, and half a minute later the stop is cancelled by hand.

    Read each second, the account is silent after a quarter of a minute: no stop can be sent then, nor an exit.
    """
    evidence = story(at(5, "leverage", with_={**SYMBOL, "leverage": 10}), at(35, "cancel_stops", with_=SYMBOL))
    assert refused(evidence, -1003) == []
    assert heaviest_minute(evidence) <= MOST_WEIGHT
    assert uncovered_s(evidence) <= 5.0
    assert ended(evidence)


def test_b10_account_that_can_not_be_read_for_a_minute_leaves_weight_for_what_protects() -> None:
    """A sibling: the requests themselves are refused, while the stop is cancelled by hand."""
    reads = "GET /fapi/v[123]/(account|positionRisk|openOrders|openAlgoOrders|userTrades)"
    refusing = at(5, "refuse", 60.0, on=reads, code=-1001, times=0, until_s=65.0)
    evidence = story(refusing, at(6, "abort", on="private"), at(35, "cancel_stops", with_=SYMBOL))
    assert refused(evidence, -1003) == []
    assert heaviest_minute(evidence) <= MOST_WEIGHT
    assert uncovered_s(evidence) <= 5.0
    assert ended(evidence)


def test_b10_account_that_was_read_again_is_read_soon_the_next_time() -> None:
    """Each of two stretches of refusals begins with a pause of 1 s."""
    reads = "GET /fapi/v[123]/(account|positionRisk|openOrders|openAlgoOrders|userTrades)"
    evidence = story(
        *(at(begin, "refuse", 10.0, on=reads, code=-1001, times=0, until_s=begin + 10.0) for begin in (5.0, 30.0)),
        *(at(begin, "abort", on="private") for begin in (6, 31)),
    )
    failed = [each.sent for each in evidence.requests if each.path == "/fapi/v3/account" and each.code == -1001]
    for begin in (5_000, 30_000):
        first, second, third = [time for time in failed if 0 <= time - evidence.opened - begin < 10_000][:3]
        assert 900 < second - first < 1_500
        assert 1_900 < third - second < 2_500
