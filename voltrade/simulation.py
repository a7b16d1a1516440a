"""A whole lockstep session over a tape as one compiled loop: what `backtest` would do event by event, bit for bit.

The rules are the ones that trade: sizes, gates and breaker from `risk`, prices and triggers from `exchange.execution`,
fees and positions from `account`, an order's legal moves and the reaction to a refusal from `oms`. What stands here
once more is only how they follow each other, in the order of the rooms that it stands for: exchange, `OrderMonitor`,
core, `Lockstep`. A function has the name that it has there; read them side by side. A property test holds both to
the same round trips, fills, refusals, breaker changes and equity, over random settings and tapes.

Where something comes up that isn't modelled, the loop stops and says so in `desk.unmodelled`; the caller then runs the
session event by event. Bars and signals come in finished (`research` folds them); a level is tested against a bar's
high and low first, then found among the bar's own trades.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numba import types

from voltrade import oms, risk
from voltrade.account import fee, position_after, proportion, value_at_mark
from voltrade.compiled import Record, Rows, bind, compile_for, compiled_part, record_dtype, rows_of
from voltrade.core import GATES
from voltrade.exchange.execution import (
    first_acting_trade,
    is_beyond_take_bound,
    is_triggered,
    is_within_limit,
    last_row_of_taker,
    slipped_price,
)
from voltrade.model import EQUITY, NEVER, Bools, Int64s, Purpose
from voltrade.oms import level_from

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
        ("max_holding_exact_ms", np.float64),
        *_flags("limit_entry", "triggers_by_mark", "exit_on_opposite_signal", "flatten_at_end", "isolated"),
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
        *_wholes("opened_at_bar", "left_at", "left_at_bar", "end_at", "end_reason"),
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


def _first_refusal(facts: Rows, limits: Rows) -> int:
    """Number of the first gate that refuses, counted from this one; GATE and REST are bound."""
    return 0 if GATE(facts, limits) else 1 + REST(facts, limits)  # type: ignore[name-defined]  # noqa: F821


@compiled_part
def _no_refusal(facts: Rows, limits: Rows) -> int:
    return 0


first_refusal: Callable[[Rows, Rows], int] = reduce(
    lambda rest, gate: compiled_part(bind(_first_refusal, GATE=gate.refuses, REST=rest)), reversed(GATES), _no_refusal
)
"""The place in `GATES` of the first gate that refuses; their number where none does."""

GATE_RULES = np.array([risk.RULES.index(gate.code) if gate.code in risk.RULES else -1 for gate in GATES])
"""The breaker's rule that a gate stands for, -1 for none."""


# --- the exchange: answers --------------------------------------------------------------------------------------------


@compiled_part
def _is_algo(order: Record) -> bool:
    return bool(order.purpose in (STOP, TAKE_PROFIT))


@compiled_part
def _free_row(desk: Record, count: int, size: int) -> int:
    """The row after `count` rows; where all `size` are used up the session is given up."""
    if count < size:
        return count
    desk.unmodelled = TOO_MUCH
    return size - 1


@compiled_part
def _tell(desk: Record, kind: int, at: int, status: int) -> None:
    """Let the news be heard of an order, or of a conditional one."""
    number = _free_row(desk, desk.news_count, len(desk.news))
    news, order = desk.news[number], desk.orders[at]
    news.kind, news.order, news.status, news.executed = kind, at, status, order.executed
    news.order_id, news.trade_id = order.order_id, 0
    order.updated = desk.now
    desk.watch_is_old = True
    desk.news_count = number + 1


@compiled_part
def _best_price(desk: Record, side: int) -> int:
    """Price that an order of this side would take at; 0 before the first trade."""
    best = desk.last_bought if side > 0 else desk.last_sold
    return int(best if best else desk.last_price)


@compiled_part
def _value_price_e8(desk: Record) -> int:
    return int(desk.exchange_mark_e8 if desk.exchange_mark_e8 else desk.last_price * desk.settings.tick_e8)


@compiled_part
def _closable(desk: Record, side: int) -> int:
    return int(max(0, -side * desk.exchange_quantity))


@compiled_part
def _check_quantity(settings: Record, quantity: int, limit: bool) -> int:
    if quantity <= 0:
        return -4003
    if quantity < settings.min_quantity:
        return -4004
    return -4005 if quantity > (settings.max_quantity if limit else settings.market_max_quantity) else 0


@compiled_part
def _check_price(settings: Record, price: int) -> int:
    if price < settings.min_price:
        return -4013
    return -4002 if price > settings.max_price else 0


@compiled_part
def _is_outside_band(settings: Record, price_e8: int, mark_e8: int, side: int) -> bool:
    """Whether a price is beyond PERCENT_PRICE: a buy too high, a sell too low."""
    if side > 0:
        return price_e8 > risk.share(mark_e8, settings.multiplier_up_e8)
    return price_e8 < risk.share_up(mark_e8, settings.multiplier_down_e8)


@compiled_part
def _check_order(desk: Record, at: int) -> int:
    order = desk.orders[at]
    is_limit = order.price > 0
    code = _check_quantity(desk.settings, order.quantity, is_limit)
    if code:
        return code
    mark_e8 = _value_price_e8(desk)
    if is_limit:
        code = _check_price(desk.settings, order.price)
        if code:
            return code
        if mark_e8 and _is_outside_band(desk.settings, order.price * desk.settings.tick_e8, mark_e8, order.side):
            return -4016 if order.side > 0 else -4024
    else:
        best_e8 = _best_price(desk, order.side) * desk.settings.tick_e8
        if best_e8 == 0 or mark_e8 == 0:
            return -2020
        if _is_outside_band(desk.settings, best_e8, mark_e8, order.side):
            return -4131
    if order.purpose != ENTRY:
        return -2022 if _closable(desk, order.side) == 0 else 0
    if is_limit:
        notional = order.price * order.quantity * desk.settings.money_per_ticklot
    else:
        notional = value_at_mark(order.quantity, desk.settings.step_numerator, desk.settings.step_denominator, mark_e8)
    if notional < desk.settings.min_notional:
        return -4164
    return _check_margin(desk, order.quantity * (order.price if is_limit else desk.last_price))


@compiled_part
def _check_margin(desk: Record, ticklots: int) -> int:
    """Whether there is margin for an entry of this notional; nothing else is open then."""
    if desk.exchange_quantity != 0:
        desk.unmodelled = NOT_EXPLAINED
    exposure = ticklots * desk.settings.money_per_ticklot
    if desk.exchange_wallet <= 0:
        return -2018
    if exposure > desk.settings.largest_notional:
        return -2027
    return -2019 if _divided_up(exposure, desk.settings.leverage) > desk.exchange_wallet else 0


