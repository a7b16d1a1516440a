"""What the simulated venue writes: read back it says the same, and its keys and types are those of real messages."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
import orjson
import pytest
from builders import an_instrument
from hypothesis import given
from hypothesis import strategies as st

from voltrade.config import Config
from voltrade.exchange.messages import MessageReader, instrument_of
from voltrade.exchange.refusals import VenueRefusal
from voltrade.exchange.shipped import shipped_instrument, shipped_rules, shipped_symbols
from voltrade.exchange.simulated import Balances
from voltrade.exchange.tape import simulate
from voltrade.exchange.venue import serve
from voltrade.exchange.venue_rest import ROUTES, Params, RestApi, Security
from voltrade.exchange.venue_streams import Streams
from voltrade.exchange.venue_wire import Wire, texts
from voltrade.model import (
    AccountUpdate,
    AlgoUpdate,
    MarkPrice,
    OrderType,
    OrderUpdate,
    PositionReport,
    Side,
    TimeInForce,
    Trades,
    money,
)

NOW = 1_767_643_200_000

BTC = an_instrument()
WIRE, READER = Wire(BTC), MessageReader(BTC)

FILL = OrderUpdate(
    time=NOW,
    symbol="BTCUSDT",
    client_order_id="vt-1e",
    order_id=7,
    side=Side.BUY,
    order_type=OrderType.MARKET,
    status="PARTIALLY_FILLED",
    execution="TRADE",
    quantity=10,
    filled=4,
    filled_notional=4 * 800_000,
    trade_id=3,
    last_quantity=4,
    last_price=800_000,
    fee=money("0.16"),
    fee_asset="USDT",
    realised=-5,
)
RESTING = replace(FILL, order_type=OrderType.LIMIT, price=790_000, status="NEW", execution="NEW", filled=0)
RESTING = replace(RESTING, filled_notional=0, trade_id=0, last_quantity=0, last_price=0, fee=0, realised=0)
STOP = AlgoUpdate(NOW, "BTCUSDT", "vt-1s", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 790_000, reduce_only=True)
HELD = PositionReport("BTCUSDT", -4, "80000.125", money("-1.5"), 5, "isolated")
MARK = MarkPrice("BTCUSDT", NOW, money("80012.34567891"), -1234, NOW + 3_600_000)
BALANCES = Balances(money(10_000), money(9_936), money("-1.5"), 0, money(64), 0, money(8), money(9_936))


# --- read back --------------------------------------------------------------------------------------------------------

lots = st.integers(1, 100_000)
ticks = st.integers(1, 8_000_000)
amounts = st.integers(-(2**53), 2**53)  # the reader takes no more
ids = st.integers(1, 10**15)


@given(lots, lots, ticks, ids, amounts, st.sampled_from(Side), st.sampled_from(TimeInForce), st.booleans())
def test_an_order_update_reads_back_as_it_was(
    quantity: int, filled: int, price: int, number: int, amount: int, side: Side, tif: TimeInForce, flag: bool
) -> None:
    quantity, filled = max(quantity, filled), min(quantity, filled)
    order = replace(FILL, quantity=quantity, filled=filled, last_quantity=filled, last_price=price, trade_id=number)
    order = replace(order, side=side, time_in_force=tif, fee=abs(amount), realised=amount, is_maker=flag)
    order = replace(order, filled_notional=filled * price, reduce_only=flag, order_id=number, expiry_reason="4")
    over_the_wire = orjson.loads(orjson.dumps(WIRE.user_event(order)))
    # The event has no cumulative notional: readers add up the fills.
    assert READER.order_update(over_the_wire) == replace(order, filled_notional=0)
    assert READER.user_trade(WIRE.user_trade(order)).realised == amount
    as_rest = READER.order(orjson.loads(orjson.dumps(WIRE.order(order, NOW))))
    assert as_rest.filled_notional in (filled * price, 0)
    assert (as_rest.quantity, as_rest.filled, as_rest.side, as_rest.reduce_only) == (quantity, filled, side, flag)


@given(lots, ticks, ids, st.sampled_from(("NEW", "TRIGGERED", "FINISHED", "CANCELED")), st.booleans())
def test_an_algo_update_reads_back_as_it_was(quantity: int, price: int, number: int, status: str, flag: bool) -> None:
    algo = replace(STOP, quantity=quantity, trigger_price=price, algo_id=number, status=status, reduce_only=flag)
    algo = replace(algo, order_id=number if status == "FINISHED" else 0, close_position=not flag, reason="")
    child = replace(FILL, filled=quantity, quantity=quantity)
    assert READER.algo_update(orjson.loads(orjson.dumps(WIRE.user_event(algo, child)))) == algo
    assert READER.algo_order(orjson.loads(orjson.dumps(WIRE.algo_order(algo, NOW, 0, child)))) == algo


@given(amounts, st.integers(-(10**7), 10**7))
def test_an_account_update_reads_back_as_it_was(amount: int, quantity: int) -> None:
    held = replace(HELD, quantity=quantity, unrealised=amount)
    update = AccountUpdate(NOW, "ORDER", amount, (held,))
    read = READER.account_update(orjson.loads(orjson.dumps(WIRE.user_event(update))), None)
    assert read == replace(update, positions=(replace(held, leverage=0),)), "the event tells no leverage"
    assert READER.mark_price(WIRE.mark_event(MARK)) == MARK


@given(st.lists(st.tuples(ids, ticks, lots, st.integers(1, 2**43), st.booleans()), max_size=20))
def test_trades_read_back_as_they_were(rows: list[tuple[int, int, int, int, bool]]) -> None:
    trades = Trades.from_rows("BTCUSDT", rows)
    assert [READER.agg_trade(orjson.loads(event)) for event in WIRE.agg_trade_events(trades)] == rows
    assert [READER.agg_trade(row) for row in WIRE.agg_trade_rows(trades)] == rows


@pytest.mark.parametrize(
    ("unit", "count", "text"),
    [
        ("0.1", 600_001, "60000.1"),
        ("0.10", 600_001, "60000.10"),
        ("0.001", 5, "0.005"),
        ("1", 7, "7"),
        ("1E+1", 7, "70"),
        ("0.05", 3, "0.15"),
        ("2.5", 3, "7.5"),
        ("0.00000001", 1, "0.00000001"),
    ],
)
def test_counts_are_written_with_the_digits_of_their_unit(unit: str, count: int, text: str) -> None:
    assert texts(np.array([count]), Decimal(unit)) == [text]


def test_exchange_info_gives_the_instrument_back() -> None:
    for symbol in shipped_symbols():
        instrument = shipped_instrument(symbol)
        info = orjson.loads(orjson.dumps(Wire(instrument).exchange_info(NOW)))
        assert instrument_of(info, symbol, instrument.source) == instrument


def test_isolated_margin_is_the_entry_cost_over_the_leverage() -> None:
    """0.004 BTC at 80,000.125 is 320.0005; over 5 that is 64.0001."""
    event = WIRE.user_event(AccountUpdate(NOW, "ORDER", money(100), (HELD,)))["a"]
    assert (event["B"][0]["cw"], event["P"][0]["iw"], event["P"][0]["pa"]) == ("35.99990000", "64.00010000", "-0.004")
    risk = WIRE.position_risk(BALANCES, HELD, MARK)
    assert (risk["isolatedMargin"], risk["notional"]) == ("62.50010000", "-320.04938272")


# --- keys and types of real messages ----------------------------------------------------------------------------------

NEWER = {
    "aggTrade": {"nq"},
    "ORDER_TRADE_UPDATE.o": {"er"},
    "ALGO_UPDATE.o": {"rm"},
}
"""Keys that the recordings are too old to have."""

NOT_SENT = {
    "st": "of the newest models only; says which service sent it",
    "AP": "of trailing stops only",
    "cr": "of trailing stops only",
    "si": "ignored by the documentation",
}
"""Keys of recordings that the venue leaves out, and why."""


def shape(value: Any) -> Any:
    """Replace values by their types; a list by the shape of its first row."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def differences(ours: Any, real: Any, where: str = "") -> Iterator[str]:
    """Tell keys of the real message that ours lacks, and values of another type."""
    if isinstance(ours, dict) and isinstance(real, dict):
        for key in real.keys() - ours.keys() - NOT_SENT.keys():
            yield f"{where}.{key} is missing"
        for key in real.keys() & ours.keys():
            yield from differences(ours[key], real[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(real, list):
        if ours and real:
            yield from differences(ours[0], real[0], f"{where}[]")
    elif type(ours) is not type(real) and {type(ours), type(real)} != {int, float}:
        yield f"{where} is {type(ours).__name__}, was {type(real).__name__}"


def sample(path: Path) -> Any:
    """Read a recorded answer: JSON below three lines of request, or the event below `=` or `<` lines."""
    text = path.read_text()
    text = text[re.search(r"(?m)^\s*[\[{](?!.*SUBSCRIBE)", text).start() :]  # type: ignore[union-attr]
    value = json.loads(text)
    return value["data"] if isinstance(value, dict) and "stream" in value else value


EVENTS = {
    "nautilus_test_data_futures/user_data_json/order_update_new.json": WIRE.user_event(RESTING),
    "nautilus_test_data_futures/user_data_json/order_update_trade.json": WIRE.user_event(FILL),
    "nautilus_test_data_futures/user_data_json/account_update.json": WIRE.user_event(
        AccountUpdate(NOW, "ORDER", money(100), (HELD,))
    ),
    "nautilus_test_data_futures/user_data_json/algo_update_new.json": WIRE.user_event(STOP),
    "nautilus_integration_resources/ws_messages/ws_futures_algo_update_finished.json": WIRE.user_event(
        replace(STOP, status="FINISHED", order_id=7, filled=10), replace(FILL, filled=10)
    ),
    "nautilus_test_data_futures/market_data_json/agg_trade_stream.json": orjson.loads(
        WIRE.agg_trade_events(Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]))[0]
    ),
    "nautilus_test_data_futures/market_data_json/mark_price_stream.json": WIRE.mark_event(MARK),
    "nautilus_test_data_futures/market_data_json/book_ticker_stream.json": WIRE.book_event(
        Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)])
    ),
    "binance_net_subscriptions/Leverage.txt": WIRE.leverage_event(5, NOW),
    "binance_net_endpoints/Trading/GetOrder.txt": WIRE.order(FILL, NOW),
    "binance_net_endpoints/Trading/PlaceOrder.txt": WIRE.order(FILL),
    "binance_net_endpoints/Trading/GetConditionalOrder.txt": WIRE.algo_order(STOP, NOW, 0, None),
    "binance_net_endpoints/Trading/PlaceConditionalOrder.txt": WIRE.algo_order(STOP, NOW, 0, None),
    "binance_net_endpoints/Trading/GetUserTrades.txt": [WIRE.user_trade(FILL)],
    "binance_net_endpoints/Trading/GetPositions.txt": [WIRE.position_risk(BALANCES, HELD, MARK)],
    "binance_net_endpoints/Account/GetAccountInfo.txt": WIRE.account(BALANCES, HELD, MARK, NOW),
    "binance_net_endpoints/Account/GetAccountInfoV3.txt": WIRE.account(BALANCES, HELD, MARK, NOW),
    "binance_net_endpoints/Account/GetBalances.txt": [WIRE.balance(BALANCES, HELD, NOW)],
    "binance_net_endpoints/Account/GetBrackets.txt": [WIRE.leverage_bracket(shipped_rules("BTCUSDT").brackets)],
    "nautilus_integration_resources/http_responses/http_futures_account_symbol_config.json": [WIRE.symbol_config(HELD)],
    "binance_net_endpoints/ExchangeData/GetMarkPrice.txt": WIRE.premium_index(MARK),
    "binance_net_endpoints/ExchangeData/GetBookPrice.txt": WIRE.book_ticker(
        Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]), NOW
    ),
    "binance_net_endpoints/ExchangeData/GetPrice.txt": WIRE.ticker_price(
        Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]), NOW
    ),
    "binance_net_endpoints/ExchangeData/GetAggregatedTradeHistory.txt": WIRE.agg_trade_rows(
        Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)])
    ),
    "binance_net_endpoints/ExchangeData/GetKlines.txt": WIRE.klines(
        Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]), 60_000
    ),
}

