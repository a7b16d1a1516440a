"""The core over whole tapes: the same commands however trades are cut, gates in their order, limits that hold."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.by_hand import enter

from voltrade import risk
from voltrade.config import Config
from voltrade.core import GATES, TradingCore
from voltrade.data.tape import Tape, load_tape
from voltrade.model import (
    NEVER,
    AccountSummary,
    Alert,
    AlgoUpdate,
    BreakerChange,
    CancelOrder,
    CloseReason,
    Event,
    Income,
    LookupOrder,
    MarkPrice,
    Operator,
    OrderIntent,
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
    StreamStatus,
    TakeSnapshot,
    Timer,
    money,
)
from voltrade.orders import account_books
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.records import SIGNAL
from voltrade.research.backtest import Backtest, backtest
from voltrade.simulated.symbols import shipped_instrument
from voltrade.symbol_state import left_at_exchange

QUICK = {
    **{"seed": 7, "hours": 4.0, "threshold": 15, "cooldown_bars": 1, "take_profit_atr": 2.0},
    **{"ema_fast": 5, "ema_slow": 13, "rsi_length": 7, "atr_length": 7},
}
"""Short indicators, so that a short tape warms them up."""


def a_config(**parameters: object) -> Config:
    return Config.from_parameters({**QUICK, **parameters})


def a_tape(config: Config) -> Tape:
    return load_tape(config.session, shipped_instrument(config.session.symbol))


@pytest.fixture(scope="module")
def result() -> Backtest:
    config = a_config()
    return backtest(a_tape(config), config, path="events")


def test_the_tape_is_traded_both_ways_and_nothing_is_left_open(result: Backtest) -> None:
    trips = result.trips
    assert {trip.side for trip in trips} == {Side.BUY, Side.SELL}
    assert {"STOP", "TAKE_PROFIT"} <= {trip.exit_reason for trip in trips}
    position = sum(fact.side * fact.last_quantity for fact in result.facts if isinstance(fact, OrderUpdate))
    assert position == 0
    assert not [fact for fact in result.facts if isinstance(fact, Alert) and fact.code != "TRANSFER"]


@pytest.mark.parametrize("block", [1, 7])
def test_the_commands_do_not_depend_on_how_trades_are_cut(block: int) -> None:
    config = a_config(hours=1.5, threshold=5)
    whole, cut = (backtest(a_tape(config), config, block=size, path="events") for size in (None, block))
    assert cut.facts == whole.facts
    assert cut.bars.tobytes() == whole.bars.tobytes()
    assert any(isinstance(fact, OrderIntent) for fact in whole.facts)


def test_a_person_is_told_once_that_bars_have_left_their_band() -> None:
    config = a_config(hours=1.5, threshold=5, most_bars_a_day=100)
    whole, cut = (backtest(a_tape(config), config, path="events", block=size) for size in (None, 7))
    assert backtest(a_tape(config), config).facts == whole.facts
    [alert] = [fact for fact in whole.facts if isinstance(fact, Alert)]
    assert alert.code == "BAR_RATE"
    assert alert.text.startswith("bars of 5 come too fast: 1")
    assert cut.facts == whole.facts


def test_every_position_has_a_stop_from_its_first_fill(result: Backtest) -> None:
    first_fill: dict[int, int] = {}
    stop: dict[int, int] = {}
    trips = {fact.order.client_order_id: fact for fact in result.facts if isinstance(fact, OrderIntent)}
    for fact in result.facts:
        if isinstance(fact, OrderUpdate) and fact.trade_id:
            intent = trips[fact.client_order_id]
            if intent.purpose is Purpose.ENTRY:
                first_fill.setdefault(intent.round_trip, fact.time)
        if isinstance(fact, OrderIntent) and fact.purpose is Purpose.STOP:
            stop.setdefault(fact.round_trip, fact.time)
    assert first_fill
    assert stop == first_fill


def test_each_signal_is_either_entered_or_refused_with_a_code(result: Backtest) -> None:
    signals = {int(index) for index in range(len(result.bar_decisions)) if result.bar_decisions[index]["signal"]}
    refused = {fact.bar_number for fact in result.facts if isinstance(fact, Refusal)}
    entered = {
        fact.bar_number for fact in result.facts if isinstance(fact, OrderIntent) and fact.purpose is Purpose.ENTRY
    }
    assert refused | entered == signals
    assert not refused & entered
    codes = Counter(fact.code for fact in result.facts if isinstance(fact, Refusal))
    assert {"WARMING_UP", "IN_POSITION", "COOLDOWN"} <= set(codes)


def test_an_entry_risks_no_more_than_its_share_of_capital(result: Backtest) -> None:
    capital = float(result.config.risk.capital)
    worst = min(trip.net for trip in result.trips if trip.exit_reason == "STOP") / 1e8
    # A gap through the stop may cost more; twice the planned risk would mean that the size is wrong.
    assert worst >= -2 * capital * result.config.risk.risk_fraction


def test_the_gates_stand_in_one_list_and_each_refuses_under_its_own_code() -> None:
    exported = {gate.code for gate in vars(risk).values() if isinstance(gate, risk.Gate)}
    assert [gate.code for gate in GATES] == list(dict.fromkeys(gate.code for gate in GATES))
    assert {gate.code for gate in GATES} == exported


def test_a_limit_on_trades_a_day_stops_entries_until_midnight(result: Backtest) -> None:
    config = a_config(max_trades_per_day=2)
    limited = backtest(a_tape(config), config, path="events")
    days = Counter(trip.opened_at // 86_400_000 for trip in limited.trips)
    assert set(days.values()) == {2}
    assert any(f.rule == "TRADES_PER_DAY" for f in limited.facts if isinstance(f, BreakerChange))
    assert any(f.code == "TRADES_PER_DAY" for f in limited.facts if isinstance(f, Refusal))


def test_a_daily_loss_flattens_and_no_entry_follows_that_day(result: Backtest) -> None:
    """The price jumps by 10 % against the first position, through its stop, which may cost 0.5 % of the capital."""
    config, first = a_config(max_consecutive_losses=50), result.trips[0]
    tape = a_tape(config)
    jumped = np.where(tape.trades.time > first.opened_at + 1_000, 10 - first.side, 10) * tape.trades.price // 10
    limited = backtest(replace(tape, trades=replace(tape.trades, price=jumped)), config, path="events")
    tripped = [f for f in limited.facts if isinstance(f, BreakerChange) and f.rule == "DAILY_LOSS"]
    assert tripped
    assert tripped[0].action == "flatten"
    entries = [f.time for f in limited.facts if isinstance(f, OrderIntent) and f.purpose is Purpose.ENTRY]
    assert not [time for time in entries if tripped[0].time <= time < tripped[0].release_at]


def test_an_opposite_signal_leaves_unless_it_is_switched_off(result: Backtest) -> None:
    assert "OPPOSITE_SIGNAL" in {trip.exit_reason for trip in result.trips}
    config = a_config(exit_on_opposite_signal=False)
    assert "OPPOSITE_SIGNAL" not in {trip.exit_reason for trip in backtest(a_tape(config), config, path="events").trips}


def test_a_streak_of_one_loss_blocks_until_its_pause_is_over_to_the_millisecond() -> None:
    config = a_config(max_consecutive_losses=1, resume_after_s=900.0)
    done = backtest(a_tape(config), config, path="events")
    changes = [f for f in done.facts if isinstance(f, BreakerChange) and f.rule == "LOSING_STREAK"]
    tripped, released = changes[0], changes[1]
    first_loss = next(trip for trip in done.trips if trip.net < 0)
    assert (tripped.time, tripped.action) == (first_loss.closed_at, "block")
    assert (released.time, released.action) == (tripped.time + 900_000, "resume")
    entries = [f.time for f in done.facts if isinstance(f, OrderIntent) and f.purpose is Purpose.ENTRY]
    assert not [time for time in entries if tripped.time <= time < released.time]
    assert any(f.code == "LOSING_STREAK" for f in done.facts if isinstance(f, Refusal))


def test_no_entry_risks_more_than_the_day_has_left() -> None:
    """A stop-out may cost 0.5 % of the capital, and the day may lose 0.7 %: one loss, and no other that day."""
    config = a_config(max_daily_loss_fraction=0.007, max_consecutive_losses=50)
    done = backtest(a_tape(config), config, path="events")
    refused = [f.time for f in done.facts if isinstance(f, Refusal) and f.code == "DAILY_BUDGET"]
    assert refused
    assert not [f for f in done.facts if isinstance(f, BreakerChange) and f.rule == "DAILY_LOSS"]
    lost = sum(trip.net for trip in done.trips if trip.closed_at < refused[0])
    assert lost < 0


def test_a_limit_that_wants_it_closes_the_position_in_hand() -> None:
    config = a_config(max_drawdown_fraction=0.001)
    done = backtest(a_tape(config), config, path="events")
    tripped = next(f for f in done.facts if isinstance(f, BreakerChange))
    [trip] = [trip for trip in done.trips if trip.exit_reason == "DRAWDOWN"]
    assert trip.opened_at < tripped.time <= trip.closed_at < tripped.time + 120_000


def test_an_entry_is_refused_where_trades_are_missing_from_its_bar(result: Backtest) -> None:
    entry = next(f for f in result.facts if isinstance(f, OrderIntent) and f.purpose is Purpose.ENTRY)
    config = a_config()
    tape = a_tape(config)
    inside = int(result.bars[entry.bar_number]["last_trade_id"])
    jumped = replace(tape.trades, id=tape.trades.id + (tape.trades.id >= inside))
    done = backtest(replace(tape, trades=jumped), config, path="events")
    assert done.bars[entry.bar_number]["tainted"]
    refusal = next(f for f in done.facts if isinstance(f, Refusal) and f.bar_number == entry.bar_number)
    assert refusal.code == "BAR_TAINTED"


def test_the_gates_are_told_of_short_bars_earlier_bars_and_an_account_that_disagrees() -> None:
    core = a_core()
    [symbol_state] = core.symbol_states.values()
    trades = a_tape(a_config()).trades[:3_000]
    while len(trades):
        trades = trades[core.handle(trades)[0] :]
    last = symbol_state.pipeline.count - 1

    def facts(bar: int) -> Any:
        symbol_state.pipeline.decisions[bar]["signal"] = 1
        core._on_signal(symbol_state, bar)
        return core._books.symbols[0]["gate_inputs"][0]

    told = facts(last)
    assert (told["last_bar"], told["day_end"], told["reconciled"], told["user_stream_up"]) == (1, 0, 0, 0)
    assert not facts(last - 1)["last_bar"]
    symbol_state.pipeline.bars[last]["close_reason"] = CloseReason.DAY_END
    core.handle(StreamStatus(core.time, "user", True))
    symbol_state.monitor.reconciled = True
    told = facts(last)
    assert (told["day_end"], told["reconciled"], told["user_stream_up"]) == (1, 1, 1)


def test_a_duration_ends_the_session_flat() -> None:
    config = a_config(duration_s=10_800.0)
    ended = backtest(a_tape(config), config, path="events")
    start = next(f.time for f in ended.facts if isinstance(f, StreamStatus))
    assert ended.bars["close_time"][-1] < start + 10_800_000 + 600_000
    assert max(trip.closed_at for trip in ended.trips) < start + 10_860_000


def test_a_bars_limit_leaves_the_position() -> None:
    config = a_config(max_holding_bars=2, exit_on_opposite_signal=False, stop_atr=8.0, take_profit_atr=0)
    held = backtest(a_tape(config), config, path="events")
    assert {trip.exit_reason for trip in held.trips} <= {"TIME", "TAPE_END"}
    assert "TIME" in {trip.exit_reason for trip in held.trips}


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from([4, 10, 25]),
    latency=st.sampled_from([0, 50, 900]),
    stop=st.sampled_from([0.7, 2.0]),
    unit=st.sampled_from(["base", "trades"]),
)
def test_whatever_the_tape_and_the_settings_the_books_balance(
    seed: int, threshold: int, latency: int, stop: float, unit: str
) -> None:
    config = a_config(
        seed=seed,
        hours=1.0,
        threshold=threshold * (4 if unit == "trades" else 1),
        unit=unit,
        latency_ms=latency,
        stop_atr=stop,
    )
    done = backtest(a_tape(config), config, path="events")
    fills = [f for f in done.facts if isinstance(f, OrderUpdate) and f.trade_id]
    assert sum(f.side * f.last_quantity for f in fills) == 0
    per_ticklot = done.instrument.money_per_ticklot
    paid = sum(-f.side * f.last_quantity * f.last_price * per_ticklot for f in fills)
    assert sum(trip.net for trip in done.trips) == paid - sum(f.fee for f in fills)
    assert len({f.trade_id for f in fills}) == len(fills)


def a_core(**parameters: object) -> TradingCore:
    return TradingCore(a_config(**parameters), shipped_instrument("BTCUSDT"), "t")


def test_nothing_is_due_and_nothing_is_traded_before_the_first_snapshot() -> None:
    core = a_core()
    assert core.next_due == NEVER
    assert core.handle(MarkPrice("BTCUSDT", 1, 100)) == (1, [])
    consumed, outputs = core.handle(StreamStatus(2, "user", True))
    assert (consumed, outputs) == (1, [TakeSnapshot(2, "BTCUSDT", "USER_STREAM_UP")])


def test_a_run_that_begins_while_its_symbol_does_not_trade_enters_nothing_until_it_does() -> None:
    core = TradingCore(a_config(), replace(shipped_instrument("BTCUSDT"), status="BREAK"), "t")
    facts = core._books.symbols[0]["gate_inputs"]
    [symbol_state] = core.symbol_states.values()
    assert risk.symbol_changed(facts, facts)
    core.handle(replace(symbol_state.filters, time=2, status="TRADING"))
    assert not risk.symbol_changed(facts, facts)
    core.handle(replace(symbol_state.filters, time=3, status="BREAK"))
    assert risk.symbol_changed(facts, facts)


def test_a_person_can_halt_and_resume() -> None:
    core = a_core()
    assert core.handle(Operator(1, "pause", "lunch")) == (1, [])
    assert core.paused == "lunch"
    core.handle(Operator(2, "resume", "back"))
    assert core.paused == ""


def a_snapshot(time: int = 3, position: int = 0) -> Snapshot:
    report = PositionReport("BTCUSDT", position, "0")
    amount = money(10_000)
    return Snapshot(time, "BTCUSDT", amount, amount, 0, 0, 5, "isolated", False, report)


@pytest.mark.parametrize(
    ("actions", "mode", "paused"),
    [
        (["halt"], "HALTED", ""),
        (["reduce"], "REDUCING", ""),
        (["pause"], "ACTIVE", "1"),
        (["flatten"], "ACTIVE", "1"),
        (["protect"], "ACTIVE", "1"),
        (["halt", "resume"], "ACTIVE", ""),
        (["resume", "halt"], "HALTED", ""),
        (["reduce", "halt", "pause"], "HALTED", "3"),
        (["pause", "halt", "resume", "reduce"], "REDUCING", ""),
    ],
)
@pytest.mark.parametrize("linked", [0, 1, 2], ids=["before the link", "before the snapshot", "in between"])
def test_commands_before_the_first_snapshot_are_kept_in_their_order(
    actions: list[Any], mode: str, paused: str, linked: int
) -> None:
    """Fault case F5: given while the engine loads, or while the account is being asked for."""
    core = a_core()
    orders: list[Event] = [Operator(1, action, str(number)) for number, action in enumerate(actions, start=1)]
    for event in (*orders[:linked], StreamStatus(2, "user", True), *orders[linked:]):
        core.handle(event)
    assert core.breaker is None
    _, outputs = core.handle(a_snapshot())
    assert core.breaker is not None
    assert (core.breaker.mode, core.paused) == (mode, paused)
    assert bool([o for o in outputs if isinstance(o, BreakerChange)]) == (set(actions) & {"halt", "reduce"} != set())
    assert not [o for o in core.handle(a_snapshot(4))[1] if isinstance(o, BreakerChange)]  # once


def test_a_stop_before_the_first_snapshot_ends_the_session() -> None:
    """Fault case F5: there is nothing in hand to wait for."""
    core = a_core()
    core.handle(Operator(1, "flatten", "no", final=True))
    assert core.finished
    core.handle(a_snapshot())
    assert (core.finished, core.end_reason) == (True, "no")


@pytest.mark.parametrize(
    ("summary", "reads"),
    [
        ({}, False),
        ({"wallet": money(9_999)}, True),
        ({"position": 1}, True),
        ({"orders": ("android_x1",)}, True),
        ({"leverage": 20}, True),
        ({"hedge_mode": True}, True),
    ],
    ids=["agrees", "wallet", "position", "order", "leverage", "position mode"],
)
def test_an_account_that_differs_from_the_books_is_read_whole(summary: dict[str, Any], reads: bool) -> None:
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    settings = {"leverage": 5, "margin_type": "isolated", "hedge_mode": False}
    told = AccountSummary(
        **{"time": 4, "symbol": "BTCUSDT", "wallet": money(10_000), "position": 0} | settings | summary
    )
    expected = [TakeSnapshot(4, "BTCUSDT", "ACCOUNT_DIFFERS")] if reads else []
    assert core.handle(told) == (1, expected)
    assert core.symbol_states["BTCUSDT"].monitor.reconciled  # what it says is not acted on


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ({}, False),
        ({"wallet": money(9_999)}, True),
        ({"position": 1}, True),
        ({"orders": ()}, True),
        ({"orders": ("theirs", "more")}, True),
        ({"leverage": 20}, True),
    ],
    ids=["the same", "wallet", "position", "no order", "another order", "leverage"],
)
def test_an_account_that_is_known_to_differ_is_read_whole_again_only_if_it_changes(
    change: dict[str, Any], reads: bool
) -> None:
    """An order of another program rests; the next reading is due by its own pause, which doubles."""
    core = a_core()
    core.handle(StreamStatus(2, "user", True))
    resting = AlgoUpdate(2, "BTCUSDT", "theirs", 9, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 900, 0)
    core.handle(replace(a_snapshot(), algo_orders=(resting,)))
    settings = {"leverage": 5, "margin_type": "isolated", "hedge_mode": False}
    known: dict[str, Any] = {**settings, "position": 0, "orders": ("theirs",)}
    told = AccountSummary(**{"time": 4, "symbol": "BTCUSDT", "wallet": money(10_000)} | known | change)
    expected = [TakeSnapshot(4, "BTCUSDT", "ACCOUNT_DIFFERS")] if reads else []
    assert core.handle(told) == (1, expected)
    assert [each for each in core.handle(Timer(core.next_due))[1] if isinstance(each, TakeSnapshot)]
    again = replace(told, time=core.time)
    assert core.handle(again)[1] == [TakeSnapshot(core.time, "BTCUSDT", "ACCOUNT_DIFFERS")], "no other is scheduled"


def a_position(core: TradingCore) -> str:
    """Give a core a position of 10 lots with its stop; return the entry's name."""
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    [symbol_state] = core.symbol_states.values()
    [intent] = enter(symbol_state.monitor, 3, Side.BUY, 10)
    assert isinstance(intent, OrderIntent)
    name = intent.order.client_order_id
    fill = OrderUpdate(4, "BTCUSDT", name, 1, Side.BUY, OrderType.MARKET, "FILLED", "TRADE", 10, 10)
    core.handle(replace(fill, trade_id=1, last_quantity=10, last_price=1_000))
    return name


