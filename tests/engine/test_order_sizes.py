"""The largest order of a session, by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from support.builders import an_instrument

from voltrade.config import Config
from voltrade.engine.order_sizes import largest_lots
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
