"""What a plan may do to a session besides the faults of `venue/faults.json`: each kind is a `do_` method here."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.altering import Answering, Retelling
from simulation.clock import PROCESS
from simulation.engines import Killed, ask
from simulation.evidence import Json, Life, Told
from simulation.kinds import Strike
from voltrade.engine.guardian import SILENT_S
from voltrade.runs.run_file import can_be_resumed
from voltrade.venue.faults import Fault

if TYPE_CHECKING:
    from simulation.world import World


WAITING = ("kill_at", "when_ordered")
"""Strikes that count when they have met what they wait for."""
TAKEN = "user ORDER_TRADE_UPDATE NEW vt-"
"""How the venue tells that it has taken an order of ours."""


def is_of_harness(strike: Strike) -> bool:
    """Whether a strike is a `do_` method here; otherwise it is one of the venue's."""
    return hasattr(Strikes, f"do_{strike[1]}")


class Strikes:
    """The strikes of one session. Each takes the seconds that it lasts, and its facts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._conditions = world.network.conditions
        self._kills_at: list[tuple[str, int, int, int]] = []
        """Where the engine is killed: (begin of what happens there, so many that are let pass first, commits that are
        not on the disk, place in the plan)."""
        self._on_orders: list[tuple[int, Fault]] = []
        """What happens at the venue when it takes the next order of ours: (place in the plan, what)."""
        self.struck: Counter[int] = Counter()
        """How often a strike met an engine, by its place in the plan."""
        self._place = -1

    def strike(self, place: int, for_s: float, facts: Json) -> None:
        """Do what a strike of the plan says, and note whether an engine was there that it may meet."""
        kind = self._world.plan.strikes[place][1]
        now, self._place = self._world.now, place
        is_met = (for_s > 0 and kind != "stop") or (now is not None and now.is_alive)
        self.struck[place] += is_met and kind not in WAITING
        getattr(self, f"do_{kind}")(for_s, **facts)

    def _while(self, for_s: float, listed: list[Any], item: Any) -> None:
        """Have something listed for some seconds."""
        listed.append(item)
        self._world.later(for_s, listed.remove, item)

    # --- the network ------------------------------------------------------------------------------------------------

    def do_cut(self, for_s: float) -> None:
        """No packet passes."""
        self._while(for_s, self._conditions.cut, True)

    def do_slow(self, for_s: float, by_s: float) -> None:
        """Each packet takes longer."""
        self._while(for_s, self._conditions.slow_s, by_s)

    def do_user_late(self, for_s: float, by_s: float) -> None:
        """User data takes longer, in order."""
        self._while(for_s, self._conditions.user_late_s, by_s)

    def do_deaf(self, for_s: float, category: str) -> None:
        """Sockets of a category are open and bring nothing."""
        self._while(for_s, self._conditions.deaf, category)

    def do_flap(self, for_s: float, category: str, lost: bool = False) -> None:
        """Sockets of a category are closed as soon as they are open; those that are open stay, or are lost."""
        self._while(for_s, self._conditions.flapping, category)
        self._abort(category if lost else "")

    def do_undialable(self, for_s: float, category: str, lost: bool = False) -> None:
        """Sockets of a category cannot be opened; those that are open stay, or are lost."""
        self._while(for_s, self._conditions.undialable, category)
        self._abort(category if lost else "")

    def _abort(self, category: str) -> None:
        for pipe in [each for each in self._world.network.pipes if each.category == category]:
            pipe.abort()

    def do_answer(self, for_s: float, on: str, **facts: Any) -> None:
        """Requests are answered otherwise than by the venue; see `Answering`."""
        self._while(for_s, self._conditions.answerings, Answering(re.compile(on), **facts))

    def do_retell(self, for_s: float, on: str, change: Callable[[Json], list[Json]]) -> None:
        """Events are told otherwise than the venue tells them; see `Retelling`."""
        self._while(for_s, self._conditions.retellings, Retelling(re.compile(on), change))

    def do_tell(self, for_s: float, category: str, text: str) -> None:
        """A message that the venue has not sent comes to a socket; `$now` in it is the time, ms."""
        for pipe in self._world.network.pipes:
            if pipe.category == category:
                pipe.tell(text.replace("$now", str(self._world.loop.now_ms)))

    # --- the venue --------------------------------------------------------------------------------------------------

    def do_when_ordered(self, for_s: float, do: str, until_s: float, **facts: Any) -> None:
        """Something happens at the venue as soon as it has taken an order of ours, while that works."""
        waiting = (self._place, Fault(**{"do": do, **facts}))
        self._on_orders.append(waiting)
        self._world.later(until_s - self._world.plan.strikes[self._place][0], self._give_up, waiting)

    def _give_up(self, waiting: tuple[int, Fault]) -> None:
        if waiting in self._on_orders:
            self._on_orders.remove(waiting)

    def on_event(self, what: str) -> None:
        """Let happen what waits for an order, once the venue has told of it."""
        if self._on_orders and what.startswith(TAKEN):
            self._world.later(0, self._happen)

    def _happen(self) -> None:
        """Let what has waited longest happen, where an order works yet."""
        venue = self._world.venue
        if self._on_orders and any(market.open_orders for market in venue.exchange.markets.values()):
            place, fault = self._on_orders.pop(0)
            self.struck[place] += 1
            venue.faults.add_from_now([fault])
            venue.step()

    # --- the machine ------------------------------------------------------------------------------------------------

    def do_stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if self._world.now is not None:
            process = self._world.now.process
            process.stop()
            self._world.later(for_s, process.go_on, self._world.loop)

    def do_clock(self, for_s: float, ms: int) -> None:
        """The machine's wall clock is set, and set right again."""
        self._while(for_s, self._world.clock_ahead_ms, ms)

    def do_disk_full(self, for_s: float) -> None:
        """Nothing more can be written."""
        self._while(for_s, self._world.disk.is_full, True)

    def do_move(self, for_s: float, what: str, to: str) -> None:
        """A file or folder below the session's root gets another name, as `runs/run`."""
        world = self._world
        world.disk.touched(what).rename(world.root / to)
        world.runs = [to.removeprefix("runs/") if f"runs/{name}" == what else name for name in world.runs]

    def do_remove(self, for_s: float, what: str) -> None:
        """A file below the session's root is deleted, or a folder with all in it."""
        path = self._world.disk.touched(what)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def do_copy(self, for_s: float, what: str, to: str) -> None:
        """A file below the session's root is copied, as a backup does."""
        shutil.copy(self._world.root / what, self._world.root / to)

    def do_put(self, for_s: float, what: str, left: bytes) -> None:
        """A file below the session's root has other bytes."""
        self._world.disk.touched(what).write_bytes(left)

    def do_spoil(self, for_s: float, what: str, size: int) -> None:
        """The last bytes of a file below the session's root are overwritten."""
        self._world.disk.spoil(what, size)

    # --- the process ------------------------------------------------------------------------------------------------

    def do_run(self, for_s: float, name: str, again: bool = True, **settings: Any) -> None:
        """Begin another run on the account, in a folder of its own; without `again` nobody restarts its engine."""
        self._world.to_come -= 1
        if not again:
            self._world.left_dead.add(len(self._world.runs))
        self._world.begin_run(name, settings)

    def do_resume(self, for_s: float, run: int = 0) -> None:
        """Go on with a run as `run --resume` does: one that was not cut short is refused."""
        world = self._world
        world.to_come -= 1
        if can_be_resumed(world.folder(run)):
            world.start(run)
        else:
            world.die(Life(world.loop.now_ms, world.loop.now_ms, "refused", "was not cut short", run))

    def do_kill(
        self, for_s: float, lost: int = 0, torn: bool = False, again: bool = True, run: int | None = None
    ) -> None:
        """Kill an engine; without `again` nobody starts it again but a `resume`."""
        now = self._world.engine(run)
        if now is not None and not again:
            self._world.left_dead.add(now.run)
        self._world.kill(lost, torn, run)

    def do_hang(self, for_s: float) -> None:
        """The event loop stands still, without end: the guardian kills the engine."""
        now = self._world.now
        if now is not None and now.is_alive:
            now.process.stop()
            self._world.later(SILENT_S, self._world.kill, 0, False, now.run)

    def do_kill_twice(self, for_s: float, again_s: float) -> None:
        """Kill the engine, and what is started in its place while it recovers."""
        self._world.kill()
        self._world.later(again_s, self._world.kill)

    def do_kill_at(self, for_s: float, what: str, skip: int = 0, lost: int = 0) -> None:
        """Kill the engine at the next packet or write of a kind, such as `send POST /fapi/v1/order`; see `kill`."""
        self._kills_at.append((what, skip, lost, self._place))

    def do_crash(self, for_s: float, again: bool = True, run: int | None = None) -> None:
        """An error that nobody foresaw comes out of the engine's loop: it takes an event that is none."""
        now = self._world.engine(run)
        if now is not None and now.engine._system is not None:
            if not again:
                self._world.left_dead.add(now.run)
            now.engine._system.on_event(object())  # type: ignore[arg-type]

    def do_operator(
        self, for_s: float, action: str, reason: str = "by plan", final: bool = False, run: int | None = None
    ) -> None:
        """An operator's command, as it comes over the control socket; `final` is a stop's, past the socket."""
        now = self._world.engine(run)
        if now is not None and final:
            now.engine._command(action, reason, final)
        elif now is not None and now.engine._control is not None:
            line = json.dumps({"op": action, "reason": reason}).encode() + b"\n"
            self._world.within(now.process, self._say(now.engine._control, line))

    def look(self) -> None:
        """An operator looks at the session, and resumes it where it is halted or paused."""
        now = self._world.now
        system = now.engine._system if now is not None and now.is_alive else None
        if system is not None and (system.core.paused or system.core.breaker.mode == "HALTED"):
            self.do_operator(0.0, "resume", "seen by an operator")

    async def _say(self, control: Any, line: bytes) -> None:
        answer = await ask(control, line)
        told = Told(self._world.loop.now_ms, json.loads(line), json.loads(answer) if answer else {})
        self._world.told.append(told)

    def on_packet(self, what: str) -> None:
        """Kill the engine where a plan says so: at a packet, or at a write."""
        for number, (wanted, skip, lost, place) in enumerate(self._kills_at):
            if what.startswith(wanted):
                if skip:
                    self._kills_at[number] = (wanted, skip - 1, lost, place)
                    return
                del self._kills_at[number]
                self.struck[place] += 1
                self._world.kill(lost)
                if PROCESS.get() is not None:
                    raise Killed
                return

    def on_write(self, when: str) -> None:
        """As `on_packet`, around a journal's commit."""
        if self._kills_at:
            self.on_packet(f"write {when}")
