"""Risk rules: whether an entry is allowed, its size, and when the circuit breaker stops trading.

For each signal the trading core fills one row of GATE_INPUTS, computes the size and checks the gates in the order of
`core.GATES`. The circuit breaker gets every equity, transfer and round trip. Each rule is a compiled function of small
arrays: live trading calls it once for each event, a sweep calls the same function in its loop.

All amounts are integers: prices in ticks, quantities in lots, money in 1e-8 of the quote asset, rates in 1e-8. Limits
and the distance of liquidation are rounded down, costs and distances of stops up, so that rounding never adds risk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Literal

import numpy as np

from voltrade.compiled import Rows, compiled, record_dtype, uncompiled
from voltrade.config import BreakerAction, Config, Resume, RiskSettings, milliseconds
from voltrade.errors import DataError
from voltrade.model import DAY_MS, MONEY, NEVER, Instrument, money_text

NO_EXIT = -1
"""Value of `last_exit_time` before the first exit."""

ENTRIES_APART_MS = 1_000
"""Shortest time between two entries of a symbol, besides the cooldown. A rule that enters and exits with every bar of a
burst would use up the exchange's limit of orders per time, which stops need too."""
NO_ENTRY = -ENTRIES_APART_MS
"""Value of `last_entry_time` before the first entry."""

MAX_PRICE_AGE_MS = 10_000
"""Largest age of the last price for an entry."""

MIN_STOP_TICKS = 3
"""Shortest distance of a stop, at any price."""

MAINTENANCE_RATE = Decimal("0.025")
"""Maintenance margin rate for the liquidation distance. It is `maintMarginPercent` of nearly every symbol, and more
than the first bracket of the large symbols, so that the distance of a small position isn't overestimated."""


# --- exact arithmetic -------------------------------------------------------------------------------------------------


@compiled
def mul_e8_floor(amount: int, rate: int) -> int:
    """Return amount x rate in 1e-8, rounded down; the product of both may exceed 64 bits."""
    return amount // MONEY * rate + amount % MONEY * rate // MONEY


@compiled
def mul_e8_ceil(amount: int, rate: int) -> int:
    """Return amount x rate in 1e-8, rounded up."""
    return -mul_e8_floor(-amount, rate)


def rate_e8(value: float | Decimal, rounding: str = ROUND_FLOOR) -> int:
    """Convert a rate to 1e-8: `0.005` is 500,000. Round allowances down and costs up."""
    return int((Decimal(str(value)) * MONEY).to_integral_value(rounding=rounding))


# --- inputs of the gates and of the size ------------------------------------------------------------------------------

GATE_INPUTS = record_dtype(
    [
        ("time", np.int64),  # of the decision, ms
        # the deciding bar
        ("warming_up", np.bool_),  # indicators aren't warmed up
        ("last_bar", np.bool_),  # the same trade closed no later bar
        ("tainted", np.bool_),  # trades are missing in it
        ("day_end", np.bool_),  # the end of the UTC day closed it before its threshold
        # the state of the system
        ("paused", np.bool_),  # by the operator, or because the session ends
        ("reconciled", np.bool_),  # the last snapshot agreed (`oms`), and nothing has cast doubt on it since
        ("market_stream_up", np.bool_),
        ("user_stream_up", np.bool_),
        ("orders_unsettled", np.bool_),  # `order_queries.has_unsettled_order()`, or too few rows are free
        ("position_open", np.bool_),  # a round trip is in progress, from the intent of its entry on
        ("last_entry_time", np.int64),  # when the last entry was sent, ms; NO_ENTRY for none
        ("last_exit_time", np.int64),  # of the last exit fill, ms; NO_EXIT for none
        ("bars_since_exit", np.int64),  # bars that closed after it, including the deciding bar
        ("price_time", np.int64),  # time of the last price, ms
        ("mark_e8", np.int64),  # mark price in 1e-8 of the quote asset, 0 where the exchange's isn't known
        # the circuit breaker: rules in force, and what is left of the day's loss, written by fill_breaker
        ("on_hold", np.bool_),
        ("drawdown", np.bool_),
        ("daily_loss", np.bool_),
        ("losing_streak", np.bool_),
        ("trades_per_day", np.bool_),
        ("day_left", np.int64),  # money
        # the entry
        ("price", np.int64),  # last price, ticks
        ("stop_ticks", np.int64),  # distance of the stop from the fill, ticks
        ("symbol_changed", np.bool_),  # the symbol doesn't trade, or its tick or step is finer than the run's
        ("quantity", np.int64),  # lots, from position_size
        ("wallet", np.int64),  # wallet balance, money
        ("available", np.int64),  # free margin, money: the wallet balance, since the symbol is flat
    ]
)

LIMITS = record_dtype(
    [
        ("cooldown_ms", np.int64),
        ("cooldown_bars", np.int64),
        ("max_price_age_ms", np.int64),
        ("max_mark_gap_e8", np.int64),  # of the mark price
        ("tick_e8", np.int64),  # tick size in 1e-8 of the quote asset
        ("capital", np.int64),  # money
        ("risk_e8", np.int64),  # part of capital that a stop-out may cost
        ("max_notional_e8", np.int64),  # multiple of capital
        ("leverage", np.int64),
        ("maintenance_e8", np.int64),  # maintenance margin rate
        ("min_stop_e8", np.int64),  # of the price
        ("fee_e8", np.int64),  # taker fee of one side
        ("slippage_e8", np.int64),  # expected slippage of one side
        ("money_per_ticklot", np.int64),
        ("min_quantity", np.int64),  # lots
        ("max_quantity", np.int64),  # lots, of a market order
        ("min_notional", np.int64),  # money
        ("price_step", np.int64),  # ticks of which prices that are sent are multiples
        ("quantity_step", np.int64),  # lots of which quantities that are sent are multiples
        ("bracket_notional", np.int64),  # largest position at this leverage, money; NEVER where it isn't known
    ]
)


