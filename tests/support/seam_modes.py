"""What each mode makes of one tape, in a process of its own: `seam_modes.py JOURNAL RULE TAPE MODE...` prints JSON.

`test_seams` runs it over edited copies of the package (`forks.py`). It runs uncompiled (NUMBA_DISABLE_JIT=1): the loops
of research are then the same functions as plain Python, so that an edit is seen without compiling everything anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import voltrade
from voltrade import journal
from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.model import BreakerChange, OrderIntent, Refusal, RoundTrip
from voltrade.research.prepared_tape import Research
from voltrade.research.sweep import sweep
from voltrade.runs.replay import replay
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy import check
from voltrade.strategy.rule_file import load_rule, read_parameters

SIGNALS = {
    **{"vwap_length": 5, "bollinger_length": 5, "use_rsi_filter": False},
    **{"ema_fast": 2, "ema_slow": 4, "rsi_length": 3, "atr_length": 3},
}
PARAMETERS: dict[str, Any] = {
    **SIGNALS,
    **{"seed": 36, "threshold": 3, "latency_ms": 3000, "taker_fee": 0.00002, "slippage_bps": 0.0},
    **{"stop_atr": 1.0, "take_profit_atr": 1.0, "min_stop_bps": 0.0, "cooldown_bars": 1, "max_holding_bars": 6},
    **{"max_holding_s": 45, "max_trades_per_day": 12, "max_consecutive_losses": 1000},
}
"""On the tape every exit happens, a stop is refused with -2021, an exit with -2022, and the day's trades run out."""

HOURS, JOINED = 1.0, 12
"""Length of the synthetic tape, and how many of its trades are one: uncompiled, each trade costs its time."""

RAISED = "the seam was asked"
"""What a seam says that is made to raise."""

TOLD = (OrderIntent, Refusal, BreakerChange, RoundTrip)
Made = Callable[[Research, Config, str], Any]


def write_tape(path: Path) -> None:
    """Write the tape that all modes trade as a file of aggTrades."""
    config = read_parameters(PARAMETERS, hours=HOURS)
    trades = load_tape(config.session, shipped_instrument("BTCUSDT")).trades
    count = len(trades) // JOINED
    last = slice(JOINED - 1, count * JOINED, JOINED)
    ids = np.arange(1, count + 1)
    columns = {
        "agg_trade_id": ids,
        "price": trades.price[last] / 10,
        "quantity": trades.quantity[: count * JOINED].reshape(-1, JOINED).sum(axis=1) / 1000,
        "first_trade_id": ids,
        "last_trade_id": ids,
        "transact_time": trades.time[last],
        "is_buyer_maker": trades.buyer_is_maker[last],
    }
    pd.DataFrame(columns).to_csv(path, index=False)


def lines(facts: Iterable[Any]) -> list[str]:
    """What was decided, sorted: facts of one moment have no order that all modes keep."""
    return sorted(repr(fact) for fact in facts if isinstance(fact, TOLD))


def facts_of(path: Any) -> Made:
    """What the core decided, or what the compiled loop says that it decided: the same lines."""

    def made(research: Research, config: Config, _: str) -> list[str]:
        done = voltrade.backtest(research, config, path=path)
        return lines(done.facts)

    return made


def swept(research: Research, config: Config, _: str) -> str:
    found = sweep(research, config, {"ema_fast": [config.signals.ema_fast]}, progress=False)
    assert found.frame["path"].tolist() == ["compiled"]
    return str(found.frame.drop(columns="path").iloc[0].to_json())


def explored(research: Research, config: Config, _: str) -> str:
    from voltrade.notebook.explorer_result import trade_tape

    traded = trade_tape(research, config)
    assert traded.tables is not None
    tables = (traded.tables.trips, traded.tables.refusals, traded.tables.orders)
    values = (rows.tolist() for rows in tables)  # between its columns a table holds bytes that nobody wrote
    return " ".join(hashlib.sha256(repr(row).encode()).hexdigest() for row in values)


def replayed(_: Research, __: Config, path: str) -> int | str:
    try:
        return replay(Path(path)).differences
    except (KeyError, AssertionError):
        return "the journal tells of orders that were never sent"


def checked(research: Research, config: Config, _: str) -> str:
    check.BARS_AFTER_WARMUP = 40
    left_out = check.Finding("left out", True, "one folds two whole days, one all bars again and again")
    check._check_warmup = lambda new: left_out
    check._check_prefixes = lambda new, made, whole: left_out
    return str(check.check(load_rule(config.session.rule), config.signals, research.instrument))


MODES: dict[str, Made] = {
    "core": facts_of("events"),
    "backtest": facts_of("auto"),
    "sweep": swept,
    "explorer": explored,
    "replay": replayed,
    "check": checked,
}


def entries(path: str) -> list[str]:
    """What a session of its own journal decided."""
    return lines(row.fact for row in journal.read(Path(path)))


def main(path: str, rule: str, tape_file: str, *modes: str) -> None:
    config = read_parameters(PARAMETERS, rule=rule, tape=tape_file)
    research = Research(load_tape(config.session, shipped_instrument("BTCUSDT")))
    made = {}
    for mode in modes:
        try:
            made[mode] = MODES[mode](research, config, path)
        except Exception as error:
            if RAISED not in str(error):
                raise
            made[mode] = RAISED
    print(json.dumps(made))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
