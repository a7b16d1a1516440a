"""The engine process: `python -m voltrade run RUN_DIR`, one session from start to end.

It is a process of its own so that a stalled, killed or closed notebook can't stall trading. It reads what to do from
`run.json`, starts the simulated venue where the session needs one, puts the concrete parts together, answers the
notebook over a Unix socket, and leaves a sealed journal and a true end in `run.json` behind.
"""

from __future__ import annotations

import asyncio
import fcntl
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

from voltrade import record
from voltrade.bars import VolumeBarAggregator
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.errors import SessionError, VoltradeError
from voltrade.exchange.binance import PAGE, BinanceRestClient, BinanceWSManager, Credentials, Endpoint, connect
from voltrade.journal import Journal
from voltrade.ledger import Ledger
from voltrade.live import LiveTradingSystem
from voltrade.model import DAY_MS, Adoption, Instrument, Operator, Trades
from voltrade.record import JOURNAL, RECORD
from voltrade.replay import Replay, recover, start_row
from voltrade.report import save_frames
from voltrade.rule_file import read_parameters, signal_engine_of

PARAMETERS, VENUE = "parameters.json", "venue"
LIBRARIES = ("voltrade", "ccxt", "numba", "numpy", "pandas", "papermill")
VENUE_READY_S = 60.0
FIRST_LEASE_S = 5.0
"""How long after it has begun to trade an engine waits for the notebook that started it."""
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
        record.write(self._path.parent, self.facts)


