"""A notebook starts, follows and stops an engine that is not its own process; papermill keeps what was there before."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from support import fake_engine

from voltrade.config import RECORDED, RUN_DIR, Config
from voltrade.engine import ctl
from voltrade.engine.checks import Check
from voltrade.errors import ConfigError, SessionError
from voltrade.notebook import papermill_engine, session, session_view
from voltrade.notebook.papermill_engine import Refused, move_aside
from voltrade.report import figure_output
from voltrade.report.run_reader import RunReader

FAKE_ENGINE = (sys.executable, str(Path(fake_engine.__file__)))


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Sessions of this file start the fake engine, and neither it nor a lease outlives its test."""
    engines: list[subprocess.Popen[bytes]] = []
    launch = session._launch

    def launch_and_note(folder: Path, config: Config) -> subprocess.Popen[bytes]:
        engines.append(launch(folder, config))
        return engines[-1]

    monkeypatch.setattr(session, "_launch", launch_and_note)
    monkeypatch.setattr(session, "ENGINE", FAKE_ENGINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.delenv(RUN_DIR, raising=False)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    for engine in engines:
        engine.kill()
        engine.wait()
    for leasing in [*session._HOLDING]:  # a lease lasts as long as its process, and that of the tests lasts too long
        leasing._release_lease()


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a session showed: ("new" or "update", the output)."""
    shown: list[tuple[str, Any]] = []

    class Handle:
        def update(self, output: Any, **_: Any) -> None:
            shown.append(("update", output))

    def display(output: Any, **_: Any) -> Handle:
        shown.append(("new", output))
        return Handle()

    monkeypatch.setattr(session_view, "display", display)
    monkeypatch.setattr(figure_output, "show_output", display)
    monkeypatch.setenv(RECORDED, "1")
    return shown


def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.01)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_are_the_plain_values_of_the_notebook() -> None:
    namespace = {
        "seed": 3, "threshold": 12.5, "_private": 1, "__name__": "__main__", "In": [""], "Out": {}, "json": json,
        "helper": lambda: 1, "config": Config(), "Path": Path, "PAPERMILL_INPUT_PATH": "live.ipynb",
    }  # fmt: skip
    assert session.parameters(namespace) == Config.from_parameters(seed=3, threshold=12.5)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("treshold", 5, "unknown parameter"),
        ("treshold", [5], "unknown parameter"),
        ("seed", "3", "integer"),
        ("use_rsi_filter", "false", "boolean"),
        ("stop_atr", math.inf, "finite"),
        ("api_key", "x", "never from a parameter"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_rule(name: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        session.parameters({name: value})
    assert str(caught.value).startswith(name)


# --- start, follow, stop ---------------------------------------------------------------------------------------------


def test_a_session_is_followed_to_its_end(outputs: list[tuple[str, Any]], tmp_path: Path) -> None:
    live = session.start(Config(), tmp_path / "runs/today")
    asyncio.run(live.follow(every_s=0.1))
    record = json.loads((tmp_path / "runs/today/run.json").read_text())
    assert record["state"] == "ended"
    assert record["leases"] == 1
    assert Config.from_parameters(record["parameters"]) == Config()
    assert (tmp_path / "runs/today").stat().st_mode & 0o777 == 0o700
    assert len(live.frames().bars) == 120
    assert live.head == record["head"]
    assert live.verify().ok
    # One output each for status, prices and equity, however often they changed; a slow machine has a line of its wait.
    new = [str(getattr(output, "data", "")) for kind, output in outputs if kind == "new"]
    assert len([text for text in new if not text.startswith("<pre>")]) == 3
    status = [output.data for _, output in outputs if hasattr(output, "data")][-1]
    assert "100%" in status
    assert "TAPE_END" in status.replace("<wbr>", "")
    assert live.name == "runs/today"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a session that has ended."""
    folder = tmp_path_factory.mktemp("ended") / "today"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "ENGINE", FAKE_ENGINE)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        live = session.start(Config(), folder)
        until(lambda: live.state == "ended", within_s=60)
        live._process.wait()
    return folder


@pytest.fixture
def followed(ended: Path, tmp_path: Path) -> session.Session:
    """A session of the test's own that has ended, to be tampered with."""
    return session.Session(Path(shutil.copytree(ended, tmp_path / "runs/today")))


