"""Alarms sound until somebody acknowledges them, whichever engine is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from voltrade.engine.repeated_alarms import Alarms
from voltrade.engine.session_messages import Message
from voltrade.model import Alert, Operator
from voltrade.runs.run_file import Record


def alarms(run: Path, told: list[Message] | None = None) -> Alarms:
    """Those of an engine that has just been started."""
    return Alarms((told if told is not None else []).append, Record(run))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps({"state": "running"}))
    return tmp_path


def test_an_alarm_outlives_the_engine_that_sounded_it(run: Path) -> None:
    first, told = alarms(run), list[Message]()
    first.observe(Alert(1, "CARETAKER", "three crashes"))
    first.observe(Alert(2, "STALE", "is told once"))
    first.sound("GUARDIAN_LOST: its process is gone")
    second = alarms(run, told)
    assert second.sounding == ["CARETAKER: three crashes", "GUARDIAN_LOST: its process is gone"]

    async def soon() -> None:
        task = asyncio.create_task(second.repeat(0.0))
        while len(told) < 2:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(soon(), 5))
    assert told[0].text == "CARETAKER: three crashes; repeated until `ctl ack`"


def test_what_was_acknowledged_is_silent_after_a_restart(run: Path) -> None:
    first = alarms(run)
    first.sound("one")
    first.observe(Operator(1, "acknowledge", "seen"))
    assert (first.sounding, alarms(run).sounding) == ([], [])


def test_an_alarm_sounds_though_it_can_not_be_kept(run: Path) -> None:
    first = alarms(run)
    run.rename(run.with_name("moved"))
    first.sound("one")
    assert first.sounding == ["one"]
