"""The process that watches a check: when the check dies in any way or stands still, it cleans up after it.

It is started before the first order, in a session of its own, and gets account, names and a note of each order by one
end of a socket pair, which is its standard input. When that is closed without a last word, it does the same clean-up.
Where it is silent for `SILENT_S`, the check was stopped, or something blocks it: it is killed first.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from voltrade.background import background
from voltrade.engine.clocks import WallClock
from voltrade.engine.demo_check.cleanup import CleanUp, Terms
from voltrade.engine.demo_check.ending import ASK_FOR_THE_END
from voltrade.engine.demo_check.sent_orders import SentOrders, encoded
from voltrade.engine.demo_check.terminal import Terminal
from voltrade.errors import SessionError
from voltrade.exchange.binance import BinanceRestClient, Endpoint, connect
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.credentials import Credentials

READY, ALIVE, DONE = b"ready\n", b"\n", b"done\n"
"""First word of the watching process, the check's sign of life, and its last word."""
ALIVE_EACH_S, SILENT_S = 0.5, 5.0
"""How often the check gives a sign of life, and after how long without one it is killed."""
READY_WITHIN_S = 60.0
"""How long the process may take to import its modules."""
ENDS_WITHIN_S = 5.0
"""How long it may take to end once it isn't needed."""


class Watcher:
    """The check's end of the socket pair, and the process at the other."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process, self._line = process, line
        self._is_heard = True
        self._living: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_there(self) -> bool:
        """Whether the process lives, and has taken all that it was told."""
        return self._is_heard and self._process.poll() is None

    @classmethod
    async def start(cls, exchange: UsdmExchange, endpoint: Endpoint, terms: Terms) -> Watcher:
        """Start the process and wait until it is ready.

        Raises:
            SessionError: It is not.
        """
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "voltrade.engine.demo_check.watcher", str(SILENT_S)]
        with theirs:
            process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        watcher = cls(process, ours)
        ours.setblocking(False)
        account = {"key": exchange.apiKey, "secret": exchange.secret, "endpoint": asdict(endpoint)}
        watcher.tell({**account, "pid": os.getpid(), "terms": asdict(terms) | {"tick": str(terms.tick)}})
        if not await watcher._is_ready():
            watcher.close()
            raise SessionError("the process that would clean up after this one could not be started")
        # Without signs of life the second process ends this one and cleans up.
        watcher._living = background(watcher._live(), lambda error: None)
        return watcher

    async def _is_ready(self) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                return await asyncio.get_running_loop().sock_recv(self._line, len(READY)) == READY
        return False

    async def _live(self) -> None:
        """Give signs of life; close the line when the event loop ends."""
        try:
            while True:
                self._say(ALIVE)
                await asyncio.sleep(ALIVE_EACH_S)
        finally:
            self._line.close()

    def tell(self, note: Mapping[str, Any]) -> None:
        """Tell a note; it is in the socket when this returns, so that a check that is killed then has told it."""
        self._say(encoded(note))

    def _say(self, line: bytes) -> None:
        try:
            self._line.sendall(line)
        except OSError:  # it has died, or stands still itself
            self._is_heard = False

    async def dismiss(self) -> None:
        """Let the process end: nothing is left to clean up."""
        self._say(DONE)
        self.close()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, ENDS_WITHIN_S)

    def close(self) -> None:
        """Close the line; unless `dismiss` was called, the process cleans up then."""
        if self._living is not None:
            self._living.cancel()
        self._line.close()


# --- in the process ---------------------------------------------------------------------------------------------------


def heard(line: socket.socket, silent_s: float, on_silence: Callable[[], None]) -> Iterator[bytes]:
    """Yield the lines that come, until the other end is closed, or says nothing after it was silent for this long.

    Args:
        line: The end of the socket pair.
        silent_s: What counts as silence, s.
        on_silence: Called after each; the first time, what was sent before is still waited for.
    """
    line.settimeout(silent_s)
    silences, begun = 0, b""
    while silences < 2:
        try:
            data = line.recv(65_536)
        except TimeoutError:
            silences += 1
            on_silence()
            continue
        if not data:
            return
        *whole, begun = (begun + data).split(b"\n")
        yield from (each + b"\n" for each in whole)


def kill(pid: int | None) -> None:
    """Kill the check, unless it has died already."""
    if pid is not None and os.getppid() == pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def follow(lines: Iterable[bytes], hear: Callable[[dict[str, Any]], None]) -> bool:
    """Pass on notes to the end of the lines; return whether the last word was that all is done."""
    for line in lines:
        if line == DONE:
            return True
        if line == ALIVE:
            continue
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
    log.warning("clean-up: nothing of the check is left open" + (f"; left as it is: {others}" if others else ""))


def main(silent_s: float) -> int:
    """Watch the check at the other end of standard input; no signal but SIGKILL ends it."""
    for name in ASK_FOR_THE_END:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    sent, account = SentOrders(), dict[str, Any]()
    is_done = False
    with socket.socket(fileno=os.dup(0)) as line, suppress(OSError):
        lines = heard(line, silent_s, lambda: kill(account.get("pid")))
        account |= json.loads(next(lines, b"{}"))
        line.sendall(READY)
        is_done = follow(lines, sent.hear)
    if is_done or not sent.by_name:
        return 0
    with Terminal():
        logging.getLogger(__name__).warning("the check has died, or stood still: what it sent is cancelled and closed")
        asyncio.run(clean_up(account, sent))
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
