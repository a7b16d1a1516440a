"""Starts, follows and stops the engine from a notebook.

The engine trades in a process of its own, which outlives the notebook's kernel; a session here is a window on it. It
reads the run's journal and record, draws them in place, and asks the engine for its status, or to stop, over the socket
that the engine's record names. Nothing that happens in a notebook's cell can hold trading up.
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

from voltrade.config import NOTEBOOK, RECORDED, RUN_DIR, Config
from voltrade.engine import ctl
from voltrade.engine.permission import check_permitted
from voltrade.errors import ConfigError, SessionError
from voltrade.model import MONEY, Alert, EquityPoint, Refusal, RoundTrip, moment_text
from voltrade.report import charts
from voltrade.report.figure_output import LiveChart
from voltrade.report.frames import Frames
from voltrade.report.html import MOST_ROWS, facts_table, frame_table
from voltrade.report.run_reader import RunReader
from voltrade.report.statistics import Held
from voltrade.runs import handover
from voltrade.runs import run_file as records
from voltrade.runs.listing import Run, open_run, project_root
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import keep_rule, read_parameters

START_WITHIN_S = 180.0
"""Longest wait for the engine; the first start after an edit compiles the rules."""

FOLLOWED_BARS = 300
"""Bars on the chart that is drawn anew while a session runs; the charts at its end show all."""

LINGERS_S = 10.0
"""Longest wait for the engine's process to go, after it said that the session is over."""

ENGINE = (sys.executable, "-m", "voltrade", "run")
"""Command of the engine process; the run's folder is its last argument."""

_PLAIN = (str, bytes, numbers.Number, Decimal, type(None), list, tuple, dict, set)


def parameters(namespace: Mapping[str, object], own: Collection[str] = ()) -> Config:
    """Validate a notebook's parameters: every plain value that its cells assigned so far, a rule file's settings too.

    Modules, functions, objects, names that begin with an underscore and IPython's own are passed over.

    Args:
        namespace: The notebook's `globals()`.
        own: Names of the notebook's own parameters, which are no settings.

    Raises:
        ConfigError: names every parameter that is unknown, of the wrong type, out of bounds, or like a secret, or that
            is not what papermill was given.
    """
    held = _held(namespace, own)
    if not held.get(parameter_file.NAMED_BY):  # which would still be laid over them: `start` compares what comes of it
        handover.refuse_other(handover.received(os.environ), held)
    folder = Path(os.environ.get(RUN_DIR, ""))
    config = read_parameters(held, run=folder if records.was_cut_short(folder) else None)
    _SOURCES.append(_Source(config, namespace, own, held))
    return config


class _Source(NamedTuple):
    """Where settings came from: a namespace, and what it held then."""

    config: Config
    namespace: Mapping[str, object]
    own: Collection[str]
    held: dict[str, object]


_SOURCES: deque[_Source] = deque(maxlen=16)
"""Of the settings that `parameters` returned last."""


def _held(namespace: Mapping[str, object], own: Collection[str]) -> dict[str, object]:
    """The plain values of a notebook's namespace that can be parameters."""
    foreign = {"In", "Out", *own}
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, _PLAIN) and name not in foreign and not name.startswith(("_", "PAPERMILL_"))
    }


def _refuse_other(config: Config) -> None:
    """Refuse to trade what is not what papermill was given, or what the notebook's namespace no longer says.

    Raises:
        ConfigError: names every parameter that differs, with both values.
    """
    traded = config.parameters()
    handover.refuse_other(handover.received(os.environ), traded)
    source = next((source for source in reversed(_SOURCES) if source.config is config), None)
    if source is None:  # made by other code than `parameters`: that code is what was meant
        return
    traded[parameter_file.NAMED_BY] = source.held.get(parameter_file.NAMED_BY, "")
    lines = [
        f"{name}: must be traded as the notebook says, {value!r}, was {traded[name]!r}: make the settings anew"
        for name, value in _held(source.namespace, source.own).items()
        if name in traded and value != source.held.get(name) and not handover.is_same(value, traded[name])
    ]
    if lines:
        raise ConfigError("\n".join(lines))


# --- a session -------------------------------------------------------------------------------------------------------


FAILED_ENDS = {"NOTEBOOK_LOST": "the engine heard nothing of this notebook any more and ended by on_notebook_lost"}
"""Ends that nobody ordered, with what they mean; those of the tape, of time, of a person or a signal were meant."""


_HOLDING: set[Session] = set()
"""Sessions of this process that hold a lease: a variable that is gone is no notebook that is gone."""


