"""A whole lockstep session over a tape as one compiled loop: what `backtest` would do event by event, bit for bit.

The rules are the ones that trade: sizes, gates and breaker from `risk`, prices and triggers from `exchange.simulated`,
fees and positions from `account`, the legal moves of an order and the reaction to a refusal from `oms`. What stands here
once more is only how they follow each other, in the order of the rooms that it stands for: the exchange, the
`OrderMonitor`, the core, `Lockstep`. A function has the name that it has there; read them side by side. A property test
holds both to the same round trips, fills, refusals, breaker changes and equity, over random settings and tapes.

Where something comes up that isn't modelled, the loop stops and says so in `desk.unmodelled`; the caller then runs the
session event by event. Bars and signals come in finished (`research` folds them); a level is tested against a bar's high
and low first, then found among the bar's own trades.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numba import types

from voltrade import oms, risk
from voltrade.account import fee, position_after, value_at_mark
from voltrade.compiled import Record, Rows, bind, compile_for, compiled, record_dtype, rows_of
from voltrade.core import GATES
from voltrade.exchange.simulated import (
    first_acting_trade,
    is_beyond_take_bound,
    is_triggered,
    is_within_limit,
    last_row_of_taker,
    slipped_price,
)
from voltrade.model import NEVER, Bools, Int64s, Purpose
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
for is_algo, moves in enumerate((oms.MOVES, oms.ALGO_MOVES)):
    for state, allowed in moves.items():
        for after in allowed:
            LEGAL[is_algo, STATES.index(state), STATES.index(after)] = True

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

REFUSED_CODES = np.array(list(oms.REACTIONS))
REACTIONS = np.array([list(oms.Reaction).index(reaction) for reaction in oms.REACTIONS.values()])
RETRY, LEAVE, RECONCILE, HALT = (
    list(oms.Reaction).index(reaction)
    for reaction in (oms.Reaction.RETRY, oms.Reaction.LEAVE, oms.Reaction.RECONCILE, oms.Reaction.HALT)
)

ORDER_REFUSED, STOP_IS_MISSING = range(2)
"""Kinds of alerts."""

UNMODELLED = (
    "",
    "an order was refused that halts trading",
    "an order filled after its round trip had ended",
    "an entry was sent with a position at the exchange",
    "more happened at once than there is room for",
)
HALTS, LATE_FILL, NOT_FLAT, TOO_MUCH = range(1, 5)
"""Why the loop gave up."""

DONE, MORE_ROOM, GIVEN_UP = range(3)
"""What `simulate` returns."""

ROOM = 64
"""Rows that every table must have free before the next stretch of the tape; it fills a handful at most."""


# --- rows -------------------------------------------------------------------------------------------------------------


def _wholes(*names: str) -> list[tuple[Any, ...]]:
    return [(name, np.int64) for name in names]


def _flags(*names: str) -> list[tuple[Any, ...]]:
    return [(name, np.bool_) for name in names]


SETTINGS = record_dtype(
    [
        *_wholes("latency_ms", "slippage_e8", "taker_fee_e8", "take_bound_e8", "leverage"),
        *_wholes("min_quantity", "max_quantity", "market_max_quantity", "min_notional", "min_price", "max_price"),
        *_wholes("multiplier_up_e8", "multiplier_down_e8"),  # of the mark, for PERCENT_PRICE
        *_wholes("tick_e8", "step_numerator", "step_denominator", "money_per_ticklot"),
        *_wholes("max_slippage_e8", "stale_ms", "max_holding_bars", "max_holding_ms"),
        ("max_holding_exact_ms", np.float64),
        *_flags("limit_entry", "triggers_by_mark", "exit_on_opposite_signal", "flatten_at_end"),
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
    [*_flags("algo"), *_wholes("order", "status", "executed", "order_id", "trade_id", "quantity", "price", "fee")]
)
"""What the exchange tells of an order: its status and filled quantity, and one fill where `trade_id` isn't 0."""

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

EQUITY = record_dtype([*_wholes("time", "wallet", "unrealised", "position"), *_flags("at_mark")])
REFUSAL = record_dtype(_wholes("time", "bar", "side", "gate", "measure", "limit"))
CHANGE = record_dtype(_wholes("time", "rule", "mode", "resumed", "action", "measure", "limit", "resume_at"))
ALERT = record_dtype(_wholes("time", "kind", "order"))

DESK = record_dtype(
    [
        # where the session stands: the next trade, mark price and signal; bars closed so far; the time
        *_wholes("row", "mark", "signal", "count", "now"),
        # what the open orders wait for, all together, and how far the tape was searched for it
        *_wholes("arrival", "rises_to", "falls_to", "searched_to", "search_bar"),
        *_flags("taking_buys", "taking_sells", "watching", "watch_is_old"),
        # the account as the exchange has it, and as our books do
        *_wholes("order_ids", "algo_ids", "exchange_wallet", "exchange_quantity", "exchange_cost", "exchange_mark_e8"),
        *_wholes("wallet", "quantity", "cost", "mark_e8"),
        # the core
        *_wholes("opened_at_bar", "left_at", "left_at_bar", "end_at", "end_reason"),
        *_flags("paused", "keep", "has_ended"),
        # the monitor, and the round trip in hand
        *_wholes("monitor_time", "snapshot_at", "round_trips", "counted"),
        *_flags("in_hand", "reconciled", "trip_closed"),
        *_wholes("first_order", "newest_stop", "newest_take_profit", "stops", "take_profits", "exits"),
        *_wholes("side", "bar", "stop_distance", "take_profit_distance"),
        *_wholes("opened_at", "entered", "entry_notional", "left", "exit_notional", "realised", "fees", "funding"),
        *_wholes("exit_reason", "exit_time", "leave_reason", "retry_at", "stop_tries", "unprotected_since"),
        *_flags("closed"),
        # queues and tables
        *_wholes("next_command", "commands", "news"),
        *_wholes("orders", "fills", "trips", "equities", "refusals", "changes", "alerts"),
        *_wholes("unmodelled"),
    ]
)
"""All that changes in a session, but for the breaker's own rows and the orders."""


class Market(NamedTuple):
    """The tape, its bars and its mark prices, by columns."""

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


class Books(NamedTuple):
    """The session's rows and tables. `desk`, `facts`, `limits` and `breaker` are one row each."""

    desk: Rows
    facts: Rows
    limits: Rows
    breaker: Rows
    holds: Rows
    breaker_rules: Rows
    commands: Rows
    news: Rows
    signals: Rows
    orders: Rows
    fills: Rows
    trips: Rows
    equity: Rows
    refusals: Rows
    changes: Rows
    alerts: Rows


def _first_refusal(facts: Rows, limits: Rows) -> int:
    """Number of the first gate that refuses, counted from this one; GATE and REST are bound."""
    return 0 if GATE(facts, limits) else 1 + REST(facts, limits)  # type: ignore[name-defined]  # noqa: F821


