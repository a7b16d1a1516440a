"""A matching engine and account for one symbol, in process, and the player that drives it from a tape of trades.

It knows nothing of sockets: `venue` gives it Binance's wire, the backtest calls it directly, and both see the same
orders, fills and refusals. Requests are answered at once, as Binance answers with newOrderRespType=ACK; everything that
happens afterwards is appended to `outbox` in order, and everything at all goes to the ground-truth `log`.

**The model of execution.** There is no order book, only the tape; what others traded is the liquidity.

- An order placed when the clock stands at t is live from the first trade with time >= t + latency.
- A market order fills from trades on the other side (a BUY from trades whose taker bought), each up to that trade's
  quantity, at that trade's price moved against us by the slippage and rounded away from us to the tick. A fill price
  beyond `marketTakeBound` of the last trade before arrival expires the rest.
- The best offer is taken to be the last price at which a taker bought, the best bid the last at which one sold. A
  limit order that reaches the other side on arrival takes, like a market order, within its limit; the first trade on
  the other side beyond the limit ends that: GTC rests from then on, IOC expires. FOK wants the first trade on the other
  side to give it whole. GTX expires instead of taking. A resting order fills at its limit when a trade goes strictly
  through it.
- A conditional order triggers at the first trade (or mark price) at or beyond its trigger. Its child is a market order
  that fills from that very trade on, whatever its side: a gap fills at the trade's price. Stops go before take-profits.
- Reduce-only orders fill up to the position and expire when there is none on the other side.
- Orders share a trade's quantity in the order of their ids.

Not modelled yet: leverage brackets, liquidation, funding, trailing stops, hedge mode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from voltrade.account import Account, fee
from voltrade.compiled import compiled
from voltrade.config import Config
from voltrade.errors import DataError
from voltrade.model import (
    MONEY,
    NEVER,
    AccountUpdate,
    AlgoUpdate,
    CancelOrder,
    Command,
    Instrument,
    Int64s,
    LookupOrder,
    MarkPrice,
    OrderIntent,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Outcome,
    PositionReport,
    Reply,
    Segment,
    Side,
    Snapshot,
    TimeInForce,
    Trades,
    WorkingType,
    money,
    money_text,
)

UserEvent = OrderUpdate | AlgoUpdate | AccountUpdate
Log = Callable[[dict[str, Any]], None]
T = TypeVar("T")

E8 = 100_000_000
MAX_OPEN_ALGO_ORDERS = 200
MAX_LEVERAGE = 125
FUNDING_INTERVAL_MS = 8 * 3_600_000
MAX_BASIS_E8 = 30_000
"""Largest distance of the simulated mark price from the last trade: 3 bps."""

_CLIENT_ID = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")


class VenueRefusal(Exception):
    """A request that Binance would refuse, with its code and text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


# --- the symbols shipped ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SymbolRules:
    """What the matching engine checks beyond `Instrument`. Prices in ticks."""

    min_price: int = 1
    max_open_orders: int = 200
    price_precision: int = 8
    quantity_precision: int = 8
    maintenance_margin_e8: int = 2_500_000


@cache
def shipped_exchange_info() -> dict[str, Any]:
    """Return the shipped part of exchangeInfo, as on the wire: `source`, `rateLimits`, `assets` and `symbols`."""
    text = resources.files("voltrade.exchange").joinpath("filters.json").read_text("utf-8")
    info: dict[str, Any] = json.loads(text)
    return info


def shipped_symbols() -> list[str]:
    """Return the names of the symbols that `shipped_instrument` knows."""
    return [entry["symbol"] for entry in shipped_exchange_info()["symbols"]]


def shipped_instrument(symbol: str) -> Instrument:
    """Return a symbol's filters from the shipped table.

    Raises:
        DataError: the table has no such symbol.
    """
    entry, filters = _shipped_entry(symbol)
    lots, market, price = filters["LOT_SIZE"], filters["MARKET_LOT_SIZE"], filters["PRICE_FILTER"]
    tick, step = Decimal(price["tickSize"]), Decimal(lots["stepSize"])
    return Instrument(
        symbol=symbol,
        base_asset=entry["baseAsset"],
        quote_asset=entry["quoteAsset"],
        tick_size=tick.normalize(),
        step_size=step.normalize(),
        min_quantity=int(Decimal(lots["minQty"]) / step),
        max_quantity=int(Decimal(lots["maxQty"]) / step),
        market_max_quantity=int(Decimal(market["maxQty"]) / step),
        min_notional=money(filters["MIN_NOTIONAL"]["notional"]),
        multiplier_up=Decimal(filters["PERCENT_PRICE"]["multiplierUp"]),
        multiplier_down=Decimal(filters["PERCENT_PRICE"]["multiplierDown"]),
        market_take_bound=Decimal(entry["marketTakeBound"]),
        max_price=int(Decimal(price["maxPrice"]) / tick),
        source=shipped_exchange_info()["source"],
    )


def shipped_rules(symbol: str) -> SymbolRules:
    """Return a symbol's further rules from the shipped table.

    Raises:
        DataError: the table has no such symbol.
    """
    entry, filters = _shipped_entry(symbol)
    price = filters["PRICE_FILTER"]
    return SymbolRules(
        min_price=int(Decimal(price["minPrice"]) / Decimal(price["tickSize"])),
        max_open_orders=filters["MAX_NUM_ORDERS"]["limit"],
        price_precision=entry["pricePrecision"],
        quantity_precision=entry["quantityPrecision"],
        maintenance_margin_e8=int(Decimal(entry["maintMarginPercent"]) * E8 / 100),
    )


