"""What the simulated exchange refuses, and with which of Binance's codes."""

from __future__ import annotations

from typing import Any

import pytest
from builders import an_instrument
from exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    a_coin,
    an_exchange,
    fills,
    holding,
    limit,
    market,
    played,
    quoted,
    stop,
    take_profit,
    told,
)

from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.shipped import SymbolRules, shipped_instrument
from voltrade.model import (
    CancelOrder,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    Outcome,
    Purpose,
    Reply,
    Snapshot,
    TakeSnapshot,
    money,
)

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