class Session(Run):
    """A run that goes on, with an engine that this notebook started, or that it found running."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        super().__init__(path)
        self._process = process
        self._lease: socket.socket | None = None
        self._leased_from = 0
        """Process of the engine whose lease it is."""

    def status(self) -> dict[str, Any]:
        """How things are: the engine's own words where it answers, else what its record says."""
        record = self.record
        status = {name: record[name] for name in ("state", "end_reason", "error") if record.get(name)}
        if record["state"] == "running":
            with suppress(SessionError):
                status |= ctl.ask(self.path, {"op": "status"})
        return status

    @property
    def loading(self) -> str:
        """What a starting engine loads, how far that is and how long it will take; empty before and after."""
        if self.record.get("state") != "starting" or not self.record.get("socket"):
            return ""
        try:
            status = ctl.ask(self.path, {"op": "status"})
        except SessionError:
            return ""
        return f"{_bar(status['progress'])}  {status['loading']}" if status.get("loading") else ""

    def stop(self, reason: str = "STOPPED") -> None:
        """Ask the engine to end the session by its stop policy; `follow` shows how it does.

        Raises:
            SessionError: the engine is running and does not answer.
        """
        if self.state in records.OVER:
            return
        ctl.ask(self.path, {"op": "stop", "reason": reason})

    async def follow(self, every_s: float = 0.5) -> None:
        """Show status, prices and equity in place until the session is over; an interrupt asks it to stop first.

        Where `on_interrupt` is `carry_on`, an interrupt ends the following alone: the session trades on.

        Raises:
            SessionError: the engine failed, or died without an end.
        """
        view = _View(self, self._reader)
        self.hold_lease()
        try:
            is_over = False
            while not is_over:
                try:
                    is_over = self._is_over()
                    self._reader.poll()
                    view.show(await asyncio.to_thread(self.status), is_last=is_over)
                    await asyncio.sleep(0 if is_over else every_s)
                except (asyncio.CancelledError, KeyboardInterrupt):
                    if self.config.session.on_interrupt == "carry_on":
                        self._let_go(is_meant=True)
                        return
                    # The engine's stop policy decides what becomes of the position; we watch it to the end.
                    self.stop("INTERRUPTED")
        finally:
            self._let_go()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # it has said its last word; no zombie should stay
                await asyncio.to_thread(self._process.wait, LINGERS_S)
        if self.state == "failed":
            raise SessionError(f"{self.name}: the session failed: {self.record.get('error')}\n{self.log()}")

    def conclude(self) -> HTML:
        """Say in a sentence how the session ended; warn where it traded nothing.

        Raises:
            SessionError: it failed, its engine is gone, or took this notebook for lost: papermill is to fail too.
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
        """Whether the engine is done.

        Raises:
            SessionError: its process is gone, and its record does not say how the session ended.
        """
        died = self._died()
        if self.state in records.OVER:
            return True
        if died:
            raise SessionError(f"{self.name}: {died}, before the session's end\n{self.log()}")
        return False

    def _died(self) -> str:
        """What became of the engine's process; empty while it lives."""
        if self._process is None:
            return "" if records.is_running(self.record) else "the engine is gone"
        status = self._process.poll()
        return "" if status is None else f"the engine died with status {status}"

    def hold_lease(self) -> None:
        """Hold the engine's lease, so that it takes this notebook for lost once its process is gone.

        Nothing happens where it is held already, or where the engine does not listen yet or no more. An engine that
        was started again is another one.
        """
        engine = self.record.get("pid", 0)
        if self._lease is not None and self._leased_from == engine:
            return
        self._let_go()
        with suppress(SessionError, OSError):
            connection = ctl.connect(self.path)
            connection.sendall(b'{"op":"lease"}\n')
            self._lease, self._leased_from = connection, engine
            _HOLDING.add(self)

    def _let_go(self, is_meant: bool = False) -> None:
        """Give the lease back; where it is not meant, an engine that trades takes the notebook for lost."""
        if self._lease is None:
            return
        with suppress(OSError), self._lease as connection:
            if is_meant:
                connection.sendall(b'{"op":"release"}\n')
        self._lease = None
        _HOLDING.discard(self)

    def _repr_html_(self) -> str:
        record = self.record
        rows = {"run": self.name, "state": record["state"], "engine process": record.get("pid", "")}
        return facts_table(rows | {check["item"]: check["found"] for check in record.get("checks", ())})


