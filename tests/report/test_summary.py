"""Frames, statistics and tables say what the facts say, to the last digit that people see."""

from __future__ import annotations

import json
import math
import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from support.builders import an_instrument
from support.made_run import MadeRun, made_run

from voltrade.config import Config
from voltrade.errors import JournalError
from voltrade.journal import Journal
from voltrade.model import (
    MONEY,
    AlgoUpdate,
    CancelOrder,
    EquityPoint,
    Instrument,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Purpose,
    Refusal,
    Reply,
    ResumeState,
    RoundTrip,
    Side,
    Snapshot,
)
from voltrade.notebook import review_tables
from voltrade.report import summary
from voltrade.report.collector import Collector, frames_of_facts
from voltrade.report.decision_reasons import reasons
from voltrade.report.frames import Frames
from voltrade.report.run_reader import RunReader, save_frames
from voltrade.report.statistics import Held, statistics
from voltrade.report.text_table import readable
from voltrade.risk import CLOSED, EQUITY, OPENED, CircuitBreaker

TENTH = an_instrument("XUSDT", tick="0.1", step="0.01")
"""A tick of 0.1 and a lot of 0.01: a ticklot is 0.001 USDT."""

MINUTE = 60_000
NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC


def a_bar(number: int, close: int, **other: Any) -> dict[str, Any]:
    """A bar of one minute and 10 coins."""
    bar = {
        "day": 20_454, "number": number,
        "open_time": NOON + number * MINUTE, "close_time": NOON + (number + 1) * MINUTE, "first_trade_id": 1,
        "last_trade_id": 9, "open": close, "high": close, "low": close, "close": close,
        "volume": 1_000, "taker_buy_volume": 400, "notional": 1_000 * close, "trade_count": 9, "close_reason": 1,
        "tainted": False, "decision": {"ready": True, "signal": 0, "rsi": 50.0, "ema_cross": 0},
    }  # fmt: skip
    return {**bar, **other}


def an_intent(name: str, purpose: Purpose, side: Side, quantity: int, bar: int = -1, trigger: int = 0) -> OrderIntent:
    kinds = {Purpose.STOP: OrderType.STOP_MARKET, Purpose.TAKE_PROFIT: OrderType.TAKE_PROFIT_MARKET}
    kind = kinds.get(purpose, OrderType.MARKET)
    return OrderIntent(
        NOON, OrderRequest("XUSDT", name, side, kind, quantity, trigger_price=trigger), purpose, 1, "", bar
    )


def a_fill(name: str, trade_id: int, side: Side, price: int, quantity: int, **other: Any) -> OrderUpdate:
    update = OrderUpdate(
        NOON + trade_id * 1000, "XUSDT", name, 70, side, OrderType.MARKET, "FILLED", "TRADE", quantity, quantity,
        trade_id=trade_id, last_quantity=quantity, last_price=price, fee=5 * MONEY, fee_asset="USDT",
    )  # fmt: skip
    return replace(update, **other)


def a_trip(number: int, net: int, opened: int = NOON, closed: int = NOON + MINUTE, **other: Any) -> RoundTrip:
    """A long round trip of 1 coin from 100.0, its stop at 98.0; `net` in USDT, after fees of 5."""
    trip = RoundTrip(
        number, "XUSDT", Side.BUY, opened, closed, 0, 100, 100_000, 100_000,
        (net + 5) * MONEY, 5 * MONEY, 0, net * MONEY, "STOP", 980, 1_040,
    )  # fmt: skip
    return replace(trip, **other)


def equity_of(amounts: list[float], step_ms: int = MINUTE) -> list[EquityPoint]:
    return [
        EquityPoint(NOON + number * step_ms, "XUSDT", int(a * MONEY), 0, int(a * MONEY), 0, "mark")
        for number, a in enumerate(amounts)
    ]


