"""What happens to account, orders and symbols by themselves or by another hand, as clients of the venue see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.venue_client import Client, a_client, flat_tape, frames, run, trade
from venue.test_faults import faults, rows_of

from voltrade.model import Trades
from voltrade.simulated.ground_truth import restored
from voltrade.venue.faults import load_script
from voltrade.venue.finer import Fineness

BTC = {"symbol": "BTCUSDT"}
HAND = {**BTC, "side": "SELL", "quantity": "0.005"}
Check = Callable[[Client, list[Any]], Awaitable[None]]


async def get(client: Client, path: str, **query: Any) -> Any:
    return await client.signed("GET", f"/fapi/{path}", **query)


def told(events: list[Any], kind: str, name: str) -> list[str]:
    """States of an order that were told, by its client id."""
    key = {"ORDER_TRADE_UPDATE": "c", "ALGO_UPDATE": "caid"}[kind]
    return [event["o"]["X"] for event in events if event["e"] == kind and event["o"][key] == name]


async def foreign_limit(client: Client, events: list[Any]) -> None:
    assert told(events, "ORDER_TRADE_UPDATE", "web_by_hand") == ["NEW"]
    rows = await get(client, "v1/openOrders", **BTC)
    assert [(row["clientOrderId"], row["price"]) for row in rows][1:] == [("web_by_hand", "81000.0")]


async def foreign_stop(client: Client, events: list[Any]) -> None:
    rows = await get(client, "v1/openAlgoOrders", **BTC)
    assert [(row["clientAlgoId"], row["orderType"]) for row in rows][1:] == [("app_stop", "TRAILING_STOP_MARKET")]
    assert rows[1]["callbackRate"] == "1.00"
    assert "callbackRate" not in rows[0]


async def twap(client: Client, events: list[Any]) -> None:
    rows = await get(client, "v1/openAlgoOrders", **BTC)
    assert [(row["algoType"], row["orderType"]) for row in rows] == [("CONDITIONAL", "STOP_MARKET"), ("TWAP", "MARKET")]
    assert [event["o"]["at"] for event in events if event["e"] == "ALGO_UPDATE"] == ["CONDITIONAL", "TWAP"]


async def prevented(client: Client, events: list[Any]) -> None:
    last = [event["o"] for event in events if event.get("o", {}).get("c") == "rests"][-1]
    assert (last["x"], last["X"], last["er"]) == ("EXPIRED", "EXPIRED_IN_MATCH", "1")
    row = await get(client, "v1/order", **BTC, origClientOrderId="rests")
    assert row["status"] == "EXPIRED_IN_MATCH"


async def stop_expired(client: Client, events: list[Any]) -> None:
    assert told(events, "ALGO_UPDATE", "stop") == ["NEW", "EXPIRED"]
    row = await get(client, "v1/algoOrder", clientAlgoId="stop")
    assert row["algoStatus"] == "EXPIRED"


async def stop_gone(client: Client, events: list[Any]) -> None:
    assert told(events, "ALGO_UPDATE", "stop") == ["NEW"]
    assert (await get(client, "v1/algoOrder", clientAlgoId="stop"))["code"] == -2013
    assert await get(client, "v1/openAlgoOrders", **BTC) == []
    assert await get(client, "v1/allAlgoOrders", **BTC) == []
    assert (await client.signed("DELETE", "/fapi/v1/algoOrder", clientAlgoId="stop"))["code"] == -2011


async def multi_assets(client: Client, events: list[Any]) -> None:
    assert [event["ai"] for event in events if event["e"] == "ACCOUNT_CONFIG_UPDATE"] == [{"j": True}]
    assert (await get(client, "v1/accountConfig"))["multiAssetsMargin"] is True
    assert await get(client, "v1/multiAssetsMargin") == {"multiAssetsMargin": True}


async def partly_liquidated(client: Client, events: list[Any]) -> None:
    """Half of 0.020; at the mark of 80,000 with 1.25% of 800 as the fee."""
    forced = [event["o"] for event in events if event.get("o", {}).get("x") == "CALCULATED"]
    assert [(order["c"][:10], order["l"], order["n"]) for order in forced] == [("autoclose-", "0.010", "10.00000000")]
    (risk,) = await get(client, "v3/positionRisk")
    assert risk["positionAmt"] == "0.010"
    assert told(events, "ALGO_UPDATE", "stop") == ["NEW"], "its orders stay"


async def about_to_be_settled(client: Client, events: list[Any]) -> None:
    (row,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    assert (row["status"], row["deliveryDate"]) == ("PRE_SETTLE", 1_800_000_000_000)
    assert (await client.order())["code"] == -4140
    assert (await client.order(side="SELL", reduceOnly="true"))["status"] == "NEW"


async def halted(client: Client, events: list[Any]) -> None:
    answers = [await client.order(), await client.order(side="SELL", reduceOnly="true"), await client.algo()]
    assert [answer["code"] for answer in answers] == [-1122] * 3
    gone = await client.signed("DELETE", "/fapi/v1/order", **BTC, origClientOrderId="rests")
    assert gone["status"] == "CANCELED"


async def only_reducing(client: Client, events: list[Any]) -> None:
    assert (await client.order())["code"] == -4087
    assert (await client.order(side="SELL", reduceOnly="true"))["status"] == "NEW"
    assert (await client.algo(reduceOnly="true"))["algoStatus"] == "NEW"


async def unsigned(client: Client, events: list[Any]) -> None:
    assert (await client.order(side="SELL", reduceOnly="true"))["code"] == -4411
    assert (await client.signed("POST", "/fapi/v1/stock/contract"))["code"] == 200
    assert (await client.order())["status"] == "NEW"


async def coarser(client: Client, events: list[Any]) -> None:
    (row,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    rules = {rule["filterType"]: rule for rule in row["filters"]}
    assert (rules["PRICE_FILTER"]["tickSize"], rules["LOT_SIZE"]["stepSize"]) == ("0.5", "0.005")
    assert (await client.algo(triggerPrice="79000.1"))["code"] == -4014
    assert (await client.order(quantity="0.012"))["code"] == -4023
    assert (await client.algo(triggerPrice="79000.5", quantity="0.015"))["algoStatus"] == "NEW"


async def finer(client: Client, events: list[Any]) -> None:
    """Trades after it are off the old tick and step, the lists of trades and orders have both kinds."""
    (row,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    rules = {rule["filterType"]: rule for rule in row["filters"]}
    assert (rules["PRICE_FILTER"]["tickSize"], rules["LOT_SIZE"]["stepSize"]) == ("0.01", "0.0001")
    assert (row["quantityPrecision"], rules["LOT_SIZE"]["minQty"]) == (4, "0.0010")
    trades = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&fromId=100"))[1]
    off = [Decimal(trade["p"]) % Decimal("0.1") != 0 or Decimal(trade["q"]) % Decimal("0.001") != 0 for trade in trades]
    assert (off[0], off[-1]) == (False, True)
    assert off == sorted(off), "none before it, and nearly all after it"
    assert (await client.algo(triggerPrice="79000.07", quantity="0.0123"))["algoStatus"] == "NEW"


async def controlled(client: Client, events: list[Any]) -> None:
    """Nothing more is bought; what is held is sold, and shorts are as before."""
    (row,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
    rules = {rule["filterType"]: rule for rule in row["filters"]}
    assert rules["POSITION_RISK_CONTROL"]["positionControlSide"] == "LONG"
    assert (await client.order())["code"] == -4105
    assert (await client.order(side="SELL", reduceOnly="true"))["status"] == "NEW"
    assert (await client.order(side="SELL"))["status"] == "NEW"


async def cut_brackets(client: Client, events: list[Any]) -> None:
    """At leverage 5 the account may hold 2,000 USDT: 0.020 are 1,600, and rests the most of what is left."""
    (row,) = await get(client, "v1/leverageBracket", **BTC)
    assert [(each["initialLeverage"], each["notionalCap"]) for each in row["brackets"]] == [(5, 2_000), (2, 900_000)]
    assert (await client.order(quantity="0.010"))["code"] == -2027


async def more_money(client: Client, events: list[Any]) -> None:
    last = [event["a"] for event in events if event["e"] == "ACCOUNT_UPDATE"][-1]
    amount = {"wb": "0.50000000", "cw": "0.50000000", "bc": "0.50000000"}
    assert last == {"m": "AUTO_EXCHANGE", "B": [{"a": "BNB", **amount}], "P": []}, "USDT has not changed"
    rows = {row["asset"]: row for row in (await get(client, "v3/account"))["assets"]}
    assert (rows["BNB"]["walletBalance"], set(rows["BNB"])) == ("0.50000000", set(rows["USDT"]))
    assert [row["asset"] for row in await get(client, "v3/balance")] == ["USDT", "BNB"]
    (income,) = await get(client, "v1/income", incomeType="AUTO_EXCHANGE")
    assert (income["asset"], income["income"]) == ("BNB", "0.50000000")


CASES: list[tuple[str, dict[str, Any], Check]] = [
    ("order", {**HAND, "type": "LIMIT", "price": "81000"}, foreign_limit),
    ("algo", {**HAND, "type": "TRAILING_STOP_MARKET", "callbackRate": 1, "reduceOnly": True}, foreign_stop),
    ("twap", HAND, twap),
    ("expire_orders", {**BTC, "status": "EXPIRED_IN_MATCH", "reason": "1"}, prevented),
    ("expire_stops", BTC, stop_expired),
    ("forget_stops", BTC, stop_gone),
    ("multi_assets", {}, multi_assets),
    ("liquidate", {**BTC, "part": 0.5}, partly_liquidated),
    ("status", {**BTC, "status": "PRE_SETTLE", "delivery_time": 1_800_000_000_000}, about_to_be_settled),
    ("status", {**BTC, "status": "TRADING_HALT"}, halted),
    ("restrict", {"code": -4087, "spares_reducing": True}, only_reducing),
    ("restrict", {**BTC, "code": -4411}, unsigned),
    ("filters", {**BTC, "tick_multiple": 5, "step_multiple": 5}, coarser),
    ("filters", {**BTC, "tick_finer": 10, "step_finer": 10}, finer),
    ("filters", {**BTC, "position_control": "LONG"}, controlled),
    ("brackets", {**BTC, "brackets": [[5, 2_000, "0.01"], [2, 900_000, "0.02"]]}, cut_brackets),
    ("move_money", {"amount": "0.5", "asset": "BNB", "reason": "AUTO_EXCHANGE", "income": "AUTO_EXCHANGE"}, more_money),
]


@pytest.mark.parametrize(("do", "more", "check"), CASES, ids=[f"{do} {check.__name__}" for do, _, check in CASES])
def test_it_is_told_and_stands_in_every_answer(do: str, more: dict[str, Any], check: Check, tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        await client.play_to(103)
        await client.order(quantity="0.020")
        await client.algo(quantity="0.020", reduceOnly="false", clientAlgoId="stop")
        await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests", quantity="0.005")
        sent = (await client.play_to(115))["user"]
        await check(client, await frames(user, sent))
        assert [row.get("failed", row["do"]) for row in rows_of(tmp_path, "fault")] == [do]

    run(story, tmp_path, options=faults({"do": do, "at_s": 8, "with": more}))
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    again = restored(rows, None, [Fineness(*rows[0].get("finer", ())).trades(flat_tape())])
    assert again.clock > 0, "a venue that is started again has it too"


FALLING = [trade(n, 789_000 if n >= 12 else 800_000, sold=True) for n in range(30)]


def test_the_order_of_a_trigger_fills_in_part_and_stands(tmp_path: Path) -> None:
    script = [{"do": "thin_book", "at_s": 8, "with": {**BTC, "quantity": "0.004"}}]
    script += [{"do": "thin_book", "at_s": 20, "with": BTC}]

    async def position(client: Client) -> str:
        return str((await get(client, "v3/positionRisk"))[0]["positionAmt"])

    async def story(client: Client) -> None:
        await client.play_to(101)
        await client.order(side="SELL")
        await client.play_to(103)
        await client.algo(side="BUY", type="TAKE_PROFIT_MARKET", clientAlgoId="stop")
        await client.play_to(118)
        algo = await get(client, "v1/algoOrder", clientAlgoId="stop")
        assert (algo["algoStatus"], algo["actualQty"]) == ("TRIGGERED", "0.004")
        child = await get(client, "v1/order", **BTC, orderId=algo["actualOrderId"])
        assert child["status"] == "PARTIALLY_FILLED"
        assert await position(client) == "-0.006"

    run(story, tmp_path, Trades.from_rows("BTCUSDT", FALLING), options=faults(*script), mark_interval_s=86_400)


def test_a_hand_changes_the_margin_type_of_a_symbol_without_position(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        user = await client.user_stream()
        sent = (await client.play_to(105))["user"]
        (event,) = await frames(user, sent)
        assert (event["a"]["m"], event["a"]["B"]) == ("MARGIN_TYPE_CHANGE", [])
        (row,) = await get(client, "v1/symbolConfig", **BTC)
        assert row["marginType"] == "CROSSED"

    run(story, tmp_path, options=faults({"do": "margin_type", "at_s": 3, "with": {**BTC, "margin_type": "cross"}}))


def test_fees_are_paid_in_bnb_while_there_is_any(tmp_path: Path) -> None:
    """0.010 at 80,000 with 5 bps: 0.4 USDT, 10% less 0.36, in BNB at 600 0.0006; 0.0010 do for one of them."""
    lines = [{"do": "move_money", "at_s": 1, "with": {"amount": "0.001", "asset": "BNB", "reason": "DEPOSIT"}}]
    lines += [{"do": "fees_in", "at_s": 1, "with": {"asset": "BNB", "price": 600}}]

    async def story(client: Client) -> None:
        await client.play_to(103)
        user = await client.user_stream()
        await client.order()
        sent = (await client.play_to(106))["user"]
        events = await frames(user, sent)
        (filled,) = [event["o"] for event in events if event.get("o", {}).get("x") == "TRADE"]
        assert (filled["n"], filled["N"]) == ("0.00060000", "BNB")
        (change,) = [event["a"] for event in events if event["e"] == "ACCOUNT_UPDATE"]
        amounts = {"wb": "0.00040000", "cw": "0.00040000", "bc": "0.00000000"}
        assert change["B"] == [{"a": "BNB", **amounts}], "in cross margin the wallet of USDT is what it was"
        assert await get(client, "v1/feeBurn") == {"feeBurn": True}
        await client.order()
        await client.play_to(110)
        trades = await get(client, "v1/userTrades", **BTC)
        assert [(row["commission"], row["commissionAsset"]) for row in trades] == [
            ("0.00060000", "BNB"),
            ("0.40000000", "USDT"),
        ]
        balances = {row["asset"]: row["balance"] for row in await get(client, "v3/balance")}
        assert balances == {"USDT": "9999.60000000", "BNB": "0.00040000"}

    options = faults(*lines)
    run(story, tmp_path, options=options, margin_type="cross", taker_fee=0.0005, mark_interval_s=86_400)


@pytest.mark.parametrize("marks", [False, True])
def test_the_tape_jumps_through_a_stop_and_jumps_no_further_when_started_again(marks: bool, tmp_path: Path) -> None:
    """10% down from the trade after second 8 on: the stop at 79,000 is filled at 72,000."""
    line = {"do": "jump", "at_s": 8, "with": {**BTC, "by": -0.1, "marks": marks}}

    async def story() -> None:
        options: Any = {"folder": tmp_path, "options": faults(line), "mark_interval_s": 5}
        async with a_client(flat_tape(), **options) as client:
            await client.play_to(103)
            await client.order()
            await client.play_to(105)
            await client.algo(clientAlgoId="stop", reduceOnly="true")
            await client.play_to(114)
            assert (await get(client, "v1/algoOrder", clientAlgoId="stop"))["actualPrice"].startswith("72000")
            premium = (await client.raw("GET", "/fapi/v1/premiumIndex", "symbol=BTCUSDT"))[1]
            assert (float(premium["markPrice"]) < 73_000) is marks
        async with a_client(flat_tape(), **options) as client:
            await client.ask(op="hello", trade_id=114, marks=client.venue.player.marks_played)
            await client.play_to(118)
            assert (await client.raw("GET", "/fapi/v1/ticker/price", "symbol=BTCUSDT"))[1]["price"] == "72000.0"

    asyncio.run(story())


def test_one_trade_is_wide_of_the_market(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(115)
        rows = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&fromId=106"))[1]
        assert sorted({row["p"] for row in rows}) == ["80000.0", "800000.0"]
        assert [row["p"] for row in rows].count("800000.0") == 1

    run(
        story,
        tmp_path,
        options=faults({"do": "jump", "at_s": 8, "with": {**BTC, "by": 9, "trades": 1, "marks": False}}),
    )


async def ask_for_a_test(client: Client) -> Any:
    given = {**BTC, "side": "BUY", "type": "MARKET", "quantity": "0.010"}
    return await client.signed("POST", "/fapi/v1/order/test", **given)


def test_small_answers_are_as_the_exchange_gives_them(tmp_path: Path) -> None:
    """A tested order, a book of one level, a schedule, a modification's own id, and fields that only queries have."""

    async def story(client: Client) -> None:
        await client.play_to(105)
        tested = await ask_for_a_test(client)
        assert (tested["status"], tested["origQty"], await get(client, "v1/openOrders", **BTC)) == ("NEW", "0.010", [])
        depth = (await client.raw("GET", "/fapi/v1/depth", "symbol=BTCUSDT&limit=5"))[1]
        assert (len(depth["bids"]), len(depth["asks"])) == (1, 1)
        assert float(depth["bids"][0][0]) < float(depth["asks"][0][0])
        assert (await client.raw("GET", "/fapi/v1/tradingSchedule"))[1]["marketSchedules"] == {}
        placed = await client.order(type="LIMIT", price="79000.0", timeInForce="GTC", newClientOrderId="rests")
        asked = await get(client, "v1/order", **BTC, origClientOrderId="rests")
        assert set(asked) - set(placed) == {"avgPrice", "cumQuote", "time"}
        query = {**BTC, "side": "BUY", "quantity": "0.010", "price": "78000", "origClientOrderId": "rests"}
        modified = await client.signed("PUT", "/fapi/v1/order", **query, modifyId=7)
        assert (modified["modifyId"], modified["price"]) == (7, "78000.0")
        stop = await client.algo(clientAlgoId="stop")
        assert stop["algoId"] > 10**15 > placed["orderId"]

    run(story, tmp_path)


