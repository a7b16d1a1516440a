"""Words as numbers, and the rows that a compiled session is kept in: one DESK, and the tables that it fills.

Words are those of `oms`, `risk` and `model`; a row holds a word's place among them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from voltrade import oms, risk
from voltrade.compiled import Record, Rows, compiled_part, record_dtype
from voltrade.model import EQUITY, Bools, Int64s, Purpose

# --- words as numbers -------------------------------------------------------------------------------------------------

STATES = tuple(dict.fromkeys(str(state) for state in (*oms.OrderState, *oms.AlgoState)))
"""Every state that an order or a conditional order can be in; rows hold the index."""

(
    PENDING_SUBMIT, NEW, PARTIALLY_FILLED, FILLED, PENDING_CANCEL, CANCELED, REJECTED, EXPIRED, UNKNOWN, TRIGGERING,
    TRIGGERED, FINISHED,
) = (
    STATES.index(state)
    for state in (
        "PENDING_SUBMIT", "NEW", "PARTIALLY_FILLED", "FILLED", "PENDING_CANCEL", "CANCELED", "REJECTED", "EXPIRED",
        "UNKNOWN", "TRIGGERING", "TRIGGERED", "FINISHED",
    )
)  # fmt: skip

LEGAL = np.zeros((2, len(STATES), len(STATES)), np.bool_)
"""Legal moves of an ordinary order (0) and a conditional one (1), from and to: `oms.MOVES` and `oms.ALGO_MOVES`."""
for number, moves in enumerate(
    [(state, after) for state, allowed in table.items() for after in allowed] for table in (oms.MOVES, oms.ALGO_MOVES)
):
    for state, after in moves:
        LEGAL[number, STATES.index(state), STATES.index(after)] = True

IS_DONE = np.array([state in oms.DONE for state in STATES])

PURPOSES = tuple(Purpose)
ENTRY, STOP, TAKE_PROFIT, EXIT = range(4)

TRAVELLING, TAKING, ENDED = 1, 2, 3
"""Phases of an ordinary order at the exchange; 0 while there is none, as before a conditional order has triggered."""

REASONS = (
    *risk.RULES, "", "SIGNAL", "PROTECT", "RESIZE", "TARGET", "STOP", "TAKE_PROFIT", "STOP_REST", "STOP_REFUSED",
    "STOP_MISSING", "TIME", "OPPOSITE_SIGNAL", "POSITION_CLOSED", "RESIZED", "STALE", "DURATION_END", "TAPE_END",
)  # fmt: skip
"""Why something was done; rows hold the index. A breaker rule's own number is its reason."""
(
    NONE, SIGNALLED, PROTECT, RESIZE, TARGET, BY_STOP, BY_TAKE_PROFIT, STOP_REST, STOP_REFUSED, STOP_MISSING, BY_TIME,
    OPPOSITE_SIGNAL, POSITION_CLOSED, RESIZED, STALE, DURATION_END, TAPE_END,
) = range(len(risk.RULES), len(REASONS))  # fmt: skip

SUBMIT, CANCEL, LOOKUP, SNAPSHOT = range(4)
"""Kinds of commands."""

OF_ORDER, OF_ALGO, OF_FUNDING = range(3)
"""Kinds of news."""

REFUSALS = (-2018, -2019, -2020, -2021, -2022, -2027, -4131, -4164)
"""Codes under which an order may be refused and the session still goes on as it is modelled."""
REFUSED_CODES = np.array(REFUSALS)
REACTIONS = np.array([list(oms.Reaction).index(oms.REACTIONS[code]) for code in REFUSALS])
RETRY, LEAVE, RECONCILE, HALT = (
    list(oms.Reaction).index(reaction)
    for reaction in (oms.Reaction.RETRY, oms.Reaction.LEAVE, oms.Reaction.RECONCILE, oms.Reaction.HALT)
)

ORDER_REFUSED, STOP_IS_MISSING = range(2)
"""Kinds of alerts."""

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


# --- rows -------------------------------------------------------------------------------------------------------------


def _wholes(*names: str) -> list[tuple[Any, ...]]:
    return [(name, np.int64) for name in names]


def _flags(*names: str) -> list[tuple[Any, ...]]:
    return [(name, np.bool_) for name in names]


BRACKET = record_dtype(_wholes("cap", "maintenance_e8", "deducted"))
"""A leverage bracket, lowest first: the fields of `exchange.shipped.Bracket`."""