@compiled
def _no_refusal(facts: Rows, limits: Rows) -> int:
    return 0


first_refusal: Callable[[Rows, Rows], int] = reduce(
    lambda rest, gate: compiled(bind(_first_refusal, GATE=gate.refuses, REST=rest)), reversed(GATES), _no_refusal
)
"""The place in `GATES` of the first gate that refuses; their number where none does."""

GATE_RULES = np.array([risk.RULES.index(gate.code) if gate.code in risk.RULES else -1 for gate in GATES])
"""The breaker's rule that a gate stands for, -1 for none."""


# --- the exchange: answers --------------------------------------------------------------------------------------------


@compiled
def _is_algo(order: Record) -> bool:
    return order.purpose == STOP or order.purpose == TAKE_PROFIT


@compiled
def _tell_order(b: Books, at: int) -> None:
    desk, order = b.desk[0], b.orders[at]
    news = b.news[desk.news]
    news.algo, news.order, news.status, news.executed = False, at, order.status, order.executed
    news.order_id, news.trade_id = order.order_id, 0
    order.updated = desk.now
    desk.news += 1


@compiled
def _tell_algo(b: Books, at: int) -> None:
    desk, order = b.desk[0], b.orders[at]
    news = b.news[desk.news]
    news.algo, news.order, news.status, news.executed = True, at, order.algo_status, order.executed
    news.order_id, news.trade_id = order.order_id, 0
    order.updated = desk.now
    desk.watch_is_old = True
    desk.news += 1


@compiled
def _last_price(desk: Record, m: Market) -> int:
    return m.price[desk.row - 1] if desk.row > 0 else 0


@compiled
def _best_price(m: Market, row: int, side: int) -> int:
    """Price that an order of this side would take at before the trade at `row`; 0 before the first."""
    at = last_row_of_taker(m.buyer_is_maker, 0, row, side < 0)
    if at >= 0:
        return m.price[at]
    return m.price[row - 1] if row > 0 else 0


@compiled
def _value_price_e8(desk: Record, m: Market, settings: Record) -> int:
    return desk.exchange_mark_e8 if desk.exchange_mark_e8 else _last_price(desk, m) * settings.tick_e8


@compiled
def _closable(desk: Record, side: int) -> int:
    return max(0, -side * desk.exchange_quantity)


@compiled
def _check_quantity(quantity: int, limit: bool, settings: Record) -> int:
    if quantity <= 0:
        return -4003
    if quantity < settings.min_quantity:
        return -4004
    return -4005 if quantity > (settings.max_quantity if limit else settings.market_max_quantity) else 0


@compiled
def _check_price(price: int, settings: Record) -> int:
    if price < settings.min_price:
        return -4013
    return -4002 if price > settings.max_price else 0


@compiled
def _is_outside_band(price_e8: int, mark_e8: int, side: int, settings: Record) -> bool:
    """Whether a price is beyond PERCENT_PRICE: a buy too high, a sell too low."""
    if side > 0:
        return price_e8 > risk.share(mark_e8, settings.multiplier_up_e8)
    return price_e8 < risk.share_up(mark_e8, settings.multiplier_down_e8)


