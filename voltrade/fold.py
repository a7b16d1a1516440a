"""The hot loop: trades become bars, bars pass the indicators and the rule, in one compiled pass.

Live trading gives it blocks of one trade, a backtest millions; it is the same code, and however trades are cut into
blocks the bars, verdicts and stops are the same. It stops wherever Python has something to decide: after a trade
that closed a bar with a signal, at a bar that someone waits for, and before the next due time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from voltrade.bars import AGGREGATOR, BAR_RULES, COLUMNS, bar_rules, columns, empty_aggregator, grown, until_close
from voltrade.compiled import Rows, bind, compile_for, restored, rows_of
from voltrade.config import BarSettings
from voltrade.errors import DataError
from voltrade.model import BAR, DAY_MS, BarPhase, Bools, Instrument, Int64s, Signal, Trades
from voltrade.signal_engine import RULE_BAR, SCALE, Program, SignalEngine


def _fold_trades(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    due: int,
    wake_at_bar: int,
    rules: Rows,
    aggregator: Rows,
    bars: Rows,
    verdicts: Rows,
    scale: Rows,
    bar: Rows,
    state: Rows,
    settings: Rows,
) -> int:
    """Fold trades until something stops it; return the first not folded. STEP_BARS is bound for each engine."""
    at, end = start, len(ids)
    open_end = aggregator[0]
    while at < end:
        count = open_end.count
        at = until_close(ids, prices, quantities, times, buyer_is_maker, at, end, due, rules[0], open_end, bars)
        if open_end.count == count:
            return at
        STEP_BARS(bars, count, open_end.count, scale, bar, state, settings, verdicts)  # type: ignore[name-defined]  # noqa: F821
        if open_end.count >= wake_at_bar:
            return at
        for closed in range(count, open_end.count):
            if verdicts[closed].signal != 0:
                return at
    return at


@cache
def _loop(
    program: Program, state: np.dtype[Any], settings: np.dtype[Any], verdict: np.dtype[Any]
) -> Callable[..., int]:
    """The loop with an engine's program inside; plain Python that wakes at every bar where the rule isn't compiled."""
    loop = bind(_fold_trades, STEP_BARS=program.step_bars)
    if not program.is_compiled:
        return loop
    records = [rows_of(dtype) for dtype in (BAR_RULES, AGGREGATOR, BAR, verdict, SCALE, RULE_BAR, state, settings)]
    compiled_loop: Callable[..., int] = compile_for(loop, types.int64(*COLUMNS, *(types.int64,) * 3, *records))
    return compiled_loop


class Fold:
    """Everything between the feed and the decisions about orders, for one symbol of one run.

    Attributes:
        engine: the signal engine; nobody else may feed it.
        rules: one row of BAR_RULES.
        aggregator: one row of AGGREGATOR; holds the open bar and the counters of what was skipped.
    """

    def __init__(self, instrument: Instrument, bar_settings: BarSettings, engine: SignalEngine) -> None:
        """Make a fold that has seen no trade.

        Raises:
            ConfigError: the bar settings are impossible for the symbol.
        """
        self.engine = engine
        self.rules = bar_rules(bar_settings, instrument)
        self.aggregator = empty_aggregator()
        self._bars = np.zeros(256, BAR)
        self._verdicts = np.zeros(256, engine.verdict_dtype)
        self._loop = _loop(engine.program, engine.state.dtype, engine.settings_row.dtype, engine.verdict_dtype)

    def fold(self, trades: Trades, start: int, due: int, wake_at_bar: int) -> int:
        """Fold trades from `start` and return the index of the first that was not consumed.

        Stops after the trade that closed one or more bars of which any has a signal, or which brought `count` to
        `wake_at_bar` or beyond; and before the first trade at or after the time `due` (ms UTC).

        Raises:
            DataError: a column of the block has the wrong type or length.
        """
        block, engine = columns(trades), self.engine
        at = start
        while True:
            at = self._loop(
                *block,
                at,
                due,
                wake_at_bar,
                self.rules,
                self.aggregator,
                self._bars,
                self._verdicts,
                engine.scale,
                engine.bar,
                engine.state,
                engine.settings_row,
            )
            missing = int(self.aggregator["missing_rows"][0])
            if missing == 0:
                return at
            self._bars = grown(self._bars, self.count, missing)
            self._verdicts = grown(self._verdicts, self.count, missing)
            self.aggregator["missing_rows"] = 0

    def begin_at(self, phase: BarPhase) -> None:
        """Go on from where a day's bars stand. The open bar is dropped; the next one is tainted, since it is cut."""
        state = self.aggregator[0]
        bar = state["bar"]
        for name in ("volume", "taker_buy_volume", "notional", "trade_count"):
            bar[name] = 0
        bar["day"], bar["number"], bar["tainted"] = phase.day, phase.number, True
        state["progress"], state["day_end"] = phase.progress, (phase.day + 1) * DAY_MS
        state["last_trade_id"] = phase.first_id - 1

    @property
    def count(self) -> int:
        """Number of bars closed in this run."""
        return int(self.aggregator["count"][0])

    @property
    def bars(self) -> Rows:
        """All closed bars, rows of BAR. A view: take a new one after the next call of `fold`."""
        return self._bars[: self.count]

    @property
    def verdicts(self) -> Rows:
        """The verdict of each closed bar, rows of the engine's `verdict_dtype`. A view, as `bars`."""
        return self._verdicts[: self.count]

    @property
    def last_price(self) -> int:
        """Price of the last trade in ticks, 0 before the first."""
        return int(self.aggregator["last_price"][0])

    @property
    def last_time(self) -> int:
        """Latest trade time so far, ms UTC; never goes back. 0 before the first trade."""
        return int(self.aggregator["last_time"][0])

    @property
    def last_trade_id(self) -> int:
        """Id of the last trade, -1 before the first."""
        return int(self.aggregator["last_trade_id"][0])

    def signals_since(self, count: int) -> list[Signal]:
        """Return the signals of the bars from number `count` of the run on, in their order."""
        signals = (
            self.engine.signal(self._verdicts[row], self._bars[row], int(row))
            for row in np.flatnonzero(self.verdicts["signal"][count:]) + count
        )
        return [signal for signal in signals if signal is not None]

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that two folds share whose saved states may be exchanged."""
        return hashlib.sha256(self.engine.fingerprint + self.rules.tobytes()).digest()[:16]

    def state_bytes(self) -> bytes:
        """Return the whole state, closed bars and verdicts included."""
        parts = (self.aggregator, self.engine.state, self.bars, self.verdicts)
        return self.fingerprint + b"".join(part.tobytes() for part in parts)

    def restore(self, saved: bytes) -> None:
        """Go on from `state_bytes` of a fold of the same symbol, settings and rule.

        Raises:
            DataError: the state is of another fold, or cut short.
        """
        engine = self.engine
        if saved[:16] != self.fingerprint:
            raise DataError("a saved fold must be of the same symbol, bar settings, rule and rule settings")
        head, tail = 16 + AGGREGATOR.itemsize, 16 + AGGREGATOR.itemsize + engine.state.nbytes
        if len(saved) < tail:
            raise DataError(f"a saved fold must not be cut, was {len(saved)} bytes")
        aggregator = restored(AGGREGATOR, saved[16:head])
        count = int(aggregator["count"][0])
        middle = tail + count * BAR.itemsize
        if len(saved) != middle + count * engine.verdict_dtype.itemsize:
            raise DataError(f"a saved fold of {count} bars must not be cut, was {len(saved)} bytes")
        self.aggregator = aggregator
        engine.state = restored(engine.state.dtype, saved[head:tail])
        self._bars = grown(restored(BAR, saved[tail:middle]), count, 256)
        self._verdicts = grown(restored(engine.verdict_dtype, saved[middle:]), count, 256)
