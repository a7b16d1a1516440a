"""What tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.phone import Phone


@pytest.fixture
def phone() -> Iterator[Phone]:
    phone = Phone()
    yield phone
    phone.close()


@pytest.fixture(autouse=True)
def _no_check_is_killed_for_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling the simulated exchange holds the event loop for longer, and the check is the process of the tests."""
    monkeypatch.setattr("voltrade.engine.demo_check.watcher.SILENT_S", 600.0)
