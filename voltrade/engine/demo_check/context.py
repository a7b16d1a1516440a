"""What every part of the check uses: the exchange, the recorded requests, the listeners, and the rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from voltrade.engine.authorisation import largest_notional
from voltrade.engine.checks import told
from voltrade.engine.demo_check.cleanup import CleanUp, Terms
from voltrade.engine.demo_check.frames import Frame, FrameRecord, Listener
from voltrade.engine.demo_check.report import Report, Row, Verdict
from voltrade.engine.demo_check.sent_orders import SentOrders
from voltrade.engine.modes import Wiring
from voltrade.errors import ConfigError, VoltradeError
from voltrade.exchange.account_facts import least_lots
from voltrade.exchange.client import Response
from voltrade.model import OUR_ORDERS, Instrument

log = logging.getLogger(__name__)

EVENT_WITHIN_S = 5.0
"""Longest wait for an event of the user stream."""
CEILING = "capital x max_notional_multiple"
"""Settings that the largest notional follows from."""


@dataclass
class CheckContext:
    """One check in progress."""

    wiring: Wiring
    report: Report
    record: FrameRecord
    on_row: Callable[[Row], None]
    """Called with each row, for those who watch."""
    on_address: Callable[[str], None]
    """Called with the IP address from which we come, to be shown and not to be stored."""
    stamp: str
    """Part of the client order ids of this check."""
    on_part: Callable[[str], None] = lambda name: None
    """Called with the name of each part as it begins."""
    market: Listener | None = None
    users: list[Listener] = field(default_factory=list)
    """Listeners of the private stream, by different paths and hosts; the first is the one that trading uses."""
    wallet_before: Decimal = Decimal(0)
    lots: int = 0
    """What the check has bought at the market."""
    is_deaf: bool = False
    """Whether the private stream does not tell of orders."""
    last_trade_id: int = 0
    """The last trade of the account before the check."""
    sent: SentOrders = field(default_factory=SentOrders)
    """Every order of this check, for the clean-up."""
    _count: int = 0
    _clean_up: CleanUp | None = None
    _ask: Decimal = Decimal(0)
    """The best ask as it was last read."""

    @property
    def instrument(self) -> Instrument:
        return self.wiring.instrument

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def now(self) -> int:
        return self.wiring.clock()

    # --- rows ---------------------------------------------------------------------------------------------------------

    def row(self, part: str, item: str, expected: str, found: str, ok: bool | Verdict = True, took_ms: int = 0) -> bool:
        """Add a row; return whether it is not failed."""
        verdict: Verdict = ok if isinstance(ok, str) else "ok" if ok else "failed"
        text = self.wiring.exchange.redact(found)
        row = Row(part, item, expected, text if len(text) <= 300 else f"{text[:297]}...", verdict, took_ms)
        self.report.rows.append(row)
        self.on_row(row)
        return verdict != "failed"

    def answer(self, question: str, seen: str) -> None:
        """Add what was seen for a question of `report.QUESTIONS`."""
        before = self.report.answers.get(question, "")
        self.report.answers[question] = "; ".join(filter(None, [before, self.wiring.exchange.redact(seen)]))

    @asynccontextmanager
    async def part(self, name: str, verdict: Verdict = "failed") -> AsyncIterator[None]:
        """Do a part of the check; an error in it is a row with this verdict, and the next part begins."""
        begun = self.now
        self.on_part(name)
        try:
            yield
        except Exception as error:  # of whatever kind: the parts after it, the record and the verdicts still come
            log.warning("%s: %r", name, error)
            said = told(error) if isinstance(error, VoltradeError) else repr(error)
            self.row(name, f"{name}, to its end", "no error", said, verdict, self.now - begun)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def ask(self, call: str, **params: Any) -> Response:
        """Do a raw request by ccxt's name."""
        return await self.sent.ask(self.wiring.rest, call, params, self.wiring.clock)

    def hear(self, frame: Frame) -> None:
        """Take what an event tells of an order of the check."""
        self.sent.learn_event(frame.order)

    async def read(self, call: str, **params: Any) -> Any:
        """Return the body of a raw request.

        Raises:
            ExchangeError: It was refused.
        """
        response = await self.ask(call, **params)
        if response.status != 200:
            raise self.wiring.rest.failure(call, response)
        return response.body

    def new_name(self, letter: str) -> str:
        """Return a new client order id."""
        self._count += 1
        return f"{self.prefix}{self._count}{letter}"

    @property
    def prefix(self) -> str:
        """How the names of this check's orders begin, and no others."""
        return f"{OUR_ORDERS}check{self.stamp}-"

    @property
    def terms(self) -> Terms:
        """What a clean-up needs to know of this check."""
        window = self.wiring.config.execution.recv_window_ms
        is_simulated = self.wiring.endpoint.name == "sim"
        return Terms(self.symbol, self.prefix, self.instrument.tick_size, window, is_simulated)

    @property
    def clean_up(self) -> CleanUp:
        """The clean-up of this check."""
        if self._clean_up is None:
            self._clean_up = CleanUp(self.wiring.exchange, self.wiring.rest, self.terms, self.sent)
        return self._clean_up

    @property
    def largest_notional(self) -> Decimal:
        """The most that an order of the check may be worth: the ceiling of a session with these settings."""
        return largest_notional(self.wiring.config)

    async def _refuse_above_ceiling(self, lots: int, params: Mapping[str, Any]) -> None:
        """Refuse an order that could open a position above the ceiling, whatever it is for.

        Raises:
            ConfigError: Names the settings that the ceiling follows from.
        """
        if params.get("reduceOnly") == "true" or params.get("closePosition") == "true":
            return
        price = Decimal(params.get("price") or params.get("triggerPrice") or self._ask or (await self.touch())[1])
        if (notional := self.instrument.quantity(lots) * price) > self.largest_notional:
            most = f"at most {self.largest_notional:.2f} {self.instrument.quote_asset}, {CEILING}"
            raise ConfigError(f"order of the check: must be {most}, was {notional:.2f}")

    async def order(self, side: str, lots: int, name: str, **params: Any) -> Response:
        """Send an ordinary order.

        Raises:
            ConfigError: It could open a position above the ceiling.
        """
        await self._refuse_above_ceiling(lots, params)
        quantity = f"{self.instrument.quantity(lots):f}"
        given = {"symbol": self.symbol, "side": side, "quantity": quantity, "newClientOrderId": name}
        return await self.ask("fapiPrivatePostOrder", **given, **params)

    async def far_order(self, name: str, lots: int, price: Decimal) -> Response:
        """Send a post-only buy at a price."""
        return await self.order("BUY", lots, name, type="LIMIT", timeInForce="GTX", price=f"{price:f}")

    async def stop(self, side: str, name: str, trigger: Decimal, lots: int = 0, **params: Any) -> Response:
        """Send a conditional market order: of a quantity and reduce-only, or else with `closePosition`.

        Raises:
            ConfigError: It could open a position above the ceiling.
        """
        sized = {"quantity": f"{self.instrument.quantity(lots):f}", "reduceOnly": "true"}
        given = {"algoType": "CONDITIONAL", "symbol": self.symbol, "side": side, "type": "STOP_MARKET"}
        given |= {"triggerPrice": f"{trigger:f}", "clientAlgoId": name, "workingType": "CONTRACT_PRICE"}
        given |= sized if lots else {"closePosition": "true"}
        whole = {**given, **params}
        await self._refuse_above_ceiling(lots, whole)
        return await self.ask("fapiPrivatePostAlgoOrder", **whole)

    async def cancel(self, name: str) -> Response:
        """Cancel an ordinary order."""
        return await self.ask("fapiPrivateDeleteOrder", symbol=self.symbol, origClientOrderId=name)

    async def cancel_stop(self, name: str) -> Response:
        """Cancel a conditional order."""
        return await self.ask("fapiPrivateDeleteAlgoOrder", clientAlgoId=name)

    async def position(self) -> Decimal:
        """Return the position of the symbol, in coins."""
        return await self.clean_up.position()

    async def within_position(self, wanted: Decimal, seconds: float) -> bool:
        """Wait until the position is `wanted`; return whether it became so."""
        deadline = asyncio.get_running_loop().time() + seconds
        while await self.position() != wanted:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.25)
        return True

    async def wallet(self) -> Decimal:
        """Return the wallet balance of the quote asset."""
        account = await self.read("fapiPrivateV3GetAccount")
        of_quote = (Decimal(row["walletBalance"]) for row in account["assets"] if self._is_quote(row))
        return sum(of_quote, Decimal(0))

    def _is_quote(self, row: Any) -> bool:
        return bool(row["asset"] == self.instrument.quote_asset)

    # --- prices -------------------------------------------------------------------------------------------------------

    async def touch(self) -> tuple[Decimal, Decimal]:
        """Return the best bid and ask."""
        book = await self.read("fapiPublicGetTickerBookTicker", symbol=self.symbol)
        self._ask = Decimal(book["askPrice"])
        return Decimal(book["bidPrice"]), self._ask

    def on_tick(self, price: Decimal) -> Decimal:
        """Round a price down to the tick."""
        tick = self.instrument.tick_size
        return (price / tick).to_integral_value(ROUND_FLOOR) * tick

    async def far_below(self) -> Decimal:
        """Return a price far below the market that the exchange still accepts for an order."""
        bid, _ = await self.touch()
        return self.on_tick(bid * (1 - (1 - self.instrument.multiplier_down) * Decimal("0.6")))

    async def least(self) -> int:
        """Return the smallest quantity in lots that may be traded at the market."""
        bid, _ = await self.touch()
        return least_lots(self.instrument, bid)

    async def least_notional(self) -> Decimal:
        """Return what the largest of the check's smallest orders is worth: at the market, and far below it."""
        prices = [await self.far_below(), *await self.touch()]
        return max(self.instrument.quantity(least_lots(self.instrument, price)) * price for price in prices)

    # --- events -------------------------------------------------------------------------------------------------------

    async def event(
        self, kind: str, name: str = "", status: str = "", within_s: float = EVENT_WITHIN_S
    ) -> Frame | None:
        """Wait for an event of the private stream; None if it did not come."""

        def matches(frame: Frame) -> bool:
            is_it = frame.kind == kind and name in ("", frame.name)
            return is_it and status in ("", str(frame.order.get("X", "")))

        if not self.users:
            return None
        return await self.users[0].first(matches, within_s)

    def events_of(self, name: str) -> list[Frame]:
        """Return the events of an order, in the order of arrival."""
        return [frame for frame in self.users[0].frames if frame.name == name] if self.users else []

    async def within(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Wait until something is true; return whether it became true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True


def coded(response: Response) -> str:
    """Return an answer in words: accepted, or its code and text."""
    if response.status == 200:
        return "accepted"
    return f"{response.code} {response.text}" if response.code else f"HTTP {response.status} {response.text}"
