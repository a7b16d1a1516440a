"""A day that is cut into sessions is the same day: bars, fills, limits and baselines, wherever it is cut."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltrade.config import Config
from voltrade.core import TradingCore
from voltrade.data.tape import load_tape
from voltrade.model import OrderUpdate, ResumeState, RoundTrip, Trades
from voltrade.simulated.core_commands import drain_events, execute
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.symbols import shipped_instrument
from voltrade.simulated.tape_playback import TapePlayer, simulate
from voltrade.tape_loop import AdvanceExchange, DrainEvents, EndOfTape, NextSegment, Request, SendCommand, TapeLoop

PARAMETERS: dict[str, Any] = {
    **{"seed": 7, "hours": 6.0, "threshold": 12, "cooldown_bars": 1, "max_holding_bars": 40, "stop_atr": 3.0},
    **{"ema_fast": 3, "ema_slow": 8, "rsi_length": 5, "atr_length": 5, "use_vwap_filter": False},
    **{"max_consecutive_losses": 2, "resume_after_s": 900.0, "take_profit_atr": 6.0, "exit_on_opposite_signal": False},
}
INSTRUMENT = shipped_instrument("BTCUSDT")
CONFIG = Config.from_parameters(PARAMETERS)
TAPE = load_tape(CONFIG.session, INSTRUMENT).trades


@dataclass
class Day:
    """What a day in one or several sessions left."""

    fills: list[tuple[int, ...]] = field(default_factory=list)
    round_trips: list[tuple[Any, ...]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    bars: list[Any] = field(default_factory=list)


def trade_a_day(cuts: list[int]) -> Day:
    """Trade the tape in sessions that end, keeping their position, at these times."""
    exchange, player = simulate(CONFIG, TAPE)
    day, head = Day(), None
    for end in [*cuts, 0]:
        if 0 < end <= exchange.clock:
            continue  # an exit that was under way at the cut before took until now
        duration = {"duration_s": (end - exchange.clock) / 1000, "on_duration_end": "protect"} if end else {}
        core = TradingCore(Config.from_parameters({**PARAMETERS, **duration}), INSTRUMENT, f"s{end}")
        fold_earlier(core, TAPE[: player.trades_played])
        if head is not None:
            core.handle(ResumeState(exchange.clock, json.dumps(head), ""))
        trade_a_session(core, exchange, player, day)
        head = core.state()
        day.bars = [row.item() for row in core.symbol_states["BTCUSDT"].pipeline.bars]
    assert head is not None
    day.state = head
    return day


def fold_earlier(core: TradingCore, trades: Trades) -> None:
    while len(trades):
        trades = trades[core.handle(trades)[0] :]


def trade_a_session(core: TradingCore, exchange: SimulatedExchange, player: TapePlayer, day: Day) -> None:
    def handle(event: Any) -> Any:
        if isinstance(event, OrderUpdate) and event.trade_id:
            day.fills.append((event.time, event.trade_id, event.last_price, event.last_quantity, event.realised))
        consumed, outputs = core.handle(event)
        trips = [f for f in outputs if isinstance(f, RoundTrip)]
        day.round_trips += [(t.id, t.opened_at, t.closed_at, t.net, t.exit_reason) for t in trips]
        return consumed, outputs

    run, answer = TapeLoop(core, handle, exchange.clock, marks=player.marks_played).run(), None
    try:
        while True:
            answer = answer_to(run.send(answer), exchange, player)
    except StopIteration:
        pass


def answer_to(ask: Request, exchange: SimulatedExchange, player: TapePlayer) -> Any:
    match ask:
        case NextSegment():
            return player.horizon()
        case AdvanceExchange():
            player.play(ask.trades, ask.mark, ask.time)
        case SendCommand(command=command):
            return execute(exchange, command)
        case DrainEvents():
            return drain_events(exchange)
        case EndOfTape():
            if player.trades_played == len(TAPE):
                player.finish()
    return None


@pytest.fixture(scope="module")
def whole() -> Day:
    return trade_a_day([])


def is_quiet(day: Day, time: int) -> bool:
    """Whether no entry was on its way: an entry that a session's end cancels is one that the whole day has filled."""
    entries = [opened for _, opened, *_ in day.round_trips]
    return not any(0 <= opened - time <= 5_000 or 0 <= time - opened <= 30_000 for opened in entries)


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=2, unique=True))
def test_a_day_in_three_sessions_is_the_day_in_one(whole: Day, parts: list[float]) -> None:
    first, last = int(TAPE.time[0]), int(TAPE.time[-1])
    cuts = [cut for part in sorted(parts) if is_quiet(whole, cut := first + int(part * (last - first)))]
    cut = trade_a_day(cuts)
    assert cut.bars == whole.bars
    assert cut.fills == whole.fills
    assert cut.round_trips == whole.round_trips
    limits = [day.state["breaker"] for day in (cut, whole)]
    assert limits[0] == limits[1]
    assert cut.state["wallet"] == whole.state["wallet"]
    for name in ("last_exit_time", "bars_since_exit", "quantity", "cost"):
        assert cut.state["symbol_states"]["BTCUSDT"][name] == whole.state["symbol_states"]["BTCUSDT"][name]


def test_the_day_meets_what_the_property_is_about(whole: Day) -> None:
    """Positions held over a cut, exits by time, a limit that tripped, a midnight."""
    assert len(whole.round_trips) >= 8
    assert {"TIME", "STOP"} <= {reason for *_, reason in whole.round_trips}
    assert any(hold["released_measure"] or hold["in_force"] for hold in whole.state["breaker"]["holds"].values())
    assert int(TAPE.time[0]) // 86_400_000 < int(TAPE.time[-1]) // 86_400_000
    inside = [(opened + closed) // 2 for _, opened, closed, *_ in whole.round_trips if closed - opened > 120_000]
    cut = trade_a_day(inside[1:3])
    assert (cut.fills, cut.state["breaker"]) == (whole.fills, whole.state["breaker"])
