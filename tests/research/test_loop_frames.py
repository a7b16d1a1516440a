"""Frames made straight from a compiled session's tables are those that its facts make, whatever the session."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd
from hypothesis import settings
from test_loop import SESSIONS, Recipe, config_of

from voltrade.config import Config
from voltrade.data.tape import Tape, synthetic_trades
from voltrade.report.collector import frames_of_arrays
from voltrade.report.frames import Frames
from voltrade.research.backtest import backtest
from voltrade.research.loop_frames import frames_of_tables
from voltrade.research.prepared_tape import Research
from voltrade.simulated.symbols import shipped_instrument

BTCUSDT = shipped_instrument("BTCUSDT")


def both(tape: Tape, config: Config, begin_s: float = 0.0, end_s: float | None = None) -> tuple[Frames, Frames] | None:
    """The frames of a session's tables and of its facts; none where it can't be compiled."""
    research = Research(tape)
    bars, decisions = research.bars(config.bars).rows, research.decisions(config)
    tables, _ = research.run(config, decisions, research.span(begin_s, end_s))
    if tables is None:
        return None
    facts = backtest(research, config, begin_s=begin_s, end_s=end_s, epoch="e").facts
    until = bars[: tables.bars], decisions[: tables.bars]
    told = frames_of_arrays(BTCUSDT, *until, tables.first_bar, facts)
    return frames_of_tables(tables, BTCUSDT, bars, decisions, "e"), told


def check_same(frames: Frames, others: Frames) -> None:
    for part in fields(Frames):
        frame = getattr(frames, part.name)
        if isinstance(frame, pd.DataFrame):
            pd.testing.assert_frame_equal(frame, getattr(others, part.name), check_exact=True, obj=part.name)


@settings(deadline=None, max_examples=25)
@SESSIONS
def test_tables_and_facts_make_the_same_frames(
    recipe: Recipe, chosen: dict[str, Any], begin: float, end: float
) -> None:
    tape = recipe.tape()
    length = int(tape.trades.time[-1] - tape.trades.time[0]) / 1000
    made = both(tape, config_of(chosen, tape.trades), begin * length, end * length if end < 1 else None)
    if made:
        check_same(*made)


def test_a_day_of_trading_with_every_kind_of_row_makes_the_same_frames() -> None:
    tape = synthetic_trades(BTCUSDT, seed=3, hours=48)
    made = both(tape, Config.from_parameters(threshold=20, max_consecutive_losses=2, entry="ioc_limit"))
    assert made
    check_same(*made)
    assert len(made[0].round_trips) > 10
    assert set(made[0].orders["purpose"]) >= {"ENTRY", "STOP", "TAKE_PROFIT"}
    assert set(made[0].orders["type"]) >= {"LIMIT", "MARKET", "STOP_MARKET", "TAKE_PROFIT_MARKET"}
    assert len(made[0].breaker) > 0


def test_only_the_bars_that_are_shown_are_made_into_frames() -> None:
    tape, config = synthetic_trades(BTCUSDT, seed=3, hours=12), Config.from_parameters(threshold=20)
    research = Research(tape)
    bars, decisions = research.bars(config.bars).rows, research.decisions(config)
    tables, why = research.run(config, decisions, research.span())
    assert tables, why
    page = frames_of_tables(tables, BTCUSDT, bars, decisions, "e", slice(100, 150))
    whole = frames_of_tables(tables, BTCUSDT, bars, decisions, "e")
    pd.testing.assert_frame_equal(page.bars, whole.bars.iloc[100:150])
    pd.testing.assert_frame_equal(page.decisions, whole.decisions.iloc[100:150])
    pd.testing.assert_frame_equal(page.orders, whole.orders)
