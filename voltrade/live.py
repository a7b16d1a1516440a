"""LiveTradingSystem: the core, wired to an exchange and a journal.

It carries events from the streams to the core and the core's commands to the exchange, and writes both down: an event
before the core acts on it, a command before its request leaves. It holds no trading logic. Where the tape is the clock
(`sim` at full speed) it answers the asks of `TapeLoop` over the wire; else it consumes one queue by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from voltrade.account_watch import AccountWatch
from voltrade.core import TradingCore
from voltrade.errors import JournalError, SessionError, VenueError
from voltrade.exchange.ports import Feed, OrderGateway
from voltrade.journal import Journal
from voltrade.journal_rows import Fact
from voltrade.model import (
    MONEY,
    CancelOrder,
    Command,
    EngineRestarted,
    Event,
    Filters,
    History,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    Outcome,
    Output,
    Purpose,
    Reply,
    Segment,
    Snapshot,
    StreamStatus,
    TakeSnapshot,
    Timer,
    Trades,
    Trouble,
    moment_text,
)
from voltrade.order_states import TOO_LARGE
from voltrade.risk import distance_label
from voltrade.tape_loop import (
    AdvanceExchange,
    DrainEvents,
    EndOfTape,
    NextSegment,
    Request,
    SendCommand,
    TapeLoop,
    commands_of,
    warm_up,
)

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 30.0
"""Longest wait for frames that the venue says it has sent."""

COMMIT_EVERY = 200
"""Rows after which the journal is committed though no command waits."""

SNAPSHOT_AGAIN_S, SNAPSHOT_DOUBLINGS = 1.0, 2
"""Pause before an account that could not be read is asked for again; by the wall clock twice as long each time, up to
4 s: so that not even a minute of refusals takes the weight that orders need."""

SNAPSHOT_TRIES = 10
"""How often a snapshot is asked for in lockstep before the session fails; by the wall clock, for ever."""

STREAM_UP = "USER_STREAM_UP"
"""Why the account is read when the user stream has come up again."""

UNWRITTEN = "not sent: it can't be written down"
UNWRITTEN_S = 5.0
"""How often it is tried to write down what could not be, beside each command."""

LATE_MS = 1_000
"""Trades that are older than this when they arrive are told the time first, so that the core can see their age."""

COMMIT_S, IDLE_S = 0.2, 1.0
"""By the wall clock: how long rows wait for their commit where no command does, and how long the loop waits for
something to arrive; as often as that the streams are looked after."""

EVENTS_A_PASS = 100
TRADES_A_BLOCK = 1_000
"""By the wall clock: how much the loop takes before it carries out the commands and lets streams and requests in."""


class Channel(Protocol):
    """The side channel of the simulated venue, no part of Binance's wire."""

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the answer."""


class LiveTradingSystem:
    """One engine: one account, one symbol, one journal.

    Args:
        core: the trading logic.
        journal: open, with its Start row written.
        gateway: carries commands to the exchange.
        clock: returns the time in ms; `set_clock` moves it where the tape is the clock.
        observe: is told of every fact that is written down; it must not raise, nor wait.
    """

    def __init__(
        self,
        core: TradingCore,
        journal: Journal,
        gateway: OrderGateway,
        clock: Callable[[], int],
        set_clock: Callable[[int], None] = lambda now: None,
        observe: Callable[[Event | Output], None] = lambda fact: None,
    ) -> None:
        self.core = core
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._set_clock = set_clock
        self._observe = observe
        (self._symbol,) = core.symbol_states
        self._market: deque[tuple[int, int, int, int, bool] | MarkPrice] = deque()
        self._news: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._seen_trade_id = 0
        self._seen_marks = 0
        self._uncommitted = 0
        self._is_lockstep = False
        self._watch = AccountWatch()
        self._is_unwritten = False
        """Whether the journal could not be written, so that nothing may be risked."""
        self._is_reading, self._read_again = False, ""
        """Whether the account is being read just now, and why it is to be read once more."""
        self._trades = 0
        self.is_journaled = True
        """Whether the core's state is the one after the journal's last row: not in `handle`, nor where it raised."""

    # --- from the streams ------------------------------------------------------------------------------------------

    def _on_agg_trade(self, trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool) -> None:
        """Take a trade from the stream; the core gets it with whatever else has arrived, in order."""
        self._market.append((trade_id, price, quantity, time, buyer_is_maker))
        self._seen_trade_id = trade_id
        self._arrived.set()

    def on_event(self, event: Event) -> None:
        """Take any other event: from a stream, or a person's command."""
        if isinstance(event, MarkPrice):
            self._market.append(event)
            self._seen_marks += 1
        else:
            self._watch.see(event, self._clock())
            self._news.append(event)
        self._arrived.set()

    def status(self, tape_trades: int) -> dict[str, Any]:
        """Say how things are, for people; `tape_trades` is the length of the tape, 0 where there is none."""
        core, symbol_state = self.core, self.core.symbol_states[self._symbol]
        instrument, quote = symbol_state.instrument, symbol_state.instrument.quote_asset
        return {
            "time": moment_text(core.time),
            "progress": self._trades / tape_trades if tape_trades else 0.0,
            "trades": f"{self._trades:,}",
            "bars": f"{symbol_state.pipeline.count:,}",
            "position": f"{instrument.quantity(symbol_state.monitor.position):f} {instrument.base_asset}",
            "wallet": f"{core.account.wallet / MONEY:,.2f} {quote}" if core.account else "",
            "paused": core.paused,
            "breaker": core.breaker.mode if core.breaker else "",
            "distances": {code: distance_label(code, *far, quote) for code, far in core.breaker.distances().items()}
            if core.breaker
            else {},
        }

    # --- the record ------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        """Let the core handle an event, and write down the event, the bars it closed and what followed.

        The core handles it as the journal holds it, so that a replay sees the same.
        """
        symbol_state = self.core.symbol_states[self._symbol]
        bars = symbol_state.pipeline.count
        if isinstance(event, Trades):
            # A block is written as far as it was consumed: the cut is part of the record.
            self.is_journaled = False
            consumed, outputs = self.core.handle(event)
            if consumed:
                self._write(event[:consumed])
                self._trades += consumed
        else:
            event = self._write(event)
            consumed, outputs = self.core.handle(event)
        for number in range(bars, symbol_state.pipeline.count):
            self._journal.append("Bar", self.core.time, self.core.bar_row(symbol_state, number))
        for output in outputs:
            self._write(output)
        self.is_journaled = True
        if self._uncommitted >= COMMIT_EVERY and not self._is_unwritten:
            self._commit()
        return consumed, outputs

    def _write(self, fact: Fact) -> Fact:
        """Write a fact down, and return it as the journal holds it."""
        fact = self._journal.append_fact(fact, self.core.time)
        self.is_journaled = False
        self._uncommitted += 1
        self._observe(fact)
        return fact

    def _commit(self) -> None:
        """Bring on the disk what was written. Where the disk takes nothing, a person is told, and trading goes on.

        Where the tape is the clock nothing is at stake, and the session ends instead.

        Raises:
            JournalError: it could not be stored, where the tape is the clock.
        """
        try:
            self._journal.commit()
        except JournalError as error:
            if self._is_lockstep:
                raise
            self._tell_of_disk(str(error))
        else:
            self._uncommitted = 0
            self._tell_of_disk("")

    def _tell_of_disk(self, wrong: str) -> None:
        """Tell once that nothing can be written down, and once that it can again."""
        if bool(wrong) == self._is_unwritten:
            return
        self._is_unwritten = bool(wrong)
        said = f"{wrong}: no entry is sent until it is; what protects is" if wrong else "the journal is whole again"
        log.warning("%s", said)
        self._news.append(Trouble(self._clock(), "JOURNAL", said))
        self._arrived.set()

    def warm_up(self, history: History) -> None:
        """Let the core take what came before the session; without an account it can't act on it."""
        warm_up(self.handle, history)
        self._commit()

    def catch_up(self, history: History) -> None:
        """Put what a restarted engine has missed before what its streams bring."""
        if history.resume_point is not None:
            self._news.append(history.resume_point)
        self._market.extendleft(reversed(list(history.trades.rows())))
        self._arrived.set()

    @property
    def now(self) -> int:
        """The time, ms UTC: the wall's or the tape's."""
        return self._clock()

    # --- to the exchange -------------------------------------------------------------------------------------------

    async def _execute(self, command: Command) -> Reply | Snapshot:
        """Carry out a command that is on disk already; what goes wrong with an order is an UNKNOWN, never a guess."""
        self._commit()
        if self._is_unwritten and isinstance(command, OrderIntent) and command.purpose is Purpose.ENTRY:
            asked = command.order
            return Reply(
                self._clock(), "submit", asked.symbol, asked.client_order_id, False, Outcome.REFUSED, 0, UNWRITTEN
            )
        if isinstance(command, TakeSnapshot):
            return await self._gateway.snapshot(
                command.symbol, self.core.symbol_states[self._symbol].monitor.agreed_trade_id
            )
        if isinstance(command, OrderIntent):
            return await self._gateway.submit(command)
        if isinstance(command, CancelOrder):
            return await self._gateway.cancel(command)
        assert isinstance(command, LookupOrder)
        return await self._gateway.lookup(command)

    # --- the tape is the clock -------------------------------------------------------------------------------------

    async def run_lockstep(self, feed: Feed, channel: Channel, *, marks: int = 0, restarted: bool = False) -> None:
        """Run until the tape or the session is over; see `TapeLoop` for the arguments.

        Raises:
            SessionError: frames that the venue says it sent did not arrive.
        """
        self._feed, self._channel, self._is_lockstep = feed, channel, True
        # The streams have told that they came up; where the tape is the clock the session itself says so.
        self._news = deque(event for event in self._news if not isinstance(event, StreamStatus))
        self._executed = False
        self._seen_marks = marks
        self._seen_trade_id = last_id = self.core.symbol_states[self._symbol].pipeline.last_trade_id
        self._played = AdvanceExchange(0, max(last_id, 0), False, marks, self._clock())
        run = TapeLoop(self.core, self.handle, self._clock(), marks=marks, restarted=restarted).run()
        answer: Any = None
        try:
            while True:
                answer = await self._answer(run.send(answer))
        except StopIteration:
            self._commit()

    async def _answer(self, ask: Request) -> Any:
        match ask:
            case NextSegment():
                await self._feed.maintain(self._clock())  # the tape waits for us meanwhile: nothing fills
                return await self._horizon()
            case AdvanceExchange():
                await self._play(ask)
            case SendCommand(command=command):
                self._executed = True
                return await self._insist(command)
            case DrainEvents():
                return await self._collect()
            case EndOfTape():
                await self._hear(await self._channel.ask({"op": "finish"}))
        return None

    async def _insist(self, command: Command) -> Reply | Snapshot:
        """Carry out a command; a snapshot that fails is asked for again, since the tape waits for it."""
        for _ in range(SNAPSHOT_TRIES - 1):
            try:
                return await self._execute(command)
            except VenueError as error:
                log.warning("the account could not be read: %s", error)
                await asyncio.sleep(SNAPSHOT_AGAIN_S)
        return await self._execute(command)

    async def _horizon(self) -> Segment:
        reply = await self._channel.ask({"op": "go"})
        last_id, marks = reply["trade_id"], reply["mark"]
        await self._until(lambda: self._seen_trade_id >= last_id and self._seen_marks >= marks, "market data")
        played_marks = self._seen_marks - sum(isinstance(item, MarkPrice) for item in self._market)
        rows: list[tuple[int, int, int, int, bool]] = []
        mark = None
        for item in self._market:
            if isinstance(item, MarkPrice):
                mark = item if marks > played_marks else None
                break
            if item[0] > last_id:
                break
            rows.append(item)
        return Segment(Trades.from_rows(self._symbol, rows), mark, reply["end"])

    async def _play(self, play: AdvanceExchange) -> None:
        for _ in range(play.trades + play.mark):
            self._market.popleft()
        self._set_clock(play.time)
        # The exchange never gets ahead of the journal: what it has played, a restarted engine has seen.
        self._commit()
        await self._sync(play)

    async def _sync(self, play: AdvanceExchange) -> None:
        self._played = play
        message = {"op": "at", "trade_id": play.trade_id, "marks": play.marks, "time": play.time}
        await self._hear(await self._channel.ask(message))
        self._executed = False

    async def _hear(self, reply: dict[str, Any]) -> None:
        await self._until(lambda: self._feed.user_frames >= reply["user"], "user data")

    async def _collect(self) -> list[Event]:
        if self._executed:
            await self._sync(self._played)
        news = list(self._news)
        self._news.clear()
        return news

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for frames; a frame may come before or after the side channel speaks of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ANSWER_WITHIN_S
        while not condition():
            if loop.time() > deadline:
                raise SessionError(f"lockstep: {what} did not arrive within {ANSWER_WITHIN_S:.0f} s of being sent")
            self._arrived.clear()
            with suppress(TimeoutError):
                # A frame that brings no event sets nothing, so the condition is asked again soon in any case.
                await asyncio.wait_for(self._arrived.wait(), 0.02)

    # --- the wall is the clock -------------------------------------------------------------------------------------

    async def run_wall(self, feed: Feed, *, restarted: bool = False) -> None:
        """Run until the session is over: one queue, one consumer; requests wait at the side of it.

        Args:
            feed: up already; what it has told since waits in the queue.
            restarted: whether the core comes from the journal of an engine that was killed.
        """
        self._feed = feed
        if restarted:
            self._news.appendleft(EngineRestarted(self._clock()))
        try:
            async with asyncio.TaskGroup() as tasks:
                upkeep = tasks.create_task(self._look_after(feed, tasks))
                await self._consume_by_the_wall(tasks)
                upkeep.cancel()
        except ExceptionGroup as several:  # one that failed ends the others
            raise several.exceptions[0] from None
        self._commit()

    async def _look_after(self, feed: Feed, requests: asyncio.TaskGroup) -> None:
        """Do what streams and account need from time to time, beside the loop: no order waits for their answers.

        Raises:
            VenueError: an event may be lost: trading must not go on.
        """
        task = asyncio.current_task()
        while not self.core.finished:
            try:
                if self._watch.is_deaf(self._clock()):
                    feed.reconnect("user", "an order was accepted, and nothing told of it")
                elif not self._is_reading and self._watch.is_due(self._clock(), *self._at_risk()):
                    requests.create_task(self._read_account(TakeSnapshot(self._clock(), self._symbol, "COMPARE")))
                await feed.maintain(self._clock())
            except VenueError:
                raise
            except asyncio.CancelledError:
                if task is None or task.cancelling():
                    raise
                log.warning("the upkeep of the streams was cancelled by somebody else, and goes on")
            except Exception:  # what could not be done is tried again; the streams tell themselves when they end
                log.exception("the streams could not be looked after")
            await asyncio.sleep(IDLE_S)

    def _at_risk(self) -> tuple[bool, bool]:
        """Whether something is in hand, and whether the price has passed a stop or target that nothing tells of."""
        symbol_state = self.core.symbol_states[self._symbol]
        return symbol_state.monitor.has_position, symbol_state.monitor.is_passed(symbol_state.pipeline.last_price)

    async def _consume_by_the_wall(self, requests: asyncio.TaskGroup) -> None:
        pending: set[asyncio.Task[None]] = set()
        commit_at = 0.0
        while not (self.core.finished and not pending):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._arrived.wait()
            await asyncio.sleep(0)  # the wait gives nobody a turn where something has arrived already
            self._arrived.clear()
            for command in self._consume():
                task = requests.create_task(self._request(command))
                pending.add(task)
                task.add_done_callback(pending.discard)
            if (now := asyncio.get_running_loop().time()) >= commit_at:
                commit_at = now + (UNWRITTEN_S if self._is_unwritten else COMMIT_S)
                self._commit()

    def _wait_s(self) -> float:
        """How long the loop may wait for something to arrive: until a timer is due, or rows want to be committed."""
        until_due_s = max(self.core.next_due - self._clock(), 0) / 1000
        return min(until_due_s, COMMIT_S if self._uncommitted else IDLE_S)

    def _consume(self) -> list[Command]:
        """Let the core handle what has arrived, up to a bounded amount, and what is due; return the commands."""
        commands: list[Command] = []
        for _ in range(EVENTS_A_PASS):
            if self._news:
                commands += commands_of(self.handle(self._news.popleft())[1])
            elif self._market:
                commands += self._consume_market()
            else:
                break
            if commands:
                break  # they leave before anything else is taken
        if self._news or self._market:
            self._arrived.set()
        # One timer does all that is due. What is due again at once waits for the next pass.
        if self.core.next_due <= (now := self._clock()):
            commands += commands_of(self.handle(Timer(now))[1])
        return commands

    def _consume_market(self) -> list[Command]:
        if isinstance(self._market[0], MarkPrice):
            return commands_of(self.handle(self._market.popleft())[1])  # type: ignore[arg-type]
        rows = []
        for item in islice(self._market, TRADES_A_BLOCK):
            if isinstance(item, MarkPrice):
                break
            rows.append(item)
        outputs: list[Output] = []
        if self._clock() - rows[0][3] > LATE_MS and self.core.time < self._clock():
            outputs += self.handle(Timer(self._clock()))[1]
        consumed, more = self.handle(Trades.from_rows(self._symbol, rows))
        for _ in range(consumed):
            self._market.popleft()
        if not consumed:
            more = self.handle(Timer(self.core.next_due))[1]
        return commands_of(outputs + more)

    async def _request(self, command: Command) -> None:
        """Carry out one command by the side of the queue, and put the answer into it."""
        if isinstance(command, TakeSnapshot):
            await self._read_account(command)
            return
        answer = await self._execute(command)
        self.on_event(answer)
        if isinstance(answer, Reply) and answer.code == TOO_LARGE:
            with suppress(VenueError):
                now = await self._gateway.filters(self._symbol)
                self.on_event(Filters(self._clock(), self._symbol, now.market_max_quantity))

    async def _read_account(self, command: TakeSnapshot) -> None:
        """Read the account until it could be read, at ever longer pauses.

        One reading at a time: who asks meanwhile has it read once more. What was read before the user stream came up
        again is not told: it may be older than what was missed.
        """
        if self._is_reading:
            self._read_again = STREAM_UP if STREAM_UP in (self._read_again, command.reason) else command.reason
            return
        self._is_reading, failures = True, 0
        try:
            while True:
                self._read_again = ""
                try:
                    snapshot = await self._execute(command)
                except VenueError as error:
                    log.warning("the account could not be read: %s", error)
                    if self.core.finished:
                        return
                    await asyncio.sleep(SNAPSHOT_AGAIN_S * 2 ** min(failures, SNAPSHOT_DOUBLINGS))
                    failures += 1
                    continue
                if self._read_again != STREAM_UP:
                    self.on_event(snapshot)
                if not self._read_again:
                    return
        finally:
            self._is_reading = False