def test_the_last_cell_says_what_a_session_came_to(followed: session.Session) -> None:
    trips = followed.frames().round_trips
    assert (
        f"Ended: TAPE_END. {len(trips)} round trips, net {trips['net'].sum():+,.2f} USDT." in followed.conclude().data
    )


def test_a_session_that_traded_nothing_is_warned_of(followed: session.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = followed.frames()
    monkeypatch.setattr(followed, "frames", lambda: replace(whole, fills=whole.fills[:0]))
    assert f"Warning: nothing was traded in {len(whole.bars)} bars; signals refused: " in followed.conclude().data


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"end_reason": "NOTEBOOK_LOST"}, "ended NOTEBOOK_LOST: the engine lost this notebook"),
        ({"state": "failed", "end_reason": "ERROR", "error": "the disk is full"}, "failed ERROR: the disk is full"),
        ({"state": "running", "end_reason": "", "socket": "gone"}, "killed : its engine is gone"),
    ],
)
def test_a_session_that_did_not_end_well_fails_its_notebook(
    followed: session.Session, facts: dict[str, str], words: str
) -> None:
    """Papermill, and so `make live`, ended with 0 though the engine had taken the notebook for lost."""
    path = followed.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(SessionError, match=words):
        followed.conclude()


def test_stop_asks_the_engine_and_waits_for_nothing(tmp_path: Path) -> None:
    live = session.start(Config.from_parameters(seed=fake_engine.WAITS))
    assert live.status()["state"] == "running"
    live.stop("ENOUGH")
    until(lambda: live.state == "ended")
    assert live.record["end_reason"] == "ENOUGH"
    live.stop("AGAIN")  # asks nothing of an engine that is over
    assert live.path.parent == tmp_path / "runs"
    assert live.path.name.startswith("interactive-")


def test_an_interrupt_asks_the_engine_to_stop_and_sees_it_through(outputs: list[tuple[str, Any]]) -> None:
    live = session.start(Config.from_parameters(seed=fake_engine.WAITS))

    async def interrupted() -> None:
        following = asyncio.create_task(live.follow(every_s=0.1))
        await asyncio.sleep(0.5)
        following.cancel()
        await following

    asyncio.run(interrupted())
    assert live.record["end_reason"] == "INTERRUPTED"
    assert "INTERRUPTED" in [output.data for _, output in outputs if hasattr(output, "data")][-1]


def test_an_engine_that_fails_to_start_says_why() -> None:
    with pytest.raises(SessionError, match=r"the venue did not start\na last word"):
        session.start(Config.from_parameters(seed=fake_engine.FAILS))


def test_a_refused_start_shows_its_table_with_the_failing_rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(session, "display", shown.append)
    with pytest.raises(SessionError, match=r"refused by the start-up table: leverage: 20, must be 5$"):
        session.start(Config.from_parameters(seed=fake_engine.REFUSES))
    [page] = [each.data for each in shown]
    assert page.index("leverage") < page.index("https://fapi.binance.com")
    assert page.count("background:#fbe9ea") == 1
    assert "5 (-p apply_account_settings True)" in re.sub("<[^>]+>", "", page)


def test_a_row_that_prevents_no_start_and_no_trade_either_is_marked_with_what_it_must_be() -> None:
    """A record of an earlier version lacks the field."""
    old = {"item": "endpoint", "found": "https://fapi.binance.com", "wanted": "", "ok": True}
    large = {"item": "largest order", "found": "none", "wanted": "at least 120", "ok": True, "is_warning": True}
    page = session_view.startup_table([old, large])
    assert re.sub("<[^>]+>", " ", page[page.index("<tbody>") :]).split() == [
        *("~~", "largest", "order", "none", "at", "least", "120", "ok", "endpoint", "https://fapi.binance.com"),
    ]
    assert [Check.of(row).marked for row in (old, large)] == [old["found"], "~~ none, must be at least 120"]


def test_an_engine_that_dies_is_noticed(outputs: list[tuple[str, Any]]) -> None:
    live = session.start(Config.from_parameters(seed=fake_engine.DIES))
    with pytest.raises(SessionError, match="died with status 9"):
        asyncio.run(live.follow(every_s=0.1))
    assert 0 < len(live.frames().bars) < 120
    assert live.status() == {"state": "running"}  # all that its record says


