"""A row of the start-up table, and what prevents a start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from voltrade.errors import ExchangeError


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was found, what it must be (empty where anything is allowed), and whether it is right.

    `is_ours` tells that the exchange holds a position of ours: whatever is wrong, a session must look after it then.
    `will_be_set` tells that the row is right only once the start has set the account, its last step.
    `is_warning` tells that the session may start, but can't do what a session is for.
    """

    item: str
    found: str
    wanted: str = ""
    ok: bool = True
    is_ours: bool = False
    will_be_set: bool = False
    is_warning: bool = False

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Check:
        """Return the row that `plain` made; a record of an earlier version may lack fields."""
        return Check(**{field.name: plain[field.name] for field in fields(Check) if field.name in plain})

    @property
    def mark(self) -> str:
        """How the row begins where it is printed."""
        return "!!" if not self.ok else "~~" if self.is_warning else "ok"

    @property
    def told(self) -> str:
        """What was found, and what it must be where it isn't: the one wording of all commands, starts and notebooks."""
        is_wrong = self.is_warning or not self.ok
        return f"{self.found}, must be {self.wanted}" if is_wrong and self.wanted else self.found

    @property
    def marked(self) -> str:
        """The row's words, after its mark where they need one."""
        return self.told if self.mark == "ok" else f"{self.mark} {self.told}"

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
    return "; ".join(f"{check.item}: {check.told}" for check in checks if not check.ok)


def failed_row(error: ExchangeError) -> Check:
    """Return the row of a request that failed: what has happened, and what to do."""
    return Check(error.item, f"{error.says} ({error})" if error.says else str(error), error.wanted, ok=False)


def told(error: BaseException) -> str:
    """Return an error as a start and a command tell it: a failed request with what to do."""
    return refused([failed_row(error)]) if isinstance(error, ExchangeError) and error.wanted else str(error)


def rounded(amount: str | Decimal) -> str:
    """Return an amount with two decimals and separators of thousands."""
    return f"{Decimal(amount):,.2f}"
