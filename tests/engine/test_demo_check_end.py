"""How a check by real orders begins and ends: its folder, a venue in lockstep, and signals while it trades."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_demo_check_orders import KEY, KEYS, SECRET, a_check, left_open, tape, truth

from voltrade.config import Config
from voltrade.engine.demo_check import check
from voltrade.engine.demo_check.check import REPORT, VERDICTS, check_exchange
from voltrade.engine.demo_check.cleanup import CleanUp
from voltrade.engine.demo_check.report import Report
from voltrade.engine.demo_check.watcher import Watcher
from voltrade.engine.venue_process import VenueProcess
from voltrade.errors import ConfigError, SessionError, VoltradeError
from voltrade.exchange.redaction import Redaction
from voltrade.venue.server import serve


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLTRADE_STATE", str(tmp_path / "state"))


def test_a_check_that_is_interrupted_cleans_up_and_tells_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the position is open, and once more while it is closed."""

    async def story() -> Report:
        running: list[asyncio.Task[Report]] = []
        run = CleanUp.run

        async def interrupt(context: Any) -> None:
            assert context.lots > 0
            running[0].cancel()
            await asyncio.sleep(30)

        async def nothing(context: Any) -> None:
            """Look at nothing before the orders."""

        async def interrupt_again(clean_up: CleanUp) -> None:
            running[0].cancel()
            await run(clean_up)

        names = {"private stream", "market order", "stops"}
        steps = [step for step in check._steps() if step[0] in names]
        monkeypatch.setattr(check, "_steps", lambda: [(n, interrupt if n == "stops" else do) for n, do in steps])
        monkeypatch.setattr(check, "_look", nothing)
        monkeypatch.setattr(CleanUp, "run", interrupt_again)
        running.append(asyncio.create_task(a_check(tmp_path)))
        return await running[0]

    report = asyncio.run(story())
    assert max(Decimal(row["position"]) for row in truth(tmp_path) if row["kind"] == "fill") > 0
    assert left_open(tmp_path) == []
    assert (report.rows[-1].item, report.rows[-1].found) == ("interrupted", "nothing is left open")
    assert not report.passed
    assert report.next_step == "run the check again"
    assert json.loads((tmp_path / "check" / REPORT).read_text())["outcome"].endswith("interrupted")
    assert (tmp_path / "check" / VERDICTS).exists()


