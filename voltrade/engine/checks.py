"""A row of the start-up table, and what prevents a start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was found, what it must be (empty where anything is allowed), and whether it is right."""

    item: str
    found: str
    wanted: str = ""
    ok: bool = True

    def plain(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def refused(checks: Iterable[Check]) -> str:
    """Return why the session must not start; empty if it may."""
    return "; ".join(f"{check.item}: must be {check.wanted}, was {check.found}" for check in checks if not check.ok)


def rounded(amount: str | Decimal) -> str:
    """Return an amount with two decimals and separators of thousands."""
    return f"{Decimal(amount):,.2f}"
