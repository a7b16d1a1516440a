"""The simulated exchange: fills by hand arithmetic, refusals by code, books that balance, and no effect of cutting.

Unless a test says otherwise one tick is one dollar, one lot one coin, slippage 10 bps (so 1,000 slips by one tick and
1,001 by two), latency 50 ms, fees 5 and 2 bps.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import an_instrument
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.errors import DataError
from voltrade.exchange.clearing import AccountChange
from voltrade.exchange.execution import slipped_price
from voltrade.exchange.market import Market
from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.shipped import (
    SymbolRules,
    shipped_exchange_info,
    shipped_instrument,
    shipped_rules,
    shipped_symbols,
)
from voltrade.exchange.simulated import SimulatedExchange
from voltrade.exchange.tape import TapePlayer
from voltrade.model import (
    AlgoUpdate,
    CancelOrder,
    Instrument,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Purpose,
    Reply,
    Side,
    Snapshot,
    TakeSnapshot,
    TimeInForce,
    Trades,
    WorkingType,
    money,
)

BUY, SELL = Side.BUY, Side.SELL
SYMBOL = "COINUSDT"
T0 = 1_700_000_000_000
Row = tuple[int, int, str, int]
"""Milliseconds after T0, price, taker (`b` bought, `s` sold), quantity."""


def a_coin(**other: Any) -> Instrument:
    return an_instrument(SYMBOL, tick="1", step="1", min_notional=money(5), **other)


def an_exchange(instrument: Instrument | None = None, **other: Any) -> SimulatedExchange:
    given: dict[str, Any] = {
        "wallet": money(1_000_000),
        "taker_fee_e8": 50_000,
        "maker_fee_e8": 20_000,
        "latency_ms": 50,
        "slippage_bps": 10.0,
        "margin_type": "cross",
        "clock": T0,
    }
    rules = {SYMBOL: other.pop("rules")} if "rules" in other else None
    return SimulatedExchange([instrument or a_coin()], rules=rules, **{**given, **other})


def trades(*rows: Row) -> Trades:
    return Trades.from_rows(
        SYMBOL, [(n + 1, price, size, T0 + ms, taker == "s") for n, (ms, price, taker, size) in enumerate(rows)]
    )


def played(exchange: SimulatedExchange, *rows: Row) -> SimulatedExchange:
    exchange.on_trades(trades(*rows))
    return exchange


def quoted(**other: Any) -> SimulatedExchange:
    """An exchange where 1,000 was bid and asked, a hundred times over."""
    return played(an_exchange(**other), (0, 1_000, "s", 100), (0, 1_000, "b", 100))


def market(side: Side, quantity: int, name: str = "m", **other: Any) -> OrderRequest:
    return OrderRequest(SYMBOL, name, side, OrderType.MARKET, quantity, **other)


def limit(side: Side, quantity: int, price: int, tif: str = "GTC", name: str = "l", **other: Any) -> OrderRequest:
    return OrderRequest(
        SYMBOL, name, side, OrderType.LIMIT, quantity, price=price, time_in_force=TimeInForce(tif), **other
    )


def stop(side: Side, quantity: int, trigger: int, name: str = "s", **other: Any) -> OrderRequest:
    return OrderRequest(
        SYMBOL, name, side, OrderType.STOP_MARKET, quantity, trigger_price=trigger, **{"reduce_only": True, **other}
    )


def take_profit(side: Side, quantity: int, trigger: int, name: str = "t", **other: Any) -> OrderRequest:
    return OrderRequest(
        SYMBOL, name, side, OrderType.TAKE_PROFIT_MARKET, quantity, trigger_price=trigger,
        **{"reduce_only": True, **other},
    )  # fmt: skip


def holding(quantity: int, **other: Any) -> SimulatedExchange:
    """An exchange with a position of so many lots, bought or sold at 1,000 without slippage, and an empty outbox."""
    exchange = quoted(latency_ms=0, slippage_bps=0.0, **other)
    exchange.place_order(market(BUY if quantity > 0 else SELL, abs(quantity), "opening"))
    played(exchange, (10, 1_000, "b" if quantity > 0 else "s", abs(quantity)))
    exchange.outbox.clear()
    exchange.matching.latency_ms = 50
    exchange.matching.slippage_e8 = 100_000
    return exchange


def fills(exchange: SimulatedExchange) -> list[tuple[str, str, int, int]]:
    """Client id, side, quantity and price of every fill told of since the outbox was last emptied."""
    return [
        (u.client_order_id, u.side.name, u.last_quantity, u.last_price)
        for u in exchange.outbox
        if isinstance(u, OrderUpdate) and u.trade_id
    ]


def told(exchange: SimulatedExchange) -> list[str]:
    """The outbox as short words."""
    words = []
    for update in exchange.outbox:
        if isinstance(update, OrderUpdate):
            words.append(f"{update.client_order_id} {update.execution} {update.status}")
        elif isinstance(update, AlgoUpdate):
            words.append(f"{update.client_order_id} algo {update.status}")
        else:
            words.append(f"account {update.reason}")
    return words


# --- market orders ----------------------------------------------------------------------------------------------------


def test_a_market_order_fills_from_trades_on_its_side_each_moved_against_it() -> None:
    exchange = quoted()
    exchange.place_order(market(BUY, 10))
    exchange.outbox.clear()
    played(exchange, (50, 1_000, "b", 4), (51, 999, "s", 50), (51, 1_001, "b", 4), (60, 1_002, "b", 9))
    # 10 bps of 1,000 is 1; of 1,001 it is 1.001, which goes up to 2
    assert fills(exchange) == [("m", "BUY", 4, 1_001), ("m", "BUY", 4, 1_003), ("m", "BUY", 2, 1_004)]
    assert told(exchange) == ["m TRADE PARTIALLY_FILLED", "account ORDER"] * 2 + ["m TRADE FILLED", "account ORDER"]
    paid = 4 * 1_001 + 4 * 1_003 + 2 * 1_004
    assert exchange.query_order(SYMBOL, client_order_id="m").filled_notional == paid
    assert exchange.position(SYMBOL).entry_price == "1002.4"
    assert exchange.account.wallet == money(1_000_000) - money(paid) * 5 // 10_000
    assert [trade.trade_id for trade in exchange.user_trades(SYMBOL, after_id=1)] == [2, 3]


def test_a_sale_slips_down() -> None:
    exchange = quoted()
    exchange.place_order(market(SELL, 3))
    played(exchange, (50, 1_001, "b", 9), (50, 1_001, "s", 9))
    assert fills(exchange) == [("m", "SELL", 3, 999)]  # 1,001 - 1.001, down to the tick


@pytest.mark.parametrize(
    ("price", "side", "bps", "fill"),
    [(1_000, 1, 0.0, 1_000), (1_000, 1, 10.0, 1_001), (999, 1, 10.0, 1_000), (999, -1, 10.0, 998), (1, -1, 50.0, 1)],
)
def test_slippage_goes_away_from_us_to_the_tick(price: int, side: int, bps: float, fill: int) -> None:
    assert slipped_price(price, side, round(bps * 10_000)) == fill


def test_the_trade_that_decided_an_order_never_fills_it_and_the_next_of_its_millisecond_may() -> None:
    exchange = quoted(latency_ms=0)
    played(exchange, (100, 1_000, "b", 5))
    exchange.place_order(market(BUY, 5))
    exchange.outbox.clear()
    assert fills(exchange) == []
    played(exchange, (100, 1_005, "b", 5))
    assert fills(exchange) == [("m", "BUY", 5, 1_007)]


@pytest.mark.parametrize(("ms", "filled"), [(149, 0), (150, 5)])
def test_an_order_is_live_from_the_first_trade_at_decision_plus_latency(ms: int, filled: int) -> None:
    exchange = played(quoted(), (100, 1_000, "s", 1))
    exchange.place_order(market(BUY, 5))
    played(exchange, (ms, 1_000, "b", 5))
    assert exchange.query_order(SYMBOL, client_order_id="m").filled == filled


def test_orders_share_the_quantity_of_a_trade_in_the_order_of_their_ids() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(market(BUY, 5, "first"))
    exchange.place_order(market(BUY, 5, "second"))
    played(exchange, (50, 1_000, "b", 7), (51, 1_001, "b", 2))
    assert fills(exchange) == [
        ("first", "BUY", 5, 1_000),
        ("second", "BUY", 2, 1_000),
        ("second", "BUY", 2, 1_001),
    ]


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


def test_finish_fills_open_market_orders_at_the_last_price_of_the_other_side() -> None:
    exchange = quoted()
    exchange.place_order(limit(BUY, 5, 900, name="resting"))
    exchange.place_order(limit(BUY, 5, 1_000, "IOC", name="now"))
    exchange.place_order(market(BUY, 10))
    played(exchange, (10, 1_010, "b", 1), (20, 1_003, "s", 1))  # both before it is live
    exchange.outbox.clear()
    exchange.finish(SYMBOL)
    assert fills(exchange) == [("m", "BUY", 10, 1_012)]
    assert exchange.query_order(SYMBOL, client_order_id="now").status == "EXPIRED"
    assert [order.client_order_id for order in exchange.open_orders()] == ["resting"]


def test_finish_leaves_conditional_orders_and_cuts_reduce_only_to_the_position() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 900))
    exchange.place_order(market(SELL, 8, reduce_only=True))
    exchange.finish(SYMBOL)
    assert fills(exchange) == [("m", "SELL", 5, 999)]
    assert exchange.query_order(SYMBOL, client_order_id="m").expiry_reason == "4"
    assert [algo.status for algo in exchange.open_algo_orders()] == ["NEW"]


# --- limit orders -----------------------------------------------------------------------------------------------------


def test_a_limit_order_that_reaches_the_other_side_takes_within_its_limit_and_then_rests() -> None:
    exchange = quoted(slippage_bps=0.0)
    exchange.place_order(limit(BUY, 10, 1_001))
    exchange.outbox.clear()
    played(exchange, (50, 1_000, "b", 3), (51, 1_001, "b", 3), (52, 1_002, "b", 9))
    assert fills(exchange) == [("l", "BUY", 3, 1_000), ("l", "BUY", 3, 1_001)]
    played(exchange, (60, 1_001, "s", 9), (61, 1_000, "s", 2), (62, 990, "s", 9))
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
        ("FOK", [(50, 1_000, "b", 9), (51, 1_000, "b", 9)], 0, "EXPIRED", "0"),
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


def test_a_stop_triggers_and_its_child_fills_from_that_very_trade() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    played(exchange, (100, 991, "s", 9), (101, 990, "b", 3), (102, 989, "b", 9), (103, 988, "s", 9))
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
    # 3 from the trigger itself, whose taker bought; then only from sales: 990 - 0.99 and 988 - 0.988, down to the tick
    assert fills(exchange) == [("s", "SELL", 3, 989), ("s", "SELL", 2, 987)]
    algo = exchange.query_algo(client_order_id="s")
    assert (algo.status, algo.filled, algo.order_id) == ("FINISHED", 5, exchange.user_trades()[-1].order_id)
    assert exchange.account.realised == money(3 * 989 + 2 * 987 - 5 * 1_000)
    assert exchange.algo_times(algo.algo_id) == (T0 + 10, T0 + 101)


def test_a_gap_fills_at_the_price_of_the_trade_not_of_the_stop() -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 5, 990))
    played(exchange, (100, 700, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 699)]  # 300 below the stop, and no take bound saves or strands it


def test_a_stop_of_a_short_waits_for_a_rise() -> None:
    exchange = holding(-5)
    exchange.place_algo(stop(BUY, 5, 1_010))
    played(exchange, (100, 1_009, "b", 9), (101, 1_010, "s", 9))
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
    assert told(exchange)[:6] == [
        "s algo TRIGGERING",
        "s algo TRIGGERED",
        "s NEW NEW",
        "t algo TRIGGERING",
        "t algo TRIGGERED",
        "t NEW NEW",
    ]
    assert told(exchange)[-2:] == ["t EXPIRED EXPIRED", "t algo FINISHED"]
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
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 120, money("990")))
    assert told(exchange)[-3:] == ["s algo TRIGGERING", "s algo TRIGGERED", "s NEW NEW"]
    played(exchange, (130, 985, "b", 9), (131, 984, "s", 9))
    assert fills(exchange) == [("s", "SELL", 5, 983)]


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


# --- requests ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, OrderRequest, int]] = [
    ("another symbol", OrderRequest("BTCUSDT", "m", BUY, OrderType.MARKET, 1), -1121),
    ("a client id with a space", market(BUY, 1, "a b"), -4015),
    ("a client id of 37 letters", market(BUY, 1, "a" * 37), -4015),
    ("no quantity", market(BUY, 0), -4003),
    ("less than LOT_SIZE", limit(BUY, 1, 999), -4004),
    ("more than LOT_SIZE", limit(BUY, 1_000_001, 999), -4005),
    ("more than MARKET_LOT_SIZE", market(BUY, 120_001), -4005),
    ("a limit without price", limit(BUY, 5, 0), -1102),
    ("a negative price", limit(BUY, 5, -1), -4001),
    ("below PRICE_FILTER", limit(BUY, 5, 9), -4013),
    ("above PRICE_FILTER", limit(BUY, 5, 8_094_841), -4002),
    ("a market order with a price", market(BUY, 5, price=1_000), -1106),
    ("a buy above PERCENT_PRICE", limit(BUY, 5, 1_051), -4016),
    ("a sale below PERCENT_PRICE", limit(SELL, 5, 949), -4024),
    ("less than MIN_NOTIONAL", limit(BUY, 2, 960), -4164),
    ("a market order below MIN_NOTIONAL", market(BUY, 2), -4164),
    ("reduce-only without a position", market(BUY, 5, reduce_only=True), -2022),
    ("more than the margin", market(BUY, 60_000), -2019),
    ("a conditional type", stop(BUY, 5, 1_100), -4120),
    ("post-only that takes", limit(BUY, 5, 1_000, "GTX"), -5022),
    ("fill-or-kill that can't", limit(BUY, 5, 999, "FOK"), -5021),
]


@pytest.mark.parametrize(("story", "request_", "code"), REFUSED, ids=[story for story, _, _ in REFUSED])
def test_an_order_is_refused_with_binances_code(story: str, request_: OrderRequest, code: int) -> None:
    log: list[dict[str, Any]] = []
    instrument = a_coin(min_quantity=2)
    if code == -4164:
        instrument = an_instrument(SYMBOL, tick="1", step="1", min_notional=money(2_001))
    exchange = quoted(instrument=instrument, rules=SymbolRules(min_price=10), log=log.append, latency_ms=50)
    exchange.outbox.clear()
    with pytest.raises(VenueRefusal) as refusal:
        exchange.place_order(request_)
    assert refusal.value.code == code
    assert refusal.value.message
    assert (log[-1]["kind"], log[-1]["code"]) == ("refused", code)
    assert (exchange.outbox, exchange.open_orders()) == ([], [])


ALGO_REFUSED: list[tuple[str, OrderRequest, int]] = [
    ("an ordinary type", market(SELL, 5), -1116),
    ("no trigger", stop(SELL, 5, 0), -1102),
    ("no quantity", stop(SELL, 0, 990), -4003),
    ("a stop at the price", stop(SELL, 5, 1_000), -2021),
    ("a stop of a buy below the price", stop(BUY, 5, 999, reduce_only=False), -2021),
    ("a take-profit at the price", take_profit(SELL, 5, 1_000), -2021),
    ("reduce-only of the same side", stop(BUY, 5, 1_010), -2022),
    ("closePosition with a quantity", stop(SELL, 5, 990, reduce_only=False, close_position=True), -4137),
    ("closePosition with reduceOnly", stop(SELL, 0, 990, close_position=True), -1106),
    ("a second closePosition", stop(SELL, 0, 980, "s2", reduce_only=False, close_position=True), -4130),
]


@pytest.mark.parametrize(("story", "request_", "code"), ALGO_REFUSED, ids=[story for story, _, _ in ALGO_REFUSED])
def test_a_conditional_order_is_refused_with_binances_code(story: str, request_: OrderRequest, code: int) -> None:
    exchange = holding(5)
    exchange.place_algo(stop(SELL, 0, 900, "standing", reduce_only=False, close_position=True))
    with pytest.raises(VenueRefusal) as refusal:
        exchange.place_algo(request_)
    assert refusal.value.code == code
    assert len(exchange.open_algo_orders()) == 1


def test_without_any_price_a_market_order_has_no_counterparty() -> None:
    with pytest.raises(VenueRefusal, match="-4131"):
        an_exchange().place_order(market(BUY, 5))


def test_a_counterparty_outside_the_band_around_the_mark_is_refused() -> None:
    exchange = quoted()
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 1, money(950)))
    with pytest.raises(VenueRefusal, match="-4131"):  # 1,000 > 950 x 1.05 = 997.5
        exchange.place_order(market(BUY, 5))


def test_reduce_only_is_exempt_from_the_minimum() -> None:
    exchange = holding(5, instrument=an_instrument(SYMBOL, tick="1", step="1", min_notional=money(5_000)))
    exchange.place_order(market(SELL, 1, reduce_only=True))
    with pytest.raises(VenueRefusal, match="-4164 Order's notional must be no smaller than 5000 "):
        exchange.place_order(market(SELL, 1, "n"))


def test_client_ids_are_unique_among_open_orders_only_and_algo_orders_have_their_own() -> None:
    exchange = quoted()
    exchange.place_order(limit(BUY, 5, 990, name="x"))
    with pytest.raises(VenueRefusal, match="-4116"):
        exchange.place_order(limit(BUY, 5, 991, name="x"))
    exchange.place_algo(stop(BUY, 5, 1_100, "x", reduce_only=False))
    exchange.cancel_order(SYMBOL, client_order_id="x")
    again = exchange.place_order(limit(BUY, 5, 992, name="x"))
    assert exchange.query_order(SYMBOL, client_order_id="x").order_id == again.order_id == 2
    assert exchange.query_order(SYMBOL, order_id=1).status == "CANCELED"


def test_there_is_room_for_so_many_orders() -> None:
    exchange = quoted(rules=SymbolRules(max_open_orders=2))
    for name in ("1", "2"):
        exchange.place_order(limit(BUY, 5, 990, name=name))
    with pytest.raises(VenueRefusal, match="-2025"):
        exchange.place_order(limit(BUY, 5, 990, name="3"))
    for number in range(200):
        exchange.place_algo(stop(BUY, 5, 1_100, f"s{number}", reduce_only=False))
    with pytest.raises(VenueRefusal, match="-4045"):
        exchange.place_algo(stop(BUY, 5, 1_100, "last", reduce_only=False))


def test_cancels_act_at_once_and_only_on_open_orders() -> None:
    exchange = quoted()
    exchange.place_order(market(BUY, 5))
    assert exchange.cancel_order(SYMBOL, client_order_id="m").status == "CANCELED"
    assert told(exchange)[-1] == "m CANCELED CANCELED"
    played(exchange, (60, 1_000, "b", 99))
    assert fills(exchange) == []
    for unknown in ({"client_order_id": "m"}, {"order_id": 9}):
        with pytest.raises(VenueRefusal, match="-2011"):
            exchange.cancel_order(SYMBOL, **unknown)
    with pytest.raises(VenueRefusal, match="-2013"):
        exchange.query_order(SYMBOL, client_order_id="nobody")


def test_cancel_all_keeps_to_its_kind() -> None:
    exchange = quoted()
    exchange.place_order(limit(BUY, 5, 990))
    exchange.place_algo(stop(BUY, 5, 1_100, reduce_only=False))
    assert [order.status for order in exchange.cancel_all(SYMBOL)] == ["CANCELED"]
    assert len(exchange.open_algo_orders()) == 1
    assert [algo.status for algo in exchange.cancel_all_algo(SYMBOL)] == ["CANCELED"]
    assert (exchange.open_orders(), exchange.open_algo_orders()) == ([], [])
    with pytest.raises(VenueRefusal, match="-2011"):
        exchange.cancel_algo(client_order_id="s")
    with pytest.raises(VenueRefusal, match="-2013"):
        exchange.query_algo(algo_id=7)


def test_an_order_without_a_client_id_gets_one() -> None:
    exchange = quoted()
    assert exchange.place_order(limit(BUY, 5, 990, name="")).client_order_id == "auto_1"
    assert exchange.place_algo(stop(BUY, 5, 1_100, "", reduce_only=False)).client_order_id == "auto_a1"
    assert exchange.query_algo(client_order_id="auto_a1").algo_id == 1


@pytest.mark.parametrize(("text", "code"), [("60000.1", 0), ("60000.15", -4014), ("60000.123", -1111)])
def test_prices_of_the_wire_are_held_to_precision_and_tick(text: str, code: int) -> None:
    exchange = an_exchange(shipped_instrument("BTCUSDT"))
    if code:
        with pytest.raises(VenueRefusal, match=str(code)):
            exchange.ticks("BTCUSDT", text)
    else:
        assert exchange.ticks("BTCUSDT", text) == 600_001
    assert exchange.lots("BTCUSDT", "0.0120") == 12
    with pytest.raises(VenueRefusal, match="-1111"):
        exchange.lots("BTCUSDT", "0.0125")


def test_commands_of_the_core_are_answered_with_values() -> None:
    exchange = quoted()
    sent = exchange.execute(OrderIntent(T0, limit(BUY, 5, 990), Purpose.ENTRY, 1, "because"))
    assert isinstance(sent, Reply)
    assert sent.order is not None
    assert (sent.outcome, sent.action, sent.order.status) == (Outcome.ACCEPTED, "submit", "NEW")
    twice = exchange.execute(OrderIntent(T0, limit(BUY, 5, 990), Purpose.ENTRY, 1, "because"))
    assert isinstance(twice, Reply)
    assert (twice.outcome, twice.code, twice.order) == (Outcome.REFUSED, -4116, None)
    algo = exchange.execute(OrderIntent(T0, stop(BUY, 5, 1_100, reduce_only=False), Purpose.STOP, 1, "because"))
    assert isinstance(algo, Reply)
    assert algo.algo_order is not None
    assert (algo.algo, algo.algo_order.status) == (True, "NEW")
    snapshot = exchange.execute(TakeSnapshot(T0, SYMBOL, "because"))
    assert isinstance(snapshot, Snapshot)
    assert [len(snapshot.orders), len(snapshot.algo_orders), snapshot.wallet] == [1, 1, money(1_000_000)]
    for command, word in (
        (CancelOrder(T0, SYMBOL, "l", False, "because"), "CANCELED"),
        (LookupOrder(T0, SYMBOL, "l", False, "because"), "CANCELED"),
    ):
        answer = exchange.execute(command)
        assert isinstance(answer, Reply)
        assert answer.order is not None
        assert answer.order.status == word
    missing = exchange.execute(LookupOrder(T0, SYMBOL, "nobody", True, "because"))
    assert isinstance(missing, Reply)
    assert (missing.outcome, missing.code) == (Outcome.REFUSED, -2013)


# --- the account ------------------------------------------------------------------------------------------------------


def test_margins_by_leverage_and_what_is_left() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0)
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 20, money(1_100)))
    exchange.place_order(limit(BUY, 50, 1_050, name="buy"))
    exchange.place_order(limit(SELL, 20, 1_150, name="sell"))
    cross = exchange.balances()
    assert cross.unrealised == money(100 * 100)
    assert cross.position_margin == money(100 * 1_100 // 10)
    assert cross.order_margin == money(50 * 1_050 // 10)  # the sale can only shrink it
    assert cross.maintenance_margin == money(100 * 1_100) * 25 // 1_000
    assert cross.available == money(1_000_000 + 10_000 - 11_000 - 5_250)
    isolated = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    isolated.on_mark(MarkPrice(SYMBOL, T0 + 20, money(1_100)))
    balances = isolated.balances()
    assert balances.position_margin == money(100 * 1_000 // 10)  # of the entry
    assert balances.available == money(1_000_000 - 10_000)  # its profit backs nothing else
    assert balances.equity == money(1_010_000)


def test_an_order_that_shrinks_the_position_needs_no_margin() -> None:
    exchange = holding(4_990, wallet=money(1_000_000), leverage=5, taker_fee_e8=0)
    with pytest.raises(VenueRefusal, match="-2019"):
        exchange.place_order(market(BUY, 11))
    exchange.place_order(market(SELL, 4_990 + 4_990))
    assert exchange.balances().available == money(1_000_000 - 998_000)


def test_an_account_short_of_margin_may_still_shrink() -> None:
    exchange = holding(100, leverage=10, wallet=money(10_500), taker_fee_e8=0)
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 20, money(960)))  # equity 6,500 under a margin of 9,600
    assert exchange.balances().available == 0
    with pytest.raises(VenueRefusal, match="-2019"):
        exchange.place_order(market(BUY, 1, "more"))
    assert exchange.place_order(market(SELL, 50, "less")).status == "NEW"


def test_account_settings() -> None:
    exchange = holding(5, margin_type="isolated")
    refusals: list[tuple[Callable[[], object], int]] = [
        (lambda: exchange.set_leverage(SYMBOL, 126), -4028),
        (lambda: exchange.set_leverage(SYMBOL, 0), -4028),
        (lambda: exchange.set_leverage(SYMBOL, 4), -4161),
        (lambda: exchange.set_margin_type(SYMBOL, "isolated"), -4046),
        (lambda: exchange.set_margin_type(SYMBOL, "cross"), -4048),
        (lambda: exchange.set_position_mode(False), -4059),
        (lambda: exchange.set_position_mode(True), -4068),
    ]
    for request, code in refusals:
        with pytest.raises(VenueRefusal, match=str(code)):
            request()
    assert exchange.set_leverage(SYMBOL, 20) == exchange.position(SYMBOL).leverage == 20
    fresh = quoted(margin_type="isolated")
    fresh.place_order(limit(BUY, 5, 990))
    with pytest.raises(VenueRefusal, match="-4047"):
        fresh.set_margin_type(SYMBOL, "cross")
    with pytest.raises(VenueRefusal, match="-4067"):
        fresh.set_position_mode(True)
    fresh.cancel_all(SYMBOL)
    fresh.set_margin_type(SYMBOL, "cross")
    assert fresh.position(SYMBOL).margin_type == "cross"
    with pytest.raises(VenueRefusal, match="-4084"):
        fresh.set_position_mode(True)


def test_lower_leverage_needs_margin() -> None:
    exchange = holding(1_000, leverage=10, wallet=money(110_000), taker_fee_e8=0)
    with pytest.raises(VenueRefusal, match="-2028"):
        exchange.set_leverage(SYMBOL, 9)  # 111,111.11 of 110,000
    assert exchange.position(SYMBOL).leverage == 10


# --- the shipped symbols ----------------------------------------------------------------------------------------------


def test_shipped_filters_become_an_instrument() -> None:
    btc, rules = shipped_instrument("BTCUSDT"), shipped_rules("BTCUSDT")
    assert (btc.price(600_001), btc.quantity(12)) == (Decimal("60000.1"), Decimal("0.012"))
    assert (btc.min_notional, btc.market_max_quantity, btc.max_price) == (money(100), 120_000, 45_297_640)
    assert (rules.min_price, rules.trigger_protect_e8, rules.liquidation_fee_e8) == (5_568, 5_000_000, 1_250_000)
    assert "2025-12-15" in btc.source
    with pytest.raises(DataError, match=r"must be one of the shipped BTCUSDT, .*was DOGEUSDT"):
        shipped_instrument("DOGEUSDT")


@pytest.mark.recordings
def test_shipped_filters_are_the_recorded_facts(recordings: Path) -> None:
    with gzip.open(recordings / "rest" / "exchangeInfo-usdm-20251215.json.gz") as file:
        recorded = {entry["symbol"]: entry for entry in json.load(file)["symbols"]}
    for entry in shipped_exchange_info()["symbols"]:
        theirs = recorded[entry["symbol"]]
        for key in set(entry) - {"filters"}:
            assert entry[key] == theirs[key], key
        for rule in entry["filters"]:
            assert rule in theirs["filters"]


@pytest.mark.parametrize("symbol", shipped_symbols())
def test_every_shipped_symbol_can_trade(symbol: str) -> None:
    instrument = shipped_instrument(symbol)
    assert shipped_rules(symbol).min_price < instrument.max_price
    assert 1 <= instrument.min_quantity < instrument.market_max_quantity <= instrument.max_quantity


# --- the tape ---------------------------------------------------------------------------------------------------------


def a_player(tape: Trades, exchange: SimulatedExchange | None = None, **other: Any) -> TapePlayer:
    exchange = exchange or an_exchange(clock=0)
    return TapePlayer(exchange, tape, **{"mark_interval_ms": 100, "seed": 7, **other})


def test_marks_come_at_whole_intervals_after_earlier_trades_and_before_later_ones() -> None:
    tape = trades((0, 1_000, "b", 1), (99, 1_010, "b", 1), (100, 1_020, "b", 1), (350, 1_030, "b", 1))
    player = a_player(tape)
    assert player.exchange.clock == T0 - 1
    seen: list[tuple[int, int | None, bool]] = []
    marks: list[MarkPrice] = []
    while True:
        segment = player.horizon()
        seen.append((len(segment.trades), segment.mark and segment.mark.time - T0, segment.end))
        player.play(len(segment.trades), segment.mark is not None, 0)
        if segment.mark:
            marks.append(segment.mark)
            assert player.market.mark == segment.mark
        if segment.end:
            break
    assert seen == [(2, 100, False), (1, 200, False), (0, 300, False), (1, None, True)]
    for mark, last in zip(marks, (1_010, 1_020, 1_020), strict=True):
        assert abs(mark.price_e8 - money(last)) <= money(last) * 3 // 10_000
        assert mark.next_funding_time % 28_800_000 == 0 < mark.next_funding_time - mark.time <= 28_800_000
    assert len({mark.price_e8 for mark in marks}) == 3
    assert (player.first_time, player.last_time) == (T0, T0 + 350)
    assert (player.trades_played, player.marks_played) == (4, 3)


def test_the_basis_follows_the_seed_and_the_time_and_reverts() -> None:
    size = 20_000
    tape = Trades(
        SYMBOL,
        np.arange(1, size + 1),
        np.full(size, 1_000),
        np.ones(size, dtype=np.int64),
        T0 + np.arange(size) * 50,
        np.zeros(size, dtype=np.bool_),
    )

    def basis(rows: slice, seed: int) -> dict[int, int]:
        player, found = a_player(tape[rows], seed=seed), {}
        while not (segment := player.horizon()).end:
            player.play(len(segment.trades), segment.mark is not None, 0)
            if segment.mark:
                found[segment.mark.time] = segment.mark.price_e8 - money(1_000)
        return found

    whole, half, other = basis(slice(0, size), 7), basis(slice(size // 2, size), 7), basis(slice(0, size), 8)
    assert half.items() <= whole.items()
    assert whole != other
    values = np.array(list(whole.values()), dtype=float)
    assert np.abs(values).max() <= money(1_000) * 3 // 10_000
    assert abs(values.mean()) < values.std() / 10
    assert np.corrcoef(values[:-1], values[1:])[0, 1] > 0.8
    assert abs(np.corrcoef(values[:-8], values[8:])[0, 1]) < 0.1


def test_the_horizon_ends_with_the_first_trade_that_an_order_reacts_to() -> None:
    tape = trades(*[(10 * n, 1_000 + n % 3, "bs"[n % 2], 9) for n in range(9)], (95, 970, "s", 9), (99, 960, "s", 9))
    player = a_player(tape, mark_interval_ms=10_000)
    exchange = player.exchange
    assert (len(player.horizon().trades), player.horizon().end) == (11, True)
    player.play(1, False, T0)
    exchange.place_order(market(BUY, 5))
    assert len(player.horizon().trades) == 5  # up to T0 + 50: it arrives, and that trade's taker sold
    player.play(5, False, 0)
    assert len(player.horizon().trades) == 1  # the next one's bought
    player.play(1, False, 0)
    assert len(fills(exchange)) == 1
    exchange.place_algo(stop(SELL, 5, 970))
    exchange.matching.latency_ms = 0
    assert (len(player.horizon().trades), player.horizon().end) == (4, True)
    player.play(1, False, 0)
    player.play(3, False, 0)
    assert exchange.clock == T0 + 99
    assert exchange.query_algo(client_order_id="s").status == "NEW"  # its latency ends at T0 + 110
    assert len(a_player(tape, batch=4).horizon().trades) == 4


def test_the_horizon_holds_back_the_mark_when_the_last_trade_before_it_acts() -> None:
    exchange = an_exchange(clock=0, latency_ms=0)
    player = a_player(trades((0, 1_000, "b", 9), (50, 1_000, "b", 9), (150, 1_000, "b", 9)), exchange)
    player.play(1, False, 0)
    exchange.place_order(market(BUY, 5))
    assert (len(player.horizon().trades), player.horizon().mark) == (1, None)
    player.play(1, False, 0)
    segment = player.horizon()
    assert (len(segment.trades), segment.mark is not None) == (0, True)


def test_playing_what_does_not_come_next_is_a_mistake_of_the_driver() -> None:
    player = a_player(trades((0, 1_000, "b", 9), (150, 1_000, "b", 9)))
    with pytest.raises(ValueError, match="not what comes next"):
        player.play(2, False, 0)
    with pytest.raises(ValueError, match="no mark price comes after trade 0"):
        player.play(0, True, 0)
    player.play(1, True, T0 + 120)
    assert player.exchange.clock == T0 + 120
    player.play(0, False, T0 + 5)
    assert player.exchange.clock == T0 + 120


@pytest.mark.parametrize(
    ("tape", "rule"),
    [
        (trades(), "at least one trade"),
        (trades((5, 1_000, "b", 1), (4, 1_000, "b", 1)), "must not go back, did after row 0"),
        (Trades.from_rows("BTCUSDT", [(1, 1, 1, T0, True)]), "must be of COINUSDT, was of BTCUSDT"),
    ],
)
def test_a_tape_that_can_not_be_played_is_refused(tape: Trades, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        a_player(tape)


# --- properties -------------------------------------------------------------------------------------------------------

ODD = an_instrument(SYMBOL, tick="0.01", step="0.001", min_notional=money("0.01"), market_take_bound=Decimal("0.01"))
"""Small units, so that fees and costs do round: one ticklot is 1,000 units of money, a fee a few tens."""


class Plodder(Market):
    """Looks at every single trade: what the scan for the next acting trade must not change."""

    def first_acting(self, trades: Trades, start: int, stop: int) -> int:
        return start


@dataclass(frozen=True)
class Action:
    """What to do once so many trades have been played. `offset` is the distance of a price from the last, in ticks."""

    after: int
    kind: str
    side: Side
    size: int
    offset: int
    reduce_only: bool
    tif: str
    working_type: WorkingType


def a_world(seed: int) -> tuple[Trades, list[Action]]:
    """A random tape of some seconds around a price of 10, and orders of all kinds along it."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(20, 150))
    price = np.clip(1_000 + np.cumsum(draw.integers(-4, 5, count)), 950, 1_050)
    time = np.cumsum(draw.choice([0, 0, 5, 30, 70], count))
    bought, size = draw.random(count) < 0.5, draw.integers(1, 7, count)
    tape = trades(*zip(time.tolist(), price.tolist(), np.where(bought, "b", "s").tolist(), size.tolist(), strict=True))
    kinds = ["market", "market", "limit", "limit", "stop", "stop", "take", "take", "close", "cancel", "cancel_algo"]
    script = [
        Action(
            after=int(draw.integers(1, count)),
            kind=str(draw.choice(kinds)),
            side=BUY if draw.random() < 0.5 else SELL,
            size=int(draw.integers(1, 10)),
            offset=int(draw.integers(1, 9)),
            reduce_only=bool(draw.random() < 0.4),
            tif=str(draw.choice(["GTC", "GTC", "IOC", "FOK", "GTX"])),
            working_type=WorkingType.MARK_PRICE if draw.random() < 0.2 else WorkingType.CONTRACT_PRICE,
        )
        for _ in range(int(draw.integers(1, 30)))
    ]
    return tape, sorted(script, key=lambda action: action.after)


