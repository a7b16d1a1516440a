"""Keeps the market and user streams of Binance USD-M Futures connected and turns their frames into events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

from voltrade.background import background, is_cancelled
from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.ccxt_binance import Client, errors
from voltrade.exchange.client import Clock, UsdmExchange
from voltrade.exchange.messages import MessageReader
from voltrade.exchange.rest import PAGE_WEIGHT, BinanceRestClient
from voltrade.exchange.trade_sequence import StreamCounts, TradeSequence
from voltrade.model import Event, Instrument, StreamStatus
from voltrade.session.missing_marks import MissingMarks

log = logging.getLogger(__name__)

Stream = Literal["market", "user"]

SILENCE_MS = 10_000
"""A market stream without messages for this long is reconnected, even if it answers pings. If only trades are missing,
REST is asked first whether there were any; if only mark prices are, see `missing_marks`."""
HEALTHY_S = 60.0
"""A connection that has lasted this long resets the delay before the next one."""
PLANNED_LIFE_MS = 23 * 3_600_000
"""The exchange cuts a connection after 24 hours. At this age another one is opened beside it, and takes over."""
OVERLAP_S = 1.0
"""How long the old connection stays open after another one has taken over, so that no frame falls between them."""
PLAN_AGAIN_MS = 60_000
"""Pause after a connection that could not be opened beside the old one."""
COIN_MARGINED = 2
"""Field `st` of a market event of the other product, whose contracts are in coins."""
LISTEN_KEY_RENEWAL_MS = 30 * 60_000
"""A listen key is valid for 60 minutes."""
LISTEN_KEY_RETRY_MS = 60_000
NO_LISTEN_KEY = -1125
RECONNECT_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Delay before a stream is connected again, by the number of failures in a row."""

RESYNC_EVENTS = frozenset({"ACCOUNT_CONFIG_UPDATE", "MARGIN_CALL", "CONDITIONAL_ORDER_TRIGGER_REJECT"})
"""User events that have no event of ours, but after which the account must be read again."""


