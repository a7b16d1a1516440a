"""The simulated Binance: several symbols and one account in one-way mode, in process, without a socket.

The venue serves it to clients, paper trading and a backtest event by event call it directly; all see the same fills.
Requests return at once, as Binance's do with newOrderRespType=ACK. Everything that happens later is added to `outbox`,
and everything is written to the ground-truth log, from which `ground_truth` restores the exchange.

`fill_model` has the rules of fills, `refusals` those of refusals, `margin` those of margin and liquidation. Not
modelled: hedge mode, multi-assets mode and quote assets other than USDT (all refused), liquidation in steps, and the
auto-deleveraging queue (a script starts a deleveraging).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

from voltrade.errors import DataError
from voltrade.model import (
    AccountSummary,
    AlgoUpdate,
    Instrument,
    MarkPrice,
    OrderRequest,
    OrderUpdate,
    PositionReport,
    Snapshot,
    TimeInForce,
    Trades,
    WorkingType,
    money_text,
)
from voltrade.simulated import refusals
from voltrade.simulated.clearing import Clearing
from voltrade.simulated.event_log import EventLog, Log, encoded
from voltrade.simulated.events import PositionRisk
from voltrade.simulated.interventions import Interventions
from voltrade.simulated.margin_account import Balances, MarginAccount, Terms
from voltrade.simulated.market import QUOTE_ASSET, Market
from voltrade.simulated.matching import Matching
from voltrade.simulated.order_store import OrderStore
from voltrade.simulated.orders import AlgoOrder, Order
from voltrade.simulated.refusals import VenueRefusal, refuse_if, refused
from voltrade.simulated.symbols import SymbolRules, shipped_rules, shipped_symbols


class SimulatedExchange:
    """The exchange: trades and mark prices, requests, and queries.

    A request or query that Binance would refuse raises `VenueRefusal` with the code of the first broken rule, and
    changes nothing. Every request is logged, accepted or refused.

    Attributes:
        markets: the symbols, by name.
        events: clock, user events and ground-truth log.
        interventions: what happens to the account without a request.
        outbox: user events in order, until the caller clears it.
        account: wallet, profit, fees and funding.
        income: every change of the wallet.
        orders: ordinary orders by id, open and ended.
        algos: conditional orders by id, waiting and ended.
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        terms: Terms,
        *,
        clock: int = 0,
        log: Log | None = None,
        rules: Mapping[str, SymbolRules] | None = None,
    ) -> None:
        """Open an account.

        Args:
            instruments: the symbols, all with the quote asset USDT.
            log: takes each row of the ground-truth log, before its events are sent.
            rules: of symbols that do not use the shipped rules.

        Raises:
            DataError: no symbol, a symbol twice, another quote asset, or more leverage than the brackets allow.
        """
        self.markets: dict[str, Market] = {}
        self.events = EventLog(clock, log, self.markets)
        self._account = MarginAccount(terms, clock, self.markets)
        self._store = OrderStore(self.events)
        self._clearing = Clearing(self._account, self._store, self.events)
        self._matching = Matching(self._account, self._store, self._clearing, self.events)
        self.interventions = Interventions(self._account, self._store, self._clearing, self.events, self._request)
        self.outbox = self.events.outbox
        self.account = self._account.books
        self.income = self._clearing.income
        self.orders, self.algos = self._store.orders, self._store.algos
        for instrument in instruments:
            self._add_symbol(instrument, (rules or {}).get(instrument.symbol))
        if not self.markets:
            raise DataError("instruments: must be at least one, was none")
        self._note_start()

    def _add_symbol(self, instrument: Instrument, rules: SymbolRules | None) -> None:
        symbol, terms = instrument.symbol, self.terms
        if instrument.quote_asset != QUOTE_ASSET:
            raise DataError(f"{symbol}: quote asset must be {QUOTE_ASSET}, was {instrument.quote_asset}")
        if symbol in self.markets:
            raise DataError(f"{symbol}: must be given once, was given twice")
        rules = rules or (shipped_rules(symbol) if symbol in shipped_symbols() else SymbolRules())
        most = rules.brackets[0].leverage
        if not 1 <= terms.leverage <= most:
            raise DataError(f"{symbol}: leverage must be 1 to {most}, was {terms.leverage}")
        position = self.account.open_symbol(instrument)
        self.markets[symbol] = Market(instrument, rules, position, terms.leverage, terms.margin_type)

    def _note_start(self) -> None:
        self.events.note(
            "start",
            **{**asdict(self.terms), "wallet": money_text(self.terms.wallet)},
            **encoded(
                instruments=[market.instrument for market in self.markets.values()],
                all_rules={symbol: market.rules for symbol, market in self.markets.items()},
            ),
        )
        for market in self.markets.values():
            self.events.skip_prices(market)

    @property
    def clock(self) -> int:
        """Time of the exchange, milliseconds UTC."""
        return self.events.clock

    @property
    def terms(self) -> Terms:
        return self._account.terms

    @terms.setter
    def terms(self, terms: Terms) -> None:
        self._account.terms = terms

    @property
    def hedge_mode(self) -> bool:
        """Whether the account is in hedge mode, in which every order is refused."""
        return self._account.hedge_mode

    @property
    def multi_assets(self) -> bool:
        """Whether the account was switched to multi-assets mode."""
        return self._account.multi_assets

    @property
    def assets(self) -> Mapping[str, int]:
        """What the wallet has besides the quote asset, 1e-8 by asset."""
        return self._account.assets

    @property
    def fee_asset(self) -> tuple[str, int]:
        """What fees are paid in while the wallet has it, and its price, money; empty for the quote asset."""
        return self._account.fee_asset, self._account.fee_asset_price

    @property
    def updated(self) -> int:
        """Time of the last change of the account, ms."""
        return self._account.updated

    def market(self, symbol: str) -> Market:
        """Return a symbol's market; -1121 if the exchange does not have it."""
        refuse_if(symbol not in self.markets, -1121)
        return self.markets[symbol]

    def copy(self) -> SimulatedExchange:
        """Return the exchange as it is now, to be read later: it has no log, and shares what never changes."""
        markets = self.markets.values()
        known = [*self.income, *(market.tape for market in markets), *(fill for each in markets for fill in each.fills)]
        with self.events.silenced():
            return deepcopy(self, {id(fact): fact for fact in known})

    # --- the tape -----------------------------------------------------------------------------------------------------

    def advance(self, time: int) -> None:
        """Set the clock forward, past the arrivals of orders; an earlier time changes nothing."""
        self._matching.arrive_due(time)
        self.events.advance(time)

    def on_trades(self, trades: Trades) -> None:
        """Play trades of one symbol, in order; the result does not depend on how they are divided into calls."""
        self._matching.on_trades(trades)

    def on_mark(self, mark: MarkPrice) -> None:
        """Handle a mark price: funding that is due, then triggers, then liquidation or a margin call."""
        self._matching.on_mark(mark)

    def finish(self, symbol: str) -> None:
        """End a symbol's tape: orders on their way arrive. Resting and conditional orders stay as they are."""
        self._matching.finish(symbol)

    # --- requests: orders ---------------------------------------------------------------------------------------------

    def place_order(self, request: OrderRequest) -> OrderUpdate:
        """Accept a market or limit order and return it as it is now; after the latency it is at the matching engine."""
        with self._request("place_order", client_order_id=request.client_order_id, asked=request):
            self.check_order(request)
        market = self.markets[request.symbol]
        live_from = self.clock + self.terms.latency_ms
        assumed = refusals.assumed_price(market, request)
        order = Order(request, self._store.next_order_id, self.clock, live_from, assumed)
        self._store.open_order(market, order)
        accepted = order.update()
        self._matching.arrive_due(self.clock)
        return accepted

    def check_order(self, request: OrderRequest) -> None:
        """Check an order as `place_order` does, without placing it."""
        refusals.check_order(self._account, self._store, self.market(request.symbol), request)

    def place_algo(self, request: OrderRequest) -> AlgoUpdate:
        """Accept a conditional order, which can trigger after the latency."""
        with self._request("place_algo", client_order_id=request.client_order_id, asked=request):
            market = self.market(request.symbol)
            unit = market.tick_e8 if request.working_type is WorkingType.MARK_PRICE else 1
            algo = AlgoOrder(request, self._store.next_algo_id, self.clock, self.clock + self.terms.latency_ms, unit)
            refusals.check_algo(self._account, self._store, market, algo)
        if algo.is_trailing_type and not request.activation_price:
            algo.trailing, algo.best = True, market.working_price(algo)
        self._store.open_algo(market, algo)
        return algo.update()

    def cancel_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Cancel an open order by either id; -2011 if it is not open."""
        with self._request("cancel_order", symbol=symbol, client_order_id=client_order_id, order_id=order_id):
            market = self.market(symbol)
            order = refusals.find_order(self._store, symbol, client_order_id, order_id, -2011)
        self._store.end_order(market, order, "CANCELED")
        return order.update()

    def modify_order(
        self,
        symbol: str,
        *,
        side: int,
        quantity: int,
        price: int,
        client_order_id: str = "",
        order_id: int = 0,
        reduces: bool = False,
        modify_id: int = 0,
    ) -> OrderUpdate:
        """Change price and quantity of an open limit order at once, and move it to the end of the queue.

        The order is cancelled instead if it has already filled that much, or is post-only and would take.

        Args:
            side: must be the order's.
            quantity: lots, including what has filled.
            price: ticks.
            reduces: whether the request says that the order is reduce-only.
            modify_id: told with the modification.

        Raises:
            VenueRefusal: -2013 not open, -5025 not a limit order, -5027 nothing to modify, -5047 not reduce-only, or
                the code of the first broken rule.
        """
        which = {"symbol": symbol, "client_order_id": client_order_id, "order_id": order_id, "modify_id": modify_id}
        with self._request("modify_order", **which, side=side, quantity=quantity, price=price, reduces=reduces):
            market = self.market(symbol)
            order = refusals.find_order(self._store, symbol, client_order_id, order_id)
            modified = replace(order.request, quantity=quantity, price=price)
            refusals.check_modification(self._account, market, order, modified, side, reduces=reduces)
        if quantity <= order.filled or (modified.time_in_force is TimeInForce.GTX and market.would_take(modified)):
            self._store.end_order(market, order, "CANCELED")
            return order.update()
        order.modify_id = modify_id
        self._matching.amend(market, order, quantity, price)
        return order.update()

    def cancel_algo(self, *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Cancel a conditional order by either id; -2011 if it has triggered or ended."""
        with self._request("cancel_algo", client_order_id=client_order_id, algo_id=algo_id):
            algo = refusals.find_algo(self._store, client_order_id, algo_id, -2011)
        self._store.end_algo(self.markets[algo.request.symbol], algo, "CANCELED")
        return algo.update()

    def cancel_all(self, symbol: str) -> None:
        """Cancel all open ordinary orders of a symbol, but no conditional orders."""
        with self._request("cancel_all", symbol=symbol):
            market = self.market(symbol)
        for order in list(market.open_orders.values()):
            self._store.end_order(market, order, "CANCELED")

    def cancel_all_algo(self, symbol: str) -> None:
        """Cancel all conditional orders of a symbol that have not triggered."""
        with self._request("cancel_all_algo", symbol=symbol):
            market = self.market(symbol)
        for algo in list(market.open_algos.values()):
            self._store.end_algo(market, algo, "CANCELED")

    # --- requests: account settings -----------------------------------------------------------------------------------

    def set_leverage(self, symbol: str, leverage: int) -> int:
        """Set a symbol's leverage and return it.

        -4028 more than the brackets allow, -4161 lower with an isolated position, -2027 position too large for it,
        -2028 not enough margin.
        """
        with self._request("set_leverage", symbol=symbol, leverage=leverage):
            market = self.market(symbol)
            refusals.check_leverage(self._account, market, leverage)
        if leverage != market.leverage:
            market.leverage = leverage
            self.events.add_leverage(market)
        return leverage

    def set_margin_type(self, symbol: str, margin_type: str) -> None:
        """Set `isolated` or `cross`; -4046 already set, -4047 with open orders, -4048 with a position."""
        with self._request("set_margin_type", symbol=symbol, margin_type=margin_type):
            market = self.market(symbol)
            refuse_if(margin_type not in ("isolated", "cross"), -1130, "marginType")
            refuse_if(margin_type == market.margin_type, -4046)
            refuse_if(market.open_orders or market.open_algos, -4047)
            refuse_if(market.position.quantity, -4048)
        market.margin_type = margin_type
        self._clearing.report_account("MARGIN_TYPE_CHANGE", market)

    def change_position_margin(self, symbol: str, amount: int, *, adding: bool) -> None:
        """Add margin to an isolated position, or remove it; refused with -4049 to -4055."""
        with self._request("change_position_margin", symbol=symbol, amount=amount, adding=adding):
            market = self.market(symbol)
            refusals.check_position_margin(self._account, market, amount, adding=adding)
        market.added_margin += amount if adding else -amount
        self._clearing.report_account("MARGIN_TRANSFER", market)

    def set_position_mode(self, hedge: bool) -> None:
        """Set one-way mode, if flat and without orders (-4067, -4068); hedge mode is not supported (-4084)."""
        with self._request("set_position_mode", hedge=hedge):
            refusals.check_position_mode(self._account, hedge)
            refuse_if(hedge, -4084)
        self._account.hedge_mode = False

    def set_multi_assets_mode(self, multi: bool) -> None:
        """Refuse every assets mode: single-asset is already set (-4171), multi-assets is not supported (-4084)."""
        with self._request("set_multi_assets_mode", multi=multi):
            refuse_if(not multi, -4171)
            refuse_if(any(market.is_isolated for market in self.markets.values()), -4167)
            raise refused(-4084)

    # --- actions of a script -----------------------------------------------------------------------------

    def deposit(self, amount: int) -> None:
        """Add money to the wallet."""
        with self._request("deposit", amount=amount):
            refuse_if(amount <= 0, -4055)
        self._clearing.transfer(amount, "DEPOSIT")

    def withdraw(self, amount: int) -> None:
        """Take money out of the wallet; -4050 if it is more than the free margin."""
        with self._request("withdraw", amount=amount):
            refuse_if(amount <= 0, -4055)
            refuse_if(amount > self._account.free_margin(), -4050)
        self._clearing.transfer(-amount, "WITHDRAW")

    def deleverage(self, symbol: str, quantity: int = 0) -> None:
        """Auto-deleverage a position, or some lots of it: close it at the mark price."""
        with self._request("deleverage", symbol=symbol, quantity=quantity):
            market = self.market(symbol)
            refuse_if(not 0 <= quantity <= abs(market.position.quantity) or not market.position.quantity, -2024)
        self._clearing.force_close(market, "adl_autoclose", market.closing_price, 0, quantity)

    def change_filters(self, instrument: Instrument, rules: SymbolRules | None = None) -> None:
        """Replace a symbol's filters and its other rules; open orders stay as they are.

        Raises:
            DataError: tick or step would change, and with them every price and quantity.
        """
        with self._request("change_filters", instrument=instrument, rules=rules):
            market = self.market(instrument.symbol)
            for unit in ("tick_size", "step_size"):
                if (before := getattr(market.instrument, unit)) != (after := getattr(instrument, unit)):
                    raise DataError(f"{unit}: must stay {before}, was {after}")
        market.instrument = market.position.instrument = instrument
        market.rules = rules or market.rules

    # --- queries ------------------------------------------------------------------------------------------------------

    def query_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Return an order, open or ended; of several with the same client id the latest. -2013 if there is none."""
        self.market(symbol)
        return refusals.find_order(self._store, symbol, client_order_id, order_id).update()

    def query_algo(self, *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Return a conditional order; of several with the same client id the latest. -2013 if there is none."""
        return refusals.find_algo(self._store, client_order_id, algo_id).update()

    def open_orders(self, symbol: str = "") -> list[OrderUpdate]:
        return [order.update() for market in self._markets(symbol) for order in market.open_orders.values()]

    def open_algo_orders(self, symbol: str = "") -> list[AlgoUpdate]:
        return [algo.update() for market in self._markets(symbol) for algo in market.open_algos.values()]

    def all_orders(self, symbol: str) -> list[OrderUpdate]:
        """Return the orders of a symbol that GET order still returns, by id."""
        return [
            order.update()
            for order in self.orders.values()
            if order.request.symbol == symbol and not refusals.is_forgotten(self._store, order)
        ]

    def all_algo_orders(self, symbol: str) -> list[AlgoUpdate]:
        """Return the conditional orders of a symbol, by id."""
        known = (algo for algo in self.algos.values() if not algo.is_forgotten)
        return [algo.update() for algo in known if algo.request.symbol == symbol]

    def user_trades(self, symbol: str = "", after_id: int = 0) -> list[OrderUpdate]:
        """Return our fills with a trade id above `after_id`, as order updates."""
        return [fill for market in self._markets(symbol) for fill in market.fills[after_id:]]

    def mark(self, symbol: str) -> MarkPrice:
        """Return the last mark price, or the price of the last trade before the first mark price."""
        market = self.markets[symbol]
        return market.mark or MarkPrice(symbol, self.clock, market.value_price_e8)

    def balances(self) -> Balances:
        """Return wallet, margins and available balance."""
        return self._account.balances()

    def position(self, symbol: str) -> PositionReport:
        """Return the part of a position that the core uses."""
        return self._account.position_risk(symbol).report

    def position_risk(self, symbol: str) -> PositionRisk:
        """Return the position in a symbol with its margin."""
        return self._account.position_risk(symbol)

    def liquidation_price(self, symbol: str) -> str:
        """Return the mark price at which a position is liquidated, or `"0"`."""
        return self._account.liquidation_price(symbol)

    def summary(self, symbol: str) -> AccountSummary:
        """Return what a regular comparison of the account needs."""
        waiting = [order for order in self.open_algo_orders(symbol) if order.status == "NEW"]
        orders: list[OrderUpdate | AlgoUpdate] = [*self.open_orders(symbol), *waiting]
        market = self.markets[symbol]
        return AccountSummary(
            time=self.clock,
            symbol=symbol,
            wallet=self.balances().wallet,
            position=self.position(symbol).quantity,
            leverage=market.leverage,
            margin_type=market.margin_type,
            hedge_mode=self.hedge_mode,
            orders=tuple(order.client_order_id for order in orders),
            max_notional=market.largest_notional,
        )

    def snapshot(self, symbol: str, since_trade_id: int = 0) -> Snapshot:
        """Return the account and one symbol, as the core needs them at start and after a lost user stream."""
        balances, market = self.balances(), self.markets[symbol]
        return Snapshot(
            time=self.clock,
            symbol=symbol,
            wallet=balances.wallet,
            available=balances.available,
            taker_fee_e8=self.terms.taker_fee_e8,
            maker_fee_e8=self.terms.maker_fee_e8,
            leverage=market.leverage,
            margin_type=market.margin_type,
            hedge_mode=self.hedge_mode,
            position=self.position(symbol),
            orders=tuple(self.open_orders(symbol)),
            algo_orders=tuple(self.open_algo_orders(symbol)),
            fills=tuple(self.user_trades(symbol, since_trade_id)),
            max_notional=market.largest_notional,
        )

    def ticks(self, symbol: str, text: str | Decimal) -> int:
        """Convert a price in a request to ticks; -1111 too many decimals, -4014 not a multiple of the tick."""
        market = self.market(symbol)
        return refusals.counted(text, market.rules.price_precision, market.instrument.ticks, -4014)

    def lots(self, symbol: str, text: str | Decimal) -> int:
        """Convert a quantity in a request to lots; -1111 too many decimals, -4023 not a multiple of the step."""
        market = self.market(symbol)
        return refusals.counted(text, market.rules.quantity_precision, market.instrument.lots, -4023)

    def _markets(self, symbol: str) -> list[Market]:
        """Return the symbol with that name, if it exists, or all if the name is empty."""
        return [market for name, market in self.markets.items() if symbol in ("", name)]

    # --- the log ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _request(self, action: str, **facts: Any) -> Iterator[None]:
        """Log a request: as refused if the block raises `VenueRefusal`, else as accepted, before it is done."""
        if self.events.has_log:
            facts = encoded(**facts)
        try:
            yield
        except VenueRefusal as refusal:
            self.events.note("refused", action=action, **facts, code=refusal.code, message=refusal.message)
            raise
        self.events.note_input("accepted", action=action, **facts)
