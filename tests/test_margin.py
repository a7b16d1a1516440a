"""Margins, leverage, liquidation and funding, by hand arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchanges import BUY, SELL, SYMBOL, T0, holding, limit, market, quoted

from voltrade.exchange.refusals import VenueRefusal
from voltrade.model import MarkPrice, money


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
