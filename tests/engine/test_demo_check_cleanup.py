"""What a check leaves: nothing of its own, whatever fails, and all that is somebody else's."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from errno import ENOSPC
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from test_demo_check_orders import KEY, SECRET, tape

from voltrade.config import Config
from voltrade.engine.clocks import WallClock
from voltrade.engine.demo_check import watcher
from voltrade.engine.demo_check.cleanup import CleanUp, Terms, is_not_found
from voltrade.engine.demo_check.ending import run_to_the_end
from voltrade.engine.demo_check.frames import FrameRecord
from voltrade.engine.demo_check.sent_orders import ORDER, STOP, SentOrders
from voltrade.engine.demo_check.terminal import Terminal
from voltrade.engine.demo_check.waits import WaitNotice
from voltrade.engine.demo_check.watcher import Watcher
from voltrade.errors import SessionError
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.client import Response
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.responses import NO_ANSWER
from voltrade.order_states import ABSENCE_MARGIN_MS
from voltrade.venue.server import serve

OURS = "vt-check7-"
TERMS = Terms("BTCUSDT", OURS, Decimal("0.1"), 5_000, 0)
GONE, DOWN = Response(400, -2013, "Order does not exist."), Response(503, 0, "Service Unavailable.")
LOST = Response(503, 0, "Unknown error, please check your request or try again later.")


@dataclass
class Order:
    """An order at the exchange."""

    number: int
    side: int
    quantity: Decimal
    is_stop: bool = False
    status: str = "NEW"
    executed: Decimal = Decimal(0)
    child: str = ""

    def body(self, name: str) -> dict[str, Any]:
        named = {"clientAlgoId": name, "algoStatus": self.status, "actualOrderId": self.child}
        side = "BUY" if self.side > 0 else "SELL"
        plain = {"clientOrderId": name, "status": self.status, "executedQty": str(self.executed)}
        return {"side": side, "orderId": self.number, **(named if self.is_stop else plain)}


@dataclass
class Account:
    """An exchange in virtual time: market orders fill at once, and `spoil` decides what is answered instead."""

    now: int = 1_000_000
    held: Decimal = Decimal(0)
    orders: dict[str, Order] = field(default_factory=dict)
    trades: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    spoil: Callable[[str, Mapping[str, Any]], Response | None] = lambda call, params: None
    later: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    blocked_until: int = 0
    fills_after_ms: int = 0
    bare_s: float = 0.0

    def clock(self) -> int:
        return self.now

    def redact(self, text: str) -> str:
        return text

    async def sleep(self, seconds: float) -> None:
        """Let time pass; count how long the check's own coins had no stop."""
        if self.held > 0 and not any(order.is_stop and order.status == "NEW" for order in self.orders.values()):
            self.bare_s += seconds
        self.now += max(int(seconds * 1000), 1)
        due = [event for event in self.later if event[0] <= self.now]
        self.later = [event for event in self.later if event not in due]
        for _, do in due:
            do()

    def trade(self, name: str, side: int, quantity: str) -> None:
        """Execute a market order."""
        number = len(self.orders) + 1
        self.orders[name] = Order(number, side, Decimal(quantity), status="FILLED", executed=Decimal(quantity))
        row = {"orderId": number, "side": "BUY" if side > 0 else "SELL", "qty": quantity, "time": self.now}
        self.trades.append(row)
        self.held += side * Decimal(quantity)

    def fill(self, name: str) -> None:
        """Execute a market order that was accepted some time ago, unless it was cancelled."""
        order = self.orders[name]
        if order.status == "NEW":
            self.trade(name, order.side, str(order.quantity))

    def rest_of(self, name: str, side: int, quantity: str, is_stop: bool) -> None:
        self.orders[name] = Order(len(self.orders) + 1, side, Decimal(quantity), is_stop)

    def name_of(self, number: int | str) -> str:
        return next((name for name, order in self.orders.items() if order.number == int(number)), "")

    async def ask(self, call: str, params: Mapping[str, Any]) -> Response:
        self.asked.append(call)
        spoilt = self.spoil(call, params)
        return spoilt if spoilt is not None else self.answer(call.removeprefix("fapiPrivate"), params)

    def answer(self, call: str, params: Mapping[str, Any]) -> Response:
        match call:
            case "PostOrder":
                return self.place(params)
            case "PostAlgoOrder":
                self.rest_of(params["clientAlgoId"], -1, params["quantity"], True)
            case "GetOrder" | "GetAlgoOrder":
                name = params.get("origClientOrderId") or params.get("clientAlgoId") or self.name_of(params["orderId"])
                return Response(200, body=self.orders[name].body(name)) if name in self.orders else GONE
            case "DeleteOrder" | "DeleteAlgoOrder":
                self.orders[params.get("origClientOrderId") or params["clientAlgoId"]].status = "CANCELED"
            case "V3GetPositionRisk":
                return Response(200, body=[{"symbol": "BTCUSDT", "positionAmt": str(self.held)}])
            case "GetOpenOrders" | "GetOpenAlgoOrders":
                wanted = [(n, o) for n, o in self.orders.items() if o.status == "NEW" and o.is_stop == ("Algo" in call)]
                return Response(200, body=[order.body(name) for name, order in wanted])
            case "GetUserTrades":
                return Response(200, body=self.trades)
            case "fapiPublicGetTickerBookTicker":
                return Response(200, body={"bidPrice": "77000.05", "askPrice": "77000.15"})
        return Response(200, body={})

    def place(self, params: Mapping[str, Any]) -> Response:
        if params.get("reduceOnly") == "true" and self.held <= 0:
            return Response(400, -2022, "ReduceOnly Order is rejected.")
        side, quantity = (1 if params["side"] == "BUY" else -1), Decimal(params["quantity"])
        quantity, name = min(quantity, self.held) if side < 0 else quantity, params["newClientOrderId"]
        if self.fills_after_ms:
            self.rest_of(name, side, str(quantity), False)
            self.later.append((self.now + self.fills_after_ms, lambda: self.fill(name)))
        else:
            self.trade(name, side, str(quantity))
        return Response(200, body={})