def _traded(run: Frames) -> str:
    """What was traded, or a warning that nothing was and how often which gate refused; what is held."""
    held = Held.of(run)
    still = f" Still held: {held}." if held.quantity else ""
    if not run.fills.empty:
        net = f"{run.round_trips['net'].sum():+,.2f} {run.instrument.quote_asset}"
        return f"{len(run.round_trips)} round trips, net {net}.{still}"
    refused = ", ".join(f"{code} {count}" for code, count in run.refusals["code"].value_counts().items())
    words = f"Warning: nothing was traded in {len(run.bars):,} bars; signals refused: {refused or 'none'}."
    return f"<b style='color:#b00'>{escape(words)}</b>{still}"


def start(config: Config, run_dir: Path | str | None = None) -> Session:
    """Start the engine in a process of its own and wait until it trades; attach where it does already.

    A session that runs with the very same parameters is the one that is meant: a cell that is run twice, a second
    notebook, or one whose kernel was restarted starts nothing. A run whose engine was killed is gone on with: an engine
    starts in its folder again and takes up its journal. An interrupt meanwhile ends the session as soon as it can be
    told to; it is still followed and documented.

    Args:
        config: Validated settings; for a run that is gone on with, the same as before.
        run_dir: The run's folder: new, empty, or of a run that was cut short. By default the one that papermill's
            output names, else `runs/interactive-<UTC>`.

    Raises:
        ConfigError: a parameter is not what papermill was given, or not what the notebook says by now, or a mode with
            real money lacks keys or a person's word.
        SessionError: the folder holds a run that is not to be gone on with, or a parameter differs from what it was
            begun with, or the engine did not start; the message ends with its log.
    """
    _refuse_other(config)
    chosen = run_dir or os.environ.get(RUN_DIR)
    folder = Path(chosen).resolve() if chosen else _running_alike(config) or _interactive_folder()
    if records.is_running(records.read(folder)):
        running = attach(folder, config)
        running.hold_lease()
        return running
    if records.was_cut_short(folder):
        record = _cut_short(folder, config)
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
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **keep_rule(config, folder),
        }
    records.write(folder, record | {"state": "starting", "attended": True})
    session = Session(folder, _launch(folder, config))
    _wait_until_running(session, session.hold_lease)
    return session


def _cut_short(folder: Path, config: Config) -> dict[str, Any]:
    """The record of a run to go on with, without what belonged to the engine that was killed.

    Raises:
        SessionError: a parameter is not as the run was begun with.
    """
    record = records.read(folder)
    if lines := records.changed(record, config):
        raise SessionError("\n".join(lines))
    return {name: value for name, value in record.items() if name not in ("pid", "socket")}


