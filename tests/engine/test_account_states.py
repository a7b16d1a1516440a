"""States of account, key and symbol: doctor and the start let each pass, or name what helps, before any order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from support.builders import an_instrument
from support.fake_binance import EXCHANGE_INFO, KEY, SECRET, Asked, FakeBinance, Say, error

from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.engine import modes
from voltrade.engine.account_checks import open_orders
from voltrade.engine.checks import Check, refused
from voltrade.engine.demo_check import check
from voltrade.engine.demo_check.passed import exchange_version, keep_passed
from voltrade.engine.doctor import _threshold, examine
from voltrade.engine.engine import Engine
from voltrade.engine.engine_process import run as run_engine
from voltrade.engine.permission import confirmation_text
from voltrade.errors import SessionError
from voltrade.exchange.account_facts import AccountFacts
from voltrade.exchange.binance import LIVE, Endpoint
from voltrade.exchange.credentials import Credentials
from voltrade.model import MONEY, PositionReport, Snapshot
from voltrade.orders.records import OrderRow, PositionRow
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import NOT_READ, FinalState, accounts_home, file_name

KEYS = {"VOLTRADE_API_KEY": KEY, "VOLTRADE_API_SECRET": SECRET}
ACCOUNT = Credentials(KEY, SECRET).fingerprint
HOUR_MS = 3_600_000
RIGHTS = {
    **{"ipRestrict": True, "enableReading": True, "enableFutures": True, "enableWithdrawals": False},
    **{"permitsUniversalTransfer": False, "enableInternalTransfer": False, "enablePortfolioMarginTrading": False},
}


def now() -> int:
    return int(time.time() * 1000)


def held(asset: str, wallet: str, available: str | None = None) -> dict[str, Any]:
    return {"asset": asset, "walletBalance": wallet, "availableBalance": wallet if available is None else available}


def risk(quantity: str) -> dict[str, Any]:
    return {
        **{"symbol": "BTCUSDT", "positionSide": "BOTH", "positionAmt": quantity, "entryPrice": "60000.0"},
        **{"unRealizedProfit": "0.0"},
    }


def an_order(symbol: str, name: str) -> dict[str, Any]:
    return {
        **{"symbol": symbol, "clientOrderId": name, "orderId": 7, "side": "BUY", "type": "LIMIT", "status": "NEW"},
        **{"origQty": "0.004", "executedQty": "0", "cumQuote": "0", "price": "50000.0", "timeInForce": "GTC"},
        **{"origType": "LIMIT", "reduceOnly": False, "closePosition": False, "updateTime": 1, "avgPrice": "0"},
    }


def an_algo(symbol: str, name: str) -> dict[str, Any]:
    return {
        **{"symbol": symbol, "clientAlgoId": name, "algoId": 8, "side": "SELL", "orderType": "STOP_MARKET"},
        **{"algoStatus": "NEW", "quantity": "0.004", "triggerPrice": "50000.0", "reduceOnly": True, "updateTime": 1},
        **{"closePosition": False, "workingType": "CONTRACT_PRICE", "algoType": "CONDITIONAL"},
    }


class Account:
    """An account that is right in every respect, until a state changes what Binance says of it."""

    def __init__(self, fake: FakeBinance) -> None:
        self.fake = fake
        self.info = deepcopy(EXCHANGE_INFO["symbols"][0])  # type: ignore[index]
        self.info |= {"contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000}
        self.get("time", lambda _: Say(body={"serverTime": now()}))
        self.get("exchangeInfo", lambda _: Say(body={"serverTime": now(), "symbols": [self.info]}))
        self.get("premiumIndex", {"symbol": "BTCUSDT", "markPrice": "60000.00000000"})
        self.get("commissionRate", {"takerCommissionRate": "0.0005", "makerCommissionRate": "0.0002"})
        self.config()
        self.settings()
        self.holds(held("USDT", "10000"))
        self.position("0.000")
        self.orders()
        self.get("userTrades", [])
        fake.always["GET", "/fapi/v3/balance"] = Say(body=[{"accountAlias": "sgTest"}])
        fake.always["POST", "/fapi/v1/order/test"] = Say(body={})
        self.rights()

    def get(self, path: str, answer: Any) -> None:
        self.fake.always["GET", f"/fapi/v1/{path}"] = (
            answer if callable(answer) or isinstance(answer, Say) else Say(body=answer)
        )

    def config(self, **changed: bool) -> None:
        self.flags = {"canTrade": True, "dualSidePosition": False, "multiAssetsMargin": False} | changed
        self.get("accountConfig", self.flags)

    def settings(self, margin: str = "ISOLATED", leverage: int = 5) -> None:
        self.margin, self.leverage = margin, leverage
        self.get("symbolConfig", [{"symbol": "BTCUSDT", "marginType": margin, "leverage": leverage}])

    def holds(self, *assets: dict[str, Any], positions: Any = ()) -> None:
        self.account = {"assets": list(assets), "positions": list(positions)}
        self.fake.always["GET", "/fapi/v3/account"] = Say(body=self.account)

    def position(self, quantity: str) -> None:
        self.fake.always["GET", "/fapi/v3/positionRisk"] = Say(body=[risk(quantity)])
        self.account["positions"] = [{"symbol": "BTCUSDT", "positionAmt": quantity}]

    def orders(self, *orders: dict[str, Any], algos: Any = ()) -> None:
        def of(rows: list[dict[str, Any]]) -> Callable[[Any], Say]:
            return lambda asked: Say(body=[row for row in rows if asked.params.get("symbol") in (None, row["symbol"])])

        self.get("openOrders", of(list(orders)))
        self.get("openAlgoOrders", of(list(algos)))

    def rights(self, **changed: Any) -> None:
        told = {name: value for name, value in (RIGHTS | changed).items() if value is not None}
        self.fake.always["GET", "/sapi/v1/account/apiRestrictions"] = Say(body=told)

    def takes_settings(self) -> None:
        """Change what Binance says of the account once a setting is sent, and refuse orders in hedge mode till then."""
        account = self.fake.always

        def leverage(asked: Asked) -> Say:
            self.settings(self.margin, int(asked.params["leverage"]))
            return Say(body={"leverage": self.leverage})

        def margin(asked: Asked) -> Say:
            self.settings(asked.params["marginType"], self.leverage)
            return Say(body={"code": 200, "msg": "success"})

        def one_way(_: Asked) -> Say:
            if not self.flags["dualSidePosition"]:
                return error(-4059, "No need to change position side.")
            self.config()
            account["POST", "/fapi/v1/order/test"] = Say(body={})
            return Say(body={"code": 200, "msg": "success"})

        for path, answer in (("leverage", leverage), ("marginType", margin), ("positionSide/dual", one_way)):
            account["POST", f"/fapi/v1/{path}"] = answer

    def refuses(self, code: int, text: str, status: int = 400) -> None:
        self.fake.always["POST", "/fapi/v1/order/test"] = error(code, text, status)

    def refuses_above(self, quantity: str, code: int, text: str) -> None:
        def answer(asked: Asked) -> Say:
            return error(code, text) if Decimal(asked.params["quantity"]) > Decimal(quantity) else Say(body={})

        self.fake.always["POST", "/fapi/v1/order/test"] = answer

    def denies(self, path: str, code: int, text: str, status: int = 400) -> None:
        self.fake.always["GET", path] = error(code, text, status)

    def follows(self, kind: str, market: str = "EQUITY") -> None:
        """Trade a contract on stocks, whose market has such hours for an hour from now on."""
        self.traded(kind="TRADIFI_PERPETUAL")
        self.info["underlyingType"] = "EQUITY"
        hours = {"startTime": now() - 60_000, "endTime": now() + HOUR_MS, "type": kind}
        schedule = {"updateTime": now(), "marketSchedules": {market: {"sessions": [hours]}}}
        self.get("tradingSchedule", schedule)

    def traded(self, status: str = "TRADING", kind: str = "PERPETUAL", delivered_in_ms: int = 0) -> None:
        self.info |= {"status": status, "contractType": kind}
        if delivered_in_ms:
            self.info["deliveryDate"] = now() + delivered_in_ms


State = Callable[[Account], Any]
OTHER = [{"symbol": "ETHUSDT", "positionAmt": "-0.5"}]
SETS = r"\(-p apply_account_settings True sets it\)"

STATES: dict[str, tuple[State, dict[str, Any], str]] = {
    # state: how it comes about, parameters, and what the refusal names (empty: it works)
    "a flat account at the settings": (lambda a: None, {}, ""),
    "more than the capital": (lambda a: a.holds(held("USDT", "25000")), {}, ""),
    "other assets beside it": (lambda a: a.holds(held("USDT", "10000"), held("BNB", "1.5")), {}, ""),
    "a stop of an earlier session": (lambda a: a.orders(algos=[an_algo("BTCUSDT", "vt-x-1s1")]), {}, ""),
    "what our last session left": (lambda a: a.position("0.004"), {"left": 4}, ""),
    "what it left, and its margin": (
        lambda a: (a.holds(held("USDT", "10000", "9940")), a.position("0.004")), {"left": 4}, ""),
    "what it left, which has all of the margin": (
        lambda a: (a.position("0.004"), a.refuses(-2019, "Margin is insufficient.")), {"left": 4}, ""),
    "no margin, and no position that has it": (
        lambda a: a.refuses(-2019, "Margin is insufficient."), {}, "smallest order: .*refused with -2019"),
    "a part of what it left": (lambda a: a.position("0.003"), {"left": 4}, ""),
    "what it left, counted in larger steps": (lambda a: a.position("0.010"), {"left": 1, "step": "0.01"}, ""),
    "an entry that it had sent has filled": (lambda a: a.position("0.004"), {"left": 0, "entry": 4}, ""),
    "the rest of an entry has filled": (lambda a: a.position("-0.006"), {"left": -2, "entry": -4}, ""),
    "capital that buys the least order": (lambda a: None, {"capital": 100}, ""),
    "less capital than the wallet": (lambda a: a.holds(held("USDT", "5000")), {"capital": 4_000}, ""),
    "delisting after the end": (lambda a: a.traded(delivered_in_ms=2 * HOUR_MS), {"duration_s": 3600.0}, ""),
    "a key that may transfer": (lambda a: a.rights(permitsUniversalTransfer=True), {}, ""),
    "a key of any address": (lambda a: a.rights(ipRestrict=False), {}, ""),
    "unknown rights, allowed": (
        lambda a: a.denies("/sapi/v1/account/apiRestrictions", -1002, "no", 403), {"allow_unchecked": True}, ""),
    "rights that are only advised on are not told": (
        lambda a: a.rights(ipRestrict=None, permitsUniversalTransfer=None, enableInternalTransfer=None), {}, ""),
    "rights that matter are not told": (
        lambda a: a.rights(enableWithdrawals=None), {},
        "key rights: unknown: .*Withdraw.*, must be .*allow_unchecked True"),
    "a stock while its market is open": (lambda a: a.follows("AFTER_MARKET"), {}, ""),
    "a stock while its market is shut": (
        lambda a: a.follows("NO_TRADING"), {}, "contract: .*NO_TRADING until 2.*, must be TRADING: start when .* open"),
    "a stock of a market of unknown hours": (
        lambda a: a.follows("REGULAR", "FX"), {}, "contract: .*HOURS_UNKNOWN, must be TRADING: the exchange must"),
    "a stock whose hours are not answered": (
        lambda a: (a.follows("REGULAR"), a.denies("/fapi/v1/tradingSchedule", -1000, "no", 404)), {},
        "contract: TRADIFI_PERPETUAL, HOURS_UNKNOWN"),
    "a wallet below the capital": (
        lambda a: a.holds(held("USDT", "9999.99")), {}, r"wallet: 9,999\.99, must be at least .*-p capital LESS"),
    "a wallet of another asset": (
        lambda a: a.holds(held("USDC", "20000")), {}, r"wallet: 0\.00, must be at least .*10,000\.00"),
    "capital that is not free": (
        lambda a: a.holds(held("USDT", "10000", "7000")), {}, r"wallet: 10,000\.00, 7,000\.00 of it available"),
    "a position by hand": (lambda a: a.position("0.010"), {}, "position: 0.010 BTC, must be flat, .*in the app"),
    "the other way than its entry": (lambda a: a.position("-0.004"), {"left": 0, "entry": 4}, "position: -0.004"),
    "the other way than it left": (lambda a: a.position("-0.004"), {"left": 4}, "position: -0.004 BTC"),
    "a limit order by hand": (
        lambda a: a.orders(an_order("BTCUSDT", "web_x1")), {}, "open orders: 1, not ours: web_x1, must be ours only"),
    "a stop by hand": (
        lambda a: a.orders(algos=[an_algo("BTCUSDT", "android_x")]), {}, "open orders: 1, not ours: android_x"),
    "a position in another symbol": (
        lambda a: a.holds(held("USDT", "10000"), positions=OTHER), {}, "other symbols: -0.5 ETH.*sub-account"),
    "an order in another symbol": (
        lambda a: a.orders(an_order("ETHUSDT", "web_x1")), {}, "other symbols: an order in ETHUSDT"),
    "Binance's defaults": (
        lambda a: a.settings("CROSSED", 20), {},
        f"margin type: cross, must be isolated {SETS}; leverage: 20, must be 5 {SETS}"),
    "hedge mode": (
        lambda a: a.config(dualSidePosition=True), {}, f"position mode: hedge, must be one-way {SETS}"),
    "multi-assets mode": (
        lambda a: a.config(multiAssetsMargin=True), {}, "margin mode: multi-assets, must be single-asset"),
    "credits": (
        lambda a: a.holds(held("USDT", "10000"), held("BNFCR", "500")), {}, "assets: .*BNFCR 500.*credits trading: "),
    "an account that may not trade": (
        lambda a: a.config(canTrade=False), {}, "may trade: no, must be yes"),
    "a key that may withdraw": (
        lambda a: a.rights(enableWithdrawals=True), {}, "key rights: it may withdraw, must be .*no withdrawal"),
    "a key without futures": (
        lambda a: a.rights(enableFutures=False), {}, "key rights: it may not trade futures.*API Management"),
    "portfolio margin": (
        lambda a: a.rights(enablePortfolioMarginTrading=True), {}, "key rights: .*the account has portfolio margin"),
    "unknown rights": (
        lambda a: a.denies("/sapi/v1/account/apiRestrictions", -1002, "no", 403), {}, "key rights: .*allow_unchecked"),
    "a read-only key": (
        lambda a: a.refuses(-2015, "Invalid API-key, IP, or permissions", 401), {},
        "key: the key is not accepted: refused with -2015.*, must be .*--api-key.*address in its list"),
    "an unsigned stock perpetual": (
        lambda a: a.refuses(-4411, "Please sign TradFi-Perps agreement contract"), {},
        "smallest order: .*whose agreement is signed: open the symbol in Binance's app"),
    "a cooling-off account": (
        lambda a: a.refuses(-4192, "Trade forbidden due to Cooling-off Period."), {}, "refused with -4192: Trade"),
    "capital that can't buy the least order": (
        lambda a: None, {"capital": 20},
        r"largest order: less, .*, must be at least 0\.002 BTC, 120\.00 USDT: -p capital MORE"),
    "risk that can't buy the least order": (
        lambda a: None, {"risk_fraction": 0.00003}, "largest order: less, .*must be at least .*risk_fraction"),
    "margin that is too small for the largest order": (
        lambda a: a.refuses_above("0.100", -2019, "Margin is insufficient."), {},
        "largest order: .* too small: refused with -2019.*, must be .*-p capital LESS"),
    "an unknown refusal": (
        lambda a: a.refuses(-9999, "Something new."), {},
        "smallest order: refused with -9999: Something new., must be accepted"),
    "delisting within the session": (
        lambda a: a.traded(delivered_in_ms=HOUR_MS // 2), {"duration_s": 3600.0}, "contract: .*set duration_s so that"),
    "delisting, and no end": (lambda a: a.traded(delivered_in_ms=99 * HOUR_MS), {}, "contract: .*set duration_s so"),
    "a quarterly, and no end": (
        lambda a: a.traded("TRADING", "CURRENT_QUARTER", 999 * HOUR_MS), {}, "contract: CURRENT_QUARTER"),
    "a halted symbol": (lambda a: a.traded("TRADING_HALT"), {}, "contract: PERPETUAL, TRADING_HALT, must be TRADING"),
    "a delisted symbol": (lambda a: a.traded("SETTLING"), {}, "contract: PERPETUAL, SETTLING, must be TRADING"),
    "defaults, to be set, and a key that may withdraw": (
        lambda a: (a.settings("CROSSED", 20), a.rights(enableWithdrawals=True)), {"apply_account_settings": True},
        "key rights: it may withdraw, must be[^;]*$"),
    "defaults, to be set, and a position in another symbol": (
        lambda a: (a.settings("CROSSED", 20), a.holds(held("USDT", "10000"), positions=OTHER)),
        {"apply_account_settings": True}, "other symbols: -0.5 ETH"),
    "defaults, to be set, and a stop of our last session": (
        lambda a: (a.settings("CROSSED", 20), a.orders(algos=[an_algo("BTCUSDT", "vt-x-1s1")])),
        {"apply_account_settings": True},
        r"margin type: cross, must be isolated \(close position and orders, then set it\)"),
    "orders that can not be read": (
        lambda a: a.denies("/fapi/v1/openOrders", -1002, "no", 403), {}, "fapiPrivateGetOpenOrders: .*code -1002"),
    "a key of another address": (
        lambda a: a.denies("/fapi/v3/balance", -2015, "Invalid API-key, IP, or permissions", 401), {},
        "key: .*code -2015"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeBinance]:
    """A fake in a thread, since the engine has an event loop of its own."""
    loop, server = asyncio.new_event_loop(), FakeBinance()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    yield server
    asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def run(tmp_path: Path, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a live run whose exchange is the fake, which also tells the rights of keys."""
    endpoint = replace(Endpoint.simulated(fake.rest, fake.stream), rights=fake.rest)
    monkeypatch.setattr(modes, "_endpoint", lambda config: endpoint)
    monkeypatch.setattr(Engine, "_begin", lambda *_: stop_here())
    monkeypatch.setenv("VOLTRADE_STATE", str(tmp_path / "state"))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "today"
    folder.mkdir(0o700)
    fake.asked.clear()
    fake.script.clear()
    return folder


