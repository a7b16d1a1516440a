"""Ids that are in two days: the archive has files that begin with the last id of the day before, of another trade."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise
from typing import Any

from voltrade.data.faults import Inspection, Policies, Policy, whole_file
from voltrade.data.kinds import TRADES
from voltrade.data.store import Store
from voltrade.data.stored_day import StoredDay, counts_alike

FAULT = "repeated_at_midnight"

MOST_REPEATED = 1_000
"""More ids in two days aren't repeated: then the days count their ids differently."""


def repeated_ids(before: StoredDay, day: StoredDay) -> int:
    """Return how many ids at most are in two consecutive days; 0 where the days count their ids differently."""
    follows = before.day + timedelta(1) == day.day
    count = before.last - day.first + 1
    return count if follows and counts_alike(before.metadata, day.metadata) and 0 < count <= MOST_REPEATED else 0


def resolve_midnights(store: Store, days: Iterable[StoredDay], policies: Policies) -> list[Inspection[Any]]:
    """Apply the policy to ids that are in two of some stored days, and report them.

    Dropped are both rows of such an id, since one contradicts the other: the id is then missing, which taints its bar,
    until REST has said which is right.
    """
    found: list[Inspection[Any]] = []
    for before, day in pairwise(days):
        count = repeated_ids(before, day)
        if not count:
            continue
        first, last = day.first, before.last
        policy = policies[FAULT]
        if policy is Policy.DROP:
            for each in (before, day):
                store.remove_trades(each.symbol, each.day, first, last)
        name = f"{TRADES.name}/{day.symbol}/{day.day}"
        rule = f"an id must be in one day only, {first} to {last} are in {before.day} too"
        found.append(Inspection(name, "aggTrades", day.rows, (whole_file(FAULT, policies, rule),), None))
    return found
