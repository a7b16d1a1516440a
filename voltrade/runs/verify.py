"""Checks whether a run's journal was changed, and whether it agrees with the other records of the run.

The chain of hashes alone can't show that rows were cut off the journal's end. So its head is compared with `run.json`,
with the executed notebook, and with a head that the user has from elsewhere, such as the last notification; `run.json`
is compared with the journal's first and last rows. No code of the run is executed. The result names what was not
checked.
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

from voltrade import journal
from voltrade.errors import JournalError, SessionError, VoltradeError
from voltrade.journal import rows as journal_rows
from voltrade.model import EngineRestarted
from voltrade.runs import handover
from voltrade.runs import run_file as records
from voltrade.strategy.rule_file import COPY_FOLDER, RuleFile

NOT_WHOLE = "Not whole: something was altered, cut off or lost."
WHOLE = "Whole: nothing of what was checked was altered, cut off or lost."
AS_FAR = "Whole as far as it goes: "
"""The three outcomes; the last one is followed by what could not be proved."""

_COMPARED = {"parameters", "epoch", "rule_sha256", "state", "end_reason", "head", "rows", "begun", "id"}
"""Values of a record that are compared with the journal."""

_SHOWN_HEAD = re.compile(r"<td[^>]*>head</td><td[^>]*>([0-9a-f]{64})</td>")
"""The row with the head in a table of `Run.checks` in a notebook's output."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    found: str
    ok: bool | None
    """None if the check could not be decided."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`."""

    chain: journal.VerifyResult
    checks: tuple[Check, ...]
    unchecked: tuple[str, ...]
    """Parts of the run that were not checked."""

    @property
    def wrong(self) -> list[str]:
        """What was changed, cut off or lost, one line each."""
        return [f"{check.name}: {check.found}" for check in self.checks if check.ok is False]

    @property
    def ok(self) -> bool:
        """Whether no check has failed; undecided checks don't count."""
        return not self.wrong

    @property
    def unproven(self) -> list[str]:
        """Why rows could be missing at the end without a check noticing; empty if a record outside the run's folder has
        the head."""
        is_proved = any(check.ok for check in self.checks if check.name in _OUTSIDE_CHECKS)
        return [c.found for c in self.checks if c.ok is None and not (is_proved and c.name in _OUTSIDE_CHECKS)]

    @property
    def outcome(self) -> str:
        """The outcome in one sentence."""
        if not self.ok:
            return NOT_WHOLE
        return f"{AS_FAR}{'; '.join(self.unproven)}." if self.unproven else WHOLE


_OUTSIDE_CHECKS = ("notebook", "head given")
"""Names of the checks that compare with records outside the run's folder."""


def verify(run: Path, notebook: Path | None = None, head: str = "") -> Verification:
    """Check a run that is running, has ended or was killed.

    Args:
        run: Its folder; or its executed notebook, with the folder beside it; or only a journal.
        notebook: Its executed notebook, by default the one beside the folder.
        head: The journal's last hash from another source, such as the session's last notification.

    Raises:
        SessionError: There is no such run or notebook.
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
    outside += [_given_head(found, head)] if head else []
    if not outside:
        outside = [Check("notebook", "nothing outside the run's folder names its head", None)]
    checks = (_end(found), _rows(found), _head(found), _parameters(found), _rule(found), *outside)
    return Verification(found.chain, checks, tuple(_unchecked(found, notebook or beside)))


@dataclass(frozen=True, slots=True)
class _Run:
    """The data of a run that the checks use."""

    path: Path
    """Path of the journal."""
    folder: Path | None
    """None if only a journal is checked."""
    record: Mapping[str, Any]
    chain: journal.VerifyResult
    start: Mapping[str, Any]
    """Content of the first row; empty if it is missing or damaged."""
    end: str | None
    """Reason in the last row; None if that is not an End row."""
    is_running: bool
    early_end: int
    """Number of an End row with rows after it; 0 for none. Rows of a restarted engine may follow one."""

    @staticmethod
    def read(path: Path, folder: Path | None) -> _Run:
        # In this order, because an engine writes its record before it ends.
        is_running = folder is not None and records.is_running(records.read(folder))
        record = records.read(folder) if folder is not None else {}
        is_running = is_running and record.get("state") in records.UNFINISHED
        if record and not is_running:
            record = {**record, "state": records.state_of(record)}
        if not path.exists() and record and not _has_begun(record):
            return _Run(path, folder, record, journal.VerifyResult(0, ""), {}, None, is_running, 0)
        chain = journal.verify(path)
        rows = _start_and_end_rows(path, chain)
        start = rows[0].fact if rows and rows[0].kind == "Start" else {}
        ends = [row for row in rows if row.kind == "End"]
        restarts = [row.seq for row in rows if row.kind == EngineRestarted.__name__]
        end = ends[-1].fact.get("reason", "") if ends and ends[-1].seq == chain.seq else None
        early = [e.seq for e in ends if e.seq < chain.seq and not any(seq > e.seq for seq in restarts)]
        return _Run(path, folder, record, chain, start, end, is_running, early[0] if early else 0)

    @property
    def state(self) -> str:
        return str(self.record.get("state", ""))

    @property
    def has_begun(self) -> bool:
        return bool(self.chain.seq) or _has_begun(self.record)

    @property
    def identity(self) -> str:
        """Id of the run in its journal; empty if it can't be read."""
        try:
            return journal.identity_of(self.path)
        except JournalError:
            return ""

    def row_of(self, head: str) -> int:
        """Return the number of the row with a hash; 0 if no valid row has it."""
        if head == self.chain.head:
            return self.chain.seq
        try:
            place = journal.seq_of_head(self.path, head) if self.chain.seq else 0
        except JournalError:  # damaged, as the chain shows
            return 0
        return place if place <= self.chain.seq else 0


