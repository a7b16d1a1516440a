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
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from simulation.clock import PROCESS, Process, VirtualLoop
from simulation.evidence import Evidence, Json, JournalRow, Life, Strike, Told, read_journal
from simulation.network import ENDPOINT, LATENCY_S, MadeAnswer, Network, Rewriting, SimulatedExchange, connect_by

from voltrade.config import Config
from voltrade.control import Control
from voltrade.engine import Engine
from voltrade.exchange.binance import BinanceRestClient
from voltrade.exchange.faults import Fault
from voltrade.exchange.truth import TruthLog
from voltrade.exchange.venue import Venue
from voltrade.journal import Journal
from voltrade.model import Trades
from voltrade.record import was_cut_short
from voltrade.replay import replay
from voltrade.rule_file import keep_rule, read_parameters
from voltrade.wiring import Wiring

QUIET_S = 60.0
"""After the last fault: the session must be able to trade again, or say why not."""
MARKET_FIRST_S = 0.000_1
"""Without latency, so much later than the trade that made it comes what happened to an order: as on a tape."""
END_S = 60.0
"""How much longer than its time a session may take to end."""
LONGEST_PAUSE_S = 15.0
"""Whoever starts a dead engine again waits twice as long after each failure, up to this long."""
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
    """

    is_full: bool = False
    on_write: Callable[[str], None] = lambda when: None


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
    """One life of the engine's process.

    Attributes:
        synced: lengths of the journal's log on disk after each commit, the newest last.
    """

    process: Process
    clock: EngineClock
    engine: SimulatedEngine
    begin: int
    run: int
    task: asyncio.Task[None] | None = None
    exchange: SimulatedExchange | None = None
    was_killed: bool = False
    synced: list[int] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        return self.task is not None and not self.task.done() and not self.was_killed


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
        kinds: names of the strikes, to count by; and `rows`, of the fault catalogue.
        latency_s: shortest and longest time that a packet takes, one way.
    """

    seed: int
    settings: Json
    tape: Trades
    begin_s: float
    strikes: tuple[tuple[float, str, float, Json], ...] = ()
    faults_s: float = 720.0
    restart_s: float = 1.5
    kinds: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    latency_s: tuple[float, float] = LATENCY_S

    @property
    def duration_s(self) -> float:
        """Until the last of its runs should be over."""
        return lasts_s(self.settings, self.strikes)


def lasts_s(settings: Json, strikes: Iterable[tuple[float, str, float, Json]]) -> float:
    """How long a session of these settings takes with the runs that its strikes begin or go on with."""
    usual = float(settings["duration_s"])
    more = [at + facts.get("duration_s", usual) for at, kind, _, facts in strikes if kind in ("run", "resume")]
    return max([usual, *more])


