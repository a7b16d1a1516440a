"""The hash of a rule without a file is that of what it does: the same for the same code, another for any other."""

from __future__ import annotations

import html
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from voltrade.config import Config, SignalSettings
from voltrade.research.searches import settings_hash
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.code_hash import code_hash, texts_of

CELL = """
EVERY = 20
class Kept:
    least = 3
class Set(SignalSettings):
    LEVEL: ClassVar[float] = 1.5
weights = (1.0, 2.0)
package = ModuleType("package")
package.sub = ModuleType("package.sub")
package.sub.SHIFT = 6
def helper(bars):
    return bars % EVERY
@compiled
def compiled_helper(bars):
    return bars + 7
def made(shift):
    def detect(state, bar, settings, decision, most=9):
        '''One.'''
        inner = [each + 4 for each in weights]
        more = Set.LEVEL + package.sub.SHIFT
        return helper(state.bars) + shift + Kept.least + compiled_helper(1) + int(np.abs(5)) + len(inner) + more
    return detect
class Rule(SignalEngine):
    _detect_signal = staticmethod(made(1))
    conditions = {"crossed": int}
    @classmethod
    def warmup_of(cls, settings):
        return 50
"""


def rule(*changes: tuple[str, str]) -> type[SignalEngine]:
    """Run a notebook's cell with changes, and return its class."""
    from voltrade.compiled import compiled

    source = CELL
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    names: dict[str, Any] = {"SignalEngine": SignalEngine, "compiled": compiled, "np": np, "__name__": "__main__"}
    names |= {"SignalSettings": SignalSettings, "ClassVar": ClassVar, "ModuleType": ModuleType}
    exec(source, names)
    made: type[SignalEngine] = names["Rule"]
    return made


@pytest.mark.parametrize(
    "change",
    [
        ("EVERY = 20", "EVERY = 33"),
        ("least = 3", "least = 4"),
        ("(1.0, 2.0)", "(1.0, 2.5)"),
        ("bars % EVERY", "bars // EVERY"),
        ("bars + 7", "bars + 8"),
        ("each + 4", "each + 5"),
        ("most=9", "most=8"),
        ("made(1)", "made(2)"),
        ("np.abs", "np.sign"),
        ('"crossed"', '"crossing"'),
        ("return 50", "return 51"),
        ("[float] = 1.5", "[float] = 1.6"),
        ("SHIFT = 6", "SHIFT = 7"),
    ],
)
def test_a_rule_that_does_something_else_has_another_hash(change: tuple[str, str]) -> None:
    assert code_hash(rule(change)) != code_hash(rule())
    config = Config()
    assert settings_hash(config, rule(change)) != settings_hash(config, rule()), "the ledger counts both"


@pytest.mark.parametrize("changes", [(), (("class Kept", "# a comment\n\n\nclass Kept"),)])
def test_a_cell_that_is_run_again_has_the_same_hash(changes: tuple[tuple[str, str], ...]) -> None:
    again = rule(*changes)
    assert again is not rule()
    assert code_hash(again) == code_hash(rule())
    assert settings_hash(Config(), again) == settings_hash(Config(), rule())


def recursive(value: int) -> int:
    return recursive(value - 1) if value else 0


@pytest.mark.parametrize("step", [recursive, lambda value: value + np.pi, np.maximum])
def test_functions_that_call_themselves_or_have_no_code_are_told(step: Callable[..., Any]) -> None:
    made = type("Rule", (SignalEngine,), {"_detect_signal": staticmethod(step)})
    assert code_hash(made) != code_hash(SignalEngine)


def test_the_built_in_rule_is_the_one_that_no_class_stands_for() -> None:
    assert settings_hash(Config(), SignalEngine) == settings_hash(Config())


def test_of_installed_packages_the_names_are_told() -> None:
    """A rule may have a method that draws; all of pandas isn't read for it, and an address tells nothing."""

    class Drawing(SignalEngine):
        chance = np.random.default_rng(7)

        @staticmethod
        def drawn(frame: Any) -> Any:
            return pd.DataFrame(frame).plot(subplots=True, name=html.escape("x"))

    texts = texts_of(Drawing)
    assert "pd is .pandas" in texts["drawn"]
    assert len(texts["drawn"]) < 2_000
    assert texts["chance"] == "Generator(Generator(PCG64))"
