"""A backtest as one compiled loop over the tape: trades and mark prices in order, then commands and events in between.

Events have the order of `tape_loop.TapeLoop`, and the loop calls the functions that live trading calls.

Trades that nothing reacts to are skipped without reading them: `loop_matching` returns the next trade that an order
reacts to, and the core its next timer, bar or signal. Bars are computed beforehand. A price level is compared with the
high and low of a bar first, and only then with the trades of that bar.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from numba import types

from voltrade import core
from voltrade.compiled import BARE, Record, Rows, compile_for, compiled_in_place, compiled_part, prefetch, rows_of
from voltrade.model import NEVER
from voltrade.orders import core_rules, order_queries, order_rules, position_rules
from voltrade.orders.order_states import ACCEPTED, NEW, NOT_LISTED, PENDING_SUBMIT, PURPOSE_COUNT, TAPE_END
from voltrade.orders.order_states import REFUSED as REFUSED_ANSWER
from voltrade.orders.records import (
    CANCEL,
    HALTED_BY_LATE_FILL,
    HAS_ALGO,
    HAS_ORDER,
    REFUSAL,
    REPLIED,
    SIGNAL,
    SNAPSHOT,
    SUBMIT,
)
from voltrade.research import loop_exchange, loop_matching, loop_valuations
from voltrade.research.loop_records import (
    BLOCK,
    DONE,
    GIVEN_UP,
    IN_TRANSIT,
    LATE_FILL,
    MARK,
    MODELLED,
    NEEDS_ROOM,
    NO_ROOM,
    NOT_EXPLAINED,
    REFUSED,
    SIMULATION,
    TABLES,
    TAKING,
    Market,
    TableMemory,
    TradeColumns,
    first_at_least,
)
from voltrade.simulated.fill_model import last_row_of_taker


@compiled_part
def _execute(sim: Record, trades: TradeColumns, output: Record) -> None:
    """Execute a command, and give the core the answer; the user data stream's event would tell nothing else."""
    if output.kind == SNAPSHOT:
        _take_snapshot(sim)
        return
    at, kind = output.at, output.kind
    order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
    code = 0
    if kind == SUBMIT:
        at_exchange.answered = sim.account.now
        code = loop_exchange.place_algo(sim, at) if order_queries.is_algo(order) else loop_exchange.place_order(sim, at)
        at_exchange.code = code
        if code and code not in MODELLED:
            sim.unmodelled = REFUSED
    elif kind == CANCEL:
        code = loop_exchange.cancel(sim, at)
    sim.answer = sim.blank_event
    answer = sim.answer
    answer.kind, answer.order, answer.time, answer.command, answer.code = REPLIED, at, sim.account.now, kind, code
    answer.outcome = ACCEPTED if code == 0 else REFUSED_ANSWER
    if code == 0:
        _add_order_state(order, at_exchange, answer)
    if kind == SUBMIT and sim.settings.latency_ms == 0:
        loop_matching.arrive_due(sim, trades, sim.account.now)
    _react(sim, answer)


@compiled_part
def _add_order_state(order: Record, at_exchange: Record, event: Record) -> None:
    """Add the order's state to an answer."""
    event.order_id = at_exchange.order_id
    if order_queries.is_algo(order):
        event.updates, event.status, event.algo_status = HAS_ALGO, at_exchange.algo_status, at_exchange.algo_status
    else:
        event.updates, event.status, event.reported = HAS_ORDER, at_exchange.status, at_exchange.executed


@compiled_part
def _react(sim: Record, event: Record) -> None:
    """Give the core an event; give up on a session that needs an operator."""
    account, symbol = sim.account, sim.symbols[0]
    core_rules.on_exchange_event(account, sim.symbols, event)
    if symbol.halt_wanted or symbol.halt_applied:
        sim.unmodelled = LATE_FILL if symbol.halt_wanted + symbol.halt_applied == HALTED_BY_LATE_FILL else REFUSED
    if account.has_overflowed:
        sim.unmodelled = NO_ROOM


