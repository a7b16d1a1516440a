"""A hash of what a rule does, for rules that have no file: their class, its functions, and all that these read.

A class that is defined anew in a notebook has the same name and does something else, so its name tells nothing.
"""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from voltrade.compiled import plain
from voltrade.config import SignalSettings
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.code_reader import TRUSTED_MODULES
from voltrade.strategy.load_watch import INSTALLED

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_hash(rule: type[SignalEngine]) -> str:
    """Return a hash of what a rule does, 64 hex digits.

    It covers code, literals, names, defaults, closures and globals of all functions of the class and of those that they
    call, of the modules and submodules that they name, and all attributes of the class and of its settings' class; not
    its name, comments, or the place where it stands.
    """
    return sha256("\n".join(f"{name}: {text}" for name, text in texts_of(rule).items()).encode()).hexdigest()


def texts_of(rule: type[SignalEngine]) -> dict[str, str]:
    """Return what `code_hash` covers: a text for each attribute of a rule."""
    owners = rule.__mro__[: rule.__mro__.index(SignalEngine)]
    names = sorted({name for owner in owners for name in vars(owner) if not _is_hidden(name)})
    teller = _Teller()
    return {name: teller.told(getattr(rule, name)) for name in names}


def _is_hidden(name: str) -> bool:
    return name.startswith("__") or name.startswith("_abc_")


class _Teller:
    """Tells values as texts that are the same whenever the values do the same."""

    def __init__(self) -> None:
        self._seen: list[object] = []

    def told(self, given: Any) -> str:
        """Return a text for a value; one that was told before is told by its number."""
        value: Any = plain(given.__func__ if isinstance(given, MethodType) else given)
        if isinstance(value, FunctionType | type | CodeType):
            if any(value is each for each in self._seen):
                return f"number {next(number for number, each in enumerate(self._seen) if each is value)}"
            self._seen.append(value)
        if isinstance(value, FunctionType | type | ModuleType) and _is_of_a_library(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        return f"{type(value).__name__}({', '.join(self._parts(value))})"

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, CodeType):
            yield from self._code(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, np.ndarray):
            yield from (str(value.dtype), str(value.shape), value.tobytes().hex())
        elif isinstance(value, Mapping):
            yield from (f"{self.told(key)} is {self.told(each)}" for key, each in value.items())
        elif isinstance(value, tuple | list):
            yield from map(self.told, value)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(self.told, value))
        elif is_dataclass(value):
            yield from (f"{each.name} is {self.told(getattr(value, each.name))}" for each in fields(value))
        else:
            yield value.__name__ if isinstance(value, ModuleType) else _ADDRESS.sub("", repr(value))

    def _class(self, value: type) -> Iterator[str]:
        owners: tuple[type, ...] = (value,)
        fields_of_it: Collection[str] = ()
        if issubclass(value, SignalSettings):  # the values of its fields are in the settings
            owners = value.__mro__[: value.__mro__.index(SignalSettings)]
            fields_of_it = value.model_fields
            yield ", ".join(fields_of_it)
        names = dict.fromkeys(name for owner in owners for name in vars(owner) if not _is_hidden(name))
        for name in names:
            if name not in fields_of_it and not name.startswith("model_"):
                yield f"{name} is {self.told(getattr(value, name, None))}"

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield self.told(function.__code__)
        yield self.told((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            yield self.told(cell.cell_contents)
        names = sorted(_names_in(function.__code__))
        for name in _globals_in(function.__code__):
            value = function.__globals__.get(name)
            yield f"{name} is {self.told(value)}"
            yield from self._module(name, value, names, {id(value)})

    def _module(self, path: str, module: Any, names: Sequence[str], seen: set[int]) -> Iterator[str]:
        """Tell what a function may read of a module, and of its submodules, by the names in its code."""
        if not isinstance(module, ModuleType) or _is_of_a_library(module):
            return
        for name in names:
            if name in vars(module):
                value = getattr(module, name)
                yield f"{path}.{name} is {self.told(value)}"
                if id(value) not in seen:
                    seen.add(id(value))
                    yield from self._module(f"{path}.{name}", value, names, seen)

    def _code(self, code: CodeType) -> Iterator[str]:
        yield code.co_code.hex()
        yield self.told(code.co_consts)
        yield self.told((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of its inner functions and comprehensions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)


def _names_in(code: CodeType) -> set[str]:
    return {name for each in _codes_in(code) for name in each.co_names}


def _globals_in(code: CodeType) -> dict[str, None]:
    """Return the names of globals that a function reads, in the order of its code."""
    loads = (each for inner in _codes_in(code) for each in dis.get_instructions(inner) if each.opname == "LOAD_GLOBAL")
    return dict.fromkeys(str(load.argval) for load in loads)


def _is_of_a_library(value: Any) -> bool:
    """Whether a function, class or module belongs to Python or an installed package, or is voltrade's own."""
    name = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", None))
    if name.partition(".")[0] in TRUSTED_MODULES | {"voltrade"}:
        return True
    if name == "__main__":  # a notebook, whose process a file of a package has started
        return False
    file = getattr(value if isinstance(value, ModuleType) else sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and _is_installed(file)


@cache
def _is_installed(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED)
