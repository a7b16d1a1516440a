"""A hundred pairs of averages over fifty thousand bars, with costs, stops and targets, against others.

The bars of ten million trades are there before the clock starts, for everybody. voltrade trades each pair as a backtest
does, on the trades behind the bars: sizes, gates, latency, fills from the tape, exits at trade resolution, a valuation
each minute; and reckons some twenty figures of each. The others see bars alone and give six figures, or theirs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.bench_backtest import config_for, tape_of
from benchmarks.bench_bars import COLUMNS, INSTRUMENT, TRADES, TRADES_A_BAR, some_trades, threshold_for
from benchmarks.measure import Goal, exit_status, in_turn, memory_of, peak_memory, ratio, say, seconds, start_peers
from voltrade.compiled import Record
from voltrade.config import Config
from voltrade.model import Trades
from voltrade.research.prepared_tape import Research
from voltrade.research.sweep import Sweep, sweep
from voltrade.signal_engine import ATR, EMA, SignalEngine

FAST, SLOW = range(5, 55, 5), range(60, 260, 20)
GRID = {"ema_fast": FAST, "ema_slow": SLOW}
PEERS = ("vectorbt", "backtesting")
PRICES = ("open", "high", "low", "close")


class Cross(SignalEngine):
    """In at a cross of two averages, and nothing else."""

    indicators = (EMA, ATR)
    conditions: ClassVar = {"crossed": int}

    @staticmethod
    def _detect_signal(state: Record, bar: Record, settings: Record, decision: Record) -> int:
        crossed: int = state.ema_side if state.ema_side * state.ema_side_before < 0 else 0
        decision.crossed = crossed
        return crossed


def research_of(trades: Trades, lots: int) -> tuple[Research, Config]:
    """Make what is there before the clock starts: bars and mark prices."""
    config = config_for(lots * INSTRUMENT.step_size).changed(stop_atr=4.0, take_profit_atr=8.0)
    research = Research(tape_of(trades))
    research.bars(config.bars)
    research.marks(config)
    return research, config


def run(research: Research, config: Config) -> Sweep:
    return sweep(research, config, GRID, rule=Cross, progress=False)


def measure_memory(folder: Path, lots: int) -> None:
    trades = Trades(INSTRUMENT.symbol, *(np.load(folder / f"{name}.npy") for name in COLUMNS))
    run(*research_of(trades[:100_000], lots))
    research, config = research_of(trades, lots)
    with peak_memory() as grown:
        run(research, config)
    print(*grown)


def say_what_others_did(others: dict[str, Any], counts: dict[str, float], times: dict[str, list[float]]) -> None:
    for name, peer in others.items():
        rate = counts[name] / statistics.median(times[name])
        say(
            f"  {name + ' ' + peer.about['version']:24} {rate:7.1f} settings a second, "
            f"{peer.last['round_trips']:5.0f} round trips each, {peer.last['grown']:,.0f} MiB"
        )


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
    research, config = research_of(trades, lots)
    rows = research.bars(config.bars).rows
    say("compiling what is not compiled yet; later runs find it in the cache")
    began = time.perf_counter()
    found = run(research, config)
    say(f"  the first sweep took {time.perf_counter() - began:.1f} s")
    assert set(found.frame["path"]) == {"compiled"}

    pairs = ",".join(f"{fast}:{slow}" for fast, slow in itertools.product(FAST, SLOW))
    with tempfile.TemporaryDirectory() as home:
        folder, of_bars = Path(home), Path(home) / "bars"
        of_bars.mkdir()
        for name, column in COLUMNS.items():
            np.save(folder / f"{name}.npy", getattr(trades, column))
        for name in PRICES:
            np.save(of_bars / f"{name}.npy", rows[name] * float(INSTRUMENT.tick_size))
        np.save(of_bars / "time.npy", rows["close_time"])
        memory = memory_of("benchmarks.bench_sweep", folder, lots)
        others = {} if given.without_peers else start_peers("peers_sweep.py", PEERS, of_bars, pairs)
        runs = {
            "voltrade": lambda: seconds(lambda: run(research, config)),
            **{name: peer.run for name, peer in others.items()},
        }
        times = in_turn(runs, given.rounds)
        for peer in others.values():
            peer.close()

    counts = {"voltrade": float(found.trials)} | {name: float(peer.about["settings"]) for name, peer in others.items()}
    mine = statistics.median(times["voltrade"])
    say(f"{len(rows):,} bars of {len(trades):,} trades, {found.trials} settings; medians of {given.rounds} rounds")
    say(
        f"  {'voltrade':24} {found.trials / mine:7.1f} settings a second, "
        f"{found.frame['round_trips'].mean():5.0f} round trips each, {memory or np.nan:,.0f} MiB"
    )
    say_what_others_did(others, counts, times)
    goals = []
    if "backtesting" in others:
        say(f"  voltrade / backtesting: {ratio(times, 'voltrade', 'backtesting', counts):.0f}")
    if "vectorbt" in others:
        goals.append(Goal("voltrade / vectorbt", ratio(times, "voltrade", "vectorbt", counts), 10))
        if memory is not None:
            grown = others["vectorbt"].last["grown"]
            goals.append(Goal("memory, of vectorbt's", memory / grown, 0.2, at_most=True))
    return exit_status(goals)


if __name__ == "__main__":
    sys.exit(main())
