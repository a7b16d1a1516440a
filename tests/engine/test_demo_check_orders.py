"""The check by real orders: against an honest venue every row is right, and each planted difference has its row."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voltrade.config import Config
from voltrade.data.synthetic import synthetic_market
from voltrade.engine.demo_check import money, stops
from voltrade.engine.demo_check.check import FRAMES, REPORT, VERDICTS, check_exchange
from voltrade.engine.demo_check.passed import account_kind, exchange_version, keep_passed, last_passed, passed_check
from voltrade.engine.demo_check.report import QUESTIONS, Report
from voltrade.errors import ConfigError, SessionError
from voltrade.exchange.account_facts import SymbolFacts
from voltrade.model import DAY_MS, Trades
from voltrade.simulated.symbols import shipped_instrument
from voltrade.venue.faults import Fault
from voltrade.venue.requests import Params, Response
from voltrade.venue.server import Venue, serve

KEY, SECRET = "canary-key-of-thirty-two-letters-0", "canary-secret-that-nobody-may-see-1"
KEYS = {"VOLTRADE_API_KEY": KEY, "VOLTRADE_API_SECRET": SECRET}

MOST_S = 180.0
"""A whole check by real orders takes less than three minutes."""

Spoil = Callable[[str, str, Params, Response], Response]


@cache
def tape() -> Trades:
    """Half an hour of trades, a dozen a second."""
    trades = synthetic_market(shipped_instrument("BTCUSDT"), 8, 2.0, 1_767_600_000_000)
    return replace(trades, time=trades.time[0] + (trades.time - trades.time[0]) // np.int64(4))


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_STATE", str(tmp_path / "state"))


async def a_check(folder: Path, *faults: dict[str, Any], spoil: Spoil | None = None, **given: Any) -> Report:
    """Check a venue of its own; `spoil` changes its answers."""
    terms = {"speed": 1.0, "mark_interval_s": 1, "latency_ms": 5, "begin_s": 200.0, **given}
    script = [Fault.model_validate(fault) for fault in faults]
    venue = await serve(
        Config.from_parameters(terms), tape(), log_dir=folder / "venue", api_key=KEY, api_secret=SECRET, script=script
    )
    if spoil is not None:
        spoiled(venue, spoil)
    try:
        config = Config.from_parameters(mode="demo", venue=venue.rest_url, wallet=given.get("wallet", 10_000))
        return await check_exchange(config, KEYS, folder / "check")
    finally:
        await venue.close()


def spoiled(venue: Venue, spoil: Spoil) -> None:
    """Let a function change each answer of the venue."""
    honest = venue.rest.handle

    def handle(method: str, path: str, key: str, params: Params, *times: int) -> Response:
        return spoil(method, path, params, honest(method, path, key, params, *times))

    venue.rest.handle = handle  # type: ignore[method-assign]


def answers(method: str, path: str, change: Callable[[Any], Any], only: str = "") -> Spoil:
    """Return a change of the good answers of one path, where a parameter's value holds `only`."""

    def spoil(verb: str, where: str, params: Params, response: Response) -> Response:
        is_it = (verb, where) == (method, f"/fapi/{path}") and only in params.signed_text
        return response._replace(body=change(response.body)) if is_it and response.status == 200 else response

    return spoil


def recoded(code: int, other: int) -> Spoil:
    """Return a change of one code for another."""

    def spoil(verb: str, where: str, params: Params, response: Response) -> Response:
        has_it = isinstance(response.body, dict) and response.body.get("code") == code
        return response._replace(body={**response.body, "code": other}) if has_it else response

    return spoil


def fields_of(method: str, path: str, only: str = "", **fields: Any) -> Spoil:
    """Return a change of fields of an answer, or of each row of one."""

    def change(body: Any) -> Any:
        return [{**row, **fields} for row in body] if isinstance(body, list) else {**body, **fields}

    return answers(method, path, change, only)


def verdicts(report: Report) -> dict[str, str]:
    return {row.item: row.verdict for row in report.rows}


@pytest.mark.campaign  # the notebook of the suite passes against an honest venue too
def test_an_honest_venue_passes_in_every_row_and_is_left_empty(tmp_path: Path) -> None:
    began = time.monotonic()
    report = asyncio.run(a_check(tmp_path))
    assert time.monotonic() - began < MOST_S
    assert [str(row) for row in report.rows if row.verdict == "failed"] == []
    assert report.passed
    assert report.outcome.startswith("passed")
    ended = report.rows[-1]
    assert ended.verdict != "failed"
    folder = tmp_path / "check"
    frames = (folder / FRAMES).read_text()
    assert frames.count('"kind": "frame"') > 20
    for secret in (KEY, SECRET):
        assert not any(secret in path.read_text() for path in folder.iterdir())
    assert not re.search(r'listenKey[\\"]*[:=] ?[\\"]*[A-Za-z0-9]{20}', frames)
    plain = json.loads((folder / REPORT).read_text())
    assert plain["passed"] is True
    table = (folder / VERDICTS).read_text()
    assert all(question in table for question in QUESTIONS.values())
    never = {"halted symbols", "funding event", "key without addresses"}
    assert set(QUESTIONS) - set(report.answers) <= never
    last = [json.loads(line) for line in (tmp_path / "venue/truth.jsonl").read_text().splitlines()]
    positions = [row["position"] for row in last if row["kind"] == "fill"]
    assert float(positions[-1]) == 0
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


