"""Compile rules with numba, and cache the compiled code on disk by the hash of all its sources.

`compiled` is the decorator for the functions of bars, indicators, signals, risk and execution. Numba's own cache only
notices an edit of the file that defines a function: after an edit of a function or constant in another file it would
run old code. So compiled code is stored in a folder whose name is a hash of every source file that the function's file
imports, directly or indirectly. Fast-math and threads are off: compiled and plain Python give the same bits.

The cache is in `$VOLTRADE_CACHE`, else `$XDG_CACHE_HOME/voltrade`, else `~/.cache/voltrade`. If it can't be written,
functions are compiled again in each process.

Only what Python calls becomes machine code, with all that it calls, and only that is cached; see `compiled_libraries`.

With `VOLTRADE_PLAIN=1` nothing is compiled: every rule runs as plain Python, so that a debugger can step through it.
The results are the same bits, hundreds of times slower.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Lock
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakSet

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import event
from numba.extending import intrinsic, overload

from voltrade.compiled_libraries import EntryCompiler, PartCompiler

Rows = npt.NDArray[np.void]
"""An array with a structured dtype. State is an array of one row that is changed in place."""
Record = Any
"""One row of `Rows` with its fields as attributes, such as `bar.close`. Compiled code and numpy share its memory."""

IS_PLAIN = os.environ.get("VOLTRADE_PLAIN", "") not in ("", "0")
"""Whether rules run as plain Python."""

P = ParamSpec("P")
R = TypeVar("R")


BARE = {"_nrt": False, "error_model": "numpy"}
"""Numba options for code that creates no arrays: no reference counting of its arguments, which its caller references
(counting is atomic, and took nearly half of a session's time), and no checks for division by zero."""

_WITHOUT_ENTRY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call for each set of argument types; the compiled code is cached on disk.

    The attribute `py_func` is the plain Python function.
    """
    return cast(Callable[P, R], compile_for(function, None))


def compiled_part(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled code calls, and that creates no arrays.

    Python can't call it, and its options are `BARE`.
    """
    return cast(Callable[P, R], _part(function, **BARE))


def compiled_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `compiled_part`, but inline into each caller, which saves the cost of passing the arguments."""
    return cast(Callable[P, R], _part(function, inline="always", **BARE))


def compile_for(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """Compile a function, immediately if a numba signature is given, with the cache on disk.

    Where compiled code calls it, it becomes a part of its caller. Returned unchanged are functions that are compiled
    already, and all functions under `VOLTRADE_PLAIN=1` or `NUMBA_DISABLE_JIT=1`.
    """
    if _stays_as_it_is(function):
        return function
    part, folder = _part(function, **options), _cache_folder(function)
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder or before)  # numba reads it only while it decorates
    try:
        entry = numba.njit(signature, cache=folder is not None, pipeline_class=EntryCompiler, **options)(function)
    finally:
        settings.CACHE_DIR = before
    entry.get_call_template, entry.get_overload = part.get_call_template, part.get_overload
    return entry


def _part(function: Callable[..., Any], **options: Any) -> Any:
    """Return a function for compiled code to call, see `compiled_libraries`."""
    if _stays_as_it_is(function):
        return function
    return _ignoring_constants(numba.njit(pipeline_class=PartCompiler, **options | _WITHOUT_ENTRY)(function))


def _stays_as_it_is(function: Callable[..., Any]) -> bool:
    return hasattr(function, "py_func") or IS_PLAIN or bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def _ignoring_constants(dispatcher: Any) -> Any:
    """Compile for argument types only; by default numba compiles again for each literal constant in a call."""
    typed = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: typed(
        tuple(types.unliteral(arg) for arg in args), {name: types.unliteral(arg) for name, arg in kws.items()}
    )
    return dispatcher


@intrinsic
def _prefetch(_: Any, column: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        place = builder.bitcast(builder.gep(data, [given[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(instruction, [place, number(0), number(3), number(1)])  # for reading, high locality, data cache
        return context.get_dummy_value()

    return types.void(column, types.intp), generate


def prefetch(column: npt.NDArray[Any], row: int) -> None:
    """Prefetch a row into the CPU cache. The row need not exist. In plain Python this does nothing."""


@overload(prefetch, strict=False)
def _compiled_prefetch(column: Any, row: Any) -> Any:
    intrinsic: Any = _prefetch
    return lambda column, row: intrinsic(column, row)


class NotKept(Exception):
    """The cache doesn't have the compiled code of a function."""


_IS_KEPT_ONLY: ContextVar[bool] = ContextVar("kept only", default=False)


@contextmanager
def kept_only() -> Iterator[None]:
    """Load compiled code from the cache, but compile nothing within this block, in this thread.

    Raises:
        NotKept: something would have to be compiled.
    """
    before = _IS_KEPT_ONLY.set(True)
    try:
        yield
    finally:
        _IS_KEPT_ONLY.reset(before)


class _CompileNotice(event.Listener):
    """Prints once that rules are being compiled: a first run may take a minute longer than later runs."""

    is_printed = False
    depth = 0
    """How many functions are being compiled, each within the one before."""

    def on_start(self, event: Any) -> None:
        self.depth += 1
        if _IS_KEPT_ONLY.get():
            raise NotKept
        if not self.is_printed:
            self.is_printed = True
            # A notebook shows stderr in red, like errors.
            is_notebook = hasattr(builtins, "__IPYTHON__")
            out = sys.stdout if is_notebook else sys.stderr
            print(f"compiling rules; later runs find them in {cache_home()}", file=out, flush=True)

    def on_end(self, event: Any) -> None:
        self.depth -= 1


_NOTICE = _CompileNotice()
event.register("numba:compile", _NOTICE)


def is_compiling() -> bool:
    """Whether a function is being compiled now; its thread does nothing else meanwhile."""
    return _NOTICE.depth > 0


def record_dtype(fields: list[tuple[Any, ...]]) -> np.dtype[Any]:
    """Return a structured dtype with C layout; fields of its rows are attributes, in Python and in compiled code."""
    return _record_dtype(tuple(fields))


@cache
def _record_dtype(fields: tuple[tuple[Any, ...], ...]) -> np.dtype[Any]:
    return np.dtype((np.record, np.dtype(list(fields), align=True)))


def rows_of(dtype: np.dtype[Any]) -> Any:
    """Return the numba type of an array of records."""
    return types.Array(numba.from_dtype(dtype), 1, "C")


def restored(dtype: np.dtype[Any], saved: bytes) -> Rows:
    """Return writable rows from the result of `tobytes`. A structured copy would leave padding bytes undefined."""
    return np.frombuffer(bytearray(saved), dtype)


def plain(function: Callable[P, R]) -> Callable[P, R]:
    """Return the plain Python function of a compiled function."""
    return cast(Callable[P, R], getattr(function, "py_func", function))


@cache
def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return a compiled function as plain Python, and with it all that it calls: nothing is compiled by a call of it.

    For what Python calls now and then while a session runs: compiling takes seconds, for which its loop would stand.
    """
    source: Any = plain(function)
    used = {name: _uncompiled_value(source.__globals__[name]) for name in _global_names(source)}
    names = {"__builtins__": builtins, **used}
    return cast(Callable[P, R], FunctionType(source.__code__, names, source.__name__, source.__defaults__))


def _global_names(function: Any) -> list[str]:
    return [name for name in function.__code__.co_names if name in function.__globals__]


def _uncompiled_value(value: Any) -> Any:
    if isinstance(value, ModuleType) and value.__name__.partition(".")[0] == _PACKAGE.name:
        return _UncompiledModule(value)
    return uncompiled(value) if hasattr(value, "py_func") else value


class _UncompiledModule:
    """A module whose compiled functions are plain Python."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = _uncompiled_value(getattr(self._module, name))
        setattr(self, name, value)
        return value


def bind(function: Callable[..., Any], **functions: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a plain function in which the given global names are bound to the given functions.

    So a rule becomes a constant of a compiled loop. If it were passed as a first-class function, each call of the loop
    would take 150 µs instead of 1 µs (measured). The name of the copy includes a hash of the bound functions, so that
    the cache distinguishes copies.
    """
    given = plain(function)
    copy = FunctionType(given.__code__, {**given.__globals__, **functions}, given.__name__)
    identities = [f"{name}={_identity(plain(bound))}" for name, bound in sorted(functions.items())]
    copy.__qualname__ = f"{given.__qualname__}_{hashlib.sha256(' '.join(identities).encode()).hexdigest()[:16]}"
    copy.__module__ = given.__module__
    if not all(_has_source(plain(bound)) for bound in functions.values()):
        _UNCACHED.add(copy)
    return copy


_UNCACHED: WeakSet[Callable[..., Any]] = WeakSet()
"""Copies with a bound function that has no source file, so that its changes can't be noticed."""


def _delete_old_code(home: Path) -> None:
    """Delete folders of compiled code a month older than the newest; each edit of a rule creates a new folder."""
    newest = max(folder.stat().st_mtime for folder in home.iterdir())
    for folder in home.iterdir():
        if _KEY.fullmatch(folder.name) and folder.stat().st_mtime < newest - 30 * 86_400:
            shutil.rmtree(folder, ignore_errors=True)


_KEY = re.compile("[0-9a-f]{16}")


def _has_source(function: Callable[..., Any]) -> bool:
    """Whether a function depends on source files only: false in notebook cells, and for functions with closures."""
    return Path(inspect.getfile(function)).is_file() and not function.__closure__ and function not in _UNCACHED


def _identity(function: Callable[..., Any]) -> str:
    if not _has_source(function):
        return f"{function.__qualname__} at {id(function)}"
    return f"{function.__qualname__} line {function.__code__.co_firstlineno} of {source_key(_file(function))}"


def cache_home() -> Path:
    """Return the folder of the cache."""
    if given := os.environ.get("VOLTRADE_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "voltrade"


def source_key(file: Path) -> str:
    """Return a hash of the files of `sources_of` and of the versions of Python, numba and numpy.

    Other files than voltrade's count by their path relative to the first file, so that a copy of a rule file reuses the
    compiled code. The hash of a file of voltrade, whose sources are all voltrade's, is kept until one of them changes.
    """
    known = _keys.get(file)
    if known is not None and all(_stat(path) == stat for path, stat in known.stats.items()):
        return known.key
    sources = sources_of(file)
    key = _key_of(file, sources)
    if _package_path(file):
        _keys[file] = _Key(key, {path: _stat(path) for path in sources})
    return key


class _Key(NamedTuple):
    key: str
    stats: dict[Path, tuple[int, ...]]
    """Size and times of each source."""


_keys: dict[Path, _Key] = {}


def _key_of(file: Path, sources: set[Path]) -> str:
    digest = hashlib.sha256(f"{sys.version} numba {numba.__version__} numpy {np.__version__}".encode())
    home = file.resolve().parent
    names = {_package_path(path) or os.path.relpath(path, home): path for path in sources}
    for name, path in sorted(names.items()):
        digest.update(name.encode() + b"\0" + _source(path).digest + b"\0")
    return digest.hexdigest()[:16]


class _Source(NamedTuple):
    digest: bytes
    imports: tuple[tuple[int, str], ...]
    """The modules that it may import: the number of leading dots, and the name."""


def _source(path: Path) -> _Source:
    """Return digest and imports of a file. A file of voltrade is read again only if its size or times have changed."""
    return _read_own(path, *_stat(path)) if _package_path(path) else _read(path)


def _stat(path: Path) -> tuple[int, ...]:
    """Return size and times of a file, which change when it is edited."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@cache
def _read_own(path: Path, *stat: int) -> _Source:
    return _read(path)


def _read(path: Path) -> _Source:
    content = path.read_bytes()
    return _Source(hashlib.sha256(content).digest(), _imported_names(content, path.name))


@cache
def _package_path(path: Path) -> str:
    """Return the path of a file of voltrade, from the package's folder on; empty for other files."""
    return str(path.relative_to(_PACKAGE.parent)) if path.is_relative_to(_PACKAGE) else ""


def sources_of(file: Path) -> set[Path]:
    """Return a file and every file that it imports directly or indirectly, without those of installed packages.

    A module is searched beside the first file, then among the loaded modules.

    Raises:
        SyntaxError: a file is not valid Python.
    """
    found: set[Path] = set()
    waiting = [file.resolve()]
    home = waiting[0].parent
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imported(path, home))
    return found


def _cache_folder(function: Callable[..., Any]) -> Path | None:
    """Return the folder for a function's compiled code; None without a source file, or if none can be written."""
    if not _has_source(function):
        return None
    try:
        folder = cache_home() / source_key(_file(function))
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _delete_old_code(cache_home())
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return folder if os.access(folder, os.W_OK) else None


def is_kept() -> bool:
    """Return whether the next process finds what is compiled in this one; true where nothing is compiled."""
    return IS_PLAIN or _cache_folder(is_kept) is not None


def _file(function: Callable[..., Any]) -> Path:
    return Path(inspect.getfile(function))


def _imported(file: Path, home: Path) -> Iterator[Path]:
    """Yield the files that a file imports. For voltrade's own files the result doesn't depend on `home`."""
    for level, name in _source(file).imports:
        if name.partition(".")[0] == _PACKAGE.name and not level:
            # `voltrade/__init__.py` imports everything: in voltrade's own files only the imported modules count.
            yield from () if name == _PACKAGE.name and _package_path(file) else _module_file(name)
            continue
        if _package_path(file) and not level:
            continue
        beside = neighbours(home, name) if not level else _files_of(file.parents[level - 1], name)
        loaded = getattr(sys.modules.get(name), "__file__", None)
        for path in beside or ([Path(loaded).resolve()] if loaded and not level else []):
            if _is_own(path):
                yield path


@cache
def _module_file(name: str) -> tuple[Path, ...]:
    """Return the file of a module of voltrade; empty if the name is a member of a module."""
    place = _PACKAGE.parent.joinpath(*name.split("."))
    return tuple(path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file())[:1]


def neighbours(folder: Path, name: str) -> list[Path]:
    """Return the files of a folder that are run when a file beside them imports a module by its dotted name."""
    first = name.partition(".")[0]
    return [] if first in sys.stdlib_module_names or first == _PACKAGE.name else _files_of(folder, name)


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of a module and of the packages that contain it, as far as they are under a folder."""
    found: list[Path] = []
    stem = folder
    for part in name.split("."):
        stem = stem / part
        found += [path for path in (stem / "__init__.py", stem.with_name(f"{part}.py")) if path.is_file()][:1]
    return found


_PARSING = Lock()
"""CPython 3.11 has one global counter of recursion depth in `ast.parse`: two threads that parse at once may fail."""


@cache
def _imported_names(source: bytes, file: str) -> tuple[tuple[int, str], ...]:
    """Return the modules that a source may import, in the form of `_Source.imports`."""
    names: list[tuple[int, str]] = []
    with _PARSING:
        tree = ast.parse(source, file)
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.extend((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names.extend((node.level, name) for name in (base, *(f"{base}.{a.name}".strip(".") for a in node.names)))
    return tuple(dict.fromkeys(name for name in names if name[1]))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements below a node; expressions, which are most of a file, have no imports."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, field, ()):
            yield statement
            yield from _statements(statement)


_PACKAGE = Path(__file__).resolve().parent
_FOREIGN = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_own(path: Path) -> bool:
    """Whether a source file is voltrade's or outside of installed packages, and so can change without a new version."""
    if path.suffix != ".py":
        return False
    return path.is_relative_to(_PACKAGE) or not any(path.is_relative_to(folder) for folder in _FOREIGN)
