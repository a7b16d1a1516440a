"""What all tests share: instruments, the real recordings, and a wall around the network."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.builders import an_instrument
from support.wall import GUARDS

from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.model import Instrument, money
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument

ROOT = Path(__file__).resolve().parent.parent

PLAIN = "test_seams"
"""The slowest file compiles nothing, and so begins while another process compiles the rules for all."""
SLOW = (
    *(PLAIN, "test_kills", "test_readme", "test_every_mode", "test_explorer", "test_browser", "test_outliving"),
    *("test_end_to_end", "demo_check", "test_session", "test_sweep", "test_signals", "test_notebooks", "test_notify"),
    *("test_rule_file", "test_signal_engine", "test_fetch", "test_sessions", "test_position_rules", "test_benchmarks"),
    *("test_sessions_under_faults", "test_check", "test_review", "test_binance", "test_guardian", "live"),
)
"""Files of tests and notebooks that take longest, the slowest first; by turns those that compute and that wait."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow files where several processes share them, so that none of them is left alone with one."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(SLOW)}
        items.sort(key=lambda item: places.get(item.path.stem, len(SLOW)))
        for item in items:
            is_compiled = item.path.stem in SLOW and item.path.stem != PLAIN and isinstance(item, pytest.Function)
            if is_compiled and "compiled_rules" not in item.fixturenames:  # which is one list for all parameters
                item.fixturenames.insert(0, "compiled_rules")


@pytest.fixture(scope="session")
def compiled_rules(tmp_path_factory: pytest.TempPathFactory, _own_store: None) -> None:
    """Wait until one process has compiled the rules: each session that starts before would compile them for itself."""
    config = Config.from_parameters(hours=0.25, threshold=1)
    tape = load_tape(config.session, shipped_instrument("BTCUSDT"))
    with (tmp_path_factory.getbasetemp().parent / "compiled.lock").open("w") as lock:  # of all processes of this run
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in ("events", "compiled"):
            backtest(tape, config, path=path)


@pytest.fixture(scope="session")
def btcusdt() -> Instrument:
    return an_instrument()


@pytest.fixture(scope="session")
def ltcusdt() -> Instrument:
    return an_instrument("LTCUSDT", tick="0.01", min_notional=money(20))


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the real recordings, which are not part of the project."""
    shared = Path(os.environ.get("VOLTRADE_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no recordings in {shared / 'data'}; VOLTRADE_SHARED names their place")
    return shared / "data"


@pytest.fixture(autouse=True, scope="session")
def _no_news() -> Iterator[None]:
    """No test tells a developer's phone of its trades."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VOLTRADE_NOTIFY", "VOLTRADE_NOTIFY_FILE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests read and record, processes that they start included, out of the project's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOLTRADE_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_ledgers_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the ledgers of accounts that tests trade, in processes that they start too, out of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOLTRADE_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test's own: a later venue may listen at the address of an earlier one."""
    home = tmp_path_factory.getbasetemp() / "states" / uuid4().hex
    monkeypatch.setenv("VOLTRADE_STATE", str(home))
    return home


@pytest.fixture(autouse=True, scope="session")
def _only_loopback() -> Iterator[None]:
    """Refuse every connection and look-up of this process that leaves the machine: no test may reach an exchange."""
    with pytest.MonkeyPatch.context() as patch:
        for place, name, guard in GUARDS:
            patch.setattr(place, name, guard)
        yield
