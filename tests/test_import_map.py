"""The import map: rooms know only what stands below them, and the core knows neither time, chance nor the outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "voltrade"

BASE = "errors model config compiled exchange"
"""What every room may know: facts, settings, how rules are compiled, and the ports to an exchange."""

UPKEEP = "risk account order_states records order_rules"
RULES = "bars signal_engine fold risk oms account order_states records order_rules core_rules row_facts books"
BOOKS = "exchange.shipped exchange.texts exchange.margin exchange.execution exchange.orders exchange.market"
BOOKS += " exchange.clearing"
SIMULATED = f"{BOOKS} exchange.refusals exchange.matching exchange.simulated"
TAPES = "exchange.shipped exchange.simulated exchange.tape"
SIMULATION = "simulation.rows simulation.exchange"
WIRE = "exchange.venue_wire exchange.venue_market exchange.venue_streams exchange.venue_requests"
VENUE = f"{WIRE} exchange.venue_rest"

MAY_IMPORT = {
    # facts and settings
    "errors": "",
    "model": "errors",
    "compiled": "",
    "config": "errors model",
    "credentials": "errors",
    "permission": "errors model config credentials",
    "exchange": "errors model",
    # rules: not each other
    "bars": BASE,
    "signal_engine": BASE,
    "parameter_file": "errors model config",
    "handover": "errors model config",
    "rule_file": f"{BASE} signal_engine parameter_file",
    "risk": BASE,
    "account": BASE,
    # orders and position: tables, records, steps, then what live trading alone must know
    "order_states": f"{BASE} risk",
    "records": f"{BASE} risk order_states",
    "order_rules": f"{BASE} {UPKEEP}".replace(" order_rules", ""),
    "core_rules": f"{BASE} {UPKEEP}",
    "row_facts": f"{BASE} risk order_states records",
    "saved_orders": "model order_states",
    "books": f"{BASE} {UPKEEP} core_rules",
    "oms": f"{BASE} {UPKEEP} row_facts saved_orders books",
    "fold": f"{BASE} bars signal_engine",
    # the core, and the two ways that time runs through it
    "core": f"{BASE} {RULES} drift",
    "lockstep": f"{BASE} core",
    "simulation.rows": f"{BASE} {RULES}",
    "simulation.exchange": f"{BASE} {RULES} exchange.execution simulation.rows",
    "simulation.lockstep": f"{BASE} {RULES} core exchange.execution {SIMULATION}",
    "simulation": f"{SIMULATION} simulation.lockstep",
    "research": f"{BASE} {RULES} {TAPES} core exchange.margin rule_file data simulation",
    "simulation_facts": f"{BASE} {RULES} core exchange.refusals simulation simulation.rows research",
    "simulation_frames": f"{BASE} {RULES} core simulation research simulation_facts frames",
    "backtest": f"{BASE} {RULES} {TAPES} rule_file core lockstep data measures report charts research simulation_facts"
    " framed frames simulation_frames",
    "sweep": f"{BASE} {RULES} rule_file data measures report charts research backtest",
    "account_watch": "model",
    "live": f"{BASE} {RULES} core lockstep journal account_watch",
    # tapes and records
    "synthetic": BASE,
    "trade_files": BASE,
    "inspection": f"{BASE} trade_files",
    "store": BASE,
    "data": f"{BASE} synthetic inspection store",
    "sources": f"{BASE} inspection store",
    "fetch": f"{BASE} trade_files inspection store sources",
    "journal": BASE,
    "replay": f"{BASE} {RULES} rule_file core lockstep journal",
    "ledger": f"{BASE} journal record",
    "ctl": "errors record",
    "measures": "errors model compiled",
    "framed": "",
    "frames": f"{BASE} risk",
    "report": f"measures {BASE} risk order_states journal frames",
    # exchanges
    "exchange.messages": BASE,
    "exchange.outcomes": BASE,
    "exchange.ccxt_binance": "",
    "exchange.binance": f"{BASE} credentials exchange.ccxt_binance exchange.messages exchange.outcomes",
    "exchange.texts": BASE,
    "exchange.shipped": f"{BASE} exchange.messages exchange.texts",
    "exchange.margin": f"{BASE} exchange.shipped",
    "exchange.execution": BASE,
    "exchange.orders": f"{BASE} exchange.execution",
    "exchange.market": f"{BASE} account exchange.shipped exchange.margin exchange.execution exchange.orders",
    "exchange.clearing": f"{BASE} account exchange.texts exchange.margin exchange.orders exchange.market",
    "exchange.refusals": f"{BASE} {BOOKS}",
    "exchange.matching": f"{BASE} {BOOKS} exchange.refusals",
    "exchange.simulated": f"{BASE} account {BOOKS} exchange.refusals exchange.matching",
    "exchange.tape": f"{BASE} exchange.shipped exchange.market exchange.clearing exchange.simulated",
    "exchange.truth": f"{BASE} {SIMULATED}",
    "exchange.paper": f"{BASE} exchange.refusals exchange.tape exchange.truth",
    "exchange.venue_wire": f"{BASE} {SIMULATED}",
    "exchange.venue_market": f"{BASE} exchange.execution exchange.tape exchange.texts exchange.venue_wire",
    "exchange.venue_streams": f"{BASE} exchange.refusals exchange.venue_wire exchange.venue_market",
    "exchange.venue_requests": f"{BASE} exchange.shipped exchange.refusals",
    "exchange.venue_rest": f"{BASE} {SIMULATED} {WIRE}",
    "exchange.faults": f"{BASE} {SIMULATED} exchange.truth {VENUE}",
    "exchange.venue": f"{BASE} data {SIMULATED} exchange.tape exchange.truth {VENUE} exchange.faults",
    "exchange.venue_command": f"{BASE} rule_file data exchange.shipped exchange.venue_requests exchange.venue"
    " exchange.faults",
    # a session's process: its exchange, its history, its checks, its socket
    "wiring": f"{BASE} credentials permission live exchange.binance exchange.paper exchange.tape",
    "warmup": f"{BASE} bars exchange.binance exchange.messages",
    "notify": f"{BASE} credentials order_states risk",
    "preflight": f"{BASE} notify permission risk wiring exchange.paper",
    "doctor": f"{BASE} credentials ledger notify permission wiring preflight",
    "control": f"{BASE} record",
    "recording": f"{BASE} store",
    # what people touch
    "drift": "model",
    "calibrate": f"{BASE} bars inspection drift",
    "candles": f"{BASE} frames report",
    "plot_widget": "",
    "charts": f"{BASE} frames report calibrate candles plot_widget",
    "record": f"{BASE} rule_file",
    "papermill_engine": f"{BASE} handover parameter_file permission rule_file record",
    "verify": f"{BASE} handover rule_file record journal",
    "runs": f"{BASE} rule_file record journal framed frames report replay verify",
    "session": f"{BASE} handover parameter_file permission rule_file record frames report charts papermill_engine ctl"
    " runs tables",
    "tables": "report",
    "dials": "config",
    "rule_cell": f"{BASE} rule_file runs",
    "explorer": f"{BASE} {RULES} backtest calibrate candles charts data dials frames parameter_file plot_widget report"
    " research rule_cell rule_file runs simulation simulation_frames tables",
    "review": f"{BASE} backtest charts data frames journal record replay report rule_file runs tables verify",
    "data_commands": f"{BASE} inspection store sources fetch exchange.messages exchange.shipped",
    "check": f"{BASE} {RULES} synthetic exchange.shipped",
    # the one place that picks concrete parts, by name
    "engine": "*",
    "__main__": "*",
    "__init__": "*",
}
"""Each room, and the rooms that it may import. A new room is added here first."""

ONLY_IN = {
    "apprise": {"notify"},
    "ccxt": {"exchange.ccxt_binance"},
    "aiohttp": {"exchange.binance", "exchange.venue", "exchange.venue_streams", "exchange.faults", "wiring", "sources"},
    "plotly": {"charts", "plot_widget"},
    "anywidget": {"plot_widget"},
    "ipywidgets": {"session", "explorer", "plot_widget"},
    "papermill": {"papermill_engine"},
    "platformdirs": {"ledger"},
    "pyarrow": {"trade_files", "inspection", "store", "fetch", "report", "journal"},
    "tqdm": {"sources", "fetch", "check", "sweep"},
}
"""Packages that one room (or a few) wraps for all the others."""

WITHOUT_THE_OUTSIDE = {
    "model", "lockstep", "synthetic", "core", "saved_orders", *RULES.split(),
    "simulation", "simulation.lockstep", *SIMULATION.split(), "simulation_facts",
    "exchange.messages", "exchange.outcomes", "exchange.tape", *SIMULATED.split(),
}  # fmt: skip
"""Rooms whose results follow from their arguments alone."""

OUTSIDE = {
    "time", "datetime", "random", "secrets", "uuid", "os", "sys", "asyncio", "threading", "subprocess", "socket", "io",
    "pathlib", "logging", "sqlite3",
}  # fmt: skip


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


ROOMS = {room_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(room: str) -> Iterator[str]:
    """Every module that a room imports anywhere in its file, as a dotted name."""
    for node in ast.walk(ast.parse(ROOMS[room].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{room}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner.removeprefix("voltrade.") in ROOMS else module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    assert room in MAY_IMPORT, f"{room}: say in MAY_IMPORT which rooms it may import"
    ours = {name.removeprefix("voltrade.") for name in imports_of(room) if name.startswith("voltrade.")}
    if MAY_IMPORT[room] != "*":
        assert ours <= set(MAY_IMPORT[room].split())


def test_the_map_has_no_circles() -> None:
    done: set[str] = set()

    def visit(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, f"a circle: {' -> '.join((*above, room))}"
        if room not in done and MAY_IMPORT[room] != "*":
            for below in MAY_IMPORT[room].split():
                visit(below, (*above, room))
        done.add(room)

    for room in MAY_IMPORT:
        visit(room, ())


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_is_imported_only_by_its_own_room(room: str) -> None:
    packages = {name.partition(".")[0] for name in imports_of(room)}
    assert not {package for package in packages & set(ONLY_IN) if room not in ONLY_IN[package]}


@pytest.mark.parametrize("room", sorted(WITHOUT_THE_OUTSIDE & set(ROOMS)))
def test_the_core_knows_neither_time_nor_chance_nor_the_outside(room: str) -> None:
    assert not {name.partition(".")[0] for name in imports_of(room)} & OUTSIDE
    nodes = list(ast.walk(ast.parse(ROOMS[room].read_text())))
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"open", "input", "print", "__import__"}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not attributes & {"objmode"}
    assert "random" not in attributes or room == "synthetic"  # whose chance comes from a seed


def test_the_test_sees_what_it_must() -> None:
    """The forbidden imports that an edit could add are found wherever they stand."""
    assert "voltrade.synthetic" in set(imports_of("data"))
    assert {"pyarrow.csv", "gzip"} <= set(imports_of("trade_files"))
    assert set(MAY_IMPORT) >= {name for rooms in MAY_IMPORT.values() for name in rooms.split()} - {"*"}


def test_no_function_stands_in_two_rooms() -> None:
    """What makes a text printable stood in two; each rule has one place. The compiled simulation mirrors originals."""
    found: dict[tuple[str, str], set[str]] = {}
    for room, path in ROOMS.items():
        if room.startswith("simulation"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                rest = node.body[1:] if ast.get_docstring(node) is not None else node.body
                said = "\n".join(map(ast.dump, rest))
                found.setdefault((node.name.lstrip("_"), said), set()).add(room)
    assert [sorted(rooms) for rooms in found.values() if len(rooms) > 1] == []
