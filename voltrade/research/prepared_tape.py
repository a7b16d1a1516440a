"""A tape made ready for many backtests: bars, decisions and marks are made once for each setting that changes them.

`Research.run` carries one configuration out by the compiled loop of `loop` and gives its tables; `backtest` makes
a result for people of them, `sweep` a row.
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
from numba import types

from voltrade import risk
from voltrade.bars import VolumeBarAggregator, columns
from voltrade.compiled import Rows, bind, compile_for, compiled, prefetch, record_dtype, restored, rows_of
from voltrade.config import BarSettings, Config, milliseconds
from voltrade.core import GATES
from voltrade.core_rules import fill_signal, set_gates
from voltrade.data.tape import Tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import MONEY, Instrument, Int64s
from voltrade.records import REFUSAL, SIGNAL, bare, new_account, new_symbol
from voltrade.research import loop, loop_records
from voltrade.risk import CircuitBreaker
from voltrade.signal_engine import RULE_BAR, Program, SignalEngine, fill_rule_bar, refuse_other_overrides, scale_of
from voltrade.simulated.margin import largest_notional
from voltrade.simulated.symbols import shipped_instrument, shipped_rules
from voltrade.simulated.tape_playback import marks_for
from voltrade.strategy.rule_file import load_rule

T = TypeVar("T")


@compiled
def _described(rows: Rows, scale: Rows, described: Rows) -> None:
    """Write bars as rules see them."""
    for at in range(len(rows)):
        fill_rule_bar(rows[at], scale[0], described[at])


FOUND = record_dtype([("bar", np.int64), ("side", np.int64), ("ready", np.bool_), ("atr", np.float64)])
"""A bar whose rule wants an entry, and what is needed of its decision."""


PREFETCH_DISTANCE = 16
"""Bars from the one that a rule sees to the one whose memory is asked for."""


def _find(
    described: Rows, bars: Rows, states: Rows, settings: Rows, blank: Rows, decisions: Rows, found: Rows, counts: Int64s
) -> None:
    """Take described bars through engines, and keep nothing but the signals; STEP is bound for each kind of engine.

    Each engine has as many rows of `found` as there are bars, and a bar of its own, which its rule may write to. They
    go side by side: an engine's step waits for its own last one, while another's can be done, and the bars are read
    once for all.
    """
    for bar in range(len(described)):
        prefetch(described, bar + PREFETCH_DISTANCE)
        for engine in range(len(states)):
            bars[engine], decisions[engine] = described[bar], blank[0]
            STEP(states[engine], bars[engine], settings[engine], decisions[engine])  # type: ignore[name-defined]  # noqa: F821
            decision = decisions[engine]
            if decision.signal != 0:
                row = found[engine * len(described) + counts[engine]]
                row.bar, row.side, row.ready, row.atr = bar, decision.signal, decision.ready, decision.atr
                counts[engine] += 1


@cache
def _finder(program: Program, state: np.dtype[Any], settings: np.dtype[Any], decision: np.dtype[Any]) -> Any:
    """`_find` with an engine's compiled program inside."""
    loop = bind(_find, STEP=program.step)
    records = [rows_of(dtype) for dtype in (RULE_BAR, RULE_BAR, state, settings, decision, decision, FOUND)]
    return compile_for(loop, types.void(*records, types.int64[::1]), nogil=True)


@compiled
def _complete(found: Rows, bars: Rows, closing_rows: Int64s, settings: Rows, signals: Rows) -> None:
    """Write a row of SIGNAL for each row of FOUND, with the distances that the settings of the upkeep give."""
    for number in range(len(found)):
        row, bar = found[number], found[number].bar
        is_last = bar + 1 == len(closing_rows) or closing_rows[bar + 1] > closing_rows[bar]
        signals[number].row = closing_rows[bar]
        fill_signal(signals[number], bar, bars[bar], row.side, row.ready, row.atr, is_last, settings[0])


