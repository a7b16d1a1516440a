"""Compiled form of `simulated.exchange`: accepts, refuses and cancels orders.

One symbol, one account, and only the orders that a session sends: market and IOC entries, stops and take-profits that
are reduce-only, market exits.
"""

from __future__ import annotations

from voltrade import risk
from voltrade.account import value_at_mark
from voltrade.compiled import Record, compiled_part
from voltrade.orders import order_states as states
from voltrade.orders.order_queries import is_algo
from voltrade.orders.records import ALGO_UPDATED, ORDER_UPDATED
from voltrade.research.loop_records import ENDED, IN_TRANSIT, NOT_EXPLAINED, TAKING, free_row
from voltrade.simulated.fill_model import (
    is_triggered,
)


@compiled_part
def add_order_event(sim: Record, kind: int, at: int, status: int) -> Record:
    """Add an event about an order or an algo order; return it."""
    event, at_exchange = add_event(sim, kind), sim.at_exchange[at]
    event.order, event.status, event.reported = at, status, at_exchange.executed
    event.order_id, event.time = at_exchange.order_id, sim.account.now
    at_exchange.updated = sim.account.now
    sim.watch_is_stale = True
    return event


@compiled_part
def add_event(sim: Record, kind: int) -> Record:
    """Add an event that has only its kind; return it."""
    number = free_row(sim, sim.event_count, len(sim.events))
    sim.events[number] = sim.blank_event
    sim.events[number].kind = kind
    sim.event_count = number + 1
    return sim.events[number]


@compiled_part
def best_price(sim: Record, side: int) -> int:
    """Return the price at which a market order of this side would be filled; 0 before the first trade."""
    best = sim.last_bought if side > 0 else sim.last_sold
    return int(best if best else sim.last_price)


@compiled_part
def _value_price_e8(sim: Record) -> int:
    return int(sim.mark_e8 if sim.mark_e8 else sim.last_price * sim.settings.tick_e8)


@compiled_part
def reducible_quantity(sim: Record, side: int) -> int:
    """Return the lots by which a reduce-only order of this side can reduce the position."""
    return int(max(0, -side * sim.quantity))


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
        return price_e8 > risk.mul_e8_floor(mark_e8, settings.multiplier_up_e8)
    return price_e8 < risk.mul_e8_ceil(mark_e8, settings.multiplier_down_e8)


@compiled_part
def _check_order(sim: Record, at: int) -> int:
    order = sim.symbols[0].orders[at]
    is_limit = order.price > 0
    code = _check_quantity(sim.settings, order.quantity, is_limit)
    if code:
        return code
    mark_e8 = _value_price_e8(sim)
    if is_limit:
        code = _check_price(sim.settings, order.price)
        if code:
            return code
        if mark_e8 and _is_outside_band(sim.settings, order.price * sim.settings.tick_e8, mark_e8, order.side):
            return -4016 if order.side > 0 else -4024
    else:
        best_e8 = best_price(sim, order.side) * sim.settings.tick_e8
        if best_e8 == 0 or mark_e8 == 0:
            return -2020
        if _is_outside_band(sim.settings, best_e8, mark_e8, order.side):
            return -4131
    if order.purpose != states.ENTRY:
        return -2022 if reducible_quantity(sim, order.side) == 0 else 0
    if is_limit:
        notional = order.price * order.quantity * sim.settings.money_per_ticklot
    else:
        notional = value_at_mark(order.quantity, sim.settings.step_numerator, sim.settings.step_denominator, mark_e8)
    if notional < sim.settings.min_notional:
        return -4164
    return _check_margin(sim, order.quantity * (order.price if is_limit else sim.last_price))


