"""What snapshots of the account lead to: which differences are told, adjusted or waited for, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.by_hand import leave
from test_core import a_core, a_position, a_snapshot, a_stop
from test_oms import ENTRY, STOP, TARGET, Harness, a_listing, intents
from test_oms import a_snapshot as what_is_held

from voltrade.core import TradingCore
from voltrade.model import (
    Alert,
    AlgoUpdate,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    RoundTrip,
    Side,
    Snapshot,
    StreamStatus,
    TakeSnapshot,
    Timer,
    money,
)


def codes(outputs: list[Output]) -> list[str]:
    return [output.code for output in outputs if isinstance(output, Alert)]


# --- a position that differs is told, whatever else differs -----------------------------------------------------------

LEVERAGE, LOTS, FOREIGN, AGREES = "leverage", "lots", "foreign order", "agrees"
TOLD = {LEVERAGE: "ACCOUNT_MISMATCH", LOTS: "POSITION_MISMATCH"}


def shown(what: tuple[str, ...], time: int, resting: AlgoUpdate) -> Snapshot:
    """A snapshot of an account with 10 lots and their stop, in which these things differ."""
    theirs = replace(resting, client_order_id="theirs") if FOREIGN in what else resting
    account = a_snapshot(time, 9 if LOTS in what else 10)
    return replace(account, leverage=7 if LEVERAGE in what else 5, algo_orders=(resting, theirs))


@pytest.mark.parametrize(
    ("readings", "told_at"),
    [
        ([(LOTS,), (LOTS,), (LOTS,)], [1]),
        ([(LEVERAGE, LOTS), (LEVERAGE, LOTS), (LEVERAGE, LOTS)], [1]),
        ([(LEVERAGE,), (LEVERAGE, LOTS), (LEVERAGE, LOTS)], [2]),
        ([(LEVERAGE,), (LOTS,), (LOTS,), (LOTS,)], [2]),
        ([(FOREIGN,), (FOREIGN,), (FOREIGN, LOTS), (LOTS,), (LOTS,)], [3]),
        ([(LOTS,), (LEVERAGE,), (LOTS,), (LOTS,)], [3]),
        ([(LOTS,), (AGREES,), (LOTS,), (LOTS,), (AGREES,), (LOTS,), (LOTS,)], [3, 6]),
    ],
    ids=str,
)
def test_the_second_reading_in_a_row_with_another_position_is_told_whatever_else_differs(
    readings: list[tuple[str, ...]], told_at: list[int]
) -> None:
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    told = []
    for number, what in enumerate(readings):
        _, outputs = core.handle(shown(what, 1_000 * (number + 1), resting))
        told += [number for code in codes(outputs) if code == "POSITION_MISMATCH"]
    assert told == told_at


def pauses(core: TradingCore, readings: list[Snapshot]) -> list[tuple[int, str]]:
    """Give a core each reading when it asks for it; return the pauses before the next, and why it is asked for."""
    found = []
    for reading in readings:
        core.handle(replace(reading, time=core.time))
        at = core.time
        asked = []
        while not asked:
            _, outputs = core.handle(Timer(core.next_due))
            asked = [output for output in outputs if isinstance(output, TakeSnapshot)]
        found.append((core.time - at, asked[0].reason))
    return found


def test_an_account_whose_settings_differ_is_read_ever_more_seldom() -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    differs = replace(a_snapshot(), leverage=7)
    assert pauses(core, [differs] * 4) == [(pause, "ACCOUNT_MISMATCH") for pause in (1_000, 2_000, 4_000, 8_000)]


def test_a_wallet_that_differs_while_orders_are_looked_up_is_read_ever_more_seldom() -> None:
    """The stop is never listed, so each reading has it looked up, and the wallet can't be explained."""
    core = a_core()
    a_position(core)
    a_stop(core)
    differs = replace(a_snapshot(6, 10), wallet=money(9_999))
    assert pauses(core, [differs] * 3) == [(pause, "WALLET_DIFFERS") for pause in (1_000, 2_000, 4_000)]


