"""The REST side of Binance USD-M Futures: commands, the account, and market data.

Every command is sent once, and once more only after its timestamp was refused, by which it has done nothing. Its
`Reply` has the outcome: accepted, refused or unknown.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from voltrade.background import is_cancelled
from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.account_reader import PAGE, AccountReader
from voltrade.exchange.client import Response, UsdmExchange, response_of
from voltrade.exchange.fee_prices import FeePrices
from voltrade.exchange.fields import Fields, rows_of
from voltrade.exchange.filters import instrument_of
from voltrade.exchange.messages import MessageReader, TradeRow
from voltrade.exchange.order_params import algo_params, id_params, order_params
from voltrade.exchange.remedies import Remedy, remedy_of, without_tags
from voltrade.exchange.responses import NO_ANSWER, NOT_SENT, Verb, classify
from voltrade.exchange.trading_hours import TradingHours
from voltrade.model import (
    AccountSummary,
    AlgoUpdate,
    CancelOrder,
    Income,
    Instrument,
    LookupOrder,
    OrderIntent,
    OrderUpdate,
    Reply,
    Snapshot,
)

log = logging.getLogger(__name__)

Action = Literal["submit", "cancel", "lookup"]


class RequestInterrupted(asyncio.CancelledError):
    """The task was cancelled while a request was sent, so its outcome is unknown.

    Attributes:
        reply: the UNKNOWN reply, for the journal.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.action} of {reply.client_order_id} was interrupted; its outcome is unknown")
        self.reply = reply


class _Target(NamedTuple):
    """The action of a command, and its order."""

    action: Action
    symbol: str
    client_order_id: str
    algo: bool


_VERBS: Mapping[Action, Verb] = {"submit": "POST", "cancel": "DELETE", "lookup": "GET"}

PAGE_WEIGHT = 20
"""Request weight of a page of aggTrades."""
BACKFILL_WEIGHT = 1_200
"""Request weight of a minute that backfill may use: half of the limit, so that orders have the other half."""
INVALID_TIMESTAMP = -1021
"""Code for a timestamp outside of recvWindow."""
CORRECTION = "timeDifference"
"""ccxt's option that has the correction of timestamps, ms."""
NOT_MODIFIED = (-4046, -4052, -4059, -4171)
"""Codes for a setting that already has the value."""


