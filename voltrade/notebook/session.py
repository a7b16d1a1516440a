"""Starts, follows and stops a session from a notebook.

The engine is a separate process, which continues without the notebook's kernel. A `Session` reads the run's journal and
record and shows them, and sends requests to the engine over its socket. No cell of a notebook can hold up trading.
"""

from __future__ import annotations

import asyncio
import numbers
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from IPython.display import HTML, display

from voltrade.config import NOTEBOOK, RUN_DIR, Config
from voltrade.data.symbol_threshold import symbol_threshold
from voltrade.engine import ctl, guardian
from voltrade.engine.checks import Check
from voltrade.engine.permission import check_permitted
from voltrade.errors import ConfigError, SessionError
from voltrade.notebook.session_view import SessionView, StartupLine, progress_bar, startup_table
from voltrade.notebook.waiting import starting_text
from voltrade.report.frames import Frames
from voltrade.report.html import MOST_ROWS, facts_table, frame_table
from voltrade.report.statistics import Held
from voltrade.runs import handover
from voltrade.runs import run_file as records
from voltrade.runs.listing import Run, open_run, project_root
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import keep_rule, read_parameters

START_WITHIN_S = 180.0
"""Longest wait for a starting engine without progress; the first start after an edit compiles the rules."""

EXIT_WITHIN_S = 10.0
"""Longest wait for the end of the engine's process after the end of the session."""

ENGINE = (sys.executable, "-m", "voltrade.engine.engine_process")
"""Command of the engine process; its guardian adds the run's folder."""

_PLAIN = (str, bytes, numbers.Number, Decimal, type(None), list, tuple, dict, set)


def parameters(namespace: Mapping[str, object], own: Collection[str] = (), *, makes_bars: bool = True) -> Config:
    """Validate a notebook's parameters: all plain values that its cells have assigned so far.

    Modules, functions, other objects, names that begin with an underscore and IPython's own names are ignored.

    Args:
        namespace: The notebook's `globals()`.
        own: Names of the notebook's own parameters, which are not settings.
        makes_bars: Whether the notebook makes bars; else it needs no threshold.

    Raises:
        ConfigError: Names every parameter that is unknown, of the wrong type, out of bounds, looks like a secret, or
            differs from what papermill was given.
    """
    held = _held(namespace, own)
    if not held.get(parameter_file.PARAMETER):  # with a file, `start` compares the merged parameters
        handover.refuse_other(handover.received(os.environ), held)
    folder = Path(os.environ.get(RUN_DIR, ""))
    run = folder if records.can_be_resumed(folder) else None
    config = read_parameters(records.with_begun_threshold(held, run), run=run, makes_bars=makes_bars)
    is_own = makes_bars and run is None and not (held.get("threshold") or held.get(parameter_file.PARAMETER))
    threshold = f"{config.session.symbol}'s own, {symbol_threshold(config).source}" if is_own else ""
    _SOURCES.append(_Source(config, namespace, own, held, threshold))
    if threshold:
        print(f"threshold {config.bars.threshold:f}: {threshold}")
    return config


def _source_of(config: Config) -> _Source | None:
    return next((source for source in reversed(_SOURCES) if source.config is config), None)


class _Source(NamedTuple):
    """Settings, and the namespace that they were made from with its values at that time."""

    config: Config
    namespace: Mapping[str, object]
    own: Collection[str]
    held: dict[str, object]
    threshold: str
    """What the threshold follows from, where it is the symbol's own; else empty."""


_SOURCES: deque[_Source] = deque(maxlen=16)
"""Sources of the settings that `parameters` has returned last."""


def _held(namespace: Mapping[str, object], own: Collection[str]) -> dict[str, object]:
    """Return the plain values of a namespace that can be parameters."""
    foreign = {"In", "Out", *own}
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, _PLAIN) and name not in foreign and not name.startswith(("_", "PAPERMILL_"))
    }


def _refuse_other(config: Config) -> None:
    """Refuse settings that differ from what papermill was given, or from the notebook's current values.

    Raises:
        ConfigError: Names every parameter that differs, with both values.
    """
    traded = config.parameters()
    handover.refuse_other(handover.received(os.environ), traded)
    source = _source_of(config)
    if source is None:  # not made by `parameters`, so there is nothing to compare
        return
    traded[parameter_file.PARAMETER] = source.held.get(parameter_file.PARAMETER, "")
    lines = [
        f"{name}: must be traded as the notebook says, {value!r}, was {traded[name]!r}: make the settings anew"
        for name, value in _held(source.namespace, source.own).items()
        if name in traded and value != source.held.get(name) and not handover.is_same(value, traded[name])
    ]
    if lines:
        raise ConfigError("\n".join(lines))


