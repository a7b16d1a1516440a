"""Prices far from the market are told, and not more often than a person wants to hear of them."""

from __future__ import annotations

import pytest

from voltrade.model import MONEY, MarkPrice
from voltrade.session.price_off_alert import AGAIN_MS, MARK_MS, PriceOffAlert
from voltrade.simulated.symbols import shipped_instrument

BTC = shipped_instrument("BTCUSDT")


def a_watch(mark: int = 0, last: int = 0) -> PriceOffAlert:
    """A watch at 1,000,000 ms that has seen a mark price and a trade, in USDT."""
    watch = PriceOffAlert(BTC)
    if last:
        assert watch.check(last * 10, 999_000) == ""
    if mark:
        watch.note_mark(MarkPrice("BTCUSDT", 1_000_000, mark * MONEY))
    return watch


@pytest.mark.parametrize(
    ("mark", "last", "price", "is_told"),
    [
        (80_000, 80_000, 88_000, False),
        (80_000, 80_000, 88_001, True),
        (80_000, 80_000, 71_999, True),
        (80_000, 80_000, 72_000, False),
        (80_000, 0, 800_000, True),
        (0, 80_000, 800_000, True),
        (0, 0, 800_000, False),
        (80_000, 100_000, 80_100, False),
    ],
)
def test_a_trade_is_compared_with_the_mark_price_else_with_the_trade_before(
    mark: int, last: int, price: int, is_told: bool
) -> None:
    assert bool(a_watch(mark, last).check(price * 10, 1_000_001)) is is_told


def test_a_mark_price_that_is_old_is_compared_with_no_more() -> None:
    """The market has moved meanwhile, trade by trade."""
    watch = a_watch(80_000, 90_000)
    assert watch.check(900_000, 1_000_000 + MARK_MS + 1) == ""


def test_a_mark_price_that_was_made_of_a_trade_is_compared_with_by_none() -> None:
    """While the exchange's are missing; the next trade is compared with the trade before, as the text says."""
    watch = a_watch(80_000, 90_000)
    watch.note_mark(MarkPrice("BTCUSDT", 1_000_000 + MARK_MS, 700_000 * MONEY, is_last_price=True))
    assert watch.check(900_000, 1_000_000 + MARK_MS + 1) == ""


def test_a_price_that_stays_far_is_told_once_a_minute() -> None:
    watch = PriceOffAlert(BTC)
    told = 0
    for time in range(1_000_000, 1_000_000 + 2 * AGAIN_MS, 1_000):
        watch.note_mark(MarkPrice("BTCUSDT", time, 80_000 * MONEY))
        told += bool(watch.check(8_000_000, time))
    assert told == 2


def test_what_is_told_names_both_prices() -> None:
    told = a_watch(80_000).check(7_999_990, 1_000_001)
    assert told == "a trade at 799999.0 is more than 10 % from the mark price, 80000.0"
