"""The compiled session is the session: the same facts as event by event, whatever the settings and the tape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.compiled import Record, Rows, compiled, plain
from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport, load_tape
from voltrade.errors import ConfigError, DataError
from voltrade.model import (
    DAY_MS,
    HOUR_MS,
    Alert,
    BreakerChange,
    EquityPoint,
    Funding,
    Marks,
    OrderIntent,
    OrderUpdate,
    Refusal,
    RoundTrip,
    Side,
    Signal,
    Trades,
    VolumeBar,
)
from voltrade.report import performance
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.loop_records import UNMODELLED
from voltrade.research.loop_valuations import mark_blocks
from voltrade.research.prepared_tape import BAR_SIGNAL, Research
from voltrade.research.row_copy import copy_of
from voltrade.research.trial_worker import performance_data_of
from voltrade.signal_engine import SignalEngine
from voltrade.simulated.symbols import shipped_instrument

START = 1_767_643_200_000  # 20:00 UTC
TOLD = (OrderIntent, RoundTrip, Refusal, BreakerChange, Alert, EquityPoint)
"""What both paths tell, besides fills."""


@dataclass(frozen=True)
class Recipe:
    """Of a tape of a few thousand trades."""

    seed: int
    size: int
    usual_gap: float
    """Logarithm of the ms between trades: crowded or sparse."""
    step: int
    """Ticks that a trade moves the price by: calm or wild."""
    jumps: float
    """Part of the trades at which the price jumps."""
    side_lasts: int
    """Trades in a row whose takers are on one side."""
    usual_lots: float
    starts_after_ms: int
    valued: bool = False
    """Whether it comes with mark prices and funding of an exchange."""

    def tape(self) -> Tape:
        chance = np.random.default_rng(self.seed)
        size = self.size
        gap = np.floor(np.exp(self.usual_gap + 1.5 * chance.standard_normal(size)))
        price = 800_000 + np.cumsum(np.rint(chance.standard_t(3, size) * self.step))
        price += np.cumsum(np.where(chance.random(size) < self.jumps, chance.integers(-20_000, 20_000, size), 0))
        missing = np.where(chance.random(size) < 0.001, chance.integers(1, 9, size), 0)
        lots = np.exp(self.usual_lots + 1.6 * chance.standard_normal(size))
        trades = Trades(
            "BTCUSDT",
            id=np.cumsum(1 + missing).astype(np.int64),
            price=np.clip(price, 30_000, 8_000_000).astype(np.int64),
            quantity=np.maximum(1, np.rint(lots)).astype(np.int64),
            time=START + self.starts_after_ms + np.cumsum(gap).astype(np.int64),
            buyer_is_maker=np.cumsum(chance.random(size) < 1 / self.side_lasts) % 2 == 0,
        )
        report = TapeReport(size, size, int(trades.time[0]), int(trades.time[-1]))
        marks, funding = self.valuation(trades) if self.valued else (None, None)
        return Tape(trades, report, "made for a test", True, marks, funding)

    def valuation(self, trades: Trades) -> tuple[Marks, Funding]:
        chance = np.random.default_rng(self.seed + 1)
        first, last = int(trades.time[0]) // 60_000, int(trades.time[-1]) // 60_000 + 2
        minutes = np.arange(first, last, dtype=np.int64) * 60_000
        last_rows = np.maximum(np.searchsorted(trades.time, minutes) - 1, 0)
        price = trades.price[last_rows] * 10_000_000 + chance.integers(-(10**9), 10**9, len(minutes))
        hours = np.arange(first // 60, last // 60 + 1, dtype=np.int64) * 3_600_000 + 3
        return Marks(minutes, price), Funding(hours, chance.integers(-100_000, 100_000, len(hours)))


RECIPES = st.builds(
    Recipe,
    seed=st.integers(0, 2**32),
    size=st.integers(1_000, 5_000),
    usual_gap=st.floats(2, 9.5),
    step=st.sampled_from([30, 100, 200, 30, 100, 200, 3, 1_500, 40_000]),
    jumps=st.sampled_from([0.0, 0.0, 0.002]),
    side_lasts=st.sampled_from([2, 2, 20, 500]),
    usual_lots=st.floats(1, 5),
    starts_after_ms=st.integers(0, 86_400_000),
    valued=st.booleans(),
)


USUAL: dict[str, Any] = {
    **{"symbol": "BTCUSDT", "ema_fast": 2, "ema_slow": 3, "rsi_length": 1, "atr_length": 1, "vwap_length": 3},
    **{"bollinger_length": 2, "bollinger_width": 0.9, "use_rsi_filter": False, "use_vwap_filter": False},
    **{"min_stop_bps": 0.0, "cooldown_bars": 0, "max_daily_loss_fraction": 1.0, "max_drawdown_fraction": 1.0},
    **{"max_consecutive_losses": 500, "max_trades_per_day": 500, "taker_fee": 0.0, "slippage_bps": 0.0},
}
"""Settings under which a short tape sees many round trips."""

ODD: dict[str, list[Any]] = {
    "rsi_length": [2],
    "atr_length": [2],
    "bollinger_length": [3, 5],
    "bollinger_width": [0.5, 1.5],
    "use_rsi_filter": [True],
    "use_vwap_filter": [True],
    "allow_short": [False],
    "anchor": ["continuous"],
    "min_stop_bps": [5.0],
    "exit_on_opposite_signal": [False],
    "max_holding_bars": [1, 3, 8],
    "max_holding_s": [5.0, 61.5, 1_000.0],
    "working_type": ["MARK_PRICE"],
    "entry": ["ioc_limit"],
    "max_slippage_bps": [0.2, 2.0, 100.0],
    "cooldown_bars": [1, 3],
    "cooldown_s": [30.0, 600.5],
    "risk_fraction": [0.0005, 0.05, 0.5],
    "max_notional_multiple": [0.02, 0.5, 20.0],
    "leverage": [1, 20],
    "margin_type": ["cross"],
    "capital": [300, 1_000_000],
    "wallet": [300, 2_000_000],
    "max_daily_loss_fraction": [0.0005, 0.003, 0.03],
    "daily_loss_action": ["block", "cancel"],
    "daily_loss_resume": ["after_seconds", "person"],
    "max_drawdown_fraction": [0.001, 0.01, 0.1],
    "drawdown_action": ["block", "cancel"],
    "drawdown_resume": ["next_utc_day", "after_seconds"],
    "max_consecutive_losses": [1, 3],
    "consecutive_losses_action": ["cancel", "flatten"],
    "consecutive_losses_resume": ["next_utc_day", "person"],
    "max_trades_per_day": [1, 4],
    "trades_per_day_action": ["cancel", "block"],
    "trades_per_day_resume": ["after_seconds"],
    "resume_after_s": [5.0, 60.0, 3_600.0],
    "latency_ms": [0, 1, 900, 20_000],
    "slippage_bps": [0.1, 0.5, 5.0],
    "fill_horizon_s": [0.0, 0.5, 600.0],
    "taker_fee": [0.00002, 0.0005],
    "mark_interval_s": [1, 10, 3_600],
    "order_stale_s": [0.5, 3.0],
    "seed": [3],
    "funding_rate": [0.0001, -0.02],
    "duration_s": [100.0, 2_000.0],
    "on_duration_end": ["protect", "carry_on"],
}
"""Settings away from the usual ones; an example takes some of them."""


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Settings for any tape; `bars` is about how many bars it shall make."""
    names = draw(st.sets(st.sampled_from(sorted(ODD)), max_size=20))
    chosen = {name: draw(st.sampled_from(ODD[name])) for name in sorted(names)}
    levels = {
        "stop_atr": draw(st.sampled_from([0.7, 1.0, 2.0, 4.0, 9.0])),
        "take_profit_atr": draw(st.sampled_from([0.0, 0.3, 0.7, 1.5, 3.0])),
    }
    unit = draw(st.sampled_from(["base", "base", "quote", "trades"]))
    return {**levels, **chosen, "unit": unit, "bars": draw(st.integers(60, 1_200))}


