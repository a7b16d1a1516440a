"""One upkeep of the position: live trading steps through what a backtest loops over, and no row is ever lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.builders import an_instrument
from support.by_hand import cancel_entry, enter, is_protected, leave
from test_core import a_core, a_position, a_snapshot, a_tape
from test_loop import USUAL, check_same
from test_oms import ENTRY, STOP, TARGET, Harness, a_listing, intents
from test_oms import a_snapshot as what_is_held

from voltrade import risk
from voltrade.compiled import bind, compile_for
from voltrade.config import Config, ExecutionSettings, ExitSettings
from voltrade.core import TradingCore
from voltrade.errors import DataError
from voltrade.model import (
    MONEY,
    NEVER,
    AccountUpdate,
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
    Event,
    Filters,
    LookupOrder,
    Operator,
    OrderIntent,
    OrderType,
    OrderUpdate,
    Outcome,
    Output,
    Purpose,
    Refusal,
    Reply,
    ResumeState,
    RoundTrip,
    Side,
    Snapshot,
    StreamStatus,
    TakeSnapshot,
    Timer,
    Trades,
    money,
)
from voltrade.oms import OrderMonitor
from voltrade.orders import core_rules
from voltrade.orders.order_states import ALGO_MOVES, DONE, IS_DONE, LEGAL, MOVES, PROTECT_WITHIN_MS, STATES
from voltrade.orders.records import ROWS, SPARE
from voltrade.research.backtest import backtest
from voltrade.simulated.symbols import shipped_instrument

ROOT = Path(__file__).resolve().parents[2]

# --- both paths -------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, Any]] = {
    "plain rule": {},
    "IOC entries": {"entry": "ioc_limit", "max_slippage_bps": 2.0},
    "mark triggers": {"working_type": "MARK_PRICE"},
    "20 s latency": {"latency_ms": 20_000},
    "20x": {"leverage": 20, "risk_fraction": 0.05, "max_daily_loss_fraction": 0.5, "max_notional_multiple": 20.0},
    "breaker tripping": {"max_drawdown_fraction": 0.002, "max_consecutive_losses": 2, "max_trades_per_day": 6},
    "time exits": {"max_holding_bars": 3, "max_holding_s": 600.0},
    "quote bars": {"unit": "quote", "threshold": 1_500_000},
    "continuous anchor": {"anchor": "continuous"},
    "rule file": {"rule": str(ROOT / "rules/adx.py:Adx")},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_both_paths_tell_the_same_facts(name: str) -> None:
    config = Config.from_parameters(**{"seed": 3, "hours": 30.0, "threshold": 20, **SETTINGS[name]})
    done = check_same(a_tape(config), config)
    assert done.path == "compiled"
    assert done.trips or any(isinstance(fact, OrderIntent) for fact in done.facts)


QUIET = {
    **{key: value for key, value in USUAL.items() if key != "symbol"},
    **{"unit": "trades", "threshold": 60, "hours": 0.5, "mark_interval_s": 60, "seed": 7},
    "wallet": 1_000_000,
}
"""Settings under which no limit of the account binds."""


class Recorded(TradingCore):
    """A core that keeps what it was told and what followed."""

    told: list[tuple[Event, list[Output]]]

    def handle(self, event: Event) -> tuple[int, list[Output]]:
        consumed, outputs = super().handle(event)
        self.__dict__.setdefault("told", []).append((event, outputs))
        return consumed, outputs


def alone(symbol: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Event, list[Output]]]:
    """All that a core of one symbol was told, trade by trade, and what followed."""
    made: list[Recorded] = []

    def build(*given: Any) -> Recorded:
        made.append(Recorded(*given))
        return made[-1]

    monkeypatch.setattr(sys.modules["voltrade.research.backtest"], "TradingCore", build)
    config = Config.from_parameters(symbol=symbol, **QUIET)
    backtest(a_tape(config), config, path="events", block=1, epoch="t")
    return made[0].told


def decisions(outputs: Iterator[Output], symbol: str) -> list[Output]:
    """What a core decided about a symbol."""
    mine = (OrderIntent, CancelOrder, Refusal, RoundTrip)
    return [o for o in outputs if isinstance(o, mine) and getattr(o, "symbol", "") in (symbol, "") and _of(o) == symbol]


def _of(output: Any) -> str:
    return str(output.order.symbol if isinstance(output, OrderIntent) else output.symbol)


def test_two_symbols_in_one_core_trade_as_each_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {symbol: alone(symbol, monkeypatch) for symbol in ("BTCUSDT", "ETHUSDT")}
    config = Config.from_parameters(symbol="BTCUSDT", **QUIET)
    core = TradingCore(config, shipped_instrument("BTCUSDT"), "t", others=[shipped_instrument("ETHUSDT")])
    outputs: list[Output] = []
    for time, event in sorted(_timed(runs), key=lambda each: each[0]):
        if isinstance(event, AccountUpdate):
            continue  # tells the wallet of an account that only one symbol is traded on
        if not isinstance(event, Trades) and isinstance(event, Timer) and core.next_due > time:
            continue  # the other symbol's timer has done it
        while core.next_due <= time and isinstance(event, Trades):
            outputs += core.handle(Timer(core.next_due))[1]
        consumed, news = core.handle(event)
        assert consumed == 1
        outputs += news
    for symbol, run in runs.items():
        expected = decisions((o for _, each in run for o in each), symbol)
        assert decisions(iter(outputs), symbol) == expected
        assert sum(isinstance(o, RoundTrip) for o in expected) > 2


def _timed(runs: dict[str, list[tuple[Event, list[Output]]]]) -> Iterator[tuple[int, Event]]:
    """Every event of several runs with the time at which its core stood."""
    for number, run in enumerate(runs.values()):
        now = 0
        for event, _ in run:
            now = max(now, int(event.time[0]) if isinstance(event, Trades) else event.time)
            if not (number and isinstance(event, StreamStatus | Operator)):  # both accounts are one: told once
                yield now, event


STEPPED = """
import sys, hashlib
from voltrade import risk
from voltrade.orders import core_rules
from voltrade.research.backtest import backtest
from voltrade.compiled import bind, compile_for
from voltrade.compiled import IS_PLAIN
from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.simulated.symbols import shipped_instrument
config = Config.from_parameters(**{settings})
ticks = load_tape(config.session, shipped_instrument("BTCUSDT"))
steps = {{"enter", "apply_order_update", "sync_orders", "update_breaker"}}
kinds = ("OrderIntent", "RoundTrip", "Refusal", "EquityPoint")
for path in ("events", "compiled"):
    seen = set()
    IS_PLAIN or backtest(ticks, config, path=path)  # what must be compiled is
    sys.setprofile(lambda frame, what, _: seen.add(frame.f_code.co_name))
    done = backtest(ticks, config, path=path)
    sys.setprofile(None)
    assert steps <= seen if IS_PLAIN else not steps & seen, steps - seen
    told = [fact for fact in done.facts if type(fact).__name__ in kinds]
    print(len(done.trips), hashlib.sha256(repr(told).encode()).hexdigest())
