"""Paper, demo and live are one parameter apart: whole sessions against a venue that stands in for Binance."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.forked import Forked
from support.sessions import Truth, facts_of, holders_of, run_notebook
from support.wall_venue import KEY, PARAMETERS, SECRET, a_venue, rule_file

from voltrade import journal
from voltrade.__main__ import main
from voltrade.data.store import TRADES, Store
from voltrade.engine.authorisation import authorise
from voltrade.engine.permission import confirmation_text
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.credentials import Credentials
from voltrade.model import (
    Alert,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Purpose,
    ResumeState,
    RoundTrip,
    Side,
    Trades,
)
from voltrade.runs.replay import replay
from voltrade.strategy.rule_file import keep_rule, read_parameters

ACCOUNT = Credentials(KEY, SECRET).fingerprint


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A venue under Binance's own paths, and the folder of its log; each test has the weight of a minute for itself."""
    folder = tmp_path_factory.mktemp("binance")
    with a_venue(folder, latency_ms=50) as address:
        yield address, folder


@pytest.fixture(scope="module")
def quiet_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The same for tests that trade nothing and ask for little."""
    folder = tmp_path_factory.mktemp("binance")
    with a_venue(folder, latency_ms=50) as address:
        yield address, folder


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_API_KEY", KEY)
    monkeypatch.setenv("VOLTRADE_API_SECRET", SECRET)


def parameters(folder: Path, mode: str, venue: str, **more: Any) -> dict[str, Any]:
    """What a session in a mode is started with, the word for today included."""
    given = {"mode": mode, "venue": venue, "rule": rule_file(folder), **PARAMETERS, **more}
    if mode == "live":
        given["confirmation"] = confirmation_text(read_parameters(given), ACCOUNT, datetime.now(UTC))
    return given


def begin_run(run: Path, given: dict[str, Any]) -> None:
    """Make the folder of a run, as a notebook does."""
    run.mkdir(mode=0o700, parents=True)
    config = read_parameters(given)
    record = {"parameters": config.parameters(), "epoch": run.name, "state": "starting", **keep_rule(config, run)}
    (run / "run.json").write_text(json.dumps(record))


def run_engine(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Run an engine from start to end; return its record."""
    begin_run(run, given)
    Forked("engine", str(run), log=run / "engine.log").wait(120)
    loaded: dict[str, Any] = json.loads((run / "run.json").read_text())
    return loaded


def check_replay(run: Path, record: dict[str, Any]) -> None:
    assert record["state"] == "ended", (record.get("error"), (run / "engine.log").read_text()[-2000:])
    assert journal.verify(run / "journal.db", record["head"]).ok
    again = replay(run / "journal.db")
    assert again.differences == 0, again.shown


def told_fills(*runs: Path) -> list[int]:
    """Trade ids of the fills that these runs were told of, in order."""
    facts = [fact for run in runs for fact in facts_of(run)]
    return [fact.trade_id for fact in facts if isinstance(fact, OrderUpdate) and fact.trade_id]


def row(record: dict[str, Any], item: str) -> str:
    return next(str(check["found"]) for check in record["checks"] if check["item"] == item)


