"""The websockets of the simulated venue: connections, subscriptions, and the listen key.

Sending never waits: a batch of events is framed and written at once, so events keep their order within a connection and
nothing happens between two steps of the tape. Connections use the system clock (pings, pongs, age), the listen key uses
the venue's.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import WSMsgType, web

from voltrade.model import NEVER
from voltrade.simulated.refusals import refuse_if
from voltrade.venue.market_data import KLINES
from voltrade.venue.messages import Json

LISTEN_KEY_MS = 3_600_000
"""A listen key is valid for 60 minutes after its last renewal, by the venue's clock."""

PING_S, PONG_S, LIFE_S = 180.0, 600.0, 86_400.0
"""At speed 1 a client is pinged every 3 minutes, and disconnected 10 minutes after its last pong or after 24 hours."""

MAX_MESSAGES, MAX_STREAMS = 10, 1024
"""Most messages of a client per second, including pings and pongs, and most streams of a connection."""

BACKLOG_BYTES = 64 << 20
"""A client with more unread bytes is disconnected."""

_MARKET = frozenset({"aggTrade", "markPrice", "markPrice@1s", *KLINES})
MARKET_STREAMS: Mapping[str, frozenset[str]] = {
    **{"market": _MARKET, "public": frozenset({"bookTicker"}), "private": frozenset()},
    "": _MARKET | {"bookTicker"},
}
"""Streams of a symbol by the category of the address; the old addresses without a category have all."""

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First byte of a frame: FIN and opcode (RFC 6455, 5.2)."""


class Binary(bytes):
    """An event that is sent in a binary frame, which Binance never does."""


def frame(kind: int, payload: bytes) -> bytes:
    """Return a server's frame, unmasked and uncompressed."""
    size = len(payload)
    if size < 126:
        return bytes((kind, size)) + payload
    if size < 65_536:
        return bytes((kind, 126)) + size.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + size.to_bytes(8, "big") + payload


def key_expired(time: int, key: str) -> Json:
    """Return the event that a listen key has expired."""
    return {"e": "listenKeyExpired", "E": time, "listenKey": key}


@dataclass(eq=False, slots=True)
class Socket:
    """A websocket connection and its subscriptions."""

    transport: asyncio.Transport
    category: str
    combined: bool
    opened: float
    """Time of the handshake by the system clock, s."""
    only: frozenset[str] = frozenset()
    """Kinds of user events that were asked for; empty for all."""
    names: set[str] = field(default_factory=set)
    """Names of streams, and listen keys for user data."""
    user_frames: int = 0
    """User data events sent so far."""
    carries_user_data: bool = False
    """Whether it has subscribed to a listen key at any time."""
    last_ping: float = 0.0
    last_pong: float = 0.0
    """Times of our last ping and its last pong by the system clock, s."""
    second: int = 0
    messages: int = 0
    """Number of messages received in this second of the system clock."""
    is_dead: bool = False
    """Whether the connection is open but sends nothing, for faults."""

    def __post_init__(self) -> None:
        self.last_ping = self.last_pong = self.opened

    def push(self, stream: str, payloads: Iterable[bytes]) -> None:
        """Send events of one stream in one write, without waiting."""
        head = b'{"stream":"' + stream.encode() + b'","data":' if self.combined else b""
        kinds = ((BINARY if isinstance(payload, Binary) else TEXT, payload) for payload in payloads)
        self.write(b"".join(frame(kind, head + payload + b"}" if head else payload) for kind, payload in kinds))

    def write(self, frames: bytes) -> None:
        if self.transport.get_write_buffer_size() > BACKLOG_BYTES:
            self.transport.abort()
        elif not (self.is_dead or self.transport.is_closing()):
            self.transport.write(frames)

    def close(self, code: int) -> None:
        """Send a close frame and close the connection."""
        self.write(frame(CLOSE, code.to_bytes(2, "big")))
        self.transport.close()

    def exceeds_limit(self, now: float) -> bool:
        """Count a received message; return whether this second has had too many."""
        self.messages = self.messages + 1 if int(now) == self.second else 1
        self.second = int(now)
        return self.messages > MAX_MESSAGES


