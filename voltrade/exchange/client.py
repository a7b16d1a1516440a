"""The ccxt class for Binance USD-M Futures, subclassed: signing, transport and sockets.

Every frame goes to a handler in the order of arrival, and the exception of a failed request has the response.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from voltrade.exchange.block_note import BlockNote
from voltrade.exchange.ccxt_binance import Client, binanceusdm, errors
from voltrade.exchange.proxies import proxy_of
from voltrade.exchange.redaction import Redaction
from voltrade.exchange.responses import NO_ANSWER, NOT_SENT, REDIRECTED
from voltrade.model import moment_text

log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""Returns milliseconds UTC: of the system clock, or of the tape in lockstep."""

RECORDER: ContextVar[Recorder] = ContextVar("RECORDER")
"""Takes every request of the clients that are made while it is set, from their first on: see `recorded_by`."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back for one request."""

    status: int
    """HTTP status, or `NOT_SENT`, or `NO_ANSWER`."""
    code: int = 0
    """Binance's error code; 0 without one."""
    text: str = ""
    body: Any = None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One request, and what came back."""

    method: str
    url: str
    """Address and parameters, with what signs them."""
    body: str
    """Parameters that are in the body."""
    response: Response


Recorder = Callable[["UsdmExchange", Exchanged], None]


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Pass every request of the clients that are made meanwhile to a function, with the client, which redacts texts."""
    token = RECORDER.set(recorder)
    try:
        yield
    finally:
        RECORDER.reset(token)


class Misdirected(aiohttp.ClientError):
    """A request would have gone to an origin that is not the endpoint's.

    Attributes:
        response: what is known of the request.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.text)
        self.response = response


CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""Errors that mean that no connection was made, so nothing was sent."""

WEIGHT_WINDOW_MS = 60_000
"""Request weight is counted per minute of the exchange's clock."""

TOO_MANY_ORDERS = "-1015"
"""Code of the order rate limit. It blocks new orders for some seconds, but neither queries nor cancels."""

PAUSES_S, BAN_S = (5, 10, 20, 40, 60), 120
"""Seconds without requests after a 429 that does not say how long it lasts, by how many came before without a good
answer between them to what has a weight, and after such a 418: the shortest ban."""

OF_AN_ORDER = re.compile(r"/(order|algoOrder)([?]|$)").search
"""Finds that an address places, cancels or looks up an order."""

ORDERS_FIRST_MS = 1_500
"""After a block everything but orders waits so much longer: a stop or exit is tried again each second, and must not
meet the limit that the readings that were held up reach once more."""


class ResilientClient(Client):  # type: ignore[misc]  # ccxt is untyped
    """ccxt's websocket client, but a frame that cannot be decoded does not end the receive loop.

    It is passed on as None, since it may have been about a fill.
    """

    def handle_message(self, message: aiohttp.WSMessage) -> None:
        try:
            super().handle_message(message)
        except Exception as error:
            log.warning("a frame could not be read: %s", type(error).__name__)
            self.on_message_callback(self, None)


