"""Position, wallet, profit, fees and funding, folded from fills in exact integers.

The core and the simulated exchange keep their books with this one definition, so that they agree to the last unit.
Quantities are signed lots, prices ticks, and money units of 1e-8 of the quote asset. Three roundings exist, each half
to even and each done once per fill or valuation: the fee, the cost that a partial close releases, and the value at a
mark price. What a partial close leaves behind keeps the exact rest of the cost: a position that ends flat has realised
exactly what its sells brought minus what its buys cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from voltrade.compiled import compiled
from voltrade.model import MONEY, Instrument, Side

ENTRY_PRICE_DECIMALS = 12
"""Decimals of an average entry price, which seldom ends."""


@compiled
def proportion(amount: int, numerator: int, denominator: int) -> int:
    """Return `amount` x `numerator` / `denominator`, rounded half to even, once.

    Where 64 bits would not hold `amount` x `numerator`, the amount is split by the denominator first: only the result
    and `numerator` x `denominator` must stay below 2^63. The numerator is 0 or more, the denominator positive; the
    amount may be negative.
    """
    if abs(float(amount) * numerator) < 2.0**62:  # nearly always: one division then does
        product = amount * numerator
        whole = product // denominator
        twice = 2 * (product - whole * denominator)
    else:
        whole = amount // denominator * numerator
        rest = amount % denominator * numerator
        whole += rest // denominator
        twice = 2 * (rest % denominator)
    # Added, not branched on: which way it goes is a toss of a coin, and a wrong guess costs as much as the division.
    return whole + (twice > denominator) + (twice == denominator) * (whole & 1)


@compiled
def fee(notional: int, rate_e8: int) -> int:
    """Return the money that a fill of `notional` money costs at a rate in 1e-8; rounded half to even, once."""
    return proportion(notional, rate_e8, MONEY)


@compiled
def funding_payment(value: int, rate_e8: int) -> int:
    """Return what a position worth `value` (signed money) receives: at a positive rate longs pay and shorts receive."""
    return fee(abs(value), abs(rate_e8)) * (-1 if (value > 0) == (rate_e8 > 0) else 1)


@compiled
def value_at_mark(lots: int, step_numerator: int, step_denominator: int, mark_e8: int) -> int:
    """Return the money of signed lots at a mark price: `Instrument.value_at_mark` in 64 bits, the step as a fraction.

    The product of a quantity in coins, written as a fraction, and its own denominator must stay below 2^63.
    """
    if lots < 0:
        return proportion(-mark_e8, -lots * step_numerator, step_denominator)
    return proportion(mark_e8, lots * step_numerator, step_denominator)


@compiled
def position_after(
    quantity: int, cost: int, side: int, price: int, lots: int, money_per_ticklot: int
) -> tuple[int, int, int]:
    """Take a fill of `lots` at `price` ticks into a position, through zero if need be.

    Returns:
        The signed quantity and the cost after it, and the money it realised before fees.
    """
    closed = min(lots, max(0, -side * quantity))
    realised = 0
    if closed > 0:
        released = proportion(cost, closed, abs(quantity))
        realised = -side * price * closed * money_per_ticklot - released
        quantity += side * closed
        cost -= released
    opened = lots - closed
    quantity += side * opened
    cost += side * price * opened * money_per_ticklot
    return quantity, cost, realised


class Position:
    """A one-way position of one symbol, valued at average cost.

    Attributes:
        quantity: signed lots.
        cost: money paid for what is held, fees apart; negative for a short, 0 when flat.
    """

    __slots__ = ("cost", "instrument", "quantity")

    def __init__(self, instrument: Instrument, quantity: int = 0, cost: int = 0) -> None:
        self.instrument = instrument
        self.quantity = quantity
        self.cost = cost

    def apply_fill(self, side: Side, price: int, quantity: int) -> int:
        """Take a fill of `quantity` lots at `price` ticks into the position, through zero if need be.

        Returns:
            The money it realised, before fees: 0 unless it closed something.

        Raises:
            ValueError: the quantity or the price is not positive.
        """
        if quantity <= 0 or price <= 0:
            raise ValueError(f"a fill has a positive quantity and price, had {quantity} lots at {price} ticks")
        self.quantity, self.cost, realised = position_after(
            self.quantity, self.cost, side.value, price, quantity, self.instrument.money_per_ticklot
        )
        return realised

    def closable(self, side: Side) -> int:
        """Return the lots that an order of this side can close."""
        return max(0, -side * self.quantity)

    @property
    def entry_price(self) -> str:
        """Average entry price as decimal text, `"0"` when flat. For people and the wire: the books keep `cost`."""
        if self.quantity == 0:
            return "0"
        price = Decimal(self.cost).scaleb(-8) / (self.quantity * self.instrument.step_size)
        return format(round(price, ENTRY_PRICE_DECIMALS).normalize(), "f")


@dataclass(slots=True)
class Account:
    """A wallet and its positions. At every moment wallet == deposits + realised - fees + funding, to the unit.

    All amounts are money. Positions appear with `open_symbol`.
    """

    wallet: int
    realised: int = 0
    fees: int = 0
    funding: int = 0
    """Received; negative when paid."""
    transfers: int = 0
    """Net deposits after the start, and what an insurance fund has paid."""
    positions: dict[str, Position] = field(default_factory=dict)

    def open_symbol(self, instrument: Instrument) -> Position:
        """Return the position of a symbol, flat when it is new."""
        return self.positions.setdefault(instrument.symbol, Position(instrument))

    def apply_fill(self, symbol: str, side: Side, price: int, quantity: int, fee: int) -> int:
        """Book a fill and its fee; return the money it realised before the fee."""
        realised = self.positions[symbol].apply_fill(side, price, quantity)
        self.realised += realised
        self.fees += fee
        self.wallet += realised - fee
        return realised

    def apply_funding(self, amount: int) -> None:
        """Book a funding payment: positive when received."""
        self.funding += amount
        self.wallet += amount

    def apply_transfer(self, amount: int) -> None:
        """Book a deposit, or a withdrawal when negative."""
        self.transfers += amount
        self.wallet += amount
