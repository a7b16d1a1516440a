"""A message reaches a phone, holds what a trader wants to know, and never holds up or gives away anything."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.builders import an_instrument
from support.forked import Forked
from support.phone import CANARY, Phone
from support.sessions import holders_of, run_engine

from voltrade import journal
from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.engine.notifier import MAX_LINES, MAX_WAITING, Notifier
from voltrade.engine.session_messages import Message, SessionMessages, Urgency
from voltrade.model import (
    MONEY,
    NEVER,
    Alert,
    BreakerChange,
    EngineRestarted,
    MarkPrice,
    Operator,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    PositionReport,
    Purpose,
    RoundTrip,
    Side,
    Snapshot,
    StreamStatus,
)
from voltrade.runs import run_file
from voltrade.runs.replay import replay

NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
SETTINGS: dict[str, Any] = {
    **{"seed": 7, "hours": 4.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}


# --- what is told ----------------------------------------------------------------------------------------------------


def an_intent(name: str, purpose: Purpose, side: Side, trip: int = 1) -> OrderIntent:
    request = OrderRequest("BTCUSDT", name, side, OrderType.MARKET, 300)
    return OrderIntent(NOON, request, purpose, trip, "because")


def a_fill(
    name: str, trade: int, side: Side, price: int, lots: int, filled: int, status: str, **more: Any
) -> OrderUpdate:
    fill = OrderUpdate(
        NOON + trade, "BTCUSDT", name, 7, side, OrderType.MARKET, status, "TRADE", 300, filled,
        trade_id=trade, last_quantity=lots, last_price=price, fee=MONEY, fee_asset="USDT",
    )  # fmt: skip
    return replace(fill, **more)


def told(messages: SessionMessages, *facts: Any) -> list[str]:
    return [message.text for fact in facts for message in messages.of(fact)]


@pytest.fixture
def messages() -> SessionMessages:
    return SessionMessages(an_instrument())


def test_an_entry_is_told_of_once_when_it_has_filled(messages: SessionMessages) -> None:
    parts = [
        a_fill("e", 1, Side.BUY, 800_000, 100, 100, "PARTIALLY_FILLED"),
        a_fill("e", 1, Side.BUY, 800_000, 100, 100, "PARTIALLY_FILLED"),  # told again
        a_fill("e", 2, Side.BUY, 800_600, 200, 300, "FILLED"),
    ]
    assert told(messages, an_intent("e", Purpose.ENTRY, Side.BUY), *parts[:2]) == []
    # 0.1 at 80,000.0 and 0.2 at 80,060.0: 24,012 for 0.3
    assert told(messages, parts[2]) == ["BUY 0.300 BTC at 80,040.0 · entry, 24,012.00 USDT"]
    assert told(messages, parts[2]) == []


def test_an_order_that_ends_before_its_last_fill_is_told_of_with_all_of_it(messages: SessionMessages) -> None:
    ended = a_fill("e", 2, Side.SELL, 800_000, 100, 300, "EXPIRED_IN_MATCH")
    assert told(messages, an_intent("e", Purpose.ENTRY, Side.SELL), ended) == []
    late = a_fill("e", 1, Side.SELL, 800_000, 200, 200, "PARTIALLY_FILLED")
    assert told(messages, late) == ["SELL 0.300 BTC at 80,000.0 · entry, 24,000.00 USDT"]
    nothing = a_fill("f", 0, Side.SELL, 0, 0, 0, "EXPIRED")
    assert told(messages, an_intent("f", Purpose.ENTRY, Side.SELL), nothing) == []


TRIP = RoundTrip(
    1, "BTCUSDT", Side.BUY, NOON, NOON, 5, 300, 300 * 800_000, 300 * 799_000,
    -30 * MONEY, 24 * MONEY, 0, -54 * MONEY, "STOP", 1, 2,
)  # fmt: skip


def test_an_exit_is_told_of_by_its_round_trip(messages: SessionMessages) -> None:
    stop = a_fill("s", 3, Side.SELL, 799_000, 300, 300, "FILLED", realised=-30 * MONEY)
    assert told(messages, an_intent("s", Purpose.STOP, Side.SELL), stop, TRIP, MarkPrice("BTCUSDT", NOON, 1)) == [
        "closed LONG 0.300 BTC 80,000.0 → 79,900.0 · STOP · net -54.00 USDT"
    ]
    ended = messages.ended("TAPE_END", "ab12", [TRIP.net, MONEY])
    assert ended.text == "ended: TAPE_END; 2 round trips, net -53.00 USDT; head ab12"
    kept = messages.ended("STOPPED", "ab12", [], "0.300 BTC")
    assert "net +0.00 USDT; nobody looks after what is left at the exchange: 0.300 BTC; head ab12" in kept.text


def test_an_exit_that_does_not_close_the_position_is_told_of_as_a_fill(messages: SessionMessages) -> None:
    part = a_fill("x", 3, Side.SELL, 799_000, 100, 100, "EXPIRED", realised=-10 * MONEY)
    assert told(messages, an_intent("x", Purpose.TAKE_PROFIT, Side.SELL), part) == []
    assert told(messages, MarkPrice("BTCUSDT", NOON, 1)) == [
        "SELL 0.100 BTC at 79,900.0 · take-profit, PnL -11.00 USDT"
    ]


def a_snapshot(position: int = 0, **more: Any) -> Snapshot:
    held = PositionReport("BTCUSDT", position, "80000.5" if position else "0")
    return Snapshot(NOON, "BTCUSDT", 10_000 * MONEY, 0, 0, 0, 5, "isolated", False, held, **more)


def test_a_start_and_a_restart_tell_of_the_account(messages: SessionMessages) -> None:
    assert told(messages, a_snapshot(), a_snapshot()) == ["started: wallet 10,000.00 USDT, flat"]
    assert told(messages, EngineRestarted(NOON), a_snapshot(position=-250)) == [
        "engine was killed and started again: wallet 10,000.00 USDT, -0.250 BTC from 80000.5"
    ]


def test_fills_that_a_snapshot_brings_are_told_of(messages: SessionMessages) -> None:
    fill = a_fill("e", 1, Side.BUY, 800_000, 300, 300, "FILLED")
    foreign = a_fill("someone-elses", 2, Side.BUY, 800_000, 300, 300, "FILLED")
    texts = told(messages, an_intent("e", Purpose.ENTRY, Side.BUY), a_snapshot(fills=(fill, foreign)))
    assert texts[0].startswith("BUY 0.300 BTC at 80,000.0")
    assert len(texts) == 2


@pytest.mark.parametrize(
    ("fact", "text", "urgency"),
    [
        (Alert(NOON, "STOP_MISSING", "no stop"), "STOP_MISSING: no stop", Urgency.FAILURE),
        (Alert(NOON, "FEED_GAP", "3 missing"), "FEED_GAP: 3 missing", Urgency.WARNING),
        (StreamStatus(NOON, "market", False), "market data: silent since 12:00:00 UTC", Urgency.WARNING),
        (StreamStatus(NOON, "user", False), "account updates: silent since 12:00:00 UTC", Urgency.WARNING),
        (
            BreakerChange(NOON, "LOSING_STREAK", "REDUCING", "block", 5, 5, NOON + 3_600_000),
            "REDUCING: LOSING_STREAK, 5 of 5; block until 13:00:00 UTC",
            Urgency.WARNING,
        ),
        (
            BreakerChange(NOON, "DRAWDOWN", "HALTED", "flatten", 1_012 * MONEY, 1_000 * MONEY, NEVER),
            "HALTED: DRAWDOWN, +1,012.00 USDT of +1,000.00 USDT; flatten until an operator resumes",
            Urgency.FAILURE,
        ),
        (
            BreakerChange(NOON, "ON_HOLD", "HALTED", "cancel", 0, 0, NEVER, "vt-e-1e1 refused with -1022: signature"),
            "HALTED: vt-e-1e1 refused with -1022: signature; cancel until an operator resumes",
            Urgency.FAILURE,
        ),
        (
            BreakerChange(NOON, "LOSING_STREAK", "ACTIVE", "resume", 5, 5, NEVER),
            "breaker: LOSING_STREAK released, ACTIVE",
            Urgency.INFO,
        ),
        (Operator(NOON, "pause", "news at two"), "command: pause; news at two", Urgency.WARNING),
        (Operator(NOON, "halt", ""), "command: halt; no reason given", Urgency.WARNING),
        (
            Operator(NOON, "protect", "NOTEBOOK_LOST", final=True),
            "command: protect, then the end; NOTEBOOK_LOST",
            Urgency.WARNING,
        ),
    ],
)
def test_what_a_person_should_know_is_told(messages: SessionMessages, fact: Any, text: str, urgency: Urgency) -> None:
    assert messages.of(fact) == [Message(text, urgency)]


def test_what_is_no_news_is_not_told(messages: SessionMessages) -> None:
    end = Operator(NOON, "flatten", "TAPE_END", final=True)
    assert (
        told(
            messages,
            StreamStatus(NOON, "market", True),
            StreamStatus(NOON, "user", True),
            MarkPrice("BTCUSDT", NOON, 1),
            end,
        )
        == []
    )
    down, up = StreamStatus(NOON, "market", False), StreamStatus(NOON + 5_000, "market", True)
    assert told(messages, down, down, up, up)[1:] == ["market data: back at 12:00:05 UTC"]
    alert = Alert(NOON, "WALLET_DIFFERS", "by 1")
    again = [replace(alert, time=NOON + minutes * 60_000) for minutes in (0, 9, 10)]
    assert len(told(messages, *again)) == 2
    assert len(told(messages, replace(alert, text="by 2"))) == 1


# --- how it is told --------------------------------------------------------------------------------------------------


@pytest.fixture
def dead() -> str:
    """An address where nobody is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"json://127.0.0.1:{free.getsockname()[1]}/{CANARY}"


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.01)