def run_of(*facts: object, bars: list[dict[str, Any]] | None = None) -> Frames:
    return frames_of_facts(TENTH, bars or [], facts)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_bars_are_in_natural_units_at_their_close() -> None:
    run = run_of(bars=[a_bar(0, 1_003), a_bar(1, 3, close_reason=2, tainted=True)])
    first, second = run.bars.iloc[0], run.bars.iloc[1]
    assert run.bars.index[0] == pd.Timestamp("2026-01-01 12:01", tz="UTC")
    assert (first["close"], first["volume"], first["notional"]) == (100.3, 10.0, 1003.0)
    assert first["bar_vwap"] == 100.3
    assert first["duration_s"] == 60
    assert second["close"] == 0.3  # 3 x 0.1 in floats is 0.30000000000000004
    assert (second["close_reason"], second["tainted"], second["bar"]) == ("DAY_END", True, 1)


def test_every_bar_has_its_decision_and_what_became_of_its_signal() -> None:
    decision = {"ready": True, "rsi": 61.5, "ema_cross": 1}
    run = run_of(
        Refusal(NOON, "XUSDT", 1, Side.SELL, "COOLDOWN", "wait"),
        an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=2),
        bars=[
            a_bar(0, 1_000),
            a_bar(1, 1_000, decision={**decision, "signal": -1}),
            a_bar(2, 1_000, decision={**decision, "signal": 1}),
        ],
    )
    assert run.decisions["signal"].to_list() == ["", "SELL", "BUY"]
    assert run.decisions["outcome"].to_list() == ["", "refused: COOLDOWN", "entry PENDING_SUBMIT"]
    assert run.decisions["rsi"].to_list() == [50.0, 61.5, 61.5]


@pytest.mark.parametrize(
    ("signal", "why"), [(1, "rsi_long no"), (-1, "vwap_short no"), (0, "rsi_long no · vwap_short no")]
)
def test_a_signal_tells_only_of_the_filters_of_its_side(signal: int, why: str) -> None:
    """A SELL told that `vwap_long` had said no, which a SELL does not ask."""
    filters = {"rsi_long": False, "rsi_short": True, "vwap_long": True, "vwap_short": False}
    run = run_of(
        bars=[a_bar(0, 1_000, decision={"ready": True, "signal": signal, "ema_cross": signal or 1, **filters})]
    )
    assert reasons(run.decisions) == [f"ema_cross {signal or 1:+d} · {why}"]


def test_slippage_is_what_the_fills_brought_against_the_decision_and_a_cost_is_negative() -> None:
    """Fault case I13."""
    run = run_of(
        an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0),
        a_fill("e", 1, Side.BUY, 1_001, 60, status="PARTIALLY_FILLED"),
        a_fill("e", 2, Side.BUY, 1_004, 40, filled=100),
        an_intent("s", Purpose.STOP, Side.SELL, 100, trigger=980),
        a_fill("s", 3, Side.SELL, 975, 100, order_id=71),
        an_intent("x", Purpose.EXIT, Side.SELL, 100),
        a_fill("x", 4, Side.SELL, 990, 100, order_id=72),
        bars=[a_bar(0, 1_000)],
    )
    entry, stop, leave = (run.orders.iloc[n] for n in range(3))
    # 0.6 coins 0.1 above the close of 100.0, 0.4 coins 0.4 above: 0.06 + 0.16
    assert entry["slippage"] == -0.22
    assert entry["average_price"] == 100.22
    assert entry["fees"] == -10
    assert run.fills["fee"].to_list() == [-5] * 4
    assert stop["slippage"] == -0.5  # 1 coin sold 0.5 below the trigger of 98.0
    assert math.isnan(leave["slippage"])  # no bar and no trigger to measure from


@pytest.mark.parametrize("reason", ["OPPOSITE_SIGNAL", "DAILY_LOSS", "TIME"])
def test_a_market_exit_slips_from_the_newest_bar_at_its_decision(reason: str) -> None:
    """Every market exit was counted as none: 4 bps of assumed slippage showed as less than nothing."""
    exit_order = replace(an_intent("x", Purpose.EXIT, Side.SELL, 100), time=NOON + 3 * MINUTE - 1, reason=reason)
    run = run_of(
        an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0),
        a_fill("e", 1, Side.BUY, 1_001, 100),
        exit_order,
        a_fill("x", 2, Side.SELL, 1_018, 100, order_id=72),
        bars=[a_bar(0, 1_000), a_bar(1, 1_020), a_bar(2, 5_000)],  # the last one closes after the decision
    )
    assert run.orders["reference_price"].to_list() == [100.0, 102.0]
    assert run.orders["slippage"].to_list() == [-0.1, -0.2]
    assert "note" not in summary.costs(run)


