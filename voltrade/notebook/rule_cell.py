"""The `%%rule` magic: a rule in a notebook's cell, which is written to a file and used like other rule files.

As a file, numba can cache its compiled code, its settings have descriptions, and an error has a line number. A
cell that is not saved has its file in the cache folder, under the hash of its code.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from IPython.core.getipython import get_ipython

from voltrade.compiled import cache_home
from voltrade.errors import ConfigError
from voltrade.runs.listing import project_root
from voltrade.strategy.rule_file import RuleFile

DRAFTS = "drafts"
"""Folder in the cache for cells that are not saved."""


class RuleCell:
    """The magics `%%rule` and `%rule` of a notebook.

        %%rule MyRule                              try out the class of this cell
        %%rule MyRule --save rules/my_rule.py      and save the file, if that worked
        %rule rules/adx.py:Adx                     use a rule file, and open it in a cell below
        %rule                                      go back to the built-in rule

    Args:
        use: Draws with a rule, given by its name.
    """

    def __init__(self, use: Callable[[str], None]) -> None:
        self._use = use
        self._contents: dict[Path, str] = {}

    def register(self) -> None:
        """Register the magics; outside of IPython nothing happens."""
        shell = get_ipython()
        if shell is not None:
            shell.register_magic_function(self.run, "line_cell", "rule")  # type: ignore[arg-type]

    def run(self, line: str, cell: str | None = None) -> None:
        """Execute the magic with its line and its cell.

        Raises:
            ConfigError: The rule is broken, or saving would overwrite a file that this notebook has not read.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(f"%%rule: must close the quotes that it opens, was {line!r}") from error
        given = _ARGUMENTS.parse_args(words)
        if cell is None:
            self._open(given.rule)
            return
        if not given.rule.isidentifier():
            raise ConfigError(f"%%rule: must name the class in the cell, was {given.rule!r}")
        file_name = Path(given.save).name if given.save else f"{given.rule.lower()}.py"
        began = time.perf_counter()
        name = draft(cell, given.rule, file_name, _beside(f"{given.save}:{given.rule}"))
        self._use(name)
        print(f"{given.rule}: compiled and drawn in {time.perf_counter() - began:.1f} s")
        if given.save:
            self._save(cell, given.save, given.rule, given.replace)
        else:
            print(f"not saved: {how_to_save(name)}")

    def _open(self, rule: str) -> None:
        """Use a rule file, or the built-in rule, and put the file's code into a new cell."""
        self._use(rule)
        shell = get_ipython()
        if rule and shell is not None:
            path, _, class_name = rule.rpartition(":")
            place = RuleFile.named(rule).path
            self._contents[place] = place.read_text()
            shell.set_next_input(f"%%rule {class_name} --save {path}\n{self._contents[place]}")

    def _save(self, source: str, name: str, class_name: str, replaces: bool) -> None:
        rule = f"{name}:{class_name}"
        if not name.endswith(".py"):
            raise ConfigError(f"%%rule --save: must be the path of a Python file, was {name!r}")
        try:
            place = RuleFile.named(rule).path
        except ConfigError:
            place = project_root().absolute() / name
        there = place.read_text() if place.exists() else None
        if there not in (None, source, self._contents.get(place)) and not replaces:
            raise ConfigError(
                f"%%rule --save: {name} holds what this notebook neither read nor wrote; --replace overwrites it"
            )
        _write(place, source.encode())
        self._contents[place] = source
        self._use(rule)
        print(f"saved: -p rule {rule}")


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"%%rule: {message}; {self.format_usage().strip()}")


_ARGUMENTS = _Arguments(prog="%%rule", add_help=False)
_ARGUMENTS.add_argument("rule", nargs="?", default="")
_ARGUMENTS.add_argument("--save", default="")
_ARGUMENTS.add_argument("--replace", action="store_true")


def draft(source: str, class_name: str, file_name: str, beside: Mapping[str, bytes] | None = None) -> str:
    """Write a cell's code to a file in the cache; return the rule's name, which ends in `/my_rule.py:MyRule`.

    Args:
        source: The code.
        class_name: Class of the rule.
        file_name: Name of the file.
        beside: Contents of files that it may import, by their path in the folder.
    """
    sources = {**(beside or {}), file_name: source.encode()}
    digest = hashlib.sha256(b"\0".join(part for name in sorted(sources) for part in (name.encode(), sources[name])))
    folder = Path(DRAFTS) / digest.hexdigest()[:16]
    try:
        home = cache_home()
        _write_all(home / folder, sources)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        home = Path(tempfile.mkdtemp(prefix="voltrade-"))
        _write_all(home / folder, sources)
    return f"{home / folder / file_name}:{class_name}"


def _beside(rule: str) -> dict[str, bytes]:
    """Return the contents of the files beside a rule file that it imports; empty if it doesn't exist."""
    try:
        file = RuleFile.named(rule)
        return {name: source for name, source in file.sources.items() if name != file.path.name}
    except ConfigError:
        return {}


def is_draft(rule: str) -> bool:
    """Whether a rule is a cell that was not saved."""
    return Path(rule).parent.parent.name == DRAFTS


def how_to_save(rule: str) -> str:
    """Return the magic that saves a draft."""
    path, _, class_name = rule.rpartition(":")
    return f"%%rule {class_name} --save rules/{Path(path).name}"


def _write_all(folder: Path, sources: Mapping[str, bytes]) -> None:
    for name, source in sources.items():
        _write(folder / name, source)


def _write(path: Path, source: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(source)
    fresh.replace(path)
