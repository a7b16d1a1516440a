"""The guardian starts a dead engine again, kills a silent one, and ends with the session; engines here are scripts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.phone import Phone

from voltrade.engine import guardian, heartbeat
from voltrade.engine.guardian import Crash, Restarts
from voltrade.engine.heartbeat import Heartbeat
from voltrade.errors import ExchangeError, JournalError, SessionError
from voltrade.journal import Journal
from voltrade.runs import run_file
from voltrade.runs.account_lock import AccountInUse

ENGINE = """
import json, os, pathlib, signal, socket, sys, time
run, told = pathlib.Path(sys.argv[1]), json.loads(os.environ["VOLTRADE_GUARDIAN"])
line = socket.socket(fileno=told["fd"])
def note(what):
    with (run / "noted").open("a") as file:
        file.write(json.dumps([what, os.getpid(), time.monotonic(), told["caretaker"]]) + "\\n")
def end(state):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "state": state}))
def beat(): line.send(b"\\n"); line.recv(100)
def asked(number, frame): note("asked"); end("ended"); sys.exit(0)
signal.signal(signal.SIGTERM, asked)
note("begun")
"""
"""What a fake engine begins with; what it then does follows."""

LIVE = "\nwhile True: beat(); time.sleep(0.05)"


class Watched:
    """A guardian over a fake engine."""

    def __init__(self, run: Path, script: str, begun: bool = True, crashes: Sequence[Crash] = ()) -> None:
        self.run = run
        (run / "run.json").write_text(json.dumps({"state": "running", "begun": begun}))
        Restarts(crashes).write(run / guardian.CRASHES)
        command = guardian.command(run, (sys.executable, "-c", ENGINE + script))
        with (run / "said").open("w") as said:
            self.process = subprocess.Popen(command, stderr=said, start_new_session=True)

    @property
    def noted(self) -> list[tuple[str, int, float, str]]:
        path = self.run / "noted"
        return [tuple(json.loads(row)) for row in path.read_text().splitlines()] if path.exists() else []

    def begun(self, count: int) -> list[tuple[str, int, float, str]]:
        """The engines that have begun, once there are so many."""
        until(lambda: sum(what == "begun" for what, *_ in self.noted) >= count)
        return [row for row in self.noted if row[0] == "begun"]

    def ended(self, within_s: float = 10) -> int:
        return self.process.wait(within_s)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for _, pid, *_ in self.noted:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def start(script: str, **facts: Any) -> Watched:
        run = tmp_path / f"run {len(made)}"
        run.mkdir(mode=0o700)
        made.append(Watched(run, script, **facts))
        return made[-1]

    yield start
    for watched in made:
        watched.clean_up()


def until(condition: Callable[[], bool], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.01)


# --- the process ------------------------------------------------------------------------------------------------------


def test_a_dead_engine_is_started_again_at_once_and_an_ended_one_is_not(watch: Callable[..., Watched]) -> None:
    one = watch(LIVE)
    [(_, first, _, _)] = one.begun(1)
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    (_, _, _, _), (_, second, begun, caretaker) = one.begun(2)
    assert begun - killed < 2
    assert (second != first, caretaker) == (True, "")
    os.kill(second, signal.SIGTERM)  # an engine that is asked to end does
    assert one.ended() == 0
    assert [what for what, *_ in one.noted] == ["begun", "begun", "asked"]


def test_a_silent_engine_is_killed_and_another_one_started_within_7_s(watch: Callable[..., Watched]) -> None:
    """Also one that is suspended: SIGKILL is all that reaches it."""
    hung = watch("\nbeat(); beat(); note('hangs'); time.sleep(60)")
    stopped = watch(LIVE)
    [(_, pid, _, _)] = stopped.begun(1)
    until(lambda: any(what == "hangs" for what, *_ in hung.noted))
    time.sleep(0.3)  # the suspended one has given signs of life
    suspended = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    [(_, _, silent, _)] = [row for row in hung.noted if row[0] == "hangs"][:1]
    for one, since in ((hung, silent), (stopped, suspended)):
        begun = one.begun(2)[1][2]
        assert guardian.SILENT_S - 0.5 < begun - since < 7


def test_three_deaths_in_ten_minutes_make_a_caretaker(watch: Callable[..., Watched]) -> None:
    one = watch("\nbeat()\nif told['restarts'] < 3: os.kill(os.getpid(), 9)" + LIVE)
    assert [row[3] for row in one.begun(4)] == ["", "", "", "3 crashes in ten minutes"]


def test_two_deaths_by_one_exception_make_a_caretaker(watch: Callable[..., Watched]) -> None:
    one = watch("\nbeat()\nif told['restarts'] < 2: line.send(b'KeyError at core.py:88\\n'); sys.exit(1)" + LIVE)
    assert [row[3] for row in one.begun(3)] == ["", "", "two crashes by KeyError at core.py:88"]


def test_two_deaths_at_one_row_of_the_journal_make_a_caretaker(watch: Callable[..., Watched], tmp_path: Path) -> None:
    waits = "\nbeat()\nwhile not (run / 'go').exists(): beat()\n"
    one = watch(waits + "if not told['caretaker']: sys.exit(1)" + LIVE)
    one.begun(1)
    with Journal.create(one.run / "journal.db") as journal:
        for _ in range(3):
            journal.append("Start", 0, {})
    (one.run / "go").touch()
    assert [row[3] for row in one.begun(3)] == ["", "", "two crashes at row 3 of the journal"]


def test_two_deaths_at_one_row_by_somebody_elses_hand_make_none(watch: Callable[..., Watched], tmp_path: Path) -> None:
    waits = "\nbeat()\nwhile not (run / 'go').exists(): beat()\n"
    one = watch(waits + "if told['restarts'] < 2: os.kill(os.getpid(), 9)" + LIVE)
    one.begun(1)
    with Journal.create(one.run / "journal.db") as journal:
        journal.append("Start", 0, {})
    (one.run / "go").touch()
    assert [row[3] for row in one.begun(3)] == ["", "", ""]


def test_crashes_are_known_after_the_machine_was_started_anew(watch: Callable[..., Watched]) -> None:
    """Else an engine that dies of a row of its journal would do so twice again after each time."""
    now = time.time()
    one = watch("\nbeat()\nif told['restarts'] < 1: sys.exit(1)" + LIVE, crashes=[Crash(now - 9, 6), Crash(now - 5, 7)])
    assert [row[3] for row in one.begun(2)] == ["", "3 crashes in ten minutes"]
    again = watch(LIVE, crashes=[Crash(now - 9, 7, "A"), Crash(now - 5, 9, "A")])
    assert [row[3] for row in again.begun(1)] == ["two crashes by A"]
    kept = Restarts.read(one.run / guardian.CRASHES, now, None).crashes
    assert [(crash.row, crash.by_itself) for crash in kept] == [(6, True), (7, True), (None, True)]


@pytest.mark.parametrize(
    ("ago_s", "row", "kept"),
    [(3_599, 5, True), (3_601, 5, False), (3_601, 7, True), (86_400, 7, True), (-3_600, 5, True)],
)
def test_a_crash_is_forgotten_after_an_hour_unless_the_journal_has_not_grown(
    tmp_path: Path, ago_s: float, row: int, kept: bool
) -> None:
    """The last one: somebody has set the machine's clock back."""
    crash = Crash(1e9 - ago_s, row, "A", False)
    Restarts([crash]).write(tmp_path / "kept.json")
    assert Restarts.read(tmp_path / "kept.json", 1e9, 7).crashes == [crash] * kept


