"""Every symbol that Binance listed in December 2025: it can be traded, or is refused for a reason that is named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.engine.account_checks import contract
from voltrade.errors import ConfigError, DataError
from voltrade.exchange.account_facts import least_lots, symbol_facts_of
from voltrade.exchange.filters import instrument_of
from voltrade.model import Instrument


def start_of(info: dict[str, Any], symbol: str, duration_s: float) -> str:
    """Return why a session in a symbol doesn't start, by the rule alone; `works` if it does."""
    try:
        config = Config.from_parameters(symbol=symbol, mode="demo", duration_s=duration_s)
        instrument = instrument_of(info, symbol, "recorded", any_status=True)  # as a start does
    except (ConfigError, DataError) as error:
        return str(error).replace(symbol, "NAME")
    facts = symbol_facts_of(info, symbol)
    check = contract(facts, config, int(info["serverTime"]))
    assert_usable(instrument)
    return "works" if check.ok else f"contract: must be {check.wanted}, was {facts.status}"


def assert_usable(instrument: Instrument) -> None:
    """Assert that prices and quantities of a symbol are whole ticks and lots, and back again."""
    assert instrument.money_per_ticklot >= 1
    assert 1 <= instrument.min_quantity <= instrument.market_max_quantity <= instrument.max_quantity
    assert instrument.ticks(instrument.price(instrument.max_price)) == instrument.max_price
    assert instrument.lots(instrument.quantity(instrument.min_quantity)) == instrument.min_quantity


@pytest.fixture(scope="module")
def listed(recordings: Path) -> dict[str, Any]:
    packed = (recordings / "rest/exchangeInfo-usdm-20251215.json.gz").read_bytes()
    info: dict[str, Any] = json.loads(gzip.decompress(packed))
    return info


def reasons(info: dict[str, Any], duration_s: float) -> Counter[tuple[str, str]]:
    """Count the symbols of each contract type that start, and those that don't by reason."""
    return Counter(
        (row["contractType"], start_of({**info, "symbols": [row]}, row["symbol"], duration_s))
        for row in info["symbols"]
    )


DOES_NOT_TRADE = "contract: must be TRADING: choose another symbol, or another time, was "
REFUSED = {
    ("PERPETUAL", f"{DOES_NOT_TRADE}SETTLING"): 72,
    ("PERPETUAL", f"{DOES_NOT_TRADE}PENDING_TRADING"): 2,
    (
        "PERPETUAL",
        "symbol: must be of A-Z and 0-9; names in other scripts aren't traded, since Binance signs their bytes, "
        "was 'NAME'",
    ): 1,
}
DELIVERED = (
    "contract: must be TRADING, and delivered after the session is surely flat: set duration_s so that it ends before, "
    "with on_duration_end flatten and 10 minutes to spare, was TRADING"
)


@pytest.mark.recordings
def test_all_649_symbols_work_or_are_refused_by_name(listed: dict[str, Any]) -> None:
    for_a_day = reasons(listed, 86_400.0)
    assert for_a_day == REFUSED | {
        ("PERPETUAL", "works"): 569,  # of USDT, USDC and BTC; two are indices, one is traded before its coin exists
        ("TRADIFI_PERPETUAL", "works"): 1,  # within the hours of its market: tests/exchange/test_trading_hours.py
        ("CURRENT_QUARTER", "works"): 2,
        ("NEXT_QUARTER", "works"): 2,
    }
    assert sum(for_a_day.values()) == len(listed["symbols"]) == 649


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("duration_s", "current", "next_"), [(0.0, DELIVERED, DELIVERED), (30 * 86_400.0, DELIVERED, "works")]
)
def test_a_quarterly_is_traded_only_by_a_session_that_ends_before_its_delivery(
    listed: dict[str, Any], duration_s: float, current: str, next_: str
) -> None:
    quarterlies = [row for row in listed["symbols"] if row["contractType"].endswith("QUARTER")]
    assert reasons({**listed, "symbols": quarterlies}, duration_s) == {
        ("CURRENT_QUARTER", current): 2,
        ("NEXT_QUARTER", next_): 2,
    }