@compiled
def _check_order(b: Books, m: Market, settings: Record, at: int) -> int:
    desk, order = b.desk[0], b.orders[at]
    is_limit = order.price > 0
    code = _check_quantity(order.quantity, is_limit, settings)
    if code:
        return code
    mark_e8 = _value_price_e8(desk, m, settings)
    if is_limit:
        code = _check_price(order.price, settings)
        if code:
            return code
        if mark_e8 and _is_outside_band(order.price * settings.tick_e8, mark_e8, order.side, settings):
            return -4016 if order.side > 0 else -4024
    else:
        best_e8 = _best_price(m, desk.row, order.side) * settings.tick_e8
        if mark_e8 == 0 or _is_outside_band(best_e8, mark_e8, order.side, settings):
            return -4131
    if order.purpose != ENTRY:
        return -2022 if _closable(desk, order.side) == 0 else 0
    if is_limit:
        notional = order.price * order.quantity * settings.money_per_ticklot
    else:
        notional = value_at_mark(order.quantity, settings.step_numerator, settings.step_denominator, mark_e8)
    if notional < settings.min_notional:
        return -4164
    if desk.exchange_quantity != 0:
        desk.unmodelled = NOT_FLAT
    assumed = order.price if is_limit else _last_price(desk, m)
    margin = -(-order.quantity * assumed * settings.money_per_ticklot // settings.leverage)
    return -2019 if margin > desk.exchange_wallet else 0


@compiled
def _place_order(b: Books, m: Market, settings: Record, at: int) -> int:
    """Accept a market or limit order; return 0, or the code of the first rule that it breaks."""
    code = _check_order(b, m, settings, at)
    if code:
        return code
    desk, order = b.desk[0], b.orders[at]
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.live_from = desk.now + settings.latency_ms
    order.phase = TRAVELLING
    order.status = NEW
    desk.watch_is_old = True
    _tell_order(b, at)
    return 0


@compiled
def _would_trigger_now(b: Books, m: Market, settings: Record, at: int) -> bool:
    desk, order = b.desk[0], b.orders[at]
    if settings.triggers_by_mark and desk.exchange_mark_e8:
        return is_triggered(desk.exchange_mark_e8, order.trigger_price * settings.tick_e8, _is_rising(order))
    last = _last_price(desk, m)
    return last > 0 and is_triggered(last, order.trigger_price, _is_rising(order))


@compiled
def _is_rising(order: Record) -> bool:
    return (order.purpose == STOP) == (order.side > 0)


@compiled
def _place_algo(b: Books, m: Market, settings: Record, at: int) -> int:
    desk, order = b.desk[0], b.orders[at]
    code = _check_quantity(order.quantity, False, settings)
    if code == 0:
        code = _check_price(order.trigger_price, settings)
    if code == 0 and _closable(desk, order.side) == 0:
        code = -2022
    if code == 0 and _would_trigger_now(b, m, settings, at):
        code = -2021
    if code:
        return code
    desk.algo_ids += 1
    order.algo_id = desk.algo_ids
    order.live_from = desk.now + settings.latency_ms
    order.algo_status = NEW
    _tell_algo(b, at)
    return 0


@compiled
def _cancel_at_exchange(b: Books, at: int) -> int:
    """Cancel an order that is open; return 0, or -2011."""
    order = b.orders[at]
    if _is_algo(order):
        if order.algo_status != NEW:
            return -2011
        _end_algo(b, at, CANCELED)
        return 0
    if order.phase != TRAVELLING and order.phase != TAKING:
        return -2011
    _end(b, at, CANCELED)
    return 0


@compiled
def _end(b: Books, at: int, status: int) -> None:
    b.orders[at].status = status
    _tell_order(b, at)
    _close_books(b, at)


@compiled
def _close_books(b: Books, at: int) -> None:
    order = b.orders[at]
    order.phase = ENDED
    b.desk[0].watch_is_old = True
    if _is_algo(order):
        _end_algo(b, at, FINISHED)


@compiled
def _end_algo(b: Books, at: int, status: int) -> None:
    b.orders[at].algo_status = status
    _tell_algo(b, at)


# --- the exchange: matching -------------------------------------------------------------------------------------------


@compiled
def _gather_watch(b: Books, settings: Record) -> None:
    """Gather what the open orders wait for; kept until an order changes."""
    desk = b.desk[0]
    desk.watch_is_old = False
    desk.arrival, desk.rises_to, desk.falls_to = NEVER, NEVER, 0
    desk.taking_buys, desk.taking_sells = False, False
    for at in range(desk.first_order, desk.orders):
        order = b.orders[at]
        if order.phase == TRAVELLING:
            desk.arrival = min(desk.arrival, order.live_from)
        elif order.phase == TAKING:
            if order.side > 0:
                desk.taking_buys = True
            else:
                desk.taking_sells = True
        if order.algo_status == NEW and not settings.triggers_by_mark:
            if not order.arrived:
                desk.arrival = min(desk.arrival, order.live_from)
            elif _is_rising(order):
                desk.rises_to = min(desk.rises_to, order.trigger_price)
            else:
                desk.falls_to = max(desk.falls_to, order.trigger_price)
    is_taking = desk.taking_buys or desk.taking_sells
    desk.watching = is_taking or desk.arrival < NEVER or desk.rises_to < NEVER or desk.falls_to > 0
    desk.searched_to = 0


@compiled
def _first_acting(b: Books, m: Market, settings: Record, stop: int) -> int:
    """Find the first trade before `stop` that any order reacts to; else `stop`."""
    desk = b.desk[0]
    if desk.watch_is_old:
        _gather_watch(b, settings)
    if not desk.watching:
        return stop
    if desk.taking_buys or desk.taking_sells or desk.arrival < NEVER:
        return first_acting_trade(
            m.price,
            m.time,
            m.buyer_is_maker,
            desk.row,
            stop,
            desk.arrival,
            desk.rises_to,
            desk.falls_to,
            desk.taking_buys,
            desk.taking_sells,
        )
    return _first_reaching(desk, m, stop)


@compiled
def _first_reaching(desk: Record, m: Market, stop: int) -> int:
    """Find the first trade before `stop` at or beyond a level: bar by bar, then among the trades of a bar that reaches.

    What was searched once isn't searched again until the levels change.
    """
    if desk.searched_to < desk.row:
        desk.searched_to = desk.row
        desk.search_bar = desk.count
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
        desk.searched_to = first_acting_trade(
            m.price,
            m.time,
            m.buyer_is_maker,
            desk.searched_to,
            end,
            NEVER,
            desk.rises_to,
            desk.falls_to,
            False,
            False,
        )
        if desk.searched_to < end:
            return desk.searched_to
    return stop


@compiled
def _on_trade(b: Books, m: Market, settings: Record, row: int) -> None:
    """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
    desk = b.desk[0]
    price, quantity, side = m.price[row], m.quantity[row], -1 if m.buyer_is_maker[row] else 1
    desk.watch_is_old = True
    for at in range(desk.first_order, desk.orders):
        order = b.orders[at]
        if order.phase == TRAVELLING and m.time[row] >= order.live_from:
            _arrive(b, m, at, row)
        if order.algo_status == NEW and m.time[row] >= order.live_from:
            order.arrived = True
    newest = desk.order_ids
    if not settings.triggers_by_mark:
        for purpose in (STOP, TAKE_PROFIT):
            for at in range(desk.first_order, desk.orders):
                order = b.orders[at]
                is_waiting = order.purpose == purpose and order.algo_status == NEW and order.arrived
                if is_waiting and is_triggered(price, order.trigger_price, _is_rising(order)):
                    _trigger(b, at, price)
    last_id = 0
    while True:
        at = _next_open(b, last_id)
        if at < 0:
            return
        order = b.orders[at]
        last_id = order.order_id
        if order.phase == TAKING and (order.order_id > newest or order.side == side):
            quantity -= _take(b, settings, at, price, quantity)


@compiled
def _next_open(b: Books, after_id: int) -> int:
    """The open order with the smallest id above `after_id`; -1 for none."""
    desk = b.desk[0]
    found = -1
    for at in range(desk.first_order, desk.orders):
        order = b.orders[at]
        is_open = order.phase == TRAVELLING or order.phase == TAKING
        if is_open and order.order_id > after_id and (found < 0 or order.order_id < b.orders[found].order_id):
            found = at
    return found


@compiled
def _arrive(b: Books, m: Market, at: int, row: int) -> None:
    order = b.orders[at]
    order.reference = m.price[row - 1] if row > 0 else m.price[row]
    best = _best_price(m, row, order.side)
    if order.price == 0 or (best > 0 and is_within_limit(best, order.price, order.side)):
        order.phase = TAKING
    else:
        _end(b, at, EXPIRED)


@compiled
def _trigger(b: Books, at: int, last_price: int) -> None:
    """Turn a conditional order into its child, a market order that is at the matching engine already."""
    desk, order = b.desk[0], b.orders[at]
    order.algo_status = TRIGGERING
    _tell_algo(b, at)
    if _closable(desk, order.side) == 0:
        order.code = -2022
        _end_algo(b, at, REJECTED)
        return
    desk.order_ids += 1
    order.order_id = desk.order_ids
    order.phase = TAKING
    order.reference = last_price
    _end_algo(b, at, TRIGGERED)
    order.status = NEW
    _tell_order(b, at)


@compiled
def _take(b: Books, settings: Record, at: int, price: int, available: int) -> int:
    """Fill an order from a trade; return the lots it took."""
    order = b.orders[at]
    fill_price = slipped_price(price, order.side, settings.slippage_e8)
    if order.price == 0:
        reference = order.reference if order.reference else price
        if is_beyond_take_bound(fill_price, reference, order.side, settings.take_bound_e8):
            _end(b, at, EXPIRED)
            return 0
    elif not is_within_limit(fill_price, order.price, order.side):
        _end(b, at, EXPIRED)
        return 0
    return _fill(b, settings, at, fill_price, available)


@compiled
def _fill(b: Books, settings: Record, at: int, price: int, available: int) -> int:
    """Fill an order by at most `available` lots and book it; return the lots."""
    desk, order = b.desk[0], b.orders[at]
    quantity = min(available, order.quantity - order.executed)
    if order.purpose != ENTRY:
        quantity = min(quantity, _closable(desk, order.side))
    if quantity == 0:
        return 0
    cost = fee(price * quantity * settings.money_per_ticklot, settings.taker_fee_e8)
    desk.exchange_quantity, desk.exchange_cost, realised = position_after(
        desk.exchange_quantity, desk.exchange_cost, order.side, price, quantity, settings.money_per_ticklot
    )
    desk.exchange_wallet += realised - cost
    order.executed += quantity
    order.executed_notional += price * quantity
    order.status = PARTIALLY_FILLED if order.executed < order.quantity else FILLED
    fill = b.fills[desk.fills]
    fill.time, fill.order, fill.quantity, fill.price, fill.fee = desk.now, at, quantity, price, cost
    fill.realised, fill.executed, fill.executed_notional = realised, order.executed, order.executed_notional
    fill.status = order.status
    desk.fills += 1
    news = b.news[desk.news]
    _tell_order(b, at)
    news.trade_id, news.quantity, news.price, news.fee = desk.fills, quantity, price, cost
    if order.status == FILLED:
        _close_books(b, at)
    _expire_idle_reduce_only(b)
    return quantity


@compiled
def _expire_idle_reduce_only(b: Books) -> None:
    """Expire reduce-only orders that have nothing left to reduce."""
    desk = b.desk[0]
    at = _next_open(b, 0)
    while at >= 0:
        order = b.orders[at]
        if order.purpose != ENTRY and _closable(desk, order.side) == 0:
            _end(b, at, EXPIRED)
        at = _next_open(b, order.order_id)


@compiled
def _play_mark(b: Books, m: Market, settings: Record, mark_e8: int, time: int) -> None:
    """Take a mark price: it values the position and triggers orders that wait for it."""
    desk = b.desk[0]
    desk.exchange_mark_e8 = mark_e8
    if not settings.triggers_by_mark:
        return
    for purpose in (STOP, TAKE_PROFIT):
        for at in range(desk.first_order, desk.orders):
            order = b.orders[at]
            is_waiting = order.purpose == purpose and order.algo_status == NEW and time >= order.live_from
            if is_waiting and is_triggered(mark_e8, order.trigger_price * settings.tick_e8, _is_rising(order)):
                _trigger(b, at, _last_price(desk, m))


@compiled
def _finish_at_exchange(b: Books, m: Market, settings: Record) -> None:
    """End the tape: open market orders fill at the last price of the other side, IOC expire."""
    desk = b.desk[0]
    at = _next_open(b, 0)
    while at >= 0:
        order = b.orders[at]
        price = _best_price(m, desk.row, order.side)
        if order.price == 0 and price > 0:
            _fill(b, settings, at, slipped_price(price, order.side, settings.slippage_e8), order.quantity)
        else:
            _end(b, at, EXPIRED)
        at = _next_open(b, order.order_id)


# --- the monitor: orders ----------------------------------------------------------------------------------------------


@compiled
def _is_done(order: Record) -> bool:
    return IS_DONE[order.state] or order.child_done


@compiled
def _is_resting(order: Record) -> bool:
    return not _is_done(order) and order.state != PENDING_SUBMIT and order.state != UNKNOWN


@compiled
def _move(order: Record, state: int) -> bool:
    """Go to a state if that is a legal move; say whether it was."""
    if not LEGAL[1 if _is_algo(order) else 0, order.state, state]:
        return False
    order.state = state
    return True


@compiled
def _command(b: Books, kind: int, at: int) -> None:
    desk = b.desk[0]
    if desk.commands >= len(b.commands) or desk.news + ROOM // 2 > len(b.news):
        desk.unmodelled = TOO_MUCH
        return
    command = b.commands[desk.commands]
    command.kind, command.order = kind, at
    desk.commands += 1


@compiled
def _position(desk: Record) -> int:
    """Unsigned lots in hand, from our fills."""
    return desk.entered - desk.left if desk.in_hand else 0


@compiled
def _advance(settings: Record, order: Record, status: int, time: int) -> None:
    """Move an order to a status that the exchange told; late news changes nothing."""
    is_canceling = order.state == PENDING_CANCEL and (status == NEW or status == PARTIALLY_FILLED)
    if order.state != status and (is_canceling or not _move(order, status)):
        return
    order.look_at = NEVER if _is_algo(order) and order.state == NEW else time + settings.stale_ms


@compiled
def _cancel(b: Books, settings: Record, at: int, reason: int) -> None:
    order = b.orders[at]
    if not _is_resting(order) or not _move(order, PENDING_CANCEL):
        return
    order.look_at = b.desk[0].now + settings.stale_ms
    if order.text == NONE:
        order.text = reason
    _command(b, CANCEL, at)


@compiled
def _lookup(b: Books, settings: Record, at: int) -> None:
    b.orders[at].look_at = b.desk[0].now + settings.stale_ms
    _command(b, LOOKUP, at)


@compiled
def _count_fill(b: Books, news: Record) -> None:
    desk, order = b.desk[0], b.orders[news.order]
    desk.counted = news.trade_id
    notional = news.quantity * news.price
    order.filled += news.quantity
    if order.round_trip != desk.round_trips:
        desk.unmodelled = LATE_FILL
    if not desk.in_hand:
        desk.in_hand = True
        desk.closed = False
    fill = b.fills[news.trade_id - 1]
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


@compiled
def _tend(b: Books, settings: Record) -> None:
    """Compare the position in hand with the orders it should have, and send what is missing or cancel what is left."""
    desk = b.desk[0]
    if not desk.in_hand:
        return
    if _position(desk) <= 0:
        _tend_flat(b, settings)
        return
    _tend_stop(b, settings)
    if desk.leave_reason != NONE or _stop_spent(b):
        _tend_exit(b, settings)
    else:
        _tend_take_profit(b, settings)


@compiled
def _tend_flat(b: Books, settings: Record) -> None:
    desk = b.desk[0]
    desk.unprotected_since = NEVER
    if not _is_done(b.orders[desk.first_order]):
        return
    if desk.entered > 0 and not desk.closed:
        desk.closed = True
        _round_trip(b)
    all_done = True
    for purpose in range(4):
        for at in range(desk.first_order, desk.orders):
            if b.orders[at].purpose == purpose:
                _cancel(b, settings, at, POSITION_CLOSED)
                all_done = all_done and _is_done(b.orders[at])
    if all_done:
        desk.in_hand = False


@compiled
def _tend_stop(b: Books, settings: Record) -> None:
    desk = b.desk[0]
    if desk.stops and not _is_done(b.orders[desk.newest_stop]):
        if not _is_resting(b.orders[desk.newest_stop]):
            _unprotected(b)
            return
        desk.unprotected_since = NEVER
        for at in range(desk.first_order, desk.newest_stop):
            if b.orders[at].purpose == STOP:
                _cancel(b, settings, at, RESIZED)
        if desk.now >= _resize_at(b):
            _send_stop(b, settings, RESIZE)
        return
    _unprotected(b)
    if not (_stop_spent(b) or desk.now < desk.retry_at or desk.leave_reason != NONE):
        _send_stop(b, settings, PROTECT)


@compiled
def _resize_at(b: Books) -> int:
    desk = b.desk[0]
    if desk.stops == 0:
        return NEVER
    newest = b.orders[desk.newest_stop]
    if newest.state != NEW or newest.quantity >= _position(desk):
        return NEVER
    return 0 if _is_done(b.orders[desk.first_order]) else newest.time + oms.RESIZE_EVERY_MS


@compiled
def _unprotected(b: Books) -> None:
    desk = b.desk[0]
    for at in range(desk.first_order, desk.orders):
        if b.orders[at].purpose == STOP and _is_resting(b.orders[at]):
            desk.unprotected_since = NEVER
            return
    if desk.unprotected_since == NEVER:
        desk.unprotected_since = desk.now


@compiled
def _send(b: Books, settings: Record, purpose: int, quantity: int, trigger_price: int, reason: int) -> int:
    """Register an order that leaves the position, and command it; return its place in the table."""
    desk = b.desk[0]
    at = desk.orders
    order = b.orders[at]
    order.round_trip, order.purpose, order.side = desk.round_trips, purpose, -desk.side
    order.quantity, order.price, order.trigger_price = quantity, 0, trigger_price
    order.time, order.reason, order.bar, order.text = desk.now, reason, -1, NONE
    order.state = PENDING_SUBMIT
    order.look_at = desk.now + settings.stale_ms
    desk.orders += 1
    _command(b, SUBMIT, at)
    return at


@compiled
def _send_stop(b: Books, settings: Record, reason: int) -> None:
    desk = b.desk[0]
    trigger = level_from(desk.entry_notional, desk.entered, -desk.side * desk.stop_distance)
    desk.newest_stop = _send(b, settings, STOP, _position(desk), max(trigger, 1), reason)
    desk.stops += 1
    b.orders[desk.newest_stop].number = desk.stops


@compiled
def _tend_take_profit(b: Books, settings: Record) -> None:
    desk = b.desk[0]
    if desk.take_profit_distance == 0 or desk.take_profits or not _is_done(b.orders[desk.first_order]):
        return
    trigger = level_from(desk.entry_notional, desk.entered, desk.side * desk.take_profit_distance)
    desk.newest_take_profit = _send(b, settings, TAKE_PROFIT, _position(desk), max(trigger, 1), TARGET)
    desk.take_profits += 1
    b.orders[desk.newest_take_profit].number = desk.take_profits


@compiled
def _stop_spent(b: Books) -> bool:
    """Whether a stop or take-profit triggered and ended, and a part of the position is still there."""
    desk = b.desk[0]
    for at in range(desk.first_order, desk.orders):
        order = b.orders[at]
        if _is_algo(order) and order.child_id != 0 and _is_done(order):
            return True
    return False


@compiled
def _tend_exit(b: Books, settings: Record) -> None:
    desk = b.desk[0]
    if desk.now < desk.retry_at:
        return
    for at in range(desk.first_order, desk.orders):
        if b.orders[at].purpose == EXIT and not _is_done(b.orders[at]):
            return
    reason = desk.leave_reason if desk.leave_reason != NONE else STOP_REST
    at = _send(b, settings, EXIT, _position(desk), 0, reason)
    desk.exits += 1
    b.orders[at].number = desk.exits


@compiled
def _round_trip(b: Books) -> None:
    desk = b.desk[0]
    trip = b.trips[desk.trips]
    trip.id, trip.side, trip.bar_number = desk.round_trips, desk.side, desk.bar
    trip.opened_at, trip.closed_at, trip.quantity = desk.opened_at, desk.exit_time, desk.entered
    trip.entry_notional, trip.exit_notional = desk.entry_notional, desk.exit_notional
    trip.realised, trip.fees, trip.funding = desk.realised, desk.fees, desk.funding
    trip.exit_reason, trip.fills = desk.exit_reason, desk.counted
    trip.stop_price = b.orders[desk.newest_stop].trigger_price if desk.stops else 0
    trip.take_profit_price = b.orders[desk.newest_take_profit].trigger_price if desk.take_profits else 0
    desk.trips += 1
    desk.trip_closed = True


@compiled
def _enter(b: Books, settings: Record, signal: Record, quantity: int) -> None:
    """Open a round trip."""
    desk = b.desk[0]
    at = desk.orders
    desk.round_trips += 1
    desk.in_hand, desk.closed = True, False
    desk.first_order, desk.stops, desk.take_profits, desk.exits = at, 0, 0, 0
    desk.side, desk.bar = signal.side, signal.bar
    desk.stop_distance, desk.take_profit_distance = signal.stop_ticks, signal.take_profit_ticks
    desk.opened_at, desk.entered, desk.entry_notional, desk.left, desk.exit_notional = 0, 0, 0, 0, 0
    desk.realised, desk.fees, desk.funding, desk.exit_reason, desk.exit_time = 0, 0, 0, NONE, 0
    desk.leave_reason, desk.retry_at, desk.stop_tries, desk.unprotected_since = NONE, 0, 0, NEVER
    _send(b, settings, ENTRY, quantity, 0, SIGNALLED)
    order = b.orders[at]
    order.side, order.bar, order.number = signal.side, signal.bar, 1
    if settings.limit_entry:
        order.price = signal.price + signal.side * risk.share(signal.price, settings.max_slippage_e8)


@compiled
def _leave(b: Books, settings: Record, reason: int) -> None:
    """Leave the position at market, reduce-only; the stop stays until the position is gone."""
    desk = b.desk[0]
    if not desk.in_hand:
        return
    if desk.leave_reason == NONE:
        desk.leave_reason = reason
    _cancel_entry(b, settings, reason)
    _tend(b, settings)


@compiled
def _cancel_entry(b: Books, settings: Record, reason: int) -> None:
    desk = b.desk[0]
    if desk.in_hand:
        _cancel(b, settings, desk.first_order, reason)


# --- the monitor: news and answers ------------------------------------------------------------------------------------


@compiled
def _hear_order(b: Books, settings: Record, at: int, status: int, executed: int, order_id: int) -> None:
    """Take an ordinary order's update; its fill, if any, has been counted."""
    desk, order = b.desk[0], b.orders[at]
    order.reported = max(order.reported, executed)
    if _is_algo(order):
        order.child_id = order_id
        order.child_done = order.child_done or IS_DONE[status]
    else:
        _advance(settings, order, status, desk.now)
    if order.reported > order.filled and desk.snapshot_at == NEVER:
        desk.snapshot_at = desk.now + oms.RETRY_AFTER_MS
    _tend(b, settings)


@compiled
def _hear_algo(b: Books, settings: Record, at: int, status: int, order_id: int) -> None:
    desk, order = b.desk[0], b.orders[at]
    if order_id:
        order.child_id = order_id
    _advance(settings, order, status, desk.now)
    _tend(b, settings)


@compiled
def _reaction(code: int) -> int:
    for at in range(len(REFUSED_CODES)):
        if REFUSED_CODES[at] == code:
            return REACTIONS[at]
    return HALT


@compiled
def _on_refused(b: Books, at: int, code: int) -> None:
    desk, order = b.desk[0], b.orders[at]
    order.code = code
    if not _move(order, REJECTED):
        return
    _alert(b, ORDER_REFUSED, at)
    reaction = _reaction(code)
    if reaction == HALT:
        desk.unmodelled = HALTS
    if reaction == RECONCILE:
        _command(b, SNAPSHOT, at)
    if order.purpose == EXIT:
        desk.retry_at = desk.now + oms.RETRY_AFTER_MS
    elif order.purpose == STOP:
        desk.stop_tries += 1
        if (reaction == RETRY or reaction == RECONCILE) and desk.stop_tries < oms.STOP_TRIES:
            desk.retry_at = desk.now + oms.RETRY_AFTER_MS
        elif desk.leave_reason == NONE:
            desk.leave_reason = BY_STOP if reaction == LEAVE else STOP_REFUSED
    elif order.purpose == TAKE_PROFIT and reaction == LEAVE and desk.leave_reason == NONE:
        desk.leave_reason = BY_TAKE_PROFIT


@compiled
def _on_looked_up(b: Books, settings: Record, at: int) -> None:
    desk, order = b.desk[0], b.orders[at]
    if _is_done(order):
        return
    told = order.algo_status if _is_algo(order) else order.status
    is_open = told == NEW or told == PARTIALLY_FILLED
    if (order.state == PENDING_CANCEL or order.state == UNKNOWN) and is_open:
        _move(order, told)
    if order.purpose == ENTRY and is_open and desk.now - order.time >= settings.stale_ms:
        _move(order, told)
        _cancel(b, settings, at, STALE)


@compiled
def _hear_as_it_is(b: Books, settings: Record, at: int) -> None:
    """Take an order's state from an answer."""
    order = b.orders[at]
    if _is_algo(order):
        _hear_algo(b, settings, at, order.algo_status, order.order_id)
    else:
        _hear_order(b, settings, at, order.status, order.executed, order.order_id)


@compiled
def _alert(b: Books, kind: int, at: int) -> None:
    desk = b.desk[0]
    alert = b.alerts[desk.alerts]
    alert.time, alert.kind, alert.order = desk.now, kind, at
    desk.alerts += 1


@compiled
def _has_unknown(b: Books) -> bool:
    desk = b.desk[0]
    if desk.in_hand:
        for at in range(desk.first_order, desk.orders):
            order = b.orders[at]
            if not _is_done(order) and (order.state == UNKNOWN or order.state == PENDING_CANCEL):
                return True
    return False


@compiled
def _is_protected(b: Books) -> bool:
    desk = b.desk[0]
    if not desk.in_hand or not _is_done(b.orders[desk.first_order]) or desk.stops == 0:
        return False
    newest = b.orders[desk.newest_stop]
    return _is_resting(newest) and newest.quantity >= _position(desk)


@compiled
def _monitor_due(b: Books, settings: Record) -> int:
    desk = b.desk[0]
    due = desk.snapshot_at
    if not desk.in_hand:
        return due
    for at in range(desk.first_order, desk.orders):
        if not _is_done(b.orders[at]):
            due = min(due, b.orders[at].look_at)
    if _position(desk) != 0:
        due = min(due, _resize_at(b))
        if desk.retry_at > desk.monitor_time:
            due = min(due, desk.retry_at)
        if desk.leave_reason == NONE:
            if desk.unprotected_since != NEVER:
                due = min(due, desk.unprotected_since + oms.PROTECT_WITHIN_MS)
            if settings.max_holding_ms:
                due = min(due, desk.opened_at + settings.max_holding_ms)
    return due


@compiled
def _on_time(b: Books, settings: Record) -> None:
    """Do what is due: look up overdue orders, retry, protect, leave a position that is held too long."""
    desk = b.desk[0]
    desk.monitor_time = desk.now
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.first_order, desk.orders):
                order = b.orders[at]
                if order.purpose == purpose and not _is_done(order) and order.look_at <= desk.now:
                    _lookup(b, settings, at)
    if desk.snapshot_at <= desk.now:
        desk.snapshot_at = NEVER
        _command(b, SNAPSHOT, -1)
    if _position(desk) != 0 and desk.leave_reason == NONE:
        if settings.max_holding_ms and desk.now - desk.opened_at >= settings.max_holding_exact_ms:
            desk.leave_reason = BY_TIME
        if desk.now - desk.unprotected_since >= oms.PROTECT_WITHIN_MS:
            desk.leave_reason = STOP_MISSING
            _alert(b, STOP_IS_MISSING, -1)
    _tend(b, settings)