EXPLAINED = {
    # The name of the pair, which is the symbol's.
    "book_ticker_stream.json.ps is missing",
    # An order of a stop's own: since conditional orders moved to the algo endpoint an ordinary order has none.
    *("PlaceOrder.txt.activatePrice is missing", "PlaceOrder.txt.priceRate is missing"),
    *("GetOrder.txt.activatePrice is missing", "GetOrder.txt.priceRate is missing"),
    # Orders with attached exits, which the venue does not offer.
    *(
        f"GetConditionalOrder.txt.{name} is missing"
        for name in ("tpTriggerPrice", "tpPrice", "slTriggerPrice", "slPrice", "tpOrderType")
    ),
}
"""Differences that are meant."""


@pytest.mark.recordings
def test_what_is_sent_has_the_keys_and_types_of_recorded_messages(recordings: Path) -> None:
    found = []
    for name, ours in EVENTS.items():
        real = sample(recordings / "messages" / name)
        mine = orjson.loads(orjson.dumps(ours))
        found += [f"{name.rsplit('/')[-1]}{line}" for line in differences(mine, real)]
    assert sorted(set(found) - EXPLAINED) == []


@pytest.mark.recordings
def test_real_frames_of_the_trade_stream_have_no_key_that_ours_lack(recordings: Path) -> None:
    ours = orjson.loads(WIRE.agg_trade_events(Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]))[0])
    frames = 0
    with gzip.open(recordings / "usdm_ws_raw" / "cryptofeed_BINANCE_FUTURES.ws.1.0.gz", "rt") as lines:
        for line in lines:
            _, _, text = line.partition(": ")
            if '"aggTrade"' not in text:
                continue
            real = json.loads(text)["data"]
            assert shape(real) == {key: kind for key, kind in shape(ours).items() if key != "nq"}
            frames += 1
    assert frames == 91
    with gzip.open(recordings / "rest" / "fapi_v1_aggTrades_CLUSDT_20260501T1212.json.gz") as file:
        (row,) = WIRE.agg_trade_rows(Trades.from_rows("BTCUSDT", [(1, 2, 3, 4, True)]))
        assert shape(json.load(file)[0]) == shape(row)