class World:
    """Plays a plan.

    Args:
        root: an empty folder, the same for every session of a process, so that a rule file is compiled once.
    """

    def __init__(self, loop: VirtualLoop, plan: Plan, root: Path) -> None:
        self.loop, self.plan, self.root = loop, plan, root
        self.lives: list[Life] = []
        self.told: list[Told] = []
        self.started: list[Incarnation] = []
        self.runs: list[str] = []
        """Names of the runs on the account, in order of their begin."""
        self._settings: list[Json] = []
        self._left_dead: set[int] = set()
        """Runs whose engine nobody starts again."""
        self._to_come = 0
        """Engines that will be started yet."""
        self._outside = contextvars.copy_context()
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._readers: dict[int, tuple[Incarnation, sqlite3.Connection]] = {}
        self._crashes: Counter[int] = Counter()
        self._retold: list[tuple[re.Pattern[str], Callable[[Json], list[Json]]]] = []
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
        self.network = Network(loop, self.venue, random.Random(plan.seed), self._is_durable, plan.latency_s)
        if plan.latency_s == (0.0, 0.0):
            self.network.conditions.user_late_s = MARKET_FIRST_S
        self.network.wake = self._wake.set
        self.network.on_packet = self._on_packet
        self._tell = self.venue.faults.on_event
        self.venue.faults.on_event = self._on_event  # type: ignore[method-assign]
        self.opened = loop.now_ms

    @property
    def now(self) -> Incarnation | None:
        """The engine that was started last."""
        return self.started[-1] if self.started else None

    def _here(self) -> Incarnation | None:
        """The engine whose process runs just now; outside of any the one that was started last."""
        process = PROCESS.get()
        return next((each for each in self.started if each.process is process), self.now)

    def _engine(self, run: int | None) -> Incarnation | None:
        """The living engine of a run; without a run that of the one that was started last."""
        found = self.now if run is None else next((each for each in self.started[::-1] if each.run == run), None)
        return found if found is not None and found.is_alive else None

    # --- the session ------------------------------------------------------------------------------------------------

    async def play(self) -> Evidence:
        """Play it to its end and return what there is to judge."""
        clockwork = self.loop.create_task(self._play_the_tape())
        for at, kind, for_s, facts in self.plan.strikes:
            if hasattr(self, f"_do_{kind}"):
                self._later(at, getattr(self, f"_do_{kind}"), for_s, **facts)
                self._to_come += kind in ("run", "resume")
        self._begin_run("run", {})
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

    def _begin_run(self, name: str, settings: Json) -> None:
        """Prepare a run's folder as a notebook does, and start its engine."""
        number = len(self.runs)
        self.runs.append(name)
        run = self._folder(number)
        run.mkdir(mode=0o700, parents=True)
        config = read_parameters({**self.plan.settings, **settings})
        record = {"parameters": config.parameters(), "epoch": f"e{number}", "state": "starting"}
        record |= keep_rule(config, run)
        (run / "run.json").write_text(json.dumps(record))
        self._start(number)

    def _folder(self, number: int) -> Path:
        return self.root / "runs" / self.runs[number]

    def _start(self, number: int) -> None:
        process = Process()
        context = self._outside.copy()
        context.run(PROCESS.set, process)
        clock = EngineClock(self.loop)
        try:
            engine = SimulatedEngine(self._folder(number), self._reach)
        except Exception as error:
            self._die(Life(self.loop.now_ms, self.loop.now_ms, "failed", repr(error), number))
            return
        started = Incarnation(process, clock, engine, self.loop.now_ms, number)
        self.started.append(started)
        started.task = self.loop.create_task(self._live(started), context=context)

    def _start_again(self, number: int) -> None:
        self._to_come -= 1
        self._start(number)

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
        now = self._here()
        assert now is not None
        now.exchange = exchange = connect_by(self.network, now.clock, config.execution.recv_window_ms)
        rest = BinanceRestClient(exchange, ENDPOINT.name)
        instrument = await rest.instrument(config.session.symbol)
        account = {"account": f"sim {INSTANCE}", "fingerprint": INSTANCE}
        return Wiring(config, ENDPOINT, exchange, rest, now.clock, instrument, rest, **account)  # type: ignore[arg-type]

    def _die(self, life: Life) -> None:
        """Note an engine's end; where it did not end by itself, start it again."""
        self.lives.append(life)
        crashes = self._crashes
        if life.how in ("killed", "failed") and life.run not in self._left_dead:
            crashes[life.run] += life.how == "failed"
            pause = min(self.plan.restart_s * 2 ** max(crashes[life.run] - 1, 0), LONGEST_PAUSE_S)
            self._to_come += 1
            self.loop.call_later(pause, self._start_again, life.run, context=self._outside)
            return
        self.loop.call_soon(self._end_if_over, context=self._outside)

    def _end_if_over(self) -> None:
        """End the session where every run has ended and none is to come; one that lies dead is given all its time."""
        last = {life.run: life.how for life in self.lives if life.how != "refused"}
        if not self._to_come and all(last.get(run) == "ended" for run in range(len(self.runs))):
            self._ended.set()

    def _kill(self, lost: int = 0, torn: bool = False, run: int | None = None) -> None:
        """SIGKILL: the disk stays as it is now, the network is cut, and then the tasks are dropped.

        Args:
            lost: so many of the last commits are not on the disk: it had not written what it said it had.
            torn: behind the last commit stands half of a write.
            run: whose engine; without it the one at this place, else the one that was started last.
        """
        now = self._here() if run is None else self._engine(run)
        if now is None or not now.is_alive:
            return
        assert sum(each.is_alive for each in self.started) == 1, "a kill's image is of the whole disk"
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
        if (lost or torn) and wal.exists() and now.synced:
            whole = now.synced[max(len(now.synced) - 1 - lost, 0)]
            kept = wal.read_bytes()[:whole]
            half = random.Random(self.plan.seed).randbytes(1_500) if torn else b""
            wal.write_bytes(kept + half)

    def _hang_up(self, now: Incarnation) -> None:
        if now.exchange is not None:
            now.exchange.is_dead = True
            for pipe in [pipe for pipe in self.network.pipes if pipe._client.wire is now.exchange]:
                pipe.hang_up()

    # --- strikes ----------------------------------------------------------------------------------------------------

    def _do_run(self, for_s: float, name: str, again: bool = True, **settings: Any) -> None:
        """Begin another run on the account, in a folder of its own; without `again` nobody restarts its engine."""
        self._to_come -= 1
        if not again:
            self._left_dead.add(len(self.runs))
        self._begin_run(name, settings)

    def _do_resume(self, for_s: float, run: int = 0) -> None:
        """Go on with a run as `run --resume` does: one that was not cut short is refused."""
        self._to_come -= 1
        if was_cut_short(self._folder(run)):
            self._start(run)
        else:
            self._die(Life(self.loop.now_ms, self.loop.now_ms, "refused", "was not cut short", run))

    def _do_move(self, for_s: float, what: str, to: str) -> None:
        """A file or folder below the session's root gets another name, as `runs/run`."""
        self._close_readers()
        (self.root / what).rename(self.root / to)
        self.runs = [to.removeprefix("runs/") if f"runs/{name}" == what else name for name in self.runs]

    def _do_remove(self, for_s: float, what: str) -> None:
        """A file below the session's root is deleted."""
        self._close_readers()
        (self.root / what).unlink()

    def _do_spoil(self, for_s: float, what: str, size: int) -> None:
        """The last bytes of a file below the session's root are overwritten."""
        self._close_readers()
        path = self.root / what
        kept = path.read_bytes()[:-size]
        path.write_bytes(kept + random.Random(self.plan.seed).randbytes(size))

    def _do_kill(
        self, for_s: float, lost: int = 0, torn: bool = False, again: bool = True, run: int | None = None
    ) -> None:
        """Kill an engine; without `again` nobody starts it again but a `resume`."""
        now = self._engine(run)
        if now is not None and not again:
            self._left_dead.add(now.run)
        self._kill(lost, torn, run)

    def _do_crash(self, for_s: float, again: bool = True, run: int | None = None) -> None:
        """An error that nobody foresaw comes out of the engine's loop: it takes an event that is none."""
        now = self._engine(run)
        if now is not None and now.engine._system is not None:
            if not again:
                self._left_dead.add(now.run)
            now.engine._system.on_event(object())  # type: ignore[arg-type]

    def _do_kill_twice(self, for_s: float, again_s: float) -> None:
        """Kill the engine, and what is started in its place while it recovers."""
        self._kill()
        self.loop.call_later(again_s, self._kill, context=self._outside)

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

    def _do_flap(self, for_s: float, category: str) -> None:
        """Sockets of a category are closed as soon as they are open."""
        self._condition(for_s, "flapping", frozenset({category}), frozenset())

    def _do_reword(self, for_s: float, on: str, change: Callable[[Any], Any]) -> None:
        """Answers to requests whose `METHOD path?query` matches carry what `change` makes of their JSON."""
        self._for_a_while(for_s, self.network.reworded, (re.compile(on), change))

    def _do_retell(self, for_s: float, on: str, change: Callable[[Json], list[Json]]) -> None:
        """Events that match, as a `Fault.on` would, are told as the events that `change` makes of each."""
        self._for_a_while(for_s, self._retold, (re.compile(on), change))

    def _for_a_while(self, for_s: float, among: list[Any], what: Any) -> None:
        among.append(what)
        self.loop.call_later(for_s, among.remove, what, context=self._outside)

    def _on_event(self, what: str, events: list[bytes], send: Callable[[list[bytes]], object]) -> None:
        for pattern, change in self._retold:
            if pattern.search(what):
                events = [orjson.dumps(new) for event in events for new in change(orjson.loads(event))]
        self._tell(what, events, send)

    def _do_operator(
        self, for_s: float, action: str, reason: str = "by plan", final: bool = False, run: int | None = None
    ) -> None:
        """An operator's command, as it comes over the control socket; `final` is a stop's, past the socket."""
        now = self._engine(run)
        if now is not None and final:
            now.engine._order(action, reason, final)
        elif now is not None and now.engine._control is not None:
            line = json.dumps({"op": action, "reason": reason}).encode() + b"\n"
            context = self._outside.copy()
            context.run(PROCESS.set, now.process)
            self.loop.create_task(self._ask(now.engine._control, line), context=context)

    async def _ask(self, control: Control, line: bytes) -> None:
        reader, answer = asyncio.StreamReader(), _Answer()
        reader.feed_data(line)
        reader.feed_eof()
        await control._serve(reader, answer)  # type: ignore[arg-type]
        self.told.append(Told(self.loop.now_ms, json.loads(line), json.loads(answer.text) if answer.text else {}))

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
        if when == "after commit" and (here := self._here()) is not None:
            wal = self._folder(here.run) / "journal.db-wal"
            here.synced.append(wal.stat().st_size if wal.exists() else 0)
        if self._packets:
            self._on_packet(f"write {when}")

    # --- what is left behind ----------------------------------------------------------------------------------------

    def _is_durable(self, client_id: str) -> bool:
        """Ask the files of the journals, as another process would, for an intent."""
        wanted = f'"{client_id}"'.encode()
        for now in {each.run: each for each in self.started}.values():
            rows = self._reader(now).execute("SELECT kind, body FROM journal ORDER BY seq DESC LIMIT 400")
            if any(kind == "OrderIntent" and wanted in body for kind, body in rows):
                return True
        return False

    def _reader(self, now: Incarnation) -> sqlite3.Connection:
        """A connection to the journal of an engine, made anew for each of its lives."""
        known = self._readers.get(now.run)
        if known is None or known[0] is not now:
            if known is not None:
                known[1].close()
            path = self._folder(now.run) / "journal.db"
            at = f"file:{path}?mode=ro" if path.exists() else ":memory:"
            connection = sqlite3.connect(at, uri=True)
            if not path.exists():
                connection.execute("CREATE TABLE journal (seq, kind, body)")
                return connection
            self._readers[now.run] = known = (now, connection)
        return known[1]

    def _close_readers(self) -> None:
        """Before somebody touches the files: what a reader of this process knows of a log outlives the file."""
        for _, reader in self._readers.values():
            reader.close()
        self._readers.clear()
        for index in (self.root / "runs").rglob("*-shm"):
            index.unlink()

    async def _evidence(self) -> Evidence:
        judged = self.loop.now_ms
        for now in [each for each in self.started if each.is_alive]:
            self.lives.append(Life(now.begin, judged, "running", "", now.run))
            now.was_killed = True
            self._hang_up(now)
            for task in list(now.process.tasks):
                task.cancel()
            while now.process.tasks:
                await asyncio.sleep(0.001)
        for _, reader in self._readers.values():
            reader.close()
        self.network.close()
        self.venue.truth.close()
        paths = [self._folder(number) / "journal.db" for number in range(len(self.runs))]
        plan = self.plan
        rows = [json.loads(line) for line in (self.root / "venue/truth.jsonl").read_text().splitlines()]
        return Evidence(
            seed=plan.seed,
            settings=json.loads(json.dumps(read_parameters(plan.settings).parameters(), default=str)),
            instrument=next(row for row in rows if row["kind"] == "start")["instruments"][0],
            truth=rows,
            journals=[_rows(path) for path in paths],
            requests=sorted(self.network.requests, key=lambda request: (request.sent, request.arrived)),
            strikes=self._strikes(),
            rest_down=self._rest_down(),
            tape=self._tape(),
            lives=self.lives,
            opened=self.opened,
            quiet=self.opened + int(plan.faults_s * 1000),
            judged=judged,
            replay=[_differences(path) for path in paths if path.exists()],
            dials=self.network.dials,
            told=self.told,
        )

    def _strikes(self) -> list[Strike]:
        rows = self.plan.rows or ("",) * len(self.plan.strikes)
        return [
            Strike(kind, self.opened + int(at * 1000), self.opened + int((at + for_s) * 1000), {**facts, "row": row})
            for (at, kind, for_s, facts), row in zip(self.plan.strikes, rows, strict=True)
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


def _rows(path: Path) -> list[JournalRow]:
    """The rows of a journal; none where it is gone or can't be read."""
    try:
        return read_journal(path)
    except sqlite3.DatabaseError:
        return []


class _Answer:
    """Where the control socket writes its answer."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, text: bytes) -> None:
        self.text += text

    async def drain(self) -> None:
        """Nobody reads slowly."""

    def close(self) -> None:
        """Nothing to close."""


def _differences(path: Path) -> int:
    try:
        return replay(path).differences
    except Exception:
        return -1


def trace_hash(evidence: Evidence) -> str:
    """Return a hash of everything that was said between engine and venue, and of all that was decided."""
    digest = hashlib.sha256()
    for row in (*evidence.requests, *evidence.truth, *journal_rows(evidence), *evidence.lives):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def journal_rows(evidence: Evidence) -> list[JournalRow]:
    """Return the rows of all journals, one after the other."""
    return [row for journal in evidence.journals for row in journal]
