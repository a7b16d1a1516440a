"""Times in turn, ratios by round, memory of a process, others in processes of their own, and goals."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = 7
PEERS_PYTHON = Path(__file__).resolve().parent.parent / ".venv-bench" / "bin" / "python"


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    gc.collect()
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turn(runs: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run everything once a round, so that what disturbs the machine disturbs all; return the seconds of each round.

    A first round, in which code is compiled and files come into memory, does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            took = run()
            if number:
                times[name].append(took)
    return times


def ratio(times: Mapping[str, list[float]], name: str, against: str, per: Mapping[str, float] | None = None) -> float:
    """How many times faster one is than another: the median of the rounds' ratios.

    Args:
        per: how much each one does in a run, where that differs.
    """
    amounts = per or {}
    scale = amounts.get(name, 1.0) / amounts.get(against, 1.0)
    return statistics.median(scale * b / a for a, b in zip(times[name], times[against], strict=True))


@dataclass(frozen=True, slots=True)
class Goal:
    """What was measured against what was wanted."""

    words: str
    measured: float
    wanted: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{'met   ' if self.met else 'MISSED'}  {self.words}: {self.measured:.2f} {sign} {self.wanted:g}"


def exit_status(goals: list[Goal]) -> int:
    """Print goals; return the exit status."""
    for goal in goals:
        print(goal)
    return 0 if all(goal.met for goal in goals) else 1


class Peer:
    """Another library, in a process and an environment of its own; see `peers`."""

    def __init__(self, script: str, name: str, *given: object) -> None:
        """Start it on what it is given.

        Raises:
            RuntimeError: it is not installed, or failed.
        """
        command = [str(PEERS_PYTHON), str(Path(__file__).with_name(script)), name, *map(str, given)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.about = self._answer()
        """Its `version`, how much it does in a run, and what else it says of itself."""
        self.last: dict[str, Any] = {}
        """What it said of its last run."""

    def run(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        self.last = self._answer()
        return float(self.last["seconds"])

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        assert self._process.stderr is not None
        raise RuntimeError((self._process.stderr.read().strip().splitlines() or ["it ended"])[-1])


def start_peers(script: str, names: Sequence[str], *given: object) -> dict[str, Peer]:
    """Start those that are installed; name the others."""
    if not PEERS_PYTHON.exists():
        say(f"peers are left out: there is no {PEERS_PYTHON}; `make bench` makes it")
        return {}
    started = {}
    for name in names:
        try:
            started[name] = Peer(script, name, *given)
        except RuntimeError as error:
            say(f"{name} is left out: {error}")
    return started


def memory_of(module: str, *given: object) -> float | None:
    """MiB that a benchmark's own `--memory` says it took, in a process of its own; None where it can't be measured."""
    command = [sys.executable, "-m", module, "--memory", *map(str, given)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return float(said) if said else None


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Measure by how many MiB this process grows at most, into a list of one; elsewhere than on Linux, of none.

    Memory that was used and freed before would hide what is used now: measure in a process that did little else.
    """
    grown: list[float] = []
    status = Path("/proc/self/status")
    if not status.exists():
        yield grown
        return
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is there now
    before = _kibibytes(status, "VmRSS")
    yield grown
    grown.append((_kibibytes(status, "VmHWM") - before) / 1024)


def _kibibytes(status: Path, name: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return float(line.split()[1])


def say(text: str) -> None:
    print(text, flush=True, file=sys.stdout)
