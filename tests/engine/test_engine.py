"""The engine's process: what its surroundings do slowly holds up no order."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voltrade.config import Config
from voltrade.engine.control import Control
from voltrade.engine.engine import Engine
from voltrade.engine.notebook_watch import await_notebook
from voltrade.engine.process_log import log_in_background
from voltrade.engine.recorder import Recording
from voltrade.journal import Journal
from voltrade.model import Filters
from voltrade.runs.ledger import Ledger
from voltrade.runs.ledger_file import FinalState


class SlowDisk(io.StringIO):
    """Takes a line only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        assert self.let.wait(20)
        return super().write(text)


def test_nobody_waits_for_a_log_that_is_slow_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault case C4, sibling. The lines are all there in the end, in their order, and the traceback with them."""
    disk = SlowDisk()
    monkeypatch.setattr(sys, "stderr", disk)
    log = logging.getLogger("voltrade.slow")
    with log_in_background():
        log.warning("first")
        assert disk.asked.wait(20)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("second")
        assert not disk.getvalue()
        disk.let.set()
    lines = disk.getvalue().splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("first", "second", "ValueError: why")


def test_no_session_waits_for_a_recording_that_ends() -> None:
    """Trades that are no multiples of its tick end it; its last part takes the disk a while."""
    asked, let, closed = threading.Event(), threading.Event(), threading.Event()

    def close() -> None:
        asked.set()
        assert let.wait(20)
        closed.set()

    recording = Recording.__new__(Recording)
    recording._recorder = SimpleNamespace(close=close)  # type: ignore[assignment]
    recording.observe(Filters(1, "BTCUSDT", 4, is_finer=True))
    assert asked.wait(20)
    assert not closed.is_set()
    let.set()
    assert closed.wait(20)
    recording.close()


def test_a_run_keeps_its_identity_until_it_has_begun(tmp_path: Path) -> None:
    """A kill between two writes of the start must leave a run that the account's ledger still knows."""
    record = {"parameters": Config().parameters(), "epoch": "e", "state": "starting"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    first = Engine(tmp_path)
    first._identify()
    assert first._id
    (tmp_path / "run.json").write_text(json.dumps({**json.loads((tmp_path / "run.json").read_text()), "begun": False}))
    again = Engine(tmp_path)
    again._identify()
    assert (again._id, again._is_new) == (first._id, True)


def test_tables_that_can_not_be_written_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal has everything that they are made of."""
    (tmp_path / "run.json").write_text(json.dumps({"parameters": Config().parameters(), "state": "running"}))
    engine = Engine(tmp_path)

    def full(run: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voltrade.report.run_reader.save_frames", full)
    with Journal.create(tmp_path / "journal.db") as journal:
        engine._journal, engine._system = journal, SimpleNamespace(core=SimpleNamespace(time=0))  # type: ignore[assignment]
        engine._end("DURATION_END")
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["state"], record["end_reason"], record["rows"]) == ("ended", "DURATION_END", 1)
    assert "the tables could not be written" in caplog.text


def test_work_beside_the_loop_that_fails_is_told_and_nothing_more_is_entered(tmp_path: Path) -> None:
    """Nobody awaits it: it would be gone without a word, and with it the watch over guardian or notebook."""
    (tmp_path / "run.json").write_text(json.dumps({"parameters": Config().parameters(), "state": "running"}))
    engine = Engine(tmp_path)

    async def broken(*_: object) -> None:
        raise KeyError("fd")

    async def live() -> None:
        engine._heartbeat.run = broken  # type: ignore[method-assign]
        async with AsyncExitStack() as held:
            engine._begin_to_live(held)
            while not engine._alarms.sounding:
                await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(live(), 5))
    assert engine._alarms.sounding == ["TASK_FAILED: KeyError: 'fd'; no entries until an operator resumes"]
    assert engine._commands.pending == [("reduce", "TASK_FAILED", False)]


@pytest.mark.parametrize("dies", [True, False])
def test_a_notebook_that_dies_while_the_engine_starts_is_lost_as_soon_as_it_trades(tmp_path: Path, dies: bool) -> None:
    """Nobody waits for it any longer: what the session enters meanwhile would have nobody who watches it."""
    (tmp_path / "run.json").write_text(json.dumps({"parameters": Config().parameters(), "state": "starting"}))
    engine = Engine(tmp_path)
    orders: list[tuple[str, str, bool]] = []

    async def start() -> None:
        control = Control(Config(), lambda: engine._record.facts, lambda *order: orders.append(order))
        reader, writer = await asyncio.open_unix_connection(await control.listen(tmp_path))
        writer.write(b'{"op":"lease"}\n')
        await reader.readline()
        if dies:
            writer.close()
        while control.is_leased is dies:
            await asyncio.sleep(0)
        async with AsyncExitStack() as held:
            assert not orders
            engine._on_running(held, control)
        assert orders == ([("protect", "NOTEBOOK_LOST", True)] if dies else [])
        writer.close()
        await writer.wait_closed()
        control.close()

    asyncio.run(start())


@pytest.mark.parametrize("dies", [True, False])
def test_a_notebook_that_dies_before_it_spoke_to_the_engine_is_lost_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    notebook = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv("VOLTRADE_NOTEBOOK", str(notebook.pid))
    record = {"parameters": Config().parameters(), "state": "running", "attended": True}
    (tmp_path / "run.json").write_text(json.dumps(record))
    engine = Engine(tmp_path)
    orders: list[tuple[str, str, bool]] = []
    if dies:
        notebook.communicate()

    async def wait() -> None:
        control = Control(Config(), lambda: engine._record.facts, lambda *order: orders.append(order))
        watch = asyncio.create_task(await_notebook(control, engine._record))
        await asyncio.wait([watch], timeout=0.5)
        assert watch.done() is dies
        watch.cancel()

    asyncio.run(wait())
    assert orders == ([("protect", "NOTEBOOK_LOST", True)] if dies else [])
    if not dies:
        notebook.communicate()


@pytest.mark.parametrize(("finished", "state"), [(False, "running"), (True, "ending")])
def test_a_session_that_trades_no_more_says_so_before_its_record_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, state: str
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"parameters": Config().parameters(), "state": "running"}))
    engine = Engine(tmp_path)
    system = SimpleNamespace(core=SimpleNamespace(finished=finished, is_plain=finished), status=lambda _: {})
    monkeypatch.setattr(engine, "_system", system)
    assert engine._status()["state"] == state
    assert engine._status()["rules"] == ("plain Python" if finished else "compiled")


@pytest.mark.parametrize("is_journaled", [True, False])
def test_an_engine_that_fails_within_an_event_leaves_no_state(tmp_path: Path, is_journaled: bool) -> None:
    """Fault case E2, sibling: the next run makes it again from the journal instead."""
    engine: Any = Engine.__new__(Engine)
    engine._id, engine._ledger = "id", Ledger.open(tmp_path / "accounts", "account", "sim", tmp_path)
    engine._ledger.begin("id", tmp_path, None)
    engine._journal = Journal.create(tmp_path / "run/journal.db", "id")
    engine._journal.append("Start", 0, {})
    engine._system = SimpleNamespace(is_journaled=is_journaled, core=SimpleNamespace(state=lambda: {"wallet": 5}))
    head = engine._journal.head
    engine._close()
    assert engine._ledger.record.final_state == (FinalState("id", head, {"wallet": 5}) if is_journaled else None)
