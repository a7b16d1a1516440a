"""`python -m voltrade` outlives the reader of what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voltrade.__main__ import main
from voltrade.data.kinds import TRADES
from voltrade.data.store import Store

ROOT = Path(__file__).resolve().parents[2]
ROWS = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"


@pytest.fixture
def no_reader() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def voltrade(*given: str, out: int, err: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "voltrade", *given]
    return subprocess.run(command, cwd=ROOT, stdout=out, stderr=err, text=True, check=False)


@pytest.mark.parametrize("given", [("runs", "tests"), ("data", "list"), ("venue", "--tables")])
def test_a_command_outlives_the_reader_of_its_output(no_reader: int, given: tuple[str, ...]) -> None:
    """Fault case I17: `runs | head` ended with BrokenPipeError; so did all other commands."""
    done = voltrade(*given, out=no_reader)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_is_not_buffered_outlives_its_reader(no_reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    done = voltrade("runs", "tests", out=no_reader)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_refusal_keeps_its_status_though_nobody_reads_its_words(no_reader: int) -> None:
    assert voltrade("ctl", "status", "runs/there-is-no-such-run", out=no_reader, err=no_reader).returncode == 2


def test_a_command_does_all_that_it_was_asked_for_though_nobody_reads(
    no_reader: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import of two files is not cut short by `| head -1`."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # else a text so short is written at the end
    for day in (5, 6):
        at = 1_767_571_200_000 + (day - 5) * 86_400_000
        (tmp_path / f"{day}.csv").write_text(f"{ROWS}{day},60000.0,0.001,1,1,{at},true\n")
    files = [str(tmp_path / f"{day}.csv") for day in (5, 6)]
    done = voltrade("data", "import", "BTCUSDT", *files, "--store", str(tmp_path / "store"), out=no_reader)
    assert done.returncode == 0
    assert "Broken pipe" not in done.stderr
    days = [stored.day.day for stored in Store(tmp_path / "store").days(TRADES, "BTCUSDT")]
    assert days == [5, 6]


def test_ctl_says_that_no_session_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ctl", "status"]) == 2
    assert capsys.readouterr().err == "ctl: run: no session is running under runs/\n"


NONE = "run: must be the folder of a run with its run.json, was {here}/runs/none, which is not there"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("doctor -p capitol 5", "doctor: capitol: unknown parameter, was 5 (did you mean capital?)"),
        (
            "doctor -p treshold 5 -p xyz 1",
            "doctor: treshold: unknown parameter, was 5 (did you mean threshold?); xyz: unknown parameter, was 1",
        ),
        ("review runs/none", f"review: {NONE}"),
        ("review runs/empty", f"review: {NONE.replace('none, which is not there', 'empty, which has none')}"),
        ("review runs/file", f"review: {NONE.replace('none, which is not there', 'file, which is a file')}"),
        ("ctl status runs/none", f"ctl: {NONE.replace('{here}/', '')}"),
        ("ctl status runs/cut", "ctl: run: must be the folder of a run with its run.json, was runs/cut, of which it "
         "can't be read: it is damaged: Expecting value: line 1 column 1 (char 0)"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_once_and_in_words(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said `[Errno 2] No such file or directory`, with the path twice."""
    for folder in ("runs/empty", "runs/cut"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/cut/run.json").touch()
    (tmp_path / "runs/file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(given.split()) == 2
    assert capsys.readouterr().err == said.replace("{here}", str(tmp_path)) + "\n"


def test_python_without_the_environment_is_told_how_to_have_it(tmp_path: Path) -> None:
    """Fault case I10: the system's Python ended with `No module named 'numba'` and no word of what to do."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import voltrade", ROOT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("source .venv/bin/activate")