def _has_begun(record: Mapping[str, Any]) -> bool:
    """Whether a run's record says that its journal was created."""
    return bool(record.get("begun")) or record.get("state") == "ended"


def _start_and_end_rows(path: Path, chain: journal.VerifyResult) -> list[journal_rows.Row]:
    """Return the valid rows about starts, restarts and ends of the run."""
    if not chain.seq:
        return []
    kinds = ("Start", "End", EngineRestarted.__name__)
    rows: list[journal_rows.Row] = []
    for kind in kinds:
        with suppress(JournalError):  # damaged after the valid rows, as the chain shows
            rows += takewhile(lambda row: row.seq <= chain.seq, journal.read(path, kind=kind))
    return sorted(rows, key=lambda row: row.seq)


# --- the checks ------------------------------------------------------------------------------------------------------


def _end(run: _Run) -> Check:
    """Compare the end in the record with the end in the journal."""
    if run.folder is not None and not run.record:
        return Check("end", f"{records.RECORD} is gone or can't be read", False)
    if run.early_end:
        return Check("end", f"row {run.early_end} ends the run, yet rows follow it", False)
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
    if stated not in ("", "ERROR"):  # "ERROR" stays after a failed engine was started again
        return Check("end", f"{records.RECORD} has no end, yet names its reason, {stated}", False)
    if run.is_running:
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
    """Check the chain of hashes, and its length by the record."""
    chain, stated = run.chain, run.record.get("rows")
    if not chain.ok:
        return Check("rows", f"row {chain.bad_seq}: {chain.rule}", False)
    if run.has_begun and not run.start:
        return Check("rows", f"{chain.seq:,} rows, the first of which must be a Start row", False)
    if run.state in records.OVER and stated != chain.seq and not (stated is None and run.state == "failed"):
        return Check("rows", f"{chain.seq:,} rows, {records.RECORD} says {stated!r}", False)
    return Check("rows", f"{chain.seq:,} rows, each sealed by the one before", True)


def _head(run: _Run) -> Check:
    """Compare the hash of the last row with the record."""
    head, stated = run.chain.head, str(run.record.get("head") or "")
    if not run.chain.ok:
        return Check("head", f"row {run.chain.seq} is the last that holds", False)
    if not stated:
        if run.state == "ended":
            return Check("head", f"{head}; {records.RECORD} names none", False)
        if run.state == "failed" and run.has_begun:
            return Check("head", f"{head}; {records.RECORD} names none", None)
        return Check("head", head, True)
    place = run.row_of(stated)
    if not place:
        return Check("head", f"{head}; {records.RECORD} names {stated}, which no row has", False)
    if run.state in records.OVER and place != run.chain.seq:
        return Check("head", f"{head}; {records.RECORD} names that of row {place:,}", False)
    return Check("head", head, True)


def _parameters(run: _Run) -> Check:
    """Compare parameters, id and rule hash in the record with those in the journal's first row."""
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
    """Compare the run's copy of its rule file with the hash in the journal."""
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


# --- records outside the folder ---------------------------------------------------------------------------------------


def _notebook(run: _Run, path: Path) -> Iterator[Check]:
    """Compare the heads and notes in the executed notebook with the journal."""
    if not path.is_file():
        yield Check("notebook", "no notebook beside the run, so nothing outside its folder names its head", None)
        return
    try:
        content = _NotebookContent.read(path)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        # Papermill may be writing it.
        yield Check("notebook", f"{path.name} can't be read: {type(error).__name__}", None)
        return
    yield from _heads(run, path.name, str(content.noted.get("head", "")), content.shown)
    if lines := _wrong_notes(run, content):
        yield Check("notebook's notes", f"in the metadata of {path.name}: {'; '.join(lines)}", False)


