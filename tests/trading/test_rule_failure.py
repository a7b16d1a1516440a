"""A rule that raises an exception is told with its line and bar, and switched off; the position is looked after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.builders import an_instrument

from voltrade.bar_pipeline import BarPipeline
from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.data.synthetic import synthetic_market
from voltrade.data.tape import load_tape
from voltrade.model import Alert, Operator, Trades
from voltrade.research.backtest import backtest
from voltrade.signal_engine import SignalEngine

FAILS_AT = 5


class Fails(SignalEngine):
    @staticmethod
    def _detect_signal(state: Any, bar: Any, settings: Any, decision: Any) -> int:
        beyond = 5 - state.bars
        return 1 // beyond + 2 if beyond <= 0 else 0  # line


class Raises(SignalEngine):
    @staticmethod
    def _detect_signal(state: Any, bar: Any, settings: Any, decision: Any) -> int:
        if state.bars == 5:
            raise ValueError("no such level")  # line
        return 0


class FailsInPython(SignalEngine):
    """As a rule that numba can't compile."""

    def on_volume_bar(self, bar: Any) -> Any:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        if self.bars == FAILS_AT:
            raise LookupError("no such level")  # line
        return signal


LINES = [number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith("# line")]
CONFIG = Config.from_parameters(threshold=2, ema_fast=2, ema_slow=3, rsi_length=2, atr_length=2, bollinger_length=2)
MARKET = synthetic_market(an_instrument(), 1, 0.2, 1_767_600_000_000)


def a_pipeline(rule: type[SignalEngine]) -> BarPipeline:
    return BarPipeline(an_instrument(), CONFIG.bars, rule(CONFIG.signals, an_instrument()))


def blocks_of(size: int) -> list[Trades]:
    return [MARKET[at : at + size] for at in range(0, len(MARKET), size)]


def a_core(rule: type[SignalEngine], size: int) -> tuple[TradingCore, list[Any]]:
    """Give a core the market in blocks; return it with its outputs."""
    core, found = TradingCore(CONFIG, an_instrument(), "e", rule(CONFIG.signals, an_instrument())), []
    for block in blocks_of(size):
        at = 0
        while at < len(block):
            consumed, outputs = core.handle(block[at:])
            at += consumed
            found += outputs
    return core, found


@pytest.mark.parametrize(
    ("rule", "line", "error"),
    [
        (Fails, LINES[0], ""),  # ZeroDivisionError where it is compiled
        (Raises, LINES[1], "ValueError: no such level"),
        pytest.param(
            *(FailsInPython, LINES[2], "LookupError: no such level"),
            marks=pytest.mark.filterwarnings("ignore::voltrade.signal_engine.UncompiledRuleWarning"),
        ),
    ],
)
def test_a_rule_that_fails_is_told_once_with_its_line_and_bar(rule: type[SignalEngine], line: int, error: str) -> None:
    """The same however the trades are cut into blocks, as a replay needs it; compiled code doesn't tell its line."""
    told = [a_core(rule, size)[1] for size in (len(MARKET), 1_000)]
    assert told[0] == told[1]
    [alert] = told[0]
    assert isinstance(alert, Alert)
    assert alert.code == "RULE_FAILED"
    assert alert.text.startswith(f"{rule.__name__} line {line}, bar {FAILS_AT - 1}: {error}")
    core = a_core(rule, 1_000)[0]
    [state] = core.symbol_states.values()
    decisions = state.pipeline.decisions
    assert len(decisions) > 20  # bars go on
    assert not decisions["signal"][FAILS_AT - 1 :].any()
    assert not decisions["ready"][FAILS_AT - 1 :].any()
    assert not np.isnan(decisions["atr"][FAILS_AT - 1 :]).any()  # which JSON has no word for


def test_an_operator_who_resumes_has_the_rule_decide_again_warmed_up_by_the_bars_so_far() -> None:
    core, _ = a_core(SignalEngine, 1_000)
    [state] = core.symbol_states.values()
    assert state.pipeline.engine.bars == state.pipeline.count
    caretake = Operator(core.time, "caretake", "3 crashes in ten minutes", False)
    outputs = core.handle(caretake)[1]
    assert outputs == [Alert(core.time, "CARETAKER", "3 crashes in ten minutes")]
    assert core.handle(caretake)[1] == []
    times = MARKET.time - MARKET.time[0] + core.time + 1
    columns = MARKET.id + len(MARKET), MARKET.price, MARKET.quantity, times, MARKET.buyer_is_maker
    later = Trades(MARKET.symbol, *columns)
    assert not run_on(core, later[: len(later) // 2])
    core.handle(Operator(core.time, "resume", "seen to", False))
    assert state.pipeline.rule_off == ""
    before = state.pipeline.count
    run_on(core, later[len(later) // 2 :])
    assert state.pipeline.decisions["ready"][before:].all()
    straight = SignalEngine(CONFIG.signals, an_instrument()).on_volume_bars(state.pipeline.bars)
    np.testing.assert_allclose(state.pipeline.decisions["atr"][before:], straight["atr"][before:], rtol=1e-9)


def test_a_rule_that_fails_again_when_an_operator_resumes_is_off_again_and_told() -> None:
    core, _ = a_core(Raises, 1_000)
    [state] = core.symbol_states.values()
    [alert] = core.handle(Operator(core.time, "resume", "try again", False))[1]
    assert isinstance(alert, Alert)
    assert (alert.code, state.pipeline.rule_off) == ("RULE_FAILED", alert.text)


def run_on(core: TradingCore, trades: Trades) -> bool:
    """Give a core further trades; return whether any bar had a signal."""
    [state] = core.symbol_states.values()
    before, at = state.pipeline.count, 0
    while at < len(trades):
        at += core.handle(trades[at:])[0]
    assert state.pipeline.count > before
    return bool(state.pipeline.decisions["signal"][before:].any())


@pytest.mark.parametrize("path", ["events", "compiled"])
def test_research_shows_the_exception_itself(path: Any) -> None:
    """It is about the rule, and has no position to look after."""
    config = Config.from_parameters({**CONFIG.parameters(), "hours": 0.2})
    tape = load_tape(config.session, an_instrument())
    with pytest.raises(ValueError, match="no such level"):
        backtest(tape, config, Raises(config.signals, an_instrument()), path=path)
