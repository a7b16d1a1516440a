"""The edge to Binance, against a small fake that answers wrongly, late or never, and cuts and garbles its sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import ccxt
import numpy as np
import pytest
from support.fake_binance import KEY, SECRET, Asked, FakeBinance, Say, a_trade, error
from test_messages import ACCOUNT, ALGO, ALGO_ORDER, FILL, MARK, ORDER, USER_TRADE

from voltrade.config import Config
from voltrade.engine.modes import reach
from voltrade.errors import ConfigError, ExchangeError
from voltrade.exchange import streams
from voltrade.exchange.account_reader import BEGUN_S, FEES_MS
from voltrade.exchange.binance import (
    DEMO,
    LIVE,
    BinanceRestClient,
    BinanceWSManager,
    Endpoint,
    connect,
)
from voltrade.exchange.client import ORDERS_FIRST_MS, UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.rest import RequestInterrupted
from voltrade.model import (
    DAY_MS,
    AccountUpdate,
    AlgoUpdate,
    CancelOrder,
    Event,
    FeedGap,
    Instrument,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Purpose,
    Side,
    StreamStatus,
    TimeInForce,
    Trades,
)
from voltrade.venue.server import serve

PLACE, ALGO_PLACE = ("POST", "/fapi/v1/order"), ("POST", "/fapi/v1/algoOrder")


class Clock:
    """Time that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


@dataclass
class Harness:
    """A client on a fake."""

    fake: FakeBinance
    exchange: UsdmExchange
    rest: BinanceRestClient
    instrument: Instrument
    clock: Clock


@asynccontextmanager
async def a_harness(timeout_ms: int = 2_000) -> AsyncIterator[Harness]:
    async with FakeBinance() as fake:
        clock = Clock()
        endpoint = Endpoint.simulated(fake.rest, fake.stream)
        exchange = connect(endpoint, Credentials(KEY, SECRET), clock, 5_000, timeout_ms)
        rest = BinanceRestClient(exchange, "fake")
        try:
            yield Harness(fake, exchange, rest, await rest.instrument("BTCUSDT"), clock)
        finally:
            await exchange.close()


def on_a_harness(story: Callable[[Harness], Awaitable[None]], **how: Any) -> None:
    """Run a story in which a client talks to a fake."""

    async def tell() -> None:
        async with a_harness(**how) as harness:
            await story(harness)

    asyncio.run(tell())


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something to come true; fail when it does not."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "did not come true in time"
        await asyncio.sleep(0.002)


def an_intent(kind: OrderType = OrderType.MARKET, client_order_id: str = "vt-1e1", **other: Any) -> OrderIntent:
    order = OrderRequest("BTCUSDT", client_order_id, Side.BUY, kind, 4, **other)
    return OrderIntent(1, order, Purpose.ENTRY, 1, "test")


def an_order(**other: Any) -> Say:
    return Say(body={**ORDER, "clientOrderId": "vt-1e1", "status": "NEW", "executedQty": "0", **other})


def an_algo(**other: Any) -> Say:
    return Say(body={**ALGO_ORDER, "clientAlgoId": "vt-1e1", **other})


# --- where and as whom -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["http://10.0.0.1:1", "https://fapi.binance.com", "http://127.0.0.1.evil.com", ""])
def test_a_simulated_venue_is_on_this_machine(address: str) -> None:
    with pytest.raises(ConfigError, match="address must be loopback"):
        Endpoint.simulated(address, "ws://127.0.0.1:1")
    for good in ("http://127.0.0.1:8", "http://localhost:8", "http://[::1]:8"):
        assert Endpoint.simulated(good, good).rest == good


def test_addresses_are_binances_own() -> None:
    for endpoint, rest, market in (
        (LIVE, "https://fapi.binance.com/fapi/v1", "wss://fstream.binance.com/market/ws"),
        (DEMO, "https://demo-fapi.binance.com/fapi/v1", "wss://demo-fstream.binance.com/market/ws"),
    ):
        exchange = connect(endpoint, None, Clock(), 5_000)
        assert exchange.urls["api"]["fapiPrivate"] == rest
        assert exchange.get_ws_url("linear", "market") == market


# --- ccxt, subclassed ------------------------------------------------------------------------------------------------


def test_no_other_product_can_be_reached() -> None:
    async def story(harness: Harness) -> None:
        before = len(harness.fake.asked)
        for call in ("sapiGetCapitalConfigGetall", "publicGetPing", "privateGetAccount", "dapiPublicGetTime"):
            with pytest.raises(ccxt.NotSupported):
                await getattr(harness.exchange, call)()
        assert len(harness.fake.asked) == before

    on_a_harness(story)


def test_errors_are_mapped_as_for_usd_m_although_the_host_is_loopback() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will(*PLACE, error(-2019, "Margin is insufficient."))
        with pytest.raises(ccxt.InsufficientFunds):
            await harness.exchange.fapiPrivatePostOrder({"symbol": "BTCUSDT"})

    on_a_harness(story)


def test_a_late_second_close_leaves_the_next_connection_alone() -> None:
    async def story(harness: Harness) -> None:
        url = f"{harness.fake.stream}/private/ws?listenKey=listen1"
        old = harness.exchange.client(url)
        harness.exchange.on_close(old, 1001)
        new = harness.exchange.client(url)
        assert new is not old
        harness.exchange.on_close(old, 1006)
        assert harness.exchange.clients[url] is new

    on_a_harness(story)


@pytest.mark.parametrize(("asked_s", "waits"), [(None, False), (20.0, True)])
def test_a_socket_that_cannot_be_opened_is_not_held_up_but_where_the_exchange_asks_for_it(
    asked_s: float | None, waits: bool
) -> None:
    """Dials failed for 34 s, and the next one came 25 s after the streams could be reached again: this was once so."""

    async def story(harness: Harness) -> None:
        url = f"{harness.fake.stream}/market/ws/0"
        for _ in range(8):
            client = harness.exchange.client(url)
            client.dial_failed, client.last_retry_after = True, asked_s
            client.on_error(ccxt.NetworkError("refused"))
            assert harness.exchange.client(url) is not client
        assert (harness.exchange.ws_dial_delay(url) > 15) is waits

    on_a_harness(story)


def test_requests_are_signed_with_the_injected_time() -> None:
    async def story(harness: Harness) -> None:
        harness.clock.now = 1_700_000_000_123
        harness.fake.will(*PLACE, an_order())
        await harness.rest.submit(an_intent())
        (sent,) = harness.fake.orders()
        assert (sent["timestamp"], sent["recvWindow"]) == ("1700000000123", "5000")

    on_a_harness(story)


# --- placing orders --------------------------------------------------------------------------------------------------


def sent_for(intent: OrderIntent, path: str, answer: Say) -> dict[str, str]:
    """The parameters with which an intent leaves, without those of signing."""
    sent: list[dict[str, str]] = []

    async def story(harness: Harness) -> None:
        harness.fake.will("POST", path, answer)
        assert (await harness.rest.submit(intent)).outcome is Outcome.ACCEPTED
        sent.extend(harness.fake.orders(path))

    on_a_harness(story)
    (params,) = sent
    return {name: value for name, value in params.items() if name not in ("timestamp", "recvWindow", "signature")}


def test_a_market_order_leaves_with_exact_texts() -> None:
    assert sent_for(an_intent(reduce_only=True), "/fapi/v1/order", an_order()) == {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "MARKET",
        "quantity": "0.004",  # 4 lots of 0.001
        "newClientOrderId": "vt-1e1",
        "newOrderRespType": "ACK",
        "reduceOnly": "true",
    }


def test_a_limit_order_leaves_with_its_price() -> None:
    intent = an_intent(OrderType.LIMIT, price=600_001, time_in_force=TimeInForce.IOC)
    sent = sent_for(intent, "/fapi/v1/order", an_order())
    assert (sent["price"], sent["timeInForce"]) == ("60000.1", "IOC")  # 600001 ticks of 0.1
    assert "reduceOnly" not in sent


def test_a_stop_goes_to_the_algo_endpoint() -> None:
    intent = an_intent(OrderType.STOP_MARKET, trigger_price=590_000, reduce_only=True)
    assert sent_for(intent, "/fapi/v1/algoOrder", an_algo()) == {
        "algoType": "CONDITIONAL",
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "STOP_MARKET",
        "triggerPrice": "59000",
        "workingType": "CONTRACT_PRICE",
        "clientAlgoId": "vt-1e1",
        "quantity": "0.004",
        "reduceOnly": "true",
    }


def test_a_stop_that_closes_the_position_names_no_quantity() -> None:
    intent = an_intent(OrderType.STOP_MARKET, trigger_price=590_000, close_position=True, reduce_only=True)
    sent = sent_for(intent, "/fapi/v1/algoOrder", an_algo(closePosition=True))
    assert sent["closePosition"] == "true"
    assert not {"quantity", "reduceOnly"} & sent.keys()


def test_an_accepted_order_comes_back_as_the_exchange_has_it() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will(*PLACE, an_order(orderId=77))
        harness.fake.will(*ALGO_PLACE, an_algo(algoId=88))
        reply = await harness.rest.submit(an_intent())
        assert (reply.time, reply.action, reply.algo, reply.code, reply.text) == (1_000, "submit", False, 0, "")
        assert reply.order is not None
        assert (reply.order.order_id, reply.order.status) == (77, "NEW")
        stop = await harness.rest.submit(an_intent(OrderType.STOP_MARKET, trigger_price=1))
        assert stop.algo_order is not None
        assert (stop.algo, stop.algo_order.algo_id, stop.order) == (True, 88, None)

    on_a_harness(story)


