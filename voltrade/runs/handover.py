"""Compares the parameters that a process was given with those that it would trade.

Papermill gives parameters to a notebook's kernel, and the notebook's session gives them to the engine process. Each of
them also puts the parameters into the environment of the process that it starts, where no cell and no file can change
them. The started process compares them with the parameters that it would trade, and refuses every difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from voltrade import journal
from voltrade.config import refuse_secrets
from voltrade.errors import ConfigError, JournalError

GIVEN = "VOLTRADE_GIVEN"
"""Environment variable of a kernel or engine: the parameters that it was given, as JSON."""


def environment(given: Mapping[str, object]) -> dict[str, str]:
    """Return the environment variables for a process that is given these parameters."""
    return {GIVEN: json.dumps(dict(given), default=str)}


def received(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that this process was given; empty if there are none.

    Raises:
        ConfigError: The environment variable is not a JSON object.
    """
    text = environ.get(GIVEN, "{}")
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{GIVEN}: must be JSON: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{GIVEN}: must be a JSON object, was a {type(given).__name__}")
    return given


def differences(given: Mapping[str, Any], traded: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List the parameters whose values differ: name, value given, value traded.

    Names that are only in `given` are ignored, since a notebook may have parameters of its own.
    """
    common = [name for name in given if name in traded]
    return [(name, given[name], traded[name]) for name in common if not is_same(given[name], traded[name])]


def refuse_other(given: Mapping[str, Any], traded: Mapping[str, Any]) -> None:
    """Refuse parameters that differ from those given.

    Raises:
        ConfigError: Names every parameter that differs, with both values.
    """
    different = differences(given, traded)
    for parameters in (given, traded):  # since the error shows the values
        refuse_secrets({name: parameters[name] for name, *_ in different})
    if different:
        raise ConfigError(
            "\n".join(f"{name}: must be traded as given, {value!r}, was {other!r}" for name, value, other in different)
        )


def is_same(first: object, second: object) -> bool:
    """Whether two values of a parameter are equal; 25, 25.0 and "25" are."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, str) and isinstance(second, str):
        return first == second
    numbers = _number(first), _number(second)
    return first == second if None in numbers else numbers[0] == numbers[1]


def _number(value: object) -> Decimal | None:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None


def refuse_others(environ: Mapping[str, str], begun: Path | None, traded: Mapping[str, Any]) -> None:
    """Refuse parameters that differ from those given to this process, or from those that the run began with.

    Args:
        environ: The environment of the process.
        begun: The run's journal, whose first row has them; None before it has one.
        traded: What would be traded.

    Raises:
        ConfigError: Names every parameter that differs, with both values.
    """
    refuse_other(received(environ), traded)
    if begun is None:
        return
    with suppress(JournalError):  # recovery reports what is wrong with the journal
        for row in journal.read(begun, kind="Start"):
            first = {**row.fact.get("parameters", {})}
            first.pop("confirmation", None)  # has the date of the first start; a resumed run needs no new one
            refuse_other(first, traded)
