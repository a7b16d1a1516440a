"""A row of the start-up table, and what prevents a start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from voltrade.errors import ExchangeError


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was found, what it must be (empty where anything is allowed), and whether it is right.

    `is_ours` tells that the exchange holds a position of ours: whatever is wrong, a session must look after it then.
    `will_be_set` tells that the row is right only once the start has set the account, its last step.
    """

    item: str
    found: str
    wanted: str = ""
    ok: bool = True
    is_ours: bool = False
    will_be_set: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def unchecked(item: str, found: str, wanted: str, is_waived: bool) -> Check:
    """Return the row of a check that was not passed; where `allow_unchecked` waives it, the row says so."""
    return Check(item, f"{found}; started unchecked" if is_waived else found, wanted, is_waived)


def has_our_position(checks: Iterable[Check]) -> bool:
    """Whether there is a position of ours, so that a session must start whatever is wrong, to look after it."""
    return any(check.is_ours for check in checks)


def refused(checks: Iterable[Check]) -> str:
    """Return what is wrong; empty if the session may start and trade."""
    return "; ".join(f"{check.item}: must be {check.wanted}, was {check.found}" for check in checks if not check.ok)


def failed_row(error: ExchangeError) -> Check:
    """Return the row of a request that failed: what has happened, and what to do."""
    return Check(error.item, f"{error.says} ({error})" if error.says else str(error), error.wanted, ok=False)


def told(error: BaseException) -> str:
    """Return an error as a start and a command tell it: a failed request with what to do."""
    if not isinstance(error, ExchangeError) or not error.wanted:
        return str(error)
    row = failed_row(error)
    return f"{row.item}: {row.found}; must be {row.wanted}"


def rounded(amount: str | Decimal) -> str:
    """Return an amount with two decimals and separators of thousands."""
    return f"{Decimal(amount):,.2f}"
