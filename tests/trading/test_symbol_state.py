"""What the account's books learn of a symbol's bars."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voltrade.model import BAR
from voltrade.risk import NO_EXIT
from voltrade.simulated.symbols import shipped_instrument
from voltrade.symbol_state import SymbolState


@pytest.mark.parametrize(
    ("exit_time", "exit_bar", "then"),
    [
        (350, 2, 3),  # learnt when two bars had closed, though three had by then
        (350, 3, 3),
        (350, 5, 5),  # learnt late: the cooldown is longer, never shorter
        (300, 2, 2),  # at the time of a bar's last trade: that bar is behind it
        (900, 1, 5),
        (NO_EXIT, 0, 0),
        (350, -4, -4),  # of an earlier run, whose bars are counted otherwise
    ],
)
def test_bars_that_closed_before_the_last_exit_are_no_part_of_the_cooldown(
    exit_time: int, exit_bar: int, then: int
) -> None:
    """Bars close at 100, 200 ... 500; two of them were known when the books were written last."""
    bars = np.zeros(5, BAR)
    bars["close_time"] = range(100, 600, 100)
    pipeline: Any = SimpleNamespace(bars=bars, count=5, last_price=1, last_time=500)
    none: Any = None
    row = {"bars": 2, "last_exit_time": exit_time, "last_exit_bar": exit_bar}
    SymbolState(shipped_instrument("BTCUSDT"), pipeline, none, none, 0).write_bars(row)
    assert (row["bars"], row["last_exit_bar"]) == (5, then)
