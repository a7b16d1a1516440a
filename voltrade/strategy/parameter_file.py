"""Parameters in a file: what the explorer saves, and a session, backtest or sweep takes as it is.

A file is flat JSON: every parameter of bars, signals, exits, risk and execution, with symbol and rule; where, when and
how a session runs is not in it. It holds the hash of the rule file, where there is one, and the hash of all of that. A
file that was edited since is refused by name: what trades is what was looked at. `-p parameters_file NAME` takes it,
and so does papermill's own `-f NAME`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from voltrade.config import Config, SessionSettings
from voltrade.errors import ConfigError

NAMED_BY = "parameters_file"
"""The parameter that names a file."""
SHA256, RULE_SHA256 = "parameters_sha256", "rule_sha256"

OF_THE_SESSION = {NAMED_BY, *SessionSettings.model_fields} - {"symbol", "rule"}
"""Parameters that a file doesn't hold."""


_BARE_EXPONENT = re.compile(r"(?<=: )(-?\d+)(e-\d+)(?=,?$)", re.MULTILINE)
"""A number such as 2e-05 at the end of a line, which papermill, reading JSON as YAML, would take for a text."""


def saved_values(config: Config) -> dict[str, Any]:
    """Return the parameters that a file holds, as plain JSON values."""
    return {name: value for name, value in config.parameters().items() if name not in OF_THE_SESSION}


def write(path: Path, config: Config, rule_sha256: str = "") -> None:
    """Write a file whole, with its folder; one that is there is replaced.

    Args:
        rule_sha256: hash of the rule file that the settings name.
    """
    content = saved_values(config) | ({RULE_SHA256: rule_sha256} if rule_sha256 else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    text = json.dumps({**content, SHA256: sha256_of(content)}, indent=2)
    fresh.write_text(_BARE_EXPONENT.sub(r"\1.0\2", text) + "\n")
    fresh.replace(path)


def read(name: str) -> dict[str, Any]:
    """Return a file's parameters and the hash of its rule file.

    Args:
        name: its path, relative to the current folder or one above it.

    Raises:
        ConfigError: there is no such file, it isn't one of ours, or it isn't what was saved; names it.
    """
    path = found(name)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{NAMED_BY}: {name} must be JSON that can be read: {error}") from None
    if not isinstance(content, dict) or SHA256 not in content:
        raise ConfigError(f"{NAMED_BY}: {name} must hold parameters and their {SHA256}, does not")
    return without_hash(content, f"{NAMED_BY}: {name}", besides=())


def found(name: str) -> Path:
    """Return the path of a file, which may be relative to the current folder or one above it.

    Raises:
        ConfigError: there is none.
    """
    here = Path.cwd()
    if not isinstance(name, str):
        raise ConfigError(f"{NAMED_BY}: must be the path of a file, was {name!r}")
    path = next((path for folder in (here, *here.parents) if (path := folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{NAMED_BY}: {name} must be a file, is none in {here} or above")
    return path


def without_hash(
    given: Mapping[str, Any], name: str = SHA256, besides: Collection[str] = frozenset(OF_THE_SESSION)
) -> dict[str, Any]:
    """Return parameters without the hash that they carry; those without one as they are.

    Args:
        name: what the parameters are called in an error.
        besides: parameters that may stand beside those that were hashed.

    Raises:
        ConfigError: the hash is not theirs.
    """
    content = {key: value for key, value in given.items() if key != SHA256}
    if SHA256 in given:
        sha256 = sha256_of({key: value for key, value in content.items() if key not in besides})
        if sha256 != given[SHA256]:
            raise ConfigError(
                f"{name}: must be as it was saved, with {SHA256} {given[SHA256]}, has {sha256}: it was edited, or one "
                "of its parameters was given besides it"
            )
    return content


def merged(
    saved: Mapping[str, Any], given: Mapping[str, Any], name: str, default: Config, explicit: Collection[str] = ()
) -> dict[str, Any]:
    """Lay a file's parameters over others, of which none may say something else.

    Args:
        given: the others; one that is as `default` says counts as not given, unless its name is in `explicit`.
        name: of the file.

    Raises:
        ConfigError: a parameter is given and stands in the file with another value.
    """
    usual = default.parameters()
    lines = [
        f"{key}: must be given once, was {given[key]!r} beside {value!r} in {name}"
        for key, value in saved.items()
        if key in given and given[key] != value and (key in explicit or given[key] != usual.get(key))
    ]
    if lines:
        raise ConfigError("; ".join(lines))
    return {**given, **saved}


def sha256_of(content: Mapping[str, Any]) -> str:
    """Hash of parameters, whatever their order: 64 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(
    config: Config, saved: Mapping[str, Any] | None = None, rule_sha256: str = ""
) -> list[tuple[str, Any, Any]]:
    """List what these settings change in a file: a parameter's name or `rule_sha256`, the file's value, theirs.

    Args:
        saved: what `read` gave; None compares with the defaults.
        rule_sha256: hash of the rule file that the settings name.
    """
    before = saved if saved is not None else saved_values(Config(signals=type(config.signals)()))
    now = saved_values(config) | ({RULE_SHA256: rule_sha256} if rule_sha256 and saved is not None else {})
    names = dict.fromkeys((*now, *before))
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]