@compiled_part
def _check_margin(sim: Record, ticklots: int) -> int:
    """Return 0 if there is margin for an entry of this notional while nothing else is open, else the code."""
    if sim.quantity != 0:
        sim.unmodelled = NOT_EXPLAINED
    exposure = ticklots * sim.settings.money_per_ticklot
    if sim.wallet <= 0:
        return -2018
    if exposure > sim.settings.largest_notional:
        return -2027
    return -2019 if divided_up(exposure, sim.settings.leverage) > sim.wallet else 0


@compiled_part
def divided_up(amount: int, by: int) -> int:
    """Divide and round up."""
    return -(-amount // by)


@compiled_part
def place_order(sim: Record, at: int) -> int:
    """Accept a market or limit order and return 0, or return the code of the first rule that refuses it."""
    code = _check_order(sim, at)
    if code:
        return code
    at_exchange = sim.at_exchange[at]
    sim.order_ids += 1
    at_exchange.order_id = sim.order_ids
    at_exchange.live_from = sim.account.now + sim.settings.latency_ms
    at_exchange.phase, at_exchange.status, at_exchange.updated = IN_TRANSIT, states.NEW, sim.account.now
    sim.watch_is_stale = True
    return 0


@compiled_part
def _would_trigger_now(sim: Record, order: Record) -> bool:
    if sim.settings.triggers_by_mark and sim.mark_e8:
        return is_triggered(sim.mark_e8, order.trigger_price * sim.settings.tick_e8, triggers_on_rise(order))
    last = sim.last_price
    return last > 0 and is_triggered(last, order.trigger_price, triggers_on_rise(order))


@compiled_part
def triggers_on_rise(order: Record) -> bool:
    """Whether an algo order triggers at or above its trigger price; else at or below."""
    return bool((order.purpose == states.STOP) == (order.side > 0))


@compiled_part
def place_algo(sim: Record, at: int) -> int:
    """Accept an algo order and return 0, or return the code of the first rule that refuses it."""
    order, at_exchange = sim.symbols[0].orders[at], sim.at_exchange[at]
    code = _check_quantity(sim.settings, order.quantity, False)
    if code == 0:
        code = _check_price(sim.settings, order.trigger_price)
    if code == 0 and reducible_quantity(sim, order.side) == 0:
        code = -2022
    if code == 0 and _would_trigger_now(sim, order):
        code = -2021
    if code:
        return code
    sim.algo_ids += 1
    at_exchange.algo_id = sim.algo_ids
    at_exchange.live_from = sim.account.now + sim.settings.latency_ms
    at_exchange.algo_status, at_exchange.updated = states.NEW, sim.account.now
    sim.watch_is_stale = True
    return 0


@compiled_part
def cancel(sim: Record, at: int) -> int:
    """Cancel an open order and return 0, or return -2011."""
    at_exchange = sim.at_exchange[at]
    if is_algo(sim.symbols[0].orders[at]):
        if at_exchange.algo_status != states.NEW:
            return -2011
        at_exchange.algo_status = states.CANCELED
    elif at_exchange.phase == IN_TRANSIT or at_exchange.phase == TAKING:
        at_exchange.phase, at_exchange.status = ENDED, states.CANCELED
    else:
        return -2011
    at_exchange.updated = sim.account.now
    sim.watch_is_stale = True
    return 0


@compiled_part
def end_order(sim: Record, at: int, status: int) -> None:
    """End an order without a further fill."""
    sim.at_exchange[at].status = status
    add_order_event(sim, ORDER_UPDATED, at, status)
    mark_ended(sim, at)


@compiled_part
def mark_ended(sim: Record, at: int) -> None:
    """Mark an order as ended, and the algo order that it came from as finished."""
    sim.at_exchange[at].phase = ENDED
    sim.watch_is_stale = True
    if is_algo(sim.symbols[0].orders[at]):
        end_algo(sim, at, states.FINISHED)


@compiled_part
def end_algo(sim: Record, at: int, status: int) -> None:
    """Set the final status of an algo order."""
    sim.at_exchange[at].algo_status = status
    add_order_event(sim, ALGO_UPDATED, at, status)