ANSWERS = [
    ("no answer but a cut", Say(abort=True), "UNKNOWN", 0, "no answer: ServerDisconnectedError"),
    ("no answer in time", Say(hang=True), "UNKNOWN", 0, "no answer: "),
    ("an empty 200", Say(200, ""), "UNKNOWN", 0, "no answer"),
    ("HTML with a 200", Say(200, "<html>hello</html>"), "UNKNOWN", 0, "no answer"),
    ("cut JSON with a 200", Say(200, '{"orderId": 77'), "UNKNOWN", 0, "no answer"),
    ("a list with a 200", Say(200, []), "UNKNOWN", 0, "no answer"),
    ("a 200 without an order", Say(200, {"code": 0}), "UNKNOWN", 0, "no answer"),
    ("a 200 with half an order", Say(200, {"orderId": 77}), "UNKNOWN", 0, "no answer"),
    ("a 200 with a code", error(-2010, status=200), "UNKNOWN", -2010, ""),
    ("another's order", an_order(clientOrderId="other"), "UNKNOWN", 0, "response.clientOrderId must be vt-1e1"),
    ("more filled than ordered", an_order(executedQty="0.005"), "UNKNOWN", 0, "order.executedQty must be at most"),
    ("unknown", Say(503, "Unknown error, please check your request or try again later."), "UNKNOWN", 0, "HTTP 503"),
    ("down", Say(503, {"msg": "Service Unavailable."}), "REFUSED", 0, "HTTP 503: Service Unavailable."),
    ("throttled", error(-1008, "Request throttled", 503), "REFUSED", -1008, "HTTP 503: Request throttled"),
    ("a proxy's page", Say(502, "<html>Bad Gateway</html>"), "UNKNOWN", 0, "HTTP 502"),
    ("timeout inside", error(-1007, "Timeout", 408), "UNKNOWN", -1007, "HTTP 408: Timeout"),
    ("margin", error(-2019, "Margin is insufficient."), "REFUSED", -2019, "HTTP 400: Margin is insufficient."),
    ("a duplicated id", error(-4116, "ClientOrderId is duplicated."), "UNKNOWN", -4116, "HTTP 400"),
    ("a code that is a text", Say(400, {"code": "-2019", "msg": "x"}), "REFUSED", -2019, "HTTP 400: x"),
    ("a code that is nonsense", Say(400, {"code": {}, "msg": []}), "UNKNOWN", 0, "HTTP 400"),
]


def answers_to(algo: bool) -> list[Any]:
    """The cases for one endpoint: all, except that an ordinary order is no answer of the algo endpoint."""
    return [
        pytest.param(algo, *row[1:], id=f"{'algo' if algo else 'order'}: {row[0]}")
        for row in ANSWERS
        if not (algo and isinstance(row[1].body, dict) and "orderId" in row[1].body)
    ]


@pytest.mark.parametrize(("algo", "answer", "outcome", "code", "text"), [*answers_to(False), *answers_to(True)])
def test_an_answer_is_read_for_what_it_tells_of_the_order(
    algo: bool, answer: Say, outcome: str, code: int, text: str
) -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will(*(ALGO_PLACE if algo else PLACE), answer)
        reply = await harness.rest.submit(an_intent(OrderType.STOP_MARKET if algo else OrderType.MARKET))
        assert (reply.outcome, reply.code) == (outcome, code)
        assert text in reply.text
        assert len(harness.fake.orders("/fapi/v1/algoOrder" if algo else "/fapi/v1/order")) == 1, "sent once"

    on_a_harness(story, timeout_ms=300)


def test_an_order_without_a_connection_never_left() -> None:
    async def story(harness: Harness) -> None:
        harness.exchange.urls["api"]["fapiPrivate"] = "http://127.0.0.1:1/fapi/v1"  # nobody listens there
        harness.exchange.pin(["http://127.0.0.1:1"])
        reply = await harness.rest.submit(an_intent())
        assert (reply.outcome, reply.text) == (Outcome.REFUSED, "not sent: ClientConnectorError")
        cancel = await harness.rest.cancel(CancelOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert cancel.outcome is Outcome.UNKNOWN, "the HTTP library may have sent it before"

    on_a_harness(story)


def test_an_order_of_a_symbol_whose_filters_are_not_known_is_not_sent() -> None:
    async def story(harness: Harness) -> None:
        rest = BinanceRestClient(harness.exchange)
        reply = await rest.submit(an_intent())
        assert (reply.outcome, harness.fake.orders()) == (Outcome.REFUSED, [])

    on_a_harness(story)


def test_an_interrupted_order_is_unknown() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will(*PLACE, Say(hang=True))
        task = asyncio.create_task(harness.rest.submit(an_intent()))
        await until(harness.fake.orders)
        task.cancel()
        with pytest.raises(RequestInterrupted) as interruption:
            await task
        assert task.cancelled(), "whoever cancelled must see that it worked"
        assert interruption.value.reply.outcome is Outcome.UNKNOWN

    on_a_harness(story)


def test_an_order_whose_connection_somebody_cancelled_is_unknown_and_its_task_goes_on() -> None:
    async def story(harness: Harness) -> None:
        async def cancelled(params: dict[str, Any]) -> None:
            raise asyncio.CancelledError

        harness.exchange.fapiPrivatePostOrder = cancelled
        reply = await harness.rest.submit(an_intent())
        assert (reply.outcome, reply.text) == (Outcome.UNKNOWN, "no answer: the connection was cancelled")

    on_a_harness(story)


def test_a_refused_timestamp_sets_the_clock_and_is_signed_again_once() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.always["GET", "/fapi/v1/time"] = Say(body={"serverTime": 8_500})
        harness.fake.will(*PLACE, error(-1021), an_order())
        assert (await harness.rest.submit(an_intent())).outcome is Outcome.ACCEPTED
        first, second = harness.fake.orders()
        assert first["newClientOrderId"] == second["newClientOrderId"]
        # our clock stands at 1000, the exchange's at 8500
        assert (first["timestamp"], second["timestamp"]) == ("1000", "8500")
        harness.fake.will(*PLACE, error(-1021), error(-1021))
        reply = await harness.rest.submit(an_intent())
        assert (reply.outcome, reply.code, len(harness.fake.orders())) == (Outcome.REFUSED, -1021, 4)

    on_a_harness(story)


@pytest.mark.parametrize(
    ("answer", "blocked_ms"),
    [
        (error(-1003, "Too many requests", 429, Retry_After="7"), 7_000),
        (error(-1003, "Too many requests", 429), 5_000),
        (error(-1003, "Too many requests", 429, Retry_After="soon"), 5_000),
        (error(-1003, "IP banned until 1700000009000", 429), 9_000),
        (error(-1003, "IP banned until 1700000009000", 418), 9_000),
        (Say(418, ""), 120_000),
    ],
)
def test_nothing_is_sent_while_the_exchange_blocks_requests(answer: Say, blocked_ms: int) -> None:
    async def story(harness: Harness) -> None:
        start = harness.clock.now = 1_700_000_000_000
        harness.fake.will(*PLACE, answer)
        assert (await harness.rest.submit(an_intent())).outcome is Outcome.REFUSED
        before = len(harness.fake.asked)
        harness.clock.now = start + blocked_ms - 1
        stop = await harness.rest.submit(an_intent(OrderType.STOP_MARKET))
        assert (stop.outcome, stop.code) == (Outcome.REFUSED, -1003)
        assert "not sent: the exchange blocks requests for 1 ms" in stop.text
        lookup = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert lookup.outcome is Outcome.UNKNOWN
        with pytest.raises(ExchangeError, match="blocks requests"):
            await harness.rest.snapshot("BTCUSDT", 0)
        assert len(harness.fake.asked) == before
        harness.clock.now = start + blocked_ms
        harness.fake.will(*ALGO_PLACE, an_algo())
        assert (await harness.rest.submit(an_intent(OrderType.STOP_MARKET))).outcome is Outcome.ACCEPTED

    on_a_harness(story)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("IP, or permissions for action, request ip: 203.0.113.7", "IP, or permissions for action, request ip: ***"),
        ("current limit of IP(203.0.113.7) is 2400 requests", "current limit of IP(***) is 2400 requests"),
        ("request ip: 2001:db8::7, from [2001:db8:0:0:0:0:0:7]:443", "request ip: ***, from [***]:443"),
        ('{"ip": "203.0.113.7", "p": "60000.10"}', '{"ip": "***", "p": "60000.10"}'),
        ("Connect call failed ('203.0.113.7', 443).", "Connect call failed ('***', 443)."),
        ("from 203.0.113.7.", "from ***."),
        ("ip:203.0.113.7, X-Forwarded-For:203.0.113.7:443", "ip:***, X-Forwarded-For:***:443"),
        ("ip%3A203.0.113.7&a=%20203.0.113.7%2C&b=%2520203.0.113.7", "ip%3A***&a=%20***%2C&b=%2520***"),
        (r"ip\n203.0.113.7\t203.0.113.7\u0020203.0.113.7", r"ip\n***\t***\u0020***"),
        ("client_ip_203.0.113.7, 09:15:00:203.0.113.7", "client_ip_***, 09:15:00:***"),
        ("ip:2001:db8::7, client_ip_2001:db8::7..", "ip:***, client_ip_***.."),
        (r"at e:2001:db8:0:0:0:0:0:7 \n2001:db8::7 ::ffff:203.0.113.7", r"at e:*** \n*** ***"),
        ("ip=2001%3Adb8%3A%3A7&ip%3A2001:db8::7", "ip=***&ip%3A***"),
        ("ip=2001%253Adb8%253A%253a7, 203%2E0%2e113%252E7", "ip=***, ***"),
        (r"203.000.113.007 \x20203.0.113.7 ip-203-0-113-7.ec2.internal", r"*** \x20*** ip-***.ec2.internal"),
        ("ip=2001%3adb8%3a%3a7 _2001:db8::7_ 2001:db8:1:2:3:4:5:6:443", "ip=*** _***_ ***:443"),
        *((same, same) for same in ("ip-127-0-0-1.x", "2026-11-30", "trip-1-2-3-4", "1-2-3-4", "ip-1-2-3")),
        *((same, same) for same in ("ip:127.0.0.1", "ip:::1", "T12:30:45.123Z", "aiohttp::add", "60000.10,1.5")),
        *((same, same) for same in ("http://127.0.0.1:8080/x", "[::1]:80", "at 12:30:45.5", "1.2.3", "::")),
        *((same, same) for same in ("1767600000000:1", '{"a":1,"b":[{"c":2}]}', "999.1.1.1", "ccxt 4.5.90, :abc:")),
    ],
)
def test_no_address_comes_out_in_a_text_but_that_of_this_machine(text: str, redacted: str) -> None:
    assert connect(LIVE, None, lambda: 1, 5_000).redact(text) == redacted