class Streams:
    """All websocket connections to the streams of some symbols.

    Args:
        symbols: symbols with streams.
        owner: identifies the account; listen keys are derived from it.
        wall: the clock of the connections, s.

    Attributes:
        listen_key: the account's active key, or empty.
        is_unreachable: whether new connections are cut at once, for faults.
    """

    def __init__(self, symbols: Iterable[str], owner: str, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.sockets: list[Socket] = []
        self.listen_key = ""
        self.is_unreachable = False
        self._expiry = 0
        self._keys_made = 0
        self._symbols, self._owner = frozenset(symbol.lower() for symbol in symbols), owner

    def kinds(self, symbol: str) -> set[str]:
        """Return the streams of a symbol with subscribers, such as `aggTrade`."""
        head = f"{symbol.lower()}@"
        return {name[len(head) :] for socket in self.sockets for name in socket.names if name.startswith(head)}

    def push(self, symbol: str, kind: str, events: list[bytes]) -> None:
        """Send events of a market stream to its subscribers."""
        stream = f"{symbol.lower()}@{kind}"
        for socket in self.sockets:
            if stream in socket.names:
                socket.push(stream, events)

    def push_user(self, kind: str, events: list[bytes]) -> None:
        """Send user data events of a kind to the connections with the active listen key, if there are any."""
        for socket in self.sockets:
            if self.listen_key in socket.names and kind in (socket.only or (kind,)):
                socket.user_frames += len(events)
                socket.push(self.listen_key, events)

    @property
    def user_frames(self) -> int:
        """Number of user data events sent on the newest connection with a listen key."""
        return next((socket.user_frames for socket in reversed(self.sockets) if socket.carries_user_data), 0)

    def check_connections(self, now: float) -> None:
        """Ping connections, and close those that are old or do not answer; `now` is by the system clock, s."""
        for socket in self._open_sockets():
            if now - socket.opened >= LIFE_S:
                socket.close(1001)
            elif now - socket.last_pong >= PONG_S:
                socket.transport.abort()
            elif now - socket.last_ping >= PING_S:
                socket.last_ping = now
                socket.write(frame(PING, str(int(now * 1000)).encode()))

    def _open_sockets(self) -> list[Socket]:
        """Return the connections that are not being closed: those are neither pinged nor closed again."""
        return [socket for socket in self.sockets if not socket.transport.is_closing()]

    def renew_listen_key(self, now: int, *, only_active: bool = False) -> str:
        """Renew the active key, or create one, unless `only_active` (-1125); return it."""
        if not self.listen_key:
            refuse_if(only_active, -1125)
            self._keys_made += 1
            self.listen_key = hashlib.sha256(f"{self._owner}/{self._keys_made}".encode()).hexdigest()
        self._expiry = now + LISTEN_KEY_MS
        return self.listen_key

    def replace_listen_key(self, now: int) -> None:
        """Make another key the active one; connections with the old one stay open without events."""
        self.forget_listen_key()
        self.renew_listen_key(now)

    def expire_listen_key(self, now: int, *, early: bool = False, told: bool = True) -> None:
        """Expire the key if its time is over (or `early`); its connections stay open without events."""
        if self.listen_key and (early or now >= self._expiry):
            end = now if early else self._expiry
            if told:
                self.push_user("listenKeyExpired", [orjson.dumps(key_expired(end, self.listen_key))])
            self.forget_listen_key()

    def next_due(self) -> int:
        """Return when a listen key expires or a connection is to be pinged next, ms."""
        pings = [int((socket.last_ping + PING_S) * 1000) for socket in self._open_sockets()]
        return min([self._expiry if self.listen_key else NEVER, *pings])

    def forget_listen_key(self) -> None:
        for socket in self.sockets:
            socket.names.discard(self.listen_key)
        self.listen_key = ""

    async def serve(self, request: web.BaseRequest, category: str, name: str, combined: bool) -> web.WebSocketResponse:
        """Serve a market or user data connection at any address that Binance's clients use.

        `/ws/NAME` and `/market/ws/NAME` name a stream; ccxt's connection numbers there are ignored. A listen key is in
        the path, in `?listenKey=`, or in a SUBSCRIBE message; an unknown one gives no events. At `/stream` events are
        wrapped with the name of their stream (`combined`).
        """
        ws = web.WebSocketResponse(compress=False, autoping=False)
        await ws.prepare(request)
        assert request.transport is not None
        socket = self.accept(request.transport, category, name, combined, request.query)
        try:
            async for message in ws:
                self.receive(socket, message.type, message.data)
        finally:
            self.sockets.remove(socket)
        return ws

    def accept(
        self, transport: asyncio.Transport, category: str, name: str, combined: bool, query: Mapping[str, str]
    ) -> Socket:
        """Add a connection after its handshake, with the streams in its address."""
        only = frozenset(filter(None, query.get("events", "").split("/")))
        socket = Socket(transport, category, combined, self._wall(), only)
        for asked in (name, query.get("listenKey", ""), *query.get("streams", "").split("/")):
            self._subscribe(socket, [asked])
        self.sockets.append(socket)
        if self.is_unreachable:
            transport.abort()
        return socket

    def receive(self, socket: Socket, kind: WSMsgType, data: str | bytes) -> None:
        """Handle a message of a client."""
        now = self._wall()
        if socket.exceeds_limit(now):
            socket.close(1008)
        elif kind is WSMsgType.TEXT:
            socket.write(frame(TEXT, orjson.dumps(self._control(socket, data))))
        elif kind is WSMsgType.PING:
            socket.write(frame(PONG, bytes(data)))  # type: ignore[arg-type]
        elif kind is WSMsgType.PONG:
            socket.last_pong = now

    def _control(self, socket: Socket, text: str | bytes) -> Json:
        """Handle SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS; the reply has the id of the message."""
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            return {"error": {"code": 3, "msg": "Invalid JSON: expected value"}, "id": None}
        problem, result = "", None
        match message:
            case {"method": "SUBSCRIBE", "params": [*names]}:
                problem = self._subscribe(socket, [*map(str, names)])
            case {"method": "UNSUBSCRIBE", "params": [*names]}:
                socket.names.difference_update(map(str, names))
            case {"method": "LIST_SUBSCRIPTIONS"}:
                result = sorted(socket.names)
            case _:
                problem = "unknown method or params"
        reply = {"error": {"code": 2, "msg": f"Invalid request: {problem}"}} if problem else {"result": result}
        return {**reply, "id": message.get("id") if isinstance(message, dict) else None}

    def _is_stream(self, socket: Socket, name: str) -> bool:
        """Whether a stream with this name exists at the address of a connection."""
        symbol, _, kind = name.partition("@")
        if symbol in self._symbols:
            return kind in MARKET_STREAMS[socket.category]
        return bool(self.listen_key) and name == self.listen_key and socket.category in ("", "private")

    def _subscribe(self, socket: Socket, names: Sequence[str]) -> str:
        """Subscribe to all of these streams, or to none and return the reason."""
        if unknown := [name for name in names if not self._is_stream(socket, name)]:
            return f"unknown stream {unknown[0]}"
        if len(socket.names.union(names)) > MAX_STREAMS:
            return f"more than {MAX_STREAMS} streams"
        socket.names.update(names)
        socket.carries_user_data |= self.listen_key in names
        return ""
