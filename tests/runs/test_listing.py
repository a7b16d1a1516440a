"""Runs are looked at in one way, whether they go on, have ended, or were killed; all of them are listed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from support.builders import an_instrument, money
from support.made_run import made_run

import voltrade
from voltrade import journal
from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.errors import JournalError, SessionError
from voltrade.journal import Journal
from voltrade.journal import rows as journal_rows
from voltrade.model import EquityPoint, Instrument
from voltrade.report.collector import frames_of_facts
from voltrade.report.frames import Frames
from voltrade.runs import run_file
from voltrade.runs.listing import Run, list_runs

MADE = made_run(an_instrument(), bar_count=200)
HALF = len(MADE.rows) // 2


class Writer:
    """An engine as far as its files go: a journal that grows, and a record."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True)
        config = Config.from_parameters(parameters)
        self.update(
            state="starting", parameters=config.parameters(), created="2026-03-01T09:00:00.000+00:00", epoch="w"
        )
        self.journal = Journal.create(folder / "journal.db")
        instrument = TypeAdapter(Instrument).dump_python(MADE.instrument, mode="json")
        start = {"config": config.model_dump(mode="json"), "instrument": instrument, "epoch": "w"}
        start["parameters"] = config.parameters()
        self.journal.append("Start", 0, start)
        self.journal.commit()

    def write(self, rows: list[tuple[int, Any]]) -> None:
        for at, body in rows:
            if isinstance(body, dict):
                self.journal.append("Bar", at, body)
            else:
                self.journal.append_fact(body, at)
        self.journal.commit()

    def end(self) -> None:
        self.journal.append("End", MADE.rows[-1][0], {"reason": "TAPE_END"})
        self.journal.commit()
        self.update(state="ended", end_reason="TAPE_END", head=self.journal.head, rows=self.journal.seq)

    def update(self, **facts: Any) -> None:
        run_file.write(self.folder, {**run_file.read(self.folder), **facts})


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path / "runs/today")
    yield writer
    writer.journal.close()