def test_what_has_no_reference_price_is_counted_and_said() -> None:
    run = run_of(
        a_fill("somebody's", 1, Side.SELL, 990, 100, order_id=72),
        an_intent("x", Purpose.EXIT, Side.SELL, 100),
        a_fill("x", 2, Side.SELL, 990, 100, order_id=73),
        a_trip(1, net=3),
        bars=[a_bar(0, 1_000)],  # closes after both
    )
    assert summary.costs(run).loc["slippage", "note"] == "2 orders without a reference price"
    figures = statistics(run)
    assert figures.without_reference == 2
    assert figures.table().loc["slippage (inside realised)", "value"] == "-, 2 orders without a reference price"


@pytest.mark.parametrize(
    ("side", "price", "slippage"),
    [
        (Side.BUY, 1_002, -0.2),  # 1 coin bought 0.2 above the close of 100.0
        (Side.BUY, 999, 0.1),
        (Side.SELL, 998, -0.2),
        (Side.SELL, 1_001, 0.1),
    ],
)
def test_slippage_has_one_sign_wherever_it_stands(side: Side, price: int, slippage: float) -> None:
    """Fault case I13: it was a cost in one table and a gain in the next."""
    run = run_of(
        an_intent("e", Purpose.ENTRY, side, 100, bar=0),
        a_fill("e", 1, side, price, 100),
        a_trip(1, net=3, realised=8 * MONEY),
        bars=[a_bar(0, 1_000, decision={"signal": side.value})],
    )
    assert run.orders["slippage"].to_list() == [slippage]
    amounts = summary.costs(run)["amount"]
    assert amounts["slippage"] == slippage
    assert amounts["price moves, at decision prices"] == 8 - slippage
    figures = statistics(run)
    assert figures.slippage == slippage
    assert figures.table().loc["slippage (inside realised)", "value"] == f"{slippage:+.2f} USDT"
    assert review_tables.signal_table(run)["slippage"].to_list() == [slippage]


def test_a_fill_counts_once_however_often_it_is_told() -> None:
    fill = a_fill("e", 1, Side.BUY, 1_000, 100)
    told = [an_intent("e", Purpose.ENTRY, Side.BUY, 100), fill, fill, replace(fill, client_order_id="", fee=0)]
    run = run_of(*told)
    assert len(run.fills) == len(run.orders) == 1
    assert run.orders["fees"].to_list() == [-5]


ENTRY = an_intent("e", Purpose.ENTRY, Side.BUY, 100)
STOP = an_intent("s", Purpose.STOP, Side.SELL, 100, trigger=980)
FILLED = a_fill("e", 1, Side.BUY, 1_000, 100)
SOLD = a_fill("s", 1, Side.SELL, 975, 100, order_id=71)


def an_answer(outcome: Outcome, name: str = "e", code: int = 0, **other: Any) -> Reply:
    return Reply(NOON, other.pop("action", "submit"), "XUSDT", name, name == "s", outcome, code, **other)


def an_algo(status: str, order_id: int = 0) -> AlgoUpdate:
    return AlgoUpdate(NOON, "XUSDT", "s", 9, Side.SELL, OrderType.STOP_MARKET, status, 100, 980, order_id)


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ([ENTRY], "PENDING_SUBMIT"),
        ([ENTRY, an_answer(Outcome.ACCEPTED), FILLED], "FILLED"),
        ([ENTRY, FILLED, replace(FILLED, status="NEW", trade_id=0, filled=0)], "FILLED"),  # late news
        ([ENTRY, an_answer(Outcome.REFUSED, code=-2019, text="Margin is insufficient.")], "REJECTED"),
        ([ENTRY, an_answer(Outcome.UNKNOWN, text="timed out")], "UNKNOWN"),
        ([ENTRY, an_answer(Outcome.UNKNOWN), FILLED], "FILLED"),
        ([ENTRY, FILLED, an_answer(Outcome.UNKNOWN)], "FILLED"),
        ([ENTRY, an_answer(Outcome.UNKNOWN), an_answer(Outcome.REFUSED, code=-2013, action="lookup")], "NOT_PLACED"),
        ([ENTRY, replace(FILLED, status="EXPIRED_IN_MATCH", trade_id=0)], "EXPIRED"),
        ([STOP, an_answer(Outcome.ACCEPTED, "s", algo_order=an_algo("NEW"))], "NEW"),
        ([STOP, an_algo("NEW"), an_algo("CANCELED")], "CANCELED"),
        ([STOP, an_algo("NEW"), an_algo("TRIGGERED", 71)], "TRIGGERED"),  # which is not filled
        ([STOP, an_algo("TRIGGERED", 71), SOLD, an_algo("FINISHED")], "FILLED"),
        ([STOP, an_algo("FINISHED", 71), replace(SOLD, client_order_id="other")], "FILLED"),
    ],
)  # fmt: skip
def test_an_order_is_in_the_state_that_the_news_leave_it_in(facts: list[object], status: str) -> None:
    run = run_of(*facts)
    assert run.orders["status"].to_list() == [status]