def test_a_refusal_does_not_tell_from_where_we_come() -> None:
    """Whoever reads a response, raw or as an error: reports, `run.json` and notebooks are shared."""

    async def story(harness: Harness) -> None:
        refusal = error(-2015, "Invalid API-key, IP, or permissions for action, request ip: 203.0.113.7", 401)
        harness.fake.always["GET", "/fapi/v3/account"] = refusal
        response = await harness.rest.ask("fapiPrivateV3GetAccount")
        assert response.text == "Invalid API-key, IP, or permissions for action, request ip: ***"
        with pytest.raises(ExchangeError, match=r"request ip: \*\*\*"):
            await harness.rest.read("fapiPrivateV3GetAccount")
        assert harness.exchange.own_address == "203.0.113.7"

    on_a_harness(story)


def test_a_limit_that_does_not_say_for_how_long_is_tried_again_ever_later() -> None:
    """5, 10, 20, 40, 60 s; from 5 s again after a good answer, but not to a question from before the block."""

    async def story(harness: Harness) -> None:
        exchange, clock, reading = harness.exchange, harness.clock, "https://x/fapi/v3/account"
        clock.now = 1_700_000_000_000

        def pause_of(status: int = 429) -> int:
            exchange._update_limits(status, reading, {}, "")
            return exchange.blocked_until - clock.now

        pauses = []
        for _ in range(6):
            pauses.append(pause_of())
            assert pause_of() == pause_of(200) == pauses[-1], "of the same volley, and sent before the block"
            clock.now = exchange.blocked_until
            exchange._update_limits(200, "https://x/fapi/v1/order", {}, "")  # it has no weight
        exchange._update_limits(200, reading, {}, "")
        assert pauses == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]
        assert pause_of() == 5_000

    on_a_harness(story)


def test_orders_go_out_before_what_was_held_up_with_them() -> None:
    """Where a reading would meet the limit again, a stop has been placed before it."""

    async def story(harness: Harness) -> None:
        start = harness.clock.now = 1_700_000_000_000
        limit = error(-1003, "Too many requests", 429)
        harness.fake.always["GET", "/fapi/v3/account"] = limit
        with pytest.raises(ExchangeError, match="HTTP 429"):
            await harness.rest.read("fapiPrivateV3GetAccount")
        harness.clock.now = start + 5_000 + ORDERS_FIRST_MS - 1
        before = len(harness.fake.asked)
        with pytest.raises(ExchangeError, match="blocks requests for 1 ms"):
            await harness.rest.read("fapiPrivateV3GetAccount")
        harness.fake.will(*ALGO_PLACE, an_algo())
        assert (await harness.rest.submit(an_intent(OrderType.STOP_MARKET))).outcome is Outcome.ACCEPTED
        harness.clock.now += 1
        with pytest.raises(ExchangeError, match="HTTP 429"):
            await harness.rest.read("fapiPrivateV3GetAccount")
        assert [each.path for each in harness.fake.asked[before:]] == ["/fapi/v1/algoOrder", "/fapi/v3/account"]

    on_a_harness(story)


def test_no_secret_comes_out_in_a_text() -> None:
    async def story(harness: Harness) -> None:
        await harness.rest.listen_key()

        def echo(asked: Asked) -> Say:
            return error(-2010, f"key {KEY} {SECRET} listen1 signature={asked.params['signature']}\n\x00{'x' * 500}")

        harness.fake.will(*PLACE, echo)
        reply = await harness.rest.submit(an_intent())
        (sent,) = harness.fake.orders()
        for secret in (KEY, SECRET, "listen1", sent["signature"], "\n", "\x00"):
            assert secret not in reply.text
        assert len(reply.text) == 200
        # The HTTP library asks twice when a kept connection is cut.
        for answers in ([Say(abort=True)] * 2, [Say(502, f"{KEY} listenKey=listen1")]):
            harness.fake.will("GET", "/fapi/v1/aggTrades", *answers)
            with pytest.raises(ExchangeError) as failure:
                await harness.rest.agg_trades("BTCUSDT")
            assert KEY not in str(failure.value)
            assert "listen1" not in str(failure.value)
            assert failure.value.__cause__ is None or KEY not in str(failure.value.__cause__)

    on_a_harness(story)


# --- cancelling and looking up ---------------------------------------------------------------------------------------


