"""Reads the API key, and keeps it out of logs and files.

A key comes from the environment or from a file that only its owner can read, never from a parameter, since papermill
would store it in the notebook. Ledger, journal and confirmation identify an account by the key's fingerprint.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from voltrade.errors import ConfigError

KEY_VARIABLE, SECRET_VARIABLE = "VOLTRADE_API_KEY", "VOLTRADE_API_SECRET"
KEY_FILE_VARIABLE = "VOLTRADE_KEY_FILE"
"""Variable with the path of a file of `NAME=value` lines, as a shell takes them; it counts before the other two."""

LARGEST_FILE = 65_536

PEM_BEGIN, PEM_END = "-----BEGIN", "-----END"
"""How the first and the last line of a private key in PEM begin; Binance takes RSA and Ed25519 keys."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """An API key and its secret; printed masked, and not picklable."""

    key: str
    secret: str
    source: str = field(default="", compare=False)
    """Where they were read, for the start-up table."""

    def __repr__(self) -> str:
        return "Credentials(key='***', secret='***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials must not be pickled")

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that identify the key without revealing it."""
        return sha256(b"voltrade account\0" + self.key.encode()).hexdigest()[:12]

    @staticmethod
    def load(environment: Mapping[str, str], file: Path | None = None) -> Credentials:
        """Read the key from a file of `NAME=value` lines if one is given, else from the environment.

        A line may begin with `export`, and a value stand in quotes, as shells take them.

        Args:
            environment: such as `os.environ`; the names are VOLTRADE_API_KEY and VOLTRADE_API_SECRET, or
                VOLTRADE_KEY_FILE for the path of a file that holds them.
            file: see `read_private`.

        Raises:
            ConfigError: a name is missing, a value can't be a key, or others can read the file; the message names the
                file and has no values.
        """
        named = "" if file is not None else KEY_FILE_VARIABLE
        if file is None and environment.get(KEY_FILE_VARIABLE):
            file = Path(environment[KEY_FILE_VARIABLE]).expanduser()
        where = "the environment" if file is None else str(file)
        given = environment if file is None else _pairs(read_private(file, named))
        key, secret = (_value(given.get(name, ""), name, where) for name in (KEY_VARIABLE, SECRET_VARIABLE))
        is_hiding = file is not None and environment.get(KEY_VARIABLE)
        return Credentials(key, secret, where + (f", which counts before {KEY_VARIABLE}" if is_hiding else ""))


def _value(given: str, name: str, where: str) -> str:
    """Return a key or secret without the spaces and quotes around it.

    Raises:
        ConfigError: It is missing, or more than one word.
    """
    value = given.strip()
    if PEM_BEGIN in value:
        return _unquoted(value).replace("\\n", "\n")
    value = _unquoted(value)
    if not value:
        raise ConfigError(f"{name}: must be set in {where}")
    if not re.fullmatch(r"[!-~]+", value):
        raise ConfigError(f"{name}: must be one word as the exchange shows it, in {where}, had a space or another sign")
    return value


def _unquoted(text: str) -> str:
    quote = text[:1]
    return text[1:-1].strip() if quote in ("'", '"') and len(text) > 1 and text.endswith(quote) else text


def read_private(file: Path, variable: str = "") -> str:
    """Read a regular file that this user owns and only this user can read (mode 0600 or 0400).

    Args:
        file: Its path.
        variable: Environment variable that names it, for the error; empty where none does.

    Raises:
        ConfigError: the file breaks a rule; the message has the file and the rule, but not its content.
    """
    text, owner = read_protected(file, variable)
    if owner != os.getuid():
        raise ConfigError(f"{_named(file, variable)}: must be a plain file of this user's")
    return text


def _named(file: Path, variable: str) -> str:
    return f"{variable}: {file}" if variable else str(file)


def read_protected(file: Path, variable: str = "") -> tuple[str, int]:
    """Read a file as `read_private` does, or one of another user that only they can write; return its owner too.

    Raises:
        ConfigError: see `read_private`.
    """
    name = _named(file, variable)
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{name}: can't be read: {error.strerror}, must be a readable file and no link") from None
    try:
        its = os.fstat(handle)
        mode, is_own = stat.S_IMODE(its.st_mode), its.st_uid == os.getuid()
        if not stat.S_ISREG(its.st_mode):
            raise ConfigError(f"{name}: must be a plain file of this user's")
        if is_own and mode & 0o077:
            raise ConfigError(f"{name}: mode must be 0600, was {mode:04o}")
        if mode & 0o022:
            raise ConfigError(f"{name}: mode must let only its owner write, as 0644, was {mode:04o}")
        return os.read(handle, LARGEST_FILE).decode("utf-8", "replace"), its.st_uid
    finally:
        os.close(handle)


def _pairs(text: str) -> dict[str, str]:
    """Read `NAME=value` lines; the value of a private key in PEM goes on to the line that ends it."""
    values: dict[str, str] = {}
    lines = iter(text.removeprefix("\ufeff").splitlines())
    for line in lines:
        name, is_pair, value = line.partition("=")
        if is_pair and not line.lstrip().startswith("#"):
            its_name = re.sub(r"^export\s+", "", name.strip())
            values[its_name] = _pem(value, lines) if PEM_BEGIN in value else _without_comment(value)
    return values


def _without_comment(value: str) -> str:
    """Return a value without a comment after it; as in shells, a `#` begins one only after a space."""
    found = re.match(r"""\s*("[^"]*"|'[^']*'|\S+)\s+#""", value)
    return found[1] if found else value


def _pem(first: str, lines: Iterator[str]) -> str:
    """Return a private key in PEM, of one line with `\\n` in it or of several."""
    found = first.strip()
    while PEM_END not in found:
        line = next(lines, None)
        if line is None:
            break
        found += f"\n{line.strip()}"
    return found
