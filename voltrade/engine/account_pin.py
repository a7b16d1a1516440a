"""The account and the host of a mode, kept from its first start on: a start with another one is refused.

Keys or a host that were mixed up are found so before anything is traded with them. Simulated venues aren't pinned.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from voltrade.engine.checks import Check
from voltrade.engine.modes import Wiring
from voltrade.errors import JournalError
from voltrade.folders import state_home, sync_folder
from voltrade.journal.lock import refuse_unsafe


def pin_checks(wiring: Wiring, environment: Mapping[str, str]) -> list[Check]:
    """Return the row that compares account and host with those of the first start; none for a simulated venue."""
    if not _is_pinned(wiring):
        return []
    path, now = _file(wiring, environment), _pin(wiring)
    item, found = "account of the mode", f"{now['account']} by {now['host']}"
    try:
        first = _read(path)
    except (JournalError, OSError, ValueError) as error:
        is_damaged = isinstance(error, ValueError)  # else others may have written it
        is_replaced = is_damaged and wiring.config.session.new_account
        wanted = f"as {path} says" + (", which is damaged: -p new_account True replaces it" if is_damaged else "")
        return [Check(item, f"{found}; what was kept can't be read: {error}", wanted, is_replaced)]
    if first is None:
        return [Check(item, f"{found}, kept from the mode's first session on")]
    if first != now and wiring.config.session.new_account:
        return [Check(item, f"{found}, in place of {first['account']} by {first['host']}")]
    wanted = (
        f"{first['account']} by {first['host']}, as at the first start: other keys or hosts, or -p new_account True"
    )
    return [Check(item, found, wanted, first == now)]


def keep_pin(wiring: Wiring, environment: Mapping[str, str]) -> None:
    """Keep account and host of a session that starts, for the later ones of its mode.

    Raises:
        OSError: The file can't be written.
    """
    path = _file(wiring, environment)
    if not _is_pinned(wiring):
        return
    with suppress(ValueError):  # damaged, and replaced
        if _read(path) == _pin(wiring):
            return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(_pin(wiring), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def hide_accounts(wiring: Wiring, environment: Mapping[str, str]) -> None:
    """Have the names of this account and of the one that is kept redacted, for a record that others may read."""
    if not _is_pinned(wiring):
        return
    pins: list[dict[str, str] | None] = [_pin(wiring)]
    with suppress(JournalError, OSError, ValueError):  # of a file that can't be read nothing is shown
        pins.append(_read(_file(wiring, environment)))
    for pin in filter(None, pins):
        wiring.exchange.add_secret(pin["account"].rpartition(" ")[2])


def _is_pinned(wiring: Wiring) -> bool:
    return wiring.config.session.mode in ("demo", "live") and wiring.endpoint.name in ("demo", "live")


def _file(wiring: Wiring, environment: Mapping[str, str]) -> Path:
    return state_home(environment) / "pins" / f"{wiring.config.session.mode}.json"


def _pin(wiring: Wiring) -> dict[str, str]:
    return {"account": wiring.account, "host": wiring.endpoint.rest}


def _read(path: Path) -> dict[str, str] | None:
    """Return what was kept; None before the mode's first start.

    Raises:
        JournalError: Others may write the file.
        ValueError: It is damaged.
    """
    if not path.exists():
        return None
    refuse_unsafe(path, folder=False)
    stated = json.loads(path.read_text())
    if not isinstance(stated, dict) or set(stated) != {"account", "host"}:
        raise ValueError(f"{path} must have account and host")
    return {name: str(value) for name, value in stated.items()}
