"""The network between engine and venue, without sockets: requests and frames travel with latencies, and get lost.

The engine's end is `SimulatedWire`, which stands where ccxt would call aiohttp: everything of our ccxt subclass above it
runs as it is, `fetch` and `handle_message` included. The venue's end is its own request handler and its own streams.
What has left one end arrives at the other, whatever becomes of the sender meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import ccxt.pro
from aiohttp import WSMsgType, web
from ccxt.base.errors import ExchangeNotAvailable, RequestTimeout
from multidict import CIMultiDict
from simulation.clock import VirtualLoop
from simulation.evidence import Request

from voltrade.credentials import Credentials
from voltrade.exchange.binance import Endpoint, SturdyClient, UsdmExchange, connect
from voltrade.exchange.venue import SOCKET, Venue
from voltrade.exchange.venue_requests import Params
from voltrade.exchange.venue_streams import Socket

ENDPOINT = Endpoint.simulated("http://127.0.0.1:1", "ws://127.0.0.1:1")
"""An address where nobody listens: nothing may ever go there."""

LATENCY_S = (0.004, 0.020)
"""Of a packet one way, evenly drawn."""
DIAL_S = 0.03


@dataclass(frozen=True)
class Rewriting:
    """What passes is altered on its way to the client.

    Attributes:
        on: searched in `GET /fapi/v1/order` for answers, in `frame market`, `frame private` for frames.
        find, put: as for `re.sub`.
    """

    on: re.Pattern[str]
    find: re.Pattern[str]
    put: str

    def __call__(self, what: str, text: str) -> str:
        return self.find.sub(self.put, text) if self.on.search(what) else text


@dataclass
class MadeAnswer:
    """An answer that the venue has not given, such as one of a proxy, or a refusal that the venue does not know.

    Attributes:
        on: searched in `POST /fapi/v1/order`, and in the query and body behind it.
        skip, times: so many that match are spared first, and then so many answered (0: all).
        is_carried_out: whether the venue does what was asked for, though it is not what answers.
    """

    on: re.Pattern[str]
    status: int
    body: str
    headers: dict[str, str]
    skip: int = 0
    times: int = 0
    is_carried_out: bool = False
    seen: int = 0

    def is_given_to(self, what: str) -> bool:
        if not self.on.search(what):
            return False
        self.seen += 1
        return self.seen > self.skip and (not self.times or self.seen <= self.skip + self.times)


@dataclass
class Conditions:
    """What is wrong with the network just now.

    Attributes:
        cut: no packet passes, nothing can be dialled.
        slow_s: added to each packet's way.
        user_late_s: added to user data on its way to the client, in order.
        deaf: categories of sockets ("market", "private") that take a handshake and then bring nothing.
        flapping: categories of sockets that are closed (1001) as soon as they are open.
        undialable: categories of sockets that nobody can open.
        rewritings: alter what arrives, in order.
        made_answers: stand in for the venue's; the first that fits is given.
    """

    cut: bool = False
    slow_s: float = 0.0
    user_late_s: float = 0.0
    deaf: frozenset[str] = frozenset()
    flapping: frozenset[str] = frozenset()
    undialable: frozenset[str] = frozenset()
    rewritings: list[Rewriting] = field(default_factory=list)
    made_answers: list[MadeAnswer] = field(default_factory=list)

    def rewritten(self, what: str, text: str) -> str:
        for rewriting in self.rewritings:
            text = rewriting(what, text)
        return text


class Network:
    """Carries what engine and venue send each other.

    Args:
        draw: chance of the latencies.
        is_durable: whether an order's intent can be read from the journal's file, by its client id.
        latency_s: shortest and longest time of a packet, one way.

    Attributes:
        on_packet: called before the engine's packets leave and after the venue's arrive, with what they are; a plan
            may kill the engine there.
        reworded: (pattern, change): answers to what matches `METHOD path?query` carry what `change` makes of their
            JSON.
        dials: websockets that were opened: (time, URL).
    """

    def __init__(
        self,
        loop: VirtualLoop,
        venue: Venue,
        draw: random.Random,
        is_durable: Callable[[str], bool],
        latency_s: tuple[float, float] = LATENCY_S,
    ) -> None:
        self.conditions = Conditions()
        self.requests: list[Request] = []
        self.pipes: list[Pipe] = []
        self.reworded: list[tuple[re.Pattern[str], Callable[[Any], Any]]] = []
        self.dials: list[tuple[int, str]] = []
        self.on_packet: Callable[[str], None] = lambda what: None
        self.wake: Callable[[], None] = lambda: None
        self._loop, self._venue, self._draw, self._is_durable = loop, venue, draw, is_durable
        self._latency_s = latency_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outside = contextvars.copy_context()
        """The network is no part of any engine's process."""

    def latency(self) -> float:
        return self._draw.uniform(*self._latency_s) + self.conditions.slow_s

    def go_on(self, task: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something happen at the venue's end or on the way, whoever has stopped waiting for it."""
        running = self._loop.create_task(task, context=self._outside)
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
        return running

    # --- REST -------------------------------------------------------------------------------------------------------

    async def request(self, wire: SimulatedWire, method: str, url: str, headers: Any, body: str) -> tuple[int, Any, str]:
        """Send a request and wait for its answer: status, headers, text.

        Raises:
            aiohttp.ClientConnectionError: nobody could be reached, or the connection was lost.
        """
        what = f"{method} {urlsplit(url).path}"
        self.on_packet(f"send {what}")
        if wire.is_dead or self.conditions.cut:
            await asyncio.sleep(self.latency())
            raise _refused()
        answer: asyncio.Future[tuple[int, Any, str]] = self._loop.create_future()
        self.go_on(self._carry(wire, _Asked(method, url, headers, body), answer))
        self.on_packet(f"sent {what}")
        return await answer

    async def _carry(self, wire: SimulatedWire, asked: _Asked, answer: asyncio.Future[tuple[int, Any, str]]) -> None:
        sent, arrived, got, client_id = self._loop.now_ms, -1, -1, asked.client_id
        status = code = retry_after = 0
        weight, durable = -1, True
        try:
            await asyncio.sleep(self.latency())
            if self.conditions.cut:
                return  # lost on its way; the client's own patience ends it
            arrived = self._loop.now_ms
            if method_places(asked.method, asked.path):
                durable = self._is_durable(client_id)
            made = next((m for m in self.conditions.made_answers if m.is_given_to(asked.whole)), None)
            response = None
            if made is None or made.is_carried_out:
                response = await self._venue._rest(asked)  # type: ignore[arg-type]
                self.wake()
            await asyncio.sleep(self.latency())
            if self.conditions.cut or wire.is_dead:
                return
            got = self._loop.now_ms
            if asked.transport.is_lost:
                _fail(answer, aiohttp.ServerDisconnectedError())
                return
            status, headers, text = _answer(made or response)
            text = self.conditions.rewritten(f"{asked.method} {asked.path}", text)
            retry_after = int(headers.get("Retry-After", 0))
            if changes := self._changes(asked):
                for change in changes:
                    text = json.dumps(change(json.loads(text)))
                status = 200
            weight = int(headers.get("X-MBX-USED-WEIGHT-1M", -1))
            code = _code(text) if status != 200 else 0
            self.on_packet(f"answer {asked.method} {asked.path}")
            if not answer.done():
                answer.set_result((status, headers, text))
        finally:
            row = (sent, arrived, got, asked.method, asked.path, client_id, status, code, retry_after, weight, durable)
            self.requests.append(Request(*row))

    def _changes(self, asked: _Asked) -> list[Callable[[Any], Any]]:
        what = f"{asked.method} {asked.raw_path}"
        return [change for pattern, change in self.reworded if pattern.search(what)]

    # --- websockets -------------------------------------------------------------------------------------------------

    async def dial(self, client: SimulatedClient) -> Pipe:
        """Open a websocket.

        Raises:
            aiohttp.ClientConnectionError: nobody could be reached.
        """
        parts = urlsplit(client.url)
        found = SOCKET.fullmatch(parts.path)
        assert found is not None, client.url
        category, kind, name = found.groups("")
        self.on_packet(f"dial {category}")
        await asyncio.sleep(DIAL_S + self.latency())
        if self.conditions.cut or category in self.conditions.undialable or client.wire.is_dead:
            raise _refused()
        pipe = Pipe(self, client, category)
        query = dict(parse_qsl(parts.query))
        pipe.socket = self._venue.streams.accept(pipe, category, name, kind == "stream", query)  # type: ignore[arg-type]
        self.pipes.append(pipe)
        self.dials.append((self._loop.now_ms, client.url))
        if category in self.conditions.flapping:
            pipe.socket.close(1001)
        return pipe

    def forget(self, pipe: Pipe) -> None:
        """Take a closed websocket away at both ends."""
        if pipe in self.pipes:
            self.pipes.remove(pipe)
        if pipe.socket in self._venue.streams.sockets:
            self._venue.streams.sockets.remove(pipe.socket)

    def from_client(self, pipe: Pipe, kind: WSMsgType, data: Any) -> None:
        """Carry a message to the venue."""
        self._loop.call_later(self.latency(), self._reach_venue, pipe, kind, data, context=self._outside)

    def _reach_venue(self, pipe: Pipe, kind: WSMsgType, data: Any) -> None:
        if not (self.conditions.cut or pipe.closed or pipe.socket.is_dead):
            self._venue.streams.receive(pipe.socket, kind, data)

    def close(self) -> None:
        """End all connections."""
        for pipe in list(self.pipes):
            pipe.abort()


def method_places(method: str, path: str) -> bool:
    """Whether a request asks for a new order."""
    return method == "POST" and path in ("/fapi/v1/order", "/fapi/v1/algoOrder")


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _refused() -> aiohttp.ClientConnectorError:
    key: Any = SimpleNamespace(host="127.0.0.1", port=1, is_ssl=False, ssl=None)
    return aiohttp.ClientConnectorError(key, OSError(111, "connection refused"))


def _answer(given: Any) -> tuple[int, Any, str]:
    """Status, headers and text of an answer, the venue's or a made one."""
    if isinstance(given, MadeAnswer):
        return given.status, CIMultiDict(given.headers), given.body
    return given.status, given.headers, _body(given)


def _body(response: web.StreamResponse) -> str:
    body = getattr(response, "body", None)
    return body.decode() if isinstance(body, bytes) else str(getattr(response, "text", "") or "")


def _code(text: str) -> int:
    head = text.find('"code":')
    digits = text[head + 7 :].split(",")[0].strip("} ") if head >= 0 else ""
    return int(digits) if digits.lstrip("-").isdigit() else 0


class _Link:
    """A request's connection, as far as the venue touches it."""

    def __init__(self) -> None:
        self.is_lost = False

    def abort(self) -> None:
        self.is_lost = True


class _Asked:
    """A request as the venue's handler reads it."""

    def __init__(self, method: str, url: str, headers: Any, body: str) -> None:
        parts = urlsplit(url)
        self.method, self.path = method, parts.path
        self.raw_path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.headers = CIMultiDict(headers or {})
        self.transport = _Link()
        self._body = body or ""
        self.whole = f"{method} {self.raw_path} {self._body}"
        params = Params(parts.query, self._body)
        names = ("newClientOrderId", "clientAlgoId", "origClientOrderId")
        self.client_id = next((params.get(name) for name in names if params.get(name)), "")

    async def text(self) -> str:
        return self._body


class Pipe:
    """One websocket: to the venue a transport that it writes frames to, to ccxt's client a connection.

    Frames arrive in order, each after a latency of its own. A frame that arrives is handed to the client's
    `handle_message`, as its receive loop would.
    """

    def __init__(self, network: Network, client: SimulatedClient, category: str) -> None:
        self.closed = False
        self.category = category
        self.socket: Socket
        self._process = contextvars.copy_context()
        self._network, self._client = network, client
        self._loop = network._loop
        self._last = 0.0
        self._closing = False

    # --- the venue's end --------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        for kind, payload in split(frames):
            if kind is not WSMsgType.TEXT:
                self._send(kind, payload)
            elif self.category not in self._network.conditions.deaf:
                self.tell(payload.decode())

    def tell(self, text: str) -> None:
        """Bring the client a message, as it is after what alters it."""
        self._send(WSMsgType.TEXT, self._network.conditions.rewritten(f"frame {self.category}", text).encode())

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed or self._closing

    def close(self) -> None:
        self._closing = True
        self._later(self._end)

    def abort(self) -> None:
        self._closing = True
        self._loop.call_soon(self._end, context=self._network._outside)

    def _send(self, kind: WSMsgType, payload: bytes) -> None:
        self._later(self._arrive, kind, payload)

    def _later(self, act: Callable[..., None], *args: Any) -> None:
        network = self._network
        late = network.conditions.user_late_s if self.category == "private" else 0.0
        self._last = max(self._last, self._loop.time() + network.latency() + late)
        self._loop.call_at(self._last, act, *args, context=network._outside)

    def _arrive(self, kind: WSMsgType, payload: bytes) -> None:
        network = self._network
        if self.closed or network.conditions.cut or self._client.wire.is_dead:
            return
        network.on_packet(f"frame {self.category}")
        if kind is WSMsgType.CLOSE:
            self.closed = True
            network.forget(self)
            data: Any = int.from_bytes(payload[:2], "big")
        else:
            data = payload.decode(errors="replace") if kind is WSMsgType.TEXT else payload
        # Taken by the engine's process when that runs.
        message = aiohttp.WSMessage(kind, data, None)
        self._loop.call_soon(self._client.handle_message, message, context=self._process)

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._network.forget(self)
        if not (self._client.wire.is_dead or self._network.conditions.cut):
            self._loop.call_soon(self._client.on_close, 1006, context=self._process)

    # --- the client's end -------------------------------------------------------------------------------------------

    async def send_str(self, text: str) -> None:
        self._network.from_client(self, WSMsgType.TEXT, text)

    async def ping(self) -> None:
        self._network.from_client(self, WSMsgType.PING, b"")

    async def pong(self, data: bytes) -> None:
        self._network.from_client(self, WSMsgType.PONG, data)

    def hang_up(self) -> None:
        """End it from the client's side."""
        self.closed = True
        self._network.forget(self)


def split(frames: bytes) -> list[tuple[WSMsgType, bytes]]:
    """Take a server's frames apart (RFC 6455, 5.2: unmasked, final)."""
    kinds = {0x81: WSMsgType.TEXT, 0x88: WSMsgType.CLOSE, 0x89: WSMsgType.PING, 0x8A: WSMsgType.PONG}
    found, at = [], 0
    while at < len(frames):
        kind, size, head = kinds[frames[at]], frames[at + 1], at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, head = int.from_bytes(frames[head : head + width], "big"), head + width
        found.append((kind, frames[head : head + size]))
        at = head + size
    return found


class SimulatedClient(SturdyClient):
    """Our websocket client over a `Pipe`. Its pings count by the loop's time."""

    wire: SimulatedWire

    def create_connection(self, session: Any) -> Coroutine[Any, Any, Pipe]:
        return self.wire.network.dial(self)

    def receive_loop(self) -> None:
        """Nothing to do: frames that arrive are handed over."""

    async def ping_loop(self) -> None:
        """As ccxt's, by the clock of the loop."""
        loop = asyncio.get_running_loop()
        patience = self.keepAlive * self.maxPingPongMisses / 1000
        self.heard = loop.time()
        while not self.closed():
            await asyncio.sleep(self.keepAlive / 1000)
            if self.heard + patience < loop.time():
                self.on_error(RequestTimeout(f"Connection to {self.url} timed out: no pong"))
                return
            if not self.closed():
                await self.connection.ping()

    def handle_message(self, message: aiohttp.WSMessage) -> None:
        if message.type is WSMsgType.PONG:
            self.heard = self.asyncio_loop.time()
        super().handle_message(message)

    async def aiohttp_close(self) -> None:
        if self.ping_looper:
            self.ping_looper.cancel()
        if not self.closed():
            self.connection.hang_up()


class SimulatedWire(ccxt.pro.binanceusdm):  # type: ignore[misc]  # ccxt is untyped
    """What stands in aiohttp's place below `UsdmExchange`."""

    network: Network
    is_dead = False
    """Whether the engine's process has died: nothing goes out or comes in any more."""

    def open(self, lazy: bool = False) -> None:
        if lazy and self.closed_by_user:
            raise ccxt.ExchangeClosedByUser(f"{self.id} instance was closed by the user")
        self.closed_by_user = False
        self.asyncio_loop = asyncio.get_running_loop()

    async def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """As ccxt's, but for the connection: errors are raised, and answers read, as there."""
        asked = self.prepare_request_headers(headers)
        self.open(True)
        details = f"{self.id} {method} {url}"
        try:
            async with asyncio.timeout(self.timeout / 1000):
                status, got, text = await self.network.request(self, method, url, asked, body)
        except TimeoutError as error:
            raise RequestTimeout(details) from error
        except aiohttp.ClientConnectionError as error:
            raise ExchangeNotAvailable(details) from error
        answer = self.parse_json(text)
        self.handle_errors(status, "", url, method, got, text, answer, asked, body)
        self.handle_http_status_code(status, "", url, method, text)
        return text if answer is None else answer

    def client(self, url: str) -> SimulatedClient:
        self.open()
        if url not in self.clients:
            settings = {**self.streaming, "asyncio_loop": self.asyncio_loop, **self.options["ws"]}
            callbacks = (self.handle_message, self.on_error, self.on_close, self.on_connected)
            self.clients[url] = made = SimulatedClient(url, *callbacks, settings)
            made.wire = self
        return self.clients[url]  # type: ignore[no-any-return]


class SimulatedExchange(UsdmExchange, SimulatedWire):
    """Our ccxt subclass over the simulated network."""

    client = SimulatedWire.client


def connect_by(network: Network, clock: Callable[[], int], recv_window_ms: int) -> SimulatedExchange:
    """Make the engine's connection, as `connect` does."""
    credentials = Credentials("sim-key", "sim-secret")
    exchange = connect(ENDPOINT, credentials, clock, recv_window_ms, kind=SimulatedExchange)
    assert isinstance(exchange, SimulatedExchange)
    exchange.network = network
    exchange.clients = {}  # ccxt keeps them by class: each of our engines has its own
    return exchange