"""


def test_a_session_can_be_stepped_through_as_plain_python() -> None:
    """Event by event, and in the loop that research compiles."""
    settings = {**USUAL, "seed": 7, "hours": 0.25, "threshold": 2, "mark_interval_s": 60}
    script = STEPPED.format(settings=settings)
    told = []
    for is_plain in ("", "1"):
        env = {**os.environ, "VOLTRADE_PLAIN": is_plain, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1]
    trips = [int(line.split()[0]) for line in told[0].splitlines()]
    assert len(trips) == 2
    assert min(trips) > 0


# --- tables and rows --------------------------------------------------------------------------------------------------


def test_numbers_of_words_say_what_the_tables_say() -> None:
    for kind, table in enumerate((MOVES, ALGO_MOVES)):
        legal = {(str(state), str(after)) for state, allowed in table.items() for after in allowed}
        pairs = {(before, after) for before in STATES for after in STATES}
        found = {(b, a) for b, a in pairs if LEGAL[kind, STATES.index(b), STATES.index(a)]}
        assert found == legal
    assert {state for state, done in zip(STATES, IS_DONE, strict=True) if done} == DONE


def rows_of(harness: Harness) -> int:
    return int(harness.monitor._row["order_count"])


def test_an_order_that_is_over_gives_its_row_back_and_is_still_known() -> None:
    harness = Harness()
    assert rows_of(harness) == 1
    harness.in_position()
    assert rows_of(harness) == 2  # the entry is over
    assert harness.monitor.orders[ENTRY].filled == 10
    harness.canceled(harness.order(STOP, "FILLED", 10, 979, order_id=500))
    assert (rows_of(harness), harness.monitor.in_round_trip) == (0, False)
    assert [order.state for order in harness.monitor.orders.values()] == ["FILLED", "NEW", "CANCELED"]


def test_hundreds_of_round_trips_use_no_more_rows_than_one() -> None:
    harness = Harness().in_position()
    for trip in range(2, 150):
        name = f"vt-e-{trip}e1"
        harness.note(leave(harness.monitor, harness.time, "TIME"))
        done = harness.order(f"vt-e-{trip - 1}x1", "FILLED", 10, order_id=10_000 + 3 * trip)
        harness.canceled(done)
        assert rows_of(harness) == 0
        harness.note(enter(harness.monitor, harness.time, Side.BUY, 10, bar=4))
        harness.order(name, "FILLED", 10, order_id=10_001 + 3 * trip)
        harness.algo(f"vt-e-{trip}s1", "NEW")
    assert harness.monitor.position == 10
    assert len(harness.monitor.orders) > 4 * ROWS


def crowded() -> Harness:
    """A position that grows while the cancels of its older stops are never answered."""
    harness = Harness()
    harness.accept(ENTRY)
    for lots in range(1, ROWS):
        harness.time += 600
        harness.order(ENTRY, "PARTIALLY_FILLED", 1, filled=lots)
        newest = [name for name in harness.sent if "s" in name.rsplit("-", 1)[1]][-1]
        harness.algo(newest, "NEW")
        harness.note(harness.monitor.on_time(harness.time))
        for name in [name for name, each in harness.sent.items() if each.purpose is Purpose.EXIT]:
            harness.order(name, "NEW")
    return harness


def test_a_full_table_protects_and_overwrites_nothing() -> None:
    harness = crowded()
    rows = harness.monitor._order_rows[: rows_of(harness)]
    assert ROWS - SPARE <= len(rows) < ROWS
    assert len(set(rows["number"].tolist())) == len(rows)
    out = [intent for intent in harness.sent.values() if intent.purpose is Purpose.EXIT]
    assert {(each.reason, each.order.reduce_only) for each in out} == {("TOO_MANY_ORDERS", True)}
    assert 0 < sum(each.order.quantity for each in out) <= harness.monitor.position, "what it grows by is left too"
    stops = [each for each in harness.sent.values() if each.purpose is Purpose.STOP]
    assert len(stops) < ROWS - 1
    assert harness.monitor.orders[stops[0].order.client_order_id].state == "PENDING_CANCEL"


def test_a_late_fill_brings_its_order_and_its_round_trip_back() -> None:
    harness = Harness().in_position()
    harness.algo(TARGET, "TRIGGERED", 103)
    harness.canceled(harness.order(TARGET, "FILLED", 10, order_id=103))
    assert not harness.monitor.in_round_trip
    late = harness.update(ENTRY, "FILLED", 2, order_id=100)
    sent = intents(harness.note(harness.monitor.on_order(late)))
    assert [(o.order.client_order_id, o.order.quantity) for o in sent] == [("vt-e-2s1", 2), ("vt-e-2t1", 2)]
    assert harness.monitor.position == 2  # a round trip of its own: the first was booked once and for all


@pytest.mark.parametrize("reason", ["TIME", "OPERATOR"])
def test_a_late_fill_of_an_entry_whose_position_was_closed_is_closed_too(reason: str) -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, reason))
    harness.canceled(harness.order("vt-e-1x1", "FILLED", 10))
    late = harness.update(ENTRY, "FILLED", 2, order_id=100)
    [out] = intents(harness.note(harness.monitor.on_order(late)))
    assert (out.order.client_order_id, out.order.quantity, out.reason) == ("vt-e-2x1", 2, reason)
    harness.order("vt-e-2x1", "FILLED", 2)
    assert not harness.monitor.in_round_trip


def test_an_orphan_that_fills_after_a_round_trip_is_closed_and_gets_nothing_of_it() -> None:
    """Not the stop's distance, and not the reason why it was closed."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.canceled(harness.order("vt-e-1x1", "FILLED", 10))
    bought = OrderUpdate(2_000, "BTCUSDT", "vt-e-7e1", 9, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 5, 5)
    outputs = harness.monitor.on_order(replace(bought, trade_id=77, last_quantity=5, last_price=1_000))
    assert [(o.purpose, o.order.quantity, o.reason) for o in intents(outputs)] == [(Purpose.EXIT, 5, "LATE_FILL")]
    assert harness.monitor.halt_reason == "vt-e-7e1 filled, and the journal has lost that it was sent"


