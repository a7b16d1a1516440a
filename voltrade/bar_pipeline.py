"""From trades to decisions: `VolumeBarAggregator` closes bars, `SignalEngine.on_volume_bar` decides on each.

A block has the trades that have arrived: often one in live trading, thousands in an event-driven backtest or a warm-up.
Bars, decisions and stopping points don't depend on how trades are divided into blocks. Processing stops where the core
may have to act: after a trade that closed a bar with a signal, at a bar that the core waits for, and before the next
due time.

A rule that raises an exception is switched off: bars are still made, all fields of their decisions are 0, and there is
no signal.
"""

from __future__ import annotations

import hashlib

import numpy as np

from voltrade.bars import AGGREGATOR, VolumeBarAggregator, grown
from voltrade.compiled import Record, Rows, restored
from voltrade.config import BarSettings
from voltrade.errors import DataError
from voltrade.model import BAR, BarResumePoint, Instrument, Trades
from voltrade.rule_failure import describe_failure
from voltrade.signal_engine import SignalEngine

_INITIAL_ROWS = 256
_COUNT = np.dtype(np.int64)


class BarPipeline:
    """Bars and decisions of one symbol in one run.

    Attributes:
        aggregator: makes the bars; it has the open bar and counts skipped trades.
        engine: the signal engine; only the pipeline may give it bars.
        count: number of bars closed in this run.
        rule_off: why the rule is switched off; empty while it is on.
        rule_error: the exception that switched it off.
    """

    def __init__(self, instrument: Instrument, bar_settings: BarSettings, engine: SignalEngine) -> None:
        """Create a pipeline before its first trade.

        Raises:
            ConfigError: the bar settings don't fit the symbol.
        """
        self.aggregator = VolumeBarAggregator(bar_settings, instrument)
        self.engine = engine
        self.count = 0
        self.rule_off = ""
        self.rule_error: Exception | None = None
        self._bars = np.zeros(_INITIAL_ROWS, BAR)
        self._decisions = np.zeros(_INITIAL_ROWS, engine.decision_dtype)
        self._again_from = (0, engine.state.copy())
        """Number of the bar, and the rule's state before it, from which on a rule that was plain decides again."""

    def process(self, trades: Trades, start: int, due: int, stop_at_bar: int) -> int:
        """Process trades from index `start` and return the index of the next trade.

        Stops after a trade that closed a bar with a signal or at which the rule failed, after a trade with which
        `count` reached `stop_at_bar`, and before the first trade at or after the time `due` (ms UTC).

        Raises:
            DataError: a column of the block has the wrong type or length.
        """
        at = start
        while at < len(trades):
            closed = self.aggregator.process(trades, at, due, 1)
            at = self.aggregator.next_row
            if not len(closed):
                return at
            is_for_core = self._decide(closed)
            if is_for_core or self.count >= stop_at_bar:
                return at
        return at

    def _decide(self, closed: Rows) -> bool:
        """Store each closed bar with its decision; return whether any bar has a signal, or the rule has failed."""
        if self.count + len(closed) > len(self._bars):
            self._bars = grown(self._bars, self.count, len(closed))
            self._decisions = grown(self._decisions, self.count, len(closed))
        signals, was_off, has_signal = self._decisions["signal"], self.rule_off, False
        for bar in closed:
            number = self.count
            self._bars[number] = bar
            self._decisions[number] = self._decision_on(bar, number)
            has_signal |= bool(signals[number])
            self.count += 1
        return has_signal or self.rule_off != was_off

    def _decision_on(self, bar: Record, number: int) -> Record:
        """Return the signal engine's decision on a closed bar; while the rule is off, one whose fields are all 0."""
        if not self.rule_off:
            before = self.engine.state.copy()
            try:
                return self.engine.decide(bar)
            except Exception as error:  # an error of a rule must not end the upkeep of the position
                self.rule_error = error
                self.switch_rule_off(describe_failure(self.engine, before, bar, number, error))
        return np.zeros(1, self.engine.decision_dtype)[0]

    def take_rules(self) -> None:
        """Take the compiled rules if they were plain, and are compiled by now.

        What a rule file's rule keeps between bars is calculated again then: plain Python may round another way.
        """
        was_own = self.has_plain_own_rule
        self.aggregator.take_rules()
        self.engine.take_program()
        if was_own and not self.engine.is_plain and not self.rule_off:
            first, self.engine.state = self._again_from[0], self._again_from[1].copy()
            for number in range(first, self.count):
                self._decision_on(self._bars[number], number)

    def note_rule_state(self) -> None:
        """Take what the rule keeps now as calculated by the compiled rule; see `take_rules`."""
        self._again_from = self.count, self.engine.state.copy()

    @property
    def has_plain_own_rule(self) -> bool:
        """Whether a rule file's rule is plain Python until it is compiled: it must decide on no new bar."""
        return type(self.engine) is not SignalEngine and self.engine.is_plain

    @property
    def is_plain(self) -> bool:
        """Whether rules are plain Python until they are compiled."""
        return self.aggregator.is_plain or self.engine.is_plain

    def switch_rule_off(self, why: str) -> None:
        """Don't call the rule until `switch_rule_on`, and set its state to 0; `why` becomes `rule_off`."""
        self.rule_off = why
        self.engine.state = np.zeros_like(self.engine.state)

    def switch_rule_on(self) -> None:
        """Call the rule again from the next bar on, after the newest `warmup_bars` bars; no effect if it is on."""
        if not self.rule_off:
            return
        self.rule_off, self.rule_error = "", None
        first = max(self.count - self.engine.warmup_bars, 0)
        self._again_from = first, self.engine.state.copy()
        for number in range(first, self.count):
            self._decision_on(self._bars[number], number)  # a failure switches it off again

    def continue_from(self, point: BarResumePoint) -> None:
        """Continue at a point within a day; see `VolumeBarAggregator.continue_from`."""
        self.aggregator.continue_from(point)

    @property
    def bars(self) -> Rows:
        """All closed bars, rows of BAR. A view, which is valid until the next call of `process`."""
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
        """Latest trade time so far, ms UTC; 0 before the first trade. It never decreases."""
        return int(self.aggregator.state["last_time"][0])

    @property
    def last_trade_id(self) -> int:
        """Id of the last trade, -1 before the first."""
        return int(self.aggregator.state["last_trade_id"][0])

    @property
    def fingerprint(self) -> bytes:
        """16 bytes, equal for pipelines of the same symbol, settings and rule: they can restore each other's state."""
        return hashlib.sha256(self.engine.fingerprint + self.aggregator.spec.tobytes()).digest()[:16]

    def state_bytes(self) -> bytes:
        """Return the whole state, including closed bars and decisions."""
        count = np.array(self.count, _COUNT)
        parts = (count, self.aggregator.state, self.engine.state, self.bars, self.decisions)
        return self.fingerprint + b"".join(part.tobytes() for part in parts)

    def restore(self, saved: bytes) -> None:
        """Set the state to what `state_bytes` of a pipeline of the same symbol, settings and rule returned.

        Raises:
            DataError: the state is from another symbol, rule or settings, or truncated.
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
        self._again_from = count, engine.state.copy()
        self._bars = grown(restored(BAR, saved[tail:decisions]), count, _INITIAL_ROWS)
        self._decisions = grown(restored(engine.decision_dtype, saved[decisions:]), count, _INITIAL_ROWS)
