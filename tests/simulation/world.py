"""One simulated session: a venue, the network, an engine that is killed and started again, and what they leave behind.

Everything that trades is the product's own: `Engine` with its ledger, journal, recovery and warm-up, the order monitor,
the stream manager, the ccxt subclass, and the venue's request handler, faults and log. What is the harness's: the
clock, the network, the disk's failures, and whoever starts a dead engine again.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.clock import PROCESS, Process, VirtualLoop
from simulation.evidence import Evidence, Json, JournalRow, Life, Strike, read_journal
from simulation.network import ENDPOINT, MadeAnswer, Network, Rewriting, SimulatedExchange, connect_by

from voltrade.config import Config
from voltrade.control import Control
from voltrade.engine import Engine
from voltrade.exchange.binance import BinanceRestClient
from voltrade.exchange.faults import Fault
from voltrade.exchange.truth import TruthLog
from voltrade.exchange.venue import Venue
from voltrade.journal import Journal
from voltrade.model import Trades
from voltrade.replay import replay
from voltrade.rule_file import keep_rule, read_parameters
from voltrade.wiring import Wiring

QUIET_S = 60.0
"""After the last fault: the session must be able to trade again, or say why not."""
END_S = 60.0
"""How much longer than its time a session may take to end."""
CRASHES = 5
"""After so many failures that no plan caused, nobody starts the engine again."""
INSTANCE = "simulated"
MOST_READINGS = 1_000
"""So often nobody reads the clock at one instant: a loop that does never gives the event loop back."""


class Killed(BaseException):
    """The process was killed at this place."""


class Spinning(RuntimeError):
    """The engine runs in circles without giving the event loop back: time would stand still for ever."""


class EngineClock:
    """The engine's wall clock: the venue's, unless somebody has set it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._instant, self._readings = 0.0, 0
        self.ahead_ms = 0

    def __call__(self) -> int:
        instant = self._loop.time()
        self._instant, self._readings = instant, self._readings + 1 if instant == self._instant else 1
        if self._readings > MOST_READINGS:
            raise Spinning(f"the clock was read {MOST_READINGS} times at {self._loop.now_ms}")
        return self._loop.now_ms + self.ahead_ms

    def set(self, now: int) -> None:
        """Nobody moves this clock."""


@dataclass
class Disk:
    """What is wrong with the disk.

    Attributes:
        is_full: nothing more can be written.
        on_write: called around each commit of a journal, with `before commit` or `after commit`.
        synced: lengths of the journal's log on disk after each commit, the newest last.
    """

    is_full: bool = False
    on_write: Callable[[str], None] = lambda when: None
    synced: list[int] = field(default_factory=list)


DISK = Disk()
"""Of the session that runs now; there is one at a time in a process."""


class SimulatedJournal(Journal):
    """The journal, on a disk that fails when it is told to."""

    def append(self, kind: str, time: int, body: Any) -> int:
        if DISK.is_full:
            with self._storing():
                raise sqlite3.OperationalError("database or disk is full")
        return super().append(kind, time, body)

    def commit(self) -> None:
        if not self._connection.in_transaction:
            return
        DISK.on_write("before commit")
        super().commit()
        DISK.on_write("after commit")


class SimulatedEngine(Engine):
    """The engine, reached by the simulated network, without what belongs to a process: signals, a socket, frames."""

    journal_type = SimulatedJournal

    def __init__(self, run_dir: Path, reach: Callable[[Config], Any]) -> None:
        super().__init__(run_dir)
        self._reach = reach

    async def run(self) -> None:
        async with AsyncExitStack() as held:
            wiring = await self._reach(self._config)
            held.push_async_callback(wiring.close)
            held.callback(self._let_go)
            self._take_account(wiring)
            self._control = Control(self._config, self._status, self._order)
            self._record.update(account=wiring.fingerprint)
            await self._trade(wiring, self._control)

    def _save_frames(self) -> None:
        """Nobody looks at them."""


@dataclass
class Incarnation:
    """One life of the engine's process."""

    process: Process
    clock: EngineClock
    engine: SimulatedEngine
    begin: int
    run: int
    task: asyncio.Task[None] | None = None
    exchange: SimulatedExchange | None = None
    was_killed: bool = False


