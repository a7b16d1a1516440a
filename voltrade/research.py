"""A tape made ready for many backtests: bars, verdicts and marks are made once for each setting that changes them.

`Research.run` carries one configuration out by the compiled loop of `simulation` and gives its tables; `backtest` makes
a result for people of them, `sweep` a row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from voltrade import risk, simulation
from voltrade.bars import bar_rules, columns, empty_aggregator, grown, until_close
from voltrade.compiled import Rows, compiled
from voltrade.config import BarSettings, Config
from voltrade.data import Tape
from voltrade.errors import DataError
from voltrade.exchange.margin import largest_notional
from voltrade.exchange.shipped import E8, shipped_instrument, shipped_rules
from voltrade.exchange.tape import simulated_marks
from voltrade.model import BAR, MONEY, NEVER, Bools, CloseReason, Instrument, Int64s
from voltrade.risk import CircuitBreaker
from voltrade.rule_file import load_rule
from voltrade.signal_engine import SignalEngine

DAY_END = int(CloseReason.DAY_END)
T = TypeVar("T")


@compiled
def _first_descent(times: Int64s) -> int:
    """Return the first row whose time is before the row above it; 0 where none is."""
    for row in range(1, len(times)):
        if times[row] < times[row - 1]:
            return row
    return 0


@compiled
def _fold_bars(
    ids: Int64s,
    prices: Int64s,
    quantities: Int64s,
    times: Int64s,
    buyer_is_maker: Bools,
    start: int,
    rules: Rows,
    state: Rows,
    bars: Rows,
    closing_rows: Int64s,
) -> int:
    """Fold trades from `start`, noting which trade closed each bar; return the first for which there is no room."""
    at, end = start, len(ids)
    open_end = state[0]
    open_end.missing_rows = 0
    while at < end and open_end.missing_rows == 0:
        count = open_end.count
        at = until_close(ids, prices, quantities, times, buyer_is_maker, at, end, NEVER, rules[0], open_end, bars)
        closing_rows[count : open_end.count] = at - 1
    return at


@compiled
def _signals_of(
    bars: Rows,
    closing_rows: Int64s,
    signal: npt.NDArray[np.int8],
    ready: Bools,
    atr: npt.NDArray[np.float64],
    first: int,
    stop_atr: float,
    take_profit_atr: float,
    tick_size: float,
    signals: Rows,
) -> int:
    """Write a row of SIGNAL for each bar from `first` on whose rule wants an entry; return how many there are."""
    count = 0
    for bar in range(first, len(closing_rows)):
        if signal[bar] != 0:
            row = signals[count]
            row.bar, row.row, row.side, row.price = bar, closing_rows[bar], signal[bar], bars[bar].close
            row.stop_ticks = risk.stop_distance(atr[bar], stop_atr, tick_size)
            row.take_profit_ticks = risk.stop_distance(atr[bar], take_profit_atr, tick_size)
            row.ready = ready[bar]
            row.last_bar = bar + 1 == len(closing_rows) or closing_rows[bar + 1] > closing_rows[bar]
            row.tainted = bars[bar].tainted
            row.day_end = bars[bar].close_reason == DAY_END
            count += 1
    return count


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """The bars of a tape, and for each the trade that closed it."""

    rows: Rows
    closing_rows: Int64s
    high: Int64s
    """Highest price of the trades up to the one that closed it, from the one after the trade that closed the last."""
    low: Int64s
    skipped: int
    """Trades that the fold passed over, though an exchange would have seen them."""


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
    """What a session did: tables (see `simulation`) as long as they have rows."""

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
        if descent := _first_descent(trades.time):
            raise DataError(f"tape: times must not go back, did after row {descent - 1}")
        self._kept: dict[str, tuple[Hashable, Any]] = {}

    def _keep(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made last of this kind if it was for the same key; else make it."""
        if kind not in self._kept or self._kept[kind][0] != key:
            self._kept[kind] = (key, make())
        made: T = self._kept[kind][1]
        return made

    def bars(self, settings: BarSettings) -> Bars:
        """Return the tape's bars.

        Raises:
            ConfigError: the bar settings are impossible for the symbol.
        """
        return self._keep("bars", settings.model_dump_json(), lambda: self._fold(settings))

    def _fold(self, settings: BarSettings) -> Bars:
        rules, state = bar_rules(settings, self.instrument), empty_aggregator()
        rows, closing_rows = np.zeros(4096, BAR), np.zeros(4096, np.int64)
        at = 0
        while True:
            ids, price, quantity, time, buyer_is_maker = self._columns
            at = _fold_bars(ids, price, quantity, time, buyer_is_maker, at, rules, state, rows, closing_rows)
            if at == len(self.tape.trades):
                break
            count = int(state["count"][0])
            rows = grown(rows, count, int(state["missing_rows"][0]))
            closing_rows = np.concatenate([closing_rows[:count], np.zeros(len(rows) - count, np.int64)])
        count = int(state["count"][0])
        rows = rows[:count]
        skipped = int(state["skipped_invalid"][0] + state["skipped_duplicate"][0])
        closing_rows = closing_rows[:count]
        # The trade that begins a day closes the bar before and is not in it.
        last = self.tape.trades.price[closing_rows]
        high, low = np.maximum(rows["high"], last), np.minimum(rows["low"], last)
        return Bars(rows, closing_rows, high, low, skipped)

    def verdicts(self, config: Config, engine: SignalEngine | None = None) -> Rows:
        """Return the verdict of each bar; an engine that is given goes on from where it is.

        Raises:
            ConfigError: the rule file isn't there, or is broken.
        """
        bars = self.bars(config.bars)
        if engine is not None:
            return engine.on_volume_bars(bars.rows)
        rule = load_rule(config.session.rule)
        key = (config.bars.model_dump_json(), rule, config.signals.model_dump_json())
        return self._keep("verdicts", key, lambda: rule(config.signals, self.instrument).on_volume_bars(bars.rows))

    def marks(self, interval_s: int, seed: int) -> tuple[Int64s, Int64s, Int64s]:
        """Return the tape's mark prices: see `simulated_marks`."""
        make = lambda: simulated_marks(self.tape.trades, self.instrument, interval_s * 1000, seed)  # noqa: E731
        return self._keep("marks", (interval_s, seed), make)

    def span(self, begin_s: float = 0.0, end_s: float | None = None) -> Span:
        """Return the stretch between two times, in seconds after the tape's first trade.

        Raises:
            DataError: the tape has no trade there.
        """
        times = self.tape.trades.time
        begin = int(times[0]) + int(begin_s * 1000)
        first = int(np.searchsorted(times, begin))
        last = len(times) if end_s is None else int(np.searchsorted(times, int(times[0]) + int(end_s * 1000)))
        if first >= last:
            raise DataError(f"tape: must have a trade from {begin_s:g} s on and before {end_s or 'its end'}, has none")
        return Span(first, last, begin - 1)

    def run(self, config: Config, verdicts: Rows, span: Span) -> tuple[Tables | None, str]:
        """Trade with these settings; return the tables, or None and why the compiled loop gave up.

        Args:
            verdicts: of `config`'s bars.
        """
        bars = self.bars(config.bars)
        if bars.skipped:
            return None, f"{bars.skipped} trades of the tape are in no bar"
        market = self._market(config, bars, span.last)
        closing_rows, mark_times, mark_prices = market[4], market[7], market[9]
        first_bar = int(np.searchsorted(closing_rows, span.first))
        signals = np.zeros(np.count_nonzero(verdicts["signal"]), simulation.SIGNAL)
        count = _signals_of(
            bars.rows,
            closing_rows,
            verdicts["signal"],
            verdicts["ready"],
            verdicts["atr"],
            first_bar,
            config.exits.stop_atr,
            config.exits.take_profit_atr,
            float(self.instrument.tick_size),
            signals,
        )
        desk = _desk(config, self.instrument, span.start)
        desk["row"], desk["bars"] = span.first, first_bar
        marks = int(np.searchsorted(mark_times, span.start, side="right"))
        if marks:
            desk["exchange_marked"], desk["exchange_mark_e8"] = mark_times[marks - 1], mark_prices[marks - 1]
        desk["mark"] = marks
        return _simulate(market, signals[:count], desk, first_bar)

    def _market(self, config: Config, bars: Bars, end: int) -> tuple[npt.NDArray[Any], ...]:
        _, price, quantity, time, buyer_is_maker = (column[:end] for column in self._columns)
        closed = int(np.searchsorted(bars.closing_rows, end))
        mark_times, mark_rows, mark_prices = self.marks(config.execution.mark_interval_s, config.session.seed)
        marks = int(np.searchsorted(mark_times, time[-1], side="right")) if end else 0
        by_bar = (column[:closed] for column in (bars.closing_rows, bars.high, bars.low))
        by_mark = (column[:marks] for column in (mark_times, mark_rows, mark_prices))
        return price, quantity, time, buyer_is_maker, *by_bar, *by_mark


