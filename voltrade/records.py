"""The records that live trading and research share: what is believed of orders, position and account.

One row of SYMBOL a symbol, one row of ACCOUNT, in which `order_rules` and `core_rules` change fields by name. What the
exchange has is never in them: it comes in as an EVENT. Prices are ticks, quantities lots, notionals ticklots, money and
rates 1e-8, times ms UTC; words are numbers of `order_states`.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from voltrade import risk
from voltrade.compiled import Record, Rows, compiled_part, record_dtype
from voltrade.config import ExecutionSettings, ExitSettings, milliseconds
from voltrade.model import EQUITY, NEVER, Instrument
from voltrade.order_states import NONE

ROWS = 32
"""Orders of a symbol that can still act, or whose fills aren't all counted. An order that is over leaves its row."""

SPARE = 4
"""Rows that are kept for stops and exits: nothing that takes risk, or only betters a position, is sent into them."""


def wholes(*names: str) -> list[tuple[Any, ...]]:
    """Fields of a record that are whole numbers."""
    return [(name, np.int64) for name in names]


def flags(*names: str) -> list[tuple[Any, ...]]:
    """Fields of a record that are true or false."""
    return [(name, np.bool_) for name in names]


# --- what is believed of orders and positions -------------------------------------------------------------------------

ORDER = record_dtype(
    [
        # the intent; `number` tells it from every other order of the symbol, `count` from those of its purpose
        *wholes("number", "round_trip", "purpose", "count", "side", "quantity", "price", "trigger_price", "time"),
        *wholes("reason", "bar"),
        # what the exchange told; `order_id` of a conditional order is that of the order that it became
        *wholes("state", "order_id", "filled", "reported", "told_at", "code"),
        *flags("child_done", "is_foreign", "is_over"),
        # what we do next
        *wholes("look_at", "cancel_reason"),
    ]
)

POSITION = record_dtype(
    [
        *wholes("id", "side", "bar", "stop_distance", "take_profit_distance"),
        *wholes("opened_at", "entered", "entry_notional", "exited", "exit_notional", "last_exit_time"),
        *wholes("realised", "fees", "funding", "exit_reason"),
        # why and when it is to be left; `leave_reason` NONE: it isn't
        *wholes("leave_reason", "stop_at", "stop_tries", "exit_at", "exit_tries", "target_at", "target_tries"),
        *wholes("unprotected_since"),
        # orders sent for it, and where the newest stand
        *wholes("stops", "take_profits", "exits", "stop_price", "take_profit_price"),
        *flags("stop_spent", "is_closed"),
    ]
)
"""A round trip in progress. `stop_spent`: a stop or take-profit triggered and ended, whatever is left.
`unprotected_since`: since when orders at the exchange don't cover it whole."""

CLOSING = record_dtype(wholes("time", "net"))
"""A round trip that ended, of which breaker and cooldown aren't told yet."""

UPKEEP = record_dtype(
    [
        *wholes("stale_ms", "max_holding_ms", "max_holding_bars", "max_slippage_e8"),
        *((name, np.float64) for name in ("stop_atr", "take_profit_atr", "tick_size")),
        *flags("limit_entry", "exit_on_opposite_signal"),
    ]
)
"""Settings of a position's upkeep."""

SYMBOL = record_dtype(
    [
        ("settings", UPKEEP),
        *wholes("place", "money_per_ticklot", "step_numerator", "step_denominator"),
        # the books: what is held at what cost, and its prices; 0 before the first
        *wholes("quantity", "cost", "mark_e8", "last_price", "price_time", "realised_last"),
        # orders: the latest time told of; numbers given; fills counted
        *wholes("time", "snapshot_at", "disagreements", "shown", "ignored", "round_trips", "order_numbers", "counted"),
        *wholes("agreed_at"),
        *flags("has_position", "reconciled", "nothing_to_reduce"),
        *wholes("halts", "halted", "entry_failures", "largest_order", "read_at", "order_count", "over_count"),
        ("position", POSITION),
        ("earlier", POSITION),
        ("no_position", POSITION),
        ("no_order", ORDER),
        ("orders", ORDER, (ROWS,)),
        # entries and cooldown: bars closed so far, and how many there were at the last opening and exit
        *wholes("bars", "opened_at_bar", "last_exit_time", "last_exit_bar", "closing_count"),
        ("closings", CLOSING, (4,)),
        ("facts", risk.FACTS, (1,)),
        ("limits", risk.LIMITS, (1,)),
    ]
)
"""`nothing_to_reduce`: the exchange has refused an exit since the last fill, as there was nothing to close.
`largest_order`: what the exchange takes in one exit, 0 where it has refused none. `read_at`: when the account was
last read for the sake of an order that could not be looked up. `agreed_at`: when the account was
last seen to be as it is here, with every order listed. `shown`: signed lots that the exchange last showed and its
trades don't explain. `halts`: why a person must look, and `halted` when the breaker has been told. `over_count`: rows
that can be given back. `earlier`: the position of an order that is over and of which something is told late."""

