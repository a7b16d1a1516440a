"""Whole histories of an account: its books balance to the last unit, and how its tapes are cut changes nothing.

The books are kept a second time here, in Decimal, from the rows of the ground-truth log alone.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exchanges import (
    BUY,
    SELL,
    SYMBOL,
    T0,
    History,
    World,
    a_world,
    an_exchange,
    history,
    market,
    played,
    state_of,
    stop,
    take_profit,
)

from voltrade.model import Instrument, OrderType, Trades
from voltrade.simulated.events import AccountChange
from voltrade.simulated.market import Market
from voltrade.simulated.symbols import Bracket

worlds = st.integers(0, 2**32 - 1).map(a_world)
UNIT = Decimal("0.00000001")


class Plodder(Market):
    """Looks at every single trade: what the scan for the next acting trade must not change."""

    def first_acting(self, trades: Trades, start: int, stop: int) -> int:
        return start


@settings(max_examples=60, deadline=None)
@given(worlds, st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_however_the_tapes_are_cut_the_same_happens(world: World, cuts: list[int]) -> None:
    whole = history(world)
    for pieces, batch in (([3], None), ([1_000_000], 7), (cuts, None)):
        other = history(world, pieces, batch)
        assert other.log == whole.log
        assert other.exchange.outbox == whole.exchange.outbox
        assert state_of(other.exchange) == state_of(whole.exchange)


@settings(max_examples=30, deadline=None)
@given(worlds)
def test_trades_that_no_order_waits_for_do_nothing(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voltrade.simulated.exchange.Market", Plodder)
        plodded = history(world)
    assert plodded.exchange.outbox == history(world).exchange.outbox


@settings(max_examples=60, deadline=None)
@given(worlds)
def test_the_books_balance_to_the_last_unit(world: World) -> None:
    check(world, history(world))


@pytest.mark.campaign
def test_a_thousand_histories_balance() -> None:
    seen: Counter[str] = Counter()
    for seed in range(1_000):
        world = a_world(seed)
        played = history(world)
        check(world, played)
        seen.update(row["reason"] for row in played.rows("account"))
        seen.update(row["kind"] for row in played.rows("margin_call"))
        seen.update(row["client_order_id"].rstrip("0123456789") for row in played.rows("fill"))
    assert min(seen[word] for word in ("FUNDING_FEE", "INSURANCE_CLEAR", "DEPOSIT", "WITHDRAW", "MARGIN_TRANSFER")) > 20
    assert min(seen[word] for word in ("autoclose-", "adl_autoclose", "margin_call")) > 20


def check(world: World, played: History) -> None:
    """Hold a history against books kept anew, and its orders and fills against what there was."""
    exchange = played.exchange
    books = Books(played.log[0])
    for row in played.log:
        books.read(row)
    balances = exchange.balances()
    assert books.wallet == Decimal(balances.wallet) * UNIT
    assert books.wallet == books.start + books.realised - books.fees + books.funding + books.transfers
    account = exchange.account
    assert (account.realised, account.fees, account.funding, account.transfers) == tuple(
        int(amount / UNIT) for amount in (books.realised, books.fees, books.funding, books.transfers)
    )
    assert balances.wallet == int(books.start / UNIT) + sum(income.amount for income in exchange.income)
    assert books.cross_wallet == Decimal(balances.cross_wallet) * UNIT
    assert books.unrealised == Decimal(balances.unrealised) * UNIT
    assert (
        sum(symbol_state.maintenance for symbol_state in books.symbol_states.values())
        == Decimal(balances.maintenance_margin) * UNIT
    )
    assert (
        sum(symbol_state.initial_margin for symbol_state in books.symbol_states.values())
        == Decimal(balances.position_margin) * UNIT
    )
    for symbol, symbol_state in books.symbol_states.items():
        risk = exchange.position_risk(symbol)
        assert symbol_state.isolated_wallet == Decimal(risk.isolated_wallet) * UNIT
        assert symbol_state.position == exchange.markets[symbol].instrument.quantity(risk.quantity)
        break_even = symbol_state.spent / symbol_state.position if symbol_state.position else 0
        assert abs(Decimal(risk.break_even_price) - break_even) <= Decimal("1e-12")
    check_orders(exchange.user_trades(SYMBOL))
    check_orders(exchange.user_trades("GEMUSDT"))
    for tape in world.tapes:
        check_tape(played, tape)
    told = [event for event in exchange.outbox if isinstance(event, AccountChange) and event.reason == "ORDER"]
    assert len(told) == len(exchange.user_trades())


def check_orders(fills: list[Any]) -> None:
    """No order filled beyond its size or limit, and no reduce-only fill that grew or turned the position."""
    position = 0
    filled: Counter[int] = Counter()
    for fill in fills:
        filled[fill.order_id] += fill.last_quantity
        assert 0 < fill.last_quantity <= fill.filled == filled[fill.order_id] <= fill.quantity
        assert fill.order_type is not OrderType.LIMIT or fill.side * (fill.price - fill.last_price) >= 0
        after = position + fill.side * fill.last_quantity
        assert not fill.reduce_only or (abs(after) < abs(position) and after * position >= 0)
        position = after


def check_tape(played: History, tape: Trades) -> None:
    """No trade of the tape gave resting orders more than it had, and it went through their limits.

    What took was priced by trades of its own side from then on, in order, none better than an earlier one; what they
    did not give is said to be extrapolated.
    """
    instrument = played.exchange.markets[tape.symbol].instrument
    given: Counter[int] = Counter()
    taken: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in (row for row in played.rows("fill") if row["symbol"] == tape.symbol):
        number, lots = row["tape_id"] - 1, instrument.lots(row["quantity"])
        if row["maker"]:
            given[number] += lots
            sign = 1 if row["side"] == "BUY" else -1
            assert sign * (instrument.ticks(row["price"]) - int(tape.price[number])) > 0
            assert row["time"] == tape.time[number]
            assert row["extrapolated"] == "0"
        elif not row["client_order_id"].startswith(("autoclose-", "adl_autoclose")):
            taken.setdefault((row["order_id"], row["time"]), []).append(row)
    assert all(lots <= tape.quantity[number] for number, lots in given.items())
    modified = {row["order_id"] for row in played.rows("accepted") if row["action"] == "modify_order"}
    for (order_id, time), rows in taken.items():
        if order_id not in modified:  # which may take twice at one time
            check_taken(instrument, tape, time, rows)


def check_taken(instrument: Instrument, tape: Trades, time: int, rows: list[dict[str, Any]]) -> None:
    """Hold the fills that an order took at a time against the trades that may have given them."""
    sold = rows[0]["side"] == "SELL"
    prices = [instrument.ticks(row["price"]) * (-1 if sold else 1) for row in rows]
    assert prices == sorted(set(prices)), "one fill a price, none better than an earlier one"
    beyond = [instrument.lots(row["extrapolated"]) for row in rows]
    assert not any(beyond[:-1]), "only the last may be extrapolated"
    given = sum(instrument.lots(row["quantity"]) for row in rows) - sum(beyond)
    may = (tape.time >= time) & (tape.time <= time + 10_000) & (tape.buyer_is_maker == sold)
    assert given <= tape.quantity[may].sum()
    if beyond[-1]:
        assert given >= tape.quantity[may & (tape.time > time)].sum(), "what trades give is used first"


# --- the books, kept a second time ------------------------------------------------------------------------------------


def rounded(amount: Decimal) -> Decimal:
    return amount.quantize(UNIT, ROUND_HALF_EVEN)


def rounded_up(amount: Decimal) -> Decimal:
    return amount.quantize(UNIT, ROUND_CEILING)


@dataclass
class SymbolState:
    """One symbol: position in coins, the rest in the quote asset."""

    leverage: int
    margin_type: str
    rules: dict[str, Any]
    position: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    added: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    """Cost of the position and fees, less what closing parts of it brought."""
    last: Decimal = Decimal(0)
    mark: Decimal | None = None
    rate: Decimal = Decimal(0)

    @property
    def value(self) -> Decimal:
        return rounded(self.position * (self.last if self.mark is None else self.mark))

    @property
    def is_isolated(self) -> bool:
        return self.margin_type == "isolated"

    @property
    def isolated_wallet(self) -> Decimal:
        if not self.is_isolated or not self.position:
            return Decimal(0)
        return rounded_up(abs(self.cost) / self.leverage) + self.added

    @property
    def initial_margin(self) -> Decimal:
        return rounded_up(abs(self.cost if self.is_isolated else self.value) / self.leverage)

    @property
    def maintenance(self) -> Decimal:
        """By the part of the notional in each bracket, at that bracket's rate: what notional x rate - cum comes to."""
        notional, margin = abs(self.value), Decimal(0)
        for number, row in enumerate(self.rules["brackets"]):
            bracket = Bracket(**row)
            last = number + 1 == len(self.rules["brackets"])
            upper = notional if last else min(notional, bracket.cap * UNIT)
            margin += max(Decimal(0), upper - bracket.floor * UNIT) * bracket.maintenance_e8 * UNIT
        return rounded_up(margin)


