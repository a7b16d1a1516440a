"""The one decorator that compiles the rules: bars, indicators, signals, risk and execution.

Numba keeps compiled code on disk, but it notices only an edit of the very file a function stands in: after an edit of a
function or constant that it uses from another file it would run the old rule. So the code is kept in a folder named by
the hash of every source file that the function's file imports, directly or not. No fast-math and no threads:
compiled and plain Python give the same bits.

The folder is `$VOLTRADE_CACHE`, else `$XDG_CACHE_HOME/voltrade`, else `~/.cache/voltrade`. Where it can't be
written, functions are compiled anew in each process.

Under `VOLTRADE_PLAIN=1` nothing is compiled: every rule runs as plain Python, so that a debugger can step through it.
It gives the same bits, hundreds of times slower.
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
from functools import cache
from pathlib import Path
from threading import Lock
from types import FunctionType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakSet

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import event
from numba.extending import intrinsic, overload

Rows = npt.NDArray[np.void]
"""Rows of a structured dtype; state is one such row, changed in place."""
Record = Any
"""One row, fields by name: `bar.close`. Compiled code and numpy share its memory."""

IS_PLAIN = os.environ.get("VOLTRADE_PLAIN", "") not in ("", "0")
"""Whether rules run as plain Python."""

P = ParamSpec("P")
R = TypeVar("R")


BARE = {"_nrt": False, "error_model": "numpy"}
"""Options for code that makes no arrays: it does not count references to those that pass through it, which its caller
holds (counting is atomic, and took nearly half of a session's time), and doesn't look for divisions by zero."""

_WITHOUT_ENTRY = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call for each set of argument types; the compiled code is cached on disk.

    The plain function stays reachable as `.py_func`.
    """
    return cast(Callable[P, R], compile_for(function, None))


def compiled_part(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only compiled code calls, and that makes no arrays.

    It gets no entry from Python, and is `BARE`.
    """
    return cast(Callable[P, R], compile_for(function, None, **BARE, **_WITHOUT_ENTRY))


def compiled_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile like `compiled_part`, into each function that calls it: where handing over the arguments costs more."""
    return cast(Callable[P, R], compile_for(function, None, inline="always", **BARE, **_WITHOUT_ENTRY))


def compile_for(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """Compile a function, at once if a numba signature is given, through the cache of its sources.

    A function that is compiled already is returned as it is; so is every function under `VOLTRADE_PLAIN=1`, or
    where numba is told to compile nothing.
    """
    if hasattr(function, "py_func") or IS_PLAIN or numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    folder = _cache_folder(function)
    if folder is None:
        return _one_for_all_constants(numba.njit(signature, **options)(function))
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)  # read by numba while it decorates, not later
    try:
        return _one_for_all_constants(numba.njit(signature, cache=True, **options)(function))
    finally:
        settings.CACHE_DIR = before


def _one_for_all_constants(dispatcher: Any) -> Any:
    """Compile for the types of arguments alone: numba would compile anew for each constant that a call names."""
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
        builder.call(instruction, [place, number(0), number(3), number(1)])  # to be read, and kept near; it is data
        return context.get_dummy_value()

    return types.void(column, types.intp), generate


def prefetch(column: npt.NDArray[Any], row: int) -> None:
    """Prefetch a row into the cache. The row need not exist; in plain Python this does nothing."""


@overload(prefetch, strict=False)
def _compiled_prefetch(column: Any, row: Any) -> Any:
    intrinsic: Any = _prefetch
    return lambda column, row: intrinsic(column, row)


class _Announcement(event.Listener):
    """Says once that something is being compiled: a first run may take a minute that later ones don't."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            # A notebook shows what comes from stderr in red, as it does what failed.
            is_notebook = hasattr(builtins, "__IPYTHON__")
            out = sys.stdout if is_notebook else sys.stderr
            print(f"compiling rules; later runs find them in {cache_home()}", file=out, flush=True)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


def record_dtype(fields: list[tuple[Any, ...]]) -> np.dtype[Any]:
    """A structured dtype with the layout of C, whose rows give their fields by name, plain as well as compiled."""
    return _record_dtype(tuple(fields))


@cache
def _record_dtype(fields: tuple[tuple[Any, ...], ...]) -> np.dtype[Any]:
    return np.dtype((np.record, np.dtype(list(fields), align=True)))


def rows_of(dtype: np.dtype[Any]) -> Any:
    """The numba type of an array of records."""
    return types.Array(numba.from_dtype(dtype), 1, "C")


def restored(dtype: np.dtype[Any], saved: bytes) -> Rows:
    """Read rows back from their `tobytes`. (A structured copy would leave the bytes between fields undefined.)"""
    return np.frombuffer(bytearray(saved), dtype)


def plain(function: Callable[P, R]) -> Callable[P, R]:
    """The plain Python function under a compiled one."""
    return cast(Callable[P, R], getattr(function, "py_func", function))


def bind(function: Callable[..., Any], **functions: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a plain function in which global names mean the given functions.

    This is how a rule reaches a compiled loop: as a constant of it. Passed as a first-class function instead, each
    call of the loop would cost 150 µs, not 1 (measured). The copy's name carries what is bound, so that the cache tells
    copies apart.
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
"""Copies that hold a function whose changes could not be noticed."""


def _forget_old(home: Path) -> None:
    """Delete the code of sources that nobody has compiled for a month; each edit of a rule leaves a folder behind."""
    newest = max(folder.stat().st_mtime for folder in home.iterdir())
    for folder in home.iterdir():
        if _KEY.fullmatch(folder.name) and folder.stat().st_mtime < newest - 30 * 86_400:
            shutil.rmtree(folder, ignore_errors=True)


_KEY = re.compile("[0-9a-f]{16}")


def _has_source(function: Callable[..., Any]) -> bool:
    """Whether a file says all about a function: not a notebook cell's, and not one that closes over values."""
    return Path(inspect.getfile(function)).is_file() and not function.__closure__ and function not in _UNCACHED


def _identity(function: Callable[..., Any]) -> str:
    if not _has_source(function):
        return f"{function.__qualname__} at {id(function)}"
    return f"{function.__qualname__} line {function.__code__.co_firstlineno} of {source_key(_file(function))}"


def cache_home() -> Path:
    """The folder that all compiled code is kept under."""
    if given := os.environ.get("VOLTRADE_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "voltrade"


def source_key(file: Path) -> str:
    """Hash a source file and every file of ours that it imports, directly or not, with the versions beneath them.

    Files count by where they stand from the first one, so that a copy of a rule runs what was compiled for it before.
    """
    digest = hashlib.sha256(f"{sys.version} numba {numba.__version__} numpy {np.__version__}".encode())
    home = file.resolve().parent
    names = {_place(path) or os.path.relpath(path, home): path for path in sources_of(file)}
    for name, path in sorted(names.items()):
        digest.update(name.encode() + b"\0" + _source(path).digest + b"\0")
    return digest.hexdigest()[:16]


class _Source(NamedTuple):
    digest: bytes
    imports: tuple[tuple[int, str], ...]
    """Every module that it may import: the number of dots before its name, and the name."""


def _source(path: Path) -> _Source:
    """What a file says now. Ours are many, and are read again only where the file system knows of a change."""
    if _place(path):
        known = path.stat()
        return _read_ours(path, known.st_size, known.st_mtime_ns, known.st_ctime_ns)
    return _read(path)


@cache
def _read_ours(path: Path, *known: int) -> _Source:
    return _read(path)


def _read(path: Path) -> _Source:
    content = path.read_bytes()
    return _Source(hashlib.sha256(content).digest(), _imported_names(content, path.name))


@cache
def _place(path: Path) -> str:
    """Where a file of voltrade stands in the package; empty for another's."""
    return str(path.relative_to(_PACKAGE.parent)) if path.is_relative_to(_PACKAGE) else ""


def sources_of(file: Path) -> set[Path]:
    """Return a file and every file of ours that it imports, directly or not.

    What a name means is looked for beside the first file, then among the modules that are loaded.

    Raises:
        SyntaxError: one of them is no Python.
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
    """The folder for a function's compiled code; none for code without a source file, or where none can be written."""
    if not _has_source(function):
        return None
    try:
        folder = cache_home() / source_key(_file(function))
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _forget_old(cache_home())
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _file(function: Callable[..., Any]) -> Path:
    return Path(inspect.getfile(function))


def _imported(file: Path, home: Path) -> Iterator[Path]:
    """The files of ours that a file's imports mean. What voltrade's own files mean does not hang on who asks."""
    for level, name in _source(file).imports:
        if name.partition(".")[0] == _PACKAGE.name and not level:
            # The package itself names everything; its files mean the rooms that they name beside it.
            yield from () if name == _PACKAGE.name and _place(file) else _room(name)
            continue
        if _place(file) and not level:
            continue
        beside = neighbours(home, name) if not level else _files_of(file.parents[level - 1], name)
        loaded = getattr(sys.modules.get(name), "__file__", None)
        for path in beside or ([Path(loaded).resolve()] if loaded and not level else []):
            if _is_ours(path):
                yield path


@cache
def _room(name: str) -> tuple[Path, ...]:
    """The file of a module of voltrade; none where the name is that of something in one."""
    place = _PACKAGE.parent.joinpath(*name.split("."))
    return tuple(path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file())[:1]


def neighbours(folder: Path, name: str) -> list[Path]:
    """The files in a folder that run where a file beside them imports a module by its dotted name."""
    first = name.partition(".")[0]
    return [] if first in sys.stdlib_module_names or first == _PACKAGE.name else _files_of(folder, name)


def _files_of(folder: Path, name: str) -> list[Path]:
    """The packages around a module, and the module, as far as they are files under a folder."""
    found: list[Path] = []
    stem = folder
    for part in name.split("."):
        stem = stem / part
        found += [path for path in (stem / "__init__.py", stem.with_name(f"{part}.py")) if path.is_file()][:1]
    return found


_PARSING = Lock()
"""CPython 3.11 counts the depth of all trees that it makes in one place: two threads that parse at once may fail."""


@cache
def _imported_names(source: bytes, file: str) -> tuple[tuple[int, str], ...]:
    """Every module that a source may import, as `_Source` has them."""
    names: list[tuple[int, str]] = []
    with _PARSING:
        tree = ast.parse(source, file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names.extend((node.level, name) for name in (base, *(f"{base}.{a.name}".strip(".") for a in node.names)))
    return tuple(dict.fromkeys(name for name in names if name[1]))


_PACKAGE = Path(__file__).resolve().parent
_FOREIGN = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_ours(path: Path) -> bool:
    """Whether a source can change without a new version of a package: voltrade, or a file outside of the library."""
    if path.suffix != ".py":
        return False
    return path.is_relative_to(_PACKAGE) or not any(path.is_relative_to(folder) for folder in _FOREIGN)
