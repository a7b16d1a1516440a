"""The account of the simulated exchange: its wallet, positions and margin, calculated from the state of all symbols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from voltrade.account import Account
from voltrade.model import Side
from voltrade.simulated.events import PositionRisk
from voltrade.simulated.formatting import plain
from voltrade.simulated.margin import largest_notional, liquidation_price
from voltrade.simulated.market import QUOTE_ASSET, Market


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account starts with, and what trading costs."""

    wallet: int
    """Money."""
    taker_fee_e8: int
    maker_fee_e8: int
    latency_ms: int
    """From a request to the matching engine."""
    slippage_bps: float
    """Added to the price of the trades that fill a taker."""
    leverage: int = 5
    margin_type: str = "isolated"
    """Of every symbol until changed."""
    fill_horizon_ms: int = 10_000
    """How far ahead trades are looked for that price what takes liquidity."""

    @property
    def slippage_e8(self) -> int:
        return round(self.slippage_bps * 10_000)


@dataclass(frozen=True, slots=True)
class Restriction:
    """An account or symbol that may place no orders, or only some."""

    code: int
    """Of the refusal."""
    spares_reducing: bool
    """Whether reduce-only orders are accepted."""


@dataclass(frozen=True, slots=True)
class Balances:
    """The account in numbers, all money."""

    wallet: int
    cross_wallet: int
    unrealised: int
    cross_unrealised: int
    equity: int
    """Wallet plus unrealised profit."""
    initial_margin: int
    """Of positions and orders."""
    position_margin: int
    order_margin: int
    maintenance_margin: int
    available: int
    """What new orders may use for margin, at least 0."""


_MARKET_FIELDS = (
    *("symbol", "break_even_price", "unrealised", "leverage", "margin_type", "isolated_wallet", "position_margin"),
    *("order_margin", "realised", "updated"),
)
"""Fields of a `PositionRisk` that a `Market` has under the same names."""


class MarginAccount:
    """The account in one-way mode. Nothing here changes it.

    Attributes:
        terms: fees, latency and slippage.
        books: wallet, profit, fees and funding.
        markets: the symbols, by name.
        hedge_mode: whether a script has switched the account to hedge mode, in which every order is refused.
        multi_assets: whether a script has switched the account to multi-assets mode, which is only told.
        assets: what the wallet has besides the quote asset, 1e-8 by asset.
        fee_asset, fee_asset_price: what fees are paid in while the wallet has it, and its price in money; else empty.
        restrictions: by symbol, with "" for all, which orders are refused.
        updated: time of the last change, ms.
    """

    def __init__(self, terms: Terms, clock: int, markets: dict[str, Market]) -> None:
        self.terms = terms
        self.books = Account(terms.wallet)
        self.markets = markets
        self.hedge_mode = self.multi_assets = False
        self.assets: dict[str, int] = {}
        self.fee_asset, self.fee_asset_price = "", 0
        self.restrictions: dict[str, Restriction] = {}
        self.updated = clock

    @property
    def cross_wallet(self) -> int:
        """The wallet without the margin of isolated positions."""
        return self.books.wallet - sum(market.isolated_wallet for market in self.markets.values())

    def cross_markets(self) -> list[Market]:
        """Return the symbols with a cross position, which share the cross wallet."""
        return [market for market in self.markets.values() if market.position.quantity and not market.is_isolated]

    def free_margin(self) -> int:
        """Return what new orders may use for margin; negative if the account has too little margin.

        The profit of an isolated position is not available to others, and its margin is not in the cross wallet.
        """
        free = self.cross_wallet
        for market in self.markets.values():
            if market.is_isolated:
                free -= market.order_margin
            else:
                free += market.unrealised - market.margin_needed()
        return free

    def free_of(self, asset: str) -> int:
        """Return how much of an asset may leave the wallet, 1e-8."""
        return max(0, self.free_margin()) if asset == QUOTE_ASSET else self.assets.get(asset, 0)

    def sharing(self, market: Market) -> list[Market]:
        """Return the symbols liquidated together with a symbol: itself if it is isolated, else all cross positions."""
        return [market] if market.is_isolated else self.cross_markets()

    def has_used(self, market: Market, percent: int) -> bool:
        """Whether maintenance margin is at least this percentage of the margin balance; at 100 it is liquidated."""
        if not market.position.quantity:
            return False
        markets = self.sharing(market)
        wallet = market.isolated_wallet if market.is_isolated else self.cross_wallet
        balance = wallet + sum(each.unrealised for each in markets)
        return 100 * sum(each.maintenance for each in markets) >= percent * balance

    def liquidation_price(self, symbol: str) -> str:
        """Return the mark price at which a position is liquidated, or `"0"`."""
        market = self.markets[symbol]
        if not market.position.quantity:
            return "0"
        balance = market.isolated_wallet  # margin without its own profit: WB - TMM + UPNL of Binance's formula
        if not market.is_isolated:
            others = [other for other in self.cross_markets() if other is not market]
            balance = self.cross_wallet + sum(other.unrealised - other.maintenance for other in others)
        quantity = market.instrument.quantity(market.position.quantity)
        return plain(liquidation_price(market.rules.brackets, quantity, market.position.cost, balance).normalize())

    def position_risk(self, symbol: str) -> PositionRisk:
        """Return the position in a symbol with its margin."""
        market = self.markets[symbol]
        same: dict[str, Any] = {name: getattr(market, name) for name in _MARKET_FIELDS}
        isolated_wallet = same["isolated_wallet"]
        return PositionRisk(
            **same,
            quantity=market.position.quantity,
            entry_price=market.position.entry_price,
            mark_price=market.value_price_e8,
            notional=market.value,
            isolated_margin=isolated_wallet + same["unrealised"] if isolated_wallet else 0,
            initial_margin=market.margin_needed(),
            maintenance_margin=market.maintenance,
            bid_notional=market.open_notional(Side.BUY),
            ask_notional=market.open_notional(Side.SELL),
            largest_notional=largest_notional(market.rules.brackets, market.leverage),
        )

    def balances(self) -> Balances:
        """Return wallet, margins and available balance, at mark prices, or at the last trade before the first mark."""
        markets = self.markets.values()
        unrealised = sum(market.unrealised for market in markets)
        return Balances(
            wallet=self.books.wallet,
            cross_wallet=self.cross_wallet,
            unrealised=unrealised,
            cross_unrealised=sum(market.unrealised for market in self.cross_markets()),
            equity=self.books.wallet + unrealised,
            initial_margin=sum(market.margin_needed() for market in markets),
            position_margin=sum(market.position_margin for market in markets),
            order_margin=sum(market.order_margin for market in markets),
            maintenance_margin=sum(market.maintenance for market in markets),
            available=max(0, self.free_margin()),
        )
