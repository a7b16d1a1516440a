"""The process that compiles the rules beside an engine: it fills the cache, ends with its engine, and harms nobody."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voltrade import plain_start, signal_engine
from voltrade.bar_pipeline import BarPipeline
from voltrade.compiled import uncompiled
from voltrade.config import BarSettings, Config, SignalSettings
from voltrade.core import TradingCore
from voltrade.data.synthetic import synthetic_market
from voltrade.engine import rule_compiler
from voltrade.engine.resumption import Resumption
from voltrade.engine.rule_compiler import LOCK, RuleCompiler, compile_beside
from voltrade.errors import JournalError
from voltrade.journal.checkpoint import Checkpoints
from voltrade.journal.rows import encode_json
from voltrade.model import DAY_MS, NEVER, Trades, Trouble
from voltrade.runs import replay
from voltrade.signal_engine import SignalEngine
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import compile_own


class System:
    """A session whose rules are plain."""

    now = 7

    def __init__(self) -> None:
        self.told: list[Trouble] = []
        config = SimpleNamespace(signals=SignalSettings())
        self.core = SimpleNamespace(is_plain=True, config=config, taken=0, symbol_states=dict[str, Any]())
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


# --- a rule file's own rule -------------------------------------------------------------------------------------------


class Own(SignalEngine):
    """A rule of a file."""

    @staticmethod
    def _detect_signal(state: Any, bar: Any, settings: Any, decision: Any) -> int:
        return 1 if decision.ready and bar.close > decision.vwap else 0


def lack(*given: Any, **options: Any) -> Any:
    raise plain_start.NotKept


def a_pipeline(rule: type[SignalEngine], trades: Trades) -> BarPipeline:
    settings = BarSettings(unit="trades", threshold=Decimal(20))
    instrument = shipped_instrument("BTCUSDT")
    pipeline = BarPipeline(instrument, settings, rule(SignalSettings(), instrument))
    assert pipeline.process(trades, 0, NEVER, 10**9) > 0
    return pipeline


def test_what_an_own_rule_kept_as_plain_python_is_calculated_again_once_it_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may round another way; what is in a checkpoint was compiled."""
    trades = synthetic_market(shipped_instrument("BTCUSDT"), 3, 0.2, 20_458 * DAY_MS)
    monkeypatch.setattr(signal_engine, "_programs", {})
    monkeypatch.setattr(plain_start, "compile_for", lack)
    monkeypatch.setattr(signal_engine, "compile_for", lambda function, *_, **__: uncompiled(function))

    def decide() -> None:
        plain_start.begin_plain()
        pipeline, right = a_pipeline(Own, trades), a_pipeline(SignalEngine, trades)
        assert (pipeline.has_plain_own_rule, right.has_plain_own_rule) == (True, False)
        assert pipeline.count > 10
        saved = pipeline.state_bytes()
        state = pipeline.engine.state.tobytes()
        pipeline.engine.state["ema_fast"] += 1e-9
        pipeline.take_rules()
        assert pipeline.has_plain_own_rule
        assert pipeline.engine.state.tobytes() != state
        compile_own(pipeline.engine)
        pipeline.take_rules()
        assert not pipeline.has_plain_own_rule
        assert pipeline.engine.state.tobytes() == state
        pipeline.restore(saved)
        assert pipeline._again_from[0] == pipeline.count

    copy_context().run(decide)


def test_an_own_rule_is_compiled_here_before_any_trade_is_given_to_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    system, did = System(), list[str]()
    own = SimpleNamespace(has_plain_own_rule=True, rule_off="")
    system.core.symbol_states["BTCUSDT"] = SimpleNamespace(pipeline=own, engine="the rule")
    system.core.is_plain = False  # nothing else is

    async def story() -> None:
        compiler = RuleCompiler(system)  # type: ignore[arg-type]
        monkeypatch.setattr(
            rule_compiler, "compile_own", lambda rule: did.append(f"{rule}, {compiler.has_own.is_set()}")
        )
        await compiler.run()
        assert compiler.has_own.is_set()

    asyncio.run(story())
    assert did == ["the rule, False"]
    assert system.core.taken == 2


