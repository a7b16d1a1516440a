"""What the core does with an event: books, breaker, gates; compiled steps over the rows of an account and its symbols.

`react` takes an event, `on_signal` a bar whose rule wants an entry. Live trading calls them once for each; a backtest
calls the same functions in its loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from voltrade import order_queries, order_rules, position_rules, records, risk
from voltrade import order_states as states
from voltrade.account import value_at_mark
from voltrade.compiled import Record, Rows, bind, compiled, compiled_part
from voltrade.model import NEVER, CloseReason
from voltrade.records import add_output, note_row

DAY_END = int(CloseReason.DAY_END)

# --- the breaker ------------------------------------------------------------------------------------------------------


@compiled_part
def tell_breaker(account: Record, fact: int, amount: int) -> None:
    """Tell the breaker a fact, and note what changed: first what let go, then what tripped."""
    bits = risk.breaker_step(account.breaker, account.holds, account.breaker_rules, fact, account.now, amount)
    if bits:
        for rule in range(len(account.holds)):
            if bits >> 8 >> rule & 1:
                _note_change(account, rule, True)
        for rule in range(len(account.holds)):
            if bits >> rule & 1:
                _note_change(account, rule, False)


@compiled_part
def _note_change(account: Record, rule: int, resumed: bool) -> None:
    at = note_row(account, account.changes_count, len(account.changes))
    change = account.changes[at]
    change.time, change.rule, change.mode, change.resumed = account.now, rule, risk.breaker_mode(account.holds), resumed
    change.action = account.holds[rule]["action"]
    _note_measure(account, change, rule)
    change.resume_at = NEVER if resumed else account.holds[rule]["resume_at"]
    account.changes_count = at + 1
    add_output(account, records.CHANGED, 0, at, states.NONE, account.now)


@compiled_part
def _note_measure(account: Record, note: Record, rule: int) -> None:
    """Note how far a rule of the breaker is; a person's hold, and what is no rule of it, measures nothing."""
    note.measure, note.limit = 0, 0
    if 0 <= rule < len(account.breaker_rules):
        note.measure = risk.breaker_measure(account.breaker, rule)
        note.limit = risk.breaker_limit(account.breaker, account.breaker_rules, rule)


@compiled_part
def heed_breaker(account: Record, symbols: Rows, fact: int, amount: int) -> None:
    """Tell the breaker a fact, and carry out what it then wants."""
    since = account.changes_count
    tell_breaker(account, fact, amount)
    apply_breaker_actions(account, symbols, since)


@compiled_part
def apply_breaker_actions(account: Record, symbols: Rows, since: int) -> None:
    """Carry out what the breaker wants by the changes noted from one on."""
    for number in range(since, account.changes_count):
        change = account.changes[number]
        for place in range(len(symbols)):
            if change.resumed:
                continue
            if change.action == risk.FLATTEN:
                position_rules.close_position(account, symbols[place], account.now, change.rule)
            elif change.action == risk.CANCEL:
                position_rules.cancel_entry(account, symbols[place], account.now, change.rule)


# --- books ------------------------------------------------------------------------------------------------------------


@compiled_part
def unrealised_profit(symbol: Record) -> int:
    """Profit of what is held at mark, or at the last trade where there is no mark."""
    if symbol.quantity == 0:
        return 0
    if symbol.mark_e8:
        value = value_at_mark(symbol.quantity, symbol.step_numerator, symbol.step_denominator, symbol.mark_e8)
    else:
        value = symbol.last_price * symbol.quantity * symbol.money_per_ticklot
    return int(value - symbol.cost)


@compiled_part
def value(account: Record, symbols: Rows, place: int) -> None:
    """Value the account, and let the breaker see it."""
    if not account.is_open:
        return
    unrealised = 0
    for number in range(len(symbols)):
        unrealised += unrealised_profit(symbols[number])
    symbol = symbols[place]
    at = note_row(account, account.equity_count, len(account.equity))
    point = account.equity[at]
    point.time, point.wallet, point.unrealised = account.now, account.wallet, unrealised
    point.position, point.at_mark = symbol.quantity, symbol.mark_e8 != 0
    account.equity_count = at + 1
    add_output(account, records.VALUED, place, at, states.NONE, account.now)
    heed_breaker(account, symbols, risk.EQUITY, account.wallet + unrealised)


@compiled_part
def on_funding(account: Record, symbols: Rows, amount: int) -> None:
    """Book funding, which only the exchange knows of, also to the round trip that is in hand."""
    account.funding += amount
    account.wallet += amount
    for place in range(len(symbols)):
        if symbols[place].has_position:
            symbols[place].position.funding += amount


@compiled_part
def on_transfer(account: Record, symbols: Rows, amount: int) -> None:
    """Book a deposit or withdrawal, which is neither profit nor loss."""
    account.transfers += amount
    account.wallet += amount
    heed_breaker(account, symbols, risk.TRANSFER, amount)


