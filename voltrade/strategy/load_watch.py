"""Watches a rule's files while they are loaded, for what their hash does not cover: files, the clock, chance.

A weight that is read from a file beside the rule, drawn by chance, or taken from the clock or the environment, is a
constant for the rule's steps: `code_reader` finds nothing wrong with it. But a run keeps the rule's source alone, so
the same rule, by its hash, would trade otherwise another time.

What happens is observed, not guessed from names: Python tells of every file, folder, connection and process that is
opened, by whatever function (audit events), and of each instruction of the rule's own files that is executed, whose
names are resolved to the objects that they stand for at that moment. `load_again` compares two loads.
"""

from __future__ import annotations

import builtins
import datetime
import dis
import genericpath
import importlib
import locale
import os
import platform
import random
import secrets
import sys
import sysconfig
import threading
import time
import uuid
import zoneinfo
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from multiprocessing.context import BaseContext
from pathlib import Path, PurePath
from types import CodeType, FrameType, ModuleType
from typing import Any

import numba
import numpy as np
import pydantic.plugin

from voltrade import compiled
from voltrade.errors import ConfigError
from voltrade.strategy.code_reader import CLOCK_WORDS

REQUIREMENT = "a rule's file may run only what its source decides, since a run keeps nothing else of it"

_READ = ("open", "os.listdir", "os.scandir")
_EVENTS = (
    *("os.", "glob.", "pathlib.", "shutil.", "tempfile.", "fcntl.", "pty."),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "webbrowser."),
    *("subprocess.", "sqlite3.", "mmap.", "ctypes.dlopen", "_thread.start_new_thread", "builtins.input"),
)
"""Audit events, or how their names begin, that a load may not cause, besides reading what is installed."""

INSTALLED = tuple(
    Path(folder).resolve()
    for folder in (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
                   *zoneinfo.TZPATH)
)  # fmt: skip
"""Folders of installed packages and of time zones, whose files depend on versions only."""

_TRUSTED = tuple(
    str(Path(str(module.__file__)).parent) + os.sep for module in (numba, pydantic.plugin)
)  # fmt: skip
"""Folders of packages that look after their own caches and plug-ins, whatever a rule does."""

_DATA = {id(value): name for name, value in (("os.environ", os.environ), ("sys.argv", sys.argv))}
_C_FUNCTIONS = {
    *(getattr(time, name) for name in dir(time) if name.endswith(("time", "time_ns", "counter", "counter_ns"))
      and not name.startswith(("mk", "strp", "strf", "asc"))),
    *(time.monotonic, time.monotonic_ns, os.urandom, os.getpid, os.getppid, os.getcwd, os.cpu_count, os.stat, os.lstat),
    *(os.access, os.times, os.uname, uuid.uuid1, uuid.uuid4, importlib.import_module, builtins.__import__),
}  # fmt: skip
_C_FUNCTIONS |= {threading.get_ident, threading.get_native_id}
_WITHOUT_TIME = {time.localtime, time.gmtime, time.ctime, time.asctime}
_C_FUNCTIONS -= _WITHOUT_TIME
"""Functions that tell the time only where they are given none."""

_PATH_QUESTIONS = ("exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "cwd", "home", "owner")
_PYTHON_FUNCTIONS: dict[CodeType, str] = {
    function.__code__: name
    for name, function in (
        ("os.getenv", os.getenv), ("uuid.uuid1", uuid.uuid1), ("uuid.uuid4", uuid.uuid4),
        *((f"os.path.{name}", getattr(genericpath, name)) for name in genericpath.__all__ if name.startswith(
            ("exists", "lexists", "is", "get"))),
        *((f"Path.{name}", getattr(getattr(Path, name), "__func__", getattr(Path, name))) for name in _PATH_QUESTIONS),
        *((f"platform.{name}", getattr(platform, name)) for name in ("node", "platform", "uname", "system", "machine")),
        ("locale.getlocale", locale.getlocale), ("multiprocessing.cpu_count", BaseContext.cpu_count),
        *((f"secrets.{name}", getattr(secrets, name)) for name in ("token_bytes", "token_hex", "randbelow")),
    )
    if hasattr(function, "__code__")
}  # fmt: skip
"""Functions of Python that read the outside without an audit event, by their code."""

_SEEDED: tuple[Any, ...] = (random.Random, np.random.default_rng, np.random.RandomState, np.random.SeedSequence)
_READERS = frozenset({"pyarrow", "polars", "h5py", "duckdb", "fastparquet"})
"""Packages that open files in machine code, of which no audit event tells."""
_PANDAS_READERS = ("read_parquet", "read_feather", "read_orc", "read_hdf")
"""Functions of pandas that use one of these."""
_LOADS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS",
          "LOAD_FROM_DICT_OR_DEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW")  # fmt: skip