# --- the core ---------------------------------------------------------------------------------------------------------


@compiled
def _breaker(b: Books, fact: int, amount: int) -> int:
    """Tell the breaker a fact and note what changed; return the changes as bits."""
    desk = b.desk[0]
    bits = risk.breaker_step(b.breaker, b.holds, b.breaker_rules, fact, desk.now, amount)
    if bits:
        for rule in range(5):
            if bits >> 8 >> rule & 1:
                _note_change(b, rule, True)
        for rule in range(5):
            if bits >> rule & 1:
                _note_change(b, rule, False)
    return bits


@compiled
def _note_change(b: Books, rule: int, resumed: bool) -> None:
    desk = b.desk[0]
    change = b.changes[desk.changes]
    change.time, change.rule, change.mode, change.resumed = desk.now, rule, risk.breaker_mode(b.holds), resumed
    change.action = b.holds[rule]["action"]
    change.measure = risk.breaker_measure(b.breaker, rule)
    change.limit = risk.breaker_limit(b.breaker, b.breaker_rules, rule)
    change.resume_at = NEVER if resumed else b.holds[rule]["resume_at"]
    desk.changes += 1


@compiled
def _obey(b: Books, settings: Record, bits: int) -> None:
    """Carry out what the breaker wants."""
    for rule in range(5):
        if bits >> rule & 1:
            action = b.holds[rule]["action"]
            if action == risk.FLATTEN:
                _leave(b, settings, rule)
            elif action == risk.CANCEL:
                _cancel_entry(b, settings, rule)


