"""The records of orders, position and account, which live trading and research share.

There is one row of SYMBOL for each symbol and one row of ACCOUNT; the functions of `order_rules`, `position_rules` and
`core_rules` read and change their fields by name. They hold what we believe; what the exchange reports comes in as a
BOOKS_EVENT. Prices are ticks, quantities lots, notionals ticklots, money and rates units of 1e-8, times ms UTC. Texts
are stored as the numbers of `order_states`.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from voltrade import risk
from voltrade.compiled import Record, Rows, compiled_part, record_dtype
from voltrade.config import ExecutionSettings, ExitSettings, milliseconds
from voltrade.model import EQUITY_POINT, NEVER, Instrument
from voltrade.orders.order_states import NONE

ROWS = 32
"""Rows for the orders of a symbol that can still act or whose fills aren't all counted. A finished order frees its
row."""

SPARE = 4
"""Rows that are reserved for stops and exits: entries, take-profits and larger stops are not sent into them."""


def wholes(*names: str) -> list[tuple[Any, ...]]:
    """Return fields of a record that hold whole numbers."""
    return [(name, np.int64) for name in names]


def flags(*names: str) -> list[tuple[Any, ...]]:
    """Return fields of a record that are true or false."""
    return [(name, np.bool_) for name in names]


# --- orders and positions ---------------------------------------------------------------------------------------------

ORDER = record_dtype(
    [
        # the intent
        *wholes("number", "round_trip", "purpose", "count", "side", "quantity", "price", "trigger_price", "time"),
        *wholes("reason", "bar"),
        # the state, as we know it
        *wholes("state", "order_id", "filled", "reported", "updated_at", "code"),
        *flags("child_done", "is_foreign", "is_removable"),
        # what we do next
        *wholes("lookup_at", "lookup_reason", "cancel_reason", "cancels"),
    ]
)
"""An order. `number` is unique within the symbol, `count` within the round trip and purpose. `order_id` of a
conditional order is that of the order that it became, and `child_done` says that this order has ended. `filled`: lots
of counted fills; `reported`: lots that the exchange says are filled. `lookup_at` and `lookup_reason`: when to ask for
its state, and why. `cancels`: how often its cancel was sent."""

POSITION = record_dtype(
    [
        *wholes("id", "side", "bar", "stop_distance", "take_profit_distance"),
        *wholes("opened_at", "entered", "entry_notional", "exited", "exit_notional", "last_exit_time"),
        *wholes("realised", "fees", "funding", "exit_reason"),
        # why it is to be closed at market, and when an order that was refused is sent again
        *wholes("closing_reason", "stop_retry_at", "stop_tries", "exit_retry_at", "exit_tries"),
        *wholes("take_profit_retry_at", "take_profit_tries", "unprotected_since"),
        # how many orders were sent for it, and the trigger prices of the newest
        *wholes("stops", "take_profits", "exits", "stop_price", "take_profit_price"),
        *wholes("rest_reason"),
        *flags("is_closed"),
    ]
)
"""A round trip in progress. `closing_reason` is NONE while the position is to stay open. `unprotected_since`: since
when (at the earliest the last restart) orders at the exchange don't cover all of it, NEVER where they do.
`rest_reason`: NONE until a stop or take-profit has triggered and ended; then why the lots that it has left, if any, are
closed."""

CLOSED_TRIP = record_dtype(wholes("time", "net"))
"""A closed round trip that has not been reported to the circuit breaker and the cooldown yet."""

UPKEEP = record_dtype(
    [
        *wholes("stale_ms", "max_holding_ms", "max_holding_bars", "max_slippage_e8"),
        *((name, np.float64) for name in ("stop_atr", "take_profit_atr", "tick_size")),
        *flags("limit_entry", "exit_on_opposite_signal"),
    ]
)
"""The settings of `ExitSettings` and `ExecutionSettings` in the units of the records."""

SYMBOL = record_dtype(
    [
        ("settings", UPKEEP),
        *wholes("index", "money_per_ticklot", "step_numerator", "step_denominator"),
        # the books: signed lots and their cost, and the newest prices; 0 before the first
        *wholes("quantity", "cost", "mark_e8", "last_price", "price_time", "realised_last"),
        # orders: the newest time that was reported, numbers given, fills counted
        *wholes("time", "snapshot_at", "snapshot_reason", "unexplained_lots", "ignored", "round_trips"),
        *wholes("order_numbers", "counted", "agreed_at"),
        *flags("mark_is_last_price", "in_round_trip", "reconciled", "nothing_to_reduce"),
        *wholes("halt_wanted", "halt_applied", "entry_failures", "largest_order", "largest_guess", "account_read_at"),
        *wholes("price_step", "quantity_step"),
        *wholes("order_count", "removable_count"),
        ("position", POSITION),
        ("earlier", POSITION),
        ("no_position", POSITION),
        ("no_order", ORDER),
        ("orders", ORDER, (ROWS,)),
        # entries and cooldown: bars closed so far, how many there were at the last opening and exit, and the last entry
        *wholes("bars", "opened_at_bar", "last_entry_time", "last_exit_time", "last_exit_bar", "closed_trip_count"),
        ("closed_trips", CLOSED_TRIP, (4,)),
        ("gate_inputs", risk.GATE_INPUTS, (1,)),
        ("limits", risk.LIMITS, (1,)),
    ]
)
"""All that the compiled rules keep of a symbol.

