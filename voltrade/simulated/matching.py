"""What trades and mark prices do to a symbol's orders: arrivals, triggers and fills, by the rules of `fill_model`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from voltrade.model import MONEY, MarkPrice, OrderRequest, OrderType, Side, TimeInForce, Trades, WorkingType, money_text
from voltrade.simulated.clearing import MARGIN_CALL_PERCENT, Clearing
from voltrade.simulated.event_log import EventLog
from voltrade.simulated.fill_model import (
    Level,
    is_beyond_take_bound,
    is_through_limit,
    is_within_limit,
    worse_price,
)
from voltrade.simulated.formatting import price_text, quantity_text
from voltrade.simulated.margin_account import MarginAccount
from voltrade.simulated.market import Market
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.refusals import VenueRefusal, check_margin, check_reduces


class Matching:
    """Plays trades and mark prices against the open orders."""

    def __init__(self, account: MarginAccount, store: OrderStore, clearing: Clearing, events: EventLog) -> None:
        self._account = account
        self._store = store
        self._clearing = clearing
        self._events = events

    # --- trades -------------------------------------------------------------------------------------------------------

    def on_trades(self, trades: Trades) -> None:
        """Play trades of one symbol, in order; the result does not depend on how they are divided into calls."""
        market = self._account.markets[trades.symbol]
        start, stop = 0, len(trades)
        while start < stop:
            acting = market.first_acting(trades, start, stop)
            if acting > start:
                self._events.advance(int(trades.time[acting - 1]))
                market.skip_trades(trades, start, acting)
            if acting < stop:
                self._on_trade(market, trades, acting)
            start = acting + 1

    def _on_trade(self, market: Market, trades: Trades, row: int) -> None:
        """Play one trade to which an order reacts: arrivals before it, then triggers, then fills."""
        price, quantity, time = int(trades.price[row]), int(trades.quantity[row]), int(trades.time[row])
        taker = Side.SELL if trades.buyer_is_maker[row] else Side.BUY
        self.arrive_due(time)
        self._events.advance(time)
        if self._events.has_log:
            self._events.note_input(
                "trade",
                symbol=market.symbol,
                id=int(trades.id[row]),
                price=price_text(market.instrument, price),
                quantity=quantity_text(market.instrument, quantity),
                taker=taker.name,
                traded=time,
            )
        market.last_trade_id = int(trades.id[row])
        market.last_price = market.taker_price[taker] = price
        newest = len(self._store.orders)
        self._note_live_algos(market, time)
        self._react(market, WorkingType.CONTRACT_PRICE, time, price)
        self._fill_resting(market, price, quantity, newest)
        market.played += 1
        self._events.skip_prices(market)

    def _note_live_algos(self, market: Market, time: int) -> None:
        for algo in market.open_algos.values():
            algo.arrived = algo.arrived or time >= algo.live_from
        market.orders_changed()  # `arrived` may have changed without an event

    def _fill_resting(self, market: Market, price: int, quantity: int, newest: int) -> None:
        """Fill resting orders from a trade, but those with an id above `newest`, which it has triggered."""
        self._clearing.tape_id = market.last_trade_id
        for order in list(market.open_orders.values()):
            rests = order.phase is Phase.RESTING and order.id <= newest and order.rests_from <= market.played
            if rests and is_through_limit(price, order.request.price, order.request.side.value):
                quantity -= self._clearing.fill(market, order, order.request.price, quantity, is_maker=True)
        self._clearing.tape_id = 0

    # --- arrivals -----------------------------------------------------------------------------------------------------

    def arrive_due(self, time: int) -> None:
        """Handle the orders that reach the matching engine up to a time, of all symbols, in their order."""
        on_their_way = [
            order
            for market in self._account.markets.values()
            for order in market.open_orders.values()
            if order.phase is Phase.IN_FLIGHT and order.live_from <= time
        ]
        for order in sorted(on_their_way, key=lambda order: (order.live_from, order.id)):
            self._events.advance(order.live_from)
            if order.phase is Phase.IN_FLIGHT:  # an earlier one may have ended it
                market = self._account.markets[order.request.symbol]
                self._events.note_input("arrival", symbol=market.symbol, order_id=order.id)
                self._arrive(market, order)

    def amend(self, market: Market, order: Order, quantity: int, price: int) -> None:
        """Change quantity and price of a limit order; it takes at once if it now reaches the other side."""
        self._store.amend(market, order, quantity, price)
        if order.phase is Phase.RESTING and market.would_take(order.request):
            self._take(market, order)

    def _arrive(self, market: Market, order: Order, worst: int = 0) -> None:
        """Take, rest or expire, as an order does that reaches the matching engine; see `_take` for `worst`."""
        order.reference = market.last_price
        order.phase = Phase.RESTING
        market.orders_changed()
        request = order.request
        takes = market.would_take(request)
        if request.order_type is OrderType.MARKET or (takes and request.time_in_force is not TimeInForce.GTX):
            self._take(market, order, worst)
        elif takes or order.is_immediate:
            self._store.expire(market, order, _reason(request.time_in_force))

    def _take(self, market: Market, order: Order, worst: int = 0) -> None:
        """Fill an order from the trades ahead until it is done or its limit is reached.

        Args:
            worst: no fill is better than this price, nor than the last one of the order's side; 0 for none.
        """
        levels = self._levels(market, order, worst)
        if order.request.time_in_force is TimeInForce.FOK and not self._is_filled_by(levels, order):
            self._store.expire(market, order, "0")
            return
        for level in levels:
            if order.phase is Phase.ENDED or self._is_stopped(market, order, level):
                return
            self._clearing.fill(market, order, level.price, level.lots, is_maker=False, extrapolated=level.extrapolated)
            order.rests_from = level.next_row

    def _is_stopped(self, market: Market, order: Order, level: Level) -> bool:
        """Return whether a fill would be beyond an order's bound or limit; if so, end it or let it rest."""
        request, side = order.request, order.request.side.value
        if request.order_type is OrderType.MARKET:
            bound_e8 = int(market.instrument.market_take_bound * MONEY)
            is_beyond = is_beyond_take_bound(level.price, order.reference, side, bound_e8)
        else:
            is_beyond = not is_within_limit(level.price, request.price, side)
        if is_beyond and order.is_immediate:
            self._store.expire(market, order, _reason(request.time_in_force))
        return is_beyond

    def _levels(self, market: Market, order: Order, worst: int) -> list[Level]:
        side, terms = order.request.side, self._account.terms
        best = market.best_price(side)
        worst = worse_price(best, worst, side.value) if worst else best
        until = self._events.clock + terms.fill_horizon_ms
        return list(market.levels(side, order.remaining, worst, until, terms.slippage_e8))

    @staticmethod
    def _is_filled_by(levels: Sequence[Level], order: Order) -> bool:
        """Whether a limit order fills completely within its limit."""
        return all(is_within_limit(level.price, order.request.price, order.request.side.value) for level in levels)

    def finish(self, symbol: str) -> None:
        """End a symbol's tape: orders on their way arrive. Resting and conditional orders stay as they are."""
        self._events.note_input("finish", symbol=symbol)
        market = self._account.markets[symbol]
        for order in list(market.open_orders.values()):
            if order.phase is Phase.IN_FLIGHT:
                self._arrive(market, order)

    # --- mark prices --------------------------------------------------------------------------------------------------

    def on_mark(self, mark: MarkPrice) -> None:
        """Handle a mark price: funding that is due, then triggers, then liquidation or a margin call."""
        market = self._account.markets[mark.symbol]
        self.arrive_due(mark.time)
        self._events.advance(mark.time)
        before, is_due = market.mark, self._is_funding_due(market, mark)
        market.mark = mark
        if not (is_due or self._has_effect(market, mark)):
            return
        if self._events.has_log:
            market.mark = before  # the prices before the input
            self._events.note_input(
                "mark",
                symbol=market.symbol,
                price=money_text(mark.price_e8),
                marked=mark.time,
                funding_rate_e8=mark.funding_rate_e8,
                next_funding_time=mark.next_funding_time,
            )
            market.mark = mark
        if is_due:
            assert before is not None
            self._clearing.pay_funding(market, mark, before.funding_rate_e8)
        self._react(market, WorkingType.MARK_PRICE, mark.time, mark.price_e8)
        if self._account.has_used(market, 100):
            self._clearing.liquidate(self._account.sharing(market))
        self._clearing.call_margin(market)
        self._events.skip_prices(market)

    def _has_effect(self, market: Market, mark: MarkPrice) -> bool:
        """Whether a mark price moves or triggers a conditional order, or changes the state of the margin."""
        if any(self._reacts(market, algo, mark.time, mark.price_e8) for algo in market.waiting_algos()):
            return True
        has_used = self._account.has_used
        return has_used(market, 100) or has_used(market, MARGIN_CALL_PERCENT) != market.margin_called

    @staticmethod
    def _is_funding_due(market: Market, mark: MarkPrice) -> bool:
        """Whether the position pays the funding that the last mark price stated: once, however late this one comes."""
        last = market.mark
        if last is None or not market.position.quantity or not last.funding_rate_e8 or not last.next_funding_time:
            return False
        return mark.time >= last.next_funding_time

    # --- triggers -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _reacts(market: Market, algo: AlgoOrder, time: int, price: int) -> bool:
        """Whether a mark price moves or triggers a conditional order."""
        if not algo.by_mark or time < algo.live_from:
            return False
        return algo.follows(price) or (algo.is_triggered(price) and not _is_protected(market, algo))

    def _react(self, market: Market, working_type: WorkingType, time: int, price: int) -> None:
        """Move trailing stops and trigger conditional orders by a price: stops first, then by id."""
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
            self._trigger(market, algo, 0 if algo.by_mark else price)

    def _trigger(self, market: Market, algo: AlgoOrder, worst: int) -> None:
        """Replace a conditional order by its child order, which is at the matching engine at once.

        Args:
            worst: price of the trade that triggers it, ticks; 0 for a mark price.
        """
        now = self._events.clock
        algo.status, algo.updated, algo.triggered = "TRIGGERING", now, now
        self._store.report_algo(market, algo)
        if market.stuck_in_triggering:
            return
        child = _child_request(market, algo.request)
        try:
            if child.reduce_only:
                check_reduces(market, child.side)
            else:
                check_margin(self._account, market, child)
        except VenueRefusal as refusal:
            algo.reason = refusal.message
            self._store.end_algo(market, algo, "REJECTED")
            return
        order_id = self._store.next_order_id
        algo.child = Order(child, order_id, now, now, child.price or market.last_price, algo=algo)
        self._store.end_algo(market, algo, "TRIGGERED")
        self._store.open_order(market, algo.child)
        self._arrive(market, algo.child, worst)


def _child_request(market: Market, request: OrderRequest) -> OrderRequest:
    """Return the order that a conditional order becomes."""
    return replace(
        request,
        order_type=OrderType.LIMIT if request.order_type.is_limit else OrderType.MARKET,
        trigger_price=0,
        quantity=market.position.closable(request.side) if request.close_position else request.quantity,
        reduce_only=request.reduce_only or request.close_position,
    )


def _is_protected(market: Market, algo: AlgoOrder) -> bool:
    return algo.request.price_protect and market.prices_disagree


def _reason(time_in_force: TimeInForce) -> str:
    return "2" if time_in_force is TimeInForce.IOC else "0"