class VenueProcess:
    """The simulated venue of a session and its side channel."""

    def __init__(self, rest: str) -> None:
        self.rest, self.stream = rest, rest.replace("http", "ws", 1)
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
        return VenueProcess(ready["rest"])

    async def status(self) -> dict[str, Any]:
        """Return its clock and how far its tape is.

        Raises:
            SessionError: it isn't there.
        """
        try:
            async with self._web.get(f"{self.rest}/voltrade/status") as response:
                status: dict[str, Any] = await response.json()
                return status
        except (aiohttp.ClientError, ValueError) as error:
            raise SessionError(f"venue: must be a running venue, was {self.rest}: {error}") from None

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take one step of the side channel."""
        if self._socket is None:
            self._socket = await self._web.ws_connect(f"{self.rest}/voltrade/lockstep", max_msg_size=0)
        await self._socket.send_str(json.dumps(message))
        answer: dict[str, Any] = json.loads((await self._socket.receive()).data)
        if "error" in answer:
            raise SessionError(f"lockstep: {answer['error']}")
        return answer

    async def stop(self) -> None:
        """Tell it to end."""
        with suppress(aiohttp.ClientError):
            async with self._web.post(f"{self.rest}/voltrade/stop"):
                pass

    async def close(self) -> None:
        """Let go of it."""
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
                self.was_leased = self.was_leased or leased
                writer.write(json.dumps(self._answer(ask)).encode() + b"\n")
                await writer.drain()
        except (ValueError, KeyError, TypeError, ConnectionError):
            pass  # a client that talks nonsense or goes away is its own trouble
        finally:
            writer.close()
            if leased:
                self._leases -= 1
                self.check_lease()

    def _answer(self, ask: dict[str, Any]) -> dict[str, Any]:
        op, reason = ask["op"], str(ask.get("reason", ""))
        if op == "stop":
            self._end(self._config.session.on_interrupt, reason or "STOPPED")
        elif op in ("pause", "resume", "reduce", "flatten", "halt"):
            self._order(op, reason, False)
        elif op not in ("status", "lease"):
            return {"error": f"op: unknown, was {op!r}"}
        return self._status()

    def check_lease(self) -> None:
        """End the session by its policy where no notebook holds the lease."""
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
        rule_sha256 = self._record.facts.get("rule_sha256", "")
        self._config = read_parameters(self._record.facts["parameters"], run=run_dir, sha256=rule_sha256)
        self._clock: TapeClock | WallClock = WallClock()
        self._system: LiveTradingSystem | None = None
        self._journal: Journal | None = None
        self._ledger: Ledger | None = None
        self._trades = 0

    async def run(self) -> None:
        """Run the session to its end.

        Raises:
            VoltradeError: it could not start, or can't go on; `run.json` says so too.
        """
        venue = await self._venue()
        control = Control(self._config, self._status, self._order)
        try:
            tape = await venue.status()
            self._open_ledger(venue, tape)
            socket = await control.listen(self._dir)
            self._record.update(pid=os.getpid(), socket=str(socket), venue=venue.rest)
            await self._trade(venue, tape, control)
        finally:
            control.close()
            if not self._config.session.venue:
                await venue.stop()
            await venue.close()
            for held in (self._journal, self._ledger):
                if held is not None:
                    held.close()

    async def _venue(self) -> VenueProcess:
        """The venue of a run that goes on, a running one that the settings name, or one of the session's own."""
        known = self._record.facts.get("venue") or self._config.session.venue
        if known:
            return VenueProcess(known)
        # All but the rule and its settings: the exchange has no use for them.
        unused = {"rule", *type(self._config.signals).model_fields}
        parameters = {name: value for name, value in self._config.parameters().items() if name not in unused}
        (self._dir / PARAMETERS).write_text(json.dumps(parameters))
        return await VenueProcess.start(self._dir)

    def _open_ledger(self, venue: VenueProcess, tape: dict[str, Any]) -> None:
        """Take the account's ledger. An account that lives and ends with the session needs none."""
        if self._config.session.venue:
            account = f"{venue.rest} {tape['instance']}"
            self._ledger = Ledger.open(self._dir.parent / ".accounts", account, self._config.session.mode)

    async def _trade(self, venue: VenueProcess, tape: dict[str, Any], control: Control) -> None:
        config, symbol = self._bounded(tape), self._config.session.symbol
        self._trades = tape["trades"]
        if tape["lockstep"]:
            self._clock = TapeClock(tape["time"])
        endpoint = Endpoint.simulated(venue.rest, venue.stream)
        exchange = connect(endpoint, Credentials("sim-key", "sim-secret"), self._clock, config.execution.recv_window_ms)
        rest = BinanceRestClient(exchange, "sim")
        feed, watch = None, None
        try:
            instrument = await rest.instrument(symbol)
            again = self._recover()
            core = again.core if again and again.core else self._begin(config, instrument)
            assert self._journal is not None
            self._system = system = LiveTradingSystem(core, self._journal, rest, self._clock, self._clock.set)
            last_id = core.desks[symbol].fold.last_trade_id
            at = {"trade_id": max(last_id, 0), "marks": again.marks if again else 0}
            hello = await venue.ask({"op": "hello", **at}) if tape["lockstep"] else at
            if not again and hello["trade_id"]:
                enough = core.desks[symbol].engine.warmup_bars
                system.warm_up(await earlier_trades(rest, config, instrument, hello["trade_id"], enough))
                last_id = core.desks[symbol].fold.last_trade_id
            if not again:
                self._adopt(system)
            if core.desks[symbol].monitor.holding is None:
                await rest.apply_account_settings(symbol, config.risk.leverage, config.risk.margin_type)
            feed = BinanceWSManager(
                exchange,
                rest,
                instrument,
                system._on_agg_trade,
                system.on_event,
                self._clock,
                lockstep=tape["lockstep"],
                after_trade_id=max(last_id, 0),
            )
            await feed.start()
            self._record.update(state="running", started=_utc_now())
            watch = asyncio.create_task(self._await_notebook(control))
            if tape["lockstep"]:
                await system.run_lockstep(feed, venue, marks=hello["marks"], restarted=again is not None)
            else:
                await system.run_wall(feed)
            self._end(core.end_reason)
        finally:
            if watch is not None:
                watch.cancel()
            if feed is not None:
                await feed.stop()
            await exchange.close()

    async def _await_notebook(self, control: Control) -> None:
        """A notebook that started the session and died before it took the lease is lost too."""
        await asyncio.sleep(FIRST_LEASE_S)
        if self._record.facts.get("attended") and not control.was_leased:
            control.check_lease()

    # --- where a run starts from -----------------------------------------------------------------------------------

    def _recover(self) -> Replay | None:
        """Where the folder holds a journal, the engine was killed: make its core again and go on in its journal."""
        path = self._dir / JOURNAL
        if not self._record.facts.get("begun"):
            # Killed before the first row was on disk, so before anything was sent: there is nothing to go on from.
            for remains in self._dir.glob(f"{JOURNAL}*"):
                remains.unlink()
            return None
        again = recover(path)
        self._journal = Journal.open(path)
        return again

    def _begin(self, config: Config, instrument: Instrument) -> TradingCore:
        """Make a core that goes on from the account's last run, and write down what it is made from."""
        rule = signal_engine_of(config, instrument, self._dir)
        core = TradingCore(config, instrument, self._record.facts["epoch"], rule)
        self._journal = Journal.create(self._dir / JOURNAL)
        start = start_row(config, instrument, self._record.facts["epoch"], **self._facts())
        self._journal.append("Start", self._clock(), start)
        self._journal.commit()
        self._record.update(begun=True)
        return core

    def _adopt(self, system: LiveTradingSystem) -> None:
        """Take over what the account's last run left; a killed one's state is made from its journal."""
        if self._ledger is None:
            return
        last = self._ledger.last
        if last is not None:
            state, head = last.get("state"), last.get("head", "")
            if not last["ended"]:
                again = recover(Path(last["run"]) / JOURNAL)
                assert again.core is not None
                state, head = again.core.state(), again.head
            if state is not None:
                system.handle(Adoption(self._clock(), json.dumps(state), head))
        self._ledger.begin(self._dir)

    def _bounded(self, tape: dict[str, Any]) -> Config:
        """By the wall clock a tape's end is silence: end the session where the tape does."""
        session = self._config.session
        if tape["lockstep"] or session.duration_s:
            return self._config
        left_s = (tape["last_time"] - tape["time"]) / 1000
        return self._config.model_copy(update={"session": session.model_copy(update={"duration_s": max(left_s, 1.0)})})

    def _facts(self) -> dict[str, Any]:
        return {
            "mode": self._config.session.mode,
            "rule_sha256": self._record.facts.get("rule_sha256", ""),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in LIBRARIES},
        }

    def _end(self, reason: str) -> None:
        """Seal the journal, then write the frames from it, then say that the run has ended."""
        assert self._journal is not None
        assert self._system is not None
        self._journal.append("End", self._clock(), {"reason": reason})
        self._journal.commit()
        if self._ledger is not None:
            self._ledger.end(self._dir, self._journal.head, self._system.core.state())
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


