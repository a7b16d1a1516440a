"""Saving what the next run of an account needs as JSON, and restoring it: balance, breaker, cooldowns, orders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from voltrade.config import RiskSettings
from voltrade.errors import DataError
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.saved_orders import Scale, scaled_orders
from voltrade.risk import CircuitBreaker
from voltrade.symbol_state import SymbolState
from voltrade.wallet_check import WalletCheck


def account_state(
    books: AccountBooks, symbol_states: Mapping[str, SymbolState], wallet: WalletCheck
) -> dict[str, Any] | None:
    """Return the account's state as plain JSON values; None before its balance is known."""
    if books.breaker is None or not books.account["is_open"]:
        return None
    return {
        "wallet": int(books.account["wallet"]),
        "wallet_check": wallet.state(),
        "breaker": books.breaker.state(),
        "symbol_states": {symbol: _symbol(books, state) for symbol, state in symbol_states.items()},
    }


def _symbol(books: AccountBooks, symbol_state: SymbolState) -> dict[str, Any]:
    row, bars = books.symbols[symbol_state.index], symbol_state.pipeline.count
    return {
        "tick_size": f"{symbol_state.instrument.tick_size:f}",
        "step_size": f"{symbol_state.instrument.step_size:f}",
        "quantity": int(row["quantity"]),
        "cost": int(row["cost"]),
        "last_exit_time": int(row["last_exit_time"]),
        "bars_since_exit": bars - int(row["last_exit_bar"]),
        "bars_held": bars - int(row["opened_at_bar"]),
        "orders": symbol_state.monitor.state(),
    }


def restore_account(
    books: AccountBooks,
    symbol_states: Mapping[str, SymbolState],
    wallet: WalletCheck,
    settings: RiskSettings,
    text: str,
    time: int,
) -> None:
    """Go on from where the account's last run ended: its limits, streaks, cooldowns, and open positions.

    Args:
        books: the account's records, new.
        symbol_states: the symbols that are traded.
        wallet: of the core, new.
        settings: the circuit breaker's limits.
        text: JSON of what `account_state` returned.
        time: now, ms.

    Raises:
        DataError: the state isn't one that `account_state` returned, has a position in a symbol not traded here, or
            counts in a finer tick or step than this run.
    """
    try:
        state = json.loads(text)
        saved = state["symbol_states"]
        others = [symbol for symbol in saved if symbol not in symbol_states]
        if any(saved[symbol]["orders"]["open_position"] for symbol in others):
            raise DataError(f"account: the last run holds a position in {', '.join(others)}, which isn't traded here")
        books.account["wallet"], books.account["is_open"] = int(state["wallet"]), True
        wallet.restore(state["wallet_check"])
        books.breaker = CircuitBreaker.restore(settings, state["breaker"], books.breaker_rows)
        for symbol, symbol_state in symbol_states.items():
            if symbol in saved:
                _restore_symbol(books, symbol_state, saved[symbol], time)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"account: the saved state is broken: {error!r}") from None


def _restore_symbol(books: AccountBooks, symbol_state: SymbolState, saved: Mapping[str, Any], time: int) -> None:
    row, bars = books.symbols[symbol_state.index], symbol_state.pipeline.count
    scale = Scale.between(saved, symbol_state.instrument)
    row["quantity"], row["cost"] = scale.lots * int(saved["quantity"]), int(saved["cost"])
    row["last_exit_time"] = int(saved["last_exit_time"])
    row["last_exit_bar"] = bars - int(saved["bars_since_exit"])
    row["opened_at_bar"] = bars - int(saved["bars_held"])
    symbol_state.monitor.restore(scaled_orders(saved["orders"], scale), time)
