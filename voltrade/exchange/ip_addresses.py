"""IP addresses are left out of what is stored: run files, logs, reports and notebooks are shared with others."""

from __future__ import annotations

import ipaddress
import re

_ESCAPED = r"(?<=%[0-9a-fA-F]{2})|(?<=%25[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4})|(?<=\\x[0-9a-fA-F]{2})"
"""After a character that is escaped as in an address or in JSON, whose digits are no part of the IP address."""
_COLON, _DOT = r"(?::|%(?:25)?3[aA])", r"(?:\.|%(?:25)?2[eE])"
"""A colon and a dot, plain or escaped once or twice as in an address."""
_V4 = re.compile(rf"(?:(?<!\d)|{_ESCAPED})[0-9]{{1,3}}(?:{_DOT}[0-9]{{1,3}}){{3}}(?!\d)")
_NAME = re.compile(r"(?<=\bip-)[0-9]{1,3}(?:-[0-9]{1,3}){3}(?![0-9-])")
"""An IP address as a cloud's host is named: ip-203-0-113-7."""
_V6 = re.compile(
    rf"(?:(?<![\w.:%])|(?<=_)|(?<=\w:)|(?<=\\[nrt])|{_ESCAPED})(?:[0-9a-fA-F]*{_COLON}){{2,9}}[0-9a-fA-F.]*(?![^\W_])"
)
"""What may be an IP address, whatever stands before it: a name with `:`, `_`, or an escaped character."""


def without_addresses(text: str) -> str:
    """Replace IP addresses in a text by `***`, but for those of this machine itself, such as 127.0.0.1."""
    for form in (_V6, _V4, _NAME):
        text = form.sub(lambda found: _hidden(found[0]), text)
    return text


def _hidden(found: str) -> str:
    """Return a text without the address that it is, that follows its first colon, or that a port follows."""
    before, colon, after = found.partition(":")
    named_or_port = [(before + colon, after), ("", found.rpartition(":")[0])]
    for kept, named in [("", found), *(named_or_port[::-1] if len(before) == 4 else named_or_port)]:
        plain = re.sub(_DOT, ".", re.sub(_COLON, ":", named))
        rest = found[len(named) :] if not kept else ""
        for address in (plain, plain.rstrip("."), plain.rstrip(".:")):
            if (is_hidden := _hides(address)) is not None:
                return f"{kept}***{plain[len(address) :]}{rest}" if is_hidden else found
    return found


def _hides(named: str) -> bool | None:
    """Whether an address must be hidden; None if it is no address. Zeros may lead the numbers of an IPv4 address."""
    numbers = named.replace("-", ".").split(".")
    try:
        address = ipaddress.ip_address(named if ":" in named else ".".join(f"{int(number)}" for number in numbers))
    except ValueError:
        return None
    return not (address.is_loopback or address.is_unspecified)
