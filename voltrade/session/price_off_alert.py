"""Finds trades whose price is far from the market, for the alert PRICE_OFF."""

from __future__ import annotations

from voltrade.model import MINUTE_MS, MONEY, Instrument, MarkPrice

FAR_PERCENT = 10
"""A trade further than this from the mark price is reported; without a recent mark price, from the trade before it."""
MARK_MS = 10_000
"""How long a mark price counts as recent."""
AGAIN_MS = MINUTE_MS
"""At most one trade within this time is reported, whatever its price."""


class PriceOffAlert:
    """Compares each trade of a symbol with the mark price.

    It only reports: what an order may cost is bounded by the gates, such as `OFF_MARK`, and by the entry's limit.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._tick_e8 = int(instrument.tick_size * MONEY)
        self._mark_time = self._told_at = 0
        self._mark = self._last = 0
        """The mark price in ticks, rounded, and the price of the last trade; 0 before the first."""

    def note_mark(self, mark: MarkPrice) -> None:
        """Note a mark price; one that is the last trade's price says nothing about trades."""
        if mark.is_last_price:
            return
        self._mark, self._mark_time = mark.price_e8 // self._tick_e8, mark.time

    def check(self, price: int, time: int) -> str:
        """Return what is wrong with the price of a trade (ticks, at a time in ms); empty if nothing is to be reported.

        A price that stays is reported again each minute, while it is far from the mark price.
        """
        usual = self._mark if time - self._mark_time <= MARK_MS else self._last
        self._last = price
        if not usual or abs(price - usual) * 100 <= usual * FAR_PERCENT or time - self._told_at < AGAIN_MS:
            return ""
        self._told_at = time
        traded, expected = (f"{self._instrument.price(ticks):f}" for ticks in (price, usual))
        than = "the mark price" if usual == self._mark else "the trade before"
        return f"a trade at {traded} is more than {FAR_PERCENT} % from {than}, {expected}"