@pytest.mark.parametrize("text", ["", "{", "3", "[[]]", "[[null, 1]]", "[[1, 2, 3, 4, 5]]"])
def test_a_file_of_crashes_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "kept.json").write_text(text)
    assert Restarts.read(tmp_path / "kept.json", 0, None).crashes == []
    Restarts([Crash(0)]).write(tmp_path / "nowhere" / "kept.json")


def test_an_engine_that_cannot_be_started_is_told_of(phone: Phone, watch: Callable[..., Watched]) -> None:
    """It dies while it imports its modules, so that nobody else could tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOLTRADE_NOTIFY", phone.address)
        watch("\nif told['restarts'] < 1: sys.exit(1)" + LIVE)
    until(lambda: bool(phone.got))
    [line] = phone.lines
    assert line.startswith("NO ENGINE: 1 in a row could not be started, the last died with status 1; nobody looks")
    assert phone.got[0]["title"] == "run 0"


def test_engines_that_cannot_be_started_are_told_of_ever_more_rarely(tmp_path: Path) -> None:
    one, told = guardian.Guardian(tmp_path, ["engine"]), list[str]()
    one._notify = told.append  # type: ignore[method-assign]
    for _ in range(9):
        one._tell_unstarted(1)
    assert [text.split()[2] for text in told] == ["1", "2", "4", "8"]
    one._is_listening = True
    one._tell_unstarted(1)
    assert len(told) == 4


def test_what_has_sent_nothing_or_is_refused_is_not_started_again(watch: Callable[..., Watched]) -> None:
    refused, failed = watch("\nsys.exit(2)"), watch("\nend('failed'); sys.exit(1)")
    given_up = watch("\nsys.exit(1)", begun=False)
    assert (refused.ended(), failed.ended(), given_up.ended()) == (2, 1, 1)
    assert [len(one.noted) for one in (refused, failed, given_up)] == [1, 1, 1]


def test_a_signal_waits_until_the_engine_can_take_it(watch: Callable[..., Watched]) -> None:
    """An engine that still imports its modules would die of it, and nobody would know that it was asked to stop."""
    one = watch("\nwhile not (run / 'go').exists(): time.sleep(0.01)\n" + LIVE)
    one.begun(1)
    one.process.terminate()
    time.sleep(0.3)
    assert one.process.poll() is None
    (one.run / "go").touch()
    assert one.ended() == 0
    assert [what for what, *_ in one.noted] == ["begun", "asked"]


def test_a_run_has_one_guardian_and_is_running_while_it_has_one(watch: Callable[..., Watched], tmp_path: Path) -> None:
    one = watch(LIVE)
    [(_, pid, _, _)] = one.begun(1)
    record = {"state": "running", "guardian": str(one.run / guardian.LOCK), "socket": "gone"}
    assert run_file.is_running(record)
    other = subprocess.run(guardian.command(one.run, ("false",)), capture_output=True, text=True, timeout=20)
    assert (other.returncode, "another guardian watches it" in other.stderr) == (2, True)
    one.process.kill()
    one.process.wait()
    assert not run_file.is_running(record)
    os.kill(pid, 0)  # the engine is in a process group of its own, and goes on


def test_it_imports_nothing_of_the_package() -> None:
    """What can fail there fails where nobody watches; and it must be there before the engine is."""
    script = (
        "import runpy, sys; sys.argv = ['guardian.py', '/nowhere']\n"
        f"try: runpy.run_path({guardian.__file__!r}, run_name='__main__')\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded
    assert not loaded & {"voltrade", "numpy", "numba", "asyncio", "pandas"}


def test_an_engine_starts_without_what_it_needs_later_or_never() -> None:
    """Nobody looks after the position until it has imported its modules; pandas takes 0.2 s, pyarrow 0.1 s."""
    script = "import sys, voltrade.__main__, voltrade.engine.engine_process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "ccxt" in loaded
    assert not loaded & {"pandas", "pyarrow", "plotly", "IPython", "ipywidgets", "papermill", "apprise"}


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "pauses"),
    [
        ([0, 10, 20, 30, 40, 50, 60, 70, 80, 90], [0, 0, 0, 2, 4, 8, 16, 32, 60, 60]),
        ([0, 300, 600, 900], [0, 0, 0, 0]),  # the first is ten minutes old at the third
    ],
)
def test_the_pause_grows_with_the_crashes_of_ten_minutes(times: list[float], pauses: list[float]) -> None:
    restarts, found = Restarts(), []
    for row, at in enumerate(times):
        restarts.add(Crash(at, row))
        found.append(restarts.pause_s)
    assert found == pauses


@pytest.mark.parametrize(
    ("crashes", "why"),
    [
        ([], ""),
        ([Crash(0, 5, "A"), Crash(1, 6, "B")], ""),
        ([Crash(0, 5, "A"), Crash(1, 6, "B"), Crash(599, 7, "C")], "3 crashes in ten minutes"),
        ([Crash(0, 5, "A"), Crash(1, 6, "B"), Crash(600, 7, "C")], ""),
        ([Crash(0, 5), Crash(9_999, 5)], "two crashes at row 5 of the journal"),
        ([Crash(0, 5, by_itself=False), Crash(1, 5)], ""),
        ([Crash(0, 5), Crash(1, 5, by_itself=False)], ""),
        ([Crash(0, 5, "A"), Crash(3_599, 6, "A")], "two crashes by A"),
        ([Crash(0, 5, "A"), Crash(3_600, 6, "A")], ""),  # it has made progress in between
        ([Crash(0, None), Crash(1, None)], ""),  # no journal that could be read, and no word
        ([Crash(0, 5, "A"), Crash(1, 5, "A"), Crash(9_999, 9, "B")], ""),
    ],
)
def test_what_makes_a_caretaker(crashes: list[Crash], why: str) -> None:
    restarts = Restarts()
    for crash in crashes:
        restarts.add(crash)
    assert restarts.caretaker == why


# --- the engine's side ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Heartbeat]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    beat = Heartbeat(theirs.detach())
    with ours:
        yield ours, beat
    beat.lost = "the test is over"  # its thread ends
    beat.close()


def test_the_end_of_the_guardian_is_noticed_at_once(pair: tuple[socket.socket, Heartbeat]) -> None:
    ours, beat = pair
    lost: list[str] = []

    async def live() -> None:
        task = asyncio.create_task(beat.run(lost.append))
        assert await asyncio.to_thread(ours.recv, 10)
        assert beat.is_guarded
        ours.close()
        await asyncio.wait_for(task, 5)

    asyncio.run(live())
    assert (lost, beat.is_guarded) == ([heartbeat.GONE], False)


def test_a_guardian_that_does_not_answer_is_lost_too(
    pair: tuple[socket.socket, Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "GUARDIAN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.05)
    lost: list[str] = []
    ours, beat = pair

    async def live() -> None:
        task = asyncio.create_task(beat.run(lost.append))
        while not lost:
            await asyncio.sleep(0.01)
        ours.setblocking(False)
        ours.recv(65_536)
        await asyncio.sleep(0.2)
        assert ours.recv(65_536), "it may only be slow: it must not kill an engine that falls silent"
        task.cancel()

    asyncio.run(asyncio.wait_for(live(), 5))
    assert lost == [heartbeat.SILENT]


def test_a_guardian_that_slept_with_its_engine_is_not_lost(
    pair: tuple[socket.socket, Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were suspended for a minute, and the engine looks first."""
    beat, begin = pair[1], time.monotonic()
    looks = [0.0, 0.5, 60.5, 61.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: begin + looks.pop(0))
    while looks:
        beat._beat()
    assert beat.is_guarded


