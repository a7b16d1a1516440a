"""What fills, funding, transfers and liquidations change in the account of the simulated exchange."""

from __future__ import annotations

from dataclasses import replace

from voltrade.account import fee, funding_payment, proportion
from voltrade.model import MarkPrice, OrderRequest, OrderType, Side, TimeInForce
from voltrade.simulated.event_log import EventLog
from voltrade.simulated.events import AccountChange, Income
from voltrade.simulated.margin_account import MarginAccount
from voltrade.simulated.market import Market
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import Order

MARGIN_CALL_PERCENT = 80
"""A margin call is sent when maintenance margin is this percentage of the margin balance.

Binance's documentation says only that the "risk ratio is too high"; a user reports 80% (Binance.Net, issue 1293).
"""


class Clearing:
    """Changes the account and reports each change.

    Attributes:
        income: every change of the wallet.
        tape_id: id of the trade that is being played, which fills resting orders; 0 without one.
    """

    def __init__(self, account: MarginAccount, store: OrderStore, events: EventLog) -> None:
        self.income: list[Income] = []
        self.tape_id = 0
        self._account = account
        self._store = store
        self._events = events

    # --- fills --------------------------------------------------------------------------------------------------------

    def fill(
        self, market: Market, order: Order, price: int, available: int, *, is_maker: bool, extrapolated: int = 0
    ) -> int:
        """Fill at most `available` lots of an order at `price` ticks, of which no trade gave the last `extrapolated`.

        Returns:
            How many lots.
        """
        quantity = min(available, order.remaining)
        if order.request.reduce_only:
            quantity = min(quantity, market.position.closable(order.request.side))
        if quantity:
            terms, notional = self._account.terms, market.instrument.notional(price * quantity)
            cost = fee(notional, terms.maker_fee_e8 if is_maker else terms.taker_fee_e8)
            extrapolated = max(0, extrapolated - available + quantity)
            if not is_maker:
                market.count_taken(price, quantity, extrapolated)
            self._apply_fill(market, order, price, quantity, cost, is_maker=is_maker, extrapolated=extrapolated)
        return quantity

    def _apply_fill(
        self,
        market: Market,
        order: Order,
        price: int,
        quantity: int,
        cost: int,
        *,
        is_maker: bool = False,
        extrapolated: int = 0,
        execution: str = "TRADE",
    ) -> None:
        """Apply a fill with its fee (`cost`) to order, position and wallet."""
        realised = self._change_position(market, order.request.side, price, quantity, cost)
        market.reserve_notional(order, -quantity)
        order.filled += quantity
        order.filled_notional += price * quantity
        order.updated = self._events.clock
        order.status = "PARTIALLY_FILLED" if order.remaining else "FILLED"
        fill = replace(
            order.update(execution),
            trade_id=len(market.fills) + 1,
            last_quantity=quantity,
            last_price=price,
            fee=cost,
            fee_asset=market.instrument.quote_asset,
            realised=realised,
            is_maker=is_maker,
        )
        market.fills.append(fill)
        self._add_income(market.symbol, "REALIZED_PNL", realised, fill.trade_id)
        self._add_income(market.symbol, "COMMISSION", -cost, fill.trade_id)
        self._events.add_fill(market, order, fill, self.tape_id, extrapolated, self._account.books.wallet)
        self.report_account("ORDER", market)
        if order.remaining == 0:
            self._store.close(market, order)
        self._expire_idle_reduce_only(market)

    def _change_position(self, market: Market, side: Side, price: int, quantity: int, cost: int) -> int:
        """Apply a fill to the position; return the realised profit."""
        closed, held = min(quantity, market.position.closable(side)), abs(market.position.quantity)
        if closed:
            market.added_margin -= proportion(market.added_margin, closed, held)
        realised = self._account.books.apply_fill(market.symbol, side, price, quantity, cost)
        market.realised += realised
        market.cost_basis += side * market.instrument.notional(price * quantity) + cost
        if closed == held:  # the position is new or closed
            market.cost_basis = market.position.cost + proportion(cost, quantity - closed, quantity)
        return realised

    def _expire_idle_reduce_only(self, market: Market) -> None:
        """Expire reduce-only orders without a position to reduce."""
        for order in list(market.open_orders.values()):
            if order.request.reduce_only and market.position.closable(order.request.side) == 0:
                self._store.expire(market, order, "4")

    # --- the wallet ---------------------------------------------------------------------------------------------------

    def pay_funding(self, market: Market, mark: MarkPrice, rate_e8: int) -> None:
        """Pay or receive funding on the position's value at a mark price; at a positive rate longs pay shorts."""
        value = market.instrument.value_at_mark(market.position.quantity, mark.price_e8)
        amount = funding_payment(value, rate_e8)
        if not amount:
            return
        self._account.books.apply_funding(amount)
        self._add_income(market.symbol, "FUNDING_FEE", amount)
        if market.is_isolated:
            market.added_margin += amount
        self.report_account("FUNDING_FEE", market if market.is_isolated else None, balance_change=amount)

    def transfer(self, amount: int, reason: str, kind: str = "TRANSFER") -> None:
        """Add an amount to the wallet, or take it out if negative."""
        self._account.books.apply_transfer(amount)
        self._add_income("", kind, amount)
        self.report_account(reason, None, balance_change=amount)

    def report_account(self, reason: str, market: Market | None, *, balance_change: int = 0) -> None:
        """Report the wallet, and the position in a symbol if one is given."""
        account = self._account
        time = account.updated = self._events.clock
        if market is not None:
            market.updated = time
        risks = (account.position_risk(market.symbol),) if market is not None else ()
        change = AccountChange(time, reason, account.books.wallet, account.cross_wallet, balance_change, risks)
        self._events.add_account(change)

    def _add_income(self, symbol: str, kind: str, amount: int, trade_id: int = 0) -> None:
        if amount:
            self.income.append(Income(self._events.clock, symbol, kind, amount, trade_id))

    # --- forced closes ------------------------------------------------------------------------------------------------

    def liquidate(self, markets: list[Market]) -> None:
        """Close positions without enough margin, all at once, at their mark price rounded to the tick against us.

        All orders of these symbols expire first. Each position pays the liquidation fee out of its remaining margin,
        and the insurance fund pays losses beyond the margin. (Binance closes large positions in steps and lets the
        market fill what it can; here the whole position is closed at once.)
        """
        for market in markets:
            self._store.expire_all(market, "5")
        for market in markets:
            margin = market.isolated_wallet if market.is_isolated else self._account.cross_wallet
            price = market.closing_price
            notional = market.instrument.notional(price * abs(market.position.quantity))
            profit = market.instrument.notional(price * market.position.quantity) - market.position.cost
            left = margin + profit
            self.force_close(market, "autoclose-", price, min(fee(notional, market.rules.liquidation_fee_e8), left))
            if market.is_isolated and left < 0:
                self.transfer(-left, "INSURANCE_CLEAR", "INSURANCE_CLEAR")
        if self._account.cross_wallet < 0:
            self.transfer(-self._account.cross_wallet, "INSURANCE_CLEAR", "INSURANCE_CLEAR")

    def force_close(self, market: Market, prefix: str, price: int, cost: int, quantity: int = 0) -> None:
        """Close a position, or `quantity` lots of it, by an order that the account did not place."""
        held = market.position.quantity
        order_id = self._store.next_order_id
        request = OrderRequest(
            symbol=market.symbol,
            client_order_id=f"{prefix}{order_id}",
            side=Side.SELL if held > 0 else Side.BUY,
            order_type=OrderType.LIMIT,
            quantity=quantity or abs(held),
            price=price,
            time_in_force=TimeInForce.IOC,
            reduce_only=True,
        )
        order = Order(request, order_id, self._events.clock, self._events.clock, price)
        self._store.open_order(market, order)
        self._apply_fill(market, order, price, request.quantity, max(0, cost), execution="CALCULATED")

    def call_margin(self, market: Market) -> None:
        """Report once that a position has little margin left, and again only after it had enough in between."""
        margin_called, markets = self._account.has_used(market, MARGIN_CALL_PERCENT), self._account.sharing(market)
        if margin_called and not market.margin_called:
            risks = tuple(self._account.position_risk(each.symbol) for each in markets)
            self._events.add_margin_call(self._account.cross_wallet, risks)
        for each in (market, *markets):
            each.margin_called = margin_called
