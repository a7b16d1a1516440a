"""Whether the market was heard: a journal has the tape's trades up to its end, in time, but for holes that could not be
filled (O11)."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import pairwise

from simulation.entries import is_felt
from simulation.evidence import Evidence, JournalRow, Violation
from simulation.reading import Reading, Trade, trades_of

UNHEARD_MS = {"ended": 10_000, "running": 40_000}
"""A session that has ended, or runs, has in its journal what traded until so long ago: blocks wait for an event."""
LATE_MS = 60_000
"""Trades are heard within this time where no fault is felt; a block is written when the next event comes."""
FILLED_MS = 30_000
"""So long after the first trade behind a hole it is filled, or given up."""
BACKFILL_WEIGHT = 1_200
"""Of a minute: half of its weight is kept for orders, and a hole that would cost more stays one."""
PAGES = "/fapi/v1/aggTrades"
DIALLED_MS = 20_000
"""A market stream that brings nothing is dialled again within this time."""


def unheard(reading: Reading) -> list[Violation]:
    """Return what of the tape an engine has not heard, or late."""
    blocks = [block for journal in reading.evidence.journals for block in _blocks(journal)]
    ids = sorted({trade[0] for _, trades in blocks for trade in trades})
    last = ids[-1] if ids else -1
    return [*_silent_at_the_end(reading, last), *_holes(reading, ids), *_late(reading, blocks)]


def _blocks(journal: list[JournalRow]) -> Iterator[tuple[int, list[Trade]]]:
    return ((row.time, trades_of(row.body)) for row in journal if row.kind == "Trades")


def _silent_at_the_end(reading: Reading, last: int) -> list[Violation]:
    """Trades from long before the end of the last engine, after the last that it has heard."""
    evidence = reading.evidence
    if not evidence.lives or evidence.lives[-1].how not in UNHEARD_MS:
        return []
    end = min(evidence.lives[-1].end, evidence.judged)
    until = end - UNHEARD_MS[evidence.lives[-1].how]
    missing = [time for number, _, _, time, _ in evidence.tape if number > last and time < until]
    if not missing or is_felt(reading, end - LATE_MS, end):
        return []
    text = f"{len(missing)} trades before the end at {end} are in no journal"
    return [Violation("O11", "market silent", missing[0], text)]


def _holes(reading: Reading, ids: list[int]) -> list[Violation]:
    """The first hole that could have been filled: trades that are missing between others."""
    times = {number: time for number, _, _, time, _ in reading.evidence.tape}
    for before, after in pairwise(ids):
        lost = [number for number in range(before + 1, after) if number in times]
        if lost and not _is_unfillable(reading, times[lost[0]], times.get(after, 0) + FILLED_MS):
            text = f"trades {lost[0]} to {lost[-1]} are in no journal, and could have been asked for"
            return [Violation("O11", "hole not filled", times[lost[0]], text)]
    return []


def _is_unfillable(reading: Reading, begin: int, end: int) -> bool:
    """Whether old trades could not be had in a stretch: they were refused, the weight was used, or the engine died."""
    evidence = reading.evidence
    if any(down <= end and up >= begin for down, up in evidence.rest_down) or reading.was_lost(begin):
        return True
    first = bisect.bisect_left(evidence.requests, begin - FILLED_MS, key=lambda each: each.sent)
    for each in evidence.requests[first:]:
        if each.sent > end:
            break
        is_refused = each.path == PAGES and each.status != 200
        if is_refused or each.used_weight + 20 > BACKFILL_WEIGHT or each.status in (418, 429):
            return True
    return False


def _late(reading: Reading, blocks: list[tuple[int, list[Trade]]]) -> list[Violation]:
    """The first block that came late though no fault was felt since the minute before its first trade."""
    for time, trades in blocks:
        traded = trades[0][3] if trades else time
        is_late = time - traded > LATE_MS and traded >= reading.evidence.opened
        if is_late and not is_felt(reading, traded - LATE_MS, time):
            return [Violation("O11", "trades late", traded, f"heard {time - traded} ms after they traded")]
    return []


def not_dialled_again(evidence: Evidence) -> list[Violation]:
    """The first market stream that brings nothing for long enough, while nothing else is wrong, and is not dialled."""
    dials = [time for time, url in evidence.dials if "/market" in url]
    for strike in evidence.strikes:
        begin, end = strike.begin, strike.begin + DIALLED_MS
        is_silent = {"deaf": "category", "black_hole": "on"}.get(strike.kind, "")
        if strike.facts.get(is_silent) != "market" or strike.until < end or any(begin <= each <= end for each in dials):
            continue
        others = [(each.begin, each.until) for each in evidence.strikes if each is not strike]
        others += [(row["time"], row["time"]) for row in evidence.of_kind("fault") if row["time"] != begin]
        is_alive = any(life.begin + DIALLED_MS <= begin and end < life.end for life in evidence.lives)
        if is_alive and not any(since <= end and until >= begin - DIALLED_MS for since, until in others):
            text = f"the market's stream brought nothing for {DIALLED_MS} ms, and was not dialled again"
            return [Violation("O12", "stream not dialled", begin, text)]
    return []
