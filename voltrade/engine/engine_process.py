"""The process around an engine: its lock and log, its exit status, and what its guardian learns when it fails."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from pathlib import Path

from voltrade.engine.checks import told
from voltrade.engine.engine import Engine
from voltrade.engine.guardian import REFUSED
from voltrade.engine.heartbeat import Heartbeat
from voltrade.engine.process_log import log_in_background
from voltrade.engine.review_process import write_review
from voltrade.errors import VoltradeError
from voltrade.runs.run_file import PAGE, Record


def run(run_dir: Path) -> int:
    """Run the engine process in a run's folder; return its exit status."""
    os.umask(0o077)
    with log_in_background():
        return _run(run_dir, Heartbeat.of(os.environ))


def _run(run_dir: Path, heartbeat: Heartbeat) -> int:
    try:
        engine = Engine(run_dir, heartbeat)
        # Held until the process ends; a second engine in the same folder changes nothing.
        lock = os.open(run_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"run: {run_dir}: another engine runs it", file=sys.stderr)
        return REFUSED
    except VoltradeError as error:
        print(f"run: {error}", file=sys.stderr)
        return REFUSED
    if engine.has_ended:
        print(f"run: {run_dir}: has ended already", file=sys.stderr)
        return REFUSED
    return _run_to_end(engine, run_dir)


def _run_to_end(engine: Engine, run_dir: Path) -> int:
    try:
        asyncio.run(engine.run())
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
