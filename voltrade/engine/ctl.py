"""`python -m voltrade ctl`: a person's hand on a running session, whatever its notebook is doing.

It speaks to the engine over the Unix socket in the run's folder, so that it works while the notebook is busy or gone.
What it orders goes through the core as an event and stands in the journal with its reason.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voltrade.errors import SessionError
from voltrade.runs.run_file import RECORD, TOO_LATE, is_running, load, read, state_of

ACTIONS = {
    "status": "tell how the session stands; change nothing",
    "pause": "let nothing enter until `resume`; position, stop and exits are tended on",
    "resume": "let it enter again, also after a rule of the circuit breaker that waits for a person",
    "reduce": "let only what reduces risk be sent until `resume`, in a restart and the next session too",
    "halt": "as `reduce`, and cancel an entry that is under way",
    "flatten": "cancel an entry that is under way, leave the position at market, and pause",
    "stop": "end the session by its policy `on_interrupt`; where that is `carry_on`, by `protect`",
}
"""What may be asked of a running session, and what each does."""

ANSWER_WITHIN_S = 5.0


def running(runs: Path) -> list[Path]:
    """Return the folders of the runs whose engines live, however deep and however busy, the newest first."""
    records = sorted(runs.rglob(RECORD), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in records if is_running(read(path.parent))]


def identity(run: Path) -> str:
    """Return the identity of a run as its record has it; empty before it has one."""
    return str(read(run).get("id", ""))


def rows_of(run: Path, action: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out for people who answered, that an order was taken, and how things stood when it was."""
    rows: dict[str, Any] = {"run": run, "id": identity(run)}
    if action != "status" and answer.get("state") in TOO_LATE:
        rows["order"] = "nothing was done: the session is over already"
    elif action != "status":
        rows["order"] = (
            f"{action} was taken, and is kept; how things stood then is below, what followed says `ctl status`"
        )
    for name, value in answer.items():
        if isinstance(value, dict):
            rows |= value
        elif value != "":
            rows[name] = f"{value:.0%}" if name == "progress" and isinstance(value, float) else value
    return rows


def ask(run: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Send a run's engine one message and return its answer; the engine of another run refuses it.

    Raises:
        SessionError: the folder holds no run, its engine doesn't answer, or it refuses the message.
    """
    message = {**message, "id": identity(run)}
    try:
        with connect(run) as connection, connection.makefile("rb") as answers:
            connection.sendall(json.dumps(message).encode() + b"\n")
            answer: dict[str, Any] = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        raise SessionError(f"{run.name}: its engine does not answer: {error}") from None
    if "error" in answer:
        raise SessionError(f"{run.name}: {answer['error']}")
    return answer


def connect(run: Path) -> socket.socket:
    """Return a connection to a run's engine; the caller closes it.

    Raises:
        SessionError: the folder holds no run, or its engine isn't there.
    """
    record = load(run)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_WITHIN_S)
    try:
        _connect(connection, str(record["socket"]))
    except (KeyError, OSError):
        connection.close()
        raise SessionError(f"{run.name}: its engine does not answer; it is {state_of(record)}") from None
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    """Connect to an engine's socket; where many wait for a busy engine already, wait for a place too."""
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
