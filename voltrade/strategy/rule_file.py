"""Rule files: a user's own rule in a Python file, which is found, checked, loaded, and copied into each run.

`read_parameters` reads parameters everywhere where they can name a rule file. A run copies the file, and the files
beside it that it imports, into its folder, and writes their hash into its journal. Engine, replay and review load that
copy, so that later edits of the original don't change a run. Research loads the original.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from voltrade import compiled
from voltrade.config import Config, SignalSettings, refuse_secrets
from voltrade.errors import ConfigError
from voltrade.model import Instrument
from voltrade.signal_engine import SignalEngine, refuse_other_overrides
from voltrade.strategy import parameter_file
from voltrade.strategy.code_reader import refuse_other_data
from voltrade.strategy.load_again import load_kept, load_watched

COPY_FOLDER = "rule"
"""Folder of the copy inside a run's folder."""

_PACKAGE = Path(compiled.__file__).parent


# --- reading parameters -----------------------------------------------------------------------------------------------


def read_parameters(
    parameters: Mapping[str, object] | None = None,
    /,
    *,
    run: Path | None = None,
    sha256: str | None = None,
    explicit: Collection[str] = (),
    makes_bars: bool = True,
    tries_rule: bool = True,
    **more: object,
) -> Config:
    """Build the settings from flat parameters; `rule` may name a rule file, whose settings are parameters too.

    `parameters_file` may name a file that the explorer has saved. The rule is compiled and tried out here: what it
    knows, keeps or returns wrongly is refused before anything is written; an exception that it raises at a bar is told
    in the session (`RULE_FAILED`). Without a `threshold`, or with 0, the symbol's own is taken
    (`data.symbol_threshold`); modes `demo` and `live` want one that is given.

    Args:
        parameters: Values by name; those in `more` replace them.
        run: Folder of a run, whose copy of the rule is used.
        sha256: Required hash of the copy.
        explicit: Names of parameters that the user gave; one that differs from the parameter file is refused, even
            if it is the default.
        makes_bars: Whether the settings are for bars at all; else a threshold that isn't given stays the default.
        tries_rule: Whether the rule is compiled and tried out; a run that goes on has done so when it was begun.

    Raises:
        ConfigError: Names every parameter that is unknown, of the wrong type, out of bounds, or looks like a secret; or
            says what is wrong with the rule file, or that the symbol has no threshold of its own.
    """
    given = without_zero(parameter_file.without_hash({**(parameters or {}), **more}))
    name = given.pop(parameter_file.PARAMETER, "")
    saved = parameter_file.read(name) if name else {}
    rule_sha256 = saved.pop(parameter_file.RULE_SHA256, None) or given.pop(parameter_file.RULE_SHA256, None)
    refuse_secrets(given)
    rule_name = {**given, **saved}.get("rule", "")
    rule = load_rule(rule_name, sha256, run)
    if rule_sha256:
        RuleFile.named(rule_name, run).refuse_other_than(str(rule_sha256), "the parameters were saved with")
    if saved:
        given = parameter_file.merged(saved, given, name, Config(signals=rule.settings_type()), explicit)
    config = Config.from_parameters(given, signals=rule.settings_type)
    if makes_bars and "threshold" not in given:
        from voltrade.data.symbol_threshold import with_symbol_threshold  # only where it is needed, see below

        config = with_symbol_threshold(config)
    if config.session.rule and tries_rule:
        from voltrade.strategy.check import try_rule  # only where it is needed: a start waits for every import

        rule.program_for(config.signals)
        try_rule(rule, config.signals)
    return config


