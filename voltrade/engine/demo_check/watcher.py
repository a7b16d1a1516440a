"""The process that watches a check: when the check dies in any way, such as by SIGKILL, it cleans up after it.

It is started before the first order, in a session of its own, and gets account, names and a note of each order by one
end of a socket pair, which is its standard input. When that is closed without a last word, it does the same clean-up.
It has the key from there too, so that nothing of it is in arguments or files.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from voltrade.engine.clocks import WallClock
from voltrade.engine.demo_check.cleanup import CleanUp, Terms
from voltrade.engine.demo_check.sent_orders import SentOrders, encoded
from voltrade.engine.demo_check.terminal import Terminal
from voltrade.errors import SessionError
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials

READY, DONE = b"ready\n", b"done\n"
"""First word of the watching process, and last one of the check."""
READY_WITHIN_S = 60.0
"""How long the process may take to import its modules."""
ENDS_WITHIN_S = 5.0
"""How long it may take to end once it isn't needed."""
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP")
"""Signals that don't end the process."""


class Watcher:
    """The check's end of the socket pair, and the process at the other."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process, self._line = process, line

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_there(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    @classmethod
    async def start(cls, exchange: UsdmExchange, endpoint: Endpoint, terms: Terms) -> Watcher:
        """Start the process and wait until it is ready.

        Raises:
            SessionError: It is not.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "voltrade.engine.demo_check.watcher"]
        with theirs:
            process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        watcher = cls(process, ours)
        ours.setblocking(False)
        account = {"key": exchange.apiKey, "secret": exchange.secret, "endpoint": asdict(endpoint)}
        watcher.tell({**account, "terms": asdict(terms) | {"tick": str(terms.tick)}})
        if not await watcher._is_ready():
            watcher.close()
            raise SessionError("the process that would clean up after this one could not be started")
        return watcher

    async def _is_ready(self) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                return await asyncio.get_running_loop().sock_recv(self._line, len(READY)) == READY
        return False

    def tell(self, note: Mapping[str, Any]) -> None:
        """Tell a note; it is in the socket when this returns, so that a check that is killed then has told it."""
        with suppress(OSError):
            self._line.sendall(encoded(note))

    async def dismiss(self) -> None:
        """Let the process end: nothing is left to clean up."""
        with suppress(OSError):
            self._line.sendall(DONE)
        self.close()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, ENDS_WITHIN_S)

    def close(self) -> None:
        """Close the line; unless `dismiss` was called, the process cleans up then."""
        self._line.close()


# --- in the process ---------------------------------------------------------------------------------------------------


def follow(lines: Iterable[bytes], hear: Callable[[dict[str, Any]], None]) -> bool:
    """Pass on notes to the end of the lines; return whether the last word was that all is done."""
    for line in lines:
        if line == DONE:
            return True
        with suppress(ValueError):  # the check was killed while it wrote
            hear(json.loads(line))
    return False


async def clean_up(account: Mapping[str, Any], sent: SentOrders) -> None:
    """Clean up after a check that has died."""
    terms = Terms(**{**account["terms"], "tick": Decimal(account["terms"]["tick"])})
    clock, endpoint = WallClock(), Endpoint(**account["endpoint"])
    exchange = connect(endpoint, Credentials(account["key"], account["secret"]), clock, terms.recv_window_ms)
    try:
        rest = BinanceRestClient(exchange, endpoint.name)
        await clock.sync(rest)
        for order in sent.by_name.values():
            order.sent = clock()  # not later than this, by a clock that may differ from the check's
        work = CleanUp(exchange, rest, terms, sent, letter="w")
        work.hint = f"; only `kill -KILL {os.getpid()}` ends this"
        await work.run()
        others = await work.attempt("unknown", work.of_others())
    finally:
        await exchange.close()
    log = logging.getLogger(__name__)
    log.warning("clean-up: nothing of the check is left open" + (f"; not the check's: {others}" if others else ""))


def main() -> int:
    """Watch the check at the other end of standard input."""
    for name in IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    sent, lines = SentOrders(), sys.stdin.buffer
    account = json.loads(lines.readline())
    with socket.socket(fileno=os.dup(0)) as line:
        line.sendall(READY)
    try:
        is_done = follow(lines, sent.hear)
    except OSError:
        is_done = False
    if is_done or not sent.by_name:
        return 0
    with Terminal():
        logging.getLogger(__name__).warning("the check has died: what it has sent is cancelled and closed")
        asyncio.run(clean_up(account, sent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