def _heads(run: _Run, name: str, noted: str, shown: list[str]) -> Iterator[Check]:
    """Check the heads in a notebook: a noted head must be the last row's, one of the shown heads must be in the run.

    Other heads that are shown may be of other runs.
    """
    places = {head: run.row_of(head) for head in (noted, *shown) if head}
    missing = [head for head, place in places.items() if not place]
    known = [place for place in places.values() if place]
    others = [head for head in missing if head != noted and any(places[head] for head in shown)]
    if missing and not others:
        yield Check("notebook", f"{name} names {missing[0]}, which no row has", False)
    elif noted and places[noted] != run.chain.seq:  # a head is noted only after the end of a run
        yield Check("notebook", f"{name} names the head of row {places[noted]:,} of {run.chain.seq:,}", False)
    elif not places:
        yield Check("notebook", f"{name} names no head", None)
    elif max(known) < run.chain.seq:
        found = f"{name} names the head of row {max(known):,}, and nothing outside those that follow"
        yield Check("notebook", found, None)
    else:
        yield Check("notebook", f"{name} names the head", True)
    if others:
        yield Check("other heads", f"{name} shows {others[0]} too, which no row of this run has", None)


def _wrong_notes(run: _Run, content: _NotebookContent) -> list[str]:
    """Return the notes of a notebook that are wrong: parameters given to it, and how the run ended."""
    lines = [
        f"{name} {given!r}, traded with {traded!r}"
        for name, given, traded in handover.differences(content.given, run.start.get("parameters", {}))
    ]
    if run.state in records.OVER:
        facts = {name: run.record.get(name) for name in ("state", "end_reason")} | {"rows": run.chain.seq}
        lines += [
            f"{n} {content.noted[n]!r}, is {fact!r}" for n, fact in facts.items() if content.noted.get(n, fact) != fact
        ]
    return lines


@dataclass(frozen=True, slots=True)
class _NotebookContent:
    """What an executed notebook contains about its run."""

    noted: Mapping[str, Any]
    """Notes in its metadata after the end of the run: head, rows, state, end_reason."""
    given: Mapping[str, Any]
    """Parameters that papermill was given."""
    shown: list[str]
    """Heads in the tables of its outputs."""

    @staticmethod
    def read(path: Path) -> _NotebookContent:
        content = json.loads(path.read_text(encoding="utf-8"))
        metadata = content["metadata"]
        noted = metadata.get("voltrade", {}).get(records.NOTED, {})
        given = metadata.get("papermill", {}).get("parameters", {})
        outputs = [output for cell in content["cells"] for output in cell.get("outputs", ())]
        pages = ["".join(output.get("data", {}).get("text/html", ())) for output in outputs]
        return _NotebookContent(
            dict(noted), dict(given), [head for page in pages for head in _SHOWN_HEAD.findall(page)]
        )


def _given_head(run: _Run, head: str) -> Check:
    if place := run.row_of(head.strip().lower()):
        last = run.chain.seq
        words = "the last row's" if place == last else f"that of row {place:,} of {last:,}"
        return Check("head given", words, True if place == last else None if run.state not in records.OVER else False)
    return Check("head given", f"{head} is that of no row", False)


DECISIONS = "whether the journal's events lead to its decisions (replay)"
"""Text about decisions, which only a replay can check."""


def _unchecked(run: _Run, notebook: Path) -> Iterator[str]:
    """Yield the parts of a run that no check covers."""
    yield DECISIONS
    if notebook.is_file():
        yield f"code, text, figures and tables in {notebook.name}"
    if run.folder is None:
        yield f"{records.RECORD} and all else of the run"
        return
    if facts := sorted(run.record.keys() - _COMPARED):
        yield f"of {records.RECORD}: {', '.join(facts)}"
    known = {records.RECORD, COPY_FOLDER, *(records.JOURNAL + suffix for suffix in ("", "-wal", "-shm", ".lock"))}
    for path in sorted(run.folder.iterdir()):
        if path.name not in known and not path.is_socket():
            yield f"{path.name}/" if path.is_dir() else path.name
    yield from _unhashed(run)


def _unhashed(run: _Run) -> Iterator[str]:
    """Yield the files in the rule's folder that its hash doesn't cover."""
    assert run.folder is not None
    name = run.start["config"]["session"].get("rule", "") if run.start else ""
    hashed: set[str] = set()
    if name and _rule(run).ok:
        hashed = set(RuleFile.named(name, run.folder).sources)
    kept = run.folder / COPY_FOLDER
    for path in sorted(kept.rglob("*")):
        if path.is_file() and str(path.relative_to(kept)) not in hashed and "__pycache__" not in path.parts:
            yield f"{COPY_FOLDER}/{path.relative_to(kept)}"
