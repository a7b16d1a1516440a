"""The simulated Binance: several symbols, one account in one-way mode, in process and without a socket.

`venue` gives it Binance's wire, the backtest calls it directly, and both see the same orders, fills and refusals.
Requests are answered at once, as Binance answers with newOrderRespType=ACK; everything that happens afterwards is
appended to `outbox` in order, and everything at all goes to the ground-truth log, from which `truth` makes the same
exchange again.

How orders fill is told in `execution`, what is refused in `refusals`, margin and liquidation in `margin` and
`clearing`. Not modelled: hedge mode, multi-assets mode and other quote assets than USDT (refused), liquidation in
steps, the auto-deleveraging queue (it happens when it is told to).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from pydantic import TypeAdapter

from voltrade.account import fee
from voltrade.errors import DataError
from voltrade.model import (
    AlgoUpdate,
    CancelOrder,
    Command,
    Instrument,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    Reply,
    Side,
    Snapshot,
    TakeSnapshot,
    TimeInForce,
    UserDataEvent,
    WorkingType,
    money,
    money_text,
)
from voltrade.simulated import refusals
from voltrade.simulated.clearing import AccountChange, Log, Terms
from voltrade.simulated.market import Market
from voltrade.simulated.matching import MatchingEngine
from voltrade.simulated.orders import AlgoOrder, Order, Phase
from voltrade.simulated.refusals import VenueRefusal, refuse_if, refused
from voltrade.simulated.symbols import SymbolRules, shipped_rules, shipped_symbols

QUOTE_ASSET = "USDT"

CODECS: Mapping[str, TypeAdapter[Any]] = {
    "asked": TypeAdapter(OrderRequest),
    "instrument": TypeAdapter(Instrument),
    "instruments": TypeAdapter(list[Instrument]),
    "rules": TypeAdapter(SymbolRules | None),
    "all_rules": TypeAdapter(dict[str, SymbolRules]),
}
"""How the log writes, by name, what is more than a plain value: prices in ticks, quantities in lots."""


def _written(**facts: Any) -> dict[str, Any]:
    return {
        name: CODECS[name].dump_python(fact, mode="json") if name in CODECS else fact for name, fact in facts.items()
    }


@dataclass(frozen=True, slots=True)
class Balances:
    """The account in numbers, all money."""

    wallet: int
    cross_wallet: int
    unrealised: int
    cross_unrealised: int
    equity: int
    """Wallet and unrealised profit."""
    initial_margin: int
    """Of positions and orders."""
    position_margin: int
    order_margin: int
    maintenance_margin: int
    available: int
    """What new orders may use for margin, never below 0."""


class SimulatedExchange(MatchingEngine):
    """The exchange: requests, questions, and what moves it.

    A request or question that Binance would refuse raises `VenueRefusal` with the code of the first rule it breaks, and
    changes nothing. Every request goes to the log, accepted or refused.
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
            log: takes each row of the ground-truth log, before anybody is told what it says.
            rules: of symbols whose rules are not to be the shipped ones.

        Raises:
            DataError: no symbol, two of one name, another quote asset, or more leverage than the brackets allow.
        """
        super().__init__(terms, clock, log)
        for instrument in instruments:
            symbol = instrument.symbol
            if instrument.quote_asset != QUOTE_ASSET:
                raise DataError(f"{symbol}: quote asset must be {QUOTE_ASSET}, was {instrument.quote_asset}")
            if symbol in self.markets:
                raise DataError(f"{symbol}: must be given once, was given twice")
            known = shipped_rules(symbol) if symbol in shipped_symbols() else SymbolRules()
            held_to = (rules or {}).get(symbol, known)
            most = held_to.brackets[0].leverage
            if not 1 <= terms.leverage <= most:
                raise DataError(f"{symbol}: leverage must be 1 to {most}, was {terms.leverage}")
            held = self.account.open_symbol(instrument)
            self.markets[symbol] = Market(instrument, held_to, held, terms.leverage, terms.margin_type)
        if not self.markets:
            raise DataError("instruments: must be at least one, was none")
        self.note(
            "start",
            **{**asdict(terms), "wallet": money_text(terms.wallet)},
            **_written(
                instruments=[market.instrument for market in self.markets.values()],
                all_rules={symbol: market.rules for symbol, market in self.markets.items()},
            ),
        )
        for market in self.markets.values():
            self.market_noted(market)

    def market(self, symbol: str) -> Market:
        """Return a symbol's market; -1121 where the exchange has no such symbol."""
        refuse_if(symbol not in self.markets, -1121)
        return self.markets[symbol]

    # --- requests: orders ---------------------------------------------------------------------------------------------

    def place_order(self, request: OrderRequest) -> OrderUpdate:
        """Accept a market or limit order: it is NEW, and live once the latency has passed."""
        with self._request("place_order", client_order_id=request.client_order_id, asked=request):
            self.check_order(request)
        market = self.markets[request.symbol]
        live_from = self.clock + self.terms.latency_ms
        assumed = refusals.assumed_price(market, request)
        order = Order(request, len(self.orders) + 1, self.clock, live_from, assumed)
        self.open_order(market, order)
        return order.update()

    def check_order(self, request: OrderRequest) -> None:
        """Refuse an order as `place_order` would, and place nothing."""
        refusals.check_order(self, self.market(request.symbol), request)

    def place_algo(self, request: OrderRequest) -> AlgoUpdate:
        """Accept a conditional order; it waits from when the latency has passed."""
        with self._request("place_algo", client_order_id=request.client_order_id, asked=request):
            market = self.market(request.symbol)
            unit = market.tick_e8 if request.working_type is WorkingType.MARK_PRICE else 1
            algo = AlgoOrder(request, len(self.algos) + 1, self.clock, self.clock + self.terms.latency_ms, unit)
            refusals.check_algo(self, market, algo)
        if algo.is_trailing_type and not request.activation_price:
            algo.trailing, algo.best = True, market.working_price(algo)
        self.open_algo(market, algo)
        return algo.update()

    def cancel_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Cancel an open order by either id; -2011 where no such order is open."""
        with self._request("cancel_order", symbol=symbol, client_order_id=client_order_id, order_id=order_id):
            market = self.market(symbol)
            order = refusals.find_order(self, symbol, client_order_id, order_id, -2011)
        self.end_order(market, order, "CANCELED")
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
    ) -> OrderUpdate:
        """Give an open limit order another price and quantity, at once and at the end of the queue.

        It is cancelled instead where it has filled that much already, or is post-only and would take.

        Args:
            side: must be the order's.
            quantity: lots, what has filled included.
            price: ticks.
            reduces: claims that the order is reduce-only.

        Raises:
            VenueRefusal: -2013 not open, -5025 no limit order, -5027 nothing to modify, -5047 not reduce-only, or with
                the code of the rule that the modified order breaks.
        """
        which = {"symbol": symbol, "client_order_id": client_order_id, "order_id": order_id}
        with self._request("modify_order", **which, side=side, quantity=quantity, price=price, reduces=reduces):
            market = self.market(symbol)
            order = refusals.find_order(self, symbol, client_order_id, order_id)
            modified = replace(order.request, quantity=quantity, price=price)
            refusals.check_modification(self, market, order, modified, side, reduces=reduces)
        if quantity <= order.filled or (modified.time_in_force is TimeInForce.GTX and market.would_take(modified)):
            self.end_order(market, order, "CANCELED")
            return order.update()
        market.reserve_notional(order, -order.remaining)
        order.request, order.assumed_price, order.updated = modified, price, self.clock
        market.reserve_notional(order, order.remaining)
        market.open_orders[order.id] = market.open_orders.pop(order.id)
        if order.phase is not Phase.TRAVELLING:
            order.phase = Phase.TAKING if market.would_take(modified) else Phase.RESTING
        market.orders_changed()
        self.tell_order(market, order, "AMENDMENT")
        return order.update()

    def cancel_algo(self, *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Cancel a conditional order by either id; -2011 where none waits."""
        with self._request("cancel_algo", client_order_id=client_order_id, algo_id=algo_id):
            algo = refusals.find_algo(self, client_order_id, algo_id, -2011)
        self.end_algo(self.markets[algo.request.symbol], algo, "CANCELED")
        return algo.update()

    def cancel_all(self, symbol: str) -> None:
        """Cancel all open ordinary orders of a symbol; conditional orders stay."""
        with self._request("cancel_all", symbol=symbol):
            market = self.market(symbol)
        for order in list(market.open_orders.values()):
            self.end_order(market, order, "CANCELED")

    def cancel_all_algo(self, symbol: str) -> None:
        """Cancel all conditional orders of a symbol that have not triggered."""
        with self._request("cancel_all_algo", symbol=symbol):
            market = self.market(symbol)
        for algo in list(market.open_algos.values()):
            self.end_algo(market, algo, "CANCELED")

    # --- requests: account settings -----------------------------------------------------------------------------------

    def set_leverage(self, symbol: str, leverage: int) -> int:
        """Set a symbol's leverage and return it.

        -4028 more than the brackets allow, -4161 lowered under an isolated position, -2027 too large a position for it,
        -2028 too little margin.
        """
        with self._request("set_leverage", symbol=symbol, leverage=leverage):
            market = self.market(symbol)
            refusals.check_leverage(self, market, leverage)
        if leverage != market.leverage:
            market.leverage = leverage
            self.tell_leverage(market)
        return leverage

    def set_margin_type(self, symbol: str, margin_type: str) -> None:
        """Set `isolated` or `cross`; -4046 already so, -4047 with open orders, -4048 with a position."""
        with self._request("set_margin_type", symbol=symbol, margin_type=margin_type):
            market = self.market(symbol)
            refuse_if(margin_type not in ("isolated", "cross"), -1130, "marginType")
            refuse_if(margin_type == market.margin_type, -4046)
            refuse_if(market.open_orders or market.open_algos, -4047)
            refuse_if(market.held.quantity, -4048)
        market.margin_type = margin_type
        self.tell_account("MARGIN_TYPE_CHANGE", market)

    def change_position_margin(self, symbol: str, amount: int, *, adding: bool) -> None:
        """Move money to an isolated position's margin, or back; -4049 to -4055 where that can't be."""
        with self._request("change_position_margin", symbol=symbol, amount=amount, adding=adding):
            market = self.market(symbol)
            refusals.check_position_margin(self, market, amount, adding=adding)
        market.added_margin += amount if adding else -amount
        self.tell_account("MARGIN_TRANSFER", market)

    def set_position_mode(self, hedge: bool) -> None:
        """Go back to one-way mode, when flat and without orders (-4067, -4068); hedge mode is not offered (-4084)."""
        with self._request("set_position_mode", hedge=hedge):
            refusals.check_position_mode(self, hedge)
            refuse_if(hedge, -4084)
        self.hedge_mode = False

    def set_multi_assets_mode(self, multi: bool) -> None:
        """Refuse every change of the assets mode: it is single-asset (-4171), and the other is not offered (-4084)."""
        with self._request("set_multi_assets_mode", multi=multi):
            refuse_if(not multi, -4171)
            refuse_if(any(market.is_isolated for market in self.markets.values()), -4167)
            raise refused(-4084)

    # --- what a script may do to the account --------------------------------------------------------------------------

    def deposit(self, amount: int) -> None:
        """Bring money to the wallet."""
        with self._request("deposit", amount=amount):
            refuse_if(amount <= 0, -4055)
        self.transfer(amount, "DEPOSIT")

    def withdraw(self, amount: int) -> None:
        """Take money from the wallet; -4050 more than is free."""
        with self._request("withdraw", amount=amount):
            refuse_if(amount <= 0, -4055)
            refuse_if(amount > self.free_margin(), -4050)
        self.transfer(-amount, "WITHDRAW")

    def deleverage(self, symbol: str, quantity: int = 0) -> None:
        """Auto-deleverage a position, or some lots of it: it is closed at the mark against a bankrupt counterparty."""
        with self._request("deleverage", symbol=symbol, quantity=quantity):
            market = self.market(symbol)
            refuse_if(not 0 <= quantity <= abs(market.held.quantity) or not market.held.quantity, -2024)
        self.force_close(market, "adl_autoclose", self.closing_price(market), 0, quantity)

    def settle(self, symbol: str) -> None:
        """Delist a symbol: its orders expire, its position is settled at the mark, and it is closed for good."""
        with self._request("settle", symbol=symbol):
            market = self.market(symbol)
        self.expire_all(market, "7")
        market.status = "CLOSE"
        if market.held.quantity:
            price = self.closing_price(market)
            notional = market.instrument.notional(price * abs(market.held.quantity))
            self.force_close(market, "settlement_autoclose-", price, fee(notional, self.terms.taker_fee_e8))

    def change_filters(self, instrument: Instrument, rules: SymbolRules | None = None) -> None:
        """Replace a symbol's filters, and its further rules; orders that are open stay as they are.

        Raises:
            DataError: tick or step changed, which would change the meaning of every price and quantity.
        """
        with self._request("change_filters", instrument=instrument, rules=rules):
            market = self.market(instrument.symbol)
            for unit in ("tick_size", "step_size"):
                before, after = getattr(market.instrument, unit), getattr(instrument, unit)
                if before != after:
                    raise DataError(f"{unit}: must stay {before}, was {after}")
        market.instrument = market.held.instrument = instrument
        market.rules = rules or market.rules

    def stick_triggers(self, symbol: str, sticking: bool = True) -> None:
        """Let conditional orders of a symbol that trigger stay TRIGGERING, open and without effect; or no longer."""
        with self._request("stick_triggers", symbol=symbol, sticking=sticking):
            market = self.market(symbol)
        market.stuck_in_triggering = sticking

    def switch_position_mode(self, hedge: bool) -> None:
        """Switch the account's position mode by hand, as on Binance's own page; refused as `set_position_mode` is."""
        with self._request("switch_position_mode", hedge=hedge):
            refusals.check_position_mode(self, hedge)
        self.hedge_mode = hedge

    def happen(self, what: str, facts: Mapping[str, Any]) -> None:
        """Let happen what a line of a script says: most are methods of this class, with decimal texts for amounts.

        `order` is a market order by hand, with a client id that is none of a program's; `mark` lets the mark price jump
        until the tape's next one; `filters` has fields of `Instrument`.
        """
        symbol = facts.get("symbol", "")
        match what:
            case "order":
                lots, name = self.lots(symbol, str(facts["quantity"])), facts.get("clientOrderId", "web_by_hand")
                order = OrderRequest(symbol, name, Side[facts["side"]], OrderType.MARKET, lots)
                self.place_order(replace(order, reduce_only=facts.get("reduceOnly", False)))
            case "filters":
                changed = {name: value for name, value in facts.items() if name != "symbol"}
                self.change_filters(replace(self.market(symbol).instrument, **changed))
            case "mark":
                price_e8 = money(str(facts["price"]))
                self.on_mark(replace(self.mark(symbol), time=self.clock, price_e8=price_e8))
            case "deposit" | "withdraw":
                getattr(self, what)(money(str(facts["amount"])))
            case "hedge_mode":
                self.switch_position_mode(True)
            case _:
                getattr(self, {"cancel_stops": "cancel_all_algo", "leverage": "set_leverage"}.get(what, what))(**facts)

    # --- commands of the core -----------------------------------------------------------------------------------------

    def execute(self, command: Command) -> Reply | Snapshot:
        """Carry out a command of the core, in process, and put the answer into values."""
        if isinstance(command, TakeSnapshot):
            return self.snapshot(command.symbol)
        action: Literal["submit", "cancel", "lookup"]
        if isinstance(command, OrderIntent):
            action, asked = "submit", command.order
            symbol, name, algo = asked.symbol, asked.client_order_id, asked.order_type.is_conditional
        else:
            action = "cancel" if isinstance(command, CancelOrder) else "lookup"
            symbol, name, algo = command.symbol, command.client_order_id, command.algo
        outcome, code, text = Outcome.ACCEPTED, 0, ""
        what: OrderUpdate | AlgoUpdate | None = None
        try:
            if isinstance(command, OrderIntent):
                what = self.place_algo(asked) if algo else self.place_order(asked)
            elif algo:
                what = (self.cancel_algo if action == "cancel" else self.query_algo)(client_order_id=name)
            else:
                what = (self.cancel_order if action == "cancel" else self.query_order)(symbol, client_order_id=name)
        except VenueRefusal as refusal:
            outcome, code, text = Outcome.REFUSED, refusal.code, refusal.message
        order = what if isinstance(what, OrderUpdate) else None
        algo_order = what if isinstance(what, AlgoUpdate) else None
        return Reply(self.clock, action, symbol, name, algo, outcome, code, text, order, algo_order)

    def collect(self) -> list[UserDataEvent]:
        """Empty the outbox and return what of it the core is told."""
        told: list[UserDataEvent] = []
        for event in self.outbox:
            if isinstance(event, AccountChange):
                told.append(event.update())
            elif isinstance(event, OrderUpdate | AlgoUpdate):
                told.append(event)
        self.outbox.clear()
        return told

    # --- questions ----------------------------------------------------------------------------------------------------

    def query_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Return an order, open or ended, of several with one client id the latest; -2013 where none is remembered."""
        self.market(symbol)
        return refusals.find_order(self, symbol, client_order_id, order_id).update()

    def query_algo(self, *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Return a conditional order, open or ended, of several with one client id the latest; -2013 without any."""
        return refusals.find_algo(self, client_order_id, algo_id).update()

    def open_orders(self, symbol: str = "") -> list[OrderUpdate]:
        return [order.update() for market in self._markets(symbol) for order in market.open_orders.values()]

    def open_algo_orders(self, symbol: str = "") -> list[AlgoUpdate]:
        return [algo.update() for market in self._markets(symbol) for algo in market.open_algos.values()]

    def all_orders(self, symbol: str) -> list[OrderUpdate]:
        """Return the orders of a symbol that are not forgotten, by id."""
        return [
            order.update()
            for order in self.orders.values()
            if order.request.symbol == symbol and not refusals.is_forgotten(self, order)
        ]

    def all_algo_orders(self, symbol: str) -> list[AlgoUpdate]:
        """Return the conditional orders of a symbol, by id."""
        return [algo.update() for algo in self.algos.values() if algo.request.symbol == symbol]

    def user_trades(self, symbol: str = "", after_id: int = 0) -> list[OrderUpdate]:
        """Return our fills with trade id above `after_id`, each as the order update that told of it."""
        return [fill for market in self._markets(symbol) for fill in market.fills[after_id:]]

    def mark(self, symbol: str) -> MarkPrice:
        """Return the last mark price; before the first one the last trade's price."""
        market = self.markets[symbol]
        return market.mark or MarkPrice(symbol, self.clock, market.value_price_e8)

    def balances(self) -> Balances:
        """Return wallet, margins and what is available, valued at mark, or at the last trade before the first mark."""
        markets = self.markets.values()
        unrealised = sum(market.unrealised for market in markets)
        return Balances(
            wallet=self.account.wallet,
            cross_wallet=self.cross_wallet,
            unrealised=unrealised,
            cross_unrealised=sum(market.unrealised for market in self.cross_markets()),
            equity=self.account.wallet + unrealised,
            initial_margin=sum(market.margin_needed() for market in markets),
            position_margin=sum(market.position_margin for market in markets),
            order_margin=sum(market.order_margin for market in markets),
            maintenance_margin=sum(market.maintenance for market in markets),
            available=max(0, self.free_margin()),
        )

    def snapshot(self, symbol: str, since_trade_id: int = 0) -> Snapshot:
        """Return the account and one symbol as the core asks for them at start and after a lost user stream."""
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
        )

    def ticks(self, symbol: str, text: str | Decimal) -> int:
        """Read a price of the wire; -1111 too many decimals, -4014 no multiple of the tick."""
        market = self.market(symbol)
        return refusals.counted(text, market.rules.price_precision, market.instrument.ticks, -4014)

    def lots(self, symbol: str, text: str | Decimal) -> int:
        """Read a quantity of the wire; -1111 too many decimals, -4023 no multiple of the step."""
        market = self.market(symbol)
        return refusals.counted(text, market.rules.quantity_precision, market.instrument.lots, -4023)

    def _markets(self, symbol: str) -> list[Market]:
        """The symbol of that name, or all where none is named; none where there is no such symbol."""
        return [market for name, market in self.markets.items() if symbol in ("", name)]

    # --- the log ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _request(self, action: str, **facts: Any) -> Iterator[None]:
        """Note a request: as refused where the checks in the block refuse it, else as accepted, before it is done."""
        if self.has_log:
            facts = _written(**facts)
        try:
            yield
        except VenueRefusal as refusal:
            self.note("refused", action=action, **facts, code=refusal.code, message=refusal.message)
            raise
        self.note_input("accepted", action=action, **facts)
