"""Ids that are in two days: the archive has files that begin with the last id of the day before, of another trade."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise
from typing import Any

from voltrade.data.faults import Inspection, Policies, Policy, whole_file
from voltrade.data.kinds import TRADES
from voltrade.data.store import Store
from voltrade.data.stored_day import StoredDay, ids_between

FAULT = "repeated_at_midnight"

MOST_REPEATED = 1_000
"""More ids in two days aren't repeated: then the days count their ids differently."""


def repeated_ids(before: StoredDay, day: StoredDay) -> int:
    """Return how many ids at most are in two consecutive days; 0 where the days count their ids differently."""
    follows = before.day + timedelta(1) == day.day
    ids = ids_between(before, day)
    count = 0 if ids is None else ids[0] - ids[1] + 1
    return count if follows and 0 < count <= MOST_REPEATED else 0


def resolve_midnights(store: Store, days: Iterable[StoredDay], policies: Policies) -> list[Inspection[Any]]:
    """Apply the policy to ids that are in two of some stored days, and report them.

    Dropped are both rows of such an id, since one contradicts the other: the id is then missing, which taints its bar,
    until REST has said which is right. Rows of joined raw trades stay, since their ids are our own; such days are no
    tape.
    """
    found: list[Inspection[Any]] = []
    for before, day in pairwise(days):
        count = repeated_ids(before, day)
        if not count:
            continue
        last, first = ids_between(before, day) or (before.last, day.first)
        chosen = {**policies, FAULT: Policy.REFUSE} if day.metadata.made_of == "trades" else policies
        if chosen[FAULT] is Policy.DROP:
            for each in (before, day):
                store.remove_trades(each.symbol, each.day, first, last)
        name = f"{TRADES.name}/{day.symbol}/{day.day}"
        rule = f"an id must be in one day only, {first} to {last} are in {before.day} too"
        found.append(Inspection(name, "aggTrades", day.rows, (whole_file(FAULT, chosen, rule),), None))
    return found
