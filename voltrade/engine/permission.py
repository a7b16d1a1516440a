"""Checks whether a session may trade real money, before anything is sent.

Mode `live` needs keys, from the environment or a private file, and one of two permissions. Each names the account, the
symbol and the largest notional. A trading confirmation is the parameter `confirmation`, and is valid on one day (UTC).
An authorisation file is for scheduled sessions, and expires. The ceilings of a file hold for every live session, also
for one with a trading confirmation (`authorisation`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from voltrade.config import Config
from voltrade.engine.authorisation import AUTHORISATION_VARIABLE, Authorisation, authorisations, largest_notional
from voltrade.errors import ConfigError
from voltrade.exchange.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Permission:
    """The credentials of a session, and why it may trade."""

    credentials: Credentials
    account: str
    """Fingerprint of the API key."""
    by: str
    """Why it may trade, for the start-up table and the journal."""
    ceilings: str = ""
    """The ceilings of authorisation files, for the start-up table; empty without a file."""
    denied: str = ""
    """Why a resumed session may not trade on; empty if it may. It protects its position and ends."""


def confirmation_text(config: Config, account: str, today: datetime) -> str:
    """Return the trading confirmation for a live session with these settings, today (UTC)."""
    notional = f"{largest_notional(config):f}"
    return f"trade {config.session.symbol} up to {notional} on account {account}, {today:%Y-%m-%d}"


def permit(config: Config, environment: Mapping[str, str], now: datetime, run: Path | None = None) -> Permission:
    """Return the permission of a session in mode `demo` or `live`.

    Args:
        config: Settings of the session.
        environment: Such as `os.environ`.
        now: The time, UTC.
        run: Folder of the run, whose copy of the rule file is used; None for the original.

    Raises:
        ConfigError: Keys, confirmation or authorisation are missing or wrong, or a ceiling is exceeded; says what to
            type, and contains no key.
    """
    try:
        credentials = Credentials.load(environment)
    except ConfigError as error:
        raise ConfigError(f"mode {config.session.mode}: {error}") from None
    account = credentials.fingerprint
    if config.session.mode != "live":
        return Permission(credentials, account, f"mode {config.session.mode} needs keys only")
    wanted, given = confirmation_text(config, account, now), config.session.confirmation
    if given and " ".join(given.split()) != wanted:
        raise ConfigError(f"confirmation: must be {wanted!r}, was {given!r}")
    files = authorisations(environment)
    if not (given or files):
        raise ConfigError(
            f"confirmation: must be {wanted!r}, or {AUTHORISATION_VARIABLE} must name an authorisation file, was empty"
        )
    for file in files:
        file.refuse_other(config, account, now, run)
    by = [f"typed confirmation: {wanted}"] if given else [file.validity for file in files]
    return Permission(credentials, account, "; ".join(by), _table(files, config))


CHECKED_BEFORE = timedelta(minutes=15)
"""How long before its first row the word of a run may have been checked: the start-up table is made between them."""


def _word(config: Config, account: str, now: datetime, begun_by: str | None) -> str:
    """Return the word by which a resumed run may trade on: the one that it began with, or one of today.

    Another one in its settings counts only where the journal, which has the first one, is lost.
    """
    given = " ".join(config.session.confirmation.split())
    is_typed_again = given == confirmation_text(config, account, now)
    return given if begun_by is None or is_typed_again else " ".join(begun_by.split())


def _refuse_other_word(word: str, config: Config, account: str, now: datetime, began: datetime | None) -> None:
    """Refuse a word that is neither that of the day on which the run began nor that of today.

    Raises:
        ConfigError: Names what it must be.
    """
    first = [began, began - CHECKED_BEFORE] if began else []
    words = [confirmation_text(config, account, day) for day in (*first, now)]
    if word not in words:
        raise ConfigError(f"confirmation: must be {words[0]!r}, of the day on which the run began, was {word!r}")


def permit_resumed(
    config: Config,
    account: str,
    environment: Mapping[str, str],
    now: datetime,
    run: Path | None = None,
    began: datetime | None = None,
    begun_by: str | None = None,
) -> Permission:
    """Return the permission of a resumed run, which must look after its position in any case.

    The confirmation that was given at its start, on whatever day, is enough for it to trade on. An authorisation file
    must allow it still, and ceilings must hold, also those that were lowered since: else `denied` says why it must end.

    Args:
        config: Settings of the session.
        account: Fingerprint of the API key that the run began with.
        environment: Such as `os.environ`.
        now: The time, UTC.
        run: Folder of the run.
        began: When it began; None where that isn't known, so that only the word of today is.
        begun_by: The confirmation that its journal began with; None where the journal is lost.

    Raises:
        ConfigError: There is no API key, or it is another one.
    """
    credentials = Credentials.load(environment)
    if credentials.fingerprint != account:
        raise ConfigError(f"keys: must be those of account {account}, which the run was begun with")
    by = "what the run was begun with"
    if config.session.mode != "live":
        return Permission(credentials, account, by)
    try:
        files, word = authorisations(environment), _word(config, account, now, begun_by)
        if not (word or files):
            raise ConfigError(f"{AUTHORISATION_VARIABLE}: must name the authorisation file, was empty")
        if word:
            _refuse_other_word(word, config, account, now, began)
        for file in files:
            file.refuse_other(config, account, now, run, is_begun=bool(word))
    except ConfigError as error:
        return Permission(credentials, account, by, denied=str(error))
    return Permission(credentials, account, by, _table(files, config))


def _table(files: list[Authorisation], config: Config) -> str:
    return "; ".join(file.table(config) for file in files)


def check_permitted(config: Config) -> None:
    """Check whether a session may start now, with the keys and files of this process.

    Raises:
        ConfigError: It may not; see `permit`.
    """
    if config.session.mode in ("demo", "live"):
        permit(config, os.environ, datetime.now(UTC))
