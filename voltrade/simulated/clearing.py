"""The simulated exchange's books: orders opened, filled and ended, what that does to the account, and who is told.

Everything that happens is appended to `outbox` in order, for the user data stream, and to the ground-truth log. The log
is also what the exchange can be made from again: a row of a kind in `INPUTS` says what was done to it, the rows after
it what followed. Prices that no order reacted to are not logged one by one; a `market` row tells where they stood
before the next input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voltrade.account import Account, fee, funding_payment, proportion
from voltrade.model import (
    AccountUpdate,
    AlgoUpdate,
    MarkPrice,
    OrderRequest,
    OrderType,
    OrderUpdate,
    PositionReport,
    Side,
    TimeInForce,
    money,
    money_text,
)
from voltrade.simulated.formatting import plain, price_text, quantity_text, told
from voltrade.simulated.margin import largest_notional, liquidation_price
from voltrade.simulated.market import Market
from voltrade.simulated.orders import AlgoOrder, Order, Phase

Log = Callable[[dict[str, Any]], None]

INPUTS = ("market", "accepted", "trade", "mark", "finish")
"""Kinds of log rows that say what was done to the exchange, and where prices stood."""

EFFECTS = ("start", "order", "algo", "fill", "account", "settings", "margin_call")
"""Kinds of log rows that say what followed. A `refused` row is neither: nothing was done."""

CALLED_AT = 80
"""A margin call goes out when maintenance margin is so many percent of what backs a position.

Binance tells only that the "risk ratio is too high"; one who has had it reports 80% (Binance.Net, issue 1293).
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account begins with, and what trading costs it."""

    wallet: int
    """Money."""
    taker_fee_e8: int
    maker_fee_e8: int
    latency_ms: int
    """From a request to the matching engine."""
    slippage_bps: float
    """What taking costs beyond the price of the trade that gives it."""
    leverage: int = 5
    margin_type: str = "isolated"
    """Of every symbol until changed."""


@dataclass(frozen=True, slots=True)
class PositionRisk:
    """One symbol's position in numbers, as the exchange tells it anywhere. Money, unless said otherwise."""

    symbol: str
    quantity: int
    """Signed lots."""
    entry_price: str
    break_even_price: str
    """Decimal texts, `"0"` when flat."""
    unrealised: int
    leverage: int
    margin_type: str
    mark_price: int
    notional: int
    """Signed value at the mark."""
    isolated_wallet: int
    isolated_margin: int
    """The isolated wallet with the position's profit; 0 for a cross position."""
    initial_margin: int
    """Of position and orders."""
    position_margin: int
    order_margin: int
    maintenance_margin: int
    bid_notional: int
    """Of open buys; reduce-only orders do not count."""
    ask_notional: int
    largest_notional: int
    """That the brackets allow at this leverage."""
    realised: int
    """Profit of all fills before fees, since the beginning."""
    updated: int
    """When it last changed, ms; 0 if it never has."""

    @property
    def report(self) -> PositionReport:
        """What the core is told of it."""
        held = (self.symbol, self.quantity, self.entry_price, self.unrealised)
        return PositionReport(*held, self.leverage, self.margin_type)


_OF_THE_MARKET = (
    *("symbol", "break_even_price", "unrealised", "leverage", "margin_type", "isolated_wallet", "position_margin"),
    *("order_margin", "realised", "updated"),
)
"""Fields of a `PositionRisk` that a `Market` has under the same names."""


@dataclass(frozen=True, slots=True)
class AccountChange:
    """The wallet, or positions, changed (ACCOUNT_UPDATE). Money."""

    time: int
    reason: str
    """ORDER, FUNDING_FEE, DEPOSIT, WITHDRAW, MARGIN_TRANSFER, MARGIN_TYPE_CHANGE or INSURANCE_CLEAR."""
    wallet: int
    cross_wallet: int
    balance_change: int
    """Apart from profit and fees."""
    positions: tuple[PositionRisk, ...] = ()

    def update(self) -> AccountUpdate:
        """What the core is told of it."""
        reports = tuple(risk.report for risk in self.positions)
        symbol = reports[0].symbol if len(reports) == 1 else ""
        return AccountUpdate(self.time, self.reason, self.wallet, self.balance_change, symbol, reports)


