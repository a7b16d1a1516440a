"""The trading loop by the wall clock: it gives every other task its turn, and nothing holds up what protects."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.builders import an_instrument
from support.by_hand import enter

from voltrade import journal, live
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.errors import ExchangeError
from voltrade.journal import Journal, read
from voltrade.journal.ballast import BALLAST, NOT_STORED_TEXT, Ballast
from voltrade.live import LiveTradingSystem
from voltrade.model import (
    AccountSummary,
    AlgoUpdate,
    CancelOrder,
    Event,
    Filters,
    Instrument,
    LookupOrder,
    MarkPrice,
    Operator,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Purpose,
    Reply,
    Side,
    Snapshot,
    StreamStatus,
    Timer,
    Trades,
    money,
)
from voltrade.runs.replay import replay, start_row

ENTRY, STOP = "vt-e-1e1", "vt-e-1s1"


def wall() -> int:
    return int(time.time() * 1000)


@dataclass
class Gateway:
    """Accepts everything, notes when it was asked, and has an account that is flat."""

    blocked_until = 0
    asked: list[Any] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    awaited: Callable[[Any], bool] = lambda command: False

    async def summary(self, symbol: str, settings: bool = True) -> AccountSummary:
        return AccountSummary(wall(), symbol, money(10_000), 0, 5, "isolated", False)

    async def snapshot(self, symbol: str, since_trade_id: int, settings: bool = True) -> Snapshot:
        position = PositionReport(symbol, 0, "0")
        return Snapshot(wall(), symbol, money(10_000), money(10_000), 0, 0, 5, "isolated", False, position)

    async def submit(self, intent: OrderIntent) -> Reply:
        return self._take(intent, "submit", intent.order.client_order_id, intent.order.order_type.is_conditional)

    async def cancel(self, command: CancelOrder) -> Reply:
        return self._take(command, "cancel", command.client_order_id, command.algo)

    async def lookup(self, command: LookupOrder) -> Reply:
        return self._take(command, "lookup", command.client_order_id, command.algo, Outcome.UNKNOWN)

    async def instrument(self, symbol: str) -> Any:
        raise NotImplementedError

    async def filters(self, symbol: str) -> Instrument:
        return an_instrument(symbol)

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        raise NotImplementedError

    def _take(self, command: Any, action: Any, name: str, algo: bool, outcome: Outcome = Outcome.ACCEPTED) -> Reply:
        self.asked.append(command)
        if self.awaited(command):
            self.done.set()
        return Reply(wall(), action, "BTCUSDT", name, algo, outcome)


class Feed:
    """Streams whose upkeep does what a test wants."""

    user_frames = inexact = frames = 0

    def __init__(self, upkeep: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.calls = 0
        self._upkeep = upkeep

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def maintain(self, now: int) -> None:
        self.calls += 1
        if self._upkeep is not None:
            await self._upkeep()


class Session:
    """A system over a real journal, with an entry of 10 lots under way."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.path, self.gateway = folder / "journal.db", Gateway()
        config = Config.from_parameters(threshold=10, stop_atr=2.0, **parameters)
        self.core = TradingCore(config, an_instrument(), "e")
        self.journal = Journal.create(self.path)
        self.journal.append("Start", wall(), start_row(config, an_instrument(), "e"))
        self.system = LiveTradingSystem(self.core, self.journal, self.gateway, wall)
        self.monitor = self.core.symbol_states["BTCUSDT"].monitor

    def enter(self) -> None:
        """Begin a round trip as a signal does. No signal stands in the journal: such a session is not replayed."""
        self.system.on_event(StreamStatus(wall(), "user", True))
        [symbol_state] = self.core.symbol_states.values()
        self.core.handle(replace(asyncio.run(self.gateway.snapshot("BTCUSDT", 0)), time=wall()))
        enter(self.monitor, wall(), Side.BUY, 10)
        assert symbol_state.monitor.open_position is not None

    def order(self, name: str, status: str, lots: int, filled: int, trade_id: int, order_id: int) -> OrderUpdate:
        side = Side.BUY if name == ENTRY else Side.SELL
        return OrderUpdate(
            *(wall(), "BTCUSDT", name, order_id, side, OrderType.MARKET, status, "TRADE", 10, filled),
            trade_id=trade_id,
            last_quantity=lots,
            last_price=1_000,
        )

    def algo(self, status: str) -> AlgoUpdate:
        return AlgoUpdate(wall(), "BTCUSDT", STOP, 7, Side.SELL, OrderType.STOP_MARKET, status, 4, 980)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.system.on_event(event)

    def run(self, story: Coroutine[Any, Any, None], feed: Feed | None = None) -> None:
        """Run the loop beside a story, and end it with the story."""

        async def both() -> None:
            loop = asyncio.create_task(self.system.run_wall(feed or Feed()))
            try:
                async with asyncio.timeout(20):
                    await story
            finally:
                loop.cancel()
                with suppress(asyncio.CancelledError):
                    await loop

        try:
            asyncio.run(both())
        finally:
            self.journal.close()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "run")