@compiled
def _after_orders(b: Books, settings: Record, held: int) -> None:
    """Tell the breaker and the cooldown of round trips that began or ended."""
    desk = b.desk[0]
    opened, closed = 0, 0
    if held == 0 and _position(desk) != 0:
        desk.opened_at_bar = desk.count
        opened = _breaker(b, risk.OPENED, 0)
    if desk.trip_closed:
        desk.trip_closed = False
        trip = b.trips[desk.trips - 1]
        desk.left_at, desk.left_at_bar = trip.closed_at, desk.count
        closed = _breaker(b, risk.CLOSED, trip.realised - trip.fees + trip.funding)
    _obey(b, settings, opened)
    _obey(b, settings, closed)


@compiled
def _book(b: Books, settings: Record, news: Record) -> None:
    """Book a fill."""
    desk = b.desk[0]
    side = b.orders[news.order].side
    desk.quantity, desk.cost, realised = position_after(
        desk.quantity, desk.cost, side, news.price, news.quantity, settings.money_per_ticklot
    )
    desk.wallet += realised - news.fee


@compiled
def _value(b: Books, m: Market, settings: Record) -> None:
    """Value the account at mark, or at the last trade where there is no mark, and let the breaker see it."""
    desk = b.desk[0]
    unrealised = 0
    if desk.quantity != 0:
        if desk.mark_e8:
            unrealised = value_at_mark(
                desk.quantity, settings.step_numerator, settings.step_denominator, desk.mark_e8
            )
        else:
            unrealised = _last_price(desk, m) * desk.quantity * settings.money_per_ticklot
        unrealised -= desk.cost
    point = b.equity[desk.equities]
    point.time, point.wallet, point.unrealised, point.position = desk.now, desk.wallet, unrealised, desk.quantity
    point.at_mark = desk.mark_e8 != 0
    desk.equities += 1
    _obey(b, settings, _breaker(b, risk.EQUITY, desk.wallet + unrealised))


