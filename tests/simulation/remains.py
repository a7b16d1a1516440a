"""Gathers what a session leaves behind into its `Evidence`, which the judges read."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from simulation.evidence import Evidence, JournalRow, Json, Life, Request, Strike, Told, read_journal
from simulation.plans import Plan
from voltrade.runs.replay import replay
from voltrade.simulated.tape_playback import TapePlayer

DOWN = ("cut", "maintenance", "ban", "stop", "unreachable")
"""Strikes under which no request can succeed, or nobody can send one."""
HALTED = ("TRADING_HALT", "BREAK")
"""States of a symbol in which every order is refused."""


@dataclass(frozen=True)
class Remains:
    """What is left when all has stopped.

    Attributes:
        parameters: the plan's settings, all of them.
        root: the session's folder, and `folders` those of its runs.
        player: the tape as far as it was played.
        times: when the venue opened, and when all was stopped.
    """

    plan: Plan
    parameters: Json
    root: Path
    folders: Sequence[Path]
    player: TapePlayer
    requests: Sequence[Request]
    dials: Sequence[tuple[int, str]]
    hung_up: Sequence[tuple[int, str]]
    undialled: Sequence[tuple[int, str]]
    lives: Sequence[Life]
    told: Sequence[Told]
    times: tuple[int, int]

    @property
    def opened(self) -> int:
        return self.times[0]

    def when(self, seconds: float) -> int:
        """Return a moment of the plan, ms of the venue's clock."""
        return self.opened + int(seconds * 1000)


def evidence_of(left: Remains, is_replayed: bool = True) -> Evidence:
    """Read the logs and journals, and replay each if `is_replayed`."""
    plan, paths = left.plan, [folder / "journal.db" for folder in left.folders]
    truth = [orjson.loads(line) for line in (left.root / "venue/truth.jsonl").read_bytes().splitlines()]
    return Evidence(
        seed=plan.seed,
        settings=json.loads(json.dumps(left.parameters, default=str)),
        instrument=next(row for row in truth if row["kind"] == "start")["instruments"][0],
        truth=truth,
        journals=[_rows(path) for path in paths],
        requests=sorted(left.requests, key=lambda request: (request.sent, request.arrived)),
        strikes=_strikes(left),
        rest_down=_rest_down(left),
        tape=_tape(left.player),
        lives=list(left.lives),
        opened=left.opened,
        quiet=left.when(plan.faults_s),
        judged=left.times[1],
        replay=[_differences(path) for path in paths if is_replayed and path.exists()],
        dials=list(left.dials),
        hung_up=list(left.hung_up),
        undialled=list(left.undialled),
        told=list(left.told),
    )


LASTING = ("stick_triggers",)
"""Strikes of a moment whose effect stays."""


def _strikes(left: Remains) -> list[Strike]:
    rows = left.plan.rows or ("",) * len(left.plan.strikes)
    return [
        Strike(kind, left.when(at), left.times[1] if kind in LASTING else left.when(at + for_s), {**facts, "row": row})
        for (at, kind, for_s, facts), row in zip(left.plan.strikes, rows, strict=True)
    ]


def _rest_down(left: Remains) -> list[tuple[int, int]]:
    return [
        (left.when(at), left.when(at + (for_s or facts.get("for_s", 0))))
        for at, kind, for_s, facts in left.plan.strikes
        if kind in DOWN or _refuses_all(kind, facts.get("with", {}))
    ]


def _refuses_all(kind: str, facts: Json) -> bool:
    """Whether every order is refused, those that reduce too."""
    if kind == "restrict":
        return not facts.get("spares_reducing", False)
    return kind == "status" and facts["status"] in HALTED


def _tape(player: TapePlayer) -> list[tuple[int, str, str, int, bool]]:
    unit = player.market.instrument
    return [
        (number, f"{unit.price(price):f}", f"{unit.quantity(lots):f}", time, maker)
        for number, price, lots, time, maker in player.trades[: player.trades_played].rows()
    ]


def _rows(path: Path) -> list[JournalRow]:
    """The rows of a journal; none where it is gone or can't be read."""
    try:
        return read_journal(path)
    except sqlite3.DatabaseError:
        return []


def _differences(path: Path) -> int:
    try:
        return replay(path).differences
    except Exception:
        return -1


def trace_hash(evidence: Evidence) -> str:
    """Return a hash of everything that was said between engine and venue, and of all that was decided."""
    digest = hashlib.sha256()
    for row in (*evidence.requests, *evidence.truth, *journal_rows(evidence), *evidence.lives):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def journal_rows(evidence: Evidence) -> list[JournalRow]:
    """Return the rows of all journals, one after the other."""
    return [row for journal in evidence.journals for row in journal]