@pytest.mark.parametrize(("is_busy", "beats"), [(True, True), (False, False)])
def test_a_loop_that_stands_still_is_silent_unless_the_engine_is_busy(
    pair: tuple[socket.socket, Heartbeat], monkeypatch: pytest.MonkeyPatch, is_busy: bool, beats: bool
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.02)
    ours, beat = pair
    ours.setblocking(False)
    beat.is_busy = is_busy

    async def hang() -> bool:
        task = asyncio.create_task(beat.run(lambda why: None))
        await asyncio.sleep(0.05)
        time.sleep(0.1)
        ours.recv(65_536)  # what came before the loop stood still
        time.sleep(0.3)
        task.cancel()
        try:
            return bool(ours.recv(65_536))
        except BlockingIOError:
            return False

    assert asyncio.run(hang()) is beats
    beat.lost = "the test is over"


@pytest.mark.parametrize(
    ("error", "was_trading", "restarts", "again"),
    [
        (KeyError(1), True, 0, True),
        (KeyError(1), False, 0, True),
        (JournalError("differs"), False, 1, True),
        (JournalError("differs"), False, 0, False),  # a person goes on with the run, and is told
        (SessionError("the ledger names another run"), True, 1, False),
        (AccountInUse("another session or check uses it"), False, 1, True),  # it was taken while no engine ran
        (AccountInUse("another session or check uses it"), False, 0, False),
        (KeyboardInterrupt(), True, 1, False),
    ],
)
def test_which_errors_another_engine_follows(
    pair: tuple[socket.socket, Heartbeat], error: BaseException, was_trading: bool, restarts: int, again: bool
) -> None:
    beat = pair[1]
    beat._restarts = restarts
    assert beat.is_started_again(error, was_trading) is again
    beat.report(error)
    assert pair[0].recv(100) == f"{type(error).__name__}\n".encode()


