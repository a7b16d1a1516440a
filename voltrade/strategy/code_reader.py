"""Reads the code of a rule for data that it uses besides its arguments.

It finds what a programmer would write, by mistake or for speed; it is no protection against code that hides what it
does.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from voltrade.compiled import plain
from voltrade.errors import ConfigError
from voltrade.signal_engine import RULE_BAR, SignalEngine, ema_step, other_overrides, overrides_of

TRUSTED_MODULES = frozenset(
    {"builtins", "math", "cmath", "_operator", "decimal", "fractions"}
    | {"numpy", "numpy.linalg", "numpy.fft", "numpy.lib.stride_tricks"}
    | {"numba", "numba.core.decorators", "numba.misc.special"}
)
"""Modules whose functions and classes a rule may use, because their results depend on their arguments only."""

FORBIDDEN_NAMES = frozenset({
    "open", "input", "eval", "exec", "compile", "globals", "locals", "vars", "id", "hash", "__import__", "breakpoint",
    "getattr", "setattr", "delattr", "type", "super", "attrgetter", "methodcaller", "object",
    "load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "save", "savez", "savez_compressed", "savetxt",
    "datetime64", "empty", "empty_like", "ndarray", "memoryview", "as_strided",
    "getcontext", "setcontext", "localcontext", "seterr", "geterr", "seterrcall", "geterrcall",
    "BaseException", "BaseExceptionGroup", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
    "setbufsize", "getbufsize", "set_printoptions", "get_printoptions",
})  # fmt: skip
"""Names in these modules that read or keep other data, or could do so without being found.

Among them are the clock (`numpy.datetime64("now")`), memory that nothing was written to (`numpy.empty`), and settings
of a whole process.
"""

CLOCK_WORDS = frozenset({"now", "today"})
"""Texts that numpy reads as the present time, such as in `numpy.array("now", "datetime64[ms]")`."""

RECORD_MEMBERS = frozenset({"base", "getfield", "setfield", "tofile", "dump", "dumps"})
"""What numpy's records have besides their fields; some lead to the rows around."""

MAX_CONSTANT = 64
"""Most numbers or characters in one constant of a rule, such as a tuple of weights."""

MAX_CONSTANTS = 512
"""Most numbers or characters in all constants of a rule; a rule with a value for each bar would need more."""

REQUIREMENT = f"a rule may know its arguments, and constants of up to {MAX_CONSTANT} values, nothing else"
"""Ends the text about a rule that uses other data."""


