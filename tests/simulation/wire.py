"""The engine's end of the network: our ccxt subclass, with the simulated network where ccxt would call aiohttp.

Everything of it above the wire runs as it is, `fetch` and `handle_message` included.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import aiohttp
from aiohttp import WSMsgType

from simulation.network import Network, Pipe
from voltrade.exchange.binance import Endpoint, connect
from voltrade.exchange.ccxt_binance import binanceusdm, errors
from voltrade.exchange.client import ResilientClient, UsdmExchange
from voltrade.exchange.credentials import Credentials

ENDPOINT = Endpoint.simulated("http://127.0.0.1:1", "ws://127.0.0.1:1")
"""An address where nobody listens: nothing may ever go there."""


class SimulatedClient(ResilientClient):
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
                self.on_error(errors.RequestTimeout(f"Connection to {self.url} timed out: no pong"))
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


class SimulatedWire(binanceusdm):  # type: ignore[misc]  # ccxt is untyped
    """What stands in aiohttp's place below `UsdmExchange`.

    ccxt makes the description of its class anew for each instance, which needs an instance of another class, and gives
    all methods a second name each time. A session has several engines, each with one: here it is done once.
    """

    network: Network
    _described = b""
    _renamed: frozenset[str] = frozenset()
    """Methods that have a second name."""
    is_dead = False
    """Whether the engine's process has died: nothing goes out or comes in any more."""

    def describe(self) -> object:
        if not SimulatedWire._described:
            SimulatedWire._described = pickle.dumps(super().describe())
        return pickle.loads(SimulatedWire._described)  # an instance changes what it was described with

    def __dir__(self) -> Iterable[str]:
        return [name for name in super().__dir__() if name not in self._renamed]

    def open(self, lazy: bool = False) -> None:
        if lazy and self.closed_by_user:
            raise errors.ExchangeClosedByUser(f"{self.id} instance was closed by the user")
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
            raise errors.RequestTimeout(details) from error
        except aiohttp.ClientConnectionError as error:
            raise errors.ExchangeNotAvailable(details) from error
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
    if not exchange._renamed:
        names = exchange._camelcase_cache.items()
        SimulatedExchange._renamed = frozenset(name for name, other in names if other in vars(SimulatedExchange))
    exchange.network = network
    exchange.clients = {}  # ccxt keeps them by class: each of our engines has its own
    return exchange
