"""Sends one notification, in a process of its own: `python -m voltrade.engine.guardian_notification TITLE TEXT`.

A guardian starts it where no engine lives that could tell. So it imports nothing of what may keep an engine from its
start.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from voltrade.engine.notification_addresses import addresses, deliver, service_of
from voltrade.errors import ConfigError

TRIES, AGAIN_S = 5, 5.0
"""How often an address is tried that doesn't accept it, and the first pause, which doubles."""


def main(arguments: Sequence[str]) -> int:
    """Send a text under a title to all addresses of the environment; return how many have not accepted it."""
    title, text = arguments
    try:
        found = [service_of(address) for address in addresses(os.environ)]
    except ConfigError as error:
        print(f"notifications: {error}", file=sys.stderr)
        return 1
    services = [each[1] for each in found if each is not None]
    for attempt in range(TRIES):
        services = [each for each in services if not deliver(each, text, title=title, notify_type="failure")]
        if not services or attempt == TRIES - 1:
            break
        time.sleep(AGAIN_S * 2**attempt)
    return len(services)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
