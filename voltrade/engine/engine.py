"""The engine: it runs one session from start to end, in a process of its own that a guardian watches.

It is a separate process, so that a stalled, killed or closed notebook can't stall trading. It reads the settings from
`run.json`, connects to the exchange of the mode, locks the account's ledger, checks that the session may start, loads
earlier trades, and trades. Notebooks and `ctl` talk to it over a Unix socket. At the end it completes the journal and
writes the outcome into `run.json`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from voltrade.background import background
from voltrade.core import TradingCore
from voltrade.engine import recorder, recovery
from voltrade.engine.account_history import (
    last_final_state,
    open_ledger,
    save_final_state,
    started_from,
    units_of,
)
from voltrade.engine.checks import Check, has_our_position, refused, told
from voltrade.engine.control import Control
from voltrade.engine.first_questions import FirstQuestions
from voltrade.engine.guardian import LOCK
from voltrade.engine.heartbeat import Heartbeat
from voltrade.engine.modes import SELDOM_S, Known, Wiring, waited_for, wire
from voltrade.engine.notebook_watch import await_notebook
from voltrade.engine.notifier import Notifier
from voltrade.engine.operator_commands import OperatorCommands
from voltrade.engine.paper import PaperExchange
from voltrade.engine.recorder import Recording
from voltrade.engine.repeated_alarms import Alarms
from voltrade.engine.resumption import Resumption
from voltrade.engine.session_messages import Message, SessionMessages, Urgency, nets_of
from voltrade.engine.start_checks import start_checks
from voltrade.engine.status import engine_status
from voltrade.engine.warmup import Loader, Progress
from voltrade.errors import SessionError
from voltrade.exchange.binance import BinanceWSManager
from voltrade.journal import Journal
from voltrade.journal.ballast import Ballast
from voltrade.live import IDLE_S, LiveTradingSystem
from voltrade.model import Event, History, Operator, Output, ResumeState, Snapshot, Trouble
from voltrade.plain_start import begin_plain
from voltrade.runs import handover
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import FinalState
from voltrade.runs.replay import Replay, session_facts, start_row
from voltrade.runs.run_file import JOURNAL, Record, utc_now
from voltrade.strategy.rule_file import signal_engine_of
from voltrade.symbol_state import left_at_exchange

log = logging.getLogger(__name__)


class Engine:
    """One session: its exchange, journal, ledger and trading core."""

    journal_type: ClassVar[type[Journal]] = Journal
    record_type: ClassVar[type[Record]] = Record

    def __init__(self, run_dir: Path, heartbeat: Heartbeat | None = None, first: FirstQuestions | None = None) -> None:
        """Read the run's settings.

        Args:
            run_dir: Folder of the run.
            heartbeat: Signs of life for the guardian; None without a guardian.
            first: Questions about the account that are on their way already, in the loop that runs the session.

        Raises:
            ConfigError: A parameter differs from what the process was given, or from the journal's first row.
            SessionError: The folder has no `run.json` that can be read.
        """
        self._dir, self._first = run_dir, first
        self._record = self.record_type(run_dir)
        self._config = recovery.settings_of(run_dir, self._record.facts)
        begun = run_dir / JOURNAL if self._record.facts.get("begun") else None
        handover.refuse_others(os.environ, begun, self._config.parameters())
        self._system: LiveTradingSystem | None = None
        self._journal: Journal | None = None
        self._ledger: Ledger | None = None
        self._id = ""
        """Id of the run, in its journal and in the ledger."""
        self._is_new = True
        """Whether the run starts from the beginning; otherwise it is resumed from its journal."""
        self._resumed_from: FinalState | None = None
        """What a new run starts from: the state in which the account's last run ended."""
        self._commands = OperatorCommands(self._record)
        self._tape_trades, self._is_lockstep = 0, False
        self._control: Control | None = None
        self.is_unattended = False
        """Whether the notebook of the session was gone at its end, so that the engine must write the review itself."""
        self._loading: Progress | None = None
        """Progress while earlier trades are loaded; else None."""
        session = self._config.session
        self.notifier = Notifier(os.environ, f"{run_dir.resolve().name} · {session.mode} {session.symbol}")
        self._alarms = Alarms(self.notifier.post, self._record)
        self._heartbeat = heartbeat or Heartbeat()
        self.caretaker = self._heartbeat.caretaker
        """Why this engine only looks after the account, without rule and entries; else empty."""
        self._ballast = Ballast(run_dir)
        self._messages: SessionMessages | None = None
        self._recording: Recording | None = None

    async def run(self) -> None:
        """Run the session to its end.

        Raises:
            VoltradeError: The session could not start, or can't continue; `run.json` has the error too.
        """
        async with AsyncExitStack() as held:
            self._identify()
            self._control = control = self._make_control()
            held.callback(control.close)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, control.stop, signal.Signals(number).name)
            self._begin_to_live(held)
            wiring = await wire(self._config, self._dir, os.environ, self._record.facts.get("venue", ""), self._known())
            held.push_async_callback(wiring.close)
            held.callback(self._close)
            self._lock_account(wiring)
            if wiring.denied:  # a resumed session protects its position and ends
                control.stop(f"NOT_PERMITTED: {wiring.denied}")
            socket = await control.listen(self._dir)
            venue = wiring.venue.rest if wiring.venue else ""
            guardian = str((self._dir / LOCK).resolve()) if self._heartbeat.is_guarded else ""
            self._record.note(pid=os.getpid(), socket=str(socket), venue=venue, guardian=guardian)
            self._record.note(account=wiring.fingerprint, account_name=wiring.account)
            try:
                await self._trade(wiring, control)
            except Exception as error:  # the session's own venue goes on for the engine that takes this one's place
                wiring.is_own_venue &= not self._is_started_again(error)
                raise

    def _make_control(self) -> Control:
        released = partial(self._record.note, released=True)  # no later engine waits for the notebook
        return Control(self._config, self._status, self._command, self._id, released, self._commands.wait)

    def _begin_to_live(self, held: AsyncExitStack) -> None:
        """Give the guardian signs of life, and repeat alarms."""
        for work in (self._alarms.repeat(), self._heartbeat.run(self._on_guardian_lost)):
            held.callback(background(work, self._on_task_failed).cancel)

    def _on_guardian_lost(self, why: str) -> None:
        """Take no new risk, since nobody would start this engine again; and say so."""
        self._reduce_only("GUARDIAN_LOST")
        self._alarms.tell(f"GUARDIAN_LOST: {why}; no entries until an operator resumes")

    def _on_task_failed(self, error: Exception) -> None:
        """Take no new risk without the work that has failed: alarms, or the watch over guardian or notebook."""
        self._reduce_only("TASK_FAILED")
        self._alarms.tell(f"TASK_FAILED: {type(error).__name__}: {error}; no entries until an operator resumes")

    def _identify(self) -> None:
        """Read the id of the run, and whether it is new.

        The id is kept from the first try on, so that the ledger has the right one whenever the engine is killed.
        """
        self._id, self._is_new = recovery.identity_of(self._dir, self._record.facts, self._new_id)
        if self._record.facts.get("id") != self._id:
            self._record.update(id=self._id)

    def _known(self) -> Known | None:
        """Return what a resumed run knows of its exchange; None for a new one."""
        if self._is_new:
            return None
        facts, path = self._record.facts, self._dir / JOURNAL
        instrument, began = recovery.instrument_of(path), recovery.began_at(path, facts)
        named = facts.get("account", ""), facts.get("account_name", "")
        return Known(instrument, *named, began, recovery.begun_by(path), self._first)

    def _new_id(self) -> str:
        return uuid4().hex

    def _lock_account(self, wiring: Wiring) -> None:
        """Lock the account's ledger, and check that this run may trade the account."""
        self._ledger = open_ledger(wiring, self._dir)
        if self._ledger is not None:
            self._ledger.on_write_failure = self._reduce_only
            if lost := self._ledger.check_run(self._id, self._dir, self._is_new):
                self._is_new, self.caretaker = False, self.caretaker or recovery.reason_of(lost, self._ledger.unread)
            wiring.restore_paper_account(self._ledger.folder)

    def _close(self) -> None:
        self._save_final_state()
        for held in (self._journal, self._ledger):
            if held is not None:
                held.close()

    def _save_final_state(self) -> None:
        if self._ledger is not None and self._system is not None and self._journal is not None:
            save_final_state(self._ledger, self._id, self._journal, self._system)

    async def _trade(self, wiring: Wiring, control: Control) -> None:
        replayed = self._recover(wiring)
        if replayed is None:
            self._resumed_from = last_final_state(self._ledger, self._id, self._dir)
        wiring.use_units(units_of(wiring.instrument, replayed, self._resumed_from))
        is_by_wall_clock = wiring.channel is None
        checks = [] if replayed and is_by_wall_clock else await self._check(wiring, is_new=replayed is None)
        core = replayed.core if replayed and replayed.core else self._begin(wiring, checks)
        assert self._journal is not None
        self._messages = SessionMessages(wiring.instrument)
        self._system = LiveTradingSystem(
            *(core, self._journal, wiring.gateway, wiring.clock, wiring.clock.set),
            observe=self._observer(wiring, self._messages),
            checkpoints=replayed.checkpoints if replayed else None,
            ballast=self._ballast if is_by_wall_clock else None,
        )
        if replayed is None:  # one that goes on knows those of its journal, and reads those of now when it runs
            self._system.rest_reads.on_filters(wiring.filters)
        if replayed is not None and not is_by_wall_clock:
            self._resume_lost(wiring)
        self._take_care(core)
        for action, reason, final in self._commands.pending:
            self._send_command(action, reason, final)
        run = self._run_by_wall_clock if is_by_wall_clock else self._run_in_lockstep
        async with AsyncExitStack() as held:
            feed = wiring.feed(self._system, max(core.last_trade_id, 0))
            held.push_async_callback(feed.stop)
            await run(wiring, feed, replayed, held, control)
            self._end(core.end_reason)
        if self._recording is not None:
            await asyncio.to_thread(self._recording.close)

    def _take_care(self, core: TradingCore) -> None:
        """As a caretaker, switch off rule and entries before anything else."""
        self._note_caretaker()
        self._alarms.go_on(core)

    def _note_caretaker(self) -> None:
        if self.caretaker and ("caretake", self.caretaker, False) not in self._commands.pending:
            self._commands.add("caretake", self.caretaker, False)

    def _observer(self, wiring: Wiring, messages: SessionMessages) -> Callable[[Event | Output], None]:
        """Return a function to call with every fact: it notes commands, sends messages and records trades."""
        observers: list[Callable[[Event | Output], None]] = [self.notifier.observer(messages), self._alarms.observe]
        where = wiring.instrument, wiring.endpoint.rest
        self._recording = recorder.recording_of(self._config.session, *where, wiring.clock())
        observers += [self._recording.observe] if self._recording is not None else []

        def observe(fact: Event | Output) -> None:
            if isinstance(fact, Operator):
                self._commands.on_operator(fact)
            for observer in observers:
                observer(fact)

        return observe

    async def _run_in_lockstep(
        self, wiring: Wiring, feed: BinanceWSManager, replayed: Replay | None, held: AsyncExitStack, control: Control
    ) -> None:
        system, channel = self._system, wiring.channel
        assert system is not None
        assert channel is not None
        self._tape_trades, self._is_lockstep = wiring.tape["trades"], True
        at = {"trade_id": max(system.core.last_trade_id, 0), "marks": replayed.marks if replayed else 0}
        hello = await channel.ask({"op": "hello", **at})
        if replayed is None:
            if hello["trade_id"]:
                system.warm_up(await self._load(wiring, hello["trade_id"]))
                feed.release(system.core.last_trade_id)
            self._resume_account(system, wiring)
        await feed.start()
        self._on_running(held, control)
        await system.run_lockstep(feed, channel, marks=hello["marks"], restarted=replayed is not None)

    async def _run_by_wall_clock(
        self, wiring: Wiring, feed: BinanceWSManager, replayed: Replay | None, held: AsyncExitStack, control: Control
    ) -> None:
        system = self._system
        assert system is not None
        on_running = partial(self._on_running, held, control)
        if replayed is not None:
            load, tell = partial(self._load, wiring), partial(self._check, wiring, False)
            await Resumption(wiring, system, feed, load, tell).run(on_running, partial(self._resume_lost, wiring))
            return
        # The streams are open while earlier trades are loaded, so that no trade in between is missed.
        await feed.start(hold=True)
        [newest] = await wiring.rest.agg_trades(wiring.instrument.symbol, limit=1) or [(0, 0, 0, 0, False)]
        if not self.caretaker:  # it has no rule that would need earlier trades, but a position
            loading = asyncio.create_task(self._load(wiring, newest[0]))
            held.callback(loading.cancel)
            while not loading.done():
                await asyncio.wait([loading], timeout=IDLE_S)
                await feed.maintain(wiring.clock())  # loading may take longer than a listen key lives
            system.warm_up(loading.result())
        self._resume_account(system, wiring)
        feed.release(newest[0])
        if isinstance(wiring.gateway, PaperExchange):
            wiring.gateway.open()
        on_running()
        await system.run_wall(feed)

    def _on_running(self, held: AsyncExitStack, control: Control) -> None:
        """Write to `run.json` that the session runs, and watch for its notebook."""
        self._heartbeat.is_busy = False
        self._record.note(state="running", started=utc_now(), error="")
        if control.was_leased:
            control.check_lease()  # the notebook may have ended while earlier trades were loaded
        watch = await_notebook(control, self._record, is_restarted=not self._is_new)
        held.callback(background(watch, self._on_task_failed).cancel)

    # --- the start -------------------------------------------------------------------------------------------------

    async def _check(self, wiring: Wiring, is_new: bool, snapshot: Snapshot | None = None) -> list[Check]:
        """Make the start-up table. A failed row stops a new session, unless there is a position of ours to look after.

        Raises:
            SessionError: Names each row that failed.
        """
        table = partial(start_checks, wiring, self._ledger, self._resumed_from, self.notifier, is_new, snapshot)
        checks = await waited_for(table, is_wanted=not is_new, longest_s=SELDOM_S)
        self._record.note(checks=[check.plain() for check in checks])
        if is_new and (why := refused(checks)):
            if not has_our_position(checks):
                raise SessionError(why)
            self.caretaker = self.caretaker or why
        return checks

    def _recover(self, wiring: Wiring) -> Replay | None:
        """For a resumed run, rebuild its core from its journal, and open the journal for further rows."""
        if self._is_new:
            return None
        if wiring.channel is None:
            begin_plain()  # compiling takes longer than a position may lack its stop
        found = recovery.recovered(self._dir, self.journal_type, bool(self.caretaker), self._heartbeat.advance)
        if isinstance(found, str):
            self.caretaker = self.caretaker or f"{recovery.LOST}: {found}"
            self._note_caretaker()  # before a commit, at which the ledger forgets how far the lost journal had come
            wiring.use_units(units_of(wiring.instrument, None, started_from(self._ledger)))
            replayed = Replay(core=self._begin(wiring, [], {recovery.LOST_BEFORE: found}))
        else:
            replayed, self._journal = found
            self.caretaker = self.caretaker or recovery.caretaker_of(self._dir / JOURNAL)
            self._note_caretaker()
            self._journal.on_commit = self._on_commit
        if self._ledger is not None:
            self._ledger.begin(self._id, self._dir, started_from(self._ledger))
        return replayed

    def _begin(self, wiring: Wiring, checks: list[Check], more: Mapping[str, str] | None = None) -> TradingCore:
        """Make the core of a new run, and write its settings into the first row of a new journal, with `more`."""
        config, epoch = wiring.config_until_tape_end(), self._record.facts["epoch"]
        core = TradingCore(config, wiring.instrument, epoch, signal_engine_of(config, wiring.instrument, self._dir))
        self._record.note(begun=not self._is_new)
        for remains in self._dir.glob(f"{JOURNAL}*"):  # of an engine that was killed before anything was sent
            remains.unlink()
        self._journal = self.journal_type.create(self._dir / JOURNAL, self._id)
        self._journal.on_commit = self._on_commit
        facts = session_facts(self._config, self._record.facts.get("rule_sha256", "")) | dict(more or {})
        facts["checks"] = [check.plain() for check in checks]
        start = start_row(config, wiring.instrument, epoch, **facts)
        self._journal.append("Start", now := wiring.clock(), start)
        self._journal.commit()
        self._record.update(begun=True, **({"began": now} if self._is_new else {}))
        return core

    async def _load(self, wiring: Wiring, last_id: int) -> History:
        """Load the trades up to `last_id` that the core has not seen; the status shows the progress."""
        assert self._system is not None
        core = self._system.core
        [symbol_state] = core.symbol_states.values()

        def report(progress: Progress) -> None:
            self._loading = progress

        loader = Loader(wiring.rest, core.config, wiring.instrument, wiring.clock, report)
        history = await loader.load(last_id, max(core.last_trade_id, 0), symbol_state.engine.warmup_bars)
        self._loading = None
        if history.doubt:
            self._system.on_event(Trouble(wiring.clock(), "BAR_PHASE", history.doubt))
        return history

    def _resume_account(self, system: LiveTradingSystem, wiring: Wiring) -> None:
        """Give the core the state in which the account's last run ended, then name this run in the ledger.

        A run that is killed before the next commit starts from the beginning, from the same state.
        """
        if self._ledger is None:
            return
        last = self._resumed_from
        if last is not None and last.state is not None:
            system.handle(ResumeState(wiring.clock(), json.dumps(last.state), last.head))
        self._ledger.begin(self._id, self._dir, last)

    def _resume_lost(self, wiring: Wiring) -> bool:
        """Give a core whose journal has lost it what it started from; return whether that was lost."""
        assert self._system is not None
        if self._system.core.account is not None:
            return False
        self._resumed_from = started_from(self._ledger)
        self._resume_account(self._system, wiring)
        return True

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        """Write the journal's last row, then the frames from the journal, then the end into `run.json`."""
        assert self._journal is not None and self._system is not None  # noqa: PT018
        self._heartbeat.is_busy = True
        self._journal.append("End", self._system.core.time, {"reason": reason})
        self._journal.commit()
        if self._messages is not None:
            nets, left = nets_of(self._dir / JOURNAL), left_at_exchange(self._system.core.symbol_states.values())
            self.notifier.post(self._messages.ended(reason, self._journal.head, nets, left))
        self._save_final_state()
        self._save_frames()
        self._note_notebook()
        self._ballast.remove()
        self._record.update(state="ended", end_reason=reason, **self._journal_end(), ended=utc_now())

    def _save_frames(self) -> None:
        from voltrade.report.run_reader import save_frames  # imports pandas, which would slow the start down

        try:
            save_frames(self._dir)
        except Exception:  # the journal has it all: `review` makes them again
            log.exception("the tables could not be written")

    @property
    def end_reason(self) -> str:
        """Why the session has ended; empty before its end."""
        return self._system.core.end_reason if self._system is not None else ""

    def _is_started_again(self, error: BaseException) -> bool:
        """Whether the guardian starts another engine after this error: not in lockstep, where nothing is at stake."""
        if self._is_lockstep or not self._record.facts.get("begun"):
            return False
        return self._heartbeat.is_started_again(error, was_trading=self._system is not None)

    def fail(self, error: BaseException) -> None:
        """Write into `run.json`, and notify, that the run failed and why; or that it goes on with another engine."""
        self._heartbeat.is_busy = True
        self._heartbeat.report(error)
        if self._is_started_again(error):
            self.notifier.post(Message(f"CRASHED: {error}; the engine is started again", Urgency.FAILURE))
            self._record.note(error=str(error))
            return
        self.notifier.post(Message(f"FAILED: {told(error)}", Urgency.FAILURE))
        self._note_notebook()
        self._record.note(state="failed", end_reason="ERROR", error=told(error), **self._journal_end(), ended=utc_now())

    def _journal_end(self) -> dict[str, Any]:
        """Return row count and head hash of the journal for `run.json`; empty if it was not opened."""
        end = self._journal.committed if self._journal is not None else ()
        return dict(zip(("rows", "head"), end, strict=False))

    def _note_notebook(self) -> None:
        """Note whether a notebook follows; a notebook stops following when it reads the end in `run.json`."""
        facts, is_followed = self._record.facts, self._control is not None and self._control.is_leased
        self.is_unattended = bool(facts.get("attended") and facts.get("begun") and not is_followed)

    @property
    def has_ended(self) -> bool:
        """Whether the run was over when this engine read its record."""
        return bool(self._record.facts.get("state") == "ended")

    # --- status and commands ---------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        status = {"state": self._record.facts["state"], "mode": self._config.session.mode}
        sounding, trades = self._alarms.sounding, self._tape_trades
        return status | engine_status(status["state"], self._system, trades, sounding, self._loading, self._journal)

    def _command(self, action: Any, reason: str, final: bool) -> None:
        """Take an operator command: it is on the disk before it is answered, also while the engine starts."""
        self._commands.add(action, reason, final)
        self._send_command(action, reason, final)

    def _send_command(self, action: Any, reason: str, final: bool) -> None:
        if self._system is not None:
            self._system.on_event(Operator(self._system.now, action, reason, final))

    def _on_commit(self, rows: int, head: str) -> None:
        """After each commit, forget the commands that the journal has, and note its position in the ledger.

        Raises:
            AccountInUse: Another engine has taken the account.
        """
        self._commands.on_commit()
        if self._ledger is not None and self._ledger.record is not None and self._ledger.record.run == self._id:
            self._ledger.note_position(rows, head)

    def _reduce_only(self, reason: str) -> None:
        """Enter nothing until an operator resumes: the ledger can't be written, or guardian or a task is lost."""
        self._command("reduce", reason, False)
