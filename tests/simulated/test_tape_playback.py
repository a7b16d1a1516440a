"""The player of tapes: where marks fall, how far a look ahead reaches, and several symbols on one clock."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.builders import an_instrument
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    a_player,
    an_exchange,
    fills,
    hold,
    market,
    played,
    state_of,
    stop,
    trades,
)

from voltrade.config import Config
from voltrade.data.tape import load_tape
from voltrade.errors import DataError
from voltrade.model import AccountUpdate, MarkPrice, Trades, money
from voltrade.research.backtest import backtest
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.ground_truth import restored
from voltrade.simulated.symbols import SymbolRules, shipped_instrument
from voltrade.simulated.tape_playback import TapePlayer, steps_until


def test_marks_come_at_whole_intervals_after_earlier_trades_and_before_later_ones() -> None:
    tape = trades((0, 1_000, "b", 1), (99, 1_010, "b", 1), (100, 1_020, "b", 1), (350, 1_030, "b", 1))
    player = a_player(tape)
    seen: list[tuple[int, int | None, bool]] = []
    marks: list[MarkPrice] = []
    while True:
        segment = player.horizon()
        seen.append((len(segment.trades), segment.mark and segment.mark.time - T0, segment.end))
        player.play(len(segment.trades), segment.mark is not None, 0)
        if segment.mark:
            marks.append(segment.mark)
            assert player.market.mark == segment.mark
        if segment.end:
            break
    assert seen == [(2, 100, False), (1, 200, False), (0, 300, False), (1, None, True)]
    for mark, last in zip(marks, (1_010, 1_020, 1_020), strict=True):
        assert abs(mark.price_e8 - money(last)) <= money(last) * 3 // 10_000
        assert mark.next_funding_time % 28_800_000 == 0 < mark.next_funding_time - mark.time <= 28_800_000
    assert len({mark.price_e8 for mark in marks}) == 3
    assert (player.first_time, player.last_time) == (T0, T0 + 350)
    assert (player.trades_played, player.marks_played) == (4, 3)


def test_the_basis_follows_the_seed_and_the_time_and_reverts() -> None:
    size = 20_000
    tape = Trades(
        SYMBOL,
        np.arange(1, size + 1),
        np.full(size, 1_000),
        np.ones(size, dtype=np.int64),
        T0 + np.arange(size) * 50,
        np.zeros(size, dtype=np.bool_),
    )

    def basis(rows: slice, seed: int) -> dict[int, int]:
        player, found = a_player(tape[rows], seed=seed), {}
        while not (segment := player.horizon()).end:
            player.play(len(segment.trades), segment.mark is not None, 0)
            if segment.mark:
                found[segment.mark.time] = segment.mark.price_e8 - money(1_000)
        return found

    whole, half, other = basis(slice(0, size), 7), basis(slice(size // 2, size), 7), basis(slice(0, size), 8)
    assert half.items() <= whole.items()
    assert whole != other
    values = np.array(list(whole.values()), dtype=float)
    assert np.abs(values).max() <= money(1_000) * 3 // 10_000
    assert abs(values.mean()) < values.std() / 10
    assert np.corrcoef(values[:-1], values[1:])[0, 1] > 0.8
    assert abs(np.corrcoef(values[:-8], values[8:])[0, 1]) < 0.1


def test_the_horizon_ends_with_the_first_trade_that_an_order_reacts_to() -> None:
    tape = trades(*[(10 * n, 1_000 + n % 3, "bs"[n % 2], 9) for n in range(9)], (95, 970, "s", 9), (99, 960, "s", 9))
    player = a_player(tape, interval_ms=10_000)
    exchange = player.exchange
    assert (len(player.horizon().trades), player.horizon().end) == (11, True)
    player.play(1, False, T0)
    exchange.place_order(market(BUY, 5))
    assert (len(player.horizon().trades), player.horizon().arrival) == (4, T0 + 50)  # those before it arrives
    assert player.next_time == T0 + 10
    player.play(4, False, T0 + 50)
    assert fills(exchange) == [("m", "BUY", 5, 1_003)]  # by the trade of T0 + 60, no better than 1,001 at T0 + 40
    assert (len(player.horizon().trades), player.horizon().arrival) == (6, None)
    exchange.place_algo(stop(SELL, 5, 970))
    exchange.terms = replace(exchange.terms, latency_ms=0)
    assert (len(player.horizon().trades), player.horizon().end) == (6, True)
    player.play(6, False, 0)
    assert exchange.clock == T0 + 99
    assert exchange.query_algo(client_order_id="s").status == "NEW"  # its latency ends at T0 + 100
    assert len(a_player(tape, batch=4).horizon().trades) == 4


@pytest.mark.parametrize(
    ("latency_ms", "expected"),
    [
        (99, [(2, None, 99), (0, 100, None), (1, None, None)]),
        (100, [(2, None, 100), (0, 100, None), (1, None, None)]),  # an arrival comes before the mark of its time
        (101, [(2, 100, None), (0, None, 101), (1, None, None)]),
        (150, [(2, 100, None), (0, None, 150), (1, None, None)]),  # and before a trade of its time
        (400, [(2, 100, None), (1, None, 400), (0, None, None)]),  # after the last trade
    ],
)
def test_an_order_arrives_at_its_time_between_trades_and_marks(
    latency_ms: int, expected: list[tuple[int, int | None, int | None]]
) -> None:
    exchange = an_exchange(clock=0, latency_ms=latency_ms)
    player = a_player(
        trades((0, 1_000, "b", 9), (10, 1_000, "b", 9), (60, 1_000, "b", 9), (150, 1_000, "b", 9)), exchange
    )
    player.play(1, False, 0)
    exchange.place_order(market(BUY, 5))
    seen = []
    while True:
        segment = player.horizon()
        mark, arrival = segment.mark and segment.mark.time - T0, segment.arrival and segment.arrival - T0
        seen.append((len(segment.trades), mark, arrival))
        player.play(len(segment.trades), segment.mark is not None, segment.arrival or 0)
        if arrival is not None:
            assert exchange.user_trades()[0].time == segment.arrival == exchange.clock
        if segment.end:
            break
    assert seen == expected
    assert exchange.position(SYMBOL).quantity == 5


def test_playing_what_does_not_come_next_is_a_mistake_of_the_driver() -> None:
    player = a_player(trades((0, 1_000, "b", 9), (150, 1_000, "b", 9)))
    with pytest.raises(ValueError, match="not what comes next"):
        player.play(2, False, 0)
    with pytest.raises(ValueError, match="no mark price comes after trade 0"):
        player.play(0, True, 0)
    player.play(1, True, T0 + 120)
    assert player.exchange.clock == T0 + 120
    player.play(0, False, T0 + 5)
    assert player.exchange.clock == T0 + 120


@pytest.mark.parametrize(
    ("tape", "rule"),
    [
        (trades(), "at least one trade"),
        (trades((5, 1_000, "b", 1), (4, 1_000, "b", 1)), "must not go back, did after row 0"),
    ],
)
def test_a_tape_that_can_not_be_played_is_refused(tape: Trades, rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        a_player(tape)


# --- several tapes, and coming back -----------------------------------------------------------------------------------


def two_players(first: Trades, second: Trades) -> tuple[SimulatedExchange, list[TapePlayer]]:
    exchange = an_exchange(more=[an_instrument("GEMUSDT", tick="1", step="1")], clock=0, latency_ms=0, slippage_bps=0.0)
    return exchange, [a_player(tape, exchange) for tape in (first, second)]


def test_several_tapes_play_in_the_order_of_time() -> None:
    coin = trades((0, 1_000, "b", 9), (10, 1_001, "b", 9), (30, 1_002, "b", 9), (120, 1_003, "b", 9))
    gem = trades((5, 500, "b", 9), (20, 501, "b", 9), (30, 502, "b", 9), (40, 503, "b", 9), symbol="GEMUSDT")
    exchange, players = two_players(coin, gem)
    steps = [
        (player.market.symbol, trades.price.tolist(), mark) for player, trades, mark in steps_until(players, T0 + 12)
    ]
    assert steps == [(SYMBOL, [1_000], None), ("GEMUSDT", [500], None), (SYMBOL, [1_001], None)]
    exchange.terms = replace(exchange.terms, latency_ms=8)
    exchange.place_order(market(BUY, 5, symbol="GEMUSDT"))
    seen = []
    for player, block, mark in steps_until(players, T0 + 200):
        seen.append((player.market.symbol, block.price.tolist(), mark and mark.time - T0))
        assert player.trades_played == 0 or player.trades.time[player.trades_played - 1] <= exchange.clock
    assert seen == [
        ("GEMUSDT", [], None),  # the order arrives; what COIN traded later has not happened yet
        (SYMBOL, [1_002], None),
        ("GEMUSDT", [501, 502, 503], None),
        (SYMBOL, [], 100),
        (SYMBOL, [1_003], None),
    ]
    assert fills(exchange) == [("m", "BUY", 5, 501)]
    assert list(steps_until(players, T0 + 10_000)) == []


def test_a_mark_finds_the_other_symbols_where_they_stood() -> None:
    coin = trades((0, 1_000, "b", 9), (250, 1_000, "b", 9))
    gem = trades((0, 500, "b", 9), (99, 510, "b", 9), (101, 520, "b", 9), (250, 520, "b", 9), symbol="GEMUSDT")
    exchange, players = two_players(coin, gem)
    stood = {}
    for player, _, mark in steps_until(players, T0 + 300):
        if mark and player.market.symbol == SYMBOL:
            stood[mark.time - T0] = exchange.markets["GEMUSDT"].last_price
    assert stood == {100: 510, 200: 520}


def test_a_player_goes_on_where_an_exchange_that_came_back_has_stopped() -> None:
    log: list[dict[str, Any]] = []
    tape = trades(*[(10 * n, 1_000 + n % 7, "bs"[n % 2], 9) for n in range(60)])
    player = a_player(tape, an_exchange(clock=0, log=log.append))
    while player.trades_played < 35:
        segment = player.horizon()
        player.play(min(5, len(segment.trades)), len(segment.trades) <= 5 and segment.mark is not None, 0)
    player.exchange.place_order(market(BUY, 5))
    again = a_player(tape, restored(log, tapes=[tape]))
    assert (again.trades_played, again.marks_played) == (player.trades_played, player.marks_played) == (35, 3)
    for each in (player, again):
        while not (segment := each.horizon()).end:
            each.play(len(segment.trades), segment.mark is not None, segment.arrival or 0)
    assert state_of(again.exchange) == state_of(player.exchange)


def test_the_funding_rate_of_a_tape_is_due_at_whole_intervals() -> None:
    tape = trades((0, 1_000, "b", 9), (350, 1_000, "b", 9))
    exchange = an_exchange(clock=0, latency_ms=0, slippage_bps=0.0, rules=SymbolRules(funding_interval_ms=200))
    hold(played(exchange, (0, 1_000, "s", 9), (0, 1_000, "b", 9)), 5)
    player = a_player(tape, exchange, funding_rate_e8=10_000)
    exchange.markets[SYMBOL].played = 0
    marks = [mark for _, _, mark in steps_until([player], T0 + 400) if mark]
    assert [(mark.funding_rate_e8, mark.next_funding_time - T0) for mark in marks] == [
        (10_000, 200),
        (10_000, 400),
        (10_000, 400),
    ]
    value = Decimal(5 * marks[1].price_e8)  # at the mark of T0 + 200
    assert exchange.account.funding == -int((value / 10_000).to_integral_value(ROUND_HALF_EVEN))


def test_the_core_books_the_funding_that_a_tape_brings() -> None:
    config = Config.from_parameters(hours=9.0, funding_rate=0.001, seed=0, stop_atr=6.0, take_profit_atr=9.0)
    research = backtest(load_tape(config.session, shipped_instrument("BTCUSDT")), config, path="events")
    told = [fact for fact in research.facts if isinstance(fact, AccountUpdate)]
    booked = [after.wallet - before.wallet for before, after in pairwise(told) if after.reason == "FUNDING_FEE"]
    (held,) = booked
    assert held == sum(trip.funding for trip in research.trips)
    (trip,) = (trip for trip in research.trips if trip.funding)
    assert (trip.funding < 0) == (trip.side is BUY), "longs pay a positive rate"
    assert trip.net == trip.realised - trip.fees + trip.funding
