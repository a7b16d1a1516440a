"""Whether a run is what it was: its journal's chain, held to every place that says how it ended and what it traded.

The chain of hashes alone can't show that rows were cut off its end. So its head is compared with `run.json`, with what
the executed notebook notes and shows, and with a head that a person has from elsewhere, such as the last notification;
and `run.json` with the journal's first and last rows. Nothing of the run is executed. What was not checked is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from voltrade.runs import handover
from voltrade import journal
from voltrade.runs import run_file as records
from voltrade.errors import JournalError, SessionError, VoltradeError
from voltrade.model import EngineRestarted
from voltrade.strategy.rule_file import KEPT, RuleFile
from voltrade import journal_rows

NOT_WHOLE = "Not whole: something was altered, cut off or lost."
WHOLE = "Whole: nothing of what was checked was altered, cut off or lost."
AS_FAR = "Whole as far as it goes: "

_COMPARED = {"parameters", "epoch", "rule_sha256", "state", "end_reason", "head", "rows", "begun", "id"}
"""What of a record is held to the journal."""

_SHOWN_HEAD = re.compile(r"<td[^>]*>head</td><td[^>]*>([0-9a-f]{64})</td>")
"""The row of `Run.checks` in a notebook's output that a person reads the head from."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    ok: bool | None
    """None where nothing speaks against it, and nothing could prove it."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    chain: journal.VerifyResult
    checks: tuple[Check, ...]
    unchecked: tuple[str, ...]
    """What of the run was not checked."""

    @property
    def wrong(self) -> list[str]:
        """What was altered, cut off or lost, a line each."""
        return [f"{check.name}: {check.found}" for check in self.checks if check.ok is False]

    @property
    def ok(self) -> bool:
        """Whether nothing was found to be altered, cut off or lost."""
        return not self.wrong

    @property
    def unproven(self) -> list[str]:
        """Why rows could be missing at the end without being missed; empty where something outside names the head."""
        is_anchored = any(check.ok for check in self.checks if check.name in _OUTSIDE)
        return [c.found for c in self.checks if c.ok is None and not (is_anchored and c.name in _OUTSIDE)]

    @property
    def words(self) -> str:
        """The outcome in one sentence, which promises no more than was checked."""
        if not self.ok:
            return NOT_WHOLE
        return f"{AS_FAR}{'; '.join(self.unproven)}." if self.unproven else WHOLE


_OUTSIDE = ("notebook", "head given")
"""Checks against what is kept outside the run's folder."""


def verify(run: Path, notebook: Path | None = None, head: str = "") -> Verification:
    """Check a run that goes on, has ended or was killed.

    Args:
        run: its folder; or its executed notebook, with the folder beside it; or a journal alone.
        notebook: its executed notebook, by default the one beside the folder.
        head: the journal's last hash as it is known from elsewhere, such as the session's last notification.

    Raises:
        SessionError: there is no run, or no such notebook.
    """
    if run.suffix == ".ipynb":
        run, notebook = run.with_suffix(""), notebook or run
    if notebook is not None and not notebook.is_file():
        raise SessionError(f"notebook: must be an executed notebook, was {notebook}")
    is_alone = run.is_file()
    path = run if is_alone else run / records.JOURNAL
    if not (path.exists() or (run / records.RECORD).exists()):
        raise SessionError(f"run: must be the folder of a run, its notebook or its journal, was {run}")
    folder = run.resolve()
    beside = folder.with_name(f"{folder.name}.ipynb")
    found = _Run.read(path, None if is_alone else folder)
    outside = [*_notebook(found, notebook or beside)] if notebook or not is_alone else []
    outside += [_given(found, head)] if head else []
    if not outside:
        outside = [Check("notebook", "nothing outside the run's folder names its head", None)]
    checks = (_end(found), _rows(found), _head(found), _parameters(found), _rule(found), *outside)
    return Verification(found.chain, checks, tuple(_unchecked(found, notebook or beside)))


