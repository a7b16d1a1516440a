"""The engine process: `python -m voltrade run RUN_DIR`, one session from start to end.

It is a process of its own so that a stalled, killed or closed notebook can't stall trading. It reads what to do from
`run.json`, starts the simulated venue where the session needs one, puts the concrete parts together, answers the
notebook over a Unix socket, and leaves a sealed journal and a true end in `run.json` behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.errors import SessionError, VoltradeError
from voltrade.exchange.binance import BinanceRestClient, BinanceWSManager, Credentials, Endpoint, connect
from voltrade.journal import Journal
from voltrade.live import LiveTradingSystem
from voltrade.model import Operator
from voltrade.replay import start_row
from voltrade.report import save_frames

JOURNAL, RECORD, PARAMETERS, VENUE = "journal.db", "run.json", "parameters.json", "venue"
LIBRARIES = ("voltrade", "ccxt", "numba", "numpy", "pandas", "papermill")
VENUE_READY_S = 60.0
LONGEST_SOCKET_PATH = 100
"""Bytes; the system's own limit is a little above."""


class TapeClock:
    """The venue's tape time, ms, moved by the driver."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def set(self, now: int) -> None:
        self.now = now


class WallClock:
    """The machine's time, ms UTC."""

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000

    def set(self, now: int) -> None:
        """Nobody moves this clock."""


class Record:
    """`run.json`: what a run was asked to do, where it is, and how it ended; replaced whole, never half written."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / RECORD
        try:
            self.facts: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError) as error:
            raise SessionError(f"{self._path}: must be a run's record: {error}") from None

    def update(self, **facts: Any) -> None:
        self.facts.update(facts)
        fresh = self._path.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.facts, indent=2))
        fresh.replace(self._path)


class VenueProcess:
    """The simulated venue of a session and its side channel."""

    def __init__(self, rest: str, stream: str, pid: int) -> None:
        self.rest, self.stream, self.pid = rest, stream, pid
        self._web = aiohttp.ClientSession()
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @staticmethod
    async def start(run_dir: Path) -> VenueProcess:
        """Start `python -m voltrade venue` and wait until it listens.

        Raises:
            SessionError: it did not come up; the message ends with what it said.
        """
        log = run_dir / VENUE
        log.mkdir(mode=0o700, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "voltrade", "venue"),
            *("--parameters", str(run_dir / PARAMETERS), "--log", str(log)),
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
            said = (log / "venue.log").read_text()[-2000:]
            raise SessionError(f"the simulated venue did not start: {said.strip()}") from None
        return VenueProcess(ready["rest"], ready["ws"], ready["pid"])

    async def status(self) -> dict[str, Any]:
        """Return its clock and how far its tape is."""
        async with self._web.get(f"{self.rest}/voltrade/status") as response:
            status: dict[str, Any] = await response.json()
            return status

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take one step of the side channel."""
        if self._socket is None:
            self._socket = await self._web.ws_connect(f"{self.rest}/voltrade/lockstep", max_msg_size=0)
        await self._socket.send_str(json.dumps(message))
        answer: dict[str, Any] = json.loads((await self._socket.receive()).data)
        return answer

    async def stop(self) -> None:
        """Tell it to end."""
        with suppress(aiohttp.ClientError):
            async with self._web.post(f"{self.rest}/voltrade/stop"):
                pass
        await self._web.close()


class Control:
    """The Unix socket in the run's folder: a JSON line asks, a JSON line answers.

    `status` tells how things are; `stop` ends the session; `pause`, `resume`, `reduce`, `flatten`, `halt` go to the
    core; `lease` holds the connection as the notebook's sign of life: when the last one closes, the notebook is lost.
    """

    def __init__(self, config: Config, status: Callable[[], dict[str, Any]], order: Callable[[str, str, bool], None]):
        self._config = config
        self._status = status
        self._order = order
        self._leases = 0
        self._server: asyncio.Server | None = None

    async def listen(self, run_dir: Path) -> Path:
        """Open the socket; return its path, in the temporary folder where the run's own is too long for a socket."""
        path = run_dir / "engine.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            short = sha256(os.fsencode(run_dir)).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"voltrade-{short}.sock"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)
        return path

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leased = False
        try:
            while line := await reader.readline():
                ask = json.loads(line)
                leased = leased or ask["op"] == "lease"
                self._leases += ask["op"] == "lease"
                writer.write(json.dumps(self._answer(ask)).encode() + b"\n")
                await writer.drain()
        except (ValueError, KeyError, TypeError, ConnectionError):
            pass  # a client that talks nonsense or goes away is its own trouble
        finally:
            writer.close()
            if leased:
                self._leases -= 1
                self._lost()

    def _answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        op, reason = ask["op"], str(ask.get("reason", ""))
        if op == "stop":
            self._end(self._config.session.on_interrupt, reason or "STOPPED")
        elif op in ("pause", "resume", "reduce", "flatten", "halt"):
            self._order(op, reason, False)
        elif op not in ("status", "lease"):
            return {"error": f"op: unknown, was {op!r}"}
        return self._status()

    def _lost(self) -> None:
        if self._leases == 0 and self._status()["state"] == "running":
            self._end(self._config.session.on_notebook_lost, "NOTEBOOK_LOST")

    def _end(self, policy: str, reason: str) -> None:
        if policy != "carry_on":
            self._order(policy, reason, True)