def test_messages_arrive_under_the_name_of_the_session(phone: Phone) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "today · live BTCUSDT")
    notifier.post(Message("closed LONG", Urgency.INFO))
    until(lambda: len(phone.got) == 1)
    assert (phone.got[0]["title"], phone.got[0]["message"]) == ("today · live BTCUSDT", "closed LONG")
    assert (phone.got[0]["type"], phone.got[0]["path"]) == ("info", f"/{CANARY}")
    notifier.close()
    notifier.post(Message("too late"))
    assert (notifier.dropped, len(phone.got)) == (1, 1)


def test_what_comes_together_is_one_notification_of_bounded_length(phone: Phone) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "t", every_s=60)
    notifier.post(Message("first"))
    until(lambda: len(phone.got) == 1)
    for number in range(100):
        notifier.post(Message(f"line {number}", Urgency.FAILURE if number == 7 else Urgency.INFO))
    notifier.post(Message("ended: \x1b[2J"))
    notifier.close()
    assert len(phone.got) == 2
    lines = phone.got[1]["message"].splitlines()
    assert len(lines) == MAX_LINES
    assert lines[:2] == ["line 0", "line 1"]
    assert lines[-2:] == ["… 82 more …", "ended: ?[2J"]
    assert phone.got[1]["type"] == "failure"


