"""Parameter files: the explorer saves them, and sessions, backtests and sweeps use them unchanged.

A file is flat JSON with every parameter of bars, signals, exits, risk and execution, and with symbol and rule; it says
nothing about where, when and how a session runs. It also has the hash of the rule file, if there is one, and a hash
of all parameters. An edited file is refused, so that a session trades what was seen in the explorer. A file is given by
`-p parameters_file NAME`, or by papermill's own `-f NAME`.
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

PARAMETER = "parameters_file"
"""Name of the parameter that gives the file."""
SHA256, RULE_SHA256 = "parameters_sha256", "rule_sha256"

SESSION_ONLY = {PARAMETER, *SessionSettings.model_fields} - {"symbol", "rule"}
"""Parameters that a file doesn't have."""

_BARE_EXPONENT = re.compile(r"(?<=: )(-?\d+)(e-\d+)(?=,?$)", re.MULTILINE)
"""A number such as 2e-05 at the end of a line; papermill reads JSON as YAML, where this is a text."""


def saved_values(config: Config) -> dict[str, Any]:
    """Return the parameters that a file has, as plain JSON values."""
    return {name: value for name, value in config.parameters().items() if name not in SESSION_ONLY}


def write(path: Path, config: Config, rule_sha256: str = "") -> None:
    """Write a file, and make its folder; an existing file is replaced.

    Args:
        path: Path of the file.
        config: The settings.
        rule_sha256: Hash of the rule file in the settings.
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
        name: Its path, relative to the current folder or one above it.

    Raises:
        ConfigError: The file is missing, isn't a parameter file, or was edited.
    """
    path = found(name)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{PARAMETER}: {name} must be JSON that can be read: {error}") from None
    if not isinstance(content, dict) or SHA256 not in content:
        raise ConfigError(f"{PARAMETER}: {name} must hold parameters and their {SHA256}, does not")
    return without_hash(content, f"{PARAMETER}: {name}", besides=())


def found(name: str) -> Path:
    """Return the path of a file, which may be relative to the current folder or one above it.

    Raises:
        ConfigError: There is no such file.
    """
    here = Path.cwd()
    if not isinstance(name, str):
        raise ConfigError(f"{PARAMETER}: must be the path of a file, was {name!r}")
    path = next((path for folder in (here, *here.parents) if (path := folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{PARAMETER}: {name} must be a file, is none in {here} or above")
    return path


def without_hash(
    given: Mapping[str, Any], name: str = SHA256, besides: Collection[str] = frozenset(SESSION_ONLY)
) -> dict[str, Any]:
    """Check the hash among parameters, and return the parameters without it.

    Args:
        given: Parameters; without a hash they are returned unchanged.
        name: Name of the parameters in an error.
        besides: Parameters that the hash doesn't cover.

    Raises:
        ConfigError: The hash is wrong.
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
    """Merge a file's parameters into others; a parameter must not have two different values.

    Args:
        saved: Parameters of the file.
        given: The others; a value that is the default is replaced, unless its name is in `explicit`.
        name: Name of the file.
        default: Settings with the default values.
        explicit: Names of parameters that the user gave.

    Raises:
        ConfigError: A parameter is given with another value than in the file.
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
    """Return the hash of parameters, 64 hex digits; their order doesn't matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def difference(
    config: Config, saved: Mapping[str, Any] | None = None, rule_sha256: str = ""
) -> list[tuple[str, Any, Any]]:
    """List the differences between a file and settings: name or `rule_sha256`, the file's value, the settings' value.

    Args:
        config: The settings.
        saved: The file's parameters, from `read`; None compares with the defaults.
        rule_sha256: Hash of the rule file in the settings.
    """
    before = saved if saved is not None else saved_values(Config(signals=type(config.signals)()))
    now = saved_values(config) | ({RULE_SHA256: rule_sha256} if rule_sha256 and saved is not None else {})
    names = dict.fromkeys((*now, *before))
    return [(name, before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)]