`snapshot_at` and `snapshot_reason`: when to read the account, NEVER where nothing asks for it, and why.
`unexplained_lots`: signed lots of the last snapshot's position if its trades don't explain it, else 0. `agreed_at`:
when a snapshot last agreed, or had more lots that count as foreign, and listed every order. `account_read_at`: when the
account was last read because an order could not be looked up. `mark_is_last_price`: whether `mark_e8` is the last
trade's price, since the exchange's mark price isn't known. `nothing_to_reduce`: the exchange has refused an exit since
the last fill because there was nothing to close. `largest_order`: the largest exit that the exchange takes by its
filters, 0 while unknown;
`largest_guess`: likewise after a refusal as too large of this position's orders, 0 for none. `price_step` and
`quantity_step`: ticks and lots of which all prices and quantities that are sent are multiples. `halt_wanted`:
why trading must halt until an operator resumes it; `halt_applied`: the same, once the breaker has halted.
`removable_count`: orders whose rows can be freed. `earlier`: the position of a finished order that the exchange reports
on late.
"""

HALTED_BY_REFUSAL, HALTED_BY_LATE_FILL, HALTED_BEFORE, HALTED_BY_FAILURES, HALTED_BY_FOREIGN_ORDER = range(1, 6)
"""Values of `halt_wanted` and `halt_applied`; 0 where nothing halts."""

# --- outputs ----------------------------------------------------------------------------------------------------------

SUBMIT, CANCEL, LOOKUP, SNAPSHOT, TRIP_CLOSED, VALUED, CHANGED, ALERTED, SIGNAL_REFUSED = range(9)
"""Kinds of outputs: commands up to SNAPSHOT, then notes: RoundTrip, EquityPoint, BreakerChange, Alert, Refusal."""

OUTPUT = record_dtype(wholes("kind", "symbol", "at", "reason", "time"))
"""A command or note; `at` is the row of its order, or of the note in its table."""

TRIP = record_dtype(
    wholes(
        "id", "side", "opened_at", "closed_at", "bar_number", "quantity", "entry_notional", "exit_notional", "realised",
        "fees", "funding", "exit_reason", "stop_price", "take_profit_price", "fills",
    )
)  # fmt: skip
"""A closed round trip: the fields of `model.RoundTrip`; `fills` is the number of all fills until then."""

REFUSAL = record_dtype(wholes("time", "bar", "side", "gate", "measure", "limit"))
CHANGE = record_dtype(wholes("time", "rule", "mode", "released", "action", "measure", "limit", "release_at"))
ALERT = record_dtype(wholes("time", "kind", "order"))
"""An alert; `order` is the number of the order that it is about, -1 for none."""

ORDER_REFUSED, STOP_IS_MISSING, NEVER_PLACED, ROWS_ARE_FULL = range(4)
ORDER_IS_GONE, STOP_HAS_ENDED, TRIGGER_IS_STUCK, REST_IS_STUCK = range(4, 8)
"""Kinds of alerts."""

NOTES = {"trips": TRIP, "equity": EQUITY_POINT, "changes": CHANGE, "alerts": ALERT, "refusals": REFUSAL}
"""Tables of notes."""

ACCOUNT = record_dtype(
    [
        *wholes("now", "wallet", "realised", "fees", "funding", "transfers", "adjustments"),
        # the session: NONE where entries aren't paused, or where it hasn't ended
        *wholes("paused", "end_reason", "end_at", "last_timer_at", "stopped_at"),
        *flags("is_open", "keep_position", "flatten_at_end", "has_overflowed"),
        *wholes("gate_count"),  # numbers before rows: rows within a row are laid out as if they needed no alignment
        ("breaker", risk.BREAKER_STATE, (1,)),
        ("holds", risk.BREAKER_HOLDS, (len(risk.RULES),)),
        ("breaker_rules", risk.BREAKER_RULES, (risk.MEASURED_COUNT,)),
        ("gate_rules", np.int64, (32,)),  # for each gate the number of its breaker rule, -1 for none
        ("outputs", OUTPUT, (256,)),
        ("trips", TRIP, (16,)),
        ("equity", EQUITY_POINT, (64,)),
        ("changes", CHANGE, (128,)),
        ("alerts", ALERT, (64,)),
        ("refusals", REFUSAL, (64,)),
        *wholes("output_count", "command_count", *(f"{table}_count" for table in NOTES)),
    ]
)  # fmt: skip
"""All that the compiled rules keep of the account.

