"""The simulated venue over real sockets: Binance's transport rules, codes, streams and clocks; ccxt as its client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import ccxt.pro
import pytest
from support.venue_client import START, TIMEOUT, Client, flat_tape, frames, is_silent, run, trade, until

from voltrade.config import Config
from voltrade.errors import ConfigError, DataError
from voltrade.model import Trades
from voltrade.simulated.scripted import run_action
from voltrade.venue.command import _config, _parser, main, run_venue
from voltrade.venue.server import Venue, serve

# --- transport --------------------------------------------------------------------------------------------------------

NOW = START - 1
"""The venue's clock before the first trade."""

TRANSPORT_RULES = [
    # what, query, key, signed with, expected HTTP status and code
    ("no key", f"timestamp={NOW}", "", "sim-secret", 401, -2014),
    ("a key nobody has", f"timestamp={NOW}", "other", "sim-secret", 401, -2015),
    ("no signature", f"timestamp={NOW}", "sim-key", "", 400, -1102),
    ("a wrong signature", f"timestamp={NOW}", "sim-key", "guess", 400, -1022),
    ("no timestamp", "recvWindow=5000", "sim-key", "sim-secret", 400, -1102),
    ("a timestamp of words", "timestamp=now", "sim-key", "sim-secret", 400, -1102),
    ("1000 ms ahead is allowed", f"timestamp={NOW + 1000}", "sim-key", "sim-secret", 200, None),
    ("1001 ms ahead", f"timestamp={NOW + 1001}", "sim-key", "sim-secret", 400, -1021),
    ("5000 ms late is allowed", f"timestamp={NOW - 5000}", "sim-key", "sim-secret", 200, None),
    ("5001 ms late", f"timestamp={NOW - 5001}", "sim-key", "sim-secret", 400, -1021),
    ("501 ms late by its own window", f"timestamp={NOW - 501}&recvWindow=500", "sim-key", "sim-secret", 400, -1021),
    ("a window over a minute", f"timestamp={NOW}&recvWindow=60001", "sim-key", "sim-secret", 400, -1131),
]