@dataclass(frozen=True, slots=True)
class MarginCall:
    """Little is left of the margin of positions: of one that is isolated, or of all cross ones (MARGIN_CALL)."""

    time: int
    cross_wallet: int
    positions: tuple[PositionRisk, ...]


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Leverage of a symbol was changed (ACCOUNT_CONFIG_UPDATE)."""

    time: int
    symbol: str
    leverage: int


UserEvent = OrderUpdate | AlgoUpdate | AccountChange | MarginCall | SettingsChange


@dataclass(frozen=True, slots=True)
class Income:
    """One movement of the wallet (GET income). The wallet is its start plus all of them."""

    time: int
    symbol: str
    kind: str
    """REALIZED_PNL, COMMISSION, FUNDING_FEE, TRANSFER or INSURANCE_CLEAR."""
    amount: int
    trade_id: int = 0


class ClearingHouse:
    """Books of one account in one-way mode.

    Attributes:
        terms: what the account trades on.
        markets: the symbols, by name.
        clock: milliseconds UTC; moved by trades, mark prices and `advance`.
        outbox: what happened since the owner last emptied it, in order.
        income: every movement of the wallet.
        hedge_mode: whether the account was switched by hand to hedge mode, in which every order is refused.
        tape_id: the trade that is being played, which gives the fills; 0 where none is.
        updated: when the account last changed.
    """

    def __init__(self, terms: Terms, clock: int, log: Log | None) -> None:
        self.terms = terms
        self.account = Account(terms.wallet)
        self.clock = clock
        self.markets: dict[str, Market] = {}
        self.outbox: list[UserEvent] = []
        self.income: list[Income] = []
        self.orders: dict[int, Order] = {}
        self.algos: dict[int, AlgoOrder] = {}
        self.order_named: dict[tuple[str, str], Order] = {}
        self.algo_named: dict[str, AlgoOrder] = {}
        self.hedge_mode = False
        self.tape_id = 0
        self.updated = clock
        self._log = log
        self._noted: dict[str, list[Any]] = {}

    def advance(self, time: int) -> None:
        """Set the clock forward; an earlier time changes nothing."""
        self.clock = max(self.clock, time)

    # --- orders -------------------------------------------------------------------------------------------------------

    def open_order(self, market: Market, order: Order) -> None:
        """Let an order begin; without a client id it gets one."""
        if not order.request.client_order_id:
            order.request = replace(order.request, client_order_id=f"auto_{order.id}")
        order.updated = self.clock
        self.orders[order.id] = market.open_orders[order.id] = order
        self.order_named[market.symbol, order.request.client_order_id] = order
        market.reserve_notional(order, order.remaining)
        market.orders_changed()
        self.tell_order(market, order, "NEW")

    def open_algo(self, market: Market, algo: AlgoOrder) -> None:
        """Let a conditional order begin; without a client id it gets one."""
        if not algo.request.client_order_id:
            algo.request = replace(algo.request, client_order_id=f"auto_a{algo.id}")
        algo.updated = self.clock
        self.algos[algo.id] = market.open_algos[algo.id] = algo
        self.algo_named[algo.request.client_order_id] = algo
        self.tell_algo(market, algo)

    def fill(self, market: Market, order: Order, price: int, available: int, *, is_maker: bool) -> int:
        """Fill an order by at most `available` lots at `price` ticks and book it; return the lots."""
        quantity = min(available, order.remaining)
        if order.request.reduce_only:
            quantity = min(quantity, market.held.closable(order.request.side))
        if quantity:
            notional = market.instrument.notional(price * quantity)
            cost = fee(notional, self.terms.maker_fee_e8 if is_maker else self.terms.taker_fee_e8)
            self.book_fill(market, order, price, quantity, cost, is_maker=is_maker)
        return quantity

    def book_fill(
        self,
        market: Market,
        order: Order,
        price: int,
        quantity: int,
        cost: int,
        *,
        is_maker: bool = False,
        execution: str = "TRADE",
    ) -> None:
        """Book a fill of an order, its fee (`cost`), and what it closes of the position."""
        side = order.request.side
        closed, held = min(quantity, market.held.closable(side)), abs(market.held.quantity)
        if closed:
            market.added_margin -= proportion(market.added_margin, closed, held)
        realised = self.account.apply_fill(market.symbol, side, price, quantity, cost)
        market.realised += realised
        market.cost_basis += side * market.instrument.notional(price * quantity) + cost
        if closed == held:  # a new position, or none
            market.cost_basis = market.held.cost + proportion(cost, quantity - closed, quantity)
        market.reserve_notional(order, -quantity)
        order.filled += quantity
        order.filled_notional += price * quantity
        order.updated = self.clock
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
        self._earn(market.symbol, "REALIZED_PNL", realised, fill.trade_id)
        self._earn(market.symbol, "COMMISSION", -cost, fill.trade_id)
        self.outbox.append(fill)
        if self.has_log:
            held_now, wallet = quantity_text(market.instrument, market.held.quantity), money_text(self.account.wallet)
            facts = {"origin": order.origin, "tape_id": self.tape_id, "position": held_now, "wallet": wallet}
            self.note("fill", **_row(market, fill, FILL_ROW), **facts)
        self.tell_account("ORDER", market)
        if order.remaining == 0:
            self._close_books(market, order)
        self._expire_idle_reduce_only(market)

    def _expire_idle_reduce_only(self, market: Market) -> None:
        """Expire reduce-only orders that have nothing left to reduce."""
        for order in list(market.open_orders.values()):
            if order.request.reduce_only and market.held.closable(order.request.side) == 0:
                self.expire(market, order, "4")

    def expire(self, market: Market, order: Order, reason: str) -> None:
        order.expiry_reason = reason
        self.end_order(market, order, "EXPIRED")

    def end_order(self, market: Market, order: Order, status: str) -> None:
        """End an order as CANCELED or EXPIRED."""
        order.status, order.updated = status, self.clock
        self.tell_order(market, order, status)
        self._close_books(market, order)

    def _close_books(self, market: Market, order: Order) -> None:
        order.phase = Phase.ENDED
        del market.open_orders[order.id]
        market.reserve_notional(order, -order.remaining)
        market.orders_changed()
        if order.algo:
            self.end_algo(market, order.algo, "FINISHED")

    def end_algo(self, market: Market, algo: AlgoOrder, status: str) -> None:
        """End the wait of a conditional order, or tell how its child ended."""
        market.open_algos.pop(algo.id, None)
        algo.status, algo.updated = status, self.clock
        self.tell_algo(market, algo)

    def expire_all(self, market: Market, reason: str) -> None:
        """Expire all orders of a symbol, of both kinds."""
        for order in list(market.open_orders.values()):
            self.expire(market, order, reason)
        for algo in list(market.open_algos.values()):
            self.end_algo(market, algo, "EXPIRED")

    # --- margin -------------------------------------------------------------------------------------------------------

    @property
    def cross_wallet(self) -> int:
        """The wallet without what isolated positions have set aside."""
        return self.account.wallet - sum(market.isolated_wallet for market in self.markets.values())

    def cross_markets(self) -> list[Market]:
        """The symbols whose positions share the cross wallet; only those that have one."""
        return [market for market in self.markets.values() if market.held.quantity and not market.is_isolated]

    def free_margin(self) -> int:
        """Return what new orders may use for margin; below 0 where the account is short of margin.

        An isolated position's profit backs nothing else, and its margin has left the cross wallet already.
        """
        free = self.cross_wallet
        for market in self.markets.values():
            if market.is_isolated:
                free -= market.order_margin
            else:
                free += market.unrealised - market.margin_needed()
        return free

    def sharing(self, market: Market) -> list[Market]:
        """The positions that stand and fall with a symbol's: itself where it is isolated, else all cross ones."""
        return [market] if market.is_isolated else self.cross_markets()

    def has_used(self, market: Market, percent: int) -> bool:
        """Whether maintenance margin has reached so many percent of what backs a position; at 100 it is liquidated."""
        if not market.held.quantity:
            return False
        markets = self.sharing(market)
        wallet = market.isolated_wallet if market.is_isolated else self.cross_wallet
        balance = wallet + sum(each.unrealised for each in markets)
        return 100 * sum(each.maintenance for each in markets) >= percent * balance

    def liquidation_price(self, symbol: str) -> str:
        """Return the mark price at which a position is liquidated; `"0"` where there is none."""
        market = self.markets[symbol]
        if not market.held.quantity:
            return "0"
        balance = market.isolated_wallet  # what backs it before its own profit: WB - TMM + UPNL of Binance's formula
        if not market.is_isolated:
            others = [other for other in self.cross_markets() if other is not market]
            balance = self.cross_wallet + sum(other.unrealised - other.maintenance for other in others)
        quantity = market.instrument.quantity(market.held.quantity)
        return plain(liquidation_price(market.rules.brackets, quantity, market.held.cost, balance).normalize())

    def pay_funding(self, market: Market, mark: MarkPrice, rate_e8: int) -> None:
        """Book funding at a rate on the position's value at a mark: longs pay a positive rate to shorts."""
        value = market.instrument.value_at_mark(market.held.quantity, mark.price_e8)
        amount = funding_payment(value, rate_e8)
        if not amount:
            return
        self.account.apply_funding(amount)
        self._earn(market.symbol, "FUNDING_FEE", amount)
        if market.is_isolated:
            market.added_margin += amount
        self.tell_account("FUNDING_FEE", market if market.is_isolated else None, balance_change=amount)

    def transfer(self, amount: int, reason: str, kind: str = "TRANSFER") -> None:
        """Book money that comes to the wallet, or leaves it."""
        self.account.apply_transfer(amount)
        self._earn("", kind, amount)
        self.tell_account(reason, None, balance_change=amount)

    def liquidate(self, markets: list[Market]) -> None:
        """Close positions whose margin is used up, all at once, at their mark price rounded to the tick against us.

        Orders of these symbols expire first. Each position pays the liquidation fee out of what is left of its margin;
        what is lost beyond the margin the insurance fund pays. (Binance closes large positions in steps and lets the
        market fill what it can; here the whole position goes at once.)
        """
        for market in markets:
            self.expire_all(market, "5")
        for market in markets:
            margin = market.isolated_wallet if market.is_isolated else self.cross_wallet
            price = self.closing_price(market)
            notional = market.instrument.notional(price * abs(market.held.quantity))
            profit = market.instrument.notional(price * market.held.quantity) - market.held.cost
            left = margin + profit
            self.force_close(market, "autoclose-", price, min(fee(notional, market.rules.liquidation_fee_e8), left))
            if market.is_isolated and left < 0:
                self.transfer(-left, "INSURANCE_CLEAR", "INSURANCE_CLEAR")
        if self.cross_wallet < 0:
            self.transfer(-self.cross_wallet, "INSURANCE_CLEAR", "INSURANCE_CLEAR")

    def closing_price(self, market: Market) -> int:
        """Return the mark price in ticks, rounded against the holder of the position; at least 1."""
        value_e8 = market.value_price_e8
        return max(1, value_e8 // market.tick_e8 if market.held.quantity > 0 else -(-value_e8 // market.tick_e8))

    def force_close(self, market: Market, prefix: str, price: int, cost: int, quantity: int = 0) -> None:
        """Close a position, or `quantity` lots of it, by an order that is none of the account's own."""
        held = market.held.quantity
        order_id = len(self.orders) + 1
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
        order = Order(request, order_id, self.clock, self.clock, price)
        self.open_order(market, order)
        self.book_fill(market, order, price, request.quantity, max(0, cost), execution="CALCULATED")

    def call_margin(self, market: Market) -> None:
        """Tell once that a position's margin is short, and again only after a mark at which it was not."""
        margin_called, markets = self.has_used(market, CALLED_AT), self.sharing(market)
        if margin_called and not market.margin_called:
            risks = tuple(self.position_risk(each.symbol) for each in markets)
            self.outbox.append(MarginCall(self.clock, self.cross_wallet, risks))
            self.note("margin_call", symbols=[risk.symbol for risk in risks])
        for each in (market, *markets):
            each.margin_called = margin_called

    # --- telling ------------------------------------------------------------------------------------------------------

    def position_risk(self, symbol: str) -> PositionRisk:
        market = self.markets[symbol]
        same: dict[str, Any] = {name: getattr(market, name) for name in _OF_THE_MARKET}
        isolated_wallet = same["isolated_wallet"]
        return PositionRisk(
            **same,
            quantity=market.held.quantity,
            entry_price=market.held.entry_price,
            mark_price=market.value_price_e8,
            notional=market.value,
            isolated_margin=isolated_wallet + same["unrealised"] if isolated_wallet else 0,
            initial_margin=market.margin_needed(),
            maintenance_margin=market.maintenance,
            bid_notional=market.open_notional(Side.BUY),
            ask_notional=market.open_notional(Side.SELL),
            largest_notional=largest_notional(market.rules.brackets, market.leverage),
        )

    def position(self, symbol: str) -> PositionReport:
        """Return what the core is told of a symbol's position."""
        return self.position_risk(symbol).report

    def tell_order(self, market: Market, order: Order, execution: str) -> None:
        update = order.update(execution)
        self.outbox.append(update)
        if self.has_log:
            self.note("order", **_row(market, update, ORDER_ROW), origin=order.origin)

    def tell_algo(self, market: Market, algo: AlgoOrder) -> None:
        market.orders_changed()
        update = algo.update()
        self.outbox.append(update)
        if self.has_log:
            self.note("algo", **_row(market, update, ALGO_ROW))

    def tell_account(self, reason: str, market: Market | None, *, balance_change: int = 0) -> None:
        """Tell of the wallet, and of a symbol's position where one is given."""
        wallet, self.updated = self.account.wallet, self.clock
        if market is not None:
            market.updated = self.clock
        risks = (self.position_risk(market.symbol),) if market is not None else ()
        self.outbox.append(AccountChange(self.clock, reason, wallet, self.cross_wallet, balance_change, risks))
        if self.has_log:
            held = [_row(self.markets[risk.symbol], risk, POSITION_ROW) for risk in risks]
            self.note("account", reason=reason, wallet=money_text(wallet), **(held[0] if held else {}))

    def tell_leverage(self, market: Market) -> None:
        self.outbox.append(SettingsChange(self.clock, market.symbol, market.leverage))
        self.note("settings", symbol=market.symbol, leverage=market.leverage, margin_type=market.margin_type)

    def _earn(self, symbol: str, kind: str, amount: int, trade_id: int = 0) -> None:
        if amount:
            self.income.append(Income(self.clock, symbol, kind, amount, trade_id))

    # --- the log ------------------------------------------------------------------------------------------------------

    @property
    def has_log(self) -> bool:
        return self._log is not None

    def write_to(self, log: Log | None) -> None:
        """Send what is noted from now on to another log."""
        self._log = log

    def note(self, kind: str, **facts: Any) -> None:
        if self._log is not None:
            self._log({"time": self.clock, "kind": kind, **facts})

    def note_input(self, kind: str, **facts: Any) -> None:
        """Note what is done to the exchange, before it is done, and what it stands on."""
        self.note_markets()
        self.note(kind, **facts)

    def note_markets(self) -> None:
        """Note where prices stand that have changed since they were last noted."""
        for market in self.markets.values() if self._log is not None else ():
            stand = _prices_of(market)
            if self._noted.get(market.symbol) != stand:
                self._noted[market.symbol] = stand
                self.note("market", symbol=market.symbol, stand=stand)

    def market_noted(self, market: Market) -> None:
        """Take where prices stand for noted: the input just noted tells it."""
        if self._log is not None:
            self._noted[market.symbol] = _prices_of(market)


def restore_prices(market: Market, stand: Sequence[Any]) -> None:
    """Let the prices of a symbol stand where a `market` row says."""
    trade_id, last, bought, sold, *marked = stand
    market.last_trade_id = trade_id
    market.last_price, market.taker_price[Side.BUY], market.taker_price[Side.SELL] = (
        market.instrument.ticks(price) for price in (last, bought, sold)
    )
    if marked:
        time, price, rate_e8, next_funding_time = marked
        market.mark = MarkPrice(market.symbol, time, money(price), rate_e8, next_funding_time)


def _prices_of(market: Market) -> list[Any]:
    """Where prices stand: last trade, its price, the last price that a taker bought at, and sold at; the mark."""
    prices = (market.last_price, market.taker_price[Side.BUY], market.taker_price[Side.SELL])
    mark = market.mark
    marked = [mark.time, money_text(mark.price_e8), mark.funding_rate_e8, mark.next_funding_time] if mark else []
    return [market.last_trade_id, *(price_text(market.instrument, price) for price in prices), *marked]


_ORDER = "symbol order_id client_order_id side type=order_type status quantity filled price time_in_force reduce_only"
ORDER_ROW = f"{_ORDER} expiry_reason".split()
_ALGO = "symbol algo_id client_order_id side type=order_type status quantity trigger_price working_type reduce_only"
ALGO_ROW = f"{_ALGO} close_position order_id filled reason".split()
_FILL = "symbol trade_id order_id client_order_id side price=last_price quantity=last_quantity"
FILL_ROW = f"{_FILL} fee fee_asset realised maker=is_maker".split()
POSITION_ROW = ["symbol", "position=quantity", "entry_price", "unrealised"]
"""Fields of a fact that its row tells, some under another name."""


def _row(market: Market, fact: Any, names: Sequence[str]) -> dict[str, Any]:
    """Write fields of a fact for people: prices, quantities and money as decimal texts."""
    row = {}
    for name in names:
        key, _, field = name.partition("=")
        row[key] = told(market.instrument, field or key, getattr(fact, field or key))
    return row
