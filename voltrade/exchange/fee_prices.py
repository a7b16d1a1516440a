"""Prices of the assets in which fees are paid, so that a fee in BNB is booked as what it costs.

One whose price isn't known is booked as 0, and an alert says that it is missing from the costs (`FEE_ASSET`).
"""

from __future__ import annotations

import asyncio
import logging

from voltrade.errors import DataError, ExchangeError
from voltrade.exchange.fields import MONEY_TEXTS, Fields
from voltrade.exchange.ports import Read
from voltrade.model import DAY_MS, MINUTE_MS, MONEY

log = logging.getLogger(__name__)

USUAL = ("BNB",)
"""Assets whose price is read before any fee is paid in them: Binance takes fees in BNB from who has some."""


class FeePrices:
    """The prices of one account's fee assets, in 1e-8 of the quote asset for one whole one.

    The usual ones are read once a day; once a fee is paid in an asset, all of them are read each minute.

    Args:
        read: sends a question.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._prices: dict[str, int] = {}
        self._used: set[str] = set()
        """Assets in which fees were paid."""
        self._read_at = 0
        self._reading: asyncio.Task[None] | None = None

    def value(self, asset: str, amount: int) -> int:
        """Return an amount of an asset (1e-8) as money of the quote asset, rounded half up; 0 without its price."""
        if asset not in self._used:
            self._used.add(asset)
            self._read_at = 0
        return (amount * self._prices.get(asset, 0) + MONEY // 2) // MONEY

    def refresh(self, quote: str, now: int) -> None:
        """Begin to read the prices in a quote asset where they are due at a time in ms; nothing waits for them.

        One that can't be read stays as it was. Request weight 1 for each asset.
        """
        every_ms = MINUTE_MS if self._used else DAY_MS
        is_due = not 0 <= now - self._read_at < every_ms  # it is less than 0 by a clock that was corrected since
        if is_due and (self._reading is None or self._reading.done()):
            self._read_at = now
            self._reading = asyncio.create_task(self._read_prices(quote))

    async def _read_prices(self, quote: str) -> None:
        for asset in sorted({*USUAL, *self._used}):
            try:
                ticker = await self._read("fapiPublicV2GetTickerPrice", {"symbol": f"{asset}{quote}"})
                self._prices[asset] = Fields("ticker", ticker).units("price", MONEY_TEXTS, 1)
            except (DataError, ExchangeError) as error:
                log.info("the price of %s could not be read: %s", asset, error)
