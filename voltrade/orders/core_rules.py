"""The rules of an account: circuit breaker, books, gates, timers and the end of a session.

Compiled functions over the row of ACCOUNT and the rows of SYMBOL (`records`): `react` takes an event, `on_signal`
(made by `make_signal_handler`) a bar with an entry signal. A session calls them once for each, a backtest calls the
same functions in its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from voltrade import risk
from voltrade.compiled import Record, Rows, bind, compiled, compiled_part
from voltrade.model import NEVER, CloseReason
from voltrade.orders import order_queries, order_rules, position_rules, position_timers, records
from voltrade.orders import order_states as states
from voltrade.orders.records import add_output, note_row

DAY_END = int(CloseReason.DAY_END)

# --- the breaker ------------------------------------------------------------------------------------------------------


@compiled_part
def update_breaker(account: Record, event: int, amount: int) -> None:
    """Update the circuit breaker with an event; note the rules that were released, then those that tripped."""
    bits = risk.breaker_step(account.breaker, account.holds, account.breaker_rules, event, account.now, amount)
    if bits:
        for rule in range(len(account.holds)):
            if bits >> 8 >> rule & 1:
                _note_change(account, rule, True)
        for rule in range(len(account.holds)):
            if bits >> rule & 1:
                _note_change(account, rule, False)


@compiled_part
def _note_change(account: Record, rule: int, released: bool) -> None:
    at = note_row(account, account.changes_count, len(account.changes))
    change = account.changes[at]
    change.time, change.rule, change.released = account.now, rule, released
    change.mode = risk.breaker_mode(account.holds)
    change.action = account.holds[rule]["action"]
    _note_measure(account, change, rule)
    change.release_at = NEVER if released else account.holds[rule]["release_at"]
    account.changes_count = at + 1
    add_output(account, records.CHANGED, 0, at, states.NONE, account.now)


@compiled_part
def _note_measure(account: Record, note: Record, rule: int) -> None:
    """Note the measure and limit of a breaker rule; 0 for ON_HOLD, and for -1, which is no rule."""
    note.measure, note.limit = 0, 0
    if 0 <= rule < len(account.breaker_rules):
        note.measure = risk.breaker_measure(account.breaker, rule)
        note.limit = risk.breaker_limit(account.breaker, account.breaker_rules, rule)


@compiled_part
def update_breaker_and_act(account: Record, symbols: Rows, event: int, amount: int) -> None:
    """Update the circuit breaker with an event, and close positions or cancel entries as the tripped rules say."""
    since = account.changes_count
    update_breaker(account, event, amount)
    apply_breaker_actions(account, symbols, since)


@compiled_part
def apply_breaker_actions(account: Record, symbols: Rows, since: int) -> None:
    """Close positions or cancel entries for the rules that tripped, from breaker change number `since` on."""
    for number in range(since, account.changes_count):
        change = account.changes[number]
        for index in range(len(symbols)):
            if change.released:
                continue
            if change.action == risk.ACTION_FLATTEN:
                position_rules.close_position(account, symbols[index], account.now, change.rule)
            elif change.action == risk.ACTION_CANCEL:
                position_rules.cancel_entry(account, symbols[index], account.now, change.rule)


# --- books ------------------------------------------------------------------------------------------------------------


@compiled_part
def value_account(account: Record, symbols: Rows, index: int) -> None:
    """Output an equity point of the account, and update the circuit breaker with it."""
    if not account.is_open:
        return
    unrealised, event = 0, risk.EQUITY
    for number in range(len(symbols)):
        unrealised += order_queries.unrealised_profit(symbols[number])
        if symbols[number].quantity and not order_queries.has_mark(symbols[number]):
            event = risk.EQUITY_AT_LAST
    symbol = symbols[index]
    at = note_row(account, account.equity_count, len(account.equity))
    point = account.equity[at]
    point.time, point.wallet, point.unrealised = account.now, account.wallet, unrealised
    point.position, point.at_mark = symbol.quantity, order_queries.has_mark(symbol)
    account.equity_count = at + 1
    add_output(account, records.VALUED, index, at, states.NONE, account.now)
    update_breaker_and_act(account, symbols, event, account.wallet + unrealised)


@compiled_part
def on_funding(account: Record, symbol: Record, amount: int, names_symbol: bool) -> None:
    """Book a funding payment: in the account, and in the round trip of the symbol if it was named."""
    account.funding += amount
    account.wallet += amount
    if names_symbol and symbol.in_round_trip:
        symbol.position.funding += amount


@compiled_part
def on_transfer(account: Record, symbols: Rows, amount: int) -> None:
    """Book a deposit, a withdrawal, or the worth of a fee that another asset paid: neither is profit or loss."""
    account.transfers += amount
    account.wallet += amount
    update_breaker_and_act(account, symbols, risk.TRANSFER, amount)


@compiled_part
def on_adjustment(account: Record, symbols: Rows, index: int, amount: int) -> None:
    """Book the result of trades that aren't ours, or a difference of the wallet that nothing explains.

    A loss counts for the circuit breaker; a gain does not offset losses already counted.
    """
    account.adjustments += amount
    account.wallet += amount
    if amount > 0:
        update_breaker_and_act(account, symbols, risk.TRANSFER, amount)
    value_account(account, symbols, index)


# --- orders -----------------------------------------------------------------------------------------------------------


@compiled_part
def after_orders(account: Record, symbols: Rows, index: int, before: int) -> None:
    """Update circuit breaker and cooldown after orders have changed: with round trips that began or ended, and a halt.

    `before` is the open quantity before the change.
    """
    symbol, since = symbols[index], account.changes_count
    closed, symbol.closed_trip_count = symbol.closed_trip_count, 0
    if not account.is_open:
        return
    if before == 0 and order_queries.open_quantity(symbol) != 0:
        symbol.opened_at_bar = symbol.bars
        update_breaker(account, risk.OPENED, 0)
    for number in range(closed):
        symbol.last_exit_time, symbol.last_exit_bar = symbol.closed_trips[number].time, symbol.bars
        update_breaker(account, risk.CLOSED, symbol.closed_trips[number].net)
    if symbol.halt_wanted:
        update_breaker(account, risk.HOLD, risk.ACTION_CANCEL)
        symbol.halt_applied, symbol.halt_wanted = symbol.halt_wanted, 0
    apply_breaker_actions(account, symbols, since)
    _close_if_flattened(account, symbol)


@compiled_part
def _close_if_flattened(account: Record, symbol: Record) -> None:
    """Close a position whose entry was executed late, after positions were flattened.

    A breaker rule in force has the action `flatten`, or the operator or the end of the session has flattened and nobody
    has resumed.
    """
    if not symbol.in_round_trip or symbol.position.closing_reason != states.NONE:
        return
    for rule in range(len(account.holds)):
        if account.holds[rule]["in_force"] and account.holds[rule]["action"] == risk.ACTION_FLATTEN:
            position_rules.close_position(account, symbol, account.now, rule)
    if account.paused != states.NONE and account.stopped_at and not account.keep_position:
        position_rules.close_position(account, symbol, account.now, account.paused)


@compiled_part
def on_order(account: Record, symbols: Rows, event: Record) -> None:
    """Apply an update of an ordinary order; count its fill, if it has one, and then value the account."""
    symbol = symbols[event.symbol]
    before = order_queries.open_quantity(symbol)
    if event.trade_id:
        order_rules.apply_fill(account, symbol, event)
    position_rules.apply_order_update(
        account, symbol, event.order, event.status, event.reported, event.order_id, symbol.time
    )
    if event.orders_only:
        return
    after_orders(account, symbols, event.symbol, before)
    if event.trade_id:
        value_account(account, symbols, event.symbol)


@compiled_part
def on_algo(account: Record, symbols: Rows, event: Record) -> None:
    """Apply an update of a conditional order."""
    symbol = symbols[event.symbol]
    before = order_queries.open_quantity(symbol)
    position_rules.apply_algo_update(
        account, symbol, event.order, event.status, event.order_id, symbol.time, event.time
    )
    if not event.orders_only:
        after_orders(account, symbols, event.symbol, before)


@compiled_part
def on_reply(account: Record, symbols: Rows, event: Record) -> None:
    """Apply the answer to a command, and the state of the order that it carries."""
    symbol, row, now = symbols[event.symbol], event.order, symbols[event.symbol].time
    before = order_queries.open_quantity(symbol)
    if event.command == records.SUBMIT:
        order_rules.on_submitted(account, symbol, row, event.time, event.outcome, event.code)
    elif event.command == records.CANCEL:
        order_rules.on_canceled(account, symbol, row, event.time, event.outcome)
    else:
        # A conditional order may come with the order that it became, whose status isn't its own.
        status = event.algo_status if order_queries.is_algo(symbol.orders[row]) else event.status
        order_rules.on_looked_up(account, symbol, row, event.time, event.outcome, event.code, status)
    if event.updates & records.HAS_ORDER:
        symbol.time = max(symbol.time, event.order_time)
        position_rules.apply_order_update(
            account, symbol, row, event.status, event.reported, event.order_id, symbol.time
        )
    if event.updates & records.HAS_ALGO:
        symbol.time = max(symbol.time, event.algo_time)
        position_rules.apply_algo_update(
            account, symbol, row, event.algo_status, event.order_id, symbol.time, event.algo_time
        )
    position_rules.sync_orders(account, symbol, now)
    after_orders(account, symbols, event.symbol, before)


# --- timers and the end of the session --------------------------------------------------------------------------------


@compiled_part
def next_due(account: Record, symbols: Rows) -> int:
    """Return when a timer is due, in ms: always later than the last timer, so that a loop that delivers it advances."""
    due: int = account.end_at if account.end_reason == states.NONE else NEVER
    for index in range(len(symbols)):
        due = min(due, position_timers.orders_due(symbols[index]))
    due = min(due, risk.breaker_next_due(account.holds))
    return max(due, int(account.last_timer_at) + 1)


@compiled_part
def on_timer(account: Record, symbols: Rows) -> None:
    """Do what is due: for orders and positions, for the breaker, and at the end of the session."""
    account.last_timer_at = account.now
    for index in range(len(symbols)):
        symbol = symbols[index]
        symbol.time = max(symbol.time, account.now)
        before = order_queries.open_quantity(symbol)
        position_timers.on_time(account, symbol, symbol.time)
        after_orders(account, symbols, index, before)
    if account.is_open:
        update_breaker_and_act(account, symbols, risk.TIME, 0)
    if account.now >= account.end_at and account.end_reason == states.NONE:
        end_session(account, symbols, states.DURATION_END)


@compiled_part
def end_session(account: Record, symbols: Rows, reason: int) -> None:
    """End the session: close the position, or keep it with stop and take-profit, as `on_duration_end` says."""
    account.end_reason = reason
    stop_entries(account, symbols, account.flatten_at_end, reason)


@compiled_part
def stop_entries(account: Record, symbols: Rows, flatten: bool, reason: int) -> None:
    """Pause entries; close the positions if `flatten`, else cancel entries; stops and take-profits stay."""
    account.paused, account.keep_position, account.stopped_at = reason, not flatten, account.now
    for index in range(len(symbols)):
        if flatten:
            position_rules.close_position(account, symbols[index], account.now, reason)
        else:
            position_rules.cancel_entry(account, symbols[index], account.now, reason)
            if symbols[index].in_round_trip:  # the session ends when the exchange has confirmed the stop
                add_output(account, records.SNAPSHOT, index, -1, reason, account.now)


@compiled_part
def is_finished(account: Record, symbols: Rows) -> bool:
    """Return whether the session has ended and its positions are closed, or kept with a confirmed stop.

    Besides that only a kept position's take-profit may be left at the exchange then.
    """
    if account.end_reason == states.NONE:
        return False
    for index in range(len(symbols)):
        if order_queries.has_leftover(symbols[index]):
            return False
        is_kept = account.keep_position and order_queries.is_stop_confirmed(symbols[index], account.stopped_at)
        if symbols[index].in_round_trip and not is_kept:
            return False
    return True


# --- bars and signals -------------------------------------------------------------------------------------------------


@compiled_part
def wake_at_bar(symbol: Record) -> int:
    """Return the number of bars at which `max_holding_bars` is over, NEVER without a position or that setting."""
    if symbol.settings.max_holding_bars and order_queries.open_quantity(symbol) != 0:
        return int(symbol.opened_at_bar + symbol.settings.max_holding_bars)
    return NEVER


@compiled_part
def on_bars(account: Record, symbol: Record) -> None:
    """Close a position that was held for `max_holding_bars`; called after the signals of closed bars."""
    if symbol.bars >= wake_at_bar(symbol):
        position_rules.close_position(account, symbol, account.now, states.BY_TIME)


@compiled
def fill_signal(
    signal: Record, number: int, bar: Record, side: int, ready: bool, atr: float, is_last: bool, settings: Record
) -> None:
    """Fill a row of SIGNAL for a bar with an entry signal, with stop and take-profit distances from the settings."""
    signal.bar, signal.side, signal.price = number, side, bar.close
    signal.stop_ticks = risk.atr_distance(atr, settings.stop_atr, settings.tick_size)
    signal.take_profit_ticks = risk.atr_distance(atr, settings.take_profit_atr, settings.tick_size)
    signal.ready, signal.last_bar = ready, is_last
    signal.tainted, signal.day_end = bar.tainted, bar.close_reason == DAY_END


@compiled_part
def fill_gate_inputs(account: Record, symbol: Record, signal: Record) -> None:
    """Write the row of GATE_INPUTS for a signal: bar, session, account, and the position size computed from them."""
    given = symbol.gate_inputs[0]
    given["time"], given["price_time"] = account.now, symbol.price_time
    given["mark_e8"] = 0 if symbol.mark_is_last_price else symbol.mark_e8
    given["warming_up"] = not signal.ready
    given["last_bar"] = signal.last_bar
    given["tainted"] = signal.tainted
    given["day_end"] = signal.day_end
    given["paused"] = account.paused != states.NONE
    given["reconciled"] = symbol.reconciled
    is_full = not order_queries.has_room(symbol, records.SPARE)
    given["orders_unsettled"] = is_full or order_queries.has_unsettled_order(symbol)
    given["position_open"] = symbol.in_round_trip
    given["last_entry_time"], given["last_exit_time"] = symbol.last_entry_time, symbol.last_exit_time
    given["bars_since_exit"] = signal.bar + 1 - symbol.last_exit_bar
    given["price"] = signal.price
    given["stop_ticks"] = signal.stop_ticks
    given["wallet"] = given["available"] = account.wallet if account.is_open else 0
    risk.fill_breaker(symbol.gate_inputs, account.breaker, account.holds, account.breaker_rules)
    given["quantity"] = risk.position_size(symbol.gate_inputs, symbol.limits)


def _on_signal(account: Record, symbol: Record, signal: Record) -> None:
    """Close the position on an opposite signal; enter if no gate refuses. FIRST_REFUSAL is bound."""
    if symbol.in_round_trip and symbol.position.side != signal.side and symbol.settings.exit_on_opposite_signal:
        position_rules.close_position(account, symbol, account.now, states.OPPOSITE_SIGNAL)
    fill_gate_inputs(account, symbol, signal)
    gate = FIRST_REFUSAL(symbol.gate_inputs, symbol.limits)  # type: ignore[name-defined]  # noqa: F821
    if gate < account.gate_count:
        _note_refusal(account, symbol, signal, gate)
        return
    limit = 0
    if symbol.settings.limit_entry:
        limit = signal.price + signal.side * risk.mul_e8_floor(signal.price, symbol.settings.max_slippage_e8)
        limit = order_queries.to_step(limit, symbol.price_step, signal.side < 0)
    order_rules.enter(account, symbol, signal, symbol.gate_inputs[0]["quantity"], limit)


@compiled_part
def _note_refusal(account: Record, symbol: Record, signal: Record, gate: int) -> None:
    at = note_row(account, account.refusals_count, len(account.refusals))
    refusal = account.refusals[at]
    refusal.time, refusal.bar, refusal.side, refusal.gate = account.now, signal.bar, signal.side, gate
    _note_measure(account, refusal, account.gate_rules[gate])
    account.refusals_count = at + 1
    add_output(account, records.SIGNAL_REFUSED, symbol.index, at, states.NONE, account.now)


def _first_refusal(inputs: Rows, limits: Rows) -> int:
    """Return the number of the first gate that refuses, counted from this gate; GATE and REST are bound."""
    return 0 if GATE(inputs, limits) else 1 + REST(inputs, limits)  # type: ignore[name-defined]  # noqa: F821


@compiled_part
def _no_refusal(inputs: Rows, limits: Rows) -> int:
    return 0


def _gate_before(rest: Callable[[Rows, Rows], int], gate: risk.Gate) -> Callable[[Rows, Rows], int]:
    return compiled_part(bind(_first_refusal, GATE=gate.refuses, REST=rest))


def first_refusal(gates: tuple[risk.Gate, ...]) -> Callable[[Rows, Rows], int]:
    """Return a function that gives the index of the first gate that refuses, or the number of gates."""
    none: Callable[[Rows, Rows], int] = _no_refusal
    return reduce(_gate_before, reversed(gates), none)


def make_signal_handler(gates: tuple[risk.Gate, ...]) -> Callable[[Record, Record, Record], None]:
    """Return the compiled function that checks a signal against the gates in their order, and enters."""
    return compiled_part(bind(_on_signal, FIRST_REFUSAL=first_refusal(gates)))


def set_gates(account: Any, gates: tuple[risk.Gate, ...]) -> None:
    """Store the number of gates, and for each the number of its breaker rule, -1 for none."""
    rules = [risk.RULES.index(gate.code) if gate.code in risk.RULES else -1 for gate in gates]
    account["gate_count"], account["gate_rules"][: len(rules)] = len(rules), rules


# --- one event --------------------------------------------------------------------------------------------------------


@compiled_part
def on_exchange_event(account: Record, symbols: Rows, event: Record) -> bool:
    """Take an event of the exchange that a compiled backtest has as an event too; return whether it is one."""
    kind, symbol = event.kind, symbols[event.symbol]
    symbol.time = max(symbol.time, event.time)
    if kind == records.ORDER_UPDATED:
        on_order(account, symbols, event)
    elif kind == records.ALGO_UPDATED:
        on_algo(account, symbols, event)
    elif kind == records.REPLIED:
        on_reply(account, symbols, event)
    elif kind == records.FUNDED:
        on_funding(account, symbol, event.amount, event.code != records.NO_SYMBOL)
    else:
        return False
    return True


@compiled_part
def react(account: Record, symbols: Rows, event: Record) -> int:
    """Take an event; return the answer to a question, the row of an adopted order (-1 for none), else 0."""
    if on_exchange_event(account, symbols, event):
        return 0
    kind, symbol = event.kind, symbols[event.symbol]
    if kind == records.TIMER_DUE:
        on_timer(account, symbols)
    elif kind == records.MARKED:
        symbol.mark_e8, symbol.mark_is_last_price = event.amount, event.code != 0
        value_account(account, symbols, event.symbol)
    elif kind == records.TRANSFERRED:
        on_transfer(account, symbols, event.amount)
    elif kind == records.BARS_CLOSED:
        on_bars(account, symbol)
    else:
        return _on_live_event(account, symbols, event)
    return 0


@compiled_part
def _on_live_event(account: Record, symbols: Rows, event: Record) -> int:
    """Take an event that a compiled backtest doesn't have: an operator's, a snapshot's, or a foreign order's."""
    kind, symbol = event.kind, symbols[event.symbol]
    if kind == records.ENTRIES_STOPPED:
        stop_entries(account, symbols, event.amount != 0, event.reason)
    elif kind == records.BREAKER_UPDATED:
        update_breaker_and_act(account, symbols, event.code, event.amount)
    elif kind == records.SYNC_WANTED:
        position_rules.sync_orders(account, symbol, symbol.time)
    elif kind == records.ORDERS_CHANGED:
        after_orders(account, symbols, event.symbol, event.amount)
    elif kind == records.LOOKUP_WANTED:
        if event.reason != states.RESTART or order_rules.move_to(symbol.orders[event.order], states.UNKNOWN):
            order_rules.lookup(account, symbol, event.order, symbol.time, event.reason)
    elif kind == records.EXIT_ADOPTED:
        return int(order_rules.adopt_exit(symbol, event.time, event.side, event.quantity, event.reason))
    elif kind == records.ORPHAN_ADOPTED:
        return int(order_rules.adopt_orphan(symbol, event.time, event.code, event.side, event.quantity))
    elif kind == records.ADJUSTED:
        on_adjustment(account, symbols, event.symbol, event.amount)
    else:
        return _answer_question(account, symbols, event.symbol, event.code)
    return 0


@compiled_part
def _answer_question(account: Record, symbols: Rows, index: int, question: int) -> int:
    """Answer a question of live trading between two events."""
    if question == records.NEXT_DUE:
        return next_due(account, symbols)
    if question == records.IS_FINISHED:
        return 1 if is_finished(account, symbols) else 0
    if question == records.ORDERS_DUE:
        return position_timers.orders_due(symbols[index])
    if question == records.WAKE_AT_BAR:
        return wake_at_bar(symbols[index])
    return 1 if order_queries.has_unsettled_order(symbols[index]) else 0