def test_an_exchange_that_cannot_be_reached_is_no_exception_of_the_engine(
    pair: tuple[socket.socket, Heartbeat],
) -> None:
    ours, beat = pair
    ours.setblocking(False)
    beat.report(ExchangeError("no answer"))
    with pytest.raises(BlockingIOError):
        ours.recv(100)


@pytest.mark.parametrize("advances", [True, False])
def test_a_long_step_is_no_silence_as_long_as_it_advances(
    pair: tuple[socket.socket, Heartbeat], monkeypatch: pytest.MonkeyPatch, advances: bool
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.02)
    monkeypatch.setattr(heartbeat, "BUSY_S", 0.5)
    ours, beat = pair
    ours.setblocking(False)

    async def replay() -> bool:
        task = asyncio.create_task(beat.run(lambda why: None))
        await asyncio.sleep(0.05)
        for step in range(30):
            time.sleep(0.05)
            if advances:
                beat.advance()
            if step == 19:
                ours.recv(65_536)
        task.cancel()
        try:
            return bool(ours.recv(65_536))
        except BlockingIOError:
            return False

    assert asyncio.run(replay()) is advances
    beat.lost = "the test is over"


def test_an_engine_that_cannot_be_started_counts_as_crashed(tmp_path: Path) -> None:
    assert guardian.Guardian(tmp_path, [str(tmp_path / "no engine")])._run_engine() == guardian.CRASHED


def test_an_engine_without_a_guardian_ends_by_its_error() -> None:
    alone = Heartbeat.of({})
    asyncio.run(asyncio.wait_for(alone.run(lambda why: pytest.fail("none was there")), 5))
    assert not alone.is_started_again(KeyError(1), True)
