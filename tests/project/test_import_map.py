"""The import map: folders import only those below them, and the core knows neither time, chance nor the outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "voltrade"

TRADING_PATH = [
    "errors", "folders", "background", "model", "compiled_libraries", "compiled", "plain_start", "config",
    "bar_spec", "bars", "indicators", "signal_engine", "rule_failure", "bar_pipeline", "risk", "account",
    "orders.order_states", "orders.records", "orders.order_queries", "orders.order_rules", "orders.position_rules",
    "orders.position_timers", "orders.row_facts", "orders.core_rules", "orders.account_books",
    "orders.order_register", "orders.snapshot_check", "orders.order_outputs", "orders.saved_orders",
    "oms", "bar_rate", "symbol_filters", "symbol_state", "wallet_check", "saved_account", "core", "tape_loop",
    "journal.ballast", "journal.market", "journal.rows", "journal.pending_market_row", "journal.checkpoint",
    "journal.bodies", "journal.lock", "journal",
    "session.abandonment", "session.account_watch", "session.price_off_alert", "session.missing_marks",
    "session.inbox", "session.lockstep", "session.rest_reads", "live",
]  # fmt: skip
"""The files of the trading path, in the order in which they build on each other: each imports only files before it."""

ON_THE_PATH = {"orders", "journal", "session"}
"""Folders of the trading path: their files have their places in it."""

FOLDERS = {
    "exchange": "",
    "simulated": "exchange",
    "data": "exchange simulated",
    "strategy": "simulated data",
    "venue": "simulated data strategy",
    "report": "data",
    "research": "simulated data strategy report",
    "runs": "strategy report",
    "engine": "exchange simulated data strategy report runs",
    "notebook": "data strategy report research runs engine",
}
"""Each other folder, and the folders that it may import; all may import the trading path."""

FACES = {"__init__", "__main__"}
"""The public face and the commands: they may import everything."""

ONLY_IN = {
    "apprise": {"engine.notification_addresses"},
    "ccxt": {"exchange.ccxt_binance"},
    "aiohttp": {
        "exchange.client", "venue.server", "venue.streams", "venue.injection", "engine.venue_process", "data.sources",
        "engine.demo_check.frames",
    },
    "plotly": {
        "report.charts", "report.chart_style", "report.tape_charts", "report.sweep_charts", "report.research_chart",
        "report.figure_output", "report.plot_widget",
    },
    "anywidget": {"report.plot_widget"},
    "ipywidgets": {"notebook.controls", "notebook.explorer", "notebook.explorer_widgets", "report.plot_widget"},
    "papermill": {"notebook.papermill_engine"},
    "platformdirs": {"folders"},
    "pyarrow": {
        "data.trade_files", "data.trade_rows", "data.series_checks", "data.rest_pages", "data.store",
        "data.store_files", "data.tape_cache", "journal",
    },
    "tqdm": {"data.sources", "data.fetch", "data.rest_pages", "strategy.check", "research.trial_executor"},
}  # fmt: skip
"""Packages that one module (or a few) wraps for all the others."""

READ_THE_OUTSIDE = {
    "background",
    "journal.ballast",
    "errors",
    "folders",
    "compiled",
    "config",
    "session.abandonment",
    "session.account_watch",
    "session.price_off_alert",
    "journal.bodies",
    "journal.lock",
    "journal",
    "session.inbox",
    "session.lockstep",
    "session.rest_reads",
    "live",
}
"""Files of the trading path that aren't plain functions of their arguments."""

WITHOUT_THE_OUTSIDE = {
    *TRADING_PATH, "data.synthetic", "exchange.messages", "exchange.responses", "research.loop",
    "research.loop_records", "research.loop_exchange", "research.loop_matching", "research.loop_facts",
} - READ_THE_OUTSIDE  # fmt: skip
"""Modules whose results follow from their arguments alone; so do those of `simulated`, but its log on disk."""

NEAR_THE_EXCHANGE = {"session.lockstep", "session.rest_reads", "live"}
"""They may import the interfaces of the exchange."""

OUTSIDE = {
    "time", "datetime", "random", "secrets", "uuid", "os", "sys", "asyncio", "threading", "subprocess", "socket", "io",
    "pathlib", "logging", "sqlite3",
}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
OF_SIMULATED = {name for name in MODULES if name.startswith("simulated.")} - {"simulated.ground_truth"}


