"""Whether a session may trade real money: asked before anything is sent.

Mode `live` wants two things. Keys, from the environment or a private file. And a person's word that names the account,
the symbol and the largest notional: typed for today as the parameter `confirmation`, or, for scheduled runs, left in
a private authorisation file that ends by itself. A copy of yesterday's notebook has neither.
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
"""Environment: path of the authorisation file."""

LONGEST = timedelta(days=31)
"""An authorisation that would last longer is refused, and none is written."""

FIELDS = frozenset({"account", "symbol", "max_notional", "expires"})


@dataclass(frozen=True, slots=True)
class Permission:
    """What a session was allowed by."""

    credentials: Credentials
    account: str
    """Fingerprint of the key."""
    by: str
    """For the start-up table and the journal."""


def largest_notional(config: Config) -> Decimal:
    """The largest position that these settings allow, in the quote asset: capital x `max_notional_multiple`."""
    return (config.risk.capital * Decimal(str(config.risk.max_notional_multiple))).normalize()


def phrase(config: Config, account: str, today: datetime) -> str:
    """What a person types to allow a live session of these settings, today (UTC)."""
    notional = f"{largest_notional(config):f}"
    return f"trade {config.session.symbol} up to {notional} on account {account}, {today:%Y-%m-%d}"


def permit(config: Config, environment: Mapping[str, str], now: datetime) -> Permission:
    """Return the credentials of a session in mode `demo` or `live` that has what its mode asks for.

    Args:
        config: The session's settings.
        environment: Such as `os.environ`.
        now: UTC.

    Raises:
        ConfigError: says what is missing or wrong, and what to type; never quotes a key.
    """
    try:
        credentials = Credentials.load(environment)
    except ConfigError as error:
        raise ConfigError(f"mode {config.session.mode}: {error}") from None
    account = credentials.fingerprint
    if config.session.mode != "live":
        return Permission(credentials, account, f"mode {config.session.mode} needs keys only")
    wanted = phrase(config, account, now)
    if config.session.confirmation:
        if " ".join(config.session.confirmation.split()) != wanted:
            raise ConfigError(f"confirmation: must be {wanted!r}, was {config.session.confirmation!r}")
        return Permission(credentials, account, f"typed confirmation: {wanted}")
    file = environment.get(AUTHORISATION_VARIABLE)
    if not file:
        raise ConfigError(
            f"confirmation: must be {wanted!r}, or {AUTHORISATION_VARIABLE} must name an authorisation file, was empty"
        )
    return Permission(credentials, account, _authorised(Path(file), config, account, now))


def permit_again(account: str, environment: Mapping[str, str]) -> Permission:
    """Return the credentials of a run that goes on after its engine was killed: its word was given when it began.

    Args:
        account: Fingerprint of the key that it was begun with.
        environment: Such as `os.environ`.

    Raises:
        ConfigError: there is no key, or it is another account's.
    """
    credentials = Credentials.load(environment)
    if credentials.fingerprint != account:
        raise ConfigError(f"keys: must be those of account {account}, which the run was begun with")
    return Permission(credentials, account, "what the run was begun with")


def check_permitted(config: Config) -> None:
    """Refuse to begin a session that its mode doesn't allow now, with the keys and files of this process.

    Raises:
        ConfigError: as `permit`.
    """
    if config.session.mode in ("demo", "live"):
        permit(config, os.environ, datetime.now(UTC))


def _authorised(file: Path, config: Config, account: str, now: datetime) -> str:
    """Hold a session against an authorisation file; return what allowed it."""
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
        (f"expires must be within {LONGEST.days} days", expires <= now + LONGEST, stated["expires"]),
    )
    for rule, holds, value in rules:
        if not holds:
            raise ConfigError(f"{file.name}: {rule}, was {value!r}")
    return f"authorisation file, until {expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def authorise(file: Path, config: Config, account: str, lasting: timedelta, now: datetime) -> dict[str, Any]:
    """Write an authorisation file of mode 0600 for live sessions of these settings; return what it states.

    Raises:
        ConfigError: it would last too long, or the file exists.
    """
    if not timedelta(0) < lasting <= LONGEST:
        raise ConfigError(f"days: must be above 0 and at most {LONGEST.days}, was {lasting / timedelta(days=1):g}")
    stated = {
        "account": account,
        "symbol": config.session.symbol,
        "max_notional": f"{largest_notional(config):f}",
        "expires": (now + lasting).isoformat(timespec="seconds"),
    }
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{file}: must be a new file, exists already") from None
    with os.fdopen(handle, "w") as fresh:
        json.dump(stated, fresh, indent=2)
    return stated