# --- orders -----------------------------------------------------------------------------------------------------------


@compiled_part
def after_orders(account: Record, symbols: Rows, place: int, held: int) -> None:
    """Tell breaker and cooldown of round trips that began or ended, and of what a person must look at."""
    symbol, since = symbols[place], account.changes_count
    closed, symbol.closing_count = symbol.closing_count, 0
    if not account.is_open:
        return
    if held == 0 and order_queries.open_quantity(symbol) != 0:
        symbol.opened_at_bar = symbol.bars
        tell_breaker(account, risk.OPENED, 0)
    for number in range(closed):
        symbol.last_exit_time, symbol.last_exit_bar = symbol.closings[number].time, symbol.bars
        tell_breaker(account, risk.CLOSED, symbol.closings[number].net)
    if symbol.halts:
        tell_breaker(account, risk.HOLD, risk.CANCEL)
        symbol.halted, symbol.halts = symbol.halts, 0
    apply_breaker_actions(account, symbols, since)


@compiled_part
def on_order(account: Record, symbols: Rows, event: Record) -> None:
    """Take an ordinary order's update with its fill, and value the account where it brought one."""
    symbol = symbols[event.symbol]
    held = order_queries.open_quantity(symbol)
    if event.trade_id:
        order_rules.take_fill(account, symbol, event)
    position_rules.take_order(account, symbol, event.order, event.status, event.reported, event.order_id, symbol.time)
    if event.is_alone:
        return
    after_orders(account, symbols, event.symbol, held)
    if event.trade_id:
        value(account, symbols, event.symbol)


@compiled_part
def on_algo(account: Record, symbols: Rows, event: Record) -> None:
    """Take a conditional order's update."""
    symbol = symbols[event.symbol]
    held = order_queries.open_quantity(symbol)
    position_rules.take_algo(account, symbol, event.order, event.status, event.order_id, symbol.time)
    if not event.is_alone:
        after_orders(account, symbols, event.symbol, held)


@compiled_part
def on_reply(account: Record, symbols: Rows, event: Record) -> None:
    """Take the answer to a command, and what it tells of its order."""
    symbol, row, now = symbols[event.symbol], event.order, symbols[event.symbol].time
    held = order_queries.open_quantity(symbol)
    if event.command == records.SUBMIT:
        order_rules.on_submitted(account, symbol, row, event.time, event.outcome, event.code)
    elif event.command == records.CANCEL:
        order_rules.on_canceled(account, symbol, row, event.time, event.outcome)
    else:
        order_rules.on_looked_up(account, symbol, row, event.time, event.outcome, event.status)
    if event.told & records.OF_ORDER:
        symbol.time = max(symbol.time, event.told_at)
        position_rules.take_order(account, symbol, row, event.status, event.reported, event.order_id, symbol.time)
    if event.told & records.OF_ALGO:
        symbol.time = max(symbol.time, event.algo_told_at)
        position_rules.take_algo(account, symbol, row, event.algo_status, event.order_id, symbol.time)
    position_rules.sync_orders(account, symbol, now)
    after_orders(account, symbols, event.symbol, held)


# --- time and persons -------------------------------------------------------------------------------------------------


@compiled_part
def next_due(account: Record, symbols: Rows) -> int:
    """When a timer is wanted, ms; always later than the last, so that no loop that delivers it can stand still."""
    due: int = account.end_at if account.end_reason == states.NONE else NEVER
    for place in range(len(symbols)):
        due = min(due, position_rules.orders_due(symbols[place]))
    due = min(due, risk.breaker_next_due(account.holds))
    return max(due, int(account.woken_at) + 1)


@compiled_part
def on_timer(account: Record, symbols: Rows) -> None:
    """Do what is due: for orders and positions, for the breaker, and at the end of the session."""
    account.woken_at = account.now
    for place in range(len(symbols)):
        symbol = symbols[place]
        symbol.time = max(symbol.time, account.now)
        held = order_queries.open_quantity(symbol)
        position_rules.on_time(account, symbol, symbol.time)
        after_orders(account, symbols, place, held)
    if account.is_open:
        heed_breaker(account, symbols, risk.TIME, 0)
    if account.now >= account.end_at and account.end_reason == states.NONE:
        end(account, symbols, states.DURATION_END)


@compiled_part
def end(account: Record, symbols: Rows, reason: int) -> None:
    """End the session by its policy: leave the position, or keep it with its stop."""
    account.end_reason = reason
    stop(account, symbols, account.flatten_at_end, reason)


