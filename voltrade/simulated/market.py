"""One symbol of the simulated exchange: its prices, our open orders in it, our position and its margin.

A `Market` changes nothing beyond itself. What its trades and marks do to orders is `matching`, what fills do to the
account is `clearing`.
"""

from __future__ import annotations

from collections.abc import Iterator

from voltrade.account import Position
from voltrade.model import MONEY, NEVER, Instrument, MarkPrice, OrderRequest, OrderUpdate, Side, Trades
from voltrade.simulated.fill_model import Watch, first_acting_trade, is_within_limit, last_row_of_taker
from voltrade.simulated.margin import divided_up, maintenance_margin
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.symbols import SymbolRules


class Market:
    """A symbol of the exchange.

    Attributes:
        stuck_in_triggering: whether conditional orders that trigger stay TRIGGERING, as a script may want it.
        status: `TRADING`, or `CLOSE` once it was settled.
        mark: the last mark price, or None.
        last_price: ticks of the last trade, 0 before the first.
        taker_price: by side, ticks of the last trade whose taker was on it.
        last_trade_id: of the tape or stream.
        open_orders: ordinary orders at work, by id.
        open_algos: conditional orders that wait, by id.
        fills: our trades; the number of one is its place, from 1.
        held: our position.
        added_margin: money that an isolated position has beyond entry cost / leverage: added by hand, or funding.
        realised: profit of all fills before fees.
        cost_basis: what the position has cost since it was opened, with fees, less what closing parts of it brought.
        margin_called: whether a margin call has gone out and not been lifted.
        updated: when the position last changed, ms; 0 if it never has.
    """

    def __init__(
        self, instrument: Instrument, rules: SymbolRules, held: Position, leverage: int, margin_type: str
    ) -> None:
        self.instrument = instrument
        self.rules = rules
        self.held = held
        self.leverage = leverage
        self.margin_type = margin_type
        self.status = "TRADING"
        self.stuck_in_triggering = False
        self.mark: MarkPrice | None = None
        self.last_price = 0
        self.taker_price = {Side.BUY: 0, Side.SELL: 0}
        self.last_trade_id = 0
        self.open_orders: dict[int, Order] = {}
        self.open_algos: dict[int, AlgoOrder] = {}
        self.fills: list[OrderUpdate] = []
        self.added_margin = 0
        self.realised = 0
        self.cost_basis = 0
        self.margin_called = False
        self.updated = 0
        self.tick_e8 = int(instrument.tick_size * MONEY)
        """One tick in the unit of mark prices."""
        self._opening = {Side.BUY: 0, Side.SELL: 0}
        self._watch: Watch | None = None

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    # --- prices -------------------------------------------------------------------------------------------------------

    @property
    def value_price_e8(self) -> int:
        """Mark price, or the last trade's before there is a mark; 0 before both."""
        return self.mark.price_e8 if self.mark else self.last_price * self.tick_e8

    def working_price(self, algo: AlgoOrder) -> int:
        """The price that a conditional order works by, in its unit; the last trade's before there is a mark."""
        return self.value_price_e8 if algo.by_mark else self.last_price

    def best_price(self, side: Side) -> int:
        """Price that an order of this side would take at, as far as the tape tells; 0 before the first trade."""
        return self.taker_price[side] or self.last_price

    def would_take(self, request: OrderRequest) -> bool:
        """Whether a limit order reaches the other side."""
        best = self.best_price(request.side)
        return request.order_type.is_limit and best > 0 and is_within_limit(best, request.price, request.side.value)

    @property
    def prices_disagree(self) -> bool:
        """Whether mark and last price are further apart than conditional orders with `priceProtect` allow."""
        if self.mark is None:
            return False
        apart = abs(self.last_price * self.tick_e8 - self.mark.price_e8)
        return apart * MONEY > self.mark.price_e8 * self.rules.trigger_protect_e8

    # --- the tape -----------------------------------------------------------------------------------------------------

    def orders_changed(self) -> None:
        """Forget what the orders waited for."""
        self._watch = None

    def waiting_algos(self) -> Iterator[AlgoOrder]:
        """The conditional orders that wait for a price; one that is stuck in triggering does not."""
        return (algo for algo in self.open_algos.values() if algo.status == "NEW")

    def watched(self) -> Watch:
        """Gather what the open orders wait for; kept until an order changes."""
        if self._watch is None:
            arrivals, rises, falls, taking = [NEVER], [NEVER], [0], set()
            for order in self.open_orders.values():
                side = order.request.side
                if order.phase is Phase.TRAVELLING:
                    arrivals.append(order.live_from)
                elif order.phase is Phase.TAKING:
                    taking.add(side)
                elif side is Side.SELL:
                    rises.append(order.request.price + 1)
                else:
                    falls.append(order.request.price - 1)
            for algo in self.waiting_algos():
                if algo.by_mark:
                    continue
                if not algo.arrived:
                    arrivals.append(algo.live_from)
                    continue
                behind, ahead = (rises, falls) if algo.rising else (falls, rises)
                if trigger := algo.trigger():
                    behind.append(trigger)
                if algo.is_trailing_type and not algo.trailing:
                    ahead.append(algo.activation)
                elif algo.is_trailing_type:  # a new best moves the trigger
                    ahead.append(algo.best - algo.request.side.value)
            self._watch = Watch(min(arrivals), min(rises), max(falls), Side.BUY in taking, Side.SELL in taking)
        return self._watch

    def first_acting(self, trades: Trades, start: int, stop: int) -> int:
        """Find the first trade in [start, stop) that any order reacts to, given the orders as they are; else `stop`."""
        watch = self.watched()
        if watch == Watch():
            return stop
        return first_acting_trade(trades.price, trades.time, trades.buyer_is_maker, start, stop, *watch)

    def pass_by(self, trades: Trades, start: int, stop: int) -> None:
        """Take the prices of trades that no order reacts to; there is at least one."""
        self.last_price = int(trades.price[stop - 1])
        self.last_trade_id = int(trades.id[stop - 1])
        for side, taker_sold in ((Side.BUY, False), (Side.SELL, True)):
            row = last_row_of_taker(trades.buyer_is_maker, start, stop, taker_sold)
            if row >= 0:
                self.taker_price[side] = int(trades.price[row])

    # --- the position and its margin ----------------------------------------------------------------------------------

    @property
    def is_isolated(self) -> bool:
        return self.margin_type == "isolated"

    @property
    def value(self) -> int:
        """Signed money of the position at the mark."""
        return self.instrument.value_at_mark(self.held.quantity, self.value_price_e8)

    @property
    def unrealised(self) -> int:
        return self.value - self.held.cost

    @property
    def break_even_price(self) -> str:
        """Average price at which closing the position would bring what it has cost, decimal text, `"0"` when flat.

        Binance's FAQ "How to Visualize the Breakeven Price of Open Positions": (total cost - total gained) / size,
        without funding. Fees that were paid are part of the cost: a long at 37,140 that was made is told with
        37,147.428, a short at 42,976.6 that was taken with 42,955.1117.
        """
        return Position(self.instrument, self.held.quantity, self.cost_basis).entry_price

    @property
    def isolated_wallet(self) -> int:
        """Money set aside for an isolated position; 0 for a cross one."""
        if not self.is_isolated or not self.held.quantity:
            return 0
        return divided_up(abs(self.held.cost), self.leverage) + self.added_margin

    @property
    def maintenance(self) -> int:
        return maintenance_margin(self.rules.brackets, abs(self.value))

    @property
    def position_margin(self) -> int:
        return divided_up(abs(self._margin_base), self.leverage)

    @property
    def order_margin(self) -> int:
        """What open orders need beyond the position's margin."""
        return self.margin_needed() - self.position_margin

    def margin_needed(self) -> int:
        """Return the initial margin of position and orders."""
        return divided_up(self.exposure(), self.leverage)

    def exposure(self, more_buys: int = 0, more_sells: int = 0) -> int:
        """Return the notional of the worse of all buys filling and all sells filling, with further orders' (money)."""
        buys, sells = more_buys + self.open_notional(Side.BUY), more_sells + self.open_notional(Side.SELL)
        return max(abs(self._margin_base + buys), abs(self._margin_base - sells))

    def open_notional(self, side: Side) -> int:
        """Return the money that open orders of a side would add to the position; reduce-only orders add nothing."""
        return self.instrument.notional(self._opening[side])

    def reserve_notional(self, order: Order, lots: int) -> None:
        """Count so many lots of an order as open, or as open no more when negative."""
        if not order.request.reduce_only:
            self._opening[order.request.side] += lots * order.assumed_price

    @property
    def _margin_base(self) -> int:
        """Signed notional that margin is reckoned on: entry cost where isolated, value at mark where cross."""
        return self.held.cost if self.is_isolated else self.value