@compiled_part
def _divided_up(amount: int, by: int) -> int:
    return -(-amount // by)


@compiled_part
def _place_order(desk: Record, at: int) -> int:
    """Accept a market or limit order; return 0, or the code of the first rule that it breaks."""
    code = _check_order(desk, at)
    if code:
        return code
    order = desk.orders[at]
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.live_from = desk.now + desk.settings.latency_ms
    order.phase, order.status, order.updated = TRAVELLING, NEW, desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def _would_trigger_now(desk: Record, at: int) -> bool:
    order = desk.orders[at]
    if desk.settings.triggers_by_mark and desk.exchange_mark_e8:
        return is_triggered(desk.exchange_mark_e8, order.trigger_price * desk.settings.tick_e8, _is_rising(order))
    last = desk.last_price
    return last > 0 and is_triggered(last, order.trigger_price, _is_rising(order))


@compiled_part
def _is_rising(order: Record) -> bool:
    return bool((order.purpose == STOP) == (order.side > 0))


@compiled_part
def _place_algo(desk: Record, at: int) -> int:
    order = desk.orders[at]
    code = _check_quantity(desk.settings, order.quantity, False)
    if code == 0:
        code = _check_price(desk.settings, order.trigger_price)
    if code == 0 and _closable(desk, order.side) == 0:
        code = -2022
    if code == 0 and _would_trigger_now(desk, at):
        code = -2021
    if code:
        return code
    desk.algo_ids += 1
    order.algo_id = desk.algo_ids
    order.live_from = desk.now + desk.settings.latency_ms
    order.algo_status, order.updated = NEW, desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def _cancel_at_exchange(desk: Record, at: int) -> int:
    """Cancel an order that is open; return 0, or -2011."""
    order = desk.orders[at]
    if _is_algo(order):
        if order.algo_status != NEW:
            return -2011
        order.algo_status = CANCELED
    elif order.phase == TRAVELLING or order.phase == TAKING:
        order.phase, order.status = ENDED, CANCELED
    else:
        return -2011
    order.updated = desk.now
    desk.watch_is_old = True
    return 0


@compiled_part
def _end(desk: Record, at: int, status: int) -> None:
    desk.orders[at].status = status
    _tell(desk, OF_ORDER, at, desk.orders[at].status)
    _close_books(desk, at)


@compiled_part
def _close_books(desk: Record, at: int) -> None:
    order = desk.orders[at]
    order.phase = ENDED
    desk.watch_is_old = True
    if _is_algo(order):
        _end_algo(desk, at, FINISHED)


@compiled_part
def _end_algo(desk: Record, at: int, status: int) -> None:
    desk.orders[at].algo_status = status
    _tell(desk, OF_ALGO, at, desk.orders[at].algo_status)


# --- the exchange: matching -------------------------------------------------------------------------------------------


@compiled_part
def _gather_watch(desk: Record) -> None:
    """Gather what the open orders wait for; kept until an order changes."""
    desk.watch_is_old = False
    desk.arrival, desk.algo_arrival, desk.rises_to, desk.falls_to = NEVER, NEVER, NEVER, 0
    desk.taking_buys, desk.taking_sells = False, False
    for at in range(desk.order_count):
        order = desk.orders[at]
        if order.phase == TRAVELLING:
            desk.arrival = min(desk.arrival, order.live_from)
        elif order.phase == TAKING:
            if order.side > 0:
                desk.taking_buys = True
            else:
                desk.taking_sells = True
        if order.algo_status == NEW and not desk.settings.triggers_by_mark:
            if not order.arrived:
                desk.algo_arrival = min(desk.algo_arrival, order.live_from)
            elif _is_rising(order):
                desk.rises_to = min(desk.rises_to, order.trigger_price)
            else:
                desk.falls_to = max(desk.falls_to, order.trigger_price)
    desk.is_busy = desk.taking_buys or desk.taking_sells or desk.arrival < NEVER
    desk.searched_to = 0


@compiled_part
def _first_acting(desk: Record, m: Market, stop: int) -> int:
    """Find the first trade before `stop` that any order reacts to; else `stop`.

    That a conditional order arrives has no effect by itself: from then on its level counts.
    """
    if desk.watch_is_old:
        _gather_watch(desk)
    row = desk.row
    while desk.is_busy or desk.algo_arrival < NEVER:
        row = first_acting_trade(
            m.price,
            m.time,
            m.buyer_is_maker,
            row,
            stop,
            min(desk.arrival, desk.algo_arrival),
            desk.rises_to,
            desk.falls_to,
            desk.taking_buys,
            desk.taking_sells,
        )
        if row == stop or desk.is_busy or m.time[row] < desk.algo_arrival:
            return row
        for at in range(desk.order_count):
            order = desk.orders[at]
            order.arrived = order.arrived or m.time[row] >= order.live_from
        _gather_watch(desk)
    if desk.rises_to == NEVER and desk.falls_to == 0:
        return stop
    return _first_reaching(desk, m, row, stop)


@compiled_part
def _first_reaching(desk: Record, m: Market, row: int, stop: int) -> int:
    """Find the first trade from `row` on at or beyond a level: bar by bar, then among the trades of a bar that reaches.

    What was searched once isn't searched again until the levels change.
    """
    if desk.searched_to < row:
        desk.searched_to = row
        desk.search_bar = desk.bars
    bars = len(m.closing_rows)
    while desk.searched_to < stop:
        while desk.search_bar < bars and m.closing_rows[desk.search_bar] < desk.searched_to:
            desk.search_bar += 1
        bar = desk.search_bar
        end = stop
        if bar < bars:
            end = m.closing_rows[bar] + 1
            if m.high[bar] < desk.rises_to and m.low[bar] > desk.falls_to:
                desk.searched_to = end
                continue
            end = min(end, stop)
        found = desk.searched_to
        while found < end and desk.falls_to < m.price[found] < desk.rises_to:
            found += 1
        desk.searched_to = found
        if found < end:
            return int(found)
    return stop


@compiled_part
def _on_trade(desk: Record, price: int, quantity: int, time: int, side: int) -> None:
    """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
    for at in range(desk.order_count):
        order = desk.orders[at]
        if order.phase == TRAVELLING and time >= order.live_from:
            _arrive(desk, at, price)
        if order.algo_status == NEW and time >= order.live_from:
            order.arrived = True
    desk.watch_is_old = True
    desk.last_price = price
    if side > 0:
        desk.last_bought = price
    else:
        desk.last_sold = price
    newest = desk.order_ids
    if not desk.settings.triggers_by_mark:
        for purpose in (STOP, TAKE_PROFIT):
            for at in range(desk.order_count):
                order = desk.orders[at]
                is_waiting = order.purpose == purpose and order.algo_status == NEW and time >= order.live_from
                if is_waiting and is_triggered(price, order.trigger_price, _is_rising(order)):
                    _trigger(desk, at)
    last_id = 0
    while True:
        at = _next_open(desk, last_id)
        if at < 0:
            return
        order = desk.orders[at]
        last_id = order.order_id
        if order.phase == TAKING and (order.order_id > newest or order.side == side):
            quantity -= _take(desk, at, price, quantity)


@compiled_part
def _next_open(desk: Record, after_id: int) -> int:
    """The open order with the smallest id above `after_id`; -1 for none."""
    found = -1
    for at in range(desk.order_count):
        order = desk.orders[at]
        is_open = order.phase == TRAVELLING or order.phase == TAKING
        if is_open and order.order_id > after_id and (found < 0 or order.order_id < desk.orders[found].order_id):
            found = at
    return found


@compiled_part
def _arrive(desk: Record, at: int, price: int) -> None:
    """Let an order in before a trade, whose price serves on an empty tape."""
    order = desk.orders[at]
    order.reference = desk.last_price if desk.last_price else price
    best = _best_price(desk, order.side)
    if order.price == 0 or (best > 0 and is_within_limit(best, order.price, order.side)):
        order.phase = TAKING
    else:
        _end(desk, at, EXPIRED)


@compiled_part
def _trigger(desk: Record, at: int) -> None:
    """Turn a conditional order into its child, a market order that is at the matching engine already."""
    order = desk.orders[at]
    order.algo_status = TRIGGERING
    _tell(desk, OF_ALGO, at, desk.orders[at].algo_status)
    if _closable(desk, order.side) == 0:
        order.code = -2022
        _end_algo(desk, at, REJECTED)
        return
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.phase = TAKING
    order.reference = desk.last_price
    _end_algo(desk, at, TRIGGERED)
    order.status = NEW
    _tell(desk, OF_ORDER, at, desk.orders[at].status)


@compiled_part
def _take(desk: Record, at: int, price: int, available: int) -> int:
    """Fill an order from a trade; return the lots it took."""
    order = desk.orders[at]
    fill_price = slipped_price(price, order.side, desk.settings.slippage_e8)
    if order.price == 0:
        reference = order.reference if order.reference else price
        if is_beyond_take_bound(fill_price, reference, order.side, desk.settings.take_bound_e8):
            _end(desk, at, EXPIRED)
            return 0
    elif not is_within_limit(fill_price, order.price, order.side):
        _end(desk, at, EXPIRED)
        return 0
    return _fill(desk, at, fill_price, available)


@compiled_part
def _fill(desk: Record, at: int, price: int, available: int) -> int:
    """Fill an order by at most `available` lots and book it; return the lots."""
    order = desk.orders[at]
    quantity: int = min(available, order.quantity - order.executed)
    if order.purpose != ENTRY:
        quantity = min(quantity, _closable(desk, order.side))
    if quantity == 0:
        return 0
    cost = fee(price * quantity * desk.settings.money_per_ticklot, desk.settings.taker_fee_e8)
    closed = min(quantity, _closable(desk, order.side))
    if closed:
        desk.added_margin -= proportion(desk.added_margin, closed, abs(desk.exchange_quantity))
    desk.exchange_quantity, desk.exchange_cost, realised = position_after(
        desk.exchange_quantity, desk.exchange_cost, order.side, price, quantity, desk.settings.money_per_ticklot
    )
    desk.exchange_wallet += realised - cost
    order.executed += quantity
    order.executed_notional += price * quantity
    order.status = PARTIALLY_FILLED if order.executed < order.quantity else FILLED
    number = _free_row(desk, desk.fill_count, len(desk.fills))
    fill = desk.fills[number]
    fill.time, fill.order, fill.quantity, fill.price, fill.fee = desk.now, at, quantity, price, cost
    fill.realised, fill.executed, fill.executed_notional = realised, order.executed, order.executed_notional
    fill.status = order.status
    desk.fill_count = number + 1
    _tell(desk, OF_ORDER, at, order.status)
    news = desk.news[desk.news_count - 1]
    news.trade_id, news.quantity, news.price, news.fee = desk.fills_written + number + 1, quantity, price, cost
    if order.status == FILLED:
        _close_books(desk, at)
    _expire_idle_reduce_only(desk)
    return quantity


@compiled_part
def _expire_idle_reduce_only(desk: Record) -> None:
    """Expire reduce-only orders that have nothing left to reduce."""
    at = _next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        if order.purpose != ENTRY and _closable(desk, order.side) == 0:
            _end(desk, at, EXPIRED)
        at = _next_open(desk, order.order_id)


@compiled_part
def _play_mark(desk: Record, mark_e8: int, time: int, fundings: int, rate_e8: int) -> None:
    """Take a mark price: funding that is due, then triggers, then liquidation."""
    desk.exchange_mark_e8 = mark_e8
    if desk.exchange_quantity == 0:
        return
    for _ in range(fundings):
        _pay_funding(desk, rate_e8)
    if desk.settings.triggers_by_mark:
        _trigger_by_mark(desk, mark_e8, time)
    if _is_liquidated(desk, _position_value(desk)):
        desk.unmodelled = LIQUIDATED


@compiled_part
def _position_value(desk: Record) -> int:
    """Signed money of the exchange's position at the mark."""
    settings = desk.settings
    return value_at_mark(
        desk.exchange_quantity, settings.step_numerator, settings.step_denominator, desk.exchange_mark_e8
    )


@compiled_part
def _pay_funding(desk: Record, rate_e8: int) -> None:
    """Book funding on the position's value at the mark: longs pay a positive rate to shorts."""
    value = _position_value(desk)
    amount = fee(abs(value), abs(rate_e8)) * (-1 if (value > 0) == (rate_e8 > 0) else 1)
    if amount == 0:
        return
    desk.exchange_wallet += amount
    if desk.settings.isolated:
        desk.added_margin += amount
    number = _free_row(desk, desk.news_count, len(desk.news))
    news = desk.news[number]
    news.kind, news.order, news.trade_id, news.price = OF_FUNDING, -1, 0, desk.exchange_wallet
    desk.news_count = number + 1


@compiled_part
def _is_liquidated(desk: Record, value: int) -> bool:
    """Whether the margin of a position of this value (signed money) is down to its maintenance margin."""
    margin = desk.exchange_wallet
    if desk.settings.isolated:
        margin = _divided_up(abs(desk.exchange_cost), desk.settings.leverage) + desk.added_margin
    number = 0
    while number < desk.settings.bracket_count - 1 and abs(value) > desk.settings.brackets[number].cap:
        number += 1
    bracket = desk.settings.brackets[number]
    maintenance = risk.share_up(abs(value), bracket.maintenance_e8) - bracket.deducted
    return bool(margin + value - desk.exchange_cost <= maintenance)


@compiled_part
def _trigger_by_mark(desk: Record, mark_e8: int, time: int) -> None:
    for purpose in (STOP, TAKE_PROFIT):
        for at in range(desk.order_count):
            order = desk.orders[at]
            is_waiting = order.purpose == purpose and order.algo_status == NEW and time >= order.live_from
            if is_waiting and is_triggered(mark_e8, order.trigger_price * desk.settings.tick_e8, _is_rising(order)):
                _trigger(desk, at)


@compiled_part
def _finish_at_exchange(desk: Record) -> None:
    """End the tape: open market orders fill at the last price of the other side, IOC expire."""
    at = _next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        price = _best_price(desk, order.side)
        if order.price == 0 and price > 0:
            _fill(desk, at, slipped_price(price, order.side, desk.settings.slippage_e8), order.quantity)
        else:
            _end(desk, at, EXPIRED)
        at = _next_open(desk, order.order_id)


# --- the monitor: orders ----------------------------------------------------------------------------------------------


@compiled_part
def _is_done(order: Record) -> bool:
    return bool(IS_DONE[order.state] or order.child_done)


@compiled_part
def _is_resting(order: Record) -> bool:
    return not _is_done(order) and order.state != PENDING_SUBMIT and order.state != UNKNOWN


@compiled_part
def _move(order: Record, state: int) -> bool:
    """Go to a state if that is a legal move; say whether it was."""
    if not LEGAL[1 if _is_algo(order) else 0, order.state, state]:
        return False
    order.state = state
    return True


@compiled_part
def _command(desk: Record, kind: int, at: int) -> None:
    number = _free_row(desk, desk.command_count, len(desk.commands))
    command = desk.commands[number]
    command.kind, command.order = kind, at
    desk.command_count = number + 1


@compiled_part
def _position(desk: Record) -> int:
    """Unsigned lots in hand, from our fills."""
    return desk.entered - desk.left if desk.in_hand else 0


@compiled_part
def _advance(settings: Record, order: Record, status: int, time: int) -> None:
    """Move an order to a status that the exchange told; late news changes nothing."""
    is_canceling = order.state == PENDING_CANCEL and status in (NEW, PARTIALLY_FILLED)
    if order.state != status and (is_canceling or not _move(order, status)):
        return
    order.look_at = NEVER if _is_algo(order) and order.state == NEW else time + settings.stale_ms


@compiled_part
def _cancel(desk: Record, at: int, reason: int) -> None:
    order = desk.orders[at]
    if not _is_resting(order) or not _move(order, PENDING_CANCEL):
        return
    order.look_at = desk.now + desk.settings.stale_ms
    if order.text == NONE:
        order.text = reason
    _command(desk, CANCEL, at)


@compiled_part
def _lookup(desk: Record, at: int) -> None:
    desk.orders[at].look_at = desk.now + desk.settings.stale_ms
    _command(desk, LOOKUP, at)


@compiled_part
def _count_fill(desk: Record, news: Record) -> None:
    order = desk.orders[news.order]
    desk.counted = news.trade_id
    notional = news.quantity * news.price
    order.filled += news.quantity
    if order.round_trip != desk.round_trips:
        desk.unmodelled = LATE_FILL
    if not desk.in_hand:
        desk.in_hand = True
        desk.closed = False
    fill = desk.fills[news.trade_id - 1 - desk.fills_written]
    desk.fees += news.fee
    desk.realised += fill.realised
    if order.purpose == ENTRY:
        if desk.opened_at == 0:
            desk.opened_at = fill.time
        desk.entered += news.quantity
        desk.entry_notional += notional
        return
    desk.left += news.quantity
    desk.exit_notional += notional
    desk.exit_time = fill.time
    if order.purpose == STOP:
        desk.exit_reason = BY_STOP
    elif order.purpose == TAKE_PROFIT:
        desk.exit_reason = BY_TAKE_PROFIT
    else:
        desk.exit_reason = order.reason


# --- the monitor: the position in hand --------------------------------------------------------------------------------


@compiled_part
def _tend(desk: Record) -> None:
    """Compare the position in hand with the orders it should have, and send what is missing or cancel what is left."""
    if not desk.in_hand:
        return
    if _position(desk) <= 0:
        _tend_flat(desk)
        return
    _tend_stop(desk)
    if desk.leave_reason != NONE or _stop_spent(desk):
        _tend_exit(desk)
    else:
        _tend_take_profit(desk)


@compiled_part
def _tend_flat(desk: Record) -> None:
    desk.unprotected_since = NEVER
    if not _is_done(desk.orders[0]):
        return
    if desk.entered > 0 and not desk.closed:
        desk.closed = True
        _round_trip(desk)
    all_done = True
    for purpose in range(4):
        for at in range(desk.order_count):
            if desk.orders[at].purpose == purpose:
                _cancel(desk, at, POSITION_CLOSED)
                all_done = all_done and _is_done(desk.orders[at])
    if all_done:
        desk.in_hand = False


@compiled_part
def _tend_stop(desk: Record) -> None:
    if desk.stops and not _is_done(desk.orders[desk.newest_stop]):
        if not _is_resting(desk.orders[desk.newest_stop]):
            _unprotected(desk)
            return
        desk.unprotected_since = NEVER
        for at in range(desk.newest_stop):
            if desk.orders[at].purpose == STOP:
                _cancel(desk, at, RESIZED)
        if desk.now >= _resize_at(desk):
            _send_stop(desk, RESIZE)
        return
    _unprotected(desk)
    if not (_stop_spent(desk) or desk.now < desk.retry_at or desk.leave_reason != NONE):
        _send_stop(desk, PROTECT)


@compiled_part
def _resize_at(desk: Record) -> int:
    if desk.stops == 0:
        return NEVER
    newest = desk.orders[desk.newest_stop]
    if newest.state != NEW or newest.quantity >= _position(desk):
        return NEVER
    return 0 if _is_done(desk.orders[0]) else newest.time + oms.RESIZE_EVERY_MS


@compiled_part
def _unprotected(desk: Record) -> None:
    for at in range(desk.order_count):
        if desk.orders[at].purpose == STOP and _is_resting(desk.orders[at]):
            desk.unprotected_since = NEVER
            return
    if desk.unprotected_since == NEVER:
        desk.unprotected_since = desk.now


@compiled_part
def _send(desk: Record, purpose: int, quantity: int, trigger_price: int, reason: int) -> int:
    """Register an order that leaves the position, and command it; return its place in the table."""
    at = _free_row(desk, desk.order_count, len(desk.orders))
    order = desk.orders[at]
    order.round_trip, order.purpose, order.side = desk.round_trips, purpose, -desk.side
    order.quantity, order.price, order.trigger_price = quantity, 0, trigger_price
    order.time, order.reason, order.bar = desk.now, reason, -1
    order.algo_id, order.algo_status, order.arrived = 0, PENDING_SUBMIT, False
    order.order_id, order.phase, order.live_from, order.reference = 0, 0, 0, 0
    order.status, order.executed, order.executed_notional = PENDING_SUBMIT, 0, 0
    order.state, order.look_at = PENDING_SUBMIT, desk.now + desk.settings.stale_ms
    order.filled, order.reported, order.child_id, order.child_done = 0, 0, 0, False
    order.answered, order.updated, order.code, order.text = 0, 0, 0, NONE
    desk.order_count = at + 1
    _command(desk, SUBMIT, at)
    return at


@compiled_part
def _send_stop(desk: Record, reason: int) -> None:
    trigger = level_from(desk.entry_notional, desk.entered, -desk.side * desk.stop_distance)
    desk.newest_stop = _send(desk, STOP, _position(desk), max(trigger, 1), reason)
    desk.stops += 1
    desk.orders[desk.newest_stop].number = desk.stops


@compiled_part
def _tend_take_profit(desk: Record) -> None:
    if desk.take_profit_distance == 0 or desk.take_profits or not _is_done(desk.orders[0]):
        return
    trigger = level_from(desk.entry_notional, desk.entered, desk.side * desk.take_profit_distance)
    desk.newest_take_profit = _send(desk, TAKE_PROFIT, _position(desk), max(trigger, 1), TARGET)
    desk.take_profits += 1
    desk.orders[desk.newest_take_profit].number = desk.take_profits


@compiled_part
def _stop_spent(desk: Record) -> bool:
    """Whether a stop or take-profit triggered and ended, and a part of the position is still there."""
    for at in range(desk.order_count):
        order = desk.orders[at]
        if _is_algo(order) and order.child_id != 0 and _is_done(order):
            return True
    return False


@compiled_part
def _tend_exit(desk: Record) -> None:
    if desk.now < desk.retry_at:
        return
    for at in range(desk.order_count):
        if desk.orders[at].purpose == EXIT and not _is_done(desk.orders[at]):
            return
    reason = desk.leave_reason if desk.leave_reason != NONE else STOP_REST
    at = _send(desk, EXIT, _position(desk), 0, reason)
    desk.exits += 1
    desk.orders[at].number = desk.exits


@compiled_part
def _round_trip(desk: Record) -> None:
    number = _free_row(desk, desk.trip_count, len(desk.trips))
    trip = desk.trips[number]
    trip.id, trip.side, trip.bar_number = desk.round_trips, desk.side, desk.bar
    trip.opened_at, trip.closed_at, trip.quantity = desk.opened_at, desk.exit_time, desk.entered
    trip.entry_notional, trip.exit_notional = desk.entry_notional, desk.exit_notional
    trip.realised, trip.fees, trip.funding = desk.realised, desk.fees, desk.funding
    trip.exit_reason, trip.fills = desk.exit_reason, desk.counted
    trip.stop_price = desk.orders[desk.newest_stop].trigger_price if desk.stops else 0
    trip.take_profit_price = desk.orders[desk.newest_take_profit].trigger_price if desk.take_profits else 0
    desk.trip_count = number + 1
    desk.trip_closed = True


@compiled_part
def _enter(desk: Record, signal: Record, quantity: int) -> None:
    """Open a round trip."""
    desk.round_trips += 1
    desk.in_hand, desk.closed = True, False
    desk.stops, desk.take_profits, desk.exits = 0, 0, 0
    desk.side, desk.bar = signal.side, signal.bar
    desk.stop_distance, desk.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    desk.opened_at, desk.entered, desk.entry_notional, desk.left, desk.exit_notional = 0, 0, 0, 0, 0
    desk.realised, desk.fees, desk.funding, desk.exit_reason, desk.exit_time = 0, 0, 0, NONE, 0
    desk.leave_reason, desk.retry_at, desk.unprotected_since = NONE, 0, NEVER
    desk.stop_tries, desk.exit_tries = 0, 0
    order = desk.orders[_send(desk, ENTRY, quantity, 0, SIGNALLED)]
    order.side, order.bar, order.number = signal.side, signal.bar, 1
    if desk.settings.limit_entry:
        order.price = signal.price + signal.side * risk.share(signal.price, desk.settings.max_slippage_e8)


@compiled_part
def _leave(desk: Record, reason: int) -> None:
    """Leave the position at market, reduce-only; the stop stays until the position is gone."""
    if not desk.in_hand:
        return
    if desk.leave_reason == NONE:
        desk.leave_reason = reason
    _cancel_entry(desk, reason)
    _tend(desk)


@compiled_part
def _cancel_entry(desk: Record, reason: int) -> None:
    if desk.in_hand:
        _cancel(desk, 0, reason)


# --- the monitor: news and answers ------------------------------------------------------------------------------------


@compiled_part
def _hear_order(desk: Record, at: int, status: int, executed: int, order_id: int) -> None:
    """Take an ordinary order's update; its fill, if any, has been counted."""
    order = desk.orders[at]
    order.reported = max(order.reported, executed)
    if _is_algo(order):
        order.child_id = order_id
        order.child_done = order.child_done or IS_DONE[status]
    else:
        _advance(desk.settings, order, status, desk.now)
    if order.reported > order.filled and desk.snapshot_at == NEVER:
        desk.snapshot_at = desk.now + oms.RETRY_AFTER_MS
    _tend(desk)


@compiled_part
def _hear_algo(desk: Record, at: int, status: int, order_id: int) -> None:
    order = desk.orders[at]
    if order_id:
        order.child_id = order_id
    _advance(desk.settings, order, status, desk.now)
    _tend(desk)


@compiled_part
def _reaction(code: int) -> int:
    for at in range(len(REFUSED_CODES)):
        if REFUSED_CODES[at] == code:
            return int(REACTIONS[at])
    return HALT


@compiled_part
def _on_refused(desk: Record, at: int, code: int) -> None:
    order = desk.orders[at]
    order.code = code
    if not _move(order, REJECTED):
        return
    _alert(desk, ORDER_REFUSED, at)
    reaction = _reaction(code)
    if reaction == HALT:
        desk.unmodelled = REFUSED
    if reaction == RECONCILE:
        _command(desk, SNAPSHOT, at)
    if order.purpose == EXIT:
        desk.retry_at = desk.now + (oms.RETRY_AFTER_MS << min(desk.exit_tries, oms.DOUBLINGS))
        desk.exit_tries += 1
    elif order.purpose == STOP:
        desk.stop_tries += 1
        if reaction in (RETRY, RECONCILE) and desk.stop_tries < oms.STOP_TRIES:
            desk.retry_at = desk.now + oms.RETRY_AFTER_MS
        elif desk.leave_reason == NONE:
            desk.leave_reason = BY_STOP if reaction == LEAVE else STOP_REFUSED
    elif order.purpose == TAKE_PROFIT and reaction == LEAVE and desk.leave_reason == NONE:
        desk.leave_reason = BY_TAKE_PROFIT


@compiled_part
def _on_looked_up(desk: Record, at: int) -> None:
    order = desk.orders[at]
    if _is_done(order):
        return
    told = order.algo_status if _is_algo(order) else order.status
    is_open = told in (NEW, PARTIALLY_FILLED)
    if order.state in (PENDING_CANCEL, UNKNOWN) and is_open:
        _move(order, told)
    if order.purpose == ENTRY and is_open and desk.now - order.time >= desk.settings.stale_ms:
        _move(order, told)
        _cancel(desk, at, STALE)


@compiled_part
def _hear_as_it_is(desk: Record, at: int) -> None:
    """Take an order's state from an answer."""
    order = desk.orders[at]
    if _is_algo(order):
        _hear_algo(desk, at, order.algo_status, order.order_id)
    else:
        _hear_order(desk, at, order.status, order.executed, order.order_id)


@compiled_part
def _alert(desk: Record, kind: int, at: int) -> None:
    number = _free_row(desk, desk.alert_count, len(desk.alerts))
    alert = desk.alerts[number]
    alert.time, alert.kind, alert.order = desk.now, kind, at
    desk.alert_count = number + 1


@compiled_part
def _has_unknown(desk: Record) -> bool:
    if desk.in_hand:
        for at in range(desk.order_count):
            order = desk.orders[at]
            if not _is_done(order) and (order.state == UNKNOWN or order.state == PENDING_CANCEL):
                return True
    return False


@compiled_part
def _is_protected(desk: Record) -> bool:
    if not desk.in_hand or not _is_done(desk.orders[0]) or desk.stops == 0:
        return False
    for at in range(desk.order_count):
        if desk.orders[at].reported > desk.orders[at].filled:
            return False
    newest = desk.orders[desk.newest_stop]
    return _is_resting(newest) and newest.quantity >= _position(desk)


@compiled_part
def _monitor_due(desk: Record) -> int:
    due: int = desk.snapshot_at
    if not desk.in_hand:
        return due
    for at in range(desk.order_count):
        if not _is_done(desk.orders[at]):
            due = min(due, desk.orders[at].look_at)
    if _position(desk) != 0:
        due = min(due, _resize_at(desk))
        if desk.retry_at > desk.monitor_time:
            due = min(due, desk.retry_at)
        if desk.leave_reason == NONE:
            if desk.unprotected_since != NEVER:
                due = min(due, desk.unprotected_since + oms.PROTECT_WITHIN_MS)
            if desk.settings.max_holding_ms:
                due = min(due, desk.opened_at + desk.settings.max_holding_ms)
    return due


@compiled_part
def _on_time(desk: Record) -> None:
    """Do what is due: look up overdue orders, retry, protect, leave a position that is held too long."""
    desk.monitor_time = desk.now
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.order_count):
                order = desk.orders[at]
                if order.purpose == purpose and not _is_done(order) and order.look_at <= desk.now:
                    _lookup(desk, at)
    if desk.snapshot_at <= desk.now:
        desk.snapshot_at = NEVER
        _command(desk, SNAPSHOT, -1)
    if _position(desk) != 0 and desk.leave_reason == NONE:
        if desk.settings.max_holding_ms and desk.now - desk.opened_at >= desk.settings.max_holding_exact_ms:
            desk.leave_reason = BY_TIME
        if desk.now - desk.unprotected_since >= oms.PROTECT_WITHIN_MS:
            desk.leave_reason = STOP_MISSING
            _alert(desk, STOP_IS_MISSING, -1)
    _tend(desk)