def config_of(chosen: dict[str, Any], trades: Trades) -> Config:
    rest = {name: value for name, value in chosen.items() if name != "bars"}
    bars, unit = chosen["bars"], chosen["unit"]
    threshold = {
        "base": max(1, int(trades.quantity.sum()) // bars) / 1000,
        "quote": max(1, int((trades.quantity * trades.price).sum()) // bars) / 10_000,
        "trades": max(1, len(trades) // bars),
    }
    return Config.from_parameters({**USUAL, **rest, "threshold": threshold[unit]})


def told(result: Backtest) -> dict[str, list[Any]]:
    """What a backtest tells from its first bar on, by kind; an order's own news apart."""
    facts = [f for f in result.facts if not isinstance(f, Refusal) or f.bar_number >= result.first_bar]
    fills = [f for f in facts if isinstance(f, OrderUpdate) and f.trade_id]
    return {"fills": fills} | {kind.__name__: [f for f in facts if type(f) is kind] for kind in TOLD}


def check_same(tape: Tape, config: Config, begin_s: float = 0.0, end_s: float | None = None) -> Backtest:
    """Hold both paths to each other; a session in which something isn't modelled says so and ran event by event."""
    compiled = backtest(tape, config, begin_s=begin_s, end_s=end_s)
    if compiled.path == "events":
        assert compiled.why in UNMODELLED[1:]
        return compiled
    one_by_one = backtest(tape, config, path="events", begin_s=begin_s, end_s=end_s)
    expected, found = told(one_by_one), told(compiled)
    for kind in expected:
        assert found[kind] == expected[kind], kind
    assert compiled.extrapolated == one_by_one.extrapolated
    assert compiled.first_bar == one_by_one.first_bar
    assert compiled.coverage == one_by_one.coverage
    assert compiled.bars.tobytes() == one_by_one.bars.tobytes()
    assert compiled.bar_decisions.tobytes() == one_by_one.bar_decisions.tobytes()
    check_brief(tape, config, begin_s, end_s)
    return compiled


def check_brief(tape: Tape, config: Config, begin_s: float, end_s: float | None) -> None:
    """Hold the figures of a sweep, which leaves out most valuations, to those of the whole session."""
    research = Research(tape)
    found, span = research.signals(research.decisions(config)), research.span(begin_s, end_s)
    (whole, _), (brief, _) = (research.trade(config, found, span, is_brief=brief) for brief in (False, True))
    assert whole is not None
    assert brief is not None
    bars, unit = research.bars(config.bars).rows, research.instrument.money_per_ticklot
    expected, told_briefly = (performance_data_of(tables, bars, unit) for tables in (whole, brief))
    for period_ms in (HOUR_MS, DAY_MS):
        (figures, returns), (same, same_returns) = (
            performance.figures_of(data, period_ms) for data in (expected, told_briefly)
        )
        assert np.array_equal([*vars(figures).values()], [*vars(same).values()], equal_nan=True)
        assert returns.values.tobytes() == same_returns.values.tobytes()


def check_session(recipe: Recipe, chosen: dict[str, Any], begin: float, end: float) -> Backtest:
    """Hold both paths to each other between two parts of a tape."""
    tape = recipe.tape()
    times = tape.trades.time
    length = (int(times[-1]) - int(times[0])) / 1000
    return check_same(tape, config_of(chosen, tape.trades), begin * length, end * length if end < 1 else None)


SESSIONS = given(
    recipe=RECIPES,
    chosen=parameters(),
    begin=st.one_of(st.just(0.0), st.floats(0, 0.6)),
    end=st.one_of(st.just(1.0), st.floats(0.7, 1)),
)


@settings(deadline=None, max_examples=40)
@SESSIONS
def test_both_paths_tell_the_same(recipe: Recipe, chosen: dict[str, Any], begin: float, end: float) -> None:
    check_session(recipe, chosen, begin, end)


@pytest.mark.campaign
@settings(deadline=None, max_examples=4_000)
@SESSIONS
def test_both_paths_tell_the_same_thousands_of_times(
    recipe: Recipe, chosen: dict[str, Any], begin: float, end: float
) -> None:
    check_session(recipe, chosen, begin, end)


def test_blocks_of_mark_prices_end_with_a_quarter_of_an_hour() -> None:
    times = START + np.arange(1, 32) * 60_000
    prices = np.array([9, 5, 5, 7, *[6] * 10, 8, 4, *[6] * 14, 3])
    blocks = mark_blocks(times, prices)
    assert blocks[["first", "lowest", "highest"]].tolist() == [(0, 1, 0), (15, 15, 16), (30, 30, 30), (31, 0, 0)]
    assert blocks[["lowest_e8", "highest_e8"]][:-1].tolist() == [(5, 9), (4, 6), (3, 3)]
    assert mark_blocks(np.append(times, times[-1] + 1), np.append(prices, 9)).tolist() == [(0, 0, 0, 0, 0, False)]
    assert mark_blocks(times[:0], prices[:0])["first"].tolist() == [0]


def test_blocks_know_whether_the_next_mark_price_is_in_another_hour() -> None:
    minutes = np.array([1, 15, 16, 45, 46, 60, 61, 119, 185])
    blocks = mark_blocks(START + minutes * 60_000, np.full(len(minutes), 5))[:-1]
    assert blocks["first"].tolist() == [0, 2, 3, 4, 6, 7, 8]
    assert blocks["ends_hour"].tolist() == [False, False, False, True, False, True, True]


@compiled
def _raised(rows: Rows) -> int:
    """Return the sum over rows, each raised by one in a copy."""
    total = 0
    for row in range(len(rows)):
        copied = copy_of(rows, row)
        copied.bar += 1
        total += copied.bar
    return total


@pytest.mark.parametrize("raised", [_raised, plain(_raised)])
def test_a_copy_of_a_row_is_changed_alone(raised: Callable[[Rows], int]) -> None:
    rows = np.zeros(3, BAR_SIGNAL)
    rows["bar"] = 5, 7, 9
    assert (raised(rows), rows["bar"].tolist()) == (24, [5, 7, 9])


def test_the_trade_that_begins_a_day_is_watched_though_it_is_in_the_bar_after() -> None:
    """It closes the day's last bar; a stop that it reaches fills from it."""
    recipe = Recipe(425272, 1_000, 8.7109375, 30, 0.0, 2, 1.0, 482_058)
    chosen = {"stop_atr": 0.7, "take_profit_atr": 0.0, "unit": "base", "bars": 60}
    done = check_session(recipe, chosen, 0.0, 1.0)
    assert [trip.exit_reason for trip in done.trips if trip.closed_at % DAY_MS == 0] == ["STOP"]


CALM = Config.from_parameters(
    **{"symbol": "BTCUSDT", "seed": 7, "hours": 30.0, "threshold": 30, "ema_fast": 5, "ema_slow": 13, "rsi_length": 7},
    **{"use_rsi_filter": False, "use_vwap_filter": False, "stop_atr": 15.0, "take_profit_atr": 15.0, "atr_length": 7},
    **{"max_daily_loss_fraction": 1.0, "max_drawdown_fraction": 1.0},
)
"""Positions that are held for an hour and more."""


@pytest.fixture(scope="module")
def calm() -> Tape:
    return load_tape(CALM.session, shipped_instrument("BTCUSDT"))


@pytest.mark.parametrize("rate", [0.001, -0.001])
def test_who_holds_through_a_funding_time_pays_or_is_paid(calm: Tape, rate: float) -> None:
    done = check_same(calm, CALM.changed(funding_rate=rate))
    assert done.path == "compiled"
    paid = [trip for trip in done.trips if trip.funding]
    assert {trip.side * rate * trip.funding < 0 for trip in paid} == {True}


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_a_mark_price_that_liquidates_is_never_passed(calm: Tape, side: Side) -> None:
    """The mark alone runs away for a minute, in the middle of a round trip; trades, and so its stop, know nothing."""
    config = CALM.changed(margin_type="isolated", leverage=5)
    minutes = (
        np.arange(int(calm.trades.time[0]) // 60_000, int(calm.trades.time[-1]) // 60_000, dtype=np.int64) * 60_000
    )
    rows = np.maximum(np.searchsorted(calm.trades.time, minutes) - 1, 0)
    price = calm.trades.price[rows] * 10_000_000
    valued = replace(calm, marks=Marks(minutes, price), funding=Funding(minutes[:1], np.zeros(1, np.int64)))
    held = next(
        trip
        for trip in check_same(valued, config).trips
        if trip.side == side and trip.closed_at - trip.opened_at > 600_000
    )
    at = int(np.searchsorted(minutes, (held.opened_at + held.closed_at) // 2))
    price[at] = price[at] * (10 - 3 * side) // 10
    done = backtest(valued, config)
    assert (done.path, done.why) == ("events", "a position was liquidated")
    assert not any(trip.closed_at == held.closed_at for trip in done.trips)


@pytest.mark.parametrize(("end_s", "duration_s"), [(36_000.0, 0.0), (None, 36_000.0)])
def test_a_given_engine_sees_no_further_than_the_backtest(calm: Tape, end_s: float | None, duration_s: float) -> None:
    config, instrument = CALM.changed(duration_s=duration_s), shipped_instrument("BTCUSDT")
    for path in ("compiled", "events"):
        engine, expected = (SignalEngine(config.signals, instrument) for _ in range(2))
        done = backtest(calm, config, engine, end_s=end_s, path=path)  # type: ignore[arg-type]
        assert done.path == path
        assert done.bars["close_time"][-1] <= calm.trades.time[0] + 36_000_000
        expected.on_volume_bars(done.bars)
        assert engine.state_bytes() == expected.state_bytes()


def test_an_engine_stays_where_it_was_when_the_compiled_path_is_refused(calm: Tape) -> None:
    engine = SignalEngine(CALM.signals, shipped_instrument("BTCUSDT"))
    before = engine.state_bytes()
    with pytest.raises(DataError, match="path: must be auto or events here"):
        backtest(calm, CALM.changed(most_bars_a_day=1.0), engine, path="compiled")
    assert engine.state_bytes() == before


class Buys(SignalEngine):
    """The built-in rule's buys, from bar 300 on."""

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        return signal if signal and signal.side is Side.BUY and self.bars > 300 else None


@pytest.mark.filterwarnings("ignore:Buys runs uncompiled")
def test_a_given_engine_that_overrides_on_volume_bar_runs_event_by_event(calm: Tape) -> None:
    """What it keeps besides its state could not be put back where the compiled loop gives up."""
    instrument = shipped_instrument("BTCUSDT")
    done = backtest(calm, CALM, Buys(CALM.signals, instrument))
    assert (done.path, done.why[:29]) == ("events", "Buys overrides on_volume_bar,")
    assert done.trips
    assert {trip.side for trip in done.trips} == {Side.BUY}
    with pytest.raises(DataError, match="path: must be auto or events here: Buys overrides on_volume_bar"):
        backtest(calm, CALM, Buys(CALM.signals, instrument), path="compiled")


@pytest.mark.filterwarnings("ignore:Buys runs uncompiled")
def test_a_search_hears_what_on_volume_bar_answers(calm: Tape) -> None:
    research, engine = Research(calm), Buys(CALM.signals, shipped_instrument("BTCUSDT"))
    expected = research.signals(Buys(CALM.signals, engine.instrument).on_volume_bars(research.bars(CALM.bars).rows))
    (built_in,), (found,) = (
        research.find_signals(CALM.bars, [one], {}) for one in (SignalEngine(CALM.signals, engine.instrument), engine)
    )
    assert found.tolist() == expected.tolist()
    assert 3 < len(found) < len(built_in)
    assert set(found["side"]) == {1}


class BuysFromTheThirdOn(SignalEngine):
    """Counts beside its declared state."""

    bought = 0

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        self.bought += signal is not None and signal.side is Side.BUY
        return signal if signal and signal.side is Side.BUY and self.bought > 2 else None


SEEN: list[float] = []


class OfAllRuns(SignalEngine):
    """Counts the bars of all of its runs."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        SEEN.append(bar.close)
        return 1 if len(SEEN) % 50 == 0 else 0


class Truth(SignalEngine):
    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return bar.close > bar.open  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.* runs uncompiled")
@pytest.mark.parametrize("path", ["auto", "events"])
@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        (BuysFromTheThirdOn, "on_volume_bar keeps self.bought, which is not in the declared state"),
        (OfAllRuns, "_detect_signal reads SEEN, a list"),
        (Truth, "must return -1, 0 or 1"),
    ],
)
def test_a_given_engine_is_refused_as_a_sweep_refuses_its_rule(
    calm: Tape, rule: type[SignalEngine], refused: str, path: Any
) -> None:
    """Otherwise the same backtest would say one thing the first time, and another the second."""
    engine = rule(CALM.signals, shipped_instrument("BTCUSDT"))
    with pytest.raises(ConfigError, match=f"{rule.__name__}.*{refused}"):
        backtest(calm, CALM, engine, path=path)
    assert engine.bars == 0


class Batch(SignalEngine):
    def on_volume_bars(self, rows: Rows) -> Rows:
        return super().on_volume_bars(rows)


def test_an_engine_that_overrides_what_no_mode_calls_is_refused(calm: Tape) -> None:
    engine, research = Batch(CALM.signals, shipped_instrument("BTCUSDT")), Research(calm)
    refused = "Batch.* overrides on_volume_bars"
    for path in ("auto", "events"):
        with pytest.raises(ConfigError, match=refused):
            backtest(research, CALM, engine, path=path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=refused):
        research.find_signals(CALM.bars, [engine], {})
