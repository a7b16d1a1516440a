"""What is said of a rule that raised an exception: which rule, at which line, at which bar, and why."""

from __future__ import annotations

from types import CodeType
from typing import Any

import numpy as np

from voltrade.compiled import Record, Rows, bind, plain
from voltrade.signal_engine import SignalEngine, bar_step_of, fill_rule_bar, indicators_of


def describe_failure(engine: SignalEngine, state: Rows, bar: Record, number: int, error: Exception) -> str:
    """Return the text of an alert about a rule's exception.

    Args:
        engine: the engine, whose `decide` raised it.
        state: the engine's state before the bar; it may be changed.
        bar: the closed bar, a row of BAR.
        number: the bar's number in the run.
        error: the exception.
    """
    line = _line_of(engine, error) or _line_in_plain_python(engine, state, bar) or _rule_code(engine).co_firstlineno
    return f"{type(engine).__name__} line {line}, bar {number}: {type(error).__name__}: {error}"


def _line_in_plain_python(engine: SignalEngine, state: Rows, bar: Record) -> int:
    """Return the line at which the rule fails as plain Python; compiled code doesn't tell it. 0 where it doesn't."""
    rule = type(engine)
    indicators = indicators_of(rule, plain, plain)
    step = bind(bar_step_of(rule).step, INDICATORS=indicators, RULE=plain(rule._detect_signal))
    rule_bar, decision = engine.bar.copy(), np.zeros(1, engine.decision_dtype)
    try:
        with np.errstate(divide="raise"):  # numpy only warns where compiled code raises
            plain(fill_rule_bar)(bar, engine.scale[0], rule_bar[0])
            step(state[0], rule_bar[0], engine.settings_row[0], decision[0])
    except Exception as error:
        return _line_of(engine, error)
    return 0


def _line_of(engine: SignalEngine, error: Exception) -> int:
    """Return the last line of the rule's own file in an exception's traceback; 0 without one."""
    line, trace, file = 0, error.__traceback__, _rule_code(engine).co_filename
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _rule_code(engine: SignalEngine) -> CodeType:
    """Return the code of the engine's rule: of `on_volume_bar` where that is overridden."""
    rule: Any = type(engine)
    code: CodeType = (rule.on_volume_bar if engine.is_overridden else plain(rule._detect_signal)).__code__
    return code
