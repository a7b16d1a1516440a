"""A rule of one's own in a file: found, loaded, and checked to be a `SignalEngine`.

The file is watched by nobody: a session and a backtest each load it when they start, and compiled code is cached by
the hash of the sources (see `compiled`), so both run what the file says then.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from voltrade.errors import ConfigError
from voltrade.signal_engine import SignalEngine


def load_rule(name: str) -> type[SignalEngine]:
    """Load a rule from a file: `path/to/my_rule.py:MyRule`. The file may import its neighbours.

    Raises:
        ConfigError: no such file or class, or the class is no SignalEngine.
    """
    path, _, class_name = name.rpartition(":")
    file = Path(path).resolve()
    if not path or not file.is_file():
        raise ConfigError(f"rule: must be the path of a Python file, a colon and a class name, was {name!r}")
    module_name = f"voltrade_rule_{file.stem}_{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec.loader.exec_module(module)
    rule = getattr(module, class_name, None)
    if not (isinstance(rule, type) and issubclass(rule, SignalEngine)):
        raise ConfigError(f"rule: {class_name!r} must be a SignalEngine of {file.name}")
    return rule
