"""A symbol's own threshold: bars whose usual stop is worth its costs, from days that are known, or none at all."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.bars import VolumeBarAggregator
from voltrade.config import BarSettings, Config
from voltrade.data import symbol_threshold as thresholds
from voltrade.data.kinds import start_of
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.data.symbol_threshold import (
    BARS_MEASURED,
    RANGE_MEASURED,
    DayFigures,
    bars_by_days,
    bars_with,
    day_by_range,
    measured,
    medians,
    shipped_volumes,
    symbol_threshold,
    threshold_of,
    two_digits_up,
)
from voltrade.data.tape import load_tape, load_trades, synthetic_trades
from voltrade.errors import ConfigError
from voltrade.model import Instrument, Trades
from voltrade.research.backtest import backtest
from voltrade.runs.run_file import with_begun_threshold
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy.rule_file import read_parameters

COSTS = 2 * (0.0005 + 0.00005)
"""Of a round trip at the default fee and slippage, as a part of the price."""


def stop_in_costs(trades: Trades, instrument: Instrument, settings: BarSettings) -> float:
    """Return the median stop of 2 ATR in costs, by Wilder's definition over bars that are really made."""
    bars = VolumeBarAggregator(settings, instrument).process(trades)
    high, low, close = (bars[name].astype(np.float64) for name in ("high", "low", "close"))
    ranges = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    atr = [float(ranges[:14].mean())]
    for now in ranges[14:]:
        atr.append(atr[-1] + (float(now) - atr[-1]) / 14)
    return float(np.median(2 * np.array(atr) / close[14:])) / COSTS


@pytest.mark.parametrize(
    ("symbol", "unit"),
    [("ETHUSDT", "base"), ("ETHUSDT", "quote"), ("ETHUSDT", "trades"), ("LTCUSDT", "base"), ("XRPUSDT", "base")],
)
def test_on_the_synthetic_market_the_usual_stop_is_three_times_the_costs(symbol: str, unit: str) -> None:
    config = read_parameters(symbol=symbol, unit=unit, seed=7)
    instrument = shipped_instrument(symbol)
    trades = synthetic_trades(instrument, 7, 48).trades
    assert 3.0 <= stop_in_costs(trades, instrument, config.bars) < 6.0
    config.check_against(instrument)


def test_the_synthetic_btcusdt_keeps_the_threshold_of_the_examples() -> None:
    assert read_parameters().bars.threshold == 10
    assert symbol_threshold(Config()).source == "that of the examples on the synthetic market"
    assert read_parameters(threshold=25).bars.threshold == 25
    assert read_parameters(threshold=0).bars.threshold == 10
    assert read_parameters(symbol="ETHUSDT", threshold=10).bars.threshold == 10
    for wrong in (False, -1, "250", None, float("nan")):
        with pytest.raises(ConfigError, match="threshold"):
            read_parameters(threshold=wrong)


def test_a_wider_stop_allows_smaller_bars_and_dearer_trades_want_larger_ones() -> None:
    usual = read_parameters(symbol="ETHUSDT").bars.threshold
    assert read_parameters(symbol="ETHUSDT", stop_atr=4.0).bars.threshold < usual
    assert read_parameters(symbol="ETHUSDT", slippage_bps=5.0).bars.threshold > usual


def test_ethusdt_alone_trades() -> None:
    """With the threshold of BTCUSDT it made 23,437 bars, 1,178 refusals as too tight, and no trade."""
    config = read_parameters(symbol="ETHUSDT")
    made = backtest(load_tape(config.session, shipped_instrument("ETHUSDT")), config).frames()
    assert 500 < len(made.bars) < 2_000
    assert len(made.round_trips) >= 10
    assert (made.refusals["code"] == "STOP_TOO_TIGHT").sum() <= 3


# --- by mode ----------------------------------------------------------------------------------------------------------


def test_paper_takes_what_is_shipped_and_demo_and_live_name_it() -> None:
    own = symbol_threshold(Config.from_parameters(mode="paper"))
    assert read_parameters(mode="paper").bars.threshold == own.threshold == 730
    assert "three recordings of 6 to 9 minutes of 2023 and 2024" in own.source
    for mode in ("demo", "live"):
        rule = (
            f"threshold: must be given in mode {mode}, was none; BTCUSDT's own would be 730, for at most 280 bars a day"
        )
        with pytest.raises(ConfigError, match=rule):
            read_parameters(mode=mode)
        assert read_parameters(mode=mode, threshold=700).bars.threshold == 700
        assert read_parameters(mode=mode, makes_bars=False).session.mode == mode


