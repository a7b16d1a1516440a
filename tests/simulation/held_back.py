"""Whether a session stands halted for entries that the venue never had: drawn faults kept each of them back.

After so many failed entries in a row an engine halts, and is meant to. That they failed is its own opinion; here the
venue's log says whether a fault refused or swallowed them, or let them arrive when nobody could still wait for them.
"""

from __future__ import annotations

import re

from simulation.evidence import JournalRow, Request
from simulation.reading import NAME, Reading

FAILED = re.compile(r"([0-9]+) entries in a row were refused or never placed")
"""How the journal names such a halt: the number of entries. That each had failed it need not say."""
REFUSED = ("refuse", "swallow")
GIVEN_UP_MS = 10_000
"""An order that arrives this much later than it was sent is given up by then."""


def is_halted_by_faults(reading: Reading) -> bool:
    """Whether trading stands halted for nothing but failed entries in a row, and faults kept back each of them."""
    since = _standing(reading)
    named = [FAILED.search(str(row.body.get("reason", ""))) for row in since]
    counts = {int(found[1]) for found in named if found}
    if not since or not all(named):
        return False
    last = _entries(reading)[-max(counts) :]
    return len(last) == max(counts) and all(_is_kept_back(reading, post) for post in last)


def _standing(reading: Reading) -> list[JournalRow]:
    """The halts that the journals tell since trading was allowed last."""
    since: list[JournalRow] = []
    for _, row in reading.of_kind("BreakerChange"):
        since = [] if row.body["mode"] == "ACTIVE" else [*since, row]
    return since


def _entries(reading: Reading) -> list[Request]:
    """The entries that left, in their order: nothing is entered after a halt that stands to the end."""
    names = {name: NAME.match(name) for name in reading.posts}
    posts = [reading.posts[name] for name, parts in names.items() if parts and parts[3] == "e"]
    return sorted(posts, key=lambda post: post.sent)


def _is_kept_back(reading: Reading, post: Request) -> bool:
    """Whether a drawn fault kept an order from being at the venue, or from being there in time."""
    fault = reading.struck_requests.get((post.arrived, f"POST {post.path}"), {})
    placed = reading.placed_by_id.get(post.client_id, [])
    if "number" not in fault:
        return False
    if fault["do"] == "late":
        return all(each.time > post.arrived + GIVEN_UP_MS for each in placed)
    return fault["do"] in REFUSED and not placed