_UNKNOWN, _NONE_GIVEN = object(), object()


class LoadWatch:
    """Notes the first thing that a rule's files do while they run in `watching`, and refuses it there."""

    def __init__(self, files: Mapping[str, str], readable: set[Path]) -> None:
        """Watch some files.

        Args:
            files: names of the rule's files, by the names that their code has.
            readable: files that the rule's hash covers.
        """
        self._files, self._readable = files, readable
        self._seen: set[tuple[CodeType, int]] = set()
        self.found = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread.

        Raises:
            ConfigError: names the file, the line and what it uses, whatever else was raised.
        """
        _add_hook()
        token, traced = _WATCH.set(self), sys.gettrace()
        sys.settrace(self._on_trace)
        try:
            yield
        finally:
            sys.settrace(traced)
            _WATCH.reset(token)
            if self.found:
                raise ConfigError(self.found)

    def refuse_factories(self, fields: Mapping[str, Any], where: str) -> None:
        """Refuse a setting whose default a function of `_C_FUNCTIONS` gives, which nothing else tells of.

        Raises:
            ConfigError: names the setting.
        """
        for name, field in fields.items():
            factory = field.default_factory
            if factory is not None and (_is_clock(factory) or getattr(factory, "__code__", 0) in _PYTHON_FUNCTIONS):
                raise ConfigError(f"rule: {name} of {where} is given by {factory.__name__}: {REQUIREMENT}")

    def _note(self, frame: FrameType, what: str) -> None:
        where = f"{self._files[frame.f_code.co_filename]} line {frame.f_lineno}"
        self.found = self.found or f"rule: {where} {what} when it is loaded: {REQUIREMENT}"

    # --- audit events ------------------------------------------------------------------------------------------------

    def on_event(self, event: str, args: tuple[Any, ...], frame: FrameType) -> None:
        """Take an audit event.

        Raises:
            ConfigError: the rule has caused it, and may not.
        """
        if event == "builtins.id":
            culprit = frame if frame.f_code.co_filename in self._files else None
        else:
            is_free = event in _READ and self._may_read(frame, *args[:2])
            culprit = None if is_free else self._culprit(frame)
        if culprit is not None:
            self._note(culprit, _told(event, args))
            raise ConfigError(self.found)

    def _may_read(self, frame: FrameType, path: object, mode: object = None) -> bool:
        is_writing = isinstance(mode, str) and not set(mode) <= set("rbtU")
        if is_writing or not isinstance(path, str | bytes | PurePath):
            return False
        place = Path(os.fsdecode(path)).resolve()
        is_machine = frame.f_code.co_filename not in self._files and place.is_relative_to("/sys")
        return is_machine or place in self._readable or any(place.is_relative_to(folder) for folder in INSTALLED)

    def _culprit(self, frame: FrameType | None) -> FrameType | None:
        """Return the frame of the rule that did it; None where the import system or another of our own did."""
        while frame is not None:
            code = frame.f_code
            if code.co_filename in self._files:
                return frame
            is_importing = code.co_name == "_find_and_load" and code.co_filename == "<frozen importlib._bootstrap>"
            if is_importing or code.co_filename == compiled.__file__ or code.co_filename.startswith(_TRUSTED):
                return None
            frame = frame.f_back
        return None

    # --- what is executed --------------------------------------------------------------------------------------------

    def _on_trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files:
            caller = frame.f_back
            if caller is not None and caller.f_code.co_filename in self._files:
                self._on_call(code, frame, caller)
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and (code, frame.f_lasti) not in self._seen:
            self._seen.add((code, frame.f_lasti))
            self._on_instruction(code, frame)
        return self._on_trace

    def _on_call(self, code: CodeType, frame: FrameType, caller: FrameType) -> None:
        if code in _PYTHON_FUNCTIONS:
            self._note(caller, f"uses {_PYTHON_FUNCTIONS[code]}")
        elif code is random.Random.__init__.__code__ and frame.f_locals.get("x") is None:
            self._note(caller, f"uses {type(frame.f_locals.get('self')).__name__} without a seed")

    def _on_instruction(self, code: CodeType, frame: FrameType) -> None:
        steps, places = _instructions(code)
        first = places.get(frame.f_lasti, -1)
        is_attribute = first >= 0 and steps[first].opname in ("LOAD_ATTR", "LOAD_METHOD")
        if is_attribute and steps[first].argval == "__hash__" != code.co_name:
            self._note(frame, "uses __hash__")
        if first < 0 or steps[first].opname not in _LOADS:
            return
        path = str(steps[first].argval)
        spaces: tuple[Mapping[str, Any], ...] = (frame.f_locals, frame.f_globals, frame.f_builtins)
        value = next((space[path] for space in spaces if path in space), None)
        last = first
        while isinstance(value, ModuleType | type) and steps[last + 1].opname in ("LOAD_ATTR", "LOAD_METHOD"):
            last += 1
            path = f"{path}.{steps[last].argval}"
            value = getattr(value, str(steps[last].argval), None)
            if id(value) in _DATA:
                break
        if id(value) in _DATA:
            self._note(frame, f"uses {_DATA[id(value)]}")
        elif _is_called(steps, first, last) and not (value is hash and code.co_name == "__hash__"):
            what = _outside(value, _first_argument(steps[last + 1 :]))
            if what is not None:
                self._note(frame, f"uses {path}{what}")


def _told(event: str, args: tuple[Any, ...]) -> str:
    if event == "open":
        return f"opens {args[0]}"
    if event in _READ:
        return f"lists {args[0]}"
    return f"uses {event.removeprefix('builtins.')}"


# --- what reads the outside -------------------------------------------------------------------------------------------


def _outside(value: Any, argument: object) -> str | None:
    """Return what a call of an object is for the text, where its result isn't decided by its arguments."""
    is_empty = argument is _NONE_GIVEN or argument is None
    if _is_clock(value) or value is hash or (_in(value, _WITHOUT_TIME) and is_empty):
        return ""
    if is_empty and (_in(value, _SEEDED) or (isinstance(value, type) and issubclass(value, np.random.BitGenerator))):
        return " without a seed"
    module, name = str(getattr(value, "__module__", "")).partition(".")[0], str(getattr(value, "__name__", ""))
    if module in ("numpy", "pandas") and isinstance(argument, str) and argument.strip().lower() in CLOCK_WORDS:
        return f" of {argument!r}"
    is_reader = module in _READERS and name.startswith(("read", "scan", "open", "memory_map", "OSFile"))
    return "" if is_reader or (module == "pandas" and name in _PANDAS_READERS) else None