ON_ORDER, ON_ALGO = "POST /fapi/v1/order$", "POST /fapi/v1/algoOrder"

Difference = tuple[list[dict[str, Any]], Spoil | None, dict[str, Any], dict[str, str]]

DIFFERENCES: dict[str, Difference] = {
    # what is planted: faults, a change of answers, parameters of the venue, and the rows that name it
    "the clock": ([{"do": "skew_clock", "for_s": 600, "with": {"ms": 4000}}], None, {}, {"clock": "failed"}),
    "hedge mode": ([], fields_of("GET", "v1/accountConfig", dualSidePosition=True), {},
                   {"position mode": "failed"}),
    "leverage": ([], None, {"leverage": 20}, {"leverage": "failed", "orders may be sent": "failed"}),
    "margin type": ([], None, {"margin_type": "cross"}, {"margin type": "failed"}),
    "the wallet": ([], None, {"wallet": 9_000}, {"wallet": "failed", "orders may be sent": "failed"}),
    "a right": ([], fields_of("GET", "v1/accountConfig", canTrade=False), {}, {"may trade": "failed"}),
    "an agreement": ([{"do": "refuse", "on": "order/test", "code": -2015, "times": 0}], None, {},
                     {"smallest order": "failed"}),
    "a position by hand": (
        [], fields_of("GET", "v3/account", positions=[{"symbol": "BTCUSDT", "positionAmt": "0.010"}]), {},
        {"position": "failed", "orders may be sent": "failed"}),
    "filters": (
        [{"do": "filters", "with": {"symbol": "BTCUSDT", "min_notional": 5_000_000_000}}], None, {},
        {"filters": "differs"}),
    "trades": ([{"do": "drop", "on": "market aggTrade", "times": 0}], None, {}, {"aggTrade": "failed"}),
    "marks": ([{"do": "drop", "on": "market markPrice", "times": 0}], None, {}, {"markPriceUpdate": "failed"}),
    "quotes": ([{"do": "drop", "on": "market bookTicker", "times": 0}], None, {}, {"bookTicker": "failed"}),
    "a lost trade": ([{"do": "drop", "on": "market aggTrade", "skip": 40}], None, {}, {"trade ids": "failed"}),
    "an unreadable trade": (
        [{"do": "alter", "on": "market aggTrade", "skip": 30, "with": {"q": "much"}}], None, {},
        {"trade ids": "failed"}),
    "klines": (
        [], answers("GET", "v1/klines", lambda rows: [[*row[:5], "1.000", *row[6:]] for row in rows]), {},
        {"kline of a minute": "differs"}),
    "a silent user stream": (
        [{"do": "drop", "on": "^user", "times": 0}], None, {},
        {"event of the far order": "failed", "fill of the market order": "failed"}),
    "a late event": (
        [{"do": "delay", "on": "ORDER_TRADE_UPDATE NEW", "for_s": 7}], None, {}, {"event of the far order": "failed"}),
    "no account events": (
        [{"do": "drop", "on": "ACCOUNT_UPDATE", "times": 0}], None, {},
        {"events of the market order": "failed", "events by ?listenKey=": "failed"}),
    "a fill told twice": (
        [{"do": "duplicate", "on": "ORDER_TRADE_UPDATE FILLED", "times": 1}], None, {}, {"filled by events": "failed"}),
    "another duplicate code": ([], recoded(-4116, -9999), {}, {"duplicate order id": "failed"}),
    "another unknown code": ([], recoded(-2013, -9999), {}, {"unknown order": "failed", "unknown stop": "failed"}),
    "another crossed code": ([], recoded(-2021, -9999), {}, {"trigger beyond the price": "failed"}),
    "another second code": ([], recoded(-4130, -9999), {}, {"second that closes all": "failed"}),
    "a status by query": ([], fields_of("GET", "v1/order", status="EXPIRED"), {}, {"far order by query": "failed"}),
    "a refused stop": ([{"do": "refuse", "on": ON_ALGO, "code": -4045, "skip": 1, "times": 1}], None, {},
                       {"stop": "failed"}),
    "a stuck trigger": (
        [{"do": "stick_triggers", "with": {"symbol": "BTCUSDT"}}], None, {}, {"a stop triggers": "failed"}),
    "a lost answer": ([{"do": "lose_answer", "on": ON_ORDER, "how": "unknown", "skip": 4}], None, {},
                      {"market order": "failed"}),
    "other fees": (
        [], fields_of("GET", "v1/userTrades", commission="0.00000001"), {},
        {"wallet to 1e-8": "failed", "fees by events": "failed"}),
    "another listen key code": ([], recoded(-1125, -1000), {}, {"PUT after the delete": "differs"}),
    "a stream that does not recover": (
        [{"do": "drop", "on": "ACCOUNT_CONFIG_UPDATE", "times": 0}], None, {}, {"recovery of the stream": "failed"}),
}  # fmt: skip


