"""The HTTP proxy between this machine and Binance, by the environment variables that other programs use too.

One rule for whatever connects: trading's requests and websockets, the check's, and the download of history.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from voltrade.errors import ConfigError

VARIABLES = ("HTTPS_PROXY", "ALL_PROXY")
"""Variables that name a proxy, the first that is set counts; in lower case too. NO_PROXY lists hosts without one."""


def proxy_of(address: str) -> str:
    """Return the proxy for the address of a connection; empty for none.

    An address without TLS is a simulated venue on this machine, which needs no proxy.

    Raises:
        ConfigError: The proxy is not an `http://` one, such as a SOCKS proxy; the error does not show its password.
    """
    proxies = getproxies_environment()
    parts = urlsplit(address)
    if parts.scheme not in ("https", "wss") or proxy_bypass_environment(parts.hostname or "", proxies):
        return ""
    name = next((name for name in VARIABLES if proxies.get(name.partition("_")[0].lower())), "")
    proxy = proxies[name.partition("_")[0].lower()] if name else ""
    if proxy and urlsplit(proxy).scheme != "http":
        raise ConfigError(f"{name}: must be a proxy such as http://host:port, was {without_password(proxy)}")
    return proxy


def without_password(proxy: str) -> str:
    """Return a proxy's address without user name and password."""
    scheme, separator, rest = proxy.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else proxy.rpartition("@")[2]
