"""What others take to try pairs of averages on the same bars; run in the environment of the peers (see `peers`).

Both see bars alone: they enter at a close, and find stops and targets within a bar's high and low, as all who have no
trades must. vectorbt broadcasts all pairs at once, which is how it is fast. backtesting.py runs one pair after the
other; it is given the first few.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from measure import peak_memory
from peers import load, serve

Run = Callable[[], dict[str, Any]]
FEW = 2
FEE, SLIPPAGE, WALLET = 0.0005, 0.00005, 10_000.0


def averages(text: str) -> list[tuple[int, int]]:
    """Read pairs, as in 5:60,5:80."""
    return [(int(fast), int(slow)) for fast, slow in (pair.split(":") for pair in text.split(","))]


def vectorbt(bars: pd.DataFrame, pairs: list[tuple[int, int]]) -> tuple[Run, int]:
    import vectorbt as vbt

    close = bars["close"]
    fasts, slows = (np.array(side) for side in zip(*pairs, strict=True))

    def run() -> dict[str, Any]:
        fast = vbt.MA.run(close, window=fasts, ewm=True, short_name="fast")
        slow = vbt.MA.run(close, window=slows, ewm=True, short_name="slow")
        atr = vbt.ATR.run(bars["high"], bars["low"], close, window=14, ewm=True).atr / close
        portfolio = vbt.Portfolio.from_signals(
            close,
            entries=fast.ma_crossed_above(slow),
            short_entries=fast.ma_crossed_below(slow),
            open=bars["open"],
            high=bars["high"],
            low=bars["low"],
            sl_stop=4 * atr,
            tp_stop=8 * atr,
            fees=FEE,
            slippage=SLIPPAGE,
            init_cash=WALLET,
            freq="1min",
        )
        trades = portfolio.trades
        figures = (
            portfolio.total_return(),
            portfolio.sharpe_ratio(),
            portfolio.max_drawdown(),
            trades.count(),
            trades.win_rate(),
            trades.profit_factor(),
        )
        return {"round_trips": float(figures[3].mean())}

    return run, len(pairs)


def backtesting(bars: pd.DataFrame, pairs: list[tuple[int, int]]) -> tuple[Run, int]:
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover

    def average(values: Any, length: int) -> Any:
        return pd.Series(values).ewm(span=length, adjust=False).mean().to_numpy()

    def true_range(high: Any, low: Any, close: Any) -> Any:
        before = np.concatenate((close[:1], close[:-1]))
        span = np.maximum(high, before) - np.minimum(low, before)
        return pd.Series(span).ewm(alpha=1 / 14, adjust=False).mean().to_numpy()

    class Cross(Strategy):  # type: ignore[misc]
        fast, slow = 10, 60

        def init(self) -> None:
            self.quick = self.I(average, self.data.Close, self.fast)
            self.calm = self.I(average, self.data.Close, self.slow)
            self.atr = self.I(true_range, self.data.High, self.data.Low, self.data.Close)

        def next(self) -> None:
            price, atr = self.data.Close[-1], self.atr[-1]
            if self.position:
                return
            if crossover(self.quick, self.calm):
                self.buy(size=0.9, sl=price - 4 * atr, tp=price + 8 * atr)
            elif crossover(self.calm, self.quick):
                self.sell(size=0.9, sl=price + 4 * atr, tp=price - 8 * atr)

    frame = bars.rename(columns=str.capitalize)
    frame["Volume"] = 1.0
    tested = Backtest(
        frame, Cross, cash=100 * WALLET, commission=FEE, spread=SLIPPAGE, margin=1.0, finalize_trades=True
    )

    def run() -> dict[str, Any]:
        found = [tested.run(fast=fast, slow=slow) for fast, slow in pairs[:FEW]]
        return {"round_trips": float(np.mean([of["# Trades"] for of in found]))}

    return run, min(FEW, len(pairs))


PEERS = {peer.__name__: peer for peer in (vectorbt, backtesting)}


def main() -> None:
    name, folder, pairs = sys.argv[1:]
    columns = load(folder)
    index = pd.to_datetime(columns.pop("time"), unit="ms")
    bars = pd.DataFrame(columns, index=index)[["open", "high", "low", "close"]].astype(float)
    run, count = PEERS[name](bars, averages(pairs))
    memory: list[float] = []

    def prepare() -> None:
        """Measure the memory of a first run, before the clock of the first round starts."""
        if not memory:
            with peak_memory() as grown:
                run()
            memory.extend(grown or [float("nan")])

    serve({"version": version(name), "settings": count}, lambda: {**run(), "grown": memory[0]}, prepare)


if __name__ == "__main__":
    main()
