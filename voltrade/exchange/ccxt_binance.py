"""ccxt's class for Binance USD-M Futures, without the modules of the other hundred exchanges.

The `__init__` of ccxt and of its subpackages import every exchange, which takes a quarter of an engine's start time.
Here these packages start empty, with only the names that Binance's modules import. No file of ccxt is changed: the
`__init__` of a package runs as soon as another name is requested from it, for example by a later import of ccxt, and
the classes stay the same objects.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGES = ("ccxt", "ccxt.async_support", "ccxt.pro")


def _begin(name: str) -> ModuleType:
    """Add a package to `sys.modules` without running its `__init__`, which runs when a name is missing."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    package.__getattr__ = lambda missing: _run(package, spec, missing)  # type: ignore[method-assign]
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, package)
    return package


def _run(package: ModuleType, spec: ModuleSpec, missing: str) -> Any:
    """Run a package's `__init__` and return the requested name."""
    if missing.startswith("__"):
        raise AttributeError(f"module {package.__name__!r} has no attribute {missing!r}")
    del package.__getattr__
    assert spec.loader is not None
    spec.loader.exec_module(package)
    return getattr(package, missing)


def _import() -> None:
    """Import only Binance's modules, unless ccxt is imported already."""
    if "ccxt" in sys.modules:
        return
    ccxt, asynchronous, pro = (_begin(name) for name in PACKAGES)
    public = {name: value for name, value in vars(_module("base.errors")).items() if not name.startswith("_")}
    vars(ccxt).update(public, Exchange=_module("base.exchange").Exchange)
    vars(asynchronous).update(Exchange=_module("async_support.base.exchange").Exchange)
    for package in (ccxt, asynchronous, pro):
        vars(package)["__version__"] = _module("base.exchange").__version__
    for package in (asynchronous, pro):
        for name in ("binance", "binanceusdm"):  # a package has the class under the name of its module
            vars(package)[name] = vars(_module(f"{package.__name__.removeprefix('ccxt.')}.{name}"))[name]


def _module(name: str) -> Any:
    return importlib.import_module(f"ccxt.{name}")


_import()
binanceusdm = importlib.import_module("ccxt.pro").binanceusdm
Client = _module("async_support.base.ws.client").Client
errors = _module("base.errors")
