"""Reading Binance's messages: exact numbers out of good ones, a named field out of bad ones, and nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.errors import DataError
from voltrade.exchange.fields import Units
from voltrade.exchange.filters import instrument_of
from voltrade.exchange.messages import MessageReader
from voltrade.model import (
    MONEY,
    AlgoUpdate,
    Instrument,
    MarkPrice,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
    WorkingType,
)
from voltrade.simulated.tape_playback import exchange_for
from voltrade.venue.market_data import mark_message
from voltrade.venue.messages import order_message

BTCUSDT = an_instrument()
READER = MessageReader(BTCUSDT)

AGG_TRADE = {"e": "aggTrade", "E": 9, "s": "BTCUSDT", "a": 41, "p": "60000.10", "q": "0.010", "T": 8, "m": True}
MARK = {"e": "markPriceUpdate", "E": 7, "s": "BTCUSDT", "p": "60000.12345678", "r": "-0.00010000", "T": 99}
FILL = {
    "e": "ORDER_TRADE_UPDATE",
    "T": 1000,
    "E": 1001,
    "o": {
        **{
            "s": "BTCUSDT",
            "c": "vt-1e1",
            "S": "SELL",
            "o": "MARKET",
            "f": "GTC",
            "q": "0.004",
            "p": "0",
            "ap": "60000.0",
        },
        **{"sp": "0", "x": "TRADE", "X": "PARTIALLY_FILLED", "i": 1001, "l": "0.002", "z": "0.003", "L": "60000.10"},
        **{"n": "0.06000010", "N": "USDT", "T": 1000, "t": 5, "b": "0", "a": "0", "m": False, "R": True},
        **{"wt": "CONTRACT_PRICE", "ot": "MARKET", "ps": "BOTH", "cp": False, "rp": "-1.5", "pP": False, "er": "0"},
    },
}
ALGO = {
    "e": "ALGO_UPDATE",
    "T": 2000,
    "E": 2001,
    "o": {
        **{"caid": "vt-1s1", "aid": 5001, "at": "CONDITIONAL", "o": "STOP_MARKET", "s": "BTCUSDT", "S": "SELL"},
        **{"ps": "BOTH", "f": "GTC", "q": "0.004", "X": "TRIGGERED", "ai": "88937381063", "aq": "0", "tp": "59000.1"},
        **{"p": "0", "wt": "MARK_PRICE", "cp": False, "pP": False, "R": True, "tt": 0, "gtd": 0, "rm": ""},
    },
}
ACCOUNT = {
    "e": "ACCOUNT_UPDATE",
    "T": 3000,
    "E": 3001,
    "a": {
        "m": "ORDER",
        "B": [{"a": "BNB", "wb": "1"}, {"a": "USDT", "wb": "9999.88", "cw": "9999.88", "bc": "0"}],
        "P": [
            {"s": "ETHUSDT", "pa": "1", "ep": "1", "up": "0", "mt": "cross", "ps": "BOTH"},
            {"s": "BTCUSDT", "pa": "-0.004", "ep": "60000.05", "up": "-0.1", "mt": "isolated", "ps": "BOTH"},
        ],
    },
}
ORDER = {
    **{
        "orderId": 1001,
        "symbol": "BTCUSDT",
        "status": "FILLED",
        "clientOrderId": "vt-1",
        "price": "0",
        "avgPrice": "0",
    },
    **{"origQty": "0.004", "executedQty": "0.004", "cumQuote": "240.0004", "timeInForce": "IOC", "type": "LIMIT"},
    **{"reduceOnly": False, "closePosition": False, "side": "BUY", "positionSide": "BOTH", "updateTime": 4000},
}
ALGO_ORDER = {
    **{"algoId": 5001, "clientAlgoId": "vt-1s1", "algoType": "CONDITIONAL", "orderType": "TAKE_PROFIT_MARKET"},
    **{"symbol": "BTCUSDT", "side": "SELL", "quantity": "0.004", "algoStatus": "NEW", "triggerPrice": "61000.0"},
    **{"workingType": "CONTRACT_PRICE", "reduceOnly": True, "closePosition": False, "updateTime": 5000},
    **{"actualOrderId": "", "actualQty": "0", "timeInForce": "GTC"},
}
USER_TRADE = {
    **{"symbol": "BTCUSDT", "id": 77, "orderId": 1001, "side": "BUY", "price": "60000.1", "qty": "0.002"},
    **{"quoteQty": "120.0002", "realizedPnl": "0", "commission": "0.06000010", "commissionAsset": "USDT", "time": 6000},
    **{"positionSide": "BOTH", "buyer": True, "maker": True},
}

READINGS: dict[str, tuple[Callable[[Any], object], dict[str, Any]]] = {
    "agg_trade": (READER.agg_trade, AGG_TRADE),
    "mark_price": (READER.mark_price, MARK),
    "order_update": (READER.order_update, FILL),
    "algo_update": (READER.algo_update, ALGO),
    "account_update": (lambda message: READER.account_update(message, None), ACCOUNT),
    "order": (READER.order, ORDER),
    "algo_order": (READER.algo_order, ALGO_ORDER),
    "user_trade": (READER.user_trade, USER_TRADE),
}


# --- good ones --------------------------------------------------------------------------------------------------------


def test_a_trade_is_read_into_ticks_and_lots() -> None:
    # 60000.10 / 0.10 = 600001 ticks; 0.010 / 0.001 = 10 lots
    assert READER.agg_trade(AGG_TRADE) == (41, 600_001, 10, 8, True)


def test_a_mark_price_is_read_exactly() -> None:
    assert READER.mark_price(MARK) == MarkPrice("BTCUSDT", 7, 6_000_012_345_678, -10_000, 99)
    assert READER.mark_price({**MARK, "r": "", "T": 0}).funding_rate_e8 == 0


def test_a_fill_is_read_with_its_fee_and_profit() -> None:
    update = READER.order_update(FILL)
    assert update == OrderUpdate(
        time=1000,
        symbol="BTCUSDT",
        client_order_id="vt-1e1",
        order_id=1001,
        side=Side.SELL,
        order_type=OrderType.MARKET,
        status="PARTIALLY_FILLED",
        execution="TRADE",
        quantity=4,
        filled=3,
        reduce_only=True,
        trade_id=5,
        last_quantity=2,
        last_price=600_001,
        fee=6_000_010,
        fee_asset="USDT",
        realised=-150_000_000,
    )


def test_a_liquidation_is_read_with_its_fill_and_one_of_nothing_without() -> None:
    forced = changed(FILL, "o", x="CALCULATED", c="autoclose-1", o="LIQUIDATION", X="FILLED", z="0.004")
    assert (READER.order_update(forced).trade_id, READER.order_update(forced).last_quantity) == (5, 2)
    empty = changed(FILL, "o", x="CALCULATED", q="0.000", z="0.000", l="0.000", L="0.00", n=None, N=None)
    assert READER.order_update(empty).trade_id == 0


def test_a_triggered_stop_names_the_order_that_it_became() -> None:
    update = READER.algo_update(ALGO)
    assert (update.status, update.order_id, update.trigger_price) == ("TRIGGERED", 88_937_381_063, 590_001)
    assert (update.order_type, update.working_type) == (OrderType.STOP_MARKET, WorkingType.MARK_PRICE)
    assert READER.algo_update(changed(ALGO, "o", X="NEW", ai="")).order_id == 0


def test_an_account_update_tells_our_wallet_and_our_symbol_only() -> None:
    update = READER.account_update(ACCOUNT, None)
    assert (update.reason, update.wallet) == ("ORDER", 999_988_000_000)
    (position,) = update.positions
    assert (position.quantity, position.entry_price, position.unrealised) == (-4, "60000.05", -10_000_000)
    assert position.margin_type == "isolated"


def test_a_wallet_that_is_not_named_is_the_one_before() -> None:
    only_bnb = changed(ACCOUNT, "a", B=[{"a": "BNB", "wb": "1"}])
    assert READER.account_update(only_bnb, 42).wallet == 42
    assert READER.account_update(only_bnb, 0).change == 0


@pytest.mark.parametrize(
    ("more", "symbol"),
    [
        ({"S": "ETHUSDT", "P": []}, "ETHUSDT"),
        ({"P": []}, ""),
        ({"P": [{**ACCOUNT["a"]["P"][0], "s": "BTCUSDT"}]}, "BTCUSDT"),
    ],
    ids=["it says so", "the account's", "the position that it names"],
)
def test_an_account_update_says_whose_money_it_is(more: dict[str, Any], symbol: str) -> None:
    update = READER.account_update(changed(ACCOUNT, "a", **more), 0)
    assert update.symbol == symbol


def test_an_order_object_is_read_with_and_without_what_newer_answers_leave_out() -> None:
    # 240.0004 USDT / (0.10 x 0.001) = 2400004 ticklots
    assert READER.order(ORDER).filled_notional == 2_400_004
    assert READER.order(ORDER).time_in_force is TimeInForce.IOC
    sparse = {name: value for name, value in ORDER.items() if name not in ("avgPrice", "cumQuote", "closePosition")}
    assert READER.order(sparse).filled_notional == 0


def test_an_algo_object_and_a_trade_of_ours_are_read() -> None:
    algo = READER.algo_order(ALGO_ORDER)
    assert algo == AlgoUpdate(
        time=5000,
        symbol="BTCUSDT",
        client_order_id="vt-1s1",
        algo_id=5001,
        side=Side.SELL,
        order_type=OrderType.TAKE_PROFIT_MARKET,
        status="NEW",
        quantity=4,
        trigger_price=610_000,
        reduce_only=True,
    )
    trade = READER.user_trade(USER_TRADE)
    assert (trade.trade_id, trade.order_id, trade.last_quantity, trade.last_price) == (77, 1001, 2, 600_001)
    assert (trade.fee, trade.is_maker, trade.client_order_id) == (6_000_010, True, "")


def test_strangers_orders_of_kinds_that_we_never_send_can_still_be_read() -> None:
    trailing = {**ALGO_ORDER, "orderType": "TRAILING_STOP_MARKET", "triggerPrice": "", "quantity": ""}
    assert READER.algo_order(trailing).trigger_price == 0
    assert READER.order({**ORDER, "timeInForce": "GTE_GTC"}).time_in_force is TimeInForce.GTC


def test_what_is_off_tick_and_step_is_read_to_the_nearest_and_counted() -> None:
    reader = MessageReader(BTCUSDT)
    assert reader.agg_trade({**AGG_TRADE, "p": "60000.10", "q": "0.002"})[1:3] == (600_001, 2)
    assert reader.inexact == 0
    trades = [reader.agg_trade({**AGG_TRADE, "p": price, "q": lots})[1:3] for price, lots in OFF]
    assert trades == [(600_001, 2), (600_002, 1), (600_001, 1)]
    assert reader.inexact == 6, "each text once"
    assert reader.order({**ORDER, "origQty": "0.010", "executedQty": "0.0044", "price": "60000.07"}).filled == 4


OFF = [("60000.13", "0.0017"), ("60000.16", "0.0006"), ("60000.07", "0.0001")]


def test_parts_that_are_no_whole_lots_add_up_to_the_order() -> None:
    """0.0104, 0.0104 and 0.0042: as 10, 11 and 4 lots, in events and in the list; each for itself they make 24."""
    reader, parts = MessageReader(BTCUSDT), ("0.0104", "0.0104", "0.0042")
    filled, told, listed = Decimal(0), [], []
    for number, part in enumerate(parts, 1):
        filled += Decimal(part)
        told.append(reader.order_update(changed(FILL, "o", l=part, z=str(filled), q="0.025")).last_quantity)
        listed.append({**USER_TRADE, "id": number, "qty": part})
    assert told == [10, 11, 4]
    assert [fill.last_quantity for fill in reader.user_trades(listed[::-1])] == told


def test_a_part_that_comes_to_no_lot_keeps_its_trade_its_fee_and_its_profit() -> None:
    """0.0001 and 0.0004 at a step of 0.001: one lot is read with the first, so the second has none."""
    reader, filled, told = MessageReader(BTCUSDT), Decimal(0), []
    for number, part in enumerate(("0.0001", "0.0004"), 1):
        filled += Decimal(part)
        told.append(reader.order_update(changed(FILL, "o", l=part, z=str(filled), t=number)))
    assert [fill.last_quantity for fill in told] == [1, 0]
    assert [fill.trade_id for fill in told] == [1, 2]
    assert [(fill.last_price, fill.fee, fill.realised) for fill in told] == [(600_001, 6_000_010, -150_000_000)] * 2


STRANGE = {"clientAlgoId": "android_x2", "orderType": "TWAP", "algoStatus": "WORKING"}


def test_a_word_that_nobody_knows_is_read_of_a_strangers_order_and_refused_of_ours() -> None:
    row = {**ALGO_ORDER, **STRANGE}
    assert (READER.algo_order(row).order_type, READER.algo_order(row).status) == (OrderType.STOP_MARKET, "NEW")
    for name in ("orderType", "algoStatus"):
        with pytest.raises(DataError, match=rf"algoOrder\.{name} must be one of"):
            READER.algo_order({**ALGO_ORDER, "clientAlgoId": "vt-e-1s1", name: STRANGE[name]})
    stranger = READER.order(
        {**ORDER, "clientOrderId": "web_1", "type": "ICEBERG", "status": "HELD", "timeInForce": "X"}
    )
    assert (stranger.order_type, stranger.status) == (OrderType.MARKET, "NEW")


def test_an_account_is_read_for_our_asset_and_symbol() -> None:
    usdt = {"asset": "USDT", "walletBalance": "100.5", "availableBalance": "80"}
    assert READER.wallet({"assets": [{"asset": "BNB"}, usdt]}) == (10_050_000_000, 8_000_000_000)
    assert READER.wallet({"assets": []}) == (0, 0)
    row = {"symbol": "BTCUSDT", "positionSide": "BOTH", "positionAmt": "-0.5", "entryPrice": "60000.0"}
    position = READER.position([{**row, "unRealizedProfit": "1"}], 5, "cross")
    assert (position.quantity, position.leverage, position.margin_type) == (-500, 5, "cross")
    assert READER.position([], 5, "cross").quantity == 0
    config = {"symbol": "BTCUSDT", "marginType": "ISOLATED", "leverage": 25}
    assert READER.symbol_config([{**config, "maxNotionalValue": "50000"}]) == (25, "isolated", 50_000 * MONEY)
    assert READER.symbol_config([config]) == READER.symbol_config([{**config, "maxNotionalValue": "INF"}])
    assert READER.symbol_config([config]) == (25, "isolated", 0)
    rates = {"takerCommissionRate": "0.0005", "makerCommissionRate": "0.00018"}
    assert READER.fee_rates(rates) == (50_000, 18_000)


# --- bad ones ---------------------------------------------------------------------------------------------------------


def changed(message: dict[str, Any], part: str = "", **fields: Any) -> dict[str, Any]:
    """A copy of a message with fields set, in a part of it where one is named."""
    copy = deepcopy(message)
    (copy[part] if part else copy).update(fields)
    return copy


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("p", "60000.123456789", "must be a multiple of 0.10"),
        ("p", "0", "must be positive"),
        ("p", "-1.0", "must be positive"),
        ("p", "1e308", "must be a plain decimal text"),
        ("p", "inf", "must be a plain decimal text"),
        ("p", "NaN", "must be a plain decimal text"),
        ("p", "6_0", "must be a plain decimal text"),
        ("p", " 60", "must be a plain decimal text"),
        ("p", "\u0666\u0660", "must be a plain decimal text"),
        ("p", 60000.1, "must be a plain decimal text"),
        ("p", ["60000.10"], "must be a plain decimal text"),
        ("p", None, "must be a plain decimal text"),
        ("p", "9999999999999.0", "must be at most"),
        ("q", "0.00000000000000000001", "must be a multiple of 0.001"),
        ("q", "1" * 30, "must be a plain decimal text"),
        ("q", "0.000", "must be positive"),
        ("a", "41", "must be a whole number"),
        ("a", True, "must be a whole number"),
        ("a", -1, "must be a whole number"),
        ("a", 2**70, "must be a whole number"),
        ("T", 0, "must be a whole number from 1"),
        ("m", "true", "must be true or false"),
        ("m", 1, "must be true or false"),
    ],
)
def test_a_bad_field_of_a_trade_is_named(field: str, value: object, rule: str) -> None:
    with pytest.raises(DataError, match=rf"aggTrade\.{field} {rule}"):
        READER.agg_trade({**AGG_TRADE, field: value})


@pytest.mark.parametrize("field", ["a", "p", "q", "T", "m"])
def test_a_missing_field_of_a_trade_is_named(field: str) -> None:
    with pytest.raises(DataError, match=rf"aggTrade\.{field} .*was None"):
        READER.agg_trade({name: value for name, value in AGG_TRADE.items() if name != field})


@pytest.mark.parametrize(
    ("kind", "message", "error"),
    [
        ("order_update", changed(FILL, "o", z="0.005"), "ORDER_TRADE_UPDATE.o.z must be at most the order's 0.004"),
        ("order_update", changed(FILL, "o", X="BROKEN"), "ORDER_TRADE_UPDATE.o.X must be one of NEW_INSURANCE, "),
        ("order_update", changed(FILL, "o", s="ETHUSDT"), "ORDER_TRADE_UPDATE.o.s must be one of BTCUSDT"),
        ("order_update", changed(FILL, "o", n="0.123456789"), "ORDER_TRADE_UPDATE.o.n must be a multiple of 1E-8"),
        ("order_update", changed(FILL, o=[]), "ORDER_TRADE_UPDATE.o must be an object"),
        ("algo_update", changed(ALGO, "o", ai="x"), "ALGO_UPDATE.o.ai must be a whole number"),
        ("account_update", changed(ACCOUNT, "a", P={}), "ACCOUNT_UPDATE.a.P must be a list"),
        ("mark_price", changed(MARK, p="0"), "markPriceUpdate.p must be positive"),
        ("order", changed(ORDER, executedQty="0.005"), "order.executedQty must be at most"),
        ("order", changed(ORDER, orderId=None), "order.orderId must be a whole number"),
        ("user_trade", changed(USER_TRADE, id="77"), "userTrade.id must be a whole number"),
    ],
)
def test_a_bad_field_is_named(kind: str, message: dict[str, Any], error: str) -> None:
    with pytest.raises(DataError) as refusal:
        READINGS[kind][0](message)
    assert str(refusal.value).startswith(error)


def test_a_hedge_position_is_refused() -> None:
    hedged = changed(ACCOUNT)
    hedged["a"]["P"][1]["ps"] = "SHORT"
    with pytest.raises(DataError, match=r"P\[1\]\.ps must be one of BOTH, was 'SHORT'"):
        READER.account_update(hedged, None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["1", "-1", "1e5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(READINGS)), json_values)
def test_garbage_is_refused_and_breaks_nothing(kind: str, garbage: object) -> None:
    with pytest.raises(DataError):
        READINGS[kind][0](garbage)


def paths(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a message."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_a_message_with_one_thing_broken_is_read_or_refused(data: st.DataObject) -> None:
    read, message = READINGS[data.draw(st.sampled_from(sorted(READINGS)))]
    broken = deepcopy(message)
    *way, last = data.draw(st.sampled_from(list(paths(broken))))
    place: Any = broken
    for key in way:
        place = place[key]
    if data.draw(st.booleans()) and isinstance(place, dict):
        del place[last]
    else:
        place[last] = data.draw(json_values)
    with suppress(DataError):
        read(broken)


@given(st.integers(0, 10**9), st.integers(0, 5))
def test_units_are_exact_and_remembered(count: int, zeros: int) -> None:
    units = Units(Decimal("0.10"))
    text = f"{count // 10}.{count % 10}" + "0" * zeros
    assert units[text] == count
    assert dict(units) == {text: count}


def test_units_forget_before_they_grow_without_bound() -> None:
    units = Units(Decimal(1))
    for n in range(70_000):
        units[str(n)]
    assert len(units) <= 65_536


def test_what_the_venue_writes_is_what_we_read() -> None:
    """Real messages, read, written by the venue and read again; tests/venue/test_wire.py has the rest."""
    market = exchange_for(Config(), [BTCUSDT]).markets["BTCUSDT"]
    update = READER.order_update(FILL)
    assert READER.order_update(order_message("ORDER_TRADE_UPDATE", market, update)) == update
    order = READER.order(ORDER)
    assert READER.order(order_message("order", market, order)) == order
    mark = READER.mark_price(MARK)
    assert READER.mark_price(mark_message("markPriceUpdate", mark)) == mark
    fallback = replace(mark, is_last_price=True)
    assert READER.mark_price(mark_message("markPriceUpdate", fallback)) == fallback
    trade = READER.user_trade(USER_TRADE)
    assert READER.user_trade(order_message("user_trade", market, trade)) == trade


# --- exchangeInfo -----------------------------------------------------------------------------------------------------


def an_exchange_info(**symbol: Any) -> dict[str, Any]:
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "556.80", "maxPrice": "4529764", "tickSize": "0.10"},
        {"filterType": "LOT_SIZE", "minQty": "0.0015", "maxQty": "1000", "stepSize": "0.001"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "maxQty": "120.0005", "stepSize": "0.001"},
        {"filterType": "MIN_NOTIONAL", "notional": "100"},
        {"filterType": "PERCENT_PRICE", "multiplierUp": "1.05", "multiplierDown": "0.95", "multiplierDecimal": "4"},
    ]
    row = {
        "symbol": "BTCUSDT",
        "status": "TRADING",
        "baseAsset": "BTC",
        "quoteAsset": "USDT",
        "marketTakeBound": "0.05",
    }
    return {"serverTime": 1, "symbols": [{**row, "filters": filters, **symbol}]}


def test_filters_are_read_into_ticks_and_lots_and_odd_bounds_move_inwards() -> None:
    its = instrument_of(an_exchange_info(), "BTCUSDT", "by hand")
    assert (its.tick_size, its.step_size) == (Decimal("0.1"), Decimal("0.001"))
    assert (its.min_quantity, its.max_quantity, its.market_max_quantity) == (2, 1_000_000, 120_000)
    assert (its.max_price, its.min_notional, its.source) == (45_297_640, 10_000_000_000, "by hand")


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ([], "exchangeInfo must be an object"),
        ({"symbols": []}, "symbol must be listed at the exchange, was BTCUSDT"),
        (an_exchange_info(status="SETTLING"), "symbol must be trading, was BTCUSDT, which is SETTLING"),
        (an_exchange_info(filters=[]), "exchangeInfo of BTCUSDT must have the filter PRICE_FILTER"),
        (an_exchange_info(marketTakeBound=None), "marketTakeBound must be a text"),
    ],
)
def test_an_exchange_info_that_cannot_be_traded_on_is_refused(info: object, error: str) -> None:
    with pytest.raises(DataError, match=error):
        instrument_of(info, "BTCUSDT", "")


# --- the real recordings ----------------------------------------------------------------------------------------------


def fine(symbol: str) -> Instrument:
    """An instrument with tick and step as fine as 1e-8 allows; recorded prices and sizes are multiples of them."""
    base = symbol.removesuffix("USDT")
    return an_instrument(symbol, tick="0.00001", step="0.001", base_asset=base, max_price=10**12)


@pytest.mark.recordings
def test_every_symbol_that_traded_in_december_2025_has_filters_that_can_be_read(recordings: Path) -> None:
    info = json.loads(gzip.decompress((recordings / "rest/exchangeInfo-usdm-20251215.json.gz").read_bytes()))
    trading = [row["symbol"] for row in info["symbols"] if row["status"] == "TRADING"]
    read = [instrument_of(info, symbol, "recorded").symbol for symbol in trading]
    assert len(read) == 575
    btc = instrument_of(info, "BTCUSDT", "recorded")
    assert (btc.tick_size, btc.market_max_quantity, btc.min_notional) == (Decimal("0.1"), 120_000, 100 * 10**8)


@pytest.mark.recordings
def test_recorded_rest_trades_agree_with_decimals(recordings: Path) -> None:
    rows = json.loads(
        gzip.decompress((recordings / "rest/fapi_v1_aggTrades_CLUSDT_20260501T1212.json.gz").read_bytes())
    )
    reader = MessageReader(an_instrument("CLUSDT", tick="0.01", step="0.01"))
    for row in rows:
        trade_id, price, quantity, time, maker = reader.agg_trade(row)
        assert (trade_id, time, maker) == (row["a"], row["T"], row["m"])
        assert price * Decimal("0.01") == Decimal(row["p"])
        assert quantity * Decimal("0.01") == Decimal(row["q"])
    assert len(rows) == 1000
