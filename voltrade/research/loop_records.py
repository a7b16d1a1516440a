"""Records of a compiled session: the exchange's state beside account and symbol, and the tables of results."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from voltrade.compiled import Record, Rows, compiled_in_place, compiled_part, record_dtype
from voltrade.model import EQUITY_POINT, Bools, Int64s
from voltrade.orders.records import (
    ACCOUNT,
    ALERT,
    BOOKS_EVENT,
    CHANGE,
    ORDER,
    ROWS,
    SYMBOL,
    TRIP,
    BooksEvent,
    flags,
    wholes,
)

IN_TRANSIT, TAKING, ENDED = 1, 2, 3
"""Phases of an ordinary order at the exchange; 0 while there is none, as before an algo order has triggered."""

MODELLED = (-2018, -2019, -2020, -2021, -2022, -2027, -4131, -4164)
"""Codes with which an order may be refused without ending the compiled session."""

UNMODELLED = (
    "",
    "an order was refused for a reason that isn't modelled",
    "an order filled after its round trip had ended",
    "a position was not as the orders make it",
    "a position was liquidated",
    "more happened at once than there is room for",
)
REFUSED, LATE_FILL, NOT_EXPLAINED, LIQUIDATED, NO_ROOM = range(1, 6)
"""Why the loop gave up, as an index into `UNMODELLED`."""

LEVELS = 256
"""Room for fills that are told at once: prices at which an order may fill."""

DONE, NEEDS_ROOM, GIVEN_UP = range(3)
"""Return values of `simulate`."""

BRACKET = record_dtype(wholes("cap", "maintenance_e8", "deducted"))
"""A leverage bracket, lowest first: the fields of `simulated.symbols.Bracket`."""

SETTINGS = record_dtype(
    [
        *wholes("latency_ms", "fill_horizon_ms", "slippage_e8", "taker_fee_e8", "take_bound_e8"),
        *wholes("leverage", "largest_notional", "bracket_count"),
        ("brackets", BRACKET, (16,)),
        *wholes("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "min_price", "max_price"),
        *wholes("multiplier_up_e8", "multiplier_down_e8"),  # of the mark, for PERCENT_PRICE
        *wholes("tick_e8", "step_numerator", "step_denominator", "money_per_ticklot"),
        *flags("triggers_by_mark", "isolated", "is_brief"),
    ]
)
"""Settings of the exchange; prices in ticks, quantities in lots, money in 1e-8, rates in 1e-8."""

EXCHANGE_ORDER = record_dtype(
    [
        *wholes("algo_id", "algo_status", "order_id", "phase", "live_from", "reference", "status"),
        *wholes("executed", "executed_notional", "answered", "updated", "code"),
        *flags("arrived"),
    ]
)
"""An order as the exchange has it; an algo order and the order that it becomes share a row."""

PLACED = record_dtype([("order", ORDER), ("at_exchange", EXCHANGE_ORDER)])
"""An order at its end, as the core had it and as the exchange had it."""

FILL = record_dtype(
    wholes("time", "order", "side", "quantity", "price", "fee", "realised", "executed", "executed_notional", "status")
)
"""A fill; its trade id is its number in the table, from 1. `realised` is money before the fee."""

MARK = record_dtype(
    [*wholes("time", "row", "price_e8", "funding_rate"), ("bars", np.int32), *flags("is_last_price")],
)
"""A mark price: its time, the first trade at or after it, the rate of the funding that is due at it (nearly always 0),
how many bars the trades before it close, and whether it is the last trade's price."""

BLOCK = record_dtype([*wholes("first", "lowest", "highest", "lowest_e8", "highest_e8"), *flags("ends_hour")])
"""Consecutive mark prices of a quarter of an hour: the number of the first, of the lowest and of the highest, these two
prices, and whether the mark price after the block is in another hour. A last row has the number of all as `first`."""

