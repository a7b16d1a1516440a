"""Every way in which a notebook or an engine can be ended from outside, at every moment that matters to a position.

A venue of its own plays a dense tape by the wall clock; papermill runs the live notebook on it; something is killed.
An entry fills at once, in many parts, so that its first stop is soon replaced by a larger one, which the venue delays
for seconds. Then the venue's own log says whether the policy was carried out, and whether the position was ever without
a stop.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.papermill_runs import Started
from support.sessions import Truth, facts_of
from support.wall_venue import PARAMETERS, a_venue, dense_tape, rule_file

from voltrade import journal
from voltrade.engine import ctl
from voltrade.model import OrderUpdate, Snapshot
from voltrade.runs.replay import replay

WITHIN_MS = 5_000
"""Longest from a kill (or, where the engine died, its restart) until the policy is carried out."""

BACK_WITHIN_MS = 8_000
"""Longest from the kill of an engine to the first event of the one that its guardian starts; other tests run too."""
NEVER = 1_000_000_000_000_000

AGAIN_AND_AGAIN = {"max_holding_bars": 40, "cooldown_bars": 1}
"""In for some twelve seconds, out, and in again: a moment that a busy machine has missed comes once more."""
LATER = {"first_bar": 120}
"""An engine that is killed finds its position as it was: it enters once, when any notebook follows the session."""

LATE_STOPS = [{"do": "late", "on": "POST /fapi/v1/algoOrder", "skip": 1, "times": 0, "for_s": 1.0}]
"""Every stop but the first, which the second is to replace, reaches the exchange after a second."""


class Story:
    """A session that papermill runs on a venue of its own, and what that venue saw."""

    def __init__(self, folder: Path, venue: str, **parameters: Any) -> None:
        self.folder = folder
        given = {"venue": venue, "rule": rule_file(folder), **PARAMETERS, **parameters}
        # A state of its own: a later venue may listen at the address of an earlier one.
        environment = {"VOLTRADE_STATE": str(folder / "state")}
        self.session = Started(folder / "today.ipynb", environment=environment, **given)

    @property
    def truth(self) -> Truth:
        return Truth.of(self.folder)


@contextmanager
def begin(
    folder: Path, latency_ms: int = 50, first_bar: int = 75, faults: Sequence[Any] = (), **parameters: Any
) -> Iterator[Story]:
    with ExitStack() as stack:
        # The live notebook talks to it as `sim`, whose keys are these.
        api = ("sim-key", "sim-secret")
        venue = stack.enter_context(a_venue(folder, latency_ms=latency_ms, api=api, faults=faults))
        story = Story(folder, venue, latency_ms=latency_ms, first_bar=first_bar, **parameters)
        stack.callback(story.session.clean_up)
        yield story


# --- what the venue saw -----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """The account at a moment, by the venue's log."""

    time: int = 0
    position: Decimal = Decimal(0)
    asked: dict[str, Decimal] = field(default_factory=dict)
    """Of every entry, by its client id, what has not filled yet and still may."""
    stops: dict[str, Decimal] = field(default_factory=dict)
    """Quantities of the stops at the exchange; from its trigger on a stop is on its way out with all it was for."""
    exits: dict[str, Decimal] = field(default_factory=dict)
    """What market exits that are under way have still to fill."""
    entries: int = 0
    stops_placed: int = 0
    """How often the position in hand was given a stop."""

    @property
    def is_covered(self) -> bool:
        return abs(self.position) <= max([*self.stops.values(), *self.exits.values()], default=Decimal(0))

    @property
    def is_protected(self) -> bool:
        """Whether `protect` is carried out: no entry can fill any more, and a stop covers the whole position."""
        return self.is_covered and not self.asked

    @property
    def is_bare(self) -> bool:
        return bool(self.position) and not (self.stops or self.exits)