HALTED_BY_REFUSAL, HALTED_BY_LATE_FILL, HALTED_BEFORE, HALTED_BY_FAILURES, HALTED_BY_HAND = range(1, 6)
"""Values of `SYMBOL.halts`; 0 where nothing halts."""

# --- what follows -----------------------------------------------------------------------------------------------------

SUBMIT, CANCEL, LOOKUP, SNAPSHOT, CLOSED, VALUED, CHANGED, ALERTED, TURNED_DOWN = range(9)
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
CHANGE = record_dtype(wholes("time", "rule", "mode", "resumed", "action", "measure", "limit", "resume_at"))
ALERT = record_dtype(wholes("time", "kind", "order"))
"""`order` is the number of the order that it is about."""

ORDER_REFUSED, STOP_IS_MISSING, NEVER_PLACED, ROWS_ARE_FULL, ORDER_IS_GONE, STOP_IS_REPLACED, TRIGGER_IS_STUCK = range(
    7
)
"""Kinds of alerts."""

NOTES = {"trips": TRIP, "equity": EQUITY, "changes": CHANGE, "alerts": ALERT, "refusals": REFUSAL}
"""Tables of notes."""

ACCOUNT = record_dtype(
    [
        *wholes("now", "wallet", "realised", "fees", "funding", "transfers"),
        # the session: NONE where entries aren't paused, where it hasn't ended
        *wholes("paused", "end_reason", "end_at", "woken_at", "stopped_at"),
        *flags("is_open", "keep", "flatten_at_end", "is_too_much"),
        *wholes("gate_count"),  # numbers before rows: rows within a row are laid out as if they needed no alignment
        ("breaker", risk.BREAKER_STATE, (1,)),
        ("holds", risk.BREAKER_HOLDS, (len(risk.RULES),)),
        ("breaker_rules", risk.BREAKER_RULES, (4,)),
        ("gate_rules", np.int64, (32,)),  # for each gate the breaker's rule that it stands for, -1 for none
        ("outputs", OUTPUT, (256,)),
        ("trips", TRIP, (16,)),
        ("equity", EQUITY, (64,)),
        ("changes", CHANGE, (128,)),
        ("alerts", ALERT, (64,)),
        ("refusals", REFUSAL, (64,)),
        *wholes("output_count", "command_count", *(f"{table}_count" for table in NOTES)),
    ]
)  # fmt: skip
"""`is_open`: the exchange has told what the account has. `keep`: the position is kept when the session ends.
`is_too_much`: more followed at once than there is room for; nothing is overwritten."""

# --- what is told -----------------------------------------------------------------------------------------------------

(
    ORDER_TOLD, ALGO_TOLD, REPLIED, TIMER_DUE, MARKED, FUNDED, TRANSFERRED, BARS_CLOSED, BREAKER_TOLD, STOPPED,
    LOOK_UP_TOLD, EXIT_ADOPTED, ORPHAN_ADOPTED, SYNC_TOLD, ORDERS_CHANGED, ASKED,
) = range(16)  # fmt: skip
"""Kinds of events."""

NEXT_DUE, IS_FINISHED, ORDERS_DUE, HAS_UNKNOWN, WAKE_AT_BAR = range(5)
"""What may be ASKED."""

OF_ORDER, OF_ALGO = 1, 2
"""What an answer tells of beside itself, as bits."""


class Event(NamedTuple):
    """What is told, as the fields of EVENT; those that a kind of event doesn't need are 0."""

    kind: int
    symbol: int = 0
    order: int = 0
    """Row of the order that it is about."""
    time: int = 0
    status: int = 0
    reported: int = 0
    """Lots filled in all, as the exchange says."""
    order_id: int = 0
    trade_id: int = 0
    """Not 0: it brings a fill of `quantity` at `price`."""
    quantity: int = 0
    price: int = 0
    fee: int = 0
    realised: int = 0
    """Profit of the fill before its fee, as the exchange says."""
    command: int = 0
    """What was asked: SUBMIT, CANCEL or LOOKUP."""
    outcome: int = 0
    code: int = 0
    told: int = 0
    """What the answer tells of beside itself: OF_ORDER, OF_ALGO or both, and when that was."""
    told_at: int = 0
    algo_status: int = 0
    algo_told_at: int = 0
    is_alone: bool = False
    """Whether only orders are to be looked at: breaker and cooldown are told later, by ORDERS_CHANGED."""
    amount: int = 0
    """Wallet, mark price, or what the breaker is told."""
    reason: int = NONE
    side: int = 0


