"""Draws the two pictures of docs/architecture.md from the code: `PYTHONPATH=tests python -m support.architecture`.

The flow: which module of the trading path calls which, found by the names of their public functions. The rooms: which
folder imports which, without the arrows that follow from others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "voltrade"
PAGE = ROOT / "docs/architecture.md"

FLOW = {
    "exchange.streams": "BinanceWSManager",
    "live": "LiveTradingSystem",
    "journal": "Journal",
    "core": "TradingCore",
    "bar_pipeline": "BarPipeline",
    "bars": "VolumeBarAggregator",
    "signal_engine": "SignalEngine",
    "risk": "gates, size, CircuitBreaker",
    "orders.account_books": "arrays of an account",
    "orders.core_rules": "what the core does with an event",
    "orders.order_rules": "an order from intent to end",
    "orders.position_rules": "orders that a position should have",
    "oms": "OrderMonitor",
    "exchange.rest": "BinanceRestClient",
}
"""Modules of the picture, and what people know them by."""

PARTS = {"exchange.streams": ("exchange.trade_sequence",), "live": ("session.lockstep",)}
"""Modules that work for one of the picture."""

MOST_LABELS = 4


def path_of(module: str) -> Path:
    place = PACKAGE / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


@cache
def defined(module: str) -> frozenset[str]:
    """Names of the functions and methods of a module that others may call."""
    found = set()
    for node in tree_of(module).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        found |= {each.name for each in inner if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(name for name in found if not name.startswith("__"))


@cache
def methods(module: str) -> frozenset[str]:
    """Names of all methods of a module's classes, without properties."""
    classes = [node for node in tree_of(module).body if isinstance(node, ast.ClassDef)]
    inner = [each for node in classes for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(each.name for each in inner if "property" not in map(ast.unparse, each.decorator_list))


def calls(module: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (what is before the dot, name, names of own methods among the arguments) of each call `a.name(...)`."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            own = [
                each.attr
                for each in node.args
                if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self"
            ]
            yield ast.unparse(node.func.value).rpartition(".")[2].lstrip("_"), node.func.attr, own


RECEIVERS = {
    "feed": "exchange.streams",
    "gateway": "exchange.rest",
    "journal": "journal",
    "core": "core",
    "pipeline": "bar_pipeline",
    "aggregator": "bars",
    "engine": "signal_engine",
    "monitor": "oms",
    "books": "orders.account_books",
    "core_rules": "orders.core_rules",
    "order_rules": "orders.order_rules",
    "position_rules": "orders.position_rules",
}
"""What the attributes and modules that hold other parts are called, where it isn't the name of the module."""


def flow() -> dict[tuple[str, str], list[str]]:
    """Return the names that one module calls of another, by both; a method handed over is called by who gets it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for module in FLOW:
        for part in (module, *PARTS.get(module, ())):
            for receiver, name, handed in calls(part):
                other = called(part, receiver, name)
                if other is None or other == module:
                    continue
                theirs = defined(other)
                arrows.setdefault((module, other), []).append(name if name in theirs else name.lstrip("_"))
                for method in sorted(set(handed) & methods(part)):
                    arrows.setdefault((other, module), []).append(method)
    return {pair: list(dict.fromkeys(names)) for pair, names in arrows.items()}


def called(module: str, receiver: str, name: str) -> str | None:
    """Return which module of the picture a call `receiver.name()` in a module goes to; None for another one."""
    if receiver == "self" and name not in methods(module):  # a function that it was given
        owners = [each for each in FLOW if {name, name.lstrip("_")} & methods(each)]
        return owners[0] if len(owners) == 1 else None
    other = RECEIVERS.get(receiver, receiver)
    return other if other in FLOW and name in defined(other) else None


def flow_picture() -> str:
    lines = ["flowchart LR"]
    lines += [f'    {_id(module)}["<b>{name}</b><br/>{module}"]' for module, name in FLOW.items()]
    for (one, other), names in flow().items():
        shown = ", ".join(names[:MOST_LABELS]) + (" …" if len(names) > MOST_LABELS else "")
        lines.append(f'    {_id(one)} -->|"{shown}"| {_id(other)}')
    return "\n".join(lines)


ON_THE_PATH = {"orders", "journal", "session"}
"""Folders of the trading path."""


def folders() -> dict[str, set[str]]:
    """Return which folders each folder imports; the trading path is `voltrade`."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.name in ("__init__.py", "__main__.py"):
            continue
        folder = place.parts[0] if len(place.parts) > 1 and place.parts[0] not in ON_THE_PATH else "voltrade"
        found.setdefault(folder, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("voltrade"):
                part = node.module.split(".")[1:2] if node.module else []
                other = part[0] if part and part[0] not in ON_THE_PATH and (PACKAGE / part[0]).is_dir() else "voltrade"
                if other != folder and other != "voltrade":
                    found[folder].add(other)
    return found


def folder_picture() -> str:
    imports = folders()

    def below(folder: str) -> set[str]:
        return set().union(*({other} | below(other) for other in imports[folder])) if imports[folder] else set()

    lines = ["flowchart BT", '    voltrade["<b>trading path</b><br/>files on top, orders, journal, session"]']
    for folder in sorted(imports):
        if folder == "voltrade":
            continue
        direct = imports[folder] - set().union(*(below(other) for other in imports[folder]))
        lines += [f"    {folder} --> {other}" for other in sorted(direct or {"voltrade"})]
    return "\n".join(lines)


def _id(module: str) -> str:
    return module.replace(".", "_")


def with_pictures(page: str) -> str:
    """Return the page with its two pictures drawn anew."""
    for name, picture in (("flow", flow_picture()), ("rooms", folder_picture())):
        block = f"<!-- {name} -->\n```mermaid\n{picture}\n```\n<!-- end -->"
        page = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, block=block: block, page, count=1, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(with_pictures(PAGE.read_text()))
