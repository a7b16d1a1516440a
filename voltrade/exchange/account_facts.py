"""What Binance says of an account, its key and a symbol before a session: rights, assets, and what else is open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.client import Response
from voltrade.exchange.fields import Fields
from voltrade.exchange.rest import BinanceRestClient
from voltrade.exchange.trading_hours import UNTIL
from voltrade.model import MONEY, Instrument

OPEN = ("v3/account positions", "openOrders", "openAlgoOrders")


@dataclass(frozen=True, slots=True)
class SymbolFacts:
    """What exchangeInfo says of a symbol, besides its filters."""

    contract_type: str
    status: str
    delivery: int
    """Time of its delivery or delisting, ms UTC; for a perpetual contract far in the future."""
    reduce_only_side: str = ""
    """Side on which only reduce-only orders are allowed; empty for none."""
    status_until: int = 0
    """Time at which its market opens again, ms UTC; 0 unless that is why it doesn't trade."""


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What an account may do, what it holds, and what is open in it."""

    can_trade: bool
    assets: Mapping[str, Decimal]
    """Wallet balance of each asset that has one."""
    positions: Mapping[str, Decimal]
    """Position of each symbol that has one, in coins; shorts are negative."""
    orders: tuple[tuple[str, str], ...]
    """Symbol and client order id of each open order, conditional ones too."""


@dataclass(frozen=True, slots=True)
class KeyRights:
    """What an API key may do beside trading futures. What is only advised on is None where Binance doesn't tell it."""

    reads: bool
    trades_futures: bool
    withdraws: bool
    portfolio_margin: bool
    transfers: bool | None = None
    """Whether it may move assets between accounts."""
    has_address_list: bool | None = None
    """Whether only listed addresses may use the key."""


async def symbol_facts(rest: BinanceRestClient, symbol: str) -> SymbolFacts:
    """Read type, status and delivery of a symbol.

    Raises:
        ExchangeError: They could not be read.
    """
    try:
        return symbol_facts_of(await rest.exchange_info(symbol), symbol)
    except DataError as error:
        raise ExchangeError(str(error)) from None


def symbol_facts_of(exchange_info: object, symbol: str) -> SymbolFacts:
    """Read type, status and delivery of a symbol from exchangeInfo.

    Raises:
        DataError: the symbol is not listed, or a field is malformed.
    """
    rows = Fields("exchangeInfo", exchange_info).parts("symbols")
    row = next((row for row in rows if row.text("symbol") == symbol), None)
    if row is None:
        raise DataError(f"symbol must be listed at the exchange, was {symbol}")
    sides = [part.text("positionControlSide") for part in row.parts("filters") if part.has("positionControlSide")]
    return SymbolFacts(
        row.text("contractType") if row.has("contractType") else "",
        row.text("status"),
        row.integer("deliveryDate") if row.has("deliveryDate") else 0,
        next((side for side in sides if side != "NONE"), ""),
        row.integer(UNTIL) if row.has(UNTIL) else 0,
    )


async def account_facts(rest: BinanceRestClient) -> AccountFacts:
    """Read what an account may do and what is open in it, in all symbols; costs 90 of the request weight.

    Raises:
        ExchangeError: It could not be read.
    """
    calls = ("AccountConfig", "OpenOrders", "OpenAlgoOrders")
    flags, orders, algos = await asyncio.gather(*(rest.read(f"fapiPrivateGet{call}") for call in calls))
    account = await rest.read("fapiPrivateV3GetAccount")
    try:
        rows = Fields("open", {"orders": orders, "algos": algos})
        return AccountFacts(
            can_trade=Fields("accountConfig", flags).flag("canTrade"),
            assets=_amounts(account, "assets", "asset", "walletBalance"),
            positions=_amounts(account, "positions", "symbol", "positionAmt"),
            orders=(
                *((row.text("symbol"), row.text("clientOrderId")) for row in rows.parts("orders")),
                *((row.text("symbol"), row.text("clientAlgoId")) for row in rows.parts("algos")),
            ),
        )
    except DataError as error:
        raise ExchangeError(f"the account could not be read: {error}") from None


def _amounts(account: Any, rows: str, name: str, amount: str) -> dict[str, Decimal]:
    found = {row.text(name): row.decimal(amount) for row in Fields("account", account).parts(rows)}
    return {name: value for name, value in found.items() if value}


async def key_rights(rest: BinanceRestClient) -> KeyRights:
    """Read the rights of the key, which only the API of the wallet tells.

    Raises:
        ExchangeError: They could not be read.
    """
    body = await rest.read("sapiGetAccountApiRestrictions")
    try:
        row = Fields("apiRestrictions", body)
        is_portfolio = row.has("enablePortfolioMarginTrading") and row.flag("enablePortfolioMarginTrading")
        return KeyRights(
            reads=row.flag("enableReading"),
            trades_futures=row.flag("enableFutures"),
            withdraws=row.flag("enableWithdrawals"),
            portfolio_margin=is_portfolio,
            transfers=_any_told(row, "permitsUniversalTransfer", "enableInternalTransfer"),
            has_address_list=_any_told(row, "ipRestrict"),
        )
    except DataError as error:
        raise ExchangeError(f"the rights of the key could not be read: {error}") from None


def _any_told(row: Fields, *names: str) -> bool | None:
    """Return whether any of the flags is true; None if none is, and one is not told."""
    told = [row.flag(name) for name in names if row.has(name)]
    return True if any(told) else False if len(told) == len(names) else None


def least_lots(instrument: Instrument, price: Decimal, spare: Decimal = Decimal("1.1")) -> int:
    """Return the smallest quantity in lots that an order at a price may have, with `spare` times its least notional."""
    wanted = Decimal(instrument.min_notional) / MONEY * spare / price / instrument.step_size
    return max(instrument.min_quantity, int(wanted.to_integral_value(ROUND_CEILING)))


async def mark_price(rest: BinanceRestClient, symbol: str) -> Decimal:
    """Return the mark price of a symbol.

    Raises:
        ExchangeError: It could not be read.
    """
    body = await rest.read("fapiPublicGetPremiumIndex", {"symbol": symbol})
    try:
        price = Fields("premiumIndex", body).decimal("markPrice")
    except DataError as error:
        raise ExchangeError(str(error)) from None
    if price <= 0:
        raise ExchangeError(f"premiumIndex.markPrice must be positive, was {price}")
    return price


async def check_order(rest: BinanceRestClient, instrument: Instrument, lots: int) -> Response:
    """Let Binance check a market order of a quantity, without placing it."""
    quantity = f"{instrument.quantity(lots):f}"
    params = {"symbol": instrument.symbol, "side": "BUY", "type": "MARKET", "quantity": quantity}
    return await rest.ask("fapiPrivatePostOrderTest", params)
