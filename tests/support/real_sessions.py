"""Sessions of real processes: a venue, a guardian and its engines over sockets, judged by the simulator's judges.

What strikes an engine from inside is `struck_engine`'s; the venue has its own faults, and a test may do more from
outside. Nothing reads the journal while an engine lives: a second reader would keep SQLite from its recovery.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from simulation import oracles
from simulation.evidence import Evidence, Json, Life, Strike, Violation, read_journal
from simulation.reading import Reading
from support.forked import ForkedVenue

from voltrade import journal
from voltrade.engine import guardian
from voltrade.model import Trades
from voltrade.runs.replay import replay
from voltrade.runs.run_file import JOURNAL
from voltrade.runs.run_file import read as read_record
from voltrade.strategy.rule_file import keep_rule, read_parameters

ON_A_DISK = """
size=$0 disk=$1
cp -a "$disk" "$disk.begun" && mount -t tmpfs -o size=${size}m,mode=700 tmpfs "$disk" || exit 1
cp -a "$disk.begun/." "$disk" && touch "$disk/mounted" && shift && exec "$@"
"""
"""Runs a command with a small disk of its own in memory, which holds what a folder held."""
MOUNTED = "mounted"
LAUNCHER = Path(__file__).with_name("struck_engine.py")
FILLER = "filler"
"""File beside the run's folder that fills its disk."""
UP_WITHIN_S, STRUCK_WITHIN_S, ENDED_WITHIN_S = 60.0, 300.0, 60.0
"""The first engines on new code compile the rules, for a minute or two."""
LOOK_S = 0.02


def csv_of(tape: Trades) -> str:
    """A tape as a file of Binance's aggregate trades."""
    rows = (
        f"{number},{price / 10:.1f},{lots / 1000:.3f},{when},{maker}"
        for number, price, lots, when, maker in tape.rows()
    )
    return "\n".join(["agg_trade_id,price,quantity,transact_time,is_buyer_maker", *rows])


@contextmanager
def real_venue(folder: Path, settings: Json, tape: Trades, script: Sequence[Json]) -> Iterator[str]:
    """Run a venue on a tape with its faults; yield its address. Its log is in `folder/venue`."""
    (folder / "tape.csv").write_text(csv_of(tape))
    (folder / "venue.json").write_text(json.dumps({**settings, "tape": str(folder / "tape.csv")}))
    (folder / "faults.json").write_text(json.dumps(list(script)))
    words = ("--parameters", str(folder / "venue.json"), "--log", str(folder / "venue"))
    with closing(ForkedVenue(*words, "--faults", str(folder / "faults.json"), folder=folder)) as venue:
        yield venue.rest


def prepare(run: Path, settings: Json, epoch: str = "e0") -> None:
    """Make a run's folder, as a notebook does."""
    run.mkdir(mode=0o700)
    config = read_parameters(settings)
    record = {"parameters": config.parameters(), "epoch": epoch, "state": "starting"}
    (run / "run.json").write_text(json.dumps(record | keep_rule(config, run)))