def test_a_fill_after_a_round_trip_was_written_begins_another_though_cancels_are_under_way() -> None:
    """An entry that the journal has lost fills before the cancels of the last stop and take-profit are answered."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    first = harness.order("vt-e-1x1", "FILLED", 10)
    assert harness.monitor.in_round_trip, "two cancels are under way"
    bought = OrderUpdate(2_000, "BTCUSDT", "vt-e-7e1", 9, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 5, 5)
    bought = replace(bought, trade_id=77, last_quantity=5, last_price=1_000)
    [out] = intents(harness.note(harness.monitor.on_order(bought)))
    assert (out.order.client_order_id, out.order.quantity, out.reason) == ("vt-e-2x1", 5, "LATE_FILL")
    harness.canceled(first)
    assert harness.monitor.position == 5
    second = harness.order("vt-e-2x1", "FILLED", 5)
    trips = [trip for trip in (*first, *second) if isinstance(trip, RoundTrip)]
    assert [(t.id, t.quantity, len(t.entry_trade_ids), len(t.exit_trade_ids)) for t in trips] == [
        (1, 10, 1, 1),
        (2, 5, 1, 1),
    ]
    assert trips[1].entry_trade_ids == (77,)
    assert not harness.monitor.in_round_trip


def test_a_round_trip_that_ends_without_a_row_is_still_known() -> None:
    harness = Harness().in_position()
    monitor = harness.monitor
    monitor.on_snapshot(what_is_held(10, **a_listing(harness, STOP, TARGET)))
    harness.algo(STOP, "TRIGGERED", 101)
    left = harness.update(STOP, "FILLED", 10, order_id=101)
    monitor.on_order(left)
    # Several requests read an account: here the position before the exit, the trades after it.
    monitor.on_snapshot(what_is_held(10, fills=(left,), **a_listing(harness, TARGET)))
    harness.reply(TARGET, "cancel", Outcome.ACCEPTED)
    assert monitor.in_round_trip
    monitor.on_snapshot(what_is_held(0, fills=(left,)))
    assert not monitor.in_round_trip
    enter(monitor, 6_000, Side.BUY, 10, bar=9)
    # The stream says late what the answer to the cancel has said.
    assert harness.algo(TARGET, "CANCELED") == []
    assert monitor.open_position is not None
    assert monitor.open_position.id == 2


# --- what no test of the room noticed (fault cases, test gaps) --------------------------------------------------------


def test_a_stop_that_is_smaller_than_the_position_does_not_protect_it() -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 6)
    harness.algo(STOP, "NEW")
    harness.order(ENTRY, "CANCELED")
    assert (harness.monitor.position, is_protected(harness.monitor)) == (6, True)
    harness.order(ENTRY, "CANCELED", 3)
    assert (harness.monitor.position, is_protected(harness.monitor)) == (9, False)


def test_a_look_up_may_tell_of_a_conditional_order_and_of_what_it_became() -> None:
    harness = Harness().in_position()
    child = harness.update(STOP, "PARTIALLY_FILLED", order_id=500, client_order_id="")
    told = AlgoUpdate(500, "BTCUSDT", STOP, 7, Side.SELL, OrderType.STOP_MARKET, "TRIGGERED", 10, 980, order_id=500)
    harness.time += 5_000
    harness.reply(STOP, "lookup", Outcome.ACCEPTED, order=replace(child, filled=4), algo_order=told)
    order = harness.monitor.orders[STOP]
    assert (order.state, order.row.order_id, order.row.reported) == ("TRIGGERED", 500, 4)
    assert order.row.lookup_at == harness.time + 10_000  # asked again when it is overdue


@pytest.mark.parametrize(("name", "before"), [(STOP, "UNKNOWN"), (TARGET, "PENDING_CANCEL")])
def test_a_conditional_order_takes_nothing_from_the_state_of_what_it_became(name: str, before: str) -> None:
    """A look-up tells that it has triggered, and that its child works: that is no untriggered order, and no cover."""
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    if before == "UNKNOWN":
        harness.reply(name, "submit", Outcome.UNKNOWN)
    else:
        harness.algo(name, "NEW")
        harness.order(ENTRY, "FILLED", 2)  # a fill more than its order: the take-profit is replaced by a larger one
        harness.reply("vt-e-1t2", "submit", Outcome.REFUSED, -1008)  # which is sent again after a pause
    assert harness.monitor.orders[name].state == before
    bare_since = harness.monitor._position_row["unprotected_since"]
    sent = len(harness.sent)
    harness.time += 500
    works = harness.update(name, "NEW", order_id=500, client_order_id="")
    told = AlgoUpdate(1_500, "BTCUSDT", name, 7, Side.SELL, OrderType.STOP_MARKET, "TRIGGERED", 10, 980, order_id=500)
    outputs = harness.reply(name, "lookup", Outcome.ACCEPTED, order=works, algo_order=told)
    assert harness.monitor.orders[name].state == "TRIGGERED"
    assert harness.monitor._position_row["unprotected_since"] == bare_since == 1_000
    assert (canceled_of(outputs), len(harness.sent)) == ([], sent)


def test_a_cancel_under_way_is_not_resolved() -> None:
    harness = Harness()
    harness.order(ENTRY, "NEW")
    assert not harness.monitor.has_unsettled_order
    harness.note(cancel_entry(harness.monitor, harness.time, "ON_HOLD"))
    assert harness.monitor.has_unsettled_order
    harness.reply(ENTRY, "cancel", Outcome.ACCEPTED)
    assert not harness.monitor.has_unsettled_order


def restored(harness: Harness, **changed: Any) -> OrderMonitor:
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(json.loads(json.dumps(harness.monitor.state())) | changed, 60_000)
    return next_run


def test_why_a_person_must_look_survives_a_restart() -> None:
    harness = Harness()
    harness.reply(ENTRY, "submit", Outcome.REFUSED, -1022)
    assert "-1022" in harness.monitor.halt_reason
    assert restored(harness).halt_reason == harness.monitor.halt_reason


@pytest.mark.parametrize(("side", "lots"), [(Side.BUY, 10), (Side.BUY, 4)])
def test_a_forced_order_that_cannot_close_what_is_held_is_no_exit(side: Side, lots: int) -> None:
    harness = Harness().in_position()
    forced = replace(harness.update(STOP, "FILLED", lots, order_id=9_999, client_order_id="autoclose-1"), side=side)
    assert [type(o) for o in harness.monitor.on_order(forced)] == [Alert]
    assert (harness.monitor.position, harness.monitor.reconciled) == (10, False)


def test_a_take_profit_that_would_trigger_at_once_means_leave_at_market() -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    [out] = intents(harness.reply(TARGET, "submit", Outcome.REFUSED, -2021))
    assert (out.purpose, out.reason, out.order.quantity) == (Purpose.EXIT, "TAKE_PROFIT", 10)


def test_a_child_that_was_done_stays_done_when_older_news_comes() -> None:
    harness = Harness().in_position()
    harness.algo(STOP, "TRIGGERED", order_id=500)
    [out] = intents(harness.order(STOP, "EXPIRED", order_id=500))
    assert out.reason == "STOP_REST"
    harness.order(STOP, "NEW", order_id=500)
    assert harness.monitor.orders[STOP].done
    assert not is_protected(harness.monitor)


def test_the_first_reason_for_leaving_is_kept() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "OPPOSITE_SIGNAL"))
    harness.note(leave(harness.monitor, harness.time, "DURATION_END"))
    harness.order("vt-e-1x1", "PARTIALLY_FILLED", 4)
    [again] = intents(harness.order("vt-e-1x1", "EXPIRED"))
    assert again.reason == "OPPOSITE_SIGNAL"


def test_a_round_trip_opens_with_its_first_fill() -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 4)
    harness.time += 70
    harness.order(ENTRY, "FILLED", 6)
    harness.time += 70
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    [trip] = [o for o in harness.order("vt-e-1x1", "FILLED", 10) if isinstance(o, RoundTrip)]
    assert (trip.opened_at, trip.closed_at) == (1_000, 1_140)


@pytest.mark.parametrize("kind", ["order", "algo"])
def test_an_open_order_of_somebody_else_makes_the_account_unreconciled(kind: str) -> None:
    harness = Harness().in_position()
    foreign = harness.update(ENTRY, "NEW", order_id=9_999, client_order_id="web_abc")
    listed = {"algo_orders": ()} | a_listing(harness, STOP, TARGET)
    if kind == "order":
        listed["orders"] = (foreign,)
    else:
        listed["algo_orders"] = (*listed["algo_orders"], replace(listed["algo_orders"][0], client_order_id="web_abc"))
    harness.monitor.on_snapshot(what_is_held(10, **listed))
    assert not harness.monitor.reconciled
    assert harness.monitor.books_agree, "it has filled nothing"


def test_exits_that_are_refused_are_tried_again_with_growing_pauses() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    pauses = []
    for number in range(1, 10):
        harness.reply(f"vt-e-1x{number}", "submit", Outcome.REFUSED, -1008)
        pauses.append(harness.monitor.next_due - harness.time)
        harness.time = harness.monitor.next_due
        assert len(intents(harness.note(harness.monitor.on_time(harness.time)))) == 1
    assert pauses == [*[1_000] * 5, 2_000, *[4_000] * 3]


def test_an_exit_that_fills_in_part_ends_the_growing_of_the_pauses() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    for number in range(1, 8):
        harness.reply(f"vt-e-1x{number}", "submit", Outcome.REFUSED, -1008)
        harness.time = harness.monitor.next_due
        harness.note(harness.monitor.on_time(harness.time))
    harness.accept("vt-e-1x8")
    harness.order("vt-e-1x8", "PARTIALLY_FILLED", 4)
    harness.order("vt-e-1x8", "EXPIRED")
    harness.reply("vt-e-1x9", "submit", Outcome.REFUSED, -1008)
    assert harness.monitor.next_due - harness.time == 1_000


def test_exits_that_expire_unfilled_again_and_again_are_sent_with_growing_pauses() -> None:
    """Beyond the price limits of the exchange each expires at once: they would be sent as fast as it answers."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    pauses = []
    for number in range(1, 9):
        harness.accept(f"vt-e-1x{number}")
        sent = intents(harness.order(f"vt-e-1x{number}", "EXPIRED"))
        pauses.append(0 if sent else harness.monitor.next_due - harness.time)
        if not sent:
            harness.time = harness.monitor.next_due
            sent = intents(harness.note(harness.monitor.on_time(harness.time)))
        assert [each.order.client_order_id for each in sent if each.purpose is Purpose.EXIT] == [f"vt-e-1x{number + 1}"]
    assert pauses == [0, 0, 0, 1_000, 2_000, 4_000, 4_000, 4_000]


