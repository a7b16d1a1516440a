"""A whole backtest of ten million trades, from the trades in memory to the round trips, against others.

voltrade checks the tape, folds the bars, computes the signals, and then trades them: sizes, gates, latency, fills from
the tape, stops and targets found at trade resolution, resizes, fees, a valuation each minute and the breaker. Each run
begins from the trades, as a new `Research` does; what a notebook does again and again on one tape is shown beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_bars import COLUMNS, INSTRUMENT, TRADES, TRADES_A_BAR, some_trades, threshold_for
from benchmarks.measure import Goal, exit_status, in_turn, ratio, say, seconds, start_peers
from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport
from voltrade.research.backtest import Backtest, backtest
from voltrade.research.prepared_tape import Research

EVENTS = 1_000_000
"""Trades that are also backtested event by event."""
PEERS = ("hftbacktest", "nautilus_trader")
GOALS = {"hftbacktest": 1, "nautilus_trader": 100}
MOST_SECONDS = 0.3
"""After a threshold was moved, until everything is there anew."""


def tape_of(trades: Any) -> Tape:
    report = TapeReport(len(trades), len(trades), int(trades.time[0]), int(trades.time[-1]))
    return Tape(trades, report, "made for a benchmark", True)


def config_for(threshold: Decimal) -> Config:
    """The built-in rule with stops, targets, costs and the breaker, few filters: a round trip every forty bars."""
    return Config.from_parameters(
        {
            **{"symbol": INSTRUMENT.symbol, "threshold": threshold, "use_rsi_filter": False, "use_vwap_filter": False},
            **{"cooldown_bars": 0, "risk_fraction": 0.001, "max_trades_per_day": 500, "max_drawdown_fraction": 1.0},
        }
    )


def move_threshold(research: Research, config: Config, thresholds: list[Decimal]) -> Backtest:
    """Do what follows from moving a slider: bars, signals, round trips and equity of a threshold not seen before."""
    done = backtest(research, config.changed(threshold=thresholds.pop()))
    assert len(done.frames().bars) > 0
    assert len(done.equity) > 0
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=TRADES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-peers", action="store_true")
    given = parser.parse_args()
    trades = some_trades(given.trades)
    tape, part = tape_of(trades), tape_of(trades[:EVENTS])
    lots = threshold_for(trades, TRADES_A_BAR)
    config = config_for(lots * INSTRUMENT.step_size)
    say("compiling what is not compiled yet; later runs find it in the cache")
    began = time.perf_counter()
    done = backtest(tape, config)
    say(f"  the first backtest took {time.perf_counter() - began:.1f} s")
    assert done.path == "compiled", done.why
    found = done.statistics
    say(
        f"{len(trades):,} trades, {found.bars:,} bars, {found.signals:,} signals, {found.round_trips:,} round trips, "
        f"{len(done.fills):,} fills, {len(done.equity):,} valuations; medians of {given.rounds} rounds"
    )

    research = Research(tape)
    thresholds = [(lots + number) * INSTRUMENT.step_size for number in range(1, given.rounds + 2)]
    with tempfile.TemporaryDirectory() as home:
        for name, column in COLUMNS.items():
            np.save(Path(home) / f"{name}.npy", getattr(trades, column))
        others = {} if given.without_peers else start_peers("peers_backtest.py", PEERS, home, lots)
        runs = {
            "voltrade": lambda: seconds(lambda: backtest(tape, config)),
            "voltrade, and its statistics": lambda: seconds(lambda: backtest(tape, config).statistics),
            "voltrade, a threshold moved": lambda: seconds(lambda: move_threshold(research, config, thresholds)),
            "voltrade, event by event": lambda: seconds(lambda: backtest(part, config, path="events")),
            **{name: peer.run for name, peer in others.items()},
        }
        times = in_turn(runs, given.rounds)
        for peer in others.values():
            peer.close()

    counts = {name: float(len(trades)) for name in runs} | {"voltrade, event by event": float(len(part.trades))}
    counts |= {name: float(peer.about["trades"]) for name, peer in others.items()}
    for name, took in times.items():
        rate, middle = counts[name] / statistics.median(took) / 1e6, statistics.median(took)
        about = f" {others[name].about['version']}" if name in others else ""
        did = (
            f", {others[name].last['round_trips']} round trips"
            if "round_trips" in getattr(others.get(name), "last", {})
            else ""
        )
        say(f"  {name + about:30} {rate:7.2f} million trades a second, {middle:6.3f} s for {counts[name]:,.0f}{did}")
    events = "voltrade, event by event"
    say(f"  compiled / event by event: {ratio(times, 'voltrade', events, counts):.0f}")
    goals = [
        Goal("million trades a second", len(trades) / statistics.median(times["voltrade"]) / 1e6, 20),
        Goal("round trips", found.round_trips, 1_000 * len(trades) / TRADES),
        *(Goal(f"voltrade / {name}", ratio(times, "voltrade", name, counts), GOALS[name]) for name in others),
        Goal(
            "seconds after a threshold moved",
            statistics.median(times["voltrade, a threshold moved"]),
            MOST_SECONDS,
            at_most=True,
        ),
    ]
    return exit_status(goals)


if __name__ == "__main__":
    sys.exit(main())
