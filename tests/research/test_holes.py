"""Holes in recorded mark prices and funding rates: nothing is stretched over them, paid twice or lost."""

from __future__ import annotations

from dataclasses import replace
from html import escape, unescape
from types import SimpleNamespace
from typing import Any, NamedTuple

import IPython
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from test_loop import ODD, Recipe, check_same, config_of, told

from voltrade.compiled import Record
from voltrade.config import Config
from voltrade.data import coverage
from voltrade.data.coverage import Coverage
from voltrade.data.series_checks import FUNDING_RATES, rows_missing
from voltrade.data.tape import Tape, TapeReport
from voltrade.errors import DataError
from voltrade.model import DAY_MS, HOUR_MS, MINUTE_MS, Funding, Int64s, Marks, Trades
from voltrade.notebook import session
from voltrade.report import charts, summary
from voltrade.report.frames import to_milliseconds
from voltrade.report.statistics import statistics
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.prepared_tape import Research
from voltrade.research.sweep import sweep
from voltrade.research.walk_forward import walk_forward
from voltrade.signal_engine import SignalEngine
from voltrade.simulated.mark_columns import fundings_missing
from voltrade.simulated.symbols import shipped_instrument, shipped_rules

START = 1_767_657_600_000  # 2026-01-06 00:00 UTC
BTCUSDT = shipped_instrument("BTCUSDT")
SECOND_MS = 1_000


class LongAtBar(SignalEngine):
    """Buys once, at bar 100."""

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        return 1 if state.bars == 100 else 0


SETTINGS: dict[str, Any] = {
    **{"symbol": "BTCUSDT", "threshold": 10.0, "ema_fast": 1, "ema_slow": 2, "rsi_length": 1, "atr_length": 1},
    **{"bollinger_length": 2, "vwap_length": 1, "stop_atr": 150.0, "take_profit_atr": 0.0, "leverage": 3},
    **{"risk_fraction": 1.0, "max_daily_loss_fraction": 1.0, "max_drawdown_fraction": 1.0, "mark_interval_s": 60},
}


def tape_of(price: Int64s, marks: Marks | None, funding: Funding | None, start: int = START) -> Tape:
    """Return a tape with one trade of 1 BTC a second."""
    count = len(price)
    trades = Trades(
        "BTCUSDT",
        id=np.arange(1, count + 1, dtype=np.int64),
        price=price.astype(np.int64),
        quantity=np.full(count, 1_000, np.int64),
        time=start + SECOND_MS * np.arange(count, dtype=np.int64),
        buyer_is_maker=np.arange(count) % 2 == 0,
    )
    report = TapeReport(count, count, int(trades.time[0]), int(trades.time[-1]))
    return Tape(trades, report, "made for a test", True, marks, funding)


def up_and_down(seconds: int) -> Int64s:
    """Return prices of 60,000.0 and 60,030.0 in turn."""
    return np.where(np.arange(seconds) % 2 == 0, 600_000, 600_300).astype(np.int64)


