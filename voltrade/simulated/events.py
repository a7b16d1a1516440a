"""The events that the simulated exchange reports about the account; those about orders are in `model`."""

from __future__ import annotations

from dataclasses import dataclass

from voltrade.model import AccountUpdate, AlgoUpdate, OrderUpdate, PositionReport


@dataclass(frozen=True, slots=True)
class PositionRisk:
    """The position in one symbol with its margin. Money, unless said otherwise."""

    symbol: str
    quantity: int
    """Signed lots."""
    entry_price: str
    break_even_price: str
    """Decimal texts, `"0"` when flat."""
    unrealised: int
    leverage: int
    margin_type: str
    mark_price: int
    notional: int
    """Signed value at the mark price."""
    isolated_wallet: int
    isolated_margin: int
    """The isolated wallet plus the unrealised profit; 0 for a cross position."""
    initial_margin: int
    """Of position and orders."""
    position_margin: int
    order_margin: int
    maintenance_margin: int
    bid_notional: int
    """Of open buy orders, without reduce-only orders."""
    ask_notional: int
    largest_notional: int
    """The most that the brackets allow at this leverage."""
    realised: int
    """Profit of all fills before fees."""
    updated: int
    """Time of the last change, ms; 0 before the first."""

    @property
    def report(self) -> PositionReport:
        """The part that the core uses."""
        position = (self.symbol, self.quantity, self.entry_price, self.unrealised)
        return PositionReport(*position, self.leverage, self.margin_type)


@dataclass(frozen=True, slots=True)
class AssetChange:
    """The wallet of an asset other than the quote asset has changed; all 1e-8 of the asset."""

    asset: str
    wallet: int
    change: int
    """Without fees."""


@dataclass(frozen=True, slots=True)
class AccountChange:
    """The wallet or positions have changed (ACCOUNT_UPDATE). Money."""

    time: int
    reason: str
    """ORDER, FUNDING_FEE, DEPOSIT, WITHDRAW, MARGIN_TRANSFER, MARGIN_TYPE_CHANGE, INSURANCE_CLEAR or a script's."""
    wallet: int
    cross_wallet: int
    balance_change: int
    """Without profit and fees."""
    positions: tuple[PositionRisk, ...] = ()
    symbol: str = ""
    """Whose funding it is."""
    quote_changed: bool = True
    """Whether `wallet` or `cross_wallet` is another than at the last change; a client is told only what changed."""
    others: tuple[AssetChange, ...] = ()

    def update(self) -> AccountUpdate:
        """Return the part that the core uses."""
        reports = tuple(risk.report for risk in self.positions)
        symbol = self.symbol or (reports[0].symbol if len(reports) == 1 else "")
        return AccountUpdate(self.time, self.reason, self.wallet, self.balance_change, symbol, reports)


@dataclass(frozen=True, slots=True)
class MarginCall:
    """Little margin is left, of one isolated position or of all cross positions (MARGIN_CALL)."""

    time: int
    cross_wallet: int
    positions: tuple[PositionRisk, ...]


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """The leverage of a symbol was changed (ACCOUNT_CONFIG_UPDATE)."""

    time: int
    symbol: str
    leverage: int


@dataclass(frozen=True, slots=True)
class AssetsModeChange:
    """The account was switched to multi-assets mode or back (ACCOUNT_CONFIG_UPDATE)."""

    time: int
    multi: bool


UserEvent = OrderUpdate | AlgoUpdate | AccountChange | MarginCall | SettingsChange | AssetsModeChange


@dataclass(frozen=True, slots=True)
class Income:
    """One change of the wallet (GET income). The wallet is its start value plus all of them in the quote asset."""

    time: int
    symbol: str
    kind: str
    """REALIZED_PNL, COMMISSION, FUNDING_FEE, TRANSFER, INSURANCE_CLEAR or a script's."""
    amount: int
    trade_id: int = 0
    asset: str = "USDT"
