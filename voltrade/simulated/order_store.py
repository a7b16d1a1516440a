"""All orders of the simulated exchange, open and ended, of both kinds."""

from __future__ import annotations

from dataclasses import replace

from voltrade.simulated.event_log import EventLog
from voltrade.simulated.market import Market
from voltrade.simulated.orders import AlgoOrder, Order, Phase

FIRST_ALGO_ID = 1_000_000_000_000_001
"""Ids of conditional orders are far from those of ordinary ones, as at Binance (1000001270850379 and 974828356187)."""


class OrderStore:
    """Keeps orders, opens and ends them, and reports each change.

    Attributes:
        orders: ordinary orders by id.
        algos: conditional orders by id.
        order_named: the latest ordinary order by symbol and client id.
        algo_named: the latest conditional order by client id.
    """

    def __init__(self, events: EventLog) -> None:
        self.orders: dict[int, Order] = {}
        self.algos: dict[int, AlgoOrder] = {}
        self.order_named: dict[tuple[str, str], Order] = {}
        self.algo_named: dict[str, AlgoOrder] = {}
        self._events = events

    @property
    def now(self) -> int:
        """Time of the exchange, ms."""
        return self._events.clock

    def is_waiting(self, algo: AlgoOrder) -> bool:
        """Whether a conditional order has neither triggered nor ended."""
        return algo.id in self._events.markets[algo.request.symbol].open_algos

    @property
    def next_order_id(self) -> int:
        return len(self.orders) + 1

    @property
    def next_algo_id(self) -> int:
        return FIRST_ALGO_ID + len(self.algos)

    def open_order(self, market: Market, order: Order) -> None:
        """Open an order, with a client id of its own if it has none."""
        if not order.request.client_order_id:
            order.request = replace(order.request, client_order_id=f"auto_{order.id}")
        order.updated = self.now
        self.orders[order.id] = market.open_orders[order.id] = order
        self.order_named[market.symbol, order.request.client_order_id] = order
        market.reserve_notional(order, order.remaining)
        market.orders_changed()
        self._events.add_order(market, order, "NEW")

    def open_algo(self, market: Market, algo: AlgoOrder) -> None:
        """Open a conditional order, with a client id of its own if it has none."""
        if not algo.request.client_order_id:
            algo.request = replace(algo.request, client_order_id=f"auto_a{len(self.algos) + 1}")
        algo.updated = self.now
        self.algos[algo.id] = market.open_algos[algo.id] = algo
        self.algo_named[algo.request.client_order_id] = algo
        self.report_algo(market, algo)

    def report_algo(self, market: Market, algo: AlgoOrder) -> None:
        """Report the state of a conditional order."""
        market.orders_changed()
        self._events.add_algo(market, algo)

    def amend(self, market: Market, order: Order, quantity: int, price: int) -> None:
        """Change quantity and price of a limit order, which moves it to the end of the queue; it doesn't take here."""
        market.reserve_notional(order, -order.remaining)
        order.request = replace(order.request, quantity=quantity, price=price)
        order.assumed_price, order.updated = price, self.now
        market.reserve_notional(order, order.remaining)
        market.open_orders[order.id] = market.open_orders.pop(order.id)
        market.orders_changed()
        self._events.add_order(market, order, "AMENDMENT")

    def end_order(self, market: Market, order: Order, status: str) -> None:
        """End an order as CANCELED, EXPIRED or EXPIRED_IN_MATCH."""
        order.status, order.updated = status, self.now
        self._events.add_order(market, order, status.removesuffix("_IN_MATCH"))
        self.close(market, order)

    def expire(self, market: Market, order: Order, reason: str) -> None:
        order.expiry_reason = reason
        self.end_order(market, order, "EXPIRED")

    def close(self, market: Market, order: Order) -> None:
        """Remove an order that has ended from the open ones, and finish the conditional order it came from."""
        order.phase = Phase.ENDED
        del market.open_orders[order.id]
        market.reserve_notional(order, -order.remaining)
        market.orders_changed()
        if order.algo:
            self.end_algo(market, order.algo, "FINISHED")

    def end_algo(self, market: Market, algo: AlgoOrder, status: str) -> None:
        """Remove a conditional order from the waiting ones, or report how its child order ended."""
        market.open_algos.pop(algo.id, None)
        algo.status, algo.updated = status, self.now
        self.report_algo(market, algo)

    def forget_algo(self, market: Market, algo: AlgoOrder) -> None:
        """Lose a waiting conditional order: nobody is told, and no query finds it."""
        del market.open_algos[algo.id]
        algo.status, algo.updated, algo.is_forgotten = "EXPIRED", self.now, True
        market.orders_changed()
        self._events.add_algo(market, algo, told=False)

    def expire_all(self, market: Market, reason: str) -> None:
        """Expire all orders of a symbol, of both kinds."""
        for order in list(market.open_orders.values()):
            self.expire(market, order, reason)
        for algo in list(market.open_algos.values()):
            self.end_algo(market, algo, "EXPIRED")