@compiled_part
def stop(account: Record, symbols: Rows, flatten: bool, reason: int) -> None:
    """No more entries; leave the position, or keep it with its stop at the exchange."""
    account.paused, account.keep, account.stopped_at = reason, not flatten, account.now
    for place in range(len(symbols)):
        if flatten:
            position_rules.close_position(account, symbols[place], account.now, reason)
        else:
            position_rules.cancel_entry(account, symbols[place], account.now, reason)
            if symbols[place].has_position:  # the session ends when the exchange has confirmed what it leaves behind
                add_output(account, records.SNAPSHOT, place, -1, reason, account.now)


@compiled_part
def is_finished(account: Record, symbols: Rows) -> bool:
    """Whether the session's time is over and its stop policy has been carried out."""
    if account.end_reason == states.NONE:
        return False
    for place in range(len(symbols)):
        if symbols[place].has_position and not (account.keep and _rests(account, symbols[place])):
            return False
    return True


@compiled_part
def _rests(account: Record, symbol: Record) -> bool:
    """Whether a kept position has its stop at the exchange, which has confirmed it, and nothing else is at work."""
    is_confirmed = symbol.agreed_at >= account.stopped_at
    return bool(is_confirmed and order_queries.is_protected(symbol) and not order_queries.is_at_work(symbol))


# --- bars and signals -------------------------------------------------------------------------------------------------


@compiled_part
def wake_at_bar(symbol: Record) -> int:
    """Number of bars at which the position is held long enough; NEVER where none is held, or it may be for ever."""
    if symbol.settings.max_holding_bars and order_queries.open_quantity(symbol) != 0:
        return int(symbol.opened_at_bar + symbol.settings.max_holding_bars)
    return NEVER


@compiled_part
def on_bars(account: Record, symbol: Record) -> None:
    """After bars have closed and their signals were taken: leave a position that was held for enough of them."""
    if symbol.bars >= wake_at_bar(symbol):
        position_rules.close_position(account, symbol, account.now, states.BY_TIME)


@compiled
def fill_signal(
    signal: Record, number: int, bar: Record, side: int, ready: bool, atr: float, is_last: bool, settings: Record
) -> None:
    """Describe a bar whose rule wants an entry, with the distances that the settings of the upkeep give."""
    signal.bar, signal.side, signal.price = number, side, bar.close
    signal.stop_ticks = risk.stop_distance(atr, settings.stop_atr, settings.tick_size)
    signal.take_profit_ticks = risk.stop_distance(atr, settings.take_profit_atr, settings.tick_size)
    signal.ready, signal.last_bar = ready, is_last
    signal.tainted, signal.day_end = bar.tainted, bar.close_reason == DAY_END


@compiled_part
def fill_facts(account: Record, symbol: Record, signal: Record) -> None:
    """Say what the gates and the size need to know of this bar, the system and the account."""
    fact = symbol.facts[0]
    fact["time"], fact["price_time"] = account.now, symbol.price_time
    fact["warming_up"] = not signal.ready
    fact["last_bar"] = signal.last_bar
    fact["tainted"] = signal.tainted
    fact["day_end"] = signal.day_end
    fact["paused"] = account.paused != states.NONE
    fact["reconciled"] = symbol.reconciled
    fact["unknown_orders"] = order_queries.has_unknown(symbol) or not order_queries.has_room(symbol, records.SPARE)
    fact["round_trips"] = symbol.has_position
    fact["last_exit_time"] = symbol.last_exit_time
    fact["bars_since_exit"] = signal.bar + 1 - symbol.last_exit_bar
    fact["price"] = signal.price
    fact["stop_ticks"] = signal.stop_ticks
    fact["wallet"] = fact["available"] = account.wallet if account.is_open else 0
    risk.fill_holds(symbol.facts, account.holds)
    fact["quantity"] = risk.position_size(symbol.facts, symbol.limits)


def _on_signal(account: Record, symbol: Record, signal: Record) -> None:
    """Leave on an opposite signal; enter where every gate lets the signal pass. FIRST_REFUSAL is bound."""
    if symbol.has_position and symbol.position.side != signal.side and symbol.settings.exit_on_opposite_signal:
        position_rules.close_position(account, symbol, account.now, states.OPPOSITE_SIGNAL)
    fill_facts(account, symbol, signal)
    gate = FIRST_REFUSAL(symbol.facts, symbol.limits)  # type: ignore[name-defined]  # noqa: F821
    if gate < account.gate_count:
        _note_refusal(account, symbol, signal, gate)
        return
    limit = 0
    if symbol.settings.limit_entry:
        limit = signal.price + signal.side * risk.mul_e8_floor(signal.price, symbol.settings.max_slippage_e8)
    order_rules.enter(account, symbol, signal, symbol.facts[0]["quantity"], limit)