def test_orders_keep_the_exchanges_words() -> None:
    refused = run_of(ENTRY, an_answer(Outcome.REFUSED, code=-2019, text="Margin is insufficient."))
    assert refused.orders[["code", "text"]].to_numpy().tolist() == [[-2019, "Margin is insufficient."]]
    cancelled = run_of(STOP, CancelOrder(NOON, "XUSDT", "s", True, "RESIZED"), an_algo("CANCELED"))
    assert cancelled.orders["text"].to_list() == ["RESIZED"]


@pytest.mark.parametrize("is_algo", [False, True])
def test_a_fill_that_the_account_told_of_first_is_the_orders_whose_number_it_bears(is_algo: bool) -> None:
    """The list of an account's trades knows no client ids: the stop's fill stood there as somebody else's too."""
    fill = a_fill("", 5, Side.SELL, 1_000, 100, order_id=88)
    snapshot = Snapshot(NOON, "XUSDT", 0, 0, 0, 0, 5, "isolated", False, PositionReport("XUSDT", 0, "0"), fills=(fill,))
    named = an_algo("TRIGGERED", order_id=88) if is_algo else replace(fill, client_order_id="s")
    run = run_of(STOP, snapshot, named)
    assert run.orders["client_order_id"].to_list() == ["s"]
    assert run.orders["average_price"].to_list() == [run.fills["price"].iloc[0]]
    assert run.fills[["client_order_id", "purpose"]].to_numpy().tolist() == [["s", "STOP"]]


def test_a_snapshot_tells_of_orders_and_fills_that_nobody_here_sent() -> None:
    foreign = a_fill("", 5, Side.SELL, 1_000, 100, order_id=88)
    position = PositionReport("XUSDT", -100, "100.0")
    snapshot = Snapshot(NOON, "XUSDT", 0, 0, 0, 0, 5, "isolated", False, position, fills=(foreign, foreign))
    run = run_of(snapshot)
    assert run.orders[["client_order_id", "purpose", "round_trip"]].to_numpy().tolist() == [["#88", "FOREIGN", -1]]
    assert len(run.fills) == 1


def test_round_trips_measure_their_result_in_what_the_stop_would_have_cost() -> None:
    run = run_of(a_trip(1, net=3))
    trip = run.round_trips.iloc[0]
    assert (trip["side"], trip["entry_price"], trip["stop_price"], trip["minutes"]) == ("LONG", 100.0, 98.0, 1.0)
    assert (trip["realised"], trip["fees"], trip["net"]) == (8, -5, 3)
    assert trip["r_multiple"] == 3 / 7  # net 3 over 1 coin x (100 - 98) and 5 of fees


@pytest.mark.parametrize("side", Side)
def test_a_stop_that_fills_at_its_trigger_loses_one_r(side: Side) -> None:
    """Fault case I15: fees are in the net, so they are in R."""
    run = run_of(a_trip(1, net=-7, side=side, stop_price=1_000 - 20 * side.value))  # 1 coin x 2, and 5 of fees
    assert run.round_trips["r_multiple"].to_list() == [-1.0]


def test_where_rebates_outweigh_the_stop_there_is_no_r() -> None:
    """A part of less than nothing would turn the sign of every result."""
    run = run_of(a_trip(1, net=8, fees=-3 * MONEY))  # 1 coin x 2, less a rebate of 3
    assert run.round_trips["r_multiple"].isna().to_list() == [True]


