"""A session without faults and without latency, held against the backtest over the same trades."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulation.evidence import Evidence
from simulation.plans import Plan
from voltrade.data.tape import Tape, TapeReport
from voltrade.journal import rows as journal_rows
from voltrade.model import OrderIntent, OrderUpdate, Refusal, RoundTrip
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import read_parameters, signal_engine_of
from voltrade.venue.server import shifted

DECISIONS = (OrderIntent, Refusal, RoundTrip)
LAST_S = 75.0
"""The end of a session, in which it is not compared: it ends by its own time, the backtest with the tape."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What session and backtest decided and filled.

    Attributes:
        differences: the first of what is not the same.
        decisions: how many of the backtest's were compared.
        cut_s: when it stopped, seconds after the opening; None where it went on to the session's last minutes.
    """

    differences: list[str]
    decisions: int
    cut_s: float | None


def compared(plan: Plan, evidence: Evidence) -> Comparison:
    """Compare what session and backtest decided and filled, up to the session's last minutes, or up to the
    first millisecond in which bars signal both sides and an entry is sent: the backtest's exchange answers that entry
    before the next bar, which can then cancel it; a session has the answer after the block of trades.

    The backtest begins with the first trade that the session loaded: bars of the anchor `continuous` count from it.
    """
    config = read_parameters(plan.settings)
    trades = shifted(plan.tape, evidence.opened - int(plan.tape.time[0]) - int(plan.begin_s * 1000))
    loaded = next(journal_rows.decode(row.kind, row.body) for row in evidence.journals[0] if row.kind == "Trades")
    if config.bars.anchor == "continuous":
        trades = trades[int(np.searchsorted(trades.id, loaded.id[0])) :]
    begin_s = (evidence.opened - int(trades.time[0])) / 1000
    report = TapeReport(len(trades), len(trades), int(trades.time[0]), int(trades.time[-1]))
    tape = Tape(trades, report, f"seed {plan.seed}", synthetic=True)
    instrument = shipped_instrument(config.session.symbol)
    engine = signal_engine_of(config, instrument)
    done = backtest(tape, config, engine, epoch="e0", begin_s=begin_s, path="events")
    facts = [_fact(row) for row in evidence.journals[0]]
    end = _both_sides_at(facts, evidence) if config.exits.exit_on_opposite_signal else _until(evidence)
    ours, theirs = _decisions(facts, evidence.opened, end), _decisions(done.facts, evidence.opened, end)
    cut_s = (end - evidence.opened) / 1000 if end < _until(evidence) else None
    pairs = zip(ours + [None] * len(theirs), theirs + [None] * len(ours), strict=False)
    other = [f"session {mine} | backtest {his}" for mine, his in pairs if mine != his]
    return Comparison(other[:5], len(theirs), cut_s)


def _fact(row: Any) -> Any:
    if row.kind not in ("OrderIntent", "OrderUpdate", "Refusal", "RoundTrip"):
        return None
    return journal_rows.decode(row.kind, journal_rows.encode_json(row.body))


def _both_sides_at(facts: list[Any], evidence: Evidence) -> int:
    """Return the first millisecond with an entry and a signal of the other side, or when the session's end begins."""
    entries = {(fact.time, fact.order.side) for fact in facts if isinstance(fact, OrderIntent) and fact.purpose == "e"}
    signals = ((fact.time, -fact.side) for fact in facts if isinstance(fact, Refusal))
    return min([_until(evidence), *(time for time, other in signals if (time, other) in entries)])


def _until(evidence: Evidence) -> int:
    return evidence.opened + int(1000 * (evidence.settings["duration_s"] - LAST_S))


def _decisions(facts: list[Any], begin: int, end: int) -> list[Any]:
    """Intents, refusals, round trips and fills from begin to end, in the order of time.

    What happens in one millisecond has no order; a bar's number in the run depends on how many were loaded before.
    """
    kept = [fact for fact in facts if isinstance(fact, DECISIONS) or (isinstance(fact, OrderUpdate) and fact.trade_id)]
    plain = [
        replace(fact, filled_notional=0) if isinstance(fact, OrderUpdate) else replace(fact, bar_number=0)
        for fact in kept
        if begin <= _time(fact) < end
    ]
    return sorted(plain, key=lambda fact: (_time(fact), repr(fact)))


def _time(fact: Any) -> int:
    return int(fact.closed_at if isinstance(fact, RoundTrip) else fact.time)