@dataclass(frozen=True, eq=False)
class Bars:
    """The bars of a tape, and for each the trade that closed it."""

    rows: Rows
    closing_rows: Int64s
    high: Int64s
    """Highest price of the trades up to the one that closed it, from the one after the trade that closed the last."""
    low: Int64s
    skipped: int
    """Trades that the fold passed over, though an exchange would have seen them."""
    scale: Rows
    """The symbol's units."""

    @cached_property
    def described(self) -> Rows:
        """The bars as rules see them, rows of RULE_BAR."""
        described = np.zeros(len(self.rows), RULE_BAR)
        _described(self.rows, self.scale, described)
        return described


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a tape to trade on."""

    first: int
    """Row of the first trade; what lies before is warm-up."""
    last: int
    """Row after the last trade."""
    start: int
    """Time at which the session begins, ms UTC: just before its first trade may come."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What a session did: tables (see `loop`) as long as they have rows."""

    bars: int
    """Bars closed by its end, those of the warm-up included."""
    first_bar: int
    """Number of the first bar that closed within it."""
    wallet: int
    signals: Rows
    orders: Rows
    fills: Rows
    trips: Rows
    equity: Rows
    refusals: Rows
    changes: Rows
    alerts: Rows


class Marked(NamedTuple):
    """The mark prices of a tape by columns, as the compiled loop takes them."""

    time: Int64s
    row: Int64s
    price_e8: Int64s
    fundings: Int64s
    """How often funding is due at the mark."""
    funding_rates: Int64s