def test_drawdown_is_measured_from_the_highest_equity_so_far() -> None:
    run = run_of(*equity_of([100, 120, 90, 130]))
    assert run.equity["drawdown"].to_list() == [0, 0, -30, 0]


def test_an_empty_run_has_every_frame_with_its_columns_and_types() -> None:
    empty, made = run_of(), made_run(an_instrument())
    full = frames_of_facts(made.instrument, made.bars, made.facts)
    for part in fields(Frames):
        if part.name not in ("instrument", "beginning", "decisions", "alerts"):
            expected = getattr(full, part.name).dtypes
            pd.testing.assert_series_equal(getattr(empty, part.name).dtypes, expected)
    figures = statistics(empty)
    assert (figures.bars, figures.round_trips, figures.net) == (0, 0, 0)
    assert math.isnan(figures.win_rate)
    assert len(figures.table()) == len(statistics(full).table())
    assert summary.refusals_by_code(empty).empty
    assert summary.breaker_distances(empty, Config().risk).empty


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_news_told_twice_change_nothing(seed: int) -> None:
    once = MADE.facts
    chance = random.Random(seed)
    twice = [
        fact for fact in once for _ in range(1 + (isinstance(fact, OrderUpdate | AlgoUpdate) and chance.random() < 0.3))
    ]
    again = frames_of_facts(MADE.instrument, MADE.bars, twice)
    pd.testing.assert_frame_equal(again.orders, WHOLE.orders)
    pd.testing.assert_frame_equal(again.fills, WHOLE.fills)


MADE = made_run(an_instrument(), bar_count=120)
WHOLE = frames_of_facts(MADE.instrument, MADE.bars, MADE.facts)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    hour = 60 * MINUTE
    run = run_of(
        *equity_of([1_000, 1_010, 990, 1_002], step_ms=hour),
        an_intent("e", Purpose.ENTRY, Side.BUY, 100),
        a_fill("e", 1, Side.BUY, 1_000, 100, time=NOON + hour),
        an_intent("x", Purpose.EXIT, Side.SELL, 100),
        a_fill("x", 2, Side.SELL, 1_000, 100, time=NOON + hour + 45 * MINUTE, order_id=71),
        a_trip(1, net=12, closed=NOON + hour),
        a_trip(2, net=-6, closed=NOON + 2 * hour),
        a_trip(3, net=-4, closed=NOON + 2 * hour, side=Side.SELL),
        a_trip(4, net=0, closed=NOON + 2 * hour),
    )
    figures = statistics(run)
    assert figures.days == 3 / 24
    assert (figures.round_trips, figures.long_trips, figures.short_trips) == (4, 3, 1)
    assert figures.win_rate == 1 / 4
    assert figures.profit_factor == 12 / 10
    assert (figures.net, figures.realised, figures.fees) == (2, 22, -20)
    assert figures.equity_change == 2
    assert figures.max_drawdown == -20  # 1010 to 990
    assert figures.max_drawdown_part == -20 / 1010
    assert figures.exposure == 45 / 180
    assert figures.turnover == 200  # 1 coin bought and sold at 100.0
    assert (figures.average_win, figures.average_loss) == (12, -5)
    assert figures.table().loc["round trips (long / short)", "value"] == "4 (3 / 1)"


def test_a_cost_has_one_sign_in_every_table() -> None:
    """Fault case I13: fees were positive in one table and negative in the next. A rebate is no cost."""
    for fees, sign in ((5, -1), (-3, 1), (0, 0)):
        run = run_of(
            an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0),
            replace(a_fill("e", 1, Side.BUY, 1_002, 100), fee=fees * MONEY),
            a_trip(1, net=3, realised=(3 + fees) * MONEY, fees=fees * MONEY),
            bars=[a_bar(0, 1_000)],
        )
        told = [run.fills["fee"], run.orders["fees"], run.round_trips["fees"]]
        amounts = [*(float(column.sum()) for column in told), statistics(run).fees]
        amounts.append(float(summary.costs(run).loc["fees", "amount"]))
        assert amounts == [sign * abs(fees)] * 5
        trip = run.round_trips.iloc[0]
        assert trip["net"] == trip["realised"] + trip["fees"] + trip["funding"]
        assert all(math.copysign(1, amount) == 1 for amount in amounts if not amount)  # nothing shows as -0.00


