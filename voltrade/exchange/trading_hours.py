"""The hours of the markets that contracts on stocks, metals and currencies follow.

Such a contract (`TRADIFI_PERPETUAL`) is said to trade around the clock; while the market it follows is shut, few trade
it, and its index hardly moves. Nothing is entered then: exchangeInfo is read as if the symbol's status were
`NO_TRADING`, so that a start is refused by that name, a session tells it, and stops and exits go on. Where its hours
aren't known, the status is `HOURS_UNKNOWN`, with the same effect.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.fields import Fields
from voltrade.model import HOUR_MS

log = logging.getLogger(__name__)

HAS_HOURS = "TRADIFI_PERPETUAL"
"""Contract type whose market has hours."""
SHUT, UNKNOWN = "NO_TRADING", "HOURS_UNKNOWN"
"""Status of a symbol whose market is shut, as Binance names such hours; and of one whose hours aren't told."""
UNTIL = "statusUntil"
"""Field of a symbol in exchangeInfo that Binance doesn't have: the end of `SHUT`, ms UTC."""


class Hours(NamedTuple):
    """Hours of a market, from a time to another, ms UTC."""

    start: int
    end: int
    kind: str
    """REGULAR, PRE_MARKET and others in which it trades, or NO_TRADING."""


class TradingHours:
    """Reads the schedule, which covers a week in each direction, at most once an hour, where a contract has hours.

    Args:
        read: sends a request by ccxt's name, and returns the body.
        clock: returns the time, ms UTC.
    """

    def __init__(self, read: Callable[[str], Awaitable[Any]], clock: Callable[[], int]) -> None:
        self._read = read
        self._clock = clock
        self._markets: dict[str, list[Hours]] = {}
        self._read_at = 0

    async def apply(self, exchange_info: object, symbol: str) -> None:
        """Write the status of a symbol whose market is shut, or whose hours aren't told, into exchangeInfo.

        Raises:
            DataError: exchangeInfo is malformed.
        """
        rows = Fields("exchangeInfo", exchange_info).parts("symbols")
        row = next((row for row in rows if row.text("symbol") == symbol), None)
        if row is None or row.row.get("contractType") != HAS_HOURS or row.text("status") != "TRADING":
            return
        now = await self._now(row.text("underlyingType") if row.has("underlyingType") else "")
        if now is None:
            row.row["status"] = UNKNOWN
        elif now.kind == SHUT:
            row.row |= {"status": SHUT, UNTIL: now.end}

    async def _now(self, market: str) -> Hours | None:
        """Return the hours that a market has now; None where they aren't told."""
        now = self._clock()
        found = self._at(market, now)
        if found is None or not self._read_at <= now < self._read_at + HOUR_MS:
            self._read_at = now
            try:
                self._markets = schedule_of(await self._read("fapiPublicGetTradingSchedule"))
            except (ExchangeError, DataError) as error:  # an earlier schedule counts as long as it reaches
                log.warning("trading hours could not be read: %s", error)
            found = self._at(market, now)
        return found

    def _at(self, market: str, time: int) -> Hours | None:
        return next((each for each in self._markets.get(market, []) if each.start <= time < each.end), None)


def schedule_of(body: object) -> dict[str, list[Hours]]:
    """Read the hours of each market, such as EQUITY or COMMODITY.

    Raises:
        DataError: a field is missing or malformed.
    """
    markets = Fields("tradingSchedule", body).part("marketSchedules")
    return {
        name: [
            Hours(each.integer("startTime"), each.integer("endTime"), each.text("type"))
            for each in markets.part(name).parts("sessions")
        ]
        for name in markets.row
    }