@dataclass(frozen=True, slots=True)
class _Run:
    """What the checks are made from."""

    path: Path
    """Of the journal."""
    folder: Path | None
    """None for a journal that is looked at alone."""
    record: Mapping[str, Any]
    chain: journal.VerifyResult
    start: Mapping[str, Any]
    """Body of the first row; empty where there is none that holds."""
    end: str | None
    """Reason in the last row; None where that is no end."""
    goes_on: bool
    beyond: int
    """An End row that others follow, 0 for none; an engine that is started again goes on after one."""

    @staticmethod
    def read(path: Path, folder: Path | None) -> _Run:
        # An engine that ends meanwhile has written its record before it is gone.
        goes_on = folder is not None and records.is_running(records.read(folder))
        record = records.read(folder) if folder is not None else {}
        goes_on = goes_on and record.get("state") in records.UNFINISHED
        if record and not goes_on:
            record = {**record, "state": records.state_of(record)}
        if not path.exists() and record and not _has_begun(record):
            return _Run(path, folder, record, journal.VerifyResult(0, ""), {}, None, goes_on, 0)
        chain = journal.verify(path)
        rows = _held(path, chain)
        start = rows[0].fact if rows and rows[0].kind == "Start" else {}
        ends = [row for row in rows if row.kind == "End"]
        restarts = [row.seq for row in rows if row.kind == EngineRestarted.__name__]
        end = ends[-1].fact.get("reason", "") if ends and ends[-1].seq == chain.seq else None
        beyond = [e.seq for e in ends if e.seq < chain.seq and not any(seq > e.seq for seq in restarts)]
        return _Run(path, folder, record, chain, start, end, goes_on, beyond[0] if beyond else 0)

    @property
    def state(self) -> str:
        return str(self.record.get("state", ""))

    @property
    def has_begun(self) -> bool:
        return bool(self.chain.seq) or _has_begun(self.record)

    @property
    def identity(self) -> str:
        """What the journal is named by; empty where that can't be read."""
        try:
            return journal.identity_of(self.path)
        except JournalError:
            return ""

    def place_of(self, head: str) -> int:
        """The row that a hash seals; 0 where no row that holds does."""
        if head == self.chain.head:
            return self.chain.seq
        try:
            place = journal.seq_of_head(self.path, head) if self.chain.seq else 0
        except JournalError:  # damaged, which the chain tells
            return 0
        return place if place <= self.chain.seq else 0


def _has_begun(record: Mapping[str, Any]) -> bool:
    """Whether a run's record says that its journal was begun."""
    return bool(record.get("begun")) or record.get("state") == "ended"


def _held(path: Path, chain: journal.VerifyResult) -> list[journal_rows.Row]:
    """The rows that tell of a run's beginnings and ends, as far as the chain holds."""
    if not chain.seq:
        return []
    kinds = ("Start", "End", EngineRestarted.__name__)
    rows: list[journal_rows.Row] = []
    for kind in kinds:
        with suppress(JournalError):  # damaged behind the rows that hold, which the chain tells
            rows += takewhile(lambda row: row.seq <= chain.seq, journal.read(path, kind=kind))
    return sorted(rows, key=lambda row: row.seq)


# --- the checks ------------------------------------------------------------------------------------------------------


def _end(run: _Run) -> Check:
    """How the run ended, by its record and by its journal."""
    if run.folder is not None and not run.record:
        return Check("end", f"{records.RECORD} is gone or can't be read", False)
    if run.beyond:
        return Check("end", f"row {run.beyond} ends the run, yet rows follow it", False)
    if run.folder is None:
        return Check("end", run.end or "no end was written, or it was cut off", True if run.end else None)
    stated = str(run.record.get("end_reason", ""))
    if run.state == "ended":
        return _ended(run, stated)
    if run.state == "failed":
        if stated != "ERROR":
            return Check("end", f"{records.RECORD} says failed, {stated or 'no reason'}; a failure is an ERROR", False)
        return Check("end", "failed, ERROR", True)
    if run.state not in (*records.UNFINISHED, "killed"):
        return Check("end", f"{records.RECORD} has the state {run.state!r}, which no run has", False)
    if stated not in ("", "ERROR"):  # which stays of an engine that failed and was started again
        return Check("end", f"{records.RECORD} has no end, yet names its reason, {stated}", False)
    if run.goes_on:
        return Check("end", "trades on, and has no end yet", None)
    if run.end is not None:
        return Check("end", f"ended, {run.end}; killed before {records.RECORD} said so", None)
    if not run.has_begun:
        return Check("end", "it never began its journal", None)
    return Check("end", "killed: no end was written, so rows missing at the end would not be missed", None)


