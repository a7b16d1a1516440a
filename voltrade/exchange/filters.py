"""Reads a symbol's filters from exchangeInfo."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from voltrade.errors import DataError
from voltrade.exchange.fields import MONEY_TEXTS, Fields
from voltrade.model import Instrument


def instrument_of(exchange_info: object, symbol: str, source: str, *, any_status: bool = False) -> Instrument:
    """Read a symbol's filters from exchangeInfo, exactly.

    A bound that is not a multiple of the tick or step is rounded inwards, which allows the same orders.

    Args:
        exchange_info: the decoded response.
        symbol: such as `BTCUSDT`.
        source: where the filters come from, for the results that name it.
        any_status: accept a symbol that is not trading, since a position in it must still be managed.

    Raises:
        DataError: the symbol is not listed, is not trading, or a filter is invalid.
    """
    info = Fields("exchangeInfo", exchange_info)
    row = next((row for row in info.parts("symbols") if row.text("symbol") == symbol), None)
    if row is None:
        raise DataError(f"symbol must be listed at the exchange, was {symbol}")
    if row.text("status") != "TRADING" and not any_status:
        raise DataError(f"symbol must be trading, was {symbol}, which is {row.text('status')}")
    filters = {part.text("filterType"): part for part in row.parts("filters")}
    price, lot, market, notional, percent = (
        _filter(filters, symbol, kind)
        for kind in ("PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE", "MIN_NOTIONAL", "PERCENT_PRICE")
    )
    tick, step = _positive(price, "tickSize"), _positive(lot, "stepSize")
    if _positive(market, "stepSize") % step:
        raise market.error("stepSize", f"must be a multiple of LOT_SIZE's {step}")
    return Instrument(
        symbol=symbol,
        base_asset=row.text("baseAsset"),
        quote_asset=row.text("quoteAsset"),
        tick_size=tick,
        step_size=step,
        min_quantity=_inwards(lot, "minQty", step, ROUND_CEILING),
        max_quantity=_inwards(lot, "maxQty", step, ROUND_FLOOR),
        market_max_quantity=_inwards(market, "maxQty", step, ROUND_FLOOR),
        min_notional=notional.units("notional", MONEY_TEXTS),
        multiplier_up=percent.decimal("multiplierUp"),
        multiplier_down=percent.decimal("multiplierDown"),
        market_take_bound=row.decimal("marketTakeBound"),
        max_price=_inwards(price, "maxPrice", tick, ROUND_FLOOR),
        status=row.text("status"),
        source=source,
    )


def _filter(filters: Mapping[str, Fields], symbol: str, kind: str) -> Fields:
    if kind not in filters:
        raise DataError(f"exchangeInfo of {symbol} must have the filter {kind}")
    return Fields(f"{symbol}.{kind}", filters[kind].row)


def _positive(fields: Fields, name: str) -> Decimal:
    value = fields.decimal(name)
    if value <= 0:
        raise fields.error(name, "must be positive")
    return value.normalize() if value != value.to_integral_value() else value.to_integral_value()


def _inwards(fields: Fields, name: str, unit: Decimal, rounding: str) -> int:
    return int((fields.decimal(name) / unit).to_integral_value(rounding=rounding))
