"""A store whose unreadable days are skipped and reported."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from voltrade.data.faults import Inspection, unreadable
from voltrade.data.kinds import Kind
from voltrade.data.store import Store
from voltrade.data.stored_day import StoredDay
from voltrade.errors import DataError


class ReadableStore(Store):
    """A store that treats an unreadable day as if it weren't stored.

    Attributes:
        unreadable: the unreadable days that were found so far.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        super().__init__(root)
        self.unreadable: dict[tuple[Kind, str, date], Inspection[Any]] = {}

    def day(self, kind: Kind, symbol: str, day: date) -> StoredDay | None:
        try:
            return super().day(kind, symbol, day)
        except DataError as error:
            self.skip(kind, symbol, day, error)
            return None

    def skip(self, kind: Kind, symbol: str, day: date, error: DataError) -> None:
        """Add a day to the unreadable ones."""
        advice = DataError(f"{error}; it is skipped; delete its file to fetch it again")
        self.unreadable[kind, symbol, day] = unreadable(f"{kind.name}/{symbol}/{day}", kind.name, advice)
