"""The engine's side of its guardian: signs of life, and what happens when the guardian is gone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from voltrade.compiled import is_compiling
from voltrade.engine.guardian import GUARDIAN
from voltrade.errors import ConfigError, ExchangeError, SessionError, VoltradeError
from voltrade.runs.account_lock import AccountInUse

EVERY_S = 0.5
GUARDIAN_TIMEOUT_S = 15.0
"""A guardian that answers no sign of life for so long counts as lost; the end of its process is noticed at once."""
BUSY_S = 600.0
"""How long the event loop may stand still while the engine starts, compiles or ends, if it doesn't call `advance`."""
GONE, SILENT = "its process is gone", f"it has not answered for {GUARDIAN_TIMEOUT_S:.0f} s"


class Heartbeat:
    """Tells the guardian each half second that the engine's event loop runs.

    While the engine starts, compiles a rule or ends, the loop may stand still, and a thread gives the signs of life.

    Attributes:
        caretaker: Why the engine must come up as caretaker; empty where it needn't.
        is_busy: Whether the engine starts or ends.
        lost: Why the guardian counts as lost; empty while it is there.
    """

    def __init__(self, fd: int | None = None, restarts: int = 0, caretaker: str = "") -> None:
        self._socket: socket.socket | None = None
        if fd is not None:
            os.set_inheritable(fd, False)
            self._socket = socket.socket(fileno=fd)
            self._socket.setblocking(False)
        self._restarts, self.caretaker = restarts, caretaker
        self.is_busy, self.lost = True, ""
        self._ticked = self._looked = time.monotonic()
        self._unanswered_s = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Heartbeat:
        """Return the heartbeat of an engine that a guardian has started; without a guardian it does nothing."""
        return cls(**json.loads(environment.get(GUARDIAN, "{}")))

    @property
    def is_guarded(self) -> bool:
        """Whether a guardian has started this engine, and is there."""
        return self._socket is not None and not self.lost

    def is_started_again(self, error: BaseException, was_trading: bool) -> bool:
        """Return whether the guardian starts another engine after this error.

        It does not after a refusal: one by the account's ledger or by the settings, or any that a person meets who goes
        on with a run.
        """
        if isinstance(error, AccountInUse) and self._restarts:
            return self.is_guarded  # whoever took the account while no engine ran may let it go
        is_refused = isinstance(error, SessionError | ConfigError) or (
            isinstance(error, VoltradeError) and not self._restarts and not was_trading
        )
        return self.is_guarded and isinstance(error, Exception) and not is_refused

    async def run(self, on_lost: Callable[[str], None]) -> None:
        """Give signs of life from the event loop; call `on_lost` once if the guardian is lost."""
        if self._socket is None:
            return
        threading.Thread(target=self._while_busy, daemon=True, name="heartbeat").start()
        while not self.lost:
            self._ticked = time.monotonic()
            self._beat()
            await asyncio.sleep(EVERY_S)
        on_lost(self.lost)
        while self.lost == SILENT:  # it may only be slow, and would kill an engine that falls silent
            self._send(b"\n")
            await asyncio.sleep(EVERY_S)

    def advance(self) -> None:
        """Note that a long step of the engine, such as a replay, goes on."""
        self._ticked = time.monotonic()

    def close(self) -> None:
        """Close the connection to the guardian."""
        if self._socket is not None:
            self._socket.close()

    def report(self, error: BaseException) -> None:
        """Tell the guardian the exception that the engine dies of, by its type and place.

        An exchange that can't be reached is no fault of the engine: it is not told.
        """
        if isinstance(error, ExchangeError):
            return
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        self._send(f"{type(error).__name__}{place}\n".encode())

    def _while_busy(self) -> None:
        while not self.lost:
            is_still = self.is_busy or is_compiling()
            if is_still and time.monotonic() - self._ticked < BUSY_S:
                self._beat()
            time.sleep(EVERY_S)

    def _beat(self) -> None:
        assert self._socket is not None
        now = time.monotonic()
        # A longer time between two looks is no silence: this engine was suspended, and its guardian maybe too.
        self._unanswered_s, self._looked = self._unanswered_s + min(now - self._looked, 2 * EVERY_S), now
        self._send(b"\n")
        try:
            answer = self._socket.recv(65_536)
        except BlockingIOError:
            if self._unanswered_s > GUARDIAN_TIMEOUT_S:
                self.lost = SILENT
            return
        except OSError:
            answer = b""
        self._unanswered_s = 0.0
        if not answer:
            self.lost = GONE

    def _send(self, text: bytes) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a guardian that is gone is noticed by its missing answer
                self._socket.send(text)