def test_an_order_is_cancelled_by_its_client_id() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will("DELETE", "/fapi/v1/order", an_order(status="CANCELED"), error(-2011, "Unknown order sent."))
        reply = await harness.rest.cancel(CancelOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert reply.order is not None
        assert (reply.outcome, reply.order.status) == (Outcome.ACCEPTED, "CANCELED")
        again = await harness.rest.cancel(CancelOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert (again.outcome, again.code) == (Outcome.REFUSED, -2011)
        assert harness.fake.orders(method="DELETE")[0]["origClientOrderId"] == "vt-1e1"

    on_a_harness(story)


def test_a_conditional_order_is_cancelled_at_its_own_endpoint() -> None:
    async def story(harness: Harness) -> None:
        done = {"algoId": 5001, "clientAlgoId": "vt-1s1", "code": "200", "msg": "success"}
        harness.fake.will("DELETE", "/fapi/v1/algoOrder", Say(body=done), Say(body={"code": "200", "msg": "success"}))
        reply = await harness.rest.cancel(CancelOrder(1, "BTCUSDT", "vt-1s1", True, ""))
        assert (reply.outcome, reply.algo_order) == (Outcome.ACCEPTED, None)
        assert harness.fake.orders("/fapi/v1/algoOrder", "DELETE")[0]["clientAlgoId"] == "vt-1s1"
        nameless = await harness.rest.cancel(CancelOrder(1, "BTCUSDT", "vt-1s1", True, ""))
        assert nameless.outcome is Outcome.UNKNOWN

    on_a_harness(story)


def test_an_order_is_found_or_known_not_to_be_there() -> None:
    async def story(harness: Harness) -> None:
        path = ("GET", "/fapi/v1/order")
        harness.fake.will(*path, an_order(status="FILLED", executedQty="0.004"), error(-2013, "Order does not exist."))
        found = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert found.order is not None
        assert (found.action, found.outcome, found.order.filled) == ("lookup", Outcome.ACCEPTED, 4)
        none = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert (none.outcome, none.code) == (Outcome.REFUSED, -2013)
        harness.fake.will(*path, error(-1021), error(-1021))
        failed = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", False, ""))
        assert failed.outcome is Outcome.UNKNOWN, "a question that failed is no evidence"

    on_a_harness(story)


def test_a_triggered_stop_is_looked_up_with_the_order_that_it_became() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.always["GET", "/fapi/v1/algoOrder"] = an_algo(algoStatus="TRIGGERED", actualOrderId="1001")
        harness.fake.will("GET", "/fapi/v1/order", an_order(status="FILLED", executedQty="0.004"), Say(502, ""))
        reply = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", True, ""))
        assert reply.algo_order is not None
        assert reply.order is not None
        assert (reply.algo_order.status, reply.order.status, reply.order.order_id) == ("TRIGGERED", "FILLED", 1001)
        alone = await harness.rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1e1", True, ""))
        assert (alone.outcome, alone.order) == (Outcome.ACCEPTED, None)
        assert alone.algo_order == reply.algo_order

    on_a_harness(story)


# --- the account -----------------------------------------------------------------------------------------------------


def open_account(fake: FakeBinance, trades: int = 1) -> None:
    """An account with a position, a resting order, a stop, and some trades."""
    position = {"symbol": "BTCUSDT", "positionSide": "BOTH", "positionAmt": "0.004", "entryPrice": "60000.0"}
    usdt = {"asset": "USDT", "walletBalance": "1000.5", "availableBalance": "900"}
    rates = {"symbol": "BTCUSDT", "makerCommissionRate": "0.0002", "takerCommissionRate": "0.0005"}
    config = [{"symbol": "BTCUSDT", "marginType": "ISOLATED", "leverage": 5}]
    ours = [{**USER_TRADE, "id": n} for n in range(1, trades + 1)]

    def user_trades(asked: Asked) -> Say:
        start, limit = int(asked.params.get("fromId", max(1, trades - 999))), int(asked.params["limit"])
        return Say(body=[row for row in ours if row["id"] >= start][:limit])

    fake.always |= {
        ("GET", "/fapi/v3/account"): Say(
            body={"assets": [usdt], "positions": [{**position, "unrealizedProfit": "0.4"}]}
        ),
        ("GET", "/fapi/v3/positionRisk"): Say(body=[{**position, "unRealizedProfit": "0.4"}]),
        ("GET", "/fapi/v1/symbolConfig"): Say(body=config),
        ("GET", "/fapi/v1/accountConfig"): Say(body={"dualSidePosition": False, "multiAssetsMargin": False}),
        ("GET", "/fapi/v1/commissionRate"): Say(body=rates),
        ("GET", "/fapi/v1/openOrders"): Say(body=[{**ORDER, "status": "NEW", "executedQty": "0"}]),
        ("GET", "/fapi/v1/openAlgoOrders"): Say(body=[ALGO_ORDER]),
        ("GET", "/fapi/v1/userTrades"): user_trades,
    }


def test_a_snapshot_holds_the_whole_account() -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        snapshot = await harness.rest.snapshot("BTCUSDT", 0)
        assert (snapshot.wallet, snapshot.available) == (100_050_000_000, 90_000_000_000)
        assert (snapshot.taker_fee_e8, snapshot.maker_fee_e8) == (50_000, 20_000)
        assert (snapshot.leverage, snapshot.margin_type, snapshot.hedge_mode) == (5, "isolated", False)
        assert (snapshot.position.quantity, snapshot.position.unrealised) == (4, 40_000_000)
        assert [order.client_order_id for order in snapshot.orders] == ["vt-1"]
        assert [algo.client_order_id for algo in snapshot.algo_orders] == ["vt-1s1"]
        assert [fill.trade_id for fill in snapshot.fills] == [1]

    on_a_harness(story)


WEIGHTS = {
    **{"openOrders": 1, "openAlgoOrders": 1, "account": 5, "positionRisk": 5, "userTrades": 5},
    **{"symbolConfig": 5, "accountConfig": 5, "commissionRate": 20},
}
"""Request weights of questions about the account, those of orders with their symbol."""


def test_a_regular_comparison_asks_for_little_and_settings_and_fees_are_asked_for_seldom() -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)

        async def weight(question: Awaitable[Any]) -> int:
            before = len(harness.fake.asked)
            await question
            asked = [each for each in harness.fake.asked[before:] if "ticker" not in each.path]  # that is asked beside
            assert all("symbol" in each.params for each in asked if "open" in each.path)
            return sum(WEIGHTS[each.path.rpartition("/")[2]] for each in asked)

        rest = harness.rest
        assert await weight(rest.snapshot("BTCUSDT", 0, settings=False)) == 47  # nothing is known yet
        assert await weight(rest.snapshot("BTCUSDT", 0, settings=False)) == 17
        assert await weight(rest.snapshot("BTCUSDT", 0)) == 27
        assert await weight(rest.summary("BTCUSDT", settings=False)) == 7
        assert await weight(rest.summary("BTCUSDT")) == 17
        harness.clock.now += FEES_MS
        assert await weight(rest.snapshot("BTCUSDT", 0)) == 47

    on_a_harness(story)


@pytest.mark.parametrize(
    ("late_s", "fails", "asked_again"),
    [(0.0, 0, {}), (BEGUN_S + 0.1, 0, dict.fromkeys(WEIGHTS, 1)), (0.0, 1, {"positionRisk": 1})],
    ids=["in time", "too late", "one failed"],
)
def test_a_snapshot_uses_what_was_asked_before_it(late_s: float, fails: int, asked_again: dict[str, int]) -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        harness.fake.will("GET", "/fapi/v3/positionRisk", *[error(-1000)] * fails)
        harness.fake.asked.clear()
        harness.rest.begin_account("BTCUSDT")
        reader = harness.rest._account
        await asyncio.wait(reader._begun.values())
        before = Counter(each.path.rpartition("/")[2] for each in harness.fake.asked)
        newest = dict.fromkeys(("userTrades", "openOrders", "openAlgoOrders"), 1)  # a stop of before may be gone
        assert before == dict.fromkeys(WEIGHTS.keys() - newest.keys(), 1)
        reader._begun_at -= late_s
        snapshot = await harness.rest.snapshot("BTCUSDT", 0)
        after = Counter(each.path.rpartition("/")[2] for each in harness.fake.asked if "ticker" not in each.path)
        assert after - before == newest | asked_again
        assert (snapshot.position.quantity, len(snapshot.orders), len(snapshot.fills)) == (4, 1, 1)
        await harness.rest.snapshot("BTCUSDT", 0)  # an answer is used once
        assert sum(each.path.endswith("positionRisk") for each in harness.fake.asked) == after["positionRisk"] + 1

    on_a_harness(story)


def test_a_summary_holds_what_a_comparison_needs() -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        triggered = {**ALGO_ORDER, "clientAlgoId": "vt-1s2", "algoStatus": "TRIGGERED"}  # it is an order by now
        harness.fake.always["GET", "/fapi/v1/openAlgoOrders"] = Say(body=[ALGO_ORDER, triggered])
        summary = await harness.rest.summary("BTCUSDT")
        assert (summary.wallet, summary.position) == (100_050_000_000, 4)
        assert (summary.leverage, summary.margin_type, summary.hedge_mode) == (5, "isolated", False)
        assert summary.orders == ("vt-1", "vt-1s1")

    on_a_harness(story)


def test_settings_that_are_not_read_are_those_of_the_last_reading() -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        await harness.rest.snapshot("BTCUSDT", 0)
        changed = [{"symbol": "BTCUSDT", "marginType": "CROSSED", "leverage": 20}]
        harness.fake.always["GET", "/fapi/v1/symbolConfig"] = Say(body=changed)
        kept = await harness.rest.snapshot("BTCUSDT", 0, settings=False)
        assert (kept.leverage, kept.margin_type) == (5, "isolated")
        read = await harness.rest.snapshot("BTCUSDT", 0)
        assert (read.leverage, read.margin_type) == (20, "cross")

    on_a_harness(story)


@pytest.mark.parametrize(("since", "first"), [(5, 6), (0, 1_501)], ids=["all after one", "the latest thousand"])
def test_our_trades_are_paged(since: int, first: int) -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake, trades=2_500)
        snapshot = await harness.rest.snapshot("BTCUSDT", since)
        assert [fill.trade_id for fill in snapshot.fills] == list(range(first, 2_501))

    on_a_harness(story)


