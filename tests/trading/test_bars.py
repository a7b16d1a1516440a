"""Volume bars: exact, conserved, anchored, and the same however the trades arrive."""

from __future__ import annotations

import csv
import gzip
import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument, volume_bar
from support.oracles import decimal_bars

from voltrade import bar_spec as units
from voltrade.bar_spec import KLINE_UNITS, bar_spec, smallest_threshold
from voltrade.bars import VolumeBarAggregator, _weight
from voltrade.compiled import uncompiled
from voltrade.config import BarSettings
from voltrade.data.tape_profile import traded
from voltrade.errors import ConfigError, DataError
from voltrade.model import BAR, DAY_MS, CloseReason, Instrument, Trades, VolumeBar
from voltrade.signal_engine import SignalEngine

DAY = 20_000
MIDNIGHT = DAY * DAY_MS
BUY, SELL = False, True  # buyer is maker: the taker sold

LTC = an_instrument("LTCUSDT", tick="0.01")

Row = tuple[int, int, int, int, bool]


def an_aggregator(
    threshold: Decimal | str = "1", unit: str = "base", anchor: str = "utc_day", instrument: Instrument = LTC
) -> VolumeBarAggregator:
    return VolumeBarAggregator(BarSettings(unit=unit, threshold=Decimal(threshold), anchor=anchor), instrument)


def process(aggregator: VolumeBarAggregator, rows: list[Row]) -> list[VolumeBar]:
    """BarPipeline (id, ticks, lots, ms, buyer is maker) rows; 1 coin is 1000 lots."""
    return [volume_bar(row, "LTCUSDT") for row in aggregator.process(Trades.from_rows("LTCUSDT", rows))]


def the_open_bar(aggregator: VolumeBarAggregator) -> VolumeBar:
    return volume_bar(aggregator.state["bar"][0], "LTCUSDT")


# --- one bar ------------------------------------------------------------------------------------------------------


def test_a_bar_closes_with_the_trade_that_fills_it_exactly() -> None:
    bars = process(
        an_aggregator(),
        [
            (7, 8000, 300, MIDNIGHT + 10, BUY),
            (8, 8010, 200, MIDNIGHT + 20, SELL),
            (9, 7990, 500, MIDNIGHT + 30, BUY),
        ],
    )
    assert bars == [
        VolumeBar(
            symbol="LTCUSDT",
            day=DAY,
            number=0,
            open_time=MIDNIGHT + 10,
            close_time=MIDNIGHT + 30,
            first_trade_id=7,
            last_trade_id=9,
            open=8000,
            high=8010,
            low=7990,
            close=7990,
            volume=300 + 200 + 500,
            taker_buy_volume=300 + 500,
            notional=300 * 8000 + 200 * 8010 + 500 * 7990,
            trade_count=3,
            close_reason=CloseReason.THRESHOLD,
            tainted=False,
        )
    ]


