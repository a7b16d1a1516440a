"""The process around an engine: its lock and log, its exit status, and what its guardian learns when it fails.

`python -m voltrade.engine.engine_process RUN` is what a guardian starts. An engine that comes back asks about its
position first, and imports all else beside that: here is imported only what these questions need.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from voltrade.engine.first_questions import FirstQuestions
from voltrade.engine.guardian import REFUSED
from voltrade.engine.process_log import log_in_background
from voltrade.errors import VoltradeError

if TYPE_CHECKING:
    from voltrade.engine.engine import Engine

ALONE_S = 0.05
"""How long the questions have the interpreter to themselves: for longer than it takes to send them."""


def run(run_dir: Path) -> int:
    """Run the engine process in a run's folder; return its exit status."""
    os.umask(0o077)
    with log_in_background():
        try:
            with suppress(FileNotFoundError):  # the engine says that there is no such folder
                # Held until the process ends; a second engine in the same folder changes nothing.
                lock = os.open(run_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"run: {run_dir}: another engine runs it", file=sys.stderr)
            return REFUSED
        with asyncio.Runner() as runner:
            return _run(runner, run_dir, runner.run(_ask_and_import(run_dir)))


async def _ask_and_import(run_dir: Path) -> FirstQuestions | None:
    """Ask about the position of a run that goes on, and import the engine while the answers are on their way."""
    first = FirstQuestions.begin(run_dir, os.environ)
    if first is not None:
        await asyncio.sleep(ALONE_S)
    await asyncio.to_thread(import_module, "voltrade.engine.engine")
    return first


def _run(runner: asyncio.Runner, run_dir: Path, first: FirstQuestions | None) -> int:
    from voltrade.engine.engine import Engine
    from voltrade.engine.heartbeat import Heartbeat

    try:
        try:
            engine = Engine(run_dir, Heartbeat.of(os.environ), first)
        except VoltradeError as error:
            print(f"run: {error}", file=sys.stderr)
            return REFUSED
        if engine.has_ended:
            print(f"run: {run_dir}: has ended already", file=sys.stderr)
            return REFUSED
        return _run_to_end(runner, engine, run_dir)
    finally:
        if first is not None:
            runner.run(first.close())


def _run_to_end(runner: asyncio.Runner, engine: Engine, run_dir: Path) -> int:
    from voltrade.engine.checks import told
    from voltrade.engine.review_process import write_review
    from voltrade.runs.run_file import PAGE, Record

    try:
        runner.run(engine.run())
    except BaseException as error:
        engine.fail(error)
        if isinstance(error, VoltradeError):
            print(f"run: {told(error)}", file=sys.stderr)
            return 1
        raise
    finally:
        engine.notifier.close()
        if engine.is_unattended and write_review(run_dir):
            Record(run_dir).update(review=PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
