"""What the README shows works: every block, as a reader pastes it into a fresh clone right after `make live`.

The clone has the files that git has, uncommitted changes included. Two things in it are those of this checkout, as
making them anew would take minutes: the environment, by links, and the package, which numba compiles for each folder
that it lies in. Each block runs in a fresh shell after the one line that the README asks for, with nothing of ours on
PATH and no VOLTRADE_* variables but these: the archive and the REST address are on loopback, and compiled rules are
where they were. `INSTEAD` names every command that is not run just as it stands, and says why.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from support.forked import Forked
from support.history import HEADERS, History, HistoryServer, some_trades
from ta.trend import ADXIndicator

import voltrade
from voltrade.__main__ import main
from voltrade.compiled import cache_home
from voltrade.data.kinds import TRADES, day_of, start_of
from voltrade.data.tape import load_tape
from voltrade.model import DAY_MS
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument
from voltrade.strategy import parameter_file

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ACTIVATION = "source .venv/bin/activate"


class Block(NamedTuple):
    language: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)]
SHELL = [block.text for block in BLOCKS if block.language == "sh"]
PYTHON = [block.text for block in BLOCKS if block.language == "python"]
RULE = next(text for text in PYTHON if "(SignalEngine):" in text)
PYTHON.remove(RULE)

HELPERS = r"""
set -eEuo pipefail
trap 'echo "the command that failed: $BASH_COMMAND" >&2' ERR
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
refused() {  # WORDS COMMAND...: it is refused, and says why
    local words=$1 said; shift
    if said=$("$@" 2>&1); then echo "was not refused: $*" >&2; return 1; fi
    grep -qF -- "$words" <<<"$said" || { echo "$said" >&2; return 1; }
}
serves() {  # WORDS COMMAND...: it says so, and goes on until it is stopped
    local words=$1; shift
    "$@" >said.log 2>&1 &
    until grep -qF -- "$words" said.log; do
        kill -0 $! 2>/dev/null || { cat said.log >&2; return 1; }
        sleep 0.1
    done
    kill $!
    wait $! || true
}
checked() {  # papermill NOTEBOOK OUTPUT -p ...: it is found; papermill and doctor take the rest after this block
    type -P "$1" >/dev/null
    echo "${@:2}" >>checked.log
}
"""

A_SESSION = """
import voltrade
from voltrade.notebook import session
session.start(voltrade.Config.from_parameters(speed=1.0, on_notebook_lost="carry_on"), run_dir="runs/for_ctl")
"""


@dataclass(frozen=True)
class Instead:
    """What is run in place of a command of the README, and why."""

    run: str
    why: str


INSTEAD = {
    "make live ": Instead("make live ARGS=--prepare-only ", "runs/today.ipynb is the same session"),
    "make test ": Instead("make --dry-run test ", "it is these tests"),
    "make lab ": Instead(
        "serves 'is running at:' make lab ARGS='--no-browser --allow-root --port=0' ",
        "it serves until it is stopped; without a browser, and as whoever runs the tests",
    ),
    "papermill notebooks/live.ipynb runs/today.ipynb                        #": Instead(
        "papermill notebooks/live.ipynb runs/today.ipynb -p hours 3 #", "notebooks/live.ipynb itself runs twelve hours"
    ),
    "papermill notebooks/live.ipynb runs/seed9.ipynb": Instead(
        "checked papermill notebooks/live.ipynb runs/seed9.ipynb", "one session is run, and this one is like it"
    ),
    "papermill notebooks/live.ipynb runs/ltc.ipynb": Instead(
        "checked papermill notebooks/live.ipynb runs/ltc.ipynb", "likewise; 01_data has read the same file"
    ),
    "python -m voltrade ctl status": Instead(
        f"python -c {shlex.quote(A_SESSION)}\npython -m voltrade ctl status", "wants a session that runs"
    ),
    'python -m voltrade ctl pause --reason "news at two" ': Instead(
        'python -m voltrade ctl pause --reason "news at two"\npython -m voltrade ctl stop ', "the session is to end"
    ),
    'export VOLTRADE_NOTIFY="tgram://TOKEN/CHAT mailto://USER:PASSWORD@gmail.com" ': Instead(
        'export VOLTRADE_NOTIFY="tgram://TOKEN/CHAT mailto://USER:PASSWORD@gmail.com"\n'
        "refused 'mailto; address 1 is none that apprise knows' python -m voltrade doctor ",
        "TOKEN is none; that it is told of shows that the variable was read",
    ),
    "python -m voltrade doctor -p mode live": Instead(
        "refused 'confirmation: must be' python -m voltrade doctor -p mode live",
        "no test reaches Binance; it says what is missing, as the README says",
    ),
    "papermill notebooks/demo_check.ipynb": Instead(
        "refused 'VOLTRADE_API_KEY: must be set' papermill notebooks/demo_check.ipynb", "no test reaches Binance"
    ),
    "python -m voltrade doctor --trade": Instead(
        "refused 'VOLTRADE_API_KEY: must be set' python -m voltrade doctor --trade", "likewise"
    ),
    "papermill notebooks/live.ipynb runs/today.ipynb -p mode live": Instead(
        "refused 'confirmation: must be' papermill notebooks/live.ipynb runs/today.ipynb -p mode live",
        "the words are for another account and day",
    ),
    "papermill notebooks/live.ipynb runs/today.ipynb -p parameters_file": Instead(
        "checked papermill notebooks/live.ipynb runs/today.ipynb -p parameters_file",
        "a session is run above; the file is one that the test wrote",
    ),
    "papermill notebooks/live.ipynb runs/adx.ipynb": Instead(
        "checked papermill notebooks/live.ipynb runs/adx.ipynb", "tests/strategy/test_rule_file.py runs such a session"
    ),
    "--hours 12 --port 9000": Instead("--hours 2 --port 9000", "an hour of the first session, and one of the next"),
    "-p duration_s 14400": Instead("-p duration_s 3600", "likewise"),
    "--port 9000": Instead("--port {port}", "9000 may be taken"),
    "http://127.0.0.1:9000": Instead("http://127.0.0.1:{port}", "likewise"),
}


def as_run(block: str, port: int) -> str:
    """A block of the README with what INSTEAD says."""
    for typed, instead in INSTEAD.items():
        block = block.replace(typed, instead.run.replace("{port}", str(port)))
    return block


# --- a fresh clone ----------------------------------------------------------------------------------------------------


def cloned(place: Path) -> Path:
    """What git would clone but the package, and the environment as `make live` leaves it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        source, target = ROOT / name, place / name
        if name and os.path.lexists(source) and not name.startswith("voltrade/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    venv = place / ".venv"
    (venv / "bin").mkdir(parents=True)
    for link in (*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()):
        target = venv / link.relative_to(sys.prefix)
        if not (target.exists() or link.name.startswith(("ready", "activate"))):
            target.symlink_to(link)
    activate = Path(sys.prefix, "bin/activate").read_text().replace(sys.prefix, str(venv))
    (venv / "bin/activate").write_text(activate)
    (venv / "ready").touch()
    return place


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone, and beside it what the README calls the reader's own: a file of trades, saved parameters."""
    place = cloned(tmp_path_factory.mktemp("fresh") / "voltrade")
    first = day_of(0) + timedelta(20_458)
    trades = some_trades("LTCUSDT", first, 1, 20_000)
    lines = History(trades, 0).lines(TRADES, first, first)
    pd.DataFrame([line.split(",") for line in lines], columns=HEADERS[TRADES].split(",")).to_csv(
        place / "trades.csv.gz", index=False
    )
    (place / "parameters").mkdir()
    parameter_file.write(place / "parameters/btcusdt.json", voltrade.Config.from_parameters(stop_atr=2.5))
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[HistoryServer]:
    """Binance's archive of the last week, and its REST."""
    now = int(time.time() * 1000)
    today = day_of(now)
    first = today - timedelta(8)
    trades = some_trades("BTCUSDT", first, 9, 500)
    marks = np.arange(start_of(first), now, 60_000)
    funding = np.arange(start_of(first), now, DAY_MS // 3)
    server = HistoryServer(replace(History(trades, now), marks=marks, funding=funding))
    for kind in HEADERS:
        server.put_days(kind, "BTCUSDT", first, today - timedelta(1))
    with server.running():
        yield server


@pytest.fixture(scope="module")
def environment(clone: Path, server: HistoryServer) -> dict[str, str]:
    """The variables of a fresh login; PYTHONPATH keeps them on this machine, and names the package."""
    wall = clone.parent / "wall"
    wall.mkdir()
    shutil.copy(ROOT / "tests/support/wall.py", wall)
    (wall / "sitecustomize.py").write_text("import wall\nfor guard in wall.GUARDS:\n    setattr(*guard)\n")
    home = clone.parent / "home"
    home.mkdir()
    return {
        "HOME": str(home),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{wall}",
        "VOLTRADE_ARCHIVE": server.address,
        "VOLTRADE_REST": server.address,
        "VOLTRADE_CACHE": str(cache_home()),
    }


def run(script: str, clone: Path, environment: dict[str, str]) -> str:
    command = ["bash", "--noprofile", "--norc", "-c", script]
    with (clone.parent / "out.log").open("w+") as out:  # not a pipe: what stays behind must not keep it open
        done = subprocess.run(command, cwd=clone, env=environment, stdout=out, stderr=out, timeout=580, check=False)
    said = (clone.parent / "out.log").read_text()
    assert done.returncode == 0, f"{script}\n{said[-5000:]}"
    return said


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


# --- the tests, in the README's order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(SHELL)))
def test_commands_work_as_typed(
    number: int, clone: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault case I10: after `make live`, neither `papermill` nor voltrade's packages were found."""
    first = "" if number == 0 else f"{ACTIVATION}\n"
    run(f"set +u\n{first}{HELPERS}\n{as_run(SHELL[number], a_free_port())}", clone, environment)
    check_sessions(clone, environment, monkeypatch)


def check_sessions(clone: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have papermill take what a block would run, and a session its parameters."""
    monkeypatch.chdir(clone)
    if (asked := clone / "checked.log").exists():
        for line in asked.read_text().splitlines():
            notebook, output, *given = line.split()
            log = clone.parent / "checked.out"
            prepared = (notebook, output, *given, "--prepare-only", "--no-progress-bar")
            for program, words in (("papermill", prepared), ("voltrade", ("doctor", *given))):
                done = Forked(*words, log=log, program=program, environment=environment).wait(120)
                assert done == 0, f"{program} {words}\n{log.read_text()[-5000:]}"
        asked.unlink()


def test_python_works_as_typed(clone: Path, environment: dict[str, str]) -> None:
    """In one interpreter and in the README's order, as blocks rest on those before; it sees what it says it sees."""
    shown = "\n".join([*PYTHON, "assert run.state == 'ended'", "print(found.assessment)"])
    (clone / "shown.py").write_text(shown)
    said = run(f"{ACTIVATION}\npython shown.py", clone, environment)
    (assessment,) = re.findall(r'^found\.assessment  # "(.*) \.\.\."$', README, re.MULTILINE)
    assert assessment in said


def test_the_first_block_makes_the_shell_that_all_others_rest_on() -> None:
    assert ACTIVATION in SHELL[0]
    # As in a shell: within `make test` it would be a make below another.
    shell = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--dry-run", "live"]
    told = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True, check=True).stdout
    assert ACTIVATION in told.splitlines()[-1], "the last words of make live"
    assert any(line.startswith("make lab ") for line in "".join(SHELL).splitlines())


def test_a_clone_has_all_of_the_package() -> None:
    ignored = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "voltrade"]
    left = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [name for name in left if "__pycache__" not in name and not name.endswith(".egg-info")] == []


def test_the_commands_that_are_not_run_as_typed_are_the_readmes() -> None:
    for typed, instead in INSTEAD.items():
        assert "".join(SHELL).count(typed), f"the README no longer shows {typed!r}"
        assert instead.why
    assert {block.language for block in BLOCKS} == {"sh", "python", "ini"}


def test_the_rule_file_is_shown_and_its_adx_is_that_of_ta(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ROOT / "rules/adx.py").read_text() == RULE
    monkeypatch.chdir(ROOT)
    config = voltrade.read_parameters(rule="rules/adx.py:Adx", adx_length=10, adx_least=20)
    done = backtest(load_tape(config.session, shipped_instrument("BTCUSDT")), config)
    assert len(done.round_trips) > 0
    prices = [pd.Series(done.bars[name] / 10) for name in ("high", "low", "close")]
    ours, theirs = done.bar_decisions["adx"], ADXIndicator(*prices, window=10).adx().to_numpy()
    is_warm = np.arange(len(ours)) >= 2 * 10 - 1
    np.testing.assert_allclose(ours[is_warm], theirs[is_warm], rtol=1e-9)
    assert is_warm.sum() > 300
    assert np.isnan(ours[~is_warm]).all()  # where ta says 0


def test_every_command_is_shown_and_every_shown_path_exists(capsys: Any) -> None:
    for command in ("replay", "verify", "review", "runs", "ctl", "run", "venue"):
        assert f"python -m voltrade {command}" in README
    for path in re.findall(r"`((?:voltrade|notebooks|docs|rules)/[\w/]+\.(?:py|ipynb|md))", README):
        assert (ROOT / path).exists(), path
    assert main(["replay", "runs/there-is-no-such-run"]) == 2
    assert "replay:" in capsys.readouterr().err


def test_a_backtest_has_the_frames_that_the_readme_names() -> None:
    """`decisions` was named and was not there, and `bars` were an array in ticks."""
    line = next(line for text in PYTHON for line in text.splitlines() if line.startswith("result.round_trips"))
    names = re.findall(r"\w+", line.partition("also ")[2].partition(";")[0])
    config = voltrade.Config.from_parameters(hours=1)
    result = backtest(load_tape(config.session, shipped_instrument("BTCUSDT")), config)
    assert "decisions" in names
    assert "bars" not in names
    for named in [*(getattr(result, name) for name in names), eval(line.rpartition(" ")[2], {"result": result})]:
        assert isinstance(named, pd.DataFrame)
        assert named.index.name == "time"
