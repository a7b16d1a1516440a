"""How orders fill, by hand arithmetic. See `exchanges` for the units."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import an_instrument
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    Row,
    a_coin,
    ahead,
    conditional,
    fills,
    holding,
    limit,
    marked,
    market,
    played,
    quoted,
    stop,
    take_profit,
    told,
    trailing,
)

from voltrade.model import MarkPrice, OrderRequest, OrderType, Side, TimeInForce, WorkingType, money
from voltrade.simulated.fill_model import slipped_price
from voltrade.simulated.refusals import VenueRefusal

# --- market orders ----------------------------------------------------------------------------------------------------


def test_a_market_order_is_done_when_it_arrives_by_the_trades_that_follow() -> None:
    exchange = quoted()
    exchange.place_order(market(BUY, 10))
    ahead(exchange, (50, 1_000, "b", 4), (51, 999, "s", 50), (51, 1_001, "b", 4), (60, 1_002, "b", 9))
    exchange.advance(T0 + 49)
    assert exchange.query_order(SYMBOL, client_order_id="m").status == "NEW"
    exchange.outbox.clear()
    exchange.advance(T0 + 70)
    # 10 bps of 1,000 is 1; of 1,001 it is 1.001, which goes up to 2
    assert fills(exchange) == [("m", "BUY", 4, 1_001), ("m", "BUY", 4, 1_003), ("m", "BUY", 2, 1_004)]
    assert told(exchange) == ["m TRADE PARTIALLY_FILLED", "account ORDER"] * 2 + ["m TRADE FILLED", "account ORDER"]
    assert {fill.time for fill in exchange.user_trades()} == {T0 + 50}
    paid = 4 * 1_001 + 4 * 1_003 + 2 * 1_004
    assert exchange.query_order(SYMBOL, client_order_id="m").filled_notional == paid
    assert exchange.position(SYMBOL).entry_price == "1002.4"
    assert exchange.account.wallet == money(1_000_000) - money(paid) * 5 // 10_000
    assert [trade.trade_id for trade in exchange.user_trades(SYMBOL, after_id=1)] == [2, 3]
    assert (exchange.markets[SYMBOL].taken, exchange.markets[SYMBOL].extrapolated) == (paid, 0)


@pytest.mark.parametrize(
    ("rows", "filled", "extrapolated"),
    [
        ([(50, 1_000, "b", 4), (51, 1_000, "b", 9)], [(10, 1_001)], 0),  # fills of one price are one fill
        ([(50, 1_002, "b", 4), (51, 1_000, "b", 9)], [(10, 1_004)], 0),  # none is better than an earlier one
        ([(50, 900, "b", 10)], [(10, 1_001)], 0),  # nor than the last one before
        ([(50, 1_000, "b", 4)], [(4, 1_001), (6, 1_003)], 6 * 1_003),  # the rest slips once more
        ([(50, 1_005, "b", 4), (60, 1_000, "s", 9)], [(4, 1_007), (6, 1_009)], 6 * 1_009),
        ([(50, 1_000, "s", 99)], [(10, 1_003)], 10 * 1_003),  # nobody bought
        ([], [(10, 1_003)], 10 * 1_003),
        ([(10_050, 1_000, "b", 99)], [(10, 1_001)], 0),
        ([(10_051, 1_000, "b", 99)], [(10, 1_003)], 10 * 1_003),  # too far ahead
    ],
)
def test_what_takes_is_priced_by_takers_of_its_side_and_the_rest_is_extrapolated(
    rows: list[Row], filled: list[tuple[int, int]], extrapolated: int
) -> None:
    exchange = quoted()
    exchange.place_order(market(BUY, 10))
    ahead(exchange, *rows)
    exchange.advance(T0 + 50)
    assert [(lots, price) for *_, lots, price in fills(exchange)] == filled
    assert exchange.markets[SYMBOL].taken == sum(lots * price for lots, price in filled)
    assert exchange.markets[SYMBOL].extrapolated == extrapolated


def test_without_slippage_what_is_extrapolated_joins_the_last_price() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(market(BUY, 10))
    ahead(exchange, (50, 1_000, "b", 4))
    exchange.advance(T0 + 50)
    assert fills(exchange) == [("m", "BUY", 10, 1_000)]
    assert exchange.markets[SYMBOL].extrapolated == 6 * 1_000


PRINTS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(980, 1_020), st.sampled_from("bs"), st.integers(1, 9)), max_size=30
)


@given(PRINTS, st.sampled_from([BUY, SELL]), st.integers(1, 80), st.sampled_from([0.0, 7.3, 10.0, 60.0]))
def test_the_fills_of_what_takes_follow_from_the_rule(rows: list[Row], side: Side, lots: int, bps: float) -> None:
    """The rule again in plain Python, trade by trade."""
    rows = sorted(rows, key=lambda row: row[0])
    exchange = quoted(fill_horizon_ms=200)
    ahead(exchange, *rows)
    found = list(exchange.markets[SYMBOL].levels(side, lots, 1_000, T0 + 200, round(bps * 10_000)))

    def slipped(price: int) -> int:
        return price + side * math.ceil(Decimal(price) * Decimal(str(bps)) / 10_000)

    worst, left, expected = 1_000, lots, Counter[int]()
    for ms, price, taker, size in rows:
        if ms <= 200 and taker == ("b" if side > 0 else "s") and left:
            worst = max(worst, price) if side > 0 else min(worst, price)
            expected[slipped(worst)] += min(left, size)
            left -= min(left, size)
    expected[slipped(slipped(worst))] += left
    assert {level.price: level.lots for level in found} == +expected
    assert len(found) == len(+expected)
    assert [level.extrapolated for level in found] == [0] * (len(found) - 1) + [left]


def test_a_sale_slips_down() -> None:
    exchange = quoted()
    exchange.place_order(market(SELL, 3))
    played(exchange, (50, 990, "b", 9), (50, 999, "s", 9))
    assert fills(exchange) == [("m", "SELL", 3, 998)]  # 999 - 0.999, down to the tick


@pytest.mark.parametrize(
    ("price", "side", "bps", "fill"),
    [(1_000, 1, 0.0, 1_000), (1_000, 1, 10.0, 1_001), (999, 1, 10.0, 1_000), (999, -1, 10.0, 998), (1, -1, 50.0, 1)],
)
def test_slippage_goes_away_from_us_to_the_tick(price: int, side: int, bps: float, fill: int) -> None:
    assert slipped_price(price, side, round(bps * 10_000)) == fill


def test_the_trade_that_decided_an_order_never_fills_it_and_the_next_of_its_millisecond_may() -> None:
    exchange = quoted(latency_ms=0)
    tape = ahead(exchange, (100, 1_010, "b", 5), (100, 1_005, "s", 5), (100, 1_015, "b", 5))
    exchange.on_trades(tape[:1])
    assert exchange.place_order(market(BUY, 5)).status == "NEW"  # as Binance acknowledges it
    assert exchange.query_order(SYMBOL, client_order_id="m").status == "FILLED"
    assert fills(exchange) == [("m", "BUY", 5, 1_017)]


@pytest.mark.parametrize(("ms", "filled"), [(149, 0), (150, 5)])
def test_an_order_arrives_at_decision_plus_latency(ms: int, filled: int) -> None:
    exchange = played(quoted(), (100, 1_000, "s", 1))
    exchange.place_order(market(BUY, 5))
    played(exchange, (ms, 1_000, "b", 5))
    assert exchange.query_order(SYMBOL, client_order_id="m").filled == filled
    other = played(quoted(), (100, 1_000, "s", 1))
    other.place_order(market(BUY, 5))
    marked(other, ms, 1_000)
    assert other.query_order(SYMBOL, client_order_id="m").filled == filled


def test_resting_orders_share_the_quantity_of_a_trade_in_the_order_of_their_ids() -> None:
    exchange = quoted()
    exchange.place_order(limit(BUY, 5, 990, name="first"))
    exchange.place_order(limit(BUY, 5, 991, name="second"))
    played(exchange, (50, 989, "s", 7), (51, 989, "b", 2))
    assert fills(exchange) == [
        ("first", "BUY", 5, 990),
        ("second", "BUY", 2, 991),
        ("second", "BUY", 2, 991),
    ]


def test_each_order_that_takes_is_priced_as_if_it_were_alone() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(market(BUY, 5, "first"))
    exchange.place_order(market(BUY, 5, "second"))
    played(exchange, (50, 1_000, "b", 5), (51, 1_001, "b", 9))
    assert fills(exchange) == [("first", "BUY", 5, 1_000), ("second", "BUY", 5, 1_000)]


def test_beyond_the_take_bound_the_rest_expires() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(market(BUY, 10))
    exchange.outbox.clear()
    played(exchange, (50, 1_050, "b", 4), (51, 1_051, "b", 9))  # 5% of the last price before arrival is 50
    assert fills(exchange) == [("m", "BUY", 4, 1_050)]
    assert told(exchange)[-1] == "m EXPIRED EXPIRED"
    assert exchange.open_orders() == []


def test_the_take_bound_counts_slippage_and_starts_from_the_price_at_arrival() -> None:
    exchange = quoted()
    exchange.place_order(market(BUY, 10))
    played(exchange, (49, 1_100, "s", 1), (50, 1_100, "b", 4), (51, 1_154, "b", 4))
    assert fills(exchange) == [("m", "BUY", 4, 1_102)]  # 1,154 slips to 1,156; the bound is 1,100 + 55
    assert exchange.query_order(SYMBOL, client_order_id="m").status == "EXPIRED"


def test_at_the_end_of_a_tape_orders_on_their_way_arrive() -> None:
    exchange = quoted()
    exchange.place_order(limit(BUY, 5, 900, name="resting"))
    exchange.place_order(limit(BUY, 5, 1_000, "IOC", name="now"))
    exchange.place_order(market(BUY, 10))
    played(exchange, (10, 1_010, "b", 1), (20, 1_003, "s", 1))  # both before they arrive
    exchange.outbox.clear()
    exchange.finish(SYMBOL)
    assert fills(exchange) == [("m", "BUY", 10, 1_014)]  # 1,010 slips by 1.01 to 1,012, and this by 1.012
    assert exchange.query_order(SYMBOL, client_order_id="now").status == "EXPIRED"
    assert [order.client_order_id for order in exchange.open_orders()] == ["resting"]


def test_finish_leaves_conditional_orders_and_cuts_reduce_only_to_the_position() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 900))
    exchange.place_order(market(SELL, 8, reduce_only=True))
    exchange.finish(SYMBOL)
    assert fills(exchange) == [("m", "SELL", 5, 998)]
    assert exchange.query_order(SYMBOL, client_order_id="m").expiry_reason == "4"
    assert [algo.status for algo in exchange.open_algo_orders()] == ["NEW"]


# --- limit orders -----------------------------------------------------------------------------------------------------


def test_a_limit_order_that_reaches_the_other_side_takes_within_its_limit_and_then_rests() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(limit(BUY, 10, 1_001))
    exchange.outbox.clear()
    took = [(50, 1_000, "b", 3), (51, 1_001, "b", 3), (52, 1_002, "b", 9)]
    played(exchange, *took, (60, 1_001, "s", 9), (61, 1_000, "s", 2), (62, 990, "s", 9))
    assert fills(exchange)[:2] == [("l", "BUY", 3, 1_000), ("l", "BUY", 3, 1_001)]
    makers = [(u.last_quantity, u.last_price) for u in exchange.user_trades(SYMBOL, after_id=2) if u.is_maker]
    assert makers == [(2, 1_001), (2, 1_001)]  # at its limit, only when trades go through it, up to their quantity
    assert exchange.account.fees == money(3 * 1_000 + 3 * 1_001) * 5 // 10_000 + money(4 * 1_001) * 2 // 10_000


def test_a_resting_order_waits_for_a_trade_strictly_beyond_it() -> None:
    exchange = quoted()
    exchange.place_order(limit(SELL, 4, 1_010))
    played(exchange, (50, 1_010, "b", 9))
    assert fills(exchange) == []
    played(exchange, (51, 1_011, "b", 9))
    assert fills(exchange) == [("l", "SELL", 4, 1_010)]


@pytest.mark.parametrize(
    ("tif", "rows", "filled", "status", "reason"),
    [
        ("IOC", [(50, 1_000, "b", 4), (51, 1_002, "b", 9)], 4, "EXPIRED", "2"),
        ("IOC", [(50, 1_000, "b", 4), (51, 1_001, "b", 9)], 10, "FILLED", "0"),
        ("IOC", [(40, 1_003, "b", 1), (50, 1_003, "s", 1)], 0, "EXPIRED", "2"),  # the offer went away on the way
        ("FOK", [(50, 1_000, "b", 9), (51, 1_002, "b", 9)], 0, "EXPIRED", "0"),
        ("FOK", [(50, 1_000, "b", 9), (51, 1_000, "b", 9)], 10, "FILLED", "0"),
        ("FOK", [(50, 1_000, "b", 10)], 10, "FILLED", "0"),
        ("FOK", [(50, 1_002, "b", 10)], 0, "EXPIRED", "0"),
    ],
)
def test_time_in_force(tif: str, rows: list[Row], filled: int, status: str, reason: str) -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(limit(BUY, 10, 1_001, tif))
    played(exchange, *rows)
    order = exchange.query_order(SYMBOL, client_order_id="l")
    assert (order.filled, order.status, order.expiry_reason) == (filled, status, reason)


def test_post_only_rests_and_expires_when_it_would_take_on_arrival() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(limit(BUY, 5, 999, "GTX", "rests"))
    exchange.place_order(limit(BUY, 5, 998, "GTX", "late"))
    exchange.place_order(limit(BUY, 5, 990, "GTX", "low"))
    played(exchange, (49, 998, "b", 1), (60, 1_000, "s", 1))  # the offer falls to 998 while they travel
    statuses = {name: exchange.query_order(SYMBOL, client_order_id=name).status for name in ("rests", "late", "low")}
    assert statuses == {"rests": "EXPIRED", "late": "EXPIRED", "low": "NEW"}
    played(exchange, (61, 989, "s", 9))
    assert exchange.user_trades()[0].is_maker
    assert fills(exchange) == [("low", "BUY", 5, 990)]


# --- conditional orders -----------------------------------------------------------------------------------------------


def test_a_stop_triggers_and_its_child_is_done_at_that_very_trade() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    tape = ahead(exchange, (100, 991, "s", 9), (101, 990, "s", 3), (102, 989, "b", 9), (103, 988, "s", 9))
    exchange.on_trades(tape[:2])
    assert told(exchange) == [
        "s algo NEW",
        "s algo TRIGGERING",
        "s algo TRIGGERED",
        "s NEW NEW",
        "s TRADE PARTIALLY_FILLED",
        "account ORDER",
        "s TRADE FILLED",
        "account ORDER",
        "s algo FINISHED",
    ]
    # 3 by the trigger itself, then by the next sale: 990 - 0.99 and 988 - 0.988, down to the tick
    assert fills(exchange) == [("s", "SELL", 3, 989), ("s", "SELL", 2, 987)]
    algo = exchange.query_algo(client_order_id="s")
    assert (algo.status, algo.filled, algo.order_id) == ("FINISHED", 5, exchange.user_trades()[-1].order_id)
    assert exchange.account.realised == money(3 * 989 + 2 * 987 - 5 * 1_000)
    held = exchange.algos[algo.algo_id]
    assert (held.created, held.triggered) == (T0 + 10, T0 + 101)


def test_what_triggers_is_filled_no_better_than_by_the_trade_that_triggered_it() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    played(exchange, (100, 985, "b", 9), (101, 988, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 984)]  # 985 - 0.985, though it bought, and the first sale was better


def test_a_gap_fills_at_the_price_of_the_trade_not_of_the_stop() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    played(exchange, (100, 700, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 699)]  # 300 below the stop, and no take bound saves or strands it


def test_a_stop_of_a_short_waits_for_a_rise() -> None:
    exchange = holding(-5)
    exchange.place_algo(stop(BUY, 5, 1_010))
    played(exchange, (100, 1_009, "b", 9), (101, 1_010, "s", 9), (102, 1_009, "b", 9))
    assert fills(exchange) == [("s", "BUY", 5, 1_012)]


def test_when_one_trade_triggers_both_the_stop_goes_first() -> None:
    exchange = holding(5)
    played(exchange, (20, 985, "s", 1))
    exchange.place_algo(take_profit(SELL, 5, 986))  # it travels while the price rises above it ...
    played(exchange, (30, 995, "s", 1))
    exchange.place_algo(stop(SELL, 5, 990))  # ... and falls through this later one, before either is live
    exchange.outbox.clear()
    played(exchange, (90, 988, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 987)]
    assert told(exchange) == [
        "s algo TRIGGERING",
        "s algo TRIGGERED",
        "s NEW NEW",
        "s TRADE FILLED",
        "account ORDER",
        "s algo FINISHED",
        "t algo TRIGGERING",
        "t algo REJECTED",
    ]
    assert exchange.position(SYMBOL).quantity == 0


def test_a_conditional_order_is_live_only_after_the_latency() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))  # at T0 + 10
    played(exchange, (59, 980, "s", 9))
    assert fills(exchange) == []
    played(exchange, (60, 985, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 984)]


def test_a_stop_at_mark_price_triggers_with_the_mark_and_fills_with_the_tape() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990, working_type=WorkingType.MARK_PRICE))
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 59, money("980")))  # a millisecond before it is live
    played(exchange, (100, 980, "s", 9))
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 110, money("990.00000001")))
    assert fills(exchange) == []
    exchange.outbox.clear()
    ahead(exchange, (130, 985, "b", 9), (131, 978, "s", 9))
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 120, money("990")))
    assert told(exchange)[:3] == ["s algo TRIGGERING", "s algo TRIGGERED", "s NEW NEW"]
    assert fills(exchange) == [("s", "SELL", 5, 977)]
    assert exchange.user_trades()[-1].time == T0 + 120


def test_close_position_closes_what_is_there_when_it_triggers() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 0, 990, close_position=True, reduce_only=False))
    exchange.place_order(market(BUY, 3))
    played(exchange, (100, 1_000, "b", 9), (101, 990, "s", 99))
    assert fills(exchange)[-1] == ("s", "SELL", 8, 989)


def test_a_reduce_only_child_without_a_position_is_rejected() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    exchange.place_order(market(SELL, 5, reduce_only=True))
    played(exchange, (100, 1_000, "s", 9), (101, 980, "s", 9))
    algo = exchange.query_algo(client_order_id="s")
    assert (algo.status, algo.reason, algo.order_id) == ("REJECTED", "ReduceOnly Order is rejected.", 0)
    assert exchange.open_algo_orders() == []


def test_reduce_only_is_cut_to_the_position_and_expires_with_it() -> None:
    exchange = holding(5)
    exchange.place_order(market(SELL, 3, "a"))
    exchange.place_order(market(SELL, 5, "b", reduce_only=True))
    exchange.place_order(limit(SELL, 5, 1_020, name="c", reduce_only=True))
    exchange.outbox.clear()
    played(exchange, (100, 1_000, "s", 99))
    assert fills(exchange) == [("a", "SELL", 3, 999), ("b", "SELL", 2, 999)]
    assert told(exchange)[-2:] == ["b EXPIRED EXPIRED", "c EXPIRED EXPIRED"]
    assert exchange.query_order(SYMBOL, client_order_id="b").expiry_reason == "4"
    assert exchange.position(SYMBOL).quantity == 0


# --- conditional limit orders -----------------------------------------------------------------------------------------


def stop_limit(side: Side, quantity: int, trigger: int, price: int, tif: str = "GTC", **other: Any) -> OrderRequest:
    return conditional(
        OrderType.STOP, side, quantity, trigger, "sl", price=price, time_in_force=TimeInForce(tif), **other
    )


def test_a_stop_limit_becomes_a_limit_order_that_fills_within_its_limit_and_then_rests() -> None:
    exchange = holding(9)
    exchange.place_algo(stop_limit(SELL, 9, 990, 988))
    exchange.outbox.clear()
    played(exchange, (100, 990, "s", 4), (101, 985, "s", 4), (102, 987, "b", 4), (103, 989, "b", 9))
    # 990 slips to 989; 985 is beyond the limit, so it rests; 987 does not reach it, 989 goes through it
    assert fills(exchange) == [("sl", "SELL", 4, 989), ("sl", "SELL", 5, 988)]
    assert [fill.is_maker for fill in exchange.user_trades(after_id=1)] == [False, True]
    order = exchange.query_order(SYMBOL, client_order_id="sl")
    assert (order.order_type, order.price, order.status) == (OrderType.LIMIT, 988, "FILLED")
    assert exchange.orders[order.order_id].origin == "STOP"


@pytest.mark.parametrize(
    ("tif", "price", "first", "status"),
    [
        ("IOC", 988, 989, "EXPIRED"),  # 4 of 9, then 985 is beyond its limit
        ("FOK", 988, 0, "EXPIRED"),  # the trade that triggers has only 4
        ("GTX", 988, 0, "EXPIRED"),  # it would take
        ("GTX", 995, 0, "NEW"),  # it rests above the market
        ("IOC", 995, 0, "EXPIRED"),
    ],
)
def test_a_stop_limit_keeps_to_its_time_in_force(tif: str, price: int, first: int, status: str) -> None:
    exchange = holding(9)
    exchange.place_algo(stop_limit(SELL, 9, 990, price, tif))
    played(exchange, (100, 990, "s", 4), (101, 985, "s", 9))
    order = exchange.query_order(SYMBOL, client_order_id="sl")
    assert ([price for *_, price in fills(exchange)], order.status) == ([first] if first else [], status)


def test_a_take_profit_limit_waits_for_the_better_price() -> None:
    exchange = holding(5)
    exchange.place_algo(conditional(OrderType.TAKE_PROFIT, SELL, 5, 1_020, "tl", price=1_015))
    played(exchange, (100, 1_019, "b", 9), (101, 1_020, "s", 9))
    assert fills(exchange) == [("tl", "SELL", 5, 1_018)]  # 10 bps of 1,020 is 1.02, which goes to 2


# --- trailing stops ---------------------------------------------------------------------------------------------------


def test_a_trailing_stop_follows_the_best_price_and_triggers_on_the_way_back() -> None:
    exchange = holding(5)
    exchange.place_algo(trailing(SELL, 5, 100))  # 1% back from the highest price, which is 1,000 so far
    exchange.outbox.clear()
    played(exchange, (100, 991, "s", 9), (101, 1_100, "b", 9), (102, 1_090, "s", 9), (103, 1_089, "s", 9))
    assert fills(exchange) == [("r", "SELL", 5, 1_087)]  # 1,100 x 0.99 = 1,089
    assert told(exchange)[:3] == ["r algo TRIGGERING", "r algo TRIGGERED", "r NEW NEW"]
    assert next(iter(exchange.algos.values())).best == 1_100


def test_a_trailing_stop_of_a_short_follows_the_lowest_price() -> None:
    exchange = holding(-5)
    exchange.place_algo(trailing(BUY, 5, 100))
    played(exchange, (100, 903, "b", 9), (101, 901, "s", 9), (102, 910, "s", 9), (103, 911, "b", 9))
    assert fills(exchange) == [("r", "BUY", 5, 912)]  # 901 x 1.01 = 910.01, so 911 is the first tick there


def test_a_trailing_stop_begins_at_its_activation_price() -> None:
    exchange = holding(5)
    exchange.place_algo(trailing(SELL, 5, 100, activation_price=1_050))
    played(exchange, (100, 1_049, "b", 9), (101, 900, "s", 9), (102, 1_050, "b", 9), (103, 1_040, "s", 9))
    assert fills(exchange) == []  # 900 was before it began; 1,040 is not 1% below 1,050
    played(exchange, (104, 1_039, "s", 9))
    assert fills(exchange) == [("r", "SELL", 5, 1_037)]


def test_a_trailing_stop_at_mark_price_follows_marks() -> None:
    exchange = holding(5)
    marked(exchange, 20, 1_000)
    exchange.place_algo(trailing(SELL, 5, 100, working_type=WorkingType.MARK_PRICE))
    played(exchange, (100, 1_200, "b", 9), (101, 900, "s", 9))  # trades do not move it
    marked(exchange, 110, "1010.5")
    marked(exchange, 120, "1000.396")  # 1010.5 x 0.99 = 1000.395
    assert exchange.open_algo_orders()[0].status == "NEW"
    exchange.outbox.clear()
    marked(exchange, 130, "1000.395")
    assert told(exchange)[:3] == ["r algo TRIGGERING", "r algo TRIGGERED", "r NEW NEW"]


# --- price protection -------------------------------------------------------------------------------------------------


def test_price_protection_holds_a_stop_back_while_mark_and_last_price_are_far_apart() -> None:
    exchange = holding(5)
    marked(exchange, 20, 1_000)
    exchange.place_algo(stop(SELL, 5, 990, price_protect=True))
    exchange.place_algo(stop(SELL, 1, 989, "plain"))
    played(exchange, (100, 949, "s", 1))  # 5.1% below the mark; the other stop goes at once
    assert [name for name, *_ in fills(exchange)] == ["plain"]
    played(exchange, (101, 950, "s", 9))  # 5% is not more than triggerProtect
    assert fills(exchange)[-1] == ("s", "SELL", 4, 949)


def test_price_protection_looks_at_both_prices_when_the_mark_triggers() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 950, price_protect=True, working_type=WorkingType.MARK_PRICE))
    marked(exchange, 100, 940)  # the last trade was at 1,000: 6.4%
    assert exchange.open_algo_orders()[0].status == "NEW"
    played(exchange, (110, 960, "s", 1))
    assert fills(exchange) == []
    marked(exchange, 120, 940)
    assert [name for name, *_ in fills(exchange)] == ["s"]


# --- several symbols --------------------------------------------------------------------------------------------------


def test_each_symbol_has_its_own_prices_orders_and_position() -> None:
    gem = an_instrument("GEMUSDT", tick="0.01", step="0.1", min_notional=money(1))
    exchange = quoted(instrument=a_coin(), more=[gem], slippage_bps=0.0)
    with pytest.raises(VenueRefusal, match="-2020"):
        exchange.place_order(market(BUY, 50, symbol="GEMUSDT"))  # no price yet, whatever the other symbol trades at
    played(exchange, (0, 2_000, "s", 500), (0, 2_000, "b", 500), symbol="GEMUSDT")
    exchange.place_order(market(BUY, 4, "same"))
    exchange.place_order(market(SELL, 50, "same", symbol="GEMUSDT"))
    played(exchange, (60, 1_000, "b", 9))
    played(exchange, (70, 2_000, "s", 90), symbol="GEMUSDT")
    assert [exchange.position(symbol).quantity for symbol in (SYMBOL, "GEMUSDT")] == [4, -50]
    assert [fill.trade_id for fill in exchange.user_trades("GEMUSDT")] == [1]
    assert len(exchange.user_trades()) == 2
    assert exchange.query_order("GEMUSDT", client_order_id="same").order_id == 2
    assert exchange.account.fees == money(4 * 1_000 + 5 * 20) * 5 // 10_000
    with pytest.raises(VenueRefusal, match="-2013"):
        exchange.query_order("GEMUSDT", order_id=1)
