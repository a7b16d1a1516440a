"""What the simulated venue writes: read back it says the same, and its keys and types are those of real messages."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.sdk_models import key_differences

from voltrade.config import Config
from voltrade.exchange.filters import instrument_of
from voltrade.exchange.messages import MessageReader
from voltrade.model import (
    AlgoUpdate,
    MarkPrice,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
    Trades,
    money,
)
from voltrade.simulated.events import AccountChange, AssetsModeChange, MarginCall, SettingsChange
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.formatting import column
from voltrade.simulated.orders import AlgoOrder, Order
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.symbols import shipped_instrument, shipped_symbols
from voltrade.simulated.tape_playback import exchange_for, player_for, simulate
from voltrade.venue.market_data import MarketData, mark_message
from voltrade.venue.messages import (
    OF_THE_CHILD,
    ONLY_ASKED,
    TRAILING_ONLY,
    account_message,
    algo_message,
    lacking,
    order_message,
    position_message,
    render,
    user_events,
)
from voltrade.venue.requests import SUCCESS, Params, served
from voltrade.venue.rest import RestApi
from voltrade.venue.server import serve
from voltrade.venue.streams import Streams, key_expired

NOW = 1_767_643_200_000

BTC = an_instrument()
READER = MessageReader(BTC)
EXCHANGE = exchange_for(Config(), [BTC])
MARKETS, MARKET = EXCHANGE.markets, EXCHANGE.markets["BTCUSDT"]

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
ASKED = OrderRequest("BTCUSDT", "vt-1s", Side.SELL, OrderType.STOP_MARKET, 10, trigger_price=790_000, reduce_only=True)
SOURCE = AlgoOrder(ASKED, 9, NOW, NOW, 1)
TRAILING = AlgoOrder(replace(ASKED, order_type=OrderType.TRAILING_STOP_MARKET, callback_bps=50), 9, NOW, NOW, 1)
MARK = MarkPrice("BTCUSDT", NOW, money("80012.34567891"), -1234, NOW + 3_600_000)
RISK = replace(
    EXCHANGE.position_risk("BTCUSDT"),
    **{"quantity": -4, "entry_price": "80000.125", "break_even_price": "79960.1249375", "unrealised": money("-1.5")},
    **{"mark_price": MARK.price_e8, "notional": money("-320.04938272"), "isolated_wallet": money("64.0001")},
    **{"maintenance_margin": money("1.2"), "realised": 7, "updated": NOW},
)
BALANCES = EXCHANGE.balances()
CHANGE = AccountChange(NOW, "ORDER", money(100), money("35.9999"), 0, (RISK,))
CALL = MarginCall(NOW, money("35.9999"), (replace(RISK, margin_type="cross"),))


def event_of(happened: AccountChange | MarginCall) -> Any:
    [event] = user_events(EXCHANGE, happened)
    return event


def order_event(order: OrderUpdate) -> Any:
    return order_message("ORDER_TRADE_UPDATE", MARKET, order)


def algo_event(algo: AlgoUpdate, source: AlgoOrder) -> Any:
    return algo_message("ALGO_UPDATE", BTC, algo, source)


def a_child(quantity: int) -> Order:
    """What a stop has become: a market order, filled at 80,000."""
    child = Order(replace(ASKED, order_type=OrderType.MARKET), 7, NOW, NOW, 800_000)
    child.filled, child.filled_notional = quantity, quantity * 800_000
    return child


def some_data(trades: Trades) -> MarketData:
    """Market data that has shown nothing yet."""
    exchange = exchange_for(Config(), [BTC])
    return MarketData(player_for(Config(), exchange, trades))


def a_rest(exchange: SimulatedExchange, *markets: MarketData) -> RestApi:
    given = {data.symbol: data for data in markets} or dict.fromkeys(exchange.markets)
    return RestApi(exchange, given, Streams(given, ""), lambda: NOW, ("k", "s"))  # type: ignore[arg-type]


def exchange_info(exchange: SimulatedExchange) -> Any:
    return a_rest(exchange).body("exchange_info", Params(""))


def over_the_wire(message: Any) -> Any:
    return orjson.loads(orjson.dumps(message))


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
    # The event has no cumulative notional: readers add up the fills.
    assert READER.order_update(over_the_wire(order_event(order))) == replace(order, filled_notional=0)
    assert READER.user_trade(order_message("user_trade", MARKET, order)).realised == amount
    as_rest = READER.order(over_the_wire(order_message("order", MARKET, order)))
    assert as_rest.filled_notional in (filled * price, 0)
    assert (as_rest.quantity, as_rest.filled, as_rest.side, as_rest.reduce_only) == (quantity, filled, side, flag)


@given(lots, ticks, ids, st.sampled_from(("NEW", "TRIGGERED", "FINISHED", "CANCELED")), st.booleans())
def test_an_algo_update_reads_back_as_it_was(quantity: int, price: int, number: int, status: str, flag: bool) -> None:
    algo = replace(STOP, quantity=quantity, trigger_price=price, algo_id=number, status=status, reduce_only=flag)
    algo = replace(algo, order_id=number if status == "FINISHED" else 0, close_position=not flag, reason="")
    source = replace(SOURCE, child=a_child(quantity))
    assert READER.algo_update(over_the_wire(algo_event(algo, source))) == algo
    assert READER.algo_order(over_the_wire(algo_message("algo_order", BTC, algo, source))) == algo


@given(amounts, st.integers(-(10**7), 10**7))
def test_an_account_update_reads_back_as_it_was(amount: int, quantity: int) -> None:
    held = replace(RISK, quantity=quantity, unrealised=amount)
    change = replace(CHANGE, wallet=amount, positions=(held,))
    read = READER.account_update(over_the_wire(event_of(change)), None)
    told = change.update()
    assert read == replace(told, positions=(replace(held.report, leverage=0),)), "the event tells no leverage"
    assert READER.mark_price(mark_message("markPriceUpdate", MARK)) == MARK


@given(st.lists(st.tuples(ids, ticks, lots, st.integers(1, 2**43), st.booleans()), max_size=20))
def test_trades_read_back_as_they_were(rows: list[tuple[int, int, int, int, bool]]) -> None:
    trades = Trades.from_rows("BTCUSDT", rows)
    data = data_of((1, 2, 3, 4, True))
    assert [READER.agg_trade(orjson.loads(event)) for event in data.agg_trade_events(trades)] == rows
    assert [READER.agg_trade(row) for row in data.agg_trade_rows(trades)] == rows


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
    for many in (1, 100):  # few are written one by one, many as arrays
        assert column(np.full(many, count), Decimal(unit)) == [text] * many


def test_exchange_info_gives_the_instruments_back() -> None:
    symbols = shipped_symbols()
    info = over_the_wire(exchange_info(exchange_for(Config(), symbols)))
    assert [row["symbol"] for row in info["symbols"]] == symbols
    for symbol in symbols:
        instrument = shipped_instrument(symbol)
        assert instrument_of(info, symbol, instrument.source) == instrument


def test_exchange_info_tells_changed_filters() -> None:
    exchange = exchange_for(Config(), ["BTCUSDT"])
    changed = replace(shipped_instrument("BTCUSDT"), min_quantity=7, min_notional=money(250), max_price=9_000_000)
    changed = replace(changed, multiplier_up=Decimal("1.1"), market_max_quantity=40_000, source="")
    exchange.change_filters(changed)
    info = over_the_wire(exchange_info(exchange))
    assert instrument_of(info, "BTCUSDT", "") == changed


def data_of(*rows: tuple[int, int, int, int, bool]) -> MarketData:
    """Market data that has shown all its trades."""
    data = some_data(Trades.from_rows("BTCUSDT", rows))
    data.show(len(rows), 0)
    return data


def test_klines_have_a_row_for_each_interval_and_repeat_the_close_where_nothing_was_traded() -> None:
    data = data_of(
        (1, 100, 5, 0, False), (2, 103, 1, 30_000, True), (3, 101, 2, 59_999, False), (4, 99, 4, 180_000, True)
    )
    names = ("open", "high", "low", "close", "volume", "turnover", "count", "bought", "bought_turnover")
    assert [(each["open_time"], *(each[name] for name in names)) for each in data.klines(60_000, -2, 3)] == [
        # 0.005 x 10.0 + 0.001 x 10.3 + 0.002 x 10.1 = 0.0805, of which takers bought 0.0702
        (0, "10.00", "10.30", "10.00", "10.10", "0.008", "0.08050", 3, "0.007", "0.07020"),
        (60_000, "10.10", "10.10", "10.10", "10.10", "0.000", "0", 0, "0.000", "0"),
        (120_000, "10.10", "10.10", "10.10", "10.10", "0.000", "0", 0, "0.000", "0"),
        (180_000, "9.90", "9.90", "9.90", "9.90", "0.004", "0.03960", 1, "0.000", "0"),
    ]


def test_kline_events_close_what_is_over_by_the_clock() -> None:
    times = [0, 30_000, 59_000, 61_000, 250_000]
    data = some_data(Trades.from_rows("BTCUSDT", [(n + 1, 100 + n, 1, at, False) for n, at in enumerate(times)]))

    def told(sent: int, now: int) -> list[tuple[int, bool, int, int]]:
        before, then = data.sent, data.time
        data.show(sent, now)
        events = [orjson.loads(event)["k"] for event in data.kline_events("1m", before, then)]
        return [(event["t"], event["x"], event["f"], event["L"]) for event in events]

    assert told(1, 0) == [(0, False, 1, 1)]
    assert told(3, 59_999) == [(0, False, 1, 3)]
    assert told(3, 60_000) == [(0, True, 1, 3)], "the clock is enough"
    assert told(3, 60_500) == []
    assert told(4, 61_000) == [(60_000, False, 4, 4)]
    empty = [(120_000, True, -1, -1), (180_000, True, -1, -1)]
    assert told(5, 61_500) == [(60_000, True, 4, 4), *empty, (240_000, False, 5, 5)], "as far as trades are ahead of it"
    assert told(5, 300_000) == [(240_000, True, 5, 5)]


# --- keys and types of real messages ----------------------------------------------------------------------------------

ORDERS, ASKED_ORDERS = "^(OrderUpdate|(ws_futures_)?order_update)", "(Get|_account_).*[oO]rder"
ATTACHED = ("exits attached to a conditional order, which are not offered", "ConditionalOrder")
LEFT_OUT = {
    "W": ("of forced orders, undocumented", ORDERS),
    "permissionSets": ("of exchangeInfo, undocumented", "exchangeInfo"),
    **dict.fromkeys(("tpTriggerPrice", "tpPrice", "slTriggerPrice", "slPrice", "tpOrderType"), ATTACHED),
    "AP": ("of an order: only conditional orders trail, and they tell it in ALGO_UPDATE", ORDERS),
    "cr": ("likewise", ORDERS),
    "marginAsset": ("of a trade, undocumented", "trades"),
    "activatePrice": ("of an order: only conditional orders have it now, as algo orders", "[oO]rder"),
    "priceRate": ("likewise", "[oO]rder"),
    "pair": ("of a modified order; the symbol's own name", "Edit"),
    "cumBase": ("of a modified order: coin-margined futures have it", "Edit"),
}
"""Keys of recordings that the venue leaves out, why, and from which messages; docs/venue.md has them too."""

NEWER, EXAMPLES = "newer than the recording", "of orders; Binance's examples of some answers have it"
MORE = {
    "pm": (NEWER, ORDERS),
    "er": (NEWER, ORDERS),
    "gtd": (NEWER, ORDERS),
    "ma": (NEWER, "ccount_?[uU]pdate"),
    "nq": (NEWER, "[aA]gg"),
    "ps": (NEWER, "BookTicker"),
    "st": ("of market events; newer than the recording", "BookTicker|AggTrades|MarkPrice"),
    "ap": ("of a mark price; newer than the recording", "mark_price|MarkPrice"),
    "aq": ("filled quantity of a conditional order that has not triggered: recordings differ", "algo_update"),
    "act": ("type of its order, likewise", "algo_update"),
    "rm": ("reason of a conditional order; Binance's documentation has it", "algo_update|AlgoOrderUpdate"),
    "cumQty": (EXAMPLES, ASKED_ORDERS),
    "closePosition": (EXAMPLES, "PlaceMultipleOrders"),
    "priceProtect": (EXAMPLES, "GetForcedOrders"),
    "goodTillDate": (EXAMPLES, ASKED_ORDERS),
    "selfTradePreventionMode": (EXAMPLES, ASKED_ORDERS),
    "priceMatch": (EXAMPLES, ASKED_ORDERS),
    "breakEvenPrice": ("of positions; newer than the recording", "ccount|position"),
    "isolatedMargin": ("likewise", "ccount"),
    "isolatedWallet": ("likewise", "ccount|position"),
    "notional": ("likewise", "ccount|position"),
    "marginAvailable": ("of assets; Binance's examples have it", "Account"),
    "lastUpdateId": ("of the best prices; Binance's examples have it", "book_ticker"),
    "rateType": ("of a funding rate; newer than the recording", "[fF]unding"),
    "listenKey": ("of a renewed listen key; the official SDK's model has it", "KeepAlive"),
}
"""Keys that the venue sends and a recording lacks, why, and in which messages; docs/venue.md has them too."""

OTHERWISE = {
    "GetSymbolConfiguration.txt[].isAutoAddMargin is bool, was str": "the SDK's model wants a boolean",
    **{
        f"{name}.{key} is missing": "answers to requests have neither since July 2026, queries have both"
        for name in ("PlaceOrder.txt", "EditOrder.txt", "PlaceMultipleOrders.txt[]")
        for key in ONLY_ASKED
        if (name, key) != ("EditOrder.txt", "cumQuote")
    },
    **{f"{name}.cumQuote is missing": "likewise" for name in ("CancelOrder.txt", "CancelMultipleOrders.txt[]")},
    "EditMultipleOrders.txt[].avgPrice is missing": "likewise",
    "ws_futures_algo_update_triggering.json.o.ap is not there": "recordings differ",
    "http_futures_market_funding_rate.json[].markPrice is not there": "newer than the recording",
}
"""Values of another type than in a recording, and why."""

ONE_TRADE = data_of((1, 2, 3, 4, True))
AGG_TRADE = orjson.loads(ONE_TRADE.agg_trade_events(ONE_TRADE.trades)[0])
STOP_EVENT = algo_event(STOP, SOURCE)
DONE_EVENT = algo_event(replace(STOP, status="FINISHED", order_id=7, filled=10), replace(SOURCE, child=a_child(10)))
STOP_OBJECT = algo_message("algo_order", BTC, STOP, SOURCE)
FORCED = replace(FILL, client_order_id="autoclose-7", execution="CALCULATED", order_type=OrderType.LIMIT, price=800_000)
USER, TAPE = "nautilus_test_data_futures/user_data_json", "nautilus_test_data_futures/market_data_json"
HTTP, FRAMES = "nautilus_integration_resources/http_responses", "nautilus_integration_resources/ws_messages"
REST, SUB = "binance_net_endpoints", "binance_net_subscriptions"
ASKED_FOR = {**order_message("order", MARKET, FILL), "time": NOW}
ORDER, TRADE = lacking(ASKED_FOR, ("time", *ONLY_ASKED)), order_message("user_trade", MARKET, FILL)
LITE = order_message("TRADE_LITE", MARKET, FILL)


def account(version: str) -> Any:
    position = position_message(f"{version}/account position", BTC, RISK)
    flags = render("account flags", {"multi_assets": False}) if version == "v2" else {}
    return flags | account_message("account", BALANCES, NOW, [position])


POSITION = position_message("v2/positionRisk position", BTC, RISK, "95000.1")
KLINES = a_rest(EXCHANGE, ONE_TRADE).body("klines", Params("symbol=BTCUSDT&interval=1m&endTime=0"))
ONE_TRADE.show(1, 60_000)
KLINE_EVENT = orjson.loads(ONE_TRADE.kline_events("1m", 0, 0)[0])
BOOK_EVENT, BOOK = ONE_TRADE.book("bookTicker", NOW), ONE_TRADE.book("book_ticker", NOW)
MARK_EVENT, PREMIUM = mark_message("markPriceUpdate", MARK), mark_message("premium_index", MARK)
DAY, PRICE = ONE_TRADE.day(NOW), ONE_TRADE.ticker_price(NOW)
SERVING = a_rest(EXCHANGE, ONE_TRADE)


def answered(method: str, path: str) -> Any:
    """What is answered to a request with a symbol alone."""
    route = served()[method, f"/fapi/v1/{path}"]
    body = SERVING.body(route.handler, Params("symbol=BTCUSDT")) if route.handler else None
    return route.default if body is None else body


SAMPLES: dict[str, Any] = {
    **{f"{USER}/order_update_{name}.json": order_event(FILL) for name in ("trade", "trade_partial")},
    **{f"{USER}/order_update_{name}.json": order_event(FORCED) for name in ("adl", "calculated", "settlement")},
    f"{USER}/order_update_new.json": order_event(RESTING),
    f"{USER}/account_update.json": event_of(CHANGE),
    f"{USER}/algo_update_new.json": STOP_EVENT,
    f"{USER}/algo_update_canceled.json": STOP_EVENT,
    f"{USER}/trade_lite.json": LITE,
    f"{FRAMES}/ws_futures_algo_update_finished.json": DONE_EVENT,
    f"{FRAMES}/ws_futures_algo_update_triggering.json": STOP_EVENT,
    f"{FRAMES}/ws_futures_algo_update_triggered.json": DONE_EVENT,
    f"{FRAMES}/ws_futures_trade_lite.json": LITE,
    f"{FRAMES}/ws_futures_book_ticker.json": BOOK_EVENT,
    f"{TAPE}/agg_trade_stream.json": AGG_TRADE,
    f"{TAPE}/mark_price_stream.json": MARK_EVENT,
    f"{TAPE}/book_ticker_stream.json": BOOK_EVENT,
    f"{TAPE}/kline_stream_closed.json": KLINE_EVENT,
    f"{TAPE}/kline_stream_open.json": KLINE_EVENT,
    f"{SUB}/Leverage.txt": render("ACCOUNT_CONFIG_UPDATE", asdict(SettingsChange(NOW, "BTCUSDT", 5))),
    f"{SUB}/Klines.txt": KLINE_EVENT,
    f"{SUB}/MarkPrice.txt": MARK_EVENT,
    f"{SUB}/AggTrades.txt": AGG_TRADE,
    f"{SUB}/BookTicker.txt": BOOK_EVENT,
    f"{SUB}/OrderUpdate.txt": order_event(FILL),
    f"{SUB}/AlgoOrderUpdate.txt": STOP_EVENT,
    f"{SUB}/AccountUpdate.txt": event_of(CHANGE),
    f"{SUB}/MarginUpdate.txt": event_of(CALL),
    f"{SUB}/TradeUpdate.txt": LITE,
    **{f"{REST}/Trading/{name}.txt": ASKED_FOR for name in ("GetOrder", "GetOpenOrder")},
    **{f"{REST}/Trading/{name}.txt": ORDER for name in ("PlaceOrder", "CancelOrder", "EditOrder")},
    **{f"{REST}/Trading/{name}.txt": [ASKED_FOR] for name in ("GetOrders", "GetOpenOrders")},
    **{f"{REST}/Trading/{name}.txt": [ORDER] for name in ("PlaceMultipleOrders", "CancelMultipleOrders")},
    f"{REST}/Trading/GetForcedOrders.txt": [{**order_message("order", MARKET, FORCED), "time": NOW}],
    f"{REST}/Trading/GetConditionalOrder.txt": lacking(STOP_OBJECT, TRAILING_ONLY),
    f"{REST}/Trading/PlaceConditionalOrder.txt": lacking(STOP_OBJECT, OF_THE_CHILD),
    f"{REST}/Trading/GetOpenConditionalOrders.txt": [lacking(STOP_OBJECT, (*TRAILING_ONLY, "actualQty", "actualType"))],
    f"{REST}/Trading/GetConditionalOrders.txt": [lacking(STOP_OBJECT, TRAILING_ONLY)],
    f"{REST}/Trading/GetUserTrades.txt": [TRADE],
    f"{REST}/Trading/GetPositions.txt": [POSITION],
    f"{REST}/Trading/CancelAllOrdersAfterTimeout.txt": {"symbol": "BTCUSDT", "countdownTime": "1000"},
    f"{REST}/Account/GetPositionInformation.txt": [POSITION],
    f"{REST}/Account/GetAccountInfo.txt": account("v2"),
    f"{REST}/Account/GetAccountInfoV3.txt": account("v3"),
    f"{REST}/Account/GetBalances.txt": [account_message("balance", BALANCES, NOW)],
    f"{REST}/Account/GetBrackets.txt": a_rest(EXCHANGE).body("leverage_bracket", Params("")),
    f"{REST}/Account/GetSymbolConfiguration.txt": [position_message("symbol_config", BTC, RISK)],
    f"{HTTP}/http_futures_account_symbol_config.json": [position_message("symbol_config", BTC, RISK)],
    f"{HTTP}/http_futures_account_trades.json": [TRADE],
    f"{HTTP}/http_futures_account_positions_one_way.json": [POSITION],
    f"{HTTP}/http_futures_market_agg_trades.json": ONE_TRADE.agg_trade_rows(ONE_TRADE.trades),
    f"{HTTP}/http_futures_market_klines.json": KLINES,
    f"{HTTP}/http_futures_market_premium_index.json": PREMIUM,
    f"{HTTP}/http_futures_market_book_ticker.json": BOOK,
    f"{HTTP}/http_futures_market_ticker_price.json": PRICE,
    f"{HTTP}/http_futures_market_ticker_24hr.json": DAY,
    f"{REST}/ExchangeData/GetMarkPrice.txt": PREMIUM,
    f"{REST}/ExchangeData/GetBookPrice.txt": BOOK,
    f"{REST}/ExchangeData/GetPrice.txt": PRICE,
    f"{REST}/ExchangeData/GetTicker.txt": DAY,
    f"{REST}/ExchangeData/GetAggregatedTradeHistory.txt": ONE_TRADE.agg_trade_rows(ONE_TRADE.trades),
    f"{REST}/ExchangeData/GetKlines.txt": KLINES,
    f"{REST}/ExchangeData/GetContinuousContractKlines.txt": KLINES,
    f"{REST}/ExchangeData/GetFundingRates.txt": [mark_message("funding_rate", MARK)],
    f"{REST}/ExchangeData/GetOrderBook.txt": ONE_TRADE.book("depth", NOW),
    f"{REST}/ExchangeData/GetServerTime.txt": answered("GET", "time"),
    f"{REST}/Trading/EditMultipleOrders.txt": [ORDER],
    f"{REST}/Trading/CancelAllOrders.txt": answered("DELETE", "allOpenOrders"),
    f"{REST}/Trading/CancelAllConditionalOrders.txt": answered("DELETE", "algoOpenOrders"),
    f"{REST}/Account/ChangeInitialLeverage.txt": position_message("leverage", BTC, RISK),
    f"{REST}/Account/StartUserStream.txt": answered("POST", "listenKey"),
    f"{REST}/Account/KeepAliveUserStream.txt": answered("PUT", "listenKey"),
    f"{REST}/Account/StopUserStream.txt": answered("DELETE", "listenKey"),
    f"{REST}/Account/GetOrderRateLimit.txt": answered("GET", "rateLimit/order"),
    f"{REST}/Account/GetUserCommissionRate.txt": answered("GET", "commissionRate"),
    f"{REST}/Account/GetAccountConfiguration.txt": answered("GET", "accountConfig"),
    f"{REST}/Account/GetMultiAssetsMode.txt": answered("GET", "multiAssetsMargin"),
    f"{REST}/Account/GetBnbBurnStatus.txt": answered("GET", "feeBurn"),
    **{
        f"{REST}/Account/{name}.txt": SUCCESS
        for name in ("ChangeMarginType", "ModifyPositionMode", "SetMultiAssetsMode")
    },
    f"{HTTP}/http_futures_account_position_side_dual.json": answered("GET", "positionSide/dual"),
    f"{HTTP}/http_futures_account_orders.json": [ASKED_FOR],
    f"{HTTP}/http_futures_market_depth.json": ONE_TRADE.book("depth", NOW),
    f"{HTTP}/http_futures_market_funding_rate.json": [mark_message("funding_rate", MARK)],
    f"{HTTP}/http_futures_market_continuous_klines.json": KLINES,
    f"{HTTP}/http_futures_wallet_commission_rate_btcusdt.json": answered("GET", "commissionRate"),
    **{
        f"{FRAMES}/ws_futures_order_update_{name}.json": order_event(FORCED)
        for name in ("adl", "liquidation", "settlement")
    },
    f"{FRAMES}/ws_futures_order_update_new_reduce_only_qty.json": order_event(RESTING),
    f"{FRAMES}/ws_futures_order_update_trade_reduce_only_qty.json": order_event(FILL),
}
"""What the venue writes, by the recorded message that it is held against."""


def shape(value: Any) -> Any:
    """Replace values by their types; a list by the shape of its first row."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def differences(ours: Any, real: Any, where: str) -> Iterator[str]:
    """Tell keys of the real message that ours lacks, keys that it has not, and values of another type."""
    if isinstance(ours, dict) and isinstance(real, dict):
        for key in real.keys() - ours.keys():
            if not is_excused(LEFT_OUT, key, where):
                yield f"{where}.{key} is missing"
        for key in ours.keys() - real.keys():
            if not is_excused(MORE, key, where):
                yield f"{where}.{key} is not there"
        for key in real.keys() & ours.keys():
            yield from differences(ours[key], real[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(real, list):
        if ours and real:
            yield from differences(ours[0], real[0], f"{where}[]")
    elif type(ours) is not type(real) and {type(ours), type(real)} != {int, float} and real is not None:
        yield f"{where} is {type(ours).__name__}, was {type(real).__name__}"


def is_excused(table: Mapping[str, tuple[str, str]], key: str, where: str) -> bool:
    return key in table and re.search(table[key][1], where) is not None


def test_a_key_is_excused_in_its_own_messages_only() -> None:
    order = {"s": "BTCUSDT", "er": "0"}
    assert [*differences(order, {"s": "BTCUSDT"}, "OrderUpdate.txt.o")] == []
    assert [*differences(order, {"s": "BTCUSDT"}, "TradeUpdate.txt")] == ["TradeUpdate.txt.er is not there"]
    assert [*differences({}, {"cr": "0"}, "OrderUpdate.txt.o")] == []
    assert [*differences({}, {"cr": "0"}, "AccountUpdate.txt.a")] == ["AccountUpdate.txt.a.cr is missing"]
    assert [*differences([{"a": 1}], [{"a": "1"}], "x")] == ["x[].a is int, was str"]


def sample(path: Path) -> Any:
    """Read a recorded answer: JSON below three lines of request, or the event below `=` or `<` lines."""
    text = path.read_text()
    if path.suffix == ".txt":
        text = text[re.search(r"(?m)^\s*=?\s*[\[{](?!.*SUBSCRIBE)", text).end() - 1 :]  # type: ignore[union-attr]
    value = json.loads(text)
    return value["data"] if isinstance(value, dict) and "stream" in value else value


@pytest.mark.recordings
def test_what_is_sent_has_the_keys_and_types_of_recorded_messages(recordings: Path) -> None:
    found = set()
    for name, ours in SAMPLES.items():
        real = sample(recordings / "messages" / name)
        found |= {*differences(over_the_wire(ours), real, name.rsplit("/")[-1])}
    assert sorted(found) == sorted(OTHERWISE)


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("kind", "count", "without"),
    [("aggTrade", 91, {"nq", "st"}), ("kline", 67, set()), ("bookTicker", 613, {"ps", "st"})],
)
def test_real_frames_have_the_keys_and_types_of_ours(
    kind: str, count: int, without: set[str], recordings: Path
) -> None:
    """The recording is older than `nq`, `ps` and `st`."""
    ours = {"aggTrade": AGG_TRADE, "kline": KLINE_EVENT, "bookTicker": BOOK_EVENT}[kind]
    frames = 0
    with gzip.open(recordings / "usdm_ws_raw" / "cryptofeed_BINANCE_FUTURES.ws.1.0.gz", "rt") as lines:
        for line in lines:
            _, _, text = line.partition(": ")
            if f'"{kind}"' in text:
                real = json.loads(text)["data"]
                assert shape(real) == {key: kind for key, kind in shape(ours).items() if key not in without}
                frames += 1
    assert frames == count


@pytest.mark.recordings
def test_rest_answers_have_the_keys_and_types_of_the_recorded_ones(recordings: Path) -> None:
    with gzip.open(recordings / "rest" / "fapi_v1_aggTrades_CLUSDT_20260501T1212.json.gz") as file:
        assert shape(json.load(file)[0]) == shape(ONE_TRADE.agg_trade_rows(ONE_TRADE.trades)[0])
    with gzip.open(recordings / "rest" / "exchangeInfo-usdm-20251215.json.gz") as file:
        real = json.load(file)
    ours = over_the_wire(exchange_info(exchange_for(Config(), shipped_symbols())))
    by_name = {row["symbol"]: row for row in real["symbols"]}
    for row in ours["symbols"]:
        assert list(differences(row, by_name[row["symbol"]], "exchangeInfo")) == []
        assert row["filters"] == [rule for rule in by_name[row["symbol"]]["filters"] if rule in row["filters"]]
    assert list(differences({**ours, "symbols": []}, {**real, "symbols": []}, "exchangeInfo")) == []


SDK_OTHERWISE = {
    "AccountConfigUpdate.ac is missing": "it has one of the two",
    "AccountConfigUpdate.ai is missing": "likewise",
    "AccountUpdate.a.P[].ma is not there": "recordings have it",
    "AccountUpdate.a.S is missing": "only of funding",
    "AlgoUpdate.o.ia is missing": "only of an order that trails",
    "ListenKeyExpired.listenKey is not there": "Binance's documentation has it",
    "OrderTradeUpdate.o.AP is missing": "only of an order that trails, which ordinary orders don't",
    "OrderTradeUpdate.o.cr is missing": "likewise",
    "OrderTradeUpdate.o.M is missing": "only of a modification that was named",
}
"""Keys of events in which the venue and the official SDK's models differ, and why."""


def test_events_have_the_keys_of_the_official_sdk() -> None:
    from binance_sdk_derivatives_trading_usds_futures.websocket_streams import models

    funding, told = replace(CHANGE, symbol="BTCUSDT"), asdict(SettingsChange(NOW, "BTCUSDT", 5))
    events = {
        "OrderTradeUpdate": [order_event(each) for each in (FILL, RESTING, FORCED)],
        "AlgoUpdate": [STOP_EVENT, DONE_EVENT, algo_event(STOP, TRAILING)],
        "TradeLite": [LITE],
        "AccountUpdate": [event_of(CHANGE), event_of(funding)],
        "MarginCall": [event_of(CALL)],
        "AccountConfigUpdate": [
            render("ACCOUNT_CONFIG_UPDATE", told),
            render("ACCOUNT_CONFIG_UPDATE mode", asdict(AssetsModeChange(NOW, True))),
        ],
        "ListenKeyExpired": [key_expired(NOW, "key")],
        "AggregateTradeStreamsResponse": [AGG_TRADE],
        "KlineCandlestickStreamsResponse": [KLINE_EVENT],
        "MarkPriceStreamResponse": [MARK_EVENT],
        "IndividualSymbolBookTickerStreamsResponse": [BOOK_EVENT],
    }
    found: set[str] = set()
    for name, those in events.items():
        for event in those:
            found |= {*key_differences(getattr(models, name).from_dict(over_the_wire(event)), name)}
    user = [name for name in events if not name.endswith("Response")]
    assert found - SDK_OTHERWISE.keys() == {f"{name}.e is not there" for name in user}, "the models go by it"
    assert found >= SDK_OTHERWISE.keys()


def test_the_docs_say_what_is_left_out() -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs/venue.md").read_text()
    told = [*LEFT_OUT.items(), *MORE.items()]
    assert [key for key, (why, _) in told if f"| `{key}` | {why} |" not in docs] == []


# --- every path -------------------------------------------------------------------------------------------------------


def test_no_signed_path_answers_without_a_signature(tmp_path: Path) -> None:
    async def story() -> None:
        trades = Trades.from_rows("BTCUSDT", [(1, 800_000, 3, NOW, True)])
        venue = await serve(Config(), trades, log_dir=tmp_path)
        async with aiohttp.ClientSession(headers={"X-MBX-APIKEY": "sim-key"}) as http:
            for (method, path), route in served().items():
                async with http.request(method, f"{venue.rest_url}{path}?timestamp={venue.now()}") as response:
                    answer = await response.json()
                if route.security == "signed":
                    assert answer["code"] == -1102, (method, path)
        await venue.close()

    asyncio.run(story())


NAMES = (
    *("symbol", "side", "type", "quantity", "price", "timeInForce", "newClientOrderId", "origClientOrderId"),
    *("orderId", "algoType", "clientAlgoId", "algoId", "triggerPrice", "closePosition", "reduceOnly", "workingType"),
    *("leverage", "marginType", "dualSidePosition", "fromId", "startTime", "endTime", "limit", "interval", "amount"),
    *("callbackRate", "activatePrice", "priceProtect", "batchOrders", "orderIdList", "countdownTime", "autoCloseType"),
    *("pair", "contractType", "incomeType", "multiAssetsMargin", "recvWindow", "positionSide"),
)
VALUES = ["", "0", "1", "-1", "1e9", "²", "--5", "9" * 18, "9" * 40, "NaN", "0.001", "79000.0", "true", "é%", "1m"]
SENSIBLE = ["BTCUSDT", "BUY", "LIMIT", "GTC", "MARKET", "STOP_MARKET", "TRAILING_STOP_MARKET", "CONDITIONAL", "vt-1"]
JSONS = ["[]", "{}", "[1, 2]", '["vt-1"]', '[{"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": 0.01}]']


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES + SENSIBLE + JSONS) | st.text(max_size=3)))
def test_whatever_is_sent_is_answered_or_refused_with_a_code(values: dict[str, str]) -> None:
    trades = Trades.from_rows("BTCUSDT", [(1, 800_000, 3_000, NOW, True)])
    exchange, player = simulate(Config(), trades)
    player.play(1, False, NOW)
    data = some_data(trades)
    data.show(1, NOW)
    rest = a_rest(exchange, data)
    params = Params(urlencode({"symbol": "BTCUSDT", **values}, errors="replace"), "")
    for name in {route.handler for route in served().values()} - {""}:
        with suppress(VenueRefusal):
            orjson.dumps(rest.body(name, params))
