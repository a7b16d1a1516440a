"""The shipped symbols: filters and brackets are Binance's own."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from voltrade.errors import DataError
from voltrade.model import money
from voltrade.simulated.symbols import shipped_exchange_info, shipped_instrument, shipped_rules, shipped_symbols


def test_shipped_filters_become_an_instrument() -> None:
    btc, rules = shipped_instrument("BTCUSDT"), shipped_rules("BTCUSDT")
    assert (btc.price(600_001), btc.quantity(12)) == (Decimal("60000.1"), Decimal("0.012"))
    assert (btc.min_notional, btc.market_max_quantity, btc.max_price) == (money(100), 120_000, 45_297_640)
    assert (rules.min_price, rules.trigger_protect_e8, rules.liquidation_fee_e8) == (5_568, 5_000_000, 1_250_000)
    assert "2025-12-15" in btc.source
    with pytest.raises(DataError, match=r"must be one of the shipped BTCUSDT, .*was DOGEUSDT"):
        shipped_instrument("DOGEUSDT")


@pytest.mark.recordings
def test_shipped_filters_are_the_recorded_facts(recordings: Path) -> None:
    with gzip.open(recordings / "rest" / "exchangeInfo-usdm-20251215.json.gz") as file:
        recorded = {entry["symbol"]: entry for entry in json.load(file)["symbols"]}
    for entry in shipped_exchange_info()["symbols"]:
        theirs = recorded[entry["symbol"]]
        for key in set(entry) - {"filters"}:
            assert entry[key] == theirs[key], key
        for rule in entry["filters"]:
            assert rule in theirs["filters"]


@pytest.mark.parametrize("symbol", shipped_symbols())
def test_every_shipped_symbol_can_trade(symbol: str) -> None:
    instrument = shipped_instrument(symbol)
    assert shipped_rules(symbol).min_price < instrument.max_price
    assert 1 <= instrument.min_quantity < instrument.market_max_quantity <= instrument.max_quantity
