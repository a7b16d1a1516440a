"""Market data that led to no output, collected until it is written as one row of the journal.

By wall clock trades come one by one, and a mark price each second. A row for each would be many times as large as what
it says: most of it would be its hash.
"""

from __future__ import annotations

from voltrade.journal.market import MARKET, encode_market
from voltrade.journal.rows import encode
from voltrade.model import MarkPrice, Trades


class PendingMarketRow:
    """Collects market data of one symbol until it is written.

    Attributes:
        items: how many trades and mark prices there are.
    """

    def __init__(self) -> None:
        self.items = 0
        self._facts: list[Trades | MarkPrice] = []

    def add(self, fact: Trades | MarkPrice) -> None:
        """Add what the core has taken, in its order."""
        self._facts.append(fact)
        self.items += len(fact) if isinstance(fact, Trades) else 1

    def take_row(self, time: int) -> tuple[str, int, bytes]:
        """Return kind, time and body of a row with all that was added, and forget it; without marks it is `Trades`."""
        kind, body = self._row()
        return kind, time, body

    def _row(self) -> tuple[str, bytes]:
        facts, self._facts, self.items = self._facts, [], 0
        blocks = [fact for fact in facts if isinstance(fact, Trades)]
        if len(blocks) == len(facts):
            return encode(Trades.join(blocks))
        return encode(facts[0]) if len(facts) == 1 else (MARKET, encode_market(facts))
