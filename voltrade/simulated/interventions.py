"""What happens to an account that its clients did not ask for: at the exchange, in the app, by other programs.

A script starts each of them; they stand in the log like requests, so that a restored exchange has them too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from voltrade.account import fee
from voltrade.model import OrderRequest, OrderType, Side
from voltrade.simulated.clearing import Clearing
from voltrade.simulated.event_log import EventLog
from voltrade.simulated.margin_account import MarginAccount, Restriction
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import AlgoOrder
from voltrade.simulated.refusals import check_position_mode, codes, refuse_if

if TYPE_CHECKING:
    from voltrade.simulated.market import Market

Noted = Callable[..., AbstractContextManager[None]]
"""Logs what is asked for, as refused or as accepted."""


class Interventions:
    """Changes orders, account and symbols of the simulated exchange without a client's request."""

    def __init__(
        self, account: MarginAccount, store: OrderStore, clearing: Clearing, events: EventLog, noted: Noted
    ) -> None:
        self._account, self._store, self._clearing, self._events = account, store, clearing, events
        self._noted = noted

    def _market(self, symbol: str) -> Market:
        refuse_if(symbol not in self._account.markets, -1121)
        return self._account.markets[symbol]

    # --- orders -------------------------------------------------------------------------------------------------------

    def end_orders(self, symbol: str, status: str = "EXPIRED", reason: str = "0") -> None:
        """End the open ordinary orders of a symbol, as self-trade prevention does with EXPIRED_IN_MATCH."""
        with self._noted("end_orders", symbol=symbol, status=status, reason=reason):
            market = self._market(symbol)
            refuse_if(status not in ("EXPIRED", "EXPIRED_IN_MATCH", "CANCELED"), -1130, "status")
        for order in list(market.open_orders.values()):
            order.expiry_reason = reason
            self._store.end_order(market, order, status)

    def expire_stops(self, symbol: str, reason: str = "") -> None:
        """Expire the waiting conditional orders of a symbol."""
        with self._noted("expire_stops", symbol=symbol, reason=reason):
            market = self._market(symbol)
        for algo in list(market.open_algos.values()):
            algo.reason = reason
            self._store.end_algo(market, algo, "EXPIRED")

    def forget_stops(self, symbol: str) -> None:
        """Lose the waiting conditional orders of a symbol: no event, and no query or list has them any more."""
        with self._noted("forget_stops", symbol=symbol):
            market = self._market(symbol)
        for algo in list(market.open_algos.values()):
            self._store.forget_algo(market, algo)

    def stick_triggers(self, symbol: str, sticking: bool = True) -> None:
        """Make conditional orders of a symbol stay TRIGGERING when they trigger, without an order; or end that."""
        with self._noted("stick_triggers", symbol=symbol, sticking=sticking):
            market = self._market(symbol)
        market.stuck_in_triggering = sticking

    def thin_book(self, symbol: str, quantity: int = -1) -> None:
        """Let the orders of triggers that follow fill so many lots each, and then stand; -1 ends that."""
        with self._noted("thin_book", symbol=symbol, quantity=quantity):
            market = self._market(symbol)
        market.offered_to_triggered = quantity

    def place_twap(self, symbol: str, side: str, quantity: int, name: str) -> None:
        """Open a TWAP order, as another program does: it is listed among the conditional orders, and does nothing."""
        with self._noted("place_twap", symbol=symbol, side=side, quantity=quantity, name=name):
            market = self._market(symbol)
        request = OrderRequest(symbol, name, Side[side], OrderType.MARKET, quantity)
        algo_id = self._store.next_algo_id
        algo = AlgoOrder(request, algo_id, self._events.clock, self._events.clock, 1, kind="TWAP")
        self._store.open_algo(market, algo)

    # --- positions and money ------------------------------------------------------------------------------------------

    def liquidate_part(self, symbol: str, quantity: int) -> None:
        """Liquidate some lots of a position at the mark price, with the liquidation fee; its orders stay."""
        with self._noted("liquidate_part", symbol=symbol, quantity=quantity):
            market = self._market(symbol)
            refuse_if(not 0 < quantity <= abs(market.position.quantity), -2024)
        price = market.closing_price
        fee_amount = fee(market.instrument.notional(price * quantity), market.rules.liquidation_fee_e8)
        self._clearing.force_close(market, "autoclose-", price, fee_amount, quantity)

    def move_money(
        self, amount: int, asset: str = "USDT", reason: str = "ADJUSTMENT", income: str = "TRANSFER"
    ) -> None:
        """Add an amount of an asset to the wallet, or take it out if negative.

        Args:
            amount: 1e-8 of the asset.
            reason: what ACCOUNT_UPDATE says, such as MARGIN_TRANSFER, AUTO_EXCHANGE or INSURANCE_CLEAR.
            income: type of the row of GET income, such as SPECIAL_FUNDING_FEE.
        """
        with self._noted("move_money", amount=amount, asset=asset, reason=reason, income=income):
            refuse_if(amount < -self._account.free_of(asset), -4050)
        self._clearing.transfer(amount, reason, income, asset)

    def pay_fees_in(self, asset: str = "", price: int = 0) -> None:
        """Charge fees in an asset at a price (money), 10% less, while the wallet has it; "" ends that."""
        with self._noted("pay_fees_in", asset=asset, price=price):
            refuse_if(asset and price <= 0, -1130, "price")
        self._account.fee_asset, self._account.fee_asset_price = asset, price

    # --- settings and rules -------------------------------------------------------------------------------------------

    def switch_position_mode(self, hedge: bool) -> None:
        """Switch the position mode as in the app; refused like `SimulatedExchange.set_position_mode`."""
        with self._noted("switch_position_mode", hedge=hedge):
            check_position_mode(self._account, hedge)
        self._account.hedge_mode = hedge

    def switch_assets_mode(self, multi: bool) -> None:
        """Switch multi-assets mode as in the app. Margin is still calculated in the quote asset alone."""
        with self._noted("switch_assets_mode", multi=multi):
            refuse_if(multi == self._account.multi_assets, -4171)
        self._account.multi_assets = multi
        self._events.add_assets_mode(multi)

    def settle(self, symbol: str) -> None:
        """Delist a symbol: expire its orders, settle its position at the mark price, and stop its trading."""
        with self._noted("settle", symbol=symbol):
            market = self._market(symbol)
        self._store.expire_all(market, "7")
        market.status = "CLOSE"
        if market.position.quantity:
            price = market.closing_price
            notional = market.instrument.notional(price * abs(market.position.quantity))
            fee_amount = fee(notional, self._account.terms.taker_fee_e8)
            self._clearing.force_close(market, "settlement_autoclose-", price, fee_amount)

    def set_status(self, symbol: str, status: str, delivery_time: int = 0) -> None:
        """Change a symbol's status, and when it is delivered (ms; 0: as before).

        Orders are refused by the status, see `refusals.STATUS_CODES`. The tape goes on.
        """
        with self._noted("set_status", symbol=symbol, status=status, delivery_time=delivery_time):
            market = self._market(symbol)
        market.status, market.delivery_time = status, delivery_time or market.delivery_time

    def restrict(self, code: int, symbol: str = "", spares_reducing: bool = False) -> None:
        """Refuse every order with a code, in a symbol or in all; code 0 ends that.

        Args:
            spares_reducing: whether reduce-only orders are accepted.
        """
        with self._noted("restrict", code=code, symbol=symbol, spares_reducing=spares_reducing):
            refuse_if(code and code not in codes(), -1130, "code")
        self._account.restrictions.pop(symbol, None)
        if code:
            self._account.restrictions[symbol] = Restriction(code, spares_reducing)

    def lift(self, code: int) -> None:
        """Accept orders again that were refused with a code."""
        with self._noted("lift", code=code):
            pass
        lifted = [symbol for symbol, each in self._account.restrictions.items() if each.code == code]
        for symbol in lifted:
            del self._account.restrictions[symbol]
