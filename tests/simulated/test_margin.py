"""Margins, leverage, liquidation and funding, by hand arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import an_instrument
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    an_exchange,
    fills,
    hold,
    holding,
    limit,
    marked,
    market,
    played,
    quoted,
    stop,
    told,
)

from voltrade.model import MarkPrice, money
from voltrade.simulated.core_commands import drain_events
from voltrade.simulated.events import AccountChange, MarginCall, SettingsChange
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.margin import liquidation_price, maintenance_margin
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.symbols import Bracket, SymbolRules, brackets_of, shipped_rules


def test_margins_by_leverage_and_what_is_left() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0)
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 20, money(1_100)))
    exchange.place_order(limit(BUY, 50, 1_050, name="buy"))
    exchange.place_order(limit(SELL, 20, 1_150, name="sell"))
    cross = exchange.balances()
    assert cross.unrealised == money(100 * 100)
    assert cross.position_margin == money(100 * 1_100 // 10)
    assert cross.order_margin == money(50 * 1_050 // 10)  # the sale can only shrink it
    assert cross.maintenance_margin == money(100 * 1_100) * 25 // 1_000
    assert cross.available == money(1_000_000 + 10_000 - 11_000 - 5_250)
    isolated = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    isolated.on_mark(MarkPrice(SYMBOL, T0 + 20, money(1_100)))
    balances = isolated.balances()
    assert balances.position_margin == money(100 * 1_000 // 10)  # of the entry
    assert balances.available == money(1_000_000 - 10_000)  # its profit backs nothing else
    assert balances.equity == money(1_010_000)


def test_an_order_that_shrinks_the_position_needs_no_margin() -> None:
    exchange = holding(4_990, wallet=money(1_000_000), leverage=5, taker_fee_e8=0)
    with pytest.raises(VenueRefusal, match="-2019"):
        exchange.place_order(market(BUY, 11))
    exchange.place_order(market(SELL, 4_990 + 4_990))
    assert exchange.balances().available == money(1_000_000 - 998_000)


def test_an_account_short_of_margin_may_still_shrink() -> None:
    exchange = holding(100, leverage=10, wallet=money(10_500), taker_fee_e8=0)
    exchange.on_mark(MarkPrice(SYMBOL, T0 + 20, money(960)))  # equity 6,500 under a margin of 9,600
    assert exchange.balances().available == 0
    with pytest.raises(VenueRefusal, match="-2019"):
        exchange.place_order(market(BUY, 1, "more"))
    assert exchange.place_order(market(SELL, 50, "less")).status == "NEW"


def test_account_settings() -> None:
    exchange = holding(5, margin_type="isolated")
    refusals: list[tuple[Callable[[], object], int]] = [
        (lambda: exchange.set_leverage(SYMBOL, 126), -4028),
        (lambda: exchange.set_leverage(SYMBOL, 0), -4028),
        (lambda: exchange.set_leverage(SYMBOL, 4), -4161),
        (lambda: exchange.set_margin_type(SYMBOL, "isolated"), -4046),
        (lambda: exchange.set_margin_type(SYMBOL, "cross"), -4048),
        (lambda: exchange.set_position_mode(False), -4059),
        (lambda: exchange.set_position_mode(True), -4068),
    ]
    for request, code in refusals:
        with pytest.raises(VenueRefusal, match=str(code)):
            request()
    assert exchange.set_leverage(SYMBOL, 20) == exchange.position(SYMBOL).leverage == 20
    fresh = quoted(margin_type="isolated")
    fresh.place_order(limit(BUY, 5, 990))
    with pytest.raises(VenueRefusal, match="-4047"):
        fresh.set_margin_type(SYMBOL, "cross")
    with pytest.raises(VenueRefusal, match="-4067"):
        fresh.set_position_mode(True)
    fresh.cancel_all(SYMBOL)
    fresh.set_margin_type(SYMBOL, "cross")
    assert fresh.position(SYMBOL).margin_type == "cross"
    with pytest.raises(VenueRefusal, match="-4084"):
        fresh.set_position_mode(True)


def test_lower_leverage_needs_margin() -> None:
    exchange = holding(1_000, leverage=10, wallet=money(110_000), taker_fee_e8=0)
    with pytest.raises(VenueRefusal, match="-2028"):
        exchange.set_leverage(SYMBOL, 9)  # 111,111.11 of 110,000
    assert exchange.position(SYMBOL).leverage == 10


# --- brackets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notional", "margin"),
    [
        ("0", "0"),
        ("50000", "200"),  # 0.4% to the cap of the first bracket ...
        ("50000.01", "200.00005"),  # ... then 0.5% less 50, without a step
        ("600000", "2950"),
        ("1000000", "5550"),  # 0.65% less 950
        ("2000000000", "578518550"),  # beyond the last cap its rate goes on
    ],
)
def test_maintenance_margin_by_bracket(notional: str, margin: str) -> None:
    assert maintenance_margin(shipped_rules("BTCUSDT").brackets, money(notional)) == money(margin)


def test_brackets_bound_leverage_and_position() -> None:
    rules = SymbolRules(brackets=brackets_of([(50, 10_000, "0.01"), (20, 50_000, "0.025"), (10, 100_000, "0.05")]))
    exchange = quoted(rules=rules, leverage=20)
    with pytest.raises(VenueRefusal, match="-4028"):
        exchange.set_leverage(SYMBOL, 51)
    with pytest.raises(VenueRefusal, match="-2027"):
        exchange.place_order(market(BUY, 51))  # 51,000 of 50,000 at 20x
    exchange.place_order(limit(BUY, 30, 999))
    exchange.place_order(limit(SELL, 49, 1_001, name="other"))  # each side is counted for itself
    with pytest.raises(VenueRefusal, match="-2027"):
        exchange.place_order(market(BUY, 21))
    with pytest.raises(VenueRefusal, match="-2027"):
        exchange.set_leverage(SYMBOL, 21)  # 49,049 of sells are more than 10,000
    assert exchange.position_risk(SYMBOL).largest_notional == money(50_000)
    exchange.set_leverage(SYMBOL, 10)
    assert exchange.place_order(market(BUY, 21)).status == "NEW"


# --- the liquidation price --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "entry", "rate", "amount", "others", "price"),
    [
        ("3683.979", "1456.84", "0.10", "135365", "-127555.38144", "1153.26"),  # -71,200.81144 - 56,354.57
        ("109.488", "32481.980", "0.025", "16300", "-804705.398", "26316.89"),  # -356,512.508 - 448,192.89
    ],
)
def test_the_liquidation_price_is_that_of_binances_own_example(
    quantity: str, entry: str, rate: str, amount: str, others: str, price: str
) -> None:
    """The example of "How to Calculate Liquidation Price of USDS-M Futures Contracts": two cross longs, one wallet.

    LP = (WB - TMM + UPNL + cum - side x size x entry) / (size x MMR - side x size), WB = 1,535,443.01.
    """
    bracket = Bracket(20, 0, money(10**9), int(Decimal(rate) * 10**8), money(amount))
    cost = Decimal(quantity) * Decimal(entry)
    balance = Decimal("1535443.01") + Decimal(others)
    found = liquidation_price([bracket], Decimal(quantity), int(cost * 10**8), int(balance * 10**8))
    assert abs(found - Decimal(price)) <= Decimal("0.01")


@settings(max_examples=150, deadline=None)
@given(
    quantity=st.integers(1, 400) | st.integers(-400, -1),
    other=st.integers(-300, 300),
    leverage=st.integers(1, 20),
    isolated=st.booleans(),
    spare=st.integers(1, 200_000),
)
def test_a_position_is_liquidated_at_that_price_to_the_tick(
    quantity: int, other: int, leverage: int, isolated: bool, spare: int
) -> None:
    def opened() -> SimulatedExchange:
        """A position in each of two symbols at 1,000 dollars, with little more margin than they need."""
        gem = an_instrument("GEMUSDT", tick="1", step="1", min_notional=money(5))
        exchange = an_exchange(
            more=[gem], latency_ms=0, slippage_bps=0.0, taker_fee_e8=0, leverage=leverage, rules=STEEP,
            wallet=money(2 * (abs(quantity) + abs(other)) * 1_000 // leverage + spare),
            margin_type="isolated" if isolated else "cross",
        )  # fmt: skip
        for symbol, lots in ((SYMBOL, quantity), ("GEMUSDT", other)):
            played(exchange, (0, 1_000, "s", 900), (0, 1_000, "b", 900), symbol=symbol)
            marked(exchange, 0, 1_000, symbol=symbol)
            if lots:
                hold(exchange, lots, symbol=symbol)
        return exchange

    exchange = opened()
    price = Decimal(exchange.liquidation_price(SYMBOL))
    inwards = price.to_integral_value(ROUND_CEILING if quantity > 0 else ROUND_FLOOR)
    outwards = price.to_integral_value(ROUND_FLOOR if quantity > 0 else ROUND_CEILING)
    if inwards == price:
        inwards += 1 if quantity > 0 else -1
    marked(exchange, 20, int(inwards))
    assert exchange.position(SYMBOL).quantity == quantity
    if price:  # a long with enough margin is never liquidated
        marked(exchange, 30, int(outwards))
        assert exchange.position(SYMBOL).quantity == 0


STEEP = SymbolRules(brackets=brackets_of([(20, 50_000, "0.01"), (20, 150_000, "0.025"), (20, 10**9, "0.05")]))


# --- liquidation ------------------------------------------------------------------------------------------------------


def test_an_isolated_position_is_closed_at_the_mark_and_pays_the_liquidation_fee_from_its_margin() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    exchange.place_algo(stop(SELL, 100, 800))
    exchange.place_order(limit(BUY, 5, 900))
    exchange.outbox.clear()
    # 10,000 of margin: (10,000 - 100,000) / (100 x 2.5% - 100) = 923.08
    assert exchange.liquidation_price(SYMBOL) == "923.07692308"
    marked(exchange, 20, "923.08")
    assert told(exchange) == [f"margin call {SYMBOL}"]
    exchange.outbox.clear()
    marked(exchange, 30, "923.07")
    assert told(exchange) == [
        "l EXPIRED EXPIRED",
        "s algo EXPIRED",
        "autoclose-3 NEW NEW",
        "autoclose-3 CALCULATED FILLED",
        "account ORDER",
    ]
    assert fills(exchange) == [("autoclose-3", "SELL", 100, 923)]
    assert exchange.query_order(SYMBOL, client_order_id="l").expiry_reason == "5"
    assert exchange.account.fees == money("1153.75")  # 1.25% of 92,300, of 2,300 that are left
    assert exchange.account.wallet == money(1_000_000 - 7_700) - money("1153.75")


def test_what_is_lost_beyond_the_margin_the_insurance_fund_pays() -> None:
    exchange = holding(-100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    marked(exchange, 20, "1149.2")
    assert fills(exchange) == [("autoclose-2", "BUY", 100, 1_150)]
    assert (exchange.account.realised, exchange.account.fees) == (money(-15_000), 0)
    assert exchange.account.wallet == money(990_000), "an isolated position loses its margin, never more"
    assert [event.reason for event in exchange.outbox if isinstance(event, AccountChange)] == [
        "ORDER",
        "INSURANCE_CLEAR",
    ]
    assert [income.kind for income in exchange.income if income.amount > 0] == ["INSURANCE_CLEAR"]


def test_cross_positions_share_their_margin_and_fall_together() -> None:
    gem = an_instrument("GEMUSDT", tick="1", step="1", min_notional=money(5))
    exchange = quoted(more=[gem], wallet=money(20_000), leverage=10, latency_ms=0, slippage_bps=0.0, taker_fee_e8=0)
    played(exchange, (0, 1_000, "s", 500), (0, 1_000, "b", 500), symbol="GEMUSDT")
    hold(exchange, 80)
    hold(exchange, -80, symbol="GEMUSDT")
    marked(exchange, 20, 1_000)
    marked(exchange, 20, 1_000, symbol="GEMUSDT")
    assert exchange.balances().maintenance_margin == money(4_000)
    marked(exchange, 30, 900)  # 12,000 left of 20,000; maintenance 1,800 + 2,000
    # (20,000 - 2,000 - 80,000) / (80 x 2.5% - 80), then with the other one's loss of 8,000
    assert exchange.liquidation_price(SYMBOL) == "794.87179487"
    marked(exchange, 40, 1_099, symbol="GEMUSDT")  # 80 x 99 lost, 2,198 of maintenance
    assert exchange.liquidation_price(SYMBOL) == "898.94871795"
    exchange.outbox.clear()
    marked(exchange, 50, "898.94")
    assert fills(exchange) == [("autoclose-3", "SELL", 80, 898), ("autoclose-4", "BUY", 80, 1_099)]
    assert exchange.account.realised == money(-8_160 - 7_920)
    assert exchange.account.fees == money(898 + 1_099)  # 1.25% of 71,840 and of 87,920
    assert exchange.balances().available == money(1_923)


def test_a_bankrupt_cross_wallet_is_made_whole_and_isolated_margin_is_not_touched() -> None:
    gem = an_instrument("GEMUSDT", tick="1", step="1", min_notional=money(5))
    exchange = quoted(more=[gem], wallet=money(20_000), leverage=10, latency_ms=0, slippage_bps=0.0, taker_fee_e8=0)
    exchange.set_margin_type("GEMUSDT", "isolated")
    played(exchange, (0, 1_000, "s", 500), (0, 1_000, "b", 500), symbol="GEMUSDT")
    hold(exchange, 100)
    hold(exchange, 50, symbol="GEMUSDT")
    assert exchange.balances().cross_wallet == money(15_000)
    marked(exchange, 20, 800)
    assert exchange.position(SYMBOL).quantity == 0
    assert exchange.position("GEMUSDT").quantity == 50
    assert (exchange.balances().wallet, exchange.balances().cross_wallet) == (money(5_000), 0)
    assert exchange.account.transfers == money(5_000)  # 20,000 lost of 15,000


def test_liquidation_waits_for_a_mark() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    played(exchange, (20, 500, "s", 9))
    assert exchange.position(SYMBOL).quantity == 100
    marked(exchange, 30, 500)
    assert exchange.position(SYMBOL).quantity == 0


# --- margin calls -----------------------------------------------------------------------------------------------------


def test_a_margin_call_goes_out_once_at_80_percent_and_again_after_relief() -> None:
    """Of 10,000 margin 100 x (1,000 - mark) are lost; maintenance is 2.5%: 80% is at 929.125."""
    exchange = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    marked(exchange, 20, "938")  # 2,345 of 3,800
    assert told(exchange) == []
    for ms, price in ((30, "928"), (31, "927"), (32, "926")):  # 2,320 of 2,800
        marked(exchange, ms, price)
    assert told(exchange) == [f"margin call {SYMBOL}"]
    [call] = exchange.outbox
    assert isinstance(call, MarginCall)
    [risk] = call.positions
    assert (call.time, risk.mark_price, risk.unrealised) == (T0 + 30, money(928), money(-7_200))
    assert (risk.maintenance_margin, risk.isolated_wallet) == (money(2_320), money(10_000))
    exchange.change_position_margin(SYMBOL, money(5_000), adding=True)
    marked(exchange, 40, "926")
    marked(exchange, 50, "877")  # 2,192.50 of 2,700
    assert [word for word in told(exchange) if "margin call" in word] == [f"margin call {SYMBOL}"] * 2
    assert [type(news).__name__ for news in drain_events(exchange)] == ["AccountUpdate"], "the core has no use for it"


def test_cross_positions_are_called_together() -> None:
    gem = an_instrument("GEMUSDT", tick="1", step="1", min_notional=money(5))
    exchange = quoted(more=[gem], wallet=money(20_000), leverage=10, latency_ms=0, slippage_bps=0.0, taker_fee_e8=0)
    played(exchange, (0, 1_000, "s", 500), (0, 1_000, "b", 500), symbol="GEMUSDT")
    hold(exchange, 80)
    hold(exchange, -80, symbol="GEMUSDT")
    marked(exchange, 20, 1_000)
    marked(exchange, 20, 1_000, symbol="GEMUSDT")
    exchange.outbox.clear()
    marked(exchange, 30, 801)  # 1,602 + 2,000 of 20,000 - 15,920: 88%
    assert told(exchange) == [f"margin call {SYMBOL} GEMUSDT"]
    marked(exchange, 40, 1_000, symbol="GEMUSDT")
    assert len(exchange.outbox) == 1
    marked(exchange, 50, 900)
    marked(exchange, 60, 801)
    assert told(exchange) == [f"margin call {SYMBOL} GEMUSDT"] * 2


# --- break-even -------------------------------------------------------------------------------------------------------


def test_the_break_even_price_is_what_binance_told_of_real_positions() -> None:
    """A long of 0.003 at 37,140 by a maker (2 bps), and a short at 42,976.6 by a taker (5 bps)."""
    coin = an_instrument(SYMBOL, tick="0.1", step="0.001", min_notional=money(5))
    for lots, price, told_price in ((3, 371_400, "37147.428"), (-3, 429_766, "42955.1117")):
        exchange = an_exchange(coin, latency_ms=0, slippage_bps=0.0)
        played(exchange, (0, price, "s", 9), (0, price, "b", 9))
        if lots > 0:
            played(exchange, (5, price + 1, "s", 9), (5, price + 1, "b", 9))
            exchange.place_order(limit(BUY, lots, price))
            played(exchange, (10, price - 1, "s", 9))
        else:
            hold(exchange, lots, price)
        assert exchange.position_risk(SYMBOL).break_even_price == told_price


def test_the_break_even_price_counts_fees_and_what_parts_of_the_position_brought() -> None:
    exchange = an_exchange(latency_ms=0, slippage_bps=0.0, taker_fee_e8=1_000_000)  # 1%

    def after(quantity: int, price: int) -> str:
        played(exchange, (0, price, "s", 99), (0, price, "b", 99))
        hold(exchange, quantity, price)
        return exchange.position_risk(SYMBOL).break_even_price

    assert after(10, 1_000) == "1010"  # 10,000 and a fee of 100
    assert after(10, 1_100) == "1060.5"  # 11,000 and 110 more, for 20
    assert after(-10, 1_200) == "933"  # 21,210 less 12,000, and a fee of 120: 9,330 for 10
    assert after(-10, 1_000) == "0"
    assert after(-20, 1_000) == "990"
    assert after(25, 1_000) == "1010", "through zero: five are new, and a fifth of the fee is theirs"


# --- isolated margin --------------------------------------------------------------------------------------------------


def test_isolated_margin_is_added_and_taken_back() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    marked(exchange, 20, 1_000)
    exchange.change_position_margin(SYMBOL, money(5_000), adding=True)
    risk = exchange.position_risk(SYMBOL)
    assert (risk.isolated_wallet, exchange.liquidation_price(SYMBOL)) == (money(15_000), "871.79487179")
    assert exchange.balances().available == money(985_000)
    [event] = [event for event in exchange.outbox if isinstance(event, AccountChange)]
    assert (event.reason, event.cross_wallet, event.positions[0].isolated_wallet) == (
        "MARGIN_TRANSFER",
        money(985_000),
        money(15_000),
    )
    marked(exchange, 30, 970)
    for amount, adding, code in (
        (money(2_001), False, -4051),  # 15,000 less the loss of 3,000 and the 10,000 that it needs
        (money(985_001), True, -4050),
        (0, True, -4055),
    ):
        with pytest.raises(VenueRefusal, match=str(code)):
            exchange.change_position_margin(SYMBOL, amount, adding=adding)
    exchange.change_position_margin(SYMBOL, money(2_000), adding=False)
    exchange.terms = replace(exchange.terms, latency_ms=0)
    exchange.place_order(market(SELL, 50))
    played(exchange, (40, 1_000, "s", 50))
    assert exchange.position_risk(SYMBOL).isolated_wallet == money(6_500), "half of it has gone with half the position"
    exchange.place_order(market(SELL, 50))
    played(exchange, (50, 1_000, "s", 50))
    with pytest.raises(VenueRefusal, match="-4054"):
        exchange.change_position_margin(SYMBOL, money(1), adding=True)
    with pytest.raises(VenueRefusal, match="-4049"):
        holding(5).change_position_margin(SYMBOL, money(1), adding=True)


# --- funding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantity", "rate_e8", "paid"), [(100, 10_000, -10), (-100, 10_000, 10), (100, -10_000, 10)])
def test_funding_is_paid_at_its_time_on_the_value_at_the_mark(quantity: int, rate_e8: int, paid: int) -> None:
    exchange = holding(quantity, taker_fee_e8=0)
    due = {"funding_rate_e8": rate_e8, "next_funding_time": T0 + 100}
    marked(exchange, 50, 900, **due)
    marked(exchange, 99, 1_100, **due)
    assert exchange.account.funding == 0
    exchange.outbox.clear()
    marked(exchange, 101, 1_000, funding_rate_e8=5_000, next_funding_time=T0 + 28_800_100)
    assert exchange.account.funding == money(paid)  # 0.01% of 100 x 1,000, by the rate that stood before
    assert exchange.account.wallet == money(1_000_000 + paid)
    [event] = exchange.outbox
    assert isinstance(event, AccountChange)
    assert (event.reason, event.positions, event.balance_change) == ("FUNDING_FEE", (), money(paid))
    marked(exchange, 200, 1_000, funding_rate_e8=5_000, next_funding_time=T0 + 28_800_100)
    assert exchange.account.funding == money(paid)


def test_an_isolated_position_pays_funding_from_its_own_margin() -> None:
    exchange = holding(100, leverage=10, taker_fee_e8=0, margin_type="isolated")
    marked(exchange, 20, 1_000, funding_rate_e8=100_000, next_funding_time=T0 + 100)
    marked(exchange, 100, 1_000)
    assert exchange.position_risk(SYMBOL).isolated_wallet == money(9_900)
    assert exchange.balances().cross_wallet == money(990_000)
    [event] = [event for event in exchange.outbox if isinstance(event, AccountChange)]
    assert [change.quantity for change in event.positions] == [100]


def test_a_funding_is_paid_once_however_late_the_next_mark_comes() -> None:
    """Two more funding times have passed, of which no mark stated a rate: they aren't known."""
    exchange = holding(100, taker_fee_e8=0)
    marked(exchange, 20, 1_000, funding_rate_e8=10_000, next_funding_time=T0 + 100)
    marked(exchange, 100 + 2 * 28_800_000, 1_000)
    assert exchange.account.funding == money(-10)


