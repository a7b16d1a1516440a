"""What came before a session: bar k is the same bar whenever the engine starts, and no more is loaded than needed."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.bar_pipeline import BarPipeline
from voltrade.config import Config
from voltrade.data.synthetic import synthetic_market
from voltrade.engine.warmup import MAX_CATCH_UP, Loader, Progress
from voltrade.errors import ExchangeError
from voltrade.exchange.messages import TradeRow
from voltrade.model import NEVER, History, Trades
from voltrade.signal_engine import SignalEngine

INSTRUMENT = an_instrument()
START_MS = 1_767_564_000_000  # 22:00 UTC, so that the tape crosses a midnight
TAPE = synthetic_market(INSTRUMENT, 5, 8.0, START_MS)


class Exchange:
    """Answers klines and pages of trades from a tape, up to a position on it."""

    def __init__(self, end: int, wrong_minutes: int = 0, failures: int = 0) -> None:
        """`wrong_minutes`: so many lots more are in each minute's kline."""
        self.seen = TAPE[:end]
        self.wrong_minutes, self.failures = wrong_minutes, failures
        self.pages = 0

    def clock(self) -> int:
        return int(self.seen.time[-1])

    async def wait_for_weight(self, cost: int) -> None:
        assert cost == 20

    async def minute_volumes(self, symbol: str, start: int, limit: int) -> list[tuple[int, int, int]]:
        opened = self.seen.time // 60_000 * 60_000
        minutes = []
        for at in np.unique(opened[opened >= start])[:limit]:
            rows = opened == at
            lots, prices = self.seen.quantity[rows], self.seen.price[rows]
            minutes.append((int(at), int(lots.sum()) + self.wrong_minutes, int(lots @ prices)))
        return minutes

    async def agg_trades(
        self, symbol: str, from_id: int | None = None, limit: int = 1000, start: int | None = None
    ) -> list[TradeRow]:
        self.pages += 1
        if self.failures:
            self.failures -= 1
            raise ExchangeError("HTTP 502")
        first = int(np.searchsorted(self.seen.id, from_id) if start is None else np.searchsorted(self.seen.time, start))
        return list(self.seen[first : first + limit].rows())


def load(
    exchange: Exchange, config: Config, known_id: int = 0, needed: int = 12, newer: int = 0
) -> tuple[History, list[Progress]]:
    """Load what is wanted; the exchange has so many newer trades, which come by the stream."""
    told: list[Progress] = []
    loader = Loader(exchange, config, INSTRUMENT, exchange.clock, told.append)  # type: ignore[arg-type]
    last_id = int(exchange.seen.id[-1 - newer])
    return asyncio.run(loader.load(last_id, known_id, needed)), told


def a_pipeline(config: Config) -> BarPipeline:
    return BarPipeline(INSTRUMENT, config.bars, SignalEngine(config.signals, INSTRUMENT))


def folded(pipeline: BarPipeline, trades: Trades) -> BarPipeline:
    while len(trades):
        trades = trades[pipeline.process(trades, 0, NEVER, NEVER) :]
    return pipeline


def rows(pipeline: BarPipeline, first: int) -> list[tuple[Any, ...]]:
    return [row.item() for row in pipeline.bars[first:]]


@settings(max_examples=40, deadline=None)
@given(end=st.integers(2_000, len(TAPE) - 1), unit=st.sampled_from(["base", "quote"]), size=st.integers(3, 80))
def test_a_bar_is_the_same_bar_whenever_the_engine_starts(end: int, unit: str, size: int) -> None:
    config = Config.from_parameters(unit=unit, threshold=size if unit == "base" else size * 80_000)
    history, _ = load(Exchange(end), config)
    late, whole = a_pipeline(config), folded(a_pipeline(config), TAPE)
    if history.resume_point is not None:
        late.continue_from(history.resume_point)
    folded(late, history.trades)
    folded(late, TAPE[end:])
    same = rows(late, 1) if history.resume_point else rows(late, 0)
    assert same == rows(whole, whole.count - len(same))
    if history.resume_point:
        cut, complete = late.bars[0], whole.bars[whole.count - late.count]
        assert cut["tainted"]
        assert (cut["day"], cut["number"], cut["close"]) == (complete["day"], complete["number"], complete["close"])


