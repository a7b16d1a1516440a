"""The control socket of the engine: status, operator commands, and the lease that shows that the notebook is alive.

It is a Unix socket in the run's folder. Requests and answers are lines of JSON. Operator commands go to the core as
events; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.model import NOTEBOOK_LOST, storable
from voltrade.runs.run_file import STARTING, TOO_LATE

MAX_LINE, MAX_REASON = 1 << 20, 500
"""Most bytes of a request, and most characters of a reason; a longer reason is cut."""

TO_THE_CORE = {op: op for op in ("pause", "resume", "reduce", "flatten", "halt")} | {"ack": "acknowledge"}
"""Requests that are passed to the core, and the actions of its `Operator` events."""

MAX_SOCKET_PATH = 100
"""Most bytes of the socket's path; the limit of operating systems is a little above."""


class Control:
    """Answers requests on the Unix socket in the run's folder.

    `status` returns the status; `stop` ends the session; `pause`, `resume`, `reduce`, `flatten`, `halt` and `ack` go to
    the core. `lease` marks a connection as a notebook's. When the last leased connection closes without a `release`
    before, the notebook is treated as lost.
    """

    def __init__(
        self,
        config: Config,
        status: Callable[[], dict[str, Any]],
        command: Callable[[str, str, bool], None],
        identity: str = "",
        on_release: Callable[[], None] = lambda: None,
        taken: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Make a control; `listen` opens its socket.

        Args:
            config: Settings of the session.
            status: Returns the status of the session.
            command: Takes an operator command: action, reason, and whether the session ends with it.
            identity: Id of the run; a request for another run is refused.
            on_release: Called when a notebook releases its lease on purpose.
            taken: Waits until the core has taken the commands, within reason; returns whether it has.
        """
        self._config = config
        self._id = identity
        self._status = status
        self._command = command
        self._on_release = on_release
        self._taken = taken
        self._leases = 0
        self.was_leased = False
        """Whether a notebook has had the lease at any time."""
        self._server: asyncio.Server | None = None

    async def listen(self, run_dir: Path) -> Path:
        """Open the socket and return its path; in the temporary folder if the run's own is too long."""
        path = run_dir / "engine.sock"
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            short = sha256(os.fsencode(run_dir)).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"voltrade-{short}.sock"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=MAX_LINE)
        path.chmod(0o600)
        return path

    @property
    def is_leased(self) -> bool:
        """Whether a notebook has the lease."""
        return self._leases > 0

    def close(self) -> None:
        """Close the socket."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leased = False
        try:
            while line := await reader.readline():
                request = json.loads(line.decode(errors="surrogateescape"))  # a reason may have any encoding
                if request["op"] in ("lease", "release"):
                    self._leases += (request["op"] == "lease") - leased
                    leased = request["op"] == "lease"
                    self.was_leased = True
                    if request["op"] == "release":
                        self._on_release()
                writer.write(json.dumps(await self._answer(request)).encode() + b"\n")
                await writer.drain()
        except (ValueError, KeyError, TypeError, ConnectionError):
            pass  # an invalid request, or a client that disconnects, must not stop the engine
        except asyncio.CancelledError:
            pass  # the engine ends; Python 3.11's streams would log a traceback for a cancelled connection
        finally:
            writer.close()
            if leased:
                self._leases -= 1
                self.check_lease()

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the status; after a command, what is true once the core has taken it."""
        if request.get("id") and request["id"] != self._id:
            return {"error": f"its socket is that of another run now, {self._id}"}
        op, reason = request["op"], storable(str(request.get("reason") or "")[:MAX_REASON])
        status = self._status()
        is_too_late = status["state"] in TOO_LATE
        if op in ("status", "lease", "release") or (op == "stop" and is_too_late):
            return status
        if op not in (*TO_THE_CORE, "stop"):
            return {"error": f"op: unknown, was {op!r}"}
        if is_too_late:
            return {"error": f"{op} comes too late and is not taken: the session is {status['state']}"}
        if op == "stop":
            self.stop(reason or "STOPPED")
        else:
            self._command(TO_THE_CORE[op], reason, False)
        if self._taken is None:
            return self._status()
        is_done = status["state"] != STARTING and await self._taken()
        return self._status() | {"taken": is_done}

    def stop(self, reason: str) -> None:
        """End the session by the policy `on_interrupt`, or by `protect` if that is `carry_on`."""
        policy = self._config.session.on_interrupt
        self._command("protect" if policy == "carry_on" else policy, reason, True)

    def check_lease(self) -> None:
        """End the session by the policy `on_notebook_lost` if no notebook has the lease."""
        if not self.is_leased and self._status()["state"] == "running":
            policy = self._config.session.on_notebook_lost
            if policy != "carry_on":
                self._command(policy, NOTEBOOK_LOST, True)
