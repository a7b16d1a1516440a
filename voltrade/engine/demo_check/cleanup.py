"""Leave nothing open of a check, whatever fails: it goes on until the exchange says that nothing of it is left.

It closes first. A stop stays until what the check bought is sold, and one is placed where none rests. Only what the
check itself sent is touched, by its names, and only as much is sold as its own orders bought. It is over once each
order that was sent has a final state, or can't arrive any more, and the position agrees with what was executed. An
order whose answer was lost, and that no query finds, is found by its trades.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any, TypeVar

from voltrade.engine.demo_check.sent_orders import ORDER, STOP, SentOrder, SentOrders
from voltrade.errors import ExchangeError, SessionError
from voltrade.exchange.client import Response, UsdmExchange
from voltrade.exchange.responses import ABSENT, IN_MOTION
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Outcome
from voltrade.order_states import ABSENCE_MARGIN_MS
from voltrade.snapshot_check import CLOCKS_APART_MS

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE_S = 10.0
"""Longest pause between two rounds; they begin without one, and again when position or what was bought changes."""
SAID_EVERY_S = 60.0
"""How often a clean-up that can't end says so."""
SIMULATED_MOST_S = 900.0
"""How long a simulated venue is waited for."""
DISAGREES_S = 30.0
"""So long a position may differ from what the check's own orders and others' trades explain."""
EXIT_LOOKS, EXIT_LOOK_S = 8, 0.2
"""How often an exit that was accepted is looked at before a stop is placed for what it has not closed yet."""
LISTINGS = 2
"""So many lists of open stops without it end a stop that is cancelled or has no answer, and can't be looked up."""
STOP_BELOW = Decimal("0.01")
"""Distance of a stop that the clean-up places, as a part of the price."""
OPEN = ("NEW", "PARTIALLY_FILLED")
FINAL = ("FILLED", "FINISHED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED")
UNSEEN = ("", "absent")
"""States of an order that no query has found yet."""
OF_THE_KEY = frozenset({-2014, -2015})
NOTHING_TO_REDUCE = -2022


@dataclass(frozen=True, slots=True)
class Terms:
    """What a clean-up needs to know of its check."""

    symbol: str
    prefix: str
    """How the names of the check's orders begin."""
    tick: Decimal
    recv_window_ms: int
    begun: int
    """When the check began, ms UTC."""
    is_simulated: bool = False
    """Whether the exchange is a simulated one, which may have ended with its check."""


