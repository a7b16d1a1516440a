"""Converts the columns of a file of trades to whole ticks, whole lots and milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from voltrade.data.faults import Findings, Policy
from voltrade.data.row_checks import MICROSECONDS_FROM
from voltrade.data.trade_files import Columns, multiples
from voltrade.model import Bools, Instrument, Int64s

NO_TRADES = ("INSURANCE_FUND", "ADL", "NA")
"""Order types of raw rows that aren't market trades: they are dropped, as the exchange's aggTrades have none."""

EARLIEST_MS = 1_000_000_000_000
"""September 2001: a smaller time isn't in milliseconds."""

LARGEST_TICKLOTS = 2**62
"""Largest price x quantity of a row, in ticks x lots."""

USD_M_NAMES = ("binance-futures", "binanceusdm")
"""What tardis and ccxt call USD-M Futures."""

MAKER, TAKER, NO_SIDE = 1, 0, -1

ORDER_TYPES = ("MARKET", *NO_TRADES)


@dataclass(frozen=True, slots=True, eq=False)
class TradeRows:
    """Rows of a file as numbers."""

    number: Int64s
    """Line number."""
    id: Int64s
    price: Int64s
    quantity: Int64s
    time: Int64s
    side: npt.NDArray[np.int8]
    order_type: npt.NDArray[np.int8]
    """Index into `ORDER_TYPES`."""
    bad: Bools
    """Whether a value other than the id is invalid."""

    def __getitem__(self, rows: Any) -> TradeRows:
        return TradeRows(*(getattr(self, name)[rows] for name in self.__slots__))

    @staticmethod
    def join(parts: list[TradeRows]) -> TradeRows:
        return TradeRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in TradeRows.__slots__))