def _ended(run: _Run, stated: str) -> Check:
    if not run.chain.ok:
        return Check("end", f"ended, {stated}, by {records.RECORD} alone", None)
    if run.end is None:
        return Check("end", f"{records.RECORD} says ended, {stated}; the journal has no such last row", False)
    if run.end != stated:
        return Check("end", f"{records.RECORD} says {stated or 'nothing'}, the journal's last row {run.end}", False)
    return Check("end", f"ended, {stated}", True)


def _rows(run: _Run) -> Check:
    """Whether the chain holds, from the first row, and is as long as the record says."""
    chain, stated = run.chain, run.record.get("rows")
    if not chain.ok:
        return Check("rows", f"row {chain.bad_seq}: {chain.rule}", False)
    if run.has_begun and not run.start:
        return Check("rows", f"{chain.seq:,} rows, the first of which must be a Start row", False)
    if run.state in records.OVER and stated != chain.seq and not (stated is None and run.state == "failed"):
        return Check("rows", f"{chain.seq:,} rows, {records.RECORD} says {stated!r}", False)
    return Check("rows", f"{chain.seq:,} rows, each sealed by the one before", True)


def _head(run: _Run) -> Check:
    """Whether the last row is the one that the record names."""
    head, stated = run.chain.head, str(run.record.get("head") or "")
    if not run.chain.ok:
        return Check("head", f"row {run.chain.seq} is the last that holds", False)
    if not stated:
        if run.state == "ended":
            return Check("head", f"{head}; {records.RECORD} names none", False)
        if run.state == "failed" and run.has_begun:
            return Check("head", f"{head}; {records.RECORD} names none", None)
        return Check("head", head, True)
    place = run.place_of(stated)
    if not place:
        return Check("head", f"{head}; {records.RECORD} names {stated}, which no row has", False)
    if run.state in records.OVER and place != run.chain.seq:
        return Check("head", f"{head}; {records.RECORD} names that of row {place:,}", False)
    return Check("head", head, True)


def _parameters(run: _Run) -> Check:
    """Whether the record has the parameters, the identity and the rule's hash that the journal's first row has."""
    if not run.start or not run.record:
        return Check("parameters", "nothing to compare", None if run.has_begun else True)
    if "parameters" not in run.start:
        return Check("parameters", "the journal's first row does not have them", None)
    started = {**run.start["parameters"], **{name: run.start.get(name, "") for name in ("epoch", "rule_sha256")}}
    stated = {**(run.record.get("parameters") or {}), **{n: run.record.get(n, "") for n in ("epoch", "rule_sha256")}}
    if "id" in run.record:
        started["id"], stated["id"] = run.identity, run.record["id"]
    names = sorted(started.keys() | stated.keys())
    lines = [
        f"{name} {started.get(name)!r} in the journal, {stated.get(name)!r} in {records.RECORD}"
        for name in names
        if not handover.is_same(started.get(name), stated.get(name))
    ]
    return Check("parameters", "; ".join(lines) or f"{len(started)} as in the journal's first row", not lines)


def _rule(run: _Run) -> Check:
    """Whether the run's copy of its rule file is the one of the hash in the journal."""
    if not run.start:
        return Check("rule", "not known", None if run.has_begun else True)
    name, sha256 = run.start["config"]["session"].get("rule", ""), run.start.get("rule_sha256", "")
    if not name:
        return Check("rule", "built in", True)
    try:
        RuleFile.named(name, run.path.parent).refuse_other_than(sha256)
    except VoltradeError as error:
        return Check("rule", str(error), False)
    return Check("rule", f"{name}, of hash {sha256}", True)


# --- what is kept outside --------------------------------------------------------------------------------------------


def _notebook(run: _Run, path: Path) -> Iterator[Check]:
    """Whether the executed notebook names the journal's last row, and notes what was traded."""
    if not path.is_file():
        yield Check("notebook", "no notebook beside the run, so nothing outside its folder names its head", None)
        return
    try:
        left = _Left.read(path)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        # Papermill may be writing it.
        yield Check("notebook", f"{path.name} can't be read: {type(error).__name__}", None)
        return
    yield from _named(run, path.name, str(left.noted.get("head", "")), left.shown)
    if lines := _noted_otherwise(run, left):
        yield Check("notebook's notes", f"in the metadata of {path.name}: {'; '.join(lines)}", False)


