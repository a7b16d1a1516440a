"""The records of an account and its symbols, and calls of the compiled rules that change them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
from numba import types

from voltrade.compiled import BARE, Record, Rows, rows_of
from voltrade.model import Output
from voltrade.orders import core_rules, order_queries
from voltrade.orders.order_states import REASONS
from voltrade.orders.records import (
    ACCOUNT,
    ASKED,
    BOOKS_EVENT,
    HALTED_BEFORE,
    NOTES,
    SIGNAL,
    SYMBOL,
    BooksEvent,
    bare,
    new_account,
)
from voltrade.plain_start import entry, is_plain
from voltrade.risk import CircuitBreaker


def _react(accounts: Rows, symbols: Rows, events: Rows) -> int:
    """Take an event, and count the rows that can be freed."""
    answer = core_rules.react(accounts[0], symbols, events[0])
    for index in range(len(symbols)):
        symbol = symbols[index]
        symbol.removable_count = order_queries.count_removable(symbol)
    return answer


def step() -> Callable[[Rows, Rows, Rows], int]:
    """Return `core_rules.react` for one event, an `entry`."""
    return entry(_react, _signatures()[0], **BARE)  # type: ignore[no-any-return]


def signal_step(decide: Callable[..., None]) -> Callable[[Rows, Rows, int, Rows], None]:
    """Return a function of accounts, symbols, the symbol's index and signals for one signal, an `entry`."""
    return entry(decide, _signatures()[1], **BARE)  # type: ignore[no-any-return]


@cache
def _signatures() -> tuple[Any, Any]:
    account, symbol, event, signal = map(rows_of, (ACCOUNT, SYMBOL, BOOKS_EVENT, SIGNAL))
    return types.int64(account, symbol, event), types.void(account, symbol, types.int64, signal)


class Monitor(Protocol):
    """What `AccountBooks` needs of a symbol's order monitor, which has the names and texts that records don't have."""

    def output(self, kind: int, at: int, reason: str, time: int) -> Output | None:
        """Return a command or note of the symbol; `at` is the row of its order, or of the note in its table."""
        ...

    halt_reason: str
    """Why trading must halt until an operator resumes it; empty where it needn't."""

    def on_halt(self, cause: int) -> None:
        """Note the reason of a halt; `cause` is one of the HALTED_ constants of `records`."""
        ...

    def archive_finished(self) -> None:
        """Free the rows of finished orders."""
        ...