def test_costs_lead_from_the_decision_to_the_net() -> None:
    run = run_of(
        an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0),
        a_fill("e", 1, Side.BUY, 1_002, 100),
        a_trip(1, net=3, funding=1 * MONEY, realised=7 * MONEY),
        bars=[a_bar(0, 1_000)],
    )
    amounts = summary.costs(run)["amount"]
    assert amounts.to_dict() == {
        "price moves, at decision prices": 7.2,  # 7 realised, after 1 coin was bought 0.2 too dear
        "slippage": -0.2,
        "realised": 7,
        "fees": -5,
        "funding": 1,
        "net": 3,
    }


def test_what_is_still_held_is_in_no_cost_of_round_trips_and_is_told_beside_them() -> None:
    """A second position of 2 coins, bought 0.5 above its decision for a fee of 0.1, stands 3 lower at the end."""
    held = replace(an_intent("f", Purpose.ENTRY, Side.BUY, 200, bar=0), round_trip=2)
    closed = (
        an_intent("e", Purpose.ENTRY, Side.BUY, 100, bar=0),
        a_fill("e", 1, Side.BUY, 1_002, 100),
        a_trip(1, net=3, realised=8 * MONEY),
    )
    still = (
        held,
        replace(a_fill("f", 2, Side.BUY, 1_005, 200, order_id=72), fee=MONEY // 10),
        EquityPoint(NOON, "XUSDT", 10_002 * MONEY, -3 * MONEY, 9_999 * MONEY, 200, "mark"),
    )
    bars = [a_bar(0, 1_000)]
    before, after = (summary.costs(run_of(*facts, bars=bars)) for facts in (closed, (*closed, *still)))
    pd.testing.assert_frame_equal(before, after)
    found = statistics(run_of(*closed, *still, bars=bars))
    assert found.slippage == -0.2
    assert found.held == Held(2.0, -3.0, -0.1, "X", "USDT")
    assert found.table().loc["position at the end", "value"] == "+2 X, unrealised -3.00, fees -0.10 USDT"
    assert statistics(run_of(*closed, bars=bars)).table().loc["position at the end", "value"] == "none"


def test_a_large_position_is_told_to_its_last_lot() -> None:
    assert str(Held(1_234_567.891, 1.0, -2.0, "DOGE", "USDT")).startswith("+1,234,567.891 DOGE, ")
    assert str(Held(-(0.1 + 0.2), 1.0, -2.0, "BTC", "USDT")).startswith("-0.3 BTC, ")


def test_round_trips_are_summed_up_by_what_ended_them() -> None:
    run = run_of(
        a_trip(1, net=12, closed=NOON + 2 * MINUTE, exit_reason="TAKE_PROFIT"),
        a_trip(2, net=-6, closed=NOON + 3 * MINUTE, exit_reason="STOP"),
        a_trip(3, net=-4, closed=NOON + 5 * MINUTE, exit_reason="STOP"),
    )
    table = summary.round_trips_by_exit(run)
    assert table.index.tolist() == ["STOP", "TAKE_PROFIT"]
    assert table.loc["STOP", ["count", "winners", "net", "minutes"]].tolist() == [2, 0, -10, 4]
    assert table.loc["TAKE_PROFIT", ["count", "winners", "net", "minutes"]].tolist() == [1, 1, 12, 2]
    assert summary.round_trips_by_exit(run_of()).empty


def test_refusals_are_counted_by_code() -> None:
    codes = ["COOLDOWN", "IN_POSITION", "IN_POSITION"]
    run = run_of(*[Refusal(NOON, "XUSDT", n, Side.BUY, code, f"{n}") for n, code in enumerate(codes)])
    table = summary.refusals_by_code(run)
    assert table["count"].to_dict() == {"IN_POSITION": 2, "COOLDOWN": 1}
    assert table.loc["IN_POSITION", "for example"] == "2"


def test_breaker_distances_are_the_breakers_own() -> None:
    run = run_of(
        *equity_of([10_000, 10_100, 9_850]),
        an_intent("e", Purpose.ENTRY, Side.BUY, 100),
        a_fill("e", 1, Side.BUY, 1_000, 50),
        a_fill("e", 2, Side.BUY, 1_000, 50),
        a_trip(1, net=-4),
    )
    table = summary.breaker_distances(run, Config().risk)
    # capital 10,000: 3 % a day, 10 % from the peak; day's equity began at 10,000
    assert table.index.to_list() == ["DAILY_LOSS", "DRAWDOWN", "LOSING_STREAK", "TRADES_PER_DAY"]
    assert table["measure"].to_list() == [150, 250, 1, 1]
    assert table["limit"].to_list() == [300, 1_000, 5, 50]
    assert table.loc["DAILY_LOSS", ["left", "used"]].to_list() == [150, 0.5]


def a_snapshot(wallet: int, *fills: OrderUpdate, time: int = NOON) -> Snapshot:
    flat = PositionReport("XUSDT", 0, "0", 0, 5, "isolated")
    return Snapshot(
        time, "XUSDT", wallet * MONEY, wallet * MONEY, 50_000, 20_000, 5, "isolated", False, flat, fills=fills
    )


def left_behind(equity: int, day_equity: int, losses: int, trades: int) -> ResumeState:
    """What a run of the same day left on the account, in USDT."""
    breaker = CircuitBreaker(Config().risk, NOON - MINUTE, day_equity * MONEY)
    for fact, amount in [(EQUITY, equity * MONEY), *trades * [(OPENED, 0)], *losses * [(CLOSED, -1)]]:
        breaker.apply_event(fact, NOON - MINUTE, amount)
    return ResumeState(NOON, json.dumps({"breaker": breaker.state()}), "")


def test_the_limits_of_a_second_session_begin_with_what_the_first_one_left() -> None:
    run = run_of(
        left_behind(9_830, day_equity=10_000, losses=4, trades=9),
        a_snapshot(9_830),
        an_intent("e", Purpose.ENTRY, Side.BUY, 100),
        a_fill("e", 1, Side.BUY, 1_000, 100),
        a_trip(1, net=-60),
        *equity_of([9_830, 9_770, 9_780]),
    )
    table = summary.breaker_distances(run, Config().risk)
    assert table["measure"].to_list() == [220, 220, 5, 10]
    assert table.loc["DAILY_LOSS", "most used"] == pytest.approx(230 / 300)


def test_the_limits_show_where_a_rule_stands_and_the_nearest_it_came() -> None:
    trips = [a_trip(n, net=-1, closed=NOON + n * MINUTE) for n in range(1, 6)]
    run = run_of(*equity_of([10_000]), *trips, a_trip(6, net=3, closed=NOON + 9 * MINUTE))
    table = summary.breaker_distances(run, Config().risk)
    assert table.loc["LOSING_STREAK", ["used", "most used"]].to_list() == [0.0, 1.0]


def test_what_was_before_a_run_is_the_accounts_past() -> None:
    past, own = a_fill("", 1, Side.SELL, 1_000, 30, order_id=7), a_fill("e", 60, Side.BUY, 1_000, 10)
    by_others = a_fill("", 90, Side.BUY, 1_000, 20, order_id=8)
    later = [past, by_others]
    bars = [a_bar(n, 1_000, decision={"ready": True, "signal": 1}) for n in (-2, -1, 0, 1)]
    run = run_of(
        Refusal(NOON - MINUTE, "XUSDT", 0, Side.BUY, "NOT_RECONCILED", ""),
        left_behind(9_830, day_equity=10_000, losses=0, trades=0),
        a_snapshot(9_830, replace(past, time=NOON - 1)),
        an_intent("e", Purpose.ENTRY, Side.BUY, 10),
        own,
        a_snapshot(9_825, *[replace(fill, time=fill.time - 2_000) for fill in later], time=NOON + 2 * MINUTE),
        *equity_of([9_825]),
        bars=bars,
    )
    assert run.fills["trade_id"].to_list() == [60, 90]
    assert run.orders["client_order_id"].to_list() == ["e", "#8"]
    assert run.refusals.empty
    figures = statistics(run)
    assert (figures.bars, figures.signals, figures.refusals) == (3, 3, 0)
    assert figures.turnover == pytest.approx(30.0)
    assert figures.equity_change == -5  # from what the account had when the run began


def test_settings_show_what_differs_from_the_defaults() -> None:
    table = summary.settings_table(Config.from_parameters(ema_fast=5))
    assert table.index.to_list() == list(Config.model_fields)
    assert table.loc["signals", "not the default"] == "ema_fast 5 (default 8)"
    assert "ema_slow 21" in table.loc["signals", "parameters"]
    assert table.loc["risk", "not the default"] == ""


def test_orders_are_counted_by_what_became_of_them() -> None:
    table = summary.orders_by_status(run_of(ENTRY, FILLED, STOP, an_algo("CANCELED")))
    assert table.loc["ENTRY"].to_dict() == {"CANCELED": 0, "FILLED": 1}
    assert table.loc["STOP"].to_dict() == {"CANCELED": 1, "FILLED": 0}


def test_frames_are_written_for_people() -> None:
    run = run_of(a_trip(1, net=3, take_profit_price=0))
    table = readable(run.round_trips, drop=["bar"])
    row = table.iloc[0]
    assert table.index.to_list() == ["2026-01-01 12:01:00"]
    assert (row["opened, UTC"], row["stop_price"], row["take_profit_price"], row["net"]) == (
        "2026-01-01 12:00:00",
        "98",
        "",
        "3",
    )
    assert "bar" not in table
    assert readable(run_of().breaker).empty


# --- a run on disk ---------------------------------------------------------------------------------------------------


def write(journal: Journal, made: MadeRun, rows: slice) -> None:
    for time, body in made.rows[rows]:
        if isinstance(body, dict):
            journal.append("Bar", time, body)
        else:
            journal.append_fact(body, time)
    journal.commit()


def a_journal(folder: Path) -> Journal:
    journal = Journal.create(folder / "run" / "journal.db")
    journal.append("Start", 0, {"instrument": TypeAdapter(Instrument).dump_python(MADE.instrument, mode="json")})
    journal.commit()
    return journal


def test_a_running_journal_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    reader = RunReader(tmp_path / "run")
    assert reader.poll() == 0
    with pytest.raises(JournalError, match="Start"):
        reader.frames()
    with a_journal(tmp_path) as journal:
        write(journal, MADE, slice(0, 70))
        assert reader.poll() == 71
        assert len(reader.frames().bars) < len(WHOLE.bars)
        write(journal, MADE, slice(70, None))
        reader.poll()
        assert reader.head == journal.head
        assert reader.end == {}  # which is also how a killed run looks
        for part in fields(Frames):
            if part.name not in ("instrument", "beginning"):
                pd.testing.assert_frame_equal(getattr(reader.frames(), part.name), getattr(WHOLE, part.name))
        journal.append("End", 1, {"reason": "TAPE_END"})
        journal.commit()
        reader.poll()
        assert reader.end == {"reason": "TAPE_END"}


def test_frames_are_saved_for_other_tools(tmp_path: Path) -> None:
    with a_journal(tmp_path) as journal:
        write(journal, MADE, slice(None))
    files = save_frames(tmp_path / "run")
    assert {file.name for file in files} >= {"bars.parquet", "fills.parquet", "round_trips.parquet"}
    again = pd.read_parquet(tmp_path / "run/frames/round_trips.parquet")
    pd.testing.assert_frame_equal(again, WHOLE.round_trips)


def test_the_last_bars_alone_keep_their_numbers() -> None:
    collector = Collector(MADE.instrument)
    for bar in MADE.bars:
        collector.add_bar(bar)
    part = collector.frames(last_bars=20)
    pd.testing.assert_frame_equal(part.bars, WHOLE.bars.iloc[-20:])


def test_every_time_that_a_table_shows_says_its_zone_and_what_it_is_of() -> None:
    """`opened` had none, and the time of a round trip was not named as that of its close."""
    shown = readable(run_of(a_trip(1, net=3)).round_trips, drop=["closed"])
    assert shown.index.name == "closed, UTC"
    assert "opened, UTC" in shown
    assert readable(run_of(bars=[a_bar(0, 1_000)]).bars).index.name == "time, UTC"


def test_what_was_not_compared_is_written_as_such() -> None:
    checks = pd.DataFrame({"ok": pd.array([True, False, None], dtype="boolean")})
    assert readable(checks)["ok"].to_list() == ["True", "False", "--"]