# --- the core ---------------------------------------------------------------------------------------------------------


@compiled_part
def _breaker(desk: Record, fact: int, amount: int) -> int:
    """Tell the breaker a fact and note what changed; return the changes as bits."""
    bits = risk.breaker_step(desk.breaker, desk.holds, desk.breaker_rules, fact, desk.now, amount)
    if bits:
        for rule in range(5):
            if bits >> 8 >> rule & 1:
                _note_change(desk, rule, True)
        for rule in range(5):
            if bits >> rule & 1:
                _note_change(desk, rule, False)
    return bits


@compiled_part
def _note_change(desk: Record, rule: int, resumed: bool) -> None:
    number = _free_row(desk, desk.change_count, len(desk.changes))
    change = desk.changes[number]
    change.time, change.rule, change.mode, change.resumed = desk.now, rule, risk.breaker_mode(desk.holds), resumed
    change.action = desk.holds[rule]["action"]
    change.measure = risk.breaker_measure(desk.breaker, rule)
    change.limit = risk.breaker_limit(desk.breaker, desk.breaker_rules, rule)
    change.resume_at = NEVER if resumed else desk.holds[rule]["resume_at"]
    desk.change_count = number + 1


@compiled_part
def _obey(desk: Record, bits: int) -> None:
    """Carry out what the breaker wants."""
    for rule in range(5):
        if bits >> rule & 1:
            action = desk.holds[rule]["action"]
            if action == risk.FLATTEN:
                _leave(desk, rule)
            elif action == risk.CANCEL:
                _cancel_entry(desk, rule)


