"""Three clients that are none of ours trade the same story at the venue and end with the same account.

ccxt, the official SDK (whose models are strict) and python-binance are the released packages with their addresses
changed. The venue plays by a clock that the story moves: calm trades at 80,000 for ten seconds, then two sales of 0.030
at another price, and so on; so however slow the machine is, each order meets the same trades.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from support.sdk_models import key_differences
from support.venue_client import until

from voltrade.config import Config
from voltrade.model import Trades
from voltrade.venue.faults import Fault
from voltrade.venue.requests import served
from voltrade.venue.server import Venue, serve

S = "BTCUSDT"
CALM_MS, EVENTS = 10_000, (795_000, 805_000, 805_000, 795_000, 795_000)
"""The price of each event, in tenths of a dollar: dip, spike, spike, dip, dip."""


def story_tape() -> Trades:
    rows, time_ms = [], 0
    for event in (*EVENTS, 0):
        rows += [(800_000, 500, time_ms + 50 * n, n % 2 == 1) for n in range(CALM_MS // 50)]
        time_ms += CALM_MS
        rows += [(event, 30, time_ms - 40 + 10 * n, True) for n in range(2 if event else 0)]
    return Trades.from_rows(S, [(100 + n, price, lots, at, sold) for n, (price, lots, at, sold) in enumerate(rows)])


class World:
    """A venue in a thread, and the clock that it plays by: the wall's, and what the story skips."""

    def __init__(self, folder: Path, mark_interval_s: int) -> None:
        self.skipped_ms, self.opened, self.events = 0, self._wall(), 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        config = Config.from_parameters(speed=1.0, latency_ms=0, slippage_bps=0.0, mark_interval_s=mark_interval_s)
        self.venue: Venue = self.do(serve(config, story_tape(), log_dir=folder, wall=self.clock))

    @staticmethod
    def _wall() -> int:
        return time.time_ns() // 1_000_000

    def clock(self) -> int:
        return self._wall() + self.skipped_ms

    def do(self, story: Any) -> Any:
        """Do something in the venue's own thread."""
        return asyncio.run_coroutine_threadsafe(story, self._loop).result(30)

    async def pass_event(self) -> None:
        """Skip what is left of the calm and let the next event pass."""
        self.events += 1
        after = self.opened + self.events * CALM_MS + 200
        self.skipped_ms = max(self.skipped_ms, after - self._wall())
        rows = int((self.venue.player.trades.time <= self.opened + self.events * CALM_MS + 100).sum())
        await until(lambda: self.venue.player.trades_played >= rows)

    async def cut_user_streams(self) -> None:
        async def strike() -> None:
            self.venue.faults.add(Fault(do="abort", on="private"))

        struck = [socket for socket in self.venue.streams.sockets if socket.category == "private"]
        assert struck
        self.do(strike())
        await until(lambda: not any(socket in self.venue.streams.sockets for socket in struck))

    def close(self) -> None:
        self.do(self.venue.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def a_world(folder: Path, mark_interval_s: int = 3_600) -> Iterator[World]:
    world = World(folder, mark_interval_s)
    try:
        yield world
    finally:
        world.close()


class Client(Protocol):
    """What the story asks of a client. Orders are answered as Binance answers, in the client's own form."""

    events: list[dict[str, Any]]
    trades: list[int]

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def watch(self) -> None:
        """Bring up the user stream, also after it was cut."""

    async def info(self) -> tuple[str, str]: ...
    async def account(self) -> tuple[Decimal, Decimal]: ...
    async def settings(self, leverage: int) -> None: ...
    async def market(self, name: str, side: str, quantity: str, reduce: bool = False) -> str: ...
    async def limit(self, name: str, side: str, quantity: str, price: str) -> str: ...
    async def stop(self, name: str, kind: str, quantity: str, **params: str) -> str: ...
    async def query(self, name: str) -> tuple[str, Decimal]: ...
    async def query_stop(self, name: str) -> str: ...
    async def open_stops(self) -> list[str]: ...
    async def cancel(self, name: str) -> str: ...
    async def cancel_all(self, stops: bool = False) -> None: ...
    async def open_orders(self) -> list[str]: ...
    async def fills(self) -> list[tuple[str, Decimal, Decimal, Decimal]]: ...


# --- the story --------------------------------------------------------------------------------------------------------

TOLD = [
    *["O in-1 NEW", "O in-1 FILLED", "A sl-1 NEW", "A tp-1 NEW"],
    *["A sl-1 TRIGGERING", "A sl-1 TRIGGERED", "O sl-1 NEW", "O sl-1 FILLED", "A sl-1 FINISHED", "A tp-1 CANCELED"],
    *["O in-2 NEW", "O in-2 FILLED", "A tp-2 NEW"],
    *["A tp-2 TRIGGERING", "A tp-2 TRIGGERED", "O tp-2 NEW", "O tp-2 FILLED", "A tp-2 FINISHED"],
    *["O in-3 NEW", "O in-3 FILLED", "A tr-3 NEW"],
    *["A tr-3 TRIGGERING", "A tr-3 TRIGGERED", "O tr-3 NEW", "O tr-3 FILLED", "A tr-3 FINISHED"],
    *["O li-4 NEW", "O li-4 PARTIALLY_FILLED", "O li-4 PARTIALLY_FILLED", "O li-4 CANCELED"],
    *["O ex-4 NEW", "O ex-4 FILLED", "O la-5 NEW", "O lb-5 NEW", "O la-5 CANCELED", "O lb-5 CANCELED"],
    *["O lc-6 NEW", "O lc-6 CANCELED"],
]
"""The orders' life as the user stream tells it."""

FILLS = [
    *[("BUY", "0.010", "80000.0", "0.4"), ("SELL", "0.010", "79500.0", "0.3975")],
    *[("BUY", "0.010", "80000.0", "0.4"), ("SELL", "0.010", "80500.0", "0.4025")],
    *[("BUY", "0.010", "80000.0", "0.4"), ("SELL", "0.010", "79500.0", "0.3975")],
    *[
        ("BUY", "0.030", "79600.0", "0.4776"),
        ("BUY", "0.030", "79600.0", "0.4776"),
        ("SELL", "0.060", "80000.0", "2.4"),
    ],
]
"""Side, quantity, price and fee: 5 bps for taking, 2 for making."""

WALLET = Decimal("10013.2473")
"""10,000 - 5 + 5 - 5 + 24 of profit, less the fees above."""


async def story(client: Client, world: World) -> tuple[Any, ...]:
    assert await client.info() == ("0.10", "0.001")
    assert await client.account() == (Decimal(10_000), Decimal(0))
    await client.settings(leverage=4)
    await client.watch()
    await until(lambda: client.trades)

    assert await client.market("in-1", "BUY", "0.010") == "FILLED"
    assert await client.account() == (Decimal("9999.6"), Decimal("0.010"))
    assert await client.stop("sl-1", "STOP_MARKET", "0.010", triggerPrice="79700.0") == "NEW"
    assert await client.stop("tp-1", "TAKE_PROFIT_MARKET", "0.010", triggerPrice="80300.0") == "NEW"
    assert await client.open_stops() == ["sl-1", "tp-1"]
    await world.pass_event()
    assert await client.query_stop("sl-1") == "FINISHED"
    await client.cancel_all(stops=True)
    assert await client.open_stops() == []

    assert await client.market("in-2", "BUY", "0.010") == "FILLED"
    assert await client.stop("tp-2", "TAKE_PROFIT_MARKET", "0.010", triggerPrice="80300.0") == "NEW"
    await world.pass_event()
    assert await client.query("tp-2") == ("FILLED", Decimal("0.010"))

    assert await client.market("in-3", "BUY", "0.010") == "FILLED"
    trailing = {"callbackRate": "1", "activatePrice": "80300.0"}
    assert await client.stop("tr-3", "TRAILING_STOP_MARKET", "0.010", **trailing) == "NEW"
    await world.pass_event()  # to 80,500, where it begins to trail
    assert await client.query_stop("tr-3") == "NEW"
    await world.pass_event()  # to 79,500: more than 1% back
    assert await client.query_stop("tr-3") == "FINISHED"

    assert await client.limit("li-4", "BUY", "0.100", "79600.0") == "NEW"
    await world.pass_event()
    assert await client.query("li-4") == ("PARTIALLY_FILLED", Decimal("0.060"))
    assert await client.cancel("li-4") == "CANCELED"
    assert await client.market("ex-4", "SELL", "0.060", reduce=True) == "FILLED"

    for name in ("la-5", "lb-5"):
        assert await client.limit(name, "BUY", "0.010", "79000.0") == "NEW"
    assert await client.open_orders() == ["la-5", "lb-5"]
    await client.cancel_all()
    assert await client.open_orders() == []

    told = len(client.events)
    await world.cut_user_streams()
    await client.watch()
    await client.limit("lc-6", "BUY", "0.010", "79000.0")
    await client.cancel("lc-6")
    await until(lambda: any("lc-6 CANCELED" in line for line in lines(client.events[told:])))

    assert client.trades == list(range(client.trades[0], client.trades[0] + len(client.trades)))
    return await client.account(), await client.fills(), lines(client.events)


def lines(events: list[dict[str, Any]]) -> list[str]:
    orders = [event["o"] | {"e": event["e"][0]} for event in events if "o" in event]
    return [f"{order['e']} {order.get('caid') or order['c']} {order['X']}" for order in orders]


async def play(make: Callable[[Venue], Client], folder: Path) -> None:
    with a_world(folder) as world:
        client = make(world.venue)
        await client.open()
        try:
            account, fills, told = await story(client, world)
        finally:
            await client.close()
    assert account == (WALLET, Decimal(0))
    assert fills == [(side, Decimal(q), Decimal(p), Decimal(fee)) for side, q, p, fee in FILLS]
    assert told == TOLD
    kinds = {event["e"] for event in client.events}
    assert {"ACCOUNT_UPDATE", "ACCOUNT_CONFIG_UPDATE", "TRADE_LITE"} <= kinds


KEYS = {"api_key": "sim-key", "api_secret": "sim-secret"}


# --- ccxt -------------------------------------------------------------------------------------------------------------


class Ccxt:
    symbol = "BTC/USDT:USDT"

    def __init__(self, venue: Venue) -> None:
        import ccxt.pro

        self.events: list[dict[str, Any]] = []
        self.trades: list[int] = []
        events = self.events

        class Recording(ccxt.pro.binanceusdm):  # type: ignore[misc]
            def handle_message(self, client: Any, message: Any) -> None:
                if message.get("e") not in ("aggTrade", None):
                    events.append(message)
                super().handle_message(client, message)

        options = {"fetchCurrencies": False, "recvWindow": 60_000, "watchTrades": {"name": "aggTrade"}}
        options |= {"watchPositions": {"fetchPositionsSnapshot": False}, "warnOnFetchOpenOrdersWithoutSymbol": False}
        keys = {"apiKey": KEYS["api_key"], "secret": KEYS["api_secret"]}
        self.its = Recording({**keys, "enableRateLimit": False, "options": options})
        versions = {f"fapi{kind}{v}": (v or "V1").lower() for kind in ("Public", "Private") for v in ("", "V2", "V3")}
        paths = {name: f"{venue.rest_url}/fapi/{version}" for name, version in versions.items()}
        self.its.urls["api"] = {**paths, "ws": {"linear": f"{venue.ws_url}/ws"}}
        self._tasks: list[asyncio.Task[None]] = []
        self._venue = venue

    async def open(self) -> None:
        await self.its.load_markets()

        async def watch_trades() -> None:
            while True:
                self.trades += [int(trade["id"]) for trade in await self.its.watch_trades(self.symbol)]

        self._tasks.append(asyncio.create_task(watch_trades()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.its.close()

    async def watch(self) -> None:
        import ccxt

        async def watch_orders() -> None:
            while True:
                try:
                    await self.its.watch_orders()
                except ccxt.NetworkError:
                    await asyncio.sleep(0.05)

        if not any(task.get_name() == "orders" for task in self._tasks):
            self._tasks.append(asyncio.create_task(watch_orders(), name="orders"))
        await until(lambda: any(socket.carries_user_data for socket in self._venue.streams.sockets))

    async def info(self) -> tuple[str, str]:
        assert (await self.its.fetch_time()) > 0
        filters = self.its.market(self.symbol)["info"]["filters"]
        by_kind = {rule["filterType"]: rule for rule in filters}
        return by_kind["PRICE_FILTER"]["tickSize"], by_kind["LOT_SIZE"]["stepSize"]

    async def account(self) -> tuple[Decimal, Decimal]:
        balance = (await self.its.fetch_balance())["info"]["assets"][0]["walletBalance"]
        held = [position["info"]["positionAmt"] for position in await self.its.fetch_positions([self.symbol])]
        return Decimal(balance), Decimal(held[0] if held else 0)

    async def settings(self, leverage: int) -> None:
        await self.watch()
        await self.its.set_margin_mode("cross", self.symbol)
        assert (await self.its.set_leverage(leverage, self.symbol))["leverage"] == leverage
        assert (await self.its.fetch_leverages([self.symbol]))[self.symbol]["longLeverage"] == leverage
        assert (await self.its.fetch_position_mode())["hedged"] is False
        assert (await self.its.fetch_trading_fee(self.symbol))["taker"] == 0.0005

    async def market(self, name: str, side: str, quantity: str, reduce: bool = False) -> str:
        params = {"clientOrderId": name, "reduceOnly": reduce}
        order = await self.its.create_order(self.symbol, "market", side.lower(), float(quantity), None, params)
        return str(order["info"]["status"])

    async def limit(self, name: str, side: str, quantity: str, price: str) -> str:
        params = {"clientOrderId": name}
        amounts = (float(quantity), float(price))
        order = await self.its.create_order(self.symbol, "limit", side.lower(), *amounts, params)
        return str(order["info"]["status"])

    async def stop(self, name: str, kind: str, quantity: str, **params: str) -> str:
        words = {"STOP_MARKET": "stopLossPrice", "TAKE_PROFIT_MARKET": "takeProfitPrice"}
        given: dict[str, Any] = {"clientOrderId": name, "reduceOnly": True}
        if kind in words:
            given[words[kind]] = params["triggerPrice"]
        else:
            given |= {"trailingPercent": params["callbackRate"], "trailingTriggerPrice": params["activatePrice"]}
        order = await self.its.create_order(self.symbol, "market", "sell", float(quantity), None, given)
        return str(order["info"]["algoStatus"])

    async def query(self, name: str) -> tuple[str, Decimal]:
        order = (await self.its.fetch_order("", self.symbol, {"origClientOrderId": name}))["info"]
        return order["status"], Decimal(order["executedQty"])

    async def query_stop(self, name: str) -> str:
        order = await self.its.fetch_order("", self.symbol, {"clientAlgoId": name, "trigger": True})
        return str(order["info"]["algoStatus"])

    async def open_stops(self) -> list[str]:
        orders = await self.its.fetch_open_orders(self.symbol, None, None, {"trigger": True})
        return sorted(order["clientOrderId"] for order in orders)

    async def cancel(self, name: str) -> str:
        order = await self.its.cancel_order("", self.symbol, {"origClientOrderId": name})
        return str(order["info"]["status"])

    async def cancel_all(self, stops: bool = False) -> None:
        await self.its.cancel_all_orders(self.symbol, {"trigger": True} if stops else {})

    async def open_orders(self) -> list[str]:
        return sorted(order["clientOrderId"] for order in await self.its.fetch_open_orders(self.symbol))

    async def fills(self) -> list[tuple[str, Decimal, Decimal, Decimal]]:
        rows = [trade["info"] for trade in await self.its.fetch_my_trades(self.symbol)]
        return [(row["side"], *(Decimal(row[name]) for name in ("qty", "price", "commission"))) for row in rows]


def test_ccxt_trades_the_story(tmp_path: Path) -> None:
    asyncio.run(play(Ccxt, tmp_path))


# --- the official SDK -------------------------------------------------------------------------------------------------

MODEL_ERRORS = ("did not match the declared types", "Failed to parse", "Unknown user data event", "Error in callback")
"""How the SDK's log speaks of an answer or event that its models do not accept."""


class Sdk:
    def __init__(self, venue: Venue) -> None:
        from binance_common.configuration import ConfigurationRestAPI, ConfigurationWebSocketStreams
        from binance_sdk_derivatives_trading_usds_futures import derivatives_trading_usds_futures as sdk

        self.events: list[dict[str, Any]] = []
        self.trades: list[int] = []
        self._venue = venue
        rest = ConfigurationRestAPI(**KEYS, base_path=venue.rest_url, timeout=5_000, retries=0)
        streams = ConfigurationWebSocketStreams(stream_url=venue.ws_url)
        self.its = sdk.DerivativesTradingUsdsFutures(config_rest_api=rest, config_ws_streams=streams)

    async def ask(self, method: str, **params: Any) -> Any:
        """Call a REST method; return its model, or a list of them."""
        call = getattr(self.its.rest_api, method)
        signed = {} if UNSIGNED.search(method) else {"recv_window": 60_000}
        return (await asyncio.to_thread(call, **params, **signed)).data()

    async def open(self) -> None:
        await self.its.websocket_streams.create_connection()
        stream = await self.its.websocket_streams.aggregate_trade_streams(symbol=S.lower())
        stream.on("message", lambda trade: self.trades.append(trade.a))

    async def close(self) -> None:
        await self.its.websocket_streams.close_connection(close_session=True)
        await asyncio.to_thread(self.its.rest_api._session.close)

    async def watch(self) -> None:
        streams, key = self.its.websocket_streams, (await self.ask("start_user_data_stream")).listen_key
        if self._hears_of_its_account():
            return
        # The SDK does not dial again by itself: a dead connection and its streams are forgotten when it is noticed.
        await until(lambda: key not in streams.stream_connections.stream_connections_map)
        if not any(each.url_path == "private" for each in streams.connections):
            url = streams.configuration.stream_url
            await streams.init_connection(url, streams.configuration, url_path="private")
        stream = await streams.user_data(key)
        stream.on("message", self._take)
        await until(self._hears_of_its_account)

    def _hears_of_its_account(self) -> bool:
        return any(socket.carries_user_data for socket in self._venue.streams.sockets)

    def _take(self, event: Any) -> None:
        """Take an event of the SDK's: which one it is, its model's name says."""
        model = event.actual_instance
        kind = re.sub("(?<!^)(?=[A-Z])", "_", type(model).__name__).upper()
        self.events.append({**model.to_dict(), "e": kind})

    async def info(self) -> tuple[str, str]:
        assert (await self.ask("check_server_time")).server_time > 0
        (symbol,) = (await self.ask("exchange_information")).symbols
        by_kind = {rule.filter_type: rule for rule in symbol.filters}
        return by_kind["PRICE_FILTER"].tick_size, by_kind["LOT_SIZE"].step_size

    async def account(self) -> tuple[Decimal, Decimal]:
        account = await self.ask("account_information_v3")
        held = await self.ask("position_information_v3", symbol=S)
        return Decimal(account.total_wallet_balance), Decimal(held[0].position_amt if held else 0)

    async def settings(self, leverage: int) -> None:
        key = (await self.ask("start_user_data_stream")).listen_key
        assert key
        assert (await self.ask("change_margin_type", symbol=S, margin_type="CROSSED")).code == 200
        assert (await self.ask("get_current_position_mode")).dual_side_position is False
        await self.watch()
        assert (await self.ask("change_initial_leverage", symbol=S, leverage=leverage)).leverage == leverage

    async def market(self, name: str, side: str, quantity: str, reduce: bool = False) -> str:
        order = {"symbol": S, "side": side, "type": "MARKET", "quantity": quantity, "new_client_order_id": name}
        more = {"reduce_only": str(reduce).lower(), "new_order_resp_type": "RESULT"}
        return str((await self.ask("new_order", **order, **more)).status)

    async def limit(self, name: str, side: str, quantity: str, price: str) -> str:
        order = {"symbol": S, "side": side, "type": "LIMIT", "quantity": quantity, "new_client_order_id": name}
        return str((await self.ask("new_order", **order, price=price, time_in_force="GTC")).status)

    async def stop(self, name: str, kind: str, quantity: str, **params: str) -> str:
        words = {"triggerPrice": "trigger_price", "callbackRate": "callback_rate", "activatePrice": "activate_price"}
        order = {"algo_type": "CONDITIONAL", "symbol": S, "side": "SELL", "type": kind, "quantity": quantity}
        given = {words[word]: value for word, value in params.items()}
        more = {"client_algo_id": name, "reduce_only": "true"}
        return str((await self.ask("new_algo_order", **order, **given, **more)).algo_status)

    async def query(self, name: str) -> tuple[str, Decimal]:
        order = await self.ask("query_order", symbol=S, orig_client_order_id=name)
        return order.status, Decimal(order.executed_qty)

    async def query_stop(self, name: str) -> str:
        return str((await self.ask("query_algo_order", client_algo_id=name)).algo_status)

    async def open_stops(self) -> list[str]:
        return sorted(order.client_algo_id for order in await self.ask("current_all_algo_open_orders", symbol=S))

    async def cancel(self, name: str) -> str:
        return str((await self.ask("cancel_order", symbol=S, orig_client_order_id=name)).status)

    async def cancel_all(self, stops: bool = False) -> None:
        method = "cancel_all_algo_open_orders" if stops else "cancel_all_open_orders"
        assert str((await self.ask(method, symbol=S)).code) == "200"

    async def open_orders(self) -> list[str]:
        return sorted(order.client_order_id for order in await self.ask("current_all_open_orders", symbol=S))

    async def fills(self) -> list[tuple[str, Decimal, Decimal, Decimal]]:
        rows = await self.ask("account_trade_list", symbol=S)
        return [(row.side, Decimal(row.qty), Decimal(row.price), Decimal(row.commission)) for row in rows]


UNSIGNED = re.compile(
    "server_time|connectivity|information$|mark_price|funding_rate|ticker|trades_list|kline|data_stream|order_book|schedule"
)
"""Calls without a signature; those of an account that look alike have a version at their end."""


def test_the_official_sdk_trades_the_story(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        asyncio.run(play(Sdk, tmp_path))
    assert [line for line in caplog.messages if any(words in line for words in MODEL_ERRORS)] == []


RESTING = {"symbol": S, "side": "BUY", "quantity": "0.010", "price": "79000.0"}
A_LIMIT = {**RESTING, "type": "LIMIT", "time_in_force": "GTC"}
A_STOP = {"algo_type": "CONDITIONAL", "symbol": S, "side": "SELL", "type": "STOP_MARKET", "quantity": "0.010"}
JSON_LIMIT = {"symbol": S, "side": "BUY", "type": "LIMIT", "quantity": "0.010", "price": "79000", "timeInForce": "GTC"}

EVERY_CALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("test_connectivity", "check_server_time", "exchange_information", "mark_price")),
    *((name, {}) for name in ("get_funding_rate_history", "get_funding_rate_info", "symbol_price_ticker")),
    *((name, {}) for name in ("symbol_price_ticker_v2", "symbol_order_book_ticker", "query_user_rate_limit")),
    *((name, {"symbol": S}) for name in ("mark_price", "symbol_price_ticker", "symbol_price_ticker_v2")),
    *((name, {"symbol": S}) for name in ("symbol_order_book_ticker", "ticker24hr_price_change_statistics")),
    ("order_book", {"symbol": S}),
    *((name, {}) for name in ("trading_schedule", "futures_tradfi_perps_contract")),
    ("compressed_aggregate_trades_list", {"symbol": S, "limit": 5}),
    ("kline_candlestick_data", {"symbol": S, "interval": "1m"}),
    ("continuous_contract_kline_candlestick_data", {"pair": S, "contract_type": "PERPETUAL", "interval": "1m"}),
    ("change_margin_type", {"symbol": S, "margin_type": "CROSSED"}),
    ("change_margin_type", {"symbol": S, "margin_type": "ISOLATED"}),
    ("change_initial_leverage", {"symbol": S, "leverage": 7}),
    ("new_order", {"symbol": S, "side": "BUY", "type": "MARKET", "quantity": "0.010", "new_order_resp_type": "RESULT"}),
    ("modify_isolated_position_margin", {"symbol": S, "amount": 10.5, "type": 1}),
    ("test_order", A_LIMIT),
    ("new_order", {**A_LIMIT, "new_client_order_id": "one"}),
    ("modify_order", {**RESTING, "price": "79100.0", "orig_client_order_id": "one"}),
    ("query_order", {"symbol": S, "orig_client_order_id": "one"}),
    ("query_current_open_order", {"symbol": S, "orig_client_order_id": "one"}),
    ("current_all_open_orders", {"symbol": S}),
    ("all_orders", {"symbol": S}),
    ("cancel_order", {"symbol": S, "orig_client_order_id": "one"}),
    (
        "place_multiple_orders",
        {"batch_orders": [JSON_LIMIT | {"newClientOrderId": n} for n in ("two", "three", "a b")]},
    ),
    ("modify_multiple_orders", {"batch_orders": [{**JSON_LIMIT, "origClientOrderId": "two", "price": "79200"}]}),
    ("cancel_multiple_orders", {"symbol": S, "orig_client_order_id_list": ["two", "none"]}),
    ("auto_cancel_all_open_orders", {"symbol": S, "countdown_time": 60_000}),
    ("cancel_all_open_orders", {"symbol": S}),
    ("new_algo_order", {**A_STOP, "trigger_price": "77000.0", "client_algo_id": "stop"}),
    ("new_algo_order", {**A_STOP, "type": "TRAILING_STOP_MARKET", "callback_rate": "1.5"}),
    ("query_algo_order", {"client_algo_id": "stop"}),
    ("current_all_algo_open_orders", {"symbol": S}),
    ("query_all_algo_orders", {"symbol": S}),
    ("cancel_algo_order", {"client_algo_id": "stop"}),
    ("cancel_all_algo_open_orders", {"symbol": S}),
    *((name, {}) for name in ("account_information_v2", "account_information_v3", "futures_account_balance_v2")),
    *((name, {}) for name in ("futures_account_balance_v3", "position_information_v2", "position_information_v3")),
    *((name, {}) for name in ("futures_account_configuration", "symbol_configuration", "get_bnb_burn_status")),
    *((name, {}) for name in ("get_current_position_mode", "get_current_multi_assets_mode", "get_income_history")),
    *((name, {}) for name in ("notional_and_leverage_brackets", "users_force_orders", "start_user_data_stream")),
    ("account_trade_list", {"symbol": S}),
    ("user_commission_rate", {"symbol": S}),
    ("keepalive_user_data_stream", {}),
    ("close_user_data_stream", {}),
]
"""Every call of the SDK that the venue serves; later ones ask for what earlier ones made."""

REFUSED_CALLS = {("POST", "/fapi/v1/positionSide/dual"), ("POST", "/fapi/v1/multiAssetsMargin")}
"""Served, and refused whatever is asked: the modes are what they are."""


ALTERNATIVES = ("place_multiple_orders[]", "modify_multiple_orders[]", "cancel_multiple_orders[]", "filters[]")
"""Models that join what a row may be, so that each lacks what another has."""

SDK_LACKS = {
    **{
        f"account_information_v2.positions[].{name}": "recordings have it"
        for name in ("breakEvenPrice", "isolatedMargin", "isolatedWallet", "notional")
    },
    "account_information_v3.assets[].marginAvailable": "Binance's examples have it",
    "exchange_information.futuresType": "recordings have it",
    "exchange_information.symbols[].filters[].positionControlSide": "likewise",
    "exchange_information.symbols[].maxMoveOrderLimit": "likewise",
    "query_current_open_order.cumQty": "Binance's examples of some answers have it",
    "query_order.cumQty": "likewise",
    "symbol_order_book_ticker.lastUpdateId": "Binance's examples have it",
}
"""Keys of answers that the SDK's models have not, and why the venue sends them."""

WE_LACK = {
    **dict.fromkeys(("activatePrice", "priceRate"), "only conditional orders trail, as algo orders"),
    **dict.fromkeys(("slPrice", "slTriggerPrice", "tpOrderType", "tpPrice", "tpTriggerPrice"), "not offered"),
    **dict.fromkeys(("cumBase", "baseQty", "pair"), "coin-margined futures have them"),
    **dict.fromkeys(("avgPrice", "cumQuote"), "of a tested order: answers to orders have neither since July 2026"),
    "feeBurn": "of account v2: GET feeBurn tells it",
    "icebergQuantity": "it is null",
    "marginAsset": "of a trade, undocumented",
    "marketSchedules": "it is empty: no symbol has sessions",
    "modifyId": "only of a modification that was named",
    "rpiCommissionRate": "RPI orders are not offered",
    "settlePlan": "recordings lack it",
}
"""Keys of the SDK's models that answers lack, and why."""


def test_every_answer_and_stream_fits_the_models_of_the_official_sdk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streamed: dict[str, Any] = {}
    differing: set[str] = set()

    async def every_call(client: Sdk, world: World) -> set[tuple[str, str]]:
        await client.open()
        streams = client.its.websocket_streams
        for name, stream in (
            ("kline", await streams.kline_candlestick_streams(symbol="btcusdt", interval="1m")),
            ("mark", await streams.mark_price_stream(symbol="btcusdt", update_speed="1s")),
            ("book", await streams.individual_symbol_book_ticker_streams(symbol="btcusdt")),
        ):
            stream.on("message", partial(streamed.__setitem__, name))
        called: set[tuple[str, str]] = set()
        fetch = client.its.rest_api._session.request

        def recorded(method: str, url: str, **more: Any) -> Any:
            called.add((method, urlsplit(url).path))
            return fetch(method=method, url=url, **more)

        client.its.rest_api._session.request = recorded
        for name, params in EVERY_CALL:
            answer = await client.ask(name, **params)
            differing.update(key_differences(answer, name))
            if name == "place_multiple_orders":
                assert answer[2].code == -4015
        await until(lambda: len(streamed) == 3)
        await client.close()
        return called

    with a_world(tmp_path, mark_interval_s=1) as world, caplog.at_level(logging.WARNING):
        called = asyncio.run(every_call(Sdk(world.venue), world))
    assert served().keys() - called == REFUSED_CALLS
    surplus = {line.removesuffix(" is not there") for line in differing if line.endswith("is not there")}
    missing = {line.removesuffix(" is missing") for line in differing if line.endswith("is missing")}
    assert surplus == SDK_LACKS.keys()
    assert {
        path.rsplit(".")[-1] for path in missing if not any(each in path for each in ALTERNATIVES)
    } == WE_LACK.keys()
    assert [line for line in caplog.messages if any(words in line for words in MODEL_ERRORS)] == []


# --- python-binance ---------------------------------------------------------------------------------------------------


class PythonBinance:
    def __init__(self, venue: Venue) -> None:
        from binance import AsyncClient, BinanceSocketManager

        self.events: list[dict[str, Any]] = []
        self.trades: list[int] = []
        self._venue = venue
        self.its = AsyncClient(**KEYS)
        self.its.FUTURES_URL, self.its.REQUEST_RECVWINDOW = f"{venue.rest_url}/fapi", 60_000
        self._manager = BinanceSocketManager(self.its, max_queue_size=10_000)
        self._manager.FSTREAM_URL = f"{venue.ws_url}/"
        self._tasks: list[asyncio.Task[None]] = []

    async def _read(self, socket: Any, take: Callable[[dict[str, Any]], None]) -> None:
        socket.TIMEOUT = 0.2  # it is closed no sooner than this after its last message
        async with socket:
            while True:
                message = await socket.recv()
                if message.get("e") != "error":
                    take(message.get("data", message))

    async def open(self) -> None:
        trades = self._manager.aggtrade_futures_socket(S)
        self._tasks.append(asyncio.create_task(self._read(trades, lambda trade: self.trades.append(trade["a"]))))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.its.close_connection()

    async def watch(self) -> None:
        if len(self._tasks) == 1:
            user = self._manager.futures_user_socket()
            self._tasks.append(asyncio.create_task(self._read(user, self.events.append)))
        await until(lambda: any(socket.carries_user_data for socket in self._venue.streams.sockets))

    async def info(self) -> tuple[str, str]:
        assert (await self.its.futures_time())["serverTime"] > 0
        (symbol,) = (await self.its.futures_exchange_info())["symbols"]
        by_kind = {rule["filterType"]: rule for rule in symbol["filters"]}
        return by_kind["PRICE_FILTER"]["tickSize"], by_kind["LOT_SIZE"]["stepSize"]

    async def account(self) -> tuple[Decimal, Decimal]:
        account = await self.its.futures_account()
        held = await self.its.futures_position_information(symbol=S)
        return Decimal(account["totalWalletBalance"]), Decimal(held[0]["positionAmt"] if held else 0)

    async def settings(self, leverage: int) -> None:
        await self.watch()
        await self.its.futures_change_margin_type(symbol=S, marginType="CROSSED")
        assert (await self.its.futures_change_leverage(symbol=S, leverage=leverage))["leverage"] == leverage
        assert (await self.its.futures_get_position_mode())["dualSidePosition"] is False

    async def _order(self, name: str, **params: Any) -> str:
        return str((await self.its.futures_create_order(symbol=S, newClientOrderId=name, **params))["status"])

    async def market(self, name: str, side: str, quantity: str, reduce: bool = False) -> str:
        order = {"side": side, "type": "MARKET", "quantity": quantity, "reduceOnly": reduce}
        return await self._order(name, **order, newOrderRespType="RESULT")

    async def limit(self, name: str, side: str, quantity: str, price: str) -> str:
        return await self._order(name, side=side, type="LIMIT", quantity=quantity, price=price, timeInForce="GTC")

    async def stop(self, name: str, kind: str, quantity: str, **params: str) -> str:
        order = {"symbol": S, "side": "SELL", "type": kind, "quantity": quantity, "reduceOnly": True}
        answer = await self.its.futures_create_order(**order, **params, clientAlgoId=name)
        return str(answer["algoStatus"])

    async def query(self, name: str) -> tuple[str, Decimal]:
        order = await self.its.futures_get_order(symbol=S, origClientOrderId=name)
        return order["status"], Decimal(order["executedQty"])

    async def query_stop(self, name: str) -> str:
        return str((await self.its.futures_get_algo_order(clientAlgoId=name))["algoStatus"])

    async def open_stops(self) -> list[str]:
        return sorted(order["clientAlgoId"] for order in await self.its.futures_get_open_algo_orders(symbol=S))

    async def cancel(self, name: str) -> str:
        return str((await self.its.futures_cancel_order(symbol=S, origClientOrderId=name))["status"])

    async def cancel_all(self, stops: bool = False) -> None:
        await self.its.futures_cancel_all_open_orders(symbol=S, conditional=stops)

    async def open_orders(self) -> list[str]:
        return sorted(order["clientOrderId"] for order in await self.its.futures_get_open_orders(symbol=S))

    async def fills(self) -> list[tuple[str, Decimal, Decimal, Decimal]]:
        rows = await self.its.futures_account_trades(symbol=S)
        return [(row["side"], *(Decimal(row[name]) for name in ("qty", "price", "commission"))) for row in rows]


def test_python_binance_trades_the_story(tmp_path: Path) -> None:
    async def with_client() -> None:
        await play(PythonBinance, tmp_path)

    asyncio.run(with_client())