PASSED = "the start-up table is passed"


def stop_here() -> NoReturn:
    raise SessionError(PASSED)


def live(**parameters: Any) -> Config:
    config = Config.from_parameters(mode="live", threshold=450, **parameters)
    return config.changed(confirmation=confirmation_text(config, ACCOUNT, datetime.now(UTC)))


def demo(**parameters: Any) -> Config:
    return Config.from_parameters(mode="demo", threshold=450, **parameters)


def leave_position(
    fake: FakeBinance,
    lots: int,
    run: Path,
    entry: int = 0,
    step: str = "0.001",
    mode: str = "live",
    edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda state: state,
) -> None:
    """Save in the ledger what the account's last session left: signed lots, and those of an entry on its way."""
    ledger = Ledger.open(accounts_home(os.environ), f"{fake.rest} sgTest", mode, run)
    ledger.begin("monday", run, None)
    sent = {
        **{name: "" if "reason" in name else 0 for name in OrderRow._fields},
        **{"id": "vt-monday", "text": ""},
        "purpose": "e",
        "state": "PENDING_SUBMIT",
        "side": 1 if entry > 0 else -1,
        "quantity": abs(entry),
        "filled": 0,
    }
    done = {**sent, "state": "FILLED", "quantity": 90, "filled": 90}
    position = {name: "" if "reason" in name else 0 for name in PositionRow._fields}
    opened = {"position": position, "orders": [sent, done, {**sent, "purpose": "s"}]}
    opened |= {"entry_trade_ids": [], "exit_trade_ids": []}
    core = TradingCore(demo(), replace(an_instrument(), step_size=Decimal(step)), "monday")
    flat = PositionReport("BTCUSDT", 0, "0", 0, 5, "isolated")
    core.handle(Snapshot(now(), "BTCUSDT", 10_000 * MONEY, 0, 50_000, 20_000, 5, "isolated", False, flat))
    state = json.loads(json.dumps(core.state()))
    state["symbol_states"]["BTCUSDT"] |= {"quantity": lots}
    state["symbol_states"]["BTCUSDT"]["orders"] |= {"open_position": opened if entry else None}
    ledger.save_final_state("head", edit(state))
    ledger.close()


