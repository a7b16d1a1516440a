"""The addresses of notifications, and apprise's services behind them; imports nothing of the trading path.

Addresses contain tokens. They come from the environment or from a file that only its user can read, are never
parameters, and are not written to any file of a session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voltrade.exchange.credentials import read_private

ADDRESSES, ADDRESS_FILE = "VOLTRADE_NOTIFY", "VOLTRADE_NOTIFY_FILE"
"""Environment variables: apprise's addresses, separated by blanks; or the path of a 0600 file with one per line."""

_KIND = re.compile(r"([a-z0-9]{1,20})://")
"""The part of an address that may be shown: its service, before its secrets."""


def addresses(environment: Mapping[str, str]) -> list[str]:
    """Return the addresses in the environment.

    Raises:
        ConfigError: The file of addresses can't be read, or others can read it.
    """
    text = environment.get(ADDRESSES, "")
    if file := environment.get(ADDRESS_FILE, ""):
        lines = read_private(Path(file), ADDRESS_FILE).splitlines()
        text = " ".join([text, *(line for line in lines if not line.lstrip().startswith("#"))])
    return text.split()


def service_of(address: str) -> tuple[str, Any] | None:
    """Return the kind of an address, such as `tgram`, and its service; None where apprise doesn't know it."""
    # Imported here because it is slow, and most sessions have no address.
    import apprise

    # Apprise's own log may contain an address.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    asset = apprise.AppriseAsset(app_id="voltrade", async_mode=False, storage_mode="memory")
    service = apprise.Apprise(asset=asset)
    kind = _KIND.match(address)
    return (kind[1], service) if kind and service.add(address) else None


def deliver(service: Any, body: str, **options: str) -> bool:
    """Send a notification; return whether the service accepted it."""
    try:
        return bool(service.notify(body, body_format="text", **options))
    except Exception:  # a service's own code may fail in any way
        return False
