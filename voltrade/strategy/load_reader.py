"""Reads what a rule's files run when they are loaded, for data that their hash does not cover.

A weight that is read from a file beside the rule, drawn by chance, or taken from the clock or the environment, is a
constant for the rule's steps: `code_reader` finds nothing wrong with it. But a run keeps the rule's source alone, so
the same rule, by its hash, would trade otherwise another time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from voltrade.errors import ConfigError

OUTSIDE_MODULES = frozenset({
    "random", "secrets", "uuid", "time", "os", "io", "glob", "shutil", "tempfile", "pickle", "shelve",
    "sqlite3", "socket", "urllib", "http", "requests", "subprocess", "platform", "getpass", "importlib",
})  # fmt: skip
"""Modules that read files, the network, the clock, the environment, or draw by chance."""

OUTSIDE_BUILTINS = frozenset({"open", "input", "id", "hash", "eval", "exec", "__import__"})

OUTSIDE_ATTRIBUTES = frozenset({
    "now", "today", "utcnow", "argv", "environ", "default_rng", "RandomState",
    "open", "read_text", "read_bytes", "stat", "exists", "iterdir", "rglob",
    "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "read_csv", "read_parquet", "read_json", "read_pickle",
    "read_excel", "read_table", "read_feather", "read_sql",
})  # fmt: skip
"""Names of other modules and methods that do so."""

REQUIREMENT = "a rule's file may run only what its source decides, since a run keeps nothing else of it"


def refuse_outside_data(sources: Mapping[str, bytes]) -> None:
    """Refuse files of a rule that read other files, the clock, the environment or chance when they are loaded.

    Args:
        sources: the source of the rule's file, and of those beside it that it imports, by name.

    Raises:
        ConfigError: names the file, the line and what it uses.
    """
    trees = {name: ast.parse(source) for name, source in sources.items()}
    functions = {
        each.name: (name, each)
        for name, tree in trees.items()
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    known = {name: _imported(tree) for name, tree in trees.items()}
    waiting: list[tuple[str, ast.AST]] = list(trees.items())
    seen: set[str] = set()
    while waiting:
        name, tree = waiting.pop()
        for node in _run(tree):
            path = _path(node, known[name])
            if path and _is_outside(path):
                line = getattr(node, "lineno", 0)
                raise ConfigError(f"rule: {name} line {line} uses {path} when it is loaded: {REQUIREMENT}")
            called = path.rpartition(".")[2]
            if called in functions and called not in seen:
                seen.add(called)
                at, function = functions[called]
                waiting += [(at, statement) for statement in function.body]


def _imported(tree: ast.AST) -> dict[str, str]:
    """Return what names stand for by the imports of a file: `np` for `numpy`, `Path` for `pathlib.Path`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.partition(".")[0]
                found[each.asname or first] = each.name if each.asname else first
        elif isinstance(node, ast.ImportFrom):
            found |= {each.asname or each.name: f"{node.module or ''}.{each.name}" for each in node.names}
    return found


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a file is loaded: all but bodies of functions, and what is for programs or types only."""
    if isinstance(tree, ast.If) and {"__name__", "TYPE_CHECKING"} & {
        str(getattr(each, "id", getattr(each, "attr", ""))) for each in ast.walk(tree.test)
    }:
        children: Any = tree.orelse
    elif isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = chain(tree.args.defaults, tree.args.kw_defaults)
        children = [*tree.decorator_list, *(each for each in defaults if each is not None)]
    elif isinstance(tree, ast.AnnAssign):
        children = [tree.target, *([tree.value] if tree.value else [])]
    else:
        children = ast.iter_child_nodes(tree)
    yield tree
    for child in children:
        yield from _run(child)


def _path(node: ast.AST, known: Mapping[str, str]) -> str:
    """Return the full name that a name or a chain of attributes has by the imports, `.x` for one of another value."""
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value, known)}.{node.attr}"
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        return known.get(node.id, node.id)
    return ""


def _is_outside(path: str) -> bool:
    owner, _, name = path.rpartition(".")
    if not owner and not path.startswith("."):
        return path in OUTSIDE_BUILTINS
    is_of_module = owner.partition(".")[0] in OUTSIDE_MODULES or owner == "numpy.random"
    return is_of_module or name in OUTSIDE_ATTRIBUTES
