"""What the simulated exchange refuses, and with which of Binance's codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.builders import an_instrument
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    a_coin,
    an_exchange,
    conditional,
    fills,
    holding,
    limit,
    market,
    played,
    quoted,
    stop,
    take_profit,
    told,
    trailing,
)

from voltrade.errors import DataError
from voltrade.model import (
    DAY_MS,
    CancelOrder,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Purpose,
    Reply,
    Snapshot,
    TakeSnapshot,
    money,
)
from voltrade.simulated.core_commands import execute
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.order_store import FIRST_ALGO_ID
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.symbols import SymbolRules, shipped_instrument

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
    with pytest.raises(VenueRefusal, match="-2020"):
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
    exchange.cancel_all(SYMBOL)
    assert exchange.open_orders() == []
    assert len(exchange.open_algo_orders()) == 1
    exchange.cancel_all_algo(SYMBOL)
    assert exchange.open_algo_orders() == []
    with pytest.raises(VenueRefusal, match="-2011"):
        exchange.cancel_algo(client_order_id="s")
    with pytest.raises(VenueRefusal, match="-2013"):
        exchange.query_algo(algo_id=7)


def test_an_order_without_a_client_id_gets_one() -> None:
    exchange = quoted()
    assert exchange.place_order(limit(BUY, 5, 990, name="")).client_order_id == "auto_1"
    assert exchange.place_algo(stop(BUY, 5, 1_100, "", reduce_only=False)).client_order_id == "auto_a1"
    assert exchange.query_algo(client_order_id="auto_a1").algo_id == FIRST_ALGO_ID


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
    sent = execute(exchange, OrderIntent(T0, limit(BUY, 5, 990), Purpose.ENTRY, 1, "because"))
    assert isinstance(sent, Reply)
    assert sent.order is not None
    assert (sent.outcome, sent.action, sent.order.status) == (Outcome.ACCEPTED, "submit", "NEW")
    twice = execute(exchange, OrderIntent(T0, limit(BUY, 5, 990), Purpose.ENTRY, 1, "because"))
    assert isinstance(twice, Reply)
    assert (twice.outcome, twice.code, twice.order) == (Outcome.REFUSED, -4116, None)
    algo = execute(exchange, OrderIntent(T0, stop(BUY, 5, 1_100, reduce_only=False), Purpose.STOP, 1, "because"))
    assert isinstance(algo, Reply)
    assert algo.algo_order is not None
    assert (algo.algo, algo.algo_order.status) == (True, "NEW")
    snapshot = execute(exchange, TakeSnapshot(T0, SYMBOL, "because"))
    assert isinstance(snapshot, Snapshot)
    assert [len(snapshot.orders), len(snapshot.algo_orders), snapshot.wallet] == [1, 1, money(1_000_000)]
    for command, word in (
        (CancelOrder(T0, SYMBOL, "l", False, "because"), "CANCELED"),
        (LookupOrder(T0, SYMBOL, "l", False, "because"), "CANCELED"),
    ):
        answer = execute(exchange, command)
        assert isinstance(answer, Reply)
        assert answer.order is not None
        assert answer.order.status == word
    missing = execute(exchange, LookupOrder(T0, SYMBOL, "nobody", True, "because"))
    assert isinstance(missing, Reply)
    assert (missing.outcome, missing.code) == (Outcome.REFUSED, -2013)


CONDITIONAL_REFUSED: list[tuple[str, OrderRequest, int]] = [
    ("a stop limit without its price", conditional(OrderType.STOP, SELL, 5, 990, "x"), -1102),
    ("a stop market with a price", stop(SELL, 5, 990, price=985), -1106),
    ("no callback rate", trailing(SELL, 5, 0), -2007),
    ("a callback rate below 0.1%", trailing(SELL, 5, 9), -2007),
    ("a callback rate above 10%", trailing(SELL, 5, 1_001), -2007),
    ("a trailing stop with a trigger", trailing(SELL, 5, 50, trigger_price=990), -1106),
    ("an activation price above PRICE_FILTER", trailing(SELL, 5, 50, activation_price=8_094_841), -4002),
    ("a sale activated at the price", trailing(SELL, 5, 50, activation_price=1_000), -2021),
    ("a buy activated above the price", trailing(BUY, 5, 50, activation_price=1_001, reduce_only=False), -2021),
    ("more than MARKET_LOT_SIZE", stop(SELL, 120_001, 990), -4005),
    ("closePosition that trails", trailing(SELL, 0, 50, reduce_only=False, close_position=True), -4136),
    ("less than MIN_NOTIONAL at the mark", trailing(BUY, 1, 50, reduce_only=False), -4164),
]  # fmt: skip


@pytest.mark.parametrize(
    ("story", "request_", "code"), CONDITIONAL_REFUSED, ids=[story for story, _, _ in CONDITIONAL_REFUSED]
)
def test_each_conditional_type_is_held_to_its_own_rules(story: str, request_: OrderRequest, code: int) -> None:
    exchange = holding(5, instrument=a_coin(min_notional=money(1_500)))
    with pytest.raises(VenueRefusal) as refusal:
        exchange.place_algo(request_)
    assert refusal.value.code == code
    assert exchange.open_algo_orders() == []


def test_market_lot_size_does_not_bound_what_becomes_a_limit_order() -> None:
    exchange = quoted()
    wide = conditional(OrderType.STOP, BUY, 120_001, 1_100, "x", price=1_101, reduce_only=False)
    assert exchange.place_algo(wide).status == "NEW"


def test_two_hundred_conditional_orders_over_all_symbols() -> None:
    exchange = quoted(more=[an_instrument("GEMUSDT", tick="1", step="1", min_notional=0)])
    for number in range(200):
        symbol = "GEMUSDT" if number % 2 else SYMBOL
        exchange.place_algo(replace(stop(BUY, 5, 1_100, f"s{number}", reduce_only=False), symbol=symbol))
    with pytest.raises(VenueRefusal, match="-4045"):
        exchange.place_algo(stop(BUY, 5, 1_100, "last", reduce_only=False))


@pytest.mark.parametrize(("name", "days"), [("canceled", 3), ("filled", 90), ("cut", 90)])
def test_ended_orders_are_forgotten(name: str, days: int) -> None:
    exchange = quoted(latency_ms=0)
    exchange.place_order(limit(BUY, 5, 900, name="open"))
    exchange.place_order(limit(BUY, 5, 990, name="canceled"))
    exchange.place_order(market(BUY, 5, "filled"))
    exchange.place_order(limit(BUY, 9, 1_001, name="cut"))
    played(exchange, (1, 1_000, "b", 3))
    for ended in ("canceled", "cut"):
        exchange.cancel_order(SYMBOL, client_order_id=ended)
    exchange.advance(T0 + days * DAY_MS)
    assert exchange.query_order(SYMBOL, client_order_id=name).filled == {"canceled": 0, "filled": 5, "cut": 3}[name]
    exchange.advance(T0 + days * DAY_MS + 1)
    with pytest.raises(VenueRefusal, match="-2013"):
        exchange.query_order(SYMBOL, client_order_id=name)
    assert exchange.query_order(SYMBOL, client_order_id="open").status == "NEW", "an open order is never forgotten"
    assert name not in [order.client_order_id for order in exchange.all_orders(SYMBOL)]


def test_an_account_switched_to_hedge_mode_takes_no_order_of_ours() -> None:
    exchange = quoted()
    exchange.interventions.switch_position_mode(True)
    for place, order in ((exchange.place_order, market(BUY, 5)), (exchange.place_algo, stop(BUY, 5, 1_100))):
        with pytest.raises(VenueRefusal, match="-4061"):
            place(order)
    assert exchange.snapshot(SYMBOL).hedge_mode
    exchange.set_position_mode(False)
    assert exchange.place_order(market(BUY, 5)).status == "NEW"
    with pytest.raises(VenueRefusal, match="-4067"):
        exchange.interventions.switch_position_mode(True)


@pytest.mark.parametrize(
    ("margin_type", "multi", "code"), [("cross", False, -4171), ("isolated", True, -4167), ("cross", True, -4084)]
)
def test_multi_assets_mode_is_not_offered(margin_type: str, multi: bool, code: int) -> None:
    with pytest.raises(VenueRefusal, match=str(code)):
        quoted(margin_type=margin_type).set_multi_assets_mode(multi)


def test_other_quote_assets_are_refused() -> None:
    with pytest.raises(DataError, match="quote asset must be USDT, was USDC"):
        an_exchange(an_instrument("COINUSDC", quote_asset="USDC"))
    with pytest.raises(DataError, match="must be given once"):
        an_exchange(more=[a_coin()])


def test_an_account_begins_with_a_leverage_that_its_symbols_allow() -> None:
    assert an_exchange(shipped_instrument("LTCUSDT"), leverage=75).position("LTCUSDT").leverage == 75
    with pytest.raises(DataError, match="LTCUSDT: leverage must be 1 to 75, was 76"):
        an_exchange(shipped_instrument("LTCUSDT"), leverage=76)


def test_changed_filters_hold_from_then_on() -> None:
    exchange = holding(5)
    exchange.place_order(limit(BUY, 5, 990, name="before"))
    exchange.change_filters(a_coin(min_quantity=10, max_price=2_000), SymbolRules(max_open_orders=2))
    with pytest.raises(VenueRefusal, match="-4004"):
        exchange.place_order(market(BUY, 5))
    exchange.place_order(limit(BUY, 10, 990))
    with pytest.raises(VenueRefusal, match="-2025"):
        exchange.place_order(limit(BUY, 10, 990, name="third"))
    assert exchange.query_order(SYMBOL, client_order_id="before").status == "NEW"
    with pytest.raises(DataError, match=r"tick_size: must stay 1, was 0\.1"):
        exchange.change_filters(an_instrument(SYMBOL, tick="0.1", step="1"))


def test_a_settled_symbol_is_closed() -> None:
    exchange = holding(5)
    exchange.interventions.settle(SYMBOL)
    for place, order in ((exchange.place_order, market(BUY, 5)), (exchange.place_algo, stop(BUY, 5, 1_100))):
        with pytest.raises(VenueRefusal, match="-4141"):
            place(order)


# --- modifying --------------------------------------------------------------------------------------------------------


def modified(exchange: SimulatedExchange, quantity: int, price: int, name: str = "l", **other: Any) -> OrderUpdate:
    asked = {"side": BUY, "quantity": quantity, "price": price, "client_order_id": name, **other}
    return exchange.modify_order(SYMBOL, **asked)


def test_a_modified_order_goes_to_the_end_of_the_queue_with_its_new_price_and_quantity() -> None:
    exchange = quoted(latency_ms=0, slippage_bps=0.0)
    exchange.place_order(limit(BUY, 5, 990))
    exchange.place_order(limit(BUY, 5, 990, name="behind"))
    played(exchange, (10, 989, "s", 2))
    exchange.outbox.clear()
    changed = modified(exchange, 8, 991)
    assert (changed.status, changed.price, changed.quantity, changed.filled) == ("PARTIALLY_FILLED", 991, 8, 2)
    assert told(exchange) == ["l AMENDMENT PARTIALLY_FILLED"]
    exchange.outbox.clear()
    modified(exchange, 8, 990)
    played(exchange, (20, 989, "s", 7))
    assert fills(exchange) == [("behind", "BUY", 5, 990), ("l", "BUY", 2, 990)]
    assert modified(exchange, 4, 990).status == "CANCELED", "so much has filled already"


def test_a_modified_order_may_take_unless_it_is_post_only() -> None:
    exchange = quoted(latency_ms=0, slippage_bps=0.0)
    exchange.place_order(limit(BUY, 5, 990))
    exchange.place_order(limit(BUY, 5, 990, "GTX", "post"))
    played(exchange, (10, 1_000, "s", 1))
    modified(exchange, 5, 1_000)
    assert modified(exchange, 5, 1_000, "post").status == "CANCELED"
    played(exchange, (20, 1_000, "b", 9))
    assert fills(exchange) == [("l", "BUY", 5, 1_000)]


@pytest.mark.parametrize(
    ("story", "asked", "code"),
    [
        ("nobody", {"name": "nobody"}, -2013),
        ("an ended order", {"name": "ended"}, -2013),
        ("a market order", {"name": "m"}, -5025),
        ("the other side", {"side": SELL}, -1117),
        ("not reduce-only", {"reduces": True}, -5047),
        ("nothing new", {"quantity": 5, "price": 990}, -5027),
        ("too little", {"quantity": 0}, -4003),
        ("no price", {"price": 0}, -1102),
        ("above PERCENT_PRICE", {"price": 1_051}, -4016),
        ("less than MIN_NOTIONAL", {"quantity": 4}, -4164),
        ("more than the margin", {"quantity": 5_051}, -2019),
    ],
)
def test_a_modification_is_refused_with_binances_code(story: str, asked: dict[str, Any], code: int) -> None:
    exchange = quoted(instrument=a_coin(min_notional=money(4_000)), wallet=money(1_000_000))
    exchange.place_order(limit(BUY, 5, 990))
    exchange.place_order(limit(BUY, 5, 989, name="ended"))
    exchange.cancel_order(SYMBOL, client_order_id="ended")
    exchange.place_order(market(BUY, 5))
    exchange.outbox.clear()
    with pytest.raises(VenueRefusal) as refusal:
        modified(exchange, **{"quantity": 6, "price": 990, **asked})
    assert refusal.value.code == code
    assert exchange.outbox == []
    # what it may be at most: the order itself does not stand in its way
    assert modified(exchange, 5_045, 990).quantity == 5_045


def test_an_account_without_money_takes_no_order() -> None:
    exchange = quoted(wallet=0)
    with pytest.raises(VenueRefusal, match="-2018"):
        exchange.place_order(market(BUY, 5))