# --- the loop always yields ------------------------------------------------------------------------------------------


def test_lots_that_fill_after_their_stop_are_left_and_the_loop_goes_on(session: Session) -> None:
    """Fault case A7, whole: both fills in one tick, and the stop's own news never comes."""
    session.enter()
    session.gateway.awaited = lambda command: (
        isinstance(command, OrderIntent) and command.purpose is Purpose.EXIT and command.order.quantity == 6
    )

    async def story() -> None:
        session.tell(session.order(ENTRY, "PARTIALLY_FILLED", 4, 4, 1, 100))
        while session.monitor.orders.get(STOP) is None:
            await asyncio.sleep(0.01)
        session.tell(session.algo("NEW"))
        session.tell(
            session.order(STOP, "FILLED", 4, 4, 2, 500),
            session.order(ENTRY, "FILLED", 6, 10, 3, 100),
        )
        await session.gateway.done.wait()

    session.run(story())


class Stuck:
    """A core in which something is always due, as a fault in a rule could make it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
        soon = property(lambda core: int(core._books.account["last_timer_at"]) + 1)
        monkeypatch.setattr(type(session.core), "next_due", soon)


def test_what_stays_due_holds_up_neither_events_nor_commands(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case A7, the kind: the loop hands out one timer, and gives the others their turn."""
    Stuck(monkeypatch, session)
    reached = asyncio.Event()

    async def story() -> None:
        for number in range(20):
            session.tell(Operator(wall(), "pause", str(number)))
            while session.core.paused != str(number):
                await asyncio.sleep(0)
        reached.set()

    session.run(story())
    assert reached.is_set()
    timers = [row for row in journal.read(session.path) if row.kind == "Timer"]
    assert 0 < len(timers) < 500


