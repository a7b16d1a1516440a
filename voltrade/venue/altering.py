"""Changes inside JSON messages: what a fault makes of an answer or an event.

A field is named by its path, the names from the outside in with dots between them: `o.c`, `a.B.0.wb`. A number is a
position in a list, `*` every row of a list or every field of an object, and the empty path the whole message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any


def altered(message: Any, values: Mapping[str, Any], without: Iterable[str] = ()) -> Any:
    """Return a message with other values at some paths, and without the fields at others.

    A field that an object doesn't have is added. A path that leads through what isn't there changes nothing.
    """
    whole = {"": deepcopy(values.get("", message))}
    for path, value in values.items():
        for holder, key in _places(whole[""], path) if path else ():
            holder[key] = deepcopy(value)
    for path in without:
        for holder, key in reversed([*_places(whole[""], path)]):
            if isinstance(holder, list) or key in holder:
                del holder[key]
    return whole[""]


def _places(message: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """Yield the objects and lists that have the last name of a path, each with that name."""
    name, _, rest = path.partition(".")
    keys = _keys(message, name)
    if not rest:
        yield from ((message, key) for key in keys)
        return
    for key in keys:
        if isinstance(message, list) or key in message:
            yield from _places(message[key], rest)


def _keys(message: Any, name: str) -> list[Any]:
    """Return what a name stands for in an object or a list; nothing in any other value."""
    if isinstance(message, dict):
        return [*message] if name == "*" else [name]
    if not isinstance(message, list):
        return []
    if name == "*":
        return [*range(len(message))]
    return [int(name)] if name.isdigit() and int(name) < len(message) else []