class Engine:
    """One session, put together from its concrete parts."""

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir
        self._record = Record(run_dir)
        self._config = Config.from_parameters(self._record.facts["parameters"])
        self._clock: TapeClock | WallClock = WallClock()
        self._system: LiveTradingSystem | None = None
        self._journal: Journal | None = None
        self._trades = 0

    async def run(self) -> None:
        """Run the session to its end.

        Raises:
            VoltradeError: it could not start, or can't go on; `run.json` says so too.
        """
        (self._dir / PARAMETERS).write_text(json.dumps(self._config.parameters()))
        venue = await VenueProcess.start(self._dir)
        control = Control(self._config, self._status, self._order)
        try:
            socket = await control.listen(self._dir)
            self._record.update(pid=os.getpid(), socket=str(socket), venue={"rest": venue.rest, "pid": venue.pid})
            await self._trade(venue)
        finally:
            control.close()
            await venue.stop()
            if self._journal is not None:
                self._journal.close()

    async def _trade(self, venue: VenueProcess) -> None:
        tape = await venue.status()
        config, symbol = self._bounded(tape), self._config.session.symbol
        self._trades = tape["trades"]
        if tape["lockstep"]:
            self._clock = TapeClock(tape["time"])
        endpoint = Endpoint.simulated(venue.rest, venue.stream)
        exchange = connect(endpoint, Credentials("sim-key", "sim-secret"), self._clock, config.execution.recv_window_ms)
        rest = BinanceRestClient(exchange, "sim")
        feed = None
        try:
            await rest.apply_account_settings(symbol, config.risk.leverage, config.risk.margin_type)
            instrument = await rest.instrument(symbol)
            core = TradingCore(config, instrument, self._record.facts["epoch"])
            self._journal = self._open_journal(
                start_row(config, instrument, self._record.facts["epoch"], **self._facts())
            )
            self._system = system = LiveTradingSystem(core, self._journal, rest, self._clock, self._clock.set)
            feed = BinanceWSManager(
                exchange,
                rest,
                instrument,
                system._on_agg_trade,
                system.on_event,
                self._clock,
                lockstep=tape["lockstep"],
            )
            await feed.start()
            self._record.update(state="running", started=_utc_now())
            if tape["lockstep"]:
                await system.run_lockstep(feed, venue)
            else:
                await system.run_wall(feed)
            self._end(core.end_reason)
        finally:
            if feed is not None:
                await feed.stop()
            await exchange.close()

    def _bounded(self, tape: dict[str, Any]) -> Config:
        """By the wall clock a tape's end is silence: end the session where the tape does."""
        session = self._config.session
        if tape["lockstep"] or session.duration_s:
            return self._config
        left_s = (tape["last_time"] - tape["time"]) / 1000
        return self._config.model_copy(update={"session": session.model_copy(update={"duration_s": max(left_s, 1.0)})})

    def _open_journal(self, start: dict[str, Any]) -> Journal:
        journal = Journal.create(self._dir / JOURNAL)
        journal.append("Start", self._clock(), start)
        journal.commit()
        return journal

    def _facts(self) -> dict[str, Any]:
        return {
            "mode": self._config.session.mode,
            "python": platform.python_version(),
            "versions": {name: version(name) for name in LIBRARIES},
        }

    def _end(self, reason: str) -> None:
        """Seal the journal, then write the frames from it, then say that the run has ended."""
        assert self._journal is not None
        assert self._system is not None
        self._journal.append("End", self._clock(), {"reason": reason})
        self._journal.commit()
        save_frames(self._dir)
        self._record.update(state="ended", end_reason=reason, head=self._journal.head, ended=_utc_now())

    def fail(self, error: BaseException) -> None:
        """Say in `run.json` that the run failed, and why."""
        head = self._journal.head if self._journal is not None else ""
        self._record.update(state="failed", end_reason="ERROR", error=str(error), head=head, ended=_utc_now())

    # --- for the notebook ------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = {"state": self._record.facts["state"], "mode": self._config.session.mode}
        if self._system is not None:
            status |= self._system.status(self._trades)
        if self._journal is not None:
            status |= {"rows": self._journal.seq, "head": self._journal.head}
        return status

    def _order(self, action: Any, reason: str, final: bool) -> None:
        if self._system is None:
            return
        self._system.on_event(Operator(self._clock(), action, reason, final))


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run(run_dir: Path) -> int:
    """Run the engine process in a run's folder; return its exit status."""
    os.umask(0o077)
    try:
        engine = Engine(run_dir)
    except VoltradeError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    # Stopping is the notebook's and the control socket's business; a stray Ctrl-C in their terminal is not ours.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(engine.run())
    except BaseException as error:
        engine.fail(error)
        if isinstance(error, VoltradeError):
            print(f"run: {error}", file=sys.stderr)
            return 1
        raise
    return 0