def test_signals_end_a_check_early_however_often_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def until_interrupted(*arguments: Any) -> Report:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(30)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)  # not cancelled once more
        return Report("its record", "", "")

    monkeypatch.setattr(check, "check_exchange", until_interrupted)
    assert check.run_check(Config(), KEYS, tmp_path).endpoint == "its record"

    async def before_the_answer(*arguments: Any) -> Report:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
        raise AssertionError

    monkeypatch.setattr(check, "check_exchange", before_the_answer)
    with pytest.raises(SessionError, match="nothing was sent, nothing is open"):
        check.run_check(Config(), KEYS, tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes"):
        with pytest.raises(SessionError, match="must be a new or an empty folder"):
            asyncio.run(check_exchange(Config.from_parameters(mode="demo"), KEYS, folder))


def _cancel(checking: asyncio.Task[Report]) -> None:
    if not checking.cancelling():
        checking.cancel()


def test_a_rehearsal_at_a_venue_in_lockstep_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def status(venue: VenueProcess) -> dict[str, Any]:
        return {"lockstep": True}

    monkeypatch.setattr(VenueProcess, "status", status)
    config = Config.from_parameters(venue="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="started with --speed 1, was in lockstep"):
        asyncio.run(check_exchange(config, {}, tmp_path / "record"))
    assert not (tmp_path / "record").exists()


def test_a_first_try_that_failed_leaves_no_folder_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    """A wrong key, and then the right one into the same folder."""
    wrong = {**KEYS, "VOLTRADE_API_KEY": "another-key-of-thirty-two-letters"}

    async def story() -> None:
        venue = await serve(
            Config.from_parameters(speed=1, begin_s=200.0, mark_interval_s=1),
            *(tape(),),
            log_dir=tmp_path / "venue",
            api_key=KEY,
            api_secret=SECRET,
        )
        config = Config.from_parameters(mode="demo", venue=venue.rest_url, capital=1)
        try:
            with pytest.raises(VoltradeError, match="-2015"):
                await check_exchange(config, wrong, tmp_path / "record")
            assert not (tmp_path / "record").exists()
            (tmp_path / "record").mkdir()
            checking: asyncio.Task[Report] = asyncio.create_task(
                check_exchange(config, KEYS, tmp_path / "record", on_row=lambda row: _cancel(checking))
            )
            assert (await checking).rows[-1].item == "interrupted"
        finally:
            await venue.close()

    asyncio.run(story())


class Ending:
    """A context, its clean-up, and the second process: they note what is done in turn."""

    def __init__(self, others: str = "", is_complete: bool = True) -> None:
        self.done: list[str] = []
        self.rows: dict[str, bool] = {}
        self.others = others
        self.clean_up, self.record = self, SimpleNamespace(is_complete=is_complete)
        self.report = Report("", "BTCUSDT", "", has_traded=True)
        self.wiring = SimpleNamespace(endpoint=SimpleNamespace(name="sim"), exchange=self)
        self.redact = self.redacted = lambda value: value

    async def run(self) -> None:
        self.done.append("flat")

    async def dismiss(self) -> None:
        self.done.append("dismissed")

    async def of_others(self) -> str:
        return self.others

    @asynccontextmanager
    async def part(self, name: str) -> AsyncIterator[None]:
        yield

    def row(self, part: str, item: str, expected: str, found: str, ok: bool = True) -> None:
        self.rows[found] = ok


@pytest.mark.parametrize("others", ["", "a position of 0.050"])
def test_the_second_process_watches_until_nothing_is_left_and_what_others_have_fails(others: str) -> None:
    ending: Any = Ending(others)
    asyncio.run(check._clean_up(ending, ending))
    assert ending.done == ["flat", "dismissed"]
    assert ending.rows == ({f"left as it is: {others}": False} if others else {})


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_check_whose_record_is_incomplete_has_not_passed(tmp_path: Path, is_complete: bool) -> None:
    ending: Any = Ending(is_complete=is_complete)
    check._save(ending, tmp_path, {})
    assert ending.rows == ({} if is_complete else {"incomplete: it could not be written": False})
    assert {path.name for path in tmp_path.iterdir()} == {REPORT, VERDICTS}


def test_an_error_of_any_kind_outside_of_the_parts_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*given: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(check, "_begin", fail)
    report = asyncio.run(a_check(tmp_path))
    assert [str(row) for row in report.failed] == [str(report.rows[-1])]
    assert "IndexError" in report.rows[-1].found
    assert json.loads((tmp_path / "check" / REPORT).read_text())["passed"] is False
    assert (tmp_path / "check" / VERDICTS).exists()


def test_after_the_death_of_the_second_process_nothing_more_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position is closed at once."""
    tried: list[str] = []

    async def nothing(context: Any) -> None:
        """Look at nothing before the orders."""

    async def die(context: Any) -> None:
        tried.append("stops")
        monkeypatch.setattr(Watcher, "is_there", lambda watcher: False)

    async def never(context: Any) -> None:
        tried.append("flat again")

    steps = [(n, do) for n, do in check._steps() if n in ("private stream", "far order", "market order")]
    monkeypatch.setattr(check, "_steps", lambda: [*steps, ("stops", die), ("flat again", never)])
    monkeypatch.setattr(check, "_look", nothing)
    report = asyncio.run(a_check(tmp_path))
    assert tried == ["stops"]
    assert [row.item for row in report.failed] == ["second process"]
    assert left_open(tmp_path) == []


def test_no_word_of_the_checks_own_texts_is_hidden() -> None:
    """Rows and verdicts are scrubbed: a text that looks like a key and its value would lose a word."""
    scrubber = Redaction()
    for module in Path(check.__file__).parent.glob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Constant)]
        assert [text for text in texts if isinstance(text, str) and scrubber.clean(text) != text] == []