def new_gate_inputs() -> Rows:
    """Return a row of GATE_INPUTS that the gates refuse until its fields are filled."""
    inputs = np.zeros(1, GATE_INPUTS)
    inputs["last_entry_time"], inputs["last_exit_time"] = NO_ENTRY, NO_EXIT
    return inputs


def limits_from_settings(config: Config, instrument: Instrument, taker_fee_e8: int | None = None) -> Rows:
    """Return the row of LIMITS that follows from the settings and the instrument.

    `taker_fee_e8` is the rate that the exchange reports (`Snapshot.taker_fee_e8`); None means the rate of the settings.
    """
    risk, execution = config.risk, config.execution
    limits = np.zeros(1, LIMITS)
    row = limits[0]
    row["cooldown_ms"] = milliseconds(risk.cooldown_s)
    row["cooldown_bars"] = risk.cooldown_bars
    row["max_price_age_ms"] = MAX_PRICE_AGE_MS
    row["max_mark_gap_e8"] = rate_e8(Decimal(str(risk.max_mark_gap_bps)) / 10_000)
    row["tick_e8"] = int(instrument.tick_size * MONEY)
    row["capital"] = int(risk.capital * MONEY)
    row["risk_e8"] = rate_e8(risk.risk_fraction)
    row["max_notional_e8"] = rate_e8(risk.max_notional_multiple)
    row["leverage"] = risk.leverage
    row["maintenance_e8"] = rate_e8(MAINTENANCE_RATE, ROUND_CEILING)
    row["min_stop_e8"] = rate_e8(Decimal(str(config.exits.min_stop_bps)) / 10_000, ROUND_CEILING)
    row["fee_e8"] = rate_e8(execution.taker_fee, ROUND_CEILING) if taker_fee_e8 is None else taker_fee_e8
    row["slippage_e8"] = rate_e8(Decimal(str(execution.slippage_bps)) / 10_000, ROUND_CEILING)
    row["money_per_ticklot"] = instrument.money_per_ticklot
    row["min_quantity"] = instrument.min_quantity
    row["max_quantity"] = min(instrument.market_max_quantity, instrument.max_quantity)
    row["min_notional"] = instrument.min_notional
    row["price_step"] = row["quantity_step"] = 1
    row["bracket_notional"] = NEVER
    return limits


# --- size -------------------------------------------------------------------------------------------------------------


@compiled
def atr_distance(atr: float, multiple: float, tick_size: float) -> int:
    """Return the distance of a stop or take-profit, `multiple` ATR, in ticks, rounded up; 0 if the ATR is NaN or 0.

    The ATR is in quote per coin.
    """
    ticks = atr * multiple / tick_size
    if not 0.0 < ticks < 1e15:
        return 0
    # Without the tolerance a float of 100.00000000000001 ticks would become 101.
    return math.ceil(ticks - 1e-6)


@compiled
def expected_price(inputs: Rows, limits: Rows) -> int:
    """Return the price that a buyer may expect to pay, in ticks: last price plus expected slippage, rounded up."""
    given, limit = inputs[0], limits[0]
    return int(given["price"]) + mul_e8_ceil(given["price"], limit["slippage_e8"])


@compiled
def capital_in_use(inputs: Rows, limits: Rows) -> int:
    """Return the capital in money: that of the settings, or the wallet if it is less."""
    return int(min(limits[0]["capital"], inputs[0]["wallet"]))


@compiled
def stop_out_cost(lots: int, inputs: Rows, limits: Rows) -> int:
    """Return the money that an entry of this many lots costs if its stop is hit, rounded up.

    It is the stop distance, plus fee and expected slippage of entry and exit. For both sides the exit is taken to be at
    price + distance, where fee and slippage are higher.
    """
    given, limit = inputs[0], limits[0]
    stop = lots * given["stop_ticks"] * limit["money_per_ticklot"]
    turnover = lots * (2 * expected_price(inputs, limits) + given["stop_ticks"]) * limit["money_per_ticklot"]
    return int(stop) + mul_e8_ceil(turnover, limit["fee_e8"] + limit["slippage_e8"])


@compiled
def lots_at_risk(inputs: Rows, limits: Rows, most: int) -> int:
    """Return the largest number of lots, up to `most`, whose stop-out costs no more than capital x risk fraction."""
    given, limit = inputs[0], limits[0]
    budget = mul_e8_floor(capital_in_use(inputs, limits), limit["risk_e8"])
    rate = (limit["fee_e8"] + limit["slippage_e8"]) / MONEY
    ticks = given["stop_ticks"] + (2 * expected_price(inputs, limits) + given["stop_ticks"]) * rate
    estimate = budget / (ticks * limit["money_per_ticklot"])
    # The float estimate is exact to a lot; the loop corrects it with the exact cost.
    lots = most if estimate >= most else min(most, int(estimate) + 2)
    while lots > 0 and stop_out_cost(lots, inputs, limits) > budget:
        lots -= 1
    return lots