# --- what else happens to an account ----------------------------------------------------------------------------------


def test_deposits_and_withdrawals() -> None:
    exchange = holding(100, leverage=10, wallet=money(20_000), taker_fee_e8=0)
    exchange.deposit(money(500))
    with pytest.raises(VenueRefusal, match="-4050"):
        exchange.withdraw(money("10500.00000001"))
    exchange.withdraw(money(10_500))
    assert (exchange.account.wallet, exchange.balances().available) == (money(10_000), 0)
    events = [event for event in exchange.outbox if isinstance(event, AccountChange)]
    assert [(event.reason, event.balance_change) for event in events] == [
        ("DEPOSIT", money(500)),
        ("WITHDRAW", money(-10_500)),
    ]
    for move in (exchange.deposit, exchange.withdraw):
        with pytest.raises(VenueRefusal, match="-4055"):
            move(0)


def test_auto_deleveraging_takes_a_part_or_the_whole_at_the_mark() -> None:
    exchange = holding(100)
    marked(exchange, 20, "1100.5")
    exchange.deleverage(SYMBOL, 30)
    exchange.deleverage(SYMBOL)
    assert fills(exchange) == [("adl_autoclose2", "SELL", 30, 1_100), ("adl_autoclose3", "SELL", 70, 1_100)]
    with pytest.raises(VenueRefusal, match="-2024"):
        exchange.deleverage(SYMBOL)