def without_zero(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without a threshold of 0, which stands for the symbol's own."""
    is_zero = not isinstance(given.get("threshold"), bool) and given.get("threshold") == 0
    return {name: value for name, value in given.items() if name != "threshold" or not is_zero}


def signal_engine_of(config: Config, instrument: Instrument, run: Path | None = None) -> SignalEngine:
    """Make the signal engine of the settings; with a run's folder, from the run's copy of the rule.

    Raises:
        ConfigError: The rule file is missing or broken.
    """
    return load_rule(config.session.rule, run=run)(config.signals, instrument)


def compile_own(engine: SignalEngine) -> None:
    """Compile the rule of an engine, whether or not rules begin as plain Python in this task; see `plain_start`."""
    Context().run(type(engine).program_for, engine.settings)


def load_rule(name: object, sha256: str | None = None, run: Path | None = None) -> type[SignalEngine]:
    """Load a rule, such as `rules/adx.py:Adx`; an empty name is the built-in rule.

    Args:
        name: A path, relative to the current folder or one above it; a colon; the name of the class.
        sha256: Required hash of the file and the files that it imports.
        run: Folder of a run, whose copy is loaded.

    Raises:
        ConfigError: The file or class is missing, the class is no SignalEngine, the rule uses other data than its
            arguments, or the file can't be run, imports files from another folder, or has another hash.
    """
    if name == "":
        return SignalEngine
    file = RuleFile.named(name, run)
    if sha256 is not None:
        file.refuse_other_than(sha256)
    return file.load()


def was_edited(name: str, sha256: str) -> bool:
    """Whether a rule file has another hash now; False for a file that is missing."""
    try:
        return bool(name) and RuleFile.named(name).sha256 != sha256
    except ConfigError:
        return False


def keep_rule(config: Config, run: Path) -> dict[str, str]:
    """Copy the rule file of a new run into the run's folder; return its hash for `run.json`.

    Raises:
        ConfigError: The rule file is missing.
    """
    if not config.session.rule:
        return {}
    original = RuleFile.named(config.session.rule)
    for name, source in original.sources.items():
        copy = run / COPY_FOLDER / name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy.write_bytes(source)
    return {"rule_sha256": RuleFile.named(config.session.rule, run).sha256}


# --- rule file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule file, which may import files and packages in the same folder."""

    path: Path
    class_name: str
    is_kept: bool = False
    """Whether it is the copy that a run keeps, which was watched when the run was begun."""

    @staticmethod
    def named(name: object, run: Path | None = None) -> RuleFile:
        """Find a rule file by its name, or the copy in a run's folder.

        Raises:
            ConfigError: The name is invalid, or there is no such file.
        """
        path, _, class_name = name.rpartition(":") if isinstance(name, str) else ("", "", "")
        if not path.endswith(".py") or not class_name.isidentifier():
            raise ConfigError(f"rule: must be the path of a Python file, a colon and a class name, was {name!r}")
        here = Path.cwd()
        places = (
            (run / COPY_FOLDER / Path(path).name,) if run else tuple(folder / path for folder in (here, *here.parents))
        )
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ConfigError(f"rule: {path} must be a file, is none in {places[0].parent}{' or above' * (not run)}")
        return RuleFile(found.absolute(), class_name, run is not None)

    @property
    def sources(self) -> dict[str, bytes]:
        """The contents of the file and of the files beside it that it imports, by their path in the folder.

        Not those of voltrade itself, which may lie beside a rule too: in the project's own folder.

        Raises:
            ConfigError: A file is not valid Python.
        """
        folder = self.path.resolve().parent
        beside = [
            path for path in self._imported() if path.is_relative_to(folder) and not path.is_relative_to(_PACKAGE)
        ]
        places = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(beside)}
        return {self.path.name: self.path.read_bytes(), **places}

    @property
    def sha256(self) -> str:
        """Hash of all contents and their paths, 64 hex digits."""
        digest = hashlib.sha256()
        for name, source in sorted(self.sources.items()):
            digest.update(f"{name}\0{len(source)}\0".encode() + source)
        return digest.hexdigest()

    def refuse_other_than(self, sha256: str, whose: str = "the run was begun with") -> None:
        """Refuse a file with another hash.

        Args:
            sha256: The required hash.
            whose: Where the hash comes from, for the error.

        Raises:
            ConfigError: The hash differs.
        """
        if self.sha256 != sha256:
            raise ConfigError(
                f"rule: {self.path} must be the one that {whose}, of hash {sha256 or 'none'}, is {self.sha256}"
            )

    def load(self) -> type[SignalEngine]:
        """Run the file and return the rule; a file that has not changed is not run again.

        Raises:
            ConfigError: The file can't be run, lacks the rule, imports files that can't be copied with a run, or reads
                what its hash doesn't cover (`load_watched`).
        """
        key = (self, self.sha256)
        if key not in _LOADED:
            name = f"voltrade_rule_{self.path.stem}_{self.sha256[:8]}"
            beside = [place for place in self.sources if place != self.path.name]
            load = load_kept if self.is_kept else load_watched
            _LOADED[key] = load(name, self.path, beside, self._rule_of)
        return _LOADED[key]

    def _rule_of(self, module: ModuleType) -> type[SignalEngine]:
        rule = getattr(module, self.class_name, None)
        if not (isinstance(rule, type) and issubclass(rule, SignalEngine)):
            raise ConfigError(f"rule: {self.class_name!r} must be a SignalEngine of {self.path.name}")
        if not issubclass(rule.settings_type, SignalSettings):
            raise ConfigError(f"rule: settings_type of {self.class_name} must be a kind of SignalSettings")
        refuse_other_overrides(rule)
        refuse_other_data(rule)
        refuse_secrets(dict.fromkeys(rule.settings_type.model_fields))
        folder = self.path.resolve().parent
        for path in sorted(self._imported()):
            if not path.is_relative_to(folder) and not path.is_relative_to(_PACKAGE):
                raise ConfigError(
                    f"rule: {self.path.name} may import installed packages and files beside it, imports {path}"
                )
        return rule

    def _imported(self) -> set[Path]:
        """Return every file, outside of installed packages, that the file imports, directly or not."""
        try:
            return compiled.sources_of(self.path) - {self.path.resolve()}
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"rule: {self.path.name} must be Python: {error}") from None


_LOADED: dict[tuple[RuleFile, str], type[SignalEngine]] = {}


class RuleAsLoaded(NamedTuple):
    """A rule file and its hash when it was loaded; other processes load the rule from it."""

    file: RuleFile
    sha256: str

    @staticmethod
    def of(rule: object) -> RuleAsLoaded | None:
        """Return the file that a rule was loaded from; None for a rule of an ordinary module."""
        return next((RuleAsLoaded(*key) for key, loaded in _LOADED.items() if loaded is rule), None)

    def load(self) -> type[SignalEngine]:
        """Load the rule.

        Raises:
            ConfigError: See `RuleFile.load`; or the file was edited since.
        """
        self.file.refuse_other_than(self.sha256, "the search was begun with")
        return self.file.load()
