"""LiveTradingSystem: the core, connected to an exchange and a journal.

It passes events from the streams to the core and the core's commands to the exchange, and writes both to the journal:
an event before the core handles it, a command before its request is sent. Trades and mark prices are written after the
core took them, together with those before them, but before anything that the core answered. It has no trading logic.
By wall clock it takes events from an `Inbox`; where the tape is the clock (`sim` at full speed), see `lockstep`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from voltrade.background import is_cancelled
from voltrade.core import TradingCore
from voltrade.errors import ExchangeError, JournalError
from voltrade.exchange.ports import Feed, OrderGateway
from voltrade.journal import Journal
from voltrade.journal.ballast import NOT_STORED_TEXT, Ballast
from voltrade.journal.checkpoint import CHECKPOINT, Checkpoints
from voltrade.journal.pending_market_row import PendingMarketRow
from voltrade.journal.rows import Fact
from voltrade.model import (
    AccountSummary,
    Answer,
    CancelOrder,
    Command,
    EngineRestarted,
    Event,
    History,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    Outcome,
    Output,
    Purpose,
    Reply,
    Snapshot,
    TakeSnapshot,
    Timer,
    Trades,
    Trouble,
    moment_text,
)
from voltrade.orders.order_states import FILTER_CODES
from voltrade.session.abandonment import Abandonment
from voltrade.session.account_watch import COMPARE, AccountWatch
from voltrade.session.inbox import Inbox
from voltrade.session.lockstep import Channel, Lockstep, SessionHooks
from voltrade.session.price_off_alert import PriceOffAlert
from voltrade.session.rest_reads import RestReads, completed
from voltrade.symbol_state import status_of
from voltrade.tape_loop import TapeLoop, commands_of, warm_up

log = logging.getLogger(__name__)

COMMIT_EVERY = 200
"""Rows after which the journal is committed even if no command waits for it."""


RESTARTED = "RESTARTED"
"""Reason for reading the account: the engine comes back, and its position may lack its stop."""

MARKET_ROW_S, MARKET_ROW_IN_POSITION_S, MARKET_ROW_ITEMS = 30.0, 15.0, 1_000
"""How long, and up to how many, trades and mark prices that cause no output wait for a row of the journal. After a
crash the next engine loads such trades again, but can't load mark prices, by which a position is valued. A mark price
that trips a limit causes an output, so that it is written at once."""

STORE_AGAIN_S = 5.0
"""Pause before rows that could not be stored are tried again, besides the try before each command."""

LATE_MS = 1_000
"""Before trades that are older than this the core gets a timer, so that it knows how old they are."""

COMMIT_S, IDLE_S = 0.2, 1.0
"""How long rows wait for their commit if no command needs it, and how long the loop waits for events; streams and
account are checked every IDLE_S."""

EVENTS_A_PASS = 100
TRADES_A_BLOCK = 1_000
"""How much the loop handles before it sends commands and gives streams and requests their turn."""


def _is_about_filters(answer: Answer) -> bool:
    """Return whether an order was refused because of the symbol's filters or status."""
    return isinstance(answer, Reply) and answer.outcome is Outcome.REFUSED and answer.code in FILTER_CODES


