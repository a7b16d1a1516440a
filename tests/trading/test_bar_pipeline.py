"""The hot loop: it stops where someone has to decide, and however trades are cut it decides the same."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from test_bars import BUY, MIDNIGHT, Row, read_recording

from voltrade.bar_pipeline import BarPipeline
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Record
from voltrade.config import BarSettings, SignalSettings
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, NEVER, Signal, Trades, VolumeBar
from voltrade.signal_engine import BarStep, SignalEngine, UncompiledRuleWarning

LTC = an_instrument("LTCUSDT", tick="0.01")


class EvenClose(SignalEngine):
    """Long on a close of 1.00, short on 2.00: signals at will."""

    conditions = {}  # noqa: RUF012

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        if bar.close == 1.0:
            return 1
        return -1 if bar.close == 2.0 else 0


class PlainEvenClose(SignalEngine):
    """The same, in words that numba can't compile."""

    conditions = {}  # noqa: RUF012

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return {Decimal(1): 1, Decimal(2): -1}.get(Decimal(float(bar.close)), 0)


def a_pipeline(engine: type[SignalEngine] = EvenClose, unit: str = "base", threshold: str = "1") -> BarPipeline:
    return BarPipeline(LTC, BarSettings(unit=unit, threshold=Decimal(threshold)), engine(SignalSettings(), LTC))


def trades(rows: list[Row]) -> Trades:
    return Trades.from_rows("LTCUSDT", rows)


def full_bars(*closes: int) -> Trades:
    """One trade for each bar."""
    return trades([(i, close, 1000, MIDNIGHT + i, BUY) for i, close in enumerate(closes)])


# --- where it stops -----------------------------------------------------------------------------------------------


def test_it_stops_after_the_trade_that_gives_a_signal() -> None:
    pipeline, tape = a_pipeline(), full_bars(50, 100, 60, 200, 70)
    assert pipeline.process(tape, 0, NEVER, NEVER) == 2
    assert pipeline.count == 2
    assert pipeline.process(tape, 2, NEVER, NEVER) == 4
    assert pipeline.process(tape, 4, NEVER, NEVER) == 5
    assert pipeline.decisions["signal"].tolist() == [0, 1, 0, -1, 0]


def test_it_stops_before_the_first_trade_that_is_due() -> None:
    pipeline, tape = a_pipeline(), full_bars(50, 51, 52, 53)
    assert pipeline.process(tape, 0, MIDNIGHT, NEVER) == 0
    assert pipeline.process(tape, 0, MIDNIGHT + 2, NEVER) == 2
    assert pipeline.count == 2
    assert pipeline.process(tape, 2, MIDNIGHT + 3, NEVER) == 3
    assert pipeline.last_time == MIDNIGHT + 2


def test_a_due_time_is_met_inside_a_long_run_of_ordinary_trades() -> None:
    tape = trades([(i, 50, 1, MIDNIGHT + i, BUY) for i in range(200)])
    assert [a_pipeline().process(tape, 0, MIDNIGHT + due, NEVER) for due in (0, 1, 15, 16, 17, 100, 199, 200)] == [
        *(0, 1, 15, 16, 17, 100, 199, 200)
    ]


def test_it_stops_at_the_bar_that_someone_waits_for() -> None:
    pipeline, tape = a_pipeline(), full_bars(50, 51, 52, 53)
    assert pipeline.process(tape, 0, NEVER, 3) == 3
    assert pipeline.count == 3


def test_several_bars_of_one_trade_each_step_the_indicators_and_it_stops_once() -> None:
    pipeline = a_pipeline()
    tape = trades([(0, 60, 500, MIDNIGHT, BUY), (1, 100, 2_700, MIDNIGHT + 1, BUY), (2, 60, 1, MIDNIGHT + 2, BUY)])
    assert pipeline.process(tape, 0, NEVER, NEVER) == 2
    assert pipeline.bars["number"].tolist() == [0, 1, 2]
    assert pipeline.decisions["signal"].tolist() == [1, 1, 1]
    assert pipeline.engine.bars == 3


def test_a_day_that_ends_and_a_bar_that_fills_can_come_with_one_trade() -> None:
    pipeline = a_pipeline()
    tape = trades([(0, 60, 500, MIDNIGHT - 1, BUY), (1, 100, 1_000, MIDNIGHT, BUY), (2, 60, 1, MIDNIGHT, BUY)])
    assert pipeline.process(tape, 0, NEVER, NEVER) == 2  # the second of its bars has the signal
    assert pipeline.bars["close_reason"].tolist() == [2, 1]
    assert pipeline.decisions["signal"].tolist() == [0, 1]


def test_a_stop_is_told_even_if_the_wake_up_has_passed() -> None:
    pipeline, tape = a_pipeline(), full_bars(50, 51, 52)
    assert [pipeline.process(tape, at, NEVER, 1) for at in range(3)] == [1, 2, 3]


# --- what it knows ------------------------------------------------------------------------------------------------


