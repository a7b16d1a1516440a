"""Authorisation files: which account may trade which symbol until when, and ceilings for the session's settings.

A file is JSON. It may belong to another user, so that its ceilings are not the trader's own. `AUTHORISATION_VARIABLE`
names one; `MACHINE_FILE`, where it exists, holds for every live session of the machine, whatever the variable says. A
ceiling also holds for what changes within a session: see `CEILINGS`.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from voltrade.config import Config, RiskSettings
from voltrade.errors import ConfigError
from voltrade.exchange.credentials import read_protected
from voltrade.strategy import parameter_file
from voltrade.strategy.rule_file import RuleFile

AUTHORISATION_VARIABLE = "VOLTRADE_AUTHORISATION"
"""Environment variable: path of the authorisation file."""

MACHINE_FILE = Path("/etc/voltrade/authorisation.json")
"""Authorisation file of the machine, for whoever may write there."""

WRITES = "`python -m voltrade authorise` writes one"
"""What makes an authorisation file, for whoever may."""

MAX_VALIDITY = timedelta(days=31)
"""Longest validity of an authorisation file."""

REQUIRED = ("account", "symbol", "max_notional", "expires")
"""Fields that every authorisation file has."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The largest value of a setting, or of a product of settings, that an authorisation file allows."""

    name: str
    """The file's field."""
    what: str
    """What it limits, in words."""
    value: Callable[[RiskSettings], Decimal]
    must: Mapping[str, str] = field(default_factory=dict)
    """Settings, and the values that they must have so that the ceiling holds within the session too."""

    def unmet(self, risk: RiskSettings) -> list[tuple[str, str, str]]:
        """Return the settings of `must` that have another value: name, value that it must have, and its value."""
        found = ((name, must, str(getattr(risk, name))) for name, must in self.must.items())
        return [(name, must, value) for name, must, value in found if value != must]


def _part(risk: RiskSettings, fraction: float) -> Decimal:
    return (risk.capital * Decimal(str(fraction))).normalize()


CEILINGS = (
    # Each entry's size is at most this at the expected price, and there is one position at a time.
    Ceiling("max_notional", "capital x max_notional_multiple", lambda risk: _part(risk, risk.max_notional_multiple)),
    # By another action an open position goes on losing. Any other resumption measures the day's loss anew, so that a
    # second loss of this size could follow it.
    Ceiling(
        "max_daily_loss",
        "capital x max_daily_loss_fraction",
        lambda risk: _part(risk, risk.max_daily_loss_fraction),
        {"daily_loss_action": "flatten", "daily_loss_resume": "next_utc_day"},
    ),
    Ceiling(
        "max_drawdown",
        "capital x max_drawdown_fraction",
        lambda risk: _part(risk, risk.max_drawdown_fraction),
        {"drawdown_action": "flatten", "drawdown_resume": "person"},
    ),
    Ceiling("max_risk_fraction", "risk_fraction", lambda risk: Decimal(str(risk.risk_fraction))),
    # Another leverage at the exchange stops the start, and within a session the entries.
    Ceiling("max_leverage", "leverage", lambda risk: Decimal(risk.leverage)),
)
"""Every ceiling that a file may have. Each is checked against the settings, which don't change within a session."""

HASHES = (parameter_file.RULE_SHA256, parameter_file.SHA256)
"""Fields with the hash of the only rule file, and of the only trading settings, that are allowed."""

FIELDS = frozenset({*REQUIRED, *HASHES, *(ceiling.name for ceiling in CEILINGS)})


def largest_notional(config: Config) -> Decimal:
    """Return the largest position that the settings allow, in the quote asset: capital x `max_notional_multiple`."""
    return CEILINGS[0].value(config.risk)


def hashes_of(config: Config, run: Path | None = None) -> dict[str, str]:
    """Return the hashes of a session's rule file and of its trading settings, as a parameter file has them.

    Args:
        config: Settings of the session.
        run: Folder of a run with its copy of the rule file; None for the original.

    Raises:
        ConfigError: The rule file is missing.
    """
    rule = RuleFile.named(config.session.rule, run).sha256 if config.session.rule else ""
    content = parameter_file.saved_values(config) | ({parameter_file.RULE_SHA256: rule} if rule else {})
    return {parameter_file.RULE_SHA256: rule, parameter_file.SHA256: parameter_file.sha256_of(content)}


