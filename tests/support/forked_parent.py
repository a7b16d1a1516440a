"""Imported by the process that commands are forked from: it imports what they need, and loads the compiled rules."""

from __future__ import annotations

import gc
from importlib import import_module

from support.compiled_rules import compile_rules

NEEDED = (
    *("support.forked", "papermill.cli", "pandas", "voltrade.__main__", "voltrade.engine.engine_process"),
    *("voltrade.notebook.papermill_engine", "voltrade.report.run_reader", "voltrade.venue.command"),
)

for name in NEEDED:
    import_module(name)
compile_rules()
gc.freeze()  # else each fork would copy all of it for its first search for garbage
