"""Turning the explorer's threshold on ten million trades, in a notebook's kernel: from callback to the figure's data.

Every turn is to a threshold that was not there before, so that bars, signals, round trips and equity are all made anew.
The circuit breaker stops nothing, so that the whole tape is traded. What the page then needs to draw, the
browser test sees.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from benchmarks.bench_bars import INSTRUMENT, limit, some_trades, threshold_for
from benchmarks.measure import Goal, exit_status, say, seconds
from voltrade.config import Config
from voltrade.data.tape import Tape, TapeReport
from voltrade.notebook.explorer import Explorer
from voltrade.notebook.explorer_result import trade_tape
from voltrade.notebook.explorer_widgets import PAGES
from voltrade.research.prepared_tape import Research

TRADES = 10_000_000
TRADES_A_BAR = 200
ROUNDS = 7
WITHIN_S = 0.3
LEAST_TRIPS = 1_000

UNLIMITED = {
    **{"max_daily_loss_fraction": 1.0, "max_drawdown_fraction": 1.0, "max_consecutive_losses": 1_000_000},
    **{"max_trades_per_day": 1_000_000, "wallet": 1_000_000},
    "risk_fraction": 0.0005,  # so small that what costs take from the account stops nothing
}


def an_explorer(count: int) -> Explorer:
    """An explorer of so many made trades, at the newest page of its bars."""
    trades = some_trades(count)
    tape = Tape(trades, TapeReport(count, count, int(trades.time[0]), int(trades.time[-1])), "made", synthetic=True)
    threshold = _coins(threshold_for(trades, TRADES_A_BAR))
    return Explorer(tape, Config.from_parameters(threshold=threshold, **UNLIMITED))


def measure(count: int, rounds: int) -> int:
    """Turn, and print what it took; return the exit status. Runs in a kernel, so that widgets send what they say."""
    explorer = an_explorer(count)
    tape, control = explorer.research.tape, explorer.controls["threshold"]
    lots = round(control.value / float(INSTRUMENT.step_size))
    thresholds = (_coins(int(lots * (1 + 0.003 * turn))) for turn in range(1, 10_000))

    def turned() -> float:
        began = time.perf_counter()
        control.value = next(thresholds)
        return time.perf_counter() - began

    def median(once: Callable[[], float]) -> float:
        once()  # compiles, and brings everything into memory
        return statistics.median(once() for _ in range(rounds))

    took: dict[int, float] = {}
    for page in PAGES:
        explorer.page_bars = page
        took[page] = median(turned)
        assert "not drawn" not in explorer.status, explorer.status
    tables, bars = explorer.result.tables, explorer.result.tables.bars
    say(f"{count:,} trades, {bars:,} bars, {len(tables.trips):,} round trips; medians of {rounds} turns")
    for page, turn in took.items():
        say(f"  {page:5,} candles: {turn:.3f} s from the callback to the figure's data")
    parts = _parts(Research(tape), thresholds)
    say("  of that: " + ", ".join(f"{name} {median(part):.3f} s" for name, part in parts.items()))
    say(f"  the limit, reading four columns of the tape: {median(lambda: seconds(lambda: limit(tape.trades))):.3f} s")
    return exit_status(
        [
            Goal(f"seconds of a turn with {PAGES[-1]:,} candles", took[PAGES[-1]], WITHIN_S, at_most=True),
            Goal("round trips", len(tables.trips), LEAST_TRIPS),
        ]
    )


def _coins(lots: int) -> float:
    return float(lots * INSTRUMENT.step_size)


def _parts(research: Research, thresholds: Any) -> dict[str, Callable[[], float]]:
    def config() -> Config:
        return Config.from_parameters(threshold=next(thresholds), **UNLIMITED)

    def bars() -> float:
        wanted = config()
        return seconds(lambda: research.bars(wanted.bars))

    def signals() -> float:
        wanted = config()
        research.bars(wanted.bars)
        return seconds(lambda: research.decisions(wanted))

    def session() -> float:
        wanted = config()
        research.decisions(wanted)
        return seconds(lambda: trade_tape(research, wanted))

    return {"bars": bars, "signals": signals, "round trips and equity": session}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=TRADES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voltrade-kernel-") as folder:
        # Sockets in a folder: a TCP port is chosen before the kernel binds it, and another program may be faster.
        manager = KernelManager(transport="ipc", connection_file=str(Path(folder) / "kernel.json"))
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            code = f"from benchmarks import bench_explorer as b; status = b.measure({given.trades}, {given.rounds})"
            client.execute_interactive(code, output_hook=_print)
            reply = client.execute_interactive("pass", user_expressions={"status": "status"}, store_history=False)
            return int(reply["content"]["user_expressions"]["status"]["data"]["text/plain"])
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _print(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", flush=True)
    elif message["msg_type"] == "error":
        raise RuntimeError("\n".join(content["traceback"]))


if __name__ == "__main__":
    sys.exit(main())
