"""The synthetic market: the same on every machine, and like the real one in what a volume-bar strategy sees."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.data.tape import SYNTHETIC_START_MS, load_trades, synthetic_trades
from voltrade.errors import DataError
from voltrade.model import DAY_MS, Instrument, Trades

SEEDS = (7, 8, 20_260_105)


# --- what was measured ----------------------------------------------------------------------------------------------


def autocorrelation(values: npt.NDArray[np.float64], lag: int) -> float:
    centred = values - values.mean()
    return float(np.mean(centred[lag:] * centred[:-lag]) / np.var(values))


def returns(trades: Trades, seconds: int) -> npt.NDArray[np.float64]:
    """Log returns of the last price of each interval."""
    ends = np.arange(trades.time[0] + 1000 * seconds, trades.time[-1], 1000 * seconds)
    return np.diff(np.log(trades.price[np.searchsorted(trades.time, ends) - 1]))


def kurtosis(values: npt.NDArray[np.float64]) -> float:
    return float(np.mean((values - values.mean()) ** 4) / np.var(values) ** 2)


def statistics(trades: Trades) -> dict[str, float]:
    """What the generator is calibrated on: none depends on the price level or on the number of trades a second."""
    takers = np.where(trades.buyer_is_maker, -1.0, 1.0)
    a_second = np.bincount((trades.time - trades.time[0]) // 1000)
    sizes = trades.quantity / trades.quantity.mean()
    by_10_s = returns(trades, 10)
    return {
        "same ms": float(np.mean(np.diff(trades.time) == 0)),
        "most in a ms": float(np.unique(trades.time, return_counts=True)[1].max()),
        "burstiness": float(a_second.var() / a_second.mean()),
        "side ac 1": autocorrelation(takers, 1),
        "side ac 10": autocorrelation(takers, 10),
        "side ac 50": autocorrelation(takers, 50),
        "median size": float(np.median(sizes)),
        "size q99": float(np.quantile(sizes, 0.99)),
        "size q99.9": float(np.quantile(sizes, 0.999)),
        "same price": float(np.mean(np.diff(trades.price) == 0)),
        "price ac 1": autocorrelation(np.diff(trades.price).astype(float), 1),
        "1 s kurtosis": kurtosis(returns(trades, 1)),
        "10 s kurtosis": kurtosis(by_10_s),
        "10 s |return| ac 1": autocorrelation(np.abs(by_10_s), 1),
        "10 s |return| ac 5": autocorrelation(np.abs(by_10_s), 5),
        "10 s return ac 1": autocorrelation(by_10_s, 1),
    }


BANDS = {  # lowest and highest that is like the recordings
    "same ms": (0.10, 0.55),
    "most in a ms": (30, 200),
    "burstiness": (6, 200),
    "side ac 1": (0.35, 0.65),
    "side ac 10": (0.08, 0.45),
    "side ac 50": (0.03, 0.30),
    "median size": (0.07, 0.16),
    "size q99": (12, 18),
    "size q99.9": (40, 90),
    "same price": (0.25, 0.55),
    "price ac 1": (-0.20, 0.30),
    "1 s kurtosis": (12, 120),
}

HOURS_BANDS = {  # what takes hours to see; of the recordings only LTCUSDT's is long enough
    "10 s kurtosis": (6, 60),
    "10 s |return| ac 1": (0.15, 0.40),
    "10 s |return| ac 5": (0.10, 0.35),
    "10 s return ac 1": (-0.10, 0.12),
}


def outside(measured: dict[str, float], bands: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {name: measured[name] for name, (low, high) in bands.items() if not low <= measured[name] <= high}


@pytest.mark.parametrize("seed", SEEDS)
def test_synthetic_tapes_lie_within_the_bands(btcusdt: Instrument, seed: int) -> None:
    measured = statistics(synthetic_trades(btcusdt, seed, 8).trades)
    assert not outside(measured, BANDS | HOURS_BANDS)


@pytest.mark.recordings
def test_so_do_the_recordings(recordings: Path, btcusdt: Instrument, ltcusdt: Instrument) -> None:
    clips = sorted((recordings / "usdm_trades").glob("*.csv.gz"))
    assert [outside(statistics(load_trades(clip, btcusdt).trades), BANDS) for clip in clips] == [{}, {}, {}]
    (long,) = (recordings / "spot_trades").glob("LTCUSDT*.csv.gz")
    assert not outside(statistics(load_trades(long, ltcusdt).trades), BANDS | HOURS_BANDS)


# --- what holds for every seed --------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), hours=st.floats(0.05, 3), symbol=st.sampled_from(["BTCUSDT", "LTCUSDT", "ODDUSDT"]))
@settings(max_examples=25, deadline=None)
def test_every_tape_is_sound(seed: int, hours: float, symbol: str) -> None:
    tape = synthetic_trades(an_instrument(symbol, tick="0.01"), seed, hours)
    trades = tape.trades
    assert tape.synthetic
    assert np.array_equal(trades.id, np.arange(1, len(trades) + 1))
    assert (np.diff(trades.time) >= 0).all()
    assert trades.time[0] >= SYNTHETIC_START_MS
    assert trades.time[-1] < SYNTHETIC_START_MS + round(hours * 3_600_000)
    assert (trades.price > 0).all()
    assert (trades.quantity > 0).all()
    assert {column.dtype.name for column in (trades.id, trades.price, trades.quantity, trades.time)} == {"int64"}


def test_a_seed_is_one_tape_on_every_machine(btcusdt: Instrument) -> None:
    assert fingerprint(synthetic_trades(btcusdt, 7, 8).trades) == "e06de31f5eeee71d"
    assert fingerprint(synthetic_trades(btcusdt, 8, 8).trades) != "e06de31f5eeee71d"


def fingerprint(trades: Trades) -> str:
    columns = (trades.id, trades.price, trades.quantity, trades.time, trades.buyer_is_maker)
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_hours_suit_the_default_settings(btcusdt: Instrument, seed: int) -> None:
    """About 500 bars of 20 BTC, across a midnight, in 60,000 to 120,000 trades that move both ways."""
    trades = synthetic_trades(btcusdt, seed, 8).trades
    assert 60_000 < len(trades) < 120_000
    assert 425 < trades.quantity.sum() / 20_000 < 575
    assert trades.time[-1] // DAY_MS == trades.time[0] // DAY_MS + 1
    assert 0.008 < np.std(returns(trades, 60)) * np.sqrt(60) < 0.014  # an hour's volatility


def test_too_short_a_tape_is_refused(btcusdt: Instrument) -> None:
    with pytest.raises(DataError, match="hours: a synthetic tape must be long enough for a trade, was 1e-07"):
        synthetic_trades(btcusdt, 7, 1e-7)
