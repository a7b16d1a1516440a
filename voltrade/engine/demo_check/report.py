"""What the check found: a row for each thing that was tried, and a verdict for each question that was open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from voltrade.engine.checks import Check

Verdict = Literal["ok", "differs", "failed"]

MARKS: Mapping[Verdict, str] = {"ok": "ok", "differs": "~~", "failed": "!!"}
"""How a row begins where it is printed. A row that differs names a known variation that trading copes with."""
LEGEND = "ok: as expected   ~~: differs in a way that trading copes with   !!: trading does not cope with it"

QUESTIONS = {
    "private stream": "Which host and path carry private events; is `events=` needed?",
    "fill events": "Lag and order of TRADE_LITE, ACCOUNT_UPDATE, ORDER_TRADE_UPDATE; assets in `B`; fee asset?",
    "query after ACK": "Does a GET at once after an ACK say FILLED; have POST and DELETE `avgPrice`, `cumQuote`?",
    "duplicate ids": "Code of a duplicate `clientAlgoId` and client order id?",
    "wrong prices": "-2021 or -4142 for a crossed trigger; -1111 or -4014 off the tick?",
    "large stops": "Reduce-only stop larger than the position; two full-size ones, one triggered: the other?",
    "stops after the close": "What rests of stops of both kinds when the position closes?",
    "triggered child": "Client id of the triggered order, time in TRIGGERING, order of events?",
    "orders without position": "Do v3 `account` and `positionRisk` show a symbol with orders only?",
    "countdown": "Does `countdownCancelAll` cancel conditional orders?",
    "listen key": "Does DELETE listenKey push listenKeyExpired; PUT afterwards; a made-up listen key?",
    "unknown orders": "Code of an unknown order and conditional order?",
    "order/test": "Does `order/test` check margin?",
    "halted symbols": "What do TRADING_HALT and NO_TRADING refuse?",
    "key without addresses": "Can a key without a list of addresses trade?",
    "funding event": "`a.S` and sign of `bc` at funding?",
}
"""Questions that only an exchange can answer, by their short names."""


def record_name(now: datetime) -> str:
    """Return the name of a check's folder where the user gives none: of the time, and of this process."""
    return f"demo_check-{now:%Y%m%d-%H%M%S}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried: what was expected, what happened, and how long it took."""

    part: str
    item: str
    expected: str
    found: str
    verdict: Verdict
    took_ms: int = 0

    def __str__(self) -> str:
        wanted = "" if self.verdict == "ok" or not self.expected else f"   expected {self.expected}"
        return f"{MARKS[self.verdict]}  {self.item:<28}  {self.found}{wanted}"


@dataclass
class Report:
    """The rows of one check, in the order in which they were tried."""

    endpoint: str
    symbol: str
    version: str
    kind: str = ""
    """Kind of the account, such as `one-way, single-asset, isolated, PERPETUAL, USDT`."""
    begun: int = 0
    """When the check began, ms UTC."""
    rows: list[Row] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """What was seen for a question, by its short name."""
    has_traded: bool = False

    @property
    def failed(self) -> list[Row]:
        """Rows that were not as trading needs them."""
        return [row for row in self.rows if row.verdict == "failed"]

    @property
    def passed(self) -> bool:
        """Whether the check came to its end and no row failed."""
        return self.has_traded and not self.failed

    @property
    def outcome(self) -> str:
        """The last line: passed, or what wasn't as expected."""
        if self.passed:
            differs = sum(row.verdict == "differs" for row in self.rows)
            known = f", {differs} of them different in a way that trading copes with" if differs else ""
            return f"passed: {len(self.rows)} rows{known}"
        named = "; ".join(row.item for row in self.failed) or "no order was tried"
        return f"NOT passed: {named}"

    @property
    def next_step(self) -> str:
        """What to do after this check."""
        if self.passed:
            return "start sessions with these settings and this account"
        if left := next((row.found for row in self.failed if row.item in ("clean-up", "interrupted")), ""):
            return left if "close it" in left else "run the check again"
        if self.has_traded or not any(row.part == "account" for row in self.failed):
            return "trade no real money with this version: put the table of verdicts and the failed rows into an issue"
        return "mend what the rows marked !! say, then run the check again"

    def summary(self, verdicts: str) -> list[str]:
        """Return the last lines of a check that is printed: what failed once more, what to do next, and the outcome.

        Args:
            verdicts: Path of the table of verdicts.
        """
        answered = f"{len(self.answers)} of {len(QUESTIONS)} questions that only an exchange can answer were answered"
        lines = [f"{answered}: {verdicts} is a table for an issue", f"next: {self.next_step}", self.outcome]
        return ["", *(str(row) for row in self.failed), *lines]

    def add(self, check: Check) -> None:
        """Add a row of the start-up table."""
        self.rows.append(
            Row("account", check.item, check.wanted, check.found, "ok" if check.ok else "failed"),
        )

    def verdicts(self) -> str:
        """Return an answer to each question as a Markdown table, to be pasted into an issue."""
        lines = ["| question | seen |", "|---|---|"]
        for name, question in QUESTIONS.items():
            seen = self.answers.get(name, "open: not seen in this check").replace("|", "\\|")
            lines.append(f"| {question} | {seen} |")
        head = f"demo_check of {self.symbol} at {self.endpoint}, version {self.version}: {self.outcome}\n"
        return "\n".join([head, *lines]) + "\n"

    def plain(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "passed": self.passed, "outcome": self.outcome, "next_step": self.next_step}