async def planted(folder: Path, name: str) -> Report:
    faults, spoil, terms, _ = DIFFERENCES[name]
    return await a_check(folder, *faults, spoil=spoil, **terms)


def check_named(name: str, report: Report) -> None:
    found, wanted = verdicts(report), DIFFERENCES[name][3]
    assert {item: found.get(item, "no such row") for item in wanted} == wanted, name
    if "failed" in wanted.values():
        assert not report.passed, name
    assert not [row for row in report.rows if row.item == "clean-up"], name


@pytest.mark.parametrize("name", ["the wallet"])
def test_a_planted_difference_is_named_in_its_row_and_nothing_is_left_open(name: str, tmp_path: Path) -> None:
    check_named(name, asyncio.run(planted(tmp_path, name)))


@pytest.mark.campaign
def test_each_planted_difference_is_named_in_its_row(tmp_path: Path) -> None:
    """Eight checks at a time, each with a venue of its own, since most of a check is waiting."""

    async def story() -> list[str]:
        slots, wrong = asyncio.Semaphore(8), []

        async def one(name: str) -> None:
            async with slots:
                try:
                    check_named(name, await planted(tmp_path / name.replace(" ", "_"), name))
                except Exception as error:
                    wrong.append(f"{name}: {type(error).__name__}: {error}")

        await asyncio.gather(*map(one, DIFFERENCES))
        return wrong

    assert len(DIFFERENCES) >= 25
    assert asyncio.run(story()) == []


