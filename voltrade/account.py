"""Position, wallet, realised profit, fees and funding, computed from fills in exact integers.

The simulated exchange computes its fees, funding and wallet with these functions; a session books what the exchange
reports, and shares how a fill changes a position (`position_after`) and what it is worth (`value_at_mark`). Quantities
are signed lots, prices ticks, and money is in 1e-8 of the quote asset. Three amounts are rounded, half to even, once
per fill or valuation: the fee, the part of the cost that a partial close releases, and the value at a mark price. After
a partial close the position keeps exactly the rest of the cost, so that a position that ends flat has realised exactly
what its sells brought minus what its buys cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from voltrade.compiled import compiled
from voltrade.model import MONEY, Instrument, Side

ENTRY_PRICE_DECIMALS = 12
"""Decimals to which an average entry price is rounded."""


@compiled
def proportion(amount: int, numerator: int, denominator: int) -> int:
    """Return `amount` x `numerator` / `denominator`, rounded half to even, once.

    If `amount` x `numerator` would overflow 64 bits, the amount is divided by the denominator first, so that only the
    result and `numerator` x `denominator` must be below 2^63. The numerator must be 0 or more, the denominator
    positive; the amount may be negative.
    """
    if abs(float(amount) * numerator) < 2.0**62:  # nearly always true, and needs only one division
        product = amount * numerator
        whole = product // denominator
        twice = 2 * (product - whole * denominator)
    else:
        whole = amount // denominator * numerator
        rest = amount % denominator * numerator
        whole += rest // denominator
        twice = 2 * (rest % denominator)
    # No branch: it would be unpredictable, and a misprediction takes as long as the division.
    return whole + (twice > denominator) + (twice == denominator) * (whole & 1)


@compiled
def fee(notional: int, rate_e8: int) -> int:
    """Return the fee of a fill of `notional` money at a rate in 1e-8; rounded half to even, once."""
    return proportion(notional, rate_e8, MONEY)


@compiled
def funding_payment(value: int, rate_e8: int) -> int:
    """Return the money that a position of `value` (signed money) receives as funding, negative if it pays.

    At a positive rate longs pay and shorts receive.
    """
    return fee(abs(value), abs(rate_e8)) * (-1 if (value > 0) == (rate_e8 > 0) else 1)


@compiled
def net_of(realised: int, fees: int, funding: int) -> int:
    """Return the net of a round trip, or of many at once where they are arrays, in money."""
    return realised - fees + funding


@compiled
def value_at_mark(lots: int, step_numerator: int, step_denominator: int, mark_e8: int) -> int:
    """Return the money of signed lots at a mark price, as `Instrument.value_at_mark` does, in 64 bits.

    The step is given as a fraction; `lots` x `step_numerator` x `step_denominator` must be below 2^63.
    """
    if lots < 0:
        return proportion(-mark_e8, -lots * step_numerator, step_denominator)
    return proportion(mark_e8, lots * step_numerator, step_denominator)


@compiled
def position_after(
    quantity: int, cost: int, side: int, price: int, lots: int, money_per_ticklot: int
) -> tuple[int, int, int]:
    """Apply a fill of `lots` at `price` ticks to a position; the fill may turn long into short and back.

    Returns:
        The signed quantity and the cost after the fill, and the money that it realised before fees.
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
        cost: money paid for the position, without fees; negative for a short, 0 when flat.
    """

    __slots__ = ("cost", "instrument", "quantity")

    def __init__(self, instrument: Instrument, quantity: int = 0, cost: int = 0) -> None:
        self.instrument = instrument
        self.quantity = quantity
        self.cost = cost

    def apply_fill(self, side: Side, price: int, quantity: int) -> int:
        """Apply a fill of `quantity` lots at `price` ticks; the fill may turn long into short and back.

        Returns:
            The money that it realised before fees; 0 if it closed nothing.

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
        """Average entry price as decimal text, `"0"` when flat. For display and messages; computations use `cost`."""
        if self.quantity == 0:
            return "0"
        price = Decimal(self.cost).scaleb(-8) / (self.quantity * self.instrument.step_size)
        return format(round(price, ENTRY_PRICE_DECIMALS).normalize(), "f")


@dataclass(slots=True)
class Account:
    """A wallet and its positions.

    Always, wallet == initial wallet + transfers + adjustments + realised - fees + funding, exactly.

    All amounts are money. `open_symbol` adds a position.
    """

    wallet: int
    realised: int = 0
    fees: int = 0
    funding: int = 0
    """Funding received; negative if more was paid."""
    transfers: int = 0
    """Net deposits after the start, payments of the insurance fund, and the worth of fees paid in another asset."""
    adjustments: int = 0
    """Profit and loss of trades that aren't ours, and changes of the wallet that nothing explains."""
    positions: dict[str, Position] = field(default_factory=dict)

    def open_symbol(self, instrument: Instrument) -> Position:
        """Return the position of a symbol, a flat one at the first call."""
        return self.positions.setdefault(instrument.symbol, Position(instrument))

    def apply_fill(self, symbol: str, side: Side, price: int, quantity: int, fee: int) -> int:
        """Book a fill and its fee; return the money that it realised before the fee."""
        realised = self.positions[symbol].apply_fill(side, price, quantity)
        self.realised += realised
        self.fees += fee
        self.wallet += realised - fee
        return realised

    def apply_funding(self, amount: int) -> None:
        """Book a funding payment, positive if received."""
        self.funding += amount
        self.wallet += amount

    def apply_transfer(self, amount: int) -> None:
        """Book a deposit, or a withdrawal if negative."""
        self.transfers += amount
        self.wallet += amount