@compiled_part
def _after_orders(desk: Record, held: int) -> None:
    """Tell the breaker and the cooldown of round trips that began or ended."""
    opened, closed = 0, 0
    if held == 0 and _position(desk) != 0:
        desk.opened_at_bar = desk.bars
        opened = _breaker(desk, risk.OPENED, 0)
    if desk.trip_closed:
        desk.trip_closed = False
        trip = desk.trips[desk.trip_count - 1]
        desk.left_at, desk.left_at_bar = trip.closed_at, desk.bars
        closed = _breaker(desk, risk.CLOSED, trip.realised - trip.fees + trip.funding)
    _obey(desk, opened)
    _obey(desk, closed)


@compiled_part
def _book(desk: Record, news: Record) -> None:
    """Book a fill."""
    side = desk.orders[news.order].side
    desk.quantity, desk.cost, realised = position_after(
        desk.quantity, desk.cost, side, news.price, news.quantity, desk.settings.money_per_ticklot
    )
    desk.wallet += realised - news.fee


@compiled_part
def _unrealised(desk: Record) -> int:
    """Profit of the position at mark, or at the last trade where there is no mark."""
    if desk.quantity == 0:
        return 0
    settings = desk.settings
    if desk.mark_e8:
        value = value_at_mark(desk.quantity, settings.step_numerator, settings.step_denominator, desk.mark_e8)
    else:
        value = desk.last_price * desk.quantity * settings.money_per_ticklot
    return int(value - desk.cost)