class BinanceRestClient:
    """Sends commands and queries over REST; an `exchange.ports.OrderGateway`.

    Quantities and prices are sent as exact decimal texts through ccxt's raw calls, which do not round.

    Args:
        exchange: from `connect`.
        name: of the endpoint, for the source of the filters.

    Attributes:
        fee_prices: of the assets in which fees are paid.
    """

    def __init__(self, exchange: UsdmExchange, name: str = "binance") -> None:
        self._exchange = exchange
        self._name = name
        self._readers: dict[str, MessageReader] = {}
        self.fee_prices = FeePrices(self.read)
        self._account = AccountReader(self.read, exchange.clock, self.fee_prices)
        self._hours = TradingHours(self.read, exchange.clock)

    @property
    def exchange_name(self) -> str:
        """What a person calls the exchange."""
        return {"sim": "the simulated venue", "demo": "Binance's demo"}.get(self._name, "Binance")

    # --- reading ----------------------------------------------------------------------------------------------------

    async def instrument(self, symbol: str, *, any_status: bool = False) -> Instrument:
        """Return the current filters of a symbol, also of one that is not trading if `any_status`.

        Raises:
            ExchangeError: exchangeInfo could not be read.
            DataError: the symbol is not listed, is not trading, or a filter is invalid.
        """
        instrument = await self._instrument(symbol, any_status)
        self.use(instrument)
        return instrument

    def use(self, instrument: Instrument) -> None:
        """Read and write a symbol's prices and quantities by filters that are known, so that none are asked for."""
        self._readers[instrument.symbol] = MessageReader(instrument, self.fee_prices)

    async def filters(self, symbol: str) -> Instrument:
        """Return the current filters of a symbol, but keep using the earlier ones for requests and responses.

        Raises:
            ExchangeError: they could not be read.
        """
        try:
            return await self._instrument(symbol, any_status=True)
        except DataError as error:
            raise ExchangeError(str(error)) from None

    async def exchange_info(self, symbol: str) -> Any:
        """Return exchangeInfo; a symbol outside of its market's hours has a status of its own: see `trading_hours`.

        Raises:
            ExchangeError: it could not be read.
            DataError: it is malformed.
        """
        info = await self.read("fapiPublicGetExchangeInfo")
        await self._hours.apply(info, symbol)
        return info

    async def _instrument(self, symbol: str, any_status: bool) -> Instrument:
        info = await self.exchange_info(symbol)
        time = Fields("exchangeInfo", info).integer("serverTime")
        source = f"exchangeInfo of {self._name} at {time}"
        return instrument_of(info, symbol, source, any_status=any_status)

    async def account_name(self) -> str:
        """Return the account's name at the exchange, which is the same for all of its API keys.

        Raises:
            ExchangeError: it could not be read.
        """
        try:
            rows = rows_of("balance", await self.read("fapiPrivateV3GetBalance"))
            names = {Fields("balance", row).text("accountAlias") for row in rows}
        except DataError as error:
            raise ExchangeError(f"the account's name could not be read: {error}") from None
        if len(names) != 1 or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names):
            raise ExchangeError(f"balance: must name one account by accountAlias, named {len(names)}")
        return names.pop()

    async def summary(self, symbol: str, settings: bool = True) -> AccountSummary:
        """Return what a regular comparison of the account reads; see `AccountReader.summary`."""
        return await self._account.summary(await self._reader(symbol), settings)

    async def snapshot(self, symbol: str, since_trade_id: int, settings: bool = True) -> Snapshot:
        """Return the account, its open orders, and our trades after an id; see `AccountReader.snapshot`."""
        return await self._account.snapshot(await self._reader(symbol), since_trade_id, settings)

    def begin_account(self, symbol: str) -> None:
        """Ask now what the next `snapshot` asks; see `AccountReader.begin`."""
        self._account.begin(symbol)

    async def income(self, symbol: str, since: int) -> tuple[Income, ...]:
        """Return the changes of the wallet since a time; see `AccountReader.income`."""
        return await self._account.income(await self._reader(symbol), since)

    async def order_names(self, symbol: str, order_ids: Sequence[int]) -> dict[int, str]:
        """Return the client order ids of ordinary orders by the exchange's ids; see `AccountReader.order_names`."""
        return await self._account.order_names(symbol, order_ids)

    async def agg_trades(
        self, symbol: str, from_id: int | None = None, limit: int = PAGE, start: int | None = None
    ) -> list[TradeRow]:
        """Return trades sorted by id, starting at an id or a time (ms), or the latest ones.

        Raises:
            ExchangeError: they could not be read.
        """
        reader = await self._reader(symbol)
        begin = {"fromId": from_id, "startTime": start}
        wanted = {"symbol": symbol, "limit": limit} | {name: at for name, at in begin.items() if at is not None}
        rows = await self.read("fapiPublicGetAggTrades", wanted)
        try:
            return sorted(map(reader.agg_trade, rows_of("aggTrades", rows)))
        except DataError as error:
            raise ExchangeError(f"aggTrades of {symbol} could not be read: {error}") from None

    async def minute_volumes(self, symbol: str, start: int, limit: int) -> list[tuple[int, int, int]]:
        """Return time (ms), volume (lots) and notional (ticks x lots) of each minute that starts at `start` or later.

        Raises:
            ExchangeError: they could not be read.
        """
        reader = await self._reader(symbol)
        wanted = {"symbol": symbol, "interval": "1m", "startTime": start, "limit": limit}
        rows = await self.read("fapiPublicGetKlines", wanted)
        ticklot = reader.instrument.tick_size * reader.instrument.step_size
        try:
            return [
                (int(row[0]), reader.lots(row[5]), int(Decimal(row[7]) / ticklot)) for row in rows_of("klines", rows)
            ]
        except (DataError, ArithmeticError, ValueError, TypeError, IndexError) as error:
            raise ExchangeError(f"klines of {symbol} could not be read: {error}") from None

    async def whole_days(self, symbol: str, most: int) -> list[tuple[Decimal, Decimal, int, Decimal]]:
        """Return volume, notional, number of trades and range, as a part of the price, of the last whole days.

        A day without trades at two prices is left out.

        Raises:
            ExchangeError: they could not be read.
        """
        rows = await self.read("fapiPublicGetKlines", {"symbol": symbol, "interval": "1d", "limit": most + 1})
        try:
            over = [row for row in rows_of("klines", rows) if int(row[6]) < self._exchange.clock()]
            parts = [([Decimal(row[place]) for place in (5, 7, 2, 3, 4)], int(row[8])) for row in over]
            return [
                (base, quote, trades, (high - low) / close)
                for (base, quote, high, low, close), trades in parts
                if trades and high > low
            ]
        except (DataError, ArithmeticError, ValueError, TypeError, IndexError) as error:
            raise ExchangeError(f"klines of {symbol} could not be read: {error}") from None

    async def clock_offset(self) -> int:
        """Return how many ms our clock is ahead of the exchange's, exact to half of the response time.

        Raises:
            ExchangeError: the exchange's time could not be read.
        """
        return (await self.clock_reading())[0]

    async def clock_reading(self) -> tuple[int, int]:
        """Return how many ms our clock is ahead of the exchange's, and how many the answer took.

        The true difference is less than half of that time away.

        Raises:
            ExchangeError: the exchange's time could not be read.
        """
        before = self._exchange.clock()
        body = await self.read("fapiPublicGetTime")
        after = self._exchange.clock()
        try:
            return (before + after) // 2 - Fields("time", body).integer("serverTime"), after - before
        except DataError as error:
            raise ExchangeError(str(error)) from None

    @property
    def timestamp_correction_ms(self) -> int:
        """What is taken from the clock's time in signed requests, since the exchange has refused its timestamp."""
        return int(self._exchange.options.get(CORRECTION, 0))

    @timestamp_correction_ms.setter
    def timestamp_correction_ms(self, ms: int) -> None:
        self._exchange.options[CORRECTION] = ms

    def on_clock_corrected(self, ahead_ms: int) -> None:
        """Count by the clock as it is now: it was ahead, and timestamps and the end of a block were reckoned by it."""
        self.timestamp_correction_ms = 0
        self._exchange.blocked_until -= ahead_ms

    @property
    def blocked_until(self) -> int:
        """Until when no request is sent, since the exchange blocks them, ms of the clock."""
        return self._exchange.blocked_until

    @property
    def used_weight(self) -> int:
        """Request weight used in the current minute, of 2,400, as the exchange last reported it."""
        return self._exchange.used_weight

    def has_weight(self, cost: int) -> bool:
        """Return whether a request of this weight fits into the half of the minute's that isn't kept for orders."""
        return self.used_weight + cost <= BACKFILL_WEIGHT

    async def wait_for_weight(self, cost: int) -> None:
        """Wait until a request of this weight fits into that half.

        Return at once if the clock does not move, as that of a tape may not.
        """
        before = self._exchange.clock()
        while not self.has_weight(cost):
            await asyncio.sleep(0.5)
            if self._exchange.clock() == before:
                return

    def reader(self, symbol: str) -> MessageReader:
        """Return the reader of a symbol; `instrument` must have been called for it."""
        return self._readers[symbol]

    # --- commands -----------------------------------------------------------------------------------------------------

    async def submit(self, intent: OrderIntent) -> Reply:
        """Send an order once; once more if its timestamp is refused, see `ask`.

        Raises:
            RequestInterrupted: the task was cancelled before the response came.
        """
        order = intent.order
        algo = order.order_type.is_conditional
        target, reader = _Target("submit", order.symbol, order.client_order_id, algo), self._readers.get(order.symbol)
        if reader is None:
            return self._reply(target, Response(NOT_SENT, 0, "not sent: the symbol's filters were never asked for"))
        call = "fapiPrivatePostAlgoOrder" if algo else "fapiPrivatePostOrder"
        params = algo_params(order, reader.instrument) if algo else order_params(order, reader.instrument)
        return await self._command(target, call, params)

    async def cancel(self, command: CancelOrder) -> Reply:
        """Cancel an order by its client id; REFUSED with -2011 if it is not open, for example because it has filled.

        Raises:
            RequestInterrupted: the task was cancelled before the response came.
        """
        call = "fapiPrivateDeleteAlgoOrder" if command.algo else "fapiPrivateDeleteOrder"
        target = _Target("cancel", command.symbol, command.client_order_id, command.algo)
        return await self._command(target, call, id_params(command))

    async def lookup(self, command: LookupOrder) -> Reply:
        """Query an order by its client id; REFUSED with -2013 if the exchange does not have it.

        The reply of a conditional order that was triggered also has the order that it became.
        """
        call = "fapiPrivateGetAlgoOrder" if command.algo else "fapiPrivateGetOrder"
        target = _Target("lookup", command.symbol, command.client_order_id, command.algo)
        reply = await self._command(target, call, id_params(command))
        if reply.algo_order is None or not reply.algo_order.order_id:
            return reply
        params = {"symbol": command.symbol, "orderId": reply.algo_order.order_id}
        child = await self.ask("fapiPrivateGetOrder", params)
        try:
            order, _ = self._orders_in(target._replace(client_order_id="", algo=False), child)
        except DataError as error:
            log.warning("the order of %s could not be read: %s", command.client_order_id, error)
            return reply
        return replace(reply, order=order)

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        """Set one-way mode, the margin type (`isolated` or `cross`) and the leverage; the account must be flat.

        Raises:
            ExchangeError: the exchange refused one of them.
        """
        kind = {"isolated": "ISOLATED", "cross": "CROSSED"}[margin_type]
        await self._change("fapiPrivatePostPositionSideDual", {"dualSidePosition": "false"})
        await self._change("fapiPrivatePostMarginType", {"symbol": symbol, "marginType": kind})
        await self._change("fapiPrivatePostLeverage", {"symbol": symbol, "leverage": leverage})

    # --- listen key ---------------------------------------------------------------------------------------------------

    async def listen_key(self) -> str:
        """Return a listen key; an active one is extended and returned again.

        Raises:
            ExchangeError: the exchange gave none.
        """
        body = await self.read("fapiPrivatePostListenKey")
        key = body.get("listenKey") if isinstance(body, dict) else None
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", key):
            raise ExchangeError("listenKey: must be letters and digits")
        self._exchange.add_secret(key)
        return key

    async def extend_listen_key(self) -> Response:
        """Extend the listen key; code -1125 means that it does not exist any more."""
        return await self.ask("fapiPrivatePutListenKey")

    # --- one request --------------------------------------------------------------------------------------------------

    async def _command(self, target: _Target, call: str, params: dict[str, Any]) -> Reply:
        try:
            response = await self.ask(call, params)
        except asyncio.CancelledError:
            unknown = Response(NO_ANSWER, 0, "interrupted before the response came")
            raise RequestInterrupted(self._reply(target, unknown)) from None
        if response.status != 200:
            return self._reply(target, response)
        try:
            return self._reply(target, response, *self._orders_in(target, response))
        except DataError as error:
            return self._reply(target, Response(NO_ANSWER, response.code, f"HTTP 200 without the order: {error}"))

    def _orders_in(self, target: _Target, response: Response) -> tuple[OrderUpdate | None, AlgoUpdate | None]:
        """Read the order in a response; it must be the order of the command."""
        _, symbol, client_order_id, algo = target
        reader, body = self._readers.get(symbol), Fields("response", response.body)
        name = "clientAlgoId" if algo else "clientOrderId"
        body.integer("algoId" if algo else "orderId", 1)
        if client_order_id and body.text(name) != client_order_id:
            raise body.error(name, f"must be {client_order_id}")
        if reader is None or (algo and not body.has("algoStatus")):  # the response to its cancel has the id only
            return None, None
        return (None, reader.algo_order(response.body)) if algo else (reader.order(response.body), None)

    def _reply(
        self, target: _Target, response: Response, order: OrderUpdate | None = None, algo: AlgoUpdate | None = None
    ) -> Reply:
        outcome = classify(response.status, response.code, response.text, _VERBS[target.action])
        code, text = (0, "") if response.status == 200 else (response.code, self._error_text(response))
        return Reply(self._exchange.clock(), *target, outcome, code, text, order, algo)

    def _error_text(self, response: Response) -> str:
        """Return status and text of a response without secrets and control characters, at most 200 characters long."""
        status = {NOT_SENT: "not sent", NO_ANSWER: "no answer"}.get(response.status, f"HTTP {response.status}")
        text = re.sub(r"[\x00-\x1f\x7f]+", " ", self._exchange.redact(f"{status}: {without_tags(response.text)}"))
        return text if len(text) <= 200 else f"{text[:197]}..."

    async def ask(self, call: str, params: Mapping[str, Any] | None = None) -> Response:
        """Do one raw request; if the exchange refuses its timestamp, correct the clock and try once more.

        Args:
            call: ccxt's name of the path, such as `fapiPrivateGetAccountConfig`.
            params: its parameters, without those of signing.
        """
        response = await self._response(call, params)
        if response.code == INVALID_TIMESTAMP and response.status == 400:
            try:
                self.timestamp_correction_ms = await self.clock_offset()
            except ExchangeError:
                return response
            response = await self._response(call, params)
        return response

    async def _response(self, call: str, params: Mapping[str, Any] | None) -> Response:
        try:
            body = await getattr(self._exchange, call)(dict(params or {}))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            return Response(NO_ANSWER, 0, "the connection was cancelled")  # a future was, not this task
        except Exception as error:
            # An exception without a response was raised before the request was passed to the transport.
            return vars(error).get("response") or Response(NOT_SENT, 0, type(error).__name__)
        is_json = isinstance(body, dict | list)
        return response_of(200, body, "") if is_json else Response(NO_ANSWER, 0, "the response is no JSON")

    async def read(self, call: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the decoded body of one raw request; see `ask`.

        Raises:
            ExchangeError: the exchange refused it, or could not be read.
        """
        response = await self.ask(call, params)
        if response.status != 200 or response.code not in (0, 200):
            raise self.failure(call, response)
        return response.body

    async def _change(self, call: str, params: Mapping[str, Any]) -> None:
        response = await self.ask(call, params)
        if response.status != 200 and response.code not in NOT_MODIFIED:
            raise self.failure(call, response)

    def failure(self, call: str, response: Response) -> ExchangeError:
        """Return the error of a request that failed, with what it means and what to do."""
        remedy = self.remedy(response)
        code = f", code {response.code}" if response.code else ""
        return ExchangeError(f"{call}: {self._error_text(response)}{code}", remedy.item, remedy.says, remedy.wanted)

    def remedy(self, response: Response) -> Remedy:
        """Return what a failed request means for a person, and what to do."""
        return remedy_of(response, self._exchange)

    async def _reader(self, symbol: str) -> MessageReader:
        if symbol not in self._readers:
            try:
                await self.instrument(symbol)
            except DataError as error:
                raise ExchangeError(str(error)) from None
        return self._readers[symbol]