@pytest.mark.parametrize("how", ["protect", "flatten", "duration"])
def test_resume_lets_no_entry_into_a_session_that_ends(how: Any) -> None:
    """It releases the breaker, and not the pause: `stop` means no new entries."""
    core = a_core(duration_s=60.0)
    a_position(core)
    core.handle(Operator(5, "halt", "look"))
    core.handle(Timer(60_010) if how == "duration" else Operator(6, how, "enough", final=True))
    assert not core.finished
    core.handle(Operator(60_020, "resume", "again"))
    assert core.breaker is not None
    assert (core.paused, core.breaker.mode) == ("DURATION_END" if how == "duration" else "enough", "ACTIVE")


def test_resume_lets_entries_again_after_a_flatten_that_ends_nothing() -> None:
    core = a_core()
    a_position(core)
    core.handle(Operator(5, "flatten", "enough"))
    core.handle(Operator(6, "resume", "again"))
    assert core.paused == ""


def _late_entry(core: TradingCore, before: list[Operator]) -> list[tuple[str, str]]:
    """Fill an entry that was over, after commands; return purpose and reason of what is sent then."""
    core.handle(StreamStatus(2, "user", True))
    core.handle(a_snapshot())
    [symbol_state] = core.symbol_states.values()
    [intent] = enter(symbol_state.monitor, 3, Side.BUY, 10)
    assert isinstance(intent, OrderIntent)
    over = OrderUpdate(4, "BTCUSDT", intent.order.client_order_id, 1, Side.BUY, OrderType.MARKET, "EXPIRED", "E", 10, 0)
    core.handle(over)
    for command in before:
        core.handle(command)
    late = replace(over, status="FILLED", execution="TRADE", filled=10, time=9, trade_id=1, last_quantity=10)
    _, outputs = core.handle(replace(late, last_price=1_000))
    return [(str(o.purpose), o.reason) for o in outputs if isinstance(o, OrderIntent)]