@compiled_part
def _take_snapshot(sim: Record) -> None:
    """Apply a snapshot of the account: new fills, then open orders, then look-ups of orders that aren't listed."""
    account, symbol, now = sim.account, sim.symbols[0], sim.account.now
    held = order_queries.open_quantity(symbol)
    symbol.snapshot_at, symbol.time = NEVER, now
    for number in range(sim.event_count):
        if sim.events[number].trade_id > symbol.counted:
            sim.answer = sim.events[number]
            sim.answer.orders_only = True
            _react(sim, sim.answer)
    at = loop_matching.next_open(sim, 0)
    while at >= 0:
        at_exchange = sim.at_exchange[at]
        position_rules.apply_order_update(
            account, symbol, at, at_exchange.status, at_exchange.executed, at_exchange.order_id, now
        )
        at = loop_matching.next_open(sim, at_exchange.order_id)
    for at in range(symbol.order_count):
        if sim.at_exchange[at].algo_status == NEW:
            position_rules.apply_algo_update(account, symbol, at, NEW, 0, now, now)
    _look_up_missing(sim)
    position_rules.sync_orders(account, symbol, now)
    if symbol.position.side * order_queries.open_quantity(symbol) != sim.quantity:
        sim.unmodelled = NOT_EXPLAINED
    symbol.reconciled, symbol.agreed_at = True, now
    core_rules.after_orders(account, sim.symbols, 0, held)


@compiled_part
def _look_up_missing(sim: Record) -> None:
    """Look up orders that a snapshot doesn't list."""
    account, symbol = sim.account, sim.symbols[0]
    for purpose in range(PURPOSE_COUNT):
        for at in range(symbol.order_count):
            order, at_exchange = symbol.orders[at], sim.at_exchange[at]
            is_listed = at_exchange.phase == IN_TRANSIT or at_exchange.phase == TAKING or at_exchange.algo_status == NEW
            is_missing = not order_queries.is_done(order) and not is_listed and order.state != PENDING_SUBMIT
            if order_queries.is_of(symbol, order, purpose) and is_missing:
                order_rules.lookup(account, symbol, at, account.now, NOT_LISTED)


@compiled_part
def _settle(sim: Record, trades: TradeColumns) -> None:
    """Execute commands, then give the core the exchange's events, until there are no more of both."""
    account, symbol = sim.account, sim.symbols[0]
    symbol.last_price = sim.last_price
    while sim.unmodelled == 0:
        while sim.next_output < account.output_count:
            sim.next_output += 1
            if account.outputs[sim.next_output - 1].kind <= SNAPSHOT:
                _execute(sim, trades, account.outputs[sim.next_output - 1])
        sim.next_output = account.output_count = account.command_count = 0
        if sim.event_count == 0:
            return
        for number in range(sim.event_count):
            event = sim.events[number]
            if event.trade_id <= symbol.counted:
                event.trade_id = 0  # a snapshot had this fill
            _react(sim, event)
        sim.event_count = 0


@compiled_part
def _set_last_prices(sim: Record, trades: TradeColumns, row: int) -> None:
    """Set the last prices before the trade at `row`."""
    if row > 0:
        sim.last_price = trades.price[row - 1]
    bought = last_row_of_taker(trades.buyer_is_maker, 0, row, False)
    if bought >= 0:
        sim.last_bought = trades.price[bought]
    sold = last_row_of_taker(trades.buyer_is_maker, 0, row, True)
    if sold >= 0:
        sim.last_sold = trades.price[sold]


@compiled_part
def _play_and_settle(sim: Record, trades: TradeColumns, is_acting: bool) -> None:
    """Give the exchange the trades that the core has seen, and the orders that arrive now, then settle.

    Args:
        is_acting: whether orders react to the last trade.
    """
    if is_acting:
        _set_last_prices(sim, trades, sim.row - 1)
        loop_matching.on_trade(sim, trades, sim.row - 1)
        _settle(sim, trades)
    elif sim.account.command_count or sim.event_count or sim.arrival <= sim.account.now:
        _set_last_prices(sim, trades, sim.row)
        loop_matching.arrive_due(sim, trades, sim.account.now)
        _settle(sim, trades)


@compiled_part
def _run_timers(sim: Record, trades: TradeColumns, before: int) -> bool:
    """Run the timers due at or before a time; return whether one of them made a command or ended the session."""
    due = core_rules.next_due(sim.account, sim.symbols)
    while due <= before and sim.unmodelled == 0:
        sim.account.now = max(sim.account.now, due)
        core_rules.on_timer(sim.account, sim.symbols)
        if sim.account.command_count or core_rules.is_finished(sim.account, sim.symbols):
            _play_and_settle(sim, trades, False)
            return True
        due = core_rules.next_due(sim.account, sim.symbols)
    return False