@dataclass(slots=True)
class CodeReader:
    """Reads functions, and those that they call; yields a text for each use of other data than their arguments.

    Attributes:
        seen: Code that was read so far.
        constants: Count of numbers and characters in the constants that were read so far.
    """

    seen: set[CodeType] = field(default_factory=set)
    constants: int = 0

    def read_rule(self, rule: type[SignalEngine]) -> Iterator[str]:
        """Read the steps of a rule's indicators and their warm-up, `_detect_signal`, and the methods it overrides."""
        for name in other_overrides(rule):
            yield f"{rule.__name__} overrides {name}"
        methods = overrides_of("on_volume_bar", rule)
        steps = (*(indicator.step for indicator in rule.indicators), rule._detect_signal)
        fields = _fields_of(rule)
        for step in steps:
            yield from _misused_arguments(plain(step), fields)
        own = (getattr(method, "__func__", method) for method in overrides_of("warmup_of", rule))
        ready = (*(indicator.ready_after for indicator in rule.indicators), *own)
        for function in (*steps, *methods, *ready):
            if isinstance(plain(function), FunctionType):
                yield from self._function(function)
            else:
                yield f"{rule.__name__} steps through a {type(function).__name__}, which can't be read like a function"
        for method in methods:
            yield from self._engine_attributes(method, rule)
        if self.constants > MAX_CONSTANTS:
            yield f"{rule.__name__} has constants of {self.constants} values, more than {MAX_CONSTANTS}"

    def _engine_attributes(self, method: Any, rule: type[SignalEngine]) -> Iterator[str]:
        """Read the attributes of the engine that a method uses: those of the class, which all engines share, and those
        that it writes, which no saved state holds."""
        instructions = list(dis.get_instructions(method))
        for number, instruction in enumerate(instructions):
            name = str(instruction.argval)
            if not number or not instruction.opname.endswith(("_ATTR", "LOAD_METHOD")):
                continue
            if _owner(instructions, number) != method.__code__.co_varnames[0]:
                continue
            if instruction.opname in ("STORE_ATTR", "DELETE_ATTR"):
                yield f"{method.__qualname__} keeps self.{name}, which is not in the declared state"
            elif hasattr(rule, name) and not hasattr(SignalEngine, name):
                yield from self._value(f"{rule.__name__}.{name}", getattr(rule, name), method.__qualname__)

    def _function(self, given: Any) -> Iterator[str]:
        function: Any = plain(given)
        if function.__code__ in self.seen:
            return
        self.seen.add(function.__code__)
        where = function.__qualname__
        for name in _set_attributes(given):
            yield f"{where} keeps an attribute, {name}"
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield from self._value("a default argument", value, where)
        yield from self._code(function.__code__, function, where)
        yield from _orders_of_hashes(_instructions_in(function.__code__), _names_of(function), where)

    def _code(self, code: CodeType, function: FunctionType, where: str) -> Iterator[str]:
        instructions = list(dis.get_instructions(code))
        is_method = "__class__" in code.co_freevars
        outside = function.__code__.co_freevars  # other closure variables exist only during the call
        for number, instruction in enumerate(instructions):
            operation, name = instruction.opname, str(instruction.argval)
            if is_method and _is_of_super(instructions, number):
                continue
            if operation in ("STORE_GLOBAL", "DELETE_GLOBAL") or (operation == "STORE_DEREF" and name in outside):
                yield f"{where} changes {name}"
            elif operation in ("STORE_ATTR", "DELETE_ATTR"):
                owner = _owner(instructions, number)
                if owner not in code.co_varnames[: code.co_argcount]:
                    yield f"{where} changes {owner}.{name}, and {owner} is none of its arguments"
            elif operation == "IMPORT_NAME":
                yield f"{where} imports {name}"
            elif operation == "LOAD_BUILD_CLASS":
                yield f"{where} makes a class"
            elif operation in ("LOAD_ATTR", "LOAD_METHOD") and name.startswith("__"):
                yield f"{where} uses {name}"
            elif operation == "LOAD_GLOBAL" or (operation == "LOAD_DEREF" and name in outside):
                yield from self._name(name, _attributes(instructions[number + 1 :]), function, where)
        loads = (each for each in instructions if each.opname in ("LOAD_CONST", "RETURN_CONST"))
        for constant in {load.arg: load.argval for load in loads}.values():
            if isinstance(constant, CodeType):  # comprehensions and inner functions
                yield from self._code(constant, function, where)
            else:
                yield from self._value("a literal", constant, where)

    def _name(self, name: str, attributes: list[str], function: FunctionType, where: str) -> Iterator[str]:
        known = _names_of(function)
        if name not in known:
            yield f"{where} uses {name}"
            return
        value, path = known[name], name
        for attribute in attributes:
            is_open = isinstance(value, ModuleType | type) or hasattr(plain(value), "__code__") or _is_harmless(value)
            if not is_open or not hasattr(value, attribute):
                break
            value, path = getattr(value, attribute), f"{path}.{attribute}"
        yield from self._value(path, value, where)

    def _value(self, path: str, value: Any, where: str) -> Iterator[str]:
        size = _size(value)
        if isinstance(value, str) and value.strip().lower() in CLOCK_WORDS:
            yield f"{where} uses the text {value!r}, which numpy reads as the present time"
        if size is not None:
            self.constants += size
            if size > MAX_CONSTANT:
                yield f"{where} reads {path}, a {type(value).__name__} of {size} values"
        elif _is_trusted(value):
            return
        elif isinstance(plain(value), FunctionType) and not _is_of_a_trusted_library(value):
            yield from self._function(value)
        elif callable(value) or isinstance(value, ModuleType):
            yield f"{where} uses {path}"
        else:
            holding = f" of {len(value)} values" if hasattr(value, "__len__") else ""
            yield f"{where} reads {path}, a {type(value).__name__}{holding}"


def refuse_other_data(rule: type[SignalEngine]) -> None:
    """Refuse a rule that uses other data than its arguments, or keeps state that it does not declare.

    Raises:
        ConfigError: names the function and what it uses.
    """
    for found in CodeReader().read_rule(rule):
        raise ConfigError(f"rule: {found}: {REQUIREMENT}; state between bars is declared by an Indicator")


def _fields_of(rule: type[SignalEngine]) -> tuple[tuple[str, ...], ...]:
    """Return what each argument of a step has: state, bar, settings and decision."""
    state = (name for indicator in rule.indicators for name in indicator.state)
    outputs = (name for indicator in rule.indicators for name in indicator.outputs)
    return (
        (*state, "bars"),
        RULE_BAR.names or (),
        (*rule.settings_type.model_fields, "warmup_bars"),
        (*outputs, *rule.conditions, "signal", "ready"),
    )


