"""Leave nothing open of a check, whatever fails: it goes on until the exchange proves that nothing of it is left.

Its rules, which `check_flat` uses too:

1. What was provably bought and not provably sold is sold, reduce-only. Everything else in the account is others', and
   is only told.
2. At most one exit is undecided; the next is sent once the end of the last one is proven. While the account holds more
   than what was bought, each stop counts as such an exit: it is cancelled first, as a query may be behind, and only the
   answer to a cancel proves that it has sold nothing.
3. What is not sold yet, and what an undecided order may have bought, has one stop of just that quantity. Other stops
   are cancelled once that one rests, and all once it isn't needed; an order is cancelled by its name until its end is
   proven. At most one stop of the clean-up is undecided, and none is placed beside coins of others while another stop
   may have sold: what has no stop for it is told.
4. It is over once no order that was sent can act, and nothing that was bought is left; or once the exchange refuses to
   reduce the position, for as long as an order needs to arrive: others have closed it, and what they buy later is
   theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any, TypeVar

from voltrade.engine.demo_check.sent_orders import (
    CANCEL_STOP,
    ORDER,
    RESTING,
    STOP,
    SentOrder,
    SentOrders,
    is_not_found,
)
from voltrade.errors import ExchangeError, SessionError
from voltrade.exchange.client import Response, UsdmExchange
from voltrade.exchange.responses import ABSENT
from voltrade.exchange.rest import BinanceRestClient
from voltrade.model import Outcome
from voltrade.orders.order_states import ABSENCE_MARGIN_MS

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE_S = 10.0
"""Longest pause between two rounds; they begin short, and again when an order ends or something is executed."""
SAID_EVERY_S = 60.0
"""How often a clean-up that can't end says so, and the same failure is told again."""
SIMULATED_MOST_S = 900.0
"""How long a simulated venue is waited for."""
READ_LAG_MS = 60_000
"""How far queries and lists of orders may be behind: half a minute was seen, and minutes of queries."""
STUCK_MS = 30_000
"""A stop that triggers tells nothing new for this long before it counts as one that sells nothing more."""
LIST_LIMIT = 1_000
"""The longest list of orders; one that is full proves no absence."""
STOP_BELOW = Decimal("0.01")
"""Distance of a stop that the clean-up places, as a part of the price."""
NOTHING_TO_REDUCE, STOPS_IN_THE_WAY = -2022, -4118
WEIGHTS = {
    "fapiPrivateV3GetPositionRisk": 5,
    "fapiPrivateGetAllOrders": 5,
    "fapiPrivateGetAllAlgoOrders": 5,
    "fapiPublicGetTickerBookTicker": 2,
}
"""Request weights that aren't 1."""
MOST_WEIGHT, ROUND_WEIGHT = 300, 60
"""What a clean-up may use in a minute, of the 2,400 that all at this address have, and about the most of a round."""
RESERVED_WEIGHT, BARE_S = 30, 5.0
"""What is kept of it for stops, and how often one is tried where there is none while all else waits for the minute."""
EXIT_AGAIN_MS = 30_000
"""For how long no stop is cancelled for another exit, after one that was refused beside coins of others."""
LIST_READS = 7
"""How many parts of a list of orders are read in a round, where it is full."""
ASKED_TOO_OFTEN_MS = 5_000
"""Least pause after the exchange says that it was asked too often."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a clean-up needs to know of its check."""

    symbol: str
    prefix: str
    """How the names of the check's orders begin."""
    tick: Decimal
    recv_window_ms: int
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
        self._nothing_since = self._not_before = self._exit_again = 0
        self._was_nothing = False
        """Whether the exchange has refused once to reduce a position that it shows as gone."""
        self._found: set[str] = set()
        self._absent: set[str] = set()
        """What the last look-up said of the orders that it asked for; in neither where it got no answer."""
        self._states: dict[str, tuple[str, int]] = {}
        """State of each order as it was last told, and since when."""
        self._said: dict[str, int] = {}
        self.hint = ""
        """How the user may end a clean-up that can't end by itself."""

    async def run(self) -> None:
        """Clean up until nothing of the check is left; errors and bans only make it take longer.

        Raises:
            SessionError: A simulated venue does not answer for a quarter of an hour.
        """
        begun, rounds, said, seen = self._now, 0, self._now, self._progress
        self._nothing_since, self._was_nothing = 0, False
        await self._pause(0.0)
        while not await self.attempt(False, self._round()):
            rounds = rounds + 1 if seen == self._progress else 1
            seen = self._progress
            if self._terms.is_simulated and self._now - begun > SIMULATED_MOST_S * 1000:
                raise SessionError("the simulated venue does not show that nothing is left, and may be gone")
            if self._now - said >= SAID_EVERY_S * 1000:
                said = self._now
                log.warning("clean-up: after %s s %s%s", f"{(said - begun) // 1000:,}", self._left, self.hint)
            await self._pause(min(0.25 * rounds, LONGEST_PAUSE_S))
        if self._sent.net > 0:
            self._sent.note({"closed": f"{self._sent.net:f}"})

    @property
    def _now(self) -> int:
        return self._exchange.clock()

    @property
    def _progress(self) -> tuple[Decimal, int]:
        """What begins the pauses anew when it changes: what is bought, and how many orders are undecided."""
        return self._sent.net, len(self._sent.undecided)

    async def _pause(self, seconds: float) -> None:
        """Pause, and longer where nothing may be asked; the weight of a minute never delays a stop that is missing."""
        if seconds or self._blocked_s > 0:
            await asyncio.sleep(max(seconds, self._blocked_s))
        while (busy_s := self._busy_s) > 0:
            await self.attempt(None, self._protect())
            await asyncio.sleep(max(min(busy_s, BARE_S), self._blocked_s))

    @property
    def _blocked_s(self) -> float:
        """How long nothing may be asked: a ban, or the pause after a 429."""
        blocked_s = min((self._exchange.blocked_until - self._now) / 1000, SAID_EVERY_S)
        return max(blocked_s, (self._not_before - self._now) / 1000)

    @property
    def _busy_s(self) -> float:
        """How long it takes until the weight of a minute leaves room for a round."""
        now, used = self._now, self._sent.used
        while used and used[0][0] <= now - 60_000:
            used.popleft()
        over, free_at = sum(weight for _, weight in used) + ROUND_WEIGHT + RESERVED_WEIGHT - MOST_WEIGHT, now
        for at, weight in used:
            if over <= 0:
                break
            over, free_at = over - weight, at + 60_000
        return (free_at - now) / 1000

    @property
    def _left(self) -> str:
        """What is not proven to be closed, and where to close it by hand."""
        net, names = self._sent.net, ", ".join(order.name for order in self._sent.undecided)
        parts = [f"{net:f} bought and not sold"] if net > 0 else []
        parts += [f"without a proven end: {names}"] if names else []
        by_hand = f"by hand: Binance, Futures, {self._terms.symbol}, Positions and Open Orders"
        return f"left: {'; '.join(parts)}; going on ({by_hand})"

    def _say(self, text: str) -> None:
        """Tell of a failure, the same at most once a minute."""
        if text not in self._said or self._now - self._said[text] >= SAID_EVERY_S * 1000:
            self._said[text] = self._now
            log.warning("clean-up: %s", text)

    async def attempt(self, otherwise: T, step: Awaitable[T]) -> T:
        """Do a step; whatever fails in it, the clean-up goes on."""
        try:
            return await step
        except Exception as error:  # a position must not stay open for it
            self._say(f"{type(error).__name__}: {self._exchange.redact(str(error))[:200]}")
            return otherwise

    async def _round(self) -> bool:
        """Look at everything and do what is to be done; return whether it is over."""
        await self._look_up()
        self._held = await self.attempt(None, self.position()) if self._sent.net > 0 or self._sent.undecided else None
        await self._cancel([order for order in self._sent.undecided if not order.is_stop and not order.is_market])
        await self.attempt(None, self._close())
        await self.attempt(None, self._protect())
        await self._cancel(self._needless_stops())
        return self._is_over

    @property
    def _is_over(self) -> bool:
        is_closed = self._sent.net <= 0 or self._is_gone
        return is_closed and all(map(self._is_stuck, self._sent.undecided))

    # --- what there is ------------------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        """Ask for the state of each order that can act, and read the lists for those that no query decides."""
        self._found.clear()
        self._absent.clear()
        orders = self._sent.undecided
        await asyncio.gather(*(self.attempt(None, self._look_at(order)) for order in orders))
        open_ones = [order for order in orders if order.can_act]
        unseen = [order for order in open_ones if order.name not in self._found]
        ordinary = [order for order in unseen if not order.is_stop] + [order for order in open_ones if order.has_left]
        for kind, wanted in (("", ordinary), ("Algo", [order for order in unseen if order.is_stop])):
            await self.attempt(None, self._look_at_lists(kind, wanted))

    async def _look_at(self, order: SentOrder) -> None:
        """Ask for one order, and for the order that it became; what the answers tell is noted where they come in."""
        by_name = {"clientAlgoId": order.name} if order.is_stop else {"origClientOrderId": order.name}
        is_there = await self._is_there("Algo" if order.is_stop else "", **by_name)
        (self._found if is_there else self._absent).add(order.name)
        if order.child:
            await self._is_there("", orderId=str(order.child))
        if is_there:
            state = f"{order.status} {order.became} {self._is_nothing_held}"
            self._states[order.name] = state, self._since_when(order.name, state)

    def _since_when(self, name: str, state: str) -> int:
        before, since = self._states.get(name, ("", 0))
        return since if before == state else self._now

    async def _is_there(self, kind: str, **by: Any) -> bool:
        response = await self._ask(call := f"fapiPrivateGet{kind}Order", symbol=self._terms.symbol, **by)
        if not is_not_found(response):
            self._body(call, response)
            return True
        if response.code not in ABSENT:
            self._say(f"{call} answers code {response.code} for an order: taken as not found")
        return False

    async def _look_at_lists(self, kind: str, orders: list[SentOrder]) -> None:
        """Read the lists; an order without an answer that neither they nor a query show never arrived."""
        if not orders:
            return
        at, since = self._now, min(order.first_sent for order in orders) - READ_LAG_MS
        is_whole = await self._read_list(f"fapiPrivateGetAll{kind}Orders", since, at)
        await self._read(f"fapiPrivateGetOpen{kind}Orders", symbol=self._terms.symbol)
        for order in orders if is_whole else []:
            is_late = at >= order.sent + self._arrives_ms + READ_LAG_MS
            order.is_absent = is_late and order.outcome is Outcome.UNKNOWN and order.name in self._absent

    async def _read_list(self, call: str, since: int, until: int) -> bool:
        """Read a list of orders, in halves of the time where it is full; return whether all of it was read."""
        parts = [{"startTime": since}]
        for _ in range(LIST_READS):
            part = parts.pop(0)
            rows = await self._read(call, symbol=self._terms.symbol, limit=LIST_LIMIT, **part)
            if len(rows) >= LIST_LIMIT:
                begin, end = part["startTime"], part.get("endTime", until + READ_LAG_MS)
                middle = (begin + min(end, until)) // 2
                parts += [{"startTime": begin, "endTime": middle}, {**part, "startTime": middle + 1}]
            if not parts:
                return True
        return False

    @property
    def _arrives_ms(self) -> int:
        """How long after it was sent an order may arrive."""
        return self._terms.recv_window_ms + ABSENCE_MARGIN_MS

    def _is_stuck(self, order: SentOrder) -> bool:
        """Whether a stop has triggered, and since then tells the same, such as TRIGGERING, with nothing left to sell.

        Its state may never become a final one. One that the exchange shows as open holds the clean-up all the same.
        """
        _, since = self._states.get(order.name, ("", 0))
        is_same = order.name in self._found and self._now - since >= STUCK_MS and not order.may_be_two
        return is_same and order.has_left and order.became not in RESTING and self._is_nothing_held

    @property
    def _is_nothing_held(self) -> bool:
        """Whether there is nothing to sell: no position, or a short one, which is somebody else's."""
        return self._held is not None and self._held <= 0

    @property
    def _is_gone(self) -> bool:
        """Whether the exchange refused to reduce the position, which it shows as gone, for long enough."""
        return bool(self._nothing_since) and self._now - self._nothing_since >= self._arrives_ms + READ_LAG_MS

    async def position(self) -> Decimal:
        """Return the position of the symbol, in coins."""
        rows = await self._read("fapiPrivateV3GetPositionRisk", symbol=self._terms.symbol)
        return sum((Decimal(row["positionAmt"]) for row in rows if row["symbol"] == self._terms.symbol), Decimal(0))

    async def to_sell(self) -> Decimal:
        """Return how much may be sold now, in coins."""
        await self._look_up()
        self._held = await self.position()
        await self._end_stops_beside_others()
        return self._sellable

    @property
    def _sellable(self) -> Decimal:
        """What was provably bought and is not sold, unless an exit, or a stop beside coins of others, may sell it."""
        net, held, sales = self._sent.net, self._held, [order for order in self._sent.undecided if order.is_sale]
        may_sell = [order for order in sales if order.is_market or self._is_shared]
        if may_sell or net <= 0 or (self._was_nothing and self._is_shared):
            return Decimal(0)
        return min(net, held) if held is not None and held > 0 else net

    @property
    def _is_shared(self) -> bool:
        """Whether the account may hold coins of others beside those of the check."""
        return self._held is None or self._held > self._sent.net

    def _rests(self, stop: SentOrder) -> bool:
        """Whether a stop was seen to rest in this round."""
        return stop.is_stop and stop.name in self._found and not stop.has_left

    @property
    def _to_protect(self) -> Decimal:
        """What is bought and not sold, and what an undecided order may have bought."""
        may_buy = sum((o.quantity - o.executed for o in self._sent.undecided if not o.is_sale), Decimal(0))
        net = min(self._sent.net, Decimal(0)) if self._nothing_since else self._sent.net
        return max(may_buy + net, Decimal(0))

    # --- what is done -------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Sell what may be sold; where the exchange has nothing to reduce, note since when."""
        await self._end_stops_beside_others()
        response = await self._exit()
        if response is not None and response.code == STOPS_IN_THE_WAY:
            await self._cancel([order for order in self._sent.undecided if order.is_stop])
            response = await self._exit()
        if response is not None:
            is_nothing = response.code == NOTHING_TO_REDUCE and self._is_nothing_held
            self._was_nothing = self._was_nothing or is_nothing
            self._nothing_since = (self._nothing_since or self._now) if is_nothing else 0
            self._exit_again = self._now + EXIT_AGAIN_MS if response.status != 200 else 0
        elif self._was_nothing and self._held is not None and self._is_shared:  # what others bought later
            self._nothing_since = self._nothing_since or self._now

    async def _end_stops_beside_others(self) -> None:
        """Cancel the stops before an exit, where they could sell coins of others after it."""
        sales = [order for order in self._sent.undecided if order.is_sale]
        is_wanted = self._sent.net > 0 and self._is_shared and not self._was_nothing
        if is_wanted and self._now >= self._exit_again and all(map(self._rests, sales)):
            await self._cancel(sales)

    async def _exit(self) -> Response | None:
        """Send an exit, if anything may be sold; the answer has what it executed, or else a query."""
        if (quantity := self._sellable) <= 0:
            return None
        name, given = self._name("x"), {"side": "SELL", "type": "MARKET", "quantity": f"{quantity:f}"}
        given |= {"reduceOnly": "true", "newOrderRespType": "RESULT"}
        response = await self._ask(ORDER, newClientOrderId=name, symbol=self._terms.symbol, **given)
        if (order := self._sent.by_name[name]).can_act:
            await self.attempt(None, self._look_at(order))
        return response

    async def _protect(self) -> None:
        """Place a stop for what can't be sold yet, where none rests; one without an answer is sent again by its name.

        A name can't rest twice. Beside coins of others nothing is placed while a stop may have sold.
        """
        needed = self._to_protect
        stops = [order for order in self._sent.undecided if order.is_stop]
        lost = [order for order in stops if not order.is_seen and order.outcome is Outcome.UNKNOWN and order.quantity]
        placed = [order for order in stops if order not in lost and not order.has_left]
        if needed <= 0 or any(-order.quantity == needed for order in placed):
            return
        if any(order.name not in self._absent or self._now < order.sent + self._arrives_ms for order in lost):
            return
        undecided = [o.name for o in stops if (o.has_left and self._is_shared) or (self._is_own(o) and o not in lost)]
        if undecided:
            self._say(f"{needed:f} has no stop of its quantity before the end of {', '.join(undecided)} is proven")
            return
        book = await self._read("fapiPublicGetTickerBookTicker", symbol=self._terms.symbol)
        ticks = (Decimal(book["bidPrice"]) * (1 - STOP_BELOW) / self._terms.tick).to_integral_value(ROUND_FLOOR)
        given = {"algoType": "CONDITIONAL", "side": "SELL", "type": "STOP_MARKET", "workingType": "CONTRACT_PRICE"}
        given |= {"triggerPrice": f"{ticks * self._terms.tick:f}", "quantity": f"{needed:f}", "reduceOnly": "true"}
        name = lost[0].name if lost else self._name("s")
        await self._ask(STOP, clientAlgoId=name, symbol=self._terms.symbol, **given)

    def _is_own(self, order: SentOrder) -> bool:
        """Whether an order is of a clean-up: the names of the check go on with a number."""
        return not order.name.removeprefix(self._terms.prefix)[:1].isdigit()

    def _needless_stops(self) -> list[SentOrder]:
        """Return the stops to cancel: all but the one that is needed, and none before that one rests.

        Beside coins of others one of the clean-up that is too large gives way before; and so does a name of which one
        has triggered and another may rest.
        """
        needed = self._to_protect
        stops = [order for order in self._sent.undecided if order.is_stop]
        kept = [order for order in stops if -order.quantity == needed > 0 and order.status in RESTING]
        if kept or needed <= 0:
            return [order for order in stops if order not in kept[:1]]
        large = [order for order in stops if self._is_own(order) and -order.quantity > needed and self._is_shared]
        return [order for order in stops if order in large or (order.may_be_two and order.has_left)]

    async def _cancel(self, orders: list[SentOrder]) -> None:
        await asyncio.gather(*(self.attempt(None, self._cancel_one(order)) for order in orders))

    async def _cancel_one(self, order: SentOrder) -> None:
        if order.is_stop:
            response = await self._ask(CANCEL_STOP, symbol=self._terms.symbol, clientAlgoId=order.name)
            is_late = order.has_left and self._now >= order.sent + self._arrives_ms + READ_LAG_MS
            if order.may_be_two and is_late and is_not_found(response):
                self._sent.note({"name": order.name, "is_one": True})
        else:
            await self._ask("fapiPrivateDeleteOrder", symbol=self._terms.symbol, origClientOrderId=order.name)

    async def of_others(self) -> str:
        """Return what the symbol has that isn't the check's, and what became of the check's; empty for nothing."""
        calls = [f"fapiPrivateGetOpen{kind}Orders" for kind in ("", "Algo")]
        rows = [row for call in calls for row in await self._read(call, symbol=self._terms.symbol)]
        names = [str(row.get("clientAlgoId") or row.get("clientOrderId")) for row in rows]
        held, net = await self.position(), self._sent.bought
        closed = [f"others closed {net:f} that the check had bought"] if net > 0 else []
        closed += [f"the check sold {-net:f} more than it bought"] if net < 0 else []
        unseen = [order.name for order in self._sent.by_name.values() if order.is_absent]
        return ", ".join(
            [
                *([f"a position of {held:f}"] if held else []),
                *(name for name in names if not name.startswith(self._terms.prefix)),
                *closed,
                *(f"{name} had no answer and was never seen" for name in unseen),
            ]
        )

    # --- requests -----------------------------------------------------------------------------------------------------

    def _name(self, letter: str) -> str:
        self._count += 1
        return f"{self._terms.prefix}{self._letter}{self._count}{letter}"

    async def _ask(self, call: str, **params: Any) -> Response:
        self._sent.note({"at": self._now, "weight": WEIGHTS.get(call, 1)})
        response = await self._sent.ask(self._rest, call, params, self._exchange.clock)
        if response.status in (418, 429):
            self._not_before = self._now + ASKED_TOO_OFTEN_MS
        return response

    async def _read(self, call: str, **params: Any) -> Any:
        return self._body(call, await self._ask(call, **params))

    @staticmethod
    def _body(call: str, response: Response) -> Any:
        if response.status != 200:
            raise ExchangeError(f"{call}: HTTP {response.status}, code {response.code}: {response.text[:100]}")
        return response.body