class LiveTradingSystem:
    """One engine: one account, one symbol, one journal.

    Args:
        core: the trading logic.
        journal: open, with its Start row written.
        gateway: carries commands to the exchange.
        clock: returns the time in ms; `set_clock` sets it where the tape is the clock.
        observe: called with every fact that goes to the journal; it must not wait, and a failure of it is logged.
        checkpoints: of a core that comes from a journal; by default new ones.
        ballast: space for orders that protect; by default none is kept.
    """

    def __init__(
        self,
        core: TradingCore,
        journal: Journal,
        gateway: OrderGateway,
        clock: Callable[[], int],
        set_clock: Callable[[int], None] = lambda now: None,
        observe: Callable[[Event | Output], None] = lambda fact: None,
        checkpoints: Checkpoints | None = None,
        ballast: Ballast | None = None,
    ) -> None:
        self.core = core
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._set_clock = set_clock
        self._observe = observe
        self._checkpoints, self._ballast = checkpoints or Checkpoints(core), ballast or Ballast()
        (self._symbol,) = core.symbol_states
        self._inbox = Inbox()
        self._uncommitted = 0
        self._market_row = PendingMarketRow()
        self._is_lockstep = False
        self._watch, self._prices = AccountWatch(), PriceOffAlert(core.symbol_states[self._symbol].instrument)
        self.abandonment = Abandonment(clock, lambda: gateway.blocked_until)
        self._is_unstored = False
        """Whether the journal could not be stored, so that no entry may be sent."""
        self.rest_reads = RestReads(core, gateway, self._inbox, self._watch, clock, self._execute, self.on_event)
        self._trades = 0
        self.is_journaled = True
        """Whether the journal has everything that the core has handled: false during `handle`, and after it raised."""

    # --- from the streams ------------------------------------------------------------------------------------------

    def _on_agg_trade(self, trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool) -> None:
        """Take a trade from the stream; the core gets it in the order of arrival."""
        if strange := self._prices.check(price, time):
            self._inbox.add(Trouble(self._clock(), "PRICE_OFF", strange))
        self._inbox.add_trade((trade_id, price, quantity, time, buyer_is_maker))

    def on_event(self, event: Event) -> None:
        """Take any other event: from a stream, or an operator's command."""
        if isinstance(event, MarkPrice):
            self._prices.note_mark(event)
            self._watch.note_mark(event)
            self._inbox.add_mark(event)
        else:
            self._watch.on_event(event, self._clock())
            self.abandonment.on_event(event)
            self._inbox.add(event)

    def is_abandoned(self) -> bool:
        """Return whether a command that waits for the loop abandons the session; see `Abandonment`."""
        return self.abandonment.is_wanted(self._inbox.events)

    def status(self, tape_trades: int) -> dict[str, Any]:
        """Return the session's status for display; `tape_trades` is the length of the tape, 0 without one."""
        symbol_state, account, breaker = self.core.symbol_states[self._symbol], self.core.account, self.core.breaker
        return {
            "time": moment_text(self.core.time),
            "progress": self._trades / tape_trades if tape_trades else 0.0,
            "trades": f"{self._trades:,}",
            **status_of(symbol_state, account.wallet if account else None, self.core.paused, breaker),
        }

    # --- the journal -----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        """Handle an event with the core; write the event, the bars that it closed and the outputs to the journal.

        The core handles the event as the journal stores it, so that a replay handles the same. Market data that causes
        no output waits for its row: after a crash the journal lacks the last of it.
        """
        symbol_state = self.core.symbol_states[self._symbol]
        bars = symbol_state.pipeline.count
        if isinstance(event, Trades | MarkPrice):
            # Only the consumed part of a block is written: a replay must cut it at the same trade.
            self.is_journaled = False
            consumed, outputs = self.core.handle(event)
            if consumed:
                self._add_market(event.first(consumed) if isinstance(event, Trades) else event)
        else:
            self.write_market()
            event = self._write(event)
            consumed, outputs = self.core.handle(event)
        checkpoint = self._checkpoints.after(event, consumed)
        is_silent = not outputs and checkpoint is None and symbol_state.pipeline.count == bars
        if self._is_lockstep or not is_silent or self._market_row.items >= MARKET_ROW_ITEMS:
            self.write_market()
        for number in range(bars, symbol_state.pipeline.count):
            self._journal.append("Bar", self.core.time, self.core.bar_row(symbol_state, number))
        for output in outputs:
            self._write(output)
        if checkpoint is not None:
            self._journal.append(CHECKPOINT, self.core.time, checkpoint)
        self.is_journaled = True
        if self._uncommitted >= COMMIT_EVERY and not self._is_unstored:
            self._commit()
        return consumed, outputs

    def _add_market(self, fact: Trades | MarkPrice) -> None:
        self._market_row.add(fact)
        self._trades += len(fact) if isinstance(fact, Trades) else 0
        self._tell(fact)

    def write_market(self) -> None:
        """Append the market data that the core has taken and no row has yet."""
        if self._market_row.items:
            self._journal.append(*self._market_row.take_row(self.core.time))
            self._uncommitted += 1

    def _write(self, fact: Fact) -> Fact:
        """Append a fact to the journal, and return it as the journal stores it."""
        fact = self._journal.append_fact(fact, self.core.time)
        self.is_journaled = False
        self._uncommitted += 1
        self._tell(fact)
        return fact

    def _tell(self, fact: Event | Output) -> None:
        """Call `observe`; log an exception of it and go on."""
        try:
            self._observe(fact)
        except Exception:
            log.exception("a %s could not be observed", type(fact).__name__)

    def _commit(self) -> None:
        """Commit the journal. By wall clock a failure alerts the operator, and trading goes on without entries.

        Raises:
            JournalError: in lockstep, where no money is at stake, it could not be stored; the session ends.
        """
        try:
            self._journal.commit()
        except JournalError as error:
            if self._is_lockstep:
                raise
            self._report_storage(str(error))
        else:
            self._uncommitted = 0
            self._report_storage("")

    def _report_storage(self, wrong: str) -> None:
        """Alert once that the journal can't be stored, and once that it can again."""
        if bool(wrong) == self._is_unstored:
            return
        self._is_unstored = bool(wrong)
        text = f"{wrong}: no entry is sent until it can be" if wrong else "the journal is stored again"
        log.warning("%s", text)
        self._inbox.add(Trouble(self._clock(), "JOURNAL", text))

    def warm_up(self, history: History) -> None:
        """Handle the trades from before the session; without an account the core can't act on them."""
        self.core.take_rules()
        warm_up(self.handle, history)
        self.write_market()
        self._commit()

    def catch_up(self, history: History) -> None:
        """Queue what a restarted engine has missed: trades in front of the market data that has arrived."""
        if history.resume_point is not None:
            self._inbox.add(history.resume_point)
        self._inbox.prepend_trades(history.trades)

    @property
    def now(self) -> int:
        """The time in ms UTC: that of the wall clock or of the tape."""
        return self._clock()

    # --- to the exchange -------------------------------------------------------------------------------------------

    async def _execute(self, command: Command) -> Answer:
        """Commit the journal, send a command and return the answer: UNKNOWN without a clear one. While the journal
        can't be stored, or its disk lacks the ballast, an entry is refused instead of sent."""
        self._commit()
        if isinstance(command, OrderIntent) and command.purpose is Purpose.ENTRY and not self._may_enter():
            order = command.order
            return Reply(
                self._clock(), "submit", order.symbol, order.client_order_id, False, Outcome.REFUSED, 0, NOT_STORED_TEXT
            )
        if self._is_unstored and isinstance(command, OrderIntent | CancelOrder) and self._ballast.free():
            self._commit()
        if isinstance(command, TakeSnapshot):
            return await self._read(command)
        if isinstance(command, OrderIntent):
            return await self._gateway.submit(command)
        if isinstance(command, CancelOrder):
            return await self._gateway.cancel(command)
        assert isinstance(command, LookupOrder)
        return await self._gateway.lookup(command)

    def _may_enter(self) -> bool:
        """Return whether the journal can be stored, and its disk has the space that is kept for orders that protect."""
        return not self._is_unstored and self._ballast.lay()

    async def _read(self, command: TakeSnapshot) -> Snapshot | AccountSummary:
        """Read the account; for a comparison only the summary, which shows whether the rest must be read.

        Settings are read too from time to time, after the user stream was down, after an order was refused because of
        them, and while one of them lets nothing be entered.
        """
        symbol_state = self.core.symbol_states[self._symbol]
        settings = self._is_lockstep or bool(symbol_state.problems) or self._watch.are_settings_due(self._clock())
        if settings:
            self._watch.on_settings(self._clock())
        try:
            if command.reason == COMPARE:
                return await self._gateway.summary(command.symbol, settings)
            since = symbol_state.monitor.agreed_trade_id
            snapshot = await self._gateway.snapshot(command.symbol, since, settings)
            return await completed(snapshot, self.core, self._gateway)
        except ExchangeError:
            if settings:
                self._watch.on_settings(0)
            raise

    # --- the tape is the clock -------------------------------------------------------------------------------------

    async def run_lockstep(self, feed: Feed, channel: Channel, *, marks: int = 0, restarted: bool = False) -> None:
        """Run until the tape or the session is over; see `TapeLoop` for the arguments.

        Raises:
            SessionError: frames that the venue says it sent did not arrive.
        """
        self._is_lockstep = True
        execute = self._execute_in_lockstep
        hooks = SessionHooks(self._symbol, self._inbox, self._clock, self._set_clock, execute, self._commit)
        last_id = self.core.symbol_states[self._symbol].pipeline.last_trade_id
        loop = TapeLoop(self.core, self.handle, self._clock(), marks=marks, restarted=restarted)
        await Lockstep(hooks, feed, channel, last_id, marks).run(loop.run())

    async def _execute_in_lockstep(self, command: Command) -> Answer:
        """Send a command; if an order is refused because of its filters, read them before the tape goes on."""
        answer = await self._execute(command)
        if _is_about_filters(answer):
            with suppress(ExchangeError):
                self.rest_reads.on_filters(await self._gateway.filters(self._symbol))
        return answer

    # --- by wall clock ---------------------------------------------------------------------------------------------

    def begin_reading(self) -> asyncio.Task[Snapshot]:
        """Ask for the account before the loop runs, for a restarted `run_wall`."""

        async def read() -> Snapshot:
            snapshot = await self._read(TakeSnapshot(self._clock(), self._symbol, RESTARTED))
            assert isinstance(snapshot, Snapshot)
            return snapshot

        return asyncio.create_task(read())

    async def run_wall(
        self,
        feed: Feed,
        *,
        restarted: bool = False,
        reading: asyncio.Task[Snapshot] | None = None,
        beside: Coroutine[Any, Any, None] | None = None,
    ) -> None:
        """Run until the session is over: one task handles the inbox, and each request is a task of its own.

        Args:
            feed: started, or `beside` starts it; its events since then are in the inbox.
            restarted: whether the core comes from the journal of an engine that was killed. Then the account is read
                first, whatever the streams do.
            reading: the task of `begin_reading`, for a restarted core; by default the account is requested now.
            beside: further work of the start, done beside the loop; its exception ends the session.
        """
        if restarted:
            self._watch.expect_late_orders(self._clock())  # of the engine that was killed
            self._inbox.add(EngineRestarted(self._clock()), first=True)
        else:
            self._ballast.lay()  # now, not before the first entry, which it would delay
        try:
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._maintain(feed, tasks))]
                others += [tasks.create_task(beside)] if beside is not None else []
                if restarted:
                    first = TakeSnapshot(self._clock(), self._symbol, RESTARTED)
                    others.append(tasks.create_task(self.rest_reads.account(first, reading)))
                pending = await self._consume_until_finished(tasks)
                for task in (*others, *pending):
                    task.cancel()
        except ExceptionGroup as group:  # a task that fails cancels the others
            raise group.exceptions[0] from None
        finally:
            if self.is_journaled:
                self.write_market()
        self._commit()

    async def _maintain(self, feed: Feed, requests: asyncio.TaskGroup) -> None:
        """Maintain the streams and compare the account from time to time, beside the loop: no order waits for it.

        Raises:
            ExchangeError: an event may be lost, so trading must not go on.
        """
        while not self.core.finished:
            try:
                if self._watch.is_stream_silent(self._clock()):
                    feed.drop_connection("user", "an order was accepted, but the stream did not report it")
                if not self.rest_reads.is_reading and self._must_read_account():
                    requests.create_task(self.rest_reads.account(TakeSnapshot(self._clock(), self._symbol, COMPARE)))
                self._watch.note_inexact(feed.inexact)
                self.abandonment.note_frames(feed.frames)
                if self._watch.are_filters_due(self._clock()):
                    requests.create_task(self.rest_reads.filters())
                await feed.maintain(self._clock())
            except ExchangeError:
                raise
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                log.warning("the maintenance of the streams was cancelled by another task; it goes on")
            except Exception:  # tried again after IDLE_S; a stream that ends reports that itself
                log.exception("the streams could not be maintained")
            await asyncio.sleep(IDLE_S)

    def _must_read_account(self) -> bool:
        """Return whether to read the account, by what the watch has noted and what our books say."""
        symbol_state, now = self.core.symbol_states[self._symbol], self._clock()
        self._watch.note_passed(now, symbol_state.monitor.passed_triggers(symbol_state.pipeline.last_price))
        self._watch.expect_late_orders(symbol_state.monitor.absent_at)
        return self._watch.is_due(now)

    async def _consume_until_finished(self, requests: asyncio.TaskGroup) -> set[asyncio.Task[None]]:
        pending: set[asyncio.Task[None]] = set()
        commit_at, written_at = 0.0, 0.0
        while not (self.core.finished and (self.core.is_abandoned or not (pending or self._is_unstored))):
            timer = asyncio.get_running_loop().call_later(self._wait_s(), self._inbox.arrived.set)
            await self._inbox.arrived.wait()
            timer.cancel()
            await asyncio.sleep(0)  # other tasks get their turn even if the wait returns at once
            self._inbox.arrived.clear()
            for command in self._consume():
                task = requests.create_task(self._request(command))
                pending.add(task)
                task.add_done_callback(pending.discard)
            if (now := asyncio.get_running_loop().time()) >= commit_at:
                commit_at = now + (STORE_AGAIN_S if self._is_unstored else COMMIT_S)
                if now >= written_at + self._market_row_s():
                    self.write_market()
                    written_at = now
                self._commit()
        return pending

    def _market_row_s(self) -> float:
        """Return how long market data may wait for its row, in s."""
        return MARKET_ROW_IN_POSITION_S if self.core.symbol_states[self._symbol].monitor.in_round_trip else MARKET_ROW_S

    def _wait_s(self) -> float:
        """Return how long the loop may wait for events, in s: until a timer is due, or rows must be committed."""
        until_due_s = max(self.core.next_due - self._clock(), 0) / 1000
        return min(until_due_s, COMMIT_S if self._uncommitted else IDLE_S)

    def _consume(self) -> list[Command]:
        """Handle events that have arrived, at most EVENTS_A_PASS, and a due timer; return the commands."""
        commands: list[Command] = []
        for _ in range(EVENTS_A_PASS):
            if self._inbox.events:
                commands += commands_of(self.handle(self.abandonment.taken(self._inbox.events.popleft()))[1])
            elif self._inbox.market:
                commands += self._consume_market()
            else:
                break
            if commands:
                break  # they are sent before the next event is handled
        if self._inbox.events or self._inbox.market:
            self._inbox.arrived.set()
        # One timer does all that is due; what is due again at once waits for the next pass.
        if self.core.next_due <= (now := self._clock()):
            commands += commands_of(self.handle(Timer(now))[1])
        return commands

    def _consume_market(self) -> list[Command]:
        if isinstance(self._inbox.market[0], MarkPrice):
            return commands_of(self.handle(self._inbox.market.popleft())[1])  # type: ignore[arg-type]
        rows = self._inbox.next_trades(TRADES_A_BLOCK)
        outputs: list[Output] = []
        if self._clock() - rows[0][3] > LATE_MS and self.core.time < self._clock():
            outputs += self.handle(Timer(self._clock()))[1]
        consumed, more = self.handle(Trades.from_rows(self._symbol, rows))
        self._inbox.remove_market(consumed)
        if not consumed:
            more = self.handle(Timer(self.core.next_due))[1]
        return commands_of(outputs + more)

    async def _request(self, command: Command) -> None:
        """Send one command, and add the answer to the inbox."""
        if isinstance(command, TakeSnapshot):
            await self.rest_reads.account(command)
            return
        answer = await self._execute(command)
        self.on_event(answer)
        if _is_about_filters(answer):
            await self.rest_reads.filters()
