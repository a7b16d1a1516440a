"""The compiled rules, once for all processes of a test run: each that trades before would compile them for itself."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument


def place_of_run(name: str) -> Path:
    """A file for all processes of this test run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone")
    return Path(tempfile.gettempdir()) / f"voltrade-tests-{run}.{name}"


PATHS = ("events", "compiled")
"""The two paths of a backtest. They share few functions, so that two processes compile them in half the time."""


def compile_rules(*first: str) -> None:
    """Compile the rules and load them into this process, or wait until another one of this run has compiled them.

    Args:
        first: paths to begin with.
    """
    config = Config.from_parameters(hours=0.25, threshold=1)
    tape = load_tape(config.session, shipped_instrument("BTCUSDT"))
    for path in dict.fromkeys((*first, *PATHS)):
        with place_of_run(path).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            backtest(tape, config, path=path)
