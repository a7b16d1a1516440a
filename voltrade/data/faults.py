"""What can be wrong with a file of trades, mark prices or funding rates, and what is done about it.

Every fault has a name, a rule and a policy: refuse the file, drop the rows, or keep and count them. An `Inspection`
lists the faults that were found, with their rows, and holds the rows that were accepted. A tape is refused at the first
fault (`tape`), `fetch` follows the policy of each fault, and `data verify` only reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np

from voltrade.errors import ConfigError, DataError
from voltrade.model import Bools, Int64s


class Policy(StrEnum):
    """What happens to the rows that have a fault."""

    REFUSE = "refuse"
    """The whole file is refused."""
    DROP = "drop"
    """The rows are dropped; their ids are then missing, which taints the bars around them."""
    FEW = "few"
    """Some rows of marks, of funding or of a page of REST are dropped (see `few_of`); for more, or a row of a file of
    trades, the file is refused."""
    FLAG = "flag"
    """The rows are kept and counted, and corrected where the rule says how."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that rows or files can have."""

    rule: str
    """What is correct."""
    policy: Policy
    """The default."""
    allowed: tuple[Policy, ...]


_REFUSE, _DROP, _FLAG, _FEW = Policy.REFUSE, Policy.DROP, Policy.FLAG, Policy.FEW

FAULTS: dict[str, Fault] = {
    "checksum": Fault("the bytes must be those that the CHECKSUM file states", _REFUSE, (_REFUSE, _FLAG)),
    "unreadable": Fault("the file must be readable as trades", _REFUSE, (_REFUSE,)),
    "missing_side": Fault("every row must say whether the buyer was the maker", _REFUSE, (_REFUSE, _DROP)),
    "bad_value": Fault(
        "numbers must be plain, multiples of tick, step or 1, and in bounds; few: 10 or 1 % of marks, funding, REST",
        _FEW,
        (_FEW, _REFUSE, _DROP),
    ),
    "impossible_value": Fault(
        "mark prices must lie between low and high, rates and intervals in bounds", _DROP, (_REFUSE, _DROP)
    ),
    "cut_line": Fault(
        "a last line that ends with a number must have its end, else the number may be cut; it is dropped",
        _DROP,
        (_REFUSE, _DROP),
    ),
    "microseconds": Fault("times must be in milliseconds; microseconds are converted", _FLAG, (_REFUSE, _FLAG)),
    "unsorted": Fault("ids must ascend; flagged rows are put into their place", _FLAG, (_REFUSE, _DROP, _FLAG)),
    "duplicate_id": Fault("an id must not be there twice", _DROP, (_REFUSE, _DROP)),
    "conflicting_id": Fault("rows of one id must agree; dropped are all but the first", _REFUSE, (_REFUSE, _DROP)),
    "repeated_at_midnight": Fault(
        "an id must be in one day only; dropped are both of its rows, and REST is asked", _DROP, (_REFUSE, _DROP)
    ),
    "special_funding": Fault(
        "a special funding rate, as of a dividend, is paid beside the regular one of its time, or alone",
        _FLAG,
        (_FLAG,),
    ),
    "not_positive": Fault("price and quantity must be positive", _DROP, (_REFUSE, _DROP)),
    "time_back": Fault("time must not go back from id to id", _REFUSE, (_REFUSE, _DROP)),
    "wrong_day": Fault("times must lie in the day or month that the file's name states", _REFUSE, (_REFUSE, _DROP)),
    "other_prices": Fault(
        "mark prices must be within 5 % of the last trades, in the median of a day", _REFUSE, (_REFUSE, _FLAG)
    ),
    "one_sided": Fault("a day must have takers on both sides", _REFUSE, (_REFUSE, _FLAG)),
    "id_gap": Fault("ids must follow each other; `data fill` asks REST for the missing ones", _FLAG, (_REFUSE, _FLAG)),
    "missing_day": Fault("no day must be missing between two, nor in a month", _FLAG, (_REFUSE, _FLAG)),
    "open_day": Fault(
        "trades around a day, or REST, must say that it is whole; `data fetch` asks", _FLAG, (_REFUSE, _FLAG)
    ),
    "open_interval": Fault(
        "where the interval of funding changes, REST must say whether rows are missing; `data fetch` asks",
        _FLAG,
        (_REFUSE, _FLAG),
    ),
    "other_market": Fault("trades must be of USD-M Futures, not of spot or COIN-M", _REFUSE, (_REFUSE, _FLAG)),
    "other_symbol": Fault("the file, and every row, must be of the symbol", _REFUSE, (_REFUSE, _DROP, _FLAG)),
    "empty": Fault("the file must hold at least one trade", _REFUSE, (_REFUSE, _FLAG)),
}
"""Every fault, in the order of reports."""

Policies = Mapping[str, Policy]

DEFAULT_POLICIES: Policies = {name: fault.policy for name, fault in FAULTS.items()}
"""Policies for the store."""

TAPE_POLICIES: Policies = {
    name: Policy.FLAG if name in ("id_gap", "microseconds", "missing_day") else Policy.REFUSE for name in FAULTS
}
"""Policies for a file that is played as a tape: only faults that change nothing are accepted."""