@pytest.fixture
def read_after(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which row on a journal was read, each time."""
    asked: list[int] = []
    read = journal.read

    def noted(path: Path, after: int = 0, kind: str = "") -> Iterator[journal_rows.Row]:
        asked.append(after)
        return read(path, after, kind)

    monkeypatch.setattr(journal, "read", noted)
    return asked


def test_every_frame_of_a_run_is_an_attribute(writer: Writer) -> None:
    writer.write(MADE.rows)
    run = voltrade.open_run(writer.folder)
    expected = frames_of_facts(MADE.instrument, MADE.bars, MADE.facts)
    for part in fields(Frames):
        if part.name not in ("instrument", "beginning"):
            pd.testing.assert_frame_equal(getattr(run, part.name), getattr(expected, part.name))
    assert str(run.bars.index.dtype) == "datetime64[ms, UTC]"
    assert {run.bars[name].dtype.kind for name in ("open", "high", "low", "close", "volume")} == {"f"}
    assert run.fills["price"].dtype.kind == run.round_trips["net"].dtype.kind == "f"


def test_a_run_that_goes_on_is_fresh_at_each_access_and_read_once(writer: Writer, read_after: list[int]) -> None:
    run = voltrade.open_run(writer.folder)
    writer.write(MADE.rows[:HALF])
    seen = len(run.bars)
    assert 0 < seen < 200
    assert read_after == [0]
    assert len(run.fills) == len(run.fills)
    writer.write(MADE.rows[HALF:])
    assert len(run.bars) == 200
    assert set(read_after[1:]) == {1 + HALF}


def test_a_run_that_has_ended_is_read_once_and_kept(writer: Writer, read_after: list[int]) -> None:
    writer.write(MADE.rows)
    writer.end()
    run = voltrade.open_run(writer.folder)
    assert run.state == "ended"
    assert run.frames() is run.frames()
    assert len(run.round_trips) > 0
    assert len(read_after) == 1


def test_what_a_person_does_to_a_frame_stays_with_the_person(writer: Writer) -> None:
    writer.write(MADE.rows)
    writer.end()
    run = voltrade.open_run(writer.folder)
    mine = run.bars
    mine["range"] = mine["high"] - mine["low"]
    mine.loc[:, "close"] = 0.0
    assert "range" not in run.bars
    assert (run.bars["close"] > 0).all()


def test_a_run_whose_engine_is_gone_was_killed(writer: Writer, tmp_path: Path) -> None:
    writer.write(MADE.rows[:HALF])
    run = voltrade.open_run(writer.folder)
    assert run.state == "starting"
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "s"))
        engine.listen()
        writer.update(state="running", pid=os.getpid(), socket=str(tmp_path / "s"))
        assert run.state == "running"
    assert run.state == "killed"
    assert len(run.bars) > 0
    assert list(list_runs(tmp_path / "runs")["state"]) == ["killed"]


def test_a_run_that_has_not_begun_says_so(writer: Writer, tmp_path: Path) -> None:
    (writer.folder / "journal.db").unlink()
    with pytest.raises(JournalError, match="must begin with a Start row, has 0 rows"):
        _ = voltrade.open_run(writer.folder).bars


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_folder_without_a_record_is_no_run(tmp_path: Path, text: str) -> None:
    with pytest.raises(SessionError, match=r"run\.json"):
        voltrade.open_run(tmp_path / "nothing")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SessionError, match=r"run\.json"):
        _ = Run(tmp_path).record
    assert run_file.read(tmp_path) == {}


# --- the list --------------------------------------------------------------------------------------------------------


def test_all_runs_are_listed_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Writer(tmp_path / "runs/old")
    old.write(MADE.rows)
    old.end()
    new = Writer(tmp_path / "runs/new", symbol="ETHUSDT")
    held = EquityPoint(MADE.rows[-1][0], "ETHUSDT", money(100), money(-7), money(93), 5, "mark")
    new.write([(held.time, replace(held, position=0)), (held.time, held)])
    new.update(state="failed", end_reason="ERROR", started="2026-03-02T09:00:00.000+00:00")
    (tmp_path / "runs/no-run").mkdir()
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/run.json").write_text("{")
    for writer in (old, new):
        writer.journal.close()

    table = list_runs(tmp_path / "runs")
    assert list(table.index) == ["new", "old", "broken"]
    assert table["symbol"].to_list() == ["ETHUSDT", "BTCUSDT", ""]
    assert table["state"].to_list() == ["failed", "ended", "unreadable"]
    trips = frames_of_facts(MADE.instrument, MADE.bars, MADE.facts).round_trips
    assert table.loc["old", "round_trips"] == len(trips) > 0
    assert table.loc["old", "net"] == pytest.approx(trips["net"].sum())
    assert table["unrealised"].to_list() == pytest.approx([-7, np.nan, np.nan], nan_ok=True)

    (tmp_path / "runs/deeper").mkdir()
    monkeypatch.chdir(tmp_path / "runs/deeper")
    assert main(["runs"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "run mode symbol state end_reason started, UTC round_trips net unrealised"
    assert [line.split()[0] for line in lines] == ["new", "old", "broken"]
    assert lines[0].split()[1:7] == ["sim", "ETHUSDT", "failed", "ERROR", "2026-03-02", "09:00:00"]
    assert float(lines[1].split()[-1]) == round(trips["net"].sum(), 2)


def test_an_empty_folder_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no runs\n"


def test_a_reason_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/run.json").write_text(json.dumps({"state": "ended", "end_reason": "\x1b[2Jgone"}))
    assert main(["runs", str(tmp_path)]) == 0
    assert "?[2Jgone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"checks": [{"item": "margin type", "ok": False}, {"item": "fees", "ok": True}]}, "refused: margin type"),
        ({"checks": [{"item": "key", "ok": False}, {"item": "wallet", "ok": False}]}, "refused: key, wallet"),
        (
            {"error": "mode demo: VOLTRADE_API_KEY: must be set"},
            "not started: mode demo: VOLTRADE_API_KEY: must be set",
        ),
        ({"checks": [{"item": "fees", "ok": True}], "error": "x " * 99}, f"not started: {'x ' * 37}[...]"),
        ({"begun": True, "checks": [{"item": "wallet", "ok": False}], "error": "x"}, "ERROR"),  # a caretaker's end
        ({}, "ERROR"),
    ],
)
def test_a_start_that_was_refused_is_listed_with_what_refused_it(
    tmp_path: Path, record: dict[str, Any], reason: str
) -> None:
    """It was listed as `failed  ERROR`."""
    (tmp_path / "today").mkdir()
    run_file.write(tmp_path / "today", {"state": "failed", "end_reason": "ERROR", **record})
    assert list_runs(tmp_path).loc["today", "end_reason"] == reason