class Research:
    """A tape, and what was made of it last.

    Raises:
        DataError: the tape is empty or goes back in time, or its symbol isn't one of the shipped.
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
        """Return what was made last of this kind if it was for the same key; else make it."""
        known, made = self._kept.get(kind, (None, None))
        if known is not key and known != key:
            made = make()
            self._kept[kind] = (key, made)
        return made  # type: ignore[no-any-return]

    def fork(self) -> Research:
        """Return a research of the same tape that keeps what it makes by itself, for a thread of its own."""
        forked = copy.copy(self)
        forked._kept = dict(self._kept)
        return forked

    def check(self, config: Config) -> None:
        """Refuse settings that the tape's symbol makes impossible, or that are for another symbol.

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
        last = self.tape.trades.price[aggregator.closing_rows]
        high, low = np.maximum(rows["high"], last), np.minimum(rows["low"], last)
        return Bars(rows, aggregator.closing_rows, high, low, skipped, scale_of(self.instrument))

    def decisions(self, config: Config, engine: SignalEngine | None = None, end: int | None = None) -> Rows:
        """Return the decision of each bar.

        Args:
            engine: goes on from where it is, over the bars that closed before the trade in row `end`, and no further.

        Raises:
            ConfigError: the rule file isn't there, or is broken; or the engine overrides more than its seams.
        """
        bars = self.bars(config.bars)
        if engine is not None:
            refuse_other_overrides(type(engine))
            return engine.on_volume_bars(bars.rows[: np.searchsorted(bars.closing_rows, end or len(self.tape.trades))])
        rule = load_rule(config.session.rule)
        key = (config.bars, rule, config.signals)
        return self._keep("decisions", key, lambda: rule(config.signals, self.instrument).on_volume_bars(bars.rows))

    def signals(self, decisions: Rows) -> Rows:
        """Return the signals among decisions, rows of FOUND."""
        (bars,) = np.nonzero(decisions["signal"])
        found = np.empty(len(bars), FOUND)
        found["bar"] = bars
        for name, column in (("side", "signal"), ("ready", "ready"), ("atr", "atr")):
            found[name] = decisions[column][bars]
        return found

    def find(self, settings: BarSettings, engines: Sequence[SignalEngine], space: dict[str, Rows]) -> list[Rows]:
        """Take all bars through engines and return the signals of each, rows of FOUND, without keeping the decisions.

        Args:
            space: memory for them, kept from call to call; the next call then overwrites what this one returns.
        """
        described = self.bars(settings).described
        room = len(described)
        if "found" not in space or len(space["found"]) < len(engines) * room:
            space["found"] = np.empty(len(engines) * room, FOUND)
        found: list[Rows] = []
        for program, group in groupby(engines, key=attrgetter("program")):
            alike = list(group)
            refuse_other_overrides(type(alike[0]))
            if not program.is_compiled:
                found += [self.signals(engine.on_volume_bars(self.bars(settings).rows)) for engine in alike]
                continue
            states, rows = (np.concatenate([getattr(e, name) for e in alike]) for name in ("state", "settings_row"))
            blank, decisions = (np.zeros(count, alike[0].decision_dtype) for count in (1, len(alike)))
            counts, memory = np.zeros(len(alike), np.int64), space["found"][len(found) * room :]
            finder = _finder(program, states.dtype, rows.dtype, decisions.dtype)
            finder(described, np.empty(len(alike), RULE_BAR), states, rows, blank, decisions, memory, counts)
            found += [memory[number * room :][:count] for number, count in enumerate(counts)]
        return found

    def marks(self, config: Config) -> Marked:
        """Return the tape's mark prices, and what of funding is due at them."""
        return self._keep("marks", self._marks_of(config), lambda: self._mark(config))

    def _marks_of(self, config: Config) -> tuple[Hashable, ...]:
        """The settings that mark prices and funding hang on."""
        return config.execution.mark_interval_s, config.session.seed, config.execution.funding_rate

    def _mark(self, config: Config) -> Marked:
        interval_ms = shipped_rules(self.instrument.symbol).funding_interval_ms
        tape = self.tape
        marks = marks_for(config, tape.trades, self.instrument, interval_ms, tape.marks, tape.funding)
        # Due at a mark is what the mark before it has stated.
        stated, rates = marks.next_funding_time[:-1], marks.funding_rate_e8[:-1]
        passed = np.maximum(0, (marks.time[1:] - stated) // interval_ms + 1)
        due = np.where((stated != 0) & (rates != 0), passed, 0)
        fundings, rates = (
            np.append(0, column)[: len(marks.time)] for column in (due, rates)
        )  # no mark before the first
        return Marked(marks.time, marks.row, marks.price_e8, fundings.astype(np.int64), rates.astype(np.int64))

    def span(self, begin_s: float = 0.0, end_s: float | None = None) -> Span:
        """Return the stretch between two times, in seconds after the tape's first trade.

        Raises:
            ConfigError: a time isn't finite.
            DataError: the tape has no trade there.
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

    def run(self, config: Config, decisions: Rows, span: Span) -> tuple[Tables | None, str]:
        """Trade with these settings; return the tables, or None and why the compiled loop gave up.

        Args:
            decisions: of `config`'s bars.
        """
        if config.bars.least_bars_a_day or config.bars.most_bars_a_day:
            return None, "a person is told when bars leave their band"
        return self.trade(config, self.signals(decisions), span)

    def trade(
        self, config: Config, found: Rows, span: Span, space: dict[str, Rows] | None = None, is_brief: bool = False
    ) -> tuple[Tables | None, str]:
        """Do what `run` does from the signals alone, telling nobody when bars leave their band.

        Args:
            found: the signals of `config`'s rule on its bars, rows of FOUND.
            space: memory for tables, kept from run to run; the next run then overwrites what this one returns.
            is_brief: leave out valuations between two that are the same, as there are many without a position.
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
            "simulation", key, lambda: _simulation(config, self.instrument, span.start, is_brief).tobytes()
        )
        simulation = restored(loop_records.SIMULATION, blank)
        simulation["row"], simulation["symbols"]["bars"] = span.first, first_bar
        upkeep = simulation["symbols"]["settings"][0]
        _complete(found[first_found:last_found], bars.rows, market.closing_rows, upkeep, signals)
        marks = int(np.searchsorted(market.mark_times, span.start, side="right"))
        simulation["mark"], simulation["mark_e8"] = marks, market.mark_prices[marks - 1] if marks else 0
        market = market._replace(signals=signals, refusals=np.empty(len(signals), REFUSAL))
        return _simulate(market, simulation, first_bar, {} if space is None else space)

    def _market(self, config: Config, bars: Bars, end: int) -> loop_records.Market:
        """The tape up to a row, its bars and its mark prices, still without signals."""
        _, price, quantity, time, buyer_is_maker = (column[:end] for column in self._columns)
        closed = int(np.searchsorted(bars.closing_rows, end))
        marked = self.marks(config)
        marks = int(np.searchsorted(marked.time, time[-1], side="right"))
        by_bar = (column[:closed] for column in (bars.closing_rows, bars.high, bars.low))
        by_mark = (column[:marks] for column in marked)
        columns = [column.view() for column in (price, quantity, time, buyer_is_maker, *by_bar, *by_mark)]
        for column in columns:  # the compiled loop wants all alike, and some are mapped from files
            column.flags.writeable = False
        return loop_records.Market._make((*columns, np.empty(0, SIGNAL), np.empty(0, REFUSAL)))