def _shipped_entry(symbol: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    for entry in shipped_exchange_info()["symbols"]:
        if entry["symbol"] == symbol:
            return entry, {rule["filterType"]: rule for rule in entry["filters"]}
    raise DataError(f"symbol: must be one of the shipped {', '.join(shipped_symbols())}, was {symbol}")


# --- the rules of execution, compiled ---------------------------------------------------------------------------------


@compiled
def slipped_price(price: int, side: int, slippage_e8: int) -> int:
    """Move a traded price against an order of `side` (1 BUY, -1 SELL), rounded away from us to the tick."""
    slip = -(-price * slippage_e8 // 100_000_000)
    return max(1, price + side * slip)


@compiled
def is_triggered(price: int, trigger_price: int, rising: bool) -> bool:
    """Whether a price (in the unit of the trigger) is at or beyond a trigger that waits for a rise, or for a fall."""
    return price >= trigger_price if rising else price <= trigger_price


@compiled
def is_beyond_take_bound(price: int, reference: int, side: int, bound_e8: int) -> bool:
    """Whether a fill price is further against the order than `bound_e8` of the reference price."""
    return side * (price - reference) * 100_000_000 > reference * bound_e8


@compiled
def is_within_limit(price: int, limit: int, side: int) -> bool:
    """Whether a price is at or better than an order's limit."""
    return side * (limit - price) >= 0


@compiled
def is_through_limit(price: int, limit: int, side: int) -> bool:
    """Whether a trade went strictly through a resting order, so that it must have been filled."""
    return side * (limit - price) > 0


@compiled
def first_acting_trade(
    price: Int64s,
    time: Int64s,
    buyer_is_maker: npt.NDArray[np.bool_],
    start: int,
    stop: int,
    arrival: int,
    rises_to: int,
    falls_to: int,
    taking_buys: bool,
    taking_sells: bool,
) -> int:
    """Find the first trade in [start, stop) that some order reacts to, given what all orders wait for; else `stop`."""
    for row in range(start, stop):
        if time[row] >= arrival or price[row] >= rises_to or price[row] <= falls_to:
            return row
        if buyer_is_maker[row]:
            if taking_sells:
                return row
        elif taking_buys:
            return row
    return stop


@compiled
def last_row_of_taker(buyer_is_maker: npt.NDArray[np.bool_], start: int, stop: int, taker_sold: bool) -> int:
    """Find the last trade in [start, stop) whose taker sold, or bought; -1 where there is none."""
    for row in range(stop - 1, start - 1, -1):
        if buyer_is_maker[row] == taker_sold:
            return row
    return -1


class Watch(NamedTuple):
    """What the open orders wait for, all together: the arguments of `first_acting_trade`."""

    arrival: int = NEVER
    rises_to: int = NEVER
    falls_to: int = 0
    taking_buys: bool = False
    taking_sells: bool = False


# --- orders -----------------------------------------------------------------------------------------------------------


class _Phase(Enum):
    TRAVELLING = "on its way to the matching engine"
    TAKING = "fills from trades on the other side"
    RESTING = "fills when a trade goes through its limit"
    ENDED = "filled, cancelled or expired"


@dataclass(slots=True, eq=False)
class _Order:
    """An ordinary order. `algo` is the conditional order it came from, if any."""

    request: OrderRequest
    id: int
    created: int
    live_from: int
    assumed_price: int
    """Ticks; what its margin is reckoned with."""
    algo: _AlgoOrder | None = None
    phase: _Phase = _Phase.TRAVELLING
    reference: int = 0
    """Last trade price at arrival, ticks."""
    status: str = "NEW"
    updated: int = 0
    filled: int = 0
    filled_notional: int = 0
    expiry_reason: str = "0"

    @property
    def remaining(self) -> int:
        return self.request.quantity - self.filled

    def update(self, execution: str = "") -> OrderUpdate:
        """Its state as the exchange tells it; without an execution, as REST answers."""
        request = self.request
        return OrderUpdate(
            time=self.updated,
            symbol=request.symbol,
            client_order_id=request.client_order_id,
            order_id=self.id,
            side=request.side,
            order_type=request.order_type,
            status=self.status,
            execution=execution,
            quantity=request.quantity,
            filled=self.filled,
            filled_notional=self.filled_notional,
            price=request.price,
            time_in_force=request.time_in_force,
            reduce_only=request.reduce_only,
            close_position=request.close_position,
            expiry_reason=self.expiry_reason,
        )


@dataclass(slots=True, eq=False)
class _AlgoOrder:
    """A conditional order. `child` is the ordinary order that it became."""

    request: OrderRequest
    id: int
    created: int
    live_from: int
    arrived: bool = False
    status: str = "NEW"
    updated: int = 0
    triggered: int = 0
    child: _Order | None = None
    reason: str = ""

    @property
    def rising(self) -> bool:
        """Whether it waits for the price to rise: stops of buys and take-profits of sells do."""
        return (self.request.order_type is OrderType.STOP_MARKET) == (self.request.side is Side.BUY)

    @property
    def is_stop(self) -> bool:
        return self.request.order_type is OrderType.STOP_MARKET

    def update(self) -> AlgoUpdate:
        request = self.request
        return AlgoUpdate(
            time=self.updated,
            symbol=request.symbol,
            client_order_id=request.client_order_id,
            algo_id=self.id,
            side=request.side,
            order_type=request.order_type,
            status=self.status,
            quantity=request.quantity,
            trigger_price=request.trigger_price,
            order_id=self.child.id if self.child else 0,
            filled=self.child.filled if self.child else 0,
            reduce_only=request.reduce_only,
            close_position=request.close_position,
            working_type=request.working_type,
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True)
class Balances:
    """The account in numbers, all money."""

    wallet: int
    unrealised: int
    position_margin: int
    order_margin: int
    maintenance_margin: int
    available: int
    """What new orders may use for margin, never below 0."""

    @property
    def equity(self) -> int:
        return self.wallet + self.unrealised

    @property
    def initial_margin(self) -> int:
        return self.position_margin + self.order_margin


class SimulatedExchange:
    """One symbol's matching engine and one account in one-way mode.

    Attributes:
        outbox: what happened since the owner last emptied it, in order.
        clock: milliseconds UTC; moved by trades, mark prices and `advance`.
        mark: the last mark price, or None.
        last_price: ticks of the last trade, 0 before the first.
    """

    def __init__(
        self,
        instrument: Instrument,
        *,
        wallet: int,
        taker_fee_e8: int,
        maker_fee_e8: int,
        latency_ms: int,
        slippage_bps: float,
        leverage: int = 5,
        margin_type: str = "isolated",
        clock: int = 0,
        log: Log | None = None,
        rules: SymbolRules | None = None,
    ) -> None:
        known = instrument.symbol in shipped_symbols()
        self.instrument = instrument
        self.rules = rules or (shipped_rules(instrument.symbol) if known else SymbolRules())
        self.taker_fee_e8 = taker_fee_e8
        self.maker_fee_e8 = maker_fee_e8
        self.latency_ms = latency_ms
        self.slippage_e8 = round(slippage_bps * 10_000)
        self.take_bound_e8 = int(instrument.market_take_bound * E8)
        self.leverage = leverage
        self.margin_type = margin_type
        self.clock = clock
        self.outbox: list[UserEvent] = []
        self.mark: MarkPrice | None = None
        self.last_price = 0
        self.account = Account(wallet)
        self.held = self.account.open_symbol(instrument)
        self._last_taker_price = {Side.BUY: 0, Side.SELL: 0}
        self._orders: dict[int, _Order] = {}
        self._open: dict[int, _Order] = {}
        self._algos: dict[int, _AlgoOrder] = {}
        self._open_algos: dict[int, _AlgoOrder] = {}
        self._order_named: dict[str, _Order] = {}
        self._algo_named: dict[str, _AlgoOrder] = {}
        self._fills: list[OrderUpdate] = []
        self._watch: Watch | None = None
        self._tape_id = 0
        self._log = log
        self._note(
            "start",
            symbol=instrument.symbol,
            wallet=money_text(wallet),
            tick_size=format(instrument.tick_size, "f"),
            step_size=format(instrument.step_size, "f"),
            taker_fee_e8=taker_fee_e8,
            maker_fee_e8=maker_fee_e8,
            latency_ms=latency_ms,
            slippage_e8=self.slippage_e8,
            leverage=leverage,
            margin_type=margin_type,
            filters=instrument.source,
        )

    # --- requests -----------------------------------------------------------------------------------------------------

    def place_order(self, request: OrderRequest) -> OrderUpdate:
        """Accept a market or limit order: it is NEW, and live once the latency has passed.

        Raises:
            VenueRefusal: with the code of the first rule it breaks.
        """
        return self._answer("place_order", self._request_facts(request), lambda: self._place_order(request))

    def place_algo(self, request: OrderRequest) -> AlgoUpdate:
        """Accept a conditional order.

        Raises:
            VenueRefusal: with the code of the first rule it breaks.
        """
        return self._answer("place_algo", self._request_facts(request), lambda: self._place_algo(request))

    def cancel_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Cancel an open order by either id.

        Raises:
            VenueRefusal: -2011 where no such order is open.
        """
        facts = {"symbol": symbol, "client_order_id": client_order_id, "order_id": order_id}
        return self._answer("cancel_order", facts, lambda: self._cancel_order(symbol, client_order_id, order_id))

    def cancel_algo(self, symbol: str = "", *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Cancel a conditional order that has not triggered, by either id; the wire sends no symbol.

        Raises:
            VenueRefusal: -2011 where no such order is open.
        """
        facts = {"client_order_id": client_order_id, "algo_id": algo_id}
        return self._answer("cancel_algo", facts, lambda: self._cancel_algo(symbol, client_order_id, algo_id))

    def cancel_all(self, symbol: str) -> list[OrderUpdate]:
        """Cancel all open ordinary orders; conditional orders stay."""
        return self._answer("cancel_all", {"symbol": symbol}, lambda: self._cancel_all(symbol))

    def cancel_all_algo(self, symbol: str) -> list[AlgoUpdate]:
        """Cancel all conditional orders that have not triggered."""
        return self._answer("cancel_all_algo", {"symbol": symbol}, lambda: self._cancel_all_algo(symbol))

    def set_leverage(self, symbol: str, leverage: int) -> int:
        """Set the leverage and return it.

        Raises:
            VenueRefusal: -4028 out of 1 to 125, -4161 lowered under an isolated position, -2028 too little margin.
        """
        facts = {"symbol": symbol, "leverage": leverage}
        return self._answer("set_leverage", facts, lambda: self._set_leverage(symbol, leverage))

    def set_margin_type(self, symbol: str, margin_type: str) -> None:
        """Set `isolated` or `cross`.

        Raises:
            VenueRefusal: -4046 already so, -4047 with open orders, -4048 with a position.
        """
        facts = {"symbol": symbol, "margin_type": margin_type}
        self._answer("set_margin_type", facts, lambda: self._set_margin_type(symbol, margin_type))

    def set_position_mode(self, hedge: bool) -> None:
        """Refuse every change of the position mode: it is one-way (-4059), and hedge mode is not offered.

        Raises:
            VenueRefusal: always.
        """
        self._answer("set_position_mode", {"hedge": hedge}, lambda: self._set_position_mode(hedge))

    def execute(self, command: Command) -> Reply | Snapshot:
        """Carry out a command of the core, in process, and put the answer into values."""
        if isinstance(command, OrderIntent):
            request = command.order
            return self._reply(
                "submit", request.symbol, request.client_order_id, request.order_type.is_conditional, request
            )
        if isinstance(command, CancelOrder):
            return self._reply("cancel", command.symbol, command.client_order_id, command.algo)
        if isinstance(command, LookupOrder):
            return self._reply("lookup", command.symbol, command.client_order_id, command.algo)
        return self.snapshot(command.symbol)

    def _reply(
        self, action: Any, symbol: str, client_order_id: str, algo: bool, request: OrderRequest | None = None
    ) -> Reply:
        order: OrderUpdate | None = None
        algo_order: AlgoUpdate | None = None
        outcome, code, text = Outcome.ACCEPTED, 0, ""
        try:
            if request is not None and algo:
                algo_order = self.place_algo(request)
            elif request is not None:
                order = self.place_order(request)
            elif action == "cancel" and algo:
                algo_order = self.cancel_algo(symbol, client_order_id=client_order_id)
            elif action == "cancel":
                order = self.cancel_order(symbol, client_order_id=client_order_id)
            elif algo:
                algo_order = self.query_algo(symbol, client_order_id=client_order_id)
            else:
                order = self.query_order(symbol, client_order_id=client_order_id)
        except VenueRefusal as refusal:
            outcome, code, text = Outcome.REFUSED, refusal.code, refusal.message
        return Reply(self.clock, action, symbol, client_order_id, algo, outcome, code, text, order, algo_order)

    # --- questions ----------------------------------------------------------------------------------------------------

    def query_order(self, symbol: str, *, client_order_id: str = "", order_id: int = 0) -> OrderUpdate:
        """Return an order, open or ended; of several with one client id the latest.

        Raises:
            VenueRefusal: -2013 where there is none.
        """
        return self._find_order(symbol, client_order_id, order_id).update()

    def query_algo(self, symbol: str = "", *, client_order_id: str = "", algo_id: int = 0) -> AlgoUpdate:
        """Return a conditional order, open or ended; of several with one client id the latest.

        Raises:
            VenueRefusal: -2013 where there is none.
        """
        return self._find_algo(client_order_id, algo_id).update()

    def order_created(self, order_id: int) -> int:
        """Return when an order was placed, ms UTC."""
        return self._orders[order_id].created

    def algo_times(self, algo_id: int) -> tuple[int, int]:
        """Return when a conditional order was placed and when it triggered (0: not yet), ms UTC."""
        algo = self._algos[algo_id]
        return algo.created, algo.triggered

    def origin(self, order_id: int) -> AlgoUpdate | None:
        """Return the conditional order that an ordinary order came from, if any."""
        algo = self._orders[order_id].algo
        return algo.update() if algo else None

    def open_orders(self, symbol: str = "") -> list[OrderUpdate]:
        return [order.update() for order in self._open.values()] if self._is_ours(symbol) else []

    def open_algo_orders(self, symbol: str = "") -> list[AlgoUpdate]:
        return [algo.update() for algo in self._open_algos.values()] if self._is_ours(symbol) else []

    def user_trades(self, symbol: str = "", after_id: int = 0) -> list[OrderUpdate]:
        """Return our fills with trade id above `after_id`, each as the order update that told of it."""
        return self._fills[after_id:] if self._is_ours(symbol) else []

    def position(self) -> PositionReport:
        return PositionReport(
            self.instrument.symbol,
            self.held.quantity,
            self.held.entry_price,
            self._unrealised(),
            self.leverage,
            self.margin_type,
        )

    def balances(self) -> Balances:
        """Return wallet, margins and what is available, valued at mark, or at the last trade before the first mark."""
        total = self._initial_margin(0, 0)
        position_margin = self._divided_up(abs(self._position_notional()), self.leverage)
        maintenance = self._divided_up(abs(self._position_value()) * self.rules.maintenance_margin_e8, E8)
        return Balances(
            wallet=self.account.wallet,
            unrealised=self._unrealised(),
            position_margin=position_margin,
            order_margin=total - position_margin,
            maintenance_margin=maintenance,
            available=max(0, self._margin_balance() - total),
        )

    def snapshot(self, symbol: str, since_trade_id: int = 0) -> Snapshot:
        """Return the whole account as the core asks for it at start and after a lost user stream."""
        balances = self.balances()
        return Snapshot(
            time=self.clock,
            symbol=symbol,
            wallet=balances.wallet,
            available=balances.available,
            taker_fee_e8=self.taker_fee_e8,
            maker_fee_e8=self.maker_fee_e8,
            leverage=self.leverage,
            margin_type=self.margin_type,
            hedge_mode=False,
            position=self.position(),
            orders=tuple(self.open_orders(symbol)),
            algo_orders=tuple(self.open_algo_orders(symbol)),
            fills=tuple(self.user_trades(symbol, since_trade_id)),
        )

    def ticks(self, text: str | Decimal) -> int:
        """Read a price of the wire.

        Raises:
            VenueRefusal: -1111 too many decimals, -4014 no multiple of the tick.
        """
        _check_decimals(Decimal(text), self.rules.price_precision)
        try:
            return self.instrument.ticks(text)
        except DataError:
            raise VenueRefusal(-4014, "Price not increased by tick size.") from None

    def lots(self, text: str | Decimal) -> int:
        """Read a quantity of the wire.

        Raises:
            VenueRefusal: -1111 too many decimals, -4023 no multiple of the step.
        """
        _check_decimals(Decimal(text), self.rules.quantity_precision)
        try:
            return self.instrument.lots(text)
        except DataError:
            raise VenueRefusal(-4023, "Qty not increased by step size.") from None

    # --- what moves it ------------------------------------------------------------------------------------------------

    def advance(self, time: int) -> None:
        """Set the clock forward; an earlier time changes nothing."""
        self.clock = max(self.clock, time)

    def first_acting(self, trades: Trades, start: int, stop: int) -> int:
        """Find the first trade in [start, stop) that any order reacts to, given the orders as they are; else `stop`."""
        watch = self._watched()
        if watch == Watch():
            return stop
        return first_acting_trade(trades.price, trades.time, trades.buyer_is_maker, start, stop, *watch)

    def on_trades(self, trades: Trades) -> None:
        """Play trades of the tape, in order. However they are cut into blocks, the same happens."""
        start, stop = 0, len(trades)
        while start < stop:
            acting = self.first_acting(trades, start, stop)
            self._pass_by(trades, start, acting)
            if acting < stop:
                self._tape_id = int(trades.id[acting])
                self._on_trade(
                    int(trades.price[acting]),
                    int(trades.quantity[acting]),
                    int(trades.time[acting]),
                    Side.SELL if trades.buyer_is_maker[acting] else Side.BUY,
                )
            start = acting + 1

    def on_mark(self, mark: MarkPrice) -> None:
        """Take a mark price: it values the position and triggers orders that wait for it."""
        self.advance(mark.time)
        self.mark = mark
        self._note("mark", price=money_text(mark.price_e8))
        price_of_tick = int(self.instrument.tick_size * E8)
        self._trigger_all(
            [
                algo
                for algo in self._open_algos.values()
                if algo.request.working_type is WorkingType.MARK_PRICE
                and mark.time >= algo.live_from
                and is_triggered(mark.price_e8, algo.request.trigger_price * price_of_tick, algo.rising)
            ]
        )

    def finish(self) -> None:
        """End the tape: open market orders fill at the last price of the other side with slippage, IOC and FOK expire.

        Resting and conditional orders stay as they are.
        """
        self._tape_id = 0
        for order in list(self._open.values()):
            if order.phase is _Phase.ENDED:
                continue
            request = order.request
            price = self._best_price(request.side)
            if request.order_type is OrderType.MARKET and price:
                self._fill(
                    order, slipped_price(price, request.side.value, self.slippage_e8), order.remaining, is_maker=False
                )
            elif request.order_type is OrderType.MARKET or request.time_in_force in (TimeInForce.IOC, TimeInForce.FOK):
                self._expire(order, "2")

    # --- accepting and refusing ---------------------------------------------------------------------------------------

    def _place_order(self, request: OrderRequest) -> OrderUpdate:
        self.check_order(request)
        order = self._new_order(request, live_from=self.clock + self.latency_ms)
        return order.update()

    def check_order(self, request: OrderRequest) -> None:
        """Refuse an order as `place_order` would, and place nothing.

        Raises:
            VenueRefusal: with the code of the first rule it breaks.
        """
        self._check_symbol(request.symbol)
        if request.order_type.is_conditional:
            raise VenueRefusal(
                -4120, "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead."
            )
        self._check_client_id(request.client_order_id, self._open.values())
        self._check_quantity(request)
        if request.order_type is OrderType.LIMIT:
            self._check_limit_price(request)
        elif request.price:
            raise VenueRefusal(-1106, "Parameter 'price' sent when not required.")
        if len(self._open) >= self.rules.max_open_orders:
            raise VenueRefusal(-2025, "Reach max open order limit.")
        self._check_counterparty(request)
        if request.reduce_only:
            self._check_reduces(request.side)
        else:
            self._check_notional(request)
            self._check_margin(request)

    def _place_algo(self, request: OrderRequest) -> AlgoUpdate:
        self._check_symbol(request.symbol)
        if not request.order_type.is_conditional:
            raise VenueRefusal(-1116, "Invalid orderType.")
        self._check_client_id(request.client_order_id, self._open_algos.values())
        self._check_close_position(request)
        if not request.close_position:
            self._check_quantity(request)
        self._check_price(request.trigger_price, "triggerprice")
        if len(self._open_algos) >= MAX_OPEN_ALGO_ORDERS:
            raise VenueRefusal(-4045, "Reach max stop order limit.")
        if request.reduce_only:
            self._check_reduces(request.side)
        elif not request.close_position:
            self._check_notional(request)
        algo = _AlgoOrder(request, len(self._algos) + 1, self.clock, self.clock + self.latency_ms, updated=self.clock)
        if self._would_trigger_now(algo):
            raise VenueRefusal(-2021, "Order would immediately trigger.")
        if not request.client_order_id:
            algo.request = replace(request, client_order_id=f"auto_a{algo.id}")
        self._algos[algo.id] = self._open_algos[algo.id] = self._algo_named[algo.request.client_order_id] = algo
        self._tell_algo(algo)
        return algo.update()

    def _check_symbol(self, symbol: str) -> None:
        if symbol != self.instrument.symbol:
            raise VenueRefusal(-1121, "Invalid symbol.")

    def _is_ours(self, symbol: str) -> bool:
        return symbol in ("", self.instrument.symbol)

    def _check_client_id(self, client_order_id: str, open_orders: Any) -> None:
        if not client_order_id:
            return
        if not _CLIENT_ID.fullmatch(client_order_id):
            raise VenueRefusal(-4015, "Client order id is not valid.")
        if any(order.request.client_order_id == client_order_id for order in open_orders):
            raise VenueRefusal(-4116, "ClientOrderId is duplicated.")

    def _check_quantity(self, request: OrderRequest) -> None:
        limit = request.order_type is OrderType.LIMIT
        largest = self.instrument.max_quantity if limit else self.instrument.market_max_quantity
        if request.quantity <= 0:
            raise VenueRefusal(-4003, "Quantity less than or equal to zero.")
        if request.quantity < self.instrument.min_quantity:
            raise VenueRefusal(-4004, "Quantity less than min quantity.")
        if request.quantity > largest:
            raise VenueRefusal(-4005, "Quantity greater than max quantity.")

    def _check_price(self, price: int, name: str) -> None:
        if price == 0:
            raise VenueRefusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        if price < 0:
            raise VenueRefusal(-4001, "Price less than 0.")
        if price < self.rules.min_price:
            raise VenueRefusal(-4013, "Price less than min price.")
        if price > self.instrument.max_price:
            raise VenueRefusal(-4002, "Price greater than max price.")

    def _check_limit_price(self, request: OrderRequest) -> None:
        """PRICE_FILTER, then PERCENT_PRICE around the mark, then what GTX and FOK forbid."""
        self._check_price(request.price, "price")
        highest, lowest = self._price_band()
        price = self.instrument.price(request.price)
        if request.side is Side.BUY and highest is not None and price > highest:
            raise VenueRefusal(-4016, f"Limit price can't be higher than {highest}.")
        if request.side is Side.SELL and lowest is not None and price < lowest:
            raise VenueRefusal(-4024, f"Limit price can't be lower than {lowest}.")
        takes = self._would_take(request)
        if request.time_in_force is TimeInForce.GTX and takes:
            raise VenueRefusal(
                -5022, "Due to the order could not be executed as maker, the Post Only order will be rejected."
            )
        if request.time_in_force is TimeInForce.FOK and not takes:
            raise VenueRefusal(
                -5021, "Due to the order could not be filled immediately, the FOK order has been rejected."
            )

    def _price_band(self) -> tuple[Decimal | None, Decimal | None]:
        """Highest buy and lowest sell price by PERCENT_PRICE; None before the first price."""
        mark_e8 = self._value_price_e8()
        if not mark_e8:
            return None, None
        mark = Decimal(mark_e8).scaleb(-8)
        return mark * self.instrument.multiplier_up, mark * self.instrument.multiplier_down

    def _check_counterparty(self, request: OrderRequest) -> None:
        """A market order needs a price on the other side, within the PERCENT_PRICE band."""
        if request.order_type is not OrderType.MARKET:
            return
        best = self.instrument.price(self._best_price(request.side))
        highest, lowest = self._price_band()
        outside = highest is None or lowest is None or (best > highest if request.side is Side.BUY else best < lowest)
        if outside:
            raise VenueRefusal(-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit.")

    def _check_notional(self, request: OrderRequest) -> None:
        """MIN_NOTIONAL: by the limit price, else by the trigger, else by the mark."""
        price = request.price or request.trigger_price
        if price:
            notional = self.instrument.notional(price * request.quantity)
        else:
            notional = self.instrument.value_at_mark(request.quantity, self._value_price_e8())
        if notional < self.instrument.min_notional:
            least = Decimal(self.instrument.min_notional).scaleb(-8).normalize()
            raise VenueRefusal(
                -4164, f"Order's notional must be no smaller than {least:f} (unless you choose reduce only)."
            )

    def _check_reduces(self, side: Side) -> None:
        if self.held.closable(side) == 0:
            raise VenueRefusal(-2022, "ReduceOnly Order is rejected.")

    def _check_close_position(self, request: OrderRequest) -> None:
        if not request.close_position:
            return
        if request.reduce_only:
            raise VenueRefusal(-1106, "Parameter 'reduceonly' sent when not required.")
        if request.quantity:
            raise VenueRefusal(-4137, "Quantity must be zero with closePosition equals true")
        twins = (other.request for other in self._open_algos.values())
        if any(t.close_position and t.side is request.side and t.order_type is request.order_type for t in twins):
            raise VenueRefusal(
                -4130, "An open stop or take profit order with GTE and closePosition in the direction is existing."
            )

    def _would_trigger_now(self, algo: _AlgoOrder) -> bool:
        trigger = algo.request.trigger_price
        if algo.request.working_type is WorkingType.MARK_PRICE and self.mark:
            return is_triggered(self.mark.price_e8, trigger * int(self.instrument.tick_size * E8), algo.rising)
        return self.last_price > 0 and is_triggered(self.last_price, trigger, algo.rising)

    def _cancel_order(self, symbol: str, client_order_id: str, order_id: int) -> OrderUpdate:
        self._check_symbol(symbol)
        try:
            order = self._find_order(symbol, client_order_id, order_id)
        except VenueRefusal:
            raise VenueRefusal(-2011, "Unknown order sent.") from None
        if order.phase is _Phase.ENDED:
            raise VenueRefusal(-2011, "Unknown order sent.")
        self._end(order, "CANCELED", "CANCELED")
        return order.update()

    def _cancel_algo(self, symbol: str, client_order_id: str, algo_id: int) -> AlgoUpdate:
        if not self._is_ours(symbol):
            raise VenueRefusal(-1121, "Invalid symbol.")
        try:
            algo = self._find_algo(client_order_id, algo_id)
        except VenueRefusal:
            raise VenueRefusal(-2011, "Unknown order sent.") from None
        if algo.id not in self._open_algos:
            raise VenueRefusal(-2011, "Unknown order sent.")
        self._end_algo(algo, "CANCELED")
        return algo.update()

    def _cancel_all(self, symbol: str) -> list[OrderUpdate]:
        self._check_symbol(symbol)
        orders = list(self._open.values())
        for order in orders:
            self._end(order, "CANCELED", "CANCELED")
        return [order.update() for order in orders]

    def _cancel_all_algo(self, symbol: str) -> list[AlgoUpdate]:
        self._check_symbol(symbol)
        algos = list(self._open_algos.values())
        for algo in algos:
            self._end_algo(algo, "CANCELED")
        return [algo.update() for algo in algos]

    def _find_order(self, symbol: str, client_order_id: str, order_id: int) -> _Order:
        self._check_symbol(symbol)
        found = self._orders.get(order_id) if order_id else self._order_named.get(client_order_id)
        if found is None:
            raise VenueRefusal(-2013, "Order does not exist.")
        return found

    def _find_algo(self, client_order_id: str, algo_id: int) -> _AlgoOrder:
        found = self._algos.get(algo_id) if algo_id else self._algo_named.get(client_order_id)
        if found is None:
            raise VenueRefusal(-2013, "Order does not exist.")
        return found

    def _set_leverage(self, symbol: str, leverage: int) -> int:
        self._check_symbol(symbol)
        if not 1 <= leverage <= MAX_LEVERAGE:
            raise VenueRefusal(-4028, f"Leverage {leverage} is not valid")
        if leverage < self.leverage and self.held.quantity and self.margin_type == "isolated":
            raise VenueRefusal(
                -4161, "Leverage reduction is not supported in Isolated Margin Mode with open positions."
            )
        before, self.leverage = self.leverage, leverage
        if leverage < before and self._initial_margin(0, 0) > self._margin_balance():
            self.leverage = before
            raise VenueRefusal(-2028, "Leverage is smaller than permitted: insufficient margin balance.")
        return leverage

    def _set_margin_type(self, symbol: str, margin_type: str) -> None:
        self._check_symbol(symbol)
        if margin_type not in ("isolated", "cross"):
            raise VenueRefusal(-4055, "Invalid margin type.")
        if margin_type == self.margin_type:
            raise VenueRefusal(-4046, "No need to change margin type.")
        if self._open or self._open_algos:
            raise VenueRefusal(-4047, "Margin type cannot be changed if there exists open orders.")
        if self.held.quantity:
            raise VenueRefusal(-4048, "Margin type cannot be changed if there exists position.")
        self.margin_type = margin_type

    def _set_position_mode(self, hedge: bool) -> None:
        if not hedge:
            raise VenueRefusal(-4059, "No need to change position side.")
        if self._open or self._open_algos:
            raise VenueRefusal(-4067, "Position side cannot be changed if there exists open orders.")
        if self.held.quantity:
            raise VenueRefusal(-4068, "Position side cannot be changed if there exists position.")
        raise VenueRefusal(-4084, "Method is not allowed currently. Coming soon.")

    # --- margin -------------------------------------------------------------------------------------------------------

    def _value_price_e8(self) -> int:
        """Mark price, or the last trade's before there is a mark; 0 before both."""
        return self.mark.price_e8 if self.mark else int(self.instrument.price(self.last_price) * E8)

    def _position_value(self) -> int:
        return self.instrument.value_at_mark(self.held.quantity, self._value_price_e8())

    def _position_notional(self) -> int:
        """Signed notional that margin is reckoned on: entry cost where isolated, value at mark where cross."""
        return self.held.cost if self.margin_type == "isolated" else self._position_value()

    def _unrealised(self) -> int:
        return self._position_value() - self.held.cost

    def _margin_balance(self) -> int:
        """What margins are taken from: an isolated position's profit does not back other orders."""
        return self.account.wallet + (self._unrealised() if self.margin_type == "cross" else 0)

    def _initial_margin(self, more_buys: int, more_sells: int) -> int:
        """Margin of the worse of all buys filling and all sells filling, with further notional (money) of each."""
        position = self._position_notional()
        buys = more_buys + self._open_notional(Side.BUY)
        sells = more_sells + self._open_notional(Side.SELL)
        return self._divided_up(max(abs(position + buys), abs(position - sells)), self.leverage)

    def _open_notional(self, side: Side) -> int:
        return sum(
            self.instrument.notional(order.remaining * order.assumed_price)
            for order in self._open.values()
            if order.request.side is side and not order.request.reduce_only
        )

    def _check_margin(self, request: OrderRequest) -> None:
        """Refuse an order that would need more margin than there is; what needs no further margin always passes."""
        notional = self.instrument.notional(request.quantity * self._assumed_price(request))
        buys, sells = (notional, 0) if request.side is Side.BUY else (0, notional)
        needed = self._initial_margin(buys, sells)
        if needed > self._initial_margin(0, 0) and needed > self._margin_balance():
            raise VenueRefusal(-2019, "Margin is insufficient.")

    def _assumed_price(self, request: OrderRequest) -> int:
        return request.price or self.last_price

    @staticmethod
    def _divided_up(amount: int, by: int) -> int:
        return -(-amount // by)

    # --- matching -----------------------------------------------------------------------------------------------------

    def _watched(self) -> Watch:
        """Gather what the open orders wait for; kept until an order changes."""
        if self._watch is None:
            arrivals, rises, falls, taking = [NEVER], [NEVER], [0], set()
            for order in self._open.values():
                side = order.request.side
                if order.phase is _Phase.TRAVELLING:
                    arrivals.append(order.live_from)
                elif order.phase is _Phase.TAKING:
                    taking.add(side)
                elif side is Side.SELL:
                    rises.append(order.request.price + 1)
                else:
                    falls.append(order.request.price - 1)
            for algo in self._open_algos.values():
                if algo.request.working_type is WorkingType.MARK_PRICE:
                    continue
                if not algo.arrived:
                    arrivals.append(algo.live_from)
                else:
                    (rises if algo.rising else falls).append(algo.request.trigger_price)
            self._watch = Watch(min(arrivals), min(rises), max(falls), Side.BUY in taking, Side.SELL in taking)
        return self._watch

    def _pass_by(self, trades: Trades, start: int, stop: int) -> None:
        """Let trades go by that no order reacts to."""
        if start == stop:
            return
        self.advance(int(trades.time[stop - 1]))
        self.last_price = int(trades.price[stop - 1])
        for side, taker_sold in ((Side.BUY, False), (Side.SELL, True)):
            row = last_row_of_taker(trades.buyer_is_maker, start, stop, taker_sold)
            if row >= 0:
                self._last_taker_price[side] = int(trades.price[row])

    def _on_trade(self, price: int, quantity: int, time: int, taker: Side) -> None:
        """Play one trade that some order reacts to: arrivals, then triggers, then fills."""
        self.advance(time)
        self._arrive_all(time, price)
        self.last_price = self._last_taker_price[taker] = price
        newest = len(self._orders)
        self._trigger_all(
            [
                algo
                for algo in self._open_algos.values()
                if algo.arrived
                and algo.request.working_type is WorkingType.CONTRACT_PRICE
                and is_triggered(price, algo.request.trigger_price, algo.rising)
            ]
        )
        for order in list(self._open.values()):
            just_triggered = order.id > newest
            if order.phase is _Phase.TAKING and (just_triggered or taker is order.request.side):
                quantity -= self._take(order, price, quantity)
            elif order.phase is _Phase.RESTING and is_through_limit(
                price, order.request.price, order.request.side.value
            ):
                quantity -= self._fill(order, order.request.price, quantity, is_maker=True)

    def _arrive_all(self, time: int, price: int) -> None:
        """Let orders in that reach the matching engine before a trade at `time`; `price` serves on an empty tape."""
        for order in list(self._open.values()):
            if order.phase is _Phase.TRAVELLING and time >= order.live_from:
                self._arrive(order, self.last_price or price)
        for algo in self._open_algos.values():
            algo.arrived = algo.arrived or time >= algo.live_from
        self._watch = None  # whatever phases this trade changes, the next look ahead sees them

    def _arrive(self, order: _Order, reference: int) -> None:
        order.reference = reference
        request = order.request
        takes = self._would_take(request)
        if request.order_type is OrderType.MARKET or (takes and request.time_in_force is not TimeInForce.GTX):
            order.phase = _Phase.TAKING
        elif takes or request.time_in_force in (TimeInForce.IOC, TimeInForce.FOK):
            self._expire(order, "2" if request.time_in_force is TimeInForce.IOC else "0")
        else:
            order.phase = _Phase.RESTING

    def _best_price(self, side: Side) -> int:
        """Price that an order of this side would take at, as far as the tape tells; 0 before the first trade."""
        return self._last_taker_price[side] or self.last_price

    def _would_take(self, request: OrderRequest) -> bool:
        best = self._best_price(request.side)
        return (
            request.order_type is OrderType.LIMIT
            and best > 0
            and is_within_limit(best, request.price, request.side.value)
        )

    def _take(self, order: _Order, price: int, available: int) -> int:
        """Fill an order from a trade on the other side; return the lots it took."""
        request = order.request
        fill_price = slipped_price(price, request.side.value, self.slippage_e8)
        if request.order_type is OrderType.MARKET:
            if is_beyond_take_bound(fill_price, order.reference or price, request.side.value, self.take_bound_e8):
                self._expire(order, "0")
                return 0
        elif not is_within_limit(fill_price, request.price, request.side.value):
            self._stop_taking(order)
            return 0
        if request.time_in_force is TimeInForce.FOK and available < order.remaining:
            self._expire(order, "0")
            return 0
        return self._fill(order, fill_price, available, is_maker=False)

    def _stop_taking(self, order: _Order) -> None:
        if order.request.time_in_force is TimeInForce.GTC:
            order.phase = _Phase.RESTING
        else:
            self._expire(order, "2" if order.request.time_in_force is TimeInForce.IOC else "0")

    def _trigger_all(self, algos: list[_AlgoOrder]) -> None:
        """Trigger conditional orders that one price reached: stops first, then by id."""
        for algo in sorted(algos, key=lambda algo: (not algo.is_stop, algo.id)):
            self._trigger(algo)

    def _trigger(self, algo: _AlgoOrder) -> None:
        """Turn a conditional order into its child, a market order that is at the matching engine already."""
        algo.status, algo.updated, algo.triggered = "TRIGGERING", self.clock, self.clock
        self._tell_algo(algo)
        asked = algo.request
        child = replace(
            asked,
            order_type=OrderType.MARKET,
            trigger_price=0,
            quantity=self.held.closable(asked.side) if asked.close_position else asked.quantity,
            reduce_only=asked.reduce_only or asked.close_position,
        )
        try:
            if child.reduce_only:
                self._check_reduces(child.side)
            else:
                self._check_margin(child)
        except VenueRefusal as refusal:
            algo.reason = refusal.message
            self._end_algo(algo, "REJECTED")
            return
        algo.child = _Order(child, len(self._orders) + 1, self.clock, self.clock, self.last_price, algo=algo)
        algo.child.phase, algo.child.reference = _Phase.TAKING, self.last_price
        self._end_algo(algo, "TRIGGERED")
        self._open_order(algo.child)

    def _new_order(self, request: OrderRequest, live_from: int) -> _Order:
        order_id = len(self._orders) + 1
        if not request.client_order_id:
            request = replace(request, client_order_id=f"auto_{order_id}")
        order = _Order(request, order_id, self.clock, live_from, self._assumed_price(request))
        self._open_order(order)
        return order

    def _open_order(self, order: _Order) -> None:
        order.updated = self.clock
        self._orders[order.id] = self._open[order.id] = self._order_named[order.request.client_order_id] = order
        self._watch = None
        self._tell_order(order, "NEW")

    def _fill(self, order: _Order, price: int, available: int, *, is_maker: bool) -> int:
        """Fill an order by at most `available` lots at `price` ticks and book it; return the lots."""
        request = order.request
        quantity = min(available, order.remaining)
        if request.reduce_only:
            quantity = min(quantity, self.held.closable(request.side))
        if quantity == 0:
            return 0
        cost = fee(self.instrument.notional(price * quantity), self.maker_fee_e8 if is_maker else self.taker_fee_e8)
        realised = self.account.apply_fill(request.symbol, request.side, price, quantity, cost)
        order.filled += quantity
        order.filled_notional += price * quantity
        order.updated = self.clock
        order.status = "PARTIALLY_FILLED" if order.remaining else "FILLED"
        fill = replace(
            order.update("TRADE"),
            trade_id=len(self._fills) + 1,
            last_quantity=quantity,
            last_price=price,
            fee=cost,
            fee_asset=self.instrument.quote_asset,
            realised=realised,
            is_maker=is_maker,
        )
        self._fills.append(fill)
        self.outbox.append(fill)
        self._note_fill(order, fill)
        self._tell_account("ORDER")
        if order.remaining == 0:
            self._close_books(order)
        self._expire_idle_reduce_only()
        return quantity

    def _expire_idle_reduce_only(self) -> None:
        """Expire reduce-only orders that have nothing left to reduce."""
        for order in list(self._open.values()):
            if order.request.reduce_only and self.held.closable(order.request.side) == 0:
                self._expire(order, "4")

    def _expire(self, order: _Order, reason: str) -> None:
        order.expiry_reason = reason
        self._end(order, "EXPIRED", "EXPIRED")

    def _end(self, order: _Order, status: str, execution: str) -> None:
        order.status, order.updated = status, self.clock
        self._tell_order(order, execution)
        self._close_books(order)

    def _close_books(self, order: _Order) -> None:
        order.phase = _Phase.ENDED
        del self._open[order.id]
        self._watch = None
        if order.algo:
            self._end_algo(order.algo, "FINISHED")

    def _end_algo(self, algo: _AlgoOrder, status: str) -> None:
        self._open_algos.pop(algo.id, None)
        self._watch = None
        algo.status, algo.updated = status, self.clock
        self._tell_algo(algo)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell_order(self, order: _Order, execution: str) -> None:
        update = order.update(execution)
        self.outbox.append(update)
        self._note(
            "order",
            order_id=order.id,
            client_order_id=update.client_order_id,
            side=update.side.name,
            type=update.order_type.value,
            origin=order.algo.request.order_type.value if order.algo else "",
            status=update.status,
            quantity=self._quantity(update.quantity),
            filled=self._quantity(update.filled),
            price=self._price(update.price),
            time_in_force=update.time_in_force.value,
            reduce_only=update.reduce_only,
            expiry_reason=update.expiry_reason,
        )

    def _tell_algo(self, algo: _AlgoOrder) -> None:
        self._watch = None
        update = algo.update()
        self.outbox.append(update)
        self._note(
            "algo",
            algo_id=algo.id,
            client_order_id=update.client_order_id,
            side=update.side.name,
            type=update.order_type.value,
            status=update.status,
            quantity=self._quantity(update.quantity),
            trigger_price=self._price(update.trigger_price),
            working_type=update.working_type.value,
            reduce_only=update.reduce_only,
            close_position=update.close_position,
            order_id=update.order_id,
            filled=self._quantity(update.filled),
            reason=update.reason,
        )

    def _tell_account(self, reason: str) -> None:
        position = self.position()
        self.outbox.append(AccountUpdate(self.clock, reason, self.account.wallet, (position,)))
        self._note(
            "account",
            reason=reason,
            wallet=money_text(self.account.wallet),
            position=self._quantity(position.quantity),
            entry_price=position.entry_price,
            unrealised=money_text(position.unrealised),
        )

    def _note_fill(self, order: _Order, fill: OrderUpdate) -> None:
        self._note(
            "fill",
            trade_id=fill.trade_id,
            tape_id=self._tape_id,
            order_id=fill.order_id,
            client_order_id=fill.client_order_id,
            origin=order.algo.request.order_type.value if order.algo else "",
            side=fill.side.name,
            price=self._price(fill.last_price),
            quantity=self._quantity(fill.last_quantity),
            fee=money_text(fill.fee),
            fee_asset=fill.fee_asset,
            realised=money_text(fill.realised),
            maker=fill.is_maker,
            position=self._quantity(self.held.quantity),
            wallet=money_text(self.account.wallet),
        )

    def _answer(self, action: str, facts: dict[str, Any], carry_out: Callable[[], T]) -> T:
        """Carry out a request and note what became of it; what it caused stands in the log before it."""
        try:
            answer = carry_out()
        except VenueRefusal as refusal:
            self._note("refused", action=action, **facts, code=refusal.code, message=refusal.message)
            raise
        self._note("accepted", action=action, **facts)
        return answer

    def _note(self, kind: str, **facts: Any) -> None:
        if self._log is not None:
            self._log({"time": self.clock, "kind": kind, **facts})

    def _request_facts(self, request: OrderRequest) -> dict[str, Any]:
        return {
            "symbol": request.symbol,
            "client_order_id": request.client_order_id,
            "side": request.side.name,
            "type": request.order_type.value,
            "quantity": self._quantity(request.quantity),
            "price": self._price(request.price),
            "trigger_price": self._price(request.trigger_price),
            "time_in_force": request.time_in_force.value,
            "reduce_only": request.reduce_only,
            "close_position": request.close_position,
            "working_type": request.working_type.value,
        }

    def _price(self, ticks: int) -> str:
        return format(self.instrument.price(ticks), "f")

    def _quantity(self, lots: int) -> str:
        return format(self.instrument.quantity(lots), "f")


def _check_decimals(number: Decimal, precision: int) -> None:
    exponent = number.normalize().as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > precision:
        raise VenueRefusal(-1111, "Precision is over the maximum defined for this asset.")


# --- the tape ---------------------------------------------------------------------------------------------------------


def simulated_exchange(config: Config, instrument: Instrument, clock: int, log: Log | None = None) -> SimulatedExchange:
    """Make the exchange that a session's settings ask for; `clock` is its time at the start, ms UTC.

    Backtest, paper and venue all come here, so that they simulate alike.
    """
    execution, risk = config.execution, config.risk
    return SimulatedExchange(
        instrument,
        wallet=int(execution.wallet * MONEY),
        taker_fee_e8=int(execution.taker_fee * E8),
        maker_fee_e8=int(execution.maker_fee * E8),
        latency_ms=execution.latency_ms,
        slippage_bps=execution.slippage_bps,
        leverage=risk.leverage,
        margin_type=risk.margin_type,
        clock=clock,
        log=log,
    )


def simulate(
    config: Config, trades: Trades, *, batch: int | None = None, log: Log | None = None
) -> tuple[SimulatedExchange, TapePlayer]:
    """Make the exchange and the player of a tape that a session's settings ask for."""
    session, execution = config.session, config.execution
    exchange = simulated_exchange(config, shipped_instrument(session.symbol), int(trades.time[0]) - 1, log)
    player = TapePlayer(
        exchange, trades, mark_interval_ms=execution.mark_interval_s * 1000, seed=session.seed, batch=batch
    )
    return exchange, player


class TapePlayer:
    """Plays a tape of trades, and mark prices made from it, through a simulated exchange.

    `horizon` looks ahead and plays nothing; `play` moves on. A mark price of time t comes after all trades with time
    before t and before those at t or later. Marks fall on the whole multiples of the interval between the first and the
    last trade; see `simulated_marks` for their prices. The exchange's clock starts 1 ms before the first trade.

    Attributes:
        trades_played: the position on the tape.
        marks_played: mark prices so far.
    """

    def __init__(
        self,
        exchange: SimulatedExchange,
        trades: Trades,
        *,
        mark_interval_ms: int,
        seed: int,
        batch: int | None = None,
    ) -> None:
        """Put a tape in.

        Args:
            mark_interval_ms: tape time between two mark prices.
            seed: of the distance between mark price and last trade.
            batch: most trades of one segment; None for no bound.

        Raises:
            DataError: the tape is empty, of another symbol, or goes back in time.
        """
        if len(trades) == 0:
            raise DataError("tape: must have at least one trade, had none")
        if trades.symbol != exchange.instrument.symbol:
            raise DataError(f"tape: must be of {exchange.instrument.symbol}, was of {trades.symbol}")
        if np.any(np.diff(trades.time) < 0):
            raise DataError(f"tape: times must not go back, did after row {int(np.argmax(np.diff(trades.time) < 0))}")
        self.exchange = exchange
        self.trades = trades
        self.batch = batch
        self.trades_played = 0
        self.marks_played = 0
        self.first_time = int(trades.time[0])
        self.last_time = int(trades.time[-1])
        self._mark_times, self._mark_rows, self._mark_prices = simulated_marks(
            trades, exchange.instrument, mark_interval_ms, seed
        )
        exchange.advance(self.first_time - 1)

    def horizon(self) -> Segment:
        """Look ahead up to and including the first trade that may make an event, or the next mark, or a batch."""
        start = self.trades_played
        next_mark = self._next_mark_row()
        stop = next_mark if self.batch is None else min(next_mark, start + self.batch)
        acting = self.exchange.first_acting(self.trades, start, stop)
        mark = None
        if acting < stop:
            stop = acting + 1
        elif stop == next_mark and self.marks_played < len(self._mark_times):
            mark = self._mark(self.marks_played)
        end = stop == len(self.trades) and self.marks_played == len(self._mark_times)
        return Segment(self.trades[start:stop], mark, end)

    def play(self, trade_count: int, mark: bool, time: int) -> None:
        """Play trades from the position, then the mark if `mark`, and set the clock forward to `time`.

        Raises:
            ValueError: more trades than come before the next mark, or a mark that does not come next.
        """
        stop = self.trades_played + trade_count
        if trade_count < 0 or stop > self._next_mark_row():
            raise ValueError(f"{trade_count} trades from {self.trades_played} are not what comes next")
        if trade_count:
            self.exchange.on_trades(self.trades[self.trades_played : stop])
            self.trades_played = stop
        if mark:
            if self.marks_played == len(self._mark_times) or stop != self._next_mark_row():
                raise ValueError(f"no mark price comes after trade {stop}")
            self.exchange.on_mark(self._mark(self.marks_played))
            self.marks_played += 1
        self.exchange.advance(time)

    def finish(self) -> None:
        """End the tape: see `SimulatedExchange.finish`."""
        self.exchange.finish()

    def _next_mark_row(self) -> int:
        """Row of the first trade after the next mark; the end of the tape where no mark comes."""
        if self.marks_played == len(self._mark_times):
            return len(self.trades)
        return int(self._mark_rows[self.marks_played])

    def _mark(self, number: int) -> MarkPrice:
        time = int(self._mark_times[number])
        return MarkPrice(
            self.trades.symbol,
            time,
            int(self._mark_prices[number]),
            funding_rate_e8=0,
            next_funding_time=(time // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS,
        )


def simulated_marks(
    trades: Trades, instrument: Instrument, interval_ms: int, seed: int
) -> tuple[Int64s, Int64s, Int64s]:
    """Make the mark prices of a tape.

    A mark is the price of the last trade before it, moved by a basis: the mean of eight numbers, one for each of the
    last eight interval ends, each drawn evenly from -3 to +3 bps by a hash of the seed and that time. So the basis
    reverts to zero over eight marks, never leaves 3 bps, and depends on nothing but seed and time.

    Returns:
        Columns of equal length: time (ms UTC), row of the first trade at or after it, price in 1e-8 (rounded down).
    """
    first = int(trades.time[0]) // interval_ms + 1
    last = int(trades.time[-1]) // interval_ms
    numbers = np.arange(first, last + 1, dtype=np.int64)
    times = numbers * interval_ms
    rows = np.searchsorted(trades.time, times, side="left").astype(np.int64)
    basis_e8 = sum(_drawn_basis(numbers - back, seed) for back in range(8)) // 8
    price_e8 = trades.price[rows - 1] * int(instrument.tick_size * E8)
    # price x basis / 1e8 in two parts, since their product may not fit 64 bits
    return times, rows, price_e8 + price_e8 // E8 * basis_e8 + price_e8 % E8 * basis_e8 // E8


def _drawn_basis(numbers: Int64s, seed: int) -> Int64s:
    """Draw evenly from -MAX_BASIS_E8 to MAX_BASIS_E8 for each number: SplitMix64 of the seed, at that number."""
    mixed = numbers.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(2 * MAX_BASIS_E8 + 1)).astype(np.int64) - MAX_BASIS_E8
