"""What fills, funding, transfers and liquidations change in the account of the simulated exchange."""

from __future__ import annotations

from dataclasses import replace

from voltrade.account import fee, funding_payment, proportion
from voltrade.model import MONEY, MarkPrice, OrderRequest, OrderType, Side, TimeInForce
from voltrade.simulated.event_log import EventLog
from voltrade.simulated.events import AccountChange, AssetChange, Income
from voltrade.simulated.margin_account import MarginAccount
from voltrade.simulated.market import QUOTE_ASSET, Market
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import Order

MARGIN_CALL_PERCENT = 80
"""A margin call is sent when maintenance margin is this percentage of the margin balance.

Binance's documentation says only that the "risk ratio is too high"; a user reports 80% (Binance.Net, issue 1293).
"""


FEE_DISCOUNT_PERCENT = 10
"""How much less fees are that are paid in another asset (feeBurn)."""


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
        self._told = (account.books.wallet, account.cross_wallet)
        """Wallet and cross wallet as clients were told them last."""

    # --- fills --------------------------------------------------------------------------------------------------------

    def fill(
        self, market: Market, order: Order, price: int, available: int, *, is_maker: bool, extrapolated: int = 0
    ) -> int:
        """Fill at most `available` lots of an order at `price` ticks, of which no trade gave the last `extrapolated`.

        Returns:
            How many lots.
        """
        quantity = min(available, order.remaining)
        if order.algo and order.offered < 0:
            order.offered = market.offered_to_triggered
        if order.offered >= 0:
            quantity = min(quantity, max(0, order.offered - order.filled))
        if order.request.reduce_only:
            quantity = min(quantity, market.position.closable(order.request.side))
        if quantity:
            terms, notional = self._account.terms, market.instrument.notional(price * quantity)
            fee_amount = fee(notional, terms.maker_fee_e8 if is_maker else terms.taker_fee_e8)
            extrapolated = max(0, extrapolated - available + quantity)
            if not is_maker:
                market.count_taken(price, quantity, extrapolated)
            self._apply_fill(market, order, price, quantity, fee_amount, is_maker=is_maker, extrapolated=extrapolated)
        return quantity

    def _apply_fill(
        self,
        market: Market,
        order: Order,
        price: int,
        quantity: int,
        fee_amount: int,
        *,
        is_maker: bool = False,
        extrapolated: int = 0,
        execution: str = "TRADE",
    ) -> None:
        """Apply a fill with its fee (`fee_amount`) to order, position and wallet."""
        asset, paid = self._pay_in_another_asset(fee_amount)
        fee_amount = 0 if asset else fee_amount
        realised = self._change_position(market, order.request.side, price, quantity, fee_amount)
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
            fee=paid if asset else fee_amount,
            fee_asset=asset or market.instrument.quote_asset,
            realised=realised,
            is_maker=is_maker,
        )
        market.fills.append(fill)
        self._add_income(market.symbol, "REALIZED_PNL", realised, fill.trade_id)
        self._add_income(market.symbol, "COMMISSION", -fill.fee, fill.trade_id, fill.fee_asset)
        self._events.add_fill(market, order, fill, self.tape_id, extrapolated, self._account.books.wallet)
        self.report_account("ORDER", market, others=self._change_of(asset, 0))
        if order.remaining == 0:
            self._store.close(market, order)
        self._expire_idle_reduce_only(market)

    def _pay_in_another_asset(self, fee_amount: int) -> tuple[str, int]:
        """Pay a fee in the asset that the account pays fees in; return it and the amount, or nothing if there is none.

        The amount is 10% less, at the asset's price, rounded up to 1e-8.
        """
        account = self._account
        if not account.fee_asset or fee_amount <= 0:
            return "", 0
        amount = -(-fee_amount * (100 - FEE_DISCOUNT_PERCENT) * MONEY // (100 * account.fee_asset_price))
        if amount > account.assets.get(account.fee_asset, 0):
            return "", 0
        account.assets[account.fee_asset] -= amount
        return account.fee_asset, amount

    def _change_of(self, asset: str, change: int) -> tuple[AssetChange, ...]:
        return (AssetChange(asset, self._account.assets[asset], change),) if asset else ()

    def _change_position(self, market: Market, side: Side, price: int, quantity: int, fee_amount: int) -> int:
        """Apply a fill to the position; return the realised profit."""
        closed, held = min(quantity, market.position.closable(side)), abs(market.position.quantity)
        if closed:
            market.added_margin -= proportion(market.added_margin, closed, held)
        realised = self._account.books.apply_fill(market.symbol, side, price, quantity, fee_amount)
        market.realised += realised
        market.cost_basis += side * market.instrument.notional(price * quantity) + fee_amount
        if closed == held:  # the position is new or closed
            market.cost_basis = market.position.cost + proportion(fee_amount, quantity - closed, quantity)
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
        position = market if market.is_isolated else None
        self.report_account("FUNDING_FEE", position, balance_change=amount, symbol=market.symbol)

    def transfer(self, amount: int, reason: str, kind: str = "TRANSFER", asset: str = QUOTE_ASSET) -> None:
        """Add an amount of an asset to the wallet, or take it out if negative."""
        self._add_income("", kind, amount, asset=asset)
        if asset == QUOTE_ASSET:
            self._account.books.apply_transfer(amount)
            self.report_account(reason, None, balance_change=amount)
            return
        self._account.assets[asset] = self._account.assets.get(asset, 0) + amount
        self.report_account(reason, None, others=self._change_of(asset, amount))

    def report_account(
        self,
        reason: str,
        market: Market | None,
        *,
        balance_change: int = 0,
        symbol: str = "",
        others: tuple[AssetChange, ...] = (),
    ) -> None:
        """Report the wallet, other assets that have changed, and the position in a symbol if one is given.

        `symbol` is whose funding it is.
        """
        account = self._account
        time = account.updated = self._events.clock
        if market is not None:
            market.updated = time
        risks = (account.position_risk(market.symbol),) if market is not None else ()
        wallets = account.books.wallet, account.cross_wallet
        told, self._told = self._told, wallets
        changed = (*wallets, balance_change, risks, symbol, wallets != told, others)
        self._events.add_account(AccountChange(time, reason, *changed))

    def _add_income(self, symbol: str, kind: str, amount: int, trade_id: int = 0, asset: str = QUOTE_ASSET) -> None:
        if amount:
            self.income.append(Income(self._events.clock, symbol, kind, amount, trade_id, asset))

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

    def force_close(self, market: Market, prefix: str, price: int, fee_amount: int, quantity: int = 0) -> None:
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
        self._apply_fill(market, order, price, request.quantity, max(0, fee_amount), execution="CALCULATED")

    def call_margin(self, market: Market) -> None:
        """Report once that a position has little margin left, and again only after it had enough in between."""
        margin_called, markets = self._account.has_used(market, MARGIN_CALL_PERCENT), self._account.sharing(market)
        if margin_called and not market.margin_called:
            risks = tuple(self._account.position_risk(each.symbol) for each in markets)
            self._events.add_margin_call(self._account.cross_wallet, risks)
        for each in (market, *markets):
            each.margin_called = margin_called