def test_an_exit_of_which_a_part_filled_is_followed_at_once() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    for number in range(1, 7):
        harness.accept(f"vt-e-1x{number}")
        harness.order(f"vt-e-1x{number}", "PARTIALLY_FILLED", 1)
        assert len(intents(harness.order(f"vt-e-1x{number}", "EXPIRED"))) == 1


def fill_of(core: TradingCore, name: str, order_id: int, trade_id: int, lots: int, **more: Any) -> list[Output]:
    update = OrderUpdate(9, "BTCUSDT", name, order_id, Side.SELL, OrderType.MARKET, "FILLED", "TRADE", lots, lots)
    return core.handle(replace(update, trade_id=trade_id, last_quantity=lots, last_price=1_000, **more))[1]


def sell_out(core: TradingCore, **more: Any) -> list[Output]:
    """Leave what `a_position` holds, by an exit that fills."""
    [out] = [o for o in core.handle(Operator(8, "flatten", "now"))[1] if isinstance(o, OrderIntent)]
    return fill_of(core, out.order.client_order_id, 70, 2, 10, **more)


def test_funding_is_booked_to_the_round_trip_and_to_the_account() -> None:
    core = a_core()
    a_position(core)
    core.handle(AccountUpdate(5, "FUNDING_FEE", money(10_000) - 77, -77))
    [trip] = [o for o in sell_out(core) if isinstance(o, RoundTrip)]
    assert (trip.funding, trip.net) == (-77, trip.realised - trip.fees - 77)
    assert core.account is not None
    assert (core.account.funding, core.account.wallet) == (-77, money(10_000) - 77)


@pytest.mark.parametrize(
    ("held", "named", "booked"),
    [
        (("BTCUSDT", "ETHUSDT"), "BTCUSDT", (-77, 0)),
        (("BTCUSDT", "ETHUSDT"), "ETHUSDT", (0, -77)),
        (("ETHUSDT",), "", (0, -77)),
        (("BTCUSDT", "ETHUSDT"), "", (0, 0)),  # whose it is isn't known: the account's alone
        (("ETHUSDT",), "BTCUSDT", (0, 0)),
        ((), "", (0, 0)),
    ],
    ids=str,
)
def test_funding_is_booked_once_to_the_symbol_that_paid_it(
    held: tuple[str, ...], named: str, booked: tuple[int, int]
) -> None:
    config = Config.from_parameters(symbol="BTCUSDT", **QUIET)
    core = TradingCore(config, shipped_instrument("BTCUSDT"), "t", others=[shipped_instrument("ETHUSDT")])
    core.handle(a_snapshot())
    for number, symbol in enumerate(held, start=1):
        [intent] = enter(core.symbol_states[symbol].monitor, 3, Side.BUY, 10)
        assert isinstance(intent, OrderIntent)
        name = intent.order.client_order_id
        fill = OrderUpdate(4, symbol, name, number, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
        core.handle(replace(fill, trade_id=number, last_quantity=10, last_price=1_000))
    core.handle(AccountUpdate(5, "FUNDING_FEE", money(10_000) - 77, -77, named))
    assert tuple(int(row["position"]["funding"]) for row in core._books.symbols) == booked
    assert core.account is not None
    assert (core.account.funding, core.account.wallet) == (-77, money(10_000) - 77)


def test_a_transfer_moves_the_peak_and_the_days_baseline() -> None:
    core = a_core()
    a_position(core)
    assert core.breaker is not None
    before = core.breaker.state()
    [alert] = core.handle(AccountUpdate(5, "DEPOSIT", money(10_500), money(500)))[1]
    assert isinstance(alert, Alert)
    after = core.breaker.state()
    assert {name: after[name] - before[name] for name in ("peak", "day_equity", "equity")} == dict.fromkeys(
        ("peak", "day_equity", "equity"), money(500)
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("leverage", 7, "leverage must be 5, was 7"),
        ("margin_type", "cross", "margin type must be isolated, was cross"),
        ("hedge_mode", True, "position mode must be one-way, was hedge"),
        ("multi_assets", True, "margin mode must be single-asset, was multi-assets"),
    ],
)
def test_an_account_that_differs_makes_trading_stop(name: str, value: Any, text: str) -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    _, outputs = core.handle(replace(a_snapshot(), **{name: value}))
    assert [o.text for o in outputs if isinstance(o, Alert)] == [text]
    [harness] = core.symbol_states.values()
    assert not harness.monitor.reconciled
    assert core.next_due < NEVER  # it is asked again
    core.handle(a_snapshot(4))
    assert harness.monitor.reconciled


def test_a_halt_of_the_order_monitor_reaches_the_breaker_and_a_person_lets_it_go() -> None:
    core = a_core()
    a_position(core)
    [harness] = core.symbol_states.values()
    refused = harness.monitor.orders["vt-t-1s1"]
    reply = Reply(6, "submit", "BTCUSDT", refused.id, True, Outcome.REFUSED, -1022, "Signature for this request")
    _, outputs = core.handle(reply)
    assert core.breaker is not None
    why = "vt-t-1s1 refused with -1022: Signature for this request"
    assert [(o.rule, o.mode, o.action, o.reason) for o in outputs if isinstance(o, BreakerChange)] == [
        ("ON_HOLD", "HALTED", "cancel", why)
    ]
    assert core.breaker.reason == harness.monitor.halt_reason == why
    [released] = [o for o in core.handle(Operator(7, "resume", "seen"))[1] if isinstance(o, BreakerChange)]
    assert (released.rule, released.action, released.reason) == ("ON_HOLD", "resume", "seen")
    assert (core.breaker.mode, harness.monitor.halt_reason) == ("ACTIVE", "")
    core.handle(Timer(8))
    assert core.breaker.mode == "ACTIVE"


@pytest.mark.parametrize("up", [True, False])
def test_each_change_of_the_user_link_makes_the_account_unreconciled(up: bool) -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    [harness] = core.symbol_states.values()
    assert harness.monitor.reconciled
    _, outputs = core.handle(StreamStatus(5, "user", up))
    assert (harness.monitor.reconciled, harness.monitor.books_agree) == (False, False)
    assert len([o for o in outputs if isinstance(o, TakeSnapshot)]) == up


def test_sizes_use_the_fee_of_the_account() -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    core.handle(replace(a_snapshot(), taker_fee_e8=12_345))
    assert core._books.symbols[0]["limits"]["fee_e8"][0] == 12_345


def test_cooldown_and_bars_held_outlive_a_run() -> None:
    core = a_core(max_holding_bars=6, cooldown_bars=5)
    a_position(core)
    row = core._books.symbols[0]
    row["last_exit_time"], row["last_exit_bar"], row["opened_at_bar"] = 77, -3, -4
    saved = core.state()
    assert saved is not None
    mine = {
        name: saved["symbol_states"]["BTCUSDT"][name] for name in ("last_exit_time", "bars_since_exit", "bars_held")
    }
    assert mine == {"last_exit_time": 77, "bars_since_exit": 3, "bars_held": 4}
    after = a_core(max_holding_bars=6, cooldown_bars=5)
    after.handle(ResumeState(6, json.dumps(saved), ""))
    found = after._books.symbols[0]
    assert [int(found[name]) for name in ("last_exit_time", "last_exit_bar", "opened_at_bar")] == [77, -3, -4]
    assert after._wake_at_bar(after.symbol_states["BTCUSDT"]) == 2


def test_protect_ends_the_session_only_once_the_position_is_protected() -> None:
    core = a_core()
    a_position(core)
    core.handle(Operator(5, "protect", "lunch", final=True))
    assert not core.finished
    [harness] = core.symbol_states.values()
    stop = harness.monitor.orders["vt-t-1s1"]
    told = AlgoUpdate(6, "BTCUSDT", stop.id, 7, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 980)
    core.handle(told)
    assert not core.finished, "the exchange has not confirmed it yet"
    core.handle(replace(a_snapshot(7, 10), algo_orders=(told,)))
    assert core.finished


