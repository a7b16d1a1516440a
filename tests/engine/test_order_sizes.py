"""The largest order of a session, by hand."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.engine.checks import refused
from voltrade.engine.order_sizes import largest_lots, simulated_size, size
from voltrade.model import MONEY, PositionReport, Snapshot


def a_snapshot(wallet: int, available: int | None = None, lots: int = 0, **changed: Any) -> Snapshot:
    free = wallet if available is None else available
    position = PositionReport("BTCUSDT", lots, "60000")
    values = {"leverage": 5, "margin_type": "isolated", "hedge_mode": False, "position": position} | changed
    return Snapshot(0, "BTCUSDT", wallet * MONEY, free * MONEY, 50_000, 20_000, **values)


# At 60,000 the shortest stop is twice the costs of a round trip, 132: a lot of 0.001 loses 0.132 by it, 0.0661 by costs
@pytest.mark.parametrize(
    ("parameters", "snapshot", "lots"),
    [
        ({}, a_snapshot(10_000), 252),  # 50 of risk
        ({"capital": 100}, a_snapshot(10_000), 2),  # 0.50 of risk, 120 of notional
        ({"capital": 50}, a_snapshot(10_000), 0),  # 0.25 of risk buys 60 of notional, less than 100
        ({"capital": 20, "risk_fraction": 0.5}, a_snapshot(10_000), 0),  # 40 of notional
        ({"risk_fraction": 0.02}, a_snapshot(10_000), 333),  # 20,000 of notional
        ({"risk_fraction": 0.02}, a_snapshot(10_000, max_notional=6_001 * MONEY), 100),  # the bracket's
        ({"risk_fraction": 0.02}, a_snapshot(10_000, max_notional=6_001 * MONEY, leverage=20), 333),  # another's
        ({"risk_fraction": 0.02, "leverage": 1}, a_snapshot(10_000, leverage=1), 166),  # all of the margin
        ({"risk_fraction": 0.02, "leverage": 1}, a_snapshot(10_000, 100, leverage=1), 0),
        ({"risk_fraction": 0.02, "leverage": 1}, a_snapshot(10_000, 100, 4, leverage=1), 166),  # a position has it
    ],
)
def test_the_largest_order_is_bounded_by_risk_notional_bracket_and_margin(
    parameters: dict[str, Any], snapshot: Snapshot, lots: int
) -> None:
    config = Config.from_parameters(mode="demo", **parameters)
    assert largest_lots(an_instrument("BTCUSDT"), snapshot, config, Decimal(60_000)) == lots


@pytest.mark.parametrize(
    ("parameters", "mark", "told"),
    [
        ({}, "ok", "0.252 BTC, 15,120.00 USDT, with the shortest stop"),
        ({"capital": 100}, "ok", "0.002 BTC, 120.00 USDT, with the shortest stop"),
        (
            {"capital": 20},
            "~~",
            "none, so that no entry will be made: less, by capital, risk and margin, whatever the stop, must be at "
            "least 0.002 BTC, 120.00 USDT: -p capital MORE, or more risk_fraction, max_notional_multiple or leverage",
        ),
    ],
)
def test_a_size_that_can_not_trade_is_marked_and_prevents_no_rehearsal(
    parameters: dict[str, Any], mark: str, told: str
) -> None:
    """1,465 bars were played with a capital of 20, without an entry and without a word of why."""
    config = Config.from_parameters(mode="paper", **parameters)
    row = size(an_instrument("BTCUSDT"), a_snapshot(10_000), config, Decimal(60_000))
    assert (row.item, row.mark, row.told, row.ok) == ("largest order", mark, told, True)
    assert refused([row]) == ""


@pytest.mark.parametrize(
    ("told", "asked", "found"),
    [
        ("60000", None, "0.252 BTC"),  # the venue tells it before its first trade, and nobody is asked
        ("", "60000.0", "0.252 BTC"),
        ("0", "60000.0", "0.252 BTC"),
        ("", "0", "unknown: premiumIndex.markPrice must be positive"),
    ],
)
def test_the_price_of_a_simulated_size_is_the_venues_or_the_mark(told: str, asked: str | None, found: str) -> None:
    async def read(call: str, params: object) -> dict[str, str]:
        assert asked is not None
        return {"markPrice": asked}

    rest: Any = SimpleNamespace(read=read)
    config = Config.from_parameters(mode="paper")
    row = asyncio.run(simulated_size(rest, an_instrument("BTCUSDT"), a_snapshot(10_000), config, told))
    assert (row.found.startswith(found), row.mark) == (True, "ok")