@compiled_in_place
def _prefetch_next_signal(sim: Record, m: Market) -> None:
    """Prefetch what the next signal needs into the processor's cache: the bar's time and mark price, and the trades
    after it if it may lead to an order; of the signal after it, how many mark prices there are."""
    if sim.signal + 1 < len(m.signals):
        prefetch(m.marks_at_bars, m.signals[sim.signal + 1].bar)
    if sim.signal < len(m.signals):
        row, bar = m.signals[sim.signal].row, m.signals[sim.signal].bar
        prefetch(m.closing_times, bar)
        prefetch(m.marks, m.marks_at_bars[bar])
        if not sim.symbols[0].in_round_trip:
            prefetch(m.trades.buyer_is_maker, row)
            for column in (m.trades.price, m.trades.quantity, m.trades.time):
                prefetch(column, row)
                prefetch(column, row + 8)


@compiled_in_place
def _process_trades(sim: Record, m: Market, end: int, due: int) -> None:
    """Give the core trades before `end` and `due`, up to the first that closes a bar which the core waits for."""
    if due < NEVER:
        end = first_at_least(m.trades.time, sim.row, end, due)
    closing = max(core_rules.wake_at_bar(sim.symbols[0]), sim.symbols[0].bars + 1) - 1
    if closing < len(m.closing_rows):
        end = min(end, m.closing_rows[closing] + 1)
    if sim.signal < len(m.signals):
        end = min(end, m.signals[sim.signal].row + 1)
    sim.row = end
    before = sim.symbols[0].bars
    loop_valuations.count_bars(sim, m, end)
    while sim.signal < len(m.signals) and m.signals[sim.signal].row < end:
        sim.account.now = max(sim.account.now, m.closing_times[m.signals[sim.signal].bar])
        sim.signal += 1
        _prefetch_next_signal(sim, m)
        sim.symbols[0].price_time = sim.account.now
        core.on_signal(sim.account, sim.symbols[0], m.signals[sim.signal - 1])
        _write_refusals(sim, m)
    if sim.symbols[0].bars > before and sim.symbols[0].bars >= core_rules.wake_at_bar(sim.symbols[0]):
        sim.account.now = max(sim.account.now, m.trades.time[end - 1])
        core_rules.on_bars(sim.account, sim.symbols[0])


@compiled_in_place
def _write_refusals(sim: Record, m: Market) -> None:
    """Write refused signals to their table: there may be many before anything else happens."""
    account = sim.account
    for number in range(account.refusals_count):
        m.refusals[sim.refusals_written] = account.refusals[number]
        sim.refusals_written += 1
    account.refusals_count = 0
    if account.command_count == 0:
        account.output_count = 0


@compiled_in_place
def _run_segment(sim: Record, m: Market) -> bool:
    """Run to the next mark price, arrival, or trade that an order reacts to; return whether the tape is at its end.

    Trades before it are read only where something is due or happens, since reading all of them would be slow.
    """
    end, last_time, is_acting, arrives, has_mark = loop_matching.next_end(sim, m)
    is_last = end == len(m.trades.price) and sim.mark + has_mark == len(m.marks) and not arrives
    while sim.row < end:
        due = core_rules.next_due(sim.account, sim.symbols)
        if due > last_time:
            due = NEVER
        elif _run_timers(sim, m.trades, m.trades.time[sim.row]):
            return False
        else:
            due = core_rules.next_due(sim.account, sim.symbols)
        _process_trades(sim, m, end, due)
        if sim.account.command_count:
            _play_and_settle(sim, m.trades, is_acting and sim.row == end)
            return is_last and sim.row == end and not has_mark
        if sim.row < end and has_mark:
            return False  # as after a refused signal: nearly always the next mark prices can be skipped
    if (has_mark or arrives) and _run_timers(sim, m.trades, last_time):
        return False
    sim.account.now = max(sim.account.now, last_time)
    if has_mark:
        _on_mark(sim, m)
    _play_and_settle(sim, m.trades, is_acting)
    return is_last


@compiled_in_place
def _on_mark(sim: Record, m: Market) -> None:
    """Give the next mark price to the core and then to the exchange."""
    mark = m.marks[sim.mark]
    sim.symbols[0].mark_e8, sim.symbols[0].mark_is_last_price = mark.price_e8, mark.is_last_price
    sim.mark += 1
    core_rules.value_account(sim.account, sim.symbols, 0)
    if sim.settings.triggers_by_mark and sim.symbols[0].in_round_trip:
        _set_last_prices(sim, m.trades, sim.row)
    loop_matching.on_mark_price(sim, m.trades, mark.price_e8, mark.time, mark.funding_rate)


