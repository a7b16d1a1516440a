"""`verify` finds what was altered, cut off or lost, and promises no more than it has compared (fault case G1)."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.made_run import made_run
from test_journal import edit
from test_listing import MADE, Writer

from voltrade.__main__ import main
from voltrade.journal import Journal
from voltrade.model import EngineRestarted
from voltrade.report.html import frame_table
from voltrade.runs import run_file
from voltrade.runs.listing import open_run

ROWS = [*MADE.rows, *made_run(MADE.instrument, bar_count=300, seed=2).rows]
OTHER = "ab" * 32
"""A hash that seals no row."""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path / "runs/today", threshold=25)
    writer.write(ROWS)
    yield writer
    writer.journal.close()


@pytest.fixture
def run(writer: Writer) -> Path:
    """A run that has ended, with the notebook beside it that shows and notes its head."""
    writer.end()
    writer.journal.close()
    write_notebook(writer.folder)
    return writer.folder


def write_notebook(run: Path, noted: str | None = None, shown: str | None = None) -> Path:
    """Write what papermill leaves beside a run: the head in the metadata, and in the table of the last cell."""
    head = run_file.read(run).get("head", "")
    checks = pd.DataFrame([("end", "ended", True), ("head", head if shown is None else shown, True)])
    page = frame_table(checks.set_axis(["check", "found", "ok"], axis=1).set_index("check"))
    cell = {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": {"text/html": [page]}}]}
    noted = head if noted is None else noted
    metadata = {"voltrade": {"session": True} | ({"run": {"head": noted}} if noted else {})}
    path = run.with_suffix(".ipynb")
    path.write_text(json.dumps({"cells": [cell] if shown != "" else [], "metadata": metadata}))
    return path


def note(run: Path, **metadata: Any) -> None:
    """Change the metadata of a run's executed notebook."""
    path = run.with_suffix(".ipynb")
    content = json.loads(path.read_text())
    content["metadata"].update(metadata)
    path.write_text(json.dumps(content))


def change(run: Path, **facts: Any) -> None:
    """Change a run's record as an editor would; None takes a name away."""
    kept = {name: value for name, value in {**run_file.read(run), **facts}.items() if value is not None}
    run_file.write(run, kept)


def cut(run: Path, rows: int) -> None:
    """Cut so many rows off the journal's end."""
    edit(run / "journal.db", f"DELETE FROM journal WHERE seq > (SELECT max(seq) - {rows} FROM journal)")


def cut_to(run: Path, rows: int) -> None:
    edit(run / "journal.db", f"DELETE FROM journal WHERE seq > {rows}")


def head_of(run: Path, back: int = 0) -> str:
    """Hash of the journal's last row, or of one before it."""
    from voltrade import journal

    return [row.hash.hex() for row in journal.read(run / "journal.db")][-1 - back]


def parameters(run: Path, **values: Any) -> dict[str, Any]:
    stated: dict[str, Any] = {**run_file.read(run)["parameters"], **values}
    return {name: value for name, value in stated.items() if value is not None}


def make_look_killed(run: Path) -> None:
    """Cut rows, and take from the record whatever says that the run had ended."""
    cut(run, 50)
    change(run, state="running", head=None, rows=None, end_reason=None, begun=True)


def make_end_earlier(run: Path) -> None:
    """Cut rows, write another end with true hashes, and have the record say so."""
    cut(run, 50)
    with Journal.open(run / "journal.db") as journal:
        journal.append("End", 0, {"reason": "TAPE_END"})
    change(run, head=journal.head, rows=journal.seq)


def go_on_after_the_end(run: Path) -> None:
    with Journal.open(run / "journal.db") as journal:
        journal.append("End", 0, {"reason": "TAPE_END"})
    change(run, head=journal.head, rows=journal.seq)
    write_notebook(run)