def _settings(config: Config, instrument: Instrument) -> Rows:
    """One row of SETTINGS."""
    execution, exits, rules = config.execution, config.exits, shipped_rules(instrument.symbol)
    step_numerator, step_denominator = instrument.step_size.as_integer_ratio()
    brackets = np.zeros(simulation.SETTINGS["brackets"].shape, simulation.BRACKET)
    for row, bracket in zip(brackets, rules.brackets, strict=False):
        row["cap"], row["maintenance_e8"], row["deducted"] = bracket.cap, bracket.maintenance_e8, bracket.deducted
    values = {
        "latency_ms": execution.latency_ms,
        "slippage_e8": round(execution.slippage_bps * 10_000),
        "taker_fee_e8": int(execution.taker_fee * E8),
        "take_bound_e8": int(instrument.market_take_bound * E8),
        "leverage": config.risk.leverage,
        "largest_notional": largest_notional(rules.brackets, config.risk.leverage),
        "funding_rate_e8": int(execution.funding_rate * E8),
        "funding_interval_ms": rules.funding_interval_ms,
        "bracket_count": len(rules.brackets),
        "brackets": brackets,
        "min_quantity": instrument.min_quantity,
        "max_quantity": instrument.max_quantity,
        "market_max_quantity": instrument.market_max_quantity,
        "min_notional": instrument.min_notional,
        "min_price": rules.min_price,
        "max_price": instrument.max_price,
        "multiplier_up_e8": int(instrument.multiplier_up * E8),
        "multiplier_down_e8": int(instrument.multiplier_down * E8),
        "tick_e8": int(instrument.tick_size * E8),
        "step_numerator": step_numerator,
        "step_denominator": step_denominator,
        "money_per_ticklot": instrument.money_per_ticklot,
        "max_slippage_e8": risk.rate_e8(execution.max_slippage_bps / 10_000),
        "stale_ms": int(execution.order_stale_s * 1000),
        "max_holding_bars": exits.max_holding_bars,
        "max_holding_ms": int(exits.max_holding_s * 1000),
        "max_holding_exact_ms": exits.max_holding_s * 1000,
        "limit_entry": execution.entry == "ioc_limit",
        "triggers_by_mark": exits.working_type == "MARK_PRICE",
        "exit_on_opposite_signal": exits.exit_on_opposite_signal,
        "flatten_at_end": config.session.on_duration_end == "flatten",
        "isolated": config.risk.margin_type == "isolated",
    }
    settings = np.zeros(1, simulation.SETTINGS)
    settings[0] = tuple(values[name] for name in simulation.SETTINGS.names or ())
    return settings


