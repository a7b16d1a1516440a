"""Runs a rule's file as a module, watched, and once more for comparison: two loads must make the same.

The second module is thrown away. It has the same source and names, but another place, and other states of the
generators of chance that all share, so that a rule that depends on these differs from itself.
"""

from __future__ import annotations

import io
import pickle
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from itertools import takewhile
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType
from typing import NamedTuple

import numpy as np

from voltrade.errors import ConfigError
from voltrade.signal_engine import SignalEngine
from voltrade.strategy.code_hash import texts_of
from voltrade.strategy.load_watch import REQUIREMENT, LoadWatch

ELSEWHERE = Path("/loaded/again/rule")
"""Where the second load finds itself by `__file__`; nothing is there."""

_LOADING = RLock()

RuleOf = Callable[[ModuleType], type[SignalEngine]]
"""Takes the rule from its module, or refuses it."""


class _Files(NamedTuple):
    """A rule's file and those beside it that it imports."""

    name: str
    """Of the rule's module."""
    path: Path
    beside: Sequence[str]

    @property
    def modules(self) -> list[str]:
        return [self.name, *map(_module_name, self.beside)]

    def watch(self) -> LoadWatch:
        folder = self.path.resolve().parent
        places = {self.path.name: self.path, **{place: folder / place for place in self.beside}}
        shown = {str(file): place for place, file in places.items()}
        return LoadWatch(
            shown | {str(ELSEWHERE / place): place for place in places}, {file.resolve() for file in places.values()}
        )


class _Made(NamedTuple):
    """What one load has made."""

    rule: type[SignalEngine]
    defaults: str
    """The settings' defaults."""
    before: tuple[bytes, bytes]
    after: tuple[bytes, bytes]
    """The states of chance before it and after it, of Python and of numpy."""


def load_watched(name: str, path: Path, beside: Sequence[str], rule_of: RuleOf) -> type[SignalEngine]:
    """Load a rule's file, and refuse one whose result its source doesn't decide.

    Args:
        name: of the module.
        path: the file.
        beside: files in its folder that it imports, by their paths there.
        rule_of: returns the rule.

    Raises:
        ConfigError: the file can't be run, or reads what its hash doesn't cover: names the line, or what differed when
            it was loaded again.
    """
    files = _Files(name, path, beside)
    with _LOADING:
        watch = files.watch()
        first = _made(files, watch, None, rule_of, chance=1)
        kept, folders = {each: sys.modules[each] for each in files.modules if each in sys.modules}, list(sys.path)
        try:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                again = _made(files, watch, ELSEWHERE, lambda module: _same_of(module, first.rule), chance=2)
            _refuse_difference(path.name, first, again)
        except ConfigError:
            kept.pop(name, None)
            raise
        finally:
            for each in files.modules:
                sys.modules.pop(each, None)
            sys.modules.update(kept)
            sys.path[:] = folders
            _FINDER.use(path.resolve().parent, beside, None)
    return first.rule


def load_kept(name: str, path: Path, beside: Sequence[str], rule_of: RuleOf) -> type[SignalEngine]:
    """Load the copy that a run keeps, without watching it: the rule was accepted when the run was begun.

    A session that is started again, with a position, isn't stopped by what a newer version would not begin.
    """
    with _LOADING:
        _prepare(_Files(name, path, beside), None)
        return rule_of(_run(name, path, None, None))


def _made(files: _Files, watch: LoadWatch, elsewhere: Path | None, rule_of: RuleOf, chance: int) -> _Made:
    _prepare(files, elsewhere)
    with _chance(chance):
        before = _states()
        rule = rule_of(_run(files.name, files.path, watch, elsewhere))
        defaults = _defaults(rule, watch)
        return _Made(rule, defaults, before, _states())


def _prepare(files: _Files, elsewhere: Path | None) -> None:
    for each in files.modules:
        sys.modules.pop(each, None)
    _FINDER.use(files.path.resolve().parent, files.beside, elsewhere)