ALTERED: list[tuple[str, Callable[[Path], object], str]] = [
    ("the last 500 rows are cut off", lambda run: cut(run, 500), "which no row has"),
    ("the last 50 rows are cut off", lambda run: cut(run, 50), "which no row has"),
    ("the last row is cut off", lambda run: cut(run, 1), "which no row has"),
    ("all but the first row are cut off", lambda run: cut_to(run, 1), "which no row has"),
    ("all rows are cut off", lambda run: cut_to(run, 0), "the first of which must be a Start row"),
    ("the journal is gone", lambda run: (run / "journal.db").unlink(), "row 0: "),
    (
        "a row is changed",
        lambda run: edit(run / "journal.db", "UPDATE journal SET time = time + 1 WHERE seq = 9"),
        "row 9: hash",
    ),
    ("rows are cut off and the record made to say killed", make_look_killed, "today.ipynb names"),
    ("rows are cut off and another end is sealed", make_end_earlier, "today.ipynb names"),
    ("rows follow the end", go_on_after_the_end, "ends the run, yet rows follow it"),
    ("the record is gone", lambda run: (run / "run.json").unlink(), "run.json is gone or can't be read"),
    ("the record is broken", lambda run: (run / "run.json").write_text("{"), "run.json is gone or can't be read"),
    ("the record has another head", lambda run: change(run, head=OTHER), f"run.json names {OTHER}, which no row has"),
    (
        "the record has the head of an earlier row",
        lambda run: change(run, head=head_of(run, back=3)),
        "run.json names that of row",
    ),
    ("the record has no rows", lambda run: change(run, rows=None), "run.json says None"),
    ("the record has another id", lambda run: change(run, id="x"), "in the journal, 'x' in run.json"),
    (
        "the notebook was given other parameters",
        lambda run: note(run, papermill={"parameters": {"threshold": 1000, "seconds": 5}}),
        "in the metadata of today.ipynb: threshold 1000, traded with 25",
    ),
    (
        "the notebook notes another end",
        lambda run: note(run, voltrade={"run": {"head": head_of(run), "state": "failed", "rows": 1}}),
        "in the metadata of today.ipynb: state 'failed', is 'ended'; rows 1, is",
    ),
    ("the record has no head", lambda run: change(run, head=None), "run.json names none"),
    ("the record has fewer rows", lambda run: change(run, rows=12), "run.json says 12"),
    ("the record says running", lambda run: change(run, state="running"), "has no end, yet names its reason, TAPE_END"),
    ("the record says failed", lambda run: change(run, state="failed"), "a failure is an ERROR"),
    ("the record says what no run is", lambda run: change(run, state="won"), "the state 'won', which no run has"),
    ("the record has another reason", lambda run: change(run, end_reason="STOPPED"), "run.json says STOPPED, the j"),
    ("the record has no reason", lambda run: change(run, end_reason=None), "run.json says nothing, the journal's"),
    (
        "the record has another parameter",
        lambda run: change(run, parameters=parameters(run, threshold=10)),
        "threshold 25 in the journal, 10 in run.json",
    ),
    (
        "the record lacks a parameter",
        lambda run: change(run, parameters=parameters(run, capital=None)),
        "capital 10000 in the journal, None in run.json",
    ),
    ("the record has no parameters", lambda run: change(run, parameters=None), "mode 'sim' in the journal, None in"),
    ("the record names a rule file", lambda run: change(run, rule_sha256=OTHER), "rule_sha256 '' in the journal, 'ab"),
    ("the record has another identity", lambda run: change(run, epoch="x"), "epoch 'w' in the journal, 'x' in run"),
    ("the notebook notes another head", lambda run: write_notebook(run, noted=OTHER), f"names {OTHER}, which no row"),
    ("the notebook shows another head", lambda run: write_notebook(run, shown=OTHER), f"names {OTHER}, which no row"),
    (
        "the notebook notes the head of an earlier row",
        lambda run: write_notebook(run, noted=head_of(run, back=3)),
        "names the head of row",
    ),
]


