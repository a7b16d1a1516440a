"""What tests of the commands of data have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.history import Run

from voltrade.data import commands


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Run:
    """Run a command on the store in `tmp_path / "store"`, at the module's time `NOW`."""
    monkeypatch.setattr(commands, "_now", lambda: request.module.NOW)

    def run(*given: str) -> tuple[int, str]:
        status = commands.main([*given, "--store", str(tmp_path / "store")])
        return status, "".join(capsys.readouterr())

    return run