WAITING = Config.from_parameters(seed=fake_engine.WAITS)


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    live = session.start(WAITING, tmp_path / "runs/today")
    with pytest.raises(SessionError, match=r"runs already, with other parameters\nseed: must be .* 103, was 9"):
        session.start(Config.from_parameters(seed=9), tmp_path / "runs/today")
    live.stop()
    until(lambda: live.state == "ended")
    with pytest.raises(SessionError, match="holds a run already"):
        session.start(WAITING, tmp_path / "runs/today")


def test_a_notebook_holds_the_lease_from_the_start_on(tmp_path: Path) -> None:
    """Before it follows, too: an engine that trades already must notice its end at once."""
    live = session.start(WAITING, tmp_path / "runs/today")
    again = session.start(WAITING, tmp_path / "runs/today")
    until(lambda: live.status()["leases"] == 2)
    again.stop()
    until(lambda: live.state == "ended")


def test_an_engine_that_was_started_again_is_leased_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[socket.socket] = []

    def connect(_: Path) -> socket.socket:
        ours, theirs = socket.socketpair()
        engines.append(theirs)
        return ours

    monkeypatch.setattr(session.ctl, "connect", connect)
    record = {"parameters": Config().parameters(), "state": "running"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    live = session.Session(tmp_path)
    for pid in (1, 1, 2):
        (tmp_path / "run.json").write_text(json.dumps({**record, "pid": pid}))
        live.take_lease()
    first, second = engines
    assert first.recv(100) == second.recv(100) == b'{"op":"lease"}\n'
    assert first.recv(100) == b""  # of the engine that is gone
    live._release_lease()
    assert second.recv(100) == b""
    for engine in engines:
        engine.close()


def test_a_session_that_no_variable_names_any_more_is_not_given_up(
    tmp_path: Path, outputs: list[tuple[str, Any]]
) -> None:
    kept = weakref.ref(session.start(WAITING, tmp_path / "runs/today"))
    gc.collect()
    live = kept()
    assert live is not None  # and so its connection, by which the engine knows that the notebook is there
    live.stop()
    asyncio.run(live.follow())
    del live
    gc.collect()
    assert kept() is None


def test_a_cell_that_is_run_twice_starts_nothing_twice(tmp_path: Path) -> None:
    first = session.start(WAITING)
    again = session.start(WAITING)
    assert again.path == first.path
    assert again.record["pid"] == first.record["pid"]
    other = session.start(Config.from_parameters(seed=fake_engine.WAITS, threshold=20))
    assert other.path != first.path
    for live in (first, other):
        live.stop()


def test_a_notebook_attaches_to_the_session_that_papermill_began_on_its_account(tmp_path: Path) -> None:
    config = Config.from_parameters(seed=fake_engine.WAITS, venue="http://127.0.0.1:9")
    recorded = session.start(config, tmp_path / "runs/today")
    assert session.start(config).path == recorded.path
    alone = session.start(WAITING, tmp_path / "runs/demo")  # a venue and an account of its own: another is another
    assert session.start(WAITING).path != alone.path
    for run in (tmp_path / "runs").iterdir():
        session.attach(run).stop()


def test_a_second_notebook_attaches_and_follows_to_the_end(tmp_path: Path, outputs: list[tuple[str, Any]]) -> None:
    first = session.start(WAITING, tmp_path / "runs/today")
    second = session.attach("runs/today")

    async def follow_both() -> None:
        followed = asyncio.gather(first.follow(every_s=0.05), second.follow(every_s=0.05))
        second.stop("enough")
        await followed

    asyncio.run(follow_both())
    assert first.record["end_reason"] == "enough"
    assert first.record["leases"] == 2
    assert len(second.frames().bars) == 120
    asyncio.run(second.follow())  # a cell that is run again shows the end, and no more
    with pytest.raises(SessionError, match="today: must be running, is ended"):
        session.attach("runs/today")


def test_an_engine_that_was_found_running_and_dies_is_noticed(tmp_path: Path, outputs: list[tuple[str, Any]]) -> None:
    first = session.start(WAITING, tmp_path / "runs/today")
    second = session.attach("runs/today")
    os.kill(first.record["pid"], 9)
    with pytest.raises(SessionError, match="today: the engine is gone, before the session's end"):
        asyncio.run(second.follow(every_s=0.05))


def test_a_notebook_follows_the_engine_that_takes_a_dead_ones_place(
    tmp_path: Path, outputs: list[tuple[str, Any]]
) -> None:
    """So does `ctl`, which waits for it; nobody has to say or type anything."""
    live = session.start(Config.from_parameters(seed=fake_engine.REVIVES), tmp_path / "runs/today")
    first = live.record["pid"]

    async def outlive() -> None:
        following = asyncio.create_task(live.follow(every_s=0.05))
        await asyncio.sleep(0.3)
        os.kill(first, 9)
        answer = await asyncio.to_thread(ctl.ask, live.path, {"op": "status"})
        assert answer["state"] == "running"
        until(lambda: live.record["pid"] != first)
        while not (await asyncio.to_thread(ctl.ask, live.path, {"op": "status"}))["leases"]:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(live.stop, "enough")
        await following

    asyncio.run(outlive())
    assert live.record["end_reason"] == "enough"
    assert live.record["pid"] != first


def test_real_money_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLTRADE_API_KEY", raising=False)
    for mode in ("demo", "live"):
        with pytest.raises(ConfigError, match=f"mode {mode}: VOLTRADE_API_KEY: must be set in the environment"):
            session.start(Config.from_parameters(mode=mode))
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_engine_survives_its_starter(tmp_path: Path) -> None:
    """The engine is in a process group of its own, so what kills the notebook's does not reach it."""
    live = session.start(Config.from_parameters(seed=fake_engine.WAITS))
    assert os.getpgid(live.record["pid"]) == live.record["pid"] != os.getpgid(0)
    live.stop()


def test_runs_are_opened_by_folder_notebook_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session.start(Config.from_parameters(seed=fake_engine.WAITS), tmp_path / "runs/today").stop()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for path in ("runs/today", "runs/today.ipynb", tmp_path / "runs/today"):
        run = session.open_run(path)
        assert run.config.session.seed == fake_engine.WAITS
        assert run.name == "runs/today"
    until(lambda: run.state == "ended")
    with pytest.raises(SessionError, match=r"run\.json"):
        session.open_run("runs/tomorrow")


def test_client_ids_of_two_sessions_differ() -> None:
    assert session._base36(35) == "z"
    assert session._base36(36) == "10"


# --- papermill -------------------------------------------------------------------------------------------------------


def a_notebook(path: Path, parameters: str = "seed = 1", cell: str = "", is_session: bool = True) -> Path:
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(cell)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nb = new_notebook(cells=cells, metadata=metadata | ({"voltrade": {"session": True}} if is_session else {}))
    nbformat.write(nb, path)
    return path


def execute(notebook: Path, output: Path, **parameters: Any) -> Any:
    return papermill.execute_notebook(notebook, output, parameters, progress_bar=False)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_papermill_uses_our_engine_without_being_asked() -> None:
    engines = papermill.engines.papermill_engines
    for name in (None, "voltrade", "nbclient"):  # papermill's own name is no way past it
        assert engines.get_engine(name) is papermill_engine.PapermillEngine


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"sede": 3}, "sede: unknown parameter"),
        ({"seed": "3"}, "seed: .*integer"),
        ({"ema_fast": 30}, "ema_fast must be below ema_slow, were 30 and 25"),  # 25 is the notebook's own default
        ({"exchange_secret": "x"}, "exchange_secret: keys must come from"),
        ({"tape": "a" * 64}, "tape: keys must come from"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_written(
    tmp_path: Path, parameters: dict[str, Any], rule: str
) -> None:
    notebook = a_notebook(tmp_path / "live.ipynb", "seed: int = 1\nema_slow = 25")
    (tmp_path / "runs/today.ipynb").write_text("{}")
    before = files_of(tmp_path)
    with pytest.raises(Refused, match=rule):
        execute(notebook, tmp_path / "runs/today.ipynb", **parameters)
    assert files_of(tmp_path) == before
    assert (tmp_path / "runs/today.ipynb").read_text() == "{}"


def test_the_command_line_shows_the_rule_alone(tmp_path: Path) -> None:
    notebook = a_notebook(tmp_path / "live.ipynb")
    command = [sys.executable, "-m", "papermill", str(notebook), "runs/today.ipynb", "-p", "secret_key", "canary"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Error: secret_key: keys must come from the environment" in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert files_of(tmp_path / "runs") == set()


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An earlier run's notebook, with its folder and record."""
    output = tmp_path / "runs/today.ipynb"
    output.with_suffix("").mkdir()
    output.write_text(json.dumps({"metadata": {"papermill": {"start_time": "2026-03-01T09:30:00+00:00"}}}))
    (output.with_suffix("") / "run.json").write_text(
        json.dumps({"state": "ended", "created": "2026-03-01T10:00:00.250+01:00"})
    )
    return output


def test_a_session_runs_in_its_own_folder_and_an_earlier_one_is_kept(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = a_notebook(
        tmp_path / "live.ipynb",
        cell="import os, pathlib\nfolder = pathlib.Path(os.environ['VOLTRADE_RUN_DIR'])\nfolder.mkdir()\n"
        "(folder / 'run.json').write_text('{\"state\": \"ended\"}')\n"
        "(folder / 'seed').write_text(str(seed))\nprint(os.environ['VOLTRADE_RECORDED'])",
    )
    before = earlier.read_text()
    execute(notebook, earlier, seed=6)
    assert (tmp_path / "runs/today/seed").read_text() == "6"
    assert nbformat.read(earlier, 4).metadata.papermill.parameters == {"seed": 6}
    assert RUN_DIR not in os.environ
    kept = tmp_path / "runs/20260301T090000Z_today.ipynb"
    assert kept.read_text() == before
    assert files_of(kept.with_suffix("")) == {"run.json"}
    assert f"kept the earlier today.ipynb as {kept.name}" in capsys.readouterr().err


def test_the_folder_that_an_output_is_to_lie_in_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "deep/er/today.ipynb"
    monkeypatch.setattr(papermill_engine.SessionEngine, "execute_notebook", lambda nb, *given, **options: nb)
    execute(a_notebook(tmp_path / "live.ipynb"), output, seed=5)
    assert nbformat.read(output, 4).metadata.papermill.parameters == {"seed": 5}


def test_other_notebooks_are_left_alone(tmp_path: Path) -> None:
    """The output of an earlier one is written over, and its folder is nobody's."""
    notebook = a_notebook(tmp_path / "other.ipynb", "token_count = 1", is_session=False)
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other.ipynb").write_text(json.dumps({"metadata": {"papermill": {}}}))
    execute(notebook, tmp_path / "runs/other.ipynb", token_count=3)
    assert files_of(tmp_path / "runs") == {"other", "other.ipynb"}
    assert nbformat.read(tmp_path / "runs/other.ipynb", 4).metadata.papermill.parameters == {"token_count": 3}


def test_an_earlier_run_is_named_by_its_start(earlier: Path, tmp_path: Path) -> None:
    told = move_aside(earlier)
    assert files_of(tmp_path / "runs") == {
        "20260301T090000Z_today.ipynb",
        "20260301T090000Z_today",
        "20260301T090000Z_today/run.json",
    }
    assert len(told) == 2
    assert move_aside(earlier) == []


def test_a_notebook_without_a_folder_is_named_by_papermills_start(earlier: Path, tmp_path: Path) -> None:
    (earlier.with_suffix("") / "run.json").unlink()
    earlier.with_suffix("").rmdir()
    move_aside(earlier)
    assert files_of(tmp_path / "runs") == {"20260301T093000Z_today.ipynb"}


def test_a_folder_without_a_notebook_is_kept_too(earlier: Path, tmp_path: Path) -> None:
    earlier.unlink()
    (earlier.with_suffix("") / "run.json").write_text('{"state": "failed"}')
    os.utime(earlier.with_suffix(""), (0, 0))
    move_aside(earlier)
    assert "19700101T000000Z_today/run.json" in files_of(tmp_path / "runs")


NO_RUN = "it is no run's folder"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("runs.ipynb", NO_RUN),
        ("data.ipynb", NO_RUN),
        ("notebooks.ipynb", NO_RUN),
        ("state.ipynb", NO_RUN),
        ("state/accounts.ipynb", NO_RUN),
        ("runs/2026-11.ipynb", NO_RUN),
        ("runs/broken.ipynb", NO_RUN),
        ("runs/outer.ipynb", "inner in it is still running"),
        ("runs/link.ipynb", "it is a link"),
        ("runs/dangling.ipynb", "it is a link"),
        ("runs/file.ipynb", NO_RUN),
        ("runs/linked.ipynb", "it is a link"),
        ("live.ipynb", "it is no notebook that papermill has executed"),
        (".ipynb", "a name that begins with no dot"),
        ("runs/..ipynb", "a name that begins with no dot"),
        ("runs/...ipynb", "a name that begins with no dot"),
        ("runs/.accounts.ipynb", "a name that begins with no dot"),
    ],
)
def test_what_is_no_run_that_is_over_is_left_where_it_is(
    tmp_path: Path, output: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault case E10: an output's name moved the store, the ledger, or all runs."""
    notebook = a_notebook(tmp_path / "live.ipynb")
    running = {"state": "running", "pid": os.getpid()}
    for name, text in {
        "data/BTCUSDT/day.parquet": "trades",
        "notebooks/live.ipynb": "{}",
        "state/accounts/1f-live.json": "{}",
        "runs/.accounts/1f-live.json": "{}",
        "runs/2026-11/a/run.json": json.dumps({"state": "ended"}),
        "runs/broken/run.json": "broken",
        "runs/outer/run.json": json.dumps({"state": "ended"}),
        "runs/outer/deep/inner/run.json": json.dumps(running),
        "runs/real/run.json": json.dumps({"state": "ended"}),
        "runs/file": "a file",
        "runs/linked.txt": "a file",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "runs/link").symlink_to("real")
    (tmp_path / "runs/dangling").symlink_to("nowhere")
    (tmp_path / "runs/linked.ipynb").symlink_to("linked.txt")
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(Refused, match=why):
        execute(notebook, tmp_path / output)
    assert files_of(tmp_path) == before


def test_an_empty_folder_is_left_for_the_run(tmp_path: Path) -> None:
    (tmp_path / "runs/today").mkdir()
    assert move_aside(tmp_path / "runs/today.ipynb") == []
    assert files_of(tmp_path / "runs") == {"today"}


def test_a_session_does_not_begin_in_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    """Fault case E10, from a cell: the store or all runs would become a run."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/day.parquet").write_text("trades")
    with pytest.raises(SessionError, match="must be new or an empty folder"):
        session.start(Config.from_parameters(), tmp_path / "data")
    assert files_of(tmp_path / "data") == {"day.parquet"}


def test_two_runs_of_one_start_are_both_kept(earlier: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/20260301T090000Z_today").mkdir()
    move_aside(earlier)
    assert {"20260301T090000Z_today-2.ipynb", "20260301T090000Z_today-2"} <= files_of(tmp_path / "runs")


def test_a_running_session_is_not_pushed_aside(tmp_path: Path) -> None:
    live = session.start(Config.from_parameters(seed=fake_engine.WAITS), tmp_path / "runs/today")
    notebook = a_notebook(tmp_path / "live.ipynb")
    with pytest.raises(Refused, match="still running"):
        execute(notebook, tmp_path / "runs/today.ipynb", seed=2)
    live.stop()
    until(lambda: live.state == "ended")
    until(lambda: live._process.poll() is not None)
    assert len(move_aside(tmp_path / "runs/today.ipynb")) == 1


def test_a_killed_session_is_pushed_aside(tmp_path: Path) -> None:
    live = session.start(Config.from_parameters(seed=fake_engine.WAITS), tmp_path / "runs/today")
    live._process.kill()
    live._process.wait()
    until(lambda: live.state == "killed")  # the fake engine ends with its guardian
    assert live.record["state"] == "running"  # nobody could say otherwise
    assert len(move_aside(tmp_path / "runs/today.ipynb")) == 1


@pytest.mark.parametrize("output", ["runs/today", "runs/today.json"])
def test_an_output_that_would_be_its_own_folder_is_refused(tmp_path: Path, output: str) -> None:
    with pytest.raises(Refused, match=r"must end in \.ipynb"):
        execute(a_notebook(tmp_path / "live.ipynb"), tmp_path / output)


def test_a_pause_and_its_reason_stand_in_the_status(tmp_path: Path) -> None:
    shown = session_view.status_table(RunReader(tmp_path), {"state": "running", "paused": "news at noon"})
    assert "paused: news at noon" in shown