def test_a_core_in_which_something_stays_due_still_takes_trades(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault case A7: a timer that brings nothing moves on, so that the block after it is not refused for ever."""
    Stuck(monkeypatch, session)

    async def story() -> None:
        for trade_id in range(1, 4):
            session.system._on_agg_trade(trade_id, 1_000, 1, wall(), False)
        while session.core.last_trade_id < 3:
            await asyncio.sleep(0.01)

    session.run(story())


def test_a_flood_of_events_is_taken_in_parts(session: Session) -> None:
    """Fault case A7: other tasks have their turn before it is over."""
    flood = 5_000
    seen: list[int] = []

    async def story() -> None:
        session.tell(*[Timer(wall()) for _ in range(flood)])
        while session.system._inbox.events:
            seen.append(len(session.system._inbox.events))
            await asyncio.sleep(0)

    session.run(story())
    assert len(set(seen)) > 10


def test_settings_that_were_asked_for_before_an_event_tells_of_a_change_are_asked_for_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leverage is changed while the account is read: the answer has the old one, and it is dropped."""
    gateway, asked, answer = session.gateway, list[bool](), asyncio.Event()
    read = gateway.snapshot

    async def snapshot(symbol: str, since_trade_id: int, settings: bool = True) -> Snapshot:
        asked.append(settings)
        if len(asked) == 1:
            session.tell(StreamStatus(wall(), "user", False))
            session.tell(StreamStatus(wall(), "user", True))
            await answer.wait()
        return await read(symbol, since_trade_id, settings)

    monkeypatch.setattr(gateway, "snapshot", snapshot)

    async def story() -> None:
        session.tell(StreamStatus(wall(), "user", True))
        while len(asked) < 1:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        answer.set()
        while len(asked) < 2:
            await asyncio.sleep(0)

    session.run(story())
    assert asked[:2] == [True, True]


def test_a_long_backlog_of_trades_is_taken_in_parts(session: Session) -> None:
    seen: list[int] = []

    async def story() -> None:
        for trade_id in range(1, 300_001):
            session.system._on_agg_trade(trade_id, 1_000, 1, wall() - 60_000, False)
        while session.core.last_trade_id < 300_000:
            seen.append(session.core.last_trade_id)
            await asyncio.sleep(0)

    session.run(story())
    assert len(set(seen)) > 2


def test_rows_are_committed_soon_though_nothing_more_arrives(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed engine knew last is in its journal: the wait for news is cut short for it."""
    monkeypatch.setattr("voltrade.live.IDLE_S", 60.0)
    record = session.journal

    async def story() -> None:
        for _ in range(2):  # the second comes right after the commit of the first
            session.tell(Timer(wall()))
            before = record.seq
            while record.seq == before or record.committed[0] < record.seq:
                await asyncio.sleep(0.005)

    session.run(story())


@pytest.mark.parametrize("event", [Timer(0), Trades.from_rows("BTCUSDT", [(1, 1_000, 1, 0, False)])])
def test_a_core_that_fails_within_an_event_is_not_whole(
    session: Session, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is none that the journal leads to, so the next run must not go on from it."""
    session.system.handle(Timer(wall()))
    assert session.system.is_journaled

    def fail(event: Event) -> Any:
        raise ValueError("half-way")

    monkeypatch.setattr(session.core, "handle", fail)
    with pytest.raises(ValueError, match="half-way"):
        session.system.handle(event)
    assert not session.system.is_journaled
    session.journal.close()


def kinds(session: Session) -> list[str]:
    return [row.kind for row in read(session.path)]


def test_who_only_watches_keeps_the_core_from_nothing(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """The journal has the event already: a core that did not handle it would differ from its own replay."""

    def broken(fact: object) -> None:
        raise ValueError("no room for it")

    session.system._observe = broken
    _, outputs = session.system.handle(StreamStatus(wall(), "user", True))
    assert [type(output).__name__ for output in outputs] == ["TakeSnapshot"]
    assert session.system.is_journaled
    assert "a StreamStatus could not be observed" in caplog.text


def test_market_data_waits_for_its_row_until_something_is_answered(session: Session) -> None:
    """Twelve trades of one lot and their marks: one row of eleven, and one before the bar that the last ones close."""
    now = wall()
    for number in range(12):
        session.system.handle(Trades.from_rows("BTCUSDT", [(number + 1, 1_000, 1_000, now + number, False)]))
        session.system.handle(MarkPrice("BTCUSDT", now + number, 10_000_000_000 + number))
    session.journal.commit()
    assert kinds(session) == ["Start", "Market", "Bar"]
    assert session.system.is_journaled
    session.system.handle(Timer(now + 12))
    session.journal.close()
    *_, market, _ = read(session.path)
    assert kinds(session) == ["Start", "Market", "Bar", "Market", "Timer"]
    assert [type(fact).__name__ for fact in market.fact] == ["MarkPrice", "Trades", "MarkPrice", "Trades", "MarkPrice"]
    assert replay(session.path).differences == 0


@pytest.mark.parametrize(("has_position", "waits_s"), [(False, 0.6), (True, 0.2)])
def test_market_data_waits_for_its_row_no_longer_than_stated(
    session: Session, monkeypatch: pytest.MonkeyPatch, has_position: bool, waits_s: float
) -> None:
    monkeypatch.setattr(live, "MARKET_ROW_S", 0.6)
    monkeypatch.setattr(live, "MARKET_ROW_IN_POSITION_S", 0.2)
    if has_position:
        session.enter()

    async def story() -> None:
        while "Trades" not in kinds(session):  # the loop begins with a row
            session.system._on_agg_trade(session.core.last_trade_id + 1 or 1, 1_000, 1, wall(), False)
            await asyncio.sleep(0.01)
        rows, began = kinds(session).count("Trades"), asyncio.get_running_loop().time()
        while kinds(session).count("Trades") == rows:
            session.system._on_agg_trade(session.core.last_trade_id + 1, 1_000, 1, wall(), False)
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - began >= waits_s - 0.1

    session.run(story())
    assert replay(session.path).differences == 0 or has_position


# --- nothing holds up a stop -----------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_the_upkeep_of_the_streams(session: Session) -> None:
    """Fault case C4: the listen key's renewal, or whatever else the streams await, has no answer yet."""
    session.enter()
    session.gateway.awaited = lambda command: isinstance(command, OrderIntent) and command.purpose is Purpose.STOP
    renewing, answered = asyncio.Event(), asyncio.Event()

    async def renew() -> None:
        renewing.set()
        await answered.wait()

    feed = Feed(renew)

    async def story() -> None:
        await renewing.wait()
        session.tell(session.order(ENTRY, "FILLED", 10, 10, 1, 100))
        await session.gateway.done.wait()
        assert not answered.is_set()
        assert feed.calls == 1  # one at a time
        answered.set()
        while feed.calls < 2:
            await asyncio.sleep(0.01)

    session.run(story(), feed)


def test_a_stop_leaves_before_a_backlog_of_trades_is_taken(session: Session) -> None:
    """What follows from an event is sent before the next event is looked at."""
    session.enter()
    session.core.handle(session.order(ENTRY, "NEW", 0, 0, 0, 0))
    for trade_id in range(1, 5_001):
        session.system._on_agg_trade(trade_id, 1_000, 1, wall(), False)
    session.tell(session.order(ENTRY, "FILLED", 10, 10, 1, 100))
    sent: list[Any] = []
    while not any(isinstance(command, OrderIntent) for command in sent):
        sent += session.system._consume()
    assert sent[-1].purpose is Purpose.STOP
    assert session.core.last_trade_id < 1
    assert session.system._inbox.arrived.is_set()  # the rest is taken at once after it
    session.journal.close()


def test_upkeep_outlives_a_cancellation_that_was_not_meant_for_it(session: Session) -> None:
    async def cancel() -> None:
        if feed.calls == 1:
            raise asyncio.CancelledError

    feed = Feed(cancel)

    async def story() -> None:
        while feed.calls < 3:
            await asyncio.sleep(0.01)

    session.run(story(), feed)


def test_upkeep_that_fails_is_tried_again_and_trading_goes_on(session: Session) -> None:
    """Fault case C4: its failure is its own."""

    async def fail() -> None:
        raise RuntimeError("no answer")

    feed = Feed(fail)

    async def story() -> None:
        while feed.calls < 2:
            await asyncio.sleep(0.01)
        session.tell(Operator(wall(), "pause", "lunch"))
        while not session.core.paused:
            await asyncio.sleep(0.01)

    session.run(story(), feed)


def test_an_event_that_was_lost_ends_the_session(session: Session) -> None:
    async def lost() -> None:
        raise ExchangeError("an event could not be handled")

    with pytest.raises(ExchangeError, match="could not be handled"):
        asyncio.run(asyncio.wait_for(session.system.run_wall(Feed(lost)), 20))
    session.journal.close()


def test_a_session_that_ends_leaves_upkeep_alone(session: Session) -> None:
    """What it awaits then is nobody's business any more."""

    async def never() -> None:
        await asyncio.Event().wait()

    session.tell(Operator(wall(), "protect", "over", final=True))
    asyncio.run(asyncio.wait_for(session.system.run_wall(Feed(never)), 20))
    session.journal.close()
    assert session.core.end_reason == "over"


# --- texts from outside ----------------------------------------------------------------------------------------------

REASONS = {"latin-1": b"M\xfcller", "tis-620": b"\xa1\xd2\xc3", "cut": "พัก".encode()[:-1], "nul": b"a\x00b"}


@pytest.mark.parametrize("action", ["flatten", "pause", "halt", "reduce", "resume", "protect"])
@pytest.mark.parametrize("reason", REASONS.values(), ids=REASONS)
def test_a_command_is_carried_out_whatever_bytes_its_reason_has(session: Session, action: Any, reason: bytes) -> None:
    """Fault case F4: it stands in the journal, and the replay does the same."""
    said = reason.decode(errors="surrogateescape")
    session.system.handle(StreamStatus(wall(), "user", True))
    session.system.handle(asyncio.run(session.gateway.snapshot("BTCUSDT", 0)))
    session.system.handle(Operator(wall(), action, said, final=True))
    session.journal.close()
    [row] = [row.fact for row in journal.read(session.path) if row.kind == "Operator"]
    assert row.action == action
    assert session.core.end_reason == row.reason
    again = replay(session.path)
    assert again.differences == 0, again.shown
    assert again.core is not None
    assert (again.core.end_reason, again.core.paused) == (session.core.end_reason, session.core.paused)


def test_no_text_of_the_exchange_ends_the_session(session: Session) -> None:
    """Fault case F4, its siblings: a stranger's client order id, and the words of a refusal."""
    session.system.handle(StreamStatus(wall(), "user", True))
    snapshot = asyncio.run(session.gateway.snapshot("BTCUSDT", 0))
    session.system.handle(snapshot)
    stranger = session.order("web_\ud800", "NEW", 0, 0, 0, 9)
    session.system.handle(stranger)
    session.system.handle(replace(snapshot, orders=(stranger,), margin_type="\udfff"))
    session.journal.close()
    texts = [row.fact.text for row in journal.read(session.path) if row.kind == "Alert"]
    assert "order web_\\ud800 (NEW) isn't ours" in texts
    again = replay(session.path)
    assert again.differences == 0, again.shown


# --- commands that come early ----------------------------------------------------------------------------------------


def test_commands_before_the_first_snapshot_are_kept_and_replayed(session: Session) -> None:
    """Fault case F5: given while the engine still loads, they hold when there is an account."""

    async def story() -> None:
        session.tell(Operator(wall(), "halt", "wait"), Operator(wall(), "pause", "lunch"))
        session.tell(StreamStatus(wall(), "user", True))
        while not session.monitor.reconciled:
            await asyncio.sleep(0.01)

    session.run(story())
    assert session.core.breaker is not None
    assert session.core.breaker.mode == "HALTED"
    assert session.core.paused == "lunch"
    kinds = [row.kind for row in journal.read(session.path)]
    assert kinds.index("Operator") < kinds.index("Snapshot") < kinds.index("BreakerChange")
    again = replay(session.path)
    assert again.differences == 0, again.shown


# --- what a person is told -------------------------------------------------------------------------------------------


def test_the_status_is_in_units_of_people(session: Session) -> None:
    """It told lots, 1e-8 of the quote asset and milliseconds."""

    async def story() -> None:
        session.tell(StreamStatus(wall(), "user", True))
        while not session.monitor.reconciled:
            await asyncio.sleep(0.01)

    session.run(story())
    session.core.time = 1_767_643_213_569
    told = session.system.status(0)
    assert told["time"] == "2026-01-05 20:00:13 UTC"
    assert told["position"].endswith(f" {an_instrument().base_asset}")
    assert told["wallet"] == "10,000.00 USDT"
    assert told["distances"]["DAILY_LOSS"] == "0.00 of 300.00 USDT"
    assert told["distances"]["TRADES_PER_DAY"] == "0 of 50 round trips"


# --- filters that change ---------------------------------------------------------------------------------------------


@dataclass
class Changed(Gateway):
    """Refuses orders by a tick that became coarser."""

    reads: int = 0

    async def submit(self, intent: OrderIntent) -> Reply:
        order = intent.order
        return Reply(
            wall(),
            "submit",
            order.symbol,
            order.client_order_id,
            True,
            Outcome.REFUSED,
            -4014,
            "Price not increased by tick",
        )

    async def filters(self, symbol: str) -> Instrument:
        self.reads += 1
        return an_instrument(symbol, tick="0.70")


REFUSED = OrderIntent(0, OrderRequest("BTCUSDT", ENTRY, Side.BUY, OrderType.MARKET, 10), Purpose.ENTRY, 1, "SIGNAL")


def test_in_lockstep_the_filters_that_an_order_is_refused_for_are_read_before_the_tape_goes_on(
    session: Session,
) -> None:
    gateway = session.system._gateway = Changed()
    reply = asyncio.run(session.system._execute_in_lockstep(REFUSED))
    assert isinstance(reply, Reply)
    [told] = session.system._inbox.events
    assert isinstance(told, Filters)
    assert (told.price_step, told.quantity_step, gateway.reads) == (7, 1, 1)
    session.journal.close()


def test_refusals_in_a_row_have_the_filters_read_once_a_second_and_told_once(session: Session) -> None:
    session.enter()
    gateway = session.system._gateway = session.system.rest_reads._gateway = Changed()

    async def story() -> None:
        for _ in range(5):
            await session.system._request(REFUSED)
        while session.core.symbol_states["BTCUSDT"].filters.price_step == 1:
            await asyncio.sleep(0.01)

    session.run(story())
    assert gateway.reads == 1
    assert sum(row.kind == "Filters" for row in journal.read(session.path)) == 1
    alerts = [row.fact for row in journal.read(session.path) if row.kind == "Alert"]
    assert [alert.text for alert in alerts if alert.code == "SYMBOL_CHANGED"] == ["tick 0.10 -> 0.70"]


# --- a disk that is full ----------------------------------------------------------------------------------------------


class FullDisk(Ballast):
    """Keeps a journal from storing anything until the space that is kept is given back."""

    def __init__(self, journal: Journal, has_room: bool = False) -> None:
        super().__init__()
        self.has_room, self.freed, self._journal = has_room, 0, journal
        self._store = journal._store
        journal._store = self._fail  # type: ignore[method-assign]

    def _fail(self, rows: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def lay(self) -> bool:
        return self.has_room

    def free(self) -> bool:
        self.freed += 1
        self._journal._store = self._store  # type: ignore[method-assign]
        return True


def an_intent(name: str, purpose: Purpose) -> OrderIntent:
    request = OrderRequest("BTCUSDT", name, Side.SELL, OrderType.MARKET, 4, reduce_only=purpose is not Purpose.ENTRY)
    return OrderIntent(wall(), request, purpose, 1, "test")


def test_kept_space_is_for_orders_that_protect(session: Session) -> None:
    """Entry and question wait for the disk; the exit's row has the space, and after that entries wait for room."""
    session.system._ballast = disk = FullDisk(session.journal)
    stored = []

    async def story() -> None:
        for command in (an_intent("vt-e-1e1", Purpose.ENTRY), an_intent("vt-e-1x1", Purpose.EXIT)):
            session.journal.append_fact(command, wall())
            await session.system._execute(command)
            stored.append((session.journal.committed[0] == session.journal.seq, disk.freed))
        answers = []
        for disk.has_room in (False, True):
            answer = await session.system._execute(an_intent("vt-e-2e1", Purpose.ENTRY))
            answers.append(getattr(answer, "text", "") == NOT_STORED_TEXT)
        assert answers == [True, False]

    asyncio.run(story())
    assert stored == [(False, 0), (True, 1)]
    assert [intent.order.client_order_id for intent in session.gateway.asked] == ["vt-e-1x1", "vt-e-2e1"]
    session.journal.close()


def test_the_space_for_protecting_orders_is_taken_before_the_first_entry(session: Session) -> None:
    session.system._ballast = Ballast(session.path.parent)
    session.run(asyncio.sleep(0))
    assert (session.path.parent / BALLAST).exists()


def test_the_account_is_compared_though_a_report_is_awaited_that_cannot_come(session: Session) -> None:
    """The stream is dialled anew meanwhile: a stop that somebody cancels counts as cover until the account is read."""
    dialled: list[str] = []
    feed = Feed()
    feed.drop_connection = lambda stream, why: dialled.append(stream)  # type: ignore[attr-defined]
    session.system._watch.is_stream_silent = lambda now: True  # type: ignore[method-assign]
    session.system._watch.is_due = lambda now: True  # type: ignore[method-assign]

    async def story() -> None:
        while not session.system.rest_reads.is_reading and not session.core.account:
            await asyncio.sleep(0.01)

    session.run(story(), feed)
    assert "user" in dialled