def _named(run: _Run, name: str, noted: str, shown: list[str]) -> Iterator[Check]:
    """The head that is noted binds; of those that are shown one must be ours, and others may be of other runs."""
    places = {head: run.place_of(head) for head in (noted, *shown) if head}
    missing = [head for head, place in places.items() if not place]
    ours = [place for place in places.values() if place]
    others = [head for head in missing if head != noted and any(places[head] for head in shown)]
    if missing and not others:
        yield Check("notebook", f"{name} names {missing[0]}, which no row has", False)
    elif noted and places[noted] != run.chain.seq:  # noted of runs that were over
        yield Check("notebook", f"{name} names the head of row {places[noted]:,} of {run.chain.seq:,}", False)
    elif not places:
        yield Check("notebook", f"{name} names no head", None)
    elif max(ours) < run.chain.seq:
        found = f"{name} names the head of row {max(ours):,}, and nothing outside those that follow"
        yield Check("notebook", found, None)
    else:
        yield Check("notebook", f"{name} names the head", True)
    if others:
        yield Check("other heads", f"{name} shows {others[0]} too, which no row of this run has", None)


def _noted_otherwise(run: _Run, left: _Left) -> list[str]:
    """What a notebook notes of its run that is not so: the parameters given to it, and how the run ended."""
    lines = [
        f"{name} {given!r}, traded with {traded!r}"
        for name, given, traded in handover.differences(left.given, run.start.get("parameters", {}))
    ]
    if run.state in records.OVER:
        facts = {name: run.record.get(name) for name in ("state", "end_reason")} | {"rows": run.chain.seq}
        lines += [f"{n} {left.noted[n]!r}, is {fact!r}" for n, fact in facts.items() if left.noted.get(n, fact) != fact]
    return lines


@dataclass(frozen=True, slots=True)
class _Left:
    """What an executed notebook says of its run."""

    noted: Mapping[str, Any]
    """In its metadata, when the run was over: head, rows, state, end_reason."""
    given: Mapping[str, Any]
    """Parameters that papermill put into it."""
    shown: list[str]
    """Heads in its tables."""

    @staticmethod
    def read(path: Path) -> _Left:
        content = json.loads(path.read_text(encoding="utf-8"))
        metadata = content["metadata"]
        noted = metadata.get("voltrade", {}).get(records.NOTED, {})
        given = metadata.get("papermill", {}).get("parameters", {})
        outputs = [output for cell in content["cells"] for output in cell.get("outputs", ())]
        pages = ["".join(output.get("data", {}).get("text/html", ())) for output in outputs]
        return _Left(dict(noted), dict(given), [head for page in pages for head in _SHOWN_HEAD.findall(page)])


def _given(run: _Run, head: str) -> Check:
    if place := run.place_of(head.strip().lower()):
        last = run.chain.seq
        words = "the last row's" if place == last else f"that of row {place:,} of {last:,}"
        return Check("head given", words, True if place == last else None if run.state not in records.OVER else False)
    return Check("head given", f"{head} is that of no row", False)


DECISIONS = "whether the journal's events lead to its decisions (replay)"


def _unchecked(run: _Run, notebook: Path) -> Iterator[str]:
    """Everything of a run that no check above has looked at."""
    yield DECISIONS
    if notebook.is_file():
        yield f"code, text, figures and tables in {notebook.name}"
    if run.folder is None:
        yield f"{records.RECORD} and all else of the run"
        return
    if facts := sorted(run.record.keys() - _COMPARED):
        yield f"of {records.RECORD}: {', '.join(facts)}"
    known = {records.RECORD, KEPT, *(records.JOURNAL + suffix for suffix in ("", "-wal", "-shm", ".lock"))}
    for path in sorted(run.folder.iterdir()):
        if path.name not in known and not path.is_socket():
            yield f"{path.name}/" if path.is_dir() else path.name
    yield from _unhashed(run)


def _unhashed(run: _Run) -> Iterator[str]:
    """Files beside the run's copy of its rule that its hash does not cover."""
    assert run.folder is not None
    name = run.start["config"]["session"].get("rule", "") if run.start else ""
    hashed: set[str] = set()
    if name and _rule(run).ok:
        hashed = set(RuleFile.named(name, run.folder).sources)
    kept = run.folder / KEPT
    for path in sorted(kept.rglob("*")):
        if path.is_file() and str(path.relative_to(kept)) not in hashed and "__pycache__" not in path.parts:
            yield f"{KEPT}/{path.relative_to(kept)}"