def test_a_profit_that_is_not_the_exchanges_is_told() -> None:
    core = a_core()
    a_position(core)
    outputs = sell_out(core, realised=12_345)
    assert [o.code for o in outputs if isinstance(o, Alert)] == ["REALISED_DIFFERS"]
    assert isinstance(outputs[0], Alert)
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    assert trip.realised == 12_345  # what the exchange says
    assert core.account is not None
    assert (core.account.realised, core.account.wallet) == (12_345, money(10_000) + 12_345)


def test_a_fee_in_another_asset_is_told() -> None:
    core = a_core()
    a_position(core)
    outputs = sell_out(core, fee_asset="BNB", fee=0)
    assert [o.code for o in outputs if isinstance(o, Alert)] == ["FEE_ASSET"]


def test_a_fee_in_another_asset_is_a_cost_that_the_wallet_has_not_paid() -> None:
    """Worth 40: the round trip and the day are 40 poorer, the quote asset's wallet is what the exchange has."""
    core = a_core()
    a_position(core)
    assert core.account is not None
    assert core.breaker is not None
    wallet = core.account.wallet
    outputs = sell_out(core, fee_asset="BNB", fee=40 * MONEY)
    [trip] = [o for o in outputs if isinstance(o, RoundTrip)]
    after = core.account
    assert (trip.fees, after.fees, after.transfers) == (40 * MONEY, 40 * MONEY, 40 * MONEY)
    assert after.wallet == wallet + trip.realised
    assert core.breaker.distances()["DAILY_LOSS"][0] == 40 * MONEY - trip.realised


def test_a_fill_of_an_earlier_round_trip_halts_entries() -> None:
    core = a_core()
    entry = a_position(core)
    canceled = [o for o in sell_out(core) if isinstance(o, CancelOrder)]
    assert not canceled  # its stop was never acknowledged
    [harness] = core.symbol_states.values()
    core.handle(Reply(10, "submit", "BTCUSDT", "vt-t-1s1", True, Outcome.REFUSED, -2021, "would trigger"))
    assert not harness.monitor.in_round_trip
    enter(harness.monitor, 11, Side.BUY, 5)
    late = OrderUpdate(12, "BTCUSDT", entry, 1, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 10, 12)
    core.handle(replace(late, trade_id=9, last_quantity=2, last_price=1_000))
    assert "after round trip 1 had ended" in harness.monitor.halt_reason
    assert not harness.monitor.reconciled
    assert core.breaker is not None
    assert core.breaker.mode == "HALTED"
    assert core.account is not None
    assert core.account.positions["BTCUSDT"].quantity == 2
    assert harness.monitor.position == 2  # as the account has it; it is left


# --- what outlives a run ----------------------------------------------------------------------------------------------


def test_fills_that_are_missing_are_still_missing_after_a_restart() -> None:
    harness = Harness()
    harness.accept(ENTRY)
    harness.order(ENTRY, "PARTIALLY_FILLED", 4)
    harness.accept(STOP)
    harness.algo(STOP, "NEW")
    harness.order(ENTRY, "FILLED", filled=10)
    next_run = OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "f")
    next_run.restore(json.loads(json.dumps(harness.monitor.state())), 60_000)
    # A stop for 4 lots rests; 6 lots more were told of, whose fills are on their way.
    assert not is_protected(harness.monitor)
    assert not is_protected(next_run)
    rest = harness.update(ENTRY, "FILLED", 6)
    next_run.on_order(replace(rest, filled=10))
    assert next_run.position == 10


def test_a_saved_state_is_named_fields_with_a_version() -> None:
    saved = Harness().in_position().monitor.state()
    assert saved["version"] == 5
    position, orders = saved["open_position"]["position"], saved["open_position"]["orders"]
    assert (position["entered"], position["closing_reason"], position["stops"]) == (10, "", 1)
    assert [(order["id"], order["purpose"], order["state"], order["reason"]) for order in orders] == [
        (ENTRY, "e", "FILLED", "SIGNAL"),
        (STOP, "s", "NEW", "PROTECT"),
        (TARGET, "t", "NEW", "TARGET"),
    ]


@pytest.mark.parametrize("version", [0, 6, "5", None])
def test_a_saved_state_of_a_later_version_is_refused(version: Any) -> None:
    with pytest.raises(DataError, match=r"version of the saved state must be 5 or less|must be a whole number"):
        restored(Harness().in_position(), version=version)


def test_a_saved_state_of_an_earlier_version_is_read_by_its_names() -> None:
    assert restored(Harness().in_position(), version=4).position == 10


def test_the_first_gate_in_the_order_given_refuses() -> None:
    """The order is that of `core.GATES`, whatever gates would refuse too."""
    facts, limits = risk.new_gate_inputs(), risk.limits_from_settings(Config.from_parameters(), an_instrument())
    facts["paused"] = True
    for gates, first in (
        ((risk.SIZE_TOO_SMALL, risk.PAUSED), 0),
        ((risk.PAUSED, risk.SIZE_TOO_SMALL), 0),
        ((risk.COOLDOWN, risk.PAUSED), 1),
        ((risk.COOLDOWN,), 1),
    ):
        chain = compile_for(bind(_first, REFUSAL=core_rules.first_refusal(gates)), None)
        assert chain(facts, limits) == first


def _first(facts: Any, limits: Any) -> int:
    """REFUSAL, which only compiled code can call, is bound."""
    return int(REFUSAL(facts, limits))  # type: ignore[name-defined]  # noqa: F821


def test_what_a_position_grows_by_while_it_is_left_is_left_too() -> None:
    """Fault case A8: it had neither stop nor exit until the first exit had filled."""
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 6)
    harness.note(leave(harness.monitor, harness.time, "TARGET"))
    harness.time += 100
    harness.order(ENTRY, "PARTIALLY_FILLED", 2)
    exits = [each for each in harness.sent.values() if each.purpose is Purpose.EXIT]
    assert [each.order.quantity for each in exits] == [6], "not at each of what may be fifty fills"
    assert harness.monitor.next_due == exits[0].time + 500
    harness.note(harness.monitor.on_time(harness.monitor.next_due))
    harness.order(ENTRY, "FILLED", 2)
    exits = [each for each in harness.sent.values() if each.purpose is Purpose.EXIT]
    assert [each.order.quantity for each in exits] == [6, 2, 2], "the entry is over: at once"
    assert all(each.order.reduce_only for each in exits)
    harness.order("vt-e-1x1", "FILLED", 6)
    assert len([each for each in harness.sent.values() if each.purpose is Purpose.EXIT]) == 3


def test_the_wallet_pays_the_fees_and_the_cooldown_counts_from_the_exits_bar() -> None:
    core = a_core()
    a_position(core)
    core._books.symbols[0]["bars"] = 5
    sell_out(core, fee=333)
    assert core.account is not None
    assert (core.account.fees, core.account.wallet) == (333, money(10_000) + core.account.realised - 333)
    assert core._books.symbols[0]["last_exit_bar"] == 5


def test_what_was_filled_in_all_never_shrinks_by_older_news() -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", filled=6)
    harness.order(ENTRY, "PARTIALLY_FILLED", filled=2)
    assert harness.monitor.orders[ENTRY].row.reported == 6


def test_flatten_ends_the_session_only_once_nothing_is_held() -> None:
    core = a_core()
    a_position(core)
    core.handle(AlgoUpdate(6, "BTCUSDT", "vt-t-1s1", 7, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 980))
    [out] = [o for o in core.handle(Operator(8, "flatten", "now", final=True))[1] if isinstance(o, OrderIntent)]
    assert not core.finished
    fill_of(core, out.order.client_order_id, 70, 2, 10)
    core.handle(Reply(10, "cancel", "BTCUSDT", "vt-t-1s1", True, Outcome.ACCEPTED))
    assert core.finished


