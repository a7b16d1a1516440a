"""The compiled twin of `core.TradingCore`: books, breaker and gates; one decision for each signal, timer and fill."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from voltrade import risk
from voltrade.account import position_after, value_at_mark
from voltrade.compiled import Record, Rows, bind, compiled_in_place, compiled_part
from voltrade.core import GATES
from voltrade.model import NEVER
from voltrade.simulation import exchange, monitor
from voltrade.simulation.rows import (
    DURATION_END,
    NEW,
    NONE,
    NOT_EXPLAINED,
    OPPOSITE_SIGNAL,
    PENDING_SUBMIT,
    TAKING,
    TRAVELLING,
    Market,
    free_row,
)


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
    number = free_row(desk, desk.change_count, len(desk.changes))
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
                monitor.leave(desk, rule)
            elif action == risk.CANCEL:
                monitor.cancel_entry(desk, rule)


@compiled_part
def after_orders(desk: Record, held: int) -> None:
    """Tell the breaker and the cooldown of round trips that began or ended."""
    opened, closed = 0, 0
    if held == 0 and monitor.position(desk) != 0:
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
def unrealised_profit(desk: Record) -> int:
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
def value(desk: Record) -> None:
    """Value the account, and let the breaker see it."""
    unrealised = unrealised_profit(desk)
    number = free_row(desk, desk.equity_count, len(desk.equity))
    point = desk.equity[number]
    point.time, point.wallet, point.unrealised, point.position = desk.now, desk.wallet, unrealised, desk.quantity
    point.at_mark = desk.mark_e8 != 0
    desk.equity_count = number + 1
    _obey(desk, _breaker(desk, risk.EQUITY, desk.wallet + unrealised))


@compiled_part
def on_order(desk: Record, news: Record) -> None:
    desk.monitor_time = desk.now
    held = monitor.position(desk)
    is_new_fill = news.trade_id > desk.counted
    if is_new_fill:
        _book(desk, news)
        monitor.count_fill(desk, news)
    monitor.hear_order(desk, news.order, news.status, news.executed, news.order_id)
    after_orders(desk, held)
    if is_new_fill:
        value(desk)


@compiled_part
def on_algo(desk: Record, news: Record) -> None:
    desk.monitor_time = desk.now
    held = monitor.position(desk)
    monitor.hear_algo(desk, news.order, news.status, news.order_id)
    after_orders(desk, held)


@compiled_part
def on_funding(desk: Record, wallet: int) -> None:
    """Book funding, which only the exchange knows of."""
    if desk.in_hand:
        desk.funding += wallet - desk.wallet
    desk.wallet = wallet


@compiled_part
def on_snapshot(desk: Record) -> None:
    """Take the exchange's whole account: fills not heard of yet, open orders, then what isn't listed is looked up."""
    held = monitor.position(desk)
    desk.snapshot_at = NEVER
    for number in range(desk.news_count):
        news = desk.news[number]
        if news.trade_id > desk.counted:
            _book(desk, news)
            monitor.count_fill(desk, news)
            monitor.hear_order(desk, news.order, news.status, news.executed, news.order_id)
    at = exchange.next_open(desk, 0)
    while at >= 0:
        order = desk.orders[at]
        monitor.hear_order(desk, at, order.status, order.executed, order.order_id)
        at = exchange.next_open(desk, order.order_id)
    for at in range(desk.order_count):
        if desk.orders[at].algo_status == NEW:
            monitor.hear_algo(desk, at, NEW, 0)
    if desk.in_hand:
        for purpose in range(4):
            for at in range(desk.order_count):
                order = desk.orders[at]
                is_listed = order.phase == TRAVELLING or order.phase == TAKING or order.algo_status == NEW
                is_missing = not monitor.is_done(order) and not is_listed and order.state != PENDING_SUBMIT
                if order.purpose == purpose and is_missing:
                    monitor.lookup(desk, at)
    monitor.tend(desk)
    if desk.side * monitor.position(desk) != desk.exchange_quantity:
        desk.unmodelled = NOT_EXPLAINED
    desk.reconciled = True
    after_orders(desk, held)


@compiled_in_place
def on_signal(desk: Record, m: Market, signal: Record) -> None:
    """Leave on an opposite signal; enter where every gate lets the signal pass."""
    if desk.in_hand and desk.side != signal.side and desk.settings.exit_on_opposite_signal:
        monitor.leave(desk, OPPOSITE_SIGNAL)
    _fill_facts(desk, signal)
    gate = first_refusal(desk.facts, desk.limits)
    if gate == len(GATE_RULES):
        monitor.enter(desk, signal, desk.facts[0]["quantity"])
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
    fact["unknown_orders"] = monitor.has_unknown(desk)
    fact["round_trips"] = desk.in_hand
    fact["last_exit_time"] = desk.left_at
    fact["bars_since_exit"] = signal.bar + 1 - desk.left_at_bar
    fact["price"] = signal.price
    fact["stop_ticks"] = signal.stop_ticks
    fact["wallet"] = fact["available"] = desk.wallet
    risk.fill_holds(desk.facts, desk.holds)
    fact["quantity"] = risk.position_size(desk.facts, desk.limits)


@compiled_part
def wake_at_bar(desk: Record) -> int:
    if desk.settings.max_holding_bars and monitor.position(desk) != 0:
        return int(desk.opened_at_bar + desk.settings.max_holding_bars)
    return NEVER


@compiled_part
def next_due(desk: Record) -> int:
    due: int = desk.end_at if desk.end_reason == NONE else NEVER
    due = min(due, monitor.monitor_due(desk), risk.breaker_next_due(desk.holds))
    return max(due, int(desk.woken_at) + 1)


@compiled_part
def on_timer(desk: Record) -> None:
    desk.woken_at = desk.now
    held = monitor.position(desk)
    monitor.on_time(desk)
    after_orders(desk, held)
    _obey(desk, _breaker(desk, risk.TIME, 0))
    if desk.now >= desk.end_at and desk.end_reason == NONE:
        stop(desk, DURATION_END)


@compiled_part
def stop(desk: Record, reason: int) -> None:
    """No more entries; leave the position, or keep it with its stop at the exchange."""
    desk.end_reason = reason
    desk.keep = not desk.settings.flatten_at_end
    desk.paused = True
    if desk.settings.flatten_at_end:
        monitor.leave(desk, reason)
    else:
        monitor.cancel_entry(desk, reason)


@compiled_part
def is_finished(desk: Record) -> bool:
    return desk.end_reason != NONE and (not desk.in_hand or _rests(desk))


@compiled_part
def _rests(desk: Record) -> bool:
    return bool(desk.keep and monitor.is_protected(desk) and not monitor.is_at_work(desk))