def _desk(config: Config, instrument: Instrument, start: int) -> Rows:
    """The desk before the first trade, the account reconciled."""
    desk, session, wallet = np.zeros(1, simulation.DESK), config.session, int(config.execution.wallet * MONEY)
    settings = desk["settings"] = _settings(config, instrument)
    desk["limits"] = risk.limits_of(config, instrument, int(settings["taker_fee_e8"][0]))
    desk["facts"] = risk.new_facts()
    desk["facts"]["market_stream_up"] = desk["facts"]["user_stream_up"] = True
    desk["breaker"], desk["holds"], desk["breaker_rules"] = CircuitBreaker(config.risk, start, wallet).rows
    desk["now"] = start
    desk["wallet"] = desk["exchange_wallet"] = wallet
    for name in ("snapshot_at", "unprotected_since", "end_at"):
        desk[name] = NEVER
    for name in ("leave_reason", "end_reason", "exit_reason"):
        desk[name] = simulation.NONE
    if session.duration_s and session.on_duration_end != "carry_on":
        desk["end_at"] = start + int(session.duration_s * 1000)
    desk["left_at"] = risk.NO_EXIT
    desk["reconciled"] = desk["watch_is_old"] = True
    return desk


def _simulate(
    market: tuple[npt.NDArray[Any], ...], signals: Rows, desk: Rows, first_bar: int
) -> tuple[Tables | None, str]:
    refusals = np.empty(len(signals), simulation.REFUSAL)
    expected = {"orders": 8, "fills": 16, "trips": 1, "equity": 16, "changes": 1, "alerts": 1}
    tables = {
        name: np.empty(expected[name] * len(signals) + (len(market[-1]) if name == "equity" else 0) + 1024, dtype)
        for name, dtype in simulation.TABLES.items()
    }
    simulate = simulation.simulate()
    while (state := simulate(*market, signals, refusals, desk, *tables.values())) == simulation.MORE_ROOM:
        tables = {name: _doubled(rows) for name, rows in tables.items()}
    end = desk[0]
    if state == simulation.GIVEN_UP:
        return None, simulation.UNMODELLED[int(end["unmodelled"])]
    cut = {name: rows[: int(end[f"{name}_written"])] for name, rows in tables.items()}
    refused = refusals[: int(end["refusals_written"])]
    return Tables(int(end["bars"]), first_bar, int(end["wallet"]), signals, refusals=refused, **cut), ""


def _doubled(rows: Rows) -> Rows:
    return np.concatenate([rows.view(np.uint8), np.zeros(rows.nbytes, np.uint8)]).view(rows.dtype)
