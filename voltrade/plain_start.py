"""Rules that begin as plain Python where the cache lacks them, until another process has compiled them.

Compiling takes tens of seconds, for which an engine that comes back would not look after its position. After
`begin_plain()` an entry point (a rule that Python calls) is compiled only if the cache has its code; else it is the
same function as plain Python, with all that it calls. Both change the same records and give the same bits, so that one
may take the place of the other between two events.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from voltrade.compiled import NotKept, compile_for, kept_only, uncompiled

_LACKING: ContextVar[set[str] | None] = ContextVar("lacking", default=None)
"""Names of the entry points that the cache lacked; None where they are compiled at once. Tasks and threads that a task
starts have its set."""

_compiled: dict[tuple[str, Any], Callable[..., Any]] = {}
_plain: set[Callable[..., Any]] = set()


def begin_plain() -> None:
    """From now on compile no entry point in this task, and in what it starts: one that the cache lacks is plain."""
    _LACKING.set(set())


def has_begun_plain() -> bool:
    """Return whether `begin_plain` was called in this task, or in one that started it."""
    return _LACKING.get() is not None


def lacking() -> frozenset[str]:
    """Return the names of the entry points that were plain, since the cache lacked them, when they were asked for."""
    return frozenset(_LACKING.get() or ())


def entry(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """Return an entry point: compiled, as `compile_for` does; or plain Python, see `begin_plain`.

    One that was plain stays so until it is in `_compiled`, which another thread may see to: to look into the cache
    takes time.
    """
    key, names = (function.__qualname__, signature), _LACKING.get()
    if key not in _compiled and names is None:
        _compiled[key] = compile_for(function, signature, **options)
    if key not in _compiled and names is not None and key[0] not in names:
        try:
            with kept_only():
                _compiled[key] = compile_for(function, signature, **options)
        except NotKept:
            names.add(key[0])
    if key in _compiled:
        return _compiled[key]
    try:
        found = _plain_entry(function)
    except TypeError:  # a closure, which no copy of a function has
        return _compiled.setdefault(key, compile_for(function, signature, **options))
    _plain.add(found)
    return found


@cache
def _plain_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as plain Python, which sees the rows that it is given as `_Row`.

    Most rows are given again and again, and making a view of them takes as long as a rule.
    """
    rule, before, seen = uncompiled(function), list[Any](), list[Any]()

    def plain_rule(*given: Any) -> Any:
        if len(before) != len(given):
            before[:], seen[:] = [None] * len(given), [None] * len(given)
        for place, value in enumerate(given):
            if value is not before[place]:
                before[place], seen[place] = value, value.view(_quick(value.dtype)) if _is_rows(value) else value
        return rule(*seen)

    return plain_rule


class _Row(np.void):  # type: ignore[misc]  # numpy's stubs call it final
    """A record whose fields are looked up in C. `numpy.record` does it in Python, for most of the time of a rule."""

    __getattr__ = np.void.__getitem__
    __setattr__ = np.void.__setitem__


def _is_rows(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.names is not None


@cache
def _quick(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype with `_Row` in place of each record, those in its fields too."""
    if dtype.subdtype is not None:
        return np.dtype((_quick(dtype.subdtype[0]), dtype.subdtype[1]))
    if dtype.names is None or dtype.fields is None:
        return dtype
    places = [dtype.fields[name] for name in dtype.names]
    formats, offsets = [_quick(place[0]) for place in places], [place[1] for place in places]
    layout = {"names": dtype.names, "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize}
    return np.dtype((_Row, np.dtype(layout, align=dtype.isalignedstruct)))  # type: ignore[call-overload]


def is_plain(function: Callable[..., Any]) -> bool:
    """Return whether `entry` has returned a function as plain Python, to be replaced by its compiled code."""
    return function in _plain
