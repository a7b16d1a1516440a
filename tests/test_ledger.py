"""One account, one engine: whoever takes the ledger first trades, and a killed engine lets go of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from voltrade.errors import SessionError
from voltrade.ledger import Ledger

RACES = 50
CONTEXT = multiprocessing.get_context("spawn")


def race(root: Path, start: Barrier, answers: Connection) -> None:
    """Run for the ledger of one account after another, at the same instant as the other process does."""
    for number in range(RACES):
        start.wait(30)
        try:
            ledger = Ledger.open(root, f"account {number}", "live")
        except SessionError as error:
            answers.send(str(error))
            start.wait(30)
            continue
        answers.send("taken")
        start.wait(30)  # held until the other one has tried
        ledger.close()


def hold(root: Path, answers: Connection) -> None:
    ledger = Ledger.open(root, "account", "live")
    ledger.begin(root / "killed")
    answers.send("held")
    answers.recv()


@pytest.fixture
def processes() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started: list[multiprocessing.process.BaseProcess] = []
    yield started
    for process in started:
        process.kill()  # type: ignore[attr-defined]
        process.join(10)


def test_of_two_engines_at_the_same_instant_one_gets_the_account(
    tmp_path: Path, processes: list[multiprocessing.process.BaseProcess]
) -> None:
    start = CONTEXT.Barrier(2)
    ends = []
    for _ in range(2):
        ours, theirs = CONTEXT.Pipe()
        processes.append(CONTEXT.Process(target=race, args=(tmp_path, start, theirs)))
        processes[-1].start()
        ends.append(ours)
    won = [0, 0]
    for _ in range(RACES):
        answers = []
        for end in ends:
            assert end.poll(30)
            answers.append(end.recv())
        assert sorted(answers)[1] == "taken"
        assert sorted(answers)[0].endswith("another engine trades it")
        won[answers.index("taken")] += 1
    assert sum(won) == RACES
    assert len(list(tmp_path.glob("*.lock"))) == RACES


def test_the_ledger_of_a_killed_engine_is_taken_over(
    tmp_path: Path, processes: list[multiprocessing.process.BaseProcess]
) -> None:
    ours, theirs = CONTEXT.Pipe()
    processes.append(CONTEXT.Process(target=hold, args=(tmp_path, theirs)))
    processes[0].start()
    assert ours.poll(30)
    assert ours.recv() == "held"
    with pytest.raises(SessionError, match="another engine trades it"):
        Ledger.open(tmp_path, "account", "live")
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join(10)
    ledger = Ledger.open(tmp_path, "account", "live")
    assert ledger.last == {"run": str(tmp_path / "killed"), "ended": False}
    ledger.close()


def test_accounts_and_modes_have_ledgers_of_their_own(tmp_path: Path) -> None:
    ledgers = [Ledger.open(tmp_path, *whose) for whose in (("one", "live"), ("two", "live"), ("one", "demo"))]
    for number, ledger in enumerate(ledgers):
        ledger.end(tmp_path / str(number), "head", {"wallet": number})
        ledger.close()
    again = Ledger.open(tmp_path, "two", "live")
    assert again.last == {"run": str(tmp_path / "1"), "ended": True, "head": "head", "state": {"wallet": 1}}
    again.close()
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.lock")} == {0}


def test_a_broken_ledger_is_refused_and_let_go_of(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "account", "live")
    ledger.begin(tmp_path)
    ledger.close()
    [path] = tmp_path.glob("*.json")
    whole = path.read_text()
    path.write_text(whole[:-3])
    for _ in range(2):  # the lock is not kept
        with pytest.raises(SessionError, match="must be an account's ledger"):
            Ledger.open(tmp_path, "account", "live")
    path.write_text(json.dumps(json.loads(whole)))
    Ledger.open(tmp_path, "account", "live").close()
