"""Facts for tests, each one sensible until a test says otherwise."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from voltrade.compiled import Record
from voltrade.model import BAR, CloseReason, Instrument, VolumeBar, money


def an_instrument(symbol: str = "BTCUSDT", tick: str = "0.10", step: str = "0.001", **other: Any) -> Instrument:
    """BTCUSDT as Binance had it in December 2025, or a variation."""
    settings: dict[str, Any] = {
        "base_asset": symbol.removesuffix("USDT"),
        "quote_asset": "USDT",
        "tick_size": Decimal(tick),
        "step_size": Decimal(step),
        "min_quantity": 1,
        "max_quantity": 1_000_000,
        "market_max_quantity": 120_000,
        "min_notional": money(100),
        "multiplier_up": Decimal("1.05"),
        "multiplier_down": Decimal("0.95"),
        "market_take_bound": Decimal("0.05"),
        "max_price": 8_094_840,
        "source": "made by hand",
    }
    return Instrument(symbol, **{**settings, **other})


def volume_bar(row: Record, symbol: str) -> VolumeBar:
    """A row of BAR as a frozen fact."""
    values = dict(zip(BAR.names or (), row.item(), strict=True))
    values["close_reason"] = CloseReason(values["close_reason"])
    return VolumeBar(symbol=symbol, **values)