def seen(truth: Truth) -> Iterator[Seen]:
    """The account after each row of the log that changed it; always the same object."""
    now = Seen()
    yield now
    for row in truth.rows:
        name, kind = row.get("client_order_id", ""), row["kind"]
        purpose = next((letter for letter in "estx" if letter in name.rpartition("-")[2]), "")
        unfilled = {"e": now.asked, "x": now.exits}.get(purpose)
        if kind == "order" and unfilled is not None:
            if row["status"] == "NEW":
                unfilled[name] = Decimal(row["quantity"])
                now.entries += purpose == "e"
            else:
                unfilled.pop(name, None)
        elif kind == "fill":
            now.position = Decimal(row["position"])
            now.stops_placed = now.stops_placed if now.position else 0
            if unfilled is not None:
                unfilled[name] -= Decimal(row["quantity"])
                if unfilled[name] == 0:
                    del unfilled[name]
        elif kind == "algo" and row["type"] == "STOP_MARKET":
            if row["status"] in ("NEW", "TRIGGERING", "TRIGGERED"):
                now.stops_placed += row["status"] == "NEW"
                now.stops[name] = Decimal(row["quantity"])
            else:
                now.stops.pop(name, None)
        else:
            continue
        now.time = row["time"]
        yield now


def last_seen(truth: Truth) -> Seen:
    *_, last = seen(truth)
    return last


def protected_from(truth: Truth) -> int:
    """Since when the account has been protected without a break, ms; NEVER where it is not."""
    since: int | None = None
    for now in seen(truth):
        since = (now.time if since is None else since) if now.is_protected else None
    return NEVER if since is None else since


def longest_bare(truth: Truth, until: int, restarted: int) -> int:
    """Longest time with a position and no stop at all, ms; while nobody was there to send one it does not count."""
    longest, since = 0, 0
    for now in seen(truth):
        longest = max(longest, now.time - max(since, restarted) if since else 0)
        since = (since or now.time) if now.is_bare else 0
    return max(longest, until - max(since, restarted) if since else 0)


def check_story(story: Story, reasons: set[str]) -> None:
    """Whatever was killed: the record is true, the journal whole, nothing was doubled, and the position protected."""
    run, truth = story.session.run, story.truth
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "ended", record
    assert record["end_reason"] in reasons
    assert journal.verify(run / "journal.db", record["head"]).ok
    again = replay(run / "journal.db")
    assert again.differences == 0, again.shown
    placed = [row["client_order_id"] for row in truth.kind("accepted") if row["action"].startswith("place")]
    assert len(placed) == len(set(placed))
    facts = facts_of(run)
    told = {f.trade_id for f in facts if isinstance(f, OrderUpdate) and f.trade_id}
    told |= {fill.trade_id for f in facts if isinstance(f, Snapshot) for fill in f.fills}
    before_the_end = int(datetime.fromisoformat(record["ended"]).timestamp() * 1000) - 1_000
    assert {fill["trade_id"] for fill in truth.kind("fill") if fill["time"] < before_the_end} <= told
    since = restarted_at(run)
    assert longest_bare(truth, int(time.time() * 1000), since) <= WITHIN_MS


def restarted_at(run: Path) -> int:
    """When an engine that was killed was back, ms; 0 where none was."""
    restarts = [row.fact.time for row in journal.read(run / "journal.db") if row.kind == "EngineRestarted"]
    return max(restarts, default=0)


# --- moments and kills ----------------------------------------------------------------------------------------------

MOMENTS: dict[str, tuple[Callable[[Seen], bool], dict[str, Any]]] = {
    "flat": (lambda now: now.entries == 0, {"first_bar": 1_000_000}),
    "entry in flight": (lambda now: bool(now.asked) and now.position == 0, {"latency_ms": 2_000}),
    "stop being resized": (lambda now: now.stops_placed == 1 and not now.is_covered, {"faults": LATE_STOPS}),
    "in position": (lambda now: now.position > 0 and now.is_protected, {}),
}

INTERRUPTED, LOST = {"INTERRUPTED"}, {"NOTEBOOK_LOST"}
KILLS: dict[tuple[str, str], set[str]] = {
    ("INT", "papermill"): INTERRUPTED,
    ("TERM", "papermill"): INTERRUPTED,
    ("KILL", "papermill"): LOST,
    ("INT", "kernel"): INTERRUPTED,
    ("TERM", "kernel"): LOST,
    ("KILL", "kernel"): LOST,
    ("INT", "both"): INTERRUPTED,
    ("TERM", "both"): INTERRUPTED | LOST,
    ("KILL", "both"): LOST,
    ("INT", "engine"): {"SIGINT"},
    ("TERM", "engine"): {"SIGTERM"},
    # The guardian passes them on.
    ("INT", "guardian"): {"SIGINT"},
    ("TERM", "guardian"): {"SIGTERM"},
    # The guardian starts another engine, which the notebook follows; then papermill is interrupted.
    ("KILL", "engine"): INTERRUPTED,
    # The engine goes on without entries, and says so; then papermill is interrupted.
    ("KILL", "guardian"): INTERRUPTED,
}