def test_a_block_may_close_more_bars_than_one_trade_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The room for bars is an estimate, which is above ten million for as many trades of a bar each."""
    monkeypatch.setattr("voltrade.bars._MOST_BARS_BY_ONE_TRADE", 100)
    rows = [(number + 1, 8000, 1, MIDNIGHT + number, BUY) for number in range(1_000)]
    assert len(process(an_aggregator("1", "trades"), rows)) == 1_000
    with pytest.raises(DataError, match="a trade must close at most 100 bars, would close"):
        process(an_aggregator("0.001"), [(1, 8000, 500, MIDNIGHT, BUY)])


def test_a_trade_that_crosses_is_split_at_the_lot_and_counts_once() -> None:
    aggregator = an_aggregator()
    bars = process(aggregator, [(1, 100, 900, MIDNIGHT, BUY), (2, 200, 1_350, MIDNIGHT + 5, BUY)])
    first, second = bars
    assert (first.volume, first.notional, first.trade_count) == (1000, 900 * 100 + 100 * 200, 2)
    assert (second.volume, second.notional, second.trade_count) == (1000, 1000 * 200, 0)
    assert (second.number, second.first_trade_id, second.last_trade_id, second.open) == (1, 2, 2, 200)
    rest = the_open_bar(aggregator)
    assert (rest.number, rest.volume, rest.trade_count, rest.close_reason) == (2, 250, 0, CloseReason.OPEN)


def test_quote_bars_carry_the_overshoot() -> None:
    # threshold 10 USDT = 1,000,000 ticklots of 0.00001; a lot at 3.00 is 300 ticklots
    aggregator = an_aggregator("10", unit="quote")
    bars = process(aggregator, [(1, 300, 7_000, MIDNIGHT, BUY)])
    # the first bar needs ceil(1,000,000 / 300) = 3334 lots and overshoots by 200, so the second needs
    # ceil(999,800 / 300) = 3333 lots (999,900: overshoot 100)
    assert [bar.volume for bar in bars] == [3334, 3333]
    assert [bar.notional for bar in bars] == [3334 * 300, 3333 * 300]
    assert the_open_bar(aggregator).volume == 7_000 - 3334 - 3333
    assert aggregator.state["progress"][0] == 100 + (7_000 - 3334 - 3333) * 300


def test_a_quote_threshold_below_one_lot_closes_a_bar_a_lot() -> None:
    aggregator = an_aggregator("0.02", unit="quote")  # 2,000 ticklots
    bars = process(aggregator, [(1, 5_000, 3, MIDNIGHT, BUY)])
    assert [bar.volume for bar in bars] == [1, 1, 1]
    assert aggregator.state["progress"][0] == 3 * (5_000 - 2_000)


def test_trade_bars_count_trades_and_split_none() -> None:
    bars = process(an_aggregator("2", unit="trades"), [(i, 100, 10_000 + i, MIDNIGHT + i, BUY) for i in range(1, 6)])
    assert [(bar.trade_count, bar.volume) for bar in bars] == [(2, 20_003), (2, 20_007)]


# --- anchors ------------------------------------------------------------------------------------------------------


def test_the_first_trade_of_a_utc_day_closes_the_open_bar_short() -> None:
    aggregator = an_aggregator()
    bars = process(
        aggregator,
        [
            (1, 100, 1_200, MIDNIGHT - 2, BUY),
            (2, 101, 100, MIDNIGHT - 1, BUY),
            (3, 102, 400, MIDNIGHT, BUY),
        ],
    )
    assert [(bar.day, bar.number, bar.volume, bar.close_reason.name) for bar in bars] == [
        (DAY - 1, 0, 1000, "THRESHOLD"),
        (DAY - 1, 1, 300, "DAY_END"),
    ]
    assert bars[1].close_time == MIDNIGHT - 1
    rest = the_open_bar(aggregator)
    assert (rest.day, rest.number, rest.volume, rest.open) == (DAY, 0, 400, 102)


def test_midnight_emits_nothing_when_no_bar_is_open() -> None:
    aggregator = an_aggregator()
    bars = process(aggregator, [(1, 100, 2_000, MIDNIGHT - 1, BUY), (2, 100, 1, MIDNIGHT, BUY)])
    assert [bar.close_reason.name for bar in bars] == ["THRESHOLD", "THRESHOLD"]
    assert the_open_bar(aggregator).number == 0


def test_midnight_drops_the_carried_overshoot() -> None:
    aggregator = an_aggregator("10", unit="quote")
    process(aggregator, [(1, 300, 3_334, MIDNIGHT - 1, BUY)])
    assert aggregator.state["progress"][0] == 200
    process(aggregator, [(2, 300, 1, MIDNIGHT, BUY)])
    assert aggregator.state["progress"][0] == 300


def test_a_continuous_anchor_knows_no_days() -> None:
    aggregator = an_aggregator(anchor="continuous")
    bars = process(aggregator, [(1, 100, 600, MIDNIGHT - 1, BUY), (2, 100, 600, MIDNIGHT, BUY)])
    assert [(bar.day, bar.number, bar.close_reason.name) for bar in bars] == [(0, 0, "THRESHOLD")]
    assert the_open_bar(aggregator).number == 1


def test_i9_the_number_of_a_bar_begins_anew_at_midnight_and_the_rules_help_says_so() -> None:
    rows = [(number, 100, 1_000, MIDNIGHT + (number - 4) * 1_000, BUY) for number in range(1, 8)]
    assert [bar.number for bar in process(an_aggregator(), rows)] == [0, 1, 2, 0, 1, 2, 3]
    assert [bar.number for bar in process(an_aggregator(anchor="continuous"), rows)] == [0, 1, 2, 3, 4, 5, 6]
    said = " ".join((SignalEngine._detect_signal.__doc__ or "").split())
    assert "`number` of the bar within its UTC day, from 0: **it begins anew at midnight**" in said
    assert "use `state.bars` to count bars" in said


def test_a_trade_of_yesterday_after_midnight_does_not_reopen_the_day() -> None:
    aggregator = an_aggregator()
    bars = process(
        aggregator, [(1, 100, 10, MIDNIGHT, BUY), (2, 100, 10, MIDNIGHT - 1, BUY), (3, 100, 10, MIDNIGHT, BUY)]
    )
    assert bars == []
    assert the_open_bar(aggregator).volume == 30


def test_every_unit_counts_alike_wherever_it_is_read_and_no_other_does() -> None:
    """What isn't known was taken for `quote` in the warm-up, and for `trades` in the profile of a tape."""
    assert tuple(units.UNITS) == get_args(BarSettings.model_fields["unit"].annotation)
    for (unit, amount), wanted in zip(units.UNITS.items(), (7, 700, 1), strict=True):
        threshold, _ = smallest_threshold(unit, an_instrument())
        spec = bar_spec(BarSettings(unit=unit, threshold=threshold), an_instrument())[0]  # type: ignore[arg-type]
        assert amount(100, 7) == uncompiled(_weight)(int(spec["unit"]), 100, 7) == wanted
        of_kline = {"base": 7, "quote": 700}.get(unit)
        assert (unit in KLINE_UNITS) == (of_kline is not None)
        assert of_kline is None or (7, 700)[KLINE_UNITS[unit]] == of_kline
    trades = Trades.from_rows("BTCUSDT", [(1, 100, 7, 5, True), (2, 100, 5, 6, True)])
    assert traded(trades, an_instrument(), "trades") == 2
    for read in (traded, lambda _, instrument, unit: smallest_threshold(unit, instrument)):
        with pytest.raises(KeyError, match="minutes"):
            read(trades, an_instrument(), "minutes")


