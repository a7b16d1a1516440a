"""Real money wants keys and a person's word: twenty ways in which the word is wrong, and none sends anything."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.engine.engine_process import run as run_engine
from voltrade.engine.permission import authorise, check_permitted, confirmation_text, permit, permit_resumed
from voltrade.errors import ConfigError
from voltrade.exchange.credentials import Credentials

KEYS = {"VOLTRADE_API_KEY": "a-key-of-thirty-two-letters-and-up", "VOLTRADE_API_SECRET": "a-secret-0123456789"}
ACCOUNT = Credentials.load(KEYS).fingerprint
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RIGHT = f"trade BTCUSDT up to 20000 on account {ACCOUNT}, 2026-03-01"


def a_config(confirmation: str = "", **parameters: Any) -> Config:
    return Config.from_parameters(mode="live", confirmation=confirmation, **parameters)


def test_the_word_of_the_day_allows_a_live_session() -> None:
    assert confirmation_text(a_config(), ACCOUNT, NOW) == RIGHT
    permission = permit(a_config(RIGHT), KEYS, NOW)
    assert (permission.account, permission.by) == (ACCOUNT, f"typed confirmation: {RIGHT}")
    assert permission.credentials.key == KEYS["VOLTRADE_API_KEY"]
    assert permit(a_config(f"  {RIGHT.replace(' ', '  ')} "), KEYS, NOW).by.endswith(RIGHT)  # typed by a person


WRONG_WORDS = [
    "",
    "yes",
    "live",
    RIGHT.upper(),
    RIGHT + "!",
    RIGHT[:-1],
    RIGHT.replace("BTCUSDT", "ETHUSDT"),
    RIGHT.replace("20000", "2000"),
    RIGHT.replace("20000", "200000"),
    RIGHT.replace("20000", "20,000"),
    RIGHT.replace("20000", "1e999"),
    RIGHT.replace(ACCOUNT, ""),
    RIGHT.replace(ACCOUNT, ACCOUNT[:-1]),
    RIGHT.replace(ACCOUNT, "000000000000"),
    RIGHT.replace("03-01", "02-28"),
    RIGHT.replace("03-01", "03-02"),
    RIGHT.replace("2026", "2025"),
    RIGHT.replace(", 2026-03-01", ""),
    f"{RIGHT}\n{RIGHT}",
    "trade {symbol} up to {notional} on account {account}, {today}",
]


@pytest.mark.parametrize("word", WRONG_WORDS)
def test_a_wrong_word_is_refused_and_the_right_one_told(word: str) -> None:
    with pytest.raises(ConfigError, match=f"^confirmation: must be '{RIGHT}'"):
        permit(a_config(word), KEYS, NOW)


def test_the_word_names_what_the_settings_would_trade() -> None:
    config = a_config(symbol="ETHUSDT", capital=1_500, max_notional_multiple=2.5)
    assert confirmation_text(config, ACCOUNT, NOW) == f"trade ETHUSDT up to 3750 on account {ACCOUNT}, 2026-03-01"
    with pytest.raises(ConfigError, match="confirmation"):
        permit(a_config(RIGHT, capital=10_001), KEYS, NOW)


def test_without_keys_no_word_helps() -> None:
    for mode in ("demo", "live"):
        with pytest.raises(ConfigError, match=f"^mode {mode}: VOLTRADE_API_SECRET: must be set"):
            permit(Config.from_parameters(mode=mode), {"VOLTRADE_API_KEY": "x"}, NOW)
    assert permit(Config.from_parameters(mode="demo"), KEYS, NOW).account == ACCOUNT
    with pytest.raises(ConfigError, match="confirmation is for mode live only"):
        Config.from_parameters(mode="demo", confirmation=RIGHT)


def test_a_run_that_goes_on_needs_the_keys_that_it_was_begun_with_and_no_word_of_another_day() -> None:
    assert permit_resumed(ACCOUNT, KEYS).credentials.key == KEYS["VOLTRADE_API_KEY"]
    with pytest.raises(ConfigError, match=f"keys: must be those of account {ACCOUNT}"):
        permit_resumed(ACCOUNT, {**KEYS, "VOLTRADE_API_KEY": "another"})
    with pytest.raises(ConfigError, match="VOLTRADE_API_KEY: must be set"):
        permit_resumed(ACCOUNT, {})


# --- authorisation files ----------------------------------------------------------------------------------------------


def a_file(folder: Path, mode: int = 0o600, **changed: Any) -> dict[str, str]:
    """An authorisation file as `authorise` writes it, but for what is changed (None: left out)."""
    path = folder / "authorisation.json"
    stated = authorise(path, a_config(), ACCOUNT, timedelta(days=7), NOW) | changed
    path.write_text(json.dumps({name: value for name, value in stated.items() if value is not None}))
    path.chmod(mode)
    return {**KEYS, "VOLTRADE_AUTHORISATION": str(path)}


def test_a_file_allows_scheduled_sessions_until_it_expires(tmp_path: Path) -> None:
    environment = a_file(tmp_path)
    assert (tmp_path / "authorisation.json").stat().st_mode & 0o777 == 0o600
    assert permit(a_config(), environment, NOW).by == "authorisation file, until 2026-03-08 12:00 UTC"
    assert permit(a_config(capital=5_000), environment, NOW + timedelta(days=6))  # less than was allowed
    with pytest.raises(ConfigError, match="expires must be after 2026-03-08"):
        permit(a_config(), environment, NOW + timedelta(days=7))
    with pytest.raises(ConfigError, match="confirmation: must be"):  # a wrong word is not made good by a file
        permit(a_config("yes"), environment, NOW)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"account": "000000000000"}, f"account must be {ACCOUNT}, was '000000000000'"),
        ({"symbol": "ETHUSDT"}, "symbol must be BTCUSDT, was 'ETHUSDT'"),
        ({"max_notional": "19999.99"}, "max_notional must be at least 20000, was '19999.99'"),
        ({"max_notional": "NaN"}, "max_notional must be at least 20000"),
        ({"max_notional": "Infinity"}, "max_notional must be at least 20000"),
        ({"max_notional": "all"}, "can't be read as an authorisation"),
        ({"expires": "2026-03-01T12:00:00+00:00"}, "expires must be after"),
        ({"expires": "2026-02-01T12:00:00+00:00"}, "expires must be after"),
        ({"expires": "2026-05-01T12:00:00+00:00"}, "expires must be within 31 days"),
        ({"expires": "2026-03-02T12:00:00"}, "expires must state its zone"),
        ({"expires": "tomorrow"}, "can't be read as an authorisation"),
        ({"expires": None}, "must have exactly the fields"),
        ({"and": "more"}, "must have exactly the fields"),
    ],
)
def test_a_file_that_says_something_else_allows_nothing(tmp_path: Path, changed: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        permit(a_config(), a_file(tmp_path, **changed), NOW)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o606])
def test_a_file_that_others_may_touch_allows_nothing(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=rf"authorisation.json: mode must be 0600, was {mode:04o}"):
        permit(a_config(), a_file(tmp_path, mode), NOW)


def test_no_file_is_written_that_lasts_too_long_or_over_another(tmp_path: Path) -> None:
    path = tmp_path / "authorisation.json"
    for days in (0, -1, 32):
        with pytest.raises(ConfigError, match=f"days: must be above 0 and at most 31, was {days}"):
            authorise(path, a_config(), ACCOUNT, timedelta(days=days), NOW)
    a_file(tmp_path)
    with pytest.raises(ConfigError, match="must be a new file"):
        authorise(path, a_config(), ACCOUNT, timedelta(days=1), NOW)


def test_the_command_writes_a_file_that_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "cron.json"
    command = ["authorise", str(path), "--days", "2", "-p", "mode", "live", "-p", "capital", "500"]
    assert main(command) == 0
    assert f"account {ACCOUNT}, symbol BTCUSDT, max_notional 1000" in capsys.readouterr().out
    monkeypatch.setenv("VOLTRADE_AUTHORISATION", str(path))
    check_permitted(a_config(capital=500))
    with pytest.raises(ConfigError, match="max_notional must be at least 20000"):
        check_permitted(a_config())


# --- nothing is sent --------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    """An address that stands in for Binance, and who has connected to it."""
    callers: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, caller = server.accept()
                except OSError:
                    return
                callers.append(caller)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", callers
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("case", ["no keys", *WRONG_WORDS[:3], "stale file", "open file", "the right word"])
def test_an_engine_without_permission_sends_nothing(
    case: str, tmp_path: Path, listener: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, callers = listener
    environment = {} if case == "no keys" else KEYS
    if case == "stale file":
        environment = a_file(tmp_path)
    elif case == "open file":
        environment = a_file(tmp_path, 0o644)
    for name in (*KEYS, "VOLTRADE_AUTHORISATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "today"
    run.mkdir(0o700)
    words = {"the right word": confirmation_text(a_config(), ACCOUNT, datetime.now(UTC)), "yes": "yes", "live": "live"}
    config = a_config(words.get(case, ""), venue=address)
    (run / "run.json").write_text(json.dumps({"parameters": config.parameters(), "epoch": "x", "state": "starting"}))
    umask, handler = os.umask(0o022), signal.getsignal(signal.SIGINT)
    try:
        assert run_engine(run) == 1
    finally:
        os.umask(umask)
        signal.signal(signal.SIGINT, handler)
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "failed"
    if case == "the right word":  # the listener hears what is sent
        assert callers
    else:
        assert any(name in record["error"] for name in ("confirmation", "VOLTRADE_API_KEY", "authorisation.json"))
        assert callers == []
    assert not (run / "journal.db").exists()
    assert not any(KEYS["VOLTRADE_API_KEY"] in path.read_text() for path in run.iterdir() if path.is_file())
