"""Whether a position of ours has the take-profit that its settings ask for, for all of it, and its stop where it was
planned (O5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from simulation.entries import CALM_MS, felt
from simulation.evidence import Json, Request, Violation
from simulation.reading import NAME, ZERO, Placed, Reading, VenueOrder

PLACED_MS = 10_000
"""So long after its entry, or a minute after the last fault that was felt, a position has its take-profit."""
AGAIN_CODES = (-1003, -1004, -1008, -1015, -1021, -4003, -4005, -4014, -4023)
"""Refusals after which one is sent again: of the moment, or of filters, which are read again."""
PRICED_MS = 15_000
"""A stop that is sent before its entry's fill is known is measured from the last price: one of the time before."""
FAR = Decimal("1.1")
"""Times the distance that the settings say."""
_CAME_BACK = re.compile(r"r[0-9a-z]+$")
"""What an engine that came back adds to the session's name."""
COARSE = 50
"""Ticks that filters which become coarser make one of."""


@dataclass
class Trip:
    """A stretch in which a position of ours was open: how large it was from when on, and which round trips made it."""

    sizes: list[tuple[int, Decimal]]
    end: int
    names: set[str]


def missing(reading: Reading) -> list[Violation]:
    """Return the first position whose take-profit is missing, or too small, though nothing was in its way.

    One that has ended, or was refused for good, or whose request led to nothing, is not sent again; nor is one placed
    for a position that is being closed.
    """
    if not reading.evidence.settings.get("take_profit_atr"):
        return []
    for trip in _trips(reading):
        targets = [each for each in reading.books.algos.values() if _purpose(each.client_id, trip.names) == "t"]
        for begin, end in _pieces(reading, trip, targets):
            due = _calm_from(reading, begin) + PLACED_MS
            if due < end and _is_tended(reading, begin, due) and not _is_given_up(reading, trip, targets, due):
                text = f"{reading.symbol}: no take-profit for all of the position since {begin}"
                return [Violation("O5", "no take-profit", begin, text)]
    return []


def _trips(reading: Reading) -> Iterator[Trip]:
    sizes: list[tuple[int, Decimal]] = []
    moments = [each for each in reading.moments if each.symbol == reading.symbol]
    for moment in moments:
        if moment.ours:
            sizes.append((moment.time, abs(moment.ours)))
        elif sizes:
            yield _trip(reading, sizes, moment.time)
            sizes = []
    if sizes:
        yield _trip(reading, sizes, reading.evidence.judged)


def _trip(reading: Reading, sizes: list[tuple[int, Decimal]], end: int) -> Trip:
    fills = [fill for fill in reading.fills if sizes[0][0] <= fill.time <= end and fill.whose == "ours"]
    matches = [NAME.match(fill.client_id) for fill in fills]
    return Trip(sizes, end, {_name(match) for match in matches if match})


def _name(match: re.Match[str]) -> str:
    """The session and number of a round trip, whichever of the engines that came back has named the order."""
    return f"{_CAME_BACK.sub('', match[1])}-{match[2]}"


def _purpose(client_id: str, names: set[str]) -> str:
    """The letter of an order's purpose, where it is of these round trips."""
    match = NAME.match(client_id)
    return match[3] if match and _name(match) in names else ""


def _pieces(reading: Reading, trip: Trip, targets: list[VenueOrder]) -> Iterator[tuple[int, int]]:
    """Stretches of a trip in which no take-profit rested for all of the position."""
    times = {time for time, _ in trip.sizes} | {each.begun for each in targets} | {each.updated for each in targets}
    begin, size, sizes = 0, ZERO, dict(trip.sizes)
    for time in sorted(each for each in times if trip.sizes[0][0] <= each < trip.end):
        size = sizes.get(time, size)
        rests = [each.quantity for each in targets if each.begun <= time and (each.is_open or time < each.updated)]
        if max(rests, default=ZERO) >= size:
            if begin:
                yield begin, time
            begin = 0
        else:
            begin = begin or time
    if begin:
        yield begin, trip.end


def _calm_from(reading: Reading, begin: int) -> int:
    """The first time from a begin on that no fault is felt, in the minute before and until it is due."""
    at = begin
    for since, until in sorted(felt(reading)):
        if since <= at + PLACED_MS and until >= at - CALM_MS:
            at = until + CALM_MS + 1
    return at


def _is_tended(reading: Reading, begin: int, due: int) -> bool:
    lives = reading.evidence.lives
    return any(life.begin <= max(begin, due - PLACED_MS - CALM_MS) and due <= life.end for life in lives)


def _is_given_up(reading: Reading, trip: Trip, targets: list[VenueOrder], due: int) -> bool:
    posts = [post for post in reading.posts.values() if post.sent <= due]
    if any(_purpose(post.client_id, trip.names) == "x" for post in posts):
        return True
    if any(not each.is_open and each.updated <= due for each in targets):
        return True
    asked = [post for post in posts if _purpose(post.client_id, trip.names) == "t"]
    return any(post.client_id not in reading.placed_by_id and not _is_tried_again(post) for post in asked[-1:])


def _is_tried_again(post: Request) -> bool:
    return 400 <= post.status < 500 and post.code in AGAIN_CODES


def misplaced(reading: Reading) -> list[Violation]:
    """Return the first stop whose trigger is further from its entry than the settings say, or on the wrong side of it.

    Its distance follows from the bar of the entry's signal; it is measured from what the entry filled at, or from a
    price that was traded shortly before it was sent.
    """
    for client_id, placed in reading.placed_by_id.items():
        match = NAME.match(client_id)
        if match is None or match[3] != "s" or not placed[0].asked.get("trigger_price"):
            continue
        begun = [row for name, rows in reading.intents.items() for row in rows if _purpose(name, {_name(match)}) == "e"]
        for journal, row in begun[:1]:
            bar = reading.bars[journal].get(row.body["bar_number"])
            if bar and bar["decision"].get("atr") and not _is_near(reading, placed[0], bar, _name(match)):
                text = f"{client_id} triggers at {_trigger(reading, placed[0])}, not where it was planned"
                return [Violation("O5", "stop misplaced", placed[0].time, text)]
    return []


def _trigger(reading: Reading, placed: Placed) -> Decimal:
    return Decimal(placed.asked["trigger_price"]) * reading.units[placed.asked["symbol"]][0]


def _is_near(reading: Reading, placed: Placed, bar: Json, name: str) -> bool:
    tick, settings = reading.units[placed.asked["symbol"]][0], reading.evidence.settings
    most = Decimal(str(bar["decision"]["atr"])) * Decimal(str(settings.get("stop_atr", 2))) * FAR + COARSE * tick
    prices = [fill.price for fill in reading.fills if _purpose(fill.client_id, {name}) == "e"] + [placed.last]
    since = placed.time - PRICED_MS
    prices += [Decimal(price) for _, price, _, time, _ in reading.evidence.tape if since <= time <= placed.time]
    trigger, side = _trigger(reading, placed), placed.asked["side"]
    gaps = [side * (trigger - price) for price in prices]
    return any(0 < gap <= most for gap in gaps)
