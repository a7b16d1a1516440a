"""What a simulated session leaves behind for its judges: the venue's log, the journals, and what the harness saw.

Nothing here is voltrade's opinion of itself except the journals, which are judged too. Nothing of voltrade is imported.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One row of a journal; `body` is its JSON, or bytes for a block of trades."""

    seq: int
    time: int
    kind: str
    body: Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the harness carried it, times in ms of the venue's clock."""

    sent: int
    """When the engine handed it to the transport."""
    arrived: int
    """When the venue took it; -1 where it never did."""
    answered: int
    """When the engine had the answer, or the failure; -1 where it never had one."""
    method: str
    path: str
    client_id: str
    """newClientOrderId, origClientOrderId or clientAlgoId; empty without one."""
    status: int
    """HTTP status as the engine saw it; 0 without an answer."""
    code: int
    retry_after_s: int
    """Retry-After of the answer, or what its text says of a ban's end, -1 for less than 1 s; 0 without."""
    used_weight: int
    """What the venue said was used in this minute, -1 where it did not say."""
    durable: bool
    """For an order's POST: whether a second reader of the journal's file saw its intent committed at arrival."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault of the plan: its kind, from when to when it may be felt (ms of the venue's clock), and its facts.

    `until` is the end of the fault's own effect; for one of a moment it equals `begin`.
    """

    kind: str
    begin: int
    until: int
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Life:
    """One engine process: when it began and ended, and how: `ended`, `failed`, `killed`, `running` (at the end), or
    `refused`: one that was not even started."""

    begin: int
    end: int
    how: str
    reason: str = ""
    run: int = 0
    """Which of `Evidence.journals` it wrote."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an operator asked over the control socket, and the answer; empty without one."""

    time: int
    asked: Json
    answer: Json


@dataclass(frozen=True, repr=False)
class Evidence:
    """All that is known of one session.

    Attributes:
        settings: the session's parameters by name, as plain JSON; prices and quantities are of the exchange's filters.
        instrument: tick_size, step_size as decimal texts; the venue's `start` row has all filters.
        truth: rows of the venue's ground-truth log.
        journals: the journal of each run on the account, in order of their begin.
        requests: all REST requests.
        strikes: the faults that were planned, in order.
        rest_down: stretches (begin, end) in which no request could have succeeded whatever the engine did:
            maintenance, a ban that the plan imposed, a cut network.
        tape: what really traded after the venue opened and the history before it:
            (id, price, quantity, time in ms, buyer is maker), amounts as decimal texts.
        lives: the engine processes, in order.
        opened, quiet, judged: when trading began, when faults stopped, and when judgement was made.
        clean_entries: when the same session without faults sends entries; None where it was not run.
        lags: of the engine's loop, in ms: (time, lag) above 100 ms.
        replay: differences found when each journal was replayed, or -1 where it could not be.
        dials: websockets that the venue took: (time, URL).
        hung_up: websockets that an engine closed, or learnt to be closed: (time, URL).
        undialled: those that were tried and that nobody took, likewise.
        told: operators' commands and what was answered.
        struck: how often a strike of the harness met an engine, by its place in the plan.
    """

    seed: int
    settings: Json
    instrument: Json
    truth: list[Json]
    journals: list[list[JournalRow]]
    requests: list[Request]
    strikes: list[Strike]
    rest_down: list[tuple[int, int]]
    tape: list[tuple[int, str, str, int, bool]]
    lives: list[Life]
    opened: int
    quiet: int
    judged: int
    clean_entries: list[int] | None = None
    lags: list[tuple[int, int]] = field(default_factory=list)
    replay: list[int] = field(default_factory=list)
    dials: list[tuple[int, str]] = field(default_factory=list)
    hung_up: list[tuple[int, str]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    struck: dict[int, int] = field(default_factory=dict)
    undialled: list[tuple[int, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        """Write it short: a test that fails writes its arguments."""
        return f"Evidence(seed={self.seed}, {len(self.truth)} rows)"

    def of_kind(self, *kinds: str) -> list[Json]:
        """Return the rows of the venue's log of some kinds."""
        return [row for row in self.truth if row["kind"] in kinds]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken: which oracle saw it, when (ms of the venue's clock), and what in one line."""

    oracle: str
    kind: str
    """A short name of the kind of violation, such as `uncovered` or `fill missing`, to count by."""
    time: int
    text: str


def _plain(body: bytes) -> Any:
    """Read JSON; bars of a warm-up have indicators that are NaN, which only the slower reader takes."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def read_journal(path: Path) -> list[JournalRow]:
    """Read the committed rows of a journal's file, past voltrade's own reader; of market data only the trades."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT seq, time, kind, body FROM journal ORDER BY seq").fetchall()
        samples = dict(connection.execute("SELECT kind, body FROM sample").fetchall())
    return [_row(seq, time, kind, plain_body(samples.get(kind, b""), body)) for seq, time, kind, body in rows]


def plain_body(sample: bytes, stored: bytes) -> bytes:
    """Return a stored body: after a 0 as it is, after a 1 deflated with the sample of its kind as dictionary."""
    return zlib.decompressobj(-15, zdict=sample).decompress(stored[1:]) if stored[0] else stored[1:]


def _row(seq: int, time: int, kind: str, body: bytes) -> JournalRow:
    kind = "Trades" if kind == "Market" else kind
    return JournalRow(seq, time, kind, body if kind == "Trades" else _plain(body))
