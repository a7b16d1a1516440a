"""voltrade: Binance USD-M Futures from volume bars, researched and traded by the same code."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voltrade.backtest import Backtest, backtest
    from voltrade.config import Config
    from voltrade.errors import VoltradeError
    from voltrade.session import open_run

__all__ = ["Backtest", "Config", "VoltradeError", "backtest", "open_run"]

_HOMES = {
    "Backtest": "backtest",
    "backtest": "backtest",
    "Config": "config",
    "VoltradeError": "errors",
    "open_run": "session",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a venue or a checker needs neither charts nor compiled rules."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
