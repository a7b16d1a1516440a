"""The guardian: the parent of an engine's process, which only watches it and starts it again.

    python -P guardian.py RUN COMMAND...

It is started as a file and imports the standard library only, so that it needs little memory and has little that can
fail. It starts COMMAND RUN with one end of a socket pair. The engine writes a line each half second: an empty one, or
before it dies of an exception the place of that exception. A dead engine is started again at once, from the fourth
crash in ten minutes on after a pause of 2 s that doubles up to 60 s. One that is silent is
killed first: for 60 s until its first line, then for 5 s; one that starts, compiles or ends gives signs of life by a
thread, for at most ten minutes. After three crashes in ten minutes, or two that nobody else caused at
one row of the journal or by one exception, the engine is told to come up as caretaker. The crashes are kept in the
run's folder, since the machine may be started anew in between. The guardian ends when the session is over.

An engine that can't be started tells nobody, so the guardian sends a notification, by a process of its own.

SIGINT and SIGTERM are passed on to the engine; SIGHUP, from a terminal that is closed, is ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

GUARDIAN = "VOLTRADE_GUARDIAN"
"""Environment variable of an engine: JSON with the number of its end of the socket pair (`fd`), how often it was
started again (`restarts`), and why it must come up as caretaker (`caretaker`), empty where it needn't."""

LOCK, CRASHES = "guardian.lock", "crashes.json"
"""Files in the run's folder: one that is locked while a guardian watches the run, and the crashes of its engines."""

NOTIFY = ("VOLTRADE_NOTIFY", "VOLTRADE_NOTIFY_FILE")
"""Environment variables with the addresses of notifications."""

SILENT_S, STARTUP_SILENT_S = 5.0, 60.0
"""How long an engine may be silent, and how long until its first word, while it imports its modules."""
LOOK_S = 0.25
"""How often the guardian looks. A longer time between two looks isn't silence: the guardian itself was suspended."""

MOST_CRASHES, WITHIN_S = 3, 600.0
"""So many crashes within this time make a caretaker; each further one doubles the pause before the next start."""
LONGEST_PAUSE_S = 60.0
REMEMBERED_S = 3_600.0
"""How long an exception counts against its next time; a row of the journal does as long as it is the last one."""
FAULTS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS})
"""Signals that an engine dies of by itself; of the others somebody else has killed it."""

CRASHED = 1
"""Exit status that stands for an engine which could not be started."""
REFUSED = 2
"""Exit status of an engine that must not run: another one does, or the session has ended."""
LOCK_TRIES = 20
"""How often the lock is tried, 50 ms apart: who looks whether a guardian is there holds it for an instant."""


class Crash(NamedTuple):
    """The death of an engine: when (s UTC), at which row of the journal, by which exception.

    `by_itself` is false where somebody else has killed it, or where it was never there.
    """

    at: float
    row: int | None = None
    error: str = ""
    by_itself: bool = True


