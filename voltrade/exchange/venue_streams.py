"""The websocket half of the simulated venue: who is connected, what they subscribed to, and the one listen key.

Sending never waits: a batch of events is framed and written at once, so events keep their order within a connection
and nothing can come between two steps of the tape.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import WSMsgType, web

from voltrade.exchange.venue_wire import Json

LISTEN_KEY_MS = 3_600_000
"""A listen key lives 60 minutes after its last renewal, by the venue's clock."""

BACKLOG_BYTES = 64 << 20
"""A client that leaves more than this unread is cut off."""

MARKET_STREAMS: Mapping[str, frozenset[str]] = {
    "market": frozenset({"aggTrade", "markPrice", "markPrice@1s"}),
    "public": frozenset({"bookTicker"}),
    "private": frozenset(),
    "": frozenset({"aggTrade", "markPrice", "markPrice@1s", "bookTicker"}),
}
"""Streams of a symbol by the category of the address; the old addresses without a category carry all."""


def text_frame(payload: bytes) -> bytes:
    """Frame a text message of a server: final, unmasked, uncompressed (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


@dataclass(eq=False, slots=True)
class Socket:
    """One websocket client and what it has subscribed to."""

    transport: asyncio.Transport
    category: str
    combined: bool
    names: set[str] = field(default_factory=set)
    """Streams, and listen keys for user data."""
    user_frames: int = 0
    """User data events sent so far."""
    carries_user_data: bool = False
    """Whether it has ever subscribed to a listen key."""

    def push(self, stream: str, payloads: Iterable[bytes]) -> None:
        """Send events of one stream, all in one write, without waiting."""
        if self.combined:
            head = b'{"stream":"' + stream.encode() + b'","data":'
            payloads = [head + payload + b"}" for payload in payloads]
        self.write(b"".join(map(text_frame, payloads)))

    def write(self, frames: bytes) -> None:
        if self.transport.get_write_buffer_size() > BACKLOG_BYTES:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.write(frames)


class Streams:
    """All websocket connections.

    Args:
        symbol: the one symbol whose streams exist.
        owner: text that makes this account's listen keys its own.
        ping_s: how often clients are pinged; None for never.
    """

    def __init__(self, symbol: str, owner: str, ping_s: float | None) -> None:
        self.sockets: list[Socket] = []
        self.listen_key = ""
        """The account's active key, empty without one."""
        self._expiry = 0
        self._keys_made = 0
        self._symbol, self._owner, self._ping_s = symbol.lower(), owner, ping_s

    # --- sending -----------------------------------------------------------------------------------------------------

    def listeners(self, kind: str) -> list[tuple[Socket, str]]:
        """Return who has subscribed to a stream of the symbol, such as `aggTrade`, and the stream's full name."""
        stream = f"{self._symbol}@{kind}"
        return [(socket, stream) for socket in self.sockets if stream in socket.names]

    def push(self, kind: str, events: Iterable[bytes]) -> None:
        """Send events of a market stream to whoever has subscribed."""
        for socket, stream in self.listeners(kind):
            socket.push(stream, events)

    def push_user(self, event: Json) -> None:
        """Send a user data event to the connections with the active listen key; without a key it is lost."""
        payload = orjson.dumps(event)
        for socket in self.sockets:
            if self.listen_key and self.listen_key in socket.names:
                socket.user_frames += 1
                socket.push(self.listen_key, [payload])

    @property
    def user_frames(self) -> int:
        """User data events sent on the newest connection that has carried any listen key."""
        return next((socket.user_frames for socket in reversed(self.sockets) if socket.carries_user_data), 0)

    # --- the listen key ----------------------------------------------------------------------------------------------

    def renew_listen_key(self, now: int) -> str:
        """Return the active key, a new one where there is none, and let it live an hour from `now`."""
        if not self.listen_key:
            self._keys_made += 1
            self.listen_key = hashlib.sha256(f"{self._owner}/{self._keys_made}".encode()).hexdigest()
        self._expiry = now + LISTEN_KEY_MS
        return self.listen_key

    def expire_listen_key(self, now: int) -> None:
        """Tell of the key's end if its hour is over; its connections stay open and silent."""
        if self.listen_key and now >= self._expiry:
            self.push_user({"e": "listenKeyExpired", "E": self._expiry, "listenKey": self.listen_key})
            self.forget_listen_key()

    def forget_listen_key(self) -> None:
        for socket in self.sockets:
            socket.names.discard(self.listen_key)
        self.listen_key = ""

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request, category: str, combined: bool) -> web.WebSocketResponse:
        """Serve a market or user data connection, in each of the forms that Binance's clients dial.

        `/ws/NAME` and `/market/ws/NAME` name a stream; ccxt numbers its connections there, which means nothing. A
        listen key stands in the path, in `?listenKey=`, or comes by SUBSCRIBE; an unknown one leaves the socket silent.

        Args:
            request: the handshake.
            category: `market`, `public`, `private`, or empty at the old addresses, which carry all.
            combined: whether events come wrapped with their stream's name, as at `/stream`.
        """
        ws = web.WebSocketResponse(compress=False, heartbeat=self._ping_s)
        await ws.prepare(request)
        assert request.transport is not None
        socket = Socket(request.transport, category, combined)
        asked = [request.match_info.get("name", ""), request.query.get("listenKey", "")]
        asked += request.query.get("streams", "").split("/")
        self._subscribe(socket, [name for name in asked if self._is_stream(socket, name)])
        self.sockets.append(socket)
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    socket.write(text_frame(orjson.dumps(self._control(socket, message.data))))
        finally:
            self.sockets.remove(socket)
        return ws

    def _control(self, socket: Socket, text: str) -> Json:
        """Carry out SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS; the id is echoed as it came."""
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            return {"error": {"code": 3, "msg": "Invalid JSON: expected value"}, "id": None}
        match message:
            case {"method": "SUBSCRIBE", "params": [*names]}:
                unknown = [name for name in names if not self._is_stream(socket, str(name))]
                if not unknown:
                    self._subscribe(socket, names)
                    return {"result": None, "id": message.get("id")}
                problem = f"unknown stream {unknown[0]}"
            case {"method": "UNSUBSCRIBE", "params": [*names]}:
                socket.names.difference_update(map(str, names))
                return {"result": None, "id": message.get("id")}
            case {"method": "LIST_SUBSCRIPTIONS"}:
                return {"result": sorted(socket.names), "id": message.get("id")}
            case _:
                problem = "unknown method or params"
        identity = message.get("id") if isinstance(message, dict) else None
        return {"error": {"code": 2, "msg": f"Invalid request: {problem}"}, "id": identity}

    def _is_stream(self, socket: Socket, name: str) -> bool:
        """Whether a stream of this name exists at the socket's address."""
        symbol, _, kind = name.partition("@")
        if symbol == self._symbol:
            return kind in MARKET_STREAMS[socket.category]
        return bool(self.listen_key) and name == self.listen_key and socket.category in ("", "private")

    def _subscribe(self, socket: Socket, names: Sequence[str]) -> None:
        socket.names.update(names)
        socket.carries_user_data |= self.listen_key in names
