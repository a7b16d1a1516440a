"""A backtest over the trades in a run's journal, with the run's settings and rule, from a flat account."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from voltrade import journal
from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport
from voltrade.journal.market import MARKET
from voltrade.model import BarResumePoint, EngineRestarted, History, ResumeState, Snapshot, Trades
from voltrade.report.frames import Frames
from voltrade.research.backtest import backtest
from voltrade.runs.replay import read_start


@dataclass(frozen=True, slots=True)
class RunBacktest:
    """A backtest over a run's trades, or why there is none; and what limits a comparison of the two."""

    frames: Frames | None
    notes: tuple[str, ...]


def backtest_run(path: Path, name: str, run: Frames) -> RunBacktest:
    """Run a backtest over the trades in a journal.

    Args:
        path: The journal.
        name: Name of the run.
        run: The frames of the run.

    Raises:
        VoltradeError: The journal or the rule can't be read, or the backtest fails.
    """
    start = read_start(path)
    history, trades, notes = _trades_of(path)
    if not len(trades):
        return RunBacktest(None, ("no backtest: the journal has no trades of the session",))
    first = next((row.fact for row in journal.read(path, kind=Snapshot.__name__)), None)
    config = start.config if first is None else _on_account(start.config, first)
    report = TapeReport(len(trades), len(trades), int(trades.time[0]), int(trades.time[-1]))
    tape = Tape(trades, report, f"journal of {name}")
    done = backtest(tape, config, start.engine(), epoch=start.epoch, history=history, begin_s=0.0)
    ours, theirs = start.instrument, done.instrument
    if (ours.tick_size, ours.step_size) != (theirs.tick_size, theirs.step_size):
        return RunBacktest(None, (f"no backtest: {ours.symbol}'s tick or step is not what backtests know of",))
    if start.config.session.mode != "sim":
        notes.append("the backtest's fills, latency, slippage and mark prices are the simulated exchange's")
    if (run.operator["reason"] != "TAPE_END").any():
        notes.append("operator commands and stop policies are not repeated by the backtest")
    if done.warning:
        notes.append(done.warning)
    return RunBacktest(done.frames(), tuple(notes))


def _trades_of(path: Path) -> tuple[History, Trades, list[str]]:
    """Return the trades of a journal before the first snapshot of the account, those after it, and notes about them."""
    before: list[Trades] = []
    during: list[Trades] = []
    phases: list[BarResumePoint] = []
    notes = []
    has_snapshot = False
    for row in journal.read(path):
        if row.kind == Trades.__name__:
            (during if has_snapshot else before).append(row.fact)
        elif row.kind == MARKET:
            (during if has_snapshot else before).extend(fact for fact in row.fact if isinstance(fact, Trades))
        elif row.kind == Snapshot.__name__:
            has_snapshot = True
        elif row.kind == BarResumePoint.__name__ and not has_snapshot:
            phases.append(row.fact)
        elif row.kind == BarResumePoint.__name__:
            notes.append("the run took up its bars anew after a gap; from there on the backtest's bars are others")
        elif row.kind == ResumeState.__name__:
            notes.append(_resume_note(row.fact))
        elif row.kind == EngineRestarted.__name__:
            notes.append("the run's engine was restarted; the backtest's was not")
    nothing = Trades.from_rows("", [])
    history = History(Trades.join(before) if before else nothing, phases[-1] if phases else None)
    return history, Trades.join(during) if during else nothing, list(dict.fromkeys(notes))


def _resume_note(resumed: ResumeState) -> str:
    """Return a note about the state that a run has resumed from; a backtest starts without it."""
    try:
        last = json.loads(resumed.state)["breaker"]
        lost, fallen = (_amount(last[name] - last["equity"]) for name in ("day_equity", "peak"))
    except (KeyError, TypeError):
        return (
            "the run went on from an earlier one whose limits it couldn't read; the backtest begins flat with none used"
        )
    return (
        f"the run went on from an earlier one, with its position, cooldown and limits: {last['losses']} losing round "
        f"trips in a row, {last['round_trips_today']} begun that day, {max(lost, Decimal()):,.2f} lost of the day's "
        f"opening equity, {max(fallen, Decimal()):,.2f} below the peak; the backtest begins flat with none of these "
        "used, so what the run was refused by them are trades of the backtest alone"
    )


def _on_account(config: Config, first: Snapshot) -> Config:
    """Return the settings with the wallet and the fees of the run's first snapshot."""
    execution = config.execution.model_dump()
    execution |= {"wallet": _amount(first.wallet), "taker_fee": _amount(first.taker_fee_e8)}
    execution["maker_fee"] = _amount(first.maker_fee_e8)
    return config.model_copy(update={"execution": type(config.execution).model_validate(execution)})


def _amount(units: int) -> Decimal:
    return Decimal(units).scaleb(-8)