def _run(name: str, path: Path, watch: LoadWatch | None, elsewhere: Path | None) -> ModuleType:
    spec = _spec(name, path, elsewhere and elsewhere / path.name)
    sys.modules[name] = module = module_from_spec(spec)
    try:
        with watch.watching() if watch else nullcontext():
            assert spec.loader is not None
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if watch and watch.found:
            raise
        again = f" a second time, from {elsewhere}" if elsewhere else ""
        raise ConfigError(f"rule: {path.name} can't be run{again}: {type(error).__name__}: {error}") from error
    return module


def _same_of(module: ModuleType, rule: type[SignalEngine]) -> type[SignalEngine]:
    found = getattr(module, rule.__name__, None)
    if not (isinstance(found, type) and issubclass(found, SignalEngine)):
        raise ConfigError(f"rule: {rule.__name__} isn't there when it is loaded again: {REQUIREMENT}")
    return found


def _defaults(rule: type[SignalEngine], watch: LoadWatch) -> str:
    """Return the defaults of a rule's settings; empty where it can't have them, which is told where they are made."""
    watch.refuse_factories(rule.settings_type.model_fields, rule.settings_type.__name__)
    try:
        with watch.watching():
            return rule.settings_type().model_dump_json()
    except Exception:  # whatever a rule may raise
        if watch.found:
            raise
        return ""


# --- what differs -----------------------------------------------------------------------------------------------------


def _refuse_difference(file: str, first: _Made, again: _Made) -> None:
    one = {**texts_of(first.rule), "settings": first.defaults}
    other = {**texts_of(again.rule), "settings": again.defaults}
    for name, text in one.items():
        if text != other.get(name):
            what = _name_in(text, other.get(name, "")) or name
            raise ConfigError(f"rule: {file}: {what} differs when it is loaded again: {REQUIREMENT}")
    drawn = zip(again.after, again.before, first.after, strict=True)
    if any(after not in (before, of_first) for after, before, of_first in drawn):
        raise ConfigError(f"rule: {file} draws by chance when it is loaded, without a seed: {REQUIREMENT}")


def _name_in(one: str, other: str) -> str:
    """Return the name of the value at which two texts of `texts_of` begin to differ; empty without one."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    names = re.findall(r"([\w.]+)(?: is |\":)", one[:same])
    return names[-1] if names else ""


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Give the generators of chance that all share a state of their own for a while."""
    kept, of_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(of_numpy)


def _states() -> tuple[bytes, bytes]:
    return pickle.dumps(random.getstate()), pickle.dumps(np.random.get_state())


# --- files as modules -------------------------------------------------------------------------------------------------


class _FromSource(SourceFileLoader):
    """Always compiles the source, and ignores compiled files, because the hash covers only the source."""

    def __init__(self, name: str, file: Path, shown: Path) -> None:
        super().__init__(name, str(file))
        self._shown = str(shown)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self._shown)


def _spec(name: str, file: Path, shown: Path | None) -> ModuleSpec:
    shown = shown or file
    places = [str(shown.parent)] if file.name == "__init__.py" else None
    loader = _FromSource(name, file, shown)
    spec = spec_from_file_location(name, shown, loader=loader, submodule_search_locations=places)
    assert spec is not None
    return spec


class _FinderBeside(MetaPathFinder):
    """Finds the files beside the rule that was loaded last, before other modules of the same name."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Path, Path | None]] = {}

    def use(self, folder: Path, places: Sequence[str], elsewhere: Path | None) -> None:
        """Use these files of a folder for imports from now on; those of `elsewhere` are shown as lying there."""
        self._files = {
            _module_name(place): (folder / place, elsewhere / place if elsewhere else None) for place in places
        }
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = self._files.get(fullname)
        return None if found is None else _spec(fullname, *found)


def _module_name(place: str) -> str:
    return ".".join(Path(place).with_suffix("").parts).removesuffix(".__init__")


_FINDER = _FinderBeside()