@pytest.mark.parametrize("mode", ["paper", "demo", "live"])
def test_a_symbol_of_which_nothing_is_known_is_refused_by_name(mode: str) -> None:
    with pytest.raises(ConfigError, match=r"threshold: must be given for WLDUSDT: .* data fetch WLDUSDT --days 28"):
        read_parameters(mode=mode, symbol="WLDUSDT")


@pytest.mark.parametrize(
    ("symbol", "threshold"),
    [("ETHUSDT", 5_000), ("SOLUSDT", 30_000), ("LTCUSDT", 6_500), ("BNBUSDT", 4_700), ("DOGEUSDT", 3_600_000)],
)
def test_a_symbol_with_a_recorded_day_trades_by_it_and_says_how_old_it_is(symbol: str, threshold: int) -> None:
    assert read_parameters(mode="paper", symbol=symbol).bars.threshold == threshold
    source = symbol_threshold(Config.from_parameters(mode="paper", symbol=symbol)).source
    assert f"the shipped volume of {symbol}: the 24 hours to 2022-06-09 17:22 UTC" in source
    with pytest.raises(ConfigError, match=f"threshold: must be given in mode live, was none; {symbol}'s own would be"):
        read_parameters(mode="live", symbol=symbol)


def test_each_shipped_row_gives_a_threshold() -> None:
    for symbol, row in shipped_volumes().items():
        own = read_parameters(mode="paper", symbol=symbol).bars.threshold
        assert own % Decimal(row["step"]) == 0
        assert row["measured_on"].startswith(f"the shipped volume of {symbol}: ")


def test_a_symbol_that_no_tape_can_have_is_refused_as_such(tmp_path: Path) -> None:
    tape = tmp_path / "trades.csv"
    tape.write_text("id,price,qty,time,is_buyer_maker\n")
    for name in ("synthetic", str(tape)):
        with pytest.raises(ConfigError, match=r"^symbol: must be one of the shipped BTCUSDT, .*, was DOGEUSDT"):
            read_parameters(symbol="DOGEUSDT", tape=name)
    with pytest.raises(ConfigError, match=r"^threshold: must be given for LTCUSDT: trades\.csv"):
        read_parameters(symbol="LTCUSDT", tape=str(tape))


def test_a_symbol_that_hardly_moves_has_no_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**shipped_volumes()["BTCUSDT"], "atr_bps": [2.0, 1.4, 1.0, 0.7, 0.5, 0.4, 0.3]}
    monkeypatch.setattr(thresholds, "shipped_volumes", lambda: {"USDCUSDT": row})
    with pytest.raises(
        ConfigError, match=r"moves 2\.0 bps a bar in 50 bars can't have 24 bars with a stop of 3 x the cost"
    ):
        read_parameters(mode="paper", symbol="USDCUSDT")


# --- by days of the store ---------------------------------------------------------------------------------------------

FIRST = date(2026, 1, 1)


