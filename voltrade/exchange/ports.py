"""The ports to an exchange, and the concrete rooms behind them.

`binance` is the edge to Binance through ccxt; `simulated` is a matching engine and account in process; `venue` serves
the simulated exchange over Binance's wire. What stands here is what `live` and `backtest` may know of any of them.
"""

from __future__ import annotations

from typing import Literal, Protocol

from voltrade.model import CancelOrder, Instrument, LookupOrder, OrderIntent, Reply, Snapshot


class OrderGateway(Protocol):
    """Carries the core's commands to an exchange. None of the calls raises for what an exchange may answer."""

    async def instrument(self, symbol: str) -> Instrument:
        """Return the symbol's filters as the exchange states them now."""

    async def filters(self, symbol: str) -> Instrument:
        """Return the symbol's filters as they are now; what is sent and read goes by those before.

        Raises:
            VenueError: they could not be read.
        """

    async def snapshot(self, symbol: str, since_trade_id: int) -> Snapshot:
        """Return the account: wallet, position, open orders of both kinds, and our trades after an id.

        Raises:
            VenueError: the account could not be read whole.
        """

    async def submit(self, intent: OrderIntent) -> Reply:
        """Send an order once and say what is known of it."""

    async def cancel(self, command: CancelOrder) -> Reply:
        """Cancel an order by its client id."""

    async def lookup(self, command: LookupOrder) -> Reply:
        """Ask for an order by its client id; REFUSED with -2013 where the exchange has none."""

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        """Set one-way mode, the margin type (`isolated` or `cross`) and the leverage. Only when asked to, and flat.

        Raises:
            VenueError: the exchange refused one of them.
        """


class Feed(Protocol):
    """Keeps the market and user streams up and hands their events on, in order, through the callbacks it was given."""

    user_frames: int
    """User data frames received on the current private connection."""

    async def start(self) -> None:
        """Open both streams; return once they are up.

        Raises:
            VenueError: they could not be opened.
        """

    async def stop(self) -> None:
        """Close both streams."""

    async def maintain(self, now: int) -> None:
        """Do what is due at `now` (ms, the clock's): renew the listen key, notice silence."""

    def reconnect(self, stream: Literal["market", "user"], reason: str) -> None:
        """Cut a stream and let it be dialled again."""
