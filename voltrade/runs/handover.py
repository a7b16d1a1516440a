"""Parameters on their way to the engine: what is traded must be what was given.

Papermill hands parameters to a notebook's kernel, and a notebook's session hands them to the engine process. Whoever
hands them on also leaves them in the environment of the process that it starts, where no cell and no file on the way
changes them. The receiver compares what it would trade, and refuses every difference by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from voltrade.config import refuse_secrets
from voltrade.errors import ConfigError

GIVEN = "VOLTRADE_GIVEN"
"""Environment of a kernel or engine: the parameters that it was given, as JSON."""


def environment(given: Mapping[str, object]) -> dict[str, str]:
    """Return what the environment of a process must say of the parameters that it is given."""
    return {GIVEN: json.dumps(dict(given), default=str)}


def received(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that this process was given; empty where nobody gave any.

    Raises:
        ConfigError: the environment holds no parameters.
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
    """List the parameters that are traded with another value than was given: name, value given, value traded.

    Names of `given` that are none of `traded` are passed over: a notebook may have parameters of its own.
    """
    common = [name for name in given if name in traded]
    return [(name, given[name], traded[name]) for name in common if not is_same(given[name], traded[name])]


def refuse_other(given: Mapping[str, Any], traded: Mapping[str, Any]) -> None:
    """Refuse to trade other parameters than were given.

    Raises:
        ConfigError: names every parameter that differs, with both values.
    """
    different = differences(given, traded)
    for parameters in (given, traded):  # whose values would be told
        refuse_secrets({name: parameters[name] for name, *_ in different})
    if different:
        raise ConfigError(
            "\n".join(f"{name}: must be traded as given, {value!r}, was {other!r}" for name, value, other in different)
        )


def is_same(one: object, other: object) -> bool:
    """Whether two values of a parameter mean the same: 25, 25.0 and "25" do."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    numbers = _number(one), _number(other)
    return one == other if None in numbers else numbers[0] == numbers[1]


def _number(value: object) -> Decimal | None:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None