def marks_of(price: Int64s, start: int = START, without: range = range(0)) -> Marks:
    """Return marks at the last trade's price, one a minute from the first on, without some minutes."""
    minutes = np.array([m for m in range(len(price) // 60) if m not in without], np.int64)
    return Marks(start + minutes * MINUTE_MS, price[np.maximum(minutes * 60 - 1, 0)] * 10_000_000)


def both_paths(tape: Tape, config: Config) -> Backtest:
    results = [
        backtest(tape, config, LongAtBar(config.signals, BTCUSDT), path=path)  # type: ignore[arg-type]
        for path in ("compiled", "events")
    ]
    compiled, events = results
    for frame in ("round_trips", "fills", "equity", "breaker"):
        assert getattr(compiled, frame).equals(getattr(events, frame)), frame
    return compiled


# --- marks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", [range(0), range(80, 104), range(80, 180), range(1, 180)])
def test_h1_a_hole_in_the_marks_switches_no_breaker_off(without: range) -> None:
    """The price falls by 5 % for ten minutes: the drawdown trips, at the mark or at the last trade."""
    price = up_and_down(10_800)
    price[5_000:5_600] = price[5_000:5_600] * 95 // 100
    config = Config.from_parameters({**SETTINGS, "max_drawdown_fraction": 0.05})
    done = both_paths(tape_of(price, marks_of(price, without=without), None), config)
    assert done.breaker["rule"].tolist() == ["DRAWDOWN"]
    assert done.statistics.equity_change < -1_000
    assert (done.equity["valued_at"] == "last").sum() >= len(without) // 2


def test_two_dips_without_a_mark_are_not_taken_for_one() -> None:
    """Five seconds each, six minutes apart, in minutes whose mark is missing; the marks between are fine."""
    price = up_and_down(10_800)
    for begin in (4_795, 5_155):
        price[begin : begin + 5] = price[begin : begin + 5] * 95 // 100
    config = Config.from_parameters({**SETTINGS, "max_drawdown_fraction": 0.05})
    done = both_paths(tape_of(price, Marks(*_without(marks_of(price), 80, 86)), None), config)
    assert done.breaker["rule"].tolist() == []
    assert (done.equity["valued_at"] == "last").sum() >= 2


def _without(marks: Marks, *minutes: int) -> tuple[Int64s, Int64s]:
    kept = ~np.isin((marks.time - START) // MINUTE_MS, minutes)
    return marks.time[kept], marks.price_e8[kept]


def test_a_minute_without_a_mark_is_valued_at_the_last_trade() -> None:
    """By hand: marks are 10 USDT above the trades; in minutes 100 to 123 there is none."""
    price = up_and_down(10_800)
    full = marks_of(price)
    marks = Marks(full.time, full.price_e8 + 1_000_000_000)
    inside = (marks.time >= START + 100 * MINUTE_MS) & (marks.time < START + 124 * MINUTE_MS)
    config = Config.from_parameters(SETTINGS)
    done = both_paths(tape_of(price, Marks(marks.time[~inside], marks.price_e8[~inside]), None), config)
    equity = done.equity[~done.equity.index.duplicated()]
    at = equity[equity.index.second == 0]
    is_last = at["valued_at"] == "last"
    minutes = ((to_milliseconds(at.index[is_last]) - START) // MINUTE_MS).tolist()
    assert minutes == list(range(100, 124))
    held = at[at["position"] != 0]
    difference = held["unrealised"][held["valued_at"] == "mark"].mean() - held["unrealised"][is_last].mean()
    assert difference == pytest.approx(10 * float(held["position"].iloc[0]), abs=0.11 * float(held["position"].iloc[0]))


def marks_as_played(marks: Marks | None, funding: Funding | None = None, **given: Any) -> list[tuple[int, bool, int]]:
    """Return second of the tape, whether it is the last trade's price, and the rate that is paid."""
    config = Config.from_parameters(**{**SETTINGS, **given})
    rows = Research(tape_of(up_and_down(601), marks, funding)).marks(config).rows
    shown = ((rows["time"] - START) // 1_000).tolist()
    return list(zip(shown, rows["is_last_price"].tolist(), rows["funding_rate"].tolist(), strict=True))


def made(*seconds: float, price: int = 6_000_000_000_000) -> Marks:
    return Marks(START + np.array([1_000 * at for at in seconds], np.int64), np.full(len(seconds), price))


def test_marks_are_used_where_they_are() -> None:
    minutes = [(60 * n, True, 0) for n in range(1, 11)]
    whole = [(60 * n, False, 0) for n in range(1, 11)]
    assert marks_as_played(made(*range(0, 601, 60))) == whole
    assert marks_as_played(made()) == minutes, "a day without rows"
    assert marks_as_played(made(*range(0, 301, 60))) == whole[:5] + minutes[5:], "the end is missing"
    assert marks_as_played(made(*range(300, 601, 60))) == minutes[:4] + whole[4:], "the begin is missing"
    offset = marks_as_played(made(*range(5, 601, 60)))
    assert [at for at, _, _ in offset] == [5, *range(65, 600, 60), 600]
    assert [last for *_, last, _ in offset] == [False] * 10 + [True], "minute 10 has not had its mark"
    five = marks_as_played(made(0, 300, 600))
    assert [last for _, last, _ in five] == [at % 300 != 0 for at in range(60, 601, 60)], "one in five minutes"
    seconds = marks_as_played(made(*range(601)))
    assert [at for at, last, _ in seconds if not last] == list(range(1, 601)), "one a second"


def test_marks_in_any_order_and_twice_are_played_once() -> None:
    whole = marks_as_played(made(*range(0, 601, 60)))
    assert marks_as_played(made(*reversed(range(0, 601, 60)), 120, 120)) == whole
    twice = Marks(np.append(made(60).time, made(60).time), np.array([6_000_000_000_000, 6_000_000_000_001]))
    with pytest.raises(DataError, match="marks: rows of one time must agree"):
        marks_as_played(twice)


# --- funding ----------------------------------------------------------------------------------------------------------

NIGHT = START + 6 * HOUR_MS


def funded(*rows: tuple[float, int]) -> Funding:
    """Funding rows from hours of the day, and rates in 1e-8."""
    times = [START + round(hour * HOUR_MS) for hour, _ in rows]
    return Funding(np.array(times, np.int64), np.array([rate for _, rate in rows], np.int64))


EIGHT_AND_NINE = funded((8, 10_000), (9, -50_000))


def hours(*at: float) -> Int64s:
    return START + np.rint(np.array(at, np.float64) * HOUR_MS).astype(np.int64)


@pytest.mark.parametrize(
    ("at", "intervals", "missing"),
    [
        ((0, 8, 16, 24, 32, 40), None, 0),
        ((0, 8, 24, 32, 40), None, 1),
        ((8, 16, 24, 32), None, 1),
        ((0, 16, 40), None, 3),
        ((0, 8, 16, 20, 24, 25, 26, 27), [8, 8, 8, 4, 4, 1, 1, 1], 20),
        ((0, 8, 16, 20, 24, 28, 32, 36, 40, 44), None, 0),
        ((0, 8, 16, 20, 24, 28, 32, 36, 40, 44), [8, 8, 4, 4, 4, 4, 4, 4, 4, 4], 0),  # each states what begins there
        ((0, 8, 16, 17, *range(18, 48)), [8, 8, 1, *[1] * 31], 0),
        ((*range(0, 9), 16, 24, 32, 40), [*[1] * 8, 8, 8, 8, 8, 8], 0),
        ((0, 8, 20, 24, 28, 32, 36, 40, 44), [8, 8, 4, 4, 4, 4, 4, 4, 4], 1),  # 12:00 and 16:00 by what ends there
        ((0, 8, 16, 20, 28, 32, 36, 40, 44), [8, 8, 4, 4, 4, 4, 4, 4, 4], 1),  # 24:00 by either
        ((*range(0, 10), *range(17, 48)), None, 7),
        ((0, 8), [1, 1], 46),
        ([hour for hour in range(48) if hour not in (3, 5)], None, 2),
        ([hour for hour in range(48) if hour not in (3, 5, 7)], None, 3),
        ((0, 4, 12, 20, 24, 28, 32, 36, 40, 44), None, 2),
        ((0, 8, 16, 24, 32, 40), [1, 0, 0, 0, 0, 0], 42),
        ((0, 8, 16, 24, 28, 32, 36, 40, 44), [8, 8, 8, 8, 0, 0, 0, 0, 0], 0),
        ((47,), [1], 46),
        ((), None, 5),
        ((0.000001, 8.000001, 15.999999, 24, 32, 40.000001), None, 0),
    ],
)
def test_h5_missing_funding_rows_are_counted(at: tuple[float, ...], intervals: list[int] | None, missing: int) -> None:
    """From just after midnight, for 47.5 hours; a row states what ends there, or what begins there."""
    stated = None if intervals is None else np.array(intervals) * HOUR_MS
    funding = Funding(hours(*at), np.ones(len(at), np.int64), stated)
    assert fundings_missing(funding, START + 1_000, int(hours(47.5)[0])) == missing


@pytest.mark.parametrize(
    ("at", "usual", "missing"),
    [
        ((4, 12, 20, 28, 36, 44), 0, 5),  # every second row is lost: by themselves, they look like rows each 8 hours
        ((0, 8, 16, 24, 32, 40), 0, 0),  # each 8 hours, as it may have been before the interval was shortened
        ((0, 8, 16, 24, 28, 32, 36, 40, 44), 0, 0),  # it was shortened in the second night
        ((0, 8, 16, 24, 28, 36, 44), 0, 2),
        ((0, 8, 24, 28, 32, 36, 40, 44), 1, 4),  # 4, 12, 16, 20
        ((), 5, 11),
    ],
)
def test_lost_rows_are_counted_by_the_symbol_s_own_interval_where_it_is_known(
    at: tuple[float, ...], usual: int, missing: int
) -> None:
    funding, first, last = Funding(hours(*at), np.ones(len(at), np.int64)), START + 1_000, int(hours(47.5)[0])
    assert fundings_missing(funding, first, last) == usual
    assert fundings_missing(funding, first, last, 4 * HOUR_MS) == missing


def test_a_result_counts_funding_rows_as_verify_and_fetch_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tape of two days and a bit, of a symbol that pays each 4 hours now and paid each 8 on the first day."""
    rules = replace(shipped_rules("BTCUSDT"), funding_interval_ms=4 * HOUR_MS)
    monkeypatch.setattr(coverage, "shipped_rules", lambda symbol: rules)
    at = (0, 8, 16, 24, 28, 32, 40, 44, 48, 52, 56)
    nothing = np.zeros(len(at), np.int64)
    per_day = [
        rows_missing(FUNDING_RATES, [column[hours(*at) // DAY_MS == START // DAY_MS + day] for column in
                     (hours(*at), nothing, nothing)], (START + day * DAY_MS, START + (day + 1) * DAY_MS), 4 * HOUR_MS)
        for day in range(2)
    ]  # fmt: skip
    assert [int(missing.sum()) + edges for missing, edges in per_day] == [0, 1]
    tape = tape_of(up_and_down(58 * 60), None, Funding(hours(*at), nothing + 1))
    trades = replace(tape.trades, time=START + 60_000 * np.arange(58 * 60, dtype=np.int64))
    assert Coverage.of(replace(tape, trades=trades)).fundings_missing == 1


def test_ids_that_are_missing_in_the_warm_up_are_told() -> None:
    tape = tape_of(up_and_down(7_200), None, None)
    holed = replace(tape, trades=tape.trades[(tape.trades.id < 1_000) | (tape.trades.id > 1_500)])
    done = backtest(holed, Config.from_parameters(SETTINGS), begin_s=3_600)
    told = "no id is missing between its trades; 501 ids are missing in the warm-up before"
    assert told in repr(done)
    assert told in done.notes()[0]
    assert done.warning == ""
    at_begin = replace(tape, trades=tape.trades[(tape.trades.id < 3_000) | (tape.trades.id > 3_600)])
    assert Coverage.of(at_begin, 2_999).missing_in_warm_up == 601, "just before its first trade"
    assert "warm-up" not in Coverage.of(at_begin).text


def test_mark_prices_of_something_else_are_marked() -> None:
    """Of a premium index on the second day; those of the first are the symbol's, 4 % away."""
    price = up_and_down(2 * 7_200)
    start = START - 7_200_000
    marks = marks_of(price, start)
    second = marks.time >= START
    marks = Marks(marks.time, np.where(second, 30_000, marks.price_e8 * 104 // 100))
    done = backtest(tape_of(price, marks, None, start), Config.from_parameters(SETTINGS))
    assert done.warning == "WRONG MARK PRICES: in the median off the last trades on 2026-01-06 (100.0%)"
    assert done.warning in repr(done)
    assert any(
        "one a minute; they are in the median off the last trades on 2026-01-06" in note for note in done.notes()
    )
    tenfold = Coverage.of(tape_of(price, Marks(marks.time, marks_of(price, start).price_e8 * 10), None, start))
    assert tenfold.warning.endswith("2026-01-05 (900.5%), 2026-01-06 (900.5%)")
    assert Coverage.of(tape_of(price, marks_of(price, start), None, start)).warning == ""


def held_over(marks: Marks | None, funding: Funding, **given: Any) -> float:
    """Return what a long position of 0.333 BTC at about 60,000, held from 06:20 to 10:00, is paid in funding."""
    price = up_and_down(4 * 3_600)
    config = Config.from_parameters(
        **{**SETTINGS, "capital": 9_999, "wallet": 10_000, "taker_fee": 0.0, "slippage_bps": 0.0, **given}
    )
    done = both_paths(tape_of(price, marks, funding, NIGHT), config)
    (trip,) = done.trips
    assert trip.opened_at < START + 7 * HOUR_MS
    assert done.round_trips["quantity"].tolist() == pytest.approx([0.333], abs=0.001)
    return float(done.round_trips["funding"].iloc[0])


def marks_at_60_000(without: range = range(0)) -> Marks:
    """Marks of 06:00 to 10:00, without some minutes after 06:00."""
    minutes = np.array([m for m in range(241) if m not in without], np.int64)
    return Marks(NIGHT + minutes * MINUTE_MS, np.full(len(minutes), 6_000_000_000_000))


HOLES = {
    "whole": marks_at_60_000(),
    "08:00 to 09:10": marks_at_60_000(range(120, 190)),
    "07:00 to 10:00": marks_at_60_000(range(60, 241)),
    "no mark": Marks(np.empty(0, np.int64), np.empty(0, np.int64)),
    "none recorded": None,
}


@pytest.mark.parametrize("marks", HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("mark_interval_s", [60, 7_200])
def test_h2_every_funding_row_is_paid_once_at_its_own_rate(marks: Marks | None, mark_interval_s: int) -> None:
    """A notional of about 19,980: -1.998 at 08:00, +9.99 at 09:00."""
    assert held_over(marks, EIGHT_AND_NINE, mark_interval_s=mark_interval_s) == pytest.approx(7.992, rel=0.001)


def test_funding_between_two_marks_and_intervals_that_change() -> None:
    rows = funded((6.99, 1_000), (7, 2_000), (7 + 3e-6, 2_000), (8, 4_000), (8.4, 8_000), (8.41, 16_000))
    for marks in HOLES.values():
        paid = held_over(marks, rows)
        assert paid == pytest.approx(-19_980 * (1 + 2 + 4 + 8 + 16) * 1e-5, rel=0.001), "07:00 is stated twice"


def test_two_rates_of_one_time_are_refused() -> None:
    with pytest.raises(DataError, match=r"funding: rows of one time must agree, was \[10000, 20000\]"):
        held_over(None, funded((8, 10_000), (8 + 1e-6, 20_000)))


@pytest.mark.parametrize("mark_interval_s", [1, 60, 7_200])
def test_simulated_funding_is_paid_at_its_times_whatever_the_marks(mark_interval_s: int) -> None:
    price = up_and_down(4 * 3_600)
    config = Config.from_parameters(
        **{**SETTINGS, "capital": 9_999, "funding_rate": 0.001, "mark_interval_s": mark_interval_s}
    )
    for marks in HOLES.values():
        done = both_paths(tape_of(price, marks, None, NIGHT), config)
        assert done.round_trips["funding"].tolist() == pytest.approx([-19.98], rel=0.001)


# --- what a result says -----------------------------------------------------------------------------------------------


def with_holes() -> Tape:
    """Three hours with a hole of 2 % in the trades, 24 minutes without a mark, and one of two funding rows."""
    tape = tape_of(up_and_down(10_800), marks_of(up_and_down(10_800), without=range(80, 104)), None)
    trades = tape.trades
    there = np.ones(len(trades), np.bool_)
    there[3_000:3_216] = False
    columns = [column[there] for column in trades.columns]
    funding = Funding(np.array([START + HOUR_MS]), np.array([10_000]), np.array([HOUR_MS]))
    return replace(tape, trades=Trades("BTCUSDT", *columns), funding=funding)


WARNING = "INCOMPLETE TAPE: without 2.0% of the trades, 13.4% of the mark prices, 50.0% of the funding rates"


def test_h4_a_result_says_what_its_tape_lacks() -> None:
    config = Config.from_parameters(SETTINGS)
    for path in ("compiled", "events"):
        done = backtest(with_holes(), config, LongAtBar(config.signals, BTCUSDT), path=path)  # type: ignore[arg-type]
        assert done.warning == WARNING
        notes = done.notes()
        assert notes[0] == "trades: made for a test; 216 ids are missing in 1 gaps (2.00%); 1 tainted bars"
        assert (
            "mark = the exchange's, one a minute; 24 of 179 minutes have none: there it is the last trade's price"
            in notes
        )
        assert "funding = the exchange's, 1 rows; 1 of 2 rows are missing and were not paid" in notes
        assert f"tape {with_holes().sha256()[:16]}" in notes[-1]
        assert WARNING in repr(done)
        assert "216 ids are missing in 1 gaps (2.00%); mark = the exchange's" in repr(done)
        assert WARNING in done._repr_html_()
        assert WARNING in done.judgement.text
        assert done.statistics.table()["value"].iloc[0] == WARNING
        assert done.price_chart().layout.title.text.startswith(WARNING)
        chart = done.equity_chart()
        assert chart.layout.title.text.startswith(WARNING)
        (hole,) = chart.layout.shapes
        assert (hole.x0 - START) // MINUTE_MS == 80
        assert (hole.x1 - START) // MINUTE_MS == 104


def test_h4_tables_and_charts_that_are_made_of_a_result_are_marked_too() -> None:
    config = Config.from_parameters(SETTINGS)
    done = backtest(with_holes(), config, LongAtBar(config.signals, BTCUSDT))
    frames, page = done.frames(), escape(WARNING)
    tables = (done.round_trips, done.fills, done.equity, summary.costs(frames), summary.round_trips_by_exit(frames))
    assert all(page in session.table(table).data for table in tables)
    assert statistics(frames).table()["value"].iloc[0] == WARNING
    makers = (charts.price_chart, charts.equity_chart, charts.refusals_chart)
    drawn = [make(frames, config) for make in makers] + [charts.comparison_chart(frames, frames, config)]
    assert [figure.layout.title.text.count(WARNING) for figure in drawn] == [1] * 4
    swept = sweep(with_holes(), config, {"stop_atr": [100.0, 150.0]}, progress=False)
    assert swept.overfitting.text.endswith(f" {WARNING}.")
    assert page in session.table(swept.frame).data
    assert swept.searches.frame["missing"].tolist() == [pytest.approx(0.5)]
    whole = tape_of(up_and_down(10_800), marks_of(up_and_down(10_800)), None)
    assert "INCOMPLETE" not in session.table(backtest(whole, config).equity).data


def test_a_notebook_draws_the_mark_above_frames_of_every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    config, grid = Config.from_parameters(SETTINGS), {"stop_atr": [100.0, 150.0]}
    done = backtest(with_holes(), config, LongAtBar(config.signals, BTCUSDT))
    swept = sweep(with_holes(), config, grid, progress=False)
    forward = walk_forward(with_holes(), config, grid, folds=2, purge_s=0.0, progress=False)
    for frame in (done.round_trips, done.equity.head(), swept.frame, forward.frame):
        shown, _ = shell.display_formatter.format(frame)
        assert escape(WARNING) in shown["text/html"]
        assert shown["text/plain"].startswith(f"{WARNING}\n")
    own, _ = shell.display_formatter.format(pd.DataFrame({"a": [1]}))
    assert own["text/plain"] == "   a\n0  1"
    assert own["text/html"].startswith("<div>")


def test_a_whole_tape_is_not_marked() -> None:
    config = Config.from_parameters(SETTINGS)
    whole = tape_of(up_and_down(10_800), marks_of(up_and_down(10_800)), None)
    done = backtest(whole, config, LongAtBar(config.signals, BTCUSDT))
    assert done.warning == ""
    assert "INCOMPLETE" not in repr(done) + done._repr_html_()
    assert done.equity_chart().layout.shapes == ()
    assert "no id is missing between its trades" in done.notes()[0]
    assert done.tape.sha256() != with_holes().sha256()


def test_the_part_that_is_traded_is_what_is_told() -> None:
    config = Config.from_parameters(SETTINGS)
    done = backtest(with_holes(), config, LongAtBar(config.signals, BTCUSDT), begin_s=6_300)
    assert done.warning == "INCOMPLETE TAPE: without 100.0% of the funding rates"
    events = backtest(with_holes(), config, LongAtBar(config.signals, BTCUSDT), begin_s=6_300, path="events")
    assert events.coverage == done.coverage


def test_h4_sweep_and_walk_forward_are_marked_too() -> None:
    config = Config.from_parameters(SETTINGS)
    tape, grid = with_holes(), {"stop_atr": [100.0, 150.0]}
    swept = sweep(tape, config, {**grid, "take_profit_atr": [0.0, 500.0]}, progress=False)
    forward = walk_forward(tape, config, grid, folds=2, purge_s=0.0, progress=False)
    for result in (swept, forward):
        assert WARNING in repr(result)
        assert WARNING in result._repr_html_()
        assert "216 ids are missing in 1 gaps (2.00%)" in repr(result)
        assert result.judgement.text.endswith(f" {WARNING}.")
        page = unescape(result._repr_html_())
        assert all(line in page for line in result.notes())
        notes = "\n".join(result.notes())
        for known in (
            "trades: made for a test; 216 ids are missing in 1 gaps (2.00%); 1 tainted bars",
            f"filters: {BTCUSDT.source}",
            "24 of 179 minutes have none",
            "1 of 2 rows are missing and were not paid",
            "extrapolated: at most ",
            "slippage ",
            "voltrade ",
            f"tape {tape.sha256()[:16]}",
        ):
            assert known in notes
    charts = (swept.heat_map("stop_atr", "take_profit_atr"), swept.luck_chart(), forward.chart())
    assert all(chart.layout.title.text.startswith(WARNING) for chart in charts)
    assert swept.frame["missing"].tolist() == [pytest.approx(0.5)] * 4
    assert forward.frame["missing"].round(3).tolist() == [0.407, 0.0]
    assert swept.searches.frame["missing"].tolist() == [pytest.approx(0.5)] * 3, "itself, and the walk-forward's two"


# --- at random --------------------------------------------------------------------------------------------------------

HOLE_MINUTES = (1, 10, 24, 200)


def without(tape: Tape, begin: int, end: int, *, marks: bool, funding: bool) -> Tape:
    """Return a tape without the mark prices or the funding rows of a span of time."""
    assert tape.marks is not None
    assert tape.funding is not None
    kept, paid = (~((times >= begin) & (times < end)) for times in (tape.marks.time, tape.funding.time))
    if not marks:
        kept[:] = True
    if not funding:
        paid[:] = True
    return replace(
        tape,
        marks=Marks(tape.marks.time[kept], tape.marks.price_e8[kept]),
        funding=Funding(tape.funding.time[paid], tape.funding.rate_e8[paid]),
    )


def events(done: Backtest) -> list[tuple[int, Any]]:
    """Return what happened, by time, but for valuations."""
    facts = told(done)
    return [
        *((fact.time, fact) for kind in ("OrderIntent", "fills", "Refusal", "BreakerChange") for fact in facts[kind]),
        *((trip.closed_at, trip) for trip in facts["RoundTrip"]),
    ]


class Hole(NamedTuple):
    """What a hole was like."""

    minutes: int
    lacks: tuple[bool, bool]
    """Whether mark prices, and funding rows, were lost in it."""
    happened: bool
    """Whether something happened in it."""
    mattered: bool


def check_hole(seed: int) -> Hole:
    """Hold a backtest with a hole to one without."""
    chance = np.random.default_rng(seed)
    recipe = Recipe(
        seed, int(chance.integers(1_000, 5_000)), float(chance.uniform(6.5, 9)), int(chance.choice([30, 100, 1_500])),
        0.0, 2, float(chance.uniform(1, 4)), int(chance.integers(0, 86_400_000)), valued=True,
    )  # fmt: skip
    names = chance.choice(sorted({*ODD} - {"seed", "funding_rate", "mark_interval_s"}), 6, replace=False)
    chosen = {name: ODD[name][int(chance.integers(len(ODD[name])))] for name in names.tolist()}
    chosen |= {"stop_atr": 4.0, "take_profit_atr": 3.0, "unit": "base", "bars": int(chance.integers(60, 600))}
    tape = recipe.tape()
    config = config_of(chosen, tape.trades)
    first, last = int(tape.trades.time[0]), int(tape.trades.time[-1])
    begin = int(chance.integers(first - HOUR_MS, last)) // MINUTE_MS * MINUTE_MS
    minutes = int(chance.choice(HOLE_MINUTES))
    of_marks, of_funding = bool(chance.integers(4)), bool(chance.integers(2))
    assert tape.funding is not None
    if of_funding and chance.integers(2):  # by chance alone, a short one hardly ever has a funding row in it
        row = int(chance.choice(tape.funding.time))
        begin = (row - int(chance.integers(minutes)) * MINUTE_MS) // MINUTE_MS * MINUTE_MS
    end = begin + MINUTE_MS * minutes
    holed = without(tape, begin, end, marks=of_marks, funding=of_funding)
    whole, done = backtest(tape, config), check_same(holed, config)
    assert holed.funding is not None
    missing = done.coverage.minutes_without_mark, len(tape.funding.time) - len(holed.funding.time)
    in_hole = [time for time, _ in [*events(whole), *events(done)] if begin <= time < end + MINUTE_MS]
    span = (whole.equity.index >= utc(begin)) & (whole.equity.index < utc(end + MINUTE_MS))
    happened = bool(in_hole) or bool((whole.equity["position"][span] != 0).any())
    before = [[fact for time, fact in events(each) if time < begin] for each in (whole, done)]
    assert before[0] == before[1], "nothing before the hole is another"
    differs = events(whole) != events(done)
    if differs:
        assert happened
        assert missing != (0, 0)
    elif not happened:
        columns = ["wallet", "unrealised", "position", "valued_at"]
        at_times = [each.equity[columns][~inside(each, begin, end)] for each in (whole, done)]
        assert at_times[0].equals(at_times[1])
        assert whole.statistics.equity_change == done.statistics.equity_change
    lost = sum(
        begin <= minute < end for minute in range(first // MINUTE_MS * MINUTE_MS + MINUTE_MS, last + 1, MINUTE_MS)
    )
    assert done.coverage.minutes_without_mark == (lost if of_marks else 0)
    assert ("minutes have none" in " ".join(done.notes())) == bool(of_marks and lost)
    unpaid = [row for row in tape.funding.time.tolist() if max(begin, first) <= row < min(end, last + 1)]
    if of_funding and len(holed.funding.time) > 2:  # two may be what is left of three: nobody knows their interval
        assert done.coverage.fundings_missing - whole.coverage.fundings_missing == len(unpaid)
    return Hole(minutes, (bool(of_marks and lost), missing[1] > 0), happened, differs)


def utc(milliseconds: int) -> pd.Timestamp:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def inside(done: Backtest, begin: int, end: int) -> Any:
    return (done.equity.index >= utc(begin)) & (done.equity.index < utc(end))


def test_a_hole_changes_only_what_happens_in_it() -> None:
    assert len({check_hole(seed)[2:] for seed in range(8)}) > 1


@pytest.mark.campaign
def test_a_hole_changes_only_what_happens_in_it_two_hundred_times() -> None:
    found = [check_hole(seed) for seed in range(200)]
    assert {hole.happened for hole in found} == {False, True}
    assert any(hole.mattered for hole in found)
    for lacked in range(2):
        assert {hole.minutes for hole in found if hole.lacks[lacked]} == {*HOLE_MINUTES}