`is_open`: the account's balance is known. `keep_position`: the position stays open when the session ends.
`has_overflowed`: one event led to more outputs than there is room for; none is overwritten.
"""

# --- events -----------------------------------------------------------------------------------------------------------

(
    ORDER_UPDATED, ALGO_UPDATED, REPLIED, TIMER_DUE, MARKED, FUNDED, TRANSFERRED, BARS_CLOSED, BREAKER_UPDATED,
    ENTRIES_STOPPED, LOOKUP_WANTED, EXIT_ADOPTED, ORPHAN_ADOPTED, SYNC_WANTED, ORDERS_CHANGED, ASKED, ADJUSTED,
) = range(17)  # fmt: skip
"""Kinds of events."""

NEXT_DUE, IS_FINISHED, ORDERS_DUE, HAS_UNSETTLED_ORDER, WAKE_AT_BAR = range(5)
"""Questions of an ASKED event."""

NO_SYMBOL = 1
"""Code of a FUNDED event: which symbol has paid isn't known."""

HAS_ORDER, HAS_ALGO = 1, 2
"""Bits of `BooksEvent.updates`: the reply carries the state of an ordinary order, of a conditional one, or both."""


class BooksEvent(NamedTuple):
    """What the core tells the compiled rules, or asks them, as the fields of BOOKS_EVENT; those that a kind doesn't
    need are 0. It is made from a `model.Event`, which is what the journal has."""

    kind: int
    symbol: int = 0
    order: int = 0
    """Row of the order that it is about."""
    time: int = 0
    status: int = 0
    reported: int = 0
    """Lots that the exchange says are filled, in all."""
    order_id: int = 0
    trade_id: int = 0
    """Not 0 where the event carries a fill of `quantity` at `price`."""
    quantity: int = 0
    price: int = 0
    fee: int = 0
    realised: int = 0
    """Profit of the fill before its fee, as the exchange reports it."""
    command: int = 0
    """The command that a reply is for: SUBMIT, CANCEL or LOOKUP."""
    outcome: int = 0
    code: int = 0
    """Binance's code; also the question of ASKED, the fact of BREAKER_UPDATED, the purpose of ORPHAN_ADOPTED,
    NO_SYMBOL of FUNDED, and 1 for MARKED where the mark price is the last trade's."""
    updates: int = 0
    """Which updates a reply carries: HAS_ORDER, HAS_ALGO or both."""
    order_time: int = 0
    """Time of the ordinary order's update in a reply."""
    algo_status: int = 0
    algo_time: int = 0
    """Status and time of the conditional order's update in a reply."""
    orders_only: bool = False
    """Whether to change orders alone: breaker and cooldown are updated later, by ORDERS_CHANGED."""
    amount: int = 0
    """Money, a mark price in 1e-8, or the amount of a breaker's fact."""
    reason: int = NONE
    side: int = 0


BOOKS_EVENT = record_dtype([(name, np.bool_ if name == "orders_only" else np.int64) for name in BooksEvent._fields])