def test_the_last_trade() -> None:
    pipeline = a_pipeline()
    assert (pipeline.last_price, pipeline.last_time, pipeline.last_trade_id) == (0, 0, -1)
    pipeline.process(trades([(5, 60, 1, MIDNIGHT + 9, BUY), (6, 61, 1, MIDNIGHT + 4, BUY)]), 0, NEVER, NEVER)
    assert (pipeline.last_price, pipeline.last_time, pipeline.last_trade_id) == (61, MIDNIGHT + 9, 6)
    pipeline.process(trades([(6, 99, 1, MIDNIGHT + 99, BUY), (7, 0, 1, MIDNIGHT + 99, BUY)]), 0, NEVER, NEVER)
    assert (pipeline.last_price, pipeline.last_time, pipeline.last_trade_id) == (61, MIDNIGHT + 9, 7)


def test_signals_count_the_bars_of_the_run() -> None:
    pipeline, tape = a_pipeline(), full_bars(100, 50, 200)
    at = 0
    while at < 3:
        at = pipeline.process(tape, at, NEVER, NEVER)
    assert (pipeline.decisions["signal"].tolist(), pipeline.bars["close"].tolist()) == ([1, 0, -1], [100, 50, 200])


def test_buffers_grow_and_keep_what_they_hold() -> None:
    pipeline = a_pipeline()
    tape = trades([(0, 60, 400_000, MIDNIGHT, BUY), (1, 61, 700_000, MIDNIGHT + 1, BUY)])
    early = pipeline.bars
    assert pipeline.process(tape, 0, NEVER, NEVER) == 2
    assert pipeline.count == 400 + 700
    assert pipeline.bars["close"].tolist() == [60] * 400 + [61] * 700
    assert len(pipeline.decisions) == 1100
    assert len(early) == 0


# --- properties ---------------------------------------------------------------------------------------------------


@st.composite
def tapes(draw: st.DrawFn) -> list[Row]:
    """Trades that close bars with and without signals, one or several at once, over midnights, with gaps."""
    rows: list[Row] = []
    trade_id, time = 0, MIDNIGHT - draw(st.integers(0, 300))
    for _ in range(draw(st.integers(1, 12))):
        for size in draw(st.lists(st.integers(1, 200), max_size=40)):
            rows.append((trade_id, 90 + size % 20, size, time, size % 2 == 0))
            trade_id, time = trade_id + 1, time + size % 3
        close = draw(st.sampled_from([100, 200, 55]))
        rows.append((trade_id, close, draw(st.integers(1, 3_500)), time, BUY))
        trade_id += draw(st.sampled_from([1, 1, 1, 3]))
        time += draw(st.sampled_from([0, 1, 7, DAY_MS]))
    return rows


def run(
    pipeline: BarPipeline, tape: Trades, pieces: list[int], dues: list[int], wakes: list[int]
) -> list[tuple[int, int]]:
    """Process a tape cut at `pieces`, with due times and wake-ups as a core has; return (id, count) of each stop."""
    stops: list[tuple[int, int]] = []
    edges = sorted({0, len(tape), *(piece % (len(tape) + 1) for piece in pieces)})
    for start, end in itertools.pairwise(edges):
        block, at = tape[start:end], 0
        while at < len(block):
            due = next((due for due in dues if due > pipeline.last_time), NEVER)
            wake = next((wake for wake in wakes if wake > pipeline.count), NEVER)
            before = pipeline.count
            at = pipeline.process(block, at, due, wake)
            signalled = pipeline.decisions["signal"][before:].any()
            if signalled or pipeline.count >= wake:
                stops.append((int(block.id[at - 1]), pipeline.count))
            elif at < len(block):
                assert block.time[at] >= due
                stops.append((-int(block.id[at]), pipeline.count))
                dues = [other for other in dues if other > due]
    return stops


