"""IP addresses are left out of what is stored: run files, logs, reports and notebooks are shared with others."""

from __future__ import annotations

import ipaddress
import re

_CANDIDATE = re.compile(r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*)(?!\w)")
"""What may be an IP address of either version."""


def without_addresses(text: str) -> str:
    """Replace IP addresses in a text by `***`, but for those of this machine itself, such as 127.0.0.1."""
    return _CANDIDATE.sub(lambda found: _hidden(found[0]), text)


def _hidden(found: str) -> str:
    named = found.rstrip(".:")
    try:
        address = ipaddress.ip_address(named)
    except ValueError:
        return found
    return found if address.is_loopback or address.is_unspecified else f"***{found[len(named) :]}"