_FILTERS = ("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "max_price", "money_per_ticklot")
"""What the exchange's side of the settings has of the instrument under the same names."""


def _settings(config: Config, instrument: Instrument, is_brief: bool) -> Rows:
    """One row of SETTINGS."""
    execution, exits, rules = config.execution, config.exits, shipped_rules(instrument.symbol)
    step_numerator, step_denominator = instrument.step_size.as_integer_ratio()
    brackets = np.zeros((), loop_records.SETTINGS["brackets"])
    for row, bracket in zip(brackets, rules.brackets, strict=False):
        row["cap"], row["maintenance_e8"], row["deducted"] = bracket.cap, bracket.maintenance_e8, bracket.deducted
    values = {
        "latency_ms": execution.latency_ms,
        "slippage_e8": round(execution.slippage_bps * 10_000),
        "taker_fee_e8": int(execution.taker_fee * MONEY),
        "take_bound_e8": int(instrument.market_take_bound * MONEY),
        "leverage": config.risk.leverage,
        "largest_notional": largest_notional(rules.brackets, config.risk.leverage),
        "bracket_count": len(rules.brackets),
        "brackets": brackets,
        **{name: getattr(instrument, name) for name in _FILTERS},
        "min_price": rules.min_price,
        "multiplier_up_e8": int(instrument.multiplier_up * MONEY),
        "multiplier_down_e8": int(instrument.multiplier_down * MONEY),
        "tick_e8": int(instrument.tick_size * MONEY),
        "step_numerator": step_numerator,
        "step_denominator": step_denominator,
        "triggers_by_mark": exits.working_type == "MARK_PRICE",
        "isolated": config.risk.margin_type == "isolated",
        "is_brief": is_brief,
    }
    settings = np.zeros(1, loop_records.SETTINGS)
    settings[0] = tuple(values[name] for name in loop_records.SETTINGS.names or ())
    return settings


def _simulation(config: Config, instrument: Instrument, start: int, is_brief: bool) -> Rows:
    """The session before the first trade, the account reconciled."""
    state, session, wallet = np.zeros(1, loop_records.SIMULATION), config.session, int(config.execution.wallet * MONEY)
    state["account"] = new_account()
    sim = bare(state)[0]
    account, symbol = bare(state["account"])[0], bare(state["symbols"][0])[0]
    loop_records.begin(sim)
    settings = state["settings"] = _settings(config, instrument, is_brief)
    new_symbol(symbol, 0, instrument, config.exits, config.execution)
    symbol["limits"] = risk.limits_of(config, instrument, int(settings["taker_fee_e8"][0]))
    symbol["facts"]["market_stream_up"] = symbol["facts"]["user_stream_up"] = True
    symbol["reconciled"] = True
    CircuitBreaker(config.risk, start, wallet, (account["breaker"], account["holds"], account["breaker_rules"]))
    set_gates(account, GATES)
    account["now"], account["wallet"], account["is_open"] = start, wallet, True
    account["flatten_at_end"] = session.on_duration_end == "flatten"
    if session.duration_s and session.on_duration_end != "carry_on":
        account["end_at"] = start + milliseconds(session.duration_s)
    sim["wallet"] = wallet
    return state


EXPECTED = {"orders": 8, "fills": 16, "trips": 1, "equity": 16, "changes": 1, "alerts": 1}
"""Rows of each table that a signal may need; a table that is too short is made longer."""


_END = ("unmodelled", "refusals_written", *(f"{name}_written" for name in loop_records.TABLES))
"""What is read of the session at its end."""


def _simulate(
    market: loop_records.Market, simulation: Rows, first_bar: int, space: dict[str, Rows]
) -> tuple[Tables | None, str]:
    for name, dtype in loop_records.TABLES.items():
        rows = EXPECTED[name] * len(market.signals) + (len(market.mark_times) if name == "equity" else 0) + 1024
        if name not in space or len(space[name]) < rows:
            space[name] = np.empty(rows, dtype)
    simulate, names = loop.simulate(), loop_records.Written._fields
    while (
        simulate(market, simulation, loop_records.Written(*(space[name] for name in names))) == loop_records.MORE_ROOM
    ):
        space |= {name: _doubled(space[name]) for name in names}
    end = {name: int(simulation[name][0]) for name in _END}
    if end["unmodelled"]:
        return None, loop_records.UNMODELLED[end["unmodelled"]]
    cut = {name: space[name][: end[f"{name}_written"]] for name in loop_records.TABLES}
    refused = market.refusals[: end["refusals_written"]]
    bars, wallet = int(simulation["symbols"]["bars"][0, 0]), int(simulation["account"]["wallet"][0])
    return Tables(bars, first_bar, wallet, market.signals, refusals=refused, **cut), ""


def _doubled(rows: Rows) -> Rows:
    return np.concatenate([rows.view(np.uint8), np.zeros(rows.nbytes, np.uint8)]).view(rows.dtype)
