"""ccxt without the other exchanges: fewer modules, the same classes, and the whole of ccxt for whoever asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json, sys
{first}
from voltrade.exchange.client import UsdmExchange
from voltrade.exchange.ccxt_binance import binanceusdm, errors

told = {{"modules": sum(name.startswith("ccxt") for name in sys.modules)}}
told["describes"] = binanceusdm({{}}).describe()
import ccxt
told["version"] = ccxt.__version__, ccxt.pro.__version__
told["still"] = sum(name.startswith("ccxt") for name in sys.modules)
told["missing"] = hasattr(ccxt, "voltrade")
from ccxt.async_support import kraken
import ccxt.async_support, ccxt.pro
told["others"] = [ccxt.kraken.__module__, kraken.__module__, ccxt.pro.kraken.__module__]
told["listed"] = len(ccxt.exchanges), ccxt.__version__
told["same"] = [
    issubclass(UsdmExchange, ccxt.pro.binanceusdm),
    issubclass(UsdmExchange, ccxt.async_support.binance),
    ccxt.NetworkError is errors.NetworkError,
]
print(json.dumps(told, default=str))
"""


def told(first: str) -> dict[str, Any]:
    script = SCRIPT.format(first=first)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What a process says that imports voltrade before ccxt."""
    return told("")


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What one says that has imported all of ccxt before."""
    return told("import ccxt.pro")


def test_other_exchanges_are_not_imported(alone: dict[str, Any], whole: dict[str, Any]) -> None:
    assert alone["modules"] < 40 < 300 < whole["modules"]
    assert (alone["version"], alone["still"]) == (whole["version"], alone["modules"])


def test_what_it_knows_of_the_exchange_is_the_same(alone: dict[str, Any], whole: dict[str, Any]) -> None:
    assert alone["describes"]["id"] == "binanceusdm"
    assert alone["describes"] == whole["describes"]


def test_whoever_wants_all_of_ccxt_has_it_with_the_same_classes(alone: dict[str, Any], whole: dict[str, Any]) -> None:
    assert alone["others"] == ["ccxt.kraken", "ccxt.async_support.kraken", "ccxt.pro.kraken"]
    assert alone["same"] == [True, True, True]
    assert alone["listed"][0] > 100
    for name in ("others", "same", "listed"):
        assert alone[name] == whole[name]


def test_a_name_that_ccxt_does_not_have_is_missing_as_ever(alone: dict[str, Any]) -> None:
    assert alone["missing"] is False
