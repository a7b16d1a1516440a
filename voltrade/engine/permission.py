"""Checks whether a session may trade real money, before anything is sent.

Mode `live` needs keys, from the environment or a private file, and one of two permissions. Each names the account, the
symbol and the largest notional. A trading confirmation is the parameter `confirmation`, and is valid on one day (UTC).
An authorisation file is for scheduled sessions, and expires.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from voltrade.config import Config
from voltrade.errors import ConfigError
from voltrade.exchange.credentials import Credentials, read_private

AUTHORISATION_VARIABLE = "VOLTRADE_AUTHORISATION"
"""Environment variable: path of the authorisation file."""

MAX_VALIDITY = timedelta(days=31)
"""Longest validity of an authorisation file."""

FIELDS = frozenset({"account", "symbol", "max_notional", "expires"})
"""Fields of an authorisation file."""


@dataclass(frozen=True, slots=True)
class Permission:
    """The credentials of a session, and why it may trade."""

    credentials: Credentials
    account: str
    """Fingerprint of the API key."""
    by: str
    """Why it may trade, for the start-up table and the journal."""


def largest_notional(config: Config) -> Decimal:
    """Return the largest position that the settings allow, in the quote asset: capital x `max_notional_multiple`."""
    return (config.risk.capital * Decimal(str(config.risk.max_notional_multiple))).normalize()


def confirmation_text(config: Config, account: str, today: datetime) -> str:
    """Return the trading confirmation for a live session with these settings, today (UTC)."""
    notional = f"{largest_notional(config):f}"
    return f"trade {config.session.symbol} up to {notional} on account {account}, {today:%Y-%m-%d}"


def permit(config: Config, environment: Mapping[str, str], now: datetime) -> Permission:
    """Return the permission of a session in mode `demo` or `live`.

    Args:
        config: Settings of the session.
        environment: Such as `os.environ`.
        now: The time, UTC.

    Raises:
        ConfigError: Keys, confirmation or authorisation are missing or wrong; says what to type, and contains no key.
    """
    try:
        credentials = Credentials.load(environment)
    except ConfigError as error:
        raise ConfigError(f"mode {config.session.mode}: {error}") from None
    account = credentials.fingerprint
    if config.session.mode != "live":
        return Permission(credentials, account, f"mode {config.session.mode} needs keys only")
    wanted = confirmation_text(config, account, now)
    if config.session.confirmation:
        if " ".join(config.session.confirmation.split()) != wanted:
            raise ConfigError(f"confirmation: must be {wanted!r}, was {config.session.confirmation!r}")
        return Permission(credentials, account, f"typed confirmation: {wanted}")
    file = environment.get(AUTHORISATION_VARIABLE)
    if not file:
        raise ConfigError(
            f"confirmation: must be {wanted!r}, or {AUTHORISATION_VARIABLE} must name an authorisation file, was empty"
        )
    return Permission(credentials, account, _check_authorisation(Path(file), config, account, now))


def permit_resumed(account: str, environment: Mapping[str, str]) -> Permission:
    """Return the permission of a resumed run; the confirmation that was given at its start is enough.

    Args:
        account: Fingerprint of the API key that the run began with.
        environment: Such as `os.environ`.

    Raises:
        ConfigError: There is no API key, or it is another one.
    """
    credentials = Credentials.load(environment)
    if credentials.fingerprint != account:
        raise ConfigError(f"keys: must be those of account {account}, which the run was begun with")
    return Permission(credentials, account, "what the run was begun with")


def check_permitted(config: Config) -> None:
    """Check whether a session may start now, with the keys and files of this process.

    Raises:
        ConfigError: It may not; see `permit`.
    """
    if config.session.mode in ("demo", "live"):
        permit(config, os.environ, datetime.now(UTC))


def _check_authorisation(file: Path, config: Config, account: str, now: datetime) -> str:
    """Check a session by an authorisation file; return a text about its validity."""
    text = read_private(file)
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict) or set(stated) != FIELDS:
            raise ValueError(f"must have exactly the fields {', '.join(sorted(FIELDS))}")
        most, expires = Decimal(str(stated["max_notional"])), datetime.fromisoformat(str(stated["expires"]))
        if expires.tzinfo is None:
            raise ValueError("expires must state its zone, such as +00:00")
    except (ValueError, InvalidOperation) as error:
        raise ConfigError(f"{file.name}: can't be read as an authorisation: {error}") from None
    notional = largest_notional(config)
    rules: tuple[tuple[str, bool, object], ...] = (
        (f"account must be {account}", stated["account"] == account, stated["account"]),
        (f"symbol must be {config.session.symbol}", stated["symbol"] == config.session.symbol, stated["symbol"]),
        (f"max_notional must be at least {notional:f}", most.is_finite() and notional <= most, stated["max_notional"]),
        (f"expires must be after {now:%Y-%m-%dT%H:%M:%S%z}", now < expires, stated["expires"]),
        (f"expires must be within {MAX_VALIDITY.days} days", expires <= now + MAX_VALIDITY, stated["expires"]),
    )
    for rule, holds, value in rules:
        if not holds:
            raise ConfigError(f"{file.name}: {rule}, was {value!r}")
    return f"authorisation file, until {expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def authorise(file: Path, config: Config, account: str, validity: timedelta, now: datetime) -> dict[str, Any]:
    """Write an authorisation file of mode 0600 for live sessions with these settings; return its content.

    Raises:
        ConfigError: The validity is too long, or the file exists.
    """
    if not timedelta(0) < validity <= MAX_VALIDITY:
        raise ConfigError(
            f"days: must be above 0 and at most {MAX_VALIDITY.days}, was {validity / timedelta(days=1):g}"
        )
    stated = {
        "account": account,
        "symbol": config.session.symbol,
        "max_notional": f"{largest_notional(config):f}",
        "expires": (now + validity).isoformat(timespec="seconds"),
    }
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{file}: must be a new file, exists already") from None
    with os.fdopen(handle, "w") as fresh:
        json.dump(stated, fresh, indent=2)
    return stated
