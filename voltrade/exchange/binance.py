"""Binance USD-M Futures through ccxt: `connect` to an endpoint, then use `BinanceRestClient` and `BinanceWSManager`.

The same code talks to the simulated venue, to Binance's demo and to Binance; only the `Endpoint` differs. Nothing is
sent to another origin than the endpoint's, and redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from voltrade.errors import ConfigError
from voltrade.exchange.client import Clock, UsdmExchange
from voltrade.exchange.credentials import Credentials
from voltrade.exchange.rest import BinanceRestClient
from voltrade.exchange.streams import BinanceWSManager

__all__ = ["DEMO", "LIVE", "BinanceRestClient", "BinanceWSManager", "Endpoint", "connect", "endpoint_of", "exchange_of"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an exchange is: the base addresses of its REST and websocket paths, which are Binance's."""

    name: str
    rest: str
    stream: str
    rights: str = ""
    """Base address of the API that tells the rights of a key; empty where there is none."""

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


DEMO = Endpoint("demo", "https://demo-fapi.binance.com", "wss://demo-fstream.binance.com")
LIVE = Endpoint("live", "https://fapi.binance.com", "wss://fstream.binance.com", "https://api.binance.com")

HOSTS: Mapping[tuple[str, str], str] = {
    ("demo", "rest_host"): r"demo-fapi[a-z0-9-]*\.binance\.com|testnet\.binancefuture\.com",
    ("demo", "stream_host"): r"demo-fstream[a-z0-9-]*\.binance\.com|f?stream\.binancefuture\.com",
    ("live", "rest_host"): r"fapi[a-z0-9-]*\.binance\.com",
    ("live", "stream_host"): r"fstream[a-z0-9-]*\.binance\.com",
}
"""Hosts that a setting may name, as patterns: those of the mode, so that no key reaches a host of another kind."""

STREAM_HOSTS: Mapping[str, tuple[str, ...]] = {
    "demo": ("demo-fstream.binance.com", "fstream.binancefuture.com", "stream.binancefuture.com")
}
"""Hosts of an endpoint's websockets that are known by name; `demo_check` tells which of them carry events."""


def endpoint_of(base: Endpoint, rest_host: str = "", stream_host: str = "") -> Endpoint:
    """Return `DEMO` or `LIVE` with other hosts; an empty host keeps its own.

    Raises:
        ConfigError: a host is none of Binance's for this endpoint.
    """
    for name, host in (("rest_host", rest_host), ("stream_host", stream_host)):
        if host and not re.fullmatch(HOSTS[base.name, name], host):
            own = urlsplit(base.rest if name == "rest_host" else base.stream).hostname
            raise ConfigError(f"{name}: must be a host of Binance's for {base.name}, such as {own}, was {host}")
    rest = f"https://{rest_host}" if rest_host else base.rest
    return replace(base, rest=rest, stream=f"wss://{stream_host}" if stream_host else base.stream)


OPTIONS = {
    "fetchCurrencies": False,
    "watchTrades": {"name": "aggTrade"},
    "watchTradesForSymbols": {"name": "aggTrade"},
    "watchPositions": {"fetchPositionsSnapshot": False},
    "fetchOpenOrders": {"warnWithoutSymbol": False},
    "maxRetriesOnFailure": 0,
    "ws": {"keepAlive": 5_000, "maxPingPongMisses": 2, "cost": 1, "compress": 0},
}
"""ccxt's options, but for the time that a request may take to arrive."""


def exchange_of(endpoint: Endpoint) -> str:
    """Return the address that names an exchange in the names of its accounts, whichever of its hosts is used."""
    return {base.name: base.rest for base in (DEMO, LIVE)}.get(endpoint.name, endpoint.rest)


def connect(
    endpoint: Endpoint,
    credentials: Credentials | None,
    clock: Clock,
    recv_window_ms: int,
    timeout_ms: int = 5_000,
    kind: type[UsdmExchange] = UsdmExchange,
) -> UsdmExchange:
    """Return the client of an endpoint; nothing is sent yet.

    Args:
        endpoint: the simulated venue, `DEMO` or `LIVE`.
        credentials: None for public data only.
        clock: gives the timestamps of requests: of the system, or the venue's tape time in lockstep.
        recv_window_ms: how long after its timestamp a request may arrive.
        timeout_ms: how long a response may take, by the system clock.
        kind: a subclass with another transport, for tests.

    Raises:
        ConfigError: the environment names a proxy that can't be used.
    """
    exchange = kind(
        {
            "apiKey": credentials.key if credentials else "",
            "secret": credentials.secret if credentials else "",
            "enableRateLimit": False,
            "timeout": timeout_ms,
            "options": {"recvWindow": recv_window_ms, **OPTIONS},
        },
        clock,
    )
    versions = {"fapiPublic": 1, "fapiPublicV2": 2, "fapiPublicV3": 3}
    versions |= {name.replace("Public", "Private"): version for name, version in versions.items()}
    # Replaced completely: ccxt refuses to sign for an address that is not here, so no call can reach another product.
    exchange.urls["api"] = {
        **{name: f"{endpoint.rest}/fapi/v{version}" for name, version in versions.items()},
        "ws": {"linear": f"{endpoint.stream}/ws"},
    }
    if endpoint.rights:
        exchange.urls["api"]["sapi"] = f"{endpoint.rights}/sapi/v1"
    exchange.pin(filter(None, (endpoint.rest, endpoint.stream, endpoint.rights)))
    for line in credentials.secret.splitlines()[1:-1] if credentials else ():  # of a private key in PEM
        exchange.add_secret(line)
    if endpoint.rest.startswith("http:"):
        exchange.timeout_on_exit = 0  # close() need not wait for TLS connections to shut down
    return exchange