def _is_clock(value: Any) -> bool:
    owner, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
    is_now = isinstance(owner, type) and issubclass(owner, datetime.date) and name in ("now", "today", "utcnow")
    return is_now or _in(value, _C_FUNCTIONS) or getattr(value, "__module__", "") in ("secrets", "getpass")


def _in(value: object, known: Any) -> bool:
    return any(value is each for each in known)


# --- instructions -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _instructions(code: CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    """Return the instructions of a code, and their places by offset."""
    steps = list(dis.get_instructions(code))
    return steps, {step.offset: place for place, step in enumerate(steps)}


def _is_called(steps: list[dis.Instruction], first: int, last: int) -> bool:
    """Whether what was loaded by these instructions is called, not only named."""
    beside = steps[last + 1] if sys.version_info >= (3, 13) else steps[max(first - 1, 0)]
    marks = ("LOAD_METHOD", "PUSH_NULL")
    return any(step.opname in marks or "NULL" in step.argrepr for step in (beside, *steps[first : last + 1]))


def _first_argument(steps: list[dis.Instruction]) -> object:
    """Return a constant that is the first argument; `_NONE_GIVEN` without arguments, `_UNKNOWN` for another."""
    after = next(step for step in steps if step.opname not in ("PUSH_NULL", "PRECALL"))
    if after.opname == "LOAD_CONST":
        constant: object = after.argval
        return constant
    return _NONE_GIVEN if after.opname == "CALL" and after.argval == 0 else _UNKNOWN


# --- the hook ---------------------------------------------------------------------------------------------------------

_WATCH: ContextVar[LoadWatch | None] = ContextVar("load watch", default=None)
_is_added = False


def _add_hook() -> None:
    """Add the audit hook, which stays for the life of the process and does nothing while no rule is loaded."""
    global _is_added
    if not _is_added:
        _is_added = True
        sys.addaudithook(_on_audit)


def _on_audit(event: str, args: tuple[Any, ...]) -> None:
    watch = _WATCH.get()
    if watch is not None and (event in _READ or event == "builtins.id" or event.startswith(_EVENTS)):
        token = _WATCH.set(None)  # what the watch itself does isn't the rule's
        try:
            watch.on_event(event, args, sys._getframe(1))
        finally:
            _WATCH.reset(token)
