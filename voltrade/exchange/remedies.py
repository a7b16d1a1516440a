"""What a refusal or a failed request means for a person, and what to do: one table, by HTTP status, code and text.

The start-up table, `doctor`, `demo_check` and their notebooks all say it. What it means for an order is in `responses`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from voltrade.exchange.client import Response, UsdmExchange
from voltrade.exchange.proxies import without_password
from voltrade.exchange.responses import NO_ANSWER, NOT_SENT
from voltrade.model import moment_text

KEY_PAGE = "Binance: Account, API Management, Edit restrictions"
FUTURES_PREFERENCES = "Binance: Futures, Preferences"
KEY_CODES = frozenset({-1002, -1022, -2014, -2015, -2017})
"""Refusals of the key itself, whatever is asked."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One row of the table; empty codes, statuses or text match everything.

    Attributes:
        says: What has happened.
        wanted: What to do, in words that follow "must be"; `{host}`, `{keys}`, `{proxy}` and `{until}` are filled in.
        item: The row of the start-up table that it belongs to.
    """

    says: str
    wanted: str
    item: str = "exchange"
    codes: Collection[int] = ()
    statuses: Collection[int] = ()
    text: str = ""

    def matches(self, response: Response) -> bool:
        """Whether this row is about a response."""
        return (
            (not self.codes or response.code in self.codes)
            and (not self.statuses or response.status in self.statuses)
            and self.text in response.text
        )


_OPEN = "open for entries: {host} or its app says why it is not"
_REACHED = "reached: check the network of this machine, and HTTPS_PROXY where it needs a proxy (now {proxy})"
_ASKED_LATER = "asked again later: wait until {until}"
_LATER = "up: wait some minutes and start again; Binance's announcements tell of maintenance"

REMEDIES = (
    Remedy(
        "the secret does not belong to the key",
        "a key with its own secret, both copied whole from {keys}",
        "key",
        {-1022},
    ),
    Remedy(
        "the key is not accepted",
        f"one of {{keys}}, with Enable Futures and this machine's address in its list ({KEY_PAGE}); keys of the demo "
        "work on the demo only, keys of Binance on Binance only",
        "key",
        KEY_CODES,
    ),
    Remedy(
        "the request came too late: the machine's clock is behind, or the way to the exchange is slow",
        "within recv_window_ms: see the row clock; set the machine's clock by NTP, or use a faster connection",
        "clock",
        {-1021},
        text="recvWindow",
    ),
    Remedy("the machine's clock is wrong", "the exchange's time: set the machine's clock by NTP", "clock", {-1021}),
    Remedy(
        "the agreement of this contract is not signed",
        "one whose agreement is signed: open the symbol in Binance's app and accept it",
        "contract",
        {-4411},
    ),
    Remedy("the free balance is too small", "covered: deposit into the futures wallet", "wallet", {-2018}),
    Remedy(
        "the margin or its bracket is too small",
        "one that the margin allows: deposit, or -p capital LESS, less max_notional_multiple, or more leverage",
        "wallet",
        {-2019, -2027, -2028},
    ),
    Remedy("the account is in its cooling-off period", "out of it: Binance's app says until when", "account", {-4192}),
    Remedy(
        "the account may only reduce positions, or not trade at all",
        _OPEN,
        "account",
        {-2023, -4087, -4088, -4105, -4106, -4107, -4109, -4189, -4400, -4401, -4402},
    ),
    Remedy("the account is in hedge mode", "one-way; follows from the row position mode", "account", {-4061, -4062}),
    Remedy(
        "the symbol does not take entries now",
        "TRADING; follows from the row contract",
        "contract",
        {-1121, -1122, -4140, -4141, -4144},
    ),
    Remedy("the exchange is overloaded", "less busy: wait some minutes and start again", codes={-1008}),
    Remedy("this address asked too often and is banned", "no longer banned: wait until {until}", statuses={418}),
    Remedy("this address asked too often", _ASKED_LATER, statuses={429}),
    Remedy("this address asked too often", _ASKED_LATER, codes={-1003}),
    Remedy(
        "Binance does not serve this location",
        "used from where Binance offers futures; a proxy (now {proxy}) counts with its own location",
        statuses={451},
    ),
    Remedy(
        "a firewall before the exchange stopped the request",
        "used from a location that Binance serves, and asked less often: wait some minutes (proxy: {proxy})",
        codes={0},
        statuses={403},
    ),
    Remedy("the exchange is down or in maintenance", _LATER, codes={-1000, -1001, -1004, -1006, -1007, -1016}),
    Remedy("the exchange is down or in maintenance", _LATER, statuses={500, 502, 503, 504}),
    Remedy("the request is redirected, which is never followed", _REACHED, statuses=tuple(range(300, 400))),
    Remedy("the name {host} is not known to this machine", _REACHED, statuses={NOT_SENT}, text="DNSError"),
    Remedy("the proxy {proxy} does not let the request through", _REACHED, statuses={NOT_SENT}, text="HttpProxyError"),
    Remedy("the certificate of {host} is not trusted", _REACHED, statuses={NOT_SENT}, text="Certificate"),
    Remedy("there is no connection to {host}", _REACHED, statuses={NOT_SENT}),
    Remedy("there is no answer from {host}", _REACHED, statuses={NO_ANSWER}),
)
"""Rows in the order in which they are tried."""

UNNAMED = Remedy("", "accepted by the exchange")


def remedy_of(response: Response, exchange: UsdmExchange) -> Remedy:
    """Return what a failed request means, with the facts of its connection filled in."""
    found = next((row for row in REMEDIES if row.matches(response)), UNNAMED)
    address = exchange.urls["api"]["fapiPublic"]
    host = urlsplit(address).hostname or ""
    facts = {
        "host": host,
        "keys": keys_page(host),
        "proxy": without_password(exchange.proxy_to(address) or "") or "none",
        # The first whole second that is not before the end.
        "until": moment_text(exchange.blocked_until + 999) if exchange.blocked_until else "some minutes have passed",
    }
    return Remedy(found.says.format(**facts), found.wanted.format(**facts), found.item)


def keys_page(host: str) -> str:
    """Return where the keys of a host are made; a host of this machine is a simulated venue."""
    if host in ("127.0.0.1", "localhost"):
        return "the simulated venue (its --api-key and --api-secret)"
    is_demo = host.startswith("demo-") or host.endswith("binancefuture.com")
    return f"{'demo.binance.com' if is_demo else 'Binance'}, API Management ({host})"


def without_tags(text: str) -> str:
    """Return the words of an answer that may be a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split()) if text.lstrip().startswith("<") else text
