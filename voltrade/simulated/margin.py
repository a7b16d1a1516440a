"""Leverage brackets, margins and the liquidation price, as functions of amounts.

All amounts are money (units of 1e-8 of the quote asset), rates in 1e-8. Margins are rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from voltrade.model import MONEY
from voltrade.simulated.symbols import Bracket


def divided_up(amount: int, by: int) -> int:
    return -(-amount // by)


def bracket_of(brackets: Sequence[Bracket], notional: int) -> Bracket:
    """Return the bracket of a notional: above its floor and up to its cap; the last bracket has no upper end."""
    return next((bracket for bracket in brackets if notional <= bracket.cap), brackets[-1])


def maintenance_margin(brackets: Sequence[Bracket], notional: int) -> int:
    """Return notional x maintenance rate - maintenance amount of its bracket."""
    bracket = bracket_of(brackets, notional)
    return divided_up(notional * bracket.maintenance_e8, MONEY) - bracket.deducted


def largest_notional(brackets: Sequence[Bracket], leverage: int) -> int:
    """Return the cap of the last bracket that allows a leverage; 0 if none does."""
    return max((bracket.cap for bracket in brackets if bracket.leverage >= leverage), default=0)


def liquidation_price(brackets: Sequence[Bracket], quantity: Decimal, cost: int, margin_balance: int) -> Decimal:
    """Return the mark price at which maintenance margin equals the margin balance; 0 if there is none.

    Binance's formula ("How to Calculate Liquidation Price of USDS-M Futures Contracts") in one-way mode is

        (WB - TMM + UPNL + cum - side x size x entry) / (size x MMR - side x size)

    with rate (MMR) and amount (cum) of the bracket that the position has *at that price*. So the brackets are searched;
    maintenance margin is continuous between them, so exactly one fits.

    Args:
        brackets: lowest first.
        quantity: signed coins, not 0.
        cost: of the position; side x size x entry of the formula.
        margin_balance: WB - TMM + UPNL. Isolated: the isolated wallet. Cross: the cross wallet, less the maintenance
            margin and plus the unrealised profit of the other cross positions.
    """
    size, side = abs(quantity), 1 if quantity > 0 else -1
    for bracket in brackets:
        free = Decimal(margin_balance + bracket.deducted - cost).scaleb(-8)
        price = free / (size * (Decimal(bracket.maintenance_e8).scaleb(-8) - side))
        if price <= 0:
            return Decimal(0)
        if price * size <= Decimal(bracket.cap).scaleb(-8):
            break
    return round(price, 8)
