"""The symbols shipped with voltrade: filters, rules and leverage brackets, taken from Binance's tables.

`filters.json` is a part of exchangeInfo and `brackets.json` of leverageBracket, each with its date. The simulated
exchange uses them, and a backtest names them in its result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

from voltrade.errors import DataError
from voltrade.exchange.filters import instrument_of
from voltrade.model import MONEY, Instrument, TimeInForce, money
from voltrade.simulated.formatting import plain


@dataclass(frozen=True, slots=True)
class Bracket:
    """One leverage bracket, for notionals above `floor` and up to `cap` (money)."""

    leverage: int
    """The highest allowed."""
    floor: int
    cap: int
    maintenance_e8: int
    """Maintenance margin rate."""
    deducted: int
    """Maintenance amount (`cum`), money: subtracted from notional x rate, so that margin is continuous."""


def brackets_of(rows: list[tuple[int, int, str]]) -> tuple[Bracket, ...]:
    """Build brackets from (leverage, notional cap in the quote asset, maintenance margin rate), lowest first.

    The maintenance amount of a bracket is that of the previous bracket plus floor x increase of the rate, as on
    Binance's page about the liquidation price.
    """
    brackets: list[Bracket] = []
    floor = deducted = rate_before = 0
    for leverage, cap, rate in rows:
        rate_e8 = int(Decimal(rate) * MONEY)
        deducted += floor * (rate_e8 - rate_before)
        brackets.append(Bracket(leverage, money(floor), money(cap), rate_e8, deducted))
        floor, rate_before = cap, rate_e8
    return tuple(brackets)


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """Rules of a symbol that are not in `Instrument`. Prices in ticks, rates in 1e-8."""

    min_price: int = 1
    max_open_orders: int = 200
    price_precision: int = 8
    quantity_precision: int = 8
    trigger_protect_e8: int = 5_000_000
    """A conditional order with `priceProtect` does not trigger if mark and last price differ by more than this."""
    liquidation_fee_e8: int = 1_250_000
    funding_interval_ms: int = 8 * 3_600_000
    tick_multiple: int = 1
    step_multiple: int = 1
    """Of the instrument's tick and step, which the tape has: prices and quantities of orders are multiples of these."""
    position_control: str = "NONE"
    """POSITION_RISK_CONTROL's side, LONG or SHORT, in which only reduce-only orders are accepted; NONE for neither."""
    brackets: tuple[Bracket, ...] = brackets_of([(125, 1_000_000_000, "0.025")])


@cache
def table(name: str) -> Any:
    """Return the content of a JSON file of this package, such as "simulated/filters.json"."""
    return json.loads(resources.files("voltrade").joinpath(name).read_text("utf-8"))


def shipped_exchange_info() -> dict[str, Any]:
    """Return the shipped part of exchangeInfo: `source`, `rateLimits`, `assets` and `symbols`."""
    info: dict[str, Any] = table("simulated/filters.json")
    return info


def shipped_symbols() -> list[str]:
    """Return the names of the shipped symbols."""
    return [entry["symbol"] for entry in shipped_exchange_info()["symbols"]]


def shipped_instrument(symbol: str) -> Instrument:
    """Return a symbol's filters from the shipped table.

    Raises:
        DataError: the table has no such symbol.
    """
    entry, _ = _shipped_entry(symbol)
    return instrument_of({"symbols": [{**entry, "status": "TRADING"}]}, symbol, shipped_exchange_info()["source"])


def shipped_rules(symbol: str) -> SymbolRules:
    """Return a symbol's other rules from the shipped tables.

    Raises:
        DataError: the tables have no such symbol.
    """
    entry, filters = _shipped_entry(symbol)
    price = filters["PRICE_FILTER"]
    return SymbolRules(
        min_price=int(Decimal(price["minPrice"]) / Decimal(price["tickSize"])),
        max_open_orders=filters["MAX_NUM_ORDERS"]["limit"],
        price_precision=entry["pricePrecision"],
        quantity_precision=entry["quantityPrecision"],
        trigger_protect_e8=int(Decimal(entry["triggerProtect"]) * MONEY),
        liquidation_fee_e8=int(Decimal(entry["liquidationFee"]) * MONEY),
        brackets=brackets_of(table("simulated/brackets.json")["symbols"][symbol]),
    )


def _shipped_entry(symbol: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    for entry in shipped_exchange_info()["symbols"]:
        if entry["symbol"] == symbol:
            return entry, {rule["filterType"]: dict(rule) for rule in entry["filters"]}
    raise DataError(f"symbol: must be one of the shipped {', '.join(shipped_symbols())}, was {symbol}")


# --- REST -------------------------------------------------------------------------------------------------------------


def symbol_info(instrument: Instrument, rules: SymbolRules, status: str, delivery_time: int = 0) -> dict[str, Any]:
    """Return the row of exchangeInfo for a symbol with its present filters and status."""
    row, filters = _shipped_entry(instrument.symbol)
    tick, step = instrument.tick_size * rules.tick_multiple, instrument.step_size * rules.step_multiple
    if (tick, step) != (
        shipped_instrument(instrument.symbol).tick_size,
        shipped_instrument(instrument.symbol).step_size,
    ):
        filters["PRICE_FILTER"] |= {"tickSize": plain(tick)}
        for name in ("LOT_SIZE", "MARKET_LOT_SIZE"):
            filters[name] |= {"stepSize": plain(step)}
    if instrument != shipped_instrument(instrument.symbol):
        quantity, bounds = instrument.quantity, (instrument.multiplier_up, instrument.multiplier_down)
        lots = {"minQty": plain(quantity(instrument.min_quantity)), "maxQty": plain(quantity(instrument.max_quantity))}
        filters["LOT_SIZE"] |= lots
        filters["MARKET_LOT_SIZE"] |= {"maxQty": plain(quantity(instrument.market_max_quantity))}
        filters["PRICE_FILTER"] |= {"maxPrice": plain(instrument.price(instrument.max_price))}
        filters["MIN_NOTIONAL"] |= {"notional": plain(Decimal(instrument.min_notional).scaleb(-8))}
        filters["PERCENT_PRICE"] |= dict(zip(("multiplierUp", "multiplierDown"), map(plain, bounds), strict=True))
        row = {**row, "marketTakeBound": plain(instrument.market_take_bound)}
    if "POSITION_RISK_CONTROL" in filters:
        filters["POSITION_RISK_CONTROL"] |= {"positionControlSide": rules.position_control}
    precision = {"pricePrecision": rules.price_precision, "quantityPrecision": rules.quantity_precision}
    row = {**row, **precision, "deliveryDate": delivery_time or row["deliveryDate"]}
    return {**row, "filters": list(filters.values()), "status": status, "timeInForce": list(TimeInForce)}


def bracket_rows(brackets: Sequence[Bracket]) -> list[dict[str, Any]]:
    """Return brackets as rows of leverageBracket."""
    return [
        {"bracket": number, "initialLeverage": each.leverage, "notionalCap": each.cap // MONEY}
        | {"notionalFloor": each.floor // MONEY, "cum": each.deducted / MONEY}
        | {"maintMarginRatio": each.maintenance_e8 / MONEY}
        for number, each in enumerate(brackets, 1)
    ]
