"""After a rehearsal nothing of a simulated exchange is compiled any more, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
from numba.core.dispatcher import Dispatcher
from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.model import MarkPrice, OrderRequest, OrderType, Side
from voltrade.simulated.rehearsal import rehearse
from voltrade.simulated.symbols import shipped_instrument
from voltrade.simulated.tape_playback import exchange_for

config, btc = Config(), shipped_instrument("BTCUSDT")
trades = load_tape(config.session.model_copy(update={"hours": 0.1}), btc).trades
compiled, add = [], Dispatcher.add_overload

def noted(self, *result):
    compiled.append(self.py_func.__name__)
    return add(self, *result)

Dispatcher.add_overload = noted
rehearse(config, btc, trades)
assert len(compiled) > 5, compiled
compiled.clear()
exchange = exchange_for(config, [btc], clock=int(trades.time[0]) - 1)
half = len(trades) // 2
exchange.on_trades(trades[:half])
exchange.on_mark(MarkPrice("BTCUSDT", int(trades.time[half]), int(trades.price[half] * btc.tick_size * 10**8), 0, 0))
exchange.place_order(OrderRequest("BTCUSDT", "a", Side.BUY, OrderType.MARKET, 10))
exchange.advance(int(trades.time[half]) + 1_000)
price = int(trades.price[half]) * 9 // 10
exchange.place_algo(OrderRequest("BTCUSDT", "b", Side.SELL, OrderType.STOP_MARKET, 10, trigger_price=price))
exchange.on_trades(trades[half:])
assert exchange.markets["BTCUSDT"].position.quantity == 10
print(sorted(set(compiled)))
"""


def test_a_first_fill_waits_for_no_compiler() -> None:
    """Else a position lacks its stop meanwhile: for 2 to 3 s where three engines began with an empty cache."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
