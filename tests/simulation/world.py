"""One simulated session: a venue, the network, an engine that is killed and started again, and what they leave behind.

Everything that trades is the product's own: `Engine` with its ledger, journal, recovery and warm-up, the order monitor,
the stream manager, the ccxt subclass, and the venue's request handler, faults and log. What is the harness's: the
clock, the network, the disk's failures, and whoever starts a dead engine again.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulation.clock import PROCESS, Process, VirtualLoop
from simulation.disk import DISK, Disk, SimulatedBlockNote
from simulation.engines import EngineClock, Incarnation, SimulatedEngine
from simulation.evidence import Evidence, Json, Life, Told
from simulation.network import Network
from simulation.plans import END_S, Plan
from simulation.remains import Remains, evidence_of
from simulation.strikes import Strikes, is_of_harness
from simulation.wire import ENDPOINT, connect_by
from voltrade.config import Config
from voltrade.engine.guardian import Crash, Restarts, last_row
from voltrade.engine.modes import Wiring, first_contact
from voltrade.exchange.binance import BinanceRestClient
from voltrade.runs.run_file import JOURNAL, RECORD
from voltrade.simulated.ground_truth import TruthLog
from voltrade.strategy.rule_file import keep_rule, read_parameters
from voltrade.venue.faults import Fault
from voltrade.venue.server import Venue

MARKET_FIRST_S = 0.000_1
"""Without latency, so much later than the trade that made it comes what happened to an order: as on a tape."""
LONGEST_PAUSE_S = 15.0
"""Whoever starts a refused run again waits twice as long after each refusal, up to this long."""
REFUSALS = ("SessionError", "ConfigError", "AccountInUse")
INSTANCE = "simulated"


class World:
    """Plays a plan.

    Args:
        root: an empty folder, the same for every session of a process, so that a rule file is compiled once.
        is_replayed: whether its journals are replayed at the end.

    Attributes:
        runs: names of the runs on the account, in order of their begin.
        config: the plan's settings.
        left_dead: numbers of the runs whose engine nobody starts again.
        to_come: engines that will be started yet.
        clock_ahead_ms: by how much the machine's wall clock was set, each time that it is wrong now.
    """

    def __init__(self, loop: VirtualLoop, plan: Plan, root: Path, is_replayed: bool = True) -> None:
        self.loop, self.plan, self.root, self._is_replayed = loop, plan, root, is_replayed
        self.lives: list[Life] = []
        self.told: list[Told] = []
        self.started: list[Incarnation] = []
        self.runs: list[str] = []
        self.left_dead: set[int] = set()
        self.to_come = 0
        self.clock_ahead_ms: list[int] = []
        self._restarts: defaultdict[int, Restarts] = defaultdict(Restarts)
        """What the guardian of each run knows of its engines' deaths."""
        self._refused: Counter[int] = Counter()
        self.config = read_parameters(plan.settings, tries_rule=False)  # the engine does
        self.disk = Disk(root, plan.seed)
        DISK.set(self.disk)
        self._outside = contextvars.copy_context()
        """What belongs to no engine's process runs in it."""
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self.venue = self._make_venue()
        self.network = Network(loop, self.venue, random.Random(plan.seed), self._is_durable, plan.latency_s)
        self.network.wake = self._wake.set
        if plan.latency_s == (0.0, 0.0):
            self.network.conditions.user_late_s.append(MARKET_FIRST_S)
        self.strikes = Strikes(self)
        self.network.on_packet, self.disk.on_write = self.strikes.on_packet, self.strikes.on_write
        self.network.on_event = self.strikes.on_event
        self.opened = loop.now_ms

    def _make_venue(self) -> Venue:
        plan, log = self.plan, TruthLog(self.root / "venue")
        at_the_venue = [strike for strike in plan.strikes if not is_of_harness(strike)]
        script = [Fault(**{"do": kind, "at_s": at, "for_s": for_s, **facts}) for at, kind, for_s, facts in at_the_venue]
        return Venue(
            self.config,
            [plan.tape],
            log,
            begin_s=plan.begin_s,
            script=script,
            wall=lambda: self.loop.now_ms,
            instance=INSTANCE,
        )

    # --- who is who -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Incarnation | None:
        """The engine that was started last."""
        return self.started[-1] if self.started else None

    def here(self) -> Incarnation | None:
        """The engine whose process runs just now; outside of any the one that was started last."""
        process = PROCESS.get()
        return next((each for each in self.started if each.process is process), self.now)

    def engine(self, run: int | None) -> Incarnation | None:
        """The living engine of a run; without a run that of the one that was started last."""
        found = self.now if run is None else next((each for each in self.started[::-1] if each.run == run), None)
        return found if found is not None and found.is_alive else None

    def folder(self, run: int) -> Path:
        return self.root / "runs" / self.runs[run]

    def _is_durable(self, client_id: str) -> bool:
        """Whether the journal of a run that was started has an order's intent on the disk."""
        folders = dict.fromkeys(self.folder(each.run) for each in self.started)
        return any(self.disk.has_intent(folder, client_id) for folder in folders)

    # --- the session ------------------------------------------------------------------------------------------------

    async def play(self) -> Evidence:
        """Play it to its end and return what there is to judge."""
        clockwork = self.loop.create_task(self._play_the_tape())
        for place, strike in enumerate(self.plan.strikes):
            at, kind, for_s, facts = strike
            if is_of_harness(strike):
                self._at(at, self.strikes.strike, place, for_s, facts)
                self.to_come += kind in ("run", "resume")
        for at in self.plan.looks_s:
            self._at(at, self.strikes.look)
        self.begin_run("run", {})
        end = self.opened + int((self.plan.duration_s + END_S) * 1000)
        timer = self.loop.call_at(self.loop.at_ms(end), self._ended.set)
        await self._ended.wait()
        timer.cancel()
        await asyncio.sleep(1.0)  # what is on its way arrives
        clockwork.cancel()
        return await self._leave()

    def _at(self, at_s: float, act: Callable[..., None], *args: Any) -> None:
        time = self.loop.at_ms(self.opened) + at_s
        self.loop.call_at(time, act, *args, context=self._outside)

    def later(self, after_s: float, act: Callable[..., object], *args: Any) -> None:
        """Do something later, whatever becomes of any engine meanwhile."""
        self.loop.call_later(after_s, act, *args, context=self._outside)

    def within(self, process: Process, task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task within an engine's process."""
        context = self._outside.copy()
        context.run(PROCESS.set, process)
        return self.loop.create_task(task, context=context)

    async def _play_the_tape(self) -> None:
        while True:
            self.venue.step()
            due = self.venue.next_due()
            self._wake.clear()
            timer = self.loop.call_at(self.loop.at_ms(max(due, self.loop.now_ms)), self._wake.set)
            await self._wake.wait()
            timer.cancel()

    async def _leave(self) -> Evidence:
        """Stop what still runs, and gather what all leave behind."""
        judged = self.loop.now_ms
        for now in [each for each in self.started if each.is_alive]:
            self.lives.append(Life(now.begin, judged, "running", "", now.run))
            now.was_killed = True
            self._hang_up(now)
            self._cancel(now)
            await self._is_gone(now)
        self.disk.forget()
        self.network.close()
        self.venue.truth.close()
        network = self.network
        said = (network.requests, network.dials, network.hung_up, network.undialled, self.lives, self.told)
        folders = [self.folder(run) for run in range(len(self.runs))]
        parameters = self.config.parameters()
        left = Remains(self.plan, parameters, self.root, folders, self.venue.player, *said, (self.opened, judged))
        return replace(evidence_of(left, self._is_replayed), struck=dict(self.strikes.struck))

    # --- an engine's life -------------------------------------------------------------------------------------------

    def begin_run(self, name: str, settings: Json) -> None:
        """Prepare a run's folder as a notebook does, and start its engine."""
        number = len(self.runs)
        self.runs.append(name)
        run = self.folder(number)
        run.mkdir(mode=0o700, parents=True)
        config = read_parameters({**self.plan.settings, **settings}) if settings else self.config
        record = {"parameters": config.parameters(), "epoch": f"e{number}", "state": "starting"}
        record |= keep_rule(config, run)
        (run / "run.json").write_text(json.dumps(record))
        self.start(number)

    def start(self, run: int) -> None:
        """Start an engine in a run's folder."""
        try:
            engine = SimulatedEngine(self.folder(run), self._reach, self._restarts[run].caretaker)
        except Exception as error:
            self.die(Life(self.loop.now_ms, self.loop.now_ms, "failed", repr(error), run))
            return
        started = Incarnation(Process(), engine, self.loop.now_ms, run)
        self.started.append(started)
        started.task = self.within(started.process, self._live(started))

    def _start_again(self, run: int) -> None:
        self.to_come -= 1
        self.start(run)

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
            self.die(Life(now.begin, self.loop.now_ms, how, reason, now.run))

    async def _reach(self, config: Config) -> Wiring:
        now, clock = self.here(), EngineClock(self.loop, self.clock_ahead_ms)
        assert now is not None
        now.exchange = exchange = connect_by(self.network, clock, config.execution.recv_window_ms)
        exchange.keep_block(
            SimulatedBlockNote(self.folder(now.run), lambda: self.loop.now_ms + sum(self.clock_ahead_ms))
        )
        rest = BinanceRestClient(exchange, ENDPOINT.name)
        known = now.engine._known()
        instrument = await first_contact(rest, clock, config.session.symbol, known.instrument if known else None)
        account = {"account": f"sim {INSTANCE}", "fingerprint": INSTANCE}
        return Wiring(config, ENDPOINT, exchange, rest, clock, instrument, rest, **account)  # type: ignore[arg-type]

    def machine_ms(self) -> int:
        """What the machine's wall clock says, ms UTC."""
        return self.loop.now_ms + sum(self.clock_ahead_ms)

    def die(self, life: Life) -> None:
        """Note an engine's end; where it did not end by itself, start it again."""
        self.lives.append(life)
        if life.how in ("killed", "failed") and life.run not in self.left_dead:
            self.to_come += 1
            self.later(self._pause_after(life), self._start_again, life.run)
            return
        self.loop.call_soon(self._end_if_over, context=self._outside)

    def _pause_after(self, life: Life) -> float:
        """Seconds until another engine: the guardian's; after a refusal those of whoever starts the run again."""
        record = json.loads((self.folder(life.run) / RECORD).read_text())
        if life.reason.startswith(REFUSALS) or not record.get("begun"):
            self._refused[life.run] += 1
            return min(self.plan.restart_s * 2 ** (self._refused[life.run] - 1), LONGEST_PAUSE_S)
        guardian = self._restarts[life.run]
        row = last_row(self.folder(life.run) / JOURNAL)
        guardian.add(Crash(self.loop.time(), row, life.reason, by_itself=life.how == "failed"))
        return self.plan.restart_s + guardian.pause_s

    def _end_if_over(self) -> None:
        """End the session where every run has ended and none is to come; one that lies dead is given all its time."""
        last = {life.run: life.how for life in self.lives if life.how != "refused"}
        if not self.to_come and all(last.get(run) == "ended" for run in range(len(self.runs))):
            self._ended.set()

    def kill(self, lost: int = 0, torn: bool = False, run: int | None = None) -> None:
        """SIGKILL: the disk stays as it is now, the network is cut, and then the tasks are dropped.

        Args:
            lost, torn: see `Disk.keep_image`.
            run: whose engine; without it the one at this place, else the one that was started last.
        """
        now = self.here() if run is None else self.engine(run)
        if now is None or not now.is_alive:
            return
        assert sum(each.is_alive for each in self.started) == 1, "a kill's image is of the whole disk"
        now.was_killed = True
        self.disk.keep_image(self.runs[now.run], lost, torn)
        self._hang_up(now)
        while now.process.stops:
            now.process.go_on(self.loop)
        self._cancel(now)
        self.network.go_on(self._bury(now, self.loop.now_ms))

    async def _bury(self, now: Incarnation, died: int) -> None:
        """Once the last of its tasks is gone, put the disk's image in place."""
        await self._is_gone(now)
        self.disk.restore_image(f"dead{len(self.lives)}")
        self.die(Life(now.begin, died, "killed", "", now.run))

    def _cancel(self, now: Incarnation) -> None:
        """Drop an engine's tasks, but for the one that this is."""
        current = asyncio.current_task(self.loop)
        for task in list(now.process.tasks):
            if task is not current:
                task.cancel()

    async def _is_gone(self, now: Incarnation) -> None:
        """Wait for the last of an engine's tasks."""
        while now.process.tasks:
            await asyncio.sleep(0.001)

    def _hang_up(self, now: Incarnation) -> None:
        """Cut an engine's end of the network."""
        if now.exchange is not None:
            now.exchange.is_dead = True
            for pipe in [each for each in self.network.pipes if each.client.wire is now.exchange]:
                pipe.hang_up()
