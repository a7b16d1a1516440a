"""The process of the simulated venue that a `sim` session uses: started, found again, asked and stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from voltrade.config import Config
from voltrade.errors import SessionError

PARAMETERS, VENUE, TRUTH = "parameters.json", "venue", "truth.jsonl"
"""Files in a run's folder: the venue's parameters, and the folder and file of its log."""
VENUE_READY_S = 60.0
"""Longest wait for the venue to listen."""
VENUE_IDLE_S = 900
"""A venue that a session has started ends after this time without requests; a resumed session starts it again."""


class VenueProcess:
    """A simulated venue and its side channel for lockstep, which Binance doesn't have."""

    def __init__(self, rest: str) -> None:
        self.rest, self.stream = rest, rest.replace("http", "ws", 1)
        self._web = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @staticmethod
    async def reuse_or_start(run_dir: Path, config: Config, address: str) -> VenueProcess:
        """Connect to the session's own venue, or start it; a venue that is started again continues from its log.

        Args:
            run_dir: Folder of the run.
            config: Settings of the session.
            address: Where a resumed run had its venue; empty for a new run. Another run's venue may use it by now.

        Raises:
            SessionError: The venue did not start.
        """
        log = run_dir / VENUE / TRUTH
        if address and log.exists():
            venue = VenueProcess(address)
            with suppress(SessionError), log.open() as rows:
                if (await venue.status()).get("instance") == json.loads(rows.readline()).get("instance"):
                    return venue
            await venue.close()
        return await VenueProcess.start(run_dir, config)

    @staticmethod
    async def start(run_dir: Path, config: Config) -> VenueProcess:
        """Start `python -m voltrade venue` and wait until it listens.

        Raises:
            SessionError: The venue did not start; the message ends with its log.
        """
        # Without the rule and its settings, which the exchange doesn't use.
        unused = {"rule", *type(config.signals).model_fields}
        parameters = {name: value for name, value in config.parameters().items() if name not in unused}
        (run_dir / PARAMETERS).write_text(json.dumps(parameters))
        log = run_dir / VENUE
        log.mkdir(mode=0o700, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voltrade", "venue"),
            *("--parameters", str(run_dir / PARAMETERS), "--log", str(log), "--idle-s", str(VENUE_IDLE_S)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(log / "venue.log").open("wb"),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), VENUE_READY_S)
            ready = json.loads(line)
        except (TimeoutError, ValueError):
            text = (log / "venue.log").read_text()[-2000:]
            raise SessionError(f"the simulated venue did not start: {text.strip()}") from None
        return VenueProcess(ready["rest"])

    async def status(self) -> dict[str, Any]:
        """Return the venue's time and the position of its tape.

        Raises:
            SessionError: No venue answers.
        """
        try:
            async with self._web.get(f"{self.rest}/voltrade/status", allow_redirects=False) as response:
                status: dict[str, Any] = await response.json()
                return status
        except (aiohttp.ClientError, ValueError) as error:
            raise SessionError(f"venue: must be a running venue, was {self.rest}: {error}") from None

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message over the side channel and return the answer.

        Raises:
            SessionError: The venue refuses the message.
        """
        if self._socket is None:
            self._socket = await self._web.ws_connect(f"{self.rest}/voltrade/lockstep", max_msg_size=0)
        await self._socket.send_str(json.dumps(message))
        answer: dict[str, Any] = json.loads((await self._socket.receive()).data)
        if "error" in answer:
            raise SessionError(f"lockstep: {answer['error']}")
        return answer

    async def stop(self) -> None:
        """End the venue's process."""
        with suppress(aiohttp.ClientError):
            async with self._web.post(f"{self.rest}/voltrade/stop"):
                pass

    async def close(self) -> None:
        """Close the connections; the venue's process goes on."""
        await self._web.close()
