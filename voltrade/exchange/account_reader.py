"""Reads the account over REST: by few questions for a regular comparison, or whole."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.fee_prices import FeePrices
from voltrade.exchange.fields import Fields, rows_of
from voltrade.exchange.messages import MessageReader
from voltrade.exchange.ports import Read
from voltrade.model import DAY_MS, AccountSummary, AlgoUpdate, Income, OrderUpdate, Snapshot

log = logging.getLogger(__name__)

FEES_MS = 86_400_000
"""How long fee rates are used before they are read again."""
PAGE, MAX_PAGES = 1000, 100
"""The most rows in one page, and the most pages of one reading of our trades, or of the income."""
INCOME_DAYS = 89
"""How far back the exchange keeps the income history: three months."""

NAMES_AT_ONCE, NAMES_WITHIN_S = 5, 1.0
"""How many orders are asked for their names at once, and how long a snapshot waits for the answers."""


BEGUN_S = 2.5
"""How long before a snapshot its questions may have been sent: long enough for an engine to import the rest of itself,
and so short that what it then believes of an account that others change is not older than a slow answer."""


class _Question(NamedTuple):
    """A question about the account, and the symbol that it is asked with; empty for none."""

    name: str
    symbol: str = ""


def _account_of(symbol: str) -> tuple[_Question, _Question]:
    return _Question("fapiPrivateV3GetAccount"), _Question("fapiPrivateV3GetPositionRisk", symbol)


def _open_orders(symbol: str) -> tuple[_Question, _Question]:
    return _Question("fapiPrivateGetOpenOrders", symbol), _Question("fapiPrivateGetOpenAlgoOrders", symbol)


def _settings_of(symbol: str) -> tuple[_Question, _Question]:
    return _Question("fapiPrivateGetSymbolConfig", symbol), _Question("fapiPrivateGetAccountConfig")


def _fees_of(symbol: str) -> _Question:
    return _Question("fapiPrivateGetCommissionRate", symbol)


class _Settings(NamedTuple):
    """Settings of the account and of one symbol."""

    leverage: int
    margin_type: str
    max_notional: int
    hedge_mode: bool
    multi_assets: bool


class AccountReader:
    """Reads the account of one API key.

    Args:
        read: sends a question.
        clock: returns the time in ms.
        fee_prices: are kept up to date.
    """

    def __init__(self, read: Read, clock: Callable[[], int], fee_prices: FeePrices) -> None:
        self._read = read
        self._fee_prices = fee_prices
        self._clock = clock
        self._settings: dict[str, _Settings] = {}
        """As they were read last, by symbol."""
        self._order_names: dict[int, str] = {}
        self._naming: dict[int, asyncio.Task[None]] = {}
        """Questions for names that have no answer yet, by the exchange's order id."""
        self._times_asked = Counter[int]()
        """How often the name of an order was asked for, by the exchange's id."""
        self._fee_rates: dict[str, tuple[int, int, int]] = {}
        """When they were read, ms; taker and maker fee; by symbol."""
        self._begun: dict[_Question, asyncio.Task[Any]] = {}
        """Questions of `begin` whose answers nothing has used yet."""
        self._begun_at = 0.0

    def begin(self, symbol: str) -> None:
        """Ask now for a part of what the next `snapshot` asks; it uses the answers if it comes within BEGUN_S.

        For an engine that comes back. Trades and open orders aren't asked for: it isn't known yet from which trade on
        its journal lacks them, and a stop of seconds ago may be gone.
        """
        questions: tuple[_Question, ...] = (*_account_of(symbol), *_settings_of(symbol), _fees_of(symbol))
        self._begun_at = asyncio.get_running_loop().time()
        self._begun = {question: asyncio.create_task(self._send(question)) for question in questions}
        for task in self._begun.values():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may never be used

    def _send(self, question: _Question) -> Coroutine[Any, Any, Any]:
        return self._read(question.name, {"symbol": question.symbol} if question.symbol else None)

    async def _ask(self, question: _Question) -> Any:
        """Return the answer to a question, or to the same one of `begin`."""
        begun = self._begun.pop(question, None)
        if begun is not None and asyncio.get_running_loop().time() - self._begun_at < BEGUN_S:
            with suppress(ExchangeError):
                return await begun
        return await self._send(question)

    async def summary(self, reader: MessageReader, settings: bool = True) -> AccountSummary:
        """Return wallet, position, settings and the ids of the open orders; request weight 7, with settings 17.

        Raises:
            ExchangeError: a part of the account could not be read.
        """
        symbol = reader.instrument.symbol
        self._fee_prices.refresh(reader.instrument.quote_asset, self._clock())
        found, account, orders, algos = await self._read_all(
            self._settings_of(reader, symbol, settings),
            self._ask(_Question("fapiPrivateV3GetAccount")),
            *map(self._ask, _open_orders(symbol)),
        )
        try:
            wallet, _ = reader.wallet(account)
            waiting = [order for order in self._algo_orders(reader, algos) if order.status == "NEW"]
            listed: tuple[OrderUpdate | AlgoUpdate, ...] = (*self._orders(reader, orders), *waiting)
            return AccountSummary(
                time=self._clock(),
                symbol=symbol,
                wallet=wallet,
                position=reader.position_lots(account),
                **found._asdict(),
                orders=tuple(order.client_order_id for order in listed),
            )
        except DataError as error:
            raise ExchangeError(f"the account of {symbol} could not be read: {error}") from None

    async def snapshot(self, reader: MessageReader, since_trade_id: int, settings: bool = True) -> Snapshot:
        """Return the account: wallet, position, settings, open orders of both kinds, and our trades after an id.

        The request weight is 17, with settings 27, and once a day 20 more for the fees. With `since_trade_id` 0 the
        trades are the latest 1,000. Their fees are read last, at the prices that are known by then.

        Raises:
            ExchangeError: a part of the account could not be read.
        """
        symbol = reader.instrument.symbol
        self._fee_prices.refresh(reader.instrument.quote_asset, self._clock())
        found, (taker, maker), account, positions, orders, algos, trades = await self._read_all(
            self._settings_of(reader, symbol, settings),
            self._fees_of(reader, symbol),
            *map(self._ask, (*_account_of(symbol), *_open_orders(symbol))),
            self._user_trades(symbol, since_trade_id),
        )
        try:
            wallet, available = reader.wallet(account)
            return Snapshot(
                time=self._clock(),
                symbol=symbol,
                wallet=wallet,
                available=available,
                taker_fee_e8=taker,
                maker_fee_e8=maker,
                leverage=found.leverage,
                margin_type=found.margin_type,
                hedge_mode=found.hedge_mode,
                position=reader.position(positions, found.leverage, found.margin_type),
                orders=self._orders(reader, orders),
                algo_orders=self._algo_orders(reader, algos),
                fills=tuple(reader.user_trades(trades)),
                multi_assets=found.multi_assets,
                max_notional=found.max_notional,
            )
        except DataError as error:
            raise ExchangeError(f"the account of {symbol} could not be read: {error}") from None

    async def income(self, reader: MessageReader, since: int) -> tuple[Income, ...]:
        """Return the changes of the quote asset's wallet since a time, ms, oldest first; at most those of INCOME_DAYS.

        A question is for a week at most, and has request weight 30.

        Raises:
            ExchangeError: a part could not be read, or there are more than MAX_PAGES pages.
        """
        begin, rows = max(since, self._clock() - INCOME_DAYS * DAY_MS), dict[tuple[str, ...], Income]()
        for _ in range(MAX_PAGES):
            if begin > self._clock():
                return tuple(rows.values())
            wanted = {"startTime": begin, "endTime": begin + 7 * DAY_MS - 1, "limit": PAGE}
            answer = await self._read("fapiPrivateGetIncome", wanted)
            try:
                page = reader.income(rows_of("income", answer))
            except DataError as error:
                raise ExchangeError(f"the income of the account could not be read: {error}") from None
            rows |= {name: row for name, asset, row in page if asset == reader.instrument.quote_asset}
            last = max((row.time for *_, row in page), default=0)
            begin = max(last, begin + 1) if len(page) == PAGE else begin + 7 * DAY_MS
        raise ExchangeError(f"the income since {since} is more than {MAX_PAGES} pages")

    async def order_names(self, symbol: str, order_ids: Iterable[int]) -> dict[int, str]:
        """Return the client order ids of orders by the exchange's ids, which is all that a trade has of its order.

        An order whose name can't be read, or not within NAMES_WITHIN_S, is left out. At most NAMES_AT_ONCE are asked
        for at once, first those that were asked for least often. Request weight 1 for each.
        """
        unnamed = [each for each in order_ids if each not in self._order_names and each not in self._naming]
        for order_id in sorted(unnamed, key=self._times_asked.__getitem__)[: NAMES_AT_ONCE - len(self._naming)]:
            self._times_asked[order_id] += 1
            self._naming[order_id] = asyncio.create_task(self._read_name(symbol, order_id))
        if self._naming:
            await asyncio.wait(self._naming.values(), timeout=NAMES_WITHIN_S)
        return dict(self._order_names)

    async def _read_name(self, symbol: str, order_id: int) -> None:
        try:
            row = await self._read("fapiPrivateGetOrder", {"symbol": symbol, "orderId": order_id})
            self._order_names[order_id] = Fields("order", row).text("clientOrderId")
        except (DataError, ExchangeError) as error:
            log.info("order %d could not be named: %s", order_id, error)
        finally:
            del self._naming[order_id]

    @staticmethod
    async def _read_all(*requests: Coroutine[Any, Any, Any]) -> list[Any]:
        """Send requests at once; return their answers, or raise the first error when all are over."""
        answers: list[Any] = await asyncio.gather(*requests, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    @staticmethod
    def _orders(reader: MessageReader, rows: Any) -> tuple[OrderUpdate, ...]:
        return tuple(map(reader.order, rows_of("openOrders", rows)))

    @staticmethod
    def _algo_orders(reader: MessageReader, rows: Any) -> tuple[AlgoUpdate, ...]:
        return tuple(map(reader.algo_order, rows_of("openAlgoOrders", rows)))

    async def _settings_of(self, reader: MessageReader, symbol: str, read: bool) -> _Settings:
        """Return the settings of the account and a symbol: read anew, or as they were read last."""
        if read or symbol not in self._settings:
            config, account = await self._read_all(*map(self._ask, _settings_of(symbol)))
            try:
                flags = Fields("accountConfig", account)
                modes = flags.flag("dualSidePosition"), flags.flag("multiAssetsMargin")
                self._settings[symbol] = _Settings(*reader.symbol_config(config), *modes)
            except DataError as error:
                raise ExchangeError(f"the settings of {symbol} could not be read: {error}") from None
        return self._settings[symbol]

    async def _fees_of(self, reader: MessageReader, symbol: str) -> tuple[int, int]:
        """Return taker and maker fee; they are read once a day, since reading them is dear."""
        now, known = self._clock(), self._fee_rates.get(symbol)
        if known is None or now - known[0] >= FEES_MS:
            rates = await self._ask(_fees_of(symbol))
            try:
                self._fee_rates[symbol] = (now, *reader.fee_rates(rates))
            except DataError as error:
                raise ExchangeError(f"the fees of {symbol} could not be read: {error}") from None
        _, taker, maker = self._fee_rates[symbol]
        return taker, maker

    async def _user_trades(self, symbol: str, since_trade_id: int) -> list[Any]:
        """Return the rows of our trades after an id, or the latest ones if it is 0."""
        trades: list[Any] = []
        last = since_trade_id
        for _ in range(MAX_PAGES):
            wanted = {"symbol": symbol, "limit": PAGE} | ({"fromId": last + 1} if last else {})
            rows = await self._read("fapiPrivateGetUserTrades", wanted)
            try:
                page = [(Fields("userTrade", row).integer("id", 1), row) for row in rows_of("userTrades", rows)]
            except DataError as error:
                raise ExchangeError(f"our trades of {symbol} could not be read: {error}") from None
            new = [(trade_id, row) for trade_id, row in page if trade_id > last]
            trades += [row for _, row in new]
            if not new or len(page) < PAGE or not since_trade_id:
                return trades
            last = max(trade_id for trade_id, _ in new)
        raise ExchangeError(f"our trades of {symbol} after {since_trade_id} are more than {MAX_PAGES * PAGE}")