# --- a session -------------------------------------------------------------------------------------------------------


FAILED_ENDS = {"NOTEBOOK_LOST": "the engine lost this notebook and ended the session by on_notebook_lost"}
"""Reasons of an end that make the notebook fail, with their meaning."""


_HOLDING: set[Session] = set()
"""Keeps sessions with a lease alive: the lease must last as long as the process, not as long as a variable."""


class Session(Run):
    """A running session, whose engine was started by this notebook or was running already."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        super().__init__(path)
        self._process = process
        self._lease: socket.socket | None = None
        self._leased_from = 0
        """Process id of the engine that the lease belongs to."""

    def status(self) -> dict[str, Any]:
        """Return the status from the engine; from the record if the engine doesn't answer."""
        record = self.record
        status = {name: record[name] for name in ("state", "end_reason", "error") if record.get(name)}
        if record["state"] == "running":
            with suppress(SessionError):
                status |= ctl.ask(self.path, {"op": "status"}, restart_within_s=0)
        return status

    @property
    def loading(self) -> str:
        """Progress of a starting engine that loads earlier trades; else empty."""
        if self.record.get("state") != "starting" or not self.record.get("socket"):
            return ""
        try:
            status = ctl.ask(self.path, {"op": "status"}, restart_within_s=0)
        except SessionError:
            return ""
        return f"{progress_bar(status['progress'])}  {status['loading']}" if status.get("loading") else ""

    def stop(self, reason: str = "STOPPED") -> None:
        """Ask the engine to end the session by its stop policy; `follow` shows the end.

        Raises:
            SessionError: The engine is running and does not answer.
        """
        if self.state in records.OVER:
            return
        ctl.ask(self.path, {"op": "stop", "reason": reason})

    async def follow(self, every_s: float = 0.5) -> None:
        """Show status, prices and equity until the session is over; an interrupt stops the session.

        If `on_interrupt` is `carry_on`, an interrupt only stops the display, and the session continues.

        Raises:
            SessionError: The engine has failed, or ended without an end of the session.
        """
        view = SessionView(self, self._reader)
        try:
            is_over = False
            while not is_over:
                try:
                    self.take_lease()  # also of an engine that the guardian has started anew
                    is_over = self._is_over()
                    self._reader.poll()
                    view.show(await asyncio.to_thread(self.status), is_last=is_over)
                    await asyncio.sleep(0 if is_over else every_s)
                except (asyncio.CancelledError, KeyboardInterrupt):
                    if self.config.session.on_interrupt == "carry_on":
                        self._release_lease(on_purpose=True)
                        return
                    # The engine ends the session by its stop policy; it is followed until then.
                    self.stop("INTERRUPTED")
        finally:
            self._release_lease()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # waiting avoids a zombie process
                await asyncio.to_thread(self._process.wait, EXIT_WITHIN_S)
        if self.state == "failed":
            raise SessionError(f"{self.name}: the session failed: {self.record.get('error')}\n{self.log()}")

    def conclude(self) -> HTML:
        """Return a sentence about how the session ended, with a warning if nothing was traded.

        Raises:
            SessionError: It has failed, its engine is gone, or it treated this notebook as lost; papermill fails too.
        """
        record = self.record
        state, reason = records.state_of(record), str(record.get("end_reason", ""))
        if state == "running":
            return HTML("<p>The session trades on.</p>")  # type: ignore[no-untyped-call]
        if state != "ended" or reason in FAILED_ENDS:
            why = FAILED_ENDS.get(reason) or record.get("error") or "its engine is gone"
            raise SessionError(f"{self.name}: {state} {reason}: {why}")
        return HTML(f"<p>{escape(f'Ended: {reason}.')} {_traded(self.frames())}</p>")  # type: ignore[no-untyped-call]

    def _is_over(self) -> bool:
        """Whether the session is over.

        Raises:
            SessionError: The engine's process is gone, and its record has no end.
        """
        died = self._died()
        if self.state in records.OVER:
            return True
        if died:
            raise SessionError(f"{self.name}: {died}, before the session's end\n{self.log()}")
        return False

    def _died(self) -> str:
        """Return how the engine's process has ended; empty while it runs, or its guardian starts another."""
        status = None if self._process is None else self._process.poll()
        if (self._process is not None and status is None) or records.is_running(self.record):
            return ""  # an engine outlives a guardian that was killed
        return "the engine is gone" if status is None else f"the engine died with status {status}"

    def take_lease(self) -> None:
        """Take the engine's lease, so that the engine notices when this notebook's process ends.

        Nothing happens if the lease was taken before, or if the engine doesn't listen. A restarted engine needs a new
        lease.
        """
        engine = self.record.get("pid", 0)
        if self._lease is not None and self._leased_from == engine:
            return
        self._release_lease()
        with suppress(SessionError, OSError):
            connection = ctl.connect(self.path)
            connection.sendall(b'{"op":"lease"}\n')
            self._lease, self._leased_from = connection, engine
            _HOLDING.add(self)

    def _release_lease(self, on_purpose: bool = False) -> None:
        """Release the lease; unless it is on purpose, a running engine then treats the notebook as lost."""
        if self._lease is None:
            return
        with suppress(OSError), self._lease as connection:
            if on_purpose:
                connection.sendall(b'{"op":"release"}\n')
        self._lease = None
        _HOLDING.discard(self)

    def _repr_html_(self) -> str:
        record = self.record
        rows = {"run": self.name, "state": record["state"], "engine process": record.get("pid", "")}
        rows |= {"threshold": record["threshold"]} if "threshold" in record else {}
        checks = [Check.of(check) for check in record.get("checks", ())]
        return facts_table(rows | {check.item: check.marked for check in checks})