class Restarts:
    """Decides after each crash how soon the engine is started again, and whether as caretaker."""

    def __init__(self, crashes: Iterable[Crash] = ()) -> None:
        self.crashes = list(crashes)

    @classmethod
    def read(cls, file: Path, now: float, row: int | None) -> Restarts:
        """Return what is known from before: crashes of the last hour, and those at the journal's last row."""
        try:
            crashes = [Crash(float(at), *more) for at, *more in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError):
            return cls()
        last = {row} - {None}
        return cls(crash for crash in crashes if now - crash.at < REMEMBERED_S or crash.row in last)

    def write(self, file: Path) -> None:
        """Keep the crashes; a disk that is full must not keep the engine from its start."""
        with suppress(OSError):
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(self.crashes))
            fresh.replace(file)

    def add(self, crash: Crash) -> None:
        """Note a crash."""
        self.crashes.append(crash)

    @property
    def _recent(self) -> int:
        """How many crashes there were in the last ten minutes, up to the newest."""
        return sum(self.crashes[-1].at - crash.at < WITHIN_S for crash in self.crashes) if self.crashes else 0

    @property
    def pause_s(self) -> float:
        """The pause before the next start."""
        beyond = self._recent - MOST_CRASHES
        return 0.0 if beyond <= 0 else min(2.0 ** min(beyond, 10), LONGEST_PAUSE_S)

    @property
    def caretaker(self) -> str:
        """Why the next engine must come up as caretaker; empty where it needn't."""
        if not self.crashes:
            return ""
        last = self.crashes[-1]
        earlier = [crash for crash in self.crashes[:-1] if crash.by_itself and last.by_itself]
        if last.row is not None and last.row in (crash.row for crash in earlier):
            return f"two crashes at row {last.row} of the journal"
        if last.error and last.error in (crash.error for crash in earlier if last.at - crash.at < REMEMBERED_S):
            return f"two crashes by {last.error}"
        return f"{self._recent} crashes in ten minutes" if self._recent >= MOST_CRASHES else ""