@pytest.mark.recordings
def test_exchange_info_has_the_keys_and_types_of_the_recorded_one(recordings: Path) -> None:
    with gzip.open(recordings / "rest" / "exchangeInfo-usdm-20251215.json.gz") as file:
        real = json.load(file)
    real["symbols"] = [row for row in real["symbols"] if row["symbol"] == "BTCUSDT"]
    ours = orjson.loads(orjson.dumps(Wire(shipped_instrument("BTCUSDT")).exchange_info(NOW)))
    assert sorted(differences(ours, real)) == [".symbols[].permissionSets is missing"]


# --- every path -------------------------------------------------------------------------------------------------------


def test_no_signed_path_answers_without_a_signature(tmp_path: Path) -> None:
    async def story() -> None:
        trades = Trades.from_rows("BTCUSDT", [(1, 800_000, 3, NOW, True)])
        venue = await serve(Config(), trades, log_dir=tmp_path)
        codes = {}
        async with aiohttp.ClientSession(headers={"X-MBX-APIKEY": "sim-key"}) as http:
            for (method, path), route in ROUTES.items():
                async with http.request(method, f"{venue.rest_url}{path}?timestamp={venue.now()}") as response:
                    answer = await response.json()
                    codes[method, path] = answer.get("code", 0) if isinstance(answer, dict) else 0
                if route.security is Security.SIGNED:
                    assert codes[method, path] == -1102, (method, path)
        await venue.close()
        assert len(codes) == len(ROUTES) >= 40

    asyncio.run(story())