@pytest.mark.parametrize(
    ("commands", "closed"),
    [
        (["flatten"], True),
        (["flatten", "pause"], True),
        (["flatten", "resume"], False),
        (["flatten", "resume", "pause"], False),
        (["protect"], False),
        (["pause"], False),
        (["halt"], False),
        ([], False),
    ],
)
def test_an_entry_that_executes_after_positions_were_flattened_is_closed(commands: list[Any], closed: bool) -> None:
    sent = _late_entry(a_core(), [Operator(5 + n, action, action) for n, action in enumerate(commands)])
    assert [reason for purpose, reason in sent if purpose == "x"] == ([commands[-1]] if closed else [])
    assert [purpose for purpose, _ in sent if purpose == "s"] == ["s"]  # until it is closed


def test_an_entry_that_executes_while_a_breaker_rule_flattens_is_closed() -> None:
    core = a_core()
    core.handle(StreamStatus(1, "user", True))
    core.handle(a_snapshot())
    hold = core._books.account["holds"][risk.RULES.index("DAILY_LOSS")]
    hold["in_force"], hold["action"], hold["release_at"] = True, risk.ACTION_FLATTEN, NEVER
    assert [reason for purpose, reason in _late_entry(core, []) if purpose == "x"] == ["DAILY_LOSS"]


