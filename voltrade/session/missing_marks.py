"""Mark prices that stay away while trades come: a position is valued at the last trade's price until they are back.

It is the rule of a tape with holes too, see `simulated.mark_columns`: a mark price counts for less than MARK_LASTS_MS.
"""

from __future__ import annotations

from collections.abc import Callable

from voltrade.model import MINUTE_MS, MONEY, Event, Instrument, MarkPrice, StreamStatus, Trouble

MARK_LASTS_MS = MINUTE_MS
"""A mark price of this age counts no more, on a tape and in a session; the last trade's price counts then."""
INTERVALS, LEAST_MS = 10, 10_000
"""A session takes mark prices for missing sooner: after so many of their usual intervals, but not before LEAST_MS. So
it waits for 10 s at Binance, which tells one each second."""
MADE_EVERY_MS = 1_000
"""Least time from a mark price that is made to the next."""
DIAL_AGAIN_MS, LONGEST_MS = 20_000, 600_000
"""Pause after the first connection that is opened because mark prices are missing; it doubles up to the longest."""


class MissingMarks:
    """Stands between a market stream and a session, and makes mark prices of trades while the exchange's are missing.

    They are missing once a trade is so much later than the last mark price, or than the connection if that is newer:
    where trades are silent too, nothing is made. Each made one says so (`is_last_price`), and has the funding that was
    told last, until it is due. The session is told once that they are missing, and once that they are back.

    Args:
        instrument: the symbol that is traded.
        on_agg_trade: takes each trade, before the mark price that is made of it.
        on_event: takes all other events, and what is made here.
        are_missing: whether they are known to be missing, since an earlier engine of the session has told so.
    """

    def __init__(
        self,
        instrument: Instrument,
        on_agg_trade: Callable[[int, int, int, int, bool], None],
        on_event: Callable[[Event], None],
        are_missing: bool = False,
    ) -> None:
        self._on_agg_trade, self._on_event = on_agg_trade, on_event
        self._tick_e8 = int(instrument.tick_size * MONEY)
        self._last = MarkPrice(instrument.symbol, 0, 0)
        """The exchange's last mark price."""
        self._since = self._made_at = self._dial_at = 0
        """Since when the connection brings market data, when a mark price was made last, when to dial next; ms."""
        self._usual_ms, self._pause_ms = MARK_LASTS_MS, DIAL_AGAIN_MS
        self._is_missing = are_missing

    def on_event(self, event: Event) -> None:
        """Take an event of the streams."""
        if isinstance(event, MarkPrice):
            self._note(event)
        elif isinstance(event, StreamStatus) and event.stream == "market" and event.up:
            self._since = event.time
        self._on_event(event)

    def on_agg_trade(self, trade_id: int, price: int, quantity: int, time: int, buyer_is_maker: bool) -> None:
        """Take a trade; make a mark price of it if the exchange's are missing."""
        self._on_agg_trade(trade_id, price, quantity, time, buyer_is_maker)
        if self._are_missing(time) and time - self._made_at >= MADE_EVERY_MS:
            self._made_at, last = time, self._last
            funding = (last.funding_rate_e8, last.next_funding_time) if last.next_funding_time > time else (0, 0)
            self._on_event(MarkPrice(last.symbol, time, price * self._tick_e8, *funding, is_last_price=True))

    def _note(self, mark: MarkPrice) -> None:
        """Note a mark price of the exchange, and the usual interval: the last one, or half of the usual one before."""
        if self._is_missing:
            self._on_event(Trouble(mark.time, "MARK_PRICE", "mark prices come again"))
        if self._last.time:
            interval = mark.time - self._last.time
            self._usual_ms = min(max(interval, self._usual_ms // 2), MARK_LASTS_MS)
        self._last, self._is_missing = mark, False
        self._since = min(self._since, mark.time + LEAST_MS)  # it is our clock's, which may be far ahead

    def _are_missing(self, time: int) -> bool:
        """Return whether mark prices are missing at a trade of this time; tell so when they begin to be."""
        self._since = self._since or time
        wait_ms = min(max(INTERVALS * self._usual_ms, LEAST_MS), MARK_LASTS_MS)
        if not self._is_missing and time - max(self._since, self._last.time) >= wait_ms:
            self._is_missing = True
            valued = "a position is valued at the last trade's price until they are back"
            self._on_event(Trouble(time, "MARK_PRICE", f"none for {wait_ms // 1000} s while trades come: {valued}"))
        return self._is_missing

    def is_dial_due(self, now: int) -> bool:
        """Return whether to open another connection because mark prices are missing, at ever longer intervals."""
        if not self._is_missing:
            self._dial_at, self._pause_ms = 0, DIAL_AGAIN_MS
            return False
        if now < self._dial_at:
            return False
        self._dial_at, self._pause_ms = now + self._pause_ms, min(2 * self._pause_ms, LONGEST_MS)
        return True