def _traded(run: Frames) -> str:
    """Return what was traded, or a warning with the refused signals by code; and the open position."""
    held = Held.of(run)
    still = f" Still held: {held}." if held.quantity else ""
    if not run.fills.empty:
        net = f"{run.round_trips['net'].sum():+,.2f} {run.instrument.quote_asset}"
        return f"{len(run.round_trips)} round trips, net {net}.{still}"
    refused = ", ".join(f"{code} {count}" for code, count in run.refusals["code"].value_counts().items())
    words = f"Warning: nothing was traded in {len(run.bars):,} bars; signals refused: {refused or 'none'}."
    return f"<b style='color:#b00'>{escape(words)}</b>{still}"


def start(config: Config, run_dir: Path | str | None = None) -> Session:
    """Start the engine in a separate process and wait until it trades; attach to it if it is running already.

    If a session with the same parameters is running, nothing is started, so a cell can be run twice. A run whose engine
    was killed is resumed: a new engine continues its journal. An interrupt while the engine starts ends the session as
    soon as possible; it can still be followed.

    Args:
        config: Validated settings; for a resumed run, the same as before.
        run_dir: The run's folder: new, empty, or of a run that can be resumed. By default the one for papermill's
            output, else `runs/interactive-<UTC>`.

    Raises:
        ConfigError: A parameter differs from what papermill was given, or from the notebook's current value; or keys or
            the trading confirmation are missing.
        SessionError: The folder has a run that can't be resumed, a parameter differs from those of the run, or the
            engine did not start; the message ends with its log.
    """
    _refuse_other(config)
    chosen = run_dir or os.environ.get(RUN_DIR)
    folder = Path(chosen).resolve() if chosen else _running_with(config) or _interactive_folder()
    if records.is_running(records.read(folder)):
        running = attach(folder, config)
        running.take_lease()
        return running
    if records.can_be_resumed(folder):
        record = _record_to_resume(folder, config)
    elif (folder / records.RECORD).exists():
        raise SessionError(f"{folder.name}: holds a run already; choose another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SessionError(f"{folder.name}: must be new or an empty folder, holds something else; choose another")
    else:
        check_permitted(config)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        record = {
            "parameters": config.parameters(),
            "epoch": _base36(time.time_ns() // 1_000_000),
            "created": records.utc_now(),
            "threshold": _threshold_text(config),
            **keep_rule(config, folder),
        }
    records.write(folder, record | {"state": "starting", "attended": True})
    session = Session(folder, _launch(folder, config))
    _wait_until_running(session, session.take_lease)
    return session


def _threshold_text(config: Config) -> str:
    """Return the threshold for the record and the start-up table, and whether it was given."""
    source = _source_of(config)
    return f"{config.bars.threshold:f}, {source.threshold if source and source.threshold else 'as given'}"


def _record_to_resume(folder: Path, config: Config) -> dict[str, Any]:
    """Return the record of a run to resume, without the values of the killed engine.

    Raises:
        SessionError: A parameter differs from those of the run.
    """
    record = records.restored(folder)
    if lines := records.changed(record, config):
        raise SessionError("\n".join(lines))
    return {name: value for name, value in record.items() if name not in ("pid", "socket")}


def attach(run: Path | str, config: Config | None = None) -> Session:
    """Return a running session, also one that another notebook has started.

    Args:
        run: Its folder or its notebook, as `open_run` takes it.
        config: Expected settings; None compares nothing.

    Raises:
        SessionError: It isn't running, or a parameter differs.
    """
    folder = open_run(run).path
    record = records.read(folder)
    if not records.is_running(record):
        raise SessionError(f"{folder.name}: must be running, is {record.get('state')}")
    if config is not None and (lines := records.changed(record, config)):
        raise SessionError("\n".join([f"{folder.name}: runs already, with other parameters", *lines]))
    session = Session(folder)
    _wait_until_running(session)
    return session


def _running_with(config: Config) -> Path | None:
    """Return the folder of a running session with the same parameters; None if there is none."""
    is_shared = config.session.mode != "sim" or bool(config.session.venue)
    runs = (project_root().resolve() / "runs").glob(f"{'' if is_shared else 'interactive-'}*/run.json")
    for path in sorted(runs, reverse=True):
        record = records.read(path.parent)
        if records.is_running(record) and not records.changed(record, config):
            return path.parent
    return None


def _interactive_folder() -> Path:
    runs = project_root().resolve() / "runs"
    name = f"interactive-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder, count = runs / name, 1
    while folder.exists():
        count += 1
        folder = runs / f"{name}-{count}"
    return folder


def _launch(folder: Path, config: Config) -> subprocess.Popen[bytes]:
    """Start the engine under its guardian, both in process groups of their own, with their output in `engine.log`."""
    # The path of a tape is relative to the current folder, or to the project.
    where = Path.cwd() if Path(config.session.tape).exists() else project_root()
    with (folder / "engine.log").open("ab") as log:  # a resumed run keeps the earlier log
        return subprocess.Popen(
            guardian.command(folder, ENGINE),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=where,
            env={**os.environ, **handover.environment(config.parameters()), NOTEBOOK: str(os.getpid())},
            start_new_session=True,
        )


def _wait_until_running(session: Session, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for the engine; after an interrupt, stop the session as soon as the engine can be asked."""
    begun = time.monotonic()
    deadline = begun + START_WITHIN_S
    interrupted, shown, before = False, StartupLine(), ""
    while time.monotonic() < deadline:
        try:
            died, state = session._died(), session.state
            meanwhile()
            if state in ("running", "ended"):
                break
            if died or state == "failed":
                shown.update("")
                raise _not_started(session, died)
            if (loading := session.loading) != before:
                before, deadline = loading, time.monotonic() + START_WITHIN_S  # there is progress
            shown.update(loading or starting_text(time.monotonic() - begun))
            time.sleep(0.05)
        except KeyboardInterrupt:
            interrupted = True
    else:
        raise SessionError(f"{session.name}: the engine was not running within {START_WITHIN_S:.0f} s\n{session.log()}")
    shown.update("")
    if interrupted:
        session.stop("INTERRUPTED")


def _not_started(session: Session, died: str) -> SessionError:
    """Return why a session did not start; show its start-up table if that is what refused it."""
    record = session.record
    why, checks = record.get("error") or died, record.get("checks", ())
    if all(check["ok"] for check in checks):
        return SessionError(f"{session.name}: the engine did not start: {why}\n{session.log()}")
    display(HTML(startup_table(checks)))  # type: ignore[no-untyped-call]
    return SessionError(f"{session.name}: the start was refused by the start-up table: {why}")


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def table(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4, most_rows: int = MOST_ROWS) -> HTML:
    """Show a frame in a notebook; see `html.frame_table`."""
    return HTML(frame_table(frame, drop, decimals, most_rows))  # type: ignore[no-untyped-call]