def test_several_addresses_are_told_and_one_that_is_dead_holds_up_none(
    phone: Phone, dead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "addresses"
    file.write_text(f"# mine\n{dead}\n{phone.address}\n")
    file.chmod(0o600)
    notifier = Notifier({"VOLTRADE_NOTIFY_FILE": str(file)}, "t", every_s=0.0)
    assert notifier.kinds == ["json", "json"]
    assert notifier.problems == []
    for number in range(3):
        notifier.post(Message(f"line {number}"))
        until(lambda count=number + 1: len(phone.lines) == count)  # type: ignore[misc]
    notifier.close()
    words = [entry.getMessage() for entry in caplog.records]
    assert words == ["notifications to address 1 (json) fail"]  # once, not at every message
    assert CANARY not in caplog.text


def test_an_address_that_works_again_is_told_of(phone: Phone, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "t", every_s=0.0)
    ((_, service),) = notifier._services
    for is_taken in (True, False, False, True):
        service.notify = lambda *_, is_taken=is_taken, **__: is_taken
        notifier._send([Message("x")])
    assert [entry.getMessage().split()[-1] for entry in caplog.records] == ["fail", "again"]


def test_what_nobody_took_is_sent_again(phone: Phone) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "t", every_s=0.01)
    ((_, service),) = notifier._services
    deliver, tries = service.notify, []

    def fails_twice(*arguments: Any, **more: Any) -> Any:
        tries.append(arguments)
        return len(tries) > 2 and deliver(*arguments, **more)

    service.notify = fails_twice
    notifier.post(Message("STOP_MISSING"))
    until(lambda: phone.lines == ["STOP_MISSING"])
    notifier.close()
    assert (len(tries), notifier.dropped) == (3, 0)


