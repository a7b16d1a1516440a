"""What others take to make volume bars of the same trades; run in the environment of the peers, not in ours.

Some of them want other versions of numpy, numba and pandas than voltrade. So each runs in a process of its own,
`python peers.py NAME FOLDER THRESHOLD`: it loads the columns that the folder holds as .npy files, says `ready` and its
version, and then times one run for each line that it reads. What a library needs its trades to be (a frame, objects) is
made before, and not counted.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, Any]
"""id, price (ticks), quantity (lots), time (ms), maker; and tick and step as floats."""

MOST_OBJECTS = 1_000_000
"""Trades that are given as one object each: ten million would fill the memory."""


def finmlkit(columns: Columns, threshold: int) -> tuple[Callable[[], int], int]:
    from finmlkit.bar.data_model import TradesData
    from finmlkit.bar.kit import VolumeBarKit

    trades = TradesData(
        columns["time"],
        columns["price"] * 0.1,
        columns["quantity"] * 0.001,
        id=columns["id"],
        is_buyer_maker=columns["maker"],
        timestamp_unit="ms",
    )
    return lambda: len(VolumeBarKit(trades, threshold * 0.001).build_ohlcv()), len(columns["id"])


def polars(columns: Columns, threshold: int) -> tuple[Callable[[], int], int]:
    import polars as pl

    frame = pl.DataFrame({name: columns[name] for name in ("id", "price", "quantity", "time", "maker")})
    price, quantity = pl.col("price"), pl.col("quantity")
    bars = (
        frame.lazy()
        .with_columns(bar=(quantity.cum_sum() - 1) // threshold)
        .group_by("bar", maintain_order=True)
        .agg(
            pl.col("time").first().alias("open_time"),
            pl.col("time").last().alias("close_time"),
            price.first().alias("open"),
            price.max().alias("high"),
            price.min().alias("low"),
            price.last().alias("close"),
            quantity.sum().alias("volume"),
            quantity.filter(~pl.col("maker")).sum().alias("taker_buy_volume"),
            (price * quantity).sum().alias("notional"),
            pl.len().alias("trade_count"),
        )
    )
    return lambda: bars.collect().height, len(columns["id"])


def pandas(columns: Columns, threshold: int) -> tuple[Callable[[], int], int]:
    import pandas as pd

    frame = pd.DataFrame({name: columns[name] for name in ("id", "price", "quantity", "time", "maker")})

    def run() -> int:
        bought = frame["quantity"].where(~frame["maker"], 0)
        given = frame.assign(bought=bought, notional=frame["price"] * frame["quantity"])
        grouped = given.groupby((frame["quantity"].cumsum() - 1) // threshold, sort=False)
        bars = grouped.agg(
            open_time=("time", "first"),
            close_time=("time", "last"),
            open=("price", "first"),
            high=("price", "max"),
            low=("price", "min"),
            close=("price", "last"),
            volume=("quantity", "sum"),
            taker_buy_volume=("bought", "sum"),
            notional=("notional", "sum"),
            trade_count=("id", "size"),
        )
        return len(bars)

    return run, len(columns["id"])


def nautilus_ticks(instrument: Any, columns: Columns) -> list[Any]:
    """Its trades, each an object: no more of them than fit in memory. Lots are given to it as whole coins."""
    from nautilus_trader.model.data import TradeTick
    from nautilus_trader.model.enums import AggressorSide
    from nautilus_trader.model.identifiers import TradeId
    from nautilus_trader.model.objects import Price, Quantity

    names = ("id", "price", "quantity", "time", "maker")
    rows = zip(*(columns[name][:MOST_OBJECTS].tolist() for name in names), strict=True)
    return [
        TradeTick(
            instrument.id,
            Price(price * 0.1, instrument.price_precision),
            Quantity(float(lots), instrument.size_precision),
            AggressorSide.SELLER if maker else AggressorSide.BUYER,
            TradeId(str(number)),
            at * 1_000_000,
            at * 1_000_000,
        )
        for number, price, lots, at, maker in rows
    ]


def nautilus_trader(columns: Columns, threshold: int) -> tuple[Callable[[], int], int]:
    from nautilus_trader.data.aggregation import VolumeBarAggregator
    from nautilus_trader.model.data import BarSpecification, BarType
    from nautilus_trader.model.enums import AggregationSource, BarAggregation, PriceType
    from nautilus_trader.test_kit.providers import TestInstrumentProvider

    instrument = TestInstrumentProvider.btcusdt_perp_binance()
    kind = BarType(
        instrument.id,
        BarSpecification(threshold, BarAggregation.VOLUME, PriceType.LAST),
        AggregationSource.INTERNAL,
    )
    ticks = nautilus_ticks(instrument, columns)

    def run() -> int:
        bars: list[Any] = []
        aggregator = VolumeBarAggregator(instrument, kind, bars.append)
        for tick in ticks:
            aggregator.handle_trade_tick(tick)
        return len(bars)

    return run, len(ticks)


PEERS = {peer.__name__: peer for peer in (finmlkit, polars, pandas, nautilus_trader)}


def load(folder: str) -> Columns:
    return {file.stem: np.load(file) for file in Path(folder).glob("*.npy")}


def serve(
    about: dict[str, Any], run: Callable[[], dict[str, Any]], prepare: Callable[[], object] = lambda: None
) -> None:
    """Say what this is, then time a run for each line read, and say what it came to; `prepare` is not timed."""
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        prepare()
        gc.collect()
        began = time.perf_counter()
        found = run()
        print(json.dumps({"seconds": time.perf_counter() - began, **found}), flush=True)


def main() -> None:
    name, folder, threshold = sys.argv[1:]
    run, count = PEERS[name](load(folder), int(threshold))
    serve({"version": version(name), "trades": count}, lambda: {"bars": run()})


if __name__ == "__main__":
    main()
