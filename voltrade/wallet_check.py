"""Why the exchange's wallet differs from our books: as its income history says, never guessed.

Money whose cause isn't known is no transfer: it may be the loss of trades that aren't ours, or of fills that nobody has
told us of. So a difference is booked only where the history of the wallet, from the last moment at which both agreed,
adds up to what the wallet has become; after some readings that don't add up it is told, and booked as unexplained.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from voltrade import risk
from voltrade.model import AccountUpdate, Alert, Income, OrderUpdate, Output, Snapshot, money_text
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.order_states import RETRY_AFTER_MS
from voltrade.orders.records import ADJUSTED, BREAKER_UPDATED, FUNDED, NO_SYMBOL, TRANSFERRED, BooksEvent
from voltrade.symbol_state import SymbolState

MOST_READINGS = 6
"""So many readings, with pauses that double, may leave a difference unexplained: a minute, if each succeeds at once.
Others between them, for whatever reason, don't count. Entries aren't held up meanwhile."""
NEAR_MS = 15_000
"""How far the time of a reading may be from the moment at which the exchange read the wallet for it."""
TOLD_WITHIN_MS = 10_000
"""The user stream tells funding and transfers within this time; what is younger may be told yet, and is not booked."""
MOST_TOLD = 32
"""So many payments are remembered, so that one that is told twice is booked once."""
NOT_SAVED = ("readings", "read_again_at", "filled_at", "told")
"""Attributes that matter within a run only."""
TRADED = ("REALIZED_PNL", "COMMISSION")
"""Kinds of income that fills make."""


class Shares(NamedTuple):
    """What a difference is made of, in money: exchange's wallet - ours."""

    funding: int = 0
    symbol: str = ""
    """Whose funding it is; empty where it is that of several symbols."""
    transfers: int = 0
    others: int = 0
    """What trades that aren't ours have made; all of a difference that is unexplained."""
    paid_at: int = 0
    """When the newest of the funding was paid, ms."""


class WalletCheck:
    """Holds the wallet against the account's income history.

    Attributes:
        agreed_at, agreed_wallet: when the exchange's wallet was last the one of our books, ms, and what it was.
        funding, transfers: what was booked since then from what the user stream told.
        readings: how many readings in a row have left a difference unexplained.
        read_again_at: when the next of them is due, ms.
        filled_at: time of the newest fill that the user stream or a snapshot has told, ms.
        told: the latest payments that the stream has told: time, wallet after it, amount.
    """

    def __init__(self) -> None:
        self.agreed_at = self.agreed_wallet = 0
        self.funding = self.transfers = 0
        self.readings = self.read_again_at = self.filled_at = 0
        self.told: list[list[int]] = []

    def note_fills(self, updates: Iterable[OrderUpdate]) -> None:
        """Note when the newest of the fills was made."""
        self.filled_at = max(self.filled_at, *(update.time for update in updates if update.trade_id), 0)

    def is_told_again(self, update: AccountUpdate) -> bool:
        """Note funding or a transfer of the user stream; return whether it was noted before: a message may repeat."""
        payment = [update.time, update.wallet, update.change]
        if payment in self.told:
            return True
        self.told = [*self.told[1 - MOST_TOLD :], payment]
        return False

    @property
    def since(self) -> int:
        """From when on the income history is wanted with a snapshot, ms; 0 where nothing is to be explained."""
        return max(self.agreed_at - NEAR_MS, 1) if self.readings else 0

    def note_agreement(self, time: int, wallet: int) -> None:
        """Note that the exchange's wallet is that of our books."""
        self.agreed_at, self.agreed_wallet = time, wallet
        self.funding = self.transfers = self.readings = self.read_again_at = 0

    def state(self) -> dict[str, int]:
        """Return what the next run needs to go on, as plain JSON values, for `restore`."""
        return {name: value for name, value in vars(self).items() if name not in NOT_SAVED}

    def restore(self, saved: Mapping[str, int]) -> None:
        """Go on from a saved state; what it lacks, being from before that was kept, begins anew.

        Raises:
            TypeError, ValueError: it isn't one that `state` returned.
        """
        for name, value in self.state().items():
            setattr(self, name, int(saved.get(name, value)))

    def pause(self, now: int) -> int | None:
        """Count a reading that has explained nothing, unless it came before its time; return how long to wait for the
        next, ms, or None after the last."""
        if now < self.read_again_at:
            return self.read_again_at - now
        if self.readings == MOST_READINGS:
            return None
        self.readings += 1
        self.read_again_at = now + (RETRY_AFTER_MS << (self.readings - 1))
        return self.read_again_at - now

    def shares(self, snapshot: Snapshot, ours: int, symbols: Container[str]) -> Shares | None:
        """Return what the difference of a snapshot's wallet from ours is made of.

        None where its income history doesn't say that: it wasn't read, or is behind the wallet; where the stream may
        still tell what it says; where no trade in it can have made what is left, so that the wallet may be an old one;
        or where the wallet may be older than the newest fill or payment that our books have.

        Args:
            snapshot: with the wallet, and its history since `since`.
            ours: the wallet of our books.
            symbols: those that are traded; funding of others is booked as a transfer, as the stream's is.
        """
        rows = self._since_agreement(snapshot)
        if rows is None:
            return None
        paid = [row for row in rows if row.kind == "FUNDING_FEE" and row.symbol in symbols]
        moved = [row for row in rows if row.kind not in TRADED and row not in paid]
        funding = sum(row.amount for row in paid) - self.funding
        transfers = sum(row.amount for row in moved) - self.transfers
        untold = [row.time for row in (*paid, *moved)] if funding or transfers else []
        if untold and max(untold) > snapshot.time - TOLD_WITHIN_MS:
            return None
        others = snapshot.wallet - ours - funding - transfers
        if others and all(row.kind not in TRADED for row in rows):
            return None
        told_at = max((time for time, *_ in self.told), default=0) if funding or transfers else 0
        newest = max(told_at, self.filled_at if others else 0)
        if newest > snapshot.time - NEAR_MS and all(row.time < newest for row in rows):
            return None
        payers = {row.symbol for row in paid}
        symbol = payers.pop() if len(payers) == 1 else ""
        return Shares(funding, symbol, transfers, others, max((row.time for row in paid), default=0))

    def _since_agreement(self, snapshot: Snapshot) -> Sequence[Income] | None:
        """Return the rows that lead from the wallet of the agreement to the snapshot's; None where none do.

        Where they begin and end is known to NEAR_MS alone, so the rows that add up are searched for there.
        """
        if snapshot.income is None:
            return None
        rows = sorted(snapshot.income, key=lambda row: row.time)
        times = [row.time for row in rows]
        sums = [0, *accumulate(row.amount for row in rows)]
        last_begin = bisect_right(times, self.agreed_at + NEAR_MS)
        first_end = bisect_right(times, snapshot.time - NEAR_MS)
        change = snapshot.wallet - self.agreed_wallet
        for begin in range(last_begin, -1, -1):
            for end in range(len(rows), max(begin, first_end) - 1, -1):
                if sums[end] - sums[begin] == change:
                    return rows[begin:end]
        return None