# --- what the exchange has, whatever was told -------------------------------------------------------------------------


def test_an_exit_that_is_too_large_goes_in_parts_once_the_filters_are_read() -> None:
    harness = Harness().in_position()
    [whole] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    outputs = harness.reply(whole.order.client_order_id, "submit", Outcome.REFUSED, -4005)
    assert not intents(outputs)
    parts = intents(harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 4))))
    assert [part.order.quantity for part in parts] == [4, 4, 2]


def test_a_refusal_as_too_large_does_not_forget_the_largest_order_that_the_filters_told() -> None:
    """The filters said 1 lot while the exit of 10 was on its way: no guess after its refusal is above that."""
    harness = Harness().in_position()
    [whole] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 1)))
    harness.reply(whole.order.client_order_id, "submit", Outcome.REFUSED, -4005)
    assert harness.monitor._row["largest_order"] == 1


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        (-4014, [(Purpose.STOP, 12, 984)]),
        (-1111, [(Purpose.STOP, 12, 984)]),
        (-4005, [(Purpose.EXIT, 9, 0), (Purpose.EXIT, 3, 0)]),  # no stop can be as large: it is left in parts
    ],
)
def test_a_stop_that_the_filters_refuse_is_sent_again_by_those_of_now(code: int, sent: list[Any]) -> None:
    """A tick of 8 and a step of 3: a stop of 10 lots at 980 becomes one of 12 at 984."""
    harness = Harness()
    [stop, *_] = intents(harness.order(ENTRY, "FILLED", 10))
    assert not intents(harness.reply(stop.order.client_order_id, "submit", Outcome.REFUSED, code))
    assert not harness.monitor.halt_reason
    filters = Filters(harness.time, "BTCUSDT", 9, price_step=8, quantity_step=3)
    again = intents(harness.note(harness.monitor.on_filters(filters)))
    told = [(out.purpose, out.order.quantity, out.order.trigger_price) for out in again]
    assert [each for each in told if each[0] is not Purpose.TAKE_PROFIT] == sent


def test_parts_of_an_exit_that_is_too_large_are_multiples_of_the_step() -> None:
    """10 lots at a step of 3 are an exit of 12; refused as too large it goes in parts of 3, before filters are read."""
    harness = Harness().in_position()
    harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 120_000, quantity_step=3)))
    [whole] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    assert whole.order.quantity == 12
    harness.reply(whole.order.client_order_id, "submit", Outcome.REFUSED, -4005)
    harness.time = harness.monitor.next_due
    parts = [out for out in intents(harness.note(harness.monitor.on_time(harness.time))) if out.purpose is Purpose.EXIT]
    assert [part.order.quantity for part in parts] == [3, 3, 3, 3]


def closing_at_a_step_of(step: int) -> tuple[Harness, OrderIntent]:
    """A position of 10 lots that its exit leaves, after the exchange has made its step coarser."""
    harness = Harness().in_position()
    harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 120_000, quantity_step=step)))
    [sent] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    return harness, sent


def test_a_stop_covers_all_lots_of_no_whole_step_though_an_exit_of_as_many_was_refused() -> None:
    """10 lots at a step of 3 are a stop of 12: one of 9 would be replaced after each acknowledgement."""
    harness, exit_ = closing_at_a_step_of(3)
    harness.reply(exit_.order.client_order_id, "submit", Outcome.REFUSED, -2022)
    stops = [out for out in intents(harness.algo(STOP, "CANCELED")) if out.purpose is Purpose.STOP]
    assert [stop.order.quantity for stop in stops] == [12]
    name = stops[0].order.client_order_id
    told = [*harness.accept(name), *harness.algo(name, "NEW")]
    assert not [out for out in told if isinstance(out, CancelOrder)]
    assert not [out for out in intents(told) if out.purpose is Purpose.STOP]


def test_a_rest_of_less_than_a_step_that_the_exchange_will_not_close_is_told_once_and_left_to_its_stop() -> None:
    harness, exit_ = closing_at_a_step_of(12)
    exits, told = [exit_], list[Output]()
    for _ in range(20):
        if exits[-1].order.client_order_id in harness.sent:
            told += harness.reply(exits[-1].order.client_order_id, "submit", Outcome.REFUSED, -2022)
        harness.time += 5_000
        more = harness.note(harness.monitor.on_time(harness.time))
        exits += [out for out in intents(more) if out.purpose is Purpose.EXIT]
        told += more
    assert [part.order.quantity for part in exits] == [12, 12, 12]
    assert [out.code for out in told if isinstance(out, Alert)].count("REST_STUCK") == 1
    assert not harness.monitor.orders[STOP].done
    finer = harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 120_000)))
    assert [out.order.quantity for out in intents(finer) if out.purpose is Purpose.EXIT] == [10]


def test_an_exchange_that_refuses_every_size_as_too_large_is_not_asked_in_ever_smaller_parts() -> None:
    harness = Harness().in_position()
    sent = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    sizes = []
    for _ in range(4):
        sizes.append([part.order.quantity for part in sent])
        for part in sent:
            harness.reply(part.order.client_order_id, "submit", Outcome.REFUSED, -4005)
        sent = []
        while not sent:
            harness.time = harness.monitor.next_due
            sent = [
                out
                for out in intents(harness.note(harness.monitor.on_time(harness.time)))
                if out.purpose is Purpose.EXIT
            ]
    assert sizes == [[10], [2] * 5, [2] * 5, [2] * 5]


def refused_as_too_large(harness: Harness) -> list[OrderIntent]:
    """The exit of 10 lots is refused as too large; return those that follow."""
    [whole] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    harness.reply(whole.order.client_order_id, "submit", Outcome.REFUSED, -4005)
    harness.time = harness.monitor.next_due
    sent = intents(harness.note(harness.monitor.on_time(harness.time)))
    assert [part.order.quantity for part in sent] == [2] * 5
    return sent


def test_a_position_that_grows_while_it_is_left_goes_in_no_more_parts_than_before() -> None:
    """Of 82 lots an eighth is 11: parts of 2 lots, five a second, would take 8 s."""
    harness = Harness().in_position()
    for part in refused_as_too_large(harness)[1:]:
        harness.order(part.order.client_order_id, "FILLED", part.order.quantity)
    late = harness.update(ENTRY, "FILLED", 80, order_id=700)
    outputs = harness.note(harness.monitor.on_order(replace(late, quantity=90, filled=90)))
    sizes = [part.order.quantity for part in intents(outputs) if part.purpose is Purpose.EXIT]
    for _ in range(4):
        harness.time = harness.monitor.next_due
        more = intents(harness.note(harness.monitor.on_time(harness.time)))
        sizes += [part.order.quantity for part in more if part.purpose is Purpose.EXIT]
    assert sizes == [11] * 7 + [3]


def test_what_was_too_large_once_is_no_limit_for_the_next_position() -> None:
    """The exchange has taken its entry, which is as large."""
    harness = Harness().in_position()
    for part in refused_as_too_large(harness):
        harness.order(part.order.client_order_id, "FILLED", part.order.quantity)
    for name in (STOP, TARGET):
        harness.reply(name, "cancel", Outcome.ACCEPTED)
    assert not harness.monitor.in_round_trip
    harness.time += 5_000
    [entry] = intents(harness.note(enter(harness.monitor, harness.time, Side.BUY, 10)))
    harness.order(entry.order.client_order_id, "FILLED", 10)
    [whole] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    assert whole.order.quantity == 10


