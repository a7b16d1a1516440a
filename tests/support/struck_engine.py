"""An engine's process that dies, stops, or loses its disk at a write or a request of its own, counted from a moment on.

    python struck_engine.py PLAN RUN

A guardian starts it in place of `python -m voltrade.engine.engine_process RUN`, and but for the strikes it runs the
very same. PLAN is a JSON file with the names of a file for `marks`, the `strikes`, and the variables of `later` lives.
A strike comes in one life of the engine (0 is the first), at the `nth` time that something happens (`what`, see
`Strikes.reach`) since a `phase` has begun. The file of marks gets a line of JSON for each life and each strike, with
its time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_AHEAD_NS = [0]
"""By how much the machine's wall clock is wrong in this process."""
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() + _AHEAD_NS[0]
time.time = lambda: time.time_ns() / 1e9
if __name__ == "__main__" and json.loads(os.environ.get("VOLTRADE_GUARDIAN", "{}")).get("restarts"):
    os.environ.update(json.loads(Path(sys.argv[1]).read_text()).get("later", {}))  # before the package is imported

from voltrade.engine import engine_process  # noqa: E402  (after the clock, which the engine keeps)
from voltrade.engine.guardian import GUARDIAN  # noqa: E402
from voltrade.exchange.client import UsdmExchange  # noqa: E402
from voltrade.journal import Journal  # noqa: E402
from voltrade.model import AlgoUpdate, OrderIntent, OrderUpdate, Purpose  # noqa: E402

Json = dict[str, Any]
PLACES = ("/fapi/v1/order", "/fapi/v1/algoOrder")
HALF_WRITE = 1_500


class Strikes:
    """The strikes of one life.

    Args:
        plan: as read from its file.
        life: how often the engine was started before.
        run: folder of the run.
    """

    def __init__(self, plan: Json, life: int, run: Path) -> None:
        self._life, self._run = life, run
        self._marks = os.open(plan["marks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting = [strike for strike in plan["strikes"] if strike.get("life", 0) == life]
        self._counts: dict[str, Counter[str]] = {}
        self.mark("life")
        self.begin("start")
        self.reach("begin")
        for strike in [strike for strike in self._waiting if strike["what"] == "time"]:
            threading.Timer(strike["after_s"], self._carry_out, [strike]).start()

    def mark(self, what: str, **more: Any) -> None:
        line = {"mark": what, "life": self._life, "time": _time_ns() // 1_000_000, "pid": os.getpid(), **more}
        os.write(self._marks, json.dumps(line).encode() + b"\n")

    def begin(self, phase: str) -> None:
        """Count from now on for a phase that has not begun yet."""
        self._counts.setdefault(phase, Counter())

    def reach(self, what: str) -> None:
        """Count that something happens, and carry out what is to come then.

        It is `begin` of the life, `before commit` or `after commit` of the journal, `before send` of a request for an
        order or its cancel, or `after send`, when its answer has come and nobody knows of it yet.
        """
        for counted in self._counts.values():
            counted[what] += 1
        for strike in list(self._waiting):
            counted = self._counts.get(strike["phase"], Counter()) if "phase" in strike else Counter()
            if strike["what"] == what and counted[what] == strike["nth"]:
                self._carry_out(strike)

    def _carry_out(self, strike: Json) -> None:
        self._waiting.remove(strike)
        what = {name: strike[name] for name in strike if name not in ("life", "phase", "what", "nth", "do")}
        self.mark(strike["do"], **what)
        do: Callable[[Json], None] = getattr(self, f"_{strike['do']}")
        do(strike)

    def note(self, fact: object) -> None:
        """Begin the phase that a fact of the journal begins."""
        if isinstance(fact, OrderIntent) and fact.purpose in (Purpose.ENTRY, Purpose.EXIT):
            self.begin("entry" if fact.purpose is Purpose.ENTRY else "exit")
        elif isinstance(fact, OrderUpdate) and fact.trade_id:
            self.begin("filled")
            if fact.status == "PARTIALLY_FILLED":
                self.begin("partial")
        elif isinstance(fact, AlgoUpdate) and fact.status in ("TRIGGERING", "TRIGGERED"):
            self.begin("exit")

    # --- what strikes -----------------------------------------------------------------------------------------------

    def _kill(self, strike: Json) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _stop(self, strike: Json) -> None:
        """Stand still until somebody sends SIGCONT."""
        os.kill(os.getpid(), signal.SIGSTOP)

    def _full(self, strike: Json) -> None:
        """Fill the disk that the run is on to its last byte; whoever reads the mark frees it after `for_s`."""
        with suppress(OSError), (self._run.parent / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def _clock(self, strike: Json) -> None:
        """Set the wall clock; it stays wrong for this life."""
        _AHEAD_NS[0] += strike["ms"] * 1_000_000

    def _post(self, strike: Json) -> None:
        """Have the venue do something at once, before anything else happens here."""
        with urllib.request.urlopen(f"{strike['venue']}/voltrade/fault", json.dumps(strike["faults"]).encode()):
            pass

    def _tear(self, strike: Json) -> None:
        """Leave the journal as a machine does that loses its power, or a disk that is broken; and die."""
        tear(self._run / "journal.db", strike["how"], strike.get("much", 0))
        self._kill(strike)


def tear(path: Path, how: str, much: int) -> None:
    """Damage a journal's files; `much` is a count of commits or bytes."""
    log = path.with_name(f"{path.name}-wal")
    match how:
        case "lost":  # the disk had not written what it said it had
            from simulation.disk import commits

            ends = commits(log.read_bytes())
            os.truncate(log, ends[max(len(ends) - 1 - much, 0)])
        case "half":  # behind the last commit stands half of a write
            with log.open("ab") as file:
                file.write(os.urandom(HALF_WRITE))
        case "spoilt":
            log.write_bytes(log.read_bytes()[:-much] + os.urandom(much))
        case "log gone":
            log.unlink()
        case "cut":
            os.truncate(path, much)
        case "zeroed":
            with path.open("r+b") as file:
                file.write(b"\0" * much)
        case "gone":
            for file_name in path.parent.glob(f"{path.name}*"):
                file_name.unlink()
        case "folder gone":
            shutil.rmtree(path.parent, ignore_errors=True)


def _strike(strikes: Strikes) -> None:
    """Put the strikes into the engine's code."""
    append_fact, commit, fetch = Journal.append_fact, Journal.commit, UsdmExchange.fetch

    def appending(self: Journal, fact: Any, at: int) -> Any:
        strikes.note(fact)
        return append_fact(self, fact, at)

    def committing(self: Journal) -> None:
        if not self._waiting:
            return
        strikes.reach("before commit")
        commit(self)
        strikes.reach("after commit")

    async def fetching(self: UsdmExchange, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        is_order = method in ("POST", "DELETE") and urlsplit(url).path in PLACES
        if is_order:
            strikes.reach("before send")
        try:
            return await fetch(self, url, method, headers, body)
        finally:
            if is_order:
                strikes.reach("after send")

    Journal.append_fact = appending  # type: ignore[method-assign,assignment]
    Journal.commit = committing  # type: ignore[method-assign]
    UsdmExchange.fetch = fetching  # type: ignore[method-assign]


def main(plan: str, run: str) -> int:
    """Run an engine with the strikes of a plan; return its exit status."""
    life = json.loads(os.environ.get(GUARDIAN, "{}")).get("restarts", 0)
    with suppress(FileNotFoundError):
        _strike(Strikes(json.loads(Path(plan).read_text()), life, Path(run)))
    return engine_process.run(Path(run))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
