"""Reading a CSV of trades again, which the store keeps after the first time, against parsing it."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from benchmarks.bench_bars import INSTRUMENT, some_trades
from benchmarks.measure import Goal, exit_status, in_turn, ratio, say, seconds
from voltrade.data import tape
from voltrade.data.store import Store
from voltrade.data.stored_day import Metadata
from voltrade.model import Trades

TRADES = 5_000_000


def write_csv(trades: Trades, path: Path) -> None:
    """Write trades as Binance's archive does."""

    def decimals(counts: np.ndarray, places: int) -> pa.Array:
        whole, part = np.divmod(counts, 10**places)
        texts = (pa.array(value).cast(pa.string()) for value in (whole, part))
        head, tail = texts
        return pa.compute.binary_join_element_wise(head, pa.compute.utf8_lpad(tail, places, "0"), ".")

    table = pa.table(
        {
            "agg_trade_id": trades.id,
            "price": decimals(trades.price, 1),
            "quantity": decimals(trades.quantity, 3),
            "first_trade_id": 2 * trades.id,
            "last_trade_id": 2 * trades.id + 1,
            "transact_time": trades.time,
            "is_buyer_maker": pa.array(np.where(trades.buyer_is_maker, "true", "false")),
        }
    )
    pa.csv.write_csv(table, path, pa.csv.WriteOptions(quoting_style="none"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=TRADES)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    trades = some_trades(given.trades)
    with tempfile.TemporaryDirectory() as name:
        os.environ["VOLTRADE_STORE"] = f"{name}/store"
        path = Path(name) / "BTCUSDT-aggTrades-made.csv"
        write_csv(trades, path)
        store = Store()
        days = store.add_trades(trades, Metadata.of(INSTRUMENT, "made"))
        stored = f"store:BTCUSDT:{days[0].day}:{days[-1].day}"
        kept = tape.load_trades(path, INSTRUMENT)
        assert np.array_equal(kept.trades.quantity, trades.quantity)
        times = in_turn(
            {
                "parsing the CSV": lambda: seconds(lambda: tape._read_trades(path, INSTRUMENT)),
                "loading it again": lambda: seconds(lambda: tape.load_trades(path, INSTRUMENT)),
                "days of the store": lambda: seconds(lambda: tape.stored_trades(stored, INSTRUMENT)),
            },
            given.rounds,
        )
        size = path.stat().st_size / 1e6
    say(f"{len(trades):,} trades, {len(days)} days, {size:,.0f} MB of CSV; medians of {given.rounds} rounds")
    for what, took in times.items():
        say(f"  {what:20} {statistics.median(took):6.2f} s")
    faster = ratio(times, "loading it again", "parsing the CSV")
    say(f"  days of the store / parsing: {ratio(times, 'days of the store', 'parsing the CSV'):.1f}")
    return exit_status([Goal("loading again / parsing", faster, 5)])


if __name__ == "__main__":
    sys.exit(main())