@dataclass
class Books:
    """The account, reckoned from the log alone."""

    head: dict[str, Any]
    symbol_states: dict[str, SymbolState] = field(default_factory=dict)
    realised: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)
    funding: Decimal = Decimal(0)
    transfers: Decimal = Decimal(0)
    moved: Decimal = Decimal(0)
    """What the last accepted deposit or withdrawal moves."""
    left: Decimal = Decimal(0)
    """Of the margin of the last position that was liquidated."""
    funded: tuple[SymbolState, Decimal] | None = None

    def __post_init__(self) -> None:
        self.start = self.wallet = Decimal(self.head["wallet"])
        self.rates = {
            maker: Decimal(self.head[f"{word}_fee_e8"]) * UNIT for maker, word in ((True, "maker"), (False, "taker"))
        }
        for instrument in self.head["instruments"]:
            rules = self.head["all_rules"][instrument["symbol"]]
            self.symbol_states[instrument["symbol"]] = SymbolState(
                self.head["leverage"], self.head["margin_type"], rules
            )

    @property
    def cross_wallet(self) -> Decimal:
        return self.wallet - sum(symbol_state.isolated_wallet for symbol_state in self.symbol_states.values())

    @property
    def unrealised(self) -> Decimal:
        return sum((symbol_state.value - symbol_state.cost for symbol_state in self.symbol_states.values()), Decimal(0))

    def read(self, row: dict[str, Any]) -> None:
        symbol_state = self.symbol_states.get(row.get("symbol", ""))
        match row["kind"]:
            case "market" if symbol_state:
                _, last, _, _, *marked = row["stand"]
                symbol_state.last = Decimal(last)
                if marked:
                    symbol_state.mark, symbol_state.rate = Decimal(marked[1]), Decimal(marked[2]) * UNIT
            case "trade" if symbol_state:
                symbol_state.last = Decimal(row["price"])
            case "mark" if symbol_state:
                self.funded = (symbol_state, symbol_state.rate)
                symbol_state.mark, symbol_state.rate = Decimal(row["price"]), Decimal(row["funding_rate_e8"]) * UNIT
            case "settings" if symbol_state:
                symbol_state.leverage = row["leverage"]
            case "accepted":
                self._accepted(row)
            case "fill" if symbol_state:
                self._fill(symbol_state, row)
            case "account":
                self._account(row)
            case "margin_call":
                called = [self.symbol_states[symbol] for symbol in row["symbols"]]
                wallet = called[0].isolated_wallet if called[0].is_isolated else self.cross_wallet
                balance = wallet + sum(symbol_state.value - symbol_state.cost for symbol_state in called)
                assert sum(symbol_state.maintenance for symbol_state in called) >= Decimal("0.8") * balance

    def _accepted(self, row: dict[str, Any]) -> None:
        match row["action"]:
            case "set_margin_type":
                self.symbol_states[row["symbol"]].margin_type = row["margin_type"]
            case "change_position_margin":
                self.symbol_states[row["symbol"]].added += (1 if row["adding"] else -1) * row["amount"] * UNIT
            case "deposit":
                self.moved = row["amount"] * UNIT
            case "withdraw":
                self.moved = -row["amount"] * UNIT

    def _fill(self, symbol_state: SymbolState, row: dict[str, Any]) -> None:
        sign = 1 if row["side"] == "BUY" else -1
        price, quantity = Decimal(row["price"]), Decimal(row["quantity"])
        margin = symbol_state.isolated_wallet if symbol_state.is_isolated else self.cross_wallet
        closed = min(quantity, max(Decimal(0), -sign * symbol_state.position))
        released = rounded(symbol_state.cost * closed / abs(symbol_state.position)) if closed else Decimal(0)
        realised = -sign * price * closed - released if closed else Decimal(0)
        if closed:
            symbol_state.added -= rounded(symbol_state.added * closed / abs(symbol_state.position))
        is_new, symbol_state.spent = closed == abs(symbol_state.position), symbol_state.spent + sign * price * quantity
        symbol_state.cost += sign * price * (quantity - closed) - released
        symbol_state.position += sign * quantity
        if row["client_order_id"].startswith("autoclose-"):
            self.left = margin + realised
            fee = rounded(price * quantity * symbol_state.rules["liquidation_fee_e8"] * UNIT)
            fee = max(Decimal(0), min(fee, self.left))
            assert symbol_state.position == 0
        elif row["client_order_id"].startswith("adl_autoclose"):
            fee = Decimal(0)
        else:
            fee = rounded(price * quantity * self.rates[row["maker"]])
        symbol_state.spent = (
            symbol_state.cost + rounded(fee * (quantity - closed) / quantity) if is_new else symbol_state.spent + fee
        )
        self.realised += realised
        self.fees += fee
        self.wallet += realised - fee
        assert (Decimal(row["fee"]), Decimal(row["realised"])) == (fee, realised)
        assert (Decimal(row["wallet"]), Decimal(row["position"])) == (self.wallet, symbol_state.position)

    def _account(self, row: dict[str, Any]) -> None:
        amount = Decimal(row["wallet"]) - self.wallet
        match row["reason"]:
            case "FUNDING_FEE":
                assert self.funded is not None
                symbol_state, rate = self.funded
                sign = -1 if symbol_state.value * rate > 0 else 1
                assert amount == sign * rounded(abs(symbol_state.value * rate))
                self.funding += amount
                if symbol_state.is_isolated:
                    symbol_state.added += amount
            case "DEPOSIT" | "WITHDRAW":
                assert amount == self.moved
                self.transfers += amount
            case "INSURANCE_CLEAR":
                assert amount in (-self.left, -self.cross_wallet)
                assert amount > 0
                self.transfers += amount
            case _:
                assert amount == 0
        self.wallet += amount
        if symbol_state := self.symbol_states.get(row.get("symbol", "")):
            assert Decimal(row["position"]) == symbol_state.position
            assert Decimal(row["unrealised"]) == symbol_state.value - symbol_state.cost