@dataclass(frozen=True)
class Plan:
    """What a session is: everything that its course depends on.

    Attributes:
        settings: parameters of the engine; those of the simulated exchange are the venue's.
        begin_s: how much of the tape is history when the venue opens.
        strikes: (seconds after the opening, kind, seconds that it lasts, facts). A kind of `exchange/faults.py` strikes
            at the venue; its facts are the fields of `Fault`. The others are `World`'s `_do_` methods.
        faults_s: when faults end.
        restart_s: how long after its death the engine is started again.
    """

    seed: int
    settings: Json
    tape: Trades
    begin_s: float
    strikes: tuple[tuple[float, str, float, Json], ...] = ()
    faults_s: float = 720.0
    restart_s: float = 1.5

    @property
    def duration_s(self) -> float:
        return float(self.settings["duration_s"])


class World:
    """Plays a plan.

    Args:
        root: an empty folder, the same for every session of a process, so that a rule file is compiled once.
    """

    def __init__(self, loop: VirtualLoop, plan: Plan, root: Path) -> None:
        self.loop, self.plan, self.root = loop, plan, root
        self.lives: list[Life] = []
        self.now: Incarnation | None = None
        self.runs = ["run"]
        self._outside = contextvars.copy_context()
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._reader: tuple[str, sqlite3.Connection] | None = None
        self._crashes = 0
        self._packets: list[tuple[str, int, Callable[[], None]]] = []
        global DISK
        DISK.__init__(on_write=self._on_write)  # type: ignore[misc]
        at_the_venue = [strike for strike in plan.strikes if not hasattr(self, f"_do_{strike[1]}")]
        script = [Fault(**{"do": kind, "at_s": at, "for_s": for_s, **facts}) for at, kind, for_s, facts in at_the_venue]
        log = TruthLog(root / "venue")
        self.venue = Venue(
            read_parameters(plan.settings),
            [plan.tape],
            log,
            begin_s=plan.begin_s,
            script=script,
            wall=lambda: loop.now_ms,
            instance=INSTANCE,
        )
        self.network = Network(loop, self.venue, random.Random(plan.seed), self._is_durable)
        self.network.wake = self._wake.set
        self.network.on_packet = self._on_packet
        self.opened = loop.now_ms

    # --- the session ------------------------------------------------------------------------------------------------

    async def play(self) -> Evidence:
        """Play it to its end and return what there is to judge."""
        clockwork = self.loop.create_task(self._play_the_tape())
        for at, kind, for_s, facts in self.plan.strikes:
            if hasattr(self, f"_do_{kind}"):
                self._later(at, getattr(self, f"_do_{kind}"), for_s, **facts)
        self._begin_run(0)
        end = self.opened + int((self.plan.duration_s + END_S) * 1000)
        timer = self.loop.call_at(self.loop.at_ms(end), self._ended.set)
        await self._ended.wait()
        timer.cancel()
        await asyncio.sleep(1.0)  # what is on its way arrives
        clockwork.cancel()
        return await self._evidence()

    def _later(self, at_s: float, act: Callable[..., None], *args: Any, **facts: Any) -> None:
        time = self.loop.at_ms(self.opened) + at_s
        self.loop.call_at(time, lambda: act(*args, **facts), context=self._outside)

    async def _play_the_tape(self) -> None:
        while True:
            self.venue.step()
            due = self.venue.next_due()
            self._wake.clear()
            timer = self.loop.call_at(self.loop.at_ms(max(due, self.loop.now_ms)), self._wake.set)
            await self._wake.wait()
            timer.cancel()

    # --- the engine's process ---------------------------------------------------------------------------------------

    def _begin_run(self, number: int) -> None:
        """Prepare a run's folder as a notebook does, and start its engine."""
        run = self.root / "runs" / self.runs[number]
        run.mkdir(mode=0o700, parents=True)
        config = read_parameters(self.plan.settings)
        record = {"parameters": config.parameters(), "epoch": f"e{number}", "state": "starting", **keep_rule(config, run)}
        (run / "run.json").write_text(json.dumps(record))
        self._start(number)

    def _start(self, number: int) -> None:
        process = Process()
        context = self._outside.copy()
        context.run(PROCESS.set, process)
        clock = EngineClock(self.loop)
        run = self.root / "runs" / self.runs[number]
        try:
            engine = SimulatedEngine(run, self._reach)
        except Exception as error:
            self._die(Life(self.loop.now_ms, self.loop.now_ms, "failed", repr(error), number))
            return
        self.now = Incarnation(process, clock, engine, self.loop.now_ms, number)
        self.now.task = self.loop.create_task(self._live(self.now), context=context)

    async def _live(self, now: Incarnation) -> None:
        how, reason = "ended", ""
        try:
            await now.engine.run()
            reason = now.engine.end_reason
        except BaseException as error:
            if now.was_killed:
                return  # what a dying process still does is on a disk that nobody reads again
            how, reason = "failed", f"{type(error).__name__}: {error}"
            with suppress(Exception):
                now.engine.fail(error)
        if not now.was_killed:
            self._hang_up(now)
            self._die(Life(now.begin, self.loop.now_ms, how, reason, now.run))

    async def _reach(self, config: Config) -> Wiring:
        now = self.now
        assert now is not None
        now.exchange = exchange = connect_by(self.network, now.clock, config.execution.recv_window_ms)
        rest = BinanceRestClient(exchange, ENDPOINT.name)
        instrument = await rest.instrument(config.session.symbol)
        account = {"account": f"sim {INSTANCE}", "fingerprint": INSTANCE}
        return Wiring(config, ENDPOINT, exchange, rest, now.clock, instrument, rest, **account)  # type: ignore[arg-type]

    def _die(self, life: Life) -> None:
        """Note an engine's end; where it did not end by itself, start it again."""
        self.lives.append(life)
        if life.how == "ended":
            self.loop.call_soon(self._ended.set, context=self._outside)
            return
        self._crashes += life.how == "failed"
        if self._crashes > CRASHES:
            return
        pause = self.plan.restart_s * (2 ** max(self._crashes - 1, 0))
        self.loop.call_later(pause, self._start, life.run, context=self._outside)

    def _kill(self, lost: int = 0, torn: bool = False) -> None:
        """SIGKILL: the disk stays as it is now, the network is cut, and then the tasks are dropped.

        Args:
            lost: so many of the last commits are not on the disk: it had not written what it said it had.
            torn: behind the last commit stands half of a write.
        """
        now = self.now
        if now is None or now.task is None or now.was_killed or now.task.done():
            return
        now.was_killed = True
        self._keep_image(now, lost, torn)
        self._hang_up(now)
        now.process.go_on(self.loop)
        current = asyncio.current_task(self.loop)
        for task in list(now.process.tasks):
            if task is not current:
                task.cancel()
        died = self.loop.now_ms
        self.network.go_on(self._bury(now, died))

    async def _bury(self, now: Incarnation, died: int) -> None:
        """Once the last of its tasks is gone, put the disk's image in place."""
        while now.process.tasks:
            await asyncio.sleep(0.001)
        runs, image = self.root / "runs", self.root / "image"
        grave = self.root / f"dead{len(self.lives)}"
        for folder in ("runs", "state"):
            if (self.root / folder).exists():
                (self.root / folder).rename(self.root / f"{grave.name}-{folder}")
            if (image / folder).exists():
                (image / folder).rename(self.root / folder)
        assert runs.exists()
        shutil.rmtree(image)
        self._die(Life(now.begin, died, "killed", "", now.run))

    def _keep_image(self, now: Incarnation, lost: int, torn: bool) -> None:
        image = self.root / "image"
        image.mkdir()
        for folder in ("runs", "state"):
            if (self.root / folder).exists():
                shutil.copytree(self.root / folder, image / folder, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
        wal = image / "runs" / self.runs[now.run] / "journal.db-wal"
        if (lost or torn) and wal.exists() and DISK.synced:
            whole = DISK.synced[max(len(DISK.synced) - 1 - lost, 0)]
            kept = wal.read_bytes()[:whole]
            half = random.Random(self.plan.seed).randbytes(1_500) if torn else b""
            wal.write_bytes(kept + half)

    def _hang_up(self, now: Incarnation) -> None:
        if now.exchange is not None:
            now.exchange.is_dead = True
            for pipe in [pipe for pipe in self.network.pipes if pipe._client.wire is now.exchange]:
                pipe.hang_up()

    # --- strikes ----------------------------------------------------------------------------------------------------

    def _do_kill(self, for_s: float, lost: int = 0, torn: bool = False) -> None:
        self._kill(lost, torn)

    def _do_kill_at(self, for_s: float, what: str, skip: int = 0) -> None:
        """Kill the engine at the next packet or write of a kind, such as `send POST /fapi/v1/order`."""
        self._packets.append((what, skip, self._kill))

    def _do_stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if self.now is not None:
            process = self.now.process
            process.stop()
            self.loop.call_later(for_s, process.go_on, self.loop, context=self._outside)

    def _do_clock(self, for_s: float, ms: int) -> None:
        """The engine's wall clock is set, and set right again."""
        if self.now is not None:
            self.now.clock.ahead_ms += ms
            self.loop.call_later(for_s, self._set_right, ms, context=self._outside)

    def _set_right(self, ms: int) -> None:
        if self.now is not None:
            self.now.clock.ahead_ms = 0

    def _do_disk_full(self, for_s: float) -> None:
        DISK.is_full = True
        self.loop.call_later(for_s, setattr, DISK, "is_full", False, context=self._outside)

    def _do_cut(self, for_s: float) -> None:
        """No packet passes."""
        self._condition(for_s, "cut", True, False)

    def _do_slow(self, for_s: float, by_s: float) -> None:
        self._condition(for_s, "slow_s", by_s, 0.0)

    def _do_user_late(self, for_s: float, by_s: float) -> None:
        self._condition(for_s, "user_late_s", by_s, 0.0)

    def _do_deaf(self, for_s: float, category: str) -> None:
        """Sockets of a category are open and bring nothing."""
        self._condition(for_s, "deaf", frozenset({category}), frozenset())

    def _do_undialable(self, for_s: float, category: str) -> None:
        """Sockets of a category cannot be opened; those that are open stay."""
        self._condition(for_s, "undialable", frozenset({category}), frozenset())

    def _do_rewrite(self, for_s: float, on: str, find: str, put: str) -> None:
        """What arrives at the engine is altered on its way; see `Rewriting`."""
        self._list(for_s, self.network.conditions.rewritings, Rewriting(re.compile(on), re.compile(find), put))

    def _do_answer(
        self, for_s: float, on: str, status: int, body: str, headers: Json | None = None, **facts: Any
    ) -> None:
        """Requests are answered by somebody else than the venue; see `MadeAnswer`."""
        made = MadeAnswer(re.compile(on), status, body, headers or {}, **facts)
        self._list(for_s, self.network.conditions.made_answers, made)

    def _do_tell(self, for_s: float, category: str, text: str) -> None:
        """A message that the venue has not sent comes to a socket; `$now` in it is the time, ms."""
        for pipe in self.network.pipes:
            if pipe.category == category:
                pipe.tell(text.replace("$now", str(self.loop.now_ms)))

    def _list(self, for_s: float, listed: list[Any], item: Any) -> None:
        listed.append(item)
        self.loop.call_later(for_s, listed.remove, item, context=self._outside)

    def _condition(self, for_s: float, name: str, value: Any, after: Any) -> None:
        setattr(self.network.conditions, name, value)
        self.loop.call_later(for_s, setattr, self.network.conditions, name, after, context=self._outside)

    def _do_operator(self, for_s: float, action: str, reason: str = "by plan", final: bool = False) -> None:
        """An operator's command, as it comes over the control socket."""
        now = self.now
        if now is not None and now.task is not None and not now.task.done():
            now.engine._order(action, reason, final)

    def _on_packet(self, what: str) -> None:
        for number, (wanted, skip, act) in enumerate(self._packets):
            if what.startswith(wanted):
                if skip:
                    self._packets[number] = (wanted, skip - 1, act)
                    return
                del self._packets[number]
                act()
                if PROCESS.get() is not None:
                    raise Killed
                return

    def _on_write(self, when: str) -> None:
        if when == "after commit" and self.now is not None:
            wal = self.root / "runs" / self.runs[self.now.run] / "journal.db-wal"
            DISK.synced.append(wal.stat().st_size if wal.exists() else 0)
        if self._packets:
            self._on_packet(f"write {when}")

    # --- what is left behind ----------------------------------------------------------------------------------------

    def _is_durable(self, client_id: str) -> bool:
        """Ask the journal's file, as another process would, for an intent."""
        now = self.now
        path = str(self.root / "runs" / self.runs[now.run if now else 0] / "journal.db")
        if self._reader is not None and self._reader[0] != (path, id(now)):
            self._reader[1].close()
            self._reader = None
        if self._reader is None:
            self._reader = ((path, id(now)), sqlite3.connect(f"file:{path}?mode=ro", uri=True))  # type: ignore[assignment]
        wanted = f'"{client_id}"'.encode()
        rows = self._reader[1].execute("SELECT kind, body FROM journal ORDER BY seq DESC LIMIT 400")  # type: ignore[index]
        return any(kind == "OrderIntent" and wanted in body for kind, body in rows)

    async def _evidence(self) -> Evidence:
        now = self.now
        judged = self.loop.now_ms
        if now is not None and now.task is not None and not now.task.done():
            self.lives.append(Life(now.begin, judged, "running", "", now.run))
            now.was_killed = True
            self._hang_up(now)
            for task in list(now.process.tasks):
                task.cancel()
            while now.process.tasks:
                await asyncio.sleep(0.001)
        if self._reader is not None:
            self._reader[1].close()
        self.network.close()
        self.venue.truth.close()
        paths = [self.root / "runs" / name / "journal.db" for name in self.runs]
        plan = self.plan
        rows = [json.loads(line) for line in (self.root / "venue/truth.jsonl").read_text().splitlines()]
        return Evidence(
            seed=plan.seed,
            settings=json.loads(json.dumps(read_parameters(plan.settings).parameters(), default=str)),
            instrument=next(row for row in rows if row["kind"] == "start")["instruments"][0],
            truth=rows,
            journals=[read_journal(path) if path.exists() else [] for path in paths],
            requests=sorted(self.network.requests, key=lambda request: (request.sent, request.arrived)),
            strikes=self._strikes(),
            rest_down=self._rest_down(),
            tape=self._tape(),
            lives=self.lives,
            opened=self.opened,
            quiet=self.opened + int(plan.faults_s * 1000),
            judged=judged,
            replay=[_differences(path) for path in paths if path.exists()],
        )

    def _strikes(self) -> list[Strike]:
        return [
            Strike(kind, self.opened + int(at * 1000), self.opened + int((at + for_s) * 1000), facts)
            for at, kind, for_s, facts in self.plan.strikes
        ]

    def _rest_down(self) -> list[tuple[int, int]]:
        down = {"cut", "maintenance", "ban"}
        return [
            (self.opened + int(at * 1000), self.opened + int((at + (for_s or facts.get("for_s", 0))) * 1000))
            for at, kind, for_s, facts in self.plan.strikes
            if kind in down
        ]

    def _tape(self) -> list[tuple[int, str, str, int, bool]]:
        player = self.venue.player
        unit = player.market.instrument
        return [
            (number, f"{unit.price(price):f}", f"{unit.quantity(lots):f}", time, maker)
            for number, price, lots, time, maker in player.trades[: player.trades_played].rows()
        ]


def _differences(path: Path) -> int:
    try:
        return replay(path).differences
    except Exception:
        return -1


def trace_hash(evidence: Evidence, heads: list[str]) -> str:
    """Return a hash of everything that was said between engine and venue, and of all that was decided."""
    digest = hashlib.sha256()
    for request in evidence.requests:
        digest.update(repr(request).encode())
    for row in evidence.truth:
        digest.update(json.dumps(row, sort_keys=True).encode())
    for head in heads:
        digest.update(head.encode())
    return digest.hexdigest()


def journal_rows(evidence: Evidence) -> list[JournalRow]:
    """Return the rows of all journals, one after the other."""
    return [row for journal in evidence.journals for row in journal]
