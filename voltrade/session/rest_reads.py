"""What is read over REST beside the loop: the account, until that succeeds, and the symbol's filters and status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from voltrade.core import TradingCore
from voltrade.errors import ExchangeError
from voltrade.exchange.ports import OrderGateway
from voltrade.model import USER_STREAM_UP, Event, Instrument, Snapshot, TakeSnapshot
from voltrade.session.account_watch import COMPARE, AccountWatch
from voltrade.session.inbox import Inbox
from voltrade.symbol_filters import filters_of, is_same

log = logging.getLogger(__name__)

SNAPSHOT_AGAIN_S, SNAPSHOT_DOUBLINGS = 1.0, 2
"""Pause before the account is read again after a failure, and how often it doubles: up to 4 s, so that a minute of
refusals doesn't use up the request weight that orders need."""

QUICK_READINGS, READINGS_APART_S, MINUTE_S = 10, 3.0, 60.0
"""So many whole readings within a minute follow each other at once, further ones at this distance: whatever asks for
them, they use a third of the request weight at most."""


class RestReads:
    """Reads of one session; what they return goes to the inbox.

    Args:
        core: the trading logic.
        gateway: asks the exchange.
        inbox: of the session's loop.
        watch: is told when filters are read.
        clock: returns the time in ms.
        execute: executes a command, after a commit of the journal, and returns the answer.
        on_event: takes what was read of the account.
    """

    def __init__(
        self,
        core: TradingCore,
        gateway: OrderGateway,
        inbox: Inbox,
        watch: AccountWatch,
        clock: Callable[[], int],
        execute: Callable[[TakeSnapshot], Awaitable[Event]],
        on_event: Callable[[Event], None],
    ) -> None:
        self._core = core
        self._gateway = gateway
        self._inbox = inbox
        self._watch = watch
        self._clock = clock
        self._execute = execute
        self._on_event = on_event
        (self._symbol,) = core.symbol_states
        self.is_reading, self._read_again = False, ""
        """Whether the account is being read now, and why it must be read once more after that."""
        self._begun: list[float] = []
        """When the readings of the last minute began, s of the loop's clock."""
        self._is_reading_filters = False
        self._newest: Snapshot | None = None
        self._has_read = asyncio.Event()

    async def newest(self) -> Snapshot:
        """Return the account as it was last read whole; the first time wait until it is."""
        await self._has_read.wait()
        assert self._newest is not None
        return self._newest

    async def filters(self) -> None:
        """Read the symbol's filters and status, where they are due."""
        if self._is_reading_filters or not self._watch.are_filters_due(self._clock()):
            return
        self._is_reading_filters = True
        self._watch.on_filters(self._clock())
        try:
            self.on_filters(await self._gateway.filters(self._symbol))
        except ExchangeError as error:
            log.warning("the filters could not be read: %s", error)
        finally:
            self._is_reading_filters = False

    def on_filters(self, now: Instrument) -> None:
        """Take the symbol's filters and status as the exchange has them now; tell the core where they have changed."""
        self._watch.on_filters(self._clock())
        symbol_state = self._core.symbol_states[self._symbol]
        filters = filters_of(now, symbol_state.instrument, self._clock())
        if not is_same(filters, symbol_state.filters):
            self._inbox.add(filters)

    async def account(self, command: TakeSnapshot, begun: asyncio.Task[Snapshot] | None = None) -> None:
        """Read the account until it succeeds, with growing pauses; `begun` is the first try, if that is on its way.

        Only one reading runs at a time: a request meanwhile has the account read once more. A snapshot from before the
        user stream was connected again is dropped: it may be older than the events that were missed.
        """
        if self.is_reading:
            if self._read_again != USER_STREAM_UP:
                self._read_again = command.reason
            return
        self.is_reading, failures = True, 0
        try:
            while True:
                # What was asked for meanwhile is due also where the reading under way has failed.
                command = replace(command, reason=self._read_again or command.reason)
                if command.reason != COMPARE:  # a comparison weighs little, and has an interval of its own
                    await self._wait_for_turn()
                self._read_again = ""
                try:
                    snapshot = await (begun or self._execute(command))
                except ExchangeError as error:
                    begun = None
                    log.warning("the account could not be read: %s", error)
                    if self._core.finished:
                        return
                    await asyncio.sleep(SNAPSHOT_AGAIN_S * 2 ** min(failures, SNAPSHOT_DOUBLINGS))
                    failures += 1
                    continue
                if self._read_again != USER_STREAM_UP:
                    self._on_event(snapshot)
                    self._note(snapshot)
                if not self._read_again:
                    return
                begun = None
        finally:
            self.is_reading = False

    async def _wait_for_turn(self) -> None:
        """Wait where the whole account was read often within the last minute."""
        loop = asyncio.get_running_loop()
        self._begun = [begun for begun in self._begun if loop.time() - begun < MINUTE_S]
        if len(self._begun) >= QUICK_READINGS:
            await asyncio.sleep(max(self._begun[-1] + READINGS_APART_S - loop.time(), 0.0))
        self._begun.append(loop.time())

    def _note(self, read: Event) -> None:
        if isinstance(read, Snapshot):
            self._newest = read
            self._has_read.set()


async def completed(snapshot: Snapshot, core: TradingCore, gateway: OrderGateway) -> Snapshot:
    """Return a snapshot with what else the core needs of the account: names of orders, and the income history.

    Named are the orders of trades that our books don't know and that the position needs: they may be ours, from before
    the journal lost its end. The income history is read while the wallet differs unexplained; where that fails, it is
    read with the next snapshot.
    """
    symbol = snapshot.symbol
    if order_ids := core.symbol_states[symbol].monitor.unknown_orders(snapshot):
        names = await gateway.order_names(symbol, order_ids)
        fills = (replace(fill, client_order_id=names.get(fill.order_id, "")) for fill in snapshot.fills)
        snapshot = replace(snapshot, fills=tuple(fills))
    if core.income_since:
        with suppress(ExchangeError):
            snapshot = replace(snapshot, income=await gateway.income(symbol, core.income_since))
    return snapshot