def test_an_own_rule_that_cannot_be_compiled_ends_no_session_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as while the disk is full: the position is looked after, and no trade is decided on."""
    system, tries = System(), list[bool]()
    own = SimpleNamespace(has_plain_own_rule=True, rule_off="")
    system.core.symbol_states["BTCUSDT"] = SimpleNamespace(pipeline=own, engine="the rule")
    system.core.is_plain = False
    monkeypatch.setattr(rule_compiler, "OWN_PAUSES_S", (0.0, 0.0))

    async def story() -> None:
        compiler = RuleCompiler(system)  # type: ignore[arg-type]

        def full(rule: Any) -> None:
            tries.append(compiler.has_own.is_set())
            if len(tries) < 4:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(rule_compiler, "compile_own", full)
        await compiler.run()
        assert compiler.has_own.is_set()

    asyncio.run(story())
    assert tries == [False] * 4
    [told] = system.told
    assert told.code == "RULES_PLAIN"
    assert "No space left on device; without the rule file's rule no bar is decided on" in told.text


def test_an_own_rule_that_fails_only_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System()
    own = SimpleNamespace(has_plain_own_rule=True, rule_off="")
    system.core.symbol_states["BTCUSDT"] = SimpleNamespace(pipeline=own, engine="the rule")
    system.core.is_plain = False
    monkeypatch.setattr(rule_compiler, "compile_own", lambda rule: setattr(system.core, "take_rules", fail))

    def fail() -> None:
        own.rule_off = "it divides by 0"

    run(system)
    assert [told.text.partition(": ")[2] for told in system.told] == ["it divides by 0"]


def test_what_a_checkpoint_has_of_an_own_rule_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was compiled. Calculated again from the first bar it was another one, or failed where it had once failed."""
    trades = synthetic_market(shipped_instrument("BTCUSDT"), 1, 0.05, 20_458 * DAY_MS)
    monkeypatch.setattr(signal_engine, "_programs", {})
    monkeypatch.setattr(plain_start, "compile_for", lack)
    monkeypatch.setattr(signal_engine, "compile_for", lambda function, *_, **__: uncompiled(function))
    config = Config.from_parameters(symbol="BTCUSDT", unit="trades", threshold=20)

    def core() -> TradingCore:
        return TradingCore(
            config, shipped_instrument("BTCUSDT"), "e", Own(config.signals, shipped_instrument("BTCUSDT"))
        )

    def decide() -> None:
        plain_start.begin_plain()
        first, successor = core(), core()
        assert first.handle(trades)[0] == len(trades)
        state = first.symbol_states["BTCUSDT"].pipeline.engine.state
        state["ema_fast"] += 1.0
        saved = json.loads(encode_json(Checkpoints(first).take()))
        bars = [
            json.loads(encode_json(first.bar_row(first.symbol_states["BTCUSDT"], number)))
            for number in range(first.symbol_states["BTCUSDT"].pipeline.count)
        ]
        Checkpoints(successor).restore(saved, bars)
        pipeline = successor.symbol_states["BTCUSDT"].pipeline
        assert pipeline.has_plain_own_rule
        compile_own(pipeline.engine)
        successor.take_rules()
        assert not pipeline.has_plain_own_rule
        assert pipeline.engine.state.tobytes() == state.tobytes()

    copy_context().run(decide)


def test_missed_trades_wait_for_an_own_rule() -> None:
    asked: list[str] = []

    async def load(newest: int) -> str:
        return f"up to {newest}"

    async def agg_trades(*given: Any, **how: Any) -> list[tuple[int]]:
        asked.append("newest")
        return [(7,)]

    async def story() -> None:
        wiring = SimpleNamespace(rest=SimpleNamespace(agg_trades=agg_trades), instrument=SimpleNamespace(symbol="B"))
        system = SimpleNamespace(catch_up=asked.append)
        feed = SimpleNamespace(release=lambda newest: asked.append(f"release {newest}"))
        given: Any = (wiring, system, feed, load, None)
        has_rule = asyncio.Event()
        waiting = asyncio.create_task(Resumption(*given)._catch_up(has_rule))
        for _ in range(5):
            await asyncio.sleep(0)
        assert asked == []
        has_rule.set()
        await waiting

    asyncio.run(story())
    assert asked == ["newest", "up to 7", "release 7"]


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_replay_that_differs_is_made_again_with_the_rule_compiled_if_it_was_plain(
    is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it rounded another way; else the journal can't be resumed from."""
    state = SimpleNamespace(engine="the rule", pipeline=SimpleNamespace(has_plain_own_rule=is_plain))
    core: Any = SimpleNamespace(symbol_states={"BTCUSDT": state})
    right, compiled_rules = replay.Replay(core=core), list[Any]()
    differs = replay.Replay(core=core)
    differs.add_difference("row 3")
    monkeypatch.setattr(replay, "compile_own", compiled_rules.append)
    monkeypatch.setattr(replay, "_from_checkpoint", lambda *_: right if compiled_rules else differs)
    if is_plain:
        assert replay.recover(Path("journal.db")) is right
        assert compiled_rules == ["the rule"]
    else:
        with pytest.raises(JournalError, match="row 3"):
            replay.recover(Path("journal.db"))


def test_a_closure_is_compiled_since_no_copy_of_it_can_be_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []

    def compile_for(function: Any, *given: Any, **options: Any) -> Any:
        made.append(plain_start._LACKING.get() is not None)
        if len(made) == 1:
            raise plain_start.NotKept
        return "compiled"

    monkeypatch.setattr(plain_start, "_compiled", {})
    monkeypatch.setattr(plain_start, "compile_for", compile_for)
    by = 3

    def times(number: int) -> int:
        return by * number

    def ask() -> Any:
        plain_start.begin_plain()
        return plain_start.entry(times, None)

    assert copy_context().run(ask) == "compiled"