def start(run: Path, config: Config) -> dict[str, Any]:
    """Run the engine as far as it gets; return its record."""
    (run / "run.json").write_text(json.dumps({"parameters": config.parameters(), "epoch": "x", "state": "starting"}))
    umask, handler = os.umask(0o022), signal.getsignal(signal.SIGINT)
    try:
        run_engine(run)
    finally:
        os.umask(umask)
        signal.signal(signal.SIGINT, handler)
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


@pytest.mark.parametrize("state", STATES)
def test_a_state_works_or_is_refused_by_name_before_anything_is_sent(state: str, fake: FakeBinance, run: Path) -> None:
    happens, parameters, rule = STATES[state]
    given = dict(parameters)
    happens(Account(fake))
    if "left" in given:
        leave_position(fake, given.pop("left"), run, given.pop("entry", 0), given.pop("step", "0.001"))
    config = live(**given)

    checks = asyncio.run(examine(config, os.environ))
    said = refused(checks)
    record = start(run, config)

    if rule:
        for words in (said, record["error"]):
            assert re.search(rule, words), words
    else:
        assert record["error"] == PASSED
        assert said == ""
        assert all(row["ok"] for row in record["checks"]), record["error"]
    changed = [(asked.method, asked.path) for asked in fake.asked if asked.method != "GET"]
    assert set(changed) <= {("POST", "/fapi/v1/order/test")}