def test_parts_of_an_exit_leave_five_a_second() -> None:
    """Ten, then, within any second, however the network spreads them."""
    harness = Harness().in_position()
    harness.note(harness.monitor.on_filters(Filters(harness.time, "BTCUSDT", 1)))
    begun = harness.time
    sent = [(begun, out) for out in intents(harness.note(leave(harness.monitor, harness.time, "TIME")))]
    while len(sent) < 10:
        harness.time = harness.monitor.next_due
        sent += [(harness.time, out) for out in intents(harness.note(harness.monitor.on_time(harness.time)))]
    assert [time - begun for time, _ in sent] == [0] * 5 + [1_000] * 5


def test_parts_of_an_exit_that_are_refused_together_are_one_try() -> None:
    """Each part would else count, and the pause after the second round already be that of the sixth."""
    harness = Harness().in_position()
    sent = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    pauses = []
    for _ in range(4):
        for part in sent:
            harness.reply(part.order.client_order_id, "submit", Outcome.REFUSED, -4005)
        begun, sent = harness.time, []
        while not sent:
            harness.time = harness.monitor.next_due
            found = intents(harness.note(harness.monitor.on_time(harness.time)))
            sent = [out for out in found if out.purpose is Purpose.EXIT]
        pauses.append(harness.time - begun)
    assert pauses == [1_000] * 4


def test_lots_of_which_the_exchange_says_again_and_again_that_they_are_gone_are_booked_as_gone() -> None:
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    told: list[str] = []
    for at in range(5_000, 65_000, 10_000):
        held = replace(what_is_held(0, **a_listing(harness, STOP, TARGET)), time=at)
        outputs = harness.note(harness.monitor.on_snapshot(held))
        told += [output.code for output in outputs if isinstance(output, Alert)]
        if at >= 35_000:  # readings alone may lag for long
            assert (harness.monitor.position, told) == (10, ["POSITION_MISMATCH"]) or at > 35_000
            harness.time = at + 5_000
            waiting = [name for name, order in harness.monitor.orders.items() if order.state == "PENDING_SUBMIT"]
            for name in waiting:
                harness.reply(name, "submit", Outcome.REFUSED, -2022)
    assert told == ["POSITION_MISMATCH", "POSITION_ADJUSTED"]
    assert harness.monitor.position == 0


def test_more_lots_exited_than_had_entered_are_booked_back_where_the_exchange_has_none() -> None:
    """A stop has sold four lots that somebody else had bought: booked as sold again, they doubled with each reading."""
    harness = Harness().in_position()
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.order("vt-e-1x1", "PARTIALLY_FILLED", 6)
    harness.algo(STOP, "TRIGGERED", 101)
    harness.order(STOP, "PARTIALLY_FILLED", 8, order_id=101)
    assert harness.monitor.position == -4
    for at in range(5_000, 65_000, 10_000):
        harness.time = at
        harness.note(harness.monitor.on_snapshot(replace(what_is_held(0, **a_listing(harness, TARGET)), time=at)))
        waiting = [name for name, order in harness.monitor.orders.items() if order.state == "PENDING_SUBMIT"]
        for name in waiting:
            harness.reply(name, "submit", Outcome.REFUSED, -2022)
    assert harness.monitor.position == 0


def test_lots_that_the_exchange_has_too_many_are_nobodys_to_book() -> None:
    harness = Harness().in_position()
    for at in range(5_000, 105_000, 10_000):
        harness.monitor.on_snapshot(replace(what_is_held(12, **a_listing(harness, STOP, TARGET)), time=at))
    assert (harness.monitor.position, harness.monitor.reconciled) == (10, False)


