"""The start of an engine that comes back to a session: it looks at its position first, and does the rest beside that.

The engine before may have left a position without a stop. So the first question of its successor is about the account,
and the session's loop runs as soon as the clock is known to be right, which the answer shows too. Streams, missed
trades and the start-up table follow beside the loop, and no order waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from voltrade.engine.clocks import TapeClock
from voltrade.engine.modes import RETRY_S, Wiring, waited_for
from voltrade.engine.paper import PaperExchange
from voltrade.engine.rule_compiler import RuleCompiler
from voltrade.exchange.binance import BinanceWSManager
from voltrade.live import LiveTradingSystem
from voltrade.model import History, Snapshot

log = logging.getLogger(__name__)

ACCOUNT_READING_WAIT_S = 2.0
"""How long the streams wait for the first answer about the account. One that comes after the user stream was connected
is not used, since it may be older than events that were missed."""


class Resumption:
    """Starts a session again by wall clock.

    Args:
        wiring: Exchange and clock.
        system: The session, with the core of its journal.
        feed: Its streams, not started.
        load: Loads the trades up to an id that the core hasn't seen.
        tell: Makes the start-up table from the account.
    """

    def __init__(
        self,
        wiring: Wiring,
        system: LiveTradingSystem,
        feed: BinanceWSManager,
        load: Callable[[int], Awaitable[History]],
        tell: Callable[[Snapshot], Awaitable[object]],
    ) -> None:
        self._wiring, self._system, self._feed = wiring, system, feed
        self._load, self._tell = load, tell

    async def run(self, on_running: Callable[[], None], resume_lost: Callable[[], bool] = lambda: False) -> None:
        """Run the session to its end.

        Args:
            on_running: Called when its loop begins.
            resume_lost: Called once the clock is right; returns whether it has given the core a state, which the
                account has to be asked for again with.
        """
        reading = await self._look_first()
        if resume_lost() and reading is not None:
            _drop(reading)
            reading = None
        on_running()
        beside = self._start_the_rest(reading)
        await self._system.run_wall(self._feed, restarted=True, reading=reading, beside=beside)

    async def _look_first(self) -> asyncio.Task[Snapshot] | None:
        """Ask for the account, and return the question once the clock is right.

        The clock is right if the exchange takes the timestamps of signed requests, or says that its own time is the
        same. Where it isn't, it is corrected, and None is returned: the account has to be asked for again, since the
        answer would have the wrong time. None is returned too where the exchange is gone and the session is told to
        end all the same: its loop abandons it.
        """
        reading = self._system.begin_reading()
        syncing = asyncio.create_task(waited_for(self._wiring.rest.clock_offset, is_wanted=True))
        leaving = asyncio.create_task(self._given_up())
        try:
            await asyncio.wait({reading, syncing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            is_right = is_heard = self._is_clock_proven(reading)
            if not is_right:
                await asyncio.wait({syncing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                is_heard = syncing.done()
                is_right = is_heard and not self._correct(syncing.result())
        except BaseException:
            _drop(reading)
            raise
        finally:
            syncing.cancel()
            leaving.cancel()
        if is_heard:
            self._system.abandonment.note_heard()
        if is_right:
            return reading
        _drop(reading)
        return None

    async def _given_up(self) -> None:
        """Wait until the session is told to end though its exchange is gone."""
        while not self._system.is_abandoned():
            await asyncio.sleep(RETRY_S)

    def _correct(self, ahead_ms: int) -> bool:
        """Correct the clock where it is wrong; return whether it was."""
        clock = self._wiring.clock
        if isinstance(clock, TapeClock) or not clock.correct(ahead_ms):
            return False
        self._wiring.rest.on_clock_corrected(ahead_ms)
        return True

    def _is_clock_proven(self, reading: asyncio.Task[Snapshot]) -> bool:
        """Whether a signed answer came, without a correction of its timestamp."""
        is_answered = reading.done() and not reading.cancelled() and reading.exception() is None
        is_signed = self._wiring.gateway is self._wiring.rest
        return is_answered and is_signed and not self._wiring.rest.timestamp_correction_ms

    async def _start_the_rest(self, reading: asyncio.Task[Snapshot] | None) -> None:
        """Connect the streams; then load the trades that were missed, and make the start-up table."""
        if reading is not None:
            await asyncio.wait({reading}, timeout=ACCOUNT_READING_WAIT_S)
        await self._feed.start(None, hold=True, is_user_awaited=False)
        if isinstance(self._wiring.gateway, PaperExchange):
            self._wiring.gateway.open()
        compiler = RuleCompiler(self._system)
        await asyncio.gather(self._catch_up(compiler.has_own), self._make_table(), compiler.run())

    async def _make_table(self) -> None:
        try:
            await self._tell(await self._system.rest_reads.newest())
        except Exception:  # it is only told, and nothing depends on it
            log.exception("the start-up table could not be made")

    async def _catch_up(self, has_rule: asyncio.Event) -> None:
        """Load the trades that a restarted core has missed, once it has a rule; if that fails, the gap taints a bar."""
        await has_rule.wait()
        newest_trades = partial(self._wiring.rest.agg_trades, self._wiring.instrument.symbol, limit=1)
        [newest] = await waited_for(newest_trades, is_wanted=True) or [(0, 0, 0, 0, False)]
        try:
            self._system.catch_up(await self._load(newest[0]))
        except Exception as error:
            log.warning("trades missed while the engine was away: %s: %s", type(error).__name__, error)
        self._feed.release(newest[0])


def _drop(reading: asyncio.Task[Snapshot]) -> None:
    """Cancel a question; if it has failed already, nobody needs to know."""
    if not reading.cancel() and not reading.cancelled():
        reading.exception()
