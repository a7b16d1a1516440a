"""What trades and mark prices do to a symbol's orders: arrivals, triggers and fills, by the rules of `execution`."""

from __future__ import annotations

from dataclasses import replace

from voltrade.model import MONEY, MarkPrice, OrderType, Side, TimeInForce, Trades, WorkingType, money_text
from voltrade.simulated.clearing import CALLED_AT, ClearingHouse
from voltrade.simulated.fill_model import is_beyond_take_bound, is_through_limit, is_within_limit, slipped_price
from voltrade.simulated.formatting import price_text, quantity_text
from voltrade.simulated.market import Market
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.refusals import VenueRefusal, check_margin, check_reduces


class MatchingEngine(ClearingHouse):
    """The books, moved by what others trade."""

    # --- trades -------------------------------------------------------------------------------------------------------

    def on_trades(self, trades: Trades) -> None:
        """Play trades of one symbol, in order. However they are cut into blocks, the same happens."""
        market = self.markets[trades.symbol]
        start, stop = 0, len(trades)
        while start < stop:
            acting = market.first_acting(trades, start, stop)
            if acting > start:
                self.advance(int(trades.time[acting - 1]))
                market.pass_by(trades, start, acting)
            if acting < stop:
                self._on_trade(market, trades, acting)
            start = acting + 1

    def _on_trade(self, market: Market, trades: Trades, row: int) -> None:
        """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
        price, quantity, time = int(trades.price[row]), int(trades.quantity[row]), int(trades.time[row])
        taker = Side.SELL if trades.buyer_is_maker[row] else Side.BUY
        self.advance(time)
        if self.has_log:
            self.note_input(
                "trade",
                symbol=market.symbol,
                id=int(trades.id[row]),
                price=price_text(market.instrument, price),
                quantity=quantity_text(market.instrument, quantity),
                taker=taker.name,
                traded=time,
            )
        market.last_trade_id = self.tape_id = int(trades.id[row])
        self._arrive_all(market, time, price)
        market.last_price = market.taker_price[taker] = price
        newest = len(self.orders)
        self._react(market, WorkingType.CONTRACT_PRICE, time, price)
        for order in list(market.open_orders.values()):
            just_triggered = order.id > newest
            if order.phase is Phase.TAKING and (just_triggered or taker is order.request.side):
                quantity -= self._take(market, order, price, quantity)
            elif (
                order.phase is Phase.RESTING
                and not just_triggered
                and is_through_limit(price, order.request.price, order.request.side.value)
            ):
                quantity -= self.fill(market, order, order.request.price, quantity, is_maker=True)
        self.tape_id = 0
        self.market_noted(market)

    def _arrive_all(self, market: Market, time: int, price: int) -> None:
        """Let orders in that reach the matching engine before a trade at `time`; `price` serves on an empty tape."""
        for order in list(market.open_orders.values()):
            if order.phase is Phase.TRAVELLING and time >= order.live_from:
                self._arrive(market, order, market.last_price or price)
        for algo in market.open_algos.values():
            algo.arrived = algo.arrived or time >= algo.live_from
        market.orders_changed()  # whatever phases this trade changes, the next look ahead sees them

    def _arrive(self, market: Market, order: Order, reference: int) -> None:
        order.reference = reference
        request = order.request
        takes = market.would_take(request)
        if request.order_type is OrderType.MARKET or (takes and request.time_in_force is not TimeInForce.GTX):
            order.phase = Phase.TAKING
        elif takes or order.is_immediate:
            self.expire(market, order, _reason(request.time_in_force))
        else:
            order.phase = Phase.RESTING

    def _take(self, market: Market, order: Order, price: int, available: int) -> int:
        """Fill an order from a trade on the other side; return the lots it took."""
        request = order.request
        side = request.side.value
        fill_price = self._slipped_price(price, request.side)
        if request.order_type is OrderType.MARKET:
            bound_e8 = int(market.instrument.market_take_bound * MONEY)
            if is_beyond_take_bound(fill_price, order.reference or price, side, bound_e8):
                self.expire(market, order, "0")
                return 0
        elif not is_within_limit(fill_price, request.price, side):
            self._stop_taking(market, order)
            return 0
        if request.time_in_force is TimeInForce.FOK and available < order.remaining:
            self.expire(market, order, "0")
            return 0
        return self.fill(market, order, fill_price, available, is_maker=False)

    def _slipped_price(self, price: int, side: Side) -> int:
        return slipped_price(price, side.value, round(self.terms.slippage_bps * 10_000))

    def _stop_taking(self, market: Market, order: Order) -> None:
        if order.request.time_in_force is TimeInForce.GTC:
            order.phase = Phase.RESTING
        else:
            self.expire(market, order, _reason(order.request.time_in_force))

    def finish(self, symbol: str) -> None:
        """End a symbol's tape: open market orders fill at the last price of the other side, IOC and FOK expire.

        Resting and conditional orders stay as they are.
        """
        self.note_input("finish", symbol=symbol)
        market = self.markets[symbol]
        for order in list(market.open_orders.values()):
            if order.phase is Phase.ENDED:
                continue
            request = order.request
            price = market.best_price(request.side)
            if request.order_type is OrderType.MARKET and price:
                price = self._slipped_price(price, request.side)
                self.fill(market, order, price, order.remaining, is_maker=False)
            elif order.is_immediate:
                self.expire(market, order, "2")

    # --- mark prices --------------------------------------------------------------------------------------------------

    def on_mark(self, mark: MarkPrice) -> None:
        """Take a mark price: funding that is due, then triggers, then liquidation or a margin call."""
        market = self.markets[mark.symbol]
        self.advance(mark.time)
        before, due = market.mark, self._fundings(market, mark)
        market.mark = mark
        reacting = (self._reacts(market, algo, mark.time, mark.price_e8) for algo in market.waiting_algos())
        is_short = self.has_used(market, 100) or self.has_used(market, CALLED_AT) != market.margin_called
        if not (due or any(reacting) or is_short):
            return
        if self.has_log:
            market.mark = before  # the input stands on what was before it
            self.note_input(
                "mark",
                symbol=market.symbol,
                price=money_text(mark.price_e8),
                marked=mark.time,
                funding_rate_e8=mark.funding_rate_e8,
                next_funding_time=mark.next_funding_time,
            )
            market.mark = mark
        for _ in range(due):
            assert before is not None
            self.pay_funding(market, mark, before.funding_rate_e8)
        self._react(market, WorkingType.MARK_PRICE, mark.time, mark.price_e8)
        if self.has_used(market, 100):
            self.liquidate(self.sharing(market))
        self.call_margin(market)
        self.market_noted(market)

    @staticmethod
    def _fundings(market: Market, mark: MarkPrice) -> int:
        """How many funding times lie between the last mark and this one; 0 where none of them matters."""
        last = market.mark
        if last is None or not market.held.quantity or not last.funding_rate_e8 or not last.next_funding_time:
            return 0
        return max(0, (mark.time - last.next_funding_time) // market.rules.funding_interval_ms + 1)

    # --- triggers -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _reacts(market: Market, algo: AlgoOrder, time: int, price: int) -> bool:
        """Whether a mark does anything to a conditional order."""
        if not algo.by_mark or time < algo.live_from:
            return False
        return algo.follows(price) or (algo.is_triggered(price) and not _is_protected(market, algo))

    def _react(self, market: Market, working_type: WorkingType, time: int, price: int) -> None:
        """Let a price move trailing stops and trigger conditional orders: stops first, then by id."""
        triggered = []
        for algo in market.waiting_algos():
            if algo.request.working_type is not working_type or time < algo.live_from:
                continue
            if algo.follows(price):
                algo.follow(price)
                market.orders_changed()
            elif algo.is_triggered(price) and not _is_protected(market, algo):
                triggered.append(algo)
        for algo in sorted(triggered, key=lambda algo: (not algo.is_stop, algo.id)):
            self._trigger(market, algo)

    def _trigger(self, market: Market, algo: AlgoOrder) -> None:
        """Turn a conditional order into its child, which is at the matching engine already."""
        algo.status, algo.updated, algo.triggered = "TRIGGERING", self.clock, self.clock
        self.tell_algo(market, algo)
        if market.stuck_in_triggering:
            return
        asked = algo.request
        child = replace(
            asked,
            order_type=OrderType.LIMIT if asked.order_type.is_limit else OrderType.MARKET,
            trigger_price=0,
            quantity=market.held.closable(asked.side) if asked.close_position else asked.quantity,
            reduce_only=asked.reduce_only or asked.close_position,
        )
        try:
            if child.reduce_only:
                check_reduces(market, child.side)
            else:
                check_margin(self, market, child)
        except VenueRefusal as refusal:
            algo.reason = refusal.message
            self.end_algo(market, algo, "REJECTED")
            return
        order_id = len(self.orders) + 1
        algo.child = Order(child, order_id, self.clock, self.clock, child.price or market.last_price, algo=algo)
        self.end_algo(market, algo, "TRIGGERED")
        self.open_order(market, algo.child)
        self._arrive(market, algo.child, market.last_price)


def _is_protected(market: Market, algo: AlgoOrder) -> bool:
    return algo.request.price_protect and market.prices_disagree


def _reason(time_in_force: TimeInForce) -> str:
    return "2" if time_in_force is TimeInForce.IOC else "0"
