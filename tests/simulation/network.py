"""The network between engine and venue, without sockets: requests and frames travel with latencies, and get lost.

The engine's end is `wire.SimulatedWire`; the venue's is its own request handler and its own streams. What has left one
end arrives at the other, whatever becomes of the sender meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import re
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from aiohttp import WSMsgType
from multidict import CIMultiDict

from simulation.altering import Conditions, Given, given
from simulation.clock import VirtualLoop
from simulation.evidence import Request
from voltrade.venue.requests import Params
from voltrade.venue.server import SOCKET, Venue
from voltrade.venue.streams import Socket

LATENCY_S = (0.004, 0.020)
"""Of a packet one way, evenly drawn."""
DIAL_S = 0.03
BANNED = re.compile("banned until ([0-9]{13})")
NOBODY: Given = (0, CIMultiDict(), "")
"""What comes where nobody answers."""


class Wire(Protocol):
    """The engine's end; `is_dead` where its process has died: nothing goes out or comes in any more."""

    is_dead: bool


class Client(Protocol):
    """The engine's end of a websocket."""

    url: str
    wire: Wire

    def handle_message(self, message: aiohttp.WSMessage) -> None: ...

    def on_close(self, code: int) -> None: ...


class Network:
    """Carries what engine and venue send each other.

    Args:
        draw: chance of the latencies.
        is_durable: whether an order's intent can be read from the journal's file, by its client id.
        latency_s: shortest and longest time of a packet, one way.

    Attributes:
        on_packet: called before the engine's packets leave and after the venue's arrive, with what they are; a plan
            may kill the engine there.
        on_event: called with each event that the venue is about to tell, before a fault keeps it back.
        conditions: what is wrong just now.
        hung_up: websockets that an engine closed, or learnt to be closed: (time, URL).
        dials: websockets that were opened: (time, URL); and `undialled`, those that nobody took.
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
        self.dials: list[tuple[int, str]] = []
        self.hung_up: list[tuple[int, str]] = []
        self.undialled: list[tuple[int, str]] = []
        self.on_packet: Callable[[str], None] = lambda what: None
        self.on_event: Callable[[str], None] = lambda what: None
        self.wake: Callable[[], None] = lambda: None
        self._loop, self._venue, self._draw, self._is_durable = loop, venue, draw, is_durable
        self._latency_s = latency_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outside = contextvars.copy_context()
        """The network is no part of any engine's process."""
        self._tell, venue.faults.on_event = venue.faults.on_event, self._on_event  # type: ignore[method-assign]

    def latency(self) -> float:
        return self._draw.uniform(*self._latency_s) + sum(self.conditions.slow_s)

    def go_on(self, task: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something happen at the venue's end or on the way, whoever has stopped waiting for it."""
        running = self._loop.create_task(task, context=self._outside)
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
        return running

    def _on_event(self, what: str, events: list[bytes], send: Callable[[list[bytes]], object]) -> None:
        self.on_event(what)
        self._tell(what, self.conditions.retold(what, events), send)

    # --- REST -------------------------------------------------------------------------------------------------------

    async def request(self, wire: Wire, method: str, url: str, headers: Any, body: str) -> Given:
        """Send a request and wait for its answer.

        Raises:
            aiohttp.ClientConnectionError: nobody could be reached, or the connection was lost.
        """
        asked = _Asked(method, url, headers, body)
        if not wire.is_dead:
            self.on_packet(f"send {asked.what}")
        if wire.is_dead:
            await asyncio.sleep(self.latency())
            raise _refused()
        answer: asyncio.Future[Given] = self._loop.create_future()
        self.go_on(self._carry(wire, asked, answer))
        self.on_packet(f"sent {asked.what}")
        return await answer

    async def _carry(self, wire: Wire, asked: _Asked, answer: asyncio.Future[Given]) -> None:
        """Carry a request to the venue and its answer back, and note both."""
        sent, arrived, got = self._loop.now_ms, -1, -1
        durable, (status, headers, text) = True, NOBODY
        try:
            await asyncio.sleep(self.latency())
            if self.conditions.cut:
                return  # lost on its way; the client's own patience ends it
            arrived = self._loop.now_ms
            durable = not asked.places or self._is_durable(asked.client_id)
            answered = await self._answered(asked)
            await asyncio.sleep(self.latency())
            if self.conditions.cut or wire.is_dead:
                return
            got = self._loop.now_ms
            if asked.transport.is_lost:
                _end(answer, aiohttp.ServerDisconnectedError())
                return
            status, headers, text = answered
            self.on_packet(f"answer {asked.what}")
            _end(answer, answered)
        finally:
            told = (status, _code(status, text), _retry_after_s(headers, text, got))
            weight = int(headers.get("X-MBX-USED-WEIGHT-1M", -1))
            facts = (asked.method, asked.path, asked.client_id)
            self.requests.append(Request(sent, arrived, got, *facts, *told, weight, durable))

    async def _answered(self, asked: _Asked) -> Given:
        """Return the venue's answer, or what is answered in its place."""
        answerings = self.conditions.answerings_for(asked.whole)
        answer = NOBODY
        if not any(each.asks_nobody for each in answerings):
            answer = given(await self._venue._rest(asked))  # type: ignore[arg-type]
            self.wake()
        for answering in answerings:
            answer = answering.instead_of(answer)
        return answer

    # --- websockets -------------------------------------------------------------------------------------------------

    async def dial(self, client: Client) -> Pipe:
        """Open a websocket.

        Raises:
            aiohttp.ClientConnectionError: nobody could be reached.
        """
        parts = urlsplit(client.url)
        found = SOCKET.fullmatch(parts.path)
        assert found is not None, client.url
        category, kind, name = found.groups("")
        if not client.wire.is_dead:
            self.on_packet(f"dial {category}")
        await asyncio.sleep(DIAL_S + self.latency())
        if client.wire.is_dead:
            raise _refused()
        if self.conditions.cut or category in self.conditions.undialable:
            self.undialled.append((self._loop.now_ms, client.url))
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


def _end(answer: asyncio.Future[Given], result: Given | Exception) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _refused() -> aiohttp.ClientConnectorError:
    key: Any = SimpleNamespace(host="127.0.0.1", port=1, is_ssl=False, ssl=None)
    return aiohttp.ClientConnectorError(key, OSError(111, "connection refused"))


def _code(status: int, text: str) -> int:
    """Return the code of a refusal, 0 without one."""
    head = text.find('"code":') if status != 200 else -1
    digits = text[head + 7 :].split(",")[0].strip("} ") if head >= 0 else ""
    return int(digits) if digits.lstrip("-").isdigit() else 0


def _retry_after_s(headers: Any, text: str, now: int) -> int:
    """Return for how many whole seconds an answer forbids requests, by its head or its text, -1 for less than one; 0
    without either."""
    banned = BANNED.search(text)
    until_s = max(0, int(banned[1]) - now) // 1000 or -1 if banned else 0
    return int(headers.get("Retry-After", until_s))


class _Link:
    """A request's connection, as far as the venue touches it."""

    def __init__(self) -> None:
        self.is_lost = False

    def abort(self) -> None:
        self.is_lost = True


class _Asked:
    """A request as the venue's handler reads it.

    Attributes:
        what: method and path; `whole` has its parameters too.
        places: whether it asks for a new order.
        client_id: of the order that it is about, empty without one.
    """

    def __init__(self, method: str, url: str, headers: Any, body: str) -> None:
        parts = urlsplit(url)
        self.method, self.path = method, parts.path
        self.raw_path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.headers = CIMultiDict(headers or {})
        self.transport = _Link()
        self._body = body or ""
        self.what, self.whole = f"{method} {self.path}", f"{method} {self.raw_path} {self._body}"
        self.places = method == "POST" and self.path in ("/fapi/v1/order", "/fapi/v1/algoOrder")
        params = Params(parts.query, self._body) if "lient" in self.whole else {}
        names = ("newClientOrderId", "clientAlgoId", "origClientOrderId")
        self.client_id = next((params.get(name) for name in names if params.get(name)), "")

    async def text(self) -> str:
        return self._body


class Pipe:
    """One websocket: to the venue a transport that it writes frames to, to ccxt's client a connection.

    Frames arrive in order, each after a latency of its own. A frame that arrives is handed to the client's
    `handle_message`, as its receive loop would.
    """

    def __init__(self, network: Network, client: Client, category: str) -> None:
        self.closed = False
        self.category = category
        self.socket: Socket
        self._process = contextvars.copy_context()
        self.client = client
        self._network = network
        self._loop = network._loop
        self._last = 0.0
        self._closing = False

    # --- the venue's end --------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        for kind, payload in split(frames):
            if kind not in (WSMsgType.TEXT, WSMsgType.BINARY) or self.category not in self._network.conditions.deaf:
                self._send(kind, payload)

    def tell(self, text: str) -> None:
        """Bring the client a message."""
        self._send(WSMsgType.TEXT, text.encode())

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
        late = sum(network.conditions.user_late_s) if self.category == "private" else 0.0
        self._last = max(self._last, self._loop.time() + network.latency() + late)
        self._loop.call_at(self._last, act, *args, context=network._outside)

    def _arrive(self, kind: WSMsgType, payload: bytes) -> None:
        network = self._network
        if self.closed or network.conditions.cut or self.client.wire.is_dead:
            return
        network.on_packet(f"frame {self.category}")
        if kind is WSMsgType.CLOSE:
            self.closed = True
            network.forget(self)
            data: Any = int.from_bytes(payload[:2], "big")
        else:
            data = payload.decode(errors="replace") if kind is WSMsgType.TEXT else payload
        # Taken by the engine's process when that runs.
        if kind is WSMsgType.CLOSE:
            self._loop.call_soon(self._note_end, context=self._process)
        message = aiohttp.WSMessage(kind, data, None)
        self._loop.call_soon(self.client.handle_message, message, context=self._process)

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._network.forget(self)
        if not (self.client.wire.is_dead or self._network.conditions.cut):
            self._loop.call_soon(self._note_end, context=self._process)
            self._loop.call_soon(self.client.on_close, 1006, context=self._process)

    def _note_end(self) -> None:
        self._network.hung_up.append((self._loop.now_ms, self.client.url))

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
        self._note_end()
        self._network.forget(self)


def split(frames: bytes) -> list[tuple[WSMsgType, bytes]]:
    """Take a server's frames apart (RFC 6455, 5.2: unmasked, final)."""
    kinds = {
        0x81: WSMsgType.TEXT,
        0x82: WSMsgType.BINARY,
        0x88: WSMsgType.CLOSE,
        0x89: WSMsgType.PING,
        0x8A: WSMsgType.PONG,
    }
    found, at = [], 0
    while at < len(frames):
        kind, size, head = kinds[frames[at]], frames[at + 1], at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, head = int.from_bytes(frames[head : head + width], "big"), head + width
        found.append((kind, frames[head : head + size]))
        at = head + size
    return found
