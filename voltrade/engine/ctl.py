"""`python -m voltrade ctl`: status and operator commands for a running session.

It talks to the engine over the Unix socket in the run's folder, so it works while the notebook is busy or closed. A
command goes to the core as an event, and is in the journal with its reason.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voltrade.errors import SessionError
from voltrade.runs.run_file import RECORD, TOO_LATE, is_guarded, is_running, load, read, state_of

ACTIONS = {
    "status": "print the status; change nothing",
    "pause": "no entries until `resume`; the position keeps its stop and exits",
    "resume": "allow entries again, also after a circuit breaker rule that waits for an operator or a rule that failed",
    "reduce": "only orders that reduce risk until `resume`, also after a restart and in the next session",
    "halt": "as `reduce`, and cancel an open entry order",
    "flatten": "cancel an open entry order, close the position at market, and pause",
    "ack": "end the alarms that are repeated: a rule or task that failed, a caretaker, a guardian that is lost",
    "stop": "end the session by the policy `on_interrupt` (`protect` if that is `carry_on`): `protect` keeps the "
    "position, and its stop and take-profit at the exchange",
}
"""The commands, and what each does."""

REQUEST_TIMEOUT_S = 5.0
RESTART_WITHIN_S = 20.0
"""How long a request waits for a new engine, after the old one has died and while a guardian starts another."""


def running(runs: Path) -> list[Path]:
    """Return the folders of all runs whose engine is running, at any depth, the newest first."""
    records = sorted(runs.rglob(RECORD), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in records if is_running(read(path.parent))]


def identity(run: Path) -> str:
    """Return the id of a run from its `run.json`; empty before the run has one."""
    return str(read(run).get("id", ""))


def rows_of(run: Path, action: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an engine's answer as rows to print: the run, whether the command was accepted, and the status then."""
    rows: dict[str, Any] = {"run": run, "id": identity(run)}
    if action != "status":
        rows["command"] = _outcome(action, answer)
    for name, value in answer.items():
        if name == "taken":
            continue
        if isinstance(value, dict):
            rows |= value
        elif value != "":
            rows[name] = f"{value:.0%}" if name == "progress" and isinstance(value, float) else value
    return rows


def _outcome(action: str, answer: Mapping[str, Any]) -> str:
    """Return what became of a command: first by the engine's own word on it, by the session's state only without one.

    A command that ends the session makes the state ENDING itself.
    """
    is_over = answer.get("state") in TOO_LATE
    has_ended = is_over and action == "stop" and "taken" in answer  # which is all that a stop is for
    if answer.get("taken") or has_ended:
        return f"{action} is taken; what is true now is below"
    if is_over and "taken" in answer:
        return f"{action} was received, and the session ended before it said more; its journal has what followed"
    if is_over:
        return "nothing was done: the session is over already"
    return f"{action} is kept until the core takes it; `ctl status` says what followed"


def ask(run: Path, message: Mapping[str, Any], restart_within_s: float = RESTART_WITHIN_S) -> dict[str, Any]:
    """Send a request to a run's engine and return its answer; the engine of another run refuses it.

    If the engine dies meanwhile and a guardian starts another one, that one is asked: each command may come twice.

    Args:
        run: Folder of the run.
        message: The request.
        restart_within_s: How long to wait for an engine that a guardian starts.

    Raises:
        SessionError: The folder has no run, its engine doesn't answer, or it refuses the request.
    """
    deadline = time.monotonic() + restart_within_s
    while True:
        try:
            answer = _answer(run, {**message, "id": identity(run)})
            break
        except SessionError:
            if time.monotonic() > deadline or not is_guarded(read(run)):
                raise
            time.sleep(0.1)
    if "error" in answer:
        raise SessionError(f"{run.name}: {answer['error']}")
    return answer


def _answer(run: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of a run's engine.

    Raises:
        SessionError: It doesn't answer.
    """
    try:
        with connect(run) as connection, connection.makefile("rb") as answers:
            connection.sendall(json.dumps(message).encode() + b"\n")
            answer: dict[str, Any] = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        raise SessionError(f"{run.name}: its engine does not answer: {error}") from None
    return answer


def connect(run: Path) -> socket.socket:
    """Return a connection to a run's engine; the caller closes it.

    Raises:
        SessionError: The folder has no run, or its engine doesn't answer.
    """
    record = load(run)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(REQUEST_TIMEOUT_S)
    try:
        _connect(connection, str(record["socket"]))
    except (KeyError, OSError):
        connection.close()
        raise SessionError(f"{run.name}: its engine does not answer; it is {state_of(record)}") from None
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    """Connect to an engine's socket; try again while the queue of a busy engine is full."""
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
