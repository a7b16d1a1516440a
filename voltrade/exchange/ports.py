"""The interfaces to an exchange that trading uses, whichever exchange it is."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol

from voltrade.model import AccountSummary, CancelOrder, Income, Instrument, LookupOrder, OrderIntent, Reply, Snapshot


class Read(Protocol):
    """Returns the decoded body of one raw request; raises ExchangeError."""

    def __call__(self, call: str, params: Mapping[str, Any] | None = None) -> Coroutine[Any, Any, Any]: ...


class OrderGateway(Protocol):
    """Sends the core's commands to an exchange. A refusal is a `Reply`, not an exception."""

    @property
    def blocked_until(self) -> int:
        """Until when no request is sent, since the exchange blocks them, ms of the clock."""

    async def instrument(self, symbol: str) -> Instrument:
        """Return the current filters of a symbol."""

    async def filters(self, symbol: str) -> Instrument:
        """Return a symbol's current filters and status, but keep using the earlier ones for requests and responses.

        Raises:
            ExchangeError: they could not be read.
        """

    async def summary(self, symbol: str, settings: bool = True) -> AccountSummary:
        """Return wallet, position, settings and the ids of the open orders, for the least request weight.

        Args:
            symbol: whose position and orders are read.
            settings: whether to read leverage, margin type and modes too; without them they are those read last.

        Raises:
            ExchangeError: a part of the account could not be read.
        """

    async def snapshot(self, symbol: str, since_trade_id: int, settings: bool = True) -> Snapshot:
        """Return the account: wallet, position, open orders of both kinds, and our trades after an id.

        Args:
            symbol: whose position, orders and trades are read.
            since_trade_id: trades up to this one are left out.
            settings: as for `summary`.

        Raises:
            ExchangeError: a part of the account could not be read.
        """

    async def income(self, symbol: str, since: int) -> tuple[Income, ...]:
        """Return the changes of the wallet of a symbol's quote asset since a time, ms, oldest first.

        Raises:
            ExchangeError: they could not be read.
        """

    async def order_names(self, symbol: str, order_ids: Sequence[int]) -> dict[int, str]:
        """Return the client order ids of ordinary orders by the exchange's ids, of those that could be read soon."""

    async def submit(self, intent: OrderIntent) -> Reply:
        """Send an order once."""

    async def cancel(self, command: CancelOrder) -> Reply:
        """Cancel an order by its client id."""

    async def lookup(self, command: LookupOrder) -> Reply:
        """Query an order by its client id; REFUSED with -2013 if the exchange does not have it."""

    async def apply_account_settings(self, symbol: str, leverage: int, margin_type: str) -> None:
        """Set one-way mode, the margin type (`isolated` or `cross`) and the leverage; the account must be flat.

        Raises:
            ExchangeError: the exchange refused one of them.
        """


class Feed(Protocol):
    """Keeps the market and user streams connected and passes their events to callbacks, in order."""

    user_frames: int
    """User data frames received on the current private connection."""

    frames: int
    """Frames of any kind received since the start."""

    @property
    def inexact(self) -> int:
        """How many prices and quantities were no multiples of tick or step, and were read to the nearest."""

    async def start(self) -> None:
        """Open both streams; return once they are up.

        Raises:
            ExchangeError: they could not be opened.
        """

    async def stop(self) -> None:
        """Close both streams."""

    async def maintain(self, now: int) -> None:
        """Renew the listen key and check for silent streams; `now` is ms of the clock."""

    def drop_connection(self, stream: Literal["market", "user"], reason: str) -> None:
        """Close the connection of a stream; the stream is connected again by itself."""