# --- gaps, duplicates, broken rows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "tainted", "open_tainted"),
    [
        pytest.param([(1, 600, 0), (3, 100, 1), (4, 500, 2)], [True], False, id="the open bar, which goes on"),
        pytest.param([(1, 600, 0), (3, 900, 1)], [True], False, id="only the bar of the first lot"),
        pytest.param([(1, 1000, 0), (3, 100, 1)], [False], True, id="the bar that the trade opens"),
        pytest.param([(1, 600, -1), (3, 100, 1)], [True], True, id="both sides of midnight"),
        pytest.param([(1, 1000, -1), (3, 100, 1)], [False], True, id="after midnight, when none was open"),
        pytest.param([(1, 600, -1), (3, 100, 0), (4, 100, DAY_MS)], [True, True], False, id="not the day after"),
    ],
)
def test_a_jump_of_the_ids_taints(rows: list[tuple[int, int, int]], tainted: list[bool], open_tainted: bool) -> None:
    aggregator = an_aggregator()
    bars = process(aggregator, [(i, 100, lots, MIDNIGHT + offset, BUY) for i, lots, offset in rows])
    assert [bar.tainted for bar in bars] == tainted
    assert the_open_bar(aggregator).tainted == open_tainted
    assert aggregator.gaps == 1