@dataclass(frozen=True, slots=True)
class Authorisation:
    """The content of an authorisation file."""

    name: str
    """Name of the file."""
    owner: str
    """User to whom the file belongs; empty for the user of this process."""
    sha256: str
    """Hash of the file, 64 hex digits."""
    account: str
    symbol: str
    expires: datetime
    ceilings: Mapping[str, Decimal]
    """Ceilings by the names of their fields."""
    hashes: Mapping[str, str]
    """Hashes that must be those of the session, by the names of their fields."""

    def refuse_other(
        self, config: Config, account: str, now: datetime, run: Path | None = None, is_begun: bool = False
    ) -> None:
        """Refuse a session that the file doesn't allow.

        Args:
            config: Settings of the session.
            account: Fingerprint of the API key.
            now: The time, UTC.
            run: See `hashes_of`.
            is_begun: Whether another permission began the session, so that the file need not be valid still.

        Raises:
            ConfigError: Names each field or setting, the rule and the value.
        """
        symbol = config.session.symbol
        of_the_file = [
            *([f"is for account {self.account}, the session's key is of {account}"] if self.account != account else []),
            *([f"is for {self.symbol}, the session trades {symbol}"] if self.symbol != symbol else []),
            *([] if is_begun else self._validity(now)),
        ]
        above = [*self._ceilings(config.risk), *self._hashes(hashes_of(config, run) if self.hashes else {})]
        if of_the_file or above:
            remedy = (
                WRITES
                if of_the_file
                else "set what it allows, or have another written by `python -m voltrade authorise`"
            )
            raise ConfigError(f"{self.name}: {'; '.join([*of_the_file, *above])} ({remedy})")

    def _validity(self, now: datetime) -> list[str]:
        stated = f"{self.expires.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        if now >= self.expires:
            return [f"expired at {stated}, it is {now:%Y-%m-%d %H:%M:%S} UTC"]
        is_far = self.expires > now + MAX_VALIDITY
        return [f"expires at {stated}, must be within {MAX_VALIDITY.days} days"] if is_far else []

    def _ceilings(self, risk: RiskSettings) -> list[str]:
        """Return what of the settings the file's ceilings don't allow."""
        above = list[str]()
        for each in CEILINGS:
            if (most := self.ceilings.get(each.name)) is None:
                continue
            if (value := each.value(risk)) > most:
                above.append(f"{each.what} is {value:f}, must be at most {each.name} {most:f}")
            above += [f"{name} is {was}, must be {must} under {each.name}" for name, must, was in each.unmet(risk)]
        return above

    def _hashes(self, found: Mapping[str, str]) -> list[str]:
        return [
            f"{name} of the session is {found[name] or 'none'}, must be {stated}"
            for name, stated in self.hashes.items()
            if found[name] != stated
        ]

    def table(self, config: Config) -> str:
        """Return each ceiling with the session's value, for the start-up table, and the file with its hash."""
        rows = [
            f"{each.what} {each.value(config.risk):f} of {self.ceilings[each.name]:f}"
            for each in CEILINGS
            if each.name in self.ceilings
        ]
        rows += [f"{name} {stated[:12]}" for name, stated in self.hashes.items()]
        return f"{'; '.join(rows)} ({self.name}, sha256 {self.sha256[:12]})"

    @property
    def validity(self) -> str:
        """Whose file it is and until when it is valid."""
        whose = f" of {self.owner}" if self.owner else ""
        return f"authorisation file{whose}, until {self.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def authorisations(environment: Mapping[str, str]) -> list[Authorisation]:
    """Return the files that hold for live sessions: the machine's, and the one that the environment names.

    Raises:
        ConfigError: One of them can't be read; it is refused, never ignored.
    """
    named = environment.get(AUTHORISATION_VARIABLE)
    files = [*([MACHINE_FILE] if _is_there(MACHINE_FILE) else []), *([Path(named)] if named else [])]
    return [_read_there(file) for file in files]


def _read_there(file: Path) -> Authorisation:
    """Read an authorisation file that must be there; the error says what makes one where it isn't."""
    variable = "" if file == MACHINE_FILE else AUTHORISATION_VARIABLE
    try:
        return read(file, variable)
    except ConfigError as error:
        if os.path.lexists(file):
            raise
        raise ConfigError(f"{error} ({WRITES})") from None


def _is_there(file: Path) -> bool:
    """Return whether a file or a link is there.

    Raises:
        ConfigError: That can't be known, for example since its folder is closed to this user.
    """
    try:
        file.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{file}: must be readable or not there, since its ceilings hold: {error.strerror}") from None
    return True


# --- the file ---------------------------------------------------------------------------------------------------------


