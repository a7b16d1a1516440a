"""The state of orders at the simulated exchange; it reports them as the types of `model`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from voltrade.model import AlgoUpdate, OrderRequest, OrderType, OrderUpdate, Side, TimeInForce, WorkingType
from voltrade.simulated.fill_model import is_triggered, trailing_trigger


class Phase(Enum):
    IN_FLIGHT = "has not reached the matching engine"
    RESTING = "is at the matching engine, and fills when a trade goes through its limit"
    ENDED = "filled, cancelled or expired"


@dataclass(slots=True, eq=False)
class Order:
    """An ordinary order; `algo` is the conditional order it came from, if any."""

    request: OrderRequest
    id: int
    created: int
    live_from: int
    assumed_price: int
    """Price for its margin, ticks."""
    algo: AlgoOrder | None = None
    phase: Phase = Phase.IN_FLIGHT
    reference: int = 0
    """Last trade price at arrival, ticks."""
    rests_from: int = 0
    """The first trade of the tape that may fill it while it rests; those before have priced what it took."""
    status: str = "NEW"
    updated: int = 0
    filled: int = 0
    filled_notional: int = 0
    expiry_reason: str = "0"
    modify_id: int = 0
    """Which its last modification was given, 0 for none."""
    offered: int = -1
    """Lots that it may fill, -1 for all; see `Interventions.thin_book`."""

    @property
    def remaining(self) -> int:
        return self.request.quantity - self.filled

    @property
    def is_immediate(self) -> bool:
        """Whether what does not fill at once expires."""
        immediate = (TimeInForce.IOC, TimeInForce.FOK)
        return self.request.order_type is OrderType.MARKET or self.request.time_in_force in immediate

    @property
    def origin(self) -> str:
        """Type of the conditional order it came from, or empty."""
        return self.algo.request.order_type.value if self.algo else ""

    def update(self, execution: str = "") -> OrderUpdate:
        """Return its state as an event with an execution type, or as REST returns it, without one."""
        request = self.request
        return OrderUpdate(
            **request.common_fields,
            time=self.updated,
            order_id=self.id,
            status=self.status,
            execution=execution,
            filled=self.filled,
            filled_notional=self.filled_notional,
            price=request.price,
            time_in_force=request.time_in_force,
            expiry_reason=self.expiry_reason,
        )


@dataclass(slots=True, eq=False)
class AlgoOrder:
    """A conditional order; `child` is the ordinary order it became.

    Prices are in ticks if trades trigger it, or in 1e-8 of the quote asset if mark prices do; `unit` is one tick in
    that unit.
    """

    request: OrderRequest
    id: int
    created: int
    live_from: int
    unit: int
    best: int = 0
    """The best price since a trailing stop was activated; 0 before the first."""
    trailing: bool = False
    arrived: bool = False
    status: str = "NEW"
    updated: int = 0
    triggered: int = 0
    child: Order | None = None
    reason: str = ""
    kind: str = "CONDITIONAL"
    """`algoType`; one of another kind never triggers."""
    is_forgotten: bool = False
    """Whether the exchange has lost it, for faults."""

    @property
    def by_mark(self) -> bool:
        return self.request.working_type is WorkingType.MARK_PRICE

    @property
    def is_trailing_type(self) -> bool:
        return self.request.order_type is OrderType.TRAILING_STOP_MARKET

    @property
    def is_stop(self) -> bool:
        return self.request.order_type not in (OrderType.TAKE_PROFIT, OrderType.TAKE_PROFIT_MARKET)

    @property
    def rising(self) -> bool:
        """Whether it triggers on a rise, as stops of buys and take-profits of sells do."""
        return self.is_stop == (self.request.side is Side.BUY)

    @property
    def activation(self) -> int:
        return self.request.activation_price * self.unit

    def trigger(self) -> int:
        """Return the present trigger price; 0 if there is none yet."""
        if not self.is_trailing_type:
            return self.request.trigger_price * self.unit
        if not self.trailing or not self.best:
            return 0
        return trailing_trigger(self.best, self.request.side.value, self.request.callback_bps)

    def is_triggered(self, price: int) -> bool:
        trigger = self.trigger() if self.kind == "CONDITIONAL" else 0
        return trigger > 0 and is_triggered(price, trigger, self.rising)

    def follows(self, price: int) -> bool:
        """Whether a price activates a trailing stop, or is its new best price."""
        if not self.is_trailing_type:
            return False
        if not self.trailing:
            return is_triggered(price, self.activation, not self.rising)
        return not self.best or self.request.side.value * (self.best - price) > 0

    def follow(self, price: int) -> None:
        """Apply a price for which `follows` is true."""
        self.trailing, self.best = True, price

    def update(self) -> AlgoUpdate:
        request = self.request
        return AlgoUpdate(
            **request.common_fields,
            time=self.updated,
            algo_id=self.id,
            status=self.status,
            trigger_price=request.trigger_price,
            order_id=self.child.id if self.child else 0,
            filled=self.child.filled if self.child else 0,
            working_type=request.working_type,
            reason=self.reason,
        )