def test_key_signature_and_time_are_checked_as_binance_does(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        for what, query, key, secret, status, code in TRANSPORT_RULES:
            signed = f"{query}&signature={client.sign(query, secret)}" if secret else query
            answer = await client.raw("GET", "/fapi/v3/balance", signed, key=key)
            assert answer[0] == status, what
            assert code is None or answer[1]["code"] == code, what

    run(story, tmp_path)


def test_refusals_carry_the_exact_texts(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        late, ahead = f"timestamp={NOW - 9999}", f"timestamp={NOW + 9999}"
        texts = [
            (await client.raw("GET", "/fapi/v3/balance", f"{query}&signature={client.sign(query)}"))[1]["msg"]
            for query in (late, ahead)
        ]
        assert texts == [
            "Timestamp for this request is outside of the recvWindow.",
            "Timestamp for this request was 1000ms ahead of the server's time.",
        ]
        unsigned = (await client.raw("GET", "/fapi/v3/balance", late))[1]["msg"]
        assert unsigned == "Mandatory parameter 'signature' was not sent, was empty/null, or malformed."
        timeless = await client.order(type="LIMIT", price="79000.0")
        assert timeless["msg"] == "Mandatory parameter 'timeinforce' was not sent, was empty/null, or malformed."
        nameless = await client.signed("GET", "/fapi/v1/order", symbol="BTCUSDT")
        told = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
        assert (nameless["code"], nameless["msg"]) == (-1102, told)

    run(story, tmp_path)


def test_a_signature_covers_raw_query_then_raw_body(tmp_path: Path) -> None:
    """ccxt sends a POST's parameters in the body, the official SDK in the query, others in both."""

    async def story(client: Client) -> None:
        first = "symbol=BTCUSDT&leverage=7"
        for query, body in [
            ("", f"{first}&timestamp={NOW}"),
            (f"{first}&timestamp={NOW}", ""),
            (first, f"timestamp={NOW}"),
        ]:
            signature = f"signature={client.sign(query + body)}"
            signed_body = await client.raw(
                "POST", "/fapi/v1/leverage", query, f"{body}&{signature}" if body else signature
            )
            assert signed_body[1]["leverage"] == 7, (query, body)
        body = f"symbol=BTCUSDT&timestamp={NOW}"
        deleted = await client.raw("DELETE", "/fapi/v1/allOpenOrders", "", f"{body}&signature={client.sign(body)}")
        assert deleted[1]["code"] == 200, "python-binance deletes with a body"
        both = await client.raw(
            "POST",
            "/fapi/v1/leverage",
            "leverage=9",
            f"leverage=3&symbol=BTCUSDT&timestamp={NOW}&signature="
            + client.sign(f"leverage=9leverage=3&symbol=BTCUSDT&timestamp={NOW}"),
        )
        assert both[1]["leverage"] == 9, "the query wins"

    run(story, tmp_path)


def test_an_unknown_path_is_refused_and_weight_is_told(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        status, body, _ = await client.raw("GET", "/fapi/v1/trades")
        assert (status, body["code"]) == (404, -5000)
        assert (await client.raw("DELETE", "/fapi/v1/time"))[1]["msg"] == "Path /fapi/v1/time, Method DELETE is invalid"
        _, _, headers = await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT")
        assert headers["X-MBX-USED-WEIGHT-1M"] == "22", "two refused requests of 1, and 20"
        text = f"symbol=BTCUSDT&side=BUY&type=MARKET&quantity=9999&timestamp={NOW}"
        _, _, headers = await client.raw("POST", "/fapi/v1/order", f"{text}&signature={client.sign(text)}")
        assert headers["X-MBX-ORDER-COUNT-10S"] == headers["X-MBX-ORDER-COUNT-1M"] == "1"

    run(story, tmp_path)


def test_only_loopback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loopback, was 0\.0\.0\.0"):
        asyncio.run(serve(Config(), flat_tape(), host="0.0.0.0", log_dir=tmp_path))


# --- refusals of orders -----------------------------------------------------------------------------------------------

ORDER_REFUSALS = [
    ({"symbol": "DOGEUSDT"}, -1121),
    ({"side": "HOLD"}, -1117),
    ({"type": "GUESS"}, -1116),
    ({"type": "STOP_MARKET", "stopPrice": "79000"}, -4120),
    ({"type": "TRAILING_STOP_MARKET"}, -4120),
    ({"positionSide": "LONG"}, -4061),
    ({"quantity": ""}, -1102),
    ({"quantity": "1e-2"}, -1100),
    ({"quantity": "0"}, -4003),
    ({"quantity": "0.0101"}, -1111),
    ({"quantity": "121"}, -4005),
    ({"quantity": "0.001"}, -4164),
    ({"quantity": "10"}, -2019),
    ({"reduceOnly": "true"}, -2022),
    ({"reduceOnly": "maybe"}, -1130),
    ({"price": "80000.0"}, -1106),
    ({"timeInForce": "GTC"}, -1106),
    ({"newClientOrderId": "no spaces"}, -4015),
    ({"newOrderRespType": "FULL"}, -1130),
    ({"type": "LIMIT", "timeInForce": "GTC"}, -1102),
    ({"type": "LIMIT", "price": "79000.0"}, -1102),
    ({"type": "LIMIT", "price": "79000.0", "timeInForce": "GTD", "goodTillDate": "1"}, -1130),
    ({"type": "LIMIT", "price": "79000.123", "timeInForce": "GTC"}, -1111),
    ({"type": "LIMIT", "price": "79000.05", "timeInForce": "GTC"}, -4014),
    ({"type": "LIMIT", "price": "90000.0", "timeInForce": "GTC"}, -4016),
    ({"type": "LIMIT", "price": "80100.0", "timeInForce": "GTX"}, -5022),
    ({"type": "LIMIT", "price": "79000.0", "timeInForce": "FOK"}, -5021),
    ({"type": "LIMIT", "price": "79000.0", "timeInForce": "GTC", "priceMatch": "OPPONENT"}, -1130),
]

ALGO_REFUSALS = [
    ({"symbol": "DOGEUSDT"}, -1121),
    ({"algoType": "TWAP"}, -1130),
    ({"type": "GUESS"}, -1116),
    ({"type": "TRAILING_STOP_MARKET", "callbackRate": "1"}, -1106),
    ({"triggerPrice": ""}, -1102),
    ({"triggerPrice": "81000.0"}, -2021),
    ({"type": "TAKE_PROFIT_MARKET"}, -2021),
    ({"triggerPrice": "79000.07"}, -4014),
    ({"closePosition": "true"}, -4137),
    ({"closePosition": "true", "quantity": "", "reduceOnly": "true"}, -1106),
    ({"reduceOnly": "true"}, -2022),
    ({"priceProtect": "maybe"}, -1130),
    ({"workingType": "INDEX"}, -1130),
]


def test_orders_are_refused_by_the_rule_they_break(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(110)
        for params, code in ORDER_REFUSALS:
            assert (await client.order(**params)).get("code") == code, params
            given = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010", **params}
            assert (await client.signed("POST", "/fapi/v1/order/test", **given)).get("code") == code, params
        for params, code in ALGO_REFUSALS:
            assert (await client.algo(**params)).get("code") == code, params
        good = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.010"}
        tested = await client.signed("POST", "/fapi/v1/order/test", **good)
        assert (tested["status"], tested["orderId"]) == ("NEW", 0)
        assert await client.signed("GET", "/fapi/v1/openOrders") == []
        assert await client.signed("GET", "/fapi/v1/openAlgoOrders") == []

    run(story, tmp_path)


def test_a_client_id_is_unique_among_open_orders_only(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(110)
        limit = {"type": "LIMIT", "price": "79000.0", "timeInForce": "GTC", "newClientOrderId": "vt-1"}
        assert (await client.order(**limit))["status"] == "NEW"
        assert (await client.order(**limit))["code"] == -4116
        cancelled = await client.signed("DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="vt-1")
        assert cancelled["status"] == "CANCELED"
        assert (await client.order(**limit))["status"] == "NEW"
        assert (await client.algo(clientAlgoId="vt-s"))["algoStatus"] == "NEW"
        assert (await client.algo(clientAlgoId="vt-s"))["code"] == -4116

    run(story, tmp_path)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        order, algo = {"symbol": "BTCUSDT", "origClientOrderId": "none"}, {"clientAlgoId": "none"}
        codes = [
            (await client.signed(method, f"/fapi/v1/{path}", **params))["code"]
            for method, path, params in [
                ("GET", "order", order),
                ("DELETE", "order", order),
                ("GET", "openOrder", order),
                ("GET", "algoOrder", algo),
                ("DELETE", "algoOrder", algo),
                ("GET", "order", {"symbol": "BTCUSDT"}),
            ]
        ]
        assert codes == [-2013, -2011, -2013, -2013, -2011, -1102]
        assert (await client.raw("PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125

    run(story, tmp_path)


def test_account_settings_are_refused_where_they_are_so_already(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        for path, params, code in [
            ("marginType", {"symbol": "BTCUSDT", "marginType": "ISOLATED"}, -4046),
            ("marginType", {"symbol": "BTCUSDT", "marginType": "BOTH"}, -1130),
            ("positionSide/dual", {"dualSidePosition": "False"}, -4059),
            ("leverage", {"symbol": "BTCUSDT", "leverage": 126}, -4028),
        ]:
            assert (await client.signed("POST", f"/fapi/v1/{path}", **params))["code"] == code, path

    run(story, tmp_path)


# --- lockstep ---------------------------------------------------------------------------------------------------------


def test_market_frames_come_before_the_answer_and_once(tmp_path: Path) -> None:
    """An order that comes in between shortens the horizon; what was sent before is not sent again."""
    rows = [trade(n, 800_000, sold=n % 2 == 1) for n in range(40)]

    async def story(client: Client) -> None:
        market = await client.socket("/market/stream?streams=btcusdt@aggTrade/btcusdt@markPrice@1s")
        user = await client.user_stream()
        first = await client.ask(op="go")
        # Marks fall on whole intervals: 10 s after START, before the trade of that time.
        assert first == {"trade_id": 109, "trades": 10, "mark": 1, "end": False, "arrival": None, "time": START - 1}
        sent = await frames(market, 11)
        assert [frame["data"].get("a") for frame in sent] == [*range(100, 110), None]
        assert sent[-1]["data"]["e"] == "markPriceUpdate"

        assert await client.ask(op="at", trade_id=102, marks=0, time=START + 2_500) == {
            "user": 0,
            "time": START + 2_500,
        }
        assert (await client.order(newClientOrderId="vt-1"))["status"] == "NEW"
        again = await client.ask(op="go")
        assert (again["trade_id"], again["mark"], again["trades"]) == (103, 0, 1), "up to its arrival"
        assert again["arrival"] == START + 3_500
        after = await client.ask(op="at", trade_id=103, marks=0, time=START + 3_499)
        assert after["user"] == 1, "it is NEW and no more"
        assert (await client.signed("GET", "/fapi/v1/order", symbol="BTCUSDT", orderId=1))["status"] == "NEW"
        filled = await client.ask(op="at", trade_id=103, marks=0, time=START + 3_500)
        assert filled["user"] == 4
        assert (await client.signed("GET", "/fapi/v1/order", symbol="BTCUSDT", orderId=1))["status"] == "FILLED"
        kinds = [(frame["e"], frame.get("o", {}).get("X")) for frame in await frames(user, 4)]
        told = [("ORDER_TRADE_UPDATE", "NEW"), ("TRADE_LITE", None), ("ORDER_TRADE_UPDATE", "FILLED")]
        assert kinds == [*told, ("ACCOUNT_UPDATE", None)]

        rest = await client.ask(op="go")
        assert (rest["trade_id"], rest["mark"], rest["trades"]) == (109, 1, 6)
        assert await is_silent(market), "all of it was sent before"

    run(story, tmp_path, Trades.from_rows("BTCUSDT", rows), mark_interval_s=10, latency_ms=1_000)


def test_a_market_order_is_filled_before_it_can_be_asked_about(tmp_path: Path) -> None:
    """As at Binance: the answer says NEW, GET order FILLED, and the events are still on their way."""

    async def story(client: Client) -> None:
        await client.play_to(110)
        assert (await client.order(newClientOrderId="vt-1"))["status"] == "NEW"
        found = await client.signed("GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="vt-1")
        assert (found["status"], found["executedQty"]) == ("FILLED", "0.010")
        (risk,) = await client.signed("GET", "/fapi/v3/positionRisk", symbol="BTCUSDT")
        assert risk["positionAmt"] == "0.010"

    run(story, tmp_path)


def test_a_step_that_can_not_be_done_changes_nothing(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        assert "not sent" in (await client.ask(op="at", trade_id=101, marks=0, time=START))["error"]
        await client.ask(op="go")
        await client.ask(op="at", trade_id=105, marks=0, time=START + 5_000)
        for step in [
            {"op": "at", "trade_id": 103, "marks": 0, "time": START},
            {"op": "at", "trade_id": 105, "marks": 2, "time": START},
            {"op": "at", "trade_id": "105", "marks": 0, "time": START},
            {"op": "fly"},
        ]:
            assert "error" in await client.ask(**step), step
        assert client.venue.player.trades_played == 6
        assert (await client.ask(op="at", trade_id=105, marks=0, time=START))["time"] == START + 5_000

    run(story, tmp_path)


def test_at_the_end_what_is_on_its_way_arrives(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(139)
        assert (await client.ask(op="go"))["end"] is True
        await client.order(newClientOrderId="late")
        assert (await client.ask(op="finish"))["user"] == 4
        *_, filled, _ = await frames(user, 4)
        assert (filled["o"]["X"], filled["o"]["L"]) == ("FILLED", "80000.0")

    run(story, tmp_path, latency_ms=50)


def test_no_future_is_shown_over_rest(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async def ids(query: str) -> list[int]:
            rows = (await client.raw("GET", "/fapi/v1/aggTrades", f"symbol=BTCUSDT&{query}"))[1]
            return [row["a"] for row in rows]

        assert await ids("fromId=100") == []
        await client.ask(op="go")  # ten trades are sent, none is played
        assert await ids("limit=3") == [107, 108, 109]
        assert await ids("fromId=104&limit=3") == [104, 105, 106]
        assert await ids("fromId=108&limit=1000") == [108, 109]
        assert await ids(f"startTime={START + 2_000}&endTime={START + 4_000}") == [102, 103, 104]
        assert await ids("fromId=110") == []
        _, rows, _ = await client.raw("GET", "/fapi/v1/klines", "symbol=BTCUSDT&interval=1m")
        # Ten trades of 1.000 BTC at 80,000.0, every other one bought by its taker.
        assert rows == [
            [
                *(START, "80000.0", "80000.0", "80000.0", "80000.0", "10.000"),
                *(START + 59_999, "800000.0000", 10, "5.000", "400000.0000", "0"),
            ]
        ]
        assert (await client.raw("GET", "/fapi/v1/klines", "symbol=BTCUSDT&interval=7m"))[1]["code"] == -1120

    run(story, tmp_path, mark_interval_s=10)


def test_the_listen_key_ends_after_an_hour_of_the_tape(tmp_path: Path) -> None:
    """Every trade is 10 minutes after the last."""
    tape = flat_tape(20, every_ms=600_000)

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)  # 30 minutes and 1 ms of the tape
        key = (await client.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        assert key == client.venue.streams.listen_key, "an active key is given again, and lives an hour from now"
        assert (await client.play_to(108))["user"] == 0
        assert (await client.play_to(109))["user"] == 1, "90 minutes"
        (event,) = await frames(user, 1)
        assert event == {"e": "listenKeyExpired", "E": START + 5_400_000, "listenKey": key}
        assert (await client.raw("PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125
        await client.order()
        await client.play_to(112)
        assert await is_silent(user), "after its end the socket stays open and silent"
        assert (await client.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"] != key

    run(story, tmp_path, tape, mark_interval_s=86_400)


# --- websockets -------------------------------------------------------------------------------------------------------


def test_market_streams_in_all_forms(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        named = await client.socket("/ws/btcusdt@aggTrade")
        numbered = await client.socket("/market/ws/17")
        combined = await client.socket("/market/stream")
        book = await client.socket("/public/stream?streams=btcusdt@bookTicker")
        for ws, identity in ((numbered, 1), (combined, "a-uuid")):
            await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": identity})
            assert await ws.receive_json(timeout=TIMEOUT) == {"result": None, "id": identity}
        await client.ask(op="go")
        raw = {"e": "aggTrade", "E": START, "s": "BTCUSDT", "a": 100, "p": "80000.0", "q": "1.000", "nq": "1.000"}
        raw |= {"f": 100, "l": 100, "T": START, "m": False, "st": 1}
        assert await frames(named, 1) == await frames(numbered, 1) == [raw]
        assert await frames(combined, 1) == [{"stream": "btcusdt@aggTrade", "data": raw}]
        (quote,) = await frames(book, 1)
        # The newest trade is a sale at 80,000.0, so the older ask stands a tick above.
        assert [quote["data"][name] for name in "bBaA"] == ["80000.0", "1.000", "80000.1", "1.000"]

    run(story, tmp_path)


def test_subscriptions_are_listed_ended_and_refused(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        ws = await client.socket("/market/ws")

        async def control(method: str, *params: str) -> Any:
            await ws.send_json({"method": method, "params": params, "id": 9})
            return await ws.receive_json(timeout=TIMEOUT)

        for name in ("btcusdt@bookTicker", "BTCUSDT@aggTrade", "btcusdt@depth"):
            refused = await control("SUBSCRIBE", "btcusdt@markPrice", name)
            assert (refused["error"]["code"], refused["id"]) == (2, 9), name
        await control("SUBSCRIBE", "btcusdt@markPrice", "btcusdt@aggTrade")
        assert (await control("LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@aggTrade", "btcusdt@markPrice"]
        await control("UNSUBSCRIBE", "btcusdt@aggTrade")
        assert (await control("LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@markPrice"]
        assert (await control("FLY"))["error"]["code"] == 2
        await ws.send_str("{")
        assert (await ws.receive_json(timeout=TIMEOUT))["error"]["code"] == 3

    run(story, tmp_path)


def test_user_data_in_all_forms_and_only_with_the_key(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        key = (await client.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        by_query = await client.socket(f"/private/ws?listenKey={key}")
        by_path = await client.socket(f"/private/ws/{key}")
        by_message = await client.socket("/private/stream")
        stranger = await client.socket("/private/ws?listenKey=guess")
        await by_message.send_json({"method": "SUBSCRIBE", "params": [key], "id": "1"})
        await by_message.receive_json(timeout=TIMEOUT)
        answer = await client.signed("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=8)
        assert answer == {"symbol": "BTCUSDT", "leverage": 8, "maxNotionalValue": "230000000"}
        event = {"e": "ACCOUNT_CONFIG_UPDATE", "E": NOW, "T": NOW, "ac": {"s": "BTCUSDT", "l": 8}}
        assert await frames(by_query, 1) == await frames(by_path, 1) == [event]
        assert await frames(by_message, 1) == [{"stream": key, "data": event}]
        assert await is_silent(stranger)
        await client.raw("DELETE", "/fapi/v1/listenKey")
        await client.signed("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=9)
        assert await is_silent(by_query)

    run(story, tmp_path)


def test_user_data_only_of_the_kinds_that_were_asked_for(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        key = (await client.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        some = await client.socket(f"/private/ws?listenKey={key}&events=ORDER_TRADE_UPDATE/ALGO_UPDATE")
        await client.play_to(103)
        await client.order()
        await client.play_to(106)
        assert [frame["e"] for frame in await frames(some, 2)] == ["ORDER_TRADE_UPDATE", "ORDER_TRADE_UPDATE"]
        assert await is_silent(some)

    run(story, tmp_path)


def test_a_chatty_client_is_cut_off(tmp_path: Path) -> None:
    """Ten messages a second; under load they may fall into two of the wall's seconds, so many are sent."""

    async def story(client: Client) -> None:
        ws = await client.socket("/market/ws")
        with suppress(ConnectionError):
            for _ in range(40):
                await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        answers = 0
        while (message := await ws.receive(timeout=TIMEOUT)).type is aiohttp.WSMsgType.TEXT:
            answers += 1
        assert 10 <= answers <= 30
        assert message.data == 1008

    run(story, tmp_path)


def test_connections_are_pinged_and_end_when_they_are_old_or_do_not_answer(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        streams = client.venue.streams
        lively, deaf = await client.socket("/market/ws"), await client.socket("/market/ws/btcusdt@aggTrade")
        for ws, socket in zip((lively, deaf), streams.sockets, strict=True):
            ws._autoping, begin = False, socket.opened
        streams.check_connections(begin + 179)
        assert await is_silent(lively)
        streams.check_connections(begin + 181)
        ping = await lively.receive(TIMEOUT)
        assert ping.type is aiohttp.WSMsgType.PING
        assert ping.data == str(int((begin + 181) * 1000)).encode()
        await lively.pong(ping.data)
        await lively.ping(b"are you there?")
        assert (await lively.receive(TIMEOUT)).data == b"are you there?"
        last_pong = streams.sockets[0].last_pong
        streams.sockets[0].last_pong = begin + 182  # as if the pong had come then
        assert last_pong >= begin
        streams.check_connections(begin + 601)
        await until(lambda: len(streams.sockets) == 1)
        streams.sockets[0].last_pong = begin + 86_000
        streams.check_connections(begin + 86_401)
        message = await lively.receive(TIMEOUT)
        while message.type is aiohttp.WSMsgType.PING:
            message = await lively.receive(TIMEOUT)
        assert message.data == 1001, "24 hours"

    run(story, tmp_path)


def test_klines_are_streamed_as_trades_come(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        ws = await client.socket("/market/ws/btcusdt@kline_1m")
        await client.play_to(139)
        events = [event["k"] for event in await frames(ws, 2)]
        assert [(k["t"], k["n"], k["x"], k["i"]) for k in events] == [
            (START, 20, False, "1m"),
            (START, 40, False, "1m"),
        ]

    run(story, tmp_path, mark_interval_s=20)


def test_a_kline_closes_by_the_clock_where_nothing_is_traded(tmp_path: Path) -> None:
    """The last trade is at second 39; the clock goes on without one."""

    async def story(client: Client) -> None:
        ws = await client.socket("/market/ws/btcusdt@kline_1m")
        await client.play_to(139)
        told = [(k["x"], k["n"], k["T"]) for k in (event["k"] for event in await frames(ws, 1))]
        assert told == [(False, 40, START + 59_999)]
        for time_ms, closed in ((START + 59_000, 0), (START + 60_000, 1), (START + 190_000, 2)):
            await client.ask(op="at", trade_id=139, marks=0, time=time_ms)
            events = [event["k"] for event in await frames(ws, closed)]
            assert [(k["x"], k["n"]) for k in events] == [(True, 40 if time_ms == START + 60_000 else 0)] * closed
            assert await is_silent(ws)
        rows = (await client.raw("GET", "/fapi/v1/klines", "symbol=BTCUSDT&interval=1m"))[1]
        assert [row[8] for row in rows] == [40, 0, 0, 0]

    run(story, tmp_path, mark_interval_s=86_400)


def test_a_margin_call_is_told_on_the_user_stream(tmp_path: Path) -> None:
    """0.010 at 80,000 with 160 of margin: at a mark of 64,500 there are 5 left, and 0.4% of 645 are 2.58: 52%."""

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(105)
        await client.order()
        sent = (await client.play_to(107))["user"]
        await frames(user, sent)
        for price, calls in (("64500", 0), ("64320", 1), ("64310", 0)):
            run_action(client.venue.exchange, "mark", {"symbol": "BTCUSDT", "price": price})
            told = (await client.ask(op="at", trade_id=107, marks=0, time=0))["user"] - sent
            assert told == calls, price
            sent += told
        (event,) = await frames(user, 1)
        # 2.5728 of maintenance, 3.2 of margin: 80.4%
        assert event == {
            **{"e": "MARGIN_CALL", "E": client.venue.now()},
            "p": [
                {"s": "BTCUSDT", "ps": "BOTH", "pa": "0.010", "mt": "ISOLATED", "iw": "160.00000000"}
                | {"mp": "64320.00000000", "up": "-156.80000000", "mm": "2.57280000"}
            ],
        }

    run(story, tmp_path, mark_interval_s=86_400, taker_fee=0.0)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_weight_is_counted_in_minutes_of_the_venues_clock_and_who_goes_on_is_banned(tmp_path: Path) -> None:
    """120 x 20 fills the minute; 20 more are refused in vain, the next brings the ban of two minutes."""
    tape = flat_tape(60, every_ms=10_000)

    async def story(client: Client) -> None:
        async def trades() -> tuple[int, str, str]:
            status, body, headers = await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT")
            assert status == 200 or body["code"] == -1003
            return status, headers.get("X-MBX-USED-WEIGHT-1M", ""), headers.get("Retry-After", "")

        await client.play_to(101)  # 10 s into the minute
        assert [await trades() for _ in range(120)][-1] == (200, "2400", "")
        assert await trades() == (429, "2420", "50")
        assert [(await trades())[0] for _ in range(20)] == [*[429] * 19, 418]
        status, _, retry_after = await trades()
        assert (status, retry_after) == (418, "120")
        body = (await client.raw("GET", "/fapi/v1/ping"))[1]
        assert f"banned until {client.venue.now() + 120_000}" in body["msg"]
        await client.play_to(114)  # 140 s: the ban is over, and the minute another
        assert await trades() == (200, "20", "")

    run(story, tmp_path, tape, mark_interval_s=86_400)


def test_orders_are_counted_in_ten_seconds_and_in_a_minute(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async def place(count: int) -> tuple[int, Any]:
            for _ in range(count):
                text = f"symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0&timestamp={client.venue.now()}"
                signed = f"{text}&signature={client.sign(text)}"
                status, body, headers = await client.raw("POST", "/fapi/v1/order", signed)
            counts = tuple(headers[f"X-MBX-ORDER-COUNT-{name}"] for name in ("10S", "1M") if status == 400)
            return status, counts or body["code"]

        await client.play_to(101)
        assert await place(300) == (400, ("300", "300"))
        assert await place(1) == (429, -1015)
        for trade_id, count in ((110, 600), (120, 900)):
            await client.play_to(trade_id)
            assert await place(300) == (400, ("300", str(count + 0)))
        await client.play_to(130)
        assert await place(299) == (400, ("299", "1199"))
        # A batch counts five of the ten seconds' orders and one of the minute's.
        batch = urlencode({"batchOrders": "[{}]", "timestamp": client.venue.now()})
        _, _, headers = await client.raw("POST", "/fapi/v1/batchOrders", f"{batch}&signature={client.sign(batch)}")
        assert headers.get("X-MBX-ORDER-COUNT-10S") == "304"

    run(story, tmp_path)


# --- tapes ------------------------------------------------------------------------------------------------------------


def eth_tape(count: int = 40) -> Trades:
    """ETHUSDT at 3,000.00, a trade each second, half a second after BTCUSDT's."""
    rows = [(500 + n, 300_000, 5_000, START + n * 1_000 + 500, n % 2 == 1) for n in range(count)]
    return Trades.from_rows("ETHUSDT", rows)


def test_several_symbols_trade_on_one_account(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        both = await client.socket("/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade")
        await client.play_to(110)
        sent = [frame["data"] for frame in await frames(both, 50)]
        assert [event["a"] for event in sent if event["s"] == "BTCUSDT"] == list(range(100, 140))
        assert [event["a"] for event in sent if event["s"] == "ETHUSDT"] == list(range(500, 510)), "as far as 110 was"
        for symbol, quantity in (("BTCUSDT", "0.010"), ("ETHUSDT", "0.200")):
            assert (await client.order(symbol=symbol, quantity=quantity))["status"] == "NEW"
        await client.play_to(115)
        risks = await client.signed("GET", "/fapi/v3/positionRisk")
        assert [(risk["symbol"], risk["positionAmt"], risk["entryPrice"]) for risk in risks] == [
            ("BTCUSDT", "0.010", "80000"),
            ("ETHUSDT", "0.200", "3000"),
        ]
        prices = (await client.raw("GET", "/fapi/v2/ticker/price"))[1]
        assert [row["price"] for row in prices] == ["80000.0", "3000.00"]
        info = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]
        assert [row["symbol"] for row in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
        # 10,000 - 5 bps of 800 and of 600
        assert (await client.signed("GET", "/fapi/v3/account"))["totalWalletBalance"] == "9999.30000000"

    run(story, tmp_path, flat_tape(), eth_tape(), mark_interval_s=86_400)


def test_a_tape_that_begins_later_does_not_set_the_clock_ahead(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        assert client.venue.now() == START - 1
        await client.play_to(105)
        assert (await client.order())["updateTime"] == START + 5_000
        await client.play_to(107)
        assert (await client.signed("GET", "/fapi/v3/positionRisk"))[0]["positionAmt"] == "0.010"

    run(story, tmp_path, flat_tape(), eth_tape()[20:], mark_interval_s=86_400)


def test_the_venue_opens_with_history_behind_it(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        assert client.venue.now() == START + 20_000 - 1
        rows = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&limit=1000"))[1]
        assert [row["a"] for row in rows] == list(range(100, 120))
        assert (await client.ask(op="hello", trade_id=0, marks=0))["trade_id"] == 119
        market = await client.socket("/market/ws/btcusdt@aggTrade")
        await client.play_to(121)
        assert [event["a"] for event in await frames(market, 2)] == [120, 121]

    run(story, tmp_path, options={"begin_s": 20.0}, mark_interval_s=86_400)


def test_at_speed_1_the_history_ends_now(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        rows = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&limit=1000"))[1]
        assert len(rows) >= 30
        assert rows[0]["T"] == pytest.approx(time.time() * 1000 - 30_000, abs=5_000)

    run(story, tmp_path, flat_tape(100), speed=1.0, begin_s=30.0)


def test_a_history_beyond_the_tape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"begin_s: must lie within the tape of BTCUSDT, was 3600"):
        asyncio.run(serve(Config(), flat_tape(), log_dir=tmp_path, begin_s=3_600.0))


def test_a_venue_comes_back_from_its_log(tmp_path: Path) -> None:
    """The same account, orders and place on the tape; the first venue is not even closed in good order."""
    before: dict[str, Any] = {}

    async def account_of(client: Client) -> dict[str, Any]:
        paths = ("v3/account", "v3/positionRisk", "v1/openOrders", "v1/openAlgoOrders", "v1/userTrades", "v1/income")
        answers = {path: await client.signed("GET", f"/fapi/{path}", symbol="BTCUSDT") for path in paths}
        return answers | {"time": client.venue.now(), "instance": client.venue.instance}

    async def first(client: Client) -> None:
        await client.play_to(105)
        await client.order(newClientOrderId="in")
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests")
        await client.play_to(108)
        await client.algo(clientAlgoId="stop")
        await client.algo(clientAlgoId="trail", type="TRAILING_STOP_MARKET", triggerPrice="", callbackRate="1")
        await client.signed("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=9)
        before.update(await account_of(client))

    async def second(client: Client) -> None:
        assert await account_of(client) == before
        hello = await client.ask(op="hello", trade_id=108, marks=0)
        assert hello["trade_id"] == 108
        await client.play_to(115)
        gone = await client.signed("DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="rests")
        assert gone["status"] == "CANCELED"
        assert (await client.order(newClientOrderId="more"))["orderId"] == 3

    for story in (first, second):
        run(story, tmp_path, mark_interval_s=86_400)


def test_a_venue_comes_back_further_on_than_its_log_says(tmp_path: Path) -> None:
    """Marks and trades that nobody reacted to are not logged; an engine says how far it has come."""
    before: list[Any] = []

    async def first(client: Client) -> None:
        await client.play_to(105)
        await client.order(newClientOrderId="in")
        await client.play_to(138)
        before.append((client.venue.player.marks_played, await client.signed("GET", "/fapi/v3/positionRisk")))

    async def second(client: Client) -> None:
        assert client.venue.player.marks_played < before[0][0]
        hello = await client.ask(op="hello", trade_id=138, marks=before[0][0])
        assert (hello["trade_id"], hello["marks"]) == (138, before[0][0])
        assert (client.venue.player.marks_played, await client.signed("GET", "/fapi/v3/positionRisk")) == before[0]
        assert "not what comes next" in (await client.ask(op="hello", trade_id=138, marks=99))["error"]
        await client.play_to(139)

    for story in (first, second):
        run(story, tmp_path, mark_interval_s=5)


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        with pytest.raises(DataError, match=r"log: .*truth.jsonl is being written by another process"):
            await serve(Config(), flat_tape(), log_dir=tmp_path)

    run(story, tmp_path)


def test_a_log_of_another_venue_is_refused(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(101)

    run(story, tmp_path)
    with pytest.raises(DataError, match=r"log: must be of a venue of ETHUSDT, was of \['BTCUSDT'\]"):
        run(story, tmp_path, eth_tape())


def test_at_speed_1_the_market_went_on_while_the_venue_was_away(tmp_path: Path) -> None:
    tape, times = flat_tape(4_000, every_ms=10), []

    async def story(client: Client) -> None:
        rows = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&limit=1"))[1]
        times.append((client.venue.player.first_time, rows[0]["a"], time.time()))
        if len(times) == 1:
            await client.order(newClientOrderId="in")

    for _ in range(2):
        run(story, tmp_path, tape, speed=1.0)
    (first, before, then), (second, after, now) = times
    assert first == second, "the tape stays where it was put"
    assert after - before == pytest.approx((now - then) * 100, abs=30)


def test_keys_of_ones_own(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        query = f"timestamp={NOW}"
        own = f"{query}&signature={client.sign(query, 'own-secret')}"
        assert (await client.raw("GET", "/fapi/v3/balance", own, key="own-key"))[0] == 200
        assert (await client.raw("GET", "/fapi/v3/balance", own))[1]["code"] == -2015

    run(story, tmp_path, options={"api_key": "own-key", "api_secret": "own-secret"})


# --- orders of several kinds ------------------------------------------------------------------------------------------


def test_an_order_is_modified_and_loses_its_place(tmp_path: Path) -> None:
    rows = [trade(n, 800_000, sold=n % 2 == 1) for n in range(10)] + [
        trade(10, 789_000, 6, sold=True),
        trade(11, 800_000),
    ]

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(105)
        for name in ("first", "second"):
            await client.order(
                type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId=name, quantity="0.005"
            )
        ids = {"symbol": "BTCUSDT", "side": "BUY", "origClientOrderId": "first"}
        changed = await client.signed("PUT", "/fapi/v1/order", **ids, quantity="0.007", price="79100.0", modifyId=7)
        assert (changed["origQty"], changed["price"], changed["status"]) == ("0.007", "79100.0", "NEW")
        sent = (await client.play_to(111))["user"]
        events = [event["o"] for event in await frames(user, sent) if event["e"] == "ORDER_TRADE_UPDATE"]
        amended = [(o["c"], o["X"], o["M"]) for o in events if o["x"] == "AMENDMENT"]
        assert amended == [("first", "NEW", 7)]
        assert [o["x"] for o in events if "M" in o] == ["AMENDMENT"]
        fills = [(o["c"], o["l"], o["L"]) for o in events if o["x"] == "TRADE"]
        assert fills == [("second", "0.005", "79000.0"), ("first", "0.001", "79100.0")]
        gone = await client.signed("PUT", "/fapi/v1/order", **ids, quantity="0.001", price="79200.0")
        assert gone["status"] == "CANCELED", "no more than has filled already"

    run(story, tmp_path, Trades.from_rows("BTCUSDT", rows), mark_interval_s=86_400)


def test_orders_in_batches_are_answered_each_for_itself(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        good = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "quantity": "0.010", "price": "79000.0"}
        rows = [good | {"timeInForce": "GTC", "newClientOrderId": "a"}, good, {**good, "symbol": "NOPEUSDT"}]
        placed = await client.signed("POST", "/fapi/v1/batchOrders", batchOrders=json.dumps(rows))
        assert [row.get("status") or row["code"] for row in placed] == ["NEW", -1102, -1121]
        for name, value in (("orderIdList", "[1,7]"), ("origClientOrderIdList", '["a"]')):
            gone = await client.signed("DELETE", "/fapi/v1/batchOrders", symbol="BTCUSDT", **{name: value})
            assert gone[-1]["code"] == -2011
        assert (await client.signed("DELETE", "/fapi/v1/batchOrders", symbol="BTCUSDT"))["code"] == -1102

    run(story, tmp_path)


def test_a_countdown_cancels_unless_it_is_begun_again(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async def count_down(milliseconds: int) -> Any:
            given = {"symbol": "BTCUSDT", "countdownTime": milliseconds}
            return await client.signed("POST", "/fapi/v1/countdownCancelAll", **given)

        async def is_open() -> bool:
            return bool(await client.signed("GET", "/fapi/v1/openOrders", symbol="BTCUSDT"))

        await client.play_to(105)
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC")
        await client.algo(clientAlgoId="stays")
        assert await count_down(5_000) == {"symbol": "BTCUSDT", "countdownTime": "5000"}
        await client.play_to(108)
        await count_down(5_000)
        await client.play_to(112)
        assert await is_open()
        await client.play_to(114)
        assert not await is_open()
        assert len(await client.signed("GET", "/fapi/v1/openAlgoOrders")) == 1, "conditional orders stay"

    run(story, tmp_path, mark_interval_s=86_400)


# --- ccxt -------------------------------------------------------------------------------------------------------------


def a_ccxt(venue: Venue) -> Any:
    """The released ccxt.pro with its addresses changed, and nothing else to call."""

    class OnTapeTime(ccxt.pro.binanceusdm):  # type: ignore[misc]
        def nonce(self) -> int:
            return venue.now()

    exchange = OnTapeTime(
        {
            "apiKey": "sim-key",
            "secret": "sim-secret",
            "enableRateLimit": False,
            "timeout": 5000,
            "options": {
                "fetchCurrencies": False,
                "watchTrades": {"name": "aggTrade"},
                "watchPositions": {"fetchPositionsSnapshot": False},
                "fetchOpenOrders": {"warnWithoutSymbol": False},
            },
        }
    )
    versions = {"fapiPublic": "v1", "fapiPublicV2": "v2", "fapiPublicV3": "v3"}
    versions |= {name.replace("Public", "Private"): version for name, version in versions.items()}
    paths = {name: f"{venue.rest_url}/fapi/{version}" for name, version in versions.items()}
    exchange.urls["api"] = {**paths, "ws": {"linear": f"{venue.ws_url}/ws"}}
    return exchange


BTC = "BTC/USDT:USDT"


def test_ccxt_trades_a_round_trip_with_stop_and_take_profit(tmp_path: Path) -> None:
    """Buy 0.010 at 80,000; the stop at 79,500 is hit by a trade at 79,490 and fills there; fees are 5 bps."""
    rows = [trade(n, 800_000, sold=n % 2 == 1) for n in range(10)]
    rows += [trade(10, 799_000, sold=True), trade(11, 794_900, sold=True), trade(12, 794_900), trade(13, 795_000)]

    async def story(client: Client) -> None:
        exchange = a_ccxt(client.venue)
        try:
            await exchange.load_markets()
            market = exchange.market(BTC)
            assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
            assert market["limits"]["market"]["max"] == 120.0
            assert (await exchange.fetch_balance())["USDT"]["free"] == 10_000.0
            assert await exchange.fetch_positions() == []
            assert (await exchange.set_leverage(4, BTC))["leverage"] == 4
            assert (await exchange.fetch_leverages())[BTC]["longLeverage"] == 4
            with pytest.raises(ccxt.MarginModeAlreadySet):
                await exchange.set_margin_mode("isolated", BTC)
            await exchange.set_margin_mode("cross", BTC)
            assert (await exchange.fetch_position_mode())["hedged"] is False
            assert (await exchange.fetch_trading_fee(BTC))["taker"] == 0.0005

            updates = asyncio.ensure_future(exchange.watch_orders())
            trades = asyncio.ensure_future(exchange.watch_trades(BTC))
            streams = client.venue.streams
            await until(lambda: len(streams.sockets) == 2 and "aggTrade" in streams.kinds("BTCUSDT"))
            await client.play_to(105)
            assert (await asyncio.wait_for(trades, TIMEOUT))[0]["price"] == 80_000.0
            entry = {"clientOrderId": "vt-1e", "newOrderRespType": "ACK"}
            order = await exchange.create_order(BTC, "market", "buy", 0.01, None, entry)
            assert (order["status"], order["filled"]) == ("open", 0.0)
            assert (await asyncio.wait_for(updates, TIMEOUT))[0]["clientOrderId"] == "vt-1e"
            await client.play_to(106)
            order = await exchange.fetch_order("", BTC, {"origClientOrderId": "vt-1e"})
            assert (order["status"], order["average"], order["filled"]) == ("closed", 80_000.0, 0.01)

            (position,) = await exchange.fetch_positions()
            assert (position["contracts"], position["side"], position["entryPrice"]) == (0.01, "long", 80_000.0)
            reduce = {"reduceOnly": True}
            stop = {"stopLossPrice": 79_500, "clientOrderId": "vt-1s", **reduce}
            await exchange.create_order(BTC, "market", "sell", 0.01, None, stop)
            profit = {"takeProfitPrice": 82_000, "clientOrderId": "vt-1t", **reduce}
            await exchange.create_order(BTC, "market", "sell", 0.01, None, profit)
            held = await exchange.fetch_open_orders(BTC, None, None, {"trigger": True})
            assert sorted(row["clientOrderId"] for row in held) == ["vt-1s", "vt-1t"]

            await client.play_to(113)
            stopped = await exchange.fetch_order("", BTC, {"clientAlgoId": "vt-1s", "trigger": True})
            assert stopped["info"]["algoStatus"] == "FINISHED"
            assert (stopped["info"]["actualQty"], stopped["info"]["actualPrice"]) == ("0.010", "79490.000000")
            await exchange.cancel_order("", BTC, {"clientAlgoId": "vt-1t", "trigger": True})
            with pytest.raises(ccxt.OrderNotFound):
                await exchange.cancel_order("", BTC, {"clientAlgoId": "vt-1t", "trigger": True})

            fills = await exchange.fetch_my_trades(BTC)
            assert [(fill["side"], fill["price"], fill["fee"]["cost"]) for fill in fills] == [
                ("buy", 80_000.0, 0.4),
                ("sell", 79_490.0, 0.39745),
            ]
            # 10,000 - 0.01 x 510 - 0.4 - 0.39745
            assert (await exchange.fetch_balance())["USDT"]["total"] == 9_994.10255
            assert await exchange.fetch_positions() == []
            assert [row["a"] for row in await exchange.fapiPublicGetAggTrades({"symbol": "BTCUSDT"})][-1] == 113
        finally:
            await exchange.close()

    run(story, tmp_path, Trades.from_rows("BTCUSDT", rows))


def test_the_stop_tells_its_life_on_the_user_stream(tmp_path: Path) -> None:
    rows = [trade(n, 800_000, sold=n % 2 == 1) for n in range(10)] + [
        trade(10, 794_000, 3, sold=True),
        trade(11, 793_000, sold=True),
    ]

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(105)
        await client.order(newClientOrderId="vt-1e")
        await client.play_to(107)
        await client.algo(clientAlgoId="vt-1s", triggerPrice="79500.0", reduceOnly="true")
        sent = (await client.play_to(111))["user"]
        events = await frames(user, sent)
        told = [
            (event["e"], event["o"].get("caid") or event["o"]["c"], event["o"]["X"], event["o"].get("z"))
            for event in events
            if "o" in event
        ]
        algo, order = "ALGO_UPDATE", "ORDER_TRADE_UPDATE"
        assert told == [
            (order, "vt-1e", "NEW", "0"),
            (order, "vt-1e", "FILLED", "0.010"),
            (algo, "vt-1s", "NEW", None),
            (algo, "vt-1s", "TRIGGERING", None),
            (algo, "vt-1s", "TRIGGERED", None),
            (order, "vt-1s", "NEW", "0"),
            (order, "vt-1s", "PARTIALLY_FILLED", "0.003"),
            (order, "vt-1s", "FILLED", "0.010"),
            (algo, "vt-1s", "FINISHED", None),
        ]
        finished = events[-1]["o"] if "o" in events[-1] else events[-2]["o"]
        # 0.003 at 79,400 and 0.007 at 79,300 are 79,330 on average
        assert (finished["aq"], finished["ap"]) == ("0.010", "79330.000000")

    run(story, tmp_path, Trades.from_rows("BTCUSDT", rows))


# --- by the wall ------------------------------------------------------------------------------------------------------


def test_at_speed_1_the_tape_begins_now_and_orders_are_answered_when_done(tmp_path: Path) -> None:
    tape = flat_tape(400, every_ms=10)

    async def story(client: Client) -> None:
        before = time.time_ns() // 1_000_000
        market = await client.socket("/market/ws/btcusdt@aggTrade")
        (first,) = await frames(market, 1)
        assert abs(first["T"] - before) < 2_000, "shifted to the wall clock"
        assert abs((await client.raw("GET", "/fapi/v1/time"))[1]["serverTime"] - before) < 2_000
        answer = await client.order(newOrderRespType="RESULT")
        assert (answer["status"], answer["executedQty"]) == ("FILLED", "0.010")
        assert (await client.order(newOrderRespType="ACK", side="SELL"))["status"] == "NEW"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.socket("/voltrade/lockstep")

    run(story, tmp_path, tape, speed=1.0)


# --- truth, and the command -------------------------------------------------------------------------------------------


def test_the_truth_is_on_disk_before_the_answer_and_holds_no_secret(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(110)
        await client.order(newClientOrderId="vt-7")
        rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
        request = rows[-1]
        assert (request["kind"], request["path"], request["newClientOrderId"], request["status"], request["code"]) == (
            "request",
            "/fapi/v1/order",
            "vt-7",
            200,
            0,
        )
        assert any(row["kind"] == "order" and row["client_order_id"] == "vt-7" for row in rows)
        await client.order(newClientOrderId="vt-7")
        await client.play_to(112)
        text = (tmp_path / "truth.jsonl").read_text()
        assert json.loads(text.splitlines()[-1])["kind"] == "account"
        requests = [row for row in map(json.loads, text.splitlines()) if row["kind"] == "request"]
        assert [row["code"] for row in requests] == [0, -4116]
        for secret in ("sim-key", "sim-secret", "signature"):
            assert secret not in text

    run(story, tmp_path, latency_ms=1)


COMMAND = [sys.executable, "-m", "voltrade", "venue"]


def test_the_command_prints_its_addresses_and_ends_on_sigterm(tmp_path: Path) -> None:
    parameters = tmp_path / "parameters.json"
    parameters.write_text('{"hours": 0.05, "seed": 3, "wallet": 500}')
    flags = ["--parameters", str(parameters), "--log", str(tmp_path / "log"), "--wallet", "750.5"]
    with subprocess.Popen([*COMMAND, *flags], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        assert ready["rest"].startswith("http://127.0.0.1:")
        assert ready["ws"] == ready["rest"].replace("http", "ws")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    start = json.loads((tmp_path / "log" / "truth.jsonl").read_text().splitlines()[1])
    assert start["wallet"] == "750.50000000", "a flag wins over the file"


def test_the_venue_stops_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def story() -> None:
        running = asyncio.ensure_future(run_venue(Config(), flat_tape(), log_dir=tmp_path))
        await until(lambda: running.done() or (tmp_path / "truth.jsonl").exists())
        await until(lambda: printed.append(capsys.readouterr().out) or "".join(printed))
        async with aiohttp.ClientSession() as http:
            url = json.loads("".join(printed))["rest"]
            async with http.post(f"{url}/voltrade/stop") as response:
                assert await response.json() == {"stopping": True}
            await asyncio.wait_for(running, TIMEOUT)

    printed: list[str] = []
    asyncio.run(story())


def test_a_venue_that_nobody_uses_ends(tmp_path: Path) -> None:
    """Sockets keep it up, of the market or of the side channel, and so does every request."""

    async def story() -> None:
        venue = await serve(Config(), flat_tape(), log_dir=tmp_path)
        ended = asyncio.create_task(venue.until_stopped(0.4))
        async with aiohttp.ClientSession() as http:
            client = Client(venue, http)
            for path in ("/market/ws", "/voltrade/lockstep"):
                socket = await client.socket(path)
                await asyncio.sleep(0.8)
                assert not ended.done(), path
                await socket.close()
            for _ in range(8):
                await asyncio.sleep(0.1)
                await client.raw("GET", "/fapi/v1/ping")
            assert not ended.done()
            last = time.monotonic()
            await asyncio.wait_for(ended, TIMEOUT)
            assert time.monotonic() - last > 0.3
            assert not venue.stopping.is_set(), "it ends by itself"
        await venue.close()

    asyncio.run(story())


def test_without_a_limit_a_venue_waits_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        venue = await serve(Config(), flat_tape(), log_dir=tmp_path)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(venue.until_stopped(0), 0.3)
        await venue.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [(["--speed", "1"], 1), (["--speed", "1", "--mark-interval-s", "7"], 7), ([], 60), (["--speed", "0"], 60)],
)
def test_at_speed_1_the_command_tells_a_mark_price_each_second(flags: list[str], seconds: int) -> None:
    assert _config(_parser().parse_args(flags)).execution.mark_interval_s == seconds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--symbol", "NOPE"], "NOPE"),
        (["--wallet", "-1"], "wallet"),
        (["--speed", "3"], "speed: must be 0 (lockstep) or 1 (wall clock)"),
        (["--tape", "missing.csv"], "missing.csv"),
    ],
)
def test_the_command_refuses_wrong_parameters(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hours", "0.05", "--log", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