Case = tuple[str, str, str]
"""A signal, whom it is sent to, and the moment."""

EVERY_COMMIT: list[Case] = [
    ("INT", "papermill", "in position"),
    ("KILL", "kernel", "stop being resized"),
    ("TERM", "engine", "in position"),
    ("KILL", "engine", "entry in flight"),
]

AT_ONCE = 2
"""Sessions that go on at the same time: most of one's time is waiting."""

CASES = [
    pytest.param(
        (name, whom, moment), marks=() if (name, whom, moment) in EVERY_COMMIT else pytest.mark.campaign,
        id=f"{name} {whom}, {moment}",
    )
    for name, whom in KILLS
    for moment in MOMENTS
]  # fmt: skip


def play(case: Case, folder: Path) -> None:
    """Begin a session, kill what the case says when it says, and hold what became of it against the policy."""
    name, whom, moment = case
    is_moment, how = MOMENTS[moment]
    folder.mkdir()
    with begin(folder, **{**(LATER if whom == "engine" else AGAIN_AND_AGAIN), **how}) as story:
        one = story.session
        one.until_it_follows()
        papermill, kernel, engine = one.papermill.pid, one.kernel, one.record["pid"]
        pids = {"papermill": [papermill], "kernel": [kernel], "both": [papermill, kernel], "engine": [engine]}
        pids["guardian"] = [one.guardian]
        one.until(lambda: is_moment(last_seen(story.truth)))
        for pid in pids[whom]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[f"SIG{name}"])
        since = int(time.time() * 1000)
        if (name, whom) == ("KILL", "engine"):
            one.until(lambda: restarted_at(one.run) > 0, 30)
            assert restarted_at(one.run) - since <= BACK_WITHIN_MS
            one.until(lambda: ctl.ask(one.run, {"op": "status"}).get("state") == "running")
        if (name, whom) == ("KILL", "guardian"):
            one.until(lambda: "GUARDIAN_LOST" in ctl.ask(one.run, {"op": "status"}).get("alarms", ""), 10)
            assert "alarms" not in acknowledged(one.run)
            assert {row.fact.reason for row in journal.read(one.run / "journal.db", kind="Operator")} > {
                "GUARDIAN_LOST"
            }
        if whom in ("engine", "guardian") and name == "KILL":
            one.papermill.send_signal(signal.SIGINT)
            since = int(time.time() * 1000)
        one.until(lambda: one.record["state"] == "ended", 30)
        assert protected_from(story.truth) - since <= WITHIN_MS
        check_story(story, KILLS[name, whom])
        if KILLS[name, whom] == INTERRUPTED and whom != "kernel":
            one.check_whole()
        if one.record["end_reason"] == "NOTEBOOK_LOST":
            one.until(lambda: one.record.get("review") == "review.html", 90)


def acknowledged(run: Path) -> dict[str, Any]:
    """The status once an operator has ended the alarms."""
    ctl.ask(run, {"op": "ack", "reason": "seen"})
    deadline = time.monotonic() + 10
    while "alarms" in (status := ctl.ask(run, {"op": "status"})) and time.monotonic() < deadline:
        time.sleep(0.05)
    return status


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compiled_rules: None
) -> dict[Case, BaseException | None]:
    """What was wrong with each case that is asked for; all have ended."""
    items = (item for item in request.session.items if item.path == request.path)
    cases: list[Case] = [item.callspec.params["case"] for item in items]  # type: ignore[attr-defined]
    root = tmp_path_factory.mktemp("kills")
    dense_tape()  # once for all
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stories = {case: pool.submit(play, case, root / str(number)) for number, case in enumerate(cases)}
    return {case: story.exception() for case, story in stories.items()}


@pytest.mark.parametrize("case", CASES)
def test_whatever_is_killed_the_position_is_protected(case: Case, played: dict[Case, BaseException | None]) -> None:
    if wrong := played[case]:
        raise wrong