@compiled
def _on_order(b: Books, m: Market, settings: Record, news: Record) -> None:
    desk = b.desk[0]
    desk.monitor_time = desk.now
    held = _position(desk)
    is_new_fill = news.trade_id > desk.counted
    if is_new_fill:
        _book(b, settings, news)
        _count_fill(b, news)
    _hear_order(b, settings, news.order, news.status, news.executed, news.order_id)
    _after_orders(b, settings, held)
    if is_new_fill:
        _value(b, m, settings)


@compiled
def _on_algo(b: Books, settings: Record, news: Record) -> None:
    desk = b.desk[0]
    desk.monitor_time = desk.now
    held = _position(desk)
    _hear_algo(b, settings, news.order, news.status, news.order_id)
    _after_orders(b, settings, held)


@compiled
def _on_snapshot(b: Books, settings: Record) -> None:
    """Take the exchange's whole account: fills not heard of yet, open orders, then what isn't listed is looked up."""
    desk = b.desk[0]
    held = _position(desk)
    desk.snapshot_at = NEVER
    for number in range(desk.news):
        news = b.news[number]
        if news.trade_id > desk.counted:
            _book(b, settings, news)
            _count_fill(b, news)
            _hear_order(b, settings, news.order, news.status, news.executed, news.order_id)
    at = _next_open(b, 0)
    while at >= 0:
        order = b.orders[at]
        _hear_order(b, settings, at, order.status, order.executed, order.order_id)
        at = _next_open(b, order.order_id)
    for at in range(desk.first_order, desk.orders):
        if b.orders[at].algo_status == NEW:
            _hear_algo(b, settings, at, NEW, 0)
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.first_order, desk.orders):
                order = b.orders[at]
                is_listed = order.phase == TRAVELLING or order.phase == TAKING or order.algo_status == NEW
                if order.purpose == purpose and not _is_done(order) and not is_listed:
                    if order.state != PENDING_SUBMIT:
                        _lookup(b, settings, at)
    if desk.side * _position(desk) != desk.exchange_quantity:
        desk.unmodelled = NOT_FLAT
    desk.reconciled = True
    _after_orders(b, settings, held)