def test_a_venue_that_began_without_a_finer_tick_refuses_to_make_it_finer(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        line = {"do": "filters", "with": {**BTC, "tick_finer": 10}}
        status, *_ = await client.raw("POST", "/voltrade/fault", "", json.dumps([line]))
        assert status == 200
        await client.play_to(105)
        [failed] = [row["failed"] for row in rows_of(tmp_path, "fault") if "failed" in row]
        assert "the venue must begin with a script that has it" in failed

    run(story, tmp_path)


def test_a_venue_with_finer_trades_goes_on_with_them_when_started_again(tmp_path: Path) -> None:
    line = {"do": "filters", "at_s": 8, "with": {**BTC, "tick_finer": 10, "step_finer": 10}}

    async def story() -> None:
        options: Any = {"folder": tmp_path, "options": faults(line)}
        async with a_client(flat_tape(), **options) as client:
            await client.play_to(112)
            before = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&fromId=100"))[1]
        async with a_client(flat_tape(), **options) as client:
            await client.ask(op="hello", trade_id=112, marks=client.venue.player.marks_played)
            await client.play_to(118)
            after = (await client.raw("GET", "/fapi/v1/aggTrades", "symbol=BTCUSDT&fromId=100"))[1]
        assert after[: len(before)] == before
        assert Decimal(after[-1]["q"]) % Decimal("0.001") != 0

    asyncio.run(story())


def test_the_script_of_demo_gives_filters_limit_and_wallets_of_the_demo_exchange(tmp_path: Path) -> None:
    async def story(client: Client) -> None:
        await client.play_to(105)
        (row,) = (await client.raw("GET", "/fapi/v1/exchangeInfo"))[1]["symbols"]
        rules = {rule["filterType"]: rule for rule in row["filters"]}
        assert (rules["MIN_NOTIONAL"]["notional"], rules["LOT_SIZE"]["stepSize"]) == ("50.00000000", "0.0001")
        balances = {row["asset"]: Decimal(row["balance"]) for row in await get(client, "v3/balance")}
        assert (balances["USDC"], balances["BTC"]) == (5_000, Decimal("0.01"))

    run(story, tmp_path, options={"script": load_script("demo")})