def test_a_live_session_holds_its_position_overnight_and_the_next_one_adopts_it(
    tmp_path: Path, stand_in: tuple[str, Path], keys: None
) -> None:
    address, folder = stand_in
    runs = tmp_path / "runs"
    monday = run_engine(
        runs / "monday", parameters(tmp_path, "live", address, duration_s=5.0, on_duration_end="protect")
    )
    check_replay(runs / "monday", monday)
    assert row(monday, "account") == f"{ACCOUNT}, key from the environment"
    assert row(monday, "endpoint") == address
    assert row(monday, "allowed by").startswith("typed confirmation: trade BTCUSDT up to 2000000 on account")
    truth = Truth.of(folder)
    held = Decimal(truth.kind("fill")[-1]["position"])
    assert held > 0
    stop = [order for order in truth.kind("algo") if order["status"] == "NEW"][-1]
    assert Decimal(stop["quantity"]) == held

    tuesday = run_engine(runs / "tuesday", parameters(tmp_path, "live", address, duration_s=3.0))
    check_replay(runs / "tuesday", tuesday)
    [adoption] = [fact for fact in facts_of(runs / "tuesday") if isinstance(fact, ResumeState)]
    assert adoption.head == monday["head"]
    trips = [fact for fact in facts_of(runs / "tuesday") if isinstance(fact, RoundTrip)]
    assert trips[0].exit_reason == "DURATION_END"
    truth = Truth.of(folder)
    # Its stop was the one that Monday had left: none was sent in its place while the position was the same.
    assert {order["client_order_id"] for order in truth.kind("algo")} == {stop["client_order_id"]} | {
        order["client_order_id"] for order in truth.kind("algo") if "-monday-" in order["client_order_id"]
    }
    assert Decimal(truth.kind("fill")[-1]["position"]) == 0
    told = [
        f.trade_id
        for name in ("monday", "tuesday")
        for f in facts_of(runs / name)
        if isinstance(f, OrderUpdate) and f.trade_id
    ]
    assert told == [fill["trade_id"] for fill in truth.kind("fill")]
    for secret in (KEY, SECRET):
        assert holders_of(secret, tmp_path) == []


async def trade_by_hand(address: str, *sides: Side) -> None:
    """Trade 10 lots at market, one order after the other, as a person at the exchange's own page would."""
    endpoint = Endpoint.simulated(address, address.replace("http", "ws"))
    exchange = connect(endpoint, Credentials(KEY, SECRET), lambda: int(time.time() * 1000), 5_000)
    try:
        rest = BinanceRestClient(exchange, "by hand")
        await rest.instrument("BTCUSDT")
        for number, side in enumerate(sides):
            order = OrderRequest("BTCUSDT", f"web_{number}", side, OrderType.MARKET, 10)
            reply = await rest.submit(OrderIntent(1, order, Purpose.ENTRY, 1, "by hand"))
            assert reply.outcome == "ACCEPTED", reply
    finally:
        await exchange.close()