@pytest.mark.parametrize("action", ["halt", "reduce", "flatten", "pause"])
def test_commands_before_an_account_is_carried_out_over_are_kept_too(action: Any) -> None:
    """Fault case F5: what the last run left in hand is what `flatten` is for."""
    last = a_core()
    a_position(last)
    core = a_core()
    core.handle(Operator(5, action, "now"))
    core.handle(ResumeState(6, json.dumps(last.state()), ""))
    _, outputs = core.handle(a_snapshot(7, position=10))
    assert core.breaker is not None
    assert core.breaker.mode == {"halt": "HALTED", "reduce": "REDUCING"}.get(action, "ACTIVE")
    exits = [o for o in outputs if isinstance(o, OrderIntent) and o.purpose is Purpose.EXIT]
    assert [(o.order.quantity, o.reason) for o in exits] == ([(10, "now")] if action == "flatten" else [])


def _saved(**changed: Any) -> dict[str, Any]:
    """The state of a core with a position of 10 lots, with other orders or breaker."""
    last = a_core()
    a_position(last)
    saved = last.state()
    assert saved is not None
    saved["symbol_states"]["BTCUSDT"]["orders"] |= changed.pop("orders", {})
    return saved | changed


@pytest.mark.parametrize(
    ("saved", "lots", "why"),
    [
        (_saved(), 10, ""),
        (_saved(breaker={}), 10, "circuit breaker: the saved state is broken"),
        (_saved(wallet_check={"agreed_at": None}), 10, "account: the saved state is broken"),
        (_saved(orders={"version": 99}), 0, "orders: version of the saved state must be"),
        (_saved(orders={"open_position": {"position": {}}}), 0, "orders: the saved state is broken"),
        ({}, 0, "account: the saved state is broken"),
    ],
)
def test_what_of_a_saved_state_cannot_be_read_lets_nothing_be_entered_until_a_person_resumes(
    saved: dict[str, Any], lots: int, why: str
) -> None:
    """Limits that may be used aren't begun afresh by silence, and what can be read of the position is kept."""
    core = a_core()
    _, outputs = core.handle(ResumeState(6, json.dumps(saved), ""))
    assert [o.text for o in outputs if isinstance(o, Alert) and f"STATE_UNREAD: {why}" in o.text] == [
        o.text for o in outputs if isinstance(o, Alert)
    ]
    assert bool(outputs) == bool(why)
    core.handle(a_snapshot(7, position=10))
    assert core.breaker is not None
    assert (core.breaker.mode, core.breaker.codes) == (("REDUCING", ("ON_HOLD",)) if why else ("ACTIVE", ()))
    assert [each.monitor.position for each in core.symbol_states.values()] == [lots]
    core.handle(Operator(8, "resume", "looked at it"))
    assert core.breaker.mode == "ACTIVE"