def test_an_independent_reader_counts_round_trips_and_exits_in_the_log() -> None:
    log: list[dict[str, Any]] = []
    exchange = played(an_exchange(log=log.append, latency_ms=0), (0, 1_000, "b", 99), (1, 1_000, "s", 99))
    for start, sign, exit_price in ((10, BUY, 989), (20, SELL, 979), (30, BUY, 1_040)):
        last = exchange.markets[SYMBOL].last_price
        exchange.place_order(market(sign, 5, f"e{start}"))
        played(exchange, (start, last, "b" if sign > 0 else "s", 99))
        exchange.place_algo(stop(sign.opposite, 5, last - sign * 10, f"s{start}"))
        exchange.place_algo(take_profit(sign.opposite, 5, last + sign * 10, f"t{start}"))
        played(exchange, (start + 1, exit_price, "b" if sign < 0 else "s", 99))
        exchange.cancel_all_algo(SYMBOL)
    rows = [row for row in log if row["kind"] == "fill"]
    closing = [row for row in rows if row["position"] == "0"]
    assert [row["origin"] for row in closing] == ["STOP_MARKET", "TAKE_PROFIT_MARKET", "TAKE_PROFIT_MARKET"]
    assert [row["side"] for row in rows if not row["origin"]] == ["BUY", "SELL", "BUY"]
    assert all(json.loads(json.dumps(row)) == row and row["time"] >= T0 for row in log)
    kinds = {"start", "market", "accepted", "arrival", "trade", "order", "algo", "fill", "account"}
    assert {row["kind"] for row in log} == kinds
