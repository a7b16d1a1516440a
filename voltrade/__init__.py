"""voltrade: Binance USD-M Futures from volume bars, researched and traded by the same code."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voltrade.config import Config
    from voltrade.errors import VoltradeError
    from voltrade.research.backtest import Backtest, backtest
    from voltrade.runs.listing import open_run
    from voltrade.strategy.rule_file import read_parameters

_MISSING = next((name for name in ("numba", "pydantic", "pandas") if find_spec(name) is None), "")
if _MISSING:
    _error = ModuleNotFoundError(f"No module named {_MISSING!r}", name=_MISSING)
    _error.add_note("voltrade needs the environment that `make setup` makes: source .venv/bin/activate")
    raise _error

__all__ = ["Backtest", "Config", "VoltradeError", "backtest", "open_run", "read_parameters"]

_MODULES = {
    "Backtest": "research.backtest",
    "Config": "config",
    "VoltradeError": "errors",
    "backtest": "research.backtest",
    "open_run": "runs.listing",
    "read_parameters": "strategy.rule_file",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that an engine that starts does not wait for research."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"voltrade.{_MODULES[name]}"), name)