@pytest.mark.parametrize("action", ["flatten", "protect", "pause"])
def test_a_command_without_a_reason_is_carried_out(action: Any) -> None:
    """Fault case F4, sibling: no byte in the reason at all, as `ctl flatten RUN` sends it."""
    core = a_core()
    a_position(core)
    _, outputs = core.handle(Operator(5, action, "", final=True))
    assert [o.purpose for o in outputs if isinstance(o, OrderIntent)] == [Purpose.EXIT] * (action == "flatten")
    assert (core.paused, core.end_reason) == ("OPERATOR", "OPERATOR")


def a_stop(core: TradingCore) -> AlgoUpdate:
    """Have the exchange take the stop of a core's position; return what it says of it."""
    [symbol_state] = core.symbol_states.values()
    [stop] = (order for order in symbol_state.monitor.orders.values() if order.algo)
    core.handle(Reply(5, "submit", "BTCUSDT", stop.id, True, Outcome.ACCEPTED))
    resting = AlgoUpdate(5, "BTCUSDT", stop.id, 7, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 980)
    core.handle(resting)
    return resting


def test_a_wallet_that_differs_is_told_of_once_nothing_is_looked_up() -> None:
    """What isn't listed may have filled: its fill is in the wallet before it is in our books."""
    core = a_core()
    a_position(core)
    resting = replace(a_stop(core), time=7)
    [symbol_state] = core.symbol_states.values()
    paid = replace(a_snapshot(6, 10), wallet=money(9_999))
    _, outputs = core.handle(paid)
    assert [o.client_order_id for o in outputs if isinstance(o, LookupOrder)] == [resting.client_order_id]
    assert not [o for o in outputs if isinstance(o, Alert)]
    assert not symbol_state.monitor.reconciled  # no entry until the account was asked again
    _, outputs = core.handle(Timer(core.next_due))
    assert [o.reason for o in outputs if isinstance(o, TakeSnapshot)] == ["WALLET_DIFFERS"]
    _, outputs = core.handle(replace(paid, time=2_000, algo_orders=(resting,)))
    assert not [o for o in outputs if isinstance(o, Alert)]  # the event that tells of it may be on its way
    core.handle(Timer(core.next_due))
    lost = (Income(1, "REALIZED_PNL", money(-1), "ETHUSDT"),)
    _, outputs = core.handle(replace(paid, time=4_000, algo_orders=(resting,), income=lost))
    assert not [o for o in outputs if isinstance(o, Alert)]  # wallet and history may both lack the fill of a moment ago
    core.handle(Timer(core.next_due))
    _, outputs = core.handle(replace(paid, time=20_000, algo_orders=(resting,), income=lost))
    assert [(o.code, o.text) for o in outputs if isinstance(o, Alert)] == [
        ("ADJUSTMENT", "trades that aren't ours: -1.00000000")
    ]
    assert core.account is not None
    assert core.account.wallet == money(9_999)


