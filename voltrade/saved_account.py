"""Saving what the next run of an account needs as JSON, and restoring it: balance, breaker, cooldowns, orders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from voltrade.config import RiskSettings
from voltrade.errors import DataError
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.saved_orders import Scale, scaled_orders
from voltrade.risk import CircuitBreaker
from voltrade.symbol_state import SymbolState
from voltrade.wallet_check import WalletCheck

STATE_UNREAD = "STATE_UNREAD"
"""Begins the reason of a caretaker whose saved state can't be read, or a part of it."""

BROKEN = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What is raised by a state that `account_state` didn't return, or did before names or values were changed."""


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
) -> str:
    """Go on from where the account's last run ended: its limits, streaks, cooldowns, and open positions.

    What can't be read is left as in a new account: its balance and limits together, or all of a symbol. Return why;
    the caller must let nothing be entered then, since limits may be used, and positions open, that aren't known.

    Args:
        books: the account's records, new.
        symbol_states: the symbols that are traded.
        wallet: of the core, new.
        settings: the circuit breaker's limits.
        text: JSON of what `account_state` returned.
        time: now, ms.

    Raises:
        DataError: the state has a position in a symbol that isn't traded here.
    """
    try:
        state = json.loads(text)
        saved = state["symbol_states"]
        others = sorted(saved.keys() - symbol_states.keys())
        held = [symbol for symbol in others if saved[symbol]["orders"]["open_position"]]
    except BROKEN as error:
        return f"{STATE_UNREAD}: account: the saved state is broken: {error!r}"
    if held:
        raise DataError(f"account: the last run holds a position in {', '.join(others)}, which isn't traded here")
    parts = [partial(_restore_money, books, wallet, settings, state)]
    parts += [
        partial(_restore_symbol, books, symbol_state, saved[symbol], time)
        for symbol, symbol_state in symbol_states.items()
        if symbol in saved
    ]
    unread = "; ".join(why for part in parts if (why := _unread(part)))
    return f"{STATE_UNREAD}: {unread}" if unread else ""


def _unread(part: Callable[[], None]) -> str:
    """Restore a part of a saved state; return why it can't be read, and empty if it was."""
    try:
        part()
    except DataError as error:
        return str(error)
    except BROKEN as error:
        return f"account: the saved state is broken: {error!r}"
    return ""


def _restore_money(books: AccountBooks, wallet: WalletCheck, settings: RiskSettings, state: Mapping[str, Any]) -> None:
    """Restore balance and limits, the breaker last, since a core without one takes the balance from the exchange."""
    balance = int(state["wallet"])
    wallet.restore(state["wallet_check"])
    books.breaker = CircuitBreaker.restore(settings, state["breaker"], books.breaker_rows)
    books.account["wallet"], books.account["is_open"] = balance, True


def _restore_symbol(books: AccountBooks, symbol_state: SymbolState, saved: Mapping[str, Any], time: int) -> None:
    row, bars = books.symbols[symbol_state.index], symbol_state.pipeline.count
    scale = Scale.between(saved, symbol_state.instrument)
    read = {
        "quantity": scale.lots * int(saved["quantity"]),
        "cost": int(saved["cost"]),
        "last_exit_time": int(saved["last_exit_time"]),
        "last_exit_bar": bars - int(saved["bars_since_exit"]),
        "opened_at_bar": bars - int(saved["bars_held"]),
    }
    symbol_state.monitor.restore(scaled_orders(saved["orders"], scale), time)
    for name, value in read.items():
        row[name] = value