@compiled
def _on_signal(b: Books, settings: Record, signal: Record) -> None:
    """Leave on an opposite signal; enter where every gate lets the signal pass."""
    desk = b.desk[0]
    if desk.in_hand and desk.side != signal.side and settings.exit_on_opposite_signal:
        _leave(b, settings, OPPOSITE_SIGNAL)
    _fill_facts(b, signal)
    gate = first_refusal(b.facts, b.limits)
    if gate == len(GATE_RULES):
        _enter(b, settings, signal, b.facts[0]["quantity"])
        return
    refusal = b.refusals[desk.refusals]
    refusal.time, refusal.bar, refusal.side, refusal.gate = desk.now, signal.bar, signal.side, gate
    rule = GATE_RULES[gate]
    if rule >= 0:
        refusal.measure = risk.breaker_measure(b.breaker, rule)
        refusal.limit = risk.breaker_limit(b.breaker, b.breaker_rules, rule)
    desk.refusals += 1


@compiled
def _fill_facts(b: Books, signal: Record) -> None:
    desk, fact = b.desk[0], b.facts[0]
    fact["time"] = fact["price_time"] = desk.now
    fact["warming_up"] = not signal.ready
    fact["last_bar"] = signal.last_bar
    fact["tainted"] = signal.tainted
    fact["day_end"] = signal.day_end
    fact["paused"] = desk.paused
    fact["reconciled"] = desk.reconciled
    fact["unknown_orders"] = _has_unknown(b)
    fact["round_trips"] = desk.in_hand
    fact["last_exit_time"] = desk.left_at
    fact["bars_since_exit"] = signal.bar + 1 - desk.left_at_bar
    fact["price"] = signal.price
    fact["stop_ticks"] = signal.stop_ticks
    fact["wallet"] = fact["available"] = desk.wallet
    risk.fill_holds(b.facts, b.holds)
    fact["quantity"] = risk.position_size(b.facts, b.limits)


@compiled
def _wake_at_bar(b: Books, settings: Record) -> int:
    desk = b.desk[0]
    if settings.max_holding_bars and _position(desk) != 0:
        return desk.opened_at_bar + settings.max_holding_bars
    return NEVER


@compiled
def _next_due(b: Books, settings: Record) -> int:
    desk = b.desk[0]
    due = desk.end_at if desk.end_reason == NONE else NEVER
    return min(due, _monitor_due(b, settings), risk.breaker_next_due(b.holds))


@compiled
def _on_timer(b: Books, settings: Record) -> None:
    desk = b.desk[0]
    held = _position(desk)
    _on_time(b, settings)
    _after_orders(b, settings, held)
    _obey(b, settings, _breaker(b, risk.TIME, 0))
    if desk.now >= desk.end_at and desk.end_reason == NONE:
        _stop(b, settings, DURATION_END)


@compiled
def _stop(b: Books, settings: Record, reason: int) -> None:
    """No more entries; leave the position, or keep it with its stop at the exchange."""
    desk = b.desk[0]
    desk.end_reason = reason
    desk.keep = not settings.flatten_at_end
    desk.paused = True
    if settings.flatten_at_end:
        _leave(b, settings, reason)
    else:
        _cancel_entry(b, settings, reason)


@compiled
def _is_finished(b: Books) -> bool:
    desk = b.desk[0]
    return desk.end_reason != NONE and (not desk.in_hand or (desk.keep and _is_protected(b)))


# --- lockstep ---------------------------------------------------------------------------------------------------------