def test_a_wallet_that_differs_is_explained_beside_an_order_of_somebody_else() -> None:
    """It may stay there for weeks, and limits on losses count what its owner has lost."""
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    theirs = replace(resting, client_order_id="theirs")
    shown = replace(a_snapshot(20_000, 10), wallet=money(9_999), algo_orders=(resting, theirs))
    core.handle(shown)
    assert core.income_since
    lost = (Income(19_000, "REALIZED_PNL", money(-1), "ETHUSDT"),)
    _, outputs = core.handle(replace(shown, time=40_000, income=lost))
    assert [o.text for o in outputs if isinstance(o, Alert) and o.code == "ADJUSTMENT"] == [
        "trades that aren't ours: -1.00000000"
    ]
    assert core.account is not None
    assert core.account.wallet == money(9_999)


def test_a_session_that_keeps_its_position_ends_when_the_exchange_has_confirmed_its_stop() -> None:
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    _, outputs = core.handle(Operator(6, "protect", "bye", final=True))
    assert [o.reason for o in outputs if isinstance(o, TakeSnapshot)] == ["bye"]
    assert not core.finished
    core.handle(replace(a_snapshot(7, 10), algo_orders=(resting,)))
    assert core.finished


def test_a_session_that_keeps_its_position_ends_beside_an_order_of_somebody_else_and_says_so() -> None:
    """It isn't ours to wait for, nor to cancel."""
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    theirs = replace(resting, client_order_id="web_1", algo_id=9)
    core.handle(Operator(6, "protect", "bye", final=True))
    core.handle(replace(a_snapshot(7, 10), algo_orders=(theirs,)))
    assert not core.finished, "our stop isn't listed"
    core.handle(replace(a_snapshot(8, 10), algo_orders=(resting, theirs)))
    assert core.finished
    assert left_at_exchange(core.symbol_states.values()) == (
        f"0.010 BTC, stop {resting.client_order_id} of 0.010 at 98.0 (NEW), order web_1, which isn't ours"
    )
    core.handle(replace(a_snapshot(9, 10), algo_orders=(resting,)))
    assert "web_1" not in left_at_exchange(core.symbol_states.values())


