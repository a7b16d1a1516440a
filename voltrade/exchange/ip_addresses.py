"""IP addresses are left out of what is stored: run files, logs, reports and notebooks are shared with others."""

from __future__ import annotations

import ipaddress
import re

_ESCAPED = r"(?<=%[0-9a-fA-F]{2})|(?<=%25[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4})"
"""After a character that is escaped as in an address or in JSON, whose digits are no part of the IP address."""
_V4 = re.compile(rf"(?:(?<!\d)|{_ESCAPED})[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}(?!\d)")
_V6 = re.compile(
    rf"(?:(?<![\w.:%])|(?<=_)|(?<=\w:)|(?<=\\[nrt])|{_ESCAPED})"
    r"(?:[0-9a-fA-F]*(?::|%3[aA])){2,9}[0-9a-fA-F.]*(?!\w)"
)
"""What may be an IP address, whatever stands before it: a name with `:`, `_`, or an escaped character."""


def without_addresses(text: str) -> str:
    """Replace IP addresses in a text by `***`, but for those of this machine itself, such as 127.0.0.1."""
    return _V4.sub(lambda found: _hidden(found[0]), _V6.sub(lambda found: _hidden(found[0]), text))


def _hidden(found: str) -> str:
    """Return a text without the address that it is, or that follows its first colon."""
    before, colon, after = found.partition(":")
    for kept, named in (("", found), (before + colon, after)):
        plain = re.sub("%3a", ":", named, flags=re.IGNORECASE)
        for address in (plain, plain.rstrip("."), plain.rstrip(".:")):
            if (is_hidden := _hides(address)) is not None:
                return f"{kept}***{plain[len(address) :]}" if is_hidden else found
    return found


def _hides(named: str) -> bool | None:
    """Whether an address must be hidden; None if it is no address."""
    try:
        address = ipaddress.ip_address(named)
    except ValueError:
        return None
    return not (address.is_loopback or address.is_unspecified)
