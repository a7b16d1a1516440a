"""A tape prepared for many backtests: bars, decisions and mark prices are computed once for each different setting.

`Research.run` backtests one configuration by the compiled loop (`loop`) and returns its tables. `backtest` makes a
result object of them, `sweep` a row of a table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import types

from voltrade.bars import VolumeBarAggregator, columns
from voltrade.compiled import Rows, bind, compile_for, compiled, prefetch, record_dtype, restored, rows_of
from voltrade.config import BarSettings, Config
from voltrade.data.coverage import Coverage
from voltrade.data.tape import Tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import Instrument, Int64s
from voltrade.orders.core_rules import fill_signal
from voltrade.orders.records import REFUSAL, SIGNAL
from voltrade.research import loop_records
from voltrade.research.compiled_session import Tables, initial_state, run_session
from voltrade.research.loop_valuations import mark_blocks
from voltrade.research.row_copy import copy_of
from voltrade.signal_engine import RULE_BAR, Program, SignalEngine, fill_rule_bar, refuse_other_overrides, scale_of
from voltrade.simulated.symbols import shipped_instrument, shipped_rules
from voltrade.simulated.tape_playback import marks_for
from voltrade.strategy.rule_file import load_rule

T = TypeVar("T")


@compiled
def _describe(rows: Rows, scale: Rows, described: Rows) -> None:
    """Write bars in the form that rules read."""
    for at in range(len(rows)):
        fill_rule_bar(rows[at], scale[0], described[at])


BAR_SIGNAL = record_dtype([("bar", np.int64), ("side", np.int64), ("ready", np.bool_), ("atr", np.float64)])
"""A signal: its bar, and the values of the decision that its order needs."""

PREFETCH_DISTANCE = 16
"""How many bars ahead of a rule the memory is prefetched."""


def _find_signals(described: Rows, states: Rows, settings: Rows, blank: Rows, found: Rows, counts: Int64s) -> None:
    """Run engines over described bars and keep only the signals; STEP is bound to the compiled step of the engines.

    Each engine has as many rows of `found` as there are bars, and its own copy of a bar, which its rule may change. All
    engines process a bar before the next one: bars are then read once, and steps of different engines don't wait for
    each other. A step is inlined, so that of the bar and the decision only what is used is copied.
    """
    for bar in range(len(described)):
        prefetch(described, bar + PREFETCH_DISTANCE)
        for engine in range(len(states)):
            decision = copy_of(blank, 0)
            STEP(states[engine], copy_of(described, bar), settings[engine], decision)  # type: ignore[name-defined]  # noqa: F821
            if decision.signal != 0:
                row = found[engine * len(described) + counts[engine]]
                row.bar, row.side, row.ready, row.atr = bar, decision.signal, decision.ready, decision.atr
                counts[engine] += 1


def _joined(parts: Sequence[Rows]) -> Rows:
    """Return rows of one dtype together: `concatenate` takes 30 times as long to find out that it is one."""
    return restored(parts[0].dtype, b"".join(part.tobytes() for part in parts))


@cache
def _compiled_finder(program: Program, state: np.dtype[Any], settings: np.dtype[Any], decision: np.dtype[Any]) -> Any:
    """Compile `_find_signals` for the program of an engine."""
    loop = bind(_find_signals, STEP=program.step)
    records = [rows_of(dtype) for dtype in (RULE_BAR, state, settings, decision, BAR_SIGNAL)]
    return compile_for(loop, types.void(*records, types.int64[::1]), nogil=True)


@compiled
def _begin(simulation: Rows, row: int, mark: int, market: tuple[Int64s, Rows, Rows], bars: Rows, found: Rows) -> None:
    """Set where a session begins, and write a row of SIGNAL for each row of BAR_SIGNAL.

    Args:
        row, mark: the first trade and mark price.
        market: closing rows, mark prices and signals of the market.
    """
    sim, (closing_rows, marks, signals) = simulation[0], market
    sim.row, sim.mark, sim.symbols[0].bars = row, mark, np.searchsorted(closing_rows, row)
    sim.mark_e8 = marks[mark - 1].price_e8 if mark > 0 else 0
    for number in range(len(found)):
        signal, bar = found[number], found[number].bar
        is_last = bar + 1 == len(closing_rows) or closing_rows[bar + 1] > closing_rows[bar]
        signals[number].row = closing_rows[bar]
        fill_signal(
            signals[number], bar, bars[bar], signal.side, signal.ready, signal.atr, is_last, sim.symbols[0].settings
        )


@dataclass(frozen=True, eq=False)
class Bars:
    """The bars of a tape, with the row of the trade that closed each bar."""

    rows: Rows
    closing_rows: Int64s
    closing_times: Int64s
    """Times of these trades, ms UTC."""
    high: Int64s
    """Highest price from the trade after the last bar's closing trade up to the closing trade."""
    low: Int64s
    skipped: int
    """Trades of the tape that are in no bar, since they are invalid or duplicates."""
    scale: Rows
    """Units of the symbol."""

    @cached_property
    def described(self) -> Rows:
        """The bars in the form that rules read, rows of RULE_BAR."""
        described = np.zeros(len(self.rows), RULE_BAR)
        _describe(self.rows, self.scale, described)
        return described


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a tape that is traded."""

    first: int
    """Row of the first trade; trades before are warm-up."""
    last: int
    """Row after the last trade."""
    start: int
    """Begin of the session, ms UTC: before its first trade."""


class PreparedMarks(NamedTuple):
    """The mark prices of a tape for the compiled loop."""

    rows: Rows
    """Rows of MARK, without their bars."""
    blocks: Rows
    """Rows of BLOCK."""


class Research:
    """A tape, with the bars, decisions and mark prices that were computed last.

    Raises:
        DataError: the tape is empty or goes back in time, or its symbol has no shipped filters.
    """

    def __init__(self, tape: Tape) -> None:
        trades = tape.trades
        if len(trades) == 0:
            raise DataError("tape: must have at least one trade, had none")
        self.tape = tape
        self.instrument: Instrument = shipped_instrument(trades.symbol)
        self._columns = columns(trades)
        goes_back = trades.time[1:] < trades.time[:-1]
        if goes_back.any():
            raise DataError(f"tape: times must not go back, did after row {int(np.argmax(goes_back))}")
        self._kept: dict[str, tuple[Hashable, Any]] = {}

    def _keep(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        """Return the last result of this kind if it has the same key; else make and keep a new one."""
        known, made = self._kept.get(kind, (None, None))
        if known is not key and known != key:
            made = make()
            self._kept[kind] = (key, made)
        return made  # type: ignore[no-any-return]

    def fork(self) -> Research:
        """Return a research of the same tape with its own results, for use in another thread."""
        forked = copy.copy(self)
        forked._kept = dict(self._kept)
        return forked

    def check(self, config: Config) -> None:
        """Refuse settings that are impossible for the tape's symbol, or are for another symbol.

        Raises:
            ConfigError: as in `Config.check_against`.
            DataError: the tape is of another symbol.
        """
        config.check_against(self.instrument)
        if config.session.symbol != self.instrument.symbol:
            raise DataError(f"tape: must be of {config.session.symbol}, was of {self.instrument.symbol}")

    def bars(self, settings: BarSettings) -> Bars:
        """Return the tape's bars.

        Raises:
            ConfigError: the bar settings are impossible for the symbol.
        """
        return self._keep("bars", settings, lambda: self._process(settings))

    def _process(self, settings: BarSettings) -> Bars:
        aggregator = VolumeBarAggregator(settings, self.instrument)
        rows = aggregator.process(self.tape.trades)
        skipped = aggregator.skipped_invalid + aggregator.skipped_duplicate
        # The trade that begins a day closes the bar before and is not in it.
        closing_rows, trades = aggregator.closing_rows, self.tape.trades
        last, closing_times = trades.price[closing_rows], trades.time[closing_rows]
        high, low = np.maximum(rows["high"], last), np.minimum(rows["low"], last)
        return Bars(rows, closing_rows, closing_times, high, low, skipped, scale_of(self.instrument))

    def decisions(self, config: Config, engine: SignalEngine | None = None, end: int | None = None) -> Rows:
        """Return the decision of each bar.

        Args:
            engine: continues from its state over the bars that closed before the trade in row `end`; by default a new
                engine of the settings' rule runs over all bars.

        Raises:
            ConfigError: the rule file is missing or broken, or the engine overrides methods that it must not.
        """
        bars = self.bars(config.bars)
        if engine is not None:
            refuse_other_overrides(type(engine))
            return engine.on_volume_bars(bars.rows[: np.searchsorted(bars.closing_rows, end or len(self.tape.trades))])
        rule = load_rule(config.session.rule)
        key = (config.bars, rule, config.signals)
        return self._keep("decisions", key, lambda: rule(config.signals, self.instrument).on_volume_bars(bars.rows))

    def signals(self, decisions: Rows) -> Rows:
        """Return the signals among decisions, rows of BAR_SIGNAL."""
        (bars,) = np.nonzero(decisions["signal"])
        found = np.empty(len(bars), BAR_SIGNAL)
        found["bar"] = bars
        for name, column in (("side", "signal"), ("ready", "ready"), ("atr", "atr")):
            found[name] = decisions[column][bars]
        return found

    def find_signals(
        self, settings: BarSettings, engines: Sequence[SignalEngine], buffers: dict[str, Rows]
    ) -> list[Rows]:
        """Run engines over all bars and return the signals of each, rows of BAR_SIGNAL, without keeping decisions.

        Args:
            buffers: memory that is used again by the next call, which then overwrites the returned signals.
        """
        described = self.bars(settings).described
        room = len(described)
        if "found" not in buffers or len(buffers["found"]) < len(engines) * room:
            buffers["found"] = np.empty(len(engines) * room, BAR_SIGNAL)
        found: list[Rows] = []
        for program, group in groupby(engines, key=attrgetter("program")):
            alike = list(group)
            refuse_other_overrides(type(alike[0]))
            if not program.is_compiled:
                found += [self.signals(engine.on_volume_bars(self.bars(settings).rows)) for engine in alike]
                continue
            states, rows = (_joined([getattr(e, name) for e in alike]) for name in ("state", "settings_row"))
            blank = np.zeros(1, alike[0].decision_dtype)
            counts, memory = np.zeros(len(alike), np.int64), buffers["found"][len(found) * room :]
            finder = _compiled_finder(program, states.dtype, rows.dtype, blank.dtype)
            finder(described, states, rows, blank, memory, counts)
            kept = [memory[number * room :][:count] for number, count in enumerate(counts)]
            for engine, of_engine, row in zip(alike, kept, rows, strict=True):
                engine.refuse_other_settings(row)
                wrong = of_engine[of_engine["side"] > 1]
                if len(wrong):
                    closed = self.bars(settings).rows[wrong["bar"]]
                    engine.refuse_other_signals(wrong["side"], closed, wrong["bar"])
            found += kept
        return found

    def marks(self, config: Config) -> PreparedMarks:
        """Return the tape's mark prices, and the funding that is due at them."""
        return self._keep("marks", self._marks_of(config), lambda: self._mark(config))

    def _marks_of(self, config: Config) -> tuple[Hashable, ...]:
        """Return the settings on which mark prices and funding depend."""
        return config.execution.mark_interval_s, config.session.seed, config.execution.funding_rate

    def _mark(self, config: Config) -> PreparedMarks:
        interval_ms = shipped_rules(self.instrument.symbol).funding_interval_ms
        tape = self.tape
        marks = marks_for(config, tape.trades, self.instrument, interval_ms, tape.marks, tape.funding)
        # The funding due at a mark price was stated by the mark price before; there is none before the first.
        stated, rates = marks.next_funding_time[:-1], marks.funding_rate_e8[:-1]
        due = np.where((stated != 0) & (marks.time[1:] >= stated), rates, 0)
        rows = np.zeros(len(marks.time), loop_records.MARK)
        rows["time"], rows["row"], rows["price_e8"] = marks.time, marks.row, marks.price_e8
        rows["funding_rate"][1:], rows["is_last_price"] = due, marks.is_last_price
        return PreparedMarks(rows, mark_blocks(marks.time, marks.price_e8))

    def _marks_at_bars(self, config: Config) -> Int64s:
        """Return for each bar how many mark prices there are up to the trade that closed it."""

        def count() -> Int64s:
            rows, closing_rows = self.marks(config).rows["row"].copy(), self.bars(config.bars).closing_rows
            return np.searchsorted(rows, closing_rows, side="right").astype(np.int64)

        return self._keep("marks at bars", (config.bars, *self._marks_of(config)), count)

    def span(self, begin_s: float = 0.0, end_s: float | None = None) -> Span:
        """Return the span between two times, in seconds after the tape's first trade.

        Raises:
            ConfigError: a time isn't finite.
            DataError: the tape has no trade in the span.
        """
        for name, time_s in (("begin_s", begin_s), ("end_s", end_s)):
            if time_s is not None and not math.isfinite(time_s):
                raise ConfigError(f"{name}: must be finite, was {time_s!r}")
        times = self.tape.trades.time
        begin = int(times[0]) + int(begin_s * 1000)
        first = int(np.searchsorted(times, begin))
        last = len(times) if end_s is None else int(np.searchsorted(times, int(times[0]) + int(end_s * 1000)))
        if first >= last:
            end = "its end" if end_s is None else f"{end_s:g} s"
            raise DataError(f"tape: must have a trade from {begin_s:g} s on and before {end}, has none")
        return Span(first, last, begin - 1)

    def coverage(self, begin_s: float = 0.0, end_s: float | None = None) -> Coverage:
        """Return what the tape has and lacks between two times, as in `span`."""
        span = self.span(begin_s, end_s)
        return self._keep("coverage", span, lambda: Coverage.of(self.tape, span.first, span.last))

    def times(self, begin_s: float = 0.0, end_s: float | None = None) -> tuple[int, int]:
        """Return the begin of trading and the time of the last trade in a span, ms UTC; errors as in `span`."""
        span = self.span(begin_s, end_s)
        return span.start, int(self.tape.trades.time[span.last - 1])

    def run(self, config: Config, decisions: Rows, span: Span) -> tuple[Tables | None, str]:
        """Run a session; return its tables, or None and the reason why the compiled loop gave up.

        Args:
            decisions: the decision of each bar.
        """
        if config.bars.least_bars_a_day or config.bars.most_bars_a_day:
            return None, "an alert is due when bars a day leave their expected range"
        return self.trade(config, self.signals(decisions), span)

    def trade(
        self, config: Config, found: Rows, span: Span, buffers: dict[str, Rows] | None = None, is_brief: bool = False
    ) -> tuple[Tables | None, str]:
        """Run a session from the signals alone, like `run`, without alerts about the expected range of bars a day.

        Args:
            found: the signals of the rule, rows of BAR_SIGNAL.
            buffers: memory that is used again by the next call, which then overwrites the returned tables.
            is_brief: leave out all orders, and most valuations without a change of any figure; see `loop_valuations`.
        """
        bars = self.bars(config.bars)
        if bars.skipped:
            return None, f"{bars.skipped} trades of the tape are in no bar"
        market_of = (config.bars, *self._marks_of(config), span.last)
        market = self._keep("market", market_of, lambda: self._market(config, bars, span.last))
        first_bar = int(np.searchsorted(market.closing_rows, span.first))
        first_found, last_found = np.searchsorted(found["bar"], [first_bar, len(market.closing_rows)])
        signals = np.empty(last_found - first_found, SIGNAL)
        key = (config.session, config.execution, config.exits, config.risk, span.start, is_brief)
        blank = self._keep(
            "simulation", key, lambda: initial_state(config, self.instrument, span.start, is_brief).tobytes()
        )
        simulation = restored(loop_records.SIMULATION, blank)
        mark = int(np.searchsorted(market.marks["time"], span.start, side="right"))
        market = market._replace(signals=signals, refusals=np.empty(len(signals), REFUSAL))
        terms_of = market.closing_rows, market.marks, signals
        _begin(simulation, span.first, mark, terms_of, bars.rows, found[first_found:last_found])
        return run_session(market, simulation, first_bar, {} if buffers is None else buffers)

    def _market(self, config: Config, bars: Bars, end: int) -> loop_records.Market:
        """Return the tape up to a row with bars and mark prices, still without signals."""
        _, price, quantity, time, buyer_is_maker = (column[:end] for column in self._columns)
        closed = int(np.searchsorted(bars.closing_rows, end))
        marked = self.marks(config)
        marks = marked.rows[: np.searchsorted(marked.rows["time"], time[-1], side="right")].copy()
        marks["bars"] = np.searchsorted(bars.closing_rows, marks["row"])
        at_bars = bars.closing_rows, bars.high, bars.low, bars.closing_times, self._marks_at_bars(config)
        by_bar = [column[:closed] for column in at_bars]
        by_mark = [np.flatnonzero(marks["funding_rate"]), np.flatnonzero(marks["is_last_price"])]
        of_trades = price, quantity, time, buyer_is_maker
        # The compiled loop needs one type for all, and columns mapped from files are read-only.
        trades, bar_columns, mark_columns = (list(map(read_only, each)) for each in (of_trades, by_bar, by_mark))
        rows = marks, *mark_columns, marked.blocks, np.empty(0, SIGNAL), np.empty(0, REFUSAL)
        return loop_records.Market(loop_records.TradeColumns(*trades), *bar_columns, *rows)


def read_only(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view of a column that can't be written to."""
    view = column.view()
    view.flags.writeable = False
    return view
