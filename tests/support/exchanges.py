"""Simulated exchanges for tests: small ones to reckon by hand, and whole random histories of an account.

Unless a test says otherwise one tick is one dollar, one lot one coin, slippage 10 bps (so 1,000 slips by one tick and
1,001 by two), latency 50 ms, fees 5 and 2 bps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from support.builders import an_instrument

from voltrade.model import (
    AlgoUpdate,
    Instrument,
    MarkPrice,
    OrderRequest,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
    Trades,
    WorkingType,
    money,
)
from voltrade.simulated.events import MarginCall
from voltrade.simulated.exchange import SimulatedExchange
from voltrade.simulated.margin_account import Terms
from voltrade.simulated.refusals import VenueRefusal
from voltrade.simulated.symbols import SymbolRules, brackets_of
from voltrade.simulated.tape_playback import TapePlayer, mark_columns, steps_until

BUY, SELL = Side.BUY, Side.SELL
SYMBOL = "COINUSDT"
T0 = 1_700_000_000_000
Row = tuple[int, int, str, int]
"""Milliseconds after T0, price, taker (`b` bought, `s` sold), quantity."""


def a_coin(**other: Any) -> Instrument:
    return an_instrument(SYMBOL, tick="1", step="1", **{"min_notional": money(5), **other})


def an_exchange(
    instrument: Instrument | None = None, more: Sequence[Instrument] = (), **other: Any
) -> SimulatedExchange:
    given: dict[str, Any] = {
        "wallet": money(1_000_000),
        "taker_fee_e8": 50_000,
        "maker_fee_e8": 20_000,
        "latency_ms": 50,
        "slippage_bps": 10.0,
        "margin_type": "cross",
    }
    rules = {SYMBOL: other.pop("rules")} if "rules" in other else None
    clock, log = other.pop("clock", T0), other.pop("log", None)
    terms = Terms(**{**given, **other})
    return SimulatedExchange([instrument or a_coin(), *more], terms, clock=clock, log=log, rules=rules)


def a_player(
    tape: Trades,
    exchange: SimulatedExchange | None = None,
    *,
    interval_ms: int = 100,
    seed: int = 7,
    funding_rate_e8: int = 0,
    batch: int | None = None,
) -> TapePlayer:
    """A player with a mark price every 100 ms, of a new exchange unless one is given."""
    exchange = exchange or an_exchange(clock=0)
    market = exchange.markets[tape.symbol]
    columns = mark_columns(
        tape,
        market.instrument,
        market.rules.funding_interval_ms,
        interval_ms=interval_ms,
        seed=seed,
        funding_rate_e8=funding_rate_e8,
    )
    return TapePlayer(exchange, tape, columns, batch)


def trades(*rows: Row, symbol: str = SYMBOL) -> Trades:
    return Trades.from_rows(
        symbol, [(n + 1, price, size, T0 + ms, taker == "s") for n, (ms, price, taker, size) in enumerate(rows)]
    )


def ahead(exchange: SimulatedExchange, *rows: Row, symbol: str = SYMBOL) -> Trades:
    """Let trades be those that come next, which price what takes liquidity."""
    market = exchange.markets[symbol]
    market.tape, market.played = trades(*rows, symbol=symbol), 0
    return market.tape


def played(exchange: SimulatedExchange, *rows: Row, symbol: str = SYMBOL) -> SimulatedExchange:
    exchange.on_trades(ahead(exchange, *rows, symbol=symbol))
    return exchange


def marked(exchange: SimulatedExchange, ms: int, price: str | int, **other: Any) -> SimulatedExchange:
    exchange.on_mark(MarkPrice(other.pop("symbol", SYMBOL), T0 + ms, money(price), **other))
    return exchange


def quoted(**other: Any) -> SimulatedExchange:
    """An exchange where 1,000 was bid and asked, a hundred times over."""
    return played(an_exchange(**other), (0, 1_000, "s", 100), (0, 1_000, "b", 100))


def market(side: Side, quantity: int, name: str = "m", **other: Any) -> OrderRequest:
    return OrderRequest(other.pop("symbol", SYMBOL), name, side, OrderType.MARKET, quantity, **other)


def limit(side: Side, quantity: int, price: int, tif: str = "GTC", name: str = "l", **other: Any) -> OrderRequest:
    return OrderRequest(
        SYMBOL, name, side, OrderType.LIMIT, quantity, price=price, time_in_force=TimeInForce(tif), **other
    )


def conditional(kind: OrderType, side: Side, quantity: int, trigger: int, name: str, **other: Any) -> OrderRequest:
    return OrderRequest(SYMBOL, name, side, kind, quantity, trigger_price=trigger, **{"reduce_only": True, **other})


def stop(side: Side, quantity: int, trigger: int, name: str = "s", **other: Any) -> OrderRequest:
    return conditional(OrderType.STOP_MARKET, side, quantity, trigger, name, **other)


def take_profit(side: Side, quantity: int, trigger: int, name: str = "t", **other: Any) -> OrderRequest:
    return conditional(OrderType.TAKE_PROFIT_MARKET, side, quantity, trigger, name, **other)


def trailing(side: Side, quantity: int, bps: int, name: str = "r", **other: Any) -> OrderRequest:
    trigger = other.pop("trigger_price", 0)
    return conditional(OrderType.TRAILING_STOP_MARKET, side, quantity, trigger, name, callback_bps=bps, **other)


def holding(quantity: int, **other: Any) -> SimulatedExchange:
    """An exchange with a position of so many lots, bought or sold at 1,000 without slippage, and an empty outbox."""
    exchange = quoted(latency_ms=0, slippage_bps=0.0, **other)
    hold(exchange, quantity)
    exchange.outbox.clear()
    exchange.terms = replace(exchange.terms, latency_ms=50, slippage_bps=10.0)
    return exchange


def hold(exchange: SimulatedExchange, quantity: int, price: int = 1_000, symbol: str = SYMBOL) -> None:
    """Open a position at a price, where orders take neither time nor slippage."""
    tape = ahead(exchange, (10, price, "b" if quantity > 0 else "s", abs(quantity)), symbol=symbol)
    exchange.place_order(market(BUY if quantity > 0 else SELL, abs(quantity), "opening", symbol=symbol))
    exchange.on_trades(tape)


def fills(exchange: SimulatedExchange) -> list[tuple[str, str, int, int]]:
    """Client id, side, quantity and price of every fill told of since the outbox was last emptied."""
    return [
        (u.client_order_id, u.side.name, u.last_quantity, u.last_price)
        for u in exchange.outbox
        if isinstance(u, OrderUpdate) and u.trade_id
    ]


def told(exchange: SimulatedExchange) -> list[str]:
    """The outbox as short words."""
    words = []
    for update in exchange.outbox:
        if isinstance(update, OrderUpdate):
            words.append(f"{update.client_order_id} {update.execution} {update.status}")
        elif isinstance(update, AlgoUpdate):
            words.append(f"{update.client_order_id} algo {update.status}")
        elif isinstance(update, MarginCall):
            words.append(f"margin call {' '.join(risk.symbol for risk in update.positions)}")
        else:
            words.append(f"account {getattr(update, 'reason', 'settings')}")
    return words


# --- random histories -------------------------------------------------------------------------------------------------

ODD = an_instrument(SYMBOL, tick="0.01", step="0.001", min_notional=money("0.01"), market_take_bound=Decimal("0.01"))
"""Small units, so that fees and costs do round: one ticklot is 1,000 units of money, a fee a few tens."""

GEM = an_instrument("GEMUSDT", tick="0.001", step="0.01", min_notional=money("0.01"), multiplier_up=Decimal("1.5"))

LOW_BRACKETS = SymbolRules(
    funding_interval_ms=700,
    liquidation_fee_e8=1_250_000,
    brackets=brackets_of([(50, 1, "0.01"), (20, 2, "0.025"), (10, 4, "0.05"), (2, 1_000, "0.25")]),
)
"""So that small positions pass from bracket to bracket, and funding comes often."""


@dataclass(frozen=True)
class Action:
    """What is asked for at a time. `offset` is the distance of a price from the last, in ticks."""

    ms: int
    kind: str
    symbol: str
    side: Side
    size: int
    offset: int
    reduce_only: bool
    tif: TimeInForce
    working_type: WorkingType
    price_protect: bool


@dataclass(frozen=True)
class World:
    """Random tapes of some seconds of two symbols, and what an account does meanwhile."""

    seed: int
    tapes: tuple[Trades, ...]
    script: tuple[Action, ...]


ORDERS = ("market", "market", "limit", "limit", "stop", "take", "stop_limit", "take_limit", "trailing", "close")
ELSE = (
    "modify",
    "cancel",
    "cancel_all",
    "cancel_algo",
    "leverage",
    "margin_type",
    "margin",
    "deposit",
    "withdraw",
    "adl",
)


def a_world(seed: int, most_trades: int = 150) -> World:
    draw = np.random.default_rng(seed)
    tapes = tuple(_a_tape(draw, instrument, most_trades) for instrument in (ODD, GEM))
    length = int(max(tape.time[-1] for tape in tapes)) - T0
    kinds = [*ORDERS * 2, *ELSE]
    script = [
        Action(
            ms=int(draw.integers(1, length + 1)),
            kind=str(draw.choice(kinds)),
            symbol=str(draw.choice([SYMBOL, SYMBOL, "GEMUSDT"])),
            side=BUY if draw.random() < 0.5 else SELL,
            size=int(draw.integers(1, 10) * draw.choice([1, 1, 5, 20])),
            offset=int(draw.integers(1, 9)),
            reduce_only=bool(draw.random() < 0.3),
            tif=TimeInForce(str(draw.choice(["GTC", "GTC", "IOC", "FOK", "GTX"]))),
            working_type=WorkingType.MARK_PRICE if draw.random() < 0.25 else WorkingType.CONTRACT_PRICE,
            price_protect=bool(draw.random() < 0.2),
        )
        for _ in range(int(draw.integers(5, 40)))
    ]
    return World(seed, tapes, tuple(sorted(script, key=lambda action: action.ms)))


def _a_tape(draw: np.random.Generator, instrument: Instrument, most: int) -> Trades:
    count = int(draw.integers(20, most))
    step = int(draw.choice([2, 4, 12]))
    price = np.clip(1_000 + np.cumsum(draw.integers(-step, step + 1, count)), 850, 1_150)
    time = np.cumsum(draw.choice([0, 0, 5, 30, 70], count))
    bought, size = draw.random(count) < 0.5, draw.integers(1, 7, count) * draw.choice([1, 5, 30], count)
    rows = zip(time.tolist(), price.tolist(), np.where(bought, "b", "s").tolist(), size.tolist(), strict=True)
    return trades(*rows, symbol=instrument.symbol)


@dataclass
class History:
    """A world played: the exchange at its end, what it told, and its log."""

    exchange: SimulatedExchange
    log: list[dict[str, Any]]

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.log if row["kind"] == kind]


def open_account(world: World, log: Callable[[dict[str, Any]], None] | None) -> SimulatedExchange:
    draw = np.random.default_rng(world.seed + 1)
    terms = Terms(
        wallet=money(str(draw.choice(["0.1", "0.4", "2"]))),
        taker_fee_e8=50_123,
        maker_fee_e8=20_077,
        latency_ms=20,
        slippage_bps=7.3,
        leverage=int(draw.choice([5, 10, 50])),
        margin_type=str(draw.choice(["cross", "isolated"])),
    )
    rules = {SYMBOL: LOW_BRACKETS, "GEMUSDT": replace(LOW_BRACKETS, funding_interval_ms=1_100)}
    return SimulatedExchange([ODD, GEM], terms, log=log, rules=rules)


def history(world: World, cuts: Sequence[int] = (1_000_000,), batch: int | None = None) -> History:
    """Play a world; `cuts` are the milliseconds by which time advances between two looks at the tapes, in turn."""
    log: list[dict[str, Any]] = []
    exchange = open_account(world, log.append)
    go_on(exchange, world, [], cuts, batch)
    return History(exchange, log)


def go_on(
    exchange: SimulatedExchange,
    world: World,
    seen: Sequence[dict[str, Any]],
    cuts: Sequence[int] = (1_000_000,),
    batch: int | None = None,
) -> None:
    """Play the rest of a world on an exchange whose log says what it has `seen` of it."""
    done = sum(row["kind"] in ("accepted", "refused") for row in seen)
    finished = sum(row["kind"] == "finish" for row in seen)
    players = [
        a_player(tape, exchange, funding_rate_e8=rate, batch=batch)
        for tape, rate in zip(world.tapes, (600_000, -250_000), strict=True)
    ]
    time, turn = T0, 0
    for number, action in enumerate(world.script[done:], done):
        while time < T0 + action.ms:
            time = min(T0 + action.ms, time + cuts[turn % len(cuts)])
            turn += 1
            for _ in steps_until(players, time):
                pass
        exchange.advance(time)
        with suppress(VenueRefusal):
            act(exchange, number, action)
    for _ in steps_until(players, max(int(tape.time[-1]) for tape in world.tapes)):
        pass
    for player in players[finished:]:
        player.finish()


def act(exchange: SimulatedExchange, number: int, do: Action) -> None:
    """Ask for it; that the exchange may refuse is part of the story."""
    name, last, size, symbol = f"a{number}", exchange.markets[do.symbol].last_price, do.size, do.symbol
    above, below = last + do.offset, last - do.offset
    ahead, behind = (above, below) if do.side > 0 else (below, above)
    waits: dict[str, Any] = {
        "reduce_only": do.reduce_only, "working_type": do.working_type, "price_protect": do.price_protect,
    }  # fmt: skip

    def ask(kind: OrderType, **asked: Any) -> OrderRequest:
        return OrderRequest(symbol, name, do.side, kind, asked.pop("quantity", size), **asked)

    match do.kind:
        case "market":
            exchange.place_order(ask(OrderType.MARKET, reduce_only=do.reduce_only))
        case "limit":
            price = above - 5
            exchange.place_order(ask(OrderType.LIMIT, price=price, time_in_force=do.tif, reduce_only=do.reduce_only))
        case "stop":
            exchange.place_algo(ask(OrderType.STOP_MARKET, trigger_price=ahead, **waits))
        case "take":
            exchange.place_algo(ask(OrderType.TAKE_PROFIT_MARKET, trigger_price=behind, **waits))
        case "stop_limit":
            exchange.place_algo(
                ask(OrderType.STOP, trigger_price=ahead, price=ahead + 2 - size % 5, time_in_force=do.tif, **waits)
            )
        case "take_limit":
            exchange.place_algo(ask(OrderType.TAKE_PROFIT, trigger_price=behind, price=behind + 2 - size % 5, **waits))
        case "trailing":
            waits.pop("price_protect")
            activation = behind if size % 2 else 0
            exchange.place_algo(
                ask(OrderType.TRAILING_STOP_MARKET, callback_bps=10 * do.offset, activation_price=activation, **waits)
            )
        case "close":
            exchange.place_algo(ask(OrderType.STOP_MARKET, quantity=0, trigger_price=ahead, close_position=True))
        case "modify":
            which = 1 + number % 7
            exchange.modify_order(symbol, side=do.side, quantity=size, price=above - 5, order_id=which)
        case "cancel":
            exchange.cancel_order(symbol, order_id=1 + number % 7)
        case "cancel_all":
            exchange.cancel_all(symbol)
        case "cancel_algo":
            exchange.cancel_algo(algo_id=1 + number % 7)
        case "leverage":
            exchange.set_leverage(symbol, do.offset * 7)
        case "margin_type":
            exchange.set_margin_type(symbol, "cross" if size % 2 else "isolated")
        case "margin":
            exchange.change_position_margin(symbol, do.offset * 1_234_567, adding=do.side > 0)
        case "deposit":
            exchange.deposit(do.offset * 10_000_019)
        case "withdraw":
            exchange.withdraw(do.offset * 1_000_003)
        case "adl":
            exchange.deleverage(symbol, size % 3)


def state_of(exchange: SimulatedExchange) -> dict[str, Any]:
    """Everything that an exchange knows, as values to compare."""
    return {
        "clock": exchange.clock,
        "account": replace(exchange.account, positions={}),
        "income": exchange.income,
        "balances": exchange.balances(),
        "orders": [(order.update(), order.phase, order.reference, order.created) for order in exchange.orders.values()],
        "algos": [
            (algo.request, algo.update(), algo.best, algo.trailing, algo.created, algo.triggered)
            for algo in exchange.algos.values()
        ],
        "markets": {
            symbol: (
                exchange.position_risk(symbol), exchange.liquidation_price(symbol), market.last_price,
                dict(market.taker_price), market.last_trade_id, market.mark, market.fills, market.leverage,
                market.margin_type, market.added_margin, market.realised, market.cost_basis, market.margin_called,
                market.status, list(market.open_orders), list(market.open_algos), market.position.cost,
                market.taken, market.extrapolated,
            )
            for symbol, market in exchange.markets.items()
        },
    }  # fmt: skip
