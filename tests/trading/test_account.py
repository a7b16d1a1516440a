"""The books: average cost, fees and valuation by hand, and identities over any sequence of fills."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.builders import an_instrument

from voltrade.account import Account, Position, fee, net_of, proportion
from voltrade.model import MONEY, Instrument, Side, money

BUY, SELL = Side.BUY, Side.SELL
COIN = an_instrument("COINUSDT", tick="1", step="1")
"""One tick is one dollar, one lot is one coin."""
FINE = an_instrument("FINEUSDT", tick="0.0001", step="0.0001")
"""One ticklot is one unit of money."""

Fills = list[tuple[Side, int, int]]
fills = st.lists(st.tuples(st.sampled_from([BUY, SELL]), st.integers(1, 10**7), st.integers(1, 10**6)), max_size=30)


def played(instrument: Instrument, *some: tuple[Side, int, int]) -> tuple[Position, list[int]]:
    position = Position(instrument)
    return position, [position.apply_fill(*fill) for fill in some]


@pytest.mark.parametrize(
    ("story", "some", "realised", "quantity", "cost"),
    [
        ("a buy realises nothing", [(BUY, 100, 3)], [0], 3, 300),
        ("a long sold higher", [(BUY, 100, 3), (SELL, 110, 3)], [0, 3 * 110 - 300], 0, 0),
        ("a short bought lower", [(SELL, 100, 3), (BUY, 90, 3)], [0, 300 - 3 * 90], 0, 0),
        ("two buys average", [(BUY, 100, 1), (BUY, 104, 3), (SELL, 110, 2)], [0, 0, 2 * 110 - 206], 2, 206),
        ("part of a short", [(SELL, 100, 4), (BUY, 110, 1)], [0, 100 - 110], -3, -300),
        ("through zero", [(BUY, 100, 2), (SELL, 105, 5)], [0, 2 * 105 - 200], -3, -3 * 105),
        ("and back through zero", [(SELL, 100, 2), (BUY, 90, 5)], [0, 200 - 2 * 90], 3, 3 * 90),
    ],
)
def test_average_cost(story: str, some: Fills, realised: list[int], quantity: int, cost: int) -> None:
    position, got = played(COIN, *some)
    assert got == [amount * MONEY for amount in realised], story
    assert (position.quantity, position.cost) == (quantity, cost * MONEY)


def test_a_partial_close_rounds_once_and_the_rest_keeps_what_was_rounded() -> None:
    # 3 lots for 10 units: a third of the cost is 3.33, two thirds of what then remains 3.5, a tie that goes to even
    position, realised = played(FINE, (BUY, 3, 2), (BUY, 4, 1), (SELL, 5, 1), (SELL, 5, 1), (SELL, 5, 1))
    assert realised == [0, 0, 5 - 3, 5 - 4, 5 - 3]
    assert sum(realised) == 3 * 5 - 10
    assert (position.quantity, position.cost) == (0, 0)


@pytest.mark.parametrize(
    ("some", "text"),
    [
        ([], "0"),
        ([(BUY, 100, 3)], "100"),
        ([(SELL, 101, 1), (SELL, 102, 1)], "101.5"),
        ([(BUY, 100, 2), (BUY, 101, 1)], "100.333333333333"),
    ],
)
def test_entry_price_is_decimal_text(some: Fills, text: str) -> None:
    assert played(COIN, *some)[0].entry_price == text


def test_entry_price_is_per_coin_whatever_the_tick_and_step() -> None:
    btc, _ = played(an_instrument(), (BUY, 600_001, 4))
    assert btc.entry_price == "60000.1"


@pytest.mark.parametrize(
    ("notional", "rate_e8", "paid"),
    [
        (money(1000), 50_000, money("0.5")),  # 5 bps
        (1, 50_000_000, 0),  # half a unit goes to the even 0
        (3, 50_000_000, 2),  # one and a half goes to the even 2
        (5, 50_000_000, 2),
        (100_001, 50_000, 50),  # 50.0005
        (money(80_000_000_000), 99_999_999, 7_999_999_920_000_000_000),  # the product would not fit 64 bits
    ],
)
def test_a_fee_is_rounded_once_half_to_even(notional: int, rate_e8: int, paid: int) -> None:
    assert fee(notional, rate_e8) == paid


@given(st.integers(-(2**62), 2**62), st.integers(0, 10**9), st.integers(1, 10**9))
def test_proportion_is_exact_to_the_rounding(amount: int, part: int, whole: int) -> None:
    part = min(part, whole)
    assert proportion(amount, part, whole) == round(Fraction(amount * part, whole))


@pytest.mark.parametrize(("price", "quantity"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_a_fill_without_price_or_quantity_is_refused(price: int, quantity: int) -> None:
    with pytest.raises(ValueError, match="positive quantity and price"):
        Position(COIN).apply_fill(BUY, price, quantity)


@given(fills)
def test_what_ends_flat_has_realised_its_signed_notionals_exactly(some: Fills) -> None:
    position = Position(FINE)
    realised = sum(position.apply_fill(*fill) for fill in some)
    left = position.quantity
    if left:
        some = [*some, (SELL if left > 0 else BUY, 777, abs(left))]
        realised += position.apply_fill(*some[-1])
    assert (position.quantity, position.cost) == (0, 0)
    assert realised == -sum(side * price * quantity for side, price, quantity in some)


@given(fills, st.integers(1, 10**7))
def test_wallet_and_unrealised_account_for_every_unit(some: Fills, last: int) -> None:
    account = Account(money(1000))
    account.open_symbol(FINE)
    paid = 0
    for side, price, quantity in some:
        charge = fee(price * quantity, 50_000)
        paid += charge
        account.apply_fill("FINEUSDT", side, price, quantity, charge)
    account.apply_funding(-7)
    account.apply_transfer(50)
    held = sum(side * quantity for side, _, quantity in some)
    spent = sum(side * price * quantity for side, price, quantity in some)
    assert account.positions["FINEUSDT"].quantity == held
    assert account.wallet == money(1000) + account.realised - account.fees + account.funding + account.transfers
    unrealised = held * last - account.positions["FINEUSDT"].cost
    assert account.wallet + unrealised == money(1000) - spent + held * last - paid - 7 + 50


@given(fills)
def test_realised_agrees_with_decimals(some: Fills) -> None:
    """The same rule in plain Decimal: average cost, one rounding half to even of what a partial close releases."""
    position, got = Position(FINE), []
    quantity, cost, expected = 0, Decimal(0), []
    for side, price, size in some:
        got.append(position.apply_fill(side, price, size))
        closed = min(size, max(0, -side * quantity))
        released = (cost * closed / abs(quantity)).quantize(Decimal(1), ROUND_HALF_EVEN) if closed else Decimal(0)
        expected.append(int(-side * price * closed - released) if closed else 0)
        cost += side * price * (size - closed) - released
        quantity += side * size
    assert got == expected
    assert position.cost == cost


def test_the_net_of_a_round_trip_has_fees_taken_off_and_funding_added() -> None:
    """In the tables, the breaker, the compiled backtest and the sweep, which all call it."""
    assert net_of(1_000, 30, -20) == 950  # funding that was paid
    assert net_of(-1_000, 30, 20) == -1_010  # and received