@pytest.mark.parametrize("state", [state for state, (_, _, rule) in STATES.items() if "key rights" not in rule])
def test_demo_lets_the_same_states_pass_but_asks_for_no_rights_of_the_key(
    state: str, fake: FakeBinance, run: Path
) -> None:
    happens, parameters, rule = STATES[state]
    given = dict(parameters)
    happens(Account(fake))
    fake.always["GET", "/sapi/v1/account/apiRestrictions"] = error(-9999, "the demo has no such path")
    if "left" in given:
        leave_position(fake, given.pop("left"), run, given.pop("entry", 0), given.pop("step", "0.001"), "demo")
    record = start(run, demo(**given))
    assert re.search(rule or f"^{PASSED}$", record["error"]), record["error"]
    assert not [row for row in record.get("checks", ()) if row["item"] in ("key rights", "demo check")]
    assert not [asked for asked in fake.asked if "sapi" in asked.path]
    assert changed(fake) == []


def test_orders_that_an_earlier_session_left_and_the_last_does_not_know_are_told() -> None:
    """To a session they are foreign, so that it would enter nothing, and nobody had said why."""
    opened = {"orders": [{"id": "vt-b-1s1"}]}
    last = FinalState("b", "head", {"symbol_states": {"BTCUSDT": {"orders": {"open_position": opened}}}})
    for names, state, mark, found in (
        (("vt-b-1s1",), last, "ok", "1"),
        (("vt-a-1s1",), None, "ok", "1"),  # doctor, beside a session that runs
        (("vt-b-1s1", "vt-a-1s1"), last, "~~", "2, left by an earlier session and unknown to the last: vt-a-1s1"),
        (("vt-a-1s1",), NOT_READ, "~~", "1, left by an earlier session and unknown to the last: vt-a-1s1"),
        (("vt-a-1s1", "web_1"), last, "!!", "2, not ours: web_1"),
    ):
        facts = cast(AccountFacts, SimpleNamespace(orders=[("BTCUSDT", name) for name in names]))
        row = open_orders(facts, "BTCUSDT", state)
        assert (row.mark, row.found) == (mark, found)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda state: state | {"breaker": {}}, "circuit breaker: the saved state is broken"),
        (lambda state: {}, "account: the saved state is broken"),
        (lambda state: state | {"symbol_states": []}, "account: the saved state is broken"),
        (
            lambda state: state | {"symbol_states": {"BTCUSDT": {"tick_size": "x"}}},
            "account: the saved state is broken",
        ),
        (None, "version must be 5 or less, was 99"),
    ],
)
@pytest.mark.parametrize("held", ["0", "0.004"])
def test_a_saved_state_that_cannot_be_read_is_a_row_and_a_position_is_looked_after(
    held: str, edit: Any, why: str, fake: FakeBinance, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither are the limits begun afresh by silence, nor is a position left to its resting stop alone."""
    Account(fake).position(held)
    leave_position(fake, 4, run, edit=edit or (lambda state: state))
    if edit is None:
        [path] = accounts_home(os.environ).glob("*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    caretakers: list[str] = []

    def begin(engine: Engine, *_: Any) -> NoReturn:
        caretakers.append(engine.caretaker)
        stop_here()

    monkeypatch.setattr(Engine, "_begin", begin)
    record = start(run, live())
    assert (record["error"] == PASSED) == (held != "0")
    said = caretakers[0] if caretakers else record["error"]
    assert "saved state: " in said
    assert why in said
    assert "give up the limits and streaks" in said
    [row] = [Check.of(row) for row in record["checks"] if row["item"] == "saved state"]
    assert row.mark == "!!"


@pytest.mark.parametrize(
    ("held", "left", "entry", "wrong", "why"),
    [
        ("0.004", 4, 0, lambda a: None, "$"),
        ("0.005", 4, 0, lambda a: None, "position: 0.005 BTC, must be flat, or at most the 0.004 "),
        ("-0.007", -2, -4, lambda a: None, "position: -0.007 BTC, must be flat, or at most the -0.006 "),
        ("0.004", 4, 0, lambda a: a.settings("ISOLATED", 20), "leverage: 20, must be 5 "),
        ("0.004", 4, 0, lambda a: a.refuses(-4411, "Please sign"), "smallest order: .*agreement"),
        ("0.004", 4, 0, lambda a: a.traded("TRADING_HALT"), "contract: PERPETUAL, TRADING_HALT, must be TRADING"),
    ],
)
def test_a_position_of_ours_is_looked_after_whatever_is_wrong(
    held: str,
    left: int,
    entry: int,
    wrong: State,
    why: str,
    fake: FakeBinance,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal would leave it without anybody; but nothing is entered then."""
    account = Account(fake)
    account.position(held)
    wrong(account)
    leave_position(fake, left, run, entry)
    began: list[str] = []

    def begin(engine: Engine, *_: Any) -> NoReturn:
        began.append(engine.caretaker)
        stop_here()

    monkeypatch.setattr(Engine, "_begin", begin)
    assert start(run, live())["error"] == PASSED
    assert re.match(why, began[0]), began


@pytest.mark.parametrize(("mode", "ok"), [("paper", True), ("demo", False), ("live", False)])
def test_doctor_wants_a_threshold_that_is_given_where_a_start_does(mode: str, ok: bool) -> None:
    row = _threshold(Config.from_parameters(mode=mode))
    assert (row.ok, "BTCUSDT's own 730" in row.found) == (ok, True)
    assert _threshold(Config.from_parameters(mode=mode, threshold=450)).ok


@pytest.mark.parametrize(
    ("rights", "parameters", "found"),
    [
        ({}, {}, "futures only, from listed addresses"),
        ({"enableInternalTransfer": None}, {}, "unchecked: transfers, which Binance doesn't tell"),
        ({"enableInternalTransfer": None, "permitsUniversalTransfer": True}, {}, "it may transfer between accounts"),
        ({"ipRestrict": None}, {}, "unchecked: an address list, which Binance doesn't tell"),
        ({"enableFutures": None}, {"allow_unchecked": True}, "unknown: .*enableFutures.*; started unchecked"),
    ],
)
def test_what_of_a_keys_rights_was_not_checked_stands_in_their_row(
    rights: dict[str, Any], parameters: dict[str, Any], found: str, fake: FakeBinance, run: Path
) -> None:
    Account(fake).rights(**rights)
    record = start(run, live(**parameters))
    [row] = [row for row in record["checks"] if row["item"] == "key rights"]
    assert re.fullmatch(found, row["found"]), row
    assert (record["error"], row["ok"]) == (PASSED, True)


def beside(run: Path) -> Path:
    """Make the folder of another run; an engine's lock is held as long as this process lives."""
    folder = run.with_name(f"{len(list(run.parent.iterdir()))}")
    folder.mkdir(0o700)
    return folder


def test_live_at_binance_itself_wants_a_passed_check(
    fake: FakeBinance, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint("live", fake.rest, fake.stream, fake.rest)
    monkeypatch.setattr(modes, "_endpoint", lambda config: endpoint)
    Account(fake)
    why = "demo check: no passed check, must be passed for this version and one-way, single-asset, isolated, PERPETUAL"
    assert start(run, live())["error"].startswith(f"{why}, USDT")
    assert [row.ok for row in asyncio.run(examine(live(), os.environ)) if row.item == "demo check"] == [False]

    unchecked = start(beside(run), live(allow_unchecked=True))
    assert unchecked["error"] == PASSED
    [row] = [row for row in unchecked["checks"] if row["item"] == "demo check"]
    assert row["found"] == "no passed check; started unchecked"

    kind = "one-way, single-asset, isolated, PERPETUAL, USDT"
    keep_passed({"version": exchange_version(), "kind": kind, "time": now(), "mode": "demo"}, os.environ)
    assert start(beside(run), live())["error"] == PASSED
    account = f"{LIVE.rest} sgTest"  # whichever of Binance's hosts is used, it is the same account, and has one ledger
    assert (accounts_home(os.environ) / file_name(account, "live")).with_suffix(".lock").exists()


SETTABLE: dict[str, State] = {
    "cross and 20x": lambda a: a.settings("CROSSED", 20),
    "hedge mode": lambda a: (a.config(dualSidePosition=True), a.refuses(-4061, "position side does not match")),
    "1x, at which the largest order has too little margin": lambda a: (
        a.settings("ISOLATED", 1), a.refuses(-2019, "Margin is insufficient.")),
}  # fmt: skip
NOT_MENDED: dict[str, tuple[State, str]] = {
    "multi-assets mode": (lambda a: a.config(dualSidePosition=True, multiAssetsMargin=True), "margin mode: "),
    "an unsigned stock perpetual": (
        lambda a: (a.settings("CROSSED", 20), a.refuses(-4411, "Please sign")), "smallest order: .*agreement"),
    "too little margin at 20x, of which 5x needs more": (
        lambda a: (a.settings("CROSSED", 20), a.refuses(-2019, "Margin is insufficient.")), "smallest order: .*-2019"),
    "a position too large at 1x, which 5x does not allow either": (
        lambda a: (a.settings("ISOLATED", 1), a.refuses(-2027, "Exceeded")), "smallest order: .*-2027"),
    "a refusal that no setting explains": (
        lambda a: (a.settings("CROSSED", 20), a.refuses(-4061, "no")), "smallest order: .*-4061"),
    "an order by hand": (
        lambda a: (a.settings("CROSSED", 20), a.orders(an_order("BTCUSDT", "web_x"))), "open orders: .*margin type: "),
}  # fmt: skip


def changed(fake: FakeBinance) -> list[tuple[str, str]]:
    """Return what was sent that changes the account, with the value."""
    names = {"/fapi/v1/leverage": "leverage", "/fapi/v1/marginType": "marginType"}
    sent = [asked for asked in fake.asked if asked.method != "GET" and not asked.path.endswith("order/test")]
    return [(asked.path.removeprefix("/fapi/v1/"), asked.params.get(names.get(asked.path, ""), "")) for asked in sent]


ALL_SET = [("positionSide/dual", ""), ("marginType", "ISOLATED"), ("leverage", "5")]


@pytest.mark.parametrize(
    ("state", "settings"), [*((state, live) for state in SETTABLE), ("cross and 20x", demo), ("hedge mode", demo)]
)
def test_settings_that_differ_are_set_last_and_the_table_is_made_again(
    state: str, settings: Callable[..., Config], fake: FakeBinance, run: Path
) -> None:
    account = Account(fake)
    account.takes_settings()
    SETTABLE[state](account)
    if state.startswith("1x"):  # the fake forgets the refusal with the setting that it comes from
        raised = fake.always["POST", "/fapi/v1/leverage"]
        fake.always["POST", "/fapi/v1/leverage"] = lambda asked: (
            fake.always.update({("POST", "/fapi/v1/order/test"): Say(body={})}), raised(asked))[1]  # fmt: skip
    config = settings(apply_account_settings=True)
    told = asyncio.run(examine(config, os.environ))
    assert [row for row in told if not row.ok] == []
    assert changed(fake) == []
    assert [row.item for row in told if "will be set to " in row.found]

    record = start(run, config)
    assert record["error"] == PASSED
    assert changed(fake) == ALL_SET
    assert not [row for row in record["checks"] if row["will_be_set"]]


@pytest.mark.parametrize("state", NOT_MENDED)
def test_nothing_is_set_where_anything_else_prevents_the_start(state: str, fake: FakeBinance, run: Path) -> None:
    happens, rule = NOT_MENDED[state]
    account = Account(fake)
    account.takes_settings()
    happens(account)
    said = "; ".join(f"{row.item}: {row.wanted}" for row in asyncio.run(examine(live(apply_account_settings=True))))
    error = start(run, live(apply_account_settings=True))["error"]
    assert all(re.search(each, error) for each in rule.split(".*margin type: ")), error
    assert re.search(rule.split(":")[0], said)
    assert changed(fake) == []


def test_nothing_is_set_before_a_passed_check_and_a_check_of_the_account_as_it_will_be_counts(
    fake: FakeBinance, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint("live", fake.rest, fake.stream, fake.rest)
    monkeypatch.setattr(modes, "_endpoint", lambda config: endpoint)
    account = Account(fake)
    account.takes_settings()
    account.settings("CROSSED", 20)
    assert start(run, live(apply_account_settings=True))["error"].startswith("demo check: no passed check, must be")
    assert changed(fake) == []
    keep_passed({"version": exchange_version(), "kind": KIND, "time": now(), "mode": "demo"}, os.environ)
    assert start(beside(run), live(apply_account_settings=True))["error"] == PASSED
    assert changed(fake) == ALL_SET


def test_settings_that_the_exchange_accepts_and_does_not_take_stop_the_start(fake: FakeBinance, run: Path) -> None:
    account = Account(fake)
    account.takes_settings()
    account.settings("CROSSED", 20)
    fake.always["POST", "/fapi/v1/leverage"] = Say(body={"leverage": 20})
    error = start(run, live(apply_account_settings=True))["error"]
    assert error == "leverage: 20, must be 5 (the exchange has just accepted that)"
    assert changed(fake) == ALL_SET


KIND = "one-way, single-asset, isolated, PERPETUAL, USDT"


def test_another_account_or_host_than_at_the_first_start_of_a_mode_is_refused(
    fake: FakeBinance, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of the wrong account, or a host that was mixed up."""
    hosts = [
        Endpoint("demo", host, fake.stream, fake.rest)
        for host in (fake.rest, fake.rest.replace("127.0.0.1", "localhost"))
    ]
    monkeypatch.setattr(modes, "_endpoint", lambda config: hosts[0])
    Account(fake)

    def pinned(is_other: bool, **parameters: Any) -> tuple[str, list[str]]:
        """Start; return how that ended, and what the doctor had said of the account."""
        alias = "otherAccount" if is_other else "sgTest"
        fake.always["GET", "/fapi/v3/balance"] = Say(body=[{"accountAlias": alias}])
        config = demo(**parameters)
        told = [row.found for row in asyncio.run(examine(config)) if row.item == "account of the mode" and not row.ok]
        return str(start(beside(run), config)["error"]), told

    assert pinned(False, capital=20)[0].startswith("largest order")  # it never traded, and is not kept
    assert pinned(True) == (PASSED, [])
    assert pinned(True) == (PASSED, [])
    error, told = pinned(False)
    assert re.match("account of the mode: .* sgTest by .*, must be .* otherAccount by http.*-p new_account True", error)
    assert len(told) == 1
    assert pinned(False, new_account=True) == (PASSED, [])
    assert pinned(False) == (PASSED, [])  # kept from then on

    hosts.reverse()
    assert "account of the mode: http" in pinned(False)[0]
    [path] = (run.parent / "state/pins").iterdir()
    for damaged in ("{}", "", "\x00" * 9):
        path.write_text(damaged)
        assert re.search("what was kept can't be read: .*-p new_account True replaces it", pinned(False)[0])
    assert pinned(False, new_account=True) == (PASSED, [])
    assert pinned(False) == (PASSED, [])  # replaced

    path.chmod(0o644)  # may have been written by others, which no parameter excuses
    assert "mode must be 0600" in pinned(False, new_account=True)[0]


def test_the_check_by_real_orders_sends_none_with_another_account_than_the_sessions(
    fake: FakeBinance, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed-up keys sell nothing of another account; nor does its record name either account."""
    endpoint = Endpoint("demo", fake.rest, fake.stream, fake.rest)
    monkeypatch.setattr(modes, "_endpoint", lambda config: endpoint)

    async def nothing(context: Any) -> None:
        """Look at nothing."""

    traded: list[str] = []

    async def trade(context: Any) -> None:
        traded.append(context.wiring.account)

    monkeypatch.setattr(check, "_look", nothing)
    monkeypatch.setattr(check, "_trade", trade)
    account = Account(fake)
    account.takes_settings()
    account.get("ticker/bookTicker", {"bidPrice": "60000.0", "askPrice": "60000.1"})

    def checked(alias: str, **parameters: Any) -> tuple[list[str], str]:
        """Check; return the rows that failed, and the report that is kept."""
        fake.always["GET", "/fapi/v3/balance"] = Say(body=[{"accountAlias": alias}])
        folder = beside(run)
        report = asyncio.run(check.check_exchange(demo(**parameters), os.environ, folder))
        return [row.item for row in report.failed], (folder / check.REPORT).read_text()

    assert checked("sgTest")[0] == []  # before the first session, and it keeps nothing
    assert start(beside(run), demo())["error"] == PASSED
    account.settings("CROSSED", 20)
    failed, kept = checked("otherAccount", apply_account_settings=True)
    assert failed == ["account of the mode", "orders may be sent"]
    assert changed(fake) == []  # its settings stay too
    assert "*** by http" in kept
    assert not [name for name in ("sgTest", "otherAccount") if name in kept]
    account.settings()
    assert checked("otherAccount", new_account=True)[0] == []
    assert [name.rpartition(" ")[2] for name in traded] == ["sgTest", "otherAccount"]
    assert start(beside(run), demo())["error"] != PASSED  # the check has not taken the other one


def a_day(volume: int, *, closed: int) -> list[Any]:
    """Return a daily kline as Binance writes it: the price goes 4 % of 2,500 up and down."""
    return [closed - 86_399_999, "2500", "2550", "2450", "2500", f"{volume}", closed, "0", 9_000_000, "0", "0", "0"]


@pytest.mark.parametrize(
    ("days", "told"),
    [
        ([(4_000_000, -1), (9_000_000, -1), (5_000_000, -1), (1, 60_000)], "about 11,111 at 450 by the median of 3 "),
        ([(1, 60_000)], "unknown: the exchange tells of no whole day yet"),
        ([], "unknown: the exchange tells of no whole day yet"),
        (None, "unknown: fapiPublicGetKlines: "),
    ],
)
def test_doctor_tells_the_bars_a_day_by_the_exchanges_own_days(
    days: list[tuple[int, int]] | None, told: str, fake: FakeBinance, run: Path
) -> None:
    """The running day doesn't count. The row prevents no start."""
    account = Account(fake)
    if days is None:
        account.denies("/fapi/v1/klines", -1000, "no", 500)
    else:
        account.get("klines", [a_day(volume, closed=now() + late) for volume, late in days])
    [row] = [row for row in asyncio.run(examine(live(), os.environ)) if row.item == "bars a day"]
    assert row.found.startswith(told)
    assert row.ok


@pytest.mark.parametrize(
    ("threshold", "row", "found", "wanted"),
    [
        (1_000_000_000, "bars a day", "about 0 at 1000000000 .*: less than one bar a day", "at least one"),
        (0.001, "bars a day", "about 5,000,000,000 at 0.001 .*: more bars than trades", "fewer than trades"),
        (0.0001, "threshold", "0.0001, as given", "a multiple of BTCUSDT's step 0.001"),
    ],
)
def test_doctor_refuses_a_threshold_that_gives_no_session(
    threshold: float, row: str, found: str, wanted: str, fake: FakeBinance, run: Path
) -> None:
    Account(fake).get("klines", [a_day(5_000_000, closed=now() - 1)])
    config = live().changed(threshold=threshold)
    [check] = [each for each in asyncio.run(examine(config, os.environ)) if each.item == row]
    assert re.match(found, check.found), check.found
    assert wanted in check.wanted
    assert not check.ok


@pytest.mark.parametrize(("capital", "mark"), [(20, "~~"), (10_000, "ok")])
def test_a_paper_session_says_whether_its_capital_can_trade(
    capital: int, mark: str, fake: FakeBinance, run: Path
) -> None:
    Account(fake)
    config = Config.from_parameters(mode="paper", threshold=450, capital=capital)
    record = start(run, config)
    rows = [*asyncio.run(examine(config, os.environ)), *map(Check.of, record["checks"])]
    assert [(row.mark, row.ok) for row in rows if row.item == "largest order"] == [(mark, True)] * 2
    assert record["error"] == PASSED


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ([], 0, ["ok  largest order"]),
        (["-p", "capital", "20"], 0, ["~~  largest order", "no entry will be made", "-p capital MORE"]),
        (["-p", "tape", "none.csv", "-p", "threshold", "9"], 1, ["!!  tape", "can't be played", "none.csv"]),
    ],
)
def test_doctor_says_what_a_rehearsal_of_its_own_will_trade(
    given: list[str],
    status: int,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "-p", "hours", "0.5", *given]) == status
    out = capsys.readouterr().out
    assert all(words in out for words in said), out


WRONG_ANSWERS = {
    "a wrong key": ("/fapi/v3/balance", -2015, "Invalid API-key, IP, or permissions", 401),
    "a location that is not served": ("/fapi/v1/exchangeInfo", 0, "Unavailable", 451),
    "a firewall": ("/fapi/v1/exchangeInfo", 0, "Forbidden", 403),
    "maintenance": ("/fapi/v1/exchangeInfo", 0, "Service Unavailable.", 503),
}


@pytest.mark.parametrize("why", WRONG_ANSWERS)
def test_doctor_and_the_check_by_orders_tell_a_failure_alike(
    why: str, fake: FakeBinance, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check said `key: must be one of ..., was the key is not accepted (...)`, the text of an error as a value."""
    Account(fake).denies(*WRONG_ANSWERS[why])
    demo = ["-p", "mode", "demo", "-p", "threshold", "450"]
    assert main(["doctor", *demo]) == 1
    rows = [line[4:].split("  ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("!!")]
    [(item, words)] = [(item, words.strip()) for item, words in rows if "fapi" in words]
    assert main(["doctor", "--trade", "--record", str(run / "record"), *demo]) == 2
    assert capsys.readouterr().err == f"doctor: {item}: {words}\n"
    assert re.search(r"\(fapi\w+: .*\), must be ", words), words
    assert "was " not in words


def test_an_order_was_checked_by_whom_it_was_asked(fake: FakeBinance, run: Path) -> None:
    Account(fake)
    rows = asyncio.run(examine(live(), os.environ))
    found = [row.found for row in rows if row.item in ("smallest order", "largest order")]
    assert [words.partition(", ")[2] for words in found] == ["checked by the simulated venue and not placed"] * 2


def test_doctor_refuses_a_symbol_that_no_venue_has() -> None:
    checks = asyncio.run(examine(Config.from_parameters(symbol="XAUUSDT", threshold=1), os.environ))
    [row] = [row for row in checks if row.item == "symbol"]
    assert (row.ok, "must be one of the shipped BTCUSDT" in row.found) == (False, True)


def test_a_record_without_a_check_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--record", str(tmp_path / "r")]) == 2
    assert "--record: must stand with --trade" in capsys.readouterr().err


def test_the_table_has_thirty_states_and_more() -> None:
    assert len(STATES) >= 30