def attach(run: Path | str, config: Config | None = None) -> Session:
    """Return a window on a session that is running already, whoever started it.

    Args:
        run: Its folder or its notebook, as `open_run` takes it.
        config: The settings that it is expected to have; not compared where there are none.

    Raises:
        SessionError: it isn't running, or a parameter differs.
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


def _running_alike(config: Config) -> Path | None:
    """The folder of a session that runs with these parameters: another notebook's, or on an account that outlives."""
    has_one = config.session.mode != "sim" or bool(config.session.venue)
    runs = (project_root().resolve() / "runs").glob(f"{'' if has_one else 'interactive-'}*/run.json")
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
    """Start the engine detached from the notebook: in a session of its own, its output in `engine.log`."""
    # A tape is named relative to where the notebook runs, or to the project.
    where = Path.cwd() if Path(config.session.tape).exists() else project_root()
    with (folder / "engine.log").open("ab") as log:  # a run that is gone on with keeps what was said before
        return subprocess.Popen(
            [*ENGINE, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=where,
            env={**os.environ, **handover.environment(config.parameters()), NOTEBOOK: str(os.getpid())},
            start_new_session=True,
        )


def _wait_until_running(session: Session, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for the engine; an interrupt would leave one that nobody follows, so it is told when it can be."""
    deadline = time.monotonic() + START_WITHIN_S
    interrupted, shown = False, _Starting()
    while time.monotonic() < deadline:
        try:
            died, state = session._died(), session.state
            meanwhile()
            if state in ("running", "ended"):
                break
            if died or state == "failed":
                why = session.record.get("error") or died
                raise SessionError(f"{session.name}: the engine did not start: {why}\n{session.log()}")
            if shown.update(session.loading):
                deadline = time.monotonic() + START_WITHIN_S  # it gets on
            time.sleep(0.05)
        except KeyboardInterrupt:
            interrupted = True
    else:
        raise SessionError(f"{session.name}: the engine was not running within {START_WITHIN_S:.0f} s\n{session.log()}")
    shown.update("")
    if interrupted:
        session.stop("INTERRUPTED")


class _Starting:
    """One line that says what a starting engine is loading, and how long that will take."""

    def __init__(self) -> None:
        self._line: Any = None
        self._shown = ""

    def update(self, text: str) -> bool:
        """Show another text; say whether it was another."""
        if text == self._shown:
            return False
        self._shown = text
        page = HTML(f"<pre>{escape(text)}</pre>")  # type: ignore[no-untyped-call]
        if self._line is None:
            self._line = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._line.update(page)
        return True


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


# --- what a followed session looks like ------------------------------------------------------------------------------


class _View:
    """Status, prices and equity of a running session, each in one output that changes in place."""

    def __init__(self, run: Run, reader: RunReader) -> None:
        is_recorded = bool(os.environ.get(RECORDED))
        self._config = run.config
        self._reader = reader
        self._status = display(HTML("starting"), display_id=True)  # type: ignore[no-untyped-call]
        self._prices, self._equity = LiveChart(is_recorded), LiveChart(is_recorded)
        self._progress = 0.0
        self._drawn_bars = -1
        self._draw_after = 0.0

    def show(self, status: Mapping[str, Any], is_last: bool) -> None:
        """Bring the status up to date; draw again where bars were added, at most a fifth of the time."""
        self._progress = max(self._progress, float(status.get("progress") or 0.0))
        if status.get("end_reason") == "TAPE_END":
            self._progress = 1.0
        page = f"<pre>{_bar(self._progress)}</pre>{_status_table(self._reader, status)}"
        self._status.update(HTML(page))  # type: ignore[no-untyped-call]
        now = time.monotonic()
        bars = self._reader.collector.bar_count if self._reader.start else 0
        if bars and (is_last or (bars != self._drawn_bars and now >= self._draw_after)):
            self._draw()
            self._drawn_bars = bars
            self._draw_after = time.monotonic() + max(1.5, 4 * (time.monotonic() - now))

    def _draw(self) -> None:
        run = self._reader.frames(last_bars=FOLLOWED_BARS)
        self._prices.draw(charts.price_chart(run, self._config, FOLLOWED_BARS))
        self._equity.draw(charts.equity_chart(run, self._config))


def _status_table(reader: RunReader, status: Mapping[str, Any]) -> str:
    """What matters now."""
    rows: dict[str, Any] = {"state": status["state"]}
    if status.get("end_reason"):
        rows["state"] = f"{status['state']}: {status['end_reason']}"
    if reader.time:
        rows["time"] = moment_text(reader.time)
    if reader.start:
        rows |= _counts(reader)
    if status.get("paused"):
        rows["entries"] = f"paused: {status['paused']}"
    if status.get("breaker"):
        rows["breaker"] = status["breaker"]
    if status.get("error"):
        rows["error"] = status["error"]
    return facts_table(rows)


def _counts(reader: RunReader) -> dict[str, Any]:
    collector = reader.collector
    quote = collector.instrument.quote_asset
    trips, points = collector.notes(RoundTrip), collector.notes(EquityPoint)
    rows: dict[str, Any] = {"bars": f"{collector.bar_count:,}"}
    if points:
        last = points[-1]
        rows["position"] = f"{collector.instrument.quantity(last.position):+} {collector.instrument.base_asset}"
        rows["equity"] = f"{last.equity / MONEY:,.2f} {quote} (valued at {last.valued_at})"
    rows["round trips"] = f"{len(trips)}, net {sum(trip.net for trip in trips) / MONEY:+,.2f} {quote}"
    rows["refused signals"] = f"{len(collector.notes(Refusal)):,}"
    if alerts := collector.notes(Alert):
        rows["last alert"] = f"{alerts[-1].code}: {alerts[-1].text}"
    rows["journal"] = f"{reader.seq:,} rows, head {reader.head[:16]}…"
    return rows


def _bar(part: float, width: int = 50) -> str:
    done = round(min(max(part, 0.0), 1.0) * width)
    return f"{'█' * done}{'░' * (width - done)} {part:4.0%}"


def table(frame: pd.DataFrame, drop: Sequence[str] = (), decimals: int = 4, most_rows: int = MOST_ROWS) -> HTML:
    """Show a frame in a notebook; see `html.frame_table`."""
    return HTML(frame_table(frame, drop, decimals, most_rows))  # type: ignore[no-untyped-call]
