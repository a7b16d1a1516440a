"""What all tests share: instruments, the real recordings, and a wall around the network."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.builders import an_instrument
from support.compiled_rules import PATHS, compile_rules, place_of_run
from support.wall import GUARDS

from voltrade.model import Instrument, money

ROOT = Path(__file__).resolve().parent.parent

SLOW = (
    *("test_seams", "test_kills", "test_readme", "test_every_mode", "test_explorer", "test_browser", "test_outliving"),
    *("test_end_to_end", "demo_check", "test_session", "test_sweep", "test_signals", "test_notebooks", "test_loop"),
    *("test_rule_file", "test_signal_engine", "test_fetch", "test_sessions", "test_position_rules", "test_benchmarks"),
    *("test_sessions_under_faults", "test_check", "test_review", "test_binance", "test_guardian", "live"),
)
"""Files of tests and notebooks that take longest, the slowest first; by turns those that compute and that wait."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow files where several processes share them, so that none of them is left alone with one."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(SLOW)}
        items.sort(key=lambda item: places.get(item.path.stem, len(SLOW)))


COLLECTED_WITHIN_S = 180


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Let one process compile the asserts of all tests, and two others the rules, before anybody needs either."""
    number = int(getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"].removeprefix("gw"))
    is_collected = place_of_run("collected")
    if number in (1, 2):
        compile_rules(PATHS[number - 1])
    deadline = time.monotonic() + COLLECTED_WITHIN_S
    while number > 0 and not is_collected.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # Kept for the others, also where a variable forbids bytecode.
    forbidden, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    gc.disable()
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = forbidden
        if number == 0:
            is_collected.touch()
        look_for_garbage_seldom()


def look_for_garbage_seldom() -> None:
    """Spare the collector what lives to the end, modules and tests, and call it for 10,000 new objects, not for 700."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_sessionfinish() -> None:
    for name in ("collected", *PATHS):
        place_of_run(name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def compiled_rules(_own_store: None) -> None:
    """What is compiled already where several processes share the files."""
    compile_rules()


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