SIGNAL = record_dtype(
    [
        *wholes("bar", "row", "side", "price", "stop_ticks", "take_profit_ticks"),
        *flags("ready", "last_bar", "tainted", "day_end"),
    ]
)
"""A bar with an entry signal; `row` is the row of the trade that closed it."""


# --- new rows, and rows for Python ------------------------------------------------------------------------------------


def new_account() -> Rows:
    """Return one row of ACCOUNT, whose balance is not known yet."""
    account = np.zeros(1, ACCOUNT)
    account["paused"] = account["end_reason"] = NONE
    account["end_at"], account["last_timer_at"] = NEVER, -1
    account["holds"]["release_at"] = NEVER
    return account


HAS_LIMIT = {"market": False, "ioc_limit": True}
"""Whether an entry has a limit price, by the setting `entry`; another value is a KeyError, and isn't sent as MARKET."""


def new_symbol(
    symbol: Any, index: int, instrument: Instrument, exits: ExitSettings, execution: ExecutionSettings
) -> None:
    """Fill a row of SYMBOL: flat and not reconciled."""
    step = instrument.step_size.as_integer_ratio()
    settings = symbol["settings"]
    settings["stale_ms"] = milliseconds(execution.order_stale_s)
    settings["max_holding_ms"], settings["max_holding_bars"] = milliseconds(exits.max_holding_s), exits.max_holding_bars
    settings["max_slippage_e8"] = risk.rate_e8(execution.max_slippage_bps / 10_000)
    settings["stop_atr"], settings["take_profit_atr"] = exits.stop_atr, exits.take_profit_atr
    settings["tick_size"] = float(instrument.tick_size)
    settings["limit_entry"] = HAS_LIMIT[execution.entry]
    settings["exit_on_opposite_signal"] = exits.exit_on_opposite_signal
    symbol["index"], symbol["money_per_ticklot"] = index, instrument.money_per_ticklot
    symbol["step_numerator"], symbol["step_denominator"] = step
    symbol["snapshot_at"], symbol["last_exit_time"], symbol["last_entry_time"] = NEVER, risk.NO_EXIT, risk.NO_ENTRY
    symbol["price_step"] = symbol["quantity_step"] = 1
    no_position, order = symbol["no_position"], symbol["no_order"]
    no_position["unprotected_since"] = no_position["take_profit_retry_at"] = NEVER
    for name in ("closing_reason", "rest_reason", "exit_reason"):
        no_position[name] = NONE
    order["lookup_reason"] = order["cancel_reason"] = symbol["snapshot_reason"] = NONE
    order["bar"] = -1
    symbol["position"] = symbol["earlier"] = no_position
    symbol["gate_inputs"] = risk.new_gate_inputs()


def bare(rows: Rows) -> Any:
    """Return a view of rows in which Python reads `row["name"]` several times as fast."""
    return rows.view(np.dtype((np.void, rows.dtype)))


def row_type(name: str, dtype: np.dtype[Any]) -> Any:
    """Return a named tuple class for the rows of a dtype, as `tolist` and `item` return them."""
    return namedtuple(name, dtype.names or ())


OrderRow, PositionRow = row_type("OrderRow", ORDER), row_type("PositionRow", POSITION)
TripRow = row_type("TripRow", TRIP)
RefusalRow, ChangeRow = row_type("RefusalRow", REFUSAL), row_type("ChangeRow", CHANGE)
AlertRow, EquityRow = row_type("AlertRow", ALERT), row_type("EquityRow", EQUITY_POINT)


@compiled_part
def add_output(account: Record, kind: int, symbol: int, at: int, reason: int, time: int) -> None:
    """Append an output. Where there is no room it is dropped and `has_overflowed` is set."""
    number = account.output_count
    if number == len(account.outputs):
        account.has_overflowed = True
        return
    output = account.outputs[number]
    output.kind, output.symbol, output.at, output.reason, output.time = kind, symbol, at, reason, time
    account.output_count = number + 1
    account.command_count += kind <= SNAPSHOT


@compiled_part
def note_row(account: Record, count: int, size: int) -> int:
    """Return the next row of a table of notes; where it is full, its last row, and `has_overflowed` is set."""
    if count < size:
        return count
    account.has_overflowed = True
    return size - 1
