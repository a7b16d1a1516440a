"""A run's record: what becomes of a run whose `run.json` is lost, and of one that its notebook has left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest import mock

import pytest

from voltrade.__main__ import main
from voltrade.errors import SessionError
from voltrade.journal import Journal
from voltrade.runs.run_file import Record, can_be_resumed, of_journal, read, restored, state_of

START = {
    "parameters": {"symbol": "BTCUSDT", "capital": 5000},
    "epoch": "e7",
    "rule_sha256": "ab",
    "checks": [{"item": "endpoint", "found": "x"}, {"item": "account", "found": "a1b2c3"}],
    "config": {},
}


def a_run(folder: Path, *, ended: bool = False) -> Path:
    folder.mkdir(mode=0o700)
    with Journal.create(folder / "journal.db", "its id") as journal:
        journal.append("Start", 1, START)
        if ended:
            journal.append("End", 2, {"reason": "DURATION_END"})
    return folder


@pytest.mark.parametrize("left", [None, b"", b'{"parameters": {"sym', b"[]", b"\xff\xfe"])
def test_a_record_that_is_lost_is_made_again_from_the_journal(tmp_path: Path, left: bytes | None) -> None:
    """Fault case E11: what a run is gone on with stands in its journal's first row."""
    run = a_run(tmp_path / "run")
    if left is not None:
        (run / "run.json").write_bytes(left)
    facts = Record(run).facts
    assert {name: facts[name] for name in ("parameters", "epoch", "rule_sha256", "id", "account", "state")} == {
        **{"parameters": START["parameters"], "epoch": "e7", "rule_sha256": "ab"},
        **{"id": "its id", "account": "a1b2c3", "state": "running"},
    }
    assert can_be_resumed(run)
    assert read(run) == {}, "who reads a record to compare it is not given another"
    Record(run).update(state="ended")
    assert state_of(read(run)) == "ended"


def test_a_run_whose_journal_has_a_row_has_begun_whatever_an_older_record_says(tmp_path: Path) -> None:
    """Else its journal would be deleted, and the run begin anew beside a position that nobody knows of."""
    run = a_run(tmp_path / "run")
    (run / "run.json").write_text('{"state": "starting", "epoch": "e8"}')
    facts = Record(run).facts
    assert (facts["begun"], facts["epoch"]) == (True, "e8")
    assert can_be_resumed(run)
    for file in run.glob("journal.db*"):
        file.unlink()
    with Journal.create(run / "journal.db"):
        pass  # killed before its first row
    assert "begun" not in Record(run).facts


def test_a_record_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power a reader finds one of the two, whole."""
    (tmp_path / "run.json").write_text('{"state": "starting"}')
    flushed = []

    def flush(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        flushed.append((path.name, read(tmp_path)["state"], path.read_text() if path.is_file() else ""))

    monkeypatch.setattr(os, "fsync", flush)
    Record(tmp_path).update(state="running")
    [(name, before, text), (folder, after, _)] = flushed
    assert (name, before, json.loads(text)) == ("run.new", "starting", {"state": "running"})
    assert (folder, after) == (tmp_path.name, "running")


def test_a_record_that_is_there_is_not_made_from_the_journal(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"state": "failed", "epoch": "another"}))
    assert restored(run) == {"state": "failed", "epoch": "another"}
    assert not can_be_resumed(run)


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_whose_journal_is_gone_is_found_and_resumed_if_it_had_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Fault case E5: its engine looks after the position as caretaker, so somebody must be able to start it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run = a_run(tmp_path / "runs/today")
    (run / "run.json").write_text(json.dumps({**restored(run), "begun": begun}))
    (run / "journal.db").unlink()
    assert can_be_resumed(run) is begun
    with mock.patch("os.execv") as execv:
        main(["run", "--resume"])
    assert execv.called is begun


def test_a_start_row_of_other_bytes_makes_no_record(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "journal.db", "its id") as journal:
        journal.append("Start", 1, b"{\xff")
    assert of_journal(tmp_path / "journal.db") == {}


def test_a_run_that_has_ended_is_not_gone_on_with_for_a_lost_record(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", ended=True)
    facts = restored(run)
    assert (facts["state"], facts["end_reason"], facts["rows"]) == ("ended", "DURATION_END", 2)
    assert not can_be_resumed(run)


@pytest.mark.parametrize("journal", [None, b"", b"no journal"])
def test_without_a_journal_a_lost_record_is_refused(tmp_path: Path, journal: bytes | None) -> None:
    if journal is not None:
        (tmp_path / "journal.db").write_bytes(journal)
        (tmp_path / "journal.db").chmod(0o600)
    assert of_journal(tmp_path / "journal.db") == {}
    with pytest.raises(SessionError, match="must be the folder of a run"):
        Record(tmp_path)
    assert not can_be_resumed(tmp_path)


def test_a_notebooks_run_that_is_resumed_by_a_command_waits_for_no_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault case E7: after a quarter of a minute it took its notebook for lost, and ended. Without its record too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run = a_run(tmp_path / "runs/today")
    (run / "run.json").write_text(json.dumps({**restored(run), "attended": True}))
    for is_lost in (False, True):
        if is_lost:
            (run / "run.json").unlink()
        with mock.patch("os.execv") as execv:
            main(["run", "--resume"])
        assert execv.call_args[0][1][3] == "runs/today"
        assert read(run)["released"] is True
        assert read(run)["parameters"] == START["parameters"]
