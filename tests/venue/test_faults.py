"""Faults on purpose: each does what its script says, is written down first, and is the same again for a seed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from support.venue_client import TIMEOUT, Client, flat_tape, frames, is_silent, run, trade

from voltrade.model import Trades
from voltrade.simulated.refusals import codes
from voltrade.venue.command import main
from voltrade.venue.faults import KINDS, LOST, TABLE, Fault, load_script
from voltrade.venue.requests import Response


def faults(*lines: dict[str, Any]) -> dict[str, Any]:
    """Options of a venue with a script."""
    return {"script": [Fault.model_validate(line) for line in lines]}


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "truth.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


async def exists(client: Client, name: str) -> bool:
    order = await client.signed("GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId=name)
    return "orderId" in order


ORDER = "POST /fapi/v1/order"

# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("do", ["lose_answer", "swallow"])
def test_an_answer_is_lost_whether_the_order_stands_or_not(do: str, how: str, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        client.http._timeout = aiohttp.ClientTimeout(0.2)
        try:
            answer = await client.order(newClientOrderId="lost")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            answer = type(error).__name__
        assert "orderId" not in (answer or "") or how == "truncated", answer
        assert await exists(client, "lost") is (do == "lose_answer")
        (row,) = rows_of(tmp_path, "fault")
        assert (row["do"], row["struck"]) == (do, ORDER)

    run(story, tmp_path, options=faults({"do": do, "how": how, "on": ORDER}))


def test_the_overload_spares_what_reduces(tmp_path: Path) -> None:
    script = faults({"do": "refuse", "code": -1008, "on": "/fapi/v1/order", "times": 0})

    async def story(client: Client) -> None:
        await client.play_to(105)
        assert (await client.order())["code"] == -1008
        assert (await client.order(reduceOnly="true"))["code"] == -2022
        gone = await client.signed("DELETE", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="none")
        assert gone["code"] == -2011

    run(story, tmp_path, options=script)


def test_a_late_order_reaches_the_exchange_after_its_answer_was_lost(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        assert "Unknown error" in (await client.order(newClientOrderId="late"))["msg"]
        await client.play_to(108)
        assert not await exists(client, "late")
        await client.play_to(112)
        assert await exists(client, "late")

    run(story, tmp_path, options=faults({"do": "late", "on": ORDER, "for_s": 5}))


def test_a_fill_is_told_before_its_order_is_answered(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        answer = asyncio.create_task(client.order(newClientOrderId="slow"))
        told = [event["o"]["X"] for event in await frames(user, 3) if "o" in event]
        assert told == ["NEW", "FILLED"]
        assert not answer.done()
        assert (await answer)["status"] == "NEW"

    script = faults({"do": "delay_answer", "on": ORDER, "for_s": 0.3})
    run(story, tmp_path, flat_tape(400, every_ms=10), options=script, speed=1.0)


def test_an_answer_is_altered(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        assert (await client.order())["executedQty"] == "99"
        assert (await client.order())["executedQty"] == "0"

    run(story, tmp_path, options=faults({"do": "alter_answer", "on": ORDER, "with": {"executedQty": "99"}}))


def test_some_are_spared_some_are_struck_and_only_in_their_time(tmp_path: Path) -> None:
    line = {"do": "refuse", "code": -1001, "on": "ping", "skip": 1, "times": 2, "at_s": 4, "until_s": 20}

    async def story(client: Client) -> None:
        async def codes(count: int) -> list[int]:
            answers = [(await client.raw("GET", "/fapi/v1/ping"))[1] for _ in range(count)]
            return [answer.get("code", 0) for answer in answers]

        assert await codes(2) == [0, 0]
        await client.play_to(105)
        assert await codes(5) == [0, -1001, -1001, 0, 0]

    run(story, tmp_path, options=faults(line))


def test_the_same_seed_strikes_alike_and_another_does_not(tmp_path: Path) -> None:
    struck: list[list[int]] = []

    async def story(client: Client) -> None:
        answers = [(await client.raw("GET", "/fapi/v1/ping"))[1] for _ in range(40)]
        struck.append([answer.get("code", 0) for answer in answers])

    script = faults({"do": "refuse", "code": -1001, "on": "ping", "chance": 0.3, "times": 0})
    for number, seed in enumerate((7, 7, 8)):
        run(story, tmp_path / str(number), options=script, seed=seed)
    assert struck[0] == struck[1] != struck[2]
    assert 0 < struck[0].count(-1001) < 40


# --- events -----------------------------------------------------------------------------------------------------------

USER_FAULTS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"do": "drop", "on": "user ORDER_TRADE_UPDATE FILLED"}, ["NEW", "LITE", "ACCOUNT"], []),
    ({"do": "duplicate", "on": "FILLED"}, ["NEW", "LITE", "FILLED", "FILLED", "ACCOUNT"], []),
    ({"do": "reorder", "on": "TRADE_LITE"}, ["NEW", "FILLED", "LITE", "ACCOUNT"], []),
    ({"do": "delay", "on": "FILLED", "for_s": 3}, ["NEW", "LITE", "ACCOUNT"], ["FILLED"]),
    ({"do": "hold", "on": "user", "times": 0, "until_s": 9.5}, [], ["NEW", "LITE", "FILLED", "ACCOUNT"]),
]


@pytest.mark.parametrize(("line", "at_once", "later"), USER_FAULTS, ids=lambda value: str(value)[:30])
def test_user_events_are_lost_late_twice_or_out_of_order(
    line: dict[str, Any], at_once: list[str], later: list[str], tmp_path: Path
) -> None:
    def kind(event: dict[str, Any]) -> str:
        return str(event["o"]["X"]) if "o" in event else event["e"].replace("TRADE_", "").replace("_UPDATE", "")

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order()
        sent = (await client.play_to(105))["user"]
        assert [kind(event) for event in await frames(user, len(at_once))] == at_once
        assert sent == len(at_once), "what is not sent is not counted as sent"
        await client.play_to(110)
        assert [kind(event) for event in await frames(user, len(later))] == later
        assert await is_silent(user)

    run(story, tmp_path, options=faults(line))


def test_a_garbled_event_is_no_json(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.order()
        text = (await user.receive(TIMEOUT)).data
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)

    script = faults({"do": "garble", "on": "user"})
    run(story, tmp_path, flat_tape(400, every_ms=10), options=script, speed=1.0)


def test_an_event_is_altered(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        market = await client.socket("/market/ws/btcusdt@aggTrade")
        (event,) = await frames(market, 1)
        assert (event["p"], event["s"], event["q"]) == ("NaN", "ETHUSDT", "1.000")

    script = faults({"do": "alter", "on": "market aggTrade", "times": 0, "with": {"p": "NaN", "s": "ETHUSDT"}})
    run(story, tmp_path, flat_tape(400, every_ms=10), options=script, speed=1.0)


MARKET_FAULTS = [
    ({"do": "drop", "on": "market aggTrade", "skip": 1}, [100, 102, 103]),
    ({"do": "duplicate", "on": "market aggTrade", "skip": 1}, [100, 101, 101, 102]),
    ({"do": "reorder", "on": "market aggTrade", "skip": 1}, [100, 102, 101, 103]),
]


@pytest.mark.parametrize(("line", "told"), MARKET_FAULTS, ids=lambda value: str(value)[:20])
def test_trades_are_lost_doubled_and_out_of_order(line: dict[str, Any], told: list[int], tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        market = await client.socket("/market/ws/btcusdt@aggTrade")
        assert [event["a"] for event in await frames(market, len(told))] == told

    # The first trade comes when the socket has been up for a while.
    tape = flat_tape(100, every_ms=20)
    run(story, tmp_path, tape, options={**faults(line), "wall": delayed_wall()}, speed=1.0)


def delayed_wall() -> Callable[[], int]:
    """A wall clock that stands still for 300 ms, a moment before the tape begins."""
    begin = time.time_ns() // 1_000_000
    first = iter([begin])
    return lambda: next(first, max(begin - 1, time.time_ns() // 1_000_000 - 300))


def test_a_burst_of_more_than_a_thousand_trades(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        market = await client.socket("/market/ws/btcusdt@aggTrade")
        times = []
        for _ in range(1_500):
            await market.receive_json(timeout=TIMEOUT)
            times.append(time.monotonic())
        assert times[1_200] - times[0] < 0.5, "a second and more of trades at once"

    script = faults({"do": "hold", "on": "market aggTrade", "until_s": 1.5, "times": 0})
    run(story, tmp_path, flat_tape(3_000, every_ms=1), options=script, speed=1.0)


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("do", "close_code"), [("abort", 1006), ("close", 1001), ("black_hole", 1006)])
def test_the_user_stream_breaks(do: str, close_code: int, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        market, user = await client.socket("/market/ws/btcusdt@aggTrade"), await client.user_stream()
        await client.play_to(106)
        message = await user.receive(timeout=TIMEOUT)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await user.receive(timeout=TIMEOUT)
        assert (message.data if message.type is aiohttp.WSMsgType.CLOSE else user.close_code) == close_code
        assert [event["a"] for event in await frames(market, 3)] == [100, 101, 102], "the market's goes on"

    run(story, tmp_path, options=faults({"do": do, "on": "private", "at_s": 3, "for_s": 1}))


def test_a_dead_socket_is_open_and_silent(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(104)
        assert (await client.order())["status"] == "NEW"
        await client.play_to(108)
        assert await is_silent(user)
        assert not user.closed

    run(story, tmp_path, options=faults({"do": "black_hole", "on": "private", "at_s": 3, "for_s": 30}))


def test_a_listen_key_ends_early(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(105)
        (event,) = await frames(user, 1)
        assert event["e"] == "listenKeyExpired"
        assert (await client.raw("PUT", "/fapi/v1/listenKey"))[1]["code"] == -1125

    run(story, tmp_path, options=faults({"do": "expire_listen_key", "at_s": 3}))


def test_the_clock_that_clients_see_runs_ahead_for_a_while(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async def offset() -> int:
            return int((await client.raw("GET", "/fapi/v1/time"))[1]["serverTime"]) - client.venue.now()

        assert await offset() == 0
        await client.play_to(105)
        assert await offset() == 7_000
        assert (await client.signed("GET", "/fapi/v3/balance"))["code"] == -1021
        await client.play_to(120)
        assert await offset() == 0

    run(story, tmp_path, options=faults({"do": "skew_clock", "at_s": 3, "for_s": 10, "with": {"ms": 7_000}}))


def test_silence_is_wanted_and_then_a_ban(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        async def ping() -> tuple[int, str]:
            status, body, headers = await client.raw("GET", "/fapi/v1/ping")
            assert status == 200 or body["code"] == -1003
            return status, headers.get("Retry-After", "")

        await client.play_to(104)
        assert await ping() == (429, "4"), "until second 8; a second has passed"
        await client.play_to(112)
        assert await ping() == (200, "")
        await client.play_to(116)
        assert await ping() == (418, "9")

    second = {"do": "ban", "at_s": 15, "code": 418, "for_s": 10}
    run(story, tmp_path, options=faults({"do": "ban", "at_s": 3, "for_s": 5}, second))


def test_maintenance_is_over_after_a_while(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(104)
        status, body, _ = await client.raw("GET", "/fapi/v1/ping")
        assert (status, body["msg"]) == (503, "Service Unavailable.")
        await client.play_to(115)
        assert (await client.raw("GET", "/fapi/v1/ping"))[0] == 200

    script = faults({"do": "maintenance", "on": "private", "at_s": 3, "for_s": 5})
    run(story, tmp_path, options=script)


# --- the account and the world ----------------------------------------------------------------------------------------

Check = Callable[[Client, list[Any]], Awaitable[None]]
BTC = {"symbol": "BTCUSDT"}


async def by_hand(client: Client, events: list[Any]) -> None:
    names = [event["o"]["c"] for event in events if event["e"] == "ORDER_TRADE_UPDATE"]
    assert "web_by_hand" in names
    (risk,) = await client.signed("GET", "/fapi/v3/positionRisk", symbol="BTCUSDT")
    assert risk["positionAmt"] == "0.520"


async def liquidated(client: Client, events: list[Any]) -> None:
    orders = [event["o"] for event in events if event["e"] == "ORDER_TRADE_UPDATE"]
    (forced,) = [order for order in orders if order["x"] == "CALCULATED"]
    assert forced["c"].startswith("autoclose-")
    assert (forced["X"], forced["S"], forced["z"]) == ("FILLED", "SELL", "0.020")
    assert await client.signed("GET", "/fapi/v3/positionRisk", symbol="BTCUSDT") == []
    (row,) = await client.signed("GET", "/fapi/v1/forceOrders", symbol="BTCUSDT", autoCloseType="LIQUIDATION")
    assert row["clientOrderId"] == forced["c"]


async def deleveraged(client: Client, events: list[Any]) -> None:
    (row,) = await client.signed("GET", "/fapi/v1/forceOrders", autoCloseType="ADL")
    assert row["clientOrderId"].startswith("adl_autoclose")


async def settled(client: Client, events: list[Any]) -> None:
    assert any(event.get("o", {}).get("c", "").startswith("settlement_autoclose-") for event in events)
    (symbol,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    assert symbol["status"] == "CLOSE"


async def with_other_filters(client: Client, events: list[Any]) -> None:
    (symbol,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    rules = {rule["filterType"]: rule for rule in symbol["filters"]}
    assert (rules["LOT_SIZE"]["minQty"], rules["LOT_SIZE"]["stepSize"]) == ("0.050", "0.001")
    assert (await client.order(quantity="0.020"))["code"] == -4004


async def richer(client: Client, events: list[Any]) -> None:
    assert [event["a"]["m"] for event in events if event["e"] == "ACCOUNT_UPDATE"][-1] == "DEPOSIT"
    (row,) = await client.signed("GET", "/fapi/v1/income", incomeType="TRANSFER")
    assert row["income"] == "250.00000000"


async def poorer(client: Client, events: list[Any]) -> None:
    assert [event["a"]["m"] for event in events if event["e"] == "ACCOUNT_UPDATE"][-1] == "WITHDRAW"


async def without_orders(client: Client, events: list[Any]) -> None:
    assert [event["o"]["X"] for event in events if event.get("o", {}).get("c") == "rests"] == ["NEW", "CANCELED"]


async def other_leverage(client: Client, events: list[Any]) -> None:
    assert events[-1]["ac"] == {"s": "BTCUSDT", "l": 9}


async def without_stops(client: Client, events: list[Any]) -> None:
    assert [event["o"]["X"] for event in events if event["e"] == "ALGO_UPDATE"] == ["NEW", "CANCELED"]


SCRIPTED: list[tuple[str, dict[str, Any], Check]] = [
    ("order", {**BTC, "side": "BUY", "quantity": "0.5"}, by_hand),
    ("mark", {**BTC, "price": "60000"}, liquidated),
    ("deleverage", BTC, deleveraged),
    ("settle", BTC, settled),
    ("filters", {**BTC, "min_quantity": 50}, with_other_filters),
    ("deposit", {"amount": 250}, richer),
    ("withdraw", {"amount": 250}, poorer),
    ("leverage", {**BTC, "leverage": 9}, other_leverage),
    ("cancel_all", BTC, without_orders),
    ("cancel_stops", BTC, without_stops),
]


@pytest.mark.parametrize(("do", "more", "check"), SCRIPTED, ids=[do for do, _, _ in SCRIPTED])
def test_things_happen_to_the_account_that_we_did_not_ask_for(
    do: str, more: dict[str, Any], check: Check, tmp_path: Path
) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order(quantity="0.020")
        await client.algo(quantity="0.020", reduceOnly="false")
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests")
        sent = (await client.play_to(115))["user"]
        await check(client, await frames(user, sent))
        assert [row["do"] for row in rows_of(tmp_path, "fault")] == [do]

    run(story, tmp_path, options=faults({"do": do, "at_s": 8, "with": more}))


def test_a_stop_that_triggers_is_stuck_and_the_position_stays(tmp_path: Path) -> None:
    """The trade at 78,900 is below the trigger; so is the next, after the fault is over, but the stop waits no more."""
    rows = [trade(n, 789_000 if n in (12, 18) else 800_000, sold=n % 2 == 0) for n in range(30)]
    script = [{"do": "stick_triggers", "at_s": 8, "with": BTC}]
    script += [{"do": "stick_triggers", "at_s": 15, "with": {**BTC, "sticking": False}}]

    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order()
        await client.play_to(106)
        await client.algo(clientAlgoId="stuck")
        sent = (await client.play_to(120))["user"]
        states = [event["o"]["X"] for event in await frames(user, sent) if event["e"] == "ALGO_UPDATE"]
        assert states == ["NEW", "TRIGGERING"]
        (algo,) = await client.signed("GET", "/fapi/v1/openAlgoOrders")
        assert (algo["algoStatus"], algo["actualOrderId"]) == ("TRIGGERING", "")
        (risk,) = await client.signed("GET", "/fapi/v3/positionRisk")
        assert risk["positionAmt"] == "0.010"
        assert (await client.signed("DELETE", "/fapi/v1/algoOrder", clientAlgoId="stuck"))["code"] == "200"

    run(story, tmp_path, Trades.from_rows("BTCUSDT", rows), options=faults(*script), mark_interval_s=86_400)


def test_what_can_not_be_done_is_written_down_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [{"do": "settle", "at_s": 2, "with": {"symbol": "NOPEUSDT"}}]
    lines += [
        {"do": "filters", "at_s": 3, "with": {**BTC, "x": 1}},
        {"do": "deposit", "at_s": 4, "with": {"amount": 5}},
    ]

    async def story(client: Client) -> None:
        await client.play_to(110)
        told = [row.get("failed", "") for row in rows_of(tmp_path, "fault")]
        assert [bool(failed) for failed in told] == [False, True, False, True, False]
        assert (await client.signed("GET", "/fapi/v3/balance"))[0]["balance"] == "10005.00000000"

    run(story, tmp_path, options=faults(*lines))


def test_a_hand_switches_to_hedge_mode(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(110)
        assert (await client.signed("GET", "/fapi/v1/positionSide/dual")) == {"dualSidePosition": True}
        assert (await client.order())["code"] == -4061

    run(story, tmp_path, options=faults({"do": "hedge_mode", "at_s": 3}))


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_every_named_script_can_be_read_and_every_kind_is_tested() -> None:
    for name in TABLE["scripts"]:
        assert load_script(name), name
    source = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in source] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "lost-answers, .*deaf"),
        ('{"do": "drop"}', "Input should be a valid list, was .*drop"),
        ('[{"do": "drop"}, {"do": "explode"}]', "line 2: do: .*must be one of refuse.*, was .*explode"),
        ('[{"do": "drop", "at": 3}]', "line 1: at: .*[Ee]xtra"),
        ('[{"do": "drop", "chance": 2}]', "line 1: chance: .*less than or equal to 1"),
        ('[{"do": "drop", "on": "("}]', "line 1: on: .*regular expression"),
        ('[{"do": "refuse", "code": -7}]', "line 1: code: .*--tables"),
        ('[{"do": "order", "with": {"symbol": "BTCUSDT"}}]', "line 1: .*with: must have side, quantity"),
        ('[{"do": "swallow", "how": "rudely"}]', "line 1: how: .*must be one of unknown"),
        ('[{"do": "garble", "with": {"as": "soup"}}]', "with.as: must be one of cut.*, was soup"),
        ('[{"do": "delay_request"}]', "delay_request on everything needs speed 1"),
        ('[{"do": "delay_answer"}]', "delay_answer on everything needs speed 1"),
        ('[{"do": "drop"}]', "drop on everything needs speed 1"),
        ('[{"do": "abort", "on": "market"}]', "abort on market needs speed 1"),
    ],
)
def test_a_wrong_script_is_refused_by_line_and_field(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.json"
    script.write_text(text)
    assert main(["--hours", "0.05", "--log", str(tmp_path / "log"), "--faults", str(script)]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said), said


def test_help_tells_a_stranger_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for word in (*KINDS, *TABLE["scripts"], "--faults", "--api-key", "--begin-s", "--also", "truth.jsonl", "until_s"):
        assert word in said, word


@pytest.mark.parametrize("do", ["refuse", "lose_answer"])
def test_every_refusal_can_be_given_on_purpose(do: str, tmp_path: Path) -> None:
    """A text that quotes something, as that of -1015 does, raised IndexError in the venue."""
    lines = [{"do": do, "code": code, "on": f"/fapi/v1/order/{abs(code)}$"} for code in codes()]

    done = Response(200, {})

    async def story(client: Client) -> None:
        for code, row in codes().items():
            request = SimpleNamespace(method="POST", path=f"/fapi/v1/order/{abs(code)}")
            params = SimpleNamespace(get=lambda name: "")
            answer: Any = await client.venue.faults.handle(cast(Any, request), cast(Any, params), lambda: done)
            assert (answer.status, answer.body["code"]) == (row.status, code)
            assert "{" not in answer.body["msg"].replace("{1,20}", "")

    run(story, tmp_path, options=faults(*lines))


@pytest.mark.parametrize(("do", "code"), [("refuse", 0), ("refuse", 418), ("lose_answer", 429), ("ban", -1003)])
def test_a_code_that_a_fault_cannot_give_is_refused_with_its_script(do: str, code: int) -> None:
    with pytest.raises(ValueError, match=f"code: .* was {code}"):
        Fault.model_validate({"do": do, "code": code})