@pytest.mark.parametrize(
    ("held", "lists_stop", "readings"),
    [(14, True, 5), (14, False, 0), (6, True, 0), (-4, True, 0)],
    ids=["more lots", "without the stop", "fewer lots", "the other side"],
)
def test_a_session_that_keeps_its_position_ends_although_somebody_has_added_to_it(
    held: int, lists_stop: bool, readings: int
) -> None:
    """What nobody explains for long is somebody else's: the stop needs to cover our own lots, and is confirmed."""
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    core.handle(Operator(6, "protect", "bye", final=True))
    finished = []
    for at in range(1, 8):
        shown = replace(a_snapshot(at * 100_000, held), algo_orders=(resting,) if lists_stop else ())
        core.handle(shown)
        finished.append(core.finished)
    assert finished.count(True) == (8 - readings if readings else 0)


def test_a_session_that_keeps_its_position_ends_beside_an_order_of_somebody_else() -> None:
    """Entries wait until it is gone, but position and stop are confirmed."""
    core = a_core()
    a_position(core)
    resting = a_stop(core)
    core.handle(Operator(6, "protect", "bye", final=True))
    theirs = replace(resting, client_order_id="theirs")
    core.handle(replace(a_snapshot(7, 10), algo_orders=(theirs,)))
    assert not core.finished
    core.handle(replace(a_snapshot(8, 10), algo_orders=(resting, theirs)))
    assert core.finished