def test_an_exit_and_an_entry_of_which_the_journal_has_lost_both_are_named_though_the_positions_agree() -> None:
    """We hold 10 lots from trade 1; since then 10 were sold by order 7 and 10 bought by order 8."""
    core = a_core()
    a_position(core)
    core.handle(replace(a_snapshot(6, 10), algo_orders=(a_stop(core),)))
    [symbol_state] = core.symbol_states.values()
    assert symbol_state.monitor.agreed_trade_id == 0
    sold = OrderUpdate(7, "BTCUSDT", "", 7, Side.SELL, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
    sold = replace(sold, trade_id=2, last_quantity=10, last_price=1_000)
    bought = replace(sold, order_id=8, side=Side.BUY, trade_id=3)
    assert symbol_state.monitor.unknown_orders(replace(a_snapshot(8, 10), fills=(sold, bought))) == [8, 7]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("", [1_000] * 5 + [2_000, 4_000]), ("web_1", [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000])],
    ids=["unnamed", "somebody else's"],
)
def test_lots_whose_order_has_no_name_yet_are_read_again_soon(name: str, expected: list[int]) -> None:
    """They may be ours, from an entry that came late, and have no stop until the order is named."""
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    bought = OrderUpdate(7, "BTCUSDT", name, 8, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
    held = replace(a_snapshot(8, 10), fills=(replace(bought, trade_id=3, last_quantity=10, last_price=1_000),))
    assert pauses(core, [held] * len(expected)) == [(pause, "NOT_AGREED") for pause in expected]


def test_trades_from_before_the_first_session_are_not_named() -> None:
    [symbol_state] = a_core().symbol_states.values()
    old = OrderUpdate(1, "BTCUSDT", "", 7, Side.SELL, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
    old = replace(old, trade_id=2, last_quantity=10, last_price=1_000)
    assert symbol_state.monitor.unknown_orders(replace(a_snapshot(), fills=(old,))) == []


# --- lots that are gone -----------------------------------------------------------------------------------------------


def leaving() -> Harness:
    """A position of 10 lots whose exit was refused, because there was nothing to reduce."""
    harness = Harness().in_position()
    harness.monitor._row["last_price"] = 1_004
    [out] = harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.reply(out.order.client_order_id, "submit", Outcome.REFUSED, -2022)  # type: ignore[union-attr]
    return harness


def read(harness: Harness, *positions: int) -> list[Output]:
    """Give a monitor readings of the account, with its stop and take-profit and these positions."""
    outputs: list[Output] = []
    for position in positions:
        harness.time += 100
        listed = a_listing(harness, STOP, TARGET)
        held = replace(what_is_held(position, **listed), time=harness.time)
        outputs += harness.note(harness.monitor.on_snapshot(held))
    return outputs


@pytest.mark.parametrize(
    ("positions", "are_gone"),
    [
        ([0, 0, 0], True),
        ([0, 0], False),
        ([0, 0, 10, 0], False),
        ([0, 0, 4, 0], False),
        ([0, 0, 12, 0], False),
        ([0, 0, 10, 0, 0, 0], True),
    ],
    ids=str,
)
def test_lots_are_gone_where_three_readings_in_a_row_agree_on_it(positions: list[int], are_gone: bool) -> None:
    harness = leaving()
    assert ("POSITION_ADJUSTED" in codes(read(harness, *positions))) == are_gone
    assert harness.monitor.position == (0 if are_gone else 10)


def test_lots_that_are_gone_have_the_profit_that_our_books_have() -> None:
    """The exchange names none, since there is no trade: 10 lots from 1,000 to the last price of 1,004."""
    harness = leaving()
    outputs = read(harness, 0, 0, 0)
    profit = 10 * 4 * harness.monitor.instrument.money_per_ticklot
    assert harness.monitor._row["realised_last"] == profit > 0
    assert harness.monitor._position_row["realised"] == profit
    for name in (STOP, TARGET):
        outputs += harness.reply(name, "cancel", Outcome.ACCEPTED)
    [trip] = [output for output in outputs if isinstance(output, RoundTrip)]
    assert (trip.realised, trip.net) == (profit, profit)


# --- orders that have one name ----------------------------------------------------------------------------------------


def test_two_deleveragings_of_one_position_are_two_orders_of_it() -> None:
    """The exchange calls both `adl_autoclose`."""
    harness = Harness().in_position()
    for order_id, lots in ((9_001, 4), (9_002, 3)):
        fill = harness.update(STOP, "FILLED", lots, order_id=order_id, client_order_id="adl_autoclose")
        harness.note(harness.monitor.on_order(replace(fill, quantity=lots, filled=lots)))
    position = harness.monitor.open_position
    assert position is not None
    assert [(order.row.order_id, order.filled) for order in position.orders if order.row.is_foreign] == [
        (9_001, 4),
        (9_002, 3),
    ]
    assert len({order.id for order in position.orders}) == len(position.orders)
    assert harness.monitor.position == 3


# --- no row is free ---------------------------------------------------------------------------------------------------


def full() -> tuple[Harness, OrderUpdate, AlgoUpdate]:
    """A position with every row in use; late news of its entry and of a stop, both of the round trip before."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.canceled(harness.order("vt-e-1x1", "FILLED", 10))
    assert not harness.monitor.in_round_trip
    late = harness.update("vt-e-1e1", "FILLED", 2, order_id=100)
    stop = AlgoUpdate(harness.time, "BTCUSDT", STOP, 7, Side.SELL, *_stop_of(harness))
    harness.monitor._row["order_count"] = len(harness.monitor._order_rows)
    return harness, late, stop


def _stop_of(harness: Harness) -> tuple[Any, ...]:
    order = harness.sent[STOP].order
    return order.order_type, "CANCELED", order.quantity, order.trigger_price


@pytest.mark.parametrize("kind", ["fill", "stop"])
def test_news_of_our_order_for_which_no_row_is_free_is_told_and_the_account_read(kind: str) -> None:
    harness, late, stop = full()
    outputs = harness.monitor.on_order(late) if kind == "fill" else harness.monitor.on_algo(stop)
    assert codes(outputs) == ["TOO_MANY_ORDERS"]
    assert not harness.monitor.reconciled
    assert harness.monitor._row["snapshot_at"] <= harness.time + 1_000
    assert harness.monitor.is_new_fill(late), "counted by a snapshot, once a row is free"


# --- trades of an order whose outcome is unknown ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ours"), [("", 10), ("theirs", 0)])
def test_a_trade_that_has_another_name_is_not_that_of_our_unknown_order(name: str, ours: int) -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.UNKNOWN)
    fill = harness.update(ENTRY, "FILLED", 10, client_order_id=name)
    harness.note(harness.monitor.on_snapshot(what_is_held(10, fills=(fill,))))
    assert (harness.monitor.position, STOP in harness.sent) == (ours, ours > 0)


# --- foreign trades while an order of ours is unknown -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["autoclose-7", "web_1", ""])
def test_a_trade_of_another_name_is_foreign_though_the_outcome_of_our_exit_is_not_known(name: str) -> None:
    """4 of 10 lots were sold while our exit was on its way: without a name they are taken for its."""
    harness = Harness().in_position()
    [out] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    harness.reply(out.order.client_order_id, "submit", Outcome.UNKNOWN)
    sold = harness.update(STOP, "FILLED", 4, order_id=9_001, client_order_id=name)
    harness.note(harness.monitor.on_snapshot(what_is_held(6, fills=(sold,), **a_listing(harness, STOP, TARGET))))
    position = harness.monitor.open_position
    assert position is not None
    assert [order.filled for order in position.orders if order.row.is_foreign] == ([4] if name else [])
    assert harness.monitor.position == 6
