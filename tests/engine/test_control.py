"""The engine's socket: whatever bytes a person's words have, the command is carried out."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.engine.control import Control
from voltrade.engine.ctl import ACTIONS, _connect, ask, rows_of
from voltrade.engine.operator_commands import OperatorCommands
from voltrade.journal.rows import as_stored
from voltrade.model import Operator
from voltrade.runs.run_file import Record


def told(tmp_path: Path, *lines: bytes) -> tuple[list[tuple[str, str, bool]], list[dict[str, Any]]]:
    """Send lines to a control; return what it ordered and what it answered."""
    orders: list[tuple[str, str, bool]] = []

    async def tell() -> list[dict[str, Any]]:
        control = Control(Config(), lambda: {"state": "running"}, lambda *order: orders.append(order))
        path = await control.listen(tmp_path)
        reader, writer = await asyncio.open_unix_connection(path)
        answers = []
        for line in lines:
            writer.write(line + b"\n")
            answers.append(json.loads(await reader.readline()))
        writer.close()
        await writer.wait_closed()
        control.close()
        return answers

    return orders, asyncio.run(tell())


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        (b'"M\xfcller"', "M\\udcfcller"),  # Latin-1, as it is
        (b'"\xa1\xd2\xc3"', "\\udca1\\udcd2\\udcc3"),  # TIS-620
        (b'"M\\udcfcller"', "M\\udcfcller"),  # as `ctl` writes what it was given
        ('"พัก"'.encode(), "พัก"),
        (b"12", "12"),
    ],
)
@pytest.mark.parametrize("action", ["flatten", "halt", "pause", "reduce", "resume"])
def test_a_reason_may_have_any_bytes(tmp_path: Path, action: str, reason: bytes, kept: str) -> None:
    """Fault case F4: the command is what counts; of the reason is kept what can be."""
    orders, answers = told(tmp_path, b'{"op": "%s", "reason": %s}' % (action.encode(), reason))
    assert orders == [(action, kept, False)]
    assert answers == [{"state": "running"}]
    kept.encode()


def test_a_stop_may_have_any_bytes_too(tmp_path: Path) -> None:
    """Fault case F4, sibling: the command that ends the session."""
    orders, _ = told(tmp_path, b'{"op": "stop", "reason": "M\xfcller"}')
    assert orders == [("protect", "M\\udcfcller", True)]


def test_a_command_is_known_again_whatever_its_reason_is_made_of(tmp_path: Path) -> None:
    """A caretaker's may name a file: it would be carried out anew by each engine, after a person has resumed too."""
    (tmp_path / "run.json").write_text('{"state": "running"}')
    commands, reason = OperatorCommands(Record(tmp_path)), "JOURNAL_LOST: run-\udcff"
    commands.add("caretake", reason, False)
    commands.on_operator(as_stored(Operator(1, "caretake", reason, False)))
    commands.on_commit()
    assert OperatorCommands(Record(tmp_path)).pending == []


def test_ctl_sends_what_it_was_given(tmp_path: Path) -> None:
    """Fault case F4: Python hands over bytes that are no UTF-8 as lone surrogates."""
    orders: list[tuple[str, str, bool]] = []

    async def tell() -> None:
        control = Control(Config(), lambda: {"state": "running"}, lambda *order: orders.append(order))
        path = await control.listen(tmp_path)
        (tmp_path / "run.json").write_text(json.dumps({"state": "running", "socket": str(path)}))
        await asyncio.to_thread(
            ask, tmp_path, {"op": "flatten", "reason": b"M\xfcller".decode(errors="surrogateescape")}
        )
        control.close()

    asyncio.run(tell())
    assert orders == [("flatten", "M\\udcfcller", False)]


@pytest.mark.parametrize("reason", ["x" * 70_000, "พัก" * 20_000])
def test_a_reason_may_have_any_length(tmp_path: Path, reason: str) -> None:
    """A line of more than 64 kB ended the connection, and nothing was carried out."""
    orders, _ = told(tmp_path, json.dumps({"op": "flatten", "reason": reason}).encode())
    assert orders == [("flatten", reason[:500], False)]