@compiled_part
def _value(desk: Record) -> None:
    """Value the account, and let the breaker see it."""
    unrealised = _unrealised(desk)
    number = _free_row(desk, desk.equity_count, len(desk.equity))
    point = desk.equity[number]
    point.time, point.wallet, point.unrealised, point.position = desk.now, desk.wallet, unrealised, desk.quantity
    point.at_mark = desk.mark_e8 != 0
    desk.equity_count = number + 1
    _obey(desk, _breaker(desk, risk.EQUITY, desk.wallet + unrealised))


@compiled_part
def _on_order(desk: Record, news: Record) -> None:
    desk.monitor_time = desk.now
    held = _position(desk)
    is_new_fill = news.trade_id > desk.counted
    if is_new_fill:
        _book(desk, news)
        _count_fill(desk, news)
    _hear_order(desk, news.order, news.status, news.executed, news.order_id)
    _after_orders(desk, held)
    if is_new_fill:
        _value(desk)


@compiled_part
def _on_algo(desk: Record, news: Record) -> None:
    desk.monitor_time = desk.now
    held = _position(desk)
    _hear_algo(desk, news.order, news.status, news.order_id)
    _after_orders(desk, held)


@compiled_part
def _on_funding(desk: Record, wallet: int) -> None:
    """Book funding, which only the exchange knows of."""
    if desk.in_hand:
        desk.funding += wallet - desk.wallet
    desk.wallet = wallet


