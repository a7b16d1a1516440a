"""What an engine that comes back asks before its imports: about its own account only, with its own key."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from voltrade.engine import engine_process, first_questions
from voltrade.engine.first_questions import FirstQuestions, endpoint_for
from voltrade.exchange.block_note import BlockNote
from voltrade.exchange.client import Exchanged, recorded_by
from voltrade.exchange.credentials import Credentials

KEYS = {"VOLTRADE_API_KEY": "a-key", "VOLTRADE_API_SECRET": "a-secret"}
CREDENTIALS = Credentials("a-key", "a-secret", "the environment")
PARAMETERS = {
    **{"mode": "demo", "venue": "http://127.0.0.1:1", "rest_host": "", "stream_host": ""},
    **{"symbol": "BTCUSDT", "recv_window_ms": 5_000},
}
RECORD = {"parameters": PARAMETERS, "begun": True, "state": "running", "account": CREDENTIALS.fingerprint}


def test_nothing_is_imported_first_that_the_questions_do_not_need() -> None:
    """What compiles and calculates comes while the answers are on their way: a second of CPU, of 1.5."""
    script = "import sys, voltrade.engine.engine_process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    later = {"numba", "llvmlite", "pydantic", "pandas", "yaml", "plotly", "ta"}
    ours = {"core", "config", "journal", "compiled", "live", "simulated", "strategy", "runs", "engine.engine"}
    assert {"ccxt", "voltrade.exchange.rest"} <= loaded
    assert not loaded & (later | {f"voltrade.{name}" for name in ours})


def test_an_engine_that_comes_back_asks_about_its_position_before_it_imports_the_rest(tmp_path: Path) -> None:
    """Within 1.5 s of its start, where a processor is free: so by the CPU time that it has used."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        venue = f"http://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "run.json").write_text(json.dumps(RECORD | {"parameters": PARAMETERS | {"venue": venue}}))
        command = [sys.executable, "-m", engine_process.__name__, str(tmp_path)]
        engine = subprocess.Popen(command, env={**os.environ, **KEYS}, stderr=subprocess.DEVNULL)
        try:
            connection, _ = server.accept()
            stat, maps = (Path(f"/proc/{engine.pid}/{name}").read_text() for name in ("stat", "maps"))
            with connection:
                connection.settimeout(60)
                asked = connection.recv(1 << 16)
        finally:
            engine.kill()
            engine.wait()
    used_s = sum(map(int, stat.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
    assert asked.startswith(b"GET /fapi/")
    assert b"signature=" in asked
    assert "llvmlite" not in maps
    assert used_s < 1.2


def begin(folder: Path, record: Any, asked: list[str], patch: pytest.MonkeyPatch, keys: Any = KEYS) -> bool:
    """Return whether questions were begun for a record; `asked` gets the symbol."""
    (folder / "run.json").write_text(json.dumps(record))
    patch.setattr(first_questions.BinanceRestClient, "begin_account", lambda _, symbol: asked.append(symbol))

    async def ask() -> bool:
        first = FirstQuestions.begin(folder, keys)
        if first is not None:
            await first.close()
        return first is not None

    return asyncio.run(ask())


def test_a_run_that_goes_on_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    assert begin(tmp_path, RECORD, asked, monkeypatch)
    assert asked == ["BTCUSDT"]


@pytest.mark.parametrize(
    "record",
    [
        RECORD | {"begun": False},
        RECORD | {"state": "ended"},
        RECORD | {"account": "another key's"},
        RECORD | {"parameters": PARAMETERS | {"mode": "paper"}},
        RECORD | {"parameters": PARAMETERS | {"mode": "sim"}},
        RECORD | {"parameters": PARAMETERS | {"venue": "http://example.com"}},
        RECORD | {"parameters": PARAMETERS | {"venue": "", "rest_host": "example.com"}},
        RECORD | {"parameters": PARAMETERS | {"venue": 7}},
        RECORD | {"parameters": {"mode": "demo"}},
        {},
        [],
    ],
)
def test_nothing_is_asked_where_the_engine_might_not(
    record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    assert not begin(tmp_path, record, asked, monkeypatch)
    assert asked == []


def test_nothing_is_asked_without_a_key_or_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    assert not begin(tmp_path, RECORD, asked, monkeypatch, keys={})
    assert FirstQuestions.begin(tmp_path / "nowhere", KEYS) is None


def test_nothing_is_sent_into_a_pause_that_an_earlier_process_of_the_run_was_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    BlockNote(tmp_path).write(60_000, 0)
    asked: list[Exchanged] = []

    async def ask() -> None:
        first = FirstQuestions.begin(tmp_path, KEYS)
        assert first is not None
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        await first.close()

    with recorded_by(lambda exchange, exchanged: asked.append(exchanged)):
        asyncio.run(ask())
    assert len(asked) >= 5
    assert {each.response.text.split(" for ")[0] for each in asked} == {"not sent: the exchange blocks requests"}


def test_they_are_used_once_and_for_the_same_account_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_questions.BinanceRestClient, "begin_account", lambda *_: None)
    endpoint, other = (endpoint_for(mode, "", "", "") for mode in ("demo", "live"))

    async def tell() -> list[bool]:
        right = endpoint, CREDENTIALS, 5_000
        first = FirstQuestions(tmp_path, "BTCUSDT", *right)
        wrong = [(other, CREDENTIALS, 5_000), (endpoint, Credentials("b", "c"), 5_000), (endpoint, CREDENTIALS, 4_000)]
        try:
            return [first.take(*each) for each in (*wrong, right, right)]
        finally:
            await first.exchange.close()

    assert asyncio.run(tell()) == [False, False, False, True, False]