GOOD: list[Row] = [(10, 100, 300, MIDNIGHT, BUY), (11, 101, 300, MIDNIGHT + 1, SELL), (13, 102, 600, MIDNIGHT + 2, BUY)]


@pytest.mark.parametrize(
    ("broken", "invalid", "duplicate"),
    [
        pytest.param((11, 999, 999, MIDNIGHT, BUY), 0, 1, id="duplicate"),
        pytest.param((3, 999, 999, MIDNIGHT, BUY), 0, 1, id="out of order"),
        pytest.param((-1, 999, 999, MIDNIGHT, BUY), 0, 1, id="negative id"),
        pytest.param((12, 0, 5, MIDNIGHT, BUY), 1, 0, id="price zero"),
        pytest.param((12, -5, 5, MIDNIGHT, BUY), 1, 0, id="price negative"),
        pytest.param((12, 5, 0, MIDNIGHT + 9 * DAY_MS, BUY), 1, 0, id="quantity zero, days ahead"),
        pytest.param((12, 5, -7, MIDNIGHT, BUY), 1, 0, id="quantity negative"),
        pytest.param((12, LTC.max_price + 1, 5, MIDNIGHT, BUY), 1, 0, id="price beyond the filter"),
        pytest.param((12, 100, 2**62, MIDNIGHT, BUY), 1, 0, id="notional beyond 64 bits"),
        pytest.param((10**15, 0, 5, MIDNIGHT, BUY), 1, 0, id="broken row with an id far ahead"),
    ],
)
def test_a_trade_that_cannot_be_is_skipped_and_counted(broken: Row, invalid: int, duplicate: int) -> None:
    clean, dirty = an_aggregator(), an_aggregator()
    expected = process(clean, GOOD)
    bars = process(dirty, [*GOOD[:2], broken, *GOOD[2:]])
    seen = broken[0] == 12  # then no id is missing
    assert [bar.tainted for bar in bars] == [not seen]
    assert [(bar.volume, bar.notional, bar.high, bar.low, bar.trade_count) for bar in bars] == [
        (bar.volume, bar.notional, bar.high, bar.low, bar.trade_count) for bar in expected
    ]
    assert (dirty.skipped_invalid, dirty.skipped_duplicate) == (invalid, duplicate)
    assert the_open_bar(dirty).volume == the_open_bar(clean).volume


def test_a_column_that_could_hold_nan_is_refused() -> None:
    good = Trades.from_rows("LTCUSDT", GOOD)
    floats = Trades(good.symbol, good.id, good.price.astype(float), good.quantity, good.time, good.buyer_is_maker)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="price: a column of trades must be 3 of int64, was float64"):
        an_aggregator().process(floats)