def convert_columns(columns: Columns, instrument: Instrument, found: Findings) -> TradeRows:
    """Convert columns to whole ticks, lots and milliseconds, and add the faults of values; drop rows without an id."""
    number, count = columns.numbers, len(columns.numbers)
    bad = np.zeros(count, dtype=np.bool_)

    def refuse(wrong: Bools, rule: str, values: Any) -> None:
        bad[:] |= found.where("bad_value", wrong, number, rule, values)

    def whole(name: str, unit: Decimal) -> Int64s:
        column = columns.columns[name]
        counts, wrong = multiples(column, unit)
        rule = f"{name} must be a whole number" if unit == 1 else f"{name} must be a multiple of {unit}"
        refuse(wrong, rule, column)
        return counts

    def refuse_points(name: str) -> None:
        texts = columns.columns[name]
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            has_point = pa.compute.match_substring(texts, ".").fill_null(False).to_numpy(zero_copy_only=False)
            refuse(has_point, f"{name} must be a whole number", texts)

    refuse_points("id")
    ids = whole("id", Decimal(1))
    has_id = ~bad
    price = whole("price", instrument.tick_size)
    quantity = whole("quantity", instrument.step_size)
    time = whole("time", Decimal(1))
    in_microseconds = time >= MICROSECONDS_FROM
    milliseconds = np.where(in_microseconds, time // 1000, time)
    outside = (milliseconds < EARLIEST_MS) | (milliseconds >= MICROSECONDS_FROM)
    refuse(outside & ~bad, "time must be in milliseconds or microseconds since 1970", columns.columns["time"])
    refuse(price > instrument.max_price, f"price must be at most {instrument.max_price} ticks", price)
    most = LARGEST_TICKLOTS // instrument.max_price
    refuse(quantity > most, f"quantity must be at most {most} lots", quantity)
    other = _other_symbol(columns, instrument, found)
    side, wrong = _sides(columns)
    refuse(wrong, *_side_rule(columns))
    order_type, wrong = _order_types(columns, price, quantity)
    refuse(wrong, f"order_type must be MARKET, {', '.join(NO_TRADES)}", columns.columns.get("order_type"))

    found.where("microseconds", in_microseconds & ~bad, number, "time must be in milliseconds", time)
    if count and not {"is_buyer_maker", "side"} & set(columns.columns):
        has = ", ".join(columns.header)
        found.add("missing_side", number, f"must have the columns is_buyer_maker, has {has}")
    else:
        found.where("missing_side", (side == NO_SIDE) & ~bad, number, "is_buyer_maker must be true or false, was empty")
    rows = TradeRows(number, ids, price, quantity, milliseconds, side, order_type, bad)
    kept = has_id if found.policies["other_symbol"] is Policy.FLAG else has_id & ~other
    return rows if kept.all() else rows[kept]


def _other_symbol(columns: Columns, instrument: Instrument, found: Findings) -> Bools:
    """Add the faults of rows that are of another symbol or exchange; return which are of another symbol.

    ccxt writes BTC/USDT:USDT for what is traded at USD-M Futures, and BTC/USDT for spot.
    """
    base, quote, name = instrument.base_asset, instrument.quote_asset, instrument.symbol
    symbols = (name, name.lower(), f"{base}/{quote}:{quote}")
    wrong = _other_than(columns, "symbol", symbols)
    found.where("other_symbol", wrong, columns.numbers, f"symbol must be {name}", columns.columns.get("symbol"))
    elsewhere = _other_than(columns, "exchange", USD_M_NAMES)
    rule = f"exchange must be {' or '.join(USD_M_NAMES)}"
    found.where("other_market", elsewhere, columns.numbers, rule, columns.columns.get("exchange"))
    return wrong


def _other_than(columns: Columns, name: str, accepted: tuple[str, ...]) -> Bools:
    """Return the rows that state something else in a column; none where there is no such column."""
    column = columns.columns.get(name)
    if column is None:
        return np.zeros(len(columns.numbers), np.bool_)
    return ~_is_in(column.cast(pa.string()).fill_null(""), (*accepted, ""))


def _side_rule(columns: Columns) -> tuple[str, Any]:
    """Return the rule for the column that states the side, and the column; None where there is none."""
    if "is_buyer_maker" not in columns.columns and "side" in columns.columns:
        return "side must be buy or sell", columns.columns["side"]
    return "is_buyer_maker must be true or false", columns.columns.get("is_buyer_maker")


def _sides(columns: Columns) -> tuple[npt.NDArray[np.int8], Bools]:
    """Return the side of each row (MAKER, TAKER or NO_SIDE), and which rows have an invalid one."""
    rule, column = _side_rule(columns)
    if column is None:
        count = len(columns.columns["id"])
        return np.full(count, NO_SIDE, np.int8), np.zeros(count, np.bool_)
    texts = pa.compute.utf8_lower(column.cast(pa.string()))
    is_side = rule.startswith("side")
    words = (("sell", "s"), ("buy", "b")) if is_side else (("true", "1"), ("false", "0"))
    maker, taker = (_is_in(texts, each) for each in words)
    sides = np.where(maker, MAKER, np.where(taker, TAKER, NO_SIDE)).astype(np.int8)
    return sides, ~(maker | taker | _is_in(texts.fill_null(""), ("",)))


def _order_types(columns: Columns, price: Int64s, quantity: Int64s) -> tuple[npt.NDArray[np.int8], Bools]:
    """Return the order type of each row, and which rows have an invalid one.

    Raw archive files have no such column: there a row of zeros is an `NA` record.
    """
    column = columns.columns.get("order_type")
    if columns.kind == "aggTrades" or column is None:
        is_na = (price == 0) & (quantity == 0) if columns.kind == "trades" else np.zeros(len(price), np.bool_)
        return np.where(is_na, ORDER_TYPES.index("NA"), 0).astype(np.int8), np.zeros(len(price), np.bool_)
    codes = pa.compute.index_in(column.cast(pa.string()), pa.array(ORDER_TYPES)).fill_null(-1)
    types = codes.to_numpy(zero_copy_only=False).astype(np.int8)
    return types, types < 0


def _is_in(texts: pa.Array, words: tuple[str, ...]) -> Bools:
    found: Bools = pa.compute.is_in(texts, pa.array(words)).to_numpy(zero_copy_only=False)
    return found