class Served:
    """Controls of running sessions in folders under `runs/`, each in a thread of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.orders: dict[str, list[tuple[str, str, bool]]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._controls: list[Control] = []

    def add(self, name: str, identity: str) -> Path:
        folder = self._root / "runs" / name
        folder.mkdir(parents=True)
        orders = self.orders[name] = []
        control = Control(Config(), lambda: {"state": "running"}, lambda *order: orders.append(order), identity)
        path = asyncio.run_coroutine_threadsafe(control.listen(folder), self._loop).result()
        self._controls.append(control)
        record = {"state": "running", "socket": str(path), "id": identity}
        (folder / "run.json").write_text(json.dumps(record))
        return folder

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Close the controls once all connections are done with: a server that closes in an accept leaves it open."""
        await asyncio.sleep(0)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*others)
            await asyncio.sleep(0)  # their connections are closed by the loop, right after them
        for control in self._controls:
            control.close()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    sessions = Served(tmp_path)
    yield sessions
    sessions.close()


def test_ctl_names_the_run_that_it_speaks_to(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name in the command, nothing said which run had answered."""
    served.add("today", "a1b2")
    assert main(["ctl", "pause"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said.pop("command").startswith("pause is kept until the core takes it")
    assert said == {"run": "runs/today", "id": "a1b2", "state": "running"}
    assert served.orders == {"today": [("pause", "", False)]}


@pytest.mark.parametrize("state", ["ending", "ended", "failed"])
@pytest.mark.parametrize("action", ["pause", "resume", "reduce", "flatten", "halt", "stop"])
def test_an_order_that_comes_too_late_is_not_said_to_be_taken(tmp_path: Path, state: str, action: str) -> None:
    """The engine answers for a moment after its session has ended; who ordered `flatten` must not think that it is."""
    orders: list[tuple[str, str, bool]] = []
    control = Control(Config(), lambda: {"state": state}, lambda *order: orders.append(order))
    answer = asyncio.run(control._answer({"op": action}))
    assert not orders
    if action == "stop":  # that is what has come about
        assert rows_of(tmp_path, action, answer)["command"] == "nothing was done: the session is over already"
    else:
        assert answer == {"error": f"{action} comes too late and is not taken: the session is {state}"}


@pytest.mark.parametrize("state", ["starting", "running"])
@pytest.mark.parametrize("is_handled", [True, False])
def test_a_command_is_answered_with_what_is_true_after_it(tmp_path: Path, state: str, is_handled: bool) -> None:
    """Fault case F6. What can't be carried out yet is said to be kept; an engine that starts waits for nothing."""
    (tmp_path / "run.json").write_text(json.dumps({"state": state}))
    commands = OperatorCommands(Record(tmp_path))
    breaker = ["ACTIVE"]

    def handle() -> None:
        breaker[0] = "HALTED"
        commands.on_operator(Operator(1, "halt", ""))

    def command(action: Any, reason: str, final: bool) -> None:
        commands.add(action, reason, final)
        if is_handled:
            asyncio.get_running_loop().call_later(0.01, handle)

    async def ask_once() -> dict[str, Any]:
        with mock.patch("voltrade.engine.operator_commands.TAKEN_WITHIN_S", 0.1):
            status = lambda: {"state": state, "breaker": breaker[0]}  # noqa: E731
            return await Control(Config(), status, command, taken=commands.wait)._answer({"op": "halt"})

    answer, is_done = asyncio.run(ask_once()), is_handled and state == "running"
    assert answer == {"state": state, "breaker": "HALTED" if is_done else "ACTIVE", "taken": is_done}
    rows = rows_of(tmp_path, "halt", answer)
    assert rows["command"].startswith("halt is taken;" if is_done else "halt is kept until the core takes it")
    assert "taken" not in rows


@pytest.mark.parametrize("state", ["ending", "ended"])
@pytest.mark.parametrize(
    ("action", "is_handled", "said"),
    [
        ("stop", True, "stop is taken; what is true now is below"),
        ("flatten", True, "flatten is taken; what is true now is below"),  # the session ended after it
        ("stop", False, "stop is taken; what is true now is below"),
        (
            "halt",
            False,
            "halt was received, and the session ended before it said more; its journal has what followed",
        ),
    ],
)
def test_who_ended_the_session_is_told_so_though_it_is_over_by_then(
    tmp_path: Path, state: str, action: str, is_handled: bool, said: str
) -> None:
    """A stop of a flat session was answered with `nothing was done: the session is over already`."""
    (tmp_path / "run.json").write_text('{"state": "running"}')
    commands, status = OperatorCommands(Record(tmp_path)), {"state": "running"}

    def command(action: Any, reason: str, final: bool) -> None:
        commands.add(action, reason, final)
        status["state"] = state
        if is_handled:
            commands.on_operator(Operator(1, action, reason, final))

    async def ask_once() -> dict[str, Any]:
        with mock.patch("voltrade.engine.operator_commands.TAKEN_WITHIN_S", 0.01):
            control = Control(Config(), lambda: status, command, taken=commands.wait)
            return await control._answer({"op": action, "reason": "x"})

    rows = rows_of(tmp_path, action, asyncio.run(ask_once()))
    assert (rows["command"], rows["state"]) == (said, state)


def test_ctl_waits_for_its_place_where_others_wait_for_a_busy_engine(served: Served) -> None:
    """The kernel refuses at once where the queue of a socket is full."""
    path = str(json.loads((served.add("today-1", "one") / "run.json").read_text())["socket"])
    refusals = iter([BlockingIOError, BlockingIOError])

    class Queued(socket.socket):
        def connect(self, address: Any) -> None:
            for refusal in refusals:
                raise refusal
            super().connect(address)

    with Queued(socket.AF_UNIX) as connection:
        _connect(connection, path)
        assert connection.getpeername() == path


@pytest.mark.parametrize(
    "words", ["halt runs/today-1 --reason why", "halt --reason why runs/today-1", "--reason why halt runs/today-1"]
)
def test_ctl_takes_its_words_in_any_order(served: Served, words: str) -> None:
    served.add("today-1", "one")
    assert main(["ctl", *words.split()]) == 0
    assert served.orders["today-1"] == [("halt", "why", False)]


def test_ctl_says_what_each_order_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ctl", "--help"])
    said = capsys.readouterr().out
    assert all(f"  {action:<8} {meaning}" in said for action, meaning in ACTIONS.items())


def test_ctl_refuses_to_choose_among_running_sessions(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in a folder of runs wasn't seen, nor was one whose engine was busy: the command went to the other one."""
    served.add("today", "a1b2")
    served.add("2026-11/monday", "c3d4")
    assert main(["ctl", "flatten"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "ctl: run: must be named, 2 are running:"
    assert sorted(said[1:]) == ["  runs/2026-11/monday  c3d4", "  runs/today  a1b2"]
    assert served.orders == {"today": [], "2026-11/monday": []}


def test_ctl_sees_an_engine_that_is_too_busy_to_answer(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.add("today", "a1b2")
    busy = Path("runs/busy")  # relative, since a socket's path must be short
    busy.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(busy / "engine.sock"))
        silent.listen()
        (busy / "run.json").write_text(json.dumps({"state": "running", "socket": str(busy / "engine.sock"), "id": "e"}))
        assert main(["ctl", "flatten"]) == 2
    assert "2 are running" in capsys.readouterr().err
    assert served.orders == {"today": []}


def test_the_engine_of_another_run_carries_out_nothing(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was moved aside still names the path of its socket, at which the next one of its name listens now."""
    folder = served.add("today", "new")
    aside = folder.with_name("today-1")
    aside.mkdir()
    record = {**json.loads((folder / "run.json").read_text()), "id": "old"}
    (aside / "run.json").write_text(json.dumps(record))
    assert main(["ctl", "flatten", "runs/today-1"]) == 2
    assert capsys.readouterr().err == "ctl: today-1: its socket is that of another run now, new\n"
    assert served.orders == {"today": []}