# --- what is booked ---------------------------------------------------------------------------------------------------


def count_once(books: AccountBooks, wallet: int) -> list[Output]:
    """Take off our books what the fills of the first snapshot have booked: they are in its wallet already.

    For the circuit breaker they stay profit and loss of the day.
    """
    counted = int(books.account["wallet"]) - wallet
    if not counted:
        return []
    books.account["wallet"] = wallet
    return books.react(BooksEvent(BREAKER_UPDATED, code=risk.TRANSFER, amount=-counted))


def book_funding(
    books: AccountBooks, states: Mapping[str, SymbolState], amount: int, named: str, paid_at: int
) -> list[Output]:
    """Book funding to the symbol that the exchange names; where it names none, to the only one with a position.

    With several positions, or where the one that paid has ended (the next one may have no fill yet), it is booked to
    the account alone.
    """
    open_symbols = [symbol for symbol, state in states.items() if state.monitor.in_round_trip]
    symbol = named or (open_symbols[0] if len(open_symbols) == 1 else "")
    index = states[symbol].index if symbol else 0
    is_known = bool(symbol) and 0 < books.rows("position", index)["opened_at"] <= paid_at
    return books.react(BooksEvent(FUNDED, index, amount=amount, code=0 if is_known else NO_SYMBOL))


def book_transfer(books: AccountBooks, amount: int, why: str) -> list[Output]:
    """Book money that is neither profit nor loss, and alert the operator."""
    alert = Alert(int(books.account["now"]), "TRANSFER", f"{why}: {money_text(amount)}")
    return [alert, *books.react(BooksEvent(TRANSFERRED, amount=amount))]


def book_shares(
    books: AccountBooks, states: Mapping[str, SymbolState], shares: Shares | None, difference: int
) -> list[Output]:
    """Book a difference of the exchange's wallet from ours; one without known shares as an unexplained adjustment.

    For the circuit breaker a transfer is neither profit nor loss; an adjustment counts where it is a loss.
    """
    funding, symbol, transfers, others, paid_at = shares or Shares(others=difference)
    outputs = book_funding(books, states, funding, symbol, paid_at) if funding else []
    outputs += book_transfer(books, transfers, "told by the income history alone") if transfers else []
    if not others:
        return outputs
    why = "trades that aren't ours" if shares else "the exchange's wallet differs from our books, and nothing says why"
    alert = Alert(int(books.account["now"]), "ADJUSTMENT", f"{why}: {money_text(others)}")
    return [*outputs, alert, *books.react(BooksEvent(ADJUSTED, amount=others))]