@given(
    rows=tapes(),
    pieces=st.lists(st.integers(0, 500), max_size=8),
    offsets=st.lists(st.integers(0, 500), max_size=4),
    wakes=st.lists(st.integers(1, 40), max_size=4),
    ones=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_however_trades_are_cut_bars_decisions_and_stops_are_the_same(
    rows: list[Row], pieces: list[int], offsets: list[int], wakes: list[int], ones: bool
) -> None:
    tape, dues = trades(rows), sorted(MIDNIGHT - 250 + offset for offset in offsets)
    whole, cut = a_pipeline(), a_pipeline()
    expected = run(whole, tape, [], dues, sorted(wakes))
    assert run(cut, tape, list(range(len(rows))) if ones else pieces, dues, sorted(wakes)) == expected
    assert cut.state_bytes() == whole.state_bytes()


@given(rows=tapes(), cut=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_a_restart_goes_on_as_if_nothing_had_happened(rows: list[Row], cut: int) -> None:
    tape, cut = trades(rows), cut % (len(rows) + 1)
    whole, first, second = a_pipeline(), a_pipeline(), a_pipeline()
    run(whole, tape, [], [], [])
    run(first, tape[:cut], [], [], [])
    second.restore(first.state_bytes())
    run(second, tape[cut:], [], [], [])
    assert second.state_bytes() == whole.state_bytes()


@given(rows=tapes())
@settings(max_examples=30, deadline=None)
def test_it_equals_the_aggregator_and_the_engine_one_after_the_other(rows: list[Row]) -> None:
    pipeline = a_pipeline(SignalEngine)
    run(pipeline, trades(rows), [], [], [])
    bars = VolumeBarAggregator(BarSettings(threshold=Decimal(1)), LTC).process(trades(rows))
    assert pipeline.bars.tobytes() == bars.tobytes()
    assert pipeline.decisions.tobytes() == SignalEngine(SignalSettings(), LTC).on_volume_bars(bars).tobytes()


def test_an_uncompiled_rule_stops_and_decides_the_same() -> None:
    rng = np.random.default_rng(3)
    prices = rng.choice([55, 100, 200], 300, p=[0.8, 0.1, 0.1])
    tape = trades(
        [
            (i, int(p), int(q), MIDNIGHT + i, BUY)
            for i, (p, q) in enumerate(zip(prices, rng.integers(1, 900, 300), strict=True))
        ]
    )
    compiled_fold = a_pipeline()
    with pytest.warns(UncompiledRuleWarning, match="PlainEvenClose runs uncompiled"):
        plain_fold = a_pipeline(PlainEvenClose)
    dues, wakes = [MIDNIGHT + 77], [20, 31]
    expected = run(compiled_fold, tape, [], dues, wakes)
    assert run(plain_fold, tape, [150], dues, wakes) == expected
    assert len(expected) > 10
    assert plain_fold.decisions.tobytes() == compiled_fold.decisions.tobytes()
    assert plain_fold.bars.tobytes() == compiled_fold.bars.tobytes()


class Seconds(SignalEngine):
    """Every second signal of `EvenClose`; it counts by itself."""

    conditions = {}  # noqa: RUF012
    _detect_signal = staticmethod(EvenClose._detect_signal)  # type: ignore[assignment]
    heard = 0

    def on_volume_bar(self, bar: VolumeBar | Record) -> Signal | None:  # type: ignore[override]
        signal = super().on_volume_bar(bar)
        self.heard += signal is not None
        return signal if self.heard % 2 == 0 else None


@pytest.mark.filterwarnings("ignore:Seconds runs uncompiled")
def test_an_override_of_on_volume_bar_decides_where_it_stops() -> None:
    pipeline, tape = a_pipeline(Seconds), full_bars(100, 50, 200, 100, 50, 100)
    assert [pipeline.process(tape, at, NEVER, NEVER) for at in (0, 3)] == [3, 6]
    assert pipeline.decisions["signal"].tolist() == [0, 0, -1, 0, 0, 1]


def test_every_bar_goes_through_the_aggregator_and_on_volume_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    taken: list[int] = []
    pipeline, whole, step = a_pipeline(), VolumeBarAggregator.process, BarStep.__call__

    def heard(self: BarStep, engine: SignalEngine, bar: Record) -> Signal | None:
        taken.append(int(bar.close))
        return step(self, engine, bar)

    def noted(self: VolumeBarAggregator, *given: Any) -> Any:
        bars = whole(self, *given)
        closed.extend(bars["close"].tolist())
        return bars

    monkeypatch.setattr(VolumeBarAggregator, "process", noted)
    monkeypatch.setattr(BarStep, "__call__", heard)
    run(pipeline, full_bars(50, 100, 60, 200, 70), [2], [], [])
    assert closed == taken == pipeline.bars["close"].tolist() == [50, 100, 60, 200, 70]


# --- saved states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"threshold": "2"}, id="threshold"),
        pytest.param({"engine": SignalEngine}, id="rule"),
        pytest.param({"unit": "trades"}, id="unit"),
    ],
)
def test_a_state_of_another_fold_is_refused(other: dict[str, Any]) -> None:
    saved = a_pipeline().state_bytes()
    with pytest.raises(DataError, match="a saved pipeline must be of the same symbol, bar settings, rule"):
        a_pipeline(**other).restore(saved)


def test_a_state_that_is_cut_is_refused() -> None:
    pipeline = a_pipeline()
    pipeline.process(full_bars(50, 51, 52), 0, NEVER, NEVER)
    saved = pipeline.state_bytes()
    for length in (20, len(saved) - 1):
        with pytest.raises(DataError, match="must not be cut"):
            a_pipeline().restore(saved[:length])


def test_impossible_bar_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold: must be a multiple"):
        a_pipeline(threshold="0.0001")


# --- a real day ---------------------------------------------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_real_day_in_blocks(recordings: Any, size: int) -> None:
    rows = read_recording(next((recordings / "spot_trades").glob("LTCUSDT-*.csv.gz")))
    rows = rows[: 88_619 if size > 1 else 20_000]
    tape = trades(rows)
    whole, blocks = a_pipeline(SignalEngine, threshold="250"), a_pipeline(SignalEngine, threshold="250")
    expected = run(whole, tape, [], [], [])
    assert run(blocks, tape, list(range(0, len(tape), size)), [], []) == expected
    assert blocks.state_bytes() == whole.state_bytes()
    assert len(expected) > 10