def test_a_check_that_is_interrupted_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the position is open: it is closed before the check ends."""

    async def story() -> None:
        running: list[asyncio.Task[Report]] = []

        async def interrupt(context: Any) -> None:
            assert context.lots > 0
            running[0].cancel()
            await asyncio.sleep(30)

        monkeypatch.setattr(stops, "check_stops", interrupt)
        running.append(asyncio.create_task(a_check(tmp_path)))
        with suppress(asyncio.CancelledError):
            await running[0]

    asyncio.run(story())
    rows = [json.loads(line) for line in (tmp_path / "venue/truth.jsonl").read_text().splitlines()]
    positions = [float(row["position"]) for row in rows if row["kind"] == "fill"]
    assert max(positions) > 0
    assert positions[-1] == 0


class Wreck:
    """A context whose orders can't be read, and whose first stop can't be cancelled."""

    symbol, instrument = "BTCUSDT", shipped_instrument("BTCUSDT")

    def __init__(self) -> None:
        self.held, self.stops, self.sold = Decimal("0.004"), ["vt-check-1s", "vt-check-2s", "web_3"], list[str]()

    async def read(self, call: str, **params: Any) -> Any:
        if call == "fapiPrivateGetOpenOrders":
            raise TypeError("string indices must be integers")
        return [{"clientAlgoId": name} for name in self.stops]

    async def cancel_stop(self, name: str) -> None:
        if name == "vt-check-1s":
            raise KeyError(name)
        self.stops.remove(name)

    async def position(self) -> Decimal:
        return self.held

    def new_name(self, letter: str) -> str:
        return f"vt-check-9{letter}"

    async def order(self, side: str, lots: int, name: str, **params: Any) -> None:
        self.sold.append(f"{side} {lots} {params['reduceOnly']}")
        self.held = Decimal(0)
        raise AttributeError("the answer was no order")

    async def within_position(self, wanted: Decimal, seconds: float) -> None:
        """It is flat at once."""


def test_whatever_fails_the_clean_up_goes_on_and_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    wreck = Wreck()
    monkeypatch.setattr(money, "FLATTEN_TRIES", 2)

    async def story() -> str:
        await money.flatten(wreck)  # type: ignore[arg-type]
        return await money.what_is_left(wreck)  # type: ignore[arg-type]

    left = asyncio.run(story())
    assert wreck.sold == ["SELL 4 true"]
    assert wreck.stops == ["vt-check-1s", "web_3"]
    assert left == "orders unknown (TypeError: string indices must be integers), 2 conditional orders"


class SlowBooks(Wreck):
    """An account that traded weeks ago, and whose wallet shows the last fee only when it is looked at again."""

    last_trade_id, users, wallet_before = 0, (SimpleNamespace(frames=()),), Decimal(100)

    def __init__(self) -> None:
        super().__init__()
        self.report, self.rows, self.looks = Report("", "BTCUSDT", "", begun=5_000), dict[str, bool](), 0

    async def read(self, call: str, **params: Any) -> Any:
        if call == "fapiPrivateGetIncome":
            return []
        trades = [(3, 1_000, "7"), (4, 6_000, "0.5")]  # as Binance: from an id on, all of three months
        rows = [{"id": number, "time": at, "realizedPnl": "0", "commission": fee} for number, at, fee in trades]
        since = params.get("startTime", 0)
        return [{**row, "commissionAsset": "USDT"} for row in rows if row["time"] >= since]

    async def wallet(self) -> Decimal:
        self.looks += 1
        return Decimal("99.5") if self.looks > 2 else Decimal(100)

    def row(self, part: str, item: str, expected: str, found: str, ok: bool) -> None:
        self.rows[item] = ok


def test_the_wallet_is_compared_with_the_trades_of_the_check_once_they_are_booked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(seconds: float) -> None:
        """Wait for nothing."""

    monkeypatch.setattr(asyncio, "sleep", at_once)
    books = SlowBooks()
    asyncio.run(money.check_wallet(books))  # type: ignore[arg-type]
    assert (books.rows["wallet to 1e-8"], books.looks) == (True, 3)


def test_what_has_no_account_can_not_be_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be demo, live, or sim for a rehearsal, was paper"):
        asyncio.run(check_exchange(Config.from_parameters(mode="paper"), KEYS, tmp_path / "check"))
    (tmp_path / "there").mkdir()
    with pytest.raises(SessionError, match="must be a new folder"):
        asyncio.run(check_exchange(Config.from_parameters(mode="demo"), KEYS, tmp_path / "there"))
    with pytest.raises(ConfigError, match="confirmation: must be"):
        asyncio.run(check_exchange(Config.from_parameters(mode="live"), KEYS, tmp_path / "live"))


# --- what mode live wants ---------------------------------------------------------------------------------------------

KIND, NOW = "one-way, single-asset, isolated, PERPETUAL, USDT", 1_767_614_400_000


def kept(folder: Path, **changed: Any) -> dict[str, str]:
    """Keep a passed check; return the environment in which it is found."""
    environment = {"VOLTRADE_STATE": str(folder)}
    facts = {"version": exchange_version(), "kind": KIND, "time": NOW, "mode": "demo"} | changed
    keep_passed(facts, environment)
    return environment


@pytest.mark.parametrize(
    ("changed", "later_ms", "ok"),
    [
        ({}, 0, True),
        ({}, 30 * DAY_MS, True),
        ({}, 30 * DAY_MS + 1, False),
        ({}, -1, False),
        ({"version": "0.0.1-000000000000"}, 0, False),
        ({"kind": KIND.replace("isolated", "cross")}, 0, False),
    ],
)
def test_live_wants_a_check_of_its_version_and_kind_of_thirty_days(
    changed: dict[str, Any], later_ms: int, ok: bool, tmp_path: Path
) -> None:
    environment = kept(tmp_path, **changed)
    row = passed_check(KIND, NOW + later_ms, environment, False)
    assert row.ok == ok
    assert "demo_check.ipynb" in row.wanted
    assert "-p allow_unchecked True" in row.wanted
    unchecked = passed_check(KIND, NOW + later_ms, environment, True)
    assert unchecked.ok
    assert unchecked.found.endswith("started unchecked") == (not ok)


def test_a_check_that_others_may_write_does_not_count(tmp_path: Path) -> None:
    environment = kept(tmp_path)
    [path] = (tmp_path / "checks").iterdir()
    assert last_passed(exchange_version(), KIND, environment) is not None
    path.chmod(0o666)
    assert last_passed(exchange_version(), KIND, environment) is None
    path.chmod(0o600)
    path.write_text("{")
    assert last_passed(exchange_version(), KIND, environment) is None


def test_the_kind_of_an_account_is_what_its_orders_depend_on() -> None:
    from test_summary import a_snapshot

    snapshot = a_snapshot(10_000)
    perpetual = SymbolFacts("PERPETUAL", "TRADING", 0)
    kind = account_kind(snapshot, perpetual, shipped_instrument("BTCUSDT"))
    assert kind.endswith(", PERPETUAL, USDT")
    assert account_kind(replace(snapshot, hedge_mode=True), perpetual, shipped_instrument("BTCUSDT")) != kind
