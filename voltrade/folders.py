"""Where voltrade keeps what outlives a run and a notebook, and how a folder is made durable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from voltrade.errors import SessionError

STATE_VARIABLE = "VOLTRADE_STATE"
"""Environment variable: an absolute path that replaces the platform's state folder."""


def state_home(environment: Mapping[str, str]) -> Path:
    """Return this user's state folder.

    Raises:
        SessionError: The path is relative, so it would change with the working directory.
    """
    given = environment.get(STATE_VARIABLE)
    home = Path(given).expanduser() if given else platformdirs.user_state_path("voltrade", appauthor=False)
    if not home.is_absolute():
        raise SessionError(f"{STATE_VARIABLE}: must be an absolute path, was {home}")
    return home


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