EVENT = record_dtype([(name, np.bool_ if name == "is_alone" else np.int64) for name in Event._fields])

SIGNAL = record_dtype(
    [
        *wholes("bar", "row", "side", "price", "stop_ticks", "take_profit_ticks"),
        *flags("ready", "last_bar", "tainted", "day_end"),
    ]
)
"""A bar whose rule wants an entry; `row` is the trade that closed it."""


# --- making and reading them ------------------------------------------------------------------------------------------


def new_account() -> Rows:
    """Return an ACCOUNT of which nothing is known yet."""
    account = np.zeros(1, ACCOUNT)
    account["paused"] = account["end_reason"] = NONE
    account["end_at"], account["woken_at"] = NEVER, -1
    account["holds"]["resume_at"] = NEVER
    return account


def new_symbol(
    symbol: Any, place: int, instrument: Instrument, exits: ExitSettings, execution: ExecutionSettings
) -> None:
    """Fill a row of SYMBOL: flat, not reconciled, no stream up."""
    step = instrument.step_size.as_integer_ratio()
    settings = symbol["settings"]
    settings["stale_ms"] = milliseconds(execution.order_stale_s)
    settings["max_holding_ms"], settings["max_holding_bars"] = milliseconds(exits.max_holding_s), exits.max_holding_bars
    settings["max_slippage_e8"] = risk.rate_e8(execution.max_slippage_bps / 10_000)
    settings["stop_atr"], settings["take_profit_atr"] = exits.stop_atr, exits.take_profit_atr
    settings["tick_size"] = float(instrument.tick_size)
    settings["limit_entry"] = execution.entry == "ioc_limit"
    settings["exit_on_opposite_signal"] = exits.exit_on_opposite_signal
    symbol["place"], symbol["money_per_ticklot"] = place, instrument.money_per_ticklot
    symbol["step_numerator"], symbol["step_denominator"] = step
    symbol["snapshot_at"], symbol["last_exit_time"] = NEVER, risk.NO_EXIT
    nothing, order = symbol["no_position"], symbol["no_order"]
    nothing["unprotected_since"] = nothing["target_at"] = NEVER
    nothing["leave_reason"] = nothing["exit_reason"] = order["cancel_reason"] = NONE
    order["bar"] = -1
    symbol["position"] = symbol["earlier"] = nothing
    symbol["facts"] = risk.new_facts()


def bare(rows: Rows) -> Any:
    """Return the same rows with fields that Python reads as `row["name"]` several times as fast."""
    return rows.view(np.dtype((np.void, rows.dtype)))


def row_type(name: str, dtype: np.dtype[Any]) -> Any:
    """Return a kind of named tuple for the rows of a dtype, as `tolist` and `item` give them."""
    return namedtuple(name, dtype.names or ())


OrderRow, PositionRow = row_type("OrderRow", ORDER), row_type("PositionRow", POSITION)
TripRow = row_type("TripRow", TRIP)
RefusalRow, ChangeRow = row_type("RefusalRow", REFUSAL), row_type("ChangeRow", CHANGE)
AlertRow, EquityRow = row_type("AlertRow", ALERT), row_type("EquityRow", EQUITY)


@compiled_part
def add_output(account: Record, kind: int, symbol: int, at: int, reason: int, time: int) -> None:
    """Note what follows, in order. Where there is no room it is left out, and the account says so."""
    number = account.output_count
    if number == len(account.outputs):
        account.is_too_much = True
        return
    output = account.outputs[number]
    output.kind, output.symbol, output.at, output.reason, output.time = kind, symbol, at, reason, time
    account.output_count = number + 1
    account.command_count += kind <= SNAPSHOT


@compiled_part
def note_row(account: Record, count: int, size: int) -> int:
    """Return the row after `count` rows of a table of notes; its last where there is no room, which is noted too."""
    if count < size:
        return count
    account.is_too_much = True
    return size - 1