@pytest.mark.parametrize(("alter", "says"), [row[1:] for row in ALTERED], ids=[row[0] for row in ALTERED])
def test_an_altered_run_is_told_of(
    run: Path, alter: Callable[[Path], object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault case G1: `verify` said "nothing altered" of all of these but a changed row."""
    assert main(["verify", str(run)]) == 0, capsys.readouterr().out
    capsys.readouterr()
    alter(run)
    assert main(["verify", str(run)]) == 1
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("!!") and says in line], told
    assert told.splitlines()[-1] == "Not whole: something was altered, cut off or lost."


def overwrite_a_page(run: Path) -> None:
    """Spoil 4 kB in the middle of the journal's file, as a disk may."""
    with closing(sqlite3.connect(run / "journal.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (run / "journal.db").stat().st_size
    with (run / "journal.db").open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)


@pytest.mark.parametrize("command", ["verify", "replay"])
def test_a_damaged_page_is_told_in_words(run: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    overwrite_a_page(run)
    assert main([command, str(run)]) == 1
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [500, 50, 1])
def test_a_runs_checks_find_cut_rows_as_verify_does(run: Path, rows: int) -> None:
    cut(run, rows)
    checks = open_run(run).checks()
    assert checks.loc[["end", "head", "notebook"], "ok"].tolist() == [False, False, False]


def test_replay_stops_at_a_changed_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run / "journal.db", "UPDATE journal SET time = time + 1 WHERE seq = 9")
    assert main(["replay", str(run)]) == 1
    assert "rows: row 9: hash" in capsys.readouterr().out


def test_replay_of_the_first_row_alone_is_not_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault case G1: it ended with 0 differences and status 0."""
    cut_to(run, 1)
    assert main(["replay", str(run)]) == 1
    told = capsys.readouterr().out
    assert "0 differences" in told
    assert told.splitlines()[-1].startswith("Not whole")


# --- no false alarm, and no promise too much -------------------------------------------------------------------------


def verified(capsys: pytest.CaptureFixture[str], *given: object) -> tuple[int, list[str]]:
    status = main(["verify", *map(str, given)])
    return status, capsys.readouterr().out.splitlines()


def test_a_whole_run_is_told_with_what_was_not_checked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "frames").mkdir()
    (run / "engine.log").touch()
    (run / "rule").mkdir()
    (run / "rule/more.py").touch()
    status, told = verified(capsys, run)
    assert status == 0
    assert [line.split()[:2] for line in told[:-2]] == [
        ["ok", name] for name in ("end", "rows", "head", "parameters", "rule", "notebook")
    ]
    assert told[2].split()[-1] == head_of(run)
    assert told[-2] == (
        "not checked: whether the journal's events lead to its decisions (replay); code, text, figures and tables in "
        "today.ipynb; "
        "of run.json: created; engine.log; frames/; rule/more.py"
    )
    assert told[-1] == "Whole: nothing of what was checked was altered, cut off or lost."
    assert verified(capsys, run.with_suffix(".ipynb")) == (0, told)


def test_without_anything_outside_it_is_whole_as_far_as_it_goes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = run.with_suffix(".ipynb").rename(tmp_path / "kept elsewhere.ipynb")
    status, told = verified(capsys, run)
    assert status == 0
    assert told[-1] == (
        "Whole as far as it goes: no notebook beside the run, so nothing outside its folder names its head."
    )
    whole = "Whole: nothing of what was checked was altered, cut off or lost."
    assert verified(capsys, run, "--notebook", notebook)[1][-1] == whole
    assert verified(capsys, run, "--head", head_of(run).upper())[1][-1] == whole
    make_end_earlier(run)
    assert verified(capsys, run)[0] == 0  # nobody could tell
    assert verified(capsys, run, "--notebook", notebook)[0] == 1
    assert verified(capsys, run, "--head", run_file.read(run)["head"][:-1] + "0")[0] == 1


def test_a_head_that_is_known_from_an_earlier_row_is_no_end(
    run: Path, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = head_of(run, back=3)
    status, told = verified(capsys, run, "--head", earlier)
    assert status == 1
    assert any(line.startswith("!!  head given") and "that of row" in line for line in told)
    change(run, state="running", head=None, rows=None, end_reason=None, begun=True)
    run.with_suffix(".ipynb").unlink()
    assert verified(capsys, run, "--head", earlier)[0] == 0  # of a run that was killed it is what was last told


@pytest.mark.parametrize("head", ["none", "ab", "…", OTHER])
def test_what_is_no_head_is_that_of_no_row(run: Path, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = verified(capsys, run, "--head", head)
    assert status == 1
    assert f"{head} is that of no row" in " ".join(told)


def test_tables_of_earlier_rows_beside_the_head_are_no_doubt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a cell leaves one that looked at the run while it went on."""
    write_notebook(run, shown=head_of(run, back=3))
    assert verified(capsys, run)[1][-1].startswith("Whole: ")


def test_heads_of_other_runs_beside_the_head_are_told_and_no_alarm(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.with_suffix(".ipynb")
    honest = json.loads(path.read_text())
    other = json.loads(write_notebook(run, shown=OTHER).read_text())
    path.write_text(json.dumps({**honest, "cells": [*honest["cells"], *other["cells"]]}))
    status, told = verified(capsys, run)
    assert status == 0
    assert f"--  other heads  today.ipynb shows {OTHER} too, which no row of this run has" in told


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [], "metadata": {}}'])
def test_a_notebook_without_a_head_proves_nothing(run: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run.with_suffix(".ipynb").write_text(text)
    status, told = verified(capsys, run)
    assert status == 0
    assert told[-1].startswith("Whole as far as it goes: today.ipynb ")


def test_a_table_alone_that_shows_the_head_is_enough(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a notebook that a person ran in JupyterLab."""
    write_notebook(run, noted="")
    assert verified(capsys, run)[1][-1].startswith("Whole: ")


def test_a_run_that_goes_on_is_no_alarm(writer: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "s"))
        engine.listen()
        writer.update(state="running", pid=os.getpid(), socket=str(tmp_path / "s"), begun=True)
        status, told = verified(capsys, writer.folder)
        assert status == 0
        assert told[-1].startswith("Whole as far as it goes: trades on, and has no end yet; ")
        edit(writer.folder / "journal.db", "UPDATE journal SET time = time + 1 WHERE seq = 9")
        assert verified(capsys, writer.folder)[0] == 1


def test_a_killed_run_is_no_alarm(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    writer.update(state="running", pid=2**22 + 1, begun=True)
    status, told = verified(capsys, writer.folder)
    assert status == 0
    assert "killed: no end was written, so rows missing at the end would not be missed" in told[-1]
    # An engine that failed, was started again and then killed: the record's head is that of an earlier row.
    writer.update(head=head_of(writer.folder, back=5), rows=writer.journal.seq - 5, end_reason="ERROR")
    assert verified(capsys, writer.folder)[0] == 0
    # Killed again between the journal's last row and the record's last word.
    writer.journal.append("End", 0, {"reason": "TAPE_END"})
    writer.journal.commit()
    status, told = verified(capsys, writer.folder)
    assert status == 0
    assert "ended, TAPE_END; killed before run.json said so" in told[-1]


def test_an_engine_that_goes_on_after_its_end_was_sealed_is_no_alarm(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    writer.journal.append("End", 0, {"reason": "TAPE_END"})
    writer.write([(0, EngineRestarted(0))])
    writer.end()
    assert verified(capsys, writer.folder)[0] == 0


def test_a_restart_before_an_end_does_not_excuse_rows_after_it(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    writer.write([(0, EngineRestarted(0))])
    writer.journal.append("End", 0, {"reason": "TAPE_END"})
    writer.write(MADE.rows[:3])
    writer.end()
    status, told = verified(capsys, writer.folder)
    assert status == 1
    assert "ends the run, yet rows follow it" in told[0]


def test_a_failed_run_is_held_to_its_head_too(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    rows, head = writer.journal.committed
    writer.update(state="failed", end_reason="ERROR", error="no", head=head, rows=rows, begun=True)
    writer.journal.close()
    write_notebook(writer.folder)
    status, told = verified(capsys, writer.folder)
    assert status == 0, told
    assert told[-1].startswith("Whole: ")
    cut(writer.folder, 1)
    assert verified(capsys, writer.folder)[0] == 1


@pytest.mark.parametrize(
    ("fact", "told"), [("rows", "run.json says {rows}"), ("head", "run.json names that of row {rows:,}")]
)
def test_a_failed_runs_record_must_name_the_last_row(
    writer: Writer, fact: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, head = writer.journal.committed
    writer.update(state="failed", end_reason="ERROR", error="no", head=head, rows=rows, begun=True)
    writer.journal.close()
    assert verified(capsys, writer.folder)[0] == 0
    earlier = {"rows": rows - 3, "head": head_of(writer.folder, back=3)}
    change(writer.folder, **{fact: earlier[fact]})
    status, lines = verified(capsys, writer.folder)
    assert status == 1
    assert told.format(rows=rows - 3) in " ".join(lines)


def test_a_run_that_never_began_is_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs/today"
    run.mkdir(parents=True)
    run_file.write(run, {"state": "failed", "end_reason": "ERROR", "parameters": {}, "error": "no keys"})
    assert verified(capsys, run)[0] == 0
    change(run, begun=True)
    assert verified(capsys, run)[0] == 1


def test_a_journal_can_be_verified_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = verified(capsys, run / "journal.db")
    assert status == 0
    assert "run.json and all else of the run" in told[-2]
    assert told[-1].startswith("Whole as far as it goes: ")


@pytest.mark.parametrize("given", [["nothing"], ["nothing.ipynb"], ["today", "--notebook", "none.ipynb"]])
def test_where_there_is_no_run_the_status_is_2(
    run: Path, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    assert main(["verify", *given]) == 2
    assert capsys.readouterr().err.startswith("verify: ")


def test_the_help_tells_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Exit status: 0 where nothing is wrong, as far as the last line says; 1 where something was altered" in told


def test_what_could_not_be_stored_is_not_counted_as_stored(tmp_path: Path) -> None:
    """A head of rows that a full disk dropped would be a false alarm."""
    with Journal.create(tmp_path / "run/journal.db") as journal:
        journal.append("Start", 0, {})
        journal.commit()
        stored = journal.committed
        journal.append("End", 0, {})
        assert journal.committed == stored != (journal.seq, journal.head)
        journal.commit()
        assert journal.committed == (journal.seq, journal.head)