@pytest.mark.parametrize(
    ("name", "is_ours"), [("vt-e-7s1", True), ("vt-er1a2b3c-7t2", True), ("vt-f-7s1", False), ("mine", False)]
)
def test_a_stop_of_a_lost_journal_is_cancelled_once_a_stop_of_ours_covers(name: str, is_ours: bool) -> None:
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    orphan = AlgoUpdate(harness.time, "BTCUSDT", name, 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    cancelled = []
    for covered in (False, True):
        if covered:
            harness.algo(STOP, "NEW")
        listed = a_listing(harness, STOP)["algo_orders"] if covered else ()
        outputs = harness.monitor.on_snapshot(what_is_held(10, algo_orders=(*listed, orphan)))
        cancelled.append([output.client_order_id for output in outputs if isinstance(output, CancelOrder)])
        assert harness.monitor.orders_confirmed is (covered or not is_ours), "a session must not end while one is open"
    assert cancelled == [[], [name] if is_ours else []]


def test_a_stop_that_the_exchange_lists_no_more_does_not_cover_for_one_of_a_lost_journal() -> None:
    """The journal has lost how its own stop ended too: the other one is all that protects."""
    harness = Harness().in_position()
    orphan = AlgoUpdate(harness.time, "BTCUSDT", "vt-e-7s1", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    outputs = harness.monitor.on_snapshot(what_is_held(10, algo_orders=(orphan,)))
    assert canceled_of(outputs) == []
    assert not harness.monitor.orders_confirmed


def test_a_restarted_session_is_confirmed_by_a_snapshot_that_agrees_or_by_many_that_do_not() -> None:
    """What nobody explains for long is somebody else's, and must not keep a session from its end."""
    harness = Harness()
    assert harness.monitor.orders_confirmed
    harness.monitor.on_restart(harness.time)
    confirmed = []
    for at in range(1, 7):
        harness.monitor.on_snapshot(replace(what_is_held(2), time=at * 10_000))
        confirmed.append(harness.monitor.orders_confirmed)
    assert confirmed == [False] * 4 + [True] * 2
    harness.monitor.on_restart(70_000)
    harness.monitor.on_snapshot(replace(what_is_held(0), time=80_000))
    assert harness.monitor.orders_confirmed


def with_orphan(is_covered: bool) -> tuple[Harness, AlgoUpdate]:
    """A monitor that has just cancelled an orphan: with a covered position, or flat."""
    harness = Harness()
    orphan = AlgoUpdate(harness.time, "BTCUSDT", "vt-e-7s1", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    if is_covered:
        harness.in_position()
    else:
        harness.order(ENTRY, "EXPIRED")
    harness.time = 20_000
    shown = reading(harness, orphan)
    assert canceled_of(harness.monitor.on_snapshot(shown)) == [orphan.client_order_id]
    return harness, orphan


def reading(harness: Harness, *orphans: AlgoUpdate) -> Snapshot:
    """The account as it is, with these orphans."""
    held = harness.monitor.position
    ours = a_listing(harness, STOP, TARGET)["algo_orders"] if held else ()
    return replace(what_is_held(held, algo_orders=(*ours, *orphans)), time=harness.time)


def canceled_of(outputs: list[Output]) -> list[str]:
    return [output.client_order_id for output in outputs if isinstance(output, CancelOrder)]


def answer(harness: Harness, order: AlgoUpdate, action: Any, outcome: Outcome, code: int = 0) -> list[Output]:
    """An answer about an order that the harness didn't send; a look-up that finds it tells that it rests."""
    shown = order if action == "lookup" and outcome is Outcome.ACCEPTED else None
    name = order.client_order_id
    return harness.monitor.on_reply(
        Reply(harness.time, action, "BTCUSDT", name, True, outcome, code, "", algo_order=shown)
    )


def asked_after(harness: Harness) -> list[str]:
    """Do what is due until something is looked up; return what."""
    for _ in range(20):
        harness.time = harness.monitor.next_due
        assert harness.time < NEVER, "nothing asks any more"
        outputs = harness.monitor.on_time(harness.time)
        if found := [output.client_order_id for output in outputs if isinstance(output, LookupOrder)]:
            return found
    return []


@pytest.mark.parametrize("is_covered", [True, False], ids=["in position", "flat"])
def test_an_orphan_whose_cancel_and_look_up_failed_is_looked_up_until_it_is_gone(is_covered: bool) -> None:
    harness, orphan = with_orphan(is_covered)
    name = orphan.client_order_id
    [look_up] = answer(harness, orphan, "cancel", Outcome.UNKNOWN)
    assert isinstance(look_up, LookupOrder)
    for _ in range(3):  # as long as the outage lasts
        answer(harness, orphan, "lookup", Outcome.UNKNOWN)
        assert harness.monitor.has_unsettled_order, "no entry meanwhile"
        assert asked_after(harness) == [name]
        harness.monitor.on_snapshot(reading(harness, orphan))
    assert canceled_of(answer(harness, orphan, "lookup", Outcome.ACCEPTED)) == [name], "the first cancel was lost"
    answer(harness, orphan, "cancel", Outcome.ACCEPTED)
    assert harness.monitor.orders[name].state == "CANCELED"
    assert not harness.monitor.has_unsettled_order


@pytest.mark.parametrize("is_covered", [True, False], ids=["in position", "flat"])
def test_an_orphan_that_the_exchange_has_no_more_is_concluded_gone(is_covered: bool) -> None:
    """Its cancel was carried out and the answer lost: it isn't listed, and look-ups don't find it."""
    harness, orphan = with_orphan(is_covered)
    answer(harness, orphan, "cancel", Outcome.UNKNOWN)
    told = []
    for _ in range(4):
        harness.time += 20_000
        outputs = harness.monitor.on_snapshot(reading(harness))
        assert [each.client_order_id for each in outputs if isinstance(each, LookupOrder)] == [orphan.client_order_id]
        outputs = answer(harness, orphan, "lookup", Outcome.REFUSED, -2013)
        told += [each.code for each in outputs if isinstance(each, Alert)]
        if told:
            break
    assert told == ["ORDER_GONE"]
    assert not harness.monitor.has_unsettled_order


def test_a_stop_that_comes_after_its_round_trip_is_looked_up_until_its_cancel_is_known() -> None:
    """The same for an order that was concluded absent, and that the exchange had accepted all the same."""
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    harness.note(leave(harness.monitor, harness.time, "TIME"))
    harness.reply(STOP, "submit", Outcome.UNKNOWN)
    harness.reply(TARGET, "submit", Outcome.REFUSED, -2021)
    harness.order("vt-e-1x1", "FILLED", 10)
    harness.monitor.on_snapshot(replace(what_is_held(0), time=20_000))
    for harness.time in range(21_000, 25_000, 1_000):
        harness.reply(STOP, "lookup", Outcome.REFUSED, -2013)
    assert (harness.monitor.orders[STOP].state, harness.monitor.in_round_trip) == ("NOT_PLACED", False)
    assert canceled_of(harness.algo(STOP, "NEW")) == [STOP]
    harness.reply(STOP, "cancel", Outcome.UNKNOWN)
    harness.reply(STOP, "lookup", Outcome.UNKNOWN)
    assert harness.monitor.has_unsettled_order
    assert asked_after(harness) == [STOP]
    harness.algo(STOP, "CANCELED")
    assert not harness.monitor.has_unsettled_order


def test_a_restart_looks_up_an_orphan_whose_cancel_was_under_way() -> None:
    harness, orphan = with_orphan(is_covered=True)
    asked = [each for each in harness.monitor.on_restart(harness.time) if isinstance(each, LookupOrder)]
    assert [each.client_order_id for each in asked] == [orphan.client_order_id]


@pytest.mark.parametrize("policy", ["flatten", "protect"])
def test_a_session_ends_only_once_no_orphan_is_left(policy: Any) -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    orphan = AlgoUpdate(4, "BTCUSDT", "vt-t-7s1", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    assert canceled_of(core.handle(replace(a_snapshot(4), algo_orders=(orphan,)))[1]) == ["vt-t-7s1"]
    core.handle(Operator(5, policy, "bye", final=True))
    assert not core.finished
    core.handle(Reply(6, "cancel", "BTCUSDT", "vt-t-7s1", True, Outcome.ACCEPTED))
    assert core.finished


def test_an_orphan_covers_nothing() -> None:
    """It is going: while it is at the exchange, the other orphan stays until a stop of ours covers the position."""
    harness = Harness()
    harness.order(ENTRY, "FILLED", 10)
    first, second = (
        AlgoUpdate(harness.time, "BTCUSDT", f"vt-e-{n}s1", n, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
        for n in (7, 8)
    )
    assert canceled_of(harness.monitor.on_snapshot(reading_without_ours(harness, first))) == []
    assert canceled_of(harness.monitor.on_snapshot(reading_without_ours(harness, first, second))) == []


def reading_without_ours(harness: Harness, *orphans: AlgoUpdate) -> Snapshot:
    return replace(what_is_held(10, algo_orders=orphans), time=harness.time)


def test_names_after_a_restart_are_new() -> None:
    harness = Harness().in_position()
    harness.monitor.on_restart(90_000_000)
    [out] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    assert out.order.client_order_id == "vt-er1xg0-1x1"


def test_three_entries_in_a_row_that_are_refused_wait_for_a_person() -> None:
    core = a_core()
    [harness] = core.symbol_states.values()
    halted = []
    for number in range(1, 5):
        if number == 4:
            core.handle(Operator(35, "resume", ""))
            assert harness.monitor.halt_reason == ""
        enter(harness.monitor, 10 * number, Side.BUY, 5)
        core.handle(
            Reply(10 * number, "submit", "BTCUSDT", f"vt-t-{number}e1", False, Outcome.REFUSED, -2019, "margin")
        )
        halted.append(harness.monitor.halt_reason)
    assert halted == ["", "", *["3 entries in a row were refused or never placed"] * 2], "and so does the next"


def test_a_target_that_triggers_and_fills_nothing_is_left_by_an_exit() -> None:
    harness = Harness().in_position()
    harness.algo(TARGET, "TRIGGERING")
    assert harness.monitor.next_due == harness.time + PROTECT_WITHIN_MS
    harness.time = harness.monitor.next_due
    outputs = harness.note(harness.monitor.on_time(harness.time))
    assert [output.code for output in outputs if isinstance(output, Alert)] == ["TRIGGER_STUCK"]
    assert [(out.purpose, out.reason) for out in intents(outputs)] == [(Purpose.EXIT, "TAKE_PROFIT")]


def test_a_stop_covers_no_more_than_its_lots() -> None:
    harness = Harness()
    harness.order(ENTRY, "PARTIALLY_FILLED", 4)
    harness.algo(STOP, "NEW")
    harness.time += 600
    harness.order(ENTRY, "FILLED", 6)
    bare_since = harness.time
    while harness.time < bare_since + PROTECT_WITHIN_MS:
        harness.time = harness.monitor.next_due
        outputs = harness.note(harness.monitor.on_time(harness.time))
    assert harness.time == bare_since + PROTECT_WITHIN_MS
    assert [out.order.quantity for out in intents(outputs) if out.purpose is Purpose.EXIT] == [10]


def test_a_table_without_room_for_a_larger_stop_makes_no_storm_of_timers() -> None:
    harness = crowded()
    harness.order(ENTRY, "CANCELED", filled=ROWS - 1)  # whole now, and its stop is too small
    assert harness.monitor.next_due > harness.time


@pytest.mark.parametrize("is_algo", [False, True])
def test_a_strangers_news_between_a_due_time_and_its_timer_loses_nothing(is_algo: bool) -> None:
    """What it moves is the time: the exit that was due is sent, or still due."""
    harness = Harness().in_position()
    [out] = intents(harness.note(leave(harness.monitor, harness.time, "TIME")))
    harness.reply(out.order.client_order_id, "submit", Outcome.REFUSED, -1008)
    due = harness.monitor.next_due
    if is_algo:
        theirs = AlgoUpdate(due + 5, "BTCUSDT", "theirs", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 3, 900, 0)
        outputs = harness.monitor.on_algo(theirs)
    else:
        order = OrderUpdate(due + 5, "BTCUSDT", "theirs", 9, Side.SELL, OrderType.LIMIT, "NEW", "NEW", 3, 0)
        outputs = harness.monitor.on_order(order)
    assert [intent.purpose for intent in intents(harness.note(outputs))] == [Purpose.EXIT]