@compiled_in_place
def _append(table: Rows, written: int, rows: Rows, count: int) -> int:
    """Copy rows to a table after its `written` rows; return the new number of rows."""
    for number in range(count):
        table[written + number] = rows[number]
    return written + count


@compiled_in_place
def _write_tables(sim: Record, is_over: bool, tables: TableMemory) -> None:
    """Move new rows to the tables, and orders that are over; all orders where the session is over."""
    account = sim.account
    sim.fills_written = _append(tables.fills, sim.fills_written, sim.fills, sim.fill_count)
    sim.trips_written = _append(tables.trips, sim.trips_written, account.trips, account.trips_count)
    sim.equity_written = _append(tables.equity, sim.equity_written, account.equity, account.equity_count)
    sim.changes_written = _append(tables.changes, sim.changes_written, account.changes, account.changes_count)
    sim.alerts_written = _append(tables.alerts, sim.alerts_written, account.alerts, account.alerts_count)
    sim.fill_count = account.trips_count = account.equity_count = account.changes_count = account.alerts_count = 0
    if account.command_count == 0:
        account.output_count = 0
    _write_orders(sim, is_over, tables.orders)


@compiled_part
def _write_orders(sim: Record, is_over: bool, orders: Rows) -> None:
    """Write orders to their table, each in the row of its number, and free their rows in the session.

    A sweep needs no orders: there the table stays empty.
    """
    symbol, kept = sim.symbols[0], 0
    for row in range(symbol.order_count):
        order = symbol.orders[row]
        if is_over or order_queries.is_removable(symbol, order):
            if not sim.settings.is_brief:
                placed = orders[order.number]
                placed.order, placed.at_exchange = order, sim.at_exchange[row]
        else:
            if kept != row:
                symbol.orders[kept], sim.at_exchange[kept] = symbol.orders[row], sim.at_exchange[row]
            kept += 1
    for row in range(kept, symbol.order_count):
        sim.at_exchange[row] = sim.blank_order
    symbol.order_count = kept
    sim.orders_written = 0 if sim.settings.is_brief else symbol.order_numbers


@compiled_in_place
def _has_room(sim: Record, tables: TableMemory) -> bool:
    """Whether the tables have room for all rows that one step can write."""
    return bool(
        sim.orders_written + len(sim.at_exchange) <= len(tables.orders)
        and sim.fills_written + len(sim.fills) <= len(tables.fills)
        and sim.trips_written + len(sim.account.trips) <= len(tables.trips)
        and sim.equity_written + len(sim.account.equity) <= len(tables.equity)
        and sim.changes_written + len(sim.account.changes) <= len(tables.changes)
        and sim.alerts_written + len(sim.account.alerts) <= len(tables.alerts)
    )


def _simulate(m: Market, states: Rows, tables: TableMemory) -> int:
    """Continue the session; return DONE, NEEDS_ROOM or GIVEN_UP."""
    sim, is_over = states[0], False
    while sim.unmodelled == 0:
        _write_tables(sim, is_over, tables)
        if is_over:
            return DONE
        if not _has_room(sim, tables):
            return NEEDS_ROOM
        if sim.has_ended or core_rules.is_finished(sim.account, sim.symbols):
            _end_session(sim, m)
            is_over = True
        else:
            loop_valuations.skip_marks(sim, m, tables.equity)
            sim.has_ended = _run_segment(sim, m)
    return GIVEN_UP


@compiled_in_place
def _end_session(sim: Record, m: Market) -> None:
    """End the session; where the tape ends first, by the policy for the end of a session."""
    _set_last_prices(sim, m.trades, sim.row)
    if not core_rules.is_finished(sim.account, sim.symbols):
        core_rules.end_session(sim.account, sim.symbols, TAPE_END)
        _settle(sim, m.trades)
    loop_matching.arrive_due(sim, m.trades, NEVER)
    _settle(sim, m.trades)


@cache
def simulate() -> Callable[..., int]:
    """Return `_simulate`, compiled at the first call."""
    whole, flag = (types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.bool_))
    trades = types.NamedTuple([whole, whole, whole, flag], TradeColumns)
    columns = (trades, *(whole,) * 5, rows_of(MARK), *(whole,) * 2)
    market = types.NamedTuple([*columns, *(rows_of(each) for each in (BLOCK, SIGNAL, REFUSAL))], Market)
    tables = types.NamedTuple([rows_of(dtype) for dtype in TABLES.values()], TableMemory)
    signature = types.int64(market, rows_of(SIMULATION), tables)
    return compile_for(_simulate, signature, nogil=True, **BARE)  # type: ignore[no-any-return]