def test_at_the_end_there_is_one_last_try(phone: Phone, dead: str) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": dead}, "t", every_s=60)
    notifier.post(Message("ended"))
    notifier.close()
    assert notifier._thread is not None
    assert not notifier._thread.is_alive()
    assert notifier.dropped == 1


def test_trading_is_not_held_up_by_a_server_that_hangs(phone: Phone) -> None:
    phone.hangs.set()
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "t", every_s=0.0)
    observe = notifier.observer(SessionMessages(an_instrument()))
    observe(Alert(NOON, "STOP_MISSING", "first"))
    until(lambda: not notifier._waiting)  # it is being sent, and hangs
    began = time.perf_counter()
    for number in range(1_000):
        observe(Alert(NOON, "STOP_MISSING", str(number)))
    assert time.perf_counter() - began < 1
    assert notifier.dropped == 1_000 - MAX_WAITING
    began = time.perf_counter()
    notifier.close(within_s=0.3)
    assert time.perf_counter() - began < 2
    # Let go, it tells of what waited meanwhile, and of what was dropped.
    phone.hangs.clear()
    phone.goes_on.set()
    assert notifier._thread is not None
    notifier._thread.join(20)
    assert phone.lines[-1] == f"{notifier.dropped} messages were dropped"
    assert len(phone.lines) == MAX_LINES + 1


def test_a_text_that_cannot_be_made_costs_nothing(phone: Phone, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"VOLTRADE_NOTIFY": phone.address}, "t")
    observe = notifier.observer(SessionMessages(an_instrument()))
    observe(replace(TRIP, quantity=0))
    assert "no text could be made of a RoundTrip" in caplog.text
    notifier.close()


def test_without_addresses_nothing_is_done() -> None:
    notifier = Notifier({}, "t")
    assert (notifier.kinds, notifier.problems) == ([], [])
    notifier.observer(SessionMessages(an_instrument()))(replace(TRIP, quantity=0))
    notifier.post(Message("x"))
    assert notifier._thread is None
    notifier.close()


@pytest.mark.parametrize(
    ("mode", "text", "problem"),
    [
        (0o600, f"nosuchservice://{CANARY}", "address 1 is none that apprise knows"),
        (0o600, f"json://localhost\ntgram://{CANARY}", "address 2 is none that apprise knows"),
        (0o600, f"{CANARY}:\n", "address 1 is none that apprise knows"),
        (0o644, f"json://localhost/{CANARY}", "addresses: mode must be 0600, was 0644"),
        (None, "", "addresses: can't be read: No such file or directory, must be a readable file and no link"),
    ],
)
def test_wrong_addresses_are_told_of_without_what_they_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any, mode: int | None, text: str, problem: str
) -> None:
    file = tmp_path / "addresses"
    if mode is not None:
        file.write_text(text)
        file.chmod(mode)
    notifier = Notifier({"VOLTRADE_NOTIFY_FILE": str(file)}, "t")
    assert [each.removeprefix(f"VOLTRADE_NOTIFY_FILE: {tmp_path}/") for each in notifier.problems] == [problem]
    assert CANARY not in caplog.text + "".join(capfd.readouterr())


