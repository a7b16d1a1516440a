"""The edge to Binance USD-M Futures, and the only place where ccxt is used.

Three parts. `UsdmExchange` is ccxt's released class, subclassed: it signs, connects and keeps sockets, and hands every
raw frame on untouched. `BinanceRestClient` carries the core's commands out and says what is known of each.
`BinanceWSManager` keeps the streams up, finds and fills gaps, and turns frames into events in the order of arrival.

The same code talks to the simulated venue, to Binance's demo and to Binance: only the `Endpoint` differs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit

import aiohttp

from voltrade.errors import ConfigError, DataError, VenueError
from voltrade.exchange.ccxt_binance import Client, binanceusdm, errors
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.messages import Fields, MessageReader, TradeRow, instrument_of
from voltrade.exchange.responses import NO_ANSWER, NOT_SENT, Verb, classify
from voltrade.model import (
    AlgoUpdate,
    CancelOrder,
    Event,
    FeedGap,
    Instrument,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Reply,
    Snapshot,
    StreamStatus,
)

log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Milliseconds UTC: the wall's, or the tape's where the tape is the clock."""
Stream = Literal["market", "user"]
Action = Literal["submit", "cancel", "lookup"]


# --- where and as whom ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an exchange is, as the origins of its REST and websocket addresses; paths below them are Binance's."""

    name: str
    rest: str
    stream: str

    @staticmethod
    def simulated(rest: str, stream: str) -> Endpoint:
        """Return the endpoint of a simulated venue on this machine.

        Raises:
            ConfigError: an address is not loopback.
        """
        for address in (rest, stream):
            host = urlsplit(address).hostname or ""
            if host != "localhost" and not (re.fullmatch(r"[0-9.]+|[0-9a-f:]+", host) and _is_loopback(host)):
                raise ConfigError(f"simulated venue: address must be loopback, was {address}")
        return Endpoint("sim", rest.rstrip("/"), stream.rstrip("/"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


DEMO = Endpoint("demo", "https://demo-fapi.binance.com", "wss://fstream.binancefuture.com")
LIVE = Endpoint("live", "https://fapi.binance.com", "wss://fstream.binance.com")

# --- ccxt, subclassed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request: HTTP status (or `NOT_SENT`, `NO_ANSWER`), Binance's code and text, the body."""

    status: int
    code: int = 0
    text: str = ""
    body: Any = None


DIAL_FAILURES = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Causes that mean: no connection was made, so nothing was sent."""

WEIGHT_WINDOW_MS = 60_000
"""Request weight is counted by the minute of the exchange's clock."""

ORDERS_ALONE = "-1015"
"""Code of too many orders: it forbids orders for some seconds, not what is asked and cancelled meanwhile."""

QUIET_S = {429: 60, 418: 120}
"""Silence after a refusal for too many requests that doesn't say how long: a minute's limit, the shortest ban."""


class ResilientClient(Client):  # type: ignore[misc]  # ccxt is untyped
    """ccxt's websocket client, except that a frame that can't be decoded does not end the receive loop."""

    bad_frames = 0

    def handle_message(self, message: aiohttp.WSMessage) -> None:
        try:
            super().handle_message(message)
        except Exception as error:
            self.bad_frames += 1
            log.warning("a frame could not be read: %s", type(error).__name__)


class UsdmExchange(binanceusdm):  # type: ignore[misc]  # ccxt is untyped
    """ccxt.pro's Binance USD-M class with the ends tied up that money needs.

    - Every frame goes to `frame_handler` first, in arrival order; nothing that it raises can stop the socket.
    - Connections report themselves to `on_link`.
    - A failed request's exception carries an `Answer`, so that its outcome can be told from the facts.
    - No request leaves inside a Retry-After window.
    - Time is the injected clock's; other products' endpoints don't exist.

    Attributes:
        frame_handler: takes (client, message); true means that the message is dealt with.
        on_link: takes (client, up).
        frame_handler_failure: the first exception that came out of the frame_handler.
        quiet_until: no request leaves before this time, ms of the clock.
    """

    def __init__(self, config: Mapping[str, Any], clock: Clock) -> None:
        self.clock = clock
        self.frame_handler: Callable[[Client, Any], bool] = lambda client, message: False
        self.on_link: Callable[[Client, bool], None] = lambda client, up: None
        self.frame_handler_failure: Exception | None = None
        self.quiet_until = 0
        self._used_weight = (0, 0)
        self._secrets: list[str] = []
        super().__init__(config)
        # ccxt logs requests with their headers at DEBUG; a logger of its own keeps them out of everyone's log.
        self.logger = logging.Logger("ccxt.silent", logging.ERROR)

    def milliseconds(self) -> int:
        return self.clock()

    def get_exceptions_by_url(self, url: str, kind: str) -> Any:
        """Map errors as for USD-M wherever the exchange is; ccxt knows it by Binance's host names only."""
        return self.exceptions["linear"].get(kind, {})

    # --- secrets ----------------------------------------------------------------------------------------------------

    def keep_secret(self, text: str) -> None:
        """Never show this text."""
        if text and text not in self._secrets:
            self._secrets.append(text)

    def scrub(self, text: str) -> str:
        """Take keys, signatures and listen keys out of a text."""
        for secret in (self.apiKey, self.secret, *self._secrets):
            if secret:
                text = text.replace(secret, "***")
        return re.sub(r"(signature|listenKey|apiKey|X-MBX-APIKEY)([\"']?\s*[=:]\s*[\"']?)[\w.%-]+", r"\1\2***", text)

    # --- REST -------------------------------------------------------------------------------------------------------

    async def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """Do one request; whatever is raised carries an `Answer` in its `answer` attribute."""
        now = self.clock()
        if now < self.quiet_until:
            text = f"not sent: the exchange wants silence for {self.quiet_until - now} ms"
            return self._fail(Answer(429, -1003, text))
        try:
            return await super().fetch(url, method, headers, body)
        except Exception as error:
            if "answer" not in vars(error):
                cause = error.__cause__ or error
                status = NOT_SENT if isinstance(cause, DIAL_FAILURES) else NO_ANSWER
                vars(error)["answer"] = Answer(status, 0, type(cause).__name__)
            raise

    def handle_errors(
        self, code: int, reason: str, url: str, method: str, headers: Any, body: str, response: Any, *request: Any
    ) -> None:
        """Raise ccxt's error for an answer that is one, with the facts attached."""
        self._note_limits(code, headers, body)
        try:
            super().handle_errors(code, reason, url, method, headers, body, response, *request)
            self.handle_http_status_code(code, reason, url, method, body)
        except Exception as error:
            vars(error)["answer"] = _answer(code, response, body)
            raise
        if code != 200:
            self._fail(_answer(code, response, body))

    def _fail(self, answer: Answer) -> NoReturn:
        error = errors.ExchangeNotAvailable(f"{answer.status} {answer.text}")
        vars(error)["answer"] = answer
        raise error

    def _note_limits(self, status: int, headers: Any, body: str) -> None:
        by_name = {name.lower(): value for name, value in headers.items()}
        weight = by_name.get("x-mbx-used-weight-1m", "")
        if weight.isdigit():
            self._used_weight = (self.clock() // WEIGHT_WINDOW_MS, int(weight))
        if status in QUIET_S and ORDERS_ALONE not in body:
            self.quiet_until = max(self.quiet_until, self._end_of_silence(status, by_name.get("retry-after", ""), body))
            log.warning("HTTP %d: silent until %d", status, self.quiet_until)

    @property
    def used_weight(self) -> int:
        """Request weight used in the current minute, as the exchange last said."""
        window, used = self._used_weight
        return used if window == self.clock() // WEIGHT_WINDOW_MS else 0

    def _end_of_silence(self, status: int, retry_after: str, body: str) -> int:
        if re.fullmatch(r"[0-9]{1,6}", retry_after.strip()):
            return self.clock() + int(retry_after) * 1000
        banned = re.search(r"banned until ([0-9]{13})", body)
        return int(banned[1]) if banned else self.clock() + QUIET_S[status] * 1000

    # --- websockets ---------------------------------------------------------------------------------------------------

    def client(self, url: str) -> Client:
        """Return the connection's client, a `ResilientClient`."""
        self.open()  # ccxt's: makes sure that there is an event loop and a session
        if url not in self.clients:
            settings = {**self.streaming, "asyncio_loop": self.asyncio_loop, **self.options["ws"]}
            self.clients[url] = ResilientClient(
                url, self.handle_message, self.on_error, self.on_close, self.on_connected, settings
            )
        return self.clients[url]

    def handle_message(self, client: Client, message: Any) -> None:
        """Give a frame to the frame_handler, and to ccxt where the frame_handler doesn't want it."""
        try:
            if self.frame_handler(client, message):
                return
            super().handle_message(client, message)
        except Exception as error:
            log.exception("the frame_handler failed")
            self.frame_handler_failure = self.frame_handler_failure or error

    def on_connected(self, client: Client, message: Any = None) -> None:
        super().on_connected(client, message)
        self.on_link(client, True)

    def on_close(self, client: Client, code: Any) -> None:
        """Report a closed socket. ccxt calls this twice for one that closed gracefully; the second time the address
        may already belong to the next connection, which must stay."""
        if self.clients.get(client.url) is client:
            super().on_close(client, code)
        self.on_link(client, False)

    def on_error(self, client: Client, error: Any) -> None:
        super().on_error(client, error)
        self.on_link(client, False)


def _answer(status: int, response: Any, body: str) -> Answer:
    """Read code and text of an answer; one that isn't a JSON object is its own text."""
    if not isinstance(response, dict):
        return Answer(status, 0, body, response)
    code, text = response.get("code", 0), response.get("msg", "")
    if isinstance(code, str) and re.fullmatch(r"-?[0-9]{1,6}", code):
        code = int(code)
    return Answer(status, code if type(code) is int else 0, text if isinstance(text, str) else "", response)


def connect(
    endpoint: Endpoint,
    credentials: Credentials | None,
    clock: Clock,
    recv_window_ms: int,
    timeout_ms: int = 5_000,
    kind: type[UsdmExchange] = UsdmExchange,
) -> UsdmExchange:
    """Make the connection's object; nothing is sent yet.

    Args:
        endpoint: the simulated venue, `DEMO` or `LIVE`.
        credentials: None for public data only.
        clock: signs requests: the wall's, or the venue's tape time in lockstep.
        recv_window_ms: how late a request may arrive.
        timeout_ms: how long an answer may take, by the wall.
        kind: a subclass with another transport, for tests.
    """
    exchange = kind(
        {
            "apiKey": credentials.key if credentials else "",
            "secret": credentials.secret if credentials else "",
            "enableRateLimit": False,
            "timeout": timeout_ms,
            "options": {
                "recvWindow": recv_window_ms,
                "fetchCurrencies": False,
                "watchTrades": {"name": "aggTrade"},
                "watchTradesForSymbols": {"name": "aggTrade"},
                "watchPositions": {"fetchPositionsSnapshot": False},
                "fetchOpenOrders": {"warnWithoutSymbol": False},
                "maxRetriesOnFailure": 0,
                "ws": {"keepAlive": 5_000, "maxPingPongMisses": 2, "cost": 1, "compress": 0},
            },
        },
        clock,
    )
    versions = {"fapiPublic": 1, "fapiPublicV2": 2, "fapiPublicV3": 3}
    versions |= {name.replace("Public", "Private"): version for name, version in versions.items()}
    # Replaced whole: what isn't here, ccxt refuses to sign, so that no call can leave for another product or host.
    exchange.urls["api"] = {
        **{name: f"{endpoint.rest}/fapi/v{version}" for name, version in versions.items()},
        "ws": {"linear": f"{endpoint.stream}/ws"},
    }
    if endpoint.rest.startswith("http:"):
        exchange.timeout_on_exit = 0  # what close() waits for TLS connections to say goodbye
    return exchange


# --- commands ---------------------------------------------------------------------------------------------------------


class RequestInterrupted(asyncio.CancelledError):
    """The task was cancelled while a request was on its way: its outcome is unknown.

    Attributes:
        reply: the UNKNOWN reply, for whoever still wants to write it down.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.action} of {reply.client_order_id} was interrupted; its outcome is unknown")
        self.reply = reply


class _Asked(NamedTuple):
    """What a command asks, and of which order."""

    action: Action
    symbol: str
    client_order_id: str
    algo: bool


_VERBS: Mapping[Action, Verb] = {"submit": "POST", "cancel": "DELETE", "lookup": "GET"}

PAGE = 1000
"""Most rows that aggTrades and userTrades give at once."""
PAGE_WEIGHT = 20
"""Request weight of a page of aggTrades."""
MOST_PAGES = 100
RESYNC = -1021
"""Code of a request whose timestamp the exchange does not accept."""
NOT_MODIFIED = (-4046, -4059)
"""Codes of a setting that is already so."""


class BinanceRestClient:
    """Carries commands to the exchange over REST; an `exchange.OrderGateway`.

    Quantities and prices travel as exact decimal texts through ccxt's raw calls, past its rounding.

    Args:
        exchange: from `connect`.
        name: of the endpoint, to say where filters come from.
    """

    def __init__(self, exchange: UsdmExchange, name: str = "binance") -> None:
        self._exchange = exchange
        self._name = name
        self._readers: dict[str, MessageReader] = {}

    # --- reading ----------------------------------------------------------------------------------------------------

    async def instrument(self, symbol: str, *, any_status: bool = False) -> Instrument:
        """Return the symbol's filters as the exchange states them now; of one that does not trade if `any_status`.

        Raises:
            VenueError: exchangeInfo could not be read.
            DataError: the symbol isn't listed, does not trade, or a filter breaks its rule.
        """
        instrument = await self._instrument(symbol, any_status)
        self._readers[symbol] = MessageReader(instrument)
        return instrument

    async def filters(self, symbol: str) -> Instrument:
        """Return the symbol's filters as they are now; what is sent and read goes by those before.

        Raises:
            VenueError: they could not be read.
        """
        try:
            return await self._instrument(symbol, any_status=True)
        except DataError as error:
            raise VenueError(str(error)) from None

    async def _instrument(self, symbol: str, any_status: bool) -> Instrument:
        info = await self._read("fapiPublicGetExchangeInfo")
        time = Fields("exchangeInfo", info).integer("serverTime")
        source = f"exchangeInfo of {self._name} at {time}"
        return instrument_of(info, symbol, source, any_status=any_status)

    async def account_name(self) -> str:
        """Return the exchange's own name of the account, which is the same for all of its keys.

        Raises:
            VenueError: it could not be read.
        """
        try:
            rows = _rows("balance", await self._read("fapiPrivateV3GetBalance"))
            names = {Fields("balance", row).text("accountAlias") for row in rows}
        except DataError as error:
            raise VenueError(f"the account's name could not be read: {error}") from None
        if len(names) != 1 or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names):
            raise VenueError(f"balance: must name one account by accountAlias, named {len(names)}")
        return names.pop()

    async def snapshot(self, symbol: str, since_trade_id: int) -> Snapshot:
        """Return the account: wallet, position, settings, open orders of both kinds, and our trades after an id.

        With `since_trade_id` 0 the trades are the latest, at most 1,000.

        Raises:
            VenueError: the account could not be read whole.
        """
        reader = await self._reader(symbol)
        of_symbol = {"symbol": symbol}
        parts: list[Any] = await asyncio.gather(
            self._read("fapiPrivateV3GetAccount"),
            self._read("fapiPrivateV3GetPositionRisk", of_symbol),
            self._read("fapiPrivateGetSymbolConfig", of_symbol),
            self._read("fapiPrivateGetPositionSideDual"),
            self._read("fapiPrivateGetMultiAssetsMargin"),
            self._read("fapiPrivateGetCommissionRate", of_symbol),
            self._read("fapiPrivateGetOpenOrders", of_symbol),
            self._read("fapiPrivateGetOpenAlgoOrders", of_symbol),
            self._user_trades(reader, symbol, since_trade_id),
            return_exceptions=True,
        )
        for part in parts:
            if isinstance(part, BaseException):
                raise part
        account, positions, config, mode, assets, rates, orders, algos, fills = parts
        try:
            wallet, available = reader.wallet(account)
            leverage, margin_type = reader.symbol_config(config)
            taker, maker = reader.fee_rates(rates)
            return Snapshot(
                time=self._exchange.clock(),
                symbol=symbol,
                wallet=wallet,
                available=available,
                taker_fee_e8=taker,
                maker_fee_e8=maker,
                leverage=leverage,
                margin_type=margin_type,
                hedge_mode=Fields("positionSide", mode).flag("dualSidePosition"),
                position=reader.position(positions, leverage, margin_type),
                orders=tuple(map(reader.order, _rows("openOrders", orders))),
                algo_orders=tuple(map(reader.algo_order, _rows("openAlgoOrders", algos))),
                fills=tuple(fills),
                multi_assets=Fields("multiAssetsMargin", assets).flag("multiAssetsMargin"),
            )
        except DataError as error:
            raise VenueError(f"the account of {symbol} could not be read: {error}") from None

    async def agg_trades(
        self, symbol: str, from_id: int | None = None, limit: int = PAGE, start: int | None = None
    ) -> list[TradeRow]:
        """Return trades in the order of their ids, from an id or a time (ms) on, or the latest.

        Raises:
            VenueError: they could not be read.
        """
        reader = await self._reader(symbol)
        begin = {"fromId": from_id, "startTime": start}
        wanted = {"symbol": symbol, "limit": limit} | {name: at for name, at in begin.items() if at is not None}
        rows = await self._read("fapiPublicGetAggTrades", wanted)
        try:
            return sorted(map(reader.agg_trade, _rows("aggTrades", rows)))
        except DataError as error:
            raise VenueError(f"aggTrades of {symbol} could not be read: {error}") from None

    async def minute_volumes(self, symbol: str, start: int, limit: int) -> list[tuple[int, int, int]]:
        """Return what traded in each minute from `start` (ms) on: its time, volume in lots, notional in ticklots.

        Raises:
            VenueError: they could not be read.
        """
        instrument = (await self._reader(symbol)).instrument
        wanted = {"symbol": symbol, "interval": "1m", "startTime": start, "limit": limit}
        rows = await self._read("fapiPublicGetKlines", wanted)
        ticklot = instrument.tick_size * instrument.step_size
        try:
            return [
                (int(row[0]), instrument.lots(row[5]), int(Decimal(row[7]) / ticklot)) for row in _rows("klines", rows)
            ]
        except (DataError, ArithmeticError, ValueError, TypeError, IndexError) as error:
            raise VenueError(f"klines of {symbol} could not be read: {error}") from None

    async def clock_offset(self) -> int:
        """Return how far our clock is ahead of the exchange's, ms, to half a round trip.

        Raises:
            VenueError: the exchange's time could not be read.
        """
        before = self._exchange.clock()
        answer = await self._read("fapiPublicGetTime")
        after = self._exchange.clock()
        try:
            return (before + after) // 2 - Fields("time", answer).integer("serverTime")
        except DataError as error:
            raise VenueError(str(error)) from None

    @property
    def used_weight(self) -> int:
        """Request weight used in the current minute, of 2,400, as the exchange last said."""
        return self._exchange.used_weight

    async def wait_for_weight(self, cost: int) -> None:
        """Wait until a request of this weight leaves the other half of the minute's weight to orders.

        A tape's clock may stand still; then there is nothing to wait for.
        """
        before = self._exchange.clock()
        while self.used_weight + cost > HALF_OF_WEIGHT:
            await asyncio.sleep(0.5)
            if self._exchange.clock() == before:
                return

    def reader(self, symbol: str) -> MessageReader:
        """Return the reader of a symbol whose `instrument` was asked for."""
        return self._readers[symbol]

    # --- commands -----------------------------------------------------------------------------------------------------

    async def submit(self, intent: OrderIntent) -> Reply:
        """Send an order once and say what is known of it.

        Raises:
            RequestInterrupted: the task was cancelled before the answer came.
        """
        order = intent.order
        algo = order.order_type.is_conditional
        asked, reader = _Asked("submit", order.symbol, order.client_order_id, algo), self._readers.get(order.symbol)
        if reader is None:
            return self._reply(asked, Answer(NOT_SENT, 0, "not sent: the symbol's filters were never asked for"))
        call = "fapiPrivatePostAlgoOrder" if algo else "fapiPrivatePostOrder"
        params = _algo_params(order, reader.instrument) if algo else _order_params(order, reader.instrument)
        return await self._command(asked, call, params)

    async def cancel(self, command: CancelOrder) -> Reply:
        """Cancel an order by its client id; REFUSED with -2011 where there is none open: it may have filled.

        Raises:
            RequestInterrupted: the task was cancelled before the answer came.
        """
        call = "fapiPrivateDeleteAlgoOrder" if command.algo else "fapiPrivateDeleteOrder"
        asked = _Asked("cancel", command.symbol, command.client_order_id, command.algo)
        return await self._command(asked, call, _id_params(command))

    async def lookup(self, command: LookupOrder) -> Reply:
        """Ask for an order by its client id; REFUSED with -2013 where the exchange has none.

        A conditional order that was triggered comes with the order that it became.
        """
        call = "fapiPrivateGetAlgoOrder" if command.algo else "fapiPrivateGetOrder"
        asked = _Asked("lookup", command.symbol, command.client_order_id, command.algo)
        reply = await self._command(asked, call, _id_params(command))
        if reply.algo_order is None or not reply.algo_order.order_id:
            return reply
        child = await self._ask("fapiPrivateGetOrder", {"symbol": command.symbol, "orderId": reply.algo_order.order_id})
        try:
            order, _ = self._orders_in(asked._replace(client_order_id="", algo=False), child)
        except DataError as error:
            log.warning("the order of %s could not be read: %s", command.client_order_id, error)
            return reply
        return replace(reply, order=order)

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        """Set one-way mode, the margin type (`isolated` or `cross`) and the leverage. Only when asked to, and flat.

        Raises:
            VenueError: the exchange refused one of them.
        """
        kind = {"isolated": "ISOLATED", "cross": "CROSSED"}[margin_type]
        await self._set("fapiPrivatePostPositionSideDual", {"dualSidePosition": "false"})
        await self._set("fapiPrivatePostMarginType", {"symbol": symbol, "marginType": kind})
        await self._set("fapiPrivatePostLeverage", {"symbol": symbol, "leverage": leverage})

    # --- listen key ---------------------------------------------------------------------------------------------------

    async def listen_key(self) -> str:
        """Return a listen key; an active one is extended and returned again.

        Raises:
            VenueError: there is none to be had.
        """
        answer = await self._read("fapiPrivatePostListenKey")
        key = answer.get("listenKey") if isinstance(answer, dict) else None
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", key):
            raise VenueError("listenKey: must be letters and digits")
        self._exchange.keep_secret(key)
        return key

    async def extend_listen_key(self) -> Answer:
        """Extend the listen key; code -1125 says that it is gone."""
        return await self._ask("fapiPrivatePutListenKey")

    # --- one request --------------------------------------------------------------------------------------------------

    async def _command(self, asked: _Asked, call: str, params: dict[str, Any]) -> Reply:
        try:
            answer = await self._ask(call, params)
        except asyncio.CancelledError:
            cut = Answer(NO_ANSWER, 0, "interrupted while the answer was awaited")
            raise RequestInterrupted(self._reply(asked, cut)) from None
        if answer.status != 200:
            return self._reply(asked, answer)
        try:
            return self._reply(asked, answer, *self._orders_in(asked, answer))
        except DataError as error:
            return self._reply(asked, Answer(NO_ANSWER, answer.code, f"HTTP 200 that holds no such order: {error}"))

    def _orders_in(self, asked: _Asked, answer: Answer) -> tuple[OrderUpdate | None, AlgoUpdate | None]:
        """Read the order that an answer holds; it must be the one that was asked about."""
        _, symbol, client_order_id, algo = asked
        reader, body = self._readers.get(symbol), Fields("answer", answer.body)
        name = "clientAlgoId" if algo else "clientOrderId"
        body.integer("algoId" if algo else "orderId", 1)
        if client_order_id and body.text(name) != client_order_id:
            raise body.error(name, f"must be {client_order_id}")
        if reader is None or (algo and not body.has("algoStatus")):  # a conditional order's cancel tells the id only
            return None, None
        return (None, reader.algo_order(answer.body)) if algo else (reader.order(answer.body), None)

    def _reply(
        self, asked: _Asked, answer: Answer, order: OrderUpdate | None = None, algo_order: AlgoUpdate | None = None
    ) -> Reply:
        outcome = classify(answer.status, answer.code, answer.text, _VERBS[asked.action])
        code, text = (0, "") if answer.status == 200 else (answer.code, self._told(answer))
        return Reply(self._exchange.clock(), *asked, outcome, code, text, order, algo_order)

    def _told(self, answer: Answer) -> str:
        """Write what an answer said, without secrets and control characters, short enough for a table."""
        status = {NOT_SENT: "not sent", NO_ANSWER: "no answer"}.get(answer.status, f"HTTP {answer.status}")
        text = re.sub(r"[\x00-\x1f\x7f]+", " ", self._exchange.scrub(f"{status}: {answer.text}"))
        return text if len(text) <= 200 else f"{text[:197]}..."

    async def _ask(self, call: str, params: Mapping[str, Any] | None = None) -> Answer:
        """Do one request. One that the exchange refused for its timestamp is signed again, once, with the clock set."""
        answer = await self._ask_once(call, params)
        if answer.code == RESYNC and answer.status == 400:
            try:
                self._exchange.options["timeDifference"] = await self.clock_offset()
            except VenueError:
                return answer
            answer = await self._ask_once(call, params)
        return answer

    async def _ask_once(self, call: str, params: Mapping[str, Any] | None) -> Answer:
        try:
            body = await getattr(self._exchange, call)(dict(params or {}))
        except Exception as error:
            # An error without an answer was raised before the request was handed to the transport.
            return vars(error).get("answer") or Answer(NOT_SENT, 0, type(error).__name__)
        is_json = isinstance(body, dict | list)
        return _answer(200, body, "") if is_json else Answer(NO_ANSWER, 0, "the answer is no JSON")

    async def _read(self, call: str, params: Mapping[str, Any] | None = None) -> Any:
        answer = await self._ask(call, params)
        if answer.status != 200 or answer.code not in (0, 200):
            raise VenueError(f"{call}: {self._told(answer)}, code {answer.code}")
        return answer.body

    async def _set(self, call: str, params: Mapping[str, Any]) -> None:
        answer = await self._ask(call, params)
        if answer.status != 200 and answer.code not in NOT_MODIFIED:
            raise VenueError(f"{call}: {self._told(answer)}, code {answer.code}")

    async def _reader(self, symbol: str) -> MessageReader:
        if symbol not in self._readers:
            try:
                await self.instrument(symbol)
            except DataError as error:
                raise VenueError(str(error)) from None
        return self._readers[symbol]

    async def _user_trades(self, reader: MessageReader, symbol: str, since_trade_id: int) -> list[OrderUpdate]:
        """Return our trades after an id, page by page."""
        fills: list[OrderUpdate] = []
        last = since_trade_id
        for _ in range(MOST_PAGES):
            wanted = {"symbol": symbol, "limit": PAGE} | ({"fromId": last + 1} if last else {})
            rows = await self._read("fapiPrivateGetUserTrades", wanted)
            try:
                page = sorted(map(reader.user_trade, _rows("userTrades", rows)), key=lambda fill: fill.trade_id)
            except DataError as error:
                raise VenueError(f"our trades of {symbol} could not be read: {error}") from None
            new = [fill for fill in page if fill.trade_id > last]
            fills += new
            if not new or len(page) < PAGE or not since_trade_id:
                return fills
            last = new[-1].trade_id
        raise VenueError(f"our trades of {symbol} after {since_trade_id} are more than {MOST_PAGES * PAGE}")


def _rows(kind: str, body: Any) -> list[Any]:
    if not isinstance(body, list):
        raise DataError(f"{kind} must be a list")
    return body


def _order_params(order: OrderRequest, instrument: Instrument) -> dict[str, Any]:
    params = {
        "symbol": order.symbol,
        "side": order.side.name,
        "type": order.order_type.value,
        "quantity": _text(instrument.quantity(order.quantity)),
        "newClientOrderId": order.client_order_id,
        "newOrderRespType": "ACK",
    }
    if order.order_type is OrderType.LIMIT:
        params |= {"price": _text(instrument.price(order.price)), "timeInForce": order.time_in_force.value}
    return params | ({"reduceOnly": "true"} if order.reduce_only else {})


def _algo_params(order: OrderRequest, instrument: Instrument) -> dict[str, Any]:
    params = {
        "algoType": "CONDITIONAL",
        "symbol": order.symbol,
        "side": order.side.name,
        "type": order.order_type.value,
        "triggerPrice": _text(instrument.price(order.trigger_price)),
        "workingType": order.working_type.value,
        "clientAlgoId": order.client_order_id,
    }
    if order.close_position:
        return params | {"closePosition": "true"}  # excludes quantity and reduceOnly
    params["quantity"] = _text(instrument.quantity(order.quantity))
    return params | ({"reduceOnly": "true"} if order.reduce_only else {})


def _id_params(command: CancelOrder | LookupOrder) -> dict[str, Any]:
    if command.algo:
        return {"clientAlgoId": command.client_order_id}
    return {"symbol": command.symbol, "origClientOrderId": command.client_order_id}


def _text(number: Any) -> str:
    return format(number, "f")


# --- streams ----------------------------------------------------------------------------------------------------------

SILENCE_MS = 10_000
"""A market socket that brings nothing for this long is taken for dead, even when it answers pings. Where only trades
are missing, REST is asked whether there were any."""
HEALTHY_S = 60.0
"""A connection that has lived for so long begins the pauses between dials anew."""
LISTEN_KEY_RENEWAL_MS = 30 * 60_000
"""A listen key lives for 60 minutes."""
LISTEN_KEY_RETRY_MS = 60_000
NO_LISTEN_KEY = -1125
MOST_HELD = 200_000
"""Market events that may wait while a gap is being filled; what comes after them is a gap of its own."""
FILL_TRIES = 3
FILL_SECONDS = 10.0
HALF_OF_WEIGHT = 1_200
"""Backfill uses no more than half of the request weight of a minute."""
REDIAL_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pause before a stream is dialled again, by failures in a row."""

RESYNC_EVENTS = frozenset({"ACCOUNT_CONFIG_UPDATE", "MARGIN_CALL", "CONDITIONAL_ORDER_TRIGGER_REJECT"})
"""User events that no fact of ours stands for, but after which the account must be read again."""


@dataclass(slots=True)
class StreamCounts:
    """What the streams brought since the start."""

    trades: int = 0
    marks: int = 0
    user_events: int = 0
    duplicates: int = 0
    """Trades seen before, or older than one seen before."""
    gaps: int = 0
    filled: int = 0
    """Trades that REST gave for gaps."""
    unfilled: int = 0
    """Trade ids that nobody could give."""
    refused: int = 0
    """Messages with a field that breaks its rule."""
    foreign: int = 0
    """Messages of other symbols."""
    ignored: int = 0
    """Messages of kinds that we don't need."""
    overflowed: int = 0
    """Trades dropped because too many waited for a gap to be filled."""
    reconnects: int = 0
    """Times that a stream was dialled again."""


class BinanceWSManager:
    """Keeps the market and the user stream up and turns their frames into events, in the order of arrival.

    Frames are read in the exchange's `frame_handler`, before ccxt's caches. For each stream a supervisor holds one
    pending `watch`, which ends only when the connection does, and then dials again. Trades come out with
    rising ids: a jump holds later market events back while REST is asked for what is missing; what it can't give stays
    a visible jump, told by a `FeedGap`. User events that we can't read, and those after which the account may have
    changed in ways that no event tells, are answered with a `StreamStatus` down and up: the signal to read the account
    again.

    Args:
        exchange: from `connect`; the manager takes its frame_handler.
        rest: for listen keys and missing trades.
        instrument: the symbol that is traded.
        on_agg_trade: takes (id, price in ticks, lots, time in ms, buyer is maker). Called from the event loop.
        on_event: takes marks, gaps, links and the account's updates, in order with the trades.
        clock: ms UTC, as the exchange's.
        user_stream: False for public data only.
        lockstep: the tape waits for us: no silence is too long, and a hole in the tape is final at once.
        after_trade_id: the last trade that is known already; those after it are filled in. 0: begin with the first.
        silence_ms: see `SILENCE_MS`; quiet symbols need more.

    Attributes:
        last_trade_id: of the last trade handed out.
        user_frames: user data frames received on the current private connection.
        counts: what the streams brought.
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
        silence_ms: int = SILENCE_MS,
    ) -> None:
        self.last_trade_id = after_trade_id
        self.user_frames = 0
        self.counts = StreamCounts()
        self._exchange = exchange
        self._rest = rest
        self._symbol = instrument.symbol
        self._reader = MessageReader(instrument)
        self._on_agg_trade = on_agg_trade
        self._on_event = on_event
        self._clock = clock
        self._lockstep = lockstep
        self._silence_ms = max(silence_ms, SILENCE_MS)
        self._streams: tuple[Stream, ...] = ("market", "user") if user_stream else ("market",)
        self._clients: dict[Stream, Client] = {}
        self._up = {stream: asyncio.Event() for stream in self._streams}
        self._connections = dict.fromkeys(self._streams, 0)
        self._supervisors: list[asyncio.Task[None]] = []
        self._filler: asyncio.Task[None] | None = None
        self._held: deque[TradeRow | MarkPrice] = deque()
        self._waits_to_join = False
        self._wallet = 0
        self._subscription = 0
        self._renew_at = 0
        self._listen_key = self._given_key = ""
        """The key in use, and one that a renewal has given, which the next dial takes."""
        self._heard = self._heard_at = 0
        self._traded = self._traded_at = 0
        self._last_error = ""
        self._user_readers: dict[str, Callable[[Any], Event]] = {
            "ORDER_TRADE_UPDATE": self._reader.order_update,
            "ALGO_UPDATE": self._reader.algo_update,
            "ACCOUNT_UPDATE": self._account_update,
        }
        exchange.frame_handler = self._on_frame
        exchange.on_link = self._link

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float = 15.0, *, hold: bool = False) -> None:
        """Dial, and return when every stream is up: the market's subscribed, the user's connected.

        Args:
            timeout_s: longest wait.
            hold: keep trades and marks back until `join`, while what came before them is loaded.

        Raises:
            VenueError: a stream did not come up in time; nothing is left running.
        """
        self._waits_to_join = hold
        self._supervisors = [asyncio.create_task(self._supervise(stream)) for stream in self._streams]
        try:
            async with asyncio.timeout(timeout_s):
                for up in self._up.values():
                    await up.wait()
        except TimeoutError:
            down = ", ".join(stream for stream, up in self._up.items() if not up.is_set())
            await self.stop()
            said = f"streams must be up within {timeout_s} s, were not: {down} ({self._last_error})"
            raise VenueError(said) from None

    def join(self, last_id: int) -> None:
        """Hand out what was held, from the trade after `last_id` on, and from now on what comes."""
        self.last_trade_id = last_id
        self._waits_to_join = False
        if self._held:
            self._filler = asyncio.get_running_loop().create_task(self._release_held())

    async def stop(self) -> None:
        """End the streams; no event comes after this. The exchange itself is the owner's to close."""
        self._exchange.frame_handler = lambda client, message: True
        self._exchange.on_link = lambda client, up: None
        tasks = [*self._supervisors, *([self._filler] if self._filler else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._supervisors, self._filler = [], None
        await self._exchange.close_ws_clients()

    async def maintain(self, now: int) -> None:
        """Do what time asks for: call it about once a second, in lockstep whenever the tape's time moved on.

        Args:
            now: ms of the clock.

        Raises:
            VenueError: a callback of ours failed, so that an event may be lost: trading must not go on.
        """
        if self._exchange.frame_handler_failure is not None:
            raise VenueError(f"an event could not be taken: {self._exchange.frame_handler_failure!r}")
        self._check_silence(now)
        await self._check_trades(now)
        if "user" in self._up and self._up["user"].is_set() and now >= self._renew_at:
            await self._renew_listen_key(now)

    def reconnect(self, stream: Stream, reason: str) -> None:
        """Cut a stream and let it be dialled again."""
        client = self._clients.get(stream)
        if client is not None:
            log.warning("%s stream: %s, dialling again", stream, reason)
            # Not client.close(): that cancels whoever waits. Soon, not now: we may be inside its receive loop.
            asyncio.get_running_loop().call_soon(client.on_error, errors.NetworkError(reason))

    def _check_silence(self, now: int) -> None:
        """Dial the market's stream again if it has said nothing for too long, its subscription's answer included."""
        heard = self.counts.trades + self.counts.marks + self.counts.duplicates + len(self._held)
        heard += self._connections["market"]
        if self._lockstep or "market" not in self._clients or heard != self._heard or not self._heard_at:
            self._heard, self._heard_at = heard, now
        elif now - self._heard_at >= self._silence_ms:
            self._heard_at = 0
            self.reconnect("market", f"silent for {self._silence_ms} ms")

    async def _check_trades(self, now: int) -> None:
        """Dial the market's stream again if it has told of no trade for too long though there were some."""
        traded = self.counts.trades + self.counts.duplicates + len(self._held) + self._connections["market"]
        if self._lockstep or "market" not in self._clients or traded != self._traded or self._waits_to_join:
            self._traded, self._traded_at = traded, now
        elif now - self._traded_at >= self._silence_ms:
            self._traded_at = now
            try:
                page = await self._rest.agg_trades(self._symbol, limit=1)
            except VenueError as error:
                log.warning("no trade for %d ms, and REST can't be asked: %s", self._silence_ms, error)
                return
            if page and page[-1][0] > self.last_trade_id:
                self.reconnect("market", f"no trade for {self._silence_ms} ms though there were some")
                self._arrive(page[-1])

    async def _renew_listen_key(self, now: int) -> None:
        self._renew_at = now + LISTEN_KEY_RETRY_MS
        answer = await self._rest.extend_listen_key()
        if answer.status == 200:
            self._renew_at = now + LISTEN_KEY_RENEWAL_MS
            key = answer.body.get("listenKey") if isinstance(answer.body, dict) else None
            if isinstance(key, str) and key not in ("", self._listen_key):
                self._given_key = key
                self.reconnect("user", "the exchange has given another listen key")
        elif answer.code == NO_LISTEN_KEY:
            self.reconnect("user", "the listen key is gone")
        else:
            log.warning("the listen key could not be extended: HTTP %d, code %d", answer.status, answer.code)

    # --- connections --------------------------------------------------------------------------------------------------

    async def _supervise(self, stream: Stream) -> None:
        """Hold a pending watch; when it ends, dial again."""
        watch = {"market": self._watch_market, "user": self._watch_user}[stream]
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await watch()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._last_error = "the connection was cancelled"  # the future was, not we
            except Exception as error:
                self._last_error = self._exchange.scrub(f"{type(error).__name__}: {error}")
            has_lived = asyncio.get_running_loop().time() - began >= HEALTHY_S
            failures = 0 if has_lived else failures + 1
            self._lost(stream)
            self.counts.reconnects += 1
            log.info("%s stream lost: %s", stream, self._last_error)
            await asyncio.sleep(REDIAL_SECONDS[min(failures, len(REDIAL_SECONDS) - 1)])

    def _watch_market(self) -> Awaitable[Any]:
        """Subscribe trades and marks on one socket, so that they keep their order among each other."""
        self._subscription += 1
        name = self._symbol.lower()
        streams = [f"{name}@aggTrade", f"{name}@markPrice@1s"]
        subscribe = {"method": "SUBSCRIBE", "params": streams, "id": self._subscription}
        url = f"{self._exchange.get_ws_url('linear', 'market')}/{self._exchange.stream('linear', 'market')}"
        return self._exchange.watch(url, "market", subscribe, "market")  # type: ignore[no-any-return]

    async def _watch_user(self) -> None:
        key, self._given_key = self._given_key, ""  # it is tried once
        self._listen_key = key = key or await self._rest.listen_key()
        self._renew_at = self._clock() + LISTEN_KEY_RENEWAL_MS
        await self._exchange.watch(self._exchange.get_private_ws_url("linear", key), "user", None, "user")

    def _link(self, client: Client, up: bool) -> None:
        """Note a connection that was made or lost. The market's counts as up when its subscription is seen to hold."""
        stream: Stream = "user" if "listenKey=" in client.url else "market"
        if not up:
            if self._clients.get(stream) is client:
                del self._clients[stream]
                self._lost(stream)
            return
        self._clients[stream] = client
        self._heard_at = 0 if stream == "market" else self._heard_at
        if stream == "user":
            self.user_frames = 0
            self._found("user")

    def _subscribed(self, client: Client) -> None:
        """Take the market's stream for up: its subscription was answered, or what was subscribed comes."""
        if self._clients.get("market") is client:
            self._found("market")

    def _found(self, stream: Stream) -> None:
        if not self._up[stream].is_set():
            self._connections[stream] += 1
            self._up[stream].set()
            self._on_event(StreamStatus(self._clock(), stream, True))

    def _lost(self, stream: Stream) -> None:
        if self._up[stream].is_set():
            self._up[stream].clear()
            self._on_event(StreamStatus(self._clock(), stream, False))

    # --- frames -----------------------------------------------------------------------------------------------------

    def _on_frame(self, client: Client, message: Any) -> bool:
        """Take every frame. Nothing is left to ccxt, whose caches merge and forget."""
        if type(message) is not dict:
            self.counts.refused += 1
            return True
        body = message["data"] if "stream" in message and type(message.get("data")) is dict else message
        kind = body.get("e")
        try:
            if kind in ("aggTrade", "markPriceUpdate"):
                self._subscribed(client)
                if body.get("s") != self._symbol:
                    self.counts.foreign += 1
                elif kind == "aggTrade":
                    self._take_trade(body)
                else:
                    self._take_mark(body)
            elif kind is None:
                self._take_control(client, body)
            elif isinstance(kind, str):
                self._take_user_event(client, kind, body)
            else:
                self.counts.refused += 1
        except DataError as error:
            self.counts.refused += 1
            log.warning("message refused: %s", self._exchange.scrub(str(error)))
        return True

    def _take_control(self, client: Client, body: Mapping[str, Any]) -> None:
        if body.get("id") == self._subscription and "result" in body:
            self._subscribed(client)
        elif "error" in body:
            self.reconnect("market", f"subscription refused: {body['error']!r:.100}")
        else:
            self.counts.ignored += 1

    def _take_trade(self, body: Mapping[str, Any]) -> None:
        self._arrive(self._reader.agg_trade(body))

    def _arrive(self, trade: TradeRow) -> None:
        """Hand out a trade in its turn; what is missing before it is asked for."""
        if self._held or self._waits_to_join:
            self._hold(trade)
        elif trade[0] == self.last_trade_id + 1 or not self.last_trade_id:
            self._hand_out_trade(trade)
        elif trade[0] <= self.last_trade_id:
            self.counts.duplicates += 1
        else:
            self._hold(trade)
            self._filler = asyncio.get_running_loop().create_task(self._release_held())

    def _take_mark(self, body: Mapping[str, Any]) -> None:
        mark = self._reader.mark_price(body)
        if self._held or self._waits_to_join:
            self._hold(mark)
        else:
            self._hand_out_mark(mark)

    def _take_user_event(self, client: Client, kind: str, body: Mapping[str, Any]) -> None:
        """Take a user event. One that can't be read is as good as lost: the account is read again."""
        if self._clients.get("user") is client:
            self.user_frames += 1
            self.counts.user_events += 1
        if kind == "listenKeyExpired":
            self.reconnect("user", "the listen key expired")
        elif kind in RESYNC_EVENTS:
            log.warning("%s: %.300s", kind, self._exchange.scrub(repr(body)))
            self._ask_for_resync()
        elif kind not in self._user_readers:
            self.counts.ignored += 1
        elif self._is_foreign(body):
            self.counts.foreign += 1
        else:
            try:
                event = self._user_readers[kind](body)
            except DataError:
                self._ask_for_resync()
                raise
            self._on_event(event)

    def _is_foreign(self, body: Mapping[str, Any]) -> bool:
        order = body.get("o")
        symbol = order.get("s") if isinstance(order, dict) else None
        return isinstance(symbol, str) and symbol != self._symbol

    def _account_update(self, body: Any) -> Event:
        update = self._reader.account_update(body, self._wallet)
        self._wallet = update.wallet
        return update

    def _ask_for_resync(self) -> None:
        now = self._clock()
        self._on_event(StreamStatus(now, "user", False))
        self._on_event(StreamStatus(now, "user", True))

    # --- gaps -------------------------------------------------------------------------------------------------------

    def _hold(self, item: TradeRow | MarkPrice) -> None:
        """Keep an item for later, a trade that comes late before those that should have come after it."""
        if len(self._held) >= MOST_HELD:
            self.counts.overflowed += 1
            return
        place = len(self._held)
        if not isinstance(item, MarkPrice):
            while place and not isinstance(other := self._held[place - 1], MarkPrice) and other[0] > item[0]:
                place -= 1
        self._held.insert(place, item)

    def _hand_out_late(self, last_id: int) -> None:
        """Hand out held trades that close the beginning of a gap, up to the end of it."""
        while self._held and not isinstance(item := self._held[0], MarkPrice) and item[0] <= last_id:
            if item[0] > self.last_trade_id + 1:
                return
            self._held.popleft()
            if item[0] == self.last_trade_id + 1:
                self._hand_out_trade(item)

    def _hand_out_trade(self, trade: TradeRow) -> None:
        self.counts.trades += 1
        self.last_trade_id = trade[0]
        self._on_agg_trade(*trade)

    def _hand_out_mark(self, mark: MarkPrice) -> None:
        self.counts.marks += 1
        self._on_event(mark)

    async def _release_held(self) -> None:
        """Fill the gap before the first held trade, then hand out what is held, up to the next gap and through it."""
        given_up = 0
        try:
            while self._held:
                item = self._held[0]
                if isinstance(item, MarkPrice):
                    self._hand_out_mark(item)
                elif item[0] <= self.last_trade_id:
                    self.counts.duplicates += 1
                elif 0 < self.last_trade_id < item[0] - 1 and item[0] != given_up:
                    given_up = item[0]
                    await self._fill(self.last_trade_id + 1, item[0] - 1, item[3])
                    continue  # another may be the first by now
                else:
                    self._hand_out_trade(item)
                self._held.popleft()
        except Exception as error:
            log.exception("a gap could not be dealt with")
            self._exchange.frame_handler_failure = self._exchange.frame_handler_failure or error

    async def _fill(self, first_id: int, last_id: int, time: int) -> None:
        """Hand out what REST has of a gap, then tell of the gap."""
        before = self.counts.trades
        try:
            async with asyncio.timeout(FILL_SECONDS):
                await self._fetch_missing(last_id)
        except TimeoutError:
            log.warning("gap %d to %d: gave up after %.0f s", first_id, last_id, FILL_SECONDS)
        self._hand_out_late(last_id)
        filled = self.counts.trades - before
        self.counts.gaps += 1
        self.counts.filled += filled
        self.counts.unfilled += last_id - first_id + 1 - filled
        self._on_event(FeedGap(self._symbol, time, first_id, last_id, filled))

    async def _fetch_missing(self, last_id: int) -> None:
        """Page through REST until the gap is filled, the exchange is seen to have nothing there, or tries run out."""
        failures = 0
        while self.last_trade_id < last_id and failures < FILL_TRIES:
            if failures:
                await asyncio.sleep(0.1 * 2**failures)
                self._hand_out_late(last_id)
            if self._rest.used_weight > HALF_OF_WEIGHT:
                failures += 1
                continue
            try:
                page = await self._rest.agg_trades(self._symbol, self.last_trade_id + 1)
            except VenueError as error:
                log.warning("missing trades: %s", error)
                failures += 1
                continue
            wanted = [trade for trade in page if self.last_trade_id < trade[0] <= last_id]
            for trade in wanted:
                if trade[0] > self.last_trade_id:
                    self._hand_out_trade(trade)
            if page and page[-1][0] > last_id:
                return  # the exchange has later ones, so that those not among these don't exist
            if not wanted:
                if self._lockstep:
                    return
                failures += 1
