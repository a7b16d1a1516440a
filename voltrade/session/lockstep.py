"""A session in lockstep: engine and simulated venue advance in turns, so that the tape is the clock.

`Lockstep` answers the requests of `TapeLoop` over the venue's websockets, REST and side channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from voltrade.errors import ExchangeError, SessionError
from voltrade.exchange.ports import Feed
from voltrade.model import Answer, Command, Event, MarkPrice, Segment, StreamStatus, Trades
from voltrade.session.inbox import Inbox, TradeRow
from voltrade.tape_loop import AdvanceExchange, DrainEvents, EndOfTape, NextSegment, Request, SendCommand

log = logging.getLogger(__name__)

ARRIVE_WITHIN_S = 30.0
"""Longest wait for frames that the venue says it has sent."""

SNAPSHOT_TRIES = 10
"""How often a snapshot is requested before the session fails."""

SNAPSHOT_AGAIN_S = 1.0
"""Pause between these requests."""


class Channel(Protocol):
    """The side channel of the simulated venue; Binance has nothing like it."""

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the answer."""


@dataclass(frozen=True, slots=True)
class SessionHooks:
    """What a session in lockstep needs of `LiveTradingSystem`."""

    symbol: str
    inbox: Inbox
    clock: Callable[[], int]
    set_clock: Callable[[int], None]
    execute: Callable[[Command], Awaitable[Answer]]
    """Sends a command to the exchange and returns its answer."""
    commit: Callable[[], None]
    """Commits the journal."""


class Lockstep:
    """Answers the requests of a `TapeLoop`.

    Args:
        last_trade_id: of the trades that the core has seen, -1 for none.
        marks: mark prices that the venue has played already.
    """

    def __init__(self, hooks: SessionHooks, feed: Feed, channel: Channel, last_trade_id: int, marks: int) -> None:
        self._hooks, self._inbox, self._feed, self._channel = hooks, hooks.inbox, feed, channel
        # The streams have reported that they are connected; in lockstep the tape loop does so itself.
        self._inbox.events = deque(event for event in self._inbox.events if not isinstance(event, StreamStatus))
        self._inbox.last_trade_id, self._inbox.mark_count = last_trade_id, marks
        self._has_executed = False
        """Whether commands were executed since the venue was last synchronised."""
        self._played = AdvanceExchange(0, max(last_trade_id, 0), False, marks, hooks.clock())

    async def run(self, requests: Generator[Request, Any, None]) -> None:
        """Answer the requests of a tape loop until it ends.

        Raises:
            SessionError: frames that the venue says it sent did not arrive.
        """
        answer: Any = None
        try:
            while True:
                answer = await self._answer(requests.send(answer))
        except StopIteration:
            self._hooks.commit()

    async def _answer(self, request: Request) -> Any:
        match request:
            case NextSegment():
                await self._feed.maintain(self._hooks.clock())  # the venue waits for us, so nothing fills meanwhile
                return await self._next_segment()
            case AdvanceExchange():
                await self._advance_exchange(request)
            case SendCommand(command=command):
                self._has_executed = True
                return await self._execute(command)
            case DrainEvents():
                return await self._drain_events()
            case EndOfTape():
                await self._wait_for_user_data(await self._channel.ask({"op": "finish"}))
        return None

    async def _execute(self, command: Command) -> Answer:
        """Execute a command; a snapshot that fails is requested again, since the tape waits for it."""
        for _ in range(SNAPSHOT_TRIES - 1):
            try:
                return await self._hooks.execute(command)
            except ExchangeError as error:
                log.warning("the account could not be read: %s", error)
                await asyncio.sleep(SNAPSHOT_AGAIN_S)
        return await self._hooks.execute(command)

    async def _next_segment(self) -> Segment:
        inbox, reply = self._inbox, await self._channel.ask({"op": "go"})
        last_id, marks = reply["trade_id"], reply["mark"]
        await self._wait_until(lambda: inbox.last_trade_id >= last_id and inbox.mark_count >= marks, "market data")
        played_marks = inbox.mark_count - sum(isinstance(item, MarkPrice) for item in inbox.market)
        rows: list[TradeRow] = []
        mark = None
        for item in inbox.market:
            if isinstance(item, MarkPrice):
                mark = item if marks > played_marks else None
                break
            if item[0] > last_id:
                break
            rows.append(item)
        return Segment(Trades.from_rows(self._hooks.symbol, rows), mark, reply["end"], reply["arrival"])

    async def _advance_exchange(self, request: AdvanceExchange) -> None:
        self._inbox.remove_market(request.trades + request.mark)
        self._hooks.set_clock(request.time)
        # The venue never plays what isn't in the journal: a restarted engine has seen all that it has played.
        self._hooks.commit()
        await self._synchronise(request)

    async def _synchronise(self, request: AdvanceExchange) -> None:
        """Have the venue play up to where the core is, and wait for the user data that it sent."""
        self._played = request
        message = {"op": "at", "trade_id": request.trade_id, "marks": request.marks, "time": request.time}
        await self._wait_for_user_data(await self._channel.ask(message))
        self._has_executed = False

    async def _wait_for_user_data(self, reply: dict[str, Any]) -> None:
        await self._wait_until(lambda: self._feed.user_frames >= reply["user"], "user data")

    async def _drain_events(self) -> list[Event]:
        if self._has_executed:
            await self._synchronise(self._played)
        return self._inbox.take_events()

    async def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for frames; a frame may come before or after the side channel's answer about it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ARRIVE_WITHIN_S
        while not condition():
            if loop.time() > deadline:
                raise SessionError(f"lockstep: {what} did not arrive within {ARRIVE_WITHIN_S:.0f} s of being sent")
            self._inbox.arrived.clear()
            with suppress(TimeoutError):
                # A frame without an event doesn't set `arrived`, so the condition is checked again soon in any case.
                await asyncio.wait_for(self._inbox.arrived.wait(), 0.02)
