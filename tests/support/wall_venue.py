"""A venue in a process of its own that plays a dense tape by the wall clock, and a rule that buys whenever it may."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from support.forked import ForkedVenue

from voltrade.data.synthetic import synthetic_market
from voltrade.simulated.symbols import shipped_instrument

KEY, SECRET = "canary-key-of-thirty-two-letters-0", "canary-secret-that-nobody-may-see-1"

RULE = """
from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine


class Settings(SignalSettings):
    first_bar: int = 1


class Buys(SignalEngine):
    settings_type = Settings

    @staticmethod
    def _detect_signal(state, bar, settings, decision):
        return 1 if state.bars >= settings.first_bar else 0
"""
"""Enters whenever it may, from a bar on."""

SIMULATED: dict[str, Any] = {"taker_fee": 0.0, "slippage_bps": 0.0, "wallet": 1_000_000}
PARAMETERS: dict[str, Any] = {
    **{"threshold": 2, "ema_fast": 2, "ema_slow": 3, "rsi_length": 2, "atr_length": 2},
    **{"stop_atr": 60.0, "take_profit_atr": 0.0, "min_stop_bps": 0.0, "capital": 1_000_000, "risk_fraction": 0.05},
    **{"max_daily_loss_fraction": 0.5},
    **SIMULATED,
}
"""A session with an entry so large that it fills at many prices, and a stop so far that it seldom triggers."""


def rule_file(folder: Path) -> str:
    """Write the rule; return its name as a parameter."""
    (folder / "buys.py").write_text(RULE)
    return f"{folder}/buys.py:Buys"


@cache
def dense_tape() -> Path:
    """Twelve hours of trades in 36 minutes: 58 trades and 7 coins a second."""
    trades = synthetic_market(shipped_instrument("BTCUSDT"), 8, 12.0, 1_767_600_000_000)
    times = trades.time[0] + (trades.time - trades.time[0]) // 20
    rows = np.column_stack([trades.id, trades.price, trades.quantity, times, trades.buyer_is_maker])
    lines = (f"{a},{p / 10:.1f},{q / 1000:.3f},{t},{bool(m)}" for a, p, q, t, m in rows.tolist())
    path = Path(mkdtemp(prefix="voltrade-tape-")) / "aggTrades.csv"
    path.write_text("agg_trade_id,price,quantity,transact_time,is_buyer_maker\n" + "\n".join(lines))
    return path


@contextmanager
def a_venue(
    folder: Path, api: tuple[str, str] = (KEY, SECRET), faults: Sequence[Any] = (), **parameters: Any
) -> Iterator[str]:
    """Run a venue whose tape is ten minutes old; yield its address. Its log is in `folder/venue`."""
    given = {"tape": str(dense_tape()), "speed": 1.0, "begin_s": 600.0, **SIMULATED, **parameters}
    (folder / "venue.json").write_text(json.dumps(given))
    words = ["--parameters", str(folder / "venue.json"), "--log", str(folder / "venue")]
    words += ["--api-key", api[0], "--api-secret", api[1]]
    if faults:
        (folder / "faults.json").write_text(json.dumps(faults))
        words += ["--faults", str(folder / "faults.json")]
    with closing(ForkedVenue(*words, folder=folder)) as venue:
        yield venue.rest