@pytest.mark.parametrize(("price", "lots"), [(60_000, 2), (50_000, 3), (200_000, 1), (100, 1_100)])
def test_the_smallest_order_is_a_tenth_above_the_least_notional_and_has_the_least_quantity(
    price: int, lots: int
) -> None:
    instrument = an_instrument()
    assert least_lots(instrument, Decimal(price)) == lots
    assert least_lots(replace(instrument, min_quantity=2_000), Decimal(price)) == 2_000


@pytest.mark.parametrize("symbol", ["BTCUSD", "BTCUSDT", "1000SHIBUSDT", "BTCUSDT_260327", "4USDT"])
def test_names_of_symbols(symbol: str) -> None:
    assert Config.from_parameters(symbol=symbol).session.symbol == symbol


@pytest.mark.parametrize(
    "symbol", ["", "btcusdt", "BTC/USDT", "BTCUSDT ETHUSDT", "BTCUSDT_2603", "BTCUSDT_260327\n", "B"]
)
def test_other_names_are_refused_with_an_example(symbol: str) -> None:
    with pytest.raises(ConfigError, match=r"symbol: must be one symbol, such as BTCUSDT, or .* in capitals"):
        Config.from_parameters(symbol=symbol)


@pytest.mark.parametrize(
    ("delivered_in_s", "parameters", "ok"),
    [
        (7_200, {"duration_s": 3_600.0}, True),
        (7_200, {"duration_s": 3_600.0, "on_duration_end": "carry_on"}, False),  # trades on
        (7_200, {"duration_s": 3_600.0, "on_duration_end": "protect"}, False),  # leaves its position to the delivery
        (7_200, {}, False),
        (4_200, {"duration_s": 3_600.0}, False),  # no time to load earlier trades first, and to close
        (4_201, {"duration_s": 3_600.0}, True),
    ],
)
def test_a_symbol_is_delivered_after_the_session_is_surely_flat(
    delivered_in_s: int, parameters: dict[str, Any], ok: bool
) -> None:
    facts = symbol_facts_of(row_of(contractType="CURRENT_QUARTER", deliveryDate=delivered_in_s * 1_000), "BTCUSDT")
    assert contract(facts, Config.from_parameters(mode="demo", **parameters), 0).ok is ok


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9000", "http://10.0.0.1:9000", "http://localhost:9000\n", "http://localhost"]
)
def test_another_address_of_a_venue_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(ConfigError, match="venue: must be the address of a venue on this machine, such as http://127"):
        Config.from_parameters(venue=address)
    assert Config.from_parameters(venue="http://localhost:9000").session.venue


def row_of(**changed: Any) -> dict[str, Any]:
    side = {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": changed.pop("side", "NONE")}
    row = {"symbol": "BTCUSDT", "status": "TRADING", "contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000}
    return {"symbols": [{**row, "filters": [side], **changed}]}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"contractType": "PERPETUAL_DELIVERING"}, "of a known type (PERPETUAL, CURRENT_QUARTER"),
        ({"contractType": "SOMETHING_NEW"}, "of a known type"),
        ({"side": "LONG"}, "open for entries on both sides"),
        ({"status": "TRADING_HALT"}, "TRADING: choose another symbol, or another time"),
        ({"status": "NO_TRADING"}, "TRADING: start when the market that it follows is open"),
        ({"status": "HOURS_UNKNOWN"}, "TRADING: the exchange must tell the hours"),
    ],
)
def test_a_contract_of_another_kind_is_refused(changed: dict[str, Any], wanted: str) -> None:
    config = Config.from_parameters(mode="demo")
    assert contract(symbol_facts_of(row_of(), "BTCUSDT"), config, 0).ok
    refused = contract(symbol_facts_of(row_of(**changed), "BTCUSDT"), config, 0)
    assert not refused.ok
    assert refused.wanted.startswith(wanted)