class CleanUp:
    """Cancels and closes what one check has sent."""

    def __init__(
        self, exchange: UsdmExchange, rest: BinanceRestClient, terms: Terms, sent: SentOrders, letter: str = "c"
    ) -> None:
        """Make a clean-up; `run` does it.

        Args:
            exchange: Gives clock and the end of a ban.
            rest: Does the requests.
            terms: Of the check.
            sent: The orders of the check; those of the clean-up are added.
            letter: Part of the names of the clean-up's own orders.
        """
        self._exchange, self._rest, self._terms, self._sent, self._letter = exchange, rest, terms, sent, letter
        self._count = 0
        self._held: Decimal | None = None
        self._differs_since = self._refused_since = 0
        self._foreign: set[int] = set()
        self._cancelled: set[str] = set()
        self._unlisted: dict[str, int] = {}
        self._states: dict[str, tuple[str, int, int]] = {}
        self._said = ""
        self.hint = ""
        """How the user may end a clean-up that can't end by itself."""

    async def run(self) -> None:
        """Clean up until nothing of the check is left; errors and bans only make it take longer.

        Raises:
            SessionError: A simulated venue does not answer for a quarter of an hour.
        """
        begun, rounds, said, seen = self._now, 0, self._now, (self._held, self._bought)
        while not await self.attempt(False, self._round()):
            rounds = rounds + 1 if seen == (self._held, self._bought) else 1
            seen = self._held, self._bought
            if self._terms.is_simulated and self._now - begun > SIMULATED_MOST_S * 1000:
                raise SessionError("the simulated venue does not show that nothing is left, and may be gone")
            if self._now - said >= SAID_EVERY_S * 1000:
                said = self._now
                waited_s = (said - begun) // 1000
                self._say(f"after {waited_s:,} s nothing proves that nothing is left; going on{self.hint}")
            blocked_s = (self._exchange.blocked_until - self._now) / 1000
            await asyncio.sleep(max(min(0.25 * rounds, LONGEST_PAUSE_S), min(blocked_s, SAID_EVERY_S)))

    @property
    def _now(self) -> int:
        return self._exchange.clock()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("clean-up: %s", text)

    async def attempt(self, otherwise: T, step: Awaitable[T]) -> T:
        """Do a step; whatever fails in it, the clean-up goes on."""
        try:
            return await step
        except Exception as error:  # a position must not stay open for it
            self._say(f"{type(error).__name__}: {self._exchange.redact(str(error))[:200]}")
            return otherwise

    async def _round(self) -> bool:
        """Look at everything and do what is to be done; return whether nothing was, and nothing can come."""
        await self._look_up()
        is_known = not self._not_found or await self.attempt(None, self._traded_by_others()) is not None
        self._held = await self.attempt(None, self.position())
        if self._bought > 0:
            await self.attempt(None, self._close(self._bought))
            await self._follow_exits()
            if self._bought > 0:
                await self.attempt(None, self._protect(self._bought))
            self._held = await self.attempt(None, self.position())
        is_flat = is_known and self._bought <= 0 and await self._agrees() and self._bought <= 0  # it may find some
        is_left = await self._cancel(is_flat)
        return is_flat and not is_left and self._is_settled

    # --- what there is ------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        """Ask for the state of each order that may still change."""
        orders = [order for order in self._sent.by_name.values() if not self._is_over(order)]
        await asyncio.gather(*(self.attempt(None, self._look_at(order)) for order in orders))

    @staticmethod
    def _is_over(order: SentOrder) -> bool:
        return order.is_final or order.outcome is Outcome.REFUSED

    async def _look_at(self, order: SentOrder) -> None:
        if order.is_stop:
            await self._look_at_stop(order)
            return
        is_late = self._is_late(order)
        body = await self._query("fapiPrivateGetOrder", origClientOrderId=order.name)
        if not body:
            self._not_there(order, is_late)
            return
        order.status = body["status"]
        self._executed(order, body)
        order.is_final = order.status in FINAL

    async def _look_at_stop(self, order: SentOrder) -> None:
        is_late = self._is_late(order)
        body = await self._query("fapiPrivateGetAlgoOrder", clientAlgoId=order.name)
        if not body:
            self._not_there(order, is_late)
            return
        order.status = body["algoStatus"]
        child = str(body.get("actualOrderId") or "0")
        became = None if child == "0" else await self._query("fapiPrivateGetOrder", orderId=child)
        if became:
            self._executed(order, became)
            order.is_final = became["status"] in FINAL
        elif child == "0":
            order.executed, order.is_final = Decimal(0), order.status in FINAL and order.status != "FINISHED"
        self._note_state(order, f"{order.status} {child} {became['status'] if became else 'absent'}")

    def _not_there(self, order: SentOrder, is_late: bool) -> None:
        """Note that no query finds an order, which ends one without an answer that is late, and one that is cancelled.

        One that was accepted may rest all the same: the exchange may find it only minutes later.
        """
        order.status = "absent"
        order.is_final = order.name in self._cancelled or (is_late and order.outcome is Outcome.UNKNOWN)

    def _note_state(self, order: SentOrder, state: str) -> None:
        """Note since when a stop has told the same, and when it told it last, ms."""
        told, since, _ = self._states.get(order.name, ("", 0, 0))
        self._states[order.name] = (state, since if told == state else self._now, self._now)

    @staticmethod
    def _executed(order: SentOrder, body: Any) -> None:
        order.executed = Decimal(body["executedQty"]) * (1 if body["side"] == "BUY" else -1)
        order.ids.add(int(body["orderId"]))

    async def _query(self, call: str, **params: Any) -> Any:
        """Return an order, or None if there is none."""
        response = await self._ask(call, symbol=self._terms.symbol, **params)
        if not is_not_found(response):
            return self._body(call, response)
        if response.code not in ABSENT:
            self._say(f"{call} answers code {response.code} for an order: taken as not found")
        return None

    async def bought(self) -> Decimal:
        """Return what the check has bought and not sold, in coins."""
        await self._look_up()
        return self._bought

    @property
    def _bought(self) -> Decimal:
        """What the check has bought and not sold; where that isn't known, what it may have."""
        return sum(map(self._counted, self._sent.by_name.values()), Decimal(0))

    def _counted(self, order: SentOrder) -> Decimal:
        """Return what an order has executed; of one that can't be looked up, what it has by its answer."""
        if order.executed is not None:
            return order.executed
        is_done = order.outcome is Outcome.ACCEPTED and order.is_market
        return order.quantity if is_done or self._may_have_bought(order) else Decimal(0)

    @staticmethod
    def _may_have_bought(order: SentOrder) -> bool:
        """Whether an order is one to buy without an answer that no query has decided."""
        is_undecided = order.outcome is Outcome.UNKNOWN and order.executed is None and order.status != "absent"
        return is_undecided and order.is_market and order.quantity > 0

    @property
    def _is_settled(self) -> bool:
        """Whether no order that was sent can execute any more."""
        return all(map(self._can_not_come, self._sent.by_name.values()))

    def _can_not_come(self, order: SentOrder) -> bool:
        is_past = order.status == "absent" and order.is_market and self._is_late(order)  # a market order never rests
        return self._is_over(order) or is_past or self._is_spent(order)

    def _is_spent(self, order: SentOrder) -> bool:
        """Whether a stop has told the same for a while, such as TRIGGERING, with nothing left that it could sell.

        Its state may never become a final one. One that the exchange lists as open holds the clean-up all the same.
        """
        state, since, told = self._states.get(order.name, ("", 0, 0))
        is_open = state.endswith(OPEN)
        is_sold = self._is_nothing_held and self._bought <= 0
        return is_sold and not is_open and told - since >= DISAGREES_S * 1000

    @property
    def _is_nothing_held(self) -> bool:
        """Whether there is nothing to sell: no position, or a short one, which is somebody else's."""
        return self._held is not None and self._held <= 0

    def _is_late(self, order: SentOrder) -> bool:
        """Whether an order that has not arrived can't any more."""
        return self._now >= order.sent + self._terms.recv_window_ms + ABSENCE_MARGIN_MS

    async def position(self) -> Decimal:
        """Return the position of the symbol, in coins."""
        rows = await self._read("fapiPrivateV3GetPositionRisk", symbol=self._terms.symbol)
        return sum((Decimal(row["positionAmt"]) for row in rows if row["symbol"] == self._terms.symbol), Decimal(0))

    async def _agrees(self) -> bool:
        """Whether the position is what others' trades explain; after a while one that nobody explains is others'."""
        if self._held is None:
            return False
        if self._held == 0 or self._held == await self.attempt(None, self._traded_by_others()):
            self._differs_since = 0
            return True
        self._differs_since = (self._differs_since or self._now) if self._is_settled else 0
        return bool(self._differs_since) and self._now - self._differs_since >= DISAGREES_S * 1000

    async def _traded_by_others(self) -> Decimal:
        """Return what was traded since the check began by orders that aren't the check's."""
        rows = await self._read("fapiPrivateGetUserTrades", symbol=self._terms.symbol, startTime=self._terms.begun)
        by_order: dict[int, list[Any]] = {}
        for row in rows:
            by_order.setdefault(row["orderId"], []).append(row)
        for number, trades in by_order.items():
            await self._find_by_trades(number, trades)
        ids = self._ids()
        return sum((traded(trades) for number, trades in by_order.items() if number not in ids), Decimal(0))

    def _ids(self) -> set[int]:
        return {number for order in self._sent.by_name.values() for number in order.ids}

    @property
    def _not_found(self) -> list[SentOrder]:
        """The orders whose answer was lost and that no query finds; they may have executed all the same."""
        orders = [order for order in self._sent.by_name.values() if not order.is_stop]
        return [order for order in orders if order.outcome is Outcome.UNKNOWN and order.status == "absent"]

    async def _find_by_trades(self, number: int, trades: list[Any]) -> None:
        """Take the trades of one order for those of an order that isn't found, if they may be and no name denies it."""
        fit = [order for order in self._not_found if number in order.ids]
        if not fit and number not in self._ids() | self._foreign:
            fit = [order for order in self._not_found if not order.ids and may_be_of(order, trades)]
            found = await self.attempt(None, self._query("fapiPrivateGetOrder", orderId=number)) if fit else None
            if found:
                fit = [order for order in fit if order.name == found["clientOrderId"]]
                self._foreign |= set() if fit else {number}
        for order in fit[:1]:
            order.executed = max(order.executed or Decimal(0), traded(trades), key=abs)
            order.ids.add(number)

    # --- what is done -------------------------------------------------------------------------------------------------

    async def _close(self, bought: Decimal) -> None:
        """Sell what was bought, reduce-only, unless an earlier exit may still execute."""
        if self._exits_in_flight():
            return
        bought = min(bought, await self._sellable(bought))
        quantity = min(bought, self._held) if self._held is not None and self._held > 0 else bought
        if quantity <= 0:
            return
        given = {"side": "SELL", "type": "MARKET", "quantity": f"{quantity:f}", "reduceOnly": "true"}
        response = await self._ask(ORDER, newClientOrderId=self._name("x"), symbol=self._terms.symbol, **given)
        if response.code == NOTHING_TO_REDUCE and self._is_nothing_held:
            self._closed_by_others()
        else:
            self._refused_since = 0

    async def _sellable(self, bought: Decimal) -> Decimal:
        """Return how much may be sold: of what only may be bought, what the position has beyond others' trades."""
        unsure = sum((o.quantity for o in self._sent.by_name.values() if self._may_have_bought(o)), Decimal(0))
        if not unsure:
            return bought
        others = None if self._held is None else await self.attempt(None, self._traded_by_others())
        own = Decimal(0) if self._held is None or others is None else self._held - others
        return max(bought - unsure, own)

    async def _follow_exits(self) -> None:
        """Give an exit that was accepted a moment to execute."""
        for _ in range(EXIT_LOOKS):
            await self._look_up()
            if not any(order.outcome is Outcome.ACCEPTED for order in self._exits_in_flight()):
                return
            await asyncio.sleep(EXIT_LOOK_S)

    def _exits_in_flight(self) -> list[SentOrder]:
        """Return the exits that may still execute, or whose answer was lost and that no query has decided yet."""
        exits = [order for order in self._sent.by_name.values() if order.is_market and order.quantity < 0]
        exits = [order for order in exits if not self._is_over(order)]
        return [order for order in exits if order.outcome is Outcome.UNKNOWN or not self._is_late(order)]

    def _closed_by_others(self) -> None:
        """Count as sold what for a while neither the position nor an exit shows: the user has closed it by hand."""
        self._refused_since = self._refused_since or self._now
        if self._now - self._refused_since >= self._terms.recv_window_ms + ABSENCE_MARGIN_MS:
            gone = SentOrder(self._name("g"), False, -self._bought, True, self._now, Outcome.REFUSED)
            gone.executed = -self._bought
            self._sent.by_name[gone.name] = gone

    async def _protect(self, bought: Decimal) -> None:
        """Place a stop for what can't be sold yet, where none rests or may; a late one is sent again by its name."""
        stops = [order for order in self._sent.by_name.values() if order.is_stop and order.quantity <= 0]
        if any(self._may_rest(order) and (not order.quantity or -order.quantity >= bought) for order in stops):
            return
        undecided = [o.name for o in stops if o.status == "" and not self._is_over(o) and -o.quantity == bought]
        book = await self._read("fapiPublicGetTickerBookTicker", symbol=self._terms.symbol)
        ticks = (Decimal(book["bidPrice"]) * (1 - STOP_BELOW) / self._terms.tick).to_integral_value(ROUND_FLOOR)
        given = {"algoType": "CONDITIONAL", "side": "SELL", "type": "STOP_MARKET", "workingType": "CONTRACT_PRICE"}
        given |= {"triggerPrice": f"{ticks * self._terms.tick:f}", "quantity": f"{bought:f}", "reduceOnly": "true"}
        name = undecided[0] if undecided else self._name("s")
        await self._ask(STOP, clientAlgoId=name, symbol=self._terms.symbol, **given)

    def _may_rest(self, stop: SentOrder) -> bool:
        """Whether a stop rests, or may: it was accepted and isn't seen yet, or may still arrive."""
        is_unseen = stop.status in UNSEEN and not self._is_over(stop)
        return stop.status == "NEW" or (is_unseen and (stop.outcome is Outcome.ACCEPTED or not self._is_late(stop)))

    async def _cancel(self, is_flat: bool) -> bool:
        """Cancel the check's open orders, and once nothing is to be protected its stops; return whether any is left."""
        kinds = [(False, "fapiPrivateDeleteOrder", "origClientOrderId")]
        kinds += [(True, "fapiPrivateDeleteAlgoOrder", "clientAlgoId")] if is_flat else []
        left = [await self.attempt(True, self._cancel_kind(*kind)) for kind in kinds]
        return any(left)

    async def _cancel_kind(self, stops: bool, call: str, key: str) -> bool:
        late = [order for order in self._sent.by_name.values() if stops and order.is_stop and self._is_unproven(order)]
        listed = [name for name in await self.open_names(stops) if name.startswith(self._terms.prefix)]
        for order in late:
            self._unlisted[order.name] = 0 if order.name in listed else self._unlisted.get(order.name, 0) + 1
            order.is_final = self._unlisted[order.name] >= LISTINGS
        known = [o.name for o in self._sent.by_name.values() if o.is_stop == stops and self._may_be_open(o)]
        exits = {order.name for order in self._exits_in_flight()}
        names = [name for name in dict.fromkeys([*listed, *known]) if name not in exits]
        await asyncio.gather(*(self.attempt(None, self._cancel_one(call, key, name)) for name in names))
        return bool(listed or known)

    def _may_be_open(self, order: SentOrder) -> bool:
        """Whether an order is open, or was accepted and isn't seen yet."""
        is_unseen = order.status in UNSEEN and order.outcome is Outcome.ACCEPTED and not order.is_market
        return order.status in OPEN or (is_unseen and not self._is_over(order))

    def _is_unproven(self, order: SentOrder) -> bool:
        """Whether no query tells the end of an order that is cancelled, or has no answer and can't arrive any more."""
        is_unseen = order.outcome is Outcome.UNKNOWN and order.status in UNSEEN
        is_past = is_unseen or (order.name in self._cancelled and order.status not in OPEN)
        return is_past and self._is_late(order) and not self._is_over(order)

    async def _cancel_one(self, call: str, key: str, name: str) -> None:
        response = await self._ask(call, symbol=self._terms.symbol, **{key: name})
        if response.status == 200 and (order := self._sent.by_name.get(name)):
            order.status = "CANCELED"
            self._cancelled.add(name)

    async def open_names(self, stops: bool) -> list[str]:
        """Return the names of the open orders, or stops, of the symbol, whose ever they are."""
        call, key = ("OpenAlgoOrders", "clientAlgoId") if stops else ("OpenOrders", "clientOrderId")
        return [str(row[key]) for row in await self._read(f"fapiPrivateGet{call}", symbol=self._terms.symbol)]

    async def of_others(self) -> str:
        """Return what the symbol has that isn't the check's; empty for nothing."""
        names = [*await self.open_names(False), *await self.open_names(True)]
        others = [name for name in names if not name.startswith(self._terms.prefix)]
        held = await self.position() - self._bought
        return ", ".join([*([f"a position of {held:f}"] if held else []), *others])

    # --- requests -----------------------------------------------------------------------------------------------------

    def _name(self, letter: str) -> str:
        self._count += 1
        return f"{self._terms.prefix}{self._letter}{self._count}{letter}"

    async def _ask(self, call: str, **params: Any) -> Response:
        return await self._sent.ask(self._rest, call, params, self._now)

    async def _read(self, call: str, **params: Any) -> Any:
        return self._body(call, await self._ask(call, **params))

    @staticmethod
    def _body(call: str, response: Response) -> Any:
        if response.status != 200:
            raise ExchangeError(f"{call}: HTTP {response.status}, code {response.code}: {response.text[:100]}")
        return response.body


def is_not_found(response: Response) -> bool:
    """Return whether the answer to a query for one order says that there is none.

    The exchange has several codes for it, of which some aren't documented. Codes down to -1999 are of the request,
    such as a wrong time; those of the key and of an order in motion say nothing of it either.
    """
    is_of_order = response.code <= -2000 and response.code not in OF_THE_KEY | IN_MOTION
    return response.code in ABSENT or (response.status == 400 and is_of_order)


def traded(trades: list[Any]) -> Decimal:
    """Return what trades have bought, in coins; below zero where they sold."""
    return sum((Decimal(row["qty"]) * (1 if row["side"] == "BUY" else -1) for row in trades), Decimal(0))


def may_be_of(order: SentOrder, trades: list[Any]) -> bool:
    """Return whether trades may be of this order: of its side, at most its quantity, and not before it was sent."""
    quantity, since = traded(trades), min(row["time"] for row in trades)
    fits = quantity * order.quantity > 0 and abs(quantity) <= abs(order.quantity)
    return fits and order.first_sent <= since + CLOCKS_APART_MS