@compiled_part
def _note_refusal(account: Record, symbol: Record, signal: Record, gate: int) -> None:
    at = note_row(account, account.refusals_count, len(account.refusals))
    refusal = account.refusals[at]
    refusal.time, refusal.bar, refusal.side, refusal.gate = account.now, signal.bar, signal.side, gate
    _note_measure(account, refusal, account.gate_rules[gate])
    account.refusals_count = at + 1
    add_output(account, records.TURNED_DOWN, symbol.place, at, states.NONE, account.now)


def _first_refusal(facts: Rows, limits: Rows) -> int:
    """Number of the first gate that refuses, counted from this one; GATE and REST are bound."""
    return 0 if GATE(facts, limits) else 1 + REST(facts, limits)  # type: ignore[name-defined]  # noqa: F821


@compiled_part
def _no_refusal(facts: Rows, limits: Rows) -> int:
    return 0


def _gate_before(rest: Callable[[Rows, Rows], int], gate: risk.Gate) -> Callable[[Rows, Rows], int]:
    return compiled_part(bind(_first_refusal, GATE=gate.refuses, REST=rest))


def first_refusal(gates: tuple[risk.Gate, ...]) -> Callable[[Rows, Rows], int]:
    """Return what says which of the gates is the first that refuses: its place, or their number where none does."""
    none: Callable[[Rows, Rows], int] = _no_refusal
    return reduce(_gate_before, reversed(gates), none)


def decision(gates: tuple[risk.Gate, ...]) -> Callable[[Record, Record, Record], None]:
    """Return the step that takes a signal through gates, in their order."""
    return compiled_part(bind(_on_signal, FIRST_REFUSAL=first_refusal(gates)))


def set_gates(account: Any, gates: tuple[risk.Gate, ...]) -> None:
    """Note how many gates there are, and for each the breaker's rule that it stands for, -1 for none."""
    rules = [risk.RULES.index(gate.code) if gate.code in risk.RULES else -1 for gate in gates]
    account["gate_count"], account["gate_rules"][: len(rules)] = len(rules), rules


# --- one event --------------------------------------------------------------------------------------------------------


@compiled_part
def react(account: Record, symbols: Rows, event: Record) -> int:
    """Take an event; return what was asked for, where it asks."""
    kind, symbol = event.kind, symbols[event.symbol]
    symbol.time = max(symbol.time, event.time)
    if kind == records.ORDER_TOLD:
        on_order(account, symbols, event)
    elif kind == records.ALGO_TOLD:
        on_algo(account, symbols, event)
    elif kind == records.REPLIED:
        on_reply(account, symbols, event)
    elif kind == records.TIMER_DUE:
        on_timer(account, symbols)
    elif kind == records.MARKED:
        symbol.mark_e8 = event.amount
        value(account, symbols, event.symbol)
    elif kind == records.FUNDED:
        on_funding(account, symbols, event.amount)
    elif kind == records.TRANSFERRED:
        on_transfer(account, symbols, event.amount)
    elif kind == records.BARS_CLOSED:
        on_bars(account, symbol)
    else:
        return _obey(account, symbols, event)
    return 0


@compiled_part
def _obey(account: Record, symbols: Rows, event: Record) -> int:
    """Do what only live trading asks for: a person, a snapshot, or an order that isn't ours."""
    kind, symbol = event.kind, symbols[event.symbol]
    if kind == records.STOPPED:
        stop(account, symbols, event.amount != 0, event.reason)
    elif kind == records.BREAKER_TOLD:
        heed_breaker(account, symbols, event.code, event.amount)
    elif kind == records.SYNC_TOLD:
        position_rules.sync_orders(account, symbol, symbol.time)
    elif kind == records.ORDERS_CHANGED:
        after_orders(account, symbols, event.symbol, event.amount)
    elif kind == records.LOOK_UP_TOLD:
        if event.reason != states.RESTART or order_rules.move(symbol.orders[event.order], states.UNKNOWN):
            order_rules.lookup(account, symbol, event.order, symbol.time, event.reason)
    elif kind == records.EXIT_ADOPTED:
        return int(order_rules.adopt_exit(symbol, event.time, event.side, event.quantity, event.reason))
    elif kind == records.ORPHAN_ADOPTED:
        return int(order_rules.adopt_orphan(symbol, event.time, event.code, event.side, event.quantity))
    else:
        return _answer(account, symbols, event.symbol, event.code)
    return 0


@compiled_part
def _answer(account: Record, symbols: Rows, place: int, question: int) -> int:
    """Answer what live trading asks between two events."""
    if question == records.NEXT_DUE:
        return next_due(account, symbols)
    if question == records.IS_FINISHED:
        return 1 if is_finished(account, symbols) else 0
    if question == records.ORDERS_DUE:
        return position_rules.orders_due(symbols[place])
    if question == records.WAKE_AT_BAR:
        return wake_at_bar(symbols[place])
    return 1 if order_queries.has_unknown(symbols[place]) else 0