class BinanceWSManager:
    """Keeps the market and the user stream connected and turns their frames into events, in the order of arrival.

    Frames are read in the exchange's `frame_handler`, before ccxt's caches. Each stream has a task with one pending
    `watch`, which ends when the connection does; then it connects again. Before the exchange cuts a connection for its
    age, another one is opened beside it and takes over, so that no trade is missed; so it is while trades come and mark
    prices don't, for which mark prices at the last trade's price come meanwhile. A user event that cannot be read,
    or after which the account may have changed in an unknown way, gives a `StreamStatus` down and up, after which the
    account is read again; so does a user stream that was replaced. An event of a kind that isn't listed is counted and
    left aside.

    Args:
        exchange: from `connect`; the manager sets its frame_handler.
        rest: for listen keys and missing trades.
        instrument: the symbol that is traded.
        on_agg_trade: takes (id, price in ticks, lots, time in ms, whether the buyer is the maker), in the order of ids.
        on_event: takes marks, gaps, stream statuses and updates of the account, in order with the trades, and `Trouble`
            when mark prices are missing.
        clock: ms UTC, as the exchange's.
        user_stream: False for public data only.
        lockstep: the tape waits for us, so no silence is too long and a gap in the tape is final at once.
        after_trade_id: the last trade that is known; later ones are filled in. 0 to begin with the first of the stream.
        is_mark_missing: see `MissingMarks`.

    Attributes:
        user_frames: user data frames received on the current private connection.
        frames: frames of any kind received since the start.
        counts: what the streams have brought.
    """

    def __init__(
        self,
        exchange: UsdmExchange,
        rest: BinanceRestClient,
        instrument: Instrument,
        on_agg_trade: Callable[[int, int, int, int, bool], None],
        on_event: Callable[[Event], None],
        clock: Clock,
        *,
        user_stream: bool = True,
        lockstep: bool = False,
        after_trade_id: int = 0,
        is_mark_missing: bool = False,
    ) -> None:
        self.user_frames = self.frames = 0
        self.counts = StreamCounts()
        self._exchange = exchange
        self._rest = rest
        self._symbol = instrument.symbol
        self._reader = MessageReader(instrument, rest.fee_prices)
        self._marks = MissingMarks(instrument, on_agg_trade, on_event, is_mark_missing)
        if not lockstep:
            on_agg_trade, on_event = self._marks.on_agg_trade, self._marks.on_event
        self._on_event: Callable[[Event], None] = self._noting(on_event)
        self._trades = TradeSequence(
            *(exchange, rest, instrument.symbol, self._noting(on_agg_trade), self._on_event, self.counts),
            lockstep=lockstep,
            after_trade_id=after_trade_id,
        )
        self._clock = clock
        self._lockstep = lockstep
        self._streams: tuple[Stream, ...] = ("market", "user") if user_stream else ("market",)
        self._clients: dict[Stream, Client] = {}
        self._opened: dict[Stream, int] = dict.fromkeys(self._streams, 0)
        """When the connection was made, ms."""
        self._successors: dict[Stream, asyncio.Task[None]] = {}
        """Watches of connections that are opened beside the present ones."""
        self._coming: dict[Stream, Client] = {}
        """Connections that have been opened so, and have not taken over yet."""
        self._mark: dict[Stream, str] = dict.fromkeys(self._streams, "")
        """Fragment of the address, which is never sent: ccxt takes connections with one address for the same."""
        self._questions: set[asyncio.Task[None]] = set()
        self._up = {stream: asyncio.Event() for stream in self._streams}
        self._connections = dict.fromkeys(self._streams, 0)
        self._supervisors: list[asyncio.Task[None]] = []
        self._wallet = 0
        self._subscription = 0
        self._renew_at = 0
        self._listen_key = self._given_key = ""
        """The key in use, and one that a renewal returned, for the next connection."""
        self._messages = self._last_message = 0
        self._received = self._last_trade = 0
        """Messages and trades that were seen at the last check, and since when there are no more, ms."""
        self._last_error = ""
        self._user_readers: dict[str, Callable[[Any], Event]] = {
            "ORDER_TRADE_UPDATE": self._reader.order_update,
            "ALGO_UPDATE": self._reader.algo_update,
            "ACCOUNT_UPDATE": self._account_update,
        }
        exchange.frame_handler = self._on_frame
        exchange.on_connection = self._on_connection

    @property
    def inexact(self) -> int:
        """How many prices and quantities were no multiples of tick or step, and were read to the nearest."""
        return self._reader.inexact

    @property
    def last_trade_id(self) -> int:
        """Id of the last trade that was passed on."""
        return self._trades.last_trade_id

    # --- lifecycle ----------------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float | None = 15.0, *, hold: bool = False, is_user_awaited: bool = True) -> None:
        """Connect, and return when every stream is up: the market stream subscribed, the user stream connected.

        Args:
            timeout_s: longest wait; None to wait until they are up.
            hold: hold trades until `release`, while earlier ones are loaded.
            is_user_awaited: whether to wait for the user stream too; it is connected in any case.

        Raises:
            ExchangeError: a stream did not come up in time; nothing is left running.
        """
        self._trades.is_held_back = hold
        self._supervisors = [background(self._supervise(stream), self._note_failure) for stream in self._streams]
        try:
            async with asyncio.timeout(timeout_s):
                for stream, up in self._up.items():
                    if stream == "market" or is_user_awaited:
                        await up.wait()
        except TimeoutError:
            down = ", ".join(stream for stream, up in self._up.items() if not up.is_set())
            await self.stop()
            said = f"streams must be up within {timeout_s} s, were not: {down} ({self._last_error})"
            raise ExchangeError(said) from None

    def release(self, last_id: int) -> None:
        """Pass on what was held, from the trade after `last_id`, and from now on everything at once."""
        self._trades.release(last_id)

    async def stop(self) -> None:
        """Close the streams; no event comes after this. The caller closes the exchange."""
        self._exchange.frame_handler = lambda client, message: True
        self._exchange.on_connection = lambda client, up: None
        tasks = [*self._supervisors, *self._successors.values(), *self._questions]
        tasks += [self._trades.task] if self._trades.task else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._supervisors, self._trades.task = [], None
        self._successors.clear()
        await self._exchange.close_ws_clients()

    async def maintain(self, now: int) -> None:
        """Check the streams and renew the listen key; call it once a second, or in lockstep after each step of time.

        Args:
            now: ms of the clock.

        Raises:
            ExchangeError: a callback failed, so an event may be lost and trading must stop.
        """
        if self._exchange.frame_handler_failure is not None:
            raise ExchangeError(f"an event could not be handled: {self._exchange.frame_handler_failure!r}")
        self._check_silence(now)
        await self._check_trades(now)
        self._check_marks(now)
        self._redial_by_plan(now)
        if "user" in self._up and self._up["user"].is_set() and now >= self._renew_at:
            self._renew_at = now + LISTEN_KEY_RETRY_MS
            await self._beside(self._renew_listen_key(now))

    def drop_connection(self, stream: Stream, reason: str) -> None:
        """Close the connection of a stream; `_supervise` dials again."""
        client = self._clients.get(stream)
        if client is not None:
            log.warning("%s stream: %s, reconnecting", stream, reason)
            self._hang_up(client, reason)

    def _hang_up(self, client: Client, reason: str) -> None:
        # Not client.close(), which cancels the waiting task; not at once, since this may run in its receive loop.
        asyncio.get_running_loop().call_soon(client.on_error, errors.NetworkError(reason))

    async def _beside(self, question: Coroutine[Any, Any, None]) -> None:
        """Ask REST beside the checks, which wait for no answer; in lockstep everything waits."""
        if self._lockstep:
            await question
            return
        task = background(question, self._note_failure)
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    def _noting(self, take: Callable[..., None]) -> Callable[..., None]:
        """Return a callback that notes its failure, whichever task or handler calls it."""

        def call(*facts: Any) -> None:
            try:
                take(*facts)
            except Exception as error:
                self._note_failure(error)
                raise

        return call

    def _note_failure(self, error: Exception) -> None:
        """Note a failure after which an event may be lost, or a stream stay down; `maintain` raises it."""
        self._exchange.frame_handler_failure = self._exchange.frame_handler_failure or error

    def _check_silence(self, now: int) -> None:
        """Reconnect the market stream after too long without a message, the reply to the subscription included."""
        messages = self._trades.received + self.counts.marks + self._connections["market"]
        if self._lockstep or "market" not in self._clients or messages != self._messages or not self._last_message:
            self._messages, self._last_message = messages, now
        elif now - self._last_message >= SILENCE_MS:
            self._last_message = 0
            self.drop_connection("market", f"no message for {SILENCE_MS} ms")

    async def _check_trades(self, now: int) -> None:
        """Reconnect the market stream after too long without a trade, if REST has later trades and may be asked."""
        received, is_held = self._trades.received + self._connections["market"], self._trades.is_held_back
        if self._lockstep or "market" not in self._clients or received != self._received or is_held:
            self._received, self._last_trade = received, now
        elif now - self._last_trade >= SILENCE_MS and self._rest.has_weight(PAGE_WEIGHT):
            self._last_trade = now
            await self._beside(self._look_for_trades())

    def _check_marks(self, now: int) -> None:
        """Have another market connection opened beside one that brings trades and no mark prices."""
        if self._marks.is_dial_due(now):
            log.warning("market stream: trades come, but no mark prices")
            self._opened["market"] = now - PLANNED_LIFE_MS

    async def _look_for_trades(self) -> None:
        try:
            page = await self._rest.agg_trades(self._symbol, limit=1)
        except ExchangeError as error:
            log.warning("no trade for %d ms, and REST does not answer: %s", SILENCE_MS, error)
            return
        if page and page[-1][0] > self.last_trade_id:
            self.drop_connection("market", f"no trade for {SILENCE_MS} ms though there were some")
            self._trades.add_trade(page[-1])

    async def _renew_listen_key(self, now: int) -> None:
        response = await self._rest.extend_listen_key()
        if response.status == 200:
            self._renew_at = now + LISTEN_KEY_RENEWAL_MS
            key = response.body.get("listenKey") if isinstance(response.body, dict) else None
            if isinstance(key, str) and key not in ("", self._listen_key):
                self._given_key = key
                self.drop_connection("user", "the exchange returned another listen key")
        elif response.code == NO_LISTEN_KEY:
            self.drop_connection("user", "the listen key does not exist any more")
        else:
            log.warning("the listen key could not be extended: HTTP %d, code %d", response.status, response.code)

    # --- connections --------------------------------------------------------------------------------------------------

    async def _supervise(self, stream: Stream) -> None:
        """Keep one pending watch; when it ends, connect again."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await (self._successors.pop(stream, None) or self._watch(stream))
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                self._last_error = "the connection was cancelled"  # the future was cancelled, not this task
            except Exception as error:
                self._last_error = self._exchange.redact(f"{type(error).__name__}: {error}")
            if stream in self._successors:
                continue  # another connection has taken over, or will
            was_healthy = asyncio.get_running_loop().time() - began >= HEALTHY_S
            failures = 0 if was_healthy else failures + 1
            self._on_down(stream)
            self.counts.reconnects += 1
            log.info("%s stream lost: %s", stream, self._last_error)
            await asyncio.sleep(RECONNECT_DELAYS_S[min(failures, len(RECONNECT_DELAYS_S) - 1)])

    def _watch(self, stream: Stream) -> Coroutine[Any, Any, None]:
        return {"market": self._watch_market, "user": self._watch_user}[stream]()

    async def _watch_market(self) -> None:
        """Subscribe to trades and marks on one socket, which keeps them in order."""
        self._subscription += 1
        name = self._symbol.lower()
        streams = [f"{name}@aggTrade", f"{name}@markPrice@1s"]
        subscribe = {"method": "SUBSCRIBE", "params": streams, "id": self._subscription}
        url = f"{self._exchange.get_ws_url('linear', 'market')}/{self._exchange.stream('linear', 'market')}"
        await self._exchange.watch(url + self._mark["market"], "market", subscribe, "market")

    async def _watch_user(self) -> None:
        key, self._given_key = self._given_key, ""  # used once only
        self._listen_key = key = key or await self._rest.listen_key()
        self._renew_at = self._clock() + LISTEN_KEY_RENEWAL_MS
        url = self._exchange.get_private_ws_url("linear", key) + self._mark["user"]
        await self._exchange.watch(url, "user", None, "user")

    def _redial_by_plan(self, now: int) -> None:
        """Open a connection beside one that is so old that the exchange will cut it, or that counts as old because it
        brings no mark prices; one stream at a time."""
        for stream, task in list(self._successors.items()):
            if task.done() and stream in self._clients:
                error = None if task.cancelled() else task.exception()
                log.warning("%s stream: no other connection could be opened beside the old one: %r", stream, error)
                del self._successors[stream]
                self._change_mark(stream)
                self._opened[stream] = now - PLANNED_LIFE_MS + PLAN_AGAIN_MS
        due = (each for each in self._clients if now - self._opened[each] >= PLANNED_LIFE_MS)
        stream_due = None if self._lockstep or self._successors else next(due, None)
        if stream_due is not None:
            log.info("%s stream: opening another connection beside this one", stream_due)
            self._change_mark(stream_due)
            self._successors[stream_due] = asyncio.create_task(self._watch(stream_due))

    def _change_mark(self, stream: Stream) -> None:
        self._mark[stream] = "" if self._mark[stream] else "#next"

    def _replace(self, stream: Stream) -> None:
        """Let the connection that was opened beside the old one take over; what both bring is dropped by its id.

        The account is read: nothing proves that no event of it was missed.
        """
        old, self._clients[stream] = self._clients[stream], self._coming.pop(stream)
        self._opened[stream] = self._clock()
        self._connections[stream] += 1
        asyncio.get_running_loop().call_later(OVERLAP_S, self._hang_up, old, "another connection has taken over")
        if stream == "user":
            self.user_frames = 0
            self._request_resync()

    def _on_connection(self, client: Client, up: bool) -> None:
        """Handle a connection made or lost; the market stream is up only when its subscription works."""
        stream: Stream = "user" if "listenKey=" in client.url else "market"
        if not up:
            self._on_lost(stream, client)
        elif stream in self._successors and stream in self._clients:
            self._coming[stream] = client
            if stream == "user":
                self._replace("user")
        else:
            self._clients[stream], self._opened[stream] = client, self._clock()
            self._last_message = 0 if stream == "market" else self._last_message
            if stream == "user":
                self.user_frames = 0
                self._on_up("user")

    def _on_lost(self, stream: Stream, client: Client) -> None:
        """Handle a lost connection; if another one is being opened beside it, that one takes its place."""
        if self._coming.get(stream) is client:
            del self._coming[stream]
        elif self._clients.get(stream) is client:
            del self._clients[stream]
            self._on_down(stream)
            if stream in self._coming:
                self._clients[stream], self._opened[stream] = self._coming.pop(stream), self._clock()

    def _on_subscribed(self, client: Client) -> None:
        """Set the market stream up: the subscription was confirmed, or its messages arrive."""
        if self._coming.get("market") is client:
            self._replace("market")
        if self._clients.get("market") is client:
            self._on_up("market")

    def _on_up(self, stream: Stream) -> None:
        if not self._up[stream].is_set():
            self._connections[stream] += 1
            self._up[stream].set()
            self._on_event(StreamStatus(self._clock(), stream, True))

    def _on_down(self, stream: Stream) -> None:
        if self._up[stream].is_set():
            self._up[stream].clear()
            self._on_event(StreamStatus(self._clock(), stream, False))

    # --- frames -----------------------------------------------------------------------------------------------------

    def _on_frame(self, client: Client, message: Any) -> bool:
        """Handle every frame here, so that none goes into ccxt's caches, which merge and drop messages."""
        self.frames += 1
        if type(message) is not dict:
            self._refuse(client, "a frame that is no JSON object")
            return True
        body = message["data"] if "stream" in message and type(message.get("data")) is dict else message
        kind = body.get("e")
        try:
            if kind in ("aggTrade", "markPriceUpdate"):
                self._on_subscribed(client)
                if body.get("s") != self._symbol or body.get("st") == COIN_MARGINED:
                    self.counts.other_symbols += 1
                elif kind == "aggTrade":
                    self._trades.add_trade(self._reader.agg_trade(body))
                else:
                    self._trades.add_mark(self._reader.mark_price(body))
            elif kind is None:
                self._on_control(client, body)
            elif isinstance(kind, str):
                self._on_user_event(client, kind, body)
            else:
                self._refuse(client, "a message whose kind is no text")
        except DataError as error:
            self._refuse(client, str(error))
        return True

    def _refuse(self, client: Client, why: str) -> None:
        """Count a frame that can't be read; one of the user stream may be about a fill, so the account is read."""
        self.counts.refused += 1
        log.warning("message refused: %s", self._exchange.redact(why))
        if self._clients.get("user") is client:
            self._request_resync()

    def _on_control(self, client: Client, body: Mapping[str, Any]) -> None:
        if body.get("id") == self._subscription and "result" in body:
            self._on_subscribed(client)
        elif "error" in body:
            reason = f"subscription refused: {body['error']!r:.100}"
            if self._clients.get("user") is client:
                self.drop_connection("user", reason)
            elif self._coming.get("market") is client:
                self._hang_up(client, reason)
            else:
                self.drop_connection("market", reason)
        else:
            self.counts.ignored += 1

    def _on_user_event(self, client: Client, kind: str, body: Mapping[str, Any]) -> None:
        """Handle a user event; after one that cannot be read the account is read again."""
        if self._clients.get("user") is client:
            self.user_frames += 1
            self.counts.user_events += 1
        if kind == "listenKeyExpired":
            self.drop_connection("user", "the listen key expired")
        elif kind in RESYNC_EVENTS:
            log.warning("%s: %.300s", kind, self._exchange.redact(repr(body)))
            self._request_resync()
        elif kind not in self._user_readers:
            self.counts.ignored += 1
        elif self._is_of_other_symbol(body):
            self.counts.other_symbols += 1
        else:
            self._on_event(self._user_readers[kind](body))

    def _is_of_other_symbol(self, body: Mapping[str, Any]) -> bool:
        order = body.get("o")
        symbol = order.get("s") if isinstance(order, dict) else None
        return isinstance(symbol, str) and symbol != self._symbol

    def _account_update(self, body: Any) -> Event:
        update = self._reader.account_update(body, self._wallet)
        self._wallet = update.wallet
        return update

    def _request_resync(self) -> None:
        now = self._clock()
        self._on_event(StreamStatus(now, "user", False))
        self._on_event(StreamStatus(now, "user", True))