class UsdmExchange(binanceusdm):  # type: ignore[misc]  # ccxt is untyped
    """ccxt.pro's Binance USD-M class, made strict enough for real money.

    - Every frame goes to `frame_handler` first, in the order of arrival; an exception there does not close the socket.
    - `on_connection` is called when a connection is made or lost.
    - The exception of a failed request carries a `Response` in its attribute `response`.
    - No request is sent before the end of a Retry-After, none to an origin that is not pinned, and no redirect is
      followed: it could carry the key to another host.
    - The time comes from the given clock, and endpoints of other products do not exist.

    Attributes:
        frame_handler: takes (client, message); returns whether it has handled the message.
        on_connection: takes (client, whether it is up).
        frame_handler_failure: the first exception that `frame_handler` raised.
        own_address: the IP address from which we come, where a refusal has told it; texts of answers don't have it.
        blocked_until: no request is sent before this time, ms of the clock; what is about no order, a little later.
    """

    def __init__(self, config: Mapping[str, Any], clock: Clock) -> None:
        self.clock = clock
        self.frame_handler: Callable[[Client, Any], bool] = lambda client, message: False
        self.on_connection: Callable[[Client, bool], None] = lambda client, up: None
        self.frame_handler_failure: Exception | None = None
        self.blocked_until, self.own_address = 0, ""
        self._unsaid = 0
        self._block_note: BlockNote | None = None
        self._used_weight = (0, 0)
        self._redaction = Redaction()
        self._record: Callable[[UsdmExchange, Exchanged], None] = RECORDER.get(lambda exchange, exchanged: None)
        self._proxies: dict[str, str] = {}
        self.ws_dial_backoff: dict[str, Any] = {}
        super().__init__(config)
        for secret in (self.apiKey, self.secret):
            self.add_secret(secret)
        # ccxt logs requests with their headers at DEBUG; a logger without handlers keeps them out of the log.
        self.logger = logging.Logger("ccxt.silent", logging.ERROR)

    def milliseconds(self) -> int:
        return self.clock()

    def get_exceptions_by_url(self, url: str, kind: str) -> Any:
        """Map errors as for USD-M at every address; ccxt recognises it by Binance's host names only."""
        return self.exceptions["linear"].get(kind, {})

    # --- where requests go -------------------------------------------------------------------------------------------

    def pin(self, addresses: Iterable[str]) -> None:
        """Allow requests and websockets to the origins of these addresses only, each through the proxy for it.

        Raises:
            ConfigError: the environment names a proxy that can't be used.
        """
        self._proxies = {str(URL(address).origin()): proxy_of(address) for address in addresses}
        for proxy in self._proxies.values():
            self._redaction.add_proxy(proxy)

    def proxy_to(self, address: str) -> str | None:
        """Return the proxy for requests and websockets to a pinned address; None for none."""
        return self._proxies.get(str(URL(address).origin())) or None

    def check_proxy_settings(self, url: str = "", *request: Any) -> tuple[None, str | None, None]:
        """Return the proxy of a request to ccxt, as its proxies for http, https and SOCKS."""
        return None, self.proxy_to(url), None

    def open(self, lazy: bool = False) -> None:
        """Open ccxt's session, which then checks where each request goes."""
        super().open(lazy)
        if self.session is not None and not self.session.trace_configs:
            self.session.trace_configs.append(self.guard())

    def guard(self) -> aiohttp.TraceConfig:
        """Return what lets a session of aiohttp send to the pinned origins only, and follow no redirect."""
        guard = aiohttp.TraceConfig()
        guard.on_request_start.append(self._check_origin)
        guard.on_request_redirect.append(self._refuse_redirect)
        guard.freeze()
        return guard

    async def _check_origin(self, session: object, context: object, params: aiohttp.TraceRequestStartParams) -> None:
        origin = str(params.url.origin())
        if origin not in self._proxies:
            raise Misdirected(Response(NOT_SENT, REDIRECTED, f"{origin} is no address of this exchange"))

    async def _refuse_redirect(
        self, session: object, context: object, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        host = urlsplit(params.response.headers.get("Location", "")).hostname or "another path"
        params.response.close()
        raise Misdirected(Response(params.response.status, REDIRECTED, f"redirected to {host}, which is not followed"))

    # --- secrets ----------------------------------------------------------------------------------------------------

    def add_secret(self, text: str) -> None:
        """Add a text that `redact` must remove."""
        self._redaction.add(text)

    def redact(self, text: str) -> str:
        """Replace keys, signatures, the account's name and IP addresses other than loopback in a text by `***`."""
        return self._redaction.clean(text)

    def redacted(self, value: Any) -> Any:
        """Return plain values with every text in them redacted."""
        return self._redaction.cleaned(value)

    # --- REST -------------------------------------------------------------------------------------------------------

    async def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """Do one request; an exception carries a `Response` in its attribute `response`."""
        response = Response(NO_ANSWER, 0, "interrupted")
        try:
            answer = await self._fetch(url, method, headers, body)
            response = Response(200, body=answer)
        except Exception as error:
            response = vars(error).get("response") or Response(NO_ANSWER, 0, type(error).__name__)
            raise
        finally:
            self._record(self, Exchanged(method, url, body or "", response))
        return answer

    async def _fetch(self, url: str, method: str, headers: Any, body: Any) -> Any:
        wait_ms = self._wait_ms(url)
        if wait_ms > 0:
            return self._fail(Response(429, -1003, f"not sent: the exchange blocks requests for {wait_ms} ms"))
        try:
            return await super().fetch(url, method, headers, body)
        except Exception as error:
            if "response" not in vars(error):
                cause = error.__cause__ or error
                status = NOT_SENT if isinstance(cause, CONNECT_ERRORS) else NO_ANSWER
                unread = Response(status, 0, type(cause).__name__)
                vars(error)["response"] = cause.response if isinstance(cause, Misdirected) else unread
            raise

    def handle_errors(
        self, code: int, reason: str, url: str, method: str, headers: Any, body: str, response: Any, *request: Any
    ) -> None:
        """Raise ccxt's exception for a response that is an error, with a `Response` attached."""
        self._update_limits(code, url, headers, body)
        try:
            super().handle_errors(code, reason, url, method, headers, body, response, *request)
            self.handle_http_status_code(code, reason, url, method, body)
        except Exception as error:
            vars(error)["response"] = self._told(code, response, body)
            raise
        if code != 200:
            self._fail(self._told(code, response, body))

    def _told(self, status: int, decoded: Any, body: str) -> Response:
        """Read a response that is an error; its text may be shown and stored."""
        response = response_of(status, decoded, body)
        if found := re.search(r"request ip: ([0-9a-fA-F.:]+)", response.text):
            self.own_address = found[1]
        return replace(response, text=self.redact(response.text))

    def _fail(self, response: Response) -> NoReturn:
        error = errors.ExchangeNotAvailable(f"{response.status} {response.text}")
        vars(error)["response"] = response
        raise error

    def _update_limits(self, status: int, url: str, headers: Any, body: str) -> None:
        by_name = {name.lower(): value for name, value in headers.items()}
        weight = by_name.get("x-mbx-used-weight-1m", "")
        if weight.isdigit():
            self._used_weight = (self.clock() // WEIGHT_WINDOW_MS, int(weight))
        # An order has no weight, and what was asked for before the block says nothing of what comes after it.
        if status == 200 and not OF_AN_ORDER(url) and self.clock() >= self.blocked_until:
            self._unsaid = 0
        if status in (418, 429) and TOO_MANY_ORDERS not in body:
            end = self._end_of_block(status, by_name.get("retry-after", ""), body)
            if end > self.blocked_until:
                self.blocked_until = end
                self._note_block()
            log.warning("HTTP %d: no requests until %s", status, moment_text(self.blocked_until))

    def keep_block(self, note: BlockNote) -> None:
        """Begin with the pause that an earlier process of the run was told, and note those to come for the next one."""
        self._block_note = note
        left_ms, self._unsaid = note.read()
        if left_ms:
            self.blocked_until = self.clock() + left_ms
            log.warning("no requests until %s: a process before was told so", moment_text(self.blocked_until))

    def _note_block(self) -> None:
        if self._block_note is not None:
            self._block_note.write(max(self.blocked_until - self.clock(), 0), self._unsaid)

    def _wait_ms(self, url: str) -> int:
        """Return for how long a request may not be sent yet; up to 0 if it may."""
        later = ORDERS_FIRST_MS if self.blocked_until and not OF_AN_ORDER(url) else 0
        return self.blocked_until + later - self.clock()

    @property
    def used_weight(self) -> int:
        """Request weight used in the current minute, as the exchange last reported it."""
        window, used = self._used_weight
        return used if window == self.clock() // WEIGHT_WINDOW_MS else 0

    def _end_of_block(self, status: int, retry_after: str, body: str) -> int:
        if re.fullmatch(r"[0-9]{1,6}", retry_after.strip()):
            return self.clock() + int(retry_after) * 1000
        if banned := re.search(r"banned until ([0-9]{13})", body):
            return int(banned[1])
        if self.clock() < self.blocked_until:  # sent before the block, of which nobody knew yet
            return self.blocked_until
        pause_s = PAUSES_S[min(self._unsaid, len(PAUSES_S) - 1)]
        self._unsaid += 1
        return self.clock() + (BAN_S if status == 418 else pause_s) * 1000

    # --- websockets ---------------------------------------------------------------------------------------------------

    def client(self, url: str) -> Client:
        """Return the `ResilientClient` of an address."""
        self.open()  # ccxt's: makes sure that there is an event loop and a session
        if url not in self.clients:
            settings = {**self.streaming, "asyncio_loop": self.asyncio_loop, **self.options["ws"]}
            self.clients[url] = ResilientClient(
                url, self.handle_message, self.on_error, self.on_close, self.on_connected, settings
            )
            self.clients[url].proxy = self.proxy_to(url)
        return self.clients[url]

    def handle_message(self, client: Client, message: Any) -> None:
        """Pass a frame to `frame_handler`, and to ccxt if `frame_handler` did not handle it."""
        try:
            if self.frame_handler(client, message):
                return
            super().handle_message(client, message)
        except Exception as error:
            log.exception("a frame could not be handled")
            self.frame_handler_failure = self.frame_handler_failure or error

    def on_connected(self, client: Client, message: Any = None) -> None:
        super().on_connected(client, message)
        self.on_connection(client, True)

    def on_close(self, client: Client, code: Any) -> None:
        """Report a closed socket.

        ccxt calls this twice for a socket that was closed gracefully. By the second call the address may already belong
        to the next connection, which must not be removed.
        """
        if self.clients.get(client.url) is client:
            super().on_close(client, code)
        self.on_connection(client, False)

    def on_error(self, client: Client, error: Any) -> None:
        """Report a socket that failed, or could not be opened.

        After the latter ccxt would double the pause before the next one, up to 30 s; the streams have pauses of their
        own, so only one that the exchange asked for is kept.
        """
        super().on_error(client, error)
        if getattr(client, "last_retry_after", None) is None:
            self.ws_dial_backoff.pop(client.url, None)
        self.on_connection(client, False)


def response_of(status: int, decoded: Any, body: str) -> Response:
    """Read code and text of a response; the text of one that is not a JSON object is its body.

    A positive code isn't Binance's but that of a gateway in between, and none here; with 200, where 200 itself may
    stand, it makes the response none that says what was done.
    """
    if not isinstance(decoded, dict):
        return Response(status, 0, body, decoded)
    code, text = decoded.get("code", 0), decoded.get("msg", "")
    if isinstance(code, str) and re.fullmatch(r"-?[0-9]{1,6}", code):
        code = int(code)
    known = code if type(code) is int and (code < 0 or code == 200) else 0
    is_foreign = status == 200 and known == 0 and code != 0
    text = text if isinstance(text, str) else ""
    return Response(NO_ANSWER if is_foreign else status, known, text, decoded)