SIMULATION = record_dtype(
    [
        # the next trade, mark price and signal
        *wholes("row", "mark", "fundings", "signal", "block"),
        # the highest valuation that was noted at a mark price, or less
        *wholes("highest"),
        # times and prices that open orders wait for, and how far the tape was searched for them
        *wholes("arrival", "algo_arrival", "rises_to", "falls_to", "searched_to", "search_bar"),
        # prices of the last trade, the last buy and the last sell by a taker
        *wholes("last_price", "last_bought", "last_sold"),
        # the account as the exchange has it
        *wholes("order_ids", "algo_ids", "wallet", "quantity", "cost", "mark_e8", "added_margin"),
        # notional of fills, ticks x lots, and of it what no trade gave
        *wholes("taken", "extrapolated"),
        # executed outputs, rows in the tables, and why the session was given up
        *wholes("next_output", "event_count", "fill_count", "orders_written", "fills_written", "trips_written"),
        *wholes("equity_written", "changes_written", "alerts_written", "refusals_written", "unmodelled"),
        *flags("is_busy", "watch_is_stale", "has_ended"),
        *wholes("reserved"),  # numbers before rows, as in ACCOUNT
        ("settings", SETTINGS),
        ("account", ACCOUNT),
        ("symbols", SYMBOL, (1,)),
        ("at_exchange", EXCHANGE_ORDER, (ROWS,)),
        ("blank_order", EXCHANGE_ORDER),
        ("blank_event", BOOKS_EVENT),
        ("answer", BOOKS_EVENT),
        ("events", BOOKS_EVENT, (LEVELS,)),
        ("fills", FILL, (LEVELS,)),
    ]
)
"""All of a session, as one row: a function then takes one pointer, since a dozen arrays as arguments would cost more
time than most functions need. `at_exchange` has the orders of the symbol's rows; `events` are those for the core."""

TABLES = {"orders": PLACED, "fills": FILL, "trips": TRIP, "equity": EQUITY_POINT, "changes": CHANGE, "alerts": ALERT}
"""Tables of results, which grow during a session."""


class TableMemory(NamedTuple):
    """Memory of the tables, with room for more rows."""

    orders: Rows
    fills: Rows
    trips: Rows
    equity: Rows
    changes: Rows
    alerts: Rows


class TradeColumns(NamedTuple):
    """The trades of the tape: what a compiled function takes that fills orders. All of `Market` would be more than a
    hundred numbers on the stack at each call."""

    price: Int64s
    quantity: Int64s
    time: Int64s
    buyer_is_maker: Bools


class Market(NamedTuple):
    """The tape, its bars, its mark prices and its signals."""

    trades: TradeColumns
    closing_rows: Int64s
    """For each bar, the trade that closed it."""
    high: Int64s
    low: Int64s
    closing_times: Int64s
    marks_at_bars: Int64s
    """For each bar, how many mark prices there are up to the trade that closed it."""
    marks: Rows
    """Mark prices, rows of MARK."""
    funding_marks: Int64s
    """Numbers of the mark prices at which funding is due."""
    marks_at_last: Int64s
    """Numbers of the mark prices that are the last trade's."""
    blocks: Rows
    """Blocks of mark prices, rows of BLOCK."""
    signals: Rows
    refusals: Rows
    """Memory for refused signals, as many rows as there are signals."""


def set_constants(sim: Any) -> None:
    """Set the fields that never change."""
    sim["blank_event"] = sim["answer"] = tuple(BooksEvent(0))
    sim["watch_is_stale"] = True


@compiled_part
def free_row(sim: Record, count: int, size: int) -> int:
    """Return the row after `count` rows; give up on the session where all `size` rows are used."""
    if count < size:
        return count
    sim.unmodelled = NO_ROOM
    return size - 1


@compiled_in_place
def first_at_least(column: Int64s, start: int, stop: int, wanted: int) -> int:
    """Return the first row in [start, stop) of a sorted column with at least the wanted value, else `stop`.

    Rows near `start` are found fastest: what is searched is nearly always near, and the rest of the column is not in
    the processor's cache.
    """
    low, step = start, 4
    while low + step < stop and column[low + step - 1] < wanted:
        low, step = low + step, 2 * step
    high = min(low + step, stop)
    while low < high:
        middle = (low + high) // 2
        if column[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return int(low)