@dataclass
class Check:
    """A check that has bought, and is interrupted then."""

    account: Account
    sent: SentOrders = field(default_factory=SentOrders)

    async def place(self, name: str, side: str, *, stop: bool = False) -> Response:
        given = {"side": side, "quantity": "0.002"}
        given |= {"clientAlgoId": OURS + name} if stop else {"newClientOrderId": OURS + name, "type": "MARKET"}
        call = "fapiPrivatePostAlgoOrder" if stop else "fapiPrivatePostOrder"
        return await self.sent.ask(self.account, call, given, self.account.now)  # type: ignore[arg-type]

    async def clean(self, most_s: float = 3_600.0) -> str:
        """Clean up; return what is said to be others'."""
        account, until = self.account, self.account.now + int(most_s * 1000)
        work = CleanUp(account, account, TERMS, self.sent)  # type: ignore[arg-type]
        task = asyncio.create_task(work.run())
        while not task.done():
            assert account.now < until, "the clean-up doesn't end"
            await REAL_SLEEP(0)
        await task
        assert not [name for name, order in account.orders.items() if name.startswith(OURS) and order.status == "NEW"]
        return await work.of_others()


REAL_SLEEP = asyncio.sleep


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    found = Account()
    monkeypatch.setattr("voltrade.engine.demo_check.cleanup.asyncio", virtual(found))
    return found


def virtual(account: Account) -> SimpleNamespace:
    async def sleep(seconds: float) -> None:
        await account.sleep(seconds)
        await REAL_SLEEP(0)

    return SimpleNamespace(sleep=sleep, gather=asyncio.gather)


def during(until: int, account: Account, response: Response, *calls: str) -> Callable[..., Response | None]:
    """Answer some requests with this until a time."""

    def spoil(call: str, params: Mapping[str, Any]) -> Response | None:
        return response if account.now < until and call.removeprefix("fapiPrivate") in calls else None

    return spoil