def _misused_arguments(step: Any, fields: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    """Yield what a step changes of the bar and the settings, its second and third argument, and which fields it uses
    that its arguments don't have, such as a state that nobody declares."""
    if not isinstance(step, FunctionType) or step.__code__.co_argcount != 4:
        return
    instructions = list(dis.get_instructions(step))
    known = dict(zip(step.__code__.co_varnames[:4], fields, strict=True))
    _, bar, settings, _ = known
    for number, instruction in enumerate(instructions[1:], 1):
        operation, name = instruction.opname, str(instruction.argval)
        if not operation.endswith(("_ATTR", "LOAD_METHOD")):
            continue
        owner = _owner(instructions, number)
        if operation in ("STORE_ATTR", "DELETE_ATTR") and owner in (bar, settings):
            yield f"{step.__qualname__} changes {owner}.{name}, which it may only read"
        elif owner in known and name in RECORD_MEMBERS:
            yield f"{step.__qualname__} uses {owner}.{name}"
        elif owner in known and name not in known[owner] and (owner == bar or not hasattr(np.void, name)):
            yield f"{step.__qualname__} uses {owner}.{name}, and {owner} has {', '.join(known[owner])}"


def _set_attributes(given: Any) -> list[str]:
    """Return the attributes that were set on a function; a compiled function always has some."""
    always = vars(ema_step).keys() | {"__wrapped__"}
    return sorted((vars(given).keys() | vars(plain(given)).keys()) - always)


def _names_of(function: FunctionType) -> dict[str, Any]:
    """Return the builtins, globals and closure variables of a function."""
    builtins: Any = function.__globals__["__builtins__"]
    known = {**(builtins if isinstance(builtins, dict) else vars(builtins)), **function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        known[name] = cell.cell_contents
    return known


def _attributes(instructions: Sequence[dis.Instruction]) -> list[str]:
    """Return the names of a chain of attributes: `b` and `c` of `a.b.c`."""
    names = []
    for instruction in instructions:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        names.append(str(instruction.argval))
    return names


def _is_of_super(instructions: Sequence[dis.Instruction], number: int) -> bool:
    """Whether an instruction loads `super`, or the class for it, as some versions of Python do."""
    name, before = instructions[number].argval, instructions[max(number - 1, 0)].argval
    return bool(name == "super" or (name == "__class__" and before == "super"))


def _instructions_in(code: CodeType) -> list[dis.Instruction]:
    """Return the instructions of a function and of its comprehensions and inner functions."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return [*dis.get_instructions(code), *(step for each in inner for step in _instructions_in(each))]


def _orders_of_hashes(instructions: Sequence[dis.Instruction], known: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield where code goes through a set of texts: each process has them in another order.

    That is a literal or a value, used otherwise than by `in`; or a set that is made in code that has texts.
    """
    makes_set, texts = False, False
    for instruction, after in pairwise(instructions):
        value = instruction.argval
        if instruction.opname == "LOAD_GLOBAL":
            makes_set |= value in ("set", "frozenset")
            value = known.get(value)
            value = value if isinstance(value, str | bytes | tuple | frozenset) else None
        elif instruction.opname != "LOAD_CONST":
            makes_set |= instruction.opname in ("BUILD_SET", "SET_ADD")
            continue
        has_texts = isinstance(value, str | bytes) or (isinstance(value, tuple | frozenset) and _has_text(value))
        texts |= has_texts
        if has_texts and isinstance(value, frozenset) and after.opname != "CONTAINS_OP":
            yield f"{where} goes through a set of texts, which each process has in another order"
    if makes_set and texts:
        yield f"{where} makes a set and has texts: each process goes through a set of texts in another order"


def _has_text(values: Any) -> bool:
    return any(_has_text(each) if isinstance(each, tuple | frozenset) else isinstance(each, str | bytes)
               for each in values)  # fmt: skip


def _owner(instructions: Sequence[dis.Instruction], number: int) -> str:
    """Return the variable whose attribute an instruction reads or changes; it was loaded just before."""
    at = number - 1
    if instructions[at].opname == "SWAP":  # `a.b += c` loads a before it reads a.b
        read = instructions[number].argval
        while at > 0 and not (instructions[at].opname == "COPY" and instructions[at + 1].argval == read):
            at -= 1
        at -= 1
    loaded = instructions[at].argval
    return str(loaded[-1] if isinstance(loaded, tuple) else loaded)  # some versions of Python load two at once


def _is_trusted(value: Any) -> bool:
    """Whether a value is a function or class of a trusted module, or a method of one or of a constant."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        return callable(value) and _is_harmless(owner)
    module, name = str(getattr(value, "__module__", None)), str(getattr(value, "__name__", None))
    is_itself = module in TRUSTED_MODULES and getattr(sys.modules[module], name, None) is value
    return is_itself and name not in FORBIDDEN_NAMES


def _is_harmless(value: Any) -> bool:
    return _is_trusted(value) or _size(value) is not None


def _is_of_a_trusted_library(value: Any) -> bool:
    """Whether a function belongs to Python, numpy or numba; its name decides, and its code is not read."""
    return str(getattr(value, "__module__", None)).partition(".")[0] in TRUSTED_MODULES


def _size(value: Any) -> int | None:
    """Return the count of numbers and characters in a constant; None for other values."""
    if isinstance(value, Enum):
        return _size(value.value)
    kind = type(value)
    if kind in (tuple, frozenset) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        sizes = [_size(each) for each in value]
        return None if None in sizes else max(1, sum(size or 0 for size in sizes))
    if kind in (str, bytes):
        return max(1, len(value))
    if kind is int:
        return 1 + int.bit_length(value) // 64
    if kind is Decimal:
        return 1 + len(value.as_tuple().digits) // 32
    if isinstance(value, np.generic) and kind.__module__ == "numpy" and not value.dtype.hasobject:
        return max(1, value.dtype.itemsize // 8)
    return 1 if value is None or value is Ellipsis or kind in (bool, float, complex, range) else None
