"""voltrade: Binance USD-M Futures from volume bars, researched and traded by the same code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from voltrade.backtest import Backtest, backtest
    from voltrade.config import Config
    from voltrade.errors import VoltradeError
    from voltrade.rule_file import read_parameters
except ModuleNotFoundError as error:
    error.add_note("voltrade needs the environment that `make setup` makes: source .venv/bin/activate")
    raise

if TYPE_CHECKING:
    from voltrade.runs import open_run

__all__ = ["Backtest", "Config", "VoltradeError", "backtest", "open_run", "read_parameters"]


def __getattr__(name: str) -> Any:
    """Import what opens runs when it is first used: `ctl` shall not wait for pandas."""
    if name != "open_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from voltrade.runs import open_run

    return open_run