def test_a_position_is_closed_before_its_stop_is_cancelled(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        await check.place("2s", "SELL", stop=True)
        account.spoil = during(account.now + 240_000, account, DOWN, "PostOrder")
        assert await check.clean() == ""

    asyncio.run(story())
    assert (account.held, account.bare_s) == (0, 0)
    assert account.now >= 1_240_000


@pytest.mark.parametrize("fills_after_ms", [700, 3_000])
def test_an_exit_that_executes_a_moment_later_is_waited_for(account: Account, fills_after_ms: int) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.fills_after_ms = fills_after_ms
        await check.clean(10)

    asyncio.run(story())
    assert account.held == 0
    assert account.asked.count("fapiPrivatePostOrder") == 2
    assert "fapiPrivateDeleteOrder" not in account.asked


def test_a_position_that_can_not_be_closed_gets_a_stop(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = during(account.now + 60_000, account, DOWN, "PostOrder")
        await check.clean()

    asyncio.run(story())
    assert (account.held, account.bare_s) == (0, 0)
    assert account.asked.count("fapiPrivatePostAlgoOrder") == 1


@pytest.mark.parametrize("hidden_s", [60, 300])
def test_an_accepted_stop_that_is_seen_minutes_later_is_cancelled(account: Account, hidden_s: int) -> None:
    """Neither queries, nor cancels, nor the list find it until then."""

    def spoil(call: str, params: Mapping[str, Any]) -> Response | None:
        if account.now >= 1_000_000 + hidden_s * 1000:
            return None
        return Response(200, body=[]) if call == "fapiPrivateGetOpenAlgoOrders" else hidden.get(call)

    hidden = {
        "fapiPrivateGetAlgoOrder": GONE,
        "fapiPrivateDeleteAlgoOrder": Response(400, -2011, "Unknown order sent."),
    }

    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        await check.place("2s", "SELL", stop=True)
        account.spoil = spoil
        assert await check.clean(hidden_s + 30) == ""

    asyncio.run(story())
    assert account.held == 0
    assert account.asked.count("fapiPrivatePostAlgoOrder") == 1


@pytest.mark.parametrize("code", [-2011, -4141])
def test_a_stop_without_an_answer_that_a_query_refuses_is_not_found(
    account: Account, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        check = Check(account)
        account.spoil = lambda call, params: LOST
        await check.place("1s", "SELL", stop=True)
        account.spoil = during(2_000_000, account, Response(400, code, "Unknown order sent."), "GetAlgoOrder")
        await check.clean(30)

    asyncio.run(story())
    assert f"code {code} for an order: taken as not found" in caplog.text


@pytest.mark.parametrize("refused", [DOWN, *(Response(400, code) for code in (-1021, -2015, -2012))])
@pytest.mark.parametrize("is_listed", [False, True])
def test_a_stop_without_an_answer_that_can_not_be_looked_up_ends_by_the_lists(
    account: Account, refused: Response, is_listed: bool
) -> None:
    """Two without it once it is late, and none before; while it is listed it is cancelled."""

    async def story() -> None:
        check = Check(account)
        account.spoil = lambda call, params: LOST
        await check.place("1s", "SELL", stop=True)
        if is_listed:
            account.later.append((account.now + 9_500, lambda: account.rest_of(OURS + "1s", -1, "0.002", True)))
        account.spoil = during(2_000_000, account, refused, "GetAlgoOrder")
        await check.clean(60)

    asyncio.run(story())
    assert account.now >= 1_010_000
    assert account.asked.count("fapiPrivateDeleteAlgoOrder") == is_listed


@pytest.mark.parametrize("status", [400, 401, 503])
@pytest.mark.parametrize("code", [0, -1000, -1021, -2011, -2012, -2013, -2014, -2015, -4117, -4141, -20124])
def test_which_answers_say_that_there_is_no_such_order(status: int, code: int) -> None:
    """Not those about the request, the key, or an order in motion."""
    is_told = code in (-2013, -20124) or (status == 400 and code in (-2011, -4141))
    assert is_not_found(Response(status, code)) == is_told


def test_an_accepted_stop_that_no_query_finds_ends_with_its_cancel(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1s", "SELL", stop=True)
        account.spoil = during(2_000_000, account, GONE, "GetAlgoOrder")
        await check.clean(30)

    asyncio.run(story())
    assert account.asked.count("fapiPrivateDeleteAlgoOrder") == 1


@pytest.mark.parametrize("looked_up", ["absent", "not answered"])
def test_orders_without_an_answer_do_not_flood_the_exchange(account: Account, looked_up: str) -> None:
    """One exit and one stop may be undecided, and what is over is not asked for again."""

    async def story() -> None:
        check, until = Check(account), account.now + 1_800_000
        await check.place("1e", "BUY")
        calls = ["PostOrder", "PostAlgoOrder", *(["GetOrder", "GetAlgoOrder"] if looked_up == "not answered" else [])]
        account.spoil = during(until, account, LOST, *calls)
        await check.clean()

    asyncio.run(story())
    assert account.held == 0
    assert len(account.asked) < 30 * 90
    assert len(account.orders) <= 3


@pytest.mark.parametrize("executes_after_s", [3.9, 9.9])
def test_an_order_in_flight_that_executes_late_is_closed(account: Account, executes_after_s: float) -> None:
    async def story() -> None:
        check = Check(account)
        account.spoil = lambda call, params: Response(NO_ANSWER)
        await check.place("1e", "BUY")
        account.spoil = lambda call, params: None
        at = account.now + int(executes_after_s * 1000)
        account.later.append((at, lambda: account.trade(OURS + "1e", 1, "0.002")))
        await check.clean()

    asyncio.run(story())
    assert account.held == 0
    assert not account.later


def test_a_position_that_is_read_late_is_closed(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        flat = Response(200, body=[])
        account.spoil = during(account.now + 3_000, account, flat, "V3GetPositionRisk", "GetOpenOrders")
        await check.clean()

    asyncio.run(story())
    assert account.held == 0


def test_an_order_that_was_accepted_and_is_not_found_yet_counts_as_executed(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = during(account.now + 3_000, account, GONE, "GetOrder")
        await check.clean()

    asyncio.run(story())
    assert account.held == 0


def test_while_no_order_can_be_looked_up_the_answers_and_the_position_count(account: Account) -> None:
    held: list[Decimal] = []

    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = during(account.now + 60_000, account, DOWN, "GetOrder")
        account.later.append((account.now + 2_000, lambda: held.append(account.held)))
        await check.clean()

    asyncio.run(story())
    assert held == [0]
    assert account.asked.count("fapiPrivatePostOrder") == 2


def never_found(name: str, *also_by: str) -> Callable[..., Response | None]:
    """Answer that there is no order of a name, as a machine of the exchange does that has not heard of it."""

    def spoil(call: str, params: Mapping[str, Any]) -> Response | None:
        by = {"origClientOrderId", *also_by} & params.keys()
        named = params.get("origClientOrderId", name) == name
        return GONE if call == "fapiPrivateGetOrder" and by and named else None

    return spoil


async def lose_the_answer(check: Check, name: str = "1e") -> None:
    """Buy without an answer; whether it executes is up to the test."""
    check.account.spoil = lambda call, params: Response(NO_ANSWER)
    await check.place(name, "BUY")


@pytest.mark.parametrize("after_s", [0.0, 3.9, 9.9])
@pytest.mark.parametrize("found_by", ["its number", "its trades"])
@pytest.mark.parametrize("is_watcher", [False, True])
def test_an_order_without_an_answer_that_no_query_finds_is_closed(
    account: Account, after_s: float, found_by: str, is_watcher: bool
) -> None:
    async def story() -> str:
        check = Check(account)
        await lose_the_answer(check)
        account.spoil = never_found(OURS + "1e", *(["orderId"] if found_by == "its trades" else []))
        account.later.append((account.now + int(after_s * 1000), lambda: account.trade(OURS + "1e", 1, "0.002")))
        await account.sleep(0)
        for order in check.sent.by_name.values() if is_watcher else ():
            order.sent = account.now + 2_000  # a process that takes over knows only that it was not sent later
        return await check.clean()

    assert asyncio.run(story()) == ""
    assert account.held == 0
    assert not account.later
    assert account.asked.count("fapiPrivatePostOrder") == 2


@pytest.mark.parametrize(("side", "quantity", "sent_after_s"), [(1, "0.002", 0), (1, "0.003", 0), (1, "0.002", 2)])
def test_a_trade_that_can_not_be_an_order_without_an_answer_is_left_alone(
    account: Account, side: int, quantity: str, sent_after_s: int
) -> None:
    """By its order's name; and by its size or time where that is not known."""

    async def story() -> str:
        check = Check(account)
        account.trade("web_1", side, quantity)
        account.now += sent_after_s * 1000
        await lose_the_answer(check)
        is_name_known = (quantity, sent_after_s) == ("0.002", 0)
        account.spoil = never_found(OURS + "1e", *([] if is_name_known else ["orderId"]))
        return await check.clean()

    assert asyncio.run(story()) == f"a position of {quantity}"
    assert account.held == Decimal(quantity)
    assert account.asked.count("fapiPrivatePostOrder") == 1


def test_while_trades_can_not_be_read_an_order_without_an_answer_holds_the_clean_up(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await lose_the_answer(check)
        account.trade(OURS + "1e", 1, "0.002")
        is_hidden, no_trades = never_found(OURS + "1e"), during(account.now + 60_000, account, DOWN, "GetUserTrades")
        late = during(account.now + 60_000, account, Response(200, body=[]), "V3GetPositionRisk")
        account.spoil = lambda call, params: next(
            (found for spoil in (is_hidden, no_trades, late) if (found := spoil(call, params))), None
        )
        await check.clean()

    asyncio.run(story())
    assert account.held == 0


def test_an_order_that_the_last_reading_of_trades_finds_is_closed(account: Account) -> None:
    """Trades and position show it late: the last ones beside a position that is somebody else's."""

    def spoil(call: str, params: Mapping[str, Any]) -> Response | None:
        is_last = account.now >= 1_010_000 and account.asked[-2] == "fapiPrivateV3GetPositionRisk"
        if call == "fapiPrivateGetUserTrades" and not is_last and account.now < 1_012_000:
            return Response(200, body=account.trades[:1])
        if call == "fapiPrivateV3GetPositionRisk" and account.now < 1_012_000:
            return Response(200, body=[{"symbol": "BTCUSDT", "positionAmt": "0.050"}])
        return never_found(OURS + "1e", "orderId")(call, params)

    async def story() -> str:
        check = Check(account)
        account.trade("web_1", 1, "0.050")
        await lose_the_answer(check)
        account.trade(OURS + "1e", 1, "0.002")
        account.spoil = spoil
        return await check.clean()

    assert asyncio.run(story()) == "a position of 0.050"
    assert account.held == Decimal("0.050")


@pytest.mark.parametrize(
    ("status", "child", "child_status", "most_s"),
    [
        ("FINISHED", "", "", 60),
        ("FINISHED", "77", "", 60),
        ("TRIGGERING", "", "", 60),
        ("TRIGGERED", "77", "EXPIRED", 5),
        ("TRIGGERED", "77", "REJECTED", 5),
        ("TRIGGERED", "77", "FILLED", 5),
    ],
)
def test_a_stop_that_can_sell_nothing_more_ends_the_clean_up(
    account: Account, status: str, child: str, child_status: str, most_s: float
) -> None:
    asyncio.run(with_a_stop(account, status, child, child_status, most_s))
    assert account.now - 1_000_000 < most_s * 1000


@pytest.mark.parametrize(
    ("held", "child_status", "at_s", "becomes", "ends_s"),
    [
        ("0", "", 25, "TRIGGERED", 55),  # its state changes
        ("0", "NEW", 300, "EXPIRED", 300),  # the order that it became is open
        ("0.050", "", 300, "CANCELED", 300),  # somebody else has coins that it could sell
    ],
)
def test_a_stop_that_may_still_sell_holds_the_clean_up(
    account: Account, held: str, child_status: str, at_s: int, becomes: str, ends_s: int
) -> None:
    def become() -> None:
        account.orders["child" if child_status else OURS + "1s"].status = becomes

    account.held = Decimal(held)
    account.trades = [{"orderId": 9, "side": "BUY", "qty": held, "time": account.now}]
    account.later.append((account.now + at_s * 1000, become))
    asyncio.run(with_a_stop(account, "TRIGGERING", "77" if child_status else "", child_status, 600))
    assert ends_s <= (account.now - 1_000_000) / 1000 < ends_s + 15


async def with_a_stop(account: Account, status: str, child: str, child_status: str, most_s: float) -> None:
    """Clean up after a check whose stop, and the order that it became, have these states."""
    check = Check(account)
    await check.place("1s", "SELL", stop=True)
    account.orders[OURS + "1s"].status, account.orders[OURS + "1s"].child = status, child
    if child_status:
        account.orders["child"] = Order(77, -1, Decimal("0.002"), status=child_status)
    await check.clean(most_s)


def test_the_watching_process_ends_well_where_it_can_not_read_what_is_others(
    account: Account, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(*_: object) -> None: ...

    def spoil(call: str, params: Mapping[str, Any]) -> Response | None:
        is_over = call == "fapiPrivateGetOpenOrders" and "fapiPrivateGetOpenAlgoOrders" in account.asked
        return DOWN if is_over else None

    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = spoil
        given = {
            "key": KEY,
            "secret": SECRET,
            "endpoint": asdict(Endpoint.simulated("http://127.0.0.1:9", "ws://127.0.0.1:9")),
        }
        await watcher.clean_up({**given, "terms": asdict(TERMS) | {"tick": "0.1"}}, check.sent)

    class Clock:
        sync = staticmethod(nothing)

        def __call__(self) -> int:
            return account.now

    monkeypatch.setattr(watcher, "WallClock", Clock)
    monkeypatch.setattr(Account, "close", nothing, raising=False)
    monkeypatch.setattr(watcher, "connect", lambda *_: account)
    monkeypatch.setattr(watcher, "BinanceRestClient", lambda *_: account)
    asyncio.run(story())
    assert account.held == 0
    assert "nothing of the check is left open; not the check's: unknown" in caplog.text


@pytest.mark.parametrize("part", ["flat again", "clean-up"])
def test_what_a_clean_up_waits_for_is_told_with_its_seconds(part: str) -> None:
    told, seconds = list[str](), iter([0.0, 0.0, 3.0])
    notice = WaitNotice(told.append, lambda row: None, lambda: next(seconds))
    notice.begin_part(part)
    notice.look()
    notice.look()
    late_s = (Config.from_parameters().execution.recv_window_ms + ABSENCE_MARGIN_MS) // 1000
    text = f"a late fill of an order whose answer was lost, {late_s} s (recv_window_ms + {ABSENCE_MARGIN_MS // 1000} s)"
    assert told == [f"..  {part}: waiting for {text}, and until nothing is open; 3 s so far"]


def test_hours_without_an_exchange_end_nothing_and_a_ban_is_waited_for(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = lambda call, params: Response(418, -1003) if account.now < 8_000_000 else None
        account.blocked_until = 8_000_000
        asked = len(account.asked)
        await check.clean(10_000)
        assert sum(account.now >= 0 for _ in account.asked[asked:]) < 2_000

    asyncio.run(story())
    assert account.held == 0


def test_a_simulated_venue_that_is_gone_is_not_waited_for(account: Account) -> None:
    async def story() -> None:
        check = Check(account)
        await check.place("1e", "BUY")
        account.spoil = lambda call, params: Response(NO_ANSWER)
        terms = replace(TERMS, is_simulated=True)
        await CleanUp(account, account, terms, check.sent).run()  # type: ignore[arg-type]

    with pytest.raises(SessionError, match="may be gone"):
        asyncio.run(story())
    assert 900_000 < account.now - 1_000_000 < 1_000_000


def test_only_what_the_check_bought_is_sold_and_only_its_own_orders_are_cancelled(account: Account) -> None:
    async def story() -> str:
        check = Check(account)
        await check.place("1e", "BUY")
        account.trade("web_1", 1, "0.050")
        account.rest_of("web_2", -1, "0.050", True)
        account.rest_of("vt-other-1e1", 1, "0.002", False)
        return await check.clean()

    left = asyncio.run(story())
    assert account.held == Decimal("0.050")
    assert left == "a position of 0.050, vt-other-1e1, web_2"
    assert [account.orders[name].status for name in ("web_2", "vt-other-1e1")] == ["NEW", "NEW"]


def test_what_others_buy_is_not_sold_for_an_order_that_can_not_be_looked_up(account: Account) -> None:
    """The order never reached the exchange; until a query says so, a stop covers what it may have bought."""

    async def story() -> str:
        check = Check(account)
        account.spoil = lambda call, params: LOST
        await check.place("1e", "BUY")
        account.trade("web_1", 1, "0.050")
        account.spoil = during(account.now + 30_000, account, DOWN, "GetOrder")
        return await check.clean(120)

    assert asyncio.run(story()) == "a position of 0.050"
    assert account.asked.count("fapiPrivatePostOrder") == 1
    assert account.asked.count("fapiPrivatePostAlgoOrder") == 1


@pytest.mark.parametrize("sold", ["0.002", "0.010"])
@pytest.mark.parametrize("stop", ["NEW", "TRIGGERING"])
def test_what_the_user_has_closed_by_hand_is_not_sold_again(account: Account, sold: str, stop: str) -> None:
    """Nor where the account was turned short by hand."""

    async def story() -> str:
        check = Check(account)
        await check.place("1e", "BUY")
        await check.place("2s", "SELL", stop=True)
        account.orders[OURS + "2s"].status = stop
        account.trade("web_1", -1, sold)
        return await check.clean(120)

    assert asyncio.run(story()) == ("a position of -0.008" if sold == "0.010" else "")
    assert account.held == Decimal("0.002") - Decimal(sold)


def test_nothing_is_bought_once_nobody_would_clean_up(account: Account) -> None:
    check = Check(account)
    check.sent.is_watched = lambda: False
    with pytest.raises(SessionError, match="nothing more is bought"):
        asyncio.run(check.place("1e", "BUY"))
    assert account.asked == []


def test_a_record_that_can_not_be_written_raises_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, account = FrameRecord(tmp_path / "frames.jsonl"), Account()
    record.write(account, "answer")  # type: ignore[arg-type]
    assert record.is_complete
    with monkeypatch.context() as patch:
        patch.setattr("voltrade.engine.demo_check.frames.os.write", full_disk)
        record.write(account, "answer")  # type: ignore[arg-type]
    record.close()
    record.write(account, "answer")  # type: ignore[arg-type]
    assert not record.is_complete
    assert (tmp_path / "frames.jsonl").read_text().count("\n") == 1


def full_disk(file: int, data: bytes) -> int:
    raise OSError(ENOSPC, "No space left on device")


def test_output_that_nobody_takes_holds_nobody() -> None:
    """A pipe that is full, as a terminal after Ctrl-S: lines are taken at once, and written when it goes on."""
    reading, writing = os.pipe()
    taken: list[bytes] = []
    with open(writing, "w") as held, Terminal() as terminal:
        for number in range(100):
            terminal.print(f"{number} {'x' * 2_000}", held)
        logging.getLogger("a").warning("said too")
        reader = Thread(target=lambda: taken.extend(iter(partial(os.read, reading, 65_536), b"")))
        reader.start()
    reader.join()
    os.close(reading)
    assert [line.split()[0] for line in b"".join(taken).splitlines()] == [b"%d" % number for number in range(100)]


# --- the process that watches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_done", [False, True])
def test_a_second_process_closes_what_a_check_that_was_killed_has_left(is_done: bool, tmp_path: Path) -> None:
    """The check's end of the line is closed, as when it dies; one that says that all is done is left alone."""
    left = asyncio.run(killed(tmp_path, is_done))
    assert left == (("0.002", 1) if is_done else ("0", 0))


async def killed(folder: Path, is_done: bool) -> tuple[str, int]:
    """Buy and place a stop before a line is closed; return position and number of stops when its process has ended."""
    config = Config.from_parameters(speed=1.0, mark_interval_s=1, begin_s=200.0)
    venue = await serve(config, tape(), log_dir=folder, api_key=KEY, api_secret=SECRET)
    endpoint = Endpoint.simulated(venue.rest_url, venue.rest_url.replace("http", "ws", 1))
    exchange = connect(endpoint, Credentials(KEY, SECRET), WallClock(), 500)
    rest, terms = BinanceRestClient(exchange), replace(TERMS, recv_window_ms=500)
    try:
        watching = await Watcher.start(exchange, endpoint, terms)
        sent, now = SentOrders(watching.tell), exchange.clock()
        buy = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.002"}
        stop = {"symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET", "algoType": "CONDITIONAL"}
        stop |= {"triggerPrice": "60000", "closePosition": "true", "clientAlgoId": OURS + "2s"}
        for call, params in ((ORDER, {**buy, "newClientOrderId": OURS + "1e"}), (STOP, stop)):
            assert (await sent.ask(rest, call, params, now)).status == 200
        await watching.dismiss() if is_done else watching.close()
        while watching.is_there():
            await asyncio.sleep(0.05)
        held = (await rest.read("fapiPrivateV3GetPositionRisk", {"symbol": "BTCUSDT"}) or [{"positionAmt": "0"}])[0]
        stops = await rest.read("fapiPrivateGetOpenAlgoOrders", {"symbol": "BTCUSDT"})
        return f"{Decimal(held['positionAmt']).normalize():f}", len(stops)
    finally:
        await exchange.close()
        await venue.close()


STOPS = """
import asyncio, json, os, signal, sys
from test_demo_check_cleanup import ORDER, OURS, TERMS, BinanceRestClient, Credentials, Endpoint, KEY, SECRET
from test_demo_check_cleanup import SentOrders, WallClock, Watcher, connect, replace, watcher

async def check():
    endpoint = Endpoint.simulated(sys.argv[1], sys.argv[1].replace("http", "ws", 1))
    exchange = connect(endpoint, Credentials(KEY, SECRET), WallClock(), 500)
    watcher.SILENT_S = 2.0
    watching = await Watcher.start(exchange, endpoint, replace(TERMS, recv_window_ms=500))
    sent = SentOrders(watching.tell)
    buy = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.002", "newClientOrderId": OURS + "1e"}
    assert (await sent.ask(BinanceRestClient(exchange), ORDER, buy, exchange.clock())).status == 200
    await asyncio.sleep(2.5)  # lives for longer than a silence
    print(watching.is_there(), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(check())
"""


def test_a_check_that_stands_still_is_killed_and_what_it_has_bought_is_sold(tmp_path: Path) -> None:
    """Nobody else would look after its position while it can't go on, and it must not go on beside the clean-up."""

    async def story() -> tuple[int | None, bytes, Decimal]:
        config = Config.from_parameters(speed=1.0, mark_interval_s=1, begin_s=200.0)
        venue = await serve(config, tape(), log_dir=tmp_path, api_key=KEY, api_secret=SECRET)
        endpoint = Endpoint.simulated(venue.rest_url, venue.rest_url.replace("http", "ws", 1))
        exchange = connect(endpoint, Credentials(KEY, SECRET), WallClock(), 500)
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STOPS, venue.rest_url), stdout=PIPE, env={**os.environ, **paths}
        )
        try:
            said, _ = await asyncio.wait_for(run.communicate(), 60)  # the second process has the same output
            held = await BinanceRestClient(exchange).read("fapiPrivateV3GetPositionRisk", {"symbol": "BTCUSDT"})
            return run.returncode, said, sum((Decimal(row["positionAmt"]) for row in held), Decimal(0))
        finally:
            await exchange.close()
            await venue.close()

    assert asyncio.run(story()) == (-signal.SIGKILL, b"True\n", 0)


@pytest.mark.parametrize(("last", "is_done"), [(b"done\n", True), (b'{"name', False)])
def test_what_was_said_before_a_silence_counts(last: bytes, is_done: bool) -> None:
    ours, theirs = socket.socketpair()
    killed, notes = list[int](), list[dict[str, Any]]()

    def kill() -> None:
        killed.append(len(notes))
        if len(killed) == 1:
            ours.sendall(b'{"name": 2}\n' + last)

    with ours, theirs:
        ours.sendall(b'\n\n{"name": 1}\n\n')
        assert watcher.follow(watcher.heard(theirs, 0.05, kill), notes.append) is is_done
    assert notes == [{"name": 1}, {"name": 2}]
    assert killed == ([1] if is_done else [1, 2])


def test_nothing_is_bought_beside_a_second_process_that_no_longer_listens() -> None:
    ours, theirs = socket.socketpair()
    process: Any = SimpleNamespace(poll=lambda: None)
    with ours, theirs:
        ours.setblocking(False)
        watching = Watcher(process, ours)
        watching.tell({"name": "first"})
        assert watching.is_there()
        with suppress(BlockingIOError):
            while True:
                ours.send(b"\n" * 4_096)
        watching.tell({"name": "second"})
        assert not watching.is_there()


def test_signals_only_ask_for_the_end_however_often_they_come() -> None:
    cleaned, asked = list[str](), [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP]

    async def check() -> None:
        try:
            for number in asked:
                os.kill(os.getpid(), number)
            await asyncio.sleep(30)
        finally:
            for number in asked:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.01)
            cleaned.append("to the end")

    with pytest.raises(asyncio.CancelledError):
        run_to_the_end(check())
    assert cleaned == ["to the end"]