@pytest.mark.parametrize("needed", [5, 40])
def test_no_more_is_loaded_than_the_bars_need(needed: int) -> None:
    config = Config.from_parameters(threshold=10)
    end = len(TAPE) - 10
    history, told = load(Exchange(end), config, needed=needed)
    pipeline = a_pipeline(config)
    assert history.resume_point is not None
    pipeline.continue_from(history.resume_point)
    folded(pipeline, history.trades)
    assert needed < pipeline.count <= needed + 3
    assert [progress.loaded for progress in told] == sorted(progress.loaded for progress in told)
    assert told[-1].loaded == told[-1].total == len(history.trades)
    assert told[-1].left_s == 0


@pytest.mark.parametrize("lots", [1_000_000, 100])
def test_klines_that_differ_from_the_trades_are_not_believed(lots: int) -> None:
    """100 lots are half a hundredth of a usual minute."""
    config = Config.from_parameters(threshold=10)
    end = len(TAPE) - 10
    history, _ = load(Exchange(end, wrong_minutes=lots), config)
    assert history.resume_point is None
    assert history.doubt == ""
    today = int(TAPE.time[end - 1]) // 86_400_000
    assert int(history.trades.time[0]) // 86_400_000 == today
    assert int(history.trades.id[0]) == int(TAPE.id[np.searchsorted(TAPE.time, today * 86_400_000)])


def test_klines_that_count_a_little_more_than_the_trades_are_told_and_believed() -> None:
    """Fault case C8: a lot a minute, which trades that aggTrades leave out may make."""
    config = Config.from_parameters(threshold=10)
    right, _ = load(Exchange(len(TAPE) - 10), config)
    history, _ = load(Exchange(len(TAPE) - 10, wrong_minutes=1), config)
    assert right.doubt == ""
    assert history.doubt.startswith("klines differ from their trades: today's bars may have closed ")
    assert right.resume_point is not None
    assert history.resume_point is not None
    assert history.resume_point.number - right.resume_point.number <= 1
    assert len(history.trades) == len(right.trades)


@pytest.mark.parametrize(("unit", "anchor"), [("trades", "utc_day"), ("base", "continuous")])
def test_bars_that_klines_cannot_place_are_loaded_from_trades(unit: str, anchor: str) -> None:
    config = Config.from_parameters(unit=unit, threshold=50, anchor=anchor)
    history, _ = load(Exchange(20_000), config, needed=8)
    assert history.resume_point is None
    late, whole = folded(a_pipeline(config), history.trades), folded(a_pipeline(config), TAPE[:20_000])
    assert late.count >= 8
    if anchor == "utc_day":
        assert rows(late, 0) == rows(whole, whole.count - late.count)


def test_an_engine_that_comes_back_reads_what_it_missed() -> None:
    config = Config.from_parameters(threshold=10)
    history, _ = load(Exchange(30_000), config, known_id=int(TAPE.id[27_499]))
    assert history.resume_point is None
    assert (int(history.trades.id[0]), len(history.trades)) == (int(TAPE.id[27_500]), 2_500)


@pytest.mark.parametrize("known_id", [0, int(TAPE.id[27_499])])
def test_trades_that_come_by_the_stream_are_not_loaded_too(known_id: int) -> None:
    history, told = load(Exchange(30_000), Config.from_parameters(threshold=10), known_id, newer=300)
    assert int(history.trades.id[-1]) == int(TAPE.id[29_699])
    assert told[-1].loaded == told[-1].total


def test_one_that_was_away_for_long_begins_its_bars_anew() -> None:
    assert len(TAPE) > MAX_CATCH_UP + 3_000
    config = Config.from_parameters(threshold=10)
    history, _ = load(Exchange(MAX_CATCH_UP + 3_000), config, known_id=int(TAPE.id[100]))
    late = folded(a_pipeline(config), TAPE[:101])
    assert history.resume_point is not None
    late.continue_from(history.resume_point)
    closed = late.count
    folded(late, history.trades)
    folded(late, TAPE[MAX_CATCH_UP + 3_000 :])
    whole = folded(a_pipeline(config), TAPE)
    assert rows(late, closed + 1) == rows(whole, whole.count - (late.count - closed - 1))


def test_a_page_that_fails_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        assert seconds > 0

    monkeypatch.setattr("voltrade.engine.warmup.asyncio.sleep", at_once)
    config = Config.from_parameters(threshold=10)
    exchange = Exchange(30_000, failures=3)
    history, _ = load(exchange, config, known_id=int(TAPE.id[28_999]))
    assert (len(history.trades), exchange.pages) == (1_000, 4)
    with pytest.raises(ExchangeError, match="502"):
        load(Exchange(30_000, failures=4), config, known_id=int(TAPE.id[28_999]))
