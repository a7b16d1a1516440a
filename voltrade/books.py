"""The records of an account and its symbols, and the steps that change them: live trading calls one for each event."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
from numba import types

from voltrade import core_rules, order_queries
from voltrade.compiled import BARE, Rows, compile_for, rows_of
from voltrade.model import Output
from voltrade.order_states import REASONS
from voltrade.records import ACCOUNT, ASKED, EVENT, HALTED_BEFORE, NOTES, SYMBOL, Event, bare, new_account
from voltrade.risk import CircuitBreaker


def _react(accounts: Rows, symbols: Rows, events: Rows) -> int:
    """Take an event, and count the rows that can be given back."""
    answer = core_rules.react(accounts[0], symbols, events[0])
    for place in range(len(symbols)):
        symbol = symbols[place]
        symbol.over_count = order_queries.count_over(symbol)
    return answer


@cache
def step() -> Callable[[Rows, Rows, Rows], int]:
    """`core_rules.react` for one event, compiled when it is first needed."""
    rows = [rows_of(dtype) for dtype in (ACCOUNT, SYMBOL, EVENT)]
    return compile_for(_react, types.int64(*rows), **BARE)  # type: ignore[no-any-return]


class Teller(Protocol):
    """Who knows a symbol's names and texts: its order monitor."""

    def output(self, kind: int, at: int, reason: str, time: int) -> Output:
        """Return a command or note of the symbol; `at` is the row of its order, or of the note in its table."""
        ...

    halt_reason: str
    """Why a person must look; empty where nobody must."""

    def on_halt(self, why: int) -> None:
        """Take note of why a person must look."""
        ...

    def put_away(self) -> None:
        """Take orders that are over out of their rows."""
        ...


class Books:
    """One account's records.

    Attributes:
        account: a row of ACCOUNT; `symbols`: rows of SYMBOL; both as Python reads them.
        breaker: the circuit breaker over the account's rows; None before it is known what the account has.
        tellers: of each symbol.
    """

    def __init__(self, symbols: int = 1) -> None:
        self._accounts, self._symbols, self._events = new_account(), np.zeros(symbols, SYMBOL), np.zeros(1, EVENT)
        self.account: Any = bare(self._accounts)[0]
        self.symbols: list[Any] = list(bare(self._symbols))
        self.breaker: CircuitBreaker | None = None
        self.tellers: list[Teller] = []
        self._words = list(REASONS)
        self._numbers = {word: number for number, word in enumerate(REASONS)}
        self._step = step()

    def column(self, name: str) -> Rows:
        """Return a field of all symbols."""
        return self._symbols[name]

    def rows(self, name: str, symbol: int) -> Any:
        """Return a field of a symbol that is itself a record, or rows of one, to be read and changed in place."""
        return bare(self._symbols[name])[symbol]

    @property
    def breaker_rows(self) -> tuple[Rows, Rows, Rows]:
        """Where the circuit breaker keeps its state, holds and rules."""
        return self._accounts["breaker"][0], self._accounts["holds"][0], self._accounts["breaker_rules"][0]

    # --- words -----------------------------------------------------------------------------------------------------

    def number(self, reason: str) -> int:
        """Return the number of a reason, a new one where a person has said something new."""
        if reason not in self._numbers:
            self._numbers[reason] = len(self._words)
            self._words.append(reason)
        return self._numbers[reason]

    def word(self, number: int) -> str:
        return self._words[number]

    # --- steps -----------------------------------------------------------------------------------------------------

    def ask(self, question: int, symbol: int = 0) -> int:
        """Return the answer to one of the questions of `records`."""
        self._events[0] = Event(ASKED, symbol, code=question)
        return int(self._step(self._accounts, self._symbols, self._events))  # numpy's own where nothing is compiled

    def react(self, event: Event) -> list[Output]:
        """Take an event; return what follows, in order."""
        self.answer(event)
        return self.drain()

    def decide(self, step: Callable[[Rows, Rows, int, Rows], None], symbol: int, signal: Rows) -> list[Output]:
        """Let a step take a signal; return what follows."""
        step(self._accounts, self._symbols, symbol, signal)
        return self.drain()

    def answer(self, event: Event) -> int:
        """Take an event that has an answer, and return that; what follows stays until `drain`."""
        self._events[0] = event
        self._mark_halts()
        return self._step(self._accounts, self._symbols, self._events)

    def drain(self) -> list[Output]:
        """Return what followed from the last steps, and give back the rows of what is over.

        Raises:
            RuntimeError: more followed at once than there is room for.
        """
        account = self.account
        if account["is_too_much"]:
            raise RuntimeError("orders: more followed from one event than there is room for")
        self._hear_halts()
        outputs: list[Output] = []
        if count := int(account["output_count"]):
            told = self._accounts["outputs"][0, :count].tolist()
            for kind, symbol, at, reason, time in told:
                outputs.append(self.tellers[symbol].output(kind, at, self._words[reason], time))
            account["output_count"] = account["command_count"] = 0
            for table in NOTES:
                account[f"{table}_count"] = 0
        for teller in self.tellers:
            teller.put_away()
        return outputs

    def note(self, table: str, at: int) -> tuple[Any, ...]:
        """Return a row of a table of notes."""
        return self._accounts[table][0, at].item()  # type: ignore[no-any-return]

    # --- what a person must look at ----------------------------------------------------------------------------------

    def _mark_halts(self) -> None:
        """Mark the symbols at which a person must look, where the breaker was last given another reason."""
        if self.breaker is not None:
            for row, teller in zip(self.symbols, self.tellers, strict=True):
                if teller.halt_reason and teller.halt_reason != self.breaker.reason:
                    row["halts"] = HALTED_BEFORE

    def _hear_halts(self) -> None:
        for row, teller in zip(self.symbols, self.tellers, strict=True):
            if row["halts"]:  # the breaker wasn't told yet: it will be
                teller.on_halt(int(row["halts"]))
            if row["halted"] and self.breaker is not None:
                teller.on_halt(int(row["halted"]))
                self.breaker.reason = teller.halt_reason
            row["halts"] = row["halted"] = 0