async def earlier_trades(
    rest: BinanceRestClient, config: Config, instrument: Instrument, last_id: int, enough: int
) -> Trades:
    """Return the trades before a session that its bars and indicators need, up to `last_id`.

    Pages go back in time until the day of the last trade is whole, so that its bars have their anchor, and until they
    make `enough` bars; then to the beginning of a UTC day, or of what the exchange has.
    """
    rows: list[tuple[int, int, int, int, bool]] = []
    first_id, first_day = last_id + 1, None
    while first_id > 1:
        page = await rest.agg_trades(instrument.symbol, max(first_id - PAGE, 1), PAGE)
        page = [row for row in page if row[0] < first_id]
        if not page:
            break
        rows[:0] = page
        first_id = page[0][0]
        if first_day is None and _bars_in(rows, config, instrument) >= enough:
            first_day = rows[0][3] // DAY_MS
        if first_day is not None and rows[0][3] // DAY_MS < first_day:
            rows = [row for row in rows if row[3] // DAY_MS >= first_day]
            break
    return Trades.from_rows(instrument.symbol, rows)


def _bars_in(rows: list[tuple[int, int, int, int, bool]], config: Config, instrument: Instrument) -> int:
    """About how many bars these trades make."""
    return len(VolumeBarAggregator(config.bars, instrument).fold(Trades.from_rows(instrument.symbol, rows)))


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run(run_dir: Path) -> int:
    """Run the engine process in a run's folder; return its exit status."""
    os.umask(0o077)
    try:
        engine = Engine(run_dir)
        # Held until the process ends, and taken before anything is touched: a second engine leaves the first alone.
        lock = os.open(run_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"run: {run_dir}: another engine runs it", file=sys.stderr)
        return 2
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