worlds = st.integers(0, 2**32 - 1).map(a_world)


def act(exchange: SimulatedExchange, number: int, do: Action) -> None:
    """Ask for it; that the exchange may refuse is part of the story."""
    name, last, size = f"a{number}", exchange.markets[SYMBOL].last_price, do.size
    above, below = last + do.offset, last - do.offset
    rest: dict[str, Any] = {"reduce_only": do.reduce_only, "working_type": do.working_type}
    requests: dict[str, Callable[[], object]] = {
        "market": lambda: exchange.place_order(market(do.side, size, name, reduce_only=do.reduce_only)),
        "limit": lambda: exchange.place_order(
            limit(do.side, size, above - 5, do.tif, name, reduce_only=do.reduce_only)
        ),
        "stop": lambda: exchange.place_algo(stop(do.side, size, above if do.side > 0 else below, name, **rest)),
        "take": lambda: exchange.place_algo(take_profit(do.side, size, below if do.side > 0 else above, name, **rest)),
        "close": lambda: exchange.place_algo(
            stop(do.side, 0, above if do.side > 0 else below, name, reduce_only=False, close_position=True)
        ),
        "cancel": lambda: exchange.cancel_all(SYMBOL),
        "cancel_algo": lambda: exchange.cancel_algo(SYMBOL, algo_id=size),
    }
    with suppress(VenueRefusal):
        requests[do.kind]()


