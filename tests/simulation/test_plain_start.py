"""An engine that comes back to an empty compile cache does as one that finds its rules compiled, event for event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from simulation.evidence import Json
from simulation.plans import RULE
from simulation.scenario import at, scenario, workplace
from simulation.tapes import path_tape
from voltrade import journal, plain_start, signal_engine
from voltrade.compiled import NotKept
from voltrade.config import SignalSettings
from voltrade.engine import engine, rule_compiler
from voltrade.live import LiveTradingSystem
from voltrade.model import Event, OrderIntent
from voltrade.runs.run_file import JOURNAL
from voltrade.signal_engine import SignalEngine

COMPILED_AFTER_S = 15.0
Facts = list[tuple[int, str, bytes]]


class EmptyCache:
    """A cache that an engine which comes back finds empty, and which is filled after a while, or never.

    Attributes:
        plain, compiled: how many events cores have handled while their rules were plain, and compiled.
    """

    def __init__(self, patch: pytest.MonkeyPatch, wrong: str = "") -> None:
        self._wrong, self._is_filled = wrong, True
        self._compile_for, self._handle = plain_start.compile_for, LiveTradingSystem.handle
        self.plain, self.compiled, self.swapped_at = 0, 0, 0
        patch.setattr(plain_start, "_compiled", {})
        patch.setattr(plain_start, "compile_for", self.compile_for)
        patch.setattr(engine, "begin_plain", self.begin_plain)
        patch.setattr(rule_compiler, "compile_beside", self.compile_beside)
        patch.setattr(rule_compiler, "in_thread", self.in_thread)
        patch.setattr(rule_compiler, "own_in_thread", self.own_in_thread)
        patch.setattr(LiveTradingSystem, "handle", lambda system, event: self.handle(system, event))

    def begin_plain(self) -> None:
        plain_start._compiled.clear()
        signal_engine._programs.clear()
        self._is_filled = False
        plain_start.begin_plain()

    def compile_for(self, *given: Any, **options: Any) -> Any:
        if not self._is_filled and plain_start._LACKING.get() is not None:
            raise NotKept
        return self._compile_for(*given, **options)

    async def compile_beside(self, settings: SignalSettings) -> str:
        await asyncio.sleep(COMPILED_AFTER_S)
        self._is_filled = not self._wrong
        return self._wrong

    async def in_thread(self, settings: SignalSettings) -> frozenset[str]:
        return rule_compiler.find_lacking(settings)

    async def own_in_thread(self, rule: SignalEngine) -> None:
        rule_compiler.compile_own(rule)

    def handle(self, system: LiveTradingSystem, event: Event) -> Any:
        if system.core.is_plain:
            self.plain += 1
        else:
            self.compiled += 1
            self.swapped_at = self.swapped_at or (self.plain and system.now)
        return self._handle(system, event)


SETTINGS: Json = {
    **{
        "stop_atr": 3.0,
        "take_profit_atr": 0.0,
        "max_holding_s": 3.0,
        "use_rsi_filter": False,
        "use_vwap_filter": False,
    },
    **{"begin_s": 60.0, "duration_s": 65.0},
}


def play(rule: str = "") -> Facts:
    """A session with many round trips, a kill, a lost stream and a pause; return the rows of its journal."""
    strikes = at(15, "kill"), at(28, "cut", 4), at(45, "operator", action="pause"), at(50, "operator", action="resume")
    points = [(at_s, 80_000.0 + 240.0 * (number % 2)) for number, at_s in enumerate(range(0, 150, 4))]
    tape = path_tape([(float(at_s), price) for at_s, price in points], every_s=0.1, lots=200)
    evidence = scenario(*strikes, tape=tape, rule=rule, **SETTINGS)
    assert evidence.replay == [0]
    return [(row.time, row.kind, row.body) for row in journal.read(workplace() / "runs/run" / JOURNAL)]


@pytest.mark.parametrize("rule", ["", RULE], ids=["the built-in rule", "a rule file"])
def test_rules_that_begin_plain_and_are_compiled_later_do_the_same(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = play(rule=rule)
    cache = EmptyCache(monkeypatch)
    assert play(rule=rule) == expected
    intents = [time for time, kind, _ in expected if kind == OrderIntent.__name__]
    came_back = next(time for time, kind, _ in expected if kind == "EngineRestarted")
    assert any(came_back < time < cache.swapped_at for time in intents)
    assert any(time > cache.swapped_at for time in intents)
    assert cache.plain > 100
    assert cache.compiled > 100


def test_rules_that_cannot_be_compiled_stay_plain_and_it_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_compiler, "PAUSES_S", (5.0, 5.0))
    cache = EmptyCache(monkeypatch, wrong="its process ended with -9")
    found = play()
    assert [kind for _, kind, body in found if b"RULES_PLAIN" in body] == ["Trouble", "Alert"]
    last = max(time for time, kind, _ in found if kind == OrderIntent.__name__)
    assert last > next(time for time, kind, _ in found if kind == "EngineRestarted") + 30_000
    assert not cache.swapped_at