@compiled_part
def _on_snapshot(desk: Record) -> None:
    """Take the exchange's whole account: fills not heard of yet, open orders, then what isn't listed is looked up."""
    held = _position(desk)
    desk.snapshot_at = NEVER
    for number in range(desk.news_count):
        news = desk.news[number]
        if news.trade_id > desk.counted:
            _book(desk, news)
            _count_fill(desk, news)
            _hear_order(desk, news.order, news.status, news.executed, news.order_id)
    at = _next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        _hear_order(desk, at, order.status, order.executed, order.order_id)
        at = _next_open(desk, order.order_id)
    for at in range(desk.order_count):
        if desk.orders[at].algo_status == NEW:
            _hear_algo(desk, at, NEW, 0)
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.order_count):
                order = desk.orders[at]
                is_listed = order.phase == TRAVELLING or order.phase == TAKING or order.algo_status == NEW
                is_missing = not _is_done(order) and not is_listed and order.state != PENDING_SUBMIT
                if order.purpose == purpose and is_missing:
                    _lookup(desk, at)
    if desk.side * _position(desk) != desk.exchange_quantity:
        desk.unmodelled = NOT_EXPLAINED
    desk.reconciled = True
    _after_orders(desk, held)


@compiled_part
def _on_signal(desk: Record, m: Market, signal: Record) -> None:
    """Leave on an opposite signal; enter where every gate lets the signal pass."""
    if desk.in_hand and desk.side != signal.side and desk.settings.exit_on_opposite_signal:
        _leave(desk, OPPOSITE_SIGNAL)
    _fill_facts(desk, signal)
    gate = first_refusal(desk.facts, desk.limits)
    if gate == len(GATE_RULES):
        _enter(desk, signal, desk.facts[0]["quantity"])
        return
    refusal = m.refusals[desk.refusals_written]
    refusal.time, refusal.bar, refusal.side, refusal.gate = desk.now, signal.bar, signal.side, gate
    refusal.measure, refusal.limit = 0, 0
    rule = GATE_RULES[gate]
    if rule >= 0:
        refusal.measure = risk.breaker_measure(desk.breaker, rule)
        refusal.limit = risk.breaker_limit(desk.breaker, desk.breaker_rules, rule)
    desk.refusals_written += 1