@pytest.mark.parametrize(
    ("unit", "threshold", "message"),
    [
        ("base", "0.0005", "threshold: must be a multiple of LTCUSDT's step 0.001"),
        ("quote", "0.000001", "threshold: must be a multiple of LTCUSDT's tick x step 0.00001"),
        ("trades", "1.5", "threshold: must be a multiple of one trade"),
        ("base", "1e15", "threshold: a bar's notional must stay below 2\\^62"),
        ("quote", "1e18", "threshold: must be a multiple of .* below 2\\^61"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(unit: str, threshold: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        an_aggregator(threshold, unit=unit)


def test_a_trade_that_would_close_millions_of_bars_is_refused() -> None:
    with pytest.raises(DataError, match="must close at most"):
        process(an_aggregator("0.001"), [(1, 100, 10**9, MIDNIGHT, BUY)])


# --- properties ---------------------------------------------------------------------------------------------------

UNITS = [("base", Decimal("0.05")), ("quote", Decimal("0.07")), ("trades", Decimal(7))]
ANCHORS = ["utc_day", "continuous"]


@st.composite
def tapes(draw: st.DrawFn) -> list[Row]:
    """Trades with gaps, duplicates, broken rows, trades of many bars, and days that end. Long runs of ordinary ones."""
    rows: list[Row] = []
    trade_id, time, price = draw(st.integers(0, 3)), MIDNIGHT - draw(st.integers(0, 400)), 100
    for _ in range(draw(st.integers(1, 8))):
        ordinary = draw(st.integers(0, 60))
        sizes = draw(st.lists(st.integers(1, 4), min_size=ordinary, max_size=ordinary))
        for size in sizes:
            price = max(1, price + size - 2)
            rows.append((trade_id, price, size, time, size % 2 == 0))
            trade_id, time = trade_id + 1, time + size
        odd = draw(st.sampled_from(["gap", "duplicate", "zero", "negative", "large", "day", "earlier", "none"]))
        quantity = draw(st.integers(1, 300)) if odd == "large" else draw(st.integers(1, 9))
        if odd == "gap":
            trade_id += draw(st.integers(1, 5))
        if odd == "duplicate":
            trade_id = max(0, trade_id - draw(st.integers(1, 5)))
        if odd == "day":
            time = (time // DAY_MS + draw(st.integers(1, 2))) * DAY_MS + draw(st.integers(0, 1))
        quantity = {"zero": 0, "negative": -quantity}.get(odd, quantity)
        rows.append((trade_id, price, quantity, time - (odd == "earlier"), draw(st.booleans())))
        trade_id += 1
    return rows


def in_decimals(rows: list[Row], instrument: Instrument = LTC) -> list[tuple[int, Decimal, Decimal, int, bool]]:
    return [(i, instrument.price(p), instrument.quantity(q), t, m) for i, p, q, t, m in rows]


def as_oracle(bar: VolumeBar, instrument: Instrument = LTC) -> dict[str, Any]:
    """A bar in the oracle's terms."""
    fields = {name: getattr(bar, name) for name in BAR.names or ()}
    fields.update({name: instrument.price(fields[name]) for name in ("open", "high", "low", "close")})
    fields.update({name: instrument.quantity(fields[name]) for name in ("volume", "taker_buy_volume")})
    fields["notional"] = instrument.tick_size * instrument.step_size * bar.notional
    fields["close_reason"] = bar.close_reason.name
    return fields


def all_bars(aggregator: VolumeBarAggregator, closed: list[VolumeBar]) -> list[VolumeBar]:
    rest = the_open_bar(aggregator)
    return [*closed, rest] if rest.volume else closed


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(("unit", "threshold"), UNITS)
@given(rows=tapes())
@example(rows=[(0, 100, 0, MIDNIGHT, False), (2, 100, 1, MIDNIGHT, False)])
@settings(max_examples=40, deadline=None)
def test_bars_equal_a_plain_decimal_fold(unit: str, threshold: Decimal, anchor: str, rows: list[Row]) -> None:
    aggregator = an_aggregator(threshold, unit, anchor)
    bars = all_bars(aggregator, process(aggregator, rows))
    expected = decimal_bars(in_decimals(rows), unit, threshold, anchor, LTC.tick_size, LTC.step_size)
    assert [as_oracle(bar) for bar in bars] == expected


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(("unit", "threshold"), UNITS)
@given(rows=tapes(), cuts=st.lists(st.integers(0, 500), max_size=6), whole=st.booleans())
@settings(max_examples=25, deadline=None)
def test_chunks_and_restarts_change_nothing(
    unit: str, threshold: Decimal, anchor: str, rows: list[Row], cuts: list[int], whole: bool
) -> None:
    once, pieces = an_aggregator(threshold, unit, anchor), an_aggregator(threshold, unit, anchor)
    expected = process(once, rows)
    edges = sorted({0, len(rows), *(cut % len(rows) for cut in cuts)}) if whole else list(range(len(rows) + 1))
    bars: list[VolumeBar] = []
    for start, end in itertools.pairwise(edges):
        bars += process(pieces, rows[start:end])
        restarted = an_aggregator(threshold, unit, anchor)
        restarted.restore(pieces.state_bytes())
        pieces = restarted
    assert bars == expected
    assert pieces.state_bytes() == once.state_bytes()


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(("unit", "threshold"), UNITS)
@given(rows=tapes())
@settings(max_examples=25, deadline=None)
def test_volume_is_conserved(unit: str, threshold: Decimal, anchor: str, rows: list[Row]) -> None:
    aggregator = an_aggregator(threshold, unit, anchor)
    bars = all_bars(aggregator, process(aggregator, rows))
    kept: list[Row] = []
    last = -1
    for row in rows:
        if row[0] > last and row[1] > 0 and row[2] > 0:
            kept.append(row)
        if row[0] > last and (row[2] > 0 or (row[0] == last + 1 and last >= 0)):
            last = row[0]
    assert sum(bar.volume for bar in bars) == sum(q for _, _, q, _, _ in kept)
    assert sum(bar.taker_buy_volume for bar in bars) == sum(q for _, _, q, _, maker in kept if not maker)
    assert sum(bar.notional for bar in bars) == sum(p * q for _, p, q, _, _ in kept)
    assert sum(bar.trade_count for bar in bars) == len(kept)
    assert aggregator.skipped_duplicate + aggregator.skipped_invalid == len(rows) - len(kept)
    if unit == "base":
        assert {bar.volume for bar in bars if bar.close_reason == CloseReason.THRESHOLD} <= {50}


def test_read_only_and_strided_columns_fold_alike() -> None:
    rows = [(i, 100 + i % 7, 1 + i % 90, MIDNIGHT + i, i % 3 == 0) for i in range(500)]
    trades = Trades.from_rows("LTCUSDT", rows)
    strided = Trades.from_rows("LTCUSDT", [row for row in rows for _ in range(2)])[::2]
    for column in (trades.id, trades.price, trades.time):
        column.flags.writeable = False
    first, second = an_aggregator("0.7"), an_aggregator("0.7")
    assert first.process(trades).tobytes() == second.process(strided).tobytes()
    assert first.state_bytes() == second.state_bytes()


def test_a_saved_state_must_be_whole() -> None:
    aggregator = an_aggregator()
    with pytest.raises(DataError, match="a saved state must be"):
        aggregator.restore(aggregator.state_bytes()[:-1])


# --- real trades --------------------------------------------------------------------------------------------------


def read_recording(path: Path) -> list[Row]:
    with gzip.open(path, "rt", newline="") as file:
        return [
            (
                int(row["id"]),
                LTC.ticks(row["price"]),
                LTC.lots(row["qty"]),
                int(row["time"]),
                row["is_buyer_maker"] == "true",
            )
            for row in csv.DictReader(file)
        ]


@pytest.mark.recordings
@pytest.mark.parametrize(("unit", "threshold"), [("base", "250"), ("quote", "20000"), ("trades", "100")])
def test_bars_of_a_real_day_equal_the_decimal_fold(recordings: Path, unit: str, threshold: str) -> None:
    rows = read_recording(next((recordings / "spot_trades").glob("LTCUSDT-*.csv.gz")))
    aggregator = an_aggregator(threshold, unit)
    bars = all_bars(aggregator, process(aggregator, rows))
    expected = decimal_bars(in_decimals(rows), unit, Decimal(threshold), "utc_day", LTC.tick_size, LTC.step_size)
    assert [as_oracle(bar) for bar in bars] == expected
    assert aggregator.gaps == 19
    assert sum(bar.close_reason == CloseReason.DAY_END for bar in bars) == 1
    assert sum(bar.tainted for bar in bars) >= 1
