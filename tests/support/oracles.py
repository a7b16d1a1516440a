"""An independent volume-bar fold in plain Python and Decimal, written from the conventions alone.

It shares nothing with voltrade: no integers of ticks, no state to save, one obvious step after another. Slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

DAY_MS = 24 * 60 * 60 * 1000

Row = tuple[int, Decimal, Decimal, int, bool]
"""id, price, quantity in coins, time in ms UTC, buyer is maker"""


def decimal_bars(
    rows: Iterable[Row],
    unit: str,
    threshold: Decimal,
    anchor: str,
    tick: Decimal,
    step: Decimal,
) -> list[dict[str, Any]]:
    """Process trades into bars; the last one has close_reason OPEN if a bar is open at the end.

    Prices, volumes and notionals are Decimals in natural units; the other fields are those of `VolumeBar`.
    """
    bars: list[dict[str, Any]] = []
    open_bar: dict[str, Any] | None = None
    day, number, carried, last_id, taint_next = 0, 0, Decimal(0), None, False

    def close(reason: str) -> None:
        nonlocal open_bar, number
        assert open_bar is not None
        bars.append({**open_bar, "close_reason": reason})
        open_bar, number = None, number + 1

    for trade_id, price, quantity, time, buyer_is_maker in rows:
        assert price % tick == 0
        assert quantity % step == 0
        if last_id is not None and trade_id <= last_id:
            continue  # a duplicate, or out of order
        if price <= 0 or quantity <= 0:
            last_id = trade_id if last_id is not None and trade_id == last_id + 1 else last_id
            continue
        jumped = last_id is not None and trade_id > last_id + 1
        last_id = trade_id
        if jumped and open_bar is not None:
            open_bar["tainted"] = True
        if anchor == "utc_day" and time // DAY_MS > day:
            taint_next = jumped
            if open_bar is not None:
                close("DAY_END")
            day, number, carried = time // DAY_MS, 0, Decimal(0)
        elif jumped and open_bar is None:
            taint_next = True

        first_lot, left = True, quantity
        while left > 0:
            if open_bar is None:
                open_bar = {
                    "day": day,
                    "number": number,
                    "open_time": time,
                    "first_trade_id": trade_id,
                    "open": price,
                    "high": price,
                    "low": price,
                    "volume": Decimal(0),
                    "taker_buy_volume": Decimal(0),
                    "notional": Decimal(0),
                    "trade_count": 0,
                    "tainted": taint_next,
                    "carried": carried,
                }
                taint_next = False
            taken = _taken(open_bar, left, price, unit, threshold, step)
            left -= taken
            open_bar["close_time"], open_bar["last_trade_id"], open_bar["close"] = time, trade_id, price
            open_bar["high"], open_bar["low"] = max(open_bar["high"], price), min(open_bar["low"], price)
            open_bar["volume"] += taken
            open_bar["taker_buy_volume"] += Decimal(0) if buyer_is_maker else taken
            open_bar["notional"] += taken * price
            open_bar["trade_count"] += 1 if first_lot else 0
            first_lot = False
            reached = _reached(open_bar, unit)
            if reached >= threshold:
                carried = reached - threshold if unit == "quote" else Decimal(0)
                close("THRESHOLD")

    if open_bar is not None:
        bars.append({**open_bar, "close_reason": "OPEN"})
    for bar in bars:
        del bar["carried"]
    return bars


def _reached(bar: dict[str, Any], unit: str) -> Decimal:
    if unit == "base":
        return Decimal(bar["volume"])
    if unit == "quote":
        return Decimal(bar["carried"] + bar["notional"])
    return Decimal(bar["trade_count"])


def _taken(bar: dict[str, Any], left: Decimal, price: Decimal, unit: str, threshold: Decimal, step: Decimal) -> Decimal:
    """What the bar takes of a trade: lots up to and including the one that reaches the threshold."""
    missing = threshold - _reached(bar, unit)
    if unit == "base":
        return min(left, missing)
    if unit == "quote":
        lots = (missing / (price * step)).to_integral_value(rounding="ROUND_CEILING")
        return min(left, max(lots, Decimal(1)) * step)
    return left
