"""The rows of a compiled session: what the exchange has, beside the records of account and symbol, and its tables."""

from __future__ import annotations

from typing import Any, NamedTuple

from voltrade.compiled import Record, Rows, compiled_part, record_dtype
from voltrade.model import EQUITY, Bools, Int64s
from voltrade.records import ACCOUNT, ALERT, CHANGE, EVENT, ORDER, ROWS, SYMBOL, TRIP, Event, flags, wholes

TRAVELLING, TAKING, ENDED = 1, 2, 3
"""Phases of an ordinary order at the exchange; 0 while there is none, as before a conditional order has triggered."""

MODELLED = (-2018, -2019, -2020, -2021, -2022, -2027, -4131, -4164)
"""Codes under which an order may be refused and the session still goes on as it is modelled."""

UNMODELLED = (
    "",
    "an order was refused for a reason that isn't modelled",
    "an order filled after its round trip had ended",
    "a position was not as the orders make it",
    "a position was liquidated",
    "more happened at once than there is room for",
)
REFUSED, LATE_FILL, NOT_EXPLAINED, LIQUIDATED, TOO_MUCH = range(1, 6)
"""Why the loop gave up."""

DONE, MORE_ROOM, GIVEN_UP = range(3)
"""What `simulate` returns."""

BRACKET = record_dtype(wholes("cap", "maintenance_e8", "deducted"))
"""A leverage bracket, lowest first: the fields of `exchange.shipped.Bracket`."""

SETTINGS = record_dtype(
    [
        *wholes("latency_ms", "slippage_e8", "taker_fee_e8", "take_bound_e8", "leverage", "largest_notional"),
        *wholes("bracket_count"),
        ("brackets", BRACKET, (16,)),
        *wholes("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "min_price", "max_price"),
        *wholes("multiplier_up_e8", "multiplier_down_e8"),  # of the mark, for PERCENT_PRICE
        *wholes("tick_e8", "step_numerator", "step_denominator", "money_per_ticklot"),
        *flags("triggers_by_mark", "isolated", "is_brief"),
    ]
)
"""The exchange's side of the settings; prices in ticks, quantities in lots, money in 1e-8, rates in 1e-8."""

TRUTH = record_dtype(
    [
        *wholes("algo_id", "algo_status", "order_id", "phase", "live_from", "reference", "status"),
        *wholes("executed", "executed_notional", "answered", "updated", "code"),
        *flags("arrived"),
    ]
)
"""An order as the exchange has it; a conditional order's child has no row of its own."""

PLACED = record_dtype([("order", ORDER), ("truth", TRUTH)])
"""An order as it was believed to stand at its end, and as the exchange had it."""

FILL = record_dtype(
    wholes("time", "order", "quantity", "price", "fee", "realised", "executed", "executed_notional", "status")
)
"""A fill; its trade id is its number in the table, from 1. `realised` is money before the fee."""

SIMULATION = record_dtype(
    [
        # where the session stands: the next trade, mark price and signal
        *wholes("row", "mark", "signal"),
        # what the open orders wait for, all together, and how far the tape was searched for it
        *wholes("arrival", "algo_arrival", "rises_to", "falls_to", "searched_to", "search_bar"),
        # the last trade, and the last at which a taker bought and sold
        *wholes("last_price", "last_bought", "last_sold"),
        # the account as the exchange has it
        *wholes("order_ids", "algo_ids", "wallet", "quantity", "cost", "mark_e8", "added_margin"),
        # outputs that were seen to, rows in the tables, and why the session was given up
        *wholes("next_output", "news_count", "fill_count", "orders_written", "fills_written", "trips_written"),
        *wholes("equity_written", "changes_written", "alerts_written", "refusals_written", "unmodelled"),
        *flags("taking_buys", "taking_sells", "is_busy", "watch_is_old", "has_ended"),
        *wholes("reserved"),  # numbers before rows, as in ACCOUNT
        ("settings", SETTINGS),
        ("account", ACCOUNT),
        ("symbols", SYMBOL, (1,)),
        ("truth", TRUTH, (ROWS,)),
        ("nothing", TRUTH),
        ("no_event", EVENT),
        ("answer", EVENT),
        ("news", EVENT, (64,)),
        ("fills", FILL, (64,)),
    ]
)
"""All of a session. It is one row, so that a function takes one pointer: a dozen arrays would cost more to hand over
than most functions take. `truth` is of the orders in the symbol's rows; what is told goes by `news`."""

TABLES = {"orders": PLACED, "fills": FILL, "trips": TRIP, "equity": EQUITY, "changes": CHANGE, "alerts": ALERT}
"""Tables that grow as a session goes on."""


class Written(NamedTuple):
    """The same, as rows with room for more."""

    orders: Rows
    fills: Rows
    trips: Rows
    equity: Rows
    changes: Rows
    alerts: Rows


class Market(NamedTuple):
    """The tape, its bars, its mark prices and its signals."""

    price: Int64s
    quantity: Int64s
    time: Int64s
    buyer_is_maker: Bools
    closing_rows: Int64s
    """For each bar, the trade that closed it."""
    high: Int64s
    low: Int64s
    mark_times: Int64s
    mark_rows: Int64s
    mark_prices: Int64s
    fundings: Int64s
    """For each mark, how often funding is due at it; nearly always not."""
    funding_rates: Int64s
    signals: Rows
    refusals: Rows
    """As many rows as there are signals, to be written."""


def begin(sim: Any) -> None:
    """Fill in what stays as it is."""
    sim["no_event"] = sim["answer"] = tuple(Event(0))
    sim["watch_is_old"] = True


@compiled_part
def free_row(sim: Record, count: int, size: int) -> int:
    """The row after `count` rows; where all `size` are used up the session is given up."""
    if count < size:
        return count
    sim.unmodelled = TOO_MUCH
    return size - 1
