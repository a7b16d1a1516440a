"""Entries are sized and refused by the book, and the circuit breaker stops and resumes by its table."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade import risk
from voltrade.config import Config, ExecutionSettings, ExitSettings, RiskSettings
from voltrade.errors import ConfigError, DataError
from voltrade.model import DAY_MS, MONEY, NEVER, BreakerChange
from voltrade.oms import OrderMonitor
from voltrade.orders.account_books import AccountBooks
from voltrade.orders.records import BREAKER_UPDATED, BooksEvent
from voltrade.risk import CircuitBreaker, limits_from_settings, new_gate_inputs, position_size, stop_out_cost

DAY = 20_000 * DAY_MS
NOON = DAY + DAY_MS // 2
TOMORROW = DAY + DAY_MS
HOUR = 3_600_000

COMPILED = {name: rule for name, rule in vars(risk).items() if hasattr(rule, "py_func")}


def plain(rule, *arguments):
    """Run a rule as plain Python, and every rule that it calls too."""
    with patch.multiple(risk, **{name: function.py_func for name, function in COMPILED.items()}):
        return rule.py_func(*arguments)


# --- an entry that every gate lets pass -------------------------------------------------------------------------------


def limits(**parameters) -> risk.Rows:
    """BTCUSDT: tick 0.10, step 0.001, so one lot at one tick is 0.0001 USDT; no costs unless given."""
    chosen = {"taker_fee": 0, "slippage_bps": 0.0, "min_stop_bps": 0.0, **parameters}
    return limits_from_settings(Config.from_parameters(chosen), an_instrument())


def facts(price="50000.0", stop="500.0", wallet=10_000, **other) -> risk.Rows:
    """A healthy system at noon, flat, whose last bar wants an entry."""
    row = new_gate_inputs()
    values = {
        "time": NOON,
        "price_time": NOON,
        "last_bar": True,
        "reconciled": True,
        "market_stream_up": True,
        "user_stream_up": True,
        "mark_e8": int(Decimal(price) * MONEY),
        "price": int(Decimal(price) * 10),
        "stop_ticks": int(Decimal(stop) * 10),
        "wallet": int(Decimal(wallet) * MONEY),
        "available": int(Decimal(wallet) * MONEY),
        "quantity": 100,
        "day_left": 10_000 * MONEY,
    }
    for name, value in {**values, **other}.items():
        row[0][name] = value
    return row


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "market", "settings", "lots"),
    [
        # 10,000 x 0.5 % = 50 USDT may be lost; 500 a coin: 0.1 coin
        ("risk", {}, {}, 100),
        # 50 / 501 = 0.0998 coin, rounded down to 0.099
        ("rounded down", {"stop": "501.0"}, {}, 99),
        # 500 + 2 x 50,000 x 0.05 % fee + 500 x 0.05 % = 550.25 a coin: 50 / 550.25 = 0.0908
        ("fees of both sides, the exit at the stop", {}, {"taker_fee": Decimal("0.0005")}, 90),
        # expected price 50,250 at 50 bps: 500 + (2 x 50,250 + 500) x 0.005 = 1,005 a coin: 0.0497
        ("expected slippage of both sides", {}, {"slippage_bps": 50.0}, 49),
        # 2 x 10,000 = 20,000 USDT at 50,000: 0.4 coin, while the risk of 10 a coin would allow 5
        ("notional multiple", {"stop": "10.0"}, {}, 400),
        ("smaller multiple", {"stop": "10.0"}, {"max_notional_multiple": 0.5}, 100),
        # 1 x 5,000 free margin: 0.1 coin
        ("available margin", {"stop": "10.0", "available": 5_000 * MONEY}, {"leverage": 1}, 100),
        # 3 x 5,000 = 15,000: 0.3 coin
        ("leverage", {"stop": "10.0", "available": 5_000 * MONEY}, {"leverage": 3}, 300),
        # notional n with n / 2 + n x 0.1 % <= 5,000: n = 9,980.04, 0.1996 coin
        (
            "the entry's fee comes out of the margin",
            {"stop": "1.0", "available": 5_000 * MONEY},
            {"leverage": 2, "taker_fee": Decimal("0.001")},
            199,
        ),
        # the wallet of 2,000 bounds the capital of 10,000: 2,000 x 0.5 % / 500 = 0.02
        ("capital is at most the wallet", {"wallet": 2_000}, {}, 20),
        ("capital is ring-fenced", {"wallet": 50_000}, {"capital": 2_000}, 20),
        # market_max_quantity is 120 coins; 10 million USDT of capital would give 400 of them
        ("largest market order", {"wallet": 10_000_000, "stop": "10.0"}, {"capital": 10_000_000}, 120_000),
        # 50 / 500 at a price of 990 is 0.1 coin, 99 USDT: below the least notional of 100
        ("never raised to the least notional", {"price": "990.0"}, {}, 0),
        ("at the least notional", {"price": "1000.0"}, {}, 100),
        ("no lot at all", {"wallet": 90}, {}, 0),
        ("empty wallet", {"wallet": 0}, {}, 0),
        ("wallet below zero", {"wallet": -5}, {}, 0),
        ("no margin", {"available": 0}, {}, 0),
        ("margin below zero", {"available": -1}, {}, 0),
        ("no stop", {"stop": "0"}, {}, 0),
        ("no price", {"price": "0"}, {}, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_size_is_the_largest_that_keeps_every_bound(why, market, settings, lots):
    entry, bounds = facts(**market), limits(**settings)
    assert position_size(entry, bounds) == lots
    assert plain(position_size, entry, bounds) == lots


@pytest.mark.parametrize(
    ("changed", "lots"),
    [
        ({"quantity_step": 7}, 98),  # 100 lots, rounded down to a multiple of 7
        ({"quantity_step": 101}, 0),
        ({"bracket_notional": 4_000 * MONEY}, 80),  # 0.080 coins at 50,000
        ({"bracket_notional": 4_000 * MONEY, "quantity_step": 7}, 77),
        ({"quantity_step": 7, "min_quantity": 99}, 0),
    ],
)
def test_size_obeys_the_symbols_step_and_the_bracket_of_the_leverage(changed, lots):
    bounds = limits()
    for name, value in changed.items():
        bounds[name] = value
    assert position_size(facts(), bounds) == lots
    assert plain(position_size, facts(), bounds) == lots


def test_shortest_stop_is_three_ticks_of_the_exchange():
    bounds = limits()
    bounds["price_step"] = 70
    assert codes(facts(stop="20.9"), bounds) == {"STOP_TOO_TIGHT"}
    assert codes(facts(stop="21.0"), bounds) == set()


def test_size_below_the_least_quantity_is_nothing():
    # 50 / 500 = 0.1 coin = 100 lots
    bounds = [limits_from_settings(Config(), an_instrument(min_quantity=least), 0) for least in (100, 101)]
    for row in bounds:
        row["slippage_e8"] = 0
    assert [position_size(facts(), row) for row in bounds] == [100, 0]


def test_the_fee_that_the_exchange_states_goes_before_the_setting():
    config = Config.from_parameters(taker_fee=Decimal("0.0005"))
    assert limits_from_settings(config, an_instrument())[0]["fee_e8"] == 50_000
    assert limits_from_settings(config, an_instrument(), 40_000)[0]["fee_e8"] == 40_000


def test_capital_beyond_64_bits_is_refused():
    largest = Config.from_parameters(capital=10**9, max_notional_multiple=20.0)
    assert limits_from_settings(largest, an_instrument())[0]["capital"] * 20 < 2**63
    with pytest.raises(ConfigError, match=r"capital: .* less than or equal to 1000000000, was 1000000001"):
        Config.from_parameters(capital=1_000_000_001)


@st.composite
def sized_entries(draw):
    """Any market within what configuration lets pass, with its entry."""
    markets = [("0.1", "0.001"), ("0.01", "0.001"), ("0.0001", "0.1"), ("0.00001", "1"), ("0.0000001", "1"), ("1", "1")]
    tick, step = draw(st.sampled_from(markets))
    instrument = an_instrument(
        tick=tick,
        step=step,
        min_quantity=draw(st.integers(1, 10)),
        market_max_quantity=draw(st.integers(10, 10**9)),
        min_notional=draw(st.integers(0, 100 * MONEY)),
    )
    capital = draw(st.integers(1, 10)) * 10 ** draw(st.integers(2, 8))
    config = Config.from_parameters(
        capital=capital,
        risk_fraction=draw(st.floats(1e-4, 1)),
        max_notional_multiple=draw(st.floats(0.1, 20)),
        leverage=draw(st.integers(1, 125)),
        slippage_bps=draw(st.floats(0, 100)),
    )
    wallet = capital * MONEY * draw(st.integers(1, 200)) // 100 + draw(st.integers(0, MONEY))
    price = draw(st.integers(1, 9)) * 10 ** draw(st.integers(0, 6))
    row = facts(price=price, stop_ticks=draw(st.integers(1, max(1, price // 2))), wallet=0)
    row[0]["price"], row[0]["wallet"] = price, wallet
    row[0]["available"] = wallet * draw(st.integers(0, 100)) // 100
    return row, limits_from_settings(config, instrument, draw(st.integers(0, 200_000)))


@given(sized_entries())
@settings(max_examples=300, deadline=None)
def test_size_never_exceeds_a_bound_and_never_risks_more_than_its_part_of_capital(entry):
    row, bounds = entry
    fact = {name: int(row[0][name]) for name in risk.GATE_INPUTS.names}
    limit = {name: int(bounds[0][name]) for name in risk.LIMITS.names}
    lots = int(position_size(row, bounds))
    assert plain(position_size, row, bounds) == lots

    e8 = Fraction(1, 10**8)
    ticklot = limit["money_per_ticklot"]
    capital = min(limit["capital"], fact["wallet"])
    costs = (limit["fee_e8"] + limit["slippage_e8"]) * e8
    expected = fact["price"] * (1 + limit["slippage_e8"] * e8)
    loss_a_lot = (fact["stop_ticks"] + costs * (2 * expected + fact["stop_ticks"])) * ticklot
    notional = lots * expected * ticklot
    assert lots == 0 or lots >= limit["min_quantity"]
    assert lots == 0 or lots * fact["price"] * ticklot >= limit["min_notional"]
    assert lots <= limit["max_quantity"]
    assert lots * loss_a_lot <= capital * limit["risk_e8"] * e8
    assert notional <= capital * limit["max_notional_e8"] * e8
    assert notional / limit["leverage"] + notional * costs <= fact["available"]

    row[0]["quantity"] = lots
    assert not risk.max_notional(row, bounds)
    assert risk.size_too_small(row, bounds) == (lots == 0)


@given(sized_entries())
@settings(max_examples=200, deadline=None)
def test_one_lot_more_would_break_a_bound(entry):
    row, bounds = entry
    lots = int(position_size(row, bounds))
    assume(lots > 0)
    capital = min(int(bounds[0]["capital"]), int(row[0]["wallet"]))
    value = (lots + 1) * int(risk.expected_price(row, bounds)) * int(bounds[0]["money_per_ticklot"])
    costs = int(bounds[0]["leverage"]) * int(bounds[0]["fee_e8"] + bounds[0]["slippage_e8"])
    margin = int(row[0]["available"]) * (10**16 // (10**8 + costs)) // 10**8 * int(bounds[0]["leverage"])
    assert (
        stop_out_cost(lots + 1, row, bounds) > capital * int(bounds[0]["risk_e8"]) // 10**8
        or value > capital * int(bounds[0]["max_notional_e8"]) // 10**8
        or value > margin
        or lots + 1 > bounds[0]["max_quantity"]
    )


@pytest.mark.parametrize(
    ("amount", "rate", "down", "up"),
    [
        (1_000, 50_000_000, 500, 500),
        (3, 50_000_000, 1, 2),
        (-3, 50_000_000, -2, -1),
        (10**17, 2_000_000_000, 2 * 10**18, 2 * 10**18),  # 20 x a billion, beyond 64 bits as a product
        (10**8 + 1, 33_333_333, 33_333_333, 33_333_334),
        (0, 5, 0, 0),
    ],
)
def test_shares_are_exact_and_rounded_as_named(amount, rate, down, up):
    assert (risk.mul_e8_floor(amount, rate), risk.mul_e8_ceil(amount, rate)) == (down, up)
    assert (plain(risk.mul_e8_floor, amount, rate), plain(risk.mul_e8_ceil, amount, rate)) == (down, up)


@pytest.mark.parametrize(
    ("atr", "multiple", "tick", "ticks"),
    [
        (25.0, 2.0, 0.1, 500),  # 50 / 0.1
        (25.01, 2.0, 0.1, 501),  # 500.2, rounded up
        (0.3, 1.0, 0.1, 3),  # 2.9999999999999996 in floats
        (0.7, 1.0, 0.1, 7),  # 6.999999999999999
        (1.1, 3.0, 0.1, 33),  # 33.00000000000001
        (float("nan"), 2.0, 0.1, 0),
        (0.0, 2.0, 0.1, 0),
        (float("inf"), 2.0, 0.1, 0),
    ],
)
def test_stop_distance_is_whole_ticks_rounded_up(atr, multiple, tick, ticks):
    assert risk.atr_distance(atr, multiple, tick) == plain(risk.atr_distance, atr, multiple, tick) == ticks


# --- gates ------------------------------------------------------------------------------------------------------------

GATES = [gate for gate in vars(risk).values() if isinstance(gate, risk.Gate)]


def codes(entry, bounds) -> set[str]:
    """Codes of all gates that refuse; compiled and plain must agree on each."""
    refused = {gate.code for gate in GATES if gate.refuses(entry, bounds)}
    assert refused == {gate.code for gate in GATES if plain(gate.refuses, entry, bounds)}
    return refused


def test_a_healthy_entry_passes_every_gate():
    assert codes(facts(), limits()) == set()


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("WARMING_UP", {"warming_up": True}),
        ("NOT_LAST_BAR", {"last_bar": False}),
        ("BAR_TAINTED", {"tainted": True}),
        ("DAY_END_BAR", {"day_end": True}),
        ("PAUSED", {"paused": True}),
        ("ON_HOLD", {"on_hold": True}),
        ("DRAWDOWN", {"drawdown": True}),
        ("DAILY_LOSS", {"daily_loss": True}),
        ("LOSING_STREAK", {"losing_streak": True}),
        ("TRADES_PER_DAY", {"trades_per_day": True}),
        ("NOT_RECONCILED", {"reconciled": False}),
        ("SYMBOL_CHANGED", {"symbol_changed": True}),
        ("LINK_DOWN", {"market_stream_up": False}),
        ("LINK_DOWN", {"user_stream_up": False}),
        ("STALE_PRICE", {"price_time": NOON - 10_001}),
        ("OFF_MARK", {"mark_e8": 49_751 * MONEY}),  # 249 of 49,751 are more than 0.5 %
        ("OFF_MARK", {"mark_e8": 50_252 * MONEY}),  # 252 of 50,252
        ("UNKNOWN_ORDER", {"orders_unsettled": True}),
        ("IN_POSITION", {"position_open": True}),
        ("COOLDOWN", {"last_exit_time": NOON - 1, "bars_since_exit": 3}),
        ("COOLDOWN", {"last_entry_time": NOON - 999}),
        ("SIZE_TOO_SMALL", {"quantity": 0}),
        ("MAX_NOTIONAL", {"quantity": 401}),  # 0.401 x 50,000 = 20,050 > 2 x 10,000
        ("MAX_NOTIONAL", {"quantity": 2**62}),  # whose notional is beyond 64 bits
        ("DAILY_BUDGET", {"day_left": 50 * MONEY - 1}),  # 0.1 x 500 = 50
        ("STOP_TOO_TIGHT", {"stop": "0.2"}),
        ("LIQUIDATION_DISTANCE", {"stop": "4375.1"}),  # 2 x 4375.1 > 50,000 x (1/5 - 2.5 %) = 8,750
    ],
)
def test_each_gate_refuses_for_its_own_reason_alone(code, changes):
    assert codes(facts(**changes), limits()) == {code}


def test_each_gate_is_covered_and_has_a_code_and_a_text():
    assert [name for name, gate in vars(risk).items() if isinstance(gate, risk.Gate)] == [g.code for g in GATES]
    assert all(gate.text for gate in GATES)
    assert len(GATES) == 23


@pytest.mark.parametrize(
    "changes",
    [
        {"price_time": NOON - 10_000},
        {"last_entry_time": NOON - 1_000},
        {"quantity": 400},
        {"day_left": 50 * MONEY},
        {"stop": "4375.0"},
        {"mark_e8": 49_752 * MONEY},
        {"mark_e8": 0},
    ],
)
def test_what_is_at_a_limit_passes(changes):
    assert codes(facts(**changes), limits()) == set()


def test_a_row_that_nobody_filled_is_refused():
    assert {"NOT_LAST_BAR", "NOT_RECONCILED", "LINK_DOWN", "STOP_TOO_TIGHT", "SIZE_TOO_SMALL"} <= codes(
        new_gate_inputs(), limits()
    )


@pytest.mark.parametrize(
    ("price", "settings", "ticks"),
    [
        ("50000.0", {"min_stop_bps": 5.0}, 250),  # 50,000 x 5 bps = 25.0
        ("50001.0", {"min_stop_bps": 5.0}, 251),  # 25.0005, rounded up
        ("50000.0", {}, 3),  # 3 ticks
        # a round trip costs 2 x 50,000 x (0.05 % + 0.5 bps) = 55.0; twice that
        ("50000.0", {"taker_fee": Decimal("0.0005"), "slippage_bps": 0.5, "min_stop_bps": 5.0}, 1_100),
        ("50000.0", {"taker_fee": Decimal("0.0005"), "slippage_bps": 0.5, "min_stop_bps": 30.0}, 1_500),
    ],
)
def test_a_stop_has_a_least_distance(price, settings, ticks):
    bounds = limits(**settings)
    assert risk.shortest_stop_ticks(facts(price), bounds) == ticks
    assert not risk.stop_too_tight(facts(price, stop_ticks=ticks), bounds)
    assert risk.stop_too_tight(facts(price, stop_ticks=ticks - 1), bounds)


@pytest.mark.parametrize(
    ("leverage", "ticks"),
    [
        (1, 487_500),  # 50,000 x (1 - 0.025) = 48,750.0
        (5, 87_500),  # 50,000 x (0.2 - 0.025) = 8,750.0
        (3, 154_166),  # 50,000 x (0.33333333 - 0.025) = 15,416.66, rounded down
        (40, 0),  # 1/40 is the maintenance rate itself
        (125, -8_500),  # 50,000 x (0.008 - 0.025): liquidated at once
    ],
)
def test_liquidation_is_as_far_as_leverage_and_maintenance_say(leverage, ticks):
    bounds = limits(leverage=leverage)
    assert risk.liquidation_ticks(facts(), bounds) == ticks
    assert risk.liquidation_distance(facts(stop_ticks=max(ticks, 0) // 2 + 1), bounds)


@pytest.mark.parametrize(
    ("last_exit", "bars_since", "cooldown_ms", "cooldown_bars", "cooling"),
    [
        (risk.NO_EXIT, 0, 60_000, 3, False),  # there was no exit yet
        (NOON - 59_999, 9, 60_000, 0, True),
        (NOON - 60_000, 9, 60_000, 0, False),
        (NOON, 1, 0, 3, True),  # the first bar that closes after the exit
        (NOON, 3, 0, 3, True),
        (NOON, 4, 0, 3, False),
        (NOON, 1, 0, 0, False),  # no cooldown
        (NOON - 60_000, 3, 60_000, 3, True),  # both must be over
    ],
)
def test_cooldown_runs_by_time_and_by_bars(last_exit, bars_since, cooldown_ms, cooldown_bars, cooling):
    case = (NOON, last_exit, bars_since, cooldown_ms, cooldown_bars)
    assert risk.cooling_down(*case) == plain(risk.cooling_down, *case) == cooling


# --- circuit breaker --------------------------------------------------------------------------------------------------


class Breaker(CircuitBreaker):
    """A breaker over the rows of an account, which is told facts as trading tells them; each call returns the notes."""

    def __init__(self, settings, time, equity, rows=None):
        self.books = AccountBooks()
        OrderMonitor(an_instrument(), ExitSettings(), ExecutionSettings(), "e", self.books)
        self.books.account["is_open"], self.books.breaker = True, self
        super().__init__(settings, time, equity, self.books.breaker_rows)

    def tell(self, fact, time, amount=0) -> list[BreakerChange]:
        self.books.account["now"] = time
        return self.books.react(BooksEvent(BREAKER_UPDATED, code=fact, amount=amount))

    def on_equity(self, time, equity):
        return self.tell(risk.EQUITY, time, equity)

    def on_equity_at_last(self, time, equity):
        return self.tell(risk.EQUITY_AT_LAST, time, equity)

    def on_transfer(self, time, amount):
        return self.tell(risk.TRANSFER, time, amount)

    def on_round_trip_opened(self, time):
        return self.tell(risk.OPENED, time)

    def on_round_trip_closed(self, time, net):
        return self.tell(risk.CLOSED, time, net)

    def on_time(self, time):
        return self.tell(risk.TIME, time)

    def reduce(self, time):
        return self.tell(risk.HOLD, time, risk.ACTIONS.index("block"))

    def halt(self, time):
        return self.tell(risk.HOLD, time, risk.ACTION_CANCEL)

    def flatten(self, time):
        return self.tell(risk.HOLD, time, risk.ACTION_FLATTEN)

    def resume(self, time):
        return self.tell(risk.RESUME, time)

    @property
    def next_due(self):
        return risk.breaker_next_due(self._holds)


def a_breaker(time=NOON, equity=10_000, **settings) -> Breaker:
    """Defaults: 3 % daily loss, 10 % drawdown, 5 losses, 50 trades, of a capital of 10,000."""
    return Breaker(RiskSettings(**settings), time, equity * MONEY)


def restarted(breaker: CircuitBreaker, **settings) -> Breaker:
    """The breaker after its state went through JSON and a new process."""
    return Breaker.restore(RiskSettings(**settings), json.loads(json.dumps(breaker.state())))


def told(changes: list[BreakerChange]) -> list[tuple[str, str, str]]:
    return [(change.rule, change.action, change.mode) for change in changes]


def lose(breaker: CircuitBreaker, times: int, time=NOON) -> list[BreakerChange]:
    return [change for _ in range(times) for change in breaker.on_round_trip_closed(time, -1)]


def begin(breaker: CircuitBreaker, times: int, time=NOON) -> list[BreakerChange]:
    return [change for _ in range(times) for change in breaker.on_round_trip_opened(time)]


def test_daily_loss_flattens_at_its_limit_until_the_next_utc_day():
    breaker = a_breaker()
    assert breaker.on_equity(NOON, 9_700 * MONEY + 1) == []
    assert (breaker.mode, breaker.codes) == ("ACTIVE", ())
    assert breaker.on_equity(NOON, 9_700 * MONEY) == [
        BreakerChange(NOON, "DAILY_LOSS", "HALTED", "flatten", 300 * MONEY, 300 * MONEY, TOMORROW)
    ]
    assert (breaker.mode, breaker.codes) == ("HALTED", ("DAILY_LOSS",))
    assert breaker.next_due == TOMORROW
    assert breaker.on_equity(NOON, 9_600 * MONEY) == []  # told once
    assert breaker.on_equity(NOON, 10_000 * MONEY) == []  # and holds though the loss is made good
    assert breaker.on_time(TOMORROW - 1) == []
    assert told(breaker.on_time(TOMORROW)) == [("DAILY_LOSS", "resume", "ACTIVE")]
    assert (breaker.mode, breaker.next_due) == ("ACTIVE", NEVER)


def test_the_days_baseline_is_the_last_equity_before_midnight():
    breaker = a_breaker()
    breaker.on_equity(TOMORROW - 1, 9_800 * MONEY)
    # -200 yesterday count no more; the limit is 3 % of 9,800 = 294
    assert breaker.on_equity(TOMORROW, 9_600 * MONEY) == []
    assert breaker.distances()["DAILY_LOSS"] == (200 * MONEY, 294 * MONEY)
    assert told(breaker.on_equity(TOMORROW + 1, 9_506 * MONEY)) == [("DAILY_LOSS", "flatten", "HALTED")]


def test_a_gap_over_midnight_counts_to_the_new_day():
    breaker = a_breaker()
    assert told(breaker.on_equity(TOMORROW + 5 * HOUR, 9_700 * MONEY)) == [("DAILY_LOSS", "flatten", "HALTED")]
    assert breaker.next_due == TOMORROW + DAY_MS


def test_a_late_event_of_yesterday_does_not_turn_the_day_back():
    breaker = a_breaker(time=TOMORROW)
    breaker.on_equity(TOMORROW, 9_900 * MONEY)
    breaker.on_round_trip_opened(TOMORROW)
    breaker.on_equity(TOMORROW - 5, 9_900 * MONEY)
    assert breaker.distances()["DAILY_LOSS"][0] == 100 * MONEY
    assert breaker.distances()["TRADES_PER_DAY"][0] == 1


def test_drawdown_is_from_the_peak_over_days_and_waits_for_a_person():
    breaker = a_breaker(capital=Decimal(5_000), max_daily_loss_fraction=1.0)
    breaker.on_equity(NOON, 10_400 * MONEY)
    for day in range(1, 5):
        assert breaker.on_equity(NOON + day * DAY_MS, (10_400 - 100 * day) * MONEY) == []
    change = BreakerChange(
        NOON + 5 * DAY_MS, "DRAWDOWN", "HALTED", "flatten", 500 * MONEY, 500 * MONEY, NEVER
    )  # 10 % of 5,000
    assert breaker.on_equity(NOON + 5 * DAY_MS, 9_900 * MONEY) == [change]
    assert (breaker.next_due, breaker.on_time(NOON + 900 * DAY_MS)) == (NEVER, [])
    assert told(breaker.resume(NOON + 900 * DAY_MS)) == [("DRAWDOWN", "resume", "ACTIVE")]
    assert breaker.on_equity(NOON + 900 * DAY_MS, 9_900 * MONEY) == []  # measured from where the person resumed
    assert breaker.distances()["DRAWDOWN"] == (0, 500 * MONEY)
    assert told(breaker.on_equity(NOON + 900 * DAY_MS, 9_400 * MONEY)) == [("DRAWDOWN", "flatten", "HALTED")]


def test_a_capital_above_the_equity_does_not_loosen_the_limits():
    breaker = a_breaker(equity=1_000)
    assert breaker.distances()["DAILY_LOSS"] == (0, 30 * MONEY)
    assert breaker.distances()["DRAWDOWN"] == (0, 100 * MONEY)


def test_an_account_without_money_is_halted():
    assert {change.rule for change in a_breaker(equity=0).on_equity(NOON, 0)} == {"DAILY_LOSS", "DRAWDOWN"}


@pytest.mark.parametrize("amount", [5_000, -5_000])
def test_a_transfer_is_neither_profit_nor_loss(amount):
    breaker = a_breaker()
    breaker.on_equity(NOON, 9_900 * MONEY)
    assert breaker.on_transfer(NOON, amount * MONEY) == []
    assert breaker.on_equity(NOON, (9_900 + amount) * MONEY) == []
    assert breaker.distances()["DAILY_LOSS"][0] == 100 * MONEY
    assert breaker.distances()["DRAWDOWN"][0] == 100 * MONEY
    # also when midnight falls between the transfer and the next equity
    breaker.on_transfer(NOON, amount * MONEY)
    breaker.on_equity(TOMORROW, (9_900 + 2 * amount) * MONEY)
    assert breaker.distances()["DAILY_LOSS"][0] == 0


def test_a_losing_streak_blocks_for_four_hours_and_the_next_loss_again():
    breaker = a_breaker()
    assert lose(breaker, 4) == []
    assert lose(breaker, 1) == [BreakerChange(NOON, "LOSING_STREAK", "REDUCING", "block", 5, 5, NOON + 4 * HOUR)]
    assert breaker.mode == "REDUCING"
    assert breaker.on_time(NOON + 4 * HOUR - 1) == []
    assert told(breaker.on_time(NOON + 4 * HOUR)) == [("LOSING_STREAK", "resume", "ACTIVE")]
    assert breaker.on_round_trip_closed(NOON + 5 * HOUR, 0) == []  # zero neither lengthens nor ends it
    assert told(lose(breaker, 1, NOON + 5 * HOUR)) == [("LOSING_STREAK", "block", "REDUCING")]
    assert breaker.distances()["LOSING_STREAK"] == (6, 5)


@pytest.mark.parametrize(
    ("nets", "streak"),
    [
        ([-1, -1, -1, -1], 4),
        ([-1, -1, 1], 0),
        ([-1, -1, 0], 2),
        ([-1, 0, -1], 2),
        ([0, 0, 0, 0, 0, 0], 0),
        ([1, -1], 1),
    ],
)
def test_one_win_ends_a_streak_and_zero_does_nothing(nets, streak):
    breaker = a_breaker()
    for net in nets:
        breaker.on_round_trip_closed(NOON, net)
    assert breaker.distances()["LOSING_STREAK"] == (streak, 5)


def test_a_win_lets_the_next_streak_begin_anew():
    breaker = a_breaker()
    lose(breaker, 5)
    breaker.on_time(NOON + 4 * HOUR)
    breaker.on_round_trip_closed(NOON + 4 * HOUR, 1)
    assert lose(breaker, 4, NOON + 5 * HOUR) == []
    assert told(lose(breaker, 1, NOON + 5 * HOUR)) == [("LOSING_STREAK", "block", "REDUCING")]


def test_a_streak_outlives_the_day_and_a_restart():
    breaker = a_breaker()
    lose(breaker, 4)
    breaker.on_time(TOMORROW)
    assert told(lose(restarted(breaker), 1, TOMORROW)) == [("LOSING_STREAK", "block", "REDUCING")]


def test_the_last_trade_of_the_day_blocks_the_next_until_midnight():
    breaker = a_breaker(max_trades_per_day=3)
    assert begin(breaker, 2) == []
    assert begin(breaker, 1) == [BreakerChange(NOON, "TRADES_PER_DAY", "REDUCING", "block", 3, 3, TOMORROW)]
    assert told(breaker.on_time(TOMORROW)) == [("TRADES_PER_DAY", "resume", "ACTIVE")]
    assert begin(breaker, 2, TOMORROW) == []


def test_a_pause_of_the_trades_rule_does_not_raise_the_next_days_limit():
    breaker = a_breaker(max_trades_per_day=3, trades_per_day_resume="after_seconds")
    begin(breaker, 3)
    breaker.on_time(NOON + 4 * HOUR)
    assert told(begin(breaker, 1, NOON + 4 * HOUR)) == [("TRADES_PER_DAY", "block", "REDUCING")]
    breaker.on_time(TOMORROW)
    assert begin(breaker, 2, TOMORROW) == []
    assert told(begin(breaker, 1, TOMORROW)) == [("TRADES_PER_DAY", "block", "REDUCING")]


def test_trades_of_the_day_outlive_a_restart_but_not_the_day():
    breaker = a_breaker(max_trades_per_day=3)
    begin(breaker, 2)
    assert told(begin(restarted(breaker, max_trades_per_day=3), 1)) == [("TRADES_PER_DAY", "block", "REDUCING")]
    assert begin(restarted(breaker, max_trades_per_day=3), 1, TOMORROW) == []


def test_a_restart_resets_no_limit_and_releases_no_rule():
    breaker = a_breaker()
    breaker.on_equity(NOON, 9_700 * MONEY)
    breaker.reason = "kill switch"
    breaker.halt(NOON)
    again = restarted(breaker)
    assert again.state() == breaker.state()
    assert (again.mode, again.codes, again.next_due) == ("HALTED", ("DAILY_LOSS", "ON_HOLD"), TOMORROW)
    assert again.reason == "kill switch"
    assert told(again.on_time(TOMORROW)) == [("DAILY_LOSS", "resume", "HALTED")]


def test_a_restart_on_another_day_takes_the_last_equity_as_the_baseline():
    breaker = a_breaker()
    breaker.on_equity(NOON, 9_800 * MONEY)
    again = restarted(breaker)
    again.on_equity(TOMORROW, 9_700 * MONEY)
    assert again.distances() == {
        "DAILY_LOSS": (100 * MONEY, 294 * MONEY),
        "DRAWDOWN": (300 * MONEY, 1_000 * MONEY),
        "LOSING_STREAK": (0, 5),
        "TRADES_PER_DAY": (0, 50),
    }


def test_stricter_limits_at_a_restart_hold_from_the_first_event():
    breaker = a_breaker()
    begin(breaker, 3)
    assert told(restarted(breaker, max_trades_per_day=2).on_time(NOON)) == [("TRADES_PER_DAY", "block", "REDUCING")]


def test_a_state_that_is_none_is_refused():
    state = a_breaker().state()
    for broken in (
        {},
        {**state, "peak": "1"},
        {**state, "peak": None},
        {**state, "holds": {}},
        {**state, "peak": 2**64},
        {name: state[name] for name in state if name != "day_equity"},
        {**state, "holds": {**state["holds"], "DRAWDOWN": {**state["holds"]["DRAWDOWN"], "action": 3}}},
        {**state, "holds": {**state["holds"], "DRAWDOWN": {"active": True}}},  # else a rule in force is released
        {**state, "holds": {**state["holds"], "DRAWDOWN": []}},
        {**state, "holds": {**state["holds"], "LATER": {"active": True}}},
    ):
        with pytest.raises(DataError, match="circuit breaker"):
            CircuitBreaker.restore(RiskSettings(), broken)


def test_a_rule_and_a_field_that_a_saved_state_lacks_have_measured_nothing():
    breaker = a_breaker(max_trades_per_day=5)
    begin(breaker, 5)
    breaker.on_equity(NOON, 9_800 * MONEY)
    saved = breaker.state()
    del saved["holds"]["TRADES_PER_DAY"], saved["earlier"], saved["holds"]["DRAWDOWN"]["beyond_since"]
    again = CircuitBreaker.restore(RiskSettings(max_trades_per_day=6), saved)
    assert (again.codes, again.distances()["DAILY_LOSS"]) == ((), (200 * MONEY, 300 * MONEY))
    assert again.state()["earlier"] == 9_800 * MONEY
    assert CircuitBreaker.unlike(saved) == (
        "begins anew, since the saved state lacks it: DRAWDOWN.beyond_since, TRADES_PER_DAY, earlier"
    )
    assert CircuitBreaker.unlike(breaker.state()) == ""


@pytest.mark.parametrize(("in_force", "mode"), [(0, "ACTIVE"), (1, "REDUCING")])
def test_a_rule_that_is_not_known_here_is_told_and_waits_for_the_operator_where_it_is_in_force(in_force, mode):
    saved = a_breaker().state()
    saved["holds"]["TOO_MANY_REFUSALS"] = {**saved["holds"]["ON_HOLD"], "in_force": in_force}
    saved["slope"] = 3
    again = CircuitBreaker.restore(RiskSettings(), saved)
    assert again.mode == mode
    assert CircuitBreaker.unlike(saved) == "left aside, since it isn't known here: TOO_MANY_REFUSALS, slope"
    again.apply_event(risk.RESUME, NOON)
    assert again.mode == "ACTIVE"


def test_rules_that_overlap_each_let_go_by_their_own_rule():
    breaker = a_breaker(max_trades_per_day=5)
    begin(breaker, 5)
    lose(breaker, 5)
    breaker.on_equity(NOON, 8_900 * MONEY)
    assert breaker.codes == ("DAILY_LOSS", "DRAWDOWN", "LOSING_STREAK", "TRADES_PER_DAY")
    assert breaker.next_due == NOON + 4 * HOUR
    assert told(breaker.on_time(NOON + 4 * HOUR)) == [("LOSING_STREAK", "resume", "HALTED")]
    assert told(breaker.resume(NOON + 5 * HOUR)) == [("DRAWDOWN", "resume", "HALTED")]
    assert breaker.codes == ("DAILY_LOSS", "TRADES_PER_DAY")  # a person does not shorten what waits for a time
    assert told(breaker.on_time(TOMORROW)) == [
        ("DAILY_LOSS", "resume", "ACTIVE"),
        ("TRADES_PER_DAY", "resume", "ACTIVE"),
    ]


@pytest.mark.parametrize(
    ("action", "resume", "mode", "release_at"),
    [
        ("block", "next_utc_day", "REDUCING", TOMORROW),
        ("cancel", "next_utc_day", "REDUCING", TOMORROW),
        ("flatten", "next_utc_day", "HALTED", TOMORROW),
        ("block", "after_seconds", "REDUCING", NOON + 4 * HOUR),
        ("cancel", "after_seconds", "REDUCING", NOON + 4 * HOUR),
        ("flatten", "after_seconds", "HALTED", NOON + 4 * HOUR),
        ("block", "person", "HALTED", NEVER),
        ("cancel", "person", "HALTED", NEVER),
        ("flatten", "person", "HALTED", NEVER),
    ],
)
@pytest.mark.parametrize("rule", ["daily_loss", "drawdown", "consecutive_losses", "trades_per_day"])
def test_every_rule_takes_every_action_and_resumption(rule, action, resume, mode, release_at):
    if (rule, action) == ("trades_per_day", "flatten"):
        with pytest.raises(ConfigError, match=r"trades_per_day_action: .* 'block' or 'cancel', was 'flatten'"):
            Config.from_parameters(trades_per_day_action=action)
        return
    limit = {
        "daily_loss": {"max_daily_loss_fraction": 0.01},
        "drawdown": {"max_drawdown_fraction": 0.01},
        "consecutive_losses": {"max_consecutive_losses": 1},
        "trades_per_day": {"max_trades_per_day": 1},
    }[rule]
    breaker = a_breaker(**limit, **{f"{rule}_action": action, f"{rule}_resume": resume})
    if rule == "trades_per_day":
        (change,) = breaker.on_round_trip_opened(NOON)
    elif rule == "consecutive_losses":
        (change,) = breaker.on_round_trip_closed(NOON, -1)
    else:
        (change,) = breaker.on_equity(NOON, 9_900 * MONEY)
    assert (change.mode, change.action, change.release_at) == (mode, action, release_at)
    assert (breaker.mode, breaker.next_due) == (mode, release_at)
    released = breaker.resume(NOON) if resume == "person" else breaker.on_time(release_at)
    assert [(change.action, change.mode) for change in released] == [("resume", "ACTIVE")]
    assert breaker.on_equity(min(release_at, TOMORROW), int(breaker.state()["equity"])) == []  # nor trips again at once


@pytest.mark.parametrize(
    ("command", "mode", "action"),
    [("reduce", "REDUCING", "block"), ("halt", "HALTED", "cancel"), ("flatten", "HALTED", "flatten")],
)
def test_a_person_stops_and_resumes(command, mode, action):
    breaker = a_breaker()
    assert getattr(breaker, command)(NOON) == [BreakerChange(NOON, "ON_HOLD", mode, action, 0, 0, NEVER)]
    assert (breaker.mode, breaker.codes) == (mode, ("ON_HOLD",))
    assert getattr(breaker, command)(NOON) == []
    assert breaker.on_time(NOON + 99 * DAY_MS) == []
    assert told(breaker.resume(NOON + 99 * DAY_MS)) == [("ON_HOLD", "resume", "ACTIVE")]
    assert breaker.resume(NOON + 99 * DAY_MS) == []


def test_a_person_may_change_what_is_wanted():
    breaker = a_breaker()
    breaker.halt(NOON)
    assert told(breaker.flatten(NOON)) == [("ON_HOLD", "flatten", "HALTED")]
    assert told(breaker.reduce(NOON)) == [("ON_HOLD", "block", "REDUCING")]


def test_distances_are_for_people():
    assert risk.distance_text("DAILY_LOSS", 100 * MONEY, 300 * MONEY) == "100.00000000 of 300.00000000"
    assert risk.distance_text("LOSING_STREAK", 0, 5) == "0 of 5"


def test_the_breaker_fills_what_the_gates_ask():
    breaker = a_breaker(max_trades_per_day=1)
    breaker.on_round_trip_opened(NOON)
    breaker.reduce(NOON)
    entry = facts(daily_loss=True)  # of an earlier moment
    risk.fill_breaker(entry, breaker._state, breaker._holds, breaker._rules)
    assert codes(entry, limits()) == {"TRADES_PER_DAY", "ON_HOLD"}


def test_an_entry_may_cost_no_more_than_the_day_has_left():
    breaker = a_breaker(max_daily_loss_fraction=0.03)  # 300 of 10,000
    entry = facts()
    for equity, left, refused in ((10_000, 300, set()), (9_750, 50, set()), (9_749, 49, {"DAILY_BUDGET"})):
        breaker.on_equity(NOON, equity * MONEY)
        risk.fill_breaker(entry, breaker._state, breaker._holds, breaker._rules)
        assert (entry[0]["day_left"], codes(entry, limits())) == (left * MONEY, refused)


@pytest.mark.parametrize(
    ("equity", "left", "left_tomorrow"),
    [(10_500, 800, 300), (10_000, 300, 300), (9_800, 100, 294)],
    ids=["a profit", "nothing", "a loss"],
)
def test_a_day_that_the_breaker_has_not_seen_yet_begins_with_its_own_budget(
    equity: int, left: int, left_tomorrow: int
) -> None:
    """3% of 10,000, or of the equity if that is less: what the day before has won or lost is not in it."""
    breaker = a_breaker(max_daily_loss_fraction=0.03)
    breaker.on_equity(NOON, equity * MONEY)
    for time, budget in ((TOMORROW - 1, left), (TOMORROW, left_tomorrow)):
        entry = facts(time=time)
        risk.fill_breaker(entry, breaker._state, breaker._holds, breaker._rules)
        assert entry[0]["day_left"] == budget * MONEY


LOW, FINE = 9_700 * MONEY, 9_800 * MONEY


def test_one_bad_print_trips_no_rule():
    breaker = a_breaker()
    assert breaker.on_equity_at_last(NOON, LOW) == []
    assert breaker.on_time(NOON + 60_000) == []  # nothing has confirmed it
    assert breaker.on_round_trip_opened(NOON + 60_000) == []
    assert breaker.on_equity_at_last(NOON + 60_001, FINE) == []
    assert breaker.on_equity_at_last(NOON + 60_002, LOW) == []
    assert breaker.mode == "ACTIVE"


def test_last_prices_trip_a_rule_once_they_have_agreed_for_three_seconds():
    breaker = restarted(a_breaker())
    assert breaker.on_equity_at_last(NOON, LOW) == []
    assert breaker.on_equity_at_last(NOON + risk.CONFIRMED_MS - 1, LOW - 1) == []
    assert told(restarted(breaker).on_equity_at_last(NOON + risk.CONFIRMED_MS, LOW)) == [
        ("DAILY_LOSS", "flatten", "HALTED")
    ]


def test_a_mark_price_confirms_at_once_what_last_prices_say():
    breaker = a_breaker()
    breaker.on_equity_at_last(NOON, LOW)
    assert told(breaker.on_equity(NOON + 1, LOW)) == [("DAILY_LOSS", "flatten", "HALTED")]


MIDNIGHT = (NOON // DAY_MS + 1) * DAY_MS


@pytest.mark.parametrize(("print_of", "measure"), [(11_000, 0), (9_200, 0), (10_000, 0)])
def test_a_day_does_not_begin_with_one_bad_print(print_of, measure):
    """The last price before midnight; the account was and is worth 10,000."""
    breaker = a_breaker()
    for time, equity in ((MIDNIGHT - 5_000, 10_000), (MIDNIGHT - 200, print_of), (MIDNIGHT + 200, 10_000)):
        assert breaker.on_equity_at_last(time, equity * MONEY) == []
    assert breaker.distances()["DAILY_LOSS"][0] == measure * MONEY
    assert told(breaker.on_equity(MIDNIGHT + 10_000, 9_700 * MONEY)) == [("DAILY_LOSS", "flatten", "HALTED")]


def test_a_rule_is_not_released_at_one_bad_print():
    breaker = a_breaker(drawdown_action="block", drawdown_resume="after_seconds", resume_after_s=60)
    breaker.on_equity(NOON, 8_800 * MONEY)
    breaker.on_equity_at_last(NOON + 59_000, 13_000 * MONEY)
    breaker.on_equity_at_last(NOON + 60_001, 8_800 * MONEY)
    assert breaker.state()["peak"] == 8_800 * MONEY


def test_a_mark_price_ends_what_last_prices_had_begun_to_show():
    breaker = a_breaker()
    breaker.on_equity_at_last(NOON, LOW)
    breaker.on_equity(NOON + 1_000, FINE)
    assert breaker.on_equity_at_last(NOON + 4_000, LOW) == []
    assert breaker.mode == "ACTIVE"


@pytest.mark.parametrize(
    ("equities", "peak"),
    [
        ([(0, 10_500)], 10_000),
        ([(0, 10_500), (2_999, 10_400)], 10_000),
        ([(0, 10_500), (3_000, 10_400)], 10_400),
        ([(0, 10_500), (1_000, 10_200), (3_000, 10_600)], 10_200),
        ([(0, 10_500), (1_000, 10_000), (3_000, 10_600)], 10_000),
        ([(0, 10_500), (3_000, 10_400), (4_000, 10_450), (7_000, 10_420)], 10_420),
    ],
)
def test_last_prices_raise_the_peak_as_far_as_they_have_held(equities, peak):
    breaker = a_breaker()
    for later, equity in equities:
        breaker.on_equity_at_last(NOON + later, equity * MONEY)
    assert breaker.state()["peak"] == peak * MONEY
    breaker.on_equity(NOON + 8_000, 11_000 * MONEY)
    assert breaker.state()["peak"] == 11_000 * MONEY


STEPS = st.lists(
    st.tuples(
        st.integers(0, 30 * HOUR),
        st.one_of(
            st.tuples(st.sampled_from([risk.EQUITY, risk.EQUITY_AT_LAST]), st.integers(8_000 * MONEY, 11_000 * MONEY)),
            st.tuples(st.just(risk.TRANSFER), st.integers(-900 * MONEY, 900 * MONEY)),
            st.tuples(st.just(risk.CLOSED), st.integers(-1, 1)),
            st.tuples(st.just(risk.HOLD), st.integers(0, 2)),
            st.tuples(st.sampled_from([risk.OPENED, risk.TIME, risk.RESUME]), st.just(0)),
        ),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_compiled_plain_and_restarted_breakers_agree(steps, restart):
    chosen = {"max_consecutive_losses": 2, "max_trades_per_day": 3}
    compiled, restarting = (a_breaker(**chosen) for _ in range(2))
    interpreted = CircuitBreaker(RiskSettings(**chosen), NOON, 10_000 * MONEY)
    time, held = NOON, set()
    for number, (later, (fact, amount)) in enumerate(steps):
        time += later
        if number == restart:
            restarting = restarted(restarting, **chosen)
        changes = compiled.tell(fact, time, amount)
        assert restarting.tell(fact, time, amount) == changes
        with patch.multiple(risk, **{name: function.py_func for name, function in COMPILED.items()}):
            interpreted.apply_event(fact, time, amount)
            assert interpreted.state() == compiled.state()
        # what was told is what holds, and nothing due is left over
        held -= {change.rule for change in changes if change.action == "resume"}
        held |= {change.rule for change in changes if change.action != "resume"}
        assert held == set(compiled.codes)
        assert (compiled.mode == "ACTIVE") == (not held)
        assert compiled.next_due > time
        measure, limit = compiled.distances()["DAILY_LOSS"]
        assert measure < limit or "DAILY_LOSS" in held or compiled._state[0]["is_at_last"]
    json.dumps(compiled.state())
    assert all(type(value) is int for value in compiled.distances()["DRAWDOWN"])


def test_all_rules_are_compiled_with_the_same_types():
    assert len(COMPILED) > 30
    assert isinstance(position_size(facts(), limits()), int)
    assert isinstance(risk.warming_up(facts(), limits()), bool)
    assert new_gate_inputs().dtype == risk.GATE_INPUTS
    assert np.dtype(risk.LIMITS).names == limits().dtype.names