SETTINGS = record_dtype(
    [
        *_wholes("latency_ms", "slippage_e8", "taker_fee_e8", "take_bound_e8", "leverage", "largest_notional"),
        *_wholes("bracket_count"),
        ("brackets", BRACKET, (16,)),
        *_wholes("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "min_price", "max_price"),
        *_wholes("multiplier_up_e8", "multiplier_down_e8"),  # of the mark, for PERCENT_PRICE
        *_wholes("tick_e8", "step_numerator", "step_denominator", "money_per_ticklot"),
        *_wholes("max_slippage_e8", "stale_ms", "max_holding_bars", "max_holding_ms"),
        *_flags("limit_entry", "triggers_by_mark", "exit_on_opposite_signal", "flatten_at_end", "isolated", "is_brief"),
    ]
)
"""What stays the same through a session; prices in ticks, quantities in lots, money in 1e-8, rates in 1e-8."""

SIGNAL = record_dtype(
    [
        *_wholes("bar", "row", "side", "price", "stop_ticks", "take_profit_ticks"),
        *_flags("ready", "last_bar", "tainted", "day_end"),
    ]
)
"""A bar whose rule wants an entry; `row` is the trade that closed it."""

ORDER = record_dtype(
    [
        # the intent
        *_wholes("round_trip", "purpose", "number", "side", "quantity", "price", "trigger_price", "time", "reason"),
        *_wholes("bar"),
        # at the exchange; a conditional order's child has no row of its own
        *_wholes("algo_id", "algo_status"),
        *_flags("arrived"),
        *_wholes("order_id", "phase", "live_from", "reference", "status", "executed", "executed_notional"),
        # as the monitor knows it
        *_wholes("state", "filled", "reported", "look_at", "child_id"),
        *_flags("child_done"),
        # for the record
        *_wholes("answered", "updated", "code", "text"),
    ]
)

COMMAND = record_dtype(_wholes("kind", "order"))

NEWS = record_dtype(
    [*_wholes("kind", "order", "status", "executed", "order_id", "trade_id", "quantity", "price", "fee")]
)
"""What the exchange tells: an order's status and filled quantity, and one fill where `trade_id` isn't 0; or a wallet
that funding has changed, in `price`."""

FILL = record_dtype(
    _wholes("time", "order", "quantity", "price", "fee", "realised", "executed", "executed_notional", "status")
)
"""A fill; its trade id is its number in the table, from 1. `realised` is money before the fee."""

TRIP = record_dtype(
    _wholes(
        "id", "side", "opened_at", "closed_at", "bar_number", "quantity", "entry_notional", "exit_notional", "realised",
        "fees", "funding", "exit_reason", "stop_price", "take_profit_price", "fills",
    )
)  # fmt: skip
"""A closed round trip: the fields of `model.RoundTrip`; `fills` is the number of all fills until then."""

REFUSAL = record_dtype(_wholes("time", "bar", "side", "gate", "measure", "limit"))
CHANGE = record_dtype(_wholes("time", "rule", "mode", "resumed", "action", "measure", "limit", "resume_at"))
ALERT = record_dtype(_wholes("time", "kind", "order"))

DESK = record_dtype(
    [
        # where the session stands: the next trade, mark price and signal; bars closed so far; the time
        *_wholes("row", "mark", "signal", "bars", "now"),
        # what the open orders wait for, all together, and how far the tape was searched for it
        *_wholes("arrival", "algo_arrival", "rises_to", "falls_to", "searched_to", "search_bar"),
        *_flags("taking_buys", "taking_sells", "is_busy", "watch_is_old"),
        # the last trade, and the last at which a taker bought and sold
        *_wholes("last_price", "last_bought", "last_sold"),
        # the account as the exchange has it, and as our books do
        *_wholes("order_ids", "algo_ids", "exchange_wallet", "exchange_quantity", "exchange_cost", "exchange_mark_e8"),
        *_wholes("added_margin"),
        *_wholes("wallet", "quantity", "cost", "mark_e8"),
        # the core
        *_wholes("opened_at_bar", "left_at", "left_at_bar", "end_at", "end_reason", "woken_at"),
        *_flags("paused", "keep", "has_ended"),
        # the monitor, and the round trip in hand
        *_wholes("monitor_time", "snapshot_at", "round_trips", "counted"),
        *_flags("in_hand", "reconciled", "trip_closed", "closed"),
        *_wholes("newest_stop", "newest_take_profit", "stops", "take_profits", "exits"),
        *_wholes("side", "bar", "stop_distance", "take_profit_distance"),
        *_wholes("opened_at", "entered", "entry_notional", "left", "exit_notional", "realised", "fees", "funding"),
        *_wholes(
            "exit_reason", "exit_time", "leave_reason", "retry_at", "stop_tries", "exit_tries", "unprotected_since"
        ),
        # what the rules are told
        ("settings", SETTINGS),
        ("facts", risk.FACTS, (1,)),
        ("limits", risk.LIMITS, (1,)),
        ("breaker", risk.BREAKER_STATE, (1,)),
        ("holds", risk.BREAKER_HOLDS, (len(risk.RULES),)),
        ("breaker_rules", risk.BREAKER_RULES, (4,)),
        # commands to be carried out, news not heard yet, orders of the round trip in hand, notes not written down yet
        ("commands", COMMAND, (64,)),
        ("news", NEWS, (64,)),
        ("orders", ORDER, (256,)),
        ("fills", FILL, (64,)),
        ("trips", TRIP, (16,)),
        ("equity", EQUITY, (64,)),
        ("changes", CHANGE, (128,)),
        ("alerts", ALERT, (64,)),
        *_wholes("next_command", "command_count", "news_count", "order_count"),
        *_wholes("fill_count", "trip_count", "equity_count", "change_count", "alert_count"),
        # rows in the tables, and why the session was given up
        *_wholes("orders_written", "fills_written", "trips_written", "equity_written", "changes_written"),
        *_wholes("alerts_written", "refusals_written", "unmodelled"),
    ]
)
"""All of a session. It is one row, so that a function takes one pointer: a dozen arrays would cost more to hand over
than most functions take."""

TABLES = {"orders": ORDER, "fills": FILL, "trips": TRIP, "equity": EQUITY, "changes": CHANGE, "alerts": ALERT}
"""Tables that grow as a session goes on."""


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


@compiled_part
def free_row(desk: Record, count: int, size: int) -> int:
    """The row after `count` rows; where all `size` are used up the session is given up."""
    if count < size:
        return count
    desk.unmodelled = TOO_MUCH
    return size - 1
