"""The engine process: `python -m voltrade run RUN_DIR`, one session from start to end.

It is a process of its own so that a stalled, killed or closed notebook can't stall trading. It reads what to do from
`run.json`, reaches the exchange that its mode asks for, takes the account's ledger, checks that it may start, loads
what came before, trades, answers notebooks and `ctl` over a Unix socket, and leaves a sealed journal and a true end in
`run.json` behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar
from uuid import uuid4

from voltrade import journal
from voltrade.config import NOTEBOOK, Config
from voltrade.core import TradingCore
from voltrade.data.store import Store
from voltrade.engine import recorder
from voltrade.engine.control import Control
from voltrade.engine.modes import Wiring, wire
from voltrade.engine.notify import Message, News, Notifier, Urgency
from voltrade.engine.paper import PaperExchange
from voltrade.engine.preflight import Check, notifications, preflight, refused, used_limits
from voltrade.engine.recorder import Recording
from voltrade.engine.warmup import Loader, Progress
from voltrade.errors import JournalError, SessionError, VenueError, VoltradeError
from voltrade.exchange.binance import BinanceWSManager
from voltrade.journal import Journal
from voltrade.live import LiveTradingSystem
from voltrade.model import Event, History, Operator, Output, ResumeState
from voltrade.runs import handover
from voltrade.runs.ledger import Ledger, Left, accounts_home, file_name
from voltrade.runs.replay import Replay, recover, start_row
from voltrade.runs.run_file import ENDING, JOURNAL, PAGE, Record
from voltrade.strategy.rule_file import read_parameters, signal_engine_of

log = logging.getLogger(__name__)

LIBRARIES = ("voltrade", "ccxt", "numba", "numpy", "pandas", "papermill")
HISTORY = frozenset({"Start", "BarResumePoint", "Trades", "Bar"})
"""Kinds of the rows that a journal has before anything was asked of the exchange."""

REVIEW_S = 120
"""Longest that the review of a run may take to write."""

ORDERED = "ordered"
"""Where a run's record keeps an operator's commands, until the journal has them."""

FIRST_LEASE_S = 15
"""How long an engine that trades waits for a notebook that has started it and never spoke to it: one that is well takes
its lease while the engine starts, or late, on a busy machine."""


class Engine:
    """One session, put together from its concrete parts."""

    journal_type: ClassVar[type[Journal]] = Journal

    def __init__(self, run_dir: Path) -> None:
        self._dir = run_dir
        self._record = Record(run_dir)
        rule_sha256 = self._record.facts.get("rule_sha256", "")
        self._config = read_parameters(self._record.facts["parameters"], run=run_dir, sha256=rule_sha256)
        self._refuse_other_parameters()
        self._system: LiveTradingSystem | None = None
        self._journal: Journal | None = None
        self._ledger: Ledger | None = None
        self._id = ""
        """Identity of the run, which its journal is created with and the ledger names it by."""
        self._is_new = True
        """Whether the run has done nothing yet: it begins; else it goes on from its journal."""
        self._left: Left | None = None
        """What a run that begins goes on from."""
        self._journaled: list[list[Any]] = []
        """Commands that were written to the journal since its last commit."""
        self._tape_trades = 0
        self._control: Control | None = None
        self.is_left_alone = False
        """Whether the notebook that began the session is not there to document its end."""
        self._loading: Progress | None = None
        """How far the loading of earlier trades is; None before and after."""
        session = self._config.session
        self.notifier = Notifier(os.environ, f"{run_dir.resolve().name} · {session.mode} {session.symbol}")
        self._news: News | None = None
        self._recording: Recording | None = None

    def _refuse_other_parameters(self) -> None:
        """Hold the record's parameters to those that whoever started the engine gave, and to the journal's first row.

        Raises:
            ConfigError: names every parameter that differs, with both values.
        """
        parameters = self._config.parameters()
        handover.refuse_other(handover.received(os.environ), parameters)
        if self._record.facts.get("begun"):
            with suppress(JournalError):  # recovery says what is wrong with it
                for row in journal.read(self._dir / JOURNAL, kind="Start"):
                    begun = {**row.fact.get("parameters", {})}
                    begun.pop("confirmation", None)  # of the day that it was begun; to go on needs no new one
                    handover.refuse_other(begun, parameters)

    async def run(self) -> None:
        """Run the session to its end.

        Raises:
            VoltradeError: it could not start, or can't go on; `run.json` says so too.
        """
        async with AsyncExitStack() as held:
            self._identify()
            known = self._record.facts
            account = "" if self._is_new else known.get("account", "")
            venue, goes_on = known.get("venue", ""), not self._is_new
            wiring = await wire(self._config, self._dir, os.environ, venue, account, goes_on)
            held.push_async_callback(wiring.close)
            held.callback(self._let_go)
            self._take_account(wiring)
            self._control = control = Control(self._config, self._status, self._order, self._id)
            held.callback(control.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, control.stop, signal.Signals(number).name)
            socket = await control.listen(self._dir)
            venue = wiring.venue.rest if wiring.venue else ""
            self._record.update(pid=os.getpid(), socket=str(socket), venue=venue, account=wiring.fingerprint)
            await self._trade(wiring, control)

    def _identify(self) -> None:
        """Find out which run this is, and whether it begins or goes on.

        A run that was killed before it had taken anything but history has sent nothing: it begins anew.
        """
        path = self._dir / JOURNAL
        if not self._record.facts.get("begun"):
            # Kept from the first try on, so that the ledger knows the run whenever it is killed.
            self._id = self._record.facts.get("id") or self._new_id()
            self._record.update(id=self._id)
            return
        self._id = journal.identity_of(path)
        self._is_new = all(row.kind in HISTORY for row in journal.read(path))

    def _new_id(self) -> str:
        return uuid4().hex

    def _take_account(self, wiring: Wiring) -> None:
        """Take the account's ledger. An account that begins and ends with the session needs none."""
        if not wiring.account:
            return
        mode = self._config.session.mode
        older = file_name(wiring.former_account, mode)
        self._ledger = Ledger.open(
            accounts_home(os.environ),
            wiring.account,
            mode,
            self._dir,
            [folder / ".accounts" / older for folder in self._dir.resolve().parents],
        )
        if self._ledger.taken_over:
            log.warning("ledger: %s was taken over into %s", self._ledger.taken_over, accounts_home(os.environ))
        self._ledger.on_trouble = self._no_new_risk
        self._ledger.admit(self._id, self._dir, self._is_new)
        wiring.take_account(self._ledger.folder)

    def _let_go(self) -> None:
        self._leave()
        for held in (self._journal, self._ledger):
            if held is not None:
                held.close()

    def _leave(self) -> None:
        """Leave the next run what this one knows, when it ends, or fails while its core and its journal are whole.

        Where they aren't, or this was done before, nothing is left: what a killed run knew is in its journal.
        """
        ledger, system = self._ledger, self._system
        if ledger is None or system is None or self._journal is None or not system.is_journaled:
            return
        if ledger.last is None or ledger.last.run != self._id or ledger.last.left is not None:
            return
        try:
            self._journal.commit()
            ledger.leave(self._journal.head, system.core.state())
        except (JournalError, SessionError, OSError) as error:
            log.warning("ledger: the state could not be left, the next run needs the journal: %s", error)

    async def _trade(self, wiring: Wiring, control: Control) -> None:
        again = self._recover()
        self._left = self._left_by_last() if again is None else None
        checks = await self._check(wiring, is_new=again is None)
        core = again.core if again and again.core else self._begin(wiring, checks)
        assert self._journal is not None
        self._news = News(wiring.instrument)
        self._system = LiveTradingSystem(
            *(core, self._journal, wiring.gateway, wiring.clock, wiring.clock.set),
            observe=self._observer(wiring, self._news),
        )
        for action, reason, final in self._record.facts.get(ORDERED, []):
            self._system.on_event(Operator(self._system.now, action, reason, final))
        run = self._run_by_the_wall if wiring.channel is None else self._run_in_lockstep
        async with AsyncExitStack() as held:
            feed = wiring.feed(self._system, max(core.last_trade_id, 0))
            held.push_async_callback(feed.stop)
            await run(wiring, feed, again, held, control)
            self._end(core.end_reason)
        if self._recording is not None:
            await asyncio.to_thread(self._recording.close)

    def _observer(self, wiring: Wiring, news: News) -> Callable[[Event | Output], None]:
        """What is told of every fact: who sends news, and who keeps trades for research."""
        tell = self.notifier.observer(news)

        def note(fact: Event | Output) -> None:
            if isinstance(fact, Operator):
                self._journaled.append([fact.action, fact.reason, fact.final])
            tell(fact)

        session = self._config.session
        if not recorder.is_wanted(session):
            return note
        source = f"{session.mode} {wiring.endpoint.rest}"
        self._recording = kept = Recording(Store(), wiring.instrument, source, wiring.clock())

        def observe(fact: Event | Output) -> None:
            note(fact)
            kept.observe(fact)

        return observe

    async def _run_in_lockstep(
        self, wiring: Wiring, feed: BinanceWSManager, again: Replay | None, held: AsyncExitStack, control: Control
    ) -> None:
        system, channel = self._system, wiring.channel
        assert system is not None
        assert channel is not None
        self._tape_trades = wiring.tape["trades"]
        at = {"trade_id": max(system.core.last_trade_id, 0), "marks": again.marks if again else 0}
        hello = await channel.ask({"op": "hello", **at})
        if again is None:
            if hello["trade_id"]:
                system.warm_up(await self._load(wiring, hello["trade_id"]))
                feed.release(system.core.last_trade_id)
            self._adopt(system, wiring)
        await feed.start()
        self._runs(held, control)
        await system.run_lockstep(feed, channel, marks=hello["marks"], restarted=again is not None)

    async def _run_by_the_wall(
        self, wiring: Wiring, feed: BinanceWSManager, again: Replay | None, held: AsyncExitStack, control: Control
    ) -> None:
        system = self._system
        assert system is not None
        # The socket is open while earlier trades are loaded, so that nothing is missed in between.
        await feed.start(hold=True)
        [newest] = await wiring.rest.agg_trades(wiring.instrument.symbol, limit=1) or [(0, 0, 0, 0, False)]
        if again is None:
            system.warm_up(await self._load(wiring, newest[0]))
            self._adopt(system, wiring)
            feed.release(newest[0])
        else:
            # What is in hand comes first: it may lack its stop, and what was missed can take long to load.
            catching_up = asyncio.create_task(self._catch_up(wiring, feed, newest[0]))
            held.callback(catching_up.cancel)
        if isinstance(wiring.gateway, PaperExchange):
            wiring.gateway.open()
        self._runs(held, control)
        await system.run_wall(feed, restarted=again is not None)

    async def _catch_up(self, wiring: Wiring, feed: BinanceWSManager, last_id: int) -> None:
        """Give a restarted core the trades it has missed; where they can't be had, the gap taints its bar."""
        assert self._system is not None
        try:
            self._system.catch_up(await self._load(wiring, last_id))
        except VenueError as error:
            log.warning("trades missed while the engine was away: %s", error)
        feed.release(last_id)

    def _runs(self, held: AsyncExitStack, control: Control) -> None:
        self._record.update(state="running", started=_utc_now())
        if control.was_leased:
            control.check_lease()  # the notebook can have died while history was loaded
        watch = asyncio.create_task(self._await_notebook(control))
        held.callback(watch.cancel)

    async def _await_notebook(self, control: Control) -> None:
        """A notebook that started the session and died before it took the lease is lost too.

        Seconds in which this process stood still count as one: it could not have heard the notebook.
        """
        for _ in range(FIRST_LEASE_S):
            if _has_died(os.environ.get(NOTEBOOK, "")):
                break
            await asyncio.sleep(1.0)
        if self._record.facts.get("attended") and not control.was_leased:
            control.check_lease()

    # --- where a run starts from -----------------------------------------------------------------------------------

    async def _check(self, wiring: Wiring, is_new: bool) -> list[Check]:
        """Make the start-up table. What stands against a new session stops it; one that goes on must tend its position.

        Raises:
            SessionError: names each row that doesn't hold.
        """
        checks = [*await preflight(wiring), *self._goes_on_from(is_new, wiring), notifications(self.notifier)]
        self._record.update(checks=[check.plain() for check in checks])
        if is_new and (why := refused(checks)):
            raise SessionError(why)
        return checks

    def _goes_on_from(self, is_new: bool, wiring: Wiring) -> list[Check]:
        """The start-up table's rows of the ledger."""
        if self._ledger is None:
            return []
        found = "nothing: the first run of this account" if is_new else "its own journal"
        if self._left is not None:
            found = f"run {self._left.run or 'unknown'}, head {self._left.head}"
        if self._ledger.taken_over is not None:
            found += f"; the ledger was taken over from {self._ledger.taken_over}"
        rows = [Check("goes on from", found)]
        if self._left is not None and self._left.state is not None:
            rows.append(used_limits(wiring.config, self._left.state, wiring.clock(), wiring.instrument.quote_asset))
        return rows

    def _recover(self) -> Replay | None:
        """Where the folder holds a journal, the engine was killed: make its core again and go on in its journal."""
        if self._is_new:
            return None
        path = self._dir / JOURNAL
        again = recover(path)
        self._journal = self.journal_type.open(path)
        self._journal.on_commit = self._committed
        if self._ledger is not None:
            last = self._ledger.last
            self._ledger.begin(self._id, self._dir, last.adopted if last else None)
        return again

    def _left_by_last(self) -> Left | None:
        """What the account's last run left; a killed one's state is made from its journal.

        Raises:
            SessionError: it can't be found or made again; a session must not begin with fresh limits instead.
        """
        if self._ledger is None or self._ledger.last is None:
            return None
        last = self._ledger.last
        if last.left is not None or last.run == self._id:  # our own: killed while it began
            return last.left or last.adopted
        path = self._ledger.journal_of_last(near=self._dir)
        try:
            again = recover(path)
        except VoltradeError as error:
            raise self._ledger.refuse_broken(error) from None
        assert again.core is not None
        state = again.core.state()
        return Left(last.run, again.head, state) if state is not None else last.adopted

    def _begin(self, wiring: Wiring, checks: list[Check]) -> TradingCore:
        """Make a core that goes on from the account's last run, and write down what it is made from."""
        config, epoch = self._bounded(wiring), self._record.facts["epoch"]
        rule = signal_engine_of(config, wiring.instrument, self._dir)
        core = TradingCore(config, wiring.instrument, epoch, rule)
        self._record.update(begun=False)
        for remains in self._dir.glob(f"{JOURNAL}*"):  # of an engine that was killed before anything was sent
            remains.unlink()
        self._journal = self.journal_type.create(self._dir / JOURNAL, self._id)
        self._journal.on_commit = self._committed
        start = start_row(config, wiring.instrument, epoch, **self._facts(), checks=[check.plain() for check in checks])
        self._journal.append("Start", wiring.clock(), start)
        self._journal.commit()
        self._record.update(begun=True)
        return core

    async def _load(self, wiring: Wiring, last_id: int) -> History:
        """Load what came before `last_id` and the core has not seen; meanwhile the status tells how far that is."""
        assert self._system is not None
        core = self._system.core
        [symbol_state] = core.symbol_states.values()

        def report(progress: Progress) -> None:
            self._loading = progress

        loader = Loader(wiring.rest, core.config, wiring.instrument, wiring.clock, report)
        history = await loader.load(last_id, max(core.last_trade_id, 0), symbol_state.engine.warmup_bars)
        self._loading = None
        return history

    def _adopt(self, system: LiveTradingSystem, wiring: Wiring) -> None:
        """Take over what the account's last run left, then name this one in the ledger.

        Killed before the first commit that follows, the run begins anew: from the last run, or from what the ledger
        says that it goes on from itself.
        """
        if self._ledger is None:
            return
        if self._left is not None and self._left.state is not None:
            system.handle(ResumeState(wiring.clock(), json.dumps(self._left.state), self._left.head))
        self._ledger.begin(self._id, self._dir, self._left)

    def _bounded(self, wiring: Wiring) -> Config:
        """By the wall clock a tape's end is silence: end the session where the tape does."""
        session, tape = self._config.session, wiring.tape
        if not tape or tape["lockstep"] or session.duration_s:
            return self._config
        left_s = (tape["last_time"] - tape["time"]) / 1000
        return self._config.model_copy(update={"session": session.model_copy(update={"duration_s": max(left_s, 1.0)})})

    def _facts(self) -> dict[str, Any]:
        return {
            "mode": self._config.session.mode,
            "parameters": self._config.parameters(),
            "rule_sha256": self._record.facts.get("rule_sha256", ""),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in LIBRARIES},
        }

    def _end(self, reason: str) -> None:
        """Seal the journal, then write the frames from it, then say that the run has ended."""
        assert self._journal is not None
        assert self._system is not None
        self._journal.append("End", self._system.core.time, {"reason": reason})
        self._journal.commit()
        if self._news is not None:
            self.notifier.post(self._news.ended(reason, self._journal.head))
        self._leave()
        self._save_frames()
        self._note_notebook()
        self._record.update(state="ended", end_reason=reason, **self._seal(), ended=_utc_now())

    def _save_frames(self) -> None:
        from voltrade.report.run_reader import save_frames  # pandas, which no start shall wait for

        save_frames(self._dir)

    @property
    def end_reason(self) -> str:
        """Why the session has ended; empty while it has not."""
        return self._system.core.end_reason if self._system is not None else ""

    def fail(self, error: BaseException) -> None:
        """Say in `run.json`, and to whom news goes, that the run failed, and why."""
        self.notifier.post(Message(f"FAILED: {error}", Urgency.FAILURE))
        self._note_notebook()
        self._record.update(state="failed", end_reason="ERROR", error=str(error), **self._seal(), ended=_utc_now())

    def _seal(self) -> dict[str, Any]:
        """What the record says of the journal's end; nothing where it was not opened."""
        if self._journal is None:
            return {}
        rows, head = self._journal.committed
        return {"head": head, "rows": rows}

    def _note_notebook(self) -> None:
        """Before the end is told, since a notebook that follows goes on when it is."""
        facts, followed = self._record.facts, self._control is not None and self._control.is_leased
        self.is_left_alone = bool(facts.get("attended") and facts.get("begun") and not followed)

    @property
    def has_ended(self) -> bool:
        """Whether the run was over when this engine read its record."""
        return bool(self._record.facts.get("state") == "ended")

    def write_review(self) -> None:
        """Leave the review of the run for whoever finds it; a process of its own has the libraries for charts."""
        command = [sys.executable, "-m", "voltrade", "review", str(self._dir)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REVIEW_S)
        except subprocess.TimeoutExpired:
            log.warning("the review was not written within %d s", REVIEW_S)
            return
        if done.returncode:
            log.warning("the review could not be written: %s", done.stderr[-2000:])
        else:
            self._record.update(review=PAGE)

    # --- for the notebook ------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        state = self._record.facts["state"]
        if state == "running" and self._system is not None and self._system.core.finished:
            state = ENDING
        status: dict[str, Any] = {"state": state, "mode": self._config.session.mode}
        if self._system is not None:
            status |= self._system.status(self._tape_trades)
        if self._loading is not None:
            status |= {"loading": str(self._loading), "progress": self._loading.part}
        if self._journal is not None:
            status |= {"rows": self._journal.seq, "head": self._journal.head}
        return status

    def _order(self, action: Any, reason: str, final: bool) -> None:
        """Take an operator's command: on the disk before it is answered, whatever the engine is at, and then obeyed."""
        order = [action, reason, final]
        with suppress(OSError):  # a full disk must not keep a person from stopping
            self._record.update(**{ORDERED: [*self._record.facts.get(ORDERED, []), order]})
        if self._system is not None:
            self._system.on_event(Operator(self._system.now, action, reason, final))

    def _committed(self, rows: int, head: str) -> None:
        """After each commit: commands that the journal has need no other place, and the ledger notes how far it is.

        Raises:
            AccountInUse: another engine has taken the account.
        """
        if self._journaled:
            left = list(self._record.facts.get(ORDERED, []))
            for order in self._journaled:
                with suppress(ValueError):
                    left.remove(order)
            self._journaled.clear()
            with suppress(OSError):
                self._record.update(**{ORDERED: left})
        if self._ledger is not None and self._ledger.last is not None and self._ledger.last.run == self._id:
            self._ledger.reach(rows, head)

    def _no_new_risk(self, reason: str) -> None:
        """Another engine could take the account, whose files can't be kept: enter nothing, tend what is in hand."""
        self._order("reduce", reason, False)


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def _logging_beside() -> Iterator[None]:
    """Let a thread of its own write the log, so that no order waits for a disk that is slow to take a line."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler, listener = QueueHandler(records), QueueListener(records, logging.StreamHandler())
    logging.getLogger().addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        listener.stop()


def _has_died(pid: str) -> bool:
    """Whether a process is named, and is there no more."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OSError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def run(run_dir: Path) -> int:
    """Run the engine process in a run's folder; return its exit status."""
    os.umask(0o077)
    with _logging_beside():
        return _run(run_dir)


def _run(run_dir: Path) -> int:
    try:
        engine = Engine(run_dir)
        # Held until the process ends, and taken before anything is touched: a second engine leaves the first alone.
        lock = os.open(run_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"run: {run_dir}: another engine runs it", file=sys.stderr)
        return 2
    except VoltradeError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2
    if engine.has_ended:
        print(f"run: {run_dir}: has ended already", file=sys.stderr)
        return 2
    try:
        asyncio.run(engine.run())
    except BaseException as error:
        engine.fail(error)
        if isinstance(error, VoltradeError):
            print(f"run: {error}", file=sys.stderr)
            return 1
        raise
    finally:
        engine.notifier.close()
        if engine.is_left_alone:
            engine.write_review()
    return 0