@compiled_part
def _fill_facts(desk: Record, signal: Record) -> None:
    fact = desk.facts[0]
    fact["time"] = fact["price_time"] = desk.now
    fact["warming_up"] = not signal.ready
    fact["last_bar"] = signal.last_bar
    fact["tainted"] = signal.tainted
    fact["day_end"] = signal.day_end
    fact["paused"] = desk.paused
    fact["reconciled"] = desk.reconciled
    fact["unknown_orders"] = _has_unknown(desk)
    fact["round_trips"] = desk.in_hand
    fact["last_exit_time"] = desk.left_at
    fact["bars_since_exit"] = signal.bar + 1 - desk.left_at_bar
    fact["price"] = signal.price
    fact["stop_ticks"] = signal.stop_ticks
    fact["wallet"] = fact["available"] = desk.wallet
    risk.fill_holds(desk.facts, desk.holds)
    fact["quantity"] = risk.position_size(desk.facts, desk.limits)


@compiled_part
def _wake_at_bar(desk: Record) -> int:
    if desk.settings.max_holding_bars and _position(desk) != 0:
        return int(desk.opened_at_bar + desk.settings.max_holding_bars)
    return NEVER


@compiled_part
def _next_due(desk: Record) -> int:
    due: int = desk.end_at if desk.end_reason == NONE else NEVER
    return min(due, _monitor_due(desk), risk.breaker_next_due(desk.holds))


@compiled_part
def _on_timer(desk: Record) -> None:
    held = _position(desk)
    _on_time(desk)
    _after_orders(desk, held)
    _obey(desk, _breaker(desk, risk.TIME, 0))
    if desk.now >= desk.end_at and desk.end_reason == NONE:
        _stop(desk, DURATION_END)


@compiled_part
def _stop(desk: Record, reason: int) -> None:
    """No more entries; leave the position, or keep it with its stop at the exchange."""
    desk.end_reason = reason
    desk.keep = not desk.settings.flatten_at_end
    desk.paused = True
    if desk.settings.flatten_at_end:
        _leave(desk, reason)
    else:
        _cancel_entry(desk, reason)


@compiled_part
def _is_finished(desk: Record) -> bool:
    return desk.end_reason != NONE and (not desk.in_hand or (desk.keep and _is_protected(desk)))


# --- lockstep ---------------------------------------------------------------------------------------------------------


@compiled_part
def _execute(desk: Record, command: Record) -> None:
    """Carry out a command, and let the core hear the answer. The stream would say the same, which changes nothing."""
    at, kind = command.order, command.kind
    held = _position(desk)
    desk.monitor_time = desk.now
    if kind == SNAPSHOT:
        _on_snapshot(desk)
        return
    code = 0
    if kind == SUBMIT:
        desk.orders[at].answered = desk.now
        code = _place_algo(desk, at) if _is_algo(desk.orders[at]) else _place_order(desk, at)
        if code:
            _on_refused(desk, at, code)
    elif kind == CANCEL:
        code = _cancel_at_exchange(desk, at)
        if code == 0:
            _move(desk.orders[at], CANCELED)
        elif not _is_done(desk.orders[at]):
            _lookup(desk, at)
    else:
        _on_looked_up(desk, at)
    if code == 0:
        _hear_as_it_is(desk, at)
    else:
        _tend(desk)
    _after_orders(desk, held)


@compiled_part
def _settle(desk: Record) -> None:
    """Execute commands, then hear the news, until neither brings anything."""
    while desk.unmodelled == 0:
        while desk.next_command < desk.command_count:
            desk.next_command += 1
            _execute(desk, desk.commands[desk.next_command - 1])
        desk.next_command = desk.command_count = 0
        if desk.news_count == 0:
            return
        for number in range(desk.news_count):
            news = desk.news[number]
            if news.kind == OF_ALGO:
                _on_algo(desk, news)
            elif news.kind == OF_ORDER:
                _on_order(desk, news)
            else:
                _on_funding(desk, news.price)
        desk.news_count = 0


@compiled_part
def _look_back(desk: Record, m: Market, row: int) -> None:
    """Note the last prices before the trade at `row`."""
    if row > 0:
        desk.last_price = m.price[row - 1]
    bought = last_row_of_taker(m.buyer_is_maker, 0, row, False)
    if bought >= 0:
        desk.last_bought = m.price[bought]
    sold = last_row_of_taker(m.buyer_is_maker, 0, row, True)
    if sold >= 0:
        desk.last_sold = m.price[sold]


@compiled_part
def _play_and_settle(desk: Record, m: Market, is_acting: bool) -> None:
    """Let the exchange play what the core has seen, then settle; `is_acting` says whether orders react to the last."""
    if is_acting:
        row = desk.row - 1
        _look_back(desk, m, row)
        _on_trade(desk, m.price[row], m.quantity[row], m.time[row], -1 if m.buyer_is_maker[row] else 1)
        _settle(desk)
    elif desk.command_count or desk.news_count:
        _look_back(desk, m, desk.row)
        _settle(desk)


@compiled_part
def _fire_due(desk: Record, m: Market, before: int) -> bool:
    """Fire the timers due at or before a time; say whether one of them made a command, or ended the session."""
    due = _next_due(desk)
    while due <= before and desk.unmodelled == 0:
        desk.now = max(desk.now, due)
        _on_timer(desk)
        if desk.command_count or _is_finished(desk):
            _play_and_settle(desk, m, False)
            return True
        due = _next_due(desk)
    return False


@compiled_part
def _see_trades(desk: Record, m: Market, end: int, due: int) -> None:
    """Let the core see trades before `end` and `due`, up to the first that closes a bar that something follows from."""
    if due < NEVER:
        end = desk.row + np.searchsorted(m.time[desk.row : end], due)
    closing = max(_wake_at_bar(desk), desk.bars + 1) - 1
    if closing < len(m.closing_rows):
        end = min(end, m.closing_rows[closing] + 1)
    if desk.signal < len(m.signals):
        end = min(end, m.signals[desk.signal].row + 1)
    desk.row = end
    before = desk.bars
    while desk.bars < len(m.closing_rows) and m.closing_rows[desk.bars] < end:
        desk.bars += 1
    while desk.signal < len(m.signals) and m.signals[desk.signal].row < end:
        desk.now = max(desk.now, m.time[end - 1])
        desk.signal += 1
        _on_signal(desk, m, m.signals[desk.signal - 1])
    if desk.bars > before and desk.bars >= _wake_at_bar(desk):
        desk.now = max(desk.now, m.time[end - 1])
        _leave(desk, BY_TIME)


@compiled_part
def _run_segment(desk: Record, m: Market) -> bool:
    """Run to the next trade that an order reacts to, or mark price; say whether the tape has nothing more.

    What the trades before it are is read only where something is due or happens: there are too many to touch them all.
    """
    has_mark = desk.mark < len(m.mark_rows)
    end = m.mark_rows[desk.mark] if has_mark else len(m.price)
    acting = _first_acting(desk, m, end)
    is_acting = acting < end
    if is_acting:
        end, has_mark = acting + 1, False
    is_last = end == len(m.price) and desk.mark + has_mark == len(m.mark_rows)
    last_time = m.mark_times[desk.mark] if has_mark else m.time[end - 1]
    while desk.row < end:
        due = _next_due(desk)
        if due > last_time:
            due = NEVER
        elif _fire_due(desk, m, m.time[desk.row]):
            return False
        else:
            due = _next_due(desk)
        _see_trades(desk, m, end, due)
        if desk.command_count:
            _play_and_settle(desk, m, is_acting and desk.row == end)
            return is_last and desk.row == end and not has_mark
    if has_mark and _fire_due(desk, m, last_time):
        return False
    desk.now = max(desk.now, last_time)
    if has_mark:
        _on_mark(desk, m)
    _play_and_settle(desk, m, is_acting)
    return is_last


