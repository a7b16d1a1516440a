"""What outlives a run: one ledger for each account and mode, held by one engine at a time.

A run that ends leaves the state of its core here: the breaker's peaks, baselines and streaks, cooldowns, the position
in hand and its orders. The next run of the account goes on from it and notes the head hash of the run before. A run
that was killed left no state; it is made again from that run's journal.
"""

from __future__ import annotations

import fcntl
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from voltrade.errors import SessionError


class Ledger:
    """One account's ledger; holds its lock until closed or the process dies.

    Attributes:
        last: what the last run left: `run` (its folder), `ended`, `head`, `state`; None before the first.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self.last: dict[str, Any] | None = None

    @staticmethod
    def open(root: Path, account: str, mode: str) -> Ledger:
        """Open the ledger of an account, named by whatever is its own and no other's, and take its lock.

        Raises:
            SessionError: another engine trades this account, or the ledger can't be read.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root / f"{sha256(account.encode()).hexdigest()[:12]}-{mode}.json"
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SessionError(f"account {path.stem}: another engine trades it") from None
        ledger = Ledger(path, lock)
        try:
            ledger.last = json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            ledger.close()
            raise SessionError(f"{path}: must be an account's ledger: {error}") from None
        return ledger

    @property
    def folder(self) -> Path:
        """What else is kept for the account goes here."""
        return self._path.with_suffix("")

    def begin(self, run: Path) -> None:
        """Note that a run has begun; from now on its journal is what the next run starts from."""
        self._write({"run": str(run.resolve()), "ended": False})

    def end(self, run: Path, head: str, state: dict[str, Any] | None) -> None:
        """Leave a run's last state for the next one."""
        self._write({"run": str(run.resolve()), "ended": True, "head": head, "state": state})

    def close(self) -> None:
        """Let go of the account."""
        os.close(self._lock)

    def _write(self, last: dict[str, Any]) -> None:
        fresh = self._path.with_suffix(".tmp")
        with fresh.open("w") as file:
            json.dump(last, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self.last = last
