"""One symbol of the simulated exchange: its prices, our open orders in it, our position and its margin.

A `Market` changes nothing outside of itself: `matching` fills orders, and `clearing` changes the account.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import numpy as np

from voltrade.account import Position
from voltrade.model import MONEY, NEVER, Instrument, MarkPrice, OrderRequest, OrderUpdate, Side, Trades
from voltrade.simulated.fill_model import (
    Level,
    Watch,
    first_acting_trade,
    is_within_limit,
    last_row_of_taker,
    next_level,
)
from voltrade.simulated.margin import divided_up, largest_notional, maintenance_margin
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.symbols import SymbolRules

NO_TRADES = Trades.from_rows("", [])
QUOTE_ASSET = "USDT"


class Market:
    """A symbol of the exchange.

    Attributes:
        stuck_in_triggering: whether conditional orders stay TRIGGERING, see `Interventions.stick_triggers`.
        offered_to_triggered: lots that the order of a trigger may fill, -1 for all; see `Interventions.thin_book`.
        status: `TRADING`, or as a script has set it; `CLOSE` after settlement.
        delivery_time: when it is delivered, ms; 0 if never.
        mark: the last mark price, or None.
        last_price: ticks of the last trade, 0 before the first.
        taker_price: by side, ticks of the last trade whose taker was on it.
        last_trade_id: of the tape or stream.
        tape: the trades that are played, from which those to come price what takes; None where they come live.
        played: how many trades of the tape have been played.
        open_orders: open ordinary orders, by id.
        open_algos: waiting conditional orders, by id.
        fills: our trades; the trade id is the position in the list, counted from 1.
        position: our position.
        taken: notional of our fills that took, price in ticks x lots; `extrapolated` is the part that no trade gave.
        added_margin: margin of an isolated position beyond entry cost / leverage: added by request, or funding. Money.
        realised: profit of all fills before fees.
        cost_basis: cost of the position since it was opened, with fees, less the proceeds of partial closes. Money.
        margin_called: whether a margin call was sent and margin is still short.
        updated: when the position last changed, ms; 0 if it never has.
    """

    def __init__(
        self, instrument: Instrument, rules: SymbolRules, position: Position, leverage: int, margin_type: str
    ) -> None:
        self.instrument = instrument
        self.rules = rules
        self.position = position
        self.leverage = leverage
        self.margin_type = margin_type
        self.status = "TRADING"
        self.delivery_time = 0
        self.stuck_in_triggering = False
        self.offered_to_triggered = -1
        self.mark: MarkPrice | None = None
        self.last_price = 0
        self.taker_price = {Side.BUY: 0, Side.SELL: 0}
        self.last_trade_id = 0
        self.tape: Trades | None = None
        self.played = 0
        self.open_orders: dict[int, Order] = {}
        self.open_algos: dict[int, AlgoOrder] = {}
        self.fills: list[OrderUpdate] = []
        self.taken = self.extrapolated = 0
        self.added_margin = 0
        self.realised = 0
        self.cost_basis = 0
        self.margin_called = False
        self.updated = 0
        self.tick_e8 = int(instrument.tick_size * MONEY)
        """One tick in units of 1e-8, as mark prices."""
        self._opening = {Side.BUY: 0, Side.SELL: 0}
        self._watch: Watch | None = None

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def largest_notional(self) -> int:
        """The largest position at the present leverage, money."""
        return largest_notional(self.rules.brackets, self.leverage)

    # --- prices -------------------------------------------------------------------------------------------------------

    @property
    def value_price_e8(self) -> int:
        """Mark price, or the last trade's price before the first mark price; 0 before both."""
        return self.mark.price_e8 if self.mark else self.last_price * self.tick_e8

    @property
    def closing_price(self) -> int:
        """Mark price in ticks, rounded against the holder of the position; at least 1."""
        value_e8 = self.value_price_e8
        return max(1, value_e8 // self.tick_e8 if self.position.quantity > 0 else -(-value_e8 // self.tick_e8))

    def working_price(self, algo: AlgoOrder) -> int:
        """Return the price that can trigger a conditional order, in its unit."""
        return self.value_price_e8 if algo.by_mark else self.last_price

    def best_price(self, side: Side) -> int:
        """Return the price at which an order of this side would take; 0 before the first trade."""
        return self.taker_price[side] or self.last_price

    def would_take(self, request: OrderRequest) -> bool:
        """Whether a limit order would take at its arrival."""
        best = self.best_price(request.side)
        return request.order_type.is_limit and best > 0 and is_within_limit(best, request.price, request.side.value)

    @property
    def prices_disagree(self) -> bool:
        """Whether mark and last price differ by more than `priceProtect` allows."""
        if self.mark is None:
            return False
        apart = abs(self.last_price * self.tick_e8 - self.mark.price_e8)
        return apart * MONEY > self.mark.price_e8 * self.rules.trigger_protect_e8

    # --- the tape -----------------------------------------------------------------------------------------------------

    def orders_changed(self) -> None:
        """Reset the cached `Watch`."""
        self._watch = None

    def waiting_algos(self) -> Iterator[AlgoOrder]:
        """Return the conditional orders that wait for a price, without those stuck in TRIGGERING."""
        return (algo for algo in self.open_algos.values() if algo.status == "NEW")

    def watched(self) -> Watch:
        """Return what the open orders wait for; cached until an order changes."""
        if self._watch is None:
            arrivals, rises, falls = [self.next_arrival], [NEVER], [0]
            for order in self.open_orders.values():
                side = order.request.side
                if order.phase is not Phase.RESTING:
                    continue
                if side is Side.SELL:
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
                elif algo.is_trailing_type:  # a new best price moves the trigger price
                    ahead.append(algo.best - algo.request.side.value)
            self._watch = Watch(min(arrivals), min(rises), max(falls))
        return self._watch

    def first_acting(self, trades: Trades, start: int, stop: int) -> int:
        """Return the row of the first trade in [start, stop) to which an open order reacts, else `stop`."""
        watch = self.watched()
        if watch == Watch():
            return stop
        return first_acting_trade(trades.price, trades.time, start, stop, *watch)

    @property
    def next_arrival(self) -> int:
        """Time at which the next order reaches the matching engine, ms; NEVER if none is on its way."""
        if not self.open_orders:
            return NEVER
        on_their_way = (order.live_from for order in self.open_orders.values() if order.phase is Phase.IN_FLIGHT)
        return min(on_their_way, default=NEVER)

    @property
    def price(self) -> Decimal:
        """Price of the last trade, or before it that of the tape's first; 0 where neither is known."""
        first = int(self.tape.price[0]) if self.tape is not None and len(self.tape.price) else 0
        return self.instrument.price(self.last_price or first)

    def follow(self, tape: Trades) -> None:
        """Price what takes liquidity by the trades of a tape; those up to the last trade id have been played."""
        self.tape = tape
        self.find_place()

    def find_place(self) -> None:
        """Set how much of the tape has been played, by the last trade id."""
        if self.tape is not None:
            self.played = int(np.searchsorted(self.tape.id, self.last_trade_id, side="right"))

    def jump(self, trade_id: int, count: int, ticks: int) -> None:
        """Move the prices of `count` trades of the tape by some ticks, from the trade with this id on."""
        if self.tape is not None:
            first = int(np.searchsorted(self.tape.id, trade_id))
            prices = self.tape.price.copy()
            prices[first : first + count] = np.maximum(1, prices[first : first + count] + ticks)
            self.tape = replace(self.tape, price=prices)

    def spread(self, trade_id: int, ticks: int, lots: int) -> None:
        """Move the tape's prices and quantities off multiples of so many ticks and lots, from a trade id on.

        Prices move by half of it at most, up and down in turn; quantities grow by less than it.
        """
        if self.tape is not None:
            first = int(np.searchsorted(self.tape.id, trade_id))
            price, quantity, ids = self.tape.price.copy(), self.tape.quantity.copy(), self.tape.id[first:]
            price[first:] += ids * 3 % ticks - ticks // 2
            quantity[first:] += ids * 7 % lots
            self.tape = replace(self.tape, price=price, quantity=quantity)

    def count_taken(self, price: int, lots: int, extrapolated: int) -> None:
        """Count a fill of ours that took, and how many of its lots are extrapolated."""
        self.taken += price * lots
        self.extrapolated += price * extrapolated

    def levels(self, side: Side, lots: int, worst: int, until: int, slippage_e8: int) -> Iterator[Level]:
        """Yield the fills of an order that takes, best first: see `fill_model`.

        Args:
            worst: no fill is better, before slippage.
            until: the last time at which a trade may price it, ms.
        """
        tape, row = NO_TRADES if self.tape is None else self.tape, self.played
        while lots:
            row, worst, price, found, extrapolated = next_level(
                *(tape.price, tape.quantity, tape.time, tape.buyer_is_maker, row),
                *(until, side.value, worst, lots, slippage_e8),
            )
            fill = Level(int(price), int(found), int(extrapolated), int(row))
            yield fill
            lots -= fill.lots

    def skip_trades(self, trades: Trades, start: int, stop: int) -> None:
        """Set the prices after one or more trades to which no order reacts."""
        self.played += stop - start
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
        """Signed value of the position at the mark price, money."""
        return self.instrument.value_at_mark(self.position.quantity, self.value_price_e8)

    @property
    def unrealised(self) -> int:
        return self.value - self.position.cost

    @property
    def break_even_price(self) -> str:
        """Average price at which closing the position returns its cost, decimal text, `"0"` when flat.

        Binance's FAQ "How to Visualize the Breakeven Price of Open Positions": (total cost - total gained) / size,
        without funding. The cost includes fees: for a maker's long at 37,140 Binance shows 37,147.428, for a taker's
        short at 42,976.6 it shows 42,955.1117.
        """
        return Position(self.instrument, self.position.quantity, self.cost_basis).entry_price

    @property
    def isolated_wallet(self) -> int:
        """Margin reserved for an isolated position, money; 0 for a cross position."""
        if not self.is_isolated or not self.position.quantity:
            return 0
        return divided_up(abs(self.position.cost), self.leverage) + self.added_margin

    @property
    def maintenance(self) -> int:
        return maintenance_margin(self.rules.brackets, abs(self.value))

    @property
    def position_margin(self) -> int:
        return divided_up(abs(self._margin_base), self.leverage)

    @property
    def order_margin(self) -> int:
        """Margin that open orders need beyond that of the position."""
        return self.margin_needed() - self.position_margin

    def margin_needed(self) -> int:
        """Return the initial margin of position and orders."""
        return divided_up(self.exposure(), self.leverage)

    def exposure(self, more_buys: int = 0, more_sells: int = 0) -> int:
        """Return the largest notional after all open buys, or all open sells, and more of them (money) have filled."""
        buys, sells = more_buys + self.open_notional(Side.BUY), more_sells + self.open_notional(Side.SELL)
        return max(abs(self._margin_base + buys), abs(self._margin_base - sells))

    def open_notional(self, side: Side) -> int:
        """Return the notional of open orders of a side, without reduce-only orders, money."""
        return self.instrument.notional(self._opening[side])

    def reserve_notional(self, order: Order, lots: int) -> None:
        """Add lots of an order to the open notional, or remove them if negative."""
        if not order.request.reduce_only:
            self._opening[order.request.side] += lots * order.assumed_price

    @property
    def _margin_base(self) -> int:
        """Signed notional on which margin is calculated: entry cost if isolated, value at the mark price if cross."""
        return self.position.cost if self.is_isolated else self.value
