"""Ways to end a notebook from outside: signals to papermill, kills of papermill, its kernel and the engine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support.papermill_runs import LOST_WITHIN_S, Started
from support.sessions import ROOT, Truth
from support.wall_venue import PARAMETERS as WALL_PARAMETERS
from support.wall_venue import dense_tape, rule_file

from voltrade import journal
from voltrade.config import Config
from voltrade.engine import ctl
from voltrade.errors import SessionError
from voltrade.notebook import session
from voltrade.notebook.papermill_engine import Refused, check_parameters, resume
from voltrade.runs.replay import replay

PARAMETERS: dict[str, Any] = {
    **{"seed": 7, "hours": 96.0, "threshold": 15, "cooldown_bars": 1},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}
"""A tape that takes minutes, so that a session is in its midst whenever a test gets to it."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start_one(**parameters: object) -> Started:
        started.append(Started(tmp_path / "today.ipynb", **(PARAMETERS | parameters)))
        return started[-1]

    yield start_one
    for one in started:
        one.clean_up()


def check_sealed(run: Path) -> None:
    """The journal is whole, and leads to the same decisions again."""
    record = json.loads((run / "run.json").read_text())
    assert journal.verify(run / "journal.db").ok
    assert journal.verify(run / "journal.db").head == record["head"]
    again = replay(run / "journal.db")
    assert again.differences == 0, again.shown


# --- signals to papermill --------------------------------------------------------------------------------------------


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_session_and_the_notebook_is_whole(start: Callable[..., Started], number: int) -> None:
    """`test_kills` has seen the same of SIGINT in the midst of a position."""
    one = start().until_it_trades()
    one.papermill.send_signal(number)
    one.until(lambda: one.record["state"] == "ended", LOST_WITHIN_S)
    one.check_whole()
    check_sealed(one.run)


@pytest.mark.campaign
def test_an_interrupt_before_the_engine_trades_is_kept_until_it_can_be_told(start: Callable[..., Started]) -> None:
    one = start()
    one.until(lambda: one.record.get("state") == "starting")
    os.kill(one.papermill.pid, signal.SIGINT)
    assert one.papermill.wait(60) == 0, one.said
    assert one.record["end_reason"] == "INTERRUPTED"