def test_settlement_ends_orders_and_closes_the_position_at_the_mark() -> None:
    exchange = holding(-100, taker_fee_e8=50_000)
    exchange.place_algo(stop(BUY, 100, 1_100))
    exchange.place_order(limit(BUY, 5, 990))
    marked(exchange, 20, "989.5")
    exchange.outbox.clear()
    exchange.interventions.settle(SYMBOL)
    assert told(exchange)[:2] == ["l EXPIRED EXPIRED", "s algo EXPIRED"]
    assert exchange.query_order(SYMBOL, client_order_id="l").expiry_reason == "7"
    assert fills(exchange) == [("settlement_autoclose-3", "BUY", 100, 990)]
    assert exchange.user_trades()[-1].fee == money("49.5")


def test_settings_that_change_are_told() -> None:
    exchange = quoted()
    exchange.set_leverage(SYMBOL, 7)
    exchange.set_leverage(SYMBOL, 7)
    exchange.set_margin_type(SYMBOL, "isolated")
    assert exchange.outbox[0] == SettingsChange(T0, SYMBOL, 7)
    assert told(exchange) == ["account settings", "account MARGIN_TYPE_CHANGE"]
    assert [type(news).__name__ for news in drain_events(exchange)] == ["AccountUpdate"]
    assert exchange.outbox == []