# --- in a session ----------------------------------------------------------------------------------------------------


def failed_engine(run: Path, **changes: Any) -> str:
    """Run an engine that fails; return what it printed."""
    run.mkdir(mode=0o700, parents=True)
    config = Config.from_parameters({**SETTINGS, **changes})
    run_file.write(run, {"parameters": config.parameters(), "epoch": "n", "state": "starting"})
    assert Forked("engine", str(run), log=run / "engine.log").wait(120) == 1
    return (run / "engine.log").read_text()


def test_a_session_tells_of_its_start_its_trades_and_its_end(
    phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs/today"
    monkeypatch.setenv("VOLTRADE_NOTIFY", phone.address)
    run_engine(run, **SETTINGS)
    assert {message["title"] for message in phone.got} == {"today · sim BTCUSDT"}
    trips = [row.fact for row in journal.read(run / "journal.db", kind="RoundTrip")]
    assert phone.lines[0] == "started: wallet 10,000.00 USDT, flat"
    assert phone.lines[-1] == (
        f"ended: TAPE_END; {len(trips)} round trips, net {sum(trip.net for trip in trips) / MONEY:+,.2f} USDT; "
        f"head {run_file.read(run)['head']}"
    )
    told = [line for line in phone.lines if line.startswith("closed")]
    more = [int(line.split()[1]) for line in phone.lines if line.startswith("…")]
    assert len(told) == len(trips) > 5 or more
    assert any("· entry, " in line for line in phone.lines)
    assert holders_of(CANARY, tmp_path) == []
    found = {check["item"]: check["found"] for check in run_file.read(run)["checks"]}
    assert found["notifications"] == "json"
    assert replay(run / "journal.db").differences == 0


def test_a_session_ends_as_ever_where_nobody_takes_its_news(
    phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.hangs.set()
    run = tmp_path / "runs/alone"
    monkeypatch.setenv("VOLTRADE_NOTIFY", phone.address)
    run_engine(run, **SETTINGS)
    told = run_file.read(run)
    assert (told["state"], told["end_reason"]) == ("ended", "TAPE_END")
    began, ended = (datetime.fromisoformat(told[name]) for name in ("started", "ended"))
    messages = 2 * sum(row.kind == "RoundTrip" for row in journal.read(run / "journal.db"))
    assert messages > 10
    assert (ended - began).total_seconds() < messages * 4 / 2  # a server that hangs does so for 4 s a message
    assert holders_of(CANARY, tmp_path) == []


def test_an_address_that_is_none_stops_a_start_and_is_not_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"tgram://{CANARY}"
    monkeypatch.setenv("VOLTRADE_NOTIFY", address)
    said = failed_engine(tmp_path / "runs/wrong")
    assert "notifications: address 1 is none that apprise knows, must be addresses that apprise knows" in said
    assert holders_of(CANARY, tmp_path) == []
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 1
    assert "!!  notifications" in capsys.readouterr().out


def test_a_session_that_fails_says_so(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_NOTIFY", phone.address)
    failed_engine(tmp_path / "runs/failed", venue="http://127.0.0.1:9")
    assert phone.lines[-1].startswith("FAILED: venue: must be a running venue")
    assert phone.got[-1]["type"] == "failure"


def test_apprise_itself_says_nothing() -> None:
    Notifier({"VOLTRADE_NOTIFY": f"nosuch://{CANARY}"}, "t")
    assert not logging.getLogger("apprise").isEnabledFor(logging.ERROR)