@compiled_part
def _pass_marks(desk: Record, m: Market, equity: Rows) -> None:
    """Let the mark prices pass at which nothing happens but a valuation, as nearly all are.

    Only a faster way to do what `_run_segment` does; a mark at which anything else may happen is left to that.
    """
    if desk.watch_is_old:
        _gather_watch(desk)
    if desk.is_busy or (desk.in_hand and desk.settings.triggers_by_mark):
        return
    stop = len(m.price)
    if desk.signal < len(m.signals):
        stop = min(stop, m.signals[desk.signal].row)
    closing = max(_wake_at_bar(desk), desk.bars + 1) - 1
    if closing < len(m.closing_rows) and _wake_at_bar(desk) < NEVER:
        stop = min(stop, m.closing_rows[closing])
    stop = _first_acting(desk, m, stop)
    due = min(_next_due(desk), risk.calm_until(desk.breaker, desk.holds))
    floor, peak = risk.calm_above(desk.breaker, desk.holds, desk.breaker_rules), desk.breaker[0]["peak"]
    room = len(equity) - len(desk.equity)
    while desk.mark < len(m.mark_rows) and desk.equity_written < room:
        number, before, exchange_before = desk.mark, desk.mark_e8, desk.exchange_mark_e8
        if m.mark_rows[number] > stop or m.mark_times[number] >= due or m.fundings[number] > 0:
            break
        desk.mark_e8 = desk.exchange_mark_e8 = m.mark_prices[number]
        unrealised = _unrealised(desk)
        is_liquidated = desk.quantity != 0 and _is_liquidated(desk, unrealised + desk.cost)
        if desk.wallet + unrealised <= floor or is_liquidated:
            desk.mark_e8, desk.exchange_mark_e8 = before, exchange_before
            break
        risk.take_in(desk.breaker, desk.holds, risk.EQUITY, desk.wallet + unrealised)
        if desk.breaker[0]["peak"] > peak:
            peak = desk.breaker[0]["peak"]
            floor = risk.calm_above(desk.breaker, desk.holds, desk.breaker_rules)
        point = equity[desk.equity_written]
        point.time, point.wallet, point.unrealised = m.mark_times[number], desk.wallet, unrealised
        point.position, point.at_mark = desk.quantity, True
        desk.equity_written += 1
        desk.now = m.mark_times[number]
        desk.row = m.mark_rows[number]
        desk.mark += 1
    while desk.bars < len(m.closing_rows) and m.closing_rows[desk.bars] < desk.row:
        desk.bars += 1


@compiled_part
def _on_mark(desk: Record, m: Market) -> None:
    """Let the core and then the exchange take the next mark price."""
    number = desk.mark
    desk.mark_e8 = m.mark_prices[number]
    desk.mark += 1
    _value(desk)
    if desk.settings.triggers_by_mark and desk.in_hand:
        _look_back(desk, m, desk.row)
    _play_mark(desk, m.mark_prices[number], m.mark_times[number], m.fundings[number], m.funding_rates[number])


@compiled_part
def _write_down(
    desk: Record, is_over: bool, orders: Rows, fills: Rows, trips: Rows, equity: Rows, changes: Rows, alerts: Rows
) -> None:
    """Move what was noted to the tables, and the orders once their round trip, or the session, is over."""
    for number in range(desk.fill_count):
        fills[desk.fills_written + number] = desk.fills[number]
        fills[desk.fills_written + number].order += desk.orders_written
    for number in range(desk.trip_count):
        trips[desk.trips_written + number] = desk.trips[number]
    for number in range(desk.equity_count):
        equity[desk.equity_written + number] = desk.equity[number]
    for number in range(desk.change_count):
        changes[desk.changes_written + number] = desk.changes[number]
    for number in range(desk.alert_count):
        alerts[desk.alerts_written + number] = desk.alerts[number]
        alerts[desk.alerts_written + number].order += desk.orders_written
    desk.fills_written += desk.fill_count
    desk.trips_written += desk.trip_count
    desk.equity_written += desk.equity_count
    desk.changes_written += desk.change_count
    desk.alerts_written += desk.alert_count
    desk.fill_count = desk.trip_count = desk.equity_count = desk.change_count = desk.alert_count = 0
    if not desk.in_hand or is_over:
        for number in range(desk.order_count):
            orders[desk.orders_written + number] = desk.orders[number]
        desk.orders_written += desk.order_count
        desk.order_count = 0


def _simulate(
    price: Int64s,
    quantity: Int64s,
    time: Int64s,
    buyer_is_maker: Bools,
    closing_rows: Int64s,
    high: Int64s,
    low: Int64s,
    mark_times: Int64s,
    mark_rows: Int64s,
    mark_prices: Int64s,
    fundings: Int64s,
    funding_rates: Int64s,
    signals: Rows,
    refusals: Rows,
    desks: Rows,
    orders: Rows,
    fills: Rows,
    trips: Rows,
    equity: Rows,
    changes: Rows,
    alerts: Rows,
) -> int:
    """Run on from where the desk stands; return DONE, MORE_ROOM or GIVEN_UP."""
    desk = desks[0]
    m = Market(
        price, quantity, time, buyer_is_maker, closing_rows, high, low, mark_times, mark_rows, mark_prices, fundings,
        funding_rates, signals, refusals,
    )  # fmt: skip
    is_over = False
    while desk.unmodelled == 0:
        _write_down(desk, is_over, orders, fills, trips, equity, changes, alerts)
        if is_over:
            return DONE
        if not (
            desk.orders_written + len(desk.orders) <= len(orders)
            and desk.fills_written + len(desk.fills) <= len(fills)
            and desk.trips_written + len(desk.trips) <= len(trips)
            and desk.equity_written + len(desk.equity) <= len(equity)
            and desk.changes_written + len(desk.changes) <= len(changes)
            and desk.alerts_written + len(desk.alerts) <= len(alerts)
        ):
            return MORE_ROOM
        if desk.has_ended or _is_finished(desk):
            _end_session(desk, m)
            is_over = True
        else:
            _pass_marks(desk, m, equity)
            desk.has_ended = _run_segment(desk, m)
    return GIVEN_UP


@compiled_part
def _end_session(desk: Record, m: Market) -> None:
    """Where the tape ends before the session does, end by the policy; then nothing more is played."""
    _look_back(desk, m, desk.row)
    if not _is_finished(desk):
        _stop(desk, TAPE_END)
        _settle(desk)
    _finish_at_exchange(desk)
    _settle(desk)


@cache
def simulate() -> Callable[..., int]:
    """`_simulate`, compiled when it is first needed."""
    whole, flag = (types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.bool_))
    columns = (whole, whole, whole, flag, *(whole,) * 8)
    rows = [rows_of(dtype) for dtype in (SIGNAL, REFUSAL, DESK, *TABLES.values())]
    return compile_for(_simulate, types.int64(*columns, *rows), nogil=True)  # type: ignore[no-any-return]