def story(
    tape: Trades, script: list[Action], cuts: list[int], batch: int | None = None, kind: type[Market] = Market
) -> tuple[SimulatedExchange, list[dict[str, Any]]]:
    """Play a tape in pieces of the given sizes, acting after the trades that the script names; then finish."""
    log: list[dict[str, Any]] = []
    exchange = SimulatedExchange(
        [ODD], wallet=money(2), taker_fee_e8=50_123, maker_fee_e8=20_077, latency_ms=20, slippage_bps=7.3,
        leverage=10, margin_type="cross", log=log.append,
    )  # fmt: skip
    exchange.markets[SYMBOL].__class__ = kind
    player = a_player(tape, exchange, batch=batch)
    due = list(enumerate(script))
    ended, turn = False, 0
    while not ended:
        while due and due[0][1].after <= player.trades_played:
            act(exchange, *due.pop(0))
        segment = player.horizon()
        until = due[0][1].after - player.trades_played if due else len(tape) + 1
        count = min(len(segment.trades), until, cuts[turn % len(cuts)])
        reached = count == len(segment.trades)
        player.play(count, reached and count < until and segment.mark is not None, 0)
        ended, turn = reached and segment.end, turn + 1
    player.finish()
    return exchange, log


@settings(max_examples=150, deadline=None)
@given(worlds, st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_however_the_tape_is_cut_the_same_happens(world: tuple[Trades, list[Action]], cuts: list[int]) -> None:
    tape, script = world
    whole, log = story(tape, script, [len(tape)])
    for pieces, batch in (([1], None), ([len(tape)], 7), (cuts, None)):
        other, other_log = story(tape, script, pieces, batch)
        assert other.outbox == whole.outbox
        assert other_log == log
    plodded, _ = story(tape, script, [len(tape)], 1, Plodder)
    assert plodded.outbox == whole.outbox


@settings(max_examples=150, deadline=None)
@given(worlds)
def test_the_books_balance_to_the_last_unit(world: tuple[Trades, list[Action]]) -> None:
    tape, script = world
    exchange, log = story(tape, script, [5])
    trades_done = exchange.user_trades()
    account = exchange.account
    assert account.wallet == money(2) + sum(t.realised for t in trades_done) - sum(t.fee for t in trades_done)
    assert exchange.position(SYMBOL).quantity == sum(t.side * t.last_quantity for t in trades_done)
    spent = sum(t.side * ODD.notional(t.last_price * t.last_quantity) for t in trades_done)
    assert account.realised - exchange.markets[SYMBOL].held.cost == -spent
    assert_independent_books_agree(log, exchange)
    assert_orders_are_sound(exchange)
    assert_the_tape_gave_every_fill(log, tape)


def assert_independent_books_agree(log: list[dict[str, Any]], exchange: SimulatedExchange) -> None:
    """Reckon the account anew from the log alone, in Decimal."""
    start, unit = log[0], Decimal("0.00000001")
    rates = {False: Decimal(start["taker_fee_e8"]) * unit, True: Decimal(start["maker_fee_e8"]) * unit}
    wallet, position, cost = Decimal(start["wallet"]), Decimal(0), Decimal(0)
    for row in log:
        if row["kind"] != "fill":
            continue
        sign = 1 if row["side"] == "BUY" else -1
        price, quantity = Decimal(row["price"]), Decimal(row["quantity"])
        fee = (price * quantity * rates[row["maker"]]).quantize(unit, ROUND_HALF_EVEN)
        closed = min(quantity, max(Decimal(0), -sign * position))
        released = (cost * closed / abs(position)).quantize(unit, ROUND_HALF_EVEN) if closed else Decimal(0)
        realised = -sign * price * closed - released if closed else Decimal(0)
        cost += sign * price * (quantity - closed) - released
        position += sign * quantity
        wallet += realised - fee
        assert Decimal(row["fee"]) == fee
        assert Decimal(row["realised"]) == realised
        assert (Decimal(row["wallet"]), Decimal(row["position"])) == (wallet, position)
    assert wallet == Decimal(exchange.account.wallet) * unit
    assert position == ODD.quantity(exchange.position(SYMBOL).quantity)


def assert_orders_are_sound(exchange: SimulatedExchange) -> None:
    """No order filled beyond its size or limit, and no reduce-only fill that grew or turned the position."""
    position = 0
    for fill in exchange.user_trades():
        assert 0 < fill.last_quantity <= fill.filled <= fill.quantity
        assert fill.order_type is not OrderType.LIMIT or fill.side * (fill.price - fill.last_price) >= 0
        after = position + fill.side * fill.last_quantity
        assert not fill.reduce_only or (abs(after) < abs(position) and after * position >= 0)
        position = after
    accounts = [update for update in exchange.outbox if isinstance(update, AccountChange)]
    assert len(accounts) == len(exchange.user_trades())


def assert_the_tape_gave_every_fill(log: list[dict[str, Any]], tape: Trades) -> None:
    """No trade of the tape gave more than it had; takers paid at least its price, makers were traded through."""
    given: dict[int, Decimal] = {}
    for row in (row for row in log if row["kind"] == "fill" and row["tape_id"]):
        number = row["tape_id"] - 1
        given[number] = given.get(number, Decimal(0)) + Decimal(row["quantity"])
        traded, sign = ODD.price(int(tape.price[number])), 1 if row["side"] == "BUY" else -1
        beyond = sign * (Decimal(row["price"]) - traded)
        slip = (traded * Decimal("0.00073") / ODD.tick_size).to_integral_value(ROUND_CEILING) * ODD.tick_size
        assert beyond > 0 if row["maker"] else beyond == slip
        assert row["time"] == tape.time[number]
    assert all(quantity <= ODD.quantity(int(tape.quantity[number])) for number, quantity in given.items())


def test_an_independent_reader_counts_round_trips_and_exits_in_the_log() -> None:
    log: list[dict[str, Any]] = []
    exchange = played(an_exchange(log=log.append, latency_ms=0), (0, 1_000, "b", 99), (1, 1_000, "s", 99))
    for start, sign, exit_price in ((10, BUY, 989), (20, SELL, 979), (30, BUY, 1_040)):
        last = exchange.markets[SYMBOL].last_price
        exchange.place_order(market(sign, 5, f"e{start}"))
        played(exchange, (start, last, "b" if sign > 0 else "s", 99))
        exchange.place_algo(stop(sign.opposite, 5, last - sign * 10, f"s{start}"))
        exchange.place_algo(take_profit(sign.opposite, 5, last + sign * 10, f"t{start}"))
        played(exchange, (start + 1, exit_price, "b" if sign < 0 else "s", 99))
        exchange.cancel_all_algo(SYMBOL)
    rows = [row for row in log if row["kind"] == "fill"]
    closing = [row for row in rows if row["position"] == "0"]
    assert [row["origin"] for row in closing] == ["STOP_MARKET", "TAKE_PROFIT_MARKET", "TAKE_PROFIT_MARKET"]
    assert [row["side"] for row in rows if not row["origin"]] == ["BUY", "SELL", "BUY"]
    assert all(json.loads(json.dumps(row)) == row and row["time"] >= T0 for row in log)
    kinds = {"start", "market", "accepted", "trade", "order", "algo", "fill", "account"}
    assert {row["kind"] for row in log} == kinds