NAMES = (
    *("symbol", "side", "type", "quantity", "price", "timeInForce", "newClientOrderId", "origClientOrderId"),
    *("orderId", "algoType", "clientAlgoId", "algoId", "triggerPrice", "closePosition", "reduceOnly", "workingType"),
    *("leverage", "marginType", "dualSidePosition", "fromId", "startTime", "endTime", "limit", "interval"),
)
VALUES = ["", "0", "1", "-1", "1e9", "²", "--5", "9" * 18, "9" * 40, "NaN", "0.001", "79000.0", "true", "é%", "1m"]
SENSIBLE = ["BTCUSDT", "BUY", "LIMIT", "GTC", "MARKET", "STOP_MARKET", "CONDITIONAL", "vt-1", "CROSSED", "MARK_PRICE"]


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES + SENSIBLE) | st.text(max_size=3)))
def test_whatever_is_sent_is_answered_or_refused_with_a_code(values: dict[str, str]) -> None:
    exchange, player = simulate(Config(), Trades.from_rows("BTCUSDT", [(1, 800_000, 3, NOW, True)]))
    player.play(1, False, NOW)
    streams = Streams("BTCUSDT", "", None)
    seen = partial(getattr, player, "trades")
    rest = RestApi(
        exchange, Wire(player.market.instrument), streams, seen=seen, now=lambda: NOW, api_key="k", api_secret="s"
    )
    params = Params(urlencode({"symbol": "BTCUSDT", **values}, errors="replace"), "")
    for known in ROUTES.values():
        with suppress(VenueRefusal):
            orjson.dumps(known.handler(rest, params))
    for update in exchange.collect():
        orjson.dumps(rest._wire.user_event(update))