def read(file: Path, variable: str = "") -> Authorisation:
    """Read an authorisation file: one of this user's that only they may read, or one that only another user may write.

    Args:
        file: Its path.
        variable: Environment variable that names it, for the error; empty where none does.

    Raises:
        ConfigError: It can't be read safely, lacks a field, or has one that is unknown or malformed.
    """
    text, owner = read_protected(file, variable)
    try:
        stated = json.loads(
            text, object_pairs_hook=_without_doubles, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse
        )
        if not isinstance(stated, dict):
            raise ValueError("must be a JSON object")
        _refuse_other_fields(stated)
        return Authorisation(
            name=file.name,
            owner="" if owner == os.getuid() else _user(owner),
            sha256=sha256(text.encode()).hexdigest(),
            account=_text(stated, "account"),
            symbol=_text(stated, "symbol"),
            expires=_moment(stated),
            ceilings={each.name: _amount(stated, each.name) for each in CEILINGS if each.name in stated},
            hashes={name: _hash(stated, name) for name in HASHES if name in stated},
        )
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file.name}: can't be read as an authorisation: {error}") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("must have each field once")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"must have finite numbers, was {constant}")


def _refuse_other_fields(stated: Mapping[str, Any]) -> None:
    if unknown := sorted(set(stated) - FIELDS):
        raise ValueError(f"{', '.join(unknown)}: unknown; the fields are {', '.join(sorted(FIELDS))}")
    if missing := [name for name in REQUIRED if name not in stated]:
        raise ValueError(f"{', '.join(missing)}: must be there")


def _text(stated: Mapping[str, Any], name: str) -> str:
    value = stated[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a text, was {value}")
    return value


def _amount(stated: Mapping[str, Any], name: str) -> Decimal:
    value = stated[name]
    try:
        amount = Decimal(value) if isinstance(value, str | Decimal) else Decimal("nan")
    except InvalidOperation:
        amount = Decimal("nan")
    if not (amount.is_finite() and Decimal("1e-12") <= amount <= 10**12):
        raise ValueError(f"{name}: must be a number above 0 and at most 10^12, was {value!s}")
    return amount


def _hash(stated: Mapping[str, Any], name: str) -> str:
    value = _text(stated, name)
    if len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{name}: must be a SHA-256 of 64 hex digits, was {value!r}")
    return value


def _moment(stated: Mapping[str, Any]) -> datetime:
    value = _text(stated, "expires")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"expires: must be a time in ISO 8601, was {value!r}") from None
    if moment.tzinfo is None:
        raise ValueError(f"expires: must state its zone, such as +00:00, was {value!r}")
    return moment


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def left_out(config: Config) -> list[str]:
    """Return the ceilings that these settings can't have, each with the setting that it asks for."""
    return [
        f"{each.name} is left out: it asks for {name} {must}, was {value}"
        for each in CEILINGS
        for name, must, value in each.unmet(config.risk)
    ]


def authorise(
    file: Path, config: Config, account: str, validity: timedelta, now: datetime, *, is_pinned: bool = False
) -> dict[str, str]:
    """Write an authorisation file of mode 0600 whose ceilings are these settings; return its content.

    A ceiling is left out where the settings lack what it asks for, or these settings would be refused: `left_out`.

    Args:
        file: A new file.
        config: Settings of the sessions.
        account: Fingerprint of the API key.
        validity: How long it is valid.
        now: The time, UTC.
        is_pinned: Whether no other rule file and no other trading settings are allowed.

    Raises:
        ConfigError: The mode is not `live`, the validity is too long, or the file exists or can't be written.
    """
    if config.session.mode != "live":
        raise ConfigError(f"mode: must be live, the only one that an authorisation is for, was {config.session.mode}")
    if not timedelta(0) < validity <= MAX_VALIDITY:
        raise ConfigError(
            f"days: must be above 0 and at most {MAX_VALIDITY.days}, was {validity / timedelta(days=1):g}"
        )
    stated = {
        "account": account,
        "symbol": config.session.symbol,
        "expires": (now + validity).isoformat(timespec="seconds"),
        **{each.name: f"{each.value(config.risk):f}" for each in CEILINGS if not each.unmet(config.risk)},
        **({name: found for name, found in hashes_of(config).items() if found} if is_pinned else {}),
    }
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        helps = f"name another for {AUTHORISATION_VARIABLE}, or move this one away first"
        raise ConfigError(f"{file}: must be a new file, exists already: {helps}") from None
    except OSError as error:
        raise ConfigError(f"{file}: must be a file that can be written: {error.strerror}") from None
    with os.fdopen(handle, "w") as fresh:
        json.dump(stated, fresh, indent=2)
    return stated