class RealSession:
    """A run whose guardian starts engines with strikes in them.

    Args:
        folder: of the session; the venue's log is in `folder/venue`, the run in `folder/disk/run`.
        venue: the venue's address.
        settings: of the engine.
        strikes: for `struck_engine`.
        disk_mb: size of a disk of its own for the run and the account's ledger, which can be full; 0 for none.
        later: variables of the environment of all engines but the first.
    """

    def __init__(
        self,
        folder: Path,
        venue: str,
        settings: Json,
        strikes: Sequence[Json] = (),
        disk_mb: int = 0,
        later: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.venue, self._settings = folder, venue, settings
        self._disk, self._handle = folder / "disk", -1
        self._disk.mkdir()
        self._marks = folder / "marks.jsonl"
        self._marks.touch()
        self.felt: list[Strike] = []
        """What a test has done from outside."""
        self.down: list[tuple[int, int]] = []
        """Stretches in which no request could be sent or answered."""
        self._full = 0
        """How many times the disk has been filled and not been freed yet."""
        self.opened = now_ms()
        run = self._disk / "run"
        prepare(run, {**settings, "venue": venue, "begin_s": 0.0})
        plan = folder / "plan.json"
        told = [{**strike, "venue": venue} if strike["do"] == "post" else strike for strike in strikes]
        plan.write_text(json.dumps({"marks": str(self._marks), "strikes": told, "later": dict(later or {})}))
        self._awaited = len(strikes)
        command = guardian.command(run, (sys.executable, str(LAUNCHER), str(plan)))
        if disk_mb:
            command = ["unshare", "-rm", "sh", "-c", ON_A_DISK, str(disk_mb), str(self._disk), *command]
        paths = [str(LAUNCHER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        state = self._disk / "state"
        environment = {**os.environ, "VOLTRADE_STATE": str(state), "PYTHONPATH": os.pathsep.join(paths)}
        with (folder / "engine.log").open("ab") as log:
            self.guardian = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        if disk_mb:
            self._reach_disk()

    def _reach_disk(self) -> None:
        """Open the disk that only the session's processes see."""
        seen = Path(f"/proc/{self.guardian.pid}/root{self._disk}")
        self.until(lambda: (seen / MOUNTED).exists(), "a disk of its own")
        self._handle = os.open(seen, os.O_RDONLY | os.O_DIRECTORY)

    # --- what is known of it ----------------------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """The folder of the run's folder and the ledgers, as this process reaches it."""
        return Path(f"/proc/self/fd/{self._handle}") if self._handle >= 0 else self._disk

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def marks(self) -> list[Json]:
        text = self._marks.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def struck(self) -> list[Json]:
        """The marks of strikes."""
        return [mark for mark in self.marks if mark["mark"] != "life"]

    @property
    def record(self) -> Json:
        return read_record(self.run)

    @property
    def truth(self) -> list[Json]:
        text = (self.folder / "venue/truth.jsonl").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def position(self) -> Decimal:
        return next((Decimal(row["position"]) for row in reversed(self.truth) if row["kind"] == "fill"), Decimal(0))

    @property
    def said(self) -> str:
        return (self.folder / "engine.log").read_text()[-3_000:]

    def until(self, condition: Callable[[], Any], what: str, within_s: float = UP_WITHIN_S) -> None:
        """Wait for something.

        Raises:
            AssertionError: It did not come in time, or its guardian has ended.
        """
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.guardian.poll() is None, f"it ended before {what}: {self.record}\n{self.said}"
            assert time.monotonic() < deadline, f"waited too long for {what}: {self.record}\n{self.said}"
            time.sleep(LOOK_S)

    # --- what is done to it -----------------------------------------------------------------------------------------

    def until_struck(self) -> None:
        """Wait until every strike has come; wake what has stopped, and free a disk that is full."""
        ends, seen = {"stop": self._let_sleep, "full": self._free_later}, 0

        def is_over() -> bool:
            nonlocal seen
            for mark in self.struck[seen:]:
                ends.get(mark["mark"], lambda mark: None)(mark)
                seen += 1
            return seen >= self._awaited

        self.until(is_over, f"{self._awaited} strikes", STRUCK_WITHIN_S)

    def _free_later(self, mark: Json) -> None:
        self._full += 1
        threading.Timer(mark["for_s"], self._free).start()

    def _free(self) -> None:
        if self._full == 1:
            (self.disk / FILLER).unlink(missing_ok=True)
        self._full -= 1

    def until_traded(self, within_s: float) -> None:
        """Wait until it has traded, but no longer than that."""
        deadline = time.monotonic() + within_s
        while not any(row["kind"] == "fill" for row in self.truth) and time.monotonic() < deadline:
            time.sleep(LOOK_S * 10)

    def _let_sleep(self, mark: Json) -> None:
        """Let an engine that stopped itself stand for a time, with its guardian if the machine slept; wake both."""
        begin = now_ms()
        if mark["machine"]:
            self.guardian.send_signal(signal.SIGSTOP)
        time.sleep(mark["for_s"])
        self.down.append((begin, now_ms()))
        self.felt.append(Strike("stop", *self.down[-1]))
        for pid in [mark["pid"], self.guardian.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def post(self, *faults: Json, for_s: float = 0.0, is_down: bool = False) -> None:
        """Have the venue do something now."""
        with urllib.request.urlopen(f"{self.venue}/voltrade/fault", json.dumps(faults).encode()) as answer:
            assert answer.status == 200
        begin = now_ms()
        self.felt += [Strike(fault["do"], begin, begin + int(for_s * 1000)) for fault in faults]
        if is_down:
            self.down.append((begin, begin + int(for_s * 1000)))

    def end(self, within_s: float = ENDED_WITHIN_S) -> None:
        """Ask the session to end by SIGTERM, and wait until it has."""
        self.until(lambda: not self._full, "a disk that is free")
        self.guardian.terminate()
        assert self.guardian.wait(within_s) == 0, f"{self.record}\n{self.said}"
        if self._handle >= 0:  # its disk goes with the last who sees it
            shutil.copytree(self.disk, self.folder / "kept", ignore=shutil.ignore_patterns("*.sock", FILLER))
            os.close(self._handle)
            self._disk, self._handle = self.folder / "kept", -1

    def clean_up(self) -> None:
        """End what still runs."""
        if self.guardian.poll() is None:
            self.guardian.kill()
            self.guardian.wait()
        for mark in self.marks:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(mark["pid"], signal.SIGKILL)

    # --- what is left -----------------------------------------------------------------------------------------------

    @property
    def evidence(self) -> Evidence:
        """What it left, for the judges."""
        truth, judged = self.truth, now_ms()
        path = self.run / JOURNAL
        return Evidence(
            seed=0,
            settings=json.loads(json.dumps(read_parameters(self._settings).parameters(), default=str)),
            instrument=next(row for row in truth if row["kind"] == "start")["instruments"][0],
            truth=truth,
            journals=[read_journal(path)],
            requests=[],
            strikes=[*self.felt, *self._strikes(judged)],
            rest_down=list(self.down),
            tape=[],
            lives=self._lives(judged),
            opened=self.opened,
            quiet=judged,
            judged=judged,
            replay=[replay(path).differences],
        )

    def _strikes(self, judged: int) -> list[Strike]:
        return [
            Strike({"full": "disk_full"}.get(mark["mark"], mark["mark"]), mark["time"], self._until(mark, judged), mark)
            for mark in self.struck
        ]

    def _until(self, mark: Json, judged: int) -> int:
        if mark["mark"] == "clock":
            return judged
        return int(mark["time"] + 1000 * mark.get("for_s", 0.0))

    def _lives(self, judged: int) -> list[Life]:
        """The engines' lives by their marks: one ends with its last mark, where another one follows."""
        begins = [mark for mark in self.marks if mark["mark"] == "life"]
        deaths = {mark["pid"]: mark["time"] for mark in self.struck if mark["mark"] in ("kill", "tear")}
        ends = [deaths.get(mark["pid"], after["time"]) for mark, after in pairwise(begins)]
        lives = [Life(mark["time"], end, "killed") for mark, end in zip(begins, ends, strict=False)]
        return [*lives, Life(begins[-1]["time"], judged, "ended")]


JUDGED = ("O1", "O2", "O3", "O4", "O5", "O6", "O8", "O15")
"""The oracles that need neither the requests nor the tape."""
BY_THE_VENUE = ("O3", "O4", "O5")
"""Those that hold though the journal has lost rows."""


def wrong(evidence: Evidence, judged: Sequence[str] = JUDGED) -> list[Violation]:
    """Return what the oracles find, and what a session that is over has left at the exchange."""
    found = [violation for name in judged for violation in oracles.ORACLES[name](evidence)]
    books = Reading(evidence).books
    if held := {symbol: str(lots) for symbol, lots in books.held.items() if lots}:
        found.append(Violation("O1", "left", evidence.judged, f"a session that is over left {held}"))
    return found


def longest_bare_ms(evidence: Evidence) -> int:
    """Return the longest time in which a position was not covered, of usable REST."""
    reading = Reading(evidence)
    return max((reading.usable(bare.begin, bare.end) for bare in reading.bare), default=0)


def check_sealed(session: RealSession) -> None:
    """The record says how it ended, and the journal is whole."""
    record = session.record
    assert record["state"] == "ended", f"{record}\n{session.said}"
    verified = journal.verify(session.run / JOURNAL, record["head"])
    assert verified.ok, verified


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def tell(config: pytest.Config, line: str) -> None:
    """Write a line of progress to the terminal, past what captures a test's output."""
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"  {line}")
