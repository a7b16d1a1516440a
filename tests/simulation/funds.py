"""Whether the books' wallet is the venue's, in calm (O2)."""

from __future__ import annotations

import bisect
from decimal import Decimal

from simulation.entries import CALM_MS, COMPARED_MS, NEWS_MS, differs, is_felt
from simulation.evidence import Violation
from simulation.reading import ZERO, Reading, money


def books_differ(reading: Reading) -> list[Violation]:
    """Return the first valuation whose wallet the venue did not have in the last 2 s, a minute after a fault was felt.

    So a transfer that was never booked is seen, or was twice, or a result that no fill made. While the account has a
    position of somebody else's, and a minute after, what its fills made may be in no book of ours; and while it differs
    in any way, what was moved and no event told.
    """
    rows = reading.evidence.of_kind("start", "fill", "account")
    times, wallets = [row["time"] for row in rows], [Decimal(row["wallet"]) for row in rows]
    for _, row in reading.of_kind("EquityPoint"):
        time, wallet = row.time, money(row.body["wallet"])
        first = max(bisect.bisect_right(times, time - NEWS_MS) - 1, 0)
        known = wallets[first : bisect.bisect_right(times, time)]
        if not known or wallet in known or _is_foreign(reading, time):
            continue
        if differs(reading, time) and any(
            wallet == each - amount for each in known for amount in _untold(reading, time)
        ):
            continue
        if not is_felt(reading, time - CALM_MS, time):
            text = f"the books have a wallet of {wallet}, the venue {known[-1]}"
            return [Violation("O2", "wallet differs", time, text)]
    return []


def _untold(reading: Reading, until: int) -> set[Decimal]:
    """What was moved, but by fills, until a time, and no event told how much: the sums that some of it makes."""
    events = [row.body for _, row in reading.of_kind("AccountUpdate")]
    told = {event["time"] for event in events if event["change"]}
    sums, before = {ZERO}, ZERO
    for row in reading.evidence.of_kind("start", "fill", "account"):
        change, before = Decimal(row["wallet"]) - before, Decimal(row["wallet"])
        if (
            row["kind"] == "account"
            and change
            and row["time"] not in told
            and row["time"] <= until
            and len(sums) < 1_000
        ):
            sums |= {each + change for each in sums}
    return sums


def _is_foreign(reading: Reading, time: int) -> bool:
    """Whether the account has a position of somebody else's, or had one in the minute before."""
    times = [fill.time for fill in reading.fills]
    first, last = bisect.bisect_right(times, time - COMPARED_MS) - 1, bisect.bisect_right(times, time)
    return any(fill.held != fill.ours for fill in reading.fills[max(first, 0) : last])
