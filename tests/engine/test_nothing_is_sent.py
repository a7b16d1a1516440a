"""Wrong words, stale files, exceeded ceilings, wrong and redirecting hosts: no order, and no key to another origin.

Each row is a real start of an engine. What was sent is judged by two servers that keep every byte: one is the exchange
of the session, the other is where a wrong host or a redirect would lead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.fake_binance import EXCHANGE_INFO

from voltrade.__main__ import main
from voltrade.config import Config
from voltrade.engine.authorisation import authorise
from voltrade.engine.permission import confirmation_text
from voltrade.exchange.credentials import Credentials

KEY, SECRET = "a-key-that-no-other-origin-may-see-0123456789", "a-secret-that-nobody-may-see-0123456789"
KEYS = {"VOLTRADE_API_KEY": KEY, "VOLTRADE_API_SECRET": SECRET}
ACCOUNT = Credentials(KEY, SECRET).fingerprint
ROOT = Path(__file__).resolve().parents[2]


class Listener(ThreadingHTTPServer):
    """A server that keeps all that it is sent, and answers with status, headers and JSON of `answer`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[bytes] = []
        self.answer: Callable[[str], tuple[int, dict[str, str], object]] = lambda path: (200, {}, {})
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def _hear(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.heard.append(f"{self.command} {self.path}\n{self.headers}".encode() + body)
        status, headers, said = self.server.answer(self.path.partition("?")[0])
        content = json.dumps(said).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _hear

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to the terminal."""


@pytest.fixture
def servers() -> Iterator[tuple[Listener, Listener]]:
    """The exchange of the session, and another origin."""
    both = (Listener(), Listener())
    threads = [threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}) for each in both]
    for thread in threads:
        thread.start()
    yield both
    for each in both:
        each.shutdown()
        each.server_close()
    for thread in threads:
        thread.join(10)


def word(config: Config, on: datetime | None = None, account: str = ACCOUNT) -> str:
    return confirmation_text(config, account, on or datetime.now(UTC))


@dataclass(frozen=True)
class Row:
    """What is wrong at a start, and what the refusal names."""

    names: str
    parameters: dict[str, Any] = field(default_factory=dict)
    confirmation: Callable[[str], str] | None = None
    """How the right words are changed; None for none."""
    file: dict[str, Any] | None = None
    """How the right authorisation file is changed; None for none."""
    age: timedelta = timedelta(0)
    """How long ago the file was written."""


def changed(old: str, new: str) -> Callable[[str], str]:
    return lambda right: right.replace(old, new)


def of_a_day(later: int) -> Callable[[str], str]:
    """Change the words to those of another day, that many days later."""

    def moved(found: re.Match[str]) -> str:
        return str(date.fromisoformat(found[0]) + timedelta(later))

    return lambda right: re.sub(r"\d{4}-\d\d-\d\d", moved, right)


WORDS: dict[str, Callable[[str], str] | None] = {
    "none": None, "yes": lambda _: "yes", "live": lambda _: "live", "blank": lambda _: " ",
    "a placeholder": lambda _: "trade {symbol} up to {notional} on account {account}, {today}",
    "capitals": str.upper, "one letter more": lambda right: right + "!", "one letter less": lambda right: right[:-1],
    "twice": lambda right: f"{right}; {right}", "another symbol": changed("BTCUSDT", "ETHUSDT"),
    "a smaller notional": changed("20000", "2000"), "a larger notional": changed("20000", "200000"),
    "a comma": changed("20000", "20,000"), "an exponent": changed("20000", "2e4"), "no notional": changed(" 20000", ""),
    "another account": changed(ACCOUNT, "0" * 12), "no account": changed(ACCOUNT, ""),
    "a part of the account": changed(ACCOUNT, ACCOUNT[:-1]), "yesterday": of_a_day(-1),
    "tomorrow": of_a_day(1), "no day": lambda right: right.partition(",")[0],
}  # fmt: skip

PERMISSIONS: dict[str, Row] = {
    **{f"words: {name}": Row("confirmation: must be", confirmation=change) for name, change in WORDS.items()},
    "file: expired": Row("authorisation.json: expired at ", file={}, age=timedelta(days=8)),
    "file: expired a moment ago": Row("authorisation.json: expired at ", file={}, age=timedelta(days=7, seconds=1)),
    "file: too long": Row("must be within 31 days", file={"expires": "2099-01-01T00:00:00+00:00"}),
    "file: no zone": Row("must state its zone", file={"expires": "2099-01-01T00:00:00"}),
    "file: another account": Row("is for account 000000000000, the session's", file={"account": "0" * 12}),
    "file: another symbol": Row("is for ETHUSDT, the session trades BTCUSDT", file={"symbol": "ETHUSDT"}),
    "file: an unknown field": Row("max_losses: unknown", file={"max_losses": 1}),
    "file: a malformed field": Row("max_leverage: must be a number", file={"max_leverage": "five"}),
    "file: a field less": Row("expires: must be there", file={"expires": None}),
    "file: stale, and the right words": Row(
        "authorisation.json: expired at ", file={}, age=timedelta(days=8), confirmation=lambda right: right
    ),
    "ceiling: notional": Row("is 20002, must be at most max_notional 20000", {"capital": 10_001}, file={}),
    "ceiling: daily loss": Row("400, must be at most max_daily_loss 300", {"max_daily_loss_fraction": 0.04}, file={}),
    "ceiling: drawdown": Row("is 2000, must be at most max_drawdown 1000", {"max_drawdown_fraction": 0.2}, file={}),
    "ceiling: risk": Row("is 0.05, must be at most max_risk_fraction 0.005", {"risk_fraction": 0.05}, file={}),
    "ceiling: leverage": Row("is 6, must be at most max_leverage 5", {"leverage": 6}, file={}),
    "ceiling: leverage, and the right words": Row(
        "is 6, must be at most max_leverage 5", {"leverage": 6}, confirmation=lambda right: right, file={}
    ),
    "ceiling: a loss limit that resumes": Row("daily_loss_resume is person", {"daily_loss_resume": "person"}, file={}),
    "ceiling: another rule": Row("rule_sha256 of the session", file={"rule_sha256": "a" * 64}),
    "ceiling: other settings": Row("parameters_sha256 of the session", file={"parameters_sha256": "a" * 64}),
}  # fmt: skip


def environment_of(row: Row, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the keys and, where a row has one, the authorisation file of the right settings, changed."""
    for name in (*KEYS, "VOLTRADE_AUTHORISATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VOLTRADE_STATE", str(folder / "state"))
    if row.file is None:
        return
    path = folder / "authorisation.json"
    written = datetime.now(UTC) - row.age
    stated = authorise(path, Config.from_parameters(mode="live"), ACCOUNT, timedelta(days=7), written) | row.file
    path.write_text(json.dumps({name: value for name, value in stated.items() if value is not None}))
    monkeypatch.setenv("VOLTRADE_AUTHORISATION", str(path))


def a_run(folder: Path, parameters: dict[str, Any]) -> Path:
    """Make the folder of a run with its record, as a notebook does."""
    run = folder / "today"
    run.mkdir(0o700)
    (run / "run.json").write_text(json.dumps({"parameters": parameters, "epoch": "x", "state": "starting"}))
    return run


def start(run: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run the engine's command; return all that it says of its failure."""
    umask, handlers = os.umask(0o022), {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["engine", str(run)]) != 0
    finally:
        os.umask(umask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not (run / "journal.db").exists()
    return capfd.readouterr().err + str(json.loads((run / "run.json").read_text()).get("error", ""))


@pytest.mark.parametrize("name", PERMISSIONS)
def test_without_permission_nothing_is_sent_at_all(
    name: str,
    servers: tuple[Listener, Listener],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exchange, other = servers
    row = PERMISSIONS[name]
    environment_of(row, tmp_path, monkeypatch)
    config = Config.from_parameters(mode="live", venue=exchange.address, threshold=730, **row.parameters)
    given = row.confirmation(word(config)) if row.confirmation else ""
    said = start(a_run(tmp_path, {**config.parameters(), "confirmation": given}), capfd)
    assert row.names in said
    assert exchange.heard == other.heard == []
    assert KEY not in said


# --- hosts ------------------------------------------------------------------------------------------------------------

HOSTS: dict[str, tuple[dict[str, str], str]] = {
    "REST of another": (
        {"rest_host": "fapi.binance.com.example.org"},
        "rest_host: must be a host of Binance's for live",
    ),
    "REST of the demo": ({"rest_host": "demo-fapi.binance.com"}, "rest_host: must be a host of Binance's for live"),
    "REST by address": ({"rest_host": "{other}"}, "rest_host: must be a host of Binance's for live"),
    "streams of another": ({"stream_host": "fstream.example.org"}, "stream_host: must be a host of Binance's for live"),
    "streams by address": ({"stream_host": "{other}"}, "stream_host: must be a host of Binance's for live"),
    "a user before the host": ({"rest_host": "fapi.binance.com@{other}"}, "rest_host: must be a host of Binance's"),
    "a venue elsewhere": ({"venue": "http://example.org:80"}, "venue: "),
    "a venue with a user": ({"venue": "http://127.0.0.1@{other}"}, "venue: "),
    "a venue with a path": ({"venue": "http://{other}/fapi"}, "venue: "),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_wrong_host_is_refused_and_asked_nothing(
    name: str,
    servers: tuple[Listener, Listener],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exchange, other = servers
    environment_of(Row(""), tmp_path, monkeypatch)
    hosts, names = HOSTS[name]
    config = Config.from_parameters(mode="live", threshold=730)
    wrong = {key: host.format(other=other.address.removeprefix("http://")) for key, host in hosts.items()}
    said = start(a_run(tmp_path, {**config.parameters(), "confirmation": word(config), **wrong}), capfd)
    assert names in said
    assert exchange.heard == other.heard == []
    assert KEY not in said


HONEST = ("/fapi/v1/time", "/fapi/v1/exchangeInfo", "/fapi/v3/balance", "/sapi/v1/account/apiRestrictions")
"""Paths in the order in which a start asks; a redirecting exchange answers some of them honestly before."""


def redirecting(after: int, status: int, to: str) -> Callable[[str], tuple[int, dict[str, str], object]]:
    """Return the answers of an exchange that redirects all but the first so many paths of `HONEST`."""

    def answer(path: str) -> tuple[int, dict[str, str], object]:
        if path in HONEST[:after]:
            now = int(time.time() * 1000)
            said = {HONEST[0]: {"serverTime": now}, HONEST[1]: EXCHANGE_INFO, HONEST[2]: [{"accountAlias": "sgTest"}]}
            return 200, {}, said[path]
        return status, {"Location": to + path}, {}

    return answer


REDIRECTS = [
    *((after, status, "http://127.0.0.1:{port}") for after in (0, 1, 2, 3) for status in (307, 308)),
    *((2, status, "http://127.0.0.1:{port}") for status in (301, 302, 303)),
    (2, 307, "http://localhost:{port}"),
    (2, 307, "//127.0.0.1:{port}"),
]


@pytest.mark.parametrize(("after", "status", "to"), REDIRECTS)
def test_a_redirect_gets_no_key_and_no_order(
    after: int,
    status: int,
    to: str,
    servers: tuple[Listener, Listener],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exchange, other = servers
    exchange.answer = redirecting(after, status, to.format(port=other.server_port))
    environment_of(Row(""), tmp_path, monkeypatch)
    config = Config.from_parameters(mode="live", venue=exchange.address, threshold=730)
    said = start(a_run(tmp_path, {**config.parameters(), "confirmation": word(config)}), capfd)
    assert re.search(rf"HTTP {status}: redirected to (127\.0\.0\.1|localhost), which is not followed", said), said
    assert other.heard == []
    assert exchange.heard
    assert not [heard for heard in exchange.heard if heard.startswith(b"POST")]
    # The exchange of the session is where the key belongs: so the servers would have seen it elsewhere too.
    assert (after >= 2) == any(KEY.encode() in heard for heard in exchange.heard)
    assert not any(SECRET.encode() in heard for heard in exchange.heard)
    assert KEY not in said


def test_the_command_itself_sends_nothing_either(
    servers: tuple[Listener, Listener], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by `python -m voltrade run`, which starts the guardian and by it the engine."""
    exchange, other = servers
    row = PERMISSIONS["ceiling: leverage, and the right words"]
    environment_of(row, tmp_path, monkeypatch)
    config = Config.from_parameters(mode="live", venue=exchange.address, threshold=730, **row.parameters)
    run = a_run(tmp_path, {**config.parameters(), "confirmation": word(config)})
    command = [sys.executable, "-m", "voltrade", "run", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert row.names in done.stderr + str(json.loads((run / "run.json").read_text()).get("error"))
    assert exchange.heard == other.heard == []