class Guardian:
    """Watches the engine of one run."""

    def __init__(self, run: Path, command: Sequence[str]) -> None:
        self._run, self._command = run, [*command, str(run)]
        self._restarts = Restarts.read(run / CRASHES, time.time(), last_row(run / "journal.db"))
        self._engine: subprocess.Popen[bytes] | None = None
        self._starts = self._unstarted = 0
        """How many engines this guardian has started, and how many in a row since that gave no sign of life."""
        self._notices: list[subprocess.Popen[bytes]] = []
        self._is_listening = False
        """Whether the engine has given a sign of life, and so takes signals."""
        self._signal = 0
        """A signal that the engine could not take yet."""
        self._error = ""
        """The exception that the engine says it dies of."""
        self._was_silent = False
        """Whether it was killed because it was silent."""

    def watch(self) -> int:
        """Run the engine until the session is over; return the exit status of the last one."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self._on_signal(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while True:
            status = self._run_engine()
            if self._is_over(status):
                return status if status >= 0 else 128 - status
            by_itself = self._is_listening and (status >= 0 or -status in FAULTS or self._was_silent)
            self._restarts.add(Crash(time.time(), last_row(self._run / "journal.db"), self._error, by_itself))
            self._restarts.write(self._run / CRASHES)
            self._say(f"the engine died with status {status} {self._error}".rstrip())
            self._tell_unstarted(status)
            time.sleep(self._restarts.pause_s)
            caretaker = self._restarts.caretaker
            self._say(f"starting it again, as caretaker: {caretaker}" if caretaker else "starting it again")

    def _run_engine(self) -> int:
        """Start an engine and watch it until it is dead; return its exit status."""
        ours, theirs = socket.socketpair()
        self._error, self._is_listening, self._was_silent = "", False, False
        with ours, theirs:
            told = {"fd": theirs.fileno(), "restarts": self._starts}
            self._starts += 1
            environment = {**os.environ, GUARDIAN: json.dumps({**told, "caretaker": self._restarts.caretaker})}
            try:
                self._engine = subprocess.Popen(
                    self._command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True
                )
            except OSError as error:  # such as too many processes, or too little memory
                self._say(f"the engine could not be started: {error}")
                return CRASHED
            theirs.close()
            ours.setblocking(False)
            self._wait_for_death(self._engine, ours)
        return self._engine.wait()

    def _wait_for_death(self, engine: subprocess.Popen[bytes], line: socket.socket) -> None:
        """Wait until the engine is dead; kill it if it is silent."""
        is_open, silent_s, looked = True, 0.0, time.monotonic()
        while engine.poll() is None:
            if is_open and select.select([line], [], [], LOOK_S)[0]:
                is_open = self._hear(line)
                silent_s = 0.0
            elif not is_open:  # it is dying
                time.sleep(LOOK_S / 10)
            now = time.monotonic()
            silent_s, looked = silent_s + min(now - looked, 2 * LOOK_S), now
            most_s = SILENT_S if self._is_listening else STARTUP_SILENT_S
            if silent_s > most_s:
                self._was_silent = True
                self._say(f"the engine was silent for {most_s:.0f} s and is killed")
                engine.kill()
                engine.wait()

    def _hear(self, line: socket.socket) -> bool:
        """Read what the engine says and answer it; return False where its end is closed."""
        try:
            heard = line.recv(65_536)
        except OSError:
            return False
        for text in filter(None, heard.split(b"\n")):
            self._error = text.decode(errors="replace")
        with suppress(OSError):
            line.send(b"\n")
        if heard and not self._is_listening:
            self._is_listening = True
            if self._signal:
                self._on_signal(self._signal)
        return bool(heard)

    def _on_signal(self, number: int) -> None:
        """Pass a signal on to the engine, once it can take one."""
        self._signal = number
        if self._is_listening and self._engine is not None and self._engine.poll() is None:
            self._engine.send_signal(number)

    def _is_over(self, status: int) -> bool:
        """Whether nothing is left to watch: the session ended, or was refused or given up before it sent anything."""
        record = self._record()
        is_first = self._starts <= 1
        if status == 0 or record.get("state") in ("ended", "failed") or (status == REFUSED and is_first):
            return True
        return not record.get("begun", True) and (status > 0 or bool(self._signal))

    def _record(self) -> dict[str, Any]:
        """Return the run's record; empty where it can't be read."""
        try:
            record = json.loads((self._run / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return {"begun": False, **record} if isinstance(record, dict) else {}

    def _tell_unstarted(self, status: int) -> None:
        """Notify that engines die before they can tell anything: of the 1st, 2nd, 4th, 8th ... in a row."""
        self._unstarted = 0 if self._is_listening else self._unstarted + 1
        if self._unstarted and self._unstarted & (self._unstarted - 1) == 0:
            self._notify(
                f"NO ENGINE: {self._unstarted} in a row could not be started, the last died with status {status}; "
                "nobody looks after the position; it is tried again"
            )

    def _notify(self, text: str) -> None:
        """Send a notification by a process of its own, which nothing waits for."""
        if not any(os.environ.get(name) for name in NOTIFY):
            return
        self._notices = [notice for notice in self._notices if notice.poll() is None]
        notice = [sys.executable, "-P", "-m", "voltrade.engine.guardian_notification", self._run.resolve().name, text]
        with suppress(OSError):
            self._notices.append(subprocess.Popen(notice, stdin=subprocess.DEVNULL, start_new_session=True))

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError, ValueError):
            now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            print(f"{now} UTC guardian: {text}", file=sys.stderr, flush=True)


def last_row(journal: Path) -> int | None:
    """Return the number of a journal's last row; None where it can't be read."""
    if not journal.exists():
        return None
    try:
        address = f"file:{quote(str(journal.absolute()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=1.0)) as connection:
            return int(connection.execute("SELECT max(seq) FROM journal").fetchone()[0] or 0)
    except sqlite3.Error:
        return None


def command(run: Path, engine: Sequence[str]) -> list[str]:
    """Return the command that starts a guardian for a run, whose engine is started by the command `engine`."""
    return [sys.executable, "-P", __file__, str(run), *engine]


def _lock(run: Path) -> bool:
    """Lock the run until this process ends; return False where another guardian has it."""
    file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def main(arguments: Sequence[str]) -> int:
    """Watch the run in the first argument with the engine that the others start; return the exit status."""
    run = Path(arguments[0])
    try:
        is_ours = _lock(run)
    except OSError as error:
        print(f"run: must be the folder of a run, was {run}: {error.strerror}", file=sys.stderr)
        return REFUSED
    if not is_ours:
        print(f"run: {run}: another guardian watches it", file=sys.stderr)
        return REFUSED
    return Guardian(run, arguments[1:]).watch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