def test_the_income_history_is_read_week_by_week_and_page_by_page() -> None:
    """1,500 changes within an hour, then one ten days later; those in BNB and those from before are not of it."""

    async def story(harness: Harness) -> None:
        first = harness.clock.now = 100 * DAY_MS
        rows = [an_income(first + 1_000 * (number // 2), number) for number in range(1_500)]
        rows += [an_income(first + 10 * DAY_MS, 9_000), an_income(first + 5, 9_001, asset="BNB")]
        rows.append(an_income(first - 1, 9_002))

        def answer(asked: Asked) -> Say:
            begin, end = (int(asked.params[name]) for name in ("startTime", "endTime"))
            assert end - begin < 7 * DAY_MS
            page = [row for row in sorted(rows, key=lambda row: row["time"]) if begin <= row["time"] <= end]
            return Say(body=page[: int(asked.params["limit"])])

        harness.fake.always["GET", "/fapi/v1/income"] = answer
        harness.clock.now = first + 11 * DAY_MS
        income = await harness.rest.income("BTCUSDT", first)
        assert [row.amount for row in income] == [number * 100_000_000 for number in (*range(1_500), 9_000)]
        assert {row.kind for row in income} == {"TRANSFER"}

    on_a_harness(story)


def an_income(time: int, number: int, asset: str = "USDT") -> dict[str, Any]:
    facts = {"symbol": "", "incomeType": "TRANSFER", "income": f"{number}.00000000", "asset": asset, "info": ""}
    return facts | {"time": time, "tranId": 7_000_000 + number, "tradeId": ""}


BNB_PRICE = ("GET", "/fapi/v2/ticker/price")


@pytest.mark.parametrize("is_whole", [True, False], ids=["snapshot", "summary"])
def test_no_reading_of_the_account_waits_for_the_price_of_bnb(is_whole: bool) -> None:
    """The price hangs: the account is here long before the 2 s of its timeout."""

    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        harness.clock.now = 2 * DAY_MS
        harness.fake.always[BNB_PRICE] = Say(hang=True)
        async with asyncio.timeout(1.5):
            reading = harness.rest.snapshot("BTCUSDT", 0) if is_whole else harness.rest.summary("BTCUSDT")
            assert (await reading).wallet == 100_050_000_000
        await until(lambda: harness.fake.orders(*reversed(BNB_PRICE)))

    on_a_harness(story)


def test_a_fee_in_bnb_is_booked_at_the_price_that_was_read_last() -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        paid = {**USER_TRADE, "id": 1, "commission": "0.01", "commissionAsset": "BNB"}
        harness.fake.always["GET", "/fapi/v1/userTrades"] = Say(body=[paid])
        harness.fake.always[BNB_PRICE] = Say(body={"symbol": "BNBUSDT", "price": "600.00"})
        harness.clock.now = 2 * DAY_MS
        await harness.rest.summary("BTCUSDT")
        await until(lambda: harness.rest.fee_prices.value("BNB", 100_000_000))
        harness.fake.always[BNB_PRICE] = Say(502, "")  # the price stays as it was
        assert [fill.fee for fill in (await harness.rest.snapshot("BTCUSDT", 0)).fills] == [600_000_000]

    on_a_harness(story)


THE_ORDER = ("GET", "/fapi/v1/order")


def test_an_order_that_cannot_be_named_leaves_the_names_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order 3 is gone, 4 can't be read, 5 is not answered: 1 and 2 are named, and soon."""
    monkeypatch.setattr("voltrade.exchange.account_reader.NAMES_WITHIN_S", 0.3)
    said = {3: error(-2013, "Order does not exist."), 4: Say(200, {"orderId": 4}), 5: Say(hang=True)}

    async def story(harness: Harness) -> None:
        def answer(asked: Asked) -> Say:
            order_id = int(asked.params["orderId"])
            return said.get(order_id, Say(body={"orderId": order_id, "clientOrderId": f"vt-{order_id}"}))

        harness.fake.always[THE_ORDER] = answer
        async with asyncio.timeout(1.5):
            assert await harness.rest.order_names("BTCUSDT", range(1, 6)) == {1: "vt-1", 2: "vt-2"}
            del said[3]  # it was only not there yet
            assert await harness.rest.order_names("BTCUSDT", range(1, 6)) == {n: f"vt-{n}" for n in (1, 2, 3)}

    on_a_harness(story)


def test_orders_are_named_few_at_a_time_those_first_that_were_asked_for_least() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.always[THE_ORDER] = error(-2013, "Order does not exist.")
        for _ in range(3):
            assert await harness.rest.order_names("BTCUSDT", range(1, 10)) == {}
        asked = [int(each["orderId"]) for each in harness.fake.orders(*reversed(THE_ORDER))]
        assert [sorted(asked[begin : begin + 5]) for begin in (0, 5, 10)] == [
            [1, 2, 3, 4, 5],
            [1, 6, 7, 8, 9],
            [2, 3, 4, 5, 6],
        ]

    on_a_harness(story)


@pytest.mark.parametrize("path", ["/fapi/v3/account", "/fapi/v1/openAlgoOrders", "/fapi/v1/userTrades"])
@pytest.mark.parametrize("answer", [Say(502, ""), Say(200, {"assets": "?"}), Say(200, ""), Say(abort=True)])
def test_an_account_that_cannot_be_read_whole_is_no_account(path: str, answer: Say) -> None:
    async def story(harness: Harness) -> None:
        open_account(harness.fake)
        harness.fake.will("GET", path, answer, answer)  # the HTTP library asks twice when a kept connection is cut
        with pytest.raises(ExchangeError):
            await harness.rest.snapshot("BTCUSDT", 0)

    on_a_harness(story)


def test_an_answer_of_200_with_a_code_of_failure_is_no_answer() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.will("GET", "/fapi/v1/openOrders", Say(body={"code": -1000, "msg": "An unknown error occurred"}))
        with pytest.raises(ExchangeError, match="An unknown error occurred, code -1000"):
            await harness.rest.read("fapiPrivateGetOpenOrders", {"symbol": "BTCUSDT"})

    on_a_harness(story)


BALANCE = "/fapi/v3/balance"


@pytest.mark.parametrize(
    "answer",
    [
        Say(body=[]),
        Say(body={}),
        Say(body=[{"asset": "USDT"}]),
        Say(body=[{"accountAlias": ""}]),
        Say(body=[{"accountAlias": "a/b"}]),
        Say(body=[{"accountAlias": "one"}, {"accountAlias": "two"}]),
        Say(502, ""),
    ],
)
def test_an_account_without_a_name_of_its_own_is_refused(answer: Say) -> None:
    """Fault case E1: its ledger would be another one each time."""

    async def story(harness: Harness) -> None:
        harness.fake.will("GET", BALANCE, answer)
        with pytest.raises(ExchangeError):
            await harness.rest.account_name()

    on_a_harness(story)


def test_two_keys_of_an_account_have_one_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case E1, the same account by another key: the ledger was named by the key's fingerprint."""

    async def wired(key: str, rest: str) -> str:
        monkeypatch.setattr("support.fake_binance.KEY", key)
        environment = {"VOLTRADE_API_KEY": key, "VOLTRADE_API_SECRET": SECRET}
        wiring = await reach(Config.from_parameters(mode="demo", venue=rest), environment)
        await wiring.close()
        return wiring.account

    async def story() -> None:
        async with FakeBinance() as fake:
            rows = [{"accountAlias": "SgsRXqfW", "asset": asset} for asset in ("USDT", "BNB")]
            fake.always["GET", BALANCE] = Say(body=rows)
            one, other = [await wired(key, fake.rest) for key in ("one", "other")]
            assert one == other == f"{fake.rest} SgsRXqfW"

    asyncio.run(story())


def test_account_settings_that_are_so_already_are_fine_and_others_must_work() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.always |= {
            ("POST", "/fapi/v1/positionSide/dual"): error(-4059, "No need to change position side."),
            ("POST", "/fapi/v1/marginType"): error(-4046, "No need to change margin type."),
            ("POST", "/fapi/v1/leverage"): Say(body={"leverage": 7}),
        }
        await harness.rest.apply_account_settings("BTCUSDT", 7, "isolated")
        assert harness.fake.orders("/fapi/v1/marginType")[0]["marginType"] == "ISOLATED"
        assert harness.fake.orders("/fapi/v1/leverage")[0]["leverage"] == "7"
        harness.fake.will("POST", "/fapi/v1/leverage", error(-4028, "Leverage is not valid"))
        with pytest.raises(ExchangeError, match="Leverage is not valid, code -4028"):
            await harness.rest.apply_account_settings("BTCUSDT", 7, "isolated")

    on_a_harness(story)


def test_the_clocks_are_compared() -> None:
    async def story(harness: Harness) -> None:
        harness.fake.always["GET", "/fapi/v1/time"] = Say(body={"serverTime": 700})
        assert await harness.rest.clock_offset() == 300  # ours stands at 1000

        def late(_: Asked) -> Say:
            harness.clock.now += 2_400
            return Say(body={"serverTime": 1_000})

        harness.fake.always["GET", "/fapi/v1/time"] = late
        assert await harness.rest.clock_reading() == (1_200, 2_400)

    on_a_harness(story)


def test_a_block_ends_when_the_exchange_says_though_our_clock_was_ahead() -> None:
    async def story(harness: Harness) -> None:
        harness.exchange.blocked_until, harness.rest.timestamp_correction_ms = 90_000, 7_000
        harness.rest.on_clock_corrected(30_000)
        assert (harness.rest.blocked_until, harness.rest.timestamp_correction_ms) == (60_000, 0)

    on_a_harness(story)


@pytest.mark.parametrize(("used", "waits"), [(1_180, False), (1_181, True)])
def test_earlier_trades_leave_half_of_the_weight_to_orders(used: int, waits: bool) -> None:
    async def story(harness: Harness) -> None:
        weight = {"X-MBX-USED-WEIGHT-1M": str(used)}
        harness.fake.always["GET", "/fapi/v1/time"] = Say(body={"serverTime": 700}, headers=weight)
        await harness.rest.clock_offset()
        waiting = asyncio.create_task(harness.rest.wait_for_weight(20))
        await asyncio.sleep(0.01)
        assert waiting.done() is not waits
        harness.clock.now += 60_000
        await waiting

    on_a_harness(story)


# --- streams ---------------------------------------------------------------------------------------------------------


@dataclass
class Feed(Harness):
    """A harness whose streams are up; `seen` holds trade ids and events in the order in which they came."""

    manager: BinanceWSManager = field(kw_only=True)
    seen: list[int | Event] = field(kw_only=True)

    def events(self, *kinds: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kinds)]

    @property
    def trade_ids(self) -> list[int]:
        return [event for event in self.seen if isinstance(event, int)]


def on_a_feed(story: Callable[[Feed], Coroutine[Any, Any, None]], **how: Any) -> None:
    """Run a story in which streams are up; the links' own events at the start are left out of what was seen."""

    async def tell() -> None:
        async with a_harness() as harness:
            seen: list[int | Event] = []

            def on_agg_trade(trade_id: int, price: int, lots: int, time: int, maker: bool) -> None:
                assert (price, lots, time, maker) == (600_000 + trade_id, trade_id, trade_id, trade_id % 2 == 0)
                seen.append(trade_id)

            manager = BinanceWSManager(
                harness.exchange, harness.rest, harness.instrument, on_agg_trade, seen.append, harness.clock, **how
            )
            await manager.start(5.0)
            links = {event.stream for event in seen if isinstance(event, StreamStatus) and event.up}
            assert links == ({"market"} if how.get("user_stream") is False else {"market", "user"})
            seen.clear()
            try:
                await story(Feed(**vars(harness), manager=manager, seen=seen))
            finally:
                await manager.stop()

    asyncio.run(tell())


def test_trades_and_marks_come_out_as_they_went_in() -> None:
    async def story(feed: Feed) -> None:
        assert feed.fake.subscribed == [["btcusdt@aggTrade", "btcusdt@markPrice@1s"]]
        await feed.fake.trade(5, 6)
        await feed.fake.send("market", {"stream": "btcusdt@markPrice@1s", "data": MARK})
        await feed.fake.trade(7)
        await until(lambda: len(feed.seen) == 4)
        assert feed.seen == [5, 6, MarkPrice("BTCUSDT", 7, 6_000_012_345_678, -10_000, 99), 7]
        assert feed.manager.last_trade_id == 7

    on_a_feed(story)


def test_a_gap_is_filled_before_anything_after_it_comes_out() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        feed.fake.trades |= {i: a_trade(i) for i in range(2, 5)}
        await feed.fake.trade(5)
        await feed.fake.send("market", MARK)
        await feed.fake.trade(6)
        await until(lambda: len(feed.seen) == 8)
        gap = FeedGap("BTCUSDT", time=5, first_id=2, last_id=4, filled=3)
        assert feed.seen == [1, 2, 3, 4, gap, 5, feed.events(MarkPrice)[0], 6]

    on_a_feed(story)


def test_a_long_gap_is_paged() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        feed.fake.trades |= {i: a_trade(i) for i in range(2, 2_502)}
        await feed.fake.trade(2_502)
        await until(lambda: feed.manager.last_trade_id == 2_502)
        assert feed.trade_ids == list(range(1, 2_503))
        assert feed.events(FeedGap)[0].filled == 2_500
        assert len(feed.fake.orders("/fapi/v1/aggTrades", "GET")) == 3

    on_a_feed(story)


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_hole_in_the_tape_stays_a_jump_and_costs_one_request(lockstep: bool) -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1, 5, 6, 9)
        await until(lambda: feed.manager.last_trade_id == 9)
        assert feed.seen == [1, FeedGap("BTCUSDT", 5, 2, 4, 0), 5, 6, FeedGap("BTCUSDT", 9, 7, 8, 0), 9]
        assert len(feed.fake.orders("/fapi/v1/aggTrades", "GET")) == 2
        assert feed.manager.counts.missing == 5

    on_a_feed(story, lockstep=lockstep)


def test_a_gap_is_tried_again_and_given_up_in_the_end() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        feed.fake.trades |= {2: a_trade(2)}
        feed.fake.will("GET", "/fapi/v1/aggTrades", error(-1001, status=500), Say(200, []))
        await feed.fake.trade(3)
        await until(lambda: feed.manager.last_trade_id == 3)
        assert feed.events(FeedGap) == [FeedGap("BTCUSDT", 3, 2, 2, filled=1)]
        feed.fake.always["GET", "/fapi/v1/aggTrades"] = Say(502, "")
        await feed.fake.trade(8)
        await until(lambda: feed.manager.last_trade_id == 8)
        assert feed.events(FeedGap)[1:] == [FeedGap("BTCUSDT", 8, 4, 7, filled=0)]

    on_a_feed(story)


@pytest.mark.parametrize(("used", "asks"), [(1_180, True), (1_181, False)])
def test_missing_trades_and_the_look_for_silent_ones_leave_half_of_the_weight_to_orders(used: int, asks: bool) -> None:
    """A page weighs 20, of 1,200: a stream that comes back again and again asks for no more."""

    async def story(feed: Feed) -> None:
        weight = {"X-MBX-USED-WEIGHT-1M": str(used)}
        feed.fake.always["GET", "/fapi/v1/time"] = Say(body={"serverTime": 700}, headers=weight)
        await feed.fake.trade(1)
        feed.fake.trades |= {i: a_trade(i) for i in range(2, 5)}
        await feed.rest.clock_offset()
        await feed.fake.trade(5)
        await until(lambda: feed.manager.last_trade_id == 5)
        assert feed.events(FeedGap) == [FeedGap("BTCUSDT", 5, 2, 4, filled=3 if asks else 0)]
        asked = len(feed.fake.orders("/fapi/v1/aggTrades", "GET"))
        await feed.rest.clock_offset()
        await feed.manager.maintain(1_000)
        await feed.manager.maintain(1_000 + 10_000)
        await asyncio.gather(*feed.manager._questions)
        assert (asked, len(feed.fake.orders("/fapi/v1/aggTrades", "GET"))) == ((1, 2) if asks else (0, 0))

    on_a_feed(story)


def test_what_is_known_already_is_joined_by_id() -> None:
    async def story(feed: Feed) -> None:
        feed.fake.trades |= {i: a_trade(i) for i in range(1, 14)}
        await feed.fake.trade(13)
        await until(lambda: feed.manager.last_trade_id == 13)
        assert feed.trade_ids == [11, 12, 13]

    on_a_feed(story, after_trade_id=10)


def test_a_position_is_valued_while_earlier_trades_are_loaded() -> None:
    """That takes minutes after a long outage, in which the limits on losses must be watched."""

    async def story(feed: Feed) -> None:
        feed.manager._trades.is_held_back = True
        await feed.fake.trade(5)
        await feed.fake.send("market", MARK)
        await until(lambda: feed.events(MarkPrice))
        assert feed.trade_ids == []
        feed.manager.release(4)
        await until(lambda: feed.trade_ids == [5])

    on_a_feed(story)


def test_trades_seen_before_are_dropped() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(3, 4, 4, 3, 1, 5)
        await until(lambda: feed.manager.last_trade_id == 5)
        assert feed.trade_ids == [3, 4, 5]
        assert feed.manager.counts.duplicates == 3

    on_a_feed(story)


def test_garbage_is_counted_and_changes_nothing() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        bad = {"e": "aggTrade", "s": "BTCUSDT", **a_trade(2)}
        await feed.fake.send(
            "market",
            '{"e": "aggTrade", "a": ',
            b"\xff\xfe\x00",
            "[]",
            "[1, 2]",
            "null",
            "hello",
            "{}",
            '{"stream": "x", "data": 5}',
            '{"e": ["aggTrade"]}',
            '{"e": {}}',
            {**bad, "p": "NaN"},
            {**bad, "q": "-1"},
            {**bad, "p": 1.5},
            {**bad, "s": "ETHUSDT"},
            {"e": "aggTrade", "s": "BTCUSDT", **a_trade(900), "st": 2},
            {"e": "aggTrade", "s": "BTCUSDT"},
            {**MARK, "p": "x"},
            {"e": "depthUpdate", "s": "BTCUSDT"},
        )
        await feed.fake.trade(2)
        await until(lambda: feed.manager.last_trade_id == 2)
        assert feed.seen == [1, 2]
        counts = feed.manager.counts
        assert (counts.other_symbols, counts.gaps, counts.reconnects) == (2, 0, 0)
        assert counts.refused >= 5
        await feed.manager.maintain(feed.clock.now)

    on_a_feed(story)


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize("stream", ["market", "private"])
def test_a_lost_socket_is_dialled_again_and_nothing_comes_twice(stream: str, how: str) -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        await until(lambda: feed.trade_ids == [1])
        for round_ in (1, 2, 3):
            dials = feed.fake.dials[stream]
            if how == "close":
                await feed.fake.close(stream, 1001)
            else:
                feed.fake.cut(stream)
            await until(lambda dials=dials: feed.fake.dials[stream] > dials)
            await until(lambda round_=round_: len(feed.events(StreamStatus)) == 2 * round_)
        name = "user" if stream == "private" else "market"
        assert [(link.stream, link.up) for link in feed.events(StreamStatus)] == [(name, False), (name, True)] * 3
        assert len(feed.fake.sockets[stream]) == 1, "one socket is left, not two"
        await feed.fake.trade(2)
        await feed.fake.send("private", FILL)
        await until(lambda: feed.trade_ids == [1, 2] and feed.events(OrderUpdate))
        await asyncio.sleep(0.05)
        assert len(feed.events(OrderUpdate)) == 1, "each event comes once"
        assert feed.manager.user_frames == 1

    on_a_feed(story)


def test_a_watch_that_somebody_cancelled_is_begun_again() -> None:
    async def story(feed: Feed) -> None:
        await feed.manager._clients["market"].close()
        await until(lambda: feed.fake.dials["market"] == 2)
        await until(lambda: [link.up for link in feed.events(StreamStatus)] == [False, True])
        await feed.fake.trade(1)
        await until(lambda: feed.trade_ids == [1])

    on_a_feed(story)


def test_trades_missed_while_the_socket_was_away_are_filled() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        await until(lambda: feed.trade_ids == [1])
        feed.fake.trades |= {i: a_trade(i) for i in (2, 3)}
        feed.fake.cut("market")
        await until(lambda: feed.events(StreamStatus)[-1:] and feed.events(StreamStatus)[-1].up)
        await feed.fake.trade(3, 4)
        await until(lambda: feed.manager.last_trade_id == 4)
        assert feed.trade_ids == [1, 2, 3, 4]

    on_a_feed(story)


def test_a_silent_market_socket_is_dialled_again() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        await until(lambda: feed.trade_ids == [1])
        for now in (1_000, 6_000, 10_999):
            await feed.manager.maintain(now)
        await feed.fake.trade(2)
        await until(lambda: feed.trade_ids == [1, 2])
        for now in (11_000, 20_999):
            await feed.manager.maintain(now)
        assert feed.fake.dials["market"] == 1
        await feed.manager.maintain(21_000)  # ten seconds after trade 2 was noticed
        await until(lambda: feed.fake.dials["market"] == 2)
        await until(lambda: len(feed.events(StreamStatus)) == 2)
        await feed.fake.trade(3)
        await until(lambda: feed.trade_ids == [1, 2, 3])

    on_a_feed(story)


@pytest.mark.parametrize("comes", [True, False], ids=["trades come", "nothing comes"])
def test_a_market_socket_whose_subscription_is_never_answered_is_not_waited_for(comes: bool) -> None:
    """Trades show that it holds; where nothing comes, it is dialled again as if it had fallen silent."""

    async def story(feed: Feed) -> None:
        feed.fake.ignore_subscription = True
        feed.fake.cut("market")
        await until(lambda: len(feed.fake.subscribed) == 2)
        assert [event.up for event in feed.events(StreamStatus)] == [False]
        if comes:
            await feed.fake.trade(1)
            await until(lambda: feed.trade_ids == [1])
        else:
            for now in (1_000, 10_999):
                await feed.manager.maintain(now)
            assert feed.fake.dials["market"] == 2
            feed.fake.ignore_subscription = False
            await feed.manager.maintain(11_000)
        await until(lambda: [event.up for event in feed.events(StreamStatus)] == [False, True])
        assert feed.fake.dials["market"] == (2 if comes else 3)

    on_a_feed(story)


def test_a_tape_that_waits_for_us_is_never_silent_for_too_long() -> None:
    async def story(feed: Feed) -> None:
        for now in (1_000, 1_000_000):
            await feed.manager.maintain(now)
        await asyncio.sleep(0.05)
        assert feed.fake.dials["market"] == 1

    on_a_feed(story, lockstep=True)


# --- user data -------------------------------------------------------------------------------------------------------


def test_user_events_come_out_in_order_and_are_counted() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.send("private", FILL, ACCOUNT, {"e": "TRADE_LITE", "s": "BTCUSDT"}, ALGO)
        await until(lambda: feed.manager.user_frames == 4)
        assert [type(event) for event in feed.seen] == [OrderUpdate, AccountUpdate, AlgoUpdate]
        assert feed.manager.counts.ignored == 1

    on_a_feed(story)


def test_a_wallet_that_an_update_leaves_out_is_remembered() -> None:
    async def story(feed: Feed) -> None:
        only_bnb = {**ACCOUNT, "a": {**ACCOUNT["a"], "B": [{"a": "BNB", "wb": "1"}]}}
        await feed.fake.send("private", ACCOUNT, only_bnb)
        await until(lambda: feed.manager.user_frames == 2)
        assert [update.wallet for update in feed.events(AccountUpdate)] == [999_988_000_000] * 2

    on_a_feed(story)


@pytest.mark.parametrize(
    "event",
    [
        {**FILL, "o": {**FILL["o"], "z": "nonsense"}},
        {"e": "ACCOUNT_UPDATE", "T": 1, "a": None},
        {"e": "ORDER_TRADE_UPDATE"},
        {"e": "ACCOUNT_CONFIG_UPDATE", "T": 1, "ac": {"s": "BTCUSDT", "l": 25}},
        {"e": "MARGIN_CALL", "p": []},
        {"e": "CONDITIONAL_ORDER_TRIGGER_REJECT", "or": {"s": "BTCUSDT", "i": 1, "r": "no"}},
        {"e": ["ORDER_TRADE_UPDATE"]},
        '{"e": "ORDER_TRADE_UPDATE", "o": {"s": "BTC',
        b"\xff\xfe\x00",
    ],
)
def test_what_cannot_be_told_as_a_fact_makes_the_account_be_read_again(event: dict[str, Any] | str | bytes) -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.send("private", event, FILL)
        await until(lambda: len(feed.seen) >= 3)
        assert feed.seen[:2] == [StreamStatus(1_000, "user", False), StreamStatus(1_000, "user", True)]
        assert isinstance(feed.seen[2], OrderUpdate)

    on_a_feed(story)


def test_orders_of_other_symbols_are_counted() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.send("private", {**FILL, "o": {**FILL["o"], "s": "ETHUSDT"}})
        await until(lambda: feed.manager.counts.other_symbols == 1)
        assert feed.seen == []

    on_a_feed(story)


def test_frames_are_counted_by_connection() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.send("private", FILL, FILL)
        await until(lambda: feed.manager.user_frames == 2)
        feed.fake.cut("private")
        await until(lambda: len(feed.events(StreamStatus)) == 2)
        assert feed.manager.user_frames == 0
        await feed.fake.send("private", FILL)
        await until(lambda: feed.manager.user_frames == 1)

    on_a_feed(story)


def test_an_expired_listen_key_is_replaced() -> None:
    async def story(feed: Feed) -> None:
        feed.fake.keys = 2
        await feed.fake.send("private", {"e": "listenKeyExpired", "E": 1, "listenKey": "listen1"})
        await until(lambda: feed.fake.dials["private"] == 2)
        await until(lambda: len(feed.events(StreamStatus)) == 2)
        assert "listen2" in feed.manager._clients["user"].url
        await feed.fake.send("private", FILL)
        await until(lambda: feed.events(OrderUpdate))

    on_a_feed(story)


def test_the_listen_key_is_extended_in_time() -> None:
    async def story(feed: Feed) -> None:
        def puts() -> int:
            return len(feed.fake.orders("/fapi/v1/listenKey", "PUT"))

        minute = 60_000
        await feed.manager.maintain(1_000 + 30 * minute - 1)
        assert puts() == 0
        await feed.manager.maintain(1_000 + 30 * minute)
        await feed.manager.maintain(1_000 + 31 * minute)
        assert puts() == 1
        feed.fake.will("PUT", "/fapi/v1/listenKey", Say(502, ""))
        # fails, is too early to try again, works, is good for half an hour
        for after, sent in ((60, 2), (60.5, 2), (61, 3), (62, 3)):
            await feed.manager.maintain(int(1_000 + after * minute))
            assert puts() == sent
        feed.fake.keys = 2
        feed.fake.will("PUT", "/fapi/v1/listenKey", error(-1125, "This listenKey does not exist."))
        await feed.manager.maintain(1_000 + 91 * minute)
        await until(lambda: feed.fake.dials["private"] == 2)
        await until(lambda: len(feed.events(StreamStatus)) == 2)

    on_a_feed(story, lockstep=True)


HOUR = 3_600_000


def test_a_connection_is_replaced_before_the_exchange_cuts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is opened beside it, so that nothing is missed and nothing comes twice; the account is read."""
    monkeypatch.setattr(streams, "OVERLAP_S", 0.1)

    async def story(feed: Feed) -> None:
        fake, manager, old_age = feed.fake, feed.manager, 1_000 + 23 * HOUR
        await fake.trade(1)
        await until(lambda: feed.trade_ids == [1])
        await manager.maintain(old_age - 1)
        await asyncio.sleep(0.02)
        assert fake.dials == {"market": 1, "private": 1}

        feed.clock.now = old_age
        await manager.maintain(old_age)
        await until(lambda: len(fake.sockets["market"]) == 2 and manager._coming == {} and fake.dials["market"] == 2)
        old, _ = fake.sockets["market"]
        await old.send_json({"e": "aggTrade", "E": 1, "s": "BTCUSDT", **a_trade(2)})
        await fake.trade(2, 3)
        await until(lambda: feed.trade_ids == [1, 2, 3])
        await until(lambda: len(fake.sockets["market"]) == 1)
        assert manager.counts.duplicates == 1
        assert feed.events(StreamStatus, FeedGap) == []
        assert fake.dials["private"] == 1, "one after the other"

        await until_maintained(manager, old_age, lambda: fake.dials["private"] == 2)
        links = [("user", False), ("user", True)]  # for the account to be read
        await until(lambda: [(link.stream, link.up) for link in feed.events(StreamStatus)] == links)
        await until(lambda: len(fake.sockets["private"]) == 1)
        await fake.send("private", FILL)
        await until(lambda: len(feed.events(OrderUpdate)) == 1)
        await manager.maintain(old_age + 1)
        await asyncio.sleep(0.02)
        assert fake.dials == {"market": 2, "private": 2}
        assert manager.counts.reconnects == 0

    with mock.patch.object(streams, "SILENCE_MS", 10**9):
        on_a_feed(story)


async def until_maintained(manager: BinanceWSManager, now: int, is_so: Callable[[], bool]) -> None:
    """Maintain the streams, as a session does each second, until something is so."""
    async with asyncio.timeout(10):
        while not is_so():
            await manager.maintain(now)
            await asyncio.sleep(0.01)


def test_a_connection_that_cannot_be_replaced_stays_and_it_is_tried_again() -> None:
    async def story(feed: Feed) -> None:
        old_age = 1_000 + 23 * HOUR
        feed.fake.refuse_subscription = True
        await feed.manager.maintain(old_age)
        await until(lambda: feed.manager._successors["market"].done())
        feed.fake.refuse_subscription = False
        await until_maintained(feed.manager, old_age, lambda: "market" not in feed.manager._successors)
        assert feed.fake.dials["market"] == 2
        await feed.fake.sockets["market"][0].send_json({"e": "aggTrade", "E": 1, "s": "BTCUSDT", **a_trade(1)})
        await until(lambda: feed.trade_ids == [1])
        assert [link for link in feed.events(StreamStatus) if link.stream == "market"] == []
        await until_maintained(feed.manager, old_age + 60_000, lambda: feed.fake.dials["market"] == 3)
        await until(lambda: not feed.manager._coming)
        await feed.fake.trade(2)
        await until(lambda: feed.trade_ids == [1, 2])

    with mock.patch.object(streams, "SILENCE_MS", 10**9):
        on_a_feed(story)


def test_a_connection_that_is_lost_while_it_is_replaced_is_followed_by_the_other_one() -> None:
    async def story(feed: Feed) -> None:
        feed.fake.ignore_subscription = True
        await feed.manager.maintain(1_000 + 23 * HOUR)
        await until(lambda: "market" in feed.manager._coming)
        feed.fake._cut(feed.fake.sockets["market"][0])
        await until(lambda: [link.up for link in feed.events(StreamStatus)] == [False])
        await feed.fake.trade(1)
        await until(lambda: [link.up for link in feed.events(StreamStatus)] == [False, True])
        await until(lambda: feed.trade_ids == [1])
        assert feed.fake.dials["market"] == 2

    with mock.patch.object(streams, "SILENCE_MS", 10**9):
        on_a_feed(story)


def test_checks_wait_for_no_answer() -> None:
    """A listen key whose extension is not answered holds up neither the checks nor what else they find."""

    async def story(feed: Feed) -> None:
        feed.fake.will("PUT", "/fapi/v1/listenKey", Say(hang=True))
        now = 1_000 + 30 * 60_000
        async with asyncio.timeout(2):
            for second in range(12):
                await feed.manager.maintain(now + second * 1_000)
        await until(lambda: len(feed.fake.orders("/fapi/v1/listenKey", "PUT")) == 1)
        await until(lambda: feed.fake.dials["market"] == 2)  # found silent meanwhile

    on_a_feed(story)


# --- the simulated venue ---------------------------------------------------------------------------------------------


def a_tape() -> Trades:
    """400 trades, ids 1 to 200 and 206 to 405, ten a second; the price falls by a tick a trade."""
    n = np.arange(400)
    ids = np.where(n < 200, n + 1, n + 6)
    start = 1_700_000_000_000
    return Trades("BTCUSDT", ids, 600_000 - n, np.full(400, 50), start + 100 * n, n % 2 == 0)


def test_a_stop_is_hit_at_the_simulated_venue(tmp_path: Path) -> None:
    """Buy, protect, and be stopped out, over real REST and websockets, the tape in lockstep with us."""

    async def tell() -> None:
        venue = await serve(Config.from_parameters(speed=0.0, mark_interval_s=1), a_tape(), log_dir=tmp_path)
        clock = Clock()
        clock.now = venue.now()
        exchange = connect(
            Endpoint.simulated(venue.rest_url, venue.ws_url), Credentials("sim-key", "sim-secret"), clock, 5_000
        )
        rest = BinanceRestClient(exchange, "sim")
        instrument = await rest.instrument("BTCUSDT")
        trades: list[int] = []
        events: list[Event] = []
        manager = BinanceWSManager(
            exchange, rest, instrument, lambda *trade: trades.append(trade[0]), events.append, clock, lockstep=True
        )
        await manager.start(5.0)
        async with aiohttp.ClientSession() as web, web.ws_connect(f"{venue.ws_url}/voltrade/lockstep") as side:

            async def ask(**message: Any) -> Any:
                await side.send_json(message)
                return await side.receive_json(loads=json.loads)

            async def step() -> bool:
                """Go to the next horizon: take the trades, let the venue play them, take the news."""
                horizon = await ask(op="go")
                await until(lambda: manager.last_trade_id >= horizon["trade_id"])
                await until(lambda: manager.counts.marks >= horizon["mark"])
                last, marks = manager.last_trade_id, manager.counts.marks
                time = max(clock.now, horizon["arrival"] or 0)
                news = await ask(op="at", trade_id=last, marks=marks, time=time)
                await until(lambda: manager.user_frames >= news["user"])
                clock.now = news["time"]
                await manager.maintain(clock.now)
                return bool(horizon["end"])

            await step()  # the venue takes no market order before it has a price
            entry = replace(an_intent(client_order_id="vt-1e1").order, quantity=40)
            assert (await rest.submit(OrderIntent(1, entry, Purpose.ENTRY, 1, ""))).outcome is Outcome.ACCEPTED
            while not any(isinstance(event, OrderUpdate) and event.status == "FILLED" for event in events):
                assert not await step()
            stop = replace(
                entry,
                client_order_id="vt-1s1",
                side=Side.SELL,
                order_type=OrderType.STOP_MARKET,
                trigger_price=599_800,
                reduce_only=True,
            )
            assert (await rest.submit(OrderIntent(1, stop, Purpose.STOP, 1, ""))).outcome is Outcome.ACCEPTED
            assert [algo.status for algo in (await rest.snapshot("BTCUSDT", 0)).algo_orders] == ["NEW"]
            while not await step():
                pass
        assert trades == a_tape().id.tolist()
        assert [(gap.first_id, gap.last_id, gap.filled) for gap in events if isinstance(gap, FeedGap)] == [
            (201, 205, 0)
        ]
        found = await rest.lookup(LookupOrder(1, "BTCUSDT", "vt-1s1", True, ""))
        assert found.order is not None
        assert found.order.status == "FILLED"
        snapshot = await rest.snapshot("BTCUSDT", 0)
        assert snapshot.position.quantity == 0
        fills = [event for event in events if isinstance(event, OrderUpdate) and event.trade_id]
        assert [fill.trade_id for fill in snapshot.fills] == [fill.trade_id for fill in fills]
        # what the account holds is what it had, and profit less fees of every fill
        assert snapshot.wallet == 1_000_000_000_000 + sum(fill.realised - fill.fee for fill in fills)
        assert (manager.counts.refused, exchange.frame_handler_failure) == (0, None)
        await manager.stop()
        await exchange.close()
        await venue.close()

    asyncio.run(tell())


# --- starting and failing --------------------------------------------------------------------------------------------


def test_public_data_needs_no_key() -> None:
    async def story(feed: Feed) -> None:
        await feed.fake.trade(1)
        await until(lambda: feed.trade_ids == [1])
        await feed.manager.maintain(10**9)
        assert feed.fake.dials["private"] == 0

    on_a_feed(story, user_stream=False)


def a_manager(
    harness: Harness, on_event: Callable[[Event], None], on_agg_trade: Callable[..., None]
) -> BinanceWSManager:
    return BinanceWSManager(harness.exchange, harness.rest, harness.instrument, on_agg_trade, on_event, harness.clock)


def ignore(*_: object) -> None:
    """Take anything."""


@pytest.mark.parametrize(
    ("spoil", "down"),
    [
        (lambda fake: setattr(fake, "refuse_subscription", True), "market"),
        (lambda fake: fake.always.update({("POST", "/fapi/v1/listenKey"): Say(200, {})}), "user"),
    ],
)
def test_streams_that_do_not_come_up_are_named(spoil: Callable[[FakeBinance], None], down: str) -> None:
    async def story(harness: Harness) -> None:
        spoil(harness.fake)
        with pytest.raises(ExchangeError, match=f"streams must be up within 0.5 s, were not: {down}"):
            await a_manager(harness, ignore, ignore).start(0.5)
        assert len(asyncio.all_tasks()) < 30

    on_a_harness(story)


@pytest.mark.parametrize("stream", ["market", "private"])
def test_a_callback_that_fails_when_a_stream_is_lost_stops_the_show(stream: str) -> None:
    """Else the stream's supervisor would be gone, and nobody would dial again."""

    async def story(harness: Harness) -> None:
        def broken(event: Event) -> None:
            if isinstance(event, StreamStatus) and not event.up:
                raise RuntimeError("no room")

        manager = a_manager(harness, broken, ignore)
        await manager.start(5.0)
        harness.fake.cut(stream)
        await until(lambda: harness.exchange.frame_handler_failure)
        with pytest.raises(ExchangeError, match="an event could not be handled: RuntimeError"):
            await manager.maintain(1_000)
        await manager.stop()

    on_a_harness(story)


def test_a_supervisor_that_fails_stops_the_show(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(feed: Feed) -> None:
        monkeypatch.setattr(streams, "RECONNECT_DELAYS_S", ())
        feed.fake.cut("market")
        await until(lambda: feed.exchange.frame_handler_failure)
        with pytest.raises(ExchangeError, match="could not be handled: IndexError"):
            await feed.manager.maintain(1_000)

    on_a_feed(story)


def test_a_callback_that_fails_stops_the_show() -> None:
    async def story(harness: Harness) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("no room")

        manager = a_manager(harness, ignore, broken)
        await manager.start(5.0)
        await harness.fake.trade(1)
        await until(lambda: harness.exchange.frame_handler_failure)
        with pytest.raises(ExchangeError, match="an event could not be handled: RuntimeError"):
            await manager.maintain(1_000)
        await manager.stop()

    on_a_harness(story)
