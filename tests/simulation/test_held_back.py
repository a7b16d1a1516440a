"""A halt after failed entries is a fault's doing only where the venue's log shows it of each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from simulation.evidence import Evidence, JournalRow, Json, Life, Request
from simulation.held_back import GIVEN_UP_MS, is_halted_by_faults
from simulation.reading import reading_of

T = 1_767_600_000_000
PLACE = "POST /fapi/v1/order"
REASON = "3 entries in a row were refused or never placed"
Doctor = Callable[[Evidence], Evidence]


def at(second: float) -> int:
    return T + int(second * 1000)


def sent(second: float, name: str, status: int = 503) -> Request:
    return Request(at(second), at(second), at(second), "POST", "/fapi/v1/order", name, status, 0, 0, 1, True)


def fault(second: float, do: str, **facts: Any) -> Json:
    return {"kind": "fault", "time": at(second), "do": do, "struck": PLACE, "number": 0, **facts}


def taken(second: float, name: str) -> Json:
    order = {"client_order_id": name, "symbol": "B", "side": 1, "quantity": "0.010", "price": "0"}
    order |= {"reduce_only": False, "close_position": False}
    return {"kind": "accepted", "time": at(second), "action": "place_order", "order_id": int(second), "asked": order}


def halted(second: float, mode: str = "HALTED", reason: str = REASON) -> JournalRow:
    return JournalRow(0, at(second), "BreakerChange", {"rule": "ON_HOLD", "mode": mode, "reason": reason})


UNDRAWN = {name: fact for name, fact in fault(40, "swallow").items() if name != "number"}
NAMES = [f"vt-e0-{trip}e1" for trip in range(1, 5)]
START: Json = {"kind": "start", "time": T, "wallet": "10000"}
START["instruments"] = [{"symbol": "B", "tick_size": "0.1", "step_size": "0.001"}]


def session() -> Evidence:
    """An entry that was there; then one that a fault refuses, one that it swallows, one that comes late; and a halt."""
    truth = [START, taken(10, NAMES[0]), fault(20, "refuse"), fault(40, "swallow"), fault(60, "late")]
    truth += [taken(90, NAMES[3])]
    requests = [sent(10, NAMES[0], 200), *(sent(20 * n, name) for n, name in enumerate(NAMES[1:], 1))]
    known: dict[str, Any] = {"seed": 1, "settings": {"symbol": "B"}, "instrument": {}, "strikes": [], "rest_down": []}
    known |= {"truth": truth, "journals": [[halted(75)]], "requests": requests, "tape": [], "opened": T}
    lives = [Life(T, at(200), "ended")]
    return Evidence(**known, lives=lives, quiet=at(100), judged=at(200))


def journal(*rows: JournalRow) -> Doctor:
    return lambda found: replace(found, journals=[[*rows]])


def truth(change: Callable[[list[Json]], Sequence[Json]]) -> Doctor:
    """Another log of the venue, in the order of time."""
    return lambda found: replace(found, truth=sorted(change(found.truth), key=lambda row: row["time"]))


def without(do: str, *more: Json) -> Doctor:
    """A fault of a kind did not strike, and the venue noted something else."""
    return truth(lambda rows: [*(row for row in rows if row.get("do") != do), *more])


CASES: list[tuple[str, bool, Doctor]] = [
    ("each was kept back", True, lambda found: found),
    ("the first was healthy", False, without("refuse", taken(20, NAMES[1]))),
    ("the second was healthy", False, without("swallow", taken(40, NAMES[2]))),
    ("the third was healthy", False, truth(lambda rows: [*rows[:4], taken(60, NAMES[3])])),
    ("of one nothing is known", False, without("swallow")),
    ("one was there though it is said to be swallowed", False, truth(lambda rows: [*rows, taken(41, NAMES[2])])),
    ("one came late, but in time", False, truth(lambda rows: [*rows[:5], taken(60 + GIVEN_UP_MS / 1000, NAMES[3])])),
    ("one that was late never came", True, truth(lambda rows: rows[:5])),
    ("one was only answered late", False, without("swallow", fault(40, "delay_answer"))),
    ("one was struck by nothing that was drawn", False, without("swallow", UNDRAWN)),
    ("only two had left", False, lambda found: replace(found, requests=found.requests[2:])),
    (
        "a healthy one came after them",
        False,
        lambda found: replace(found, requests=[*found.requests, sent(70, "vt-e0-5e1")]),
    ),
    (
        "an exit after them counts neither way",
        True,
        lambda found: replace(found, requests=[*found.requests, sent(70, "vt-e0-4x1")]),
    ),
    ("it is halted by something else", False, journal(halted(75, reason="a position is not ours"))),
    ("it is halted by something else too", False, journal(halted(75), halted(80, reason="a position is not ours"))),
    ("it is halted no more", False, journal(halted(75), halted(80, "ACTIVE", ""))),
    ("it halts again", True, journal(halted(70, reason="?"), halted(71, "ACTIVE", ""), halted(75))),
    ("it never halted", False, journal()),
]


@pytest.mark.parametrize(("is_so", "doctor"), [each[1:] for each in CASES], ids=[each[0] for each in CASES])
def test_only_what_the_venues_log_shows_of_each_entry_excuses_a_halt(is_so: bool, doctor: Doctor) -> None:
    assert is_halted_by_faults(reading_of(doctor(session()))) is is_so