@compiled
def position_size(inputs: Rows, limits: Rows) -> int:
    """Return the quantity of an entry in lots: the largest within all limits; 0 if that is too small for an order.

    Limits: a stop-out costs at most capital x risk fraction; the notional at the expected price is at most the multiple
    of capital and the leverage bracket's; initial margin and costs of the entry are at most the available margin at
    this leverage; the quantity is at most the largest market order of the symbol. It is rounded down to the symbol's
    step, and never raised to its minimum quantity or notional. Reads price, stop_ticks, wallet and available.
    """
    given, limit = inputs[0], limits[0]
    if given["price"] <= 0 or given["stop_ticks"] <= 0:
        return 0
    lot_value = expected_price(inputs, limits) * limit["money_per_ticklot"]
    notional = min(
        mul_e8_floor(capital_in_use(inputs, limits), limit["max_notional_e8"]), int(limit["bracket_notional"])
    )
    # notional / leverage + notional x costs <= available
    costs_e8 = limit["leverage"] * (limit["fee_e8"] + limit["slippage_e8"])
    margin = mul_e8_floor(given["available"], MONEY * MONEY // (MONEY + costs_e8))
    by_margin = margin // lot_value * limit["leverage"] + margin % lot_value * limit["leverage"] // lot_value
    most = min(notional // lot_value, by_margin, limit["max_quantity"])
    lots = lots_at_risk(inputs, limits, most)
    lots -= lots % int(limit["quantity_step"])
    if lots < limit["min_quantity"] or lots * given["price"] * limit["money_per_ticklot"] < limit["min_notional"]:
        return 0
    return lots


@compiled
def shortest_stop_ticks(inputs: Rows, limits: Rows) -> int:
    """Return the shortest distance of a stop that is allowed, in ticks.

    It is the largest of `min_stop_bps` of the price, MIN_STOP_TICKS price steps, and twice the fees and slippage of a
    round trip.
    """
    given, limit = inputs[0], limits[0]
    of_price = mul_e8_ceil(given["price"], limit["min_stop_e8"])
    round_trip = mul_e8_ceil(2 * given["price"], limit["fee_e8"] + limit["slippage_e8"])
    return max(of_price, MIN_STOP_TICKS * int(limit["price_step"]), 2 * round_trip)


@compiled
def liquidation_ticks(inputs: Rows, limits: Rows) -> int:
    """Return the approximate distance to liquidation of an isolated position, in ticks, rounded down.

    It is price x (1 / leverage - maintenance rate). It ignores fees and the brackets of large positions, which the
    factor of two in `liquidation_distance` covers. A cross position has more margin than this, never less.
    """
    given, limit = inputs[0], limits[0]
    return mul_e8_floor(given["price"], MONEY // limit["leverage"] - limit["maintenance_e8"])


@compiled
def cooling_down(time: int, last_exit_time: int, bars_since_exit: int, cooldown_ms: int, cooldown_bars: int) -> bool:
    """Whether the pause after the last exit is not over.

    With `cooldown_bars` = 3 the first three bars that close after the exit can't enter, the fourth can; `cooldown_ms`
    ends exactly that long after the exit. Both must be over. `last_exit_time` is NO_EXIT before the first exit.
    """
    if last_exit_time < 0:
        return False
    return time < last_exit_time + cooldown_ms or bars_since_exit <= cooldown_bars


# --- gates ------------------------------------------------------------------------------------------------------------

GateRule = Callable[[Rows, Rows], bool]


@dataclass(frozen=True, slots=True)
class Gate:
    """A pre-trade check: if `refuses(inputs, limits)` is true, there is no entry, and `code` is the reason."""

    code: str
    refuses: GateRule
    text: str


@compiled
def warming_up(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["warming_up"])


@compiled
def not_last_bar(inputs: Rows, limits: Rows) -> bool:
    return not inputs[0]["last_bar"]


@compiled
def bar_tainted(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["tainted"])


@compiled
def day_end_bar(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["day_end"])


@compiled
def paused(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["paused"])


@compiled
def on_hold(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["on_hold"])


@compiled
def drawdown(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["drawdown"])


@compiled
def daily_loss(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["daily_loss"])


@compiled
def losing_streak(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["losing_streak"])


@compiled
def trades_per_day(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["trades_per_day"])


@compiled
def not_reconciled(inputs: Rows, limits: Rows) -> bool:
    return not inputs[0]["reconciled"]


@compiled
def symbol_changed(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["symbol_changed"])


@compiled
def link_down(inputs: Rows, limits: Rows) -> bool:
    return not (inputs[0]["market_stream_up"] and inputs[0]["user_stream_up"])


@compiled
def stale_price(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["time"] - inputs[0]["price_time"] > limits[0]["max_price_age_ms"])


@compiled
def off_mark(inputs: Rows, limits: Rows) -> bool:
    given, limit = inputs[0], limits[0]
    gap = abs(given["price"] * limit["tick_e8"] - given["mark_e8"])
    return bool(given["mark_e8"] > 0 and gap > mul_e8_floor(given["mark_e8"], limit["max_mark_gap_e8"]))


@compiled
def unknown_order(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["orders_unsettled"])


@compiled
def in_position(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["position_open"])


@compiled
def cooldown(inputs: Rows, limits: Rows) -> bool:
    given, limit = inputs[0], limits[0]
    is_after_entry = given["time"] < given["last_entry_time"] + ENTRIES_APART_MS
    return is_after_entry or cooling_down(
        given["time"], given["last_exit_time"], given["bars_since_exit"], limit["cooldown_ms"], limit["cooldown_bars"]
    )


@compiled
def stop_too_tight(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["stop_ticks"] < shortest_stop_ticks(inputs, limits))


@compiled
def liquidation_distance(inputs: Rows, limits: Rows) -> bool:
    return bool(2 * inputs[0]["stop_ticks"] > liquidation_ticks(inputs, limits))


@compiled
def size_too_small(inputs: Rows, limits: Rows) -> bool:
    return bool(inputs[0]["quantity"] <= 0)


@compiled
def max_notional(inputs: Rows, limits: Rows) -> bool:
    lot_value = expected_price(inputs, limits) * limits[0]["money_per_ticklot"]
    allowed = mul_e8_floor(capital_in_use(inputs, limits), limits[0]["max_notional_e8"])
    return bool(lot_value <= 0 or inputs[0]["quantity"] > allowed // lot_value)


@compiled
def daily_budget(inputs: Rows, limits: Rows) -> bool:
    is_known = not max_notional(inputs, limits)  # above it the cost may exceed 64 bits
    return is_known and stop_out_cost(inputs[0]["quantity"], inputs, limits) > inputs[0]["day_left"]


WARMING_UP = Gate("WARMING_UP", warming_up, "indicators and bars aren't warmed up")
NOT_LAST_BAR = Gate("NOT_LAST_BAR", not_last_bar, "the same trade closed a later bar")
BAR_TAINTED = Gate("BAR_TAINTED", bar_tainted, "trades are missing from the bar")
DAY_END_BAR = Gate("DAY_END_BAR", day_end_bar, "the bar was closed short by the end of the UTC day")
PAUSED = Gate("PAUSED", paused, "entries are paused by the operator, or the session ends")
ON_HOLD = Gate("ON_HOLD", on_hold, "entries are on hold until the operator resumes")
DRAWDOWN = Gate("DRAWDOWN", drawdown, "the drawdown limit was reached")
DAILY_LOSS = Gate("DAILY_LOSS", daily_loss, "the daily loss limit was reached")
LOSING_STREAK = Gate("LOSING_STREAK", losing_streak, "too many losing round trips in a row")
TRADES_PER_DAY = Gate("TRADES_PER_DAY", trades_per_day, "the limit of round trips per day was reached")
NOT_RECONCILED = Gate("NOT_RECONCILED", not_reconciled, "the account isn't reconciled with the exchange")
SYMBOL_CHANGED = Gate(
    "SYMBOL_CHANGED", symbol_changed, "the symbol isn't trading, or its tick or step is finer than when the run began"
)
LINK_DOWN = Gate("LINK_DOWN", link_down, "a stream is down")
STALE_PRICE = Gate("STALE_PRICE", stale_price, "the last price is too old")
OFF_MARK = Gate("OFF_MARK", off_mark, "the last price is too far from the mark price")
UNKNOWN_ORDER = Gate("UNKNOWN_ORDER", unknown_order, "an order's outcome isn't known, or too many are open")
IN_POSITION = Gate("IN_POSITION", in_position, "a round trip is open or an entry is in flight")
COOLDOWN = Gate("COOLDOWN", cooldown, "the pause after the last exit, or the second after the last entry, isn't over")
STOP_TOO_TIGHT = Gate("STOP_TOO_TIGHT", stop_too_tight, "the stop is nearer than its minimum distance")
LIQUIDATION_DISTANCE = Gate("LIQUIDATION_DISTANCE", liquidation_distance, "liquidation is nearer than twice the stop")
SIZE_TOO_SMALL = Gate("SIZE_TOO_SMALL", size_too_small, "the size is below the symbol's minimum order")
MAX_NOTIONAL = Gate("MAX_NOTIONAL", max_notional, "the notional is above its multiple of the capital")
DAILY_BUDGET = Gate("DAILY_BUDGET", daily_budget, "its stop-out would cost more than the day's loss limit has left")


# --- circuit breaker: the rules ---------------------------------------------------------------------------------------

COUNTED = frozenset({"LOSING_STREAK", "TRADES_PER_DAY"})
"""Codes of the rules that count round trips; the other rules measure money."""

RULES = ("DAILY_LOSS", "DRAWDOWN", "LOSING_STREAK", "TRADES_PER_DAY", "ON_HOLD")
"""Codes of the rules, in the order of the rows of BREAKER_HOLDS. ON_HOLD has no limit: the commands `reduce` and
`halt`, a caretaker or a halt by our own code put it in force, and the operator's `resume` releases it. The command
`flatten` closes the position and pauses, and puts no rule in force. ON_HOLD isn't the mode HALTED: other rules lead to
that mode too, and `reduce` doesn't."""

_DAILY_LOSS, _DRAWDOWN, _LOSING_STREAK, _TRADES_PER_DAY, _ON_HOLD = range(len(RULES))
RULE_COUNT, MEASURED_COUNT = len(RULES), _ON_HOLD
"""How many rules there are, and how many have a measure: all before ON_HOLD, those of money first."""

ACTIONS: tuple[BreakerAction, ...] = ("block", "cancel", "flatten")
RESUMPTIONS: tuple[Resume, ...] = ("next_utc_day", "after_seconds", "person")
ACTION_CANCEL, ACTION_FLATTEN = ACTIONS.index("cancel"), ACTIONS.index("flatten")
_NEXT_UTC_DAY, _AFTER_SECONDS, _BY_OPERATOR = range(3)

# Kinds of events for the breaker. The amount is money: an equity, a transfer or the net profit of a round trip; for
# HOLD it is an index into ACTIONS.
EQUITY, TRANSFER, OPENED, CLOSED, TIME, HOLD, RESUME, EQUITY_AT_LAST = range(8)
"""EQUITY_AT_LAST is an equity in which a position is valued at the last trade's price, which one bad print may set."""

CONFIRMED_MS = 3_000
"""For how long an equity at last prices must be beyond a limit to trip a rule, or above the peak to raise it."""

BREAKER_STATE = record_dtype(
    [
        ("day", np.int64),  # days since 1970 UTC
        ("day_equity", np.int64),  # equity at 00:00 UTC, the first start or the rule's release, plus transfers since
        ("equity", np.int64),  # latest equity, money
        ("peak", np.int64),  # highest equity, adjusted for transfers, money
        ("above_since", np.int64),  # since when equities at last prices are above the peak, ms; 0 where they aren't
        ("least_above", np.int64),  # the lowest of them, money
        ("before", np.int64),  # the equity before the latest where that is one at last prices, else the latest, money
        ("earlier", np.int64),  # likewise the one before that
        ("is_at_last", np.bool_),  # whether the latest equity is one at last prices
        ("losses", np.int64),  # losing round trips in a row
        ("round_trips_today", np.int64),  # round trips that began today
    ]
)

MUST_BE_SAVED = ("day", "day_equity", "equity", "peak")
"""Fields without which a saved state is refused: nothing else tells how much of the limits on money is used."""

BREAKER_HOLDS = record_dtype(  # one row for each rule
    [
        ("in_force", np.bool_),
        ("action", np.int64),  # index into ACTIONS
        ("release_at", np.int64),  # ms; NEVER if the operator must resume
        ("released_measure", np.int64),  # of a counting rule, at its last release: it trips again only above this
        ("beyond_since", np.int64),  # since when equities at last prices are beyond the limit, ms; 0 where they aren't
    ]
)

BREAKER_RULES = record_dtype(  # one row for each measured rule
    [
        ("capital", np.int64),  # money
        ("limit", np.int64),  # 1e-8 of capital for rules of equity, else a count
        ("action", np.int64),  # index into ACTIONS
        ("resume", np.int64),  # index into RESUMPTIONS
        ("pause_ms", np.int64),  # until the release with `after_seconds`
    ]
)


def breaker_rules_of(settings: RiskSettings) -> Rows:
    """Return the rows of BREAKER_RULES that follow from the settings."""
    rules = np.zeros(MEASURED_COUNT, BREAKER_RULES)
    rules["capital"] = int(settings.capital * MONEY)
    rules["pause_ms"] = milliseconds(settings.resume_after_s)
    chosen: list[tuple[int, BreakerAction, Resume]] = [
        (rate_e8(settings.max_daily_loss_fraction), settings.daily_loss_action, settings.daily_loss_resume),
        (rate_e8(settings.max_drawdown_fraction), settings.drawdown_action, settings.drawdown_resume),
        (settings.max_consecutive_losses, settings.consecutive_losses_action, settings.consecutive_losses_resume),
        (settings.max_trades_per_day, settings.trades_per_day_action, settings.trades_per_day_resume),
    ]
    for row, (limit, action, resume) in zip(rules, chosen, strict=True):
        row["limit"], row["action"], row["resume"] = limit, ACTIONS.index(action), RESUMPTIONS.index(resume)
    return rules


@compiled
def breaker_measure(state: Rows, rule: int) -> int:
    """Return the measure of a rule: money lost for the first two rules, a count for the others."""
    now = state[0]
    if rule == _DAILY_LOSS:
        return int(now["day_equity"] - now["equity"])
    if rule == _DRAWDOWN:
        return int(now["peak"] - now["equity"])
    if rule == _LOSING_STREAK:
        return int(now["losses"])
    return int(now["round_trips_today"])


@compiled
def breaker_limit(state: Rows, rules: Rows, rule: int) -> int:
    """Return the measure at which a rule trips.

    A loss limit is a part of capital, or of the equity from which the loss is measured if that is less.
    """
    now, setting = state[0], rules[rule]
    if rule == _DAILY_LOSS:
        return mul_e8_floor(min(setting["capital"], now["day_equity"]), setting["limit"])
    if rule == _DRAWDOWN:
        return mul_e8_floor(min(setting["capital"], now["peak"]), setting["limit"])
    return int(setting["limit"])


@compiled
def _sure_equity(state: Rows) -> int:
    """Return the latest equity; of equities at last prices the middle of three, which one bad print doesn't move."""
    now = state[0]
    if not now["is_at_last"]:
        return int(now["equity"])
    low, high = min(now["before"], now["earlier"]), max(now["before"], now["earlier"])
    return int(max(low, min(high, now["equity"])))


@compiled
def _roll_day(state: Rows, holds: Rows, time: int) -> None:
    """At the first event of a UTC day, restart the measures of the day from the last known equity and 0 round trips."""
    now, day = state[0], time // DAY_MS
    if day > now["day"]:
        now["day"] = day
        now["day_equity"] = _sure_equity(state)
        now["round_trips_today"] = 0
        holds[_TRADES_PER_DAY]["released_measure"] = 0


@compiled
def _release_rule(state: Rows, holds: Rows, rule: int) -> None:
    """Release a rule. A rule of equity then measures from the present equity; a counting rule trips when it grows."""
    now, hold = state[0], holds[rule]
    hold["in_force"] = False
    hold["release_at"] = NEVER
    if rule == _DAILY_LOSS:
        now["day_equity"] = _sure_equity(state)
    elif rule == _DRAWDOWN:
        now["peak"], now["above_since"] = _sure_equity(state), 0
    elif rule != _ON_HOLD:
        hold["released_measure"] = breaker_measure(state, rule)


@compiled
def _release_due_rules(state: Rows, holds: Rows, time: int, by_operator: bool) -> int:
    """Release the rules whose time is reached, or those that wait for the operator; return them as bits."""
    released = 0
    for rule in range(RULE_COUNT):
        hold = holds[rule]
        due = hold["release_at"] == NEVER if by_operator else hold["release_at"] <= time
        if hold["in_force"] and due:
            _release_rule(state, holds, rule)
            released |= 1 << rule
    return released


@compiled
def _raise_peak(state: Rows, time: int, equity: int) -> None:
    """Raise the peak to an equity, to one at last prices as far as it has been above the peak for CONFIRMED_MS."""
    now = state[0]
    if equity <= now["peak"]:
        now["above_since"] = 0
        return
    if now["is_at_last"]:
        if now["above_since"] == 0:
            now["above_since"], now["least_above"] = time, equity
        now["least_above"] = min(now["least_above"], equity)
        if time < now["above_since"] + CONFIRMED_MS:
            return
        equity = now["least_above"]
    now["peak"], now["above_since"] = equity, 0


@compiled
def _note_equity(state: Rows, holds: Rows, equity: int, is_at_last: bool) -> None:
    """Note an equity; one that is certain ends what equities at last prices have begun to show."""
    now = state[0]
    now["before"], now["earlier"] = (now["equity"], now["before"]) if is_at_last else (equity, equity)
    now["equity"], now["is_at_last"] = equity, is_at_last
    if not is_at_last:
        holds[_DAILY_LOSS]["beyond_since"] = holds[_DRAWDOWN]["beyond_since"] = 0


@compiled
def update_measures(state: Rows, holds: Rows, event: int, time: int, amount: int) -> None:
    """Update the measures with an event; TIME, HOLD and RESUME change none."""
    now = state[0]
    if event in (EQUITY, EQUITY_AT_LAST):
        _note_equity(state, holds, amount, event == EQUITY_AT_LAST)
        _raise_peak(state, time, amount)
    elif event == TRANSFER:
        now["equity"] += amount
        now["day_equity"] += amount
        now["peak"] += amount
        now["least_above"] += amount
        now["before"] += amount
        now["earlier"] += amount
    elif event == OPENED:
        now["round_trips_today"] += 1
    elif event == CLOSED and amount < 0:
        now["losses"] += 1
    elif event == CLOSED and amount > 0:
        now["losses"] = 0
        holds[_LOSING_STREAK]["released_measure"] = 0


@compiled
def _put_on_hold(holds: Rows, action: int) -> int:
    """Put the rule ON_HOLD in force; return its bit, or 0 if nothing changed."""
    hold = holds[_ON_HOLD]
    if hold["in_force"] and hold["action"] == action:
        return 0
    hold["in_force"] = True
    hold["action"] = action
    hold["release_at"] = NEVER
    return 1 << _ON_HOLD


@compiled
def _is_confirmed(state: Rows, holds: Rows, rule: int, event: int, time: int) -> bool:
    """Return whether a measure beyond its limit is certain, or valuations at last prices agree for CONFIRMED_MS."""
    hold = holds[rule]
    if rule >= _LOSING_STREAK or not state[0]["is_at_last"]:
        return True
    if hold["beyond_since"] == 0:
        hold["beyond_since"] = time
    return event == EQUITY_AT_LAST and time >= hold["beyond_since"] + CONFIRMED_MS


@compiled
def _trip(state: Rows, holds: Rows, rules: Rows, event: int, time: int) -> int:
    """Trip the rules whose measure reached its limit; return them as bits."""
    tripped = 0
    for rule in range(MEASURED_COUNT):
        hold, setting = holds[rule], rules[rule]
        measure = breaker_measure(state, rule)
        spent = rule >= _LOSING_STREAK and measure <= hold["released_measure"]
        if hold["in_force"] or spent or measure < breaker_limit(state, rules, rule):
            hold["beyond_since"] = 0
            continue
        if not _is_confirmed(state, holds, rule, event, time):
            continue
        hold["beyond_since"] = 0
        hold["in_force"] = True
        hold["action"] = setting["action"]
        if setting["resume"] == _NEXT_UTC_DAY:
            hold["release_at"] = (time // DAY_MS + 1) * DAY_MS
        elif setting["resume"] == _AFTER_SECONDS:
            hold["release_at"] = time + setting["pause_ms"]
        else:
            hold["release_at"] = NEVER
        tripped |= 1 << rule
    return tripped


@compiled
def breaker_step(state: Rows, holds: Rows, rules: Rows, event: int, time: int, amount: int) -> int:
    """Process an event; return the rules that tripped as bits from 0, and those that were released as bits from 8."""
    _roll_day(state, holds, time)
    released = _release_due_rules(state, holds, time, False)
    if event == RESUME:
        released |= _release_due_rules(state, holds, time, True)
    update_measures(state, holds, event, time, amount)
    tripped = _trip(state, holds, rules, event, time)
    if event == HOLD:
        tripped |= _put_on_hold(holds, amount)
    return released << 8 | tripped


BreakerMode = Literal["ACTIVE", "REDUCING", "HALTED"]
MODES: tuple[BreakerMode, ...] = ("ACTIVE", "REDUCING", "HALTED")
_ACTIVE, _REDUCING, _HALTED = range(3)


@compiled
def breaker_mode(holds: Rows) -> int:
    """Return the mode that follows from the rules in force, as an index into MODES."""
    mode = _ACTIVE
    for rule in range(RULE_COUNT):
        hold = holds[rule]
        if hold["in_force"]:
            waits_for_operator = hold["release_at"] == NEVER and not (rule == _ON_HOLD and hold["action"] == 0)
            if hold["action"] == ACTION_FLATTEN or waits_for_operator:
                return _HALTED
            mode = _REDUCING
    return mode


@compiled
def next_possible_trip_time(state: Rows, holds: Rows) -> int:
    """Return the time up to which `equity_floor` holds: the next release of a rule or the next UTC day, ms."""
    return int(min(breaker_next_due(holds), (state[0]["day"] + 1) * DAY_MS))


@compiled
def equity_floor(state: Rows, holds: Rows, rules: Rows) -> int:
    """Return the equity above which a valuation before `next_possible_trip_time` trips no rule.

    A new peak of equity changes it. NEVER means that any valuation may trip a rule.
    """
    now, least = state[0], -NEVER
    for rule in range(MEASURED_COUNT):
        measure, limit = breaker_measure(state, rule), breaker_limit(state, rules, rule)
        if holds[rule]["in_force"] or (rule >= _LOSING_STREAK and measure <= holds[rule]["released_measure"]):
            continue
        if limit <= 0 or (rule >= _LOSING_STREAK and measure >= limit):
            return NEVER
        if rule == _DAILY_LOSS:
            least = max(least, now["day_equity"] - limit)
        elif rule == _DRAWDOWN:
            least = max(least, now["peak"] - limit)
    return int(least)


@compiled
def fill_breaker(inputs: Rows, state: Rows, holds: Rows, rules: Rows) -> None:
    """Write into a row of GATE_INPUTS which rules are in force, and what is left of the day's loss at the row's time.

    On a UTC day without breaker events so far the loss is 0, and the limit follows from the last equity.
    """
    given, setting = inputs[0], rules[_DAILY_LOSS]
    if given["time"] // DAY_MS > state[0]["day"]:
        given["day_left"] = mul_e8_floor(min(setting["capital"], _sure_equity(state)), setting["limit"])
    else:
        given["day_left"] = breaker_limit(state, rules, _DAILY_LOSS) - breaker_measure(state, _DAILY_LOSS)
    given["daily_loss"] = holds[_DAILY_LOSS]["in_force"]
    given["drawdown"] = holds[_DRAWDOWN]["in_force"]
    given["losing_streak"] = holds[_LOSING_STREAK]["in_force"]
    given["trades_per_day"] = holds[_TRADES_PER_DAY]["in_force"]
    given["on_hold"] = holds[_ON_HOLD]["in_force"]


@compiled
def breaker_next_due(holds: Rows) -> int:
    """Return when the next rule is released without the operator, ms; NEVER if none is."""
    due = NEVER
    for rule in range(RULE_COUNT):
        if holds[rule]["in_force"]:
            due = min(due, holds[rule]["release_at"])
    return int(due)


# --- circuit breaker: for reports, the operator and the next run ------------------------------------------------------


def distance_text(code: str, measure: int, limit: int) -> str:
    """Format measure and limit of a rule: money for DAILY_LOSS and DRAWDOWN, counts for the others."""
    if code in COUNTED:
        return f"{measure} of {limit}"
    return f"{money_text(measure)} of {money_text(limit)}"


def distance_label(code: str, measure: int, limit: int, quote: str) -> str:
    """Format measure and limit of a rule with two decimals and the unit."""
    if code in COUNTED:
        return f"{measure} of {limit} round trips"
    return f"{measure / MONEY:,.2f} of {limit / MONEY:,.2f} {quote}"


class CircuitBreaker:
    """Stops new risk when a limit is reached. There is one for the account; times are ms UTC, amounts money.

    A rule trips when its measure reaches its limit, and is in force until it is released: on the next UTC day, after a
    time, or by the operator. Several rules may be in force at once. The modes are:

    - ACTIVE: no rule is in force.
    - REDUCING: only orders that reduce risk. Each rule in force has the action `block` or `cancel` and is released
      without the operator, or is ON_HOLD with the action `block`: by the command `reduce`, or for a caretaker.
    - HALTED: only orders that reduce risk, too. A rule in force has the action `flatten`, or the operator must release
      it.

    The breaker never refuses stops, cancels or reduce-only orders.

    An equity in which a position is valued at the last trade's price trips a rule only once it has been beyond its
    limit for CONFIRMED_MS, by at least two valuations: one bad print closes nothing.

    When a rule of equity is released, its measure restarts from the present equity; otherwise it would trip again at
    once. A count is not reset: the next losing round trip after the pause of a losing streak trips the rule again.

    A transfer must be applied before the first equity that contains it.

    The rules are in `breaker_step` and the functions that it calls. `core_rules` calls it with the same rows; this
    class is for reports, the operator's status and the state of the next run.
    """

    def __init__(
        self, settings: RiskSettings, time: int, equity: int, rows: tuple[Rows, Rows, Rows] | None = None
    ) -> None:
        """Start at a time with an equity.

        `rows` are the arrays to use for state, holds and rules; None means new ones.
        """
        made: tuple[Rows, Rows, Rows]
        made = np.zeros(1, BREAKER_STATE), np.zeros(len(RULES), BREAKER_HOLDS), np.zeros(MEASURED_COUNT, BREAKER_RULES)
        self._state, self._holds, self._rules = rows or made
        self._rules[:] = breaker_rules_of(settings)
        self._holds["release_at"] = NEVER
        self._state["day"] = time // DAY_MS
        for name in ("day_equity", "equity", "peak", "before", "earlier"):
            self._state[name] = equity
        self.reason = ""
        """Reason of the last halt, or of the operator's last command."""

    def apply_event(self, event: int, time: int, amount: int = 0) -> None:
        """Process an event, as `breaker_step` does."""
        breaker_step(self._state, self._holds, self._rules, event, time, amount)

    def advance(self, time: int) -> None:
        """Release the rules that are due at a time, and restart the measures of the day on a new UTC day."""
        uncompiled(breaker_step)(self._state, self._holds, self._rules, TIME, time, 0)

    # rules in force

    @property
    def mode(self) -> BreakerMode:
        return MODES[int(uncompiled(breaker_mode)(self._holds))]

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the rules in force, which are also the codes of their gates."""
        return tuple(code for code, hold in zip(RULES, self._holds, strict=True) if hold["in_force"])

    def distances(self) -> dict[str, tuple[int, int]]:
        """Return (measure, limit) of each rule but ON_HOLD: money of DAILY_LOSS and DRAWDOWN, counts of the others."""
        measure, limit = uncompiled(breaker_measure), uncompiled(breaker_limit)
        return {
            code: (int(measure(self._state, rule)), int(limit(self._state, self._rules, rule)))
            for rule, code in enumerate(RULES[:_ON_HOLD])
        }

    # state for the next run

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {
            **{name: int(self._state[0][name]) for name in BREAKER_STATE.names or ()},
            "holds": {
                code: {name: int(hold[name]) for name in BREAKER_HOLDS.names or ()}
                for code, hold in zip(RULES, self._holds, strict=True)
            },
            "reason": self.reason,
        }

    @classmethod
    def restore(
        cls, settings: RiskSettings, state: Mapping[str, Any], rows: tuple[Rows, Rows, Rows] | None = None
    ) -> CircuitBreaker:
        """Create a breaker from a saved state and settings; this resets no measure and releases no rule.

        A rule or field that the state lacks, since it is newer, begins as in a new breaker. Names that aren't known are
        left aside; where one is a rule in force, the operator must resume. `unlike` tells of both.

        Raises:
            DataError: the state is not a result of `state`, or lacks what nothing stands for; no row is changed then.
        """
        try:
            measured = {name: whole(state[name]) for name in MUST_BE_SAVED}
            breaker, saved = cls(settings, 0, measured["equity"]), state["holds"]
            _read_named(breaker._state[0], BREAKER_STATE, state)
            _read_named(breaker._holds[_ON_HOLD], BREAKER_HOLDS, saved["ON_HOLD"])
            for code, hold in zip(RULES, breaker._holds, strict=True):
                of_rule = saved.get(code, {"in_force": False})  # a rule that is newer than the state
                _read_named(hold, BREAKER_HOLDS, of_rule)
                if "in_force" not in of_rule or not 0 <= hold["action"] < len(ACTIONS):
                    raise ValueError(f"{code} was {of_rule}")
            is_held = any(hold["in_force"] for code, hold in saved.items() if code not in RULES)
            reason = str(state.get("reason", ""))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"circuit breaker: the saved state is broken: {error!r}") from None
        if is_held and not breaker._holds[_ON_HOLD]["in_force"]:
            uncompiled(_put_on_hold)(breaker._holds, ACTIONS.index("block"))
        breaker._use(rows)
        breaker.reason = reason
        return breaker

    def _use(self, rows: tuple[Rows, Rows, Rows] | None) -> None:
        """Keep the state in these rows from now on; None leaves it in its own."""
        if rows is not None:
            for given, own in zip(rows, (self._state, self._holds, self._rules), strict=True):
                given[:] = own
            self._state, self._holds, self._rules = rows

    @staticmethod
    def unlike(state: Mapping[str, Any]) -> str:
        """Return which names a saved state lacks, and which are not known here; empty where it has just ours."""
        holds = state["holds"]
        known = {*(BREAKER_STATE.names or ()), "holds", "reason", *RULES}
        named = {*state, *holds}
        for code in set(RULES) & set(holds):
            known |= {f"{code}.{name}" for name in BREAKER_HOLDS.names or ()}
            named |= {f"{code}.{name}" for name in holds[code]}
        new = f"begins anew, since the saved state lacks it: {', '.join(sorted(known - named))}"
        old = f"left aside, since it isn't known here: {', '.join(sorted(named - known))}"
        return "; ".join(text for text, differs in ((new, known - named), (old, named - known)) if differs)


def _read_named(row: Rows, kind: np.dtype[Any], saved: Mapping[str, Any]) -> None:
    """Read the fields of a row that a saved state has; the others keep their values."""
    for name in kind.names or ():
        if name in saved:
            row[name] = whole(saved[name])


def whole(value: object) -> int:
    """Return a value of a saved state, which must be an int.

    Raises:
        TypeError: the value is not an int.
    """
    if not isinstance(value, int):
        raise TypeError(f"must be a whole number, was {value!r}")
    return value
