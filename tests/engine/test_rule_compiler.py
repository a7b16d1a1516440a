"""The process that compiles the rules beside an engine: it fills the cache, ends with its engine, and harms nobody."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voltrade import plain_start
from voltrade.config import SignalSettings
from voltrade.engine import rule_compiler
from voltrade.engine.rule_compiler import LOCK, RuleCompiler, compile_beside
from voltrade.model import Trouble


class System:
    """A session whose rules are plain."""

    now = 7

    def __init__(self) -> None:
        self.told: list[Trouble] = []
        self.core = SimpleNamespace(is_plain=True, config=SimpleNamespace(signals=SignalSettings()), taken=0)
        self.core.take_rules = self.take

    def take(self) -> None:
        self.core.taken += 1

    def on_event(self, event: Trouble) -> None:
        self.told.append(event)


def run(system: Any) -> None:
    asyncio.run(RuleCompiler(system).run())


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VOLTRADE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(rule_compiler, "PAUSES_S", (0.0,))
    return tmp_path / "cache"


def test_a_cache_that_cannot_be_written_is_told_once_and_nothing_is_started(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "file").touch()
    monkeypatch.setenv("VOLTRADE_CACHE", str(empty / "file" / "cache"))
    system = System()
    run(system)
    [told] = system.told
    assert told.code == "RULES_PLAIN"
    assert "must be a folder that can be written (VOLTRADE_CACHE)" in told.text
    assert system.core.taken == 1  # what a cache that can be read has


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_is_told_and_tried_again(
    end: signal.Signals, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the lock, so that it waits until it is killed."""
    started: list[int] = []
    start = asyncio.create_subprocess_exec

    async def watched(*words: Any, **how: Any) -> Any:
        process = await start(*words, **how)
        started.append(process.pid)
        process.send_signal(end)
        return process

    async def lacking(settings: SignalSettings) -> frozenset[str]:
        return frozenset({"_react"})  # this process has them, of an earlier test

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    monkeypatch.setattr(rule_compiler, "in_thread", lacking)
    with (empty / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        system = System()
        run(system)
    assert [told.text.partition(";")[0] for told in system.told] == [f"its process ended with -{int(end)}"]
    assert len(started) == 2


def test_one_that_has_nothing_to_compile_ends_well(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert asyncio.run(compile_beside(SignalSettings())) == ""


def test_one_that_takes_too_long_is_killed(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_compiler, "WITHIN_S", 0.05)
    with (empty / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert asyncio.run(compile_beside(SignalSettings())) == "it took longer than 0 s"


def test_it_ends_with_its_engine(empty: Path) -> None:
    """Whatever the engine died of: the pipe to it is closed then. Without the lock it compiles nothing."""
    with (empty / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, "-m", rule_compiler.__name__], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(SignalSettings().model_dump_json().encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while os.getpriority(os.PRIO_PROCESS, process.pid) < rule_compiler.NICENESS and time.monotonic() < deadline:
            time.sleep(0.02)
        process.stdin.close()
        assert process.wait(20) == 1
    assert not list(empty.rglob("*.nbc"))


def test_what_the_cache_lacks_is_plain_and_is_not_looked_for_at_each_call(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def compile_for(function: Any, *given: Any, **options: Any) -> Any:
        looked.append(function.__name__)
        raise plain_start.NotKept

    monkeypatch.setattr(plain_start, "_compiled", {})
    monkeypatch.setattr(plain_start, "compile_for", compile_for)

    async def ask() -> frozenset[str]:
        plain_start.begin_plain()
        rules = [plain_start.entry(_twice, None) for _ in range(3)]
        assert [rule(2) for rule in rules] == [4, 4, 4]
        assert all(map(plain_start.is_plain, rules))
        return plain_start.lacking()

    assert asyncio.run(ask()) == {"_twice"}
    assert looked == ["_twice"]
    assert plain_start.lacking() == frozenset()


def _twice(number: int) -> int:
    return 2 * number