class AccountBooks:
    """The records of one account.

    Attributes:
        account: a row of ACCOUNT, `symbols`: rows of SYMBOL, both for use from Python.
        breaker: the circuit breaker over the account's rows; None before the account's balance is known.
        monitors: the order monitor of each symbol.

    Args:
        symbols: how many symbols there are.
        decide: what a signal leads to, for `signal_step`; None where none is ever given.
    """

    def __init__(self, symbols: int = 1, decide: Callable[..., None] | None = None) -> None:
        self._accounts, self._symbols, self._events = new_account(), np.zeros(symbols, SYMBOL), np.zeros(1, BOOKS_EVENT)
        self.account: Any = bare(self._accounts)[0]
        self.symbols: list[Any] = list(bare(self._symbols))
        self.breaker: CircuitBreaker | None = None
        self.monitors: list[Monitor] = []
        self._questions: dict[tuple[int, int], Rows] = {}
        """The events of questions that were asked before: they are asked at each step of a session."""
        self._reasons = list(REASONS)
        self._numbers = {text: number for number, text in enumerate(REASONS)}
        self._step, self._decide = step(), decide
        self._signal_step: Callable[[Rows, Rows, int, Rows], None] | None = None

    def take_rules(self) -> None:
        """Take the compiled rules if they were plain, and are compiled by now; that of `signal_step` too."""
        self._step = step()
        if self._decide is not None:
            self._signal_step = signal_step(self._decide)

    @property
    def is_plain(self) -> bool:
        """Whether the rules are plain Python until they are compiled."""
        return is_plain(self._step) or (self._signal_step is not None and is_plain(self._signal_step))

    def column(self, name: str) -> Rows:
        """Return a field of all symbols."""
        return self._symbols[name]

    def rows(self, name: str, symbol: int) -> Any:
        """Return a field of a symbol that is a record or rows of one, to be read and changed in place."""
        return bare(self._symbols[name])[symbol]

    def record(self, symbol: int) -> Record:
        """Return a symbol's row, to be read and changed by the plain Python of a rule."""
        return self._symbols[symbol]

    @property
    def breaker_rows(self) -> tuple[Rows, Rows, Rows]:
        """The rows of the circuit breaker's state, holds and rules."""
        return self._accounts["breaker"][0], self._accounts["holds"][0], self._accounts["breaker_rules"][0]

    # --- reasons ---------------------------------------------------------------------------------------------------

    def reason_number(self, reason: str) -> int:
        """Return the number of a reason; an operator's new text gets a new number."""
        if reason not in self._numbers:
            self._numbers[reason] = len(self._reasons)
            self._reasons.append(reason)
        return self._numbers[reason]

    def reason_text(self, number: int) -> str:
        """Return the text of a reason's number."""
        return self._reasons[number]

    # --- steps -----------------------------------------------------------------------------------------------------

    def ask(self, question: int, symbol: int = 0) -> int:
        """Return the answer to a question, NEXT_DUE to WAKE_AT_BAR of `records`."""
        if (question, symbol) not in self._questions:
            self._questions[question, symbol] = np.array([BooksEvent(ASKED, symbol, code=question)], BOOKS_EVENT)
        asked = self._questions[question, symbol]
        return int(self._step(self._accounts, self._symbols, asked))  # numpy's own where nothing is compiled

    def react(self, event: BooksEvent) -> list[Output]:
        """Take an event; return its outputs in order."""
        self.answer(event)
        return self.drain()

    def on_signal(self, symbol: int, signal: Rows) -> list[Output]:
        """Call what these books decide by with a signal; return its outputs in order."""
        if self._signal_step is None:
            assert self._decide is not None
            self._signal_step = signal_step(self._decide)
        self._signal_step(self._accounts, self._symbols, symbol, signal)
        return self.drain()

    def answer(self, event: BooksEvent) -> int:
        """Take an event and return its answer; its outputs stay until `drain`."""
        self._events[0] = event
        self._mark_earlier_halts()
        return self._step(self._accounts, self._symbols, self._events)

    def drain(self) -> list[Output]:
        """Return the outputs of the last calls; pass their halts to monitors and breaker; free rows of finished orders.

        Raises:
            RuntimeError: one event led to more outputs than there is room for.
        """
        account = self.account
        if account["has_overflowed"]:
            raise RuntimeError("orders: one event led to more outputs than there is room for")
        self._collect_halts()
        outputs: list[Output] = []
        if count := int(account["output_count"]):
            rows = self._accounts["outputs"][0, :count].tolist()
            for kind, symbol, at, reason, time in rows:
                output = self.monitors[symbol].output(kind, at, self._reasons[reason], time)
                outputs += [] if output is None else [output]
            account["output_count"] = account["command_count"] = 0
            for table in NOTES:
                account[f"{table}_count"] = 0
        for monitor in self.monitors:
            monitor.archive_finished()
        return outputs

    def note(self, table: str, at: int) -> tuple[Any, ...]:
        """Return a row of a table of notes."""
        return self._accounts[table][0, at].item()  # type: ignore[no-any-return]

    # --- halts -----------------------------------------------------------------------------------------------------

    def _mark_earlier_halts(self) -> None:
        """Mark the symbols whose halt reason the breaker doesn't have: another replaced it, or an exit was adopted."""
        if self.breaker is not None:
            for row, monitor in zip(self.symbols, self.monitors, strict=True):
                if monitor.halt_reason and monitor.halt_reason != self.breaker.reason:
                    row["halt_wanted"] = HALTED_BEFORE

    def _collect_halts(self) -> None:
        """Pass the halts of the last calls to the monitors, and their reasons to the breaker."""
        for row, monitor in zip(self.symbols, self.monitors, strict=True):
            if row["halt_wanted"]:  # the breaker does not have it yet, but will
                monitor.on_halt(int(row["halt_wanted"]))
            if row["halt_applied"] and self.breaker is not None:
                monitor.on_halt(int(row["halt_applied"]))
                self.breaker.reason = monitor.halt_reason
            row["halt_wanted"] = row["halt_applied"] = 0
