"""ccxt without the other exchanges: fewer modules, the same classes, and the whole of ccxt for whoever asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = "len([name for name in sys.modules if name.startswith('ccxt')])"


def said(*lines: str) -> str:
    script = "\n".join(("import sys", *lines))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_other_exchanges_are_not_imported() -> None:
    assert int(said("import voltrade.exchange.binance", f"print({COUNT})")) < 40


@pytest.mark.parametrize(
    "asked",
    [
        "import ccxt; assert ccxt.kraken.__module__ == 'ccxt.kraken'",
        "import ccxt.pro; assert ccxt.pro.kraken.__module__ == 'ccxt.pro.kraken'",
        "from ccxt.async_support import kraken; assert kraken.__module__ == 'ccxt.async_support.kraken'",
        "import ccxt; assert 'kraken' in ccxt.exchanges; assert ccxt.__version__",
    ],
)
@pytest.mark.parametrize("first", ["import voltrade.exchange.binance", "import ccxt.pro"])
def test_whoever_wants_all_of_ccxt_has_it_with_the_same_classes(first: str, asked: str) -> None:
    same = (
        "from voltrade.exchange import binance",
        "from voltrade.exchange.ccxt_binance import Client, errors",
        "import ccxt, ccxt.pro, ccxt.async_support",
        "assert issubclass(binance.UsdmExchange, ccxt.pro.binanceusdm)",
        "assert issubclass(binance.UsdmExchange, ccxt.async_support.binance)",
        "assert ccxt.NetworkError is errors.NetworkError",
        "print('the same')",
    )
    assert said(first, asked, *same) == "the same"


def test_a_name_that_ccxt_does_not_have_is_missing_as_ever() -> None:
    script = ("import voltrade.exchange.binance", "import ccxt", "print(hasattr(ccxt, 'voltrade'), ccxt.__name__)")
    assert said(*script) == "False ccxt"


def test_what_it_knows_of_the_exchange_is_the_same() -> None:
    told = "print(json.dumps(binance.binanceusdm({}).describe(), sort_keys=True, default=str))"
    alone = said("import json", "from voltrade.exchange import binance", told)
    assert '"id": "binanceusdm"' in alone
    assert alone == said("import json", "import ccxt.pro", "from voltrade.exchange import binance", told)