def a_day(instrument: Instrument, day: date, lots: int, first_id: int, moves: int) -> Trades:
    """Return 6,000 trades of a day, of so many lots each, whose price swings by so many ticks around 2,000."""
    count = np.arange(6_000)
    return Trades(
        instrument.symbol,
        id=first_id + count,
        price=200_000 + np.rint(moves * np.sin(count / 9)).astype(np.int64),
        quantity=np.full(len(count), lots),
        time=start_of(day) + count * 14_400,
        buyer_is_maker=count % 2 == 0,
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with 30 whole days of ETHUSDT and one that isn't: the volume grows from day to day."""
    monkeypatch.setenv("VOLTRADE_STORE", str(tmp_path / "store"))
    store, instrument = Store(), an_instrument("ETHUSDT", tick="0.01", step="0.001")
    for number in range(31):
        whole = number < 30
        day = a_day(instrument, FIRST + timedelta(number), 1_000 + number, 1 + number * 6_000, 2_000)
        store.add_trades(day, replace(Metadata.of(instrument, "made"), begins=whole, ends=whole))
    return store


def test_the_store_tells_by_the_median_of_its_last_28_whole_days(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.from_parameters(mode="paper", symbol="ETHUSDT")
    own = symbol_threshold(config)
    assert own.source.endswith("by the median of 28 whole days of the store, 2026-01-03 to 2026-01-30")
    figures, step, _ = thresholds._figures(config)
    assert (figures.base, figures.trades, step) == (6 * (1_000 + 15.5), 6_000, Decimal("0.001"))
    assert figures.quote == pytest.approx(6 * 1_015.5 * 2_000, rel=1e-3)
    assert own.threshold == two_digits_up(figures.base / thresholds._bars_a_day(figures, config), step)
    # A second look reads no trades.
    monkeypatch.setattr(Store, "rows", lambda *_: pytest.fail("days were measured before"))
    assert symbol_threshold(config) == own
    assert read_parameters(tape="store:ETHUSDT:2026-01-01", symbol="ETHUSDT").bars.threshold == own.threshold
    with pytest.raises(ConfigError, match=f"ETHUSDT's own would be {own.threshold:f}"):
        read_parameters(mode="live", symbol="ETHUSDT")


# --- by a tape --------------------------------------------------------------------------------------------------------


@pytest.mark.recordings
def test_a_file_is_measured_itself(recordings: Path) -> None:
    tape = recordings / "spot_trades/LTCUSDT-spot-aggTrades-20250621T1204-20250622T1059.csv.gz"
    config, instrument = read_parameters(symbol="LTCUSDT", tape=str(tape)), shipped_instrument("LTCUSDT")
    assert symbol_threshold(config).source.endswith("by 22.9 h of the tape")
    assert 3.0 <= stop_in_costs(load_trades(tape, instrument).trades, instrument, config.bars) < 4.0


def test_whole_days_of_a_tape_count_and_those_at_its_edges_do_not() -> None:
    instrument = an_instrument("ETHUSDT", tick="0.01", step="0.001")
    days = [a_day(instrument, FIRST + timedelta(number), 1_000, 1 + number * 6_000, 2_000) for number in range(4)]
    own = threshold_of(Trades.join(days), instrument, Config.from_parameters(symbol="ETHUSDT"))
    assert own.source.endswith("by the tape's last 2 whole days")
    with pytest.raises(ConfigError, match="a tape of 20 trades is too short to measure how far the price moves"):
        threshold_of(days[0][:20], instrument, Config.from_parameters(symbol="ETHUSDT"))


@pytest.mark.recordings
def test_the_shipped_volumes_are_those_of_the_recordings(recordings: Path) -> None:
    btc, row = shipped_instrument("BTCUSDT"), shipped_volumes()["BTCUSDT"]
    volumes = []
    for path in sorted((recordings / "usdm_trades").glob("*.csv.gz")):
        trades = load_trades(path, btc).trades
        a_day = 86_400_000 / float(trades.time[-1] - trades.time[0])
        notional = float((trades.price * trades.quantity).sum()) * 1e-4
        volumes.append([float(trades.quantity.sum()) * 1e-3 * a_day, notional * a_day, len(trades) * a_day])
    assert [row["base"], row["quote"], row["trades"]] == pytest.approx(np.median(volumes, axis=0).tolist(), rel=1e-6)

    import pyarrow.parquet as parquet

    spot = parquet.read_table(recordings / "spot_trades/BTCUSDT-spot-trades-noside-2022-01-15.parquet").to_pydict()
    prices = np.rint(np.array(spot["price"]) * 100).astype(np.int64)
    lots = np.rint(np.array(spot["quantity"]) * 100_000).astype(np.int64)
    assert row["atr_bps"] == pytest.approx(thresholds._ranges(prices, lots, 1.0), abs=0.01)


def range_of(high: float, low: float, close: float) -> float:
    return (high - low) / close


def recorded_tickers(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the 24-hour tickers that were recorded on 2022-06-09, by symbol."""
    lines = (folder / "messages/unicorn_fy_usdm_messages.jsonl").read_text().splitlines()
    [found] = [line["message"] for line in map(json.loads, lines) if line["test"] == "test_ticker_arr"]
    return {row["s"]: row for row in found}


def listed_steps(folder: Path) -> dict[str, str]:
    """Return the step of each perpetual in USDT that traded in 2025-12."""
    info = json.loads(gzip.decompress((folder / "rest/exchangeInfo-usdm-20251215.json.gz").read_bytes()))
    wanted = {"status": "TRADING", "contractType": "PERPETUAL", "quoteAsset": "USDT"}
    rows = [row for row in info["symbols"] if wanted.items() <= row.items()]
    return {
        row["symbol"]: next(each["stepSize"] for each in row["filters"] if each["filterType"] == "LOT_SIZE")
        for row in rows
    }


@pytest.mark.recordings
def test_the_other_shipped_volumes_are_those_of_recorded_tickers(recordings: Path) -> None:
    """Volume and trades of a symbol are its ticker's; its bars range as BTCUSDT's, by how far the day went in each.

    A day that went further than twice BTCUSDT's of that day counts as that, so that the stop is rather too wide; one
    that went more than 10 % is left out, as its volume is no usual one. The ticker counts single trades, of which 0.49
    make an aggTrade, as in BTCUSDT's recordings.
    """
    import pyarrow.parquet as parquet

    path = recordings / "spot_trades/BTCUSDT-spot-trades-noside-2022-01-15.parquet"
    spot = [float(price) for price in parquet.read_table(path).to_pydict()["price"]]
    assert range_of(max(spot), min(spot), spot[-1]) == pytest.approx(RANGE_MEASURED, rel=1e-3)
    shipped, tickers, steps = dict(shipped_volumes()), recorded_tickers(recordings), listed_steps(recordings)
    del shipped["BTCUSDT"]
    went = {name: range_of(*(float(row[key]) for key in "hlc")) for name, row in tickers.items()}
    usual = {name for name in tickers.keys() & steps.keys() - {"BTCUSDT"} if went[name] <= 0.1}
    assert shipped.keys() == usual
    assert len(usual) == 73
    for name, row in shipped.items():
        ticker = tickers[name]
        day = day_by_range(float(ticker["v"]), float(ticker["q"]), ticker["n"], min(went[name], 2 * went["BTCUSDT"]))
        assert (row["base"], row["quote"], row["step"]) == (day.base, day.quote, steps[name])
        assert row["trades"] == pytest.approx(day.trades, abs=0.1)
        assert row["atr_bps"] == pytest.approx(day.atr_bps, abs=0.05)


@pytest.mark.recordings
def test_bars_of_another_symbol_do_range_as_btcusdts_by_how_far_the_day_went(recordings: Path) -> None:
    """The one symbol of which a day was recorded, LTCUSDT on spot: within 14 % of what its range tells."""
    [path] = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    trades = load_trades(path, shipped_instrument("LTCUSDT")).trades
    days = float(trades.time[-1] - trades.time[0]) / 86_400_000
    went = range_of(float(trades.price.max()), float(trades.price.min()), float(trades.price[-1]))
    expected = day_by_range(0.0, 0.0, 0, went).atr_bps
    assert thresholds._ranges(trades.price, trades.quantity, days) == pytest.approx(expected, rel=0.14)


def test_a_threshold_is_judged_by_the_days_that_an_exchange_tells() -> None:
    """8,000,000 coins a day at 5,000 are 1,600 bars; on a day as BTCUSDT's was they range over 6.23 bps.

    The usual stop is 12.46 bps, of 11 bps of costs. On three times the range it is 3.4 times the costs.
    """
    config, step = Config.from_parameters(mode="paper", symbol="ETHUSDT"), Decimal("0.001")

    def told(went: float, threshold: int) -> str:
        days = [day_by_range(float(8_000_000 * n), 0.0, 9_000_000, went) for n in (1, 1, 5)]
        return bars_by_days(days, Decimal(threshold), step, config)

    calm = told(RANGE_MEASURED, 5_000)
    assert calm.startswith("about 1,600 at 5000 by the median of 3 days, with a usual stop of 1.1 x the costs: ")
    wider = int(calm.rpartition(": ")[2].partition(" ")[0])
    assert "with a usual stop of 3." in told(RANGE_MEASURED, wider)
    assert told(3 * RANGE_MEASURED, 5_000).endswith("with a usual stop of 3.4 x the costs")
    assert told(RANGE_MEASURED / 200, 5_000).endswith(
        "0.0 x the costs, which no threshold makes 3: it moves too little"
    )


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_day_is_measured_as_by_hand() -> None:
    instrument = an_instrument("ETHUSDT", tick="0.01", step="0.001")
    trades = a_day(instrument, FIRST, 1_000, 1, 0)
    jumps = np.arange(6_000) % 2 * 200  # each trade is 10 bps above or below the one before
    figures = measured(replace(trades, price=200_000 + jumps), instrument.tick_size, instrument.step_size)
    assert (figures.base, figures.trades) == (6_000.0, 6_000.0)
    assert figures.quote == pytest.approx(6_000 * 2_001)
    assert figures.atr_bps == pytest.approx([10.0] * len(BARS_MEASURED), rel=1e-3)


def test_bars_are_ten_trades_each_however_far_the_price_moves() -> None:
    wild = DayFigures(1_000.0, 2e6, 600.0, (5_000.0,) * len(BARS_MEASURED))
    assert thresholds._bars_a_day(wild, Config()) == 60
    assert thresholds._bars_a_day(replace(wild, trades=240.0), Config()) == 24
    with pytest.raises(ConfigError, match=r"a day of 239 trades .* can't have 24 bars"):
        thresholds._bars_a_day(replace(wild, trades=239.0), Config())


@pytest.mark.parametrize(
    ("wanted", "bars"),
    [(64.0, 50), (16.0, 200), (8.0, 400), (128.0, 12.5), (2.0, 3_200), (0.5, 3_200), (0.0, 3_200), (32.0, 100)],
)
def test_bars_for_a_range_are_read_from_the_measured_ones(wanted: float, bars: float) -> None:
    assert bars_with(wanted, (64.0, 32.0, 16.0, 8.0, 6.0, 4.0, 2.0)) == pytest.approx(bars)


def test_between_measured_numbers_of_bars_logarithms_are_interpolated() -> None:
    root = tuple(100 / float(bars) ** 0.5 for bars in BARS_MEASURED)  # a random walk's
    assert bars_with(100 / 300**0.5, root) == pytest.approx(300)
    assert bars_with(100 / 25**0.5, root) == pytest.approx(25)


@pytest.mark.parametrize(
    ("amount", "smallest", "rounded"),
    [
        (697.2, "0.001", "700"),
        (690.0, "0.001", "690"),
        (0.123, "0.001", "0.13"),
        (0.0123, "0.001", "0.013"),
        (0.0003, "0.001", "0.001"),
        (99.5, "0.1", "100"),
        (123_456, "1", "130000"),
        (7.3, "1", "8"),
        (0.5, "5", "5"),
    ],
)
def test_two_digits_and_a_multiple_of_the_step(amount: float, smallest: str, rounded: str) -> None:
    assert two_digits_up(amount, Decimal(smallest)) == Decimal(rounded)


@given(st.floats(1e-4, 1e12), st.sampled_from(["1e-8", "0.001", "0.1", "1", "10"]))
def test_a_rounded_threshold_is_never_smaller_and_at_most_a_tenth_larger(amount: float, smallest: str) -> None:
    step, rounded = Decimal(smallest), two_digits_up(amount, Decimal(smallest))
    assert rounded >= Decimal(amount)
    assert rounded % step == 0
    assert rounded - Decimal(amount) <= max(Decimal(amount) / 10, step)


def test_medians_are_taken_of_each_figure() -> None:
    days = [DayFigures(float(n), float(10 * n), float(-n), (float(n),) * 7) for n in (5, 1, 3)]
    assert medians(days) == DayFigures(3.0, 30.0, -3.0, (3.0,) * 7)


# --- a run that is resumed --------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_the_threshold_that_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"state": "running", "parameters": {"threshold": 640}}))
    cases: list[tuple[dict[str, Any], Path | None, object]] = [
        ({"threshold": 0}, tmp_path, 640),
        ({}, tmp_path, 640),
        ({"threshold": 25}, tmp_path, 25),  # refused later, since it differs
        ({"threshold": 0}, None, 0),
    ]
    for given_, folder, threshold in cases:
        assert with_begun_threshold(given_, folder)["threshold"] == threshold
    assert with_begun_threshold({}, tmp_path / "other") == {}
