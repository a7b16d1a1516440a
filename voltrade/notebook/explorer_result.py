"""Trades a tape with the explorer's settings, by the compiled backtest loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voltrade.compiled import Rows
from voltrade.config import Config
from voltrade.orders.records import REFUSAL, SIGNAL
from voltrade.report.statistics import CountedBars
from voltrade.research import loop_records
from voltrade.research.compiled_session import Tables
from voltrade.research.prepared_tape import Research
from voltrade.strategy.rule_file import RuleFile


@dataclass(frozen=True, slots=True, eq=False)
class ExplorerResult:
    """Bars, decisions and trades of one configuration on the whole tape."""

    config: Config
    bars: Rows
    decisions: Rows
    tables: Tables
    why_not_traded: str
    """Why there are no trades, if the compiled loop has stopped; bars and signals are complete."""
    rule_sha256: str
    """Hash of the rule file; empty for the built-in rule."""

    @property
    def counted(self) -> CountedBars:
        """Counts and times of all bars, for the statistics."""
        bars = self.bars[self.tables.first_bar : self.tables.bars]
        signals = np.count_nonzero(self.decisions["signal"][self.tables.first_bar : self.tables.bars])
        return CountedBars(len(bars), int(signals), bars["open_time"][:1].tolist(), bars["close_time"][-1:].tolist())


def trade_tape(research: Research, config: Config) -> ExplorerResult:
    """Trade a whole tape with one configuration, in compiled code.

    Raises:
        ConfigError: The settings are impossible for the symbol, or the rule file is broken.
        DataError: The tape is of another symbol, or has no trade after `begin_s`.
    """
    research.check(config)
    sha256 = rule_sha256(config.session.rule)
    bars, decisions = research.bars(config.bars).rows, research.decisions(config)
    tables, why = research.trade(config, research.signals(decisions), research.span(config.session.begin_s))
    return ExplorerResult(config, bars, decisions, tables or _without_trades(len(bars)), why, sha256)


def rule_sha256(rule: str) -> str:
    """Return the hash of a rule file; empty for the built-in rule."""
    return RuleFile.named(rule).sha256 if rule else ""


def _without_trades(bars: int) -> Tables:
    rows = {name: np.empty(0, dtype) for name, dtype in loop_records.TABLES.items()}
    signals, refusals = np.empty(0, SIGNAL), np.empty(0, REFUSAL)
    return Tables(bars, first_bar=0, wallet=0, extrapolated=0.0, signals=signals, refusals=refusals, **rows)
