"""The engine's side of its socket: what notebooks and `ctl` ask of a running session, and the notebook's sign of life.

A Unix socket in the run's folder; a JSON line asks, a JSON line answers. It decides nothing: what changes the session
goes to the core as an event.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.model import storable
from voltrade.runs.run_file import TOO_LATE

LONGEST_LINE, LONGEST_REASON = 1 << 20, 500
"""Bytes of a line that is taken, and characters of a reason that are kept."""

LONGEST_SOCKET_PATH = 100
"""Bytes; the system's own limit is a little above."""


class Control:
    """The Unix socket in the run's folder: a JSON line asks, a JSON line answers.

    `status` tells how things are; `stop` ends the session; `pause`, `resume`, `reduce`, `flatten`, `halt` go to the
    core; `lease` holds the connection as the notebook's sign of life: when the last one closes, the notebook is lost,
    unless `release` took leave before.
    """

    def __init__(
        self,
        config: Config,
        status: Callable[[], dict[str, Any]],
        order: Callable[[str, str, bool], None],
        identity: str = "",
    ) -> None:
        """Make a control.

        Args:
            identity: of the run; a message that is meant for another run is refused.
        """
        self._config = config
        self._id = identity
        self._status = status
        self._order = order
        self._leases = 0
        self.was_leased = False
        """Whether a notebook has ever held the lease."""
        self._server: asyncio.Server | None = None

    async def listen(self, run_dir: Path) -> Path:
        """Open the socket; return its path, in the temporary folder where the run's own is too long for a socket."""
        path = run_dir / "engine.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            short = sha256(os.fsencode(run_dir)).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"voltrade-{short}.sock"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LONGEST_LINE)
        path.chmod(0o600)
        return path

    @property
    def is_leased(self) -> bool:
        """Whether a notebook holds the lease."""
        return self._leases > 0

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leased = False
        try:
            while line := await reader.readline():
                ask = json.loads(line.decode(errors="surrogateescape"))  # bytes of whatever encoding make a reason
                if ask["op"] in ("lease", "release"):
                    self._leases += (ask["op"] == "lease") - leased
                    leased = ask["op"] == "lease"
                    self.was_leased = True
                writer.write(json.dumps(self._answer(ask)).encode() + b"\n")
                await writer.drain()
        except (ValueError, KeyError, TypeError, ConnectionError):
            pass  # a client that talks nonsense or goes away is its own trouble
        except asyncio.CancelledError:
            pass  # the engine ends; Python 3.11's streams write a traceback for a connection that was cancelled
        finally:
            writer.close()
            if leased:
                self._leases -= 1
                self.check_lease()

    def _answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        if ask.get("id") and ask["id"] != self._id:
            return {"error": f"its socket is that of another run now, {self._id}"}
        op, reason = ask["op"], storable(str(ask.get("reason") or "")[:LONGEST_REASON])
        status = self._status()
        is_too_late = status["state"] in TOO_LATE
        if op in ("status", "lease", "release") or (op == "stop" and is_too_late):
            return status
        if op not in ("pause", "resume", "reduce", "flatten", "halt", "stop"):
            return {"error": f"op: unknown, was {op!r}"}
        if is_too_late:
            return {"error": f"{op} comes too late and is not carried out: the session is {status['state']}"}
        if op == "stop":
            self.stop(reason or "STOPPED")
        else:
            self._order(op, reason, False)
        return self._status()

    def stop(self, reason: str) -> None:
        """End the session as an interrupt would. Whoever asks for a stop wants one, so `carry_on` becomes `protect`."""
        policy = self._config.session.on_interrupt
        self._order("protect" if policy == "carry_on" else policy, reason, True)

    def check_lease(self) -> None:
        """End the session by its policy where no notebook holds the lease."""
        if not self.is_leased and self._status()["state"] == "running":
            policy = self._config.session.on_notebook_lost
            if policy != "carry_on":
                self._order(policy, "NOTEBOOK_LOST", True)
