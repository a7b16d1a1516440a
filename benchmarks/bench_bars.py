"""The bar fold on ten million trades, against the limit (numpy reads the columns) and against others.

voltrade's fold is the one that trades: every field, exact splits at the threshold, each trade checked. The others give
what they give: floats, whole trades, no checks, and finmlkit no taker volume. Their bars are counted, to see that the
work is the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np

from benchmarks.measure import Goal, exit_status, in_turn, memory_of, peak_memory, ratio, say, seconds, start_peers
from voltrade.bars import VolumeBarAggregator
from voltrade.compiled import Rows
from voltrade.config import BarSettings
from voltrade.data.synthetic import TRADES_PER_HOUR, synthetic_market
from voltrade.data.tape import SYNTHETIC_START_MS
from voltrade.model import Trades
from voltrade.simulated.symbols import shipped_instrument

INSTRUMENT = shipped_instrument("BTCUSDT")
TRADES = 10_000_000
TRADES_A_BAR = 200
OTHER_SIZES = (1_000, 50, 10)
PEERS = ("finmlkit", "polars", "pandas", "nautilus_trader")
GOALS = {"finmlkit": 5, "polars": 8, "nautilus_trader": 80}


def some_trades(count: int) -> Trades:
    trades = synthetic_market(INSTRUMENT, 8, 1.1 * count / TRADES_PER_HOUR + 1, SYNTHETIC_START_MS)[:count]
    assert len(trades) == count
    return trades


def threshold_for(trades: Trades, trades_a_bar: int) -> int:
    """Lots of a bar that holds so many trades."""
    return round(float(trades.quantity.mean()) * trades_a_bar)


def process(trades: Trades, lots: int) -> Rows:
    settings = BarSettings(threshold=Decimal(lots) * INSTRUMENT.step_size)
    return VolumeBarAggregator(settings, INSTRUMENT).process(trades)


def limit(trades: Trades) -> None:
    for column in (trades.id, trades.price, trades.quantity, trades.time):
        column.sum()


COLUMNS = {"id": "id", "price": "price", "quantity": "quantity", "time": "time", "maker": "buyer_is_maker"}
"""Names of the files that hold a tape for other processes."""


def measure_memory(folder: Path, lots: int) -> None:
    trades = Trades(INSTRUMENT.symbol, *(np.load(folder / f"{name}.npy") for name in COLUMNS))
    process(trades[:1000], lots)
    with peak_memory() as grown:
        process(trades, lots)
    print(*grown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=TRADES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        measure_memory(Path(given.memory[0]), int(given.memory[1]))
        return 0
    trades = some_trades(given.trades)
    lots = threshold_for(trades, TRADES_A_BAR)
    bars = process(trades, lots)
    say(f"{len(trades):,} trades, {len(bars):,} bars of {TRADES_A_BAR} trades; medians of {given.rounds} rounds")

    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        for name, column in COLUMNS.items():
            np.save(folder / f"{name}.npy", getattr(trades, column))
        memory = memory_of("benchmarks.bench_bars", folder, lots)
        others = {} if given.without_peers else start_peers("peers.py", PEERS, folder, lots)
        runs = {
            "limit": lambda: seconds(lambda: limit(trades)),
            "voltrade": lambda: seconds(lambda: process(trades, lots)),
            **{name: peer.run for name, peer in others.items()},
        }
        times = in_turn(runs, given.rounds)
        for peer in others.values():
            peer.close()

    counts = {name: float(others[name].about["trades"] if name in others else len(trades)) for name in runs}
    goals = [Goal("voltrade / limit", ratio(times, "voltrade", "limit"), 0.30)]
    for name, took in times.items():
        rate = counts[name] / statistics.median(took) / 1e6
        version = f" {others[name].about['version']}, {others[name].last['bars']:,} bars" if name in others else ""
        say(f"  {name + version:44} {rate:8.1f} million trades a second")
    for name in others:
        faster = ratio(times, "voltrade", name, counts)
        if name in GOALS:
            goals.append(Goal(f"voltrade / {name}", faster, GOALS[name]))
        else:
            say(f"  voltrade / {name}: {faster:.1f}")
    if memory is not None:
        goals.append(Goal("extra memory, MiB", memory, 32, at_most=True))

    for size in OTHER_SIZES:
        small = threshold_for(trades, size)
        runs = {
            "limit": lambda: seconds(lambda: limit(trades)),
            "voltrade": lambda small=small: seconds(lambda: process(trades, small)),  # type: ignore[misc]
        }
        say(f"  bars of {size:5,} trades: {ratio(in_turn(runs, given.rounds), 'voltrade', 'limit'):.3f} of the limit")
    return exit_status(goals)


if __name__ == "__main__":
    sys.exit(main())