def policies(given: Mapping[str, str]) -> Policies:
    """Return the default policies with some changed, by name of fault and policy.

    Raises:
        ConfigError: there is no such fault, or the fault doesn't allow this policy.
    """
    chosen = dict(DEFAULT_POLICIES)
    for name, policy in given.items():
        if name not in FAULTS:
            raise ConfigError(f"policy: the fault must be one of {', '.join(FAULTS)}, was {name!r}")
        allowed = FAULTS[name].allowed
        if policy not in allowed:
            raise ConfigError(f"policy: {name} must be one of {', '.join(allowed)}, was {policy!r}")
        chosen[name] = Policy(policy)
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """A fault that was found."""

    fault: str
    policy: Policy
    rows: Int64s
    """Line numbers of the rows, ascending; empty where the whole file has the fault."""
    detail: str
    """The rule, and the value in the first row."""

    def __str__(self) -> str:
        count = f" in {len(self.rows)} row{'s' * (len(self.rows) != 1)} ({_spans(self.rows)})" if len(self.rows) else ""
        return f"{self.fault}{count}: {self.detail} [{self.policy}]"


_SPANS_SHOWN = 6


def _spans(rows: Int64s) -> str:
    """Write row numbers as ranges: `3, 7-9, 20`; only the first ranges where there are many."""
    breaks = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1), len(rows)]
    spans = [(rows[start], rows[end - 1]) for start, end in pairwise(breaks[: _SPANS_SHOWN + 1])]
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(shown) + ", …" * (len(breaks) - 1 > _SPANS_SHOWN)


Accepted = TypeVar("Accepted")


@dataclass(frozen=True, slots=True, eq=False)
class Inspection(Generic[Accepted]):
    """The faults of a file, and its accepted rows."""

    name: str
    kind: str
    """`aggTrades`, `trades` for raw trades that were aggregated here, `marks` or `funding`."""
    rows_read: int
    findings: tuple[Finding, ...]
    accepted: Accepted | None
    """The accepted rows, sorted by id or time; None where the file is refused."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """How many rows of each order type aren't trades."""
    gaps: int = 0
    """How many gaps the ids have."""
    missing: int = 0
    """How many ids are missing in the gaps."""
    edges: tuple[int, int] | None = None
    """First and last id or time in the file's day or month, with dropped rows; None where they aren't known."""
    raw_edges: tuple[int, int] | None = None
    """First and last id of raw trades that were taken, or of rows that are no trades; None for other files."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each fault; 1 for a fault of the whole file."""
        return {finding.fault: max(len(finding.rows), 1) for finding in self.findings}

    @property
    def refused(self) -> Finding | None:
        """The first fault for which the file is refused; None where it is accepted."""
        return next((finding for finding in self.findings if finding.policy is Policy.REFUSE), None)


Span = tuple[int, int]
"""First millisecond UTC, and the first one after the end."""


def unreadable(name: str, kind: str, error: DataError) -> Inspection[Any]:
    """Return the inspection of a file that can't be read."""
    detail = str(error).removeprefix(f"{name}: ")
    return Inspection(name, kind, 0, (whole_file("unreadable", DEFAULT_POLICIES, detail),), None)


def with_finding(inspection: Inspection[Accepted], fault: str, policies: Policies, detail: str) -> Inspection[Accepted]:
    """Add a fault of the whole file before the others."""
    finding = whole_file(fault, policies, detail)
    accepted = inspection.accepted if finding.policy is Policy.FLAG else None
    return replace(inspection, findings=(finding, *inspection.findings), accepted=accepted)


def whole_file(fault: str, policies: Policies, detail: str) -> Finding:
    """Return a fault of a whole file."""
    return Finding(fault, policies[fault], np.empty(0, np.int64), detail)


class Findings:
    """Collects the faults that are found while rows are checked."""

    def __init__(self, policies: Policies, few: int = 0) -> None:
        """Take the policies, and how many rows `Policy.FEW` drops."""
        self.policies, self._few = policies, few
        self._rows: dict[str, list[Int64s]] = {}
        self._detail: dict[str, str] = {}

    def add(self, fault: str, rows: Int64s, detail: str) -> None:
        """Add a fault of some rows."""
        self._rows.setdefault(fault, []).append(rows)
        self._detail.setdefault(fault, detail)

    def where(self, fault: str, wrong: Bools, rows: Int64s, rule: str, values: Any = None) -> Bools:
        """Add a fault of the rows that are wrong; return `wrong`."""
        if wrong.any():
            at = int(np.argmax(wrong))
            self.add(fault, rows[wrong], rule if values is None else f"{rule}, was {values[at]}")
        return wrong

    @property
    def refused(self) -> bool:
        return any(finding.policy is Policy.REFUSE for finding in self.all())

    def all(self) -> tuple[Finding, ...]:
        rows = {name: np.unique(np.concatenate(self._rows[name])) for name in FAULTS if name in self._rows}
        return tuple(Finding(name, self._policy(name, each), each, self._detail[name]) for name, each in rows.items())

    def _policy(self, name: str, rows: Int64s) -> Policy:
        """Return what is done about a fault of some rows."""
        if self.policies[name] is not Policy.FEW:
            return self.policies[name]
        return Policy.DROP if len(rows) <= self._few else Policy.REFUSE


def few_of(rows: int) -> int:
    """Return up to how many bad rows are dropped; more are no accident, but other data, or other units."""
    return max(10, rows // 100)