@pytest.mark.campaign
def test_the_third_signal_gives_up_on_a_notebook_that_does_not_end(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    deaf = "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(deaf)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "voltrade": {"session": True}})
    nbformat.write(nb, tmp_path / "deaf.ipynb")
    one = start(notebook=tmp_path / "deaf.ipynb")
    one.until(lambda: "while True" in one.running_cell())
    for count, number in enumerate((signal.SIGTERM, signal.SIGINT), start=1):
        one.papermill.send_signal(number)
        one.until(lambda count=count: one.said.count("asking the session to stop") == count)
    assert one.papermill.poll() is None
    one.papermill.send_signal(signal.SIGTERM)
    assert one.papermill.wait(30) == 1


def test_an_interrupt_may_leave_the_session_trading_without_its_notebook(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    by_the_wall_clock = {"tape": dense_tape(), "speed": 1.0, "begin_s": 600.0, "rule": rule_file(tmp_path)}
    carried_on = {"on_interrupt": "carry_on", "on_notebook_lost": "carry_on"}
    one = start(**WALL_PARAMETERS, **by_the_wall_clock, **carried_on).until_it_trades()
    one.papermill.send_signal(signal.SIGINT)
    assert one.papermill.wait(60) == 0, one.said
    assert one.record["state"] == "running"
    assert "trades on" in one.output.read_text()
    rows = ctl.ask(one.run, {"op": "status"})["rows"]
    one.until(lambda: ctl.ask(one.run, {"op": "status"})["rows"] > rows)
    again = session.attach(one.run)  # a second notebook, or the same one after its kernel was restarted
    again.stop("that will do")
    one.until(lambda: one.record["state"] == "ended")
    assert one.record["end_reason"] == "that will do"
    check_sealed(one.run)
    one.until(lambda: (one.run / "review.html").exists(), 90)  # nobody documents it, so the engine does


def test_a_cell_that_blocks_holds_nothing_up(start: Callable[..., Started], tmp_path: Path) -> None:
    """The cell that follows is replaced by one that sleeps without ever giving way."""
    nb = nbformat.read(ROOT / "notebooks/live.ipynb", 4)
    for cell in nb.cells:
        if cell.source.startswith("await live.follow()"):
            cell.source = "import time; time.sleep(20)"
    nbformat.write(nb, tmp_path / "blocked.ipynb")
    one = start(notebook=tmp_path / "blocked.ipynb", hours=3.0)
    one.until(lambda: "time.sleep(20)" in one.running_cell())
    one.until(lambda: one.record["state"] == "ended", 20)
    assert one.record["end_reason"] == "TAPE_END"
    assert "time.sleep(20)" in one.running_cell()
    check_sealed(one.run)


# --- kill of the engine, and papermill again -------------------------------------------------------------------------


@pytest.mark.campaign
def test_papermill_again_goes_on_with_a_run_whose_engine_was_killed(start: Callable[..., Started]) -> None:
    """And its guardian before, as by a power cut."""
    one = start().until_it_trades()
    for pid in (one.guardian, one.record["pid"]):
        os.kill(pid, signal.SIGKILL)
    assert one.papermill.wait(60) == 1
    assert "the engine died with status -9" in one.said
    assert one.record["state"] == "running"  # nobody could say otherwise
    before, pid = [row.hash for row in journal.read(one.run / "journal.db")], one.record["pid"]

    refused = start(threshold=16)
    assert refused.papermill.wait(60) == 1
    assert "threshold: must be as at the start of the run that is resumed, 15, was 16" in refused.said
    assert "Traceback" not in refused.said

    again = start()
    again.until(lambda: again.record["state"] == "running" and again.record.get("pid", pid) != pid)
    again.until(lambda: "await live.follow()" in again.running_cell())
    again.papermill.send_signal(signal.SIGINT)
    assert again.papermill.wait(60) == 0, again.said
    assert "today was interrupted; resuming it" in again.said
    assert again.record["end_reason"] == "INTERRUPTED"
    check_sealed(again.run)
    rows = list(journal.read(again.run / "journal.db"))
    assert [row.hash for row in rows[: len(before)]] == before
    assert [row.kind for row in rows].count("EngineRestarted") == 1
    assert sorted(path.name for path in again.output.parent.glob("*today*")) == ["today", "today.ipynb"]
    accepted = [
        row["client_order_id"] for row in Truth.of(again.run).kind("accepted") if row["action"].startswith("place")
    ]
    assert len(accepted) == len(set(accepted)) > 0


@pytest.fixture
def cut_short(tmp_path: Path) -> Path:
    """The notebook of a run whose engine is gone; its folder says that it runs."""
    folder = tmp_path / "today"
    folder.mkdir()
    (folder / "journal.db").touch()
    record = {"state": "running", "begun": True, "parameters": Config().parameters(), "socket": str(folder / "none")}
    (folder / "run.json").write_text(json.dumps(record))
    return tmp_path / "today.ipynb"


@pytest.mark.parametrize(
    ("facts", "goes_on"),
    [
        ({}, True),
        ({"state": "starting"}, True),  # killed again, while it was gone on with
        ({"state": "ended"}, False),
        ({"state": "failed"}, False),
        ({"begun": False}, False),  # nothing was sent: there is nothing to go on from
        ({"socket": "", "pid": os.getpid()}, False),  # its process is there
    ],
)
def test_only_a_run_that_was_cut_short_is_gone_on_with(cut_short: Path, facts: dict[str, Any], goes_on: bool) -> None:
    path = cut_short.with_suffix("") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert bool(resume(nbformat.v4.new_notebook(), cut_short, Config())) == goes_on


def test_what_the_kernel_computes_is_compared_in_the_kernel(cut_short: Path) -> None:
    source = "seed = 2 * 4\nhours = 24.0"
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})
    with pytest.raises(Refused, match=r"^hours: must be .* 12\.0, was 24\.0\nfor a new run"):
        resume(nb, cut_short, check_parameters(nb))
    with pytest.raises(SessionError, match=r"^seed: must be .*, was 9$"):
        session.start(Config.from_parameters(seed=9), cut_short.with_suffix(""))
