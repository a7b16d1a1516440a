"""From trades to decisions: `VolumeBarAggregator` closes bars, `SignalEngine.on_volume_bar` takes each.

Live trading gives it blocks of one trade, an event-driven backtest and a warm-up thousands; however trades are cut into
blocks the bars, decisions and stops are the same. It stops wherever someone has something to decide: after a trade that
closed a bar with a signal, at a bar that someone waits for, and before the next due time.
"""

from __future__ import annotations

import hashlib

import numpy as np

from voltrade.bars import AGGREGATOR, VolumeBarAggregator, grown
from voltrade.compiled import Rows, restored
from voltrade.config import BarSettings
from voltrade.errors import DataError
from voltrade.model import BAR, BarResumePoint, Instrument, Trades
from voltrade.signal_engine import SignalEngine

_ROOM = 256
_COUNT = np.dtype(np.int64)


class BarPipeline:
    """Everything between the feed and the decisions about orders, for one symbol of one run.

    Attributes:
        aggregator: makes the bars; holds the open one and the counters of what was skipped.
        engine: the signal engine; nobody else may feed it.
        count: number of bars closed in this run.
    """

    def __init__(self, instrument: Instrument, bar_settings: BarSettings, engine: SignalEngine) -> None:
        """Make a pipeline that has seen no trade.

        Raises:
            ConfigError: the bar settings are impossible for the symbol.
        """
        self.aggregator = VolumeBarAggregator(bar_settings, instrument)
        self.engine = engine
        self.count = 0
        self._bars = np.zeros(_ROOM, BAR)
        self._decisions = np.zeros(_ROOM, engine.decision_dtype)

    def process(self, trades: Trades, start: int, due: int, wake_at_bar: int) -> int:
        """Process trades from `start` and return the index of the first that was not consumed.

        Stops after the trade that closed one or more bars of which any has a signal, or which brought `count` to
        `wake_at_bar` or beyond; and before the first trade at or after the time `due` (ms UTC).

        Raises:
            DataError: a column of the block has the wrong type or length.
            ConfigError: the rule answers a bar with what is no signal of it.
        """
        at = start
        while at < len(trades):
            closed = self.aggregator.process(trades, at, due, 1)
            at = self.aggregator.next_row
            if not len(closed):
                return at
            has_signal = self._take(closed)
            if has_signal or self.count >= wake_at_bar:
                return at
        return at

    def _take(self, closed: Rows) -> bool:
        """Give closed bars to the engine one by one; return whether any has a signal."""
        if self.count + len(closed) > len(self._bars):
            self._bars = grown(self._bars, self.count, len(closed))
            self._decisions = grown(self._decisions, self.count, len(closed))
        signals, has_signal = self._decisions["signal"], False
        for bar in closed:
            number = self.count
            self._bars[number] = bar
            self._decisions[number] = self.engine.decide(bar)
            has_signal |= bool(signals[number])
            self.count += 1
        return has_signal

    def begin_at(self, phase: BarResumePoint) -> None:
        """Go on from where a day's bars stand, as the aggregator does."""
        self.aggregator.begin_at(phase)

    @property
    def bars(self) -> Rows:
        """All closed bars, rows of BAR. A view: take a new one after the next call of `pipeline`."""
        return self._bars[: self.count]

    @property
    def decisions(self) -> Rows:
        """The decision of each closed bar, rows of the engine's `decision_dtype`. A view, as `bars`."""
        return self._decisions[: self.count]

    @property
    def last_price(self) -> int:
        """Price of the last trade in ticks, 0 before the first."""
        return int(self.aggregator.state["last_price"][0])

    @property
    def last_time(self) -> int:
        """Latest trade time so far, ms UTC; never goes back. 0 before the first trade."""
        return int(self.aggregator.state["last_time"][0])

    @property
    def last_trade_id(self) -> int:
        """Id of the last trade, -1 before the first."""
        return int(self.aggregator.state["last_trade_id"][0])

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that two folds share whose saved states may be exchanged."""
        return hashlib.sha256(self.engine.fingerprint + self.aggregator.rules.tobytes()).digest()[:16]

    def state_bytes(self) -> bytes:
        """Return the whole state, closed bars and decisions included."""
        count = np.array(self.count, _COUNT)
        parts = (count, self.aggregator.state, self.engine.state, self.bars, self.decisions)
        return self.fingerprint + b"".join(part.tobytes() for part in parts)

    def restore(self, saved: bytes) -> None:
        """Go on from `state_bytes` of a pipeline of the same symbol, settings and rule.

        Raises:
            DataError: the state is of another pipeline, or cut short.
        """
        engine = self.engine
        if saved[:16] != self.fingerprint:
            raise DataError("a saved pipeline must be of the same symbol, bar settings, rule and rule settings")
        head = 16 + _COUNT.itemsize
        middle = head + AGGREGATOR.itemsize
        tail = middle + engine.state.nbytes
        if len(saved) < tail:
            raise DataError(f"a saved pipeline must not be cut, was {len(saved)} bytes")
        count = int(np.frombuffer(saved[16:head], _COUNT)[0])
        decisions = tail + count * BAR.itemsize
        if len(saved) != decisions + count * engine.decision_dtype.itemsize:
            raise DataError(f"a saved pipeline of {count} bars must not be cut, was {len(saved)} bytes")
        self.aggregator.restore(saved[head:middle])
        engine.state = restored(engine.state.dtype, saved[middle:tail])
        self.count = count
        self._bars = grown(restored(BAR, saved[tail:decisions]), count, _ROOM)
        self._decisions = grown(restored(engine.decision_dtype, saved[decisions:]), count, _ROOM)