def test_a_live_engine_that_was_killed_goes_on_by_the_word_that_it_began_with(
    tmp_path: Path, stand_in: tuple[str, Path], keys: None
) -> None:
    """Fault case B1, whole: a person trades, the engine enters and is killed, and goes on.

    The round trip by hand is no exit of the position that outlives the kill.
    """
    address, folder = stand_in
    asyncio.run(trade_by_hand(address, Side.BUY, Side.SELL))
    deadline = time.monotonic() + 60
    while sum(Decimal(fill["quantity"]) for fill in Truth.of(folder).kind("fill")) < Decimal("0.020"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    by_hand = len(Truth.of(folder).kind("fill"))
    run = tmp_path / "runs/killed"
    begin_run(run, parameters(tmp_path, "live", address, duration_s=16.0, capital=990_000))
    process = Forked("engine", str(run), log=run / "engine.log")
    deadline = time.monotonic() + 60
    while len(Truth.of(folder).kind("fill")) < by_hand + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(20)
    again = Forked("run", "--resume", str(run), log=run / "engine.log")
    assert again.wait(120) == 0, (run / "engine.log").read_text()[-2000:]
    record = json.loads((run / "run.json").read_text())
    assert record["end_reason"] == "DURATION_END"
    check_replay(run, record)
    assert row(record, "allowed by") == "what the run was begun with"
    facts, fills = facts_of(run), Truth.of(folder).kind("fill")
    assert not [fact for fact in facts if isinstance(fact, Alert) and fact.code == "FOREIGN_ORDER"]
    ours = {
        trade for fact in facts if isinstance(fact, RoundTrip) for trade in fact.entry_trade_ids + fact.exit_trade_ids
    }
    assert ours == {fill["trade_id"] for fill in fills[by_hand:]}
    assert Decimal(fills[-1]["position"]) == 0


def test_a_live_engine_whose_ceiling_was_lowered_meanwhile_protects_its_position_and_ends(
    tmp_path: Path, stand_in: tuple[str, Path], keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = stand_in
    given = parameters(tmp_path, "live", address, duration_s=90.0, on_interrupt="carry_on") | {"confirmation": ""}
    file, run = tmp_path / "ceilings.json", tmp_path / "runs/lowered"
    stated = authorise(file, read_parameters(given), ACCOUNT, timedelta(days=1), datetime.now(UTC))
    monkeypatch.setenv("VOLTRADE_AUTHORISATION", str(file))
    begin_run(run, given)
    process = Forked("engine", str(run), log=run / "engine.log")
    deadline = time.monotonic() + 60
    while not Truth.of(folder).kind("algo"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(20)
    entered = len([order for order in Truth.of(folder).kind("order") if not order["reduce_only"]])
    file.write_text(json.dumps(stated | {"max_leverage": "1"}))

    again = Forked("run", "--resume", str(run), log=run / "engine.log")
    assert again.wait(120) == 0, (run / "engine.log").read_text()[-2000:]
    record = json.loads((run / "run.json").read_text())
    check_replay(run, record)
    assert record["end_reason"].startswith(
        "NOT_PERMITTED: ceilings.json: leverage is 5, must be at most max_leverage 1"
    )
    truth = Truth.of(folder)
    assert len([order for order in truth.kind("order") if not order["reduce_only"]]) == entered
    held = Decimal(truth.kind("fill")[-1]["position"])
    stops = {order["client_order_id"]: order for order in truth.kind("algo")}.values()
    assert sum(Decimal(stop["quantity"]) for stop in stops if stop["status"] == "NEW") >= abs(held)


def test_paper_sends_nothing_that_is_signed_and_its_account_outlives_the_session(
    tmp_path: Path, stand_in: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, state_home: Path
) -> None:
    address, folder = stand_in
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    before = len(Truth.of(folder).kind("request"))
    runs = tmp_path / "runs"
    first = run_engine(
        runs / "first", parameters(tmp_path, "paper", address, duration_s=5.0, on_duration_end="protect")
    )
    check_replay(runs / "first", first)
    [account] = (state_home / "accounts").glob("*-paper/truth.jsonl")
    held = Decimal([json.loads(line) for line in account.read_text().splitlines() if '"fill"' in line][-1]["position"])
    assert held > 0
    second = run_engine(runs / "second", parameters(tmp_path, "paper", address, duration_s=3.0, record_trades="always"))
    check_replay(runs / "second", second)
    assert "run " in row(second, "resumes from")
    fills = [json.loads(line) for line in account.read_text().splitlines() if '"kind":"fill"' in line]
    assert Decimal(fills[-1]["position"]) == 0
    told = [
        f.trade_id
        for name in ("first", "second")
        for f in facts_of(runs / name)
        if isinstance(f, OrderUpdate) and f.trade_id
    ]
    assert told == [fill["trade_id"] for fill in fills]
    assert "-first-" in fills[0]["client_order_id"]
    [trip] = [fact for fact in facts_of(runs / "second") if isinstance(fact, RoundTrip)][:1]
    assert trip.exit_reason == "DURATION_END"
    [day] = Store(tmp_path / "store").days(TRADES, "BTCUSDT")
    rows = [row.fact for row in journal.read(runs / "second/journal.db") if row.kind in ("Trades", "Market")]
    facts = [fact for row in rows for fact in (row if isinstance(row, list | tuple) else [row])]
    seen = [fact for fact in facts if isinstance(fact, Trades)]
    assert (day.first, day.last, day.missing) == (int(seen[0].id[0]), int(seen[-1].id[-1]), 0)
    assert day.rows == sum(map(len, seen))
    asked = {request["path"] for request in Truth.of(folder).kind("request")[before:]}
    assert asked <= {
        "/fapi/v1/exchangeInfo",
        "/fapi/v1/premiumIndex",
        "/fapi/v1/time",
        "/fapi/v1/klines",
        "/fapi/v1/aggTrades",
    }


def test_demo_takes_its_keys_from_a_private_file_and_needs_no_word(
    tmp_path: Path, quiet_stand_in: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = quiet_stand_in
    monkeypatch.delenv("VOLTRADE_API_KEY", raising=False)
    (tmp_path / "keys").write_text(f"VOLTRADE_API_KEY={KEY}\nVOLTRADE_API_SECRET={SECRET}\n")
    (tmp_path / "keys").chmod(0o600)
    monkeypatch.setenv("VOLTRADE_KEY_FILE", str(tmp_path / "keys"))
    runs = tmp_path / "runs"
    record = run_engine(runs / "demo", parameters(tmp_path, "demo", address, duration_s=2.0, first_bar=1_000_000))
    check_replay(runs / "demo", record)
    assert row(record, "allowed by") == "mode demo needs keys only"
    assert holders_of(KEY, runs) == holders_of(SECRET, runs) == []


def test_a_setting_of_the_account_that_differs_stops_the_start_or_is_set_when_asked(
    tmp_path: Path, stand_in: tuple[str, Path], keys: None
) -> None:
    address, folder = stand_in
    quiet = {"duration_s": 2.0, "first_bar": 1_000_000, "leverage": 7, "margin_type": "cross"}
    refused = run_engine(tmp_path / "runs/refused", parameters(tmp_path, "live", address, **quiet))
    assert refused["state"] == "failed"
    assert refused["error"] == (
        "margin type: isolated, must be cross (-p apply_account_settings True sets it); "
        "leverage: 5, must be 7 (-p apply_account_settings True sets it)"
    )
    changes = [r for r in Truth.of(folder).kind("accepted") if r["action"] in ("set_leverage", "set_margin_type")]
    assert changes == []
    assert not (tmp_path / "runs/refused/journal.db").exists()

    asked = parameters(tmp_path, "live", address, apply_account_settings=True, **quiet)
    record = run_engine(tmp_path / "runs/set", asked)
    check_replay(tmp_path / "runs/set", record)
    assert (row(record, "leverage"), row(record, "margin type")) == ("7", "cross")


def test_wrong_keys_are_refused_by_the_exchange_and_named(
    tmp_path: Path, quiet_stand_in: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTRADE_API_KEY", "another-key")
    monkeypatch.setenv("VOLTRADE_API_SECRET", SECRET)
    record = run_engine(tmp_path / "runs/wrong", parameters(tmp_path, "demo", quiet_stand_in[0]))
    assert record["state"] == "failed"
    assert record["error"].startswith("key: the key is not accepted (")
    assert "code -2015" in record["error"]
    assert "another-key" not in json.dumps(record)


def test_the_doctor_prints_the_start_up_table_and_changes_nothing(
    tmp_path: Path, quiet_stand_in: tuple[str, Path], keys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    address, folder = quiet_stand_in
    before = len(Truth.of(folder).kind("accepted"))
    command = ["doctor", "-p", "mode", "live", "-p", "venue", address, "-p", "leverage", "9"]
    assert main(command) == 1
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    word = f"confirmation: must be 'trade BTCUSDT up to 20000 on account {ACCOUNT}, {datetime.now(UTC):%Y-%m-%d}'"
    assert [line for line in said if line.startswith(f"!! permission missing: {word}")]
    assert [line for line in said if line.startswith("!! leverage 5, must be 9 (")]
    assert "ok filters tick 0.1, step 0.001, least notional 100.00, largest market order 120.000" in said
    assert len(Truth.of(folder).kind("accepted")) == before
    assert KEY not in " ".join(said)
    assert main(["doctor", "-p", "mode", "paper", "-p", "venue", address]) == 0
    assert "ok  endpoint" in capsys.readouterr().out


def test_papermill_trades_live_and_the_record_shows_what_it_started_with(
    tmp_path: Path, stand_in: tuple[str, Path], keys: None
) -> None:
    address, _ = stand_in
    (tmp_path / "runs").mkdir()
    run_notebook(tmp_path / "runs/today.ipynb", **parameters(tmp_path, "live", address, duration_s=3.0))
    written = (tmp_path / "runs/today.ipynb").read_text()
    assert ACCOUNT in written
    assert "typed confirmation: trade BTCUSDT" in written
    assert json.loads((tmp_path / "runs/today/run.json").read_text())["end_reason"] == "DURATION_END"
    assert holders_of(KEY, tmp_path) == holders_of(SECRET, tmp_path) == []