@compiled
def _execute(b: Books, m: Market, settings: Record, command: Record) -> None:
    """Carry out a command, and let the core hear the answer."""
    desk, at, kind = b.desk[0], command.order, command.kind
    held = _position(desk)
    desk.monitor_time = desk.now
    if kind == SNAPSHOT:
        _on_snapshot(b, settings)
        return
    code = 0
    if kind == SUBMIT:
        b.orders[at].answered = desk.now
        code = _place_algo(b, m, settings, at) if _is_algo(b.orders[at]) else _place_order(b, m, settings, at)
        if code:
            _on_refused(b, at, code)
    elif kind == CANCEL:
        code = _cancel_at_exchange(b, at)
        if code == 0:
            _move(b.orders[at], CANCELED)
        elif not _is_done(b.orders[at]):
            _lookup(b, settings, at)
    else:
        _on_looked_up(b, settings, at)
    if code == 0:
        _hear_as_it_is(b, settings, at)
    _tend(b, settings)
    _after_orders(b, settings, held)


@compiled
def _settle(b: Books, m: Market, settings: Record) -> None:
    """Execute commands, then hear the news, until neither brings anything."""
    desk = b.desk[0]
    while True:
        while desk.next_command < desk.commands:
            desk.next_command += 1
            _execute(b, m, settings, b.commands[desk.next_command - 1])
        desk.next_command = desk.commands = 0
        if desk.news == 0:
            return
        for number in range(desk.news):
            if b.news[number].algo:
                _on_algo(b, settings, b.news[number])
            else:
                _on_order(b, m, settings, b.news[number])
        desk.news = 0


@compiled
def _fire_due(b: Books, m: Market, settings: Record, before: int) -> bool:
    """Fire the timers due at or before a time; say whether one of them made a command."""
    desk = b.desk[0]
    due = _next_due(b, settings)
    while due <= before:
        desk.now = max(desk.now, due)
        _on_timer(b, settings)
        if desk.commands:
            _settle(b, m, settings)
            return True
        due = _next_due(b, settings)
    return False


@compiled
def _see_trades(b: Books, m: Market, settings: Record, end: int) -> None:
    """Let the core see trades before `end`, up to the first that closes a bar that something follows from."""
    desk = b.desk[0]
    due = _next_due(b, settings)
    if m.time[end - 1] >= due:
        end = desk.row + np.searchsorted(m.time[desk.row : end], due)
    wake_at_bar = _wake_at_bar(b, settings)
    closing = max(wake_at_bar, desk.count + 1) - 1
    if closing < len(m.closing_rows):
        end = min(end, m.closing_rows[closing] + 1)
    if desk.signal < len(b.signals):
        end = min(end, b.signals[desk.signal].row + 1)
    desk.row = end
    desk.now = max(desk.now, m.time[end - 1])
    before = desk.count
    while desk.count < len(m.closing_rows) and m.closing_rows[desk.count] < end:
        desk.count += 1
    if desk.count == before:
        return
    while desk.signal < len(b.signals) and b.signals[desk.signal].row < end:
        desk.signal += 1
        _on_signal(b, settings, b.signals[desk.signal - 1])
    if desk.count >= _wake_at_bar(b, settings):
        _leave(b, settings, BY_TIME)


@compiled
def _run_segment(b: Books, m: Market, settings: Record) -> bool:
    """Run to the next trade that an order reacts to, or mark price; say whether the tape has nothing more."""
    desk = b.desk[0]
    has_mark = desk.mark < len(m.mark_rows)
    end = m.mark_rows[desk.mark] if has_mark else len(m.price)
    acting = _first_acting(b, m, settings, end)
    is_acting = acting < end
    if is_acting:
        end, has_mark = acting + 1, False
    is_last = end == len(m.price) and desk.mark + has_mark == len(m.mark_rows)
    while desk.row < end:
        if _fire_due(b, m, settings, m.time[desk.row]):
            return False
        _see_trades(b, m, settings, end)
        if desk.commands:
            if is_acting and desk.row == end:
                _on_trade(b, m, settings, acting)
            _settle(b, m, settings)
            return is_last and desk.row == end and not has_mark
    if has_mark:
        time = m.mark_times[desk.mark]
        if _fire_due(b, m, settings, time):
            return False
        desk.now = max(desk.now, time)
        desk.mark_e8 = m.mark_prices[desk.mark]
        desk.mark += 1
        _value(b, m, settings)
        _play_mark(b, m, settings, desk.mark_e8, time)
    elif is_acting:
        _on_trade(b, m, settings, acting)
    _settle(b, m, settings)
    return is_last


@compiled
def _has_room(b: Books) -> bool:
    desk = b.desk[0]
    return (
        desk.orders + ROOM <= len(b.orders)
        and desk.fills + ROOM <= len(b.fills)
        and desk.trips + ROOM <= len(b.trips)
        and desk.equities + ROOM <= len(b.equity)
        and desk.changes + ROOM <= len(b.changes)
        and desk.alerts + ROOM <= len(b.alerts)
    )


@compiled
def _run(b: Books, m: Market, settings: Record) -> int:
    desk = b.desk[0]
    while not (desk.has_ended or _is_finished(b)):
        if not _has_room(b):
            return MORE_ROOM
        desk.has_ended = _run_segment(b, m, settings)
        if desk.unmodelled:
            return GIVEN_UP
    if not _is_finished(b):
        _stop(b, settings, TAPE_END)
        _settle(b, m, settings)
    _finish_at_exchange(b, m, settings)
    _settle(b, m, settings)
    return GIVEN_UP if desk.unmodelled else DONE


TABLES = {
    "orders": ORDER,
    "fills": FILL,
    "trips": TRIP,
    "equity": EQUITY,
    "changes": CHANGE,
    "alerts": ALERT,
}
"""Tables that grow as a session goes on."""


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
    settings: Rows,
    desk: Rows,
    facts: Rows,
    limits: Rows,
    breaker: Rows,
    holds: Rows,
    breaker_rules: Rows,
    commands: Rows,
    news: Rows,
    signals: Rows,
    refusals: Rows,
    orders: Rows,
    fills: Rows,
    trips: Rows,
    equity: Rows,
    changes: Rows,
    alerts: Rows,
) -> int:
    """Run on from where the desk stands; return DONE, MORE_ROOM or GIVEN_UP."""
    m = Market(
        price, quantity, time, buyer_is_maker, closing_rows, high, low, mark_times, mark_rows, mark_prices
    )
    b = Books(
        desk, facts, limits, breaker, holds, breaker_rules, commands, news, signals, orders, fills, trips, equity,
        refusals, changes, alerts
    )  # fmt: skip
    return _run(b, m, settings[0])


@cache
def simulate() -> Callable[..., int]:
    """`_simulate`, compiled when it is first needed."""
    whole, flag = (types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.bool_))
    columns = (whole, whole, whole, flag, *(whole,) * 6)
    rows = [
        rows_of(dtype)
        for dtype in (
            *(SETTINGS, DESK, risk.FACTS, risk.LIMITS, risk.BREAKER_STATE, risk.BREAKER_HOLDS, risk.BREAKER_RULES),
            *(COMMAND, NEWS, SIGNAL, REFUSAL, *TABLES.values()),
        )
    ]
    return compile_for(_simulate, types.int64(*columns, *rows))  # type: ignore[no-any-return]
