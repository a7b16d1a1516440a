"""What a running script does beyond single strikes: the past, order, limits, a restart, and faults that are added."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.venue_client import TIMEOUT, Client, a_client, flat_tape, frames, is_silent, run
from venue.test_faults import ORDER, exists, faults, rows_of

REAL_TIME = flat_tape(400, every_ms=10)

# --- reads that lag behind --------------------------------------------------------------------------------------------

LISTS: list[tuple[str, str, dict[str, str]]] = [
    ("openOrders", "/fapi/v1/openOrders", {"symbol": "BTCUSDT"}),
    ("openAlgoOrders", "/fapi/v1/openAlgoOrders", {"symbol": "BTCUSDT"}),
    ("positionRisk", "/fapi/v3/positionRisk", {}),
    ("userTrades", "/fapi/v1/userTrades", {"symbol": "BTCUSDT"}),
    ("account", "/fapi/v3/account", {}),
    ("order", "/fapi/v1/order", {"symbol": "BTCUSDT", "origClientOrderId": "rests"}),
]


@pytest.mark.parametrize(("name", "path", "query"), LISTS, ids=[name for name, *_ in LISTS])
def test_each_read_answers_as_it_was_some_seconds_ago(
    name: str, path: str, query: dict[str, str], tmp_path: Path
) -> None:
    async def story(client: Client) -> None:
        await client.play_to(103)
        before = await client.signed("GET", path, **query)
        await client.order(newClientOrderId="entry")
        await client.algo()
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests")
        await client.play_to(107)
        assert await client.signed("GET", path, **query) == before
        await client.play_to(115)
        after = await client.signed("GET", path, **query)
        assert after != before
        if name == "account":
            assert [row["positionAmt"] for row in after["positions"]] == ["0.010"]
        (row, *_) = rows_of(tmp_path, "fault")
        assert (row["do"], row["struck"]) == ("stale", f"GET {path}")

    run(story, tmp_path, options=faults({"do": "stale", "on": f"GET {path}$", "for_s": 6, "times": 0}))


def test_a_read_that_lags_changes_nothing_at_the_exchange(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(103)
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests")
        assert not await exists(client, "rests")
        gone = await client.signed("DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="rests")
        assert gone["status"] == "CANCELED", "what is asked for is done to the exchange as it is"

    run(story, tmp_path, options=faults({"do": "stale", "for_s": 60, "times": 0}))


def test_an_answer_is_altered_inside_its_rows(tmp_path: Path) -> None:
    lines = [{"do": "alter_answer", "on": "positionRisk", "with": {"0.positionAmt": "0.000"}, "without": ["0.adl"]}]
    lines += [{"do": "alter_answer", "on": "positionRisk", "with": {"": []}}]

    async def story(client: Client) -> None:
        await client.play_to(103)
        await client.order()
        await client.play_to(106)
        answers = [await client.signed("GET", "/fapi/v3/positionRisk") for _ in range(3)]
        assert (answers[0][0]["positionAmt"], "adl" in answers[0][0]) == ("0.000", False)
        assert (answers[1], answers[2][0]["positionAmt"]) == ([], "0.010")

    run(story, tmp_path, options=faults(*lines))


# --- orders that arrive late ------------------------------------------------------------------------------------------


def test_an_order_that_waits_too_long_on_its_way_is_refused_by_the_matching_engine(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        assert (await client.order(recvWindow=100))["code"] == -5028
        assert (await client.order(recvWindow=5_000))["status"] == "NEW"

    script = faults({"do": "delay_request", "on": ORDER, "for_s": 0.3, "times": 0})
    run(story, tmp_path, REAL_TIME, options=script, speed=1.0)


@pytest.mark.parametrize("recheck", [False, True])
def test_a_late_order_beyond_its_window_stands_unless_the_window_is_checked_again(
    recheck: bool, tmp_path: Path
) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        await client.order(newClientOrderId="late", recvWindow=2_000)
        await client.play_to(115)
        assert await exists(client, "late") is not recheck

    line = {"do": "late", "on": ORDER, "for_s": 5, "with": {"recheck": recheck}}
    run(story, tmp_path, options=faults(line))


# --- streams ----------------------------------------------------------------------------------------------------------


def kinds(events: list[Any]) -> list[str]:
    return [event["o"]["X"] if "o" in event else event["e"] for event in events]


def test_a_late_stream_keeps_its_order(tmp_path: Path) -> None:
    """The fault strikes only what is told of the first order; what follows waits behind it all the same."""

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order()
        assert (await client.play_to(106))["user"] == 0
        sent = (await client.play_to(110))["user"]
        assert kinds(await frames(user, sent)) == ["NEW", "TRADE_LITE", "FILLED", "ACCOUNT_UPDATE"]
        await client.order()
        assert (await client.play_to(113))["user"] == 2 * sent, "it is over"

    run(story, tmp_path, options=faults({"do": "lag", "on": "user ORDER_TRADE_UPDATE NEW", "for_s": 5}))


def test_an_event_comes_after_several_others(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order()
        sent = (await client.play_to(105))["user"]
        assert kinds(await frames(user, sent)) == ["TRADE_LITE", "FILLED", "ACCOUNT_UPDATE", "NEW"]

    run(story, tmp_path, options=faults({"do": "reorder", "on": "NEW", "with": {"by": 3}}))


def test_an_event_is_altered_inside_and_lacks_a_field(tmp_path: Path) -> None:
    script = faults({"do": "alter", "on": "FILLED", "with": {"o.c": "other"}, "without": ["o.z"]})

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.order(newClientOrderId="mine")
        [filled] = [event for event in await frames(user, 3) if event.get("o", {}).get("X") == "FILLED"]
        assert (filled["o"]["c"], "z" in filled["o"], filled["o"]["q"]) == ("other", False, "0.010")

    run(story, tmp_path, REAL_TIME, options=script, speed=1.0)


@pytest.mark.parametrize("how", ["text", "binary", "huge"])
def test_an_event_is_spoilt(how: str, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.order()
        message = await user.receive(TIMEOUT)
        if how == "binary":
            assert (message.type, json.loads(message.data)["e"]) == (aiohttp.WSMsgType.BINARY, "ORDER_TRADE_UPDATE")
        elif how == "text":
            assert message.data == "service unavailable"
        else:
            assert user.close_code == 1009, "aiohttp takes 4 MB"

    script = faults({"do": "garble", "on": "user", "with": {"as": how}})
    run(story, tmp_path, REAL_TIME, options=script, speed=1.0)


async def put_key(client: Client) -> Any:
    return (await client.raw("PUT", "/fapi/v1/listenKey"))[1]


def test_another_client_closes_the_listen_key_without_a_word(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(105)
        assert await is_silent(user)
        assert (await put_key(client))["code"] == -1125

    run(story, tmp_path, options=faults({"do": "expire_listen_key", "at_s": 3, "with": {"told": False}}))


def test_another_listen_key_is_the_accounts(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        old = (await client.raw("POST", "/fapi/v1/listenKey"))[1]["listenKey"]
        user = await client.socket(f"/private/ws/{old}")
        await client.play_to(105)
        new = (await put_key(client))["listenKey"]
        assert new != old
        other = await client.socket(f"/private/ws/{new}")
        await client.order()
        sent = (await client.play_to(107))["user"]
        assert sent == len(await frames(other, 4))
        assert await is_silent(user)

    run(story, tmp_path, options=faults({"do": "new_listen_key", "at_s": 3}))


def test_nobody_can_be_reached_for_a_while(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(104)
        assert (await user.receive(TIMEOUT)).type is not aiohttp.WSMsgType.TEXT
        with pytest.raises(aiohttp.ClientError):
            await client.raw("GET", "/fapi/v1/ping")
        again = await client.socket("/public/ws/btcusdt@bookTicker")
        assert (await again.receive(TIMEOUT)).type is not aiohttp.WSMsgType.TEXT
        await client.play_to(115)
        assert (await client.raw("GET", "/fapi/v1/ping"))[0] == 200

    run(story, tmp_path, options=faults({"do": "unreachable", "on": "private", "at_s": 3, "for_s": 5}))


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_ban_without_its_end_grows_with_what_is_sent_into_it(tmp_path: Path) -> None:
    """20 requests into it are borne; the next makes it two minutes longer."""
    line = {"do": "ban", "code": 418, "for_s": 10, "at_s": 1, "with": {"retry_after": False}}

    async def story(client: Client) -> None:
        await client.play_to(102)
        said = [await client.raw("GET", "/fapi/v1/ping") for _ in range(20)]
        assert {(status, "Retry-After" in headers) for status, _, headers in said} == {(418, False)}
        first = said[-1][1]["msg"]
        assert first == said[0][1]["msg"]
        assert (await client.raw("GET", "/fapi/v1/ping"))[1]["msg"] != first
        await client.play_to(118)
        assert (await client.raw("GET", "/fapi/v1/ping"))[0] == 418

    run(story, tmp_path, options=faults(line))


def test_others_use_the_weight_of_the_address_and_demo_has_more_of_it(tmp_path: Path) -> None:
    lines = [{"do": "weight_limit", "at_s": 1, "with": {"weight": 6_000}}]
    lines += [{"do": "spend_weight", "at_s": 2, "with": {"weight": 5_990}}]

    async def story(client: Client) -> None:
        await client.play_to(105)
        status, info, headers = await client.raw("GET", "/fapi/v1/exchangeInfo")
        assert (status, info["rateLimits"][0]["limit"], headers["X-MBX-USED-WEIGHT-1M"]) == (200, 6_000, "5991")
        assert (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT"))[0] == 429

    run(story, tmp_path, options=faults(*lines))


# --- a script that goes on --------------------------------------------------------------------------------------------


def test_a_venue_that_is_started_again_goes_on_with_its_script(tmp_path: Path) -> None:
    """One of two strikes is spent; the hand has sold already; the clock is ahead for a while yet; at_s counts on."""
    lines = [
        {"do": "refuse", "code": -1001, "on": "ping", "times": 2},
        {"do": "order", "at_s": 2, "with": {"symbol": "BTCUSDT", "side": "SELL", "quantity": "0.002"}},
        {"do": "skew_clock", "at_s": 3, "for_s": 60, "with": {"ms": 3_000}},
        {"do": "deposit", "at_s": 12, "with": {"amount": 7}},
    ]

    async def asked(client: Client, count: int) -> list[int]:
        return [(await client.raw("GET", "/fapi/v1/ping"))[0] for _ in range(count)]

    async def story() -> None:
        options = {"folder": tmp_path, "options": faults(*lines)}
        async with a_client(flat_tape(), **options) as client:
            await client.play_to(106)
            assert await asked(client, 1) == [500]
        async with a_client(flat_tape(), **options) as client:
            assert await asked(client, 3) == [500, 200, 200]
            ahead = (await client.raw("GET", "/fapi/v1/time"))[1]["serverTime"] - client.venue.now()
            assert ahead == 3_000
            await client.ask(op="hello", trade_id=106, marks=0)
            await client.play_to(115)
        done = [row["do"] for row in rows_of(tmp_path, "fault")]
        assert done == ["order", "skew_clock", "refuse", "refuse", "deposit"]

    asyncio.run(story())


async def added(client: Client, text: str) -> tuple[int, Any]:
    async with client.http.post(f"{client.venue.rest_url}/voltrade/fault", data=text) as response:
        return response.status, await response.json()


def test_faults_are_added_to_a_venue_that_runs(tmp_path: Path) -> None:
    hand = {"do": "order", "with": {"symbol": "BTCUSDT", "side": "SELL", "quantity": "0.5"}}
    later = {"do": "deposit", "at_s": 5, "with": {"amount": 7}}

    async def story(client: Client) -> None:
        await client.play_to(110)
        status, said = await added(client, json.dumps([hand, later]))
        assert (status, said["added"]) == (200, 2)
        await client.play_to(113)
        assert [row["do"] for row in rows_of(tmp_path, "fault")] == ["order"]
        await client.play_to(118)
        assert [row["do"] for row in rows_of(tmp_path, "fault")] == ["order", "deposit"]
        assert [len(row["faults"]) for row in rows_of(tmp_path, "script")] == [0, 2]

    run(story, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "expected"), ('[{"do": "explode"}]', "line 1: do: "), ('[{"do": "delay_answer"}]', "needs speed 1")],
)
def test_a_wrong_fault_is_not_added(text: str, words: str, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        status, said = await added(client, text)
        assert status == 400
        assert words in said["error"] or "unexpected" in said["error"], said
        assert [len(row["faults"]) for row in rows_of(tmp_path, "script")] == [0]

    run(story, tmp_path)