def test_a_refusal_that_nobody_knows_halts_until_a_person_has_looked() -> None:
    core = a_core()
    a_position(core)
    [symbol_state] = core.symbol_states.values()
    [stop] = (order for order in symbol_state.monitor.orders.values() if order.algo)
    core.handle(Reply(5, "submit", "BTCUSDT", stop.id, True, Outcome.REFUSED, -99_999, "because"))
    assert core.breaker is not None
    assert core.breaker.mode == "HALTED"
    assert "-99999" in core.breaker.reason
    core.handle(Timer(10_000_000))
    assert core.breaker.mode == "HALTED"
    core.handle(Operator(10_000_001, "resume", "I have looked"))
    assert core.breaker.mode == "ACTIVE"


def test_nothing_is_due_again_at_the_time_of_a_timer() -> None:
    """Fault case A7, the kind: whatever a rule holds to be due, time moves on, and trades are taken."""
    core = a_core()
    hold = core._books.account["holds"][0]  # no account is open: no timer lets it go
    hold["in_force"], hold["release_at"] = True, 0
    due = core.next_due
    for _ in range(5):
        core.handle(Timer(core.next_due))
        assert core.next_due > due
        due = core.next_due
    core.handle(Timer(100))
    assert core.next_due == 101


def test_trades_by_hand_before_the_position_never_touch_its_books() -> None:
    """Fault case B1: neither the monitor's position nor the account's, nor the breaker."""
    core = a_core()
    entry = a_position(core)
    [symbol_state] = core.symbol_states.values()
    assert symbol_state.monitor.orders[entry].filled == 10
    core.handle(Timer(5))
    by_hand = [
        OrderUpdate(
            *(1, "BTCUSDT", "", 77, side, OrderType.MARKET, "PARTIALLY_FILLED", "TRADE", 10, 10),
            trade_id=trade_id,
            last_quantity=10,
            last_price=900,
        )
        for trade_id, side in ((11, Side.BUY), (12, Side.SELL))
    ]
    listed = tuple(
        AlgoUpdate(5, "BTCUSDT", name, 7, Side.SELL, OrderType.STOP_MARKET, "NEW", 10, 980)
        for name, order in symbol_state.monitor.orders.items()
        if order.algo
    )
    _, outputs = core.handle(replace(a_snapshot(6, 10), fills=tuple(by_hand), algo_orders=listed))
    assert not [o for o in outputs if isinstance(o, CancelOrder | RoundTrip)]
    assert core.account is not None
    assert (symbol_state.monitor.position, core.account.positions["BTCUSDT"].quantity) == (10, 10)
    assert core.breaker is not None
    assert core.breaker.mode == "ACTIVE"


def test_books_decide_by_the_function_that_they_were_given() -> None:
    """Those without one take no signal; each keeps its own."""
    told: list[str] = []

    def deciding(name: str) -> Any:
        return lambda accounts, symbols, index, signals: told.append(f"{name} {index}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(account_books, "signal_step", lambda decide: decide)
        for books in (AccountBooks(0, deciding("a")), AccountBooks(0, deciding("b"))):
            books.on_signal(0, np.zeros(1, SIGNAL))
            books.take_rules()
            books.on_signal(0, np.zeros(1, SIGNAL))
    assert told == ["a 0", "a 0", "b 0", "b 0"]
    with pytest.raises(AssertionError):
        AccountBooks(0).on_signal(0, np.zeros(1, SIGNAL))
