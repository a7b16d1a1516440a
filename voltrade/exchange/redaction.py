"""Removes secrets from what is shown or kept: answers, errors, logs, reports and records.

An answer may be made by a gateway that shows the request's own headers, in a page or as JSON in a text.
"""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from yarl import URL

from voltrade.exchange.ip_addresses import without_addresses

HIDDEN = "***"
LEAST_TOKEN = 8
"""A proxy's user name without a password is taken for a token from so many characters on; a shorter one is a name."""

_QUOTE = r"(?:\\|%5C)*(?:[\"']|&quot;|&#34;|&#x22;|%22)?"
_NAMED = re.compile(
    r"(signature|listenKey|accountAlias|apiKey|secretKey|X-MBX-APIKEY|authorization)"
    rf"({_QUOTE}\s*(?:[=:]|%3[AD])(?:\s|\+|%20)*\[?{_QUOTE}(?:(?:Basic|Bearer|Digest)\s+)?)"
    r"[\w.%/+~-]+=*",
    re.IGNORECASE,
)
"""A name, what stands between it and its value in any of the usual spellings, and the value."""


class Redaction:
    """The secrets that one connection knows, in every spelling that a request or an answer may have."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._spellings: list[str] = []

    def add(self, secret: str) -> None:
        """Add a text that must not be shown."""
        if secret and secret not in self._known:
            self._known.add(secret)
            new = _spellings(secret).difference(self._spellings)
            self._spellings = sorted([*self._spellings, *new], key=len, reverse=True)

    def add_proxy(self, proxy: str) -> None:
        """Add the password of a proxy's address, or its user name if that is a token, and the header made of it."""
        parts, url = urlsplit(proxy), URL(proxy)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if password:
            secrets = (parts.password or "", url.raw_password or "", password)
        elif len(user) >= LEAST_TOKEN:
            secrets = (parts.username or "", url.raw_user or "", user)
        else:
            return
        for secret in secrets:
            self.add(secret)
        for encoding in ("latin-1", "utf-8"):
            self.add(b64encode(f"{user}:{password}".encode(encoding, "replace")).decode())

    def clean(self, text: str) -> str:
        """Replace the secrets, what stands after the name of one, and IP addresses other than loopback by `***`."""
        for spelling in self._spellings:
            text = text.replace(spelling, HIDDEN)
        return without_addresses(_NAMED.sub(rf"\1\2{HIDDEN}", text))

    def cleaned(self, value: Any) -> Any:
        """Return plain values with every text in them cleaned."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, dict):
            return {key: self.cleaned(inner) for key, inner in value.items()}
        return [self.cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def _spellings(secret: str) -> set[str]:
    """Return how a text is spelled plainly, in an address, in JSON and in a page."""
    quoted = {quote(secret, safe=""), quote_plus(secret), quote(secret, safe="/"), quote(secret, safe="~!$&'()*+,;=")}
    quoted |= {quote(each, safe="") for each in quoted}  # an address within an address
    lower = {re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), each) for each in quoted}
    encoded = b64encode(secret.encode()).decode()
    # A private key in PEM may be shown on one line.
    plain = {secret, secret.replace("\n", "\\n"), secret.replace("\n", " ")}
    escaped = {json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1], html.escape(secret)}
    return {each for each in plain | quoted | lower | escaped | {encoded, encoded.rstrip("=")} if each}