def imports_of(module: str) -> Iterator[str]:
    """Every module that a module imports anywhere in its file, as a dotted name."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner.removeprefix("voltrade.") in MODULES else base


def ours(module: str) -> set[str]:
    return {name.removeprefix("voltrade.") for name in imports_of(module) if name.startswith("voltrade.")}


def folder_of(module: str) -> str:
    """Return the folder of a module; empty on the trading path."""
    first = module.partition(".")[0]
    return "" if first in ON_THE_PATH or (first == module and module not in FOLDERS) else first


@pytest.mark.parametrize("module", sorted(set(MODULES) - FACES))
def test_a_module_imports_only_what_is_below_its_folder(module: str) -> None:
    folder = folder_of(module)
    if folder:
        assert folder in FOLDERS, f"{module}: say in FOLDERS what its folder may import"
        assert {folder_of(name) for name in ours(module)} <= {"", folder, *FOLDERS[folder].split()}
    elif module not in ("orders", "session"):
        assert module in TRADING_PATH, f"{module}: give it its place in TRADING_PATH"
        before = set(TRADING_PATH[: TRADING_PATH.index(module)])
        assert ours(module) <= before | ({"exchange.ports"} if module in NEAR_THE_EXCHANGE else set())


def test_every_name_of_the_map_is_there() -> None:
    assert set(FOLDERS) | ON_THE_PATH == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    on_the_path = {name for name in MODULES if not folder_of(name)} - {"orders", "session"}
    assert set(TRADING_PATH) == on_the_path - FACES
    assert set().union(*ONLY_IN.values(), WITHOUT_THE_OUTSIDE, READ_THE_OUTSIDE) <= set(MODULES)


def test_the_folders_have_no_circles() -> None:
    before: set[str] = set()
    for folder, below in FOLDERS.items():
        assert set(below.split()) <= before, f"{folder} imports a folder that comes after it"
        before.add(folder)


def test_the_modules_have_no_circles() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in done:
            for below in sorted(ours(module) & set(MODULES) - {module}):
                visit(below, (*above, module))
        done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_a_package_is_imported_only_by_its_own_room(module: str) -> None:
    packages = {name.partition(".")[0] for name in imports_of(module)}
    assert not {package for package in packages & set(ONLY_IN) if module not in ONLY_IN[package]}


@pytest.mark.parametrize("module", sorted(WITHOUT_THE_OUTSIDE | OF_SIMULATED))
def test_the_core_knows_neither_time_nor_chance_nor_the_outside(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports_of(module)} & OUTSIDE
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text())))
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"open", "input", "print", "__import__"}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not attributes & {"objmode"}
    assert "random" not in attributes or module == "data.synthetic"  # whose chance comes from a seed


def test_the_test_sees_what_it_must() -> None:
    """The forbidden imports that an edit could add are found wherever they stand."""
    assert "voltrade.data.synthetic" in set(imports_of("data.tape"))
    assert {"pyarrow.csv", "gzip"} <= set(imports_of("data.trade_files"))


def test_no_function_stands_in_two_modules() -> None:
    """What makes a text printable stood in two; each rule has one place. The compiled simulation mirrors originals."""
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in MODULES.items():
        if module.startswith("research.loop"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                rest = node.body[1:] if ast.get_docstring(node) is not None else node.body
                said = "\n".join(map(ast.dump, rest))
                found.setdefault((node.name.lstrip("_"), said), set()).add(module)
    assert [sorted(rooms) for rooms in found.values() if len(rooms) > 1] == []


AWAITED = {
    "engine.resumption": 2, "engine.engine": 1, "live": 1, "exchange.account_reader": 2, "exchange.fee_prices": 1,
    "exchange.streams": 1, "exchange.trade_sequence": 1, "engine.demo_check.check": 1, "engine.demo_check.frames": 1,
    "engine.demo_check.ending": 1, "background": 1,
}  # fmt: skip
"""How many tasks each module makes by itself: whoever makes one looks at how it ends. Others are `background`'s, or of
a `TaskGroup`."""


def test_no_task_of_the_engine_can_end_without_anybody_seeing_it() -> None:
    made = dict.fromkeys(AWAITED, 0)
    for module in MODULES:
        if folder_of(module) in ("", "exchange", "engine"):
            for node in ast.walk(ast.parse(MODULES[module].read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = ast.unparse(node.func.value)
                    is_alone = owner in ("asyncio", "asyncio.get_running_loop()", "loop")
                    if is_alone and node.func.attr in ("create_task", "ensure_future"):
                        made[module] = made.get(module, 0) + 1
    assert made == AWAITED


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is computed when a module is imported: all but what its functions do when they are called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*child.args.defaults, *filter(None, child.args.kw_defaults)]
            for part in (*defaults, *getattr(child, "decorator_list", ())):
                yield part
                yield from at_import(part)
        else:
            yield child
            yield from at_import(child)


CLOCKS = {
    *("now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
    *("strftime", "gmtime", "localtime", "ctime"),
}


def clock_reads(text: str) -> list[int]:
    """Return the lines that read a clock at import."""
    calls = [node for node in at_import(ast.parse(text)) if isinstance(node, ast.Call)]
    return [node.lineno for node in calls if getattr(node.func, "attr", getattr(node.func, "id", "")) in CLOCKS]


def test_nothing_is_computed_from_the_clock_at_import() -> None:
    """A process may live over midnight: what depends on the time is computed where it is used."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tests").rglob("*.py")]
    assert {file: lines for file in files if (lines := clock_reads(file.read_text()))} == {}
    for text in (
        "X = time.time()",
        "X = strftime('%d')",
        "X = time.perf_counter_ns()",
        "def f(x=date.today()): ...",
        "class A:\n    x = f(datetime.now(UTC))",
    ):
        assert clock_reads(text)
    assert not clock_reads("def f():\n    return time.time()")
